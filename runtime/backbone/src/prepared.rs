//! One sample, ready for the first segment.

use std::sync::Arc;

use crate::resample::{mean_and_deviation, standardize};
use crate::spec::Modality;

/// Levels leave this range in neither direction.
const MOST_LEVEL: f64 = 8.0;

/// One sample, ready for the first segment: channels of tokens, and what standardizing took away.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub(crate) modality: Modality,
    pub(crate) channels: Vec<Channel>,
    pub(crate) levels: Vec<f32>,
    pub(crate) treatment: Treatment,
    pub(crate) time: Option<f64>,
    pub(crate) source: [u8; 32],
}

/// One channel: the tokens of a window's channel, of a plane of a picture, or of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    pub(crate) patches: Vec<f32>,
    pub(crate) token_ids: Arc<[i64]>,
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
    pub(crate) tail: Vec<f64>,
}

/// What was done to a sample beyond the usual, to be counted by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Missing numbers that were bridged.
    pub filled: usize,
    /// Numbers at or beyond the declared range: the sensor was in saturation. They are kept as they are.
    pub clipped: usize,
    /// Channels, or a picture's luma, without any variation: a dead sensor or a covered lens.
    pub constant: usize,
    /// Whether the window came at another rate than declared and was brought to it.
    pub rate_changed: bool,
    /// Whether a text had more tokens than the backbone reads and lost its end.
    pub cut: bool,
}

impl Prepared {
    /// The modality of the sample.
    pub fn modality(&self) -> Modality {
        self.modality
    }

    /// The channels, in order; a colour picture's are luma, B − Y and R − Y.
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Two numbers per channel, channel by channel, where the task asks for levels, else none: with mean and
    /// population deviation of the resampled channel, 4 (mean − (low + high) / 2) / (high − low) and
    /// (log2(deviation / (high − low) + 2⁻¹²) + 4) / 2, both within ±8. They are appended behind the features of
    /// every exit.
    pub fn levels(&self) -> &[f32] {
        &self.levels
    }

    /// When a window's last number was taken, in seconds since 1970 (UTC), where its JSON says so under `time`.
    pub fn time(&self) -> Option<f64> {
        self.time
    }

    /// What was done to the sample beyond the usual.
    pub fn treatment(&self) -> Treatment {
        self.treatment
    }

    /// blake3 of the payload this came from: with the task's input declaration and the bundle's fingerprint
    /// the key of a feature cache. It identifies raw data, so it stays on the gateway.
    pub fn source(&self) -> [u8; 32] {
        self.source
    }

    /// Bytes this holds in memory.
    pub fn bytes(&self) -> usize {
        let channel = |channel: &Channel| {
            4 * channel.patches.len()
                + 8 * (channel.token_ids.len() + channel.tail.len())
                + size_of::<Channel>()
        };
        self.channels.iter().map(channel).sum::<usize>() + 4 * self.levels.len() + size_of::<Self>()
    }
}

impl Channel {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// `tokens() × 16` numbers, token after token; none for text.
    pub fn patches(&self) -> &[f32] {
        &self.patches
    }

    /// Row of the embedding table of every token.
    pub fn token_ids(&self) -> &[i64] {
        &self.token_ids
    }

    /// Mean of the channel as resampled, before standardizing, in the sample's units (0 to 1 for pictures).
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Its population standard deviation.
    pub fn deviation(&self) -> f64 {
        self.deviation
    }

    /// The last numbers of a window's channel as sent, gaps bridged and at the declared rate, oldest first: as many
    /// as [`crate::Preparer::keep_tail`] asked for, or as there are.
    pub fn tail(&self) -> &[f64] {
        &self.tail
    }

    /// Standardizes `points`, at least one, which are in the order of the tokens already.
    pub(crate) fn of_points(points: Vec<f64>, token_ids: Arc<[i64]>) -> Self {
        Self::of_chroma(points, token_ids, 0.0)
    }

    /// The same with a divisor of at least `least`: the faint colour noise of a grey picture must not be blown up to
    /// the strength of its luma.
    pub(crate) fn of_chroma(mut points: Vec<f64>, token_ids: Arc<[i64]>, least: f64) -> Self {
        let (mean, deviation) = mean_and_deviation(&points);
        standardize(&mut points, mean, deviation.max(least));
        let patches = points.iter().map(|&v| v as f32).collect();
        Self { patches, token_ids, mean, deviation, tail: Vec::new() }
    }

    /// Level and amplitude on the range `low..high`, see [`Prepared::levels`].
    pub(crate) fn level(&self, [low, high]: [f64; 2]) -> [f32; 2] {
        // Halves first: the sum of two finite numbers may not be one.
        let (middle, width) = (low / 2.0 + high / 2.0, high - low);
        let level = 4.0 * (self.mean - middle) / width;
        let amplitude = 0.5 * ((self.deviation / width + (-12f64).exp2()).log2() + 4.0);
        [level, amplitude].map(|v| v.clamp(-MOST_LEVEL, MOST_LEVEL) as f32)
    }
}

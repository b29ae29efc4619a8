//! What a task says about its samples.

use serde::{Deserialize, Serialize};

use crate::refusal::InputError;

/// Most channels of a window.
pub const MAX_CHANNELS: usize = 64;
/// Most numbers of a window, over all its channels.
pub const MAX_NUMBERS: usize = 1 << 20;
/// Longest name of a unit, in bytes.
const MAX_UNITS: usize = 32;

/// What a backbone can be fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Channels of numbers over time.
    Window,
    /// A grey or colour picture.
    Picture,
    /// UTF-8 text.
    Text,
}

impl Modality {
    /// The word used in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Picture => "picture",
            Self::Text => "text",
        }
    }
}

/// The input a task declares; its JSON and TOML form is that of the task manifest, for example
/// `{"modality":"window","channels":6,"length":100,"rate":10,"range":[-20,20],"levels":true}`,
/// `{"modality":"picture","side":32,"colour":true}` or `{"modality":"text"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "modality", rename_all = "snake_case", deny_unknown_fields)]
pub enum InputSpec {
    /// A window of a multivariate series.
    Window(WindowSpec),
    /// One PNG or JPEG picture.
    Picture(PictureSpec),
    /// UTF-8 text.
    Text {},
}

/// A declared window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSpec {
    /// Channels of every sample, 1 to [`MAX_CHANNELS`].
    pub channels: usize,
    /// Numbers of every channel, at the declared rate, where the task demands an exact length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// Points every channel is resampled to: one of the bundle's lengths; its default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<usize>,
    /// Numbers per second and channel. A sample that says another rate is brought to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Unit of the numbers; a sample that names another is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// Measuring range: the scale of the levels, and where a sensor is in saturation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// Whether level and amplitude, which standardizing removes, are given as two numbers per channel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub levels: bool,
}

/// A measuring range `[low, high]`, for all channels or for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Range {
    /// One for all channels.
    All([f64; 2]),
    /// One per channel.
    Each(Vec<[f64; 2]>),
}

/// A declared picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureSpec {
    /// Rows and columns it is resampled to: one of the bundle's sides; its default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// Whether colour is encoded: luma and two half-sized chroma planes instead of grey alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub colour: bool,
    /// As of a window, on the range 0 to 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub levels: bool,
}

impl Range {
    /// Low and high of each of `channels` channels; `None` when the count differs or a pair is no finite range.
    pub(crate) fn of(&self, channels: usize) -> Option<Vec<[f64; 2]>> {
        let pairs = match self {
            Self::All(pair) => vec![*pair; channels],
            Self::Each(pairs) => pairs.clone(),
        };
        let good = |[low, high]: &[f64; 2]| low < high && low.is_finite() && (high - low).is_finite();
        (pairs.len() == channels && pairs.iter().all(good)).then_some(pairs)
    }
}

impl InputSpec {
    /// A window of `channels` channels and nothing else said.
    pub fn window(channels: usize) -> Self {
        Self::Window(WindowSpec { channels, ..WindowSpec::default() })
    }

    /// A grey picture at the bundle's default side.
    pub fn picture() -> Self {
        Self::Picture(PictureSpec::default())
    }

    /// The modality of this input.
    pub fn modality(&self) -> Modality {
        match self {
            Self::Window(_) => Modality::Window,
            Self::Picture(_) => Modality::Picture,
            Self::Text {} => Modality::Text,
        }
    }

    /// Channels of every sample, encoded one by one: a grey picture and a text are one, a colour picture is three.
    pub fn channels(&self) -> usize {
        match self {
            Self::Window(window) => window.channels,
            Self::Picture(picture) if picture.colour => 3,
            Self::Picture(_) | Self::Text {} => 1,
        }
    }

    /// Whether two level numbers per channel are asked for.
    pub fn levels(&self) -> bool {
        match self {
            Self::Window(window) => window.levels,
            Self::Picture(picture) => picture.levels,
            Self::Text {} => false,
        }
    }

    /// Refuses a declaration no payload could satisfy ([`InputError::Spec`]).
    pub fn check(&self) -> Result<(), InputError> {
        let Self::Window(window) = self else { return Ok(()) };
        window.impossible().map_or(Ok(()), |what| Err(InputError::Spec { what }))
    }
}

impl WindowSpec {
    fn impossible(&self) -> Option<String> {
        let Self { channels, length, .. } = *self;
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Some(format!("channels is {channels}, allowed are 1 to {MAX_CHANNELS}"));
        }
        if let Some(length) = length.filter(|&length| length == 0 || length > MAX_NUMBERS / channels) {
            return Some(format!(
                "{channels} channels of {length} numbers; allowed are 1 to {MAX_NUMBERS} numbers together"
            ));
        }
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Some(format!("rate is {rate}, but must be above 0"));
        }
        if let Some(units) = self.units.as_ref().filter(|units| !(1..=MAX_UNITS).contains(&units.len())) {
            return Some(format!("units is {units:?}, but must have 1 to {MAX_UNITS} bytes"));
        }
        match &self.range {
            None if self.levels => Some("levels needs range = [low, high]".into()),
            Some(range) if range.of(channels).is_none() => Some(format!(
                "range must be [low, high] with low < high, or one such pair for each of the {channels} channels"
            )),
            _ => None,
        }
    }
}

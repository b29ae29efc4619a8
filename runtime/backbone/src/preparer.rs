//! From a payload to a prepared sample, by a task's declaration and a bundle's contract.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::inputs::PictureInput;
use crate::picture;
use crate::prepared::{Channel, Prepared, Treatment};
use crate::refusal::InputError;
use crate::resample::resample;
use crate::spec::{InputSpec, Modality, PictureSpec, WindowSpec};
use crate::text::Tokenizer;
use crate::window::{self, Window};

/// Largest payload [`Preparer::prepare`] looks at, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;
/// Most numbers of a channel's tail.
pub const MAX_TAIL: usize = 4096;

/// Below this deviation, on a scale of 0 to 1, a picture is of one colour: what is left is rounding.
const LEAST_VARIATION: f64 = 1e-9;

/// Prepares the samples of one task for one bundle.
#[derive(Clone, Debug)]
pub struct Preparer(Plan);

#[derive(Clone, Debug)]
enum Plan {
    Window { spec: WindowSpec, ranges: Vec<[f64; 2]>, token_ids: Arc<[i64]>, points: usize, tail: usize },
    Picture { side: usize, levels: bool, luma: Arc<[i64]>, chroma: Option<Arc<[i64]>> },
    Text { tokenizer: Arc<Tokenizer>, max_tokens: usize },
}

impl Preparer {
    /// Holds `spec` against what `bundle` takes.
    pub fn new(bundle: &Bundle, spec: &InputSpec) -> Result<Self, InputError> {
        spec.check()?;
        let cannot = |what: String| InputError::Backbone { backbone: bundle.name().into(), what };
        let inputs = bundle.inputs();
        let takes_no = || cannot(format!("it takes no {}", spec.modality().as_str()));
        Ok(Self(match spec {
            InputSpec::Window(spec) => {
                let window = inputs.window.as_ref().ok_or_else(takes_no)?;
                let points = spec.points.unwrap_or(window.default);
                if !window.lengths.contains(&points) {
                    return Err(cannot(format!("points is {points}, it takes {:?}", window.lengths)));
                }
                let ranges =
                    spec.range.as_ref().and_then(|range| range.of(spec.channels)).unwrap_or_default();
                let token_ids = window.token_ids(points).into();
                Plan::Window { spec: spec.clone(), ranges, token_ids, points, tail: 0 }
            }
            InputSpec::Picture(spec) => {
                let picture = inputs.picture.as_ref().ok_or_else(takes_no)?;
                Self::picture(picture, spec).map_err(cannot)?
            }
            InputSpec::Text {} => {
                let text = inputs.text.as_ref().ok_or_else(takes_no)?;
                let tokenizer = bundle.tokenizer().ok_or_else(|| {
                    cannot("this program was built without text; build it with the feature \"text\"".into())
                })?;
                Plan::Text { tokenizer, max_tokens: text.max_tokens }
            }
        }))
    }

    fn picture(picture: &PictureInput, spec: &PictureSpec) -> Result<Plan, String> {
        let side = spec.side.unwrap_or(picture.default);
        if !picture.sides.contains(&side) {
            return Err(format!("side is {side}, it takes {:?}", picture.sides));
        }
        let chroma = spec.colour.then(|| picture.token_ids(side / 2).into());
        Ok(Plan::Picture { side, levels: spec.levels, luma: picture.token_ids(side).into(), chroma })
    }

    /// Keeps the last `count` numbers of every channel of a window, at most [`MAX_TAIL`], beside the tokens
    /// ([`Channel::tail`]).
    #[must_use]
    pub fn keep_tail(mut self, count: usize) -> Self {
        if let Plan::Window { tail, .. } = &mut self.0 {
            *tail = count.min(MAX_TAIL);
        }
        self
    }

    /// Channels of every sample.
    pub fn channels(&self) -> usize {
        match &self.0 {
            Plan::Window { spec, .. } => spec.channels,
            Plan::Picture { chroma: Some(_), .. } => 3,
            Plan::Picture { .. } | Plan::Text { .. } => 1,
        }
    }

    /// Numbers of [`Prepared::levels`] of every sample: two per channel or none.
    pub fn levels(&self) -> usize {
        match &self.0 {
            Plan::Window { spec: WindowSpec { levels: true, .. }, .. }
            | Plan::Picture { levels: true, .. } => 2 * self.channels(),
            _ => 0,
        }
    }

    /// Reads a payload as the declared input and pre-processes it; `docs/input.md` says how.
    pub fn prepare(&self, payload: &[u8]) -> Result<Prepared, InputError> {
        if payload.is_empty() {
            return Err(InputError::Empty);
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(InputError::TooLarge { bytes: payload.len() });
        }
        let mut prepared = match &self.0 {
            Plan::Window { spec, .. } => self.window(window::read(spec.channels, payload)?)?,
            Plan::Picture { side, levels, luma, chroma } => picture_sample(
                picture::read(payload, *side, chroma.is_some())?,
                *levels,
                luma,
                chroma.as_ref(),
            ),
            Plan::Text { tokenizer, max_tokens } => text_sample(tokenizer, *max_tokens, payload)?,
        };
        prepared.source = *blake3::hash(payload).as_bytes();
        Ok(prepared)
    }

    /// Pre-processes a window that is in memory already: channels of numbers, NaN for a missing one, at the declared
    /// rate. [`Prepared::source`] is the hash of the numbers as little-endian f64.
    pub fn prepare_numbers(&self, channels: Vec<Vec<f64>>) -> Result<Prepared, InputError> {
        let mut hasher = blake3::Hasher::new();
        for number in channels.iter().flatten() {
            hasher.update(&number.to_le_bytes());
        }
        let mut prepared = self.window(Window { channels, ..Window::default() })?;
        prepared.source = *hasher.finalize().as_bytes();
        Ok(prepared)
    }

    fn window(&self, mut window: Window) -> Result<Prepared, InputError> {
        let Plan::Window { spec, ranges, token_ids, points, tail } = &self.0 else {
            return Err(InputError::WrongModality { expected: "no window", got: "a window" });
        };
        let repairs = window::treat(spec, ranges, &mut window)?;
        let time = window.time;
        let mut treatment = Treatment {
            filled: repairs.filled,
            clipped: repairs.clipped,
            rate_changed: repairs.rate_changed,
            ..Treatment::default()
        };
        let channels: Vec<Channel> = window
            .channels
            .into_iter()
            .map(|numbers| {
                let first = numbers[0];
                treatment.constant += usize::from(numbers.iter().all(|v| v.total_cmp(&first).is_eq()));
                let mut resampled = Vec::with_capacity(*points);
                resample(&numbers, *points, &mut resampled);
                let mut channel = Channel::of_points(resampled, Arc::clone(token_ids));
                channel.tail = numbers[numbers.len().saturating_sub(*tail)..].to_vec();
                channel
            })
            .collect();
        let pairs = if spec.levels { ranges.as_slice() } else { &[] };
        let levels = channels.iter().zip(pairs).flat_map(|(channel, &range)| channel.level(range)).collect();
        Ok(Prepared { modality: Modality::Window, channels, levels, treatment, time, source: [0; 32] })
    }
}

fn picture_sample(
    planes: picture::Planes,
    levels: bool,
    luma_ids: &Arc<[i64]>,
    chroma_ids: Option<&Arc<[i64]>>,
) -> Prepared {
    let luma = Channel::of_points(picture::tile(&planes.luma), Arc::clone(luma_ids));
    let treatment =
        Treatment { constant: usize::from(luma.deviation < LEAST_VARIATION), ..Treatment::default() };
    let least = luma.deviation / 4.0;
    let mut channels = vec![luma];
    if let (Some(chroma), Some(ids)) = (planes.chroma, chroma_ids) {
        channels.extend(
            chroma.iter().map(|plane| Channel::of_chroma(picture::tile(plane), Arc::clone(ids), least)),
        );
    }
    let levels = if levels {
        channels.iter().flat_map(|channel| channel.level([0.0, 1.0])).collect()
    } else {
        Vec::new()
    };
    Prepared { modality: Modality::Picture, channels, levels, treatment, time: None, source: [0; 32] }
}

fn text_sample(tokenizer: &Tokenizer, max_tokens: usize, payload: &[u8]) -> Result<Prepared, InputError> {
    let text = str::from_utf8(payload).map_err(|error| InputError::NotUtf8 { at: error.valid_up_to() })?;
    let tokens = tokenizer.encode(text, max_tokens).ok_or(InputError::EmptyText)?;
    let channel = Channel {
        patches: Vec::new(),
        token_ids: tokens.ids.into(),
        mean: 0.0,
        deviation: 0.0,
        tail: Vec::new(),
    };
    let treatment = Treatment { cut: tokens.cut, ..Treatment::default() };
    Ok(Prepared {
        modality: Modality::Text,
        channels: vec![channel],
        levels: Vec::new(),
        treatment,
        time: None,
        source: [0; 32],
    })
}

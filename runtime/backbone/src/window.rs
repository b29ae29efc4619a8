//! Windows: told apart as JSON, CSV or raw little-endian f32, then repaired and brought to the declared rate.

use crate::refusal::InputError;
use crate::spec::{MAX_NUMBERS, WindowSpec};
use crate::{csv, gaps, json, picture, resample};

/// How many leading bytes decide between text and raw numbers. Random bytes are this long a text less often
/// than once in 10^20.
const SNIFFED: usize = 64;
/// Some programs put this before every text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Rates closer than this, relatively, are the same: clocks drift.
const RATE_TOLERANCE: f64 = 0.005;
/// A rate further off than this factor is a mistake, not another sensor.
const MOST_RATIO: f64 = 64.0;

/// A window as it was sent: gaps are NaN.
#[derive(Default)]
pub(crate) struct Window {
    pub(crate) channels: Vec<Vec<f64>>,
    pub(crate) rate: Option<f64>,
    pub(crate) units: Option<String>,
    pub(crate) time: Option<f64>,
}

/// What was done to a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    pub(crate) filled: usize,
    pub(crate) clipped: usize,
    pub(crate) rate_changed: bool,
}

/// Reads a payload; the number of channels is checked by [`treat`].
pub(crate) fn read(channels: usize, payload: &[u8]) -> Result<Window, InputError> {
    let Some(text) = text_of(payload).filter(|text| !is_packed(text, payload.len(), channels)) else {
        return Ok(Window { channels: read_raw(channels, payload)?, ..Window::default() });
    };
    if text.trim_ascii_start().starts_with(b"[") || text.trim_ascii_start().starts_with(b"{") {
        return json::read(text);
    }
    let text = str::from_utf8(text)
        .map_err(|error| InputError::Csv { what: format!("byte {} is no UTF-8", error.valid_up_to()) })?;
    Ok(Window { channels: csv::read(channels, text)?, ..Window::default() })
}

/// Holds a window against its declaration, bridges gaps and brings it to the declared rate.
pub(crate) fn treat(
    spec: &WindowSpec,
    ranges: &[[f64; 2]],
    window: &mut Window,
) -> Result<Repairs, InputError> {
    let Window { channels, rate, units, .. } = window;
    if channels.len() != spec.channels {
        return Err(InputError::WrongChannels { expected: spec.channels, got: channels.len() });
    }
    if let (Some(expected), Some(got)) = (&spec.units, units)
        && expected != got
    {
        return Err(InputError::WrongUnits { expected: expected.clone(), got: got.clone() });
    }
    let stretch = match (spec.rate, *rate) {
        (Some(expected), Some(got)) => stretch(expected, got)?,
        _ => None,
    };
    let mut repairs = Repairs { rate_changed: stretch.is_some(), ..Repairs::default() };
    let most = MAX_NUMBERS / spec.channels;
    for (channel, numbers) in channels.iter_mut().enumerate() {
        if numbers.is_empty() {
            return Err(InputError::EmptyChannel { channel });
        }
        let got =
            stretch.map_or(numbers.len(), |ratio| ((numbers.len() as f64 * ratio + 0.5) as usize).max(1));
        if got > most {
            return Err(InputError::TooManyNumbers);
        }
        if let Some(expected) = spec.length.filter(|&expected| expected != got) {
            return Err(InputError::WrongLength { channel, expected, got });
        }
        if let Some(index) = numbers.iter().position(|&v| !v.is_nan() && !(v as f32).is_finite()) {
            return Err(InputError::NotFinite { channel, index });
        }
        // As packed f32 would have brought it: a number must not depend on how it was spelled.
        for number in numbers.iter_mut() {
            *number = f64::from(*number as f32);
        }
        let of = numbers.len();
        repairs.filled += gaps::fill(numbers).map_err(|missing| InputError::Gaps { channel, missing, of })?;
        if let Some([low, high]) = ranges.get(channel) {
            repairs.clipped += numbers.iter().filter(|v| *v <= low || *v >= high).count();
        }
        if got != numbers.len() {
            let mut out = Vec::with_capacity(got);
            resample::resample(numbers, got, &mut out);
            *numbers = out;
        }
    }
    Ok(repairs)
}

/// Factor on the number of points that brings `got` to `expected` numbers per second; `None` for the same.
fn stretch(expected: f64, got: f64) -> Result<Option<f64>, InputError> {
    let ratio = expected / got;
    if !(1.0 / MOST_RATIO..=MOST_RATIO).contains(&ratio) {
        return Err(InputError::WrongRate { expected, got });
    }
    Ok(((ratio - 1.0).abs() > RATE_TOLERANCE).then_some(ratio))
}

fn read_raw(channels: usize, payload: &[u8]) -> Result<Vec<Vec<f64>>, InputError> {
    let is_picture = match picture::sniff(payload) {
        Some(image::ImageFormat::Png) => true,
        // Three magic bytes are too few to refuse numbers by; a JPEG has its end marker as well.
        Some(_) => picture::jpeg_ends(payload),
        None => false,
    };
    if is_picture {
        return Err(InputError::WrongModality { expected: "a window", got: "a picture" });
    }
    if !payload.len().is_multiple_of(4 * channels) {
        return Err(InputError::RawLength { bytes: payload.len(), channels });
    }
    let numbers = payload.len() / 4;
    if numbers > MAX_NUMBERS {
        return Err(InputError::TooManyNumbers);
    }
    Ok(payload
        .chunks_exact(4 * (numbers / channels))
        .map(|channel| channel.as_chunks::<4>().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect())
        .collect())
}

/// Whether what begins like text is packed after all: a run of equal numbers can have nothing but printable bytes. No
/// text is so by chance, and JSON says what it is with its first character.
fn is_packed(text: &[u8], length: usize, channels: usize) -> bool {
    !text.trim_ascii_start().starts_with(b"[")
        && !text.trim_ascii_start().starts_with(b"{")
        && length.is_multiple_of(4 * channels)
        && str::from_utf8(text).is_err()
}

/// The payload as text to be read as JSON or CSV, or `None` when it is raw numbers. Text that is neither must
/// end in an error, never in numbers made of its letters; a text too short to tell counts as raw unless it opens
/// with a bracket or has no character that a line of numbers has not.
fn text_of(payload: &[u8]) -> Option<&[u8]> {
    let text = payload.strip_prefix(BYTE_ORDER_MARK).unwrap_or(payload);
    let start = &text[..text.len().min(SNIFFED)];
    let known = match str::from_utf8(start) {
        Ok(known) => known,
        // A character cut by the sniffed length is no contradiction.
        Err(error) if error.error_len().is_none() => str::from_utf8(&start[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let printable = known.chars().all(|c| !c.is_control() || c.is_ascii_whitespace());
    let bracket = known.trim_start().starts_with(['[', '{']);
    let numeric = known.bytes().all(|b| b.is_ascii_digit() || b"+-.,;eE \t\r\n\"NnAaUuLl/".contains(&b))
        && known.bytes().any(|b| b.is_ascii_digit());
    (printable && (bracket || numeric || text.len() >= SNIFFED)).then_some(text)
}

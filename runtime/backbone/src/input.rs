//! From a payload to the patches of one forward pass.

use serde::{Deserialize, Serialize};

use crate::{picture, resample, window};

/// Largest payload [`prepare`] looks at, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;
/// Most channels of a window.
pub const MAX_CHANNELS: usize = 64;
/// Most numbers of a window, over all its channels.
pub const MAX_NUMBERS: usize = 1 << 20;
/// Most rows and most columns of a picture.
pub const MAX_PICTURE_SIDE: u32 = 4096;

/// Numbers of one token.
pub(crate) const PATCH: usize = 16;
/// Points every channel of a window is resampled to.
pub(crate) const WINDOW_LENGTH: usize = 256;
/// Rows and columns every picture is resampled to.
pub(crate) const PICTURE_SIDE: usize = 32;
/// Rows and columns of one token of a picture.
pub(crate) const PICTURE_PATCH_SIDE: usize = 4;

/// What a backbone can be fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Channels of numbers over time.
    Window,
    /// A grey or colour picture.
    Picture,
}

impl Modality {
    /// Tokens of one channel.
    pub fn tokens(self) -> usize {
        match self {
            Self::Window => WINDOW_LENGTH / PATCH,
            Self::Picture => (PICTURE_SIDE / PICTURE_PATCH_SIDE).pow(2),
        }
    }

    /// The word used in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Picture => "picture",
        }
    }
}

/// The input a task declares, as it stands in the task manifest:
/// `{"modality":"window","channels":6,"length":100}` or `{"modality":"picture"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "modality", rename_all = "snake_case", deny_unknown_fields)]
pub enum InputSpec {
    /// A window of a multivariate series.
    Window {
        /// Channels of every sample, 1 to [`MAX_CHANNELS`].
        channels: usize,
        /// Numbers of every channel where the task demands an exact length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<usize>,
    },
    /// One PNG or JPEG picture.
    Picture {},
}

impl InputSpec {
    /// The modality of this input.
    pub fn modality(&self) -> Modality {
        match self {
            Self::Window { .. } => Modality::Window,
            Self::Picture {} => Modality::Picture,
        }
    }

    /// Channels of every sample; a picture is one.
    pub fn channels(&self) -> usize {
        match self {
            Self::Window { channels, .. } => *channels,
            Self::Picture {} => 1,
        }
    }

    /// Refuses a declaration no payload could satisfy ([`InputError::Spec`]).
    pub fn check(&self) -> Result<(), InputError> {
        let Self::Window { channels, length } = *self else { return Ok(()) };
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(InputError::Spec {
                what: format!("channels is {channels}, allowed are 1 to {MAX_CHANNELS}"),
            });
        }
        match length {
            Some(0) => Err(InputError::Spec { what: "length is 0".into() }),
            Some(length) if length > MAX_NUMBERS / channels => Err(InputError::Spec {
                what: format!("{channels} channels of {length} numbers exceed {MAX_NUMBERS} numbers"),
            }),
            _ => Ok(()),
        }
    }
}

/// One sample, ready for the first segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    modality: Modality,
    /// Channel after channel, each `modality.tokens()` rows of [`PATCH`] numbers.
    patches: Vec<f32>,
    source: Option<[u8; 32]>,
}

impl Prepared {
    /// Takes patches prepared elsewhere: channel after channel, each `modality.tokens()` rows of 16 finite
    /// numbers. `None` when the length is not 1 to [`MAX_CHANNELS`] (for a picture: 1) such channels, or a
    /// number is not finite.
    pub fn from_patches(modality: Modality, patches: Vec<f32>) -> Option<Self> {
        let most = if modality == Modality::Picture { 1 } else { MAX_CHANNELS };
        let whole = patches.len().is_multiple_of(modality.tokens() * PATCH);
        let prepared = Self { modality, patches, source: None };
        (whole && (1..=most).contains(&prepared.channels()) && prepared.patches.iter().all(|v| v.is_finite()))
            .then_some(prepared)
    }

    /// The modality of the sample.
    pub fn modality(&self) -> Modality {
        self.modality
    }

    /// Tokens of each channel.
    pub fn tokens(&self) -> usize {
        self.modality.tokens()
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.patches.len() / (self.tokens() * PATCH)
    }

    /// The patches of one channel: `tokens() × 16` numbers, row after row.
    ///
    /// # Panics
    /// When `channel` is not below [`Self::channels`].
    pub fn channel(&self, channel: usize) -> &[f32] {
        let size = self.tokens() * PATCH;
        &self.patches[channel * size..(channel + 1) * size]
    }

    /// blake3 of the payload this came from: with the task's input declaration and the bundle's fingerprint
    /// the key of a feature cache. It identifies raw data, so it stays on the gateway.
    pub fn source(&self) -> Option<[u8; 32]> {
        self.source
    }
}

/// Why a payload was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The declaration itself cannot be met.
    #[error("the task's input declaration is impossible: {what}; correct the task manifest")]
    Spec {
        /// What is wrong.
        what: String,
    },
    /// Nothing to read.
    #[error("the payload is empty; send a window or a picture")]
    Empty,
    /// Over [`MAX_PAYLOAD_BYTES`].
    #[error(
        "the payload has {bytes} bytes, at most {MAX_PAYLOAD_BYTES} are read; send a shorter window or a smaller picture"
    )]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
    },
    /// A picture came for a task that declares windows, or the reverse.
    #[error(
        "the payload is {got}, the task declares {expected}; check which topic or folder this source feeds"
    )]
    WrongModality {
        /// What the task declares.
        expected: &'static str,
        /// What the payload looks like.
        got: &'static str,
    },
    /// Text that is not the JSON of a window.
    #[error(
        "the JSON window cannot be read: {what}; send {{\"channels\":[[..],[..]]}}, [[..],[..]] or, for one channel, [..]"
    )]
    Json {
        /// What and where.
        what: String,
    },
    /// Another number of channels than declared.
    #[error(
        "the window has {got} channels, the task declares {expected}; send {expected} or correct `input.channels` of the task"
    )]
    WrongChannels {
        /// Declared in the manifest.
        expected: usize,
        /// Found in the payload.
        got: usize,
    },
    /// A channel without the declared length.
    #[error(
        "channel {channel} has {got} numbers, the task declares {expected}; send {expected} or correct `input.length` of the task"
    )]
    WrongLength {
        /// Channel, counted from 0.
        channel: usize,
        /// Declared in the manifest.
        expected: usize,
        /// Found in the payload.
        got: usize,
    },
    /// A channel without numbers.
    #[error("channel {channel} is empty; send at least one number per channel")]
    EmptyChannel {
        /// Channel, counted from 0.
        channel: usize,
    },
    /// Raw bytes that do not divide into the declared channels.
    #[error(
        "the payload is neither JSON nor raw numbers: {bytes} bytes do not divide into {channels} channels of little-endian f32"
    )]
    RawLength {
        /// Size of the payload.
        bytes: usize,
        /// Declared in the manifest.
        channels: usize,
    },
    /// Over [`MAX_NUMBERS`] or [`MAX_CHANNELS`].
    #[error("the window has more than {MAX_CHANNELS} channels or {MAX_NUMBERS} numbers; send it in parts")]
    TooManyNumbers,
    /// Not a number, infinite, missing, or beyond f32.
    #[error(
        "channel {channel} holds no finite number at index {index}; drop or repair the sample at its source"
    )]
    NotFinite {
        /// Channel, counted from 0.
        channel: usize,
        /// Index in the channel, counted from 0.
        index: usize,
    },
    /// Over the picture bounds.
    #[error(
        "the picture has {width}x{height} pixels of {depth} bits, at most {MAX_PICTURE_SIDE}x{MAX_PICTURE_SIDE} and 64 MiB decoded are read; scale it down at the camera"
    )]
    PictureTooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Bits per pixel, all channels together.
        depth: u16,
    },
    /// The picture ends early.
    #[error(
        "the {format} picture is truncated after {bytes} bytes; let the camera finish the file before sending it"
    )]
    PictureTruncated {
        /// PNG or JPEG.
        format: &'static str,
        /// Size of the payload.
        bytes: usize,
    },
    /// The picture cannot be decoded.
    #[error("the {format} picture cannot be decoded: {what}; send a baseline PNG or JPEG")]
    PictureDamaged {
        /// PNG or JPEG.
        format: &'static str,
        /// What the decoder said.
        what: String,
    },
}

impl InputError {
    /// A stable name for counters and reports.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spec { .. } => "bad_input_spec",
            Self::Empty => "empty_payload",
            Self::TooLarge { .. } => "payload_too_large",
            Self::WrongModality { .. } => "wrong_modality",
            Self::Json { .. } => "bad_json",
            Self::WrongChannels { .. } => "wrong_channels",
            Self::WrongLength { .. } => "wrong_length",
            Self::EmptyChannel { .. } => "empty_channel",
            Self::RawLength { .. } => "raw_length",
            Self::TooManyNumbers => "too_many_numbers",
            Self::NotFinite { .. } => "not_finite",
            Self::PictureTooLarge { .. } => "picture_too_large",
            Self::PictureTruncated { .. } => "picture_truncated",
            Self::PictureDamaged { .. } => "picture_damaged",
        }
    }
}

/// Reads a payload as the declared input and pre-processes it (`docs` of the bundle contract; f64 inside).
///
/// A window is JSON (`{"channels":[[..],[..]]}`, `[[..],[..]]` or `[..]`) or raw little-endian f32, channel
/// after channel. A picture is PNG or JPEG: colour becomes luma, alpha and orientation tags are ignored.
pub fn prepare(spec: &InputSpec, payload: &[u8]) -> Result<Prepared, InputError> {
    spec.check()?;
    if payload.is_empty() {
        return Err(InputError::Empty);
    }
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(InputError::TooLarge { bytes: payload.len() });
    }
    let patches = match *spec {
        InputSpec::Window { channels, length } => window_patches(&window::read(channels, length, payload)?),
        InputSpec::Picture {} => picture_patches(&picture::read(payload)?),
    };
    Ok(Prepared { modality: spec.modality(), patches, source: Some(*blake3::hash(payload).as_bytes()) })
}

fn window_patches(channels: &[Vec<f64>]) -> Vec<f32> {
    let mut patches = Vec::with_capacity(channels.len() * WINDOW_LENGTH);
    let mut points = Vec::with_capacity(WINDOW_LENGTH);
    for channel in channels {
        points.clear();
        resample::resample(channel, WINDOW_LENGTH, &mut points);
        resample::standardize(&mut points);
        patches.extend(points.iter().map(|&v| v as f32));
    }
    patches
}

/// `pixels`: [`PICTURE_SIDE`] rows of as many columns.
fn picture_patches(pixels: &[f64]) -> Vec<f32> {
    let mut pixels = pixels.to_vec();
    resample::standardize(&mut pixels);
    let blocks = PICTURE_SIDE / PICTURE_PATCH_SIDE;
    let mut patches = Vec::with_capacity(pixels.len());
    for block in 0..blocks * blocks {
        let (top, left) = (block / blocks * PICTURE_PATCH_SIDE, block % blocks * PICTURE_PATCH_SIDE);
        for row in top..top + PICTURE_PATCH_SIDE {
            let from = row * PICTURE_SIDE + left;
            patches.extend(pixels[from..from + PICTURE_PATCH_SIDE].iter().map(|&v| v as f32));
        }
    }
    patches
}

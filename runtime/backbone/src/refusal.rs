//! Why a payload is refused, in words that say what to do.

use crate::gaps::MOST_GAPS;
use crate::picture::MAX_PICTURE_SIDE;
use crate::preparer::MAX_PAYLOAD_BYTES;
use crate::spec::{MAX_CHANNELS, MAX_NUMBERS};

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
    /// The declaration asks for what the bundle does not offer.
    #[error(
        "backbone {backbone} cannot take the declared input: {what}; correct the task manifest or give it another backbone"
    )]
    Backbone {
        /// Name of the bundle.
        backbone: String,
        /// What is wrong.
        what: String,
    },
    /// Nothing to read.
    #[error("the payload is empty; send a window, a picture or a text")]
    Empty,
    /// Over [`MAX_PAYLOAD_BYTES`].
    #[error(
        "the payload has {bytes} bytes, at most {MAX_PAYLOAD_BYTES} are read; send a shorter window or text, or a smaller picture"
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
        "the JSON window cannot be read: {what}; send {{\"channels\":[[..],[..]]}}, [[..],[..]] or, for one channel, [..], with null for a missing number"
    )]
    Json {
        /// What and where.
        what: String,
    },
    /// Text that is not the CSV of a window.
    #[error(
        "the CSV window cannot be read: {what}; send one line with channel after channel, or a line per point in time with a cell per channel"
    )]
    Csv {
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
        /// Found in the payload, at the declared rate.
        got: usize,
    },
    /// A rate that cannot be brought to the declared one.
    #[error(
        "the window says {got} numbers per second, the task declares {expected}; rates from a 64th to 64 times that are brought to it, so correct the source or `input.rate`"
    )]
    WrongRate {
        /// Declared in the manifest.
        expected: f64,
        /// Found in the payload.
        got: f64,
    },
    /// Numbers in another unit.
    #[error(
        "the window is in {got:?}, the task declares {expected:?}; convert it at its source or correct `input.units`"
    )]
    WrongUnits {
        /// Declared in the manifest.
        expected: String,
        /// Found in the payload.
        got: String,
    },
    /// A channel without numbers.
    #[error("channel {channel} is empty; send at least one number per channel")]
    EmptyChannel {
        /// Channel, counted from 0.
        channel: usize,
    },
    /// Raw bytes that do not divide into the declared channels.
    #[error(
        "the payload is neither JSON, CSV nor raw numbers: {bytes} bytes do not divide into {channels} channels of little-endian f32"
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
    /// Infinite, or beyond f32. (A missing number is a gap.)
    #[error(
        "channel {channel} holds no finite number at index {index}; something overflowed at its source, repair it there or send a gap"
    )]
    NotFinite {
        /// Channel, counted from 0.
        channel: usize,
        /// Index in the channel, counted from 0.
        index: usize,
    },
    /// More gaps than may be bridged.
    #[error(
        "{missing} of the {of} numbers of channel {channel} are missing, at most one in {MOST_GAPS} is bridged; repair the sensor or send a longer window"
    )]
    Gaps {
        /// Channel, counted from 0.
        channel: usize,
        /// Numbers that are missing.
        missing: usize,
        /// Numbers the channel should have.
        of: usize,
    },
    /// Over the picture bounds.
    #[error(
        "the picture has {width}x{height} pixels of {depth} bits, at most {MAX_PICTURE_SIDE} rows or columns and {megabytes} MiB decoded are read of such a file; scale it down at the camera"
    )]
    PictureTooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Bits per pixel, all channels together.
        depth: u16,
        /// Most MiB of decoded pixels; fewer for a progressive JPEG, whose decoding takes three times as much.
        megabytes: u64,
    },
    /// A picture in a form that is not read.
    #[error("the picture is {format}; send PNG or JPEG")]
    PictureFormat {
        /// Such as GIF.
        format: &'static str,
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
    /// Text that is not UTF-8.
    #[error("the text is not UTF-8: byte {at} fits no character; convert it at its source")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// Text of blanks and control characters only.
    #[error(
        "the text holds nothing that can be read, only blanks or control characters; drop it at its source"
    )]
    EmptyText,
}

impl InputError {
    /// A stable name for counters and reports.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spec { .. } => "bad_input_spec",
            Self::Backbone { .. } => "wrong_backbone_input",
            Self::Empty => "empty_payload",
            Self::TooLarge { .. } => "payload_too_large",
            Self::WrongModality { .. } => "wrong_modality",
            Self::Json { .. } => "bad_json",
            Self::Csv { .. } => "bad_csv",
            Self::WrongChannels { .. } => "wrong_channels",
            Self::WrongLength { .. } => "wrong_length",
            Self::WrongRate { .. } => "wrong_rate",
            Self::WrongUnits { .. } => "wrong_units",
            Self::EmptyChannel { .. } => "empty_channel",
            Self::RawLength { .. } => "raw_length",
            Self::TooManyNumbers => "too_many_numbers",
            Self::NotFinite { .. } => "not_finite",
            Self::Gaps { .. } => "too_many_gaps",
            Self::PictureTooLarge { .. } => "picture_too_large",
            Self::PictureFormat { .. } => "picture_format",
            Self::PictureTruncated { .. } => "picture_truncated",
            Self::PictureDamaged { .. } => "picture_damaged",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::EmptyText => "empty_text",
        }
    }
}

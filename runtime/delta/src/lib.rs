//! Delta codecs: what a gateway contributes, to bytes and exactly back.
//!
//! The contribution's manifest carries the codec's number and the size of the *raw bytes* that the blob stands for.
//!
//! | number | codec | raw bytes | blob |
//! |---|---|---|---|
//! | 1 | [`Codec::StepF32`] | the step's parameters as f32 | one zstd frame of their byte planes |
//! | 2 | [`Codec::StepF16`] | the same rounded to f16, ties to even | likewise |
//! | 3 | [`Codec::StepRotated`] | the step's parameters as f32 | quantized after a rotation, range coded |
//! | 4 | [`Codec::StepSparse`] | likewise | the large ones quantized, range coded |
//! | 16 | [`Codec::Sums`] | the byte string of the sums as i64 | range coded, exact |
//!
//! Byte planes are words cut so that first comes the lowest byte of every word, then the next, and so on:
//! neighbouring numbers agree in their high bytes, so a plane compresses where the words do not. `docs/delta.md`
//! specifies every blob.
//!
//! Decoding never writes or allocates more than the size its caller expects, whatever the blob claims. The
//! crate works on slices and byte strings and knows nothing of modules or tasks.

mod coder;
mod compress;
mod lossy;
mod patch;
mod planes;
mod quantize;
mod rotate;
mod step;
mod sums;
mod symbols;

pub use lossy::{Budget, HEADER as LOSSY_HEADER, MAX_BITS, encode_auto, encode_lossy, symbols_of};
pub use patch::{Patch, apply_patch, encode_patch, most_patch_bytes};
pub use step::{EncodedStep, decode_step, encode_step};
pub use sums::{decode_sums, encode_sums};

use thiserror::Error;

/// How a contribution's blob is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// A step, exact.
    StepF32 = 1,
    /// A step rounded to half precision; the sender keeps what the rounding lost.
    StepF16 = 2,
    /// A step in rotated coordinates, quantized to about a bit each.
    StepRotated = 3,
    /// A step of which the large values are kept, quantized.
    StepSparse = 4,
    /// A byte string of 64-bit integers, exact.
    Sums = 16,
}

impl Codec {
    /// The codec of a number in a manifest.
    pub fn from_number(number: u8) -> Result<Self, DeltaError> {
        match number {
            1 => Ok(Self::StepF32),
            2 => Ok(Self::StepF16),
            3 => Ok(Self::StepRotated),
            4 => Ok(Self::StepSparse),
            16 => Ok(Self::Sums),
            _ => Err(DeltaError::UnknownCodec(number)),
        }
    }

    /// The number that stands in a manifest.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Raw bytes of a step of `parameters` values; `None` where this codec carries no step.
    pub fn step_bytes(self, parameters: usize) -> Option<usize> {
        match self {
            Self::StepF32 | Self::StepRotated | Self::StepSparse => parameters.checked_mul(4),
            Self::StepF16 => parameters.checked_mul(2),
            Self::Sums => None,
        }
    }

    /// Most bytes of a blob that carries a step of `parameters` values: nobody who encodes it makes more of it. `None`
    /// where this codec carries no step.
    pub fn most_blob_bytes(self, parameters: usize) -> Option<usize> {
        match self {
            Self::StepF32 | Self::StepF16 => self.step_bytes(parameters).map(most_compressed_bytes),
            // A byte is [`MAX_BITS`].
            Self::StepRotated | Self::StepSparse => parameters.checked_add(lossy::HEADER),
            Self::Sums => None,
        }
    }
}

/// No honest compressor makes more of `raw` bytes (zstd's `ZSTD_COMPRESSBOUND` stays below this).
pub const fn most_compressed_bytes(raw: usize) -> usize {
    raw.saturating_add(raw / 128 + 1024)
}

/// An encoded contribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What is transmitted.
    pub blob: Vec<u8>,
    /// Size before compression in bytes, for the manifest.
    pub raw_bytes: usize,
}

/// Why a contribution could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeltaError {
    /// A codec number this build does not know.
    #[error(
        "codec {0} is unknown to this build; update the aggregator or choose another codec on the gateway"
    )]
    UnknownCodec(u8),
    /// A codec of the other kind of contribution.
    #[error("codec {0:?} does not carry this kind of contribution")]
    WrongKind(Codec),
    /// A value that is not finite, or not after rounding to the codec's precision.
    #[error("value {index} of the step is not finite in the codec's precision; discard the training run")]
    NotFinite {
        /// Position in the step.
        index: usize,
    },
    /// Larger than a blob may be.
    #[error(
        "{bytes} bytes exceed the {limit} bytes of a contribution; use fewer features, classes or a smaller rank"
    )]
    TooLarge {
        /// Raw size.
        bytes: usize,
        /// Most allowed.
        limit: usize,
    },
    /// The blob is damaged, or holds more than expected.
    #[error("the blob is damaged or larger than the {expected} bytes expected: {reason}")]
    Corrupt {
        /// Raw bytes expected.
        expected: usize,
        /// What the decompressor said.
        reason: String,
    },
    /// The blob holds fewer bytes than expected.
    #[error("the blob holds {found} bytes where {expected} are expected; it belongs to another shape")]
    Length {
        /// Raw bytes in the blob.
        found: usize,
        /// Raw bytes expected.
        expected: usize,
    },
    /// The compressor gave up.
    #[error("the blob could not be compressed: {0}")]
    Compress(String),
}

/// Most raw bytes of a contribution; the same limit as a blob's on the wire.
pub const MAX_RAW: usize = 4 * 1024 * 1024;

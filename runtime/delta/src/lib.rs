//! Delta codecs: what a gateway contributes, to bytes and exactly back.
//!
//! A blob is one zstd frame over *raw bytes*; the contribution's manifest carries the codec's number and the
//! raw size. The raw bytes of every codec are little-endian words cut into byte planes: first the lowest byte
//! of every word, then the next, and so on. Neighbouring numbers differ in their low bytes and agree in their
//! high ones, so a plane compresses where the words do not.
//!
//! | number | codec | words |
//! |---|---|---|
//! | 1 | [`Codec::StepF32`] | the step's parameters, IEEE 754 binary32 |
//! | 2 | [`Codec::StepF16`] | the step's parameters, rounded to IEEE 754 binary16, ties to even |
//! | 16 | [`Codec::Sums`] | the byte string of the sums as i64, zigzag mapped; a tail under 8 bytes follows as is |
//!
//! Decoding never writes or allocates more than the size its caller expects, whatever the blob claims. The
//! crate works on slices and byte strings and knows nothing of modules or tasks.

mod compress;
mod planes;
mod step;
mod sums;

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
    /// A byte string of 64-bit integers, exact.
    Sums = 16,
}

impl Codec {
    /// The codec of a number in a manifest.
    pub fn from_number(number: u8) -> Result<Self, DeltaError> {
        match number {
            1 => Ok(Self::StepF32),
            2 => Ok(Self::StepF16),
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
            Self::StepF32 => parameters.checked_mul(4),
            Self::StepF16 => parameters.checked_mul(2),
            Self::Sums => None,
        }
    }
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

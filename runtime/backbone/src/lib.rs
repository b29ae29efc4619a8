//! The frozen backbone of a gateway: bundle format and verification, segment engines, pre-processing.
//!
//! The way of one sample: [`Preparer`] turns a payload (a sensor window, a picture or a text) into
//! tokens, [`Backbone::begin`] opens a [`Pass`], and every [`Pass::next_exit`] runs one more segment and yields
//! that exit's features. A caller that is content with an early exit drops the pass; later segments
//! then never ran.
//!
//! Invariants:
//! - Nothing reaches an engine before its file's sha256 agreed with `backbone.toml`.
//! - A process loads each backbone once and shares it; [`Backbone::loads`] counts.
//! - No payload, bundle or library from outside makes this crate panic or allocate past its bounds.

mod backbone;
mod bundle;
mod contract;
mod csv;
mod engine;
mod gaps;
mod inputs;
mod json;
mod memory;
mod picture;
mod prepared;
mod preparer;
mod projection;
mod refusal;
mod resample;
mod spec;
#[cfg(feature = "text")]
mod text;
#[cfg(not(feature = "text"))]
#[path = "text_absent.rs"]
mod text;
mod window;

pub use backbone::{Backbone, Pass};
pub use bundle::{Bundle, BundleError};
pub use engine::{EngineError, EngineKind, EngineOptions, Provider};
pub use memory::process_resident_bytes;
pub use picture::MAX_PICTURE_SIDE;
pub use prepared::{Channel, Prepared, Treatment};
pub use preparer::{MAX_PAYLOAD_BYTES, MAX_TAIL, Preparer};
pub use refusal::InputError;
pub use spec::{InputSpec, MAX_CHANNELS, MAX_NUMBERS, Modality, PictureSpec, Range, WindowSpec};

/// Decoders of this crate that have no public face, for the fuzz targets; no part of the interface.
#[doc(hidden)]
pub mod fuzz {
    /// Reads the text of a `backbone.toml` and looks for contradictions; whether there are none.
    pub fn contract(text: &str) -> bool {
        let read = crate::contract::Contract::parse(text);
        read.is_ok_and(|format| format.is_ok_and(|contract| contract.contradiction().is_none()))
    }

    /// Reads a `tokenizer.json` and encodes `text` with it; whether it read.
    #[cfg(feature = "text")]
    pub fn tokenizer(json: &[u8], text: &str) -> bool {
        let Ok(tokenizer) = crate::text::Tokenizer::read(json) else { return false };
        let most = 64;
        assert!(tokenizer.encode(text, most).is_none_or(|tokens| tokens.ids.len() <= most));
        true
    }

    /// Reads the projections of `exits` exits from a feature file; whether they read.
    pub fn features(bytes: &[u8], exits: usize, pooled: usize, directions: usize) -> bool {
        crate::projection::read(bytes, exits, pooled, directions).is_ok()
    }
}

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
pub use engine::{EngineError, EngineKind, EngineOptions};
pub use memory::process_resident_bytes;
pub use picture::MAX_PICTURE_SIDE;
pub use prepared::{Channel, Prepared, Treatment};
pub use preparer::{MAX_PAYLOAD_BYTES, MAX_TAIL, Preparer};
pub use refusal::InputError;
pub use spec::{InputSpec, MAX_CHANNELS, MAX_NUMBERS, Modality, PictureSpec, Range, WindowSpec};

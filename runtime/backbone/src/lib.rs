//! The frozen backbone of a gateway: bundle format and verification, segment engines, pre-processing.
//!
//! The way of one sample: [`prepare`] turns a payload (a sensor window or a picture) into patches,
//! [`Backbone::begin`] opens a [`Pass`], and every [`Pass::next_exit`] runs one more segment and yields
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
mod engine;
mod input;
mod memory;
mod picture;
mod projection;
mod resample;
mod window;

pub use backbone::{Backbone, MAX_CHANNEL_FEATURES, Pass};
pub use bundle::{Bundle, BundleError};
pub use engine::{EngineError, EngineKind, EngineOptions};
pub use input::{
    InputError, InputSpec, MAX_CHANNELS, MAX_NUMBERS, MAX_PAYLOAD_BYTES, MAX_PICTURE_SIDE, Modality,
    Prepared, prepare,
};
pub use memory::process_resident_bytes;

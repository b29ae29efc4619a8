//! The JSON control messages and the task manifest: one home for both sides.
//!
//! Control messages are JSON so that a person can read them with `mosquitto_sub` and send them with
//! `mosquitto_pub`. What must be trusted travels in a [`Signed`] envelope.

mod presence;
mod prediction;
mod pointer;
mod signed;
mod task;

pub use pointer::{Pointer, Stable, Wants};
pub use prediction::{LabelMessage, Prediction, Problem};
pub use presence::{BackboneInfo, Presence, TaskInfo};
pub use signed::{MANIFEST_DOMAIN, POINTER_DOMAIN, Signed, SignedError};
pub use task::{
    Input, ManifestError, MAX_CLASSES, ModuleKind, ModuleSpec, RoundPolicy, SyncPolicy, TaskKind, TaskManifest,
};

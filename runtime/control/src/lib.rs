//! The JSON control messages and the task manifest: one home for both sides.
//!
//! Control messages are JSON so that a person can read them with `mosquitto_sub` and send them with
//! `mosquitto_pub`. What must be trusted travels in a [`Signed`] envelope.

mod pointer;
mod prediction;
mod presence;
mod signed;
mod task;

pub use pointer::{Patch, Pointer, Stable, Wants};
pub use prediction::{AlarmAnswer, ForecastAnswer, Label, LabelMessage, Prediction, Problem, Ranked};
pub use presence::{BackboneInfo, Presence, TaskInfo};
pub use signed::{MANIFEST_DOMAIN, POINTER_DOMAIN, Signed, SignedError};
pub use task::{
    AnomalySpec, Bounds, Calendar, ClassifySpec, ForecastSpec, Input, MAX_CLASSES, MAX_LAG, MAX_STALENESS,
    ManifestError, ModuleKind, ModuleSpec, NamedPeriod, Period, Range, Reject, RoundMode, RoundPolicy,
    StepCodec, SyncPolicy, TaskKind, TaskManifest, UNKNOWN,
};

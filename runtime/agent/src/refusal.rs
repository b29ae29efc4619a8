//! Why a sample or a label was refused.

use loadonce_backbone::{EngineError, InputError};
use loadonce_wire::limits::MAX_SAMPLE;
use thiserror::Error;

/// See the module's documentation.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("task `{0}` is not served here; publish its manifest through the aggregator, or check the topic")]
    UnknownTask(String),
    #[error(
        "a sample of {0} bytes exceeds the limit of {MAX_SAMPLE} bytes; send a smaller picture or a shorter window"
    )]
    TooLarge(usize),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("the backbone could not process the sample: {0}")]
    Engine(#[from] EngineError),
    #[error("the backbone's features of this sample are not finite; the sample is not usable")]
    NotFinite,
    #[error(
        "the window has {length} values, but the task's lags reach back {lag}; send longer windows or correct `forecast.lags`"
    )]
    ShortWindow { lag: usize, length: usize },
    #[error(
        "the task has a calendar, but the sample tells no time; send {{\"channels\":[[..]],\"time\":..}}, the time being that of the last value"
    )]
    MissingTime,
    #[error(
        "the sample's `time` is neither seconds since the epoch nor RFC 3339, or its `series` is no name of at most 64 bytes"
    )]
    BadTime,
    #[error(
        "not a label: send the class name, a JSON string, or {{\"label\":\"…\"}}; of a forecast an array of the values that came"
    )]
    BadLabel,
    #[error("`{0}` is no class of this task; its classes are {1}")]
    UnknownClass(String, String),
    #[error("{got} values given as a label, the task forecasts {want} steps; send one value per step")]
    WrongValues { got: usize, want: usize },
    #[error("the state folder cannot be written, so the label is not kept: {0}")]
    StateUnwritable(String),
}

impl Refusal {
    /// Stable word, the counter's name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::UnknownTask(_) => "unknown_task",
            Self::TooLarge(_) => "too_large",
            Self::Input(error) => error.code(),
            Self::Engine(_) => "engine",
            Self::NotFinite => "not_finite",
            Self::ShortWindow { .. } => "short_window",
            Self::MissingTime => "missing_time",
            Self::BadTime => "bad_time",
            Self::BadLabel => "bad_label",
            Self::UnknownClass(..) => "unknown_class",
            Self::WrongValues { .. } => "wrong_values",
            Self::StateUnwritable(_) => "state_unwritable",
        }
    }
}

//! Modules: the small trained part of a task.
//!
//! A module sees only the features of each exit of the frozen backbone. All its parameters are one flat
//! `&[f32]` in the canonical tensor order of [`Shape::tensors`]; every function works on slices its caller
//! owns. Nothing here does I/O, reads a clock or draws randomness it was not seeded with, so every run can be
//! replayed.
//!
//! | file | holds |
//! |---|---|
//! | `shape`, `head` | recipes, limits, canonical tensors, fingerprint; what outputs mean |
//! | `data`, `forward` | labelled features; evaluation exit by exit |
//! | `loss`, `gradient` | what training minimizes, by kind; its gradient |
//! | `optimizer`, `train`, `evaluate` | `AdamW`; training one optimizer step per call; held-out figures |
//! | `metrics` | figures that people compare |
//! | `prior`, `personal` | log priors; the personal module derived from the shared one |
//! | `sums` | exact integer sums |
//! | `solve`, `ridge`, `whiten`, `start` | the modules solved from them in closed form: discriminant, regression, whitening, a ladder's start |
//! | `decide` | an exit's answer, and how sure it is of it |
//! | `calibrate` | thresholds of the early exits |
//! | `choose`, `reject`, `conformal`, `alarm`, `binomial` | closed form or trained; "unknown"; shifted quantiles; alarm thresholds; the exact statements behind them |
//! | `file` | the module file, `docs/module-format.md` |

#![allow(clippy::doc_markdown, reason = "formulas keep their subscripts")]
#![cfg_attr(test, allow(clippy::float_cmp, reason = "what must be bit-identical is compared bit by bit"))]

mod alarm;
mod binomial;
mod calibrate;
mod choose;
mod conformal;
mod data;
mod decide;
mod dense;
mod evaluate;
mod file;
mod forward;
mod gradient;
mod head;
mod linear;
mod loss;
pub mod metrics;
mod normal;
mod optimizer;
mod pattern;
mod personal;
mod prior;
mod random;
mod reject;
mod ridge;
mod shape;
mod solve;
mod spectrum;
mod start;
mod sums;
mod train;
mod whiten;

pub use alarm::{Alarm, alarm, least_normals};
pub use binomial::clopper_pearson;
pub use calibrate::{CalibrateError, CalibrationConfig, NEVER, calibrate, calibrate_exits};
pub use choose::{Choice, Choose, Chooser, choose};
pub use conformal::{least_residuals, shift, uncross};
pub use data::{Dataset, Target, Targets};
pub use decide::{Decider, Served};
pub use evaluate::{Eval, ExitEval};
pub use file::{Dtype, FORMAT, FileError, MAX_FILE_BYTES, ModuleFile, Role};
pub use forward::{Runner, forward};
pub use gradient::{Batch, Scratch, loss_and_gradient};
pub use head::{Head, MAX_HORIZON, MAX_QUANTILES, Quantiles, QuantilesError, anomaly_score};
pub use loss::{ForecastLoss, Objective};
pub use optimizer::AdamW;
pub use pattern::{Regressors, overlap};
pub use personal::{Evidence, Kept, Personal, PersonalConfig, Personalizer};
pub use prior::{argmax, label_counts, log_prior, softmax};
pub use random::Random;
pub use reject::reject_below;
pub use ridge::Penalty;
pub use shape::{
    MAX_CLASSES, MAX_EXITS, MAX_FEATURES, MAX_OUTPUTS, MAX_RANK, MIN_OUTPUTS, Recipe, Shape, ShapeError,
    TensorSpec,
};
pub use solve::{Shrinkage, SolveError, SolveOptions, closed_form, solve};
pub use start::ladder_start;
pub use sums::{
    ANOMALOUS, MAX_SAMPLES, MAX_SUMS_BYTES, NORMAL, Statistic, Sums, SumsError, dequantize, quantize,
    quantize_all,
};
pub use train::{MIN_EARLY_STOP, Progress, TrainConfig, TrainError, Trained, Trainer};

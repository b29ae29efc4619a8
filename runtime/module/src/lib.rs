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
//! | `forward`, `gradient` | evaluation exit by exit; loss and gradient |
//! | `optimizer`, `train` | `AdamW`; training one optimizer step per call |
//! | `prior`, `personal` | log priors; the personal module derived from the shared one |
//! | `sums`, `solve`, `start` | exact integer sums and the modules solved from them in closed form |
//! | `calibrate` | thresholds of the early exits |
//! | `file` | the module file, `docs/module-format.md` |

#![allow(clippy::doc_markdown, reason = "formulas keep their subscripts")]
#![cfg_attr(test, allow(clippy::float_cmp, reason = "what must be bit-identical is compared bit by bit"))]

mod calibrate;
mod file;
mod forward;
mod gradient;
mod head;
mod linear;
mod optimizer;
mod personal;
mod prior;
mod random;
mod shape;
mod solve;
mod start;
mod sums;
mod train;

pub use calibrate::{CalibrateError, CalibrationConfig, NEVER, calibrate};
pub use file::{Dtype, FORMAT, FileError, MAX_FILE_BYTES, ModuleFile, Role};
pub use forward::{Runner, forward};
pub use gradient::{Batch, Scratch, loss_and_gradient};
pub use head::{Head, MAX_HORIZON, MAX_QUANTILES, Quantiles, QuantilesError, anomaly_score};
pub use optimizer::AdamW;
pub use personal::{Evidence, Kept, Personal, PersonalConfig, Personalizer};
pub use prior::{argmax, label_counts, log_prior, softmax};
pub use random::Random;
pub use shape::{
    MAX_CLASSES, MAX_EXITS, MAX_FEATURES, MAX_OUTPUTS, MAX_RANK, MIN_OUTPUTS, Recipe, Shape, ShapeError,
    TensorSpec,
};
pub use solve::{Shrinkage, SolveError, solve};
pub use start::ladder_start;
pub use sums::{
    ANOMALOUS, MAX_SAMPLES, MAX_SUMS_BYTES, NORMAL, Statistic, Sums, SumsError, dequantize, quantize,
    quantize_all,
};
pub use train::{
    Dataset, Eval, ExitEval, MIN_EARLY_STOP, Progress, TrainConfig, TrainError, Trained, Trainer,
};

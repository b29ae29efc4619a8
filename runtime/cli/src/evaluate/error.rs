//! What can stop an evaluation, each with what to do about it.

use miette::Diagnostic;
use std::path::PathBuf;
use thiserror::Error;

/// Why there are no figures.
#[derive(Debug, Error, Diagnostic)]
pub enum EvaluateError {
    /// Options that cannot be met.
    #[error("{what}")]
    Usage {
        /// What was asked and what is possible.
        what: String,
    },
    /// A file or folder that cannot be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was under way.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Task manifest or feature file with the wrong content.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A data set that cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] crate::DataError),
    /// A sample that the product would refuse.
    #[error("sample {sample} of {} is refused: {what}", path.display())]
    #[diagnostic(help("a gateway would refuse it the same way; correct the data or the task's `input`"))]
    Sample {
        /// Its number in the file, from 0.
        sample: usize,
        /// The data file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The backbone did not load or run.
    #[error("the backbone failed: {0}")]
    #[diagnostic(help(
        "`cross/fetch-onnxruntime` brings the library that `ORT_DYLIB_PATH` or --library must name"
    ))]
    Backbone(String),
    /// The library refused a module or training set.
    #[error("{recipe} with {labels} labels per class, draw {draw}: {what}")]
    Module {
        /// Recipe.
        recipe: &'static str,
        /// Labels per class.
        labels: String,
        /// Draw.
        draw: u64,
        /// What the library said.
        what: String,
    },
}

impl EvaluateError {
    /// Exit code of the program: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage { .. }) { 2 } else { 1 }
    }
}

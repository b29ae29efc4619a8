//! Segment engines behind one face.

use std::path::PathBuf;

use crate::bundle::{Bundle, BundleError};

#[cfg(feature = "ort")]
mod library;
#[cfg(feature = "ort")]
mod onnxruntime;
#[cfg(feature = "ort")]
mod provider;
#[cfg(feature = "tract")]
mod tract;

/// Which engine runs the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// ONNX Runtime, a dynamic library (feature `ort`).
    Ort,
    /// tract, in pure Rust (feature `tract`): for targets without ONNX Runtime.
    Tract,
}

/// Which processor computes the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The CPU: what every figure of this project was measured on.
    #[default]
    Cpu,
    /// CUDA where the library offers it, else the CPU.
    Auto,
    /// An NVIDIA GPU through CUDA.
    Cuda,
    /// An NVIDIA GPU through TensorRT, what it cannot do through CUDA.
    TensorRt,
}

impl Provider {
    /// As it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// How to run the segments.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The engine.
    pub kind: EngineKind,
    /// The ONNX Runtime library. `None` looks at `ORT_DYLIB_PATH`, then beside the executable, then on the
    /// system's loader path, and nowhere else.
    pub library: Option<PathBuf>,
    /// Threads inside one operator; 0 counts as 1. A process has one pool: the first load decides.
    pub threads: usize,
    /// The processor. Where the library does not offer it, or the device cannot do it, the CPU computes and the log
    /// says so. A process has one: the first load decides.
    pub provider: Provider,
    /// Folder in which TensorRT keeps what it compiled; without it every start compiles again.
    pub engines: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            kind: if cfg!(feature = "ort") { EngineKind::Ort } else { EngineKind::Tract },
            library: None,
            threads: 1,
            provider: Provider::default(),
            engines: None,
        }
    }
}

/// Why a backbone could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The bundle changed since it was opened, or its feature file is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The engine is not part of this program.
    #[error("this program was built without the engine {kind:?}; build it with the feature {feature:?}")]
    NotBuilt {
        /// The engine asked for.
        kind: EngineKind,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// No ONNX Runtime could be opened.
    #[error(
        "ONNX Runtime was not found: {tried}; run `cross/fetch-onnxruntime DIR` and set ORT_DYLIB_PATH=DIR/libonnxruntime.so, or put the library beside the executable (a build's target directory is not searched)"
    )]
    LibraryMissing {
        /// Every place looked at and what the loader said.
        tried: String,
    },
    /// The file can be opened but is not ONNX Runtime.
    #[error("{} is not ONNX Runtime: {what}; run `cross/fetch-onnxruntime DIR` and set ORT_DYLIB_PATH=DIR/libonnxruntime.so", path.display())]
    LibraryForeign {
        /// The library.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The library is too old.
    #[error("{} is ONNX Runtime {version}, at least {least} is needed; run `cross/fetch-onnxruntime DIR` and set ORT_DYLIB_PATH=DIR/libonnxruntime.so", path.display())]
    LibraryTooOld {
        /// The library.
        path: PathBuf,
        /// Its version.
        version: String,
        /// Oldest version that serves.
        least: &'static str,
    },
    /// A process loads one library.
    #[error("this process already runs on {}, {} cannot be loaded beside it; restart to change the library", loaded.display(), asked.display())]
    OneLibrary {
        /// In use.
        loaded: PathBuf,
        /// Asked for now.
        asked: PathBuf,
    },
    /// The engine refused or failed.
    #[error("{file} of the backbone: {doing} failed: {what}")]
    Engine {
        /// Segment's file, or the engine itself.
        file: String,
        /// What was under way.
        doing: &'static str,
        /// What the engine said.
        what: String,
    },
    /// The backbone takes no such input.
    #[error("backbone {backbone} takes no {modality}; give the task a backbone that does")]
    Modality {
        /// Name of the bundle.
        backbone: String,
        /// What was offered.
        modality: &'static str,
    },
    /// More features per channel than the bundle has directions, or none.
    #[error(
        "{asked} features per channel were asked, backbone {backbone} has 1 to {directions}; correct the task's feature budget"
    )]
    Directions {
        /// Name of the bundle.
        backbone: String,
        /// Asked for.
        asked: usize,
        /// Stored per exit.
        directions: usize,
    },
}

/// What a segment is run on.
#[cfg_attr(not(any(feature = "ort", feature = "tract")), expect(dead_code))]
pub(crate) enum SegmentInput<'a> {
    /// First segment: `tokens × 16` numbers and the row of the embedding table of each token.
    Patches { patches: &'a [f32], token_ids: &'a [i64] },
    /// First segment of a text backbone: the row of the embedding table of each token.
    Tokens { token_ids: &'a [i64] },
    /// Later segments: `tokens × width` numbers.
    Hidden { hidden: &'a [f32], tokens: usize },
}

/// What a segment yields.
#[derive(Default)]
pub(crate) struct SegmentOutput {
    /// `tokens × width` numbers; empty after the last segment.
    pub(crate) hidden: Vec<f32>,
    pub(crate) pooled: Vec<f32>,
}

/// All segments of one bundle, ready to run from any thread.
pub(crate) enum Engine {
    #[cfg(feature = "ort")]
    Ort(onnxruntime::Sessions),
    #[cfg(feature = "tract")]
    Tract(Box<tract::Plans>),
}

impl Engine {
    pub(crate) fn load(bundle: &Bundle, options: &EngineOptions) -> Result<Self, EngineError> {
        match options.kind {
            #[cfg(feature = "ort")]
            EngineKind::Ort => Ok(Self::Ort(onnxruntime::Sessions::load(bundle, options)?)),
            #[cfg(not(feature = "ort"))]
            kind @ EngineKind::Ort => Err(EngineError::NotBuilt { kind, feature: "ort" }),
            #[cfg(feature = "tract")]
            EngineKind::Tract => {
                if ![Provider::Cpu, Provider::Auto].contains(&options.provider) {
                    tracing::warn!(asked = options.provider.as_str(), "tract has no GPU: the CPU computes");
                }
                Ok(Self::Tract(Box::new(tract::Plans::load(bundle)?)))
            }
            #[cfg(not(feature = "tract"))]
            kind @ EngineKind::Tract => {
                let _ = bundle;
                Err(EngineError::NotBuilt { kind, feature: "tract" })
            }
        }
    }

    /// What computes: never [`Provider::Auto`].
    pub(crate) fn provider(&self) -> Provider {
        match *self {
            #[cfg(feature = "ort")]
            Self::Ort(ref sessions) => sessions.provider(),
            #[cfg(feature = "tract")]
            Self::Tract(_) => Provider::Cpu,
        }
    }

    /// Runs segment `index` (from 0) once.
    #[cfg_attr(not(any(feature = "ort", feature = "tract")), expect(unused_variables))]
    pub(crate) fn run(&self, index: usize, input: &SegmentInput<'_>) -> Result<SegmentOutput, EngineError> {
        match *self {
            #[cfg(feature = "ort")]
            Self::Ort(ref sessions) => sessions.run(index, input),
            #[cfg(feature = "tract")]
            Self::Tract(ref plans) => plans.run(index, input),
        }
    }
}

//! The backbones of one agent: every bundle loaded once, all on one engine.

use crate::config::BackboneConfig;
use loadonce_backbone::{Backbone, Bundle, BundleError, EngineError, EngineKind, EngineOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// The backbones in memory, in the configuration's order. Two may bear one name, as generations of it: then their
/// fingerprints differ.
#[derive(Debug, Clone)]
pub struct Backbones(Vec<Arc<Backbone>>);

/// Why the backbones of a configuration cannot be loaded.
#[derive(Debug, Error)]
pub enum BackbonesError {
    /// A bundle is not usable.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The engine cannot run one of them.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// One bundle would be loaded twice.
    #[error(
        "`backbone.bundle` names the same bundle twice: {} and {} both hold {name}, fingerprint {fingerprint}; keep one of them",
        first.display(), second.display()
    )]
    Twice {
        /// Listed first.
        first: PathBuf,
        /// Listed again.
        second: PathBuf,
        /// Their name.
        name: String,
        /// Their fingerprint, hexadecimal.
        fingerprint: String,
    },
}

impl BackbonesError {
    /// The word under which a start that failed by this is counted.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Bundle(_) | Self::Twice { .. } => "bundle",
            Self::Engine(_) => "engine",
        }
    }
}

impl Backbones {
    /// Verifies every bundle, then loads them. They share ONNX Runtime's one environment and thread pool. What
    /// TensorRT compiles is kept below the folder `state`.
    pub fn load(config: &BackboneConfig, state: &Path) -> Result<Self, BackbonesError> {
        let mut bundles: Vec<Bundle> = Vec::with_capacity(config.bundle.len());
        for folder in &config.bundle {
            let bundle = Bundle::open(folder)?;
            if let Some(first) = bundles.iter().find(|b| b.fingerprint() == bundle.fingerprint()) {
                return Err(BackbonesError::Twice {
                    first: first.dir().to_owned(),
                    second: folder.clone(),
                    name: bundle.name().to_owned(),
                    fingerprint: bundle.fingerprint().to_owned(),
                });
            }
            bundles.push(bundle);
        }
        let kind = if cfg!(feature = "ort") { EngineKind::Ort } else { EngineKind::Tract };
        let options = EngineOptions {
            kind,
            library: config.library.clone(),
            threads: config.threads,
            provider: config.provider,
            engines: Some(state.join("tensorrt")),
        };
        let load = |bundle| Ok(Arc::new(Backbone::load(bundle, &options)?));
        Ok(Self(bundles.into_iter().map(load).collect::<Result<_, EngineError>>()?))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Backbone>> {
        self.0.iter()
    }

    /// The one with this fingerprint.
    pub(crate) fn with(&self, fingerprint: &str) -> Option<&Arc<Backbone>> {
        self.iter().find(|backbone| backbone.bundle().fingerprint() == fingerprint)
    }

    /// The one that serves tasks of backbone `name`: of several generations the one with the fingerprint
    /// `pointed`, else the first in the configuration.
    pub(crate) fn named(&self, name: &str, pointed: Option<&str>) -> Option<&Arc<Backbone>> {
        let mut named = self.0.iter().filter(|backbone| backbone.bundle().name() == name);
        let pointed = pointed.and_then(|pointed| named.clone().find(|b| b.bundle().fingerprint() == pointed));
        pointed.or_else(|| named.next())
    }

    /// By how much loading them raised this process's memory, bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.iter().map(|backbone| backbone.resident_bytes()).sum()
    }

    /// Name and the first digits of the fingerprint of each, for a message to a person.
    pub(crate) fn installed(&self) -> String {
        let each = |backbone: &Arc<Backbone>| {
            let bundle = backbone.bundle();
            format!("`{}` ({})", bundle.name(), &bundle.fingerprint()[..8])
        };
        self.iter().map(each).collect::<Vec<_>>().join(", ")
    }
}

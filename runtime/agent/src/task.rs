//! One task: its manifest, its pointer, its slot.

use crate::serving::Active;
use loadonce_backbone::{Bundle, InputSpec};
use loadonce_control::{Input, ManifestError, Pointer, Stable, TaskManifest, Wants};
use loadonce_module::{Dataset, Shape, label_counts, log_prior};
use loadonce_store::Slots;
use loadonce_trust::{decode_hex, encode_hex};
use loadonce_wire::chunks::Reassembly;
use thiserror::Error;

/// A module file on its way here.
pub(crate) struct Fetch {
    /// What the pointer announced.
    pub stable: Stable,
    /// blake3 the file must have.
    pub hash: [u8; 32],
    /// The file so far.
    pub buffer: Vec<u8>,
    /// Which parts are there.
    pub parts: Reassembly,
    /// When blocks were last asked for, ms.
    pub asked_ms: u64,
}

/// What the store says about a task's samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Remembered samples.
    pub samples: u64,
    /// Labelled ones.
    pub labels: u64,
    /// Labelled ones that are held out.
    pub heldout: u64,
    /// Labels not yet in a sum.
    pub unsummed: u64,
}

/// A task as the agent holds it in memory.
pub(crate) struct Task {
    /// The manifest.
    pub manifest: TaskManifest,
    /// The module's shape.
    pub shape: Shape,
    /// Its fingerprint.
    pub shape_hash: [u8; 32],
    /// Directions taken from each channel.
    pub per_channel: usize,
    /// How samples are prepared.
    pub input: InputSpec,
    /// What the aggregator last announced.
    pub pointer: Option<Pointer>,
    /// What is served.
    pub active: Option<Active>,
    /// Where it is kept.
    pub slots: Option<Slots>,
    /// A newer version on its way.
    pub fetch: Option<Fetch>,
    /// Version the last step was trained from.
    pub last_step_base: u64,
    /// When the last label came, ms.
    pub last_label_ms: u64,
    /// The store's count, as of the last look.
    pub census: Census,
    /// Whether the store changed since.
    pub stale_census: bool,
    /// Contributions enqueued since the start.
    pub sums_sent: u64,
    /// Likewise.
    pub steps_sent: u64,
    /// Answers per exit since the start.
    pub exits: Vec<u64>,
}

/// Why a task cannot be served here.
#[derive(Debug, Error)]
pub(crate) enum TaskError {
    /// It needs a backbone that is not loaded.
    #[error(
        "needs the backbone `{wanted}`, but this gateway has loaded `{loaded}`; install that bundle or serve another task"
    )]
    WrongBackbone {
        /// The manifest's.
        wanted: String,
        /// The agent's.
        loaded: String,
    },
    /// The manifest is not valid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Task {
    /// Sets a task up on `bundle`.
    pub(crate) fn new(
        manifest: TaskManifest,
        bundle: &Bundle,
        slots: Option<Slots>,
    ) -> Result<Self, TaskError> {
        manifest.validate()?;
        if manifest.backbone != bundle.name() {
            let (wanted, loaded) = (manifest.backbone, bundle.name().to_owned());
            return Err(TaskError::WrongBackbone { wanted, loaded });
        }
        let shape = manifest.shape(bundle.exits(), bundle.directions())?;
        let input = match manifest.input {
            Input::Window { channels, length } => InputSpec::Window { channels, length },
            Input::Picture {} => InputSpec::Picture {},
        };
        Ok(Self {
            shape_hash: shape.fingerprint(&manifest.classes, bundle.fingerprint()),
            per_channel: manifest.features_per_channel(bundle.directions()),
            exits: vec![0; shape.exits],
            manifest,
            shape,
            input,
            pointer: None,
            active: None,
            slots,
            fetch: None,
            last_step_base: 0,
            last_label_ms: 0,
            census: Census::default(),
            stale_census: true,
            sums_sent: 0,
            steps_sent: 0,
        })
    }

    /// Class index of a class name.
    pub(crate) fn class(&self, name: &str) -> Option<u16> {
        self.manifest.classes.iter().position(|class| class == name).map(|i| i as u16)
    }

    /// This gateway's log label prior, the offset of prior-free training.
    pub(crate) fn log_prior(&self, train: &Dataset) -> Vec<f32> {
        log_prior(&label_counts(&train.labels, self.shape.outputs), self.manifest.personal.smoothing)
    }

    /// The announced version and its hash, if this gateway can run it.
    pub(crate) fn announced(&self) -> Option<(&Stable, [u8; 32])> {
        let pointer = self.pointer.as_ref()?;
        if pointer.shape != encode_hex(&self.shape_hash) {
            return None;
        }
        let stable = pointer.stable.as_ref()?;
        Some((stable, decode_hex(&stable.hash)?))
    }

    /// Version served now; 0 for none.
    pub(crate) fn version(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.version)
    }

    /// Whether a newer version than the served one is announced.
    pub(crate) fn behind(&self) -> bool {
        self.announced().is_some_and(|(stable, _)| stable.version > self.version())
    }

    /// Whether the aggregator waits for a step that this gateway has not sent.
    pub(crate) fn owes_step(&self) -> bool {
        let wanted = self.pointer.as_ref().is_some_and(|p| p.wants == Wants::Step);
        let current = self.announced().is_some_and(|(stable, _)| stable.version == self.version());
        wanted && current && self.last_step_base < self.version()
    }

    /// Whether labels have settled: none came for as long as the manifest asks.
    pub(crate) fn settled(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.last_label_ms) as f64 >= self.manifest.sync.settle_s * 1000.0
    }
}

//! A task's lineage as the core sees it. Everything here is derived from settings and journal.

use std::collections::VecDeque;

use loadonce_control::{Patch, Pointer, RoundMode, Stable, Wants};
use loadonce_module::Sums;
use loadonce_rounds::{Age, Expected, LineageEntry, Mode, Open, Round, Rules, opening};
use loadonce_trust::{encode_hex, hash};
use loadonce_wire::{ContributionKind, Manifest};

use crate::figures::{Heldout, TaskContributions};
use crate::settings::Task;

/// Names a lineage: a task on one backbone with one shape and class list.
pub fn lineage_id(task: &str, backbone: &[u8; 32], shape: &[u8; 32]) -> [u8; 32] {
    let length = [task.len() as u8];
    hash(&[b"loadonce lineage v1\0", &length[..], task.as_bytes(), backbone, shape].concat())
}

/// Versions whose participants are shown.
pub(crate) const SHOWN_VERSIONS: usize = 256;

/// The newest version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newest {
    pub(crate) entry: LineageEntry,
    /// Size of its module file.
    pub(crate) bytes: u32,
    /// Hash and size of the patch that makes it of the version before.
    pub(crate) patch: Option<([u8; 32], u32)>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) task: Task,
    pub(crate) id: [u8; 32],
    pub(crate) shape: [u8; 32],
    sum_bytes: usize,
    pub(crate) newest: Option<Newest>,
    /// Hash of the module file before the newest one.
    pub(crate) previous: Option<[u8; 32]>,
    /// The versions that a step may be trained from, oldest first, with the hashes of their module files.
    bases: Vec<(u64, [u8; 32])>,
    pub(crate) round: Round,
    /// Bytes of the blobs that the open round keeps on disk.
    pub(crate) pending_bytes: u64,
    /// Tenth parts of the quorum the log was told of.
    told: usize,
    /// Samples in the totals.
    pub(crate) samples: i64,
    /// Gateways behind the newest versions, [`SHOWN_VERSIONS`] at most, oldest first.
    pub(crate) participants: VecDeque<u32>,
    pub(crate) pointer: Pointer,
    /// Held-out figures that came with the steps of the newest version, since this process started.
    pub(crate) heldout: Option<Heldout>,
    /// Contributions since this process started.
    pub(crate) contributions: TaskContributions,
}

impl Line {
    pub(crate) fn new(site: &str, task: Task, newest: Option<Newest>, previous: Option<[u8; 32]>) -> Self {
        let backbone = encode_hex(&task.backbone);
        let shape = task.shape_hash;
        let id = lineage_id(&task.manifest.name, &task.backbone, &shape);
        let sum_bytes = Sums::for_shape(&task.shape).map_or(0, |zero| zero.to_bytes().len());
        let pointer = Pointer {
            site: site.to_owned(),
            task: task.manifest.name.clone(),
            backbone,
            shape: encode_hex(&shape),
            serial: 0,
            wants: Wants::None,
            stable: None,
        };
        let mut line = Self {
            round: Round::new(Open::None, rules(&task)),
            pending_bytes: 0,
            told: 0,
            samples: 0,
            participants: VecDeque::new(),
            task,
            id,
            shape,
            sum_bytes,
            newest: None,
            previous: None,
            bases: Vec::new(),
            pointer,
            heldout: None,
            contributions: TaskContributions::default(),
        };
        line.advance(newest, previous);
        line
    }

    /// Takes over a new newest version and opens the round that follows it. The pointer's serial stays.
    pub(crate) fn advance(&mut self, newest: Option<Newest>, previous: Option<[u8; 32]>) {
        self.newest = newest;
        self.previous = previous;
        (self.pending_bytes, self.told) = (0, 0);
        if let Some(Newest { entry, .. }) = newest {
            self.note_base(entry.version, entry.module);
        }
        self.round = Round::new(self.opens_after(self.version()), rules(&self.task));
        self.pointer = self.pointer_to(newest, previous, self.pointer.serial);
    }

    /// Notes a version as a base; those outside the window of the newest one are forgotten.
    pub(crate) fn note_base(&mut self, version: u64, module: [u8; 32]) {
        let window = self.task.manifest.rounds.staleness();
        self.bases.retain(|&(base, _)| base != version);
        self.bases.push((version, module));
        self.bases.sort_unstable();
        let newest = self.version();
        self.bases.retain(|&(base, _)| newest.saturating_sub(base) <= window);
    }

    /// Versions that were cut since the base of a step; 0 for a sum.
    pub(crate) fn staleness(&self, manifest: &Manifest) -> u64 {
        match manifest.kind {
            ContributionKind::Step => self.version().saturating_sub(manifest.base_version),
            ContributionKind::Sum => 0,
        }
    }

    /// Whether a contribution is from the newest version.
    pub(crate) fn age(&self, manifest: &Manifest) -> Age {
        Age::of(self.staleness(manifest))
    }

    /// Notes how many gateways are behind the version that follows the last noted one.
    pub(crate) fn note_participants(&mut self, gateways: u32) {
        if self.participants.len() == SHOWN_VERSIONS {
            self.participants.pop_front();
        }
        self.participants.push_back(gateways);
    }

    /// Tells the log of the open round's progress: of every gateway in a small one, of every tenth part of the quorum
    /// in a large one.
    pub(crate) fn tell_progress(&mut self) {
        let (gateways, quorum) = (self.round.gateways(), self.task.manifest.rounds.quorum);
        let part = (quorum / 10).max(1);
        if gateways / part > self.told {
            self.told = gateways / part;
            tracing::info!(
                task = self.name(),
                round = self.version() + 1,
                gateways,
                quorum,
                contributions = self.round.contributions(),
                "round"
            );
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.task.manifest.name
    }

    /// The newest version; 0 for none.
    pub(crate) fn version(&self) -> u64 {
        self.newest.map_or(0, |newest| newest.entry.version)
    }

    pub(crate) fn opens_after(&self, version: u64) -> Open {
        opening(self.task.shape.recipe, version, self.task.manifest.steps())
    }

    /// What a contribution is checked against.
    pub(crate) fn expected(&self) -> Expected<'_> {
        Expected {
            backbone: self.task.backbone,
            shape: self.shape,
            bases: &self.bases,
            open: self.round.open(),
            parameters: self.task.shape.parameters(),
            sum_bytes: self.sum_bytes,
        }
    }

    /// The pointer that says `newest`.
    pub(crate) fn pointer_to(
        &self,
        newest: Option<Newest>,
        previous: Option<[u8; 32]>,
        serial: u64,
    ) -> Pointer {
        let stable = newest.map(|Newest { entry, bytes, patch }| Stable {
            version: entry.version,
            hash: encode_hex(&entry.module),
            bytes,
            base: previous.map(|hash| encode_hex(&hash)).unwrap_or_default(),
            patch: patch.map(|(hash, bytes)| Patch { hash: encode_hex(&hash), bytes }),
        });
        let wants = match self.opens_after(newest.map_or(0, |newest| newest.entry.version)) {
            Open::Sum => Wants::Sum,
            Open::Step => Wants::Step,
            Open::None => Wants::None,
        };
        Pointer { serial, wants, stable, ..self.pointer.clone() }
    }
}

fn rules(task: &Task) -> Rules {
    let policy = &task.manifest.rounds;
    Rules {
        mode: match policy.mode {
            RoundMode::Sync => Mode::Sync,
            RoundMode::Buffered => Mode::Buffered,
        },
        quorum: policy.quorum,
        minimum: policy.minimum,
        deadline_ms: (policy.deadline_s > 0).then(|| policy.deadline_s.saturating_mul(1000)),
    }
}

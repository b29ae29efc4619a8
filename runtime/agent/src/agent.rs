//! The agent: messages in, messages out, everything durable in between. No socket and no thread in here.

use crate::backbones::Backbones;
use crate::config::Config;
use crate::figures::Counters;
use crate::open::random_u64;
use crate::outgoing::{Outgoing, Side};
use crate::power::{Cause, Power, Readings};
use crate::recent::{EarlyLabels, RecentQueue};
use crate::record::{Given, Record};
use crate::samples::SamplesError;
use crate::sending::Loaded;
use crate::task::{Task, TaskError};
use crate::training::{Away, Job};
use loadonce_backbone::Bundle;
use loadonce_control::{BackboneInfo, Pointer, Presence, Signed, SignedError, TaskInfo, TaskManifest};
use loadonce_delivery::Sender;
use loadonce_store::redb::{self, TableDefinition};
use loadonce_store::{Database, Outbox, OutboxError, Slots, StoreError};
use loadonce_trust::{Identity, KeyError, PublicKey, encode_hex};
use loadonce_wire::Topic;
use std::collections::BTreeMap;
use std::path::PathBuf;
use thiserror::Error;

/// Small durable facts of the agent.
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("agent");
/// Most tasks one agent serves.
pub const MAX_TASKS: usize = 64;

/// Between two births that tell of pauses of training.
const BIRTH_AGAIN_MS: u64 = 600_000;

/// Why the agent cannot start or go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The feature store failed.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// The outbox failed.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The identity could not be made or read.
    #[error("{path}: {source}")]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// The key file could not be read.
    #[error("cannot read the key file {path}: {source}")]
    ReadKey {
        /// The key file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system gave no randomness.
    #[error("the system gave no random bytes: {0}")]
    NoRandomness(getrandom::Error),
}

macro_rules! from_redb {
    ($($kind:ty),+) => {$(
        impl From<$kind> for AgentError {
            fn from(error: $kind) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}
from_redb!(redb::TableError, redb::StorageError, redb::CommitError);

/// See the module's documentation. Times are milliseconds of any monotonic clock.
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) backbones: Backbones,
    pub(crate) database: Database,
    pub(crate) outbox: Outbox,
    /// Why nothing is written, where that is so.
    pub(crate) degraded: Option<String>,
    pub(crate) incarnation: u64,
    pub(crate) heldout_key: [u8; 32],
    pub(crate) aggregator: Option<PublicKey>,
    pub(crate) tasks: BTreeMap<String, Task>,
    pub(crate) recent: RecentQueue,
    /// Completed samples and labels waiting for one durable write.
    pub(crate) unwritten: Vec<Unwritten>,
    /// Since when the oldest of them waits.
    pub(crate) unwritten_since_ms: Option<u64>,
    /// Labels that came before their sample.
    pub(crate) early: EarlyLabels,
    pub(crate) job: Option<Job>,
    /// The job that was lent.
    pub(crate) away: Option<Away>,
    /// Whether jobs are lent and not worked on here.
    pub(crate) lends: bool,
    /// Jobs lent so far.
    pub(crate) jobs: u64,
    pub(crate) power: Power,
    /// What the newest birth told of a pause, and when.
    pub(crate) pause_told: Option<(u64, Option<Cause>)>,
    /// What was last written to `figures.json`, without what changes by itself, and when.
    pub(crate) figures_written: Option<(u64, [u8; 32])>,
    pub(crate) sender: Sender,
    /// The contribution whose chunks are going out.
    pub(crate) loaded: Option<Loaded>,
    pub(crate) counters: Counters,
    pub(crate) connected: bool,
    pub(crate) report_due: bool,
}

/// A change of the feature store that is not written yet.
pub(crate) enum Unwritten {
    /// A new sample.
    Sample(String, Record),
    /// A label of a stored sample: task, sample id, label.
    Label(String, String, Given),
}

impl Agent {
    /// Tasks come back from the store, so that a gateway answers without a network.
    pub(crate) fn restore_tasks(&mut self) -> Result<(), AgentError> {
        let mut found = Vec::new();
        {
            let tx = self.database.begin_read()?;
            let meta = tx.open_table(META)?;
            for entry in meta.range("manifest/".."manifest0")? {
                let (key, value) = entry?;
                found.push((key.value()["manifest/".len()..].to_owned(), value.value().to_vec()));
            }
        }
        for (name, manifest) in found {
            self.adopt_manifest(&name, &manifest, false)?;
        }
        Ok(())
    }

    /// The gateway's public key.
    pub fn public_key(&self) -> PublicKey {
        self.identity.public()
    }

    /// The key that contributions are signed with.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Believes the aggregator that enrolment named, from now on and for good. What the configuration says stands above.
    pub(crate) fn believe_aggregator(&mut self, key: PublicKey) -> Result<(), AgentError> {
        if self.config.aggregator_key().is_none() && self.aggregator != Some(key) {
            self.set_meta("aggregator_key", &key)?;
            self.aggregator = Some(key);
        }
        Ok(())
    }

    /// This start's number.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The last will and the goodbye.
    pub fn farewell(&self) -> Outgoing {
        self.presence(&Presence::Down { incarnation: self.incarnation })
    }

    /// Topics of the uplink, subscribed after every connection.
    pub fn uplink_topics(config: &Config, backbones: &Backbones) -> Vec<String> {
        let gateway = config.gateway.as_str();
        let all = [Topic::Down { gateway }, Topic::State { gateway }, Topic::Task { task: "+" }].into_iter();
        let pointer = |backbone| Topic::Pointer { task: "+", backbone };
        let pointers = backbones.iter().map(|backbone| pointer(backbone.bundle().fingerprint()));
        all.chain(pointers).map(|topic| topic.text(&config.site).as_str().to_owned()).collect()
    }

    /// Topics of the data plane.
    pub fn data_topics(config: &Config) -> Vec<String> {
        let gateway = config.gateway.as_str();
        let site = config.site.as_str();
        vec![
            Topic::In { gateway, task: "+", sample: "+" }.text(site).as_str().to_owned(),
            Topic::Label { gateway, task: "+", sample: "+" }.text(site).as_str().to_owned(),
        ]
    }

    /// The uplink is connected and every subscription stands: announce birth and send what waits.
    pub fn on_connected(&mut self, now_ms: u64) -> Result<Outgoing, AgentError> {
        self.connected = true;
        self.pause_told = Some((now_ms, self.power.paused().map(|(cause, _)| cause)));
        let spread_ms = self.spread_ms();
        self.sender.connected(now_ms, random_u64()?, spread_ms);
        self.fetch_again(now_ms, spread_ms)?;
        self.report_due = true;
        Ok(self.birth())
    }

    /// The uplink is gone.
    pub fn on_disconnected(&mut self) {
        self.connected = false;
    }

    pub(crate) fn birth(&self) -> Outgoing {
        let info = |bundle: &Bundle| BackboneInfo {
            name: bundle.name().to_owned(),
            fingerprint: bundle.fingerprint().to_owned(),
        };
        self.presence(&Presence::Up {
            incarnation: self.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: encode_hex(&self.identity.public()),
            backbones: self.backbones.iter().map(|backbone| info(backbone.bundle())).collect(),
            tasks: self
                .tasks
                .iter()
                .map(|(name, t)| TaskInfo { name: name.clone(), version: t.version() })
                .collect(),
            paused: self.power.paused().map(|(cause, _)| cause.word().to_owned()),
        })
    }

    /// What the kernel says of heat and power, every few seconds. A pause that begins or ends is told once: in the
    /// log, and by a new birth, which is at most one in [`BIRTH_AGAIN_MS`], for a metered line pays for it.
    pub fn on_readings(&mut self, readings: &Readings, now_ms: u64, out: &mut Vec<Outgoing>) {
        if self.power.observe(now_ms, readings) {
            self.report_due = true;
            if let Some((cause, why)) = self.power.paused() {
                tracing::warn!(cause = cause.word(), why, "training pauses; answers go on");
            } else {
                tracing::info!("training goes on");
            }
        }
        let cause = self.power.paused().map(|(cause, _)| cause);
        let due = match self.pause_told {
            Some((when, told)) => told != cause && now_ms.saturating_sub(when) >= BIRTH_AGAIN_MS,
            None => cause.is_some(),
        };
        if self.connected && due {
            self.pause_told = Some((now_ms, cause));
            out.push(self.birth());
        }
    }

    /// One line for the person who asks how it goes.
    pub fn status(&self) -> String {
        let tasks = match self.tasks.len() {
            0 => "waits for its first task".to_owned(),
            1 => "serves 1 task".to_owned(),
            n => format!("serves {n} tasks"),
        };
        let uplink = if self.connected { "uplink connected" } else { "uplink down, deltas wait" };
        let job = self.away.as_ref().map(|away| &*away.task).or(self.job.as_ref().map(Job::task));
        let learning = match (&self.degraded, self.power.paused(), job) {
            (Some(_), ..) => "the state folder cannot be written, nothing is learned".to_owned(),
            (None, Some((_, why)), _) => format!("training pauses: {why}"),
            (None, None, Some(task)) => format!("trains {task}"),
            (None, None, None) => "at rest".to_owned(),
        };
        format!("{tasks}; {uplink}; {learning}")
    }

    fn presence(&self, presence: &Presence) -> Outgoing {
        let topic = Topic::State { gateway: &self.config.gateway }.text(&self.config.site);
        let payload = serde_json::to_vec(presence).expect("presence always serializes");
        Outgoing {
            side: Side::Uplink,
            topic: topic.as_str().to_owned(),
            payload,
            at_least_once: true,
            retain: true,
        }
    }

    /// Whether a sample is held out: decided by its id for good, with a key no sender knows.
    pub(crate) fn heldout(&self, task: &Task, id: &str) -> bool {
        let mut hasher = blake3::Hasher::new_keyed(&self.heldout_key);
        hasher.update(task.manifest.name.as_bytes()).update(b"\0").update(id.as_bytes());
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        (u64::from_le_bytes(first) as f64) < task.manifest.sync.heldout * u64::MAX as f64
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, AgentError> {
        let tx = self.database.begin_read()?;
        let table = tx.open_table(META)?;
        Ok(table.get(key)?.map(|value| value.value().to_vec()))
    }

    pub(crate) fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), AgentError> {
        let tx = self.database.begin_write()?;
        tx.open_table(META)?.insert(key, value)?;
        tx.commit()?;
        Ok(())
    }

    /// Opens an envelope with the pinned key, pinning the first one seen where the configuration says so.
    pub(crate) fn believe<T: for<'de> serde::Deserialize<'de>>(
        &mut self,
        domain: &[u8],
        bytes: &[u8],
    ) -> Result<Result<T, SignedError>, AgentError> {
        let opened = Signed::parse(bytes).and_then(|signed| {
            let signer = signed.signer()?;
            let nobody =
                || SignedError::WrongSigner { found: encode_hex(&signer), trusted: "nobody yet".into() };
            let first = self.config.trust.first_use.then_some(signer);
            let trusted = self.aggregator.or(first).ok_or_else(nobody)?;
            Ok((signed.open::<T>(domain, &trusted)?, signer))
        });
        let (message, signer) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if self.aggregator.is_none() {
            self.set_meta("aggregator_key", &signer)?;
            self.aggregator = Some(signer);
            tracing::warn!(key = %encode_hex(&signer), "pinned the first aggregator key seen (trust.first_use)");
        }
        Ok(Ok(message))
    }

    /// Takes a manifest that was believed, or one from the store.
    pub(crate) fn adopt_manifest(&mut self, name: &str, json: &[u8], fresh: bool) -> Result<(), AgentError> {
        let manifest: TaskManifest = match serde_json::from_slice(json) {
            Ok(manifest) => manifest,
            Err(error) => {
                self.counters.refuse("bad_manifest");
                tracing::error!(task = name, %error, "task manifest does not parse; it is ignored");
                return Ok(());
            }
        };
        if manifest.name != name || !self.config.serves(name) {
            return Ok(());
        }
        if self.tasks.get(name).is_some_and(|task| task.manifest == manifest) {
            return Ok(());
        }
        if !self.tasks.contains_key(name) && self.tasks.len() >= MAX_TASKS {
            self.counters.refuse("too_many_tasks");
            tracing::error!(
                task = name,
                "this agent already serves {MAX_TASKS} tasks; list fewer under `tasks`"
            );
            return Ok(());
        }
        let Some(task) = self.set_up(name, manifest)? else { return Ok(()) };
        if fresh {
            if let Some(known) = self.meta(&format!("manifest/{name}"))?
                && let Ok(known) = serde_json::from_slice::<TaskManifest>(&known)
                && !task.extends(&known)
            {
                self.counters.refuse("bad_manifest");
                let error = TaskError::Meaning { kind: known.kind, known: known.classes.join(", ") };
                tracing::error!(task = name, %error, "the new manifest is refused; the old one goes on");
                return Ok(());
            }
            self.set_meta(&format!("manifest/{name}"), json)?;
        }
        self.serve(task)
    }

    /// The task on the backbone that its manifest names and, of several generations, its last pointer; `None`,
    /// counted and told, where it cannot be served.
    pub(crate) fn set_up(&mut self, name: &str, manifest: TaskManifest) -> Result<Option<Task>, AgentError> {
        let pointer = self.known_pointer(name)?;
        let pointed = pointer.as_ref().map(|pointer| pointer.backbone.as_str());
        let task = match self.backbones.named(&manifest.backbone, pointed).cloned() {
            Some(backbone) => Task::new(manifest, backbone, self.open_slots(name)),
            None => Err(TaskError::WrongBackbone {
                wanted: manifest.backbone,
                installed: self.backbones.installed(),
            }),
        };
        match task {
            Ok(task) => Ok(Some(task)),
            Err(error) => {
                let code = match error {
                    TaskError::WrongBackbone { .. } => "wrong_backbone",
                    TaskError::Manifest(_) | TaskError::Input(_) | TaskError::Meaning { .. } => {
                        "bad_manifest"
                    }
                };
                self.counters.refuse(code);
                tracing::error!(task = name, %error, "task is not served");
                Ok(None)
            }
        }
    }

    /// The pointer of the highest serial that was believed.
    pub(crate) fn known_pointer(&self, name: &str) -> Result<Option<Pointer>, AgentError> {
        let known = self.meta(&format!("pointer/{name}"))?;
        Ok(known.and_then(|known| serde_json::from_slice(&known).ok()))
    }

    /// Serves `task` from now on, in place of what bore its name.
    pub(crate) fn serve(&mut self, mut task: Task) -> Result<(), AgentError> {
        let name = &task.manifest.name.clone();
        if self.tasks.contains_key(name) {
            // What waits was read for the task as it was.
            while !self.recent.is_empty() {
                self.complete_one()?;
            }
        }
        let note = self.meta(&format!("step/{name}"))?.unwrap_or_default();
        if let Some((shape, version)) = note.split_first_chunk::<8>()
            && *shape == task.shape_tag
        {
            // Versions of another shape's lineage say nothing about this one's.
            task.last_step_base = version.try_into().map_or(0, u64::from_le_bytes);
        }
        self.load_slot(&mut task);
        self.job.take_if(|job| job.task() == name);
        self.away.take_if(|away| away.task == *name);
        tracing::info!(
            task = name, version = task.version(), backbone = %task.backbone.bundle().fingerprint(),
            "task is served"
        );
        self.tasks.insert(name.to_owned(), task);
        self.sender.unpark();
        if let Some(pointer) = self.meta(&format!("pointer/{name}"))? {
            self.adopt_pointer(name, &pointer, false)?;
        }
        self.report_due = true;
        Ok(())
    }

    fn open_slots(&mut self, name: &str) -> Option<Slots> {
        let dir = self.config.state.join("slots").join(name);
        let made = std::fs::create_dir_all(&dir).map_err(|error| StoreError::from_io(&dir, error));
        match made.and_then(|()| Slots::open(&dir)) {
            Ok(slots) => Some(slots),
            Err(error) => {
                self.counters.refuse("slot_unavailable");
                tracing::error!(task = name, %error, "module slots cannot be opened; modules stay in memory");
                None
            }
        }
    }
}

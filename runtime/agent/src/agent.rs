//! The agent: messages in, messages out, everything durable in between. No socket and no thread in here.

use crate::config::Config;
use crate::figures::Counters;
use crate::outgoing::{Outgoing, Side};
use crate::recent::RecentQueue;
use crate::samples::{self, Record, SamplesError};
use crate::sending::Sending;
use crate::task::{Task, TaskError};
use crate::training::Job;
use loadonce_backbone::Backbone;
use loadonce_control::{BackboneInfo, Presence, Signed, SignedError, TaskInfo, TaskManifest};
use loadonce_store::redb::{self, ReadableTable, TableDefinition};
use loadonce_store::{
    DEFAULT_CACHE_BYTES, Database, Outbox, OutboxBounds, OutboxError, Slots, StoreError, write_atomic,
};
use loadonce_trust::{Identity, KeyError, PublicKey, encode_hex};
use loadonce_wire::Topic;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Small durable facts of the agent.
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("agent");
/// Most tasks one agent serves.
pub const MAX_TASKS: usize = 64;
/// Most entries the outbox holds.
const OUTBOX_ENTRIES: u64 = 1024;

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
    pub(crate) backbone: Arc<Backbone>,
    pub(crate) database: Database,
    pub(crate) outbox: Outbox,
    /// Why nothing is written, where that is so.
    pub(crate) degraded: Option<String>,
    pub(crate) incarnation: u64,
    heldout_key: [u8; 32],
    pub(crate) aggregator: Option<PublicKey>,
    pub(crate) tasks: BTreeMap<String, Task>,
    pub(crate) recent: RecentQueue,
    /// Completed samples and labels waiting for one durable write.
    pub(crate) unwritten: Vec<Unwritten>,
    pub(crate) job: Option<Job>,
    pub(crate) sending: Sending,
    pub(crate) counters: Counters,
    pub(crate) connected: bool,
    pub(crate) report_due: bool,
}

/// A change of the feature store that is not written yet.
pub(crate) enum Unwritten {
    /// A new sample.
    Sample(String, Record),
    /// A label of a stored sample: task, sample id, class.
    Label(String, String, u16),
}

impl Agent {
    /// Opens the state folder and everything in it. A folder that cannot be written is survived: the agent then
    /// answers from what it finds and contributes nothing.
    pub fn open(config: Config, backbone: Arc<Backbone>) -> Result<Self, AgentError> {
        let (database, degraded) = open_database(&config.state)?;
        let identity = open_identity(&config.state.join("agent.key"), degraded.is_some())?;
        let bounds = OutboxBounds { max_bytes: config.store.outbox_bytes, max_entries: OUTBOX_ENTRIES };
        let outbox = Outbox::open(&database, bounds, random_u64()?)?;
        let tx = database.begin_write()?;
        samples::create(&tx)?;
        let (incarnation, heldout_key, pinned);
        {
            let mut meta = tx.open_table(META)?;
            let last = meta
                .get("incarnation")?
                .and_then(|v| v.value().try_into().ok())
                .map_or(0, u64::from_le_bytes);
            incarnation = last + 1;
            meta.insert("incarnation", incarnation.to_le_bytes().as_slice())?;
            let known = meta.get("heldout_key")?.and_then(|v| v.value().try_into().ok());
            heldout_key = if let Some(key) = known {
                key
            } else {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(AgentError::NoRandomness)?;
                meta.insert("heldout_key", key.as_slice())?;
                key
            };
            pinned = meta.get("aggregator_key")?.and_then(|v| v.value().try_into().ok());
        }
        tx.commit()?;
        let aggregator = config.aggregator_key().or(pinned);
        let mut agent = Self {
            identity,
            backbone,
            database,
            outbox,
            degraded,
            incarnation,
            heldout_key,
            aggregator,
            tasks: BTreeMap::new(),
            recent: RecentQueue::default(),
            unwritten: Vec::new(),
            job: None,
            sending: Sending::default(),
            counters: Counters::default(),
            connected: false,
            report_due: true,
            config,
        };
        agent.restore_tasks()?;
        agent.sending.pending = agent.outbox.counters(&agent.database)?.pending;
        Ok(agent)
    }

    /// Tasks come back from the store, so that a gateway answers without a network.
    fn restore_tasks(&mut self) -> Result<(), AgentError> {
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

    /// This start's number.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The last will and the goodbye.
    pub fn farewell(&self) -> Outgoing {
        self.presence(&Presence::Down { incarnation: self.incarnation })
    }

    /// Topics of the uplink, subscribed after every connection.
    pub fn uplink_topics(config: &Config, fingerprint: &str) -> Vec<String> {
        let gateway = config.gateway.as_str();
        let site = config.site.as_str();
        vec![
            Topic::Down { gateway }.text(site).as_str().to_owned(),
            Topic::State { gateway }.text(site).as_str().to_owned(),
            Topic::Task { task: "+" }.text(site).as_str().to_owned(),
            Topic::Pointer { task: "+", backbone: fingerprint }.text(site).as_str().to_owned(),
        ]
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
    pub fn on_connected(&mut self) -> Outgoing {
        self.connected = true;
        self.sending.forget();
        for task in self.tasks.values_mut() {
            if let Some(fetch) = &mut task.fetch {
                fetch.asked_ms = 0;
            }
        }
        self.report_due = true;
        self.birth()
    }

    /// The uplink is gone.
    pub fn on_disconnected(&mut self) {
        self.connected = false;
    }

    pub(crate) fn birth(&self) -> Outgoing {
        let bundle = self.backbone.bundle();
        let info =
            BackboneInfo { name: bundle.name().to_owned(), fingerprint: bundle.fingerprint().to_owned() };
        self.presence(&Presence::Up {
            incarnation: self.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: encode_hex(&self.identity.public()),
            backbones: vec![info],
            tasks: self
                .tasks
                .iter()
                .map(|(name, t)| TaskInfo { name: name.clone(), version: t.version() })
                .collect(),
        })
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
            let trusted = self.aggregator.unwrap_or(signer);
            Ok((signed.open::<T>(domain, &trusted)?, signer))
        });
        let (message, signer) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if self.aggregator.is_none() {
            // Configuration reading made sure that a missing key means trust on first use.
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
        let slots = self.open_slots(name);
        let mut task = match Task::new(manifest, self.backbone.bundle(), slots) {
            Ok(task) => task,
            Err(error) => {
                let code = match error {
                    TaskError::WrongBackbone { .. } => "wrong_backbone",
                    TaskError::Manifest(_) => "bad_manifest",
                };
                self.counters.refuse(code);
                tracing::error!(task = name, %error, "task is not served");
                return Ok(());
            }
        };
        if fresh {
            self.set_meta(&format!("manifest/{name}"), json)?;
        }
        self.reset_marks_of_another_shape(&task)?;
        task.last_step_base =
            self.meta(&format!("step/{name}"))?.and_then(|v| v.try_into().ok()).map_or(0, u64::from_le_bytes);
        self.load_slot(&mut task);
        if self.job.as_ref().is_some_and(|job| job.task() == name) {
            self.job = None;
        }
        tracing::info!(task = name, version = task.version(), "task is served");
        self.tasks.insert(name.to_owned(), task);
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

    /// Sums are kept per shape: after a change of classes or features everything is summed anew.
    fn reset_marks_of_another_shape(&self, task: &Task) -> Result<(), AgentError> {
        let name = &task.manifest.name;
        let key = format!("shape/{name}");
        if self.meta(&key)?.as_deref() == Some(&task.shape_hash) {
            return Ok(());
        }
        let mut marked = Vec::new();
        samples::visit(&self.database.begin_read()?, name, |number, record| {
            if record.summed.is_some() {
                marked.push(number);
            }
        })?;
        let tx = self.database.begin_write()?;
        for number in marked {
            samples::mark_summed(&tx, name, number, None)?;
        }
        tx.open_table(META)?.insert(key.as_str(), task.shape_hash.as_slice())?;
        tx.commit()?;
        Ok(())
    }
}

pub(crate) fn random_u64() -> Result<u64, AgentError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(AgentError::NoRandomness)?;
    Ok(u64::from_le_bytes(bytes))
}

fn open_database(state: &Path) -> Result<(Database, Option<String>), AgentError> {
    let made = std::fs::create_dir_all(state).map_err(|error| StoreError::from_io(state, error));
    let opened =
        made.and_then(|()| Database::open_or_quarantine(&state.join("agent.redb"), DEFAULT_CACHE_BYTES));
    match opened {
        Ok((database, _)) => Ok((database, None)),
        Err(error @ (StoreError::ReadOnly { .. } | StoreError::Full { .. })) => {
            tracing::error!(%error, "running without a store: predictions only, nothing is learned or sent");
            let memory = redb::backends::InMemoryBackend::new();
            Ok((Database::open_with(memory, DEFAULT_CACHE_BYTES)?, Some(error.to_string())))
        }
        Err(error) => Err(error.into()),
    }
}

fn open_identity(path: &Path, read_only: bool) -> Result<Identity, AgentError> {
    let key = |source| AgentError::Key { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => Identity::from_file_text(&text).map_err(key),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound || read_only => {
            let identity = Identity::generate().map_err(key)?;
            if !read_only {
                write_atomic(path, identity.to_file_text().as_bytes(), 0o600)?;
                tracing::info!(key = %encode_hex(&identity.public()), "made this gateway's key");
            }
            Ok(identity)
        }
        Err(source) => Err(AgentError::ReadKey { path: path.to_owned(), source }),
    }
}

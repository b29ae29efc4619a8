//! Opening the state folder, and going on without it when it cannot be written.

use crate::agent::{Agent, AgentError, META};
use crate::backbones::Backbones;
use crate::config::Config;
use crate::figures::Counters;
use crate::power::Power;
use crate::recent::{EarlyLabels, RecentQueue};
use crate::residual;
use crate::samples;
use loadonce_delivery::{Sender, SenderConfig};
use loadonce_store::redb::{self, ReadableTable};
use loadonce_store::{DEFAULT_CACHE_BYTES, Database, Outbox, OutboxBounds, StoreError, write_atomic};
use loadonce_trust::{Identity, encode_hex};
use std::collections::BTreeMap;
use std::path::Path;

/// Most entries the outbox holds.
const OUTBOX_ENTRIES: u64 = 1024;
/// Largest database that is read into memory for the facts in it.
const MAX_SALVAGE: u64 = 64 * 1024 * 1024;

impl Agent {
    /// Opens the state folder and everything in it. A folder that cannot be written is survived: the agent then
    /// answers from what it finds and contributes nothing.
    pub fn open(config: Config, backbones: Backbones) -> Result<Self, AgentError> {
        let state = config.state.clone();
        let path = state.join("agent.redb");
        let made = std::fs::create_dir_all(&state).map_err(|error| StoreError::from_io(&state, error));
        let opened = made.and_then(|()| Database::open_or_quarantine(&path, DEFAULT_CACHE_BYTES));
        let why = match opened {
            Ok((database, set_aside)) => {
                let opened = Self::assemble(config.clone(), backbones.clone(), database, None);
                match opened {
                    Ok(mut agent) => {
                        if set_aside.is_some() {
                            agent.counters.refuse("database_set_aside");
                        }
                        return Ok(agent);
                    }
                    // The disk filled up, or turned read-only, between two writes.
                    Err(error) if error.is_of_the_store() => error.to_string(),
                    Err(error) => return Err(error),
                }
            }
            Err(error @ (StoreError::ReadOnly { .. } | StoreError::Full { .. })) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        tracing::error!(
            error = why, state = %state.display(),
            "running without a store: predictions only, nothing is learned or sent"
        );
        let database = salvage(&path)?;
        Self::assemble(config, backbones, database, Some(why))
    }

    fn assemble(
        config: Config,
        backbones: Backbones,
        database: Database,
        degraded: Option<String>,
    ) -> Result<Self, AgentError> {
        let identity = open_identity(&config.state.join("agent.key"), degraded.is_some())?;
        let outbox = open_outbox(&config, &database)?;
        let tx = database.begin_write()?;
        samples::create(&tx)?;
        residual::open(&tx)?;
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
            backbones,
            database,
            outbox,
            degraded,
            incarnation,
            heldout_key,
            aggregator,
            tasks: BTreeMap::new(),
            recent: RecentQueue::default(),
            unwritten: Vec::new(),
            unwritten_since_ms: None,
            early: EarlyLabels::default(),
            job: None,
            away: None,
            lends: false,
            jobs: 0,
            power: Power::new(config.power.clone()),
            pause_told: None,
            figures_written: None,
            sender: sender(),
            loaded: None,
            counters: Counters::default(),
            connected: false,
            report_due: true,
            config,
        };
        if agent.degraded.is_some() {
            agent.counters.refuse("state_unwritable");
        }
        agent.restore_tasks()?;
        agent.sender.pending = agent.outbox.counters(&agent.database)?.pending;
        Ok(agent)
    }

    /// The store failed while running: go on answering from memory. What waits in the outbox stays on the disk
    /// and goes out after a restart on a disk that can be written.
    pub fn degrade(&mut self, error: &AgentError) -> Result<(), AgentError> {
        tracing::error!(
            %error, state = %self.config.state.display(),
            "the store failed: predictions go on, nothing is learned or sent until the disk is writable and the agent restarted"
        );
        let mut memory = in_memory()?;
        if let Err(error) = copy_facts(&self.database, &memory) {
            // Tasks and modules are in memory; what is lost is which pointers were seen.
            tracing::warn!(%error, "the failed store cannot be read either");
            memory = in_memory()?;
        }
        self.outbox = open_outbox(&self.config, &memory)?;
        let tx = memory.begin_write()?;
        samples::create(&tx)?;
        residual::open(&tx)?;
        tx.commit()?;
        self.database = memory;
        self.degraded = Some(error.to_string());
        self.counters.refuse("state_unwritable");
        self.job = None;
        self.away = None;
        self.unwritten.clear();
        while self.recent.pop().is_some() {}
        self.sender = sender();
        self.loaded = None;
        for task in self.tasks.values_mut() {
            task.stale_census = true;
        }
        self.report_due = true;
        Ok(())
    }
}

impl AgentError {
    /// Whether the disk is the cause, and not what was asked of it.
    pub fn is_of_the_store(&self) -> bool {
        !matches!(self, Self::Key { .. } | Self::ReadKey { .. } | Self::NoRandomness(_))
    }
}

fn sender() -> Sender {
    Sender::new(SenderConfig { remembered: OUTBOX_ENTRIES as usize, ..SenderConfig::default() })
}

fn open_outbox(config: &Config, database: &Database) -> Result<Outbox, AgentError> {
    let bounds = OutboxBounds { max_bytes: config.store.outbox_bytes, max_entries: OUTBOX_ENTRIES };
    Ok(Outbox::open(database, bounds, random_u64()?)?)
}

fn in_memory() -> Result<Database, AgentError> {
    Ok(Database::open_with(redb::backends::InMemoryBackend::new(), DEFAULT_CACHE_BYTES)?)
}

/// An in-memory database with the facts (tasks, pointers, pinned key) of the one at `path`, as far as that can
/// be read. It is read whole into memory first, for one that was not closed has to be repaired to be read.
fn salvage(path: &Path) -> Result<Database, AgentError> {
    let memory = in_memory()?;
    match std::fs::metadata(path) {
        Ok(found) if found.len() <= MAX_SALVAGE => {}
        Ok(found) => {
            tracing::error!(
                bytes = found.len(),
                "the store is too large to be read into memory; tasks come back with the uplink"
            );
            return Ok(memory);
        }
        Err(_) => return Ok(memory),
    }
    let copied = Database::read_copy(path, DEFAULT_CACHE_BYTES)
        .map_err(AgentError::from)
        .and_then(|copy| copy_facts(&copy, &memory));
    if let Err(error) = copied {
        tracing::error!(%error, "the store cannot be read; tasks come back with the uplink");
        return in_memory();
    }
    Ok(memory)
}

fn copy_facts(from: &Database, to: &Database) -> Result<(), AgentError> {
    let tx = to.begin_write()?;
    {
        let mut facts = tx.open_table(META)?;
        match from.begin_read()?.open_table(META) {
            Ok(known) => {
                for row in known.range::<&str>(..)? {
                    let (key, value) = row?;
                    facts.insert(key.value(), value.value())?;
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    tx.commit()?;
    Ok(())
}

pub(crate) fn random_u64() -> Result<u64, AgentError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(AgentError::NoRandomness)?;
    Ok(u64::from_le_bytes(bytes))
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

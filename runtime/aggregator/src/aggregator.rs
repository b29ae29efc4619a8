//! The core: messages in, messages out, everything durable in the journal.

use std::collections::BTreeMap;

use loadonce_control::{MANIFEST_DOMAIN, POINTER_DOMAIN, Signed, SignedError};
use loadonce_delivery::Receiver;
use loadonce_rounds::LineageEntry;
use loadonce_store::Database;
use loadonce_trust::{Identity, PublicKey, encode_hex, hash};
use loadonce_wire::limits::{MAX_FRAME, MAX_JSON};
use loadonce_wire::{Frame, Kind, Topic};
use thiserror::Error;

use crate::figures::{ContributionFigures, Counters, Figures, GatewayFigures, TaskFigures};
use crate::history::History;
use crate::intake::Opened;
use crate::journal::{Journal, JournalError};
use crate::line::{Line, Newest, SHOWN_VERSIONS};
use crate::outgoing::{Note, Outgoing};
use crate::registry::{PresenceOutcome, Registry};
use crate::settings::Settings;

/// Why the core cannot start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A manifest cannot be published.
    #[error("the manifest of task `{task}` cannot be published: {source}; use fewer or shorter class names")]
    Manifest {
        /// The task.
        task: String,
        /// What is wrong.
        source: SignedError,
    },
}

/// See the module's documentation. Times are milliseconds of a clock that only rises. An `Err` means that the
/// journal failed, never that a message was bad: stop, and open it anew.
pub struct Aggregator {
    pub(crate) site: String,
    pub(crate) identity: Identity,
    pub(crate) journal: Journal,
    pub(crate) lines: BTreeMap<String, Line>,
    pub(crate) registry: Registry,
    pub(crate) receiver: Receiver<Opened>,
    pub(crate) counters: Counters,
    /// What the batch accepted, for the log once it is durable.
    pub(crate) persisted: Vec<Note>,
    pub(crate) history: History,
    pub(crate) history_bytes: u64,
    /// More waits at the door than can be taken in now: nobody may begin a large contribution.
    pub(crate) crowded: bool,
    /// Contributions that were acknowledged and are not on disk: the fault.
    #[cfg(feature = "fault-ack-before-persist")]
    pub(crate) unwritten: Vec<(u64, crate::intake::Accepted)>,
    manifests: Vec<Outgoing>,
}

impl Aggregator {
    /// Opens the journal in `database` and rebuilds everything from it.
    pub fn open(
        settings: Settings,
        identity: Identity,
        database: Database,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let mut journal = Journal::open(database)?;
        let registry = Registry::open(&settings, &journal)?;
        let mut lines = BTreeMap::new();
        let mut manifests = Vec::new();
        for task in settings.tasks {
            let name = task.manifest.name.clone();
            let too_large = |source| OpenError::Manifest { task: name.clone(), source };
            let payload =
                Signed::seal(&identity, MANIFEST_DOMAIN, &task.manifest).map_err(too_large)?.to_json();
            if payload.len() > MAX_JSON {
                return Err(too_large(SignedError::TooLarge(payload.len())));
            }
            let topic = Topic::Task { task: &name }.text(&settings.site).as_str().to_owned();
            manifests.push(Outgoing { topic, payload, retain: true, note: None });

            let mut line = Line::new(&settings.site, task, None, None);
            if let Some(entry) = journal.newest(&line.id)? {
                let bytes =
                    journal.module(&entry.module, <[u8]>::len)?.ok_or_else(|| JournalError::Corrupt {
                        table: "modules",
                        detail: format!("the file of version {} of `{name}` is missing", entry.version),
                    })?;
                let previous = journal.version(&line.id, entry.version - 1)?.map(|previous| previous.module);
                let patch = journal.patch(&line.id, |patch| (hash(patch), patch.len() as u32))?;
                line.advance(Some(Newest { entry, bytes: bytes as u32, patch }), previous);
            }
            // Only the entries are needed: a step is added to the newest version, whatever its base was.
            let window = line.task.manifest.rounds.staleness();
            for version in line.version().saturating_sub(window).max(1)..line.version() {
                if let Some(base) = journal.version(&line.id, version)? {
                    line.note_base(version, base.module);
                }
            }
            for gateways in journal.participants(&line.id, SHOWN_VERSIONS)?.into_iter().rev() {
                line.note_participants(gateways);
            }
            line.samples = journal.totals(&line.id)?.map_or(0, |totals| totals.samples());
            let (mut ages, mut bytes) = (Vec::new(), 0);
            let broken = journal
                .pending(&line.id, line.version() + 1, |pending| {
                    bytes += pending.blob.len() as u64;
                    ages.push((pending.manifest.key, line.age(&pending.manifest)));
                })?
                .broken;
            line.pending_bytes = bytes;
            for (key, age) in ages {
                line.round.join(key, age, now_ms);
            }
            if broken > 0 {
                tracing::error!(task = %name, broken, "contributions of the open round do not read back and will be left out");
            }
            let stored = journal.pointer(&name)?;
            line.pointer.serial = stored.as_ref().map_or(0, |stored| stored.serial);
            if stored.as_ref() != Some(&line.pointer) {
                line.pointer.serial += 1;
                journal.put_pointer(&line.pointer)?;
            }
            lines.insert(name, line);
        }
        Ok(Self {
            site: settings.site,
            identity,
            history: journal.history()?,
            history_bytes: settings.history_bytes,
            journal,
            lines,
            registry,
            receiver: Receiver::default(),
            counters: Counters::default(),
            persisted: Vec::new(),
            crowded: false,
            #[cfg(feature = "fault-ack-before-persist")]
            unwritten: Vec::new(),
            manifests,
        })
    }

    /// What is current, for a broker that may remember nothing: manifests and pointers, retained.
    pub fn on_connected(&mut self, _now_ms: u64) -> Vec<Outgoing> {
        let pointers = self.lines.values().map(|line| self.pointer_message(line));
        self.manifests.iter().cloned().chain(pointers).collect()
    }

    /// Takes a message of the subscribed topics; whatever it holds, the answer is a count or a reply.
    pub fn on_message(
        &mut self,
        topic: &str,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        self.on_batch([(topic, payload)], now_ms)
    }

    /// Takes messages together: one durable write for all of them, and only then their answers.
    pub fn on_batch<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        let mut out = Vec::new();
        for (topic, payload) in messages {
            out.extend(self.message(topic, payload, now_ms)?);
        }
        self.commit()?;
        Ok(out)
    }

    /// Makes durable what the batch brought, and tells the log.
    pub(crate) fn commit(&mut self) -> Result<(), JournalError> {
        self.journal.commit()?;
        for note in self.persisted.drain(..) {
            note.log();
        }
        Ok(())
    }

    fn message(&mut self, topic: &str, payload: &[u8], now_ms: u64) -> Result<Vec<Outgoing>, JournalError> {
        match Topic::parse(&self.site, topic) {
            Some(Topic::State { gateway }) => {
                self.presence(gateway, payload, now_ms)?;
                Ok(Vec::new())
            }
            Some(Topic::Report { gateway }) => {
                if self.registry.report(gateway, payload) {
                    self.registry.heard(gateway, now_ms);
                } else {
                    self.counters.ignore("report");
                }
                Ok(Vec::new())
            }
            Some(Topic::Up { gateway }) => self.frame(gateway, payload, now_ms),
            _ => {
                self.counters.ignore("unknown_topic");
                Ok(Vec::new())
            }
        }
    }

    /// Decides what time and contributions brought about. Call it after every message and several times a
    /// second.
    pub fn on_tick(&mut self, now_ms: u64) -> Result<Vec<Outgoing>, JournalError> {
        #[cfg(feature = "fault-ack-before-persist")]
        self.write_late(now_ms)?;
        self.receiver.expire(now_ms);
        self.close_rounds(now_ms)
    }

    /// Whether more messages wait than can be taken in now. While it is so, who offers a large contribution is asked
    /// to wait. Small ones are here already, and to refuse one costs as much as to take it.
    pub fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// Whether a gateway that redeemed a token may have this name and key, see [`enrol`](crate::enrol); otherwise why not.
    pub fn may_enrol(&self, name: &str, key: &PublicKey, replaces: bool) -> Result<(), &'static str> {
        self.registry.may_enrol(name, key, replaces)
    }

    /// Admits an enrolled gateway. The registrar remembers it; tell it again after every start.
    pub fn enrol(&mut self, name: &str, key: &PublicKey) {
        self.registry.enrol(name, key);
    }

    /// The link took out a message that was too large or broke the protocol.
    pub fn on_taken_out(&mut self, why: &'static str) {
        self.counters.ignore(why);
    }

    /// The versions of a task's lineage, oldest first; empty for an unknown task.
    pub fn lineage(&self, task: &str) -> Result<Vec<LineageEntry>, JournalError> {
        self.lines.get(task).map_or(Ok(Vec::new()), |line| self.journal.lineage(&line.id))
    }

    /// Bytes of a module file; `None` for an unknown one.
    pub fn module(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, JournalError> {
        self.journal.module(hash, <[u8]>::to_vec)
    }

    /// The encoded totals of a task's sums; `None` before the first.
    pub fn totals(&self, task: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let Some(line) = self.lines.get(task) else { return Ok(None) };
        Ok(self.journal.totals(&line.id)?.map(|totals| totals.to_bytes()))
    }

    /// The figures as of now.
    pub fn figures(&self, now_ms: u64) -> Figures {
        let tasks = self.lines.values().map(|line| TaskFigures {
            name: line.name().to_owned(),
            backbone: line.pointer.backbone.clone(),
            version: line.version(),
            hash: line.newest.map(|newest| encode_hex(&newest.entry.module)).unwrap_or_default(),
            bytes: line.newest.map_or(0, |newest| newest.bytes),
            serial: line.pointer.serial,
            wants: line.pointer.wants,
            round_contributions: line.round.contributions(),
            round_gateways: line.round.gateways(),
            quorum: line.task.manifest.rounds.quorum,
            samples: line.samples,
            participants: line.participants.iter().copied().collect(),
            heldout: line.heldout,
        });
        let gateways = self.registry.iter().map(|(name, gateway)| GatewayFigures {
            name: name.clone(),
            key: gateway.record.key.clone(),
            up: gateway.record.up,
            incarnation: gateway.record.incarnation,
            agent: gateway.record.agent.clone(),
            accepted: gateway.record.accepted,
            blob_bytes: gateway.record.blob_bytes,
            heard_s: gateway.heard_ms.map(|heard| now_ms.saturating_sub(heard) / 1000),
            vitals: gateway.vitals,
        });
        let (transfers_open, transfers_bytes) = self.receiver.held();
        let counters = self.counters.clone();
        Figures {
            site: self.site.clone(),
            key: encode_hex(&self.identity.public()),
            tasks: tasks.collect(),
            contributions: ContributionFigures {
                sums: counters.sums,
                steps: counters.steps,
                late: counters.late,
                duplicates: counters.duplicates,
                deferred: counters.deferred,
                refused: counters.refused,
            },
            ignored: counters.ignored,
            transfers_open,
            transfers_bytes,
            transfers_dropped: self.receiver.dropped(),
            transfers_turned_away: self.receiver.turned_away(),
            blocks: counters.blocks,
            block_bytes: counters.block_bytes,
            history: self.history,
            gateways: gateways.collect(),
        }
    }

    fn presence(&mut self, gateway: &str, payload: &[u8], now_ms: u64) -> Result<(), JournalError> {
        // An empty retained message is how a person clears the topic.
        if payload.is_empty() {
            return Ok(());
        }
        match self.registry.presence(&mut self.journal, gateway, payload, now_ms)? {
            PresenceOutcome::Noted => {}
            PresenceOutcome::StaleWill => self.counters.ignore("stale_will"),
            PresenceOutcome::Malformed => self.counters.ignore("presence"),
            PresenceOutcome::NotAdmitted => {
                self.counters.ignore("unknown_gateway");
                tracing::warn!(
                    gateway,
                    "an unknown gateway announced itself; enrol it, or list it under `gateways`, to admit it"
                );
            }
        }
        Ok(())
    }

    fn frame(&mut self, gateway: &str, payload: &[u8], now_ms: u64) -> Result<Vec<Outgoing>, JournalError> {
        if payload.len() > MAX_FRAME {
            self.counters.ignore("oversized");
            return Ok(Vec::new());
        }
        let frame = match Frame::decode(payload) {
            Ok(frame) => frame,
            Err(error) => {
                self.counters.ignore("malformed_frame");
                tracing::warn!(gateway, %error, "a message is no frame and was dropped");
                return Ok(Vec::new());
            }
        };
        self.registry.heard(gateway, now_ms);
        match frame.kind {
            Kind::Whole => self.whole(gateway, &frame, now_ms),
            Kind::Offer => self.offer(gateway, &frame, now_ms),
            Kind::Chunk => self.chunk(gateway, &frame, now_ms),
            Kind::BlockRequest => self.block_request(gateway, &frame, now_ms),
            Kind::Ack | Kind::Block | Kind::Status => {
                self.counters.ignore("unexpected_kind");
                Ok(Vec::new())
            }
        }
    }

    /// A line's pointer, signed.
    pub(crate) fn pointer_message(&self, line: &Line) -> Outgoing {
        let sealed = Signed::seal(&self.identity, POINTER_DOMAIN, &line.pointer)
            .expect("a pointer of strings and numbers always serializes");
        let topic = Topic::Pointer { task: line.name(), backbone: &line.pointer.backbone };
        Outgoing {
            topic: topic.text(&self.site).as_str().to_owned(),
            payload: sealed.to_json(),
            retain: true,
            note: Some(Note::Pointer {
                task: line.name().to_owned(),
                version: line.version(),
                serial: line.pointer.serial,
            }),
        }
    }
}

//! Every contribution that an outbox ever held, and what became of it.
//!
//! What was enqueued is known from two sources: the line an agent logs after the commit, and, because SIGKILL may
//! come between the two, the outbox itself, read each time an agent lies dead. An entry leaves the outbox only in a
//! later life, so it is seen by one or the other. What was answered is logged before the entry is deleted. What was
//! applied stands in the aggregator's journal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use loadonce_store::redb::{ReadableTable, TableDefinition};
use loadonce_store::{Counters, Database, Kind, Outbox, OutboxBounds};
use loadonce_trust::Identity;

use crate::process::Log;

const SEEN: TableDefinition<[u8; 48], [u8; 32]> = TableDefinition::new("seen");
const CACHE: usize = 1 << 20;

/// Gateway, epoch, sequence.
pub(crate) type Place = (String, u64, u64);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) enqueued: BTreeMap<Place, Kind>,
    /// Answered with `Accepted` or `Duplicate`.
    pub(crate) acknowledged: BTreeSet<Place>,
    pub(crate) refused: BTreeMap<Place, String>,
    pub(crate) waiting: BTreeSet<Place>,
    pub(crate) applied: BTreeSet<Place>,
    /// Of all outboxes at the end.
    pub(crate) counters: Counters,
}

impl Ledger {
    /// Reads the outbox of an agent that is not running; whether one could be read.
    pub(crate) fn read_outbox(&mut self, gateway: &str, state: &Path, end: bool) -> bool {
        // A copy: the agent itself is to find the file as its death left it.
        let Ok(database) = Database::read_copy(&state.join("agent.redb"), CACHE) else { return false };
        let Ok(outbox) = Outbox::open(&database, OutboxBounds::default(), 1) else { return false };
        for head in outbox.pending(&database) {
            let Ok(head) = head else { return false };
            let place = (gateway.to_owned(), head.place.epoch, head.place.sequence);
            self.enqueued.insert(place.clone(), head.kind);
            if end {
                self.waiting.insert(place);
            }
        }
        if end {
            let Ok(counters) = outbox.counters(&database) else { return false };
            self.counters.enqueued += counters.enqueued + counters.requeued;
            self.counters.acknowledged += counters.acknowledged;
            self.counters.dropped_steps += counters.dropped_steps;
            self.counters.refused_full += counters.refused_full;
            self.counters.quarantined += counters.quarantined;
        }
        true
    }

    /// Reads what an agent logged over all its lives.
    pub(crate) fn read_log(&mut self, gateway: &str, log: &Log) {
        for line in log.text().lines() {
            let Some((_, fields)) = line.split_once(" boundary: ") else { continue };
            let (Some(epoch), Some(sequence)) = (number(fields, "epoch="), number(fields, "sequence="))
            else {
                continue;
            };
            let place = (gateway.to_owned(), epoch, sequence);
            if fields.contains("boundary=\"outbox.persisted\"") {
                let kind = if fields.contains("kind=\"step\"") { Kind::Step } else { Kind::Sum };
                self.enqueued.insert(place, kind);
            } else if fields.contains("boundary=\"ack.received\"") {
                if fields.contains("status=Refused") {
                    let reason = fields.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
                    let reason = reason.unwrap_or_default();
                    // After these the entry stays.
                    if !["unknown_gateway", "unknown_task", "sequence_conflict"].contains(&reason) {
                        self.refused.insert(place, reason.to_owned());
                    }
                } else {
                    self.acknowledged.insert(place);
                }
            }
        }
    }

    /// Reads what the aggregator's journal holds as applied. `gateways` are names and state folders.
    pub(crate) fn read_journal(&mut self, state: &Path, gateways: &[(&str, &Path)]) -> Result<(), String> {
        let mut names = BTreeMap::new();
        for (name, folder) in gateways {
            let text =
                std::fs::read_to_string(folder.join("agent.key")).map_err(|error| error.to_string())?;
            let key = Identity::from_file_text(&text).map_err(|error| error.to_string())?.public();
            names.insert(key, (*name).to_owned());
        }
        let database =
            Database::read_copy(&state.join("aggregator.redb"), CACHE).map_err(|error| error.to_string())?;
        let tx = database.begin_read().map_err(|error| error.to_string())?;
        let seen = tx.open_table(SEEN).map_err(|error| error.to_string())?;
        for row in seen.iter().map_err(|error| error.to_string())? {
            let key = row.map_err(|error| error.to_string())?.0.value();
            let number = |at: usize| key[at..at + 8].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
            let name = key.first_chunk::<32>().and_then(|key| names.get(key));
            let name = name.ok_or("the journal holds a contribution of nobody")?;
            self.applied.insert((name.clone(), number(32), number(40)));
        }
        Ok(())
    }

    /// Contributions that are neither applied nor waiting nor were refused by name.
    pub(crate) fn lost(&self) -> Vec<&Place> {
        let kept = |place: &Place| {
            self.applied.contains(place) || self.waiting.contains(place) || self.refused.contains_key(place)
        };
        self.enqueued.keys().filter(|place| !kept(place)).collect()
    }

    /// Acknowledged without being applied, and applied without being acknowledged although nothing waits.
    pub(crate) fn misfits(&self) -> Vec<&Place> {
        let answered = |place: &&Place| !self.waiting.contains(*place);
        self.acknowledged.symmetric_difference(&self.applied).filter(answered).collect()
    }

    /// Applied contributions of a kind.
    pub(crate) fn applied_of(&self, kind: Kind) -> usize {
        self.applied.iter().filter(|place| self.enqueued.get(*place) == Some(&kind)).count()
    }
}

/// The number after `key`.
fn number(fields: &str, key: &str) -> Option<u64> {
    let rest = fields.split(key).nth(1)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

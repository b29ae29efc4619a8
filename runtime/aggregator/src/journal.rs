//! The tables and their transactions: one durable transaction per batch of messages, one per version.
//!
//! What a batch writes is seen by what reads in it at once and is durable after [`Journal::commit`]; only then may
//! anybody be told of it. A batch that is dropped instead wrote nothing.
//!
//! `docs/aggregator.md` lists the tables. Numbers in keys are big-endian so that the order of keys is the order
//! of numbers.

mod keys;
mod window;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use loadonce_control::Pointer;
use loadonce_module::{Sums, SumsError};
use loadonce_rounds::{ContributionId, LineageEntry, Made};
use loadonce_store::redb::{self, ReadableTable, TableDefinition, WriteTransaction};
use loadonce_store::{Database, StoreError};
use loadonce_wire::{Bytes32, Manifest};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::history::{self, History};
use crate::participants::{self, PARTICIPANTS};

use keys::contribution_key;
pub(crate) use keys::{contributions_of, numbered};
pub(crate) use window::Seen;
use window::{EPOCHS, SEEN, mark_seen, seen};

pub(crate) type Hash = [u8; 32];

pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const GATEWAYS: TableDefinition<&str, &[u8]> = TableDefinition::new("gateways");
pub(crate) const CONTRIBUTIONS: TableDefinition<[u8; 88], &[u8]> = TableDefinition::new("contributions");
pub(crate) const TOTALS: TableDefinition<Hash, &[u8]> = TableDefinition::new("totals");
pub(crate) const VERSIONS: TableDefinition<[u8; 40], &[u8]> = TableDefinition::new("versions");
pub(crate) const MODULES: TableDefinition<Hash, &[u8]> = TableDefinition::new("modules");
const PATCHES: TableDefinition<Hash, &[u8]> = TableDefinition::new("patches");
pub(crate) const POINTERS: TableDefinition<&str, &[u8]> = TableDefinition::new("pointers");

const FORMAT: u64 = 3;
/// Module files kept per lineage, the newest ones; older ones stay while the history needs them.
pub(crate) const KEPT_MODULES: u64 = 8;
/// Lineage entries kept per lineage, the newest ones; each vouches for its parent by hash. At a round an hour
/// these are seven years, in about 12 MB.
const KEPT_VERSIONS: u64 = 65_536;

/// What the journal cannot do.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not what was written.
    #[error(
        "table `{table}` of the aggregator's database holds a record that does not read back ({detail}); restore the state folder from a backup"
    )]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What does not fit.
        detail: String,
    },
    /// Written by another version.
    #[error(
        "the aggregator's database has format {0}, this build reads format {FORMAT}; use the build that wrote it, or another state folder"
    )]
    Format(u64),
}

macro_rules! from_redb {
    ($($kind:ty),+) => {$(
        impl From<$kind> for JournalError {
            fn from(error: $kind) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}
from_redb!(redb::TableError, redb::StorageError, redb::CommitError);

pub(crate) fn corrupt(table: &'static str) -> impl Fn(&dyn std::fmt::Display) -> JournalError {
    move |detail| JournalError::Corrupt { table, detail: detail.to_string() }
}

/// What is remembered of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GatewayRecord {
    /// The key its contributions are signed with, hexadecimal; empty until the first accepted one.
    pub key: String,
    /// Incarnation of the newest birth.
    pub incarnation: u64,
    /// Whether that one is up.
    pub up: bool,
    /// Version of its agent.
    pub agent: String,
    /// Contributions accepted.
    pub accepted: u64,
    /// Bytes of their blobs.
    pub blob_bytes: u64,
}

/// An accepted contribution, to be written in one transaction.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) lineage: Hash,
    /// The version that the open round leads to.
    pub(crate) version: u64,
    pub(crate) id: ContributionId,
    pub(crate) gateway: String,
    pub(crate) record: GatewayRecord,
    /// What is added to the totals.
    pub(crate) sum: Option<Sums>,
    /// What the round, and then the history, keeps of it, see [`Pending`].
    pub(crate) keep: Option<Vec<u8>>,
}

/// A contribution of a round: u16 length, the encoded manifest, then the blob.
pub(crate) struct Pending<'a> {
    pub(crate) manifest: Manifest,
    /// The manifest as it was signed.
    pub(crate) encoded: &'a [u8],
    pub(crate) blob: &'a [u8],
}

impl<'a> Pending<'a> {
    pub(crate) fn encode(manifest: &[u8], blob: &[u8]) -> Vec<u8> {
        [&(manifest.len() as u16).to_le_bytes(), manifest, blob].concat()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (encoded, blob) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some(Self { manifest: Manifest::decode(encoded).ok()?, encoded, blob })
    }
}

/// What a round holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Held {
    /// Contributions.
    pub(crate) rows: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Those among them that do not read back.
    pub(crate) broken: u64,
}

/// A new version, to be written in one transaction.
pub(crate) struct Cut<'a> {
    pub(crate) lineage: Hash,
    pub(crate) entry: &'a LineageEntry,
    pub(crate) module: &'a [u8],
    /// What makes the module file of the one before it.
    pub(crate) patch: Option<&'a [u8]>,
    /// The gateways whose steps it was made from, ascending; none from sums.
    pub(crate) participants: &'a [Bytes32],
    pub(crate) pointer: &'a Pointer,
    /// The round that closes.
    pub(crate) held: Held,
    /// What the version was made by besides, an encoded [`history::Policy`].
    pub(crate) policy: &'a [u8],
    /// Bytes that the history of all lineages may take.
    pub(crate) bound: u64,
}

pub(crate) struct Journal {
    pub(crate) database: Database,
    batch: Option<Batch>,
}

/// The open transaction.
struct Batch {
    tx: WriteTransaction,
    /// Totals that the batch changed: written once, not once per sum.
    totals: BTreeMap<Hash, Sums>,
}

impl Journal {
    /// Opens the tables, creating them in an empty database.
    pub(crate) fn open(database: Database) -> Result<Self, JournalError> {
        let tx = database.begin_write()?;
        {
            let mut meta = tx.open_table(META)?;
            let format = meta.get("format")?.map(|value| value.value());
            match format {
                Some(FORMAT) => {}
                Some(other) => return Err(JournalError::Format(other)),
                None => {
                    meta.insert("format", FORMAT)?;
                }
            }
            tx.open_table(GATEWAYS)?;
            tx.open_table(SEEN)?;
            tx.open_table(EPOCHS)?;
            tx.open_table(CONTRIBUTIONS)?;
            tx.open_table(TOTALS)?;
            tx.open_table(VERSIONS)?;
            tx.open_table(MODULES)?;
            tx.open_table(PATCHES)?;
            tx.open_table(POINTERS)?;
            tx.open_table(PARTICIPANTS)?;
            history::open_tables(&tx)?;
        }
        tx.commit()?;
        Ok(Self { database, batch: None })
    }

    pub(crate) fn gateways(&self) -> Result<Vec<(String, GatewayRecord)>, JournalError> {
        let table = self.database.begin_read()?.open_table(GATEWAYS)?;
        let mut out = Vec::new();
        for row in table.range::<&str>(..)? {
            let (name, record) = row?;
            let record = serde_json::from_slice(record.value()).map_err(|e| corrupt("gateways")(&e))?;
            out.push((name.value().to_owned(), record));
        }
        Ok(out)
    }

    /// Makes what the batch wrote durable; nothing if there is none.
    pub(crate) fn commit(&mut self) -> Result<(), JournalError> {
        let Some(Batch { tx, totals }) = self.batch.take() else { return Ok(()) };
        for (lineage, totals) in totals {
            tx.open_table(TOTALS)?.insert(lineage, totals.to_bytes().as_slice())?;
        }
        Ok(tx.commit()?)
    }

    fn batch(&mut self) -> Result<&mut Batch, JournalError> {
        if self.batch.is_none() {
            let tx = self.database.begin_write()?;
            self.batch = Some(Batch { tx, totals: BTreeMap::new() });
        }
        Ok(self.batch.as_mut().expect("it was just opened"))
    }

    /// Writes a gateway's record with the batch.
    pub(crate) fn put_gateway(&mut self, name: &str, record: &GatewayRecord) -> Result<(), JournalError> {
        put_gateway(&self.batch()?.tx, name, record)
    }

    pub(crate) fn seen(&self, id: &ContributionId) -> Result<Seen, JournalError> {
        if cfg!(feature = "fault-no-dedup") {
            return Ok(Seen::New);
        }
        if let Some(batch) = &self.batch {
            return seen(&batch.tx.open_table(SEEN)?, &batch.tx.open_table(EPOCHS)?, id);
        }
        let tx = self.database.begin_read()?;
        seen(&tx.open_table(SEEN)?, &tx.open_table(EPOCHS)?, id)
    }

    /// Writes an accepted contribution with the batch and returns the samples in the totals if it is a sum; the
    /// inner error is a sum that cannot join them, and then nothing of it was written.
    pub(crate) fn accept(&mut self, intake: &Intake) -> Result<Result<Option<i64>, SumsError>, JournalError> {
        let Batch { tx, totals } = self.batch()?;
        let mut samples = None;
        if let Some(sum) = &intake.sum {
            let totals = match totals.entry(intake.lineage) {
                Entry::Occupied(totals) => totals.into_mut(),
                Entry::Vacant(place) => {
                    let table = tx.open_table(TOTALS)?;
                    let stored = table.get(intake.lineage)?.map(|bytes| Sums::from_bytes(bytes.value()));
                    let stored = stored.transpose().map_err(|e| corrupt("totals")(&e))?;
                    if let Some(stored) = stored {
                        place.insert(stored)
                    } else {
                        samples = Some(sum.samples());
                        place.insert(Sums::clone(sum))
                    }
                }
            };
            // A sum that does not fit leaves them as they were; the very first one is all there is.
            if samples.is_none() {
                if let Err(error) = totals.merge(sum) {
                    return Ok(Err(error));
                }
                samples = Some(totals.samples());
            }
        }
        mark_seen(tx, &intake.id)?;
        if let Some(keep) = &intake.keep {
            let key = contribution_key(&intake.lineage, intake.version, &intake.id);
            tx.open_table(CONTRIBUTIONS)?.insert(key, keep.as_slice())?;
        }
        put_gateway(tx, &intake.gateway, &intake.record)?;
        Ok(Ok(samples))
    }

    /// Hands every contribution of the round that leads, or led, to `version` to `take`, in the order of their
    /// identities.
    pub(crate) fn pending(
        &self,
        lineage: &Hash,
        version: u64,
        mut take: impl FnMut(Pending<'_>),
    ) -> Result<Held, JournalError> {
        let table = self.database.begin_read()?.open_table(CONTRIBUTIONS)?;
        let mut held = Held::default();
        for row in table.range(contributions_of(lineage, version))? {
            let (_, value) = row?;
            held.rows += 1;
            held.bytes += value.value().len() as u64;
            match Pending::decode(value.value()) {
                Some(pending) => take(pending),
                None => held.broken += 1,
            }
        }
        Ok(held)
    }

    pub(crate) fn totals(&self, lineage: &Hash) -> Result<Option<Sums>, JournalError> {
        let table = self.database.begin_read()?.open_table(TOTALS)?;
        let bytes = table.get(lineage)?;
        bytes.map(|bytes| Sums::from_bytes(bytes.value()).map_err(|e| corrupt("totals")(&e))).transpose()
    }

    /// The version with this number.
    pub(crate) fn version(&self, lineage: &Hash, version: u64) -> Result<Option<LineageEntry>, JournalError> {
        let table = self.database.begin_read()?.open_table(VERSIONS)?;
        let entry = table.get(numbered(lineage, version))?;
        entry.map(|entry| decode_entry(entry.value())).transpose()
    }

    /// The newest version.
    pub(crate) fn newest(&self, lineage: &Hash) -> Result<Option<LineageEntry>, JournalError> {
        let table = self.database.begin_read()?.open_table(VERSIONS)?;
        let last = table.range(numbered(lineage, 0)..=numbered(lineage, u64::MAX))?.next_back();
        last.map(|row| decode_entry(row?.1.value())).transpose()
    }

    /// Gateways behind the newest versions, newest first, at most `most` of them.
    pub(crate) fn participants(&self, lineage: &Hash, most: usize) -> Result<Vec<u32>, JournalError> {
        let table = self.database.begin_read()?.open_table(VERSIONS)?;
        let rows = table.range(numbered(lineage, 0)..=numbered(lineage, u64::MAX))?.rev().take(most);
        rows.map(|row| Ok(decode_entry(row?.1.value())?.gateways)).collect()
    }

    pub(crate) fn lineage(&self, lineage: &Hash) -> Result<Vec<LineageEntry>, JournalError> {
        let table = self.database.begin_read()?.open_table(VERSIONS)?;
        let rows = table.range(numbered(lineage, 0)..=numbered(lineage, u64::MAX))?;
        rows.map(|row| decode_entry(row?.1.value())).collect()
    }

    /// Runs `take` on a module file's bytes; `None` for an unknown or forgotten one.
    pub(crate) fn module<T>(
        &self,
        hash: &Hash,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, JournalError> {
        let table = self.database.begin_read()?.open_table(MODULES)?;
        let bytes = table.get(hash)?;
        Ok(bytes.map(|bytes| take(bytes.value())))
    }

    /// Runs `take` on the patch that leads to a lineage's newest version.
    pub(crate) fn patch<T>(
        &self,
        lineage: &Hash,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, JournalError> {
        let table = self.database.begin_read()?.open_table(PATCHES)?;
        let bytes = table.get(lineage)?;
        Ok(bytes.map(|bytes| take(bytes.value())))
    }

    pub(crate) fn pointer(&self, task: &str) -> Result<Option<Pointer>, JournalError> {
        let table = self.database.begin_read()?.open_table(POINTERS)?;
        let text = table.get(task)?;
        text.map(|text| serde_json::from_slice(text.value()).map_err(|e| corrupt("pointers")(&e))).transpose()
    }

    pub(crate) fn put_pointer(&mut self, pointer: &Pointer) -> Result<(), JournalError> {
        self.commit()?;
        let tx = self.database.begin_write()?;
        put_pointer(&tx, pointer)?;
        Ok(tx.commit()?)
    }

    /// Writes a version with its module file and pointer. Its contributions stay where they are and so become
    /// history; what no longer fits is dropped, the oldest first.
    pub(crate) fn cut(&mut self, cut: &Cut<'_>) -> Result<History, JournalError> {
        self.commit()?;
        let tx = self.database.begin_write()?;
        {
            let mut versions = tx.open_table(VERSIONS)?;
            versions.insert(numbered(&cut.lineage, cut.entry.version), cut.entry.encode().as_slice())?;
            let mut modules = tx.open_table(MODULES)?;
            modules.insert(cut.entry.module, cut.module)?;
            let mut patches = tx.open_table(PATCHES)?;
            match cut.patch {
                Some(patch) => patches.insert(cut.lineage, patch)?,
                None => patches.remove(cut.lineage)?,
            };
        }
        put_pointer(&tx, cut.pointer)?;
        if cut.entry.made == Made::FromSteps {
            participants::put(&tx, &cut.lineage, cut.entry.version, cut.participants)?;
        }
        let history = history::retain(&tx, cut)?;
        if let Some(old) = cut.entry.version.checked_sub(KEPT_VERSIONS) {
            tx.open_table(VERSIONS)?.remove(numbered(&cut.lineage, old))?;
        }
        tx.commit()?;
        Ok(history)
    }
}

fn put_gateway(tx: &WriteTransaction, name: &str, record: &GatewayRecord) -> Result<(), JournalError> {
    let text = serde_json::to_vec(record).expect("a record of strings and numbers always serializes");
    tx.open_table(GATEWAYS)?.insert(name, text.as_slice())?;
    Ok(())
}

fn put_pointer(tx: &WriteTransaction, pointer: &Pointer) -> Result<(), JournalError> {
    let text = serde_json::to_vec(pointer).expect("a pointer of strings and numbers always serializes");
    tx.open_table(POINTERS)?.insert(pointer.task.as_str(), text.as_slice())?;
    Ok(())
}

pub(crate) fn decode_entry(bytes: &[u8]) -> Result<LineageEntry, JournalError> {
    LineageEntry::decode(bytes).map_err(|e| corrupt("versions")(&e))
}

#[cfg(test)]
mod tests;

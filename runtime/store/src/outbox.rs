//! What a gateway still has to deliver, durable and in order, inside the caller's database.
//!
//! An entry dies in two ways only: an application ack that names its epoch, its sequence and its hash, or, for
//! a *step*, overflow (a step is worth less than the sums that wait behind it). Sequences are handed out once
//! in the life of the database and never start over, not even under a new epoch.

mod record;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::{Database, StoreError};
use record::Record;
pub(crate) use record::fuzz_record;

const META: TableDefinition<&str, u64> = TableDefinition::new("outbox.meta");
const HEADS: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox.heads");
const BLOBS: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox.blobs");
const QUARANTINE: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox.quarantine");

const EPOCH: &str = "epoch";
const NEXT: &str = "next";
const BYTES: &str = "bytes";
const ENTRIES: &str = "entries";
const ENQUEUED: &str = "enqueued";
const ACKNOWLEDGED: &str = "acknowledged";
const DROPPED_STEPS: &str = "dropped-steps";
const REFUSED_FULL: &str = "refused-full";
const REQUEUED: &str = "requeued";
const QUARANTINED: &str = "quarantined";

/// How many heads of corrupt entries are kept for a person to look at.
const KEPT_QUARANTINED: usize = 3;

/// What a contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An increment of statistics: exact, order-free, never stale; never dropped.
    Sum = 1,
    /// A parameter delta against a base version; the first to go when room is short.
    Step = 2,
}

impl Kind {
    fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Sum),
            2 => Some(Self::Step),
            _ => None,
        }
    }
}

/// Upper bounds of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Most bytes of heads and blobs together.
    pub max_bytes: u64,
    /// Most entries.
    pub max_entries: u64,
}

impl Default for OutboxBounds {
    /// 64 MiB in 1,024 entries.
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, max_entries: 1024 }
    }
}

/// Where an entry stands: with the gateway's key and the blob's hash, the identity of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The random epoch of the store.
    pub epoch: u64,
    /// The sequence, counted from 1.
    pub sequence: u64,
}

/// What is to be enqueued, less the manifest, which needs to know its place.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Sum or step.
    pub kind: Kind,
    /// The task, at most 255 bytes.
    pub task: &'a str,
    /// The blob exactly as it will be sent.
    pub blob: &'a [u8],
}

/// A pending entry without its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Epoch and sequence.
    pub place: Place,
    /// Sum or step.
    pub kind: Kind,
    /// The task.
    pub task: String,
    /// The signed manifest.
    pub manifest: Vec<u8>,
    /// Size of the blob in bytes.
    pub blob_bytes: u32,
    /// blake3 of the blob.
    pub blob_hash: [u8; 32],
}

/// A pending entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Everything but the blob.
    pub head: Head,
    /// The blob; its hash was checked when it was read.
    pub blob: Vec<u8>,
}

/// What happened in the outbox since the database was made, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Entries that wait.
    pub pending: u64,
    /// Bytes of the entries that wait.
    pub pending_bytes: u64,
    /// Entries ever accepted.
    pub enqueued: u64,
    /// Entries deleted by an application ack.
    pub acknowledged: u64,
    /// Steps dropped to make room.
    pub dropped_steps: u64,
    /// Entries refused for want of room.
    pub refused_full: u64,
    /// Entries that took a new place after a sequence conflict.
    pub requeued: u64,
    /// Entries set aside because they did not read back as written.
    pub quarantined: u64,
}

/// Why an entry was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// There is no room, and no steps to drop that would make enough. Nothing was changed.
    #[error(
        "the outbox is full ({pending} entries, {pending_bytes} bytes wait, {wanted} bytes more were asked \
         for); it empties once the aggregator can be reached, or raise its bounds"
    )]
    Full {
        /// Entries that wait.
        pending: u64,
        /// Bytes that wait.
        pending_bytes: u64,
        /// Bytes of the refused entry.
        wanted: u64,
    },
    /// The entry can never fit.
    #[error("an entry of {bytes} bytes exceeds the outbox's bound of {max_bytes} bytes; raise the bound")]
    TooLarge {
        /// Bytes of the entry.
        bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The task's name does not fit the record.
    #[error("a task's name has at most 255 bytes, this one has {0}; rename the task")]
    TaskName(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

macro_rules! from_redb {
    ($($kind:ty),+) => {$(
        impl From<$kind> for OutboxError {
            fn from(error: $kind) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}
from_redb!(redb::TableError, redb::StorageError, redb::CommitError);

/// The outbox of a database. Holds no entry in memory.
#[derive(Debug)]
pub struct Outbox {
    bounds: OutboxBounds,
    // A refusal aborts the caller's transaction, so it is carried here until the next one of our own commits.
    unsaved_refusals: AtomicU64,
}

impl Outbox {
    /// Opens the outbox of `database`. `fresh_epoch` must be random: it becomes the store's epoch if the
    /// database has none yet, so that no two stores of one gateway ever share an identity.
    pub fn open(database: &Database, bounds: OutboxBounds, fresh_epoch: u64) -> Result<Self, StoreError> {
        let tx = database.begin_write()?;
        let fresh = {
            let mut meta = tx.open_table(META)?;
            tx.open_table(HEADS)?;
            tx.open_table(BLOBS)?;
            tx.open_table(QUARANTINE)?;
            let fresh = meta.get(EPOCH)?.is_none();
            if fresh {
                meta.insert(EPOCH, fresh_epoch)?;
                meta.insert(NEXT, 1)?;
            }
            fresh
        };
        // A start without anything to write must not wear the flash.
        if fresh {
            tx.commit()?;
        } else {
            tx.abort()?;
        }
        Ok(Self { bounds, unsaved_refusals: AtomicU64::new(0) })
    }

    /// The store's epoch: what the next entry will carry.
    pub fn epoch(&self, database: &Database) -> Result<u64, StoreError> {
        let tx = database.begin_read()?;
        let epoch = tx.open_table(META)?.get(EPOCH)?.map_or(0, |value| value.value());
        Ok(epoch)
    }

    /// Adds an entry inside the caller's transaction, so that whatever it stands for (samples marked as summed)
    /// commits or aborts together with it. `manifest` is given epoch and sequence and returns the signed bytes.
    ///
    /// Send nothing before the transaction is committed, with `Durability::Immediate`: until then the sequence
    /// may be handed out again.
    ///
    /// If there is no room, the oldest steps are dropped and counted, provided that helps; if not, the entry is
    /// refused and nothing was changed.
    pub fn enqueue_in(
        &self,
        tx: &WriteTransaction,
        draft: Draft<'_>,
        manifest: impl FnOnce(u64, u64) -> Vec<u8>,
    ) -> Result<Place, OutboxError> {
        let mut tables = Tables::open(tx)?;
        let epoch = tables.get(EPOCH)?;
        let sequence = tables.get(NEXT)?;
        let manifest = manifest(epoch, sequence);
        let blob_bytes = u32::try_from(draft.blob.len()).map_err(|_| OutboxError::TooLarge {
            bytes: draft.blob.len() as u64,
            max_bytes: self.bounds.max_bytes.min(u32::MAX.into()),
        })?;
        let head = Record {
            kind: draft.kind,
            epoch,
            task: draft.task,
            blob_bytes,
            blob_hash: *blake3::hash(draft.blob).as_bytes(),
            manifest: &manifest,
        }
        .encode()
        .ok_or(OutboxError::TaskName(draft.task.len()))?;
        self.make_room(&mut tables, (head.len() + draft.blob.len()) as u64)?;
        tables.insert(sequence, &head, draft.blob)?;
        tables.add(ENQUEUED, 1)?;
        Ok(Place { epoch, sequence })
    }

    /// Deletes the entry that an application ack names, and only if epoch, sequence and hash are all its own.
    /// `false` if there is no such entry (a repeated ack, an ack for another life of this store).
    pub fn acknowledge_in(
        &self,
        tx: &WriteTransaction,
        place: Place,
        blob_hash: &[u8; 32],
    ) -> Result<bool, StoreError> {
        let mut tables = Tables::open(tx)?;
        let found = tables.holds(place, blob_hash)?;
        if found {
            tables.delete(place.sequence)?;
            tables.add(ACKNOWLEDGED, 1)?;
        }
        Ok(found)
    }

    /// [`acknowledge_in`](Self::acknowledge_in) in a transaction of its own.
    pub fn acknowledge(
        &self,
        database: &Database,
        place: Place,
        blob_hash: &[u8; 32],
    ) -> Result<bool, StoreError> {
        let tx = database.begin_write()?;
        let found = self.acknowledge_in(&tx, place, blob_hash)?;
        if found {
            self.commit(tx)?;
        } else {
            tx.abort()?;
        }
        Ok(found)
    }

    /// Answers a sequence conflict: the aggregator knows another contribution under the place of this entry, so
    /// this one was never applied and takes a new place under a new epoch. `new_epoch` must be random; it
    /// becomes the store's epoch, unless an earlier conflict already replaced the epoch of this entry.
    ///
    /// Only the entry in conflict moves. The others may have been applied already with their ack still on the
    /// way; moved too, they would be applied twice.
    ///
    /// `rebuild` gets the old entry and its new epoch and sequence and returns the new signed manifest. `None`
    /// if there is no such entry.
    pub fn requeue_under_new_epoch(
        &self,
        database: &Database,
        place: Place,
        blob_hash: &[u8; 32],
        new_epoch: u64,
        rebuild: impl FnOnce(&Entry, u64, u64) -> Vec<u8>,
    ) -> Result<Option<Place>, StoreError> {
        let tx = database.begin_write()?;
        let moved = {
            let mut tables = Tables::open(&tx)?;
            match tables.entry(place.sequence)? {
                Found::Entry(entry) if entry.head.place == place && entry.head.blob_hash == *blob_hash => {
                    if tables.get(EPOCH)? == place.epoch {
                        tables.set(EPOCH, new_epoch)?;
                    }
                    let epoch = tables.get(EPOCH)?;
                    let sequence = tables.get(NEXT)?;
                    let manifest = rebuild(&entry, epoch, sequence);
                    let head = Record {
                        kind: entry.head.kind,
                        epoch,
                        task: &entry.head.task,
                        blob_bytes: entry.head.blob_bytes,
                        blob_hash: entry.head.blob_hash,
                        manifest: &manifest,
                    };
                    // The task's name fitted a record before.
                    if let Some(head) = head.encode() {
                        tables.delete(place.sequence)?;
                        tables.insert(sequence, &head, &entry.blob)?;
                        tables.add(REQUEUED, 1)?;
                        Some(Place { epoch, sequence })
                    } else {
                        None
                    }
                }
                _ => None,
            }
        };
        if moved.is_some() {
            self.commit(tx)?;
        } else {
            tx.abort()?;
        }
        Ok(moved)
    }

    /// The entries that wait, oldest first, one head in memory at a time and no transaction held in between.
    /// Corrupt heads are set aside on the way, as [`entry`](Self::entry) does.
    pub fn pending<'a>(&'a self, database: &'a Database) -> Pending<'a> {
        Pending { outbox: self, database, after: 0 }
    }

    /// The head of the first entry above the sequence `after`.
    pub fn next_after(&self, database: &Database, after: u64) -> Result<Option<Head>, StoreError> {
        let mut after = after;
        loop {
            let first = {
                let heads = database.begin_read()?.open_table(HEADS)?;
                let row = heads.range(after.saturating_add(1)..)?.next().transpose()?;
                row.map(|(sequence, raw)| (sequence.value(), decode_head(sequence.value(), raw.value())))
            };
            match first {
                None => return Ok(None),
                Some((_, Some(head))) => return Ok(Some(head)),
                Some((sequence, None)) => {
                    self.set_aside(database, sequence)?;
                    after = sequence;
                }
            }
        }
    }

    /// One entry with its blob, checked against its hash. An entry that does not read back as written is set
    /// aside, counted and `None`, so that it can never be tried again; this may take a write transaction, so
    /// none may be open in the caller's hand.
    pub fn entry(&self, database: &Database, sequence: u64) -> Result<Option<Entry>, StoreError> {
        let found = {
            let tx = database.begin_read()?;
            find(&tx.open_table(HEADS)?, &tx.open_table(BLOBS)?, sequence)?
        };
        match found {
            Found::Nothing => Ok(None),
            Found::Entry(entry) => Ok(Some(*entry)),
            Found::Corrupt => {
                self.set_aside(database, sequence)?;
                Ok(None)
            }
        }
    }

    /// The counters; those of the past survive restarts.
    pub fn counters(&self, database: &Database) -> Result<Counters, StoreError> {
        let tx = database.begin_read()?;
        let meta = tx.open_table(META)?;
        let get = |name: &str| -> Result<u64, StoreError> { Ok(meta.get(name)?.map_or(0, |v| v.value())) };
        Ok(Counters {
            pending: get(ENTRIES)?,
            pending_bytes: get(BYTES)?,
            enqueued: get(ENQUEUED)?,
            acknowledged: get(ACKNOWLEDGED)?,
            dropped_steps: get(DROPPED_STEPS)?,
            refused_full: get(REFUSED_FULL)? + self.unsaved_refusals.load(Ordering::Relaxed),
            requeued: get(REQUEUED)?,
            quarantined: get(QUARANTINED)?,
        })
    }

    fn make_room(&self, tables: &mut Tables<'_>, wanted: u64) -> Result<(), OutboxError> {
        if wanted > self.bounds.max_bytes {
            return Err(OutboxError::TooLarge { bytes: wanted, max_bytes: self.bounds.max_bytes });
        }
        let (entries, bytes) = (tables.get(ENTRIES)?, tables.get(BYTES)?);
        let fits = |freed_entries: u64, freed_bytes: u64| {
            entries < self.bounds.max_entries + freed_entries
                && bytes + wanted <= self.bounds.max_bytes + freed_bytes
        };
        let (mut freed_bytes, mut doomed) = (0, Vec::new());
        if !fits(0, 0) {
            for row in tables.heads.range::<u64>(..)? {
                let (sequence, raw) = row?;
                let raw = raw.value();
                if let Some(record) = Record::decode(raw).filter(|record| record.kind == Kind::Step) {
                    doomed.push(sequence.value());
                    freed_bytes += raw.len() as u64 + u64::from(record.blob_bytes);
                    if fits(doomed.len() as u64, freed_bytes) {
                        break;
                    }
                }
            }
        }
        if !fits(doomed.len() as u64, freed_bytes) {
            self.unsaved_refusals.fetch_add(1, Ordering::Relaxed);
            return Err(OutboxError::Full { pending: entries, pending_bytes: bytes, wanted });
        }
        for sequence in &doomed {
            tables.delete(*sequence)?;
        }
        if !doomed.is_empty() {
            tables.add(DROPPED_STEPS, doomed.len() as u64)?;
            tracing::warn!(steps = doomed.len(), "outbox is full: oldest steps dropped");
        }
        Ok(())
    }

    fn set_aside(&self, database: &Database, sequence: u64) -> Result<(), StoreError> {
        let tx = database.begin_write()?;
        {
            let mut tables = Tables::open(&tx)?;
            // Looked at again: another hand may have replaced it since it was read.
            if !matches!(tables.entry(sequence)?, Found::Corrupt) {
                return Ok(());
            }
            let head = tables.heads.get(sequence)?.map(|raw| raw.value().to_vec()).unwrap_or_default();
            tables.delete(sequence)?;
            tables.add(QUARANTINED, 1)?;
            let mut kept = tx.open_table(QUARANTINE)?;
            kept.insert(sequence, head.as_slice())?;
            while redb::ReadableTableMetadata::len(&kept)? > KEPT_QUARANTINED as u64 {
                kept.pop_first()?;
            }
        }
        self.commit(tx)?;
        tracing::error!(sequence, "outbox entry is corrupt: set aside");
        Ok(())
    }

    /// Commits a transaction of our own, and with it the refusals that could not be written when they happened.
    fn commit(&self, tx: WriteTransaction) -> Result<(), StoreError> {
        let refusals = self.unsaved_refusals.load(Ordering::Relaxed);
        if refusals > 0 {
            Tables::open(&tx)?.add(REFUSED_FULL, refusals)?;
        }
        tx.commit()?;
        self.unsaved_refusals.fetch_sub(refusals, Ordering::Relaxed);
        Ok(())
    }
}

/// Iterator over the heads that wait. After an error it starts again where it failed.
#[derive(Debug)]
pub struct Pending<'a> {
    outbox: &'a Outbox,
    database: &'a Database,
    after: u64,
}

impl Iterator for Pending<'_> {
    type Item = Result<Head, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.outbox.next_after(self.database, self.after).transpose()?;
        if let Ok(head) = &head {
            self.after = head.place.sequence;
        }
        Some(head)
    }
}

enum Found {
    Nothing,
    Corrupt,
    Entry(Box<Entry>),
}

fn decode_head(sequence: u64, raw: &[u8]) -> Option<Head> {
    let record = Record::decode(raw)?;
    Some(Head {
        place: Place { epoch: record.epoch, sequence },
        kind: record.kind,
        task: record.task.to_owned(),
        manifest: record.manifest.to_vec(),
        blob_bytes: record.blob_bytes,
        blob_hash: record.blob_hash,
    })
}

fn find(
    heads: &impl ReadableTable<u64, &'static [u8]>,
    blobs: &impl ReadableTable<u64, &'static [u8]>,
    sequence: u64,
) -> Result<Found, StoreError> {
    let Some(raw) = heads.get(sequence)? else { return Ok(Found::Nothing) };
    let (Some(head), Some(blob)) = (decode_head(sequence, raw.value()), blobs.get(sequence)?) else {
        return Ok(Found::Corrupt);
    };
    let blob = blob.value();
    if blob.len() as u64 != u64::from(head.blob_bytes) || *blake3::hash(blob).as_bytes() != head.blob_hash {
        return Ok(Found::Corrupt);
    }
    Ok(Found::Entry(Box::new(Entry { head, blob: blob.to_vec() })))
}

/// The tables of one write transaction. The totals in `META` are kept with every insert and delete.
struct Tables<'tx> {
    meta: Table<'tx, &'static str, u64>,
    heads: Table<'tx, u64, &'static [u8]>,
    blobs: Table<'tx, u64, &'static [u8]>,
}

impl<'tx> Tables<'tx> {
    fn open(tx: &'tx WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self { meta: tx.open_table(META)?, heads: tx.open_table(HEADS)?, blobs: tx.open_table(BLOBS)? })
    }

    fn get(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.meta.get(name)?.map_or(0, |value| value.value()))
    }

    fn set(&mut self, name: &str, value: u64) -> Result<(), StoreError> {
        self.meta.insert(name, value)?;
        Ok(())
    }

    fn add(&mut self, name: &str, more: u64) -> Result<(), StoreError> {
        let sum = self.get(name)?.saturating_add(more);
        self.set(name, sum)
    }

    fn insert(&mut self, sequence: u64, head: &[u8], blob: &[u8]) -> Result<(), StoreError> {
        self.heads.insert(sequence, head)?;
        self.blobs.insert(sequence, blob)?;
        self.set(NEXT, sequence + 1)?;
        self.add(ENTRIES, 1)?;
        self.add(BYTES, (head.len() + blob.len()) as u64)
    }

    fn delete(&mut self, sequence: u64) -> Result<(), StoreError> {
        // Sizes as stored, so that the totals hold for a corrupt entry too.
        let head = self.heads.remove(sequence)?.map_or(0, |raw| raw.value().len());
        let blob = self.blobs.remove(sequence)?.map_or(0, |raw| raw.value().len());
        let (entries, bytes) = (self.get(ENTRIES)?, self.get(BYTES)?);
        self.set(ENTRIES, entries.saturating_sub(1))?;
        self.set(BYTES, bytes.saturating_sub((head + blob) as u64))
    }

    fn holds(&self, place: Place, blob_hash: &[u8; 32]) -> Result<bool, StoreError> {
        let raw = self.heads.get(place.sequence)?;
        Ok(raw.is_some_and(|raw| {
            Record::decode(raw.value())
                .is_some_and(|record| record.epoch == place.epoch && record.blob_hash == *blob_hash)
        }))
    }

    fn entry(&self, sequence: u64) -> Result<Found, StoreError> {
        find(&self.heads, &self.blobs, sequence)
    }
}

//! What a gateway still has to deliver, durable and in order, inside the caller's database.
//!
//! An entry dies in two ways only: an application ack that names its epoch, its sequence and its hash, or, for
//! a *step*, overflow (a step is worth less than the sums that wait behind it). Sequences are handed out once
//! in the life of the database and never start over, not even under a new epoch.

mod record;
mod tables;
#[cfg(test)]
mod tests;
mod types;

use std::sync::atomic::{AtomicU64, Ordering};

use redb::{ReadableTable, WriteTransaction};

use crate::{Database, StoreError};
use record::Record;
pub(crate) use record::fuzz_record;
use tables::{
    ACKNOWLEDGED, BLOBS, BYTES, DROPPED_STEPS, ENQUEUED, ENTRIES, EPOCH, Found, HEADS, META, NEXT,
    QUARANTINE, QUARANTINED, REFUSED_FULL, REQUEUED, Tables, decode_head, find,
};
pub use types::{Counters, Draft, Entry, Head, Kind, OutboxBounds, OutboxError, Place};

/// How many heads of corrupt entries are kept for a person to look at.
const KEPT_QUARANTINED: usize = 3;

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

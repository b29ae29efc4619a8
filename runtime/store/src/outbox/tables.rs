//! The outbox's tables and what is counted in them.

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use super::record::Record;
use super::types::{Entry, Head, Place};
use crate::StoreError;

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("outbox.meta");
pub(super) const HEADS: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox.heads");
pub(super) const BLOBS: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox.blobs");
pub(super) const QUARANTINE: TableDefinition<u64, &[u8]> = TableDefinition::new("outbox.quarantine");

pub(super) const EPOCH: &str = "epoch";
pub(super) const NEXT: &str = "next";
pub(super) const BYTES: &str = "bytes";
pub(super) const ENTRIES: &str = "entries";
pub(super) const ENQUEUED: &str = "enqueued";
pub(super) const ACKNOWLEDGED: &str = "acknowledged";
pub(super) const DROPPED_STEPS: &str = "dropped-steps";
pub(super) const REFUSED_FULL: &str = "refused-full";
pub(super) const REQUEUED: &str = "requeued";
pub(super) const QUARANTINED: &str = "quarantined";
pub(super) enum Found {
    Nothing,
    Corrupt,
    Entry(Box<Entry>),
}

pub(super) fn decode_head(sequence: u64, raw: &[u8]) -> Option<Head> {
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

pub(super) fn find(
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
pub(super) struct Tables<'tx> {
    pub(super) meta: Table<'tx, &'static str, u64>,
    pub(super) heads: Table<'tx, u64, &'static [u8]>,
    pub(super) blobs: Table<'tx, u64, &'static [u8]>,
}

impl<'tx> Tables<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self { meta: tx.open_table(META)?, heads: tx.open_table(HEADS)?, blobs: tx.open_table(BLOBS)? })
    }

    pub(super) fn get(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.meta.get(name)?.map_or(0, |value| value.value()))
    }

    pub(super) fn set(&mut self, name: &str, value: u64) -> Result<(), StoreError> {
        self.meta.insert(name, value)?;
        Ok(())
    }

    pub(super) fn add(&mut self, name: &str, more: u64) -> Result<(), StoreError> {
        let sum = self.get(name)?.saturating_add(more);
        self.set(name, sum)
    }

    pub(super) fn insert(&mut self, sequence: u64, head: &[u8], blob: &[u8]) -> Result<(), StoreError> {
        self.heads.insert(sequence, head)?;
        self.blobs.insert(sequence, blob)?;
        self.set(NEXT, sequence + 1)?;
        self.add(ENTRIES, 1)?;
        self.add(BYTES, (head.len() + blob.len()) as u64)
    }

    pub(super) fn delete(&mut self, sequence: u64) -> Result<(), StoreError> {
        // Sizes as stored, so that the totals hold for a corrupt entry too.
        let head = self.heads.remove(sequence)?.map_or(0, |raw| raw.value().len());
        let blob = self.blobs.remove(sequence)?.map_or(0, |raw| raw.value().len());
        let (entries, bytes) = (self.get(ENTRIES)?, self.get(BYTES)?);
        self.set(ENTRIES, entries.saturating_sub(1))?;
        self.set(BYTES, bytes.saturating_sub((head + blob) as u64))
    }

    pub(super) fn holds(&self, place: Place, blob_hash: &[u8; 32]) -> Result<bool, StoreError> {
        let raw = self.heads.get(place.sequence)?;
        Ok(raw.is_some_and(|raw| {
            Record::decode(raw.value())
                .is_some_and(|record| record.epoch == place.epoch && record.blob_hash == *blob_hash)
        }))
    }

    pub(super) fn entry(&self, sequence: u64) -> Result<Found, StoreError> {
        find(&self.heads, &self.blobs, sequence)
    }
}

//! The feature store: what a gateway remembers of its samples. Features and labels only, never raw data.

use crate::record::{Given, Mark, Record, RecordRef, Tag};
use loadonce_module::NORMAL;
use loadonce_store::redb::{
    self, ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction,
};
use thiserror::Error;

/// (task, number) to record; numbers rise, so the oldest come first.
const SAMPLES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("samples");
/// (task, sample id) to number.
const IDS: TableDefinition<(&str, &str), u64> = TableDefinition::new("sample_ids");
/// task to the next number.
const NEXT: TableDefinition<&str, u64> = TableDefinition::new("sample_next");

/// Why the feature store failed.
#[derive(Debug, Error)]
pub enum SamplesError {
    /// The database failed.
    #[error("the feature store failed: {0}")]
    Storage(#[from] redb::StorageError),
    /// A table could not be opened.
    #[error("the feature store failed: {0}")]
    Table(#[from] TableError),
}

/// Makes the tables, so that readers find them.
pub(crate) fn create(tx: &WriteTransaction) -> Result<(), SamplesError> {
    tx.open_table(SAMPLES)?;
    tx.open_table(IDS)?;
    tx.open_table(NEXT)?;
    Ok(())
}

/// Is told of every record that comes (1) or goes (-1), so that counts need no look at the whole store.
pub(crate) type Watch<'a> = dyn FnMut(&RecordRef<'_>, i64) + 'a;

fn tell(watch: &mut Watch<'_>, bytes: &[u8], sign: i64) {
    if let Some(record) = RecordRef::decode(bytes) {
        watch(&record, sign);
    }
}

/// Samples that went to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Dropped {
    /// All of them.
    pub samples: u64,
    /// Those whose label no sum had taken yet: what they could have taught is gone.
    pub untold: u64,
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.samples += other.samples;
        self.untold += other.untold;
    }
}

/// Adds a sample, or gives a known one its new label; drops the oldest above `bound`. Of a task the first `learn`
/// samples without a label are labelled [`NORMAL`]. Returns what was dropped.
pub(crate) fn put(
    tx: &WriteTransaction,
    task: &str,
    record: &Record,
    (bound, learn): (u64, u64),
    watch: &mut Watch<'_>,
) -> Result<Dropped, SamplesError> {
    let mut samples = tx.open_table(SAMPLES)?;
    let mut ids = tx.open_table(IDS)?;
    let mut next = tx.open_table(NEXT)?;
    let known = ids.get((task, record.id.as_str()))?.map(|n| n.value());
    if let Some(number) = known {
        let old = samples.get((task, number))?.and_then(|bytes| {
            tell(watch, bytes.value(), -1);
            Record::decode(bytes.value())
        });
        // Features that went into a sum stay with the sample, so that a relabelling takes out exactly what went
        // in. Others give way: the id may have been used anew.
        let elsewhere = |old: &Record| old.features_of != record.features_of && old.scale == record.scale;
        let merged = match old {
            // On another backbone it is to be learned from anew; what it stands in there stays noted, so that
            // going back sums it no second time.
            Some(old) if old.is_summed() && elsewhere(&old) => {
                let Record { label, marks, values, .. } = old;
                let mut anew = Record { label, marks, values, ..record.clone() };
                if record.label.is_some() {
                    anew.take_label_of(record);
                }
                anew
            }
            Some(mut old) if old.is_summed() => {
                old.take_label_of(record);
                old
            }
            Some(old) => {
                let mut anew = record.clone();
                if anew.label.is_none() {
                    anew.take_label_of(&old);
                }
                anew
            }
            None => record.clone(),
        };
        let merged = merged.encode();
        tell(watch, &merged, 1);
        samples.insert((task, number), merged.as_slice())?;
        return Ok(Dropped::default());
    }
    let number = next.get(task)?.map_or(0, |n| n.value());
    next.insert(task, number + 1)?;
    let presumed = record.label.is_none() && number < learn;
    let stored = if presumed { Record { label: Some(NORMAL), ..record.clone() } } else { record.clone() };
    let stored = stored.encode();
    tell(watch, &stored, 1);
    samples.insert((task, number), stored.as_slice())?;
    ids.insert((task, record.id.as_str()), number)?;
    let mut dropped = Dropped::default();
    while let Some(oldest) = number.checked_sub(bound + dropped.samples) {
        // Numbers are dense from the oldest on, so at most one or two go per insertion.
        let Some(gone) = samples.remove((task, oldest))? else { break };
        if let Some(gone) = RecordRef::decode(gone.value()) {
            watch(&gone, -1);
            ids.remove((task, gone.id))?;
            dropped.untold += u64::from(gone.is_untold());
        }
        dropped.samples += 1;
    }
    Ok(dropped)
}

/// What became of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labelled {
    /// It is with its sample.
    Kept,
    /// Its sample is not known (any more).
    Unknown,
    /// Its sample cannot take it.
    Refused,
}

/// Labels a stored sample.
pub(crate) fn label(
    tx: &WriteTransaction,
    task: &str,
    id: &str,
    given: &Given,
    watch: &mut Watch<'_>,
) -> Result<Labelled, SamplesError> {
    let Some(number) = tx.open_table(IDS)?.get((task, id))?.map(|n| n.value()) else {
        return Ok(Labelled::Unknown);
    };
    let mut taken = false;
    let found = change(tx, task, number, |record| taken = record.give(given), watch)?;
    Ok(match (found, taken) {
        (true, true) => Labelled::Kept,
        (true, false) => Labelled::Refused,
        (false, _) => Labelled::Unknown,
    })
}

fn change(
    tx: &WriteTransaction,
    task: &str,
    number: u64,
    how: impl FnOnce(&mut Record),
    watch: &mut Watch<'_>,
) -> Result<bool, SamplesError> {
    let mut samples = tx.open_table(SAMPLES)?;
    let record = samples.get((task, number))?.and_then(|bytes| {
        let record = Record::decode(bytes.value())?;
        tell(watch, bytes.value(), -1);
        Some(record)
    });
    let Some(mut record) = record else { return Ok(false) };
    how(&mut record);
    let changed = record.encode();
    tell(watch, &changed, 1);
    samples.insert((task, number), changed.as_slice())?;
    Ok(true)
}

/// Visits every record of `task`, oldest first; returns how many could not be read.
pub(crate) fn visit(
    tx: &ReadTransaction,
    task: &str,
    mut seen: impl FnMut(u64, RecordRef<'_>),
) -> Result<u64, SamplesError> {
    let mut unreadable = 0;
    for entry in tx.open_table(SAMPLES)?.range((task, 0)..=(task, u64::MAX))? {
        let (key, value) = entry?;
        match RecordRef::decode(value.value()) {
            Some(record) => seen(key.value().1, record),
            None => unreadable += 1,
        }
    }
    Ok(unreadable)
}

/// Notes that the sum under `sequence` leaves a record in the sums of `shape` under `class`.
pub(crate) fn mark(
    tx: &WriteTransaction,
    task: &str,
    number: u64,
    (shape, class, sequence): (Tag, Option<u16>, u64),
) -> Result<(), SamplesError> {
    change(tx, task, number, |record| record.mark(shape, class, sequence), &mut |_, _| {})?;
    Ok(())
}

/// The sum under `sequence` will never be applied: its samples are as before it. Returns how many they are.
pub(crate) fn unmark(tx: &WriteTransaction, task: &str, sequence: u64) -> Result<u64, SamplesError> {
    let touched = |mark: &Mark| mark.sequence == sequence;
    let mut numbers = Vec::new();
    for entry in tx.open_table(SAMPLES)?.range((task, 0)..=(task, u64::MAX))? {
        let (key, value) = entry?;
        if RecordRef::decode(value.value()).is_some_and(|record| record.touched_by(sequence)) {
            numbers.push(key.value().1);
        }
    }
    for &number in &numbers {
        let undo = |record: &mut Record| {
            for mark in record.marks.iter_mut().filter(|mark| touched(mark)) {
                (mark.class, mark.sequence) = (mark.before, 0);
            }
        };
        change(tx, task, number, undo, &mut |_, _| {})?;
    }
    Ok(numbers.len() as u64)
}

#[cfg(test)]
mod tests;

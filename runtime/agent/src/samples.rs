//! The feature store: what a gateway remembers of its samples. Features and labels only, never raw data.

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

const FORMAT: u8 = 1;
const NO_CLASS: u16 = u16::MAX;

/// One remembered sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The sample's id.
    pub id: String,
    /// Held out for good: enters neither sums nor steps.
    pub heldout: bool,
    /// Its class, once labelled.
    pub label: Option<u16>,
    /// The class under which it was added to a sum.
    pub summed: Option<u16>,
    /// Features of all exits, as the sums take them (2⁻¹² units).
    pub features: Vec<i16>,
}

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

impl Record {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.id.len() + 2 * self.features.len());
        out.extend([FORMAT, u8::from(self.heldout)]);
        out.extend(self.label.unwrap_or(NO_CLASS).to_le_bytes());
        out.extend(self.summed.unwrap_or(NO_CLASS).to_le_bytes());
        out.push(self.id.len() as u8);
        out.extend(self.id.as_bytes());
        out.extend(self.features.iter().flat_map(|f| f.to_le_bytes()));
        out
    }

    /// `None` for a record that this build did not write: the caller counts and skips it.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<7>()?;
        let [format, heldout, l0, l1, s0, s1, id] = *head;
        let (id, features) = rest.split_at_checked(id as usize)?;
        if format != FORMAT || heldout > 1 || !features.len().is_multiple_of(2) {
            return None;
        }
        let class = |a, b| Some(u16::from_le_bytes([a, b])).filter(|&class| class != NO_CLASS);
        Some(Self {
            id: std::str::from_utf8(id).ok()?.to_owned(),
            heldout: heldout == 1,
            label: class(l0, l1),
            summed: class(s0, s1),
            features: features.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect(),
        })
    }
}

/// Makes the tables, so that readers find them.
pub(crate) fn create(tx: &WriteTransaction) -> Result<(), SamplesError> {
    tx.open_table(SAMPLES)?;
    tx.open_table(IDS)?;
    tx.open_table(NEXT)?;
    Ok(())
}

/// Adds a sample, or gives a known one its new label; drops the oldest above `bound`. Returns how many were
/// dropped.
pub(crate) fn put(
    tx: &WriteTransaction,
    task: &str,
    record: &Record,
    bound: u64,
) -> Result<u64, SamplesError> {
    let mut samples = tx.open_table(SAMPLES)?;
    let mut ids = tx.open_table(IDS)?;
    let mut next = tx.open_table(NEXT)?;
    let known = ids.get((task, record.id.as_str()))?.map(|n| n.value());
    if let Some(number) = known {
        let old = samples.get((task, number))?.and_then(|bytes| Record::decode(bytes.value()));
        // The same id again keeps what was summed, so that a relabelling subtracts it exactly once. Its old
        // features went into the sum, so they stay with it.
        let merged = match old {
            Some(old) => Record { label: record.label.or(old.label), ..old },
            None => record.clone(),
        };
        samples.insert((task, number), merged.encode().as_slice())?;
        return Ok(0);
    }
    let number = next.get(task)?.map_or(0, |n| n.value());
    next.insert(task, number + 1)?;
    samples.insert((task, number), record.encode().as_slice())?;
    ids.insert((task, record.id.as_str()), number)?;
    let mut dropped = 0;
    while let Some(oldest) = number.checked_sub(bound + dropped) {
        // Numbers are dense from the oldest on, so at most one or two go per insertion.
        let Some(gone) = samples.remove((task, oldest))? else { break };
        if let Some(gone) = Record::decode(gone.value()) {
            ids.remove((task, gone.id.as_str()))?;
        }
        dropped += 1;
    }
    Ok(dropped)
}

/// Labels a stored sample; `false` when it is not known (any more).
pub(crate) fn label(tx: &WriteTransaction, task: &str, id: &str, class: u16) -> Result<bool, SamplesError> {
    let ids = tx.open_table(IDS)?;
    let Some(number) = ids.get((task, id))?.map(|n| n.value()) else { return Ok(false) };
    let mut samples = tx.open_table(SAMPLES)?;
    let record = samples.get((task, number))?.and_then(|bytes| Record::decode(bytes.value()));
    let Some(mut record) = record else { return Ok(false) };
    record.label = Some(class);
    samples.insert((task, number), record.encode().as_slice())?;
    Ok(true)
}

/// Visits every record of `task`, oldest first; returns how many could not be read.
pub(crate) fn visit(
    tx: &ReadTransaction,
    task: &str,
    mut seen: impl FnMut(u64, Record),
) -> Result<u64, SamplesError> {
    let mut unreadable = 0;
    for entry in tx.open_table(SAMPLES)?.range((task, 0)..=(task, u64::MAX))? {
        let (key, value) = entry?;
        match Record::decode(value.value()) {
            Some(record) => seen(key.value().1, record),
            None => unreadable += 1,
        }
    }
    Ok(unreadable)
}

/// Rewrites the summed mark of a record.
pub(crate) fn mark_summed(
    tx: &WriteTransaction,
    task: &str,
    number: u64,
    summed: Option<u16>,
) -> Result<(), SamplesError> {
    let mut samples = tx.open_table(SAMPLES)?;
    let record = samples.get((task, number))?.and_then(|bytes| Record::decode(bytes.value()));
    if let Some(mut record) = record {
        record.summed = summed;
        samples.insert((task, number), record.encode().as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_store::redb::{Database, backends::InMemoryBackend};

    fn record(id: &str, label: Option<u16>) -> Record {
        Record { id: id.into(), heldout: false, label, summed: None, features: vec![1, -2, 3] }
    }

    fn all(db: &Database, task: &str) -> Vec<Record> {
        use loadonce_store::redb::ReadableDatabase;
        let mut out = Vec::new();
        visit(&db.begin_read().unwrap(), task, |_, r| out.push(r)).unwrap();
        out
    }

    #[test]
    fn the_oldest_go_first_and_tasks_are_apart() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let tx = db.begin_write().unwrap();
        for i in 0..5 {
            put(&tx, "a", &record(&format!("s{i}"), None), 3).unwrap();
        }
        put(&tx, "b", &record("s0", Some(1)), 3).unwrap();
        assert!(!label(&tx, "a", "s0", 1).unwrap());
        assert!(label(&tx, "a", "s4", 7).unwrap());
        tx.commit().unwrap();
        let ids: Vec<_> = all(&db, "a").into_iter().map(|r| (r.id, r.label)).collect();
        assert_eq!(ids, [("s2".into(), None), ("s3".into(), None), ("s4".into(), Some(7))]);
        assert_eq!(all(&db, "b"), [record("s0", Some(1))]);
    }

    #[test]
    fn a_sample_sent_again_keeps_its_summed_mark() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let tx = db.begin_write().unwrap();
        put(&tx, "a", &record("s", Some(1)), 9).unwrap();
        mark_summed(&tx, "a", 0, Some(1)).unwrap();
        put(&tx, "a", &record("s", Some(2)), 9).unwrap();
        tx.commit().unwrap();
        let again = &all(&db, "a")[0];
        assert_eq!((again.label, again.summed), (Some(2), Some(1)));
    }

    #[test]
    fn damaged_records_are_counted_not_fatal() {
        for bytes in [&[][..], &[9; 7], &[1, 2, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 9, 1]] {
            assert_eq!(Record::decode(bytes), None);
        }
    }
}

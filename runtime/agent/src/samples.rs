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

const FORMAT: u8 = 2;
const NO_CLASS: u16 = u16::MAX;
/// Format, what the features are made of, held out, label, marks, length of the id.
const HEAD: usize = 14;
const MARK: usize = 20;
/// Shapes under which one sample may stand in sums. With more, the oldest mark goes, and going back to that
/// shape would add the sample a second time.
const MAX_MARKS: usize = 16;

/// The first bytes of a blake3: tells shapes, and what features are made of, apart.
pub(crate) type Tag = [u8; 8];

/// That a sample stands in the sums of one shape. A lineage's totals outlive a change of the manifest, so the
/// marks of earlier shapes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The shape.
    pub shape: Tag,
    /// The class it was added under; `None` once it was taken out.
    pub class: Option<u16>,
    /// Outbox sequence of the sum that last changed it.
    pub sequence: u64,
    /// The class before that sum, should it be refused.
    pub before: Option<u16>,
}

/// One remembered sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The sample's id.
    pub id: String,
    /// What its features are made of: backbone, channels and directions.
    pub features_of: Tag,
    /// Held out for good: enters neither sums nor steps.
    pub heldout: bool,
    /// Its class, once labelled.
    pub label: Option<u16>,
    /// The sums it stands in.
    pub marks: Vec<Mark>,
    /// Features of all exits, as the sums take them (2⁻¹² units).
    pub features: Vec<i16>,
}

/// A record as it lies in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordRef<'a> {
    pub(crate) features_of: Tag,
    pub(crate) heldout: bool,
    label: Option<u16>,
    marks: &'a [u8],
    id: &'a str,
    features: &'a [u8],
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

fn class(bytes: [u8; 2]) -> Option<u16> {
    Some(u16::from_le_bytes(bytes)).filter(|&class| class != NO_CLASS)
}

fn class_bytes(class: Option<u16>) -> [u8; 2] {
    class.unwrap_or(NO_CLASS).to_le_bytes()
}

impl Mark {
    fn encode(&self) -> [u8; MARK] {
        let mut out = [0; MARK];
        out[..8].copy_from_slice(&self.shape);
        out[8..10].copy_from_slice(&class_bytes(self.class));
        out[10..18].copy_from_slice(&self.sequence.to_le_bytes());
        out[18..].copy_from_slice(&class_bytes(self.before));
        out
    }

    fn decode(bytes: &[u8; MARK]) -> Self {
        let (mut shape, mut sequence) = ([0; 8], [0; 8]);
        shape.copy_from_slice(&bytes[..8]);
        sequence.copy_from_slice(&bytes[10..18]);
        Self {
            shape,
            class: class([bytes[8], bytes[9]]),
            sequence: u64::from_le_bytes(sequence),
            before: class([bytes[18], bytes[19]]),
        }
    }
}

impl<'a> RecordRef<'a> {
    /// `None` for a record that this build did not write: the caller counts and skips it.
    fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let [format, tag @ .., heldout, l0, l1, marks, id] = *head;
        let (marks, rest) = rest.split_at_checked(usize::from(marks) * MARK)?;
        let (id, features) = rest.split_at_checked(usize::from(id))?;
        if format != FORMAT || heldout > 1 || !features.len().is_multiple_of(2) {
            return None;
        }
        Some(Self {
            features_of: tag,
            heldout: heldout == 1,
            label: class([l0, l1]),
            marks,
            id: std::str::from_utf8(id).ok()?,
            features,
        })
    }

    /// Its class, if the task has it.
    pub(crate) fn label(&self, outputs: usize) -> Option<u16> {
        self.label.filter(|&class| usize::from(class) < outputs)
    }

    /// The class under which it stands in the sums of a shape.
    pub(crate) fn summed(&self, shape: Tag) -> Option<u16> {
        self.marks().find(|mark| mark.shape == shape)?.class
    }

    fn marks(&self) -> impl Iterator<Item = Mark> + use<'a> {
        self.marks.as_chunks::<MARK>().0.iter().map(Mark::decode)
    }

    /// Its features, in 2⁻¹² units.
    pub(crate) fn features(&self) -> impl ExactSizeIterator<Item = i16> + use<'a> {
        self.features.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes))
    }

    fn to_owned(self) -> Record {
        Record {
            id: self.id.to_owned(),
            features_of: self.features_of,
            heldout: self.heldout,
            label: self.label,
            marks: self.marks().collect(),
            features: self.features().collect(),
        }
    }
}

impl Record {
    fn encode(&self) -> Vec<u8> {
        let size = HEAD + MARK * self.marks.len() + self.id.len() + 2 * self.features.len();
        let mut out = Vec::with_capacity(size);
        out.push(FORMAT);
        out.extend(self.features_of);
        out.push(u8::from(self.heldout));
        out.extend(class_bytes(self.label));
        out.extend([self.marks.len() as u8, self.id.len() as u8]);
        out.extend(self.marks.iter().flat_map(Mark::encode));
        out.extend(self.id.as_bytes());
        out.extend(self.features.iter().flat_map(|f| f.to_le_bytes()));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        RecordRef::decode(bytes).map(RecordRef::to_owned)
    }

    /// Notes that the sum in the outbox under `sequence` leaves the sample in a shape's sums under `class`.
    fn mark(&mut self, shape: Tag, class: Option<u16>, sequence: u64) {
        let before =
            self.marks.iter().position(|mark| mark.shape == shape).and_then(|at| self.marks.remove(at).class);
        if self.marks.len() == MAX_MARKS {
            self.marks.remove(0);
        }
        self.marks.push(Mark { shape, class, sequence, before });
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
        // Features that went into a sum stay with the sample, so that a relabelling takes out exactly what went
        // in. Others give way: the id may have been used anew.
        let merged = match old {
            Some(old) if old.marks.iter().any(|mark| mark.class.is_some()) => {
                Record { label: record.label.or(old.label), ..old }
            }
            Some(old) => Record { label: record.label.or(old.label), ..record.clone() },
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
        if let Some(gone) = RecordRef::decode(gone.value()) {
            ids.remove((task, gone.id))?;
        }
        dropped += 1;
    }
    Ok(dropped)
}

/// Labels a stored sample; `false` when it is not known (any more).
pub(crate) fn label(tx: &WriteTransaction, task: &str, id: &str, class: u16) -> Result<bool, SamplesError> {
    let Some(number) = tx.open_table(IDS)?.get((task, id))?.map(|n| n.value()) else { return Ok(false) };
    change(tx, task, number, |record| record.label = Some(class))
}

fn change(
    tx: &WriteTransaction,
    task: &str,
    number: u64,
    how: impl FnOnce(&mut Record),
) -> Result<bool, SamplesError> {
    let mut samples = tx.open_table(SAMPLES)?;
    let record = samples.get((task, number))?.and_then(|bytes| Record::decode(bytes.value()));
    let Some(mut record) = record else { return Ok(false) };
    how(&mut record);
    samples.insert((task, number), record.encode().as_slice())?;
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
    change(tx, task, number, |record| record.mark(shape, class, sequence))?;
    Ok(())
}

/// The sum under `sequence` will never be applied: its samples are as before it. Returns how many they are.
pub(crate) fn unmark(tx: &WriteTransaction, task: &str, sequence: u64) -> Result<u64, SamplesError> {
    let touched = |mark: &Mark| mark.sequence == sequence;
    let mut numbers = Vec::new();
    for entry in tx.open_table(SAMPLES)?.range((task, 0)..=(task, u64::MAX))? {
        let (key, value) = entry?;
        if RecordRef::decode(value.value()).is_some_and(|record| record.marks().any(|mark| touched(&mark))) {
            numbers.push(key.value().1);
        }
    }
    for &number in &numbers {
        change(tx, task, number, |record| {
            for mark in record.marks.iter_mut().filter(|mark| touched(mark)) {
                (mark.class, mark.sequence) = (mark.before, 0);
            }
        })?;
    }
    Ok(numbers.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_store::redb::{Database, backends::InMemoryBackend};

    const A: Tag = [1; 8];
    const B: Tag = [2; 8];

    fn record(id: &str, label: Option<u16>) -> Record {
        let features = vec![1, -2, 3];
        Record { id: id.into(), features_of: A, heldout: false, label, marks: Vec::new(), features }
    }

    fn open() -> Database {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let tx = db.begin_write().unwrap();
        create(&tx).unwrap();
        tx.commit().unwrap();
        db
    }

    fn write(db: &Database, how: impl FnOnce(&WriteTransaction)) {
        let tx = db.begin_write().unwrap();
        how(&tx);
        tx.commit().unwrap();
    }

    fn all(db: &Database, task: &str) -> Vec<Record> {
        use loadonce_store::redb::ReadableDatabase;
        let mut out = Vec::new();
        visit(&db.begin_read().unwrap(), task, |_, r| out.push(r.to_owned())).unwrap();
        out
    }

    fn summed(record: &Record, shape: Tag) -> Option<u16> {
        RecordRef::decode(&record.encode()).unwrap().summed(shape)
    }

    #[test]
    fn the_oldest_go_first_and_tasks_are_apart() {
        let db = open();
        write(&db, |tx| {
            for i in 0..5 {
                put(tx, "a", &record(&format!("s{i}"), None), 3).unwrap();
            }
            put(tx, "b", &record("s0", Some(1)), 3).unwrap();
            assert!(!label(tx, "a", "s0", 1).unwrap());
            assert!(label(tx, "a", "s4", 7).unwrap());
        });
        let ids: Vec<_> = all(&db, "a").into_iter().map(|r| (r.id, r.label)).collect();
        assert_eq!(ids, [("s2".into(), None), ("s3".into(), None), ("s4".into(), Some(7))]);
        assert_eq!(all(&db, "b"), [record("s0", Some(1))]);
    }

    #[test]
    fn a_sample_sent_again_keeps_what_was_summed_and_gives_up_what_was_not() {
        let db = open();
        let anew = Record { features: vec![9, 9, 9], ..record("s", Some(2)) };
        write(&db, |tx| {
            put(tx, "a", &record("s", Some(1)), 9).unwrap();
            put(tx, "a", &anew, 9).unwrap();
        });
        assert_eq!(all(&db, "a"), std::slice::from_ref(&anew));
        write(&db, |tx| {
            mark(tx, "a", 0, (A, Some(2), 1)).unwrap();
            put(tx, "a", &record("s", Some(3)), 9).unwrap();
        });
        let again = &all(&db, "a")[0];
        assert_eq!((again.label, summed(again, A), &again.features), (Some(3), Some(2), &anew.features));
    }

    #[test]
    fn invariant_02_a_sample_is_summed_once_per_shape_however_the_manifest_changes() {
        let db = open();
        write(&db, |tx| {
            put(tx, "a", &record("s", Some(1)), 9).unwrap();
            mark(tx, "a", 0, (A, Some(1), 1)).unwrap();
            mark(tx, "a", 0, (B, Some(1), 2)).unwrap();
        });
        let record = &all(&db, "a")[0];
        assert_eq!((summed(record, A), summed(record, B), summed(record, [3; 8])), (Some(1), Some(1), None));
    }

    #[test]
    fn a_refused_sum_leaves_its_samples_as_they_were_before() {
        let db = open();
        write(&db, |tx| {
            put(tx, "a", &record("s", Some(1)), 9).unwrap();
            put(tx, "a", &record("t", Some(1)), 9).unwrap();
            mark(tx, "a", 0, (A, Some(1), 1)).unwrap();
            mark(tx, "a", 0, (A, Some(2), 7)).unwrap();
            mark(tx, "a", 1, (A, Some(1), 7)).unwrap();
            assert_eq!(unmark(tx, "a", 7).unwrap(), 2);
            assert_eq!(unmark(tx, "a", 7).unwrap(), 0);
        });
        let marks: Vec<_> = all(&db, "a").iter().map(|r| summed(r, A)).collect();
        assert_eq!(marks, [Some(1), None]);
    }

    #[test]
    fn marks_are_bounded() {
        let mut record = record("s", Some(1));
        for i in 0..40 {
            record.mark([i; 8], Some(1), 1);
        }
        assert_eq!(record.marks.len(), MAX_MARKS);
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }

    #[test]
    fn damaged_records_are_counted_not_fatal() {
        let good = record("s", Some(1)).encode();
        for bytes in [&[][..], &[9; 14], &[FORMAT; 14], &good[..good.len() - 1], &good[..HEAD]] {
            assert_eq!(Record::decode(bytes), None);
        }
    }
}

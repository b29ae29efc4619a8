//! One remembered sample, and how it lies in the store.
//!
//! A label is a number: a class, or for a forecast the place of its values among those the sample has ever had. So
//! what stands in a sum is named by a number for every kind, and a relabelling takes out exactly what went in.

use loadonce_module::{Head, Shape, quantize};

const FORMAT: u8 = 3;
const NO_CLASS: u16 = u16::MAX;
/// Format, what the features are made of, held out, label, marks, length of the id, length of the forecast's part.
const HEAD: usize = 16;
const MARK: usize = 20;
/// Mean, deviation, sets of values, values per set.
const COURSE: usize = 19;
/// Shapes under which one sample may stand in sums. With more, the oldest mark goes, and going back to that
/// shape would add the sample a second time.
const MAX_MARKS: usize = 16;
/// Sets of values one sample may have had.
const MAX_VALUES: usize = 16;

/// The first bytes of a blake3: tells shapes, and what features are made of, apart.
pub(crate) type Tag = [u8; 8];

/// That a sample stands in the sums of one shape. A lineage's totals outlive a change of the manifest, so the
/// marks of earlier shapes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The shape.
    pub shape: Tag,
    /// The label it was added under; `None` once it was taken out.
    pub class: Option<u16>,
    /// Outbox sequence of the sum that last changed it.
    pub sequence: u64,
    /// The label before that sum, should it be refused.
    pub before: Option<u16>,
}

/// Where a window's target lies: a value is (value − mean) / deviation in the window's own units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    /// What the target's values are measured from: its mean, or its level where the task has a season.
    pub mean: f64,
    /// Its standard deviation, never 0.
    pub deviation: f64,
}

/// A label as it is given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Given {
    /// A class.
    Class(u16),
    /// The values that came, in the input's units, one per step.
    Values(Vec<f64>),
}

/// One remembered sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// The sample's id.
    pub id: String,
    /// What its features are made of: backbone, channels, directions and extra features.
    pub features_of: Tag,
    /// Held out for good: enters neither sums nor steps.
    pub heldout: bool,
    /// Its class, or the place of its values, once labelled.
    pub label: Option<u16>,
    /// The sums it stands in.
    pub marks: Vec<Mark>,
    /// Features of all exits, as the sums take them (2⁻¹² units).
    pub features: Vec<i16>,
    /// Of a forecast's window.
    pub scale: Option<Scale>,
    /// The values it was labelled with, as the sums take them; all of one length.
    pub values: Vec<Vec<i16>>,
}

/// A record as it lies in the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordRef<'a> {
    pub(crate) features_of: Tag,
    pub(crate) heldout: bool,
    pub(crate) id: &'a str,
    label: Option<u16>,
    marks: &'a [u8],
    features: &'a [u8],
    course: &'a [u8],
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
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let [format, tag @ .., heldout, l0, l1, marks, id, c0, c1] = *head;
        let (marks, rest) = rest.split_at_checked(usize::from(marks) * MARK)?;
        let (id, rest) = rest.split_at_checked(usize::from(id))?;
        let (course, features) = rest.split_at_checked(usize::from(u16::from_le_bytes([c0, c1])))?;
        if format != FORMAT || heldout > 1 || !features.len().is_multiple_of(2) {
            return None;
        }
        if !course.is_empty() {
            let (head, values) = course.split_first_chunk::<COURSE>()?;
            let size = usize::from(head[16]) * usize::from(u16::from_le_bytes([head[17], head[18]]));
            if values.len() != 2 * size {
                return None;
            }
        }
        Some(Self {
            features_of: tag,
            heldout: heldout == 1,
            label: class([l0, l1]),
            marks,
            id: std::str::from_utf8(id).ok()?,
            features,
            course,
        })
    }

    /// Its label, if a module of this shape has it.
    pub(crate) fn label(&self, shape: &Shape) -> Option<u16> {
        self.label.filter(|&label| match shape.head {
            Head::Classify => usize::from(label) < shape.outputs,
            Head::Anomaly => label < 2,
            Head::Forecast { horizon, .. } => self.values(label).len() == usize::from(horizon),
        })
    }

    /// The label under which it stands in the sums of a shape.
    pub(crate) fn summed(&self, shape: Tag) -> Option<u16> {
        self.marks().find(|mark| mark.shape == shape)?.class
    }

    fn marks(&self) -> impl Iterator<Item = Mark> + use<'a> {
        self.marks.as_chunks::<MARK>().0.iter().map(Mark::decode)
    }

    /// Whether the sum under `sequence` changed it last in any shape.
    pub(crate) fn touched_by(&self, sequence: u64) -> bool {
        self.marks().any(|mark| mark.sequence == sequence)
    }

    /// Whether it has a label that no sum ever took, and that one was to take.
    pub(crate) fn is_untold(&self) -> bool {
        self.label.is_some() && !self.heldout && self.marks().all(|mark| mark.class.is_none())
    }

    /// Its features, in 2⁻¹² units.
    pub(crate) fn features(&self) -> impl ExactSizeIterator<Item = i16> + use<'a> {
        self.features.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes))
    }

    fn course(&self) -> Option<(Scale, u16, usize, &'a [u8])> {
        let (head, values) = self.course.split_first_chunk::<COURSE>()?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[at..at + 8]);
            f64::from_le_bytes(bytes)
        };
        let scale = Scale { mean: number(0), deviation: number(8) };
        Some((scale, u16::from(head[16]), usize::from(u16::from_le_bytes([head[17], head[18]])), values))
    }

    /// The values behind a label, in 2⁻¹² units; none where there are none.
    pub(crate) fn values(&self, label: u16) -> impl ExactSizeIterator<Item = i16> + use<'a> {
        let of = |(_, count, each, values): (Scale, u16, usize, &'a [u8])| {
            let from = usize::from(label) * 2 * each;
            if label < count { values.get(from..from + 2 * each) } else { None }
        };
        let bytes = self.course().and_then(of).unwrap_or_default();
        bytes.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes))
    }

    pub(crate) fn to_owned(self) -> Record {
        let course = self.course();
        let count = course.map_or(0, |(_, count, ..)| count);
        Record {
            id: self.id.to_owned(),
            features_of: self.features_of,
            heldout: self.heldout,
            label: self.label,
            marks: self.marks().collect(),
            features: self.features().collect(),
            scale: course.map(|(scale, ..)| scale),
            values: (0..count).map(|label| self.values(label).collect()).collect(),
        }
    }
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut course = Vec::new();
        if let Some(Scale { mean, deviation }) = self.scale {
            course.extend(mean.to_le_bytes());
            course.extend(deviation.to_le_bytes());
            course.push(self.values.len() as u8);
            course.extend((self.values.first().map_or(0, Vec::len) as u16).to_le_bytes());
            course.extend(self.values.iter().flatten().flat_map(|value| value.to_le_bytes()));
        }
        let size = HEAD + MARK * self.marks.len() + self.id.len() + course.len() + 2 * self.features.len();
        let mut out = Vec::with_capacity(size);
        out.push(FORMAT);
        out.extend(self.features_of);
        out.push(u8::from(self.heldout));
        out.extend(class_bytes(self.label));
        out.extend([self.marks.len() as u8, self.id.len() as u8]);
        out.extend((course.len() as u16).to_le_bytes());
        out.extend(self.marks.iter().flat_map(Mark::encode));
        out.extend(self.id.as_bytes());
        out.extend(course);
        out.extend(self.features.iter().flat_map(|f| f.to_le_bytes()));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        RecordRef::decode(bytes).map(RecordRef::to_owned)
    }

    /// Whether it stands in any sum.
    pub(crate) fn is_summed(&self) -> bool {
        self.marks.iter().any(|mark| mark.class.is_some())
    }

    /// Labels it; `false` where it cannot take such a label.
    pub(crate) fn give(&mut self, given: &Given) -> bool {
        match (given, self.scale) {
            (Given::Class(class), _) => {
                self.label = Some(*class);
                true
            }
            (Given::Values(values), Some(Scale { mean, deviation })) => {
                let y: Vec<i16> = values.iter().map(|v| quantize(((v - mean) / deviation) as f32)).collect();
                self.set_values(&y)
            }
            (Given::Values(_), None) => false,
        }
    }

    /// Takes over the label of another record of the same sample, if that has one.
    pub(crate) fn take_label_of(&mut self, other: &Self) {
        match other.label {
            None => {}
            Some(place) if !other.values.is_empty() => {
                if let Some(values) = other.values.get(usize::from(place)) {
                    // One that cannot be taken leaves the label as it is.
                    let _taken = self.set_values(values);
                }
            }
            label => self.label = label,
        }
    }

    fn set_values(&mut self, values: &[i16]) -> bool {
        if self.scale.is_none() || values.is_empty() {
            return false;
        }
        // All sets have one length; those of another horizon go, unless a sum still needs them.
        if self.values.iter().any(|other| other.len() != values.len()) {
            if self.is_summed() {
                return false;
            }
            self.values.clear();
        }
        if !self.values.iter().any(|known| known == values) {
            self.forget_unused();
            if self.values.len() == MAX_VALUES {
                return false;
            }
            self.values.push(values.to_vec());
        }
        self.label = self.values.iter().position(|known| known == values).map(|place| place as u16);
        true
    }

    /// Drops the sets of values that no sum names.
    fn forget_unused(&mut self) {
        let marks = &self.marks;
        let used =
            |place: u16| marks.iter().any(|mark| mark.class == Some(place) || mark.before == Some(place));
        let mut moved = Vec::with_capacity(self.values.len());
        let mut kept = Vec::with_capacity(self.values.len());
        for (place, values) in self.values.drain(..).enumerate() {
            let stays = used(place as u16);
            moved.push(stays.then_some(kept.len() as u16));
            if stays {
                kept.push(values);
            }
        }
        self.values = kept;
        let follow = |place: Option<u16>| place.and_then(|p| moved.get(usize::from(p)).copied().flatten());
        for mark in &mut self.marks {
            (mark.class, mark.before) = (follow(mark.class), follow(mark.before));
        }
        self.label = follow(self.label);
    }

    /// Notes that the sum in the outbox under `sequence` leaves the sample in a shape's sums under `class`.
    pub(crate) fn mark(&mut self, shape: Tag, class: Option<u16>, sequence: u64) {
        let before =
            self.marks.iter().position(|mark| mark.shape == shape).and_then(|at| self.marks.remove(at).class);
        if self.marks.len() == MAX_MARKS {
            self.marks.remove(0);
        }
        self.marks.push(Mark { shape, class, sequence, before });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_module::{Quantiles, Recipe};

    fn record() -> Record {
        Record {
            id: "s".into(),
            features_of: [1; 8],
            heldout: true,
            label: None,
            marks: Vec::new(),
            features: vec![1, -2, 3],
            scale: Some(Scale { mean: -1.5, deviation: 0.5 }),
            values: Vec::new(),
        }
    }

    #[test]
    fn records_read_back() {
        let mut with_values = record();
        assert!(with_values.give(&Given::Values(vec![-1.0, 0.0])));
        with_values.mark([2; 8], Some(0), 9);
        let plain = Record { scale: None, label: Some(3), ..record() };
        for record in [record(), with_values, plain] {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn marks_are_bounded() {
        let mut record = record();
        for i in 0..40 {
            record.mark([i; 8], Some(1), 1);
        }
        assert_eq!(record.marks.len(), MAX_MARKS);
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }

    #[test]
    fn values_are_bounded_and_those_of_sums_stay() {
        let mut record = record();
        for i in 0..100 {
            assert!(record.give(&Given::Values(vec![f64::from(i) / 64.0])));
            if i == 3 {
                record.mark([2; 8], record.label, 1);
            }
        }
        let summed = record.marks[0].class.unwrap();
        assert_eq!(record.values[usize::from(summed)], [quantize((3.0 / 64.0 + 1.5) / 0.5)]);
        assert!(record.values.len() <= MAX_VALUES);
        assert!(!record.give(&Given::Values(vec![1.0, 2.0])), "another horizon than that of a sum");
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }

    #[test]
    fn a_label_counts_only_where_the_shape_has_it() {
        let mut record = record();
        assert!(record.give(&Given::Values(vec![1.0, 2.0])));
        let bytes = record.encode();
        let read = RecordRef::decode(&bytes).unwrap();
        let shape = |head, outputs| Shape { recipe: Recipe::Probe, head, exits: 1, features: 3, outputs };
        let forecast = |horizon| Head::Forecast { horizon, quantiles: Quantiles::MEDIAN };
        assert_eq!(read.label(&shape(forecast(2), 2)), Some(0));
        assert_eq!(read.label(&shape(forecast(3), 3)), None);
        let anomalous = Record { label: Some(2), ..record }.encode();
        let read = RecordRef::decode(&anomalous).unwrap();
        assert_eq!(read.label(&shape(Head::Anomaly, 3)), None);
        assert_eq!(read.label(&shape(Head::Classify, 3)), Some(2));
    }

    #[test]
    fn damaged_records_are_counted_not_fatal() {
        let mut record = record();
        record.give(&Given::Values(vec![1.0]));
        let good = record.encode();
        for bytes in [&[][..], &[9; 16], &[FORMAT; 16], &good[..good.len() - 1], &good[..HEAD]] {
            assert_eq!(Record::decode(bytes), None);
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                // Whatever it says, reading it must not fail.
                let _read = Record::decode(&bytes).map(|record| record.encode());
            }
        }
    }
}

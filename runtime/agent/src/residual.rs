//! Error feedback: what a gateway's steps have not told yet (Seide et al. 2014; Karimireddy et al. 2019).
//!
//! A lossy codec leaves a rest. It is kept per task and added to the next step, so that over time everything a gateway
//! learned is told. For the steps made so far, residual = own steps − decoded steps that may have been applied. The
//! rules, and `docs/delta.md` for their reasons:
//!
//! - It is written in the transaction that puts the step into the outbox: both or neither.
//! - A step that is refused because its base is too old, or its round closed, is told again: what was decoded of it
//!   goes back into the residual, in the transaction that deletes the entry. Nothing of it was applied, so nothing is
//!   doubled.
//! - A step refused for any other reason takes the residual with it: something about it is wrong. A step that the full
//!   outbox dropped is lost and counted there.
//! - It is dropped when its base disappears: another shape or backbone, which is how a lineage starts over, or a base
//!   further back than [`KEPT_VERSIONS`] and than late steps are taken from. Within a lineage numbers only rise; a lower
//!   one is not believed.
//! - It never adds more than [`LONGEST`] times the length of the step it is added to.
//!
//! A record is the tag of the shape (8 bytes), the base's version (u64) and one f32 per parameter.

use loadonce_delta::{Codec, decode_step};
use loadonce_store::redb::{ReadableTable, TableDefinition, WriteTransaction};
use loadonce_store::{Entry, Kind};
use loadonce_wire::{Manifest, Reason};

use crate::agent::{Agent, AgentError};
use crate::record::Tag;

/// By task.
const RESIDUALS: TableDefinition<&str, &[u8]> = TableDefinition::new("agent.residuals");
/// As many versions as the aggregator keeps the files of; a longer window for late steps takes its place.
const KEPT_VERSIONS: u64 = 8;
/// Most length of the residual in lengths of the step it is added to.
const LONGEST: f64 = 4.0;
const HEAD: usize = 16;

/// What has not been told yet, and since when.
#[derive(Debug, Clone, PartialEq)]
struct Residual {
    tag: Tag,
    base_version: u64,
    values: Vec<f32>,
}

impl Residual {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + 4 * self.values.len());
        out.extend_from_slice(&self.tag);
        out.extend_from_slice(&self.base_version.to_le_bytes());
        out.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        out
    }

    /// `None` for anything but finite numbers for the shape of `tag`.
    fn decode(bytes: &[u8], tag: Tag, parameters: usize) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<HEAD>()?;
        let (found, version) = head.split_first_chunk::<8>()?;
        let (words, rest) = body.as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let sound = *found == tag && rest.is_empty() && values.len() == parameters;
        let finite = values.iter().all(|value| value.is_finite());
        let base_version = u64::from_le_bytes(version.try_into().ok()?);
        (sound && finite).then_some(Self { tag, base_version, values })
    }

    /// Whether it still means something beside a step from `base_version`, where steps may be `staleness` versions late.
    fn goes_with(&self, base_version: u64, staleness: u64) -> bool {
        let window = staleness.max(KEPT_VERSIONS);
        (self.base_version..=self.base_version.saturating_add(window)).contains(&base_version)
    }
}

/// Whether the bytes read as a residual, for the fuzz target.
pub(crate) fn reads(bytes: &[u8], parameters: usize) -> bool {
    let tag = bytes.first_chunk().copied().unwrap_or_default();
    Residual::decode(bytes, tag, parameters).is_some_and(|residual| residual.encode() == bytes)
}

/// Adds what has not been told to a step from `base_version`.
fn add(step: &mut [f32], residual: &Residual, base_version: u64, staleness: u64) {
    if !residual.goes_with(base_version, staleness) || residual.values.len() != step.len() {
        return;
    }
    let length = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    let (own, rest) = (length(step), length(&residual.values));
    let share = if rest > LONGEST * own { LONGEST * own / rest } else { 1.0 } as f32;
    for (value, rest) in step.iter_mut().zip(&residual.values) {
        *value += share * rest;
    }
}

/// Writes what a step from `base_version` leaves untold, or deletes it where nothing is.
pub(crate) fn write(
    tx: &WriteTransaction,
    task: &str,
    tag: Tag,
    base_version: u64,
    values: Vec<f32>,
) -> Result<(), AgentError> {
    let mut table = tx.open_table(RESIDUALS)?;
    if values.iter().all(|&value| value == 0.0) {
        table.remove(task)?;
    } else {
        table.insert(task, Residual { tag, base_version, values }.encode().as_slice())?;
    }
    Ok(())
}

/// Settles the residual of a step that was refused and is deleted in `tx`. Returns whether it will be told again.
pub(crate) fn refused(
    tx: &WriteTransaction,
    task: &str,
    (tag, parameters): (Tag, usize),
    entry: &Entry,
    reason: Reason,
) -> Result<bool, AgentError> {
    let mut table = tx.open_table(RESIDUALS)?;
    let manifest = Manifest::decode(&entry.head.manifest).ok();
    let decoded = manifest.as_ref().and_then(|manifest| {
        let codec = Codec::from_number(manifest.codec).ok()?;
        decode_step(codec, &entry.blob, parameters).ok()
    });
    let (Reason::StaleBase | Reason::RoundClosed, Some(manifest), Some(decoded)) =
        (reason, manifest, decoded)
    else {
        table.remove(task)?;
        return Ok(false);
    };
    let kept = table.get(task)?.and_then(|bytes| Residual::decode(bytes.value(), tag, parameters));
    let mut residual =
        kept.unwrap_or(Residual { tag, base_version: manifest.base_version, values: vec![0.0; parameters] });
    for (value, decoded) in residual.values.iter_mut().zip(&decoded) {
        *value += decoded;
    }
    table.insert(task, residual.encode().as_slice())?;
    Ok(true)
}

impl Agent {
    /// Adds what earlier steps left untold to a step of `task` from `base_version`.
    pub(crate) fn add_residual(
        &self,
        task: &str,
        base_version: u64,
        step: &mut [f32],
    ) -> Result<(), AgentError> {
        let Some((tag, staleness)) =
            self.tasks.get(task).map(|task| (task.shape_tag, task.manifest.rounds.staleness()))
        else {
            return Ok(());
        };
        let tx = self.database.begin_read()?;
        let table = tx.open_table(RESIDUALS)?;
        let kept = table.get(task)?.and_then(|bytes| Residual::decode(bytes.value(), tag, step.len()));
        if let Some(kept) = kept {
            add(step, &kept, base_version, staleness);
        }
        Ok(())
    }

    /// Deletes a refused step and settles its residual in one transaction; any other entry is only deleted. `false` if
    /// there is no such entry.
    pub(crate) fn delete_refused(
        &mut self,
        place: loadonce_store::Place,
        hash: &[u8; 32],
        reason: Reason,
    ) -> Result<bool, AgentError> {
        let entry = self.outbox.entry(&self.database, place.sequence)?;
        let step = entry.filter(|entry| {
            entry.head.kind == Kind::Step && entry.head.place == place && entry.head.blob_hash == *hash
        });
        let Some(entry) = step else { return Ok(self.outbox.acknowledge(&self.database, place, hash)?) };
        let tx = self.database.begin_write()?;
        if !self.outbox.acknowledge_in(&tx, place, hash)? {
            return Ok(false);
        }
        let name = entry.head.task.as_str();
        if let Some(task) = self.tasks.get(name) {
            let again = refused(&tx, name, (task.shape_tag, task.shape.parameters()), &entry, reason)?;
            tracing::info!(
                task = name,
                sequence = place.sequence,
                again,
                "residual of a refused step settled"
            );
        }
        tx.commit()?;
        Ok(true)
    }
}

/// Makes the table, so that readers find it.
pub(crate) fn open(tx: &WriteTransaction) -> Result<(), AgentError> {
    tx.open_table(RESIDUALS)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_delta::{Budget, encode_lossy};
    use loadonce_store::redb::{Database, backends::InMemoryBackend};
    use loadonce_store::{Head, Place};
    use loadonce_wire::{ContributionKind, Name, manifest::MAX_MANIFEST};

    const TAG: Tag = [7; 8];

    fn entry(blob: Vec<u8>, base_version: u64) -> Entry {
        let manifest = Manifest {
            kind: ContributionKind::Step,
            codec: Codec::StepSparse.number(),
            key: [1; 32],
            epoch: 2,
            sequence: 3,
            task: Name::new("digits").unwrap(),
            backbone: [4; 32],
            shape: [5; 32],
            base_version,
            base_hash: [7; 32],
            weight: 8,
            heldout_samples: 9,
            heldout_before: 0.5,
            heldout_after: 0.25,
            raw_bytes: 400,
            blob_bytes: blob.len() as u32,
            blob_hash: [10; 32],
            signature: [11; 64],
        };
        let mut encoded = vec![0; MAX_MANIFEST];
        let length = manifest.encode(&mut encoded).unwrap();
        encoded.truncate(length);
        let head = Head {
            place: Place { epoch: 2, sequence: 3 },
            kind: Kind::Step,
            task: "digits".into(),
            manifest: encoded,
            blob_bytes: blob.len() as u32,
            blob_hash: [10; 32],
        };
        Entry { head, blob }
    }

    fn kept(tx: &WriteTransaction) -> Option<Residual> {
        let table = tx.open_table(RESIDUALS).unwrap();
        let bytes = table.get("digits").unwrap()?;
        Residual::decode(bytes.value(), TAG, 100)
    }

    /// An encoded step, the step and what it leaves untold.
    fn lossy() -> (Vec<u8>, Vec<f32>, Vec<f32>) {
        let step: Vec<f32> = (0..100i16).map(|i| f32::from(i * 37 % 41 - 20) / 64.0).collect();
        let mut left = step.clone();
        let budget = Budget { bits: 1.0, seed: 0, row: 10 };
        let blob = encode_lossy(Codec::StepSparse, &mut left, &budget).unwrap().blob;
        (blob, step, left)
    }

    #[test]
    fn a_refused_step_goes_back_whole_and_a_wrong_one_takes_the_residual_with_it() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let tx = database.begin_write().unwrap();
        let (blob, step, left) = lossy();
        write(&tx, "digits", TAG, 4, left.clone()).unwrap();
        assert_eq!(kept(&tx).unwrap().values, left);
        for reason in [Reason::StaleBase, Reason::RoundClosed] {
            write(&tx, "digits", TAG, 4, left.clone()).unwrap();
            assert!(refused(&tx, "digits", (TAG, 100), &entry(blob.clone(), 4), reason).unwrap());
            let again = kept(&tx).unwrap();
            assert_eq!(again.base_version, 4);
            assert!(again.values.iter().zip(&step).all(|(a, b)| (a - b).abs() < 1e-6));
        }
        for reason in [Reason::OverNorm, Reason::NotFinite, Reason::Malformed] {
            write(&tx, "digits", TAG, 4, left.clone()).unwrap();
            assert!(!refused(&tx, "digits", (TAG, 100), &entry(blob.clone(), 4), reason).unwrap());
            assert_eq!(kept(&tx), None);
        }
        // Another shape since: nothing to decode, nothing to keep.
        write(&tx, "digits", TAG, 4, left).unwrap();
        assert!(!refused(&tx, "digits", ([8; 8], 50), &entry(vec![1, 2], 4), Reason::StaleBase).unwrap());
    }

    #[test]
    fn it_is_dropped_when_its_base_disappears_and_never_outweighs_the_step() {
        let residual = Residual { tag: TAG, base_version: 10, values: vec![1.0, 0.0] };
        let late = |base_version, step: [f32; 2], staleness| {
            let mut step = step;
            add(&mut step, &residual, base_version, staleness);
            step.map(f64::from).map(|value| (value * 8.0) as i64)
        };
        let after = |base_version, step| late(base_version, step, 1);
        // In eighths.
        assert_eq!(after(10, [1.0, 2.0]), [16, 16]);
        assert_eq!(after(18, [1.0, 2.0]), [16, 16]);
        assert_eq!(after(19, [1.0, 2.0]), [8, 16]);
        // Slow gateways of buffered rounds step about every ten versions.
        assert_eq!(late(26, [1.0, 2.0], 16), [16, 16]);
        assert_eq!(late(27, [1.0, 2.0], 16), [8, 16]);
        assert_eq!(after(3, [1.0, 2.0]), [8, 16]);
        assert_eq!(after(11, [0.0, 0.125]), [4, 1]);
        let bytes = residual.encode();
        assert_eq!(Residual::decode(&bytes, TAG, 2), Some(residual));
        assert_eq!(Residual::decode(&bytes, [8; 8], 2), None);
        assert_eq!(Residual::decode(&bytes, TAG, 3), None);
        assert_eq!(Residual::decode(&bytes[..20], TAG, 1).map(|r| r.values), Some(vec![1.0]));
        assert_eq!(Residual::decode(&bytes[..9], TAG, 0), None);
    }

    #[test]
    fn nothing_untold_leaves_no_record() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let tx = database.begin_write().unwrap();
        write(&tx, "digits", TAG, 4, vec![0.5; 100]).unwrap();
        write(&tx, "digits", TAG, 5, vec![0.0; 100]).unwrap();
        assert_eq!(kept(&tx), None);
    }
}

//! Which contributions were applied: the newest of every epoch one by one, those below by a floor.

use loadonce_rounds::ContributionId;
use loadonce_store::redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::keys::{epoch_key, numbered, sequence_key};
use super::{Hash, JournalError};

pub(super) const SEEN: TableDefinition<[u8; 48], Hash> = TableDefinition::new("seen");
pub(super) const EPOCHS: TableDefinition<[u8; 40], (u64, u64)> = TableDefinition::new("epochs");

/// Applied sequences per gateway and epoch whose hash is remembered; an outbox holds 1,024 entries. Below the
/// window every sequence counts as applied.
pub(super) const WINDOW: u64 = 4096;
/// Epochs remembered per gateway: an agent opens one when it loses its store or is refused a sequence.
pub(super) const MAX_EPOCHS: usize = 256;

/// Whether a contribution was applied before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    New,
    /// Applied, or below the window.
    Before,
    /// The sequence was applied with another hash.
    OtherHash,
    /// New, but the gateway has used up its epochs.
    TooManyEpochs,
}

pub(super) fn seen(
    seen: &impl ReadableTable<[u8; 48], Hash>,
    epochs: &impl ReadableTable<[u8; 40], (u64, u64)>,
    id: &ContributionId,
) -> Result<Seen, JournalError> {
    let applied = seen.get(sequence_key(id))?.map(|hash| hash.value());
    match applied {
        Some(hash) if hash == id.blob_hash => return Ok(Seen::Before),
        Some(_) => return Ok(Seen::OtherHash),
        None => {}
    }
    if let Some(floor) = epochs.get(epoch_key(id))? {
        return Ok(if id.sequence <= floor.value().0 { Seen::Before } else { Seen::New });
    }
    let (first, last) = (numbered(&id.key, 0), numbered(&id.key, u64::MAX));
    let known = epochs.range(first..=last)?.count();
    Ok(if known < MAX_EPOCHS { Seen::New } else { Seen::TooManyEpochs })
}

/// Remembers an identity; beyond the window the lowest sequence makes room and becomes the floor.
pub(super) fn mark_seen(tx: &WriteTransaction, id: &ContributionId) -> Result<(), JournalError> {
    let mut seen = tx.open_table(SEEN)?;
    let mut epochs = tx.open_table(EPOCHS)?;
    let (mut floor, mut kept) = epochs.get(epoch_key(id))?.map_or((0, 0), |row| row.value());
    if seen.insert(sequence_key(id), id.blob_hash)?.is_none() {
        kept += 1;
    }
    while kept > WINDOW {
        let lowest = ContributionId { sequence: 0, ..*id };
        let highest = ContributionId { sequence: u64::MAX, ..*id };
        let first = seen.range(sequence_key(&lowest)..=sequence_key(&highest))?.next();
        let Some(key) = first.transpose()?.map(|row| row.0.value()) else { break };
        seen.remove(key)?;
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&key[40..]);
        floor = floor.max(u64::from_be_bytes(sequence));
        kept -= 1;
    }
    epochs.insert(epoch_key(id), (floor, kept))?;
    Ok(())
}

//! Who took part in which version. In buffered rounds a step counts for as many versions as its gateway was not in
//! (`loadonce_rounds::span`), so the versions before must be known, also to make one again.
//!
//! One row per version made from steps: keys of the gateways, ascending, 32 bytes each. Rows stay as long as a version
//! in the history, or the next one, may ask for them.

use std::collections::HashMap;

use loadonce_control::{MAX_STALENESS, RoundMode};
use loadonce_rounds::{Made, Pace};
use loadonce_store::redb::{ReadableTable, TableDefinition, WriteTransaction};
use loadonce_wire::Bytes32;

use crate::history::{POLICIES, Policy};
use crate::journal::{Hash, Journal, JournalError, corrupt, numbered};
use crate::line::Line;

/// lineage ‖ version: gateway keys.
pub(crate) const PARTICIPANTS: TableDefinition<[u8; 40], &[u8]> = TableDefinition::new("participants");

/// Writes the row of a version.
pub(crate) fn put(
    tx: &WriteTransaction,
    lineage: &Hash,
    version: u64,
    keys: &[Bytes32],
) -> Result<(), JournalError> {
    tx.open_table(PARTICIPANTS)?.insert(numbered(lineage, version), keys.as_flattened())?;
    Ok(())
}

/// Forgets what nobody asks for once `dropped` is the newest version of a lineage that left the history: the versions
/// after it look back by the window of the policy they were cut by.
pub(crate) fn forget(tx: &WriteTransaction, lineage: &Hash, dropped: u64) -> Result<(), JournalError> {
    let mut window = 0;
    for row in tx.open_table(POLICIES)?.range(numbered(lineage, 0)..=numbered(lineage, u64::MAX))? {
        let policy = Policy::task(row?.1.value());
        window = window.max(policy.map_or(MAX_STALENESS, |task| task.manifest.rounds.staleness()));
    }
    let oldest = (dropped + 1).saturating_sub(window);
    let gone = numbered(lineage, 0)..numbered(lineage, oldest);
    tx.open_table(PARTICIPANTS)?.retain_in(gone, |_, _| false)?;
    Ok(())
}

/// The keys of a row.
pub(crate) fn read(row: &[u8]) -> Option<Vec<Bytes32>> {
    let (keys, rest) = row.as_chunks::<32>();
    rest.is_empty().then(|| keys.to_vec())
}

impl Journal {
    /// Keys of the gateways whose steps made a version; `None` where they are not known, or no longer.
    pub(crate) fn participants_of(
        &self,
        lineage: &Hash,
        version: u64,
    ) -> Result<Option<Vec<Bytes32>>, JournalError> {
        let table = self.database.begin_read()?.open_table(PARTICIPANTS)?;
        let Some(row) = table.get(numbered(lineage, version))? else { return Ok(None) };
        read(row.value()).map(Some).ok_or_else(|| corrupt("participants")(&"wrong length"))
    }

    /// How the steps of the round that follows `line`'s newest version count. The same when that version is made again.
    pub(crate) fn pace(&self, line: &Line) -> Result<Pace, JournalError> {
        let policy = &line.task.manifest.rounds;
        if policy.mode == RoundMode::Sync {
            return Ok(Pace::Once);
        }
        let (version, most) = (line.version() + 1, policy.staleness());
        let (mut last, mut before) = (HashMap::new(), Vec::new());
        for earlier in version.saturating_sub(most).max(1)..version {
            for key in self.participants_of(&line.id, earlier)?.unwrap_or_default() {
                last.insert(key, earlier);
            }
            let entry = if version - earlier < most { self.version(&line.id, earlier)? } else { None };
            before.extend(entry.filter(|entry| entry.made == Made::FromSteps).map(|entry| entry.weight));
        }
        Ok(Pace::Spans { version, most, last, before })
    }
}

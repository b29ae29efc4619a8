//! What versions were made from: contributions stay in the journal after their version was cut, as long as they
//! fit, so that the version can be made again and compared. The oldest version's go first, whatever lineage it
//! belongs to, and are counted.
//!
//! Dropped sums leave a trace: the *floor*, the totals as of the newest dropped version, from which later versions
//! are still reproduced.

use std::collections::HashMap;

use loadonce_control::TaskManifest;
use loadonce_delta::decode_sums;
use loadonce_module::Sums;
use loadonce_rounds::{LineageEntry, Made};
use loadonce_store::redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use loadonce_trust::{decode_hex, encode_hex, hash};
use loadonce_wire::Manifest;
use serde::{Deserialize, Serialize};

use crate::journal::{
    CONTRIBUTIONS, Cut, Hash, Journal, JournalError, KEPT_MODULES, META, MODULES, Pending, TOTALS, VERSIONS,
    contributions_of, corrupt, decode_entry, numbered,
};
use crate::participants;
use crate::settings::Task;

/// Cuts in their order: lineage ‖ version ‖ rows ‖ bytes.
pub(crate) const RETAINED: TableDefinition<u64, &[u8]> = TableDefinition::new("retained");
/// From which version on a lineage was cut by what: blake3 of the rest ‖ JSON of a [`Policy`].
pub(crate) const POLICIES: TableDefinition<[u8; 40], &[u8]> = TableDefinition::new("policies");
/// Totals of the sums of dropped versions, and the newest of these.
pub(crate) const FLOORS: TableDefinition<Hash, (u64, &[u8])> = TableDefinition::new("floors");

/// Most versions in the history, however small: as many as a lineage keeps entries of.
const MAX_VERSIONS: u64 = 65_536;
const BYTES: &str = "history_bytes";
const DROPPED_VERSIONS: &str = "history_dropped_versions";
const DROPPED_CONTRIBUTIONS: &str = "history_dropped_contributions";

/// How much can be made again, and how much no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct History {
    /// Versions whose contributions are kept, of all lineages.
    pub versions: u64,
    /// Bytes of these and of the versions' module files.
    pub bytes: u64,
    /// Versions whose contributions were dropped to stay within the bound, ever.
    pub dropped_versions: u64,
    /// Contributions dropped with them.
    pub dropped_contributions: u64,
}

/// What a version is made by, besides its base and its contributions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    manifest: TaskManifest,
    backbone: String,
    exits: usize,
    directions: usize,
}

impl Policy {
    /// As it is kept: blake3 ‖ JSON.
    pub(crate) fn encode(task: &Task) -> Vec<u8> {
        let policy = Self {
            manifest: task.manifest.clone(),
            backbone: encode_hex(&task.backbone),
            exits: task.shape.exits,
            directions: task.directions,
        };
        let json = serde_json::to_vec(&policy).expect("a manifest that was parsed serializes");
        [&hash(&json)[..], &json].concat()
    }

    pub(crate) fn task(bytes: &[u8]) -> Result<Task, String> {
        let (stated, json) = bytes.split_first_chunk::<32>().ok_or("it is too short")?;
        if hash(json) != *stated {
            return Err("it has another hash".into());
        }
        let policy: Self = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let backbone = decode_hex(&policy.backbone).ok_or("the backbone is no fingerprint")?;
        Task::new(policy.manifest, backbone, policy.exits, policy.directions).map_err(|e| e.to_string())
    }
}

/// A row of [`RETAINED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    lineage: Hash,
    version: u64,
    rows: u64,
    bytes: u64,
}

impl Row {
    fn encode(&self) -> [u8; 56] {
        let mut out = [0; 56];
        out[..32].copy_from_slice(&self.lineage);
        for (at, number) in [(32, self.version), (40, self.rows), (48, self.bytes)] {
            out[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (lineage, rest) = bytes.split_first_chunk::<32>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let (rows, bytes) = rest.split_first_chunk::<8>()?;
        Some(Self {
            lineage: *lineage,
            version: u64::from_le_bytes(*version),
            rows: u64::from_le_bytes(*rows),
            bytes: u64::from_le_bytes(bytes.try_into().ok()?),
        })
    }
}

/// Whether the bytes read as a row of [`RETAINED`], for the fuzz target.
pub(crate) fn row_reads(bytes: &[u8]) -> bool {
    Row::decode(bytes).is_some_and(|row| row.encode() == *bytes)
}

pub(crate) fn open_tables(tx: &WriteTransaction) -> Result<(), JournalError> {
    tx.open_table(RETAINED)?;
    tx.open_table(POLICIES)?;
    tx.open_table(FLOORS)?;
    Ok(())
}

/// Takes the round that `cut` closes into the history, within the transaction that writes the version, and drops
/// what no longer fits.
pub(crate) fn retain(tx: &WriteTransaction, cut: &Cut<'_>) -> Result<History, JournalError> {
    let (lineage, version) = (cut.lineage, cut.entry.version);
    put_policy(tx, &lineage, version, cut.policy)?;
    let mut meta = tx.open_table(META)?;
    let mut retained = tx.open_table(RETAINED)?;
    let mut count = |key: &str, add: u64| -> Result<u64, JournalError> {
        let sum = meta.get(key)?.map_or(0, |value| value.value()).saturating_add(add);
        meta.insert(key, sum)?;
        Ok(sum)
    };
    let bytes = cut.held.bytes + cut.module.len() as u64;
    let next = retained.last()?.map_or(0, |(ordinal, _)| ordinal.value() + 1);
    let row = Row { lineage, version, rows: cut.held.rows, bytes };
    retained.insert(next, row.encode().as_slice())?;
    let (mut total, mut versions, mut rows) = (count(BYTES, bytes)?, 0, 0);
    while total > cut.bound || retained.len()? > MAX_VERSIONS {
        let Some((_, first)) = retained.pop_first()? else { break };
        let first = Row::decode(first.value()).ok_or_else(|| corrupt("retained")(&"wrong length"))?;
        drop_version(tx, &first, cut)?;
        total = total.saturating_sub(first.bytes);
        (versions, rows) = (versions + 1, rows + first.rows);
    }
    let (dropped_versions, dropped_contributions) =
        (count(DROPPED_VERSIONS, versions)?, count(DROPPED_CONTRIBUTIONS, rows)?);
    meta.insert(BYTES, total)?;
    if let Some(old) = version.checked_sub(KEPT_MODULES) {
        drop_module(tx, &lineage, old)?;
    }
    Ok(History { versions: retained.len()?, bytes: total, dropped_versions, dropped_contributions })
}

/// Notes what `version` was cut by, where it differs from the version before.
fn put_policy(
    tx: &WriteTransaction,
    lineage: &Hash,
    version: u64,
    policy: &[u8],
) -> Result<(), JournalError> {
    let mut policies = tx.open_table(POLICIES)?;
    let known = policies.range(numbered(lineage, 0)..=numbered(lineage, version))?.next_back().transpose()?;
    let same = known.is_some_and(|(_, known)| known.value() == policy);
    if !same {
        policies.insert(numbered(lineage, version), policy)?;
    }
    Ok(())
}

/// Drops the contributions of a version and what only they needed.
fn drop_version(tx: &WriteTransaction, row: &Row, cut: &Cut<'_>) -> Result<(), JournalError> {
    let Row { lineage, version, .. } = row;
    let entry = entry(tx, lineage, *version)?;
    if entry.is_some_and(|entry| entry.made == Made::FromSums) {
        if (*lineage, *version) == (cut.lineage, cut.entry.version) {
            lift_floor(tx, lineage, *version)?;
        } else {
            raise_floor(tx, lineage, *version)?;
        }
    }
    tx.open_table(CONTRIBUTIONS)?.retain_in(contributions_of(lineage, *version), |_, _| false)?;
    if let Some(base) = version.checked_sub(1) {
        drop_module(tx, lineage, base)?;
    }
    // The policy of the oldest version that is left is the last one up to it.
    let mut policies = tx.open_table(POLICIES)?;
    let up_to = numbered(lineage, 0)..=numbered(lineage, version.saturating_add(1));
    let last = policies.range(up_to.clone())?.next_back().transpose()?.map(|(key, _)| key.value());
    policies.retain_in(up_to, |key, _| Some(key) == last)?;
    drop(policies);
    participants::forget(tx, lineage, *version)
}

/// Sets the floor of a lineage to its totals: what the version that is just cut was made from. A round that does not
/// fit the history at all is not read again for it.
fn lift_floor(tx: &WriteTransaction, lineage: &Hash, version: u64) -> Result<(), JournalError> {
    let totals = tx.open_table(TOTALS)?;
    if let Some(totals) = totals.get(lineage)? {
        tx.open_table(FLOORS)?.insert(lineage, (version, totals.value()))?;
    }
    Ok(())
}

/// Adds the sums of a version to the floor of its lineage.
fn raise_floor(tx: &WriteTransaction, lineage: &Hash, version: u64) -> Result<(), JournalError> {
    let mut floors = tx.open_table(FLOORS)?;
    let known = floors.get(lineage)?.map(|row| Sums::from_bytes(row.value().1));
    let mut floor = known.transpose().map_err(|e| corrupt("floors")(&e))?;
    let mut broken = 0u64;
    for row in tx.open_table(CONTRIBUTIONS)?.range(contributions_of(lineage, version))? {
        let (_, value) = row?;
        let sums = Pending::decode(value.value()).and_then(|row| sums(&row.manifest, row.blob));
        let joined = match (&mut floor, sums) {
            (Some(floor), Some(sums)) => floor.merge(&sums).is_ok(),
            (None, sums) => {
                floor = sums;
                floor.is_some()
            }
            (Some(_), None) => false,
        };
        broken += u64::from(!joined);
    }
    if broken > 0 {
        tracing::error!(
            version,
            broken,
            "sums of the history do not read back; later versions of this lineage cannot be reproduced"
        );
    }
    if let Some(floor) = floor {
        floors.insert(lineage, (version, floor.to_bytes().as_slice()))?;
    }
    Ok(())
}

/// The sums in a blob whose signature and hash were checked when it came.
pub(crate) fn sums(manifest: &Manifest, blob: &[u8]) -> Option<Sums> {
    let bytes = decode_sums(blob, manifest.raw_bytes as usize).ok()?;
    Sums::from_bytes(&bytes).ok()
}

/// Drops the module file of `version`, unless it is one of the newest or the base of a version in the history.
fn drop_module(tx: &WriteTransaction, lineage: &Hash, version: u64) -> Result<(), JournalError> {
    let newest = newest(tx, lineage)?;
    let needed = tx
        .open_table(CONTRIBUTIONS)?
        .range(contributions_of(lineage, version + 1))?
        .next()
        .transpose()?
        .is_some();
    if needed || version + KEPT_MODULES > newest {
        return Ok(());
    }
    if let Some(entry) = entry(tx, lineage, version)? {
        tx.open_table(MODULES)?.remove(entry.module)?;
    }
    Ok(())
}

fn entry(tx: &WriteTransaction, lineage: &Hash, version: u64) -> Result<Option<LineageEntry>, JournalError> {
    let versions = tx.open_table(VERSIONS)?;
    let entry = versions.get(numbered(lineage, version))?;
    entry.map(|entry| decode_entry(entry.value())).transpose()
}

fn newest(tx: &WriteTransaction, lineage: &Hash) -> Result<u64, JournalError> {
    let versions = tx.open_table(VERSIONS)?;
    let last = versions.range(numbered(lineage, 0)..=numbered(lineage, u64::MAX))?.next_back().transpose()?;
    Ok(last.map(|(_, entry)| decode_entry(entry.value())).transpose()?.map_or(0, |entry| entry.version))
}

/// Contributions of every version in the history, and bytes of these and of its module file, by lineage and number.
pub(crate) type Retained = HashMap<(Hash, u64), (u64, u64)>;

/// Reads it whole.
pub(crate) fn retained(journal: &Journal) -> Result<Retained, JournalError> {
    let table = journal.database.begin_read()?.open_table(RETAINED)?;
    let mut out = HashMap::new();
    for row in table.range::<u64>(..)? {
        let row = Row::decode(row?.1.value()).ok_or_else(|| corrupt("retained")(&"wrong length"))?;
        out.insert((row.lineage, row.version), (row.rows, row.bytes));
    }
    Ok(out)
}

impl Journal {
    /// What is kept, and what no longer.
    pub(crate) fn history(&self) -> Result<History, JournalError> {
        let tx = self.database.begin_read()?;
        let meta = tx.open_table(META)?;
        let count =
            |key: &str| -> Result<u64, JournalError> { Ok(meta.get(key)?.map_or(0, |value| value.value())) };
        Ok(History {
            versions: tx.open_table(RETAINED)?.len()?,
            bytes: count(BYTES)?,
            dropped_versions: count(DROPPED_VERSIONS)?,
            dropped_contributions: count(DROPPED_CONTRIBUTIONS)?,
        })
    }

    /// What `version` of a lineage was cut by.
    pub(crate) fn policy(&self, lineage: &Hash, version: u64) -> Result<Option<Vec<u8>>, JournalError> {
        let table = self.database.begin_read()?.open_table(POLICIES)?;
        let last = table.range(numbered(lineage, 0)..=numbered(lineage, version))?.next_back();
        Ok(last.transpose()?.map(|(_, policy)| policy.value().to_vec()))
    }

    /// Totals of the dropped versions' sums, and the newest of these versions.
    pub(crate) fn floor(&self, lineage: &Hash) -> Result<Option<(u64, Sums)>, JournalError> {
        let table = self.database.begin_read()?.open_table(FLOORS)?;
        let Some(row) = table.get(lineage)? else { return Ok(None) };
        let (version, bytes) = row.value();
        Ok(Some((version, Sums::from_bytes(bytes).map_err(|e| corrupt("floors")(&e))?)))
    }
}

#[cfg(test)]
mod tests;

//! Makes every version again from the journal and compares: what gateways were told is what their contributions
//! make, byte for byte, and nothing else went in.
//!
//! Checked besides: the chain of entries, the signature and hash of every kept contribution, that none counts
//! twice and each is remembered as applied, the hash of every module file, the pointers, and for `moments` that
//! the totals are the sum of the sums. What was dropped from the history cannot be made again; it is counted, not
//! a problem.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use loadonce_control::Pointer;
use loadonce_module::{Recipe, Sums};
use loadonce_rounds::{ContributionId, LineageEntry, Made, Open};
use loadonce_store::{Database, StoreError};
use loadonce_trust::{decode_hex, encode_hex, hash, verify};
use loadonce_wire::manifest::{self, signed_part};
use loadonce_wire::{Bytes32, ContributionKind};
use serde::Serialize;
use thiserror::Error;

use crate::cut::draft;
use crate::history::{History, Policy, retained, sums};
use crate::journal::{
    CONTRIBUTIONS, Hash, Journal, JournalError, MODULES, POINTERS, Seen, TOTALS, VERSIONS, decode_entry,
};
use crate::line::{Line, Newest, lineage_id};
use crate::settings::Task;

/// Page cache in bytes.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Why nothing could be compared.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// No database there.
    #[error("{} does not exist; name the aggregator's state folder, or a copy of it", .0.display())]
    Missing(PathBuf),
    /// It does not open; a running aggregator holds it.
    #[error("{0}; to verify while the aggregator runs, verify a copy from a backup")]
    Store(#[from] StoreError),
    /// It cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Made again, byte for byte.
    Reproduced,
    /// Its contributions were dropped to stay within the history's bound; nothing can be said.
    Dropped,
    /// It did not come out the same, or could not be made, and why.
    Differs(String),
}

/// The identity of a kept contribution.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Applied {
    /// The gateway's key, hexadecimal.
    pub key: String,
    /// Epoch.
    pub epoch: u64,
    /// Sequence.
    pub sequence: u64,
    /// blake3 of the blob, hexadecimal.
    pub blob: String,
}

impl From<ContributionId> for Applied {
    fn from(id: ContributionId) -> Self {
        let ContributionId { key, epoch, sequence, blob_hash } = id;
        Self { key: encode_hex(&key), epoch, sequence, blob: encode_hex(&blob_hash) }
    }
}

/// A version.
#[derive(Debug, Clone, Serialize)]
pub struct VersionReplay {
    /// Its number.
    pub version: u64,
    /// blake3 of its module file, hexadecimal.
    pub module: String,
    /// The kept contributions it was made from.
    pub contributions: Vec<Applied>,
    /// What became of it.
    pub outcome: Outcome,
}

/// A lineage.
#[derive(Debug, Clone, Serialize)]
pub struct LineageReplay {
    /// The task; empty where all of its history was dropped.
    pub task: String,
    /// The lineage's name, hexadecimal.
    pub lineage: String,
    /// Its versions, oldest first.
    pub versions: Vec<VersionReplay>,
    /// Contributions of the open round.
    pub open: Vec<Applied>,
}

/// Everything that was compared.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// Lineages in the order of their names.
    pub lineages: Vec<LineageReplay>,
    /// What is kept, and what no longer.
    pub history: History,
    /// What is wrong besides versions that differ.
    pub problems: Vec<String>,
}

impl Replay {
    /// Versions with an outcome of this sort.
    pub fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.lineages.iter().flat_map(|line| &line.versions).filter(|version| which(&version.outcome)).count()
    }

    /// What a person reads: a line per lineage, a line per problem, a line for the whole.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for line in &self.lineages {
            let outcomes = || line.versions.iter().map(|version| &version.outcome);
            let task = if line.task.is_empty() { "(no history)" } else { &line.task };
            let newest = line.versions.last().map_or(0, |version| version.version);
            let _ = writeln!(
                out,
                "{task} {}: newest version {newest}, {} reproduced, {} without their contributions, {} in the open round",
                &line.lineage[..8],
                outcomes().filter(|outcome| **outcome == Outcome::Reproduced).count(),
                outcomes().filter(|outcome| **outcome == Outcome::Dropped).count(),
                line.open.len()
            );
            for version in &line.versions {
                if let Outcome::Differs(why) = &version.outcome {
                    let _ = writeln!(out, "  version {} differs: {why}", version.version);
                }
            }
        }
        for problem in &self.problems {
            let _ = writeln!(out, "problem: {problem}");
        }
        let History { bytes, dropped_versions, dropped_contributions, .. } = self.history;
        let verdict =
            if self.sound() { "everything kept was reproduced" } else { "the journal is not sound" };
        let _ = writeln!(
            out,
            "{verdict}; {bytes} bytes of history, {dropped_contributions} contributions of {dropped_versions} versions were dropped from it"
        );
        out
    }

    /// Whether nothing is wrong.
    pub fn sound(&self) -> bool {
        self.problems.is_empty() && self.count(|outcome| matches!(outcome, Outcome::Differs(_))) == 0
    }
}

/// Replays the journal in an aggregator's state folder. No aggregator may run on it.
pub fn replay_state(state: &Path) -> Result<Replay, ReplayError> {
    let path = state.join("aggregator.redb");
    if !path.is_file() {
        return Err(ReplayError::Missing(path));
    }
    replay(Database::open(&path, CACHE_BYTES)?)
}

/// Replays the journal in `database`.
pub fn replay(database: Database) -> Result<Replay, ReplayError> {
    let mut run = Run {
        journal: Journal::open(database)?,
        retained: HashMap::new(),
        seen: HashSet::new(),
        problems: Vec::new(),
    };
    run.retained = retained(&run.journal)?;
    run.modules()?;
    let lineages = run.lineages()?;
    let mut out = Vec::new();
    for (lineage, entries) in &lineages {
        out.push(run.lineage(lineage, entries)?);
    }
    run.pointers(&lineages)?;
    let history = run.journal.history()?;
    Ok(Replay { lineages: out, history, problems: run.problems })
}

/// The kept contributions of one version.
#[derive(Default)]
struct Rows {
    ids: Vec<Applied>,
    count: u64,
    bytes: u64,
    /// What the sums among them add up to.
    sums: Option<Sums>,
}

struct Run {
    journal: Journal,
    /// Contributions of each version in the history, and bytes of these and its module file.
    retained: HashMap<(Hash, u64), (u64, u64)>,
    /// What was met already: key, epoch and sequence.
    seen: HashSet<(Bytes32, u64, u64)>,
    problems: Vec<String>,
}

type Lineages = Vec<(Hash, Vec<LineageEntry>)>;

impl Run {
    /// Every module file has the hash it is kept under.
    fn modules(&mut self) -> Result<(), JournalError> {
        let table = self.journal.database.begin_read()?.open_table(MODULES)?;
        for row in table.range::<Hash>(..)? {
            let (key, value) = row?;
            if hash(value.value()) != key.value() {
                self.problems.push(format!("module file {} has another hash", encode_hex(&key.value())));
            }
        }
        Ok(())
    }

    /// Entries by lineage, and lineages without any that have an open round.
    fn lineages(&mut self) -> Result<Lineages, JournalError> {
        let tx = self.journal.database.begin_read()?;
        let mut out: Lineages = Vec::new();
        let mut versions: HashMap<Hash, Vec<LineageEntry>> = HashMap::new();
        for row in tx.open_table(VERSIONS)?.range::<[u8; 40]>(..)? {
            let (key, value) = row?;
            let (lineage, number) = split(&key.value());
            let entries = versions.entry(lineage).or_default();
            match decode_entry(value.value()) {
                Ok(entry) if entry.version == number => entries.push(entry),
                Ok(_) => self.problems.push(format!("the entry of version {number} names another version")),
                Err(error) => self.problems.push(format!("version {number}: {error}")),
            }
        }
        for row in tx.open_table(CONTRIBUTIONS)?.range::<[u8; 88]>(..)? {
            let mut lineage = [0; 32];
            lineage.copy_from_slice(&row?.0.value()[..32]);
            versions.entry(lineage).or_default();
        }
        out.extend(versions);
        out.sort_by_key(|(lineage, _)| *lineage);
        Ok(out)
    }

    fn lineage(&mut self, lineage: &Hash, entries: &[LineageEntry]) -> Result<LineageReplay, JournalError> {
        let name = |task: &Task| task.manifest.name.clone();
        let mut out = LineageReplay {
            task: String::new(),
            lineage: encode_hex(lineage),
            versions: Vec::new(),
            open: Vec::new(),
        };
        // Totals of all sums up to a version.
        let (mut through, mut totals) = match self.journal.floor(lineage)? {
            Some((version, floor)) => (version, Some(floor)),
            None => (0, None),
        };
        let mut task = None;
        for (at, entry) in entries.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &entries[at]);
            let base = before.filter(|before| before.version + 1 == entry.version);
            if before.is_some() && base.is_none_or(|base| base.hash() != entry.parent) {
                self.problems.push(format!(
                    "{}: version {} does not follow from the entry before it",
                    out.lineage, entry.version
                ));
            }
            let expected = self.retained.get(&(*lineage, entry.version)).copied();
            let rows = self.rows(lineage, entry.version)?;
            let module = match expected {
                Some(_) => self.journal.module(&entry.module, <[u8]>::len)?.unwrap_or(0) as u64,
                None => 0,
            };
            let (count, bytes) = expected.unwrap_or_default();
            if (rows.count, rows.bytes + module) != (count, bytes) {
                self.problems.push(format!(
                    "{}: version {} should hold {count} contributions and {bytes} bytes with its module, not {} and {}",
                    out.lineage,
                    entry.version,
                    rows.count,
                    rows.bytes + module
                ));
            }
            let outcome = if expected.is_none() {
                Outcome::Dropped
            } else {
                if entry.made == Made::FromSums && through + 1 == entry.version {
                    through = entry.version;
                    totals = merged(totals.take(), rows.sums);
                }
                match self.policy(lineage, entry.version)? {
                    Ok(policy) => {
                        let sums = totals.as_ref().filter(|_| through == entry.version);
                        let newest = at + 1 == entries.len();
                        let outcome = self.again(&policy, entry, base, sums, newest)?;
                        out.task = name(&policy);
                        task = Some(policy);
                        outcome
                    }
                    Err(why) => Outcome::Differs(why),
                }
            };
            out.versions.push(VersionReplay {
                version: entry.version,
                module: encode_hex(&entry.module),
                contributions: rows.ids,
                outcome,
            });
        }
        let newest = entries.last().map_or(0, |entry| entry.version);
        let open = self.rows(lineage, newest + 1)?;
        out.open = open.ids;
        // Only of `moments` every sum is part of a round.
        if task.is_some_and(|task| task.shape.recipe == Recipe::Moments) && through == newest {
            let expected = merged(totals, open.sums).map(|totals| totals.to_bytes());
            let table = self.journal.database.begin_read()?.open_table(TOTALS)?;
            let found = table.get(lineage)?.map(|bytes| bytes.value().to_vec());
            if found != expected {
                self.problems.push(format!("{}: the totals are not the sum of the sums", out.lineage));
            }
        }
        Ok(out)
    }

    /// Makes a version again from `base` and its contributions; of the `newest` one the patch is compared, too.
    fn again(
        &self,
        task: &Task,
        entry: &LineageEntry,
        base: Option<&LineageEntry>,
        totals: Option<&Sums>,
        newest: bool,
    ) -> Result<Outcome, JournalError> {
        let differs = |why: &str| Ok(Outcome::Differs(why.to_owned()));
        if base.is_none() && entry.version > 1 {
            return differs("the entry before it is missing");
        }
        // Whether a version comes as a patch depends on how long the file before it is.
        let before = match base {
            Some(&entry) => {
                let bytes = self.journal.module(&entry.module, <[u8]>::len)?.unwrap_or(0) as u32;
                Some(Newest { entry, bytes, patch: None })
            }
            None => None,
        };
        let line = Line::new("", task.clone(), before, None);
        if line.round.open() == Open::Sum && totals.is_none() {
            return differs("sums of versions before it are missing");
        }
        let draft = match draft(&self.journal, &line, totals) {
            Ok(Ok(draft)) => draft,
            Ok(Err(error)) => return differs(&error.to_string()),
            // One record that does not read back: the others may.
            Err(error @ JournalError::Corrupt { .. }) => return differs(&error.to_string()),
            Err(error) => return Err(error),
        };
        let found = self.journal.module(&entry.module, |bytes| bytes == draft.module)?;
        if newest && self.journal.patch(&line.id, <[u8]>::to_vec)? != draft.patch {
            return differs("the patch kept is another");
        }
        let known = self.journal.participants_of(&line.id, entry.version)?;
        if entry.made == Made::FromSteps && known.as_ref() != Some(&draft.participants) {
            return differs("the list of its gateways is another");
        }
        Ok(match (draft.entry == *entry, found) {
            (true, None | Some(true)) => Outcome::Reproduced,
            (true, Some(false)) => Outcome::Differs("the module file kept is another".into()),
            (false, _) if draft.entry.module != entry.module => {
                Outcome::Differs("its contributions make another module".into())
            }
            (false, _) => Outcome::Differs("its entry says something else than its contributions".into()),
        })
    }

    fn policy(&self, lineage: &Hash, version: u64) -> Result<Result<Task, String>, JournalError> {
        let Some(policy) = self.journal.policy(lineage, version)? else {
            return Ok(Err("what it was cut by is not kept".into()));
        };
        Ok(match Policy::task(&policy) {
            Ok(task) if lineage_id(&task.manifest.name, &task.backbone, &task.shape_hash) == *lineage => {
                Ok(task)
            }
            Ok(_) => Err("what it was cut by belongs to another lineage".into()),
            Err(error) => Err(format!("what it was cut by does not read back: {error}")),
        })
    }

    /// Reads and checks the contributions of a version.
    fn rows(&mut self, lineage: &Hash, version: u64) -> Result<Rows, JournalError> {
        let (mut rows, mut wrong, mut ids) = (Rows::default(), Vec::new(), Vec::new());
        let held = self.journal.pending(lineage, version, |row| {
            let id = ContributionId::of(&row.manifest);
            let signed = signed_part(row.encoded)
                .is_ok_and(|(body, signature)| verify(&id.key, manifest::DOMAIN, body, &signature));
            if !signed {
                wrong.push(format!("sequence {}: the signature does not verify", id.sequence));
            } else if hash(row.blob) != id.blob_hash {
                wrong.push(format!("sequence {}: the blob has another hash", id.sequence));
            }
            if row.manifest.kind == ContributionKind::Sum {
                rows.sums = merged(rows.sums.take(), sums(&row.manifest, row.blob));
            }
            ids.push(id);
        })?;
        (rows.count, rows.bytes) = (held.rows, held.bytes);
        if held.broken > 0 {
            wrong.push(format!("{} contributions do not read back", held.broken));
        }
        for id in &ids {
            if !self.seen.insert((id.key, id.epoch, id.sequence)) {
                wrong.push(format!("sequence {} counts twice", id.sequence));
            }
            if !cfg!(feature = "fault-no-dedup") && self.journal.seen(id)? != Seen::Before {
                wrong.push(format!("sequence {} is not remembered as applied", id.sequence));
            }
        }
        rows.ids = ids.into_iter().map(Applied::from).collect();
        let of = |what| format!("{}, version {version}: {what}", encode_hex(lineage));
        self.problems.extend(wrong.into_iter().map(of));
        Ok(rows)
    }

    /// Every pointer names the newest version of its lineage.
    fn pointers(&mut self, lineages: &Lineages) -> Result<(), JournalError> {
        let table = self.journal.database.begin_read()?.open_table(POINTERS)?;
        for row in table.range::<&str>(..)? {
            let (task, value) = row?;
            let pointer = serde_json::from_slice::<Pointer>(value.value()).ok();
            let known = pointer.as_ref().and_then(|pointer| {
                let (backbone, shape) = (decode_hex(&pointer.backbone)?, decode_hex(&pointer.shape)?);
                Some(lineage_id(&pointer.task, &backbone, &shape))
            });
            let newest = lineages.iter().find(|(lineage, _)| Some(*lineage) == known);
            let newest = newest.and_then(|(_, entries)| entries.last());
            let newest = newest.map(|entry| (entry.version, encode_hex(&entry.module)));
            let named =
                pointer.and_then(|pointer| pointer.stable).map(|stable| (stable.version, stable.hash));
            if known.is_none() || named != newest {
                self.problems
                    .push(format!("the pointer of `{}` does not name the newest version", task.value()));
            }
        }
        Ok(())
    }
}

/// Both together; nothing where they do not fit, which shows as a version that differs.
fn merged(left: Option<Sums>, right: Option<Sums>) -> Option<Sums> {
    match (left, right) {
        (Some(mut left), Some(right)) => left.merge(&right).is_ok().then_some(left),
        (left, right) => left.or(right),
    }
}

fn split(key: &[u8; 40]) -> (Hash, u64) {
    let (mut lineage, mut number) = ([0; 32], [0; 8]);
    lineage.copy_from_slice(&key[..32]);
    number.copy_from_slice(&key[32..]);
    (lineage, u64::from_be_bytes(number))
}

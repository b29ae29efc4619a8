//! What must be true of a ledger and a journal in the end.

use std::path::Path;

use loadonce_aggregator::Aggregator;
use loadonce_aggregator::config::Config;
use loadonce_module::Sums;
use loadonce_rounds::{LineageEntry, Made};
use loadonce_store::{Database, Kind};
use loadonce_trust::Identity;

use super::ledger::{Ledger, Place};

/// What must be equal between an episode and the undisturbed run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The lineage, entry by entry; every entry names its module's bytes by hash.
    pub lineage: Vec<LineageEntry>,
    /// The encoded totals of all sums.
    pub totals: Vec<u8>,
}

/// What an aggregator's journal holds of the task `digits`.
pub(crate) struct Journal {
    pub(crate) outcome: Outcome,
    /// Contributions of the open round.
    pub(crate) pending: u64,
}

/// Reads the journal of a site's aggregator, which must not run.
pub(crate) fn read_journal(folder: &Path) -> Result<Journal, String> {
    let config = Config::read(&folder.join("aggregator.conf.toml")).map_err(|error| error.to_string())?;
    let key =
        std::fs::read_to_string(config.state.join("aggregator.key")).map_err(|error| error.to_string())?;
    let identity = Identity::from_file_text(&key).map_err(|error| error.to_string())?;
    let database =
        Database::open(&config.state.join("aggregator.redb"), 1 << 20).map_err(|error| error.to_string())?;
    let core = Aggregator::open(config.settings, identity, database, 0).map_err(|error| error.to_string())?;
    let lineage = core.lineage("digits").map_err(|error| error.to_string())?;
    let totals = core.totals("digits").map_err(|error| error.to_string())?.unwrap_or_default();
    let pending = core.figures(0).tasks.iter().map(|task| task.round_contributions as u64).sum();
    Ok(Journal { outcome: Outcome { lineage, totals }, pending })
}

/// What is not as it must be, in words.
#[derive(Debug, Default)]
pub(crate) struct Audited {
    /// Contributions that are gone.
    pub(crate) lost: Vec<String>,
    /// Contributions that count more than once.
    pub(crate) doubled: Vec<String>,
    /// Whatever else must not be.
    pub(crate) wrong: Vec<String>,
}

/// Compares what outboxes ever took with what was applied, `expected` labelled samples with those in the totals, and
/// the lineage's length with `versions`.
pub(crate) fn audit(ledger: &Ledger, journal: &Journal, expected: i64, versions: u64) -> Audited {
    let Journal { outcome, pending } = journal;
    let mut found = Audited::default();
    found.lost.extend(ledger.lost().iter().map(|place| format!("{place:?}")));

    // Sums: every labelled sample that is not held out stands in the totals once, unless it waits.
    let samples = Sums::from_bytes(&outcome.totals).map_or(0, |sums| sums.samples());
    if samples > expected {
        found.doubled.push(format!("{samples} samples in the totals, {expected} contributed"));
    }
    // Steps that wait or were refused excuse no sample.
    let sum = |place: &Place| ledger.enqueued.get(place) == Some(&Kind::Sum);
    if samples < expected && !ledger.waiting.iter().any(sum) && !ledger.refused.keys().any(sum) {
        found.lost.push(format!("{samples} samples in the totals, {expected} contributed"));
    }
    // Steps: every applied one stands in one version, or waits for the round to close.
    let from_steps = outcome.lineage.iter().filter(|entry| entry.made == Made::FromSteps);
    let in_versions: u64 = from_steps.map(|entry| u64::from(entry.count)).sum();
    let steps = ledger.applied_of(Kind::Step) as u64;
    let said = format!("{in_versions} steps in versions and {pending} in the open round, {steps} applied");
    if in_versions + pending > steps {
        found.doubled.push(said);
    } else if in_versions + pending < steps {
        found.lost.push(said);
    }
    let misfits = ledger.misfits();
    found.wrong.extend(misfits.iter().map(|place| format!("applied and acknowledged differ: {place:?}")));
    if outcome.lineage.len() as u64 != versions {
        found.wrong.push(format!("{} versions instead of {versions}", outcome.lineage.len()));
    }
    let counters = ledger.counters;
    if counters.enqueued != ledger.enqueued.len() as u64 {
        found.wrong.push(format!("{} enqueued, {} of them seen", counters.enqueued, ledger.enqueued.len()));
    }
    if counters.dropped_steps + counters.refused_full + counters.quarantined > 0 {
        found.wrong.push(format!("an outbox dropped something: {counters:?}"));
    }
    found
}

//! The soak: real processes at work on real samples while one after another dies by SIGKILL, and what must be true
//! afterwards.
//!
//! | what | how it is known |
//! |---|---|
//! | nothing lost | every contribution that any outbox ever took is applied, still waits, or was refused by name; every labelled sample stands in the totals; every applied step stands in a version |
//! | nothing doubled | the totals hold no more samples than were labelled, the versions no more steps than were applied |
//! | applied = acknowledged | the journal's identities are those that agents were told about |
//! | the same lineage | where every gateway must be in every round, lineage and totals are those of a run without kills, bit for bit |
//!
//! | file | holds |
//! |---|---|
//! | `schedule` | who is killed when |
//! | `episode` | one fleet under one schedule |
//! | `ledger` | what became of every contribution |
//! | `audit` | what must be true of it in the end |

pub(crate) mod audit;
mod episode;
pub(crate) mod ledger;
mod schedule;

pub use audit::Outcome;
pub use episode::{Found, GATEWAYS, PROCESSES, Plan, Prepared, Rounds, prepare, run};
pub use schedule::{Kill, Schedule, parse};

use serde_json::{Value, json};

use crate::broker::Memory;

/// The episodes of a soak: both kinds of rounds with both kinds of broker.
pub const EPISODES: [(&str, Rounds, Memory); 4] = [
    ("all-none", Rounds::All, Memory::None),
    ("all-saved", Rounds::All, Memory::Saved),
    ("deadline-none", Rounds::Deadline, Memory::None),
    ("deadline-saved", Rounds::Deadline, Memory::Saved),
];

/// The first difference between an episode and the undisturbed run, in words.
pub fn difference(undisturbed: &Outcome, outcome: &Outcome) -> Option<String> {
    for (want, got) in undisturbed.lineage.iter().zip(&outcome.lineage) {
        if want != got {
            return Some(format!("version {} is another one: {want:?}, {got:?}", want.version));
        }
    }
    let (want, got) = (undisturbed.lineage.len(), outcome.lineage.len());
    if want != got {
        return Some(format!("{want} versions became {got}"));
    }
    (undisturbed.totals != outcome.totals).then(|| "the totals differ".to_owned())
}

/// An episode's figures, for `soak.json`. `equal` says whether the lineage is the undisturbed one, where that is
/// asked.
pub fn figures(plan: &Plan, found: &Found, equal: Option<bool>) -> Value {
    json!({
        "name": plan.name,
        "rounds": match plan.rounds { Rounds::All => "all", Rounds::Deadline => "deadline" },
        "broker": match plan.memory { Memory::None => "no persistence", Memory::Saved => "persistence" },
        "kills": found.kills.values().sum::<usize>(),
        "kills_in_live_rounds": found.live_kills,
        "kills_by_process": found.kills,
        "seconds": (found.seconds * 10.0).round() / 10.0,
        "versions": found.outcome.lineage.len(),
        "enqueued": found.enqueued,
        "applied": found.applied,
        "refused": found.refused,
        "repeats_recognised": found.recognised,
        "lost": found.lost.len(),
        "doubled": found.doubled.len(),
        "applied_equals_acknowledged": !found.wrong.iter().any(|what| what.starts_with("applied and acknowledged")),
        "journal_replayed": found.replayed,
        "wrong": found.wrong,
        "lineage_equal": equal,
    })
}

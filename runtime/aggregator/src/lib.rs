//! The aggregator beside the broker: it takes contributions in, cuts versions, publishes pointers and serves
//! module files.
//!
//! [`Aggregator`] is a plain state machine over messages and a database: no socket, no clock, no thread. What
//! it holds in memory can be rebuilt from the database at any time, so a restart between any two writes loses
//! nothing and applies nothing twice. [`run`] is the thin edge with the broker's link and a timer.
//!
//! | file | holds |
//! |---|---|
//! | `config` | `aggregator.toml` |
//! | `settings` | what the core needs of it |
//! | `journal` | the tables and their transactions |
//! | `history` | what versions were made from, as long as it fits |
//! | `participants` | who took part in which version |
//! | `steps` | the steps of a round into their total |
//! | `replay` | makes versions again and compares |
//! | `registry` | gateways: admission, presence |
//! | `transfers` | contributions that arrive in pieces, in bounded memory |
//! | `aggregator`, `intake`, `cut`, `blocks` | the core: dispatch, contributions, versions, module files |
//! | `enrol` | tokens for certificates: files, requests, the site's CA |
//! | `line` | a task's lineage as the core sees it |
//! | `figures` | counters and `figures.json` |
//! | `metrics` | the same for Prometheus, over HTTP |
//! | `run` | link, timer, signals |
//!
//! Two cargo features build faults in on purpose, so that the crash tests can be seen to fail:
//! `fault-ack-before-persist` and `fault-no-dedup`.

mod aggregator;
mod blocks;
pub mod config;
mod cut;
pub mod enrol;
mod figures;
mod history;
mod intake;
mod journal;
mod line;
mod metrics;
mod outgoing;
mod participants;
mod registry;
mod replay;
mod run;
mod settings;
mod steps;

pub use aggregator::{Aggregator, OpenError};
pub use figures::{ContributionFigures, Figures, GatewayFigures, Heldout, TaskContributions, TaskFigures};
pub use history::History;
pub use journal::{GatewayRecord, JournalError};
pub use line::lineage_id;
pub use metrics::{MetricsConfig, MetricsError};
pub use outgoing::{Note, Outgoing};
pub use registry::Vitals;
pub use replay::{Applied, LineageReplay, Outcome, Replay, ReplayError, VersionReplay, replay, replay_state};
pub use run::{RunError, run};
pub use settings::{Admission, DEFAULT_HISTORY_BYTES, Settings, Task};

/// Decoders of this crate that have no public face, for the fuzz targets; no part of the interface.
#[doc(hidden)]
pub mod fuzz {
    use crate::journal::Pending;

    /// Reads a contribution that the journal keeps; whether it read.
    pub fn pending(bytes: &[u8]) -> bool {
        Pending::decode(bytes).is_some()
    }

    /// Reads a row of the history; whether it read.
    pub fn retained(bytes: &[u8]) -> bool {
        crate::history::row_reads(bytes)
    }

    /// Reads a policy that a version was cut by, with the hash of `json` before it; whether it read.
    pub fn policy(json: &[u8]) -> bool {
        crate::history::Policy::task(&[&loadonce_trust::hash(json)[..], json].concat()).is_ok()
    }

    /// Reads the keys of those who took part in a version; whether it read.
    pub fn participants(bytes: &[u8]) -> bool {
        crate::participants::read(bytes).is_some()
    }

    /// Reads what is kept of tokens and enrolled gateways; whether it read.
    pub fn enrol_record(bytes: &[u8]) -> bool {
        serde_json::from_slice::<crate::enrol::Record>(bytes).is_ok()
            || serde_json::from_slice::<crate::enrol::TokenRecord>(bytes).is_ok()
    }

    /// Reads the text of a configuration without validating what it says; whether it read.
    pub fn config(text: &str) -> bool {
        crate::config::parses(text)
    }
}

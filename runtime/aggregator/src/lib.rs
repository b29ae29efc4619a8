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
//! | `replay` | makes versions again and compares |
//! | `registry` | gateways: admission, presence |
//! | `transfers` | contributions that arrive in pieces, in bounded memory |
//! | `aggregator`, `intake`, `cut`, `blocks` | the core: dispatch, contributions, versions, module files |
//! | `enrol` | tokens for certificates: files, requests, the site's CA |
//! | `line` | a task's lineage as the core sees it |
//! | `figures` | counters and `figures.json` |
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
mod outgoing;
mod registry;
mod replay;
mod run;
mod settings;

pub use aggregator::{Aggregator, OpenError};
pub use figures::{ContributionFigures, Figures, GatewayFigures, Heldout, TaskFigures};
pub use history::History;
pub use journal::{GatewayRecord, JournalError};
pub use line::lineage_id;
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

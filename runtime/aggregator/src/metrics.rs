//! The figures for Prometheus, over HTTP: `[metrics]` in `aggregator.toml`; the names are listed in
//! `docs/operations.md`.
//!
//! The core's thread takes a [`Snapshot`] every second and never waits for who reads it; the server answers from the
//! newest one. So no reader, however slow or many, reaches the core, and a core that is stuck is seen by the age of
//! its last snapshot.
//!
//! | file | holds |
//! |---|---|
//! | `text` | the exposition format |
//! | `names` | every metric: name, kind, meaning, value |
//! | `server` | HTTP within bounds |
//! | `machine` | process and disk |
//! | `durations` | a histogram |
//! | `certificates` | until when certificate files hold |

mod certificates;
mod durations;
mod machine;
mod names;
mod server;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadonce_link::LinkStats;
use tokio::sync::watch;

pub(crate) use certificates::Certificates;
pub(crate) use durations::Durations;
pub(crate) use machine::Machine;
pub use server::MetricsError;
pub(crate) use server::Server;

use crate::figures::{Figures, Spent};
use crate::registry::Fleet;

/// How often a snapshot is taken.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// Gateways with figures of their own unless told otherwise; a larger fleet is shown in sum.
pub(crate) const DEFAULT_NAMED: usize = 100;
/// Most that may be asked for: each takes half a dozen series of whoever scrapes.
pub(crate) const MAX_NAMED: usize = 1000;

/// What `[metrics]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where to listen.
    pub listen: std::net::SocketAddr,
    /// Fleets of at most this many gateways have figures of each.
    pub gateways: usize,
    /// PEM files whose end of validity is told.
    pub certificates: Vec<PathBuf>,
}

/// Everything that is told, as of one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) taken: Instant,
    /// Without gateways.
    pub(crate) figures: Figures,
    pub(crate) fleet: Fleet,
    pub(crate) history_limit_bytes: u64,
    pub(crate) verification: Spent,
    pub(crate) batches: Durations,
    /// Messages that wait for the core.
    pub(crate) inbox: usize,
    pub(crate) connected: bool,
    pub(crate) link: LinkStats,
    pub(crate) machine: Machine,
    pub(crate) certificates: Vec<(String, Option<i64>)>,
}

/// The newest snapshot; `None` before the first.
pub(crate) type Newest = watch::Receiver<Option<Arc<Snapshot>>>;

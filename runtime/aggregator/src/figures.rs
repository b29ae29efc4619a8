//! Counters, and the figures a person or a program reads; keys are described in `docs/aggregator.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use loadonce_control::Wants;
use loadonce_wire::Reason;
use serde::Serialize;

use crate::history::History;
use crate::registry::Vitals;

/// Every word a message is ignored under, so that a counter is seen before it first counts.
pub(crate) const CAUSES: [&str; 18] = [
    "bad_hash",
    "bad_signature",
    "malformed_chunk",
    "malformed_frame",
    "malformed_manifest",
    "malformed_packet",
    "malformed_request",
    "misfit_chunk",
    "orphan_chunk",
    "oversized",
    "presence",
    "report",
    "request_over_rate",
    "stale_will",
    "unexpected_kind",
    "unknown_gateway",
    "unknown_module",
    "unknown_topic",
];

/// How long a kind of work takes. The core has no clock: its owner lends one, or nothing is measured. No decision
/// depends on it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stopwatch {
    clock: Option<fn() -> Duration>,
    spent: Spent,
}

/// What a stopwatch measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Spent {
    /// Times the work was done.
    pub(crate) count: u64,
    /// Time it took in all.
    pub(crate) total: Duration,
}

impl Stopwatch {
    pub(crate) fn with(clock: fn() -> Duration) -> Self {
        Self { clock: Some(clock), spent: Spent::default() }
    }

    pub(crate) fn spent(&self) -> Spent {
        self.spent
    }

    /// When a piece of work begins.
    pub(crate) fn begin(&self) -> Option<Duration> {
        self.clock.map(|clock| clock())
    }

    /// It is done; `count` is 0 where it goes on later.
    pub(crate) fn end(&mut self, begun: Option<Duration>, count: u64) {
        if let (Some(clock), Some(begun)) = (self.clock, begun) {
            self.spent.count += count;
            self.spent.total += clock().saturating_sub(begun);
        }
    }
}

/// What happened since this process started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) sums: u64,
    pub(crate) steps: u64,
    pub(crate) late: u64,
    pub(crate) duplicates: u64,
    pub(crate) deferred: u64,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) ignored: BTreeMap<&'static str, u64>,
    pub(crate) blocks: u64,
    pub(crate) block_bytes: u64,
    /// Signature, hash, decompression, norm.
    pub(crate) verification: Stopwatch,
}

impl Counters {
    pub(crate) fn refuse(&mut self, reason: Reason) {
        *self.refused.entry(reason.code()).or_default() += 1;
    }

    /// Counts a message that was dropped without an answer.
    pub(crate) fn ignore(&mut self, why: &'static str) {
        debug_assert!(CAUSES.contains(&why), "{why} is not listed in CAUSES");
        *self.ignored.entry(why).or_default() += 1;
    }
}

/// Everything in `figures.json` but the link's part.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Site.
    pub site: String,
    /// Public key of the aggregator, hexadecimal.
    pub key: String,
    /// Per task.
    pub tasks: Vec<TaskFigures>,
    /// Contributions since this process started.
    pub contributions: ContributionFigures,
    /// Messages dropped without an answer since this process started, by cause.
    pub ignored: BTreeMap<&'static str, u64>,
    /// Unfinished transfers.
    pub transfers_open: usize,
    /// Bytes reserved for them.
    pub transfers_bytes: usize,
    /// Transfers dropped to stay within the bounds, since this process started.
    pub transfers_dropped: u64,
    /// Offers that were asked to wait for want of room, since this process started.
    pub transfers_turned_away: u64,
    /// Frames of module files sent since this process started.
    pub blocks: u64,
    /// Bytes of module files sent since this process started.
    pub block_bytes: u64,
    /// What the journal could make again.
    pub history: History,
    /// Per gateway.
    pub gateways: Vec<GatewayFigures>,
}

/// A task's part of the figures.
#[derive(Debug, Clone, Serialize)]
pub struct TaskFigures {
    /// Task.
    pub name: String,
    /// Backbone fingerprint, hexadecimal.
    pub backbone: String,
    /// Newest version, which is also the number of closed rounds; 0 for none.
    pub version: u64,
    /// blake3 of its module file, hexadecimal.
    pub hash: String,
    /// Size of that file in bytes.
    pub bytes: u32,
    /// Serial of the pointer.
    pub serial: u64,
    /// What the open round takes.
    pub wants: Wants,
    /// Contributions in the open round.
    pub round_contributions: usize,
    /// Gateways that count towards closing the open round.
    pub round_gateways: usize,
    /// Gateways that close it at once; steps in a buffered round.
    pub quorum: usize,
    /// Samples in the totals.
    pub samples: i64,
    /// Gateways that contributed to each of the newest 256 versions, oldest first.
    pub participants: Vec<u32>,
    /// Held-out figures of the steps behind the newest version, if it was cut from steps by this process.
    pub heldout: Option<Heldout>,
    /// Contributions to it since this process started.
    pub contributions: TaskContributions,
    /// Bytes on disk that the open round keeps.
    pub round_bytes: u64,
    /// Seconds since the open round's first contribution (that this process knows of); null before it.
    pub round_age_s: Option<f64>,
    /// Seconds after which a round closes with the minimum; 0 for never.
    pub deadline_s: u64,
}

/// Contributions to a task by outcome.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TaskContributions {
    /// Sums accepted.
    pub sums: u64,
    /// Steps accepted.
    pub steps: u64,
    /// Those of them whose base was not the newest version.
    pub late: u64,
    /// Recognised as applied before.
    pub duplicates: u64,
    /// Refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// Mean held-out loss over the gateways of a round, weighted by their held-out samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Heldout {
    /// Held-out samples.
    pub samples: u64,
    /// Loss of the base (nats).
    pub before: f64,
    /// Loss after local training (nats).
    pub after: f64,
}

/// Contributions by outcome.
#[derive(Debug, Clone, Serialize)]
pub struct ContributionFigures {
    /// Sums accepted.
    pub sums: u64,
    /// Steps accepted.
    pub steps: u64,
    /// Those of them whose base was not the newest version.
    pub late: u64,
    /// Recognised as applied before.
    pub duplicates: u64,
    /// Not answered for want of room; the gateway sends them again.
    pub deferred: u64,
    /// Refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// A gateway's part of the figures.
#[derive(Debug, Clone, Serialize)]
pub struct GatewayFigures {
    /// Name.
    pub name: String,
    /// Key, hexadecimal; empty before the first accepted contribution.
    pub key: String,
    /// Whether it is up.
    pub up: bool,
    /// Incarnation of its newest birth.
    pub incarnation: u64,
    /// Version of its agent.
    pub agent: String,
    /// Contributions accepted, ever.
    pub accepted: u64,
    /// Bytes of their blobs.
    pub blob_bytes: u64,
    /// Seconds since this process last heard of it.
    pub heard_s: Option<u64>,
    /// A few numbers of its newest report.
    pub vitals: Option<Vitals>,
}

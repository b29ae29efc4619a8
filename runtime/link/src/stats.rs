//! What a link counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a link's counters since it was started, and of what waits in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Bytes written to the broker's socket.
    pub bytes_up: u64,
    /// Bytes read from the broker's socket.
    pub bytes_down: u64,
    /// Connections made to the broker's socket, whatever came of them.
    pub connects: u64,
    /// Attempts to reach it that failed.
    pub failed_connects: u64,
    /// Messages taken out because they were too large.
    pub oversized: u64,
    /// Messages taken out because they broke the protocol.
    pub malformed: u64,
    /// Messages dropped because the owner did not take them and the bound was reached.
    pub dropped_messages: u64,
    /// Publishes that were refused or dropped because there was no connection or no room.
    pub dropped_publishes: u64,
    /// Subscriptions refused or not confirmed.
    pub subscription_refusals: u64,
    /// Bytes of publishes that wait now, for the connection or for the broker's confirmation.
    pub publish_queue_bytes: u64,
    /// Bytes of events that wait now for the owner, each counted with 128 bytes of its own.
    pub event_queue_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_up: AtomicU64,
    pub(crate) bytes_down: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) failed_connects: AtomicU64,
    pub(crate) oversized: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) dropped_messages: AtomicU64,
    pub(crate) dropped_publishes: AtomicU64,
    pub(crate) subscription_refusals: AtomicU64,
    pub(crate) event_queue_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> LinkStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkStats {
            bytes_up: get(&self.bytes_up),
            bytes_down: get(&self.bytes_down),
            connects: get(&self.connects),
            failed_connects: get(&self.failed_connects),
            oversized: get(&self.oversized),
            malformed: get(&self.malformed),
            dropped_messages: get(&self.dropped_messages),
            dropped_publishes: get(&self.dropped_publishes),
            subscription_refusals: get(&self.subscription_refusals),
            publish_queue_bytes: 0,
            event_queue_bytes: get(&self.event_queue_bytes),
        }
    }
}

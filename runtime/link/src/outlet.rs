//! The events on their way to the owner.
//!
//! The link never waits for its owner while it serves the connection: an owner that waits for room to publish
//! and a link that waits for room to report would stand still for ever. So events wait here, within a bound of
//! bytes. From half of it on the link reads no more from the broker, which loses nothing; but it must read on
//! while its owner waits to publish, because the confirmations of earlier publishes come behind the messages.
//! What then exceeds the bound is dropped and counted. (MQTT's own means, to confirm a message only when it was
//! taken, does not bound anything: Mosquitto 2.0.11 answers one confirmation with twenty more messages.)

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::Event;
use crate::stats::Counters;

/// What an event costs beside its text and payload, in bytes.
const OVERHEAD: usize = 128;

#[derive(Debug)]
pub(crate) struct Outlet {
    to_owner: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    bytes: usize,
    max_bytes: usize,
    /// Until the connection is whole, its messages wait so that `Connected` comes first.
    holding: bool,
    counters: Arc<Counters>,
}

/// The owner dropped its receiver.
#[derive(Debug)]
pub(crate) struct OwnerGone;

impl Outlet {
    pub(crate) fn new(to_owner: mpsc::Sender<Event>, max_bytes: usize, counters: Arc<Counters>) -> Self {
        Self { to_owner, backlog: VecDeque::new(), bytes: 0, max_bytes, holding: false, counters }
    }

    /// Queues what must not be missed: the few events of a connection's beginning and end.
    pub(crate) fn push(&mut self, event: Event) {
        self.holds(self.bytes + cost(&event));
        self.backlog.push_back(event);
    }

    /// Queues a message, or a report of one, if there is room.
    pub(crate) fn offer(&mut self, event: Event) {
        if self.bytes + cost(&event) <= self.max_bytes {
            self.push(event);
        } else if matches!(event, Event::Message { .. }) {
            Counters::add(&self.counters.dropped_messages, 1);
        }
    }

    fn holds(&mut self, bytes: usize) {
        self.bytes = bytes;
        self.counters.event_queue_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_half_full(&self) -> bool {
        self.bytes > self.max_bytes / 2
    }

    /// Puts `Connected` before the messages that were held for it.
    pub(crate) fn connected(&mut self, event: Event) {
        self.holds(self.bytes + cost(&event));
        self.backlog.push_front(event);
        self.holding = false;
    }

    pub(crate) fn hold(&mut self, holding: bool) {
        self.holding = holding;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    pub(crate) fn has_deliverable(&self) -> bool {
        !self.backlog.is_empty() && !self.holding
    }

    /// Hands the oldest event over; may be dropped at any await without losing one.
    pub(crate) async fn deliver(&mut self) -> Result<(), OwnerGone> {
        let room = self.to_owner.reserve().await.map_err(|_| OwnerGone)?;
        if let Some(event) = self.backlog.pop_front() {
            let cost = cost(&event);
            room.send(event);
            self.holds(self.bytes - cost);
        }
        Ok(())
    }
}

fn cost(event: &Event) -> usize {
    OVERHEAD
        + match event {
            Event::Message { topic, payload, .. } => topic.len() + payload.len(),
            Event::Oversized { topic, .. } | Event::Malformed { topic, .. } => topic.len(),
            _ => 0,
        }
}

//! The events on their way to the owner.
//!
//! The link never waits for its owner while it serves the connection: an owner that waits for room to publish
//! and a link that waits for room to report would stand still for ever. So events wait here, and when too many
//! do, the gate tells the tunnel to stop reading from the broker.

use std::collections::VecDeque;

use tokio::sync::{mpsc, watch};

use crate::Event;

#[derive(Debug)]
pub(crate) struct Outlet {
    to_owner: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    bytes: usize,
    /// Until the connection is whole, its messages wait so that `Connected` comes first.
    holding: bool,
    max_events: usize,
    max_bytes: usize,
    gate: watch::Sender<bool>,
}

/// The owner dropped its receiver.
#[derive(Debug)]
pub(crate) struct OwnerGone;

impl Outlet {
    pub(crate) fn new(to_owner: mpsc::Sender<Event>, max_events: usize, max_bytes: usize) -> Self {
        let gate = watch::Sender::new(false);
        Self { to_owner, backlog: VecDeque::new(), bytes: 0, holding: false, max_events, max_bytes, gate }
    }

    /// `true` while nothing more should be read from the broker.
    pub(crate) fn gate(&self) -> watch::Receiver<bool> {
        self.gate.subscribe()
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.backlog.push_back(event);
        // Held back too long, the confirmations that end the holding could not come in.
        if self.bytes > self.max_bytes / 2 || self.backlog.len() > self.max_events / 2 {
            self.holding = false;
        }
        self.set_gate();
    }

    /// Puts `Connected` before the messages that were held for it.
    pub(crate) fn connected(&mut self, event: Event) {
        if self.holding {
            self.backlog.push_front(event);
        } else {
            self.backlog.push_back(event);
        }
        self.holding = false;
        self.set_gate();
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
            self.bytes -= event.bytes();
            room.send(event);
        }
        self.set_gate();
        Ok(())
    }

    fn set_gate(&self) {
        let shut = self.bytes > self.max_bytes || self.backlog.len() > self.max_events;
        self.gate.send_if_modified(|gate| std::mem::replace(gate, shut) != shut);
    }
}

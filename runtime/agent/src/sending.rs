//! Which outbox entries are on the wire, and when to send them again.

use std::collections::BTreeMap;

/// Entries under way at once.
pub(crate) const WINDOW: usize = 4;
/// First pause before an unanswered entry is sent again, ms.
const RESEND_MS: u64 = 15_000;
/// Longest such pause, ms.
const RESEND_CAP_MS: u64 = 300_000;
/// First pause after the aggregator does not know this gateway, ms; one entry then asks again.
const NOT_ADMITTED_MS: u64 = 60_000;
/// Longest such pause, ms.
const NOT_ADMITTED_CAP_MS: u64 = 3_600_000;
/// Pause of an entry whose task the aggregator does not know, ms.
const PARKED_MS: u64 = 3_600_000;
/// Entries remembered as under way or parked; an outbox holds as many.
const MAX_FLIGHTS: usize = 1024;
/// The aggregator's first words come as a burst, one manifest per task.
const BURST_MS: u64 = 200;

#[derive(Debug, Clone, Copy)]
struct Flight {
    due_ms: u64,
    tries: u32,
    /// Waits for its task to be known; takes no place in the window.
    parked: bool,
}

/// See the module's documentation. Holds no contribution, only its sequence.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    /// Entries in the outbox.
    pub pending: u64,
    flights: BTreeMap<u64, Flight>,
    hold_until_ms: u64,
    /// How often the gateway was not known since it last was.
    held: u32,
    started_over_ms: Option<u64>,
}

impl Sending {
    /// After a reconnection nothing is known about what arrived: everything is due.
    pub(crate) fn forget(&mut self) {
        self.flights.clear();
        self.release();
    }

    /// The aggregator is back: everything is due, but once per burst of its messages. Returns whether it is.
    pub(crate) fn start_over(&mut self, now_ms: u64) -> bool {
        if self.started_over_ms.is_some_and(|last| now_ms.saturating_sub(last) < BURST_MS) {
            return false;
        }
        self.started_over_ms = Some(now_ms);
        self.forget();
        true
    }

    /// Whether entry `sequence` is to be sent now; takes note that it is. Entries beyond the window wait.
    pub(crate) fn take(&mut self, sequence: u64, now_ms: u64) -> bool {
        if now_ms < self.hold_until_ms {
            return false;
        }
        let window = if self.held > 0 { 1 } else { WINDOW };
        let under_way = self.flights.values().filter(|flight| !flight.parked).count();
        let tries = match self.flights.get(&sequence) {
            Some(flight) if now_ms < flight.due_ms => return false,
            Some(flight) if flight.parked && under_way >= window => return false,
            Some(flight) => flight.tries + 1,
            None if under_way >= window || self.flights.len() >= MAX_FLIGHTS => return false,
            None => 0,
        };
        let pause = (RESEND_MS << tries.min(5)).min(RESEND_CAP_MS);
        self.flights.insert(sequence, Flight { due_ms: now_ms + pause, tries, parked: false });
        true
    }

    /// The aggregator does not know the entry's task: keep it, out of the others' way.
    pub(crate) fn park(&mut self, sequence: u64, now_ms: u64) {
        self.flights.insert(sequence, Flight { due_ms: now_ms + PARKED_MS, tries: 0, parked: true });
    }

    /// The entry is gone.
    pub(crate) fn done(&mut self, sequence: u64) {
        self.flights.remove(&sequence);
    }

    /// The aggregator does not know this gateway: keep everything and try again later.
    pub(crate) fn hold(&mut self, now_ms: u64) {
        self.flights.clear();
        self.hold_until_ms = now_ms + (NOT_ADMITTED_MS << self.held.min(6)).min(NOT_ADMITTED_CAP_MS);
        self.held = self.held.saturating_add(1);
    }

    /// Ends such a pause: something changed at the aggregator.
    pub(crate) fn release(&mut self) {
        self.hold_until_ms = 0;
        self.held = 0;
    }

    /// What was parked is due: a task became known.
    pub(crate) fn unpark(&mut self) {
        self.flights.retain(|_, flight| !flight.parked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_bounds_what_is_under_way_and_the_pause_doubles() {
        let mut sending = Sending::default();
        for sequence in 0..WINDOW as u64 {
            assert!(sending.take(sequence, 0));
        }
        assert!(!sending.take(99, 0));
        assert!(!sending.take(0, RESEND_MS - 1));
        assert!(sending.take(0, RESEND_MS));
        assert!(!sending.take(0, 3 * RESEND_MS - 1));
        assert!(sending.take(0, 3 * RESEND_MS));
        sending.done(0);
        assert!(sending.take(99, 0));
        sending.hold(0);
        assert!(!sending.take(1, NOT_ADMITTED_MS - 1));
        sending.release();
        assert!(sending.take(1, 1));
    }

    #[test]
    fn a_gateway_that_is_not_admitted_asks_with_one_entry_and_less_and_less_often() {
        let mut sending = Sending::default();
        let mut now = 0;
        for pause in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            sending.hold(now);
            assert!(!sending.take(0, now + pause * 1000 - 1));
            now += pause * 1000;
            assert!(sending.take(0, now) && !sending.take(1, now));
        }
        sending.release();
        assert!(sending.take(1, now));
    }

    #[test]
    fn what_waits_for_its_task_is_out_of_the_others_way() {
        let mut sending = Sending::default();
        for sequence in 0..WINDOW as u64 {
            assert!(sending.take(sequence, 0));
            sending.park(sequence, 0);
        }
        assert!(sending.take(99, 0));
        assert!(!sending.take(0, PARKED_MS - 1));
        assert!(sending.take(0, PARKED_MS));
        sending.unpark();
        assert!(sending.take(1, 1));
    }

    #[test]
    fn what_was_under_way_is_due_again_once_when_the_aggregator_returns() {
        let mut sending = Sending::default();
        assert!(sending.take(0, 0));
        assert!(!sending.take(0, 100));
        assert!(sending.start_over(100));
        assert!(sending.take(0, 100));
        assert!(!sending.start_over(100 + BURST_MS - 1));
        assert!(!sending.take(0, 100 + BURST_MS - 1));
        assert!(sending.start_over(100 + BURST_MS));
        assert!(sending.take(0, 100 + BURST_MS));
    }
}

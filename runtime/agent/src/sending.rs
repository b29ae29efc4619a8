//! Which outbox entries are on the wire, and when to send them again.

use std::collections::BTreeMap;

/// Entries under way at once.
pub const WINDOW: usize = 4;
/// First pause before an unanswered entry is sent again, ms.
const RESEND_MS: u64 = 15_000;
/// Longest such pause, ms.
const RESEND_CAP_MS: u64 = 300_000;
/// Pause after the aggregator does not know this gateway, ms.
const NOT_ADMITTED_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy)]
struct Flight {
    due_ms: u64,
    tries: u32,
}

/// See the module's documentation. Holds no contribution, only its sequence.
#[derive(Debug, Default)]
pub struct Sending {
    /// Entries in the outbox.
    pub pending: u64,
    flights: BTreeMap<u64, Flight>,
    hold_until_ms: u64,
}

impl Sending {
    /// After a reconnection nothing is known about what arrived: everything is due.
    pub fn forget(&mut self) {
        self.flights.clear();
        self.hold_until_ms = 0;
    }

    /// Whether entry `sequence` is to be sent now; takes note that it is. Entries beyond the window wait.
    pub fn take(&mut self, sequence: u64, now_ms: u64) -> bool {
        if now_ms < self.hold_until_ms {
            return false;
        }
        let tries = match self.flights.get(&sequence) {
            Some(flight) if now_ms < flight.due_ms => return false,
            Some(flight) => flight.tries + 1,
            None if self.flights.len() >= WINDOW => return false,
            None => 0,
        };
        let pause = (RESEND_MS << tries.min(5)).min(RESEND_CAP_MS);
        self.flights.insert(sequence, Flight { due_ms: now_ms + pause, tries });
        true
    }

    /// The entry is gone.
    pub fn done(&mut self, sequence: u64) {
        self.flights.remove(&sequence);
    }

    /// The aggregator does not know this gateway: keep everything and try again later.
    pub fn hold(&mut self, now_ms: u64) {
        self.flights.clear();
        self.hold_until_ms = now_ms + NOT_ADMITTED_MS;
    }

    /// Ends such a pause: something changed at the aggregator.
    pub fn release(&mut self) {
        self.hold_until_ms = 0;
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
}

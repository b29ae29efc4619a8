//! How long those wait who are turned away, so that they do not all come back at once.

/// Senders that may come back in one second.
const COMING_BACK_PER_S: u64 = 100;
/// What is remembered of those turned away, ms: two windows of this length.
const WINDOW_MS: u64 = 10_000;
/// Shortest wait in seconds.
const LEAST_S: u64 = 5;
/// Longest wait in seconds.
const MOST_S: u64 = 600;

/// Counts those who were turned away of late. The more they are, the longer each waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Admission {
    window: u64,
    now: u64,
    before: u64,
}

impl Admission {
    /// Counts one more; the seconds it is asked to wait. It adds a random part of up to as many.
    pub fn turn_away(&mut self, now_ms: u64) -> u16 {
        let window = now_ms / WINDOW_MS;
        if window != self.window {
            self.before = if window == self.window + 1 { self.now } else { 0 };
            (self.window, self.now) = (window, 0);
        }
        self.now = self.now.saturating_add(1);
        ((self.now + self.before) / COMING_BACK_PER_S).clamp(LEAST_S, MOST_S) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_wait_briefly_and_thousands_are_spread() {
        let mut admission = Admission::default();
        assert_eq!(admission.turn_away(0), 5);
        let last = (0..10_000).map(|i| admission.turn_away(i)).last();
        assert_eq!(last, Some(100));
        assert_eq!(admission.turn_away(10_000), 100, "who came just before the window's end still counts");
        assert_eq!(admission.turn_away(30_000), 5);
        let last = (0..1_000_000).map(|_| admission.turn_away(30_000)).last();
        assert_eq!(last, Some(600));
    }
}

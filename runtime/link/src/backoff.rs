//! Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
//! 2015): the wait is drawn evenly from nought to `min(cap, base × 2^attempt)`, so that a thousand gateways do
//! not come back to a restarted broker in step.

use std::time::Duration;

/// Bounds of the wait between two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Longest first wait.
    pub base: Duration,
    /// Longest wait at all.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 200 ms, doubling up to 5 minutes.
    fn default() -> Self {
        Self { base: Duration::from_millis(200), cap: Duration::from_mins(5) }
    }
}

/// The state of somebody's waiting; the randomness comes in as a seed.
#[derive(Debug)]
pub struct Waiting {
    bounds: Backoff,
    attempt: u32,
    state: u64,
}

impl Waiting {
    /// Before the first attempt.
    pub fn new(bounds: Backoff, seed: u64) -> Self {
        Self { bounds, attempt: 0, state: seed }
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How long to wait before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.attempt).unwrap_or(u32::MAX);
        let ceiling = self.bounds.base.saturating_mul(factor).min(self.bounds.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(self.unit())
    }

    /// Evenly from [0, 1); splitmix64 (Steele, Lea and Flood, 2014).
    fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_spread_over_the_whole_range_and_capped() {
        let bounds = Backoff { base: Duration::from_millis(200), cap: Duration::from_mins(5) };
        let mut halves = [0; 2];
        for seed in 0..500 {
            let mut waiting = Waiting::new(bounds, seed);
            for attempt in 0..80u32 {
                let ceiling =
                    Duration::from_millis(200).saturating_mul(2u32.saturating_pow(attempt)).min(bounds.cap);
                let wait = waiting.pause();
                assert!(wait < ceiling, "attempt {attempt}: {wait:?}");
                halves[usize::from(wait * 2 > ceiling)] += 1;
            }
            waiting.reset();
            assert!(waiting.pause() < bounds.base);
        }
        let share = f64::from(halves[0]) / f64::from(halves[0] + halves[1]);
        assert!((0.48..0.52).contains(&share), "{halves:?}");
    }
}

//! Counters and latencies: what the agent tells about itself.

use loadonce_backbone::Treatment;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies in logarithmic buckets of about 5 %: constant memory, whatever the number of samples.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max_ms: f64,
}

const BUCKETS: usize = 400;
const FLOOR_MS: f64 = 0.01;
const GROWTH: f64 = 1.05;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max_ms: 0.0 }
    }
}

impl Histogram {
    /// Counts one latency in milliseconds.
    pub fn add(&mut self, ms: f64) {
        let bucket = (ms.max(FLOOR_MS) / FLOOR_MS).ln() / GROWTH.ln();
        self.buckets[(bucket as usize).min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.max_ms = self.max_ms.max(ms);
    }

    /// The latency that a share `q` of the samples did not exceed, to within a bucket.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (i, &n) in self.buckets.iter().enumerate() {
            seen += u64::from(n);
            if seen >= rank {
                return (FLOOR_MS * GROWTH.powi(i as i32 + 1)).min(self.max_ms);
            }
        }
        self.max_ms
    }

    /// The figures of a report.
    pub fn summary(&self) -> Latency {
        let (p50, p99) = (self.quantile(0.5), self.quantile(0.99));
        Latency { count: self.count, p50_ms: p50, p99_ms: p99, max_ms: self.max_ms }
    }
}

/// Latencies as reported.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Worst.
    pub max_ms: f64,
}

/// Everything counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Refusals by stable word.
    pub refusals: BTreeMap<&'static str, u64>,
    /// What was done to samples beyond the usual, by stable word.
    pub treated: BTreeMap<&'static str, u64>,
    /// Latencies while no training job ran.
    pub idle: Histogram,
    /// Latencies while one did.
    pub training: Histogram,
    /// Longest piece of background work between two looks at the input, ms.
    pub longest_unit_ms: f64,
    /// Longest optimizer step, ms.
    pub longest_step_ms: f64,
}

impl Counters {
    /// Notes how long one optimizer step took.
    pub(crate) fn stepped(&mut self, took: Duration) {
        self.longest_step_ms = self.longest_step_ms.max(took.as_secs_f64() * 1e3);
    }

    /// Counts what was done to a sample; sums of numbers and channels, not of samples.
    pub(crate) fn treat(&mut self, done: Treatment) {
        let counts = [
            ("numbers_bridged", done.filled),
            ("numbers_clipped", done.clipped),
            ("channels_constant", done.constant),
            ("rates_changed", usize::from(done.rate_changed)),
            ("texts_cut", usize::from(done.cut)),
        ];
        for (word, count) in counts.into_iter().filter(|&(_, count)| count > 0) {
            *self.treated.entry(word).or_default() += count as u64;
        }
    }

    /// Counts one refusal.
    pub(crate) fn refuse(&mut self, code: &'static str) {
        *self.refusals.entry(code).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut h = Histogram::default();
        for i in 1..=1000 {
            h.add(f64::from(i) / 100.0);
        }
        assert!((h.quantile(0.5) / 5.0 - 1.0).abs() < 0.06, "{}", h.quantile(0.5));
        assert!((h.quantile(0.99) / 9.9 - 1.0).abs() < 0.06);
        assert!((h.summary().max_ms - 10.0).abs() < 1e-9);
        h.add(1e12);
        assert!(h.quantile(1.0) > 0.0);
    }
}

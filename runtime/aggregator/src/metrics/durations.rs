//! How long something took, counted below bounds.

use std::time::Duration;

use super::text::Metric;

/// Upper bounds in seconds: from a batch in memory to a disk that stands still.
const BOUNDS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];

/// A histogram.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Durations {
    /// Above the bound before and not above this one.
    within: [u64; BOUNDS.len()],
    count: u64,
    total: Duration,
}

impl Durations {
    pub(crate) fn note(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(place) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.within[place] += 1;
        }
        self.count += 1;
        self.total += took;
    }

    pub(super) fn write(&self, mut metric: Metric<'_>) {
        let mut below = 0;
        for (bound, within) in BOUNDS.iter().zip(self.within) {
            below += within;
            metric.part("_bucket", &[("le", &bound.to_string())], below as f64);
        }
        metric
            .part("_bucket", &[("le", "+Inf")], self.count as f64)
            .part("_sum", &[], self.total.as_secs_f64())
            .part("_count", &[], self.count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::{Kind, Text};

    #[test]
    fn buckets_are_cumulative_and_the_last_holds_all() {
        let mut durations = Durations::default();
        for ms in [1, 2, 600, 100_000] {
            durations.note(Duration::from_millis(ms));
        }
        let mut text = Text::default();
        durations.write(text.metric("d_seconds", Kind::Histogram, "Durations."));
        let text = text.into_string();
        for line in [
            "d_seconds_bucket{le=\"0.001\"} 1\n",
            "d_seconds_bucket{le=\"0.005\"} 2\n",
            "d_seconds_bucket{le=\"0.5\"} 2\n",
            "d_seconds_bucket{le=\"2\"} 3\n",
            "d_seconds_bucket{le=\"60\"} 3\n",
            "d_seconds_bucket{le=\"+Inf\"} 4\n",
            "d_seconds_sum 100.603\n",
            "d_seconds_count 4\n",
        ] {
            assert!(text.contains(line), "{line} is missing: {text}");
        }
    }
}

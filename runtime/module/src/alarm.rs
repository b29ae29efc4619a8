//! The alarm threshold of an anomaly task, from the gateway's own normal samples.
//!
//! The threshold is the ⌈(1 − α)(n + 1)⌉-th smallest of n held-out normal scores: a further normal sample, drawn alike,
//! scores above it with probability at most α (split conformal prediction, Vovk, Gammerman & Shafer 2005, §2.2.3; the
//! order statistic of Laxhammar & Falkman 2010). So n ≥ 1/α − 1 samples are the least; with fewer there is no alarm.
//! That probability is a mean over draws of the n samples: on one gateway the rate for good is 1 − F(threshold), of
//! which the x scores above the threshold are x of n trials; its Clopper–Pearson interval comes with the threshold.

use serde::{Deserialize, Serialize};

use crate::binomial::clopper_pearson;

/// Confidence of the interval.
const CONFIDENCE: f64 = 0.95;

/// A calibrated alarm of one exit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// Scores above it are alarms.
    pub threshold: f32,
    /// Normal samples that set it.
    pub normals: u32,
    /// Largest expected share of normal samples that score above it.
    pub rate: f64,
    /// The interval that holds the share on this gateway with 95 % confidence.
    pub interval: (f64, f64),
}

/// Fewest normal samples from which a rate of false alarms can be calibrated.
pub fn least_normals(false_alarms: f64) -> usize {
    // One more than that is needed if rounding hides it; the rank below decides.
    ((1.0 / false_alarms - 1.0 - 1e-9).ceil()).max(1.0) as usize
}

/// The alarm of the asked false-alarm rate, between 0 and 1; `None` with too few scores. Scores that are no numbers
/// count as high.
pub fn alarm(scores: &[f32], false_alarms: f64) -> Option<Alarm> {
    let n = scores.len();
    let rank = ((1.0 - false_alarms) * (n + 1) as f64 - 1e-9).ceil().max(1.0) as usize;
    if n == 0 || rank > n || !(false_alarms > 0.0 && false_alarms < 1.0) {
        return None;
    }
    let mut sorted: Vec<f32> = scores.iter().map(|s| if s.is_nan() { f32::INFINITY } else { *s }).collect();
    sorted.sort_by(f32::total_cmp);
    let threshold = sorted[rank - 1];
    if !threshold.is_finite() {
        return None;
    }
    let interval = clopper_pearson(n - rank, n, CONFIDENCE);
    Some(Alarm { threshold, normals: n as u32, rate: (n + 1 - rank) as f64 / (n + 1) as f64, interval })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binomial::tests::most_breaks;
    use crate::random::Random;

    #[test]
    fn ninety_nine_normal_samples_are_the_least_for_one_percent() {
        let scores: Vec<f32> = (0..99u8).map(f32::from).collect();
        assert_eq!((least_normals(0.01), least_normals(0.5), least_normals(0.001)), (99, 1, 999));
        assert_eq!(alarm(&scores[..98], 0.01), None);
        let found = alarm(&scores, 0.01).expect("enough");
        assert!((found.threshold - 98.0).abs() < 1e-6 && (found.rate - 0.01).abs() < 1e-12);
        assert!(found.interval.0 < 1e-12 && (found.interval.1 - 0.0366).abs() < 1e-3, "{found:?}");
        assert_eq!(alarm(&[], 0.01), None);
        assert_eq!(alarm(&[f32::NAN; 200], 0.01), None);
    }

    #[test]
    fn false_alarms_keep_their_rate_and_the_interval_its_confidence() {
        // Exponential-like scores; the true rate of a threshold is known.
        let mut random = Random::new(21);
        let mut draw = || -(1.0 - random.uniform()).ln();
        for (n, asked) in [(99, 0.01), (200, 0.05), (150, 0.02)] {
            let (mut total, mut outside) = (0.0, 0);
            for _ in 0..1000 {
                let scores: Vec<f32> = (0..n).map(|_| draw()).collect();
                let found = alarm(&scores, asked).expect("enough");
                let rate = f64::from(-found.threshold).exp();
                total += rate;
                outside += usize::from(!(found.interval.0..=found.interval.1).contains(&rate));
            }
            assert!(outside <= most_breaks(1000, 0.05), "{outside} of 1000 outside at {n}");
            // The mean of 1000 rates with standard deviation of about their mean.
            assert!(total / 1000.0 < asked * (1.0 + 3.3 / 1000f64.sqrt()), "{} at {n}", total / 1000.0);
        }
    }
}

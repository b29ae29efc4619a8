//! When a classify task answers "unknown": below a confidence that keeps the risk of the answers given.
//!
//! The risk is the share of wrong ones among the answers given (selective classification, Geifman & El-Yaniv 2017,
//! "Selective Classification for Deep Neural Networks"). For a fixed threshold, given how many held-out samples reach
//! it, the wrong ones among them are binomial, so P(Bin(answered, risk) ≤ wrong) ≤ δ proves that the risk holds. The
//! thresholds are those of the early exits, continued to 0. They are tested from the strictest down, each search ending
//! at the first that fails (fixed-sequence testing, as in `calibrate`). Strict thresholds may be reached by too few
//! samples to prove anything, so there are several starts, each with its share of δ (Angelopoulos et al. 2021, "Learn
//! then Test", algorithm 1); the loosest threshold that any search accepts is used. Together they break the promise
//! with probability at most δ.

use crate::binomial::binomial_tail;
use crate::calibrate::candidate;

/// Where searches begin: thresholds 0.996, 0.969, 0.875, 0.646 and 0 (all are answered).
const STARTS: [i32; 5] = [32, 20, 12, 6, 0];

/// The least confidence with which to answer, so that with this `confidence` at most a share `risk` of the answers is
/// wrong; `None` where the samples do not prove it for any. `confidences` and `right` are those of held-out labelled
/// samples at the exit that answers.
pub fn reject_below(confidences: &[f32], right: &[bool], risk: f64, confidence: f64) -> Option<f32> {
    let usable = |x: f64| x > 0.0 && x < 1.0;
    if confidences.len() != right.len() || !usable(risk) || !usable(confidence) {
        return None;
    }
    let level = (1.0 - confidence) / STARTS.len() as f64;
    let proven = |j: i32| {
        let least = candidate(j);
        let answered = confidences.iter().zip(right).filter(|(c, _)| **c >= least);
        let (n, wrong) = answered.fold((0, 0), |(n, wrong), (_, right)| (n + 1, wrong + usize::from(!right)));
        n > 0 && binomial_tail(wrong, n, risk) <= level
    };
    let loosest = |start: &i32| (0..=*start).rev().take_while(|&j| proven(j)).last();
    STARTS.iter().filter_map(loosest).min().map(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binomial::tests::most_breaks;
    use crate::random::Random;

    #[test]
    fn ninety_right_answers_prove_five_percent_and_eighty_nine_do_not() {
        // (1 − 0.05)ⁿ ≤ 0.05 / 5.
        for (n, proven) in [(89, false), (90, true)] {
            let found = reject_below(&vec![0.9; n], &vec![true; n], 0.05, 0.95);
            assert_eq!(found.is_some(), proven, "{n}");
        }
        assert_eq!(reject_below(&vec![0.9; 90], &[true; 90], 0.05, 0.95), Some(0.0));
        assert_eq!(reject_below(&[], &[], 0.05, 0.95), None);
        assert_eq!(reject_below(&[f32::NAN; 100], &[true; 100], 0.05, 0.95), None);
    }

    /// Right with probability `right(c)` at confidence c, uniform between 0 and 1; the risk above t in closed form.
    fn promise(n: usize, seed: u64, right: fn(f32) -> f32, risk_above: fn(f64) -> f64) -> (usize, usize) {
        let mut random = Random::new(seed);
        let (mut broken, mut answers) = (0, 0);
        for _ in 0..600 {
            let confidences: Vec<f32> = (0..n).map(|_| random.uniform()).collect();
            let rights: Vec<bool> = confidences.iter().map(|c| random.uniform() < right(*c)).collect();
            if let Some(t) = reject_below(&confidences, &rights, 0.1, 0.95) {
                answers += 1;
                broken += usize::from(risk_above(f64::from(t)) > 0.1);
            }
        }
        (broken, answers)
    }

    #[test]
    fn the_promised_risk_is_kept_as_often_as_it_says() {
        // Calibrated: the risk above t is (1 − t) / 2, so t = 0.8 is the loosest that keeps 0.1.
        let calibrated = |n, seed| promise(n, seed, |c| c, |t| (1.0 - t) / 2.0);
        // Confidence says nothing and the risk is always 0.11: every answer breaks the promise.
        let hopeless = |n, seed| promise(n, seed, |_| 0.89, |_| 0.11);
        for n in [60, 200, 1000] {
            for (broken, _) in [calibrated(n, 5), hopeless(n, 6)] {
                assert!(broken <= most_breaks(600, 0.05), "{broken} of 600 broken with {n} samples");
            }
        }
        assert!(calibrated(5000, 7).1 > 550, "five thousand samples prove something nearly always");
    }
}

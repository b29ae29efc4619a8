//! What is known of a forecast's features before any sample is seen, and what the closed form makes of it: how much
//! overlapping windows say, and one pattern of weights for all steps.
//!
//! **Overlap.** Two windows j steps apart share h − j of the h steps that a forecast of step h has to bridge, so their
//! errors correlate as 1 − j/h, and so do the slow features they are multiplied with. The sum of n such products
//! varies like that of n / α_h independent ones with α_h = Σ_j (1 − |j|/h)² over the distances at which windows come
//! (Bartlett 1935, "Some aspects of the time-correlation problem in regard to tests of significance").
//! Where a window comes at every step, α_h = (2h² + 1) / (3h).
//!
//! **Pattern.** Step h is regressed on the value one season before it, on the last value and on the value a season
//! before that one, the latter two with a part that stays and a part that fades as 1/h; the five slopes are shared by
//! all steps. They follow from the same covariances as everything else, so the sums stay what they are.

use crate::dense::{cholesky, cholesky_solve};

/// What a forecast's features and windows are. Features are counted from the end of an exit's: 1 is the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regressors {
    /// Features at the end that are lags and calendar; those before them bear a penalty of their own.
    pub extras: usize,
    /// For every step the feature that holds the value one season before it; empty where one is missing.
    pub season: Vec<usize>,
    /// The feature that holds the last value.
    pub last: Option<usize>,
    /// The feature that holds the value one season before the last.
    pub before: Option<usize>,
    /// Steps from one window to the next; 0 where windows share nothing.
    pub every: usize,
}

/// Share of its own variance by which a slope of the pattern is drawn to 0, times samples over [`overlap`].
const DRAW: f64 = 1.0 / 32.0;
/// Keeps slopes on constant features finite.
const LEAST: f64 = 1.0 / (1 << 20) as f64;

/// α_h of the steps 1 to `horizon` for windows `every` steps apart.
pub fn overlap(horizon: usize, every: usize) -> Vec<f64> {
    let of_step = |h: usize| {
        let apart = (1..).map(|j| j * every).take_while(|&apart| every > 0 && apart < h);
        1.0 + 2.0 * apart.map(|apart| (1.0 - apart as f64 / h as f64).powi(2)).sum::<f64>()
    };
    (1..=horizon).map(of_step).collect()
}

/// The weights of the pattern and the degrees of freedom each step spends on it.
pub(crate) struct Pattern {
    /// `horizon × features`, for centred features.
    pub(crate) weight: Vec<f64>,
    pub(crate) freedom: f64,
}

/// A regressor of the pattern: per step its feature and how much of it counts.
type Row = Vec<(usize, f64)>;

impl Regressors {
    /// The pattern's regressors among `d` features.
    fn rows(&self, horizon: usize, d: usize) -> Vec<Row> {
        let place = |from_end: usize| d.checked_sub(from_end).filter(|&at| at < d);
        let mut rows: Vec<Row> = Vec::new();
        if self.season.len() == horizon {
            rows.extend(self.season.iter().map(|&at| Some((place(at)?, 1.0))).collect::<Option<Row>>());
        }
        for at in [self.last, self.before].into_iter().flatten().filter_map(place) {
            rows.push(vec![(at, 1.0); horizon]);
            rows.push((1..=horizon).map(|h| (at, 1.0 / h as f64)).collect());
        }
        rows
    }

    /// The shared slopes by least squares over all steps, from the covariances of the features (`d × d`) and of
    /// features with targets (`horizon × d`). None where there is no pattern, or too few samples for one.
    pub(crate) fn pattern(
        &self,
        samples: f64,
        overlap: &[f64],
        covariance: &[f64],
        cross: &[f64],
    ) -> Option<Pattern> {
        let horizon = overlap.len();
        let d = cross.len() / horizon.max(1);
        let rows = self.rows(horizon, d);
        let (count, steps) = (rows.len(), horizon as f64);
        let freedom = count as f64 / steps;
        if count == 0 || overlap.iter().any(|alpha| samples - alpha * (1.0 + freedom) <= 0.0) {
            return None;
        }
        let draw = DRAW * overlap.iter().sum::<f64>() / steps / samples;
        let mut normal = vec![0.0; count * count];
        for (a, left) in rows.iter().enumerate() {
            for (b, right) in rows.iter().enumerate() {
                let products = left.iter().zip(right).map(|(&(i, x), &(j, y))| x * y * covariance[i * d + j]);
                normal[a * count + b] = products.sum::<f64>() / steps;
            }
        }
        for a in 0..count {
            normal[a * count + a] += draw * normal[a * count + a] + LEAST;
        }
        let along = |row: &Row| row.iter().enumerate().map(|(h, &(i, x))| x * cross[h * d + i]).sum::<f64>();
        let mut slopes: Vec<f64> = rows.iter().map(|row| along(row) / steps).collect();
        if !cholesky(&mut normal, count) {
            return None;
        }
        cholesky_solve(&normal, &mut slopes);
        let mut weight = vec![0.0; horizon * d];
        for (row, slope) in rows.iter().zip(&slopes) {
            for (h, &(i, x)) in row.iter().enumerate() {
                weight[h * d + i] += slope * x;
            }
        }
        Some(Pattern { weight, freedom })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_at_every_step_overlap_by_the_closed_formula() {
        for (h, alpha) in overlap(48, 1).into_iter().enumerate().map(|(h, alpha)| ((h + 1) as f64, alpha)) {
            assert!((alpha - (2.0 * h * h + 1.0) / (3.0 * h)).abs() < 1e-9, "{h}: {alpha}");
        }
        assert_eq!(overlap(3, 0), [1.0; 3]);
        assert_eq!(overlap(3, 3), [1.0; 3]);
        assert!((overlap(4, 2)[3] - 1.5).abs() < 1e-12, "1 + 2 (1/2)²");
    }

    #[test]
    fn a_pattern_is_found_and_features_that_are_not_there_are_passed_over() {
        // Three features of unit variance, uncorrelated; y_h = 0.7 season_h + 0.2/h last.
        let regressors = Regressors { extras: 3, season: vec![2, 1], last: Some(3), before: None, every: 0 };
        let covariance = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let cross = [0.2, 0.7, 0.0, 0.1, 0.0, 0.7];
        let pattern = |regressors: &Regressors, samples: f64| {
            regressors.pattern(samples, &[1.0; 2], &covariance, &cross)
        };
        let found = pattern(&regressors, 1e6).expect("samples enough");
        assert!((found.freedom - 1.5).abs() < 1e-12);
        for (got, want) in found.weight.iter().zip(cross) {
            assert!((got - want).abs() < 1e-4, "{:?}", found.weight);
        }
        assert!(pattern(&regressors, 2.5).is_none() && pattern(&Regressors::default(), 1e6).is_none());
        let wrong = Regressors { season: vec![2, 9], last: Some(0), before: Some(4), ..regressors };
        assert!(pattern(&wrong, 1e6).is_none());
    }
}

//! Shifts of a forecast's quantiles, from the gateway's own residuals.
//!
//! For the quantile at level q, step by step and exit by exit, the residuals r = y − x_q of n held-out samples are
//! sorted; x_q moves by the ⌈q(n + 1)⌉-th smallest for q above ½, the ⌊q(n + 1)⌋-th for q below, and the mean of both
//! for the median. A further target, drawn alike, then lies at or below the upper quantiles with probability at
//! least q, and at or below the lower ones with probability at most q, whatever the distribution (one-sided split
//! conformal prediction, Vovk, Gammerman & Shafer 2005, §2.2.3; Romano, Patterson & Candès 2019, "Conformalized
//! quantile regression"). So an interval between two shifted quantiles misses no more often than they say. That order
//! statistic exists from n ≥ 1/min(q, 1 − q) samples on; below it the quantile stays where it is. Windows that
//! overlap are not drawn alike, and a drifting series is not either: the promise is for samples that are.

use crate::data::{Dataset, Target};
use crate::forward::forward;
use crate::head::{Head, Quantiles};
use crate::shape::Shape;

/// Most residuals kept per quantile; the newest samples of the set win.
const MAX_RESIDUALS: usize = 2048;
/// Samples looked at per call.
const SLICE: usize = 32;

/// Fewest samples from which the quantile at this level, in thousandths, is shifted.
pub fn least_residuals(thousandths: u16) -> usize {
    1000usize.div_ceil(usize::from(thousandths.min(1000 - thousandths)).max(1))
}

/// The shift of the quantile at a level, in thousandths, from its sorted residuals.
pub fn shift(sorted: &[f32], thousandths: u16) -> Option<f32> {
    let n = sorted.len();
    if n < least_residuals(thousandths) {
        return None;
    }
    let place = usize::from(thousandths) * (n + 1);
    let (below, above) = (sorted.get((place / 1000).wrapping_sub(1)), sorted.get(place.div_ceil(1000) - 1));
    match thousandths {
        500 => Some(f32::midpoint(*below?, *above?)),
        0..500 => below.copied(),
        _ => above.copied(),
    }
}

/// Shifts of all outputs of all exits, in slices.
#[derive(Clone, Debug)]
pub(crate) struct Shifts {
    done: usize,
    /// Per output of every exit, one residual per sample.
    residuals: Vec<Vec<f32>>,
    outputs: Vec<f32>,
}

impl Shifts {
    pub(crate) fn new(shape: &Shape) -> Self {
        let size = shape.exits * shape.outputs;
        Self { done: 0, residuals: vec![Vec::new(); size], outputs: vec![0.0; size] }
    }

    /// Looks at more samples; the shifts (`exits × outputs`, zero where there are too few samples) once all are
    /// done, and whether any quantile is shifted.
    pub(crate) fn advance(
        &mut self,
        shape: &Shape,
        params: &[f32],
        heldout: &Dataset,
    ) -> Option<(Vec<f32>, bool)> {
        let Head::Forecast { quantiles, .. } = shape.head else { return Some((Vec::new(), false)) };
        let n = heldout.n().min(MAX_RESIDUALS);
        let end = n.min(self.done + SLICE);
        for i in self.done..end {
            forward(shape, params, heldout.row(i), &mut self.outputs);
            let Target::Values(values) = heldout.targets.at(i) else { continue };
            for (at, (residuals, x)) in self.residuals.iter_mut().zip(&self.outputs).enumerate() {
                residuals.push(values[at % shape.outputs / quantiles.len()] - x);
            }
        }
        self.done = end;
        (end == n).then(|| self.finish(&quantiles))
    }

    fn finish(&mut self, quantiles: &Quantiles) -> (Vec<f32>, bool) {
        let levels = quantiles.thousandths();
        let mut any = false;
        let shifts = self.residuals.iter_mut().enumerate().map(|(at, residuals)| {
            residuals.sort_by(f32::total_cmp);
            let found = shift(residuals, levels[at % levels.len()]).filter(|s| s.is_finite());
            any |= found.is_some();
            found.unwrap_or(0.0)
        });
        (shifts.collect(), any)
    }
}

/// Puts the quantiles of every step in order: the rearrangement of Chernozhukov, Fernández-Val & Galichon 2010,
/// "Quantile and probability curves without crossing", which is never further from the true quantiles.
pub fn uncross(outputs: &mut [f32], quantiles: usize) {
    for step in outputs.chunks_exact_mut(quantiles.max(1)) {
        step.sort_by(f32::total_cmp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binomial::tests::most_breaks;
    use crate::random::Random;
    use crate::shape::Recipe;

    #[test]
    fn the_least_number_of_residuals() {
        let sorted: Vec<f32> = (1..=10u8).map(f32::from).collect();
        for (level, least, at_ten) in [(100, 10, 1.0), (900, 10, 10.0), (500, 2, 5.5), (250, 4, 2.0)] {
            assert_eq!(least_residuals(level), least);
            assert_eq!(shift(&sorted[..least - 1], level), None);
            assert_eq!(shift(&sorted, level), Some(at_ten), "{level}");
        }
        assert_eq!((least_residuals(999), least_residuals(1), shift(&sorted, 50)), (1000, 1000, None));
    }

    #[test]
    fn shifted_quantiles_cover_as_often_as_they_say() {
        // A wrong and skewed forecast of everything: 0. Its shifted quantiles are right all the same.
        let mut random = Random::new(33);
        let mut draw = || (2.0 * random.normal() + 3.0).powi(2);
        for (n, level) in [(10, 100), (10, 900), (40, 975), (25, 50), (60, 500)] {
            let mut missed = 0;
            for _ in 0..2000 {
                let mut residuals: Vec<f32> = (0..n).map(|_| draw()).collect();
                residuals.sort_by(f32::total_cmp);
                let quantile = shift(&residuals, level).expect("enough");
                // Above an upper quantile, or below a lower one.
                missed += usize::from(if level >= 500 { draw() > quantile } else { draw() < quantile });
            }
            let promised = f64::from(level.min(1000 - level)) / 1000.0;
            assert!(missed <= most_breaks(2000, promised), "{missed} of 2000 missed at {level}");
        }
    }

    #[test]
    fn shifts_are_per_exit_step_and_quantile() {
        let head = Head::Forecast { horizon: 2, quantiles: Quantiles::USUAL };
        let shape = Shape { recipe: Recipe::Probe, head, exits: 2, features: 1, outputs: 6 };
        let mut heldout = Dataset::default();
        for i in 0..40u8 {
            heldout.push_target(&[0.0, 0.0], Target::Values(&[f32::from(i), 100.0 + f32::from(i)]));
        }
        let mut params = vec![0.0; shape.parameters()];
        let second = shape.layout(1).bias;
        params[second] = 7.0;
        let mut shifts = Shifts::new(&shape);
        assert_eq!(shifts.advance(&shape, &params, &heldout), None);
        let (found, any) = shifts.advance(&shape, &params, &heldout).expect("two slices");
        assert!(any);
        assert_eq!(found[..6], [3.0, 19.5, 36.0, 103.0, 119.5, 136.0]);
        assert_eq!(found[6..8], [-4.0, 19.5]);
        let few = heldout.subset(&[0, 1, 2]);
        let (found, any) = Shifts::new(&shape).advance(&shape, &params, &few).expect("one slice");
        assert!(any && found[0] == 0.0 && found[1] == 1.0, "{found:?}");
    }

    #[test]
    fn crossed_quantiles_are_put_in_order() {
        let mut outputs = [3.0, 1.0, 2.0, 0.0, 0.5, 0.25];
        uncross(&mut outputs, 3);
        assert_eq!(outputs, [1.0, 2.0, 3.0, 0.0, 0.25, 0.5]);
    }
}

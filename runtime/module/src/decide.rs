//! From an exit's features to its answer, and how sure it is of it.
//!
//! Sureness lies between 0 and 1 and only orders samples; what it is worth is for [`crate::calibrate_exits`] to find:
//!
//! - classify: the top probability.
//! - forecast: 1 / (1 + δ). From the second exit on δ is how far the median path moved from the exit before, at the
//!   step where it moved most; the first exit has only its own spread, half the width between the outer quantiles at
//!   the widest step. Both in standard deviations of the window.
//! - anomaly: 1 − min(s/t, t/s), score s against the exit's alarm threshold t: how far from the line between alarm and
//!   none. Without a threshold 0.

use crate::calibrate::NEVER;
use crate::conformal::uncross;
use crate::forward::Runner;
use crate::head::{Head, anomaly_score};
use crate::prior::{argmax, softmax};
use crate::shape::Shape;

/// What a gateway serves.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// Flat parameters.
    pub params: &'a [f32],
    /// Added to the outputs, [`Shape::offset_len`] numbers.
    pub offset: &'a [f32],
    /// Alarm threshold of each exit of an anomaly task; empty where there is none.
    pub alarms: &'a [f32],
}

/// Answers exit by exit; see the module's documentation.
#[derive(Clone, Debug)]
pub struct Decider {
    shape: Shape,
    runner: Runner,
    outputs: Vec<f32>,
    median: Vec<f32>,
}

impl Decider {
    /// For modules of `shape`.
    pub fn new(shape: Shape) -> Self {
        Self { runner: Runner::new(shape), outputs: vec![0.0; shape.outputs], median: Vec::new(), shape }
    }

    /// Runs exit `k`, counted from 0, on its features; returns how sure it is.
    ///
    /// # Panics
    /// If exits are not taken in order, or a slice has not the length the shape asks for.
    pub fn exit(&mut self, served: &Served<'_>, k: usize, z: &[f32]) -> f32 {
        self.runner.exit(served.params, k, z, &mut self.outputs);
        let offset = self.shape.offset_at(served.offset, k);
        self.outputs.iter_mut().zip(offset).for_each(|(x, offset)| *x += offset);
        match self.shape.head {
            Head::Classify => {
                softmax(&mut self.outputs);
                self.outputs[argmax(&self.outputs)]
            }
            Head::Forecast { quantiles, .. } => {
                uncross(&mut self.outputs, quantiles.len());
                let steps = self.outputs.chunks_exact(quantiles.len());
                let median: Vec<f32> = steps.clone().map(|step| step[quantiles.median()]).collect();
                let moved = if k == 0 {
                    steps.map(|step| (step[step.len() - 1] - step[0]) / 2.0).fold(0.0, f32::max)
                } else {
                    furthest(&median, &self.median)
                };
                self.median = median;
                1.0 / (1.0 + moved)
            }
            Head::Anomaly => match served.alarms.get(k) {
                Some(&threshold) if threshold > 0.0 => {
                    let score = self.score();
                    1.0 - (score / threshold).min(threshold / score)
                }
                _ => 0.0,
            },
        }
    }

    /// The outputs of the last exit run: probabilities, or quantiles in order.
    pub fn outputs(&self) -> &[f32] {
        &self.outputs
    }

    /// The anomaly score of the last exit run.
    pub fn score(&self) -> f32 {
        anomaly_score(&self.outputs)
    }

    /// Runs all exits on one sample (`exits × features`) and appends how sure each is and whether its answer differs
    /// from the last exit's; of a forecast by more than `tolerance` at any step.
    pub fn trial(
        &mut self,
        served: &Served<'_>,
        row: &[f32],
        tolerance: f64,
        confidences: &mut Vec<f32>,
        differs: &mut Vec<bool>,
    ) {
        let mut answers: Vec<Vec<f32>> = Vec::with_capacity(self.shape.exits);
        for (k, z) in row.chunks_exact(self.shape.features).enumerate() {
            confidences.push(self.exit(served, k, z));
            answers.push(match self.shape.head {
                Head::Classify => vec![argmax(&self.outputs) as f32],
                Head::Forecast { .. } => self.median.clone(),
                Head::Anomaly => {
                    let threshold = served.alarms.get(k).copied().unwrap_or(NEVER);
                    vec![f32::from(u8::from(self.score() > threshold))]
                }
            });
        }
        let allowed = if matches!(self.shape.head, Head::Forecast { .. }) { tolerance as f32 } else { 0.5 };
        let Some(last) = answers.last() else { return };
        // Written so that a difference that is no number counts as one.
        differs.extend(answers.iter().map(|answer| {
            let near = answer.iter().zip(last).all(|(a, b)| (a - b).abs() <= allowed);
            !near
        }));
    }
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binomial::tests::most_breaks;
    use crate::calibrate::{CalibrationConfig, calibrate_exits};
    use crate::head::Quantiles;
    use crate::random::Random;
    use crate::shape::Recipe;

    fn shape(head: Head, outputs: usize) -> Shape {
        Shape { recipe: Recipe::Probe, head, exits: 2, features: 1, outputs }
    }

    fn trial(shape: Shape, served: &Served<'_>, row: &[f32], tolerance: f64) -> (Vec<f32>, Vec<bool>) {
        let (mut confidences, mut differs) = (Vec::new(), Vec::new());
        Decider::new(shape).trial(served, row, tolerance, &mut confidences, &mut differs);
        (confidences, differs)
    }

    #[test]
    fn classes_are_sure_of_their_top_probability() {
        let shape = shape(Head::Classify, 2);
        let params = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let served = Served { params: &params, offset: &[0.5, 0.0], alarms: &[] };
        let (confidences, differs) = trial(shape, &served, &[0.0, 2.0], 0.0);
        assert!((confidences[0] - 1.0 / (1.0 + (-0.5f32).exp())).abs() < 1e-6);
        assert!((confidences[1] - 1.0 / (1.0 + (-1.5f32).exp())).abs() < 1e-6);
        assert_eq!(differs, [true, false]);
    }

    #[test]
    fn forecasts_are_sure_when_the_median_stays() {
        let shape = shape(Head::Forecast { horizon: 1, quantiles: Quantiles::USUAL }, 3);
        // Crossed on purpose: quantiles are put in order, 0.4 is the median of the first exit.
        let params = [0.0, 0.0, 0.0, 1.0, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0, 0.45, 2.0];
        let offset = [0.0; 6];
        let served = Served { params: &params, offset: &offset, alarms: &[] };
        let (confidences, differs) = trial(shape, &served, &[1.0, 1.0], 0.1);
        assert!((confidences[0] - 1.0 / 1.4).abs() < 1e-6 && (confidences[1] - 1.0 / 1.05).abs() < 1e-6);
        assert_eq!(differs, [false, false]);
        assert_eq!(trial(shape, &served, &[1.0, 1.0], 0.01).1, [true, false]);
        // The shift is per exit.
        let offset = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
        let served = Served { offset: &offset, ..served };
        assert_eq!(trial(shape, &served, &[1.0, 1.0], 0.1).1, [true, false]);
    }

    #[test]
    fn alarms_are_sure_far_from_their_threshold() {
        let shape = shape(Head::Anomaly, 1);
        let params = [1.0, 0.0, 1.0, 0.0];
        let served = Served { params: &params, offset: &[], alarms: &[4.0, 1.0] };
        let (confidences, differs) = trial(shape, &served, &[1.0, 2.0], 0.0);
        assert_eq!((confidences, differs), (vec![0.75, 0.75], vec![true, false]));
        let off = Served { alarms: &[], ..served };
        assert_eq!(trial(shape, &off, &[1.0, 2.0], 0.0).0, [0.0, 0.0]);
    }

    /// Calibrates on `n` samples 500 times and counts how often more than the promised share of 20,000 further
    /// samples leaves early with another answer.
    fn broken(
        shape: Shape,
        served: &Served<'_>,
        draw: &dyn Fn(&mut Random) -> [f32; 2],
        n: usize,
    ) -> (usize, usize) {
        let config = CalibrationConfig { max_disagreement: 0.05, ..CalibrationConfig::default() };
        let mut random = Random::new(77);
        let mut run = |n: usize| {
            let (mut confidences, mut differs) = (Vec::new(), Vec::new());
            let mut decider = Decider::new(shape);
            for _ in 0..n {
                decider.trial(served, &draw(&mut random), config.tolerance, &mut confidences, &mut differs);
            }
            (confidences, differs)
        };
        let (all, differ) = run(20_000);
        let (mut broken, mut open) = (0, 0);
        for _ in 0..500 {
            let (confidences, differs) = run(n);
            let threshold = calibrate_exits(2, &confidences, &differs, config).expect("valid")[0];
            let early =
                all.chunks_exact(2).zip(differ.chunks_exact(2)).filter(|(c, d)| c[0] >= threshold && d[0]);
            broken += usize::from(early.count() > 1000);
            open += usize::from(threshold < NEVER);
        }
        (broken, open)
    }

    #[test]
    fn the_promise_of_early_exits_holds_for_every_kind_as_often_as_it_says() {
        let most = most_breaks(500, 0.05);
        // Classes by the sign of a number that the first exit sees through noise.
        let classify =
            Served { params: &[-2.0, 2.0, 0.0, 0.0, -2.0, 2.0, 0.0, 0.0], offset: &[0.0; 2], alarms: &[] };
        let noisy = |random: &mut Random| {
            let z = random.normal();
            [z + 0.5 * random.normal(), z]
        };
        let (found, open) = broken(shape(Head::Classify, 2), &classify, &noisy, 200);
        assert!(found <= most && open > 400, "classify: {found} broken, {open} open");
        // Alarms about the size of that number.
        let anomaly = Served { params: &[1.0, 0.0, 1.0, 0.0], offset: &[], alarms: &[1.5, 1.5] };
        let (found, open) = broken(shape(Head::Anomaly, 1), &anomaly, &noisy, 200);
        assert!(found <= most && open > 400, "anomaly: {found} broken, {open} open");
        // A forecast whose first exit is off by more than the tolerance the more often the wider it says.
        let head = Head::Forecast { horizon: 1, quantiles: Quantiles::USUAL };
        let forecast = Served {
            params: &[-0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 1.0],
            offset: &[0.0; 6],
            alarms: &[],
        };
        let drift = |random: &mut Random| {
            let width = random.uniform();
            [width, 0.12 * width * random.normal()]
        };
        let (found, open) = broken(shape(head, 3), &forecast, &drift, 200);
        assert!(found <= most && open > 100, "forecast: {found} broken, {open} open");
    }
}

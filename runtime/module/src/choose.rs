//! Whether the closed form or the trained module serves a task on this gateway.
//!
//! The rule: the trained module replaces the closed form only if its loss on the gateway's held-out samples is lower
//! by more than one standard error of the paired difference (the one-standard-error rule of Breiman et al. 1984,
//! "Classification and Regression Trees", §3.4.3, with the simpler module favoured). Losses are those of the last
//! exit; of an anomaly task, where a module's scale means nothing, the loss of a held-out anomaly is the share of
//! held-out normal samples that score above it, whose mean is 1 less the area under the ROC curve (DeLong et al.
//! 1988). With fewer than two losses nothing is proven and the closed form serves. Losses of overlapping windows say less
//! than their number: the error grows by the root of [`Chooser::overlapping`].

use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Target};
use crate::evaluate::EVAL_SLICE;
use crate::forward::forward;
use crate::head::{Head, anomaly_score};
use crate::loss::Objective;
use crate::shape::Shape;
use crate::sums::ANOMALOUS;

/// Who decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choose {
    /// Held-out samples, by the rule above.
    #[default]
    Auto,
    /// Always the closed form.
    Moments,
    /// Always the trained module.
    Trained,
}

/// What was decided, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Whether the trained module serves.
    pub trained: bool,
    /// Paired losses that decided; 0 where the manifest did.
    pub samples: u32,
    /// Mean loss of the closed form less that of the trained module.
    pub gain: f64,
    /// Standard error of that mean.
    pub error: f64,
}

/// Decides by paired losses of the same samples.
pub fn choose(closed: &[f64], trained: &[f64]) -> Choice {
    choose_overlapping(closed, trained, 1.0)
}

/// The same where so many losses say as much as one that is independent.
fn choose_overlapping(closed: &[f64], trained: &[f64], overlap: f64) -> Choice {
    let n = closed.len().min(trained.len());
    let differences = || closed.iter().zip(trained).map(|(a, b)| a - b);
    let mean = differences().sum::<f64>() / n.max(1) as f64;
    let spread = differences().map(|d| (d - mean) * (d - mean)).sum::<f64>();
    let error = if n < 2 { f64::INFINITY } else { (overlap * spread / ((n - 1) as f64 * n as f64)).sqrt() };
    let trained = mean.is_finite() && mean > error;
    // What is not a number does not travel as JSON.
    let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
    Choice { trained, samples: n as u32, gain: finite(mean), error: finite(error) }
}

/// The decision as a state machine, a slice of held-out samples per call.
#[derive(Clone, Debug)]
pub struct Chooser {
    shape: Shape,
    modules: [Vec<f32>; 2],
    heldout: Dataset,
    objective: Objective,
    offset: Vec<f32>,
    done: usize,
    figures: [Vec<f64>; 2],
    outputs: Vec<f32>,
    overlap: f64,
}

impl Chooser {
    /// Between `closed` and `trained`, flat parameters of one shape; `offset` (`outputs`, or empty) is added to the
    /// outputs of both.
    pub fn new(
        shape: Shape,
        closed: Vec<f32>,
        trained: Vec<f32>,
        heldout: Dataset,
        objective: Objective,
        offset: Vec<f32>,
    ) -> Self {
        let outputs = vec![0.0; shape.exits * shape.outputs];
        let (modules, figures) = ([closed, trained], [Vec::new(), Vec::new()]);
        Self { shape, modules, heldout, objective, offset, done: 0, figures, outputs, overlap: 1.0 }
    }

    /// So many held-out samples, at least 1, say as much as one that is independent.
    #[must_use]
    pub fn overlapping(mut self, overlap: f64) -> Self {
        self.overlap = overlap.max(1.0);
        self
    }

    /// Looks at more samples; the decision once all are done.
    pub fn step(&mut self) -> Option<Choice> {
        let end = self.heldout.n().min(self.done + EVAL_SLICE);
        let last = (self.shape.exits - 1) * self.shape.outputs;
        for i in self.done..end {
            let target = self.heldout.targets.at(i);
            for (params, figures) in self.modules.iter().zip(&mut self.figures) {
                forward(&self.shape, params, self.heldout.row(i), &mut self.outputs);
                let outputs = &mut self.outputs[last..];
                outputs.iter_mut().zip(&self.offset).for_each(|(x, offset)| *x += offset);
                figures.push(f64::from(if self.shape.head == Head::Anomaly {
                    anomaly_score(outputs)
                } else {
                    self.objective.weight(target) * self.objective.exit(&self.shape, outputs, target)
                }));
            }
        }
        self.done = end;
        (end == self.heldout.n()).then(|| {
            let [closed, trained] = [0, 1].map(|i| self.losses(&self.figures[i]));
            choose_overlapping(&closed, &trained, self.overlap)
        })
    }

    fn losses(&self, figures: &[f64]) -> Vec<f64> {
        if self.shape.head != Head::Anomaly {
            return figures.to_vec();
        }
        let anomalous = |i: usize| self.heldout.targets.at(i) == Target::Class(ANOMALOUS);
        let (found, normal): (Vec<usize>, Vec<usize>) = (0..figures.len()).partition(|&i| anomalous(i));
        if normal.is_empty() {
            return Vec::new();
        }
        let mut sorted: Vec<f64> = normal.iter().map(|&i| figures[i]).collect();
        sorted.sort_by(f64::total_cmp);
        let above = |score: f64| {
            let higher = sorted.len() - sorted.partition_point(|s| *s <= score);
            let equal = sorted.len() - higher - sorted.partition_point(|s| *s < score);
            (higher as f64 + equal as f64 / 2.0) / sorted.len() as f64
        };
        found.into_iter().map(|i| above(figures[i])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binomial::tests::most_breaks;
    use crate::random::Random;
    use crate::shape::Recipe;

    #[test]
    fn one_standard_error_decides() {
        // Differences 1, 2, 3: mean 2, standard error 1/√3.
        let choice = choose(&[2.0, 3.0, 4.0], &[1.0; 3]);
        assert!(choice.trained && (choice.gain - 2.0).abs() < 1e-12);
        assert!((choice.error - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        let overlapping = choose_overlapping(&[2.0, 3.0, 4.0], &[1.0; 3], 4.0);
        assert!(overlapping.trained && (overlapping.error - 2.0 * choice.error).abs() < 1e-12);
        assert!(!choose_overlapping(&[2.0, 3.0, 4.0], &[1.0; 3], 12.5).trained);
        // Differences −1, 1, 1: mean 1/3, standard error 2/3.
        assert!(!choose(&[0.0, 2.0, 2.0], &[1.0; 3]).trained);
        assert!(!choose(&[9.0], &[1.0]).trained && !choose(&[], &[]).trained);
        assert!(!choose(&[1.0; 9], &[1.0; 9]).trained, "of equals the simpler one");
        assert!(!choose(&[f64::NAN; 9], &[1.0; 9]).trained);
    }

    #[test]
    fn a_module_that_is_no_better_wins_about_once_in_six() {
        let (mut random, mut wrong) = (Random::new(2), 0);
        for _ in 0..600 {
            let mut draw = || (0..40).map(|_| f64::from(random.normal())).collect::<Vec<f64>>();
            wrong += usize::from(choose(&draw(), &draw()).trained);
        }
        // P(t₃₉ > 1) = 0.162.
        assert!(wrong <= most_breaks(600, 0.162), "{wrong} of 600");
    }

    fn decide(shape: Shape, closed: &[f32], trained: &[f32], heldout: &Dataset) -> Choice {
        let none = vec![0.0; shape.offset_len()];
        let (closed, trained) = (closed.to_vec(), trained.to_vec());
        let mut chooser = Chooser::new(shape, closed, trained, heldout.clone(), Objective::default(), none);
        loop {
            if let Some(choice) = chooser.step() {
                return choice;
            }
        }
    }

    #[test]
    fn classes_are_judged_by_their_loss() {
        let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
        let mut heldout = Dataset::default();
        let mut random = Random::new(1);
        for i in 0..100u16 {
            heldout.push(&[random.normal() + 2.0 * f32::from(i % 2)], i % 2);
        }
        let (good, none) = ([-1.0, 1.0, 1.0, -1.0], [0.0; 4]);
        let choice = decide(shape, &none, &good, &heldout);
        assert!(choice.trained && choice.samples == 100, "{choice:?}");
        assert!(!decide(shape, &good, &none, &heldout).trained);
    }

    #[test]
    fn anomalies_are_judged_by_rank_so_that_scale_means_nothing() {
        let shape = Shape { recipe: Recipe::Probe, head: Head::Anomaly, exits: 1, features: 2, outputs: 1 };
        let mut heldout = Dataset::default();
        let mut random = Random::new(1);
        for i in 0..100u16 {
            let anomalous = i % 5 == 0;
            heldout.push(
                &[random.normal(), random.normal() + if anomalous { 3.0 } else { 0.0 }],
                anomalous.into(),
            );
        }
        let (blind, sees) = ([1.0, 0.0, 0.0], [0.0, 50.0, 0.0]);
        let choice = decide(shape, &blind, &sees, &heldout);
        assert!(choice.trained && choice.samples == 20, "{choice:?}");
        assert!(!decide(shape, &sees, &[0.0, 0.01, 0.0], &heldout).trained, "the same in other units");
        let normal: Vec<usize> = (0..100).filter(|i| i % 5 != 0).collect();
        assert!(!decide(shape, &blind, &sees, &heldout.subset(&normal)).trained, "nothing to judge by");
    }
}

//! The losses: what an exit's outputs cost against a target, and their gradient by the outputs.

use serde::{Deserialize, Serialize};

use crate::data::Target;
use crate::head::{Head, anomaly_score};
use crate::shape::Shape;
use crate::sums::ANOMALOUS;

/// Width of the quadratic part of [`ForecastLoss::Huber`], in standard deviations of the window.
const HUBER: f32 = 0.25;
/// Keeps the inverse distance of an anomaly finite; the value of the authors' code of Deep SAD.
const EPSILON: f32 = 1e-6;

/// How a forecast is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForecastLoss {
    /// Of each quantile at level q: q (y − x)⁺ + (1 − q) (x − y)⁺ (Koenker & Bassett 1978, "Regression quantiles").
    #[default]
    Pinball,
    /// The same with a quadratic bottom of half-width 0.25 (Dabney et al. 2018, "Distributional reinforcement
    /// learning with quantile regression", eq. 10, divided by its width so that slopes are the pinball's). It draws
    /// the quantiles a little towards each other; smoother where targets are noisy.
    Huber,
}

/// What training minimizes, beside the shape's kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objective {
    /// Of a forecast.
    pub forecast: ForecastLoss,
    /// Weight of each class's samples of a classify task, above 0; empty weighs all alike.
    pub class_weights: Vec<f32>,
}

impl Objective {
    /// Weight of a sample, relative to the others.
    pub fn weight(&self, target: Target<'_>) -> f32 {
        match target {
            Target::Class(class) => self.class_weights.get(usize::from(class)).copied().unwrap_or(1.0),
            Target::Values(_) => 1.0,
        }
    }

    /// The loss of one exit; its outputs become the gradient.
    ///
    /// - classify: softmax cross-entropy, nats.
    /// - forecast: the mean over steps and quantiles of the pinball or Huber loss.
    /// - anomaly: the score s of a normal sample, 1 / (s + ε) of an anomalous one: Deep SAD with a linear map, the
    ///   centre at the origin and η = 1 (Ruff et al. 2020, "Deep Semi-Supervised Anomaly Detection", eq. 9).
    ///
    /// # Panics
    /// If the target is not of the shape's kind.
    pub fn exit(&self, shape: &Shape, outputs: &mut [f32], target: Target<'_>) -> f32 {
        match (shape.head, target) {
            (Head::Classify, Target::Class(class)) => cross_entropy(outputs, usize::from(class)),
            (Head::Anomaly, Target::Class(class)) => deep_sad(outputs, class == ANOMALOUS),
            (Head::Forecast { quantiles, .. }, Target::Values(values)) => {
                let mut levels = [0.0; crate::head::MAX_QUANTILES];
                for (level, q) in levels.iter_mut().zip(quantiles.levels()) {
                    *level = q as f32;
                }
                self.quantiles(outputs, values, &levels[..quantiles.len()])
            }
            _ => panic!("a target of another kind than the module's"),
        }
    }

    fn quantiles(&self, outputs: &mut [f32], values: &[f32], levels: &[f32]) -> f32 {
        let share = 1.0 / outputs.len() as f32;
        let mut loss = 0.0;
        for (outputs, &y) in outputs.chunks_exact_mut(levels.len()).zip(values) {
            for (x, &q) in outputs.iter_mut().zip(levels) {
                let error = y - *x;
                let side = if error >= 0.0 { q } else { q - 1.0 };
                let (value, slope) = match self.forecast {
                    ForecastLoss::Huber if error.abs() < HUBER => {
                        (side * error * error.abs() / (2.0 * HUBER), side * error.abs() / HUBER)
                    }
                    ForecastLoss::Huber => (side * (error - error.signum() * HUBER / 2.0), side),
                    ForecastLoss::Pinball => (side * error, side),
                };
                loss += value * share;
                *x = -slope * share;
            }
        }
        loss
    }
}

/// −log softmax(logits)[label]; the logits become the gradient softmax − onehot.
pub(crate) fn cross_entropy(logits: &mut [f32], label: usize) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let own = logits[label] - top;
    let mut total = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - top).exp();
        total += *x;
    }
    for x in logits.iter_mut() {
        *x /= total;
    }
    logits[label] -= 1.0;
    total.ln() - own
}

fn deep_sad(outputs: &mut [f32], anomalous: bool) -> f32 {
    let score = anomaly_score(outputs);
    let (loss, slope) = if anomalous {
        let inverse = 1.0 / (score + EPSILON);
        (inverse, -inverse * inverse)
    } else {
        (score, 1.0)
    };
    let scale = slope * 2.0 / outputs.len() as f32;
    for x in outputs.iter_mut() {
        *x *= scale;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Quantiles;
    use crate::shape::Recipe;

    fn shape(head: Head, outputs: usize) -> Shape {
        Shape { recipe: Recipe::Probe, head, exits: 1, features: 6, outputs }
    }

    #[test]
    fn losses_are_what_the_formulas_say() {
        let objective = Objective::default();
        let forecast = shape(Head::Forecast { horizon: 2, quantiles: Quantiles::USUAL }, 6);
        let mut outputs = [0.0, 1.0, 2.0, 1.0, 1.0, 1.0];
        let loss = objective.exit(&forecast, &mut outputs, Target::Values(&[1.5, 0.0]));
        // 0.1·1.5 + 0.5·0.5 + 0.1·0.5, then 0.9·1 + 0.5·1 + 0.1·1, over six.
        assert!((loss - (0.15 + 0.25 + 0.05 + 0.9 + 0.5 + 0.1) / 6.0).abs() < 1e-6, "{loss}");
        let slopes: Vec<f32> = outputs.iter().map(|x| x * 6.0).collect();
        for (got, want) in slopes.iter().zip([-0.1, -0.5, 0.1, 0.9, 0.5, 0.1]) {
            assert!((got - want).abs() < 1e-6, "{slopes:?}");
        }
        let huber = Objective { forecast: ForecastLoss::Huber, ..Objective::default() };
        let median = shape(Head::Forecast { horizon: 1, quantiles: Quantiles::MEDIAN }, 1);
        for (error, want) in [(0.1f32, 0.5 * 0.01 / 0.5), (-1.0, 0.5 * (1.0 - 0.125)), (0.25, 0.5 * 0.125)] {
            let loss = huber.exit(&median, &mut [0.0], Target::Values(&[error]));
            assert!((loss - want).abs() < 1e-6, "{error}: {loss} {want}");
        }
        let anomaly = shape(Head::Anomaly, 2);
        let mut outputs = [1.0, 3.0];
        assert!((objective.exit(&anomaly, &mut outputs, Target::Class(0)) - 5.0).abs() < 1e-6);
        assert_eq!(outputs, [1.0, 3.0]);
        let loss = objective.exit(&anomaly, &mut [1.0, 3.0], Target::Class(ANOMALOUS));
        assert!((loss - 0.2).abs() < 1e-6);
    }

    #[test]
    fn class_weights_are_per_class() {
        let objective = Objective { class_weights: vec![1.0, 4.0], ..Objective::default() };
        assert_eq!([0, 1, 2].map(|class| objective.weight(Target::Class(class))), [1.0, 4.0, 1.0]);
        assert!((objective.weight(Target::Values(&[])) - 1.0).abs() < 1e-9);
    }
}

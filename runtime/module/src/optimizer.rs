//! `AdamW`.

use std::ops::Range;

use crate::shape::Shape;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization",
/// algorithm 2). Decay applies to weight matrices only, never to biases or gates.
#[derive(Clone, Debug)]
pub struct AdamW {
    first: Vec<f32>,
    second: Vec<f32>,
    decayed: Vec<Range<usize>>,
    weight_decay: f32,
    steps: i32,
}

impl AdamW {
    /// A fresh optimizer for modules of `shape`; `weight_decay` is multiplied by the learning rate of a step.
    pub fn new(shape: &Shape, weight_decay: f32) -> Self {
        let n = shape.parameters();
        let decayed =
            shape.tensors().into_iter().filter(|spec| spec.dims.len() == 2).map(|spec| spec.range).collect();
        Self { first: vec![0.0; n], second: vec![0.0; n], decayed, weight_decay, steps: 0 }
    }

    /// Moves `params` against `grad`.
    ///
    /// # Panics
    /// If a slice has not the length of the shape's parameters.
    pub fn step(&mut self, params: &mut [f32], grad: &[f32], learning_rate: f32) {
        assert_eq!(params.len(), self.first.len(), "parameters of another shape");
        assert_eq!(grad.len(), self.first.len(), "gradient of another shape");
        self.steps = self.steps.saturating_add(1);
        let keep = 1.0 - learning_rate * self.weight_decay;
        for range in &self.decayed {
            for p in &mut params[range.clone()] {
                *p *= keep;
            }
        }
        let correct1 = 1.0 / (1.0 - BETA1.powi(self.steps));
        let correct2 = 1.0 / (1.0 - BETA2.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((p, g), (m, v)) in params.iter_mut().zip(grad).zip(moments) {
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            *p -= learning_rate * (*m * correct1) / ((*v * correct2).sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Head;
    use crate::shape::Recipe;

    #[test]
    fn the_first_step_has_the_learning_rate_as_length_and_decays_only_weights() {
        let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 1, outputs: 2 };
        let mut params = vec![1.0; 4];
        AdamW::new(&shape, 0.5).step(&mut params, &[2.0, -3.0, 0.0, 1.0], 0.1);
        // Weights 0..2 are first multiplied by 1 − 0.1·0.5; biases 2..4 are not.
        for (p, want) in params.iter().zip([0.85, 1.05, 1.0, 0.9]) {
            assert!((p - want).abs() < 1e-6, "{params:?}");
        }
    }
}

//! Evaluation, one exit after the other.

use crate::linear::{affine, sigmoid};
use crate::shape::{Recipe, Shape};

/// Evaluates exits in order, so a caller can stop after any of them; holds the ladder's running state.
#[derive(Clone, Debug)]
pub struct Runner {
    shape: Shape,
    state: Vec<f32>,
    inner: Vec<f32>,
    next: usize,
}

impl Runner {
    /// A runner for modules of `shape`.
    pub fn new(shape: Shape) -> Self {
        let rank = shape.recipe.rank();
        Self { shape, state: vec![0.0; rank], inner: vec![0.0; rank], next: 0 }
    }

    /// Logits of exit `k`, counted from 0, for its features `z`; `k == 0` begins a new sample.
    ///
    /// # Panics
    /// If exits are not taken in order, or a slice has not the length the shape asks for.
    pub fn exit(&mut self, params: &[f32], k: usize, z: &[f32], logits: &mut [f32]) {
        let shape = &self.shape;
        assert!(k < shape.exits && (k == 0 || k == self.next), "exit {k} out of order");
        assert_eq!(params.len(), shape.parameters(), "parameters of another shape");
        assert_eq!(z.len(), shape.features, "features of another shape");
        assert_eq!(logits.len(), shape.outputs, "logits of another shape");
        self.next = k + 1;
        advance(shape, params, k, z, &mut self.inner, &mut self.state);
        let at = shape.layout(k);
        let input = if self.state.is_empty() { z } else { &self.state };
        affine(&params[at.weight..at.bias], &params[at.bias..at.bias + shape.outputs], input, logits);
    }
}

/// Moves the running state to exit `k`: s₀ = a₀, s_k = σ(g_k) ⊙ s_{k−1} + (1 − σ(g_k)) ⊙ a_k, with a_k = W_k z_k +
/// b_k left in `inner`. Nothing happens for the linear recipes.
pub(crate) fn advance(
    shape: &Shape,
    params: &[f32],
    k: usize,
    z: &[f32],
    inner: &mut [f32],
    state: &mut [f32],
) {
    let Recipe::Ladder { rank } = shape.recipe else { return };
    let at = shape.layout(k);
    affine(&params[at.down..at.down_bias], &params[at.down_bias..at.down_bias + rank], z, inner);
    if k == 0 {
        state.copy_from_slice(inner);
    } else {
        let gates = &params[at.gate..at.gate + rank];
        for ((state, inner), gate) in state.iter_mut().zip(inner.iter()).zip(gates) {
            let open = sigmoid(*gate);
            *state = open * *state + (1.0 - open) * inner;
        }
    }
}

/// Logits of all exits (`exits × outputs`) for one sample's features (`exits × features`).
///
/// # Panics
/// If a slice has not the length the shape asks for.
pub fn forward(shape: &Shape, params: &[f32], z: &[f32], logits: &mut [f32]) {
    assert_eq!(z.len(), shape.exits * shape.features, "features of another shape");
    assert_eq!(logits.len(), shape.exits * shape.outputs, "logits of another shape");
    let mut runner = Runner::new(*shape);
    let rows = z.chunks_exact(shape.features).zip(logits.chunks_exact_mut(shape.outputs));
    for (k, (z, logits)) in rows.enumerate() {
        runner.exit(params, k, z, logits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Head;

    #[test]
    fn an_early_exit_gives_what_the_whole_pass_gives() {
        let shape = Shape {
            recipe: Recipe::Ladder { rank: 3 },
            head: Head::Classify,
            exits: 3,
            features: 9,
            outputs: 4,
        };
        let params = shape.initial(5);
        let z: Vec<f32> = (0..27).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut all = vec![0.0; 12];
        forward(&shape, &params, &z, &mut all);
        let mut runner = Runner::new(shape);
        let mut one = vec![0.0; 4];
        // A second sample begun after an abandoned one sees nothing of it.
        runner.exit(&params, 0, &z[9..18], &mut one);
        for k in 0..2 {
            runner.exit(&params, k, &z[k * 9..(k + 1) * 9], &mut one);
            assert_eq!(one, all[k * 4..(k + 1) * 4]);
        }
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn exits_are_taken_in_order() {
        let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 3, features: 2, outputs: 2 };
        let mut runner = Runner::new(shape);
        runner.exit(&shape.initial(0), 1, &[0.0; 2], &mut [0.0; 2]);
    }
}

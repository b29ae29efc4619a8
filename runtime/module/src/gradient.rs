//! Loss and gradient over a batch of cached features.

use crate::data::{Target, Targets};
use crate::forward::advance;
use crate::linear::{add_outer, add_transposed, affine, sigmoid};
use crate::loss::Objective;
use crate::shape::{Recipe, Shape};

/// Samples a step looks at. All slices are the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Features, `n × exits × features`.
    pub z: &'a [f32],
    /// Targets, `n`.
    pub targets: &'a Targets,
    /// What is minimized.
    pub objective: &'a Objective,
    /// Added to every exit's outputs, `outputs`: the gateway's log prior, or zeros.
    pub offset: &'a [f32],
    /// Weight of each sample beside that of its class, `n`; `None` weighs all alike. The total must be above 0.
    pub weights: Option<&'a [f32]>,
}

/// Working memory of [`loss_and_gradient`], reused from step to step.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// a_k of every exit, `exits × rank`.
    inner: Vec<f32>,
    /// s_k of every exit, `exits × rank`.
    state: Vec<f32>,
    /// Outputs, then their gradient, `exits × outputs`.
    outputs: Vec<f32>,
    /// Gradient by the running state, `rank`.
    back: Vec<f32>,
    /// Gradient by a_k, `rank`.
    back_inner: Vec<f32>,
}

impl Scratch {
    /// Memory for modules of `shape`.
    pub fn new(shape: &Shape) -> Self {
        let rank = shape.recipe.rank();
        Self {
            inner: vec![0.0; shape.exits * rank],
            state: vec![0.0; shape.exits * rank],
            outputs: vec![0.0; shape.exits * shape.outputs],
            back: vec![0.0; rank],
            back_inner: vec![0.0; rank],
        }
    }
}

/// Weighted mean over the batch of the sum over exits of the [`Objective`]'s loss; `grad` is overwritten with its
/// gradient by the parameters.
///
/// # Panics
/// If the batch is empty, a slice has not the length the shape asks for, or a target is not of the shape's kind.
pub fn loss_and_gradient(
    shape: &Shape,
    params: &[f32],
    batch: Batch<'_>,
    grad: &mut [f32],
    scratch: &mut Scratch,
) -> f32 {
    let n = batch.targets.n();
    let row = shape.exits * shape.features;
    assert!(n > 0, "empty batch");
    assert_eq!(params.len(), shape.parameters(), "parameters of another shape");
    assert_eq!(grad.len(), params.len(), "gradient of another shape");
    assert_eq!(batch.z.len(), n * row, "features of another shape");
    assert_eq!(batch.offset.len(), shape.outputs, "offset of another shape");
    assert!(batch.weights.is_none_or(|weights| weights.len() == n), "one weight per sample");
    grad.fill(0.0);
    let weight = |i: usize| {
        batch.weights.map_or(1.0, |weights| weights[i]) * batch.objective.weight(batch.targets.at(i))
    };
    let total: f32 = (0..n).map(weight).sum();
    let mut loss = 0.0;
    for (i, z) in batch.z.chunks_exact(row).enumerate() {
        let weight = weight(i) / total;
        loss += weight * sample_loss(shape, params, z, &batch, batch.targets.at(i), weight, scratch);
        backward(shape, params, z, grad, scratch);
    }
    loss
}

/// The sample's unweighted loss; leaves in `scratch` the activations and the weighted gradient by the outputs.
fn sample_loss(
    shape: &Shape,
    params: &[f32],
    z: &[f32],
    batch: &Batch<'_>,
    target: Target<'_>,
    weight: f32,
    scratch: &mut Scratch,
) -> f32 {
    let rank = shape.recipe.rank();
    let mut loss = 0.0;
    for k in 0..shape.exits {
        let at = shape.layout(k);
        let z = &z[k * shape.features..(k + 1) * shape.features];
        let (before, from_here) = scratch.state.split_at_mut(k * rank);
        let state = &mut from_here[..rank];
        if k > 0 {
            state.copy_from_slice(&before[(k - 1) * rank..]);
        }
        advance(shape, params, k, z, &mut scratch.inner[k * rank..(k + 1) * rank], state);
        let input = if rank == 0 { z } else { &*state };
        let outputs = &mut scratch.outputs[k * shape.outputs..(k + 1) * shape.outputs];
        affine(&params[at.weight..at.bias], &params[at.bias..at.bias + shape.outputs], input, outputs);
        for (output, offset) in outputs.iter_mut().zip(batch.offset) {
            *output += offset;
        }
        loss += batch.objective.exit(shape, outputs, target);
        for output in outputs.iter_mut() {
            *output *= weight;
        }
    }
    loss
}

fn backward(shape: &Shape, params: &[f32], z: &[f32], grad: &mut [f32], scratch: &mut Scratch) {
    let (d, outputs) = (shape.features, shape.outputs);
    scratch.back.fill(0.0);
    for k in (0..shape.exits).rev() {
        let at = shape.layout(k);
        let z = &z[k * d..(k + 1) * d];
        let delta = &scratch.outputs[k * outputs..(k + 1) * outputs];
        for (grad, delta) in grad[at.bias..at.bias + outputs].iter_mut().zip(delta) {
            *grad += delta;
        }
        let Recipe::Ladder { rank } = shape.recipe else {
            add_outer(delta, z, &mut grad[at.weight..at.bias]);
            continue;
        };
        let state = &scratch.state[k * rank..(k + 1) * rank];
        add_outer(delta, state, &mut grad[at.weight..at.bias]);
        add_transposed(&params[at.weight..at.bias], delta, &mut scratch.back);
        scratch.back_inner.copy_from_slice(&scratch.back);
        if k > 0 {
            let shallower = &scratch.state[(k - 1) * rank..k * rank];
            for j in 0..rank {
                let open = sigmoid(params[at.gate + j]);
                let back = scratch.back[j];
                grad[at.gate + j] +=
                    back * (shallower[j] - scratch.inner[k * rank + j]) * open * (1.0 - open);
                scratch.back_inner[j] = back * (1.0 - open);
                scratch.back[j] = back * open;
            }
        }
        for (grad, back) in grad[at.down_bias..at.down_bias + rank].iter_mut().zip(&scratch.back_inner) {
            *grad += back;
        }
        add_outer(&scratch.back_inner, z, &mut grad[at.down..at.down_bias]);
    }
}

#[cfg(test)]
mod tests;

//! Loss and gradient over a batch of cached features.

use crate::forward::advance;
use crate::linear::{add_outer, add_transposed, affine, sigmoid};
use crate::shape::{Recipe, Shape};

/// Samples a step looks at. All slices are the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Features, `n × exits × features`.
    pub z: &'a [f32],
    /// Classes, `n`.
    pub labels: &'a [u16],
    /// Added to every exit's logits before the softmax, `outputs`: the gateway's log prior, or zeros.
    pub offset: &'a [f32],
    /// Weight of each sample, `n`; `None` weighs all alike. The total must be above 0.
    pub weights: Option<&'a [f32]>,
}

/// Working memory of [`loss_and_gradient`], reused from step to step.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// a_k of every exit, `exits × rank`.
    inner: Vec<f32>,
    /// s_k of every exit, `exits × rank`.
    state: Vec<f32>,
    /// Logits, then their gradient, `exits × outputs`.
    logits: Vec<f32>,
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
            logits: vec![0.0; shape.exits * shape.outputs],
            back: vec![0.0; rank],
            back_inner: vec![0.0; rank],
        }
    }
}

/// Mean over the batch of the sum over exits of the softmax cross-entropy, in nats; `grad` is overwritten with
/// its gradient by the parameters.
///
/// # Panics
/// If the batch is empty, a slice has not the length the shape asks for, or a label is not below `outputs`.
pub fn loss_and_gradient(
    shape: &Shape,
    params: &[f32],
    batch: Batch<'_>,
    grad: &mut [f32],
    scratch: &mut Scratch,
) -> f32 {
    let n = batch.labels.len();
    let row = shape.exits * shape.features;
    assert!(n > 0, "empty batch");
    assert_eq!(params.len(), shape.parameters(), "parameters of another shape");
    assert_eq!(grad.len(), params.len(), "gradient of another shape");
    assert_eq!(batch.z.len(), n * row, "features of another shape");
    assert_eq!(batch.offset.len(), shape.outputs, "offset of another shape");
    assert!(batch.weights.is_none_or(|weights| weights.len() == n), "one weight per sample");
    grad.fill(0.0);
    let total = batch.weights.map_or(n as f32, |weights| weights.iter().sum());
    let mut loss = 0.0;
    for (i, (z, &label)) in batch.z.chunks_exact(row).zip(batch.labels).enumerate() {
        let weight = batch.weights.map_or(1.0, |weights| weights[i]) / total;
        loss += weight * sample_loss(shape, params, z, usize::from(label), batch.offset, weight, scratch);
        backward(shape, params, z, grad, scratch);
    }
    loss
}

/// The sample's unweighted loss; leaves in `scratch` the activations and the weighted gradient by the logits.
fn sample_loss(
    shape: &Shape,
    params: &[f32],
    z: &[f32],
    label: usize,
    offset: &[f32],
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
        let logits = &mut scratch.logits[k * shape.outputs..(k + 1) * shape.outputs];
        affine(&params[at.weight..at.bias], &params[at.bias..at.bias + shape.outputs], input, logits);
        for (logit, offset) in logits.iter_mut().zip(offset) {
            *logit += offset;
        }
        loss += cross_entropy(logits, label);
        for logit in logits.iter_mut() {
            *logit *= weight;
        }
    }
    loss
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

fn backward(shape: &Shape, params: &[f32], z: &[f32], grad: &mut [f32], scratch: &mut Scratch) {
    let (d, outputs) = (shape.features, shape.outputs);
    scratch.back.fill(0.0);
    for k in (0..shape.exits).rev() {
        let at = shape.layout(k);
        let z = &z[k * d..(k + 1) * d];
        let delta = &scratch.logits[k * outputs..(k + 1) * outputs];
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
mod tests {
    use super::*;
    use crate::head::Head;
    use crate::random::Random;

    /// The loss again, in f64 and written the plain way, so that a finite difference is not drowned in f32
    /// rounding.
    fn reference_loss(shape: &Shape, params: &[f64], batch: Batch<'_>) -> f64 {
        let (d, c, r) = (shape.features, shape.outputs, shape.recipe.rank());
        let total: f64 = batch.weights.expect("weighted").iter().map(|w| f64::from(*w)).sum();
        let mut loss = 0.0;
        for (i, &label) in batch.labels.iter().enumerate() {
            let mut state = vec![0.0; r];
            for k in 0..shape.exits {
                let at = shape.layout(k);
                let z: Vec<f64> = (0..d).map(|j| f64::from(batch.z[(i * shape.exits + k) * d + j])).collect();
                for u in 0..r {
                    let a = (0..d).map(|j| params[at.down + u * d + j] * z[j]).sum::<f64>()
                        + params[at.down_bias + u];
                    let open = if k == 0 { 0.0 } else { 1.0 / (1.0 + (-params[at.gate + u]).exp()) };
                    state[u] = open * state[u] + (1.0 - open) * a;
                }
                let x = if r == 0 { &z } else { &state };
                let logits: Vec<f64> = (0..c)
                    .map(|o| {
                        (0..x.len()).map(|j| params[at.weight + o * x.len() + j] * x[j]).sum::<f64>()
                            + params[at.bias + o]
                            + f64::from(batch.offset[o])
                    })
                    .collect();
                let log_total = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
                let weight = f64::from(batch.weights.expect("weighted")[i]) / total;
                loss += weight * (log_total - logits[usize::from(label)]);
            }
        }
        loss
    }

    fn check_every_tensor(shape: Shape) {
        let mut random = Random::new(11);
        let params: Vec<f32> = (0..shape.parameters()).map(|_| 0.4 * random.normal()).collect();
        let n = 6;
        let z: Vec<f32> = (0..n * shape.exits * shape.features).map(|_| random.normal()).collect();
        let labels: Vec<u16> = (0..n).map(|_| random.below(shape.outputs) as u16).collect();
        let offset: Vec<f32> = (0..shape.outputs).map(|_| random.normal()).collect();
        let weights: Vec<f32> = (0..n).map(|_| 0.5 + random.uniform()).collect();
        let batch = Batch { z: &z, labels: &labels, offset: &offset, weights: Some(&weights) };
        let mut grad = vec![f32::NAN; params.len()];
        let loss = loss_and_gradient(&shape, &params, batch, &mut grad, &mut Scratch::new(&shape));
        let mut wide: Vec<f64> = params.iter().map(|&p| f64::from(p)).collect();
        assert!((f64::from(loss) - reference_loss(&shape, &wide, batch)).abs() < 1e-5);
        for spec in shape.tensors() {
            let mut norm = 0.0f64;
            for i in spec.range {
                let (middle, h) = (wide[i], 1e-5);
                wide[i] = middle + h;
                let up = reference_loss(&shape, &wide, batch);
                wide[i] = middle - h;
                let down = reference_loss(&shape, &wide, batch);
                wide[i] = middle;
                let numeric = (up - down) / (2.0 * h);
                let error = (numeric - f64::from(grad[i])).abs();
                assert!(error < 2e-6 + 1e-4 * numeric.abs(), "{} {i}: {numeric} {}", spec.name, grad[i]);
                norm += numeric * numeric;
            }
            assert!(norm > 1e-6, "{} is not exercised", spec.name);
        }
    }

    #[test]
    fn probe_gradient_agrees_with_finite_differences_in_every_tensor() {
        check_every_tensor(Shape {
            recipe: Recipe::Probe,
            head: Head::Classify,
            exits: 2,
            features: 11,
            outputs: 3,
        });
    }

    #[test]
    fn ladder_gradient_agrees_with_finite_differences_in_every_tensor() {
        check_every_tensor(Shape {
            recipe: Recipe::Ladder { rank: 3 },
            head: Head::Classify,
            exits: 3,
            features: 9,
            outputs: 4,
        });
    }

    #[test]
    fn a_weight_of_two_equals_the_sample_twice() {
        let shape = Shape {
            recipe: Recipe::Ladder { rank: 2 },
            head: Head::Classify,
            exits: 2,
            features: 3,
            outputs: 2,
        };
        let params = shape.initial(1);
        let z: Vec<f32> = (0..12).map(|i| i as f32 / 6.0 - 1.0).collect();
        let offset = [0.1, -0.2];
        let mut scratch = Scratch::new(&shape);
        let mut weighted = vec![0.0; params.len()];
        let batch = Batch { z: &z, labels: &[0, 1], offset: &offset, weights: Some(&[2.0, 1.0]) };
        let a = loss_and_gradient(&shape, &params, batch, &mut weighted, &mut scratch);
        let thrice: Vec<f32> = z[..6].iter().chain(&z).copied().collect();
        let mut repeated = vec![0.0; params.len()];
        let batch = Batch { z: &thrice, labels: &[0, 0, 1], offset: &offset, weights: None };
        let b = loss_and_gradient(&shape, &params, batch, &mut repeated, &mut scratch);
        assert!((a - b).abs() < 1e-6);
        assert!(weighted.iter().zip(&repeated).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

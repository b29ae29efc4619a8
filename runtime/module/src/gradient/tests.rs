use super::*;
use crate::head::{Head, Quantiles};
use crate::loss::ForecastLoss;
use crate::random::Random;

/// The loss of one exit again, in f64 and written the plain way.
fn reference_exit(shape: &Shape, objective: &Objective, out: &[f64], target: Target<'_>) -> f64 {
    match (shape.head, target) {
        (Head::Classify, Target::Class(class)) => {
            out.iter().map(|l| l.exp()).sum::<f64>().ln() - out[usize::from(class)]
        }
        (Head::Anomaly, Target::Class(class)) => {
            let score = out.iter().map(|x| x * x).sum::<f64>() / out.len() as f64;
            if class == 1 { 1.0 / (score + 1e-6) } else { score }
        }
        (Head::Forecast { quantiles, .. }, Target::Values(values)) => {
            let levels: Vec<f64> = quantiles.levels().collect();
            let each = out.iter().enumerate().map(|(i, x)| {
                let error = f64::from(values[i / levels.len()]) - x;
                let side =
                    if error >= 0.0 { levels[i % levels.len()] } else { 1.0 - levels[i % levels.len()] };
                let size = error.abs();
                match objective.forecast {
                    ForecastLoss::Pinball => side * size,
                    ForecastLoss::Huber if size < 0.25 => side * size * size / 0.5,
                    ForecastLoss::Huber => side * (size - 0.125),
                }
            });
            each.sum::<f64>() / out.len() as f64
        }
        _ => panic!("kinds differ"),
    }
}

/// The whole loss, in f64, so that a finite difference is not drowned in f32 rounding.
fn reference_loss(shape: &Shape, params: &[f64], batch: Batch<'_>) -> f64 {
    let (d, c, r) = (shape.features, shape.outputs, shape.recipe.rank());
    let weight = |i: usize| {
        f64::from(batch.weights.expect("weighted")[i])
            * f64::from(batch.objective.weight(batch.targets.at(i)))
    };
    let total: f64 = (0..batch.targets.n()).map(weight).sum();
    let mut loss = 0.0;
    for i in 0..batch.targets.n() {
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
            let out: Vec<f64> = (0..c)
                .map(|o| {
                    (0..x.len()).map(|j| params[at.weight + o * x.len() + j] * x[j]).sum::<f64>()
                        + params[at.bias + o]
                        + f64::from(batch.offset[o])
                })
                .collect();
            loss += weight(i) / total * reference_exit(shape, batch.objective, &out, batch.targets.at(i));
        }
    }
    loss
}

fn check_every_tensor(shape: Shape, objective: &Objective) {
    let mut random = Random::new(11);
    let params: Vec<f32> = (0..shape.parameters()).map(|_| 0.4 * random.normal()).collect();
    let n = 6;
    let z: Vec<f32> = (0..n * shape.exits * shape.features).map(|_| random.normal()).collect();
    let mut targets = Targets::default();
    for i in 0..n {
        match shape.head {
            Head::Classify => targets.push(Target::Class(random.below(shape.outputs) as u16)),
            Head::Anomaly => targets.push(Target::Class((i % 3 == 0).into())),
            Head::Forecast { horizon, .. } => {
                let y: Vec<f32> = (0..horizon).map(|_| random.normal()).collect();
                targets.push(Target::Values(&y));
            }
        }
    }
    let offset: Vec<f32> = (0..shape.outputs).map(|_| random.normal()).collect();
    let weights: Vec<f32> = (0..n).map(|_| 0.5 + random.uniform()).collect();
    let batch = Batch { z: &z, targets: &targets, objective, offset: &offset, weights: Some(&weights) };
    let mut grad = vec![f32::NAN; params.len()];
    let loss = loss_and_gradient(&shape, &params, batch, &mut grad, &mut Scratch::new(&shape));
    let mut wide: Vec<f64> = params.iter().map(|&p| f64::from(p)).collect();
    let reference = reference_loss(&shape, &wide, batch);
    assert!((f64::from(loss) - reference).abs() < 1e-5 * reference.abs().max(1.0), "{loss} {reference}");
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

fn classify(recipe: Recipe, exits: usize, features: usize, outputs: usize) -> Shape {
    Shape { recipe, head: Head::Classify, exits, features, outputs }
}

#[test]
fn probe_gradient_agrees_with_finite_differences_in_every_tensor() {
    check_every_tensor(classify(Recipe::Probe, 2, 11, 3), &Objective::default());
}

#[test]
fn ladder_gradient_agrees_with_finite_differences_in_every_tensor() {
    check_every_tensor(classify(Recipe::Ladder { rank: 3 }, 3, 9, 4), &Objective::default());
}

#[test]
fn weighted_classes_agree_with_finite_differences_in_every_tensor() {
    let objective = Objective { class_weights: vec![0.5, 3.0, 1.0], ..Objective::default() };
    check_every_tensor(classify(Recipe::Ladder { rank: 3 }, 2, 9, 3), &objective);
}

#[test]
fn forecasts_agree_with_finite_differences_in_every_tensor() {
    let head = Head::Forecast { horizon: 4, quantiles: Quantiles::USUAL };
    for forecast in [ForecastLoss::Pinball, ForecastLoss::Huber] {
        let objective = Objective { forecast, ..Objective::default() };
        for recipe in [Recipe::Probe, Recipe::Ladder { rank: 3 }] {
            check_every_tensor(Shape { recipe, head, exits: 3, features: 7, outputs: 12 }, &objective);
        }
    }
}

#[test]
fn deep_sad_agrees_with_finite_differences_in_every_tensor() {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Anomaly, exits: 2, features: 9, outputs: 4 };
    check_every_tensor(shape, &Objective::default());
}

#[test]
fn a_weight_of_two_equals_the_sample_twice() {
    let shape = classify(Recipe::Ladder { rank: 2 }, 2, 3, 2);
    let params = shape.initial(1);
    let z: Vec<f32> = (0..12).map(|i| i as f32 / 6.0 - 1.0).collect();
    let (offset, objective) = ([0.1, -0.2], Objective::default());
    let mut scratch = Scratch::new(&shape);
    let mut weighted = vec![0.0; params.len()];
    let targets = Targets::Classes(vec![0, 1]);
    let batch = Batch {
        z: &z,
        targets: &targets,
        objective: &objective,
        offset: &offset,
        weights: Some(&[2.0, 1.0]),
    };
    let a = loss_and_gradient(&shape, &params, batch, &mut weighted, &mut scratch);
    let thrice: Vec<f32> = z[..6].iter().chain(&z).copied().collect();
    let mut repeated = vec![0.0; params.len()];
    let targets = Targets::Classes(vec![0, 0, 1]);
    let batch =
        Batch { z: &thrice, targets: &targets, objective: &objective, offset: &offset, weights: None };
    let b = loss_and_gradient(&shape, &params, batch, &mut repeated, &mut scratch);
    assert!((a - b).abs() < 1e-6);
    assert!(weighted.iter().zip(&repeated).all(|(a, b)| (a - b).abs() < 1e-6));
    // The same by the weight of its class.
    let objective = Objective { class_weights: vec![2.0, 1.0], ..objective };
    let targets = Targets::Classes(vec![0, 1]);
    let batch = Batch { z: &z, targets: &targets, objective: &objective, offset: &offset, weights: None };
    let c = loss_and_gradient(&shape, &params, batch, &mut repeated, &mut scratch);
    assert!((a - c).abs() < 1e-6 && weighted.iter().zip(&repeated).all(|(a, b)| (a - b).abs() < 1e-6));
}

use super::*;
use crate::head::Head;
use crate::random::Random;
use crate::shape::{Recipe, Shape};
use crate::sums::quantize_all;
use crate::{argmax, forward};

/// Gaussian classes on a line with correlated features.
pub(crate) fn gaussian_sums(exits: usize, d: usize, outputs: usize, per_class: usize, skip: &[u16]) -> Sums {
    let mut sums = Sums::zero(exits, d, outputs).expect("within limits");
    let mut random = Random::new(9);
    let mut q = vec![0; exits * d];
    for label in (0..outputs as u16).filter(|label| !skip.contains(label)) {
        for _ in 0..per_class {
            let z = gaussian(&mut random, exits, d, label);
            quantize_all(&z, &mut q).expect("finite");
            sums.add(&q, label, 1).expect("fits");
        }
    }
    sums
}

pub(crate) fn gaussian(random: &mut Random, exits: usize, d: usize, label: u16) -> Vec<f32> {
    let mut z = Vec::new();
    for k in 0..exits {
        let common = random.normal();
        for j in 0..d {
            let shift = if j == usize::from(label) % d { 1.2 + 0.5 * k as f32 } else { 0.0 };
            z.push(0.6 * common + 0.7 * random.normal() + shift + 0.5);
        }
    }
    z
}

#[test]
fn the_discriminant_tells_gaussian_classes_apart_and_deeper_exits_better() {
    let sums = gaussian_sums(2, 6, 4, 40, &[]);
    let shape = Shape { recipe: Recipe::Moments, head: Head::Classify, exits: 2, features: 6, outputs: 4 };
    let params = solve(&sums, Shrinkage::Auto).expect("solvable");
    assert_eq!(params.len(), shape.parameters());
    let mut random = Random::new(77);
    let mut right = [0, 0];
    let mut logits = vec![0.0; 8];
    for i in 0..400u16 {
        let z = gaussian(&mut random, 2, 6, i % 4);
        forward(&shape, &params, &z, &mut logits);
        for (k, right) in right.iter_mut().enumerate() {
            *right += i32::from(argmax(&logits[k * 4..k * 4 + 4]) == usize::from(i % 4));
        }
    }
    assert!(right[0] > 280 && right[1] > right[0], "{right:?} of 400");
}

#[test]
fn classes_without_samples_are_finite_and_never_predicted() {
    let sums = gaussian_sums(1, 5, 4, 6, &[2]);
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 5, outputs: 4 };
    let params = solve(&sums, Shrinkage::Fixed(0.2)).expect("solvable");
    let biases = &params[20..];
    let lowest = biases.iter().enumerate().filter(|(c, _)| *c != 2).map(|(_, b)| *b).fold(f32::MAX, f32::min);
    assert!((biases[2] - (lowest - 30.0)).abs() < 1e-4);
    assert!(params[10..15].iter().all(|w| *w == 0.0));
    let mut logits = vec![0.0; 4];
    forward(&shape, &params, &[0.5; 5], &mut logits);
    assert_ne!(argmax(&logits), 2);
}

#[test]
fn one_sample_and_one_class_are_enough_for_finite_parameters() {
    let mut sums = Sums::zero(1, 3, 2).expect("within limits");
    sums.add(&[100, 200, 300], 1, 1).expect("fits");
    for shrinkage in [Shrinkage::Auto, Shrinkage::Fixed(0.1)] {
        let params = solve(&sums, shrinkage).expect("solvable");
        assert!(params.iter().all(|p| p.is_finite()));
    }
}

#[test]
fn impossible_totals_are_refused() {
    let zero = Sums::zero(1, 2, 2).expect("within limits");
    assert_eq!(solve(&zero, Shrinkage::Auto), Err(SolveError::NoSamples));
    let mut negative = zero.clone();
    negative.add(&[1, 1], 0, -1).expect("fits");
    assert_eq!(solve(&negative, Shrinkage::Auto), Err(SolveError::NegativeCount { class: 0, count: -1 }));
    // Σ z² = −100: no sample does that.
    let bad = Sums::from_values(1, 2, 2, vec![5, 5, 0, 0, 0, 0, -100 << 24, 0, 50 << 24]).expect("sized");
    assert_eq!(solve(&bad, Shrinkage::Auto), Err(SolveError::NotACovariance { exit: 1 }));
    let bad = Sums::from_values(1, 2, 2, vec![5, 5, 0, 0, 0, 0, 1 << 24, 9 << 24, 1 << 24]).expect("sized");
    assert_eq!(solve(&bad, Shrinkage::Fixed(0.01)), Err(SolveError::NotACovariance { exit: 1 }));
    for share in [0.0, -1.0, 1.1, f64::NAN] {
        assert!(matches!(solve(&zero, Shrinkage::Fixed(share)), Err(SolveError::Shrinkage(_))));
    }
}

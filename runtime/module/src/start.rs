//! A ladder started from exact sums.
//!
//! The sums hold nothing across exits, so the running state is built from per-exit statistics alone, in
//! coordinates that mean the same at every exit. With M_k the centred class means (`outputs × features`), S_k the
//! pooled covariance and G_k = M_k S_k⁻¹ M_kᵀ (`outputs × outputs`), the vector
//! e_k(z) = G_k^{+½} · M_k S_k⁻¹ (z − μ̄_k) has one coordinate per class, unit within-class variance inside its
//! range, and class means G_k^½ — a symmetric matrix, so that exits agree on what a coordinate stands for. Q, the
//! leading `rank` eigenvectors of the mean of the G_k, keeps what separates the classes best; with rank at least
//! the number of classes less one nothing is lost. Then down_k = Qᵀ G_k^{+½} M_k S_k⁻¹, and the gates start at
//! ln(k − 1), so that s_k is the mean of a_1 … a_k. The heads are discriminants of that mean, whose within-class
//! variance assumes a correlation of [`CORRELATION`] between exits.
//!
//! Measured on digits (64 features, ten gateways with 20 labels each, 10 splits; own mix, prior added): .957 /
//! worst .905; with all gates half open .955 / .897; the `moments` module of the same sums .944 / .875.

mod forecast;

pub(crate) use forecast::forecast_start;

use crate::head::Head;
use crate::random::Random;
use crate::shape::{MAX_RANK, Recipe, Shape};
use crate::solve::{Discriminant, Shrinkage, SolveError, TEMPERATURE, discriminant, push_biases};
use crate::spectrum::Spectrum;
use crate::sums::Sums;

/// Within-class correlation assumed between the same coordinate of two exits; it only scales the heads.
const CORRELATION: f64 = 0.5;
/// Units beyond the class differences start as small random directions, so that training can use them.
pub(crate) const SPARE_SEED: u64 = 0x1add_e25e_edf0_0d5e;

/// Starting parameters of a `ladder` module of this rank, prior-free as those of [`crate::solve`].
pub fn ladder_start(sums: &Sums, rank: usize, shrinkage: Shrinkage) -> Result<Vec<f32>, SolveError> {
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(SolveError::Rank(rank));
    }
    let (exits, d, outputs) = sums.sizes();
    let shape = Shape { recipe: Recipe::Ladder { rank }, head: Head::Classify, exits, features: d, outputs };
    let discriminants =
        (0..exits).map(|k| discriminant(sums, k, shrinkage)).collect::<Result<Vec<_>, _>>()?;
    let spectra: Vec<Spectrum> =
        discriminants.iter().map(|exit| Spectrum::of(&gram(exit, outputs), outputs)).collect();
    let mut mean_gram = vec![0.0; outputs * outputs];
    for exit in &discriminants {
        for (mean, value) in mean_gram.iter_mut().zip(gram(exit, outputs)) {
            *mean += value / exits as f64;
        }
    }
    let basis = Spectrum::of(&mean_gram, outputs);
    let kept = rank.min(basis.nonzero());

    let mut random = Random::new(SPARE_SEED);
    let mut params = Vec::with_capacity(shape.parameters());
    let mut means = vec![0.0; rank * outputs];
    for (k, (exit, spectrum)) in discriminants.iter().zip(&spectra).enumerate() {
        let (down, down_bias, exit_means) = unit_rows(exit, spectrum, &basis, kept, outputs);
        params.extend(down.iter().map(|w| *w as f32));
        params.extend((kept * d..rank * d).map(|_| random.normal() / (d as f32).sqrt()));
        params.extend(down_bias.iter().map(|b| *b as f32));
        params.resize(params.len() + rank - kept, 0.0);
        let open = k as f64 / (k + 1) as f64;
        if k > 0 {
            params.resize(params.len() + rank, (k as f64).ln() as f32);
        }
        for (mean, exit_mean) in means.iter_mut().zip(&exit_means) {
            *mean = open * *mean + (1.0 - open) * exit_mean;
        }
        let variance = (1.0 + k as f64 * CORRELATION) / (k + 1) as f64;
        let scale = TEMPERATURE / variance;
        let mut biases = Vec::with_capacity(outputs);
        for c in 0..outputs {
            let mean = (0..kept).map(|u| means[u * outputs + c]);
            params.extend(mean.clone().map(|m| (scale * m) as f32));
            params.resize(params.len() + rank - kept, 0.0);
            biases.push(-0.5 * scale * mean.map(|m| m * m).sum::<f64>());
        }
        push_biases(&mut params, &biases, &exit.seen);
    }
    debug_assert_eq!(params.len(), shape.parameters());
    Ok(params)
}

fn gram(exit: &Discriminant, outputs: usize) -> Vec<f64> {
    (0..outputs * outputs).map(|i| exit.inner(i / outputs, i % outputs)).collect()
}

/// Rows Qᵀ G^{+½} M S⁻¹ (`kept × features`), their bias, and the class means in these coordinates (`kept ×
/// outputs`).
fn unit_rows(
    exit: &Discriminant,
    spectrum: &Spectrum,
    basis: &Spectrum,
    kept: usize,
    outputs: usize,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let d = exit.features;
    let mut down = vec![0.0; kept * d];
    let mut means = vec![0.0; kept * outputs];
    for u in 0..kept {
        for i in 0..spectrum.nonzero() {
            let root = spectrum.values[i].sqrt();
            let overlap: f64 = (0..outputs).map(|c| basis.vector(u)[c] * spectrum.vector(i)[c]).sum();
            for c in 0..outputs {
                let along = overlap * spectrum.vector(i)[c];
                means[u * outputs + c] += along * root;
                let weight = &exit.weight[c * d..(c + 1) * d];
                for (cell, w) in down[u * d..(u + 1) * d].iter_mut().zip(weight) {
                    *cell += along / root * w;
                }
            }
        }
    }
    let bias = down
        .chunks_exact(d)
        .map(|row| -row.iter().zip(&exit.centre).map(|(w, m)| w * m).sum::<f64>())
        .collect();
    (down, bias, means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::tests::{gaussian, gaussian_sums};
    use crate::{argmax, forward, solve};

    #[test]
    fn at_the_first_exit_a_full_rank_start_is_the_discriminant() {
        let sums = gaussian_sums(2, 6, 4, 30, &[]);
        let shape = Shape {
            recipe: Recipe::Ladder { rank: 5 },
            head: Head::Classify,
            exits: 2,
            features: 6,
            outputs: 4,
        };
        let linear = Shape { recipe: Recipe::Moments, ..shape };
        let start = ladder_start(&sums, 5, Shrinkage::Auto).expect("solvable");
        let solved = solve(&sums, Shrinkage::Auto).expect("solvable");
        let (mut a, mut b) = (vec![0.0; 8], vec![0.0; 8]);
        let z = gaussian(&mut Random::new(2), 2, 6, 1);
        forward(&shape, &start, &z, &mut a);
        forward(&linear, &solved, &z, &mut b);
        for c in 1..4 {
            assert!(((a[c] - a[0]) - (b[c] - b[0])).abs() < 1e-3, "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_averaged_state_does_at_least_as_well_as_the_last_exit_alone() {
        let sums = gaussian_sums(3, 8, 5, 12, &[]);
        let shape = Shape {
            recipe: Recipe::Ladder { rank: 8 },
            head: Head::Classify,
            exits: 3,
            features: 8,
            outputs: 5,
        };
        let start = ladder_start(&sums, 8, Shrinkage::Auto).expect("solvable");
        let solved = solve(&sums, Shrinkage::Auto).expect("solvable");
        let mut random = Random::new(31);
        let (mut ladder, mut moments) = (0, 0);
        let mut logits = vec![0.0; 15];
        for i in 0..500u16 {
            let z = gaussian(&mut random, 3, 8, i % 5);
            forward(&shape, &start, &z, &mut logits);
            ladder += i32::from(argmax(&logits[10..]) == usize::from(i % 5));
            forward(&Shape { recipe: Recipe::Moments, ..shape }, &solved, &z, &mut logits);
            moments += i32::from(argmax(&logits[10..]) == usize::from(i % 5));
        }
        assert!(ladder >= moments, "{ladder} against {moments} of 500");
    }

    #[test]
    fn start_is_finite_for_few_samples_and_refuses_a_bad_rank() {
        let sums = gaussian_sums(2, 6, 4, 1, &[1, 2]);
        for rank in [1, 3, 20] {
            let start = ladder_start(&sums, rank, Shrinkage::Auto).expect("solvable");
            assert!(start.iter().all(|p| p.is_finite()));
        }
        assert_eq!(ladder_start(&sums, 0, Shrinkage::Auto), Err(SolveError::Rank(0)));
        assert_eq!(ladder_start(&sums, 65, Shrinkage::Auto), Err(SolveError::Rank(65)));
    }
}

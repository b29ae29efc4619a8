//! A forecast's ladder started from exact sums.
//!
//! The state must mean the same at every exit: it carries the ridge predictions of all steps in one low-rank basis
//! of the horizon. With B_k the ridge weights of exit k (`horizon × features`) and S_k the features' covariance,
//! B_k S_k B_kᵀ is the covariance of its predictions; Q, the leading `rank` eigenvectors of the mean of these over the
//! exits, are the shapes that forecasts take. Then a_k = Qᵀ B_k (z_k − μ_k) and the heads are Q a + mean.
//!
//! The gates make s_k the mean of a_1 … a_k weighted by 1/σ̄_j², σ̄_j² the mean residual variance of exit j. Sums hold
//! nothing across exits, so the residual variance of that mean is not known; but squared error is convex, so it is at
//! most the same weighted mean of the exits' own residual variances, which therefore set the quantiles, together
//! with the variance of what a low rank cuts off.

use crate::dense::dot;
use crate::head::Quantiles;
use crate::random::Random;
use crate::ridge::{Ridge, ridge, spread_around};
use crate::shape::MAX_RANK;
use crate::solve::{SolveError, SolveOptions};
use crate::spectrum::Spectrum;
use crate::start::SPARE_SEED;
use crate::sums::Sums;

/// Starting parameters of a forecast's `ladder` module of this rank.
pub(crate) fn forecast_start(
    sums: &Sums,
    rank: usize,
    quantiles: &Quantiles,
    options: &SolveOptions,
) -> Result<Vec<f32>, SolveError> {
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(SolveError::Rank(rank));
    }
    let (exits, d, horizon) = sums.sizes();
    let ridges = (0..exits).map(|k| ridge(sums, k, options)).collect::<Result<Vec<_>, _>>()?;
    let covariances: Vec<Vec<f64>> = ridges.iter().map(|exit| predictions(exit, horizon)).collect();
    let mut mean = vec![0.0; horizon * horizon];
    for covariance in &covariances {
        for (mean, value) in mean.iter_mut().zip(covariance) {
            *mean += value / exits as f64;
        }
    }
    let basis = Spectrum::of(&mean, horizon);
    let kept = rank.min(basis.nonzero());
    let mut random = Random::new(SPARE_SEED);
    let mut params = Vec::new();
    let (mut total, mut variance) = (0.0, vec![0.0; horizon]);
    for (k, (exit, covariance)) in ridges.iter().zip(&covariances).enumerate() {
        let mut down = vec![0.0; kept * d];
        for (u, row) in down.chunks_exact_mut(d).enumerate() {
            for (q, weight) in basis.vector(u).iter().zip(exit.weight.chunks_exact(d)) {
                row.iter_mut().zip(weight).for_each(|(cell, w)| *cell += q * w);
            }
        }
        params.extend(down.iter().map(|w| *w as f32));
        params.extend((kept * d..rank * d).map(|_| random.normal() / (d as f32).sqrt()));
        params.extend(down.chunks_exact(d).map(|row| -dot(row, &exit.centre) as f32));
        params.resize(params.len() + rank - kept, 0.0);
        let certainty = horizon as f64 / exit.residual.iter().sum::<f64>();
        if k > 0 {
            // σ(gate) = total / (total + certainty).
            params.resize(params.len() + rank, (total / certainty).ln() as f32);
        }
        total += certainty;
        for (h, variance) in variance.iter_mut().enumerate() {
            let own = exit.residual[h] + cut_off(&basis, kept, covariance, h);
            *variance += certainty * own;
        }
        for h in 0..horizon {
            for _ in 0..quantiles.len() {
                params.extend((0..kept).map(|u| basis.vector(u)[h] as f32));
                params.resize(params.len() + rank - kept, 0.0);
            }
        }
        for (mean, variance) in exit.mean.iter().zip(&variance) {
            params.extend(spread_around(*mean, variance / total, quantiles));
        }
    }
    Ok(params)
}

/// B S Bᵀ, `horizon × horizon`.
fn predictions(exit: &Ridge, horizon: usize) -> Vec<f64> {
    let d = exit.centre.len();
    let mut out = vec![0.0; horizon * horizon];
    for (h, weight) in exit.weight.chunks_exact(d).enumerate() {
        let along: Vec<f64> = exit.covariance.chunks_exact(d).map(|row| dot(row, weight)).collect();
        for (cell, other) in out[h * horizon..(h + 1) * horizon].iter_mut().zip(exit.weight.chunks_exact(d)) {
            *cell = dot(other, &along);
        }
    }
    out
}

/// Variance of step `h` of the predictions outside the basis: ((I − QQᵀ) P (I − QQᵀ))_hh.
fn cut_off(basis: &Spectrum, kept: usize, covariance: &[f64], h: usize) -> f64 {
    let n = basis.vector(0).len();
    let mut outside = vec![0.0; n];
    outside[h] = 1.0;
    for u in 0..kept {
        let q = basis.vector(u);
        outside.iter_mut().zip(q).for_each(|(cell, value)| *cell -= q[h] * value);
    }
    let along: Vec<f64> = covariance.chunks_exact(n).map(|row| dot(row, &outside)).collect();
    dot(&outside, &along).max(0.0)
}

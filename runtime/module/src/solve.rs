//! The module that exact sums define, in closed form. Here: a shared-covariance discriminant per exit; `ridge` and
//! `whiten` hold the other kinds.
//!
//! Everything is f64 additions, multiplications, divisions and square roots in a fixed order, so the same totals
//! give the same parameters on every machine.

use serde::{Deserialize, Serialize};

use crate::dense::{cholesky, cholesky_solve, dot};
use crate::head::Head;
use crate::pattern::Regressors;
use crate::ridge::{Penalty, forecast_solve};
use crate::shape::{Recipe, Shape};
use crate::start::{forecast_start, ladder_start};
use crate::sums::Sums;
use crate::whiten::{leading_rows, whitening};

/// How far the pooled covariance is drawn towards a multiple of the identity with the same trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shrinkage {
    /// Always this share, above 0 and at most 1.
    Fixed(f64),
    /// The oracle-approximating share of Chen, Wiesel, Eldar & Hero 2010 ("Shrinkage Algorithms for MMSE
    /// Covariance Estimation", eq. 23), from the covariance's traces and the degrees of freedom.
    #[default]
    Auto,
}

/// Why no module can be solved.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// No class has a sample.
    #[error("the totals hold no samples; wait for a contribution")]
    NoSamples,
    /// A class has fewer than no samples.
    #[error(
        "class {class} has {count} samples; a removal was counted that was never added, rebuild the totals from the kept contributions"
    )]
    NegativeCount {
        /// Class.
        class: usize,
        /// Its count.
        count: i64,
    },
    /// The second moments cannot come from samples.
    #[error(
        "the second moments of exit {exit} are no covariance; a contribution is corrupt, rebuild the totals without it"
    )]
    NotACovariance {
        /// Exit, counted from 1.
        exit: usize,
    },
    /// The fixed shrinkage is unusable.
    #[error("shrinkage {0} is not above 0 and at most 1; correct the task manifest")]
    Shrinkage(f64),
    /// The fixed penalty is unusable.
    #[error("penalty {0} is not above 0 and at most 1e6; correct the task manifest")]
    Penalty(f64),
    /// The sums are not those of the shape.
    #[error("the totals are of another kind or size than the module; they belong to another task version")]
    Shape,
    /// The ladder's rank is unusable.
    #[error("rank {0} is outside 1 to 64; correct the task manifest")]
    Rank(usize),
}

/// Bias of a class without samples, below the lowest of the others: it is never predicted, yet stays finite.
const UNSEEN_BIAS: f64 = -30.0;
/// Logits are scaled down to be sane as probabilities: the raw discriminant trusts estimated means and a
/// covariance that classes do not quite share. Measured on digits, motion and gunpoint features with 4 to 95
/// labels on each of ten gateways: the module of the totals has its lowest log loss between 0.1 and 0.4 (digits
/// 0.1 to 0.3, motion 0.2 and more, gunpoint 0.4), and that of a single gateway below 0.1. An estimate from the
/// sums themselves, by generalized cross-validation, was 3 times too high on totals and too low on single gateways.
pub(crate) const TEMPERATURE: f64 = 0.25;

/// One exit's discriminant in f64; rows of classes without samples are zero.
pub(crate) struct Discriminant {
    pub(crate) features: usize,
    /// Whether the class has samples.
    pub(crate) seen: Vec<bool>,
    /// The mean of the seen classes' means, `features`.
    pub(crate) centre: Vec<f64>,
    /// Class means less the centre, `outputs × features`.
    pub(crate) means: Vec<f64>,
    /// S⁻¹ times the centred means, `outputs × features`.
    pub(crate) weight: Vec<f64>,
}

impl Discriminant {
    /// wᵀ(μ − centre) for two classes: an inner product of their centred means in the whitened space.
    pub(crate) fn inner(&self, a: usize, b: usize) -> f64 {
        let d = self.features;
        dot(&self.weight[a * d..(a + 1) * d], &self.means[b * d..(b + 1) * d])
    }
}

pub(crate) fn check_shrinkage(shrinkage: Shrinkage) -> Result<(), SolveError> {
    match shrinkage {
        Shrinkage::Fixed(share) if !(share > 0.0 && share <= 1.0) => Err(SolveError::Shrinkage(share)),
        Shrinkage::Fixed(_) | Shrinkage::Auto => Ok(()),
    }
}

pub(crate) fn discriminant(sums: &Sums, k: usize, shrinkage: Shrinkage) -> Result<Discriminant, SolveError> {
    check_shrinkage(shrinkage)?;
    if let Some((class, &count)) = sums.counts().iter().enumerate().find(|(_, n)| **n < 0) {
        return Err(SolveError::NegativeCount { class, count });
    }
    let seen: Vec<bool> = sums.counts().iter().map(|&n| n > 0).collect();
    let classes = seen.iter().filter(|&&seen| seen).count();
    if classes == 0 {
        return Err(SolveError::NoSamples);
    }
    let (_, d, outputs) = sums.sizes();
    let unit = 1.0 / 4096.0;
    let mut means = vec![0.0; outputs * d];
    let mut centre = vec![0.0; d];
    for (c, (mean, cross)) in means.chunks_exact_mut(d).zip(sums.cross(k).chunks_exact(d)).enumerate() {
        if seen[c] {
            let n = sums.counts()[c] as f64;
            for ((mean, &cross), centre) in mean.iter_mut().zip(cross).zip(&mut centre) {
                *mean = cross as f64 * unit / n;
                *centre += *mean / classes as f64;
            }
        }
    }
    let samples = sums.samples() as f64;
    let freedom = samples - classes as f64;
    let mut covariance = within_class(sums, k, &means, freedom.max(1.0));
    if !shrink(&mut covariance, d, freedom, shrinkage) || !cholesky(&mut covariance, d) {
        return Err(SolveError::NotACovariance { exit: k + 1 });
    }
    for (c, mean) in means.chunks_exact_mut(d).enumerate() {
        for (mean, centre) in mean.iter_mut().zip(&centre) {
            *mean = if seen[c] { *mean - centre } else { 0.0 };
        }
    }
    let mut weight = means.clone();
    for row in weight.chunks_exact_mut(d) {
        cholesky_solve(&covariance, row);
    }
    Ok(Discriminant { features: d, seen, centre, means, weight })
}

/// Pooled within-class covariance, `d × d`: (Σ z zᵀ − Σ_c n_c μ_c μ_cᵀ) / freedom.
fn within_class(sums: &Sums, k: usize, means: &[f64], freedom: f64) -> Vec<f64> {
    let d = sums.features();
    let unit = 1.0 / (4096.0 * 4096.0);
    let mut covariance = vec![0.0; d * d];
    let mut packed = sums.gram(k).iter();
    for i in 0..d {
        for (cell, &total) in covariance[i * d + i..(i + 1) * d].iter_mut().zip(packed.by_ref()) {
            *cell = total as f64 * unit;
        }
    }
    for (mean, &n) in means.chunks_exact(d).zip(sums.counts()) {
        for i in 0..d {
            let left = n as f64 * mean[i];
            for (cell, right) in covariance[i * d + i..(i + 1) * d].iter_mut().zip(&mean[i..]) {
                *cell -= left * right;
            }
        }
    }
    for i in 0..d {
        for j in i..d {
            covariance[i * d + j] /= freedom;
            covariance[j * d + i] = covariance[i * d + j];
        }
    }
    covariance
}

/// Draws the covariance towards the identity; false if it is none. Without degrees of freedom, or without any
/// spread, the identity itself is used: the bundle scales its directions to about unit variance.
pub(crate) fn shrink(covariance: &mut [f64], d: usize, freedom: f64, shrinkage: Shrinkage) -> bool {
    let dim = d as f64;
    let diagonal = covariance.iter().step_by(d + 1);
    if diagonal.clone().any(|&v| !v.is_finite() || v < -1e-6) {
        return false;
    }
    let trace: f64 = diagonal.sum();
    let square: f64 = covariance.iter().map(|v| v * v).sum();
    let (share, level) = if freedom < 1.0 || trace <= 1e-9 {
        (1.0, 1.0)
    } else {
        let share = match shrinkage {
            Shrinkage::Fixed(share) => share,
            Shrinkage::Auto => {
                let excess = (freedom + 1.0 - 2.0 / dim) * (square - trace * trace / dim);
                let share = ((1.0 - 2.0 / dim) * square + trace * trace) / excess;
                if excess > 0.0 { share.clamp(1e-3, 1.0) } else { 1.0 }
            }
        };
        (share, trace / dim)
    };
    for v in covariance.iter_mut() {
        *v *= 1.0 - share;
    }
    for v in covariance.iter_mut().step_by(d + 1) {
        *v += share * level;
    }
    true
}

/// How totals become a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SolveOptions {
    /// Of the covariances of classify and anomaly.
    pub shrinkage: Shrinkage,
    /// Of a forecast's ridge regression.
    pub penalty: Penalty,
    /// What a forecast's features and windows are.
    pub regressors: Regressors,
    /// Weight of each class, above 0; empty weighs all alike.
    pub class_weights: Vec<f32>,
}

/// The module of `shape` that totals define, prior-free: the closed-form module itself, or the start of a trained
/// one. Classes' weights enter as ln w_c on the biases: the class with the largest w_c · p(c | z) is answered,
/// which is also where the weighted cross-entropy has its optimum.
pub fn closed_form(shape: &Shape, sums: &Sums, options: &SolveOptions) -> Result<Vec<f32>, SolveError> {
    let fits = Sums::for_shape(shape).is_ok_and(|zero| zero.alike(sums));
    if !fits || shape.validate().is_err() {
        return Err(SolveError::Shape);
    }
    let shrinkage = options.shrinkage;
    match (shape.head, shape.recipe) {
        (Head::Classify, recipe) => {
            let mut params = match recipe {
                Recipe::Moments | Recipe::Probe => solve(sums, shrinkage)?,
                Recipe::Ladder { rank } => ladder_start(sums, rank, shrinkage)?,
            };
            for k in 0..shape.exits {
                let biases = &mut params[shape.layout(k).bias..][..shape.outputs];
                for (bias, weight) in biases.iter_mut().zip(&options.class_weights) {
                    *bias += f64::from(*weight).ln() as f32;
                }
            }
            Ok(params)
        }
        (Head::Forecast { quantiles, .. }, Recipe::Ladder { rank }) => {
            forecast_start(sums, rank, &quantiles, options)
        }
        (Head::Forecast { quantiles, .. }, _) => forecast_solve(sums, &quantiles, options),
        (Head::Anomaly, Recipe::Moments) => whitening(sums, shrinkage),
        (Head::Anomaly, _) => leading_rows(sums, shape.outputs, shrinkage),
    }
}

/// Parameters of a `moments` or `probe` module: per exit the shared-covariance discriminant
/// w_c = τ S⁻¹(μ_c − μ̄), b_c = −w_c·μ̄ − ½ w_c·(μ_c − μ̄), without class priors (prior-free).
///
/// Classes without samples get zero weights and a bias of −30 below the lowest.
pub fn solve(sums: &Sums, shrinkage: Shrinkage) -> Result<Vec<f32>, SolveError> {
    let (exits, d, outputs) = sums.sizes();
    let mut params = Vec::with_capacity(exits * outputs * (d + 1));
    for k in 0..exits {
        let exit = discriminant(sums, k, shrinkage)?;
        params.extend(exit.weight.iter().map(|w| (TEMPERATURE * w) as f32));
        let biases: Vec<f64> = (0..outputs)
            .map(|c| {
                let weight = &exit.weight[c * d..(c + 1) * d];
                -TEMPERATURE * (dot(weight, &exit.centre) + 0.5 * exit.inner(c, c))
            })
            .collect();
        push_biases(&mut params, &biases, &exit.seen);
    }
    Ok(params)
}

/// Appends biases, those of unseen classes −30 below the lowest seen one.
pub(crate) fn push_biases(params: &mut Vec<f32>, biases: &[f64], seen: &[bool]) {
    let lowest =
        biases.iter().zip(seen).filter(|(_, seen)| **seen).map(|(b, _)| *b).fold(f64::INFINITY, f64::min);
    params.extend(
        biases.iter().zip(seen).map(|(b, seen)| if *seen { *b } else { lowest + UNSEEN_BIAS } as f32),
    );
}

#[cfg(test)]
pub(crate) mod tests;

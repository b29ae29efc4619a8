//! The forecast that exact sums define: ridge regression per exit, in closed form.
//!
//! Features and targets are centred by their own means. First the steps' common pattern is found (`pattern`); what it
//! leaves of a target, step by step, is drawn to 0 by a ridge. There features are divided by their standard deviations,
//! those of the backbone moreover by √ρ, so that a penalty λ on all is one of λρ on them. With R the second moments of
//! these features, c_h the covariances with what is left of target h and n samples, β_h = (R + λI)⁻¹ c_h. λ and ρ, one
//! pair for all steps of an exit, are fixed (ρ = 1) or minimize the generalized cross-validation score
//! Σ_h (RSS_h / n) / (1 − α_h (1 + p + df)/n)² with df = tr R(R + λI)⁻¹, p the pattern's degrees of freedom and one for
//! the mean (Golub, Heath & Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge
//! parameter", eq. 1.4). α_h ≥ 1 is the overlap of windows: cross-validation takes samples for independent, and
//! counting n / α_h of them keeps it from too small a penalty. RSS_h / n = var − β_h·c_h − λ|β_h|², so all of it comes
//! from the sums. The quantile at level q is point + σ_h Φ⁻¹(q), with σ_h² = RSS_h / (n − α_h (1 + p + df)).
//!
//! Variances and covariances are n Σab − Σa Σb in integers: nothing cancels, however far a mean is from zero.

use serde::{Deserialize, Serialize};

use crate::dense::{cholesky, cholesky_solve, dot, lower_inverse, unpack};
use crate::head::Quantiles;
use crate::normal::normal_quantile;
use crate::pattern::overlap;
use crate::solve::{SolveError, SolveOptions};
use crate::sums::Sums;

/// How strongly a forecast's regression is drawn towards its pattern, or its mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Penalty {
    /// Always this λ, above 0, in units of a feature's variance.
    Fixed(f64),
    /// The λ, and what the backbone's features bear beyond it, that generalized cross-validation prefers.
    #[default]
    Auto,
}

/// Penalties tried: 4^j from the largest j down; of equals the largest wins.
const GRID: std::ops::RangeInclusive<i32> = -10..=4;
/// By how much more the backbone's features are penalized than lags and calendar: 2^j, in this order.
const APART: [i32; 4] = [20, 10, 5, 0];
/// Features of less variance are constant but for rounding, and are left out.
const LEAST_VARIANCE: f64 = 1e-6;
/// Least residual variance, so that quantiles stay apart.
const LEAST_RESIDUAL: f64 = 1e-6;
/// Residual variance where the samples leave no degree of freedom: a target has the variance of its own window.
const PRIOR_VARIANCE: f64 = 1.0;

/// The exact second moments of one exit, centred, per sample.
pub(crate) struct Moments {
    pub(crate) samples: f64,
    /// Mean of the features.
    pub(crate) centre: Vec<f64>,
    /// Covariance of the features, `d × d`.
    pub(crate) covariance: Vec<f64>,
}

/// (n Σab − Σa Σb) / n², with Σab in 2⁻²⁴ and Σa, Σb in 2⁻¹².
fn centred(n: i64, product: i64, a: i64, b: i64) -> f64 {
    let whole = i128::from(n) * i128::from(product) - i128::from(a) * i128::from(b);
    whole as f64 / (n as f64 * n as f64 * f64::from(1 << 24))
}

/// Mean and covariance of features from a count, Σ z and the packed Gram matrix.
pub(crate) fn moments(n: i64, plain: &[i64], gram: &[i64]) -> Moments {
    let d = plain.len();
    let mut packed = gram.iter();
    let mut covariances = Vec::with_capacity(gram.len());
    for i in 0..d {
        for j in i..d {
            let product = packed.next().copied().unwrap_or(0);
            covariances.push(centred(n, product, plain[i], plain[j]));
        }
    }
    let centre = plain.iter().map(|&z| z as f64 / (n as f64 * 4096.0)).collect();
    Moments { samples: n as f64, centre, covariance: unpack(covariances, d) }
}

/// One exit's regression of all steps.
pub(crate) struct Ridge {
    /// Mean of the features.
    pub(crate) centre: Vec<f64>,
    /// Covariance of the features, `d × d`.
    pub(crate) covariance: Vec<f64>,
    /// `horizon × features`, for features less their mean.
    pub(crate) weight: Vec<f64>,
    /// Mean of each target.
    pub(crate) mean: Vec<f64>,
    /// Residual variance of each step.
    pub(crate) residual: Vec<f64>,
}

/// A penalty's regression on scaled features.
struct Fit {
    /// `horizon × d`.
    beta: Vec<f64>,
    /// RSS_h / n.
    residual: Vec<f64>,
    /// Effective degrees of freedom, the mean not counted.
    freedom: f64,
}

pub(crate) fn ridge(sums: &Sums, k: usize, options: &SolveOptions) -> Result<Ridge, SolveError> {
    let (penalty, regressors) = (options.penalty, &options.regressors);
    if let Penalty::Fixed(value) = penalty
        && !(value > 0.0 && value <= 1e6)
    {
        return Err(SolveError::Penalty(value));
    }
    let n = sums.samples();
    if n < 0 {
        return Err(SolveError::NegativeCount { class: 0, count: n });
    }
    if n == 0 {
        return Err(SolveError::NoSamples);
    }
    let corrupt = SolveError::NotACovariance { exit: k + 1 };
    let (d, (sum_y, square_y)) = (sums.features(), sums.targets());
    let Moments { samples, centre, covariance } = moments(n, sums.plain(k), sums.gram(k));
    let variance: Vec<f64> = sum_y.iter().zip(square_y).map(|(&y, &yy)| centred(n, yy, y, y)).collect();
    if covariance.iter().step_by(d + 1).chain(&variance).any(|&v| !v.is_finite() || v < 0.0) {
        return Err(corrupt);
    }
    let scale: Vec<f64> = covariance.iter().step_by(d + 1).map(|v| v.sqrt()).collect();
    let kept: Vec<bool> = scale.iter().map(|s| s * s >= LEAST_VARIANCE).collect();
    let mut cross = Vec::with_capacity(sum_y.len() * d);
    for (&sum_y, row) in sum_y.iter().zip(sums.cross(k).chunks_exact(d)) {
        cross.extend(row.iter().zip(sums.plain(k)).map(|(&yz, &z)| centred(n, yz, sum_y, z)));
    }
    let alpha = overlap(sum_y.len(), regressors.every);
    let pattern = regressors.pattern(samples, &alpha, &covariance, &cross);
    let shared = pattern.as_ref().map_or(0.0, |pattern| pattern.freedom);
    let mut weight = pattern.map_or_else(|| vec![0.0; cross.len()], |pattern| pattern.weight);
    let spread = less(&mut cross, &variance, &weight, &covariance);

    let left = |freedom: f64| -> Vec<f64> {
        alpha.iter().map(|alpha| samples - alpha * (1.0 + shared + freedom)).collect()
    };
    let (lambdas, apart): (Vec<f64>, &[i32]) = match penalty {
        Penalty::Fixed(lambda) => (vec![lambda], &[0]),
        Penalty::Auto if (1..d).contains(&regressors.extras) => (grid(), &APART),
        Penalty::Auto => (grid(), &[0]),
    };
    // Too few samples for any slope: the pattern, or the mean, alone.
    let (mut least, mut best) = (f64::INFINITY, Fit::none(&spread, d));
    for &apart in apart {
        let backbone = d.saturating_sub(regressors.extras);
        let divisor: Vec<f64> = (0..d)
            .map(|j| if j < backbone { scale[j] * 2f64.powi(apart).sqrt() } else { scale[j] })
            .collect();
        let system = System::new(&covariance, &cross, &divisor, &kept);
        for &lambda in &lambdas {
            let mut fit = system.fit(&spread, &kept, lambda).ok_or(corrupt)?;
            let left = left(fit.freedom);
            let free = left.iter().all(|&left| left > 0.0);
            let score: f64 = fit.residual.iter().zip(&left).map(|(rss, left)| rss / (left * left)).sum();
            if (free && score < least) || matches!(penalty, Penalty::Fixed(_)) {
                for row in fit.beta.chunks_exact_mut(d) {
                    for j in 0..d {
                        row[j] = if kept[j] { row[j] / divisor[j] } else { 0.0 };
                    }
                }
                (least, best) = (score, fit);
            }
            if !free {
                // A smaller penalty leaves still less.
                break;
            }
        }
    }
    weight.iter_mut().zip(&best.beta).for_each(|(weight, beta)| *weight += beta);
    let residual =
        best.residual.iter().zip(left(best.freedom)).zip(&variance).map(|((rss, left), variance)| {
            if left > 0.0 {
                (rss * samples / left).clamp(LEAST_RESIDUAL, variance.max(PRIOR_VARIANCE))
            } else {
                PRIOR_VARIANCE
            }
        });
    let residual = residual.collect();
    let mean = sum_y.iter().map(|&y| y as f64 / (samples * 4096.0)).collect();
    Ok(Ridge { centre, covariance, weight, mean, residual })
}

/// Penalties tried, the largest first.
fn grid() -> Vec<f64> {
    GRID.rev().map(|j| 4f64.powi(j)).collect()
}

/// Takes what `weight` explains (`horizon × d`) out of the covariances of features and targets, and gives the variance
/// that is left of each target: var y − 2 w·c + wᵀ C w.
fn less(cross: &mut [f64], variance: &[f64], weight: &[f64], covariance: &[f64]) -> Vec<f64> {
    let d = weight.len() / variance.len().max(1);
    let rows = cross.chunks_exact_mut(d).zip(weight.chunks_exact(d)).zip(variance);
    let left = rows.map(|((cross, weight), variance)| {
        let explained: Vec<f64> = covariance.chunks_exact(d).map(|row| dot(row, weight)).collect();
        let left = variance - 2.0 * dot(weight, cross) + dot(weight, &explained);
        cross.iter_mut().zip(&explained).for_each(|(cross, explained)| *cross -= explained);
        left.max(0.0)
    });
    left.collect()
}

/// R and c_h of the scaled features.
struct System {
    moments: Vec<f64>,
    target: Vec<f64>,
}

impl System {
    fn new(covariance: &[f64], cross: &[f64], divisor: &[f64], kept: &[bool]) -> Self {
        let d = divisor.len();
        let mut moments = vec![0.0; d * d];
        for i in 0..d {
            moments[i * d + i] = 1.0;
            for j in (0..d).filter(|&j| kept[i] && kept[j]) {
                moments[i * d + j] = covariance[i * d + j] / (divisor[i] * divisor[j]);
            }
        }
        let mut target = cross.to_vec();
        for row in target.chunks_exact_mut(d) {
            for j in 0..d {
                row[j] = if kept[j] { row[j] / divisor[j] } else { 0.0 };
            }
        }
        Self { moments, target }
    }

    fn fit(&self, spread: &[f64], kept: &[bool], lambda: f64) -> Option<Fit> {
        fit(&self.moments, &self.target, spread, kept, lambda)
    }
}

impl Fit {
    /// No slope at all.
    fn none(spread: &[f64], d: usize) -> Self {
        Self { beta: vec![0.0; spread.len() * d], residual: spread.to_vec(), freedom: 0.0 }
    }
}

fn fit(correlation: &[f64], target: &[f64], spread: &[f64], kept: &[bool], lambda: f64) -> Option<Fit> {
    let d = kept.len();
    let mut factor = correlation.to_vec();
    factor.iter_mut().step_by(d + 1).for_each(|v| *v += lambda);
    if !cholesky(&mut factor, d) {
        return None;
    }
    let inverse = lower_inverse(&factor, d);
    // (R + λI)⁻¹ᵢᵢ is the square of column i of L⁻¹; the mean of what is left out is not counted.
    let mut diagonal = vec![0.0; d];
    for row in inverse.chunks_exact(d) {
        for (sum, value) in diagonal.iter_mut().zip(row) {
            *sum += value * value;
        }
    }
    let freedom = diagonal.iter().zip(kept).filter(|(_, kept)| **kept).map(|(v, _)| 1.0 - lambda * v).sum();
    let mut beta = target.to_vec();
    let mut residual = Vec::with_capacity(spread.len());
    for ((row, target), spread) in beta.chunks_exact_mut(d).zip(target.chunks_exact(d)).zip(spread) {
        cholesky_solve(&factor, row);
        residual.push((spread - dot(row, target) - lambda * dot(row, row)).max(0.0));
    }
    Some(Fit { beta, residual, freedom })
}

/// Parameters of a forecast's `moments` or `probe` module.
pub(crate) fn forecast_solve(
    sums: &Sums,
    quantiles: &Quantiles,
    options: &SolveOptions,
) -> Result<Vec<f32>, SolveError> {
    let (exits, d, horizon) = sums.sizes();
    let mut params = Vec::with_capacity(exits * horizon * quantiles.len() * (d + 1));
    for k in 0..exits {
        let exit = ridge(sums, k, options)?;
        for row in exit.weight.chunks_exact(d) {
            for _ in 0..quantiles.len() {
                params.extend(row.iter().map(|w| *w as f32));
            }
        }
        for (h, row) in exit.weight.chunks_exact(d).enumerate() {
            let point = exit.mean[h] - dot(row, &exit.centre);
            params.extend(spread_around(point, exit.residual[h], quantiles));
        }
    }
    Ok(params)
}

/// Quantiles of a normal distribution.
pub(crate) fn spread_around(point: f64, variance: f64, quantiles: &Quantiles) -> impl Iterator<Item = f32> {
    let deviation = variance.sqrt();
    quantiles.levels().map(move |q| (point + deviation * normal_quantile(q)) as f32)
}

#[cfg(test)]
pub(crate) mod tests;

//! The forecast that exact sums define: ridge regression per exit, in closed form.
//!
//! Features and targets are centred by their own means, and features divided by their standard deviations, so one
//! penalty treats all alike. With R the correlation matrix of the features, c_h the covariances of the scaled
//! features with target h and n samples, β_h = (R + λI)⁻¹ c_h. The penalty λ, one for all steps of an exit, is fixed or
//! minimizes the generalized cross-validation score Σ_h (RSS_h / n) / (1 − (1 + df)/n)² with df = tr R(R + λI)⁻¹
//! (Golub, Heath & Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge parameter", eq.
//! 1.4, the mean counted as one more degree of freedom). RSS_h / n = var y_h − β_h·c_h − λ|β_h|², so all of it comes
//! from the sums. The quantile at level q is point + σ_h Φ⁻¹(q), with σ_h² = RSS_h / (n − 1 − df).
//!
//! Cross-validation takes samples for independent. Windows that overlap share noise in features and targets; then it
//! leans to too small a penalty, and a fixed one may do better.
//!
//! Variances and covariances are n Σab − Σa Σb in integers: nothing cancels, however far a mean is from zero.

use serde::{Deserialize, Serialize};

use crate::dense::{cholesky, cholesky_solve, dot, lower_inverse, unpack};
use crate::head::Quantiles;
use crate::normal::normal_quantile;
use crate::solve::SolveError;
use crate::sums::Sums;

/// How strongly a forecast's regression is drawn towards the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Penalty {
    /// Always this λ, above 0, in units of a feature's variance.
    Fixed(f64),
    /// The λ of [`GRID`] that generalized cross-validation prefers.
    #[default]
    Auto,
}

/// Penalties tried: 2^j from the largest j down; of equals the largest wins.
const GRID: std::ops::RangeInclusive<i32> = -20..=8;
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

pub(crate) fn ridge(sums: &Sums, k: usize, penalty: Penalty) -> Result<Ridge, SolveError> {
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
    let spread: Vec<f64> = sum_y.iter().zip(square_y).map(|(&y, &yy)| centred(n, yy, y, y)).collect();
    if covariance.iter().step_by(d + 1).chain(&spread).any(|&v| !v.is_finite() || v < 0.0) {
        return Err(corrupt);
    }
    let scale: Vec<f64> = covariance.iter().step_by(d + 1).map(|v| v.sqrt()).collect();
    let kept: Vec<bool> = scale.iter().map(|s| s * s >= LEAST_VARIANCE).collect();
    let mut correlation = vec![0.0; d * d];
    for i in 0..d {
        correlation[i * d + i] = 1.0;
        for j in (0..d).filter(|&j| j != i && kept[i] && kept[j]) {
            correlation[i * d + j] = covariance[i * d + j] / (scale[i] * scale[j]);
        }
    }
    let mut target = vec![0.0; sum_y.len() * d];
    for (h, (row, cross)) in target.chunks_exact_mut(d).zip(sums.cross(k).chunks_exact(d)).enumerate() {
        for j in (0..d).filter(|&j| kept[j]) {
            row[j] = centred(n, cross[j], sum_y[h], sums.plain(k)[j]) / scale[j];
        }
    }
    let fit = |lambda| fit(&correlation, &target, &spread, &kept, lambda);
    let left = |freedom: f64| samples - 1.0 - freedom;
    let mut best: Option<(f64, Fit)> = None;
    let grid: Vec<f64> = match penalty {
        Penalty::Fixed(lambda) => vec![lambda],
        Penalty::Auto => GRID.rev().map(|j| 2f64.powi(j)).collect(),
    };
    for lambda in grid {
        let fit = fit(lambda).ok_or(corrupt)?;
        let share = left(fit.freedom) / samples;
        let score = fit.residual.iter().sum::<f64>() / (share * share);
        let better = share > 0.0 && best.as_ref().is_none_or(|(least, _)| score < *least);
        if better || matches!(penalty, Penalty::Fixed(_)) {
            best = Some((score, fit));
        }
    }
    // Too few samples for any slope: the mean alone.
    let alone = || Fit { beta: vec![0.0; target.len()], residual: spread.clone(), freedom: 0.0 };
    let fit = best.map_or_else(alone, |(_, fit)| fit);
    let rest = left(fit.freedom);
    let residual = fit
        .residual
        .iter()
        .map(|rss| if rest > 0.0 { (rss * samples / rest).max(LEAST_RESIDUAL) } else { PRIOR_VARIANCE });
    let residual = residual.collect();
    let mut weight = fit.beta;
    for row in weight.chunks_exact_mut(d) {
        for j in 0..d {
            row[j] = if kept[j] { row[j] / scale[j] } else { 0.0 };
        }
    }
    let mean = sum_y.iter().map(|&y| y as f64 / (samples * 4096.0)).collect();
    Ok(Ridge { centre, covariance, weight, mean, residual })
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
    penalty: Penalty,
) -> Result<Vec<f32>, SolveError> {
    let (exits, d, horizon) = sums.sizes();
    let mut params = Vec::with_capacity(exits * horizon * quantiles.len() * (d + 1));
    for k in 0..exits {
        let exit = ridge(sums, k, penalty)?;
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

//! The anomaly score that exact sums define: a shrunk Mahalanobis distance per exit, as a linear map.
//!
//! With μ and S mean and covariance of the normal samples, S drawn towards the identity as in `solve`, and S = L Lᵀ,
//! the outputs are L⁻¹ (z − μ): normal samples become white, and the mean square of the outputs is the Mahalanobis
//! distance divided by the number of features. A trained module keeps fewer coordinates of the same white space,
//! along the eigenvectors of S from the smallest eigenvalue up: directions in which normal samples hardly vary are
//! the ones that tell anomalies best (Rippel, Mertens & Merhof 2020, "Modeling the Distribution of Normal Data in
//! Pre-Trained Deep Features for Anomaly Detection", §IV-C).

use crate::dense::{cholesky, dot, lower_inverse};
use crate::ridge::{Moments, moments};
use crate::solve::{Shrinkage, SolveError, check_shrinkage, shrink};
use crate::spectrum::Spectrum;
use crate::sums::{NORMAL, Sums};

/// Mean and shrunk covariance of the normal samples at exit `k`.
fn normal(sums: &Sums, k: usize, shrinkage: Shrinkage) -> Result<(Vec<f64>, Vec<f64>), SolveError> {
    check_shrinkage(shrinkage)?;
    let n = sums.counts()[usize::from(NORMAL)];
    if n < 0 {
        return Err(SolveError::NegativeCount { class: usize::from(NORMAL), count: n });
    }
    if n == 0 {
        return Err(SolveError::NoSamples);
    }
    let d = sums.features();
    let Moments { samples, centre, mut covariance } = moments(n, &sums.cross(k)[..d], sums.gram(k));
    let freedom = samples - 1.0;
    for v in &mut covariance {
        *v *= samples / freedom.max(1.0);
    }
    if !shrink(&mut covariance, d, freedom, shrinkage) {
        return Err(SolveError::NotACovariance { exit: k + 1 });
    }
    Ok((centre, covariance))
}

fn push(params: &mut Vec<f32>, rows: &[f64], centre: &[f64]) {
    params.extend(rows.iter().map(|w| *w as f32));
    params.extend(rows.chunks_exact(centre.len()).map(|row| -dot(row, centre) as f32));
}

/// Parameters of an anomaly's `moments` module: as many outputs as features.
pub(crate) fn whitening(sums: &Sums, shrinkage: Shrinkage) -> Result<Vec<f32>, SolveError> {
    let (exits, d, _) = sums.sizes();
    let mut params = Vec::with_capacity(exits * d * (d + 1));
    for k in 0..exits {
        let (centre, mut factor) = normal(sums, k, shrinkage)?;
        if !cholesky(&mut factor, d) {
            return Err(SolveError::NotACovariance { exit: k + 1 });
        }
        push(&mut params, &lower_inverse(&factor, d), &centre);
    }
    Ok(params)
}

/// Starting parameters of an anomaly's `probe` module with `rank` outputs.
pub(crate) fn leading_rows(sums: &Sums, rank: usize, shrinkage: Shrinkage) -> Result<Vec<f32>, SolveError> {
    let (exits, d, _) = sums.sizes();
    let mut params = Vec::with_capacity(exits * rank * (d + 1));
    for k in 0..exits {
        let (centre, covariance) = normal(sums, k, shrinkage)?;
        let spectrum = Spectrum::of(&covariance, d);
        let mut rows = Vec::with_capacity(rank * d);
        for i in (0..d).rev().take(rank) {
            let value = spectrum.values[i];
            if !value.is_finite() || value < 1e-12 {
                return Err(SolveError::NotACovariance { exit: k + 1 });
            }
            rows.extend(spectrum.vector(i).iter().map(|v| v / value.sqrt()));
        }
        push(&mut params, &rows, &centre);
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Head, anomaly_score};
    use crate::random::Random;
    use crate::shape::{Recipe, Shape};
    use crate::solve::{SolveOptions, closed_form};
    use crate::sums::{ANOMALOUS, Statistic, quantize_all};
    use crate::{Runner, forward};

    const D: usize = 5;
    const SHAPE: Shape =
        Shape { recipe: Recipe::Moments, head: Head::Anomaly, exits: 2, features: D, outputs: D };

    /// Features on a plane with a little noise; anomalies leave the plane.
    fn sample(random: &mut Random, anomalous: bool) -> Vec<f32> {
        let mut z = Vec::new();
        for _ in 0..2 {
            let (a, b) = (random.normal(), random.normal());
            let row = [a + 0.3, b, a + b, a - b, 0.5 * a];
            z.extend(row.iter().map(|x| x + 0.1 * random.normal() + if anomalous { 0.5 } else { 0.0 }));
        }
        z
    }

    fn sums(n: usize) -> Sums {
        let mut sums = Sums::zero_of(Statistic::Anomaly, 2, D, 2).expect("within limits");
        let (mut random, mut q) = (Random::new(3), vec![0; 2 * D]);
        for i in 0..n {
            let label = if i % 10 == 9 { ANOMALOUS } else { NORMAL };
            quantize_all(&sample(&mut random, label == ANOMALOUS), &mut q).expect("finite");
            sums.add(&q, label, 1).expect("fits");
        }
        sums
    }

    fn scores(shape: &Shape, params: &[f32], z: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; shape.exits * shape.outputs];
        forward(shape, params, z, &mut out);
        out.chunks_exact(shape.outputs).map(anomaly_score).collect()
    }

    #[test]
    fn normal_samples_score_about_one_and_anomalies_far_more() {
        let params = closed_form(&SHAPE, &sums(500), &SolveOptions::default()).expect("solvable");
        let mut random = Random::new(8);
        let (mut normal, mut anomalous) = (0.0, 0.0);
        for _ in 0..400 {
            normal += scores(&SHAPE, &params, &sample(&mut random, false))[1] / 400.0;
            anomalous += scores(&SHAPE, &params, &sample(&mut random, true))[1] / 400.0;
        }
        // Shrinkage widens the narrow directions, so the mean is below 1.
        assert!((0.4..1.2).contains(&normal), "{normal}");
        assert!(anomalous > 3.0 * normal, "{anomalous} {normal}");
    }

    #[test]
    fn all_leading_rows_give_the_same_score_as_the_whitening() {
        let sums = sums(200);
        let probe = Shape { recipe: Recipe::Probe, ..SHAPE };
        let options = SolveOptions::default();
        let moments = closed_form(&SHAPE, &sums, &options).expect("solvable");
        let start = closed_form(&probe, &sums, &options).expect("solvable");
        let mut random = Random::new(1);
        for anomalous in [false, true] {
            let z = sample(&mut random, anomalous);
            for (a, b) in scores(&SHAPE, &moments, &z).iter().zip(scores(&probe, &start, &z)) {
                assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
            }
        }
    }

    #[test]
    fn few_rows_still_see_what_leaves_the_plane() {
        let shape = Shape { recipe: Recipe::Probe, outputs: 2, ..SHAPE };
        let start = closed_form(&shape, &sums(500), &SolveOptions::default()).expect("solvable");
        let (mut random, mut runner) = (Random::new(5), Runner::new(shape));
        let mut out = vec![0.0; 2];
        let (mut normal, mut anomalous) = (0.0, 0.0);
        for _ in 0..200 {
            let (good, bad) = (sample(&mut random, false), sample(&mut random, true));
            runner.exit(&start, 0, &good[..D], &mut out);
            normal += anomaly_score(&out);
            runner.exit(&start, 0, &bad[..D], &mut out);
            anomalous += anomaly_score(&out);
        }
        assert!(anomalous > 3.0 * normal, "{anomalous} {normal}");
    }

    #[test]
    fn one_normal_sample_is_enough_and_none_is_refused() {
        let mut sums = Sums::zero_of(Statistic::Anomaly, 2, D, 2).expect("within limits");
        let options = SolveOptions::default();
        assert_eq!(closed_form(&SHAPE, &sums, &options), Err(SolveError::NoSamples));
        sums.add(&[77; 2 * D], ANOMALOUS, 1).expect("fits");
        assert_eq!(closed_form(&SHAPE, &sums, &options), Err(SolveError::NoSamples));
        sums.add(&[5; 2 * D], NORMAL, 1).expect("fits");
        let params = closed_form(&SHAPE, &sums, &options).expect("solvable");
        assert!(params.iter().all(|p| p.is_finite()));
        sums.add(&[5; 2 * D], NORMAL, -1).expect("fits");
        sums.add(&[5; 2 * D], NORMAL, -1).expect("fits");
        assert!(matches!(closed_form(&SHAPE, &sums, &options), Err(SolveError::NegativeCount { .. })));
    }
}

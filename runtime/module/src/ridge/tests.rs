use super::*;
use crate::forward;
use crate::head::Head;
use crate::pattern::Regressors;
use crate::random::Random;
use crate::shape::{Recipe, Shape};
use crate::solve::{SolveOptions, closed_form};
use crate::sums::{Statistic, quantize_all};

const D: usize = 6;
const HORIZON: usize = 4;
const SHAPE: Shape = Shape {
    recipe: Recipe::Moments,
    head: Head::Forecast { horizon: HORIZON as u16, quantiles: Quantiles::USUAL },
    exits: 2,
    features: D,
    outputs: HORIZON * 3,
};
const NOISE: f32 = 0.3;

/// Features (feature 5 is constant) and targets that depend on two of them; the first exit sees them through noise.
pub(crate) fn sample(random: &mut Random) -> (Vec<f32>, Vec<f32>) {
    let deep: Vec<f32> = (0..D).map(|j| if j == 5 { 0.25 } else { random.normal() + j as f32 }).collect();
    let mut z: Vec<f32> =
        deep.iter().map(|x| if *x == 0.25 { *x } else { x + 0.7 * random.normal() }).collect();
    z.extend(&deep);
    let y = (0..HORIZON).map(|h| 0.5 * deep[0] - 0.1 * h as f32 * deep[1] + 0.2 + NOISE * random.normal());
    (z, y.collect())
}

pub(crate) fn sums(n: usize, seed: u64) -> Sums {
    let mut sums = Sums::zero_of(Statistic::Forecast, 2, D, HORIZON).expect("within limits");
    let (mut random, mut z, mut y) = (Random::new(seed), vec![0; 2 * D], vec![0; HORIZON]);
    for _ in 0..n {
        let (features, targets) = sample(&mut random);
        quantize_all(&features, &mut z).expect("finite");
        quantize_all(&targets, &mut y).expect("finite");
        sums.add_values(&z, &y, 1).expect("fits");
    }
    sums
}

/// Mean squared error of the median and share of targets below each quantile, per exit.
fn judge(shape: &Shape, params: &[f32], seed: u64) -> Vec<(f64, [f64; 3])> {
    let mut random = Random::new(seed);
    let mut figures = vec![(0.0, [0.0; 3]); shape.exits];
    let mut out = vec![0.0; shape.exits * shape.outputs];
    for _ in 0..1000 {
        let (z, y) = sample(&mut random);
        forward(shape, params, &z, &mut out);
        for (figures, out) in figures.iter_mut().zip(out.chunks_exact(shape.outputs)) {
            for (paths, y) in out.chunks_exact(3).zip(&y) {
                figures.0 += f64::from(paths[1] - y).powi(2) / 4000.0;
                for (share, q) in figures.1.iter_mut().zip(paths) {
                    *share += f64::from(u8::from(y <= q)) / 4000.0;
                }
            }
        }
    }
    figures
}

#[test]
fn a_linear_law_is_found_with_its_noise_and_quantiles_cover_what_they_say() {
    let params = closed_form(&SHAPE, &sums(400, 1), &SolveOptions::default()).expect("solvable");
    assert_eq!(params.len(), SHAPE.parameters());
    let figures = judge(&SHAPE, &params, 2);
    assert!(figures[1].0 < 1.1 * f64::from(NOISE).powi(2), "{figures:?}");
    assert!(figures[0].0 > figures[1].0, "{figures:?}");
    for (_, shares) in figures {
        for (share, level) in shares.iter().zip([0.1, 0.5, 0.9]) {
            assert!((share - level).abs() < 0.06, "{share} at {level}");
        }
    }
}

#[test]
fn cross_validation_is_near_the_best_fixed_penalty() {
    for n in [12, 40, 400] {
        let sums = sums(n, 5);
        let error = |penalty| {
            let options = SolveOptions { penalty, ..SolveOptions::default() };
            judge(&SHAPE, &closed_form(&SHAPE, &sums, &options).expect("solvable"), 6)[1].0
        };
        let best = (-20..=8).map(|j| error(Penalty::Fixed(2f64.powi(j)))).fold(f64::INFINITY, f64::min);
        let auto = error(Penalty::Auto);
        assert!(auto < 1.25 * best, "{n}: {auto} against {best}");
    }
}

#[test]
fn generalized_cross_validation_is_that_of_the_definition() {
    // Leave-one-out's cousin, from the samples themselves: n |(I − A) y|² / tr(I − A)², A with the mean.
    let mut random = Random::new(9);
    let n = 15;
    let rows: Vec<(Vec<f32>, Vec<f32>)> = (0..n).map(|_| sample(&mut random)).collect();
    let mut total = Sums::zero_of(Statistic::Forecast, 1, 3, 1).expect("within limits");
    let (mut z, mut y) = (vec![0; 3], vec![0; 1]);
    let (mut x, mut targets) = (Vec::new(), Vec::new());
    for (features, values) in &rows {
        quantize_all(&features[..3], &mut z).expect("finite");
        quantize_all(&values[..1], &mut y).expect("finite");
        total.add_values(&z, &y, 1).expect("fits");
        x.push(z.iter().map(|q| f64::from(*q) / 4096.0).collect::<Vec<f64>>());
        targets.push(f64::from(y[0]) / 4096.0);
    }
    let mean = |j: usize| x.iter().map(|row| row[j]).sum::<f64>() / n as f64;
    let deviation =
        |j: usize| (x.iter().map(|row| (row[j] - mean(j)).powi(2)).sum::<f64>() / n as f64).sqrt();
    let scaled: Vec<Vec<f64>> =
        x.iter().map(|row| (0..3).map(|j| (row[j] - mean(j)) / deviation(j)).collect()).collect();
    let score = |lambda: f64| {
        let mut factor = vec![0.0; 9];
        for i in 0..3 {
            for j in 0..3 {
                factor[3 * i + j] = scaled.iter().map(|row| row[i] * row[j]).sum::<f64>()
                    + if i == j { lambda * n as f64 } else { 0.0 };
            }
        }
        assert!(cholesky(&mut factor, 3));
        let (mut rss, mut trace) = (0.0, 0.0);
        for (a, row) in scaled.iter().enumerate() {
            let mut hat = row.clone();
            cholesky_solve(&factor, &mut hat);
            let smooth = |b: usize| dot(&hat, &scaled[b]) + 1.0 / n as f64;
            let fitted = (0..n).map(|b| smooth(b) * targets[b]).sum::<f64>();
            rss += (targets[a] - fitted).powi(2);
            trace += 1.0 - smooth(a);
        }
        n as f64 * rss / (trace * trace)
    };
    let best = grid().into_iter().min_by(|a, b| score(*a).total_cmp(&score(*b)));
    let exit = ridge(&total, 0, &SolveOptions::default()).expect("solvable");
    let best = best.expect("the grid is not empty");
    let fixed = SolveOptions { penalty: Penalty::Fixed(best), ..SolveOptions::default() };
    let fixed = ridge(&total, 0, &fixed).expect("solvable");
    assert_eq!((&exit.weight, &exit.residual), (&fixed.weight, &fixed.residual));
    // The residual variance, too: RSS / (n − 1 − df), where n − 1 − df is the trace.
    let rss_over_trace = {
        let (lambda, mut rss, mut trace) = (best, 0.0, 0.0);
        let mut factor = vec![0.0; 9];
        for i in 0..3 {
            for j in 0..3 {
                factor[3 * i + j] = scaled.iter().map(|row| row[i] * row[j]).sum::<f64>()
                    + if i == j { lambda * n as f64 } else { 0.0 };
            }
        }
        assert!(cholesky(&mut factor, 3));
        for (a, row) in scaled.iter().enumerate() {
            let mut hat = row.clone();
            cholesky_solve(&factor, &mut hat);
            let fitted: f64 = (0..n).map(|b| (dot(&hat, &scaled[b]) + 1.0 / n as f64) * targets[b]).sum();
            rss += (targets[a] - fitted).powi(2);
            trace += 1.0 - dot(&hat, row) - 1.0 / n as f64;
        }
        rss / trace
    };
    assert!((exit.residual[0] / rss_over_trace - 1.0).abs() < 1e-9);
}

#[test]
fn few_samples_and_impossible_totals() {
    for n in [1, 2, 3] {
        let params = closed_form(&SHAPE, &sums(n, 3), &SolveOptions::default()).expect("solvable");
        assert!(params.iter().all(|p| p.is_finite()), "{n}");
    }
    let zero = Sums::zero_of(Statistic::Forecast, 2, D, HORIZON).expect("within limits");
    let options = SolveOptions::default();
    assert_eq!(closed_form(&SHAPE, &zero, &options), Err(SolveError::NoSamples));
    let mut negative = zero.clone();
    negative.add_values(&[1; 2 * D], &[1; HORIZON], -1).expect("fits");
    assert!(matches!(closed_form(&SHAPE, &negative, &options), Err(SolveError::NegativeCount { .. })));
    let mut values = sums(5, 3).values().to_vec();
    let last = values.len() - 1;
    values[last] = -1;
    let bad = zero.clone().filled(values).expect("sized");
    assert_eq!(closed_form(&SHAPE, &bad, &options), Err(SolveError::NotACovariance { exit: 2 }));
    for penalty in [0.0, -1.0, f64::NAN, 2e6] {
        let options = SolveOptions { penalty: Penalty::Fixed(penalty), ..SolveOptions::default() };
        assert!(matches!(closed_form(&SHAPE, &sums(5, 3), &options), Err(SolveError::Penalty(_))));
    }
    let classes = Sums::zero(2, D, HORIZON).expect("within limits");
    assert_eq!(closed_form(&SHAPE, &classes, &options), Err(SolveError::Shape));
}

#[test]
fn a_ladder_starts_as_good_as_its_exits_and_promises_no_more_than_it_holds() {
    let sums = sums(400, 1);
    let options = SolveOptions::default();
    let moments = judge(&SHAPE, &closed_form(&SHAPE, &sums, &options).expect("solvable"), 7);
    for (rank, slack) in [(1, 1.6), (4, 1.1), (16, 1.1)] {
        let shape = Shape { recipe: Recipe::Ladder { rank }, ..SHAPE };
        let start = closed_form(&shape, &sums, &options).expect("solvable");
        assert_eq!(start.len(), shape.parameters());
        let figures = judge(&shape, &start, 7);
        // At the first exit there is nothing to average: with enough rank it is the ridge itself.
        if rank >= HORIZON {
            assert!((figures[0].0 / moments[0].0 - 1.0).abs() < 1e-3, "{rank}: {figures:?} {moments:?}");
        }
        assert!(figures[1].0 < slack * moments[0].0.max(moments[1].0), "{rank}: {figures:?} {moments:?}");
        for (_, shares) in figures {
            assert!(shares[0] < 0.14 && shares[2] > 0.86, "{rank}: {shares:?}");
        }
    }
    let shape = Shape { recipe: Recipe::Ladder { rank: 65 }, ..SHAPE };
    assert_eq!(closed_form(&shape, &sums, &options), Err(SolveError::Shape));
}

/// Windows of a noisy seasonal series, one at every step: eight numbers that say nothing, the last four values, and the
/// next three.
fn seasonal(n: usize, seed: u64) -> (Sums, SolveOptions) {
    let mut random = Random::new(seed);
    let mut series = vec![0.0f32; 4];
    while series.len() < n + 7 {
        let next = 0.9 * series[series.len() - 4] + 0.4 * random.normal();
        series.push(next);
    }
    let mut sums = Sums::zero_of(Statistic::Forecast, 1, 12, 3).expect("within limits");
    let (mut z, mut y) = (vec![0; 12], vec![0; 3]);
    for at in 4..n + 4 {
        let mut features: Vec<f32> = (0..8).map(|_| random.normal()).collect();
        features.extend(&series[at - 4..at]);
        quantize_all(&features, &mut z).expect("finite");
        quantize_all(&series[at..at + 3], &mut y).expect("finite");
        sums.add_values(&z, &y, 1).expect("fits");
    }
    let regressors = Regressors { extras: 4, season: vec![4, 3, 2], last: Some(1), before: None, every: 1 };
    (sums, SolveOptions { regressors, ..SolveOptions::default() })
}

#[test]
fn a_pattern_shared_by_the_steps_needs_fewer_samples() {
    // Mean squared distance of the weights from the law's, over many short series.
    let (mut known, mut unknown) = (0.0, 0.0);
    for seed in 0..40 {
        let (sums, options) = seasonal(24, seed);
        let off = |options: &SolveOptions| {
            let exit = ridge(&sums, 0, options).expect("solvable");
            let law = |h: usize, j: usize| if j == 8 + h { 0.9 } else { 0.0 };
            let rows = exit.weight.chunks_exact(12).enumerate();
            rows.map(|(h, row)| row.iter().enumerate().map(|(j, w)| (w - law(h, j)).powi(2)).sum::<f64>())
                .sum::<f64>()
        };
        known += off(&options);
        unknown += off(&SolveOptions::default());
    }
    assert!(known < 0.5 * unknown, "{known} against {unknown}");
}

#[test]
fn many_numbers_that_say_nothing_do_no_harm_beside_few_that_do() {
    let (sums, options) = seasonal(400, 3);
    let exit = ridge(&sums, 0, &options).expect("solvable");
    for (h, row) in exit.weight.chunks_exact(12).enumerate() {
        assert!(row[..8].iter().all(|w| w.abs() < 0.02), "{row:?}");
        assert!((row[8 + h] - 0.9).abs() < 0.1, "{row:?}");
        assert!((exit.residual[h] - 0.16).abs() < 0.04, "{:?}", exit.residual);
    }
}

#[test]
fn overlapping_windows_leave_wider_quantiles() {
    let (sums, options) = seasonal(24, 1);
    let apart =
        SolveOptions { regressors: Regressors { every: 3, ..options.regressors.clone() }, ..options.clone() };
    let penalty = Penalty::Fixed(1.0);
    let [overlapping, apart] = [options, apart]
        .map(|options| ridge(&sums, 0, &SolveOptions { penalty, ..options }).expect("solvable").residual[2]);
    assert!(overlapping > 1.05 * apart, "{overlapping} against {apart}");
}

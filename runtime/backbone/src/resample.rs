//! The numeric part of pre-processing, in f64, identical to the builder's in `models/`.

/// Added to the standard deviation, so that a constant input becomes zeros.
const LEAST_DEVIATION: f64 = 1e-4;

/// Resamples `x` (at least one number) to `n` points and appends them to `out`.
///
/// Equal length copies; one number repeats; fewer numbers than `n` are interpolated linearly at
/// `i·(m−1)/(n−1)`; more are averaged over `[i·m/n, (i+1)·m/n)`, taking `x` as piecewise constant.
pub(crate) fn resample(x: &[f64], n: usize, out: &mut Vec<f64>) {
    let m = x.len();
    debug_assert!(m >= 1, "callers refuse empty channels");
    if m == n {
        out.extend_from_slice(x);
    } else if m == 1 {
        out.extend(std::iter::repeat_n(x[0], n));
    } else if m < n {
        let step = (m - 1) as f64 / (n - 1) as f64;
        out.extend((0..n).map(|i| {
            let at = i as f64 * step;
            let left = (at as usize).min(m - 2);
            let share = at - left as f64;
            x[left] * (1.0 - share) + x[left + 1] * share
        }));
    } else {
        // Lengths in n-ths of an element are whole numbers, so the weights carry no rounding.
        out.extend((0..n).map(|i| {
            let (from, to) = (i * m, (i + 1) * m);
            let covered = from / n..to.div_ceil(n);
            let sum: f64 = covered.map(|j| x[j] * (to.min((j + 1) * n) - from.max(j * n)) as f64).sum();
            sum / m as f64
        }));
    }
}

/// Mean and population standard deviation of at least one number.
pub(crate) fn mean_and_deviation(x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Subtracts `mean` and divides by (`deviation` + 1e-4).
pub(crate) fn standardize(x: &mut [f64], mean: f64, deviation: f64) {
    let scale = deviation + LEAST_DEVIATION;
    for v in x {
        *v = (*v - mean) / scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(n: usize, x: &[f64]) -> Vec<f64> {
        let mut out = Vec::new();
        resample(x, n, &mut out);
        out
    }

    #[test]
    fn resamples_by_the_contract() {
        assert_eq!(to(3, &[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
        assert_eq!(to(3, &[7.0]), [7.0, 7.0, 7.0]);
        assert_eq!(to(5, &[0.0, 1.0, 0.0]), [0.0, 0.5, 1.0, 0.5, 0.0]);
        assert_eq!(to(2, &[1.0, 3.0, 5.0, 7.0]), [2.0, 6.0]);
        // 3 -> 2: [0, 1.5) holds all of the first and half of the second.
        assert_eq!(to(2, &[3.0, 6.0, 9.0]), [4.0, 8.0]);
    }

    #[test]
    fn a_constant_becomes_zeros_and_spread_becomes_one() {
        let standardize = |x: &mut [f64]| {
            let (mean, deviation) = mean_and_deviation(x);
            super::standardize(x, mean, deviation);
        };
        let mut x = [5.0; 8];
        standardize(&mut x);
        assert!(x.iter().all(|v| v.abs() < 1e-12));
        let mut x = [-1.0, 1.0];
        standardize(&mut x);
        assert!((x[1] - 1.0 / 1.0001).abs() < 1e-12);
    }
}

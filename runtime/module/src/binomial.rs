//! Exact binomial statements.

/// P(Bin(n, p) ≤ k), each term from its logarithm so that large n do not underflow on the way.
pub(crate) fn binomial_tail(k: usize, n: usize, p: f64) -> f64 {
    let (log_p, log_q) = (p.ln(), (-p).ln_1p());
    let mut log_choose = 0.0;
    let mut tail = 0.0;
    for i in 0..=k.min(n) {
        if i > 0 {
            log_choose += ((n - i + 1) as f64 / i as f64).ln();
        }
        tail += (log_choose + i as f64 * log_p + (n - i) as f64 * log_q).exp();
    }
    tail.min(1.0)
}

/// The interval of Clopper & Pearson 1934 for a rate of which `k` of `n` trials are known: it holds the true rate
/// at least with this confidence, whatever the rate is. Found by bisection, to 2⁻⁴⁰.
pub fn clopper_pearson(k: usize, n: usize, confidence: f64) -> (f64, f64) {
    let half = f64::midpoint(1.0, -confidence);
    // The tail falls as p rises.
    let solve = |k: usize, want: f64| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if binomial_tail(k, n, middle) > want {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    let low = if k == 0 { 0.0 } else { solve(k - 1, 1.0 - half) };
    let high = if k >= n { 1.0 } else { solve(k, half) };
    (low, high)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Most breaks of a promise that holds with probability `1 − p` which `n` trials show in 999 of 1000 cases.
    pub(crate) fn most_breaks(n: usize, p: f64) -> usize {
        (0..=n).find(|&k| binomial_tail(k, n, p) >= 0.999).unwrap_or(n)
    }

    #[test]
    fn binomial_tail_is_exact() {
        assert!((binomial_tail(0, 299, 0.01) - 0.99f64.powi(299)).abs() < 1e-12);
        let by_hand = 0.9f64.powi(10) + 10.0 * 0.1 * 0.9f64.powi(9);
        assert!((binomial_tail(1, 10, 0.1) - by_hand).abs() < 1e-12);
        assert!((binomial_tail(10, 10, 0.1) - 1.0).abs() < 1e-12);
        assert!(binomial_tail(600, 65_536, 0.01) < 0.05);
    }

    #[test]
    fn the_interval_is_that_of_the_beta_quantiles() {
        for (k, n, low, high) in [
            (0, 10, 0.0, 1.0 - 0.025f64.powf(0.1)),
            (10, 10, 0.025f64.powf(0.1), 1.0),
            (3, 20, 0.032_070_937_168_5, 0.378_926_776_8),
        ] {
            let got = clopper_pearson(k, n, 0.95);
            assert!((got.0 - low).abs() < 1e-7 && (got.1 - high).abs() < 1e-7, "{k} of {n}: {got:?}");
        }
    }
}

//! Probabilities from logits, and the log prior of a gateway's own labels.

/// Turns logits into probabilities in place; subtracting the largest keeps it finite.
pub fn softmax(logits: &mut [f32]) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - top).exp();
        total += *x;
    }
    for x in logits.iter_mut() {
        *x /= total;
    }
}

/// Index of the largest value, the first of equals; 0 for an empty slice.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Samples per class.
///
/// # Panics
/// If a label is not below `outputs`.
pub fn label_counts(labels: &[u16], outputs: usize) -> Vec<u64> {
    let mut counts = vec![0; outputs];
    for &label in labels {
        counts[usize::from(label)] += 1;
    }
    counts
}

/// log((n_c + a) / (N + a·C)) with the additive smoothing `a` per class, in nats.
///
/// Added to prior-free logits it gives the posterior under this gateway's own class mix; added while training
/// it keeps that mix out of the parameters (logit adjustment, Menon et al. 2021, "Long-tail learning via logit
/// adjustment", §4). `smoothing` must be above 0, otherwise unseen classes get −∞.
pub fn log_prior(counts: &[u64], smoothing: f64) -> Vec<f32> {
    let total: u64 = counts.iter().sum();
    let denominator = total as f64 + smoothing * counts.len() as f64;
    counts.iter().map(|&n| ((n as f64 + smoothing) / denominator).ln() as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_and_survives_large_logits() {
        let mut p = [1000.0, 999.0, -1000.0];
        softmax(&mut p);
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((p[0] / p[1] - std::f32::consts::E).abs() < 1e-4);
    }

    #[test]
    fn log_prior_is_a_distribution() {
        let prior = log_prior(&[3, 0, 1], 0.5);
        assert!((prior.iter().map(|p| p.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((prior[0].exp() - 3.5 / 5.5).abs() < 1e-6);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }
}

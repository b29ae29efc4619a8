//! Pure figures: accuracy on a class mix, means, intervals.

/// 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
const T_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Share of each class in `labels`.
pub(crate) fn class_mix(labels: &[u16], classes: usize) -> Vec<f64> {
    let mut mix = vec![0.0; classes];
    for &label in labels {
        mix[usize::from(label)] += 1.0 / labels.len() as f64;
    }
    mix
}

/// Accuracy where each class counts by its share in `mix`: the recall of the classes, weighted by the mix, over those that the
/// test set holds, divided by their share. `right[i]` says whether sample i was answered correctly.
pub(crate) fn accuracy_on_mix(right: &[bool], labels: &[u16], mix: &[f64]) -> f64 {
    let (mut hits, mut counts) = (vec![0.0; mix.len()], vec![0.0; mix.len()]);
    for (right, &label) in right.iter().zip(labels) {
        counts[usize::from(label)] += 1.0;
        hits[usize::from(label)] += f64::from(u8::from(*right));
    }
    let tested = (0..mix.len()).filter(|&class| counts[class] > 0.0);
    let (sum, share) = tested.fold((0.0, 0.0), |(sum, share), class| {
        (sum + mix[class] * hits[class] / counts[class], share + mix[class])
    });
    // Rounding can carry the quotient of equal sums a little above 1.
    if share > 0.0 { (sum / share).min(1.0) } else { 0.0 }
}

/// Mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Smallest value; infinity of nothing.
pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Interval {
    /// Mean.
    pub(crate) mean: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

/// Mean of `values` with its 95 % interval by Student's t; `None` below two values.
pub(crate) fn t_interval(values: &[f64]) -> Option<Interval> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = mean(values);
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    // Above 30 degrees of freedom t is within 0.1 % of 1.96 + 2.37/df + 2.8/df².
    let df = (n - 1) as f64;
    let t = T_975.get(n - 2).copied().unwrap_or(1.96 + 2.37 / df + 2.8 / (df * df));
    let half = t * (variance / n as f64).sqrt();
    Some(Interval { mean, low: mean - half, high: mean + half })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} and {b}");
    }

    #[test]
    fn classes_count_by_their_share() {
        let mix = class_mix(&[0, 0, 0, 2], 3);
        assert_eq!(mix, [0.75, 0.0, 0.25]);
        // Class 0: 1 of 2 right, class 1: wrong but without share, class 2: right.
        close(accuracy_on_mix(&[true, false, false, true], &[0, 0, 1, 2], &mix), 0.75 * 0.5 + 0.25);
        // A class that the test set lacks leaves the rest its weight.
        close(accuracy_on_mix(&[true, false], &[0, 0], &mix), 0.5);
        close(accuracy_on_mix(&[], &[], &mix), 0.0);
    }

    #[test]
    fn the_interval_is_students() {
        let interval = t_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        close(interval.mean, 3.0);
        close(interval.high - interval.mean, 2.776 * (2.5f64 / 5.0).sqrt());
        close(interval.mean - interval.low, interval.high - interval.mean);
        assert_eq!(t_interval(&[1.0]), None);
        let many: Vec<f64> = (0..100).map(f64::from).collect();
        let interval = t_interval(&many).unwrap();
        // t of 99 degrees of freedom is 1.984.
        let half = 1.984 * (many.iter().map(|x| (x - 49.5).powi(2)).sum::<f64>() / 99.0 / 100.0).sqrt();
        assert!(((interval.high - 49.5) / half - 1.0).abs() < 1e-3);
    }

    #[test]
    fn least_and_mean() {
        close(mean(&[1.0, 2.0]), 1.5);
        close(mean(&[]), 0.0);
        close(least(&[3.0, 1.0, 2.0]), 1.0);
    }
}

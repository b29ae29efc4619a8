//! Figures that people compare. Every function gives `None` where its figure does not exist (no samples, one
//! class only, a season longer than the series), and never a NaN made up for it.

/// Share of right answers.
pub fn accuracy(answers: &[u16], labels: &[u16]) -> Option<f64> {
    let right = answers.iter().zip(labels).filter(|(a, b)| a == b).count();
    (!labels.is_empty() && answers.len() == labels.len()).then(|| right as f64 / labels.len() as f64)
}

/// Mean over the classes that occur of the share of their samples that were answered right.
pub fn balanced_accuracy(answers: &[u16], labels: &[u16]) -> Option<f64> {
    if labels.is_empty() || answers.len() != labels.len() {
        return None;
    }
    let classes = usize::from(*labels.iter().max()?) + 1;
    let (mut right, mut all) = (vec![0u64; classes], vec![0u64; classes]);
    for (answer, &label) in answers.iter().zip(labels) {
        all[usize::from(label)] += 1;
        right[usize::from(label)] += u64::from(*answer == label);
    }
    let recalls = right.iter().zip(&all).filter(|(_, n)| **n > 0).map(|(r, n)| *r as f64 / *n as f64);
    let occurring = all.iter().filter(|n| **n > 0).count();
    Some(recalls.sum::<f64>() / occurring as f64)
}

/// Mean of −ln p of the right class, nats; `probabilities` are `n × classes`. A probability below 2⁻⁵² counts as
/// that.
pub fn log_loss(probabilities: &[f32], labels: &[u16]) -> Option<f64> {
    let classes = probabilities.len().checked_div(labels.len())?;
    if classes * labels.len() != probabilities.len() || labels.iter().any(|&c| usize::from(c) >= classes) {
        return None;
    }
    let rows = probabilities.chunks_exact(classes.max(1)).zip(labels);
    let total: f64 = rows.map(|(row, &c)| -f64::from(row[usize::from(c)]).max(f64::EPSILON).ln()).sum();
    Some(total / labels.len() as f64)
}

/// Mean absolute scaled error: the mean absolute error of `forecast`, divided by that of the naive forecast of
/// `season` steps within `history` (Hyndman & Koehler 2006, "Another look at measures of forecast accuracy", §3).
/// `None` where the history is no longer than a season or repeats itself exactly.
pub fn mase(forecast: &[f64], actual: &[f64], history: &[f64], season: usize) -> Option<f64> {
    if season == 0 || history.len() <= season || actual.is_empty() || forecast.len() != actual.len() {
        return None;
    }
    let naive = history.iter().zip(&history[season..]).map(|(a, b)| (a - b).abs()).sum::<f64>()
        / (history.len() - season) as f64;
    let error = forecast.iter().zip(actual).map(|(f, y)| (f - y).abs()).sum::<f64>() / actual.len() as f64;
    (naive > 0.0).then(|| error / naive)
}

/// Weighted quantile loss: 2 Σ ρ_q(y − ŷ_q) / Σ |y| for each level, and their mean (Salinas et al. 2020, "DeepAR",
/// §4.1, ρ-risk; GluonTS `mean_wQuantileLoss`). `quantiles` are `actual.len() × levels.len()`.
pub fn weighted_quantile_loss(quantiles: &[f64], levels: &[f64], actual: &[f64]) -> Option<(Vec<f64>, f64)> {
    let size: f64 = actual.iter().map(|y| y.abs()).sum();
    if levels.is_empty() || quantiles.len() != levels.len() * actual.len() || size <= 0.0 {
        return None;
    }
    let mut losses = vec![0.0; levels.len()];
    for (row, y) in quantiles.chunks_exact(levels.len()).zip(actual) {
        for ((loss, q), level) in losses.iter_mut().zip(row).zip(levels) {
            let error = y - q;
            *loss += 2.0 * (level * error).max((level - 1.0) * error) / size;
        }
    }
    let mean = losses.iter().sum::<f64>() / levels.len() as f64;
    Some((losses, mean))
}

/// Area under the ROC curve: the probability that an anomalous sample scores above a normal one, ties counting one
/// half (mid-ranks; Hanley & McNeil 1982). NaN scores count as lowest.
pub fn roc_auc(scores: &[f32], anomalous: &[bool]) -> Option<f64> {
    let groups = ranked(scores, anomalous)?;
    let (positives, negatives) = totals(&groups);
    let (mut below, mut area) = (0, 0.0);
    for (positive, negative) in groups.iter().rev() {
        area += *positive as f64 * (below as f64 + *negative as f64 / 2.0);
        below += negative;
    }
    Some(area / (positives as f64 * negatives as f64))
}

/// Average precision: Σ (recall_i − recall_{i−1}) precision_i over falling thresholds, equal scores taken together
/// (as scikit-learn's `average_precision_score`, no interpolation). Needs one sample of each kind.
pub fn average_precision(scores: &[f32], anomalous: &[bool]) -> Option<f64> {
    let groups = ranked(scores, anomalous)?;
    let (positives, _) = totals(&groups);
    let (mut found, mut taken, mut area) = (0, 0, 0.0);
    for (positive, negative) in &groups {
        found += positive;
        taken += positive + negative;
        area += *positive as f64 / positives as f64 * found as f64 / taken as f64;
    }
    Some(area)
}

/// Share of events with at least one alarm, that is a score above `threshold`. An event is a run of anomalous
/// samples in order.
pub fn event_recall(scores: &[f32], anomalous: &[bool], threshold: f32) -> Option<f64> {
    let (mut events, mut seen, mut inside, mut alarmed) = (0u64, 0u64, false, false);
    for (score, &anomalous) in scores.iter().zip(anomalous).chain([(&0.0, &false)]) {
        match (inside, anomalous) {
            (_, true) => {
                alarmed = (inside && alarmed) || *score > threshold;
                inside = true;
            }
            (true, false) => {
                events += 1;
                seen += u64::from(alarmed);
                inside = false;
            }
            (false, false) => {}
        }
    }
    (events > 0 && scores.len() == anomalous.len()).then(|| seen as f64 / events as f64)
}

/// Share of normal samples with a score above `threshold`.
pub fn false_alarm_rate(scores: &[f32], anomalous: &[bool], threshold: f32) -> Option<f64> {
    let normal = scores.iter().zip(anomalous).filter(|(_, anomalous)| !**anomalous);
    let (alarms, n) =
        normal.fold((0u64, 0u64), |(alarms, n), (s, _)| (alarms + u64::from(*s > threshold), n + 1));
    (n > 0 && scores.len() == anomalous.len()).then(|| alarms as f64 / n as f64)
}

/// Anomalous and normal samples of every distinct score, from the highest score down; `None` unless both occur.
fn ranked(scores: &[f32], anomalous: &[bool]) -> Option<Vec<(u64, u64)>> {
    if scores.len() != anomalous.len() {
        return None;
    }
    let key = |s: f32| if s.is_nan() { f32::NEG_INFINITY } else { s };
    let mut pairs: Vec<(f32, bool)> = scores.iter().map(|&s| key(s)).zip(anomalous.iter().copied()).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut groups: Vec<(u64, u64)> = Vec::new();
    let mut last = None;
    for (score, anomalous) in pairs {
        // 0 and −0 are one score, as they compare.
        if last.is_none_or(|last: f32| last > score) {
            groups.push((0, 0));
            last = Some(score);
        }
        if let Some((positive, negative)) = groups.last_mut() {
            *positive += u64::from(anomalous);
            *negative += u64::from(!anomalous);
        }
    }
    let (positives, negatives) = totals(&groups);
    (positives > 0 && negatives > 0).then_some(groups)
}

fn totals(groups: &[(u64, u64)]) -> (u64, u64) {
    groups.iter().fold((0, 0), |(p, n), (positive, negative)| (p + positive, n + negative))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: Option<f64>, want: f64) {
        assert!(got.is_some_and(|got| (got - want).abs() < 1e-12), "{got:?} {want}");
    }

    #[test]
    fn classification_by_hand() {
        let (answers, labels) = ([0, 0, 1, 1, 2], [0, 0, 0, 1, 1]);
        near(accuracy(&answers, &labels), 3.0 / 5.0);
        near(balanced_accuracy(&answers, &labels), f64::midpoint(2.0 / 3.0, 1.0 / 2.0));
        near(log_loss(&[0.5, 0.5, 0.25, 0.75], &[0, 1]), f64::midpoint(2f64.ln(), (4.0f64 / 3.0).ln()));
        near(log_loss(&[1.0, 0.0], &[1]), -f64::EPSILON.ln());
        assert_eq!(
            (accuracy(&[], &[]), balanced_accuracy(&[1], &[]), log_loss(&[], &[])),
            (None, None, None)
        );
        assert_eq!(log_loss(&[0.5, 0.5], &[2]), None);
    }

    #[test]
    fn forecasts_by_hand() {
        // Season 2: naive errors |3−1|, |2−2|, |5−3| of a history of five, mean 4/3.
        let history = [1.0, 2.0, 3.0, 2.0, 5.0];
        near(mase(&[2.0, 4.0], &[3.0, 6.0], &history, 2), 1.5 / (4.0 / 3.0));
        assert_eq!(mase(&[1.0], &[1.0], &[1.0, 2.0], 2), None);
        assert_eq!(mase(&[1.0], &[1.0], &[1.0, 1.0, 1.0], 1), None);
        let (each, mean) =
            weighted_quantile_loss(&[1.0, 2.0, 3.0, 4.0], &[0.1, 0.5], &[2.0, 3.0]).expect("exists");
        // Level 0.1: 0.1·1 + 0.9·0; level 0.5: 0 + 0.5·1; twice, over 5.
        near(Some(each[0]), 2.0 * 0.1 / 5.0);
        near(Some(each[1]), 2.0 * 0.5 / 5.0);
        near(Some(mean), 0.12);
        assert_eq!(weighted_quantile_loss(&[1.0], &[0.5], &[0.0]), None);
    }

    #[test]
    fn detection_by_hand() {
        let scores = [0.1, 0.4, 0.35, 0.8, 0.4];
        let anomalous = [false, false, true, true, true];
        // 0.35 is above one of two normals, 0.8 above both, 0.4 above one and tied with the other.
        near(roc_auc(&scores, &anomalous), (1.0 + 2.0 + 1.5) / 6.0);
        // 0.8: 1/1; the two 0.4: 2/3; 0.35: 3/4.
        near(average_precision(&scores, &anomalous), (1.0 + 2.0 / 3.0 + 3.0 / 4.0) / 3.0);
        near(false_alarm_rate(&scores, &anomalous, 0.2), 0.5);
        near(event_recall(&scores, &anomalous, 0.7), 1.0);
        near(event_recall(&scores, &anomalous, 0.9), 0.0);
        let events = [true, true, false, true, false, false, true];
        near(event_recall(&[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0], &events, 0.5), 2.0 / 3.0);
        assert_eq!(roc_auc(&scores, &[true; 5]), None);
        assert_eq!(event_recall(&scores, &[false; 5], 0.5), None);
        assert_eq!(false_alarm_rate(&scores, &[true; 5], 0.5), None);
        near(roc_auc(&[f32::NAN, 0.0, -0.0], &[false, true, false]), 0.75);
    }
}

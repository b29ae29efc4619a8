//! Anomalies: modules of normal training samples, an alarm calibrated on normal samples they have not seen.

use super::bench::{Bench, Early};
use super::draw::order;
use loadonce_module::metrics::{average_precision, roc_auc};
use loadonce_module::{ANOMALOUS, Decider, NORMAL, Recipe, Served, alarm, clopper_pearson};
use serde::Serialize;

const CONFIDENCE: f64 = 0.95;

/// Figures of one module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// `moments` or `probe`.
    pub(crate) recipe: &'static str,
    /// Labelled anomalies it was trained with.
    pub(crate) anomalies: usize,
    /// Draw of these.
    pub(crate) draw: u64,
    /// Normal samples it was made from.
    pub(crate) normals: usize,
    /// Normal samples that calibrated the alarm.
    pub(crate) calibrated_on: usize,
    /// Figures of each exit.
    pub(crate) exits: Vec<Exit>,
    /// What early exits do, where they were asked for and there is an alarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) early: Option<Early>,
}

/// Figures of one exit; `None` where the test samples hold no anomaly, or there is no alarm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Exit {
    /// Area under the ROC curve.
    pub(crate) roc_auc: Option<f64>,
    /// Area under the precision-recall curve, as average precision.
    pub(crate) pr_auc: Option<f64>,
    /// The alarm's threshold; none with too few normal samples.
    pub(crate) threshold: Option<f32>,
    /// Share of events with an alarm.
    pub(crate) event_recall: Option<f64>,
    /// Its exact 95 % interval.
    pub(crate) event_recall_interval: Option<(f64, f64)>,
    /// Share of normal test samples with an alarm.
    pub(crate) false_alarms: Option<f64>,
    /// Its exact 95 % interval.
    pub(crate) false_alarms_interval: Option<(f64, f64)>,
    /// The interval that the calibration gave beforehand.
    pub(crate) promised: Option<(f64, f64)>,
}

/// A module to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Recipe.
    pub(crate) recipe: Recipe,
    /// Labelled anomalies, at most.
    pub(crate) anomalies: usize,
    /// Draw of these.
    pub(crate) draw: u64,
}

/// Scores of `rows` at every exit, exit after exit.
fn scores(bench: &Bench<'_>, recipe: Recipe, params: &[f32], rows: &[usize]) -> Vec<Vec<f32>> {
    let mut decider = Decider::new(bench.shape(recipe));
    let served = Served { params, offset: &[], alarms: &[] };
    let mut out = vec![Vec::with_capacity(rows.len()); bench.features.exits];
    for &row in rows {
        for (k, z) in bench.features.row(row).chunks_exact(bench.features.width).enumerate() {
            decider.exit(&served, k, z);
            out[k].push(decider.score());
        }
    }
    out
}

/// Does one job.
pub(crate) fn run(bench: &Bench<'_>, job: Job) -> Result<Figures, String> {
    let set = bench.set;
    let of = |rows: &[usize], class: u16| -> Vec<usize> {
        rows.iter().copied().filter(|&row| set.labels[row] == class).collect()
    };
    let (heldout, normals) = split(bench, &of(&set.train, NORMAL));
    let known: Vec<usize> = order(&job.draw.to_string(), &of(&set.train, ANOMALOUS));
    let known = &known[..job.anomalies.min(known.len())];
    let mut rows: Vec<usize> = normals.iter().chain(known).copied().collect();
    rows.sort_unstable();
    let params = bench.fit(job.recipe, &rows, job.draw)?;

    let alarms: Vec<_> = scores(bench, job.recipe, &params, &heldout)
        .iter()
        .map(|scores| alarm(scores, bench.manifest.anomaly.false_alarms))
        .collect();
    let tested = scores(bench, job.recipe, &params, &set.test);
    let bad: Vec<bool> = set.test.iter().map(|&row| set.labels[row] == ANOMALOUS).collect();
    let exits = tested.iter().zip(&alarms).map(|(scores, alarm)| {
        let threshold = alarm.map(|alarm| alarm.threshold);
        let events = threshold.map(|threshold| events(bench, scores, &bad, threshold));
        let (found, all) = events.unwrap_or((0, 0));
        let quiet = bad.iter().filter(|&&bad| !bad).count();
        let raised = threshold.map(|t| scores.iter().zip(&bad).filter(|(s, bad)| !**bad && **s > t).count());
        Exit {
            roc_auc: roc_auc(scores, &bad),
            pr_auc: average_precision(scores, &bad),
            threshold,
            event_recall: (all > 0).then(|| found as f64 / all as f64),
            event_recall_interval: (all > 0).then(|| clopper_pearson(found, all, CONFIDENCE)),
            false_alarms: raised.filter(|_| quiet > 0).map(|raised| raised as f64 / quiet as f64),
            false_alarms_interval: raised
                .filter(|_| quiet > 0)
                .map(|raised| clopper_pearson(raised, quiet, CONFIDENCE)),
            promised: alarm.map(|alarm| alarm.interval),
        }
    });
    let mut figures = Figures {
        recipe: job.recipe.name(),
        anomalies: known.len(),
        draw: job.draw,
        normals: normals.len(),
        calibrated_on: heldout.len(),
        exits: exits.collect(),
        early: None,
    };
    let thresholds: Option<Vec<f32>> =
        alarms.iter().map(|alarm| alarm.map(|alarm| alarm.threshold)).collect();
    if let (true, Some(thresholds)) = (bench.early, thresholds) {
        let (first, second) = bench.halves();
        let served = Served { params: &params, offset: &[], alarms: &thresholds };
        let (mut early, leaving) = bench.leave(job.recipe, &served, &first, second)?;
        let all = scores(bench, job.recipe, &params, &leaving.rows);
        // The figure of an alarm: balanced over normal and anomalous samples.
        let share = |exit: &dyn Fn(usize) -> usize| {
            let (mut right, mut count) = ([0.0; 2], [0.0; 2]);
            for (i, &row) in leaving.rows.iter().enumerate() {
                let (k, class) = (exit(i), set.labels[row]);
                count[usize::from(class)] += 1.0;
                right[usize::from(class)] +=
                    f64::from(u8::from((all[k][i] > thresholds[k]) == (class == ANOMALOUS)));
            }
            let shares: Vec<f64> =
                right.iter().zip(count).filter(|(_, n)| *n > 0.0).map(|(r, n)| r / n).collect();
            shares.iter().sum::<f64>() / shares.len().max(1) as f64
        };
        early.figure = share(&|i| leaving.exits[i]);
        early.figure_last = share(&|_| bench.features.exits - 1);
        figures.early = Some(early);
    }
    Ok(figures)
}

/// Normal training samples that calibrate the alarm, and those that make the module: as the data says, else halves in
/// the order of blake3("heldout row").
fn split(bench: &Bench<'_>, normals: &[usize]) -> (Vec<usize>, Vec<usize>) {
    if let Some(flags) = &bench.set.calibrate {
        return normals.iter().partition(|&&row| flags[row]);
    }
    let mut heldout = order("heldout", normals);
    let rest = heldout.split_off(heldout.len() / 2);
    (heldout, rest)
}

/// Events with a score above the threshold, and all events of the test samples. Without event numbers every anomalous
/// sample is an event.
fn events(bench: &Bench<'_>, scores: &[f32], bad: &[bool], threshold: f32) -> (usize, usize) {
    let numbers: Vec<i32> = match &bench.set.events {
        Some(events) => bench.set.test.iter().map(|&row| events[row]).collect(),
        None => bad.iter().enumerate().map(|(i, &bad)| if bad { i as i32 + 1 } else { 0 }).collect(),
    };
    let mut all: Vec<i32> = numbers.iter().copied().filter(|&number| number > 0).collect();
    all.sort_unstable();
    all.dedup();
    let alarmed = |event: &&i32| numbers.iter().zip(scores).any(|(n, s)| n == *event && *s > threshold);
    (all.iter().filter(alarmed).count(), all.len())
}

//! Classes: one module per recipe, number of labels and draw, judged on the test samples at every exit.

use super::bench::{Bench, Early};
use super::draw::{Labels, draw};
use loadonce_module::{Recipe, Runner, Served, argmax, softmax};
use serde::Serialize;

/// Figures of one module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// `moments`, `probe` or `ladder`.
    pub(crate) recipe: &'static str,
    /// Labels per class, `all` for the whole training split.
    pub(crate) labels: String,
    /// Draw.
    pub(crate) draw: u64,
    /// Labelled samples it was made from.
    pub(crate) samples: usize,
    /// Share of the test samples answered rightly, by exit.
    pub(crate) accuracy: Vec<f64>,
    /// Mean cross-entropy on them in nats, by exit.
    pub(crate) log_loss: Vec<f64>,
    /// What early exits do, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) early: Option<Early>,
}

/// A module to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    /// Recipe.
    pub(crate) recipe: Recipe,
    /// Labels per class.
    pub(crate) labels: Labels,
    /// Draw.
    pub(crate) draw: u64,
}

/// Class of each of `rows` at every exit (`n × exits`), and the probability of its true class.
fn answers(bench: &Bench<'_>, recipe: Recipe, params: &[f32], rows: &[usize]) -> (Vec<u16>, Vec<f32>) {
    let shape = bench.shape(recipe);
    let (mut runner, mut logits) = (Runner::new(shape), vec![0.0; shape.outputs]);
    let (mut classes, mut truth) = (Vec::new(), Vec::new());
    for &row in rows {
        for (k, z) in bench.features.row(row).chunks_exact(shape.features).enumerate() {
            runner.exit(params, k, z, &mut logits);
            classes.push(argmax(&logits) as u16);
            softmax(&mut logits);
            truth.push(logits[usize::from(bench.set.labels[row])]);
        }
    }
    (classes, truth)
}

/// Class of each test sample at every exit, `n × exits`.
pub(crate) fn predictions(bench: &Bench<'_>, recipe: Recipe, params: &[f32]) -> Vec<u16> {
    answers(bench, recipe, params, &bench.set.test).0
}

/// Does one job.
pub(crate) fn run(bench: &Bench<'_>, job: Job) -> Result<Figures, String> {
    let (set, exits) = (bench.set, bench.features.exits);
    let rows = draw(&set.train, &set.labels, job.labels, job.draw);
    let params = bench.fit(job.recipe, &rows, job.draw)?;
    let (classes, truth) = answers(bench, job.recipe, &params, &set.test);
    let (mut right, mut loss) = (vec![0.0; exits], vec![0.0; exits]);
    for (i, &row) in set.test.iter().enumerate() {
        for k in 0..exits {
            right[k] += f64::from(u8::from(classes[i * exits + k] == set.labels[row]));
            loss[k] -= f64::from(truth[i * exits + k].max(f32::MIN_POSITIVE).ln());
        }
    }
    let n = set.test.len() as f64;
    Ok(Figures {
        recipe: job.recipe.name(),
        labels: job.labels.to_string(),
        draw: job.draw,
        samples: rows.len(),
        accuracy: right.iter().map(|right| right / n).collect(),
        log_loss: loss.iter().map(|loss| loss / n).collect(),
        early: if bench.early { Some(early(bench, job.recipe, &params, &rows)?) } else { None },
    })
}

/// Calibrates on the training samples that were not drawn and half of the test samples, without their labels.
fn early(bench: &Bench<'_>, recipe: Recipe, params: &[f32], drawn: &[usize]) -> Result<Early, String> {
    let (set, exits) = (bench.set, bench.features.exits);
    let (first, second) = bench.halves();
    let spare = set.train.iter().copied().filter(|row| drawn.binary_search(row).is_err());
    let unlabelled: Vec<usize> = spare.chain(first).collect();
    let offset = vec![0.0; bench.shape(recipe).outputs];
    let served = Served { params, offset: &offset, alarms: &[] };
    let (mut early, leaving) = bench.leave(recipe, &served, &unlabelled, second)?;
    let (classes, _) = answers(bench, recipe, params, &leaving.rows);
    let share = |exit: &dyn Fn(usize) -> usize| {
        let right = leaving
            .rows
            .iter()
            .enumerate()
            .filter(|(i, row)| classes[i * exits + exit(*i)] == set.labels[**row]);
        right.count() as f64 / leaving.rows.len().max(1) as f64
    };
    early.figure = share(&|i| leaving.exits[i]);
    early.figure_last = share(&|_| exits - 1);
    Ok(early)
}

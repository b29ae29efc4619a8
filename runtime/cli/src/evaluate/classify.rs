//! One module per recipe, number of labels and draw, judged on the test samples at every exit.

use super::draw::{Labels, draw, order};
use super::features::Features;
use crate::data::DataSet;
use loadonce_control::TaskManifest;
use loadonce_module::{
    Dataset, Progress, Recipe, Runner, Shape, Sums, TrainConfig, Trainer, argmax, calibrate, dequantize,
    ladder_start, quantize_all, softmax, solve,
};
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

/// Early exits calibrated on features without labels, measured on the other half of the test samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Early {
    /// Samples that calibrated.
    pub(crate) calibrated_on: usize,
    /// Samples measured.
    pub(crate) measured_on: usize,
    /// Confidence at which a sample leaves; above 1 none does.
    pub(crate) threshold: f32,
    /// Share of the samples that leave at each exit.
    pub(crate) shares: Vec<f64>,
    /// Mean exit, from 1.
    pub(crate) mean_exit: f64,
    /// Share of early answers that differ from the last exit's.
    pub(crate) disagreement: f64,
    /// Accuracy with early exits.
    pub(crate) accuracy: f64,
    /// Accuracy of the last exit on the same samples.
    pub(crate) accuracy_last: f64,
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

/// A task's samples and features.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// The task.
    pub(crate) manifest: &'a TaskManifest,
    /// Samples.
    pub(crate) set: &'a DataSet,
    /// Their features, as an agent's store keeps them.
    pub(crate) features: &'a Features,
    /// Whether early exits are calibrated as well.
    pub(crate) early: bool,
}

/// Answers at every exit.
struct Answers {
    /// `n × exits`.
    labels: Vec<u16>,
    /// Top probability, `n × exits`.
    confidences: Vec<f32>,
    /// Probability of the true class, `n × exits`.
    truth: Vec<f32>,
}

impl Bench<'_> {
    /// The module's sizes.
    pub(crate) fn shape(&self, recipe: Recipe) -> Shape {
        Shape {
            recipe,
            exits: self.features.exits,
            features: self.features.width,
            outputs: self.manifest.classes.len(),
        }
    }

    /// Makes the module of a job: in closed form, and trained from there where the recipe trains.
    pub(crate) fn fit(&self, recipe: Recipe, rows: &[usize], seed: u64) -> Result<Vec<f32>, String> {
        let shape = self.shape(recipe);
        shape.validate().map_err(|e| e.to_string())?;
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let mut sums = Sums::zero(shape.exits, shape.features, shape.outputs).map_err(|e| text(&e))?;
        let mut quanta = vec![0; shape.exits * shape.features];
        let mut data = Dataset::default();
        for &row in rows {
            quantize_all(self.features.row(row), &mut quanta).map_err(|e| text(&e))?;
            sums.add(&quanta, self.set.labels[row], 1).map_err(|e| text(&e))?;
            let z: Vec<f32> = quanta.iter().map(|&q| dequantize(q)).collect();
            data.push(&z, self.set.labels[row]);
        }
        let shrinkage = self.manifest.module.shrinkage;
        let start = match recipe {
            Recipe::Ladder { rank } => ladder_start(&sums, rank, shrinkage),
            Recipe::Moments | Recipe::Probe => solve(&sums, shrinkage),
        };
        let start = start.map_err(|e| text(&e))?;
        if recipe == Recipe::Moments {
            return Ok(start);
        }
        let config = TrainConfig { seed, ..self.manifest.training.clone() };
        let none = vec![0.0; shape.outputs];
        let trainer = Trainer::new(shape, start, data, Dataset::default(), none, config);
        let mut trainer = trainer.map_err(|e| text(&e))?;
        while !matches!(trainer.step(), Progress::Done) {}
        Ok(trainer.finish().params)
    }

    fn answers(&self, recipe: Recipe, params: &[f32], rows: &[usize]) -> Answers {
        let shape = self.shape(recipe);
        let mut runner = Runner::new(shape);
        let mut out = Answers { labels: Vec::new(), confidences: Vec::new(), truth: Vec::new() };
        let mut logits = vec![0.0; shape.outputs];
        for &row in rows {
            let truth = usize::from(self.set.labels[row]);
            for (k, z) in self.features.row(row).chunks_exact(shape.features).enumerate() {
                runner.exit(params, k, z, &mut logits);
                let top = argmax(&logits);
                softmax(&mut logits);
                out.labels.push(top as u16);
                out.confidences.push(logits[top]);
                out.truth.push(logits[truth]);
            }
        }
        out
    }

    /// Class of each test sample at every exit, `n × exits`.
    pub(crate) fn predictions(&self, recipe: Recipe, params: &[f32]) -> Vec<u16> {
        self.answers(recipe, params, &self.set.test).labels
    }

    /// Does one job.
    pub(crate) fn run(&self, job: Job) -> Result<Figures, String> {
        let rows = draw(&self.set.train, &self.set.labels, job.labels, job.draw);
        let params = self.fit(job.recipe, &rows, job.draw)?;
        let answers = self.answers(job.recipe, &params, &self.set.test);
        let (exits, n) = (self.features.exits, self.set.test.len() as f64);
        let (mut right, mut loss) = (vec![0.0; exits], vec![0.0; exits]);
        for (i, &row) in self.set.test.iter().enumerate() {
            for k in 0..exits {
                right[k] += f64::from(u8::from(answers.labels[i * exits + k] == self.set.labels[row]));
                loss[k] -= f64::from(answers.truth[i * exits + k].max(f32::MIN_POSITIVE).ln());
            }
        }
        let early =
            if self.early && exits > 1 { Some(self.early(job.recipe, &params, &rows)?) } else { None };
        Ok(Figures {
            recipe: job.recipe.name(),
            labels: job.labels.to_string(),
            draw: job.draw,
            samples: rows.len(),
            accuracy: right.iter().map(|right| right / n).collect(),
            log_loss: loss.iter().map(|loss| loss / n).collect(),
            early,
        })
    }

    /// Calibrates on the training samples that were not drawn and half of the test samples, without their labels.
    fn early(&self, recipe: Recipe, params: &[f32], drawn: &[usize]) -> Result<Early, String> {
        let halves = order("exits", &self.set.test);
        let (first, second) = halves.split_at(halves.len() / 2);
        let spare = self.set.train.iter().copied().filter(|row| drawn.binary_search(row).is_err());
        let unlabelled: Vec<usize> = spare.chain(first.iter().copied()).collect();
        let exits = self.features.exits;
        let seen = self.answers(recipe, params, &unlabelled);
        let thresholds = calibrate(exits, &seen.confidences, &seen.labels, self.manifest.exits);
        let thresholds = thresholds.map_err(|e| e.to_string())?;
        let answers = self.answers(recipe, params, second);
        let (mut shares, mut differ, mut right, mut right_last) = (vec![0.0; exits], 0, 0, 0);
        for (i, &row) in second.iter().enumerate() {
            let at = |k: usize| i * exits + k;
            let leaves = (0..exits - 1).find(|&k| answers.confidences[at(k)] >= thresholds[k]);
            let (given, last) =
                (answers.labels[at(leaves.unwrap_or(exits - 1))], answers.labels[at(exits - 1)]);
            shares[leaves.unwrap_or(exits - 1)] += 1.0;
            differ += usize::from(given != last);
            right += usize::from(given == self.set.labels[row]);
            right_last += usize::from(last == self.set.labels[row]);
        }
        let n = second.len().max(1) as f64;
        for share in &mut shares {
            *share /= n;
        }
        Ok(Early {
            calibrated_on: unlabelled.len(),
            measured_on: second.len(),
            threshold: thresholds[0],
            mean_exit: shares.iter().enumerate().map(|(k, share)| (k + 1) as f64 * share).sum(),
            shares,
            disagreement: differ as f64 / n,
            accuracy: right as f64 / n,
            accuracy_last: right_last as f64 / n,
        })
    }
}

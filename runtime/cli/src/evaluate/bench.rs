//! A task's samples and features, and what all kinds of tasks do with them: making a module, calibrating exits.

use super::draw::order;
use super::features::Features;
use crate::data::DataSet;
use loadonce_control::{ForecastSpec, TaskKind, TaskManifest};
use loadonce_module::{
    Dataset, Decider, Head, Progress, Recipe, Regressors, Served, Shape, Sums, Target, TrainConfig, Trainer,
    calibrate_exits, closed_form, dequantize, quantize, quantize_all,
};
use serde::Serialize;

/// What is measured on.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// The task.
    pub(crate) manifest: &'a TaskManifest,
    /// Samples.
    pub(crate) set: &'a DataSet,
    /// Their features.
    pub(crate) features: &'a Features,
    /// Whether early exits are calibrated as well.
    pub(crate) early: bool,
}

/// Early exits, calibrated on features without labels and measured on others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Early {
    /// Samples that calibrated.
    pub(crate) calibrated_on: usize,
    /// Samples measured.
    pub(crate) measured_on: usize,
    /// Sureness at which a sample leaves; above 1 none does.
    pub(crate) threshold: f32,
    /// Share of the samples that leave at each exit.
    pub(crate) shares: Vec<f64>,
    /// Mean exit, from 1.
    pub(crate) mean_exit: f64,
    /// Share of early answers that differ from the last exit's.
    pub(crate) disagreement: f64,
    /// The kind's figure with early exits: accuracy, MASE or ROC-AUC.
    pub(crate) figure: f64,
    /// The same of the last exit on the same samples.
    pub(crate) figure_last: f64,
}

/// Where each of some samples leaves, by number from 0.
pub(crate) struct Leaving {
    /// The samples.
    pub(crate) rows: Vec<usize>,
    /// Their exits.
    pub(crate) exits: Vec<usize>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Bench<'_> {
    /// The module's sizes; exits and features are those of the feature file.
    pub(crate) fn shape(&self, recipe: Recipe) -> Shape {
        let Features { exits, width: features, .. } = *self.features;
        let (head, outputs) = match (self.manifest.kind, &self.manifest.forecast) {
            (TaskKind::Forecast, Some(forecast)) => {
                let horizon = forecast.horizon as u16;
                let head = Head::Forecast { horizon, quantiles: forecast.quantiles };
                (head, forecast.horizon * forecast.quantiles.len())
            }
            (TaskKind::Anomaly, _) if recipe == Recipe::Moments => (Head::Anomaly, features),
            (TaskKind::Anomaly, _) => (Head::Anomaly, self.manifest.module.rank.min(features)),
            _ => (Head::Classify, self.manifest.classes.len()),
        };
        Shape { recipe, head, exits, features, outputs }
    }

    /// Makes the module: in closed form, and trained from there where the recipe trains.
    pub(crate) fn fit(&self, recipe: Recipe, rows: &[usize], seed: u64) -> Result<Vec<f32>, String> {
        let start = self.closed(recipe, rows)?;
        if recipe == Recipe::Moments {
            return Ok(start);
        }
        self.train(recipe, start, rows, &[], seed)
    }

    /// The closed form of a recipe.
    pub(crate) fn closed(&self, recipe: Recipe, rows: &[usize]) -> Result<Vec<f32>, String> {
        let shape = self.shape(recipe);
        shape.validate().map_err(text)?;
        let mut sums = Sums::for_shape(&shape).map_err(text)?;
        let mut z = vec![0; shape.exits * shape.features];
        for &row in rows {
            quantize_all(self.features.row(row), &mut z).map_err(text)?;
            if matches!(shape.head, Head::Forecast { .. }) {
                let y: Vec<i16> = self.targets(row).into_iter().map(quantize).collect();
                sums.add_values(&z, &y, 1).map_err(text)?;
            } else {
                sums.add(&z, self.set.labels[row], 1).map_err(text)?;
            }
        }
        let mut options = self.manifest.solve_options();
        let text_of = self.manifest.forecast.as_ref().map(ForecastSpec::text).unwrap_or_default();
        if !self.features.of.contains(&text_of) {
            // Numbers from elsewhere: nothing is known of what they are.
            options.regressors = Regressors { every: options.regressors.every, ..Regressors::default() };
        }
        closed_form(&shape, &sums, &options).map_err(text)
    }

    /// Labelled samples as a gateway keeps them.
    pub(crate) fn stored(&self, rows: &[usize]) -> Result<Dataset, String> {
        let mut data = Dataset::default();
        let mut z = vec![0; self.features.exits * self.features.width];
        for &row in rows {
            quantize_all(self.features.row(row), &mut z).map_err(text)?;
            let stored: Vec<f32> = z.iter().map(|&q| dequantize(q)).collect();
            if self.manifest.kind == TaskKind::Forecast {
                let y: Vec<f32> = self.targets(row).into_iter().map(|y| dequantize(quantize(y))).collect();
                data.push_target(&stored, Target::Values(&y));
            } else {
                data.push(&stored, self.set.labels[row]);
            }
        }
        Ok(data)
    }

    /// A trained module; `heldout` rows stop the training early where the manifest is patient.
    pub(crate) fn train(
        &self,
        recipe: Recipe,
        start: Vec<f32>,
        rows: &[usize],
        heldout: &[usize],
        seed: u64,
    ) -> Result<Vec<f32>, String> {
        let shape = self.shape(recipe);
        let config = TrainConfig { seed, ..self.manifest.training.clone() };
        let (objective, none) = (self.manifest.objective(), vec![0.0; shape.outputs]);
        let (data, heldout) = (self.stored(rows)?, self.stored(heldout)?);
        let trainer = Trainer::new(shape, start, data, heldout, objective, none, config);
        let mut trainer = trainer.map_err(text)?;
        while !matches!(trainer.step(), Progress::Done) {}
        Ok(trainer.finish().params)
    }

    /// Values to forecast of a sample, in units of its window; nothing for other kinds.
    pub(crate) fn targets(&self, row: usize) -> Vec<f32> {
        let (mean, unit) = self.features.scales[row];
        self.actual(row).iter().map(|&value| ((f64::from(value) - mean) / unit) as f32).collect()
    }

    /// The same in the data's own units.
    pub(crate) fn actual(&self, row: usize) -> &[f32] {
        match &self.set.future {
            Some(future) => &future.values[row * future.horizon..(row + 1) * future.horizon],
            None => &[],
        }
    }

    /// Halves of the test samples: the first calibrates exits, the second measures them.
    pub(crate) fn halves(&self) -> (Vec<usize>, Vec<usize>) {
        let mut first = order("exits", &self.set.test);
        let second = first.split_off(first.len() / 2);
        (first, second)
    }

    /// Calibrates early exits on `unlabelled` samples and lets `others` leave.
    pub(crate) fn leave(
        &self,
        recipe: Recipe,
        served: &Served<'_>,
        unlabelled: &[usize],
        others: Vec<usize>,
    ) -> Result<(Early, Leaving), String> {
        let (exits, tolerance) = (self.features.exits, self.manifest.exits.tolerance);
        let trial = |rows: &[usize]| {
            let (mut sure, mut differs) = (Vec::new(), Vec::new());
            let mut decider = Decider::new(self.shape(recipe));
            for &row in rows {
                decider.trial(served, self.features.row(row), tolerance, &mut sure, &mut differs);
            }
            (sure, differs)
        };
        let (sure, differs) = trial(unlabelled);
        let thresholds = calibrate_exits(exits, &sure, &differs, self.manifest.exits).map_err(text)?;
        let (sure, differs) = trial(&others);
        let leaves: Vec<usize> = (0..others.len())
            .map(|i| (0..exits - 1).find(|&k| sure[i * exits + k] >= thresholds[k]).unwrap_or(exits - 1))
            .collect();
        let n = others.len().max(1) as f64;
        let mut shares = vec![0.0; exits];
        let mut differing = 0;
        for (i, &k) in leaves.iter().enumerate() {
            shares[k] += 1.0 / n;
            differing += usize::from(differs[i * exits + k]);
        }
        let early = Early {
            calibrated_on: unlabelled.len(),
            measured_on: others.len(),
            threshold: thresholds.first().copied().unwrap_or(loadonce_module::NEVER),
            mean_exit: shares.iter().enumerate().map(|(k, share)| (k + 1) as f64 * share).sum(),
            shares,
            disagreement: differing as f64 / n,
            figure: 0.0,
            figure_last: 0.0,
        };
        Ok((early, Leaving { rows: others, exits: leaves }))
    }
}

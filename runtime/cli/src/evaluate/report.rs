//! The figures as JSON and as a table.

use super::against::Against;
use super::classify::{Bench, Figures};
use super::error::EvaluateError;
use crate::demo::{mean, t_interval};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    task: String,
    features_of: String,
    data: String,
    exits: usize,
    features: usize,
    train: usize,
    test: usize,
    classes: usize,
    draws: Vec<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Vec<Against>>,
}

impl Report {
    pub(crate) fn new(bench: &Bench<'_>, draws: Vec<Figures>, against: Option<Vec<Against>>) -> Self {
        Self {
            task: bench.manifest.name.clone(),
            features_of: bench.features.of.clone(),
            data: bench.set.hash.clone(),
            exits: bench.features.exits,
            features: bench.features.width,
            train: bench.set.train.len(),
            test: bench.set.test.len(),
            classes: bench.set.classes.len(),
            draws,
            against,
        }
    }

    /// Writes JSON to `out` and a table to standard output, or JSON to standard output.
    pub(crate) fn write(&self, out: Option<&Path>) -> Result<(), EvaluateError> {
        let failed =
            |path: &Path, source| EvaluateError::File { doing: "write", path: path.to_owned(), source };
        let named = out.unwrap_or(Path::new("standard output"));
        let json = serde_json::to_string_pretty(self).map_err(|e| failed(named, e.into()))?;
        match out {
            None => println!("{json}"),
            Some(path) => {
                let part = path.with_extension("part");
                std::fs::write(&part, json + "\n")
                    .and_then(|()| std::fs::rename(&part, path))
                    .map_err(|source| failed(path, source))?;
                print!("{}", self.table());
            }
        }
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{}: {} training and {} test samples, {} classes, {} features at each of {} exits\n",
            self.task, self.train, self.test, self.classes, self.features, self.exits
        );
        text += "recipe   labels  draws  accuracy by exit, percent (95 % interval over the draws)\n";
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for figures in &self.draws {
            let key = (figures.recipe, figures.labels.as_str());
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let own: Vec<&Figures> =
                self.draws.iter().filter(|f| (f.recipe, f.labels.as_str()) == key).collect();
            let _ = write!(text, "{:<8} {:>6}  {:>5} ", key.0, key.1, own.len());
            for k in 0..self.exits {
                let accuracy: Vec<f64> = own.iter().map(|f| 100.0 * f.accuracy[k]).collect();
                let _ = write!(text, "  {:5.1}", mean(&accuracy));
                if let Some(interval) = t_interval(&accuracy) {
                    let _ = write!(text, " ± {:.1}", interval.high - interval.mean);
                }
            }
            let early: Vec<_> = own.iter().filter_map(|f| f.early.as_ref()).collect();
            if !early.is_empty() {
                let over = |figure: fn(&super::classify::Early) -> f64| {
                    mean(&early.iter().map(|e| figure(e)).collect::<Vec<_>>())
                };
                let _ = write!(
                    text,
                    "   early exits: mean exit {:.2}, {:.1} points lost, {:.2} % differ",
                    over(|e| e.mean_exit),
                    over(|e| 100.0 * (e.accuracy_last - e.accuracy)),
                    over(|e| 100.0 * e.disagreement)
                );
            }
            text.push('\n');
        }
        for (k, exit) in self.against.iter().flatten().enumerate() {
            let share = 100.0 * exit.same as f64 / exit.samples.max(1) as f64;
            let _ = writeln!(
                text,
                "exit {}: {share:.2} % the same as with the other features; loses {:.2} points ({:.2} to {:.2})",
                k + 1,
                exit.loss,
                exit.low,
                exit.high
            );
        }
        text
    }
}

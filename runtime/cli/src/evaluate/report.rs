//! The figures as JSON and as a table.

use super::against::Against;
use super::bench::{Bench, Early};
use super::error::EvaluateError;
use super::{anomaly, classify, forecast};
use crate::demo::{mean, t_interval};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// Figures of all modules, by the kind of task.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Draws {
    /// Classes.
    Classify(Vec<classify::Figures>),
    /// Values to come.
    Forecast(Vec<forecast::Figures>),
    /// Alarms.
    Anomaly(Vec<anomaly::Figures>),
}

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
    kind: &'static str,
    draws: Draws,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Vec<Against>>,
}

impl Report {
    pub(crate) fn new(bench: &Bench<'_>, draws: Draws, against: Option<Vec<Against>>) -> Self {
        Self {
            task: bench.manifest.name.clone(),
            features_of: bench.features.of.clone(),
            data: bench.set.hash.clone(),
            exits: bench.features.exits,
            features: bench.features.width,
            train: bench.set.train.len(),
            test: bench.set.test.len(),
            classes: bench.set.classes.len(),
            kind: match draws {
                Draws::Classify(_) => "classify",
                Draws::Forecast(_) => "forecast",
                Draws::Anomaly(_) => "anomaly",
            },
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
            "{}: {}, {} training and {} test samples, {} features at each of {} exits\n",
            self.task, self.kind, self.train, self.test, self.features, self.exits
        );
        match &self.draws {
            Draws::Classify(draws) => classes(draws, self.exits, &mut text),
            Draws::Forecast(draws) => forecasts(draws, &mut text),
            Draws::Anomaly(draws) => anomalies(draws, self.exits, &mut text),
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

fn classes(draws: &[classify::Figures], exits: usize, text: &mut String) {
    *text += "recipe   labels  draws  accuracy by exit, percent (95 % interval over the draws)\n";
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for figures in draws {
        let key = (figures.recipe, figures.labels.as_str());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let own: Vec<_> = draws.iter().filter(|f| (f.recipe, f.labels.as_str()) == key).collect();
        let _ = write!(text, "{:<8} {:>6}  {:>5} ", key.0, key.1, own.len());
        for k in 0..exits {
            let accuracy: Vec<f64> = own.iter().map(|f| 100.0 * f.accuracy[k]).collect();
            let _ = write!(text, "  {:5.1}", mean(&accuracy));
            if let Some(interval) = t_interval(&accuracy) {
                let _ = write!(text, " ± {:.1}", interval.high - interval.mean);
            }
        }
        early(&own.iter().filter_map(|f| f.early.as_ref()).collect::<Vec<_>>(), "accuracy", text);
        text.push('\n');
    }
}

fn forecasts(draws: &[forecast::Figures], text: &mut String) {
    *text += "recipe    by exit: MASE / weighted quantile loss / coverage in percent\n";
    for figures in draws {
        let _ = write!(text, "{:<8}", figures.recipe);
        for ((mase, wql), coverage) in figures.mase.iter().zip(&figures.wql).zip(&figures.coverage) {
            let _ = write!(text, "  {mase:.3} / {wql:.4} / {:.0}", 100.0 * coverage);
        }
        if let Some(choice) = &figures.choice {
            *text += if choice.trained { "  trained" } else { "  closed form kept" };
        }
        early(&figures.early.iter().collect::<Vec<_>>(), "MASE", text);
        text.push('\n');
    }
}

fn anomalies(draws: &[anomaly::Figures], exits: usize, text: &mut String) {
    *text += "recipe   anomalies  draws  by exit: ROC-AUC / PR-AUC / events found / false alarms, means over the draws\n";
    for recipe in ["moments", "probe"] {
        let own: Vec<_> = draws.iter().filter(|f| f.recipe == recipe).collect();
        let Some(first) = own.first() else { continue };
        let _ = write!(text, "{recipe:<8} {:>9}  {:>5} ", first.anomalies, own.len());
        for k in 0..exits {
            let over = |figure: fn(&anomaly::Exit) -> Option<f64>| {
                let known: Vec<f64> = own.iter().filter_map(|f| figure(&f.exits[k])).collect();
                if known.is_empty() { "–".to_owned() } else { format!("{:.3}", mean(&known)) }
            };
            let _ = write!(
                text,
                "  {} / {} / {} / {}",
                over(|e| e.roc_auc),
                over(|e| e.pr_auc),
                over(|e| e.event_recall),
                over(|e| e.false_alarms)
            );
        }
        early(&own.iter().filter_map(|f| f.early.as_ref()).collect::<Vec<_>>(), "balanced accuracy", text);
        text.push('\n');
    }
}

fn early(all: &[&Early], figure: &str, text: &mut String) {
    if all.is_empty() {
        return;
    }
    let over = |of: fn(&Early) -> f64| mean(&all.iter().map(|early| of(early)).collect::<Vec<_>>());
    let _ = write!(
        text,
        "   early exits: mean exit {:.2}, {figure} {:.3} for {:.3}, {:.2} % differ",
        over(|e| e.mean_exit),
        over(|e| e.figure),
        over(|e| e.figure_last),
        100.0 * over(|e| e.disagreement)
    );
}

//! Two feature files of the same samples side by side: what another form of a backbone costs.

use super::bench::Bench;
use super::classify::predictions;
use super::features::Features;
use loadonce_module::Recipe;
use serde::Serialize;

/// Figures of one exit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Against {
    /// Test samples.
    pub(crate) samples: usize,
    /// Of these, samples that one and the same module gives the same class on both features.
    pub(crate) same: usize,
    /// Accuracy of a module of the first features on them.
    pub(crate) accuracy: f64,
    /// Accuracy of a module of the other features on those.
    pub(crate) accuracy_other: f64,
    /// Mean over the samples of (other right − first right), in points: what the first loses.
    pub(crate) loss: f64,
    /// Lower end of its 95 % interval, paired over the samples.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

/// Compares the features of `bench` with `other`, exit by exit; modules are solved in closed form from all training
/// samples.
pub(crate) fn against(bench: &Bench<'_>, other: &Features) -> Result<Vec<Against>, String> {
    if (other.exits, other.width) != (bench.features.exits, bench.features.width) {
        return Err("both must have the same exits and features".into());
    }
    let second = Bench { features: other, ..*bench };
    let recipe = Recipe::Moments;
    let (mine, theirs) = (bench.fit(recipe, &bench.set.train, 0)?, second.fit(recipe, &bench.set.train, 0)?);
    let first = predictions(bench, recipe, &mine);
    let crossed = predictions(&second, recipe, &mine);
    let own = predictions(&second, recipe, &theirs);
    let exits = other.exits;
    let figures = |k: usize| {
        let at = |i: usize| i * exits + k;
        let (mut same, mut right, mut right_other) = (0, 0, 0);
        let mut differences = Vec::with_capacity(bench.set.test.len());
        for (i, &row) in bench.set.test.iter().enumerate() {
            let truth = bench.set.labels[row];
            let (a, b) = (usize::from(first[at(i)] == truth), usize::from(own[at(i)] == truth));
            same += usize::from(first[at(i)] == crossed[at(i)]);
            right += a;
            right_other += b;
            differences.push(100.0 * (b as f64 - a as f64));
        }
        let n = differences.len().max(1) as f64;
        let loss = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - loss).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let half = 1.96 * (variance / n).sqrt();
        Against {
            samples: differences.len(),
            same,
            accuracy: right as f64 / n,
            accuracy_other: right_other as f64 / n,
            loss,
            low: loss - half,
            high: loss + half,
        }
    };
    Ok((0..exits).map(figures).collect())
}

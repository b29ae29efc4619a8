//! What the further tasks gave, in one federation and over several.

use crate::demo::metrics::{least, mean};
use crate::demo::report::{Run, added, mean_exit};
use serde::Serialize;

/// A task of another kind in one federation; lists have one entry per gateway.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FurtherRun {
    /// Name.
    pub(crate) name: String,
    /// `forecast` or `anomaly`.
    pub(crate) kind: &'static str,
    /// `relative_error`: mean absolute error of the median, that of seasonal naive being 1. `roc_auc`: the share of
    /// pairs of a normal and an anomalous sample in which the anomalous one scores higher.
    pub(crate) metric: &'static str,
    /// Without a module: seasonal naive, or chance.
    pub(crate) before: f64,
    /// With the gateway's own samples only.
    pub(crate) alone: Vec<f64>,
    /// Of the live answers.
    pub(crate) federated: Vec<f64>,
    /// The share of values that the outer quantiles promise to hold, or of normal samples that may raise an alarm.
    pub(crate) promised: f64,
    /// The share that it was, over all live answers.
    pub(crate) held: Option<f64>,
    /// The share of anomalous samples that raised an alarm.
    pub(crate) found: Option<f64>,
    /// Samples that the gateways learned from.
    pub(crate) samples: usize,
    /// Versions of the lineage.
    pub(crate) versions: u64,
    /// Live answers per exit, all gateways.
    pub(crate) exits: Vec<u64>,
}

/// A task of another kind, mean over federations.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FurtherReport {
    /// Name.
    pub(crate) name: String,
    /// `forecast` or `anomaly`.
    pub(crate) kind: &'static str,
    /// `relative_error` (less is better) or `roc_auc`.
    pub(crate) metric: &'static str,
    /// Without a module.
    pub(crate) before: f64,
    /// With the gateway's own samples only, mean over gateways.
    pub(crate) alone: f64,
    /// Live answers, mean over gateways.
    pub(crate) federated: f64,
    /// The worst gateway.
    pub(crate) worst_alone: f64,
    /// The worst gateway.
    pub(crate) worst_federated: f64,
    /// What quantiles or alarms promise.
    pub(crate) promised: f64,
    /// What it was.
    pub(crate) held: Option<f64>,
    /// Anomalies that raised an alarm.
    pub(crate) found: Option<f64>,
    /// Samples of all gateways.
    pub(crate) samples: usize,
    /// Versions of the lineage.
    pub(crate) versions: f64,
    /// Mean exit that answered.
    pub(crate) mean_exit: f64,
}

impl FurtherReport {
    /// Sums task number `task` of `runs` up: at least one.
    pub(crate) fn new(runs: &[Run], task: usize) -> Self {
        let own: Vec<&FurtherRun> = runs.iter().map(|run| &run.further[task]).collect();
        let over = |figure: &dyn Fn(&FurtherRun) -> f64| {
            mean(&own.iter().map(|run| figure(run)).collect::<Vec<_>>())
        };
        let known = |figure: &dyn Fn(&FurtherRun) -> Option<f64>| {
            let all: Vec<f64> = own.iter().filter_map(|run| figure(run)).collect();
            (!all.is_empty()).then(|| mean(&all))
        };
        let first = own[0];
        let worst = |list: &[f64]| {
            if first.metric == "relative_error" {
                list.iter().copied().fold(f64::MIN, f64::max)
            } else {
                least(list)
            }
        };
        Self {
            name: first.name.clone(),
            kind: first.kind,
            metric: first.metric,
            before: first.before,
            alone: over(&|run| mean(&run.alone)),
            federated: over(&|run| mean(&run.federated)),
            worst_alone: over(&|run| worst(&run.alone)),
            worst_federated: over(&|run| worst(&run.federated)),
            promised: first.promised,
            held: known(&|run| run.held),
            found: known(&|run| run.found),
            samples: first.samples,
            versions: over(&|run| run.versions as f64),
            mean_exit: mean_exit(&added(own.iter().map(|run| run.exits.clone()))),
        }
    }
}

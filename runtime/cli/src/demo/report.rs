//! `report.json`: what one or several federations gave; `docs/demo.md` describes every key.

use super::further::{FurtherReport, FurtherRun};
use super::metrics::{Interval, least, mean, t_interval};
use serde::Serialize;

/// Accuracies of one task in one federation, one entry per gateway, each on that gateway's own class mix.
#[derive(Debug, Clone, Default)]
pub(crate) struct PerGateway {
    /// Without a module.
    pub(crate) before: Vec<f64>,
    /// Trained on its own samples only.
    pub(crate) alone: Vec<f64>,
    /// The shared module as it is.
    pub(crate) shared: Vec<f64>,
    /// The personal module.
    pub(crate) federated: Vec<f64>,
}

/// One task of one federation.
#[derive(Debug, Clone)]
pub(crate) struct TaskRun {
    /// Name.
    pub(crate) name: String,
    /// Accuracies.
    pub(crate) accuracy: PerGateway,
    /// Shared module on the even test set.
    pub(crate) even_test: f64,
    /// The best way of training alone.
    pub(crate) alone_recipe: String,
    /// Every way that was tried, with its mean over gateways.
    pub(crate) alone_tried: Vec<(String, f64)>,
    /// Labels of each gateway.
    pub(crate) labels: Vec<usize>,
    /// Versions of the lineage.
    pub(crate) versions: u64,
    /// Answers to test samples per exit, all gateways.
    pub(crate) exits: Vec<u64>,
    /// Share of the live answers that were right.
    pub(crate) live_accuracy: f64,
    /// Share of the live answers that are those of the evaluation at the last exit.
    pub(crate) agreement: f64,
    /// Gateways by the personal candidate that serves.
    pub(crate) kept: Vec<(String, u64)>,
}

/// One federation.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Its seed.
    pub(crate) seed: u64,
    /// Tasks.
    pub(crate) tasks: Vec<TaskRun>,
    /// Tasks of the other kinds.
    pub(crate) further: Vec<FurtherRun>,
    /// Bytes of all agents' uplinks.
    pub(crate) bytes: Bytes,
    /// Memory of the largest agent.
    pub(crate) agent: AgentMemory,
    /// Versions of the longest lineage.
    pub(crate) rounds: u64,
    /// From the start of the first process to the end of the last.
    pub(crate) seconds: f64,
}

/// Uplink traffic, all agents together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Bytes {
    /// To the broker, everything included.
    pub(crate) up: u64,
    /// From the broker.
    pub(crate) down: u64,
    /// What exchanging the fp32 backbone would take for the same rounds.
    pub(crate) full_model: u64,
    /// `full_model / (up + down)`.
    pub(crate) ratio: f64,
}

impl Bytes {
    /// Counts the full model there and back once for each participant of each published round.
    pub(crate) fn new(up: u64, down: u64, fp32_bytes: u64, participations: u64) -> Self {
        let full_model = 2 * fp32_bytes * participations;
        Self { up, down, full_model, ratio: full_model as f64 / (up + down).max(1) as f64 }
    }
}

/// Resident memory, MB (10⁶ bytes).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct AgentMemory {
    /// The whole process.
    pub(crate) rss_mb: f64,
    /// The backbone's part of it.
    pub(crate) backbone_mb: f64,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Tasks.
    pub(crate) tasks: Vec<TaskReport>,
    /// Tasks of the other kinds on the same backbone.
    pub(crate) further: Vec<FurtherReport>,
    /// Traffic; mean over federations.
    pub(crate) bytes: Bytes,
    /// Memory; the largest of all agents.
    pub(crate) agent: AgentMemory,
    /// Mean exit that answered test samples, all tasks.
    pub(crate) mean_exit: f64,
    /// Versions of the longest lineage; mean over federations.
    pub(crate) rounds: f64,
    /// Wall time; mean over federations.
    pub(crate) seconds: f64,
    /// Federations run.
    pub(crate) seeds: u64,
    /// Gateways of each.
    pub(crate) gateways: usize,
    /// The federations one by one.
    pub(crate) runs: Vec<RunReport>,
}

/// A task, mean over federations.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TaskReport {
    /// Name.
    pub(crate) name: String,
    /// `classify`.
    pub(crate) kind: &'static str,
    /// `accuracy`.
    pub(crate) metric: &'static str,
    /// Means over gateways.
    pub(crate) before: f64,
    /// Trained alone.
    pub(crate) alone: f64,
    /// Shared module.
    pub(crate) shared: f64,
    /// Personal module.
    pub(crate) federated: f64,
    /// Worst gateways.
    pub(crate) worst_before: f64,
    /// Trained alone.
    pub(crate) worst_alone: f64,
    /// Shared module.
    pub(crate) worst_shared: f64,
    /// Personal module.
    pub(crate) worst_federated: f64,
    /// Shared module where every class counts the same.
    pub(crate) even_test: f64,
    /// The best way of training alone, of the first federation.
    pub(crate) alone_recipe: String,
    /// Labels of all gateways.
    pub(crate) labels: usize,
    /// Versions of the lineage.
    pub(crate) versions: f64,
    /// Mean exit that answered test samples.
    pub(crate) mean_exit: f64,
    /// Share of right live answers.
    pub(crate) live_accuracy: f64,
    /// Live answers that are those of the last exit.
    pub(crate) agreement: f64,
    /// Federated less alone, paired by federation; from two federations on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) difference: Option<Interval>,
    /// The same for the worst gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worst_difference: Option<Interval>,
}

/// One federation in the report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunReport {
    /// Seed.
    pub(crate) seed: u64,
    /// Versions of the longest lineage.
    pub(crate) rounds: u64,
    /// Wall time.
    pub(crate) seconds: f64,
    /// Traffic.
    pub(crate) bytes: Bytes,
    /// Tasks.
    pub(crate) tasks: Vec<TaskRunReport>,
    /// Tasks of the other kinds.
    pub(crate) further: Vec<FurtherRun>,
}

/// One task of one federation in the report; lists have one entry per gateway.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub(crate) struct TaskRunReport {
    pub(crate) name: String,
    pub(crate) labels: Vec<usize>,
    pub(crate) before: Vec<f64>,
    pub(crate) alone: Vec<f64>,
    pub(crate) shared: Vec<f64>,
    pub(crate) federated: Vec<f64>,
    pub(crate) even_test: f64,
    pub(crate) alone_recipe: String,
    pub(crate) alone_tried: Vec<(String, f64)>,
    pub(crate) exits: Vec<u64>,
    pub(crate) kept: Vec<(String, u64)>,
}

/// Mean exit, counted from 1.
pub(crate) fn mean_exit(exits: &[u64]) -> f64 {
    let answers: u64 = exits.iter().sum();
    let depth: u64 = exits.iter().zip(1..).map(|(n, exit)| n * exit).sum();
    depth as f64 / answers.max(1) as f64
}

/// Counts per exit, added up.
pub(crate) fn added(lists: impl Iterator<Item = Vec<u64>>) -> Vec<u64> {
    lists.fold(Vec::new(), |mut sum, list| {
        sum.resize(sum.len().max(list.len()), 0);
        sum.iter_mut().zip(&list).for_each(|(sum, n)| *sum += n);
        sum
    })
}

impl Report {
    /// Sums `runs` up: at least one, all with the same tasks in the same order.
    pub(crate) fn new(runs: &[Run]) -> Self {
        let over = |figure: &dyn Fn(&Run) -> f64| mean(&runs.iter().map(figure).collect::<Vec<_>>());
        let count = |figure: &dyn Fn(&Run) -> u64| over(&|run| figure(run) as f64).round() as u64;
        let largest = |figure: &dyn Fn(&Run) -> f64| runs.iter().map(figure).fold(0.0, f64::max);
        let tasks = runs.first().map_or(0, |run| run.tasks.len());
        let further = runs.first().map_or(0, |run| run.further.len());
        let exits = added(runs.iter().flat_map(|run| run.tasks.iter().map(|task| task.exits.clone())));
        let (up, down) = (count(&|run| run.bytes.up), count(&|run| run.bytes.down));
        let full_model = count(&|run| run.bytes.full_model);
        Self {
            tasks: (0..tasks).map(|task| TaskReport::new(runs, task)).collect(),
            further: (0..further).map(|task| FurtherReport::new(runs, task)).collect(),
            bytes: Bytes { up, down, full_model, ratio: full_model as f64 / (up + down).max(1) as f64 },
            agent: AgentMemory {
                rss_mb: largest(&|run| run.agent.rss_mb),
                backbone_mb: largest(&|run| run.agent.backbone_mb),
            },
            mean_exit: mean_exit(&exits),
            rounds: over(&|run| run.rounds as f64),
            seconds: over(&|run| run.seconds),
            seeds: runs.len() as u64,
            gateways: runs.first().and_then(|run| run.tasks.first()).map_or(0, |task| task.labels.len()),
            runs: runs.iter().map(RunReport::new).collect(),
        }
    }
}

impl TaskReport {
    fn new(runs: &[Run], task: usize) -> Self {
        let runs: Vec<&TaskRun> = runs.iter().map(|run| &run.tasks[task]).collect();
        let each =
            |figure: &dyn Fn(&TaskRun) -> f64| -> Vec<f64> { runs.iter().map(|run| figure(run)).collect() };
        let over = |figure: &dyn Fn(&TaskRun) -> f64| mean(&each(figure));
        let difference = |figure: &dyn Fn(&[f64]) -> f64| {
            t_interval(&each(&|run| figure(&run.accuracy.federated) - figure(&run.accuracy.alone)))
        };
        Self {
            name: runs[0].name.clone(),
            kind: "classify",
            metric: "accuracy",
            before: over(&|run| mean(&run.accuracy.before)),
            alone: over(&|run| mean(&run.accuracy.alone)),
            shared: over(&|run| mean(&run.accuracy.shared)),
            federated: over(&|run| mean(&run.accuracy.federated)),
            worst_before: over(&|run| least(&run.accuracy.before)),
            worst_alone: over(&|run| least(&run.accuracy.alone)),
            worst_shared: over(&|run| least(&run.accuracy.shared)),
            worst_federated: over(&|run| least(&run.accuracy.federated)),
            even_test: over(&|run| run.even_test),
            alone_recipe: runs[0].alone_recipe.clone(),
            labels: runs[0].labels.iter().sum(),
            versions: over(&|run| run.versions as f64),
            mean_exit: mean_exit(&added(runs.iter().map(|run| run.exits.clone()))),
            live_accuracy: over(&|run| run.live_accuracy),
            agreement: over(&|run| run.agreement),
            difference: difference(&mean),
            worst_difference: difference(&least),
        }
    }
}

impl RunReport {
    fn new(run: &Run) -> Self {
        let task = |task: &TaskRun| TaskRunReport {
            name: task.name.clone(),
            labels: task.labels.clone(),
            before: task.accuracy.before.clone(),
            alone: task.accuracy.alone.clone(),
            shared: task.accuracy.shared.clone(),
            federated: task.accuracy.federated.clone(),
            even_test: task.even_test,
            alone_recipe: task.alone_recipe.clone(),
            alone_tried: task.alone_tried.clone(),
            exits: task.exits.clone(),
            kept: task.kept.clone(),
        };
        Self {
            seed: run.seed,
            rounds: run.rounds,
            seconds: run.seconds,
            bytes: run.bytes,
            tasks: run.tasks.iter().map(task).collect(),
            further: run.further.clone(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A federation of two gateways with made-up figures.
    pub(crate) fn run(seed: u64, federated: [f64; 2]) -> Run {
        let accuracy = PerGateway {
            before: vec![0.5, 0.6],
            alone: vec![0.7, 0.8],
            shared: vec![0.6, 0.9],
            federated: federated.to_vec(),
        };
        let task = TaskRun {
            name: "digits".into(),
            accuracy,
            even_test: 0.75,
            alone_recipe: "probe, prior".into(),
            alone_tried: vec![("probe, prior".into(), 0.75)],
            labels: vec![20, 20],
            versions: 4,
            exits: vec![10, 0, 10],
            live_accuracy: 0.9,
            agreement: 1.0,
            kept: vec![("fine-tuned".into(), 2)],
        };
        let further = FurtherRun {
            name: "demand".into(),
            kind: "forecast",
            metric: "relative_error",
            before: 1.0,
            alone: vec![0.9, 0.7],
            federated: vec![0.5, 0.6],
            promised: 0.8,
            held: Some(0.75),
            found: None,
            samples: 240,
            versions: 1,
            exits: vec![0, 0, 80],
        };
        Run {
            seed,
            tasks: vec![task],
            further: vec![further],
            bytes: Bytes::new(600_000, 400_000, 5_000_000, 20),
            agent: AgentMemory { rss_mb: 40.0, backbone_mb: 30.0 },
            rounds: 4,
            seconds: 60.0,
        }
    }

    #[test]
    fn keys_are_stable() {
        let report = serde_json::to_value(Report::new(&[run(0, [0.8, 0.9])])).unwrap();
        for key in ["name", "kind", "metric"] {
            assert!(report["tasks"][0][key].is_string(), "{key}");
        }
        for key in ["before", "alone", "shared", "federated", "worst_alone", "worst_federated", "even_test"] {
            assert!(report["tasks"][0][key].is_f64(), "{key}");
        }
        for key in ["up", "down", "full_model", "ratio"] {
            assert!(report["bytes"][key].is_number(), "{key}");
        }
        for key in ["mean_exit", "rounds", "seconds", "seeds"] {
            assert!(report[key].is_number(), "{key}");
        }
        assert!(report["agent"]["rss_mb"].is_number() && report["agent"]["backbone_mb"].is_number());
        assert!(report["tasks"][0].get("difference").is_none());
        for key in ["before", "alone", "federated", "worst_alone", "worst_federated", "promised", "held"] {
            assert!(report["further"][0][key].is_f64(), "{key}");
        }
    }

    #[test]
    fn figures_are_means_and_the_difference_is_paired() {
        let report = Report::new(&[run(0, [0.8, 0.9]), run(1, [0.9, 0.9]), run(2, [0.85, 0.9])]);
        let task = &report.tasks[0];
        assert!((task.federated - 0.875).abs() < 1e-9);
        assert!((task.worst_federated - 0.85).abs() < 1e-9);
        assert!((task.worst_alone - 0.7).abs() < 1e-9);
        let difference = task.difference.unwrap();
        assert!((difference.mean - 0.125).abs() < 1e-9);
        assert!(difference.low < difference.mean && difference.mean < difference.high);
        assert!((task.worst_difference.unwrap().mean - 0.15).abs() < 1e-9);
        assert!((report.mean_exit - 2.0).abs() < 1e-9);
        let further = &report.further[0];
        assert!((further.alone - 0.8).abs() < 1e-9 && (further.worst_alone - 0.9).abs() < 1e-9);
        assert!((further.federated - 0.55).abs() < 1e-9 && (further.worst_federated - 0.6).abs() < 1e-9);
        assert_eq!(report.bytes.full_model, 200_000_000);
        assert!((report.bytes.ratio - 200.0).abs() < 1e-9);
    }
}

//! What a federation is made of: the tasks, their data, and which gateway sends what.

use super::error::DemoError;
use super::further::Further;
use super::metrics::class_mix;
use super::partition::{by_mix, dealt_out, draw};
use crate::data::DataSet;
use loadonce_backbone::Backbone;
use loadonce_control::TaskManifest;
use loadonce_module::Random;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Labels of a gateway for a task whose samples are drawn.
const LABELS: usize = 20;
/// Unlabelled samples of a gateway for such a task. 299 without a disagreement are the least that open an early
/// exit at the default policy; a few disagreements must be afforded too.
const UNLABELLED: usize = 500;
/// Test samples per gateway and task.
const TESTS: usize = 60;
/// The same with `--quick`.
const QUICK_TESTS: usize = 10;

/// What all federations of a call share.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Program of the agents.
    pub(crate) agent: PathBuf,
    /// Program of the aggregator.
    pub(crate) aggregator: PathBuf,
    /// The backbone's bundle.
    pub(crate) bundle: PathBuf,
    /// ONNX Runtime, where it was found or named.
    pub(crate) library: Option<PathBuf>,
    /// The same backbone in this process, for the judge.
    pub(crate) backbone: Arc<Backbone>,
    /// Broker URL.
    pub(crate) broker: String,
    /// Sets the demo apart from what else meets on the broker; empty on the embedded one.
    pub(crate) suffix: String,
    /// Gateway names.
    pub(crate) gateways: Vec<String>,
    /// Tasks.
    pub(crate) tasks: Arc<Vec<TaskSetup>>,
    /// Tasks of the other kinds.
    pub(crate) further: Arc<Vec<Further>>,
    /// Folder for runs.
    pub(crate) out: PathBuf,
    /// Whether a run's folder is kept.
    pub(crate) keep: bool,
    /// How long a stage may take without progress.
    pub(crate) patience: Duration,
}

/// A task of the demo.
#[derive(Debug)]
pub(crate) struct TaskSetup {
    /// The manifest, quorum set to the number of gateways.
    pub(crate) manifest: TaskManifest,
    /// The same as TOML, for the aggregator.
    pub(crate) toml: String,
    /// The data.
    pub(crate) data: DataSet,
    /// Whether all training samples are dealt out; otherwise each gateway draws [`LABELS`].
    dealt_out: bool,
    /// Unlabelled samples of each gateway.
    unlabelled: usize,
    /// Test samples of each gateway.
    tests: usize,
}

impl TaskSetup {
    /// Reads `tasks/<name>.toml` and `data/<name>.safetensors` below `models`.
    pub(crate) fn read(models: &Path, name: &str, gateways: usize, quick: bool) -> Result<Self, DemoError> {
        let path = models.join("tasks").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).map_err(|source| DemoError::File {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        let content = |what: String| DemoError::Content { path: path.clone(), what };
        let toml = with_quorum(&text, gateways);
        let manifest = TaskManifest::from_toml(&toml).map_err(|e| content(e.to_string()))?;
        if manifest.name != name || manifest.rounds.quorum != gateways {
            return Err(content(format!(
                "must be named `{name}` and have a line `quorum = …` under [rounds]"
            )));
        }
        let data = DataSet::read(&models.join("data").join(format!("{name}.safetensors")))?;
        // Recordings are few: too few to draw from and to prove anything about early exits.
        let dealt_out = data.train.len() < LABELS * gateways;
        let unlabelled = if quick || dealt_out { 0 } else { UNLABELLED };
        let tests = if quick { QUICK_TESTS } else { TESTS };
        Ok(Self { manifest, toml, data, dealt_out, unlabelled, tests })
    }
}

/// The manifest's text with another quorum. Deadlines stay, so a gateway that is lost cannot stop the demo.
fn with_quorum(toml: &str, gateways: usize) -> String {
    let line = |line: &str| {
        if line.trim_start().starts_with("quorum") {
            format!("quorum = {gateways}\n")
        } else {
            format!("{line}\n")
        }
    };
    toml.lines().map(line).collect()
}

/// Which gateway sends what, for one task.
#[derive(Debug, Clone)]
pub(super) struct Split {
    /// Labelled samples of each gateway.
    pub(super) labelled: Vec<Vec<usize>>,
    /// Their labels.
    pub(super) labels: Vec<Vec<u16>>,
    /// Unlabelled samples of each gateway.
    pub(super) unlabelled: Vec<Vec<usize>>,
    /// Test samples of each gateway.
    pub(super) tests: Vec<Vec<usize>>,
}

impl Split {
    fn draw(task: &TaskSetup, gateways: usize, random: &mut Random) -> Option<Self> {
        let pool = task.data.pool();
        let labelled = if task.dealt_out {
            dealt_out(random, &pool, gateways)?
        } else {
            by_mix(random, pool.clone(), gateways, LABELS)?
        };
        let labels: Vec<Vec<u16>> = labelled.iter().map(|own| task.data.labels_of(own)).collect();
        let test = task.data.by_class(&task.data.test);
        // What any gateway trains on would make the early exits look surer than they are.
        let trained_on: HashSet<usize> = labelled.iter().flatten().copied().collect();
        let rest: Vec<Vec<usize>> = pool
            .iter()
            .map(|class| class.iter().copied().filter(|sample| !trained_on.contains(sample)).collect())
            .collect();
        let (mut unlabelled, mut tests) = (Vec::new(), Vec::new());
        for labels in &labels {
            let mix = class_mix(labels, pool.len());
            unlabelled.push(stream(random, &rest, &mix, task.unlabelled));
            tests.push(stream(random, &test, &mix, task.tests));
        }
        Some(Self { labelled, labels, unlabelled, tests })
    }
}

/// `n` independent draws by class mix from `pool`, as a line would bring them.
fn stream(random: &mut Random, pool: &[Vec<usize>], mix: &[f64], n: usize) -> Vec<usize> {
    let weights: Vec<f64> =
        pool.iter().zip(mix).map(|(class, share)| if class.is_empty() { 0.0 } else { *share }).collect();
    (0..n)
        .filter_map(|_| {
            let class = &pool[draw(random, &weights)?];
            Some(class[random.below(class.len())])
        })
        .collect()
}
/// The split of every task, as the seed says.
pub(super) fn split(setup: &Setup, seed: u64) -> Result<Vec<Split>, DemoError> {
    let draw = |(index, task): (usize, &TaskSetup)| {
        // A stream of its own for every task, so that a change in one does not move the other.
        let mut random = Random::new(seed.wrapping_mul(1000).wrapping_add(index as u64));
        Split::draw(task, setup.gateways.len(), &mut random).ok_or_else(|| DemoError::Usage {
            what: format!(
                "task {} has too few samples for {} gateways",
                task.manifest.name,
                setup.gateways.len()
            ),
        })
    };
    setup.tasks.iter().enumerate().map(draw).collect()
}

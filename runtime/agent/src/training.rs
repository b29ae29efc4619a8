//! Background learning: one job at a time, one bounded unit of work per call.

use crate::agent::AgentError;
use crate::derive::PersonalJob;
use crate::record::RecordRef;
use crate::samples;
use crate::serving::Active;
use crate::task::Task;
use loadonce_module::{Dataset, Head, Progress, Target, TrainError, Trainer, dequantize};
use loadonce_store::Database;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Most labelled samples a training run takes; the newest win. Bounds its memory.
const MAX_TRAINING: usize = 8192;
/// Most held-out samples that decide and calibrate; the newest win.
const MAX_HELDOUT: usize = 4096;
/// Most samples that calibrate the exits.
const MAX_CALIBRATION: usize = 4096;

/// What a task has to learn from.
pub(crate) struct Material {
    /// Labelled and not held out.
    pub train: Dataset,
    /// Labelled and held out.
    pub heldout: Dataset,
    /// Features of samples that no training sees: unlabelled or, but for an anomaly task, held out.
    pub unseen: Vec<f32>,
}

/// Reads what `task` has to learn from. Records whose features are made of something else are passed over: they
/// are from an earlier manifest or backbone.
pub(crate) fn gather(database: &Database, task: &Task) -> Result<Material, AgentError> {
    let shape = &task.shape;
    let row = shape.exits * shape.features;
    let (mut train, mut heldout) = (Newest::new(MAX_TRAINING), Newest::new(MAX_HELDOUT));
    let mut unseen = Vec::new();
    let (mut z, mut values) = (vec![0.0; row], Vec::new());
    samples::visit(&database.begin_read()?, &task.manifest.name, |_, record| {
        if !usable(task, &record) {
            return;
        }
        for (out, q) in z.iter_mut().zip(record.features()) {
            *out = dequantize(q);
        }
        let label = record.label(shape);
        if let Some(label) = label {
            values.clear();
            values.extend(record.values(label).map(dequantize));
            let target = match shape.head {
                Head::Forecast { .. } => Target::Values(&values),
                Head::Classify | Head::Anomaly => Target::Class(label),
            };
            let set = if record.heldout { &mut heldout } else { &mut train };
            set.keep(&z, target);
        }
        // Held-out normal samples set the alarm; what they say about exits would not be news.
        let free = label.is_none() || (record.heldout && shape.head != Head::Anomaly);
        if free && unseen.len() < MAX_CALIBRATION * row {
            unseen.extend_from_slice(&z);
        }
    })?;
    Ok(Material { train: train.set, heldout: heldout.set, unseen })
}

/// Whether a record's features mean what this task's features mean now.
pub(crate) fn usable(task: &Task, record: &RecordRef<'_>) -> bool {
    record.features_of == task.features_of
        && record.features().len() == task.shape.exits * task.shape.features
}

/// The newest samples up to a bound, in no particular order: training shuffles them.
struct Newest {
    set: Dataset,
    most: usize,
    seen: usize,
}

impl Newest {
    fn new(most: usize) -> Self {
        Self { set: Dataset::default(), most, seen: 0 }
    }

    fn keep(&mut self, z: &[f32], target: Target<'_>) {
        if self.seen < self.most {
            self.set.push_target(z, target);
        } else {
            let at = self.seen % self.most;
            self.set.z[at * z.len()..(at + 1) * z.len()].copy_from_slice(z);
            self.set.targets.replace(at, target);
        }
        self.seen += 1;
    }
}

/// A version that was fetched and verified.
pub(crate) struct Candidate {
    /// The module file, exactly as published.
    pub blob: Vec<u8>,
    /// Its version.
    pub version: u64,
    /// Its blake3.
    pub hash: [u8; 32],
    /// Its parameters.
    pub shared: Vec<f32>,
    /// The lineage's first version, the closed form, where the task chooses between the two and this gateway has it:
    /// file and parameters.
    pub closed: Option<(Vec<u8>, Vec<f32>)>,
}

/// A job under way.
pub(crate) enum Job {
    /// Training a step from the active version.
    Step(Box<StepJob>),
    /// Deriving the personal module of a version.
    Personal(Box<PersonalJob>),
}

/// Training a step.
pub(crate) struct StepJob {
    /// The task.
    pub task: String,
    /// The version trained from.
    pub base_version: u64,
    /// Its file's hash.
    pub base_hash: [u8; 32],
    /// Its parameters.
    pub base: Vec<f32>,
    /// Samples trained on.
    pub weight: u32,
    /// The training.
    pub trainer: Trainer,
}

/// What came of a job.
pub(crate) enum Finished {
    /// A trained step.
    Step(Box<StepJob>),
    /// What is to be served from now on.
    Personal(Box<PersonalJob>, Box<Active>),
}

impl Job {
    /// The task it is for.
    pub(crate) fn task(&self) -> &str {
        match self {
            Self::Step(job) => &job.task,
            Self::Personal(job) => &job.task,
        }
    }

    /// The version that is being installed, if it is that kind of job.
    pub(crate) fn installs(&self) -> Option<u64> {
        match self {
            Self::Step(_) => None,
            Self::Personal(job) => Some(job.candidate.version),
        }
    }

    /// One bounded unit: the job again, or what came of it.
    pub(crate) fn advance(self) -> ControlFlow<Finished, Self> {
        match self {
            Self::Step(mut job) => {
                if job.step() {
                    ControlFlow::Break(Finished::Step(job))
                } else {
                    ControlFlow::Continue(Self::Step(job))
                }
            }
            Self::Personal(mut job) => match job.step() {
                Some(active) => ControlFlow::Break(Finished::Personal(job, Box::new(active))),
                None => ControlFlow::Continue(Self::Personal(job)),
            },
        }
    }
}

/// A job that another thread works on meanwhile; the agent knows it by its number.
pub struct Training {
    number: u64,
    /// Taken only while a unit is under way.
    work: Option<ControlFlow<Finished, Job>>,
    longest: Duration,
}

impl Training {
    pub(crate) fn new(number: u64, job: Job) -> Self {
        Self { number, work: Some(ControlFlow::Continue(job)), longest: Duration::ZERO }
    }

    /// Its number; never 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// One bounded unit of work; `false` when there is nothing left to do.
    pub fn advance(&mut self) -> bool {
        let started = Instant::now();
        self.work = match self.work.take() {
            Some(ControlFlow::Continue(job)) => Some(job.advance()),
            other => other,
        };
        self.longest = self.longest.max(started.elapsed());
        matches!(self.work, Some(ControlFlow::Continue(_)))
    }

    /// What has become of it, and how long its longest unit took.
    pub(crate) fn end(self) -> (Option<ControlFlow<Finished, Job>>, Duration) {
        (self.work, self.longest)
    }
}

/// What the agent remembers of a job that is away.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    /// Its number.
    pub number: u64,
    /// Its task.
    pub task: String,
    /// The version that it installs, if it does.
    pub installs: Option<u64>,
}

impl StepJob {
    /// Prepares a step of `task` from its active version.
    pub(crate) fn new(task: &Task, active: &Active, material: Material) -> Result<Self, TrainError> {
        let weight = material.train.n() as u32;
        let offset = task.log_prior(&material.train);
        let trainer = Trainer::new(
            task.shape,
            active.shared.clone(),
            material.train,
            material.heldout,
            task.manifest.objective(),
            offset,
            task.manifest.training.clone(),
        )?;
        let base = active.shared.clone();
        let (base_version, base_hash) = (active.version, active.hash);
        Ok(Self { task: task.manifest.name.clone(), base_version, base_hash, base, weight, trainer })
    }

    /// One optimizer step; `true` when training is done.
    pub(crate) fn step(&mut self) -> bool {
        matches!(self.trainer.step(), Progress::Done)
    }
}

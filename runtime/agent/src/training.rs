//! Background learning: one job at a time, one bounded unit of work per call.

use crate::agent::AgentError;
use crate::samples::{self, RecordRef};
use crate::serving::{Active, probabilities};
use crate::task::Task;
use loadonce_module::{
    CalibrationConfig, Dataset, NEVER, Personalizer, Progress, Runner, Shape, Target, TrainError, Trainer,
    argmax, calibrate, dequantize,
};
use loadonce_store::Database;

/// Most labelled samples a training run takes; the newest win. Bounds its memory.
const MAX_TRAINING: usize = 8192;
/// Most samples that calibrate the exits.
const MAX_CALIBRATION: usize = 4096;
/// Samples calibrated per unit of work.
const CALIBRATION_SLICE: usize = 256;

/// What a task has to learn from.
pub(crate) struct Material {
    /// Labelled and not held out.
    pub train: Dataset,
    /// Labelled and held out.
    pub heldout: Dataset,
    /// Features of samples that no training sees: unlabelled or held out.
    pub unseen: Vec<f32>,
}

/// Reads what `task` has to learn from. Records whose features are made of something else are passed over: they
/// are from an earlier manifest or backbone.
pub(crate) fn gather(database: &Database, task: &Task) -> Result<Material, AgentError> {
    let shape = &task.shape;
    let row = shape.exits * shape.features;
    let (mut train, mut heldout) = (Newest::default(), Newest::default());
    let mut unseen = Vec::new();
    let mut z = vec![0.0; row];
    samples::visit(&database.begin_read()?, &task.manifest.name, |_, record| {
        if !usable(task, &record) {
            return;
        }
        for (out, q) in z.iter_mut().zip(record.features()) {
            *out = dequantize(q);
        }
        let class = record.label(shape.outputs);
        match class {
            Some(class) if record.heldout => heldout.keep(&z, class),
            Some(class) => train.keep(&z, class),
            None => {}
        }
        if (class.is_none() || record.heldout) && unseen.len() < MAX_CALIBRATION * row {
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

/// The newest [`MAX_TRAINING`] samples, in no particular order: training shuffles them.
#[derive(Default)]
struct Newest {
    set: Dataset,
    seen: usize,
}

impl Newest {
    fn keep(&mut self, z: &[f32], class: u16) {
        if self.seen < MAX_TRAINING {
            self.set.push(z, class);
        } else {
            let at = self.seen % MAX_TRAINING;
            self.set.z[at * z.len()..(at + 1) * z.len()].copy_from_slice(z);
            self.set.targets.replace(at, Target::Class(class));
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

/// Deriving a personal module: fine-tune, then prior, then calibration, in this order.
pub(crate) struct PersonalJob {
    /// The task.
    pub task: String,
    /// The version it is derived from.
    pub candidate: Candidate,
    labels: usize,
    policy: CalibrationConfig,
    shape: Shape,
    stage: Stage,
    unseen: Vec<f32>,
}

enum Stage {
    FineTune(Option<Box<Personalizer>>),
    Calibrate { active: Active, confidences: Vec<f32>, classes: Vec<u16>, next: usize },
}

impl Job {
    /// The task it is for.
    pub(crate) fn task(&self) -> &str {
        match self {
            Self::Step(job) => &job.task,
            Self::Personal(job) => &job.task,
        }
    }
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

impl PersonalJob {
    /// Prepares the derivation of `task`'s personal module from `candidate`, when the store counts `labels`.
    pub(crate) fn new(
        task: &Task,
        candidate: Candidate,
        material: Material,
        labels: usize,
    ) -> Result<Self, TrainError> {
        let personalizer = Personalizer::new(
            task.shape,
            candidate.shared.clone(),
            material.train,
            material.heldout,
            task.manifest.objective(),
            task.manifest.personal.clone(),
        )?;
        Ok(Self {
            task: task.manifest.name.clone(),
            candidate,
            labels,
            policy: task.manifest.exits,
            shape: task.shape,
            stage: Stage::FineTune(Some(Box::new(personalizer))),
            unseen: material.unseen,
        })
    }

    /// One unit of work; the finished module when all is done.
    pub(crate) fn step(&mut self) -> Option<Active> {
        match &mut self.stage {
            Stage::FineTune(personalizer) => {
                let done = personalizer.as_mut().is_none_or(|p| matches!(p.step(), Progress::Done));
                if done && let Some(personalizer) = personalizer.take() {
                    let personal = personalizer.finish();
                    let active = Active {
                        version: self.candidate.version,
                        hash: self.candidate.hash,
                        shared: std::mem::take(&mut self.candidate.shared),
                        personal: personal.params,
                        offset: personal.offset,
                        thresholds: vec![NEVER; self.shape.exits - 1],
                        kept: personal.kept,
                        labels: self.labels,
                    };
                    self.stage =
                        Stage::Calibrate { active, confidences: Vec::new(), classes: Vec::new(), next: 0 };
                }
                None
            }
            Stage::Calibrate { active, confidences, classes, next } => {
                let row = self.shape.exits * self.shape.features;
                let end = (*next + CALIBRATION_SLICE * row).min(self.unseen.len());
                score(&self.shape, active, &self.unseen[*next..end], confidences, classes);
                *next = end;
                if end < self.unseen.len() {
                    return None;
                }
                match calibrate(self.shape.exits, confidences, classes, self.policy) {
                    Ok(thresholds) => active.thresholds = thresholds,
                    Err(error) => tracing::warn!(task = %self.task, %error, "early exits stay off"),
                }
                Some(active.clone())
            }
        }
    }
}

/// Top class and its probability at every exit of every row.
fn score(shape: &Shape, active: &Active, rows: &[f32], confidences: &mut Vec<f32>, classes: &mut Vec<u16>) {
    let mut runner = Runner::new(*shape);
    let mut scores = vec![0.0; shape.outputs];
    for row in rows.chunks_exact(shape.exits * shape.features) {
        for (k, z) in row.chunks_exact(shape.features).enumerate() {
            probabilities(&mut runner, active, k, z, &mut scores);
            let top = argmax(&scores);
            confidences.push(scores[top]);
            classes.push(top as u16);
        }
    }
}

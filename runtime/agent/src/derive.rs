//! Deriving what a gateway serves from a version: choose, fine-tune, alarms, exits, "unknown", in this order.
//!
//! 1. Between the closed form and the trained module the held-out samples choose, where the task lets them.
//! 2. The chosen parameters become personal ones.
//! 3. An anomaly task's alarms are set by held-out normal samples, exit by exit.
//! 4. The early exits are calibrated on samples that no training saw.
//! 5. The confidence below which a classify task answers "unknown" is calibrated on held-out labels, on the answers
//!    that the exits as they now are give.

use crate::serving::Active;
use crate::task::Task;
use crate::training::{Candidate, Material};
use loadonce_control::Reject;
use loadonce_module::{
    ANOMALOUS, Alarm, CalibrationConfig, Choice, Chooser, Dataset, Decider, Head, Kept, NEVER, Objective,
    PersonalConfig, Personalizer, Progress, Shape, Target, TrainError, alarm, argmax, calibrate_exits,
    reject_below,
};

/// Samples calibrated per unit of work.
const SLICE: usize = 64;

/// See the module's documentation.
pub(crate) struct PersonalJob {
    /// The task.
    pub task: String,
    /// The version it is derived from.
    pub candidate: Candidate,
    labels: usize,
    exits: CalibrationConfig,
    false_alarms: f64,
    reject: Option<Reject>,
    personal: PersonalConfig,
    objective: Objective,
    shape: Shape,
    stage: Stage,
    train: Dataset,
    heldout: Dataset,
    unseen: Vec<f32>,
    choice: Option<Choice>,
}

enum Stage {
    Choose(Box<Chooser>),
    FineTune(Box<Personalizer>),
    Alarms { active: Active, scores: Vec<Vec<f32>>, anomalies: Vec<f32>, next: usize },
    Exits { active: Active, confidences: Vec<f32>, differs: Vec<bool>, next: usize },
    Reject { active: Active, confidences: Vec<f32>, right: Vec<bool>, next: usize },
    Over,
}

impl PersonalJob {
    /// Prepares the derivation of `task`'s personal module from `candidate`, when the store counts `labels`.
    pub(crate) fn new(
        task: &Task,
        candidate: Candidate,
        material: Material,
        labels: usize,
    ) -> Result<Self, TrainError> {
        let Material { train, heldout, unseen } = material;
        let (manifest, shape, objective) = (&task.manifest, task.shape, task.manifest.objective());
        let mut job = Self {
            task: manifest.name.clone(),
            labels,
            exits: manifest.exits,
            false_alarms: manifest.anomaly.false_alarms,
            reject: manifest.classify.reject,
            personal: manifest.personal.clone(),
            shape,
            stage: Stage::Over,
            unseen,
            choice: None,
            candidate,
            objective,
            train,
            heldout,
        };
        job.stage = if let Some((_, closed)) = &job.candidate.closed {
            let prior = task.log_prior(&job.train);
            let trained = job.candidate.shared.clone();
            let (heldout, objective) = (job.heldout.clone(), job.objective.clone());
            let chooser = Chooser::new(shape, closed.clone(), trained, heldout, objective, prior);
            Stage::Choose(Box::new(chooser.overlapping(task.manifest.heldout_overlap())))
        } else {
            job.fine_tune(job.candidate.shared.clone())?
        };
        Ok(job)
    }

    fn fine_tune(&mut self, base: Vec<f32>) -> Result<Stage, TrainError> {
        let train = std::mem::take(&mut self.train);
        let (heldout, objective) = (self.heldout.clone(), self.objective.clone());
        let personalizer =
            Personalizer::new(self.shape, base, train, heldout, objective, self.personal.clone())?;
        Ok(Stage::FineTune(Box::new(personalizer)))
    }

    /// One unit of work; the finished module when all is done.
    pub(crate) fn step(&mut self) -> Option<Active> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Choose(mut chooser) => {
                let Some(choice) = chooser.step() else {
                    self.stage = Stage::Choose(chooser);
                    return None;
                };
                self.choice = Some(choice);
                let closed = self.candidate.closed.as_ref().filter(|_| !choice.trained);
                let base = closed.map_or_else(|| self.candidate.shared.clone(), |(_, params)| params.clone());
                // The same data were checked when the job began.
                match self.fine_tune(base.clone()) {
                    Ok(stage) => self.stage = stage,
                    Err(error) => {
                        tracing::error!(task = %self.task, %error, "the module is served as it is");
                        let offset = vec![0.0; self.shape.offset_len()];
                        self.stage = self.alarms(base, offset, Kept::Shared);
                    }
                }
                None
            }
            Stage::FineTune(mut personalizer) => {
                if personalizer.step() == Progress::Done {
                    let personal = personalizer.finish();
                    self.stage = self.alarms(personal.params, personal.offset, personal.kept);
                } else {
                    self.stage = Stage::FineTune(personalizer);
                }
                None
            }
            Stage::Alarms { active, scores, anomalies, next } => {
                self.score_normals(active, scores, anomalies, next);
                None
            }
            Stage::Exits { active, confidences, differs, next } => {
                self.calibrate(active, confidences, differs, next)
            }
            Stage::Reject { active, confidences, right, next } => {
                self.prove(active, confidences, right, next)
            }
            Stage::Over => None,
        }
    }

    /// What follows the choice of parameters.
    fn alarms(&mut self, personal: Vec<f32>, offset: Vec<f32>, kept: Kept) -> Stage {
        let active = Active {
            version: self.candidate.version,
            hash: self.candidate.hash,
            shared: std::mem::take(&mut self.candidate.shared),
            personal,
            offset,
            thresholds: vec![NEVER; self.shape.exits - 1],
            alarms: Vec::new(),
            alarm_thresholds: Vec::new(),
            recall: (0, 0),
            reject: match self.reject {
                None => None,
                Some(Reject::Confidence(least)) => Some(least as f32),
                Some(Reject::Risk(_)) => Some(NEVER),
            },
            kept,
            choice: self.choice,
            labels: self.labels,
        };
        if self.shape.head == Head::Anomaly {
            let scores = vec![Vec::new(); self.shape.exits];
            Stage::Alarms { active, scores, anomalies: Vec::new(), next: 0 }
        } else {
            Stage::Exits { active, confidences: Vec::new(), differs: Vec::new(), next: 0 }
        }
    }

    fn score_normals(
        &mut self,
        mut active: Active,
        mut scores: Vec<Vec<f32>>,
        mut anomalies: Vec<f32>,
        next: usize,
    ) {
        let end = self.heldout.n().min(next + SLICE);
        let mut decider = Decider::new(self.shape);
        for i in next..end {
            let anomalous = self.heldout.targets.at(i) == Target::Class(ANOMALOUS);
            let rows = self.heldout.row(i).chunks_exact(self.shape.features);
            for (k, (z, scores)) in rows.zip(&mut scores).enumerate() {
                decider.exit(&active.served(), k, z);
                if !anomalous {
                    scores.push(decider.score());
                }
            }
            if anomalous {
                anomalies.push(decider.score());
            }
        }
        if end < self.heldout.n() {
            self.stage = Stage::Alarms { active, scores, anomalies, next: end };
            return;
        }
        let alarms: Option<Vec<Alarm>> =
            scores.iter().map(|scores| alarm(scores, self.false_alarms)).collect();
        if let Some(alarms) = alarms {
            let last = alarms.last().map_or(f32::INFINITY, |alarm| alarm.threshold);
            let found = anomalies.iter().filter(|score| **score > last).count();
            active.recall = (anomalies.len() as u32, found as u32);
            active.set_alarms(alarms);
            active.kept = Kept::Calibrated;
        }
        self.stage = Stage::Exits { active, confidences: Vec::new(), differs: Vec::new(), next: 0 };
    }

    fn calibrate(
        &mut self,
        mut active: Active,
        mut confidences: Vec<f32>,
        mut differs: Vec<bool>,
        next: usize,
    ) -> Option<Active> {
        let row = self.shape.exits * self.shape.features;
        let end = (next + SLICE * row).min(self.unseen.len());
        // Without an alarm there is no answer that an early exit could give.
        let silent = self.shape.head == Head::Anomaly && active.alarms.is_empty();
        if !silent {
            let mut decider = Decider::new(self.shape);
            for sample in self.unseen[next..end].chunks_exact(row) {
                let tolerance = self.exits.tolerance;
                decider.trial(&active.served(), sample, tolerance, &mut confidences, &mut differs);
            }
            if end < self.unseen.len() {
                self.stage = Stage::Exits { active, confidences, differs, next: end };
                return None;
            }
            match calibrate_exits(self.shape.exits, &confidences, &differs, self.exits) {
                Ok(thresholds) => active.thresholds = thresholds,
                Err(error) => tracing::warn!(task = %self.task, %error, "early exits stay off"),
            }
        }
        if matches!(self.reject, Some(Reject::Risk(_))) {
            self.stage = Stage::Reject { active, confidences: Vec::new(), right: Vec::new(), next: 0 };
            return None;
        }
        Some(active)
    }

    fn prove(
        &mut self,
        mut active: Active,
        mut confidences: Vec<f32>,
        mut right: Vec<bool>,
        next: usize,
    ) -> Option<Active> {
        let end = self.heldout.n().min(next + SLICE);
        let mut decider = Decider::new(self.shape);
        for i in next..end {
            let rows = self.heldout.row(i).chunks_exact(self.shape.features);
            let mut sureness = 0.0;
            for (k, z) in rows.enumerate() {
                sureness = decider.exit(&active.served(), k, z);
                if active.thresholds.get(k).is_some_and(|&threshold| sureness >= threshold) {
                    break;
                }
            }
            confidences.push(sureness);
            right.push(self.heldout.targets.at(i) == Target::Class(argmax(decider.outputs()) as u16));
        }
        if end < self.heldout.n() {
            self.stage = Stage::Reject { active, confidences, right, next: end };
            return None;
        }
        if let Some(Reject::Risk(risk)) = self.reject {
            active.reject =
                Some(reject_below(&confidences, &right, risk, self.exits.confidence).unwrap_or(NEVER));
        }
        Some(active)
    }
}

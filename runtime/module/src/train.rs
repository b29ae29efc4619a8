//! Training on cached features, one short piece of work per call.

use serde::{Deserialize, Serialize};

use crate::data::{Dataset, Targets};
use crate::evaluate::{Eval, Evaluation};
use crate::gradient::{Batch, Scratch, loss_and_gradient};
use crate::head::Head;
use crate::loss::Objective;
use crate::optimizer::AdamW;
use crate::random::Random;
use crate::shape::{Shape, ShapeError};

/// Fewest held-out samples an early stop listens to.
pub const MIN_EARLY_STOP: usize = 4;

/// How a module is trained. The defaults are those of a gateway's share of a round, starting from a shared module
/// that already fits; a module trained from nothing wants about 40 epochs at 5e-3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training samples.
    pub epochs: u32,
    /// Samples per optimizer step.
    pub batch: usize,
    /// Learning rate of the first step; it falls linearly to a tenth at the last.
    pub learning_rate: f32,
    /// Decoupled weight decay of weight matrices; not of a forecast, see [`Trainer`].
    pub weight_decay: f32,
    /// Share of features set to zero in training, 0 up to 0.9; not of a forecast, see [`Trainer`].
    pub dropout: f32,
    /// Epochs without a better held-out loss before training stops and the best parameters are restored; 0
    /// never stops early and keeps the last. Also ignored with fewer than [`MIN_EARLY_STOP`] held-out samples.
    pub patience: u32,
    /// Seed of shuffling and dropout.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch: 32,
            learning_rate: 2e-3,
            weight_decay: 0.05,
            dropout: 0.2,
            patience: 5,
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// Checks every field against its limits.
    pub fn validate(&self) -> Result<(), TrainError> {
        let refuse = |field, allowed| Err(TrainError::Config { field, allowed });
        if !(1..=10_000).contains(&self.epochs) {
            return refuse("epochs", "1 to 10000");
        }
        if !(1..=4096).contains(&self.batch) {
            return refuse("batch", "1 to 4096");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return refuse("learning_rate", "above 0, at most 1");
        }
        if !(0.0..=10.0).contains(&self.weight_decay) {
            return refuse("weight_decay", "0 to 10");
        }
        if !(0.0..=0.9).contains(&self.dropout) {
            return refuse("dropout", "0 to 0.9");
        }
        Ok(())
    }
}

/// Why training cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The module's sizes are unusable.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A slice has another length than the shape asks for.
    #[error("{got} {what} given, {want} expected; they belong to another module or backbone")]
    Length {
        /// What was counted.
        what: &'static str,
        /// Given.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// A label has no class.
    #[error("label {label} given, the task has {outputs} classes; check the task manifest")]
    Label {
        /// Given.
        label: u16,
        /// Classes of the task.
        outputs: usize,
    },
    /// Targets of another kind than the module's.
    #[error("targets do not fit a {0} module; they belong to another task")]
    Targets(&'static str),
    /// NaN or infinity.
    #[error("{0} hold NaN or infinity; drop the sample or the module they come from")]
    NotFinite(&'static str),
    /// There is nothing to train on.
    #[error("no training samples; wait for labels")]
    NoSamples,
    /// A setting outside its limits.
    #[error("training setting {field} must be {allowed}; correct the task manifest")]
    Config {
        /// The setting.
        field: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
}

/// What a call of [`Trainer::step`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// One optimizer step; the batch's loss.
    Step {
        /// Weighted mean over the batch of the sum over exits.
        loss: f32,
    },
    /// Part of a held-out evaluation.
    Evaluating,
    /// An epoch ended; its held-out loss, if there are held-out samples.
    Epoch {
        /// Weighted mean over held-out samples of the sum over exits.
        heldout_loss: Option<f32>,
    },
    /// Nothing is left to do.
    Done,
}

/// What training gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The parameters kept.
    pub params: Vec<f32>,
    /// Held-out figures of the start.
    pub heldout_before: Eval,
    /// Held-out figures of the parameters kept.
    pub heldout_after: Eval,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Epochs finished.
    pub epochs: u32,
    /// Whether the loss became NaN or infinite, so that the best parameters until then were kept.
    pub diverged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    EvalStart,
    Steps,
    EvalEpoch,
    Done,
}

/// Training as a state machine: every [`Trainer::step`] is at most one optimizer step or one slice of a held-out
/// evaluation, so whatever else wants the processor waits no longer than that.
///
/// Both dropout and decay draw weights to 0. That suits logits; a forecast whose weights shrink falls back to its
/// window's level, whatever the closed form it started from had found. So a forecast is trained without either, and
/// what guards it is the early stop.
#[derive(Clone, Debug)]
pub struct Trainer {
    shape: Shape,
    config: TrainConfig,
    train: Dataset,
    heldout: Dataset,
    objective: Objective,
    offset: Vec<f32>,
    params: Vec<f32>,
    grad: Vec<f32>,
    scratch: Scratch,
    optimizer: AdamW,
    random: Random,
    order: Vec<usize>,
    at: usize,
    batch_z: Vec<f32>,
    batch_targets: Targets,
    phase: Phase,
    evaluation: Evaluation,
    before: Eval,
    best: Eval,
    best_params: Vec<f32>,
    since_best: u32,
    steps: u64,
    epochs: u32,
    diverged: bool,
}

impl Trainer {
    /// Training from `start`; `offset` (`outputs`) is added to all outputs while training and evaluating: the
    /// gateway's log prior, which so stays out of the parameters, or zeros.
    pub fn new(
        shape: Shape,
        start: Vec<f32>,
        train: Dataset,
        heldout: Dataset,
        objective: Objective,
        offset: Vec<f32>,
        config: TrainConfig,
    ) -> Result<Self, TrainError> {
        shape.validate()?;
        config.validate()?;
        train.check(&shape)?;
        heldout.check(&shape)?;
        let length =
            |what, got, want| if got == want { Ok(()) } else { Err(TrainError::Length { what, got, want }) };
        length("parameters", start.len(), shape.parameters())?;
        length("offsets", offset.len(), shape.outputs)?;
        if start.iter().chain(&offset).any(|x| !x.is_finite()) {
            return Err(TrainError::NotFinite("starting parameters or prior"));
        }
        if train.n() == 0 {
            return Err(TrainError::NoSamples);
        }
        let forecast = matches!(shape.head, Head::Forecast { .. });
        let mut trainer = Self {
            grad: vec![0.0; start.len()],
            scratch: Scratch::new(&shape),
            optimizer: AdamW::new(&shape, if forecast { 0.0 } else { config.weight_decay }),
            random: Random::new(config.seed),
            order: (0..train.n()).collect(),
            at: 0,
            batch_z: Vec::new(),
            batch_targets: Targets::default(),
            phase: Phase::EvalStart,
            evaluation: Evaluation::new(&shape),
            before: Eval::default(),
            best: Eval::default(),
            best_params: start.clone(),
            since_best: 0,
            steps: 0,
            epochs: 0,
            diverged: false,
            params: start,
            shape,
            config,
            train,
            heldout,
            objective,
            offset,
        };
        trainer.random.shuffle(&mut trainer.order);
        Ok(trainer)
    }

    fn stops_early(&self) -> bool {
        self.config.patience > 0 && self.heldout.n() >= MIN_EARLY_STOP
    }

    /// Does the next piece of work.
    pub fn step(&mut self) -> Progress {
        match self.phase {
            Phase::EvalStart => {
                if let Some(eval) = self.evaluate() {
                    self.before = eval.clone();
                    self.best = eval;
                    self.phase = Phase::Steps;
                }
                Progress::Evaluating
            }
            Phase::Steps => self.optimize(),
            Phase::EvalEpoch => match self.evaluate() {
                Some(eval) => self.end_epoch(eval),
                None => Progress::Evaluating,
            },
            Phase::Done => Progress::Done,
        }
    }

    fn evaluate(&mut self) -> Option<Eval> {
        let eval = self.evaluation.advance(
            &self.shape,
            &self.params,
            &self.heldout,
            &self.objective,
            &self.offset,
        )?;
        self.evaluation = Evaluation::new(&self.shape);
        Some(eval)
    }

    fn optimize(&mut self) -> Progress {
        let end = self.train.n().min(self.at + self.config.batch);
        self.batch_z.clear();
        self.batch_targets.clear();
        for &i in &self.order[self.at..end] {
            self.batch_z.extend_from_slice(self.train.row(i));
            self.batch_targets.push(self.train.targets.at(i));
        }
        if self.config.dropout > 0.0 && !matches!(self.shape.head, Head::Forecast { .. }) {
            let scale = 1.0 / (1.0 - self.config.dropout);
            for z in &mut self.batch_z {
                *z = if self.random.uniform() < self.config.dropout { 0.0 } else { *z * scale };
            }
        }
        let batch = Batch {
            z: &self.batch_z,
            targets: &self.batch_targets,
            objective: &self.objective,
            offset: &self.offset,
            weights: None,
        };
        let loss = loss_and_gradient(&self.shape, &self.params, batch, &mut self.grad, &mut self.scratch);
        if !loss.is_finite() || self.grad.iter().any(|g| !g.is_finite()) {
            self.diverged = true;
            self.phase = Phase::Done;
            return Progress::Done;
        }
        let rate = self.learning_rate();
        self.optimizer.step(&mut self.params, &self.grad, rate);
        self.steps += 1;
        self.at = end;
        if end == self.train.n() {
            self.at = 0;
            self.random.shuffle(&mut self.order);
            self.phase = Phase::EvalEpoch;
        }
        Progress::Step { loss }
    }

    /// Linear from the configured rate to a tenth of it over all planned steps.
    fn learning_rate(&self) -> f32 {
        let planned = u64::from(self.config.epochs) * self.train.n().div_ceil(self.config.batch) as u64;
        let share = if planned > 1 { self.steps as f32 / (planned - 1) as f32 } else { 0.0 };
        self.config.learning_rate * (1.0 - 0.9 * share)
    }

    fn end_epoch(&mut self, eval: Eval) -> Progress {
        self.epochs += 1;
        let heldout_loss = (eval.samples > 0).then_some(eval.loss);
        if !self.stops_early() || eval.loss < self.best.loss {
            self.best_params.copy_from_slice(&self.params);
            self.best = eval;
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        let patient = !self.stops_early() || self.since_best < self.config.patience;
        let more = self.epochs < self.config.epochs && patient;
        self.phase = if more { Phase::Steps } else { Phase::Done };
        Progress::Epoch { heldout_loss }
    }

    /// The parameters kept so far, and their figures; meant to be called once [`Progress::Done`] was seen, and
    /// sound at any time.
    pub fn finish(self) -> Trained {
        let finite = self.best_params.iter().all(|p| p.is_finite());
        debug_assert!(finite, "steps with a non-finite gradient are never taken");
        Trained {
            params: self.best_params,
            heldout_before: self.before,
            heldout_after: self.best,
            steps: self.steps,
            epochs: self.epochs,
            diverged: self.diverged,
        }
    }
}

#[cfg(test)]
mod tests;

//! The personal module: what a gateway derives from the shared one for its own class mix, and keeps.

use serde::{Deserialize, Serialize};

use crate::prior::{label_counts, log_prior};
use crate::random::Random;
use crate::shape::Shape;
use crate::train::{Dataset, Eval, Evaluation, Progress, TrainConfig, TrainError, Trainer};

/// How a personal module is derived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PersonalConfig {
    /// Passes over the gateway's training samples; 0 leaves the shared parameters as they are.
    pub epochs: u32,
    /// Samples per optimizer step.
    pub batch: usize,
    /// Learning rate of the first step, falling linearly to a tenth.
    pub learning_rate: f32,
    /// Decoupled weight decay of weight matrices.
    pub weight_decay: f32,
    /// Share of features set to zero in training.
    pub dropout: f32,
    /// Additive smoothing of the log prior, per class; above 0.
    pub smoothing: f64,
    /// Held-out samples from which they alone decide; with fewer, cross-validation on the training samples is
    /// added to them.
    pub min_heldout: usize,
    /// Folds of that cross-validation, at least 2.
    pub folds: usize,
    /// Seed of folds, shuffling and dropout.
    pub seed: u64,
}

impl Default for PersonalConfig {
    fn default() -> Self {
        Self {
            epochs: 8,
            batch: 32,
            learning_rate: 1e-3,
            weight_decay: 0.05,
            dropout: 0.2,
            smoothing: 0.1,
            min_heldout: 20,
            folds: 4,
            seed: 0,
        }
    }
}

/// Which candidate serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// Fine-tuned parameters, log prior added.
    FineTuned,
    /// Shared parameters, log prior added.
    PriorOnly,
    /// Shared parameters as they are.
    Shared,
}

/// Mean log loss at the last exit, nats, over the samples that decided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Samples that decided: held-out ones, and cross-validated ones where those are few.
    pub samples: usize,
    /// Shared parameters as they are.
    pub shared: f64,
    /// Shared parameters, log prior added.
    pub prior_only: f64,
    /// Fine-tuned parameters, log prior added.
    pub fine_tuned: f64,
}

/// What serves on this gateway; it never leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Personal {
    /// Parameters.
    pub params: Vec<f32>,
    /// Added to every exit's logits when serving, `outputs`: the log prior, zeros for [`Kept::Shared`].
    pub offset: Vec<f32>,
    /// Which candidate this is.
    pub kept: Kept,
    /// Held-out figures of the shared module without the prior.
    pub heldout_shared: Eval,
    /// Held-out figures of this module.
    pub heldout: Eval,
    /// What decided.
    pub evidence: Evidence,
}

const CANDIDATES: usize = 3;

enum Phase {
    Tune(Box<Trainer>),
    Score { tuned: Vec<f32>, candidate: usize, evaluation: Evaluation },
    Done,
}

/// Derivation as a state machine, in pieces as short as those of [`Trainer::step`].
pub struct Personalizer {
    shape: Shape,
    shared: Vec<f32>,
    train: Dataset,
    heldout: Dataset,
    config: PersonalConfig,
    /// Training samples held out in each cross-validation run; the last run trains on all of them.
    folds: Vec<Vec<usize>>,
    run: usize,
    /// Prior and samples to score of the current run.
    offset: Vec<f32>,
    scored: Dataset,
    phase: Phase,
    tuned: Vec<f32>,
    losses: [f64; CANDIDATES],
    samples: usize,
    heldout_evals: [Eval; CANDIDATES],
}

impl Personalizer {
    /// Derives from `shared`; `train` and `heldout` are this gateway's own.
    pub fn new(
        shape: Shape,
        shared: Vec<f32>,
        train: Dataset,
        heldout: Dataset,
        config: PersonalConfig,
    ) -> Result<Self, TrainError> {
        if !(config.smoothing > 0.0 && config.smoothing <= 1e6) {
            return Err(TrainError::Config { field: "smoothing", allowed: "above 0, at most 1e6" });
        }
        if !(2..=64).contains(&config.folds) {
            return Err(TrainError::Config { field: "folds", allowed: "2 to 64" });
        }
        let mut folds = Vec::new();
        if heldout.n() < config.min_heldout && train.n() >= 2 {
            folds = vec![Vec::new(); config.folds.min(train.n())];
            let mut order: Vec<usize> = (0..train.n()).collect();
            Random::new(config.seed).shuffle(&mut order);
            for (i, sample) in order.into_iter().enumerate() {
                let fold = i % folds.len();
                folds[fold].push(sample);
            }
        }
        let mut personalizer = Self {
            shape,
            shared,
            train,
            heldout,
            config,
            folds,
            run: 0,
            offset: Vec::new(),
            scored: Dataset::default(),
            phase: Phase::Done,
            tuned: Vec::new(),
            losses: [0.0; CANDIDATES],
            samples: 0,
            heldout_evals: Default::default(),
        };
        // Refuses bad input of the whole derivation before any fold is cut from it.
        personalizer.trainer(personalizer.train.clone(), vec![0.0; shape.outputs])?;
        personalizer.heldout.check(&shape)?;
        personalizer.begin_run()?;
        Ok(personalizer)
    }

    fn trainer(&self, train: Dataset, offset: Vec<f32>) -> Result<Trainer, TrainError> {
        let config = TrainConfig {
            epochs: self.config.epochs.max(1),
            batch: self.config.batch,
            learning_rate: self.config.learning_rate,
            weight_decay: self.config.weight_decay,
            dropout: self.config.dropout,
            patience: 0,
            seed: self.config.seed.wrapping_add(self.run as u64),
        };
        Trainer::new(self.shape, self.shared.clone(), train, Dataset::default(), offset, config)
    }

    fn prior(&self, data: &Dataset) -> Vec<f32> {
        log_prior(&label_counts(&data.labels, self.shape.outputs), self.config.smoothing)
    }

    fn begin_run(&mut self) -> Result<(), TrainError> {
        let kept = if let Some(out) = self.folds.get(self.run) {
            let rest: Vec<usize> = (0..self.train.n()).filter(|i| !out.contains(i)).collect();
            self.scored = self.train.subset(out);
            self.train.subset(&rest)
        } else {
            self.scored = self.heldout.clone();
            self.train.clone()
        };
        self.offset = self.prior(&kept);
        let trainer = self.trainer(kept, self.offset.clone())?;
        self.phase = Phase::Tune(Box::new(trainer));
        Ok(())
    }

    /// Does the next piece of work.
    pub fn step(&mut self) -> Progress {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Tune(mut trainer) => {
                let progress = if self.config.epochs == 0 { Progress::Done } else { trainer.step() };
                if progress != Progress::Done {
                    self.phase = Phase::Tune(trainer);
                    return progress;
                }
                let tuned = trainer.finish().params;
                self.phase = Phase::Score { tuned, candidate: 0, evaluation: Evaluation::new(&self.shape) };
                Progress::Evaluating
            }
            Phase::Score { tuned, candidate, mut evaluation } => {
                let zeros = vec![0.0; self.shape.outputs];
                let params = if candidate == 2 { &tuned } else { &self.shared };
                let offset = if candidate == 0 { &zeros } else { &self.offset };
                let Some(eval) = evaluation.advance(&self.shape, params, &self.scored, offset) else {
                    self.phase = Phase::Score { tuned, candidate, evaluation };
                    return Progress::Evaluating;
                };
                self.count(candidate, eval);
                if candidate + 1 < CANDIDATES {
                    let evaluation = Evaluation::new(&self.shape);
                    self.phase = Phase::Score { tuned, candidate: candidate + 1, evaluation };
                    return Progress::Evaluating;
                }
                self.end_run(tuned)
            }
            Phase::Done => Progress::Done,
        }
    }

    fn count(&mut self, candidate: usize, eval: Eval) {
        self.losses[candidate] += f64::from(eval.last().loss) * eval.samples as f64;
        if candidate == 0 {
            self.samples += eval.samples;
        }
        if self.run == self.folds.len() {
            self.heldout_evals[candidate] = eval;
        }
    }

    fn end_run(&mut self, tuned: Vec<f32>) -> Progress {
        if self.run == self.folds.len() {
            self.tuned = tuned;
            return Progress::Done;
        }
        self.run += 1;
        match self.begin_run() {
            Ok(()) => Progress::Epoch { heldout_loss: None },
            // Every fold's data were checked as a whole; without a further run the prior alone is kept.
            Err(_) => Progress::Done,
        }
    }

    /// The module to serve. Before [`Progress::Done`] was seen it is the shared one with the prior.
    pub fn finish(self) -> Personal {
        let prior = self.prior(&self.train);
        let n = self.samples.max(1) as f64;
        let [shared, prior_only, fine_tuned] = self.losses.map(|loss| loss / n);
        let complete = !self.tuned.is_empty() && self.samples > 0;
        let kept = if complete && fine_tuned <= prior_only.min(shared) && self.config.epochs > 0 {
            Kept::FineTuned
        } else if complete && shared < prior_only {
            Kept::Shared
        } else {
            Kept::PriorOnly
        };
        let [heldout_shared, heldout_prior, heldout_tuned] = self.heldout_evals;
        let (params, offset, heldout) = match kept {
            Kept::FineTuned => (self.tuned, prior, heldout_tuned),
            Kept::PriorOnly => (self.shared, prior, heldout_prior),
            Kept::Shared => (self.shared, vec![0.0; self.shape.outputs], heldout_shared.clone()),
        };
        let evidence = Evidence { samples: self.samples, shared, prior_only, fine_tuned };
        Personal { params, offset, kept, heldout_shared, heldout, evidence }
    }
}

//! The task manifest: TOML as a person writes it, JSON as it travels. Defaults make the short manifest the
//! usual one.

mod input;
mod kinds;
mod policy;

pub use input::{Bounds, Input, Range};
pub use kinds::{
    AnomalySpec, Calendar, ClassifySpec, ForecastSpec, MAX_LAG, NamedPeriod, Period, Reject, TaskKind,
    UNKNOWN,
};
pub use policy::{MAX_STALENESS, RoundMode, RoundPolicy, StepCodec, SyncPolicy};

use loadonce_module::{
    CalibrationConfig, Choose, Head, MAX_FILE_BYTES, Objective, Penalty, PersonalConfig, Recipe, Shape,
    ShapeError, Shrinkage, SolveOptions, Sums, TrainConfig, TrainError, overlap,
};
use loadonce_wire::Name;
use loadonce_wire::limits::MAX_BLOB;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use thiserror::Error;

/// Most classes a task may have.
pub const MAX_CLASSES: usize = 256;
/// Bytes of a module file that its header may need.
const HEADER_ROOM: usize = 64 * 1024;

/// The recipes of modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// Closed form from exact sums.
    Moments,
    /// A trained linear head per exit.
    Probe,
    /// Trained heads over a running state that deeper exits reuse.
    Ladder,
}

/// The module a task trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// The recipe.
    pub kind: ModuleKind,
    /// Width of a ladder's running state; other recipes have none.
    #[serde(default = "ModuleSpec::default_rank")]
    pub rank: usize,
    /// Features per exit at most; the channels share them evenly.
    #[serde(default = "ModuleSpec::default_features")]
    pub features: usize,
    /// How the closed-form solution of classify and anomaly is regularized.
    #[serde(default)]
    pub shrinkage: Shrinkage,
    /// How the closed-form solution of a forecast is regularized.
    #[serde(default, skip_serializing_if = "usual_penalty")]
    pub penalty: Penalty,
    /// Whether a gateway serves the closed form or the trained module.
    #[serde(default, skip_serializing_if = "usual_choice")]
    pub choose: Choose,
}

fn usual_penalty(penalty: &Penalty) -> bool {
    *penalty == Penalty::Auto
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn usual_choice(choose: &Choose) -> bool {
    *choose == Choose::Auto
}

impl ModuleSpec {
    fn default_features() -> usize {
        64
    }
    fn default_rank() -> usize {
        16
    }

    /// The recipe with its rank.
    pub fn recipe(&self) -> Recipe {
        match self.kind {
            ModuleKind::Moments => Recipe::Moments,
            ModuleKind::Probe => Recipe::Probe,
            ModuleKind::Ladder => Recipe::Ladder { rank: self.rank },
        }
    }
}

/// A task as its owner describes it; see `docs/task-manifest.md` for every key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskManifest {
    /// Name: a topic level and a folder.
    pub name: String,
    /// What is answered.
    pub kind: TaskKind,
    /// Name of the backbone it runs on.
    pub backbone: String,
    /// Class names of a classify task in a fixed order; new ones are appended only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// What a sample is.
    pub input: Input,
    /// The trained part.
    pub module: ModuleSpec,
    /// Of a classify task.
    #[serde(default, skip_serializing_if = "ClassifySpec::is_usual")]
    pub classify: ClassifySpec,
    /// Of a forecast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastSpec>,
    /// Of an anomaly task.
    #[serde(default, skip_serializing_if = "AnomalySpec::is_usual")]
    pub anomaly: AnomalySpec,
    /// When a sample may leave at an early exit.
    #[serde(default)]
    pub exits: CalibrationConfig,
    /// Training of the shared module.
    #[serde(default)]
    pub training: TrainConfig,
    /// Derivation of the personal module.
    #[serde(default)]
    pub personal: PersonalConfig,
    /// Rounds.
    #[serde(default)]
    pub rounds: RoundPolicy,
    /// Contributions.
    #[serde(default)]
    pub sync: SyncPolicy,
}

/// Why a manifest was refused.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not TOML, an unknown key or a value of the wrong type.
    #[error("the task manifest does not parse: {0}")]
    Toml(#[from] toml::de::Error),
    /// The name cannot be a topic level.
    #[error("task name `{0}` is not usable: 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot")]
    Name(String),
    /// Too few, too many, empty or repeated classes.
    #[error(
        "`classes` needs 2 to {MAX_CLASSES} different, non-empty names of at most 64 bytes without control characters"
    )]
    Classes,
    /// A table of another kind, or none of its own.
    #[error("`{key}` {problem}")]
    Kind {
        /// The key.
        key: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A kind that cannot read this input.
    #[error("a {kind} task cannot read a {modality}; give it windows")]
    Modality {
        /// The kind.
        kind: &'static str,
        /// The input's modality.
        modality: &'static str,
    },
    /// A number outside its range.
    #[error("`{key}` is {value}, but must be {range}")]
    Range {
        /// Dotted key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// A training setting outside its range.
    #[error("`{table}`: {source}")]
    Training {
        /// The manifest's table.
        table: &'static str,
        /// What is wrong.
        source: TrainError,
    },
    /// The module does not fit the backbone.
    #[error("the module does not fit: {0}")]
    Shape(#[from] ShapeError),
}

impl TaskManifest {
    /// Reads and validates `task.toml`.
    pub fn from_toml(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Checks every value; a manifest from the network is checked the same way.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if Name::new(&self.name).is_none() {
            return Err(ManifestError::Name(self.name.clone()));
        }
        self.input.validate()?;
        self.validate_kind()?;
        let least = self.input.channels() + self.extras();
        let features = self.module.features;
        check(
            "module.features",
            &features,
            (least..=256).contains(&features),
            "from one per channel, besides levels, lags and calendar, to 256",
        )?;
        let (e, s, r) = (&self.exits, &self.sync, &self.rounds);
        let d = e.max_disagreement;
        check("exits.max_disagreement", &d, d > 0.0 && d < 1.0, "between 0 and 1")?;
        check(
            "exits.confidence",
            &e.confidence,
            e.confidence > 0.0 && e.confidence < 1.0,
            "between 0 and 1",
        )?;
        let tolerance = e.tolerance;
        check("exits.tolerance", &tolerance, tolerance > 0.0 && tolerance <= 100.0, "above 0, at most 100")?;
        check("sync.heldout", &s.heldout, (0.0..=0.5).contains(&s.heldout), "0 to 0.5")?;
        check("sync.settle_s", &s.settle_s, (0.0..=86_400.0).contains(&s.settle_s), "0 to 86400")?;
        check("sync.spread_s", &s.spread_s, (0.0..=3600.0).contains(&s.spread_s), "0 to 3600")?;
        check("sync.bits", &s.bits, (0.1..=8.0).contains(&s.bits), "0.1 to 8")?;
        check("sync.patch_bits", &s.patch_bits, (0.0..=8.0).contains(&s.patch_bits), "0 to 8")?;
        check("rounds.quorum", &r.quorum, r.quorum >= 1, "at least 1")?;
        check("rounds.minimum", &r.minimum, (1..=r.quorum).contains(&r.minimum), "1 to rounds.quorum")?;
        check("rounds.staleness", &r.staleness(), r.staleness() <= MAX_STALENESS, "0 to 256")?;
        check("rounds.max_norm", &r.max_norm, r.max_norm > 0.0 && r.max_norm.is_finite(), "above 0")?;
        check("rounds.max_weight", &r.max_weight, r.max_weight >= 1, "at least 1")?;
        if let Shrinkage::Fixed(value) = self.module.shrinkage {
            check("module.shrinkage", &value, value > 0.0 && value <= 1.0, "above 0, at most 1")?;
        }
        let trains = self.module.kind != ModuleKind::Moments || self.module.choose != Choose::Trained;
        check("module.choose", &"trained", trains, "auto or moments where `module.kind` is moments")?;
        if let Penalty::Fixed(value) = self.module.penalty {
            check("module.penalty", &value, value > 0.0 && value <= 1e6, "above 0, at most 1000000")?;
        }
        self.training.validate().map_err(|source| ManifestError::Training { table: "training", source })?;
        self.personal.validate().map_err(|source| ManifestError::Training { table: "personal", source })
    }

    /// Each kind has its own table and nobody else's.
    fn validate_kind(&self) -> Result<(), ManifestError> {
        let wrong = |key, problem| Err(ManifestError::Kind { key, problem });
        if self.kind != TaskKind::Classify {
            if !self.classes.is_empty() {
                return wrong("classes", "belongs to classify tasks");
            }
            if !self.classify.is_usual() {
                return wrong("classify", "is the table of another kind");
            }
        }
        if self.kind != TaskKind::Anomaly && !self.anomaly.is_usual() {
            return wrong("anomaly", "is the table of another kind");
        }
        match (self.kind, &self.forecast) {
            (TaskKind::Forecast, Some(forecast)) => forecast.validate(&self.input),
            (TaskKind::Forecast, None) => wrong("forecast", "is missing: give at least `forecast.horizon`"),
            (_, Some(_)) => wrong("forecast", "is the table of another kind"),
            (TaskKind::Anomaly, None) if self.module.kind == ModuleKind::Ladder => {
                wrong("module.kind", "cannot be ladder in an anomaly task; use moments or probe")
            }
            (TaskKind::Anomaly, None) => self.anomaly.validate(),
            (TaskKind::Classify, None) => {
                let names: HashSet<_> = self.classes.iter().collect();
                let sound = |class: &String| {
                    !class.is_empty() && class.len() <= 64 && !class.contains(char::is_control)
                };
                if !(2..=MAX_CLASSES).contains(&self.classes.len())
                    || names.len() != self.classes.len()
                    || !self.classes.iter().all(sound)
                {
                    return Err(ManifestError::Classes);
                }
                self.classify.validate(&self.classes)
            }
        }
    }

    /// Features that follow the projected ones, the same at every exit: levels, lags, calendar.
    pub fn extras(&self) -> usize {
        let levels = if self.input.levels() { 2 * self.input.channels() } else { 0 };
        let forecast = self.forecast.as_ref().map_or(0, |f| f.lags().len() + f.calendar_features());
        levels + forecast
    }

    /// The module's shape on a backbone with `exits` exits and `directions` directions per channel.
    pub fn shape(&self, exits: usize, directions: usize) -> Result<Shape, ManifestError> {
        let features = self.input.channels() * self.features_per_channel(directions) + self.extras();
        let recipe = self.module.recipe();
        let (head, outputs) = match (self.kind, &self.forecast) {
            (TaskKind::Forecast, Some(forecast)) => {
                let horizon = u16::try_from(forecast.horizon).unwrap_or(u16::MAX);
                let head = Head::Forecast { horizon, quantiles: forecast.quantiles };
                (head, forecast.horizon * forecast.quantiles.len())
            }
            (TaskKind::Anomaly, _) => {
                let outputs =
                    if recipe == Recipe::Moments { features } else { self.module.rank.min(features) };
                (Head::Anomaly, outputs)
            }
            _ => (Head::Classify, self.classes.len()),
        };
        let shape = Shape { recipe, head, exits, features, outputs };
        shape.validate()?;
        let bytes = Sums::for_shape(&shape).map_or(0, |sums| sums.to_bytes().len());
        // Compression only helps; a sum that needs it to pass would be refused on a bad day.
        check(
            "module.features",
            &features,
            bytes <= MAX_BLOB && shape.parameters() * 4 + HEADER_ROOM <= MAX_FILE_BYTES,
            "fewer: the sums or the module of this many would not fit a transfer",
        )?;
        Ok(shape)
    }

    /// What this task's features are made of on a backbone: two samples whose texts differ have features, or
    /// forecast targets, that mean different things, however many there are.
    pub fn features_of(&self, backbone: &str, directions: usize) -> String {
        let (channels, each) = (self.input.channels(), self.features_per_channel(directions));
        let forecast = self.forecast.as_ref().map(ForecastSpec::text).unwrap_or_default();
        format!("{} {channels}x{each}{}{forecast} {backbone}", self.input.modality(), self.input.text())
    }

    /// Directions taken from each channel on a backbone that has `directions`.
    pub fn features_per_channel(&self, directions: usize) -> usize {
        (self.module.features.saturating_sub(self.extras()) / self.input.channels().max(1)).min(directions)
    }

    /// Appends the phase of every period of the calendar at the first value to come, for a window that ends at
    /// `time`, in seconds since the epoch. Nothing without a calendar.
    pub fn append_calendar(&self, time: f64, out: &mut Vec<f32>) {
        let Some(forecast) = &self.forecast else { return };
        let step_s = forecast.step_s.unwrap_or(1.0);
        for calendar in &forecast.calendar {
            calendar.append(time + step_s, step_s, out);
        }
    }

    /// How totals become a module.
    pub fn solve_options(&self) -> SolveOptions {
        SolveOptions {
            shrinkage: self.module.shrinkage,
            penalty: self.module.penalty,
            class_weights: self.classify.weights.clone(),
            regressors: self.forecast.as_ref().map(ForecastSpec::regressors).unwrap_or_default(),
        }
    }

    /// How many of a gateway's held-out samples say as much as one that is independent: the overlap of a forecast's
    /// windows, mean over the steps, thinned by the share that is held out; 1 for the other kinds.
    pub fn heldout_overlap(&self) -> f64 {
        let Some(forecast) = &self.forecast else { return 1.0 };
        let of_steps = overlap(forecast.horizon, forecast.every);
        let whole = of_steps.iter().sum::<f64>() / of_steps.len().max(1) as f64;
        1.0 + self.sync.heldout * (whole - 1.0)
    }

    /// What training minimizes.
    pub fn objective(&self) -> Objective {
        Objective {
            forecast: self.forecast.as_ref().map(|forecast| forecast.loss).unwrap_or_default(),
            class_weights: self.classify.weights.clone(),
        }
    }

    /// Gradient rounds after the first version; none where the closed form always serves.
    pub fn steps(&self) -> u64 {
        if self.module.choose == Choose::Moments { 0 } else { self.rounds.steps }
    }
}

fn check(
    key: &'static str,
    value: &impl ToString,
    good: bool,
    range: &'static str,
) -> Result<(), ManifestError> {
    if good { Ok(()) } else { Err(ManifestError::Range { key, value: value.to_string(), range }) }
}

#[cfg(test)]
mod tests;

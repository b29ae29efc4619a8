//! The task manifest: TOML as a person writes it, JSON as it travels. Defaults make the short manifest the
//! usual one.

use loadonce_module::{
    CalibrationConfig, Head, PersonalConfig, Recipe, Shape, ShapeError, Shrinkage, Sums, TrainConfig,
    TrainError,
};
use loadonce_wire::Name;
use loadonce_wire::limits::MAX_BLOB;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use thiserror::Error;

/// Most classes a task may have.
pub const MAX_CLASSES: usize = 256;

/// What a task answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// One of the declared classes.
    Classify,
}

/// What a sample is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "modality", rename_all = "lowercase", deny_unknown_fields)]
pub enum Input {
    /// A stretch of one or more sensor channels.
    Window {
        /// Channels per window.
        channels: usize,
        /// Points per channel, where fixed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<usize>,
    },
    /// A PNG or JPEG picture.
    Picture {},
}

impl Input {
    /// Channels that are encoded one by one.
    pub fn channels(&self) -> usize {
        match self {
            Self::Window { channels, .. } => *channels,
            Self::Picture {} => 1,
        }
    }
}

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
    /// How the closed-form solution is regularized.
    #[serde(default)]
    pub shrinkage: Shrinkage,
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

/// How rounds open and close.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoundPolicy {
    /// Gateways whose contributions close a round at once.
    pub quorum: usize,
    /// Gateways without which a round never closes.
    pub minimum: usize,
    /// Seconds from the first contribution after which a round closes without the quorum; 0 for never.
    pub deadline_s: u64,
    /// Gradient rounds after the first version; none for `moments`.
    pub steps: u64,
    /// Largest accepted Euclidean norm of a step.
    pub max_norm: f32,
    /// Samples at which one gateway's weight is clipped.
    pub max_weight: u32,
}

impl Default for RoundPolicy {
    fn default() -> Self {
        Self { quorum: 10, minimum: 1, deadline_s: 3600, steps: 3, max_norm: 100.0, max_weight: 10_000 }
    }
}

/// When a gateway contributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncPolicy {
    /// Seconds without a new label before new labels are summed and sent.
    pub settle_s: f64,
    /// Labelled samples without which a gateway neither sums nor trains.
    pub min_labels: usize,
    /// Share of samples held out for good, 0 to 0.5.
    pub heldout: f64,
}

impl Default for SyncPolicy {
    fn default() -> Self {
        Self { settle_s: 30.0, min_labels: 2, heldout: 0.2 }
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
    /// Class names in a fixed order; new ones are appended only.
    pub classes: Vec<String>,
    /// What a sample is.
    pub input: Input,
    /// The trained part.
    pub module: ModuleSpec,
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
        let names: HashSet<_> = self.classes.iter().collect();
        let sound =
            |class: &String| !class.is_empty() && class.len() <= 64 && !class.contains(char::is_control);
        if !(2..=MAX_CLASSES).contains(&self.classes.len())
            || names.len() != self.classes.len()
            || !self.classes.iter().all(sound)
        {
            return Err(ManifestError::Classes);
        }
        let channels = self.input.channels();
        check("input.channels", &channels, (1..=64).contains(&channels), "1 to 64")?;
        let features = self.module.features;
        check(
            "module.features",
            &features,
            (channels..=256).contains(&features),
            "from one per channel to 256",
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
        check("sync.heldout", &s.heldout, (0.0..=0.5).contains(&s.heldout), "0 to 0.5")?;
        check("sync.settle_s", &s.settle_s, (0.0..=86_400.0).contains(&s.settle_s), "0 to 86400")?;
        check("rounds.quorum", &r.quorum, r.quorum >= 1, "at least 1")?;
        check("rounds.minimum", &r.minimum, (1..=r.quorum).contains(&r.minimum), "1 to rounds.quorum")?;
        check("rounds.max_norm", &r.max_norm, r.max_norm > 0.0 && r.max_norm.is_finite(), "above 0")?;
        check("rounds.max_weight", &r.max_weight, r.max_weight >= 1, "at least 1")?;
        if let Shrinkage::Fixed(value) = self.module.shrinkage {
            check("module.shrinkage", &value, value > 0.0 && value <= 1.0, "above 0, at most 1")?;
        }
        self.training.validate().map_err(|source| ManifestError::Training { table: "training", source })?;
        self.personal.validate().map_err(|source| ManifestError::Training { table: "personal", source })
    }

    /// The module's shape on a backbone with `exits` exits and `directions` directions per channel.
    pub fn shape(&self, exits: usize, directions: usize) -> Result<Shape, ManifestError> {
        let channels = self.input.channels();
        let features = channels * self.features_per_channel(directions);
        let shape = Shape {
            recipe: self.module.recipe(),
            head: Head::Classify,
            exits,
            features,
            outputs: self.classes.len(),
        };
        shape.validate()?;
        let bytes = Sums::zero(exits, features, shape.outputs).map_or(0, |sums| sums.to_bytes().len());
        // Compression only helps; a sum that needs it to pass would be refused on a bad day.
        check(
            "module.features",
            &features,
            bytes <= MAX_BLOB,
            "fewer: the sums of this many would not fit a transfer",
        )?;
        Ok(shape)
    }

    /// What this task's features are made of on a backbone: two samples whose texts differ have features that
    /// mean different things, however many there are.
    pub fn features_of(&self, backbone: &str, directions: usize) -> String {
        let modality = match self.input {
            Input::Window { .. } => "window",
            Input::Picture {} => "picture",
        };
        let (channels, each) = (self.input.channels(), self.features_per_channel(directions));
        format!("{modality} {channels}x{each} {backbone}")
    }

    /// Directions taken from each channel on a backbone that has `directions`.
    pub fn features_per_channel(&self, directions: usize) -> usize {
        (self.module.features / self.input.channels()).min(directions)
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
mod tests {
    use super::*;

    const SHORT: &str = r#"
        name = "digits"
        kind = "classify"
        backbone = "sense-tiny"
        classes = ["0", "1", "2"]
        input = { modality = "picture" }
        module = { kind = "ladder", rank = 16 }
    "#;

    #[test]
    fn the_short_manifest_is_enough_and_travels_as_json() {
        let manifest = TaskManifest::from_toml(SHORT).unwrap();
        assert_eq!(manifest.module.features, 64);
        let json = serde_json::to_string(&manifest).unwrap();
        assert_eq!(serde_json::from_str::<TaskManifest>(&json).unwrap(), manifest);
        let shape = manifest.shape(3, 128).unwrap();
        assert_eq!((shape.features, shape.outputs), (64, 3));
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, word) in [
            (r#""digits""#, r#""dig its""#, "dig its"),
            (r#""2"]"#, r#""1"]"#, "classes"),
            ("rank = 16", "rank = 16, features = 1000", "module.features"),
            ("rank = 16", "rank = 16, shrinkage = { fixed = 0.0 }", "module.shrinkage"),
            (r#""2"]"#, r#""\t"]"#, "control"),
            ("module =", "personal = { folds = 1 }\nmodule =", "folds"),
            ("module =", "training = { batch = 0 }\nmodule =", "batch"),
            (r#"kind = "classify""#, r#"kind = "translate""#, "translate"),
            (r#"modality = "picture""#, r#"modality = "window", channels = 99"#, "input.channels"),
            ("backbone", "bakcbone", "bakcbone"),
        ] {
            let text = SHORT.replace(from, to);
            let error = TaskManifest::from_toml(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}

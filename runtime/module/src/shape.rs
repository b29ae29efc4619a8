//! What a module is made of: recipe, sizes, canonical tensors.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::head::{Head, MAX_HORIZON};
use crate::random::Random;

/// Most exits a module may have.
pub const MAX_EXITS: usize = 8;
/// Most features per exit.
pub const MAX_FEATURES: usize = 256;
/// Fewest classes.
pub const MIN_OUTPUTS: usize = 2;
/// Most classes.
pub const MAX_CLASSES: usize = 256;
/// Most outputs: classes, horizon × quantiles, or coordinates of an anomaly score.
pub const MAX_OUTPUTS: usize = 512;
/// Most units of a ladder's running state.
pub const MAX_RANK: usize = 64;

/// How a module computes its outputs and how it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Recipe {
    /// A linear head per exit, solved in closed form from exact sums.
    Moments,
    /// A linear head per exit, trained.
    Probe,
    /// A running state of `rank` units that deeper exits refine, with a linear head per exit; trained.
    Ladder {
        /// Units of the running state, 1..=64.
        rank: usize,
    },
}

impl Recipe {
    /// The recipe's name in files and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moments => "moments",
            Self::Probe => "probe",
            Self::Ladder { .. } => "ladder",
        }
    }

    /// Units of the running state; 0 for the linear recipes.
    pub fn rank(self) -> usize {
        match self {
            Self::Ladder { rank } => rank,
            Self::Moments | Self::Probe => 0,
        }
    }
}

/// Sizes of a module and what its outputs mean; with the class names and the backbone, all a sum or a step must
/// agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// How outputs are computed.
    pub recipe: Recipe,
    /// What they mean.
    pub head: Head,
    /// Exits of the backbone the module uses, 1..=8.
    pub exits: usize,
    /// Features per exit, 1..=256.
    pub features: usize,
    /// Outputs per exit: 2..=256 classes; horizon × quantiles, at most 512; for anomaly as many as features
    /// (moments) or fewer (probe).
    pub outputs: usize,
}

/// One named tensor inside the flat parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Canonical name, as in the module file: `exit_1.weight`.
    pub name: String,
    /// Row-major dimensions.
    pub dims: Vec<usize>,
    /// Where the tensor lies in the flat parameters.
    pub range: Range<usize>,
}

/// A size outside its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// `what` must lie in `least..=most`.
    #[error("module {what} is {got}, allowed are {least} to {most}; correct the task manifest")]
    OutOfRange {
        /// The size that is wrong.
        what: &'static str,
        /// What was given.
        got: usize,
        /// Smallest allowed.
        least: usize,
        /// Largest allowed.
        most: usize,
    },
    /// The recipe has no closed form to start from for this kind.
    #[error("{kind} cannot use a {recipe} module; use moments or probe")]
    Recipe {
        /// The task's kind.
        kind: &'static str,
        /// The recipe's name.
        recipe: &'static str,
    },
}

/// Offsets of one exit's tensors in the flat parameters. For linear recipes `down` to `gate` are empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExitLayout {
    pub(crate) down: usize,
    pub(crate) down_bias: usize,
    /// Meaningless at the first exit, which has no gate.
    pub(crate) gate: usize,
    pub(crate) weight: usize,
    pub(crate) bias: usize,
}

impl Shape {
    /// Checks every size against its limits.
    pub fn validate(&self) -> Result<(), ShapeError> {
        let check = |what, got, least, most| {
            if (least..=most).contains(&got) {
                Ok(())
            } else {
                Err(ShapeError::OutOfRange { what, got, least, most })
            }
        };
        check("exits", self.exits, 1, MAX_EXITS)?;
        check("features per exit", self.features, 1, MAX_FEATURES)?;
        match self.head {
            Head::Classify => check("outputs", self.outputs, MIN_OUTPUTS, MAX_CLASSES)?,
            Head::Forecast { horizon, quantiles } => {
                let horizon = usize::from(horizon);
                check("horizon", horizon, 1, MAX_HORIZON)?;
                let want = horizon * quantiles.len();
                check("horizon times quantiles", want, 1, MAX_OUTPUTS)?;
                check("outputs", self.outputs, want, want)?;
            }
            Head::Anomaly => {
                let least = match self.recipe {
                    Recipe::Moments => self.features,
                    Recipe::Probe => 1,
                    Recipe::Ladder { .. } => {
                        return Err(ShapeError::Recipe {
                            kind: self.head.name(),
                            recipe: self.recipe.name(),
                        });
                    }
                };
                check("outputs", self.outputs, least, self.features)?;
            }
        }
        match self.recipe {
            Recipe::Ladder { rank } => check("rank", rank, 1, MAX_RANK),
            Recipe::Moments | Recipe::Probe => Ok(()),
        }
    }

    /// Numbers a gateway adds to its personal module's outputs: the log prior (`outputs`, the same at every exit)
    /// of a classify task, the shift of each quantile (`exits × outputs`) of a forecast, none for anomaly.
    pub fn offset_len(&self) -> usize {
        match self.head {
            Head::Classify => self.outputs,
            Head::Forecast { .. } => self.exits * self.outputs,
            Head::Anomaly => 0,
        }
    }

    /// What of an offset ([`Shape::offset_len`] numbers) is added to the outputs of exit `k`.
    pub fn offset_at<'a>(&self, offset: &'a [f32], k: usize) -> &'a [f32] {
        match self.head {
            Head::Classify | Head::Anomaly => offset,
            Head::Forecast { .. } => &offset[k * self.outputs..(k + 1) * self.outputs],
        }
    }

    /// Length of the flat parameters.
    pub fn parameters(&self) -> usize {
        self.exits * self.exit_parameters() - self.recipe.rank()
    }

    /// Parameters of one exit, its gate included (the first exit has none).
    fn exit_parameters(&self) -> usize {
        let Self { features: d, outputs: c, .. } = *self;
        match self.recipe {
            Recipe::Moments | Recipe::Probe => c * d + c,
            Recipe::Ladder { rank: r } => r * d + r + r + c * r + c,
        }
    }

    /// Columns of a head's weight: the running state's units, or the features where there is no state.
    pub(crate) fn head_width(&self) -> usize {
        match self.recipe {
            Recipe::Moments | Recipe::Probe => self.features,
            Recipe::Ladder { rank } => rank,
        }
    }

    /// Offsets of exit `k`, counted from 0.
    pub(crate) fn layout(&self, k: usize) -> ExitLayout {
        let r = self.recipe.rank();
        let base = k * self.exit_parameters() - if k == 0 { 0 } else { r };
        let down_bias = base + r * self.features;
        let gate = down_bias + r;
        let weight = gate + if k == 0 { 0 } else { r };
        ExitLayout { down: base, down_bias, gate, weight, bias: weight + self.outputs * self.head_width() }
    }

    /// The canonical tensors, in the order in which they fill the flat parameters.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let Self { features: d, outputs: c, .. } = *self;
        let mut specs = Vec::with_capacity(self.exits * 5);
        let mut at = 0;
        let mut push = |name: String, dims: Vec<usize>| {
            let end = at + dims.iter().product::<usize>();
            specs.push(TensorSpec { name, dims, range: at..end });
            at = end;
        };
        for exit in 1..=self.exits {
            if let Recipe::Ladder { rank } = self.recipe {
                push(format!("exit_{exit}.down"), vec![rank, d]);
                push(format!("exit_{exit}.down_bias"), vec![rank]);
                if exit > 1 {
                    push(format!("exit_{exit}.gate"), vec![rank]);
                }
            }
            push(format!("exit_{exit}.weight"), vec![c, self.head_width()]);
            push(format!("exit_{exit}.bias"), vec![c]);
        }
        specs
    }

    /// Untrained parameters for a module without totals to start from: linear recipes start at zero, a ladder
    /// with rows of variance 1/features, small heads, zero biases and half-open gates.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut params = vec![0.0; self.parameters()];
        if let Recipe::Ladder { rank } = self.recipe {
            let mut random = Random::new(seed);
            for k in 0..self.exits {
                let at = self.layout(k);
                let row = 1.0 / (self.features as f32).sqrt();
                params[at.down..at.down_bias].fill_with(|| row * random.normal());
                let head = 0.1 / (rank as f32).sqrt();
                params[at.weight..at.bias].fill_with(|| head * random.normal());
            }
        }
        params
    }

    /// What a sum or a step must agree on before it is used: blake3 of a canonical text of kind, recipe, sizes,
    /// what the features are made of (`features_of`, see `docs/module-format.md`) and class names in order. Free
    /// text carries its byte length, so no two lists share a text.
    pub fn fingerprint(&self, classes: &[String], features_of: &str) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        let text = format!(
            "loadonce-module/1\n{}recipe {}\nrank {}\nexits {}\nfeatures {}\noutputs {}\nof {}:{features_of}\n",
            self.head.text(),
            self.recipe.name(),
            self.recipe.rank(),
            self.exits,
            self.features,
            self.outputs,
            features_of.len(),
        );
        hash.update(text.as_bytes());
        for class in classes {
            hash.update(format!("class {}:{class}\n", class.len()).as_bytes());
        }
        *hash.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Quantiles;

    fn shape(recipe: Recipe) -> Shape {
        Shape { recipe, head: Head::Classify, exits: 3, features: 5, outputs: 4 }
    }

    #[test]
    fn tensors_fill_the_parameters_without_gaps() {
        for recipe in [Recipe::Moments, Recipe::Probe, Recipe::Ladder { rank: 2 }] {
            let shape = shape(recipe);
            let mut at = 0;
            for spec in shape.tensors() {
                assert_eq!(spec.range.start, at, "{}", spec.name);
                assert_eq!(spec.range.len(), spec.dims.iter().product::<usize>());
                at = spec.range.end;
            }
            assert_eq!(at, shape.parameters());
        }
    }

    #[test]
    fn layout_agrees_with_the_canonical_tensors() {
        let shape = shape(Recipe::Ladder { rank: 2 });
        for (k, part) in [("down", 0), ("down_bias", 1), ("gate", 2), ("weight", 3), ("bias", 4)]
            .iter()
            .flat_map(|part| (0..3).map(move |k| (k, *part)))
        {
            let at = shape.layout(k);
            let offset = [at.down, at.down_bias, at.gate, at.weight, at.bias][part.1];
            let name = format!("exit_{}.{}", k + 1, part.0);
            match shape.tensors().into_iter().find(|spec| spec.name == name) {
                Some(spec) => assert_eq!(spec.range.start, offset, "{name}"),
                None => assert_eq!(name, "exit_1.gate"),
            }
        }
    }

    #[test]
    fn outputs_must_fit_the_kind() {
        let forecast = |recipe, horizon, outputs| {
            let head = Head::Forecast { horizon, quantiles: Quantiles::USUAL };
            Shape { recipe, head, exits: 3, features: 5, outputs }.validate()
        };
        assert_eq!(forecast(Recipe::Ladder { rank: 2 }, 24, 72), Ok(()));
        for (horizon, outputs) in [(24, 71), (0, 0), (171, 513), (193, 579)] {
            assert!(forecast(Recipe::Probe, horizon, outputs).is_err(), "{horizon}");
        }
        let anomaly = |recipe, outputs| Shape { head: Head::Anomaly, outputs, ..shape(recipe) }.validate();
        assert_eq!((anomaly(Recipe::Moments, 5), anomaly(Recipe::Probe, 1)), (Ok(()), Ok(())));
        assert!(anomaly(Recipe::Moments, 4).is_err() && anomaly(Recipe::Probe, 6).is_err());
        assert!(matches!(anomaly(Recipe::Ladder { rank: 2 }, 5), Err(ShapeError::Recipe { .. })));
    }

    #[test]
    fn limits_are_checked() {
        let good = shape(Recipe::Ladder { rank: MAX_RANK });
        assert_eq!(good.validate(), Ok(()));
        for bad in [
            Shape { exits: 0, ..good },
            Shape { exits: MAX_EXITS + 1, ..good },
            Shape { features: 0, ..good },
            Shape { features: MAX_FEATURES + 1, ..good },
            Shape { outputs: 1, ..good },
            Shape { outputs: MAX_CLASSES + 1, ..good },
            Shape { recipe: Recipe::Ladder { rank: 0 }, ..good },
            Shape { recipe: Recipe::Ladder { rank: MAX_RANK + 1 }, ..good },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fingerprint_tells_every_part_apart() {
        let base = shape(Recipe::Probe);
        let names = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        let classes = names(&["ok", "scratch", "dent", "other"]);
        let print = base.fingerprint(&classes, "ab");
        assert_eq!(print, base.fingerprint(&classes, "ab"));
        assert_ne!(print, base.fingerprint(&classes, "ac"));
        assert_ne!(print, base.fingerprint(&names(&["ok", "scratch", "other", "dent"]), "ab"));
        assert_ne!(print, Shape { features: 6, ..base }.fingerprint(&classes, "ab"));
        assert_ne!(print, shape(Recipe::Moments).fingerprint(&classes, "ab"));
        assert_ne!(print, Shape { head: Head::Anomaly, ..base }.fingerprint(&classes, "ab"));
        let forecast = |horizon, quantiles| Shape { head: Head::Forecast { horizon, quantiles }, ..base };
        let (day, median) = (forecast(24, Quantiles::USUAL), forecast(24, Quantiles::MEDIAN));
        assert_ne!(day.fingerprint(&[], "ab"), median.fingerprint(&[], "ab"));
        assert_ne!(day.fingerprint(&[], "ab"), forecast(12, Quantiles::USUAL).fingerprint(&[], "ab"));
        assert_ne!(
            base.fingerprint(&names(&["a\nclass 1:b"]), ""),
            base.fingerprint(&names(&["a", "b"]), "")
        );
    }

    #[test]
    fn recipe_is_tagged_json() {
        let text = serde_json::to_string(&Recipe::Ladder { rank: 16 }).expect("serializes");
        assert_eq!(text, r#"{"kind":"ladder","rank":16}"#);
        assert_eq!(serde_json::from_str::<Recipe>(r#"{"kind":"moments"}"#).expect("parses"), Recipe::Moments);
        assert!(serde_json::from_str::<Recipe>(r#"{"kind":"lora"}"#).is_err());
    }
}

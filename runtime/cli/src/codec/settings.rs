//! The two tasks: real samples, features of the real backbone, a ladder of about 40,000 parameters.

use super::{Options, usage};
use crate::data::DataSet;
use crate::demo::by_mix;
use crate::evaluate::{EvaluateError, Features};
use loadonce_backbone::{Backbone, Bundle, EngineOptions};
use loadonce_control::TaskManifest;
use loadonce_module::{Dataset, Random, Shape, TrainConfig};
use std::path::{Path, PathBuf};

/// A task, its samples and their features.
pub(crate) struct Setting {
    pub(crate) manifest: TaskManifest,
    pub(crate) shape: Shape,
    pub(crate) set: DataSet,
    pub(crate) features: Features,
    /// Training samples of a gateway.
    each: usize,
}

/// 8 × 8 pixels as a scanner would read them: line by line, and column by column. Two channels have 256 features.
const DIGITS: &str = r#"
name = "digits"
kind = "classify"
backbone = "sense-tiny"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
input = { modality = "window", channels = 2, length = 64 }
module = { kind = "ladder", rank = 50, features = 256 }
"#;
/// Twelve cepstral coefficients of a vowel; who speaks?
const VOWELS: &str = r#"
name = "vowels"
kind = "classify"
backbone = "sense-tiny"
classes = ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
input = { modality = "window", channels = 12 }
module = { kind = "ladder", rank = 51, features = 256 }
"#;

/// The tasks asked for.
pub(crate) fn all(options: &Options) -> Result<Vec<Setting>, EvaluateError> {
    let tasks = [("digits", DIGITS, 40), ("vowels", VOWELS, 13)];
    for name in &options.tasks {
        if !tasks.iter().any(|(task, ..)| task == name) {
            return Err(usage(format!("--tasks {name}: there are digits and vowels")));
        }
    }
    let failed = |e: &dyn std::fmt::Display| EvaluateError::Backbone(e.to_string());
    let library = crate::library::find(options.library.as_deref())
        .map_err(|(path, source)| EvaluateError::File { doing: "find", path, source })?;
    let bundle = Bundle::open(&options.bundle).map_err(|e| failed(&e))?;
    let engine = EngineOptions { library, threads: 1, ..EngineOptions::default() };
    let backbone = Backbone::load(bundle, &engine).map_err(|e| failed(&e))?;
    let wanted = |name: &&str| options.tasks.is_empty() || options.tasks.iter().any(|task| task == name);
    tasks
        .iter()
        .filter(|(name, ..)| wanted(name))
        .map(|(name, text, each)| {
            let path = options.data.join(format!("{name}.safetensors"));
            Setting::new(&backbone, text, &path, *each, options.threads)
        })
        .collect()
}

impl Setting {
    fn new(
        backbone: &Backbone,
        text: &str,
        path: &Path,
        each: usize,
        threads: usize,
    ) -> Result<Self, EvaluateError> {
        let content = |what: String| EvaluateError::Content { path: path.to_owned(), what };
        let manifest = TaskManifest::from_toml(text).map_err(|e| content(e.to_string()))?;
        let mut set = DataSet::read(path)?;
        if manifest.name == "digits" {
            for payload in &mut set.payloads {
                *payload = scanned(payload).map_err(content)?;
            }
        }
        if set.classes.len() != manifest.classes.len() {
            return Err(content("it does not have the classes of the task".into()));
        }
        let bundle = backbone.bundle();
        let shape =
            manifest.shape(bundle.exits(), bundle.directions()).map_err(|e| content(e.to_string()))?;
        let features = Features::compute(backbone, &manifest, &set, path, threads)?;
        Ok(Self { manifest, shape, set, features, each })
    }

    /// How a gateway trains: as the manifest says, or from nothing.
    pub(crate) fn training(&self, cold: bool) -> TrainConfig {
        let usual = self.manifest.training.clone();
        // What `TrainConfig` recommends for a module trained from nothing.
        if cold { TrainConfig { learning_rate: 5e-3, ..usual } } else { usual }
    }

    /// Samples of each gateway.
    pub(crate) fn split(&self, seed: u64, gateways: usize) -> Result<Vec<Vec<usize>>, EvaluateError> {
        by_mix(&mut Random::new(seed), self.set.pool(), gateways, self.each).ok_or_else(|| {
            let path = PathBuf::from(&self.manifest.name);
            EvaluateError::Content { path, what: format!("too few samples for {gateways} gateways") }
        })
    }

    /// Features and classes of samples, as a gateway holds them.
    pub(crate) fn dataset(&self, samples: &[usize]) -> Dataset {
        let mut data = Dataset::default();
        for &sample in samples {
            data.push(self.features.row(sample), self.set.labels[sample]);
        }
        data
    }
}

/// A picture's pixels line by line, then column by column, as packed numbers.
fn scanned(png: &[u8]) -> Result<Vec<u8>, String> {
    let picture = image::load_from_memory(png).map_err(|e| e.to_string())?.to_luma8();
    let (width, height) = picture.dimensions();
    let lines = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let columns = (0..width).flat_map(|x| (0..height).map(move |y| (x, y)));
    Ok(lines
        .chain(columns)
        .flat_map(|(x, y)| f32::from(picture.get_pixel(x, y).0[0]).to_le_bytes())
        .collect())
}

//! `loadonce evaluate`: what a task's module reaches on a data set, with the product's own pre-processing, backbone and
//! training, on this machine and without a fleet.
//!
//! | file | holds |
//! |---|---|
//! | `draw` | which samples a draw takes |
//! | `features` | features of all samples, computed once and kept in a file |
//! | `classify` | modules and their figures; early exits |
//! | `against` | two forms of a backbone on the same samples |
//! | `report` | what a person and a script read |

mod against;
mod classify;
mod draw;
mod error;
mod features;
mod report;

pub use error::EvaluateError;

use crate::data::DataSet;
use against::against;
use classify::{Bench, Job};
use draw::Labels;
use features::{Features, in_parallel};
use loadonce_backbone::{Backbone, Bundle, EngineOptions};
use loadonce_control::TaskManifest;
use loadonce_module::Recipe;
use report::Report;
use std::path::PathBuf;

/// Most draws.
const MAX_DRAWS: u64 = 1000;

/// What a person may choose.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  loadonce evaluate --task models/tasks/digits.toml --data models/data/digits.safetensors \\
      --bundle models/bundles/sense-tiny
  loadonce evaluate --task task.toml --data set.safetensors --bundle BUNDLE --features set.features \\
      --recipes moments --labels all --exits --out figures.json

The data file is described in models/data/README.md. Training follows the manifest's [training], early exits its
[exits]. Draw d takes of every class the first samples in the order of blake3(\"d row\").")]
pub struct Options {
    /// Task manifest: input, classes, module, training and exits
    #[arg(long, value_name = "FILE")]
    pub task: PathBuf,
    /// Data set with a training and a test split
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Folder of the backbone's bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Features of the data set: read when the file is there, else written; without --bundle it must be there
    #[arg(long, value_name = "FILE")]
    pub features: Option<PathBuf>,
    /// Compare with these features of the same samples, exit by exit
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Recipes to try
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "moments,probe,ladder")]
    pub recipes: Vec<String>,
    /// Labels per class: numbers, or `all`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "5,10,50,all")]
    pub labels: Vec<String>,
    /// Draws of labels; `all` needs only one
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub draws: u64,
    /// Number of the first draw
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub draw: u64,
    /// Calibrate early exits and measure what they save and cost
    #[arg(long)]
    pub exits: bool,
    /// File for the figures as JSON; without it they go to standard output in place of the table
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub threads: usize,
    /// ONNX Runtime's library; without it `ORT_DYLIB_PATH`, then target/onnxruntime, then the system are looked at
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

fn usage(what: impl Into<String>) -> EvaluateError {
    EvaluateError::Usage { what: what.into() }
}

impl Options {
    fn labels(&self) -> Result<Vec<Labels>, EvaluateError> {
        let parse = |text: &String| text.parse().map_err(|e| usage(format!("--labels {text}: {e}")));
        self.labels.iter().map(parse).collect()
    }

    fn recipes(&self, rank: usize) -> Result<Vec<Recipe>, EvaluateError> {
        let parse = |text: &String| match text.as_str() {
            "moments" => Ok(Recipe::Moments),
            "probe" => Ok(Recipe::Probe),
            "ladder" => Ok(Recipe::Ladder { rank }),
            other => Err(usage(format!("--recipes {other}: there are moments, probe and ladder"))),
        };
        self.recipes.iter().map(parse).collect()
    }

    fn jobs(&self, rank: usize) -> Result<Vec<Job>, EvaluateError> {
        if !(1..=MAX_DRAWS).contains(&self.draws) || self.draw.checked_add(self.draws).is_none() {
            return Err(usage(format!("--draws is {}, allowed are 1 to {MAX_DRAWS}", self.draws)));
        }
        let mut jobs = Vec::new();
        for labels in self.labels()? {
            for recipe in self.recipes(rank)? {
                let draws = if labels == Labels::All { 1 } else { self.draws };
                jobs.extend((self.draw..self.draw + draws).map(|draw| Job { recipe, labels, draw }));
            }
        }
        Ok(jobs)
    }

    fn manifest(&self) -> Result<TaskManifest, EvaluateError> {
        let path = &self.task;
        let text = std::fs::read_to_string(path).map_err(|source| EvaluateError::File {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        TaskManifest::from_toml(&text)
            .map_err(|e| EvaluateError::Content { path: path.clone(), what: e.to_string() })
    }

    fn features(&self, manifest: &TaskManifest, set: &DataSet) -> Result<Features, EvaluateError> {
        let found = match &self.features {
            Some(path) if path.exists() => Some((Features::read(path)?, path)),
            _ => None,
        };
        let Some(folder) = &self.bundle else {
            let Some((features, path)) = found else {
                return Err(usage("give --bundle, or --features with a file that exists"));
            };
            features.check(set, path)?;
            return Ok(features);
        };
        let failed = |e: &dyn std::fmt::Display| EvaluateError::Backbone(e.to_string());
        let bundle = Bundle::open(folder).map_err(|e| failed(&e))?;
        if let Some((features, path)) = found {
            features.check(set, path)?;
            if features.of != manifest.features_of(bundle.fingerprint(), bundle.directions()) {
                return Err(EvaluateError::Content {
                    path: path.clone(),
                    what: "these features come from another backbone or input; remove the file to make them again"
                        .into(),
                });
            }
            return Ok(features);
        }
        let library = crate::library::find(self.library.as_deref())
            .map_err(|(path, source)| EvaluateError::File { doing: "find", path, source })?;
        let engine = EngineOptions { library, threads: 1, ..EngineOptions::default() };
        let backbone = Backbone::load(bundle, &engine).map_err(|e| failed(&e))?;
        let features = Features::compute(&backbone, manifest, set, &self.data, self.threads)?;
        if let Some(path) = &self.features {
            features.write(path)?;
        }
        Ok(features)
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<(), EvaluateError> {
    if options.threads == 0 {
        return Err(usage("--threads must be at least 1"));
    }
    let manifest = options.manifest()?;
    let jobs = options.jobs(manifest.module.rank)?;
    let set = DataSet::read(&options.data)?;
    if manifest.classes != set.classes {
        return Err(EvaluateError::Content {
            path: options.task.clone(),
            what: format!("`classes` are not those of the data, {:?}", set.classes),
        });
    }
    if set.train.is_empty() || set.test.is_empty() {
        return Err(usage("the data set has no training or no test samples"));
    }
    let features = options.features(&manifest, &set)?;
    let bench = Bench { manifest: &manifest, set: &set, features: &features, early: options.exits };
    let figures = in_parallel(jobs.len(), options.threads, |i| {
        let job = jobs[i];
        bench.run(job).map_err(|what| EvaluateError::Module {
            recipe: job.recipe.name(),
            labels: job.labels.to_string(),
            draw: job.draw,
            what,
        })
    })?;
    let other = match &options.against {
        None => None,
        Some(path) => {
            let other = Features::read(path)?;
            other.check(&set, path)?;
            let wrong = |what| EvaluateError::Content { path: path.clone(), what };
            Some(against(&bench, &other).map_err(wrong)?)
        }
    };
    Report::new(&bench, figures, other).write(options.out.as_deref())
}

//! `loadonce evaluate`: what a task's module reaches on a data set, with the product's own pre-processing, backbone and
//! training, on this machine and without a fleet.
//!
//! | file | holds |
//! |---|---|
//! | `draw` | which samples a draw takes |
//! | `features` | features of all samples, computed once and kept in a file |
//! | `bench` | making a module, calibrating early exits |
//! | `classify`, `forecast`, `anomaly` | the figures of each kind of task |
//! | `against` | two forms of a backbone on the same samples |
//! | `report` | what a person and a script read |

mod against;
mod anomaly;
mod bench;
mod classify;
mod draw;
mod error;
mod features;
mod forecast;
mod report;

use crate::data::DataSet;
use against::against;
pub(crate) use bench::Bench;
use draw::Labels;
pub use error::EvaluateError;
pub(crate) use features::{Features, in_parallel};
use loadonce_backbone::{Backbone, Bundle, EngineOptions};
use loadonce_control::{TaskKind, TaskManifest};
use loadonce_module::Recipe;
use report::{Draws, Report};
use std::path::{Path, PathBuf};

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
    /// Recipes to try: moments, probe, ladder; without it all that the kind of task has
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub recipes: Vec<String>,
    /// Labels per class of a classify task: numbers, or `all`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "5,10,50,all")]
    pub labels: Vec<String>,
    /// Labelled anomalies that a probe of an anomaly task is trained with, at most
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub anomalies: usize,
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

    fn recipes(&self, manifest: &TaskManifest) -> Result<Vec<Recipe>, EvaluateError> {
        let parse = |text: &str| match text {
            "moments" => Ok(Recipe::Moments),
            "probe" => Ok(Recipe::Probe),
            "ladder" if manifest.kind == TaskKind::Anomaly => {
                Err(usage("--recipes ladder: an anomaly task has none"))
            }
            "ladder" => Ok(Recipe::Ladder { rank: manifest.module.rank }),
            other => Err(usage(format!("--recipes {other}: there are moments, probe and ladder"))),
        };
        if self.recipes.is_empty() {
            let all = ["moments", "probe", "ladder"];
            let count = if manifest.kind == TaskKind::Anomaly { 2 } else { 3 };
            return all[..count].iter().map(|text| parse(text)).collect();
        }
        self.recipes.iter().map(|text| parse(text)).collect()
    }

    fn draws(&self) -> Result<std::ops::Range<u64>, EvaluateError> {
        match self.draw.checked_add(self.draws) {
            Some(end) if (1..=MAX_DRAWS).contains(&self.draws) => Ok(self.draw..end),
            _ => Err(usage(format!("--draws is {}, allowed are 1 to {MAX_DRAWS}", self.draws))),
        }
    }

    /// Makes and judges all modules.
    fn measure(&self, bench: &Bench<'_>) -> Result<Draws, EvaluateError> {
        let (recipes, draws) = (self.recipes(bench.manifest)?, self.draws()?);
        let failed = |recipe: Recipe, labels: String, draw: u64| {
            move |what| EvaluateError::Module { recipe: recipe.name(), labels, draw, what }
        };
        Ok(match bench.manifest.kind {
            TaskKind::Classify => {
                let mut jobs = Vec::new();
                for labels in self.labels()? {
                    let draws = if labels == Labels::All { self.draw..self.draw + 1 } else { draws.clone() };
                    for &recipe in &recipes {
                        jobs.extend(draws.clone().map(|draw| classify::Job { recipe, labels, draw }));
                    }
                }
                Draws::Classify(in_parallel(jobs.len(), self.threads, |i| {
                    let job = jobs[i];
                    classify::run(bench, job).map_err(failed(job.recipe, job.labels.to_string(), job.draw))
                })?)
            }
            TaskKind::Forecast => Draws::Forecast(in_parallel(recipes.len(), self.threads, |i| {
                forecast::run(bench, recipes[i]).map_err(failed(recipes[i], "all".into(), 0))
            })?),
            TaskKind::Anomaly => {
                let mut jobs = Vec::new();
                for &recipe in &recipes {
                    // Anomalies never enter the closed form, so its draws would all be the same.
                    let moments = recipe == Recipe::Moments;
                    let anomalies = if moments { 0 } else { self.anomalies };
                    let draws = if moments { self.draw..self.draw + 1 } else { draws.clone() };
                    jobs.extend(draws.map(|draw| anomaly::Job { recipe, anomalies, draw }));
                }
                Draws::Anomaly(in_parallel(jobs.len(), self.threads, |i| {
                    let job = jobs[i];
                    anomaly::run(bench, job).map_err(failed(job.recipe, job.anomalies.to_string(), job.draw))
                })?)
            }
        })
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

/// A task with its data.
pub(crate) struct Prepared {
    /// The task.
    pub(crate) manifest: TaskManifest,
    /// Its samples.
    pub(crate) set: DataSet,
    /// Their features.
    pub(crate) features: Features,
}

impl Options {
    /// Reads task and data, and reads or computes features.
    pub(crate) fn prepare(&self) -> Result<Prepared, EvaluateError> {
        let manifest = self.manifest()?;
        let set = DataSet::read(&self.data)?;
        check(&manifest, &set, &self.task)?;
        let features = self.features(&manifest, &set)?;
        Ok(Prepared { manifest, set, features })
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<(), EvaluateError> {
    if options.threads == 0 {
        return Err(usage("--threads must be at least 1"));
    }
    let Prepared { manifest, set, features } = options.prepare()?;
    let early = options.exits && features.exits > 1;
    let bench = Bench { manifest: &manifest, set: &set, features: &features, early };
    let draws = options.measure(&bench)?;
    let other = match &options.against {
        None => None,
        Some(_) if manifest.kind != TaskKind::Classify => {
            return Err(usage("--against compares classify tasks only"));
        }
        Some(path) => {
            let other = Features::read(path)?;
            other.check(&set, path)?;
            let wrong = |what| EvaluateError::Content { path: path.clone(), what };
            Some(against(&bench, &other).map_err(wrong)?)
        }
    };
    Report::new(&bench, draws, other).write(options.out.as_deref())
}

/// Refuses data of another task.
fn check(manifest: &TaskManifest, set: &DataSet, task: &Path) -> Result<(), EvaluateError> {
    let wrong = |what: String| Err(EvaluateError::Content { path: task.to_owned(), what });
    let forecast = manifest.kind == TaskKind::Forecast;
    if forecast != set.future.is_some() {
        return wrong("`kind` is forecast where the data has `future`, and only there".into());
    }
    if manifest.kind == TaskKind::Classify && manifest.classes != set.classes {
        return wrong(format!("`classes` are not those of the data, {:?}", set.classes));
    }
    if manifest.kind == TaskKind::Anomaly && set.classes != ["normal", "anomalous"] {
        return wrong(format!(
            "an anomaly task needs the classes normal and anomalous, not {:?}",
            set.classes
        ));
    }
    if set.train.is_empty() || set.test.is_empty() {
        return Err(usage("the data set has no training or no test samples"));
    }
    Ok(())
}

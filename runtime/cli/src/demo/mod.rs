//! `loadonce demo`: a small fleet learns on real input, end to end, on one machine.
//!
//! | file | holds |
//! |---|---|
//! | `federation` | one federation from the first process to the figures |
//! | `further` | the tasks of the other kinds |
//! | `fleet`, `children` | the processes and their configurations |
//! | `broker`, `plant` | the embedded broker; what sends samples and labels |
//! | `partition` | which gateway sees what |
//! | `evaluate`, `metrics` | the judge |
//! | `report`, `table`, `progress` | what a person and a script read |

mod broker;
mod children;
mod error;
mod evaluate;
mod federation;
mod fleet;
mod further;
mod metrics;
pub(crate) mod partition;
mod plant;
mod progress;
mod report;
mod rounds;
mod table;

pub use children::become_tied;
pub use error::DemoError;
pub(crate) use metrics::{Interval, mean, t_interval};
pub(crate) use partition::by_mix;
pub(crate) use plant::{Plant, Shipment, Stopped};

use federation::{Setup, TaskSetup};
use further::Further;
use loadonce_backbone::{Backbone, Bundle, EngineOptions};
use loadonce_module::Random;
use progress::Progress;
use report::Report;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Most gateways: above it the recordings of the motion task cannot give each of them two classes.
const MAX_GATEWAYS: usize = 16;

/// What a person may choose.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Number of federations to run; figures are then means, and differences get a 95 % interval
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seeds: u64,
    /// Seed of the first federation: it decides who has which samples
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub seed: u64,
    /// Number of gateways, each a process of its own
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub gateways: usize,
    /// Use this MQTT broker (mqtt://host:port) instead of the embedded one
    #[arg(long, value_name = "URL")]
    pub broker: Option<String>,
    /// Folder for the report and, while running, for the fleet's files
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    pub out: PathBuf,
    /// Keep configurations, state folders and logs of the fleet
    #[arg(long)]
    pub keep: bool,
    /// Send fewer samples: a smoke test, early exits stay off
    #[arg(long)]
    pub quick: bool,
    /// Seconds after which a stage of waiting, or of answers that do not come, is given up
    #[arg(long, default_value_t = 120, value_name = "S")]
    pub patience: u64,
    /// Folder with bundles, data and tasks
    #[arg(long, default_value = "models", value_name = "DIR")]
    pub models: PathBuf,
    /// ONNX Runtime's library; without it `ORT_DYLIB_PATH`, then target/onnxruntime, then the system are looked at
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

impl Options {
    fn check(&self) -> Result<(), DemoError> {
        let usage = |what: String| Err(DemoError::Usage { what });
        if !(1..=1000).contains(&self.seeds) {
            return usage(format!("--seeds is {}, allowed are 1 to 1000", self.seeds));
        }
        if self.seed.checked_add(self.seeds).is_none() {
            return usage(format!("--seed {} is too large", self.seed));
        }
        if !(2..=MAX_GATEWAYS).contains(&self.gateways) {
            return usage(format!("--gateways is {}, allowed are 2 to {MAX_GATEWAYS}", self.gateways));
        }
        if self.patience == 0 {
            return usage("--patience must be at least 1".into());
        }
        if let Some(url) = &self.broker {
            let broker =
                loadonce_link::Broker::parse(url).map_err(|e| DemoError::Usage { what: e.to_string() })?;
            if broker.tls {
                return usage(format!(
                    "{broker}: the demo speaks no TLS, for its gateways have no certificates"
                ));
            }
        }
        Ok(())
    }
}

/// Runs the demo; the table goes to standard output, progress to standard error, figures to `report.json`.
///
/// # Panics
/// Never: a report of numbers and names serializes.
pub async fn run(options: Options) -> Result<(), DemoError> {
    options.check()?;
    let mut progress = Progress::new();
    let setup = prepare(&options, &mut progress).await?;
    let mut runs = Vec::new();
    for seed in options.seed..options.seed + options.seeds {
        if options.seeds > 1 {
            progress.stage(&format!("federation {} of {}, seed {seed}", runs.len() + 1, options.seeds));
        }
        runs.push(federation::run(&setup, seed, &mut progress).await?);
    }
    let report = Report::new(&runs);
    let path = options.out.join("report.json");
    let json = serde_json::to_string_pretty(&report).expect("a report of numbers and names serializes");
    write(&path, &json)?;
    progress.stage(&format!("done; figures in {}", path.display()));
    println!("{}", table::table(&report));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    std::fs::write(path, format!("{text}\n")).map_err(|source| DemoError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

async fn prepare(options: &Options, progress: &mut Progress) -> Result<Setup, DemoError> {
    let (agent, aggregator) =
        (children::program("loadonce-agent")?, children::program("loadonce-aggregator")?);
    std::fs::create_dir_all(&options.out).map_err(|source| DemoError::File {
        doing: "create",
        path: options.out.clone(),
        source,
    })?;
    let models = absolute(&options.models)?;
    let tasks = ["digits", "motion"]
        .map(|name| TaskSetup::read(&models, name, options.gateways, options.quick))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let further = vec![
        Further::demand(&models, options.gateways, options.quick)?,
        Further::misprint(&models, options.gateways, options.quick, &mut Random::new(options.seed))?,
    ];
    let bundle_dir = models.join("bundles").join(&tasks[0].manifest.backbone);
    let library = crate::library::find(options.library.as_deref())
        .map_err(|(path, source)| DemoError::File { doing: "find", path, source })?;
    let bundle = Bundle::open(&bundle_dir).map_err(|e| DemoError::Backbone(e.to_string()))?;
    let engine = EngineOptions { library: library.clone(), threads: 1, ..EngineOptions::default() };
    let backbone = Backbone::load(bundle, &engine).map_err(|e| DemoError::Backbone(e.to_string()))?;
    progress.stage(&format!(
        "backbone {} loaded: {} parameters, {:.1} MB in fp32, {:.2} MB as installed",
        backbone.bundle().name(),
        backbone.bundle().parameters(),
        backbone.bundle().fp32_bytes() as f64 / 1e6,
        backbone.bundle().bytes() as f64 / 1e6,
    ));
    let broker = match &options.broker {
        Some(url) => url.clone(),
        None => broker::start().await?,
    };
    progress
        .stage(&format!("{} broker at {broker}", if options.broker.is_some() { "your" } else { "embedded" }));
    // On somebody's broker site and gateways (they are client ids) must not meet another demo's.
    let suffix = if options.broker.is_some() { format!("-{}", nonce()) } else { String::new() };
    Ok(Setup {
        agent,
        aggregator,
        bundle: bundle_dir,
        library,
        backbone: Arc::new(backbone),
        broker,
        gateways: (1..=options.gateways).map(|i| format!("gateway-{i:02}{suffix}")).collect(),
        suffix,
        tasks: Arc::new(tasks),
        further: Arc::new(further),
        out: absolute(&options.out)?,
        keep: options.keep,
        patience: Duration::from_secs(options.patience),
    })
}

/// Tells calls on the same broker apart.
fn nonce() -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_nanos());
    let seed = format!("{now} {}", std::process::id());
    blake3::hash(seed.as_bytes()).to_hex()[..12].to_owned()
}

fn absolute(path: &Path) -> Result<PathBuf, DemoError> {
    path.canonicalize().map_err(|source| DemoError::File { doing: "find", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use loadonce_control::TaskManifest;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::parse_from(std::iter::once("demo").chain(line.split_whitespace())).options
    }

    #[test]
    fn wrong_options_are_usage_errors() {
        assert!(options("").check().is_ok());
        for line in ["--seeds 0", "--gateways 1", "--gateways 17", "--patience 0", "--broker plant:1883"] {
            let error = options(line).check().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn the_committed_tasks_fit_the_committed_data() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        for name in ["digits", "motion"] {
            let task = TaskSetup::read(&models, name, 10, false).unwrap();
            assert_eq!(task.manifest.rounds.quorum, 10);
            assert_eq!(task.manifest.classes, task.data.classes);
            let again = TaskManifest::from_toml(&task.toml).unwrap();
            assert_eq!(again, task.manifest);
        }
    }
}

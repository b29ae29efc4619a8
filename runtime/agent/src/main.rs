//! `loadonce-agent`.

use clap::Parser;
use loadonce_agent::config::Config;
use loadonce_agent::{Agent, Backbones, count_failed, edge};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The loadonce agent: frozen backbones, small modules trained here, raw data never leaves.
#[derive(Parser)]
#[command(name = "loadonce-agent", version = loadonce_version::LONG)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, the bundles and the engine, then exit.
    #[arg(long)]
    check: bool,
}

/// What `LOADONCE_LOG` asks for, levels and `target=level`, comma-separated; `info` where it says nothing usable.
fn log_filter() -> Targets {
    let asked = std::env::var("LOADONCE_LOG").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(log_filter()).init();
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("loadonce-agent: {error}");
            return ExitCode::from(2);
        }
    };
    let state = config.state.clone();
    match run(config, arguments.check) {
        Ok(()) => ExitCode::SUCCESS,
        Err((cause, report)) => {
            if !arguments.check {
                count_failed(&state, cause);
            }
            eprintln!("loadonce-agent: {report}");
            ExitCode::FAILURE
        }
    }
}

/// The word under which a failed start is counted, and what is told.
type Failed = (&'static str, String);

/// The whole chain on one line, as a journal wants it.
fn failed<E: Error>(cause: &'static str, what: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| {
        let mut told = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            // A transparent error repeats its source's words.
            let text = error.to_string();
            if !told.ends_with(&text) {
                told = format!("{told}: {text}");
            }
            source = error.source();
        }
        (cause, told)
    }
}

fn run(config: Config, check: bool) -> Result<(), Failed> {
    let backbones = Backbones::load(&config.backbone, &config.state)
        .map_err(|error| failed(error.cause(), "the backbone is not usable")(error))?;
    if check {
        for backbone in backbones.iter() {
            let (bundle, resident) = (backbone.bundle(), backbone.resident_bytes() as f64 / 1e6);
            let provider = backbone.provider().as_str();
            println!(
                "backbone {} {} loads in {resident:.1} MB on {provider}",
                bundle.name(),
                bundle.fingerprint()
            );
        }
        println!("configuration is good");
        return Ok(());
    }
    let agent =
        Agent::open(config.clone(), backbones).map_err(failed("state", "the state folder is not usable"))?;
    tracing::info!(gateway = %config.gateway, incarnation = agent.incarnation(), "agent starts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("system", "the system refused"))?;
    runtime.block_on(edge::run(agent, config)).map_err(failed("run", "the agent ended"))
}

//! `loadonce-agent`.

use clap::Parser;
use loadonce_agent::config::Config;
use loadonce_agent::{Agent, edge};
use loadonce_backbone::{Backbone, Bundle, EngineKind, EngineOptions};
use miette::{IntoDiagnostic, WrapErr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// The loadonce agent: one frozen backbone, small modules trained here, raw data never leaves.
#[derive(Parser)]
#[command(name = "loadonce-agent", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, the bundle and the engine, then exit.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("LOADONCE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("loadonce-agent: {error}");
            return ExitCode::from(2);
        }
    };
    match run(config, arguments.check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("loadonce-agent: {report:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config, check: bool) -> miette::Result<()> {
    let bundle =
        Bundle::open(&config.backbone.bundle).into_diagnostic().wrap_err("the backbone is not usable")?;
    let kind = if cfg!(feature = "ort") { EngineKind::Ort } else { EngineKind::Tract };
    let options =
        EngineOptions { kind, library: config.backbone.library.clone(), threads: config.backbone.threads };
    let backbone =
        Backbone::load(bundle, &options).into_diagnostic().wrap_err("the backbone cannot be loaded")?;
    if check {
        println!(
            "configuration is good; backbone {} {} loads in {:.1} MB",
            backbone.bundle().name(),
            backbone.bundle().fingerprint(),
            backbone.resident_bytes() as f64 / 1e6
        );
        return Ok(());
    }
    let agent = Agent::open(config.clone(), Arc::new(backbone)).into_diagnostic()?;
    tracing::info!(gateway = %config.gateway, incarnation = agent.incarnation(), "agent starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    runtime.block_on(edge::run(agent, config)).into_diagnostic()
}

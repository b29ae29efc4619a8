//! `loadonce-agent`.

use clap::Parser;
use loadonce_agent::config::Config;
use loadonce_agent::{Agent, Backbones, count_failed, edge};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The loadonce agent: frozen backbones, small modules trained here, raw data never leaves.
#[derive(Parser)]
#[command(name = "loadonce-agent", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, the bundles and the engine, then exit.
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
    let state = config.state.clone();
    match run(config, arguments.check) {
        Ok(()) => ExitCode::SUCCESS,
        Err((cause, report)) => {
            if !arguments.check {
                count_failed(&state, cause);
            }
            eprintln!("loadonce-agent: {report:?}");
            ExitCode::FAILURE
        }
    }
}

/// The word under which a failed start is counted, and what is told.
type Failed = (&'static str, miette::Report);

fn failed<E: std::error::Error + Send + Sync + 'static>(
    cause: &'static str,
    what: &'static str,
) -> impl FnOnce(E) -> Failed {
    move |error| (cause, miette::Report::from_err(error).wrap_err(what))
}

fn run(config: Config, check: bool) -> Result<(), Failed> {
    let backbones = Backbones::load(&config.backbone)
        .map_err(|error| failed(error.cause(), "the backbone is not usable")(error))?;
    if check {
        for backbone in backbones.iter() {
            let (bundle, resident) = (backbone.bundle(), backbone.resident_bytes() as f64 / 1e6);
            println!("backbone {} {} loads in {resident:.1} MB", bundle.name(), bundle.fingerprint());
        }
        match (config.tls_files().map(|files| files.check()), &config.tls) {
            (Some(Ok(words)), _) => println!("certificate {words}"),
            (Some(Err(error)), Some(_)) => {
                return Err(failed("tls", "the certificates are not usable")(error));
            }
            (Some(Err(_)), None) => println!("no certificate yet: the first start gets it"),
            (None, _) => {}
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

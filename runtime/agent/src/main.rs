//! `loadonce-agent`.

use clap::Parser;
use loadonce_agent::config::Config;
use loadonce_agent::{Agent, Backbones, count_failed, edge};
use loadonce_service::{exit, log};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

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

const PROGRAM: &str = "loadonce-agent";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log::init();
    let mut config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            log::last_words(PROGRAM, &error.to_string());
            return ExitCode::from(exit::CONFIGURATION);
        }
    };
    config.runtime = runtime_folder();
    let state = config.state.clone();
    match run(config, arguments.check) {
        Ok(()) => ExitCode::SUCCESS,
        Err((cause, report)) => {
            if !arguments.check {
                count_failed(&state, cause);
            }
            log::last_words(PROGRAM, &report);
            // Trying again heals neither a bundle nor a library.
            let code = if matches!(cause, "bundle" | "engine") { exit::INSTALLATION } else { exit::FAILURE };
            ExitCode::from(code)
        }
    }
}

/// What systemd's `RuntimeDirectory=` made: a folder in memory.
fn runtime_folder() -> Option<PathBuf> {
    let folders = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&folders).find(|folder| folder.is_absolute())
}

/// The word under which a failed start is counted, and what is told.
type Failed = (&'static str, String);

fn failed<E: Error>(cause: &'static str, what: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| (cause, format!("{what}: {}", log::chain(&error)))
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

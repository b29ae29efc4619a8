//! `loadonce-aggregator`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use loadonce_aggregator::config::Config;
use tracing_subscriber::EnvFilter;

/// The loadonce aggregator: takes what gateways learned, cuts module versions, serves them.
#[derive(Parser)]
#[command(name = "loadonce-aggregator", version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration and everything it names, then exit.
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
            eprintln!("loadonce-aggregator: {error}");
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        for task in &config.settings.tasks {
            println!("task {}: {} parameters", task.manifest.name, task.shape.parameters());
        }
        println!("configuration is good");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!(
                "loadonce-aggregator: the system gives no event loop: {error}; raise the limit of open files"
            );
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(loadonce_aggregator::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadonce-aggregator: {error}");
            ExitCode::FAILURE
        }
    }
}

//! `loadonce-aggregator`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use loadonce_aggregator::config::Config;
use loadonce_aggregator::replay_state;
use loadonce_service::{exit, log};

/// The loadonce aggregator: takes what gateways learned, cuts module versions, serves them.
#[derive(Parser)]
#[command(name = "loadonce-aggregator", version = loadonce_version::LONG)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE", required_unless_present = "verify_journal")]
    config: Option<PathBuf>,
    /// Check the configuration and everything it names, then exit.
    #[arg(long)]
    check: bool,
    /// Make every version again from the journal in a state folder (or a copy of one), compare, then exit.
    #[arg(long, value_name = "STATE", conflicts_with_all = ["config", "check"])]
    verify_journal: Option<PathBuf>,
    /// With --verify-journal: everything that was compared, as JSON.
    #[arg(long, requires = "verify_journal")]
    json: bool,
}

const PROGRAM: &str = "loadonce-aggregator";

/// Exit codes: 0 everything that is kept was reproduced, 1 something differs or nothing could be read.
fn verify_journal(state: &Path, json: bool) -> ExitCode {
    let replay = match replay_state(state) {
        Ok(replay) => replay,
        Err(error) => {
            eprintln!("loadonce-aggregator: {error}");
            return ExitCode::FAILURE;
        }
    };
    if json {
        match serde_json::to_string_pretty(&replay) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("loadonce-aggregator: {error}"),
        }
    } else {
        print!("{}", replay.text());
    }
    if replay.sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log::init();
    if let Some(state) = arguments.verify_journal {
        return verify_journal(&state, arguments.json);
    }
    let Some(config) = arguments.config else {
        log::last_words(PROGRAM, "give --config");
        return ExitCode::from(exit::CONFIGURATION);
    };
    let config = match Config::read(&config) {
        Ok(config) => config,
        Err(error) => {
            log::last_words(PROGRAM, &error.to_string());
            return ExitCode::from(exit::CONFIGURATION);
        }
    };
    if arguments.check {
        for task in &config.settings.tasks {
            println!("task {}: {} parameters", task.manifest.name, task.shape.parameters());
        }
        if let Some(files) = &config.tls {
            match files.check() {
                Ok(words) => println!("certificate {words}"),
                Err(error) => {
                    eprintln!(
                        "loadonce-aggregator: {error}; run `loadonce site init`, or name the files under `[tls]`"
                    );
                    return ExitCode::from(exit::CONFIGURATION);
                }
            }
        }
        println!("configuration is good");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let why = format!("the system gives no event loop: {error}; raise the limit of open files");
            log::last_words(PROGRAM, &why);
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(loadonce_aggregator::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(PROGRAM, &log::chain(&error));
            ExitCode::from(exit::FAILURE)
        }
    }
}

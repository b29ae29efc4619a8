//! `loadonce`. Exit codes: 0 done, 1 failed, 2 wrong usage.

use clap::{Parser, Subcommand};
use loadonce_cli::demo::{self, DemoError};
use loadonce_cli::{bench, bench_rounds, enrol, evaluate, feed, sim};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Teaches a fleet of gateways over a thin line.
#[derive(Parser)]
#[command(name = "loadonce", version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a small fleet on real data on this machine and compares it with training alone
    Demo(demo::Options),
    /// Plays a data set to one gateway: samples, then their labels
    Feed(feed::Options),
    /// The site's CA and the certificates of its broker, aggregator and operator
    #[command(subcommand)]
    Site(enrol::SiteCommand),
    /// Gateways and the tokens with which they get their certificates
    #[command(subcommand)]
    Gateway(enrol::GatewayCommand),
    /// Makes a task's module from a data set on this machine and says how good it is
    Evaluate(evaluate::Options),
    /// Times every exit of a backbone on this machine
    Bench(bench::Options),
    /// Simulates a fleet of gateways against a running broker and aggregator, and checks what comes of it
    Sim(sim::Options),
    /// Races ways of closing rounds on virtual time, half the fleet ten times slower
    BenchRounds(bench_rounds::Options),
    /// Becomes PROGRAM, ended by the kernel when PARENT ends
    #[command(hide = true)]
    Tied {
        parent: u32,
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let line = Line::parse();
    let filter =
        EnvFilter::try_from_env("LOADONCE_LOG").unwrap_or_else(|_| EnvFilter::new("error,rumqttd=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match line.command {
        Command::Demo(options) => interruptible(demo::run(options)),
        Command::Feed(options) => interruptible(feed::run(options)),
        Command::Site(command) => return ended(enrol::site(&command), enrol::EnrolError::exit_code),
        Command::Gateway(command) => return ended(enrol::gateway(&command), enrol::EnrolError::exit_code),
        Command::Evaluate(options) => {
            return ended(evaluate::run(&options), evaluate::EvaluateError::exit_code);
        }
        Command::Bench(options) => return ended(bench::run(&options), bench::BenchError::exit_code),
        Command::Sim(options) => return ended(sim::run(&options), sim::SimError::exit_code),
        Command::BenchRounds(options) => {
            return ended(bench_rounds::run(&options), evaluate::EvaluateError::exit_code);
        }
        Command::Tied { parent, program, arguments } => {
            let error = demo::become_tied(parent, &program, &arguments);
            Err(DemoError::File { doing: "start", path: program, source: error })
        }
    };
    ended(result, DemoError::exit_code)
}

fn ended<E: miette::Diagnostic + Send + Sync + 'static>(
    result: Result<(), E>,
    code: impl Fn(&E) -> u8,
) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = code(&error);
            eprintln!("{:?}", miette::Report::new(error));
            ExitCode::from(code)
        }
    }
}

/// Runs `work` on this thread until it is done, or until Ctrl-C or SIGTERM; then it is dropped, which ends its
/// children.
fn interruptible(work: impl Future<Output = Result<(), DemoError>>) -> Result<(), DemoError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed =
        |source| DemoError::File { doing: "start the runtime of", path: PathBuf::from("loadonce"), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
            _ = terminate.recv() => Err(DemoError::Interrupted),
            _ = hang_up.recv() => Err(DemoError::Interrupted),
        }
    });
    // The judge may still compute; nobody waits for it.
    runtime.shutdown_background();
    result
}

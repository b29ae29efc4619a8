//! `loadonce sim`: a fleet of simulated gateways in one process, each with its own key, store and MQTT connection,
//! against a running broker and aggregator; and the proof that what the aggregator publishes is exactly what was sent.
//!
//! | file | holds |
//! |---|---|
//! | `mqtt`, `connection` | packets and sockets, light enough for ten thousand of them |
//! | `gateway` | one gateway: outbox, signatures, frames, fetching |
//! | `payload` | what is contributed, and the versions that must come of it |
//! | `fleet` | all gateways on one thread |
//! | `null` | the subscriber that does nothing, for the broker's own throughput |
//! | `course` | what a run does, phase by phase |
//! | `report` | the figures |

mod connection;
mod course;
mod fleet;
mod gateway;
mod mqtt;
mod null;
mod payload;
mod report;

use clap::Args;
use loadonce_control::StepCodec;
use loadonce_link::Broker;
use miette::Diagnostic;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use thiserror::Error;

pub use report::{Report, Round};

/// What a person may choose.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  loadonce sim --broker mqtt://127.0.0.1 --task fleet --gateways 1000 --out fleet.json
  loadonce sim --broker mqtt://127.0.0.1 --gateways 1000 --null

The aggregator must admit the gateways (admission = \"first-use\") and the task's quorum must be their number. Every
gateway has a connection of its own; each needs an open file here and one in the broker (ulimit -n). The same seed makes
the same keys and contributions.")]
pub struct Options {
    /// The broker
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    pub broker: String,
    /// Topic level below loadonce/v1
    #[arg(long, default_value = "plant")]
    pub site: String,
    /// Task the gateways contribute to
    #[arg(long, default_value = "fleet")]
    pub task: String,
    /// Exits of the task's backbone
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub exits: usize,
    /// Directions of the task's backbone
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub directions: usize,
    /// Gateways, and connections
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub gateways: usize,
    /// Rounds of steps, after the one of sums that makes the first version
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rounds: u64,
    /// One more round, in which every gateway sends at once and the broker is expected to fail
    #[arg(long)]
    pub storm: bool,
    /// Seed of keys and contributions
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Number of the run: another one is another store on the same gateways
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub run: u64,
    /// How steps are encoded with --null; else the task says it
    #[arg(long, value_parser = codec, default_value = "auto")]
    pub codec: StepCodec,
    /// Distinct contributions the gateways draw from
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub distinct: usize,
    /// Gateways with work under way at once, but in a storm
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub in_flight: usize,
    /// Measure the broker alone: a subscriber in this process takes the steps in place of an aggregator
    #[arg(long)]
    pub null: bool,
    /// Parameters of a step with --null; else the task says it
    #[arg(long, value_name = "N", default_value_t = 40_106)]
    pub parameters: usize,
    /// Seconds any phase may take
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub patience: u64,
    /// File for the figures as JSON; without it they go to standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A codec as the task manifest names it.
fn codec(text: &str) -> Result<StepCodec, String> {
    serde_json::from_value(text.into()).map_err(|_| "it is auto, rotated, sparse, f16 or f32".to_owned())
}

/// Why a simulation ended early.
#[derive(Debug, Error, Diagnostic)]
pub enum SimError {
    /// Options that cannot be met.
    #[error("{0}")]
    Usage(String),
    /// The system refused.
    #[error("the system refused: {0}")]
    #[diagnostic(help(
        "every gateway needs an open file and a port; raise `ulimit -n` or take fewer gateways"
    ))]
    System(io::Error),
    /// What was waited for did not come.
    #[error("{what}: not within {seconds} s; {up} gateways are connected, {unfinished} have not finished")]
    #[diagnostic(help("look at the logs of the broker and the aggregator; --patience waits longer"))]
    Late {
        /// What was waited for.
        what: String,
        /// Seconds.
        seconds: u64,
        /// Gateways that are connected.
        up: usize,
        /// Gateways that were still at it.
        unfinished: usize,
    },
    /// What the aggregator says does not fit the run.
    #[error("{0}")]
    #[diagnostic(help("docs/fleet.md says what the aggregator's task must look like"))]
    Task(String),
    /// What the aggregator published is not what was sent.
    #[error("the fleet's work did not arrive exactly: {0}")]
    Wrong(String),
    /// A file that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl SimError {
    /// Exit code of the program: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// Runs it.
///
/// # Panics
/// Never: numbers and texts are JSON.
pub fn run(options: &Options) -> Result<(), SimError> {
    if options.gateways == 0 || options.distinct == 0 || options.gateways > 100_000 {
        return Err(SimError::Usage("--gateways must be 1 to 100000 and --distinct at least 1".into()));
    }
    let report = if options.null { course::null(options)? } else { course::rounds(options)? };
    let json = serde_json::to_vec_pretty(&report).expect("numbers and texts are JSON");
    match &options.out {
        Some(path) => {
            std::fs::write(path, json).map_err(|source| SimError::File { path: path.clone(), source })?;
            print!("{}", report.table());
        }
        None => println!("{}", String::from_utf8_lossy(&json)),
    }
    report.verdict().map_err(SimError::Wrong)
}

/// The broker's address.
fn address(options: &Options) -> Result<SocketAddr, SimError> {
    let usage = |what: String| SimError::Usage(format!("--broker {}: {what}", options.broker));
    let broker = Broker::parse(&options.broker).map_err(|error| usage(error.to_string()))?;
    if broker.tls {
        return Err(usage("simulated gateways speak no TLS".into()));
    }
    let mut found =
        (broker.host.as_str(), broker.port).to_socket_addrs().map_err(|error| usage(error.to_string()))?;
    found.next().ok_or_else(|| usage("has no address".into()))
}

//! `loadonce bench-rounds`: how much sooner buffered rounds reach an accuracy than synchronous ones when half the fleet
//! is slow.
//!
//! Real samples, real training and the product's own rounds, totals and weights; only time is virtual, so a day of a
//! fleet takes seconds. The protocol, fixed before the first run:
//!
//! - Every gateway draws its class mix from a Dirichlet distribution (0.1) and by it 30 labelled samples, none of
//!   which goes to two gateways; a fifth of them is held out for the early stop.
//! - The module is a `probe`, trained as the task's manifest says, and starts at zero. The product would start from
//!   exact sums, which solve these sets almost at once and leave rounds little to do; what is measured here is the
//!   rounds.
//! - Steps travel by the codec `auto` at the task's bits, with error feedback and what was refused told again (`--exact`
//!   sends them as they are); every version is exact, as without patches.
//! - Gateways 1 to n/2 take 60 s for a step, the others ten times as long, each ± 10 %; a message takes 1 to 3 s.
//! - `sync` closes a round with the steps of all. Its target is its own accuracy after 40 rounds, at the last exit
//!   on the even test set, minus one point. A run has reached it with the first of three versions in a row that are
//!   at or above it.
//! - `buffered` closes with as many steps as half the fleet, from whomever, with the default staleness window.
//!   `deadline` is `sync` with a deadline of 90 s and the default window, for comparison.
//! - The bar: at least 3 times sooner than `sync` at every seed.
//!
//! | file | holds |
//! |---|---|
//! | `fleet` | gateways with their samples, training, judging |
//! | `race` | a run on virtual time |

mod fleet;
mod race;

use crate::evaluate::{self, EvaluateError};
use clap::Args;
use fleet::Fleet;
use loadonce_control::{RoundMode, RoundPolicy};
use loadonce_rounds::{Mode, Rules};
use race::{Course, Race, race};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Rounds of `sync` whose result the others are held to.
const ROUNDS: usize = 40;
/// Accuracy that may be missing to it.
const MARGIN: f64 = 0.01;
/// Versions in a row that must reach it.
const IN_A_ROW: usize = 3;
/// Seconds after which `deadline` closes a round, once the first step is there.
const DEADLINE_S: u64 = 90;
/// Times sooner that buffered rounds must be.
const BAR: f64 = 3.0;

/// What a person may choose.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  loadonce bench-rounds --out target/bench/rounds.json
  loadonce bench-rounds --seeds 1 --gateways 30

Half the gateways are ten times slower than the others. Seconds are virtual: those the fleet would take.")]
pub struct Options {
    /// Folder with tasks, data and bundles
    #[arg(long, value_name = "DIR", default_value = "models")]
    pub models: PathBuf,
    /// Data set and task, of kind classify
    #[arg(long, value_name = "NAME", default_value = "digits")]
    pub set: String,
    /// Features of the data set: read when the file is there, else written
    #[arg(long, value_name = "FILE")]
    pub features: Option<PathBuf>,
    /// Gateways
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub gateways: usize,
    /// Send steps as they are, without a codec
    #[arg(long)]
    pub exact: bool,
    /// Splits, each with its own seed
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// File for the figures as JSON; without it they go to standard output in place of the table
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Threads that compute features
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub threads: usize,
    /// ONNX Runtime's library; without it `ORT_DYLIB_PATH`, then target/onnxruntime, then the system are looked at
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

/// One way of closing rounds, at one seed.
#[derive(Debug, Serialize)]
struct Reached {
    /// Virtual seconds to the target; null where it was not reached.
    seconds: Option<f64>,
    /// Versions until then.
    versions: Option<usize>,
    /// Accuracy of the last version that was cut.
    last: f64,
    /// Steps that went into versions.
    steps: u64,
    /// Those of them whose base was not the newest version.
    late: u64,
    /// Steps refused: outside the window, or a second one.
    refused: u64,
    /// Virtual seconds and accuracy of every version.
    curve: Vec<(f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Seed {
    #[serde(rename = "seed")]
    number: u64,
    target: f64,
    sync: Reached,
    deadline: Reached,
    buffered: Reached,
    /// Seconds of sync over seconds of buffered.
    speedup: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    set: String,
    gateways: usize,
    slow: usize,
    slowness: u64,
    parameters: usize,
    /// Bits per parameter of a step; null where they went as they are.
    bits: Option<f32>,
    rounds: usize,
    margin: f64,
    quorum_buffered: usize,
    staleness_buffered: u64,
    staleness_deadline: u64,
    deadline_s: u64,
    bar: f64,
    seeds: Vec<Seed>,
    /// The least speed-up of all seeds; null where buffered missed a target.
    least: Option<f64>,
    passed: bool,
}

/// Runs it.
pub fn run(options: &Options) -> Result<(), EvaluateError> {
    let usage = |what: &str| EvaluateError::Usage { what: what.to_owned() };
    if !(4..=1000).contains(&options.gateways) || !(1..=1000).contains(&options.seeds) || options.threads == 0
    {
        return Err(usage("--gateways must be 4 to 1000, --seeds 1 to 1000, --threads at least 1"));
    }
    let name = &options.set;
    let prepared = evaluate::Options {
        task: options.models.join("tasks").join(format!("{name}.toml")),
        data: options.models.join("data").join(format!("{name}.safetensors")),
        bundle: Some(options.models.join("bundles/sense-tiny")),
        features: options.features.clone(),
        against: None,
        recipes: Vec::new(),
        labels: Vec::new(),
        anomalies: 0,
        draws: 1,
        draw: 0,
        exits: false,
        out: None,
        threads: options.threads,
        library: options.library.clone(),
    }
    .prepare()?;
    if prepared.set.classes.is_empty() {
        return Err(usage("--set must name a data set of kind classify"));
    }
    let all = options.gateways;
    let usual = |mode| RoundPolicy { mode, ..RoundPolicy::default() }.staleness();
    let (window, late) = (usual(RoundMode::Buffered), usual(RoundMode::Sync));
    let rules = |mode, quorum, deadline: Option<u64>| Rules {
        mode,
        quorum,
        minimum: 1,
        deadline_ms: deadline.map(|s| s * 1000),
    };
    let bits = (!options.exact).then_some(prepared.manifest.sync.bits);
    let sync = Race { rules: Rules { minimum: all, ..rules(Mode::Sync, all, None) }, staleness: 0, bits };
    let deadline = Race { rules: rules(Mode::Sync, all, Some(DEADLINE_S)), staleness: late, bits };
    let buffered = Race { rules: rules(Mode::Buffered, all / 2, None), staleness: window, bits };

    let (mut seeds, mut parameters) = (Vec::new(), 0);
    for seed in options.seed..options.seed + options.seeds {
        let fleet = Fleet::draw(&prepared, all, seed)
            .ok_or_else(|| usage("the data set has too few samples for so many gateways"))?;
        parameters = fleet.shape.parameters();
        let whole = race(&fleet, &sync, seed, |course| course.versions() < ROUNDS);
        let (end_ms, last) = whole.last();
        let target = last - MARGIN;
        // The others may take as long as sync took, and no longer than they need.
        let more = |course: &Course| course.reached(target, IN_A_ROW).is_none() && course.last().0 < end_ms;
        let by_deadline = race(&fleet, &deadline, seed, more);
        let by_buffer = race(&fleet, &buffered, seed, more);
        let seconds = |course: &Course| course.reached(target, IN_A_ROW).map(|(ms, _)| ms as f64 / 1000.0);
        let speedup = seconds(&whole).zip(seconds(&by_buffer)).map(|(slow, fast)| slow / fast);
        let figures = |course: &Course| Reached {
            seconds: seconds(course),
            versions: course.reached(target, IN_A_ROW).map(|(_, versions)| versions),
            last: course.last().1,
            steps: course.steps,
            late: course.late,
            refused: course.refused,
            curve: course.points.iter().map(|&(ms, accuracy)| (ms as f64 / 1000.0, accuracy)).collect(),
        };
        seeds.push(Seed {
            number: seed,
            target,
            sync: figures(&whole),
            deadline: figures(&by_deadline),
            buffered: figures(&by_buffer),
            speedup,
        });
    }
    let least =
        seeds.iter().map(|seed| seed.speedup).reduce(|a, b| a.zip(b).map(|(a, b)| a.min(b))).flatten();
    let report = Report {
        set: name.clone(),
        gateways: all,
        slow: all - all / 2,
        slowness: race::SLOWNESS,
        parameters,
        bits,
        rounds: ROUNDS,
        margin: MARGIN,
        quorum_buffered: all / 2,
        staleness_buffered: window,
        staleness_deadline: late,
        deadline_s: DEADLINE_S,
        bar: BAR,
        seeds,
        least,
        passed: least.is_some_and(|least| least >= BAR),
    };
    write(&report, options.out.as_deref())
}

fn write(report: &Report, out: Option<&Path>) -> Result<(), EvaluateError> {
    let path = out.unwrap_or(Path::new("standard output"));
    let failed = |source| EvaluateError::File { doing: "write", path: path.to_owned(), source };
    let json = serde_json::to_string_pretty(report).map_err(|e| failed(e.into()))?;
    let Some(path) = out else {
        println!("{json}");
        return Ok(());
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, json + "\n").map_err(failed)?;
    println!(
        "{} gateways, {} of them {} times slower; virtual hours to the target, versions, steps (late)",
        report.gateways, report.slow, report.slowness
    );
    println!("seed  target  sync                   deadline               buffered               sooner");
    for seed in &report.seeds {
        let cell = |reached: &Reached| match (reached.seconds, reached.versions) {
            (Some(seconds), Some(versions)) => {
                let Reached { steps, late, .. } = reached;
                format!("{:.2} h {versions:>3} v {steps:>4} ({late})", seconds / 3600.0)
            }
            _ => format!("not reached: {:.3}", reached.last),
        };
        let speedup = seed.speedup.map_or("-".to_owned(), |speedup| format!("{speedup:.1} x"));
        println!(
            "{:>4}  {:.3}   {:<22} {:<22} {:<22} {speedup}",
            seed.number,
            seed.target,
            cell(&seed.sync),
            cell(&seed.deadline),
            cell(&seed.buffered)
        );
    }
    let least = report.least.map_or("missed".to_owned(), |least| format!("{least:.1} x"));
    let verdict = if report.passed { "passed" } else { "not passed" };
    println!("least {least}, asked for {:.0} x: {verdict}", report.bar);
    Ok(())
}

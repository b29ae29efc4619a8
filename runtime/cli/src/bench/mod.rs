//! `loadonce bench`: what an exit of a backbone costs on this machine, beside another form of the same network in the
//! same run.
//!
//! | file | holds |
//! |---|---|
//! | `input` | what is timed: a modality and a size |
//! | `timing` | passes in turn, medians, throughput |

mod input;
mod timing;

use clap::Args;
use input::Timed;
use loadonce_backbone::{Backbone, Bundle, EngineOptions, Preparer, process_resident_bytes};
use miette::Diagnostic;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use timing::{Row, measure};

/// What a person may choose.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  loadonce bench --bundle models/bundles/sense-tiny
  loadonce bench --bundle models/bundles/sense-tiny --input window:512 --input colour:48 --out tiny.json

Milliseconds are medians of whole passes from prepared input to the features of an exit, one sample at a time. With
--against the passes of both run in turn, so that both see the same machine.")]
pub struct Options {
    /// Folder of the backbone's bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Bundle of another form of the network, timed in turn; its last exit is what ratios refer to
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// What to time: window, window:POINTS, picture:SIDE, colour:SIDE, text:TOKENS; without it all modalities at their
    /// usual size
    #[arg(long, value_name = "INPUT")]
    pub input: Vec<Timed>,
    /// Passes of each, at most
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub repeats: usize,
    /// Seconds for one input, at most
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub seconds: f64,
    /// Threads inside one operator
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// File for the figures as JSON; without it they go to standard output in place of the table
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// ONNX Runtime's library; without it `ORT_DYLIB_PATH`, then target/onnxruntime, then the system are looked at
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

/// Why there are no figures.
#[derive(Debug, Error, Diagnostic)]
pub enum BenchError {
    /// Options that cannot be met.
    #[error("{0}")]
    Usage(String),
    /// The backbone did not load or run.
    #[error("{}: {what}", path.display())]
    #[diagnostic(help(
        "`cross/fetch-onnxruntime` brings the library that `ORT_DYLIB_PATH` or --library must name"
    ))]
    Backbone {
        /// The bundle.
        path: PathBuf,
        /// What happened.
        what: String,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl BenchError {
    /// Exit code of the program: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    backbone: String,
    fingerprint: String,
    scale: String,
    threads: usize,
    bundle_bytes: u64,
    against: Option<String>,
    memory: Memory,
    latency: Vec<Row>,
}

/// Resident memory of this process, bytes. The engine's library is part of `loaded`.
#[derive(Debug, Serialize)]
struct Memory {
    before: u64,
    loaded: u64,
    after_passes: u64,
    /// What loading the other form added, measured after all the rest.
    against: Option<u64>,
}

/// Runs it.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let Options { repeats, seconds, threads, .. } = *options;
    if repeats == 0 || threads == 0 || !(seconds > 0.0 && seconds <= 3600.0) {
        return Err(BenchError::Usage(
            "--repeats and --threads must be at least 1, --seconds above 0 and at most 3600".into(),
        ));
    }
    let before = process_resident_bytes();
    let backbone = load(&options.bundle, options)?;
    let loaded = process_resident_bytes();
    let failed = |what: String| BenchError::Backbone { path: options.bundle.clone(), what };
    let inputs =
        if options.input.is_empty() { Timed::usual(backbone.bundle()) } else { options.input.clone() };
    let mut prepared = Vec::new();
    for timed in inputs {
        let preparer = Preparer::new(backbone.bundle(), &timed.spec()).map_err(|e| failed(e.to_string()))?;
        let sample = timed.sample(&preparer).map_err(failed)?;
        prepared.push((timed, sample));
    }
    // Memory is that of this backbone alone, so the passes that it needs run before the other form is loaded.
    for (_, sample) in &prepared {
        timing::pass(&backbone, sample).map_err(|e| failed(e.to_string()))?;
    }
    let after_passes = process_resident_bytes();
    let other = options.against.as_deref().map(|path| load(path, options)).transpose()?;
    let budget = Duration::from_secs_f64(seconds);
    let mut latency = Vec::new();
    for (timed, sample) in &prepared {
        let row = measure(&backbone, other.as_ref(), timed, sample, repeats, budget);
        latency.push(row.map_err(|e| failed(e.to_string()))?);
    }
    let bundle = backbone.bundle();
    let report = Report {
        backbone: bundle.name().to_owned(),
        fingerprint: bundle.fingerprint().to_owned(),
        scale: bundle.scale().to_owned(),
        threads,
        bundle_bytes: bundle.bytes(),
        against: other.as_ref().map(|other| other.bundle().quantization().to_owned()),
        memory: Memory {
            before,
            loaded,
            after_passes,
            against: other.as_ref().map(Backbone::resident_bytes),
        },
        latency,
    };
    write(&report, options.out.as_deref())
}

fn load(path: &Path, options: &Options) -> Result<Backbone, BenchError> {
    let failed = |what: String| BenchError::Backbone { path: path.to_owned(), what };
    let bundle = Bundle::open(path).map_err(|e| failed(e.to_string()))?;
    let library = crate::library::find(options.library.as_deref())
        .map_err(|(path, source)| BenchError::File { path, source })?;
    let engine = EngineOptions { library, threads: options.threads, ..EngineOptions::default() };
    Backbone::load(bundle, &engine).map_err(|e| failed(e.to_string()))
}

fn write(report: &Report, out: Option<&Path>) -> Result<(), BenchError> {
    let failed = |path: &Path, source| BenchError::File { path: path.to_owned(), source };
    let json = serde_json::to_string_pretty(report);
    let json = json.map_err(|e| failed(out.unwrap_or(Path::new("standard output")), e.into()))?;
    let Some(path) = out else {
        println!("{json}");
        return Ok(());
    };
    std::fs::write(path, json + "\n").map_err(|source| failed(path, source))?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let memory = &report.memory;
    println!(
        "{}: {:.2} MiB on disk, {:.1} MiB resident before, {:.1} loaded, {:.1} after the first passes",
        report.backbone,
        mib(report.bundle_bytes),
        mib(memory.before),
        mib(memory.loaded),
        mib(memory.after_passes)
    );
    for row in &report.latency {
        print!("{:<8} {:>5} {:>4} tokens", row.modality, row.size, row.tokens);
        for exit in &row.exits {
            print!("  exit {} {:.3} ms", exit.number, exit.int8_ms);
            if let Some(ratio) = exit.ratio {
                print!(" ({ratio:.2})");
            }
        }
        if let Some(single) = row.single_ms {
            print!("  other {single:.3} ms");
        }
        println!("  {:.0}/s", row.throughput);
    }
    Ok(())
}

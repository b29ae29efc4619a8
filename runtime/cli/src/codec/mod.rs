//! `make bench-codec`: what every codec of steps costs on the wire and in accuracy, on real data.
//!
//! Twenty gateways, class mixes drawn from a Dirichlet distribution of 0.1, train a ladder of about 40,000 parameters
//! together, starting as every lineage does from the closed form of exact sums, or with `--cold` from random parameters,
//! where nothing is known but what went through the codec. Training, averaging,
//! codecs, manifests, frames and acknowledgements are the product's own; only broker and disk are left out.

mod coding;
mod compare;
mod fleet;
mod report;
mod settings;
mod wire;

pub use report::Meter;

use crate::evaluate::{EvaluateError, in_parallel};
use coding::Coding;
use fleet::{Outcome, Plan};
use report::Report;
use std::path::PathBuf;

/// What a person may choose.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "loadonce-bench-codec", version, about = "Measures every codec of steps on two real tasks")]
pub struct Options {
    /// Folder of the backbone's bundle
    #[arg(long, value_name = "DIR", default_value = "models/bundles/sense-tiny")]
    pub bundle: PathBuf,
    /// Folder with digits.safetensors and vowels.safetensors
    #[arg(long, value_name = "DIR", default_value = "models/data")]
    pub data: PathBuf,
    /// File for the figures as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/codec.json")]
    pub out: PathBuf,
    /// Splits, each with its own seed
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub seeds: u64,
    /// Seed of the first split
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub seed: u64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 15)]
    pub rounds: usize,
    /// Gateways, all in every round
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub gateways: usize,
    /// Most bits per parameter of a step's blob
    #[arg(long, value_name = "BITS", default_value_t = 0.8)]
    pub bits: f32,
    /// Most bits per parameter of a patch
    #[arg(long, value_name = "BITS", default_value_t = 1.8)]
    pub patch_bits: f32,
    /// Only these codecs
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub codecs: Vec<String>,
    /// Only these tasks
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub tasks: Vec<String>,
    /// Start from random parameters, as no lineage does, and train faster: every early round counts
    #[arg(long)]
    pub cold: bool,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub threads: usize,
    /// ONNX Runtime's library; without it `ORT_DYLIB_PATH`, then target/onnxruntime, then the system are looked at
    #[arg(long, value_name = "FILE")]
    pub library: Option<PathBuf>,
}

fn usage(what: String) -> EvaluateError {
    EvaluateError::Usage { what }
}

/// Measures, prints the table and writes the file.
pub fn run(options: &Options, meter: Meter) -> Result<(), EvaluateError> {
    let mut codings = vec![Coding::F32];
    let all = Coding::ALL.into_iter().filter(|coding| *coding != Coding::F32);
    codings.extend(
        all.filter(|c| options.codecs.is_empty() || options.codecs.iter().any(|name| name == c.name())),
    );
    for name in &options.codecs {
        if !Coding::ALL.iter().any(|coding| coding.name() == name) {
            return Err(usage(format!("--codecs {name}: there is no such codec")));
        }
    }
    if options.seeds == 0 || options.rounds == 0 || options.gateways < 2 {
        return Err(usage("--seeds and --rounds take at least 1, --gateways at least 2".into()));
    }
    let settings = settings::all(options)?;
    let mut report = Report::new(options);
    for setting in &settings {
        eprintln!("{}: {} parameters", setting.manifest.name, setting.shape.parameters());
        let splits = (0..options.seeds).map(|i| setting.split(options.seed + i, options.gateways));
        let splits = splits.collect::<Result<Vec<_>, _>>()?;
        let plans: Vec<Plan<'_>> = codings
            .iter()
            .flat_map(|&coding| splits.iter().enumerate().map(move |(i, split)| (coding, i, split)))
            .map(|(coding, i, split)| Plan { setting, split, coding, seed: options.seed + i as u64, options })
            .collect();
        let outcomes = in_parallel(plans.len(), options.threads, |i| {
            let outcome = plans[i].run().map_err(|what| EvaluateError::Module {
                recipe: "ladder",
                labels: plans[i].coding.name().to_owned(),
                draw: plans[i].seed,
                what,
            })?;
            let accuracy = outcome.accuracy.last().copied().unwrap_or(0.0);
            eprintln!("  {} seed {}: {accuracy:.4}", plans[i].coding.name(), plans[i].seed);
            Ok::<_, EvaluateError>(outcome)
        })?;
        let per_coding: Vec<&[Outcome]> = outcomes.chunks(options.seeds as usize).collect();
        // Time and memory one by one, on steps that a round really made.
        let steps: Vec<Vec<f32>> = per_coding[0][0].first_steps.clone();
        for (coding, outcomes) in codings.iter().zip(&per_coding) {
            let cost = report::cost(*coding, setting, &steps, options, meter).map_err(usage)?;
            report.add(setting, *coding, outcomes, per_coding[0], cost);
        }
        report.compare(compare::entropy(setting, &steps, options).map_err(usage)?);
        report.sums(compare::sums(setting, &splits[0]).map_err(usage)?);
    }
    print!("{}", report.table());
    report.write(&options.out)
}

//! The table and the file.

use super::Options;
use super::coding::Coding;
use super::compare::{Entropy, SumBytes};
use super::fleet::Outcome;
use super::settings::Setting;
use crate::demo::{Interval, mean, t_interval};
use crate::evaluate::EvaluateError;
use loadonce_delta::Budget;
use loadonce_module::Random;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// What the program knows of its own heap.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// Forgets the peak so far.
    pub start: fn(),
    /// Bytes at the peak beyond what was there at the start.
    pub peak: fn() -> usize,
}

/// Time and memory of one step.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    /// Median, ms.
    pub(crate) encode_ms: f64,
    /// Longest, ms.
    pub(crate) encode_ms_most: f64,
    /// Median, ms.
    pub(crate) decode_ms: f64,
    /// Most bytes of heap while encoding, the step itself not counted.
    pub(crate) encode_bytes: usize,
}

/// Encodes and decodes real steps one after the other.
pub(crate) fn cost(
    coding: Coding,
    setting: &Setting,
    steps: &[Vec<f32>],
    options: &Options,
    meter: Meter,
) -> Result<Cost, String> {
    let (mut encode, mut decode, mut most) = (Vec::new(), Vec::new(), 0);
    let mut random = Random::new(1);
    for (i, step) in steps.iter().enumerate() {
        let budget = Budget { bits: options.bits, seed: i as u32, row: setting.shape.features };
        let mut buffer = step.clone();
        (meter.start)();
        let begun = Instant::now();
        let (codec, blob) = coding.encode(&mut buffer, &budget, &mut random)?;
        encode.push(begun.elapsed().as_secs_f64() * 1e3);
        most = most.max((meter.peak)());
        let begun = Instant::now();
        let decoded = coding.decode(codec, &blob, step.len())?;
        decode.push(begun.elapsed().as_secs_f64() * 1e3);
        if decoded.len() != step.len() {
            return Err("a step came back with another length".into());
        }
    }
    encode.sort_by(f64::total_cmp);
    decode.sort_by(f64::total_cmp);
    let middle = |times: &[f64]| times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(Cost {
        encode_ms: middle(&encode),
        encode_ms_most: encode.last().copied().unwrap_or_default(),
        decode_ms: middle(&decode),
        encode_bytes: most,
    })
}

/// One codec on one task.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OnTask {
    task: String,
    parameters: usize,
    /// Bits of MQTT per parameter and accepted step, both directions.
    bits_per_param: f64,
    /// Bits of the blob alone.
    blob_bits_per_param: f64,
    /// Bits of MQTT per parameter of a new version, both directions.
    version_bits_per_param: f64,
    /// Before the first round, mean over the seeds.
    accuracy_start: f64,
    /// After the last round, likewise.
    accuracy: f64,
    accuracy_f32: f64,
    /// Points below f32, paired by seed, with the 95 % interval of Student's t.
    loss_points: f64,
    loss_interval: Option<Interval>,
    accuracy_by_seed: Vec<f64>,
    /// After every round, mean over the seeds.
    accuracy_by_round: Vec<f64>,
    /// Mean share of a step's energy that is left for the next.
    energy_lost: f64,
    /// Share of steps sent as `rotated` and as `sparse`.
    chosen: [f64; 2],
    #[serde(flatten)]
    cost: Cost,
}

/// One codec: the worst of the tasks for bits, time and memory, their mean for accuracy.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: &'static str,
    bits_per_param: f64,
    blob_bits_per_param: f64,
    version_bits_per_param: f64,
    accuracy: f64,
    accuracy_f32: f64,
    worst_loss_points: f64,
    encode_ms: f64,
    decode_ms: f64,
    encode_bytes: usize,
    tasks: Vec<OnTask>,
}

#[derive(Debug, Clone, Serialize)]
struct Design {
    seeds: Vec<u64>,
    rounds: usize,
    gateways: usize,
    dirichlet: f64,
    bits: f32,
    patch_bits: f32,
    start: &'static str,
    machine: String,
}

/// Everything measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    design: Design,
    codecs: Vec<Row>,
    entropy: Vec<Entropy>,
    sums: Vec<SumBytes>,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let design = Design {
            seeds: (options.seed..options.seed + options.seeds).collect(),
            rounds: options.rounds,
            gateways: options.gateways,
            dirichlet: 0.1,
            bits: options.bits,
            patch_bits: options.patch_bits,
            start: if options.cold { "random parameters" } else { "the closed form of the sums" },
            machine: machine(),
        };
        Self { design, codecs: Vec::new(), entropy: Vec::new(), sums: Vec::new() }
    }

    /// Adds a codec's outcomes on a task, one per seed, beside those of f32.
    pub(crate) fn add(
        &mut self,
        setting: &Setting,
        coding: Coding,
        outcomes: &[Outcome],
        f32s: &[Outcome],
        cost: Cost,
    ) {
        let n = setting.shape.parameters() as f64;
        let over = |figure: &dyn Fn(&Outcome) -> f64| mean(&outcomes.iter().map(figure).collect::<Vec<_>>());
        let last = |outcomes: &[Outcome]| -> Vec<f64> {
            outcomes.iter().map(|o| o.accuracy.last().copied().unwrap_or_default()).collect()
        };
        let (own, full) = (last(outcomes), last(f32s));
        let lost: Vec<f64> = full.iter().zip(&own).map(|(f, o)| 100.0 * (f - o)).collect();
        let rounds = outcomes.first().map_or(0, |o| o.accuracy.len());
        let task = OnTask {
            task: setting.manifest.name.clone(),
            parameters: setting.shape.parameters(),
            bits_per_param: 8.0 * over(&|o| o.step_bytes) / n,
            blob_bits_per_param: 8.0 * over(&|o| o.blob_bytes) / n,
            version_bits_per_param: 8.0 * over(&|o| o.version_bytes) / n,
            accuracy_start: over(&|o| o.start),
            accuracy: mean(&own),
            accuracy_f32: mean(&full),
            loss_points: mean(&lost),
            loss_interval: t_interval(&lost),
            accuracy_by_seed: own,
            accuracy_by_round: (0..rounds).map(|round| over(&|o| o.accuracy[round])).collect(),
            energy_lost: over(&|o| o.lost),
            chosen: [over(&|o| o.chosen[0]), over(&|o| o.chosen[1])],
            cost,
        };
        if let Some(row) = self.codecs.iter_mut().find(|row| row.name == coding.name()) {
            row.tasks.push(task);
            row.sum_up();
        } else {
            let mut row = Row {
                name: coding.name(),
                bits_per_param: 0.0,
                blob_bits_per_param: 0.0,
                version_bits_per_param: 0.0,
                accuracy: 0.0,
                accuracy_f32: 0.0,
                worst_loss_points: 0.0,
                encode_ms: 0.0,
                decode_ms: 0.0,
                encode_bytes: 0,
                tasks: vec![task],
            };
            row.sum_up();
            self.codecs.push(row);
        }
    }

    pub(crate) fn compare(&mut self, entropy: Vec<Entropy>) {
        self.entropy.extend(entropy);
    }

    pub(crate) fn sums(&mut self, sums: SumBytes) {
        self.sums.push(sums);
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let design = &self.design;
        let _ = writeln!(
            out,
            "{} gateways, Dirichlet 0.1, {} rounds from {}, {} seeds; bits are bytes of MQTT, both directions",
            design.gateways,
            design.rounds,
            design.start,
            design.seeds.len()
        );
        let head = |cells: [&str; 13]| {
            let [name, task, rest @ ..] = cells;
            let [step, blob, version, start, accuracy, lost, interval, left, encode, decode, memory] = rest;
            format!(
                "{name:<22}{task:<8}{step:>9}{blob:>9}{version:>9}{start:>8}{accuracy:>8}{lost:>8}{interval:>17}{left:>8}{encode:>9}{decode:>9}{memory:>9}\n"
            )
        };
        out += &head([
            "codec", "task", "step", "blob", "version", "start", "end", "lost", "95 %", "energy", "encode",
            "decode", "memory",
        ]);
        out += &head(["", "", "bits", "bits", "bits", "%", "%", "points", "", "left", "ms", "ms", "KiB"]);
        for row in &self.codecs {
            for on in &row.tasks {
                let interval =
                    on.loss_interval.map_or(String::new(), |i| format!("{:+.2} to {:+.2}", i.low, i.high));
                let cells = [
                    format!("{:.3}", on.bits_per_param),
                    format!("{:.3}", on.blob_bits_per_param),
                    format!("{:.3}", on.version_bits_per_param),
                    format!("{:.2}", 100.0 * on.accuracy_start),
                    format!("{:.2}", 100.0 * on.accuracy),
                    format!("{:.2}", on.loss_points),
                    interval,
                    format!("{:.3}", on.energy_lost),
                    format!("{:.2}", on.cost.encode_ms),
                    format!("{:.2}", on.cost.decode_ms),
                    format!("{}", on.cost.encode_bytes / 1024),
                ];
                let [a, b, c, d, e, f, g, h, i, j, k] = cells.each_ref().map(String::as_str);
                out += &head([row.name, &on.task, a, b, c, d, e, f, g, h, i, j, k]);
            }
        }
        let _ = writeln!(
            out,
            "\nbytes of the same numbers, mean: own coder | bound of static codes | bound of gap codes | zstd | zstd of gaps | with dictionary"
        );
        for e in &self.entropy {
            let _ = writeln!(
                out,
                "{:<8}{:<9}{:>8.0}{:>8.0}{:>8.0}{:>8.0}{:>8.0}{:>8.0}",
                e.task,
                e.codec,
                e.own,
                e.static_bound,
                e.gaps_bound,
                e.zstd,
                e.zstd_gaps,
                e.zstd_gaps_dictionary
            );
        }
        let _ = writeln!(out, "\nbytes of a gateway's sums, mean: raw | planes and zstd | own");
        for s in &self.sums {
            let _ = writeln!(out, "{:<8}{:>9.0}{:>9.0}{:>9.0}", s.task, s.raw, s.planes_zstd, s.own);
        }
        out
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), EvaluateError> {
        let failed = |source| EvaluateError::File { doing: "write", path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(|e| failed(e.into()))?;
        std::fs::write(path, text + "\n").map_err(failed)
    }
}

impl Row {
    fn sum_up(&mut self) {
        let most = |figure: &dyn Fn(&OnTask) -> f64| self.tasks.iter().map(figure).fold(f64::MIN, f64::max);
        let over = |figure: &dyn Fn(&OnTask) -> f64| mean(&self.tasks.iter().map(figure).collect::<Vec<_>>());
        let (bits, blob) = (most(&|t| t.bits_per_param), most(&|t| t.blob_bits_per_param));
        let (version, loss) = (most(&|t| t.version_bits_per_param), most(&|t| t.loss_points));
        let (encode, decode) = (most(&|t| t.cost.encode_ms), most(&|t| t.cost.decode_ms));
        let (accuracy, full) = (over(&|t| t.accuracy), over(&|t| t.accuracy_f32));
        let bytes = self.tasks.iter().map(|t| t.cost.encode_bytes).max().unwrap_or_default();
        (self.bits_per_param, self.blob_bits_per_param, self.version_bits_per_param) = (bits, blob, version);
        (self.accuracy, self.accuracy_f32, self.worst_loss_points) = (accuracy, full, loss);
        (self.encode_ms, self.decode_ms, self.encode_bytes) = (encode, decode, bytes);
    }
}

/// The processor's own name, where the system tells it.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{}, {cores} cores", name.map_or(std::env::consts::ARCH, |(_, name)| name.trim()))
}

//! Ten thousand gateways against one aggregator on one machine: exactness, memory, throughput beside the broker's own,
//! and a broker that dies.
//!
//! For each size a fresh Mosquitto and a fresh aggregator; `loadonce sim` plays the gateways, each with its own MQTT
//! connection. Then, on the same broker, the same steps from the same connections to a subscriber that does nothing:
//! what the aggregator's intake is a ratio of. At the smallest and the largest size, so that their memory can be
//! compared, one more round, in which the broker is killed while every gateway holds work. Prints a table and writes the
//! same as JSON; ends with 1 when a bar is missed.
//!
//! Environment: `SEED` (1), `SIZES` ("1000,3000,10000"), `CODECS` ("f16,auto": the first at every size, the others at the
//! largest), `OUT` (target/bench/fleet.json).

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use loadonce_tests::fleet::{FleetSite, Module, Simulation, status_bytes};
use loadonce_tests::programs;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Most resident memory of the aggregator, bytes.
const MOST_RSS: f64 = 200e6;
/// Least ratio of its intake to the broker's own throughput.
const LEAST_RATIO: f64 = 0.5;
/// Distinct contributions of a round.
const DISTINCT: usize = 128;

fn main() -> ExitCode {
    let setting = |name: &str, usual: &str| env::var(name).unwrap_or_else(|_| usual.to_owned());
    let seed: u64 = setting("SEED", "1").parse().expect("SEED is a number");
    let sizes: Vec<usize> = setting("SIZES", "1000,3000,10000")
        .split(',')
        .map(|size| size.parse().expect("SIZES are numbers with commas between them"))
        .collect();
    let codecs = setting("CODECS", "f16,auto");
    let out = PathBuf::from(setting("OUT", "target/bench/fleet.json"));
    let largest = sizes.iter().copied().max().expect("SIZES names at least one");
    let smallest = sizes.iter().copied().min().unwrap_or(largest);
    let (first, others) = codecs.split_once(',').unwrap_or((&codecs, ""));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut runs: Vec<Value> =
        sizes.iter().map(|&size| measure(size, size == largest || size == smallest, seed, first)).collect();
    let others = others.split(',').filter(|codec| !codec.is_empty());
    runs.extend(others.map(|codec| measure(largest, true, seed, codec)));
    let report = summary(seed, first, &load, &runs);
    print!("{}", table(&report));
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).expect("the folder of the figures can be made");
    }
    fs::write(&out, serde_json::to_vec_pretty(&report).expect("numbers are JSON"))
        .expect("figures can be written");
    println!("written to {}", out.display());
    ExitCode::from(u8::from(report["held"] != true))
}

/// One size.
fn measure(gateways: usize, storm: bool, seed: u64, codec: &str) -> Value {
    let folder = TempDir::new_in(scratch()).expect("a folder for the run");
    let mut site = FleetSite::start(folder.path(), gateways, Module::USUAL, 2, codec);
    let simulation =
        Simulation { rounds: 1, storm, seed, codec: codec.to_owned(), distinct: DISTINCT, null: false };
    eprintln!("== {gateways} gateways, steps as {codec}, with the aggregator");
    let (status, fleet, log) = site.simulate(&simulation);
    assert!(!fleet.is_null(), "the simulation ended with {status}:\n{}", log.tail());
    let peak = status_bytes(&site.aggregator, "VmHWM");
    let broker_peak = status_bytes(site.broker.process(), "VmHWM");
    site.aggregator.stop();
    let figures = site.figures();
    let journal = fs::metadata(folder.path().join("state/aggregator.redb")).map_or(0, |file| file.len());
    eprintln!("== {gateways} gateways, the broker alone");
    let (null_status, baseline, log) = site.simulate(&Simulation { null: true, storm: false, ..simulation });
    assert!(null_status.success(), "the simulation ended with {null_status}:\n{}", log.tail());
    let step = &fleet["rounds"][1];
    let (own, alone) = (number(&step["mb_per_second"]), number(&baseline["rounds"][0]["mb_per_second"]));
    let rounds = fleet["rounds"].as_array().cloned().unwrap_or_default();
    json!({
        "gateways": gateways,
        "codec": codec,
        "connections": fleet["connections"],
        "parameters": fleet["parameters"],
        "exact": status.success() && rounds.iter().all(|round| round["exact"] == true),
        "aggregator_peak_rss": peak,
        "broker_peak_rss": broker_peak,
        "journal_bytes": journal,
        "contributions_per_second": step["per_second"],
        "mb_per_second": own,
        "broker_alone_per_second": baseline["rounds"][0]["per_second"],
        "broker_alone_mb_per_second": alone,
        "ratio": own / alone,
        "aggregator": { "contributions": figures["contributions"], "link": figures["link"], "ignored": figures["ignored"] },
        "sim": fleet,
        "null": baseline,
    })
}

/// The first codec's largest run is what the bars are about; all must be exact and within memory.
fn summary(seed: u64, codec: &str, load: &str, runs: &[Value]) -> Value {
    let exact = runs.iter().all(|run| run["exact"] == true);
    let rss = runs.iter().map(|run| number(&run["aggregator_peak_rss"])).fold(0.0, f64::max);
    let of_first = || runs.iter().filter(|run| run["codec"] == codec);
    let (small, large) =
        (of_first().next().cloned().unwrap_or_default(), of_first().next_back().cloned().unwrap_or_default());
    let more = number(&large["gateways"]) - number(&small["gateways"]);
    let each =
        (number(&large["aggregator_peak_rss"]) - number(&small["aggregator_peak_rss"])) / more.max(1.0);
    let ratio = number(&large["ratio"]);
    let storm = large["sim"]["rounds"].as_array().and_then(|rounds| rounds.last()?.get("storm").cloned());
    let recovered = storm.is_some() && large["exact"] == true;
    json!({
        "seed": seed,
        "codec": codec,
        "load_average_before": load.trim(),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "gateways": large["gateways"],
        "connections": large["connections"],
        "parameters": large["parameters"],
        "all_aggregated_exactly": exact,
        "aggregator_peak_rss": rss,
        "aggregator_bytes_per_gateway": each,
        "contributions_per_second": large["contributions_per_second"],
        "mb_per_second": large["mb_per_second"],
        "broker_alone_mb_per_second": large["broker_alone_mb_per_second"],
        "ratio": ratio,
        "storm": storm,
        "bars": {
            "exact": exact,
            "memory": rss <= MOST_RSS,
            "ratio": ratio >= LEAST_RATIO,
            "storm": recovered,
        },
        "held": exact && rss <= MOST_RSS && ratio >= LEAST_RATIO && recovered,
        "runs": runs,
    })
}

fn table(report: &Value) -> String {
    let mut out = String::from(
        "gateways  codec    exact  aggregator MB  broker MB  per s   MB/s  broker alone MB/s  ratio  cut s  fetch s\n",
    );
    for run in report["runs"].as_array().into_iter().flatten() {
        let step = &run["sim"]["rounds"][1];
        let _written = writeln!(
            out,
            "{:>8}  {:<7}  {:>5}  {:>13.1}  {:>9.1}  {:>5.0}  {:>5.1}  {:>17.1}  {:>5.2}  {:>5.2}  {:>7.2}",
            number(&run["gateways"]),
            run["codec"].as_str().unwrap_or_default(),
            if run["exact"] == true { "yes" } else { "NO" },
            number(&run["aggregator_peak_rss"]) / 1e6,
            number(&run["broker_peak_rss"]) / 1e6,
            number(&run["contributions_per_second"]),
            number(&run["mb_per_second"]),
            number(&run["broker_alone_mb_per_second"]),
            number(&run["ratio"]),
            number(&step["cut_seconds"]),
            number(&step["fetch_seconds"]),
        );
    }
    for run in report["runs"].as_array().into_iter().flatten() {
        let Some(storm) = run["sim"]["rounds"].as_array().and_then(|r| r.last()?.get("storm")) else {
            continue;
        };
        let _written = writeln!(
            out,
            "{} as {}: the broker died with {} unanswered; all connected after {:.1} s, all answered after {:.1} s",
            run["gateways"],
            run["codec"].as_str().unwrap_or_default(),
            storm["unanswered_when_lost"],
            number(&storm["connected_seconds"]),
            number(&storm["recovered_seconds"]),
        );
    }
    for (bar, held) in report["bars"].as_object().into_iter().flatten() {
        let _written = writeln!(out, "{bar}: {}", if *held == true { "held" } else { "MISSED" });
    }
    out
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Where the runs' folders are: on the disk, not in a file system in memory.
fn scratch() -> PathBuf {
    let folder = programs::root().join("target/bench/run");
    fs::create_dir_all(&folder).expect("the folder of runs can be made");
    folder
}

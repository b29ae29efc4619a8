//! `make bad-line`: what a module of about 40,000 parameters and its deltas cost in time over 64 kbit/s with 5 % loss
//! and 800 ms each way, and whether answers on the data plane come later meanwhile: the same is done once more without
//! the line, and as many questions are asked. `SEED` draws the losses. Figures go to `target/bench/line.json`.

use loadonce_tests::badline::{BAD, Trip, large, travel};
use loadonce_tests::line::Quality;
use loadonce_tests::programs::root;
use serde_json::json;

const LABELS: usize = 200;

fn main() {
    let seed = std::env::var("SEED").ok().filter(|text| !text.is_empty());
    let seed = seed.map_or(BAD.seed, |text| text.parse().expect("SEED must be a number"));
    let task = large(LABELS);
    println!("line             s    bytes up  bytes down  lost  connects  questions  p50 ms  p99 ms  max ms");
    let far = travel(&task, LABELS, Some(Quality { seed, ..BAD }), 0);
    row("64 kbit/s", &far);
    let near = travel(&task, LABELS, None, far.latencies.len());
    row("none", &near);
    let later = |q| far.quantile(q) / near.quantile(q);
    println!(
        "answers behind the line took {:.2} (p50) and {:.2} (p99) times as long",
        later(0.5),
        later(0.99)
    );
    let ratio = json!({"p50": later(0.5), "p99": later(0.99)});
    let report = json!({"seed": seed, "none": near.figures(), "bad": far.figures(), "latency_ratio": ratio});
    let out = root().join("target/bench");
    std::fs::create_dir_all(&out).expect("target/bench can be made");
    let path = out.join("line.json");
    std::fs::write(&path, format!("{report:#}\n")).expect("target/bench can be written");
    println!("module file {} bytes; {}", far.module_bytes, path.display());
}

fn row(name: &str, trip: &Trip) {
    println!(
        "{name:10} {:7.1} {:11} {:11} {:5} {:9} {:10} {:7.2} {:7.2} {:7.2}",
        trip.seconds,
        trip.uplink.0,
        trip.uplink.1,
        trip.crossed.map_or(0, |crossed| crossed.lost),
        trip.connects,
        trip.latencies.len(),
        trip.quantile(0.5),
        trip.quantile(0.99),
        trip.latencies.last().copied().unwrap_or_default(),
    );
}

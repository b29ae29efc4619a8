//! What a further task and a further backbone cost an agent in memory: agents with 1, 3, 6 and 12 tasks of all three
//! kinds on one backbone, and with 3, 6 and 12 on two, every other task on the second; each task taught, trained and
//! asked.
//!
//! The bar: a further task costs at most 2 MB, whatever it runs on. A further backbone costs what it weighs: its
//! figure is the difference between two agents of as many tasks. Prints a table and, as its last line, the same as
//! JSON; ends with 1 when the bar is missed. What is measured is the resident memory at rest (`VmRSS`) and its peak (`VmHWM`).

use std::fs;
use std::process::ExitCode;

use loadonce_tests::bundle::{short, whole};
use loadonce_tests::data;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, Task, topic_of};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tasks of the agents that are compared, on one backbone and on two.
const COUNTS: [&[usize]; 2] = [&[1, 3, 6, 12], &[3, 6, 12]];
/// Name of the second backbone.
const SECOND: &str = "sense-short";
/// Samples per task.
const SAMPLES: usize = 60;
/// Most bytes of a further task.
const MOST: f64 = 2e6;

struct Measured {
    tasks: usize,
    /// Bytes at rest.
    rest: f64,
    /// Bytes at the peak.
    peak: f64,
    /// By how much loading each backbone raised the memory, as the agent tells.
    backbones: Value,
}

/// Bytes at rest per further task, between the agents with the fewest and the most.
fn further_task(agents: &[Measured]) -> f64 {
    let (few, many) = (&agents[0], &agents[agents.len() - 1]);
    (many.rest - few.rest) / (many.tasks - few.tasks) as f64
}

fn main() -> ExitCode {
    let measured = [1, 2].map(|backbones| -> Vec<Measured> {
        COUNTS[backbones - 1].iter().map(|&tasks| measure(tasks, backbones)).collect()
    });
    println!("backbones    tasks    at rest MB    peak MB    loading them, MB");
    for (agents, backbones) in measured.iter().zip(1..) {
        for Measured { tasks, rest, peak, backbones: each } in agents {
            let loading = each.as_array().map(Vec::as_slice).unwrap_or_default().iter();
            let loading = loading.map(|b| format!("{:.2}", b["bytes"].as_f64().unwrap_or_default() / 1e6));
            let loading = loading.collect::<Vec<_>>().join(" + ");
            println!("{backbones:9} {tasks:8} {:13.2} {:10.2}    {loading}", rest / 1e6, peak / 1e6);
        }
    }
    let each = [0, 1].map(|n| further_task(&measured[n]));
    // The agents of as many tasks, side by side.
    let pairs = measured[1].iter().filter_map(|two| {
        measured[0].iter().find(|one| one.tasks == two.tasks).map(|one| two.rest - one.rest)
    });
    let pairs: Vec<f64> = pairs.collect();
    let second = pairs.iter().sum::<f64>() / pairs.len() as f64;
    println!(
        "a further task at rest: {:.2} MB on one backbone, {:.2} MB on two, allowed {:.2} MB",
        each[0] / 1e6,
        each[1] / 1e6,
        MOST / 1e6
    );
    println!("the second backbone at rest: {:.2} MB, its files are {:.2} MB", second / 1e6, weight() / 1e6);
    let held = each.iter().all(|&bytes| bytes <= MOST);
    println!("{}", if held { "the bar is held" } else { "the bar is MISSED" });
    let rows = measured
        .iter()
        .flatten()
        .map(|m| json!({"tasks": m.tasks, "rest": m.rest, "peak": m.peak, "backbones": m.backbones}));
    println!(
        "{}",
        json!({
            "agents": rows.collect::<Vec<_>>(),
            "further_task_bytes": each,
            "second_backbone_bytes": second,
            "held": held,
        })
    );
    ExitCode::from(u8::from(!held))
}

/// Bytes of the second backbone's files.
fn weight() -> f64 {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    let files = fs::read_dir(short(folder.path(), SECOND).folder).expect("it was just made");
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len() as f64).sum()
}

/// An agent with this many tasks and backbones.
fn measure(count: usize, backbones: usize) -> Measured {
    let site = Site::new();
    let tasks: Vec<Task> = (0..count).map(|n| task(n, backbones)).collect();
    let bundles = [whole(), short(&site.folder().join(SECOND), SECOND)];
    let bundles: Vec<_> = bundles.into_iter().take(backbones).map(|bundle| bundle.folder).collect();
    let options = AggregatorOptions { bundles: bundles.clone(), ..AggregatorOptions::default() };
    let mut aggregator = site.aggregator(&tasks, options);
    let mut agent = site.agent("g1", AgentOptions { bundles, ..AgentOptions::default() });
    let client = site.client(&["gw/g1/out/#"]);
    agent.log().wait(0, &["data plane connected"]);
    agent.wait("all tasks are served", |f| tasks.iter().all(|task| f["tasks"][task.name].is_object()));
    let pictures = data::digits();
    for (n, task) in tasks.iter().enumerate() {
        let mark = client.mark();
        for i in 0..SAMPLES {
            let topic = |what: &str| topic_of(&format!("gw/g1/{what}/{}/s{i}", task.name));
            match n % 3 {
                0 => {
                    client.publish(&topic("in"), pictures.train[i].payload.clone());
                    client.publish(&topic("label"), pictures.train[i].label.as_str());
                }
                kind => client.publish(&topic("in"), window(i, kind == 1)),
            }
        }
        client.wait(mark, &format!("/{}/s{}", task.name, SAMPLES - 1), |_| true);
    }
    for (n, task) in tasks.iter().enumerate() {
        agent.wait_at_rest(task.name, if n % 3 == 2 { 1 } else { 2 });
    }
    let (rest, peak) = (status(&agent, "VmRSS"), status(&agent, "VmHWM"));
    let backbones = agent.figures()["backbones"].clone();
    agent.process.stop();
    aggregator.process.stop();
    Measured { tasks: count, rest, peak, backbones }
}

fn task(n: usize, backbones: usize) -> Task {
    let kind = [
        "kind = \"classify\"\nclasses = [\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]\n\
         input = { modality = \"picture\" }\nmodule = { kind = \"ladder\" }",
        "kind = \"forecast\"\ninput = { modality = \"window\", channels = 1 }\nmodule = { kind = \"probe\" }\n\
         forecast = { horizon = 12, season = 24, step_s = 60 }",
        "kind = \"anomaly\"\ninput = { modality = \"window\", channels = 1 }\nmodule = { kind = \"moments\" }\n\
         anomaly = { learn = 60, false_alarms = 0.2 }",
    ][n % 3];
    let name = format!("task-{n}");
    let backbone = ["sense-tiny", SECOND][n % backbones];
    let head = format!("name = {name:?}\nbackbone = {backbone:?}\n{kind}");
    // A handful for the whole run: the test's tasks have names that live as long as it.
    let (name, head): (&'static str, &'static str) = (name.leak(), head.leak());
    let min_labels = if n % 3 == 1 { SAMPLES - 12 } else { SAMPLES };
    Task {
        name,
        head,
        quorum: 1,
        deadline_s: 0,
        steps: u64::from(n % 3 != 2),
        min_labels,
        more: String::new(),
    }
}

/// A window of 48 values that ends at minute `i`.
fn window(i: usize, timed: bool) -> Vec<u8> {
    let values: Vec<f64> =
        (i..i + 48).map(|t| (t as f64 / 4.0).sin() + 0.1 * (t as f64 * 1.7).cos()).collect();
    let time = timed.then_some(60 * (i + 47));
    serde_json::to_vec(&json!({ "channels": [values], "time": time })).expect("numbers are JSON")
}

fn status(agent: &Program, key: &str) -> f64 {
    let path = format!("/proc/{}/status", agent.process.pid().as_raw_nonzero());
    let text = fs::read_to_string(path).expect("the agent runs on Linux");
    let line = text.lines().find(|line| line.starts_with(key)).expect("the kernel tells it");
    let kilobytes: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kilobytes * 1024.0
}

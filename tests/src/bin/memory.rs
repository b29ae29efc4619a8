//! What a further task costs an agent in memory: agents with 1, 3, 6 and 12 tasks of all three kinds on one backbone,
//! each task taught, trained and asked.
//!
//! The bar: a further task costs at most 2 MB. Prints a table and, as its last line, the same as JSON; ends with 1 when the bar
//! is missed. What is measured is the resident memory at rest (`VmRSS`) and its peak (`VmHWM`).

use std::fs;
use std::process::ExitCode;

use loadonce_tests::data;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, Task, topic_of};
use serde_json::json;

/// Tasks of the agents that are compared.
const COUNTS: [usize; 4] = [1, 3, 6, 12];
/// Samples per task.
const SAMPLES: usize = 60;
/// Most bytes of a further task.
const MOST: f64 = 2e6;

fn main() -> ExitCode {
    let figures: Vec<(usize, f64, f64)> = COUNTS.map(measure).to_vec();
    println!("tasks    at rest MB    peak MB");
    for (tasks, rest, peak) in &figures {
        println!("{tasks:5} {:13.2} {:10.2}", rest / 1e6, peak / 1e6);
    }
    let (few, many) = (figures[0], figures[COUNTS.len() - 1]);
    let each = (many.1 - few.1) / (many.0 - few.0) as f64;
    println!("a further task: {:.2} MB at rest, allowed {:.2} MB", each / 1e6, MOST / 1e6);
    let held = each <= MOST;
    println!("{}", if held { "the bar is held" } else { "the bar is MISSED" });
    let rows = figures.iter().map(|(tasks, rest, peak)| json!({"tasks": tasks, "rest": rest, "peak": peak}));
    println!("{}", json!({"agents": rows.collect::<Vec<_>>(), "further_task_bytes": each, "held": held}));
    ExitCode::from(u8::from(!held))
}

/// Bytes at rest and at the peak of an agent with this many tasks.
fn measure(count: usize) -> (usize, f64, f64) {
    let site = Site::new();
    let tasks: Vec<Task> = (0..count).map(task).collect();
    let mut aggregator = site.aggregator(&tasks, AggregatorOptions::default());
    let mut agent = site.agent("g1", AgentOptions::default());
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
    agent.process.stop();
    aggregator.process.stop();
    (count, rest, peak)
}

fn task(n: usize) -> Task {
    let kind = [
        "kind = \"classify\"\nclasses = [\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]\n\
         input = { modality = \"picture\" }\nmodule = { kind = \"ladder\" }",
        "kind = \"forecast\"\ninput = { modality = \"window\", channels = 1 }\nmodule = { kind = \"probe\" }\n\
         forecast = { horizon = 12, season = 24, step_s = 60 }",
        "kind = \"anomaly\"\ninput = { modality = \"window\", channels = 1 }\nmodule = { kind = \"moments\" }\n\
         anomaly = { learn = 60, false_alarms = 0.2 }",
    ][n % 3];
    let name = format!("task-{n}");
    let head = format!("name = \"{name}\"\nbackbone = \"sense-tiny\"\n{kind}");
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

//! `loadonce feed` as a plant engineer uses it: photos in folders, a table, lines of JSON; one task of each kind.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use loadonce_tests::data;
use loadonce_tests::programs::cli;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, SITE, Site, Task, digits};
use serde_json::json;

const GATEWAY: &str = "g1";
const PICTURES: usize = 30;
const ROWS: usize = 120;
/// Windows of 30 rows, two rows apart, whose three values to come are in the table as a window brings them.
const LABELS: usize = 44;
const LINES: usize = 44;

fn meter() -> Task {
    let head = r#"name = "meter"
kind = "forecast"
backbone = "sense-tiny"
input = { modality = "window", channels = 1, length = 30 }
module = { kind = "moments", features = 16 }
forecast = { horizon = 3, season = 12, every = 2, step_s = 60 }"#;
    Task { name: "meter", head, quorum: 1, deadline_s: 0, steps: 0, min_labels: LABELS, more: String::new() }
}

fn hum() -> Task {
    let head = r#"name = "hum"
kind = "anomaly"
backbone = "sense-tiny"
input = { modality = "window", channels = 1 }
module = { kind = "moments", features = 16 }
anomaly = { false_alarms = 0.3 }"#;
    Task { name: "hum", head, quorum: 1, deadline_s: 0, steps: 0, min_labels: LINES, more: String::new() }
}

/// Value number `i` of a rhythm of twelve steps.
fn value(i: usize) -> f64 {
    (std::f64::consts::TAU * (i % 12) as f64 / 12.0).sin() + 0.1 * ((i * i % 17) as f64 / 17.0)
}

/// What `loadonce feed` says, and its exit code.
fn feed(port: u16, task: &str, data: &Path, more: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(cli())
        .args(["feed", "--broker", &format!("mqtt://127.0.0.1:{port}"), "--site", SITE])
        .args(["--gateway", GATEWAY, "--task", task, "--data"])
        .arg(data)
        .args(more)
        .output()
        .expect("the program starts");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{said}");
    (status.code().unwrap_or(-1), said)
}

fn says(said: &(i32, String), code: i32, words: &[&str]) {
    assert_eq!(said.0, code, "{}", said.1);
    for word in words {
        assert!(said.1.contains(word), "{word:?} is not in: {}", said.1);
    }
}

#[test]
fn photos_tables_and_lines_teach_a_task_of_each_kind() {
    let site = Site::new();
    let tasks = [digits(1, 0, PICTURES), meter(), hum()];
    let mut aggregator = site.aggregator(&tasks, AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    agent.wait("all tasks are served", |f| tasks.iter().all(|task| f["tasks"][task.name].is_object()));
    agent.log().wait(0, &["data plane connected"]);
    let port = site.broker.port;
    let folder = site.folder().join("photos");

    // Photos, sorted into a folder per class; one label beside its photo is nothing that the task knows.
    let pictures = data::digits();
    for (i, sample) in pictures.train[..PICTURES].iter().enumerate() {
        let class = folder.join(&sample.label);
        fs::create_dir_all(&class).expect("a temporary folder can be made");
        fs::write(class.join(format!("photo {i}.png")), &sample.payload).expect("it can be written");
    }
    fs::write(folder.join("odd.png"), &pictures.train[PICTURES].payload).expect("it can be written");
    fs::write(folder.join("odd.label"), "scratch").expect("it can be written");
    let said = feed(port, "digits", &folder, &["--quiet"]);
    says(&said, 0, &["31 samples sent to g1: 31 answered, 0 refused", "31 without a module"]);
    says(&said, 0, &["31 labels sent, 1 of them refused; the first, of odd:", "scratch"]);
    assert!(!said.1.contains("photo"), "{}", said.1);
    agent.wait_at_rest("digits", 1);
    let said = feed(port, "digits", &folder, &["--unlabelled", "--count", "12"]);
    says(&said, 0, &["photo-0", "(exit ", "12 samples sent", "with a label rightly"]);
    assert!(!said.1.contains("labels sent"), "{}", said.1);

    // A table whose windows label each other.
    let table = site.folder().join("meter.csv");
    let mut text = "time;kW\n".to_owned();
    for i in 0..ROWS {
        let number = format!("{:.4}", value(i)).replace('.', ",");
        writeln!(text, "{};{number}", 60 * i).expect("a String takes any text");
    }
    fs::write(&table, &text).expect("it can be written");
    let said = feed(port, "meter", &table, &["--window", "30", "--every", "2", "--quiet"]);
    says(&said, 0, &["46 samples sent", "46 answered", "no labels sent: the data have none"]);
    agent.wait_at_rest("meter", 1);
    let said = feed(port, "meter", &table, &["--window", "30", "--every", "90", "--unlabelled"]);
    says(&said, 0, &["2 samples sent", "; the first within ", "version 1"]);

    // Lines of JSON with ids and labels, at a pace.
    let lines = site.folder().join("hum.jsonl");
    let line = |i: usize| {
        let odd = i >= 40;
        let values: Vec<f64> =
            (0..64).map(|t| value(t + i) + if odd { (t * 5 % 7) as f64 } else { 0.0 }).collect();
        json!({ "channels": [values], "id": format!("h{i}"), "label": if odd { "anomalous" } else { "normal" } })
    };
    let text = (0..LINES).map(|i| line(i).to_string()).collect::<Vec<_>>().join("\n");
    fs::write(&lines, text).expect("it can be written");
    let said = feed(port, "hum", &lines, &["--rate", "200", "--quiet"]);
    says(&said, 0, &["44 answered", "44 labels sent"]);
    agent.wait_at_rest("hum", 1);
    let said = feed(port, "hum", &lines, &["--unlabelled"]);
    says(&said, 0, &["h43: alarm, score", "44 answers", "labelled anomalous: 4 alarms in 4"]);

    what_cannot_be_fed_is_said(port, &table, &lines);
    agent.process.stop();
    aggregator.process.stop();
    assert!(!agent.log().text().contains("panicked"));
}

fn what_cannot_be_fed_is_said(port: u16, table: &Path, lines: &Path) {
    let all_refused = feed(port, "meter", lines, &["--quiet"]);
    says(&all_refused, 1, &["all of the first 10 samples are refused"]);
    says(&feed(port, "nothing", lines, &[]), 1, &["all of the first 10 samples are refused", "nothing"]);
    says(&feed(port, "meter", table, &[]), 1, &["--window"]);
    says(&feed(port, "meter", lines, &["--window", "9"]), 1, &["--window cuts CSV"]);
    says(&feed(port, "me/ter", table, &[]), 2, &["--task"]);
    says(&feed(port, "meter", table, &["--every", "3"]), 2, &["--window"]);
    says(&feed(port, "meter", table, &["--window", "30", "--rate", "0"]), 2, &["--rate"]);
    says(&feed(port, "meter", Path::new("/nowhere.csv"), &[]), 1, &["/nowhere.csv"]);
}

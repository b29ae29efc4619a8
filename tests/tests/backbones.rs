//! Several backbones in one agent: each task on its own, and a backbone replaced by its next generation.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use loadonce_tests::bundle::{short, whole};
use loadonce_tests::client::Client;
use loadonce_tests::data;
use loadonce_tests::programs;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, Task, digits, motion, topic_of};
use loadonce_trust::hash;
use serde_json::{Value, json};

const GATEWAY: &str = "g1";

fn own(rest: &str) -> String {
    topic_of(&format!("gw/{GATEWAY}/{rest}"))
}

fn ready(agent: &mut Program, tasks: &[&str]) {
    agent.wait("all tasks are served", |f| tasks.iter().all(|task| f["tasks"][task].is_object()));
    agent.log().wait(0, &["data plane connected"]);
}

/// Everything of an answer but how long it took, which is no property of the module.
fn ask(client: &Client, task: &str, id: &str, payload: &[u8]) -> Value {
    let mark = client.mark();
    client.publish(&own(&format!("in/{task}/{id}")), payload);
    let mut answer = client.wait(mark, &format!("{GATEWAY}/out/{task}/{id}"), |_| true).json();
    answer.as_object_mut().expect("an answer is an object").remove("latency_ms");
    answer
}

fn answers(client: &Client, task: &str, round: &str, samples: &[data::Sample]) -> Vec<Value> {
    let ask =
        |(i, sample): (usize, &data::Sample)| ask(client, task, &format!("{round}{i}"), &sample.payload);
    samples.iter().enumerate().map(ask).collect()
}

fn teach(client: &Client, task: &str, round: &str, samples: &[data::Sample]) {
    for (i, sample) in samples.iter().enumerate() {
        client.publish(&own(&format!("in/{task}/{round}{i}")), sample.payload.clone());
    }
    for (i, sample) in samples.iter().enumerate() {
        client.publish(&own(&format!("label/{task}/{round}{i}")), sample.label.as_str());
    }
}

/// Every file below `folder` with the hash of its content.
fn hashes(folder: &Path) -> BTreeMap<String, [u8; 32]> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(hashes(&path));
        } else {
            found.insert(path.display().to_string(), hash(&fs::read(&path).expect("the file can be read")));
        }
    }
    found
}

/// Nothing was refused but what harmlessly arrives twice.
fn nothing_was_refused(agent: &Program) {
    let refusals = agent.figures()["refusals"].clone();
    let counted = refusals.as_object().expect("refusals are counted by word");
    assert!(counted.iter().all(|(code, n)| *n == json!(0) || code == "block_unwanted"), "{refusals}");
}

fn end(mut agent: Program, mut aggregator: Program) {
    agent.process.stop();
    aggregator.process.stop();
    for program in [agent, aggregator] {
        assert!(!program.log().text().contains("panicked"), "{}", program.log().text());
    }
}

#[test]
fn invariant_15_training_on_one_backbone_leaves_the_task_on_the_other_bit_identical() {
    let site = Site::new();
    let (tiny, short) = (whole(), short(&site.folder().join("sense-short"), "sense-short"));
    let bundles = vec![tiny.folder.clone(), short.folder.clone()];
    let moved = |task: Task| Task { head: task.head.replace("sense-tiny", "sense-short").leak(), ..task };
    let tasks = [digits(1, 1, 30), moved(motion(1, 2, 16))];
    let options = AggregatorOptions { bundles: bundles.clone(), ..AggregatorOptions::default() };
    let mut aggregator = site.aggregator(&tasks, options);
    let client = site.client(&["gw/+/out/#", "gw/+/state"]);
    let mut agent = site.agent(GATEWAY, AgentOptions { bundles: bundles.clone(), ..AgentOptions::default() });
    ready(&mut agent, &["digits", "motion"]);
    let (pictures, windows) = (data::digits(), data::motion());

    // Both are announced, each was loaded once, on one engine.
    let birth = client.wait(0, &format!("gw/{GATEWAY}/state"), |m| m.json()["state"] == "up").json();
    let both = json!([
        { "name": "sense-tiny", "fingerprint": tiny.fingerprint },
        { "name": "sense-short", "fingerprint": short.fingerprint },
    ]);
    assert_eq!(birth["backbones"], both);
    let log = agent.log().clone();
    assert_eq!((log.count(0, "backbone loaded"), log.count(0, "ONNX Runtime started")), (2, 1));
    let figures = agent.figures();
    assert_eq!(figures["tasks"]["digits"]["backbone"], tiny.fingerprint.as_str());
    assert_eq!(figures["tasks"]["motion"]["backbone"], short.fingerprint.as_str());
    let before_any = ask(&client, "motion", "first", &windows.test[0].payload);
    assert_eq!(
        (&before_any["exit"], &before_any["label"]),
        (&json!(2), &Value::Null),
        "two exits: {before_any}"
    );

    let files: Vec<_> = bundles.iter().map(|folder| hashes(folder)).collect();
    let slot = |task: &str| hashes(&site.state(GATEWAY).join("slots").join(task));
    teach(&client, "digits", "t", &pictures.train[..30]);
    agent.wait_at_rest("digits", 2);
    let (kept, before) = (slot("digits"), answers(&client, "digits", "before", &pictures.test[..12]));
    assert!(before.iter().all(|answer| answer["label"].is_string()), "{before:?}");

    teach(&client, "motion", "t", &windows.train.iter().step_by(2).cloned().collect::<Vec<_>>());
    agent.wait("motion has been trained", |f| f["tasks"]["motion"]["version"].as_u64() >= Some(1));
    assert_eq!(answers(&client, "digits", "meanwhile", &pictures.test[..12]), before);
    agent.wait_at_rest("motion", 3);
    assert_eq!(answers(&client, "digits", "after", &pictures.test[..12]), before);
    assert_eq!(slot("digits"), kept, "files of the digits module changed");

    // And the other way round, where the labels that come make a new personal module.
    let (kept, before) = (slot("motion"), answers(&client, "motion", "before", &windows.test[..8]));
    assert!(before.iter().all(|answer| answer["label"].is_string()), "{before:?}");
    let (known, mark) = (slot("digits"), agent.log().mark());
    teach(&client, "digits", "more", &pictures.train[30..60]);
    agent.log().wait(mark, &["new module is served", "digits"]);
    agent.wait_at_rest("digits", 2);
    assert_ne!(slot("digits"), known, "digits learned nothing");
    assert_eq!(answers(&client, "motion", "after", &windows.test[..8]), before);
    assert_eq!(slot("motion"), kept, "files of the motion module changed");

    assert_eq!(bundles.iter().map(|folder| hashes(folder)).collect::<Vec<_>>(), files, "a bundle changed");
    assert_eq!(agent.log().count(0, "backbone loaded"), 2);
    aggregator.wait("the gateway is behind both tasks, each on its backbone", |f| {
        let of =
            |name: &str| f["tasks"].as_array().and_then(|t| t.iter().find(|t| t["name"] == name).cloned());
        let [Some(digits), Some(motion)] = [of("digits"), of("motion")] else { return false };
        digits["backbone"] == tiny.fingerprint.as_str() && motion["backbone"] == short.fingerprint.as_str()
    });
    nothing_was_refused(&agent);
    end(agent, aggregator);
}

#[test]
fn a_task_whose_backbone_is_not_installed_is_refused_by_name() {
    let site = Site::new();
    let short = short(&site.folder().join("sense-short"), "sense-short");
    let moved = Task {
        name: "motion",
        head: motion(1, 0, 1).head.replace("sense-tiny", "sense-short").leak(),
        ..motion(1, 0, 1)
    };
    let options = AggregatorOptions {
        bundles: vec![whole().folder, short.folder.clone()],
        ..AggregatorOptions::default()
    };
    let mut aggregator = site.aggregator(&[digits(1, 0, 1), moved], options);
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&["gw/+/out/#"]);
    agent.wait_refusal("wrong_backbone");
    let said = agent.log().wait(0, &["task is not served", "motion"]);
    let installed = format!("`sense-tiny` ({})", &whole().fingerprint[..8]);
    for word in ["needs the backbone `sense-short`", &installed, "`backbone.bundle`"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    ready(&mut agent, &["digits"]);
    let window = &data::motion().test[0].payload;
    assert_eq!(ask(&client, "motion", "m", window)["error"], "unknown_task");

    // Once the bundle is installed the task is served without anybody's doing.
    agent.process.stop();
    let bundles = vec![whole().folder, short.folder];
    let mut agent = site.agent(GATEWAY, AgentOptions { bundles, ..AgentOptions::default() });
    ready(&mut agent, &["digits", "motion"]);
    assert_eq!(ask(&client, "motion", "n", window)["exit"], 2);
    nothing_was_refused(&agent);
    aggregator.wait("it goes on", |f| f["tasks"].is_array());
    end(agent, aggregator);
}

#[test]
fn a_bundle_that_is_listed_twice_is_an_error() {
    let site = Site::new();
    let copy = site.folder().join("copy");
    fs::create_dir(&copy).expect("a temporary folder can be made");
    for entry in fs::read_dir(programs::bundle()).expect("the bundle is there") {
        let entry = entry.expect("the bundle can be read");
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a file can be copied");
    }
    let config = site.folder().join("twice.toml");
    let options = AgentOptions { bundles: vec![programs::bundle(), copy.clone()], ..AgentOptions::default() };
    fs::write(&config, site.agent_config("twice", &options)).expect("a temporary folder can be written");
    let Output { status, stderr, .. } = Command::new(programs::agent())
        .args(["--check", "--config"])
        .arg(&config)
        .output()
        .expect("the agent starts");
    let text = String::from_utf8_lossy(&stderr);
    // A line of the report may be broken anywhere.
    let text: String = text.chars().filter(|c| !c.is_whitespace() && *c != '│').collect();
    // Trying again would not help.
    assert_eq!(status.code(), Some(3), "{text}");
    for word in ["samebundletwice", "sense-tiny", &copy.display().to_string(), "keeponeofthem"] {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn a_task_moves_to_the_next_generation_of_its_backbone_without_falling_silent() {
    let site = Site::new();
    let (old, new) = (whole(), short(&site.folder().join("next"), "sense-tiny"));
    let pictures = data::digits();
    let tasks = [digits(1, 0, 30)];
    let on = |bundle: &loadonce_tests::bundle::Bundle| AggregatorOptions {
        bundles: vec![bundle.folder.clone()],
        ..AggregatorOptions::default()
    };
    let mut aggregator = site.aggregator(&tasks, on(&old));
    // The plant has installed the new generation beside the old one; the fleet still learns on the old one.
    let bundles = vec![old.folder.clone(), new.folder.clone()];
    let mut agent = site.agent(GATEWAY, AgentOptions { bundles, ..AgentOptions::default() });
    let client = site.client(&["gw/+/out/#"]);
    ready(&mut agent, &["digits"]);
    teach(&client, "digits", "old", &pictures.train[..60]);
    agent.wait_at_rest("digits", 1);
    assert_eq!(agent.task("digits")["backbone"], old.fingerprint.as_str());
    let asked = &pictures.test[..12];
    let before = answers(&client, "digits", "before", asked);
    assert!(before.iter().all(|answer| answer["label"].is_string()), "{before:?}");

    // The aggregator turns to the new one: a new lineage begins, the old module goes on answering.
    aggregator.process.stop();
    let aggregator = site.aggregator(&tasks, on(&new));
    agent.wait("the task has moved", |f| f["tasks"]["digits"]["backbone"] == new.fingerprint.as_str());
    assert_eq!(answers(&client, "digits", "moved", asked), before);
    let task = agent.task("digits");
    assert_eq!((&task["version"], &task["former"]), (&json!(0), &json!(1)), "{task}");
    // Also after a restart, on which the broker tells both pointers again.
    agent.restart();
    agent.wait("it has started again", |f| f["incarnation"] == 2 && f["tasks"]["digits"]["former"] == 1);
    agent.log().wait(0, &["data plane connected"]);
    assert_eq!(answers(&client, "digits", "again", asked), before);

    // What is taught now teaches the new lineage, whose first version takes over.
    teach(&client, "digits", "new", &pictures.train[60..120]);
    agent.wait_at_rest("digits", 1);
    let task = agent.task("digits");
    assert_eq!((&task["former"], &task["backbone"]), (&Value::Null, &json!(new.fingerprint)), "{task}");
    assert_eq!(task["labels"], 60, "only features of the new backbone count: {task}");
    let after = answers(&client, "digits", "after", asked);
    assert!(
        after.iter().all(|answer| answer["label"].is_string() && answer["exit"].as_u64() <= Some(2)),
        "{after:?}"
    );
    nothing_was_refused(&agent);
    end(agent, aggregator);
}

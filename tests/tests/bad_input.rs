//! Bad input: one clear message (what, where, what to do), a counter, and the agent goes on wherever it can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadonce_module::{Dtype, ModuleFile};
use loadonce_store::Slots;
use loadonce_tests::broker::free_port;
use loadonce_tests::client::Client;
use loadonce_tests::data::{self, MOTION_CHANNELS};
use loadonce_tests::process::{Log, Process};
use loadonce_tests::programs::{self, system};
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, motion, topic_of};
use loadonce_tests::wait::until;
use serde_json::Value;

const GATEWAY: &str = "g1";

fn own(rest: &str) -> String {
    topic_of(&format!("gw/{GATEWAY}/{rest}"))
}

fn ready(agent: &mut Program, task: &str) {
    let served = task.to_owned();
    agent.wait(&format!("{task} is served"), move |f| f["tasks"][&served].is_object());
    agent.log().wait(0, &["data plane connected"]);
}

fn send(client: &Client, rest: &str, answer: &str, payload: &[u8]) -> Value {
    let mark = client.mark();
    client.publish(&own(rest), payload);
    client.wait(mark, &format!("{GATEWAY}/out/{answer}"), |_| true).json()
}

fn ask(client: &Client, task: &str, id: &str, payload: &[u8]) -> Value {
    send(client, &format!("in/{task}/{id}"), &format!("{task}/{id}"), payload)
}

fn end_well(mut program: Program) {
    program.process.stop();
    assert!(!program.log().text().contains("panicked"), "{}", program.log().text());
}

/// Without white space and the frame of the report: a line may be broken anywhere.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '│').collect()
}

/// Runs an agent that must not start and checks what it says.
fn refuses_to_start(site: &Site, options: &AgentOptions, code: i32, says: &[&str]) {
    let config = site.folder().join("refused.toml");
    fs::write(&config, site.agent_config("refused", options)).expect("a temporary folder can be written");
    let Output { status, stderr, .. } =
        Command::new(programs::agent()).arg("--config").arg(&config).output().expect("the agent starts");
    let text = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{text}");
    for word in says {
        assert!(squeezed(&text).contains(&squeezed(word)), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// How often a start failed for this cause: what an agent that starts tells of those that did not.
fn failed_starts(site: &Site, cause: &str) -> Value {
    let mut agent = site.agent("refused", AgentOptions::default());
    let figures = agent.wait("it runs", Value::is_object);
    end_well(agent);
    figures["failed_starts"][cause].clone()
}

/// Topic, topic of the answer, payload, code and words of the refusal.
type Case<'a> = (&'a str, &'a str, &'a [u8], &'a str, &'a [&'a str]);

#[test]
fn bad_samples_and_labels_are_answered_counted_and_survived() {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 2), motion(1, 0, 2)], AggregatorOptions::default());
    let spool = site.folder().join("spool");
    fs::create_dir_all(spool.join("digits")).expect("a temporary folder can be made");
    let options = AgentOptions { spool: Some(spool.clone()), ..AgentOptions::default() };
    let mut agent = site.agent(GATEWAY, options);
    let client = site.client(&["gw/+/out/#"]);
    ready(&mut agent, "digits");
    ready(&mut agent, "motion");
    let (picture, window) = (&data::digits().test[0].payload, &data::motion().test[0].payload);

    let truncated = &picture[..picture.len() / 2];
    let five = data::json(&window[..5 * 400], 5);
    let (mut infinite, mut gaps) = (window.clone(), window.clone());
    infinite[400..404].copy_from_slice(&f32::INFINITY.to_le_bytes());
    for number in gaps[400..800].chunks_exact_mut(4).step_by(3) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let short = data::json(&window[..MOTION_CHANNELS * 40], MOTION_CHANNELS);
    let cases: [Case<'_>; 9] = [
        ("in/digits/truncated", "digits/truncated", truncated, "picture_truncated", &["picture"]),
        ("in/motion/five", "motion/five", &five, "wrong_channels", &["5", "6"]),
        ("in/motion/infinite", "motion/infinite", &infinite, "not_finite", &["channel 1", "0"]),
        ("in/motion/gaps", "motion/gaps", &gaps, "too_many_gaps", &["34 of the 100", "channel 1"]),
        ("in/motion/short", "motion/short", &short, "wrong_length", &["10", "100"]),
        ("in/nothing/x", "nothing/x", picture, "unknown_task", &["nothing", "publish its manifest"]),
        ("label/nothing/x", "nothing/x", b"7", "unknown_task", &["nothing"]),
        ("label/digits/x", "digits/x", b"eleven", "unknown_class", &["eleven", "0, 1, 2"]),
        ("label/digits/y", "digits/y", b"\xff\xfe", "bad_label", &["class name"]),
    ];
    for (rest, answer, payload, code, says) in cases {
        let problem = send(&client, rest, answer, payload);
        assert_eq!(problem["error"], code, "{rest}: {problem}");
        let message = problem["message"].as_str().unwrap_or_default();
        assert!(says.iter().all(|word| message.contains(word)), "{rest}: {message}");
        agent.wait_refusal(code);
    }

    // Too large for a sample: taken out of the stream, and answered all the same.
    let huge = site.folder().join("huge");
    fs::write(&huge, vec![0; 20_000_000]).expect("a temporary folder can be written");
    let sent = Command::new(system("mosquitto_pub", "mosquitto-clients"))
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &site.broker.port.to_string(),
            "-q",
            "1",
            "-t",
            &own("in/digits/huge"),
            "-f",
        ])
        .arg(&huge)
        .status()
        .expect("mosquitto_pub starts");
    assert!(sent.success());
    let problem = client.wait(0, &format!("{GATEWAY}/out/digits/huge"), |_| true).json();
    let message = problem["message"].as_str().unwrap_or_default();
    assert_eq!(problem["error"], "too_large", "{problem}");
    assert!(message.contains("200000") && message.contains("send a smaller picture"), "{message}");
    agent.wait_refusal("too_large");
    let figures = agent.figures();
    assert_eq!(figures["data"]["connects"], 1, "the connection survived: {figures}");

    // The folder refuses the same way, and keeps the file for a person to look at.
    fs::write(spool.join("digits/cut.png"), truncated).expect("a temporary folder can be written");
    let kept = spool.join("refused/digits/cut.png");
    until("refused file in the spool", || kept.exists().then_some(()));

    let answer = ask(&client, "digits", "good", picture);
    assert_eq!(answer["exit"], 3, "{answer}");
    let answer = ask(&client, "motion", "good", window);
    assert_eq!(answer["exit"], 3, "{answer}");
    end_well(agent);
    end_well_aggregator(&mut aggregator);
}

fn end_well_aggregator(aggregator: &mut Program) {
    aggregator.process.stop();
    assert!(!aggregator.log().text().contains("panicked"), "{}", aggregator.log().text());
}

#[test]
fn a_bundle_with_one_flipped_byte_is_not_loaded() {
    let site = Site::new();
    let bundle = site.folder().join("bundle");
    fs::create_dir(&bundle).expect("a temporary folder can be made");
    for entry in fs::read_dir(programs::bundle()).expect("the bundle is there") {
        let entry = entry.expect("the bundle can be read");
        fs::copy(entry.path(), bundle.join(entry.file_name())).expect("a file can be copied");
    }
    let damaged = bundle.join("segment-2.onnx");
    let mut bytes = fs::read(&damaged).expect("the bundle has a second segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).expect("a temporary folder can be written");
    let options = AgentOptions { bundles: vec![bundle.clone()], ..AgentOptions::default() };
    let says = ["segment-2.onnx", "sha256", "install the bundle again", &bundle.display().to_string()];
    refuses_to_start(&site, &options, 3, &says);
    assert_eq!(failed_starts(&site, "bundle"), 1);
}

#[test]
fn a_missing_or_too_old_onnx_runtime_is_named() {
    let site = Site::new();
    let missing = site.folder().join("nowhere/libonnxruntime.so");
    let says = [missing.display().to_string(), "cross/fetch-onnxruntime".to_owned()];
    let options = AgentOptions { library: missing, ..AgentOptions::default() };
    refuses_to_start(&site, &options, 3, &[&says[0], &says[1]]);

    let source = site.folder().join("old.c");
    let old = site.folder().join("libonnxruntime.so");
    fs::write(
        &source,
        "static const void *api(unsigned v) { (void)v; return 0; }\n\
         static const char *version(void) { return \"1.17.3\"; }\n\
         static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = {api, version};\n\
         const void *OrtGetApiBase(void) { return &base; }\n",
    )
    .expect("a temporary folder can be written");
    shared_library(&source, &old, &[]);
    let says = [old.display().to_string(), "1.17.3".to_owned(), "1.24".to_owned()];
    let options = AgentOptions { library: old, ..AgentOptions::default() };
    refuses_to_start(&site, &options, 3, &[&says[0], &says[1], &says[2]]);
    assert_eq!(failed_starts(&site, "engine"), 2);
}

fn shared_library(source: &Path, library: &Path, more: &[&str]) {
    let mut cc = Command::new(system("cc", "gcc"));
    let built = cc.args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).args(more).status();
    assert!(built.is_ok_and(|status| status.success()), "cc builds {}", library.display());
}

#[test]
fn a_library_for_another_processor_or_a_newer_system_is_named() {
    let site = Site::new();
    // The real library, said to be for another machine: bytes 18 and 19 of an ELF header.
    let foreign = site.folder().join("foreign.so");
    let mut bytes = fs::read(programs::onnxruntime()).expect("the library is there");
    let aarch64 = 183_u16.to_le_bytes();
    let x86_64 = 62_u16.to_le_bytes();
    let other = if bytes[18..20] == aarch64 { x86_64 } else { aarch64 };
    bytes[18..20].copy_from_slice(&other);
    fs::write(&foreign, bytes).expect("a temporary folder can be written");
    let options = AgentOptions { library: foreign.clone(), ..AgentOptions::default() };
    refuses_to_start(&site, &options, 3, &[&foreign.display().to_string(), "made for", "aarch64", "x86_64"]);

    // A library that wants a C library of the future: linked against a stand-in of that version.
    let (stub, script) = (site.folder().join("stub.c"), site.folder().join("stub.map"));
    fs::write(&stub, "int from_the_future(void) { return 0; }\n").expect("the folder is ours");
    fs::write(&script, "GLIBC_9.99 { global: from_the_future; };\n").expect("the folder is ours");
    let libc = site.folder().join("libc.so.6");
    let versions = format!("-Wl,--version-script={}", script.display());
    shared_library(&stub, &libc, &["-nostdlib", "-Wl,-soname,libc.so.6", &versions]);
    let (source, newer) = (site.folder().join("newer.c"), site.folder().join("newer.so"));
    fs::write(
        &source,
        "int from_the_future(void);\nconst void *OrtGetApiBase(void) { return (void *)(long)from_the_future(); }\n",
    )
    .expect("the folder is ours");
    shared_library(&source, &newer, &["-nostdlib", &libc.display().to_string()]);
    let options = AgentOptions { library: newer.clone(), ..AgentOptions::default() };
    refuses_to_start(&site, &options, 3, &[&newer.display().to_string(), "GLIBC_9.99", "newer system"]);
    assert_eq!(failed_starts(&site, "engine"), 2);
}

#[test]
fn a_configuration_with_a_mistake_is_named() {
    let site = Site::new();
    let options = AgentOptions { broker: Some("http://127.0.0.1".to_owned()), ..AgentOptions::default() };
    refuses_to_start(&site, &options, 2, &["uplink", "http://127.0.0.1", "mqtt://", "refused.toml"]);
}

#[test]
fn a_module_of_another_backbone_is_not_served() {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 10)], AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&["gw/+/out/#"]);
    ready(&mut agent, "digits");
    let samples = data::digits();
    for (i, sample) in samples.train[..10].iter().enumerate() {
        client.publish(&own(&format!("in/digits/t{i}")), sample.payload.clone());
        client.publish(&own(&format!("label/digits/t{i}")), sample.label.as_str());
    }
    agent.wait_at_rest("digits", 1);
    agent.process.stop();
    aggregator.process.stop();

    // The same module, signed off for a backbone that is not loaded here.
    let foreign = "ab".repeat(32);
    let slot = agent.slot("digits");
    let mut files = slot.files.clone();
    for (name, dtype) in [("shared.safetensors", Dtype::F16), ("personal.safetensors", Dtype::F32)] {
        let file = ModuleFile::decode(&files[name]).expect("the agent wrote a module file");
        let file = ModuleFile { backbone: foreign.clone(), ..file };
        files.insert(name.to_owned(), file.encode(dtype).expect("only the backbone differs"));
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    Slots::open(&site.state(GATEWAY).join("slots/digits"))
        .expect("the slots' folder is there")
        .commit(&files)
        .expect("a slot can be written");

    let mark = agent.log().mark();
    agent.restart();
    agent.log().wait(mark, &["does not fit", &foreign[..16]]);
    agent.wait("it runs again", |f| f["incarnation"] == 2);
    agent.wait_refusal("wrong_module");
    agent.log().wait(mark, &["data plane connected"]);
    let answer = ask(&client, "digits", "without", &samples.test[0].payload);
    assert!(answer["label"].is_null() && answer["version"] == 0 && answer["exit"] == 3, "{answer}");
    // With the aggregator back, the right module comes.
    aggregator.restart();
    agent.wait_at_rest("digits", 1);
    let answer = ask(&client, "digits", "with", &samples.test[0].payload);
    assert!(answer["label"].is_string() && answer["version"] == 1, "{answer}");
    end_well(agent);
    aggregator.process.stop();
}

#[test]
fn an_unreachable_broker_stops_nothing_but_the_uplink() {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 2)], AggregatorOptions::default());
    let spool = site.folder().join("spool");
    fs::create_dir_all(spool.join("digits")).expect("a temporary folder can be made");
    let options = AgentOptions { spool: Some(spool.clone()), ..AgentOptions::default() };
    let mut agent = site.agent(GATEWAY, options.clone());
    ready(&mut agent, "digits");
    end_well(agent);
    aggregator.process.stop();

    let nobody = format!("mqtt://127.0.0.1:{}", free_port());
    let mut agent = site.agent(GATEWAY, AgentOptions { broker: Some(nobody), ..options });
    agent.log().wait(0, &["uplink is down", "Check that the broker runs"]);
    agent.wait("failed attempts are counted", |f| {
        f["uplink"]["failed_connects"].as_u64().is_some_and(|n| n > 2)
    });
    assert_eq!(agent.log().count(0, "uplink is down"), 1, "once per outage:\n{}", agent.log().tail());
    let put = |name: &str, bytes: &[u8]| {
        let hidden = spool.join("digits").join(format!(".{name}"));
        fs::write(&hidden, bytes).expect("a temporary folder can be written");
        fs::rename(&hidden, spool.join("digits").join(name)).expect("a file can be renamed");
    };
    for (i, sample) in data::digits().train[..5].iter().enumerate() {
        put(&format!("s{i}.png"), &sample.payload);
        put(&format!("s{i}.label"), sample.label.as_bytes());
    }
    let figures = agent.wait("the spool is learned from", |f| {
        f["incarnation"] == 2
            && f["tasks"]["digits"]["predictions"] == 5
            && f["tasks"]["digits"]["labels"] == 5
    });
    assert_eq!((&figures["uplink"]["connects"], &figures["data"]["connects"]), (&0.into(), &0.into()));
    // What is learned waits for the line, durably.
    agent.wait("the sum waits in the outbox", |f| f["outbox"]["entries"] == 1);
    end_well(agent);
}

/// A read-only view of `state` for one program: as root a mount that only it sees, else the folder's mode.
fn read_only(state: &Path) -> Vec<String> {
    if rustix::process::geteuid().is_root() {
        let state = state.display();
        let script =
            format!("mount --bind '{state}' '{state}' && mount -o remount,bind,ro '{state}' && exec \"$@\"");
        return ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).into();
    }
    for folder in [state.to_owned(), state.join("slots"), state.join("slots/digits")] {
        if folder.is_dir() {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).expect("the folder is ours");
        }
    }
    vec!["env".to_owned()]
}

/// An agent with a module of its own for digits, and a client; agent and aggregator have ended.
fn taught(site: &Site) -> Client {
    let mut aggregator = site.aggregator(&[digits(1, 0, 10)], AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&["gw/+/out/#"]);
    ready(&mut agent, "digits");
    for (i, sample) in data::digits().train[..10].iter().enumerate() {
        client.publish(&own(&format!("in/digits/t{i}")), sample.payload.clone());
        client.publish(&own(&format!("label/digits/t{i}")), sample.label.as_str());
    }
    agent.wait_at_rest("digits", 1);
    end_well(agent);
    end_well_aggregator(&mut aggregator);
    client
}

/// Starts the agent below `prefix`.
fn start_below(site: &Site, prefix: &[String]) -> Process {
    let config = site.folder().join("below.toml");
    fs::write(&config, site.agent_config(GATEWAY, &AgentOptions::default())).expect("the folder is ours");
    let log = Log::new(&site.folder().join("below.log"));
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).arg(programs::agent()).arg("--config").arg(&config);
    Process::start("agent on another state folder", &mut command, &log, None)
}

#[test]
fn a_read_only_state_folder_still_answers() {
    let mut site = Site::new();
    let client = taught(&site);
    drop(client);
    // Nobody tells the agent of its tasks any more: what it knows is in the folder it cannot write.
    site.broker.restart();
    let client = site.client(&["gw/+/out/#", "gw/+/report"]);
    let mut process = start_below(&site, &read_only(&site.state(GATEWAY)));
    let log = process.log.clone();
    log.wait(0, &["running without a store", &site.state(GATEWAY).display().to_string(), "write access"]);
    log.wait(0, &["data plane connected"]);
    let report = client.wait(0, &format!("{GATEWAY}/report"), |_| true).json();
    assert_eq!(report["refusals"]["state_unwritable"], 1, "{report}");
    assert_eq!(report["incarnation"], 2, "an old last will must not count: {report}");
    let answer = ask(&client, "digits", "read-only", &data::digits().test[0].payload);
    assert!(answer["label"].is_string() && answer["version"] == 1, "{answer}");
    let problem = send(&client, "label/digits/read-only", "digits/read-only", b"7");
    assert_eq!(problem["error"], "state_unwritable", "{problem}");
    process.stop();
    assert!(!log.text().contains("panicked"), "{}", log.text());
}

#[test]
fn a_disk_that_fills_up_takes_learning_away_and_not_the_answers() {
    if !rustix::process::geteuid().is_root() {
        println!("not root: no small disk can be mounted, NOT checked");
        return;
    }
    let site = Site::new();
    let client = taught(&site);
    let mut aggregator = site.aggregator(&[digits(1, 0, 10)], AggregatorOptions::default());
    let state = site.state(GATEWAY);
    let bytes: u64 = walk(&state).iter().map(|path| fs::metadata(path).map_or(0, |found| found.len())).sum();
    // The folder's own content and a little more, on a disk that only this process sees.
    let (state, size) = (state.display(), bytes / 1024 + 1100);
    let script = format!(
        "cp -r '{state}' '{state}.copy' && mount -t tmpfs -o size={size}k none '{state}' && \
         cp -r '{state}.copy'/. '{state}' && exec \"$@\""
    );
    let mut process = start_below(&site, &["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned));
    let log = process.log.clone();
    log.wait(0, &["data plane connected"]);
    let samples = data::digits();
    let mut asked = 0;
    while log.find(0, &["the store failed"]).is_none() {
        assert!(asked < 20_000, "the disk does not fill up:\n{}", log.tail());
        let sample = &samples.train[asked % samples.train.len()].payload;
        client.publish(&own(&format!("in/digits/fill-{asked}")), sample.clone());
        asked += 1;
        if asked % 100 == 0 {
            let id = format!("probe-{asked}");
            assert!(ask(&client, "digits", &id, sample)["label"].is_string());
        }
    }
    println!("full after {asked} samples");
    assert!(process.ended().is_none(), "the agent ended:\n{}", log.tail());
    let answer = ask(&client, "digits", "full", &samples.test[0].payload);
    assert!(answer["label"].is_string() && answer["version"] == 1, "{answer}");
    process.stop();
    assert!(!log.text().contains("panicked"), "{}", log.text());
    end_well_aggregator(&mut aggregator);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the state folder can be read");
    let paths = entries.map(|entry| entry.expect("the state folder can be read").path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn an_unknown_gateway_is_refused_by_name_and_loses_nothing() {
    let site = Site::new();
    let task = [digits(1, 0, 10)];
    let nobody = AggregatorOptions { listed: Some(Vec::new()), ..AggregatorOptions::default() };
    let mut aggregator = site.aggregator(&task, nobody);
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&[]);
    ready(&mut agent, "digits");
    for (i, sample) in data::digits().train[..10].iter().enumerate() {
        client.publish(&own(&format!("in/digits/t{i}")), sample.payload.clone());
        client.publish(&own(&format!("label/digits/t{i}")), sample.label.as_str());
    }
    agent.wait_refusal("unknown_gateway");
    agent.log().wait(0, &["does not admit this gateway", GATEWAY]);
    let figures = agent.wait("the sum is kept", |f| f["outbox"]["entries"] == 1);
    assert_eq!(figures["tasks"]["digits"]["version"], 0, "{figures}");
    aggregator.log().wait(0, &["refused", GATEWAY, "add it under `gateways`"]);
    aggregator.wait("the refusal was counted", |f| f["contributions"]["refused"]["unknown_gateway"] == 1);
    aggregator.process.stop();

    let made = agent.log().wait(0, &["made this gateway's key"]);
    let key: String = made.split("key=").nth(1).expect("the line has the key").chars().take(64).collect();
    let listed =
        AggregatorOptions { listed: Some(vec![(GATEWAY.to_owned(), key)]), ..AggregatorOptions::default() };
    let mut aggregator = site.aggregator(&task, listed);
    agent.wait_at_rest("digits", 1);
    let figures = agent.figures();
    let kept = &figures["tasks"]["digits"];
    let expected =
        kept["labels"].as_u64().zip(kept["heldout"].as_u64()).map(|(labels, heldout)| labels - heldout);
    aggregator.wait("the sum is in the totals", |f| f["tasks"][0]["samples"].as_u64() == expected);
    end_well(agent);
    aggregator.process.stop();
}

#[test]
fn the_configuration_of_the_tests_passes_the_check() {
    let site = Site::new();
    let config: PathBuf = site.folder().join("check.toml");
    fs::write(&config, site.agent_config("check", &AgentOptions::default())).expect("the folder is ours");
    let Output { status, stdout, .. } = Command::new(programs::agent())
        .arg("--check")
        .arg("--config")
        .arg(&config)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&stdout);
    assert!(status.success() && text.contains("configuration is good"), "{text}");
    assert!(!site.state("check").exists(), "a check writes nothing");
}

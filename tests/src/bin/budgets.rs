//! What the product costs a gateway, against `cross/budgets.toml`: prints a table, writes `target/bench/budgets.json` and
//! ends with 1 when a bound is broken or, unless `PARTLY=1`, when something could not be measured.
//!
//! `make budgets` builds what is measured: the programs that `cross/build` makes for a gateway (aarch64) and for this
//! machine, and `load`, an example of `loadonce-backbone`, for aarch64. Native figures are of this machine's processor.
//! Under qemu-user the resident memory is that of the guest alone: it is given a range of addresses of its own, and what
//! the emulator itself holds lies outside it.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use loadonce_tests::data;
use loadonce_tests::programs::{bundle, root};
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, topic_of};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Samples that are learned: natively, and under the emulator.
const SAMPLES: [usize; 2] = [400, 60];
/// Where the guest's addresses begin, and how many it has.
const GUEST: (u64, u64) = (0x1000_0000_0000, 0x10_0000_0000);
/// A Raspberry Pi 4.
const PROCESSOR: &str = "cortex-a72";
/// Between two samples while the first answer is waited for.
const KNOCK: Duration = Duration::from_millis(5);
/// Longest wait for it.
const LIMIT: Duration = Duration::from_mins(1);

/// One line of the table.
struct Row {
    name: &'static str,
    /// Where and on what.
    of: String,
    measured: Result<f64, String>,
    most: f64,
    unit: &'static str,
}

fn main() -> ExitCode {
    let text =
        fs::read_to_string(root().join("cross/budgets.toml")).expect("the budgets are in the repository");
    let budgets: toml::Table = text.parse().expect("cross/check reads the budgets");
    let most = |table: &str, key: &str| {
        let bound = budgets.get(table).and_then(|t| t.get(key)).and_then(toml::Value::as_integer);
        bound.unwrap_or_else(|| panic!("cross/budgets.toml has no {key} in [{table}]")) as f64
    };
    let target =
        budgets["agent_binary"]["target"].as_str().expect("[agent_binary] names a target").to_owned();
    let built = root().join("target/cross").join(&target);
    let row = |name, of: &str, measured, key| {
        let unit = if key == "most_ms" { "ms" } else { "bytes" };
        Row { name, of: of.to_owned(), measured, most: most(name, key), unit }
    };
    let machine = format!("this machine ({})", env::consts::ARCH);
    let emulated = format!("{target}, qemu {PROCESSOR}");

    let native = native();
    let rows = vec![
        row("agent_binary", &target, size(&built.join("loadonce-agent")), "most_bytes"),
        row("agent_package", "arm64", package("loadonce-agent", "arm64"), "most_bytes"),
        row("agent_memory", &machine, Ok(native.idle), "most_bytes"),
        row("agent_memory", &emulated, guest_memory(&built), "most_bytes"),
        row("task_memory", &machine, further_task(), "most_bytes"),
        row("training_memory", &machine, Ok(native.training), "most_bytes"),
        row("first_answer", &machine, Ok(native.first_answer_ms), "most_ms"),
        row("idle_traffic", &machine, idle_traffic(), "most_bytes_per_day"),
    ];
    report(&rows)
}

fn report(rows: &[Row]) -> ExitCode {
    println!("{:16} {:44} {:>12} {:>12}", "what", "of", "measured", "allowed");
    let (mut broken, mut missing, mut told) = (false, false, Vec::new());
    for Row { name, of, measured, most, unit } in rows {
        let (figure, verdict) = match measured {
            Ok(figure) if figure <= most => (Some(figure), "held"),
            Ok(figure) => (Some(figure), "BROKEN"),
            Err(_) => (None, "not measured"),
        };
        broken |= verdict == "BROKEN";
        missing |= figure.is_none();
        let shown = figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.0}"));
        println!("{name:16} {of:44} {shown:>12} {most:>12.0} {unit:6} {verdict}");
        if let Err(why) = measured {
            println!("{:16} {why}", "");
        }
        told.push(json!({"what": name, "of": of, "measured": figure, "most": most, "unit": unit, "verdict": verdict}));
    }
    let out = root().join("target/bench/budgets.json");
    fs::create_dir_all(out.parent().expect("a file lies in a folder")).expect("target/ can be written");
    let text = serde_json::to_string_pretty(&json!({ "budgets": told })).expect("rows are JSON");
    fs::write(&out, text + "\n").expect("target/ can be written");
    let partly = env::var("PARTLY").is_ok_and(|word| word == "1");
    ExitCode::from(u8::from(broken || missing && !partly))
}

fn size(path: &Path) -> Result<f64, String> {
    fs::metadata(path).map(|file| file.len() as f64).map_err(|error| format!("{}: {error}", path.display()))
}

/// The newest package `name`.
fn package(name: &str, arch: &str) -> Result<f64, String> {
    let folder = root().join("target/packages");
    let files =
        fs::read_dir(&folder).map_err(|error| format!("{}: {error}; make packages", folder.display()))?;
    let fits = |file: &PathBuf| {
        let file = file.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        file.starts_with(&format!("{name}_")) && file.ends_with(&format!("_{arch}.deb"))
    };
    let packages = files.filter_map(|file| Some(file.ok()?.path())).filter(fits);
    let newest = packages.max_by_key(|path| path.metadata().and_then(|file| file.modified()).ok());
    size(&newest.ok_or_else(|| format!("no {name}_*_{arch}.deb in {}", folder.display()))?)
}

struct Native {
    /// Resident memory at rest above the backbone's own, bytes.
    idle: f64,
    /// What the peak while training is above the peak while only inferring, bytes.
    training: f64,
    /// From the start of a gateway that has learned to its first answer.
    first_answer_ms: f64,
}

/// An agent of this machine with one task: asked, taught, started again.
fn native() -> Native {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 1, SAMPLES[0])], AggregatorOptions::default());
    let mut agent = site.agent("g1", AgentOptions::default());
    let client = site.client(&["gw/g1/out/#"]);
    ask(&mut agent, &client, SAMPLES[0]);
    // From here on the peak is that of inference alone, without what loading took.
    forget_peak(&agent);
    ask(&mut agent, &client, SAMPLES[0]);
    let inference = status(&agent, "VmHWM");
    forget_peak(&agent);
    teach(&mut agent, &client, SAMPLES[0]);
    let training = status(&agent, "VmHWM");
    let figures = agent.figures();
    let backbone = figures["backbone_bytes"].as_f64().expect("the agent says what the backbone takes");
    let idle = status(&agent, "VmRSS") - backbone;

    agent.process.stop();
    let start = Instant::now();
    agent.restart();
    let mark = client.mark();
    let picture = &data::digits().test[0].payload;
    let mut knocks = 0;
    while client.since(mark).is_empty() {
        assert!(start.elapsed() < LIMIT, "no answer");
        // What comes before the agent listens is lost.
        client.publish(&topic_of(&format!("gw/g1/in/digits/knock{knocks}")), picture.clone());
        knocks += 1;
        std::thread::sleep(KNOCK);
    }
    let first_answer_ms = start.elapsed().as_secs_f64() * 1e3;
    agent.process.stop();
    aggregator.process.stop();
    Native { idle, training: training - inference, first_answer_ms }
}

/// Asks the agent `count` questions and waits for the answers.
fn ask(agent: &mut Program, client: &loadonce_tests::client::Client, count: usize) {
    agent.log().wait(0, &["data plane connected"]);
    agent.wait("the task is served", |figures| figures["tasks"]["digits"].is_object());
    let mark = client.mark();
    for (i, sample) in data::digits().train.iter().take(count).enumerate() {
        client.publish(&topic_of(&format!("gw/g1/in/digits/t{i}")), sample.payload.clone());
    }
    client.wait(mark, &format!("/digits/t{}", count - 1), |_| true);
}

/// Gives it their labels and waits until it rests with the module that came of them.
fn teach(agent: &mut Program, client: &loadonce_tests::client::Client, count: usize) {
    for (i, sample) in data::digits().train.iter().take(count).enumerate() {
        client.publish(&topic_of(&format!("gw/g1/label/digits/t{i}")), sample.label.as_str());
    }
    agent.wait_at_rest("digits", 2);
}

fn status(agent: &Program, key: &str) -> f64 {
    let path = format!("/proc/{}/status", agent.process.pid().as_raw_nonzero());
    let text = fs::read_to_string(path).expect("the agent runs on Linux");
    let line = text.lines().find(|line| line.starts_with(key)).expect("the kernel tells it");
    let kilobytes: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kilobytes * 1024.0
}

/// Makes the kernel begin `VmHWM` anew (proc(5), `clear_refs`).
fn forget_peak(agent: &Program) {
    let path = format!("/proc/{}/clear_refs", agent.process.pid().as_raw_nonzero());
    fs::write(path, "5").expect("the peak of an own process can be reset");
}

/// What a further task adds, as `memory` beside this program measures it.
fn further_task() -> Result<f64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?.with_file_name("memory");
    let output =
        Command::new(&program).output().map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let told: Value =
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let each = told["further_task_bytes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let most = each.iter().filter_map(Value::as_f64).reduce(f64::max);
    most.ok_or_else(|| {
        format!("{} told nothing: {}", program.display(), String::from_utf8_lossy(&output.stderr))
    })
}

/// What `make bench-idle` measured; it takes 20 minutes.
fn idle_traffic() -> Result<f64, String> {
    let path = root().join("target/bench/idle.json");
    let text = fs::read(&path).map_err(|error| format!("{}: {error}; make bench-idle", path.display()))?;
    let told: Value =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    told["bytes_per_day"].as_f64().ok_or_else(|| format!("{} has no bytes_per_day", path.display()))
}

/// Resident memory of the emulated agent at rest above that of the backbone alone.
fn guest_memory(built: &Path) -> Result<f64, String> {
    let agent = built.join("loadonce-agent");
    let library = built.join("libonnxruntime.so");
    let load = root().join("target/aarch64-unknown-linux-gnu/debug/examples/load");
    for needed in [&agent, &library, &load] {
        size(needed)?;
    }
    let qemu = Command::new(root().join("tests/fetch-qemu")).output().map_err(|error| error.to_string())?;
    let qemu = String::from_utf8_lossy(&qemu.stdout).trim().to_owned();
    let folder = TempDir::new().map_err(|error| error.to_string())?;
    let emulate = |program: &Path| {
        let script = folder.path().join(program.file_name().expect("a program has a name"));
        let text = format!(
            "#!/bin/sh\nexec '{qemu}' -cpu {PROCESSOR} -B {:#x} -R {:#x} -L /usr/aarch64-linux-gnu '{}' \"$@\"\n",
            GUEST.0,
            GUEST.1,
            program.display()
        );
        fs::write(&script, text).expect("a temporary folder can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
            .expect("an own file's mode can be set");
        script
    };
    let backbone = guest_backbone(&emulate(&load), &library)?;

    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 1, SAMPLES[1])], AggregatorOptions::default());
    let options = AgentOptions { program: Some(emulate(&agent)), library, ..AgentOptions::default() };
    let mut agent = site.agent("g1", options);
    let client = site.client(&["gw/g1/out/#"]);
    ask(&mut agent, &client, SAMPLES[1]);
    teach(&mut agent, &client, SAMPLES[1]);
    let rest = guest_resident(agent.process.pid().as_raw_nonzero().get());
    agent.process.stop();
    aggregator.process.stop();
    Ok(rest - backbone)
}

/// By how much loading the backbone raises the guest's memory: `load` stops before and after it.
fn guest_backbone(load: &Path, library: &Path) -> Result<f64, String> {
    let mut command = Command::new(load);
    command.arg(bundle()).env("ORT_DYLIB_PATH", library).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", load.display()))?;
    let (mut stdin, stdout) =
        (child.stdin.take().expect("it was piped"), child.stdout.take().expect("it was piped"));
    let mut lines = BufReader::new(stdout).lines();
    let mut at = |line: &str| match lines.next() {
        Some(Ok(said)) if said == line => Ok(guest_resident(child.id() as i32)),
        other => Err(format!("{} said {other:?} instead of {line:?}", load.display())),
    };
    let before = at("before")?;
    stdin.write_all(b"\n").map_err(|error| error.to_string())?;
    let after = at("after")?;
    drop(stdin);
    child.wait().map_err(|error| error.to_string())?;
    Ok(after - before)
}

/// Resident bytes within the guest's range of addresses.
fn guest_resident(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the emulator runs");
    let (mut inside, mut kilobytes) = (false, 0.0);
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((from, _)) = first.split_once('-')
            && let Ok(from) = u64::from_str_radix(from, 16)
        {
            inside = (GUEST.0..GUEST.0 + GUEST.1).contains(&from);
        } else if inside && first == "Rss:" {
            kilobytes +=
                line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        }
    }
    kilobytes * 1024.0
}

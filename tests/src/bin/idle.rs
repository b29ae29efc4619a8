//! What an idle gateway costs on its uplink and on its disk: one agent that has learned and rests, measured on the socket
//! and by the kernel's account of what it wrote.
//!
//! Bytes are the kernel's own (`ss`): what TCP carried both ways, and the segments, each with 20 bytes of IPv4 and 32 of
//! TCP (12 of them for the timestamps option that Linux uses). Ethernet, Wi-Fi or PPP add theirs and are not counted. The
//! agent's report is rarer than a measurement is long; its size is that of `figures.json`, which is the same, and its
//! number per day is the agent's. The agent's own counters must agree with the kernel's.
//!
//! What wears an SD card is `write_bytes` of `/proc/<pid>/io`: pages made dirty on a file system with a device below it.
//! The agent runs as by hand; as a service its figures are in memory, and it writes less. What the file system and the
//! card's own controller add is not counted.
//!
//! Environment: `MINUTES` (20; a whole number of ping intervals, so that no ping counts more than it should), `OUT` (target/bench/idle.json). Ends with 1 when the bar is missed.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use loadonce_tests::broker::Broker;
use loadonce_tests::data;
use loadonce_tests::programs::system;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, topic_of};
use serde_json::{Value, json};

/// Most bytes a day.
const MOST: f64 = 50e3;
/// Most bytes a day that go to the disk.
const MOST_WRITTEN: f64 = 20e6;
/// IPv4 header and TCP header with timestamps.
const HEADERS: u64 = 20 + 32;
/// Samples the agent learns before it rests.
const SAMPLES: usize = 60;
const GATEWAY: &str = "idle";

/// What one socket carried, from the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Carried {
    payload: u64,
    segments: u64,
}

impl Carried {
    fn wire(self) -> u64 {
        self.payload + self.segments * HEADERS
    }
}

fn main() -> ExitCode {
    let minutes: u64 = env::var("MINUTES").map_or(20, |text| text.parse().expect("MINUTES is a number"));
    let interval = loadonce_agent::UPLINK_KEEP_ALIVE.as_secs() / 60;
    assert!(minutes > 0 && minutes.is_multiple_of(interval), "MINUTES is a multiple of {interval}");
    let out = PathBuf::from(env::var("OUT").unwrap_or_else(|_| "target/bench/idle.json".to_owned()));
    let site = Site::new();
    // The data plane has a broker of its own, so that the uplink's socket is alone on its port.
    let plant_folder = site.folder().join("plant");
    fs::create_dir_all(&plant_folder).expect("a temporary folder can be written");
    let plant = Broker::start(&plant_folder);
    let mut aggregator = site.aggregator(&[digits(1, 1, SAMPLES)], AggregatorOptions::default());
    let uplink = site.client(&[&format!("gw/{GATEWAY}/report")]);
    let options = AgentOptions { data: Some(plant.url()), ..AgentOptions::default() };
    let mut agent = site.agent(GATEWAY, options);
    agent.log().wait(0, &["data plane connected"]);
    agent.wait("the task is served", |f| f["tasks"]["digits"].is_object());
    let client = loadonce_tests::client::Client::connect(plant.port, "teacher", &[]);
    for (i, sample) in data::digits().train.iter().take(SAMPLES).enumerate() {
        client.publish(&topic_of(&format!("gw/{GATEWAY}/in/digits/s{i}")), sample.payload.clone());
        client.publish(&topic_of(&format!("gw/{GATEWAY}/label/digits/s{i}")), sample.label.as_str());
    }
    agent.wait_at_rest("digits", 2);
    let report = fs::metadata(agent.state.join("figures.json")).expect("the agent writes its figures").len();
    let mark = uplink.mark();
    let before = (carried(&agent, site.broker.port), own(&agent));
    let written = written(&agent);
    let begun = Instant::now();
    let time = Duration::from_mins(minutes);
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_secs(1).min(time.saturating_sub(begun.elapsed())));
        assert!(agent.process.ended().is_none() && aggregator.process.ended().is_none(), "a program ended");
    }
    let (after, counted) = (carried(&agent, site.broker.port), own(&agent));
    let seconds = begun.elapsed().as_secs_f64();
    let written = self::written(&agent) - written;
    let reports = uplink.since(mark).iter().filter(|message| message.topic.ends_with("/report")).count();
    let figures = agent.figures();
    assert_eq!(figures["uplink"]["connects"], 1, "the agent reconnected, this is no idle line: {figures}");
    agent.process.stop();
    aggregator.process.stop();

    let kernel = after.payload - before.0.payload;
    let day = 86_400.0 / seconds;
    let idle = (after.wire() - before.0.wire()) as f64 * day;
    // A report and its confirmation by TCP.
    let report_wire = (report + 60 + 2 * HEADERS) as f64;
    let reports_day = 86_400.0 / loadonce_agent::REPORT_EVERY.as_secs_f64();
    let total = idle + report_wire * reports_day;
    let written_day = written as f64 * day;
    let on_disk = !in_memory(&agent.state);
    let held = total <= MOST && reports == 0 && on_disk && written_day <= MOST_WRITTEN;
    println!(
        "{seconds:.0} s at rest: {kernel} bytes of MQTT in {} segments",
        after.segments - before.0.segments
    );
    println!(
        "{:.1} KB a day of keep-alive, {reports_day:.0} reports of {:.1} KB, together {:.1} KB a day of {:.0}",
        idle / 1e3,
        report_wire / 1e3,
        total / 1e3,
        MOST / 1e3
    );
    println!(
        "{written} bytes to the disk, {:.2} MB a day of {:.0}{}",
        written_day / 1e6,
        MOST_WRITTEN / 1e6,
        if on_disk { "" } else { "; but the state folder is in memory, so this says nothing: set TMPDIR" }
    );
    let agree = counted - before.1;
    println!("the agent counted {agree} bytes; the bar is {}", if held { "held" } else { "MISSED" });
    let json = json!({
        "seconds": seconds,
        "mqtt_bytes": kernel,
        "agent_counted_bytes": agree,
        "segments": after.segments - before.0.segments,
        "wire_bytes": after.wire() - before.0.wire(),
        "keep_alive_bytes_per_day": idle,
        "report_bytes": report,
        "reports_per_day": reports_day,
        "bytes_per_day": total,
        "written_bytes": written,
        "written_bytes_per_day": written_day,
        "state_on_disk": on_disk,
        "counted": "MQTT, TCP and IPv4 headers of both directions; no link layer",
        "held": held && agree == kernel,
    });
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).expect("the folder of the figures can be made");
    }
    fs::write(&out, serde_json::to_vec_pretty(&json).expect("numbers are JSON"))
        .expect("figures can be written");
    println!("written to {}", out.display());
    ExitCode::from(u8::from(json["held"] != true))
}

/// Bytes that the agent made the kernel write to a disk, since its start.
fn written(agent: &Program) -> u64 {
    let path = format!("/proc/{}/io", agent.process.pid().as_raw_nonzero());
    let text = fs::read_to_string(path).expect("the kernel counts what its processes write");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).expect("write_bytes is a number")
}

/// Whether `folder` lies on a file system without a device.
fn in_memory(folder: &std::path::Path) -> bool {
    /// Of tmpfs and ramfs, statfs(2).
    const MAGIC: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    let found = rustix::fs::statfs(folder).expect("the state folder is there");
    MAGIC.contains(&(found.f_type as i64))
}

/// Bytes the agent counted on its uplink, both ways.
fn own(agent: &Program) -> u64 {
    let figures: Value = agent.figures();
    ["bytes_up", "bytes_down"].iter().map(|key| figures["uplink"][key].as_u64().expect("a count")).sum()
}

/// What the kernel says of the agent's connection to `port`.
fn carried(agent: &Program, port: u16) -> Carried {
    let output = Command::new(system("ss", "iproute2"))
        .args(["-tinpH", "state", "established", &format!("( dport = :{port} )")])
        .output()
        .expect("ss runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let pid = format!("pid={},", agent.process.pid().as_raw_nonzero());
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains(&pid)).expect("the agent's uplink is connected");
    let about = lines[at..].iter().take(2).copied().collect::<Vec<_>>().join(" ");
    let field = |name: &str| -> u64 {
        let found = about.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
        found.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    // The first SYN counts as a byte acknowledged.
    Carried {
        payload: field("bytes_acked") + field("bytes_received"),
        segments: field("segs_out") + field("segs_in"),
    }
}

//! A gateway behind a bad line: its sums go up, a version comes down, its step goes up, the next version comes
//! down; and meanwhile the plant asks questions on the data plane, which does not use the line.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::data;
use crate::line::{Crossed, Line, Quality};
use crate::site::{AgentOptions, AggregatorOptions, Site, Task, digits, topic_of};
use crate::wait::within;

/// The line of the issue: 64 kbit/s, 5 % of segments lost, 800 ms each way. The seed is one that loses some of the
/// first ten segments in both directions, so that even a short trip meets a loss.
pub const BAD: Quality =
    Quality { bits_per_s: 64_000, delay: Duration::from_millis(800), lost_per_mille: 50, seed: 13 };

const GATEWAY: &str = "g1";
/// Longest the two versions may take.
const LIMIT: Duration = Duration::from_mins(8);
/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Classes of [`large`], of which the samples have ten: they make a ladder of 40,106 parameters.
const CLASSES: usize = 78;

/// A task of one gateway whose module has about 40,000 parameters.
pub fn large(labels: usize) -> Task {
    static HEAD: LazyLock<String> = LazyLock::new(|| {
        let classes: Vec<String> = (0..CLASSES).map(|class| format!("\"{class}\"")).collect();
        format!(
            "name = \"digits\"\nkind = \"classify\"\nbackbone = \"sense-tiny\"\nclasses = [{}]\n\
             input = {{ modality = \"picture\" }}\nmodule = {{ kind = \"ladder\", rank = 64, features = 128 }}",
            classes.join(", ")
        )
    });
    Task { head: &HEAD, ..digits(1, 1, labels) }
}

/// What a run gave.
#[derive(Debug)]
pub struct Trip {
    /// Seconds from the labels to the last version in its slot.
    pub seconds: f64,
    /// Bytes on the agent's uplink as it counts them, up and down.
    pub uplink: (u64, u64),
    /// What crossed the line, where there was one.
    pub crossed: Option<Crossed>,
    /// Connections of the uplink.
    pub connects: u64,
    /// Bytes of the newest module file.
    pub module_bytes: u64,
    /// Milliseconds from a question to its answer, ascending.
    pub latencies: Vec<f64>,
}

impl Trip {
    /// The latency that a share `q` of the questions did not exceed.
    pub fn quantile(&self, q: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * q) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// For a report.
    pub fn figures(&self) -> Value {
        let crossed = self.crossed;
        json!({
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "uplink_bytes_up": self.uplink.0,
            "uplink_bytes_down": self.uplink.1,
            "segments_lost": crossed.map(|crossed| crossed.lost),
            "connects": self.connects,
            "module_bytes": self.module_bytes,
            "questions": self.latencies.len(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "max_ms": self.latencies.last(),
        })
    }
}

/// Takes a gateway through `task` (of one gateway, with one gradient round) behind a line of this quality, or
/// beside the broker where there is none, and goes on asking until there were so many `questions`. Panics where
/// something does not arrive.
pub fn travel(task: &Task, labels: usize, quality: Option<Quality>, questions: usize) -> Trip {
    journey(task, labels, quality, questions, 0)
}

/// The same, and the line breaks at byte `cut_at` of what goes up.
pub fn travel_with_cut(task: &Task, labels: usize, quality: Quality, cut_at: u64) -> Trip {
    journey(task, labels, Some(quality), 0, cut_at)
}

fn journey(task: &Task, labels: usize, quality: Option<Quality>, questions: usize, cut_at: u64) -> Trip {
    let site = Site::new();
    let line = quality.map(|quality| Line::to(site.broker.port, quality));
    if let Some(line) = &line {
        line.cut_at(cut_at);
    }
    let mut aggregator = site.aggregator(std::slice::from_ref(task), AggregatorOptions::default());
    let options = AgentOptions {
        broker: line.as_ref().map(Line::url),
        data: Some(site.broker.url()),
        ..AgentOptions::default()
    };
    let mut agent = site.agent(GATEWAY, options);
    let client = site.client(&["gw/+/out/#"]);
    agent.wait("the task is served", |figures| figures["tasks"]["digits"].is_object());
    agent.log().wait(0, &["data plane connected"]);
    let samples = data::digits();
    for (i, sample) in samples.train.iter().take(labels).enumerate() {
        client.publish(&topic_of(&format!("gw/{GATEWAY}/in/digits/s{i}")), sample.payload.clone());
    }
    // Questions are not to wait behind the samples.
    agent.wait("all samples are stored", |figures| figures["tasks"]["digits"]["samples"] == labels);
    for (i, sample) in samples.train.iter().take(labels).enumerate() {
        client.publish(&topic_of(&format!("gw/{GATEWAY}/label/digits/s{i}")), sample.label.as_str());
    }
    let start = Instant::now();
    let last = task.steps + 1;
    let (mut latencies, mut asked, mut seconds) = (Vec::new(), 0, None);
    let arrived = within(LIMIT, &format!("version {last} at the gateway"), || {
        assert!(!agent.process.has_ended(), "the agent ended");
        // One question at a time, so that none waits for another.
        let (mark, begun) = (client.mark(), Instant::now());
        let sample = &samples.test[asked % samples.test.len()];
        client.publish(&topic_of(&format!("gw/{GATEWAY}/in/digits/q{asked}")), sample.payload.clone());
        client.wait(mark, &format!("/out/digits/q{asked}"), |_| true);
        latencies.push(begun.elapsed().as_secs_f64() * 1e3);
        asked += 1;
        std::thread::sleep(ASK_EVERY);
        if agent.task("digits")["version"] == last {
            seconds.get_or_insert_with(|| start.elapsed().as_secs_f64());
        }
        seconds.filter(|_| asked >= questions)
    });
    let seconds = arrived.unwrap_or_else(|late| panic!("{late}: {}", agent.figures()));
    // Nothing is asked any more, so it comes to rest.
    agent.wait_at_rest("digits", last);
    latencies.sort_by(f64::total_cmp);
    let figures = agent.figures();
    let count = |key: &str| figures["uplink"][key].as_u64().unwrap_or_default();
    // What is in the slot is what the aggregator made; its figures follow within seconds.
    let hash = agent.task("digits")["hash"].clone();
    aggregator.wait("its figures tell of the version", |figures| {
        let tasks = figures["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().any(|task| task["name"] == "digits" && task["hash"] == hash)
    });
    let line_of = aggregator.task("digits");
    let trip = Trip {
        seconds,
        uplink: (count("bytes_up"), count("bytes_down")),
        crossed: line.as_ref().map(Line::crossed),
        connects: count("connects"),
        module_bytes: line_of["bytes"].as_u64().unwrap_or_default(),
        latencies,
    };
    agent.process.stop();
    aggregator.process.stop();
    trip
}

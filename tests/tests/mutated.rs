//! Invariant 10 at length: ten thousand damaged frames against a live aggregator and a live agent, through a real
//! broker. `LOADONCE_FRAMES` and `LOADONCE_SEED` bring more of them, and others.

use std::collections::HashSet;
use std::fs;

use loadonce_tests::client::Client;
use loadonce_tests::data::{self, Sample};
use loadonce_tests::fuzz::{Mutator, make_crc_true};
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, topic_of};
use loadonce_wire::limits::MAX_FRAME;
use serde_json::Value;

const GATEWAY: &str = "g1";
const LABELS: usize = 12;
/// Frames before memory is first looked at: queues and caches have their size then.
const WARM_UP: usize = 1500;
/// How much more memory a program may hold afterwards. Its queues are bounded by bytes and stay as large as they
/// once were; what grew with the number of frames would be above this.
const MEMORY_KB: u64 = 8 * 1024;
/// Messages between two looks at whether the broker has taken them.
const BURST: usize = 500;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("the variable must be a number"))
}

/// `VmRSS` of a running program, KiB.
fn resident_kb(program: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.process.pid().as_raw_nonzero()));
    let status = status.expect("the program runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kb| kb.parse().ok());
    number.expect("the kernel tells it")
}

fn teach(client: &Client, from: usize, samples: &[Sample]) {
    for (i, sample) in samples.iter().enumerate() {
        let id = from + i;
        client.publish(&topic_of(&format!("gw/{GATEWAY}/in/digits/s{id}")), sample.payload.clone());
        client.publish(&topic_of(&format!("gw/{GATEWAY}/label/digits/s{id}")), sample.label.as_str());
    }
}

/// What no damaged frame may change.
#[derive(Debug, PartialEq)]
struct Standing {
    aggregator: Vec<Value>,
    agent: Vec<Value>,
}

fn standing(aggregator: &Program, agent: &Program) -> Standing {
    let (fleet, gateway) = (aggregator.figures(), agent.figures());
    let line = &fleet["tasks"][0];
    let of = |value: &Value, keys: &[&str]| keys.iter().map(|key| value[key].clone()).collect::<Vec<_>>();
    let task = &gateway["tasks"]["digits"];
    Standing {
        aggregator: [
            of(line, &["version", "hash", "serial", "samples", "wants", "round_contributions"]),
            of(&fleet["contributions"], &["sums", "steps"]),
            of(&fleet["link"], &["connects", "connected"]),
        ]
        .concat(),
        agent: [
            of(task, &["version", "hash", "wants", "labels", "unsummed", "sums_sent", "steps_sent"]),
            of(&gateway["outbox"], &["entries", "dropped_steps", "requeued"]),
            vec![gateway["uplink"]["connects"].clone(), gateway["data"]["connects"].clone()],
        ]
        .concat(),
    }
}

/// Damages what was captured and sends it where it may hurt.
struct Sender<'a> {
    client: &'a Client,
    /// Topic and payload as they crossed the broker.
    captured: Vec<(String, Vec<u8>)>,
    /// The binary frames among them: most of what is sent is made of these.
    frames: Vec<(String, Vec<u8>)>,
    known: HashSet<Vec<u8>>,
    random: Mutator,
    sent: usize,
}

impl Sender<'_> {
    fn send(&mut self, count: usize) {
        // Mostly where it belongs, or where the other kind belongs, or another gateway's, or nobody's.
        let topics = [
            "gw/g1/up",
            "gw/g1/down",
            "gw/g2/up",
            "gw/g1/report",
            "task/digits",
            "task/other",
            "gw/g1/state",
        ];
        let end = self.sent + count;
        while self.sent < end {
            let (topic, payload) = match self.random.below(3) {
                0 => self.random.pick(&self.captured).clone(),
                _ => self.random.pick(&self.frames).clone(),
            };
            let other = self.random.pick(&self.captured).1.clone();
            let mut damaged = self.random.mutate(&payload, &other, MAX_FRAME);
            match self.random.below(100) {
                // Larger than anything allowed: the link takes these out.
                0 => damaged.resize(70_000 + self.random.below(100_000), 0x5a),
                // As long as a frame may be, its size field at its largest.
                1 => damaged.resize(MAX_FRAME, 0xff),
                _ => {}
            }
            if self.random.below(2) == 0 {
                make_crc_true(&mut damaged);
            }
            if self.known.contains(&damaged) {
                continue;
            }
            let topic = if self.random.below(3) == 0 {
                topic_of(topics[self.random.below(topics.len())])
            } else {
                topic
            };
            self.client.publish(&topic, damaged);
            self.sent += 1;
            if self.sent.is_multiple_of(BURST) {
                self.client.settle();
            }
        }
        self.client.settle();
    }

    /// Waits until both have worked off everything: each gets a last message whose effect can be seen.
    fn worked_off(&self, aggregator: &mut Program, agent: &mut Program, mark: u64) {
        let report = format!("{{\"uptime_s\":{mark}}}");
        self.client.publish(&topic_of(&format!("gw/{GATEWAY}/report")), report);
        aggregator.wait("the last report came", |figures| {
            let gateways = figures["gateways"].as_array().map(Vec::as_slice).unwrap_or_default();
            gateways
                .iter()
                .any(|gateway| gateway["name"] == GATEWAY && gateway["vitals"]["uptime_s"] == mark as f64)
        });
        let heard = self.client.mark();
        self.client
            .publish(&topic_of(&format!("gw/{GATEWAY}/state")), &br#"{"state":"down","incarnation":0}"#[..]);
        self.client.wait(heard, "/state", |m| m.json()["state"] == "up" && m.json()["incarnation"] == 1);
        let told = agent.figures()["uptime_s"].as_f64();
        // Figures are written when something happened: here one refusal more.
        self.client.publish(&topic_of(&format!("gw/{GATEWAY}/down")), &b"no frame"[..]);
        agent.wait("its figures are new", |figures| figures["uptime_s"].as_f64() > told);
    }
}

#[test]
fn invariant_10_ten_thousand_mutated_frames_change_nothing() {
    let (count, seed) = (number("LOADONCE_FRAMES", 10_000) as usize, number("LOADONCE_SEED", 1));
    let site = Site::new();
    let client = site.client(&["gw/+/up", "gw/+/down", "gw/+/state", "task/#"]);
    let mut aggregator = site.aggregator(&[digits(1, 2, LABELS)], AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    agent.wait("digits is served", |figures| figures["tasks"]["digits"].is_object());
    agent.log().wait(0, &["data plane connected"]);
    teach(&client, 0, &data::digits().train[..LABELS]);
    agent.wait_at_rest("digits", 3);
    // Its figures are written every other second.
    aggregator.wait("it tells the newest version", |f| {
        f["tasks"][0]["version"] == 3 && f["link"]["connected"] == true
    });
    let captured: Vec<_> =
        client.since(0).into_iter().map(|message| (message.topic, message.payload)).collect();
    let (up, down) = (topic_of("gw/g1/up"), topic_of("gw/g1/down"));
    let from = |topic: &str| captured.iter().filter(|(t, _)| t == topic).count();
    assert!(from(&up) >= 6 && from(&down) >= 6, "chunks, requests, acks and blocks were captured");

    let frames = captured.iter().filter(|(t, _)| *t == up || *t == down).cloned().collect();
    let known = captured.iter().map(|(_, payload)| payload.clone()).collect();
    let quiet = Client::connect(site.broker.port, "sender", &[topic_of("gw/+/state")]);
    let mut sender = Sender { client: &quiet, captured, frames, known, random: Mutator::new(seed), sent: 0 };
    let before = standing(&aggregator, &agent);
    sender.send(WARM_UP);
    sender.worked_off(&mut aggregator, &mut agent, 1);
    let memory = [resident_kb(&aggregator), resident_kb(&agent)];
    sender.send(count);
    sender.worked_off(&mut aggregator, &mut agent, 2);
    let after = [resident_kb(&aggregator), resident_kb(&agent)];
    let (refused, ignored) = (agent.figures(), aggregator.figures());
    assert!(counted(&refused["refusals"]) > 0 && counted(&ignored["ignored"]) > 0, "{refused} {ignored}");
    assert_eq!(standing(&aggregator, &agent), before, "seed {seed}");
    for (name, (before, after)) in ["aggregator", "agent"].into_iter().zip(memory.into_iter().zip(after)) {
        println!("{name}: {before} KiB before, {after} KiB after {count} frames (seed {seed})");
        assert!(after <= before + MEMORY_KB, "{name}: {before} KiB became {after} KiB");
    }
    println!("agent refused {}", refused["refusals"]);
    println!("aggregator ignored {}, contributions {}", ignored["ignored"], ignored["contributions"]);

    // Both work on, over the connections they began with.
    teach(&client, LABELS, &data::digits().train[LABELS..LABELS + 8]);
    let samples = before.aggregator[3].as_i64().expect("a count of samples");
    aggregator.wait("new labels arrive in the totals", |f| f["tasks"][0]["samples"].as_i64() > Some(samples));
    for (program, links) in [(&agent, &["uplink", "data"][..]), (&aggregator, &["link"])] {
        for link in links {
            assert_eq!(program.figures()[link]["connects"], 1, "{} reconnected", program.name);
        }
        assert!(!program.log().text().contains("panicked"), "{}", program.log().tail());
    }
    agent.process.stop();
    aggregator.process.stop();
}

/// Everything a table of counters holds.
fn counted(table: &Value) -> u64 {
    table.as_object().map_or(0, |table| table.values().filter_map(Value::as_u64).sum())
}

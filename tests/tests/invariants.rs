//! Invariants that need whole processes and a real broker. Those that a crate can show by itself are tested there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use loadonce_control::{MANIFEST_DOMAIN, POINTER_DOMAIN, Pointer, Signed, Stable, TaskManifest, Wants};
use loadonce_module::{Dtype, ModuleFile, Role};
use loadonce_tests::client::{Client, Message};
use loadonce_tests::data;
use loadonce_tests::programs::{bundle, system};
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, motion, topic_of};
use loadonce_trust::{Identity, encode_hex, hash};
use loadonce_wire::chunks::CHUNK;
use loadonce_wire::frame::HEADER;
use loadonce_wire::manifest::MAX_MANIFEST;
use loadonce_wire::{Ack, BlockRequest, Frame, Kind, Manifest, Reason, Status, Whole, ack};
use serde_json::Value;

const GATEWAY: &str = "g1";
/// Larger than anything either side takes.
const HUGE: usize = 20_000_000;

fn own(rest: &str) -> String {
    topic_of(&format!("gw/{GATEWAY}/{rest}"))
}

/// Waits until the agent serves `task` and receives samples.
fn ready(agent: &mut Program, task: &str) {
    let served = task.to_owned();
    agent.wait(&format!("{task} is served"), move |f| f["tasks"][&served].is_object());
    agent.log().wait(0, &["data plane connected"]);
}

/// Asks a question and gives the answer.
fn ask(client: &Client, task: &str, id: &str, payload: &[u8]) -> Value {
    let mark = client.mark();
    client.publish(&own(&format!("in/{task}/{id}")), payload);
    client.wait(mark, &format!("{GATEWAY}/out/{task}/{id}"), |_| true).json()
}

/// Gives `n` labelled samples of `task`.
fn teach(client: &Client, task: &str, samples: &[data::Sample]) {
    for (i, sample) in samples.iter().enumerate() {
        client.publish(&own(&format!("in/{task}/t{i}")), sample.payload.clone());
    }
    for (i, sample) in samples.iter().enumerate() {
        client.publish(&own(&format!("label/{task}/t{i}")), sample.label.as_str());
    }
}

fn counted(figures: &Value, part: &str, code: &str) -> u64 {
    figures[part][code].as_u64().unwrap_or_default()
}

#[test]
fn invariant_10_bad_messages_are_refused_counted_and_survived() {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 2)], AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&["gw/+/out/#"]);
    ready(&mut agent, "digits");
    let pids = (agent.process.pid(), aggregator.process.pid());

    // The stock client sends the huge ones, as a careless script would.
    let huge = site.folder().join("huge");
    fs::write(&huge, vec![b'x'; HUGE]).expect("a temporary folder can be written");
    for rest in ["in/digits/huge", "down", "up"] {
        let sent = Command::new(system("mosquitto_pub", "mosquitto-clients"))
            .args(["-h", "127.0.0.1", "-p", &site.broker.port.to_string(), "-q", "1", "-t", &own(rest), "-f"])
            .arg(&huge)
            .status()
            .expect("mosquitto_pub starts");
        assert!(sent.success(), "mosquitto_pub on {rest}: {sent}");
    }
    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut frame = b"LDO1\x01\x01".to_vec();
    frame.extend(&noise[..100]);
    for payload in [&b""[..], b"{", b"LDO1", &frame, &noise] {
        for rest in [
            "down",
            "up",
            "state",
            "report",
            "in/digits/noise",
            "label/digits/noise",
            "in/nothing/x",
            "label/nothing/x",
        ] {
            client.publish(&own(rest), payload);
        }
        for rest in ["task/digits", "task/nothing", "gw/stranger/up", "gw/stranger/state"] {
            client.publish(&topic_of(rest), payload);
        }
    }
    client.settle();
    let figures = agent.wait("every bad message was counted", |f| {
        counted(f, "refusals", "too_large") >= 2
            && counted(f, "refusals", "bad_frame") >= 5
            && counted(f, "refusals", "bad_manifest") >= 4
            && counted(f, "refusals", "unknown_task") >= 6
            && counted(f, "refusals", "bad_label") >= 1
            && counted(f, "refusals", "bad_state") >= 4
    });
    assert_eq!((&figures["uplink"]["oversized"], &figures["data"]["oversized"]), (&1.into(), &1.into()));
    let judged = aggregator.wait("every bad message was counted", |f| {
        counted(f, "ignored", "oversized") >= 1
            && counted(f, "ignored", "malformed_frame") >= 10
            && counted(f, "ignored", "presence") >= 4
            && counted(f, "ignored", "report") >= 1
    });
    assert_eq!(judged["link"]["oversized"], 1, "{judged}");

    // Both go on, over the connections they began with.
    let sample = &data::digits().test[0];
    assert_eq!(ask(&client, "digits", "good", &sample.payload)["exit"], 3);
    let figures = agent.wait("the good sample was answered", |f| f["tasks"]["digits"]["predictions"] == 1);
    for link in ["uplink", "data"] {
        assert_eq!(figures[link]["connects"], 1, "{link} reconnected: {figures}");
    }
    assert_eq!(aggregator.figures()["link"]["connects"], 1, "the aggregator reconnected");
    assert_eq!(pids, (agent.process.pid(), aggregator.process.pid()));
    agent.process.stop();
    aggregator.process.stop();
    for log in [agent.log(), aggregator.log()] {
        assert!(!log.text().contains("panicked"), "{}", log.text());
    }
}

#[test]
fn invariant_11_every_reconnect_resubscribes_and_announces_birth() {
    let mut site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 2)], AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&["gw/+/out/#", "gw/+/state"]);
    ready(&mut agent, "digits");
    client.wait(0, "/state", |m| m.json()["state"] == "up");
    let sample = &data::digits().test[0];
    ask(&client, "digits", "before", &sample.payload);

    for lost in 1..=2 {
        let (mark, confirmed) = (client.mark(), client.confirmed());
        site.broker.kill();
        // The agent sees it before the broker is back, so nothing here depends on who is faster.
        agent.log().wait(0, &["uplink is down"]);
        site.broker.restart();
        loadonce_tests::wait::until("new subscriptions of the test's client", || {
            (client.confirmed() >= confirmed + 2).then_some(())
        });
        let birth = client.wait(mark, "/state", |m| m.json()["state"] == "up").json();
        assert_eq!(birth["incarnation"], 1, "the process is the same: {birth}");
        agent.wait("both links are back", |f| {
            f["uplink"]["connects"] == lost + 1 && f["data"]["connects"] == lost + 1
        });
        let answer = ask(&client, "digits", &format!("after-{lost}"), &sample.payload);
        assert_eq!(answer["exit"], 3, "{answer}");
    }
    // What arrives after reconnecting works to the end: labels become a version.
    teach(&client, "digits", &data::digits().train[..10]);
    agent.wait_at_rest("digits", 1);
    agent.process.stop();
    aggregator.process.stop();
}

#[test]
fn invariant_12_an_older_will_cannot_mark_a_live_gateway_down() {
    let site = Site::new();
    let mut aggregator = site.aggregator(&[digits(1, 0, 2)], AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    ready(&mut agent, "digits");
    let watcher = site.client(&["gw/+/state"]);
    let is_up = |f: &Value, incarnation: u64| {
        let gateways = f["gateways"].as_array().map(Vec::as_slice).unwrap_or_default();
        gateways.iter().any(|g| g["name"] == GATEWAY && g["up"] == true && g["incarnation"] == incarnation)
    };
    aggregator.wait("the gateway is up", |f| is_up(f, 1));
    agent.process.kill();
    watcher.wait(0, "/state", |m| m.json()["state"] == "down" && m.json()["incarnation"] == 1);
    agent.restart();
    aggregator.wait("its second incarnation is up", |f| is_up(f, 2));

    // A broker may publish the first one's will only now, and retains it.
    let mark = watcher.mark();
    watcher.retain(&own("state"), br#"{"state":"down","incarnation":1}"#.to_vec());
    watcher.wait(mark, "/state", |m| m.json()["state"] == "up" && m.json()["incarnation"] == 2);
    let figures = aggregator.wait("the stale will was counted", |f| counted(f, "ignored", "stale_will") == 1);
    assert!(is_up(&figures, 2), "{figures}");
    // Whoever comes later is told the truth.
    let late = Client::connect(site.broker.port, "late", &[own("state")]);
    let kept = late.wait(0, "/state", |m| m.retain).json();
    assert_eq!((&kept["state"], &kept["incarnation"]), (&"up".into(), &2.into()));
    agent.process.stop();
    aggregator.process.stop();
}

/// An aggregator whose every word is the test's.
struct Impostor<'a> {
    client: &'a Client,
    identity: Identity,
    task: TaskManifest,
    fingerprint: String,
}

impl Impostor<'_> {
    /// A module file of `version` that fits the task, with parameters of its own.
    fn module(&self, version: u64) -> Vec<u8> {
        let shape = self.task.shape(3, 128).expect("the task fits the backbone");
        let params = shape.initial(version).iter().map(|p| half(*p)).collect();
        let file = ModuleFile {
            task: self.task.name.clone(),
            shape,
            classes: self.task.classes.clone(),
            backbone: self.fingerprint.clone(),
            version,
            base: String::new(),
            role: Role::Shared,
            offset: Vec::new(),
            params,
        };
        file.encode(Dtype::F16).expect("a valid module")
    }

    fn say<T: serde::Serialize>(&self, identity: &Identity, domain: &[u8], topic: &str, message: &T) {
        let sealed = Signed::seal(identity, domain, message).expect("a small message");
        self.client.retain(&topic_of(topic), sealed.to_json());
    }

    /// A pointer to `module`, signed by `identity`.
    fn point(&self, identity: &Identity, serial: u64, version: u64, module: &[u8]) {
        let shape = self.task.shape(3, 128).expect("the task fits the backbone");
        let features_of = self.task.features_of(&self.fingerprint, 128);
        let pointer = Pointer {
            site: "plant".to_owned(),
            task: self.task.name.clone(),
            backbone: self.fingerprint.clone(),
            shape: encode_hex(&shape.fingerprint(&self.task.classes, &features_of)),
            serial,
            wants: Wants::Sum,
            stable: Some(Stable {
                version,
                hash: encode_hex(&hash(module)),
                bytes: module.len() as u32,
                base: String::new(),
                patch: None,
            }),
        };
        let topic = format!("task/digits/module/{}", &self.fingerprint[..16]);
        self.say(identity, POINTER_DOMAIN, &topic, &pointer);
    }

    /// Waits for a frame of `kind` from the gateway.
    fn hear(&self, mark: usize, kind: Kind) -> Message {
        self.client
            .wait(mark, &own("up"), |m| Frame::decode(&m.payload).is_ok_and(|frame| frame.kind == kind))
    }

    fn tell(&self, frame: &Frame<'_>) {
        let mut out = vec![0; HEADER + frame.payload.len()];
        frame.encode(&mut out).expect("the buffer is as long as the frame");
        self.client.publish(&own("down"), out);
    }

    /// Answers the next block request with `bytes`, whatever was asked for.
    fn serve(&self, mark: usize, bytes: &[u8]) {
        let asked = self.hear(mark, Kind::BlockRequest);
        let asked = Frame::decode(&asked.payload).expect("it was decoded before");
        let request = BlockRequest::decode(asked.payload).expect("a block request");
        assert_eq!((request.offset, request.length as usize), (0, bytes.len()));
        for (index, payload) in bytes.chunks(CHUNK).enumerate() {
            self.tell(&Frame {
                kind: Kind::Block,
                index: index as u16,
                transfer: asked.transfer,
                total: bytes.len() as u32,
                payload,
            });
        }
    }

    /// Acknowledges a contribution of `blob_hash`, signed by `identity`.
    fn acknowledge(&self, identity: &Identity, manifest: &Manifest, blob_hash: [u8; 32]) {
        let Manifest { key, epoch, sequence, .. } = *manifest;
        let (status, reason) = (Status::Accepted, Reason::None);
        let mut answer = Ack { epoch, sequence, status, reason, wait_s: 0, signature: [0; 64] };
        answer.signature = identity.sign(ack::DOMAIN, &answer.signed(&key, &blob_hash));
        self.tell(&Frame {
            kind: Kind::Ack,
            index: 0,
            transfer: [0; 8],
            total: 0,
            payload: &answer.encode(),
        });
    }
}

/// A number that f16 holds: of 10 bits after the binary point.
fn half(x: f32) -> f32 {
    (x.clamp(-0.5, 0.5) * 1024.0).round() / 1024.0
}

#[test]
fn invariant_05_nothing_is_swapped_or_deleted_before_signature_and_hash_were_checked() {
    let site = Site::new();
    let client = site.client(&["gw/+/up"]);
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let figures = agent.wait("it runs", Value::is_object);
    let fingerprint =
        figures["backbones"][0]["fingerprint"].as_str().expect("the figures name the backbone").to_owned();
    let task = TaskManifest::from_toml(&digits(1, 0, 10).toml()).expect("a valid manifest");
    let identity = || Identity::from_seed(&[1; 32]);
    let (mine, other) = (identity(), Identity::from_seed(&[2; 32]));
    let fleet = Impostor { client: &client, identity: identity(), task, fingerprint };
    fleet.say(&fleet.identity, MANIFEST_DOMAIN, "task/digits", &fleet.task);
    ready(&mut agent, "digits");

    // Blocks that are not the announced file: the slot stays empty.
    let (first, second) = (fleet.module(1), fleet.module(2));
    let mut wrong = first.clone();
    let at = wrong.len() - 1;
    wrong[at] ^= 1;
    let mark = client.mark();
    fleet.point(&mine, 1, 1, &first);
    fleet.serve(mark, &wrong);
    agent.wait_refusal("bad_module_hash");
    assert_eq!(agent.figures()["tasks"]["digits"]["version"], 0);

    // A pointer of another key changes nothing, one with the pinned key does.
    let mark = client.mark();
    fleet.point(&other, 5, 2, &second);
    agent.wait_refusal("bad_pointer");
    fleet.point(&mine, 2, 2, &second);
    fleet.serve(mark, &second);
    agent.wait("version 2 is served", |f| f["tasks"]["digits"]["version"] == 2);
    assert_eq!(agent.slot("digits").files["shared.safetensors"], second);
    // Not even that key can go back.
    fleet.point(&mine, 1, 1, &first);
    agent.wait_refusal("stale_pointer");

    // A contribution stays until an acknowledgement with the right key names its bytes.
    let mark = client.mark();
    teach(&client, "digits", &data::digits().train[..10]);
    // Small or large: either its first message carries the manifest.
    let carries =
        |m: &Message| Frame::decode(&m.payload).is_ok_and(|f| [Kind::Whole, Kind::Offer].contains(&f.kind));
    let message = client.wait(mark, &own("up"), carries);
    let frame = Frame::decode(&message.payload).expect("it was decoded before");
    let mut encoded = vec![0; MAX_MANIFEST];
    if frame.kind == Kind::Whole {
        let whole = Whole::decode(frame.payload).expect("manifest and blob");
        let room = encoded.as_mut_slice().try_into().expect("it is as long as the longest manifest");
        let length = whole.manifest(&hash(whole.blob), room).expect("the longest manifest fits");
        encoded.truncate(length);
    } else {
        encoded = frame.payload.to_vec();
    }
    let manifest = Manifest::decode(&encoded).expect("the agent's manifest");
    for (identity, blob_hash) in [(&other, manifest.blob_hash), (&mine, [9; 32])] {
        let mark = agent.log().mark();
        fleet.acknowledge(identity, &manifest, blob_hash);
        agent.log().wait(mark, &["its aggregator did not sign it for this contribution"]);
    }
    assert_eq!(agent.wait("the entry waits", |f| f["outbox"]["entries"] == 1)["outbox"]["entries"], 1);
    fleet.acknowledge(&mine, &manifest, manifest.blob_hash);
    agent.wait("the entry is gone", |f| f["outbox"]["entries"] == 0);
    agent.process.stop();
    assert!(!agent.log().text().contains("panicked"));
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

#[test]
fn invariant_15_training_task_b_leaves_task_a_bit_identical() {
    let site = Site::new();
    let (pictures, windows) = (data::digits(), data::motion());
    let tasks = [digits(1, 1, 30), motion(1, 2, 16)];
    let mut aggregator = site.aggregator(&tasks, AggregatorOptions::default());
    let mut agent = site.agent(GATEWAY, AgentOptions::default());
    let client = site.client(&["gw/+/out/#"]);
    ready(&mut agent, "digits");
    ready(&mut agent, "motion");
    let backbone = hashes(&bundle());
    teach(&client, "digits", &pictures.train[..30]);
    agent.wait_at_rest("digits", 2);

    let slot = site.state(GATEWAY).join("slots/digits");
    let files = hashes(&slot);
    // Everything of an answer but how long it took, which is no property of the module.
    let answers = |round: &str| -> Vec<Value> {
        let ask = |(i, sample): (usize, &data::Sample)| {
            let mut answer = ask(&client, "digits", &format!("{round}{i}"), &sample.payload);
            answer.as_object_mut().expect("an answer is an object").remove("latency_ms");
            answer
        };
        pictures.test[..12].iter().enumerate().map(ask).collect()
    };
    let before = answers("before");
    assert!(before.iter().all(|answer| answer["label"].is_string()), "{before:?}");

    teach(&client, "motion", &windows.train.iter().step_by(2).cloned().collect::<Vec<_>>());
    agent.wait("motion has been trained", |f| f["tasks"]["motion"]["version"].as_u64() >= Some(1));
    assert_eq!(answers("meanwhile"), before);
    agent.wait_at_rest("motion", 3);
    assert_eq!(answers("after"), before);
    assert_eq!(hashes(&slot), files, "files of the digits module changed");
    assert_eq!(hashes(&bundle()), backbone, "the backbone's files changed");
    agent.process.stop();
    aggregator.process.stop();
}

//! Invariant 8: thirty days without a network. The agent's and the aggregator's cores with a simulated clock; the
//! backbone, the disk and every message are real.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use loadonce_agent::config::Config;
use loadonce_agent::{Agent, Backbones, Outgoing, Side};
use loadonce_aggregator::{Admission, Aggregator, DEFAULT_HISTORY_BYTES, Settings, Task};
use loadonce_backbone::{Bundle, process_resident_bytes};
use loadonce_control::TaskManifest;
use loadonce_link::LinkStats;
use loadonce_module::Sums;
use loadonce_store::Database;
use loadonce_store::crash::PowerCutDisk;
use loadonce_tests::data::{self, Sample};
use loadonce_tests::programs::{bundle, onnxruntime};
use loadonce_tests::site::{SITE, digits, topic_of};
use loadonce_trust::{Identity, decode_hex};
use serde_json::Value;
use tempfile::TempDir;

const GATEWAY: &str = "g1";
const HOUR_MS: u64 = 3_600_000;
/// Between two deliveries of samples.
const STEP_MS: u64 = 4 * HOUR_MS;
/// Labelled samples of a delivery.
const SAMPLES: usize = 8;
/// Reboots on the way, one every so many days.
const REBOOT_DAYS: u64 = 7;
const DAYS: u64 = 30;

/// Bounds of the store, so small that a month goes past both: 1,440 samples come, and their sums need twice as much.
const KEPT: u64 = 300;
const OUTBOX_BYTES: u64 = 1 << 20;
/// What the state folder may take beside the outbox: features and labels of `KEPT` samples (less than 600 bytes
/// each), two slots, and redb's pages, of which it may hold as many free as used.
const DISK: u64 = 2 * (OUTBOX_BYTES + KEPT * 600) + (3 << 20);
/// How much more memory the process may hold after the month than after its second day.
const MEMORY: u64 = 8 << 20;

struct Plant {
    config: Config,
    backbones: Backbones,
    agent: Agent,
    now_ms: u64,
    samples: Vec<Sample>,
    given: usize,
    /// Figures of the lives before this one that count drops.
    before: BTreeMap<&'static str, u64>,
}

/// What the agent counts of what it dropped.
const DROPS: [&str; 5] =
    ["samples_evicted", "labels_evicted", "outbox_full", "samples_unlearned", "label_without_sample"];

impl Plant {
    fn new(folder: &Path, key: &str) -> Self {
        let text = format!(
            "site = \"{SITE}\"\ngateway = \"{GATEWAY}\"\nstate = \"{}\"\n[backbone]\nbundle = \"{}\"\nlibrary = \"{}\"\n\
             [uplink]\nbroker = \"mqtt://127.0.0.1:1\"\n[trust]\naggregator_key = \"{key}\"\n\
             [store]\nsamples_per_task = {KEPT}\noutbox_bytes = {OUTBOX_BYTES}\n",
            folder.join("state").display(),
            bundle().display(),
            onnxruntime().display(),
        );
        let config = Config::parse(&text, Path::new("agent.toml")).expect("a valid configuration");
        let backbones = Backbones::load(&config.backbone, &config.state).expect("the committed bundle loads");
        let agent = Agent::open(config.clone(), backbones.clone()).expect("an empty folder opens");
        let samples = data::digits().train;
        Self { config, backbones, agent, now_ms: 0, samples, given: 0, before: BTreeMap::new() }
    }

    /// Samples and their labels come, and the agent works until it has nothing to do.
    fn deliver(&mut self, count: usize) {
        let mut out = Vec::new();
        for _ in 0..count {
            let sample = &self.samples[self.given % self.samples.len()];
            let id = format!("s{}", self.given);
            self.given += 1;
            let data = |kind: &str| topic_of(&format!("gw/{GATEWAY}/{kind}/digits/{id}"));
            let (now_ms, received) = (self.now_ms, Instant::now());
            let sample_came = self.agent.on_data(&data("in"), &sample.payload, received, now_ms, &mut out);
            sample_came.expect("the disk works");
            let label_came =
                self.agent.on_data(&data("label"), sample.label.as_bytes(), received, now_ms, &mut out);
            label_came.expect("the disk works");
            self.work(&mut out);
        }
        let answers: Vec<_> = out.iter().filter(|message| message.side == Side::Data).collect();
        assert_eq!(answers.len(), count, "one answer each, and no refusal of a label");
        for answer in answers {
            let answer: Value = serde_json::from_slice(&answer.payload).expect("answers are JSON");
            assert!(answer["error"].is_null(), "{answer}");
            assert_eq!(answer["version"] != 0, answer["label"].is_string(), "{answer}");
            assert!(self.given <= 2 * SAMPLES || answer["label"].is_string(), "no module answers: {answer}");
        }
        assert!(out.iter().all(|message| message.side == Side::Data), "it speaks into a dead line");
        // The labels settle, and a sum is made if there is room for one.
        self.now_ms += STEP_MS;
        self.work(&mut Vec::new());
    }

    fn work(&mut self, out: &mut Vec<Outgoing>) {
        while self.agent.background(self.now_ms, true, out).expect("the disk works") {}
    }

    fn figures(&mut self) -> Value {
        let none = LinkStats::default();
        let report = self.agent.report(self.now_ms, 0.0, none, LinkStats::default());
        serde_json::from_slice(&report.payload).expect("figures are JSON")
    }

    /// What this and all earlier lives counted under `word`.
    fn dropped(&mut self, word: &'static str) -> u64 {
        let now = self.figures()["refusals"][word].as_u64().unwrap_or_default();
        now + self.before.get(word).copied().unwrap_or_default()
    }

    /// The power goes and comes back; nobody is there on the network.
    fn reboot(mut self) -> Self {
        for word in DROPS {
            let total = self.dropped(word);
            self.before.insert(word, total);
        }
        let Self { config, backbones, agent, .. } = self;
        drop(agent);
        let agent = Agent::open(config.clone(), backbones.clone()).expect("the state folder opens again");
        Self { config, backbones, agent, ..self }
    }

    /// Everything that either side says reaches the other until both are silent; returns how many contributions
    /// were acknowledged.
    fn converse(&mut self, fleet: &mut Fleet) {
        for quiet in 0.. {
            self.now_ms += 1000;
            let mut out = Vec::new();
            self.work(&mut out);
            let mut said = out.len();
            for message in out {
                assert_eq!(message.side, Side::Uplink);
                let answers = fleet.core.on_message(&message.topic, &message.payload, self.now_ms);
                said += self.hear(answers.expect("the aggregator's disk works"));
            }
            let news = fleet.core.on_tick(self.now_ms).expect("the aggregator's disk works");
            said += self.hear(news);
            if said == 0 && self.agent.at_rest("digits", self.now_ms) {
                return;
            }
            assert!(quiet < 20_000, "no rest: {}", self.figures());
        }
    }

    fn hear(&mut self, messages: Vec<loadonce_aggregator::Outgoing>) -> usize {
        let count = messages.len();
        for message in messages {
            let mut out = Vec::new();
            let heard =
                self.agent.on_uplink(&message.topic, &message.payload, message.retain, self.now_ms, &mut out);
            heard.expect("the disk works");
        }
        count
    }

    fn connect(&mut self, fleet: &mut Fleet) {
        let birth = self.agent.on_connected(self.now_ms).expect("the disk works");
        fleet
            .core
            .on_message(&birth.topic, &birth.payload, self.now_ms)
            .expect("the aggregator's disk works");
        let current = fleet.core.on_connected(self.now_ms);
        self.hear(current);
        self.converse(fleet);
    }
}

struct Fleet {
    core: Aggregator,
}

impl Fleet {
    fn new(identity: Identity) -> Self {
        let bundle = Bundle::open(&bundle()).expect("the committed bundle opens");
        let fingerprint = decode_hex(bundle.fingerprint()).expect("a fingerprint is hexadecimal");
        // Nothing is held out, so that every label is either in a sum or counted as gone.
        let text = digits(1, 2, 2).toml().replace("heldout = 0.2", "heldout = 0.0");
        let manifest = TaskManifest::from_toml(&text).expect("a valid manifest");
        let task = Task::new(manifest, fingerprint, bundle.exits(), bundle.directions()).expect("it fits");
        let settings = Settings {
            site: SITE.to_owned(),
            admission: Admission::FirstUse,
            gateways: BTreeMap::new(),
            tasks: vec![task],
            history_bytes: DEFAULT_HISTORY_BYTES,
        };
        let database = Database::open_with(PowerCutDisk::new(), 1 << 20).expect("a disk in memory");
        Self { core: Aggregator::open(settings, identity, database, 0).expect("an empty journal opens") }
    }

    /// Samples in the totals.
    fn samples(&self) -> u64 {
        let totals = self.core.totals("digits").expect("the totals read back").unwrap_or_default();
        Sums::from_bytes(&totals).map_or(0, |sums| sums.samples().max(0) as u64)
    }
}

/// Bytes of all files below `folder`.
fn bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let entry = entry.expect("the folder can be read");
        let about = entry.metadata().expect("a file has a size");
        sum += if about.is_dir() { bytes(&entry.path()) } else { about.len() };
    }
    sum
}

#[test]
fn invariant_08_thirty_days_without_a_network() {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    let identity = Identity::from_seed(&[3; 32]);
    let key = loadonce_trust::encode_hex(&identity.public());
    let mut fleet = Fleet::new(identity);
    let mut plant = Plant::new(folder.path(), &key);

    // A good first day: the lineage comes to its end and every module is in its slot.
    plant.connect(&mut fleet);
    plant.agent.on_disconnected();
    plant.deliver(2 * SAMPLES);
    plant.connect(&mut fleet);
    let served = plant.figures()["tasks"]["digits"]["version"].clone();
    assert_eq!(served, 3, "one version from sums, two from steps");
    assert_eq!(fleet.samples(), 2 * SAMPLES as u64);

    // Then nobody is there for thirty days.
    plant.agent.on_disconnected();
    let (begun, mut early_memory, mut most_disk) = (plant.now_ms, 0, 0);
    while plant.now_ms - begun < DAYS * 24 * HOUR_MS {
        let day = (plant.now_ms - begun) / (24 * HOUR_MS);
        plant.deliver(SAMPLES);
        let disk = bytes(&plant.config.state);
        most_disk = most_disk.max(disk);
        assert!(disk <= DISK, "{disk} bytes on day {day}, allowed are {DISK}");
        if day == 2 {
            early_memory = process_resident_bytes();
        }
        if day > 0 && day.is_multiple_of(REBOOT_DAYS) && (plant.now_ms - begun) % (24 * HOUR_MS) == STEP_MS {
            plant = plant.reboot();
        }
    }
    let memory = process_resident_bytes();
    assert!(memory <= early_memory + MEMORY, "{early_memory} bytes of memory became {memory}");
    let figures = plant.figures();
    let task = &figures["tasks"]["digits"];
    assert_eq!(task["version"], served, "a month later the same module answers");
    assert_eq!(task["samples"], KEPT);
    assert!(figures["outbox"]["bytes"].as_u64() <= Some(OUTBOX_BYTES), "{figures}");
    // It went past both bounds, or this would prove nothing.
    let untold = plant.dropped("labels_evicted");
    assert!(untold > 0 && plant.dropped("outbox_full") > 0, "{figures}");
    assert_eq!(plant.dropped("samples_evicted"), plant.given as u64 - KEPT);
    for word in ["samples_unlearned", "label_without_sample"] {
        assert_eq!(plant.dropped(word), 0, "{word}");
    }
    let waiting = task["unsummed"].as_u64().unwrap_or_default();
    assert!(waiting > 0, "the newest labels wait for room: {figures}");
    let entries = figures["outbox"]["entries"].clone();

    // They are back: everything that was not counted as dropped is delivered, the newest labels too.
    plant.connect(&mut fleet);
    let figures = plant.figures();
    assert_eq!(figures["outbox"]["entries"], 0, "{figures}");
    assert_eq!(figures["tasks"]["digits"]["unsummed"], 0, "{figures}");
    assert_eq!(fleet.samples() + untold, plant.given as u64, "{figures}");
    println!(
        "{} labels in {DAYS} days: {} delivered, {untold} gone and counted; {entries} sums waited, {waiting} labels \
         beside them; at most {most_disk} bytes on the disk; memory {early_memory} on day 2, {memory} on day {DAYS}",
        plant.given,
        fleet.samples(),
    );
}

//! The seeded kill schedule: real processes, SIGKILL at every boundary between a write and a message, and what
//! must be true afterwards (invariants 1 and 2).
//!
//! Agents and aggregator log a line with target `boundary` whenever they cross one. The harness reads those
//! lines as they are written and kills the scheduled process at the scheduled occurrence, so it dies within a
//! fraction of a millisecond of the boundary, on one side of it or the other.
//!
//! The lineage is a function of the samples, the labels and each gateway's secret choice of held-out samples.
//! All runs therefore start from copies of the same prepared state folders, and must end with the same lineage
//! and the same totals, bit for bit, however many processes died on the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use loadonce_aggregator::Aggregator;
use loadonce_aggregator::config::Config;
use loadonce_module::Sums;
use loadonce_rounds::LineageEntry;
use loadonce_store::Database;
use loadonce_trust::{Identity, encode_hex, hash};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Message};
use crate::data;
use crate::process::Observer;
use crate::programs::root;
use crate::site::{AgentOptions, AggregatorOptions, Program, Site, Task, digits, topic_of};

/// Gateways of a run.
const GATEWAYS: [&str; 3] = ["g1", "g2", "g3"];
/// Samples and labels of each.
const LABELS: usize = 14;
/// Gradient rounds; the lineage ends one version later.
const STEPS: u64 = 2;
/// Longest run.
const LIMIT: Duration = Duration::from_mins(2);
/// After this long at rest nothing more will happen by itself: the faults write late by less.
const STILL: Duration = Duration::from_secs(5);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(5);
/// A message of a gateway comes a second time this much later: when all of its contribution was delivered, however
/// many messages that has, so that all of it comes again.
const TWICE_AFTER: Duration = Duration::from_millis(300);
/// Between two attempts to deliver labels that are not on a gateway's disk.
const LABELS_AGAIN: Duration = Duration::from_millis(700);

/// Every boundary, with the number of occurrences that any run has, whoever is killed.
const AGENT: [(&str, u64); 8] = [
    ("label.persisted", 20),
    ("outbox.persisted", 6),
    ("chunks.sent", 6),
    ("ack.received", 6),
    ("outbox.deleted", 4),
    ("module.fetched", 6),
    ("slot.committing", 6),
    ("slot.committed", 4),
];
const AGGREGATOR: [(&str, u64); 6] = [
    ("intake.persisted", 5),
    ("intake.acked", 5),
    ("round.closing", 3),
    ("round.committed", 2),
    ("pointer.published", 4),
    ("block.served", 5),
];

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The process that crossed the boundary.
    Itself,
    /// The aggregator, at an agent's boundary.
    Aggregator,
    /// The broker.
    Broker,
}

/// One kill: who dies when this boundary is crossed for the `occurrence`-th time.
#[derive(Debug, Clone, Copy)]
struct Kill {
    boundary: &'static str,
    occurrence: u64,
    victim: Victim,
}

/// Which kills a run gets.
#[derive(Debug, Clone)]
pub struct Schedule {
    seed: u64,
    kills: Vec<Kill>,
}

/// The seed of this run's schedules: `LOADONCE_SEED`, or always the same.
pub fn seed() -> u64 {
    std::env::var("LOADONCE_SEED").map_or(1, |text| text.parse().expect("LOADONCE_SEED must be a number"))
}

/// splitmix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most + 1
    }
}

impl Schedule {
    /// Every boundary of agents and aggregator kills its own process once; the aggregator also dies right after
    /// an agent has deleted what it had acknowledged, and the broker dies with chunks and acknowledgements under
    /// way.
    pub fn everything(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut kill = |(boundary, most), victim| Kill { boundary, occurrence: random.up_to(most), victim };
        let mut kills: Vec<Kill> =
            AGENT.iter().chain(&AGGREGATOR).map(|&boundary| kill(boundary, Victim::Itself)).collect();
        kills.push(kill(("outbox.deleted", 3), Victim::Aggregator));
        kills.push(kill(("chunks.sent", 5), Victim::Broker));
        kills.push(kill(("intake.persisted", 4), Victim::Broker));
        Self { seed, kills }
    }

    /// Only what a fault must not survive: the aggregator dies right after an agent has deleted an entry.
    pub fn after_deletion(seed: u64) -> Self {
        let occurrence = Random(seed).up_to(GATEWAYS.len() as u64);
        Self {
            seed,
            kills: vec![Kill { boundary: "outbox.deleted", occurrence, victim: Victim::Aggregator }],
        }
    }

    /// No kill at all.
    pub fn nothing() -> Self {
        Self { seed: 0, kills: Vec::new() }
    }
}

/// What a run ended with.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The lineage, entry by entry.
    pub lineage: Vec<LineageEntry>,
    /// The encoded totals of all sums.
    pub totals: Vec<u8>,
    /// Contributions that came again and were recognised.
    pub recognised: usize,
}

/// What must never happen.
#[derive(Debug)]
pub enum Violation {
    /// A contribution was acknowledged and is gone.
    Lost(String),
    /// The totals hold more than was contributed.
    CountedTwice(String),
    /// Lineage, totals or modules are not those of the undisturbed run.
    Differs(String),
    /// The run ended before every kill of the schedule happened: it proves less than it says.
    NotCovered(String),
    /// The run did not end.
    Stuck(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(what) => write!(f, "a contribution was lost: {what}"),
            Self::CountedTwice(what) => write!(f, "a contribution was counted twice: {what}"),
            Self::Differs(what) => write!(f, "the outcome differs from the undisturbed run: {what}"),
            Self::NotCovered(what) => write!(f, "kills that never happened: {what}"),
            Self::Stuck(what) => write!(f, "no end: {what}"),
        }
    }
}

/// How a run differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The aggregator's program, if it is not the usual one.
    pub aggregator: Option<PathBuf>,
    /// The broker delivers every message of the gateways twice, as QoS 1 allows.
    pub twice: bool,
}

/// State folders of a fleet whose gateways hold samples without labels, to be copied for every run.
pub struct Prepared {
    folder: TempDir,
    labels: BTreeMap<&'static str, Vec<(String, String)>>,
}

fn task() -> Task {
    digits(GATEWAYS.len(), STEPS, LABELS)
}

/// Prepares a fleet.
pub fn prepare() -> Prepared {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    let site = Site::at(folder.path());
    let mut aggregator = site.aggregator(&[task()], AggregatorOptions::default());
    let client = site.client(&[]);
    let samples = data::digits().train;
    let mut agents = GATEWAYS.map(|name| site.agent(name, AgentOptions::default()));
    let mut labels = BTreeMap::new();
    for (n, agent) in agents.iter_mut().enumerate() {
        agent.wait("the task is served", |figures| figures["tasks"]["digits"].is_object());
        agent.log().wait(0, &["data plane connected"]);
        let mine = samples.iter().skip(n * LABELS).take(LABELS).enumerate();
        let mut given = Vec::new();
        for (i, sample) in mine {
            client.publish(&topic_of(&format!("gw/{}/in/digits/s{i}", agent.name)), sample.payload.clone());
            given.push((format!("s{i}"), sample.label.clone()));
        }
        labels.insert(GATEWAYS[n], given);
    }
    for agent in &mut agents {
        agent.wait("all samples are stored", |f| f["tasks"]["digits"]["samples"] == LABELS);
        agent.process.stop();
    }
    aggregator.process.stop();
    Prepared { folder, labels }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder can be made");
    for entry in fs::read_dir(from).expect("the prepared folder is there") {
        let entry = entry.expect("the prepared folder can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("an entry has a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file of the prepared folder can be copied");
        }
    }
}

/// What the observers of all processes share.
struct Watch {
    pids: BTreeMap<String, Pid>,
    counts: BTreeMap<String, u64>,
    waiting: Vec<Kill>,
    run: String,
    record: Vec<String>,
}

type Shared = Arc<Mutex<Watch>>;

fn lock(watch: &Shared) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    fn note(&mut self, line: String) {
        println!("{}: {line}", self.run);
        self.record.push(line);
    }

    /// A line of `name`'s log: kills whom the schedule says.
    fn see(&mut self, name: &str, line: &str) {
        let Some((_, fields)) = line.split_once(" boundary: ") else { return };
        let Some(boundary) = fields.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next())
        else {
            return;
        };
        let count = self.counts.entry(boundary.to_owned()).or_default();
        *count += 1;
        let count = *count;
        let due = |kill: &Kill| kill.boundary == boundary && kill.occurrence <= count;
        let Some(at) = self.waiting.iter().position(due) else { return };
        let victim = match self.waiting[at].victim {
            Victim::Itself => name,
            Victim::Aggregator => "aggregator",
            Victim::Broker => "mosquitto",
        };
        // One that is just being restarted dies at a later occurrence.
        let Some(pid) = self.pids.remove(victim) else { return };
        let killed = kill_process(pid, Signal::KILL);
        self.waiting.remove(at);
        let pid = pid.as_raw_nonzero();
        self.note(format!("SIGKILL {victim} ({pid}, {killed:?}) at {boundary} #{count} of {name}: {fields}"));
    }
}

/// What the gateways said, to be said once more.
#[derive(Default)]
struct Replayed {
    mark: usize,
    seen: BTreeSet<[u8; 32]>,
    later: VecDeque<(Instant, Message)>,
}

struct Run<'a> {
    site: Site,
    watch: Shared,
    aggregator: Program,
    agents: Vec<Program>,
    client: Client,
    labels: &'a BTreeMap<&'static str, Vec<(String, String)>>,
    replayed: Replayed,
    labelled: Option<Instant>,
    disturbed: Instant,
}

/// Runs the fleet from its prepared state to the end of the lineage under `schedule`, and compares the outcome
/// with that of the undisturbed run. After a violation the run's folder, with every log, is kept.
///
/// # Errors
/// What must never happen and did.
pub fn run(
    prepared: &Prepared,
    undisturbed: Option<&Outcome>,
    name: &str,
    schedule: &Schedule,
    options: RunOptions,
) -> Result<Outcome, Violation> {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    copy(&prepared.folder.path().join("state"), &folder.path().join("state"));
    let watch = Arc::new(Mutex::new(Watch {
        pids: BTreeMap::new(),
        counts: BTreeMap::new(),
        waiting: schedule.kills.clone(),
        run: name.to_owned(),
        record: Vec::new(),
    }));
    lock(&watch).note(format!(
        "{name}: seed {} (LOADONCE_SEED), {} kills",
        schedule.seed,
        schedule.kills.len()
    ));
    let observer = |name: &'static str| -> Option<Observer> {
        let watch = watch.clone();
        Some(Arc::new(move |line: &str| lock(&watch).see(name, line)))
    };
    let site = Site::at(folder.path());
    let aggregator = site.aggregator(
        &[task()],
        AggregatorOptions {
            program: options.aggregator,
            observer: observer("aggregator"),
            ..AggregatorOptions::default()
        },
    );
    let agents = GATEWAYS
        .map(|name| site.agent(name, AgentOptions { observer: observer(name), ..AgentOptions::default() }));
    let client = site.client(if options.twice { &["gw/+/up"] } else { &[] });
    let mut run = Run {
        site,
        watch: watch.clone(),
        aggregator,
        agents: agents.into(),
        client,
        labels: &prepared.labels,
        replayed: Replayed::default(),
        labelled: None,
        disturbed: Instant::now(),
    };
    run.register();
    let ended = run.until_the_end().and_then(|()| run.outcome(folder.path()));
    let ended = ended.and_then(|outcome| match undisturbed {
        Some(undisturbed) => compare(undisturbed, &outcome).map(|()| outcome),
        None => Ok(outcome),
    });
    let record = root().join("target/crash").join(format!("{name}-{}.log", schedule.seed));
    let text = lock(&watch).record.join("\n") + "\n";
    if fs::create_dir_all(root().join("target/crash")).and_then(|()| fs::write(&record, text)).is_err() {
        println!("the record was not kept in {}", record.display());
    }
    drop(run);
    if ended.is_err() {
        println!("{name}: state and logs are kept in {}", folder.keep().display());
    }
    ended
}

impl Run<'_> {
    fn register(&mut self) {
        let mut watch = lock(&self.watch);
        for program in self.agents.iter().chain([&self.aggregator]) {
            watch.pids.insert(program.name.clone(), program.process.pid());
        }
        watch.pids.insert("mosquitto".to_owned(), self.site.broker.process().pid());
    }

    /// Starts again whatever was killed. A process that was not killed and ended is a failure.
    fn revive(&mut self) -> Result<(), Violation> {
        let killed = |watch: &Shared, name: &str| !lock(watch).pids.contains_key(name);
        for at in 0..=self.agents.len() {
            let program = self.agents.get_mut(at).unwrap_or(&mut self.aggregator);
            if killed(&self.watch, &program.name) {
                program.process.wait();
                program.restart();
            } else if program.process.has_ended() {
                let (name, tail) = (&program.name, program.log().tail());
                return Err(Violation::Stuck(format!("{name} ended by itself:\n{tail}")));
            } else {
                continue;
            }
            lock(&self.watch).pids.insert(program.name.clone(), program.process.pid());
            self.disturbed = Instant::now();
        }
        if killed(&self.watch, "mosquitto") {
            self.site.broker.restart();
            let pid = self.site.broker.process().pid();
            lock(&self.watch).pids.insert("mosquitto".to_owned(), pid);
            self.disturbed = Instant::now();
        }
        Ok(())
    }

    fn until_the_end(&mut self) -> Result<(), Violation> {
        let start = Instant::now();
        loop {
            self.revive()?;
            self.replay();
            let figures: Vec<Value> = self.agents.iter().map(|agent| agent.task("digits")).collect();
            self.label(&figures);
            let rest = figures.iter().all(|f| f["at_rest"] == true && f["labels"] == LABELS);
            if rest && figures.iter().all(|f| f["version"] == STEPS + 1) {
                let waiting = lock(&self.watch).waiting.clone();
                return if waiting.is_empty() {
                    Ok(())
                } else {
                    Err(Violation::NotCovered(format!("{waiting:?}")))
                };
            }
            if !rest {
                self.disturbed = Instant::now();
            }
            if self.disturbed.elapsed() > STILL {
                let versions: Vec<_> = figures.iter().map(|f| f["version"].to_string()).collect();
                return Err(Violation::Lost(format!(
                    "every outbox is empty and every gateway at rest, at versions {} of {}; the aggregator says {}",
                    versions.join(", "),
                    STEPS + 1,
                    self.aggregator.task("digits"),
                )));
            }
            if start.elapsed() > LIMIT {
                return Err(Violation::Stuck(format!("{figures:?}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Gives every gateway its labels until they are on its disk; a label that comes again changes nothing.
    fn label(&mut self, figures: &[Value]) {
        if self.labelled.is_some_and(|last| last.elapsed() < LABELS_AGAIN) {
            return;
        }
        self.labelled = Some(Instant::now());
        for (agent, figures) in self.agents.iter().zip(figures) {
            if figures["labels"] != LABELS && agent.log().find(0, &["data plane connected"]).is_some() {
                for (id, label) in &self.labels[agent.name.as_str()] {
                    self.client
                        .publish(&topic_of(&format!("gw/{}/label/digits/{id}", agent.name)), label.as_str());
                }
            }
        }
    }

    fn replay(&mut self) {
        let Replayed { mark, seen, later } = &mut self.replayed;
        for message in self.client.since(*mark) {
            *mark += 1;
            if seen.insert(hash(&message.payload)) {
                later.push_back((Instant::now() + TWICE_AFTER, message));
            }
        }
        while later.front().is_some_and(|(at, _)| *at <= Instant::now())
            && let Some((_, message)) = later.pop_front()
        {
            self.client.publish(&message.topic, message.payload);
        }
    }

    /// Ends everything and reads what is on the disks.
    fn outcome(&mut self, folder: &Path) -> Result<Outcome, Violation> {
        let mut expected = 0;
        for agent in &mut self.agents {
            agent.process.stop();
            let figures = agent.task("digits");
            let count = |key: &str| figures[key].as_i64().unwrap_or_default();
            expected += count("labels") - count("heldout");
        }
        self.aggregator.process.stop();
        let recognised = self.aggregator.log().count(0, "contribution was applied before");
        let config = Config::read(&folder.join("aggregator.conf.toml")).expect("the aggregator ran with it");
        let key = fs::read_to_string(config.state.join("aggregator.key")).expect("the aggregator has a key");
        let identity = Identity::from_file_text(&key).expect("the aggregator's key reads back");
        let database = Database::open(&config.state.join("aggregator.redb"), 1 << 20)
            .expect("the aggregator's database opens");
        let core = Aggregator::open(config.settings, identity, database, 0).expect("the journal reads back");
        let lineage = core.lineage("digits").expect("the lineage reads back");
        let totals = core.totals("digits").expect("the totals read back").unwrap_or_default();
        let samples = Sums::from_bytes(&totals).map_or(0, |sums| sums.samples());
        lock(&self.watch).note(format!(
            "{samples} samples in the totals, {expected} contributed, {} versions, {recognised} repeats recognised",
            lineage.len()
        ));
        if samples > expected {
            return Err(Violation::CountedTwice(format!(
                "{samples} samples in the totals, {expected} contributed"
            )));
        }
        if samples < expected {
            return Err(Violation::Lost(format!("{samples} samples in the totals, {expected} contributed")));
        }
        let newest = lineage.last().map(|entry| entry.module).unwrap_or_default();
        for agent in &self.agents {
            let slot = agent.slot("digits");
            let shared = slot.files.get("shared.safetensors").map(|bytes| hash(bytes)).unwrap_or_default();
            if shared != newest {
                let (name, shared, newest) = (&agent.name, encode_hex(&shared), encode_hex(&newest));
                return Err(Violation::Differs(format!(
                    "{name} serves {shared}, the lineage ends in {newest}"
                )));
            }
        }
        Ok(Outcome { lineage, totals, recognised })
    }
}

/// Whether `outcome` is that of the undisturbed run, bit for bit; the first difference where it is not.
fn compare(undisturbed: &Outcome, outcome: &Outcome) -> Result<(), Violation> {
    let differs = |what: String| Err(Violation::Differs(what));
    if undisturbed.totals != outcome.totals {
        let counts = |totals: &[u8]| Sums::from_bytes(totals).map(|sums| sums.counts().to_vec());
        let (want, got) = (counts(&undisturbed.totals), counts(&outcome.totals));
        return differs(format!("totals of {want:?} samples per class became others, of {got:?}"));
    }
    for (want, got) in undisturbed.lineage.iter().zip(&outcome.lineage) {
        if want != got {
            let (module, became) = (encode_hex(&want.module), encode_hex(&got.module));
            return differs(format!(
                "module {module} of version {} became {became}: {want:?}, {got:?}",
                want.version
            ));
        }
    }
    let (want, got) = (undisturbed.lineage.len(), outcome.lineage.len());
    if want == got { Ok(()) } else { differs(format!("{want} versions became {got}")) }
}

/// Builds an aggregator with a fault on purpose and says where it is.
pub fn mutant(fault: &str) -> PathBuf {
    let target = root().join("target/mutants");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .current_dir(root())
        .args(["build", "--quiet", "--locked", "-p", "loadonce-aggregator", "--features", fault])
        .args(["--config", "profile.dev.debug=false", "--config", "profile.dev.package.\"*\".opt-level=0"])
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo built this test, so it can be run");
    assert!(built.success(), "the aggregator does not build with `{fault}`");
    let kept = target.join(fault);
    fs::copy(target.join("debug/loadonce-aggregator"), &kept).expect("cargo left the program there");
    kept
}

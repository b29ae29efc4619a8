//! One fleet at work while its processes are killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use loadonce_trust::{encode_hex, hash};
use serde_json::Value;
use tempfile::TempDir;

use super::audit::{Audited, Outcome, audit, read_journal};
use super::ledger::Ledger;
use super::schedule::{Kill, Schedule};
use crate::broker::Memory;
use crate::client::Client;
use crate::crash::copy;
use crate::site::{AgentOptions, AggregatorOptions, Program, Site, Task, digits, topic_of};
use crate::{data, programs};

/// Gateways of every episode.
pub const GATEWAYS: [&str; 5] = ["g1", "g2", "g3", "g4", "g5"];
/// What may be killed.
pub const PROCESSES: [&str; 7] = ["aggregator", "mosquitto", "g1", "g2", "g3", "g4", "g5"];

/// Samples and labels of each gateway.
const LABELS: usize = 20;
/// Labels that come at once where they come one batch after another.
const BATCH: usize = 4;
/// Between two batches.
const BATCH_EVERY: Duration = Duration::from_millis(1500);
/// Between two attempts to deliver labels that are not on a gateway's disk.
const LABELS_AGAIN: Duration = Duration::from_millis(700);
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(10);
/// After this long at rest nothing more will happen by itself: the faults write late by less.
const STILL: Duration = Duration::from_secs(6);
/// Longest time from the last kill to the end.
const LIMIT: Duration = Duration::from_mins(3);
/// Between two lines about the progress.
const TELL: Duration = Duration::from_secs(10);

/// How rounds close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// With every gateway, however long it takes: the lineage is a function of the samples.
    All,
    /// With four of five gateways, or after a second; labels come while rounds run.
    Deadline,
}

/// What an episode is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name in reports and schedules.
    pub name: &'static str,
    /// How rounds close.
    pub rounds: Rounds,
    /// What the broker remembers.
    pub memory: Memory,
    /// Gradient rounds; the lineage ends one version later.
    pub steps: u64,
    /// Who is killed when.
    pub schedule: Schedule,
    /// The aggregator's program, if it is not the usual one.
    pub aggregator: Option<PathBuf>,
}

/// What was found at an episode's end.
#[derive(Debug)]
pub struct Found {
    /// Lineage and totals.
    pub outcome: Outcome,
    /// Seconds from the first label to the last rest.
    pub seconds: f64,
    /// Kills that hit a running process, by process.
    pub kills: BTreeMap<String, usize>,
    /// Kills that came before the lineage's last version.
    pub live_kills: usize,
    /// Contributions that any outbox ever took.
    pub enqueued: usize,
    /// Contributions in the journal.
    pub applied: usize,
    /// Contributions answered with a refusal, by reason.
    pub refused: BTreeMap<String, usize>,
    /// Repeats that the aggregator recognised.
    pub recognised: usize,
    /// Whether the journal made every version again; nothing where the program cannot do that.
    pub replayed: Option<bool>,
    /// Contributions that are gone, in words.
    pub lost: Vec<String>,
    /// Contributions that count more than once, in words.
    pub doubled: Vec<String>,
    /// Whatever else must not be, in words.
    pub wrong: Vec<String>,
}

/// State folders of a fleet whose gateways hold samples without labels, to be copied for every episode. Which
/// samples are held out is decided in them, so lineages of episodes from the same folders can be compared.
pub struct Prepared {
    folder: TempDir,
    labels: BTreeMap<&'static str, Vec<(String, String)>>,
}

fn task(rounds: Rounds, steps: u64) -> Task {
    match rounds {
        Rounds::All => digits(GATEWAYS.len(), steps, LABELS),
        Rounds::Deadline => Task { deadline_s: 1, ..digits(GATEWAYS.len() - 1, steps, BATCH) },
    }
}

/// Prepares a fleet from real digits.
pub fn prepare() -> Prepared {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    let site = Site::at(folder.path());
    let mut aggregator = site.aggregator(&[task(Rounds::All, 1)], AggregatorOptions::default());
    let client = site.client(&[]);
    let samples = data::digits().train;
    let mut agents = GATEWAYS.map(|name| site.agent(name, AgentOptions::default()));
    let mut labels = BTreeMap::new();
    for (n, agent) in agents.iter_mut().enumerate() {
        agent.wait("the task is served", |figures| figures["tasks"]["digits"].is_object());
        agent.log().wait(0, &["data plane connected"]);
        let mut given = Vec::new();
        for (i, sample) in samples.iter().skip(n * LABELS).take(LABELS).enumerate() {
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

struct Run<'a> {
    plan: &'a Plan,
    site: Site,
    aggregator: Program,
    agents: Vec<Program>,
    client: Client,
    labels: &'a BTreeMap<&'static str, Vec<(String, String)>>,
    ledger: Ledger,
    start: Instant,
    labelled: Option<Instant>,
    told: Instant,
    kills: BTreeMap<String, usize>,
    live_kills: usize,
    /// The record of the kills as they happened.
    record: Vec<Kill>,
    saved: bool,
}

/// Runs `plan` from the prepared state to its end.
///
/// # Errors
/// Why it did not come to an end. The episode's folder is kept then, and also where something wrong was found.
pub fn run(prepared: &Prepared, plan: &Plan) -> Result<Found, String> {
    let folder = TempDir::new().expect("the system has a folder for temporary files");
    copy(&prepared.folder.path().join("state"), &folder.path().join("state"));
    let site = Site::with_memory(folder.path(), plan.memory);
    let options = AggregatorOptions { program: plan.aggregator.clone(), ..AggregatorOptions::default() };
    let aggregator = site.aggregator(&[task(plan.rounds, plan.steps)], options);
    let agents = GATEWAYS.map(|name| site.agent(name, AgentOptions::default()));
    let client = site.client(&[]);
    let now = Instant::now();
    let mut run = Run {
        plan,
        site,
        aggregator,
        agents: agents.into(),
        client,
        labels: &prepared.labels,
        ledger: Ledger::default(),
        start: now,
        labelled: None,
        told: now,
        kills: BTreeMap::new(),
        live_kills: 0,
        record: Vec::new(),
        saved: false,
    };
    for agent in &mut run.agents {
        agent.wait("it runs", Value::is_object);
    }
    run.start = Instant::now();
    let found = run.until_the_end().and_then(|seconds| run.find(folder.path(), seconds));
    let sound = found
        .as_ref()
        .is_ok_and(|found| found.lost.is_empty() && found.doubled.is_empty() && found.wrong.is_empty());
    drop(run);
    if !sound {
        println!("{}: state and logs are kept in {}", plan.name, folder.keep().display());
    }
    found
}

impl Run<'_> {
    fn until_the_end(&mut self) -> Result<f64, String> {
        let mut due = self.plan.schedule.kills.clone();
        due.reverse();
        let mut disturbed = Instant::now();
        loop {
            self.everyone_runs()?;
            let figures: Vec<Value> = self.agents.iter().map(|agent| agent.task("digits")).collect();
            let last = self.plan.steps + 1;
            let over = figures.iter().all(|f| f["version"] == last);
            while due.last().is_some_and(|kill| u128::from(kill.at_ms) <= self.start.elapsed().as_millis()) {
                if let Some(kill) = due.pop() {
                    self.kill(&kill, over);
                    disturbed = Instant::now();
                }
            }
            self.label(&figures);
            self.tell(&figures, due.len());
            let rest = figures.iter().all(|f| f["at_rest"] == true && f["labels"] == LABELS);
            if !rest || !due.is_empty() {
                disturbed = Instant::now();
            }
            if rest && over && disturbed.elapsed() > Duration::from_secs(1) {
                return Ok(self.start.elapsed().as_secs_f64());
            }
            if disturbed.elapsed() > STILL {
                // Everyone rests before the lineage's end: what was found tells why.
                return Ok(self.start.elapsed().as_secs_f64());
            }
            let last_kill = self.plan.schedule.kills.last().map_or(0, |kill| kill.at_ms);
            if self.start.elapsed() > LIMIT + Duration::from_millis(last_kill) {
                return Err(format!(
                    "no end: {figures:?}; the aggregator says {}",
                    self.aggregator.figures()
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Kills one process and starts it again at once, so that every kill hits one that runs.
    fn kill(&mut self, kill: &Kill, over: bool) {
        let at_ms = self.start.elapsed().as_millis() as u64;
        if kill.process == "mosquitto" {
            // Half way it writes down what it knows, and from then on every restart goes back to that.
            if self.plan.memory == Memory::Saved
                && !self.saved
                && 2 * self.record.len() >= self.plan.schedule.kills.len()
            {
                self.site.broker.save();
                self.saved = true;
            }
            self.site.broker.kill();
        } else if kill.process == "aggregator" {
            self.aggregator.process.kill();
        } else if let Some(agent) = self.agents.iter_mut().find(|agent| agent.name == kill.process) {
            agent.process.kill();
            // One that was never more than started has no outbox yet.
            let _read = self.ledger.read_outbox(&agent.name, &agent.state, false);
        }
        self.record.push(Kill { at_ms, process: kill.process.clone() });
        *self.kills.entry(kill.process.clone()).or_default() += 1;
        self.live_kills += usize::from(!over);
        self.bring_back(&kill.process);
    }

    fn bring_back(&mut self, process: &str) {
        if process == "mosquitto" {
            self.site.broker.restart();
        } else if process == "aggregator" {
            self.aggregator.restart();
        } else if let Some(agent) = self.agents.iter_mut().find(|agent| agent.name == process) {
            agent.restart();
        }
    }

    /// Nobody may end by itself, whoever else is killed.
    fn everyone_runs(&self) -> Result<(), String> {
        for program in self.agents.iter().chain([&self.aggregator]) {
            if program.process.has_ended() {
                let (name, tail) = (&program.name, program.log().tail());
                return Err(format!("{name} ended by itself:\n{tail}"));
            }
        }
        Ok(())
    }

    /// Gives every gateway its labels until they are on its disk; a label that comes again changes nothing.
    fn label(&mut self, figures: &[Value]) {
        if self.labelled.is_some_and(|last| last.elapsed() < LABELS_AGAIN) {
            return;
        }
        self.labelled = Some(Instant::now());
        let batches = match self.plan.rounds {
            Rounds::All => LABELS / BATCH,
            Rounds::Deadline => 1 + (self.start.elapsed().as_millis() / BATCH_EVERY.as_millis()) as usize,
        };
        let come = (batches * BATCH).min(LABELS);
        for (agent, figures) in self.agents.iter().zip(figures) {
            if figures["labels"].as_u64() < Some(come as u64) {
                for (id, label) in &self.labels[agent.name.as_str()][..come] {
                    let topic = topic_of(&format!("gw/{}/label/digits/{id}", agent.name));
                    self.client.publish(&topic, label.as_str());
                }
            }
        }
    }

    fn tell(&mut self, figures: &[Value], due: usize) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let versions: Vec<String> = figures.iter().map(|f| f["version"].to_string()).collect();
        println!(
            "{}: {:.0} s, {} kills, {due} to come, gateways at versions {}",
            self.plan.name,
            self.start.elapsed().as_secs_f64(),
            self.record.len(),
            versions.join(" ")
        );
    }

    /// Ends everything and reads what is on the disks.
    fn find(&mut self, folder: &Path, seconds: f64) -> Result<Found, String> {
        let mut expected = 0;
        for agent in &mut self.agents {
            agent.process.stop();
            let figures = agent.task("digits");
            let count = |key: &str| figures[key].as_i64().unwrap_or_default();
            expected += count("labels") - count("heldout");
        }
        self.aggregator.process.stop();
        let mut wrong = Vec::new();
        for agent in &self.agents {
            self.ledger.read_log(&agent.name, agent.log());
            if !self.ledger.read_outbox(&agent.name, &agent.state, true) {
                wrong.push(format!("the outbox of {} does not read back", agent.name));
            }
        }
        let gateways: Vec<(&str, &Path)> =
            self.agents.iter().map(|agent| (agent.name.as_str(), agent.state.as_path())).collect();
        self.ledger.read_journal(&self.aggregator.state, &gateways)?;
        let journal = read_journal(folder)?;
        let Audited { lost, doubled, wrong: more } =
            audit(&self.ledger, &journal, expected, self.plan.steps + 1);
        wrong.extend(more);
        let outcome = journal.outcome;
        let newest = outcome.lineage.last().map(|entry| entry.module).unwrap_or_default();
        for agent in &self.agents {
            let slot = agent.slot_if_any("digits");
            let shared = slot.and_then(|slot| slot.files.get("shared.safetensors").map(|bytes| hash(bytes)));
            let shared = shared.unwrap_or_default();
            if shared != newest {
                let (shared, newest) = (encode_hex(&shared), encode_hex(&newest));
                wrong.push(format!("{} serves {shared}, the lineage ends in {newest}", agent.name));
            }
        }
        for program in self.agents.iter().chain([&self.aggregator]) {
            if program.log().text().contains("panicked") {
                wrong.push(format!("{} panicked", program.name));
            }
        }
        let replayed = replay(
            &self.plan.aggregator.clone().unwrap_or_else(programs::aggregator),
            &self.aggregator.state,
        );
        if let Some(Err(what)) = &replayed {
            wrong.push(format!("the journal does not make every version again: {what}"));
        }
        let mut refused = BTreeMap::new();
        for reason in self.ledger.refused.values() {
            *refused.entry(reason.clone()).or_default() += 1;
        }
        Ok(Found {
            outcome,
            seconds,
            kills: self.kills.clone(),
            live_kills: self.live_kills,
            enqueued: self.ledger.enqueued.len(),
            applied: self.ledger.applied.len(),
            refused,
            recognised: self.aggregator.log().count(0, "contribution was applied before"),
            replayed: replayed.map(|replayed| replayed.is_ok()),
            lost,
            doubled,
            wrong,
        })
    }
}

/// Has the aggregator's own program make every version again from its journal, if it knows how.
fn replay(program: &Path, state: &Path) -> Option<Result<(), String>> {
    let run = |arguments: &[&std::ffi::OsStr]| Command::new(program).args(arguments).output().ok();
    let help = run(&["--help".as_ref()])?;
    if !String::from_utf8_lossy(&help.stdout).contains("--verify-journal") {
        return None;
    }
    let verified = run(&["--verify-journal".as_ref(), state.as_os_str()])?;
    let said =
        String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
    Some(if verified.status.success() { Ok(()) } else { Err(said) })
}

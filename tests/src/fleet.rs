//! A site for `loadonce sim`: a broker, an aggregator that serves one task of a backbone that exists in name only, and
//! the simulation as a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;

use crate::broker::Broker;
use crate::process::{Log, Observer, Process};
use crate::programs;
use crate::wait::until;

/// Name of the task and of the site.
const TASK: &str = "fleet";
const SITE: &str = "plant";

/// The module that the gateways contribute to.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// Classes.
    pub classes: usize,
    /// Features per exit.
    pub features: usize,
    /// Rank of the ladder.
    pub rank: usize,
}

/// What a broker needs for a large fleet: without it Mosquitto drops what a subscriber does not take at once.
const BROKER: &str = "max_queued_messages 0\n";
/// Gateways that come back in one second after a failure.
const RETURNS_PER_S: f64 = 1000.0;
/// Exits of the backbone.
const EXITS: usize = 3;

impl Module {
    /// A ladder of 40,106 parameters.
    pub const USUAL: Self = Self { classes: 78, features: 128, rank: 64 };
    /// A ladder of a few hundred, for tests.
    pub const SMALL: Self = Self { classes: 5, features: 12, rank: 8 };
}

/// See the module's documentation.
pub struct FleetSite {
    /// Its broker.
    pub broker: Broker,
    /// Its aggregator.
    pub aggregator: Process,
    folder: PathBuf,
    gateways: usize,
    module: Module,
}

/// One simulation.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// Rounds of steps.
    pub rounds: u64,
    /// One more, in which the broker fails.
    pub storm: bool,
    /// Seed of keys and contributions.
    pub seed: u64,
    /// Codec of steps, as the command line names it.
    pub codec: String,
    /// Distinct contributions of a round.
    pub distinct: usize,
    /// The broker alone, with a subscriber that does nothing.
    pub null: bool,
}

impl FleetSite {
    /// Starts broker and aggregator in `folder` for this many gateways, whose steps are encoded by `codec` as a manifest
    /// names it, and waits for neither.
    pub fn start(folder: &Path, gateways: usize, module: Module, steps: u64, codec: &str) -> Self {
        fs::create_dir_all(folder).expect("the folder can be made");
        let broker = Broker::start_with(folder, BROKER);
        let Module { classes, features, rank } = module;
        let classes: Vec<String> = (0..classes).map(|class| format!("\"{class}\"")).collect();
        let task = format!(
            "name = \"{TASK}\"\nkind = \"classify\"\nbackbone = \"sim\"\nclasses = [{}]\n\
             input = {{ modality = \"picture\" }}\n\
             module = {{ kind = \"ladder\", rank = {rank}, features = {features} }}\n\
             [rounds]\nquorum = {gateways}\nminimum = {gateways}\ndeadline_s = 0\nsteps = {steps}\n\
             [sync]\nspread_s = {}\ncodec = \"{codec}\"\n",
            classes.join(", "),
            gateways as f64 / RETURNS_PER_S
        );
        let config = format!(
            "site = \"{SITE}\"\nbroker = \"{}\"\nstate = \"state\"\ntasks = [\"task.toml\"]\nadmission = \"first-use\"\n\
             [[backbones]]\nname = \"sim\"\nfingerprint = \"{}\"\nexits = {EXITS}\ndirections = {features}\n",
            broker.url(),
            "5e".repeat(32)
        );
        let path = folder.join("aggregator.toml");
        for (path, text) in [(&folder.join("task.toml"), task), (&path, config)] {
            fs::write(path, text).expect("the folder can be written");
        }
        let log = Log::new(&folder.join("aggregator.log"));
        let mut command = Command::new(programs::aggregator());
        command.arg("--config").arg(&path).env("LOADONCE_LOG", "info");
        let aggregator = Process::start("aggregator", &mut command, &log, None);
        Self { broker, aggregator, folder: folder.to_owned(), gateways, module }
    }

    /// What the aggregator's `figures.json` says; null before there is one.
    pub fn figures(&self) -> Value {
        let text = fs::read(self.folder.join("state/figures.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Runs a simulation to its end and gives its figures; in a storm, the broker is killed and started again as soon
    /// as the gateways hold their work.
    pub fn simulate(&mut self, simulation: &Simulation) -> (ExitStatus, Value, Log) {
        let out = self.folder.join(if simulation.null { "null.json" } else { "sim.json" });
        // An older one must not be taken for this run's.
        let _absent = fs::remove_file(&out);
        let parameters = EXITS
            * (self.module.rank * (self.module.features + 2 + self.module.classes) + self.module.classes)
            - self.module.rank;
        let mut command = Command::new(programs::cli());
        command.args(["sim", "--broker", &self.broker.url(), "--site", SITE, "--task", TASK]);
        command.args(["--exits", &EXITS.to_string(), "--directions", &self.module.features.to_string()]);
        command.args(["--gateways", &self.gateways.to_string(), "--rounds", &simulation.rounds.to_string()]);
        command.args(["--seed", &simulation.seed.to_string(), "--codec", &simulation.codec]);
        command.args(["--distinct", &simulation.distinct.to_string()]);
        command.args(["--parameters", &parameters.to_string()]);
        command.arg("--out").arg(&out);
        if simulation.storm {
            command.arg("--storm");
        }
        if simulation.null {
            command.arg("--null");
        }
        let log = Log::new(&self.folder.join("sim.log"));
        let mut process = Process::start("sim", &mut command, &log, echo());
        if simulation.storm {
            let last = simulation.rounds + 2;
            until_or_end(&mut process, &format!("sim: round {last} (step): {} gateways", self.gateways));
            self.broker.kill();
            self.broker.restart();
        }
        while process.ended().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(50));
            if let (false, Some(status)) = (simulation.null, self.aggregator.ended()) {
                panic!("the aggregator ended with {status}");
            }
        }
        let status = process.wait();
        let report =
            fs::read(&out).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        (status, report, log)
    }
}

/// Shows a simulation's progress where somebody watches.
fn echo() -> Option<Observer> {
    std::env::var_os("FLEET_QUIET").is_none().then(|| {
        let observer: Observer = std::sync::Arc::new(|line: &str| eprintln!("{line}"));
        observer
    })
}

fn until_or_end(process: &mut Process, line: &str) {
    while process.log.find(0, &[line]).is_none() {
        if let Some(status) = process.ended() {
            panic!(
                "the simulation ended with {status} before it was ready for a storm:\n{}",
                process.log.tail()
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A line of `/proc/<pid>/status` in bytes.
pub fn status_bytes(process: &Process, key: &str) -> u64 {
    let path = format!("/proc/{}/status", process.pid().as_raw_nonzero());
    let line = until(key, || {
        fs::read_to_string(&path).ok()?.lines().find(|line| line.starts_with(key)).map(str::to_owned)
    });
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kilobytes * 1024
}

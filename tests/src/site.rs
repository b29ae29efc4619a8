//! A site: one broker, an aggregator, agents, each with its folder and configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadonce_store::{Slot, Slots};
use serde_json::Value;
use tempfile::TempDir;

use crate::broker::{Broker, Memory};
use crate::client::Client;
use crate::process::{Log, Observer, Process};
use crate::programs;
use crate::wait::{patience, within};

/// Name of every test's site.
pub const SITE: &str = "plant";

/// A task manifest and what the tests vary in it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Name and file name.
    pub name: &'static str,
    /// The lines that never vary.
    pub head: &'static str,
    /// Gateways that close a round, and without which none closes where there is no deadline.
    pub quorum: usize,
    /// Seconds after which one gateway's contribution closes a round; 0 for no deadline.
    pub deadline_s: u64,
    /// Gradient rounds.
    pub steps: u64,
    /// Labels without which a gateway contributes nothing.
    pub min_labels: usize,
    /// Further TOML at the end.
    pub more: String,
}

/// Reading stamped digits.
pub fn digits(quorum: usize, steps: u64, min_labels: usize) -> Task {
    let head = r#"name = "digits"
kind = "classify"
backbone = "sense-tiny"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
input = { modality = "picture" }
module = { kind = "ladder", rank = 16, features = 64 }"#;
    Task { name: "digits", head, quorum, deadline_s: 0, steps, min_labels, more: String::new() }
}

/// Telling motions apart.
pub fn motion(quorum: usize, steps: u64, min_labels: usize) -> Task {
    let head = r#"name = "motion"
kind = "classify"
backbone = "sense-tiny"
classes = ["badminton", "running", "standing", "walking"]
input = { modality = "window", channels = 6, length = 100 }
module = { kind = "ladder", rank = 16, features = 64 }"#;
    Task { name: "motion", head, quorum, deadline_s: 0, steps, min_labels, more: String::new() }
}

impl Task {
    /// The manifest's text.
    pub fn toml(&self) -> String {
        let Self { head, quorum, deadline_s, steps, min_labels, more, .. } = self;
        let minimum = if *deadline_s > 0 { 1 } else { *quorum };
        format!(
            "{head}\n[rounds]\nquorum = {quorum}\nminimum = {minimum}\ndeadline_s = {deadline_s}\nsteps = {steps}\n\
             [sync]\nsettle_s = 0.3\nspread_s = 0.2\nmin_labels = {min_labels}\nheldout = 0.2\n{more}\n"
        )
    }
}

/// A running program and its configuration.
pub struct Program {
    /// Its name: the gateway's, or `aggregator`.
    pub name: String,
    /// Its state folder.
    pub state: PathBuf,
    /// The process.
    pub process: Process,
    config: PathBuf,
    executable: PathBuf,
    observer: Option<Observer>,
}

/// How an agent differs from the usual one.
#[derive(Clone)]
pub struct AgentOptions {
    /// The program, if it is not the usual one.
    pub program: Option<PathBuf>,
    /// Folders of the bundles.
    pub bundles: Vec<PathBuf>,
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// Folder input.
    pub spool: Option<PathBuf>,
    /// The broker, if it is not the site's.
    pub broker: Option<String>,
    /// The broker of the data plane, if it is another one.
    pub data: Option<String>,
    /// Whether training gives way to everything else on the machine. Not where tests share it with builds.
    pub idle: bool,
    /// Is told of every line of the log.
    pub observer: Option<Observer>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            program: None,
            bundles: vec![programs::bundle()],
            library: programs::onnxruntime(),
            spool: None,
            broker: None,
            data: None,
            idle: false,
            observer: None,
        }
    }
}

/// How an aggregator differs from the usual one.
#[derive(Clone, Default)]
pub struct AggregatorOptions {
    /// The program, if it is not the usual one.
    pub program: Option<PathBuf>,
    /// Admits only these gateways and keys instead of any on first use.
    pub listed: Option<Vec<(String, String)>>,
    /// Folders of the bundles; the usual one where empty.
    pub bundles: Vec<PathBuf>,
    /// Is told of every line of the log.
    pub observer: Option<Observer>,
    /// Further lines of the configuration, at its end.
    pub more: String,
}

/// See the module's documentation.
pub struct Site {
    /// Its broker.
    pub broker: Broker,
    folder: PathBuf,
    /// Removed with the site, after everything that runs in it.
    temporary: Option<TempDir>,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// In a folder of its own, which goes with it.
    pub fn new() -> Self {
        let temporary = TempDir::new().expect("the system has a folder for temporary files");
        let mut site = Self::at(temporary.path());
        site.temporary = Some(temporary);
        site
    }

    /// In `folder`, which stays.
    pub fn at(folder: &Path) -> Self {
        Self::with_memory(folder, Memory::None)
    }

    /// In `folder`, which stays, with a broker that remembers as `memory` says.
    pub fn with_memory(folder: &Path, memory: Memory) -> Self {
        fs::create_dir_all(folder).expect("a temporary folder can be made");
        Self { broker: Broker::with_memory(folder, memory), folder: folder.to_owned(), temporary: None }
    }

    /// The site's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// State folder of a program.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.join("state").join(name)
    }

    /// What agents take for `/sys`: empty, whatever the machine says of its heat and its battery.
    pub fn sys(&self) -> PathBuf {
        self.folder.join("sys")
    }

    /// A client of the site's broker that receives `topics` below `loadonce/v1/<site>/`.
    pub fn client(&self, topics: &[&str]) -> Client {
        let topics: Vec<String> = topics.iter().map(|topic| topic_of(topic)).collect();
        Client::connect(self.broker.port, "test", &topics)
    }

    /// Starts an aggregator for `tasks`.
    pub fn aggregator(&self, tasks: &[Task], options: AggregatorOptions) -> Program {
        let state = self.state("aggregator");
        let mut names = Vec::new();
        for task in tasks {
            let path = self.folder.join(format!("{}.toml", task.name));
            fs::write(&path, task.toml()).expect("a temporary folder can be written");
            names.push(format!("{:?}", path.display().to_string()));
        }
        let (admission, gateways) = match options.listed {
            None => ("first-use", String::new()),
            Some(listed) => {
                let entry = |(name, key): &(String, String)| {
                    format!("[[gateways]]\nname = \"{name}\"\nkey = \"{key}\"\n")
                };
                ("listed", listed.iter().map(entry).collect())
            }
        };
        let bundles = if options.bundles.is_empty() { vec![programs::bundle()] } else { options.bundles };
        let each = |b: &PathBuf| format!("[[backbones]]\nbundle = \"{}\"\n", b.display());
        let bundles = bundles.iter().map(each).collect::<Vec<_>>().concat();
        let text = format!(
            "site = \"{SITE}\"\nbroker = \"{}\"\nstate = \"{}\"\ntasks = [{}]\nadmission = \"{admission}\"\n\
             {bundles}{gateways}{}",
            self.broker.url(),
            state.display(),
            names.join(", "),
            options.more,
        );
        let program = options.program.unwrap_or_else(programs::aggregator);
        self.launch("aggregator", program, &text, state, options.observer)
    }

    /// Starts an agent.
    pub fn agent(&self, name: &str, options: AgentOptions) -> Program {
        let text = self.agent_config(name, &options);
        let program = options.program.unwrap_or_else(programs::agent);
        self.launch(name, program, &text, self.state(name), options.observer)
    }

    /// The text of an agent's configuration.
    pub fn agent_config(&self, name: &str, options: &AgentOptions) -> String {
        let spool =
            options.spool.as_ref().map(|folder| format!("[spool]\nfolder = \"{}\"\n", folder.display()));
        let data = options.data.as_ref().map(|url| format!("[data]\nbroker = \"{url}\"\n"));
        format!(
            "site = \"{SITE}\"\ngateway = \"{name}\"\nstate = \"{}\"\n\
             [backbone]\nbundle = {:?}\nlibrary = \"{}\"\n\
             [uplink]\nbroker = \"{}\"\nbackoff_cap_s = 1\n{}[trust]\nfirst_use = true\n{}\
             [power]\nscheduling = \"{}\"\nsettle_s = 1\nsysfs = \"{}\"\n",
            self.state(name).display(),
            options.bundles,
            options.library.display(),
            options.broker.clone().unwrap_or_else(|| self.broker.url()),
            data.unwrap_or_default(),
            spool.unwrap_or_default(),
            if options.idle { "idle" } else { "normal" },
            self.sys().display(),
        )
    }

    fn launch(
        &self,
        name: &str,
        program: PathBuf,
        config: &str,
        state: PathBuf,
        observer: Option<Observer>,
    ) -> Program {
        launch(&self.folder, name, program, config, state, observer)
    }
}

/// Starts a program on the text of its configuration, which is kept in `folder` beside its log.
pub fn launch(
    folder: &Path,
    name: &str,
    program: PathBuf,
    config: &str,
    state: PathBuf,
    observer: Option<Observer>,
) -> Program {
    let path = folder.join(format!("{name}.conf.toml"));
    fs::write(&path, config).expect("a temporary folder can be written");
    let log = Log::new(&folder.join(format!("{name}.log")));
    let process = start(name, &program, &path, &log, observer.clone());
    Program { name: name.to_owned(), state, process, config: path, executable: program, observer }
}

/// A topic of the tests' site.
pub fn topic_of(rest: &str) -> String {
    format!("loadonce/v1/{SITE}/{rest}")
}

fn start(name: &str, program: &Path, config: &Path, log: &Log, observer: Option<Observer>) -> Process {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).env("LOADONCE_LOG", "info,boundary=debug");
    Process::start(name, &mut command, log, observer)
}

impl Program {
    /// Its log, over all its starts.
    pub fn log(&self) -> &Log {
        &self.process.log
    }

    /// Starts it again with the same configuration and state.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process =
            start(&self.name, &self.executable, &self.config, &self.process.log, self.observer.clone());
    }

    /// What its `figures.json` says; null before there is one.
    pub fn figures(&self) -> Value {
        let text = fs::read(self.state.join("figures.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The figures of `task`.
    pub fn task(&self, task: &str) -> Value {
        let figures = self.figures();
        match &figures["tasks"] {
            Value::Array(tasks) => tasks.iter().find(|t| t["name"] == task).cloned().unwrap_or_default(),
            tasks => tasks[task].clone(),
        }
    }

    /// Waits until the figures show `what`; the test ends when the process does.
    pub fn wait(&mut self, what: &str, shown: impl Fn(&Value) -> bool) -> Value {
        let name = self.name.clone();
        let found = within(patience(), &format!("sign in the figures of {name} that {what}"), || {
            if let Some(status) = self.process.ended() {
                panic!("{name} ended with {status} while waiting until {what}");
            }
            Some(self.figures()).filter(&shown)
        });
        found.unwrap_or_else(|late| panic!("{late}: {}", self.figures()))
    }

    /// Waits until the agent rests with `version` of `task`.
    pub fn wait_at_rest(&mut self, task: &str, version: u64) {
        self.wait(&format!("{task} rests at version {version}"), |figures| {
            let task = &figures["tasks"][task];
            task["at_rest"] == true && task["version"] == version
        });
    }

    /// Waits until a refusal was counted under `code`.
    pub fn wait_refusal(&mut self, code: &str) {
        self.wait(&format!("a refusal was counted as {code}"), |figures| {
            figures["refusals"][code].as_u64().is_some_and(|n| n > 0)
        });
    }

    /// The slot an agent serves `task` from.
    pub fn slot(&self, task: &str) -> Slot {
        self.slot_if_any(task).expect("a slot is active")
    }

    /// The same of an agent that may have got no version yet.
    pub fn slot_if_any(&self, task: &str) -> Option<Slot> {
        let mut slots =
            Slots::open(&self.state.join("slots").join(task)).expect("the slots' folder is there");
        slots.load().expect("the slot reads back")
    }
}

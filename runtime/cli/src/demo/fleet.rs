//! The fleet: one aggregator and the agents, each a process with a folder of its own.

use super::children::Child;
use super::error::DemoError;
use loadonce_control::Wants;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a process may take to end when asked.
const END: Duration = Duration::from_secs(15);
/// Pause between looks at the agents' figures.
const LOOK: Duration = Duration::from_millis(250);

/// What an agent says about a connection.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Traffic {
    /// Bytes to the broker, counted on the socket.
    pub(crate) bytes_up: u64,
    /// Bytes from the broker.
    pub(crate) bytes_down: u64,
    /// Connections made.
    pub(crate) connects: u64,
}

/// What an agent says about a task.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TaskFigures {
    /// Version served.
    pub(crate) version: u64,
    /// What the aggregator wants, as the agent knows it.
    pub(crate) wants: Option<Wants>,
    /// Labelled samples.
    pub(crate) labels: u64,
    /// Whether nothing is left to do.
    pub(crate) at_rest: bool,
    /// Answers per exit.
    pub(crate) exits: Vec<u64>,
}

/// What the demo reads of an agent's `figures.json`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Figures {
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// The backbone's part of it.
    pub(crate) backbone_bytes: u64,
    /// Why the agent writes nothing, if so.
    pub(crate) degraded: Option<String>,
    /// Uplink.
    pub(crate) uplink: Traffic,
    /// Data plane.
    pub(crate) data: Traffic,
    /// Tasks by name.
    pub(crate) tasks: BTreeMap<String, TaskFigures>,
}

/// What a fleet is made of.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Folder of the run.
    pub(crate) folder: &'a Path,
    /// Site name.
    pub(crate) site: &'a str,
    /// Broker URL.
    pub(crate) broker: &'a str,
    /// Gateway names.
    pub(crate) gateways: &'a [String],
    /// Program of the aggregator.
    pub(crate) aggregator: &'a Path,
    /// Program of the agents.
    pub(crate) agent: &'a Path,
    /// The backbone's bundle.
    pub(crate) bundle: &'a Path,
    /// ONNX Runtime, where it was found or named.
    pub(crate) library: Option<&'a Path>,
    /// Task manifests as TOML, by name.
    pub(crate) tasks: &'a [(String, String)],
}

/// The running processes.
#[derive(Debug)]
pub(crate) struct Fleet {
    aggregator: Child,
    agents: Vec<Child>,
    states: Vec<PathBuf>,
}

/// A TOML string: JSON's escapes are TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> Result<String, DemoError> {
    let what = || DemoError::Content {
        path: path.to_owned(),
        what: "the path is not UTF-8; choose another --out".into(),
    };
    path.to_str().map(quoted).ok_or_else(what)
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    std::fs::write(path, text).map_err(|source| DemoError::File {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

fn make(folder: PathBuf) -> Result<PathBuf, DemoError> {
    std::fs::create_dir_all(&folder).map_err(|source| DemoError::File {
        doing: "create",
        path: folder.clone(),
        source,
    })?;
    Ok(folder)
}

impl Fleet {
    /// Writes the configurations and starts every process.
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self, DemoError> {
        let folder = make(plan.folder.join("aggregator"))?;
        let tasks = make(folder.join("tasks"))?;
        let mut files = Vec::new();
        for (name, manifest) in plan.tasks {
            let file = tasks.join(format!("{name}.toml"));
            write(&file, manifest)?;
            files.push(file);
        }
        let config = folder.join("aggregator.toml");
        write(&config, &aggregator_config(plan, &folder.join("state"), &files)?)?;
        let aggregator =
            Child::start("the aggregator".into(), plan.aggregator, &config, folder.join("aggregator.log"))?;
        let mut fleet = Self { aggregator, agents: Vec::new(), states: Vec::new() };
        for gateway in plan.gateways {
            let folder = make(plan.folder.join(gateway))?;
            let state = folder.join("state");
            let config = folder.join("agent.toml");
            write(&config, &agent_config(plan, gateway, &state)?)?;
            fleet.agents.push(Child::start(gateway.clone(), plan.agent, &config, folder.join("agent.log"))?);
            fleet.states.push(state);
        }
        Ok(fleet)
    }

    /// An error once any process has ended.
    pub(crate) fn check(&mut self) -> Result<(), DemoError> {
        self.aggregator.check()?;
        self.agents.iter_mut().try_for_each(Child::check)
    }

    /// State folder of a gateway.
    pub(crate) fn state(&self, gateway: usize) -> &Path {
        &self.states[gateway]
    }

    /// Log file of a gateway.
    pub(crate) fn log(&self, gateway: usize) -> &Path {
        self.agents[gateway].log()
    }

    /// The agents' last figures; `None` where there are none yet. They are replaced by rename, so never half
    /// written.
    pub(crate) fn figures(&self) -> Vec<Option<Figures>> {
        let read =
            |state: &PathBuf| serde_json::from_slice(&std::fs::read(state.join("figures.json")).ok()?).ok();
        self.states.iter().map(read).collect()
    }

    /// Waits until every agent's figures satisfy `ready` (given the gateway's index), which otherwise says what it
    /// waits for. `tell` gets the figures at every look.
    pub(crate) async fn until(
        &mut self,
        waiting: &'static str,
        patience: Duration,
        ready: impl Fn(usize, &Figures) -> Result<(), String>,
        mut tell: impl FnMut(&[Option<Figures>]),
    ) -> Result<Vec<Figures>, DemoError> {
        let deadline = Instant::now() + patience;
        loop {
            self.check()?;
            let figures = self.figures();
            let states: Vec<Result<(), String>> = figures
                .iter()
                .enumerate()
                .map(|(gateway, figures)| match figures {
                    Some(figures) => ready(gateway, figures),
                    None => Err("no figures yet".to_owned()),
                })
                .collect();
            let behind = states.iter().position(Result::is_err);
            let Some(behind) = behind else {
                return Ok(figures.into_iter().flatten().collect());
            };
            tell(&figures);
            if Instant::now() > deadline {
                let state = states[behind].clone().err().unwrap_or_default();
                return Err(self.late(waiting, patience, behind, state));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The error for a gateway that does not get where it should.
    pub(crate) fn late(
        &self,
        waiting: &'static str,
        patience: Duration,
        gateway: usize,
        state: String,
    ) -> DemoError {
        let agent = &self.agents[gateway];
        DemoError::Late {
            waiting,
            seconds: patience.as_secs(),
            name: agent.name().to_owned(),
            state,
            log: agent.log().to_owned(),
            tail: agent.tail(),
        }
    }

    /// Ends every process and makes sure that each ended well: agents first, so that their goodbyes find the
    /// aggregator.
    pub(crate) async fn end(mut self) -> Result<(), DemoError> {
        let deadline = Instant::now() + END;
        for agent in &mut self.agents {
            agent.ask_to_end();
        }
        for agent in &mut self.agents {
            agent.ended_well(deadline).await?;
        }
        self.aggregator.ask_to_end();
        self.aggregator.ended_well(deadline).await
    }
}

fn agent_config(plan: &Plan<'_>, gateway: &str, state: &Path) -> Result<String, DemoError> {
    let mut text = format!(
        "site = {}\ngateway = {}\nstate = {}\n\n[backbone]\nbundle = {}\n",
        quoted(plan.site),
        quoted(gateway),
        quoted_path(state)?,
        quoted_path(plan.bundle)?,
    );
    if let Some(library) = plan.library {
        writeln!(text, "library = {}", quoted_path(library)?).expect("a String takes any text");
    }
    write!(text, "threads = 1\n\n[uplink]\nbroker = {}\n\n[trust]\nfirst_use = true\n", quoted(plan.broker))
        .expect("a String takes any text");
    // Ten gateways share this machine; its heat and a laptop's battery are not theirs.
    let sysfs = quoted_path(&state.join("sys"))?;
    write!(text, "\n[power]\nscheduling = \"normal\"\nsysfs = {sysfs}\n").expect("a String takes any text");
    Ok(text)
}

fn aggregator_config(plan: &Plan<'_>, state: &Path, tasks: &[PathBuf]) -> Result<String, DemoError> {
    let tasks = tasks.iter().map(|path| quoted_path(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!(
        "site = {}\nbroker = {}\nstate = {}\ntasks = [{}]\nadmission = \"first-use\"\n\n[[backbones]]\nbundle = {}\n",
        quoted(plan.site),
        quoted(plan.broker),
        quoted_path(state)?,
        tasks.join(", "),
        quoted_path(plan.bundle)?,
    ))
}

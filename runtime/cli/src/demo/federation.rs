//! One federation, from the first process to the figures.

use super::error::DemoError;
use super::evaluate::{Alone, Judge, Module};
use super::fleet::{Figures, Fleet, Plan};
use super::further::Further;
use super::metrics::{class_mix, mean};
use super::partition::{by_mix, dealt_out, draw};
use super::plant::{Answered, Plant, Shipment, Stopped};
use super::progress::Progress;
use super::report::{AgentMemory, Bytes, PerGateway, Run, TaskRun};
use super::rounds;
use crate::data::DataSet;
use loadonce_backbone::Backbone;
use loadonce_control::{TaskManifest, Wants};
use loadonce_module::{ModuleFile, Random, Role};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Labels of a gateway for a task whose samples are drawn.
const LABELS: usize = 20;
/// Unlabelled samples of a gateway for such a task. 299 without a disagreement are the least that open an early
/// exit at the default policy; a few disagreements must be afforded too.
const UNLABELLED: usize = 500;
/// Test samples per gateway and task.
const TESTS: usize = 60;
/// The same with `--quick`.
const QUICK_TESTS: usize = 10;

/// What all federations of a call share.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Program of the agents.
    pub(crate) agent: PathBuf,
    /// Program of the aggregator.
    pub(crate) aggregator: PathBuf,
    /// The backbone's bundle.
    pub(crate) bundle: PathBuf,
    /// ONNX Runtime, where it was found or named.
    pub(crate) library: Option<PathBuf>,
    /// The same backbone in this process, for the judge.
    pub(crate) backbone: Arc<Backbone>,
    /// Broker URL.
    pub(crate) broker: String,
    /// Sets the demo apart from what else meets on the broker; empty on the embedded one.
    pub(crate) suffix: String,
    /// Gateway names.
    pub(crate) gateways: Vec<String>,
    /// Tasks.
    pub(crate) tasks: Arc<Vec<TaskSetup>>,
    /// Tasks of the other kinds.
    pub(crate) further: Arc<Vec<Further>>,
    /// Folder for runs.
    pub(crate) out: PathBuf,
    /// Whether a run's folder is kept.
    pub(crate) keep: bool,
    /// How long a stage may take without progress.
    pub(crate) patience: Duration,
}

/// A task of the demo.
#[derive(Debug)]
pub(crate) struct TaskSetup {
    /// The manifest, quorum set to the number of gateways.
    pub(crate) manifest: TaskManifest,
    /// The same as TOML, for the aggregator.
    pub(crate) toml: String,
    /// The data.
    pub(crate) data: DataSet,
    /// Whether all training samples are dealt out; otherwise each gateway draws [`LABELS`].
    dealt_out: bool,
    /// Unlabelled samples of each gateway.
    unlabelled: usize,
    /// Test samples of each gateway.
    tests: usize,
}

impl TaskSetup {
    /// Reads `tasks/<name>.toml` and `data/<name>.safetensors` below `models`.
    pub(crate) fn read(models: &Path, name: &str, gateways: usize, quick: bool) -> Result<Self, DemoError> {
        let path = models.join("tasks").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).map_err(|source| DemoError::File {
            doing: "read",
            path: path.clone(),
            source,
        })?;
        let content = |what: String| DemoError::Content { path: path.clone(), what };
        let toml = with_quorum(&text, gateways);
        let manifest = TaskManifest::from_toml(&toml).map_err(|e| content(e.to_string()))?;
        if manifest.name != name || manifest.rounds.quorum != gateways {
            return Err(content(format!(
                "must be named `{name}` and have a line `quorum = …` under [rounds]"
            )));
        }
        let data = DataSet::read(&models.join("data").join(format!("{name}.safetensors")))?;
        // Recordings are few: too few to draw from and to prove anything about early exits.
        let dealt_out = data.train.len() < LABELS * gateways;
        let unlabelled = if quick || dealt_out { 0 } else { UNLABELLED };
        let tests = if quick { QUICK_TESTS } else { TESTS };
        Ok(Self { manifest, toml, data, dealt_out, unlabelled, tests })
    }
}

/// The manifest's text with another quorum. Deadlines stay, so a gateway that is lost cannot stop the demo.
fn with_quorum(toml: &str, gateways: usize) -> String {
    let line = |line: &str| {
        if line.trim_start().starts_with("quorum") {
            format!("quorum = {gateways}\n")
        } else {
            format!("{line}\n")
        }
    };
    toml.lines().map(line).collect()
}

/// Which gateway sends what, for one task.
#[derive(Debug, Clone)]
struct Split {
    /// Labelled samples of each gateway.
    labelled: Vec<Vec<usize>>,
    /// Their labels.
    labels: Vec<Vec<u16>>,
    /// Unlabelled samples of each gateway.
    unlabelled: Vec<Vec<usize>>,
    /// Test samples of each gateway.
    tests: Vec<Vec<usize>>,
}

impl Split {
    fn draw(task: &TaskSetup, gateways: usize, random: &mut Random) -> Option<Self> {
        let pool = task.data.pool();
        let labelled = if task.dealt_out {
            dealt_out(random, &pool, gateways)?
        } else {
            by_mix(random, pool.clone(), gateways, LABELS)?
        };
        let labels: Vec<Vec<u16>> = labelled.iter().map(|own| task.data.labels_of(own)).collect();
        let test = task.data.by_class(&task.data.test);
        // What any gateway trains on would make the early exits look surer than they are.
        let trained_on: HashSet<usize> = labelled.iter().flatten().copied().collect();
        let rest: Vec<Vec<usize>> = pool
            .iter()
            .map(|class| class.iter().copied().filter(|sample| !trained_on.contains(sample)).collect())
            .collect();
        let (mut unlabelled, mut tests) = (Vec::new(), Vec::new());
        for labels in &labels {
            let mix = class_mix(labels, pool.len());
            unlabelled.push(stream(random, &rest, &mix, task.unlabelled));
            tests.push(stream(random, &test, &mix, task.tests));
        }
        Some(Self { labelled, labels, unlabelled, tests })
    }
}

/// `n` independent draws by class mix from `pool`, as a line would bring them.
fn stream(random: &mut Random, pool: &[Vec<usize>], mix: &[f64], n: usize) -> Vec<usize> {
    let weights: Vec<f64> =
        pool.iter().zip(mix).map(|(class, share)| if class.is_empty() { 0.0 } else { *share }).collect();
    (0..n)
        .filter_map(|_| {
            let class = &pool[draw(random, &weights)?];
            Some(class[random.below(class.len())])
        })
        .collect()
}

/// Runs one federation.
pub(crate) async fn run(setup: &Setup, seed: u64, progress: &mut Progress) -> Result<Run, DemoError> {
    let started = Instant::now();
    let folder = setup.out.join(format!("run-{seed}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|source| DemoError::File {
            doing: "remove",
            path: folder.clone(),
            source,
        })?;
    }
    let site = format!("demo-{seed}{}", setup.suffix);
    let splits = split(setup, seed)?;
    let names: Vec<String> = setup.tasks.iter().map(|task| task.manifest.name.clone()).collect();
    let further: Vec<String> = setup.further.iter().map(|task| task.manifest.name.clone()).collect();
    let all: Vec<String> = names.iter().chain(&further).cloned().collect();
    let texts = setup.tasks.iter().map(|task| &task.toml);
    let texts = texts.chain(setup.further.iter().map(|task| &task.toml)).cloned();
    let tasks: Vec<(String, String)> = all.iter().cloned().zip(texts).collect();
    let mut fleet = Fleet::start(&Plan {
        folder: &folder,
        site: &site,
        broker: &setup.broker,
        gateways: &setup.gateways,
        aggregator: &setup.aggregator,
        agent: &setup.agent,
        bundle: &setup.bundle,
        library: setup.library.as_deref(),
        tasks: &tasks,
    })?;
    progress.stage(&format!(
        "started 1 aggregator and {} agents in {}",
        setup.gateways.len(),
        short(&folder).display()
    ));
    let mut plant = Plant::connect(&setup.broker, None, &site, setup.gateways.clone(), all).await?;
    let mut stage = Stage { setup, fleet: &mut fleet, plant: &mut plant, progress, names: &names };
    let learned = stage.learn(&splits).await?;
    let answers = stage.test(&splits).await?;
    let modules = stage.modules()?;
    let (alone, further_answers) = stage.further(&further).await?;
    let unchanged = stage.modules()? == modules;
    let figures = stage.last_figures(&splits).await?;
    fleet.end().await?;
    plant.tidy_up(setup.backbone.bundle().fingerprint()).await?;

    if !unchanged {
        let what = "training the further tasks changed the modules of the others".to_owned();
        return Err(DemoError::Nonsense { what, folder });
    }
    let lineages = rounds::read(&folder.join("aggregator").join("state"), &names)?;
    let nonsense = |what: String| DemoError::Nonsense { what, folder: folder.clone() };
    let mut task_runs = Vec::new();
    for (task, judged) in learned.iter().enumerate() {
        let slots: Vec<&Slot> = modules.iter().map(|gateway| &gateway[task]).collect();
        let live: Vec<&Answered> = answers.iter().filter(|answer| answer.shipment.task == task).collect();
        let name = &names[task];
        let versions: Vec<u64> =
            figures.iter().filter_map(|f| f.tasks.get(name)).map(|f| f.version).collect();
        let run = judged.run(setup, &splits[task], &slots, &live, &versions, task).map_err(nonsense)?;
        if run.versions != lineages[task].len() as u64 {
            let what = format!(
                "task {name}: gateways hold version {}, the lineage has {}",
                run.versions,
                lineages[task].len()
            );
            return Err(nonsense(what));
        }
        task_runs.push(run);
    }
    let mut further_runs = Vec::new();
    for (index, (task, alone)) in setup.further.iter().zip(alone).enumerate() {
        let at = names.len() + index;
        let live: Vec<&Answered> = further_answers.iter().filter(|a| a.shipment.task == at).collect();
        let versions = figures.iter().filter_map(|f| f.tasks.get(&further[index])).map(|f| f.version);
        let run = task.run(alone, &live, versions.max().unwrap_or(0));
        further_runs.push(run.map_err(nonsense)?);
    }
    let longest = lineages.iter().max_by_key(|rounds| rounds.len()).cloned().unwrap_or_default();
    let sum = |figure: &dyn Fn(&Figures) -> u64| figures.iter().map(figure).sum::<u64>();
    let bytes = Bytes::new(
        sum(&|figures| figures.uplink.bytes_up),
        sum(&|figures| figures.uplink.bytes_down),
        setup.backbone.bundle().fp32_bytes(),
        longest.iter().sum(),
    );
    let largest = figures.iter().max_by_key(|figures| figures.rss_bytes);
    let agent = largest.map_or(AgentMemory { rss_mb: 0.0, backbone_mb: 0.0 }, |figures| AgentMemory {
        rss_mb: figures.rss_bytes as f64 / 1e6,
        backbone_mb: figures.backbone_bytes as f64 / 1e6,
    });
    let run = Run {
        seed,
        tasks: task_runs,
        further: further_runs,
        bytes,
        agent,
        rounds: longest.len() as u64,
        seconds: started.elapsed().as_secs_f64(),
    };
    check(&run).map_err(nonsense)?;
    if !setup.keep {
        std::fs::remove_dir_all(&folder).map_err(|source| DemoError::File {
            doing: "remove",
            path: folder.clone(),
            source,
        })?;
    }
    Ok(run)
}

fn split(setup: &Setup, seed: u64) -> Result<Vec<Split>, DemoError> {
    let draw = |(index, task): (usize, &TaskSetup)| {
        // A stream of its own for every task, so that a change in one does not move the other.
        let mut random = Random::new(seed.wrapping_mul(1000).wrapping_add(index as u64));
        Split::draw(task, setup.gateways.len(), &mut random).ok_or_else(|| DemoError::Usage {
            what: format!(
                "task {} has too few samples for {} gateways",
                task.manifest.name,
                setup.gateways.len()
            ),
        })
    };
    setup.tasks.iter().enumerate().map(draw).collect()
}

/// A path as a person would type it here.
fn short(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

/// Figures that cannot be right.
fn check(run: &Run) -> Result<(), String> {
    if run.bytes.up == 0 || run.bytes.down == 0 {
        return Err("the uplinks carried no bytes".into());
    }
    if run.agent.rss_mb <= 0.0 {
        return Err("the agents report no memory".into());
    }
    for task in &run.tasks {
        let all =
            [&task.accuracy.before, &task.accuracy.alone, &task.accuracy.shared, &task.accuracy.federated];
        if all.iter().any(|list| list.iter().any(|share| !(0.0..=1.0).contains(share))) {
            return Err(format!("task {}: an accuracy is outside 0 to 1", task.name));
        }
        if mean(&task.accuracy.federated) <= mean(&task.accuracy.before) {
            return Err(format!("task {}: the personal modules are no better than none", task.name));
        }
    }
    Ok(())
}

/// What was learned about a task while the fleet worked.
struct Judged {
    judge: Judge,
    alone: Alone,
}

struct Stage<'a> {
    setup: &'a Setup,
    fleet: &'a mut Fleet,
    plant: &'a mut Plant,
    progress: &'a mut Progress,
    names: &'a [String],
}

impl Stage<'_> {
    /// Sends samples and labels and waits until the lineages rest; the judge works meanwhile.
    async fn learn(&mut self, splits: &[Split]) -> Result<Vec<Judged>, DemoError> {
        let (patience, names) = (self.setup.patience, self.names);
        let served = |_: usize, figures: &Figures| match &figures.degraded {
            Some(why) => Err(format!("degraded: {why}")),
            None if figures.uplink.connects == 0 || figures.data.connects == 0 => Err("not connected".into()),
            None if names
                .iter()
                .all(|name| figures.tasks.get(name).is_some_and(|task| task.wants.is_some())) =>
            {
                Ok(())
            }
            None => Err("tasks have not arrived".into()),
        };
        let progress = &mut *self.progress;
        self.fleet
            .until("connecting the agents", patience, served, |figures| {
                progress.update(|| {
                    let there = figures.iter().flatten().filter(|figures| served(0, figures).is_ok()).count();
                    vec![format!("{there} of {} agents are connected and know their tasks", figures.len())]
                });
            })
            .await?;

        let labelled = |task: usize, gateway: usize| {
            let own = splits[task].labelled[gateway].iter().enumerate();
            own.map(move |(i, &sample)| Shipment { task, sample, id: format!("label-{i}") })
        };
        let mut queues = self.queues(self.names.len(), |task, gateway| {
            let line = splits[task].unlabelled[gateway].iter().enumerate();
            let line = line.map(|(i, &sample)| Shipment { task, sample, id: format!("line-{i}") });
            line.chain(labelled(task, gateway)).collect()
        });
        let count: usize = queues.iter().map(VecDeque::len).sum();
        self.progress
            .stage(&format!("sending {count} samples over the data plane, before there is any module"));
        self.exchange(std::mem::take(&mut queues), payloads(self.setup)).await?;

        let labels: usize = splits.iter().flat_map(|split| &split.labels).map(Vec::len).sum();
        self.progress.stage(&format!("labelling {labels} of them"));
        for gateway in 0..self.setup.gateways.len() {
            for task in 0..names.len() {
                for shipment in labelled(task, gateway) {
                    let data = &self.setup.tasks[task].data;
                    let label = &data.classes[usize::from(data.labels[shipment.sample])];
                    self.plant.label(gateway, &shipment, label).await?;
                }
            }
        }
        let judged = tokio::task::spawn_blocking({
            let (backbone, tasks) = (Arc::clone(&self.setup.backbone), Arc::clone(&self.setup.tasks));
            let splits = splits.to_vec();
            move || judge(&backbone, &tasks, &splits)
        });
        let resting = |gateway: usize, figures: &Figures| rests(figures, names, splits, gateway);
        let progress = &mut *self.progress;
        self.fleet
            .until("learning", patience, resting, |figures| progress.update(|| lineages(figures, names)))
            .await?;
        self.progress.stage("the lineages rest; comparing with training alone");
        judged.await.map_err(|e| DemoError::Backbone(format!("the judge stopped: {e}")))?
    }

    /// Sends every gateway's test samples; what comes back is what the plant would get.
    async fn test(&mut self, splits: &[Split]) -> Result<Vec<Answered>, DemoError> {
        let queues = self.queues(self.names.len(), |task, gateway| {
            let own = splits[task].tests[gateway].iter().enumerate();
            own.map(|(i, &sample)| Shipment { task, sample, id: format!("test-{i}") }).collect()
        });
        let count: usize = queues.iter().map(VecDeque::len).sum();
        self.progress.stage(&format!("sending {count} test samples for live predictions"));
        self.exchange(queues, payloads(self.setup)).await
    }

    /// The modules of the tasks, gateway by gateway.
    fn modules(&self) -> Result<Vec<Vec<Slot>>, DemoError> {
        let of = |gateway| {
            self.names
                .iter()
                .map(|task| Slot::read(self.fleet.state(gateway), task))
                .collect::<Result<_, _>>()
        };
        (0..self.setup.gateways.len()).map(of).collect()
    }

    /// Teaches the tasks of the other kinds, with one contribution of each gateway, and asks every gateway the same.
    /// Gives what each would have reached alone, task by task, and the live answers.
    async fn further(&mut self, names: &[String]) -> Result<(Vec<Vec<f64>>, Vec<Answered>), DemoError> {
        let tasks = Arc::clone(&self.setup.further);
        let first = self.names.len();
        let payloads = Arc::clone(&tasks);
        let payload =
            move |shipment: &Shipment| payloads[shipment.task - first].payloads[shipment.sample].clone();
        let ship = |rows: &dyn Fn(usize, usize) -> Vec<usize>| {
            self.queues(names.len(), |task, gateway| {
                let own = rows(task, gateway).into_iter();
                own.map(|row| Shipment { task: first + task, sample: row, id: format!("row-{row}") })
                    .collect()
            })
        };
        let queues = ship(&|task, gateway| tasks[task].sent[gateway].clone());
        let tests = ship(&|task, _| tasks[task].tests.clone());
        let count: usize = queues.iter().map(VecDeque::len).sum();
        self.progress.stage(&format!(
            "sending {count} samples of two further tasks, {} and {}; nobody labels them",
            names[0], names[1]
        ));
        let (backbone, judged) = (Arc::clone(&self.setup.backbone), Arc::clone(&tasks));
        let alone = tokio::task::spawn_blocking(move || {
            judged.iter().map(|task| task.alone(&backbone)).collect::<Result<Vec<_>, _>>()
        });
        self.exchange(queues, &payload).await?;
        let resting = |gateway: usize, figures: &Figures| {
            for (task, name) in tasks.iter().zip(names) {
                let labels = task.labelled[gateway].len() as u64;
                let Some(own) = figures.tasks.get(name) else { return Err(format!("task {name} is gone")) };
                if own.labels != labels || own.version == 0 || !own.at_rest {
                    return Err(format!(
                        "{name}: {} of {labels} labels, version {}, at rest {}",
                        own.labels, own.version, own.at_rest
                    ));
                }
            }
            Ok(())
        };
        let progress = &mut *self.progress;
        self.fleet
            .until("learning the further tasks", self.setup.patience, resting, |figures| {
                progress.update(|| lineages(figures, names));
            })
            .await?;
        let count: usize = tests.iter().map(VecDeque::len).sum();
        self.progress.stage(&format!("sending {count} test samples of the further tasks"));
        let answers = self.exchange(tests, &payload).await?;
        let alone = alone.await.map_err(|e| DemoError::Backbone(format!("the judge stopped: {e}")))??;
        Ok((alone, answers))
    }

    /// Figures that have seen everything that was sent.
    async fn last_figures(&mut self, splits: &[Split]) -> Result<Vec<Figures>, DemoError> {
        let names = self.names;
        let tests: u64 =
            splits.iter().filter_map(|split| split.tests.first()).map(|own| own.len() as u64).sum();
        let seen = |gateway: usize, figures: &Figures| {
            rests(figures, names, splits, gateway)?;
            let answers: u64 = figures.tasks.values().flat_map(|task| &task.exits).sum();
            if answers >= tests { Ok(()) } else { Err(format!("{answers} of {tests} predictions counted")) }
        };
        self.fleet.until("the last figures", self.setup.patience, seen, |_| {}).await
    }

    fn queues(&self, tasks: usize, own: impl Fn(usize, usize) -> Vec<Shipment>) -> Vec<VecDeque<Shipment>> {
        (0..self.setup.gateways.len())
            .map(|gateway| {
                // Task by task in turn, as both lines run side by side.
                let mut lists: Vec<_> = (0..tasks).map(|task| own(task, gateway).into_iter()).collect();
                let mut queue = VecDeque::new();
                loop {
                    let before = queue.len();
                    for list in &mut lists {
                        queue.extend(list.next());
                    }
                    if queue.len() == before {
                        return queue;
                    }
                }
            })
            .collect()
    }

    async fn exchange(
        &mut self,
        queues: Vec<VecDeque<Shipment>>,
        payload: impl Fn(&Shipment) -> Vec<u8>,
    ) -> Result<Vec<Answered>, DemoError> {
        let total: usize = queues.iter().map(VecDeque::len).sum();
        let (fleet, progress) = (&mut *self.fleet, &mut *self.progress);
        let look = |answered: usize| {
            progress.update(|| vec![format!("{answered} of {total} answered")]);
            fleet.check()
        };
        let patience = self.setup.patience;
        self.plant.exchange(queues, payload, patience, look).await.map_err(|stopped| match stopped {
            Stopped::Error(error) => error,
            Stopped::Silent(gateway, missing) => {
                let state = format!("{missing} answers are missing");
                self.fleet.late("answering samples", patience, gateway, state)
            }
            Stopped::Refused(gateway, sample, what) => DemoError::Refused {
                gateway: self.setup.gateways[gateway].clone(),
                sample,
                what,
                log: self.fleet.log(gateway).to_owned(),
            },
        })
    }
}

/// What is sent of a shipment of the tasks.
fn payloads(setup: &Setup) -> impl Fn(&Shipment) -> Vec<u8> + use<> {
    let tasks = Arc::clone(&setup.tasks);
    move |shipment| tasks[shipment.task].data.payloads[shipment.sample].clone()
}

/// Whether an agent has all its labels, and every lineage is finished and installed.
fn rests(figures: &Figures, names: &[String], splits: &[Split], gateway: usize) -> Result<(), String> {
    for (name, split) in names.iter().zip(splits) {
        let Some(task) = figures.tasks.get(name) else { return Err(format!("task {name} is gone")) };
        let labels = split.labels[gateway].len() as u64;
        if task.labels != labels || task.version == 0 || !task.at_rest || task.wants == Some(Wants::Step) {
            return Err(format!(
                "{name}: {} of {labels} labels, version {}, at rest {}, wants {:?}",
                task.labels, task.version, task.at_rest, task.wants
            ));
        }
    }
    Ok(())
}

/// One line per task: where its gateways are.
fn lineages(figures: &[Option<Figures>], names: &[String]) -> Vec<String> {
    let line = |name: &String| {
        let tasks: Vec<_> = figures.iter().map(|f| f.as_ref().and_then(|f| f.tasks.get(name))).collect();
        let versions: Vec<String> =
            tasks.iter().map(|t| t.map_or("-".into(), |t| t.version.to_string())).collect();
        let resting = tasks.iter().flatten().filter(|task| task.at_rest).count();
        format!("{name}: versions {}, {resting} of {} gateways at rest", versions.join(" "), figures.len())
    };
    names.iter().map(line).collect()
}

fn judge(backbone: &Backbone, tasks: &[TaskSetup], splits: &[Split]) -> Result<Vec<Judged>, DemoError> {
    let one = |(task, split): (&TaskSetup, &Split)| {
        let labelled = split.labelled.iter().flatten().copied();
        let judge = Judge::new(backbone, task.manifest.clone(), &task.data, labelled)?;
        let alone = judge.alone(&split.labelled, &split.labels)?;
        Ok(Judged { judge, alone })
    };
    tasks.iter().zip(splits).map(one).collect()
}

/// The active slot of a gateway's task.
#[derive(PartialEq)]
struct Slot {
    shared_bytes: Vec<u8>,
    shared: ModuleFile,
    personal: ModuleFile,
    kept: String,
}

impl Slot {
    fn read(state: &Path, task: &str) -> Result<Self, DemoError> {
        let folder = state.join("slots").join(task);
        let file = |path: PathBuf| {
            std::fs::read(&path).map_err(|source| DemoError::File { doing: "read", path, source })
        };
        let active = file(folder.join("active"))?;
        let active = folder.join(String::from_utf8_lossy(&active).trim());
        let module = |bytes: &[u8], role, name| {
            let path = active.join(name);
            let content = |what: String| DemoError::Content { path: path.clone(), what };
            let module = ModuleFile::decode(bytes).map_err(|e| content(e.to_string()))?;
            if module.role == role { Ok(module) } else { Err(content(format!("its role is not {role:?}"))) }
        };
        let (shared_name, personal_name) = ("shared.safetensors", "personal.safetensors");
        let shared_bytes = file(active.join(shared_name))?;
        let shared = module(&shared_bytes, Role::Shared, shared_name)?;
        let personal = module(&file(active.join(personal_name))?, Role::Personal, personal_name)?;
        let info: serde_json::Value =
            serde_json::from_slice(&file(active.join("slot.json"))?).unwrap_or(serde_json::Value::Null);
        let kept = info["kept"].as_str().unwrap_or("unknown").to_owned();
        Ok(Self { shared_bytes, shared, personal, kept })
    }
}

impl Judged {
    /// The figures of one task; an error says what contradicts what.
    fn run(
        &self,
        setup: &Setup,
        split: &Split,
        slots: &[&Slot],
        live: &[&Answered],
        versions: &[u64],
        task: usize,
    ) -> Result<TaskRun, String> {
        let judge = &self.judge;
        let name = judge.manifest.name.clone();
        let first = slots.first().ok_or("there is no gateway")?;
        if let Some(other) = slots.iter().position(|slot| slot.shared_bytes != first.shared_bytes) {
            return Err(format!(
                "task {name}: the shared modules of {} and {} differ",
                setup.gateways[0], setup.gateways[other]
            ));
        }
        if versions.iter().any(|&version| version != first.shared.version) {
            return Err(format!(
                "task {name}: gateways report versions {versions:?}, slots hold {}",
                first.shared.version
            ));
        }
        let outputs = judge.manifest.classes.len();
        let shared = Module {
            params: first.shared.params.clone(),
            offset: vec![0.0; outputs],
            shape: first.shared.shape,
        };
        let shared_answers = judge.answers(&shared);
        let mut accuracy = PerGateway { alone: self.alone.accuracy.clone(), ..PerGateway::default() };
        let mut offline = Vec::new();
        for (slot, labels) in slots.iter().zip(&split.labels) {
            let mix = class_mix(labels, outputs);
            let personal = Module {
                params: slot.personal.params.clone(),
                offset: slot.personal.offset.clone(),
                shape: slot.personal.shape,
            };
            let answers = judge.answers(&personal);
            accuracy.before.push(judge.before(labels));
            accuracy.shared.push(judge.accuracy(&shared_answers, &mix));
            accuracy.federated.push(judge.accuracy(&answers, &mix));
            offline.push(answers);
        }
        let data = &setup.tasks[task].data;
        let mut exits = vec![0; judge.shape.exits];
        let (mut right, mut same) = (0usize, 0usize);
        for answer in live {
            let Some(exit) = answer.prediction.exit.checked_sub(1).and_then(|exit| exits.get_mut(exit))
            else {
                return Err(format!("task {name}: a prediction names exit {}", answer.prediction.exit));
            };
            *exit += 1;
            let given = answer.prediction.label.as_ref();
            let class = |class: u16| Some(&data.classes[usize::from(class)]);
            right += usize::from(given == class(data.labels[answer.shipment.sample]));
            let at = data.test.iter().position(|&sample| sample == answer.shipment.sample);
            same += usize::from(at.is_some_and(|at| given == class(offline[answer.gateway][at])));
        }
        let answered = live.len().max(1) as f64;
        let mut kept: BTreeMap<String, u64> = BTreeMap::new();
        for slot in slots {
            *kept.entry(slot.kept.clone()).or_default() += 1;
        }
        Ok(TaskRun {
            name,
            accuracy,
            even_test: judge.even(&shared_answers),
            alone_recipe: self.alone.recipe.clone(),
            alone_tried: self.alone.tried.clone(),
            labels: split.labels.iter().map(Vec::len).collect(),
            versions: first.shared.version,
            exits,
            live_accuracy: right as f64 / answered,
            agreement: same as f64 / answered,
            kept: kept.into_iter().collect(),
        })
    }
}

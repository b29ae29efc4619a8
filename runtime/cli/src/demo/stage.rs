//! The stages of a federation: teaching, asking, and waiting until all rests.

use super::error::DemoError;
use super::fleet::{Figures, Fleet};
use super::judged::{Judged, Slot, judge};
use super::plant::{Answered, Plant, Shipment, Stopped};
use super::progress::Progress;
use super::setup::{Setup, Split};
use loadonce_control::Wants;
use std::collections::VecDeque;
use std::sync::Arc;

/// A running fleet and what is around it.
pub(super) struct Stage<'a> {
    pub(super) setup: &'a Setup,
    pub(super) fleet: &'a mut Fleet,
    pub(super) plant: &'a mut Plant,
    pub(super) progress: &'a mut Progress,
    pub(super) names: &'a [String],
}

impl Stage<'_> {
    /// Sends samples and labels and waits until the lineages rest; the judge works meanwhile.
    pub(super) async fn learn(&mut self, splits: &[Split]) -> Result<Vec<Judged>, DemoError> {
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
    pub(super) async fn test(&mut self, splits: &[Split]) -> Result<Vec<Answered>, DemoError> {
        let queues = self.queues(self.names.len(), |task, gateway| {
            let own = splits[task].tests[gateway].iter().enumerate();
            own.map(|(i, &sample)| Shipment { task, sample, id: format!("test-{i}") }).collect()
        });
        let count: usize = queues.iter().map(VecDeque::len).sum();
        self.progress.stage(&format!("sending {count} test samples for live predictions"));
        self.exchange(queues, payloads(self.setup)).await
    }

    /// The modules of the tasks, gateway by gateway.
    pub(super) fn modules(&self) -> Result<Vec<Vec<Slot>>, DemoError> {
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
    pub(super) async fn further(
        &mut self,
        names: &[String],
    ) -> Result<(Vec<Vec<f64>>, Vec<Answered>), DemoError> {
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
    pub(super) async fn last_figures(&mut self, splits: &[Split]) -> Result<Vec<Figures>, DemoError> {
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

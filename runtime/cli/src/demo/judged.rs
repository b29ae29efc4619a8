//! What is in the gateways' slots and what it is worth, against the same samples in this process.

use super::error::DemoError;
use super::evaluate::{Alone, Judge, Module};
use super::metrics::class_mix;
use super::plant::Answered;
use super::report::{PerGateway, TaskRun};
use super::setup::{Setup, Split, TaskSetup};
use loadonce_backbone::Backbone;
use loadonce_module::{ModuleFile, Role};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was learned about a task while the fleet worked.
pub(super) struct Judged {
    judge: Judge,
    alone: Alone,
}
/// Trains every gateway of every task alone, on the very samples that the gateways get.
pub(super) fn judge(
    backbone: &Backbone,
    tasks: &[TaskSetup],
    splits: &[Split],
) -> Result<Vec<Judged>, DemoError> {
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
pub(super) struct Slot {
    shared_bytes: Vec<u8>,
    shared: ModuleFile,
    personal: ModuleFile,
    kept: String,
}

impl Slot {
    pub(super) fn read(state: &Path, task: &str) -> Result<Self, DemoError> {
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
    pub(super) fn run(
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

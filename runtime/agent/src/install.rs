//! New versions: fetch, verify, derive the personal module, commit the slot.

use crate::agent::{Agent, AgentError};
use crate::derive::PersonalJob;
use crate::open::random_u64;
use crate::outgoing::{Outgoing, Side};
use crate::serving::Active;
use crate::task::{Fetch, Task};
use crate::training::{Candidate, Job, gather};
use loadonce_control::{Stable, TaskManifest};
use loadonce_delta::{apply_patch, most_patch_bytes};
use loadonce_module::{Alarm, Choice, Dtype, Kept, ModuleFile, NEVER, Role};
use loadonce_trust::{decode_hex, encode_hex, hash};
use loadonce_wire::block::MAX_BLOCK_REQUEST;
use loadonce_wire::frame::HEADER;
use loadonce_wire::limits::MAX_BLOB;
use loadonce_wire::{BlockRequest, Frame, Kind, Name, Topic, TransferId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const SHARED: &str = "shared.safetensors";
const PERSONAL: &str = "personal.safetensors";
/// The lineage's first version, where the task chooses between it and a trained one.
const CLOSED: &str = "closed.safetensors";
const SLOT: &str = "slot.json";

/// `slot.json`: what belongs to the module files beside it.
#[derive(Debug, Serialize, Deserialize)]
struct SlotInfo {
    version: u64,
    hash: String,
    thresholds: Vec<f32>,
    labels: usize,
    kept: Kept,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    choice: Option<Choice>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<Alarm>,
    #[serde(default)]
    recall: (u32, u32),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reject: Option<f32>,
}

/// Whether a slot's description reads.
pub(crate) fn read_description(text: &[u8]) -> bool {
    serde_json::from_slice::<SlotInfo>(text).is_ok()
}

impl Agent {
    /// Serves what the slot holds, if it fits the task; anything else is refused by type and counted.
    pub(crate) fn load_slot(&mut self, task: &mut Task) {
        let Some(slots) = &mut task.slots else { return };
        let slot = match slots.load() {
            Ok(Some(slot)) => slot,
            Ok(None) => return,
            Err(error) => {
                self.counters.refuse("slot_corrupt");
                tracing::error!(task = %task.manifest.name, %error, "the slot cannot be read; waiting for a new version");
                return;
            }
        };
        match content(task, &slot.files) {
            Ok(active) => task.active = Some(active),
            Err(why) => {
                task.former = self.former(task, &slot.files).map(Box::new);
                if let Some(former) = &task.former {
                    tracing::info!(
                        task = %task.manifest.name, version = former.version(),
                        backbone = %former.backbone.bundle().fingerprint(),
                        "the former backbone's module answers until there is one for the task's backbone"
                    );
                    return;
                }
                self.counters.refuse("wrong_module");
                tracing::error!(
                    task = %task.manifest.name, why,
                    "the module in the slot does not fit; waiting for a new version"
                );
            }
        }
    }

    /// The task on the backbone of a slot's content, if that is another one that is installed here.
    fn former(&self, task: &Task, files: &Files) -> Option<Task> {
        let shared = ModuleFile::decode(file(files, SHARED)).ok()?;
        if shared.backbone == task.backbone.bundle().fingerprint() {
            return None;
        }
        let backbone = self.backbones.with(&shared.backbone)?;
        let manifest =
            TaskManifest { backbone: backbone.bundle().name().to_owned(), ..task.manifest.clone() };
        let mut former = Task::new(manifest, Arc::clone(backbone), None).ok()?;
        former.active = Some(content(&former, files).ok()?);
        Some(former)
    }

    /// Asks for the blocks of announced versions.
    pub(crate) fn fetch_due(&mut self, now_ms: u64, out: &mut Vec<Outgoing>) -> Result<(), AgentError> {
        if !self.connected {
            return Ok(());
        }
        let here = self.job.as_ref().and_then(|job| Some((job.task().to_owned(), job.installs()?)));
        let away = || self.away.as_ref().and_then(|away| Some((away.task.clone(), away.installs?)));
        let installing = here.or_else(away);
        for (name, task) in &mut self.tasks {
            if !task.behind() {
                task.fetch = None;
                continue;
            }
            let Some((stable, hash)) = task.announced() else { continue };
            let stable = stable.clone();
            if installing.as_ref().is_some_and(|(t, v)| t == name && *v == stable.version) {
                continue;
            }
            if task.fetch.is_none() {
                let patch = patch_for(task, &stable);
                let (hash, bytes, patches) = patch.unwrap_or((hash, stable.bytes as usize, None));
                let Some(file) = loadonce_delivery::Fetch::new(bytes) else {
                    self.counters.refuse("too_large");
                    tracing::error!(task = %name, bytes, "announced module is empty or exceeds {MAX_BLOB} bytes");
                    continue;
                };
                task.fetch = Some(Fetch { stable, hash, patches, file });
            }
            let Some(fetch) = &mut task.fetch else { continue };
            let Some(missing) = fetch.file.poll(now_ms, random_u64()?) else { continue };
            let request = BlockRequest {
                blob_hash: fetch.hash,
                offset: missing.start as u32,
                length: missing.len() as u32,
                task: Name::new(name).expect("a served task's manifest was validated"),
            };
            out.push(request_frame(&request, &self.config.site, &self.config.gateway));
        }
        Ok(())
    }

    /// What was asked for may not come: the connection or the aggregator is new.
    pub(crate) fn fetch_again(&mut self, now_ms: u64, spread_ms: u64) -> Result<(), AgentError> {
        for fetch in self.tasks.values_mut().filter_map(|task| task.fetch.as_mut()) {
            fetch.file.connected(now_ms, random_u64()?, spread_ms);
        }
        Ok(())
    }

    /// A chunk of a module file.
    pub(crate) fn on_block(&mut self, frame: &Frame<'_>, now_ms: u64) -> Result<(), AgentError> {
        let wanted = self.tasks.values_mut().find_map(|task| {
            task.fetch.as_mut().filter(|fetch| {
                fetch.hash.starts_with(&frame.transfer) && fetch.file.total() == frame.total as usize
            })
        });
        let Some(fetch) = wanted else {
            // Answers to a request that was repeated arrive twice: common and harmless.
            self.counters.refuse("block_unwanted");
            return Ok(());
        };
        let (total, index) = (frame.total as usize, usize::from(frame.index));
        match fetch.file.chunk(total, index, frame.payload, now_ms, random_u64()?) {
            Ok(true) => {}
            Ok(false) => self.counters.refuse("block_unwanted"),
            Err(_) => self.counters.refuse("bad_block"),
        }
        Ok(())
    }

    /// Starts deriving the personal module of a version that arrived whole, or again for the active one when
    /// its labels grew. Returns whether it did.
    pub(crate) fn start_install(&mut self, now_ms: u64) -> Result<bool, AgentError> {
        let names: Vec<String> = self.tasks.keys().cloned().collect();
        for name in names {
            let complete = |task: &mut Task| task.fetch.take_if(|fetch| fetch.file.is_complete());
            let Some(mut fetch) = self.tasks.get_mut(&name).and_then(complete) else {
                if self.rederive(&name, now_ms)? {
                    return Ok(true);
                }
                continue;
            };
            if let Some(base) = &fetch.patches {
                let Some((file, hash)) = apply(&fetch, base) else {
                    self.counters.refuse("bad_patch");
                    tracing::error!(task = %name, "the patch does not lead to the announced module; fetching it whole");
                    if let Some(task) = self.tasks.get_mut(&name) {
                        task.bad_patch = Some(fetch.hash);
                    }
                    continue;
                };
                tracing::info!(
                    target: "boundary", process = "agent", boundary = "module.fetched",
                    task = %name, version = fetch.stable.version, patch = fetch.file.total()
                );
                if self.derive(&name, file, fetch.stable.version, hash)? {
                    return Ok(true);
                }
                continue;
            }
            if hash(fetch.file.file()) != fetch.hash {
                self.counters.refuse("bad_module_hash");
                tracing::error!(task = %name, "the module file does not have the announced hash; asking again later");
                // At the longest pause: whatever is served under this hash is not the module.
                fetch.file.start_over(now_ms, random_u64()?);
                if let Some(task) = self.tasks.get_mut(&name) {
                    task.fetch = Some(fetch);
                }
                continue;
            }
            tracing::info!(
                target: "boundary", process = "agent", boundary = "module.fetched",
                task = %name, version = fetch.stable.version
            );
            if self.derive(&name, fetch.file.into_file(), fetch.stable.version, fetch.hash)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rederive(&mut self, name: &str, now_ms: u64) -> Result<bool, AgentError> {
        let census = self.take_census(name)?;
        let Some(task) = self.tasks.get_mut(name) else { return Ok(false) };
        let Some(active) = &task.active else { return Ok(false) };
        let grown = census.labels as usize > active.labels + active.labels / 4;
        if !grown || !task.settled(now_ms) || task.behind() {
            return Ok(false);
        }
        let (version, known) = (active.version, active.hash);
        let blob = match task.slots.as_mut().map(loadonce_store::Slots::load) {
            Some(Ok(Some(mut slot))) => slot.files.remove(SHARED).filter(|blob| hash(blob) == known),
            _ => None,
        };
        match blob {
            Some(blob) => self.derive(name, blob, version, known),
            None => Ok(false),
        }
    }

    fn derive(
        &mut self,
        name: &str,
        blob: Vec<u8>,
        version: u64,
        hash: [u8; 32],
    ) -> Result<bool, AgentError> {
        let labels = self.take_census(name)?.labels as usize;
        let Some(task) = self.tasks.get(name) else { return Ok(false) };
        let decoded = decode(task, &blob, Role::Shared).and_then(|file| {
            if file.version == version {
                Ok(file)
            } else {
                Err(format!("the file holds version {}", file.version))
            }
        });
        let shared = match decoded {
            Ok(file) => file.params,
            Err(why) => {
                self.counters.refuse("wrong_module");
                tracing::error!(
                    task = name,
                    version,
                    why,
                    "the announced module is refused; the old one goes on"
                );
                self.forget_announced(name);
                return Ok(false);
            }
        };
        let closed = self.closed_form(name, version);
        let Some(task) = self.tasks.get(name) else { return Ok(false) };
        let material = gather(&self.database, task)?;
        let candidate = Candidate { blob, version, hash, shared, closed };
        match PersonalJob::new(task, candidate, material, labels) {
            Ok(job) => {
                self.job = Some(Job::Personal(Box::new(job)));
                Ok(true)
            }
            Err(error) => {
                self.counters.refuse("training_failed");
                tracing::error!(task = name, %error, "no personal module can be derived");
                self.forget_announced(name);
                Ok(false)
            }
        }
    }

    /// The lineage's first version, if a later one is to be held against it and the slot has it.
    fn closed_form(&mut self, name: &str, version: u64) -> Option<(Vec<u8>, Vec<f32>)> {
        let task = self.tasks.get_mut(name)?;
        if version <= 1 || !task.chooses() {
            return None;
        }
        let mut slot = task.slots.as_mut()?.load().ok()??;
        let task = self.tasks.get(name)?;
        [CLOSED, SHARED].into_iter().find_map(|file| {
            let blob = slot.files.remove(file)?;
            let module = decode(task, &blob, Role::Shared).ok()?;
            (module.version == 1).then_some((blob, module.params))
        })
    }

    /// A version that cannot be installed is not asked for again: the same bytes would come. The next pointer
    /// brings another.
    fn forget_announced(&mut self, name: &str) {
        if let Some(pointer) = self.tasks.get_mut(name).and_then(|task| task.pointer.as_mut()) {
            pointer.stable = None;
        }
    }

    /// Commits shared module, personal module and thresholds together, and serves them.
    pub(crate) fn install(&mut self, job: &PersonalJob, active: Active) {
        let Some(task) = self.tasks.get_mut(&job.task) else { return };
        let personal = ModuleFile {
            task: job.task.clone(),
            shape: task.shape,
            classes: task.manifest.classes.clone(),
            backbone: task.backbone.bundle().fingerprint().to_owned(),
            version: active.version,
            base: encode_hex(&active.hash),
            role: Role::Personal,
            offset: active.offset.clone(),
            params: active.personal.clone(),
        };
        let info = SlotInfo {
            version: active.version,
            hash: encode_hex(&active.hash),
            thresholds: active.thresholds.clone(),
            labels: active.labels,
            kept: active.kept,
            choice: active.choice,
            alarms: active.alarms.clone(),
            recall: active.recall,
            reject: active.reject,
        };
        let written = personal.encode(Dtype::F32).map_err(|e| e.to_string()).and_then(|personal| {
            let info = serde_json::to_vec_pretty(&info).map_err(|e| e.to_string())?;
            let mut files: Vec<(&str, &[u8])> =
                vec![(SHARED, &job.candidate.blob), (PERSONAL, &personal), (SLOT, &info)];
            files.extend(job.candidate.closed.iter().map(|(blob, _)| (CLOSED, blob.as_slice())));
            tracing::info!(
                target: "boundary", process = "agent", boundary = "slot.committing",
                task = %job.task, version = active.version
            );
            match &mut task.slots {
                Some(slots) => slots.commit(&files).map(|_| ()).map_err(|e| e.to_string()),
                None => Err("this task has no slots".into()),
            }
        });
        match written {
            Ok(()) => tracing::info!(
                target: "boundary", process = "agent", boundary = "slot.committed",
                task = %job.task, version = active.version
            ),
            Err(why) => {
                self.counters.refuse("slot_not_written");
                tracing::error!(task = %job.task, why, "the slot was not written; the module is served from memory");
            }
        }
        tracing::info!(
            task = %job.task, version = active.version, kept = ?active.kept, thresholds = ?active.thresholds,
            "new module is served"
        );
        task.active = Some(active);
        task.part_from_former();
        self.report_due = true;
    }
}

/// A slot's files by name.
type Files = BTreeMap<String, Vec<u8>>;

fn file<'a>(files: &'a Files, name: &str) -> &'a [u8] {
    files.get(name).map_or(&[], Vec::as_slice)
}

/// What a slot's files say, if they fit `task` and its backbone.
fn content(task: &Task, files: &Files) -> Result<Active, String> {
    let info: SlotInfo = serde_json::from_slice(file(files, SLOT)).map_err(|error| error.to_string())?;
    let shared = decode(task, file(files, SHARED), Role::Shared)?;
    let personal = decode(task, file(files, PERSONAL), Role::Personal)?;
    let mut thresholds = info.thresholds;
    thresholds.resize(task.shape.exits - 1, NEVER);
    let mut active = Active {
        version: info.version,
        hash: hash(file(files, SHARED)),
        shared: shared.params,
        personal: personal.params,
        offset: personal.offset,
        thresholds,
        alarms: Vec::new(),
        alarm_thresholds: Vec::new(),
        recall: info.recall,
        reject: info.reject,
        kept: info.kept,
        choice: info.choice,
        labels: info.labels,
    };
    if info.alarms.len() == task.shape.exits {
        active.set_alarms(info.alarms);
    }
    Ok(active)
}

/// Decodes a module file and checks that it is for this task, shape and backbone.
fn decode(task: &Task, bytes: &[u8], role: Role) -> Result<ModuleFile, String> {
    let file = ModuleFile::decode(bytes).map_err(|error| error.to_string())?;
    let fingerprint = task.backbone.bundle().fingerprint();
    if file.backbone != fingerprint {
        return Err(format!(
            "the module belongs to backbone {}, but the task runs on {fingerprint}; publish a module for this backbone",
            file.backbone
        ));
    }
    if file.task != task.manifest.name || file.shape != task.shape || file.classes != task.manifest.classes {
        return Err(format!("the module is for task `{}` or for other classes or sizes", file.task));
    }
    if file.role != role {
        return Err("a shared module in the personal place, or the other way round".into());
    }
    Ok(file)
}

/// The hash and size of the patch to fetch, and the file it is for, where there is one and the slot holds that file.
fn patch_for(task: &mut Task, stable: &Stable) -> Option<([u8; 32], usize, Option<Vec<u8>>)> {
    let patch = stable.patch.as_ref()?;
    let (wanted, base) = (decode_hex(&patch.hash)?, decode_hex(&stable.base)?);
    let bytes = patch.bytes as usize;
    let sound = bytes <= most_patch_bytes(task.shape.parameters()) && bytes < stable.bytes as usize;
    let active = task.active.as_ref().is_some_and(|active| active.hash == base);
    if !sound || !active || task.bad_patch == Some(wanted) {
        return None;
    }
    let mut slot = task.slots.as_mut()?.load().ok()??;
    let file = slot.files.remove(SHARED).filter(|file| hash(file) == base)?;
    Some((wanted, bytes, Some(file)))
}

/// The announced module file, made of the one before it and the patch that was fetched; `None` unless it has the
/// announced hash.
fn apply(fetch: &Fetch, base: &[u8]) -> Option<(Vec<u8>, [u8; 32])> {
    if hash(fetch.file.file()) != fetch.hash {
        return None;
    }
    let base_file = ModuleFile::decode(base).ok()?;
    let params = apply_patch(&base_file.params, fetch.file.file()).ok()?;
    let (version, previous) = (fetch.stable.version, fetch.stable.base.clone());
    let file = ModuleFile { version, base: previous, params, ..base_file }.encode(Dtype::F16).ok()?;
    let announced = decode_hex(&fetch.stable.hash)?;
    (hash(&file) == announced).then_some((file, announced))
}

fn request_frame(request: &BlockRequest, site: &str, gateway: &str) -> Outgoing {
    let mut payload = [0; MAX_BLOCK_REQUEST];
    let length = request.encode(&mut payload).expect("MAX_BLOCK_REQUEST holds every request");
    let mut transfer = TransferId::default();
    transfer.copy_from_slice(&request.blob_hash[..size_of::<TransferId>()]);
    let frame = Frame { kind: Kind::BlockRequest, index: 0, transfer, total: 0, payload: &payload[..length] };
    let mut bytes = vec![0; HEADER + length];
    frame.encode(&mut bytes).expect("the buffer is as long as the frame");
    let topic = Topic::Up { gateway }.text(site).as_str().to_owned();
    Outgoing { side: Side::Uplink, topic, payload: bytes, at_least_once: true, retain: false }
}

//! New versions: fetch, verify, derive the personal module, commit the slot.

use crate::agent::{Agent, AgentError};
use crate::derive::PersonalJob;
use crate::outgoing::{Outgoing, Side};
use crate::serving::Active;
use crate::task::{Fetch, Task};
use crate::training::{Candidate, Job, gather};
use loadonce_control::Stable;
use loadonce_delta::{apply_patch, most_patch_bytes};
use loadonce_module::{Alarm, Choice, Dtype, Kept, ModuleFile, NEVER, Role};
use loadonce_trust::{decode_hex, encode_hex, hash};
use loadonce_wire::block::MAX_BLOCK_REQUEST;
use loadonce_wire::chunks::Reassembly;
use loadonce_wire::frame::HEADER;
use loadonce_wire::limits::MAX_BLOB;
use loadonce_wire::{BlockRequest, Frame, Kind, Name, Topic};
use serde::{Deserialize, Serialize};

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
        let file = |name: &str| slot.files.get(name).map_or(&[][..], Vec::as_slice);
        let info = serde_json::from_slice::<SlotInfo>(file(SLOT));
        let shared = self.decode(task, file(SHARED), Role::Shared);
        let personal = self.decode(task, file(PERSONAL), Role::Personal);
        match (info, shared, personal) {
            (Ok(info), Ok(shared), Ok(personal)) => {
                let mut thresholds = info.thresholds;
                thresholds.resize(task.shape.exits - 1, NEVER);
                let mut active = Active {
                    version: info.version,
                    hash: hash(file(SHARED)),
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
                task.active = Some(active);
            }
            (info, shared, personal) => {
                self.counters.refuse("wrong_module");
                let why = info.err().map(|e| e.to_string()).or(shared.err()).or(personal.err());
                tracing::error!(
                    task = %task.manifest.name, why = why.unwrap_or_default(),
                    "the module in the slot does not fit; waiting for a new version"
                );
            }
        }
    }

    /// Decodes a module file and checks that it is for this task, shape and backbone.
    fn decode(&self, task: &Task, bytes: &[u8], role: Role) -> Result<ModuleFile, String> {
        let file = ModuleFile::decode(bytes).map_err(|error| error.to_string())?;
        let fingerprint = self.backbone.bundle().fingerprint();
        if file.backbone != fingerprint {
            return Err(format!(
                "the module belongs to backbone {}, but {fingerprint} is loaded; publish a module for this backbone",
                file.backbone
            ));
        }
        if file.task != task.manifest.name
            || file.shape != task.shape
            || file.classes != task.manifest.classes
        {
            return Err(format!("the module is for task `{}` or for other classes or sizes", file.task));
        }
        if file.role != role {
            return Err("a shared module in the personal place, or the other way round".into());
        }
        Ok(file)
    }

    /// Asks for the blocks of announced versions.
    pub(crate) fn fetch_due(&mut self, now_ms: u64, out: &mut Vec<Outgoing>) {
        if !self.connected {
            return;
        }
        let installing = self.job.as_ref().and_then(|job| match job {
            Job::Personal(job) => Some((job.task.clone(), job.candidate.version)),
            Job::Step(_) => None,
        });
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
                match Reassembly::new(bytes) {
                    Ok(parts) if bytes > 0 => {
                        let buffer = vec![0; bytes];
                        task.fetch =
                            Some(Fetch { stable, hash, patches, buffer, parts, asked_ms: 0, asked: 0 });
                    }
                    _ => {
                        self.counters.refuse("too_large");
                        tracing::error!(task = %name, bytes, "announced module exceeds {MAX_BLOB} bytes");
                        continue;
                    }
                }
            }
            let Some(fetch) = &mut task.fetch else { continue };
            let (Some(missing), true) = (fetch.parts.missing(), fetch.due(now_ms)) else { continue };
            (fetch.asked_ms, fetch.asked) = (now_ms, fetch.asked + 1);
            let request = BlockRequest {
                blob_hash: fetch.hash,
                offset: missing.start as u32,
                length: missing.len() as u32,
                task: Name::new(name).expect("a served task's manifest was validated"),
            };
            out.push(request_frame(&request, &self.config.site, &self.config.gateway));
        }
    }

    /// A piece of a module file.
    pub(crate) fn on_block(&mut self, frame: &Frame<'_>) {
        let wanted = self.tasks.values_mut().find(|task| {
            task.fetch.as_ref().is_some_and(|fetch| {
                fetch.hash[..16] == frame.transfer && fetch.parts.total() == frame.total as usize
            })
        });
        let Some(task) = wanted else {
            // Answers to a request that was repeated arrive twice: common and harmless.
            *self.counters.refusals.entry("block_unwanted").or_default() += 1;
            return;
        };
        let Some(fetch) = &mut task.fetch else { return };
        if fetch.parts.insert(&mut fetch.buffer, frame.offset as usize, frame.payload).is_err() {
            self.counters.refuse("bad_block");
        } else {
            // The way is open: what is missing may be asked for at the usual pace again.
            fetch.asked = fetch.asked.min(1);
        }
    }

    /// Starts deriving the personal module of a version that arrived whole, or again for the active one when
    /// its labels grew. Returns whether it did.
    pub(crate) fn start_install(&mut self, now_ms: u64) -> Result<bool, AgentError> {
        let names: Vec<String> = self.tasks.keys().cloned().collect();
        for name in names {
            let complete = |task: &mut Task| task.fetch.take_if(|fetch| fetch.parts.complete());
            let Some(fetch) = self.tasks.get_mut(&name).and_then(complete) else {
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
                    target: "boundary", process = "agent", boundary = "module.patched",
                    task = %name, version = fetch.stable.version, bytes = fetch.buffer.len()
                );
                if self.derive(&name, file, fetch.stable.version, hash)? {
                    return Ok(true);
                }
                continue;
            }
            if hash(&fetch.buffer) != fetch.hash {
                self.counters.refuse("bad_module_hash");
                tracing::error!(task = %name, "the module file does not have the announced hash; asking again later");
                // At the longest pause: whatever is served under this hash is not the module.
                let again = Reassembly::new(fetch.buffer.len()).ok();
                let again = again.map(|parts| Fetch { parts, asked_ms: now_ms, asked: u32::MAX, ..fetch });
                if let Some(task) = self.tasks.get_mut(&name) {
                    task.fetch = again;
                }
                continue;
            }
            tracing::info!(
                target: "boundary", process = "agent", boundary = "module.fetched",
                task = %name, version = fetch.stable.version
            );
            if self.derive(&name, fetch.buffer, fetch.stable.version, fetch.hash)? {
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
        let decoded = self.decode(task, &blob, Role::Shared).and_then(|file| {
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
            let module = self.decode(task, &blob, Role::Shared).ok()?;
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
            backbone: self.backbone.bundle().fingerprint().to_owned(),
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
        self.report_due = true;
    }
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
    if hash(&fetch.buffer) != fetch.hash {
        return None;
    }
    let base_file = ModuleFile::decode(base).ok()?;
    let params = apply_patch(&base_file.params, &fetch.buffer).ok()?;
    let (version, previous) = (fetch.stable.version, fetch.stable.base.clone());
    let file = ModuleFile { version, base: previous, params, ..base_file }.encode(Dtype::F16).ok()?;
    let announced = decode_hex(&fetch.stable.hash)?;
    (hash(&file) == announced).then_some((file, announced))
}

fn request_frame(request: &BlockRequest, site: &str, gateway: &str) -> Outgoing {
    let mut payload = [0; MAX_BLOCK_REQUEST];
    let length = request.encode(&mut payload).expect("MAX_BLOCK_REQUEST holds every request");
    let mut transfer = [0; 16];
    transfer.copy_from_slice(&request.blob_hash[..16]);
    let frame = Frame {
        kind: Kind::BlockRequest,
        flags: 0,
        transfer,
        epoch: 0,
        sequence: 0,
        offset: request.offset,
        total: 0,
        payload: &payload[..length],
    };
    let mut bytes = vec![0; HEADER + length];
    frame.encode(&mut bytes).expect("the buffer is as long as the frame");
    let topic = Topic::Up { gateway }.text(site).as_str().to_owned();
    Outgoing { side: Side::Uplink, topic, payload: bytes, at_least_once: true, retain: false }
}

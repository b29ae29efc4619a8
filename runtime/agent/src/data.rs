//! The data plane: samples in, predictions out, labels in.

use crate::agent::{Agent, AgentError, Unwritten};
use crate::input::Sample;
use crate::outgoing::{Outgoing, Side};
use crate::recent::Recent;
use crate::record::{Given, Record, RecordRef};
use crate::refusal::Refusal;
use crate::samples::{self, Dropped, Labelled};
use crate::serving::{answer, prediction};
use crate::spool::{Fate, Item};
use crate::task::{Census, Task};
use loadonce_backbone::{Backbone, EngineError, Prepared};
use loadonce_control::{LabelMessage, Prediction, Problem};
use loadonce_module::quantize_all;
use loadonce_wire::{Topic, limits::MAX_SAMPLE};
use std::collections::BTreeMap;
use std::time::Instant;

/// Changes waiting for one durable write; beyond this they are written at once.
const MAX_UNWRITTEN: usize = 256;
/// Longest wait of a change for others to be written with it, ms.
const WRITE_AFTER_MS: u64 = 250;

impl Agent {
    /// A message of the data plane. `received` is when it came off the connection.
    pub fn on_data(
        &mut self,
        topic: &str,
        payload: &[u8],
        received: Instant,
        now_ms: u64,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), AgentError> {
        let site = self.config.site.clone();
        match Topic::parse(&site, topic) {
            Some(Topic::In { task, sample, .. }) => {
                let answer = self.answer_to(task, sample, payload, received, now_ms);
                out.push(answer.unwrap_or_else(|refusal| self.refused(task, sample, &refusal)));
            }
            Some(Topic::Label { task, sample, .. }) => {
                if let Err(refusal) = self.label(task, sample, payload, now_ms) {
                    out.push(self.refused(task, sample, &refusal));
                }
                self.write_if_many()?;
            }
            _ => {
                self.counters.refuse("unknown_topic");
                tracing::warn!(topic, "message on a topic that carries neither samples nor labels");
            }
        }
        Ok(())
    }

    /// A message that the connection took out because of its size.
    pub fn on_oversized(&mut self, topic: &str, bytes: u64, out: &mut Vec<Outgoing>) {
        let site = self.config.site.clone();
        let refusal = Refusal::TooLarge(bytes as usize);
        let place = Topic::parse(&site, topic);
        if let Some(Topic::In { task, sample, .. } | Topic::Label { task, sample, .. }) = place {
            out.push(self.refused(task, sample, &refusal));
        } else {
            self.counters.refuse(refusal.code());
            tracing::warn!(topic, error = %refusal, "refused");
        }
    }

    /// The answer to a sample, ready to publish.
    fn answer_to(
        &mut self,
        task: &str,
        id: &str,
        payload: &[u8],
        received: Instant,
        now_ms: u64,
    ) -> Result<Outgoing, Refusal> {
        let mut prediction = self.predict(task, id, payload, now_ms)?;
        prediction.latency_ms = received.elapsed().as_secs_f64() * 1e3;
        let histogram = if self.trains() { &mut self.counters.training } else { &mut self.counters.idle };
        histogram.add(prediction.latency_ms);
        Ok(self.reply(task, id, &prediction))
    }

    fn reply<T: serde::Serialize>(&self, task: &str, sample: &str, message: &T) -> Outgoing {
        let topic = Topic::Out { gateway: &self.config.gateway, task, sample }.text(&self.config.site);
        let payload = serde_json::to_vec(message).expect("predictions and problems always serialize");
        Outgoing {
            side: Side::Data,
            topic: topic.as_str().to_owned(),
            payload,
            at_least_once: true,
            retain: false,
        }
    }

    pub(crate) fn refused(&mut self, task: &str, id: &str, refusal: &Refusal) -> Outgoing {
        self.counters.refuse(refusal.code());
        tracing::warn!(task, sample = id, error = %refusal, "refused");
        self.reply(task, id, &Problem { error: refusal.code().to_owned(), message: refusal.to_string() })
    }

    fn predict(&mut self, name: &str, id: &str, payload: &[u8], now_ms: u64) -> Result<Prediction, Refusal> {
        if payload.len() > MAX_SAMPLE {
            return Err(Refusal::TooLarge(payload.len()));
        }
        let task = self.tasks.get_mut(name).ok_or_else(|| Refusal::UnknownTask(name.to_owned()))?;
        let sample = task.reader.read(&task.manifest, payload)?;
        self.counters.treat(sample.prepared.treatment());
        let mut features = Vec::with_capacity(task.shape.exits * task.shape.features);
        let (prediction, exits) = match &mut task.former {
            None => respond(task, &sample, &mut features)?,
            Some(former) => {
                // Its features say nothing to a module on this backbone: those are made in an idle moment.
                let own = former.reader.read(&former.manifest, payload)?;
                (respond(former, &own, &mut Vec::new())?.0, 0)
            }
        };
        if self.degraded.is_some() {
            return Ok(prediction);
        }
        if task.census.samples < task.learns() {
            // It will count as normal: a label like any other.
            task.labelled(now_ms);
        }
        let labels = match (sample.place, &mut task.courses) {
            (Some(place), Some(courses)) => courses.window(id, place, task.reader.target(&sample.prepared)),
            _ => Vec::new(),
        };
        let prepared = (exits < task.shape.exits).then_some(sample.prepared);
        self.recent.push(Recent {
            task: name.to_owned(),
            id: id.to_owned(),
            label: None,
            features,
            extras: sample.extras,
            scale: sample.scale,
            prepared,
        });
        for (id, values) in labels {
            self.give(name, &id, Given::Values(values), now_ms);
        }
        Ok(prediction)
    }

    /// A label of an earlier sample.
    pub(crate) fn label(&mut self, name: &str, id: &str, payload: &[u8], now_ms: u64) -> Result<(), Refusal> {
        let label = LabelMessage::parse(payload).ok_or(Refusal::BadLabel)?;
        let task = self.tasks.get_mut(name).ok_or_else(|| Refusal::UnknownTask(name.to_owned()))?;
        let given = task.given(label)?;
        if let Some(why) = &self.degraded {
            return Err(Refusal::StateUnwritable(why.clone()));
        }
        if let Some(courses) = &mut task.courses {
            courses.forget(id);
        }
        self.give(name, id, given, now_ms);
        Ok(())
    }

    /// Puts a label to its sample, wherever that is.
    fn give(&mut self, name: &str, id: &str, given: Given, now_ms: u64) {
        if let Some(task) = self.tasks.get_mut(name) {
            task.labelled(now_ms);
        }
        if self.recent.label(name, id, &given) {
            return;
        }
        let waiting = self.unwritten.iter_mut().rev().find_map(|change| match change {
            Unwritten::Sample(task, record) if task == name && record.id == id => Some(record),
            _ => None,
        });
        match waiting {
            Some(record) => {
                if !record.give(&given) {
                    self.counters.refuse("label_refused");
                }
            }
            None => self.unwritten.push(Unwritten::Label(name.to_owned(), id.to_owned(), given)),
        }
    }

    /// Gives the oldest waiting sample its missing exits and makes it ready to be written.
    pub(crate) fn complete_one(&mut self) -> Result<(), AgentError> {
        let Some(recent) = self.recent.pop() else { return Ok(()) };
        let Some(task) = self.tasks.get(&recent.task) else { return Ok(()) };
        let features = match &recent.prepared {
            None => Ok(recent.features),
            Some(prepared) => all_exits(&task.backbone, task.per_channel, prepared, &recent.extras),
        };
        let mut quantized = vec![0; task.shape.exits * task.shape.features];
        let sound = features.ok().filter(|f| f.len() == quantized.len());
        if sound.is_none_or(|f| quantize_all(&f, &mut quantized).is_err()) {
            self.counters.refuse("features_lost");
            tracing::warn!(task = %recent.task, sample = %recent.id, "the deeper features of this sample cannot be computed; it is not learned from");
            return Ok(());
        }
        let mut record = Record {
            heldout: self.heldout(task, &recent.id),
            features_of: task.features_of,
            label: None,
            marks: Vec::new(),
            features: quantized,
            scale: recent.scale,
            values: Vec::new(),
            id: recent.id,
        };
        let given = recent.label.or_else(|| self.early.take(&recent.task, &record.id));
        if given.is_some_and(|given| !record.give(&given)) {
            self.counters.refuse("label_refused");
        }
        self.unwritten.push(Unwritten::Sample(recent.task, record));
        self.write_if_many()
    }

    /// Whether the samples and labels that wait have waited long enough. Every write is a sync of the disk, which
    /// on an SD card takes tens of milliseconds and some of its life: one for many samples spares both.
    pub(crate) fn write_due(&mut self, now_ms: u64) -> bool {
        if self.unwritten.is_empty() {
            self.unwritten_since_ms = None;
            return false;
        }
        let since = *self.unwritten_since_ms.get_or_insert(now_ms);
        now_ms.saturating_sub(since) >= WRITE_AFTER_MS
    }

    fn write_if_many(&mut self) -> Result<(), AgentError> {
        if self.unwritten.len() >= MAX_UNWRITTEN { self.write_samples() } else { Ok(()) }
    }

    /// Whether every sample and label that was taken is on the disk.
    pub(crate) fn all_written(&self) -> bool {
        self.recent.is_empty() && self.unwritten.is_empty()
    }

    /// Writes everything that waits, durably, in one transaction.
    pub(crate) fn write_samples(&mut self) -> Result<(), AgentError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let bound = self.config.store.samples_per_task;
        let mut dropped = Dropped::default();
        let mut known = Vec::with_capacity(self.unwritten.len());
        let tx = self.database.begin_write()?;
        let mut counted: BTreeMap<String, Census> =
            self.tasks.iter().map(|(name, task)| (name.clone(), task.census)).collect();
        for change in &self.unwritten {
            let (Unwritten::Sample(name, _) | Unwritten::Label(name, ..)) = change;
            let served = self.tasks.get(name);
            let mut watch = |record: &RecordRef<'_>, sign: i64| {
                if let (Some(task), Some(census)) = (served, counted.get_mut(name)) {
                    census.count(task, record, sign);
                }
            };
            known.push(match change {
                Unwritten::Sample(name, record) => {
                    let bounds = (bound, served.map_or(0, Task::learns));
                    dropped += samples::put(&tx, name, record, bounds, &mut watch)?;
                    Labelled::Kept
                }
                Unwritten::Label(name, id, given) => samples::label(&tx, name, id, given, &mut watch)?,
            });
        }
        tx.commit()?;
        for (task, census) in self.tasks.values_mut().zip(counted.into_values()) {
            if !task.stale_census {
                task.counted(census);
            }
        }
        for (change, known) in self.unwritten.drain(..).zip(known) {
            let (name, id, labelled) = match &change {
                Unwritten::Sample(task, record) => (task, &record.id, record.label.is_some()),
                Unwritten::Label(task, id, given) if known == Labelled::Unknown => {
                    tracing::info!(task = %task, sample = %id, "a label whose sample this gateway does not know; kept for a while");
                    self.early.push(task.clone(), id.clone(), given.clone());
                    continue;
                }
                Unwritten::Label(task, id, _) if known == Labelled::Refused => {
                    self.counters.refuse("label_refused");
                    tracing::warn!(task = %task, sample = %id, "this sample cannot take another label");
                    continue;
                }
                Unwritten::Label(task, id, _) => (task, id, true),
            };
            if labelled {
                tracing::debug!(target: "boundary", process = "agent", boundary = "label.persisted", task = %name, sample = %id);
            }
        }
        self.unwritten_since_ms = None;
        *self.counters.refusals.entry("samples_evicted").or_default() += dropped.samples;
        *self.counters.refusals.entry("labels_evicted").or_default() += dropped.untold;
        *self.counters.refusals.entry("label_without_sample").or_default() = self.early.dropped;
        Ok(())
    }
}

/// Answers a sample by the task's own module and counts the exit; appends the features of the exits that ran to
/// `features`, and says how many those were.
fn respond(
    task: &mut Task,
    sample: &Sample,
    features: &mut Vec<f32>,
) -> Result<(Prediction, usize), Refusal> {
    let mut pass = task.backbone.begin(&sample.prepared);
    let active = task.active.as_ref();
    let (found, exit) = answer(&task.shape, task.per_channel, active, &mut pass, &sample.extras, features)?;
    if features.iter().any(|f| !f.is_finite()) {
        return Err(Refusal::NotFinite);
    }
    task.exits[exit - 1] += 1;
    let time = sample.place.as_ref().map(|place| place.time);
    Ok((prediction(task, found.as_ref(), exit, sample.scale, time), exit))
}

fn all_exits(
    backbone: &Backbone,
    per_channel: usize,
    prepared: &Prepared,
    extras: &[f32],
) -> Result<Vec<f32>, EngineError> {
    let (mut all, mut z) = (Vec::new(), Vec::new());
    let mut pass = backbone.begin(prepared);
    while pass.next_exit(per_channel, &mut z)? {
        all.extend_from_slice(&z);
        all.extend_from_slice(extras);
    }
    Ok(all)
}

impl Agent {
    /// A file of the spool.
    pub(crate) fn on_spool(
        &mut self,
        item: &Item,
        payload: &[u8],
        now_ms: u64,
        out: &mut Vec<Outgoing>,
    ) -> Result<Fate, AgentError> {
        if !self.tasks.contains_key(&item.task) {
            // Its manifest may still come; the file is safe where it is.
            self.counters.refuse("spool_waits_for_task");
            return Ok(Fate::Wait);
        }
        if item.label {
            if let Err(refusal) = self.label(&item.task, &item.id, payload, now_ms) {
                out.push(self.refused(&item.task, &item.id, &refusal));
                return Ok(Fate::Refused);
            }
            self.write_if_many()?;
            return Ok(Fate::Taken);
        }
        let received = Instant::now();
        Ok(match self.answer_to(&item.task, &item.id, payload, received, now_ms) {
            Ok(answer) => {
                out.push(answer);
                Fate::Taken
            }
            Err(refusal) => {
                out.push(self.refused(&item.task, &item.id, &refusal));
                Fate::Refused
            }
        })
    }

    /// Counts something refused at the edge.
    pub(crate) fn count_refusal(&mut self, code: &'static str) {
        self.counters.refuse(code);
    }

    /// Writes what waits; the agent ends.
    pub(crate) fn stop(&mut self) -> Result<(), AgentError> {
        while !self.recent.is_empty() {
            self.complete_one()?;
        }
        self.write_samples()
    }
}

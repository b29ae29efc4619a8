//! The agent's figures as JSON: on the report topic and in `figures.json`.

use crate::agent::Agent;
use crate::course::Courses;
use crate::figures::Latency;
use crate::outgoing::{Outgoing, Side};
use crate::power::PowerReport;
use loadonce_backbone::{Backbone, process_resident_bytes};
use loadonce_control::TaskKind;
use loadonce_link::LinkStats;
use loadonce_module::{Alarm, Choice};
use loadonce_store::{StoreError, replace};
use loadonce_trust::{encode_hex, hash};
use loadonce_wire::Topic;
use serde::Serialize;
use std::collections::BTreeMap;

/// Between two times that `figures.json` is written to the disk though nothing happened.
const FIGURES_AGAIN_MS: u64 = 300_000;

/// Bytes and events of one connection.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Traffic {
    bytes_up: u64,
    bytes_down: u64,
    connects: u64,
    failed_connects: u64,
    oversized: u64,
    malformed: u64,
    dropped_messages: u64,
    dropped_publishes: u64,
    subscription_refusals: u64,
}

impl From<LinkStats> for Traffic {
    fn from(stats: LinkStats) -> Self {
        Self {
            bytes_up: stats.bytes_up,
            bytes_down: stats.bytes_down,
            connects: stats.connects,
            failed_connects: stats.failed_connects,
            oversized: stats.oversized,
            malformed: stats.malformed,
            dropped_messages: stats.dropped_messages,
            dropped_publishes: stats.dropped_publishes,
            subscription_refusals: stats.subscription_refusals,
        }
    }
}

#[derive(Serialize)]
struct OutboxReport {
    entries: u64,
    bytes: u64,
    dropped_steps: u64,
    refused_full: u64,
    requeued: u64,
    quarantined: u64,
}

#[derive(Serialize)]
struct BackboneReport<'a> {
    name: &'a str,
    version: &'a str,
    fingerprint: &'a str,
    /// By how much loading it raised the memory; the first brings the engine.
    bytes: u64,
}

impl<'a> BackboneReport<'a> {
    fn of(backbone: &'a Backbone) -> Self {
        let (bundle, bytes) = (backbone.bundle(), backbone.resident_bytes());
        Self { name: bundle.name(), version: bundle.version(), fingerprint: bundle.fingerprint(), bytes }
    }
}

#[derive(Serialize)]
struct TaskReport<'a> {
    /// Fingerprint.
    backbone: &'a str,
    version: u64,
    /// The version that answers while there is none on this backbone, made on another one.
    former: Option<u64>,
    hash: Option<String>,
    wants: Option<loadonce_control::Wants>,
    samples: u64,
    labels: u64,
    heldout: u64,
    unsummed: u64,
    sums_sent: u64,
    steps_sent: u64,
    kind: TaskKind,
    personal: Option<loadonce_module::Kept>,
    /// Closed form or trained, and on what evidence.
    choice: Option<Choice>,
    thresholds: Vec<f32>,
    /// Of every exit of an anomaly task, once there are enough normal samples.
    alarms: Vec<Alarm>,
    /// Held-out labelled anomalies, and those of them that raise an alarm.
    recall: (u32, u32),
    /// Confidence below which the answer is "unknown"; 2 while nothing is proven.
    reject: Option<f32>,
    /// Forecasts that wait for their values.
    waiting: usize,
    predictions: u64,
    exits: Vec<u64>,
    training: &'static str,
    at_rest: bool,
}

#[derive(Serialize)]
struct LatencyReport {
    idle: Latency,
    training: Latency,
    longest_step_ms: f64,
    longest_unit_ms: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    gateway: &'a str,
    incarnation: u64,
    uptime_s: f64,
    rss_bytes: u64,
    /// Of all backbones.
    backbone_bytes: u64,
    backbones: Vec<BackboneReport<'a>>,
    degraded: Option<&'a str>,
    uplink: Traffic,
    data: Traffic,
    outbox: OutboxReport,
    tasks: BTreeMap<&'a str, TaskReport<'a>>,
    latency: LatencyReport,
    labels_without_sample: usize,
    failed_starts: BTreeMap<String, u64>,
    power: PowerReport,
    refusals: &'a BTreeMap<&'static str, u64>,
    treated: &'a BTreeMap<&'static str, u64>,
}

impl Report<'_> {
    /// Without what changes though nothing happens.
    fn still(&mut self) {
        (self.uptime_s, self.rss_bytes) = (0.0, 0);
        for line in [&mut self.uplink, &mut self.data] {
            (line.bytes_up, line.bytes_down) = (0, 0);
        }
        (self.power.hottest_c, self.power.battery_percent, self.power.paused_s) = (None, None, 0);
    }
}

impl Agent {
    /// Renews `figures.json`: in memory every time, on the disk where something happened or [`FIGURES_AGAIN_MS`]
    /// have passed, for an SD card wears. `still` is the hash of the figures without what changes by itself.
    fn write_figures(&mut self, payload: &[u8], still: [u8; 32], now_ms: u64) -> Result<(), StoreError> {
        let folder = match &self.config.runtime {
            Some(folder) => folder,
            None if self.degraded.is_some() => return Ok(()),
            None => {
                let same = |(when, known): (u64, [u8; 32])| {
                    known == still && now_ms.saturating_sub(when) < FIGURES_AGAIN_MS
                };
                if self.figures_written.is_some_and(same) {
                    return Ok(());
                }
                &self.config.state
            }
        };
        replace(&folder.join("figures.json"), payload, 0o644)?;
        self.figures_written = Some((now_ms, still));
        Ok(())
    }

    /// Why nothing is written, where that is so.
    pub fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// Whether something changed that a report should tell soon; clears the mark.
    pub fn take_report_due(&mut self) -> bool {
        std::mem::take(&mut self.report_due)
    }

    /// Writes `figures.json` and gives the report to publish.
    ///
    /// # Panics
    /// Never: numbers and names always serialize.
    pub fn report(&mut self, now_ms: u64, uptime_s: f64, uplink: LinkStats, data: LinkStats) -> Outgoing {
        let names: Vec<String> = self.tasks.keys().cloned().collect();
        for name in &names {
            if let Err(error) = self.take_census(name) {
                tracing::error!(task = %name, %error, "samples cannot be counted");
            }
        }
        *self.counters.refusals.entry("samples_unlearned").or_default() = self.recent.dropped;
        let given_up = self.tasks.values().filter_map(|task| task.courses.as_ref()).map(|c| c.dropped).sum();
        if given_up > 0 {
            self.counters.refusals.insert("forecasts_unlabelled", given_up);
        }
        let outbox = self.outbox.counters(&self.database).unwrap_or_default();
        let task_reports = self.tasks.iter().map(|(name, task)| {
            let here = self.job.as_ref().map(|job| (job.task(), job.installs()));
            let away = self.away.as_ref().map(|away| (&*away.task, away.installs));
            let training = match here.or(away).filter(|(task, _)| *task == name.as_str()) {
                Some((_, None)) => "step",
                Some((_, Some(_))) => "personal",
                None => "idle",
            };
            let active = task.active.as_ref();
            let exits = task.answers();
            let report = TaskReport {
                backbone: task.backbone.bundle().fingerprint(),
                version: task.version(),
                former: task.former.as_ref().map(|former| former.version()),
                hash: active.map(|active| encode_hex(&active.hash)),
                wants: task.pointer.as_ref().map(|pointer| pointer.wants),
                samples: task.census.samples,
                labels: task.census.labels,
                heldout: task.census.heldout,
                unsummed: task.census.unsummed,
                sums_sent: task.sums_sent,
                steps_sent: task.steps_sent,
                kind: task.manifest.kind,
                personal: active.map(|active| active.kept),
                choice: active.and_then(|active| active.choice),
                alarms: active.map(|active| active.alarms.clone()).unwrap_or_default(),
                recall: active.map(|active| active.recall).unwrap_or_default(),
                reject: active.and_then(|active| active.reject),
                waiting: task.courses.as_ref().map_or(0, Courses::len),
                thresholds: active.map(|active| active.thresholds.clone()).unwrap_or_default(),
                predictions: exits.iter().sum(),
                exits,
                training,
                at_rest: self.at_rest(name, now_ms),
            };
            (name.as_str(), report)
        });
        let mut report = Report {
            gateway: &self.config.gateway,
            incarnation: self.incarnation,
            uptime_s,
            rss_bytes: process_resident_bytes(),
            backbone_bytes: self.backbones.resident_bytes(),
            backbones: self.backbones.iter().map(|backbone| BackboneReport::of(backbone)).collect(),
            degraded: self.degraded.as_deref(),
            uplink: uplink.into(),
            data: data.into(),
            outbox: OutboxReport {
                entries: outbox.pending,
                bytes: outbox.pending_bytes,
                dropped_steps: outbox.dropped_steps,
                refused_full: outbox.refused_full,
                requeued: outbox.requeued,
                quarantined: outbox.quarantined,
            },
            tasks: task_reports.collect(),
            latency: LatencyReport {
                idle: self.counters.idle.summary(),
                training: self.counters.training.summary(),
                longest_step_ms: self.counters.longest_step_ms,
                longest_unit_ms: self.counters.longest_unit_ms,
            },
            labels_without_sample: self.early.len(),
            failed_starts: crate::starts::failed(&self.config.state),
            power: self.power.report(),
            refusals: &self.counters.refusals,
            treated: &self.counters.treated,
        };
        let payload = serde_json::to_vec(&report).expect("a report of numbers and names serializes");
        report.still();
        let still = serde_json::to_vec(&report).expect("a report of numbers and names serializes");
        if let Err(error) = self.write_figures(&payload, hash(&still), now_ms) {
            self.counters.refuse("figures_not_written");
            tracing::warn!(%error, "figures.json was not written");
        }
        let topic = Topic::Report { gateway: &self.config.gateway }.text(&self.config.site);
        Outgoing {
            side: Side::Uplink,
            topic: topic.as_str().to_owned(),
            payload,
            at_least_once: false,
            retain: false,
        }
    }
}

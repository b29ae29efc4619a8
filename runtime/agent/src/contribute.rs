//! Contributions: sums and steps into the outbox.

use crate::agent::{Agent, AgentError, META};
use crate::residual;
use crate::samples;
use crate::task::Census;
use crate::training::{Job, StepJob, gather, usable};
use crate::uplink::sign;
use loadonce_control::StepCodec;
use loadonce_delta as delta;
use loadonce_module::{Head, Sums, Trained};
use loadonce_store::{Draft, Kind, Outbox, OutboxError, Place};
use loadonce_trust::{Identity, decode_hex, hash};
use loadonce_wire::{ContributionKind, Manifest, Name};

/// Pause after a sum that could not be made or stored, ms.
const SUM_AGAIN_MS: u64 = 60_000;

impl Agent {
    /// The count of a task's samples; made anew where what became of the store was not followed.
    pub(crate) fn take_census(&mut self, name: &str) -> Result<Census, AgentError> {
        let Some(task) = self.tasks.get_mut(name) else { return Ok(Census::default()) };
        if !task.stale_census {
            return Ok(task.census);
        }
        let mut census = Census::default();
        let unreadable = samples::visit(&self.database.begin_read()?, name, |_, record| {
            census.count(task, &record, 1);
        })?;
        if unreadable > 0 {
            self.counters.refusals.insert("unreadable_records", unreadable);
        }
        task.stale_census = false;
        task.counted(census);
        Ok(census)
    }

    /// Puts the increment of `name`'s sums into the outbox if there is one and its labels have settled.
    /// Returns whether it did.
    pub(crate) fn contribute_sum(&mut self, name: &str, now_ms: u64) -> Result<bool, AgentError> {
        let census = self.take_census(name)?;
        let Some(task) = self.tasks.get(name) else { return Ok(false) };
        let enough = census.labels >= task.manifest.sync.min_labels as u64;
        if self.degraded.is_some() || census.unsummed == 0 || !enough || !task.settled(now_ms) {
            return Ok(false);
        }
        if task.pointer.is_none() || now_ms < task.sum_again_ms {
            return Ok(false);
        }
        let (shape, tag) = (task.shape, task.shape_tag);
        let mut features = vec![0; shape.exits * shape.features];
        let mut sums = match Sums::for_shape(&shape) {
            Ok(sums) => sums,
            Err(error) => {
                tracing::error!(task = name, %error, "no sums for this shape");
                return Ok(false);
            }
        };
        let (mut marks, mut added, mut failed) = (Vec::new(), 0u32, None);
        samples::visit(&self.database.begin_read()?, name, |number, record| {
            let (label, summed) = (record.label(&shape), record.summed(tag));
            if record.heldout || label == summed || !usable(task, &record) {
                return;
            }
            for (to, from) in features.iter_mut().zip(record.features()) {
                *to = from;
            }
            // A relabelled sample takes its old self out and puts its new one in.
            let mut put = |label: Option<u16>, sign| match (label, shape.head) {
                (None, _) => Ok(()),
                (Some(label), Head::Forecast { .. }) => {
                    let values: Vec<i16> = record.values(label).collect();
                    sums.add_values(&features, &values, sign)
                }
                (Some(class), Head::Classify | Head::Anomaly) => sums.add(&features, class, sign),
            };
            let (out, back) = (put(summed, -1), put(label, 1));
            added += u32::from(summed.is_none());
            failed = failed.take().or(out.err()).or(back.err());
            marks.push((number, label));
        })?;
        if marks.is_empty() {
            return Ok(false);
        }
        if let Some(error) = failed {
            self.sum_later(name, now_ms, "sums_failed", &error);
            return Ok(false);
        }
        let encoded = match delta::encode_sums(&sums.to_bytes()) {
            Ok(encoded) => encoded,
            Err(error) => {
                self.sum_later(name, now_ms, "sums_failed", &error);
                return Ok(false);
            }
        };
        let blob = encoded.blob;
        let contribution = Contribution {
            kind: ContributionKind::Sum,
            codec: delta::Codec::Sums.number(),
            weight: added,
            raw_bytes: encoded.raw_bytes as u32,
            blob: &blob,
            base_version: 0,
            base_hash: [0; 32],
            heldout: (0, f32::NAN, f32::NAN),
        };
        let tx = self.database.begin_write()?;
        let place = match self.enqueue(&tx, name, &contribution) {
            Ok(place) => place,
            Err(AgentError::Outbox(error @ (OutboxError::Full { .. } | OutboxError::TooLarge { .. }))) => {
                // Dropping the transaction leaves the labels unsummed: nothing is lost, they wait.
                self.sum_later(name, now_ms, "outbox_full", &error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        for (number, label) in &marks {
            samples::mark(&tx, name, *number, (tag, *label, place.sequence))?;
        }
        tx.commit()?;
        self.enqueued(name, place, "sum", blob.len())?;
        if let Some(task) = self.tasks.get_mut(name) {
            task.sums_sent += 1;
            task.stale_census = true;
            task.waiting_since_ms = None;
        }
        Ok(true)
    }

    /// A sum that could not be made or stored is tried again, but not at once.
    fn sum_later(&mut self, name: &str, now_ms: u64, code: &'static str, error: &dyn std::fmt::Display) {
        self.counters.refuse(code);
        tracing::warn!(task = name, %error, again_in_s = SUM_AGAIN_MS / 1000, "the labels stay unsummed for now");
        if let Some(task) = self.tasks.get_mut(name) {
            task.sum_again_ms = now_ms + SUM_AGAIN_MS;
        }
    }

    /// Starts training a step for the first task that owes one. Returns whether it did.
    pub(crate) fn start_step(&mut self) -> Result<bool, AgentError> {
        if self.degraded.is_some() {
            return Ok(false);
        }
        let owing = self.tasks.iter().find(|(_, task)| task.owes_step()).map(|(name, _)| name.clone());
        let Some(name) = owing else { return Ok(false) };
        let census = self.take_census(&name)?;
        let Some(task) = self.tasks.get_mut(&name) else { return Ok(false) };
        let Some(active) = task.active.clone() else { return Ok(false) };
        if census.labels < task.manifest.sync.min_labels as u64 || census.labels == census.heldout {
            // Too few labels to contribute: this round goes on without this gateway.
            task.last_step_base = active.version;
            return Ok(false);
        }
        let material = gather(&self.database, task)?;
        if !task.trainable(&material.train) {
            task.last_step_base = active.version;
            return Ok(false);
        }
        match StepJob::new(task, &active, material) {
            Ok(job) => {
                tracing::info!(
                    target: "boundary", process = "agent", boundary = "training.begun",
                    task = %name, base = active.version
                );
                self.job = Some(Job::Step(Box::new(job)));
            }
            Err(error) => {
                self.counters.refuse("training_failed");
                tracing::error!(task = %name, %error, "training cannot start");
                task.last_step_base = active.version;
            }
        }
        Ok(true)
    }

    /// A finished step goes into the outbox, together with the note that it was made.
    pub(crate) fn finish_step(&mut self, job: StepJob) -> Result<(), AgentError> {
        let name = job.task;
        let Trained { params, heldout_before, heldout_after, .. } = job.trainer.finish();
        let mut step: Vec<f32> = params.iter().zip(&job.base).map(|(new, old)| new - old).collect();
        let Some(task) = self.tasks.get(&name) else { return Ok(()) };
        let (sync, row) = (task.manifest.sync.clone(), task.shape.features);
        self.add_residual(&name, job.base_version, &mut step)?;
        // Errors of different gateways and rounds must not point the same way.
        let [a, b, c, d, ..] = hash(&[self.config.gateway.as_bytes(), &job.base_hash].concat());
        let budget = delta::Budget { bits: sync.bits, seed: u32::from_le_bytes([a, b, c, d]), row };
        // From here on `step` is what the blob lacks.
        let (codec, encoded) = match encode(sync.codec, &mut step, &budget) {
            Ok(encoded) => encoded,
            Err(error) => {
                self.counters.refuse("training_failed");
                tracing::error!(task = %name, %error, "the step cannot be encoded; it is dropped");
                if let Some(task) = self.tasks.get_mut(&name) {
                    task.last_step_base = job.base_version;
                }
                return Ok(());
            }
        };
        let contribution = Contribution {
            kind: ContributionKind::Step,
            codec: codec.number(),
            weight: job.weight,
            raw_bytes: encoded.raw_bytes as u32,
            blob: &encoded.blob,
            base_version: job.base_version,
            base_hash: job.base_hash,
            heldout: (heldout_before.samples as u32, heldout_before.loss, heldout_after.loss),
        };
        let Some(task) = self.tasks.get(&name) else { return Ok(()) };
        let note = [task.shape_tag, job.base_version.to_le_bytes()].concat();
        let tx = self.database.begin_write()?;
        let placed = self.enqueue(&tx, &name, &contribution);
        tx.open_table(META)?.insert(format!("step/{name}").as_str(), note.as_slice())?;
        residual::write(&tx, &name, task.shape_tag, job.base_version, step)?;
        let sent = match placed {
            Ok(place) => {
                tx.commit()?;
                self.enqueued(&name, place, "step", encoded.blob.len())?;
                true
            }
            Err(AgentError::Outbox(error @ (OutboxError::Full { .. } | OutboxError::TooLarge { .. }))) => {
                // A step is soon stale: it is dropped and counted, the next version asks for another.
                self.counters.refuse("outbox_full");
                tracing::warn!(task = %name, %error, "step dropped");
                false
            }
            Err(error) => return Err(error),
        };
        if let Some(task) = self.tasks.get_mut(&name) {
            task.last_step_base = job.base_version;
            task.steps_sent += u64::from(sent);
        }
        Ok(())
    }

    fn enqueue(
        &self,
        tx: &loadonce_store::redb::WriteTransaction,
        name: &str,
        contribution: &Contribution<'_>,
    ) -> Result<Place, AgentError> {
        let task = self.tasks.get(name).expect("contributions are built for served tasks only");
        let backbone =
            decode_hex(task.backbone.bundle().fingerprint()).expect("a fingerprint is 32 bytes of hex");
        let task_name = Name::new(name).expect("a served task's manifest was validated");
        let shape = task.shape_hash;
        let draft = Draft {
            kind: match contribution.kind {
                ContributionKind::Sum => Kind::Sum,
                ContributionKind::Step => Kind::Step,
            },
            task: name,
            blob: contribution.blob,
        };
        let identity: &Identity = &self.identity;
        let outbox: &Outbox = &self.outbox;
        Ok(outbox.enqueue_in(tx, draft, |epoch, sequence| {
            let (heldout_samples, heldout_before, heldout_after) = contribution.heldout;
            let manifest = Manifest {
                kind: contribution.kind,
                codec: contribution.codec,
                key: identity.public(),
                epoch,
                sequence,
                task: task_name,
                backbone,
                shape,
                base_version: contribution.base_version,
                base_hash: contribution.base_hash,
                weight: contribution.weight,
                heldout_samples,
                heldout_before,
                heldout_after,
                raw_bytes: contribution.raw_bytes,
                blob_bytes: contribution.blob.len() as u32,
                blob_hash: hash(contribution.blob),
                signature: [0; 64],
            };
            sign(identity, &manifest)
        })?)
    }

    fn enqueued(&mut self, task: &str, place: Place, kind: &str, bytes: usize) -> Result<(), AgentError> {
        tracing::info!(
            target: "boundary", process = "agent", boundary = "outbox.persisted",
            task, kind, epoch = place.epoch, sequence = place.sequence, bytes
        );
        self.sender.pending = self.outbox.counters(&self.database)?.pending;
        self.report_due = true;
        Ok(())
    }

    /// A sum that will never be applied: its samples are to be summed again. Returns how many they are; none for a
    /// step.
    pub(crate) fn never_applied(&mut self, sequence: u64) -> Result<u64, AgentError> {
        let mut again = 0;
        let tx = self.database.begin_write()?;
        for (name, task) in &mut self.tasks {
            let touched = samples::unmark(&tx, name, sequence)?;
            task.stale_census |= touched > 0;
            again += touched;
        }
        if again > 0 {
            tx.commit()?;
            tracing::warn!(
                sequence,
                samples = again,
                "a sum was not applied; its samples will be summed again"
            );
        }
        Ok(again)
    }
}

/// Encodes a step as the manifest asks; afterwards `step` holds what the blob lacks.
fn encode(
    codec: StepCodec,
    step: &mut [f32],
    budget: &delta::Budget,
) -> Result<(delta::Codec, delta::Encoded), delta::DeltaError> {
    let codec = match codec {
        StepCodec::Auto => return delta::encode_auto(step, budget),
        StepCodec::Rotated => delta::Codec::StepRotated,
        StepCodec::Sparse => delta::Codec::StepSparse,
        StepCodec::F16 => delta::Codec::StepF16,
        StepCodec::F32 => delta::Codec::StepF32,
    };
    if matches!(codec, delta::Codec::StepRotated | delta::Codec::StepSparse) {
        return Ok((codec, delta::encode_lossy(codec, step, budget)?));
    }
    let delta::EncodedStep { encoded, decoded } = delta::encode_step(codec, step)?;
    for (value, decoded) in step.iter_mut().zip(decoded) {
        *value -= decoded;
    }
    Ok((codec, encoded))
}

/// What differs between contributions.
struct Contribution<'a> {
    kind: ContributionKind,
    codec: u8,
    weight: u32,
    raw_bytes: u32,
    blob: &'a [u8],
    base_version: u64,
    base_hash: [u8; 32],
    /// Samples, loss before, loss after.
    heldout: (u32, f32, f32),
}

//! The uplink: manifests, pointers, acknowledgements and blocks from the aggregator.

use crate::agent::{Agent, AgentError};
use crate::outgoing::Outgoing;
use loadonce_control::{MANIFEST_DOMAIN, POINTER_DOMAIN, Pointer, Presence, TaskManifest};
use loadonce_store::{Entry, Place};
use loadonce_trust::verify;
use loadonce_wire::manifest::{DOMAIN, MAX_MANIFEST};
use loadonce_wire::{Ack, Frame, Kind, Manifest, Reason, Status, Topic, ack};

/// Pause before samples whose sum was refused are summed again, ms.
const REFUSED_AGAIN_MS: u64 = 3_600_000;

impl Agent {
    /// A message of the uplink; `retained` when the broker kept it for whoever subscribes. Whatever it holds, it
    /// is answered by a counter at worst.
    pub fn on_uplink(
        &mut self,
        topic: &str,
        payload: &[u8],
        retained: bool,
        now_ms: u64,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), AgentError> {
        let site = self.config.site.clone();
        match Topic::parse(&site, topic) {
            Some(Topic::State { .. }) => self.on_own_state(payload, out),
            Some(Topic::Task { task }) => {
                if !retained {
                    self.on_aggregator_returned(now_ms);
                }
                self.on_manifest(task, payload)?;
            }
            Some(Topic::Pointer { task, .. }) => self.on_pointer(task, payload)?,
            Some(Topic::Down { .. }) => self.on_frame(payload, now_ms)?,
            _ => {
                self.counters.refuse("unknown_topic");
                tracing::warn!(topic, "message on an unknown topic");
            }
        }
        Ok(())
    }

    /// A stale last will, retained by the broker, must not stand over a live gateway.
    fn on_own_state(&mut self, payload: &[u8], out: &mut Vec<Outgoing>) {
        match serde_json::from_slice::<Presence>(payload) {
            Ok(Presence::Down { incarnation }) => {
                tracing::info!(incarnation, "repeating birth over a retained last will");
                out.push(self.birth());
            }
            Ok(Presence::Up { incarnation, ref key, .. }) if incarnation > self.incarnation => {
                self.counters.refuse("gateway_name_in_use");
                tracing::error!(
                    %key, incarnation,
                    "another agent announces itself under this gateway's name; give every gateway a name of its own"
                );
            }
            Ok(_) => {}
            Err(_) => self.counters.refuse("bad_state"),
        }
    }

    /// The aggregator publishes the manifests when it connects, and only then: what was under way while it was
    /// gone did not reach it.
    fn on_aggregator_returned(&mut self, now_ms: u64) {
        if self.sending.start_over(now_ms) {
            for fetch in self.tasks.values_mut().filter_map(|task| task.fetch.as_mut()) {
                fetch.asked = 0;
            }
        }
    }

    fn on_manifest(&mut self, name: &str, payload: &[u8]) -> Result<(), AgentError> {
        if payload.is_empty() || !self.config.serves(name) {
            return Ok(());
        }
        match self.believe::<TaskManifest>(MANIFEST_DOMAIN, payload)? {
            Ok(manifest) if manifest.name == name => {
                let json = serde_json::to_vec(&manifest).expect("a manifest that was parsed serializes");
                self.adopt_manifest(name, &json, true)
            }
            Ok(manifest) => {
                self.counters.refuse("bad_manifest");
                tracing::error!(task = name, found = %manifest.name, "a manifest on another task's topic");
                Ok(())
            }
            Err(error) => {
                self.counters.refuse("bad_manifest");
                tracing::error!(task = name, %error, "task manifest is not believed");
                Ok(())
            }
        }
    }

    fn on_pointer(&mut self, name: &str, payload: &[u8]) -> Result<(), AgentError> {
        if payload.is_empty() || !self.config.serves(name) {
            return Ok(());
        }
        match self.believe::<Pointer>(POINTER_DOMAIN, payload)? {
            Ok(pointer) => {
                let json = serde_json::to_vec(&pointer).expect("a pointer that was parsed serializes");
                self.adopt_pointer(name, &json, true)
            }
            Err(error) => {
                self.counters.refuse("bad_pointer");
                tracing::error!(task = name, %error, "pointer is not believed");
                Ok(())
            }
        }
    }

    /// Takes a pointer that was believed, or one from the store. Its serial only rises.
    pub(crate) fn adopt_pointer(&mut self, name: &str, json: &[u8], fresh: bool) -> Result<(), AgentError> {
        let Ok(pointer) = serde_json::from_slice::<Pointer>(json) else {
            self.counters.refuse("bad_pointer");
            return Ok(());
        };
        let fingerprint = self.backbone.bundle().fingerprint();
        if pointer.task != name || pointer.site != self.config.site || pointer.backbone != fingerprint {
            self.counters.refuse("wrong_backbone");
            tracing::error!(
                task = name, backbone = %pointer.backbone, loaded = %fingerprint,
                "pointer for another site, task or backbone; install the fleet's bundle on this gateway"
            );
            return Ok(());
        }
        let key = format!("pointer/{name}");
        if fresh {
            let known = self.meta(&key)?.and_then(|known| serde_json::from_slice::<Pointer>(&known).ok());
            match known.map(|known| known.serial) {
                Some(serial) if pointer.serial < serial => {
                    self.counters.refuse("stale_pointer");
                    tracing::warn!(
                        task = name,
                        serial = pointer.serial,
                        known = serial,
                        "older pointer ignored"
                    );
                    return Ok(());
                }
                Some(serial) if pointer.serial == serial => {}
                _ => self.set_meta(&key, json)?,
            }
        }
        self.sending.release();
        if let Some(task) = self.tasks.get_mut(name) {
            tracing::debug!(task = name, serial = pointer.serial, wants = ?pointer.wants, "pointer");
            if task.fetch.as_ref().is_some_and(|fetch| Some(&fetch.stable) != pointer.stable.as_ref()) {
                task.fetch = None;
            }
            task.pointer = Some(pointer);
            self.report_due = true;
        }
        Ok(())
    }

    fn on_frame(&mut self, payload: &[u8], now_ms: u64) -> Result<(), AgentError> {
        let frame = match Frame::decode(payload) {
            Ok(frame) => frame,
            Err(error) => {
                self.counters.refuse("bad_frame");
                tracing::warn!(%error, "frame refused");
                return Ok(());
            }
        };
        match frame.kind {
            Kind::Ack => self.on_ack(frame.payload, now_ms),
            Kind::Block => {
                self.on_block(&frame);
                Ok(())
            }
            Kind::Chunk | Kind::BlockRequest => {
                self.counters.refuse("bad_frame");
                Ok(())
            }
        }
    }

    /// The only way an outbox entry dies (invariant 1).
    fn on_ack(&mut self, payload: &[u8], now_ms: u64) -> Result<(), AgentError> {
        let sound = Ack::decode(payload).ok().filter(|ack| {
            let signed = payload.len().checked_sub(64).and_then(|at| payload.get(..at));
            let by_aggregator = |body| {
                self.aggregator.is_some_and(|trusted| verify(&trusted, ack::DOMAIN, body, &ack.signature))
            };
            ack.key == self.identity.public() && signed.is_some_and(by_aggregator)
        });
        let Some(ack) = sound else {
            self.counters.refuse("bad_ack");
            tracing::warn!("acknowledgement refused: not for this gateway or not signed by its aggregator");
            return Ok(());
        };
        let place = Place { epoch: ack.epoch, sequence: ack.sequence };
        tracing::info!(
            target: "boundary", process = "agent", boundary = "ack.received",
            epoch = ack.epoch, sequence = ack.sequence, status = ?ack.status, reason = ack.reason.code()
        );
        if ack.status == Status::Refused {
            self.counters.refuse(ack.reason.code());
            tracing::error!(sequence = ack.sequence, reason = ack.reason.code(), "contribution refused");
        }
        match (ack.status, ack.reason) {
            (Status::Refused, Reason::UnknownGateway) => {
                tracing::error!(
                    gateway = %self.config.gateway, key = %loadonce_trust::encode_hex(&self.identity.public()),
                    "the aggregator does not admit this gateway; add its name and key there. Nothing is lost meanwhile"
                );
                self.sending.hold(now_ms);
                return Ok(());
            }
            (Status::Refused, Reason::UnknownTask) => {
                tracing::error!(
                    sequence = ack.sequence,
                    "the aggregator does not serve this contribution's task; publish the task there. Nothing is lost meanwhile"
                );
                self.sending.park(ack.sequence, now_ms);
                return Ok(());
            }
            (Status::Refused, Reason::SequenceConflict) => self.requeue(place, &ack.blob_hash)?,
            _ => {
                if self.outbox.acknowledge(&self.database, place, &ack.blob_hash)? {
                    tracing::info!(
                        target: "boundary", process = "agent", boundary = "outbox.deleted",
                        epoch = ack.epoch, sequence = ack.sequence
                    );
                    if ack.status == Status::Refused {
                        // A step that came too late says nothing about sums.
                        if self.never_applied(ack.sequence)? > 0 {
                            self.delay_sums(now_ms);
                        }
                    }
                }
            }
        }
        self.sending.release();
        self.sending.done(ack.sequence);
        self.sending.pending = self.outbox.counters(&self.database)?.pending;
        self.report_due = true;
        Ok(())
    }

    /// After a refused sum: the same samples would make the same sum.
    fn delay_sums(&mut self, now_ms: u64) {
        for task in self.tasks.values_mut() {
            task.sum_again_ms = task.sum_again_ms.max(now_ms + REFUSED_AGAIN_MS);
        }
    }

    fn requeue(&mut self, place: Place, hash: &[u8; 32]) -> Result<(), AgentError> {
        let epoch = crate::open::random_u64()?;
        let identity = &self.identity;
        self.outbox.requeue_under_new_epoch(
            &self.database,
            place,
            hash,
            epoch,
            |entry: &Entry, epoch, sequence| match Manifest::decode(&entry.head.manifest) {
                Ok(manifest) => sign(identity, &Manifest { epoch, sequence, ..manifest }),
                Err(_) => entry.head.manifest.clone(),
            },
        )?;
        Ok(())
    }
}

/// The encoded manifest with this gateway's signature.
pub(crate) fn sign(identity: &loadonce_trust::Identity, manifest: &Manifest) -> Vec<u8> {
    let mut out = vec![0; MAX_MANIFEST];
    let length = manifest.encode(&mut out).expect("MAX_MANIFEST holds every manifest");
    out.truncate(length);
    let body = length - 64;
    let signature = identity.sign(DOMAIN, &out[..body]);
    out[body..].copy_from_slice(&signature);
    out
}

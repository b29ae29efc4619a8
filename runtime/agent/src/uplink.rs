//! The uplink: manifests, pointers, acknowledgements and blocks from the aggregator.

use crate::agent::{Agent, AgentError};
use crate::open::random_u64;
use crate::outgoing::Outgoing;
use crate::task::Task;
use loadonce_control::{MANIFEST_DOMAIN, POINTER_DOMAIN, Pointer, Presence, TaskManifest};
use loadonce_delivery::frames;
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
                    self.on_aggregator_returned(now_ms)?;
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
    fn on_aggregator_returned(&mut self, now_ms: u64) -> Result<(), AgentError> {
        let spread_ms = self.spread_ms();
        if self.sender.returned(now_ms, random_u64()?, spread_ms) {
            self.fetch_again(now_ms, spread_ms)?;
        }
        Ok(())
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
        let backbone = self.backbones.with(&pointer.backbone);
        let fits = pointer.task == name && pointer.site == self.config.site;
        let Some(backbone) = backbone.filter(|_| fits).map(|backbone| backbone.bundle().name().to_owned())
        else {
            self.counters.refuse("wrong_backbone");
            tracing::error!(
                task = name, backbone = %pointer.backbone, installed = %self.backbones.installed(),
                "pointer for another site, task or backbone; install the fleet's bundle on this gateway"
            );
            return Ok(());
        };
        if fresh {
            match self.known_pointer(name)? {
                Some(known) if pointer.serial <= known.serial && pointer.backbone != known.backbone => {
                    // The broker keeps one pointer per backbone, for gateways that have not got the newer one.
                    tracing::debug!(task = name, backbone = %pointer.backbone, "a former backbone's pointer");
                    return Ok(());
                }
                Some(known) if pointer.serial < known.serial => {
                    self.counters.refuse("stale_pointer");
                    tracing::warn!(
                        task = name,
                        serial = pointer.serial,
                        known = known.serial,
                        "older pointer ignored"
                    );
                    return Ok(());
                }
                Some(known) if pointer.serial == known.serial => {}
                _ => self.set_meta(&format!("pointer/{name}"), json)?,
            }
        }
        let moved = |task: &&Task| task.backbone.bundle().fingerprint() != pointer.backbone;
        if let Some(task) = self.tasks.get(name).filter(moved) {
            if task.manifest.backbone != backbone {
                // The manifest that names the pointer's backbone comes as well, or has already gone.
                return Ok(());
            }
            tracing::info!(task = name, backbone = %pointer.backbone, "the task moves to another generation of its backbone");
            let manifest = task.manifest.clone();
            return match self.set_up(name, manifest)? {
                Some(task) => self.serve(task),
                None => Ok(()),
            };
        }
        self.sender.release();
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
            Kind::Block => self.on_block(&frame, now_ms),
            Kind::Status => {
                let held = frames::read_status(&frame);
                if !held.is_some_and(|held| self.sender.status(frame.transfer, &held)) {
                    // A broker may deliver it twice, and then nobody waits for the second.
                    self.counters.refuse("status_unwanted");
                }
                Ok(())
            }
            Kind::Chunk | Kind::Whole | Kind::Offer | Kind::BlockRequest => {
                self.counters.refuse("bad_frame");
                Ok(())
            }
        }
    }

    /// The only way an outbox entry dies (invariant 1).
    fn on_ack(&mut self, payload: &[u8], now_ms: u64) -> Result<(), AgentError> {
        let Ok(ack) = Ack::decode(payload) else {
            self.counters.refuse("bad_ack");
            tracing::warn!("acknowledgement refused: it does not decode");
            return Ok(());
        };
        let place = Place { epoch: ack.epoch, sequence: ack.sequence };
        let first = self.outbox.next_after(&self.database, ack.sequence.saturating_sub(1))?;
        let Some(head) = first.filter(|head| head.place == place) else {
            // Of an entry that is gone: acknowledgements arrive twice, which is common and harmless.
            self.counters.refuse("ack_unwanted");
            return Ok(());
        };
        let signed = ack.signed(&self.identity.public(), &head.blob_hash);
        if !self.aggregator.is_some_and(|trusted| verify(&trusted, ack::DOMAIN, &signed, &ack.signature)) {
            self.counters.refuse("bad_ack");
            tracing::warn!("acknowledgement refused: its aggregator did not sign it for this contribution");
            return Ok(());
        }
        tracing::info!(
            target: "boundary", process = "agent", boundary = "ack.received",
            epoch = ack.epoch, sequence = ack.sequence, status = ?ack.status, reason = ack.reason.code()
        );
        if ack.status == Status::Refused {
            self.counters.refuse(ack.reason.code());
        }
        if ack.status == Status::Refused && ack.reason != Reason::Busy {
            tracing::error!(sequence = ack.sequence, reason = ack.reason.code(), "contribution refused");
        }
        match (ack.status, ack.reason) {
            (Status::Refused, Reason::UnknownGateway) => {
                tracing::error!(
                    gateway = %self.config.gateway, key = %loadonce_trust::encode_hex(&self.identity.public()),
                    "the aggregator does not admit this gateway; add its name and key there. Nothing is lost meanwhile"
                );
                self.sender.hold(now_ms, random_u64()?);
                return Ok(());
            }
            (Status::Refused, Reason::Busy) => {
                tracing::warn!(wait_s = ack.wait_s, "the aggregator is busy; contributions wait");
                self.sender.busy(ack.sequence, now_ms, random_u64()?, ack.wait_s);
                return Ok(());
            }
            (Status::Refused, Reason::UnknownTask) => {
                tracing::error!(
                    sequence = ack.sequence,
                    "the aggregator does not serve this contribution's task; publish the task there. Nothing is lost meanwhile"
                );
                self.sender.park(ack.sequence, now_ms, random_u64()?);
                return Ok(());
            }
            (Status::Refused, Reason::SequenceConflict) => self.requeue(place, &head.blob_hash)?,
            _ => {
                let deleted = if ack.status == Status::Refused {
                    self.delete_refused(place, &head.blob_hash, ack.reason)?
                } else {
                    self.outbox.acknowledge(&self.database, place, &head.blob_hash)?
                };
                if deleted {
                    tracing::info!(
                        target: "boundary", process = "agent", boundary = "outbox.deleted",
                        epoch = ack.epoch, sequence = ack.sequence
                    );
                    // A step that came too late says nothing about sums.
                    if ack.status == Status::Refused && self.never_applied(ack.sequence)? > 0 {
                        self.delay_sums(now_ms);
                    }
                }
            }
        }
        self.loaded = None;
        self.sender.release();
        self.sender.done(ack.sequence);
        self.sender.pending = self.outbox.counters(&self.database)?.pending;
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

//! Contributions: verify, decode within bounds, persist, acknowledge. In this order.

use loadonce_delivery::{Offered, Piece, Transfer, frames};
use loadonce_delta::{Codec, DeltaError, decode_step, decode_sums};
use loadonce_module::Sums;
use loadonce_rounds::{Age, ContributionId, Open, check_manifest, check_step};
use loadonce_trust::{encode_hex, hash, verify};
use loadonce_wire::chunks::CHUNK;
use loadonce_wire::manifest::{self, MAX_MANIFEST, signed_part};
use loadonce_wire::{Ack, ContributionKind, Frame, Manifest, Reason, Status, Topic, TransferId, Whole, ack};

use crate::aggregator::Aggregator;
use crate::journal::{Intake, JournalError, Pending, Seen};
use crate::outgoing::{Note, Outgoing};

/// Contributions one round keeps. Beyond it they are left unanswered, so gateways keep them and try again.
pub(crate) const MAX_PENDING: usize = 65_536;
/// Contributions of one gateway among them, so that none can close a round to the others.
const MAX_PENDING_EACH: usize = 256;
/// Bytes of steps one round keeps on disk: 50,000 of 40,000 parameters in half precision.
pub(crate) const MAX_PENDING_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Additions and removals one sum may hold: a hostile one must not use up what the totals can take.
const MAX_SUM: u64 = 1 << 22;
/// How long the fault keeps what it acknowledged in memory only.
#[cfg(feature = "fault-ack-before-persist")]
const WRITE_LATE_MS: u64 = 2000;

/// What becomes of a contribution.
enum Verdict {
    /// It may be applied.
    Take(Codec),
    /// It is answered now.
    Answer(Status, Reason),
    /// It is left unanswered, and counted under this word: the gateway keeps it.
    Leave(&'static str),
}

/// A contribution that passed every check.
#[derive(Debug)]
pub(crate) struct Accepted {
    intake: Intake,
    manifest: Manifest,
    joins: bool,
}

/// A contribution whose manifest was believed and whose chunks are collected.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    manifest: Manifest,
    encoded: Vec<u8>,
}

/// By the bytes that were signed: the losses of a sum are no numbers, so its manifest is not even equal to itself.
impl PartialEq for Opened {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Opened {}

impl Aggregator {
    /// A contribution of one chunk.
    pub(crate) fn whole(
        &mut self,
        gateway: &str,
        frame: &Frame<'_>,
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        let Ok(whole) = Whole::decode(frame.payload) else {
            return Ok(self.drop_chunk("malformed_chunk"));
        };
        if whole.blob.len() > CHUNK || whole.blob.len() != frame.total as usize {
            return Ok(self.drop_chunk("malformed_chunk"));
        }
        // The hash travels nowhere: it is what these bytes have, and the signature tells whether they are the ones.
        let mut encoded = [0; MAX_MANIFEST];
        let encoded = match whole.manifest(&hash(whole.blob), &mut encoded) {
            Ok(length) => &encoded[..length],
            Err(_) => return Ok(self.drop_chunk("malformed_manifest")),
        };
        match self.judge(gateway, frame, encoded)? {
            Ok((manifest, codec)) => {
                let opened = Opened { manifest, encoded: encoded.to_vec() };
                self.complete(gateway, opened, codec, whole.blob, now_ms)
            }
            Err(answer) => Ok(answer),
        }
    }

    /// The manifest of a contribution of several chunks: answered by what is there of it.
    pub(crate) fn offer(
        &mut self,
        gateway: &str,
        frame: &Frame<'_>,
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        let manifest = match self.judge(gateway, frame, frame.payload)? {
            Ok((manifest, _)) => manifest,
            Err(answer) => return Ok(answer),
        };
        if self.crowded {
            let wait_s = self.receiver.turn_away(now_ms);
            return Ok(vec![self.turn_away(gateway, &manifest, wait_s)]);
        }
        let (id, total, beside) = (frame.transfer, frame.total as usize, frame.payload.len());
        let opened = Opened { manifest: manifest.clone(), encoded: frame.payload.to_vec() };
        match self.receiver.offer(gateway, id, total, opened, beside, now_ms) {
            Offered::Open(held) => {
                let topic = Topic::Down { gateway }.text(&self.site).as_str().to_owned();
                let payload = frames::status(id, total, &held);
                Ok(vec![Outgoing { topic, payload, retain: false, note: None }])
            }
            Offered::Busy(wait_s) => Ok(vec![self.turn_away(gateway, &manifest, wait_s)]),
            Offered::Misfit => Ok(self.drop_chunk("malformed_chunk")),
        }
    }

    /// A chunk of a contribution that was offered.
    pub(crate) fn chunk(
        &mut self,
        gateway: &str,
        frame: &Frame<'_>,
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        let (total, index) = (frame.total as usize, usize::from(frame.index));
        match self.receiver.chunk(gateway, frame.transfer, total, index, frame.payload, now_ms) {
            Piece::Kept => Ok(Vec::new()),
            Piece::Orphan => Ok(self.drop_chunk("orphan_chunk")),
            Piece::Misfit => Ok(self.drop_chunk("misfit_chunk")),
            Piece::Complete(transfer) => {
                let Transfer { about, blob, .. } = *transfer;
                if hash(&blob) != about.manifest.blob_hash {
                    // Anybody may have sent the chunks; the gateway starts over.
                    tracing::warn!(
                        gateway,
                        "a contribution whose chunks are not what was signed was dropped"
                    );
                    return Ok(self.drop_chunk("bad_hash"));
                }
                // Asked again: a round may have closed while the chunks came in.
                match self.decide(gateway, &about.manifest)? {
                    Ok(codec) => self.complete(gateway, about, codec, &blob, now_ms),
                    Err(answer) => Ok(answer),
                }
            }
        }
    }

    /// Everything that can be said of a contribution without its blob: the manifest if it may go on, else what to
    /// answer.
    fn judge(
        &mut self,
        gateway: &str,
        frame: &Frame<'_>,
        encoded: &[u8],
    ) -> Result<Result<(Manifest, Codec), Vec<Outgoing>>, JournalError> {
        let Ok(manifest) = Manifest::decode(encoded) else {
            return Ok(Err(self.drop_chunk("malformed_manifest")));
        };
        if frame.index != 0 || frame.total != manifest.blob_bytes {
            return Ok(Err(self.drop_chunk("malformed_chunk")));
        }
        // An answer deletes data, so only the key that would lose it gets one.
        let begun = self.counters.verification.begin();
        let believed = frame.transfer == transfer_id(&manifest) && authentic(encoded, &manifest);
        self.counters.verification.end(begun, 0);
        if !believed {
            tracing::warn!(gateway, "a contribution whose signature does not verify was dropped");
            return Ok(Err(self.drop_chunk("bad_signature")));
        }
        if let Err(why) = self.registry.admits(gateway, &manifest.key) {
            tracing::warn!(gateway, key = encode_hex(&manifest.key), why, "contribution refused");
            return Ok(Err(vec![self.answer(gateway, &manifest, Status::Refused, Reason::UnknownGateway)]));
        }
        Ok(self.decide(gateway, &manifest)?.map(|codec| (manifest, codec)))
    }

    /// Whether a contribution may be applied, else what to answer.
    fn decide(
        &mut self,
        gateway: &str,
        manifest: &Manifest,
    ) -> Result<Result<Codec, Vec<Outgoing>>, JournalError> {
        Ok(match self.admissible(manifest)? {
            Verdict::Take(codec) => Ok(codec),
            Verdict::Answer(status, reason) => Err(vec![self.answer(gateway, manifest, status, reason)]),
            Verdict::Leave(why) => Err(self.defer(gateway, why)),
        })
    }

    fn drop_chunk(&mut self, why: &'static str) -> Vec<Outgoing> {
        self.counters.ignore(why);
        Vec::new()
    }

    fn defer(&mut self, gateway: &str, why: &'static str) -> Vec<Outgoing> {
        self.counters.deferred += 1;
        tracing::warn!(gateway, why, "a contribution was left unanswered; the gateway keeps it");
        Vec::new()
    }

    /// Everything a manifest can be refused for without its blob. Whether it was applied before comes first:
    /// what was taken stays taken, whatever the task wants by now.
    fn admissible(&self, manifest: &Manifest) -> Result<Verdict, JournalError> {
        match self.journal.seen(&ContributionId::of(manifest))? {
            Seen::New => {}
            Seen::Before => return Ok(Verdict::Answer(Status::Duplicate, Reason::None)),
            Seen::OtherHash => return Ok(Verdict::Answer(Status::Refused, Reason::SequenceConflict)),
            Seen::TooManyEpochs => return Ok(Verdict::Leave("too many epochs")),
        }
        let Some(line) = self.lines.get(manifest.task.as_str()) else {
            return Ok(Verdict::Answer(Status::Refused, Reason::UnknownTask));
        };
        let step = manifest.kind == ContributionKind::Step;
        Ok(match check_manifest(manifest, &line.expected()) {
            Err(reason) => Verdict::Answer(Status::Refused, reason),
            // One fresh and one late step per gateway and round, or its weight would not be bounded.
            Ok(_) if step && line.round.has(&manifest.key, line.age(manifest)) => {
                Verdict::Answer(Status::Refused, Reason::RoundClosed)
            }
            Ok(_) if line.round.contributions() >= MAX_PENDING => Verdict::Leave("the round is full"),
            Ok(_) if step && line.pending_bytes + u64::from(manifest.blob_bytes) > MAX_PENDING_BYTES => {
                Verdict::Leave("the round's share of the disk is full")
            }
            Ok(_) if line.round.contributions_of(&manifest.key) >= MAX_PENDING_EACH => {
                Verdict::Leave("the gateway's share of the round is full")
            }
            Ok(codec) => Verdict::Take(codec),
        })
    }

    fn complete(
        &mut self,
        gateway: &str,
        opened: Opened,
        codec: Codec,
        blob: &[u8],
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        let Opened { manifest, encoded } = opened;
        let begun = self.counters.verification.begin();
        let decoded = self.decode(codec, &manifest, blob);
        self.counters.verification.end(begun, 1);
        let sum = match decoded {
            Ok(sum) => sum,
            Err(reason) => return Ok(vec![self.answer(gateway, &manifest, Status::Refused, reason)]),
        };
        let Some(line) = self.lines.get(manifest.task.as_str()) else { return Ok(Vec::new()) };
        let joins = match manifest.kind {
            ContributionKind::Sum => line.round.open() == Open::Sum,
            ContributionKind::Step => true,
        };
        let mut record = self.registry.record(gateway);
        record.key = encode_hex(&manifest.key);
        record.accepted += 1;
        record.blob_bytes += blob.len() as u64;
        let intake = Intake {
            lineage: line.id,
            version: 0,
            id: ContributionId::of(&manifest),
            gateway: gateway.to_owned(),
            record,
            sum,
            keep: joins.then(|| Pending::encode(&encoded, blob)),
        };
        let accepted = Accepted { intake, manifest: manifest.clone(), joins };
        #[cfg(feature = "fault-ack-before-persist")]
        {
            self.unwritten.push((now_ms + WRITE_LATE_MS, accepted));
            Ok(vec![self.answer(gateway, &manifest, Status::Accepted, Reason::None)])
        }
        #[cfg(not(feature = "fault-ack-before-persist"))]
        {
            Ok(if self.persist(accepted, now_ms)? {
                vec![self.answer(gateway, &manifest, Status::Accepted, Reason::None)]
            } else {
                self.defer(gateway, "the totals are full")
            })
        }
    }

    /// Decodes a blob whose signature and hash were checked; a sum is returned, a step is decoded once more when
    /// its round closes.
    fn decode(&self, codec: Codec, manifest: &Manifest, blob: &[u8]) -> Result<Option<Sums>, Reason> {
        let line = self.lines.get(manifest.task.as_str()).ok_or(Reason::UnknownTask)?;
        let shape = &line.task.shape;
        match manifest.kind {
            ContributionKind::Sum => {
                let bytes = decode_sums(blob, manifest.raw_bytes as usize).map_err(|_| Reason::Malformed)?;
                let sums = Sums::from_bytes(&bytes).map_err(|_| Reason::Malformed)?;
                if !Sums::for_shape(shape).is_ok_and(|zero| zero.alike(&sums)) {
                    return Err(Reason::WrongShape);
                }
                match sums.bound() {
                    0 => Err(Reason::Malformed),
                    bound if bound > MAX_SUM => Err(Reason::TooLarge),
                    _ => Ok(Some(sums)),
                }
            }
            ContributionKind::Step => {
                let step = decode_step(codec, blob, shape.parameters()).map_err(|error| match error {
                    DeltaError::NotFinite { .. } => Reason::NotFinite,
                    _ => Reason::Malformed,
                })?;
                check_step(&step, line.task.manifest.rounds.max_norm)?;
                Ok(None)
            }
        }
    }

    /// Writes a contribution with the batch; it may be acknowledged once the batch is durable. `false` for a sum that
    /// cannot join the totals: nothing was written.
    fn persist(&mut self, accepted: Accepted, now_ms: u64) -> Result<bool, JournalError> {
        let Accepted { mut intake, manifest, joins } = accepted;
        let line = self.lines.get(manifest.task.as_str());
        intake.version = line.map_or(0, |line| line.version() + 1);
        let age = line.map_or(Age::Fresh, |line| line.age(&manifest));
        let samples = match self.journal.accept(&intake)? {
            Ok(samples) => samples,
            Err(error) => {
                tracing::error!(gateway = intake.gateway, %error, "a sum cannot join the totals");
                return Ok(false);
            }
        };
        self.persisted.push(Note::Persisted {
            gateway: intake.gateway.clone(),
            epoch: manifest.epoch,
            sequence: manifest.sequence,
            task: manifest.task.as_str().to_owned(),
        });
        self.registry.accepted(&intake.gateway, &manifest.key, intake.record, now_ms);
        let kind = match manifest.kind {
            ContributionKind::Sum => {
                self.counters.sums += 1;
                "sum"
            }
            ContributionKind::Step => {
                self.counters.steps += 1;
                self.counters.late += u64::from(age == Age::Late);
                "step"
            }
        };
        if let Some(line) = self.lines.get_mut(manifest.task.as_str()) {
            match manifest.kind {
                ContributionKind::Sum => line.contributions.sums += 1,
                ContributionKind::Step => line.contributions.steps += 1,
            }
            line.contributions.late += u64::from(age == Age::Late);
            line.samples = samples.unwrap_or(line.samples);
            if joins {
                line.round.join(manifest.key, age, now_ms);
                line.pending_bytes += intake.keep.as_ref().map_or(0, |keep| keep.len() as u64);
            }
            tracing::debug!(
                gateway = intake.gateway, task = %manifest.task, kind, samples = manifest.weight,
                bytes = manifest.blob_bytes, round = line.version() + 1, "contribution accepted"
            );
            line.tell_progress();
        }
        Ok(true)
    }

    #[cfg(feature = "fault-ack-before-persist")]
    pub(crate) fn write_late(&mut self, now_ms: u64) -> Result<(), JournalError> {
        let due = self.unwritten.partition_point(|(due, _)| *due <= now_ms);
        for (_, accepted) in self.unwritten.drain(..due).collect::<Vec<_>>() {
            // Nobody is left to hear of it: that, too, is the fault.
            let _written = self.persist(accepted, now_ms)?;
        }
        self.commit()
    }

    /// There is more to do than can be done: the gateway keeps it and comes back later.
    fn turn_away(&mut self, gateway: &str, manifest: &Manifest, wait_s: u16) -> Outgoing {
        self.count_refusal(manifest, Reason::Busy);
        tracing::debug!(gateway, wait_s, "no room for another large contribution; the gateway waits");
        self.acknowledge(gateway, manifest, (Status::Refused, Reason::Busy), wait_s)
    }

    fn answer(&mut self, gateway: &str, manifest: &Manifest, status: Status, reason: Reason) -> Outgoing {
        match status {
            Status::Accepted => {}
            Status::Duplicate => {
                self.counters.duplicates += 1;
                if let Some(line) = self.lines.get_mut(manifest.task.as_str()) {
                    line.contributions.duplicates += 1;
                }
                tracing::debug!(
                    target: "boundary",
                    gateway, epoch = manifest.epoch, sequence = manifest.sequence, task = %manifest.task,
                    "contribution was applied before"
                );
            }
            Status::Refused => {
                self.count_refusal(manifest, reason);
                tracing::warn!(
                    gateway, epoch = manifest.epoch, sequence = manifest.sequence, task = %manifest.task,
                    reason = reason.code(), "contribution refused"
                );
            }
        }
        self.acknowledge(gateway, manifest, (status, reason), 0)
    }

    fn count_refusal(&mut self, manifest: &Manifest, reason: Reason) {
        self.counters.refuse(reason);
        if let Some(line) = self.lines.get_mut(manifest.task.as_str()) {
            *line.contributions.refused.entry(reason.code()).or_default() += 1;
        }
    }

    /// A signed answer to a contribution.
    fn acknowledge(
        &self,
        gateway: &str,
        manifest: &Manifest,
        (status, reason): (Status, Reason),
        wait_s: u16,
    ) -> Outgoing {
        let Manifest { epoch, sequence, .. } = *manifest;
        let mut answer = Ack { epoch, sequence, status, reason, wait_s, signature: [0; 64] };
        let signed = answer.signed(&manifest.key, &manifest.blob_hash);
        answer.signature = self.identity.sign(ack::DOMAIN, &signed);
        Outgoing {
            topic: Topic::Down { gateway }.text(&self.site).as_str().to_owned(),
            payload: frames::ack(transfer_id(manifest), &answer),
            retain: false,
            note: Some(Note::Acked { gateway: gateway.to_owned(), epoch, sequence, status }),
        }
    }
}

/// Whether the manifest was signed with the key it names.
fn authentic(encoded: &[u8], manifest: &Manifest) -> bool {
    signed_part(encoded)
        .is_ok_and(|(body, signature)| verify(&manifest.key, manifest::DOMAIN, body, &signature))
}

/// The transfer id that a manifest implies.
fn transfer_id(manifest: &Manifest) -> TransferId {
    let mut id = TransferId::default();
    id.copy_from_slice(&hash(&manifest.transfer_seed())[..size_of::<TransferId>()]);
    id
}

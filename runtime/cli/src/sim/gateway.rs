//! A simulated gateway: what it holds, says and believes. No socket and no clock inside.
//!
//! It speaks the protocol of `docs/wire.md` with its own key. It trains nothing: what it contributes is made up by
//! [`payload`](super::payload), so that the right result is known exactly.

use loadonce_control::{BackboneInfo, Presence, TaskInfo};
use loadonce_trust::{Identity, PublicKey, encode_hex, hash, verify};
use loadonce_wire::chunks::ranges;
use loadonce_wire::frame::{FLAG_MANIFEST, HEADER};
use loadonce_wire::manifest::{DOMAIN, MAX_MANIFEST};
use loadonce_wire::{Ack, BlockRequest, Frame, Kind, Manifest, Name, Reassembly, Status, ack, block};
use std::rc::Rc;

use super::payload::Payload;

/// First pause before unanswered work is sent again, ms; it doubles, and half of it is drawn anew each time so that
/// gateways which were stopped together do not go on together.
const RESEND_MS: u64 = 15_000;
/// Longest such pause, ms.
const RESEND_CAP_MS: u64 = 300_000;
/// Pause before blocks that did not come are asked for again, ms.
const ASK_AGAIN_MS: u64 = 5_000;

/// A contribution in the outbox; it leaves only on an acknowledgement.
#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    encoded: Vec<u8>,
    payload: Rc<Payload>,
    due_ms: u64,
    tries: u32,
    /// Frames that reached the null subscriber.
    arrived: usize,
}

/// A module file that is being fetched.
#[derive(Debug)]
struct Fetch {
    hash: [u8; 32],
    parts: Reassembly,
    buffer: Vec<u8>,
    due_ms: u64,
}

/// What a frame from the aggregator led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing that changes anything.
    Nothing,
    /// The contribution was acknowledged; its signature is still to be checked.
    Acked(Ack),
    /// The module file is whole.
    Fetched(Vec<u8>),
    /// A frame that no aggregator sends.
    Wrong(&'static str),
}

/// What every contribution of a fleet has in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) task: Name,
    pub(crate) backbone: [u8; 32],
    pub(crate) shape: [u8; 32],
    /// Version and hash a step starts from; zeros for a sum.
    pub(crate) base: (u64, [u8; 32]),
}

pub(crate) struct Gateway {
    pub(crate) name: String,
    identity: Identity,
    epoch: u64,
    sequence: u64,
    entry: Option<Entry>,
    fetch: Option<Fetch>,
    jitter: u64,
    /// Acknowledgements by status: accepted, duplicate, refused.
    pub(crate) acks: [u64; 3],
    /// How often work was sent again.
    pub(crate) resent: u64,
}

impl Gateway {
    /// Gateway number `index` of the fleet of `seed`; another `run` is another store on the same gateway.
    pub(crate) fn new(seed: u64, run: u64, index: usize) -> Self {
        let derived =
            hash(&[b"loadonce sim\0".as_slice(), &seed.to_le_bytes(), &index.to_le_bytes()].concat());
        let store = hash(&[&derived[..], &run.to_le_bytes()].concat());
        let word = |at: usize| u64::from_le_bytes(store[at..at + 8].try_into().expect("eight bytes"));
        Self {
            name: format!("sim-{index:05}"),
            identity: Identity::from_seed(&derived),
            epoch: word(0),
            sequence: 0,
            entry: None,
            fetch: None,
            jitter: word(8) | 1,
            acks: [0; 3],
            resent: 0,
        }
    }

    /// Birth, as JSON.
    pub(crate) fn birth(&self, common: &Common, version: u64) -> Vec<u8> {
        let birth = Presence::Up {
            incarnation: 1,
            version: format!("sim {}", env!("CARGO_PKG_VERSION")),
            key: encode_hex(&self.identity.public()),
            backbones: vec![BackboneInfo { name: "sim".into(), fingerprint: encode_hex(&common.backbone) }],
            tasks: vec![TaskInfo { name: common.task.as_str().into(), version }],
        };
        serde_json::to_vec(&birth).expect("strings and numbers are JSON")
    }

    /// Last will, as JSON.
    pub(crate) fn will() -> Vec<u8> {
        serde_json::to_vec(&Presence::Down { incarnation: 1 }).expect("a number is JSON")
    }

    /// Puts a contribution into the outbox, signed; it is due at once.
    pub(crate) fn contribute(&mut self, common: &Common, payload: &Rc<Payload>, weight: u32) {
        self.sequence += 1;
        let manifest = Manifest {
            kind: payload.kind,
            codec: payload.codec.number(),
            key: self.identity.public(),
            epoch: self.epoch,
            sequence: self.sequence,
            task: common.task.clone(),
            backbone: common.backbone,
            shape: common.shape,
            base_version: common.base.0,
            base_hash: common.base.1,
            weight,
            heldout_samples: 0,
            heldout_before: 0.0,
            heldout_after: 0.0,
            raw_bytes: payload.raw_bytes,
            blob_bytes: payload.blob.len() as u32,
            blob_hash: payload.hash,
            signature: [0; 64],
        };
        let mut encoded = vec![0; MAX_MANIFEST];
        let length = manifest.encode(&mut encoded).expect("MAX_MANIFEST holds every manifest");
        encoded.truncate(length);
        let body = length - 64;
        let signature = self.identity.sign(DOMAIN, &encoded[..body]);
        encoded[body..].copy_from_slice(&signature);
        let payload = Rc::clone(payload);
        self.entry = Some(Entry { manifest, encoded, payload, due_ms: 0, tries: 0, arrived: 0 });
    }

    /// Whether the outbox holds unacknowledged work.
    pub(crate) fn holds_work(&self) -> bool {
        self.entry.is_some()
    }

    /// Whether a module file is being fetched.
    pub(crate) fn fetching(&self) -> bool {
        self.fetch.is_some()
    }

    /// Asks for the module file with this hash and size.
    pub(crate) fn fetch(&mut self, hash: [u8; 32], bytes: u32) {
        let parts = Reassembly::new(bytes as usize).expect("a pointer's size was checked");
        self.fetch = Some(Fetch { hash, parts, buffer: vec![0; bytes as usize], due_ms: 0 });
    }

    /// Everything is due: what was under way did not arrive, as far as is known.
    pub(crate) fn start_over(&mut self) {
        if let Some(entry) = &mut self.entry {
            (entry.due_ms, entry.tries) = (0, entry.tries.min(1));
        }
        if let Some(fetch) = &mut self.fetch {
            fetch.due_ms = 0;
        }
    }

    /// Hands the frames that are due to `send`, each as its length and a function that appends it.
    pub(crate) fn due(&mut self, common: &Common, now_ms: u64, mut send: impl FnMut(Frame<'_>)) {
        let draw = self.draw();
        if let Some(entry) = &mut self.entry
            && now_ms >= entry.due_ms
        {
            let pause = (RESEND_MS << entry.tries.min(5)).min(RESEND_CAP_MS);
            entry.due_ms = now_ms + pause / 2 + draw % (pause / 2);
            self.resent += u64::from(entry.tries > 0);
            entry.tries += 1;
            chunks(entry, &mut send);
        }
        if let Some(fetch) = &mut self.fetch
            && now_ms >= fetch.due_ms
            && let Some(missing) = fetch.parts.missing()
        {
            fetch.due_ms = now_ms + ASK_AGAIN_MS;
            let request = BlockRequest {
                blob_hash: fetch.hash,
                offset: missing.start as u32,
                length: missing.len() as u32,
                task: common.task.clone(),
            };
            let mut payload = [0; block::MAX_BLOCK_REQUEST];
            let length = request.encode(&mut payload).expect("MAX_BLOCK_REQUEST holds every request");
            let mut transfer = [0; 16];
            transfer.copy_from_slice(&fetch.hash[..16]);
            send(Frame {
                kind: Kind::BlockRequest,
                flags: 0,
                transfer,
                epoch: 0,
                sequence: 0,
                offset: missing.start as u32,
                total: 0,
                payload: &payload[..length],
            });
        }
    }

    /// Takes a frame from the aggregator.
    pub(crate) fn frame(&mut self, bytes: &[u8]) -> Heard {
        let Ok(frame) = Frame::decode(bytes) else { return Heard::Wrong("a frame that does not decode") };
        match frame.kind {
            Kind::Ack => self.acknowledged(frame.payload),
            Kind::Block => self.block(&frame),
            Kind::Chunk | Kind::BlockRequest => Heard::Wrong("a frame of a gateway's kind"),
        }
    }

    fn acknowledged(&mut self, payload: &[u8]) -> Heard {
        let Ok(ack) = Ack::decode(payload) else {
            return Heard::Wrong("an acknowledgement that does not decode");
        };
        let named = |entry: &Entry| {
            let m = &entry.manifest;
            (m.key, m.epoch, m.sequence, m.blob_hash) == (ack.key, ack.epoch, ack.sequence, ack.blob_hash)
        };
        if ack.key != self.identity.public() {
            return Heard::Wrong("an acknowledgement for another key");
        }
        self.acks[ack.status as usize - 1] += 1;
        // Answers to work that was sent twice arrive twice.
        if self.entry.take_if(|entry| named(entry)).is_none() {
            return Heard::Nothing;
        }
        Heard::Acked(ack)
    }

    fn block(&mut self, frame: &Frame<'_>) -> Heard {
        let Some(fetch) = &mut self.fetch else { return Heard::Nothing };
        if fetch.hash[..16] != frame.transfer || fetch.parts.total() != frame.total as usize {
            return Heard::Nothing;
        }
        if fetch.parts.insert(&mut fetch.buffer, frame.offset as usize, frame.payload).is_err() {
            return Heard::Wrong("a block that does not fit its file");
        }
        if !fetch.parts.complete() {
            return Heard::Nothing;
        }
        self.fetch.take().map_or(Heard::Nothing, |fetch| Heard::Fetched(fetch.buffer))
    }

    /// A frame of its work reached the null subscriber; whether it was the last one.
    pub(crate) fn arrived(&mut self) -> bool {
        let Some(entry) = &mut self.entry else { return false };
        entry.arrived += 1;
        let frames = ranges(entry.payload.blob.len(), 2 + entry.encoded.len()).count();
        self.entry.take_if(|entry| entry.arrived >= frames).is_some()
    }

    /// A number that differs between gateways and calls.
    pub(crate) fn draw(&mut self) -> u64 {
        // xorshift64 (Marsaglia, 2003).
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }
}

fn chunks(entry: &Entry, send: &mut impl FnMut(Frame<'_>)) {
    let manifest = &entry.manifest;
    let mut transfer = [0; 16];
    transfer.copy_from_slice(&hash(&manifest.transfer_seed())[..16]);
    let blob = &entry.payload.blob;
    for range in ranges(blob.len(), 2 + entry.encoded.len()) {
        let first = range.start == 0;
        let head = if first {
            [&(entry.encoded.len() as u16).to_le_bytes()[..], &entry.encoded, &blob[range.clone()]].concat()
        } else {
            Vec::new()
        };
        send(Frame {
            kind: Kind::Chunk,
            flags: if first { FLAG_MANIFEST } else { 0 },
            transfer,
            epoch: manifest.epoch,
            sequence: manifest.sequence,
            offset: range.start as u32,
            total: blob.len() as u32,
            payload: if first { &head } else { &blob[range] },
        });
    }
}

/// Appends a frame to `packet`.
pub(crate) fn append(packet: &mut Vec<u8>, frame: &Frame<'_>) {
    let at = packet.len();
    packet.resize(at + HEADER + frame.payload.len(), 0);
    frame.encode(&mut packet[at..]).expect("the buffer is as long as the frame");
}

/// Whether the aggregator signed this acknowledgement.
pub(crate) fn believed(ack: &Ack, aggregator: &PublicKey) -> bool {
    let encoded = ack.encode();
    verify(aggregator, ack::DOMAIN, &encoded[..encoded.len() - 64], &ack.signature)
}

/// Whether it lets the gateway delete its work, and that work counts.
pub(crate) fn counts(ack: &Ack) -> bool {
    ack.status != Status::Refused
}

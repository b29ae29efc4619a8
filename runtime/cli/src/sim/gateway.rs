//! A simulated gateway: what it holds, says and believes. No socket and no clock inside.
//!
//! It speaks the protocol of `docs/wire.md` with its own key. It trains nothing: what it contributes is made up by
//! [`payload`](super::payload), so that the right result is known exactly.

use loadonce_control::{BackboneInfo, Presence, TaskInfo};
use loadonce_delivery::{Action, Entry, Fetch, Sender, frames};
use loadonce_trust::{Identity, PublicKey, encode_hex, hash, verify};
use loadonce_wire::chunks::{CHUNK, count};
use loadonce_wire::manifest::{DOMAIN, MAX_MANIFEST};
use loadonce_wire::{Ack, BlockRequest, Frame, Kind, Manifest, Name, Reason, Status, TransferId, ack, block};
use std::convert::Infallible;
use std::rc::Rc;

use super::payload::Payload;

/// A contribution in the outbox; it leaves only on an acknowledgement.
#[derive(Debug)]
struct Held {
    manifest: Manifest,
    encoded: Vec<u8>,
    transfer: TransferId,
    payload: Rc<Payload>,
    /// Frames that reached the null subscriber.
    arrived: usize,
}

impl Held {
    fn chunks(&self) -> usize {
        count(self.payload.blob.len(), CHUNK)
    }

    /// The frame of an action.
    fn frame(&self, action: Action) -> Option<Vec<u8>> {
        let blob = &self.payload.blob;
        match action {
            Action::Whole { .. } => frames::whole(self.transfer, &self.encoded, blob),
            Action::Offer { .. } => Some(frames::offer(self.transfer, &self.encoded, blob.len())),
            Action::Chunk { index, .. } => frames::chunk(self.transfer, blob, index),
        }
    }
}

/// An acknowledgement, and what its signature must cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    ack: Ack,
    key: PublicKey,
    blob_hash: [u8; 32],
}

impl Answer {
    /// Whether the aggregator signed it.
    pub(crate) fn believed(&self, aggregator: &PublicKey) -> bool {
        let signed = self.ack.signed(&self.key, &self.blob_hash);
        verify(aggregator, ack::DOMAIN, &signed, &self.ack.signature)
    }

    /// Why the work does not count, where that is so.
    pub(crate) fn refusal(&self) -> Option<Reason> {
        (self.ack.status == Status::Refused).then_some(self.ack.reason)
    }
}

/// What a frame from the aggregator led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing that ends anything.
    Nothing,
    /// The contribution was acknowledged; its signature is still to be checked.
    Acked(Answer),
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
    held: Option<Held>,
    sender: Sender,
    fetch: Option<([u8; 32], Fetch)>,
    jitter: u64,
    /// Acknowledgements by status: accepted, duplicate, refused.
    pub(crate) acks: [u64; 3],
}

impl Gateway {
    /// Gateway number `index` of the fleet of `seed`; another `run` is another store on the same gateway.
    pub(crate) fn new(seed: u64, run: u64, index: usize) -> Self {
        let derived =
            hash(&[b"loadonce sim\0".as_slice(), &seed.to_le_bytes(), &index.to_le_bytes()].concat());
        let store = hash(&[&derived[..], &run.to_le_bytes()].concat());
        let word = |at: usize| store[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self {
            name: format!("sim-{index:05}"),
            identity: Identity::from_seed(&derived),
            epoch: word(0),
            sequence: 0,
            held: None,
            sender: Sender::default(),
            fetch: None,
            jitter: word(8) | 1,
            acks: [0; 3],
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
            paused: None,
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
        let mut transfer = TransferId::default();
        transfer.copy_from_slice(&hash(&manifest.transfer_seed())[..size_of::<TransferId>()]);
        self.held = Some(Held { manifest, encoded, transfer, payload: Rc::clone(payload), arrived: 0 });
        self.sender.pending = 1;
    }

    /// Whether the outbox holds unacknowledged work.
    pub(crate) fn holds_work(&self) -> bool {
        self.held.is_some()
    }

    /// How often work was sent or offered again, and how often the aggregator asked to wait.
    pub(crate) fn repeats(&self) -> (u64, u64) {
        let counters = self.sender.counters();
        (counters.repeated, counters.busy)
    }

    /// Asks for the module file with this hash and size; false where no file has it.
    pub(crate) fn fetch(&mut self, hash: [u8; 32], bytes: u32) -> bool {
        self.fetch = Fetch::new(bytes as usize).map(|fetch| (hash, fetch));
        self.fetch.is_some()
    }

    /// A connection stands: what was under way did not arrive, as far as is known.
    pub(crate) fn connected(&mut self, now_ms: u64, spread_ms: u64) {
        let draw = self.draw();
        self.sender.connected(now_ms, draw, spread_ms);
        if let Some((_, fetch)) = &mut self.fetch {
            fetch.connected(now_ms, draw, spread_ms);
        }
    }

    /// The aggregator is back.
    pub(crate) fn returned(&mut self, now_ms: u64, spread_ms: u64) {
        let draw = self.draw();
        if self.sender.returned(now_ms, draw, spread_ms)
            && let Some((_, fetch)) = &mut self.fetch
        {
            fetch.connected(now_ms, draw, spread_ms);
        }
    }

    /// Hands every frame that is due to `send`.
    pub(crate) fn due(&mut self, common: &Common, now_ms: u64, mut send: impl FnMut(Vec<u8>)) {
        while let Some(held) = &self.held {
            let entry =
                Entry { sequence: held.manifest.sequence, transfer: held.transfer, chunks: held.chunks() };
            let draw = draw(&mut self.jitter);
            let next = |after| Ok::<_, Infallible>(Some(entry).filter(|entry| entry.sequence > after));
            let Ok(action) = self.sender.poll(now_ms, draw, next);
            let Some(frame) = action.and_then(|action| held.frame(action)) else { break };
            send(frame);
        }
        let draw = draw(&mut self.jitter);
        if let Some((hash, fetch)) = &mut self.fetch
            && let Some(missing) = fetch.poll(now_ms, draw)
        {
            let request = BlockRequest {
                blob_hash: *hash,
                offset: missing.start as u32,
                length: missing.len() as u32,
                task: common.task.clone(),
            };
            let mut payload = [0; block::MAX_BLOCK_REQUEST];
            let length = request.encode(&mut payload).expect("MAX_BLOCK_REQUEST holds every request");
            let transfer = first_bytes(hash);
            let frame =
                Frame { kind: Kind::BlockRequest, index: 0, transfer, total: 0, payload: &payload[..length] };
            let mut bytes = vec![0; loadonce_wire::frame::HEADER + length];
            frame.encode(&mut bytes).expect("the buffer is as long as the frame");
            send(bytes);
        }
    }

    /// Hands every frame of its work to `send` at once, as nobody answers an offer who is not there.
    pub(crate) fn blindly(&self, mut send: impl FnMut(Vec<u8>)) {
        let Some(held) = &self.held else { return };
        let sequence = held.manifest.sequence;
        let chunks = held.chunks();
        let first = if chunks == 1 { Action::Whole { sequence } } else { Action::Offer { sequence } };
        let more = (0..if chunks == 1 { 0 } else { chunks }).map(|index| Action::Chunk {
            sequence,
            index,
            last: index + 1 == chunks,
        });
        for action in std::iter::once(first).chain(more) {
            if let Some(frame) = held.frame(action) {
                send(frame);
            }
        }
    }

    /// A frame of its work reached the null subscriber; whether it was the last one.
    pub(crate) fn arrived(&mut self) -> bool {
        let Some(held) = &mut self.held else { return false };
        held.arrived += 1;
        let chunks = held.chunks();
        let frames = if chunks == 1 { 1 } else { 1 + chunks };
        self.held.take_if(|held| held.arrived >= frames).is_some()
    }

    /// Takes a frame from the aggregator.
    pub(crate) fn frame(&mut self, bytes: &[u8], now_ms: u64) -> Heard {
        let Ok(frame) = Frame::decode(bytes) else { return Heard::Wrong("a frame that does not decode") };
        match frame.kind {
            Kind::Ack => self.acknowledged(frame.payload, now_ms),
            Kind::Status => match frames::read_status(&frame) {
                Some(chunks) => {
                    // One that comes late is no mistake of anybody.
                    let _awaited = self.sender.status(frame.transfer, &chunks);
                    Heard::Nothing
                }
                None => Heard::Wrong("a status that does not fit"),
            },
            Kind::Block => self.block(&frame, now_ms),
            Kind::Chunk | Kind::Offer | Kind::Whole | Kind::BlockRequest => {
                Heard::Wrong("a frame of a gateway's kind")
            }
        }
    }

    fn acknowledged(&mut self, payload: &[u8], now_ms: u64) -> Heard {
        let Ok(ack) = Ack::decode(payload) else {
            return Heard::Wrong("an acknowledgement that does not decode");
        };
        let draw = self.draw();
        if ack.status == Status::Refused && ack.reason == Reason::Busy {
            self.sender.busy(ack.sequence, now_ms, draw, ack.wait_s);
            return Heard::Nothing;
        }
        self.acks[ack.status as usize - 1] += 1;
        let named = |held: &Held| (held.manifest.epoch, held.manifest.sequence) == (ack.epoch, ack.sequence);
        // Answers to work that was sent twice arrive twice.
        let Some(held) = self.held.take_if(|held| named(held)) else { return Heard::Nothing };
        self.sender.done(ack.sequence);
        self.sender.pending = 0;
        Heard::Acked(Answer { ack, key: held.manifest.key, blob_hash: held.manifest.blob_hash })
    }

    fn block(&mut self, frame: &Frame<'_>, now_ms: u64) -> Heard {
        let draw = self.draw();
        let Some((hash, fetch)) = &mut self.fetch else { return Heard::Nothing };
        if first_bytes(hash) != frame.transfer {
            return Heard::Nothing;
        }
        let (total, index) = (frame.total as usize, usize::from(frame.index));
        if fetch.chunk(total, index, frame.payload, now_ms, draw).is_err() {
            return Heard::Wrong("a block that does not fit its file");
        }
        if !fetch.is_complete() {
            return Heard::Nothing;
        }
        self.fetch.take().map_or(Heard::Nothing, |(_, fetch)| Heard::Fetched(fetch.into_file()))
    }

    /// A number that differs between gateways and calls.
    pub(crate) fn draw(&mut self) -> u64 {
        draw(&mut self.jitter)
    }
}

/// splitmix64 (Steele, Lea and Flood, 2014).
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A file's name on the wire.
fn first_bytes(hash: &[u8; 32]) -> TransferId {
    let mut id = TransferId::default();
    id.copy_from_slice(&hash[..size_of::<TransferId>()]);
    id
}

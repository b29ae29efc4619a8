//! A small site without a network: one aggregator on a disk in memory and gateways that do what agents do.
// Each test binary uses its own part.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use loadonce_aggregator::{Admission, Aggregator, DEFAULT_HISTORY_BYTES, Outgoing, Settings, Task};
use loadonce_control::{POINTER_DOMAIN, Pointer, Signed, TaskManifest};
use loadonce_delivery::frames;
use loadonce_delta::{Codec, encode_step, encode_sums};
use loadonce_module::{Shape, Sums};
use loadonce_store::Database;
use loadonce_store::crash::PowerCutDisk;
use loadonce_trust::{Identity, decode_hex, hash, verify};
use loadonce_wire::manifest::{self, MAX_MANIFEST};
use loadonce_wire::{
    Ack, BlockRequest, ContributionKind, Frame, Kind, Manifest, Name, Reason, Status, Topic, TransferId, ack,
};

pub const SITE: &str = "plant";
pub const BACKBONE: [u8; 32] = [0xbb; 32];
const CACHE: usize = 1024 * 1024;

pub const DIGITS: &str = r#"
    name = "digits"
    kind = "classify"
    backbone = "sense-tiny"
    classes = ["a", "b"]
    input = { modality = "picture" }
    module = { kind = "ladder", rank = 2, features = 4 }
    rounds = { quorum = 3, minimum = 3, deadline_s = 0, steps = 2, max_norm = 10.0, max_weight = 50 }
"#;

pub fn task(toml: &str) -> Task {
    Task::new(TaskManifest::from_toml(toml).unwrap(), BACKBONE, 2, 128).unwrap()
}

pub fn settings(tasks: &[&str]) -> Settings {
    Settings {
        site: SITE.into(),
        admission: Admission::FirstUse,
        gateways: BTreeMap::new(),
        tasks: tasks.iter().map(|toml| task(toml)).collect(),
        history_bytes: DEFAULT_HISTORY_BYTES,
    }
}

pub fn aggregator_key() -> Identity {
    Identity::from_seed(&[99; 32])
}

/// An aggregator on `disk`; an error is a disk without power.
pub fn open_on(disk: &PowerCutDisk, settings: Settings, now_ms: u64) -> Result<Aggregator, String> {
    let database = Database::open_with(disk.clone(), CACHE).map_err(|e| e.to_string())?;
    Aggregator::open(settings, aggregator_key(), database, now_ms).map_err(|e| e.to_string())
}

pub fn open(settings: Settings) -> Aggregator {
    open_on(&PowerCutDisk::new(), settings, 0).unwrap()
}

/// One contribution, ready to be sent.
#[derive(Clone)]
pub struct Entry {
    pub manifest: Manifest,
    pub encoded: Vec<u8>,
    pub blob: Vec<u8>,
}

impl Entry {
    /// Signs `manifest` for `blob` with `identity`, as it stands.
    pub fn signed(identity: &Identity, manifest: Manifest, blob: Vec<u8>) -> Self {
        let mut manifest = manifest;
        let mut buffer = [0; MAX_MANIFEST];
        let n = manifest.encode(&mut buffer).unwrap();
        manifest.signature = identity.sign(manifest::DOMAIN, &buffer[..n - 64]);
        let n = manifest.encode(&mut buffer).unwrap();
        Self { manifest, encoded: buffer[..n].to_vec(), blob }
    }

    pub fn transfer(&self) -> TransferId {
        hash(&self.manifest.transfer_seed())[..8].try_into().unwrap()
    }

    /// What goes on the wire if nothing of it is there: all in one, or the offer and every chunk.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let id = self.transfer();
        match frames::whole(id, &self.encoded, &self.blob) {
            Some(whole) => vec![whole],
            None => std::iter::once(frames::offer(id, &self.encoded, self.blob.len()))
                .chain((0..).map_while(|index| frames::chunk(id, &self.blob, index)))
                .collect(),
        }
    }
}

pub fn encode(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = vec![0; 61 * 1024];
    let n = frame.encode(&mut out).unwrap();
    out.truncate(n);
    out
}

/// A gateway with an outbox that dies only by acknowledgement.
#[derive(Clone)]
pub struct Gateway {
    pub name: String,
    pub identity: Identity,
    pub number: u8,
    pub sequence: u64,
    pub outbox: Vec<Entry>,
    pub stepped: u64,
}

impl Gateway {
    pub fn new(number: u8) -> Self {
        Self {
            name: format!("g{number}"),
            identity: Identity::from_seed(&[number; 32]),
            number,
            sequence: 0,
            outbox: Vec::new(),
            stepped: 0,
        }
    }

    pub fn topic(&self) -> String {
        Topic::Up { gateway: &self.name }.text(SITE).as_str().to_owned()
    }

    /// A manifest for `blob` with this gateway's next sequence.
    pub fn manifest(
        &mut self,
        task: &Task,
        kind: ContributionKind,
        codec: Codec,
        raw: usize,
        blob: &[u8],
    ) -> Manifest {
        self.sequence += 1;
        Manifest {
            kind,
            codec: codec.number(),
            key: self.identity.public(),
            epoch: 1000 + u64::from(self.number),
            sequence: self.sequence,
            task: Name::new(&task.manifest.name).unwrap(),
            backbone: BACKBONE,
            shape: task.shape_hash,
            base_version: 0,
            base_hash: [0; 32],
            weight: 4,
            heldout_samples: 2,
            // As agents do: a sum has no losses.
            heldout_before: if kind == ContributionKind::Sum { f32::NAN } else { 1.0 },
            heldout_after: if kind == ContributionKind::Sum { f32::NAN } else { 0.5 },
            raw_bytes: raw as u32,
            blob_bytes: blob.len() as u32,
            blob_hash: hash(blob),
            signature: [0; 64],
        }
    }

    pub fn sum(&mut self, task: &Task) -> Entry {
        let bytes = sums(&task.shape, self.number, self.sequence).to_bytes();
        let out = encode_sums(&bytes).unwrap();
        let manifest = self.manifest(task, ContributionKind::Sum, Codec::Sums, out.raw_bytes, &out.blob);
        Entry::signed(&self.identity, manifest, out.blob)
    }

    pub fn step_of(&mut self, task: &Task, base: (u64, [u8; 32]), codec: Codec, values: &[f32]) -> Entry {
        let out = encode_step(codec, values).unwrap().encoded;
        let mut manifest = self.manifest(task, ContributionKind::Step, codec, out.raw_bytes, &out.blob);
        (manifest.base_version, manifest.base_hash) = base;
        Entry::signed(&self.identity, manifest, out.blob)
    }

    pub fn step(&mut self, task: &Task, base: (u64, [u8; 32])) -> Entry {
        let mut step = vec![0.0; task.shape.parameters()];
        for (i, value) in step.iter_mut().enumerate() {
            *value = ((i as u64 * 7 + u64::from(self.number) * 3 + base.0) % 11) as f32 / 64.0 - 0.05;
        }
        self.step_of(task, base, Codec::StepF16, &step)
    }

    /// Does with a message of the aggregator what an agent does.
    pub fn hear(&mut self, message: &Outgoing, task: &Task) {
        match Topic::parse(SITE, &message.topic) {
            Some(Topic::Down { gateway }) if gateway == self.name => {
                let frame = Frame::decode(&message.payload).unwrap();
                if frame.kind == Kind::Ack {
                    let named = Ack::decode(frame.payload).unwrap().sequence;
                    let Some(at) = self.outbox.iter().position(|e| e.manifest.sequence == named) else {
                        return;
                    };
                    let ack = read_ack(message, &self.outbox[at]);
                    assert_ne!(ack.status, Status::Refused, "{:?}", ack.reason);
                    self.outbox.remove(at);
                }
            }
            Some(Topic::Pointer { .. }) => {
                let pointer = read_pointer(message);
                if pointer.task != task.manifest.name || pointer.wants != loadonce_control::Wants::Step {
                    return;
                }
                let stable = pointer.stable.unwrap();
                if stable.version > self.stepped {
                    self.stepped = stable.version;
                    let base = (stable.version, decode_hex(&stable.hash).unwrap());
                    let step = self.step(task, base);
                    self.outbox.push(step);
                    if self.number == 1 && stable.version == 1 {
                        // New labels while the round is about steps.
                        let sum = self.sum(task);
                        self.outbox.push(sum);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Sums of four samples that no two gateways share.
pub fn sums(shape: &Shape, gateway: u8, salt: u64) -> Sums {
    let mut sums = Sums::zero(shape.exits, shape.features, shape.outputs).unwrap();
    let mut x = u64::from(gateway) * 7919 + salt * 104_729 + 1;
    for sample in 0..4u16 {
        let label = sample % shape.outputs as u16;
        let z: Vec<i16> = (0..shape.exits * shape.features)
            .map(|i| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let towards = if i % 2 == usize::from(label) { 3000 } else { -3000 };
                towards + (x >> 53) as i16
            })
            .collect();
        sums.add(&z, label, 1).unwrap();
    }
    sums
}

/// The acknowledgement of `entry` in a message.
pub fn read_ack(message: &Outgoing, entry: &Entry) -> Ack {
    let frame = Frame::decode(&message.payload).unwrap();
    assert_eq!((frame.kind, frame.transfer), (Kind::Ack, entry.transfer()));
    let (ack, m) = (Ack::decode(frame.payload).unwrap(), &entry.manifest);
    assert_eq!((ack.epoch, ack.sequence), (m.epoch, m.sequence));
    let signed = ack.signed(&m.key, &m.blob_hash);
    assert!(verify(&aggregator_key().public(), ack::DOMAIN, &signed, &ack.signature));
    ack
}

pub fn read_pointer(message: &Outgoing) -> Pointer {
    assert!(message.retain);
    Signed::parse(&message.payload).unwrap().open(POINTER_DOMAIN, &aggregator_key().public()).unwrap()
}

/// Sends an entry and returns the answer to it, if any.
pub fn send(core: &mut Aggregator, gateway: &Gateway, entry: &Entry) -> Option<(Status, Reason)> {
    let mut answer = None;
    for frame in entry.frames() {
        for out in core.on_message(&gateway.topic(), &frame, 0).unwrap() {
            if Frame::decode(&out.payload).unwrap().kind != Kind::Status {
                let ack = read_ack(&out, entry);
                answer = Some((ack.status, ack.reason));
            }
        }
    }
    answer
}

pub const ACCEPTED: Option<(Status, Reason)> = Some((Status::Accepted, Reason::None));
pub const DUPLICATE: Option<(Status, Reason)> = Some((Status::Duplicate, Reason::None));

// An answer is compared as `send` returns it.
#[allow(clippy::unnecessary_wraps)]
pub fn refused(reason: Reason) -> Option<(Status, Reason)> {
    Some((Status::Refused, reason))
}

/// Brings a fresh aggregator to version 1 with three gateways; returns them and the base for steps.
pub fn first_version(core: &mut Aggregator, task: &Task) -> (Vec<Gateway>, (u64, [u8; 32])) {
    let mut gateways: Vec<_> = (1..=3).map(Gateway::new).collect();
    for gateway in &mut gateways {
        let sum = gateway.sum(task);
        assert_eq!(send(core, gateway, &sum), ACCEPTED);
    }
    // Late enough for every build to have written what it acknowledged.
    core.on_tick(60_000).unwrap();
    let entry = *core.lineage(&task.manifest.name).unwrap().last().expect("the quorum is there");
    (gateways, (entry.version, entry.module))
}

pub fn block_request(blob_hash: [u8; 32], offset: u32, length: u32) -> Vec<u8> {
    let request = BlockRequest { blob_hash, offset, length, task: Name::new("digits").unwrap() };
    let mut payload = [0; 256];
    let n = request.encode(&mut payload).unwrap();
    encode(&Frame { kind: Kind::BlockRequest, index: 0, transfer: [0; 8], total: 0, payload: &payload[..n] })
}

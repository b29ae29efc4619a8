//! A whole aggregator on a disk in memory: what its decoders let through must not harm it either.
//!
//! An input is a list of operations. A contribution is a valid one with a few bytes changed before it is signed,
//! by a gateway that is admitted: the hardest sender there is. A disk that fails is not part of it, so every
//! message must be answered or dropped without an error.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use loadonce_aggregator::{Admission, Aggregator, DEFAULT_HISTORY_BYTES, Settings, Task};
use loadonce_control::TaskManifest;
use loadonce_delivery::frames;
use loadonce_delta::{Codec, encode_step, encode_sums};
use loadonce_module::Sums;
use loadonce_store::Database;
use loadonce_store::redb::StorageBackend;
use loadonce_trust::{Identity, hash};
use loadonce_wire::manifest::{self, MAX_MANIFEST};
use loadonce_wire::{BlockRequest, ContributionKind, Frame, Kind, Manifest, Name, Topic};

const SITE: &str = "plant";
const BACKBONE: [u8; 32] = [0xbb; 32];
const CACHE: usize = 1024 * 1024;
/// Operations of one input.
const MOST: usize = 24;
/// Bytes of a manifest's signature.
const SIGNATURE: usize = 64;

const TASK: &str = r#"
    name = "digits"
    kind = "classify"
    backbone = "b"
    classes = ["a", "b"]
    input = { modality = "picture" }
    module = { kind = "ladder", rank = 2, features = 4 }
    rounds = { quorum = 2, minimum = 1, deadline_s = 5, steps = 3, max_norm = 10.0, max_weight = 50 }
"#;

/// A disk in memory that never fails; clones are the same disk.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl Disk {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same content.
    fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.bytes().clone())))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let found = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        Ok(())
    }
}

/// What every input starts from.
struct Plant {
    task: Task,
    /// A disk with an empty journal.
    disk: Disk,
    sum: (Vec<u8>, usize),
    step: (Vec<u8>, usize),
}

fn plant() -> &'static Plant {
    static PLANT: OnceLock<Plant> = OnceLock::new();
    PLANT.get_or_init(|| {
        let manifest = TaskManifest::from_toml(TASK).expect("a valid manifest");
        let task = Task::new(manifest, BACKBONE, 2, 128).expect("a task of two exits");
        let mut sums = Sums::for_shape(&task.shape).expect("a small shape");
        for label in 0..4u16 {
            let z: Vec<i16> = (0..task.shape.exits * task.shape.features)
                .map(|i| if i % 2 == usize::from(label % 2) { 3000 + i as i16 } else { -2000 })
                .collect();
            sums.add(&z, label % 2, 1).expect("a small sample");
        }
        let sum = encode_sums(&sums.to_bytes()).expect("small sums");
        let step: Vec<f32> = (0..task.shape.parameters()).map(|i| (i % 11) as f32 / 64.0 - 0.05).collect();
        let step = encode_step(Codec::StepF16, &step).expect("finite values").encoded;
        let disk = Disk::default();
        drop(open(&disk, &task, 0));
        Plant { task, disk, sum: (sum.blob, sum.raw_bytes), step: (step.blob, step.raw_bytes) }
    })
}

fn open(disk: &Disk, task: &Task, now_ms: u64) -> Aggregator {
    let settings = Settings {
        site: SITE.to_owned(),
        admission: Admission::FirstUse,
        gateways: BTreeMap::new(),
        tasks: vec![task.clone()],
        history_bytes: DEFAULT_HISTORY_BYTES,
    };
    let database = Database::open_with(disk.clone(), CACHE).expect("the disk opens");
    Aggregator::open(settings, Identity::from_seed(&[99; 32]), database, now_ms)
        .expect("what an aggregator wrote, it reads")
}

/// Bytes that decide what happens next; zeros once they are used up.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn bytes(&mut self, most: u8) -> &'a [u8] {
        let length = usize::from(most).min(self.0.len());
        self.0.split_off(..length).unwrap_or_default()
    }

    /// Changes up to 3 places of `bytes`, as the source says.
    fn damage(&mut self, bytes: &mut [u8]) {
        for _ in 0..self.byte() % 4 {
            let at = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
            let with = self.byte();
            let length = bytes.len();
            if let Some(byte) = bytes.get_mut(at % length.max(1)) {
                *byte ^= with;
            }
        }
    }
}

pub(super) fn run(data: &[u8]) {
    let plant = plant();
    let disk = plant.disk.copy();
    let mut core = open(&disk, &plant.task, 0);
    let mut now_ms = 0;
    let mut source = Source(data);
    for _ in 0..MOST {
        if source.0.is_empty() {
            break;
        }
        let operation = source.byte();
        let gateway = format!("g{}", operation >> 6);
        let up = Topic::Up { gateway: &gateway }.text(SITE).as_str().to_owned();
        match operation % 8 {
            0..=3 => {
                for frame in contribution(plant, &core, operation >> 6, &mut source) {
                    message(&mut core, &up, &frame, now_ms);
                }
            }
            4 => {
                let topic = match source.byte() % 4 {
                    0 => up,
                    1 => Topic::State { gateway: &gateway }.text(SITE).as_str().to_owned(),
                    2 => format!("loadonce/v1/{SITE}/gw/{gateway}/report"),
                    _ => String::from_utf8_lossy(source.bytes(20)).into_owned(),
                };
                let length = source.byte();
                message(&mut core, &topic, source.bytes(length), now_ms);
            }
            5 => {
                now_ms += 100 * u64::from(source.byte());
                core.on_tick(now_ms).expect("the disk works");
            }
            6 => {
                let request = block_request(&core, &mut source);
                message(&mut core, &up, &request, now_ms);
            }
            _ => {
                let before = remembered(&core);
                drop(core);
                core = open(&disk, &plant.task, now_ms);
                assert_eq!(remembered(&core), before, "a restart changed what was written");
            }
        }
    }
    let before = remembered(&core);
    for entry in &before.0 {
        let file = core.module(&entry.module).expect("the disk works");
        assert!(file.is_none_or(|file| hash(&file) == entry.module), "a version's file is another");
    }
    drop(core);
    assert_eq!(remembered(&open(&disk, &plant.task, now_ms)), before);
}

fn remembered(core: &Aggregator) -> (Vec<loadonce_rounds::LineageEntry>, Option<Vec<u8>>) {
    let lineage = core.lineage("digits").expect("the lineage reads back");
    (lineage, core.totals("digits").expect("the totals read back"))
}

fn message(core: &mut Aggregator, topic: &str, payload: &[u8], now_ms: u64) {
    let answers = core.on_message(topic, payload, now_ms).expect("no message makes a disk fail");
    for answer in answers {
        assert!(answer.payload.len() <= loadonce_wire::limits::MAX_MQTT_PACKET);
    }
}

/// A contribution of a gateway: sum or step, its blob and its manifest damaged as the source says, then hashed,
/// signed and cut. One flag leaves the hash as it was.
fn contribution(plant: &Plant, core: &Aggregator, gateway: u8, source: &mut Source<'_>) -> Vec<Vec<u8>> {
    let identity = Identity::from_seed(&[gateway + 1; 32]);
    let choices = source.byte();
    let kind = if choices & 1 == 0 { ContributionKind::Sum } else { ContributionKind::Step };
    let (codec, (blob, raw_bytes)) = match kind {
        ContributionKind::Sum => (Codec::Sums, &plant.sum),
        ContributionKind::Step => (Codec::StepF16, &plant.step),
    };
    let mut blob = blob.clone();
    if choices & 2 != 0 {
        source.damage(&mut blob);
    }
    let newest = core.lineage("digits").expect("the lineage reads back").last().copied();
    let base = match (kind, newest) {
        (ContributionKind::Step, Some(entry)) => (entry.version, entry.module),
        _ => (0, [0; 32]),
    };
    let manifest = Manifest {
        kind,
        codec: codec.number(),
        key: identity.public(),
        epoch: 7,
        sequence: u64::from(source.byte() % 8),
        task: Name::new("digits").expect("a name"),
        backbone: BACKBONE,
        shape: plant.task.shape_hash,
        base_version: base.0,
        base_hash: base.1,
        weight: 4,
        heldout_samples: 2,
        heldout_before: 1.0,
        heldout_after: 0.5,
        raw_bytes: *raw_bytes as u32,
        blob_bytes: blob.len() as u32,
        blob_hash: hash(&blob),
        signature: [0; 64],
    };
    let mut buffer = [0; MAX_MANIFEST];
    let length = manifest.encode(&mut buffer).expect("the buffer is long enough");
    let encoded = &mut buffer[..length];
    if choices & 4 != 0 {
        source.damage(&mut encoded[..length - SIGNATURE]);
    }
    let signature = identity.sign(manifest::DOMAIN, &encoded[..length - SIGNATURE]);
    encoded[length - SIGNATURE..].copy_from_slice(&signature);
    // What is no manifest any more travels all the same.
    let mut frames = travel(&Manifest::decode(encoded).unwrap_or(manifest), encoded, &blob);
    if choices & 8 != 0
        && let Some(frame) = frames.first_mut()
    {
        source.damage(frame);
    }
    frames
}

/// The frames of a contribution, as an aggregator that has nothing of it makes a gateway send them.
fn travel(manifest: &Manifest, encoded: &[u8], blob: &[u8]) -> Vec<Vec<u8>> {
    let mut id = [0; 8];
    id.copy_from_slice(&hash(&manifest.transfer_seed())[..8]);
    if let Some(whole) = frames::whole(id, encoded, blob) {
        return vec![whole];
    }
    let chunks = (0..).map_while(|index| frames::chunk(id, blob, index));
    std::iter::once(frames::offer(id, encoded, blob.len())).chain(chunks).collect()
}

fn block_request(core: &Aggregator, source: &mut Source<'_>) -> Vec<u8> {
    let newest = core.lineage("digits").expect("the lineage reads back").last().copied();
    let number =
        |source: &mut Source<'_>| u32::from_le_bytes([source.byte(), source.byte(), 0, source.byte()]);
    let request = BlockRequest {
        blob_hash: newest.map_or([1; 32], |entry| entry.module),
        offset: number(source),
        length: number(source),
        task: Name::new("digits").expect("a name"),
    };
    let mut payload = [0; 256];
    let length = request.encode(&mut payload).expect("the buffer is long enough");
    let frame =
        Frame { kind: Kind::BlockRequest, index: 0, transfer: [0; 8], total: 0, payload: &payload[..length] };
    let mut out = vec![0; 512];
    let length = frame.encode(&mut out).expect("the buffer is long enough");
    out.truncate(length);
    out
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let gateway = |number: u8, operation: u8| number << 6 | operation;
    // Sums of two gateways cut version 1, steps of both cut version 2; in between restarts, blocks, raw messages.
    let sums = [gateway(0, 0), 0, 1, gateway(1, 0), 0, 1, 5, 1];
    let steps = [gateway(0, 1), 1, 2, gateway(1, 1), 1, 2, 5, 1];
    let blocks = [gateway(0, 6), 0, 0, 0, 255, 255, 0];
    let birth = br#"{"state":"up","incarnation":2,"version":"0","key":"","backbones":[],"tasks":[]}"#;
    let presence = [&[gateway(2, 4), 1, birth.len() as u8][..], birth].concat();
    vec![
        sums.to_vec(),
        [&sums[..], &[7], &steps, &blocks, &[7, 5, 255]].concat(),
        [&presence[..], &sums, &[gateway(1, 4), 0, 4], b"LDO1"].concat(),
        [&[gateway(0, 0), 2, 2, 9, 0, 255, 30, 0, 1, 1][..], &[gateway(1, 1), 4, 1, 3, 0, 7, 2]].concat(),
        [&[gateway(0, 0), 8, 1, 60, 0, 255, 2][..], &sums].concat(),
    ]
}

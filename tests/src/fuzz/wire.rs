//! What `runtime/wire` reads, and the link's filter of a broker's stream.

use loadonce_delivery::{Fetch, frames};
use loadonce_link::fuzz::{broker_stream, marker};
use loadonce_wire::chunks;
use loadonce_wire::frame::HEADER;
use loadonce_wire::limits::MAX_MQTT_PACKET;
use loadonce_wire::manifest::{MAX_MANIFEST, signed_part};
use loadonce_wire::{Ack, BlockRequest, CHUNK, Frame, Manifest, Name, Topic, Whole};

use super::{golden, seed};

/// Where a frame's checksum lies.
const CRC: std::ops::Range<usize> = 20..24;

pub(super) fn run(data: &[u8]) {
    let Some((&decoder, rest)) = data.split_first() else { return };
    match decoder % 9 {
        0 => frame(rest),
        1 => {
            let mut bytes = rest.to_vec();
            make_crc_true(&mut bytes);
            frame(&bytes);
        }
        2 => manifest(rest),
        3 => ack(rest),
        4 => block_request(rest),
        5 => topic(rest),
        6 => pieces(rest),
        7 => stream(rest),
        _ => {
            let _is_one = marker("$loadonce-link/refused", rest);
        }
    }
}

/// CRC-32C of bytes 0–19 and the payload, put where it belongs.
pub fn make_crc_true(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut digest = crc.digest();
    digest.update(&bytes[..CRC.start]);
    digest.update(&bytes[CRC.end..]);
    bytes[CRC].copy_from_slice(&digest.finalize().to_le_bytes());
}

fn frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else { return };
    let mut again = vec![0; bytes.len()];
    let length = frame.encode(&mut again).expect("what was read can be written");
    assert_eq!(&again[..length], bytes, "a frame has one encoding");
    whole(frame.payload);
    if let Some(held) = frames::read_status(&frame) {
        assert_eq!(held.as_bytes(), frame.payload, "a bitmap has one encoding");
    }
    manifest(frame.payload);
    ack(frame.payload);
    block_request(frame.payload);
}

/// A contribution of one chunk: what goes out is what came in.
fn whole(payload: &[u8]) {
    let Ok(whole) = Whole::decode(payload) else { return };
    let mut again = vec![0; payload.len()];
    assert_eq!(whole.encode(&mut again), Ok(payload.len()));
    assert_eq!(again, payload, "a whole contribution has one encoding");
    let mut encoded = [0; MAX_MANIFEST];
    if let Ok(length) = whole.manifest(&[7; 32], &mut encoded) {
        manifest(&encoded[..length]);
    }
}

fn manifest(bytes: &[u8]) {
    let _parts = signed_part(bytes);
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    let mut again = [0; MAX_MANIFEST];
    let length = manifest.encode(&mut again).expect("what was read can be written");
    assert_eq!(&again[..length], bytes, "a manifest has one encoding, or its signature would not cover it");
    assert_eq!(manifest.transfer_seed(), manifest.clone().transfer_seed());
}

fn ack(bytes: &[u8]) {
    if let Ok(ack) = Ack::decode(bytes) {
        assert_eq!(ack.encode(), bytes, "an acknowledgement has one encoding");
    }
}

fn block_request(bytes: &[u8]) {
    if let Ok(request) = BlockRequest::decode(bytes) {
        let mut again = [0; 256];
        let length = request.encode(&mut again).expect("what was read can be written");
        assert_eq!(&again[..length], bytes, "a block request has one encoding");
    }
}

fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(name) = Name::new(text) {
        assert_eq!(name.as_str(), text);
    }
    if let Some(topic) = Topic::parse("plant", text) {
        assert_eq!(topic.text("plant").as_str(), text, "a topic has one text");
    }
}

/// Size of the file, then number, length and distance in time of each chunk.
fn pieces(bytes: &[u8]) {
    let Some((total, rest)) = bytes.split_first_chunk::<3>() else { return };
    let total = usize::from(u16::from_le_bytes([total[0], total[1]])) << (total[2] % 3);
    let Some(mut fetch) = Fetch::new(total) else { return };
    let mut there = vec![false; chunks::count(total, CHUNK)];
    let mut now = 0;
    for piece in rest.as_chunks::<4>().0 {
        now += u64::from(piece[3]) * 1000;
        if let Some(asked) = fetch.poll(now, u64::from(piece[2])) {
            assert!(asked.start < asked.end && asked.end <= total, "asks for what is there to ask for");
        }
        let index = usize::from(piece[0] % 10);
        let short = usize::from(piece[1] & 1);
        let length = chunks::range(total, CHUNK, index).map_or(1, |range| range.len());
        let claimed = total + usize::from(piece[1] & 2);
        let taken = fetch.chunk(claimed, index, &vec![1; length.saturating_sub(short)], now, 0);
        let fits = index < there.len() && short == 0 && claimed == total;
        assert_eq!(taken.is_ok(), fits, "a chunk is taken where it fits, and only there");
        if fits {
            assert_eq!(taken.ok(), Some(!there[index]), "a chunk is new once");
            there[index] = true;
        }
    }
    assert_eq!(fetch.is_complete(), there.iter().all(|&there| there), "complete with a hole");
}

fn stream(bytes: &[u8]) {
    let Some((&piece, stream)) = bytes.split_first() else { return };
    let (out, whole) = broker_stream(stream, usize::from(piece), MAX_MQTT_PACKET);
    let (at_once, also_whole) = broker_stream(stream, stream.len(), MAX_MQTT_PACKET);
    assert_eq!(whole, also_whole, "whether it is a stream depends on how it is cut");
    if whole {
        assert_eq!(out, at_once, "what goes on depends on how the stream is cut");
    }
    // A packet of 2 bytes may leave a message in its place that names its topic and size.
    assert!(out.len() <= 64 * stream.len() + 512, "{} bytes became {}", stream.len(), out.len());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for name in [
        "wire-chunk.bin",
        "wire-block.bin",
        "wire-ack.bin",
        "wire-block-request.bin",
        "wire-whole.bin",
        "wire-offer.bin",
        "wire-status.bin",
    ] {
        let frame = golden(name);
        seeds.push(seed(0, &frame));
        seeds.push(seed(1, &frame));
        if let Ok(frame) = Frame::decode(&frame) {
            seeds.push(seed(3, frame.payload));
            seeds.push(seed(4, frame.payload));
        }
    }
    seeds.push(seed(2, &golden("wire-manifest.bin")));
    for topic in ["gw/g1/up", "gw/g1/in/digits/s-1", "task/digits", "task/digits/module/0123456789abcdef"] {
        seeds.push(seed(5, crate::site::topic_of(topic).as_bytes()));
    }
    seeds.push(seed(6, &[0, 128, 1, 0, 0, 0, 0, 1, 0, 0, 20, 2, 0, 0, 1, 3, 0, 0, 1]));
    // CONNACK, SUBACK, a message at QoS 1, one without a topic, PINGRESP.
    let stream = [
        &[0x20, 2, 0, 0, 0x90, 3, 0, 1, 1][..],
        &[0x32, 8, 0, 3, b'a', b'/', b'b', 0, 7, b'!'],
        &[0x30, 1, 0],
        &[0xd0, 0],
    ];
    seeds.push(seed(7, &[&[3][..], &stream.concat()].concat()));
    seeds.push(seed(8, b"\x01\x00\x00\x01\x00\x00\x00\x00\x00topic"));
    seeds
}

//! What `runtime/wire` reads, and the link's filter of a broker's stream.

use loadonce_link::fuzz::{broker_stream, marker};
use loadonce_wire::chunks::split_first;
use loadonce_wire::frame::HEADER;
use loadonce_wire::limits::MAX_MQTT_PACKET;
use loadonce_wire::manifest::{MAX_MANIFEST, signed_part};
use loadonce_wire::{Ack, BlockRequest, Frame, Manifest, Name, Reassembly, Topic};

use super::{golden, seed};

/// Where a frame's checksum lies.
const CRC: std::ops::Range<usize> = 56..60;

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

/// CRC-32C of bytes 0–55 and the payload, put where it belongs.
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
    if let Some((encoded, blob)) = split_first(frame.flags, frame.payload) {
        assert!(encoded.len() + blob.len() < bytes.len());
        manifest(encoded);
    }
    ack(frame.payload);
    block_request(frame.payload);
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

/// Size of the blob, then offset and length of each piece.
fn pieces(bytes: &[u8]) {
    let Some((total, rest)) = bytes.split_first_chunk::<2>() else { return };
    let total = usize::from(u16::from_le_bytes(*total));
    let mut buffer = vec![0; total];
    let mut filled = vec![false; total];
    let mut reassembly = Reassembly::new(total).expect("64 KiB are allowed");
    for piece in rest.as_chunks::<4>().0 {
        let offset = usize::from(u16::from_le_bytes([piece[0], piece[1]]));
        let length = usize::from(u16::from_le_bytes([piece[2], piece[3]]));
        if reassembly.insert(&mut buffer, offset, &vec![1; length]).is_ok() {
            filled[offset..offset + length].fill(true);
        }
    }
    if reassembly.complete() {
        assert!(filled.iter().all(|&there| there), "complete with a hole");
    } else {
        assert!(reassembly.missing().is_some_and(|missing| missing.end <= total));
    }
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
    for name in ["wire-chunk.bin", "wire-block.bin", "wire-ack.bin", "wire-block-request.bin"] {
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
    seeds.push(seed(6, &[0, 1, 0, 0, 128, 0, 128, 0, 128, 0]));
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

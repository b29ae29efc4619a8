//! Golden files of every message the wire ever shipped: what is encoded today is what was encoded then.
//! `LOADONCE_WRITE_GOLDEN=1` writes files that are missing; one that exists is never overwritten.
#![allow(missing_docs)]

use loadonce_wire::block::MAX_BLOCK_REQUEST;
use loadonce_wire::frame::{FLAG_MANIFEST, HEADER};
use loadonce_wire::manifest::MAX_MANIFEST;
use loadonce_wire::{Ack, BlockRequest, ContributionKind, Frame, Kind, Manifest, Name, Reason, Status};
use std::path::PathBuf;

fn golden(name: &str, bytes: &[u8]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let path = folder.join(format!("wire-{name}.bin"));
    if !path.exists() && std::env::var_os("LOADONCE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).expect("the folder of golden files can be written");
    }
    let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(kept == bytes, "{name} is no longer encoded as it was shipped");
}

fn bytes32(from: u8) -> [u8; 32] {
    std::array::from_fn(|i| from.wrapping_add(i as u8))
}

fn signature() -> [u8; 64] {
    std::array::from_fn(|i| 255 - i as u8)
}

fn manifest() -> Manifest {
    Manifest {
        kind: ContributionKind::Step,
        codec: 2,
        key: bytes32(1),
        epoch: 0x0102_0304_0506_0708,
        sequence: 9,
        task: Name::new("digits").expect("a valid name"),
        backbone: bytes32(40),
        shape: bytes32(80),
        base_version: 3,
        base_hash: bytes32(120),
        weight: 16,
        heldout_samples: 4,
        heldout_before: 0.5,
        heldout_after: 0.25,
        raw_bytes: 4000,
        blob_bytes: 1000,
        blob_hash: bytes32(160),
        signature: signature(),
    }
}

fn encoded_manifest() -> Vec<u8> {
    let mut out = vec![0; MAX_MANIFEST];
    let length = manifest().encode(&mut out).expect("MAX_MANIFEST holds every manifest");
    out.truncate(length);
    out
}

#[test]
fn manifest_of_format_1() {
    golden("manifest", &encoded_manifest());
    assert_eq!(Manifest::decode(&encoded_manifest()), Ok(manifest()));
}

#[test]
fn chunk_with_manifest_of_version_1() {
    let encoded = encoded_manifest();
    let mut payload = (encoded.len() as u16).to_le_bytes().to_vec();
    payload.extend(&encoded);
    payload.extend([7; 20]);
    let frame = Frame {
        kind: Kind::Chunk,
        flags: FLAG_MANIFEST,
        transfer: std::array::from_fn(|i| i as u8),
        epoch: 0x0102_0304_0506_0708,
        sequence: 9,
        offset: 0,
        total: 1000,
        payload: &payload,
    };
    let mut out = vec![0; HEADER + payload.len()];
    frame.encode(&mut out).expect("the buffer is as long as the frame");
    golden("chunk", &out);
    assert_eq!(Frame::decode(&out), Ok(frame));
}

#[test]
fn acknowledgement_of_version_1() {
    let ack = Ack {
        key: bytes32(1),
        epoch: 0x0102_0304_0506_0708,
        sequence: 9,
        blob_hash: bytes32(160),
        status: Status::Refused,
        reason: Reason::StaleBase,
        signature: signature(),
    };
    golden("ack", &ack.encode());
    assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
}

#[test]
fn block_request_of_version_1() {
    let request = BlockRequest {
        blob_hash: bytes32(160),
        offset: 61_380,
        length: 1234,
        task: Name::new("motion").expect("a valid name"),
    };
    let mut out = vec![0; MAX_BLOCK_REQUEST];
    let length = request.encode(&mut out).expect("MAX_BLOCK_REQUEST holds every request");
    golden("block-request", &out[..length]);
    assert_eq!(BlockRequest::decode(&out[..length]), Ok(request));
}

#[test]
fn block_of_version_1() {
    let payload: Vec<u8> = (0..200u8).collect();
    let frame = Frame {
        kind: Kind::Block,
        flags: 0,
        transfer: std::array::from_fn(|i| 160 + i as u8),
        epoch: 0,
        sequence: 0,
        offset: 61_380,
        total: 61_580,
        payload: &payload,
    };
    let mut out = vec![0; HEADER + payload.len()];
    frame.encode(&mut out).expect("the buffer is as long as the frame");
    golden("block", &out);
    assert_eq!(Frame::decode(&out), Ok(frame));
}

//! Golden files of every message the wire ever shipped: what is encoded today is what was encoded then.
//! `LOADONCE_WRITE_GOLDEN=1` writes files that are missing; one that exists is never overwritten.
#![allow(missing_docs)]

use loadonce_wire::block::MAX_BLOCK_REQUEST;
use loadonce_wire::chunks::{CHUNK, count};
use loadonce_wire::frame::HEADER;
use loadonce_wire::manifest::MAX_MANIFEST;
use loadonce_wire::{
    Ack, BlockRequest, Chunks, ContributionKind, Frame, Kind, Manifest, Name, Reason, Status, TransferId,
    Whole,
};
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

const TRANSFER: TransferId = [0, 1, 2, 3, 4, 5, 6, 7];

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

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = vec![0; HEADER + frame.payload.len()];
    frame.encode(&mut out).expect("the buffer is as long as the frame");
    assert_eq!(Frame::decode(&out), Ok(*frame));
    out
}

#[test]
fn whole_contribution_of_version_2() {
    let manifest = encoded_manifest();
    let mut payload = vec![0; 2 + manifest.len() + 20];
    let length = Whole::new(&manifest, &[7; 20]).and_then(|whole| whole.encode(&mut payload));
    payload.truncate(length.expect("the buffer is long enough"));
    golden(
        "whole",
        &encoded(&Frame { kind: Kind::Whole, index: 0, transfer: TRANSFER, total: 20, payload: &payload }),
    );
}

#[test]
fn offer_chunk_and_status_of_version_2() {
    let (total, manifest) = (49_153, encoded_manifest());
    let offer = Frame { kind: Kind::Offer, index: 0, transfer: TRANSFER, total, payload: &manifest };
    golden("offer", &encoded(&offer));
    golden("chunk", &encoded(&Frame { kind: Kind::Chunk, index: 3, payload: &[7], ..offer }));
    let mut held = Chunks::none(count(total as usize, CHUNK)).expect("four chunks are not too many");
    assert!(held.add(0) && held.add(2));
    golden("status", &encoded(&Frame { kind: Kind::Status, payload: held.as_bytes(), ..offer }));
}

#[test]
fn acknowledgement_of_version_2() {
    let ack = Ack {
        epoch: 0x0102_0304_0506_0708,
        sequence: 9,
        status: Status::Refused,
        reason: Reason::Busy,
        wait_s: 300,
        signature: signature(),
    };
    golden("ack", &ack.encode());
    assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
    golden("ack-signed", &ack.signed(&bytes32(1), &bytes32(160)));
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
fn block_of_version_2() {
    let payload: Vec<u8> = (0..200u8).collect();
    golden(
        "block",
        &encoded(&Frame {
            kind: Kind::Block,
            index: 3,
            transfer: TRANSFER,
            total: 49_352,
            payload: &payload,
        }),
    );
}

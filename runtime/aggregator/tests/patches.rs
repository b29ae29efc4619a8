//! New versions as patches: what a gateway makes of the file before and the patch is the file, byte for byte.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ACCEPTED, DIGITS, block_request, first_version, open_on, read_pointer, send, settings, task};
use loadonce_aggregator::Aggregator;
use loadonce_control::{Pointer, Stable};
use loadonce_delta::{apply_patch, most_patch_bytes};
use loadonce_module::{Dtype, ModuleFile};
use loadonce_store::crash::PowerCutDisk;
use loadonce_trust::{decode_hex, encode_hex, hash};
use loadonce_wire::{Frame, Kind};

/// A gateway's request for a file or patch, answered in one block.
fn fetch(core: &mut Aggregator, wanted: &str, bytes: u32) -> Vec<u8> {
    let request = block_request(decode_hex(wanted).unwrap(), 0, bytes);
    let topic = common::Gateway::new(1).topic();
    let out = core.on_message(&topic, &request, 0).unwrap();
    assert_eq!(out.len(), 1);
    let frame = Frame::decode(&out[0].payload).unwrap();
    assert_eq!((frame.kind, frame.total), (Kind::Block, bytes));
    assert_eq!(encode_hex(&hash(frame.payload)), wanted);
    frame.payload.to_vec()
}

/// What an agent does that holds the version before.
fn patched(base: &[u8], stable: &Stable, patch: &[u8]) -> Vec<u8> {
    let base = ModuleFile::decode(base).unwrap();
    let params = apply_patch(&base.params, patch).unwrap();
    ModuleFile { version: stable.version, base: stable.base.clone(), params, ..base }
        .encode(Dtype::F16)
        .unwrap()
}

/// Closes a round of steps from `base` and returns the pointer that follows.
fn close_a_round(
    core: &mut Aggregator,
    toml: &str,
    gateways: &mut [common::Gateway],
    base: (u64, [u8; 32]),
) -> Pointer {
    let task = task(toml);
    for gateway in gateways {
        let step = gateway.step(&task, base);
        assert_eq!(send(core, gateway, &step), ACCEPTED);
    }
    let out = core.on_tick(60_000 * (base.0 + 1)).unwrap();
    read_pointer(out.iter().find(|message| message.retain).unwrap())
}

#[test]
fn a_patch_leads_to_the_very_file_and_survives_a_restart() {
    let disk = PowerCutDisk::with_database().unwrap();
    let mut core = open_on(&disk, settings(&[DIGITS]), 0).unwrap();
    let (mut gateways, mut base) = first_version(&mut core, &task(DIGITS));
    let mut file = core.module(&base.1).unwrap().unwrap();
    for _ in 0..2 {
        let pointer = close_a_round(&mut core, DIGITS, &mut gateways, base);
        let stable = pointer.stable.clone().unwrap();
        let announced = stable.patch.clone().unwrap();
        assert_eq!(stable.base, encode_hex(&base.1));
        assert!(announced.bytes as usize <= most_patch_bytes(task(DIGITS).shape.parameters()));
        assert!(announced.bytes * 2 < stable.bytes);
        let patch = fetch(&mut core, &announced.hash, announced.bytes);
        let made = patched(&file, &stable, &patch);
        assert_eq!(encode_hex(&hash(&made)), stable.hash);
        assert_eq!(made, fetch(&mut core, &stable.hash, stable.bytes));

        // After a restart the same pointer stands, with the same serial, and the patch is still there.
        drop(core);
        core = open_on(&disk, settings(&[DIGITS]), 0).unwrap();
        let said = core.on_connected(0);
        assert_eq!(read_pointer(&said[1]), pointer);
        assert_eq!(fetch(&mut core, &announced.hash, announced.bytes), patch);
        (base, file) = ((stable.version, hash(&made)), made);
    }
}

#[test]
fn only_the_newest_patch_is_served_and_none_where_the_task_wants_none() {
    let mut core = open_on(&PowerCutDisk::with_database().unwrap(), settings(&[DIGITS]), 0).unwrap();
    let (mut gateways, base) = first_version(&mut core, &task(DIGITS));
    let first = close_a_round(&mut core, DIGITS, &mut gateways, base).stable.unwrap();
    let second = close_a_round(&mut core, DIGITS, &mut gateways, (2, decode_hex(&first.hash).unwrap()));
    assert!(second.stable.unwrap().patch.is_some());
    let old = first.patch.unwrap();
    let request = block_request(decode_hex(&old.hash).unwrap(), 0, old.bytes);
    assert!(core.on_message(&gateways[0].topic(), &request, 0).unwrap().is_empty());

    for sync in ["codec = \"f16\"", "codec = \"f32\"", "patch_bits = 0.0"] {
        let toml = format!("{DIGITS}\n[sync]\n{sync}");
        let mut core = open_on(&PowerCutDisk::with_database().unwrap(), settings(&[&toml]), 0).unwrap();
        let (mut gateways, base) = first_version(&mut core, &task(&toml));
        let stable = close_a_round(&mut core, &toml, &mut gateways, base).stable.unwrap();
        assert_eq!((stable.version, stable.patch), (2, None), "{sync}");
    }
}

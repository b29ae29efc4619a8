//! Bytes of MQTT, from the product's own manifests, frames and acknowledgements.

use loadonce_control::{POINTER_DOMAIN, Patch, Pointer, Signed, Stable, Wants};
use loadonce_delivery::Fetch;
use loadonce_trust::{Identity, encode_hex, hash};
use loadonce_wire::block::MAX_BLOCK_REQUEST;
use loadonce_wire::frame::HEADER;
use loadonce_wire::limits::packet_bytes;
use loadonce_wire::manifest::MAX_MANIFEST;
use loadonce_wire::{BlockRequest, CHUNK, ContributionKind, Manifest, Name, Topic, ack, chunks};

const SITE: &str = "plant";
const GATEWAY: &str = "gateway-07";
/// MQTT's answer to a message of QoS 1.
const PUBACK: usize = 4;

fn published(topic: &Topic<'_>, payload: usize) -> usize {
    packet_bytes(topic.text(SITE).as_str().len(), payload) + PUBACK
}

fn manifest(task: &str, codec: u8, blob: usize) -> Result<usize, String> {
    let manifest = Manifest {
        kind: ContributionKind::Step,
        codec,
        key: [1; 32],
        epoch: u64::MAX,
        sequence: 1,
        task: Name::new(task).ok_or("the task's name is no topic level")?,
        backbone: [2; 32],
        shape: [3; 32],
        base_version: 1,
        base_hash: [4; 32],
        weight: 40,
        heldout_samples: 10,
        heldout_before: 0.0,
        heldout_after: 0.0,
        raw_bytes: 0,
        blob_bytes: blob as u32,
        blob_hash: [5; 32],
        signature: [6; 64],
    };
    manifest.encode(&mut [0; MAX_MANIFEST]).map_err(|e| e.to_string())
}

/// A blob's hash, which the manifest of a whole contribution leaves out, and the length that stands before it instead.
const HASH: usize = 32;
const LENGTH: usize = 2;

/// Both directions of one accepted step: the whole of it up, or its offer, the answer to that and its chunks; the signed
/// acknowledgement down; and MQTT's answers to all of them.
pub(crate) fn step(task: &str, codec: u8, blob: usize) -> Result<usize, String> {
    let manifest = manifest(task, codec, blob)?;
    let up = Topic::Up { gateway: GATEWAY };
    let down = Topic::Down { gateway: GATEWAY };
    let count = chunks::count(blob, CHUNK);
    let sent = if count == 1 {
        published(&up, HEADER + LENGTH + manifest - HASH + blob)
    } else {
        let chunks = (0..count).filter_map(|index| chunks::range(blob, CHUNK, index));
        published(&up, HEADER + manifest)
            + published(&down, HEADER + count.div_ceil(8))
            + chunks.map(|range| published(&up, HEADER + range.len())).sum::<usize>()
    };
    Ok(sent + published(&down, HEADER + ack::ACK_BYTES))
}

/// Both directions of one new version: pointer, request, and the file or patch in blocks.
pub(crate) fn version(task: &str, file: usize, patch: Option<usize>) -> Result<usize, String> {
    let identity = Identity::from_seed(&[7; 32]);
    let text = |number: u8| encode_hex(&hash(&[number]));
    let pointer = Pointer {
        site: SITE.into(),
        task: task.into(),
        backbone: text(1),
        shape: text(2),
        serial: 1000,
        wants: Wants::Step,
        stable: Some(Stable {
            version: 1000,
            hash: text(3),
            bytes: file as u32,
            base: text(4),
            patch: patch.map(|bytes| Patch { hash: text(5), bytes: bytes as u32 }),
        }),
    };
    let pointer =
        Signed::seal(&identity, POINTER_DOMAIN, &pointer).map_err(|e| e.to_string())?.to_json().len();
    let backbone = text(1);
    let request = BlockRequest {
        blob_hash: [1; 32],
        offset: 0,
        length: file as u32,
        task: Name::new(task).ok_or("the task's name is no topic level")?,
    };
    let request = request.encode(&mut [0; MAX_BLOCK_REQUEST]).map_err(|e| e.to_string())?;
    let bytes = patch.unwrap_or(file);
    let mut fetch = Fetch::new(bytes).ok_or("no such file can be fetched")?;
    let (mut requests, mut blocks) = (0, 0);
    for index in 0..chunks::count(bytes, CHUNK) {
        requests += usize::from(fetch.poll(0, 0).is_some());
        let range = chunks::range(bytes, CHUNK, index).ok_or("a chunk beyond the end")?;
        blocks += published(&Topic::Down { gateway: GATEWAY }, HEADER + range.len());
        fetch.chunk(bytes, index, &vec![0; range.len()], 0, 0).map_err(|_| "a chunk that does not fit")?;
    }
    Ok(published(&Topic::Pointer { task, backbone: &backbone }, pointer)
        + requests * published(&Topic::Up { gateway: GATEWAY }, HEADER + request)
        + blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_blob_is_counted() {
        let around = step("digits", 3, 4000).unwrap() - 4000;
        // Frame, manifest, topic; acknowledgement in its frame, topic; two answers of MQTT.
        assert!((420..560).contains(&around), "{around}");
        assert!(step("digits", 1, 160_000).unwrap() > 160_000 + around + 2 * HEADER);
        assert!(version("digits", 80_000, Some(7000)).unwrap() < 8700);
        assert!(version("digits", 80_000, None).unwrap() > 80_000);
    }
}

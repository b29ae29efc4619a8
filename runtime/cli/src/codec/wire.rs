//! Bytes of MQTT, from the product's own manifests, frames and acknowledgements.

use loadonce_control::{POINTER_DOMAIN, Patch, Pointer, Signed, Stable, Wants};
use loadonce_trust::{Identity, encode_hex, hash};
use loadonce_wire::block::MAX_BLOCK_REQUEST;
use loadonce_wire::frame::HEADER;
use loadonce_wire::limits::{MAX_PAYLOAD, packet_bytes};
use loadonce_wire::manifest::MAX_MANIFEST;
use loadonce_wire::{BlockRequest, ContributionKind, Manifest, Name, Topic, ack, chunks};

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

/// Both directions of one accepted step: chunks and their answers up, the signed acknowledgement and its answer down.
pub(crate) fn step(task: &str, codec: u8, blob: usize) -> Result<usize, String> {
    let manifest = manifest(task, codec, blob)?;
    let up = Topic::Up { gateway: GATEWAY };
    let chunks: usize = chunks::ranges(blob, manifest + 2)
        .map(|range| {
            let head = if range.start == 0 { manifest + 2 } else { 0 };
            published(&up, HEADER + head + range.len())
        })
        .sum();
    Ok(chunks + published(&Topic::Down { gateway: GATEWAY }, HEADER + ack::ACK_BYTES))
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
    let blocks: usize = (0..bytes.div_ceil(MAX_PAYLOAD))
        .map(|i| {
            let payload = MAX_PAYLOAD.min(bytes - i * MAX_PAYLOAD);
            published(&Topic::Down { gateway: GATEWAY }, HEADER + payload)
        })
        .sum();
    Ok(published(&Topic::Pointer { task, backbone: &backbone }, pointer)
        + published(&Topic::Up { gateway: GATEWAY }, HEADER + request)
        + blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_blob_is_counted() {
        let around = step("digits", 3, 4000).unwrap() - 4000;
        // Frame, manifest, topic; acknowledgement in its frame, topic; two answers of MQTT.
        assert!((600..700).contains(&around), "{around}");
        assert!(step("digits", 1, 160_000).unwrap() > 160_000 + around + 2 * HEADER);
        assert!(version("digits", 80_000, Some(7000)).unwrap() < 8700);
        assert!(version("digits", 80_000, None).unwrap() > 80_000);
    }
}

//! What lies on the disks of gateway and aggregator.

use loadonce_module::{Dtype, Head, ModuleFile, Recipe, Role, Shape};
use loadonce_rounds::LineageEntry;
use loadonce_trust::Identity;

use super::{golden, seed};

pub(super) fn run(data: &[u8]) {
    let Some((&decoder, rest)) = data.split_first() else { return };
    match decoder % 13 {
        0 => module(rest),
        1 => {
            if let Ok(entry) = LineageEntry::decode(rest) {
                assert_eq!(entry.encode(), rest, "a lineage entry has one encoding");
            }
        }
        2 => {
            let given = rest.first().map_or(0, |&byte| u16::from(byte));
            let _read = loadonce_agent::fuzz::sample_record(rest, given);
        }
        3 => {
            let _read = loadonce_store::fuzz::outbox_record(rest);
        }
        4 => {
            let _read = loadonce_store::fuzz::slot_checksums(rest);
        }
        5 => {
            let _read = loadonce_aggregator::fuzz::pending(rest);
        }
        6 => {
            let _read = loadonce_agent::fuzz::slot_description(rest);
        }
        7 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                let _key = Identity::from_file_text(text);
                let _hash: Option<[u8; 32]> = loadonce_trust::decode_hex(text);
            }
        }
        9 => {
            let _read = loadonce_aggregator::fuzz::retained(rest);
        }
        10 => {
            let _read = loadonce_aggregator::fuzz::policy(rest);
        }
        11 => {
            let _read = loadonce_aggregator::fuzz::participants(rest);
        }
        12 => {
            let parameters = rest.len().saturating_sub(16) / 4;
            let _read = loadonce_agent::fuzz::residual(rest, parameters as u16);
        }
        // The container's own length field, so that a short input has a header at all.
        _ => {
            let bytes = [&(rest.len() as u64).to_le_bytes()[..], rest].concat();
            module(&bytes);
        }
    }
}

fn module(bytes: &[u8]) {
    let Ok(file) = ModuleFile::decode(bytes) else { return };
    assert_eq!(file.params.len(), file.shape.parameters());
    assert!(file.params.iter().chain(&file.offset).all(|value| value.is_finite()));
    // Whatever was read can be written again, and says the same then.
    let again = file.encode(Dtype::F32).expect("what was read can be written");
    assert_eq!(ModuleFile::decode(&again).expect("what was written can be read"), file);
}

/// A module file of a few hundred bytes: mutations reach every part of it.
fn small_module() -> Vec<u8> {
    let shape = Shape { recipe: Recipe::Probe, head: Head::Classify, exits: 1, features: 2, outputs: 2 };
    let file = ModuleFile {
        task: "t".to_owned(),
        shape,
        classes: vec!["a".to_owned(), "b".to_owned()],
        backbone: "0".repeat(64),
        version: 1,
        base: String::new(),
        role: Role::Shared,
        offset: Vec::new(),
        params: shape.initial(1),
    };
    file.encode(Dtype::F16).expect("a small module")
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![seed(0, &small_module())];
    for name in ["module-v1", "module-v1-anomaly", "module-v1-forecast", "module-v1-personal"] {
        let bytes = golden(&format!("{name}.safetensors"));
        seeds.push(seed(8, &bytes[8..]));
        seeds.push(seed(0, &bytes));
    }
    let mut entry = [0; loadonce_rounds::ENTRY_BYTES];
    entry[..2].copy_from_slice(&[1, 2]);
    seeds.push(seed(1, &entry));
    // Format 3, eight bytes of tag, held out, label 1, one mark, id of one byte, a course of 21 bytes.
    let mut record = vec![3, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 1, 1, 21, 0];
    record.extend([7; 20]);
    record.push(b's');
    record.extend([0; 8]);
    record.extend(1f64.to_le_bytes());
    record.extend([1, 1, 0, 5, 0]);
    record.extend([1, 0, 2, 0]);
    seeds.push(seed(2, &record));
    let mut head = vec![1, 2, 1, 0];
    head.extend([0; 52]);
    head.extend(b"tmanifest");
    seeds.push(seed(3, &head));
    let hash = "0".repeat(64);
    seeds.push(seed(4, format!("loadonce-slot 1\ngeneration 3\n{hash} 12 slot.json\n").as_bytes()));
    let manifest = golden("wire-manifest.bin");
    let kept = [&(manifest.len() as u16).to_le_bytes()[..], &manifest, b"blob"].concat();
    seeds.push(seed(5, &kept));
    let description = br#"{"version":3,"hash":"00","thresholds":[0.5,2.0],"labels":4,"kept":"start","alarms":[],"recall":[1,2],"reject":0.5}"#;
    seeds.push(seed(6, description));
    seeds.push(seed(7, "ab".repeat(32).as_bytes()));
    seeds.push(seed(9, &[7; 56]));
    let task = String::from_utf8(golden("wire-task-classify.json")).expect("a task is text");
    let policy = format!(r#"{{"manifest":{task},"backbone":"{hash}","exits":3,"directions":128}}"#);
    seeds.push(seed(10, policy.as_bytes()));
    seeds.push(seed(11, &[1; 64]));
    seeds.push(seed(12, &[0; 16 + 8]));
    seeds
}

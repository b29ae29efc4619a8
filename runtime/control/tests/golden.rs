//! Golden signed messages, byte by byte. `LOADONCE_WRITE_GOLDEN=1` writes files that are missing; one that exists
//! is never overwritten.
#![allow(missing_docs)]

use loadonce_control::{MANIFEST_DOMAIN, POINTER_DOMAIN, Pointer, Signed, Stable, TaskManifest, Wants};
use loadonce_trust::Identity;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::path::PathBuf;

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, domain: &[u8], message: &T) {
    let identity = Identity::from_seed(&[7; 32]);
    let fresh = Signed::seal(&identity, domain, message).expect("the message is small").to_json();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/wire-{name}.json"));
    if !path.exists() && std::env::var_os("LOADONCE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &fresh).expect("the folder of golden files can be written");
    }
    let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(String::from_utf8_lossy(&kept), String::from_utf8_lossy(&fresh), "{name}");
    let read: T = Signed::parse(&kept)
        .and_then(|signed| signed.open(domain, &identity.public()))
        .expect("what was signed once is believed for ever");
    assert_eq!(&read, message);
}

#[test]
fn pointer() {
    let stable = Stable { version: 3, hash: "ab".repeat(32), bytes: 9876, base: "cd".repeat(32) };
    let pointer = Pointer {
        site: "plant".into(),
        task: "digits".into(),
        backbone: "ef".repeat(32),
        shape: "01".repeat(32),
        serial: 12,
        wants: Wants::Step,
        stable: Some(stable),
    };
    golden("pointer", POINTER_DOMAIN, &pointer);
}

#[test]
fn task() {
    let text = r#"
        name = "motion"
        kind = "classify"
        backbone = "sense-tiny"
        classes = ["running", "walking", "Fräsen"]
        input = { modality = "window", channels = 6, length = 100 }
        module = { kind = "ladder", rank = 16, shrinkage = { fixed = 0.25 } }
        rounds = { quorum = 3 }
    "#;
    golden("task", MANIFEST_DOMAIN, &TaskManifest::from_toml(text).expect("a valid manifest"));
}

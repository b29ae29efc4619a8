//! Golden signed messages, byte by byte. `LOADONCE_WRITE_GOLDEN=1` writes files that are missing; one that exists
//! is never overwritten.
#![allow(missing_docs)]

use loadonce_control::{
    MANIFEST_DOMAIN, POINTER_DOMAIN, Patch, Pointer, Signed, Stable, TaskManifest, Wants,
};
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
    let stable =
        Stable { version: 3, hash: "ab".repeat(32), bytes: 9876, base: "cd".repeat(32), patch: None };
    let mut pointer = Pointer {
        site: "plant".into(),
        task: "digits".into(),
        backbone: "ef".repeat(32),
        shape: "01".repeat(32),
        serial: 12,
        wants: Wants::Step,
        stable: Some(stable.clone()),
    };
    golden("pointer", POINTER_DOMAIN, &pointer);
    let patch = Some(Patch { hash: "23".repeat(32), bytes: 543 });
    pointer.stable = Some(Stable { patch, ..stable });
    golden("pointer-patch", POINTER_DOMAIN, &pointer);
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

#[test]
fn tasks_of_the_other_kinds() {
    let forecast = r#"
        name = "demand"
        kind = "forecast"
        backbone = "sense-tiny"
        input = { modality = "window", channels = 2, points = 128, rate = 0.1, units = "kW", range = [[0.0, 80.5], [-1.0, 1.0]], levels = true }
        module = { kind = "probe", penalty = { fixed = 0.5 }, choose = "trained" }
        exits = { tolerance = 0.25 }
        [forecast]
        horizon = 6
        quantiles = [0.05, 0.5, 0.95]
        target = 1
        lags = [1, 2, 24]
        calendar = ["day", { period = 48, harmonics = 1 }]
        season = 24
        step_s = 600.0
        loss = "huber"
    "#;
    golden("task-forecast", MANIFEST_DOMAIN, &TaskManifest::from_toml(forecast).expect("a valid manifest"));
    let anomaly = r#"
        name = "surface"
        kind = "anomaly"
        backbone = "sense-tiny"
        input = { modality = "picture", side = 48, colour = true, levels = true }
        module = { kind = "moments" }
        anomaly = { false_alarms = 0.005, learn = 500 }
    "#;
    golden("task-anomaly", MANIFEST_DOMAIN, &TaskManifest::from_toml(anomaly).expect("a valid manifest"));
    let classify = r#"
        name = "triage"
        kind = "classify"
        backbone = "text-minilm"
        classes = ["disk", "network"]
        input = { modality = "text" }
        module = { kind = "ladder" }
        classify = { weights = [1.0, 2.5], reject = { risk = 0.05 }, top = 2 }
    "#;
    golden("task-classify", MANIFEST_DOMAIN, &TaskManifest::from_toml(classify).expect("a valid manifest"));
}

//! What `runtime/control` reads, and the configurations.

use std::path::Path;

use loadonce_control::{
    Label, LabelMessage, MANIFEST_DOMAIN, POINTER_DOMAIN, Pointer, Presence, Signed, TaskManifest,
};
use loadonce_link::Broker;
use loadonce_trust::Identity;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{golden, seed};
use crate::site::{digits, motion};

pub(super) fn run(data: &[u8]) {
    let Some((&decoder, rest)) = data.split_first() else { return };
    let text = std::str::from_utf8(rest);
    match decoder % 10 {
        0 => {
            if let Ok(Ok(manifest)) = text.map(TaskManifest::from_toml) {
                valid(&manifest);
            }
        }
        1 => {
            if let Ok(manifest) = serde_json::from_slice::<TaskManifest>(rest)
                && manifest.validate().is_ok()
            {
                valid(&manifest);
            }
        }
        2 => envelope(rest),
        // The signature made true: what an aggregator that is believed may say.
        3 => {
            if let Ok(text) = text {
                let identity = Identity::from_seed(&[1; 32]);
                for domain in [MANIFEST_DOMAIN, POINTER_DOMAIN] {
                    let signature = identity.sign(domain, text.as_bytes());
                    let signed = serde_json::json!({
                        "payload": text,
                        "key": loadonce_trust::encode_hex(&identity.public()),
                        "signature": loadonce_trust::encode_hex(&signature),
                    });
                    envelope(signed.to_string().as_bytes());
                }
            }
        }
        4 => there_and_back::<Pointer>(rest),
        5 => there_and_back::<Presence>(rest),
        6 => {
            if let Some(Label::Values(values)) = LabelMessage::parse(rest) {
                assert!(values.len() <= rest.len());
            }
        }
        7 => {
            if let Ok(text) = text {
                let _config = loadonce_agent::config::Config::parse(text, Path::new("agent.toml"));
            }
        }
        8 => {
            if let Ok(text) = text {
                let _reads = loadonce_aggregator::fuzz::config(text);
            }
        }
        _ => {
            if let Ok(Ok(broker)) = text.map(Broker::parse) {
                assert!(!broker.host.is_empty());
            }
        }
    }
}

/// Whatever a valid manifest says can be used, and travels as JSON without a change.
fn valid(manifest: &TaskManifest) {
    for (exits, directions) in [(1, 1), (3, 128)] {
        if let Ok(shape) = manifest.shape(exits, directions) {
            assert!(shape.parameters() > 0);
            let _fingerprint = shape.fingerprint(&manifest.classes, &manifest.features_of("b", directions));
        }
    }
    let mut extras = Vec::new();
    manifest.append_calendar(1.7e9, &mut extras);
    let _used =
        (manifest.solve_options(), manifest.objective(), manifest.heldout_overlap(), manifest.extras());
    let json = serde_json::to_vec(manifest).expect("a manifest serializes");
    let again: TaskManifest = serde_json::from_slice(&json).expect("what was written can be read");
    assert_eq!(&again, manifest);
    again.validate().expect("a valid manifest stays valid");
}

fn envelope(bytes: &[u8]) {
    let Ok(signed) = Signed::parse(bytes) else { return };
    let key = Identity::from_seed(&[1; 32]).public();
    if let Ok(manifest) = signed.open::<TaskManifest>(MANIFEST_DOMAIN, &key)
        && manifest.validate().is_ok()
    {
        valid(&manifest);
    }
    if let Ok(pointer) = signed.open::<Pointer>(POINTER_DOMAIN, &key) {
        serde_json::to_vec(&pointer).expect("a pointer serializes");
    }
}

fn there_and_back<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let json = serde_json::to_vec(&value).expect("what was read can be written");
        let again: T = serde_json::from_slice(&json).expect("what was written can be read");
        assert_eq!(serde_json::to_vec(&again).expect("as before"), json);
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let tasks = crate::programs::root().join("models/tasks");
    let mut manifests = vec![digits(1, 2, 3).toml(), motion(1, 2, 3).toml()];
    for name in ["demand", "digits", "motion", "spindle"] {
        let path = tasks.join(format!("{name}.toml"));
        manifests.push(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    for text in &manifests {
        seeds.push(seed(0, text.as_bytes()));
        let manifest = TaskManifest::from_toml(text).expect("the manifests in the repository are valid");
        let json = serde_json::to_vec(&manifest).expect("a manifest serializes");
        seeds.push(seed(1, &json));
        seeds.push(seed(3, &json));
    }
    for name in ["task", "task-classify", "task-forecast", "task-anomaly", "pointer"] {
        let signed = golden(&format!("wire-{name}.json"));
        seeds.push(seed(2, &signed));
        let value: serde_json::Value = serde_json::from_slice(&signed).expect("a golden file is JSON");
        let payload = value["payload"].as_str().expect("an envelope has a payload");
        seeds.push(seed(3, payload.as_bytes()));
        if name == "pointer" {
            seeds.push(seed(4, payload.as_bytes()));
        }
    }
    for presence in [
        &br#"{"state":"down","incarnation":7}"#[..],
        br#"{"state":"up","incarnation":1,"version":"0.1.0","key":"00","backbones":[{"name":"b","fingerprint":"ff"}],"tasks":[{"name":"t","version":3}]}"#,
    ] {
        seeds.push(seed(5, presence));
    }
    for label in ["7", "\"7\"", "{\"label\":\"7\"}", "[1.5,2]", "{\"label\":[1.5,-2e3]}"] {
        seeds.push(seed(6, label.as_bytes()));
    }
    let agent = "site = \"plant\"\ngateway = \"g\"\nstate = \"/tmp/x\"\n[backbone]\nbundle = \"b\"\n[uplink]\nbroker = \"mqtt://h:1\"\n[trust]\nfirst_use = true\n[store]\nsamples_per_task = 9\n";
    seeds.push(seed(7, agent.as_bytes()));
    let tls = "[tls]\nca = \"/ca.pem\"\ncertificate = \"/g.pem\"\nkey = \"/g.pem\"\n";
    seeds.push(seed(7, format!("{}{tls}", agent.replace("mqtt:", "mqtts:")).as_bytes()));
    seeds.push(seed(7, format!("{agent}[enrol]\ntoken = \"lo1.AAAA\"\n").as_bytes()));
    let aggregator = "site = \"plant\"\nbroker = \"mqtt://h:1\"\nstate = \"s\"\ntasks = [\"t.toml\"]\nadmission = \"listed\"\n[[backbones]]\nbundle = \"b\"\n[[gateways]]\nname = \"g\"\nkey = \"00\"\n";
    seeds.push(seed(8, aggregator.as_bytes()));
    seeds.push(seed(8, format!("{aggregator}[enrol]\nlisten = \"0.0.0.0:8884\"\ndays = 9\n").as_bytes()));
    for url in ["mqtt://127.0.0.1:1883", "tcp://[::1]:9/", "mqtt://broker", "mqtts://broker:8883"] {
        seeds.push(seed(9, url.as_bytes()));
    }
    seeds
}

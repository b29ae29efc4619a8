//! The program: configuration errors, exit codes, the state folder.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadonce_aggregator::Admission;
use loadonce_aggregator::config::Config;

const GOOD: &str = r#"
site = "plant"
broker = "mqtt://127.0.0.1:1"
state = "state"
tasks = ["digits.toml"]
admission = "first-use"

[[backbones]]
bundle = "bundle"

[[gateways]]
name = "press-1"
key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
"#;

const TASK: &str = r#"
name = "digits"
kind = "classify"
backbone = "sense-tiny"
classes = ["0", "1"]
input = { modality = "picture" }
module = { kind = "ladder", rank = 16 }
"#;

const CONTRACT: &str = r#"
name = "sense-tiny"
other = "is not looked at"
[features]
directions = 128
[[segments]]
file = "segment-1.onnx"
[[segments]]
file = "segment-2.onnx"
"#;

fn folder(config: &str, task: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aggregator.toml");
    fs::create_dir(dir.path().join("bundle")).unwrap();
    fs::write(dir.path().join("bundle/backbone.toml"), CONTRACT).unwrap();
    fs::write(dir.path().join("digits.toml"), task).unwrap();
    fs::write(&path, config).unwrap();
    (dir, path)
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadonce-aggregator")).args(arguments).output().unwrap()
}

fn check(path: &Path) -> (Option<i32>, String) {
    let out = program(&["--config", path.to_str().unwrap(), "--check"]);
    (out.status.code(), String::from_utf8(out.stderr).unwrap() + &String::from_utf8(out.stdout).unwrap())
}

#[test]
fn a_good_configuration_passes_the_check_and_is_read_whole() {
    let (dir, path) = folder(GOOD, TASK);
    let (code, text) = check(&path);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("task digits"), "{text}");
    assert!(!dir.path().join("state").exists(), "a check writes nothing");
    let config = Config::read(&path).unwrap();
    assert_eq!(config.state, dir.path().join("state"));
    assert_eq!(config.settings.admission, Admission::FirstUse);
    let task = &config.settings.tasks[0];
    assert_eq!((task.shape.exits, task.shape.features), (2, 64));
    assert_eq!(task.backbone, loadonce_trust::hash(CONTRACT.as_bytes()));

    // The same backbone without its bundle.
    let facts = format!(
        "name = \"sense-tiny\"\nfingerprint = \"{}\"\nexits = 2\ndirections = 128",
        loadonce_trust::encode_hex(&task.backbone)
    );
    fs::write(&path, GOOD.replace("bundle = \"bundle\"", &facts)).unwrap();
    let again = Config::read(&path).unwrap();
    assert_eq!(again.settings.tasks[0].backbone, task.backbone);
    assert_eq!(again.settings.tasks[0].shape, task.shape);
}

#[test]
fn every_mistake_names_file_key_and_remedy() {
    for (from, to, file, words) in [
        ("site = ", "siet = ", "aggregator.toml", ["siet", "unknown"]),
        ("\"plant\"", "\"a/b\"", "aggregator.toml", ["`site`", "use 1 to 64"]),
        ("mqtt://127.0.0.1:1", "127.0.0.1", "aggregator.toml", ["`broker`", "write mqtt://"]),
        ("first-use", "anyone", "aggregator.toml", ["admission", "first-use"]),
        ("digits.toml", "missing.toml", "missing.toml", ["tasks", "correct the path"]),
        ("\"digits.toml\"", "\"digits.toml\", \"digits.toml\"", "aggregator.toml", ["`tasks`", "own name"]),
        ("[\"digits.toml\"]", "[]", "aggregator.toml", ["`tasks`", "at least one"]),
        ("\"bundle\"", "\"nowhere\"", "nowhere", ["backbones.bundle", "correct the path"]),
        ("bundle = ", "exits = 3\nbundle = ", "aggregator.toml", ["backbones.bundle", "all four"]),
        ("d75a98", "xyz", "aggregator.toml", ["gateways.key", "64 hexadecimal"]),
        ("press-1", ".press", "aggregator.toml", ["gateways.name", "use 1 to 64"]),
        ("site = ", "password = \"x\"\nsite = ", "aggregator.toml", ["`password`", "both, or neither"]),
        ("[[gateways]]", "[[gateways]]\nrole = 1", "aggregator.toml", ["role", "unknown"]),
        (
            "[[gateways]]",
            "[metrics]\nlisten = \"9464\"\n[[gateways]]",
            "aggregator.toml",
            ["metrics.listen", "write 127"],
        ),
        (
            "[[gateways]]",
            "[metrics]\nlisten = \"[::1]:1\"\ngateways = 10000\n[[gateways]]",
            "aggregator.toml",
            ["metrics.gateways", "at most 1000"],
        ),
    ] {
        let (_dir, path) = folder(&GOOD.replacen(from, to, 1), TASK);
        let (code, text) = check(&path);
        assert_eq!(code, Some(2), "{text}");
        for word in words.iter().chain([&file]) {
            assert!(text.contains(word), "`{word}` is missing: {text}");
        }
    }
    for (from, to, words) in [
        ("sense-tiny", "sense-huge", ["sense-huge", "backbones"]),
        ("\"0\", \"1\"", "\"0\"", ["classes", "different"]),
        ("rank = 16", "rank = 999", ["rank", "999"]),
        ("kind = \"classify\"", "kid = 1", ["kid", "digits.toml"]),
    ] {
        let (_dir, path) = folder(GOOD, &TASK.replacen(from, to, 1));
        let (code, text) = check(&path);
        assert_eq!(code, Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    }
}

#[test]
fn usage_and_state_errors_have_their_exit_codes() {
    assert_eq!(program(&["--cofnig", "x"]).status.code(), Some(2));
    assert_eq!(program(&[]).status.code(), Some(2));
    let (code, text) = check(Path::new("/nowhere/aggregator.toml"));
    assert_eq!(code, Some(2), "{text}");

    // sysfs refuses new folders to every user, root included.
    let (_dir, path) = folder(&GOOD.replace("\"state\"", "\"/sys/kernel/loadonce\""), TASK);
    let out = program(&["--config", path.to_str().unwrap()]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("/sys/kernel/loadonce") && text.contains("write access"), "{text}");

    let (dir, path) = folder(GOOD, TASK);
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::write(dir.path().join("state/aggregator.key"), "damaged").unwrap();
    let out = program(&["--config", path.to_str().unwrap()]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("aggregator.key") && text.contains("backup"), "{text}");
}

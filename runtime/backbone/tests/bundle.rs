//! A bundle is refused for every way it can differ from what was built.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use loadonce_backbone::{Backbone, Bundle, BundleError, EngineError, EngineOptions, Modality};
use support::{bundle_copy, bundle_dir, edit};

const LISTED: [&str; 4] = ["segment-1.onnx", "segment-2.onnx", "segment-3.onnx", "features.safetensors"];

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn refusal(dir: &Path) -> BundleError {
    match Bundle::open(dir) {
        Ok(_) => panic!("the bundle was accepted"),
        Err(error) => error,
    }
}

#[test]
fn the_committed_bundle_opens_and_tells_its_facts() {
    let bundle = Bundle::open(&bundle_dir()).unwrap();
    let text = fs::read(bundle_dir().join("backbone.toml")).unwrap();
    assert_eq!(bundle.fingerprint(), blake3::hash(&text).to_hex().as_str());
    assert_eq!((bundle.name(), bundle.family(), bundle.scale()), ("sense-tiny", "sense", "tiny"));
    assert_eq!((bundle.exits(), bundle.directions(), bundle.depths()), (3, 128, vec![2, 4, 6]));
    assert!(bundle.takes(Modality::Window) && bundle.takes(Modality::Picture));
    let listed: u64 = LISTED.iter().map(|file| fs::metadata(bundle_dir().join(file)).unwrap().len()).sum();
    assert_eq!(bundle.bytes(), listed + text.len() as u64);
    assert!(bundle.bytes() <= 2_000_000, "the committed bundle may have 2 MB");
    assert!(bundle.fp32_bytes() >= 4 * bundle.parameters());
}

#[test]
fn one_flipped_byte_in_any_file_is_refused_by_its_name() {
    for file in LISTED {
        let copy = bundle_copy();
        let path = copy.path().join(file);
        let size = fs::metadata(&path).unwrap().len() as usize;
        for at in [0, size / 2, size - 1] {
            flip(&path, at);
            let error = refusal(copy.path());
            assert!(matches!(&error, BundleError::Hash { file: named, .. } if named == file), "{error}");
            assert!(error.to_string().contains(file), "{error}");
            flip(&path, at);
        }
        Bundle::open(copy.path()).expect("flipping back restores the bundle");
    }
}

#[test]
fn a_flipped_byte_in_the_contract_is_refused_or_is_another_fingerprint() {
    let copy = bundle_copy();
    let path = copy.path().join("backbone.toml");
    let original = Bundle::open(copy.path()).unwrap().fingerprint().to_owned();
    for at in (0..fs::metadata(&path).unwrap().len() as usize).step_by(11) {
        flip(&path, at);
        if let Ok(other) = Bundle::open(copy.path()) {
            assert_ne!(other.fingerprint(), original, "byte {at}");
        }
        flip(&path, at);
    }
}

#[test]
fn a_missing_file_is_refused_by_its_name() {
    for file in LISTED.into_iter().chain(["backbone.toml"]) {
        let copy = bundle_copy();
        fs::remove_file(copy.path().join(file)).unwrap();
        let error = refusal(copy.path());
        assert!(matches!(&error, BundleError::Read { file: named, .. } if named == file), "{error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn a_key_this_runtime_does_not_know_is_refused() {
    for after in ["format = 2\n", "[input.window]\n", "[input.picture]\n", "[features]\n", "[[segments]]\n"] {
        let copy = bundle_copy();
        edit(copy.path(), |text| text.replacen(after, &format!("{after}surprise = true\n"), 1));
        let error = refusal(copy.path());
        assert!(matches!(error, BundleError::Syntax { .. }), "{error}");
        assert!(error.to_string().contains("surprise"), "{error}");
    }
}

#[test]
fn no_name_leads_out_of_the_directory() {
    for name in
        ["../segment-1.onnx", "/etc/hostname", "a/segment-1.onnx", "..", ".segment-1.onnx", "", "a\\\\b"]
    {
        let copy = bundle_copy();
        edit(copy.path(), |text| text.replace("segment-1.onnx", name));
        let error = refusal(copy.path());
        assert!(matches!(error, BundleError::Name { .. }), "{name:?}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn no_link_leads_out_of_the_directory() {
    let copy = bundle_copy();
    let path = copy.path().join("segment-2.onnx");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(bundle_dir().join("segment-2.onnx"), &path).unwrap();
    assert!(matches!(refusal(copy.path()), BundleError::NotAFile { file, .. } if file == "segment-2.onnx"));
}

#[test]
fn a_used_file_without_a_hash_is_refused() {
    for file in LISTED {
        let copy = bundle_copy();
        edit(copy.path(), |text| {
            let keeps = |line: &&str| !line.starts_with(&format!("\"{file}\""));
            text.lines().filter(keeps).fold(String::new(), |text, line| text + line + "\n")
        });
        assert!(matches!(refusal(copy.path()), BundleError::Unlisted { file: named, .. } if named == file));
    }
}

#[test]
fn a_contract_of_another_shape_is_refused() {
    for (from, to, says) in [
        ("format = 2", "format = 1", "format is 1"),
        ("patch = 16", "patch = 8", "patch is 8"),
        ("patch_side = 4", "patch_side = 8", "patch_side is 8"),
        ("directions = 128", "directions = 257", "directions is 257"),
        ("directions = 128", "directions = 0", "directions is 0"),
        ("exit = 2", "exit = 3", "segment 2 says exit = 3"),
        ("inputs = [\"hidden_1\"]", "inputs = [\"hidden_2\"]", "segment 2 takes"),
        ("inputs = [\"patches\", \"token_ids\"]", "inputs = [\"token_ids\"]", "segment 1 takes"),
        ("hidden = \"hidden_2\"\n", "", "segment 2 of 3"),
        ("pooled = 256", "pooled = 1000000", "pooled is 1000000"),
        ("lengths = [", "lengths = [24, ", "lengths are [24, "),
        ("lengths = [", "lengths = [100000, ", "lengths are [100000, "),
        ("lengths = [", "lengths = [512, ", "lengths are [512, "),
        ("default = 256", "default = 240", "do not hold the default 240"),
        ("sides = [", "sides = [8, ", "sides are [8, "),
        ("positions = ", "positions = 99999", "leave the embedding rows"),
        ("first_token = 0", "first_token = 9223372036854775807", "leave the embedding rows"),
        ("first_token = 0", "first_token = -1", "leave the embedding rows"),
        (
            "[features]",
            "[input.text]\ntokenizer = \"features.safetensors\"\nmax_tokens = 9\n\n[features]",
            "beside another input",
        ),
    ] {
        let copy = bundle_copy();
        edit(copy.path(), |text| text.replacen(from, to, 1));
        let error = refusal(copy.path());
        assert!(matches!(error, BundleError::Contract { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_bundle_without_any_input_is_refused() {
    let copy = bundle_copy();
    edit(copy.path(), |text| {
        let (before, rest) = text.split_once("[input.").unwrap();
        let (_, after) = rest.split_once("[features]").unwrap();
        format!("{before}[input]\n\n[features]{after}")
    });
    let error = refusal(copy.path());
    assert!(error.to_string().contains("no window, picture or text"), "{error}");
}

#[test]
fn the_feature_budget_is_shared_by_the_channels() {
    let bundle = Bundle::open(&bundle_dir()).unwrap();
    let most = bundle.directions();
    let shares = [(1, 256.min(most)), (2, 128.min(most)), (3, 85), (6, 42), (64, 4), (0, 0), (300, 0)];
    for (channels, per_channel) in shares {
        assert_eq!(bundle.features_per_channel(channels, 256), per_channel, "{channels} channels");
    }
}

#[test]
fn an_endless_contract_is_not_read() {
    let copy = bundle_copy();
    edit(copy.path(), |text| text + &"# filler\n".repeat(10_000));
    assert!(matches!(refusal(copy.path()), BundleError::TooLarge { file, .. } if file == "backbone.toml"));
}

#[test]
fn a_file_changed_after_opening_does_not_reach_the_engine() {
    let copy = bundle_copy();
    let bundle = Bundle::open(copy.path()).unwrap();
    flip(&copy.path().join("features.safetensors"), 5000);
    match Backbone::load(bundle, &EngineOptions::default()) {
        Err(EngineError::Bundle(BundleError::Hash { file, .. })) => assert_eq!(file, "features.safetensors"),
        other => panic!("{other:?}"),
    }
}

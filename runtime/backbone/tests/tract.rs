//! tract yields ONNX Runtime's features. Needs both engines: `cargo test -p loadonce-backbone --features tract`.
#![cfg(all(feature = "ort", feature = "tract"))]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use loadonce_backbone::{Backbone, Bundle, EngineKind, EngineOptions, InputSpec, Preparer};
use support::{Golden, cosine, features, load, onnxruntime};

/// Holds only for weights of 7 bits on a processor without VNNI: there ONNX Runtime adds pairs of u8 × i8 products
/// in 16 bits and saturates on 8-bit weights, while tract computes what ONNX defines.
#[test]
fn the_engines_agree_at_every_exit() {
    let golden = Golden::read("features.safetensors");
    let ort = load(&onnxruntime());
    let tract = load(&EngineOptions {
        kind: EngineKind::Tract,
        library: None,
        threads: 1,
        ..EngineOptions::default()
    });
    for sample in golden.samples() {
        let input = golden.prepared(&sample);
        let pairs = features(&ort, &input, 128).into_iter().zip(features(&tract, &input, 128));
        for (index, (a, b)) in pairs.enumerate() {
            let alike = cosine(&a, &b);
            println!("{sample} exit {} cosine {alike:.6}", index + 1);
            assert!(alike >= 0.999, "{sample} exit {}: cosine {alike}", index + 1);
        }
    }
    assert_eq!(ort.runs(), tract.runs());
}

/// The bundle is built by `models/build-text.sh`, not committed; see `tests/text.rs`.
#[test]
fn the_engines_agree_on_texts() {
    let asked = std::env::var_os("LOADONCE_TEXT_BUNDLE").map(std::path::PathBuf::from);
    let dir = asked.clone().unwrap_or_else(|| support::root().join("models/build/text-minilm"));
    if asked.is_none() && !dir.join("backbone.toml").exists() {
        eprintln!("!! text-minilm is not built (models/build-text.sh): it was NOT checked on tract");
        return;
    }
    let load = |options: &EngineOptions| Backbone::load(Bundle::open(&dir).unwrap(), options).unwrap();
    let ort = load(&onnxruntime());
    let tract = load(&EngineOptions {
        kind: EngineKind::Tract,
        library: None,
        threads: 1,
        ..EngineOptions::default()
    });
    let preparer = Preparer::new(ort.bundle(), &InputSpec::Text {}).unwrap();
    // Five lengths are more than tract keeps plans for, so the first is planned twice.
    for text in [
        "pump",
        "a loud pump",
        "the pump is loud",
        "the pump on line 4 is loud",
        "bearing of the pump on line 4 is hot",
        "pump",
    ] {
        let input = preparer.prepare(text.as_bytes()).unwrap();
        for (index, (a, b)) in
            features(&ort, &input, 256).iter().zip(features(&tract, &input, 256)).enumerate()
        {
            let alike = cosine(a, &b);
            println!("{text:?} exit {} cosine {alike:.6}", index + 1);
            assert!(alike >= 0.995, "{text:?} exit {}: cosine {alike}", index + 1);
        }
    }
}

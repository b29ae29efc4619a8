//! tract yields ONNX Runtime's features. Needs both engines: `cargo test -p loadonce-backbone --features tract`.
#![cfg(all(feature = "ort", feature = "tract"))]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use loadonce_backbone::{EngineKind, EngineOptions};
use support::{Golden, cosine, features, load, onnxruntime};

/// Holds only for weights of 7 bits on a processor without VNNI: there ONNX Runtime adds pairs of u8 × i8 products
/// in 16 bits and saturates on 8-bit weights, while tract computes what ONNX defines.
#[test]
fn the_engines_agree_at_every_exit() {
    let golden = Golden::read("features.safetensors");
    let ort = load(&onnxruntime());
    let tract = load(&EngineOptions { kind: EngineKind::Tract, library: None, threads: 1 });
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

//! One process, one load, any number of tasks. Alone in its file, because it counts what the process did.
#![cfg(feature = "ort")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use loadonce_backbone::{Backbone, Bundle, EngineError, EngineOptions};
use support::{Golden, bundle_dir, features, load, onnxruntime};

#[test]
fn tasks_share_the_one_load() {
    assert_eq!(Backbone::loads(), 0);
    let backbone = Arc::new(load(&onnxruntime()));
    assert_eq!(Backbone::loads(), 1);
    assert!(backbone.resident_bytes() > backbone.bundle().bytes() / 2, "{} bytes", backbone.resident_bytes());
    assert!(backbone.resident_bytes() < 80 << 20, "{} bytes", backbone.resident_bytes());

    let golden = Golden::read("features.safetensors");
    let samples = golden.samples();
    for sample in &samples {
        let task = Arc::clone(&backbone);
        assert_eq!(features(&task, &golden.prepared(sample), 2).len(), 3);
    }
    assert_eq!(Backbone::loads(), 1, "passes and further tasks load nothing");
    assert!(backbone.runs().iter().all(|&runs| runs >= samples.len() as u64));

    // A second backbone goes through the environment that is there, and another library is refused.
    let again = load(&EngineOptions { library: None, ..onnxruntime() });
    assert_eq!((Backbone::loads(), again.bundle().fingerprint()), (2, backbone.bundle().fingerprint()));
    let other = EngineOptions { library: Some("/other/libonnxruntime.so".into()), ..onnxruntime() };
    let error = Backbone::load(Bundle::open(&bundle_dir()).unwrap(), &other).unwrap_err();
    assert!(matches!(error, EngineError::OneLibrary { .. }), "{error}");
    assert_eq!(Backbone::loads(), 2);
}

//! The example tasks are manifests that a gateway takes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use loadonce_control::{TaskKind, TaskManifest};

#[test]
fn the_example_tasks_are_valid_and_of_every_kind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tasks");
    let mut kinds = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let manifest = TaskManifest::from_toml(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(manifest.name.as_str()));
        manifest.shape(3, 128).unwrap();
        kinds.push(manifest.kind);
    }
    for kind in [TaskKind::Classify, TaskKind::Forecast, TaskKind::Anomaly] {
        assert!(kinds.contains(&kind), "no example of {kind:?}");
    }
}

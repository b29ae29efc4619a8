//! A library that will not do is an error, never a panic. No test here loads a right one.
#![cfg(feature = "ort")]
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadonce_backbone::{Backbone, Bundle, EngineError, EngineKind, EngineOptions};
use support::bundle_dir;

fn refusal(library: &Path) -> EngineError {
    let options = EngineOptions {
        kind: EngineKind::Ort,
        library: Some(library.into()),
        threads: 1,
        ..EngineOptions::default()
    };
    Backbone::load(Bundle::open(&bundle_dir()).unwrap(), &options).unwrap_err()
}

/// Compiles a shared library from C.
fn library(dir: &Path, source: &str) -> PathBuf {
    let (from, to) = (dir.join("fake.c"), dir.join("libonnxruntime.so"));
    fs::write(&from, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&to).arg(&from).status();
    let status = status.expect("this test needs a C compiler named cc");
    assert!(status.success(), "cc failed on {source}");
    to
}

/// As ONNX Runtime declares it: a table of `GetApi` and `GetVersionString`.
fn of_version(dir: &Path, version: &str) -> PathBuf {
    library(
        dir,
        &format!(
            "static const void *api(unsigned version) {{ (void)version; return 0; }}
             static const char *text(void) {{ return {version}; }}
             static const struct {{ const void *(*api)(unsigned); const char *(*text)(void); }} base = {{ api, text }};
             const void *OrtGetApiBase(void) {{ return &base; }}"
        ),
    )
}

#[test]
fn a_missing_library_says_where_it_was_looked_for_and_how_to_get_it() {
    let error = refusal(Path::new("/nowhere/libonnxruntime.so"));
    assert!(matches!(error, EngineError::LibraryMissing { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("/nowhere/libonnxruntime.so") && text.contains("cross/fetch-onnxruntime"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libonnxruntime.so");
    fs::write(&path, "not an ELF file").unwrap();
    assert!(matches!(refusal(&path), EngineError::LibraryMissing { .. }));
    assert!(matches!(refusal(dir.path()), EngineError::LibraryMissing { .. }));
}

#[test]
fn a_foreign_library_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(&library(dir.path(), "int something_else(void) { return 1; }"));
    assert!(
        matches!(&error, EngineError::LibraryForeign { what, .. } if what.contains("OrtGetApiBase")),
        "{error}"
    );
    let dir = tempfile::tempdir().unwrap();
    let error = refusal(&library(dir.path(), "const void *OrtGetApiBase(void) { return 0; }"));
    assert!(matches!(&error, EngineError::LibraryForeign { what, .. } if what.contains("null")), "{error}");
    for version in ["0", "\"nightly\"", "\"2.0.0\"", "\"\""] {
        let dir = tempfile::tempdir().unwrap();
        let error = refusal(&of_version(dir.path(), version));
        assert!(matches!(error, EngineError::LibraryForeign { .. }), "{version}: {error}");
    }
}

#[test]
fn an_old_library_is_an_error_with_its_version() {
    for old in ["1.16.0", "1.23.9"] {
        let dir = tempfile::tempdir().unwrap();
        let path = of_version(dir.path(), &format!("\"{old}\""));
        let error = refusal(&path);
        assert!(matches!(&error, EngineError::LibraryTooOld { version, .. } if version == old), "{error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("at least 1.24"), "{text}");
    }
}

#[cfg(not(feature = "tract"))]
#[test]
fn an_engine_that_was_not_built_is_named() {
    let options =
        EngineOptions { kind: EngineKind::Tract, library: None, threads: 1, ..EngineOptions::default() };
    let error = Backbone::load(Bundle::open(&bundle_dir()).unwrap(), &options).unwrap_err();
    assert!(matches!(error, EngineError::NotBuilt { feature: "tract", .. }), "{error}");
}

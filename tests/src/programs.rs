//! Where the programs, the bundle and the data are.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the crate lies one level below the root").to_owned()
}

/// The program `name`, built beside this executable; `variable` in the environment overrides it.
fn program(name: &str, variable: &str) -> PathBuf {
    let beside = || {
        // Test programs lie one folder deeper than the others.
        let here = env::current_exe().expect("an executable has a path");
        let folder = here.parent().expect("a file lies in a folder");
        let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
        folder.join(name)
    };
    let path = env::var_os(variable).map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing; run `cargo build --workspace --bins` or set {variable}",
        path.display()
    );
    path
}

/// `loadonce-agent`.
pub fn agent() -> PathBuf {
    program("loadonce-agent", "LOADONCE_AGENT_BIN")
}

/// `loadonce-aggregator`.
pub fn aggregator() -> PathBuf {
    program("loadonce-aggregator", "LOADONCE_AGGREGATOR_BIN")
}

/// `loadonce`.
pub fn cli() -> PathBuf {
    program("loadonce", "LOADONCE_CLI_BIN")
}

/// The backbone bundle.
pub fn bundle() -> PathBuf {
    root().join("models/bundles/sense-tiny")
}

/// ONNX Runtime's dynamic library.
pub fn onnxruntime() -> PathBuf {
    let fetched = root().join("target/onnxruntime").join(env::consts::ARCH).join("libonnxruntime.so");
    let path = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map_or(fetched, PathBuf::from);
    assert!(path.is_file(), "{} is missing; run `make onnxruntime` or set ORT_DYLIB_PATH", path.display());
    path
}

/// A program of the system; `package` is the Debian package that has it.
pub fn system(name: &str, package: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("`{name}` is missing; run `apt-get install {package}`"))
}

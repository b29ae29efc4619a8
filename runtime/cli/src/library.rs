//! Where ONNX Runtime's library is on an operator's machine.

use std::path::{Path, PathBuf};

/// The named library, or the one that the build fetched; `None` leaves the search to the engine.
pub(crate) fn find(named: Option<&Path>) -> Result<Option<PathBuf>, (PathBuf, std::io::Error)> {
    let absolute = |path: &Path| path.canonicalize().map_err(|error| (path.to_owned(), error));
    if let Some(path) = named {
        return absolute(path).map(Some);
    }
    if std::env::var_os("ORT_DYLIB_PATH").is_some() {
        return Ok(None);
    }
    let fetched = Path::new("target/onnxruntime").join(std::env::consts::ARCH).join("libonnxruntime.so");
    if fetched.is_file() { absolute(&fetched).map(Some) } else { Ok(None) }
}

//! Finding and judging the ONNX Runtime library before `ort` touches it: `ort` panics on a missing or an old one.

use std::env;
use std::ffi::{CStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::engine::EngineError;

const FILE: &str = "libonnxruntime.so";
/// What a distribution installs without its development package.
const SONAME: &str = "libonnxruntime.so.1";
const ENVIRONMENT: &str = "ORT_DYLIB_PATH";
/// Oldest minor version of 1.x whose C API is the one `ort` was built for.
const LEAST_MINOR: u32 = ort::MINOR_VERSION;
const LEAST: &str = "1.24";

/// A library that was opened and found new enough. Holding it keeps it mapped until `ort` has opened it too.
pub(crate) struct Probed {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    _library: Library,
}

/// Opens the library `asked` for, or the first of the known places that has one.
pub(crate) fn find(asked: Option<&Path>) -> Result<Probed, EngineError> {
    let named = |path: PathBuf, by: &str| {
        open(&path)
            .map_err(|what| EngineError::LibraryMissing {
                tried: format!("{by} names {} ({what})", path.display()),
            })
            .and_then(|library| judge(path, library))
    };
    if let Some(path) = asked {
        return named(path.into(), "the configuration");
    }
    if let Some(path) = env::var_os(ENVIRONMENT).filter(|path| !path.is_empty()) {
        return named(path.into(), ENVIRONMENT);
    }
    let mut tried = format!("{ENVIRONMENT} is not set");
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(FILE)));
    let places = beside.filter(|path| path.exists()).into_iter().chain([FILE.into(), SONAME.into()]);
    for path in places {
        match open(&path) {
            Ok(library) => return judge(path, library),
            Err(what) => write!(tried, ", {what}").expect("writing to a string cannot fail"),
        }
    }
    Err(EngineError::LibraryMissing { tried })
}

#[expect(unsafe_code, reason = "opening a dynamic library")]
fn open(path: &Path) -> Result<Library, String> {
    if path.is_dir() {
        return Err(format!("{} is a directory", path.display()));
    }
    // SAFETY: opening runs the library's initializers. The path is the operator's configuration or a place only
    // an administrator writes to, and the file is one this process is about to trust with its inference anyway.
    unsafe { Library::new(OsString::from(path)) }.map_err(|error| error.to_string())
}

fn judge(path: PathBuf, library: Library) -> Result<Probed, EngineError> {
    let version = match version(&library) {
        Ok(version) => version,
        Err(what) => return Err(EngineError::LibraryForeign { path, what }),
    };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(1), Some(minor)) if minor >= LEAST_MINOR => Ok(Probed { path, version, _library: library }),
        (Some(0 | 1), Some(_)) => Err(EngineError::LibraryTooOld { path, version, least: LEAST }),
        _ => Err(EngineError::LibraryForeign { path, what: format!("it calls itself version {version:?}") }),
    }
}

#[expect(unsafe_code, reason = "calling into a dynamic library")]
fn version(library: &Library) -> Result<String, String> {
    type GetBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: every ONNX Runtime since 1.0 exports this symbol with this signature; a foreign library that
    // exports the same name with another one is beyond what can be checked.
    let base = unsafe { library.get::<GetBase>(b"OrtGetApiBase\0") }.map_err(|error| error.to_string())?;
    // SAFETY: as above; the call has no arguments and returns a pointer to a static table or null.
    let Some(base) = (unsafe { base().as_ref() }) else { return Err("OrtGetApiBase() returned null".into()) };
    // SAFETY: the table's two entries are part of the stable ABI.
    let text = unsafe { (base.GetVersionString)() };
    if text.is_null() {
        return Err("GetVersionString() returned null".into());
    }
    // SAFETY: the version is a static NUL-terminated string of a library that stays open during this call.
    let version = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    Ok(version)
}

//! Finding and judging the ONNX Runtime library before `ort` touches it: `ort` panics on a missing or an old one.

use std::env;
use std::ffi::{CStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
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
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(FILE)));
    search(asked, env::var_os(ENVIRONMENT), beside, &[FILE, SONAME])
}

/// A named place must have the library; of the other places the first that has one is judged.
fn search(
    asked: Option<&Path>,
    variable: Option<OsString>,
    beside: Option<PathBuf>,
    system: &[&str],
) -> Result<Probed, EngineError> {
    let variable = variable.filter(|path| !path.is_empty()).map(|path| (PathBuf::from(path), ENVIRONMENT));
    if let Some((path, by)) = asked.map(|path| (path.into(), "the configuration")).or(variable) {
        return match open(&path) {
            Ok(library) => judge(path, library),
            Err(what) => {
                Err(EngineError::LibraryMissing { tried: format!("{by} names {} ({what})", path.display()) })
            }
        };
    }
    let mut tried = format!("{ENVIRONMENT} is not set");
    let beside = beside.filter(|path| path.exists());
    for path in beside.into_iter().chain(system.iter().map(PathBuf::from)) {
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
    unsafe { Library::new(OsString::from(path)) }.map_err(|error| explain(path, &error))
}

/// What the loader said; it usually names the file itself. Of a library for another processor it says only that there
/// is no such file.
fn explain(path: &Path, error: &libloading::Error) -> String {
    if let (Some(library), Some(own)) = (machine(path), machine(Path::new("/proc/self/exe")))
        && library != own
    {
        let (library, own) = (name_of(library), name_of(own));
        return format!(
            "{} is made for {library} and this program for {own}; install the library for {own}",
            path.display()
        );
    }
    let said = match std::error::Error::source(error) {
        Some(said) => said.to_string(),
        None => format!("{}: {error}", path.display()),
    };
    if said.contains("' not found (required by") {
        return format!("{said}: it was built for a newer system than this one");
    }
    said
}

/// The processor that an ELF file is for: class, byte order and machine.
fn machine(path: &Path) -> Option<(u8, u8, u16)> {
    let mut header = [0; 20];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    header
        .starts_with(b"\x7fELF")
        .then(|| (header[4], header[5], u16::from_le_bytes([header[18], header[19]])))
}

fn name_of((_, _, machine): (u8, u8, u16)) -> String {
    match machine {
        3 => "x86".to_owned(),
        40 => "32-bit ARM".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("processor type {other}"),
    }
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
    let base = unsafe { library.get::<GetBase>(b"OrtGetApiBase\0") }
        .map_err(|_| "it does not export OrtGetApiBase".to_owned())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(asked: Option<&Path>, variable: Option<&str>, beside: Option<PathBuf>) -> String {
        match search(asked, variable.map(OsString::from), beside, &["libloadonce-no-such-library.so"]) {
            Ok(found) => panic!("found {}", found.path.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_configuration_comes_before_the_environment_before_the_executable() {
        let dir = tempfile::tempdir().unwrap();
        let beside = dir.path().join(FILE);
        std::fs::write(&beside, "no library").unwrap();

        let text = refusal(Some(Path::new("/asked.so")), Some("/variable.so"), Some(beside.clone()));
        assert!(text.contains("the configuration names /asked.so"), "{text}");
        let text = refusal(None, Some("/variable.so"), Some(beside.clone()));
        assert!(text.contains("ORT_DYLIB_PATH names /variable.so"), "{text}");
        let text = refusal(None, Some(""), Some(beside.clone()));
        assert!(text.contains("ORT_DYLIB_PATH is not set"), "an empty variable is none: {text}");
        assert!(text.contains(beside.to_str().unwrap()), "{text}");
        assert!(
            text.contains("libloadonce-no-such-library.so"),
            "the loader path is the last resort: {text}"
        );
        assert!(
            text.contains("cross/fetch-onnxruntime") && text.contains("target directory is not searched"),
            "{text}"
        );
        let text = refusal(None, None, Some("/nowhere/libonnxruntime.so".into()));
        assert!(!text.contains("/nowhere"), "a file that is not there is no place: {text}");
    }
}

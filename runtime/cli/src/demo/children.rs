//! The processes of a fleet: started with a log file each, and never left behind.
//!
//! Three things end them: [`Child::end`] asks with SIGTERM, dropping a [`Child`] kills by process id (so every
//! error and Ctrl-C does), and the kernel kills it when this process dies without running any of that. The last
//! needs the parent-death signal, which a process can only set for itself; so each child starts as
//! `loadonce tied PARENT PROGRAM …`, sets it, and becomes the program ([`become_tied`]).

use super::error::DemoError;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of a log shown with an error.
const TAIL_LINES: usize = 12;
/// Bytes of a log looked at for them.
const TAIL_BYTES: u64 = 8 * 1024;

/// A running process of the fleet.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
}

/// Where `name` is: beside this executable.
pub(crate) fn program(name: &'static str) -> Result<PathBuf, DemoError> {
    let here = std::env::current_exe().map_err(|source| DemoError::File {
        doing: "find",
        path: PathBuf::from("/proc/self/exe"),
        source,
    })?;
    let path = here.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if path.is_file() { Ok(path) } else { Err(DemoError::ProgramMissing { name, path }) }
}

impl Child {
    /// Starts `program --config config`; standard output and error go to `log`.
    ///
    /// Must be called from the main thread: the kernel ends the child with the *thread* that started it.
    pub(crate) fn start(
        name: String,
        program: &Path,
        config: &Path,
        log: PathBuf,
    ) -> Result<Self, DemoError> {
        let file = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| DemoError::File { doing, path, source }
        };
        let out = File::create(&log).map_err(file("create", &log))?;
        let err = out.try_clone().map_err(file("open", &log))?;
        let here = std::env::current_exe().map_err(file("find", Path::new("/proc/self/exe")))?;
        let process = Command::new(here)
            .arg("tied")
            .arg(std::process::id().to_string())
            .arg(program)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // Ctrl-C reaches the whole foreground group; the demo decides itself when its children end.
            .process_group(0)
            .spawn()
            .map_err(file("start", program))?;
        Ok(Self { name, log, process })
    }

    /// Name for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its log file.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Last lines of its log.
    pub(crate) fn tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// An error once the process has ended.
    pub(crate) fn check(&mut self) -> Result<(), DemoError> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status.to_string())),
            Err(error) => Err(self.ended(error.to_string())),
        }
    }

    fn ended(&self, status: String) -> DemoError {
        DemoError::ChildEnded { name: self.name.clone(), status, log: self.log.clone(), tail: self.tail() }
    }

    /// Asks the process to end.
    pub(crate) fn ask_to_end(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw)
            && matches!(self.process.try_wait(), Ok(None))
        {
            // It may end in between; its id stays taken until it is waited for, so no other process is hit.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Waits until `deadline` for the process to end after [`Child::ask_to_end`]; an error when it did not, or not
    /// well.
    pub(crate) async fn ended_well(&mut self, deadline: Instant) -> Result<(), DemoError> {
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) if ExitStatus::success(&status) => return Ok(()),
                Ok(Some(status)) => return Err(self.ended(status.to_string())),
                Err(error) => return Err(self.ended(error.to_string())),
                Ok(None) if Instant::now() > deadline => {
                    return Err(self.ended("did not end on SIGTERM".into()));
                }
                Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tail(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

/// What `loadonce tied PARENT PROGRAM ARGS…` does: ties this process to its parent and becomes the program. Only
/// returns when that fails.
pub fn become_tied(parent: u32, program: &Path, arguments: &[std::ffi::OsString]) -> std::io::Error {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the signal was set.
    if getppid().map(rustix::process::Pid::as_raw_nonzero).map(std::num::NonZeroI32::get)
        != i32::try_from(parent).ok()
    {
        return std::io::Error::other("the parent has already ended");
    }
    Command::new(program).args(arguments).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lines: Vec<String> = (0..5000).map(|i| format!("line {i}")).collect();
        std::fs::write(&log, lines.join("\n")).unwrap();
        let tail = tail(&log).unwrap();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 4999"), "{tail}");
    }
}

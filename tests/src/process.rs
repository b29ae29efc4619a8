//! A child process whose standard error is kept line by line, and who is told of every line as it appears.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::wait::{until, within};

/// Lines of a log that a failure shows.
const SHOWN: usize = 25;
/// How long a process may take to end after SIGTERM.
const GOODBYE: Duration = Duration::from_secs(20);

/// Is told of every line as soon as the process has written it.
pub type Observer = Arc<dyn Fn(&str) + Send + Sync>;

/// The lines of a process over all its starts; also in a file for a person to read.
#[derive(Clone)]
pub struct Log {
    path: PathBuf,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    /// An empty log that is also written to `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), lines: Arc::default() }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines so far; the place where a later [`Log::find`] begins.
    pub fn mark(&self) -> usize {
        self.lines().len()
    }

    /// The first line from `mark` on that contains every one of `needles`.
    pub fn find(&self, mark: usize, needles: &[&str]) -> Option<String> {
        self.lines().iter().skip(mark).find(|line| needles.iter().all(|n| line.contains(n))).cloned()
    }

    /// Waits for such a line.
    pub fn wait(&self, mark: usize, needles: &[&str]) -> String {
        until(&format!("line with {needles:?} in {}", self.path.display()), || self.find(mark, needles))
    }

    /// How many lines from `mark` on contain `needle`.
    pub fn count(&self, mark: usize, needle: &str) -> usize {
        self.lines().iter().skip(mark).filter(|line| line.contains(needle)).count()
    }

    /// Everything, as one text.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n")
    }

    fn push(&self, line: String) {
        self.lines().push(line);
    }
}

/// A running process.
pub struct Process {
    /// For messages.
    pub name: String,
    /// What it wrote to standard error, over all its starts.
    pub log: Log,
    child: Child,
    reader: Option<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; standard output is dropped unless the command says otherwise.
    pub fn start(name: &str, command: &mut Command, log: &Log, observer: Option<Observer>) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start ({command:?}): {error}"));
        let stderr = child.stderr.take().expect("standard error was piped");
        let log = log.clone();
        let (kept, path) = (log.clone(), log.path.clone());
        let reader = std::thread::spawn(move || {
            let mut file = OpenOptions::new().create(true).append(true).open(path).ok();
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                if let Some(observer) = &observer {
                    observer(&line);
                }
                let kept_for_a_person = file.as_mut().map(|file: &mut File| writeln!(file, "{line}"));
                if !matches!(kept_for_a_person, Some(Ok(()))) {
                    file = None;
                }
                kept.push(line);
            }
        });
        Self { name: name.to_owned(), log, child, reader: Some(reader), ended: None }
    }

    /// Its process id. It stays taken until [`Process::ended`] has seen the end.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its end, once it has come. Every line it wrote is in the log then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
            self.drain();
        }
        self.ended
    }

    /// Whether it has ended; its id stays taken.
    pub fn has_ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.ended.is_some() || matches!(waitid(WaitId::Pid(self.pid()), look), Ok(Some(_)))
    }

    fn drain(&mut self) {
        if self.ended.is_some()
            && let Some(reader) = self.reader.take()
        {
            reader.join().expect("reading lines does not panic");
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        until(&format!("end of {}", self.name.clone()), || self.ended())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().expect("a child that was not waited for can be killed");
            self.ended = Some(self.child.wait().expect("a child can be waited for"));
            self.drain();
        }
    }

    /// SIGTERM, and a good end.
    pub fn stop(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended before it was asked to: {status}", self.name);
        }
        kill_process(self.pid(), Signal::TERM).expect("a child that was not waited for can be signalled");
        let what = format!("end of {} after SIGTERM", self.name);
        let status = within(GOODBYE, &what, || self.ended()).unwrap_or_else(|late| panic!("{late}"));
        assert!(status.success(), "{} ended with {status} after SIGTERM", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- last lines of {}\n{}", self.name, self.log.tail());
        }
        // It may have ended already; either way its id is freed here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! What can stop the demo, each with what to do about it.

use miette::Diagnostic;
use std::path::PathBuf;
use thiserror::Error;

/// Why the demo ended without a table.
#[derive(Debug, Error, Diagnostic)]
pub enum DemoError {
    /// Options that cannot be met.
    #[error("{what}")]
    Usage {
        /// What was asked and what is possible.
        what: String,
    },
    /// A program that belongs beside this one is not there.
    #[error("`{name}` is not beside this program: {} does not exist", path.display())]
    #[diagnostic(help("build all programs into one folder (`make build`), or install the whole package"))]
    ProgramMissing {
        /// Name of the program.
        name: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file or folder that cannot be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was under way.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Task manifest, data set or module file with the wrong content.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A data set that cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] crate::DataError),
    /// The backbone did not load or run in this process.
    #[error("the backbone failed: {0}")]
    Backbone(String),
    /// The library refused a module or training set.
    #[error("evaluating task {task} failed: {what}")]
    Evaluation {
        /// Task.
        task: String,
        /// What the library said.
        what: String,
    },
    /// The broker cannot be used.
    #[error("broker {broker}: {what}")]
    #[diagnostic(help(
        "check the address with `mosquitto_sub -h HOST -p PORT -t '#' -C 1`; without --broker `loadonce demo` brings its own"
    ))]
    Broker {
        /// Address.
        broker: String,
        /// What happened.
        what: String,
    },
    /// A child process ended by itself.
    #[error("{name} ended by itself ({status}); its last lines:\n{tail}")]
    #[diagnostic(help("the whole log is {}", log.display()))]
    ChildEnded {
        /// Which.
        name: String,
        /// Exit status.
        status: String,
        /// Its log.
        log: PathBuf,
        /// Last lines of it.
        tail: String,
    },
    /// A child process did not get where it should within its deadline.
    #[error(
        "{waiting} took more than {seconds} s; {name} is furthest behind: {state}; its last lines:\n{tail}"
    )]
    #[diagnostic(help("the whole log is {}; a slower machine needs a larger `--patience`", log.display()))]
    Late {
        /// What was waited for.
        waiting: &'static str,
        /// Deadline.
        seconds: u64,
        /// The process furthest behind.
        name: String,
        /// Where it is.
        state: String,
        /// Its log.
        log: PathBuf,
        /// Last lines of it.
        tail: String,
    },
    /// A gateway refused what the demo sent.
    #[error("{gateway} refused sample {sample}: {what}")]
    #[diagnostic(help("the gateway's log is {}", log.display()))]
    Refused {
        /// Gateway.
        gateway: String,
        /// Sample.
        sample: String,
        /// The answer.
        what: String,
        /// Its log.
        log: PathBuf,
    },
    /// A gateway that is not the demo's own did not answer.
    #[error("{gateway}: {what}")]
    #[diagnostic(help(
        "check that its agent runs, serves the task and reads this broker; its log names what it refuses"
    ))]
    Unanswered {
        /// Gateway.
        gateway: String,
        /// What is the matter.
        what: String,
    },
    /// The figures contradict what must hold.
    #[error("the fleet's figures are wrong: {what}")]
    #[diagnostic(help("this is a defect, not a matter of settings; the run's folder is {}", folder.display()))]
    Nonsense {
        /// What contradicts what.
        what: String,
        /// Folder of the run.
        folder: PathBuf,
    },
    /// Ctrl-C or SIGTERM.
    #[error("interrupted; all processes of the fleet were ended")]
    Interrupted,
}

impl DemoError {
    /// Exit code of the program: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage { .. }) { 2 } else { 1 }
    }
}

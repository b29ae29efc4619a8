//! Live progress on standard error: a block that is redrawn on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Pause between plain lines of one stage.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// Pause between redraws.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Shows where the demo is.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    terminal: bool,
    drawn: usize,
    last: Option<Instant>,
}

impl Progress {
    /// Time counts from here.
    pub(crate) fn new() -> Self {
        let terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { started: Instant::now(), terminal, drawn: 0, last: None }
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// A new stage: a line that stays.
    pub(crate) fn stage(&mut self, text: &str) {
        self.erase();
        write(&format!("{:>6.1} s  {text}\n", self.seconds()));
        self.last = Some(Instant::now());
    }

    /// The state of the current stage: `lines` are redrawn in place on a terminal; elsewhere the first of them is
    /// printed now and then.
    pub(crate) fn update(&mut self, lines: impl FnOnce() -> Vec<String>) {
        let pause = if self.terminal { DRAW_EVERY } else { PLAIN_EVERY };
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        let lines = lines();
        if self.terminal {
            self.erase();
            for line in &lines {
                write(&format!("          {line}\n"));
            }
            self.drawn = lines.len();
        } else if let Some(first) = lines.first() {
            write(&format!("{:>6.1} s    {first}\n", self.seconds()));
        }
        self.last = Some(Instant::now());
    }

    /// Removes the block.
    pub(crate) fn erase(&mut self) {
        if self.drawn > 0 {
            write(&format!("\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }
}

fn write(text: &str) {
    // Progress is for a person; a closed standard error must not end the run.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

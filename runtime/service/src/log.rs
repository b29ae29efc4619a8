//! The log: for a person at a terminal, or for the journal.
//!
//! The journal has its own times, and knows how grave a line is by a number at its beginning (sd-daemon(3)). A line
//! break would begin a new record, so one message is one line.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Sends the log to standard error, filtered by `LOADONCE_LOG`: levels and `target=level`, comma-separated; `info`
/// where it says nothing usable.
pub fn init() {
    let asked = std::env::var("LOADONCE_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let log = tracing_subscriber::registry().with(filter);
    if to_journal() {
        let line = tracing_subscriber::fmt::format().without_time().with_level(false).compact();
        log.with(lines.event_format(JournalLine(line))).init();
    } else {
        log.with(lines).init();
    }
}

/// Whether standard error ends in the journal: its device and inode are those the manager wrote into `JOURNAL_STREAM`
/// (a program further down the pipe inherits the variable, not the stream).
pub fn to_journal() -> bool {
    let stream = std::fs::metadata("/proc/self/fd/2").map(|found| (found.dev(), found.ino()));
    std::env::var("JOURNAL_STREAM").is_ok_and(|named| stream.is_ok_and(|stream| names(&named, stream)))
}

fn names(named: &str, stream: (u64, u64)) -> bool {
    let parts = named.split_once(':');
    parts.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?))) == Some(stream)
}

/// Tells why the program ends, on standard error.
pub fn last_words(program: &str, why: &str) {
    if to_journal() {
        eprintln!("<3>{}", one_line(why));
    } else {
        eprintln!("{program}: {why}");
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Many messages already end in that of their cause.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

struct JournalLine(Format<Compact, ()>);

impl<S, N> FormatEvent<S, N> for JournalLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        writeln!(writer, "<{}>{}", priority(*event.metadata().level()), one_line(&text))
    }
}

/// The priorities of syslog(3) from "error" on.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_of_the_journal_is_one_record_with_a_priority() {
        let kept = Kept::default();
        let into = kept.clone();
        let line = tracing_subscriber::fmt::format().without_time().with_level(false).compact();
        let log = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || into.clone())
            .event_format(JournalLine(line))
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::error!(path = "/x", "the disk is full;\n  free some room");
            tracing::info!("ready");
            tracing::debug!("detail");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].starts_with("<3>") && lines[0].contains("the disk is full; free some room"),
            "{text}"
        );
        assert!(lines[0].contains("/x") && !text.contains('\u{1b}'), "{text}");
        assert!(lines[1].starts_with("<6>") && lines[2].starts_with("<7>"), "{text}");
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        assert!(names("8:1234", (8, 1234)));
        for other in ["8:1235", "9:1234", "8", "", "8:x", "8:1234:5"] {
            assert!(!names(other, (8, 1234)), "{other}");
        }
    }
}

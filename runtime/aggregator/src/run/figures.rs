//! `figures.json`: when it is written, and what stands in it besides the core's own figures.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loadonce_link::LinkHandle;
use loadonce_link::tls::exchange::EndpointStats;
use serde::Serialize;

use crate::enrol::EnrolFigures;
use crate::figures::Figures;

/// How often it is written.
const EVERY: Duration = Duration::from_secs(2);
/// Writing it takes at most one part in this many of the time: it lists every gateway.
const SHARE: u32 = 100;

/// The file, renewed every two seconds, and less often where writing it takes long.
pub(super) struct FiguresFile {
    path: PathBuf,
    due: Instant,
    failed: bool,
}

impl FiguresFile {
    /// In the folder in memory that the service manager gives (`RuntimeDirectory=`), else with the state.
    pub(super) fn new(state: &Path, due: Instant) -> Self {
        let folders = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
        let runtime = std::env::split_paths(&folders).find(|folder| folder.is_absolute());
        let path = runtime.unwrap_or_else(|| state.to_owned()).join("figures.json");
        Self { path, due, failed: false }
    }

    pub(super) fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// Writes what holds now; that it cannot be written is said once.
    pub(super) fn write(
        &mut self,
        figures: Figures,
        enrol: Option<(EnrolFigures, EndpointStats)>,
        running: Duration,
        link: &LinkHandle,
    ) {
        let begun = Instant::now();
        let enrol = enrol.map(|(figures, endpoint)| {
            let EndpointStats { failed_handshakes, broken_requests, turned_away } = endpoint;
            EnrolSection { figures, failed_handshakes, broken_requests, turned_away }
        });
        let content = Content { figures, seconds: running.as_secs(), link: LinkFigures::of(link), enrol };
        let written = replace(&self.path, &content);
        if let (Err(error), false) = (&written, self.failed) {
            tracing::warn!(path = %self.path.display(), %error, "figures are not written");
        }
        self.failed = written.is_err();
        self.due = begun + EVERY.max(SHARE * begun.elapsed());
    }
}

#[derive(Serialize)]
struct Content {
    #[serde(flatten)]
    figures: Figures,
    seconds: u64,
    link: LinkFigures,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrol: Option<EnrolSection>,
}

#[derive(Serialize)]
struct EnrolSection {
    #[serde(flatten)]
    figures: EnrolFigures,
    failed_handshakes: u64,
    broken_requests: u64,
    turned_away: u64,
}

#[derive(Serialize)]
struct LinkFigures {
    connected: bool,
    bytes_up: u64,
    bytes_down: u64,
    connects: u64,
    oversized: u64,
    malformed: u64,
    dropped_messages: u64,
    dropped_publishes: u64,
    subscription_refusals: u64,
}

impl LinkFigures {
    fn of(link: &LinkHandle) -> Self {
        let connected = link.is_connected();
        let link = link.stats();
        Self {
            connected,
            bytes_up: link.bytes_up,
            bytes_down: link.bytes_down,
            connects: link.connects,
            oversized: link.oversized,
            malformed: link.malformed,
            dropped_messages: link.dropped_messages,
            dropped_publishes: link.dropped_publishes,
            subscription_refusals: link.subscription_refusals,
        }
    }
}

/// Renamed into place, so that a reader sees one state; not synced, for they are current for seconds only.
fn replace(path: &Path, content: &Content) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, serde_json::to_vec_pretty(content)?)?;
    fs::rename(&temporary, path)
}

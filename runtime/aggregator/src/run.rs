//! The edge: the broker's link, a timer, signals. Everything is decided in the core.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loadonce_link::{Event, Link, LinkConfig, LinkError, LinkHandle, Qos};
use loadonce_store::{Database, StoreError, write_atomic};
use loadonce_trust::{Identity, KeyError, encode_hex};
use loadonce_wire::limits::MAX_MQTT_PACKET;
use loadonce_wire::topic::PREFIX;
use serde::Serialize;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::aggregator::{Aggregator, OpenError};
use crate::config::Config;
use crate::figures::Figures;
use crate::journal::JournalError;
use crate::outgoing::Outgoing;

/// Page cache of the database in bytes: totals and modules of some dozens of tasks.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often `figures.json` is written.
const FIGURES: Duration = Duration::from_secs(2);
/// Bytes that may wait for the broker: the largest answer to a block request, with room to spare.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// Why the aggregator stopped.
#[derive(Debug, Error)]
pub enum RunError {
    /// The state folder cannot be made.
    #[error("the state folder {}: {source}; create it, or give the service's user write access", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file cannot be used.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// A file or the database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The core cannot start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal failed while running; what was acknowledged is on disk.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The link cannot be set up.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The link ended by itself.
    #[error("the link to the broker ended unexpectedly; restart the aggregator")]
    LinkEnded,
    /// The operating system refused signals.
    #[error("signals cannot be received: {0}; restart the aggregator")]
    Signals(io::Error),
}

/// Makes the state folder and the key if they are missing, and reads the key.
fn identity(state: &Path) -> Result<Identity, RunError> {
    fs::create_dir_all(state).map_err(|source| RunError::State { path: state.to_owned(), source })?;
    let path = state.join("aggregator.key");
    let key = |source| RunError::Key { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => Identity::from_file_text(&text).map_err(key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let identity = Identity::generate().map_err(key)?;
            write_atomic(&path, identity.to_file_text().as_bytes(), 0o600)?;
            Ok(identity)
        }
        Err(error) => Err(StoreError::from_io(&path, error).into()),
    }
}

/// Runs until SIGINT or SIGTERM. Needs a tokio runtime with time and I/O.
pub async fn run(config: Config) -> Result<(), RunError> {
    let start = Instant::now();
    let now = || start.elapsed().as_millis() as u64;
    let identity = identity(&config.state)?;
    tracing::info!(site = config.settings.site, key = encode_hex(&identity.public()), "aggregator starts");
    let database = Database::open(&config.state.join("aggregator.redb"), CACHE_BYTES)?;
    let site = config.settings.site.clone();
    let mut core = Aggregator::open(config.settings, identity, database, now())?;

    let mut link_config = LinkConfig::new(&config.broker, &format!("{site}.aggregator"), MAX_MQTT_PACKET)?;
    link_config.credentials = config.credentials;
    link_config.queue_messages = 256;
    link_config.queue_bytes = QUEUE_BYTES;
    link_config.subscriptions = ["state", "up", "report"]
        .map(|level| {
            let qos = if level == "report" { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            (format!("{PREFIX}/{site}/gw/+/{level}"), qos)
        })
        .into();
    let (link, mut events) = Link::start(link_config)?;

    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut tick = interval(TICK);
    let mut figures = interval(FIGURES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let figures_path = config.state.join("figures.json");
    let mut figures_failed = false;
    loop {
        core.set_crowded(link.is_crowded());
        let out = tokio::select! {
            event = events.recv() => take(&mut core, event.ok_or(RunError::LinkEnded)?, now())?,
            _ = tick.tick() => Vec::new(),
            _ = figures.tick() => {
                let written = write_figures(&figures_path, core.figures(now()), start, &link);
                if let (Err(error), false) = (&written, figures_failed) {
                    tracing::warn!(path = %figures_path.display(), %error, "figures are not written");
                }
                figures_failed = written.is_err();
                Vec::new()
            }
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        publish(&link, out).await;
        let due = core.on_tick(now())?;
        publish(&link, due).await;
    }
    tracing::info!("aggregator stops");
    // The last word: what the newest figures do not tell yet.
    let written = write_figures(&figures_path, core.figures(now()), start, &link);
    link.close().await;
    if let Err(error) = written {
        tracing::warn!(path = %figures_path.display(), %error, "figures are not written");
    }
    Ok(())
}

fn take(core: &mut Aggregator, event: Event, now_ms: u64) -> Result<Vec<Outgoing>, JournalError> {
    match event {
        Event::Connected { .. } => {
            tracing::info!("connected to the broker");
            return Ok(core.on_connected(now_ms));
        }
        Event::Message { topic, payload, .. } => return core.on_message(&topic, &payload, now_ms),
        Event::Disconnected { reason, retry_in } => {
            tracing::warn!(reason, ?retry_in, "not connected to the broker");
        }
        Event::SubscriptionRefused { topic } => {
            tracing::error!(
                topic,
                "the broker refused a subscription; allow it in the broker's access rules"
            );
        }
        Event::Oversized { topic, bytes } => {
            core.on_taken_out("oversized");
            tracing::warn!(topic, bytes, "a message was too large and was dropped");
        }
        Event::Malformed { topic, bytes } => {
            core.on_taken_out("malformed_packet");
            tracing::warn!(topic, bytes, "a message broke the protocol and was dropped");
        }
        _ => {}
    }
    Ok(Vec::new())
}

/// Hands messages to the link. One that cannot be sent is dropped: contributions come again, and what is
/// current is published at the next connection.
async fn publish(link: &LinkHandle, messages: Vec<Outgoing>) {
    for Outgoing { topic, payload, retain, note } in messages {
        match link.publish(topic.as_str(), payload, Qos::AtLeastOnce, retain).await {
            Ok(()) => {
                if let Some(note) = note {
                    note.log();
                }
            }
            Err(error) => tracing::debug!(topic, %error, "a message was not sent"),
        }
    }
}

#[derive(Serialize)]
struct FiguresFile {
    #[serde(flatten)]
    figures: Figures,
    seconds: u64,
    link: LinkFigures,
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

/// Renamed into place, so that a reader sees one state; not synced, for they are current for seconds only.
fn write_figures(path: &Path, figures: Figures, start: Instant, link: &LinkHandle) -> io::Result<()> {
    let connected = link.is_connected();
    let link = link.stats();
    let link = LinkFigures {
        connected,
        bytes_up: link.bytes_up,
        bytes_down: link.bytes_down,
        connects: link.connects,
        oversized: link.oversized,
        malformed: link.malformed,
        dropped_messages: link.dropped_messages,
        dropped_publishes: link.dropped_publishes,
        subscription_refusals: link.subscription_refusals,
    };
    let file = FiguresFile { figures, seconds: start.elapsed().as_secs(), link };
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, serde_json::to_vec_pretty(&file)?)?;
    fs::rename(&temporary, path)
}

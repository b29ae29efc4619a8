//! The edge: two connections, the spool and one work thread. Everything that decides is in [`Agent`].

mod enrolment;
mod watcher;
mod worker;

use crate::agent::{Agent, AgentError};
use crate::config::{BrokerConfig, Config};
use crate::spool::{Fate, Item};
use enrolment::Enrolment;
use loadonce_link::tls::Tls;
use loadonce_link::{Credentials, Event, Link, LinkConfig, LinkError, Qos, Will};
use loadonce_trust::PublicKey;
use loadonce_wire::limits::{MAX_MQTT_PACKET, MAX_SAMPLE, MAX_TOPIC, packet_bytes};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use worker::Worker;

/// Messages that wait for the work thread. Beyond it the connections stop reading: the broker holds the rest.
const QUEUE: usize = 64;
/// Bytes of samples and labels among them, or one message.
const QUEUE_BYTES: usize = 2 * MAX_SAMPLE;

/// Pause between reports on the uplink: a metered line pays for them.
pub const REPORT_EVERY: Duration = Duration::from_hours(6);
/// Interval of pings on the uplink. Each takes about 212 bytes with its headers: every 30 s they would be twelve times
/// the 50 KB a day that an idle gateway may cost. Work that the broker does not confirm tells of a dead line sooner.
pub const UPLINK_KEEP_ALIVE: Duration = Duration::from_mins(10);
/// On the data plane: samples that do not come must be noticed soon, and the line is the plant's own.
const DATA_KEEP_ALIVE: Duration = Duration::from_secs(30);

enum Work {
    /// The aggregator's key, as enrolment tells it.
    Believe(PublicKey),
    Connected,
    Disconnected,
    Uplink {
        topic: String,
        payload: Vec<u8>,
        retained: bool,
    },
    Data {
        topic: String,
        payload: Vec<u8>,
        received: Instant,
        _room: OwnedSemaphorePermit,
    },
    Spool {
        item: Item,
        payload: Vec<u8>,
        fate: oneshot::Sender<Fate>,
        _room: OwnedSemaphorePermit,
    },
    Oversized {
        topic: String,
        bytes: u64,
    },
    Refused(&'static str),
    Stop,
}

/// The bytes that wait for the work thread.
#[derive(Clone)]
struct Room(Arc<Semaphore>);

impl Room {
    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = bytes.clamp(1, QUEUE_BYTES) as u32;
        Arc::clone(&self.0).acquire_many_owned(bytes).await.expect("the semaphore is never closed")
    }
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A connection cannot be set up.
    #[error("the connection `{which}` cannot be set up: {source}")]
    Link {
        /// `uplink` or `data`.
        which: &'static str,
        /// What is wrong.
        source: LinkError,
    },
    /// The agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The system refused.
    #[error("the system refused: {0}")]
    Io(#[from] std::io::Error),
    /// The work thread panicked: a defect.
    #[error("the work thread ended unexpectedly; please report the log above")]
    Defect,
}

/// Runs `agent` until SIGTERM or SIGINT.
pub async fn run(agent: Agent, config: Config) -> Result<(), EdgeError> {
    let clock = enrolment::clock(&config.state);
    let (ready, is_ready) = watch::channel(false);
    let tls = config.tls_files().map(|files| {
        let ready = config.enrol.is_some().then_some(is_ready);
        Tls { files, clock: clock.clone(), ready }
    });
    let mut uplink_config = link_config(
        &config.uplink,
        &config.gateway,
        MAX_MQTT_PACKET,
        "uplink",
        UPLINK_KEEP_ALIVE,
        tls.as_ref(),
    )?;
    let farewell = agent.farewell();
    uplink_config.will = Some(Will {
        topic: farewell.topic.clone(),
        payload: farewell.payload.clone(),
        qos: Qos::AtLeastOnce,
        retain: true,
    });
    uplink_config.subscriptions = at_least_once(Agent::uplink_topics(&config, &agent.backbones));
    let data = config.data.as_ref().unwrap_or(&config.uplink);
    let name = format!("{}.local", config.gateway);
    let mut data_config =
        link_config(data, &name, packet_bytes(MAX_TOPIC, MAX_SAMPLE), "data", DATA_KEEP_ALIVE, tls.as_ref())?;
    data_config.subscriptions = at_least_once(Agent::data_topics(&config));

    let (uplink, uplink_events) =
        Link::start(uplink_config).map_err(|source| EdgeError::Link { which: "uplink", source })?;
    let (plane, data_events) =
        Link::start(data_config).map_err(|source| EdgeError::Link { which: "data", source })?;
    let (work, inbox) = mpsc::channel(QUEUE);
    let seed = crate::open::random_u64()?;
    // Ends with the runtime.
    if let Some(enrolment) = Enrolment::new(&agent, &config, clock, ready, work.clone(), seed) {
        tokio::spawn(enrolment.run());
    }
    let room = Room(Arc::new(Semaphore::new(QUEUE_BYTES)));
    tokio::spawn(forward_uplink(uplink_events, work.clone()));
    tokio::spawn(forward_data(data_events, work.clone(), room.clone()));
    if let Some(spool) = config.spool {
        tokio::spawn(watcher::watch(spool.folder, work.clone(), room));
    }
    let handle = Handle::current();
    let links = (uplink.clone(), plane.clone());
    let (ended, mut end) = oneshot::channel();
    let thread = std::thread::Builder::new().name("work".into()).spawn(move || {
        let result = Worker::new(agent, inbox, links.0, links.1, handle).run();
        // The receiver outlives the thread; if not, nobody is left to tell.
        let _told = ended.send(result);
    })?;
    let result = tokio::select! {
        result = &mut end => result.map_err(|_| EdgeError::Defect)?,
        () = stop_signal() => {
            tracing::info!("stopping");
            if work.send(Work::Stop).await.is_err() { return Err(EdgeError::Defect); }
            end.await.map_err(|_| EdgeError::Defect)?
        }
    };
    let goodbye = uplink.publish(farewell.topic, farewell.payload, Qos::AtLeastOnce, true).await;
    if let Err(error) = goodbye {
        tracing::debug!(%error, "no goodbye");
    }
    tokio::join!(uplink.close(), plane.close());
    thread.join().map_err(|_| EdgeError::Defect)?;
    Ok(result?)
}

fn at_least_once(topics: Vec<String>) -> Vec<(String, Qos)> {
    topics.into_iter().map(|topic| (topic, Qos::AtLeastOnce)).collect()
}

fn link_config(
    broker: &BrokerConfig,
    client_id: &str,
    max_packet: usize,
    which: &'static str,
    keep_alive: Duration,
    tls: Option<&Tls>,
) -> Result<LinkConfig, EdgeError> {
    let mut config = LinkConfig::new(&broker.broker, client_id, max_packet)
        .map_err(|source| EdgeError::Link { which, source })?;
    config.credentials = broker.user.as_ref().map(|user| Credentials {
        user: user.clone(),
        password: broker.password.clone().unwrap_or_default(),
    });
    config.tls = tls.filter(|_| config.broker.tls).cloned();
    config.keep_alive = broker.keep_alive_s.map_or(keep_alive, Duration::from_secs);
    config.backoff.cap = Duration::from_secs(broker.backoff_cap_s);
    Ok(config)
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
}

async fn forward_uplink(mut events: mpsc::Receiver<Event>, work: mpsc::Sender<Work>) {
    let mut down = Outage::default();
    while let Some(event) = events.recv().await {
        let message = match event {
            Event::Connected { .. } => {
                down.over();
                tracing::info!("uplink connected");
                Work::Connected
            }
            Event::Disconnected { reason, retry_in } => {
                down.tell("uplink", "work goes on, deltas wait", &reason, retry_in);
                Work::Disconnected
            }
            Event::Message { topic, payload, retain } => Work::Uplink { topic, payload, retained: retain },
            other => refused(&other),
        };
        if work.send(message).await.is_err() {
            return;
        }
    }
}

async fn forward_data(mut events: mpsc::Receiver<Event>, work: mpsc::Sender<Work>, room: Room) {
    let mut down = Outage::default();
    while let Some(event) = events.recv().await {
        let message = match event {
            Event::Message { topic, payload, .. } => {
                let received = Instant::now();
                let held = room.take(payload.len()).await;
                Work::Data { topic, payload, received, _room: held }
            }
            Event::Connected { .. } => {
                down.over();
                tracing::info!("data plane connected");
                continue;
            }
            Event::Disconnected { reason, retry_in } => {
                down.tell("data", "the spool still works", &reason, retry_in);
                continue;
            }
            other => refused(&other),
        };
        if work.send(message).await.is_err() {
            return;
        }
    }
}

/// Different reasons that one outage tells at warning level.
const MAX_REASONS: usize = 8;

/// Says once per outage and reason what is the matter and what to do; further attempts are for the patient reader.
#[derive(Default)]
struct Outage {
    told: BTreeSet<String>,
}

impl Outage {
    fn over(&mut self) {
        self.told.clear();
    }

    fn tell(&mut self, which: &str, meanwhile: &str, reason: &str, retry_in: Duration) {
        let retry_in_s = retry_in.as_secs_f32();
        if self.told.len() >= MAX_REASONS || !self.told.insert(reason.to_owned()) {
            tracing::debug!(reason, retry_in_s, "{which} is still down");
        } else {
            tracing::warn!(
                reason,
                retry_in_s,
                "{which} is down; {meanwhile}. Check that the broker runs and `{which}.broker` in the configuration names it; the agent keeps trying"
            );
        }
    }
}

fn refused(event: &Event) -> Work {
    match event {
        Event::Oversized { topic, bytes } => Work::Oversized { topic: topic.clone(), bytes: *bytes },
        Event::SubscriptionRefused { topic } => {
            tracing::error!(
                topic,
                "the broker refused this subscription; allow it in the broker's access list"
            );
            Work::Refused("subscription_refused")
        }
        other => {
            tracing::warn!(event = ?other, "message refused");
            Work::Refused("malformed")
        }
    }
}

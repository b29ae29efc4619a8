//! The edge: two connections, the spool and one work thread. Everything that decides is in [`Agent`].

use crate::agent::{Agent, AgentError};
use crate::config::{BrokerConfig, Config};
use crate::outgoing::{Outgoing, Side};
use crate::spool::{self, Item};
use loadonce_link::{Credentials, Event, Link, LinkConfig, LinkError, LinkHandle, Qos, Will};
use loadonce_wire::limits::{MAX_MQTT_PACKET, MAX_SAMPLE, MAX_TOPIC, packet_bytes};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Messages that wait for the work thread. Beyond it the connections stop reading: the broker holds the rest.
const QUEUE: usize = 64;
/// Between two looks at the clock when nothing happens.
const TICK: Duration = Duration::from_millis(200);
/// Between two looks into the spool.
const SPOOL_PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for room in the data plane's queue before an answer is dropped and counted.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Reports on the uplink: rare, because a metered line pays for them.
const REPORT_EVERY: Duration = Duration::from_hours(2);

enum Work {
    Connected,
    Disconnected,
    Uplink { topic: String, payload: Vec<u8>, retained: bool },
    Data { topic: String, payload: Vec<u8>, received: Instant },
    Spool { item: Item, payload: Vec<u8>, taken: oneshot::Sender<bool> },
    Refused(&'static str),
    Stop,
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
    let fingerprint = agent.backbone.bundle().fingerprint().to_owned();
    let mut uplink_config = link_config(&config.uplink, &config.gateway, MAX_MQTT_PACKET, "uplink")?;
    let farewell = agent.farewell();
    uplink_config.will = Some(Will {
        topic: farewell.topic.clone(),
        payload: farewell.payload.clone(),
        qos: Qos::AtLeastOnce,
        retain: true,
    });
    uplink_config.subscriptions = at_least_once(Agent::uplink_topics(&config, &fingerprint));
    let data = config.data.as_ref().unwrap_or(&config.uplink);
    let name = format!("{}.local", config.gateway);
    let mut data_config = link_config(data, &name, packet_bytes(MAX_TOPIC, MAX_SAMPLE), "data")?;
    data_config.subscriptions = at_least_once(Agent::data_topics(&config));

    let (uplink, uplink_events) =
        Link::start(uplink_config).map_err(|source| EdgeError::Link { which: "uplink", source })?;
    let (plane, data_events) =
        Link::start(data_config).map_err(|source| EdgeError::Link { which: "data", source })?;
    let (work, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(forward_uplink(uplink_events, work.clone()));
    tokio::spawn(forward_data(data_events, work.clone()));
    if let Some(spool) = config.spool {
        tokio::spawn(watch_spool(spool.folder, work.clone()));
    }
    let handle = Handle::current();
    let links = (uplink.clone(), plane.clone());
    let (ended, mut end) = oneshot::channel();
    let thread = std::thread::Builder::new().name("work".into()).spawn(move || {
        let result =
            Worker { agent, inbox, uplink: links.0, data: links.1, handle, started: Instant::now() }.run();
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
) -> Result<LinkConfig, EdgeError> {
    let mut config = LinkConfig::new(&broker.broker, client_id, max_packet)
        .map_err(|source| EdgeError::Link { which, source })?;
    config.credentials = broker.user.as_ref().map(|user| Credentials {
        user: user.clone(),
        password: broker.password.clone().unwrap_or_default(),
    });
    config.keep_alive = Duration::from_secs(broker.keep_alive_s);
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
    while let Some(event) = events.recv().await {
        let message = match event {
            Event::Connected { .. } => {
                tracing::info!("uplink connected");
                Work::Connected
            }
            Event::Disconnected { reason, retry_in } => {
                tracing::warn!(
                    reason,
                    retry_in_s = retry_in.as_secs_f32(),
                    "uplink is down; work goes on, deltas wait"
                );
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

async fn forward_data(mut events: mpsc::Receiver<Event>, work: mpsc::Sender<Work>) {
    while let Some(event) = events.recv().await {
        let message = match event {
            Event::Message { topic, payload, .. } => Work::Data { topic, payload, received: Instant::now() },
            Event::Connected { .. } => {
                tracing::info!("data plane connected");
                continue;
            }
            Event::Disconnected { reason, retry_in } => {
                tracing::warn!(
                    reason,
                    retry_in_s = retry_in.as_secs_f32(),
                    "data plane is down; the spool still works"
                );
                continue;
            }
            other => refused(&other),
        };
        if work.send(message).await.is_err() {
            return;
        }
    }
}

fn refused(event: &Event) -> Work {
    match event {
        Event::Oversized { topic, bytes } => {
            tracing::warn!(topic, bytes, "message refused: larger than this agent takes");
            Work::Refused("too_large")
        }
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

async fn watch_spool(folder: PathBuf, work: mpsc::Sender<Work>) {
    let mut complained = false;
    loop {
        let items = match spool::next_items(&folder) {
            Ok(items) => items,
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(folder = %folder.display(), %error, "the spool folder cannot be read; create it or correct `spool.folder`");
                }
                Vec::new()
            }
        };
        let idle = items.is_empty();
        for item in items {
            let done = match spool::read(&item.path) {
                Ok(payload) => {
                    let (taken, answer) = oneshot::channel();
                    if work.send(Work::Spool { item: item.clone(), payload, taken }).await.is_err() {
                        return;
                    }
                    let Ok(taken) = answer.await else { return };
                    if taken { spool::taken(&item) } else { spool::refused(&folder, &item) }
                }
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::error!(file = %item.path.display(), %error, "spool file");
                tokio::time::sleep(SPOOL_PAUSE).await;
            }
        }
        if idle {
            tokio::time::sleep(SPOOL_PAUSE).await;
        }
    }
}

struct Worker {
    agent: Agent,
    inbox: mpsc::Receiver<Work>,
    uplink: LinkHandle,
    data: LinkHandle,
    handle: Handle,
    started: Instant,
}

impl Worker {
    /// Messages first, then one unit of background work, then a nap until the next message or tick.
    fn run(mut self) -> Result<(), AgentError> {
        let mut out = Vec::new();
        let (mut reported, mut sent_up) = (Instant::now(), Instant::now());
        let mut busy = true;
        loop {
            let message = match self.inbox.try_recv() {
                Ok(message) => Some(message),
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(()),
                Err(mpsc::error::TryRecvError::Empty) => None,
            };
            let now = self.started.elapsed().as_millis() as u64;
            let message = match message {
                Some(message) => Some(message),
                None if self.agent.background(now, &mut out)? => {
                    busy = true;
                    None
                }
                None => {
                    self.publish(&mut out);
                    self.handle.block_on(async { timeout(TICK, self.inbox.recv()).await.ok().flatten() })
                }
            };
            if let Some(message) = message {
                busy = true;
                let now = self.started.elapsed().as_millis() as u64;
                if !self.take(message, now, &mut out)? {
                    return Ok(());
                }
            }
            self.publish(&mut out);
            let due = busy || self.agent.take_report_due();
            let pause = Duration::from_millis(if due { 500 } else { 5_000 });
            if reported.elapsed() >= pause {
                busy = false;
                reported = Instant::now();
                let uptime = self.started.elapsed().as_secs_f64();
                let report = self.agent.report(now, uptime, self.uplink.stats(), self.data.stats());
                if sent_up.elapsed() >= REPORT_EVERY {
                    sent_up = Instant::now();
                    out.push(report);
                }
            }
        }
    }

    fn take(&mut self, message: Work, now: u64, out: &mut Vec<Outgoing>) -> Result<bool, AgentError> {
        match message {
            Work::Connected => {
                let birth = self.agent.on_connected();
                out.push(birth);
            }
            Work::Disconnected => self.agent.on_disconnected(),
            Work::Uplink { topic, payload, retained } => {
                self.agent.on_uplink(&topic, &payload, retained, now, out)?;
            }
            Work::Data { topic, payload, received } => {
                self.agent.on_data(&topic, &payload, received, now, out)?;
            }
            Work::Spool { item, payload, taken } => {
                let good = self.agent.on_spool(&item, &payload, now, out);
                // The watcher waits for the answer; if it is gone, so is the need for it.
                let _told = taken.send(good);
            }
            Work::Refused(code) => self.agent.count_refusal(code),
            Work::Stop => {
                self.agent.stop()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn publish(&mut self, out: &mut Vec<Outgoing>) {
        for message in out.drain(..) {
            let qos = if message.at_least_once { Qos::AtLeastOnce } else { Qos::AtMostOnce };
            let sent = match message.side {
                // Never waits: a slow uplink must not delay an answer. What is dropped here is sent again.
                Side::Uplink => self.uplink.try_publish(message.topic, message.payload, qos, message.retain),
                Side::Data => {
                    let publish = self.data.publish(message.topic, message.payload, qos, message.retain);
                    self.handle
                        .block_on(async { timeout(ANSWER_PATIENCE, publish).await })
                        .unwrap_or(Err(LinkError::QueueFull))
                }
            };
            if let Err(error) = sent {
                tracing::debug!(side = ?message.side, %error, "not published");
            }
        }
    }
}

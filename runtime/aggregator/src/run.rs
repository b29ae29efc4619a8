//! The edge: the broker's link, a timer, signals. Everything is decided in the core.

mod figures;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use loadonce_link::tls::exchange::{Endpoint, EndpointStats, Incoming};
use loadonce_link::tls::{Clock, Tls, TlsFileError, TlsFiles};
use loadonce_link::{Event, Link, LinkConfig, LinkError, LinkHandle, Qos};
use loadonce_service::Notify;
use loadonce_store::{Database, Disk, StoreError, write_atomic};
use loadonce_trust::{Identity, KeyError, PublicKey, encode_hex};
use loadonce_wire::limits::MAX_MQTT_PACKET;
use loadonce_wire::topic::PREFIX;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::aggregator::{Aggregator, OpenError};
use crate::config::Config;
use crate::enrol::{EnrolConfig, Handled, Registrar, SiteError, SiteFiles, enrol_folder};
use crate::journal::JournalError;
use crate::metrics::{self, Certificates, Durations, Machine, MetricsConfig, MetricsError, Server, Snapshot};
use crate::outgoing::Outgoing;

use figures::FiguresFile;

/// Page cache of the database in bytes: totals and modules of some dozens of tasks.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Bytes that may wait for the broker: the largest answer to a block request, with room to spare.
pub(crate) const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Messages that are made durable together, and their bytes.
pub(crate) const MAX_BATCH: usize = 256;
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of messages that wait in the link. Above half of it the link stops reading and offers are turned away; but it
/// reads on while answers wait for the broker's confirmation, which comes behind the messages. So there is room for
/// all the chunks that the receiver may have asked for, and none of them is dropped.
pub(crate) const EVENT_BYTES: usize = 48 * 1024 * 1024;

/// Different reasons that one outage tells at warning level.
const MAX_TROUBLES: usize = 8;

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
    /// The metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The link ended by itself.
    #[error("the link to the broker ended unexpectedly; restart the aggregator")]
    LinkEnded,
    /// The certificates cannot be used.
    #[error("{0}; run `loadonce site init`, or name the files under `[tls]`")]
    Tls(#[from] TlsFileError),
    /// The site's CA cannot be used.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The endpoint for enrolment cannot listen.
    #[error("`enrol.listen` {address}: {source}; correct the address, or end what listens there")]
    Enrol {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system gave no thread.
    #[error("the system gives no thread: {0}; raise the limit of threads")]
    Thread(io::Error),
    /// The core's thread panicked: a defect.
    #[error("the aggregator's core ended unexpectedly; please report the log above")]
    Defect,
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

/// What the core's thread is told.
enum Input {
    Event(Event, OwnedSemaphorePermit),
    /// A gateway at the endpoint for enrolment.
    Enrol(Box<Incoming>),
    /// Look at the clock.
    Tick,
    Stop,
}

/// Runs until SIGINT or SIGTERM. Needs a tokio runtime with time and I/O.
///
/// The core has a thread of its own, so that the link goes on reading while a batch is made durable.
#[expect(
    clippy::missing_panics_doc,
    reason = "a configuration that was read has certificates where it has `[enrol]`"
)]
pub async fn run(config: Config) -> Result<(), RunError> {
    let start = Instant::now();
    let identity = identity(&config.state)?;
    tracing::info!(site = config.settings.site, key = encode_hex(&identity.public()), "aggregator starts");
    let journal = config.state.join("aggregator.redb");
    let database = Database::open(&journal, CACHE_BYTES)?;
    let site = config.settings.site.clone();
    let history_limit_bytes = config.settings.history_bytes;
    let key = identity.public();
    let mut core = Aggregator::open(config.settings, identity, database, 0)?;
    let (registrar, endpoint) = match &config.enrol {
        Some(enrol) => {
            let files = config.tls.clone().expect("a configuration with `[enrol]` has certificates");
            let (registrar, endpoint) = open_enrolment(enrol, &config.state, files, key).await?;
            for (name, key) in registrar.gateways() {
                core.enrol(name, key);
            }
            (Some(registrar), Some(endpoint))
        }
        None => (None, None),
    };

    let mut link_config = LinkConfig::new(&config.broker, &format!("{site}.aggregator"), MAX_MQTT_PACKET)?;
    link_config.credentials = config.credentials;
    link_config.tls = link_config.broker.tls.then_some(config.tls).flatten().map(Tls::new);
    link_config.queue_messages = 2 * MAX_BATCH;
    link_config.queue_bytes = QUEUE_BYTES;
    link_config.event_bytes = EVENT_BYTES;
    link_config.subscriptions = ["state", "up", "report"]
        .map(|level| {
            let qos = if level == "report" { Qos::AtMostOnce } else { Qos::AtLeastOnce };
            (format!("{PREFIX}/{site}/gw/+/{level}"), qos)
        })
        .into();
    let (link, events) = Link::start(link_config)?;

    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let (server, observer) = match config.metrics {
        Some(MetricsConfig { listen, gateways, certificates }) => {
            let (snapshots, newest) = watch::channel(None);
            core.measure(monotonic);
            let server = Server::start(listen, newest).await?;
            let observer = Observer {
                snapshots,
                due: start,
                gateways,
                certificates: Certificates::new(certificates),
                batches: Durations::default(),
                history_limit_bytes,
                state: config.state.clone(),
                journal,
            };
            (Some(server), Some(observer))
        }
        None => (None, None),
    };
    let (inputs, inbox) = mpsc::channel(MAX_BATCH);
    let mut forward = tokio::spawn(forward(events, inputs.clone()));
    let endpoint_stats = endpoint.as_ref().map(Endpoint::counters);
    let enrolment = endpoint.map(|endpoint| {
        let (requests, incoming) = mpsc::channel(1);
        (tokio::spawn(endpoint.serve(requests)), tokio::spawn(hand_in(incoming, inputs.clone())))
    });
    let (ended, mut end) = oneshot::channel();
    let desk = Desk {
        core,
        registrar,
        endpoint: endpoint_stats.map(|stats| Box::new(stats) as Box<dyn Fn() -> EndpointStats + Send>),
        troubles: BTreeSet::new(),
        inbox,
        link: link.clone(),
        handle: Handle::current(),
        start,
        figures: FiguresFile::new(&config.state, start),
        manager: Notify::from_env(),
        observer,
    };
    let thread = std::thread::Builder::new()
        .name("core".into())
        // The receiver outlives the thread; if not, nobody is left to tell.
        .spawn(move || drop(ended.send(desk.run())))
        .map_err(RunError::Thread)?;
    let result = tokio::select! {
        result = &mut end => result.map_err(|_| RunError::Defect)?,
        _ = &mut forward => Err(RunError::LinkEnded),
        _ = interrupt.recv() => stop(&inputs, end).await,
        _ = terminate.recv() => stop(&inputs, end).await,
    };
    tracing::info!("aggregator stops");
    link.close().await;
    forward.abort();
    if let Some((serve, hand_in)) = enrolment {
        serve.abort();
        hand_in.abort();
    }
    drop(inputs);
    thread.join().map_err(|_| RunError::Defect)?;
    drop(server);
    result
}

async fn stop(
    inputs: &mpsc::Sender<Input>,
    end: oneshot::Receiver<Result<(), RunError>>,
) -> Result<(), RunError> {
    // A thread that has ended says why.
    let _heard = inputs.send(Input::Stop).await;
    end.await.map_err(|_| RunError::Defect)?
}

async fn open_enrolment(
    enrol: &EnrolConfig,
    state: &Path,
    files: TlsFiles,
    key: PublicKey,
) -> Result<(Registrar<Disk>, Endpoint), RunError> {
    files.check()?;
    let ca = SiteFiles::of(state).ca()?;
    let registrar = Registrar::open(Disk, enrol_folder(state), ca, key, enrol.days)?;
    let listen = |source| RunError::Enrol { address: enrol.listen.clone(), source };
    let endpoint = Endpoint::bind(&enrol.listen, files, Clock::system()).await.map_err(listen)?;
    let address = endpoint.address().map_err(listen)?;
    tracing::info!(%address, enrolled = registrar.gateways().count(), "gateways can enrol");
    Ok((registrar, endpoint))
}

async fn hand_in(mut incoming: mpsc::Receiver<Incoming>, inputs: mpsc::Sender<Input>) {
    while let Some(incoming) = incoming.recv().await {
        if inputs.send(Input::Enrol(Box::new(incoming))).await.is_err() {
            return;
        }
    }
}

/// Hands the link's events to the core, a bounded number and bytes of them; beyond that the link's own bound holds.
async fn forward(mut events: mpsc::Receiver<Event>, inputs: mpsc::Sender<Input>) {
    let room = Arc::new(Semaphore::new(BATCH_BYTES));
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let input = tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                let bytes = match &event {
                    Event::Message { payload, .. } => payload.len().clamp(1, BATCH_BYTES),
                    _ => 1,
                };
                let held = Arc::clone(&room).acquire_many_owned(bytes as u32).await;
                Input::Event(event, held.expect("the semaphore is never closed"))
            }
            _ = tick.tick() => Input::Tick,
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// Takes the snapshots that are served as metrics.
struct Observer {
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    due: Instant,
    /// Fleets of at most this many gateways are shown one by one.
    gateways: usize,
    certificates: Certificates,
    batches: Durations,
    history_limit_bytes: u64,
    state: PathBuf,
    journal: PathBuf,
}

/// A clock that only rises, for stopwatches.
fn monotonic() -> Duration {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed()
}

/// The core's thread.
struct Desk {
    core: Aggregator,
    registrar: Option<Registrar<Disk>>,
    endpoint: Option<Box<dyn Fn() -> EndpointStats + Send>>,
    /// Why there is no connection, as far as it was told since there was one.
    troubles: BTreeSet<String>,
    inbox: mpsc::Receiver<Input>,
    link: LinkHandle,
    handle: Handle,
    start: Instant,
    figures: FiguresFile,
    manager: Notify,
    observer: Option<Observer>,
}

impl Desk {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn run(mut self) -> Result<(), RunError> {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let mut going = true;
        while going && self.inbox.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
            let mut messages = Vec::with_capacity(batch.len());
            // Their room is given back when they are dealt with.
            let mut held = Vec::with_capacity(batch.len());
            for input in batch.drain(..) {
                match input {
                    Input::Event(Event::Message { topic, payload, .. }, room) => {
                        messages.push((topic, payload));
                        held.push(room);
                    }
                    Input::Event(event, _) => {
                        let before = std::mem::take(&mut messages);
                        self.take(&before)?;
                        self.note(event);
                    }
                    Input::Enrol(incoming) => self.enrol(*incoming),
                    Input::Tick => {}
                    Input::Stop => going = false,
                }
            }
            self.take(&messages)?;
            drop((messages, held));
            let due = self.core.on_tick(self.now())?;
            self.publish(due);
            if self.figures.is_due() {
                self.write_figures();
            }
            // A turn that hangs says nothing, and the manager finds out.
            self.manager.alive(|| self.core.status(self.link.is_connected()));
            self.observe();
        }
        self.manager.stopping("says goodbye");
        // The last word: what the newest figures do not tell yet.
        self.write_figures();
        Ok(())
    }

    fn take(&mut self, messages: &[(String, Vec<u8>)]) -> Result<(), RunError> {
        if messages.is_empty() {
            return Ok(());
        }
        let (now, begun) = (self.now(), Instant::now());
        self.core.set_crowded(self.link.is_crowded());
        let out = self
            .core
            .on_batch(messages.iter().map(|(topic, payload)| (topic.as_str(), payload.as_slice())), now)?;
        if let Some(observer) = &mut self.observer {
            observer.batches.note(begun.elapsed());
        }
        self.publish(out);
        Ok(())
    }

    /// Takes a snapshot when one is due.
    fn observe(&mut self) {
        let now_ms = self.now();
        let Some(observer) = &mut self.observer else { return };
        let taken = Instant::now();
        if observer.due > taken {
            return;
        }
        let snapshot = Snapshot {
            taken,
            figures: self.core.figures_but_gateways(now_ms),
            fleet: self.core.fleet(observer.gateways),
            history_limit_bytes: observer.history_limit_bytes,
            verification: self.core.verification(),
            batches: observer.batches,
            inbox: self.inbox.len(),
            connected: self.link.is_connected(),
            link: self.link.stats(),
            machine: Machine::now(&observer.state, &observer.journal),
            certificates: observer.certificates.ends(taken),
        };
        observer.snapshots.send_replace(Some(Arc::new(snapshot)));
        observer.due = taken + metrics::EVERY;
    }

    /// One request of a gateway that enrols, confirms or renews.
    fn enrol(&mut self, incoming: Incoming) {
        let Some(registrar) = &mut self.registrar else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let core = &self.core;
        let admissible = |name: &str, key: &PublicKey, replaces| core.may_enrol(name, key, replaces);
        let Handled { answer, gateway, refused, admitted } =
            registrar.handle(&incoming.request, incoming.certificate.as_ref(), now, &admissible);
        if let Some((refusal, why)) = &refused {
            tracing::warn!(gateway, from = %incoming.from, refusal = refusal.word(), why, "enrolment refused");
        } else {
            tracing::info!(gateway, from = %incoming.from, "enrolment: a gateway was served");
        }
        if let Some((name, key)) = admitted {
            tracing::info!(gateway = name, key = encode_hex(&key), "enrolled");
            self.core.enrol(&name, &key);
        }
        tracing::debug!(target: "boundary", process = "aggregator", boundary = "enrol.answering", gateway);
        self.handle.spawn(async move { incoming.answer(&answer, refused.is_some()).await });
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Connected { .. } => {
                self.troubles.clear();
                tracing::info!("connected to the broker");
                let current = self.core.on_connected(self.now());
                self.publish(current);
            }
            Event::Disconnected { reason, retry_in } => {
                // Every reason once per outage; further attempts are for the patient reader.
                if self.troubles.len() < MAX_TROUBLES && self.troubles.insert(reason.clone()) {
                    tracing::warn!(reason, ?retry_in, "not connected to the broker; trying on");
                } else {
                    tracing::debug!(reason, ?retry_in, "still not connected to the broker");
                }
            }
            Event::SubscriptionRefused { topic } => {
                tracing::error!(
                    topic,
                    "the broker refused a subscription; allow it in the broker's access rules"
                );
            }
            Event::Oversized { topic, bytes } => {
                self.core.on_taken_out("oversized");
                tracing::warn!(topic, bytes, "a message was too large and was dropped");
            }
            Event::Malformed { topic, bytes } => {
                self.core.on_taken_out("malformed_packet");
                tracing::warn!(topic, bytes, "a message broke the protocol and was dropped");
            }
            _ => {}
        }
    }

    /// Hands messages to the link. One that cannot be sent is dropped: contributions come again, and what is
    /// current is published at the next connection.
    fn publish(&self, messages: Vec<Outgoing>) {
        if messages.is_empty() {
            return;
        }
        self.handle.block_on(async {
            for Outgoing { topic, payload, retain, note } in messages {
                match self.link.publish(topic.as_str(), payload, Qos::AtLeastOnce, retain).await {
                    Ok(()) => {
                        if let Some(note) = note {
                            note.log();
                        }
                    }
                    Err(error) => tracing::debug!(topic, %error, "a message was not sent"),
                }
            }
        });
    }

    fn write_figures(&mut self) {
        let figures = self.core.figures(self.now());
        let enrol = self.registrar.as_ref().map(|registrar| {
            let endpoint = self.endpoint.as_ref().map(|stats| stats()).unwrap_or_default();
            (registrar.figures(), endpoint)
        });
        self.figures.write(figures, enrol, self.start.elapsed(), &self.link);
    }
}

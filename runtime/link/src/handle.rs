//! The owner's end of a link.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use loadonce_wire::limits::packet_bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::config::{LinkConfig, Qos, check_topic};
use crate::driver::Driver;
use crate::stats::Counters;
use crate::tunnel::socket_folder;
use crate::{Event, LinkStats};

/// How long a link may take to say goodbye before it is cut off.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a link refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The broker's URL cannot be used.
    #[error("{url:?} is not a broker: {why}; write mqtt://host, mqtt://host:port, or mqtts:// for TLS")]
    BrokerUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A setting cannot be used.
    #[error("the link cannot be set up: {0}")]
    Config(String),
    /// The tunnel's socket or the random seed is not to be had.
    #[error(
        "the link's private socket cannot be made in the folder for temporary files: {0}; set TMPDIR to a short path that can be written"
    )]
    Tunnel(#[source] io::Error),
    /// No seed for the jitter.
    #[error("the system gives no random bytes: {0}")]
    Randomness(String),
    /// Not a topic to publish on.
    #[error("{0:?} is not a topic: it must not be empty or contain + or #")]
    Topic(String),
    /// The message is larger than the link sends.
    #[error("a message of {bytes} bytes on {topic} exceeds the bound of {max} bytes; send it in pieces")]
    TooLarge {
        /// Topic.
        topic: String,
        /// Size of the MQTT packet in bytes.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// There is no connection; publish again after the next `Connected`. Counted.
    #[error("the broker is not connected; the message was dropped")]
    NotConnected,
    /// The queue is full (only from `try_publish`). Counted.
    #[error("the link's queue is full; the message was dropped")]
    QueueFull,
    /// The link was closed.
    #[error("the link is closed")]
    Closed,
}

/// A message on its way to the connection with this number.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) connection: u64,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// Its share of the queue's bytes, given back when it is dropped.
    pub(crate) room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) enum Command {
    Publish(Outgoing),
    Close,
}

/// What the handle and the driver share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) counters: Arc<Counters>,
    /// The number of the connection that is up; 0 while there is none.
    pub(crate) connection: AtomicU64,
    /// How many callers wait in `publish`, and the word to the driver that one more does.
    pub(crate) waiting: AtomicUsize,
    pub(crate) stir: Notify,
    /// Half of the room for events is taken.
    pub(crate) crowded: AtomicBool,
}

/// Counts a caller that waits, until dropped.
struct WaitingCaller<'a>(&'a Shared);

impl<'a> WaitingCaller<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        shared.stir.notify_one();
        Self(shared)
    }
}

impl Drop for WaitingCaller<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Starts links.
#[derive(Debug)]
pub struct Link;

impl Link {
    /// Starts a link on the current tokio runtime; it connects, and reconnects, until it is closed, all
    /// its handles are dropped, or its receiver is (noticed at the next event). The receiver must be read: see
    /// [`LinkConfig::event_bytes`](crate::LinkConfig).
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and I/O enabled.
    pub fn start(config: LinkConfig) -> Result<(LinkHandle, mpsc::Receiver<Event>), LinkError> {
        config.check()?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| LinkError::Randomness(error.to_string()))?;
        let dir = socket_folder().map_err(LinkError::Tunnel)?;
        let shared = Arc::new(Shared::default());
        let (commands, commands_rx) = mpsc::channel(config.queue_messages);
        // One: the queue with the bound of bytes is the outlet.
        let (events, events_rx) = mpsc::channel(1);
        let (done, done_rx) = watch::channel(false);
        let (max_packet_bytes, queue_bytes) = (config.max_packet_bytes, config.queue_bytes);
        let driver =
            Driver::new(config, Arc::clone(&shared), commands_rx, events, dir, u64::from_le_bytes(seed));
        let task = tokio::spawn(async move {
            // Told by the sender's drop, so also when the driver is aborted.
            let _done = done;
            driver.run().await;
        });
        let handle = LinkHandle {
            commands,
            shared,
            room: Arc::new(Semaphore::new(queue_bytes)),
            queue_bytes,
            max_packet_bytes,
            task: task.abort_handle(),
            done: done_rx,
        };
        Ok((handle, events_rx))
    }
}

/// Publishes on a link; clones serve the same link. When the last is dropped, the link closes.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    queue_bytes: usize,
    max_packet_bytes: usize,
    task: AbortHandle,
    done: watch::Receiver<bool>,
}

impl LinkHandle {
    /// Queues a message, waiting for room. `Ok` means queued: if the connection breaks it is gone.
    pub async fn publish(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Vec<u8>>,
        qos: Qos,
        retain: bool,
    ) -> Result<(), LinkError> {
        let (topic, payload) = (topic.into(), payload.into());
        let (connection, bytes) = self.admit(&topic, &payload)?;
        let _waiting = WaitingCaller::new(&self.shared);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| LinkError::Closed)?;
        let outgoing = Outgoing { connection, topic, payload, qos, retain, room };
        self.commands.send(Command::Publish(outgoing)).await.map_err(|_| LinkError::Closed)
    }

    /// Queues a message if there is room now.
    pub fn try_publish(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Vec<u8>>,
        qos: Qos,
        retain: bool,
    ) -> Result<(), LinkError> {
        let (topic, payload) = (topic.into(), payload.into());
        let (connection, bytes) = self.admit(&topic, &payload)?;
        let full = || {
            Counters::add(&self.shared.counters.dropped_publishes, 1);
            LinkError::QueueFull
        };
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|error| match error {
            TryAcquireError::NoPermits => full(),
            TryAcquireError::Closed => LinkError::Closed,
        })?;
        let outgoing = Outgoing { connection, topic, payload, qos, retain, room };
        self.commands.try_send(Command::Publish(outgoing)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => full(),
            mpsc::error::TrySendError::Closed(_) => LinkError::Closed,
        })
    }

    /// Whether [`try_publish`](Self::try_publish) would find room for this message now. `true` for one that it
    /// refuses for another reason.
    pub fn has_room(&self, topic: &str, payload: &[u8]) -> bool {
        let bytes = packet_bytes(topic.len(), payload.len()).min(self.queue_bytes);
        self.room.available_permits() >= bytes && self.commands.capacity() > 0
    }

    /// Whether the connection is up and subscribed.
    pub fn is_connected(&self) -> bool {
        self.shared.connection.load(Ordering::Acquire) != 0
    }

    /// Whether more events wait for their owner than half the bound allows. From there on the broker keeps what
    /// comes, so an owner that wants to be asked for less must say so now.
    pub fn is_crowded(&self) -> bool {
        self.shared.crowded.load(Ordering::Acquire)
    }

    /// The counters.
    pub fn stats(&self) -> LinkStats {
        self.shared.counters.snapshot()
    }

    /// Sends what is queued and a DISCONNECT, so that the will is not published, and ends the link. After 10 s
    /// it is cut off.
    pub async fn close(&self) {
        let mut done = self.done.clone();
        let goodbye = async {
            if self.commands.send(Command::Close).await.is_ok() {
                // The sender is only ever dropped.
                let _gone = done.changed().await;
            }
        };
        if timeout(CLOSE_TIMEOUT, goodbye).await.is_err() {
            tracing::warn!("the link did not close in time and is cut off");
            self.abort();
        }
    }

    /// Cuts the link off without a word; the broker publishes the will.
    pub fn abort(&self) {
        self.shared.connection.store(0, Ordering::Release);
        self.task.abort();
    }

    /// The number of the connection and the message's share of the queue.
    fn admit(&self, topic: &str, payload: &[u8]) -> Result<(u64, u32), LinkError> {
        check_topic(topic)?;
        let bytes = packet_bytes(topic.len(), payload.len());
        if bytes > self.max_packet_bytes {
            return Err(LinkError::TooLarge { topic: topic.to_owned(), bytes, max: self.max_packet_bytes });
        }
        let connection = self.shared.connection.load(Ordering::Acquire);
        if connection == 0 {
            if self.commands.is_closed() {
                return Err(LinkError::Closed);
            }
            Counters::add(&self.shared.counters.dropped_publishes, 1);
            return Err(LinkError::NotConnected);
        }
        // A packet larger than the whole queue may still pass, alone.
        Ok((connection, bytes.min(self.queue_bytes) as u32))
    }
}

//! The task behind a link: connect, subscribe, serve, wait, again.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rumqttc::{
    AsyncClient, ClientError, ConnectionError, EventLoop, LastWill, MqttOptions, NetworkOptions,
    Outgoing as Sent, Packet, QoS, SubscribeFilter, SubscribeReasonCode, Transport,
};
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Waiting;
use crate::config::{LinkConfig, Qos};
use crate::event::Event;
use crate::filter::Refused;
use crate::handle::{Command, Outgoing, Shared};
use crate::outlet::{Outlet, OwnerGone};
use crate::stats::Counters;
use crate::tunnel::{self, Dialer, LINGER, Mouth, socket_folder};

/// Time for a CONNACK, and for all SUBACKs together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for what is queued and the DISCONNECT.
const GOODBYE: Duration = Duration::from_secs(5);
/// Requests that wait inside rumqttc; the queue with the byte bound is before it.
const REQUESTS: usize = 4;
/// Publishes at QoS 1 that the broker has not confirmed: as many as AWS IoT takes. Their bytes are bounded by
/// the queue's room, which they hold until they are confirmed.
const INFLIGHT: u16 = 100;
/// Filters in one SUBSCRIBE: what AWS IoT takes.
const FILTERS: usize = 8;
/// Connections in a row that ended soon after they were whole, from which on somebody else may bear this name.
const PUSHED_OUT: u32 = 3;

/// How a connection ended.
enum End {
    /// The owner wants no more.
    Closed,
    Lost(String),
}

type Request = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>;

pub(crate) struct Driver {
    config: LinkConfig,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    outlet: Outlet,
    dir: TempDir,
    waiting: Waiting,
    dialer: Dialer,
    connections: u64,
    /// Connections in a row that were whole and ended before they counted as stable.
    brief: u32,
}

impl Driver {
    pub(crate) fn new(
        config: LinkConfig,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        dir: TempDir,
        seed: u64,
    ) -> Self {
        let outlet = Outlet::new(events, config.event_bytes, Arc::clone(&shared.counters));
        let waiting = Waiting::new(config.backoff, seed);
        let dialer = Dialer { broker: config.broker.clone(), tls: config.tls.clone() };
        Self { config, shared, commands, outlet, dir, waiting, dialer, connections: 0, brief: 0 }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let (end, connected_at) = self.connection().await;
            self.outlet.hold(false);
            let End::Lost(mut reason) = end else { break };
            match connected_at.map(|since| since.elapsed() >= self.config.stable_after) {
                Some(true) => {
                    self.waiting.reset();
                    self.brief = 0;
                }
                Some(false) => {
                    self.brief = self.brief.saturating_add(1);
                    if self.brief >= PUSHED_OUT {
                        // A broker ends the older of two connections of one client id.
                        reason = format!(
                            "{reason}, again soon after it began: is another one called {}?",
                            self.config.client_id
                        );
                    }
                }
                // Not even connected: that has other causes.
                None => {}
            }
            let retry_in = self.waiting.pause();
            // The owner says it to a person, once.
            tracing::debug!(broker = %self.config.broker, %reason, ?retry_in, "link is down");
            self.outlet.push(Event::Disconnected { reason, retry_in });
            if self.wait(Instant::now() + retry_in).await.is_err() {
                break;
            }
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.drop_command(&command);
        }
    }

    /// Waits, and until the owner has taken all events: so they cannot pile up over many attempts.
    async fn wait(&mut self, until: Instant) -> Result<(), End> {
        while Instant::now() < until || !self.outlet.is_empty() {
            tokio::select! {
                () = sleep_until(until), if Instant::now() < until => {}
                command = self.commands.recv() => match command {
                    Some(Command::Close) | None => return Err(End::Closed),
                    Some(command) => self.drop_command(&command),
                },
                delivered = self.outlet.deliver(), if self.outlet.has_deliverable() => {
                    delivered.map_err(|OwnerGone| End::Closed)?;
                }
            }
        }
        Ok(())
    }

    fn drop_command(&self, command: &Command) {
        if matches!(command, Command::Publish(_)) {
            Counters::add(&self.shared.counters.dropped_publishes, 1);
        }
    }

    /// A fresh socket for rumqttc. The folder of sockets is long idle between connections, so whatever cleans
    /// temporary files may have taken it.
    fn mouth(&mut self) -> std::io::Result<Mouth> {
        let name = format!("{}.sock", self.connections);
        match Mouth::open(self.dir.path().join(&name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.dir = socket_folder()?;
                Mouth::open(self.dir.path().join(&name))
            }
            other => other,
        }
    }

    /// One connection from dialling to its end, and since when it was whole.
    async fn connection(&mut self) -> (End, Option<Instant>) {
        self.connections += 1;
        let dialled = {
            let mut dial = pin!(self.dialer.dial(&self.shared.counters));
            loop {
                tokio::select! {
                    dialled = &mut dial => break dialled,
                    command = self.commands.recv() => match command {
                        Some(Command::Close) | None => return (End::Closed, None),
                        Some(_) => Counters::add(&self.shared.counters.dropped_publishes, 1),
                    },
                }
            }
        };
        let (broker, mouth) = match (dialled, self.mouth()) {
            (Ok(broker), Ok(mouth)) => (broker, mouth),
            (Err(reason), _) => {
                Counters::add(&self.shared.counters.failed_connects, 1);
                return (End::Lost(reason), None);
            }
            (_, Err(error)) => return (End::Lost(format!("the tunnel cannot be opened: {error}")), None),
        };
        let (client, eventloop) = client(&self.config, &mouth);
        let (gate, reason) = (watch::Sender::new(false), Arc::new(OnceLock::new()));
        let tunnel =
            tunnel::run(mouth, broker, self.config.max_packet_bytes, gate.subscribe(), Arc::clone(&reason));
        // In a set, so that it ends with this future, whatever ends it.
        let mut tunnels = JoinSet::new();
        tunnels.spawn(tunnel);
        self.outlet.hold(true);
        let mut serving = Serving {
            number: self.connections,
            client,
            gate,
            subscribed: 0,
            request: None,
            handed: VecDeque::new(),
            unconfirmed: HashMap::new(),
            pinging: false,
            deadline: Some(Instant::now() + 2 * HANDSHAKE),
            closing: false,
            connected_at: None,
        };
        let end = serving.serve(self, eventloop).await;
        self.shared.connection.store(0, Ordering::Release);
        Counters::add(&self.shared.counters.dropped_publishes, serving.handed.len() as u64);
        let end = match end {
            End::Closed => {
                // The client is gone: what it wrote last, the DISCONNECT, is still carried across.
                if timeout(2 * LINGER, tunnels.join_next()).await.is_err() {
                    tracing::debug!("the tunnel did not drain in time");
                }
                End::Closed
            }
            // The tunnel saw the socket, so it knows better than the client's "aborted".
            End::Lost(seen) => End::Lost(reason.get().cloned().unwrap_or(seen)),
        };
        (end, serving.connected_at)
    }
}

/// The state of one connection.
struct Serving {
    number: u64,
    client: AsyncClient,
    /// Shut while nothing is to be read from the broker.
    gate: watch::Sender<bool>,
    /// Filters asked for so far; confirmed, but for those of the SUBSCRIBE on its way.
    subscribed: usize,
    /// What is being handed to rumqttc.
    request: Option<Request>,
    /// The queue's room held by publishes that rumqttc has not written yet, in order; at QoS 1 it is held on
    /// until the packet identifier is confirmed.
    handed: VecDeque<(Qos, OwnedSemaphorePermit)>,
    unconfirmed: HashMap<u16, OwnedSemaphorePermit>,
    /// A ping has no answer yet.
    pinging: bool,
    deadline: Option<Instant>,
    closing: bool,
    connected_at: Option<Instant>,
}

impl Serving {
    async fn serve(&mut self, driver: &mut Driver, mut eventloop: EventLoop) -> End {
        loop {
            let polled = {
                // Not dropped before it is ready: rumqttc would lose what it has in hand.
                let mut poll = pin!(eventloop.poll());
                loop {
                    self.set_gate(driver);
                    let idle = self.request.is_none() && !self.closing;
                    tokio::select! {
                        polled = &mut poll => break polled,
                        command = driver.commands.recv(), if idle => self.command(driver, command),
                        done = ready(&mut self.request) => {
                            self.request = None;
                            if done.is_err() {
                                return End::Lost("the client refused a request".to_owned());
                            }
                        }
                        delivered = driver.outlet.deliver(), if driver.outlet.has_deliverable() => {
                            if let Err(OwnerGone) = delivered {
                                return End::Closed;
                            }
                        }
                        // Only to look at the gate again.
                        () = driver.shared.stir.notified() => {}
                        () = at(self.deadline) => return self.too_late(driver),
                    }
                }
            };
            match polled {
                Ok(rumqttc::Event::Incoming(packet)) => {
                    if let Err(end) = self.incoming(driver, packet) {
                        return end;
                    }
                }
                Ok(rumqttc::Event::Outgoing(Sent::Publish(identifier))) => {
                    if let Some((Qos::AtLeastOnce, room)) = self.handed.pop_front() {
                        self.unconfirmed.insert(identifier, room);
                    }
                }
                Ok(rumqttc::Event::Outgoing(Sent::PingReq)) => self.pinging = true,
                Ok(rumqttc::Event::Outgoing(Sent::Disconnect)) => return End::Closed,
                Ok(rumqttc::Event::Outgoing(_)) => {}
                Err(_) if self.closing => return End::Closed,
                Err(error) => return End::Lost(explain(&error)),
            }
        }
    }

    /// Shuts the gate when too many events wait, but never on an answer that somebody waits for: it comes
    /// behind the messages.
    fn set_gate(&self, driver: &Driver) {
        let awaited = self.connected_at.is_none()
            || self.closing
            || self.pinging
            || !self.handed.is_empty()
            || driver.shared.waiting.load(Ordering::Acquire) > 0;
        let crowded = driver.outlet.is_half_full();
        driver.shared.crowded.store(crowded, Ordering::Release);
        let shut = crowded && !awaited;
        self.gate.send_if_modified(|gate| std::mem::replace(gate, shut) != shut);
    }

    fn command(&mut self, driver: &Driver, command: Option<Command>) {
        match command {
            Some(Command::Publish(outgoing)) if outgoing.connection == self.number => {
                let Outgoing { topic, payload, qos, retain, room, .. } = outgoing;
                self.handed.push_back((qos, room));
                let client = self.client.clone();
                self.request =
                    Some(Box::pin(async move { client.publish(topic, quality(qos), retain, payload).await }));
            }
            // Queued for a connection that is gone.
            Some(Command::Publish(outgoing)) => driver.drop_command(&Command::Publish(outgoing)),
            Some(Command::Close) | None => self.close(),
        }
    }

    fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            self.deadline = Some(Instant::now() + GOODBYE);
            let (client, before) = (self.client.clone(), self.request.take());
            self.request = Some(Box::pin(async move {
                if let Some(before) = before {
                    before.await?;
                }
                client.disconnect().await
            }));
        }
    }

    fn too_late(&self, driver: &mut Driver) -> End {
        if self.closing {
            return End::Closed;
        }
        let asked = (self.subscribed - self.in_question(driver).len())..self.subscribed;
        for (topic, _) in &driver.config.subscriptions[asked] {
            refuse_subscription(&driver.shared, &mut driver.outlet, topic);
        }
        End::Lost("the broker did not confirm the subscriptions in time".to_owned())
    }

    /// The filters of the SUBSCRIBE that was sent last.
    fn in_question<'a>(&self, driver: &'a Driver) -> &'a [(String, Qos)] {
        let first = self.subscribed.saturating_sub(1) / FILTERS * FILTERS;
        &driver.config.subscriptions[first..self.subscribed]
    }

    fn incoming(&mut self, driver: &mut Driver, packet: Packet) -> Result<(), End> {
        match packet {
            _ if self.closing => Ok(()),
            Packet::ConnAck(_) => {
                self.deadline = Some(Instant::now() + HANDSHAKE);
                self.subscribe(driver)
            }
            Packet::SubAck(ack) if self.connected_at.is_none() => {
                let asked = self.in_question(driver).to_vec();
                let refused = asked.iter().enumerate().filter(|(index, _)| {
                    !matches!(ack.return_codes.get(*index), Some(SubscribeReasonCode::Success(_)))
                });
                let mut any = false;
                for (_, (topic, _)) in refused {
                    any = true;
                    refuse_subscription(&driver.shared, &mut driver.outlet, topic);
                }
                if any {
                    return Err(End::Lost("the broker refused a subscription".to_owned()));
                }
                self.subscribe(driver)
            }
            Packet::Publish(message) => {
                match Refused::from_message(&message.topic, &message.payload) {
                    Some(refused) => report(driver, refused),
                    None => driver.outlet.offer(Event::Message {
                        topic: message.topic,
                        payload: message.payload.into(),
                        retain: message.retain,
                    }),
                }
                Ok(())
            }
            Packet::PubAck(ack) => {
                self.unconfirmed.remove(&ack.pkid);
                Ok(())
            }
            Packet::PingResp => {
                self.pinging = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks for the next filters; when there are none left, the connection is whole.
    fn subscribe(&mut self, driver: &mut Driver) -> Result<(), End> {
        let left = &driver.config.subscriptions[self.subscribed..];
        if left.is_empty() {
            self.deadline = None;
            self.connected_at = Some(Instant::now());
            driver.shared.connection.store(self.number, Ordering::Release);
            driver.outlet.connected(Event::Connected { session: false });
            tracing::info!(broker = %driver.config.broker, connection = self.number, "link is up");
            return Ok(());
        }
        let filters = &left[..left.len().min(FILTERS)];
        self.subscribed += filters.len();
        let filters = filters.iter().map(|(topic, qos)| SubscribeFilter::new(topic.clone(), quality(*qos)));
        // Nothing is published before the connection is whole, so there is room.
        self.client
            .try_subscribe_many(filters)
            .map_err(|_| End::Lost("the client refused to subscribe".to_owned()))
    }
}

fn client(config: &LinkConfig, mouth: &Mouth) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(config.client_id.clone(), mouth.path().to_string_lossy(), 0);
    options.set_transport(Transport::Unix);
    options.set_keep_alive(config.keep_alive);
    options.set_clean_session(true);
    options.set_inflight(INFLIGHT);
    options.set_max_packet_size(config.max_packet_bytes, config.max_packet_bytes);
    if let Some(credentials) = &config.credentials {
        options.set_credentials(credentials.user.clone(), credentials.password.clone());
    }
    if let Some(will) = &config.will {
        options.set_last_will(LastWill::new(
            will.topic.clone(),
            will.payload.clone(),
            quality(will.qos),
            will.retain,
        ));
    }
    // A client for each connection: an old one would send again what its owner has given up.
    let (client, mut eventloop) = AsyncClient::new(options, REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(HANDSHAKE.as_secs());
    eventloop.set_network_options(network);
    (client, eventloop)
}

fn quality(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}

fn refuse_subscription(shared: &Shared, outlet: &mut Outlet, topic: &str) {
    Counters::add(&shared.counters.subscription_refusals, 1);
    tracing::error!(topic, "the broker refused or did not confirm the subscription; check its access rules");
    outlet.push(Event::SubscriptionRefused { topic: topic.to_owned() });
}

fn report(driver: &mut Driver, refused: Refused) {
    let Refused { topic, bytes, oversized, .. } = refused;
    tracing::warn!(topic, bytes, oversized, "message refused");
    let counters = &driver.shared.counters;
    Counters::add(if oversized { &counters.oversized } else { &counters.malformed }, 1);
    driver.outlet.offer(if oversized {
        Event::Oversized { topic, bytes }
    } else {
        Event::Malformed { topic, bytes }
    });
}

fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refused the connection ({code:?}); check user, password and client id")
        }
        ConnectionError::NetworkTimeout => "the broker did not answer CONNECT in time".to_owned(),
        ConnectionError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the broker closed the connection".to_owned()
        }
        other => other.to_string(),
    }
}

async fn ready(request: &mut Option<Request>) -> Result<(), ClientError> {
    match request {
        Some(request) => request.await,
        None => pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

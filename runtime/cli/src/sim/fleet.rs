//! All gateways of a simulation on one thread: sockets that do not block, timers, and a bound on how many have work
//! under way.

use loadonce_control::{MANIFEST_DOMAIN, POINTER_DOMAIN, Pointer, Presence, Signed, TaskManifest};
use loadonce_trust::PublicKey;
use loadonce_wire::{Status, Topic};
use mio::{Events, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::SimError;
use super::connection::{Connection, Stage};
use super::gateway::{Answer, Common, Gateway, Heard};
use super::mqtt::{self, Packet, Will};
use super::null::Null;

/// Token of the null subscriber's messages.
const NULL: Token = Token(usize::MAX);
/// How often timers are looked at.
const TICK_MS: u64 = 50;
/// Connections that are opened at once at the start: a broker's queue of new connections is about as long.
const OPENING: usize = 100;
/// First and longest wait before dialling again, ms, as an agent waits.
const BACKOFF_MS: (u64, u64) = (200, 300_000);
/// Bytes read at once.
const SCRATCH: usize = 128 * 1024;

/// What is counted over the whole run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) refused: u64,
    pub(crate) wrong_frames: u64,
    pub(crate) reconnects: u64,
    pub(crate) failed_dials: u64,
    /// Bytes of PUBLISH packets with work, each time it was sent.
    pub(crate) sent_bytes: u64,
    pub(crate) fetched: u64,
    pub(crate) fetched_bytes: u64,
    pub(crate) mismatches: u64,
}

/// How a gateway stands with its broker and its work.
#[derive(Debug, Default, Clone, Copy)]
struct Place {
    /// When to dial again, ms.
    retry_ms: u64,
    attempts: u32,
    /// Its work may be sent.
    started: bool,
    /// It was sent to the null subscriber.
    blind: bool,
    /// Newest version a pointer named to it; `None` before the first pointer.
    version: Option<u64>,
}

pub(crate) struct Fleet {
    site: String,
    task: String,
    address: SocketAddr,
    pub(crate) common: Common,
    poll: Poll,
    begun: Instant,
    pub(crate) gateways: Vec<Gateway>,
    connections: Vec<Option<Connection>>,
    places: Vec<Place>,
    up: usize,
    opening: usize,
    /// Whether new connections are bounded by [`OPENING`]; not after a failure, for gateways know nothing of each other.
    gentle: bool,
    pub(crate) aggregator: Option<PublicKey>,
    manifest: (Vec<u8>, Option<TaskManifest>),
    pointer: (Vec<u8>, Option<Pointer>),
    queue: VecDeque<usize>,
    active: usize,
    window: usize,
    fetching: Option<([u8; 32], u32)>,
    /// What a fetched file must be; without it the first one is kept.
    expected: Option<Vec<u8>>,
    pub(crate) kept: Option<Vec<u8>>,
    pub(crate) unanswered: usize,
    /// Acknowledgements whose signature is still to be checked: not while the clock runs, for a gateway has a processor
    /// of its own.
    pub(crate) acks: Vec<Answer>,
    pub(crate) counts: Counts,
    pub(crate) lost_at: Option<Instant>,
    null: Option<Null>,
}

impl Fleet {
    pub(crate) fn new(
        address: SocketAddr,
        (site, task): (&str, &str),
        common: Common,
        gateways: Vec<Gateway>,
        window: usize,
    ) -> Result<Self, SimError> {
        let count = gateways.len();
        Ok(Self {
            site: site.to_owned(),
            task: task.to_owned(),
            address,
            common,
            poll: Poll::new().map_err(SimError::System)?,
            begun: Instant::now(),
            gateways,
            connections: (0..count).map(|_| None).collect(),
            places: vec![Place::default(); count],
            up: 0,
            opening: 0,
            gentle: true,
            aggregator: None,
            manifest: (Vec::new(), None),
            pointer: (Vec::new(), None),
            queue: VecDeque::new(),
            active: 0,
            window,
            fetching: None,
            expected: None,
            kept: None,
            unanswered: 0,
            acks: Vec::new(),
            counts: Counts::default(),
            lost_at: None,
            null: None,
        })
    }

    /// Adds a subscriber that stands in for the aggregator and does nothing but count.
    pub(crate) fn with_null(&mut self) -> Result<(), SimError> {
        let waker = mio::Waker::new(self.poll.registry(), NULL).map_err(SimError::System)?;
        self.null = Some(Null::start(self.address, &self.site, waker).map_err(SimError::System)?);
        Ok(())
    }

    /// Milliseconds over which gateways that return together spread themselves.
    fn spread(&self) -> u64 {
        self.manifest().map_or(0, |manifest| (manifest.sync.spread_s * 1000.0) as u64)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    pub(crate) fn manifest(&self) -> Option<&TaskManifest> {
        self.manifest.1.as_ref()
    }

    pub(crate) fn pointer(&self) -> Option<&Pointer> {
        self.pointer.1.as_ref()
    }

    pub(crate) fn connected(&self) -> usize {
        self.up
    }

    pub(crate) fn idle(&self) -> bool {
        self.queue.is_empty() && self.active == 0
    }

    /// Whether every gateway was told of `version`.
    pub(crate) fn all_at(&self, version: u64) -> bool {
        self.places.iter().all(|place| place.version == Some(version))
    }

    /// All gateways may send the work they hold, at most `window` at a time; 0 for all at once.
    pub(crate) fn send(&mut self, window: usize) {
        self.send_some(window, |_| true);
    }

    /// The gateways for which `which` holds may send, at most `window` at a time; the others hold their work.
    pub(crate) fn send_some(&mut self, window: usize, which: impl Fn(usize) -> bool) {
        self.window = window;
        self.unanswered = self.gateways.iter().filter(|gateway| gateway.holds_work()).count();
        self.queue = (0..self.gateways.len()).filter(|index| which(*index)).collect();
        self.fetching = None;
        self.start_more();
    }

    /// Those that still hold their work may send it, too.
    pub(crate) fn release(&mut self) {
        self.queue = (0..self.gateways.len()).filter(|index| !self.places[*index].started).collect();
        self.start_more();
    }

    /// All gateways fetch a module file, which must be `expected`.
    pub(crate) fn fetch(&mut self, file: ([u8; 32], u32), expected: Option<Vec<u8>>) {
        self.queue = (0..self.gateways.len()).collect();
        (self.fetching, self.expected, self.kept) = (Some(file), expected, None);
        self.start_more();
    }

    /// Serves everything until `done`; `at_most` without it is an error that says what was waited for.
    pub(crate) fn run(
        &mut self,
        what: &str,
        at_most: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), SimError> {
        let begun = Instant::now();
        let mut events = Events::with_capacity(1024);
        let mut scratch = vec![0; SCRATCH];
        let mut next_tick = 0;
        while !done(self) {
            if begun.elapsed() > at_most {
                let unfinished = self.active + self.queue.len();
                return Err(SimError::Late {
                    what: what.to_owned(),
                    seconds: at_most.as_secs(),
                    up: self.up,
                    unfinished,
                });
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(TICK_MS))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(SimError::System(error));
                }
                _ => {}
            }
            for event in &events {
                if event.token() == NULL {
                    self.drain_null()?;
                    continue;
                }
                let index = event.token().0;
                let Some(mut connection) = self.connections[index].take() else { continue };
                let served = connection
                    .serve(event, &mut scratch, |connection, packet| self.packet(index, connection, packet));
                match served {
                    Ok(()) => self.connections[index] = Some(connection),
                    Err(error) => self.lost(index, &connection, &error),
                }
            }
            self.start_more();
            if self.now() >= next_tick {
                next_tick = self.now() + TICK_MS;
                self.tick()?;
            }
        }
        Ok(())
    }

    /// Says goodbye, so that no last will is published.
    pub(crate) fn close(mut self) {
        for connection in self.connections.iter_mut().flatten() {
            connection.push(mqtt::DISCONNECT.to_vec());
            // Who does not hear it takes the end of the connection for one.
            let _best_effort = connection.flush();
        }
    }

    fn tick(&mut self) -> Result<(), SimError> {
        let now = self.now();
        for index in 0..self.gateways.len() {
            let place = self.places[index];
            if self.connections[index].is_none() {
                if now >= place.retry_ms && !(self.gentle && self.opening >= OPENING) {
                    self.dial(index)?;
                }
            } else if place.started {
                self.send_due(index);
            }
        }
        Ok(())
    }

    fn dial(&mut self, index: usize) -> Result<(), SimError> {
        let gateway = &self.gateways[index];
        let topic = Topic::State { gateway: &gateway.name }.text(&self.site);
        let (hello, token) = (
            mqtt::connect(&gateway.name, Some(Will { topic: &topic, payload: &Gateway::will() })),
            Token(index),
        );
        match Connection::dial(self.address, self.poll.registry(), token, hello) {
            Ok(connection) => {
                self.opening += 1;
                self.connections[index] = Some(connection);
                Ok(())
            }
            // No file or port left is no matter of patience.
            Err(error) if matches!(error.raw_os_error(), Some(23 | 24 | 99)) => Err(SimError::System(error)),
            Err(_) => {
                self.wait(index);
                Ok(())
            }
        }
    }

    fn lost(&mut self, index: usize, connection: &Connection, error: &io::Error) {
        match connection.stage {
            Stage::Up => {
                self.up -= 1;
                self.lost_at.get_or_insert_with(Instant::now);
                self.gentle = false;
                self.counts.reconnects += 1;
                self.places[index].attempts = 0;
            }
            Stage::Opening => {
                self.opening -= 1;
                self.counts.failed_dials += 1;
            }
        }
        tracing::debug!(gateway = self.gateways[index].name, %error, "connection lost");
        self.wait(index);
    }

    /// Exponential backoff with full jitter, as the link does it.
    fn wait(&mut self, index: usize) {
        let now = self.now();
        let place = &mut self.places[index];
        let ceiling = (BACKOFF_MS.0 << place.attempts.min(16)).min(BACKOFF_MS.1);
        place.attempts += 1;
        place.retry_ms = now + self.gateways[index].draw() % ceiling;
    }

    fn packet(&mut self, index: usize, connection: &mut Connection, packet: Packet<'_>) {
        match packet {
            Packet::ConnAck(0) => {
                let name = &self.gateways[index].name;
                let prefix = loadonce_wire::topic::PREFIX;
                let (site, task) = (&self.site, &self.task);
                let (down, state) =
                    (Topic::Down { gateway: name }.text(site), Topic::State { gateway: name }.text(site));
                let manifest = Topic::Task { task }.text(site);
                let pointer = format!("{prefix}/{site}/task/{task}/module/+");
                connection.push(mqtt::subscribe(&[&down, &state, &manifest, &pointer]));
            }
            Packet::SubAck(true) => {
                connection.stage = Stage::Up;
                self.opening -= 1;
                self.up += 1;
                self.birth(index, connection);
                let (now, spread) = (self.now(), self.spread());
                self.gateways[index].connected(now, spread);
                if self.places[index].started {
                    self.send_to(index, connection);
                }
            }
            Packet::Publish { topic, payload, retain, .. } => {
                self.message(index, connection, topic, payload, retain);
            }
            // A refusal ends in the broker's closing, or the run's patience.
            Packet::ConnAck(_) | Packet::SubAck(false) | Packet::PubAck | Packet::Other => {}
        }
    }

    fn birth(&self, index: usize, connection: &mut Connection) {
        let gateway = &self.gateways[index];
        let payload = gateway.birth(&self.common, self.places[index].version.unwrap_or(0));
        let topic = Topic::State { gateway: &gateway.name }.text(&self.site);
        connection.publish(&topic, true, &payload);
    }

    fn message(
        &mut self,
        index: usize,
        connection: &mut Connection,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) {
        let site = std::mem::take(&mut self.site);
        let parsed = Topic::parse(&site, topic);
        self.site = site;
        match parsed {
            Some(Topic::Down { .. }) => {
                let now = self.now();
                let heard = self.gateways[index].frame(payload, now);
                self.heard(index, heard);
                // A status asks for chunks, and more of a file may have to be asked for.
                if self.places[index].started {
                    self.send_to(index, connection);
                }
            }
            Some(Topic::State { .. }) => {
                if let Ok(Presence::Down { .. }) = serde_json::from_slice(payload) {
                    self.birth(index, connection);
                }
            }
            Some(Topic::Task { .. }) => {
                self.believe_manifest(payload);
                // The aggregator publishes manifests when it connects: what was under way did not reach it.
                if !retain {
                    let (now, spread) = (self.now(), self.spread());
                    self.gateways[index].returned(now, spread);
                }
            }
            Some(Topic::Pointer { .. }) => {
                self.believe_pointer(payload);
                if let Some(pointer) = &self.pointer.1 {
                    self.places[index].version =
                        Some(pointer.stable.as_ref().map_or(0, |stable| stable.version));
                }
            }
            _ => self.counts.wrong_frames += 1,
        }
    }

    /// The same bytes reach every gateway; they are verified once.
    fn believe_manifest(&mut self, payload: &[u8]) {
        if self.manifest.0 != payload {
            let opened = self.open(MANIFEST_DOMAIN, payload);
            self.manifest = (payload.to_vec(), opened);
        }
    }

    fn believe_pointer(&mut self, payload: &[u8]) {
        if self.pointer.0 != payload {
            let opened: Option<Pointer> = self.open(POINTER_DOMAIN, payload);
            let newer = match (&opened, &self.pointer.1) {
                (Some(new), Some(old)) => new.serial >= old.serial,
                (new, _) => new.is_some(),
            };
            if newer {
                self.pointer = (payload.to_vec(), opened);
            }
        }
    }

    /// The first signer is believed from then on.
    fn open<T: for<'de> serde::Deserialize<'de>>(&mut self, domain: &[u8], payload: &[u8]) -> Option<T> {
        let signed = Signed::parse(payload).ok()?;
        let trusted = match self.aggregator {
            Some(key) => key,
            None => *self.aggregator.insert(signed.signer().ok()?),
        };
        let opened = signed.open(domain, &trusted);
        if let Err(error) = &opened {
            self.counts.wrong_frames += 1;
            tracing::error!(%error, "a control message is not believed");
        }
        opened.ok()
    }

    fn heard(&mut self, index: usize, heard: Heard) {
        match heard {
            Heard::Nothing => return,
            Heard::Wrong(what) => {
                self.counts.wrong_frames += 1;
                tracing::error!(what, "a wrong frame");
                return;
            }
            Heard::Acked(answer) => {
                if let Some(reason) = answer.refusal() {
                    self.counts.refused += 1;
                    tracing::error!(gateway = self.gateways[index].name, reason = reason.code(), "refused");
                }
                self.acks.push(answer);
                self.unanswered -= 1;
            }
            Heard::Fetched(file) => {
                self.counts.fetched += 1;
                self.counts.fetched_bytes += file.len() as u64;
                match &self.expected {
                    Some(expected) => self.counts.mismatches += u64::from(*expected != file),
                    None => self.kept = Some(file),
                }
            }
        }
        self.finished(index);
    }

    fn finished(&mut self, index: usize) {
        self.places[index].started = false;
        self.active -= 1;
    }

    fn start_more(&mut self) {
        let most = if self.window == 0 { usize::MAX } else { self.window };
        while self.active < most
            && let Some(index) = self.queue.pop_front()
        {
            if let Some((hash, bytes)) = self.fetching {
                if !self.gateways[index].fetch(hash, bytes) {
                    self.counts.wrong_frames += 1;
                    continue;
                }
            } else if !self.gateways[index].holds_work() {
                continue;
            }
            self.active += 1;
            self.places[index].started = true;
            self.send_due(index);
        }
    }

    fn send_due(&mut self, index: usize) {
        let Some(mut connection) = self.connections[index].take() else { return };
        self.send_to(index, &mut connection);
        // An error shows as an event.
        let _shown_later = connection.flush();
        self.connections[index] = Some(connection);
    }

    fn send_to(&mut self, index: usize, connection: &mut Connection) {
        if connection.stage != Stage::Up {
            return;
        }
        let now = self.now();
        let Self { gateways, common, site, counts, .. } = self;
        let gateway = &mut gateways[index];
        let topic = Topic::Up { gateway: &gateway.name }.text(site);
        let contributes = gateway.holds_work();
        let mut send = |frame: Vec<u8>| {
            if contributes {
                counts.sent_bytes += loadonce_wire::limits::packet_bytes(topic.len(), frame.len()) as u64;
            }
            connection.publish(&topic, false, &frame);
        };
        if self.null.is_none() {
            gateway.due(common, now, send);
        } else if !std::mem::replace(&mut self.places[index].blind, true) {
            gateway.blindly(&mut send);
        }
    }

    fn drain_null(&mut self) -> Result<(), SimError> {
        let Some(null) = &self.null else { return Ok(()) };
        for index in null.arrived().map_err(SimError::System)? {
            let Some(gateway) = self.gateways.get_mut(index) else { continue };
            if gateway.arrived() {
                self.unanswered -= 1;
                self.finished(index);
            }
        }
        Ok(())
    }

    /// Acknowledgements so far by status: accepted, duplicate, refused.
    pub(crate) fn answers(&self) -> [u64; 3] {
        let mut out = [0; 3];
        for gateway in &self.gateways {
            for status in [Status::Accepted, Status::Duplicate, Status::Refused] {
                out[status as usize - 1] += gateway.acks[status as usize - 1];
            }
        }
        out
    }
}

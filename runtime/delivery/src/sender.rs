//! The sending side: which outbox entries are on the wire, which chunk goes next, and when to ask or send again.
//!
//! An entry of one chunk is sent whole, with its manifest, and its only answer is the acknowledgement. A larger
//! one is *offered* first: the manifest alone, answered by the bitmap of the chunks that are already there, or by
//! an acknowledgement if there is nothing left to do. Then the missing chunks follow. An unanswered entry is
//! offered again, so only what is missing is ever repeated.
//!
//! The owner keeps the entries (an outbox that survives a crash) and the wire. This machine forgets everything in
//! a crash, and may.

use std::collections::BTreeMap;

use loadonce_wire::{Chunks, TransferId};

use crate::jitter::{Pause, up_to};

/// Bounds and pauses of a [`Sender`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SenderConfig {
    /// Entries under way at once. A receiver keeps as many of one sender.
    pub window: usize,
    /// Entries remembered as under way or parked: as many as the outbox holds.
    pub remembered: usize,
    /// Pause before an unanswered entry is sent or offered again.
    pub again: Pause,
    /// Pause after the receiver does not know this sender; one entry then asks again.
    pub unknown: Pause,
    /// Pause of an entry whose task the receiver does not know.
    pub parked: Pause,
    /// The receiver's first words come as a burst, one manifest per task, ms.
    pub burst_ms: u64,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            window: 4,
            remembered: 1024,
            again: Pause { floor_ms: 15_000, first_ms: 15_000, cap_ms: 285_000 },
            unknown: Pause { floor_ms: 30_000, first_ms: 30_000, cap_ms: 3_570_000 },
            parked: Pause { floor_ms: 1_800_000, first_ms: 1_800_000, cap_ms: 1_800_000 },
            burst_ms: 200,
        }
    }
}

/// What the machine must know of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Durable sequence: the entry's name here, and its order.
    pub sequence: u64,
    /// The transfer's name on the wire.
    pub transfer: TransferId,
    /// Chunks of its blob.
    pub chunks: usize,
}

/// What to put on the wire now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The entry's manifest and its only chunk.
    Whole {
        /// The entry.
        sequence: u64,
    },
    /// The entry's manifest.
    Offer {
        /// The entry.
        sequence: u64,
    },
    /// A chunk of it.
    Chunk {
        /// The entry.
        sequence: u64,
        /// Which chunk.
        index: usize,
        /// Whether it is the last one for now.
        last: bool,
    },
}

impl Action {
    /// The entry it is about.
    pub fn sequence(&self) -> u64 {
        match *self {
            Self::Whole { sequence } | Self::Offer { sequence } | Self::Chunk { sequence, .. } => sequence,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// Nobody told yet what is there.
    Offered,
    /// These chunks are still to go on the wire.
    Sending(Chunks),
    /// On the wire; an acknowledgement is awaited.
    Sent,
    /// Waits for its task to be known; takes no place in the window.
    Parked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flight {
    transfer: TransferId,
    chunks: usize,
    state: State,
    due_ms: u64,
    tries: u8,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SenderCounters {
    /// Entries sent or offered again because no answer came.
    pub repeated: u64,
    /// Times the receiver asked to wait.
    pub busy: u64,
    /// Chunks that were not sent because the receiver had them.
    pub spared: u64,
}

/// See the module's documentation. Holds no contribution, only sequences. Times are milliseconds of any clock that
/// only rises; a `draw` is 64 random bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sender {
    config: SenderConfig,
    /// Entries in the outbox, as its owner last counted them; with none nothing is looked for.
    pub pending: u64,
    flights: BTreeMap<u64, Flight>,
    /// Nothing is sent before this: the receiver does not know this sender.
    hold_until_ms: u64,
    /// How often it did not since it last did, less one.
    held: Option<u8>,
    /// Nothing new is begun before this: others return at the same time, or the receiver is busy.
    quiet_until_ms: u64,
    started_over_ms: Option<u64>,
    counters: SenderCounters,
}

impl Default for Sender {
    fn default() -> Self {
        Self::new(SenderConfig::default())
    }
}

impl Sender {
    /// A sender with nothing under way.
    pub fn new(config: SenderConfig) -> Self {
        Self {
            config,
            pending: 0,
            flights: BTreeMap::new(),
            hold_until_ms: 0,
            held: None,
            quiet_until_ms: 0,
            started_over_ms: None,
            counters: SenderCounters::default(),
        }
    }

    /// What to put on the wire now, if anything; takes note that it is. `next` gives the first entry above a
    /// sequence, from the owner's outbox. Call it until it gives nothing, as far as there is room on the wire.
    ///
    /// # Errors
    /// What `next` answers.
    pub fn poll<E>(
        &mut self,
        now_ms: u64,
        draw: u64,
        next: impl FnMut(u64) -> Result<Option<Entry>, E>,
    ) -> Result<Option<Action>, E> {
        if now_ms < self.hold_until_ms {
            return Ok(None);
        }
        if let Some(action) = self.next_chunk(now_ms, draw) {
            return Ok(Some(action));
        }
        if now_ms < self.quiet_until_ms {
            return Ok(None);
        }
        let under_way = self.flights.values().filter(|flight| flight.state != State::Parked).count();
        let room = under_way < self.window();
        let again = self.config.again;
        let due = |flight: &Flight| flight.due_ms <= now_ms && (room || flight.state != State::Parked);
        if let Some((&sequence, flight)) = self.flights.iter_mut().find(|(_, flight)| due(flight)) {
            flight.tries = again.next(flight.tries);
            self.counters.repeated += 1;
            return Ok(Some(self.begin(sequence, now_ms, draw)));
        }
        if !room || self.flights.len() >= self.config.remembered || self.pending <= self.flights.len() as u64
        {
            return Ok(None);
        }
        let Some(entry) = self.first_new(next)? else { return Ok(None) };
        let Entry { sequence, transfer, chunks } = entry;
        self.flights
            .insert(sequence, Flight { transfer, chunks, state: State::Offered, due_ms: now_ms, tries: 0 });
        Ok(Some(self.begin(sequence, now_ms, draw)))
    }

    /// A time before which [`poll`](Self::poll) gives nothing, unless something else happens first; `None` if it
    /// depends on that alone.
    pub fn wake_ms(&self) -> Option<u64> {
        let mut wake = None::<u64>;
        let mut at_latest = |at: u64| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        let mut under_way = 0;
        for flight in self.flights.values() {
            match flight.state {
                State::Sending(_) => at_latest(0),
                _ => at_latest(flight.due_ms.max(self.quiet_until_ms)),
            }
            under_way += usize::from(flight.state != State::Parked);
        }
        if under_way < self.window() && self.pending > self.flights.len() as u64 {
            at_latest(self.quiet_until_ms);
        }
        wake.map(|wake| wake.max(self.hold_until_ms))
    }

    /// A connection stands. What was under way on the one before may not have arrived: entries of one chunk are
    /// due again, larger ones are asked about. Begins at a random time within `spread_ms`, because others return
    /// at the same moment.
    pub fn connected(&mut self, now_ms: u64, draw: u64, spread_ms: u64) {
        for flight in self.flights.values_mut() {
            (flight.due_ms, flight.tries) = (now_ms, 0);
            if flight.state != State::Parked {
                flight.state = State::Sent;
            }
        }
        self.quiet_until_ms = self.quiet_until_ms.max(now_ms + up_to(draw, spread_ms));
        self.release();
    }

    /// The receiver is back, as after [`connected`](Self::connected), but once per burst of its messages. Returns
    /// whether this is the first of the burst.
    pub fn returned(&mut self, now_ms: u64, draw: u64, spread_ms: u64) -> bool {
        if self.started_over_ms.is_some_and(|last| now_ms.saturating_sub(last) < self.config.burst_ms) {
            return false;
        }
        self.started_over_ms = Some(now_ms);
        self.connected(now_ms, draw, spread_ms);
        true
    }

    /// The answer to an offer: the chunks that are there. One that nobody waits for is ignored; whether it was
    /// awaited.
    pub fn status(&mut self, transfer: TransferId, held: &Chunks) -> bool {
        let awaited = |flight: &&mut Flight| {
            flight.transfer == transfer && flight.state == State::Offered && flight.chunks == held.count()
        };
        let Some(flight) = self.flights.values_mut().find(awaited) else { return false };
        // A receiver that has them all answers with an acknowledgement, or has dropped them since.
        let missing = if held.is_full() { *held } else { held.others() };
        self.counters.spared += (held.count() - missing.len()) as u64;
        flight.state = State::Sending(missing);
        true
    }

    /// The receiver asks to wait: nothing is begun for `wait_s` seconds and a random part of as many more. What it
    /// has taken on goes on, for that ends its work.
    pub fn busy(&mut self, sequence: u64, now_ms: u64, draw: u64, wait_s: u16) {
        self.counters.busy += 1;
        let wait_ms = u64::from(wait_s) * 1000;
        self.quiet_until_ms = self.quiet_until_ms.max(now_ms + wait_ms + up_to(draw, wait_ms));
        if let Some(flight) = self.flights.get_mut(&sequence) {
            (flight.state, flight.due_ms) = (State::Sent, now_ms);
        }
    }

    /// The receiver does not know the entry's task: keep it, out of the others' way.
    pub fn park(&mut self, sequence: u64, now_ms: u64, draw: u64) {
        if let Some(flight) = self.flights.get_mut(&sequence) {
            flight.state = State::Parked;
            flight.due_ms = now_ms + self.config.parked.after(0, draw);
        }
    }

    /// What was parked is due: a task became known.
    pub fn unpark(&mut self) {
        self.flights.retain(|_, flight| flight.state != State::Parked);
    }

    /// The entry is gone.
    pub fn done(&mut self, sequence: u64) {
        self.flights.remove(&sequence);
    }

    /// The receiver does not know this sender: keep everything and try again later.
    pub fn hold(&mut self, now_ms: u64, draw: u64) {
        self.flights.clear();
        let tries = self.held.map_or(0, |tries| self.config.unknown.next(tries));
        self.held = Some(tries);
        self.hold_until_ms = now_ms + self.config.unknown.after(tries, draw);
    }

    /// Ends such a pause: something changed at the receiver.
    pub fn release(&mut self) {
        self.hold_until_ms = 0;
        self.held = None;
    }

    /// What happened since the start.
    pub fn counters(&self) -> SenderCounters {
        self.counters
    }

    /// Entries remembered as under way or parked.
    pub fn remembered(&self) -> usize {
        self.flights.len()
    }

    /// The same state with the clock set from `now_ms` to `to_ms`, and nothing counted: two states that behave alike
    /// from here on become equal. For explorers of all states.
    #[must_use]
    pub fn at(&self, now_ms: u64, to_ms: u64) -> Self {
        let ahead = |due: u64| due.saturating_sub(now_ms).saturating_add(to_ms);
        let mut state = self.clone();
        state.counters = SenderCounters::default();
        for flight in state.flights.values_mut() {
            flight.due_ms = if matches!(flight.state, State::Sending(_)) { 0 } else { ahead(flight.due_ms) };
        }
        state.hold_until_ms = ahead(self.hold_until_ms);
        state.quiet_until_ms = ahead(self.quiet_until_ms);
        state.started_over_ms = self
            .started_over_ms
            .map(|then| now_ms.saturating_sub(then))
            .filter(|&ago| ago < self.config.burst_ms)
            .map(|ago| to_ms.saturating_sub(ago));
        state
    }

    fn window(&self) -> usize {
        if self.held.is_some() { 1 } else { self.config.window }
    }

    /// The next chunk of the first entry that has some to send.
    fn next_chunk(&mut self, now_ms: u64, draw: u64) -> Option<Action> {
        for (&sequence, flight) in &mut self.flights {
            if let State::Sending(missing) = &mut flight.state
                && let Some(index) = missing.first()
            {
                missing.take(index);
                let last = missing.is_empty();
                if last {
                    flight.state = State::Sent;
                    flight.due_ms = now_ms + self.config.again.after(flight.tries, draw);
                }
                return Some(Action::Chunk { sequence, index, last });
            }
        }
        None
    }

    /// Sends or offers an entry that is in `flights`.
    fn begin(&mut self, sequence: u64, now_ms: u64, draw: u64) -> Action {
        let again = self.config.again;
        let mut single = true;
        if let Some(flight) = self.flights.get_mut(&sequence) {
            single = flight.chunks == 1;
            flight.state = if single { State::Sent } else { State::Offered };
            flight.due_ms = now_ms + again.after(flight.tries, draw);
        }
        if single { Action::Whole { sequence } } else { Action::Offer { sequence } }
    }

    /// The first entry that is not under way.
    fn first_new<E>(
        &self,
        mut next: impl FnMut(u64) -> Result<Option<Entry>, E>,
    ) -> Result<Option<Entry>, E> {
        let mut after = 0;
        while let Some(entry) = next(after)? {
            if !self.flights.contains_key(&entry.sequence) {
                return Ok(Some(entry));
            }
            after = entry.sequence;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;

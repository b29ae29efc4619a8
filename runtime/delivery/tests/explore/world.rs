//! A gateway, an aggregator and the channel between them, as one value: the real [`Sender`] and [`Receiver`] over a
//! fake outbox and a fake journal that survive crashes. Every step that anything in it can take is a [`Step`].

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;

use loadonce_delivery::jitter::Pause;
use loadonce_delivery::{Action, Entry, Offered, Piece, Receiver, ReceiverConfig, Sender, SenderConfig};
use loadonce_wire::{Chunks, TransferId};

/// The clock of every state; a state's times are kept relative to it.
const NOW: u64 = 1_000_000;
/// Few different pauses, so that there are few states. What matters is their order.
const PAUSE: Pause = Pause { floor_ms: 1000, first_ms: 1000, cap_ms: 1000 };

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nothing.
    None,
    /// An acknowledgement leaves before its contribution is written.
    AckBeforePersist,
    /// Nothing is recognised as applied.
    NoDedup,
    /// An entry is deleted once it is on the wire, as if the broker's word counted.
    DeleteOnSend,
    /// What is not answered is never sent again.
    NoTimers,
    /// A status claims the first chunk and no other, whatever is there.
    WrongBitmap,
}

/// What is explored.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Chunks of each entry, in the order of their sequences.
    pub(crate) entries: Vec<usize>,
    /// Messages the channel holds in each direction.
    pub(crate) capacity: usize,
    /// Transfers the receiver has memory for.
    pub(crate) transfers: usize,
    /// Entries the sender keeps under way.
    pub(crate) window: usize,
    /// What is wrong on purpose.
    pub(crate) mutant: Mutant,
}

impl Scenario {
    fn sender(&self, pending: usize) -> Sender {
        let mut sender = Sender::new(SenderConfig {
            window: self.window,
            remembered: self.entries.len(),
            again: PAUSE,
            unknown: PAUSE,
            parked: PAUSE,
            burst_ms: 500,
        });
        sender.pending = pending as u64;
        sender
    }

    fn receiver(&self) -> Receiver<u64> {
        Receiver::new(ReceiverConfig {
            chunk: 1,
            bytes: usize::MAX,
            transfers: self.transfers,
            each: self.window,
            idle_ms: 2000,
            expire_ms: 3000,
        })
    }

    fn chunks(&self, sequence: u64) -> usize {
        self.entries[sequence as usize - 1]
    }
}

/// A message from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Up {
    Whole(u64),
    Offer(u64),
    Chunk(u64, usize),
}

/// A message from the aggregator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Down {
    Ack(u64),
    Busy(u64),
    /// Entry and bitmap.
    Status(u64, Vec<u8>),
}

/// One step of one side or of the channel. Numbers are places in the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The gateway commits another entry to its outbox.
    Enqueue,
    /// The gateway's sender is asked what to put on the wire, with the shortest or the longest pause.
    Poll {
        longest: bool,
    },
    /// Nothing happens until the sender's next time.
    Time,
    /// A message arrives.
    Up(usize),
    /// A message arrives and will arrive once more.
    UpTwice(usize),
    /// A message is lost.
    UpLost(usize),
    /// The aggregator writes what it acknowledged; only where that is the fault.
    Write,
    /// As above, in the other direction.
    Down(usize),
    DownTwice(usize),
    DownLost(usize),
    /// The gateway dies and starts again.
    GatewayDies,
    /// The aggregator dies and starts again.
    AggregatorDies,
    /// The gateway hears that the aggregator is back.
    Returned,
    /// The connection is cut, with everything on it, and made anew.
    Cut,
}

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    /// An entry was deleted and is in no journal.
    Lost(u64),
    /// An entry was applied twice.
    Twice(u64),
    /// What was put together is not what was sent.
    Damaged(u64),
    /// More is remembered than the bounds allow.
    OverBound(String),
    /// Over a channel that no longer loses anything the outbox does not become empty.
    Stuck(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    sender: Sender,
    receiver: Receiver<u64>,
    /// Durable: entries that wait.
    outbox: BTreeSet<u64>,
    /// Durable: how many entries there were ever.
    enqueued: u64,
    /// Durable: entries applied, and how often.
    journal: BTreeMap<u64, u8>,
    /// In memory: acknowledged and not written, where that is the fault.
    unwritten: BTreeSet<u64>,
    up: Vec<Up>,
    down: Vec<Down>,
}

fn id(sequence: u64) -> TransferId {
    sequence.to_le_bytes()
}

/// The byte that is chunk `index` of an entry.
fn byte(sequence: u64, index: usize) -> u8 {
    (sequence as u8) << 4 | index as u8
}

impl World {
    /// A gateway and an aggregator that have not met.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            sender: scenario.sender(0),
            receiver: scenario.receiver(),
            outbox: BTreeSet::new(),
            enqueued: 0,
            journal: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            up: Vec::new(),
            down: Vec::new(),
        }
        .at(NOW)
    }

    /// Every step that can be taken here.
    pub(crate) fn steps(&self, scenario: &Scenario) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut may = |step, can: bool| {
            if can {
                steps.push(step);
            }
        };
        may(Step::Enqueue, (self.enqueued as usize) < scenario.entries.len());
        let room = self.up.len() < scenario.capacity;
        may(Step::Poll { longest: false }, room);
        may(Step::Poll { longest: true }, room);
        let later = self.sender.wake_ms().is_some_and(|wake| wake > NOW);
        may(Step::Time, later && scenario.mutant != Mutant::NoTimers);
        let heard = self.down.len() < scenario.capacity;
        for at in 0..self.up.len() {
            may(Step::Up(at), heard);
            may(Step::UpTwice(at), heard);
            may(Step::UpLost(at), true);
        }
        may(Step::Write, !self.unwritten.is_empty());
        for at in 0..self.down.len() {
            may(Step::Down(at), true);
            may(Step::DownTwice(at), true);
            may(Step::DownLost(at), true);
        }
        may(Step::GatewayDies, true);
        may(Step::AggregatorDies, true);
        may(Step::Returned, true);
        may(Step::Cut, true);
        steps
    }

    /// The state after a step.
    pub(crate) fn after(&self, step: Step, scenario: &Scenario) -> Result<Self, Violation> {
        let mut world = self.clone();
        let mut now = NOW;
        match step {
            Step::Enqueue => {
                world.enqueued += 1;
                world.outbox.insert(world.enqueued);
                world.sender.pending += 1;
            }
            Step::Poll { longest } => world.poll(longest, scenario),
            Step::Time => {
                now = world.sender.wake_ms().unwrap_or(NOW).max(NOW);
                world.receiver.expire(now);
            }
            Step::Up(at) => {
                let message = world.up.remove(at);
                world.hear(message, scenario)?;
            }
            Step::UpTwice(at) => world.hear(world.up[at], scenario)?,
            Step::UpLost(at) => drop(world.up.remove(at)),
            Step::Write => {
                if let Some(sequence) = world.unwritten.pop_first() {
                    world.apply(sequence);
                }
            }
            Step::Down(at) => {
                let message = world.down.remove(at);
                world.learn(&message, scenario);
            }
            Step::DownTwice(at) => {
                let message = world.down[at].clone();
                world.learn(&message, scenario);
            }
            Step::DownLost(at) => drop(world.down.remove(at)),
            Step::GatewayDies => {
                world.sender = scenario.sender(world.outbox.len());
                world.sender.connected(NOW, 0, 0);
            }
            Step::AggregatorDies => {
                world.receiver = scenario.receiver();
                world.unwritten.clear();
            }
            Step::Returned => drop(world.sender.returned(NOW, 0, 0)),
            Step::Cut => {
                world.up.clear();
                world.down.clear();
                world.sender.connected(NOW, 0, 0);
            }
        }
        world.check(scenario)?;
        Ok(world.at(now))
    }

    /// Whether nothing is left to deliver.
    pub(crate) fn at_rest(&self) -> bool {
        self.outbox.is_empty() && self.up.is_empty() && self.down.is_empty()
    }

    /// The next step where nothing is lost, nobody dies, and everybody does what there is to do.
    pub(crate) fn fair(&self, scenario: &Scenario) -> Option<Step> {
        if !self.down.is_empty() {
            return Some(Step::Down(0));
        }
        if !self.up.is_empty() {
            return Some(Step::Up(0));
        }
        if !self.unwritten.is_empty() {
            return Some(Step::Write);
        }
        match self.sender.wake_ms() {
            Some(wake) if wake > NOW => (scenario.mutant != Mutant::NoTimers).then_some(Step::Time),
            Some(_) => Some(Step::Poll { longest: false }),
            None => None,
        }
    }

    /// For a message to a person.
    pub(crate) fn summary(&self) -> String {
        format!("outbox {:?}, journal {:?}, sender {:?}", self.outbox, self.journal, self.sender)
    }

    fn poll(&mut self, longest: bool, scenario: &Scenario) {
        let outbox = &self.outbox;
        let next = |after: u64| -> Result<Option<Entry>, Infallible> {
            let found = outbox.range(after + 1..).next();
            Ok(found.map(|&sequence| Entry {
                sequence,
                transfer: id(sequence),
                chunks: scenario.chunks(sequence),
            }))
        };
        let Ok(action) = self.sender.poll(NOW, if longest { u64::MAX } else { 0 }, next);
        let Some(action) = action else { return };
        let sequence = action.sequence();
        let (message, last) = match action {
            Action::Whole { .. } => (Up::Whole(sequence), true),
            Action::Offer { .. } => (Up::Offer(sequence), false),
            Action::Chunk { index, last, .. } => (Up::Chunk(sequence, index), last),
        };
        // The outbox may have lost the entry since: then nothing goes out, as in the agent.
        if !self.outbox.contains(&sequence) {
            self.sender.done(sequence);
            return;
        }
        self.up.push(message);
        if scenario.mutant == Mutant::DeleteOnSend && last {
            self.outbox.remove(&sequence);
            self.sender.done(sequence);
            self.sender.pending -= 1;
        }
    }

    /// The aggregator takes a message.
    fn hear(&mut self, message: Up, scenario: &Scenario) -> Result<(), Violation> {
        let (Up::Whole(sequence) | Up::Offer(sequence) | Up::Chunk(sequence, _)) = message;
        let known = self.journal.contains_key(&sequence) && scenario.mutant != Mutant::NoDedup;
        match message {
            Up::Whole(_) | Up::Offer(_) if known => self.down.push(Down::Ack(sequence)),
            Up::Whole(_) => self.take(sequence, scenario),
            Up::Offer(_) => {
                let total = scenario.chunks(sequence);
                match self.receiver.offer("g", id(sequence), total, sequence, 0, NOW) {
                    Offered::Open(mut held) => {
                        if scenario.mutant == Mutant::WrongBitmap {
                            held.clear();
                            held.add(0);
                        }
                        self.down.push(Down::Status(sequence, held.as_bytes().to_vec()));
                    }
                    Offered::Busy(_) => self.down.push(Down::Busy(sequence)),
                    Offered::Misfit => return Err(Violation::Damaged(sequence)),
                }
            }
            Up::Chunk(_, index) => {
                let bytes = [byte(sequence, index)];
                let total = scenario.chunks(sequence);
                match self.receiver.chunk("g", id(sequence), total, index, &bytes, NOW) {
                    Piece::Complete(done) => {
                        let sent: Vec<u8> = (0..total).map(|index| byte(sequence, index)).collect();
                        if done.blob != sent || done.about != sequence {
                            return Err(Violation::Damaged(sequence));
                        }
                        // Asked again, as the aggregator does: it may have come another way meanwhile.
                        if known {
                            self.down.push(Down::Ack(sequence));
                        } else {
                            self.take(sequence, scenario);
                        }
                    }
                    Piece::Kept | Piece::Orphan => {}
                    Piece::Misfit => return Err(Violation::Damaged(sequence)),
                }
            }
        }
        Ok(())
    }

    /// Persist, then acknowledge. A death in between is the same as an acknowledgement that is lost, and a death.
    fn take(&mut self, sequence: u64, scenario: &Scenario) {
        if scenario.mutant == Mutant::AckBeforePersist {
            self.unwritten.insert(sequence);
        } else {
            self.apply(sequence);
        }
        self.down.push(Down::Ack(sequence));
    }

    fn apply(&mut self, sequence: u64) {
        *self.journal.entry(sequence).or_default() += 1;
    }

    /// The gateway takes a message.
    fn learn(&mut self, message: &Down, scenario: &Scenario) {
        match message {
            Down::Ack(sequence) => {
                self.outbox.remove(sequence);
                self.sender.release();
                self.sender.done(*sequence);
                self.sender.pending = self.outbox.len() as u64;
            }
            Down::Busy(sequence) => self.sender.busy(*sequence, NOW, 0, 1),
            Down::Status(sequence, bitmap) => {
                if let Ok(held) = Chunks::from_bytes(scenario.chunks(*sequence), bitmap) {
                    self.sender.status(id(*sequence), &held);
                }
            }
        }
    }

    /// What must hold in every state.
    fn check(&self, scenario: &Scenario) -> Result<(), Violation> {
        for sequence in 1..=self.enqueued {
            if !self.outbox.contains(&sequence) && !self.journal.contains_key(&sequence) {
                return Err(Violation::Lost(sequence));
            }
            if self.journal.get(&sequence).is_some_and(|&times| times > 1) {
                return Err(Violation::Twice(sequence));
            }
        }
        let (open, _) = self.receiver.held();
        if open > scenario.transfers || self.sender.remembered() > scenario.entries.len() {
            return Err(Violation::OverBound(format!(
                "{open} open, {} remembered",
                self.sender.remembered()
            )));
        }
        Ok(())
    }

    /// The same state as if it were the usual time, messages in a fixed order: the channel has none.
    fn at(mut self, now: u64) -> Self {
        self.sender = self.sender.at(now, NOW);
        self.receiver = self.receiver.at(now, NOW);
        self.up.sort_unstable();
        self.down.sort_unstable();
        self
    }
}

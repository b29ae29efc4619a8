//! The receiving side: transfers of several chunks that are not whole yet, in bounded memory.
//!
//! A transfer is opened by its offer, whose manifest the owner has verified, and lives until its last chunk is
//! there. What is open is never pushed out by what comes later, unless it has been idle: newcomers are asked to
//! wait instead. So a crowd larger than the memory is served in turn, and not in a circle.

use std::fmt::Debug;

use loadonce_wire::chunks::{self, CHUNK};
use loadonce_wire::limits::MAX_BLOB;
use loadonce_wire::{Chunks, TransferId};

use crate::admission::Admission;

/// Bounds of a [`Receiver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReceiverConfig {
    /// Bytes of a chunk.
    pub chunk: usize,
    /// Bytes of all unfinished transfers together.
    pub bytes: usize,
    /// Unfinished transfers.
    pub transfers: usize,
    /// Unfinished transfers of one sender: as many as it keeps under way.
    pub each: usize,
    /// A transfer without a message for this long makes room for another, ms.
    pub idle_ms: u64,
    /// One without a message for this long is dropped, ms.
    pub expire_ms: u64,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self {
            chunk: CHUNK,
            bytes: 32 * 1024 * 1024,
            transfers: 1024,
            each: 4,
            idle_ms: 60_000,
            expire_ms: 600_000,
        }
    }
}

/// One unfinished transfer. `T` is what its owner wants to find with it: the verified manifest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transfer<T> {
    /// Who sends it.
    pub sender: String,
    /// What the owner knows of it.
    pub about: T,
    /// Its bytes so far.
    pub blob: Vec<u8>,
    id: TransferId,
    held: Chunks,
    cost: usize,
    touched_ms: u64,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is open, and these chunks are there: to be answered with the bitmap.
    Open(Chunks),
    /// There is no room: to be answered with a wait of as many seconds.
    Busy(u16),
    /// The blob is larger than the protocol allows.
    Misfit,
}

/// What a chunk led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<T> {
    /// More is missing.
    Kept,
    /// Every chunk is there; the transfer is the caller's now.
    Complete(Box<Transfer<T>>),
    /// No such transfer: dropped before, or never offered.
    Orphan,
    /// The chunk does not fit its transfer.
    Misfit,
}

/// The unfinished transfers; see the module's documentation. Times are milliseconds of any clock that only rises.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receiver<T> {
    config: ReceiverConfig,
    /// Oldest first.
    open: Vec<Transfer<T>>,
    bytes: usize,
    admission: Admission,
    dropped: u64,
    turned_away: u64,
}

impl<T> Default for Receiver<T> {
    fn default() -> Self {
        Self::new(ReceiverConfig::default())
    }
}

impl<T> Receiver<T> {
    /// A receiver with nothing open.
    pub fn new(config: ReceiverConfig) -> Self {
        Self {
            config,
            open: Vec::new(),
            bytes: 0,
            admission: Admission::default(),
            dropped: 0,
            turned_away: 0,
        }
    }

    /// Opens a transfer of `total` bytes, unless it is open already: by an offer with an equal `about`, so that must be
    /// equal to itself (a number that is none is not). `beside` is what `about` takes in bytes.
    pub fn offer(
        &mut self,
        sender: &str,
        id: TransferId,
        total: usize,
        about: T,
        beside: usize,
        now_ms: u64,
    ) -> Offered
    where
        T: Eq,
    {
        if let Some(at) = self.find(sender, id) {
            let open = &mut self.open[at];
            if open.about == about && open.blob.len() == total {
                open.touched_ms = now_ms;
                return Offered::Open(open.held);
            }
            // The owner has verified what it offers now. Kept, the old one would stand in its way for good.
            self.bytes -= self.open.remove(at).cost;
            self.dropped += 1;
        }
        let Some(held) = Chunks::none(chunks::count(total, self.config.chunk)).filter(|_| total <= MAX_BLOB)
        else {
            return Offered::Misfit;
        };
        // Of its own a sender drops the oldest: it keeps no more under way, so it has given that one up.
        while self.open.iter().filter(|open| open.sender == sender).count() >= self.config.each {
            self.drop_first(|open| open.sender == sender);
        }
        let cost = total + beside + size_of::<Transfer<T>>();
        let (idle_ms, bytes, transfers) = (self.config.idle_ms, self.config.bytes, self.config.transfers);
        while self.bytes + cost > bytes || self.open.len() >= transfers {
            if !self.drop_first(|open| now_ms.saturating_sub(open.touched_ms) > idle_ms) {
                self.turned_away += 1;
                return Offered::Busy(self.admission.turn_away(now_ms));
            }
        }
        self.bytes += cost;
        let (sender, blob) = (sender.to_owned(), vec![0; total]);
        self.open.push(Transfer { sender, about, blob, id, held, cost, touched_ms: now_ms });
        Offered::Open(held)
    }

    /// Puts a chunk in its place. It may come twice and in any order.
    pub fn chunk(
        &mut self,
        sender: &str,
        id: TransferId,
        total: usize,
        index: usize,
        bytes: &[u8],
        now_ms: u64,
    ) -> Piece<T> {
        let Some(at) = self.find(sender, id) else { return Piece::Orphan };
        let open = &mut self.open[at];
        let place = chunks::range(total, self.config.chunk, index).filter(|_| total == open.blob.len());
        let Some(place) = place.filter(|place| place.len() == bytes.len()) else { return Piece::Misfit };
        open.touched_ms = now_ms;
        if open.held.add(index) {
            open.blob[place].copy_from_slice(bytes);
        }
        if open.held.is_full() {
            let done = self.open.remove(at);
            self.bytes -= done.cost;
            Piece::Complete(Box::new(done))
        } else {
            Piece::Kept
        }
    }

    /// Counts somebody else whom the owner turns away, for it has more to do than it can; the seconds to wait.
    pub fn turn_away(&mut self, now_ms: u64) -> u16 {
        self.turned_away += 1;
        self.admission.turn_away(now_ms)
    }

    /// Drops what has been idle for too long.
    pub fn expire(&mut self, now_ms: u64) {
        let expire_ms = self.config.expire_ms;
        while self.drop_first(|open| now_ms.saturating_sub(open.touched_ms) > expire_ms) {}
    }

    /// Unfinished transfers and the bytes reserved for them.
    pub fn held(&self) -> (usize, usize) {
        (self.open.len(), self.bytes)
    }

    /// Transfers dropped since the start, to make room or because they were idle.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Offers turned away since the start.
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }

    /// The same state with the clock set from `now_ms` to `to_ms`, which must be later than
    /// [`ReceiverConfig::expire_ms`], and nothing counted: two states that behave alike from here on become equal.
    /// For explorers of all states.
    #[must_use]
    pub fn at(&self, now_ms: u64, to_ms: u64) -> Self
    where
        T: Clone,
    {
        let mut state = Self { admission: Admission::default(), dropped: 0, turned_away: 0, ..self.clone() };
        for open in &mut state.open {
            let ago = now_ms.saturating_sub(open.touched_ms).min(self.config.expire_ms + 1);
            open.touched_ms = to_ms.saturating_sub(ago);
        }
        state
    }

    fn find(&self, sender: &str, id: TransferId) -> Option<usize> {
        self.open.iter().position(|open| open.id == id && open.sender == sender)
    }

    fn drop_first(&mut self, which: impl Fn(&Transfer<T>) -> bool) -> bool {
        let Some(at) = self.open.iter().position(which) else { return false };
        self.bytes -= self.open.remove(at).cost;
        self.dropped += 1;
        true
    }
}

#[cfg(test)]
mod tests;

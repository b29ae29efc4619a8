//! The outbox onto the wire. What goes when is decided in [`loadonce_delivery::Sender`].

use crate::agent::{Agent, AgentError};
use crate::open::random_u64;
use crate::outgoing::{Outgoing, Side};
use loadonce_delivery::{Action, Entry, frames};
use loadonce_store::{Head, StoreError};
use loadonce_trust::hash;
use loadonce_wire::chunks::{CHUNK, count};
use loadonce_wire::{Manifest, Topic, TransferId};

/// Frames put on the wire at once: what waits in memory is bounded by as many chunks.
const BURST: usize = 8;
/// Spread of those that return where no task says otherwise, seconds.
const SPREAD_S: f64 = 2.0;

/// The contribution whose chunks are going out.
pub(crate) struct Loaded {
    sequence: u64,
    blob: Vec<u8>,
}

impl Agent {
    /// Puts what is due on the wire, a few frames at a time. Returns whether there was anything.
    pub(crate) fn send_due(&mut self, now_ms: u64, out: &mut Vec<Outgoing>) -> Result<bool, AgentError> {
        if !self.connected || self.aggregator.is_none() {
            return Ok(false);
        }
        for sent in 0..BURST {
            let (outbox, database) = (&self.outbox, &self.database);
            let next = |after| -> Result<Option<Entry>, StoreError> {
                Ok(outbox.next_after(database, after)?.as_ref().map(entry_of))
            };
            let Some(action) = self.sender.poll(now_ms, random_u64()?, next)? else { return Ok(sent > 0) };
            self.put(action, out)?;
        }
        Ok(true)
    }

    /// Milliseconds over which gateways that return at the same time spread themselves.
    pub(crate) fn spread_ms(&self) -> u64 {
        let spread_s = self.tasks.values().map(|task| task.manifest.sync.spread_s).reduce(f64::max);
        (spread_s.unwrap_or(SPREAD_S) * 1000.0) as u64
    }

    /// Puts one frame on the wire.
    fn put(&mut self, action: Action, out: &mut Vec<Outgoing>) -> Result<(), AgentError> {
        let sequence = action.sequence();
        let found = self.outbox.next_after(&self.database, sequence.saturating_sub(1))?;
        let Some(head) = found.filter(|head| head.place.sequence == sequence) else {
            return self.gone(sequence);
        };
        let entry = entry_of(&head);
        let frame = match action {
            Action::Offer { .. } => {
                Some(frames::offer(entry.transfer, &head.manifest, head.blob_bytes as usize))
            }
            Action::Whole { .. } => {
                self.load(sequence)?.and_then(|blob| frames::whole(entry.transfer, &head.manifest, blob))
            }
            Action::Chunk { index, .. } => {
                self.load(sequence)?.and_then(|blob| frames::chunk(entry.transfer, blob, index))
            }
        };
        let Some(payload) = frame else { return self.gone(sequence) };
        if matches!(action, Action::Whole { .. } | Action::Chunk { last: true, .. }) {
            self.loaded = None;
            tracing::info!(
                target: "boundary", process = "agent", boundary = "chunks.sent",
                task = %head.task, epoch = head.place.epoch, sequence, chunks = entry.chunks
            );
        }
        let topic = Topic::Up { gateway: &self.config.gateway }.text(&self.config.site);
        out.push(Outgoing {
            side: Side::Uplink,
            topic: topic.as_str().to_owned(),
            payload,
            at_least_once: true,
            retain: false,
        });
        Ok(())
    }

    /// The blob of an entry, kept in memory while its chunks go out.
    fn load(&mut self, sequence: u64) -> Result<Option<&[u8]>, AgentError> {
        if self.loaded.as_ref().is_none_or(|loaded| loaded.sequence != sequence) {
            let entry = self.outbox.entry(&self.database, sequence)?;
            self.loaded = entry.map(|entry| Loaded { sequence, blob: entry.blob });
        }
        Ok(self.loaded.as_ref().map(|loaded| loaded.blob.as_slice()))
    }

    /// An entry that does not read back: set aside by the outbox, or dropped by it to make room.
    fn gone(&mut self, sequence: u64) -> Result<(), AgentError> {
        self.sender.done(sequence);
        self.counters.refuse("outbox_corrupt");
        self.sender.pending = self.outbox.counters(&self.database)?.pending;
        self.never_applied(sequence).map(|_| ())
    }
}

/// What the sender must know of an entry. One whose manifest does not decode is found out when it is sent.
fn entry_of(head: &Head) -> Entry {
    let transfer = Manifest::decode(&head.manifest).map_or([0; 8], |manifest| transfer_id(&manifest));
    let chunks = count(head.blob_bytes as usize, CHUNK);
    Entry { sequence: head.place.sequence, transfer, chunks }
}

/// The transfer id that a manifest implies.
fn transfer_id(manifest: &Manifest) -> TransferId {
    let mut id = TransferId::default();
    id.copy_from_slice(&hash(&manifest.transfer_seed())[..size_of::<TransferId>()]);
    id
}

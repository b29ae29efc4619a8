//! What the outbox takes and gives.

use crate::StoreError;

/// What a contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An increment of statistics: exact, order-free, never stale; never dropped.
    Sum = 1,
    /// A parameter delta against a base version; the first to go when room is short.
    Step = 2,
}

impl Kind {
    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Sum),
            2 => Some(Self::Step),
            _ => None,
        }
    }
}

/// Upper bounds of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxBounds {
    /// Most bytes of heads and blobs together.
    pub max_bytes: u64,
    /// Most entries.
    pub max_entries: u64,
}

impl Default for OutboxBounds {
    /// 64 MiB in 1,024 entries.
    fn default() -> Self {
        Self { max_bytes: 64 * 1024 * 1024, max_entries: 1024 }
    }
}

/// Where an entry stands: with the gateway's key and the blob's hash, the identity of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The random epoch of the store.
    pub epoch: u64,
    /// The sequence, counted from 1.
    pub sequence: u64,
}

/// What is to be enqueued, less the manifest, which needs to know its place.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Sum or step.
    pub kind: Kind,
    /// The task, at most 255 bytes.
    pub task: &'a str,
    /// The blob exactly as it will be sent.
    pub blob: &'a [u8],
}

/// A pending entry without its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Epoch and sequence.
    pub place: Place,
    /// Sum or step.
    pub kind: Kind,
    /// The task.
    pub task: String,
    /// The signed manifest.
    pub manifest: Vec<u8>,
    /// Size of the blob in bytes.
    pub blob_bytes: u32,
    /// blake3 of the blob.
    pub blob_hash: [u8; 32],
}

/// A pending entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Everything but the blob.
    pub head: Head,
    /// The blob; its hash was checked when it was read.
    pub blob: Vec<u8>,
}

/// What happened in the outbox since the database was made, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Entries that wait.
    pub pending: u64,
    /// Bytes of the entries that wait.
    pub pending_bytes: u64,
    /// Entries ever accepted.
    pub enqueued: u64,
    /// Entries deleted by an application ack.
    pub acknowledged: u64,
    /// Steps dropped to make room.
    pub dropped_steps: u64,
    /// Entries refused for want of room.
    pub refused_full: u64,
    /// Entries that took a new place after a sequence conflict.
    pub requeued: u64,
    /// Entries set aside because they did not read back as written.
    pub quarantined: u64,
}

/// Why an entry was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// There is no room, and no steps to drop that would make enough. Nothing was changed.
    #[error(
        "the outbox is full ({pending} entries, {pending_bytes} bytes wait, {wanted} bytes more were asked \
         for); it empties once the aggregator can be reached, or raise its bounds"
    )]
    Full {
        /// Entries that wait.
        pending: u64,
        /// Bytes that wait.
        pending_bytes: u64,
        /// Bytes of the refused entry.
        wanted: u64,
    },
    /// The entry can never fit.
    #[error("an entry of {bytes} bytes exceeds the outbox's bound of {max_bytes} bytes; raise the bound")]
    TooLarge {
        /// Bytes of the entry.
        bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The task's name does not fit the record.
    #[error("a task's name has at most 255 bytes, this one has {0}; rename the task")]
    TaskName(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

macro_rules! from_redb {
    ($($kind:ty),+) => {$(
        impl From<$kind> for OutboxError {
            fn from(error: $kind) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}
from_redb!(redb::TableError, redb::StorageError, redb::CommitError);

//! Durable pieces on redb and slot files; the schemas live with their owners.
//!
//! - [`Database`]: one redb file, opened with typed errors, quarantined when it is corrupt.
//! - [`Outbox`]: what a gateway has to deliver, in tables of the caller's database.
//! - [`Slots`]: the A/B files of an installed module; a power cut at any write leaves the old or the new set.
//! - [`write_atomic`]: one small file (a key) that is either the old or the new one.
//!
//! `crash` (feature `crash`) holds fakes of the disk that lose power at a chosen operation.

#[cfg(any(test, feature = "crash"))]
pub mod crash;
mod database;
mod error;
mod files;
mod outbox;
mod slots;

pub use database::{DEFAULT_CACHE_BYTES, Database, Quarantined};
pub use error::StoreError;
pub use files::{Disk, Files, write_atomic, write_atomic_on};
pub use outbox::{Counters, Draft, Entry, Head, Kind, Outbox, OutboxBounds, OutboxError, Pending, Place};
pub use slots::{MAX_SLOT_FILE_BYTES, MAX_SLOT_FILES, Slot, SlotError, Slots};

/// The storage engine, for the owners of schemas: tables and transactions are redb's own.
pub mod redb {
    pub use ::redb::*;
}

/// Decoders of this crate that have no public face, for the fuzz targets; no part of the interface.
#[doc(hidden)]
pub mod fuzz {
    /// Reads an outbox record after its checksum was made true; whether it read.
    pub fn outbox_record(bytes: &[u8]) -> bool {
        crate::outbox::fuzz_record(bytes)
    }

    /// Reads a slot's `checksums` after the hash at its end was made true; whether it read.
    pub fn slot_checksums(bytes: &[u8]) -> bool {
        crate::slots::fuzz_checksums(bytes)
    }
}

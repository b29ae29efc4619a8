//! Topics, frames, limits and transfer bookkeeping: bytes in, bytes out, no I/O and no clock.
//!
//! Everything that crosses the uplink in binary form is defined here and written out byte by byte in
//! `docs/wire.md`. The crate is `no_std` so that a microcontroller can speak the same protocol.
#![cfg_attr(not(test), no_std)]

pub mod ack;
pub mod block;
pub mod chunks;
pub mod frame;
pub mod limits;
pub mod manifest;
mod read;
pub mod topic;
pub mod whole;

pub use ack::{Ack, Reason, Status};
pub use block::BlockRequest;
pub use chunks::{CHUNK, Chunks};
pub use frame::{Frame, Kind};
pub use manifest::{ContributionKind, Manifest};
pub use read::WireError;
pub use topic::{Name, Topic};
pub use whole::Whole;

/// A blake3 hash, an ed25519 public key or a shape fingerprint: 32 opaque bytes.
pub type Bytes32 = [u8; 32];
/// An ed25519 signature.
pub type Signature = [u8; 64];
/// Names one transfer of one blob (see [`manifest::Manifest::transfer_seed`]).
pub type TransferId = [u8; 8];

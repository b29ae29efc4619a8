//! Delivery: sending, receiving, acknowledging and resuming, without I/O, clock or randomness.
//!
//! The same machines run in the agent, in the aggregator and in the simulator, and the explorer in `tests/explore`
//! walks through every state that two of them can reach over a channel that loses, repeats and reorders, with a crash
//! of either side at every step.
//!
//! | machine | side | decides |
//! |---|---|---|
//! | [`Sender`] | gateway | which entry of the outbox goes on the wire, which chunk of it, when to ask and when to be quiet |
//! | [`Receiver`] | aggregator | which transfers are open, what is there of each, who has to wait |
//! | [`Fetch`] | gateway | which blocks of a module file to ask for |
//!
//! Time, randomness and storage come in as arguments. What must not be lost is not here: it is in the outbox of one
//! side and in the journal of the other, and each machine may forget all it knows at any moment.
//!
//! ```text
//! one chunk      gateway ── whole ──────────────────────────► aggregator
//!                        ◄───────────────── acknowledgement ──
//! more           gateway ── offer ──────────────────────────► aggregator
//!                        ◄─── status (bitmap of what is there)
//!                        ── the missing chunks ─────────────►
//!                        ◄───────────────── acknowledgement ──
//! ```
//!
//! An offer is also how a gateway asks: after a reconnection, and when no answer came.

pub mod admission;
pub mod fetch;
pub mod frames;
pub mod jitter;
pub mod receiver;
pub mod sender;

pub use fetch::Fetch;
pub use receiver::{Offered, Piece, Receiver, ReceiverConfig, Transfer};
pub use sender::{Action, Entry, Sender, SenderConfig, SenderCounters};

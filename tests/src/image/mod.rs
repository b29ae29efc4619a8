//! The gateway image on an emulated arm64 machine: from a flashed card to a trained module, with the power cut twice.
//!
//! | file | holds |
//! |---|---|
//! | `disk` | the card, read and written from outside |
//! | `machine` | qemu: power, console, network |
//! | `run` | what happens, and what must be true afterwards |
//!
//! What an emulated power cut is: qemu dies by SIGKILL, so whatever the guest had not handed to its disk is gone. What
//! it had handed over is kept, also where it had not asked for a flush; writes that a real card loses or reorders are
//! the business of the store's own crash tests.

mod disk;
mod machine;
mod run;

pub use disk::Disk;
pub use machine::{HOST, Machine};
pub use run::{Options, relay, run};

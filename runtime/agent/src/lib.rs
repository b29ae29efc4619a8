//! The agent on the gateway: answers samples, remembers features and labels, learns when idle, contributes
//! deltas and installs new versions.
//!
//! [`Agent`] decides and is free of sockets, threads and timers; [`edge`] gives it those. Everything that must
//! survive a power cut is in the store before anything is sent.

mod agent;
mod backbones;
mod background;
pub mod config;
mod contribute;
mod course;
mod data;
mod derive;
pub mod edge;
pub mod enrol;
mod figures;
mod input;
mod install;
mod open;
mod outgoing;
mod power;
mod recent;
mod record;
mod refusal;
mod report;
mod residual;
mod samples;
mod sending;
mod serving;
mod spool;
mod starts;
mod task;
mod time;
mod training;
mod uplink;

pub use agent::{Agent, AgentError, MAX_TASKS};
pub use backbones::{Backbones, BackbonesError};
pub use edge::{REPORT_EVERY, UPLINK_KEEP_ALIVE};
pub use figures::{Histogram, Latency};
pub use outgoing::{Outgoing, Side};
pub use power::{Battery, Cause, Readings, Zone};
pub use starts::count_failed;
pub use training::Training;

/// Decoders of this crate that have no public face, for the fuzz targets; no part of the interface.
#[doc(hidden)]
pub mod fuzz {
    use crate::record::{Given, Record, RecordRef};

    /// Reads a remembered sample and uses it as the agent does; whether it read.
    pub fn sample_record(bytes: &[u8], given: u16) -> bool {
        let (Some(mut record), Some(read)) = (Record::decode(bytes), RecordRef::decode(bytes)) else {
            return false;
        };
        let label = read.summed([0; 8]).unwrap_or(given);
        let _values = (read.values(label).count(), read.features().count(), read.touched_by(1));
        record.give(&Given::Class(given));
        record.give(&Given::Values(vec![f64::from(given); usize::from(given % 32)]));
        record.mark([7; 8], record.label, 3);
        Record::decode(&record.encode()).is_some()
    }

    /// Reads what a window says of its time and its series; whether it said anything.
    pub fn window_stamp(payload: &[u8]) -> bool {
        crate::input::place(payload).is_ok_and(|place| place.is_some())
    }

    /// Reads what a task's steps have not told yet; whether it read.
    pub fn residual(bytes: &[u8], parameters: u16) -> bool {
        crate::residual::reads(bytes, usize::from(parameters))
    }

    /// Reads the description of what a slot serves; whether it read.
    pub fn slot_description(text: &[u8]) -> bool {
        crate::install::read_description(text)
    }
}

//! The agent on the gateway: answers samples, remembers features and labels, learns when idle, contributes
//! deltas and installs new versions.
//!
//! [`Agent`] decides and is free of sockets, threads and timers; [`edge`] gives it those. Everything that must
//! survive a power cut is in the store before anything is sent.

mod agent;
mod background;
pub mod config;
mod contribute;
mod course;
mod data;
mod derive;
pub mod edge;
mod figures;
mod input;
mod install;
mod open;
mod outgoing;
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
pub use contribute::frames;
pub use figures::{Histogram, Latency};
pub use outgoing::{Outgoing, Side};
pub use starts::count_failed;

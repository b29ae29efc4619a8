//! The MQTT link: one connection to a broker that comes back by itself.
//!
//! rumqttc speaks MQTT 3.1.1; everything it leaves open is decided here. It reaches the broker through a
//! private tunnel (a Unix socket in a folder of its own), where the link counts the bytes that cross the
//! broker's socket, and takes out incoming messages that would make rumqttc drop the connection: a retained one
//! would otherwise do so again after every reconnect, for ever.
//!
//! A publish that returned `Ok` is queued, nothing more. What must arrive is kept in an outbox until the other
//! side's application has acknowledged it; what is only current (birth, requests) is published anew after every
//! [`Event::Connected`]. So nothing is carried from one connection to the next.

mod backoff;
mod config;
mod driver;
mod event;
mod filter;
mod handle;
mod outlet;
mod stats;
mod tunnel;

pub use backoff::Backoff;
pub use config::{Broker, Credentials, LinkConfig, Qos, Will};
pub use event::Event;
pub use handle::{Link, LinkError, LinkHandle};
pub use stats::LinkStats;

//! The MQTT link: one connection to a broker that comes back by itself.
//!
//! rumqttc speaks MQTT 3.1.1; everything it leaves open is decided here. It reaches the broker through a
//! private tunnel (a Unix socket in a folder of its own), where the link counts the bytes that cross the
//! broker's socket, and takes out incoming messages that would make rumqttc drop the connection: a retained one
//! would otherwise do so again after every reconnect, for ever. TLS is spoken in the tunnel as well: rumqttc's own pins
//! an outdated library.
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
pub mod tls;
mod tunnel;

pub use backoff::{Backoff, Waiting};
pub use config::{Broker, Credentials, LinkConfig, Qos, Will};
pub use event::Event;
pub use handle::{Link, LinkError, LinkHandle};
pub use stats::LinkStats;

/// Decoders of this crate that have no public face, for the fuzz targets; no part of the interface.
#[doc(hidden)]
pub mod fuzz {
    use crate::filter::{Downstream, Refused};

    /// Filters a broker's stream that comes in pieces of at most `piece` bytes; returns what goes on to the
    /// client, which is the same however the stream is cut, and whether the stream is one at all.
    pub fn broker_stream(stream: &[u8], piece: usize, max_packet_bytes: usize) -> (Vec<u8>, bool) {
        let (mut filter, mut out) = (Downstream::new(max_packet_bytes), Vec::new());
        let whole = stream.chunks(piece.max(1)).all(|piece| filter.push(piece, &mut out).is_ok());
        (out, whole)
    }

    /// Reads a message that stands in the place of one taken out; whether it is one.
    pub fn marker(topic: &str, payload: &[u8]) -> bool {
        Refused::from_message(topic, payload).is_some()
    }
}

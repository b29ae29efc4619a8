//! What a link tells its owner.

use std::time::Duration;

/// Something that happened on the link. Within one connection `Connected` comes before its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The broker accepted the connection and every subscription. Publish birth and whatever is current now:
    /// nothing of the connection before was carried over.
    Connected {
        /// Whether the broker kept a session; it has none to keep, the link asks for a clean one.
        session: bool,
    },
    /// The connection ended, or an attempt failed.
    Disconnected {
        /// Why, for a person.
        reason: String,
        /// When the next attempt comes.
        retry_in: Duration,
    },
    /// A message.
    Message {
        /// Topic.
        topic: String,
        /// Payload.
        payload: Vec<u8>,
        /// Whether the broker sent it from its retained ones.
        retain: bool,
    },
    /// A message above the bound was taken out, and confirmed to the broker so that it is not sent again.
    Oversized {
        /// The topic's first 256 bytes.
        topic: String,
        /// Size of the MQTT packet in bytes.
        bytes: u64,
    },
    /// A message that breaks the protocol was taken out, and confirmed if that was possible.
    Malformed {
        /// The topic's first 256 bytes, as far as it is text.
        topic: String,
        /// Size of the MQTT packet in bytes.
        bytes: u64,
    },
    /// The broker refused a subscription or did not confirm it. The link disconnects and tries again later.
    SubscriptionRefused {
        /// The topic filter.
        topic: String,
    },
}

//! What the agent wants published.

/// The two connections of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To the aggregator's broker.
    Uplink,
    /// To the plant's broker.
    Data,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// On which connection.
    pub side: Side,
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS 1 rather than 0.
    pub at_least_once: bool,
    /// Retained.
    pub retain: bool,
}

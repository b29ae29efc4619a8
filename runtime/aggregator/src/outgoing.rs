//! What the core wants published.

use loadonce_wire::Status;

/// A message to publish at QoS 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Retained.
    pub retain: bool,
    /// The boundary that is crossed once the message was handed to the link.
    pub note: Option<Note>,
}

/// A boundary for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A contribution is on disk.
    Persisted {
        /// From this gateway.
        gateway: String,
        /// Of this epoch.
        epoch: u64,
        /// And sequence.
        sequence: u64,
        /// For this task.
        task: String,
    },
    /// An application acknowledgement left.
    Acked {
        /// To this gateway.
        gateway: String,
        /// Of this epoch.
        epoch: u64,
        /// And sequence.
        sequence: u64,
        /// With this outcome.
        status: Status,
    },
    /// A pointer left.
    Pointer {
        /// Of this task.
        task: String,
        /// To this version; 0 for none.
        version: u64,
        /// With this serial.
        serial: u64,
    },
    /// The last piece of an answer to a block request left.
    Block {
        /// To this gateway.
        gateway: String,
        /// Bytes of the whole answer.
        bytes: usize,
    },
}

impl Note {
    /// Writes the boundary's line, which the crash tests read. What happens once per gateway is for those who ask:
    /// ten thousand gateways would bury everything else.
    pub fn log(&self) {
        match self {
            Self::Persisted { gateway, epoch, sequence, task } => tracing::debug!(
                target: "boundary", process = "aggregator", boundary = "intake.persisted",
                gateway, epoch, sequence, task
            ),
            Self::Acked { gateway, epoch, sequence, status } => tracing::debug!(
                target: "boundary", process = "aggregator", boundary = "intake.acked",
                gateway, epoch, sequence, ?status
            ),
            Self::Pointer { task, version, serial } => tracing::info!(
                target: "boundary", process = "aggregator", boundary = "pointer.published", task, version, serial
            ),
            Self::Block { gateway, bytes } => tracing::debug!(
                target: "boundary", process = "aggregator", boundary = "block.served", gateway, bytes
            ),
        }
    }
}

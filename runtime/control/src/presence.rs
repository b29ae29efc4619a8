//! Birth and last will of a gateway, retained on its state topic.

use serde::{Deserialize, Serialize};

/// A backbone a gateway has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackboneInfo {
    /// Name, as in its bundle.
    pub name: String,
    /// Fingerprint, hexadecimal.
    pub fingerprint: String,
}

/// A task a gateway serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Name.
    pub name: String,
    /// Version in its active slot; 0 for none.
    pub version: u64,
}

/// What the state topic holds.
///
/// `incarnation` rises with every start of the agent: the last will of an older one cannot mark a live gateway
/// down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Presence {
    /// Birth: published after every connection.
    Up {
        /// Durable start counter.
        incarnation: u64,
        /// Agent version.
        version: String,
        /// Public key, hexadecimal.
        key: String,
        /// Loaded backbones.
        backbones: Vec<BackboneInfo>,
        /// Served tasks.
        tasks: Vec<TaskInfo>,
        /// Why training pauses, in a word (`heat`, `battery`, `undervoltage`); absent while it does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paused: Option<String>,
    },
    /// Last will, or a goodbye.
    Down {
        /// Start counter of the agent that went.
        incarnation: u64,
    },
}

impl Presence {
    /// The start counter.
    pub fn incarnation(&self) -> u64 {
        match self {
            Self::Up { incarnation, .. } | Self::Down { incarnation } => *incarnation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_will_reads_as_documented() {
        let will = serde_json::to_string(&Presence::Down { incarnation: 7 }).unwrap();
        assert_eq!(will, r#"{"state":"down","incarnation":7}"#);
        assert_eq!(serde_json::from_str::<Presence>(&will).unwrap().incarnation(), 7);
    }
}

//! The pointer: which version of a lineage gateways run, and what the aggregator wants next.

use serde::{Deserialize, Serialize};

/// What the aggregator takes for the open round. Sums are always welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wants {
    /// Statistics, for the next version in closed form.
    Sum,
    /// Steps from the stable version.
    Step,
    /// Nothing: the lineage rests.
    None,
}

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stable {
    /// Version number, from 1.
    pub version: u64,
    /// blake3 of the module file, hexadecimal.
    pub hash: String,
    /// Size of the module file in bytes.
    pub bytes: u32,
    /// blake3 of the previous version's file, hexadecimal; empty for version 1.
    pub base: String,
    /// What makes this version's file out of the one before it, where there is such a short cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<Patch>,
}

/// A patch that can be asked for as a module file can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// blake3 of the patch, hexadecimal.
    pub hash: String,
    /// Its size in bytes.
    pub bytes: u32,
}

/// Retained, signed, on `task/<task>/module/<fingerprint prefix>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pointer {
    /// Site.
    pub site: String,
    /// Task.
    pub task: String,
    /// Backbone fingerprint, hexadecimal.
    pub backbone: String,
    /// Shape fingerprint, hexadecimal.
    pub shape: String,
    /// Only rises; a gateway ignores anything not above what it has seen.
    pub serial: u64,
    /// What the open round takes.
    pub wants: Wants,
    /// The version to run, once there is one.
    pub stable: Option<Stable>,
}

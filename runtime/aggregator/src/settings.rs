//! What the core needs to know, already validated.

use std::collections::BTreeMap;

use loadonce_control::{ManifestError, TaskManifest};
use loadonce_module::Shape;
use loadonce_trust::{PublicKey, encode_hex};
use serde::Deserialize;

/// Who may contribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// Only the gateways listed in the configuration.
    #[default]
    Listed,
    /// Also any other name, bound for good to the key that signed its first accepted contribution.
    FirstUse,
}

/// A task on its backbone.
#[derive(Debug, Clone)]
pub struct Task {
    /// The manifest, as published.
    pub manifest: TaskManifest,
    /// The module's shape on this backbone.
    pub shape: Shape,
    /// The backbone's fingerprint.
    pub backbone: [u8; 32],
    /// What every contribution must agree on.
    pub shape_hash: [u8; 32],
    /// Directions per channel that the backbone has.
    pub directions: usize,
}

impl Task {
    /// The task on a backbone with this fingerprint, this many exits and directions per channel.
    pub fn new(
        manifest: TaskManifest,
        backbone: [u8; 32],
        exits: usize,
        directions: usize,
    ) -> Result<Self, ManifestError> {
        manifest.validate()?;
        let shape = manifest.shape(exits, directions)?;
        let features_of = manifest.features_of(&encode_hex(&backbone), directions);
        let shape_hash = shape.fingerprint(&manifest.classes, &features_of);
        Ok(Self { manifest, shape, backbone, shape_hash, directions })
    }
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The site.
    pub site: String,
    /// Who may contribute.
    pub admission: Admission,
    /// Listed gateways and their keys.
    pub gateways: BTreeMap<String, PublicKey>,
    /// Tasks, each name once.
    pub tasks: Vec<Task>,
    /// Bytes that the history of all lineages may take.
    pub history_bytes: u64,
}

/// Bytes of the history unless told otherwise: weeks of a small fleet, an hour of a large one.
pub const DEFAULT_HISTORY_BYTES: u64 = 256 * 1024 * 1024;

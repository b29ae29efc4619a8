//! When gateways contribute, how rounds open and close, and how steps are encoded.

use serde::{Deserialize, Serialize};

/// What a round of steps waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoundMode {
    /// Steps from the newest version, of as many gateways as the quorum says.
    #[default]
    Sync,
    /// As many steps as the quorum says, whoever they are from (`FedBuff`, Nguyen et al. 2022).
    Buffered,
}

impl RoundMode {
    /// Versions a base may be old where the manifest does not say.
    const fn staleness(self) -> u64 {
        match self {
            // The step of a gateway that missed the deadline.
            Self::Sync => 1,
            // With a quorum of half a fleet, those ten times slower than the rest are about ten versions late.
            Self::Buffered => 16,
        }
    }
}

/// Most versions a base may be old: as many bases the aggregator holds in memory.
pub const MAX_STALENESS: u64 = 256;

/// How rounds open and close.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoundPolicy {
    /// What a round of steps waits for.
    #[serde(skip_serializing_if = "usual_mode")]
    pub mode: RoundMode,
    /// Versions the base of a step may be old, 0 for none; see [`Self::staleness`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staleness: Option<u64>,
    /// Gateways whose contributions close a round at once; steps that do in a buffered round.
    pub quorum: usize,
    /// Gateways without which a round never closes.
    pub minimum: usize,
    /// Seconds from the first contribution after which a round closes without the quorum; 0 for never.
    pub deadline_s: u64,
    /// Gradient rounds after the first version; none for `moments`.
    pub steps: u64,
    /// Largest accepted Euclidean norm of a step.
    pub max_norm: f32,
    /// Samples at which one gateway's weight is clipped.
    pub max_weight: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn usual_mode(mode: &RoundMode) -> bool {
    *mode == RoundMode::Sync
}

impl RoundPolicy {
    /// Versions the base of a step may be old: what the manifest says, else 1 in sync and 16 in buffered rounds.
    pub fn staleness(&self) -> u64 {
        self.staleness.unwrap_or(self.mode.staleness())
    }
}

impl Default for RoundPolicy {
    fn default() -> Self {
        Self {
            mode: RoundMode::Sync,
            staleness: None,
            quorum: 10,
            minimum: 1,
            deadline_s: 3600,
            steps: 3,
            max_norm: 100.0,
            max_weight: 10_000,
        }
    }
}

/// When a gateway contributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncPolicy {
    /// Seconds without a new label before new labels are summed and sent.
    pub settle_s: f64,
    /// Labelled samples without which a gateway neither sums nor trains.
    pub min_labels: usize,
    /// Share of samples held out for good, 0 to 0.5.
    pub heldout: f64,
    /// Seconds over which gateways that return at the same time spread themselves: the fleet's size divided by the
    /// returns a second that broker and aggregator are to see.
    #[serde(skip_serializing_if = "usual_spread")]
    pub spread_s: f64,
    /// How steps, and with them new versions, are encoded.
    #[serde(skip_serializing_if = "StepCodec::is_usual")]
    pub codec: StepCodec,
    /// Most bits per parameter of a step's blob, 0.1 to 8; for the lossy codecs.
    #[serde(skip_serializing_if = "is_usual_bits")]
    pub bits: f32,
    /// Most bits per parameter of the patch that leads to a new version, up to 8; 0 for none: every gateway fetches
    /// every version whole. For the lossy codecs.
    #[serde(skip_serializing_if = "is_usual_patch_bits")]
    pub patch_bits: f32,
}

/// Of ten gateways none waits long, and of a hundred fifty return in a second.
const SPREAD_S: f64 = 2.0;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn usual_spread(spread_s: &f64) -> bool {
    spread_s.to_bits() == SPREAD_S.to_bits()
}

/// `sync.bits` where the manifest is silent: with frames, manifest and acknowledgement below one bit for 40,000
/// parameters.
const BITS: f32 = 0.8;
/// `sync.patch_bits` where the manifest is silent; likewise below two bits.
const PATCH_BITS: f32 = 1.8;

#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::float_cmp,
    reason = "serde asks for it; the same constant"
)]
fn is_usual_bits(bits: &f32) -> bool {
    *bits == BITS
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::float_cmp,
    reason = "serde asks for it; the same constant"
)]
fn is_usual_patch_bits(bits: &f32) -> bool {
    *bits == PATCH_BITS
}

/// How steps are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepCodec {
    /// Whichever of `rotated` and `sparse` loses less of the step at hand.
    #[default]
    Auto,
    /// Exact.
    F32,
    /// Rounded to half precision.
    F16,
    /// Quantized in rotated coordinates, in which all carry alike.
    Rotated,
    /// The large values only, quantized.
    Sparse,
}

impl StepCodec {
    /// Whether it is what a manifest means that does not mention it.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::Auto
    }

    /// Whether it keeps to a number of bits, and new versions come as patches.
    pub fn is_lossy(self) -> bool {
        matches!(self, Self::Auto | Self::Rotated | Self::Sparse)
    }
}

impl SyncPolicy {
    /// Most bits per parameter of the patches that lead to new versions; `None` where versions are served whole only.
    pub fn patched(&self) -> Option<f32> {
        (self.codec.is_lossy() && self.patch_bits > 0.0).then_some(self.patch_bits)
    }
}

impl Default for SyncPolicy {
    fn default() -> Self {
        Self {
            settle_s: 30.0,
            min_labels: 2,
            heldout: 0.2,
            codec: StepCodec::Auto,
            bits: BITS,
            patch_bits: PATCH_BITS,
            spread_s: SPREAD_S,
        }
    }
}

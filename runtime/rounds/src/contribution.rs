//! A contribution: its identity, and the checks that need neither a disk nor a key.

use loadonce_delta::{Codec, most_compressed_bytes};
use loadonce_wire::{Bytes32, ContributionKind, Manifest, Reason};

use crate::Open;
use crate::totals::MAX_MAGNITUDE;

/// What makes two contributions the same: apply is idempotent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContributionId {
    /// The gateway's public key.
    pub key: Bytes32,
    /// Random epoch of the gateway's store.
    pub epoch: u64,
    /// Durable sequence within the epoch.
    pub sequence: u64,
    /// blake3 of the blob.
    pub blob_hash: Bytes32,
}

impl ContributionId {
    /// The identity a manifest states.
    pub fn of(manifest: &Manifest) -> Self {
        let Manifest { key, epoch, sequence, blob_hash, .. } = *manifest;
        Self { key, epoch, sequence, blob_hash }
    }

    /// Key, epoch, sequence (both little-endian), blob hash: what a lineage entry hashes.
    pub fn to_bytes(&self) -> [u8; 80] {
        let mut out = [0; 80];
        out[..32].copy_from_slice(&self.key);
        out[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        out[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        out[48..].copy_from_slice(&self.blob_hash);
        out
    }
}

/// What a lineage takes at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected<'a> {
    /// Backbone fingerprint.
    pub backbone: Bytes32,
    /// Shape fingerprint.
    pub shape: Bytes32,
    /// The versions that steps may be trained from, with the hashes of their module files: the staleness window.
    pub bases: &'a [(u64, Bytes32)],
    /// What the open round takes.
    pub open: Open,
    /// Values of a step.
    pub parameters: usize,
    /// Raw bytes of encoded sums.
    pub sum_bytes: usize,
}

/// Checks everything a manifest says about itself, before a byte of the blob is looked at. Sums are always
/// welcome; a step only while a round of steps is open, and from a base inside the staleness window.
///
/// # Errors
/// The reason that goes into the refusal.
pub fn check_manifest(manifest: &Manifest, expected: &Expected<'_>) -> Result<Codec, Reason> {
    if manifest.backbone != expected.backbone {
        return Err(Reason::WrongBackbone);
    }
    if manifest.shape != expected.shape {
        return Err(Reason::WrongShape);
    }
    let codec = Codec::from_number(manifest.codec).map_err(|_| Reason::Malformed)?;
    let raw = match manifest.kind {
        ContributionKind::Sum => {
            if codec != Codec::Sums || manifest.base_version != 0 || manifest.base_hash != [0; 32] {
                return Err(Reason::Malformed);
            }
            expected.sum_bytes
        }
        ContributionKind::Step => {
            let raw = codec.step_bytes(expected.parameters).ok_or(Reason::Malformed)?;
            if !expected.bases.contains(&(manifest.base_version, manifest.base_hash)) {
                return Err(Reason::StaleBase);
            }
            if expected.open != Open::Step {
                return Err(Reason::RoundClosed);
            }
            // An average weighted by samples has no use for a step without any.
            if manifest.weight == 0 {
                return Err(Reason::Malformed);
            }
            raw
        }
    };
    let most_blob = codec.most_blob_bytes(expected.parameters).unwrap_or(most_compressed_bytes(raw));
    let (stated, blob) = (manifest.raw_bytes as usize, manifest.blob_bytes as usize);
    if stated > raw || blob > most_blob {
        return Err(Reason::TooLarge);
    }
    if stated < raw { Err(Reason::Malformed) } else { Ok(codec) }
}

/// Partial sums of [`norm`]: as many as hide what one addition waits for another.
const LANES: usize = 8;

/// Euclidean norm in f64: eight sums, of every eighth value each, then their sum in order. The same on every machine.
pub fn norm(step: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let (whole, rest) = step.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for values in whole {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += square(value);
        }
    }
    (sums.iter().sum::<f64>() + rest.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

/// Refuses a step that is not finite, is longer than `max_norm`, or holds a value that the totals cannot take:
/// what was acknowledged must not be left out later.
///
/// # Errors
/// `NotFinite` or `OverNorm`.
pub fn check_step(step: &[f32], max_norm: f32) -> Result<(), Reason> {
    if step.iter().any(|v| !v.is_finite()) {
        return Err(Reason::NotFinite);
    }
    let fits = step.iter().all(|v| v.abs() < MAX_MAGNITUDE);
    if !fits || norm(step) > f64::from(max_norm) { Err(Reason::OverNorm) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_wire::Name;

    fn manifest(kind: ContributionKind) -> Manifest {
        let step = kind == ContributionKind::Step;
        Manifest {
            kind,
            codec: if step { 2 } else { 16 },
            key: [1; 32],
            epoch: 2,
            sequence: 3,
            task: Name::new("digits").unwrap(),
            backbone: [4; 32],
            shape: [5; 32],
            base_version: if step { 6 } else { 0 },
            base_hash: if step { [7; 32] } else { [0; 32] },
            weight: 8,
            heldout_samples: 0,
            heldout_before: 0.0,
            heldout_after: 0.0,
            raw_bytes: if step { 20 } else { 160 },
            blob_bytes: 30,
            blob_hash: [9; 32],
            signature: [0; 64],
        }
    }

    fn expected() -> Expected<'static> {
        Expected {
            backbone: [4; 32],
            shape: [5; 32],
            bases: &[(5, [17; 32]), (6, [7; 32])],
            open: Open::Step,
            parameters: 10,
            sum_bytes: 160,
        }
    }

    /// A change to a manifest.
    type Change = fn(&mut Manifest);

    #[test]
    fn what_fits_is_taken() {
        for (base_version, base_hash) in [(6, [7; 32]), (5, [17; 32])] {
            let step = Manifest { base_version, base_hash, ..manifest(ContributionKind::Step) };
            assert_eq!(check_manifest(&step, &expected()), Ok(Codec::StepF16));
        }
        // A lossy step states the size of its parameters, and is bounded by its own codec.
        for (blob_bytes, outcome) in [(34, Ok(Codec::StepSparse)), (35, Err(Reason::TooLarge))] {
            let step = Manifest { codec: 4, raw_bytes: 40, blob_bytes, ..manifest(ContributionKind::Step) };
            assert_eq!(check_manifest(&step, &expected()), outcome);
        }
        for open in [Open::Sum, Open::Step, Open::None] {
            let sum = manifest(ContributionKind::Sum);
            assert_eq!(check_manifest(&sum, &Expected { open, ..expected() }), Ok(Codec::Sums));
        }
    }

    #[test]
    fn invariant_04_only_for_its_backbone_shape_and_base() {
        let cases: [(Change, Reason); 11] = [
            (|m| m.backbone = [0; 32], Reason::WrongBackbone),
            (|m| m.shape = [0; 32], Reason::WrongShape),
            (|m| m.base_version = 5, Reason::StaleBase),
            (|m| (m.base_version, m.base_hash) = (4, [27; 32]), Reason::StaleBase),
            (|m| m.base_version = 7, Reason::StaleBase),
            (|m| m.base_hash = [0; 32], Reason::StaleBase),
            (|m| m.codec = 16, Reason::Malformed),
            (|m| m.codec = 99, Reason::Malformed),
            (|m| m.raw_bytes = 21, Reason::TooLarge),
            (|m| m.raw_bytes = 19, Reason::Malformed),
            (|m| m.blob_bytes = 5000, Reason::TooLarge),
        ];
        for (change, reason) in cases {
            let mut step = manifest(ContributionKind::Step);
            change(&mut step);
            assert_eq!(check_manifest(&step, &expected()), Err(reason));
        }
        for open in [Open::Sum, Open::None] {
            let refused = check_manifest(&manifest(ContributionKind::Step), &Expected { open, ..expected() });
            assert_eq!(refused, Err(Reason::RoundClosed));
        }
        let cases: [(Change, Reason); 4] = [
            (|m| m.codec = 1, Reason::Malformed),
            (|m| m.base_version = 6, Reason::Malformed),
            (|m| m.raw_bytes = 4_000_000, Reason::TooLarge),
            (|m| m.backbone = [0; 32], Reason::WrongBackbone),
        ];
        for (change, reason) in cases {
            let mut sum = manifest(ContributionKind::Sum);
            change(&mut sum);
            assert_eq!(check_manifest(&sum, &expected()), Err(reason));
        }
    }

    #[test]
    fn the_norm_takes_every_value() {
        for length in [0, 1, 7, 8, 9, 100] {
            let step: Vec<f32> = (1..=length).map(|i| i as f32).collect();
            let squares = (1..=u64::from(length as u32)).map(|i| i * i).sum::<u64>();
            assert_eq!(norm(&step).to_bits(), (squares as f64).sqrt().to_bits());
        }
    }

    #[test]
    fn invariant_14_what_is_not_finite_or_over_norm_is_refused() {
        assert_eq!(check_step(&[3.0, 4.0], 5.0), Ok(()));
        assert_eq!(check_step(&[3.0, 4.1], 5.0), Err(Reason::OverNorm));
        assert_eq!(check_step(&[f32::MAX; 4], 5.0), Err(Reason::OverNorm));
        assert_eq!(check_step(&[131_007.0], f32::MAX), Ok(()));
        assert_eq!(check_step(&[MAX_MAGNITUDE], f32::MAX), Err(Reason::OverNorm));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(check_step(&[0.0, bad], 5.0), Err(Reason::NotFinite));
        }
    }
}

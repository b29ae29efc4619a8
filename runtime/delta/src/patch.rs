//! Patches: what makes a version's parameters out of those of the version before it.
//!
//! Version N *is* what [`apply_patch`] makes of version N−1 and the patch. The aggregator computes it with the same
//! function as every gateway and writes the module file from the outcome, so a gateway that has version N−1 arrives
//! at the same file, byte for byte, as one that fetches it whole.
//!
//! A patch is one byte, the number of its codec, and a blob of that codec.

use half::f16;

use crate::lossy::{self, Budget};
use crate::{Codec, DeltaError, decode_step};

/// A patch and what it makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// What is published.
    pub bytes: Vec<u8>,
    /// The new version's parameters, each a half-precision number.
    pub params: Vec<f32>,
}

/// A patch within the budget that leads from `base` as near to `wanted` as it can; both of one length.
///
/// # Errors
/// `NotFinite`, `TooLarge`, `Length`.
pub fn encode_patch(base: &[f32], wanted: &[f32], budget: &Budget) -> Result<Patch, DeltaError> {
    if base.len() != wanted.len() {
        return Err(DeltaError::Length { found: 4 * wanted.len(), expected: 4 * base.len() });
    }
    let mut step: Vec<f32> = wanted.iter().zip(base).map(|(new, old)| new - old).collect();
    let (codec, encoded) = lossy::encode_auto(&mut step, budget)?;
    let mut bytes = Vec::with_capacity(1 + encoded.blob.len());
    bytes.push(codec.number());
    bytes.extend_from_slice(&encoded.blob);
    let params = apply_patch(base, &bytes)?;
    Ok(Patch { bytes, params })
}

/// The parameters that `patch` makes of `base`: each the sum of the two in f32, rounded to half precision (ties to
/// even, saturating at ±65504).
///
/// # Errors
/// `UnknownCodec`, `WrongKind`, `Corrupt`, `Length` or `NotFinite` where the bytes are no patch of this length.
pub fn apply_patch(base: &[f32], patch: &[u8]) -> Result<Vec<f32>, DeltaError> {
    let (&number, blob) = patch
        .split_first()
        .ok_or(DeltaError::Corrupt { expected: 4 * base.len(), reason: "it is empty".into() })?;
    let codec = Codec::from_number(number)?;
    let mut params = decode_step(codec, blob, base.len())?;
    let limit = f16::MAX.to_f32();
    for (index, (value, base)) in params.iter_mut().zip(base).enumerate() {
        let sum = base + *value;
        if !sum.is_finite() {
            return Err(DeltaError::NotFinite { index });
        }
        *value = f16::from_f32(sum.clamp(-limit, limit)).to_f32();
    }
    Ok(params)
}

/// Most bytes of a patch of `parameters` values.
pub fn most_patch_bytes(parameters: usize) -> usize {
    Codec::StepSparse.most_blob_bytes(parameters).unwrap_or(usize::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_sides_arrive_at_the_same_parameters(
            base in proptest::collection::vec(-2f32..2.0, 1..600), bits in 0.5f32..8.0, seed: u32,
        ) {
            let base: Vec<f32> = base.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
            let wanted: Vec<f32> = base.iter().enumerate().map(|(i, v)| v + ((i * 37 % 19) as f32 - 9.0) / 300.0).collect();
            let budget = Budget { bits, seed, row: 16 };
            let patch = encode_patch(&base, &wanted, &budget).unwrap();
            prop_assert!(patch.bytes.len() <= most_patch_bytes(base.len()));
            let again = apply_patch(&base, &patch.bytes).unwrap();
            prop_assert!(again.iter().zip(&patch.params).all(|(a, b)| a.to_bits() == b.to_bits()));
            prop_assert!(again.iter().all(|&v| f16::from_f32(v).to_f32().to_bits() == v.to_bits()));
        }

        #[test]
        fn arbitrary_patches_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), n in 0usize..500) {
            let base = vec![1.0; n];
            if let Ok(params) = apply_patch(&base, &bytes) {
                prop_assert!(params.len() == n && params.iter().all(|v| v.is_finite()));
            }
        }
    }

    #[test]
    fn what_leaves_the_half_precision_saturates_and_lengths_must_agree() {
        let budget = Budget { bits: 8.0, seed: 1, row: 0 };
        let patch = encode_patch(&[65_504.0, 0.0], &[70_000.0, 0.0], &budget).unwrap();
        assert_eq!(patch.params, [65_504.0, 0.0]);
        assert!(matches!(encode_patch(&[0.0], &[0.0, 1.0], &budget), Err(DeltaError::Length { .. })));
        assert!(matches!(apply_patch(&[0.0], &[]), Err(DeltaError::Corrupt { .. })));
        assert!(matches!(apply_patch(&[0.0], &[16]), Err(DeltaError::WrongKind(Codec::Sums))));
    }
}

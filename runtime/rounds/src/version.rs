//! Parameters of the next version.

use half::f16;
use loadonce_delta::{Budget, DeltaError, Patch, encode_patch};
use loadonce_module::{Shape, SolveError, SolveOptions, Sums, closed_form};
use loadonce_wire::Bytes32;
use thiserror::Error;

use crate::StepTotals;

/// Why no version can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum VersionError {
    /// The totals have no solution.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// No step, or steps without weight.
    #[error("the round holds no weighted step; wait for one")]
    NoWeight,
    /// Base and steps differ in length.
    #[error("the base has {base} parameters, the steps {steps}; the round belongs to another shape")]
    Length {
        /// Of the base.
        base: usize,
        /// Of the steps.
        steps: usize,
    },
    /// A parameter is not a number.
    #[error("parameter {index} of the new version is not finite; look for a corrupt contribution")]
    NotFinite {
        /// Position.
        index: usize,
    },
}

/// The version that totals define, prior-free: the closed-form module itself, or the start of a trained one.
pub fn from_sums(shape: &Shape, totals: &Sums, options: &SolveOptions) -> Result<Vec<f32>, VersionError> {
    publishable(closed_form(shape, totals, options)?.into_iter().map(f64::from))
}

/// The newest version plus the weighted mean of the steps, whatever bases they were trained from; `before` as in
/// [`StepTotals::mean`].
pub fn from_steps(base: &[f32], totals: &StepTotals, before: &[u64]) -> Result<Vec<f32>, VersionError> {
    if base.len() != totals.parameters() {
        return Err(VersionError::Length { base: base.len(), steps: totals.parameters() });
    }
    let mean = totals.mean(before).ok_or(VersionError::NoWeight)?;
    publishable(base.iter().zip(mean).map(|(&base, mean)| f64::from(base) + mean))
}

/// What a patch to a new version is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatchPolicy {
    /// Most bits per parameter.
    pub bits: f32,
    /// Features of the module, which form the rows of its largest matrix.
    pub row: usize,
    /// Size of the previous version's module file in bytes.
    pub whole: usize,
}

/// The patch that leads from `base`, whose module file has the hash `base_hash`, as near to `params` as it can; the
/// version then *is* what the patch makes. `None` where the module is so small that its file is hardly longer: then the
/// version is `params`.
///
/// # Errors
/// What keeps the patch from being made.
pub fn patch_to(
    params: &[f32],
    base: &[f32],
    base_hash: &Bytes32,
    policy: &PatchPolicy,
) -> Result<Option<Patch>, DeltaError> {
    let [a, b, c, d, ..] = *base_hash;
    let budget = Budget { bits: policy.bits, seed: u32::from_le_bytes([a, b, c, d]), row: policy.row };
    // A small module is its header above all.
    Ok(Some(encode_patch(base, params, &budget)?).filter(|patch| patch.bytes.len() < policy.whole / 2))
}

/// Rounds parameters to what the module file stores (binary16, ties to even, by way of binary32, saturating at
/// ±65504): what is trained from a version is trained from exactly the bytes that travel.
pub fn publishable(params: impl IntoIterator<Item = f64>) -> Result<Vec<f32>, VersionError> {
    let round = |(index, value): (usize, f64)| {
        if !value.is_finite() {
            return Err(VersionError::NotFinite { index });
        }
        let limit = f16::MAX.to_f32();
        Ok(f16::from_f32((value as f32).clamp(-limit, limit)).to_f32())
    };
    params.into_iter().enumerate().map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Share;
    use loadonce_module::{Head, Recipe};

    fn totals(samples: &[(&[i16], u16)]) -> Sums {
        let mut sums = Sums::zero(2, 3, 2).unwrap();
        for (z, label) in samples {
            sums.add(z, *label, 1).unwrap();
        }
        sums
    }

    #[test]
    fn sums_give_every_recipe_a_first_version() {
        let totals = totals(&[
            (&[4096, 0, 100, 4096, 10, 0], 0),
            (&[4000, 50, 0, 4100, 0, 90], 0),
            (&[-4096, 0, 30, -4096, 0, 0], 1),
            (&[-4000, -50, 0, -4100, 60, 0], 1),
        ]);
        for recipe in [Recipe::Moments, Recipe::Probe, Recipe::Ladder { rank: 2 }] {
            let shape = Shape { recipe, head: Head::Classify, exits: 2, features: 3, outputs: 2 };
            let params = from_sums(&shape, &totals, &SolveOptions::default()).unwrap();
            assert_eq!(params.len(), shape.parameters());
            assert!(params.iter().all(|&v| f16::from_f32(v).to_f32().to_bits() == v.to_bits()));
        }
    }

    #[test]
    fn no_samples_no_version() {
        let shape =
            Shape { recipe: Recipe::Moments, head: Head::Classify, exits: 2, features: 3, outputs: 2 };
        assert_eq!(
            from_sums(&shape, &totals(&[]), &SolveOptions::default()),
            Err(VersionError::Solve(SolveError::NoSamples))
        );
    }

    #[test]
    fn steps_move_the_base_by_their_weighted_mean() {
        let mut totals = StepTotals::new(2);
        totals.add(&[1.0, 0.0], 3, 100, Share::once(0)).unwrap();
        totals.add(&[0.0, 4.0], 1, 100, Share::once(0)).unwrap();
        assert_eq!(from_steps(&[10.0, 20.0], &totals, &[]).unwrap(), [10.75, 21.0]);
        assert_eq!(from_steps(&[10.0, 20.0], &totals, &[12]).unwrap(), [10.375, 20.5]);
        assert_eq!(from_steps(&[10.0], &totals, &[]), Err(VersionError::Length { base: 1, steps: 2 }));
        assert_eq!(from_steps(&[0.0], &StepTotals::new(1), &[]), Err(VersionError::NoWeight));
    }

    #[test]
    fn parameters_are_rounded_and_saturate() {
        assert_eq!(publishable([0.1, 1e9, -1e9]).unwrap(), [0.099_975_586, 65504.0, -65504.0]);
        assert_eq!(publishable([0.0, f64::NAN]), Err(VersionError::NotFinite { index: 1 }));
    }
}

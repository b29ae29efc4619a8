//! The exact weighted total of steps: integers, so the order and the grouping never show.

use thiserror::Error;

use crate::share::Share;
use crate::staleness::STALENESS_BITS;

/// Fractional bits kept of every value.
const SCALE_BITS: u32 = 32;
/// No step holds a value at or beyond this magnitude: parameters are within ±65504, so no two differ by more than
/// 131008. It leaves room for 2²² steps.
pub const MAX_MAGNITUDE: f32 = (1u32 << 17) as f32;
/// Most steps of one total.
const MAX_STEPS: u32 = 1 << 22;
/// Times its steps' mean that a total may move a module at most.
const MOST_MEANS: u128 = 2;

/// Why a step was not added. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TotalsError {
    /// Another number of parameters.
    #[error("a step of {got} values cannot join totals of {want}; it belongs to another shape")]
    Length {
        /// Given.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// A value is not finite or not within ±2¹⁷.
    #[error("value {index} of the step is not a usable number; refuse the step")]
    Value {
        /// Position.
        index: usize,
    },
    /// 2²² steps are in.
    #[error("the totals hold their most, 2^22 steps; close the round")]
    Full,
}

/// Σ weight · pull · round(value · 2³²) per parameter in i128, with Σ weight · stand; [`Share`] says what a step pulls
/// and stands for, both in units of 2⁻¹⁶.
///
/// |value| < 2¹⁷, weight < 2³², pull ≤ 2⁸ · 2¹⁶ and at most 2²² steps keep every total below 2¹²⁷.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTotals {
    values: Vec<i128>,
    weight: u128,
    steps: u32,
}

impl StepTotals {
    /// Totals of nothing.
    pub fn new(parameters: usize) -> Self {
        Self { values: vec![0; parameters], weight: 0, steps: 0 }
    }

    /// Adds one step; a weight above `max_weight` counts as `max_weight`, so that no gateway outvotes the rest.
    ///
    /// A staleness weight is in what the step pulls and not in what it stands for (`FedBuff`, algorithm 1): a late step
    /// pulls less, and a round of late steps only moves less than one of fresh ones.
    pub fn add(
        &mut self,
        step: &[f32],
        weight: u32,
        max_weight: u32,
        share: Share,
    ) -> Result<(), TotalsError> {
        if step.len() != self.values.len() {
            return Err(TotalsError::Length { got: step.len(), want: self.values.len() });
        }
        let usable = |v: &f32| v.abs() < MAX_MAGNITUDE;
        if let Some(index) = step.iter().position(|v| !usable(v)) {
            return Err(TotalsError::Value { index });
        }
        let steps = self.more(1)?;
        let weight = u64::from(weight.min(max_weight));
        let pull = i128::from(weight * u64::from(share.pulls()));
        for (total, &value) in self.values.iter_mut().zip(step) {
            *total += i128::from(fixed(value)) * pull;
        }
        self.weight += u128::from(weight * u64::from(share.stands()));
        self.steps = steps;
        Ok(())
    }

    /// Adds the totals of another group of steps.
    pub fn merge(&mut self, other: &Self) -> Result<(), TotalsError> {
        if other.values.len() != self.values.len() {
            return Err(TotalsError::Length { got: other.values.len(), want: self.values.len() });
        }
        self.steps = self.more(other.steps)?;
        self.weight += other.weight;
        for (total, value) in self.values.iter_mut().zip(&other.values) {
            *total += value;
        }
        Ok(())
    }

    fn more(&self, steps: u32) -> Result<u32, TotalsError> {
        self.steps.checked_add(steps).filter(|&sum| sum <= MAX_STEPS).ok_or(TotalsError::Full)
    }

    /// Σ weight · stand after clipping, in whole units of weight.
    pub fn weight(&self) -> u64 {
        (self.weight >> STALENESS_BITS) as u64
    }

    /// Steps added.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Parameters.
    pub fn parameters(&self) -> usize {
        self.values.len()
    }

    /// By how much each parameter moves: the weighted mean of the steps, where `before` is empty. With the
    /// [`Self::weight`]s of the versions before it, the steps are divided by the mean of these and their own instead,
    /// so that a version of few or lightly counting steps moves the module less and one of many more, but at most
    /// twice as far as their mean. Divided by its own weight alone, a version without any of the slow
    /// gateways would move as far as one with several of them, and the fast ones would count for more than they are.
    ///
    /// `None` without weight. Integers are converted once and divided once, both correctly rounded, so every machine
    /// gets the same bits.
    pub fn mean(&self, before: &[u64]) -> Option<impl Iterator<Item = f64>> {
        let all = before.iter().map(|&weight| u128::from(weight)).sum::<u128>() << STALENESS_BITS;
        let usual = (all + self.weight) / (before.len() as u128 + 1);
        let divisor = usual.max(self.weight.div_ceil(MOST_MEANS));
        // Times a power of two: exact.
        let scale = divisor as f64 * (1u64 << SCALE_BITS) as f64;
        (self.weight > 0).then(|| self.values.iter().map(move |&total| total as f64 / scale))
    }
}

/// round(value · 2³²), ties to even; the product is exact.
///
/// Up to 2⁵¹ the sum with 1.5 · 2⁵² lies where an f64 has no fraction, so the addition itself rounds, ties to even, and
/// the integer stands in its low bits (Hacker's Delight, 2nd edition, section 17.3). Machines without an instruction
/// for rounding, such as the x86-64 that is built for, otherwise call a function for each value.
fn fixed(value: f32) -> i64 {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let scaled = f64::from(value) * 4_294_967_296.0;
    if scaled.abs() <= 2_251_799_813_685_248.0 {
        ((scaled + SHIFT).to_bits() as i64).wrapping_sub(SHIFT.to_bits() as i64)
    } else {
        scaled.round_ties_even() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole() -> Share {
        Share::once(0)
    }

    type Weighted = (Vec<f32>, u32, Share);

    fn steps() -> impl Strategy<Value = Vec<Weighted>> {
        let values = proptest::collection::vec(-1e5f32..1e5, 5);
        let share = prop_oneof![
            (0u64..40).prop_map(Share::once),
            (1u64..300, 1usize..3, 0u64..40)
                .prop_map(|(span, steps, late)| Share::of_span(span, steps, late)),
        ];
        proptest::collection::vec((values, 0u32..u32::MAX, share), 1..12)
    }

    fn total<'a>(steps: impl IntoIterator<Item = &'a Weighted>) -> StepTotals {
        let mut totals = StepTotals::new(5);
        for (step, weight, share) in steps {
            totals.add(step, *weight, u32::MAX, *share).unwrap();
        }
        totals
    }

    proptest! {
        #[test]
        fn order_and_split_never_show(
            steps in steps(),
            seed in any::<u64>(),
            before in proptest::collection::vec(any::<u64>(), 0..5),
        ) {
            let whole = total(&steps);
            let mut shuffled: Vec<_> = steps.iter().enumerate().collect();
            shuffled.sort_by_key(|(i, _)| seed.wrapping_mul(*i as u64 * 2 + 1).rotate_left(17));
            prop_assert_eq!(&whole, &total(shuffled.iter().map(|(_, step)| *step)));
            let cut = seed as usize % (steps.len() + 1);
            let mut merged = total(&steps[..cut]);
            merged.merge(&total(&steps[cut..])).unwrap();
            prop_assert_eq!(&whole, &merged);
            prop_assert_eq!(
                whole.mean(&before).map(Iterator::collect::<Vec<_>>),
                merged.mean(&before).map(Iterator::collect::<Vec<_>>)
            );
        }

        #[test]
        fn rounding_is_that_of_the_standard(bits in any::<u32>(), halves in -(1i64 << 23)..1 << 23) {
            // Any number, and those halfway between two integers.
            for value in [f32::from_bits(bits), halves as f32 * 2f32.powi(-33), halves as f32 * 2f32.powi(-3)] {
                if value.abs() < MAX_MAGNITUDE {
                    let expected = (f64::from(value) * 4_294_967_296.0).round_ties_even() as i64;
                    prop_assert_eq!(fixed(value), expected, "{}", value);
                }
            }
        }

        #[test]
        fn the_mean_is_the_mean(values in proptest::collection::vec(-100f32..100.0, 1..10), weight in 1u32..1000) {
            let mut totals = StepTotals::new(1);
            for &value in &values {
                totals.add(&[value], weight, u32::MAX, whole()).unwrap();
            }
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
            let got = totals.mean(&[]).unwrap().next().unwrap();
            prop_assert!((got - mean).abs() < 1e-9, "{} {}", got, mean);
        }
    }

    #[test]
    fn invariant_14_one_weight_is_clipped() {
        let mut totals = StepTotals::new(1);
        totals.add(&[1.0], u32::MAX, 10, whole()).unwrap();
        totals.add(&[0.0], 10, 10, whole()).unwrap();
        assert_eq!((totals.weight(), totals.steps()), (20, 2));
        assert_eq!(totals.mean(&[]).unwrap().next(), Some(0.5));
    }

    #[test]
    fn the_largest_values_do_not_overflow_and_larger_ones_are_refused() {
        let largest = f32::from_bits(MAX_MAGNITUDE.to_bits() - 1);
        let mut totals = StepTotals::new(2);
        for _ in 0..1000 {
            totals.add(&[largest, -largest], u32::MAX, u32::MAX, whole()).unwrap();
        }
        assert_eq!(totals.mean(&[]).unwrap().collect::<Vec<_>>(), [f64::from(largest), f64::from(-largest)]);
        let before = totals.clone();
        for bad in [MAX_MAGNITUDE, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(totals.add(&[0.0, bad], 1, 1, whole()), Err(TotalsError::Value { index: 1 }));
        }
        assert_eq!(totals.add(&[0.0], 1, 1, whole()), Err(TotalsError::Length { got: 1, want: 2 }));
        assert_eq!(totals, before);
    }

    #[test]
    fn the_most_steps_of_the_largest_values_fit() {
        // |fixed(value)| < 2^49, times 2^32 · 2^8 · 2^16, times 2^22 steps: the bound of the documentation.
        let most = Share::of_span(crate::MAX_SPAN, 1, 0);
        assert_eq!((most.pulls(), most.stands()), (1 << 24, 1 << 24));
        let one = i128::from(fixed(-f32::from_bits(MAX_MAGNITUDE.to_bits() - 1)));
        let step = one * i128::from(u64::from(u32::MAX) * u64::from(most.pulls()));
        assert!(step.checked_mul(i128::from(MAX_STEPS)).is_some());
        assert!(
            u64::from(u32::MAX).checked_mul(crate::MAX_SPAN * u64::from(MAX_STEPS)).is_some(),
            "the weight"
        );
        let mut totals = StepTotals { values: vec![0], weight: 0, steps: MAX_STEPS };
        assert_eq!(totals.add(&[0.0], 1, 1, whole()), Err(TotalsError::Full));
        assert_eq!(
            totals.merge(&StepTotals { values: vec![0], weight: 0, steps: 1 }),
            Err(TotalsError::Full)
        );
    }

    #[test]
    fn a_late_step_pulls_less_and_is_not_made_up_for() {
        let mean = |steps: &[(f32, u64)]| {
            let mut totals = StepTotals::new(1);
            for &(value, staleness) in steps {
                totals.add(&[value], 7, 100, Share::once(staleness)).unwrap();
            }
            totals.mean(&[]).unwrap().next().unwrap()
        };
        assert!((mean(&[(1.0, 0), (1.0, 3)]) - 0.75).abs() < 1e-12);
        assert!((mean(&[(1.0, 3), (1.0, 3)]) - 0.5).abs() < 1e-12, "late steps alone move less");
        assert!((mean(&[(1.0, 0), (1.0, 0)]) - 1.0).abs() < 1e-12);
        assert!(mean(&[(1.0, u64::MAX)]).abs() < 1e-12);
    }

    #[test]
    fn a_version_moves_by_what_its_steps_stand_for_beside_those_before() {
        let moved = |steps: &[u64], before: &[u64]| {
            let mut totals = StepTotals::new(1);
            for &span in steps {
                totals.add(&[1.0], 4, 100, Share::of_span(span, 1, span)).unwrap();
            }
            (totals.weight(), totals.mean(before).unwrap().next().unwrap())
        };
        assert_eq!(moved(&[1, 3], &[]), (16, 1.0));
        assert_eq!(moved(&[1, 3], &[16, 16]), (16, 1.0));
        assert_eq!(moved(&[1, 1], &[16, 24]), (8, 0.5), "half of the usual weight, half the way");
        assert_eq!(moved(&[1, 5], &[12]), (24, 24.0 / 18.0));
        assert_eq!(moved(&[10, 10], &[1, 1, 1, 1, 1, 1, 1]), (80, 2.0), "no further than twice the mean");
    }

    #[test]
    fn nothing_has_no_mean() {
        assert!(StepTotals::new(3).mean(&[]).is_none());
    }
}

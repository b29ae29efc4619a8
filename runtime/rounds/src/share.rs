//! What a step counts for beside its weight.

use std::collections::HashMap;

use loadonce_wire::Bytes32;

use crate::staleness::{STALENESS_BITS, staleness_weight};

/// Most versions that a gateway's part in one round may stand for.
pub const MAX_SPAN: u64 = 256;

/// Versions that a gateway's steps in the round that leads to `version` stand for: those cut since its steps last went
/// into one, `last`, this one included, but no more than `most`. Of a gateway that is not known to have taken part it
/// is all of them since the first, up to `most`.
///
/// So a gateway that is in every tenth version counts as much as ten times as many steps would, and a mean over time
/// is one over gateways, not over those who are fast (`FedAU`: Wang & Ji 2023, "A Lightweight Method for Tackling
/// Unknown Participation Statistics in Federated Averaging", algorithm 2, with `most` as its K). Over any versions in
/// a row what a gateway stands for sums up to their number and `most` at most, whatever it does.
pub fn span(version: u64, last: Option<u64>, most: u64) -> u64 {
    // Version 1 is what the first steps are made from.
    let since = version.saturating_sub(last.unwrap_or(1));
    since.clamp(1, most.clamp(1, MAX_SPAN))
}

/// A step's share, in units of 2⁻¹⁶ of its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// What it adds to what the mean is divided by.
    stands: u32,
    /// What its values are multiplied by.
    pulls: u32,
}

impl Share {
    /// A whole step, whose base is `staleness` versions old: it counts once and pulls by its staleness weight.
    pub fn once(staleness: u64) -> Self {
        Self { stands: 1 << STALENESS_BITS, pulls: staleness_weight(staleness) }
    }

    /// One of `steps` of a gateway that together stand for `span` versions. Being late by as many versions as it
    /// stands for is the gateway's pace and costs nothing; what its base is older than that weighs as it does in
    /// [`Self::once`].
    pub fn of_span(span: u64, steps: usize, staleness: u64) -> Self {
        let span = span.clamp(1, MAX_SPAN);
        // At most 2⁸ · 2¹⁶; what the division leaves is lost to the gateway.
        let part = |weight: u32| (span * u64::from(weight) / steps.max(1) as u64) as u32;
        Self {
            stands: part(1 << STALENESS_BITS),
            pulls: part(staleness_weight(staleness.saturating_sub(span))),
        }
    }

    pub(crate) fn stands(self) -> u32 {
        self.stands
    }

    pub(crate) fn pulls(self) -> u32 {
        self.pulls
    }
}

/// How the steps of a round count, by what versions were made of before it. A function of the lineage so far and of the
/// round's contributions as a set: neither order nor time shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pace {
    /// Every step once: `Sync` rounds, which wait for all.
    Once,
    /// Every step for as many versions as its gateway was not in: `Buffered` rounds, which wait for nobody.
    Spans {
        /// The version that the round leads to.
        version: u64,
        /// Most versions a gateway's part stands for: the staleness window.
        most: u64,
        /// The newest version that steps of each gateway went into, where that was one of the `most` before this one.
        last: HashMap<Bytes32, u64>,
        /// Weights of the `most` − 1 versions before this one, as far as they were made from steps.
        before: Vec<u64>,
    },
}

impl Pace {
    /// The share of one of `steps` steps of a gateway in this round, whose base is `staleness` versions old.
    pub fn share(&self, gateway: &Bytes32, steps: usize, staleness: u64) -> Share {
        match self {
            Self::Once => Share::once(staleness),
            Self::Spans { version, most, last, .. } => {
                Share::of_span(span(*version, last.get(gateway).copied(), *most), steps, staleness)
            }
        }
    }

    /// Weights that a version's own is seen beside, see [`crate::StepTotals::mean`].
    pub fn before(&self) -> &[u64] {
        match self {
            Self::Once => &[],
            Self::Spans { before, .. } => before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_span_reaches_back_to_the_last_part_and_no_further_than_the_most() {
        let spans = [(2, None), (3, Some(2)), (9, Some(2)), (40, Some(2)), (5, None), (40, None)];
        assert_eq!(spans.map(|(version, last)| span(version, last, 16)), [1, 1, 7, 16, 4, 16]);
        assert_eq!(span(40, Some(2), 0), 1, "without a window every part counts once");
        assert_eq!(span(4000, None, u64::MAX), MAX_SPAN);
        assert_eq!(span(2, Some(9), 16), 1, "not that it happens");
    }

    #[test]
    fn shares_are_fixed_for_ever() {
        let share = |stands, pulls| Share { stands, pulls };
        assert_eq!(Share::once(0), share(65_536, 65_536));
        assert_eq!(Share::once(3), share(65_536, 32_768));
        assert_eq!(Share::of_span(1, 1, 0), share(65_536, 65_536));
        assert_eq!(Share::of_span(10, 1, 10), share(655_360, 655_360), "its pace costs nothing");
        assert_eq!(Share::of_span(1, 1, 4), share(65_536, 32_768), "three versions later than that");
        assert_eq!(Share::of_span(3, 2, 0), share(98_304, 98_304), "two share what one would have");
        assert_eq!(Share::of_span(1, 3, 0), share(21_845, 21_845));
        assert_eq!(Share::of_span(u64::MAX, 1, 0), share(1 << 24, 1 << 24));
    }

    #[test]
    fn the_pace_of_sync_is_even_and_that_of_a_buffer_by_gateway() {
        assert_eq!(Pace::Once.share(&[1; 32], 2, 3), Share::once(3));
        assert!(Pace::Once.before().is_empty());
        let last = HashMap::from([([1; 32], 8), ([2; 32], 3)]);
        let pace = Pace::Spans { version: 9, most: 4, last, before: vec![7] };
        let spans = [[1; 32], [2; 32], [3; 32]].map(|gateway| pace.share(&gateway, 1, 0).stands() >> 16);
        assert_eq!(spans, [1, 4, 4]);
        assert_eq!((pace.share(&[2; 32], 2, 4).stands() >> 16, pace.before()), (2, &[7][..]));
    }

    proptest! {
        /// Whenever it comes, and with however many steps at once.
        #[test]
        fn invariant_14_staying_away_gains_no_more_than_the_most(
            parts in proptest::collection::vec((1u64..40, 1usize..4, 0u64..40), 1..60),
            first in 2u64..50,
            most in 1u64..=MAX_SPAN,
        ) {
            let (mut version, mut last, mut stands, mut pulls) = (first, None, 0u64, 0u64);
            for (pause, steps, staleness) in parts {
                for _ in 0..steps {
                    let share = Share::of_span(span(version, last, most), steps, staleness);
                    stands += u64::from(share.stands());
                    pulls += u64::from(share.pulls());
                }
                last = Some(version);
                let versions = version - first + 1;
                prop_assert!(stands <= (versions - 1 + most) << STALENESS_BITS);
                prop_assert!(pulls <= stands);
                version += pause;
            }
        }
    }
}

//! Pauses with full jitter: many gateways that lose the same aggregator must not come back in step.
//!
//! Every pause takes a *draw*: 64 uniform random bits from its caller, who has the generator. The random part is
//! uniform over its whole range ("full jitter", Brooker 2015, AWS Architecture Blog).

/// A uniform number from 0 to `most`, from 64 uniform bits (multiply and shift, Lemire 2019).
pub fn up_to(draw: u64, most: u64) -> u64 {
    ((u128::from(draw) * (u128::from(most) + 1)) >> 64) as u64
}

/// A pause that doubles: `floor_ms`, and a random part of up to `first_ms`, twice as much each time, at most
/// `cap_ms`. The floor is what an answer may take; nothing is repeated before it could have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pause {
    /// Always waited.
    pub floor_ms: u64,
    /// Most of the random part at first.
    pub first_ms: u64,
    /// Most of the random part ever.
    pub cap_ms: u64,
}

impl Pause {
    /// The pause after `tries` repetitions.
    pub fn after(&self, tries: u8, draw: u64) -> u64 {
        self.floor_ms + up_to(draw, self.most(tries))
    }

    /// One more than `tries`, as long as that makes the pause longer.
    pub fn next(&self, tries: u8) -> u8 {
        if self.most(tries) < self.cap_ms { tries.saturating_add(1) } else { tries }
    }

    fn most(&self, tries: u8) -> u64 {
        self.first_ms.saturating_mul(1 << tries.min(63)).min(self.cap_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_cover_the_range_evenly() {
        assert_eq!((up_to(0, 9), up_to(u64::MAX, 9), up_to(u64::MAX, u64::MAX)), (0, 9, u64::MAX));
        let mut hits = [0; 10];
        for i in 0..1000u64 {
            hits[up_to(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), 9) as usize] += 1;
        }
        assert!(hits.iter().all(|&n| (90..=110).contains(&n)), "{hits:?}");
    }

    #[test]
    fn the_random_part_doubles_up_to_its_cap() {
        let pause = Pause { floor_ms: 5, first_ms: 10, cap_ms: 35 };
        let longest: Vec<_> = (0..4).map(|tries| pause.after(tries, u64::MAX)).collect();
        assert_eq!(longest, [15, 25, 40, 40]);
        assert_eq!((pause.after(3, 0), pause.after(255, u64::MAX)), (5, 40));
        assert_eq!([0, 1, 2, 3].map(|tries| pause.next(tries)), [1, 2, 2, 3]);
    }
}

//! Seeded mutations: the same seed gives the same bytes on every machine.

/// splitmix64 (Steele, Lea and Flood, 2014) and what is made of it.
#[derive(Debug, Clone)]
pub struct Mutator(u64);

impl Mutator {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    /// One of `from`.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A damaged copy of `bytes`, never longer than `longest`: bits flipped, numbers made extreme, pieces cut out,
    /// doubled, or put in from `other`.
    pub fn mutate(&mut self, bytes: &[u8], other: &[u8], longest: usize) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len());
            match self.below(8) {
                0 | 1 if !out.is_empty() => out[at] ^= 1 << self.below(8),
                2 if !out.is_empty() => out[at] = self.number() as u8,
                3 => {
                    let extreme = *self.pick(&[0, 1, 0x7f, 0x80, 0xff]);
                    let width = *self.pick(&[1, 2, 4, 8]);
                    out.iter_mut().skip(at).take(width).for_each(|byte| *byte = extreme);
                }
                4 => out.truncate(at),
                5 => {
                    let end = (at + self.below(64)).min(out.len());
                    out.drain(at..end);
                }
                6 => {
                    let end = (at + self.below(64)).min(out.len());
                    let twice = out[at..end].to_vec();
                    out.splice(at..at, twice);
                }
                _ => {
                    let from = self.below(other.len());
                    let end = (from + 1 + self.below(other.len())).min(other.len());
                    out.splice(at.., other[from.min(end)..end].iter().copied());
                }
            }
        }
        out.truncate(longest);
        out
    }
}

//! An adaptive binary range coder in integer arithmetic.
//!
//! A decision is coded with a probability that both sides learn from the decisions before it (Witten, Neal and
//! Cleary, "Arithmetic coding for data compression", 1987; the carry-less 32-bit form is M. Mahoney's of lpaq).
//! There are no tables to transmit, which at a few kilobytes is what decides: `docs/decisions/0010-delta-codecs.md`
//! has the comparison with zstd and with static codes. Only integers are involved, so every machine writes and
//! reads the same bytes.

/// Decisions after which a probability keeps moving at a fixed rate.
const SETTLED: u8 = 254;

/// The probability of a decision, learned as it is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bit {
    /// Probability of `true` in 2⁻¹⁶.
    chance: u16,
    /// Decisions seen, up to [`SETTLED`].
    seen: u8,
}

impl Bit {
    /// Nothing known.
    pub(crate) const fn new() -> Self {
        Self { chance: 1 << 15, seen: 0 }
    }

    /// Moves towards `bit` by the share 1 / (seen + 1.5), so that at first it is the mean of what was seen.
    fn learn(&mut self, bit: bool) {
        let rate = 131_072 / (2 * i32::from(self.seen) + 3);
        let target = if bit { 65_535 } else { 0 };
        let chance = i32::from(self.chance);
        // The products stay below 2³¹: |target − chance| < 2¹⁶, and the rate is at most 43,690 in 2⁻¹⁶.
        let moved = (i64::from(target - chance) * i64::from(rate)) >> 16;
        self.chance = (chance + moved as i32).clamp(32, 65_504) as u16;
        self.seen = if self.seen < SETTLED { self.seen + 1 } else { SETTLED };
    }
}

/// One side of the coder: both take the same decisions in the same order.
pub(crate) trait Coder {
    /// Codes a decision; the writer is told it, the reader finds it. Returns it on both sides.
    fn code(&mut self, bit: &mut Bit, value: bool) -> bool;

    /// Codes the low `bits` bits of `value`, all values alike likely; at most 32.
    fn plain(&mut self, bits: u32, value: u32) -> u32;
}

/// The writing side.
#[derive(Debug)]
pub(crate) struct Writer {
    low: u32,
    high: u32,
    out: Vec<u8>,
}

impl Writer {
    /// Writes after what `out` holds.
    pub(crate) fn new(out: Vec<u8>) -> Self {
        Self { low: 0, high: u32::MAX, out }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    fn narrow(&mut self, chance: u32, value: bool) {
        let range = u64::from(self.high - self.low);
        let middle = self.low + ((range * u64::from(chance)) >> 16) as u32;
        if value {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.out.push((self.high >> 24) as u8);
            self.low <<= 8;
            self.high = (self.high << 8) | 255;
        }
    }

    /// The bytes; the reader takes what follows them for zeros, so zeros at the end are left out.
    pub(crate) fn finish(mut self, keep: usize) -> Vec<u8> {
        // The shortest number in [low, high].
        for bytes in 0..=4u32 {
            let unit = 1u64 << (32 - 8 * bytes);
            let number = u64::from(self.low).div_ceil(unit) * unit;
            if number <= u64::from(self.high) {
                self.out.extend_from_slice(&(number as u32).to_be_bytes()[..bytes as usize]);
                break;
            }
        }
        while self.out.len() > keep && self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl Coder for Writer {
    fn code(&mut self, bit: &mut Bit, value: bool) -> bool {
        self.narrow(u32::from(bit.chance), value);
        bit.learn(value);
        value
    }

    fn plain(&mut self, bits: u32, value: u32) -> u32 {
        for i in (0..bits).rev() {
            self.narrow(1 << 15, value >> i & 1 == 1);
        }
        value
    }
}

/// The reading side. Any bytes are a sequence of decisions, so nothing here can fail.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    low: u32,
    high: u32,
    number: u32,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut reader = Self { low: 0, high: u32::MAX, number: 0, bytes, at: 0 };
        for _ in 0..4 {
            reader.shift();
        }
        reader
    }

    fn shift(&mut self) {
        self.number = (self.number << 8) | u32::from(self.bytes.get(self.at).copied().unwrap_or(0));
        self.at += 1;
    }

    /// Whether every byte was looked at.
    pub(crate) fn used_up(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn narrow(&mut self, chance: u32) -> bool {
        let range = u64::from(self.high - self.low);
        let middle = self.low + ((range * u64::from(chance)) >> 16) as u32;
        let value = self.number <= middle;
        if value {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
        while (self.low ^ self.high) >> 24 == 0 {
            self.low <<= 8;
            self.high = (self.high << 8) | 255;
            self.shift();
        }
        value
    }
}

impl Coder for Reader<'_> {
    fn code(&mut self, bit: &mut Bit, _: bool) -> bool {
        let value = self.narrow(u32::from(bit.chance));
        bit.learn(value);
        value
    }

    fn plain(&mut self, bits: u32, _: u32) -> u32 {
        (0..bits).fold(0, |value, _| (value << 1) | u32::from(self.narrow(1 << 15)))
    }
}

/// Codes a number below 2^`K` as its length in bits, one decision per length, and then its bits; the first two
/// below the leading one are learned, the others are plain.
#[derive(Debug, Clone)]
pub(crate) struct Number<const K: usize> {
    longer: [Bit; K],
    second: [Bit; K],
    third: [[Bit; 2]; K],
}

impl<const K: usize> Number<K> {
    pub(crate) const fn new() -> Self {
        Self { longer: [Bit::new(); K], second: [Bit::new(); K], third: [[Bit::new(); 2]; K] }
    }

    pub(crate) fn code<C: Coder>(&mut self, coder: &mut C, value: u64) -> u64 {
        let told = (64 - value.leading_zeros()) as usize;
        let mut length = 0;
        while length < K && coder.code(&mut self.longer[length], told > length) {
            length += 1;
        }
        self.low_bits(coder, length, value)
    }

    /// The bits below the leading one of a number of `length` bits.
    pub(crate) fn low_bits<C: Coder>(&mut self, coder: &mut C, length: usize, value: u64) -> u64 {
        if length < 2 {
            return length as u64;
        }
        let model = length - 1;
        let bit = |at: usize| value >> at & 1 == 1;
        let mut out = 1u64;
        let second = coder.code(&mut self.second[model], bit(length - 2));
        out = (out << 1) | u64::from(second);
        if length > 2 {
            let third = coder.code(&mut self.third[model][usize::from(second)], bit(length - 3));
            out = (out << 1) | u64::from(third);
        }
        let mut rest = length.saturating_sub(3) as u32;
        while rest > 0 {
            let piece = rest.min(16);
            rest -= piece;
            let told = (value >> rest) as u32 & ((1 << piece) - 1);
            out = (out << piece) | u64::from(coder.plain(piece, told));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decisions_and_numbers_come_back(
            bits in proptest::collection::vec((0usize..4, any::<bool>()), 0..600),
            numbers in proptest::collection::vec(any::<u64>().prop_flat_map(|v| (0u32..64).prop_map(move |s| v >> s)), 0..60),
        ) {
            fn run<C: Coder>(coder: &mut C, bits: &[(usize, bool)], numbers: &[u64]) -> (Vec<bool>, Vec<u64>) {
                let mut models = [Bit::new(); 4];
                let mut number = Number::<64>::new();
                let bits = bits.iter().map(|&(m, bit)| coder.code(&mut models[m], bit)).collect();
                let numbers = numbers.iter().map(|&v| {
                    number.code(coder, v) ^ (u64::from(coder.plain(7, v as u32 & 127)) ^ (v & 127))
                }).collect();
                (bits, numbers)
            }
            let mut writer = Writer::new(Vec::new());
            let told = run(&mut writer, &bits, &numbers);
            let bytes = writer.finish(0);
            let blank_bits: Vec<_> = bits.iter().map(|&(m, _)| (m, false)).collect();
            let mut reader = Reader::new(&bytes);
            let mut models = [Bit::new(); 4];
            let mut number = Number::<64>::new();
            let read: Vec<bool> = blank_bits.iter().map(|&(m, b)| reader.code(&mut models[m], b)).collect();
            prop_assert_eq!(&read, &told.0);
            for &v in &numbers {
                prop_assert_eq!(number.code(&mut reader, 0), v);
                prop_assert_eq!(u64::from(reader.plain(7, 0)), v & 127);
            }
            prop_assert!(reader.used_up());
        }

        #[test]
        fn any_bytes_are_decisions(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            let mut number = Number::<15>::new();
            for _ in 0..1000 {
                prop_assert!(number.code(&mut reader, 0) < 1 << 15);
            }
        }
    }

    #[test]
    fn what_is_likely_costs_little() {
        let mut writer = Writer::new(Vec::new());
        let mut bit = Bit::new();
        for i in 0..40_000 {
            writer.code(&mut bit, i % 100 == 0);
        }
        // Entropy of 1 in 100 is 0.0808 bits.
        let bytes = writer.finish(0).len();
        assert!(bytes < 440, "{bytes}");
    }
}

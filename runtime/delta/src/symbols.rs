//! Small signed integers, most of them zero, to bits and back: what a quantized step consists of.
//!
//! A number is coded as *zero or not*, its size beyond one and its sign, each with a probability that depends on
//! what was coded before: the two numbers before it, the two above it in the row before (where the caller says how
//! long a row is) and how dense the numbers were of late. So runs of zeros cost next to nothing, which is what
//! codes of the gaps between the large ones aim at; how the two compare is in
//! `docs/decisions/0010-delta-codecs.md`.

use crate::coder::{Bit, Coder, Number};

/// Sizes that are coded one decision each; what is above goes by its length in bits.
const STEPS: usize = 14;
/// Most bits of what lies above [`STEPS`].
const LONG: usize = 15;
/// Largest size of a number.
pub(crate) const LARGEST: i16 = 16_383;
/// Octaves of the density.
const OCTAVES: usize = 9;

struct Model {
    /// By neighbourhood and density.
    present: [[Bit; OCTAVES]; 7],
    /// By neighbourhood and size so far.
    larger: [[Bit; STEPS]; 4],
    long: Number<LONG>,
    /// By the number above and whether the last one agreed with its own; by the number before.
    sign: [[Bit; 3]; 3],
    /// Share of non-zero numbers of late, in 2⁻¹⁶.
    density: u32,
    /// Whether the last two signs agreed with those above: 0 unknown, 1 no, 2 yes.
    agreed: usize,
}

/// Codes `symbols` row by row of `row` numbers, 0 for no rows: the writer's are read, the reader's are written.
pub(crate) fn code<C: Coder>(coder: &mut C, symbols: &mut [i16], row: usize) {
    let mut model = Model {
        present: [[Bit::new(); OCTAVES]; 7],
        larger: [[Bit::new(); STEPS]; 4],
        long: Number::new(),
        sign: [[Bit::new(); 3]; 3],
        density: 1 << 13,
        agreed: 0,
    };
    let (mut before, mut before_that) = (0, 0);
    for i in 0..symbols.len() {
        let (above, right) = match i.checked_sub(row) {
            // With rows of one number, what is right of the one above is the number itself.
            Some(at) if row > 0 => (symbols[at], if row > 1 { symbols[at + 1] } else { 0 }),
            _ => (0, 0),
        };
        let symbol = model.code(coder, symbols[i], [before, before_that, above, right]);
        symbols[i] = symbol;
        (before, before_that) = (symbol, before);
    }
}

impl Model {
    fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        told: i16,
        [before, before_that, above, right]: [i16; 4],
    ) -> i16 {
        let size = |symbol: i16| usize::from(symbol.unsigned_abs().min(3));
        let near =
            2 * size(before).min(2) + size(before_that).min(1) + 2 * size(above).min(2) + size(right).min(1);
        let octave = (32 - (self.density >> 8).leading_zeros()) as usize;
        let present = &mut self.present[near.min(6)][octave.min(OCTAVES - 1)];
        // Zeros are coded as `true`: then a step of nothing else takes no bytes at all.
        let present = !coder.code(present, told == 0);
        let target = if present { 65_535 } else { 0 };
        self.density = self.density.wrapping_add_signed((target - self.density as i32) >> 6);
        if !present {
            return 0;
        }
        let size = self.size(coder, told.unsigned_abs(), size(before).max(size(above)));
        let negative = self.sign(coder, told < 0, before, above);
        if negative { -size } else { size }
    }

    /// The size of a number that is not zero.
    fn size<C: Coder>(&mut self, coder: &mut C, told: u16, near: usize) -> i16 {
        let larger = &mut self.larger[near];
        for (i, bit) in larger.iter_mut().enumerate() {
            if !coder.code(bit, usize::from(told) > i + 1) {
                return i as i16 + 1;
            }
        }
        let base = STEPS as u64 + 1;
        let rest = self.long.code(coder, u64::from(told).saturating_sub(base));
        (base + rest).min(LARGEST as u64) as i16
    }

    fn sign<C: Coder>(&mut self, coder: &mut C, told: bool, before: i16, above: i16) -> bool {
        let of = |symbol: i16| match symbol {
            0 => 0,
            1.. => 1,
            _ => 2,
        };
        let (context, flip) =
            if above == 0 { (0, false) } else { (1 + usize::from(self.agreed == 2), above < 0) };
        let side = if context == 0 {
            of(before)
        } else if self.agreed == 0 {
            0
        } else {
            of(before)
        };
        let negative = coder.code(&mut self.sign[context][side], told ^ flip) ^ flip;
        if above != 0 {
            self.agreed = 1 + usize::from(negative == (above < 0));
        }
        negative
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coder::{Reader, Writer};
    use proptest::prelude::*;

    fn there_and_back(symbols: &[i16], row: usize) -> usize {
        let mut told = symbols.to_vec();
        let mut writer = Writer::new(Vec::new());
        code(&mut writer, &mut told, row);
        let bytes = writer.finish(0);
        let mut read = vec![0; symbols.len()];
        let mut reader = Reader::new(&bytes);
        code(&mut reader, &mut read, row);
        assert_eq!(read, symbols);
        assert!(reader.used_up());
        bytes.len()
    }

    proptest! {
        #[test]
        fn symbols_come_back(
            symbols in proptest::collection::vec(prop_oneof![3 => Just(0i16), 3 => -2i16..=2, 1 => -LARGEST..=LARGEST], 0..400),
            row in 0usize..50,
        ) {
            there_and_back(&symbols, row);
        }
    }

    #[test]
    fn zeros_cost_nothing_and_extremes_fit() {
        assert!(there_and_back(&vec![0; 40_000], 64) <= 8);
        there_and_back(&[LARGEST, -LARGEST, 15, -15, 16, 14, 1, 0], 3);
    }
}

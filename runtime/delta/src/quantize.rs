//! A uniform quantizer with a dead zone, fitted to a number of bytes.
//!
//! A value x becomes the number sign(x) · ⌊|x| / Δ + 1 − [`EDGE`]⌋: what is smaller than `EDGE` · Δ becomes zero. At
//! about a bit per value such a quantizer with an entropy coder behind it is within a tenth of a bit of the best
//! scalar one (Sullivan, "Efficient scalar quantization of exponential and Laplacian random variables", IEEE Trans.
//! Inf. Theory 42(5), 1996). What a number stands for is the mean of what became it, which is also the choice of
//! least squared error; the receiver is told three numbers for it. Δ is searched until the bytes fit.
//!
//! No function of the mathematics library decides a bit here: only IEEE additions, multiplications and divisions.

use crate::coder::Writer;
use crate::symbols::{self, LARGEST};

/// Where the dead zone ends, in units of Δ.
const EDGE: f32 = 0.6;
/// Bits of the significand that the search for Δ tells apart: 32 sizes an octave, a step of 2 %.
const FINE: u32 = 5;
/// Share of the allowed bytes that the search aims at.
const AIM: f64 = 0.985;
/// Least share of the allowed bytes that is worth no further try.
const ENOUGH: f64 = 0.95;
/// Tries until any result within the bytes is taken, and until even that is given up.
const TRIES: usize = 3;
const MOST_TRIES: usize = 40;

/// What the numbers stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Levels {
    /// 1.
    pub(crate) one: f32,
    /// 2.
    pub(crate) two: f32,
    /// m ≥ 3 stands for m · `step` + `shift`.
    pub(crate) step: f32,
    /// See `step`.
    pub(crate) shift: f32,
}

impl Levels {
    /// The value of a number.
    pub(crate) fn value(&self, symbol: i16) -> f32 {
        let size = match symbol.unsigned_abs() {
            0 => return 0.0,
            1 => self.one,
            2 => self.two,
            size => f32::from(size) * self.step + self.shift,
        };
        if symbol < 0 { -size } else { size }
    }
}

/// A fitted quantization: `symbols` of the values, and their bytes.
#[derive(Debug)]
pub(crate) struct Fitted {
    pub(crate) levels: Levels,
    pub(crate) symbols: Vec<i16>,
    /// After `header` bytes that are left blank.
    pub(crate) bytes: Vec<u8>,
}

impl Fitted {
    /// Sum of the squares of what is told; as every level is the mean of what became it, the sum of the values' squares
    /// less this is the squared error.
    pub(crate) fn energy(&self) -> f64 {
        self.symbols.iter().map(|&symbol| f64::from(self.levels.value(symbol)).powi(2)).sum()
    }
}

/// Fits finite `values` to at most `most` bytes, of which the first `header` are left blank. `None` where not even a
/// handful of numbers fits.
pub(crate) fn fit(values: &[f32], row: usize, header: usize, most: usize) -> Option<Fitted> {
    let room = most.saturating_sub(header).max(1);
    let sizes = Sizes::of(values);
    let mut aim = room as f64 * 8.0 * AIM;
    let mut delta = sizes.delta(aim);
    let mut best: Option<Fitted> = None;
    let mut symbols = vec![0; values.len()];
    for attempt in 1..=MOST_TRIES {
        let levels = quantize(values, delta, &mut symbols);
        let mut writer = Writer::new(vec![0; header]);
        symbols::code(&mut writer, &mut symbols, row);
        let length = (writer.len() - header).max(1);
        let bytes = writer.finish(header);
        let good = bytes.len() <= most;
        if good && best.as_ref().is_none_or(|best| bytes.len() > best.bytes.len()) {
            let next = vec![0; if attempt < TRIES { values.len() } else { 0 }];
            best = Some(Fitted { levels, symbols: std::mem::replace(&mut symbols, next), bytes });
        }
        let enough = good && length as f64 >= ENOUGH * room as f64;
        if best.is_some() && (enough || attempt >= TRIES) {
            break;
        }
        // What the order of the numbers tells shortens or lengthens all estimates alike, nearly.
        aim *= (room as f64 * AIM / length as f64).clamp(0.1, 4.0);
        if attempt > TRIES {
            aim *= 0.8;
        }
        let mut next = sizes.delta(aim);
        if next.to_bits() == delta.to_bits() && good {
            break;
        }
        // Many values of one size: none or all of them.
        while !good && next <= delta && aim > 1e-3 {
            aim *= 0.8;
            next = sizes.delta(aim);
        }
        delta = next;
    }
    best
}

/// A lower bound of the squared error of a dead zone on `values` whose numbers take at most `room` bytes, if what their
/// order tells saves no more than a fifth.
pub(crate) fn least_error(values: &[f32], room: usize) -> f64 {
    let sizes = Sizes::of(values);
    let zone = f64::from(sizes.delta(room as f64 * 8.0 * 1.25) * EDGE);
    values.iter().map(|&v| f64::from(v)).filter(|v| v.abs() < zone).map(|v| v * v).sum()
}

/// Fills `symbols` and returns what they stand for.
fn quantize(values: &[f32], delta: f32, symbols: &mut [i16]) -> Levels {
    let per = 1.0 / delta;
    // Sums and counts of the sizes 1, 2 and above; of these the sum of what exceeds m · Δ.
    let (mut sums, mut counts) = ([0f64; 3], [0u32; 3]);
    for (symbol, &value) in symbols.iter_mut().zip(values) {
        let large = value.abs();
        // Saturates at a number that LARGEST cuts.
        let size = ((large * per + (1.0 - EDGE)) as i32).min(i32::from(LARGEST));
        *symbol = if value < 0.0 { -size as i16 } else { size as i16 };
        match size {
            0 | LARGEST_SIZE => {}
            1 | 2 => {
                sums[size as usize - 1] += f64::from(large);
                counts[size as usize - 1] += 1;
            }
            _ => {
                sums[2] += f64::from(large - size as f32 * delta);
                counts[2] += 1;
            }
        }
    }
    let mean = |i: usize, usual: f32| {
        if counts[i] == 0 { usual } else { (sums[i] / f64::from(counts[i])) as f32 }
    };
    Levels { one: mean(0, delta), two: mean(1, 2.0 * delta), step: delta, shift: mean(2, 0.0) }
}

const LARGEST_SIZE: i32 = LARGEST as i32;

/// How many values there are of every size.
struct Sizes {
    n: usize,
    /// By exponent and the first [`FINE`] bits of the significand.
    counts: Vec<u32>,
    /// The least Δ that does not cut the largest value.
    least: f32,
}

impl Sizes {
    fn of(values: &[f32]) -> Self {
        let mut counts = vec![0u32; 256 << FINE];
        let mut most = 0f32;
        for value in values {
            counts[(value.to_bits() << 1 >> (24 - FINE)) as usize] += 1;
            most = most.max(value.abs());
        }
        counts[0] = 0;
        Self { n: values.len(), counts, least: most / f32::from(LARGEST - 1) }
    }

    /// Δ at which the numbers' own entropy, without what their order tells, is about `bits`.
    fn delta(&self, bits: f64) -> f32 {
        // A smaller threshold costs more; from infinity on nothing is left.
        let (mut low, mut high) = ((self.least.to_bits() >> (23 - FINE)) as usize, 255 << FINE);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.bits(middle) > bits { low = middle + 1 } else { high = middle }
        }
        (edge(low) / EDGE).max(self.least).clamp(f32::MIN_POSITIVE, f32::MAX)
    }

    /// Bits of numbers whose zeros are what lies below bucket `first`.
    fn bits(&self, first: usize) -> f64 {
        let delta = f64::from(edge(first)) / f64::from(EDGE);
        let (mut present, mut bits) = (0u32, 0.0);
        let mut classes = [0u32; 32];
        for (bucket, &count) in self.counts.iter().enumerate().skip(first).filter(|(_, count)| **count > 0) {
            present += count;
            let middle = f64::from(edge(bucket)) + 0.5 * f64::from(edge(bucket + 1) - edge(bucket));
            let size = (middle / delta + 1.0 - f64::from(EDGE)).clamp(1.0, 1e9) as u32;
            classes[size.ilog2() as usize] += count;
            // A sign, and below the leading bit of a size all bits alike.
            bits += f64::from(count) * (1.0 + f64::from(size.ilog2()));
        }
        let share =
            |part: u32, of: u32| if part == 0 { 0.0 } else { f64::from(part) * (log2(of) - log2(part)) };
        let zeros = (self.n as u32).saturating_sub(present);
        bits += share(zeros, self.n as u32) + share(present, self.n as u32);
        bits + classes.iter().map(|&count| share(count, present)).sum::<f64>()
    }
}

/// Where a bucket of sizes begins.
fn edge(bucket: usize) -> f32 {
    f32::from_bits((bucket as u32) << (23 - FINE))
}

/// log₂ within 0.01, of additions and multiplications alone.
fn log2(x: u32) -> f64 {
    let whole = x.max(1).ilog2();
    let rest = f64::from(x.max(1)) / f64::from(1u32 << whole) - 1.0;
    f64::from(whole) + rest * (1.343_75 - 0.343_75 * rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of twelve uniform numbers are nearly normal.
    pub(crate) fn normal(n: usize, seed: u64) -> Vec<f32> {
        let mut x = seed;
        let mut uniform = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as f32 / 16_777_216.0
        };
        (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn normal_values_lose_little_more_than_theory_demands() {
        let values = normal(40_000, 3);
        let power: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        for (bits, most_lost) in [(0.5, 0.645), (0.85, 0.44), (1.0, 0.37), (2.0, 0.105), (4.0, 0.009)] {
            let most = (40_000.0 * bits / 8.0) as usize;
            let fitted = fit(&values, 0, 0, most).unwrap();
            assert!(
                fitted.bytes.len() <= most && fitted.bytes.len() as f64 > 0.9 * most as f64,
                "{}",
                fitted.bytes.len()
            );
            let lost: f64 = values
                .iter()
                .zip(&fitted.symbols)
                .map(|(v, &s)| f64::from(v - fitted.levels.value(s)).powi(2))
                .sum::<f64>()
                / power;
            // The bound of Shannon is 2^(-2 bits).
            println!("{bits} bits: {lost:.4}, bound {:.4}", 0.25f64.powf(bits));
            assert!(lost < most_lost, "{bits} bits: {lost}");
        }
    }

    #[test]
    fn odd_inputs_fit() {
        for values in
            [vec![], vec![0.0; 500], vec![1e-42; 500], vec![1e37; 500], vec![-0.0, 1e-30, 1e37, -5.0]]
        {
            for most in [8, 100, 1000] {
                let fitted = fit(&values, 0, 4, most + 4).unwrap();
                assert!(fitted.bytes.len() <= most + 4);
                assert!(fitted.symbols.iter().all(|&s| fitted.levels.value(s).is_finite()), "{values:?}");
            }
        }
    }
}

//! Exact sums: the statistics a gateway contributes, as integers.
//!
//! Features, and the targets of a forecast, are clamped to ±8 and rounded to 2⁻¹², products fit i32, totals fit
//! i64 for up to 2³² samples, so the totals are the same bits for every order, split and machine, given the
//! features.

mod quantize;
mod statistic;

pub use quantize::{dequantize, quantize, quantize_all};
pub use statistic::Statistic;

use std::ops::Range;

use crate::head::Head;
use crate::shape::{MAX_CLASSES, MAX_EXITS, MAX_FEATURES, Shape};

/// Most additions and subtractions a total may hold, so that no entry can overflow.
pub const MAX_SAMPLES: u64 = 1 << 32;
const MAGIC: [u8; 4] = *b"LOSM";
const VERSION: u16 = 1;
const HEADER: usize = 16;
/// Longest encoding [`Sums::from_bytes`] accepts.
pub const MAX_SUMS_BYTES: usize =
    HEADER + 8 * Statistic::Classes.entries(MAX_EXITS, MAX_FEATURES, MAX_CLASSES);
/// Class of a normal sample in the sums of an anomaly task.
pub const NORMAL: u16 = 0;
/// Class of an anomalous sample in the sums of an anomaly task.
pub const ANOMALOUS: u16 = 1;

/// Why statistics were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SumsError {
    /// A feature is NaN or infinite.
    #[error("feature {index} is not finite; drop the sample and check its source")]
    NotFinite {
        /// Position in the slice.
        index: usize,
    },
    /// A slice has another length than the sizes ask for.
    #[error("{got} {what} given, {want} expected; the sample belongs to another backbone or task")]
    Length {
        /// What was counted.
        what: &'static str,
        /// Given.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// A label has no class.
    #[error("label {label} given, the task has {outputs} classes; check the task manifest")]
    Label {
        /// Given.
        label: u16,
        /// Classes of the task.
        outputs: usize,
    },
    /// The sign of an addition is neither 1 nor −1.
    #[error("a sample is added with sign 1 or removed with sign -1, not {0}")]
    Sign(i64),
    /// A class was given where values are summed, or the other way round.
    #[error("sums of {0:?} do not take this kind of target; check the task's kind")]
    Target(Statistic),
    /// Sums of different kinds or sizes cannot be merged.
    #[error(
        "sums of {got:?} (exits, features, outputs) cannot join totals of {want:?}, or are of another kind; the contribution belongs to another task version"
    )]
    Mismatch {
        /// Sizes of the contribution.
        got: (usize, usize, usize),
        /// Sizes of the totals.
        want: (usize, usize, usize),
    },
    /// More than 2³² additions and removals.
    #[error("the totals hold their most, {MAX_SAMPLES} additions and removals; start a new lineage")]
    Full,
    /// Bytes that are no sums.
    #[error("bytes are not sums of version {VERSION}: {0}; refuse the contribution")]
    Malformed(&'static str),
}

/// Totals of one [`Statistic`]. Only what is independent is kept, in the order of [`Sums::values`]:
///
/// - Classes, anomaly: counts (`outputs`), then `cross` (`exits × outputs × features`, Σ z of each class, in
///   2⁻¹²), then `gram` (per exit the upper triangle of Σ z zᵀ row by row, `features·(features+1)/2`, in 2⁻²⁴).
///   With the leading 1 of [1; z] the Gram matrix's first row would be the totals of counts and cross.
/// - Forecast: count (1), Σ y (`outputs`, 2⁻¹²), Σ y² (`outputs`, 2⁻²⁴), Σ z (`exits × features`, 2⁻¹²), then
///   `cross` (`exits × outputs × features`, Σ y_h z, in 2⁻²⁴), then `gram` as above.
#[derive(Clone, Debug)]
pub struct Sums {
    statistic: Statistic,
    exits: usize,
    features: usize,
    outputs: usize,
    values: Vec<i64>,
    /// Additions and removals that could have made these values: every entry's magnitude is at most `bound`
    /// times the largest single addend, which is what keeps i64 from overflowing up to [`MAX_SAMPLES`].
    bound: u64,
}

/// Equality of content; how the totals came about does not matter.
impl PartialEq for Sums {
    fn eq(&self, other: &Self) -> bool {
        self.alike(other) && self.values == other.values
    }
}
impl Eq for Sums {}

impl Sums {
    /// Totals of nothing, of a classify task. Sizes outside the limits of a [`Shape`] are refused.
    pub fn zero(exits: usize, features: usize, outputs: usize) -> Result<Self, SumsError> {
        Self::zero_of(Statistic::Classes, exits, features, outputs)
    }

    /// Totals of nothing; `outputs` are classes (2 for anomaly) or steps of the horizon.
    pub fn zero_of(
        statistic: Statistic,
        exits: usize,
        features: usize,
        outputs: usize,
    ) -> Result<Self, SumsError> {
        let sized = (1..=MAX_EXITS).contains(&exits)
            && (1..=MAX_FEATURES).contains(&features)
            && statistic.takes(outputs);
        if !sized {
            return Err(SumsError::Malformed("exits, features or outputs outside the limits"));
        }
        let values = vec![0; statistic.entries(exits, features, outputs)];
        Ok(Self { statistic, exits, features, outputs, values, bound: 0 })
    }

    /// Totals of nothing, of the statistic that modules of `shape` are solved from.
    pub fn for_shape(shape: &Shape) -> Result<Self, SumsError> {
        let outputs = match shape.head {
            Head::Classify => shape.outputs,
            Head::Anomaly => 2,
            Head::Forecast { horizon, .. } => usize::from(horizon),
        };
        Self::zero_of(Statistic::of(shape.head), shape.exits, shape.features, outputs)
    }

    /// Sums of classes from their integers, in the order of [`Sums::values`].
    pub fn from_values(
        exits: usize,
        features: usize,
        outputs: usize,
        values: Vec<i64>,
    ) -> Result<Self, SumsError> {
        Self::zero(exits, features, outputs)?.filled(values)
    }

    /// These sums with other integers.
    pub(crate) fn filled(mut self, values: Vec<i64>) -> Result<Self, SumsError> {
        if values.len() != self.values.len() {
            return Err(SumsError::Length { what: "integers", got: values.len(), want: self.values.len() });
        }
        self.values = values;
        self.bound = self.implied_bound();
        if self.bound > MAX_SAMPLES {
            return Err(SumsError::Malformed("an entry is larger than 2^32 samples can make it"));
        }
        Ok(self)
    }

    /// Least number of samples that can have made the integers: an entry grows by at most 1 (a count), 2¹⁵ (a
    /// number) or 2³⁰ (a product) per sample.
    fn implied_bound(&self) -> u64 {
        let largest = |range: Range<usize>, bits: u32| {
            let part = self.values[range].iter();
            part.map(|v| v.unsigned_abs()).max().unwrap_or(0).div_ceil(1 << bits)
        };
        let (gram, end) = (self.gram_start(), self.values.len());
        let counts = match self.statistic {
            Statistic::Classes | Statistic::Anomaly => {
                largest(0..self.outputs, 0).max(largest(self.outputs..gram, 15))
            }
            Statistic::Forecast => {
                let (h, head, cross) = (self.outputs, self.head_end(), self.cross_start());
                let numbers = largest(1..1 + h, 15).max(largest(head..cross, 15));
                let products = largest(1 + h..head, 30).max(largest(cross..gram, 30));
                largest(0..1, 0).max(numbers).max(products)
            }
        };
        counts.max(largest(gram..end, 30))
    }

    fn head_end(&self) -> usize {
        self.statistic.head(self.outputs)
    }

    fn cross_start(&self) -> usize {
        self.head_end() + self.exits * self.statistic.plain(self.features)
    }

    fn gram_start(&self) -> usize {
        self.cross_start() + self.exits * self.outputs * self.features
    }

    /// What is summed.
    pub fn statistic(&self) -> Statistic {
        self.statistic
    }

    /// Exits, features per exit, outputs.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.exits, self.features, self.outputs)
    }

    /// Whether both are of one statistic and one size, so that they can be added.
    pub fn alike(&self, other: &Self) -> bool {
        self.statistic == other.statistic && self.sizes() == other.sizes()
    }

    /// Exits.
    pub fn exits(&self) -> usize {
        self.exits
    }

    /// Features per exit.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Classes, or steps of the horizon.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// All integers, see [`Sums`].
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// Samples per class, of a forecast the one count of all; an increment may hold negative ones.
    pub fn counts(&self) -> &[i64] {
        let counts = if self.statistic == Statistic::Forecast { 1 } else { self.outputs };
        &self.values[..counts]
    }

    /// Σ z of each class at exit `k`, in 2⁻¹²; of a forecast Σ y_h z of each step, in 2⁻²⁴. `outputs × features`.
    pub fn cross(&self, k: usize) -> &[i64] {
        let size = self.outputs * self.features;
        &self.values[self.cross_start() + k * size..][..size]
    }

    /// Upper triangle of Σ z zᵀ at exit `k`, row by row, in 2⁻²⁴.
    pub fn gram(&self, k: usize) -> &[i64] {
        let size = self.features * (self.features + 1) / 2;
        &self.values[self.gram_start() + k * size..][..size]
    }

    /// Σ y and Σ y² of each step (`outputs`, in 2⁻¹² and 2⁻²⁴); empty where no values are summed.
    pub fn targets(&self) -> (&[i64], &[i64]) {
        match self.statistic {
            Statistic::Forecast => self.values[1..self.head_end()].split_at(self.outputs),
            Statistic::Classes | Statistic::Anomaly => (&[], &[]),
        }
    }

    /// Σ z over all samples at exit `k` of a forecast, in 2⁻¹²; empty for the others, whose cross sums hold it.
    pub fn plain(&self, k: usize) -> &[i64] {
        let size = self.statistic.plain(self.features);
        &self.values[self.head_end() + k * size..][..size]
    }

    /// Samples in the totals, over all classes.
    pub fn samples(&self) -> i64 {
        self.counts().iter().sum()
    }

    /// Least number of additions and removals that can have made these integers.
    pub fn bound(&self) -> u64 {
        self.bound
    }

    /// Whether there is nothing to contribute.
    pub fn is_zero(&self) -> bool {
        self.values.iter().all(|&v| v == 0)
    }

    fn check(&self, z: &[i16], sign: i64) -> Result<(), SumsError> {
        let want = self.exits * self.features;
        if z.len() != want {
            return Err(SumsError::Length { what: "features", got: z.len(), want });
        }
        if sign.abs() != 1 {
            return Err(SumsError::Sign(sign));
        }
        if self.bound >= MAX_SAMPLES {
            return Err(SumsError::Full);
        }
        Ok(())
    }

    /// Adds (`sign` 1) or removes (`sign` −1) one sample of a class: quantized features of all exits, `exits ×
    /// features`. Nothing changes on an error.
    pub fn add(&mut self, z: &[i16], label: u16, sign: i64) -> Result<(), SumsError> {
        if self.statistic == Statistic::Forecast {
            return Err(SumsError::Target(self.statistic));
        }
        let (d, outputs) = (self.features, self.outputs);
        if usize::from(label) >= outputs {
            return Err(SumsError::Label { label, outputs });
        }
        self.check(z, sign)?;
        self.bound += 1;
        self.values[usize::from(label)] += sign;
        for (k, z) in z.chunks_exact(d).enumerate() {
            let cross_start = outputs + (k * outputs + usize::from(label)) * d;
            for (total, &z) in self.values[cross_start..cross_start + d].iter_mut().zip(z) {
                *total += sign * i64::from(z);
            }
            if self.statistic == Statistic::Classes || label == NORMAL {
                self.add_gram(k, z, sign);
            }
        }
        Ok(())
    }

    /// Adds (`sign` 1) or removes (`sign` −1) one sample of a forecast: quantized features of all exits and
    /// quantized targets, one per step. Nothing changes on an error.
    pub fn add_values(&mut self, z: &[i16], y: &[i16], sign: i64) -> Result<(), SumsError> {
        if self.statistic != Statistic::Forecast {
            return Err(SumsError::Target(self.statistic));
        }
        let (d, h) = (self.features, self.outputs);
        if y.len() != h {
            return Err(SumsError::Length { what: "targets", got: y.len(), want: h });
        }
        self.check(z, sign)?;
        self.bound += 1;
        self.values[0] += sign;
        for (i, &y) in y.iter().enumerate() {
            self.values[1 + i] += sign * i64::from(y);
            self.values[1 + h + i] += sign * i64::from(y) * i64::from(y);
        }
        let (plain, cross) = (self.head_end(), self.cross_start());
        for (k, z) in z.chunks_exact(d).enumerate() {
            for (total, &z) in self.values[plain + k * d..plain + (k + 1) * d].iter_mut().zip(z) {
                *total += sign * i64::from(z);
            }
            let rows = self.values[cross + k * h * d..cross + (k + 1) * h * d].chunks_exact_mut(d);
            for (row, &y) in rows.zip(y) {
                for (total, &z) in row.iter_mut().zip(z) {
                    *total += sign * i64::from(y) * i64::from(z);
                }
            }
            self.add_gram(k, z, sign);
        }
        Ok(())
    }

    fn add_gram(&mut self, k: usize, z: &[i16], sign: i64) {
        let d = self.features;
        let mut row = self.gram_start() + k * d * (d + 1) / 2;
        for i in 0..d {
            let left = sign as i32 * i32::from(z[i]);
            for (total, &right) in self.values[row..row + d - i].iter_mut().zip(&z[i..]) {
                *total += i64::from(left * i32::from(right));
            }
            row += d - i;
        }
    }

    fn combine(&mut self, other: &Self, sign: i64) -> Result<(), SumsError> {
        if !self.alike(other) {
            return Err(SumsError::Mismatch { got: other.sizes(), want: self.sizes() });
        }
        if self.bound + other.bound > MAX_SAMPLES {
            return Err(SumsError::Full);
        }
        self.bound += other.bound;
        for (total, value) in self.values.iter_mut().zip(&other.values) {
            *total += sign * value;
        }
        Ok(())
    }

    /// Adds a contribution. Nothing changes on an error.
    pub fn merge(&mut self, other: &Self) -> Result<(), SumsError> {
        self.combine(other, 1)
    }

    /// Takes a contribution out again: a gateway can be forgotten. Nothing changes on an error.
    pub fn subtract(&mut self, other: &Self) -> Result<(), SumsError> {
        self.combine(other, -1)
    }

    /// `LOSM`, version u16, exits u16, features u16, outputs u16, statistic u8, three zero bytes, then every
    /// integer as i64; all little-endian. Equal sums have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 8 * self.values.len());
        bytes.extend_from_slice(&MAGIC);
        for field in [VERSION, self.exits as u16, self.features as u16, self.outputs as u16] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&[self.statistic.code(), 0, 0, 0]);
        for value in &self.values {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Sums::to_bytes`]; allocates no more than the input's length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SumsError> {
        let Some((header, body)) = bytes.split_at_checked(HEADER) else {
            return Err(SumsError::Malformed("shorter than the header"));
        };
        if header[..4] != MAGIC {
            return Err(SumsError::Malformed("wrong magic"));
        }
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        if field(4) != VERSION {
            return Err(SumsError::Malformed("unknown version"));
        }
        if header[13..] != [0; 3] {
            return Err(SumsError::Malformed("reserved bytes are not zero"));
        }
        let statistic = Statistic::from_code(header[12]).ok_or(SumsError::Malformed("unknown statistic"))?;
        let [exits, features, outputs] = [field(6), field(8), field(10)].map(usize::from);
        if exits > MAX_EXITS || features > MAX_FEATURES || !statistic.takes(outputs) {
            return Err(SumsError::Malformed("exits, features or outputs outside the limits"));
        }
        if body.len() != 8 * statistic.entries(exits, features, outputs) {
            return Err(SumsError::Malformed("length does not fit the header"));
        }
        let values = body
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect();
        Self::zero_of(statistic, exits, features, outputs)?.filled(values)
    }
}

#[cfg(test)]
mod tests;

//! Exact sums: the statistics a gateway contributes, as integers.
//!
//! Features are clamped to ±8 and rounded to 2⁻¹², products fit i32, totals fit i64 for up to 2³² samples, so
//! the totals are the same bits for every order, split and machine, given the features.

use crate::shape::{MAX_EXITS, MAX_FEATURES, MAX_OUTPUTS, MIN_OUTPUTS};

/// Fractional bits of a quantized feature.
const SCALE_BITS: u32 = 12;
/// Most additions and subtractions a total may hold, so that no entry can overflow.
pub const MAX_SAMPLES: u64 = 1 << 32;
const MAGIC: [u8; 4] = *b"LOSM";
const VERSION: u16 = 1;
const HEADER: usize = 16;
/// Longest encoding [`Sums::from_bytes`] accepts.
pub const MAX_SUMS_BYTES: usize = HEADER + 8 * entries(MAX_EXITS, MAX_FEATURES, MAX_OUTPUTS);

const fn entries(exits: usize, features: usize, outputs: usize) -> usize {
    outputs + exits * (outputs * features + features * (features + 1) / 2)
}

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
    /// Sums of different sizes cannot be merged.
    #[error(
        "sums of {got:?} (exits, features, outputs) cannot join totals of {want:?}; the contribution belongs to another task version"
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

/// A feature as a multiple of 2⁻¹²: clamped to ±8, rounded to nearest, ties to even. 8.0 saturates at 32767;
/// NaN gives 0, so check with [`quantize_all`] wherever features enter.
pub fn quantize(z: f32) -> i16 {
    // The product is exact (a power of two); the cast saturates at 32767.
    (z.clamp(-8.0, 8.0) * f32::from(1u16 << SCALE_BITS)).round_ties_even() as i16
}

/// The feature a quantized value stands for.
pub fn dequantize(q: i16) -> f32 {
    f32::from(q) / f32::from(1u16 << SCALE_BITS)
}

/// Quantizes a sample's features and refuses NaN and infinities.
pub fn quantize_all(z: &[f32], out: &mut [i16]) -> Result<(), SumsError> {
    if z.len() != out.len() {
        return Err(SumsError::Length { what: "features", got: z.len(), want: out.len() });
    }
    if let Some(index) = z.iter().position(|x| !x.is_finite()) {
        return Err(SumsError::NotFinite { index });
    }
    for (out, &z) in out.iter_mut().zip(z) {
        *out = quantize(z);
    }
    Ok(())
}

/// Per class the count and the sum of the features, per exit one second-moment matrix shared by all classes.
///
/// Only what is independent is kept, in this order: counts (`outputs`), then `cross` (`exits × outputs ×
/// features`, Σ z of each class, in 2⁻¹²), then `gram` (per exit the upper triangle of Σ z zᵀ row by row,
/// `features·(features+1)/2`, in 2⁻²⁴). With the leading 1 of [1; z] the Gram matrix's first row would be the
/// totals of counts and cross over the classes.
#[derive(Clone, Debug)]
pub struct Sums {
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
        self.sizes() == other.sizes() && self.values == other.values
    }
}
impl Eq for Sums {}

impl Sums {
    /// Totals of nothing. Sizes outside the limits of a [`crate::Shape`] are refused.
    pub fn zero(exits: usize, features: usize, outputs: usize) -> Result<Self, SumsError> {
        let sized = (1..=MAX_EXITS).contains(&exits)
            && (1..=MAX_FEATURES).contains(&features)
            && (MIN_OUTPUTS..=MAX_OUTPUTS).contains(&outputs);
        if !sized {
            return Err(SumsError::Malformed("exits, features or outputs outside the limits"));
        }
        Ok(Self { exits, features, outputs, values: vec![0; entries(exits, features, outputs)], bound: 0 })
    }

    /// Sums from their integers, in the order of [`Sums::values`].
    pub fn from_values(
        exits: usize,
        features: usize,
        outputs: usize,
        values: Vec<i64>,
    ) -> Result<Self, SumsError> {
        let mut sums = Self::zero(exits, features, outputs)?;
        if values.len() != sums.values.len() {
            return Err(SumsError::Length { what: "integers", got: values.len(), want: sums.values.len() });
        }
        sums.values = values;
        sums.bound = sums.implied_bound();
        if sums.bound > MAX_SAMPLES {
            return Err(SumsError::Malformed("an entry is larger than 2^32 samples can make it"));
        }
        Ok(sums)
    }

    fn implied_bound(&self) -> u64 {
        let largest = |part: &[i64]| part.iter().map(|v| v.unsigned_abs()).max().unwrap_or(0);
        largest(self.counts())
            .max(largest(self.all_cross()).div_ceil(1 << 15))
            .max(largest(&self.values[self.gram_start()..]).div_ceil(1 << 30))
    }

    fn gram_start(&self) -> usize {
        self.outputs + self.exits * self.outputs * self.features
    }

    fn all_cross(&self) -> &[i64] {
        &self.values[self.outputs..self.gram_start()]
    }

    /// Exits, features per exit, outputs.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.exits, self.features, self.outputs)
    }

    /// Exits.
    pub fn exits(&self) -> usize {
        self.exits
    }

    /// Features per exit.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Classes.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// All integers: counts, cross, gram.
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// Samples per class; an increment may hold negative ones.
    pub fn counts(&self) -> &[i64] {
        &self.values[..self.outputs]
    }

    /// Σ z of each class at exit `k`, `outputs × features`, in 2⁻¹².
    pub fn cross(&self, k: usize) -> &[i64] {
        let size = self.outputs * self.features;
        &self.all_cross()[k * size..(k + 1) * size]
    }

    /// Upper triangle of Σ z zᵀ at exit `k`, row by row, in 2⁻²⁴.
    pub fn gram(&self, k: usize) -> &[i64] {
        let size = self.features * (self.features + 1) / 2;
        &self.values[self.gram_start() + k * size..][..size]
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

    /// Adds (`sign` 1) or removes (`sign` −1) one sample: quantized features of all exits, `exits × features`.
    /// Nothing changes on an error.
    pub fn add(&mut self, z: &[i16], label: u16, sign: i64) -> Result<(), SumsError> {
        let (exits, d, outputs) = self.sizes();
        if z.len() != exits * d {
            return Err(SumsError::Length { what: "features", got: z.len(), want: exits * d });
        }
        if usize::from(label) >= outputs {
            return Err(SumsError::Label { label, outputs });
        }
        if sign.abs() != 1 {
            return Err(SumsError::Sign(sign));
        }
        if self.bound >= MAX_SAMPLES {
            return Err(SumsError::Full);
        }
        self.bound += 1;
        self.values[usize::from(label)] += sign;
        let gram_start = self.gram_start();
        for (k, z) in z.chunks_exact(d).enumerate() {
            let cross_start = outputs + (k * outputs + usize::from(label)) * d;
            for (total, &z) in self.values[cross_start..cross_start + d].iter_mut().zip(z) {
                *total += sign * i64::from(z);
            }
            let mut row = gram_start + k * d * (d + 1) / 2;
            for i in 0..d {
                let left = sign as i32 * i32::from(z[i]);
                for (total, &right) in self.values[row..row + d - i].iter_mut().zip(&z[i..]) {
                    *total += i64::from(left * i32::from(right));
                }
                row += d - i;
            }
        }
        Ok(())
    }

    fn combine(&mut self, other: &Self, sign: i64) -> Result<(), SumsError> {
        if self.sizes() != other.sizes() {
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

    /// `LOSM`, version u16, exits u16, features u16, outputs u16, four zero bytes, then every integer as i64;
    /// all little-endian. Equal sums have equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + 8 * self.values.len());
        bytes.extend_from_slice(&MAGIC);
        for field in [VERSION, self.exits as u16, self.features as u16, self.outputs as u16] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&[0; 4]);
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
        if header[12..] != [0; 4] {
            return Err(SumsError::Malformed("reserved bytes are not zero"));
        }
        let [exits, features, outputs] = [field(6), field(8), field(10)].map(usize::from);
        if exits > MAX_EXITS || features > MAX_FEATURES || outputs > MAX_OUTPUTS {
            return Err(SumsError::Malformed("exits, features or outputs outside the limits"));
        }
        if body.len() != 8 * entries(exits, features, outputs) {
            return Err(SumsError::Malformed("length does not fit the header"));
        }
        let values = body
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect();
        Self::from_values(exits, features, outputs, values)
    }
}

#[cfg(test)]
mod tests;

//! Steps at about a bit per parameter: [`Codec::StepRotated`] and [`Codec::StepSparse`].
//!
//! Both quantize with a dead zone ([`crate::quantize`]) and code the numbers with learned probabilities
//! ([`crate::symbols`]); they differ in the coordinates. `StepRotated` turns the step first ([`crate::rotate`]), so
//! that every coordinate carries alike (the family of DRIVE and EDEN). `StepSparse` leaves it as it is: what is
//! large is kept and the rest becomes zero (the family of top-k), cheaply where large changes lie side by side.
//! Which of them loses less depends on the step.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | format, 1 |
//! | 1 | 1 | zero |
//! | 2 | 2 | length of a row for the probabilities, 0 for none |
//! | 4 | 4 | seed of the rotation, 0 for `StepSparse` |
//! | 8 | 4 × 4 | what the numbers stand for, f32: 1, 2, and for m ≥ 3 a step and a shift (m · step + shift) |
//! | 24 | | the numbers, range coded |

use crate::coder::Reader;
use crate::quantize::{Levels, fit, least_error};
use crate::{Codec, DeltaError, Encoded, rotate, symbols};

const FORMAT: u8 = 1;
/// Bytes before the numbers.
pub const HEADER: usize = 24;

/// Least part of a rotated step that is told at once, in the step's own direction. Levels that are means tell 1 − D of
/// it (D the share of its energy that is lost, about 0.45 at 0.8 bits), so that everything learned would arrive a round
/// late; levels 1 / (1 − D) times as large tell all of it, as EDEN does, but would make the residual grow without bound
/// in the end. In between the residual's energy still shrinks, to 1 − 2 · 0.8 + 0.8² / (1 − D) of the step's, and the
/// errors of many gateways, each with a rotation of its own, average out.
const TOLD: f64 = 0.8;
/// Share of the rotated step's error that a sparse one must stay below to be sent: where both lose alike, the rotated
/// one tells more at once, and its errors average out over gateways.
const CLEARLY: f64 = 0.9;
/// Most that levels are lengthened: beyond 2 the residual would be longer than the step.
const MOST_LONGER: f64 = 1.6;

/// How a lossy step is to be encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Most bits per parameter of the blob, above 0, at most [`MAX_BITS`].
    pub bits: f32,
    /// Seed of the rotation; should differ from gateway to gateway and round to round, so that their errors are
    /// independent and average out.
    pub seed: u32,
    /// How many neighbouring parameters form a row of the step's largest matrix, 0 where that is unknown. It only
    /// helps to guess what comes next.
    pub row: usize,
}

/// Most bits per parameter of a lossy step.
pub const MAX_BITS: f32 = 8.0;

impl Budget {
    /// Bytes a blob of `parameters` values may have; a small one may always have some.
    pub fn bytes(&self, parameters: usize) -> usize {
        let bits = f64::from(self.bits.clamp(0.01, MAX_BITS)) * parameters as f64;
        (bits / 8.0) as usize + HEADER
    }
}

/// Encodes in place: afterwards `step` holds what the blob lacks, the step minus what is decoded from the blob. It is
/// what a sender adds to its next step (error feedback; Seide et al. 2014, Karimireddy et al. 2019).
///
/// # Errors
/// `WrongKind` for a codec that is not lossy, `NotFinite`, `TooLarge`.
pub fn encode_lossy(codec: Codec, step: &mut [f32], budget: &Budget) -> Result<Encoded, DeltaError> {
    let encoded = encode(codec, step, budget)?;
    encoded.subtract(step)?;
    Ok(Encoded { blob: encoded.blob, raw_bytes: 4 * step.len() })
}

/// Encodes in place as [`encode_lossy`] with the codec that loses less of this step within the budget: by the sum of
/// squared errors before [`TOLD`] lengthens the rotated one.
pub fn encode_auto(step: &mut [f32], budget: &Budget) -> Result<(Codec, Encoded), DeltaError> {
    let mut best = encode(Codec::StepRotated, step, budget)?;
    // Without a rotation a step of nearly equal values cannot compete, and need not be tried.
    let enough = CLEARLY * best.error;
    if least_error(step, budget.bytes(step.len()) - HEADER) < enough {
        let sparse = encode(Codec::StepSparse, step, budget)?;
        if sparse.error < enough {
            best = sparse;
        }
    }
    best.subtract(step)?;
    Ok((best.codec, Encoded { blob: best.blob, raw_bytes: 4 * step.len() }))
}

fn energy(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

struct Lossy {
    codec: Codec,
    seed: u32,
    levels: Levels,
    symbols: Vec<i16>,
    blob: Vec<u8>,
    /// Sum of squared errors with levels that are means.
    error: f64,
}

impl Lossy {
    /// Takes away from `step` what a receiver decodes.
    fn subtract(&self, step: &mut [f32]) -> Result<(), DeltaError> {
        let decoded = values(self.codec, self.seed, &self.levels, &self.symbols)?;
        for (value, decoded) in step.iter_mut().zip(decoded) {
            *value -= decoded;
        }
        Ok(())
    }
}

fn encode(codec: Codec, step: &[f32], budget: &Budget) -> Result<Lossy, DeltaError> {
    let (seed, row) = match codec {
        Codec::StepRotated => (budget.seed, 0),
        Codec::StepSparse => (0, budget.row.min(usize::from(u16::MAX))),
        _ => return Err(DeltaError::WrongKind(codec)),
    };
    let raw_bytes = 4 * step.len();
    if raw_bytes > crate::MAX_RAW {
        return Err(DeltaError::TooLarge { bytes: raw_bytes, limit: crate::MAX_RAW });
    }
    finite(step)?;
    let fitted = if codec == Codec::StepRotated {
        let mut turned = step.to_vec();
        rotate::rotate(&mut turned, seed);
        finite(&turned)?;
        fit(&turned, row, HEADER, budget.bytes(step.len()))
    } else {
        fit(step, row, HEADER, budget.bytes(step.len()))
    };
    let mut fitted =
        fitted.ok_or_else(|| DeltaError::Compress("no quantization fits the bytes allowed".into()))?;
    let (whole, told) = (energy(step), fitted.energy());
    let longer = if codec == Codec::StepRotated && told > 0.0 {
        (TOLD * whole / told).clamp(1.0, MOST_LONGER) as f32
    } else {
        1.0
    };
    let Levels { one, two, step: delta, shift } = &mut fitted.levels;
    for level in [one, two, delta, shift] {
        // A level that nothing became may lie beyond what f32 holds; receivers refuse what is not finite.
        *level = (*level * longer).clamp(-f32::MAX, f32::MAX);
    }
    let mut blob = fitted.bytes;
    blob[0] = FORMAT;
    blob[2..4].copy_from_slice(&(row as u16).to_le_bytes());
    blob[4..8].copy_from_slice(&seed.to_le_bytes());
    let Levels { one, two, step: delta, shift } = fitted.levels;
    for (place, number) in blob[8..HEADER].chunks_exact_mut(4).zip([one, two, delta, shift]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    Ok(Lossy { codec, seed, levels: fitted.levels, symbols: fitted.symbols, blob, error: whole - told })
}

fn finite(values: &[f32]) -> Result<(), DeltaError> {
    values.iter().position(|v| !v.is_finite()).map_or(Ok(()), |index| Err(DeltaError::NotFinite { index }))
}

/// Decodes a lossy step of exactly `parameters` values.
pub(crate) fn decode(codec: Codec, blob: &[u8], parameters: usize) -> Result<Vec<f32>, DeltaError> {
    let (seed, levels, symbols) = read(codec, blob, parameters)?;
    values(codec, seed, &levels, &symbols)
}

/// Seed, levels and numbers of a blob.
fn read(codec: Codec, blob: &[u8], parameters: usize) -> Result<(u32, Levels, Vec<i16>), DeltaError> {
    let corrupt = |reason: &str| DeltaError::Corrupt { expected: 4 * parameters, reason: reason.into() };
    if parameters > crate::MAX_RAW / 4 {
        return Err(DeltaError::TooLarge { bytes: parameters.saturating_mul(4), limit: crate::MAX_RAW });
    }
    let Some((header, numbers)) = blob.split_first_chunk::<HEADER>() else {
        return Err(corrupt("it is shorter than its header"));
    };
    let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    let [one, two, step, shift] = [8, 12, 16, 20].map(|at| f32::from_le_bytes(word(at)));
    let seed = u32::from_le_bytes(word(4));
    if header[0] != FORMAT || header[1] != 0 || (codec == Codec::StepSparse && seed != 0) {
        return Err(corrupt("its header is of another format"));
    }
    if ![one, two, step, shift].iter().all(|v| v.is_finite()) {
        return Err(corrupt("a level is not finite"));
    }
    let row = usize::from(u16::from_le_bytes([header[2], header[3]]));
    let mut found = vec![0; parameters];
    let mut reader = Reader::new(numbers);
    symbols::code(&mut reader, &mut found, row);
    if !reader.used_up() {
        return Err(corrupt("bytes are left over"));
    }
    Ok((seed, Levels { one, two, step, shift }, found))
}

/// The numbers that a lossy step consists of, for those who compare codes.
///
/// # Errors
/// As [`decode_step`](crate::decode_step).
pub fn symbols_of(codec: Codec, blob: &[u8], parameters: usize) -> Result<Vec<i16>, DeltaError> {
    read(codec, blob, parameters).map(|(.., symbols)| symbols)
}

/// What the numbers stand for, in the step's own coordinates; the one place where this is computed, for sender and
/// receiver.
fn values(codec: Codec, seed: u32, levels: &Levels, symbols: &[i16]) -> Result<Vec<f32>, DeltaError> {
    let mut out: Vec<f32> = symbols.iter().map(|&symbol| levels.value(symbol)).collect();
    if codec == Codec::StepRotated {
        rotate::rotate_back(&mut out, seed);
    }
    finite(&out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode_step;
    use proptest::prelude::*;

    fn budget(bits: f32, row: usize) -> Budget {
        Budget { bits, seed: 77, row }
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_step_less_what_receivers_decode(
            step in proptest::collection::vec(prop_oneof![Just(0f32), -1f32..1.0, -1e6f32..1e6], 0..600),
            bits in 0.2f32..8.0,
            row in 0usize..70,
        ) {
            for codec in [Codec::StepRotated, Codec::StepSparse] {
                let mut left = step.clone();
                let encoded = encode_lossy(codec, &mut left, &budget(bits, row)).unwrap();
                prop_assert!(encoded.blob.len() <= budget(bits, row).bytes(step.len()));
                prop_assert!(encoded.blob.len() <= codec.most_blob_bytes(step.len()).unwrap());
                let decoded = decode_step(codec, &encoded.blob, step.len()).unwrap();
                for ((left, step), decoded) in left.iter().zip(&step).zip(&decoded) {
                    prop_assert_eq!(left.to_bits(), (step - decoded).to_bits());
                }
            }
        }

        #[test]
        fn arbitrary_blobs_never_panic(mut blob in proptest::collection::vec(any::<u8>(), 0..300), n in 0usize..3000, sound: bool) {
            if sound && blob.len() >= HEADER {
                blob[..2].copy_from_slice(&[FORMAT, 0]);
                blob[4..8].fill(0);
            }
            for codec in [Codec::StepRotated, Codec::StepSparse] {
                if let Ok(step) = decode_step(codec, &blob, n) {
                    prop_assert!(step.len() == n && step.iter().all(|v| v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn auto_takes_what_loses_less() {
        // A few large values among none: as they are.
        let mut sparse = vec![0.0; 4096];
        for i in 0..40 {
            sparse[i * 100] = if i % 2 == 0 { 1.0 } else { -1.0 };
        }
        let (codec, _) = encode_auto(&mut sparse, &budget(0.85, 0)).unwrap();
        assert_eq!(codec, Codec::StepSparse);
        assert!(energy(&sparse) < 1e-3);
        // All of nearly one size, as an optimizer that normalizes makes them: turned.
        let mut x = 1u64;
        let mut side = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if x >> 63 == 0 { 1.0 } else { -0.95 }
        };
        let mut even: Vec<f32> = (0..4096).map(|_| side()).collect();
        let whole = energy(&even);
        let (codec, encoded) = encode_auto(&mut even, &budget(0.85, 0)).unwrap();
        assert_eq!(codec, Codec::StepRotated);
        // What is left is shorter than the step, so that residuals do not grow without bound.
        assert!(energy(&even) < 0.7 * whole, "{}", energy(&even) / whole);
        assert!(encoded.blob.len() > 400);
        // Levels that nothing became stay finite, or receivers would refuse what was sent.
        let mut huge = vec![3e38, 0.0, -1e38, 0.0];
        let encoded = encode_lossy(Codec::StepSparse, &mut huge, &budget(2.0, 0)).unwrap();
        assert!(decode_step(Codec::StepSparse, &encoded.blob, 4).is_ok());
        let mut nothing = vec![0.0; 4096];
        assert!(encode_auto(&mut nothing, &budget(1.0, 0)).is_ok());
        assert!(nothing.iter().all(|&v| v == 0.0));
        nothing[0] = f32::NAN;
        assert_eq!(encode_auto(&mut nothing, &budget(1.0, 0)), Err(DeltaError::NotFinite { index: 0 }));
    }
}

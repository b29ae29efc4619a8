//! Steps: a module minus the base version it was trained from.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::{Codec, DeltaError, Encoded, compress, lossy, planes};

/// An encoded step and what the receiver will read from it.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedStep {
    /// Blob and raw size.
    pub encoded: Encoded,
    /// The values as every receiver decodes them, bit for bit. What the sender keeps for its next step (error
    /// feedback, Seide et al. 2014, "1-bit stochastic gradient descent", §3) is its own step minus these.
    pub decoded: Vec<f32>,
}

/// Encodes a step of flat parameters as f32 or f16; [`encode_lossy`](crate::encode_lossy) has the other codecs.
///
/// # Errors
/// `NotFinite` where a value is NaN or infinite in the codec's precision, `TooLarge`, `WrongKind`.
pub fn encode_step(codec: Codec, step: &[f32]) -> Result<EncodedStep, DeltaError> {
    let mut decoded = Vec::with_capacity(step.len());
    let mut words = Vec::with_capacity(step.len() * 4);
    for (index, &value) in step.iter().enumerate() {
        let received = match codec {
            Codec::StepF32 => {
                words.extend_from_slice(&value.to_le_bytes());
                value
            }
            Codec::StepF16 => {
                let rounded = f16::from_f32(value);
                words.extend_from_slice(&rounded.to_le_bytes());
                rounded.to_f32()
            }
            Codec::Sums | Codec::StepRotated | Codec::StepSparse => return Err(DeltaError::WrongKind(codec)),
        };
        if !received.is_finite() {
            return Err(DeltaError::NotFinite { index });
        }
        decoded.push(received);
    }
    let blob = compress::compress(&planes::split(&words, width(codec)?))?;
    Ok(EncodedStep { encoded: Encoded { blob, raw_bytes: words.len() }, decoded })
}

/// Decodes a step of exactly `parameters` values, all finite.
///
/// # Errors
/// `WrongKind`, `TooLarge`, `Corrupt` or `Length` where the blob is not such a step, `NotFinite`.
pub fn decode_step(codec: Codec, blob: &[u8], parameters: usize) -> Result<Vec<f32>, DeltaError> {
    if matches!(codec, Codec::StepRotated | Codec::StepSparse) {
        return lossy::decode(codec, blob, parameters);
    }
    let width = width(codec)?;
    let raw = compress::decompress(blob, parameters.saturating_mul(width))?;
    let step: Vec<f32> = match codec {
        Codec::StepF16 => halves(&raw, parameters),
        _ => planes::join(&raw, width)
            .chunks_exact(4)
            .map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect(),
    };
    match step.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(DeltaError::NotFinite { index }),
        None => Ok(step),
    }
}

/// The values of two planes of as many bytes. An aggregator does this ten thousand times a round: straight from the
/// planes, and converted together, which takes an eighth of the time that one by one takes.
fn halves(planes: &[u8], parameters: usize) -> Vec<f32> {
    let (low, high) = planes.split_at(parameters);
    let words: Vec<f16> =
        low.iter().zip(high).map(|(&low, &high)| f16::from_bits(u16::from_le_bytes([low, high]))).collect();
    let mut step = vec![0.0; words.len()];
    words.convert_to_f32_slice(&mut step);
    step
}

fn width(codec: Codec) -> Result<usize, DeltaError> {
    codec.step_bytes(1).ok_or(DeltaError::WrongKind(codec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finite() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-60_000f32..60_000.0, 0..400)
    }

    proptest! {
        #[test]
        fn f32_is_exact(step in finite()) {
            let out = encode_step(Codec::StepF32, &step).unwrap();
            prop_assert_eq!(&out.decoded, &step);
            prop_assert_eq!(decode_step(Codec::StepF32, &out.encoded.blob, step.len()).unwrap(), step);
        }

        #[test]
        fn f16_decodes_to_what_the_sender_was_told(step in finite()) {
            let out = encode_step(Codec::StepF16, &step).unwrap();
            let received = decode_step(Codec::StepF16, &out.encoded.blob, step.len()).unwrap();
            prop_assert_eq!(&received, &out.decoded);
            for (sent, received) in step.iter().zip(&received) {
                // Half precision keeps 11 significant bits; below 2^-14 the spacing is 2^-24.
                prop_assert!((sent - received).abs() <= (sent.abs() / 2048.0).max(1.0 / 16_777_216.0));
            }
        }

        #[test]
        fn arbitrary_blobs_never_panic(blob in proptest::collection::vec(any::<u8>(), 0..300), n in 0usize..1000) {
            for codec in [Codec::StepF32, Codec::StepF16, Codec::Sums] {
                if let Ok(step) = decode_step(codec, &blob, n) {
                    prop_assert!(step.len() == n && step.iter().all(|v| v.is_finite()));
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused_on_both_sides() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for codec in [Codec::StepF32, Codec::StepF16] {
                assert_eq!(encode_step(codec, &[0.0, bad]), Err(DeltaError::NotFinite { index: 1 }));
            }
            let forged = compress::compress(&planes::split(&bad.to_le_bytes(), 4)).unwrap();
            assert_eq!(decode_step(Codec::StepF32, &forged, 1), Err(DeltaError::NotFinite { index: 0 }));
        }
        assert_eq!(encode_step(Codec::StepF16, &[1e6]), Err(DeltaError::NotFinite { index: 0 }));
    }

    #[test]
    fn a_sums_codec_carries_no_step() {
        assert_eq!(encode_step(Codec::Sums, &[1.0]), Err(DeltaError::WrongKind(Codec::Sums)));
        assert_eq!(decode_step(Codec::Sums, &[], 1), Err(DeltaError::WrongKind(Codec::Sums)));
    }

    #[test]
    fn numbers_are_fixed_for_ever() {
        let numbers = [
            (Codec::StepF32, 1),
            (Codec::StepF16, 2),
            (Codec::StepRotated, 3),
            (Codec::StepSparse, 4),
            (Codec::Sums, 16),
        ];
        for (codec, number) in numbers {
            assert_eq!(codec.number(), number);
            assert_eq!(Codec::from_number(number), Ok(codec));
        }
        assert_eq!(Codec::from_number(5), Err(DeltaError::UnknownCodec(5)));
    }
}

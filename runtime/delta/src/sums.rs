//! Sums: a byte string that is mostly signed 64-bit integers whose neighbours are of like size.
//!
//! Each word is coded as the length of its magnitude in bits, told as a difference from what the words before it
//! suggest, then its sign and the bits below the leading one, of which the first two are learned. So the zeros of
//! classes that a gateway has not seen, and of features that are always alike, cost a few hundredths of a bit each.
//! The totals are exact: any byte string comes back as it was.

use crate::coder::{Bit, Coder, Number, Reader, Writer};
use crate::{DeltaError, Encoded, MAX_RAW};

/// Lengths above or below the expected one that are told apart by learned decisions of their own.
const APART: usize = 16;
/// Lengths of a magnitude, 0 to 64.
const LENGTHS: usize = 65;

struct Model {
    /// Whether the length is what was expected; by whether the last one was and whether zero is expected.
    equal: [[Bit; 2]; 3],
    longer: [Bit; 3],
    /// Further away than so many bits; by direction.
    further: [[Bit; APART]; 2],
    below: Number<LENGTHS>,
    negative: [Bit; 3],
    /// Lengths of the last two words.
    last: [u32; 2],
    /// Whether the last length was as expected, longer or shorter.
    miss: usize,
    sign: usize,
}

impl Model {
    const fn new() -> Self {
        Self {
            equal: [[Bit::new(); 2]; 3],
            longer: [Bit::new(); 3],
            further: [[Bit::new(); APART]; 2],
            below: Number::new(),
            negative: [Bit::new(); 3],
            last: [0; 2],
            miss: 0,
            sign: 0,
        }
    }

    /// Codes one word; the writer's is told, the reader's is found.
    fn code<C: Coder>(&mut self, coder: &mut C, told: i64) -> i64 {
        let size = told.unsigned_abs();
        let length = self.length(coder, 64 - size.leading_zeros());
        if length == 0 {
            return 0;
        }
        let negative = coder.code(&mut self.negative[self.sign], told < 0);
        self.sign = 1 + usize::from(negative);
        let size = self.below.low_bits(coder, length as usize, size);
        if negative { (size as i64).wrapping_neg() } else { size as i64 }
    }

    fn length<C: Coder>(&mut self, coder: &mut C, told: u32) -> u32 {
        let [before, before_that] = self.last;
        // After one zero another is likely, and so is the usual length.
        let expected = if before == 0 { 0 } else { (2 * before + before_that).div_ceil(3) };
        let zero = usize::from(expected == 0);
        let length = if coder.code(&mut self.equal[self.miss][zero], told == expected) {
            self.miss = 0;
            expected
        } else {
            let could_be_longer = expected < 64;
            let longer = match (expected, could_be_longer) {
                (0, _) => true,
                (_, false) => false,
                _ => coder.code(&mut self.longer[self.miss], told > expected),
            };
            self.miss = if longer { 1 } else { 2 };
            let most = if longer { 64 - expected } else { expected };
            let distance = told.abs_diff(expected);
            let further = &mut self.further[usize::from(longer)];
            let mut found = 1;
            while found < most
                && coder.code(&mut further[(found as usize - 1).min(APART - 1)], distance > found)
            {
                found += 1;
            }
            if longer { expected + found } else { expected - found }
        };
        self.last = [length, before];
        length
    }
}

/// Encodes a byte string of little-endian i64 words; any byte string is carried exactly.
///
/// # Errors
/// `TooLarge`.
pub fn encode_sums(bytes: &[u8]) -> Result<Encoded, DeltaError> {
    if bytes.len() > MAX_RAW {
        return Err(DeltaError::TooLarge { bytes: bytes.len(), limit: MAX_RAW });
    }
    let mut writer = Writer::new(Vec::new());
    let mut model = Model::new();
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        model.code(&mut writer, i64::from_le_bytes(*word));
    }
    for &byte in tail {
        writer.plain(8, u32::from(byte));
    }
    Ok(Encoded { blob: writer.finish(0), raw_bytes: bytes.len() })
}

/// Decodes a byte string of exactly `raw_bytes` bytes; the only large allocation is the result.
///
/// # Errors
/// `TooLarge`, or `Corrupt` where bytes are left over.
pub fn decode_sums(blob: &[u8], raw_bytes: usize) -> Result<Vec<u8>, DeltaError> {
    if raw_bytes > MAX_RAW {
        return Err(DeltaError::TooLarge { bytes: raw_bytes, limit: MAX_RAW });
    }
    let mut out = Vec::with_capacity(raw_bytes);
    let mut reader = Reader::new(blob);
    let mut model = Model::new();
    for _ in 0..raw_bytes / 8 {
        out.extend_from_slice(&model.code(&mut reader, 0).to_le_bytes());
    }
    for _ in 0..raw_bytes % 8 {
        out.push(reader.plain(8, 0) as u8);
    }
    if reader.used_up() {
        Ok(out)
    } else {
        Err(DeltaError::Corrupt { expected: raw_bytes, reason: "bytes are left over".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_byte_string_is_carried_exactly(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let out = encode_sums(&bytes).unwrap();
            prop_assert_eq!(out.raw_bytes, bytes.len());
            prop_assert_eq!(decode_sums(&out.blob, bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn words_of_any_size_are_carried_exactly(
            words in proptest::collection::vec(any::<i64>().prop_flat_map(|v| (0u32..64).prop_map(move |s| v >> s)), 0..200),
        ) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let out = encode_sums(&bytes).unwrap();
            prop_assert!(out.blob.len() <= crate::most_compressed_bytes(bytes.len()));
            prop_assert_eq!(decode_sums(&out.blob, bytes.len()).unwrap(), bytes);
        }

        #[test]
        fn arbitrary_blobs_never_panic(blob in proptest::collection::vec(any::<u8>(), 0..300), n in 0usize..5000) {
            if let Ok(bytes) = decode_sums(&blob, n) {
                prop_assert_eq!(bytes.len(), n);
            }
        }
    }

    #[test]
    fn extremes_and_zeros() {
        let words = [i64::MIN, i64::MAX, 0, 0, -1, 1, i64::MIN, 0, i64::MAX];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let out = encode_sums(&bytes).unwrap();
        assert_eq!(decode_sums(&out.blob, bytes.len()).unwrap(), bytes);
        assert!(encode_sums(&vec![0; 80_000]).unwrap().blob.is_empty());
        assert!(matches!(decode_sums(&[1; 40], 8), Err(DeltaError::Corrupt { .. })));
        assert!(matches!(decode_sums(&[], MAX_RAW + 1), Err(DeltaError::TooLarge { .. })));
        assert!(matches!(encode_sums(&vec![0; MAX_RAW + 1]), Err(DeltaError::TooLarge { .. })));
    }

    #[test]
    fn small_integers_become_a_fraction_of_their_size() {
        // Spread as products of two features are: about 2^24, both signs.
        let mut x = 1u64;
        let values = (0..4096).map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as i64 - (1 << 23)
        });
        let bytes: Vec<u8> = values.flat_map(i64::to_le_bytes).collect();
        let out = encode_sums(&bytes).unwrap();
        assert!(out.blob.len() * 5 < bytes.len() * 2, "{} of {}", out.blob.len(), bytes.len());
    }
}

//! Sums: a byte string that is mostly small signed 64-bit integers.

use crate::{DeltaError, Encoded, compress, planes};

/// Zigzag maps small magnitudes of either sign to small unsigned words, so that the high planes are zeros.
fn zigzag(word: [u8; 8]) -> [u8; 8] {
    let v = i64::from_le_bytes(word);
    ((v << 1) ^ (v >> 63)).to_le_bytes()
}

fn unzigzag(word: [u8; 8]) -> [u8; 8] {
    let u = u64::from_le_bytes(word);
    ((u >> 1) ^ (u & 1).wrapping_neg()).to_le_bytes()
}

fn map_words(bytes: &mut [u8], map: fn([u8; 8]) -> [u8; 8]) {
    let (words, _tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = map(*word);
    }
}

/// Encodes a byte string of little-endian i64 words; any byte string is carried exactly.
///
/// # Errors
/// `TooLarge`.
pub fn encode_sums(bytes: &[u8]) -> Result<Encoded, DeltaError> {
    let mut words = bytes.to_vec();
    map_words(&mut words, zigzag);
    Ok(Encoded { blob: compress::compress(&planes::split(&words, 8))?, raw_bytes: bytes.len() })
}

/// Decodes a byte string of exactly `raw_bytes` bytes.
///
/// # Errors
/// `TooLarge`, `Corrupt` or `Length` where the blob is not of that size.
pub fn decode_sums(blob: &[u8], raw_bytes: usize) -> Result<Vec<u8>, DeltaError> {
    let mut words = planes::join(&compress::decompress(blob, raw_bytes)?, 8);
    map_words(&mut words, unzigzag);
    Ok(words)
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
        fn zigzag_is_exact(v: i64) {
            prop_assert_eq!(i64::from_le_bytes(unzigzag(zigzag(v.to_le_bytes()))), v);
        }

        #[test]
        fn arbitrary_blobs_never_panic(blob in proptest::collection::vec(any::<u8>(), 0..300), n in 0usize..5000) {
            if let Ok(bytes) = decode_sums(&blob, n) {
                prop_assert_eq!(bytes.len(), n);
            }
        }
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

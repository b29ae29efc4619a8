//! One zstd frame, bounded in both directions.

use crate::{DeltaError, MAX_RAW};

/// Up to this size the highest ordinary level costs a gateway a few megabytes for a moment; its tables grow
/// with the input, so larger inputs get a level with small ones.
const SMALL: usize = 1024 * 1024;

pub(crate) fn compress(raw: &[u8]) -> Result<Vec<u8>, DeltaError> {
    if raw.len() > MAX_RAW {
        return Err(DeltaError::TooLarge { bytes: raw.len(), limit: MAX_RAW });
    }
    let level = if raw.len() <= SMALL { 19 } else { 9 };
    zstd::bulk::compress(raw, level).map_err(|e| DeltaError::Compress(e.to_string()))
}

/// Decompresses exactly `expected` bytes; the only allocation is the result, made before the blob is looked at.
pub(crate) fn decompress(blob: &[u8], expected: usize) -> Result<Vec<u8>, DeltaError> {
    if expected > MAX_RAW {
        return Err(DeltaError::TooLarge { bytes: expected, limit: MAX_RAW });
    }
    let mut out = vec![0; expected];
    let found = zstd::bulk::decompress_to_buffer(blob, &mut out[..])
        .map_err(|e| DeltaError::Corrupt { expected, reason: e.to_string() })?;
    if found == expected { Ok(out) } else { Err(DeltaError::Length { found, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bomb_is_refused_at_the_expected_size() {
        let bomb = zstd::bulk::compress(&vec![0; 64 * 1024 * 1024], 3).unwrap();
        assert!(bomb.len() < 16 * 1024);
        assert!(matches!(decompress(&bomb, 1000), Err(DeltaError::Corrupt { expected: 1000, .. })));
    }

    #[test]
    fn sizes_must_agree_exactly() {
        let blob = compress(&[7; 1000]).unwrap();
        assert_eq!(decompress(&blob, 1000).unwrap(), [7; 1000]);
        assert!(matches!(decompress(&blob, 999), Err(DeltaError::Corrupt { .. })));
        assert_eq!(decompress(&blob, 1001), Err(DeltaError::Length { found: 1000, expected: 1001 }));
        assert!(matches!(decompress(&blob, MAX_RAW + 1), Err(DeltaError::TooLarge { .. })));
        assert!(matches!(compress(&vec![0; MAX_RAW + 1]), Err(DeltaError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(blob in proptest::collection::vec(any::<u8>(), 0..300), expected in 0usize..5000) {
            if let Ok(raw) = decompress(&blob, expected) {
                prop_assert_eq!(raw.len(), expected);
            }
        }

        #[test]
        fn a_damaged_blob_never_grows(at in any::<usize>(), bit in 0u8..8, raw in proptest::collection::vec(any::<u8>(), 1..2000)) {
            let mut blob = compress(&raw).unwrap();
            let at = at % blob.len();
            blob[at] ^= 1 << bit;
            if let Ok(again) = decompress(&blob, raw.len()) {
                prop_assert_eq!(again.len(), raw.len());
            }
        }
    }
}

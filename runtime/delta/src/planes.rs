//! Words to byte planes and back.

/// Cuts little-endian words of `width` bytes into planes; bytes after the last whole word stay at the end.
pub(crate) fn split(words: &[u8], width: usize) -> Vec<u8> {
    let count = words.len() / width;
    let mut out = vec![0; words.len()];
    for (i, word) in words.chunks_exact(width).enumerate() {
        for (plane, &byte) in word.iter().enumerate() {
            out[plane * count + i] = byte;
        }
    }
    out[count * width..].copy_from_slice(&words[count * width..]);
    out
}

/// The inverse of [`split`].
pub(crate) fn join(planes: &[u8], width: usize) -> Vec<u8> {
    let count = planes.len() / width;
    let mut out = vec![0; planes.len()];
    for (i, word) in out.chunks_exact_mut(width).enumerate() {
        for (plane, byte) in word.iter_mut().enumerate() {
            *byte = planes[plane * count + i];
        }
    }
    out[count * width..].copy_from_slice(&planes[count * width..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn low_bytes_come_first() {
        assert_eq!(split(&[1, 2, 3, 4, 9], 2), [1, 3, 2, 4, 9]);
    }

    proptest! {
        #[test]
        fn join_undoes_split(bytes in proptest::collection::vec(any::<u8>(), 0..100), width in 1usize..9) {
            prop_assert_eq!(join(&split(&bytes, width), width), bytes);
        }
    }
}

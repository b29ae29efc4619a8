//! Cutting a blob into chunks of one size, and the bitmap that says which of them are there.

use crate::limits::MAX_BLOB;
use crate::read::WireError;
use core::ops::Range;

/// Bytes of every chunk of a blob but its last, which may be shorter. Two seconds of a 64 kbit/s line: what a cut
/// in the middle costs at most. Both sides know it, so a bitmap is all that a resumption needs.
pub const CHUNK: usize = 16 * 1024;
/// Chunks of the largest blob.
pub const MAX_CHUNKS: usize = MAX_BLOB / CHUNK;
/// Longest bitmap in bytes.
pub const MAX_BITMAP: usize = MAX_CHUNKS / 8;

const _: () = assert!(MAX_BLOB.is_multiple_of(CHUNK) && MAX_CHUNKS.is_multiple_of(8));

/// Chunks of `chunk` bytes that a blob of `total` bytes has; an empty blob has one, of no bytes.
pub const fn count(total: usize, chunk: usize) -> usize {
    if total == 0 { 1 } else { total.div_ceil(chunk) }
}

/// Where chunk `index` lies in a blob of `total` bytes; `None` beyond its end.
pub fn range(total: usize, chunk: usize, index: usize) -> Option<Range<usize>> {
    if index >= count(total, chunk) {
        return None;
    }
    let start = index * chunk;
    Some(start..(start + chunk).min(total))
}

/// A set of the chunks of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunks {
    count: u16,
    bits: [u8; MAX_BITMAP],
}

impl Chunks {
    /// The empty set of a blob with `count` chunks; `None` unless that is 1 to [`MAX_CHUNKS`].
    pub fn none(count: usize) -> Option<Self> {
        (1..=MAX_CHUNKS).contains(&count).then_some(Self { count: count as u16, bits: [0; MAX_BITMAP] })
    }

    /// The set of all chunks of such a blob.
    pub fn all(count: usize) -> Option<Self> {
        Self::none(count).map(|none| none.others())
    }

    /// Chunks the blob has.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Chunks in the set.
    pub fn len(&self) -> usize {
        self.bits.iter().map(|byte| byte.count_ones() as usize).sum()
    }

    /// Whether no chunk is in the set.
    pub fn is_empty(&self) -> bool {
        self.bits == [0; MAX_BITMAP]
    }

    /// Whether every chunk is in the set.
    pub fn is_full(&self) -> bool {
        self.len() == self.count()
    }

    /// Whether `index` is in the set.
    pub fn has(&self, index: usize) -> bool {
        index < self.count() && self.bits[index / 8] & (1 << (index % 8)) != 0
    }

    /// Adds `index`; whether it is new. One beyond the blob's end is never added.
    pub fn add(&mut self, index: usize) -> bool {
        let new = index < self.count() && !self.has(index);
        if new {
            self.bits[index / 8] |= 1 << (index % 8);
        }
        new
    }

    /// Takes `index` out; whether it was in.
    pub fn take(&mut self, index: usize) -> bool {
        let was = self.has(index);
        if was {
            self.bits[index / 8] &= !(1 << (index % 8));
        }
        was
    }

    /// Takes all of them out.
    pub fn clear(&mut self) {
        self.bits = [0; MAX_BITMAP];
    }

    /// The chunks that are in this set or in `other`, of the same blob.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut union = *self;
        for (byte, more) in union.bits.iter_mut().zip(other.bits) {
            *byte |= more;
        }
        union
    }

    /// The lowest chunk in the set.
    pub fn first(&self) -> Option<usize> {
        let at = self.bits.iter().position(|&byte| byte != 0)?;
        Some(at * 8 + self.bits[at].trailing_zeros() as usize)
    }

    /// The chunks that are not in the set.
    #[must_use]
    pub fn others(&self) -> Self {
        let mut others = *self;
        for (at, byte) in others.bits.iter_mut().enumerate() {
            let used = (self.count() - (at * 8).min(self.count())).min(8);
            *byte = !*byte & ((1u16 << used) - 1) as u8;
        }
        others
    }

    /// The set as it travels: chunk n is bit n mod 8 of byte n / 8; bits beyond the last chunk are zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits[..self.count().div_ceil(8)]
    }

    /// Reads the set of a blob with `count` chunks.
    pub fn from_bytes(count: usize, bytes: &[u8]) -> Result<Self, WireError> {
        let mut chunks = Self::none(count).ok_or(WireError::BadField("total"))?;
        let length = chunks.as_bytes().len();
        if bytes.len() != length {
            return Err(if bytes.len() < length { WireError::Truncated } else { WireError::TrailingBytes });
        }
        chunks.bits[..length].copy_from_slice(bytes);
        if chunks.others().others() == chunks { Ok(chunks) } else { Err(WireError::BadField("bitmap")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_cover_the_blob_once() {
        for total in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, MAX_BLOB] {
            let mut at = 0;
            for index in 0..count(total, CHUNK) {
                let range = range(total, CHUNK, index).unwrap();
                assert!(range.start == at && range.len() <= CHUNK);
                assert!(range.len() == CHUNK || range.end == total);
                at = range.end;
            }
            assert_eq!(at, total);
            assert_eq!(range(total, CHUNK, count(total, CHUNK)), None);
        }
        assert_eq!(count(MAX_BLOB, CHUNK), MAX_CHUNKS);
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(count in 1usize..=MAX_CHUNKS, steps in proptest::collection::vec((any::<bool>(), 0usize..300), 0..200)) {
            let (mut chunks, mut model) = (Chunks::none(count).unwrap(), BTreeSet::new());
            for (add, index) in steps {
                if add {
                    prop_assert_eq!(chunks.add(index), index < count && model.insert(index));
                } else {
                    prop_assert_eq!(chunks.take(index), model.remove(&index));
                }
                prop_assert_eq!((chunks.first(), chunks.len()), (model.first().copied(), model.len()));
                prop_assert_eq!(chunks.is_full(), model.len() == count);
                prop_assert_eq!(chunks.others().len(), count - model.len());
            }
            prop_assert!((0..300).all(|index| chunks.has(index) == model.contains(&index)));
            prop_assert_eq!(Chunks::from_bytes(count, chunks.as_bytes()), Ok(chunks));
        }

        #[test]
        fn arbitrary_bytes_never_panic(count in 0usize..300, bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(chunks) = Chunks::from_bytes(count, &bytes) {
                prop_assert_eq!(chunks.as_bytes(), bytes.as_slice());
            }
        }
    }
}

//! Cutting a blob into chunks and putting it together again.

use crate::frame::FLAG_MANIFEST;
use crate::limits::{MAX_BLOB, MAX_PAYLOAD};
use core::ops::Range;

/// Ranges of a blob of `total` bytes that travel as one frame each. `reserved` bytes of the first frame are
/// taken by the manifest and its length field. An empty blob travels as one empty frame.
pub fn ranges(total: usize, reserved: usize) -> impl Iterator<Item = Range<usize>> {
    let first = MAX_PAYLOAD.saturating_sub(reserved).min(total);
    let rest = (first..total).step_by(MAX_PAYLOAD).map(move |at| at..(at + MAX_PAYLOAD).min(total));
    core::iter::once(0..first).chain(rest)
}

/// Splits the first chunk's payload into manifest and data.
pub fn split_first(flags: u16, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    if flags & FLAG_MANIFEST == 0 {
        return None;
    }
    let (length, rest) = payload.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_le_bytes(*length) as usize)
}

/// Why a piece was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveError {
    /// The blob is larger than the protocol or the buffer allows.
    TooLarge,
    /// The piece does not lie within the blob.
    OutOfRange,
    /// Too many holes: pieces arrived wildly out of order.
    TooFragmented,
}

/// Puts the pieces of one blob together in a caller-owned buffer. Pieces may come twice and in any order.
#[derive(Debug, Clone)]
pub struct Reassembly {
    total: usize,
    /// Received ranges, disjoint and ascending.
    have: heapless::Vec<Range<usize>, 96>,
}

impl Reassembly {
    /// Starts a blob of `total` bytes.
    pub fn new(total: usize) -> Result<Self, ReceiveError> {
        if total > MAX_BLOB {
            Err(ReceiveError::TooLarge)
        } else {
            Ok(Self { total, have: heapless::Vec::new() })
        }
    }

    /// Copies a piece to its place in `buffer` (at least `total` bytes long).
    pub fn insert(&mut self, buffer: &mut [u8], offset: usize, piece: &[u8]) -> Result<(), ReceiveError> {
        let end = offset.checked_add(piece.len()).filter(|&end| end <= self.total);
        let range = offset..end.ok_or(ReceiveError::OutOfRange)?;
        buffer.get_mut(range.clone()).ok_or(ReceiveError::TooLarge)?.copy_from_slice(piece);
        if range.is_empty() {
            return Ok(());
        }
        let mut merged = range;
        self.have.retain(|have| {
            let apart = have.end < merged.start || merged.end < have.start;
            if !apart {
                merged = merged.start.min(have.start)..merged.end.max(have.end);
            }
            apart
        });
        let at = self.have.iter().position(|have| have.start > merged.start).unwrap_or(self.have.len());
        self.have.insert(at, merged).map_err(|_| ReceiveError::TooFragmented)
    }

    /// Whether every byte arrived.
    pub fn complete(&self) -> bool {
        self.total == 0 || (self.have.len() == 1 && self.have[0] == (0..self.total))
    }

    /// The first bytes still missing.
    pub fn missing(&self) -> Option<Range<usize>> {
        if self.complete() {
            return None;
        }
        let start = self.have.first().filter(|have| have.start == 0).map_or(0, |have| have.end);
        let end = self.have.iter().map(|have| have.start).find(|&s| s > start).unwrap_or(self.total);
        Some(start..end)
    }

    /// Size of the blob in bytes.
    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_cover_the_blob_once() {
        for total in [0, 1, MAX_PAYLOAD - 300, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD] {
            let mut at = 0;
            for (i, range) in ranges(total, 300).enumerate() {
                assert_eq!(range.start, at);
                assert!(range.len() <= MAX_PAYLOAD - if i == 0 { 300 } else { 0 });
                at = range.end;
            }
            assert_eq!(at, total);
        }
    }

    proptest! {
        #[test]
        fn any_order_with_repeats_gives_the_blob(total in 1usize..5000, piece in 100usize..900, order in proptest::collection::vec(any::<u16>(), 60)) {
            let blob: Vec<u8> = (0..total).map(|i| i as u8).collect();
            let pieces: Vec<_> = (0..total).step_by(piece).map(|at| at..(at + piece).min(total)).collect();
            let mut buffer = vec![0; total];
            let mut reassembly = Reassembly::new(total).unwrap();
            for pick in order {
                let range = pieces[pick as usize % pieces.len()].clone();
                reassembly.insert(&mut buffer, range.start, &blob[range]).unwrap();
            }
            while let Some(missing) = reassembly.missing() {
                prop_assert!(!reassembly.complete());
                reassembly.insert(&mut buffer, missing.start, &blob[missing]).unwrap();
            }
            prop_assert!(reassembly.complete());
            prop_assert_eq!(buffer, blob);
        }

        #[test]
        fn arbitrary_pieces_never_panic(total in 0usize..100, pieces in proptest::collection::vec((any::<usize>(), 0usize..50), 0..300)) {
            let mut buffer = vec![0; total];
            let mut reassembly = Reassembly::new(total).unwrap();
            for (offset, length) in pieces {
                let _ = reassembly.insert(&mut buffer, offset % 200, &vec![0; length]);
            }
        }
    }
}

//! The lineage: a task's chain of module versions for one backbone.

use loadonce_wire::Bytes32;
use thiserror::Error;

use crate::ContributionId;

/// Encoded length in bytes.
pub const ENTRY_BYTES: usize = 4 + 8 + 32 + 32 + 32 + 4 + 4 + 8;
const FORMAT: u8 = 1;

/// What a version was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Made {
    /// Solved from the totals of all sums so far.
    FromSums = 1,
    /// The previous version plus the weighted mean of a round's steps.
    FromSteps = 2,
}

/// One version. Fixed length, little-endian:
/// format u8 = 1 · made u8 · zero u16 · version u64 · parent \[32\] · module \[32\] · contributions \[32\] ·
/// count u32 · gateways u32 · weight u64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineageEntry {
    /// What it was made from.
    pub made: Made,
    /// Version number, from 1.
    pub version: u64,
    /// blake3 of the previous version's entry; zeros for version 1. So the newest entry vouches for the chain.
    pub parent: Bytes32,
    /// blake3 of the module file.
    pub module: Bytes32,
    /// See [`contributions_hash`]: those that came in since the previous version was cut.
    pub contributions: Bytes32,
    /// How many those are.
    pub count: u32,
    /// From how many gateways.
    pub gateways: u32,
    /// From sums: samples in the totals. From steps: Σ of their weights after clipping, each times the versions it
    /// stands for ([`crate::Share`]).
    pub weight: u64,
}

/// Bytes that are no lineage entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a lineage entry of format 1: {0}; restore the aggregator's state from a backup")]
pub struct LineageError(&'static str);

impl LineageEntry {
    /// Encodes.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let fields: [&[u8]; 8] = [
            &[FORMAT, self.made as u8, 0, 0],
            &self.version.to_le_bytes(),
            &self.parent,
            &self.module,
            &self.contributions,
            &self.count.to_le_bytes(),
            &self.gateways.to_le_bytes(),
            &self.weight.to_le_bytes(),
        ];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        out
    }

    /// Decodes exactly one entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, LineageError> {
        let bytes: &[u8; ENTRY_BYTES] = bytes.try_into().map_err(|_| LineageError("wrong length"))?;
        if bytes[0] != FORMAT || bytes[2..4] != [0, 0] {
            return Err(LineageError("unknown format"));
        }
        let made = match bytes[1] {
            1 => Made::FromSums,
            2 => Made::FromSteps,
            _ => return Err(LineageError("unknown origin")),
        };
        Ok(Self {
            made,
            version: u64::from_le_bytes(array(bytes, 4)),
            parent: array(bytes, 12),
            module: array(bytes, 44),
            contributions: array(bytes, 76),
            count: u32::from_le_bytes(array(bytes, 108)),
            gateways: u32::from_le_bytes(array(bytes, 112)),
            weight: u64::from_le_bytes(array(bytes, 116)),
        })
    }

    /// blake3 of the encoded entry: the next entry's parent.
    pub fn hash(&self) -> Bytes32 {
        *blake3::hash(&self.encode()).as_bytes()
    }
}

fn array<const N: usize>(bytes: &[u8; ENTRY_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// blake3 of the identities' bytes ([`ContributionId::to_bytes`]) in ascending order, each once.
pub fn contributions_hash(ids: impl IntoIterator<Item = ContributionId>) -> Bytes32 {
    let mut sorted: Vec<[u8; 80]> = ids.into_iter().map(|id| id.to_bytes()).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut hash = blake3::Hasher::new();
    for id in sorted {
        hash.update(&id);
    }
    *hash.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> ContributionId {
        ContributionId { key: [n; 32], epoch: 1, sequence: u64::from(n), blob_hash: [n; 32] }
    }

    #[test]
    fn round_trip_and_refusals() {
        for made in [Made::FromSums, Made::FromSteps] {
            let entry = LineageEntry {
                made,
                version: 2,
                parent: [3; 32],
                module: [4; 32],
                contributions: [5; 32],
                count: 6,
                gateways: 7,
                weight: 8,
            };
            let bytes = entry.encode();
            assert_eq!(LineageEntry::decode(&bytes), Ok(entry));
            assert!(LineageEntry::decode(&bytes[1..]).is_err());
            for (at, value) in [(0, 2), (1, 0), (1, 3), (2, 1)] {
                let mut damaged = bytes;
                damaged[at] = value;
                assert!(LineageEntry::decode(&damaged).is_err());
            }
        }
    }

    #[test]
    fn the_set_counts_not_its_order() {
        let (a, b) = (contributions_hash([id(1), id(2)]), contributions_hash([id(2), id(1), id(2)]));
        assert_eq!(a, b);
        assert_ne!(a, contributions_hash([id(1)]));
        assert_ne!(a, contributions_hash([]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), ENTRY_BYTES - 1..ENTRY_BYTES + 2)) {
            let _ = LineageEntry::decode(&bytes);
        }
    }
}

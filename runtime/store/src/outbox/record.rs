//! The stored head of an outbox entry, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | format = 1 |
//! | 1 | 1 | kind (1 sum, 2 step) |
//! | 2 | 1 | task length |
//! | 3 | 1 | 0 |
//! | 4 | 4 | blob bytes |
//! | 8 | 8 | epoch |
//! | 16 | 32 | blake3 of the blob |
//! | 48 | 8 | first 8 bytes of blake3 over everything else, in order |
//! | 56 | … | task, manifest |

use super::Kind;

const FORMAT: u8 = 1;
const CHECK: std::ops::Range<usize> = 48..56;
const FIXED: usize = 56;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) task: &'a str,
    pub(super) blob_bytes: u32,
    pub(super) blob_hash: [u8; 32],
    pub(super) manifest: &'a [u8],
}

impl<'a> Record<'a> {
    /// `None` if the task's name is longer than 255 bytes.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let task_len = u8::try_from(self.task.len()).ok()?;
        let mut out = Vec::with_capacity(FIXED + self.task.len() + self.manifest.len());
        out.extend_from_slice(&[FORMAT, self.kind as u8, task_len, 0]);
        out.extend_from_slice(&self.blob_bytes.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.blob_hash);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(self.task.as_bytes());
        out.extend_from_slice(self.manifest);
        let check = check(&out);
        out[CHECK].copy_from_slice(&check);
        Some(out)
    }

    /// `None` for anything that `encode` did not write.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; FIXED] = bytes.first_chunk()?;
        if fixed[0] != FORMAT || fixed[3] != 0 || fixed[CHECK] != check(bytes) {
            return None;
        }
        let (task, manifest) = bytes[FIXED..].split_at_checked(fixed[2].into())?;
        Some(Self {
            kind: Kind::from_tag(fixed[1])?,
            epoch: u64::from_le_bytes(fixed[8..16].try_into().ok()?),
            task: std::str::from_utf8(task).ok()?,
            blob_bytes: u32::from_le_bytes(fixed[4..8].try_into().ok()?),
            blob_hash: fixed[16..48].try_into().ok()?,
            manifest,
        })
    }
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..CHECK.start]).update(&bytes[CHECK.end..]);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash is 32 bytes")
}

/// For the fuzz targets: the checksum, which nothing gets past by luck, is made true first.
pub(crate) fn fuzz_record(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= FIXED {
        let check = check(&bytes);
        bytes[CHECK].copy_from_slice(&check);
    }
    let Some(record) = Record::decode(&bytes) else { return false };
    assert_eq!(record.encode().as_deref(), Some(&bytes[..]), "a record has one encoding");
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(step in any::<bool>(), epoch in any::<u64>(), task in "[a-z0-9.-]{0,64}",
            blob_bytes in any::<u32>(), blob_hash in any::<[u8; 32]>(),
            manifest in prop::collection::vec(any::<u8>(), 0..400), flip in any::<prop::sample::Index>())
        {
            let kind = if step { Kind::Step } else { Kind::Sum };
            let record = Record { kind, epoch, task: &task, blob_bytes, blob_hash, manifest: &manifest };
            let mut bytes = record.encode().unwrap();
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            let at = flip.index(bytes.len());
            bytes[at] ^= 0x10;
            prop_assert_eq!(Record::decode(&bytes), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Record::decode(&bytes), None);
        }
    }

    #[test]
    fn a_name_too_long_is_refused() {
        let task = "x".repeat(256);
        let record = Record {
            kind: Kind::Sum,
            epoch: 1,
            task: &task,
            blob_bytes: 0,
            blob_hash: [0; 32],
            manifest: &[],
        };
        assert_eq!(record.encode(), None);
    }
}

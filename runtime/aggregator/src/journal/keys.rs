//! Keys of rows. Numbers are big-endian, so that the order of keys is the order of numbers.

use loadonce_rounds::ContributionId;

use super::Hash;

pub(crate) fn numbered(hash: &Hash, number: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(hash);
    key[32..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn epoch_key(id: &ContributionId) -> [u8; 40] {
    numbered(&id.key, id.epoch)
}

pub(super) fn sequence_key(id: &ContributionId) -> [u8; 48] {
    let mut key = [0; 48];
    key[..40].copy_from_slice(&epoch_key(id));
    key[40..].copy_from_slice(&id.sequence.to_be_bytes());
    key
}

pub(super) fn contribution_key(lineage: &Hash, version: u64, id: &ContributionId) -> [u8; 88] {
    let mut key = [0; 88];
    key[..40].copy_from_slice(&numbered(lineage, version));
    key[40..].copy_from_slice(&sequence_key(id));
    key
}

/// Keys of the contributions to one version.
pub(crate) fn contributions_of(lineage: &Hash, version: u64) -> std::ops::RangeInclusive<[u8; 88]> {
    let (mut first, mut last) = ([0; 88], [0xff; 88]);
    first[..40].copy_from_slice(&numbered(lineage, version));
    last[..40].copy_from_slice(&numbered(lineage, version));
    first..=last
}

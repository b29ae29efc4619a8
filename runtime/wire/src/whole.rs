//! A contribution of one chunk, in one message: its manifest and its blob.
//!
//! The manifest travels without the blob's hash. Whoever has the blob can compute it, and the signature covers it.

use crate::Bytes32;
use crate::manifest::MAX_MANIFEST;
use crate::read::{Reader, WireError, Writer};

/// The signature, last in a manifest.
const SIGNATURE: usize = 64;
/// The blob's hash, just before it.
const HASH: usize = 32;
/// Longest payload beside the blob.
pub const MAX_ABOUT: usize = 2 + MAX_MANIFEST - HASH;

/// The payload of a [`Whole`](crate::Kind::Whole) frame: u16 length of what follows of the manifest, the manifest
/// without the blob's hash, the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<'a> {
    before_hash: &'a [u8],
    signature: &'a [u8],
    /// The blob.
    pub blob: &'a [u8],
}

impl<'a> Whole<'a> {
    /// Puts an encoded manifest and its blob together.
    pub fn new(manifest: &'a [u8], blob: &'a [u8]) -> Result<Self, WireError> {
        let at = manifest.len().checked_sub(HASH + SIGNATURE).ok_or(WireError::Truncated)?;
        if manifest.len() > MAX_MANIFEST {
            return Err(WireError::TooLong("manifest"));
        }
        let (before_hash, rest) = manifest.split_at(at);
        Ok(Self { before_hash, signature: &rest[HASH..], blob })
    }

    /// Encodes into `out` and returns the length used.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut w = Writer::new(out);
        w.put(&((self.before_hash.len() + SIGNATURE) as u16).to_le_bytes())?;
        w.put(self.before_hash)?;
        w.put(self.signature)?;
        w.put(self.blob)?;
        Ok(w.len())
    }

    /// Takes a payload apart. Neither the manifest nor its signature is looked at here.
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader(payload);
        let length = r.u16()? as usize;
        if length > MAX_MANIFEST - HASH {
            return Err(WireError::TooLong("manifest"));
        }
        let at = length.checked_sub(SIGNATURE).ok_or(WireError::Truncated)?;
        let (before_hash, signature) = (r.take(at)?, r.take(SIGNATURE)?);
        Ok(Self { before_hash, signature, blob: r.0 })
    }

    /// The encoded manifest, with the hash of the blob in its place: what was signed, if the blob is the one
    /// that was signed. Returns its length in `out`.
    pub fn manifest(&self, blob_hash: &Bytes32, out: &mut [u8; MAX_MANIFEST]) -> Result<usize, WireError> {
        let mut w = Writer::new(out);
        w.put(self.before_hash)?;
        w.put(blob_hash)?;
        w.put(self.signature)?;
        Ok(w.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;
    use proptest::prelude::*;

    #[test]
    fn the_manifest_comes_back_with_the_hash_of_its_blob() {
        let manifest = crate::manifest::example();
        let mut encoded = [0; MAX_MANIFEST];
        let length = manifest.encode(&mut encoded).unwrap();
        let mut out = [0; 600];
        let n = Whole::new(&encoded[..length], b"the blob").unwrap().encode(&mut out).unwrap();
        assert_eq!(n, 2 + length - 32 + 8);
        let whole = Whole::decode(&out[..n]).unwrap();
        assert_eq!(whole.blob, b"the blob");
        let mut back = [0; MAX_MANIFEST];
        let n = whole.manifest(&manifest.blob_hash, &mut back).unwrap();
        assert_eq!(back[..n], encoded[..length]);
        let n = whole.manifest(&[99; 32], &mut back).unwrap();
        assert_eq!(Manifest::decode(&back[..n]).unwrap(), Manifest { blob_hash: [99; 32], ..manifest });
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(whole) = Whole::decode(&bytes) {
                let mut manifest = [0; MAX_MANIFEST];
                let n = whole.manifest(&[1; 32], &mut manifest).unwrap();
                let again = Whole::new(&manifest[..n], whole.blob).unwrap();
                prop_assert_eq!(again, whole);
            }
        }
    }
}

//! The manifest of a contribution: who sends what, against which base, signed by the gateway.

use crate::limits::{MAX_BLOB, MAX_NAME};
use crate::read::{Reader, WireError, Writer};
use crate::{Bytes32, Name, Signature};

/// Manifest format this build writes and reads.
pub const FORMAT: u8 = 1;
/// Longest encoded manifest in bytes.
pub const MAX_MANIFEST: usize = 4 + 32 + 8 + 8 + 1 + MAX_NAME + 32 + 32 + 8 + 32 + 4 * 6 + 32 + 64;
/// Domain prefix of the signature.
pub const DOMAIN: &[u8] = b"loadonce contribution v1\0";
/// Domain prefix of the transfer id.
pub const TRANSFER_DOMAIN: &[u8] = b"loadonce transfer\0";

/// The two kinds of contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ContributionKind {
    /// The increment of a gateway's statistics: added, never stale.
    Sum = 1,
    /// A module minus the base version it was trained from: averaged.
    Step = 2,
}

/// See the module's documentation. Integers are little-endian on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Sum or step.
    pub kind: ContributionKind,
    /// How the blob is encoded (numbers of the delta crate).
    pub codec: u8,
    /// The gateway's ed25519 public key.
    pub key: Bytes32,
    /// Random epoch of the gateway's store.
    pub epoch: u64,
    /// Durable sequence within the epoch.
    pub sequence: u64,
    /// The task contributed to.
    pub task: Name,
    /// Fingerprint of the backbone whose features were used.
    pub backbone: Bytes32,
    /// Fingerprint of the module shape and class list.
    pub shape: Bytes32,
    /// Version a step was trained from; 0 for a sum.
    pub base_version: u64,
    /// Hash of that version's module file; zero for a sum.
    pub base_hash: Bytes32,
    /// Training samples behind a step; samples added by a sum.
    pub weight: u32,
    /// Held-out samples behind the two losses.
    pub heldout_samples: u32,
    /// Mean held-out loss of the base (nats); not a number where unknown.
    pub heldout_before: f32,
    /// Mean held-out loss after training (nats).
    pub heldout_after: f32,
    /// Size of the blob before compression in bytes.
    pub raw_bytes: u32,
    /// Size of the blob in bytes.
    pub blob_bytes: u32,
    /// blake3 of the blob as transmitted.
    pub blob_hash: Bytes32,
    /// ed25519 signature over [`DOMAIN`] and everything before it.
    pub signature: Signature,
}

impl Manifest {
    /// Encodes into `out`; the last 64 bytes are the signature, all before them is what it covers.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut w = Writer::new(out);
        w.put(&[FORMAT, self.kind as u8, self.codec, 0])?;
        w.put(&self.key)?;
        w.put(&self.epoch.to_le_bytes())?;
        w.put(&self.sequence.to_le_bytes())?;
        w.put(&[self.task.as_str().len() as u8])?;
        w.put(self.task.as_str().as_bytes())?;
        w.put(&self.backbone)?;
        w.put(&self.shape)?;
        w.put(&self.base_version.to_le_bytes())?;
        w.put(&self.base_hash)?;
        w.put(&self.weight.to_le_bytes())?;
        w.put(&self.heldout_samples.to_le_bytes())?;
        w.put(&self.heldout_before.to_le_bytes())?;
        w.put(&self.heldout_after.to_le_bytes())?;
        w.put(&self.raw_bytes.to_le_bytes())?;
        w.put(&self.blob_bytes.to_le_bytes())?;
        w.put(&self.blob_hash)?;
        w.put(&self.signature)?;
        Ok(w.len())
    }

    /// Decodes exactly one manifest. The signature is not checked here: see [`signed_part`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes);
        let format = r.u8()?;
        if format != FORMAT {
            return Err(WireError::UnsupportedVersion(format));
        }
        let kind = match r.u8()? {
            1 => ContributionKind::Sum,
            2 => ContributionKind::Step,
            _ => return Err(WireError::BadField("contribution kind")),
        };
        let codec = r.u8()?;
        if r.u8()? != 0 {
            return Err(WireError::BadField("reserved"));
        }
        let (key, epoch, sequence) = (r.array()?, r.u64()?, r.u64()?);
        let length = r.u8()? as usize;
        let task = core::str::from_utf8(r.take(length)?).ok().and_then(Name::new);
        let manifest = Self {
            kind,
            codec,
            key,
            epoch,
            sequence,
            task: task.ok_or(WireError::BadField("task"))?,
            backbone: r.array()?,
            shape: r.array()?,
            base_version: r.u64()?,
            base_hash: r.array()?,
            weight: r.u32()?,
            heldout_samples: r.u32()?,
            heldout_before: f32::from_le_bytes(r.array()?),
            heldout_after: f32::from_le_bytes(r.array()?),
            raw_bytes: r.u32()?,
            blob_bytes: r.u32()?,
            blob_hash: r.array()?,
            signature: r.array()?,
        };
        r.end()?;
        if manifest.blob_bytes as usize > MAX_BLOB || manifest.raw_bytes as usize > MAX_BLOB {
            return Err(WireError::TooLong("blob"));
        }
        Ok(manifest)
    }

    /// The bytes whose blake3, cut to 8 bytes, is the transfer id: [`TRANSFER_DOMAIN`], key, epoch, sequence
    /// and blob hash.
    pub fn transfer_seed(&self) -> [u8; TRANSFER_DOMAIN.len() + 32 + 8 + 8 + 32] {
        let mut out = [0; TRANSFER_DOMAIN.len() + 80];
        let (domain, rest) = out.split_at_mut(TRANSFER_DOMAIN.len());
        domain.copy_from_slice(TRANSFER_DOMAIN);
        rest[..32].copy_from_slice(&self.key);
        rest[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        rest[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        rest[48..].copy_from_slice(&self.blob_hash);
        out
    }
}

/// The part of an encoded manifest (or acknowledgement) that its signature covers.
pub fn signed_part(encoded: &[u8]) -> Result<(&[u8], Signature), WireError> {
    let at = encoded.len().checked_sub(64).ok_or(WireError::Truncated)?;
    let (body, signature) = encoded.split_at(at);
    Ok((body, signature.try_into().map_err(|_| WireError::Truncated)?))
}

#[cfg(test)]
pub(crate) fn example() -> Manifest {
    Manifest {
        kind: ContributionKind::Step,
        codec: 2,
        key: [1; 32],
        epoch: 2,
        sequence: 3,
        task: Name::new("digits").unwrap(),
        backbone: [4; 32],
        shape: [5; 32],
        base_version: 6,
        base_hash: [7; 32],
        weight: 8,
        heldout_samples: 9,
        heldout_before: 0.5,
        heldout_after: 0.25,
        raw_bytes: 1000,
        blob_bytes: 10,
        blob_hash: [10; 32],
        signature: [11; 64],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trip() {
        let manifest = example();
        let mut buffer = [0; MAX_MANIFEST];
        let n = manifest.encode(&mut buffer).unwrap();
        assert_eq!(Manifest::decode(&buffer[..n]).unwrap(), manifest);
        let (body, signature) = signed_part(&buffer[..n]).unwrap();
        assert_eq!((body.len(), signature), (n - 64, [11; 64]));
        for cut in 0..n {
            assert!(Manifest::decode(&buffer[..cut]).is_err());
        }
    }

    #[test]
    fn a_blob_over_the_limit_is_refused() {
        let mut manifest = example();
        manifest.raw_bytes = MAX_BLOB as u32 + 1;
        let mut buffer = [0; MAX_MANIFEST];
        let n = manifest.encode(&mut buffer).unwrap();
        assert_eq!(Manifest::decode(&buffer[..n]), Err(WireError::TooLong("blob")));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = Manifest::decode(&bytes);
        }
    }
}

//! A request for a piece of a module file.

use crate::limits::MAX_NAME;
use crate::read::{Reader, WireError, Writer};
use crate::{Bytes32, Name};

/// Longest encoded request in bytes.
pub const MAX_BLOCK_REQUEST: usize = 32 + 4 + 4 + 1 + MAX_NAME;

/// Asks for `length` bytes from `offset` of the file whose blake3 is `blob_hash`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRequest {
    /// blake3 of the module file, from the pointer.
    pub blob_hash: Bytes32,
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted; the answer comes in as many frames as it takes.
    pub length: u32,
    /// The task the file belongs to.
    pub task: Name,
}

impl BlockRequest {
    /// Encodes into `out` and returns the length used.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut w = Writer::new(out);
        w.put(&self.blob_hash)?;
        w.put(&self.offset.to_le_bytes())?;
        w.put(&self.length.to_le_bytes())?;
        w.put(&[self.task.as_str().len() as u8])?;
        w.put(self.task.as_str().as_bytes())?;
        Ok(w.len())
    }

    /// Decodes exactly one request.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes);
        let (blob_hash, offset, length) = (r.array()?, r.u32()?, r.u32()?);
        let name = r.u8()? as usize;
        let task = core::str::from_utf8(r.take(name)?).ok().and_then(Name::new);
        r.end()?;
        Ok(Self { blob_hash, offset, length, task: task.ok_or(WireError::BadField("task"))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trip() {
        let request =
            BlockRequest { blob_hash: [3; 32], offset: 7, length: 9, task: Name::new("motion").unwrap() };
        let mut buffer = [0; MAX_BLOCK_REQUEST];
        let n = request.encode(&mut buffer).unwrap();
        assert_eq!(BlockRequest::decode(&buffer[..n]), Ok(request));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BlockRequest::decode(&bytes);
        }
    }
}

//! The frame: a fixed header and a payload, one per MQTT message.

use crate::TransferId;
use crate::limits::MAX_PAYLOAD;
use crate::read::{Reader, WireError, Writer};

/// First bytes of every frame.
pub const MAGIC: [u8; 3] = *b"LDO";
/// Frame version this build speaks.
pub const VERSION: u8 = 2;
/// Header length in bytes.
pub const HEADER: usize = 24;

const CRC_AT: usize = 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A chunk of a contribution that was offered, gateway to aggregator.
    Chunk = 1,
    /// An application acknowledgement, aggregator to gateway.
    Ack = 2,
    /// A request for a piece of a module file, gateway to aggregator.
    BlockRequest = 3,
    /// A chunk of a module file, aggregator to gateway.
    Block = 4,
    /// The manifest of a contribution of several chunks, gateway to aggregator: which of them are there?
    Offer = 5,
    /// The answer: the bitmap of the chunks that are there, aggregator to gateway.
    Status = 6,
    /// A contribution of one chunk with its manifest, gateway to aggregator.
    Whole = 7,
}

/// One decoded frame, borrowing its payload. A frame is a whole MQTT message, which knows its own length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// Number of the chunk; 0 where there is none.
    pub index: u16,
    /// The transfer this frame belongs to.
    pub transfer: TransferId,
    /// Size of the whole blob in bytes; 0 where there is none.
    pub total: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Encodes into `out` and returns the length used.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, WireError> {
        if self.payload.len() > MAX_PAYLOAD {
            return Err(WireError::TooLong("payload"));
        }
        let mut w = Writer::new(out);
        w.put(&MAGIC)?;
        w.put(&[VERSION, self.kind as u8, 0])?;
        w.put(&self.index.to_le_bytes())?;
        w.put(&self.transfer)?;
        w.put(&self.total.to_le_bytes())?;
        w.put(&[0; 4])?; // the checksum's place
        w.put(self.payload)?;
        let length = w.len();
        let crc = checksum(&out[..CRC_AT], self.payload);
        out[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        Ok(length)
    }

    /// Decodes a whole message; anything that is not exactly one sound frame is refused.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (header, payload) = bytes.split_at_checked(HEADER).ok_or(WireError::Truncated)?;
        let mut r = Reader(header);
        if r.array::<3>()? != MAGIC {
            return Err(WireError::BadMagic);
        }
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::UnsupportedVersion(version));
        }
        let kind = match r.u8()? {
            1 => Kind::Chunk,
            2 => Kind::Ack,
            3 => Kind::BlockRequest,
            4 => Kind::Block,
            5 => Kind::Offer,
            6 => Kind::Status,
            7 => Kind::Whole,
            _ => return Err(WireError::BadField("kind")),
        };
        if r.u8()? != 0 {
            return Err(WireError::BadField("reserved"));
        }
        let (index, transfer, total, crc) = (r.u16()?, r.array()?, r.u32()?, r.u32()?);
        if payload.len() > MAX_PAYLOAD {
            return Err(WireError::TooLong("payload"));
        }
        if crc != checksum(&header[..CRC_AT], payload) {
            return Err(WireError::BadChecksum);
        }
        Ok(Self { kind, index, transfer, total, payload })
    }
}

/// CRC-32C (Castagnoli), as in iSCSI (RFC 3720, section 12.1).
const CRC32C: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(header);
    digest.update(payload);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(transfer: [u8; 8], index: u16, total: u32,
                      payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let frame = Frame { kind: Kind::Chunk, index, transfer, total, payload: &payload };
            let mut buffer = vec![0; HEADER + payload.len()];
            let length = frame.encode(&mut buffer).unwrap();
            prop_assert_eq!(length, buffer.len());
            prop_assert_eq!(Frame::decode(&buffer).unwrap(), frame);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
        }

        #[test]
        fn one_flipped_bit_is_noticed(at in 0usize..(HEADER + 32) * 8) {
            let frame = Frame { kind: Kind::Block, index: 3, transfer: [7; 8], total: 99, payload: &[5; 32] };
            let mut buffer = vec![0; HEADER + 32];
            frame.encode(&mut buffer).unwrap();
            buffer[at / 8] ^= 1 << (at % 8);
            prop_assert!(Frame::decode(&buffer).is_err());
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_by_both_sides() {
        let big = vec![0; MAX_PAYLOAD + 1];
        let frame = Frame { kind: Kind::Block, index: 0, transfer: [0; 8], total: 0, payload: &big };
        let mut buffer = vec![0; big.len() + HEADER];
        assert_eq!(frame.encode(&mut buffer), Err(WireError::TooLong("payload")));
    }
}

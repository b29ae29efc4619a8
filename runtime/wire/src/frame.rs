//! The frame: a fixed header and a payload, one per MQTT message.

use crate::TransferId;
use crate::limits::MAX_PAYLOAD;
use crate::read::{Reader, WireError, Writer};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"LDO1";
/// Frame version this build speaks.
pub const VERSION: u8 = 1;
/// Header length in bytes.
pub const HEADER: usize = 60;
/// Flag: the payload starts with a contribution manifest (u16 length, then its bytes).
pub const FLAG_MANIFEST: u16 = 1;

const CRC_AT: usize = 56;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a contribution's blob, gateway to aggregator.
    Chunk = 1,
    /// An application acknowledgement, aggregator to gateway.
    Ack = 2,
    /// A request for a piece of a module file, gateway to aggregator.
    BlockRequest = 3,
    /// A piece of a module file, aggregator to gateway.
    Block = 4,
}

/// One decoded frame, borrowing its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// [`FLAG_MANIFEST`] or 0.
    pub flags: u16,
    /// The transfer this frame belongs to.
    pub transfer: TransferId,
    /// The sender's store epoch (0 where it has none).
    pub epoch: u64,
    /// The sender's durable sequence (0 where it has none).
    pub sequence: u64,
    /// Where the payload's data starts in the blob, in bytes.
    pub offset: u32,
    /// Size of the whole blob in bytes.
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
        w.put(&[VERSION, self.kind as u8])?;
        w.put(&self.flags.to_le_bytes())?;
        w.put(&self.transfer)?;
        w.put(&self.epoch.to_le_bytes())?;
        w.put(&self.sequence.to_le_bytes())?;
        w.put(&self.offset.to_le_bytes())?;
        w.put(&self.total.to_le_bytes())?;
        w.put(&(self.payload.len() as u32).to_le_bytes())?;
        w.put(&[0; 8])?; // reserved, then the checksum's place
        w.put(self.payload)?;
        let length = w.len();
        let crc = checksum(&out[..CRC_AT], self.payload);
        out[CRC_AT..HEADER].copy_from_slice(&crc.to_le_bytes());
        Ok(length)
    }

    /// Decodes a whole message; anything that is not exactly one sound frame is refused.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, WireError> {
        let header = bytes.get(..HEADER).ok_or(WireError::Truncated)?;
        let mut r = Reader(bytes);
        if r.array::<4>()? != MAGIC {
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
            _ => return Err(WireError::BadField("kind")),
        };
        let flags = r.u16()?;
        if flags & !FLAG_MANIFEST != 0 || (flags == FLAG_MANIFEST && kind != Kind::Chunk) {
            return Err(WireError::BadField("flags"));
        }
        let transfer = r.array()?;
        let epoch = r.u64()?;
        let sequence = r.u64()?;
        let offset = r.u32()?;
        let total = r.u32()?;
        let length = r.u32()? as usize;
        if r.u32()? != 0 {
            return Err(WireError::BadField("reserved"));
        }
        let crc = r.u32()?;
        if length > MAX_PAYLOAD {
            return Err(WireError::TooLong("payload"));
        }
        let payload = r.take(length)?;
        r.end()?;
        if crc != checksum(&header[..CRC_AT], payload) {
            return Err(WireError::BadChecksum);
        }
        Ok(Self { kind, flags, transfer, epoch, sequence, offset, total, payload })
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
        fn round_trip(transfer: [u8; 16], epoch: u64, sequence: u64, offset: u32, total: u32,
                      payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let frame = Frame { kind: Kind::Chunk, flags: 0, transfer, epoch, sequence, offset, total, payload: &payload };
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
            let frame = Frame { kind: Kind::Block, flags: 0, transfer: [7; 16], epoch: 1, sequence: 2, offset: 3,
                                total: 99, payload: &[5; 32] };
            let mut buffer = vec![0; HEADER + 32];
            frame.encode(&mut buffer).unwrap();
            buffer[at / 8] ^= 1 << (at % 8);
            prop_assert!(Frame::decode(&buffer).is_err());
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_by_both_sides() {
        let big = vec![0; MAX_PAYLOAD + 1];
        let frame = Frame {
            kind: Kind::Block,
            flags: 0,
            transfer: [0; 16],
            epoch: 0,
            sequence: 0,
            offset: 0,
            total: 0,
            payload: &big,
        };
        let mut buffer = vec![0; big.len() + HEADER];
        assert_eq!(frame.encode(&mut buffer), Err(WireError::TooLong("payload")));
    }
}

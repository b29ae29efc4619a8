//! The frames of a transfer, ready to be published.
//!
//! Every function panics only on what its own bounds make impossible: a blob of more than the protocol's limit.

use loadonce_wire::chunks::{CHUNK, range};
use loadonce_wire::frame::HEADER;
use loadonce_wire::whole::MAX_ABOUT;
use loadonce_wire::{Ack, Chunks, Frame, Kind, TransferId, Whole};

/// A contribution of one chunk. `manifest` is encoded and signed; `None` if it is too short for one or the blob has
/// more than one chunk.
pub fn whole(transfer: TransferId, manifest: &[u8], blob: &[u8]) -> Option<Vec<u8>> {
    if blob.len() > CHUNK {
        return None;
    }
    let mut payload = vec![0; MAX_ABOUT + blob.len()];
    let length = Whole::new(manifest, blob).and_then(|whole| whole.encode(&mut payload)).ok()?;
    payload.truncate(length);
    Some(encode(Kind::Whole, 0, transfer, blob.len(), &payload))
}

/// The offer of a larger one: its encoded, signed manifest.
pub fn offer(transfer: TransferId, manifest: &[u8], total: usize) -> Vec<u8> {
    encode(Kind::Offer, 0, transfer, total, manifest)
}

/// Chunk `index` of it; `None` beyond its end.
pub fn chunk(transfer: TransferId, blob: &[u8], index: usize) -> Option<Vec<u8>> {
    let place = range(blob.len(), CHUNK, index)?;
    Some(encode(Kind::Chunk, index, transfer, blob.len(), &blob[place]))
}

/// The answer to an offer: the chunks that are there.
pub fn status(transfer: TransferId, total: usize, held: &Chunks) -> Vec<u8> {
    encode(Kind::Status, 0, transfer, total, held.as_bytes())
}

/// An acknowledgement.
pub fn ack(transfer: TransferId, ack: &Ack) -> Vec<u8> {
    encode(Kind::Ack, 0, transfer, 0, &ack.encode())
}

/// Chunk `index` of a module file of `total` bytes.
pub fn block(transfer: TransferId, total: usize, index: usize, bytes: &[u8]) -> Vec<u8> {
    encode(Kind::Block, index, transfer, total, bytes)
}

/// The chunks that a status says are there; `None` if it is not the status of any blob.
pub fn read_status(frame: &Frame<'_>) -> Option<Chunks> {
    let count = loadonce_wire::chunks::count(frame.total as usize, CHUNK);
    Chunks::from_bytes(count, frame.payload).ok().filter(|_| frame.kind == Kind::Status)
}

fn encode(kind: Kind, index: usize, transfer: TransferId, total: usize, payload: &[u8]) -> Vec<u8> {
    let frame = Frame { kind, index: index as u16, transfer, total: total as u32, payload };
    let mut bytes = vec![0; HEADER + payload.len()];
    frame.encode(&mut bytes).expect("a chunk and its manifest are within the payload limit");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadonce_wire::manifest::MAX_MANIFEST;

    #[test]
    fn every_frame_reads_back() {
        let (id, manifest, blob) = ([7; 8], [3; MAX_MANIFEST], vec![9; CHUNK + 1]);
        let frame = whole(id, &manifest, &blob[..CHUNK]).unwrap();
        let read = Frame::decode(&frame).unwrap();
        assert_eq!((read.kind, read.total as usize), (Kind::Whole, CHUNK));
        assert_eq!(Whole::decode(read.payload).unwrap().blob, &blob[..CHUNK]);
        assert_eq!((whole(id, &manifest, &blob), whole(id, &[0; 95], &[])), (None, None));

        let frame = chunk(id, &blob, 1).unwrap();
        let read = Frame::decode(&frame).unwrap();
        assert_eq!((read.kind, read.index, read.payload), (Kind::Chunk, 1, &[9][..]));
        assert_eq!(chunk(id, &blob, 2), None);

        let held = Chunks::all(2).unwrap();
        let frame = status(id, blob.len(), &held);
        assert_eq!(read_status(&Frame::decode(&frame).unwrap()), Some(held));
        let other = status(id, 20 * CHUNK, &held);
        assert_eq!(read_status(&Frame::decode(&other).unwrap()), None);
    }
}

//! Contributions that arrive in pieces, in bounded memory.

use std::collections::VecDeque;

use loadonce_wire::{Manifest, Reassembly, ReceiveError, TransferId};

/// Bytes of all unfinished transfers together.
pub(crate) const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Unfinished transfers of one gateway; agents keep this many entries under way.
pub(crate) const MAX_PER_GATEWAY: usize = 4;
/// A transfer that got no piece for this long is dropped; its sender starts it over.
const IDLE_MS: u64 = 600_000;

/// One unfinished contribution, whose manifest was verified.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) gateway: String,
    pub(crate) manifest: Manifest,
    pub(crate) encoded: Vec<u8>,
    pub(crate) blob: Vec<u8>,
    id: TransferId,
    parts: Reassembly,
    touched_ms: u64,
}

/// What a piece led to.
#[derive(Debug)]
pub(crate) enum Piece {
    /// More is missing.
    Kept,
    /// Every byte is there.
    Complete(Box<Transfer>),
    /// No such transfer: dropped before, or its first piece is missing.
    Orphan,
    /// The piece does not fit its transfer.
    Misfit,
}

/// The unfinished ones, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    open: VecDeque<Transfer>,
    bytes: usize,
    /// Dropped to stay within the bounds, or idle.
    pub(crate) dropped: u64,
}

/// What an unfinished transfer takes: its blob, and what is kept beside it.
fn cost(blob: usize, encoded: usize) -> usize {
    blob + encoded + size_of::<Transfer>()
}

impl Transfers {
    /// Opens a transfer unless it is open already; false when another manifest opened it.
    pub(crate) fn begin(
        &mut self,
        gateway: &str,
        id: TransferId,
        manifest: Manifest,
        encoded: &[u8],
        now_ms: u64,
    ) -> Result<bool, ReceiveError> {
        if let Some(open) = self.open.iter().find(|t| t.id == id && t.gateway == gateway) {
            return Ok(open.encoded == encoded);
        }
        let total = manifest.blob_bytes as usize;
        let parts = Reassembly::new(total)?;
        while self.open.iter().filter(|t| t.gateway == gateway).count() >= MAX_PER_GATEWAY {
            self.drop_first(|t| t.gateway == gateway);
        }
        let cost = cost(total, encoded.len());
        while self.bytes + cost > MAX_BYTES && !self.open.is_empty() {
            self.drop_first(|_| true);
        }
        self.bytes += cost;
        self.open.push_back(Transfer {
            gateway: gateway.to_owned(),
            manifest,
            encoded: encoded.to_vec(),
            blob: vec![0; total],
            id,
            parts,
            touched_ms: now_ms,
        });
        Ok(true)
    }

    /// Puts a piece in its place.
    pub(crate) fn insert(
        &mut self,
        gateway: &str,
        id: TransferId,
        total: usize,
        offset: usize,
        piece: &[u8],
        now_ms: u64,
    ) -> Piece {
        let Some(at) = self.open.iter().position(|t| t.id == id && t.gateway == gateway) else {
            return Piece::Orphan;
        };
        let transfer = &mut self.open[at];
        if total != transfer.parts.total() {
            return Piece::Misfit;
        }
        match transfer.parts.insert(&mut transfer.blob, offset, piece) {
            Ok(()) if transfer.parts.complete() => {
                let transfer = self.open.remove(at).expect("the position was just found");
                self.bytes -= cost(transfer.blob.len(), transfer.encoded.len());
                Piece::Complete(Box::new(transfer))
            }
            Ok(()) => {
                transfer.touched_ms = now_ms;
                Piece::Kept
            }
            Err(ReceiveError::TooFragmented) => {
                self.drop_first(|t| t.id == id && t.gateway == gateway);
                Piece::Misfit
            }
            Err(ReceiveError::OutOfRange | ReceiveError::TooLarge) => Piece::Misfit,
        }
    }

    /// Drops what has been idle for too long.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while self.open.iter().any(|t| now_ms.saturating_sub(t.touched_ms) > IDLE_MS) {
            self.drop_first(|t| now_ms.saturating_sub(t.touched_ms) > IDLE_MS);
        }
    }

    /// Unfinished transfers and their bytes.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.open.len(), self.bytes)
    }

    fn drop_first(&mut self, which: impl Fn(&Transfer) -> bool) {
        if let Some(at) = self.open.iter().position(which)
            && let Some(transfer) = self.open.remove(at)
        {
            self.bytes -= cost(transfer.blob.len(), transfer.encoded.len());
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use loadonce_wire::{ContributionKind, Name};

    use super::*;

    fn manifest(total: usize) -> Manifest {
        Manifest {
            kind: ContributionKind::Sum,
            codec: 16,
            key: [0; 32],
            epoch: 0,
            sequence: 0,
            task: Name::new("t").unwrap(),
            backbone: [0; 32],
            shape: [0; 32],
            base_version: 0,
            base_hash: [0; 32],
            weight: 0,
            heldout_samples: 0,
            heldout_before: 0.0,
            heldout_after: 0.0,
            raw_bytes: 0,
            blob_bytes: total as u32,
            blob_hash: [0; 32],
            signature: [0; 64],
        }
    }

    fn begin(transfers: &mut Transfers, gateway: &str, id: u8, total: usize) -> bool {
        transfers.begin(gateway, [id; 16], manifest(total), &[id], u64::from(id)).unwrap()
    }

    #[test]
    fn invariant_03_memory_is_bounded_and_the_oldest_go_first() {
        let mut transfers = Transfers::default();
        let blob = 4 * 1024 * 1024;
        for gateway in ["a", "b", "c"] {
            for id in 0..MAX_PER_GATEWAY as u8 + 2 {
                assert!(begin(&mut transfers, gateway, id, blob));
            }
        }
        let (open, bytes) = transfers.held();
        assert_eq!((open, bytes), (MAX_BYTES / cost(blob, 1), open * cost(blob, 1)));
        for i in 0..20_000 {
            begin(&mut transfers, &format!("{i}"), 0, 2);
        }
        assert!(transfers.held().1 <= MAX_BYTES, "small ones cost what is kept beside them");
        let mut transfers = Transfers::default();
        for gateway in ["a", "b", "c"] {
            for id in 0..MAX_PER_GATEWAY as u8 + 2 {
                assert!(begin(&mut transfers, gateway, id, blob));
            }
        }
        assert_eq!(transfers.dropped as usize, 3 * (MAX_PER_GATEWAY + 2) - open);
        assert!(matches!(transfers.insert("a", [5; 16], blob, 0, &[1], 0), Piece::Orphan));
        assert!(matches!(transfers.insert("c", [5; 16], blob, 0, &[1], 0), Piece::Kept));
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let mut transfers = Transfers::default();
        assert!(begin(&mut transfers, "a", 1, 10));
        assert!(!transfers.begin("a", [1; 16], manifest(10), b"another", 0).unwrap());
        assert!(matches!(transfers.insert("a", [1; 16], 11, 0, &[0; 5], 0), Piece::Misfit));
        assert!(matches!(transfers.insert("a", [1; 16], 10, 6, &[0; 5], 0), Piece::Misfit));
        assert!(matches!(transfers.insert("b", [1; 16], 10, 0, &[0; 5], 0), Piece::Orphan));
        assert!(matches!(transfers.insert("a", [1; 16], 10, 5, &[2; 5], 0), Piece::Kept));
        let Piece::Complete(done) = transfers.insert("a", [1; 16], 10, 0, &[1; 5], 0) else {
            panic!("both halves are there")
        };
        assert_eq!(done.blob, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(transfers.held(), (0, 0));
    }

    #[test]
    fn the_idle_are_forgotten() {
        let mut transfers = Transfers::default();
        begin(&mut transfers, "a", 1, 10);
        transfers.expire(IDLE_MS);
        assert_eq!(transfers.held(), (1, cost(10, 1)));
        transfers.expire(IDLE_MS + 2);
        assert_eq!((transfers.held(), transfers.dropped), ((0, 0), 1));
    }
}

//! Module files and patches, in pieces.

use loadonce_delivery::frames;
use loadonce_wire::chunks::CHUNK;
use loadonce_wire::{BlockRequest, Frame, Topic, TransferId};

use crate::aggregator::Aggregator;
use crate::journal::JournalError;
use crate::outgoing::{Note, Outgoing};

impl Aggregator {
    pub(crate) fn block_request(
        &mut self,
        gateway: &str,
        frame: &Frame<'_>,
        now_ms: u64,
    ) -> Result<Vec<Outgoing>, JournalError> {
        let Ok(request) = BlockRequest::decode(frame.payload) else {
            self.counters.ignore("malformed_request");
            return Ok(Vec::new());
        };
        // Whole chunks, from the one that holds the first byte to the one that holds the last.
        let cut = |file: &[u8]| {
            let start = (request.offset as usize).min(file.len());
            let end = start.saturating_add(request.length as usize).min(file.len());
            let first = start / CHUNK;
            let chunks =
                if start < end { first * CHUNK..end.next_multiple_of(CHUNK).min(file.len()) } else { 0..0 };
            (file.len(), first, file[chunks].to_vec())
        };
        // Only the newest version's patch is kept, and found by the task that announces it.
        let patched = self.lines.get(request.task.as_str()).filter(|line| {
            line.newest.and_then(|newest| newest.patch).is_some_and(|(hash, _)| hash == request.blob_hash)
        });
        let wanted = match patched {
            Some(line) => self.journal.patch(&line.id, cut)?,
            None => self.journal.module(&request.blob_hash, cut)?,
        };
        let Some((total, first, piece)) = wanted else {
            self.counters.ignore("unknown_module");
            tracing::warn!(gateway, task = %request.task, "a gateway asked for a module file that is not kept");
            return Ok(Vec::new());
        };
        if piece.is_empty() {
            self.counters.ignore("malformed_request");
            return Ok(Vec::new());
        }
        match self.registry.spend(gateway, piece.len() as u64, now_ms) {
            Some(true) => {}
            Some(false) => {
                self.counters.ignore("request_over_rate");
                return Ok(Vec::new());
            }
            None => {
                self.counters.ignore("unknown_gateway");
                return Ok(Vec::new());
            }
        }
        let mut transfer = TransferId::default();
        transfer.copy_from_slice(&request.blob_hash[..size_of::<TransferId>()]);
        let topic = Topic::Down { gateway }.text(&self.site);
        let mut out: Vec<Outgoing> = piece
            .chunks(CHUNK)
            .enumerate()
            .map(|(n, chunk)| Outgoing {
                topic: topic.as_str().to_owned(),
                payload: frames::block(transfer, total, first + n, chunk),
                retain: false,
                note: None,
            })
            .collect();
        self.counters.blocks += out.len() as u64;
        self.counters.block_bytes += piece.len() as u64;
        if let Some(last) = out.last_mut() {
            last.note = Some(Note::Block { gateway: gateway.to_owned(), bytes: piece.len() });
        }
        Ok(out)
    }
}

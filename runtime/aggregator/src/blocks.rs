//! Module files, in pieces.

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
        let wanted = self.journal.module(&request.blob_hash, |module| {
            // Whole chunks, from the one that holds the first byte to the one that holds the last.
            let start = (request.offset as usize).min(module.len());
            let end = start.saturating_add(request.length as usize).min(module.len());
            let first = start / CHUNK;
            let chunks =
                if start < end { first * CHUNK..end.next_multiple_of(CHUNK).min(module.len()) } else { 0..0 };
            (module.len(), first, module[chunks].to_vec())
        })?;
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

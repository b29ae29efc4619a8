//! Module files and patches, in pieces.

use loadonce_wire::limits::MAX_PAYLOAD;
use loadonce_wire::{BlockRequest, Frame, Kind};

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
        let cut = |file: &[u8]| {
            let start = (request.offset as usize).min(file.len());
            let end = start.saturating_add(request.length as usize).min(file.len());
            (file.len(), start, file[start..end].to_vec())
        };
        // Only the newest version's patch is kept, and found by the task that announces it.
        let patched = self.lines.get(request.task.as_str()).filter(|line| {
            line.newest.and_then(|newest| newest.patch).is_some_and(|(hash, _)| hash == request.blob_hash)
        });
        let wanted = match patched {
            Some(line) => self.journal.patch(&line.id, cut)?,
            None => self.journal.module(&request.blob_hash, cut)?,
        };
        let Some((total, start, piece)) = wanted else {
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
        let mut transfer = [0; 16];
        transfer.copy_from_slice(&request.blob_hash[..16]);
        let mut out = Vec::with_capacity(piece.len().div_ceil(MAX_PAYLOAD));
        for (i, payload) in piece.chunks(MAX_PAYLOAD).enumerate() {
            let frame = Frame {
                kind: Kind::Block,
                flags: 0,
                transfer,
                epoch: 0,
                sequence: 0,
                offset: (start + i * MAX_PAYLOAD) as u32,
                total: total as u32,
                payload,
            };
            out.push(self.down(gateway, &frame, None));
        }
        self.counters.blocks += out.len() as u64;
        self.counters.block_bytes += piece.len() as u64;
        if let Some(last) = out.last_mut() {
            last.note = Some(Note::Block { gateway: gateway.to_owned(), bytes: piece.len() });
        }
        Ok(out)
    }
}

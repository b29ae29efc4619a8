//! The steps of a round, one after the other, into their exact total.

use loadonce_delta::{Codec, decode_step};
use loadonce_rounds::{Pace, StepTotals};
use loadonce_wire::Manifest;

use crate::cut::Collected;
use crate::journal::Pending;
use crate::line::Line;

/// Adds steps up. They must come in the order of their gateways, for those of one share what it stands for; memory holds
/// the total and the steps of one gateway.
pub(crate) struct Steps<'a> {
    line: &'a Line,
    pace: &'a Pace,
    same: Vec<(Manifest, Vec<f32>)>,
    totals: StepTotals,
    collected: Collected,
    unusable: u64,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(line: &'a Line, pace: &'a Pace) -> Self {
        let totals = StepTotals::new(line.task.shape.parameters());
        Self { line, pace, same: Vec::new(), totals, collected: Collected::default(), unusable: 0 }
    }

    pub(crate) fn take(&mut self, pending: Pending<'_>) {
        let step = Codec::from_number(pending.manifest.codec)
            .and_then(|codec| decode_step(codec, pending.blob, self.totals.parameters()));
        let Ok(step) = step else {
            self.unusable += 1;
            return;
        };
        if self.same.first().is_some_and(|(first, _)| first.key != pending.manifest.key) {
            self.add_same();
        }
        self.same.push((pending.manifest, step));
    }

    fn add_same(&mut self) {
        let (steps, max_weight) = (self.same.len(), self.line.task.manifest.rounds.max_weight);
        for (manifest, step) in self.same.drain(..) {
            let share = self.pace.share(&manifest.key, steps, self.line.staleness(&manifest));
            match self.totals.add(&step, manifest.weight, max_weight, share) {
                Ok(()) => self.collected.note(&manifest),
                Err(_) => self.unusable += 1,
            }
        }
    }

    /// The total, what it is made of, and how many records could not be used.
    pub(crate) fn finish(mut self) -> (StepTotals, Collected, u64) {
        self.add_same();
        (self.totals, self.collected, self.unusable)
    }
}

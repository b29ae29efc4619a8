//! Samples on their way into the feature store: bounded, in memory.
//!
//! A sample that left at an early exit still lacks the deeper features. They are computed when the agent is
//! idle, from the prepared input, which is dropped right after; raw data is never stored.

use crate::record::{Given, Scale};
use loadonce_backbone::Prepared;
use std::collections::VecDeque;

/// Most bytes of prepared input kept for completion.
const MAX_BYTES: usize = 1024 * 1024;
/// Most samples kept for completion.
const MAX_SAMPLES: usize = 512;

/// A sample whose features are not stored yet.
pub(crate) struct Recent {
    /// Task.
    pub task: String,
    /// Sample id.
    pub id: String,
    /// Its label, if that came already.
    pub label: Option<Given>,
    /// Features of the exits run so far.
    pub features: Vec<f32>,
    /// Numbers that follow the features of every exit.
    pub extras: Vec<f32>,
    /// Of a forecast's target.
    pub scale: Option<Scale>,
    /// Input for the exits that have not run; `None` when all have.
    pub prepared: Option<Prepared>,
}

impl Recent {
    fn bytes(&self) -> usize {
        (self.features.len() + self.extras.len()) * 4 + self.prepared.as_ref().map_or(0, Prepared::bytes)
    }
}

/// First in, first out; the oldest goes when it is full.
#[derive(Default)]
pub(crate) struct RecentQueue {
    queue: VecDeque<Recent>,
    bytes: usize,
    /// Samples dropped because idle time did not come in time.
    pub dropped: u64,
}

impl RecentQueue {
    /// Adds a sample.
    pub(crate) fn push(&mut self, recent: Recent) {
        self.bytes += recent.bytes();
        self.queue.push_back(recent);
        while self.bytes > MAX_BYTES || self.queue.len() > MAX_SAMPLES {
            self.pop();
            self.dropped += 1;
        }
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Recent> {
        let oldest = self.queue.pop_front()?;
        self.bytes -= oldest.bytes();
        Some(oldest)
    }

    /// Labels a waiting sample; `false` when it is not here.
    pub(crate) fn label(&mut self, task: &str, id: &str, label: &Given) -> bool {
        let found = self.queue.iter_mut().rev().find(|r| r.task == task && r.id == id);
        found.map(|recent| recent.label = Some(label.clone())).is_some()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Most labels that wait for their sample.
const MAX_EARLY: usize = 256;

/// Labels whose sample is not here: it may still come. The oldest goes when there are too many.
#[derive(Default)]
pub(crate) struct EarlyLabels {
    queue: VecDeque<(String, String, Given)>,
    /// Labels dropped because their sample did not come in time.
    pub dropped: u64,
}

impl EarlyLabels {
    /// Keeps a label of `task` and sample `id`; a newer one replaces it.
    pub(crate) fn push(&mut self, task: String, id: String, label: Given) {
        self.take(&task, &id);
        if self.queue.len() == MAX_EARLY {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back((task, id, label));
    }

    /// The label of a sample that came.
    pub(crate) fn take(&mut self, task: &str, id: &str) -> Option<Given> {
        let at = self.queue.iter().position(|(t, i, _)| t == task && i == id)?;
        self.queue.remove(at).map(|(_, _, label)| label)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_labels_wait_for_their_sample_within_a_bound() {
        let mut early = EarlyLabels::default();
        for i in 0..MAX_EARLY + 3 {
            early.push("t".into(), i.to_string(), Given::Class(1));
        }
        early.push("t".into(), "9".into(), Given::Class(2));
        assert_eq!((early.len(), early.dropped), (MAX_EARLY, 3));
        assert_eq!(
            (early.take("t", "0"), early.take("t", "9"), early.take("t", "9")),
            (None, Some(Given::Class(2)), None)
        );
    }

    fn recent(id: String, features: usize) -> Recent {
        let features = vec![0.0; features];
        let (task, extras) = ("t".into(), Vec::new());
        Recent { task, id, label: None, features, extras, scale: None, prepared: None }
    }

    #[test]
    fn the_queue_is_bounded_and_drops_are_counted() {
        let mut queue = RecentQueue::default();
        for i in 0..MAX_SAMPLES + 10 {
            let id = i.to_string();
            queue.push(recent(id, 8));
        }
        assert_eq!(queue.dropped, 10);
        assert!(!queue.label("t", "9", &Given::Class(1)));
        assert!(queue.label("t", "10", &Given::Class(1)));
        assert_eq!(queue.pop().map(|r| (r.id, r.label)), Some(("10".into(), Some(Given::Class(1)))));
        for i in 0..2 {
            queue.push(recent(format!("b{i}"), MAX_BYTES / 4));
        }
        assert!(queue.bytes <= MAX_BYTES);
    }
}

//! Restarts in the middle of everything: the lineage must come out the same, bit for bit.
//!
//! Built with one of the fault features these tests must fail, and are marked to; so
//! `cargo nextest run -p loadonce-aggregator --features fault-no-dedup` shows that they notice.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]

mod common;

use common::{DIGITS, Gateway, open_on, settings, task};
use loadonce_aggregator::{Aggregator, Outgoing, Task};
use loadonce_rounds::LineageEntry;
use loadonce_store::crash::PowerCutDisk;

/// What must not depend on restarts.
#[derive(Debug, PartialEq)]
struct Outcome {
    lineage: Vec<u8>,
    modules: Vec<Vec<u8>>,
    totals: Vec<u8>,
}

/// The plant while the aggregator comes and goes.
struct Site {
    task: Task,
    gateways: Vec<Gateway>,
    disk: PowerCutDisk,
    core: Option<Aggregator>,
    now_ms: u64,
    messages: u64,
    /// Outgoing messages of the message with this number are lost, and the aggregator starts over.
    lose_answers_at: Option<u64>,
    /// All gateways' messages come together, and each of them twice.
    batched: bool,
    seed: u64,
    restarts: u64,
}

impl Site {
    fn new(disk: PowerCutDisk, lose_answers_at: Option<u64>, seed: u64) -> Self {
        let task = task(DIGITS);
        let mut gateways: Vec<_> = (1..=3).map(Gateway::new).collect();
        for gateway in &mut gateways {
            let sum = gateway.sum(&task);
            gateway.outbox.push(sum);
        }
        Self {
            task,
            gateways,
            disk,
            core: None,
            now_ms: 0,
            messages: 0,
            lose_answers_at,
            batched: false,
            seed,
            restarts: 0,
        }
    }

    /// Runs until the lineage rests and every outbox is empty.
    fn run(mut self) -> (Outcome, u64) {
        for _ in 0..400 {
            self.now_ms += 100;
            if self.settled() {
                let messages = self.messages;
                return (self.outcome(), messages);
            }
            if self.core.is_none() {
                self.start();
                continue;
            }
            if self.batched {
                self.batch();
                self.step(Aggregator::on_tick);
                continue;
            }
            for at in 0..self.gateways.len() {
                for entry in self.gateways[at].outbox.clone() {
                    for frame in entry.frames() {
                        let topic = self.gateways[at].topic();
                        self.step(|core, now| core.on_message(&topic, &frame, now));
                    }
                }
            }
            self.step(Aggregator::on_tick);
        }
        panic!("a contribution was lost: after {} restarts the lineage does not get on", self.restarts)
    }

    fn batch(&mut self) {
        let mut messages = Vec::new();
        for gateway in &self.gateways {
            for frame in gateway.outbox.iter().flat_map(common::Entry::frames) {
                messages.extend([(gateway.topic(), frame.clone()), (gateway.topic(), frame)]);
            }
        }
        self.step(|core, now| {
            core.on_batch(messages.iter().map(|(topic, frame)| (topic.as_str(), frame.as_slice())), now)
        });
    }

    fn start(&mut self) {
        match open_on(&self.disk, settings(&[DIGITS]), self.now_ms) {
            Ok(mut core) => {
                let out = core.on_connected(self.now_ms);
                self.core = Some(core);
                self.deliver(&out);
            }
            Err(_) => self.power_cycle(),
        }
    }

    fn step<E>(&mut self, act: impl FnOnce(&mut Aggregator, u64) -> Result<Vec<Outgoing>, E>) {
        let Some(core) = &mut self.core else { return };
        self.messages += 1;
        match act(core, self.now_ms) {
            Ok(_) if self.lose_answers_at == Some(self.messages) => {
                self.core = None;
                self.restarts += 1;
            }
            Ok(out) => self.deliver(&out),
            Err(_) => self.power_cycle(),
        }
    }

    fn power_cycle(&mut self) {
        self.core = None;
        self.restarts += 1;
        self.disk = self.disk.power_cycle(self.seed);
    }

    fn deliver(&mut self, out: &[Outgoing]) {
        for message in out {
            for gateway in &mut self.gateways {
                gateway.hear(message, &self.task);
            }
        }
    }

    fn settled(&self) -> bool {
        let versions = self.core.as_ref().map_or(0, |core| core.lineage("digits").unwrap().len());
        versions == 3 && self.gateways.iter().all(|gateway| gateway.outbox.is_empty())
    }

    fn outcome(self) -> Outcome {
        let core = self.core.expect("only a running aggregator settles");
        let lineage = core.lineage("digits").unwrap();
        Outcome {
            lineage: lineage.iter().flat_map(LineageEntry::encode).collect(),
            modules: lineage.iter().map(|entry| core.module(&entry.module).unwrap().unwrap()).collect(),
            totals: core.totals("digits").unwrap().unwrap(),
        }
    }
}

/// A disk with an empty database: making one is a single step on a real disk.
fn disk() -> PowerCutDisk {
    PowerCutDisk::with_database().unwrap().power_cycle(0)
}

/// An undisturbed run, its messages and the disk's operations.
fn undisturbed() -> (Outcome, u64, u64) {
    let disk = disk();
    let (outcome, messages) = Site::new(disk.clone(), None, 0).run();
    (outcome, messages, disk.operations())
}

#[test]
#[cfg_attr(feature = "fault-ack-before-persist", should_panic(expected = "a contribution was lost"))]
#[cfg_attr(
    all(feature = "fault-no-dedup", not(feature = "fault-ack-before-persist")),
    should_panic(expected = "power cut at operation")
)]
fn a_power_cut_at_any_write_leads_to_the_same_lineage() {
    let (expected, _, operations) = undisturbed();
    assert!(operations > 50, "{operations}");
    for cut in 1..=operations {
        for seed in 0..3 {
            let disk = disk();
            disk.cut_power_at(cut);
            let (outcome, _) = Site::new(disk, None, seed).run();
            assert_eq!(outcome, expected, "power cut at operation {cut}, seed {seed}");
        }
    }
}

#[test]
#[cfg_attr(feature = "fault-ack-before-persist", should_panic(expected = "a contribution was lost"))]
#[cfg_attr(
    all(feature = "fault-no-dedup", not(feature = "fault-ack-before-persist")),
    should_panic(expected = "answers to message")
)]
fn invariant_02_answers_lost_at_any_message_lead_to_the_same_lineage() {
    let (expected, messages, _) = undisturbed();
    assert!(messages > 10, "{messages}");
    for at in 1..=messages {
        let (outcome, _) = Site::new(disk(), Some(at), 0).run();
        assert_eq!(outcome, expected, "answers to message {at} lost");
    }
}

#[test]
#[cfg_attr(feature = "fault-ack-before-persist", should_panic(expected = "a contribution was lost"))]
#[cfg_attr(
    all(feature = "fault-no-dedup", not(feature = "fault-ack-before-persist")),
    should_panic(expected = "together")
)]
fn invariant_02_a_power_cut_at_any_write_of_a_batch_leads_to_the_same_lineage() {
    let (expected, _, operations) = undisturbed();
    let batched = |disk| Site { batched: true, ..Site::new(disk, None, 1) };
    let whole = disk();
    let (outcome, _) = batched(whole.clone()).run();
    assert_eq!(outcome, expected, "messages that come together");
    assert!(whole.operations() < operations, "{} operations, one by one {operations}", whole.operations());
    for cut in 1..=whole.operations() {
        let disk = disk();
        disk.cut_power_at(cut);
        assert_eq!(
            batched(disk).run().0,
            expected,
            "messages that come together, power cut at operation {cut}"
        );
    }
}

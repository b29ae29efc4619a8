//! Random schedules: gateways of any speed, deadlines, messages that are lost, late and doubled, an aggregator that
//! is restarted or loses power at any write. Whatever happens, what was acknowledged is what was applied.
//!
//! The schedules are drawn from a fixed seed. One that fails is printed, shrunk, as a `Plan`.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]
// Built with a fault these schedules fail, as they must; `restart.rs` shows that the faults are noticed.
#![cfg(not(any(feature = "fault-ack-before-persist", feature = "fault-no-dedup")))]

mod common;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use common::{Entry, Gateway, SITE, open_on, read_ack, read_pointer, settings, task};
use loadonce_aggregator::{Aggregator, Applied, Outcome, Outgoing, Task, replay};
use loadonce_control::Wants;
use loadonce_delta::decode_sums;
use loadonce_module::{Random, Sums};
use loadonce_rounds::ContributionId;
use loadonce_store::Database;
use loadonce_store::crash::PowerCutDisk;
use loadonce_trust::decode_hex;
use loadonce_wire::{ContributionKind, Frame, Kind, Status, Topic};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const TICK_MS: u64 = 100;
const TICKS: u64 = 250;
/// Schedules.
const CASES: u32 = 40;

#[derive(Debug, Clone)]
struct Plan {
    seed: u64,
    gateways: u8,
    moments: bool,
    buffered: bool,
    quorum: usize,
    minimum: usize,
    deadline_s: u64,
    staleness: u64,
    steps: u64,
    /// Restarts and power cuts per thousand ticks.
    trouble: usize,
}

fn plans() -> impl Strategy<Value = Plan> {
    let rounds = (1usize..=8, 1usize..=3, 0u64..=4, 0u64..=5, 1u64..=12);
    (any::<u64>(), 2u8..=10, prop::bool::weighted(0.25), any::<bool>(), rounds, 0usize..=60).prop_map(
        |(seed, gateways, moments, buffered, (quorum, minimum, deadline_s, staleness, steps), trouble)| {
            let quorum = quorum.min(usize::from(gateways));
            let minimum = minimum.min(quorum);
            Plan { seed, gateways, moments, buffered, quorum, minimum, deadline_s, staleness, steps, trouble }
        },
    )
}

impl Plan {
    fn toml(&self) -> String {
        let module = if self.moments { r#"kind = "moments""# } else { r#"kind = "ladder", rank = 2"# };
        let mode = if self.buffered { "buffered" } else { "sync" };
        let Self { quorum, minimum, deadline_s, staleness, steps, .. } = self;
        format!(
            r#"
            name = "digits"
            kind = "classify"
            backbone = "sense-tiny"
            classes = ["a", "b"]
            input = {{ modality = "picture" }}
            module = {{ {module}, features = 4 }}
            rounds = {{ mode = "{mode}", staleness = {staleness}, quorum = {quorum}, minimum = {minimum}, deadline_s = {deadline_s}, steps = {steps}, max_norm = 10.0, max_weight = 50 }}
            "#
        )
    }
}

struct Node {
    gateway: Gateway,
    /// Newest version it knows of, while steps are wanted.
    base: Option<(u64, [u8; 32])>,
    /// When the step under way is done, and its base.
    job: Option<(u64, (u64, [u8; 32]))>,
    /// How many times slower it is than the fastest.
    slowness: u64,
}

enum Message {
    Up { node: usize, frame: Vec<u8> },
    Down { node: usize, message: Outgoing },
}

struct World {
    plan: Plan,
    task: Task,
    disk: PowerCutDisk,
    core: Option<Aggregator>,
    nodes: Vec<Node>,
    flight: Vec<(u64, Message)>,
    random: Random,
    tick: u64,
    /// Acknowledged as applied.
    accepted: BTreeSet<ContributionId>,
    /// Everything that gateways ever sent.
    made: BTreeMap<Applied, Entry>,
    restarts: u64,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let nodes = (1..=plan.gateways)
            .map(|number| Node {
                gateway: Gateway::new(number),
                base: None,
                job: None,
                slowness: 1 + random.below(20) as u64,
            })
            .collect();
        Self {
            plan: plan.clone(),
            task: task(&plan.toml()),
            disk: PowerCutDisk::with_database().unwrap().power_cycle(0),
            core: None,
            nodes,
            flight: Vec::new(),
            random,
            tick: 0,
            accepted: BTreeSet::new(),
            made: BTreeMap::new(),
            restarts: 0,
        }
    }

    fn chance(&mut self, per_thousand: usize) -> bool {
        self.random.below(1000) < per_thousand
    }

    fn soon(&mut self, most: usize) -> u64 {
        self.tick + 1 + self.random.below(most) as u64
    }

    fn play(mut self) -> Self {
        while self.tick < TICKS {
            self.tick += 1;
            if self.core.is_none() {
                self.start();
            }
            for at in 0..self.nodes.len() {
                self.work(at);
            }
            let due: Vec<Message> =
                self.flight.extract_if(.., |(at, _)| *at <= self.tick).map(|(_, m)| m).collect();
            for message in due {
                self.deliver(message);
            }
            self.call(Aggregator::on_tick);
            if self.chance(self.plan.trouble) {
                if self.chance(500) {
                    let operation = self.disk.operations() + 1 + self.random.below(40) as u64;
                    self.disk.cut_power_at(operation);
                } else {
                    self.core = None;
                    self.restarts += 1;
                }
            }
        }
        self.drain();
        self
    }

    /// A gateway sums once, trains from whatever version it knows, and sends again what was not answered.
    fn work(&mut self, at: usize) {
        let (tick, task) = (self.tick, self.task.clone());
        let first = tick == 1 || (self.plan.moments && self.chance(15));
        let (ends, started) = (self.soon(4), self.chance(600));
        let node = &mut self.nodes[at];
        if first {
            let sum = node.gateway.sum(&task);
            node.gateway.outbox.push(sum);
        }
        if let Some((_, base)) = node.job.take_if(|(done, _)| *done <= tick) {
            let step = node.gateway.step(&task, base);
            node.gateway.outbox.push(step);
        }
        if node.job.is_none()
            && started
            && let Some(base) = node.base.filter(|(version, _)| *version > node.gateway.stepped)
        {
            node.gateway.stepped = base.0;
            node.job = Some((tick + (ends - tick) * node.slowness, base));
        }
        for entry in self.nodes[at].gateway.outbox.clone() {
            self.made.entry(ContributionId::of(&entry.manifest).into()).or_insert_with(|| entry.clone());
            if self.chance(120) {
                self.send(at, &entry);
            }
        }
    }

    fn send(&mut self, node: usize, entry: &Entry) {
        let copies = 1 + usize::from(self.chance(150));
        for _ in 0..copies {
            for frame in entry.frames() {
                if !self.chance(100) {
                    // Now and then one is under way for longer than whole rounds take.
                    let most = if self.chance(50) { 120 } else { 5 };
                    let at = self.soon(most);
                    self.flight.push((at, Message::Up { node, frame }));
                }
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Up { node, frame } => {
                let topic = self.nodes[node].gateway.topic();
                self.call(|core, now| core.on_message(&topic, &frame, now));
            }
            Message::Down { node, message } => {
                let node = &mut self.nodes[node];
                match Topic::parse(SITE, &message.topic) {
                    Some(Topic::Down { .. }) => {
                        let frame = Frame::decode(&message.payload).unwrap();
                        node.gateway.outbox.retain(|entry| entry.transfer() != frame.transfer);
                    }
                    Some(Topic::Pointer { .. }) => {
                        let pointer = read_pointer(&message);
                        let stable = pointer.stable.filter(|_| pointer.wants == Wants::Step);
                        let base = stable.map(|stable| (stable.version, decode_hex(&stable.hash).unwrap()));
                        // Serials only rise.
                        if node.base.map(|b| b.0) <= base.map(|b| b.0) {
                            node.base = base;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn start(&mut self) {
        match open_on(&self.disk, settings(&[&self.plan.toml()]), self.tick * TICK_MS) {
            Ok(mut core) => {
                let out = core.on_connected(self.tick * TICK_MS);
                self.core = Some(core);
                self.publish(out);
            }
            Err(_) => self.power_cycle(),
        }
    }

    fn power_cycle(&mut self) {
        self.core = None;
        self.restarts += 1;
        self.disk = self.disk.power_cycle(self.random.next_u64());
    }

    fn call<E>(&mut self, act: impl FnOnce(&mut Aggregator, u64) -> Result<Vec<Outgoing>, E>) {
        let Some(core) = &mut self.core else { return };
        match act(core, self.tick * TICK_MS) {
            Ok(out) => self.publish(out),
            Err(_) => self.power_cycle(),
        }
    }

    /// What leaves the aggregator: acknowledgements are noted here, whether or not they arrive.
    fn publish(&mut self, out: Vec<Outgoing>) {
        for message in out {
            let receivers: Vec<usize> = match Topic::parse(SITE, &message.topic) {
                Some(Topic::Down { gateway }) => {
                    self.note(&message);
                    self.nodes.iter().position(|node| node.gateway.name == gateway).into_iter().collect()
                }
                Some(Topic::Pointer { .. }) => (0..self.nodes.len()).collect(),
                _ => continue,
            };
            for node in receivers {
                if !self.chance(150) || message.retain {
                    let at = self.soon(10);
                    self.flight.push((at, Message::Down { node, message: message.clone() }));
                }
            }
        }
    }

    fn note(&mut self, message: &Outgoing) {
        let frame = Frame::decode(&message.payload).unwrap();
        assert_eq!(frame.kind, Kind::Ack);
        let mut made = self.made.values();
        let entry =
            made.find(|entry| entry.transfer() == frame.transfer).expect("an answer to what was sent");
        let ack = read_ack(message, entry);
        let id = ContributionId::of(&entry.manifest);
        match ack.status {
            Status::Accepted => assert!(self.accepted.insert(id), "accepted twice: {id:?}"),
            // Applied before a crash took the answer away.
            Status::Duplicate => {
                self.accepted.insert(id);
            }
            Status::Refused => assert!(!self.accepted.contains(&id), "refused after it was taken: {id:?}"),
        }
    }

    /// Everything that is still in an outbox is sent until it is answered, on a network without faults.
    fn drain(&mut self) {
        self.flight.clear();
        self.disk = self.disk.power_cycle(self.random.next_u64());
        self.core = None;
        self.start();
        let core = self.core.as_mut().expect("the power stays on");
        let mut answers = Vec::new();
        for node in &self.nodes {
            for entry in &node.gateway.outbox {
                let before = answers.len();
                for frame in entry.frames() {
                    answers
                        .extend(core.on_message(&node.gateway.topic(), &frame, self.tick * TICK_MS).unwrap());
                }
                assert_eq!(answers.len(), before + 1, "no answer to {:?}", entry.manifest);
            }
        }
        for answer in &answers {
            self.note(answer);
        }
    }
}

/// What the schedules went through.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    versions: usize,
    restarts: u64,
    applied: usize,
    late: usize,
    buffered: usize,
}

/// Plays a plan and compares what was acknowledged with what was applied.
fn check(plan: &Plan, seen: &mut Seen) {
    let World { disk, core, accepted, made, restarts, .. } = World::new(plan).play();
    let core = core.unwrap();
    let totals = core.totals("digits").unwrap();
    let lineage = core.lineage("digits").unwrap();
    drop(core);
    let replay = replay(Database::open_with(disk, 1024 * 1024).unwrap()).unwrap();
    assert!(replay.sound(), "{}", replay.text());
    assert_eq!(replay.count(|outcome| *outcome == Outcome::Reproduced), lineage.len());

    let mut applied = BTreeSet::new();
    for line in &replay.lineages {
        let versions = line.versions.iter().map(|version| (version.version, &version.contributions));
        for (version, ids) in versions.chain([(u64::MAX, &line.open)]) {
            for id in ids {
                assert!(applied.insert(id.clone()), "in two versions: {id:?}");
                let manifest = &made[id].manifest;
                let step = manifest.kind == ContributionKind::Step && version != u64::MAX;
                seen.late += usize::from(step && manifest.base_version + 1 < version);
            }
        }
    }
    let acknowledged: BTreeSet<Applied> = accepted.iter().copied().map(Applied::from).collect();
    assert!(applied.is_subset(&acknowledged), "applied without an acknowledgement");
    // Sums of a trained recipe that come after version 1 are in the totals and in no version.
    let is_sum = |id: &Applied| made[id].manifest.kind == ContributionKind::Sum;
    let missing: Vec<_> = acknowledged.difference(&applied).collect();
    assert!(missing.iter().all(|id| !plan.moments && is_sum(id)), "acknowledged, not applied: {missing:?}");
    let mut sum: Option<Sums> = None;
    for entry in acknowledged.iter().filter(|id| is_sum(id)).map(|id| &made[id]) {
        let bytes = decode_sums(&entry.blob, entry.manifest.raw_bytes as usize).unwrap();
        let one = Sums::from_bytes(&bytes).unwrap();
        match &mut sum {
            Some(sum) => sum.merge(&one).unwrap(),
            None => sum = Some(one),
        }
    }
    assert_eq!(totals, sum.map(|sum| sum.to_bytes()), "the totals are the acknowledged sums");
    seen.versions += lineage.len();
    seen.restarts += restarts;
    seen.applied += applied.len();
    seen.buffered += usize::from(plan.buffered && lineage.len() > 2);
}

#[test]
fn invariant_02_what_was_acknowledged_is_what_was_applied() {
    let config = Config { failure_persistence: None, cases: CASES, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let seen = Cell::new(Seen::default());
    TestRunner::new_with_rng(config, random)
        .run(&plans(), |plan| {
            let mut so_far = seen.get();
            check(&plan, &mut so_far);
            seen.set(so_far);
            Ok(())
        })
        .unwrap();
    let Seen { versions, restarts, applied, late, buffered } = seen.get();
    // The schedules reach what they are for.
    assert!(versions > 100 && restarts > 100 && late > 50 && buffered > 5, "{:?}", seen.get());
    assert!(applied > versions);
}

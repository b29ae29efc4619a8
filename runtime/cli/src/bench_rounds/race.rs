//! A run on virtual time: gateways train, steps arrive, rounds close.

use super::fleet::Fleet;
use loadonce_delta::{Budget, decode_step, encode_auto};
use loadonce_module::Random;
use loadonce_rounds::{Age, Decision, Mode, Open, Pace, Round, Rules, StepTotals, from_steps};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Virtual milliseconds that a fast gateway takes for a step.
const STEP_MS: u64 = 60_000;
/// Times slower that the others are.
pub(crate) const SLOWNESS: u64 = 10;
/// Virtual milliseconds a message takes: least, and what a draw adds at most.
const MESSAGE_MS: (u64, usize) = (1000, 2001);
/// Samples at which a weight is clipped; the manifest's default, never reached here.
const MAX_WEIGHT: u32 = 10_000;

/// Versions that a residual is kept, and most of its length in lengths of the step it is added to; as in the agent.
const RESIDUAL: (u64, f64) = (8, 4.0);

/// How rounds close, how old a base may be, and how steps travel.
pub(crate) struct Race {
    pub(crate) rules: Rules,
    pub(crate) staleness: u64,
    /// Bits per parameter of a step, with error feedback; `None` sends steps as they are.
    pub(crate) bits: Option<f32>,
}

/// What a run came to.
#[derive(Default)]
pub(crate) struct Course {
    /// Virtual milliseconds and accuracy of every version but the start.
    pub(crate) points: Vec<(u64, f64)>,
    /// Steps in them.
    pub(crate) steps: u64,
    /// Those of them whose base was not the newest version.
    pub(crate) late: u64,
    /// Steps that were refused.
    pub(crate) refused: u64,
}

impl Course {
    /// Versions cut.
    pub(crate) fn versions(&self) -> usize {
        self.points.len()
    }

    /// The newest version.
    pub(crate) fn last(&self) -> (u64, f64) {
        self.points.last().copied().unwrap_or_default()
    }

    /// Time and number of the first of `row` versions in a row at or above `target`.
    pub(crate) fn reached(&self, target: f64, row: usize) -> Option<(u64, usize)> {
        let at = self.points.windows(row).position(|window| window.iter().all(|(_, a)| *a >= target))?;
        Some((self.points[at].0, at + 1))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A pointer to this version arrives at a gateway.
    Pointer { gateway: usize, version: u64 },
    /// A gateway's training ends.
    Trained { gateway: usize },
    /// Its step arrives; the values are those of its job.
    Step { gateway: usize, base: u64 },
    /// Nothing but time: a deadline.
    Deadline,
}

struct Node {
    /// Newest version it heard of.
    heard: u64,
    /// Version it last trained from, and whether it still does.
    base: u64,
    busy: bool,
    random: Random,
    /// What its steps have not told yet, and the base of the last of them.
    untold: (u64, Vec<f32>),
}

struct Run<'a> {
    fleet: &'a Fleet,
    race: &'a Race,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    drawn: u64,
    nodes: Vec<Node>,
    /// Steps on their way, by gateway: base and values.
    sent: Vec<Vec<(u64, Vec<f32>)>>,
    params: Vec<Vec<f32>>,
    round: Round,
    taken: Vec<Taken>,
    /// The newest version that steps of a gateway went into, by key.
    last: HashMap<[u8; 32], u64>,
    /// Weights of the versions made from steps.
    weights: Vec<u64>,
    course: Course,
}

/// A step in the open round.
struct Taken {
    gateway: usize,
    key: [u8; 32],
    staleness: u64,
    values: Vec<f32>,
}

/// Runs until `more` says no.
pub(crate) fn race(fleet: &Fleet, race: &Race, seed: u64, more: impl Fn(&Course) -> bool) -> Course {
    let parameters = fleet.shape.parameters();
    let nodes = (0..fleet.len())
        .map(|gateway| Node {
            untold: (0, vec![0.0; parameters]),
            heard: 0,
            base: 0,
            busy: false,
            // Each has its own stream, so that how rounds close does not change how fast it is.
            random: Random::new(seed.wrapping_mul(1_000_003).wrapping_add(gateway as u64)),
        })
        .collect();
    let mut run = Run {
        fleet,
        race,
        events: BinaryHeap::new(),
        drawn: 0,
        nodes,
        sent: vec![Vec::new(); fleet.len()],
        params: vec![vec![0.0; parameters]],
        round: Round::new(Open::Step, race.rules),
        taken: Vec::new(),
        last: HashMap::new(),
        weights: Vec::new(),
        course: Course::default(),
    };
    run.publish(0);
    while more(&run.course) {
        let Some(Reverse((now, _, event))) = run.events.pop() else { break };
        run.take(now, event);
    }
    run.course
}

impl Run<'_> {
    fn at(&mut self, time: u64, event: Event) {
        // Events of one moment come in the order in which they were made.
        self.drawn += 1;
        self.events.push(Reverse((time, self.drawn, event)));
    }

    /// The newest version; the start is 1.
    fn newest(&self) -> u64 {
        self.params.len() as u64
    }

    fn publish(&mut self, now: u64) {
        let version = self.newest();
        for gateway in 0..self.nodes.len() {
            let takes = self.message(gateway);
            self.at(now + takes, Event::Pointer { gateway, version });
        }
    }

    fn message(&mut self, gateway: usize) -> u64 {
        MESSAGE_MS.0 + self.nodes[gateway].random.below(MESSAGE_MS.1) as u64
    }

    fn take(&mut self, now: u64, event: Event) {
        match event {
            Event::Pointer { gateway, version } => {
                let node = &mut self.nodes[gateway];
                node.heard = node.heard.max(version);
                self.train(now, gateway);
            }
            Event::Trained { gateway } => {
                let base = self.nodes[gateway].base;
                self.nodes[gateway].busy = false;
                let takes = self.message(gateway);
                self.at(now + takes, Event::Step { gateway, base });
                self.train(now, gateway);
            }
            Event::Step { gateway, base } => self.arrive(now, gateway, base),
            Event::Deadline => {}
        }
        match self.round.decide(now) {
            Decision::Close => self.cut(now),
            Decision::WaitUntil(at) => self.at(at, Event::Deadline),
            Decision::Wait => {}
        }
    }

    /// An idle gateway trains once from the newest version it heard of.
    fn train(&mut self, now: u64, gateway: usize) {
        let slow = if gateway < self.nodes.len() / 2 { 1 } else { SLOWNESS };
        let node = &mut self.nodes[gateway];
        if node.busy || node.base == node.heard {
            return;
        }
        (node.busy, node.base) = (true, node.heard);
        let takes = STEP_MS * slow * (900 + node.random.below(201) as u64) / 1000;
        let base = node.base;
        let mut values = self.fleet.step(gateway, &self.params[base as usize - 1]);
        if let Some(bits) = self.race.bits {
            values = self.told(gateway, base, values, bits);
        }
        self.sent[gateway].push((base, values));
        self.at(now + takes, Event::Trained { gateway });
    }

    /// What the fleet learns of a step: decoded from its blob. The rest goes into the next one.
    fn told(&mut self, gateway: usize, base: u64, mut step: Vec<f32>, bits: f32) -> Vec<f32> {
        let length = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        let (last, untold) = &mut self.nodes[gateway].untold;
        if base <= *last + self.race.staleness.max(RESIDUAL.0) {
            let share = (RESIDUAL.1 * length(&step) / length(untold).max(f64::MIN_POSITIVE)).min(1.0) as f32;
            step.iter_mut().zip(untold.iter()).for_each(|(value, rest)| *value += share * rest);
        }
        let seed = (gateway as u32).wrapping_mul(0x9e37_79b9).wrapping_add(base as u32);
        let budget = Budget { bits, seed, row: self.fleet.shape.features };
        let (codec, encoded) =
            encode_auto(&mut step, &budget).expect("training keeps no value that is not finite");
        let decoded = decode_step(codec, &encoded.blob, step.len()).expect("what was encoded can be decoded");
        (*last, *untold) = (base, step);
        decoded
    }

    fn arrive(&mut self, now: u64, gateway: usize, base: u64) {
        let Some(at) = self.sent[gateway].iter().position(|(of, _)| *of == base) else { return };
        let (_, values) = self.sent[gateway].remove(at);
        let staleness = self.newest() - base;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(gateway as u64).to_le_bytes());
        let age = Age::of(staleness);
        if staleness > self.race.staleness || self.round.has(&key, age) {
            self.course.refused += 1;
            if self.race.bits.is_some() {
                // It is told again.
                let untold = self.nodes[gateway].untold.1.iter_mut();
                untold.zip(&values).for_each(|(rest, value)| *rest += value);
            }
            return;
        }
        self.round.join(key, age, now);
        self.course.steps += 1;
        self.course.late += u64::from(age == Age::Late);
        self.taken.push(Taken { gateway, key, staleness, values });
    }

    /// How the steps of the open round count, as the aggregator reads it from its journal.
    fn pace(&self) -> Pace {
        if self.race.rules.mode == Mode::Sync {
            return Pace::Once;
        }
        let (version, most) = (self.newest() + 1, self.race.staleness);
        let seen = |&(_, &last): &(&[u8; 32], &u64)| last + most >= version;
        let back = self.weights.len().saturating_sub(most.saturating_sub(1) as usize);
        Pace::Spans {
            version,
            most,
            last: self.last.iter().filter(seen).map(|(key, last)| (*key, *last)).collect(),
            before: self.weights[back..].to_vec(),
        }
    }

    fn cut(&mut self, now: u64) {
        let (pace, version) = (self.pace(), self.newest() + 1);
        let taken = std::mem::take(&mut self.taken);
        let mut totals = StepTotals::new(self.fleet.shape.parameters());
        for step in &taken {
            let steps = taken.iter().filter(|other| other.key == step.key).count();
            let share = pace.share(&step.key, steps, step.staleness);
            let weight = self.fleet.weight(step.gateway);
            let added = totals.add(&step.values, weight, MAX_WEIGHT, share);
            added.expect("trained from this shape; training keeps no value that is not finite");
        }
        self.last.extend(taken.iter().map(|step| (step.key, version)));
        self.weights.push(totals.weight());
        let newest = &self.params[self.params.len() - 1];
        let params = from_steps(newest, &totals, pace.before());
        let params = params.expect("a round that closes holds a step, and every gateway has samples");
        self.course.points.push((now, self.fleet.accuracy(&params)));
        self.params.push(params);
        self.round = Round::new(Open::Step, self.race.rules);
        self.publish(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bits: Option<f32>, mode: Mode, quorum: usize, staleness: u64, versions: usize) -> Course {
        let fleet = Fleet::made_up(6);
        let rules = Rules { mode, quorum, minimum: 1, deadline_ms: None };
        race(&fleet, &Race { rules, staleness, bits }, 3, |course| course.versions() < versions)
    }

    fn run(mode: Mode, quorum: usize, staleness: u64, versions: usize) -> Course {
        encoded(None, mode, quorum, staleness, versions)
    }

    #[test]
    fn a_step_that_lost_most_of_itself_is_told_in_the_end() {
        let exact = run(Mode::Buffered, 3, 16, 40);
        let lossy = encoded(Some(1.0), Mode::Buffered, 3, 16, 40);
        assert_eq!(lossy.versions(), exact.versions());
        assert_ne!(lossy.points, exact.points);
        assert!(lossy.last().1 > exact.last().1 - 0.05, "{:?} and {:?}", lossy.last(), exact.last());
    }

    #[test]
    fn sync_waits_for_all_and_a_buffer_for_nobody() {
        let sync = run(Mode::Sync, 6, 0, 4);
        assert_eq!((sync.versions(), sync.steps, sync.late, sync.refused), (4, 24, 0, 0));
        assert!(sync.last().0 > 4 * 9 * STEP_MS, "every round waits for the slow half");
        let buffered = run(Mode::Buffered, 3, 16, 40);
        let Course { steps, late, refused, .. } = &buffered;
        // A gateway whose second late step meets the first in one round loses it: rare.
        assert!(*late > 0 && refused * 10 < *steps, "{late} late, {refused} refused, {steps} steps");
        assert!(buffered.last().0 < sync.last().0, "forty versions before four");
        assert!(buffered.last().1 > 0.9 && sync.last().1 > 0.5, "both learn");
        let closed = run(Mode::Buffered, 3, 0, 40);
        assert!(closed.late == 0 && closed.refused > 0, "without a window the slow half is refused");
    }

    #[test]
    fn a_seed_means_the_same_run_for_ever() {
        let points = || run(Mode::Buffered, 3, 16, 10).points;
        assert_eq!(points(), points());
    }

    #[test]
    fn a_target_is_reached_when_it_is_held() {
        let course =
            Course { points: vec![(1, 0.9), (2, 0.5), (3, 0.9), (4, 0.9), (5, 0.9)], ..Course::default() };
        assert_eq!(course.reached(0.9, 3), Some((3, 3)));
        assert_eq!(course.reached(0.9, 1), Some((1, 1)));
        assert_eq!(course.reached(0.95, 3), None);
    }
}

//! Walking through the states: all of them, breadth first, or a long random walk.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::world::{Scenario, Step, Violation, World};

/// A violation and how it comes about.
#[derive(Debug)]
pub(crate) struct Counterexample {
    /// What happened.
    pub(crate) violation: Violation,
    /// The steps from the beginning to it.
    pub(crate) schedule: Vec<Step>,
    scenario: Scenario,
    seed: Option<u64>,
}

impl Counterexample {
    /// What a person needs to see it again.
    pub(crate) fn tell(&self) -> String {
        let mut text = format!("{}\n{:?}\n", self.violation, self.scenario);
        if let Some(seed) = self.seed {
            let _ = writeln!(text, "seed {seed} (LOADONCE_SEED={seed} LOADONCE_SCHEDULES=1)");
        }
        for (number, step) in self.schedule.iter().enumerate() {
            let _ = writeln!(text, "{:4}  {step:?}", number + 1);
        }
        text
    }
}

/// Names a state. Among a million states two have the same name by accident less than once in ten million
/// explorations.
fn name(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// States from which the outbox is known to become empty.
type Live = HashSet<u64>;

/// Goes on without losses or deaths until everything is at rest. The way is determined, so a state that comes twice
/// comes for ever.
fn settle(from: &World, scenario: &Scenario, live: &mut Live) -> Result<(), (Violation, Vec<Step>)> {
    let (mut world, mut passed, mut steps) = (from.clone(), HashSet::new(), Vec::new());
    loop {
        let state = name(&world);
        if live.contains(&state) || world.at_rest() {
            live.extend(passed);
            live.insert(state);
            return Ok(());
        }
        let Some(step) = world.fair(scenario).filter(|_| passed.insert(state)) else {
            return Err((Violation::Stuck(world.summary()), steps));
        };
        steps.push(step);
        world = world.after(step, scenario).map_err(|violation| (violation, steps.clone()))?;
    }
}

/// Visits every state that can be reached, and from each lets the channel become fair. Returns their number, and
/// the length of the longest shortest way.
pub(crate) fn everything(scenario: &Scenario) -> Result<(usize, usize), Box<Counterexample>> {
    let start = World::new(scenario);
    let mut seen = HashSet::from([name(&start)]);
    let mut live = Live::new();
    // How each state was reached first: from which, by which step, after how many.
    let mut ways: Vec<(usize, Option<Step>, usize)> = vec![(0, None, 0)];
    let mut waiting = VecDeque::from([(start, 0)]);
    let fail = |ways: &[(usize, Option<Step>, usize)], at: usize, violation, rest: Vec<Step>| {
        let (mut at, mut schedule) = (at, Vec::new());
        while let (before, Some(step), _) = ways[at] {
            schedule.push(step);
            at = before;
        }
        schedule.reverse();
        schedule.extend(rest);
        Box::new(Counterexample { violation, schedule, scenario: scenario.clone(), seed: None })
    };
    while let Some((world, at)) = waiting.pop_front() {
        settle(&world, scenario, &mut live).map_err(|(violation, rest)| fail(&ways, at, violation, rest))?;
        for step in world.steps(scenario) {
            let next =
                world.after(step, scenario).map_err(|violation| fail(&ways, at, violation, vec![step]))?;
            if seen.insert(name(&next)) {
                ways.push((at, Some(step), ways[at].2 + 1));
                waiting.push_back((next, ways.len() - 1));
            }
        }
    }
    let depth = ways.iter().map(|way| way.2).max().unwrap_or(0);
    Ok((seen.len(), depth))
}

/// splitmix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// A random walk of `steps` steps, and then a fair channel. Deaths and cuts are one step in `calm`.
pub(crate) fn walk(
    scenario: &Scenario,
    seed: u64,
    steps: usize,
    calm: usize,
) -> Result<(), Box<Counterexample>> {
    let (mut random, mut world, mut schedule) = (Random(seed), World::new(scenario), Vec::new());
    let fail = |violation, schedule| {
        Box::new(Counterexample { violation, schedule, scenario: scenario.clone(), seed: Some(seed) })
    };
    for _ in 0..steps {
        let disaster = random.below(calm) == 0;
        let wanted = |step: &Step| {
            let rare = matches!(
                step,
                Step::GatewayDies
                    | Step::AggregatorDies
                    | Step::Returned
                    | Step::Cut
                    | Step::UpLost(_)
                    | Step::DownLost(_)
            );
            rare == disaster
        };
        let mut choice = world.steps(scenario);
        choice.retain(wanted);
        if choice.is_empty() {
            continue;
        }
        let step = choice[random.below(choice.len())];
        schedule.push(step);
        world = match world.after(step, scenario) {
            Ok(next) => next,
            Err(violation) => return Err(fail(violation, schedule)),
        };
    }
    settle(&world, scenario, &mut Live::new()).map_err(|(violation, rest)| {
        schedule.extend(rest);
        fail(violation, schedule.clone())
    })
}

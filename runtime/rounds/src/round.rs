//! What a round takes, and when it closes.

use std::collections::BTreeMap;

use loadonce_module::Recipe;
use loadonce_wire::Bytes32;

/// What the open round of a lineage takes. Sums are welcome in any of them, but only in a sum round do they
/// lead to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Sums: the next version is solved from the totals.
    Sum,
    /// Steps from the newest version, or from one inside the staleness window.
    Step,
    /// Nothing: the lineage rests.
    None,
}

/// What follows after version `version` (0 for none): the first version comes from sums; `moments` goes on with
/// sums for ever, the trained recipes with `steps` rounds of steps and then rest.
pub fn opening(recipe: Recipe, version: u64, steps: u64) -> Open {
    match (version, recipe) {
        (0, _) | (_, Recipe::Moments) => Open::Sum,
        (version, _) if version <= steps => Open::Step,
        _ => Open::None,
    }
}

/// What a round of steps waits for. A round of sums always waits for gateways, as in `Sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Gateways with a step from the newest version. Late steps ride along: they neither close a round nor start
    /// its deadline.
    Sync,
    /// Steps, whoever they are from and however late (`FedBuff`, Nguyen et al. 2022, algorithm 1).
    Buffered,
}

/// Whether a contribution is from the newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// A sum, or a step from the newest version.
    Fresh,
    /// A step from an older one.
    Late,
}

impl Age {
    /// Of a step whose base is `staleness` versions old.
    pub fn of(staleness: u64) -> Self {
        if staleness == 0 { Self::Fresh } else { Self::Late }
    }
}

/// When rounds close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// What a round of steps waits for.
    pub mode: Mode,
    /// Gateways that close a round at once; steps in a buffered one.
    pub quorum: usize,
    /// Gateways without which no round closes.
    pub minimum: usize,
    /// Milliseconds after the first contribution at which the minimum is enough; `None` for never.
    pub deadline_ms: Option<u64>,
}

/// What is to be done about a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Cut a version now.
    Close,
    /// Ask again at this time or after the next contribution.
    WaitUntil(u64),
    /// Only a contribution can change anything.
    Wait,
}

/// A gateway's part in a round.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    contributions: usize,
    fresh: bool,
    late: bool,
}

/// One round. It holds nothing that cannot be rebuilt from the contributions of the round; only the time of the
/// first one is forgotten over a restart, so a deadline may then come later, never earlier.
#[derive(Debug, Clone)]
pub struct Round {
    open: Open,
    rules: Rules,
    gateways: BTreeMap<Bytes32, Part>,
    /// Gateways with a fresh contribution.
    fresh: usize,
    contributions: usize,
    first_ms: Option<u64>,
    blocked: bool,
}

impl Round {
    /// An empty round.
    pub fn new(open: Open, rules: Rules) -> Self {
        Self {
            open,
            rules,
            gateways: BTreeMap::new(),
            fresh: 0,
            contributions: 0,
            first_ms: None,
            blocked: false,
        }
    }

    /// What it takes.
    pub fn open(&self) -> Open {
        self.open
    }

    /// Gateways that count towards closing it.
    pub fn gateways(&self) -> usize {
        if self.buffers() { self.gateways.len() } else { self.fresh }
    }

    /// Contributions.
    pub fn contributions(&self) -> usize {
        self.contributions
    }

    /// Whether this gateway contributed something of this age: steps count once per gateway, round and age. So in
    /// `Sync` a gateway pulls a version by at most 1 + 1/√2 times the largest weight; in `Buffered` both share what the
    /// gateway stands for.
    pub fn has(&self, gateway: &Bytes32, age: Age) -> bool {
        self.gateways.get(gateway).is_some_and(|part| match age {
            Age::Fresh => part.fresh,
            Age::Late => part.late,
        })
    }

    /// Contributions of one gateway.
    pub fn contributions_of(&self, gateway: &Bytes32) -> usize {
        self.gateways.get(gateway).map_or(0, |part| part.contributions)
    }

    /// Notes a persisted contribution of the kind the round is open for.
    pub fn join(&mut self, gateway: Bytes32, age: Age, now_ms: u64) {
        let part = self.gateways.entry(gateway).or_default();
        part.contributions += 1;
        match age {
            Age::Fresh => {
                self.fresh += usize::from(!part.fresh);
                part.fresh = true;
            }
            Age::Late => part.late = true,
        }
        self.contributions += 1;
        if age == Age::Fresh || self.buffers() {
            self.first_ms.get_or_insert(now_ms);
        }
        self.blocked = false;
    }

    /// Milliseconds since the first contribution that starts the deadline; `None` before it.
    pub fn waiting_ms(&self, now_ms: u64) -> Option<u64> {
        self.first_ms.map(|first| now_ms.saturating_sub(first))
    }

    fn buffers(&self) -> bool {
        self.open == Open::Step && self.rules.mode == Mode::Buffered
    }

    /// No version could be cut from what there is: wait for one more contribution.
    pub fn block(&mut self) {
        self.blocked = true;
    }

    /// Whether to close now.
    pub fn decide(&self, now_ms: u64) -> Decision {
        let gateways = self.gateways();
        if self.open == Open::None || self.blocked || gateways < self.rules.minimum.max(1) {
            return Decision::Wait;
        }
        let there = if self.buffers() { self.contributions } else { gateways };
        if there >= self.rules.quorum {
            return Decision::Close;
        }
        match (self.rules.deadline_ms, self.first_ms) {
            (Some(deadline), Some(first)) => {
                let at = first.saturating_add(deadline);
                if now_ms >= at { Decision::Close } else { Decision::WaitUntil(at) }
            }
            _ => Decision::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { mode: Mode::Sync, quorum: 3, minimum: 2, deadline_ms: Some(1000) };

    #[test]
    fn lineages_open_what_their_recipe_needs() {
        let ladder = Recipe::Ladder { rank: 4 };
        let opens =
            |recipe, steps| (0..5).map(move |version| opening(recipe, version, steps)).collect::<Vec<_>>();
        assert_eq!(opens(Recipe::Moments, 9), [Open::Sum; 5]);
        assert_eq!(opens(ladder, 2), [Open::Sum, Open::Step, Open::Step, Open::None, Open::None]);
        assert_eq!(opens(Recipe::Probe, 0), [Open::Sum, Open::None, Open::None, Open::None, Open::None]);
    }

    #[test]
    fn the_quorum_closes_at_once_and_counts_gateways() {
        let mut round = Round::new(Open::Sum, RULES);
        assert_eq!(round.decide(0), Decision::Wait);
        for _ in 0..5 {
            round.join([1; 32], Age::Fresh, 10);
        }
        assert_eq!((round.gateways(), round.contributions(), round.decide(5000)), (1, 5, Decision::Wait));
        round.join([2; 32], Age::Fresh, 20);
        assert_eq!(round.decide(20), Decision::WaitUntil(1010));
        round.join([3; 32], Age::Fresh, 30);
        assert_eq!(round.decide(30), Decision::Close);
        assert!(round.has(&[3; 32], Age::Fresh) && !round.has(&[3; 32], Age::Late));
        assert!(!round.has(&[4; 32], Age::Fresh));
    }

    #[test]
    fn the_deadline_counts_from_the_first_contribution_and_needs_the_minimum() {
        let mut round = Round::new(Open::Step, RULES);
        round.join([1; 32], Age::Fresh, 500);
        assert_eq!(round.decide(9999), Decision::Wait);
        round.join([2; 32], Age::Fresh, 800);
        assert_eq!(round.decide(1499), Decision::WaitUntil(1500));
        assert_eq!(round.decide(1500), Decision::Close);
        let never = Rules { deadline_ms: None, ..RULES };
        let mut round = Round::new(Open::Step, never);
        round.join([1; 32], Age::Fresh, 0);
        round.join([2; 32], Age::Fresh, 0);
        assert_eq!(round.decide(u64::MAX), Decision::Wait);
    }

    #[test]
    fn a_round_that_failed_waits_for_one_more() {
        let mut round = Round::new(Open::Sum, Rules { quorum: 1, minimum: 1, deadline_ms: Some(0), ..RULES });
        round.join([1; 32], Age::Fresh, 0);
        assert_eq!(round.decide(0), Decision::Close);
        round.block();
        assert_eq!(round.decide(u64::MAX), Decision::Wait);
        round.join([1; 32], Age::Fresh, 5);
        assert_eq!(round.decide(5), Decision::Close);
    }

    #[test]
    fn a_resting_lineage_never_closes() {
        let mut round =
            Round::new(Open::None, Rules { quorum: 1, minimum: 1, deadline_ms: Some(0), ..RULES });
        round.join([1; 32], Age::Fresh, 0);
        assert_eq!(round.decide(u64::MAX), Decision::Wait);
    }

    #[test]
    fn late_steps_ride_along_in_sync() {
        let mut round = Round::new(Open::Step, RULES);
        for gateway in 1..=5 {
            round.join([gateway; 32], Age::Late, 0);
        }
        assert_eq!((round.gateways(), round.contributions()), (0, 5));
        assert_eq!(round.decide(u64::MAX), Decision::Wait, "only late steps close nothing");
        round.join([1; 32], Age::Fresh, 700);
        round.join([2; 32], Age::Fresh, 800);
        assert_eq!(
            round.decide(800),
            Decision::WaitUntil(1700),
            "the deadline counts from the first fresh one"
        );
        assert!(round.has(&[1; 32], Age::Fresh) && round.has(&[1; 32], Age::Late));
        round.join([3; 32], Age::Fresh, 900);
        assert_eq!(round.decide(900), Decision::Close);
    }

    #[test]
    fn a_buffer_counts_steps_and_still_needs_its_minimum_of_gateways() {
        let buffered = Rules { mode: Mode::Buffered, ..RULES };
        let mut round = Round::new(Open::Step, buffered);
        round.join([1; 32], Age::Late, 100);
        round.join([1; 32], Age::Fresh, 200);
        assert_eq!((round.gateways(), round.decide(u64::MAX)), (1, Decision::Wait));
        round.join([2; 32], Age::Late, 300);
        assert_eq!(round.decide(300), Decision::Close, "three steps of two gateways");
        let mut round = Round::new(Open::Step, buffered);
        round.join([1; 32], Age::Late, 100);
        round.join([2; 32], Age::Late, 300);
        assert_eq!(round.decide(300), Decision::WaitUntil(1100));
        let mut sums = Round::new(Open::Sum, buffered);
        for _ in 0..3 {
            sums.join([1; 32], Age::Fresh, 0);
        }
        sums.join([2; 32], Age::Fresh, 0);
        assert_eq!(sums.decide(0), Decision::WaitUntil(1000), "sums wait for gateways");
    }
}

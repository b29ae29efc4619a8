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
    /// Steps from the newest version.
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

/// When rounds close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Gateways that close a round at once.
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

/// One round. It holds nothing that cannot be rebuilt from the contributions of the round; only the time of the
/// first one is forgotten over a restart, so a deadline may then come later, never earlier.
#[derive(Debug, Clone)]
pub struct Round {
    open: Open,
    rules: Rules,
    /// Contributions of each gateway.
    gateways: BTreeMap<Bytes32, usize>,
    contributions: usize,
    first_ms: Option<u64>,
    blocked: bool,
}

impl Round {
    /// An empty round.
    pub fn new(open: Open, rules: Rules) -> Self {
        Self { open, rules, gateways: BTreeMap::new(), contributions: 0, first_ms: None, blocked: false }
    }

    /// What it takes.
    pub fn open(&self) -> Open {
        self.open
    }

    /// Gateways that contributed.
    pub fn gateways(&self) -> usize {
        self.gateways.len()
    }

    /// Contributions.
    pub fn contributions(&self) -> usize {
        self.contributions
    }

    /// Whether this gateway contributed: a step counts once per gateway and round.
    pub fn has(&self, gateway: &Bytes32) -> bool {
        self.gateways.contains_key(gateway)
    }

    /// Contributions of one gateway.
    pub fn contributions_of(&self, gateway: &Bytes32) -> usize {
        self.gateways.get(gateway).copied().unwrap_or_default()
    }

    /// Notes a persisted contribution of the kind the round is open for.
    pub fn join(&mut self, gateway: Bytes32, now_ms: u64) {
        *self.gateways.entry(gateway).or_default() += 1;
        self.contributions += 1;
        self.first_ms.get_or_insert(now_ms);
        self.blocked = false;
    }

    /// No version could be cut from what there is: wait for one more contribution.
    pub fn block(&mut self) {
        self.blocked = true;
    }

    /// Whether to close now.
    pub fn decide(&self, now_ms: u64) -> Decision {
        let gateways = self.gateways.len();
        if self.open == Open::None || self.blocked || gateways < self.rules.minimum.max(1) {
            return Decision::Wait;
        }
        if gateways >= self.rules.quorum {
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

    const RULES: Rules = Rules { quorum: 3, minimum: 2, deadline_ms: Some(1000) };

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
            round.join([1; 32], 10);
        }
        assert_eq!((round.gateways(), round.contributions(), round.decide(5000)), (1, 5, Decision::Wait));
        round.join([2; 32], 20);
        assert_eq!(round.decide(20), Decision::WaitUntil(1010));
        round.join([3; 32], 30);
        assert_eq!(round.decide(30), Decision::Close);
        assert!(round.has(&[3; 32]) && !round.has(&[4; 32]));
    }

    #[test]
    fn the_deadline_counts_from_the_first_contribution_and_needs_the_minimum() {
        let mut round = Round::new(Open::Step, RULES);
        round.join([1; 32], 500);
        assert_eq!(round.decide(9999), Decision::Wait);
        round.join([2; 32], 800);
        assert_eq!(round.decide(1499), Decision::WaitUntil(1500));
        assert_eq!(round.decide(1500), Decision::Close);
        let never = Rules { deadline_ms: None, ..RULES };
        let mut round = Round::new(Open::Step, never);
        round.join([1; 32], 0);
        round.join([2; 32], 0);
        assert_eq!(round.decide(u64::MAX), Decision::Wait);
    }

    #[test]
    fn a_round_that_failed_waits_for_one_more() {
        let mut round = Round::new(Open::Sum, Rules { quorum: 1, minimum: 1, deadline_ms: Some(0) });
        round.join([1; 32], 0);
        assert_eq!(round.decide(0), Decision::Close);
        round.block();
        assert_eq!(round.decide(u64::MAX), Decision::Wait);
        round.join([1; 32], 5);
        assert_eq!(round.decide(5), Decision::Close);
    }

    #[test]
    fn a_resting_lineage_never_closes() {
        let mut round = Round::new(Open::None, Rules { quorum: 1, minimum: 1, deadline_ms: Some(0) });
        round.join([1; 32], 0);
        assert_eq!(round.decide(u64::MAX), Decision::Wait);
    }
}

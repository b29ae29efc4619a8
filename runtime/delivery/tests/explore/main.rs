//! Everything that a gateway, an aggregator and a bad channel can do to each other (invariants 1 and 2).
//!
//! The explorer visits every state that can be reached: any number of losses, repetitions, reorderings, cuts and
//! deaths of either side, at every step. From each of them it then lets the channel become fair, and the outbox must
//! become empty. States are finite in number because times are kept relative, repetitions stop counting at a bound
//! and the channel holds few messages.
//!
//! `LOADONCE_SCHEDULES=n` sets the number of random walks, `LOADONCE_SEED` the first seed; `make explore` takes many.

mod search;
mod world;

use search::{Counterexample, Random, everything, walk};
use world::{Mutant, Scenario, Violation};

/// One entry of one chunk and one of two.
fn both_kinds(mutant: Mutant) -> Scenario {
    Scenario { entries: vec![1, 2], capacity: 2, transfers: 2, window: 2, mutant }
}

/// Two large entries and memory for one.
fn crowded(mutant: Mutant) -> Scenario {
    Scenario { entries: vec![2, 2], capacity: 1, transfers: 1, window: 2, mutant }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn clean(scenario: &Scenario, least: usize) {
    let (states, depth) = everything(scenario).unwrap_or_else(|found| panic!("{}", found.tell()));
    println!("{states} states, the farthest {depth} steps away: {scenario:?}");
    assert!(states > least, "{states} states are not what this scenario has");
}

#[test]
fn invariant_01_and_02_hold_in_every_state_with_entries_of_both_kinds() {
    clean(&both_kinds(Mutant::None), 10_000);
}

#[test]
fn invariant_01_and_02_hold_in_every_state_where_the_receiver_is_crowded() {
    clean(&crowded(Mutant::None), 10_000);
}

#[test]
fn an_entry_of_three_chunks_is_resumed_in_every_state() {
    clean(&Scenario { entries: vec![3], capacity: 2, transfers: 1, window: 1, mutant: Mutant::None }, 1_000);
}

/// The violation that a mutant leads to, shown as a person would see it.
fn found(scenario: &Scenario) -> Violation {
    let Err(found) = everything(scenario) else { panic!("{scenario:?} went unnoticed") };
    println!("{}", found.tell());
    assert!(found.schedule.len() < 40, "the shortest schedule is short");
    found.violation
}

#[test]
fn the_explorer_notices_an_acknowledgement_before_the_write() {
    assert_eq!(found(&both_kinds(Mutant::AckBeforePersist)), Violation::Lost(1));
}

#[test]
fn the_explorer_notices_that_nothing_is_recognised() {
    assert_eq!(found(&both_kinds(Mutant::NoDedup)), Violation::Twice(1));
}

#[test]
fn the_explorer_notices_that_the_brokers_word_is_believed() {
    assert_eq!(found(&both_kinds(Mutant::DeleteOnSend)), Violation::Lost(1));
}

#[test]
fn the_explorer_notices_that_nothing_is_sent_again() {
    assert!(matches!(found(&both_kinds(Mutant::NoTimers)), Violation::Stuck(_)));
}

#[test]
fn the_explorer_notices_a_bitmap_that_lies() {
    assert!(matches!(found(&crowded(Mutant::WrongBitmap)), Violation::Stuck(_)));
}

/// A larger world than can be explored, by random walks.
fn large(random: &mut Random, mutant: Mutant) -> Scenario {
    Scenario {
        entries: (0..=random.below(8)).map(|_| 1 + random.below(6)).collect(),
        capacity: 1 + random.below(8),
        transfers: 1 + random.below(4),
        window: 1 + random.below(4),
        mutant,
    }
}

fn walks(first: u64, count: u64, mutant: Mutant) -> Result<(), Box<Counterexample>> {
    (first..first + count).try_for_each(|seed| {
        let mut random = Random(seed ^ 0x5eed);
        let (calm, steps) = (2 + random.below(30), 50 + random.below(400));
        walk(&large(&mut random, mutant), seed, steps, calm)
    })
}

#[test]
fn invariant_01_and_02_hold_on_random_walks() {
    let (first, count) = (number("LOADONCE_SEED", 1), number("LOADONCE_SCHEDULES", 1000));
    println!("{count} random walks from seed {first} on (LOADONCE_SEED, LOADONCE_SCHEDULES)");
    walks(first, count, Mutant::None).unwrap_or_else(|found| panic!("{}", found.tell()));
}

#[test]
fn random_walks_notice_the_faults_too() {
    for mutant in [Mutant::AckBeforePersist, Mutant::NoDedup, Mutant::DeleteOnSend, Mutant::WrongBitmap] {
        assert!(walks(1, 300, mutant).is_err(), "{mutant:?} went unnoticed");
    }
}

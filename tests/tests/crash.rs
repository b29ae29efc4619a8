//! Invariants 1 and 2 under SIGKILL, and proof that these tests would notice a build that breaks them.

use std::sync::OnceLock;

use loadonce_tests::crash::{Outcome, Prepared, RunOptions, Schedule, Violation, mutant, prepare, run, seed};

/// One prepared fleet and its undisturbed outcome for all tests of this file.
fn reference() -> &'static (Prepared, Outcome) {
    static REFERENCE: OnceLock<(Prepared, Outcome)> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let prepared = prepare();
        let undisturbed = run(&prepared, None, "undisturbed", &Schedule::nothing(), RunOptions::default());
        let undisturbed =
            undisturbed.unwrap_or_else(|violation| panic!("nobody was killed, and yet {violation}"));
        assert_eq!(undisturbed.lineage.len(), 3, "one version from sums, two from steps");
        (prepared, undisturbed)
    })
}

/// Runs under kills and compares with the undisturbed run.
fn disturbed(name: &str, schedule: &Schedule, options: RunOptions) -> Result<Outcome, Violation> {
    let (prepared, undisturbed) = reference();
    run(prepared, Some(undisturbed), name, schedule, options)
}

#[test]
fn invariant_01_an_outbox_entry_dies_only_on_an_application_ack() {
    let outcome = disturbed("invariant_01", &Schedule::everything(seed()), RunOptions::default());
    outcome.unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn invariant_02_apply_is_idempotent() {
    let twice = RunOptions { twice: true, ..RunOptions::default() };
    let outcome = disturbed("invariant_02", &Schedule::everything(seed().wrapping_add(1)), twice);
    let outcome = outcome.unwrap_or_else(|violation| panic!("{violation}"));
    assert!(outcome.recognised > 0, "nothing was delivered twice, so nothing was proved");
}

#[test]
fn crash_tests_notice_the_faults() {
    // The very runs of the invariants above, with one thing wrong in the aggregator.
    let faulty = RunOptions { aggregator: Some(mutant("fault-ack-before-persist")), twice: false };
    match disturbed("ack_before_persist", &Schedule::everything(seed()), faulty.clone()) {
        Err(Violation::Lost(what) | Violation::Differs(what)) => println!("noticed: {what}"),
        other => panic!("an aggregator that acknowledges before it persists went unnoticed: {other:?}"),
    }
    // And with a single kill, to name the cause alone.
    match disturbed("ack_before_persist_alone", &Schedule::after_deletion(seed()), faulty) {
        Err(Violation::Lost(what)) => println!("noticed: {what}"),
        other => panic!("an aggregator that acknowledges before it persists went unnoticed: {other:?}"),
    }
    let faulty = RunOptions { aggregator: Some(mutant("fault-no-dedup")), twice: true };
    match disturbed("no_dedup", &Schedule::everything(seed().wrapping_add(1)), faulty.clone()) {
        Err(Violation::CountedTwice(what) | Violation::Differs(what)) => println!("noticed: {what}"),
        other => panic!("an aggregator that forgets what it applied went unnoticed: {other:?}"),
    }
    match disturbed("no_dedup_alone", &Schedule::nothing(), faulty) {
        Err(Violation::CountedTwice(what) | Violation::Differs(what)) => println!("noticed: {what}"),
        other => panic!("an aggregator that forgets what it applied went unnoticed: {other:?}"),
    }
}

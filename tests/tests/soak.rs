//! The soak in short: ten seeded SIGKILLs while labels come and rounds close by their deadline, under a broker that
//! comes back with what it once wrote down. `make soak` is the long one.

use loadonce_tests::broker::Memory;
use loadonce_tests::crash::seed;
use loadonce_tests::soak::{GATEWAYS, Plan, Rounds, Schedule, prepare, run};

const KILLS: usize = 10;

#[test]
fn ten_random_kills_lose_nothing_and_double_nothing() {
    let schedule = Schedule::random(seed(), KILLS, &GATEWAYS);
    println!("seed {} (LOADONCE_SEED):\n{}", seed(), schedule.to_text());
    let plan = Plan {
        name: "short",
        rounds: Rounds::Deadline,
        memory: Memory::Saved,
        steps: 5,
        schedule,
        aggregator: None,
    };
    let found = run(&prepare(), &plan).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.kills.values().sum::<usize>(), KILLS);
    for wrongs in [&found.lost, &found.doubled, &found.wrong] {
        assert!(
            wrongs.is_empty(),
            "lost {:?}, doubled {:?}, wrong {:?}",
            found.lost,
            found.doubled,
            found.wrong
        );
    }
    assert_eq!(found.outcome.lineage.len() as u64, plan.steps + 1);
    assert!(found.applied > GATEWAYS.len(), "hardly anything happened");
}

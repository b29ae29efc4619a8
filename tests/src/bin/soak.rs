//! `make soak`: kills by SIGKILL over agents, broker and aggregator during live rounds, and what they left.
//!
//! `SEED` (a number, 1 by default) draws who is killed when; `SCHEDULE` names a file with one `ms process` a line
//! instead. The schedule of every run is written to `target/bench/soak-schedule.txt` and can be given back.
//! `KILLS` (200) is the number of kills over the four episodes, `STEPS` (50) the gradient rounds of each. `AGGREGATOR`
//! names another program to test, such as one with a fault on purpose. Figures go to `target/bench/soak.json`, those of
//! another program to `soak-of-another.json`; the program ends with 1 if anything was lost, counted twice or wrong.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use loadonce_tests::programs::root;
use loadonce_tests::soak::{
    EPISODES, GATEWAYS, PROCESSES, Plan, Rounds, Schedule, difference, figures, parse, prepare, run,
};
use serde_json::{Value, json};

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().filter(|text| !text.is_empty()).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text}"))
    })
}

fn text(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|text| !text.is_empty())
}

fn main() -> ExitCode {
    let (seed, kills, steps) = (number("SEED", 1), number("KILLS", 200) as usize, number("STEPS", 50));
    let brought = text("SCHEDULE").map(|path| {
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("the schedule {path}: {error}"))
    });
    let aggregator = text("AGGREGATOR").map(Into::into);
    let mut plans = Vec::new();
    for (at, (name, rounds, memory)) in EPISODES.into_iter().enumerate() {
        let schedule = if let Some(text) = &brought {
            parse(text, name, &PROCESSES).unwrap_or_else(|error| panic!("{error}"))
        } else {
            let share = kills / EPISODES.len() + usize::from(at < kills % EPISODES.len());
            let own = seed.wrapping_mul(EPISODES.len() as u64).wrapping_add(at as u64);
            Schedule::random(own, share, &GATEWAYS)
        };
        let aggregator = aggregator.clone();
        plans.push(Plan { name, rounds, memory, steps, schedule, aggregator });
    }
    let out = root().join("target/bench");
    std::fs::create_dir_all(&out).expect("target/bench can be made");
    let mut lines = format!("# seed {seed}; milliseconds since the labels began to come, and who dies\n");
    for plan in &plans {
        write!(lines, "== {}\n{}", plan.name, plan.schedule.to_text()).expect("a String takes any text");
    }
    std::fs::write(out.join("soak-schedule.txt"), lines).expect("target/bench can be written");

    let begun = Instant::now();
    println!("seed {seed}; {} gateways, {steps} gradient rounds an episode", GATEWAYS.len());
    let prepared = prepare();
    let calm =
        Plan { name: "undisturbed", schedule: Schedule::default(), aggregator: None, ..plans[0].clone() };
    let undisturbed =
        run(&prepared, &calm).unwrap_or_else(|error| panic!("nobody was killed, and yet {error}"));
    assert!(undisturbed.lost.is_empty() && undisturbed.doubled.is_empty() && undisturbed.wrong.is_empty());
    println!("undisturbed: {} versions in {:.1} s", undisturbed.outcome.lineage.len(), undisturbed.seconds);

    println!(
        "episode          kills  live  versions  enqueued  applied  refused  repeats  lost  doubled  lineage        s"
    );
    let (mut rows, mut sound) = (Vec::new(), true);
    for plan in &plans {
        let found = match run(&prepared, plan) {
            Ok(found) => found,
            Err(error) => {
                println!("{}: {error}", plan.name);
                rows.push(json!({"name": plan.name, "error": error}));
                sound = false;
                continue;
            }
        };
        let differs = (plan.rounds == Rounds::All).then(|| difference(&undisturbed.outcome, &found.outcome));
        let lineage = match &differs {
            None => "(free)",
            Some(None) => "the same",
            Some(Some(_)) => "ANOTHER",
        };
        println!(
            "{:15} {:6} {:5} {:9} {:9} {:8} {:8} {:8} {:5} {:8}  {lineage:9} {:6.1}",
            plan.name,
            found.kills.values().sum::<usize>(),
            found.live_kills,
            found.outcome.lineage.len(),
            found.enqueued,
            found.applied,
            found.refused.values().sum::<usize>(),
            found.recognised,
            found.lost.len(),
            found.doubled.len(),
            found.seconds,
        );
        let differs = differs.flatten();
        for what in found.lost.iter().chain(&found.doubled).chain(&found.wrong).chain(&differs) {
            println!("  {what}");
            sound = false;
        }
        let equal = (plan.rounds == Rounds::All).then_some(differs.is_none());
        rows.push(figures(plan, &found, equal));
    }
    let report = summary(seed, &rows, begun.elapsed().as_secs_f64());
    // What a faulty aggregator does is no figure of the product.
    let path = out.join(if plans.iter().any(|plan| plan.aggregator.is_some()) {
        "soak-of-another.json"
    } else {
        "soak.json"
    });
    std::fs::write(&path, format!("{report:#}\n")).expect("target/bench can be written");
    println!(
        "{} kills, {} lost, {} doubled, lineages equal: {}; {:.0} s; {}",
        report["kills"],
        report["lost"],
        report["doubled"],
        report["lineages_equal"],
        begun.elapsed().as_secs_f64(),
        path.display()
    );
    ExitCode::from(u8::from(!sound))
}

/// The figures of all episodes together.
fn summary(seed: u64, rows: &[Value], seconds: f64) -> Value {
    let sum = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
    let mut by_process = serde_json::Map::new();
    for process in PROCESSES {
        let kills = rows.iter().filter_map(|row| row["kills_by_process"][process].as_u64()).sum::<u64>();
        by_process.insert(process.to_owned(), kills.into());
    }
    // An episode that came to no end is as bad as one with another lineage.
    let equal = rows.iter().all(|row| row["lineage_equal"] != false && row["error"].is_null());
    json!({
        "seed": seed,
        "kills": sum("kills"),
        "kills_by_process": by_process,
        "lost": sum("lost"),
        "doubled": sum("doubled"),
        "lineages_equal": equal,
        "seconds": seconds.round(),
        "episodes": rows,
    })
}

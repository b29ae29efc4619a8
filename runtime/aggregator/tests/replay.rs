//! The journal against its own versions: all of them come out again, and damage anywhere is found.
// Helpers outside of test functions are tests all the same.
#![allow(clippy::unwrap_used)]
// Faults change what is in the journal; `restart.rs` shows that they are noticed.
#![cfg(not(any(feature = "fault-ack-before-persist", feature = "fault-no-dedup")))]

mod common;

use common::{ACCEPTED, DIGITS, Gateway, first_version, open_on, send, settings, task};
use loadonce_aggregator::{Aggregator, Outcome, Replay, Settings, replay};
use loadonce_store::Database;
use loadonce_store::crash::PowerCutDisk;
use loadonce_store::redb::{ReadableTable, TableDefinition, Value};

const STEPS: u64 = 20;

fn trained() -> String {
    DIGITS.replace("steps = 2", &format!("steps = {STEPS}"))
}

fn moments() -> String {
    DIGITS
        .replace(r#""digits""#, r#""texture""#)
        .replace(r#"kind = "ladder", rank = 2"#, r#"kind = "moments""#)
}

fn both(history_bytes: u64) -> Settings {
    Settings { history_bytes, ..settings(&[&trained(), &moments()]) }
}

/// Three gateways and two tasks, over `rounds` versions of each; from version 3 on one gateway is a version late.
fn learn(disk: &PowerCutDisk, history_bytes: u64, rounds: u64) {
    let (trained, moments) = (task(&trained()), task(&moments()));
    let mut core = open_on(disk, both(history_bytes), 0).unwrap();
    let mut gateways: Vec<_> = (1..=3).map(Gateway::new).collect();
    let mut late = None;
    for round in 0..rounds {
        if round == rounds / 2 {
            drop(core);
            core = open_on(disk, both(history_bytes), 0).unwrap();
        }
        let newest = core.lineage("digits").unwrap().last().map(|entry| (entry.version, entry.module));
        for gateway in &mut gateways {
            let sum = gateway.sum(&moments);
            assert_eq!(send(&mut core, gateway, &sum), ACCEPTED);
            let entry = match newest {
                Some(base) => gateway.step(&trained, base),
                None => gateway.sum(&trained),
            };
            assert_eq!(send(&mut core, gateway, &entry), ACCEPTED);
        }
        if let Some(base) = late {
            let step = gateways[0].step(&trained, base);
            assert_eq!(send(&mut core, &gateways[0], &step), ACCEPTED);
        }
        late = newest;
        assert_eq!(core.on_tick(round).unwrap().len(), 2, "both rounds close");
    }
    // An open round.
    let sum = gateways[0].sum(&moments);
    assert_eq!(send(&mut core, &gateways[0], &sum), ACCEPTED);
}

fn database(disk: &PowerCutDisk) -> Database {
    Database::open_with(disk.clone(), 1024 * 1024).unwrap()
}

fn replayed(disk: &PowerCutDisk) -> Replay {
    replay(database(disk)).unwrap()
}

#[test]
fn invariant_02_every_version_comes_out_again() {
    let disk = PowerCutDisk::new();
    learn(&disk, u64::MAX, 14);
    let replay = replayed(&disk);
    assert!(replay.sound(), "{}", replay.text());
    assert_eq!(replay.count(|outcome| *outcome == Outcome::Reproduced), 28);
    assert_eq!((replay.history.versions, replay.history.dropped_versions), (28, 0));
    let counts = |task: &str| -> Vec<usize> {
        let line = replay.lineages.iter().find(|line| line.task == task).unwrap();
        line.versions.iter().map(|version| version.contributions.len()).collect()
    };
    assert_eq!(counts("texture"), [3; 14]);
    assert_eq!(counts("digits")[..4], [3, 3, 4, 4], "from version 3 on with a late step");
    assert_eq!(replay.lineages.iter().map(|line| line.open.len()).sum::<usize>(), 1);
    assert!(replay.text().contains("everything kept was reproduced"), "{}", replay.text());
}

#[test]
fn invariant_03_the_history_is_bounded_and_what_is_left_comes_out_again() {
    let disk = PowerCutDisk::new();
    learn(&disk, u64::MAX, 14);
    let whole = replayed(&disk).history.bytes;
    for bound in [whole / 2, whole / 5, 5000, 0] {
        let disk = PowerCutDisk::new();
        learn(&disk, bound, 14);
        let replay = replayed(&disk);
        assert!(replay.sound(), "{bound}: {}", replay.text());
        let history = replay.history;
        assert!(history.bytes <= bound && history.versions + history.dropped_versions == 28, "{history:?}");
        assert!(history.dropped_contributions >= 3 * history.dropped_versions, "{history:?}");
        let reproduced = replay.count(|outcome| *outcome == Outcome::Reproduced) as u64;
        assert_eq!(
            (reproduced, replay.count(|outcome| *outcome == Outcome::Dropped) as u64),
            (history.versions, history.dropped_versions)
        );
        for line in &replay.lineages {
            let first = line.versions.iter().position(|version| version.outcome == Outcome::Reproduced);
            let kept = &line.versions[first.unwrap_or(14)..];
            assert!(kept.iter().all(|version| version.outcome == Outcome::Reproduced), "the oldest go first");
        }
        // The newest module files can still be fetched, whatever became of their contributions.
        let core = open_on(&disk, both(bound), 0).unwrap();
        for task in ["digits", "texture"] {
            let lineage = core.lineage(task).unwrap();
            assert_eq!(lineage.len(), 14);
            for entry in &lineage[14 - 8..] {
                assert!(core.module(&entry.module).unwrap().is_some(), "{bound}: version {}", entry.version);
            }
        }
    }
}

#[test]
fn a_bound_that_shrinks_drops_at_the_next_version() {
    let disk = PowerCutDisk::new();
    learn(&disk, u64::MAX, 10);
    let moments = task(&moments());
    let mut core = open_on(&disk, both(1000), 0).unwrap();
    assert_eq!(core.figures(0).history.versions, 20);
    for number in 4..=6 {
        let mut gateway = Gateway::new(number);
        let sum = gateway.sum(&moments);
        assert_eq!(send(&mut core, &gateway, &sum), ACCEPTED);
    }
    core.on_tick(0).unwrap();
    let history = core.figures(0).history;
    assert!(history.bytes <= 1000 && history.dropped_versions >= 20, "{history:?}");
    drop(core);
    let replay = replayed(&disk);
    assert!(replay.sound(), "{}", replay.text());
    assert_eq!(replay.history, history);
}

#[test]
fn a_policy_that_changed_between_versions_is_the_one_that_counts() {
    let disk = PowerCutDisk::new();
    let tomls = [trained(), trained().replace("max_weight = 50", "max_weight = 1"), trained()];
    let task = task(&trained());
    let mut gateways: Vec<_> = (1..=3).map(Gateway::new).collect();
    for (round, toml) in tomls.iter().chain(&tomls).enumerate() {
        let mut core = open_on(&disk, settings(&[toml]), 0).unwrap();
        let newest = core.lineage("digits").unwrap().last().map(|entry| (entry.version, entry.module));
        for gateway in &mut gateways {
            let entry = match newest {
                Some(base) => gateway.step(&task, base),
                None => gateway.sum(&task),
            };
            assert_eq!(send(&mut core, gateway, &entry), ACCEPTED);
        }
        assert_eq!(core.on_tick(round as u64).unwrap().len(), 1);
    }
    let replay = replayed(&disk);
    assert!(replay.sound() && replay.count(|o| *o == Outcome::Reproduced) == 6, "{}", replay.text());
}

const WINDOW: u64 = 4;

/// Thirteen buffered versions: two gateways are in each of them, the third comes when it can, from old bases.
fn learn_buffered(disk: &PowerCutDisk, history_bytes: u64) -> Vec<[u8; 32]> {
    let toml = trained().replace("quorum = 3", "quorum = 2").replace("minimum = 3", "minimum = 1");
    let toml =
        toml.replace("rounds = {", &format!(r#"rounds = {{ mode = "buffered", staleness = {WINDOW},"#));
    let task = task(&toml);
    let open = || open_on(disk, Settings { history_bytes, ..settings(&[&toml]) }, 0).unwrap();
    let mut core = open();
    let mut gateways: Vec<_> = (1..=3).map(Gateway::new).collect();
    for version in 1..=13u64 {
        let lineage = core.lineage("digits").unwrap();
        for gateway in &mut gateways {
            let third = gateway.number == 3;
            let away = third && ![4, 5, 8, 11].contains(&version);
            let back = if third { 3.min(lineage.len()) } else { 1 };
            let entry = match lineage.iter().rev().nth(back.saturating_sub(1)) {
                Some(_) if away => continue,
                Some(base) => gateway.step(&task, (base.version, base.module)),
                None => gateway.sum(&task),
            };
            assert_eq!(send(&mut core, gateway, &entry), ACCEPTED);
        }
        assert_eq!(core.on_tick(version).unwrap().len(), 1);
        if version % 5 == 0 {
            drop(core);
            core = open();
        }
    }
    core.lineage("digits").unwrap().iter().map(|entry| entry.module).collect()
}

#[test]
fn invariant_02_a_buffered_version_comes_out_again_whatever_the_history_keeps() {
    const PARTICIPANTS: TableDefinition<'_, [u8; 40], &[u8]> = TableDefinition::new("participants");
    let disk = PowerCutDisk::new();
    let lineage = learn_buffered(&disk, u64::MAX);
    let whole = replayed(&disk);
    assert!(whole.sound(), "{}", whole.text());
    assert_eq!(whole.count(|outcome| *outcome == Outcome::Reproduced), 13);
    let rows = |disk: &PowerCutDisk| {
        let database = database(disk);
        let table = database.begin_read().unwrap().open_table(PARTICIPANTS).unwrap();
        table.iter().unwrap().map(Result::unwrap).count() as u64
    };
    assert_eq!(rows(&disk), 12, "every version but the one from sums");
    for bound in [whole.history.bytes / 2, whole.history.bytes / 4, 0] {
        let disk = PowerCutDisk::new();
        assert_eq!(learn_buffered(&disk, bound), lineage, "{bound}: what is kept must not show");
        let replay = replayed(&disk);
        assert!(replay.sound(), "{bound}: {}", replay.text());
        let kept = replay.history.versions;
        assert_eq!(replay.count(|outcome| *outcome == Outcome::Reproduced) as u64, kept);
        assert_eq!(
            rows(&disk),
            (kept + WINDOW).min(12),
            "those that the versions kept and the next one look back to"
        );
    }
    let key = |key: [u8; 40]| key.to_vec();
    assert_eq!(flip::<[u8; 40], &[u8]>(&disk, "participants", 1, key, flip_bytes), 48);
}

/// Flips bytes of every `every`-th record of a table, one at a time; each must be found.
fn flip<K: Value + loadonce_store::redb::Key + 'static, V: Value + 'static>(
    disk: &PowerCutDisk,
    name: &str,
    every: usize,
    own: impl for<'a> Fn(K::SelfType<'a>) -> Vec<u8>,
    put: impl Fn(&Database, TableDefinition<'_, K, V>, &[u8], Option<usize>) -> usize,
) -> usize {
    let definition = TableDefinition::<K, V>::new(name);
    let keys: Vec<Vec<u8>> = {
        let database = database(disk);
        let table = database.begin_read().unwrap().open_table(definition).unwrap();
        table.iter().unwrap().step_by(every).map(|row| own(row.unwrap().0.value())).collect()
    };
    let mut flipped = 0;
    for key in &keys {
        let length = put(&database(disk), definition, key, None);
        for at in [0, length / 3, length / 2, length - 1] {
            put(&database(disk), definition, key, Some(at));
            let found = replay(database(disk)).map_or(true, |replay| !replay.sound());
            assert!(found, "byte {at} of {length} in a record of `{name}`");
            put(&database(disk), definition, key, Some(at));
            flipped += 1;
        }
    }
    assert!(replayed(disk).sound(), "every byte is back in its place");
    flipped
}

/// Flips byte `at` of a record with a key of `N` bytes; returns the record's length.
fn flip_bytes<const N: usize>(
    database: &Database,
    table: TableDefinition<'_, [u8; N], &'static [u8]>,
    key: &[u8],
    at: Option<usize>,
) -> usize {
    let key: [u8; N] = key.try_into().unwrap();
    let tx = database.begin_write().unwrap();
    let length = {
        let mut table = tx.open_table(table).unwrap();
        let mut value = table.get(key).unwrap().unwrap().value().to_vec();
        if let Some(at) = at {
            value[at] ^= 0x10;
            table.insert(key, value.as_slice()).unwrap();
        }
        value.len()
    };
    tx.commit().unwrap();
    length
}

#[test]
fn invariant_02_a_flipped_byte_is_found_wherever_a_version_depends_on_it() {
    let disk = PowerCutDisk::new();
    learn(&disk, u64::MAX, 3);
    let key = |key: [u8; 88]| key.to_vec();
    let mut flipped = flip::<[u8; 88], &[u8]>(&disk, "contributions", 5, key, flip_bytes);
    let key = |key: [u8; 40]| key.to_vec();
    flipped += flip::<[u8; 40], &[u8]>(&disk, "versions", 2, key, flip_bytes);
    flipped += flip::<[u8; 40], &[u8]>(&disk, "policies", 1, key, flip_bytes);
    let key = |key: [u8; 32]| key.to_vec();
    flipped += flip::<[u8; 32], &[u8]>(&disk, "modules", 2, key, flip_bytes);
    let patches = flip::<[u8; 32], &[u8]>(&disk, "patches", 1, key, flip_bytes);
    assert!(patches > 0, "the steps of this task travel as patches");
    flipped += flip::<u64, &[u8]>(
        &disk,
        "retained",
        2,
        |key| key.to_be_bytes().to_vec(),
        |database, table, key, at| {
            let key = u64::from_be_bytes(key.try_into().unwrap());
            let tx = database.begin_write().unwrap();
            let length = {
                let mut table = tx.open_table(table).unwrap();
                let mut value = table.get(key).unwrap().unwrap().value().to_vec();
                if let Some(at) = at {
                    value[at] ^= 0x10;
                    table.insert(key, value.as_slice()).unwrap();
                }
                value.len()
            };
            tx.commit().unwrap();
            length
        },
    );
    assert!(flipped >= 60, "{flipped}");
    // Of `moments` the totals are checked too.
    let texture = {
        let core: Aggregator = open_on(&disk, both(u64::MAX), 0).unwrap();
        drop(core);
        let task = task(&moments());
        loadonce_aggregator::lineage_id("texture", &task.backbone, &task.shape_hash)
    };
    let totals = TableDefinition::<[u8; 32], &[u8]>::new("totals");
    flip_bytes(&database(&disk), totals, &texture, Some(40));
    assert!(!replayed(&disk).sound());
}

#[test]
fn what_is_missing_or_moved_is_found() {
    let disk = PowerCutDisk::new();
    learn(&disk, u64::MAX, 3);
    let contributions = TableDefinition::<[u8; 88], &[u8]>::new("contributions");
    let database = database(&disk);
    let tx = database.begin_write().unwrap();
    let moved = {
        let mut table = tx.open_table(contributions).unwrap();
        let (key, value) = {
            let row = table.first().unwrap().unwrap();
            (row.0.value(), row.1.value().to_vec())
        };
        table.remove(key).unwrap();
        (key, value)
    };
    tx.commit().unwrap();
    drop(database);
    let replay = replayed(&disk);
    assert!(!replay.sound() && replay.text().contains("should hold"), "{}", replay.text());

    // Put into the next version instead: both are wrong then.
    let (mut key, value) = moved;
    key[39] += 1;
    let database = self::database(&disk);
    let tx = database.begin_write().unwrap();
    tx.open_table(contributions).unwrap().insert(key, value.as_slice()).unwrap();
    tx.commit().unwrap();
    drop(database);
    assert!(replayed(&disk).problems.len() >= 2);
}

fn verify(arguments: &[&str]) -> (Option<i32>, String) {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_loadonce-aggregator"));
    let out = program.args(arguments).output().unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
}

#[test]
fn the_program_verifies_a_state_folder_and_says_so_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let (state, path) = (dir.path().to_str().unwrap(), dir.path().join("aggregator.redb"));
    let (code, text) = verify(&["--verify-journal", state]);
    assert!(code == Some(1) && text.contains("does not exist"), "{text}");
    assert!(!path.exists(), "nothing is made");
    assert_eq!(verify(&["--verify-journal", state, "--check"]).0, Some(2));
    assert_eq!(verify(&["--json"]).0, Some(2));

    let database = Database::open(&path, 0).unwrap();
    let mut core = Aggregator::open(settings(&[DIGITS]), common::aggregator_key(), database, 0).unwrap();
    let (_, (_, module)) = first_version(&mut core, &task(DIGITS));
    let (code, text) = verify(&["--verify-journal", state]);
    assert!(code == Some(1) && text.contains("verify a copy"), "a running aggregator holds it: {text}");
    drop(core);
    let (code, text) = verify(&["--verify-journal", state]);
    assert!(code == Some(0) && text.contains("digits") && text.contains("1 reproduced"), "{text}");
    let (code, text) = verify(&["--verify-journal", state, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(json["lineages"][0]["versions"][0]["outcome"], "reproduced");
    assert_eq!(json["lineages"][0]["versions"][0]["contributions"].as_array().unwrap().len(), 3);

    let modules = TableDefinition::<[u8; 32], &[u8]>::new("modules");
    flip_bytes(&Database::open(&path, 0).unwrap(), modules, &module, Some(40));
    let (code, text) = verify(&["--verify-journal", state]);
    assert!(code == Some(1) && text.contains("not sound") && text.contains("another hash"), "{text}");
}

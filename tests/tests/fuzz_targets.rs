//! The fuzz targets without a fuzzer: every seed, everything that was once found, and a few thousand seeded
//! mutations. `make fuzz` looks for more.

use std::fs;

use loadonce_tests::fuzz::{Mutator, TARGETS, Target};
use loadonce_tests::programs::root;

/// Mutations of a target in this run; the one that keeps a disk is slower.
fn mutations(target: &Target) -> usize {
    match target.name {
        "aggregator" => 150,
        "input" => 1500,
        _ => 4000,
    }
}

fn try_all(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = (target.seeds)();
    assert!(seeds.len() > 4, "{} seeds", seeds.len());
    for seed in &seeds {
        (target.run)(seed);
    }
    if let Ok(folder) = fs::read_dir(root().join("tests/fuzz/found").join(name)) {
        for entry in folder {
            let path = entry.expect("the folder can be read").path();
            (target.run)(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
    let mut random = Mutator::new(1);
    for number in 0..mutations(target) {
        let (one, other) = (random.pick(&seeds).clone(), random.pick(&seeds).clone());
        let input = random.mutate(&one, &other, target.longest);
        let tried = std::panic::catch_unwind(|| (target.run)(&input));
        if let Err(panic) = tried {
            println!("mutation {number} of target {name}: {input:02x?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn wire() {
    try_all("wire");
}

#[test]
fn blob() {
    try_all("blob");
}

#[test]
fn file() {
    try_all("file");
}

#[test]
fn control() {
    try_all("control");
}

#[test]
fn input() {
    try_all("input");
}

#[test]
fn bundle() {
    try_all("bundle");
}

#[test]
fn aggregator() {
    try_all("aggregator");
}

#[test]
fn enrol() {
    try_all("enrol");
}

use super::*;
use crate::crash::PowerCutFiles;

const DIR: &str = "/task";

fn set(version: u8) -> [(&'static str, Vec<u8>); 3] {
    [
        ("shared.safetensors", vec![version; 3_000 + usize::from(version)]),
        ("personal.safetensors", vec![version ^ 0xff; 700]),
        ("slot.json", format!("{{\"version\":{version}}}").into_bytes()),
    ]
}

fn commit<F: Files>(slots: &mut Slots<F>, version: u8) -> Result<u64, SlotError> {
    let files = set(version);
    slots.commit(&files.each_ref().map(|(name, content)| (*name, content.as_slice())))
}

fn version(slot: &Slot) -> u8 {
    let version = slot.files["shared.safetensors"][0];
    let expected: BTreeMap<_, _> = set(version).into_iter().map(|(name, c)| (name.to_owned(), c)).collect();
    assert_eq!(slot.files, expected, "a mixture of versions");
    version
}

fn on(files: &PowerCutFiles) -> Slots<PowerCutFiles> {
    Slots::open_on(files.clone(), Path::new(DIR)).unwrap()
}

#[test]
fn commit_load_and_rollback_on_the_real_disk() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("scratches");
    let mut slots = Slots::open(&dir).unwrap();
    assert_eq!(slots.load().unwrap(), None);
    assert!(matches!(slots.rollback(), Err(SlotError::NothingToRollBackTo)));
    assert_eq!(commit(&mut slots, 1).unwrap(), 1);
    assert!(matches!(slots.rollback(), Err(SlotError::NothingToRollBackTo)));
    assert_eq!(commit(&mut slots, 2).unwrap(), 2);
    let mut slots = Slots::open(&dir).unwrap();
    let slot = slots.load().unwrap().unwrap();
    assert_eq!((version(&slot), slot.name, slot.generation), (2, 'B', 2));
    assert_eq!(version(&slots.rollback().unwrap()), 1);
    assert_eq!(version(&slots.load().unwrap().unwrap()), 1);
    // The version that was left can never come back.
    assert!(matches!(slots.rollback(), Err(SlotError::NothingToRollBackTo)));
    assert_eq!(commit(&mut slots, 3).unwrap(), 2);
    assert_eq!(version(&slots.load().unwrap().unwrap()), 3);
    // A smaller set leaves nothing of the larger one behind.
    slots.commit(&[("slot.json", b"{}")]).unwrap();
    let slot = slots.load().unwrap().unwrap();
    assert_eq!(slot.files, BTreeMap::from([("slot.json".to_owned(), b"{}".to_vec())]));
    let mut names = Disk.list(&dir.join(slot.name.to_string())).unwrap();
    names.sort();
    assert_eq!(names, ["checksums", "slot.json"]);
    assert_eq!(slots.quarantined(), 0);
}

#[test]
fn invariant_03_names_and_sizes_are_bounded() {
    let files = PowerCutFiles::new();
    let mut slots = on(&files);
    let long = "x".repeat(65);
    for name in ["../key", "", ".hidden", "checksums", "a/b", &long] {
        assert!(matches!(slots.commit(&[(name, b"x")]), Err(SlotError::Name(_))), "{name}");
    }
    assert!(matches!(slots.commit(&[("a", b"x"), ("a", b"y")]), Err(SlotError::Name(_))));
    let huge = vec![0; MAX_SLOT_FILE_BYTES as usize + 1];
    assert!(matches!(slots.commit(&[("a", &huge)]), Err(SlotError::TooLarge(_))));
    let names: Vec<_> = (0..=MAX_SLOT_FILES).map(|n| format!("f{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
    assert!(matches!(slots.commit(&many), Err(SlotError::TooLarge(_))));
    slots.commit(&many[1..]).unwrap();
    assert_eq!(slots.load().unwrap().unwrap().files.len(), MAX_SLOT_FILES);
}

/// Cuts the power at every operation of `change` and after it; `Err` says what was wrong with what was found.
fn power_cuts(
    versions: u8,
    forget_syncs: bool,
    change: impl Fn(&mut Slots<PowerCutFiles>) -> Result<(), SlotError>,
    old: Option<u8>,
    new: Option<u8>,
) -> Result<u64, String> {
    let prepared = || {
        let files = PowerCutFiles::new();
        let mut slots = on(&files);
        for version in 1..=versions {
            commit(&mut slots, version).unwrap();
        }
        // The state every run starts from is durable.
        files.power_cycle(0)
    };
    let whole = prepared();
    let mut slots = on(&whole);
    let before = whole.operations();
    change(&mut slots).unwrap();
    let operations = whole.operations() - before;
    for cut in 1..=operations + 1 {
        for seed in 0..40 {
            let files = prepared();
            let mut slots = on(&files);
            if forget_syncs {
                files.forget_syncs();
            }
            files.cut_power_at(before + cut);
            let done = change(&mut slots).is_ok();
            assert_eq!(done, cut > operations);
            let found = files.power_cycle(seed);
            let mut slots = on(&found);
            let at = format!("operation {cut} of {operations}, seed {seed}");
            let loaded = slots.load().map_err(|error| format!("{at}: {error}"))?;
            let loaded = loaded.map(|slot| version(&slot));
            if loaded != new && (done || loaded != old) {
                return Err(format!("{at}: found {loaded:?}"));
            }
            // A power cut must never look like a rotten disk.
            if slots.quarantined() > 0 {
                return Err(format!("{at}: quarantined"));
            }
            // And life goes on.
            commit(&mut slots, 9).map_err(|error| format!("{at}: {error}"))?;
            if slots.load().unwrap().map(|slot| version(&slot)) != Some(9) {
                return Err(format!("{at}: the next commit did not hold"));
            }
        }
    }
    Ok(operations)
}

fn commit_next(version: u8) -> impl Fn(&mut Slots<PowerCutFiles>) -> Result<(), SlotError> {
    move |slots| commit(slots, version).map(|_| ())
}

#[test]
fn invariant_06_power_cut_at_any_write_leaves_old_or_new() {
    for installed in 0..=3 {
        let old = (installed > 0).then_some(installed);
        let next = installed + 1;
        let operations = power_cuts(installed, false, commit_next(next), old, Some(next)).unwrap();
        assert!(operations >= 14, "{operations} operations");
    }
}

#[test]
fn invariant_06_the_test_notices_a_missing_fsync() {
    for installed in 0..=2 {
        let old = (installed > 0).then_some(installed);
        let next = installed + 1;
        let noticed = power_cuts(installed, true, commit_next(next), old, Some(next));
        assert!(noticed.is_err(), "with {installed} installed");
    }
}

#[test]
fn invariant_07_power_cut_at_any_write_of_a_rollback() {
    let back = |slots: &mut Slots<PowerCutFiles>| slots.rollback().map(|_| ());
    power_cuts(2, false, back, Some(2), Some(1)).unwrap();
}

#[test]
fn invariant_09_a_rotten_slot_is_set_aside_and_the_other_serves() {
    for file in ["A/shared.safetensors", "A/slot.json", "A/checksums"] {
        let files = PowerCutFiles::new();
        let mut slots = on(&files);
        for version in 1..=3 {
            commit(&mut slots, version).unwrap();
        }
        files.rot(&Path::new(DIR).join(file)).unwrap();
        let mut slots = on(&files);
        assert_eq!(version(&slots.load().unwrap().unwrap()), 2, "{file}");
        assert_eq!(slots.quarantined(), 1);
        // Once only, also after a restart.
        let mut slots = on(&files.power_cycle(0));
        assert_eq!(version(&slots.load().unwrap().unwrap()), 2);
        assert_eq!(slots.quarantined(), 0);
        assert_eq!(files.list(&Path::new(DIR).join(CORRUPT)).unwrap().len(), 4);
        commit(&mut slots, 4).unwrap();
        assert_eq!(version(&slots.load().unwrap().unwrap()), 4);
    }
}

#[test]
fn a_rotten_pointer_falls_back_to_the_latest_whole_slot() {
    let files = PowerCutFiles::new();
    let mut slots = on(&files);
    commit(&mut slots, 1).unwrap();
    commit(&mut slots, 2).unwrap();
    files.rot(&Path::new(DIR).join(ACTIVE)).unwrap();
    // A commit right after must not overwrite what serves.
    let mut slots = on(&files);
    commit(&mut slots, 3).unwrap();
    assert_eq!(slots.quarantined(), 1);
    assert_eq!(version(&slots.load().unwrap().unwrap()), 3);
    assert_eq!(version(&slots.rollback().unwrap()), 2);
}

#[test]
fn both_slots_rotten_is_an_empty_start_and_not_an_error() {
    let files = PowerCutFiles::new();
    let mut slots = on(&files);
    commit(&mut slots, 1).unwrap();
    files.rot(Path::new("/task/A/slot.json")).unwrap();
    assert_eq!(slots.load().unwrap(), None);
    commit(&mut slots, 2).unwrap();
    assert_eq!(version(&slots.load().unwrap().unwrap()), 2);
}

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;
use crate::crash::PowerCutDisk;

fn memory() -> Database {
    Database::open_with(PowerCutDisk::new(), 0).unwrap()
}

fn outbox(database: &Database) -> Outbox {
    Outbox::open(database, OutboxBounds::default(), 77).unwrap()
}

fn manifest(epoch: u64, sequence: u64) -> Vec<u8> {
    format!("manifest of {epoch}/{sequence}").into_bytes()
}

fn put(outbox: &Outbox, database: &Database, kind: Kind, blob: &[u8]) -> Result<Place, OutboxError> {
    let tx = database.begin_write()?;
    let place = outbox.enqueue_in(&tx, Draft { kind, task: "scratches", blob }, manifest)?;
    tx.commit()?;
    Ok(place)
}

fn sequences(outbox: &Outbox, database: &Database) -> Vec<u64> {
    outbox.pending(database).map(|head| head.unwrap().place.sequence).collect()
}

fn hash(blob: &[u8]) -> [u8; 32] {
    *blake3::hash(blob).as_bytes()
}

#[test]
fn invariant_01_outbox_entry_dies_only_on_application_ack() {
    let database = memory();
    let outbox = outbox(&database);
    let place = put(&outbox, &database, Kind::Sum, b"sums").unwrap();
    assert_eq!(place, Place { epoch: 77, sequence: 1 });
    let near_misses = [
        (Place { epoch: 78, ..place }, hash(b"sums")),
        (Place { sequence: 2, ..place }, hash(b"sums")),
        (place, hash(b"other sums")),
    ];
    for (place, hash) in near_misses {
        assert!(!outbox.acknowledge(&database, place, &hash).unwrap());
    }
    let entry = outbox.entry(&database, 1).unwrap().unwrap();
    assert_eq!(entry.blob, b"sums");
    assert_eq!(entry.head.manifest, manifest(77, 1));
    assert_eq!((entry.head.kind, entry.head.task.as_str()), (Kind::Sum, "scratches"));
    assert!(outbox.acknowledge(&database, place, &hash(b"sums")).unwrap());
    assert!(!outbox.acknowledge(&database, place, &hash(b"sums")).unwrap(), "a repeated ack");
    assert_eq!(outbox.entry(&database, 1).unwrap(), None);
    assert_eq!(put(&outbox, &database, Kind::Sum, b"sums").unwrap().sequence, 2);
    let counters = outbox.counters(&database).unwrap();
    assert_eq!((counters.pending, counters.enqueued, counters.acknowledged), (1, 2, 1));
}

#[test]
fn an_aborted_transaction_leaves_nothing() {
    let database = memory();
    let outbox = outbox(&database);
    let tx = database.begin_write().unwrap();
    let draft = Draft { kind: Kind::Sum, task: "t", blob: b"x" };
    assert_eq!(outbox.enqueue_in(&tx, draft, manifest).unwrap().sequence, 1);
    assert_eq!(outbox.enqueue_in(&tx, draft, manifest).unwrap().sequence, 2);
    tx.abort().unwrap();
    assert_eq!(outbox.counters(&database).unwrap(), Counters::default());
    assert_eq!(put(&outbox, &database, Kind::Sum, b"y").unwrap().sequence, 1);
}

#[test]
fn the_epoch_is_made_once() {
    let database = memory();
    assert_eq!(outbox(&database).epoch(&database).unwrap(), 77);
    let again = Outbox::open(&database, OutboxBounds::default(), 1234).unwrap();
    assert_eq!(again.epoch(&database).unwrap(), 77);
}

#[test]
fn invariant_03_a_full_outbox_drops_steps_and_refuses_sums() {
    let database = memory();
    let bounds = OutboxBounds { max_bytes: 10_000, max_entries: 5 };
    let outbox = Outbox::open(&database, bounds, 1).unwrap();
    for kind in [Kind::Sum, Kind::Step, Kind::Sum, Kind::Step, Kind::Step] {
        put(&outbox, &database, kind, b"small").unwrap();
    }
    // By number: the oldest step goes, for a sum and for a step alike.
    put(&outbox, &database, Kind::Sum, b"small").unwrap();
    put(&outbox, &database, Kind::Step, b"small").unwrap();
    assert_eq!(sequences(&outbox, &database), [1, 3, 5, 6, 7]);
    // By bytes: as many as it takes, oldest first.
    put(&outbox, &database, Kind::Sum, &[7; 9_000]).unwrap();
    assert_eq!(sequences(&outbox, &database), [1, 3, 6, 7, 8]);
    // Where dropping all steps would not help, none is dropped.
    let full = put(&outbox, &database, Kind::Sum, &[7; 9_000]).unwrap_err();
    assert!(matches!(full, OutboxError::Full { pending: 5, .. }), "{full}");
    assert_eq!(sequences(&outbox, &database), [1, 3, 6, 7, 8]);
    let too_large = put(&outbox, &database, Kind::Sum, &[0; 10_000]).unwrap_err();
    assert!(matches!(too_large, OutboxError::TooLarge { max_bytes: 10_000, .. }), "{too_large}");
    let counters = outbox.counters(&database).unwrap();
    assert_eq!((counters.dropped_steps, counters.refused_full), (3, 1));
    // A refusal is written down with the next commit that is the outbox's own.
    let small = hash(b"small");
    assert!(outbox.acknowledge(&database, Place { epoch: 1, sequence: 1 }, &small).unwrap());
    let reopened = Outbox::open(&database, bounds, 1).unwrap().counters(&database).unwrap();
    assert_eq!((reopened.refused_full, reopened.pending), (1, 4));
    for sequence in [3, 6, 7] {
        assert!(outbox.acknowledge(&database, Place { epoch: 1, sequence }, &small).unwrap());
    }
    assert!(outbox.acknowledge(&database, Place { epoch: 1, sequence: 8 }, &hash(&[7; 9_000])).unwrap());
    assert_eq!(outbox.counters(&database).unwrap().pending_bytes, 0);
}

#[test]
fn a_sequence_conflict_moves_one_entry_to_a_new_epoch() {
    let database = memory();
    let outbox = outbox(&database);
    let first = put(&outbox, &database, Kind::Sum, b"one").unwrap();
    let second = put(&outbox, &database, Kind::Sum, b"two").unwrap();
    let rebuild = |entry: &Entry, epoch, sequence| {
        assert_eq!(entry.blob, b"one");
        manifest(epoch, sequence)
    };
    let other =
        outbox.requeue_under_new_epoch(&database, first, &hash(b"x"), 9, |_, _, _| Vec::new()).unwrap();
    assert_eq!(other, None, "the conflict named another blob");
    let moved =
        outbox.requeue_under_new_epoch(&database, first, &hash(b"one"), 99, rebuild).unwrap().unwrap();
    assert_eq!(moved, Place { epoch: 99, sequence: 3 });
    let entry = outbox.entry(&database, 3).unwrap().unwrap();
    assert_eq!((entry.head.manifest, entry.blob), (manifest(99, 3), b"one".to_vec()));
    // The other one keeps its identity: it may have been applied, with the ack on its way.
    assert!(outbox.acknowledge(&database, second, &hash(b"two")).unwrap());
    // An old ack does not reach the entry under its new identity.
    assert!(!outbox.acknowledge(&database, first, &hash(b"one")).unwrap());
    assert_eq!(put(&outbox, &database, Kind::Sum, b"x").unwrap(), Place { epoch: 99, sequence: 4 });
    let counters = outbox.counters(&database).unwrap();
    assert_eq!((counters.requeued, counters.pending), (1, 2));
}

#[test]
fn a_second_conflict_of_the_old_epoch_opens_no_third() {
    let database = memory();
    let outbox = outbox(&database);
    let first = put(&outbox, &database, Kind::Sum, b"one").unwrap();
    let second = put(&outbox, &database, Kind::Sum, b"two").unwrap();
    let build = |_: &Entry, epoch, sequence| manifest(epoch, sequence);
    outbox.requeue_under_new_epoch(&database, first, &hash(b"one"), 99, build).unwrap();
    let moved = outbox.requeue_under_new_epoch(&database, second, &hash(b"two"), 100, build).unwrap();
    assert_eq!(moved, Some(Place { epoch: 99, sequence: 4 }));
}

#[test]
fn invariant_09_a_corrupt_entry_is_set_aside_and_counted() {
    let database = memory();
    let outbox = outbox(&database);
    for blob in [b"a", b"b", b"c", b"d", b"e", b"f"] {
        put(&outbox, &database, Kind::Sum, blob).unwrap();
    }
    let tx = database.begin_write().unwrap();
    {
        let (mut heads, mut blobs) = (tx.open_table(HEADS).unwrap(), tx.open_table(BLOBS).unwrap());
        heads.insert(1, b"nonsense".as_slice()).unwrap();
        heads.insert(3, b"".as_slice()).unwrap();
        blobs.insert(2, b"rotten".as_slice()).unwrap();
        blobs.remove(5).unwrap();
    }
    tx.commit().unwrap();
    // Twice: what was set aside does not come back.
    for _ in 0..2 {
        let read: Vec<_> = outbox
            .pending(&database)
            .map(|head| head.unwrap().place.sequence)
            .filter(|sequence| outbox.entry(&database, *sequence).unwrap().is_some())
            .collect();
        assert_eq!(read, [4, 6]);
    }
    let counters = outbox.counters(&database).unwrap();
    assert_eq!((counters.quarantined, counters.pending), (4, 2));
    let kept = database.begin_read().unwrap().open_table(QUARANTINE).unwrap();
    assert_eq!(redb::ReadableTableMetadata::len(&kept).unwrap(), 3);
    for (sequence, blob) in [(4, b"d"), (6, b"f")] {
        assert!(outbox.acknowledge(&database, Place { epoch: 77, sequence }, &hash(blob)).unwrap());
    }
}

/// What a gateway and its aggregator know for certain, whatever happens to the disk.
#[derive(Default)]
struct Witness {
    /// Seen committed by a reader, so it may have been sent: sequence to blob and manifest.
    committed: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    /// Deleted, and the deletion reported durable.
    acknowledged: Vec<u64>,
    /// An enqueue or acknowledge that had begun when the power went.
    begun: Cell<Option<u64>>,
}

const BLOBS_SENT: [usize; 5] = [10, 9_000, 700, 0, 5_000];

fn blob(index: usize, life: u8) -> Vec<u8> {
    vec![index as u8 ^ life.wrapping_mul(31); BLOBS_SENT[index]]
}

/// Enqueues five entries and acknowledges two of them, until the power goes.
fn work(disk: &PowerCutDisk, witness: &mut Witness, life: u8) -> Result<(), OutboxError> {
    let database = Database::open_with(disk.clone(), 0)?;
    let outbox = Outbox::open(&database, OutboxBounds::default(), 77)?;
    for index in 0..BLOBS_SENT.len() {
        let blob = blob(index, life);
        let tx = database.begin_write()?;
        let draft = Draft { kind: Kind::Sum, task: "scratches", blob: &blob };
        let place = outbox.enqueue_in(&tx, draft, manifest)?;
        tx.commit()?;
        let known =
            witness.committed.insert(place.sequence, (blob.clone(), manifest(place.epoch, place.sequence)));
        assert!(known.is_none(), "sequence {} was handed out again", place.sequence);
        if index % 2 == 1 {
            witness.begun.set(Some(place.sequence));
            assert!(outbox.acknowledge(&database, place, &hash(&blob))?);
            witness.begun.set(None);
            witness.acknowledged.push(place.sequence);
        }
    }
    Ok(())
}

fn check(database: &Database, witness: &Witness, at: &str) {
    let outbox = Outbox::open(database, OutboxBounds::default(), 4321).unwrap();
    let pending = sequences(&outbox, database);
    for (sequence, (blob, manifest)) in &witness.committed {
        let entry = outbox.entry(database, *sequence).unwrap();
        if witness.acknowledged.contains(sequence) {
            assert_eq!(entry, None, "{at}: {sequence} came back after its ack");
        } else if let Some(entry) = entry {
            assert_eq!((&entry.blob, &entry.head.manifest), (blob, manifest), "{at}: {sequence}");
        } else {
            assert_eq!(witness.begun.get(), Some(*sequence), "{at}: {sequence} is lost");
        }
    }
    // At most the one entry whose commit never returned, whole, and never sent.
    let unknown: Vec<_> =
        pending.iter().filter(|sequence| !witness.committed.contains_key(sequence)).collect();
    assert!(unknown.len() <= 1, "{at}: {unknown:?}");
    for sequence in unknown {
        assert!(outbox.entry(database, *sequence).unwrap().is_some(), "{at}: {sequence} is half there");
    }
    let counters = outbox.counters(database).unwrap();
    let bytes: u64 = pending
        .iter()
        .map(|sequence| {
            let tx = database.begin_read().unwrap();
            let head = tx.open_table(HEADS).unwrap().get(sequence).unwrap().unwrap().value().len();
            (head + tx.open_table(BLOBS).unwrap().get(sequence).unwrap().unwrap().value().len()) as u64
        })
        .sum();
    assert_eq!((counters.pending, counters.pending_bytes), (pending.len() as u64, bytes), "{at}");
    assert_eq!(counters.quarantined, 0, "{at}");
}

const SEEDS: u64 = 5;

/// Cuts the power at every operation and panics if what is found then breaks a promise.
fn power_cuts(forget_syncs: bool) {
    let base = PowerCutDisk::with_database().unwrap();
    let whole = base.power_cycle(0);
    work(&whole, &mut Witness::default(), 1).unwrap();
    let operations = whole.operations();
    assert!(operations > 50, "{operations}");
    let mut interrupted = 0;
    for cut in 1..=operations {
        for seed in 0..SEEDS {
            let at = format!("operation {cut} of {operations}, seed {seed}");
            let disk = base.power_cycle(0);
            disk.cut_power_at(cut);
            if forget_syncs {
                disk.forget_syncs();
            }
            let mut witness = Witness::default();
            interrupted += u32::from(work(&disk, &mut witness, 1).is_err());
            let found = disk.power_cycle(seed);
            {
                let database = Database::open_with(found.clone(), 0).expect(&at);
                check(&database, &witness, &at);
                // What had begun is settled now, one way or the other.
                let outbox = Outbox::open(&database, OutboxBounds::default(), 0).unwrap();
                if let Some(sequence) = witness.begun.take()
                    && outbox.entry(&database, sequence).unwrap().is_none()
                {
                    witness.acknowledged.push(sequence);
                }
                for head in outbox.pending(&database) {
                    let entry = outbox.entry(&database, head.unwrap().place.sequence).unwrap().unwrap();
                    witness.committed.insert(entry.head.place.sequence, (entry.blob, entry.head.manifest));
                }
            }
            // A second life on what was found: no sequence that may have been sent comes again.
            work(&found, &mut witness, 2).expect(&at);
            check(&Database::open_with(found, 0).expect(&at), &witness, &at);
        }
    }
    // All but those of the engine's own closing writes, of which nobody is told.
    assert!(u64::from(interrupted) > operations * SEEDS * 3 / 4, "{interrupted} cuts were noticed");
}

#[test]
fn invariant_01_power_cut_at_any_write_loses_no_entry_and_repeats_no_sequence() {
    power_cuts(false);
}

#[test]
fn invariant_01_the_test_notices_a_missing_sync() {
    assert!(std::panic::catch_unwind(|| power_cuts(true)).is_err());
}

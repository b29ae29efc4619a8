use loadonce_store::crash::PowerCutDisk;
use proptest::prelude::*;

use super::window::{MAX_EPOCHS, WINDOW};
use super::*;

fn journal() -> Journal {
    Journal::open(Database::open_with(PowerCutDisk::new(), 1024 * 1024).unwrap()).unwrap()
}

fn intake(epoch: u64, sequence: u64, hash: u8) -> Intake {
    Intake {
        lineage: [1; 32],
        version: 1,
        id: ContributionId { key: [2; 32], epoch, sequence, blob_hash: [hash; 32] },
        gateway: "g".into(),
        record: GatewayRecord::default(),
        sum: None,
        keep: None,
    }
}

#[test]
#[cfg(not(feature = "fault-no-dedup"))]
fn the_window_is_bounded_and_never_forgets_what_was_applied() {
    let journal = journal();
    let tx = journal.database.begin_write().unwrap();
    for sequence in 1..=WINDOW + 10 {
        mark_seen(&tx, &intake(7, sequence, 3).id).unwrap();
    }
    tx.commit().unwrap();
    let seen = |sequence, hash| journal.seen(&intake(7, sequence, hash).id).unwrap();
    for sequence in [1, 10, 11, WINDOW + 10] {
        assert_eq!(seen(sequence, 3), Seen::Before, "{sequence}");
    }
    assert_eq!(seen(WINDOW + 11, 3), Seen::New);
    assert_eq!(seen(WINDOW + 10, 4), Seen::OtherHash);
    assert_eq!(journal.seen(&intake(8, 1, 3).id).unwrap(), Seen::New);
    let rows = journal.database.begin_read().unwrap().open_table(SEEN).unwrap();
    assert_eq!(rows.range::<[u8; 48]>(..).unwrap().count() as u64, WINDOW);
}

#[test]
#[cfg(not(feature = "fault-no-dedup"))]
fn epochs_are_bounded() {
    let mut journal = journal();
    for epoch in 0..MAX_EPOCHS as u64 {
        journal.accept(&intake(epoch, 1, 3)).unwrap().unwrap();
    }
    // Alike before and after the commit.
    assert_eq!(journal.seen(&intake(0, 1, 3).id).unwrap(), Seen::Before);
    assert_eq!(journal.seen(&intake(MAX_EPOCHS as u64, 1, 3).id).unwrap(), Seen::TooManyEpochs);
    journal.commit().unwrap();
    assert_eq!(journal.seen(&intake(0, 2, 3).id).unwrap(), Seen::New);
    assert_eq!(journal.seen(&intake(MAX_EPOCHS as u64, 1, 3).id).unwrap(), Seen::TooManyEpochs);
}

#[test]
fn a_sum_that_does_not_fit_changes_nothing() {
    let mut journal = journal();
    let sum = |outputs| Some(Sums::zero(1, 2, outputs).unwrap());
    journal.accept(&Intake { sum: sum(2), ..intake(1, 1, 1) }).unwrap().unwrap();
    assert!(journal.accept(&Intake { sum: sum(3), ..intake(1, 2, 1) }).unwrap().is_err());
    assert_eq!(journal.totals(&[1; 32]).unwrap(), None, "nothing is durable before the commit");
    journal.commit().unwrap();
    assert_eq!(journal.totals(&[1; 32]).unwrap(), sum(2));
    let rows = journal.database.begin_read().unwrap().open_table(SEEN).unwrap();
    assert_eq!(rows.range::<[u8; 48]>(..).unwrap().count(), 1);
}

#[test]
fn a_database_of_another_format_is_refused() {
    let disk = PowerCutDisk::new();
    let database = Database::open_with(disk.clone(), 1024 * 1024).unwrap();
    let tx = database.begin_write().unwrap();
    tx.open_table(META).unwrap().insert("format", 1).unwrap();
    tx.commit().unwrap();
    assert!(matches!(Journal::open(database), Err(JournalError::Format(1))));
}

proptest! {
    #[test]
    fn pending_survives_a_round_trip(blob in proptest::collection::vec(any::<u8>(), 0..100)) {
        let manifest = Manifest {
            kind: loadonce_wire::ContributionKind::Step,
            codec: 1,
            key: [1; 32],
            epoch: 2,
            sequence: 3,
            task: loadonce_wire::Name::new("digits").unwrap(),
            backbone: [4; 32],
            shape: [5; 32],
            base_version: 6,
            base_hash: [7; 32],
            weight: 8,
            heldout_samples: 9,
            heldout_before: 1.0,
            heldout_after: 0.5,
            raw_bytes: 10,
            blob_bytes: 11,
            blob_hash: [12; 32],
            signature: [13; 64],
        };
        let mut encoded = [0; loadonce_wire::manifest::MAX_MANIFEST];
        let n = manifest.encode(&mut encoded).unwrap();
        let bytes = Pending::encode(&encoded[..n], &blob);
        let pending = Pending::decode(&bytes).unwrap();
        prop_assert_eq!(pending.manifest, manifest);
        prop_assert_eq!(pending.encoded, &encoded[..n]);
        prop_assert_eq!(pending.blob, blob);
    }

    #[test]
    fn arbitrary_pending_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = Pending::decode(&bytes);
    }
}

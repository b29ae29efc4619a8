use super::*;
use crate::journal::Journal;
use loadonce_store::Database;
use loadonce_store::crash::PowerCutDisk;
use proptest::prelude::*;

proptest! {
    #[test]
    fn rows_survive_a_round_trip(lineage: [u8; 32], version: u64, rows: u64, bytes: u64) {
        let row = Row { lineage, version, rows, bytes };
        prop_assert_eq!(Row::decode(&row.encode()), Some(row));
        prop_assert_eq!(Row::decode(&row.encode()[1..]), None);
    }

    #[test]
    fn arbitrary_policies_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Policy::task(&bytes).is_err());
    }
}

#[test]
fn a_policy_gives_its_task_back_and_no_other() {
    let manifest = TaskManifest::from_toml(
        r#"
        name = "digits"
        kind = "classify"
        backbone = "sense-tiny"
        classes = ["a", "b"]
        input = { modality = "picture" }
        module = { kind = "ladder", rank = 2, features = 4 }
        "#,
    )
    .unwrap();
    let task = Task::new(manifest, [3; 32], 2, 128).unwrap();
    let encoded = Policy::encode(&task);
    let back = Policy::task(&encoded).unwrap();
    assert_eq!((back.manifest, back.shape_hash, back.backbone), (task.manifest, task.shape_hash, [3; 32]));
    for at in 0..encoded.len() {
        let mut damaged = encoded.clone();
        damaged[at] ^= 1;
        assert!(Policy::task(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn an_empty_journal_has_no_history() {
    let database = Database::open_with(PowerCutDisk::new(), 1024 * 1024).unwrap();
    assert_eq!(Journal::open(database).unwrap().history().unwrap(), History::default());
}

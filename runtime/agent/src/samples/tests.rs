use super::*;
use crate::record::Scale;
use loadonce_store::redb::{Database, backends::InMemoryBackend};

const A: Tag = [1; 8];
const B: Tag = [2; 8];

fn record(id: &str, label: Option<u16>) -> Record {
    Record {
        id: id.into(),
        features_of: A,
        heldout: false,
        label,
        marks: Vec::new(),
        features: vec![1, -2, 3],
        scale: None,
        values: Vec::new(),
    }
}

fn unwatched(_: &RecordRef<'_>, _: i64) {}

fn open() -> Database {
    let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
    let tx = db.begin_write().unwrap();
    create(&tx).unwrap();
    tx.commit().unwrap();
    db
}

fn write(db: &Database, how: impl FnOnce(&WriteTransaction)) {
    let tx = db.begin_write().unwrap();
    how(&tx);
    tx.commit().unwrap();
}

fn all(db: &Database, task: &str) -> Vec<Record> {
    use loadonce_store::redb::ReadableDatabase;
    let mut out = Vec::new();
    visit(&db.begin_read().unwrap(), task, |_, r| out.push(r.to_owned())).unwrap();
    out
}

fn summed(record: &Record, shape: Tag) -> Option<u16> {
    RecordRef::decode(&record.encode()).unwrap().summed(shape)
}

#[test]
fn the_oldest_go_first_and_tasks_are_apart() {
    let db = open();
    write(&db, |tx| {
        for i in 0..5 {
            put(tx, "a", &record(&format!("s{i}"), None), (3, 0), &mut unwatched).unwrap();
        }
        put(tx, "b", &record("s0", Some(1)), (3, 0), &mut unwatched).unwrap();
        assert_eq!(label(tx, "a", "s0", &Given::Class(1), &mut unwatched).unwrap(), Labelled::Unknown);
        assert_eq!(label(tx, "a", "s4", &Given::Class(7), &mut unwatched).unwrap(), Labelled::Kept);
    });
    let ids: Vec<_> = all(&db, "a").into_iter().map(|r| (r.id, r.label)).collect();
    assert_eq!(ids, [("s2".into(), None), ("s3".into(), None), ("s4".into(), Some(7))]);
    assert_eq!(all(&db, "b"), [record("s0", Some(1))]);
}

#[test]
fn a_sample_sent_again_keeps_what_was_summed_and_gives_up_what_was_not() {
    let db = open();
    let anew = Record { features: vec![9, 9, 9], ..record("s", Some(2)) };
    write(&db, |tx| {
        put(tx, "a", &record("s", Some(1)), (9, 0), &mut unwatched).unwrap();
        put(tx, "a", &anew, (9, 0), &mut unwatched).unwrap();
    });
    assert_eq!(all(&db, "a"), std::slice::from_ref(&anew));
    write(&db, |tx| {
        mark(tx, "a", 0, (A, Some(2), 1)).unwrap();
        put(tx, "a", &record("s", Some(3)), (9, 0), &mut unwatched).unwrap();
    });
    let again = &all(&db, "a")[0];
    assert_eq!((again.label, summed(again, A), &again.features), (Some(3), Some(2), &anew.features));
}

#[test]
fn a_sample_sent_again_on_another_backbone_is_learned_from_anew_and_summed_once_on_each() {
    let db = open();
    let anew = Record { features_of: B, features: vec![9, 9, 9], ..record("s", None) };
    write(&db, |tx| {
        put(tx, "a", &record("s", Some(1)), (9, 0), &mut unwatched).unwrap();
        mark(tx, "a", 0, (A, Some(1), 1)).unwrap();
        put(tx, "a", &anew, (9, 0), &mut unwatched).unwrap();
    });
    let there = &all(&db, "a")[0];
    assert_eq!((there.features_of, there.label, &there.features), (B, Some(1), &anew.features));
    assert_eq!((summed(there, A), summed(there, B)), (Some(1), None));
    write(&db, |tx| {
        mark(tx, "a", 0, (B, Some(1), 2)).unwrap();
        put(tx, "a", &record("s", Some(2)), (9, 0), &mut unwatched).unwrap();
    });
    let back = &all(&db, "a")[0];
    assert_eq!((back.features_of, back.label, &back.features), (A, Some(2), &record("s", None).features));
    assert_eq!((summed(back, A), summed(back, B)), (Some(1), Some(1)));
}

#[test]
fn invariant_02_a_sample_is_summed_once_per_shape_however_the_manifest_changes() {
    let db = open();
    write(&db, |tx| {
        put(tx, "a", &record("s", Some(1)), (9, 0), &mut unwatched).unwrap();
        mark(tx, "a", 0, (A, Some(1), 1)).unwrap();
        mark(tx, "a", 0, (B, Some(1), 2)).unwrap();
    });
    let record = &all(&db, "a")[0];
    assert_eq!((summed(record, A), summed(record, B), summed(record, [3; 8])), (Some(1), Some(1), None));
}

#[test]
fn a_refused_sum_leaves_its_samples_as_they_were_before() {
    let db = open();
    write(&db, |tx| {
        put(tx, "a", &record("s", Some(1)), (9, 0), &mut unwatched).unwrap();
        put(tx, "a", &record("t", Some(1)), (9, 0), &mut unwatched).unwrap();
        mark(tx, "a", 0, (A, Some(1), 1)).unwrap();
        mark(tx, "a", 0, (A, Some(2), 7)).unwrap();
        mark(tx, "a", 1, (A, Some(1), 7)).unwrap();
        assert_eq!(unmark(tx, "a", 7).unwrap(), 2);
        assert_eq!(unmark(tx, "a", 7).unwrap(), 0);
    });
    let marks: Vec<_> = all(&db, "a").iter().map(|r| summed(r, A)).collect();
    assert_eq!(marks, [Some(1), None]);
}

#[test]
fn the_first_samples_without_a_label_count_as_normal() {
    let db = open();
    write(&db, |tx| {
        for (i, label) in [None, Some(1), None, None].into_iter().enumerate() {
            put(tx, "a", &record(&format!("s{i}"), label), (2, 3), &mut unwatched).unwrap();
        }
        // What is dropped still counts: the fourth is not among the first three.
        put(tx, "a", &record("s4", None), (2, 3), &mut unwatched).unwrap();
    });
    let labels: Vec<_> = all(&db, "a").into_iter().map(|r| (r.id, r.label)).collect();
    assert_eq!(labels, [("s3".into(), None), ("s4".into(), None)]);
    let db = open();
    write(&db, |tx| {
        put(tx, "a", &record("s0", None), (9, 3), &mut unwatched).unwrap();
        put(tx, "a", &record("s1", Some(1)), (9, 3), &mut unwatched).unwrap();
        // Said to be anomalous after all.
        assert_eq!(label(tx, "a", "s0", &Given::Class(1), &mut unwatched).unwrap(), Labelled::Kept);
        put(tx, "a", &record("s2", None), (9, 3), &mut unwatched).unwrap();
    });
    let labels: Vec<_> = all(&db, "a").into_iter().map(|r| r.label).collect();
    assert_eq!(labels, [Some(1), Some(1), Some(NORMAL)]);
}

#[test]
fn values_that_went_into_a_sum_stay_until_they_are_taken_out() {
    let db = open();
    let window = Record { scale: Some(Scale { mean: 10.0, deviation: 2.0 }), ..record("s", None) };
    write(&db, |tx| {
        put(tx, "a", &window, (9, 0), &mut unwatched).unwrap();
        assert_eq!(
            label(tx, "a", "s", &Given::Values(vec![12.0, 8.0]), &mut unwatched).unwrap(),
            Labelled::Kept
        );
        mark(tx, "a", 0, (A, Some(0), 1)).unwrap();
        assert_eq!(
            label(tx, "a", "s", &Given::Values(vec![14.0, 8.0]), &mut unwatched).unwrap(),
            Labelled::Kept
        );
    });
    let kept = &all(&db, "a")[0];
    assert_eq!((kept.label, summed(kept, A)), (Some(1), Some(0)));
    assert_eq!(kept.values, [vec![4096, -4096], vec![8192, -4096]]);
    write(&db, |tx| {
        put(tx, "b", &record("s", None), (9, 0), &mut unwatched).unwrap();
        let refused = label(tx, "b", "s", &Given::Values(vec![1.0]), &mut unwatched).unwrap();
        assert_eq!(refused, Labelled::Refused, "a sample without a scale has no values");
    });
}

#[test]
fn who_watches_the_changes_knows_the_counts() {
    let db = open();
    // Samples and labels that are there, by following the changes.
    let mut followed = (0, 0);
    for step in 0..40u16 {
        let mut watch = |record: &RecordRef<'_>, sign: i64| {
            followed.0 += sign;
            followed.1 += sign * i64::from(RecordRef::to_owned(*record).label.is_some());
        };
        write(&db, |tx| {
            let id = format!("s{}", step * 7 % 11);
            let given = (step % 3 == 0).then_some(step % 4);
            put(tx, "a", &record(&id, given), (6, 2), &mut watch).unwrap();
            label(tx, "a", &format!("s{}", step * 5 % 11), &Given::Class(1), &mut watch).unwrap();
        });
        let there = all(&db, "a");
        let labels = there.iter().filter(|record| record.label.is_some()).count();
        assert_eq!(followed, (there.len() as i64, labels as i64), "after step {step}");
    }
}

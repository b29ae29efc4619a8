use loadonce_store::Database;
use loadonce_store::crash::PowerCutDisk;

use super::*;

fn settings(admission: Admission) -> Settings {
    let gateways = BTreeMap::from([("listed".to_owned(), [1; 32])]);
    Settings { site: "s".into(), admission, gateways, tasks: Vec::new(), history_bytes: 0 }
}

fn open(admission: Admission) -> (Registry, Journal) {
    let journal = Journal::open(Database::open_with(PowerCutDisk::new(), 1024 * 1024).unwrap()).unwrap();
    (Registry::open(&settings(admission), &journal).unwrap(), journal)
}

fn record(key: u8) -> GatewayRecord {
    GatewayRecord { key: encode_hex(&[key; 32]), ..GatewayRecord::default() }
}

#[test]
fn listed_names_need_their_key_and_others_are_refused() {
    let (registry, _) = open(Admission::Listed);
    assert!(registry.admits("listed", &[1; 32]).is_ok());
    assert!(registry.admits("listed", &[2; 32]).is_err());
    assert!(registry.admits("other", &[2; 32]).is_err());
}

#[test]
fn first_use_binds_name_and_key_for_good() {
    let (mut registry, mut journal) = open(Admission::FirstUse);
    assert!(registry.admits("new", &[2; 32]).is_ok());
    registry.accepted("new", &[2; 32], record(2), 0);
    journal.put_gateway("new", &record(2)).unwrap();
    journal.commit().unwrap();
    let reopened = Registry::open(&settings(Admission::FirstUse), &journal).unwrap();
    for registry in [registry, reopened] {
        assert!(registry.admits("new", &[2; 32]).is_ok());
        assert!(registry.admits("new", &[3; 32]).is_err());
        assert!(registry.admits("thief", &[2; 32]).is_err());
        assert!(registry.admits("thief", &[1; 32]).is_err());
        assert!(registry.admits("third", &[3; 32]).is_ok());
    }
}

#[test]
fn invariant_03_the_registry_is_bounded() {
    let (mut registry, mut journal) = open(Admission::FirstUse);
    for i in 0..MAX_GATEWAYS {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&(i as u64).to_le_bytes());
        registry.accepted(&format!("g{i}"), &key, record(7), 0);
    }
    assert!(registry.admits("more", &[9; 32]).is_err());
    let birth = br#"{"state":"down","incarnation":1}"#;
    assert_eq!(registry.presence(&mut journal, "more", birth, 0).unwrap(), PresenceOutcome::NotAdmitted);
    assert_eq!(registry.spend("more", 1, 0), None);
}

#[test]
fn invented_names_are_not_written_and_give_way() {
    let (mut registry, mut journal) = open(Admission::FirstUse);
    let birth = br#"{"state":"up","incarnation":1,"version":"1","key":"","backbones":[],"tasks":[]}"#;
    for i in 0..MAX_GATEWAYS + 10 {
        let noted = registry.presence(&mut journal, &format!("g{i}"), birth, i as u64).unwrap();
        assert_eq!(noted, PresenceOutcome::Noted);
    }
    assert_eq!((registry.gateways.len(), journal.gateways().unwrap().len()), (MAX_GATEWAYS, 0));
    assert!(registry.gateways.contains_key("listed") && registry.admits("real", &[5; 32]).is_ok());
}

#[test]
fn a_gateway_that_is_no_longer_listed_gets_nothing() {
    let (mut registry, mut journal) = open(Admission::FirstUse);
    registry.accepted("old", &[2; 32], record(2), 0);
    journal.put_gateway("old", &record(2)).unwrap();
    journal.commit().unwrap();
    let mut registry = Registry::open(&settings(Admission::Listed), &journal).unwrap();
    assert!(registry.admits("old", &[2; 32]).is_err());
    assert_eq!((registry.spend("old", 1, 0), registry.report("old", b"{}")), (None, false));
    assert!(registry.spend("listed", 1, 0).is_some());
}

#[test]
fn an_enrolled_gateway_is_admitted_under_every_rule_and_can_be_replaced() {
    for admission in [Admission::Listed, Admission::FirstUse] {
        let (mut registry, mut journal) = open(admission);
        assert!(registry.may_enrol("new", &[2; 32], false).is_ok());
        assert!(registry.may_enrol("listed", &[2; 32], true).is_err(), "the configuration stands above");
        assert!(registry.may_enrol("new", &[1; 32], false).is_err(), "the key of another");
        registry.enrol("new", &[2; 32]);
        assert!(registry.admits("new", &[2; 32]).is_ok() && registry.admits("new", &[3; 32]).is_err());
        assert!(registry.spend("new", 1, 0).is_some());
        registry.accepted("new", &[2; 32], record(2), 0);
        journal.put_gateway("new", &record(2)).unwrap();
        journal.commit().unwrap();
        // After a restart, and replaced.
        let mut registry = Registry::open(&settings(admission), &journal).unwrap();
        registry.enrol("new", &[2; 32]);
        assert!(registry.may_enrol("new", &[3; 32], false).is_err());
        assert!(registry.may_enrol("new", &[3; 32], true).is_ok());
        registry.enrol("new", &[3; 32]);
        assert!(registry.admits("new", &[3; 32]).is_ok() && registry.admits("new", &[2; 32]).is_err());
        assert!(registry.may_enrol("other", &[2; 32], false).is_ok(), "the old key is free");
    }
}

#[test]
fn module_bytes_are_rationed() {
    let mut gateway = Gateway::default();
    assert!(gateway.spend(BURST_BYTES, 0));
    assert!(!gateway.spend(1, 0));
    assert!(gateway.spend(BYTES_PER_SECOND, 1000));
    assert!(!gateway.spend(1, 1000));
    assert!(gateway.spend(BURST_BYTES, 10_000_000));
}

#[test]
fn a_fleet_is_a_few_numbers_and_its_gateways_only_in_a_small_one() {
    let (mut registry, _) = open(Admission::FirstUse);
    registry.accepted("new", &[2; 32], GatewayRecord { up: true, accepted: 3, ..record(2) }, 0);
    let report =
        br#"{"rss_bytes":12,"outbox":{"entries":2,"bytes":18446744073709551615},"degraded":"disk full"}"#;
    assert!(registry.report("new", report) && registry.report("listed", report));
    let fleet = registry.fleet(2);
    assert_eq!((fleet.known, fleet.up, fleet.reporting, fleet.degraded), (2, 1, 2, 2));
    assert_eq!((fleet.outbox_entries, fleet.outbox_bytes), (4, u64::MAX), "hostile numbers do not overflow");
    assert_eq!(fleet.largest_rss_bytes, 12);
    let named: Vec<_> = fleet.named.iter().map(|g| (g.name.as_str(), g.up, g.accepted)).collect();
    assert_eq!(named, [("listed", false, 0), ("new", true, 3)]);
    assert_eq!(registry.fleet(1), Fleet { named: Vec::new(), ..fleet });
}

#[test]
fn reports_are_bounded_objects_of_known_gateways() {
    let (mut registry, _) = open(Admission::Listed);
    let report = br#"{"rss_bytes":12,"uplink":{"bytes_up":3,"connects":1},"outbox":{"entries":2},
        "refusals":{"too_large":1,"bad_frame":4},"degraded":null,"tasks":{}}"#;
    assert!(registry.report("listed", report));
    let vitals = Vitals { rss_bytes: 12, bytes_up: 3, outbox_entries: 2, refusals: 5, ..Vitals::default() };
    assert_eq!(registry.gateways["listed"].vitals, Some(vitals));
    assert!(!registry.report("listed", br#"{"rss_bytes":"many"}"#));
    assert_eq!(registry.gateways["listed"].vitals, Some(vitals), "the last good one stays");
    assert!(!registry.report("listed", b"[1]"));
    assert!(!registry.report("listed", &[b' '; MAX_REPORT + 1]));
    assert!(!registry.report("other", b"{}"));
}

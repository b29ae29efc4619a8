//! Simulated gateways against a real broker and aggregator: everything arrives exactly, also when the broker dies.

use loadonce_tests::fleet::{FleetSite, Module, Simulation};
use tempfile::TempDir;

#[test]
fn fifty_gateways_arrive_exactly_and_the_broker_dies_once() {
    let folder = TempDir::new().unwrap();
    let mut site = FleetSite::start(folder.path(), 50, Module::SMALL, 2, "auto");
    let simulation =
        Simulation { rounds: 1, storm: true, seed: 7, codec: "auto".into(), distinct: 12, null: false };
    let (status, report, log) = site.simulate(&simulation);
    assert!(status.success(), "{}", log.text());
    let rounds = report["rounds"].as_array().unwrap();
    let kinds: Vec<_> =
        rounds.iter().map(|round| (round["kind"].as_str().unwrap(), &round["exact"])).collect();
    let yes = &serde_json::Value::Bool(true);
    assert_eq!(kinds, [("sum", yes), ("step", yes), ("step", yes)], "{report}");
    assert_eq!(rounds[2]["patched"], true, "versions of the usual codec come as patches: {report}");
    let storm = &rounds[2]["storm"];
    // The half that was not allowed to send yet, at least.
    assert!(storm["unanswered_when_lost"].as_u64().unwrap() >= 25, "{storm}");
    assert!(storm["lost_connections"].as_u64().unwrap() >= 50, "{storm}");
    assert_eq!(report["acks_checked"], 150);
    assert_eq!(report["acks_forged"], 0);

    // Once each, on the aggregator's side, too.
    site.aggregator.stop();
    let figures = site.figures();
    let counted = &figures["contributions"];
    assert_eq!((&counted["sums"], &counted["steps"]), (&50.into(), &100.into()), "{counted}");
    assert_eq!(figures["tasks"][0]["version"], 3);
    assert_eq!(figures["tasks"][0]["participants"], serde_json::json!([50, 50, 50]));
}

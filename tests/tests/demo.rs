//! The demo as a person runs it: embedded broker, and a real Mosquitto. Short, so early exits stay off.

use std::fs;
use std::path::Path;
use std::process::Command;

use loadonce_tests::broker::Broker;
use loadonce_tests::client::Client;
use loadonce_tests::programs::{cli, root};
use serde_json::Value;

/// The report of a short demo.
fn demo(out: &Path, more: &[&str]) -> Value {
    let run = Command::new(cli())
        .current_dir(root())
        .args(["demo", "--quick", "--out"])
        .arg(out)
        .args(more)
        .output()
        .expect("the demo starts");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout));
    assert!(run.status.success(), "{said}");
    println!("{said}");
    let report = fs::read(out.join("report.json")).expect("the demo writes its report");
    assert!(!out.join("run-0").exists(), "the run's folder goes when all is well");
    serde_json::from_slice(&report).expect("the report is JSON")
}

fn number(report: &Value, path: &str) -> f64 {
    let value = report.pointer(path).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

/// What must hold of every report.
fn sound(report: &Value, gateways: u64) {
    let names: Vec<_> = report["tasks"].as_array().into_iter().flatten().map(|t| &t["name"]).collect();
    assert_eq!(names, ["digits", "motion"]);
    for task in ["0", "1"] {
        let share = |key: &str| number(report, &format!("/tasks/{task}/{key}"));
        let shares =
            ["before", "alone", "shared", "federated", "worst_alone", "worst_federated", "even_test"];
        for key in shares {
            assert!((0.0..=1.0).contains(&share(key)), "{key}: {report}");
        }
        assert!(share("federated") > share("before") && share("worst_federated") <= share("federated"));
        assert!(share("federated") >= share("alone") - 0.05, "not worse than alone, with room for chance");
        assert_eq!(report["tasks"][0]["kind"], "classify");
        assert_eq!(report["tasks"][0]["metric"], "accuracy");
    }
    // A few days of a series are too little to beat seasonal naive, but more of them are better than few.
    let further = [(0, "demand", "relative_error", "alone"), (1, "misprint", "roc_auc", "before")];
    for (task, name, metric, than) in further {
        let further = &report["further"][task];
        assert_eq!((&further["name"], &further["metric"]), (&name.into(), &metric.into()), "{report}");
        let figure = |key: &str| number(report, &format!("/further/{task}/{key}"));
        let better = |a: f64, b: f64| if metric == "roc_auc" { a > b } else { a < b };
        assert!(better(figure("federated"), figure(than)), "better than {than}: {further}");
        assert!(!better(figure("worst_federated"), figure("federated")), "{further}");
        assert!((0.0..=1.0).contains(&figure("held")), "{further}");
        assert_eq!(figure("versions") as u64, 1, "one contribution of each gateway makes one version");
    }
    assert_eq!(number(report, "/gateways") as u64, gateways);
    assert_eq!((number(report, "/seeds") as u64, number(report, "/rounds") as u64), (1, 4));
    let bytes = |key: &str| number(report, &format!("/bytes/{key}"));
    assert!(bytes("up") > 0.0 && bytes("down") > 0.0, "{report}");
    assert!((bytes("ratio") - bytes("full_model") / (bytes("up") + bytes("down"))).abs() < 1.0, "{report}");
    assert!(bytes("ratio") >= 100.0, "a hundred times less than exchanging the backbone: {report}");
    assert!(number(report, "/agent/rss_mb") > number(report, "/agent/backbone_mb"), "{report}");
    assert!(number(report, "/agent/backbone_mb") > 1.0 && number(report, "/seconds") > 0.0, "{report}");
    assert!((1.0..=3.0).contains(&number(report, "/mean_exit")), "{report}");
}

#[test]
fn the_demo_teaches_ten_gateways_over_its_own_broker() {
    let out = tempfile::tempdir().expect("the system has a folder for temporary files");
    sound(&demo(out.path(), &[]), 10);
}

#[test]
fn the_demo_uses_a_real_broker_and_leaves_nothing_on_it() {
    let out = tempfile::tempdir().expect("the system has a folder for temporary files");
    let broker = Broker::start(out.path());
    sound(&demo(out.path(), &["--gateways", "4", "--broker", &broker.url()]), 4);
    let late = Client::connect(broker.port, "late", &["loadonce/#".to_owned(), "barrier".to_owned()]);
    late.publish("barrier", "x");
    late.wait(0, "barrier", |_| true);
    let kept: Vec<String> = late.since(0).into_iter().filter(|m| m.retain).map(|m| m.topic).collect();
    assert_eq!(kept, Vec::<String>::new(), "retained messages stay behind");
}

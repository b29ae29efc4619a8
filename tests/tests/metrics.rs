//! What a real aggregator tells Prometheus: every metric that the documentation, the dashboard and the alerts name is
//! there, with the right numbers, in a format that promtool takes; and a real Prometheus answers the dashboard.

#![allow(clippy::float_cmp, reason = "counts and sizes, told as such")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use loadonce_tests::broker::free_port;
use loadonce_tests::data;
use loadonce_tests::http::{get, quoted};
use loadonce_tests::process::{Log, Process};
use loadonce_tests::programs::root;
use loadonce_tests::site::{AgentOptions, AggregatorOptions, Program, Site, digits, topic_of};
use loadonce_tests::wait::until;
use serde_json::Value;

const GATEWAYS: [&str; 2] = ["press-1", "press-2"];
const LABELS: usize = 24;

/// A site in which two gateways learned one version from sums and one from steps.
struct Learned {
    agents: Vec<Program>,
    aggregator: Program,
    metrics: String,
    site: Site,
}

fn learned() -> Learned {
    let site = Site::new();
    let port = free_port();
    let certificate = site.folder().join("broker.pem");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=broker", "-days", "30", "-keyout"])
        .arg(site.folder().join("broker.key"))
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is needed for this test: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let more = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\ncertificates = [\"broker.pem\"]\n");
    let options = AggregatorOptions { more, ..AggregatorOptions::default() };
    let mut aggregator = site.aggregator(&[digits(GATEWAYS.len(), 1, LABELS)], options);
    let mut agents: Vec<_> = GATEWAYS.iter().map(|name| site.agent(name, AgentOptions::default())).collect();
    let client = site.client(&[]);
    let pictures = data::digits();
    for (g, agent) in agents.iter_mut().enumerate() {
        agent.wait("its task is served", |f| f["tasks"]["digits"].is_object());
        agent.log().wait(0, &["data plane connected"]);
        for (i, sample) in pictures.train.iter().skip(g).step_by(2).take(LABELS).enumerate() {
            let own = |level: &str| topic_of(&format!("gw/{}/{level}/digits/d{i}", agent.name));
            client.publish(&own("in"), sample.payload.clone());
            client.publish(&own("label"), sample.label.as_str());
        }
    }
    for agent in &mut agents {
        agent.wait_at_rest("digits", 2);
        // Its first report is due after six hours and is what its figures are then.
        let figures = fs::read(agent.state.join("figures.json")).expect("an agent writes its figures");
        client.publish(&topic_of(&format!("gw/{}/report", agent.name)), figures);
    }
    aggregator.wait("version 2 is cut", |f| f["tasks"][0]["version"] == 2);
    Learned { agents, aggregator, metrics: format!("127.0.0.1:{port}"), site }
}

impl Learned {
    fn scrape(&self) -> String {
        let (status, text) = get(&self.metrics, "/metrics").expect("the metrics are served");
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The text once it has every one of `lines`.
    fn scrape_with(&self, lines: &[&str]) -> String {
        until(&format!("scrape with {lines:?}"), || {
            let text = self.scrape();
            lines.iter().all(|line| text.lines().any(|told| told == *line)).then_some(text)
        })
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names of metrics in `text`, without what Prometheus adds to histograms.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("loadonce_") || word.starts_with("process_"))
        .map(|word| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            base.unwrap_or(word).to_owned()
        })
        .collect()
}

/// Names that are told, by their `# TYPE` lines.
fn told(scrape: &str) -> BTreeSet<String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn dashboard() -> Vec<String> {
    let board: Value =
        serde_json::from_str(&read("deploy/compose/grafana/dashboards/loadonce.json")).expect("it is JSON");
    let targets = board["panels"].as_array().expect("panels").iter().filter_map(|p| p["targets"].as_array());
    targets.flatten().map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect()
}

fn alerts() -> Vec<String> {
    let text = read("deploy/compose/prometheus/alerts.yml");
    text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

/// What `make test-broker` unpacked, or what is installed.
fn prometheus(program: &str) -> Option<PathBuf> {
    let unpacked = root().join("target/prometheus").join(program);
    [unpacked, PathBuf::from("/usr/bin").join(program)].into_iter().find(|path| path.is_file())
}

#[test]
fn what_is_told_is_right_and_is_what_documentation_dashboard_and_alerts_name() {
    let mut site = learned();
    let scrape = site.scrape_with(&[
        "loadonce_gateways_known 2",
        "loadonce_gateways_up 2",
        "loadonce_gateways_reporting 2",
        "loadonce_gateway_up{gateway=\"press-1\"} 1",
        "loadonce_gateway_contributions_accepted_total{gateway=\"press-2\"} 2",
        "loadonce_contributions_accepted_total{task=\"digits\",kind=\"sum\"} 2",
        "loadonce_contributions_accepted_total{task=\"digits\",kind=\"step\"} 2",
        "loadonce_contributions_refused_total{task=\"digits\",reason=\"over_norm\"} 0",
        "loadonce_lineage_version{task=\"digits\"} 2",
        "loadonce_lineage_version_gateways{task=\"digits\"} 2",
        "loadonce_lineage_resting{task=\"digits\"} 1",
        "loadonce_round_quorum{task=\"digits\"} 2",
        "loadonce_history_versions 2",
        "loadonce_link_connected 1",
        "loadonce_verification_duration_seconds_count 4",
    ]);
    // The same numbers as in the figures.
    let figures = site.aggregator.figures();
    let samples = format!("loadonce_lineage_samples{{task=\"digits\"}} {}", figures["tasks"][0]["samples"]);
    assert!(scrape.contains(&samples), "{samples}: {scrape}");
    let value = |name: &str| -> f64 {
        let line = scrape.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is no number: {scrape}"))
    };
    let journal = fs::metadata(site.aggregator.state.join("aggregator.redb")).expect("a journal").len();
    assert_eq!(value("loadonce_journal_bytes"), journal as f64);
    assert!(value("loadonce_verification_duration_seconds_sum") > 0.0);
    assert!(value("loadonce_batch_duration_seconds_count") >= 1.0);
    assert!(value("loadonce_link_received_bytes_total") > 10_000.0);
    assert!(value("process_resident_memory_bytes") > 1e6);

    // One set of names.
    let there = told(&scrape);
    let documented = names(&read("docs/operations.md"));
    assert_eq!(there, documented, "docs/operations.md lists exactly what is told");
    let asked = names(&dashboard().join(" "));
    assert!(asked.is_subset(&there), "the dashboard asks for {:?}", asked.difference(&there));
    let asked = names(&read("deploy/compose/prometheus/alerts.yml"));
    assert!(asked.is_subset(&there), "the alerts ask for {:?}", asked.difference(&there));
    for alert in alerts() {
        let heading = format!("### {alert}\n");
        assert!(
            read("docs/operations.md").contains(&heading),
            "docs/operations.md does not say what to do on {alert}"
        );
    }

    // A gateway that loses its line.
    site.agents[0].process.kill();
    site.scrape_with(&["loadonce_gateway_up{gateway=\"press-1\"} 0", "loadonce_gateways_up 1"]);

    // As a container would ask.
    let docker = read("deploy/compose/aggregator.Dockerfile");
    let line = docker.lines().find_map(|line| line.trim().strip_prefix("CMD ")).expect("a health check");
    let check: Vec<String> = serde_json::from_str(line).expect("a list of words");
    let port = site.metrics.rsplit(':').next().expect("a port").to_owned();
    let run = || {
        let words = check.iter().skip(1).map(|word| word.replace("9464", &port));
        Command::new(&check[0]).args(words).stderr(Stdio::null()).status().expect("bash runs").success()
    };
    assert!(run(), "the health check of the image fails: {check:?}");
    site.aggregator.process.stop();
    assert!(!run(), "the health check of the image cannot fail");

    match prometheus("promtool") {
        Some(promtool) => {
            let mut check = Command::new(promtool)
                .args(["check", "metrics"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("promtool runs");
            check.stdin.take().expect("piped").write_all(scrape.as_bytes()).expect("promtool reads");
            let out = check.wait_with_output().expect("promtool ends");
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && said.is_empty(), "promtool: {said}");
        }
        None => println!("!! no promtool here: the format was NOT checked by it (make test-broker)"),
    }
}

#[test]
#[ignore = "starts a Prometheus: make test-broker"]
fn a_real_prometheus_answers_the_dashboard_and_judges_the_alerts() {
    let site = learned();
    let folder = site.site.folder().join("prometheus");
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    let config = read("deploy/compose/prometheus/prometheus.yml");
    let shipped = "targets: [\"aggregator:9464\"]";
    assert!(config.contains(shipped) && config.contains("scrape_interval: 15s"));
    let config = config
        .replace(shipped, &format!("targets: [\"{}\"]", site.metrics))
        // So that a rate has two points soon.
        .replace("_interval: 15s", "_interval: 1s");
    fs::write(folder.join("prometheus.yml"), config).expect("a temporary folder can be written");
    fs::write(folder.join("alerts.yml"), read("deploy/compose/prometheus/alerts.yml")).expect("the same");
    let at = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(prometheus("prometheus").expect("run deploy/fetch-prometheus first"));
    command
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={at}"));
    let log = Log::new(&folder.join("prometheus.log"));
    let _prometheus = Process::start("prometheus", &mut command, &log, None);

    let result = |expression: &str| -> Option<Value> {
        let (status, body) = get(&at, &format!("/api/v1/query?query={}", quoted(expression))).ok()?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        if status == 503 {
            return None;
        }
        assert_eq!((status, &answer["status"]), (200, &"success".into()), "{expression}: {answer}");
        Some(answer["data"]["result"].clone())
    };
    let number =
        |expression: &str| -> Option<f64> { result(expression)?[0]["value"][1].as_str()?.parse().ok() };
    let seen = |expression: &str, value: f64| {
        until(&format!("{expression} to be {value}"), || (number(expression)? == value).then_some(()));
    };
    seen("up{job=\"loadonce\"}", 1.0);
    seen("sum(loadonce_gateways_up)", 2.0);
    seen("loadonce_lineage_version{task=\"digits\"}", 2.0);

    // Every expression of the dashboard is one, and all but those that show trouble only have an answer.
    let mut silent = Vec::new();
    for expression in dashboard() {
        let expression = expression.replace("$__rate_interval", "10s");
        let only_in_trouble = ["== 0", "> 0", "unless"].iter().any(|word| expression.contains(word))
            && !expression.contains("vector(0)");
        if only_in_trouble {
            result(&expression).unwrap_or_else(|| panic!("{expression} has no answer"));
            silent.push(expression);
        } else {
            until(&format!("answer to {expression}"), || {
                let answer = result(&expression)?;
                answer.as_array().is_some_and(|rows| !rows.is_empty()).then_some(())
            });
        }
    }
    println!("asked without needing an answer: {silent:#?}");

    // The alerts are judged without an error, and none sounds.
    let rules = until("judgement of every alert", || {
        let (_, body) = get(&at, "/api/v1/rules").ok()?;
        let rules: Value = serde_json::from_str(&body).ok()?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert_eq!(rules.len(), alerts().len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        // How full the disk under this test is, is not this test's matter.
        assert!(rule["state"] == "inactive" || rule["name"] == "LoadonceDiskFilling", "{rule}");
    }

    // A gateway goes: Prometheus sees it, and its alert waits for half an hour to pass.
    let mut site = site;
    site.agents[1].process.kill();
    seen("loadonce_gateway_up{gateway=\"press-2\"}", 0.0);
    let waiting = "ALERTS{alertname=\"LoadonceGatewayDown\",gateway=\"press-2\",alertstate=\"pending\"}";
    seen(waiting, 1.0);
}

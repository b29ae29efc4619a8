//! Enrolment with the real programs and a real Mosquitto that wants certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use loadonce_tests::data;
use loadonce_tests::secure::{SecureSite, now};
use loadonce_tests::site::{Program, digits};
use loadonce_tests::wait::until;
use loadonce_trust::{CertificateFacts, Subject, certificates_from_pem, date};

const LABELS: usize = 24;

fn enrol(token: &str) -> String {
    format!("[enrol]\ntoken = \"{token}\"")
}

/// Labelled pictures into an agent's spool folder.
fn teach(site: &SecureSite, name: &str, skip: usize) {
    let spool = site.folder().join(format!("{name}-spool/digits"));
    fs::create_dir_all(&spool).expect("a temporary folder can be made");
    let put = |file: &str, bytes: &[u8]| {
        let hidden = spool.join(format!(".{file}"));
        fs::write(&hidden, bytes).expect("a temporary folder can be written");
        fs::rename(&hidden, spool.join(file)).expect("a file can be renamed");
    };
    for (i, sample) in data::digits().train.iter().skip(skip).take(LABELS).enumerate() {
        put(&format!("t{i}.png"), &sample.payload);
        put(&format!("t{i}.label"), sample.label.as_bytes());
    }
}

fn certificate(state: &Path) -> CertificateFacts {
    let pem = fs::read(state.join("tls/gateway.pem")).expect("the gateway keeps its certificate");
    CertificateFacts::read(&certificates_from_pem(&pem).expect("it is PEM")[0]).expect("it is a certificate")
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn wait_enrol(aggregator: &mut Program, what: &str, count: u64) {
    aggregator.wait(&format!("{what} is at least {count}"), |figures| {
        let enrol = &figures["enrol"];
        [&enrol[what], &enrol["refused"][what]].iter().any(|n| n.as_u64().is_some_and(|n| n >= count))
    });
}

#[test]
fn gateways_enrol_learn_and_are_told_apart_from_thieves() {
    let site = SecureSite::new(&[digits(2, 0, LABELS)]);
    let mut aggregator = site.aggregator();
    aggregator.log().wait(0, &["gateways can enrol"]);

    // Two gateways join and learn together.
    let tokens = ["press-1", "press-2"].map(|name| site.token(name, &[]));
    teach(&site, "press-1", 0);
    teach(&site, "press-2", LABELS);
    let mut agents = [0, 1].map(|i| site.agent(["press-1", "press-2"][i], &enrol(&tokens[i])));
    for agent in &mut agents {
        agent.wait_at_rest("digits", 1);
        let facts = certificate(&agent.state);
        assert_eq!(facts.name, agent.name);
        let mode = |file: &str| {
            let meta = fs::metadata(agent.state.join(file)).expect("it was made");
            meta.permissions().mode() & 0o777
        };
        assert_eq!((mode("tls/gateway.pem"), mode("agent.key"), mode("tls/ca.pem")), (0o600, 0o600, 0o644));
        until("end of the pending key", || (!agent.state.join("tls/pending.key").exists()).then_some(()));
    }
    wait_enrol(&mut aggregator, "confirmed", 2);
    let figures = aggregator.figures();
    assert_eq!(figures["enrol"]["issued"], 2, "{figures}");
    aggregator.wait("both are in version 1", |figures| {
        let tasks = figures["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().any(|task| task["name"] == "digits" && task["participants"] == serde_json::json!([2]))
    });
    let list = text(&site.loadonce(&["gateway", "list"]));
    assert!(list.contains("press-1") && list.contains("certificate valid until"), "{list}");

    // The same token in other hands, and its name once more.
    let mut thief = site.agent("thief", &enrol(&tokens[0]));
    let told = thief.log().wait(0, &["used_token"]);
    assert!(told.contains("WARN") && told.contains("--replace"), "{told}");
    wait_enrol(&mut aggregator, "used_token", 2);
    assert_eq!(thief.log().count(0, "used_token"), 1, "told once: {}", thief.log().tail());
    assert!(!thief.state.join("tls/gateway.pem").exists());
    let again = site.loadonce(&["gateway", "enrol", "press-1"]);
    assert!(
        !again.status.success() && text(&again).contains("press-1 is the name of another gateway"),
        "{again:?}"
    );
    assert_eq!(text(&again).matches("press-1").count(), 1, "one message: {}", text(&again));

    thief.process.stop();

    // Both sides start again: nobody enrols twice.
    aggregator.process.stop();
    fs::remove_file(aggregator.state.join("figures.json")).expect("it was written at the end");
    let before = certificate(&agents[0].state);
    let mark = agents[0].log().mark();
    agents[0].restart();
    aggregator.restart();
    agents[0].log().wait(mark, &["uplink connected"]);
    assert_eq!(certificate(&agents[0].state), before);
    aggregator.wait("press-1 is up and admitted", |figures| {
        let gateways = figures["gateways"].as_array().cloned().unwrap_or_default();
        gateways.iter().any(|gateway| gateway["name"] == "press-1" && gateway["up"] == true)
    });
    assert_eq!(aggregator.figures()["enrol"]["issued"], 0);

    // A box that replaces press-2: the old one's key counts no more.
    agents[1].process.stop();
    let replacement = site.token("press-2", &["--replace"]);
    let box2 = site.agent("replacement", &enrol(&replacement));
    box2.log().wait(0, &["uplink connected"]);
    wait_enrol(&mut aggregator, "confirmed", 1);
    assert_ne!(certificate(&box2.state).public_key, certificate(&agents[1].state).public_key);
    for agent in [&agents[0], &box2] {
        assert!(!agent.log().text().contains("panicked"));
    }
}

#[test]
fn a_token_whose_time_is_over_is_refused_once_and_clearly_and_a_new_one_mends_it() {
    let site = SecureSite::new(&[digits(1, 0, LABELS)]);
    let mut aggregator = site.aggregator();
    aggregator.log().wait(0, &["gateways can enrol"]);
    let token = site.token("press-1", &["--hours", "1"]);
    let file = site.state("aggregator").join("enrol/tokens/press-1.json");
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(&file).expect("it was written")).expect("it is JSON");
    record["expires"] = 1.into();
    fs::write(&file, record.to_string()).expect("a temporary folder can be written");
    let mut agent = site.agent("press-1", &enrol(&token));
    agent.log().wait(0, &["WARN", "expired_token", "make a new one"]);
    aggregator.wait("it was tried more than once", |figures| {
        figures["enrol"]["refused"]["expired_token"].as_u64().is_some_and(|n| n > 2)
    });
    assert_eq!(agent.log().count(0, "expired_token"), 1, "{}", agent.log().tail());
    agent.process.stop();
    let mut agent = site.agent("press-1", &enrol(&site.token("press-1", &[])));
    agent.log().wait(0, &["uplink connected"]);
    agent.process.stop();
    aggregator.process.stop();
}

#[test]
fn kills_during_enrolment_lose_no_gateway() {
    let site = SecureSite::new(&[digits(1, 0, LABELS)]);
    let mut aggregator = site.aggregator();
    aggregator.log().wait(0, &["gateways can enrol"]);
    for (number, boundary) in ["enrol.asking", "enrol.answered", "enrol.kept"].iter().enumerate() {
        let name = format!("press-{number}");
        let mut agent = site.agent(&name, &enrol(&site.token(&name, &[])));
        agent.log().wait(0, &[boundary]);
        agent.process.kill();
        let mark = agent.log().mark();
        agent.restart();
        agent.log().wait(mark, &["uplink connected"]);
        // The kill may have come after the confirmation and before its line, so the file is the sign.
        until("end of the pending key", || (!agent.state.join("tls/pending.key").exists()).then_some(()));
        assert_eq!(certificate(&agent.state).name, name);
        agent.process.stop();
    }
    // The aggregator dies while its answer is on the way.
    let mark = aggregator.log().mark();
    let mut agent = site.agent("press-9", &enrol(&site.token("press-9", &[])));
    aggregator.log().wait(mark, &["enrol.answering", "press-9"]);
    aggregator.process.kill();
    aggregator.restart();
    agent.log().wait(0, &["uplink connected"]);
    agent.log().wait(0, &["enrol.confirmed"]);
    agent.process.stop();
    aggregator.process.stop();
}

#[test]
fn certificates_in_place_by_hand_serve_and_an_expired_one_is_told_once() {
    let site = SecureSite::new(&[digits(1, 0, LABELS)]);
    let aggregator = site.aggregator();
    aggregator.log().wait(0, &["gateways can enrol"]);
    let by_hand = |files: &loadonce_link::tls::TlsFiles| {
        let (certificate, key) = files.identity.clone().expect("it was signed");
        format!(
            "site = \"plant\"\ngateway = \"press-1\"\n[trust]\nfirst_use = true\n\
             [tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"",
            files.ca.display(),
            certificate.display(),
            key.display()
        )
    };
    let good = site.sign("by-hand", Subject::Gateway("press-1"), now(), 30);
    let mut agent = site.agent("press-1", &by_hand(&good));
    agent.log().wait(0, &["uplink connected"]);
    agent.wait("the task is known", |figures| figures["tasks"]["digits"].is_object());
    agent.process.stop();

    let long_ago = now() - 60 * 86_400;
    let ended = site.sign("ended", Subject::Gateway("press-1"), long_ago, 30);
    let mut agent = site.agent("press-1", &by_hand(&ended));
    let until = date(long_ago + 30 * 86_400);
    let told = agent.log().wait(0, &["WARN", "uplink is down", "ended.pem", "press-1", &until]);
    println!("{told}");
    agent.wait("it tried more than once", |figures| {
        figures["uplink"]["failed_connects"].as_u64().unwrap_or(0)
            + figures["uplink"]["connects"].as_u64().unwrap_or(0)
            > 3
    });
    assert_eq!(agent.log().count(0, "uplink is down"), 1, "{}", agent.log().tail());
    // Inference goes on meanwhile.
    teach(&site, "press-1", 0);
    agent.wait("samples are answered", |figures| {
        figures["tasks"]["digits"]["predictions"].as_u64().is_some_and(|n| n >= LABELS as u64)
    });
    assert!(agent.process.ended().is_none());
    agent.process.stop();
}

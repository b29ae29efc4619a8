//! TLS against a real Mosquitto that wants certificates, and everything that can be wrong with them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loadonce_link::tls::exchange::{Credentials, Endpoint, ask};
use loadonce_link::tls::{Clock, Tls, TlsFiles};
use loadonce_link::{Event, Link, LinkConfig, Qos};
use loadonce_trust::enrol::{Answer, Refusal, encode_confirm};
use loadonce_trust::{Ca, Subject, TlsKey, fingerprint, to_pem};
use support::{DEADLINE, Mosquitto, config, connected, message, until};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const DAY: u64 = 86_400;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A site's CA and files that it signed.
struct Pki {
    dir: TempDir,
    ca: Ca,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca, certificate, key) = Ca::make("plant", now() - 900 * DAY).unwrap();
        fs::write(dir.path().join("ca.pem"), certificate).unwrap();
        fs::write(dir.path().join("ca.key"), key).unwrap();
        Self { dir, ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Certificate and key, made at `at` for `days`.
    fn sign(&self, name: &str, subject: Subject<'_>, at: u64, days: u64) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.ca.issue_with_key(subject, at, days).unwrap();
        let (certificate_path, key_path) =
            (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        fs::write(&certificate_path, certificate).unwrap();
        fs::write(&key_path, key).unwrap();
        (certificate_path, key_path)
    }

    fn server(&self, hosts: &[&str], at: u64, days: u64) -> String {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let (certificate, key) = self.sign("broker", Subject::Broker(&hosts), at, days);
        format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\n",
            self.path("ca.pem").display(),
            certificate.display(),
            key.display()
        )
    }

    fn client(&self, name: &str) -> TlsFiles {
        let identity = Some(self.sign(name, Subject::Gateway(name), now(), 30));
        TlsFiles { ca: self.path("ca.pem"), identity }
    }
}

fn secured(broker: &Mosquitto, host: &str, id: &str, files: TlsFiles) -> LinkConfig {
    let mut config = config(&format!("mqtts://{host}:{}", broker.port), id);
    config.tls = Some(Tls::new(files));
    config
}

/// Why the link does not connect.
async fn reason(config: LinkConfig) -> String {
    let (_link, mut events) = Link::start(config).unwrap();
    until(&mut events, |event| match event {
        Event::Connected { .. } => panic!("it connected"),
        Event::Disconnected { reason, .. } => Some(reason),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn messages_go_both_ways_and_the_user_is_the_certificates_name() {
    let pki = Pki::new();
    let acl = pki.path("acl");
    fs::write(&acl, "pattern readwrite own/%u/#\n").unwrap();
    let server = pki.server(&["localhost", "127.0.0.1"], now(), 30);
    let broker = Mosquitto::start(&format!("{server}acl_file {}\n", acl.display())).await;
    let mut config = secured(&broker, "127.0.0.1", "a", pki.client("press-1"));
    config.subscriptions = vec![("own/#".to_owned(), Qos::AtLeastOnce)];
    let (link, mut events) = Link::start(config).unwrap();
    connected(&mut events).await;
    link.publish("own/press-2/x", "not mine", Qos::AtLeastOnce, false).await.unwrap();
    link.publish("own/press-1/x", vec![7; 60_000], Qos::AtLeastOnce, false).await.unwrap();
    assert_eq!(message(&mut events).await, ("own/press-1/x".to_owned(), vec![7; 60_000]));
    let stats = link.stats();
    assert!(stats.bytes_up > 60_000 && stats.bytes_down > 60_000, "counted below TLS: {stats:?}");
    // By name as well.
    let (_link, mut events) = Link::start(secured(&broker, "localhost", "b", pki.client("press-2"))).unwrap();
    connected(&mut events).await;
}

#[tokio::test]
async fn every_trouble_with_certificates_is_one_sentence_that_says_which_and_until_when() {
    let pki = Pki::new();
    let good = Mosquitto::start(&pki.server(&["127.0.0.1"], now(), 30)).await;
    let files = pki.client("press-1");

    let says = |reason: &str, words: &[&str]| {
        for word in words {
            assert!(reason.contains(word), "{word:?} is not in: {reason}");
        }
        println!("{reason}");
    };
    let own = pki.path("press-1.pem").display().to_string();

    // The gateway's certificate has ended.
    let ended = Some(pki.sign("old", Subject::Gateway("press-1"), now() - 40 * DAY, 30));
    let expired = TlsFiles { identity: ended, ..files.clone() };
    let old = pki.path("old.pem").display().to_string();
    says(
        &reason(secured(&good, "127.0.0.1", "a", expired)).await,
        &[&old, "press-1", "valid until 20", "expired"],
    );

    // The broker knows another CA; so does the gateway.
    let other = Pki::new();
    let foreign = TlsFiles { ca: files.ca.clone(), ..other.client("press-1") };
    let theirs = other.path("press-1.pem").display().to_string();
    says(&reason(secured(&good, "127.0.0.1", "a", foreign)).await, &[&theirs, "valid until 20", "broker"]);
    let wrong_ca = TlsFiles { ca: other.path("ca.pem"), ..files.clone() };
    let ca = other.path("ca.pem").display().to_string();
    says(&reason(secured(&good, "127.0.0.1", "a", wrong_ca)).await, &["not signed by", &ca]);

    // No certificate where one is wanted.
    let nothing = TlsFiles { identity: None, ..files.clone() };
    says(&reason(secured(&good, "127.0.0.1", "a", nothing)).await, &["wants a certificate"]);

    // Another name, and no TLS at all.
    says(
        &reason(secured(&good, "localhost", "a", files.clone())).await,
        &["for 127.0.0.1", "not for localhost"],
    );
    let plain = Mosquitto::start("").await;
    says(&reason(secured(&plain, "127.0.0.1", "a", files.clone())).await, &["TLS", "broker"]);

    // The broker's certificate has ended, or is none of a server.
    let late = Mosquitto::start(&pki.server(&["127.0.0.1"], now() - 40 * DAY, 30)).await;
    says(
        &reason(secured(&late, "127.0.0.1", "a", files.clone())).await,
        &["certificate of the broker expired on 20"],
    );

    // Files that are missing, damaged, or do not belong together.
    let missing = TlsFiles { ca: pki.path("no.pem"), ..files.clone() };
    says(&reason(secured(&good, "127.0.0.1", "a", missing)).await, &["no.pem", "No such file"]);
    let mixed = Some((pki.path("press-1.pem"), pki.path("old.key")));
    let mixed = TlsFiles { identity: mixed, ..files.clone() };
    assert!(mixed.check().is_err());
    says(&reason(secured(&good, "127.0.0.1", "a", mixed)).await, &[&own, "old.key"]);
    fs::write(pki.path("half.pem"), &fs::read(pki.path("press-1.pem")).unwrap()[..200]).unwrap();
    let half = TlsFiles { identity: Some((pki.path("half.pem"), pki.path("press-1.key"))), ..files.clone() };
    says(&reason(secured(&good, "127.0.0.1", "a", half)).await, &["half.pem"]);
    says(&files.check().unwrap(), &[&own, "press-1"]);
}

#[tokio::test]
async fn replaced_files_count_from_the_next_connection_on() {
    let pki = Pki::new();
    let mut broker = Mosquitto::start(&pki.server(&["127.0.0.1"], now(), 30)).await;
    let identity = Some(pki.sign("press-1", Subject::Gateway("press-1"), now() - 40 * DAY, 30));
    let files = TlsFiles { ca: pki.path("ca.pem"), identity };
    let (_link, mut events) = Link::start(secured(&broker, "127.0.0.1", "a", files)).unwrap();
    until(&mut events, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    pki.client("press-1");
    connected(&mut events).await;
    broker.kill();
    until(&mut events, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
    broker.restart().await;
    connected(&mut events).await;
}

#[tokio::test]
async fn nothing_is_dialled_before_the_files_are_there() {
    let pki = Pki::new();
    let broker = Mosquitto::start(&pki.server(&["127.0.0.1"], now(), 30)).await;
    let (ready, is_ready) = watch::channel(false);
    let files = TlsFiles {
        ca: pki.path("ca.pem"),
        identity: Some((pki.path("press-1.pem"), pki.path("press-1.key"))),
    };
    let mut config = secured(&broker, "127.0.0.1", "a", files.clone());
    config.tls = Some(Tls { files, clock: Clock::system(), ready: Some(is_ready) });
    let (link, mut events) = Link::start(config).unwrap();
    pki.client("press-1");
    assert_eq!(link.stats().connects + link.stats().failed_connects, 0);
    ready.send_replace(true);
    connected(&mut events).await;
    assert_eq!(link.stats().failed_connects, 0);
}

/// A Raspberry Pi that boots in 1970: certificates hold against the build's date and what was proven since.
#[tokio::test]
async fn invariant_16_a_clock_at_1970_neither_locks_out_nor_lets_in_what_has_ended() {
    let pki = Pki::new();
    let today = now();
    let good = Mosquitto::start(&pki.server(&["127.0.0.1"], today, 30)).await;
    let files = pki.client("press-1");
    let learned = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::new(AtomicU64::new(60));
    let clock = |build: u64, remembered: u64| {
        let (learned, shown) = (learned.clone(), shown.clone());
        Clock::with(
            move || shown.load(Ordering::SeqCst),
            build,
            remembered,
            move |seconds| learned.lock().unwrap().push(seconds),
        )
    };
    let with = |broker: &Mosquitto, clock: &Clock| {
        let mut config = secured(broker, "127.0.0.1", "a", files.clone());
        config.tls = Some(Tls { files: files.clone(), clock: clock.clone(), ready: None });
        config
    };

    // Built a year ago: the broker's certificate began after that, which a wrong clock cannot hold against it.
    let year_ago = clock(today - 365 * DAY, 0);
    let (link, mut events) = Link::start(with(&good, &year_ago)).unwrap();
    connected(&mut events).await;
    link.close().await;
    // And now it is known to be later than when that certificate began.
    assert_eq!(*learned.lock().unwrap(), [today - DAY]);
    assert_eq!(year_ago.now().seconds, today - DAY);

    // One that ended before what is known for certain is refused, however early the clock says it is: here because of
    // the build's date, there because of what was proven before the restart.
    let late = Mosquitto::start(&pki.server(&["127.0.0.1"], today - 100 * DAY, 30)).await;
    for known in [clock(today - 10 * DAY, 0), clock(0, today - 10 * DAY)] {
        let told = reason(with(&late, &known)).await;
        assert!(told.contains("expired on 20") && told.contains("clock is wrong"), "{told}");
    }

    // A clock that is right says both.
    shown.store(today, Ordering::SeqCst);
    let told = reason(with(&late, &clock(0, 0))).await;
    assert!(told.contains("expired on 20") && told.contains("clock says 20"), "{told}");
    let future = Mosquitto::start(&pki.server(&["127.0.0.1"], today + 10 * DAY, 30)).await;
    let told = reason(with(&future, &clock(0, 0))).await;
    assert!(told.contains("valid from 20"), "{told}");
    // A clock decades ahead refuses everything, and leaves nothing behind once it is set.
    shown.store(today + 20_000 * DAY, Ordering::SeqCst);
    let wrong = clock(0, 0);
    assert!(reason(with(&good, &wrong)).await.contains("expired"));
    shown.store(today, Ordering::SeqCst);
    let (_link, mut events) = Link::start(with(&good, &wrong)).unwrap();
    connected(&mut events).await;
}

async fn endpoint(
    pki: &Pki,
) -> (String, mpsc::Receiver<loadonce_link::tls::exchange::Incoming>, impl Fn() -> u64) {
    let identity = Some(pki.sign("aggregator", Subject::Aggregator, now(), 30));
    let files = TlsFiles { ca: pki.path("ca.pem"), identity };
    let endpoint = Endpoint::bind("127.0.0.1:0", files, Clock::system()).await.unwrap();
    let address = endpoint.address().unwrap().to_string();
    let stats = endpoint.counters();
    let (requests, incoming) = mpsc::channel(1);
    tokio::spawn(endpoint.serve(requests));
    (address, incoming, move || {
        let stats = stats();
        stats.failed_handshakes + stats.broken_requests + stats.turned_away
    })
}

fn pinned(pki: &Pki) -> Credentials {
    Credentials::Fingerprint(pki.ca.fingerprint())
}

#[tokio::test]
async fn an_exchange_is_with_the_aggregator_that_the_fingerprint_names_and_nobody_else() {
    let pki = Pki::new();
    let (address, mut incoming, _) = endpoint(&pki).await;
    tokio::spawn(async move {
        while let Some(asked) = incoming.recv().await {
            let name = asked.certificate.as_ref().map(|facts| facts.name.clone()).unwrap_or_default();
            let answer = Answer::Refused(Refusal::NoCertificate, name).encode();
            asked.answer(&answer, false).await;
        }
    });
    let request = encode_confirm();
    let clock = Clock::system();
    let anonymous = ask(&address, &pinned(&pki), &clock, &request).await.unwrap();
    assert_eq!(Answer::decode(&anonymous), Some(Answer::Refused(Refusal::NoCertificate, String::new())));
    let known = Credentials::Files(pki.client("press-1"));
    let named = ask(&address, &known, &clock, &request).await.unwrap();
    assert_eq!(Answer::decode(&named), Some(Answer::Refused(Refusal::NoCertificate, "press-1".into())));

    // Another site's CA, a gateway or a broker that plays aggregator, a certificate of somebody else.
    let other = Pki::new();
    let stranger = ask(&address, &pinned(&other), &clock, &request).await.unwrap_err();
    assert!(stranger.contains("not signed by the CA that the token names"), "{stranger}");
    let foreign = TlsFiles { ca: pki.path("ca.pem"), ..other.client("press-1") };
    let refused = ask(&address, &Credentials::Files(foreign), &clock, &request).await.unwrap_err();
    assert!(refused.contains("aggregator") && refused.contains("press-1.pem"), "{refused}");
    for (subject, what) in [
        (Subject::Gateway("press-9"), "a gateway"),
        (Subject::Broker(&["aggregator".to_owned()]), "a broker"),
    ] {
        let identity = Some(pki.sign("impostor", subject, now(), 30));
        let files = TlsFiles { ca: pki.path("ca.pem"), identity };
        let impostor = Endpoint::bind("127.0.0.1:0", files, Clock::system()).await.unwrap();
        let address = impostor.address().unwrap().to_string();
        let (requests, _incoming) = mpsc::channel(1);
        tokio::spawn(impostor.serve(requests));
        let told = ask(&address, &pinned(&pki), &clock, &request).await.unwrap_err();
        assert!(told.contains("certificate of the aggregator"), "{what}: {told}");
    }
    // The CA's certificate alone, which everybody may have, proves nothing.
    let self_signed = TlsKey::generate().unwrap();
    let der = other.ca.issue(Subject::Aggregator, &self_signed.public(), now(), 3).unwrap();
    let chain = to_pem("CERTIFICATE", &der) + &fs::read_to_string(pki.path("ca.pem")).unwrap();
    fs::write(pki.path("forged.pem"), chain).unwrap();
    fs::write(pki.path("forged.key"), self_signed.to_pem()).unwrap();
    let identity = Some((pki.path("forged.pem"), pki.path("forged.key")));
    let forged =
        Endpoint::bind("127.0.0.1:0", TlsFiles { ca: pki.path("ca.pem"), identity }, Clock::system());
    let forged = forged.await.unwrap();
    let address = forged.address().unwrap().to_string();
    let (requests, _incoming) = mpsc::channel(1);
    tokio::spawn(forged.serve(requests));
    assert_eq!(fingerprint(pki.ca.der()), pki.ca.fingerprint());
    let told = ask(&address, &pinned(&pki), &clock, &request).await.unwrap_err();
    assert!(told.contains("not signed by"), "{told}");
}

#[tokio::test]
async fn invariant_03_an_endpoint_that_is_flooded_counts_and_survives() {
    let pki = Pki::new();
    let (address, mut incoming, dropped) = endpoint(&pki).await;
    tokio::spawn(async move {
        while let Some(asked) = incoming.recv().await {
            asked.answer(&Answer::Confirmed.encode(), false).await;
        }
    });
    // Silence takes the places; noise is dropped.
    let mut held = Vec::new();
    for n in 0..40u8 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if n % 2 == 0 {
            // It may be closed already.
            let _sent = stream.write_all(&[n; 300]).await;
        }
        held.push(stream);
    }
    let all_counted = async {
        while dropped() < 24 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, all_counted).await.expect("what was dropped is counted");
    drop(held);
    let served = async {
        while ask(&address, &pinned(&pki), &Clock::system(), &encode_confirm()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, served).await.expect("it serves again");
    // A message that claims to be longer than any is not waited for.
    let before = dropped();
    let mut long = encode_confirm();
    (long[6], long[7]) = (0xff, 0xff);
    assert!(ask(&address, &pinned(&pki), &Clock::system(), &long).await.is_err());
    assert!(dropped() > before);
}

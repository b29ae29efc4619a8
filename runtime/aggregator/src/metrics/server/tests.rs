//! What clients may do to the endpoint, on real sockets.

#![allow(clippy::float_cmp, reason = "counts")]

use std::io;
use std::net::Ipv4Addr;
use std::time::Instant;

use loadonce_link::LinkStats;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::*;
use crate::figures::{ContributionFigures, Counters, Figures, Spent};
use crate::history::History;
use crate::metrics::{Durations, Machine};
use crate::registry::{Fleet, Named};

fn snapshot(taken: Instant) -> Arc<Snapshot> {
    let Counters { refused, .. } = Counters::default();
    let contributions =
        ContributionFigures { sums: 0, steps: 0, late: 0, duplicates: 0, deferred: 0, refused };
    let figures = Figures {
        site: "plant".into(),
        key: String::new(),
        tasks: Vec::new(),
        contributions,
        ignored: [("report", 3)].into(),
        transfers_open: 0,
        transfers_bytes: 0,
        transfers_dropped: 0,
        transfers_turned_away: 0,
        blocks: 0,
        block_bytes: 0,
        history: History::default(),
        gateways: Vec::new(),
    };
    let press = Named { name: "press-1".into(), up: true, accepted: 7, vitals: None };
    Arc::new(Snapshot {
        taken,
        figures,
        fleet: Fleet { known: 1, up: 1, named: vec![press], ..Fleet::default() },
        history_limit_bytes: 1,
        verification: Spent { count: 2, total: Duration::from_millis(500) },
        batches: Durations::default(),
        inbox: 0,
        connected: false,
        link: LinkStats::default(),
        machine: Machine::default(),
        certificates: vec![("ca.pem".into(), Some(2_000_000_000)), ("gone.pem".into(), None)],
    })
}

struct Endpoint {
    at: SocketAddr,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    task: JoinHandle<()>,
}

impl Endpoint {
    async fn start(first: Option<Arc<Snapshot>>) -> Self {
        Self::with(first, PATIENCE).await
    }

    async fn with(first: Option<Arc<Snapshot>>, patience: Patience) -> Self {
        let (snapshots, newest) = watch::channel(first);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        Self { at, snapshots, task: tokio::spawn(accept(listener, newest, patience)) }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).await.unwrap()
    }

    /// Everything the endpoint answers to `request` until it closes.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: plant\r\n\r\n")).await
    }

    async fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the metric is there");
        line.trim().parse().unwrap()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_all(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn metrics_and_health_are_answered_and_nothing_else() {
    let endpoint = Endpoint::start(None).await;
    assert!(endpoint.get("/metrics").await.starts_with("HTTP/1.1 503"), "there is nothing yet");
    assert!(endpoint.get("/healthz").await.starts_with("HTTP/1.1 503"));

    endpoint.snapshots.send_replace(Some(snapshot(Instant::now())));
    let text = endpoint.get("/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
    for line in [
        "loadonce_gateways_up 1\n",
        "loadonce_gateway_up{gateway=\"press-1\"} 1\n",
        "loadonce_messages_ignored_total{cause=\"report\"} 3\n",
        "loadonce_messages_ignored_total{cause=\"stale_will\"} 0\n",
        "loadonce_contributions_refused_total{reason=\"over_norm\"} 0\n",
        "loadonce_verification_duration_seconds_sum 0.5\n",
        "loadonce_certificate_expiry_timestamp_seconds{file=\"ca.pem\"} 2000000000\n",
        "loadonce_certificate_expiry_timestamp_seconds{file=\"gone.pem\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is missing: {text}");
    }
    assert!(endpoint.get("/healthz").await.ends_with("ok\nbroker not connected\n"));
    assert!(endpoint.get("/metrics?x=1").await.starts_with("HTTP/1.1 200"));
    assert!(endpoint.get("/figures.json").await.starts_with("HTTP/1.1 404"));
    let head = endpoint.ask("HEAD /metrics HTTP/1.1\r\nHost: plant\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    // The body is not waited for.
    let post = "POST /metrics HTTP/1.1\r\nHost: plant\r\nContent-Length: 1000000\r\n\r\nx";
    let post = endpoint.ask(post).await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD\r\n"), "{post}");

    let old = Instant::now().checked_sub(STUCK + Duration::from_secs(1)).unwrap();
    endpoint.snapshots.send_replace(Some(snapshot(old)));
    let stuck = endpoint.get("/healthz").await;
    assert!(stuck.starts_with("HTTP/1.1 503") && stuck.contains("has not answered"), "{stuck}");
    assert!(endpoint.figure("loadonce_snapshot_age_seconds").await > STUCK.as_secs_f64(), "it is told");
}

#[tokio::test]
async fn a_head_that_is_too_long_or_no_http_is_refused() {
    let endpoint = Endpoint::start(Some(snapshot(Instant::now()))).await;
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
    let mut stream = endpoint.connect().await;
    // It may hang up before it has read all of it.
    let _refused = stream.write_all(long.as_bytes()).await;
    if let Ok(text) = read_all(&mut stream).await {
        assert!(!text.contains("200 OK"), "{text}");
    }
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
    assert!(endpoint.ask(&many).await.starts_with("HTTP/1.1 431"), "too many headers");
    let nonsense = endpoint.ask("\x16\x03\x01\r\n\r\n").await;
    assert!(nonsense.is_empty() || nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
    assert_eq!(endpoint.figure("loadonce_metrics_connections_cut_off_total").await, 3.0);
}

#[tokio::test]
async fn who_holds_connections_open_loses_them_to_who_asks() {
    let endpoint = Endpoint::start(Some(snapshot(Instant::now()))).await;
    let mut held = Vec::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        let mut stream = endpoint.connect().await;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        held.push(stream);
    }
    // All of them are accepted before this one.
    let cut = endpoint.figure("loadonce_metrics_connections_cut_off_total").await;
    assert_eq!(cut, (3 * MAX_CONNECTIONS + 1) as f64);
    let gone = read_all(&mut held[0]).await;
    assert!(gone.map_or(true, |text| text.is_empty()), "the oldest was cut off");
}

/// A client that asks for nothing, and one that asks a byte at a time: both are cut off, the one after the time to
/// ask, the other after the time for everything.
#[tokio::test]
async fn slow_clients_are_cut_off() {
    let asking = Duration::from_millis(300);
    for (altogether, dripping) in [(Duration::from_mins(10), false), (asking, true)] {
        let patience =
            Patience { asking: if dripping { Duration::from_mins(10) } else { asking }, altogether };
        let endpoint = Endpoint::with(Some(snapshot(Instant::now())), patience).await;
        let mut stream = endpoint.connect().await;
        let begun = Instant::now();
        let (mut reading, mut writing) = stream.split();
        let drip = async {
            let request = b"GET /metrics HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x'));
            for byte in request {
                // Once it is cut off, reading tells.
                let _gone = writing.write_all(&[*byte]).await;
                sleep(Duration::from_millis(20)).await;
            }
        };
        let mut text = String::new();
        tokio::select! {
            _ = reading.read_to_string(&mut text) => {}
            () = drip, if dripping => {}
        }
        assert!(!text.contains("200 OK"), "{text}");
        assert!(begun.elapsed() >= asking, "{:?}", begun.elapsed());
        assert_eq!(endpoint.figure("loadonce_metrics_connections_cut_off_total").await, 1.0);
    }
}

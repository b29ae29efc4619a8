//! The link against a real broker.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadonce_link::{Event, Link, LinkError, LinkHandle, Qos, Will};
use support::{DEADLINE, Mosquitto, config, connected, message, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const ONCE: Qos = Qos::AtLeastOnce;

async fn start(broker: &Mosquitto, id: &str, filters: &[&str]) -> (LinkHandle, Receiver<Event>) {
    let mut config = config(&broker.url(), id);
    config.subscriptions = filters.iter().map(|filter| ((*filter).to_owned(), ONCE)).collect();
    let (handle, mut events) = Link::start(config).unwrap();
    connected(&mut events).await;
    (handle, events)
}

#[tokio::test]
async fn messages_go_both_ways() {
    let broker = Mosquitto::start("").await;
    let (a, mut a_events) = start(&broker, "a", &["to/a", "all/#"]).await;
    let (b, mut b_events) = start(&broker, "b", &["to/b"]).await;
    a.publish("to/b", "hello", ONCE, false).await.unwrap();
    assert_eq!(message(&mut b_events).await, ("to/b".to_owned(), b"hello".to_vec()));
    b.try_publish("all/x/y", vec![7; 60_000], Qos::AtMostOnce, false).unwrap();
    assert_eq!(message(&mut a_events).await, ("all/x/y".to_owned(), vec![7; 60_000]));
    // In order, and more than fit into any queue.
    for n in 0..500u32 {
        b.publish("to/a", n.to_le_bytes(), ONCE, false).await.unwrap();
    }
    for n in 0..500u32 {
        assert_eq!(message(&mut a_events).await.1, n.to_le_bytes());
    }
    assert_eq!(b.stats().dropped_publishes, 0);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once() {
    let broker = Mosquitto::start("").await;
    let (link, _events) = start(&broker, "a", &[]).await;
    let too_large = link.publish("t", vec![0; 65_536], ONCE, false).await;
    assert!(matches!(too_large, Err(LinkError::TooLarge { max: 65_536, .. })), "{too_large:?}");
    for topic in ["", "a/#", "+/b"] {
        assert!(matches!(link.publish(topic, "x", ONCE, false).await, Err(LinkError::Topic(_))));
    }
    link.close().await;
    assert!(matches!(link.publish("t", "x", ONCE, false).await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn invariant_11_every_reconnect_resubscribes() {
    let mut broker = Mosquitto::start("").await;
    // More filters than fit into one SUBSCRIBE.
    let filters: Vec<_> = (0..19).map(|n| format!("f/{n}")).collect();
    let mut config = config(&broker.url(), "gateway");
    config.subscriptions = filters.iter().map(|filter| (filter.clone(), ONCE)).collect();
    let (link, mut events) = Link::start(config).unwrap();
    for round in 0..3u8 {
        connected(&mut events).await;
        let (other, _other_events) = start(&broker, "other", &[]).await;
        for filter in &filters {
            other.publish(filter.as_str(), [round], ONCE, false).await.unwrap();
            assert_eq!(message(&mut events).await, (filter.clone(), vec![round]));
        }
        drop(other);
        broker.kill();
        until(&mut events, |event| matches!(event, Event::Disconnected { .. }).then_some(())).await;
        let refused = link.publish("t", "lost", ONCE, false).await;
        assert!(matches!(refused, Err(LinkError::NotConnected)), "{refused:?}");
        assert_eq!(link.stats().dropped_publishes, u64::from(round) + 1);
        broker.restart().await;
    }
    connected(&mut events).await;
    assert!(link.stats().connects >= 4);
    assert_eq!(link.stats().subscription_refusals, 0);
}

#[tokio::test]
async fn an_unreachable_broker_is_an_event_and_not_an_end() {
    let (port, _held) = support::refusing_port();
    let (link, mut events) = Link::start(config(&format!("mqtt://127.0.0.1:{port}"), "a")).unwrap();
    for _ in 0..4 {
        until(&mut events, |event| match event {
            Event::Disconnected { reason, retry_in } => {
                assert!(reason.contains("cannot be reached"), "{reason}");
                assert!(retry_in <= Duration::from_millis(200));
                Some(())
            }
            other => panic!("{other:?}"),
        })
        .await;
    }
    assert_eq!(link.stats().connects, 0);
    timeout(DEADLINE, link.close()).await.unwrap();
}

/// Mosquitto confirms every subscription under a plain ACL file; its security plugin refuses.
#[tokio::test]
async fn a_refused_subscription_is_an_error_someone_sees() {
    let broker = Mosquitto::start_with_open_topics().await;
    let mut config = config(&broker.url(), "a");
    config.subscriptions = ["open/a", "closed/a", "open/b"].map(|filter| (filter.to_owned(), ONCE)).to_vec();
    let (link, mut events) = Link::start(config).unwrap();
    for _ in 0..2 {
        let refused = until(&mut events, |event| match event {
            Event::SubscriptionRefused { topic } => Some(topic),
            Event::Connected { .. } => panic!("connected without its subscription"),
            _ => None,
        })
        .await;
        assert_eq!(refused, "closed/a");
    }
    assert!(link.stats().subscription_refusals >= 2);
    start(&broker, "b", &["open/a"]).await;
}

#[tokio::test]
async fn invariant_10_an_oversized_message_causes_no_reconnect_loop() {
    let broker = Mosquitto::start("").await;
    // A sender that may send what the receiver may not get; QoS 1, one of them retained.
    let mut large = config(&broker.url(), "large");
    large.max_packet_bytes = 32 * 1024 * 1024;
    large.queue_bytes = 64 * 1024 * 1024;
    large.event_bytes = 64 * 1024 * 1024;
    let (large, mut large_events) = Link::start(large).unwrap();
    connected(&mut large_events).await;
    large.publish("gw/big", vec![1; 20_000_000], ONCE, true).await.unwrap();
    large.publish("gw/marker", "retained", ONCE, true).await.unwrap();
    let mut marker = config(&broker.url(), "marker");
    marker.subscriptions = vec![("gw/marker".to_owned(), ONCE)];
    let (_marker, mut marker_events) = Link::start(marker).unwrap();
    message(&mut marker_events).await;

    let (small, mut events) = start(&broker, "small", &["gw/+"]).await;
    let mut seen = (0, 0);
    until(&mut events, |event| {
        match event {
            Event::Oversized { topic, bytes } => {
                assert_eq!((topic.as_str(), bytes), ("gw/big", 20_000_000 + 5 + 2 + 6 + 2));
                seen.0 += 1;
            }
            Event::Message { topic, payload, .. } => {
                assert_eq!((topic.as_str(), payload.as_slice()), ("gw/marker", b"retained".as_slice()));
                seen.1 += 1;
            }
            Event::Disconnected { reason, .. } => panic!("{reason}"),
            _ => {}
        }
        (seen == (1, 1)).then_some(())
    })
    .await;
    // More of them than Mosquitto keeps in flight unconfirmed (20): each must have been confirmed.
    for _ in 0..30 {
        large.publish("gw/big", vec![2; 70_000], ONCE, false).await.unwrap();
    }
    large.publish("gw/last", "the end", ONCE, false).await.unwrap();
    let last = until(&mut events, |event| match event {
        Event::Message { topic, .. } => Some(topic),
        Event::Disconnected { reason, .. } => panic!("{reason}"),
        _ => None,
    })
    .await;
    assert_eq!(last, "gw/last");
    let stats = small.stats();
    assert_eq!((stats.connects, stats.oversized, stats.malformed), (1, 31, 0));
}

/// Copies between a client and a broker and counts on its own.
async fn counting_proxy(broker: u16) -> (u16, Arc<[AtomicU64; 2]>) {
    async fn copy(
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
        count: &AtomicU64,
    ) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            count.fetch_add(read as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        let _gone = to.shutdown().await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let shared = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            tokio::join!(
                copy(client_read, server_write, &shared[0]),
                copy(server_read, client_write, &shared[1])
            );
        }
    });
    (port, counts)
}

#[tokio::test]
async fn bytes_are_counted_as_they_cross_the_brokers_socket() {
    let broker = Mosquitto::start("").await;
    let (port, counts) = counting_proxy(broker.port).await;
    let mut config = config(&format!("mqtt://127.0.0.1:{port}"), "counted");
    config.subscriptions = vec![("echo/#".to_owned(), ONCE)];
    let (link, mut events) = Link::start(config).unwrap();
    connected(&mut events).await;
    for size in [0, 1, 1_000, 50_000] {
        link.publish("echo/x", vec![5; size], ONCE, false).await.unwrap();
        assert_eq!(message(&mut events).await.1.len(), size);
    }
    link.close().await;
    assert!(events.recv().await.is_none());
    let stats = link.stats();
    let [up, down] = [&counts[0], &counts[1]].map(|count| count.load(Ordering::SeqCst));
    assert_eq!((stats.bytes_up, stats.bytes_down), (up, down));
    // CONNECT (12 + 9), SUBSCRIBE (2 + 2 + 2 + 6 + 1), four messages and their confirmations, DISCONNECT.
    let messages: u64 = [0, 1, 1_000, 50_000]
        .iter()
        .map(|size| loadonce_wire::limits::packet_bytes("echo/x".len(), *size) as u64)
        .sum();
    assert_eq!(up, 21 + 13 + messages + 4 * 4 + 2);
    assert_eq!(down, 4 + 5 + messages + 4 * 4);
}

async fn with_will(broker: &Mosquitto) -> (LinkHandle, Receiver<Event>) {
    let mut config = config(&broker.url(), "gateway");
    config.will = Some(Will { topic: "state".into(), payload: b"down".to_vec(), qos: ONCE, retain: true });
    let (handle, mut events) = Link::start(config).unwrap();
    connected(&mut events).await;
    (handle, events)
}

#[tokio::test]
async fn close_sends_what_is_queued_and_no_will() {
    let broker = Mosquitto::start("").await;
    let (_watcher, mut watched) = start(&broker, "watcher", &["state", "end"]).await;
    let (link, mut events) = with_will(&broker).await;
    for n in 0..40u8 {
        link.publish("state", [n], ONCE, false).await.unwrap();
    }
    link.close().await;
    assert!(events.recv().await.is_none());
    for n in 0..40u8 {
        assert_eq!(message(&mut watched).await.1, [n]);
    }
    // Whatever the broker published for the closed link would be before this.
    let (other, _other_events) = start(&broker, "other", &[]).await;
    other.publish("end", "end", ONCE, false).await.unwrap();
    assert_eq!(message(&mut watched).await.0, "end");
}

#[tokio::test]
async fn abort_lets_the_broker_publish_the_will() {
    let broker = Mosquitto::start("").await;
    let (_watcher, mut watched) = start(&broker, "watcher", &["state"]).await;
    let (link, mut events) = with_will(&broker).await;
    link.abort();
    assert_eq!(message(&mut watched).await, ("state".to_owned(), b"down".to_vec()));
    assert!(events.recv().await.is_none());
}

#[tokio::test]
async fn the_last_handle_closes_the_link() {
    let broker = Mosquitto::start("").await;
    let (_watcher, mut watched) = start(&broker, "watcher", &["state", "end"]).await;
    let (link, mut events) = with_will(&broker).await;
    drop(link);
    assert!(timeout(DEADLINE, events.recv()).await.unwrap().is_none());
    let (other, _other_events) = start(&broker, "other", &[]).await;
    other.publish("end", "end", ONCE, false).await.unwrap();
    assert_eq!(message(&mut watched).await.0, "end");
}

const FLOOD: u32 = 400;

/// A link whose owner has taken nothing of a flood of 400 × 20 KB that the broker holds for it.
async fn flooded(broker: &Mosquitto) -> (LinkHandle, Receiver<Event>, LinkHandle, Receiver<Event>) {
    let mut config = config(&broker.url(), "slow");
    config.subscriptions = vec![("in".to_owned(), ONCE)];
    let (slow, mut events) = Link::start(config).unwrap();
    connected(&mut events).await;
    let (fast, mut fast_events) = start(broker, "fast", &["out", "mark"]).await;
    for n in 0..FLOOD {
        let payload = [n.to_le_bytes().to_vec(), vec![0; 20_000]].concat();
        fast.publish("in", payload, ONCE, false).await.unwrap();
    }
    fast.publish("mark", "", ONCE, false).await.unwrap();
    assert_eq!(message(&mut fast_events).await.0, "mark");
    (slow, events, fast, fast_events)
}

#[tokio::test]
async fn a_slow_owner_holds_the_broker_back() {
    let broker = Mosquitto::start("max_queued_messages 0\n").await;
    let (slow, mut events, _fast, mut fast_events) = flooded(&broker).await;
    // Few enough that nobody waits for a confirmation.
    for n in 0..100u32 {
        slow.try_publish("out", n.to_le_bytes(), ONCE, false).unwrap();
        assert_eq!(message(&mut fast_events).await.1, n.to_le_bytes());
    }
    let down = slow.stats().bytes_down;
    assert!(down < 4_000_000, "{down} bytes were read of 8,000,000 that nobody took");
    for n in 0..FLOOD {
        assert_eq!(message(&mut events).await.1[..4], n.to_le_bytes());
    }
    let stats = slow.stats();
    assert_eq!((stats.connects, stats.dropped_publishes, stats.dropped_messages), (1, 0, 0));
}

/// The confirmations an owner waits for come behind messages it does not take: neither may wait for the other.
#[tokio::test]
async fn invariant_03_an_owner_that_only_publishes_stalls_nothing() {
    let broker = Mosquitto::start("max_queued_messages 0\n").await;
    let (slow, mut events, _fast, mut fast_events) = flooded(&broker).await;
    for n in 0..500u32 {
        timeout(DEADLINE, slow.publish("out", n.to_le_bytes(), ONCE, false)).await.unwrap().unwrap();
    }
    for n in 0..500u32 {
        assert_eq!(message(&mut fast_events).await.1, n.to_le_bytes());
    }
    let mut taken = 0;
    while taken + slow.stats().dropped_messages < u64::from(FLOOD) {
        message(&mut events).await;
        taken += 1;
    }
    let stats = slow.stats();
    assert!(taken >= 100, "2 MiB hold a hundred of them, {taken} were left");
    assert!(stats.dropped_messages > 0, "the bound was never met");
    assert_eq!((stats.connects, stats.dropped_publishes), (1, 0));
}

#[tokio::test]
async fn two_of_one_name_are_told_so() {
    let broker = Mosquitto::start("").await;
    let (_one, mut events) = start(&broker, "press-7", &["x"]).await;
    let (_other, mut theirs) = start(&broker, "press-7", &["x"]).await;
    // The twin's events are taken, else its link would wait for that.
    tokio::spawn(async move { while theirs.recv().await.is_some() {} });
    loop {
        let lost = |event| match event {
            Event::Disconnected { reason, .. } => Some(reason),
            _ => None,
        };
        if until(&mut events, lost).await.contains("is another one called press-7?") {
            break;
        }
    }
}

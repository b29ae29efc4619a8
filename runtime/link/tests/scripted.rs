//! What a well-behaved broker never does, from one that follows a script.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use loadonce_link::{Event, Link, LinkError, Qos};
use support::{accept, config, connected, message, read_packet, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ONCE: Qos = Qos::AtLeastOnce;

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://127.0.0.1:{}", listener.local_addr().unwrap().port());
    (listener, url)
}

/// A PUBLISH with a one-byte topic and length field.
fn publish(topic: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x30, 3 + payload.len() as u8, 0, 1, topic], payload].concat()
}

#[tokio::test]
async fn invariant_11_a_refused_or_missing_confirmation_is_an_error_someone_sees() {
    // For each answer to a SUBSCRIBE for a and b: the filters that must be reported.
    let answers: [(&[u8], &[&str]); 4] =
        [(&[0, 0x80], &["b"]), (&[0x80, 0x80], &["a", "b"]), (&[1], &["b"]), (&[0x80], &["a", "b"])];
    let (listener, url) = listener().await;
    let mut config = config(&url, "a");
    config.subscriptions = vec![("a".to_owned(), ONCE), ("b".to_owned(), ONCE)];
    let (link, mut events) = Link::start(config).unwrap();
    for (codes, expected) in answers {
        let mut stream = accept(&listener).await;
        let (first, body) = read_packet(&mut stream).await.unwrap();
        assert_eq!(first, 0x82);
        let suback = [&[0x90, 2 + codes.len() as u8, body[0], body[1]], codes].concat();
        stream.write_all(&suback).await.unwrap();
        for filter in expected {
            let refused = until(&mut events, |event| match event {
                Event::SubscriptionRefused { topic } => Some(topic),
                Event::Connected { .. } => panic!("connected without its subscriptions"),
                _ => None,
            })
            .await;
            assert_eq!(refused, *filter);
        }
        assert!(!link.is_connected());
        // The link leaves by itself.
        while read_packet(&mut stream).await.is_some() {}
    }
    assert_eq!(link.stats().subscription_refusals, 6);
}

#[tokio::test]
async fn a_message_before_the_confirmation_waits_for_connected() {
    let (listener, url) = listener().await;
    let mut config = config(&url, "a");
    config.subscriptions = vec![("a".to_owned(), ONCE)];
    let (_link, mut events) = Link::start(config).unwrap();
    let mut stream = accept(&listener).await;
    let (_, body) = read_packet(&mut stream).await.unwrap();
    stream.write_all(&publish(b'a', b"early")).await.unwrap();
    stream.write_all(&[0x90, 3, body[0], body[1], 1]).await.unwrap();
    assert_eq!(events.recv().await, Some(Event::Connected { session: false }));
    assert_eq!(message(&mut events).await.1, b"early");
}

#[tokio::test]
async fn invariant_10_malformed_messages_are_counted_and_survived() {
    let (listener, url) = listener().await;
    let (link, mut events) = Link::start(config(&url, "a")).unwrap();
    let mut stream = accept(&listener).await;
    connected(&mut events).await;
    // Not text, at QoS 1: confirmed all the same.
    stream.write_all(&[0x32, 6, 0, 1, 0xff, 0, 9, 1]).await.unwrap();
    assert_eq!(read_packet(&mut stream).await, Some((0x40, vec![0, 9])));
    stream.write_all(&[0x30, 1, 0]).await.unwrap();
    stream.write_all(&publish(b't', b"fine")).await.unwrap();
    let mut malformed = 0;
    until(&mut events, |event| match event {
        Event::Malformed { .. } => {
            malformed += 1;
            None
        }
        Event::Message { payload, .. } => {
            assert_eq!(payload, b"fine");
            Some(())
        }
        other => panic!("{other:?}"),
    })
    .await;
    let stats = link.stats();
    assert_eq!((stats.malformed, stats.connects), (2, 1));
    assert!(malformed <= 2);
}

#[tokio::test]
async fn a_broker_that_breaks_the_protocol_is_left() {
    let (listener, url) = listener().await;
    let (_link, mut events) = Link::start(config(&url, "a")).unwrap();
    let mut stream = accept(&listener).await;
    connected(&mut events).await;
    stream.write_all(&[0x10, 0]).await.unwrap();
    until(&mut events, |event| match event {
        Event::Disconnected { reason, .. } => {
            assert!(reason.contains("type 1"), "{reason}");
            Some(())
        }
        _ => None,
    })
    .await;
    drop(accept(&listener).await);
}

#[tokio::test]
async fn nothing_of_one_connection_is_sent_on_the_next() {
    let (listener, url) = listener().await;
    let (link, mut events) = Link::start(config(&url, "a")).unwrap();
    let mut stream = accept(&listener).await;
    connected(&mut events).await;
    // Never confirmed; more than may be in flight, so some of it waits in every queue.
    for n in 0..140u8 {
        link.publish("old", [n], ONCE, false).await.unwrap();
    }
    let mut written = 0;
    while written < 100 {
        assert_eq!(read_packet(&mut stream).await.unwrap().0 & 0xf0, 0x30);
        written += 1;
    }
    drop(stream);
    let mut stream = accept(&listener).await;
    connected(&mut events).await;
    assert_eq!(link.stats().dropped_publishes, 140 - 100);
    link.publish("new", [0], ONCE, false).await.unwrap();
    let (_, body) = read_packet(&mut stream).await.unwrap();
    assert_eq!(body[..5], *b"\0\x03new");
}

#[tokio::test]
async fn a_full_queue_is_said() {
    let (listener, url) = listener().await;
    let mut config = config(&url, "a");
    config.queue_bytes = 100_000;
    let (link, mut events) = Link::start(config).unwrap();
    let stream = accept(&listener).await;
    connected(&mut events).await;
    // The broker reads nothing: sooner or later every buffer is full.
    let refused = loop {
        match link.try_publish("t", vec![0; 60_000], ONCE, false) {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LinkError::QueueFull), "{refused}");
    assert_eq!(link.stats().dropped_publishes, 1);
    drop(stream);
}

#[tokio::test]
async fn a_dead_line_is_noticed_by_the_pings() {
    let (listener, url) = listener().await;
    let mut config = config(&url, "a");
    config.keep_alive = std::time::Duration::from_secs(1);
    let (_link, mut events) = Link::start(config).unwrap();
    let mut stream = accept(&listener).await;
    connected(&mut events).await;
    // Reads, but answers nothing any more.
    let silent = async {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        rest
    };
    let (rest, reason) = tokio::join!(
        silent,
        until(&mut events, |event| match event {
            Event::Disconnected { reason, .. } => Some(reason),
            _ => None,
        })
    );
    assert_eq!(rest, [0xc0, 0]);
    assert!(reason.contains("ping"), "{reason}");
}

#[tokio::test]
async fn a_wrong_password_is_named() {
    let (listener, url) = listener().await;
    let (_link, mut events) = Link::start(config(&url, "a")).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_packet(&mut stream).await.unwrap();
    stream.write_all(&[0x20, 2, 0, 5]).await.unwrap();
    let reason = until(&mut events, |event| match event {
        Event::Disconnected { reason, .. } => Some(reason),
        other => panic!("{other:?}"),
    })
    .await;
    assert!(reason.contains("NotAuthorized") && reason.contains("password"), "{reason}");
}

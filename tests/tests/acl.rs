//! The shipped access rules on a real Mosquitto: a gateway reaches its own branch and the tasks, and nothing else.

use std::time::Duration;

use loadonce_link::tls::{Tls, TlsFiles};
use loadonce_link::{Event, Link, LinkConfig, LinkHandle, Qos};
use loadonce_tests::secure::{SecureSite, now};
use loadonce_tests::site::{digits, topic_of};
use loadonce_trust::{AGGREGATOR, Subject};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

const ONCE: Qos = Qos::AtLeastOnce;
/// What everybody may hear at the end, so that nothing can come after it.
const LAST: &str = "task/last";

struct Peer {
    link: LinkHandle,
    events: Receiver<Event>,
}

async fn peer(site: &SecureSite, id: &str, files: TlsFiles, filters: &[String]) -> Peer {
    let mut config = LinkConfig::new(&site.url(), id, 65_536).expect("a good URL");
    config.tls = Some(Tls::new(files));
    config.subscriptions = filters.iter().map(|filter| (filter.clone(), ONCE)).collect();
    let (link, events) = Link::start(config).expect("the settings are good");
    let mut peer = Peer { link, events };
    peer.until(|event| matches!(event, Event::Connected { .. })).await;
    peer
}

impl Peer {
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Vec<String> {
        let mut topics = Vec::new();
        loop {
            let next = timeout(Duration::from_secs(30), self.events.recv()).await.expect("an event comes");
            let event = next.expect("the link lives");
            if let Event::Message { topic, .. } = &event {
                topics.push(topic.clone());
            }
            if wanted(&event) {
                return topics;
            }
        }
    }

    async fn heard(&mut self) -> Vec<String> {
        let last = topic_of(LAST);
        let mut topics =
            self.until(|event| matches!(event, Event::Message { topic, .. } if *topic == last)).await;
        topics.pop();
        topics.sort();
        topics.dedup();
        topics
    }

    async fn say(&self, topics: &[String]) {
        for topic in topics {
            self.link.publish(topic.as_str(), "x", ONCE, false).await.expect("it is connected");
        }
    }
}

/// Every topic there is, for a gateway.
fn of(gateway: &str) -> Vec<String> {
    let levels = [
        "state",
        "report",
        "up",
        "down",
        "cmd/1",
        "cmd/1/status",
        "in/digits/s",
        "label/digits/s",
        "out/digits/s",
        "more",
    ];
    levels.iter().map(|level| topic_of(&format!("gw/{gateway}/{level}"))).collect()
}

fn named(topics: &[&str]) -> Vec<String> {
    let mut topics: Vec<String> = topics.iter().map(|topic| topic_of(topic)).collect();
    topics.sort();
    topics
}

#[test]
fn gateways_that_try_each_others_topics_get_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
    runtime.block_on(async {
        let site = SecureSite::new(&[digits(1, 0, 1)]);
        let everything = ["#".to_owned()];
        let sign = |name| site.sign(name, Subject::Gateway(name), now(), 1);
        let mut operator = peer(&site, "operator", site.operator(), &everything).await;
        let aggregator_files = site.sign("a", Subject::Aggregator, now(), 1);
        let mut aggregator = peer(&site, AGGREGATOR, aggregator_files, &everything).await;
        let mut mine = peer(&site, "press-1", sign("press-1"), &everything).await;
        let mut other = peer(&site, "press-2", sign("press-2"), &everything).await;

        // What a gateway says reaches others only from its own branch, and no task is its to define.
        let mut tried =
            [of("press-1"), of("press-2"), named(&["task/digits", "task/digits/module/0123", LAST])].concat();
        tried.push("loadonce/v1/other-site/gw/press-2/up".into());
        tried.push("anything".into());
        mine.say(&tried).await;
        // Its own state comes back to it, as it must, after everything before was dealt with.
        mine.link.publish(topic_of("gw/press-1/state"), "end", ONCE, false).await.expect("it is connected");
        let back =
            mine.until(|event| matches!(event, Event::Message { payload, .. } if payload == b"end")).await;
        assert_eq!(back, vec![topic_of("gw/press-1/state"); 2]);
        operator.say(&[topic_of(LAST)]).await;
        let own = ["cmd/1/status", "out/digits/s", "report", "state", "up"]
            .map(|level| format!("gw/press-1/{level}"));
        assert_eq!(operator.heard().await, named(&own.each_ref().map(String::as_str)));
        assert_eq!(
            aggregator.heard().await,
            named(&["gw/press-1/report", "gw/press-1/state", "gw/press-1/up"])
        );
        assert_eq!(other.heard().await, Vec::<String>::new());
        assert_eq!(mine.heard().await, Vec::<String>::new(), "nothing but its state");

        // What is said to one gateway reaches that one.
        let all = [of("press-1"), named(&["task/digits", "task/digits/module/0123"])].concat();
        operator.say(&all).await;
        operator.say(&[topic_of(LAST)]).await;
        let to_it = [
            "gw/press-1/state",
            "gw/press-1/down",
            "gw/press-1/cmd/1",
            "gw/press-1/in/digits/s",
            "gw/press-1/label/digits/s",
            "task/digits",
            "task/digits/module/0123",
        ];
        assert_eq!(mine.heard().await, named(&to_it));
        assert_eq!(other.heard().await, named(&["task/digits", "task/digits/module/0123"]));

        // The aggregator answers and publishes tasks; it does not play gateway.
        operator.heard().await;
        aggregator.heard().await;
        aggregator
            .say(&[of("press-2"), named(&["task/digits", "task/digits/module/0123", LAST])].concat())
            .await;
        assert_eq!(
            other.heard().await,
            named(&["gw/press-2/down", "task/digits", "task/digits/module/0123"])
        );
    });
}

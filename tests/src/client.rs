//! A plain MQTT client: rumqttc itself, not the product's link.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{Event, MqttOptions, NetworkOptions, Packet, QoS};

use crate::wait::until;

/// Largest packet this client handles.
const MAX_PACKET: usize = 64 * 1024 * 1024;
/// Pause after a lost connection.
const AGAIN: Duration = Duration::from_millis(50);

/// A message that arrived.
#[derive(Debug, Clone)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Whether it came from the broker's retained ones.
    pub retain: bool,
}

impl Message {
    /// The payload as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Vec<Message>>,
    /// Subscriptions confirmed in all connections so far.
    confirmed: AtomicUsize,
    published: AtomicUsize,
    stopped: AtomicBool,
}

/// Connected for as long as it lives; connects and subscribes again by itself.
pub struct Client {
    requests: rumqttc::Client,
    shared: Arc<Shared>,
    sent: AtomicUsize,
}

impl Client {
    /// Connects and subscribes `topics`; every subscription is confirmed on return.
    pub fn connect(port: u16, id: &str, topics: &[String]) -> Self {
        Self::connect_as(port, id, topics, None)
    }

    /// The same with a user and a password.
    pub fn connect_as(port: u16, id: &str, topics: &[String], who: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        options.set_keep_alive(Duration::from_mins(1));
        if let Some((user, password)) = who {
            options.set_credentials(user, password);
        }
        let (client, mut connection) = rumqttc::Client::new(options, 1024);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        connection.eventloop.set_network_options(network);
        let shared = Arc::new(Shared::default());
        let (kept, subscriber, wanted) = (shared.clone(), client.clone(), topics.to_vec());
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for topic in &wanted {
                            // The queue is far longer than the topics; a lost connection asks again anyway.
                            let _ = subscriber.try_subscribe(topic, QoS::AtLeastOnce);
                        }
                        if wanted.is_empty() {
                            kept.confirmed.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        kept.confirmed.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(Packet::PubAck(_))) => {
                        kept.published.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        inbox(&kept).push(Message {
                            topic: publish.topic,
                            payload: publish.payload.to_vec(),
                            retain: publish.retain,
                        });
                    }
                    Ok(_) => {}
                    Err(_) if kept.stopped.load(Ordering::SeqCst) => return,
                    Err(_) => std::thread::sleep(AGAIN),
                }
            }
        });
        let needed = topics.len().max(1);
        until("confirmed subscriptions of the test's own client", || {
            (shared.confirmed.load(Ordering::SeqCst) >= needed).then_some(())
        });
        Self { requests: client, shared, sent: AtomicUsize::new(0) }
    }

    /// Publishes at QoS 1; see [`Client::settle`].
    pub fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.send(topic, payload.into(), false);
    }

    /// Publishes a retained message at QoS 1.
    pub fn retain(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.send(topic, payload.into(), true);
    }

    fn send(&self, topic: &str, payload: Vec<u8>, retain: bool) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        self.requests
            .publish(topic, QoS::AtLeastOnce, retain, payload)
            .expect("the client's thread runs as long as the client");
    }

    /// Waits until the broker has confirmed everything that was published. Only for a broker that stays up.
    pub fn settle(&self) {
        until("confirmation of the test's own messages", || {
            let (sent, published) = (&self.sent, &self.shared.published);
            (published.load(Ordering::SeqCst) >= sent.load(Ordering::SeqCst)).then_some(())
        });
    }

    /// How many subscriptions were confirmed so far; it rises with every new connection.
    pub fn confirmed(&self) -> usize {
        self.shared.confirmed.load(Ordering::SeqCst)
    }

    /// Messages so far; the place where a later look begins.
    pub fn mark(&self) -> usize {
        inbox(&self.shared).len()
    }

    /// The messages from `mark` on.
    pub fn since(&self, mark: usize) -> Vec<Message> {
        inbox(&self.shared).get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits for the first message from `mark` on whose topic ends in `topic` and that `fits`.
    pub fn wait(&self, mark: usize, topic: &str, fits: impl Fn(&Message) -> bool) -> Message {
        until(&format!("message on …{topic}"), || {
            let inbox = inbox(&self.shared);
            inbox.iter().skip(mark).find(|m| m.topic.ends_with(topic) && fits(m)).cloned()
        })
    }
}

fn inbox(shared: &Shared) -> MutexGuard<'_, Vec<Message>> {
    shared.inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // The thread ends with the connection, however that ends.
        let _ = self.requests.try_disconnect();
    }
}

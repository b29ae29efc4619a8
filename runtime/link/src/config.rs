//! What a link needs to know, checked before it starts.

use std::fmt::{self, Debug, Display, Formatter};
use std::time::Duration;

use loadonce_wire::limits::packet_bytes;

use crate::tls::Tls;
use crate::{Backoff, LinkError};

/// The port of MQTT without TLS (IANA).
const DEFAULT_PORT: u16 = 1883;
/// The port of MQTT over TLS (IANA).
const DEFAULT_TLS_PORT: u16 = 8883;
/// Largest packet of MQTT 3.1.1 (section 2.2.3): 256 MiB less one, and its fixed header.
const MQTT_MAX_PACKET: usize = 268_435_455 + 5;
/// Longest string or binary field of MQTT 3.1.1 (section 1.5.3) in bytes.
const MQTT_MAX_FIELD: usize = 65_535;

/// Delivery of one message between this client and the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

impl Broker {
    /// Reads `mqtt://host[:port]`, or `mqtts://` for TLS; an IPv6 address is written in brackets.
    pub fn parse(url: &str) -> Result<Self, LinkError> {
        let wrong = |why| LinkError::BrokerUrl { url: url.to_owned(), why };
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (false, rest),
            Some(("mqtts" | "ssl", rest)) => (true, rest),
            _ => return Err(wrong("it does not start with mqtt:// or mqtts://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(wrong("user and password have settings of their own"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("nothing may follow the port"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(|| wrong("a ] is missing"))?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or_else(|| wrong("a : is missing after ]"))?),
                };
                (host, port)
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong("the port is not a number below 65536"))?,
            None if tls => DEFAULT_TLS_PORT,
            None => DEFAULT_PORT,
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl Display for Broker {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// User and password; the password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Debug for Credentials {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The message the broker publishes when the link goes without a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Quality of service.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
}

/// Settings of one link.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Where the broker is.
    pub broker: Broker,
    /// Client id; a second connection with the same id makes the broker drop the first.
    pub client_id: String,
    /// User and password, if the broker asks for them.
    pub credentials: Option<Credentials>,
    /// TLS, for a broker that is named by `mqtts://`.
    pub tls: Option<Tls>,
    /// Interval of pings, 1 s to 18 h. A dead line is noticed after two of them.
    pub keep_alive: Duration,
    /// The last will.
    pub will: Option<Will>,
    /// Topic filters, subscribed to anew on every connection.
    pub subscriptions: Vec<(String, Qos)>,
    /// Largest MQTT packet, in bytes, that is sent or handed up; larger incoming messages are taken out,
    /// counted and reported as [`Event::Oversized`](crate::Event::Oversized).
    pub max_packet_bytes: usize,
    /// Most publishes that wait for the connection, beside the hundred that wait for the broker's confirmation.
    pub queue_messages: usize,
    /// Most bytes of publishes that wait for the connection or, at QoS 1, for the broker's confirmation.
    pub queue_bytes: usize,
    /// Most bytes of events that wait for the owner, each counted with 128 bytes of its own. From half of it on
    /// the link stops reading from the broker, unless the owner itself waits in `publish`: what then exceeds the
    /// bound is dropped and counted.
    pub event_bytes: usize,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// A connection that lasted this long starts the waiting anew from its shortest.
    pub stable_after: Duration,
}

impl LinkConfig {
    /// The usual settings: keep alive 30 s, no will, no subscriptions, 64 publishes of together 1 MiB (or one
    /// packet) queued.
    pub fn new(url: &str, client_id: &str, max_packet_bytes: usize) -> Result<Self, LinkError> {
        Ok(Self {
            broker: Broker::parse(url)?,
            client_id: client_id.to_owned(),
            credentials: None,
            tls: None,
            keep_alive: Duration::from_secs(30),
            will: None,
            subscriptions: Vec::new(),
            max_packet_bytes,
            queue_messages: 64,
            queue_bytes: max_packet_bytes.max(1024 * 1024),
            event_bytes: 2 * 1024 * 1024 + 2 * max_packet_bytes,
            backoff: Backoff::default(),
            stable_after: Duration::from_mins(1),
        })
    }

    pub(crate) fn check(&self) -> Result<(), LinkError> {
        let wrong = |what: String| Err(LinkError::Config(what));
        if self.broker.tls != self.tls.is_some() {
            return wrong(format!("{} and the settings of TLS do not go together", self.broker));
        }
        if self.client_id.is_empty() || self.client_id.len() > MQTT_MAX_FIELD {
            return wrong("the client id must have 1 to 65535 bytes".to_owned());
        }
        // rumqttc panics below one second; the protocol's field is 16 bits of seconds.
        if !(1..=MQTT_MAX_FIELD as u64).contains(&self.keep_alive.as_secs()) {
            return wrong(format!("keep alive {:?} is not within 1 s and 65535 s", self.keep_alive));
        }
        if !(1024..=MQTT_MAX_PACKET).contains(&self.max_packet_bytes) {
            return wrong(format!(
                "a packet bound of {} bytes is not within 1 KiB and 256 MiB",
                self.max_packet_bytes
            ));
        }
        if self.queue_messages == 0 || self.queue_bytes == 0 {
            return wrong("the publish queue needs room for at least one message".to_owned());
        }
        // And for what an event costs beside its payload.
        if self.event_bytes < self.max_packet_bytes + 1024 {
            return wrong(format!(
                "{} bytes of events do not hold one packet of {} bytes",
                self.event_bytes, self.max_packet_bytes
            ));
        }
        if self.queue_bytes > u32::MAX as usize {
            return wrong("the publish queue is bounded by at most 4 GiB".to_owned());
        }
        if let Some((filter, _)) = self.subscriptions.iter().find(|(filter, _)| !filter_fits(filter)) {
            return wrong(format!("{filter:?} is not a topic filter of at most 1024 bytes"));
        }
        if let Some(credentials) = &self.credentials
            && credentials.user.len().max(credentials.password.len()) > MQTT_MAX_FIELD
        {
            return wrong("user and password have at most 65535 bytes".to_owned());
        }
        if let Some(will) = &self.will {
            check_topic(&will.topic)?;
            let bytes = packet_bytes(will.topic.len(), will.payload.len());
            // The will travels inside CONNECT, beside the names.
            if bytes + 1024 > self.max_packet_bytes || will.payload.len() > MQTT_MAX_FIELD {
                return Err(LinkError::TooLarge {
                    topic: will.topic.clone(),
                    bytes,
                    max: self.max_packet_bytes,
                });
            }
        }
        Ok(())
    }
}

fn filter_fits(filter: &str) -> bool {
    filter.len() <= 1024 && !filter.contains('\0') && rumqttc::valid_filter(filter)
}

/// A topic to publish on: no wildcard, not empty, within the protocol's field (MQTT 3.1.1, section 4.7).
pub(crate) fn check_topic(topic: &str) -> Result<(), LinkError> {
    if topic.is_empty() || topic.len() > MQTT_MAX_FIELD || topic.contains(['+', '#', '\0']) {
        return Err(LinkError::Topic(topic.chars().take(256).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parse =
            |url| Broker::parse(url).map(|broker| (broker.host.clone(), broker.port, broker.to_string()));
        assert_eq!(parse("mqtt://plant").unwrap(), ("plant".into(), 1883, "mqtt://plant:1883".into()));
        assert_eq!(parse("mqtt://10.0.0.1:2883/").unwrap().1, 2883);
        assert_eq!(parse("mqtt://[fe80::1]:7").unwrap(), ("fe80::1".into(), 7, "mqtt://[fe80::1]:7".into()));
        assert_eq!(parse("mqtt://[::1]").unwrap().1, 1883);
        assert_eq!(parse("mqtts://plant").unwrap(), ("plant".into(), 8883, "mqtts://plant:8883".into()));
        for (url, why) in [
            ("plant:1883", "start with mqtt://"),
            ("https://plant", "start with mqtt://"),
            ("mqtt://", "host is missing"),
            ("mqtt://:1883", "host is missing"),
            ("mqtt://plant:99999", "port"),
            ("mqtt://plant:1883/x", "follow the port"),
            ("mqtt://me:secret@plant", "settings of their own"),
            ("mqtt://[::1", "] is missing"),
        ] {
            let error = Broker::parse(url).unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn settings_that_would_panic_or_loop_later_are_refused_now() {
        let good = LinkConfig::new("mqtt://plant", "press-1", 65_536).unwrap();
        good.check().unwrap();
        let bad: [fn(&mut LinkConfig); 7] = [
            |c| c.broker.tls = true,
            |c| c.client_id.clear(),
            |c| c.keep_alive = Duration::from_millis(300),
            |c| c.max_packet_bytes = 10,
            |c| c.queue_messages = 0,
            |c| c.subscriptions.push(("a/#/b".into(), Qos::AtLeastOnce)),
            |c| {
                let payload = vec![0; 65_000];
                c.will = Some(Will { topic: "t".into(), payload, qos: Qos::AtLeastOnce, retain: true });
            },
        ];
        for spoil in bad {
            let mut config = good.clone();
            spoil(&mut config);
            assert!(config.check().is_err(), "{config:?}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let credentials = Credentials { user: "press-1".into(), password: "hunter2".into() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}

//! MQTT 3.1.1 packet boundaries in a broker's stream, and the messages that must not reach rumqttc: bytes in,
//! bytes out, no socket. Memory is bounded by the longest topic (64 KiB), however long the packet.
//!
//! A message taken out leaves a small one in its place, with its packet identifier, that says what it was. So
//! rumqttc confirms it to the broker like any other, in its turn: brokers may insist on the order (section 4.6).

#[cfg(test)]
mod tests;

/// Types of packet (MQTT 3.1.1, section 2.2.1).
const PUBLISH: u8 = 3;
/// What else a broker may send: CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, PINGRESP.
const FROM_BROKER: [u8; 8] = [2, 4, 5, 6, 7, 9, 11, 13];
/// A SUBACK has one byte for each filter; nothing a broker sends besides PUBLISH is larger than this.
const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// How much of a topic is reported.
const SHOWN_TOPIC_BYTES: usize = 256;

/// The broker broke the protocol in a way that cannot be stepped over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("the broker sent a packet without an end (its length field is malformed)")]
    Length,
    #[error("the broker sent a packet of type {0}, which a broker does not send")]
    Type(u8),
    #[error("the broker sent a control packet of {0} bytes")]
    Control(usize),
}

/// The topic of the message left in the place of one taken out. A message that comes with it from outside is
/// itself taken out, so it cannot be forged.
const MARKER: &str = "$loadonce-link/refused";

/// A message that was taken out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The topic's first 256 bytes, as far as it is text.
    pub(crate) topic: String,
    /// Size of the packet in bytes.
    pub(crate) bytes: u64,
    pub(crate) oversized: bool,
    /// The packet identifier to confirm, for a message at QoS 1.
    confirm: Option<u16>,
}

impl Refused {
    /// The PUBLISH packet to leave in its place: payload = oversized u8, bytes u64 little-endian, topic.
    fn write_marker(&self, out: &mut Vec<u8>) {
        let body = 2 + MARKER.len() + if self.confirm.is_some() { 2 } else { 0 } + 9 + self.topic.len();
        out.push(if self.confirm.is_some() { 0x32 } else { 0x30 });
        // At most 256 bytes of topic, each at most three as a replacement character: two bytes of length.
        out.extend_from_slice(&[body as u8 | 0x80, (body >> 7) as u8]);
        out.extend_from_slice(&(MARKER.len() as u16).to_be_bytes());
        out.extend_from_slice(MARKER.as_bytes());
        if let Some(identifier) = self.confirm {
            out.extend_from_slice(&identifier.to_be_bytes());
        }
        out.push(u8::from(self.oversized));
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(self.topic.as_bytes());
    }

    /// Reads what rumqttc hands up; `None` for an ordinary message.
    pub(crate) fn from_message(topic: &str, payload: &[u8]) -> Option<Self> {
        if topic != MARKER {
            return None;
        }
        let (head, topic) = payload.split_first_chunk::<9>()?;
        Some(Self {
            topic: String::from_utf8_lossy(topic).into_owned(),
            bytes: u64::from_le_bytes(*head.last_chunk()?),
            oversized: head[0] != 0,
            confirm: None,
        })
    }
}

/// First byte and length field of a packet, byte by byte.
#[derive(Debug, Default)]
struct FixedHeader {
    bytes: [u8; 5],
    len: usize,
}

impl FixedHeader {
    /// The value of the length field once it is complete.
    fn push(&mut self, byte: u8) -> Result<Option<usize>, Violation> {
        self.bytes[self.len] = byte;
        self.len += 1;
        if self.len == 1 || byte & 0x80 != 0 {
            return if self.len == self.bytes.len() { Err(Violation::Length) } else { Ok(None) };
        }
        let remaining =
            self.bytes[1..self.len].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
        Ok(Some(remaining))
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Passes a broker's stream on, without the messages that are too large or malformed.
#[derive(Debug)]
pub(crate) struct Downstream {
    max_packet_bytes: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Header(FixedHeader),
    /// A PUBLISH whose topic and packet identifier are not all there yet.
    Publish {
        head: Vec<u8>,
        fixed: usize,
        remaining: usize,
    },
    Pass {
        left: usize,
    },
    Swallow {
        left: usize,
        refused: Refused,
    },
}

impl Downstream {
    /// Lets packets of at most `max_packet_bytes` through.
    pub(crate) fn new(max_packet_bytes: usize) -> Self {
        Self { max_packet_bytes, state: State::Header(FixedHeader::default()) }
    }

    /// Takes the next bytes of the stream and appends to `out` what goes on to rumqttc.
    pub(crate) fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Violation> {
        while let Some((&byte, rest)) = input.split_first() {
            match &mut self.state {
                State::Header(header) => {
                    input = rest;
                    if let Some(remaining) = header.push(byte)? {
                        self.state = begin(header, remaining, out)?;
                    }
                }
                State::Publish { head, fixed, remaining } => {
                    input = rest;
                    head.push(byte);
                    if let Some(verdict) = judge(head, *fixed, *remaining, self.max_packet_bytes) {
                        let left = *fixed + *remaining - head.len();
                        self.state = match verdict {
                            Ok(()) => {
                                out.append(head);
                                State::Pass { left }
                            }
                            Err(refused) => State::Swallow { left, refused },
                        };
                    }
                }
                State::Pass { left } => {
                    let taken = input.len().min(*left);
                    out.extend_from_slice(&input[..taken]);
                    *left -= taken;
                    input = &input[taken..];
                }
                State::Swallow { left, .. } => {
                    let taken = input.len().min(*left);
                    *left -= taken;
                    input = &input[taken..];
                }
            }
            self.finish(out);
        }
        Ok(())
    }

    /// A packet without bytes left is over, before any more input.
    fn finish(&mut self, out: &mut Vec<u8>) {
        match &self.state {
            State::Pass { left: 0 } => {}
            State::Swallow { left: 0, refused } => refused.write_marker(out),
            _ => return,
        }
        self.state = State::Header(FixedHeader::default());
    }
}

fn begin(header: &FixedHeader, remaining: usize, out: &mut Vec<u8>) -> Result<State, Violation> {
    let first = header.bytes[0];
    let kind = first >> 4;
    if kind == PUBLISH {
        let (head, fixed) = (header.bytes().to_vec(), header.len);
        // Too short for the length of a topic: nothing of it is worth waiting for.
        if remaining < 2 {
            let refused = Refused {
                topic: String::new(),
                bytes: (fixed + remaining) as u64,
                oversized: false,
                confirm: None,
            };
            return Ok(State::Swallow { left: remaining, refused });
        }
        return Ok(State::Publish { head, fixed, remaining });
    }
    if !FROM_BROKER.contains(&kind) {
        return Err(Violation::Type(kind));
    }
    if remaining > MAX_CONTROL_BYTES {
        return Err(Violation::Control(remaining));
    }
    out.extend_from_slice(header.bytes());
    Ok(State::Pass { left: remaining })
}

/// Decides on a PUBLISH (section 3.3.2) once its topic and packet identifier are in `head`; `None` until then.
fn judge(head: &[u8], fixed: usize, remaining: usize, max: usize) -> Option<Result<(), Refused>> {
    let qos = head[0] >> 1 & 3;
    let variable = &head[fixed..];
    let topic_len = usize::from(u16::from_be_bytes([*variable.first()?, *variable.get(1)?]));
    let identifier_len = if qos == 0 { 0 } else { 2 };
    let bytes = fixed + remaining;
    let refuse = |topic: &[u8], confirm| {
        let topic = String::from_utf8_lossy(&topic[..topic.len().min(SHOWN_TOPIC_BYTES)]).into_owned();
        Some(Err(Refused { topic, bytes: bytes as u64, oversized: bytes > max, confirm }))
    };
    let needed = 2 + topic_len + identifier_len;
    if needed > remaining {
        return refuse(&[], None);
    }
    if variable.len() < needed {
        return None;
    }
    let (topic, identifier) = variable[2..].split_at(topic_len);
    let identifier = identifier.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
    let usable = std::str::from_utf8(topic)
        .is_ok_and(|topic| !topic.is_empty() && !topic.contains(['+', '#', '\0']) && topic != MARKER);
    if bytes <= max && usable && qos < 3 && identifier != Some(0) {
        return Some(Ok(()));
    }
    // Only QoS 1 is closed by one packet; the link subscribes to nothing above it.
    let confirm = identifier.filter(|identifier| qos == 1 && *identifier != 0);
    refuse(topic, confirm)
}

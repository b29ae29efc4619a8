//! The few MQTT 3.1.1 packets a simulated gateway needs: bytes in, bytes out.
//!
//! The product's own link runs one task and one tunnel per connection, which is right for a gateway and too much
//! ten thousand times over in one process.

/// Largest packet a simulated gateway takes, in bytes.
const MAX_PACKET: usize = 256 * 1024;

/// Last will of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Will<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
}

/// A packet from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// The broker's answer to CONNECT; 0 is success.
    ConnAck(u8),
    /// Whether every filter was granted.
    SubAck(bool),
    PubAck,
    Publish {
        topic: &'a str,
        payload: &'a [u8],
        retain: bool,
        /// The packet identifier to confirm, at QoS 1.
        confirm: Option<u16>,
    },
    /// Nothing that matters here.
    Other,
}

/// The broker sent something that is no packet of MQTT 3.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent bytes that are no packet: {0}")]
pub(crate) struct Broken(&'static str);

/// The first packet of `buffer` and its length; `None` while it is not whole.
pub(crate) fn read(buffer: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Broken> {
    let Some((&first, rest)) = buffer.split_first() else { return Ok(None) };
    let (mut remaining, mut fixed) = (0usize, 1);
    for (i, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * i);
        fixed += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if i == 3 {
            return Err(Broken("a length without an end"));
        }
    }
    if fixed == 1 || buffer[fixed - 1] & 0x80 != 0 {
        return Ok(None);
    }
    if remaining > MAX_PACKET {
        return Err(Broken("a packet above the limit"));
    }
    let Some(body) = buffer.get(fixed..fixed + remaining) else { return Ok(None) };
    let packet = match first >> 4 {
        2 => Packet::ConnAck(*body.get(1).ok_or(Broken("a short CONNACK"))?),
        3 => publish(first, body)?,
        4 => Packet::PubAck,
        9 => Packet::SubAck(body.get(2..).is_some_and(|codes| codes.iter().all(|code| *code < 0x80))),
        _ => Packet::Other,
    };
    Ok(Some((packet, fixed + remaining)))
}

fn publish(first: u8, body: &[u8]) -> Result<Packet<'_>, Broken> {
    let short = Broken("a short PUBLISH");
    let (length, rest) = body.split_first_chunk::<2>().ok_or(short)?;
    let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(short)?;
    let (confirm, payload) = if (first >> 1).trailing_zeros() >= 2 {
        (None, rest)
    } else {
        let (identifier, payload) = rest.split_first_chunk::<2>().ok_or(short)?;
        (Some(u16::from_be_bytes(*identifier)), payload)
    };
    let topic = std::str::from_utf8(topic).map_err(|_| Broken("a topic that is no text"))?;
    Ok(Packet::Publish { topic, payload, retain: first & 1 != 0, confirm })
}

/// CONNECT with a clean session and no keep-alive.
pub(crate) fn connect(client: &str, will: Option<Will<'_>>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + client.len());
    text(&mut body, "MQTT");
    // Protocol level 4; clean session, and a retained will at QoS 1.
    body.extend_from_slice(&[4, if will.is_some() { 0b0010_1110 } else { 0b10 }, 0, 0]);
    text(&mut body, client);
    if let Some(Will { topic, payload }) = will {
        text(&mut body, topic);
        body.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        body.extend_from_slice(payload);
    }
    packet(0x10, &[&body])
}

/// SUBSCRIBE at QoS 1.
pub(crate) fn subscribe(filters: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        text(&mut body, filter);
        body.push(1);
    }
    packet(0x82, &[&body])
}

/// Everything of a PUBLISH at QoS 1 that comes before its payload of `payload` bytes, in a buffer with room for it.
pub(crate) fn publish_head(topic: &str, identifier: u16, retain: bool, payload: usize) -> Vec<u8> {
    let remaining = 2 + topic.len() + 2 + payload;
    let mut out = Vec::with_capacity(5 + remaining);
    out.push(0x32 | u8::from(retain));
    length(&mut out, remaining);
    text(&mut out, topic);
    out.extend_from_slice(&identifier.to_be_bytes());
    out
}

/// PUBACK.
pub(crate) fn confirm(identifier: u16) -> [u8; 4] {
    let [high, low] = identifier.to_be_bytes();
    [0x40, 2, high, low]
}

/// DISCONNECT: the broker then keeps the will to itself.
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let remaining = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(5 + remaining);
    out.push(first);
    length(&mut out, remaining);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

fn length(out: &mut Vec<u8>, mut remaining: usize) {
    loop {
        let byte = (remaining & 0x7f) as u8;
        remaining >>= 7;
        if remaining == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// A text with its length before it; topics and names are far below the field's 64 KiB.
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_those_of_the_standard() {
        let will = Will { topic: "w", payload: b"x" };
        let expected =
            [0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x2e, 0, 0, 0, 1, b'g', 0, 1, b'w', 0, 1, b'x'];
        assert_eq!(connect("g", Some(will)), expected);
        assert_eq!(connect("g", None)[9], 2);
        assert_eq!(subscribe(&["a", "b"]), [0x82, 10, 0, 1, 0, 1, b'a', 1, 0, 1, b'b', 1]);
        assert_eq!(publish_head("t", 7, true, 300)[..8], [0x33, 0xb1, 2, 0, 1, b't', 0, 7]);
        assert_eq!(read(&[0x20, 2, 0, 5]), Ok(Some((Packet::ConnAck(5), 4))));
        assert_eq!(read(&[0x90, 4, 0, 1, 1, 0x80]), Ok(Some((Packet::SubAck(false), 6))));
        assert_eq!(read(&[0x90, 4, 0, 1, 1, 1, 9]), Ok(Some((Packet::SubAck(true), 6))));
    }

    proptest! {
        #[test]
        fn a_message_is_read_back_however_it_is_cut(topic in "[a-z/]{1,40}", payload in proptest::collection::vec(any::<u8>(), 0..400), retain in any::<bool>()) {
            let mut bytes = publish_head(&topic, 9, retain, payload.len());
            bytes.extend_from_slice(&payload);
            for cut in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..cut]), Ok(None));
            }
            let whole = bytes.len();
            bytes.push(0x40);
            let read = read(&bytes).unwrap();
            prop_assert_eq!(read, Some((Packet::Publish { topic: &topic, payload: &payload, retain, confirm: Some(9) }, whole)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}

use proptest::prelude::*;

use super::*;

const MAX: usize = 300;

fn remaining_length(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return out;
        }
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], remaining_length(body.len()).as_slice(), body].concat()
}

fn publish(qos: u8, topic: &[u8], identifier: u16, payload: usize) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    if qos > 0 {
        body.extend_from_slice(&identifier.to_be_bytes());
    }
    body.resize(body.len() + payload, 0x33);
    packet(0x30 | qos << 1, &body)
}

/// Pushes the stream in pieces of the given sizes, over and over.
fn run(stream: &[u8], pieces: &[usize]) -> Result<Vec<u8>, Violation> {
    let mut filter = Downstream::new(MAX);
    let (mut out, mut at) = (Vec::new(), 0);
    for size in pieces.iter().cycle() {
        if at == stream.len() {
            break;
        }
        let end = (at + size).min(stream.len());
        filter.push(&stream[at..end], &mut out)?;
        at = end;
    }
    Ok(out)
}

fn marker(topic: &str, bytes: usize, oversized: bool, confirm: Option<u16>) -> Vec<u8> {
    let topic = String::from_utf8_lossy(&topic.as_bytes()[..topic.len().min(SHOWN_TOPIC_BYTES)]).into_owned();
    let mut out = Vec::new();
    Refused { topic, bytes: bytes as u64, oversized, confirm }.write_marker(&mut out);
    out
}

#[derive(Debug, Clone)]
enum Sent {
    Control(u8, usize),
    Publish { qos: u8, topic: String, identifier: u16, payload: usize },
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        (prop::sample::select(FROM_BROKER.to_vec()), 0usize..200)
            .prop_map(|(kind, n)| Sent::Control(kind, n)),
        (0u8..3, "[a-z/]{1,40}", 1u16.., prop_oneof![0usize..200, 200usize..20_000])
            .prop_map(|(qos, topic, identifier, payload)| Sent::Publish { qos, topic, identifier, payload }),
    ]
}

proptest! {
    #[test]
    fn only_oversized_messages_are_taken_out(
        packets in prop::collection::vec(sent(), 1..12),
        pieces in prop::collection::vec(1usize..700, 1..5),
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for sent in packets {
            match sent {
                Sent::Control(kind, body) => {
                    let bytes = packet(kind << 4, &vec![9; body]);
                    expected.extend_from_slice(&bytes);
                    stream.extend(bytes);
                }
                Sent::Publish { qos, topic, identifier, payload } => {
                    let bytes = publish(qos, topic.as_bytes(), identifier, payload);
                    if bytes.len() <= MAX {
                        expected.extend_from_slice(&bytes);
                    } else {
                        expected.extend(marker(&topic, bytes.len(), true, (qos == 1).then_some(identifier)));
                    }
                    stream.extend(bytes);
                }
            }
        }
        prop_assert_eq!(run(&stream, &pieces), Ok(expected));
    }

    #[test]
    fn invariant_10_arbitrary_bytes_never_panic_and_are_cut_the_same_however_they_come(
        stream in prop::collection::vec(any::<u8>(), 0..600),
        pieces in prop::collection::vec(1usize..50, 1..5),
    ) {
        prop_assert_eq!(run(&stream, &pieces), run(&stream, &[1]));
    }

    #[test]
    fn a_marker_reads_back(topic in ".{0,300}", bytes in any::<u32>(), oversized in any::<bool>(), id in 1u16..) {
        let packet = marker(&topic, bytes as usize, oversized, Some(id));
        // An ordinary packet, but one that may not come from outside.
        let mut filter = Downstream::new(70_000);
        let mut passed = Vec::new();
        filter.push(&packet, &mut passed).unwrap();
        prop_assert_eq!(passed, marker(MARKER, packet.len(), false, Some(id)));
        let payload = 3 + 2 + MARKER.len() + 2;
        prop_assert_eq!(&packet[payload - 2..payload], id.to_be_bytes());
        let read = Refused::from_message(MARKER, &packet[payload..]).unwrap();
        // A character cut in two at the end becomes a replacement character.
        let whole = topic.chars().zip(read.topic.chars()).take_while(|(a, b)| a == b).count();
        prop_assert!(read.topic.chars().count() - whole <= 1);
        prop_assert!(read.topic.len() >= topic.len().min(SHOWN_TOPIC_BYTES));
        prop_assert_eq!((read.bytes, read.oversized), (u64::from(bytes), oversized));
    }

    #[test]
    fn an_arbitrary_marker_never_panics(payload in prop::collection::vec(any::<u8>(), 0..40)) {
        prop_assert_eq!(Refused::from_message(MARKER, &payload).is_some(), payload.len() >= 9);
        prop_assert_eq!(Refused::from_message("a", &payload), None);
    }
}

#[test]
fn invariant_10_messages_that_would_break_the_client_are_taken_out() {
    let after = publish(1, b"fine", 7, 10);
    let short = |body: &[u8]| packet(0x32, body);
    let cases: [(&str, Vec<u8>, Option<u16>); 10] = [
        ("\u{fffd}\u{fffd}", publish(1, b"\xff\xfe", 5, 3), Some(5)),
        ("a\0b", publish(0, b"a\0b", 0, 3), None),
        ("a/+", publish(1, b"a/+", 5, 3), Some(5)),
        ("", publish(1, b"", 5, 3), Some(5)),
        (MARKER, publish(1, MARKER.as_bytes(), 5, 3), Some(5)),
        // Identifier nought, QoS 3, no body, half a length, a topic beyond the end.
        ("t", publish(1, b"t", 0, 3), None),
        ("t", publish(3, b"t", 5, 3), None),
        ("", short(b""), None),
        ("", short(b"\0"), None),
        ("", short(b"\x01\x00abc"), None),
    ];
    for (topic, broken, confirm) in cases {
        let stream = [broken.clone(), after.clone()].concat();
        let expected = [marker(topic, broken.len(), false, confirm), after.clone()].concat();
        assert_eq!(run(&stream, &[1]), Ok(expected), "{topic:?}");
    }
}

#[test]
fn what_no_broker_sends_ends_the_connection() {
    assert_eq!(run(&packet(0x10, b"x"), &[9]), Err(Violation::Type(1)));
    assert_eq!(run(&[0xf0, 0], &[9]), Err(Violation::Type(15)));
    assert_eq!(run(&[0x30, 0xff, 0xff, 0xff, 0xff], &[9]), Err(Violation::Length));
    assert_eq!(run(&packet(0x90, &vec![0; 70_000]), &[9]), Err(Violation::Control(70_000)));
}

#[test]
fn a_message_of_the_largest_size_is_held_in_little_memory() {
    let mut filter = Downstream::new(MAX);
    let mut out = Vec::new();
    let mut head = vec![0x32];
    head.extend(remaining_length(268_435_455));
    head.extend(b"\0\x01t\0\x09");
    filter.push(&head, &mut out).unwrap();
    let piece = vec![0; 1 << 20];
    let mut left = 268_435_455 - 5;
    while left > 0 {
        assert_eq!(out.capacity(), 0);
        let size = left.min(piece.len());
        filter.push(&piece[..size], &mut out).unwrap();
        left -= size;
    }
    assert_eq!(out, marker("t", 268_435_460, true, Some(9)));
}

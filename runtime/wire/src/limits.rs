//! Every size limit of the protocol, and the one function that knows how large an MQTT packet becomes.

/// Largest MQTT packet either side publishes on the uplink, in bytes. AWS IoT caps at 128 KiB; 64 KiB also
/// keeps one lost packet cheap on a slow line.
pub const MAX_MQTT_PACKET: usize = 64 * 1024;
/// Largest frame (header and payload) in bytes: a packet less the longest topic and MQTT's own header.
pub const MAX_FRAME: usize = 60 * 1024;
/// Largest payload of one frame in bytes.
pub const MAX_PAYLOAD: usize = MAX_FRAME - crate::frame::HEADER;
/// Largest blob (module file, encoded delta or encoded sums) in bytes, compressed or not.
pub const MAX_BLOB: usize = 4 * 1024 * 1024;
/// Largest JSON control message in bytes.
pub const MAX_JSON: usize = 60 * 1024;
/// Largest sample on the data plane in bytes.
pub const MAX_SAMPLE: usize = 4 * 1024 * 1024;
/// Longest name of a site, gateway, task or sample in bytes.
pub const MAX_NAME: usize = 64;
/// Longest topic in bytes: prefix, four names and the fixed words.
pub const MAX_TOPIC: usize = 288;

/// Size in bytes of the MQTT 3.1.1 PUBLISH packet (section 3.3) that carries `payload` bytes on a topic of
/// `topic` bytes at QoS 1 or 2.
pub const fn packet_bytes(topic: usize, payload: usize) -> usize {
    let remaining = 2 + topic + 2 + payload;
    let length_field = match remaining {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    };
    1 + length_field + remaining
}

const _: () = assert!(packet_bytes(MAX_TOPIC, MAX_FRAME) <= MAX_MQTT_PACKET);
const _: () = assert!(packet_bytes(MAX_TOPIC, MAX_JSON) <= MAX_MQTT_PACKET);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_size_follows_the_remaining_length_field() {
        assert_eq!(packet_bytes(3, 0), 2 + 2 + 3 + 2);
        assert_eq!(packet_bytes(100, 100), 3 + 204);
        assert_eq!(packet_bytes(10, 20_000), 4 + 20_014);
    }
}

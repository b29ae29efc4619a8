//! Base64 (RFC 4648): for PEM with the usual alphabet and padding, for tokens with the one for URLs and without.

const USUAL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(word);
        for place in 0..=group.len() {
            out.push(alphabet[(bits >> (18 - 6 * place) & 63) as usize] as char);
        }
    }
    out
}

/// As PEM writes it: padded, without line ends.
pub(crate) fn encode_padded(bytes: &[u8]) -> String {
    let mut out = encode(bytes, USUAL);
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
    out
}

/// The alphabet for URLs, without padding.
pub(crate) fn encode_url(bytes: &[u8]) -> String {
    encode(bytes, URL)
}

/// What [`encode_url`] wrote, and nothing else: one text for one value.
pub(crate) fn decode_url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for (place, digit) in group.iter().enumerate() {
            let value = URL.iter().position(|known| known == digit)? as u32;
            bits |= value << (18 - 6 * place);
        }
        let bytes = bits.to_be_bytes();
        let whole = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        // Bits that stand for nothing are zero.
        if bytes[1 + whole..].iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(&bytes[1..=whole]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode_padded(bytes.as_bytes()), text);
            assert_eq!(encode_url(bytes.as_bytes()), text.trim_end_matches('='));
        }
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8");
        for bad in ["Z", "Zh", "Zg==", "Zm9", "Zm 9v", "é"] {
            assert_eq!(decode_url(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode_url(&encode_url(&bytes)), Some(bytes));
        }
    }
}

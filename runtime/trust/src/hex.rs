//! Lower-case hexadecimal, for keys and hashes in JSON and TOML.

use std::fmt::Write;

/// `bytes` as lower-case hexadecimal.
pub fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
        out
    })
}

/// Exactly `N` bytes from hexadecimal of either case; `None` for anything else.
pub fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let nibble = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        assert_eq!(decode_hex(&encode_hex(&[0, 127, 255])), Some([0, 127, 255]));
        assert_eq!(decode_hex::<1>("FF"), Some([255]));
        for bad in ["", "f", "fff", "zz", "é"] {
            assert_eq!(decode_hex::<1>(bad), None, "{bad}");
        }
    }
}

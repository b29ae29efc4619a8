//! What must be known of an X.509 certificate (RFC 5280) beside what the TLS library checks: whose it is, how long it
//! is valid, which key it is for. And PEM (RFC 7468).

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::base64;
use crate::time::seconds;

/// Largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 8 * 1024;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's common name; empty where it has none.
    pub name: String,
    /// Valid from, seconds since 1970.
    pub not_before: u64,
    /// Valid until, seconds since 1970.
    pub not_after: u64,
    /// The public key's bits.
    pub public_key: Vec<u8>,
}

impl CertificateFacts {
    /// Reads a DER certificate without checking its signature; `None` where it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        if der.len() > MAX_CERTIFICATE {
            return None;
        }
        let (certificate, rest) = Der(der).take(SEQUENCE)?;
        let (body, _) = certificate.take(SEQUENCE)?;
        let body = match body.take(VERSION) {
            Some((_, after)) => after,
            None => body,
        };
        let (_, body) = body.take(INTEGER)?;
        let (_, body) = body.take(SEQUENCE)?;
        let (_, body) = body.take(SEQUENCE)?;
        let (validity, body) = body.take(SEQUENCE)?;
        let (not_before, validity) = validity.time()?;
        let (not_after, _) = validity.time()?;
        let (subject, body) = body.take(SEQUENCE)?;
        let (key, _) = body.take(SEQUENCE)?;
        let (_, key) = key.take(SEQUENCE)?;
        let (bits, _) = key.take(BIT_STRING)?;
        // The first byte counts unused bits at the end.
        let (0, public_key) = bits.0.split_first().map(|(unused, bits)| (*unused, bits))? else {
            return None;
        };
        rest.0.is_empty().then_some(Self {
            name: common_name(subject)?,
            not_before,
            not_after,
            public_key: public_key.to_vec(),
        })
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
/// 2.5.4.3, `id-at-commonName`.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// DER that is still to be read.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag, and what follows it.
    fn take(self, tag: u8) -> Option<(Der<'a>, Der<'a>)> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => rest.split_first().map(|(&byte, rest)| (usize::from(byte), rest))?,
            0x82 => {
                rest.split_first_chunk().map(|(&two, rest)| (usize::from(u16::from_be_bytes(two)), rest))?
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        (found == tag).then_some((Der(content), Der(rest)))
    }

    /// `YYMMDDHHMMSSZ` up to 2049, `YYYYMMDDHHMMSSZ` from 2050 on (RFC 5280, section 4.1.2.5).
    fn time(self) -> Option<(u64, Der<'a>)> {
        let (text, rest, century) = if let Some((text, rest)) = self.take(UTC_TIME) {
            (text.0, rest, None)
        } else {
            let (text, rest) = self.take(GENERALIZED_TIME)?;
            let (century, text) = text.0.split_at_checked(2)?;
            (text, rest, Some(two_digits(century)?))
        };
        let (digits, [b'Z']) = text.split_at_checked(12)? else { return None };
        let mut fields = [0; 6];
        for (field, pair) in fields.iter_mut().zip(digits.chunks_exact(2)) {
            *field = two_digits(pair)?;
        }
        let [year, month, day, hour, minute, second] = fields;
        let century = century.unwrap_or(if year < 50 { 20 } else { 19 });
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        // What began before 1970 began at 1970.
        let of_day = hour * 3600 + minute * 60 + second;
        let year = century * 100 + year;
        let at = if year < 1970 { 0 } else { seconds(year, month, day, of_day)? };
        Some((at, rest))
    }
}

fn two_digits(pair: &[u8]) -> Option<u64> {
    let digit = |c: u8| c.is_ascii_digit().then(|| u64::from(c - b'0'));
    let [high, low] = pair else { return None };
    Some(digit(*high)? * 10 + digit(*low)?)
}

fn common_name(mut subject: Der<'_>) -> Option<String> {
    let mut name = String::new();
    while !subject.0.is_empty() {
        let (set, rest) = subject.take(SET)?;
        let (attribute, _) = set.take(SEQUENCE)?;
        let (kind, value) = attribute.take(OBJECT)?;
        if kind.0 == COMMON_NAME
            && let Some((text, _)) = value.take(UTF8).or_else(|| value.take(PRINTABLE))
        {
            String::from_utf8(text.0.to_vec()).ok()?.clone_into(&mut name);
        }
        subject = rest;
    }
    Some(name)
}

/// A PEM block.
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let text = base64::encode_padded(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|&byte| byte as char));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// All certificates in a PEM text, DER each; `None` where a block is damaged.
pub fn certificates_from_pem(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    CertificateDer::pem_slice_iter(pem).map(|der| der.ok().map(|der| der.to_vec())).collect()
}

/// The first PKCS #8 key in a PEM text, DER.
pub fn key_from_pem(pem: &[u8]) -> Option<Vec<u8>> {
    match PrivateKeyDer::from_pem_slice(pem).ok()? {
        PrivateKeyDer::Pkcs8(key) => Some(key.secret_pkcs8_der().to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj
    /// "/O=Plant/CN=press-7"` on 2026-11-26.
    const BY_OPENSSL: &str = include_str!("../tests/openssl.pem");

    #[test]
    fn a_certificate_by_openssl() {
        let all = certificates_from_pem(BY_OPENSSL.as_bytes()).unwrap();
        let facts = CertificateFacts::read(&all[0]).unwrap();
        assert_eq!((all.len(), facts.name.as_str(), facts.public_key.len()), (1, "press-7", 65));
        assert_eq!(facts.not_after - facts.not_before, 36_500 * 86_400);
        assert!(crate::time::date(facts.not_before).starts_with("2026-11-26"));
        assert!(crate::time::date(facts.not_after).starts_with("2126-11-02"));
        let again = to_pem("CERTIFICATE", &all[0]);
        assert_eq!(again.trim(), BY_OPENSSL.trim());
    }

    proptest! {
        #[test]
        fn damage_is_survived(at in 0usize..600, byte: u8) {
            let mut der = certificates_from_pem(BY_OPENSSL.as_bytes()).unwrap().remove(0);
            let at = at % der.len();
            der[at] = byte;
            let _ = CertificateFacts::read(&der);
            let _ = CertificateFacts::read(&der[..at]);
        }
    }
}

//! What a gateway and its aggregator say to each other to trade a token, or a certificate that ends, for a new
//! certificate: one request and one answer per TLS connection. `docs/enrol.md` has the bytes.

use crate::tls_key::{TlsKey, TlsPublicKey, verify_tls_key};
use crate::token::{Secret, TokenId, token_id};
use crate::{Identity, NoRandomness, PublicKey, verify};

/// Bytes before a message's body.
pub const HEADER: usize = 8;
/// Longest body of a request.
pub const MAX_REQUEST: usize = 512;
/// Longest body of an answer.
pub const MAX_ANSWER: usize = 16 * 1024;
/// The name in the certificate of an aggregator: who asks for it, asks the site's aggregator, wherever that runs.
pub const AGGREGATOR_HOST: &str = "aggregator.loadonce";

const MAGIC: [u8; 3] = *b"LDE";
const VERSION: u8 = 1;
const ENROL: u8 = 1;
const CONFIRM: u8 = 2;
const RENEW: u8 = 3;
const ISSUED: u8 = 16;
const CONFIRMED: u8 = 17;
const REFUSED: u8 = 18;
const ENROL_DOMAIN: &[u8] = b"loadonce enrol v1\0";
const RENEW_DOMAIN: &[u8] = b"loadonce renew v1\0";
const MAX_NAME: usize = 64;

/// What a gateway asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A token for a certificate.
    Enrol {
        /// The token's secret.
        secret: Secret,
        /// The gateway.
        gateway: String,
        /// The key that the certificate is to be for.
        tls: TlsPublicKey,
        /// The key that contributions are signed with.
        contribution: PublicKey,
    },
    /// The certificate that this connection shows is kept safe: the token, or the one before it, may go.
    Confirm,
    /// The certificate that this connection shows for a new one.
    Renew {
        /// The new key.
        tls: TlsPublicKey,
    },
}

/// What an aggregator answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A certificate.
    Issued {
        /// The aggregator's key, which its manifests, pointers and acknowledgements are signed with.
        aggregator: PublicKey,
        /// The certificate, DER.
        certificate: Vec<u8>,
        /// The site's CA, DER.
        ca: Vec<u8>,
    },
    /// Noted.
    Confirmed,
    /// No.
    Refused(Refusal, String),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a request.
    Malformed = 1,
    /// Of another version.
    Version = 2,
    /// The aggregator knows no such token.
    UnknownToken = 3,
    /// The token's time is over.
    ExpiredToken = 4,
    /// The token was redeemed.
    UsedToken = 5,
    /// The token was redeemed by another key.
    OtherKey = 6,
    /// The name belongs to another key.
    NameTaken = 7,
    /// A signature does not show that the gateway has the keys.
    BadProof = 8,
    /// The connection shows no certificate.
    NoCertificate = 9,
    /// The certificate was replaced by a newer one, or its gateway by another.
    Replaced = 10,
    /// The aggregator cannot answer now.
    Unavailable = 11,
    /// Asked again too soon.
    TooSoon = 12,
}

impl Refusal {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Version,
        Self::UnknownToken,
        Self::ExpiredToken,
        Self::UsedToken,
        Self::OtherKey,
        Self::NameTaken,
        Self::BadProof,
        Self::NoCertificate,
        Self::Replaced,
        Self::Unavailable,
        Self::TooSoon,
    ];

    /// The word in figures and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
            Self::UsedToken => "used_token",
            Self::OtherKey => "other_key",
            Self::NameTaken => "name_taken",
            Self::BadProof => "bad_proof",
            Self::NoCertificate => "no_certificate",
            Self::Replaced => "replaced",
            Self::Unavailable => "unavailable",
            Self::TooSoon => "too_soon",
        }
    }
}

/// The length of the body that follows a header, if it is one of at most `most` bytes.
pub fn body_length(header: &[u8; HEADER], most: usize) -> Option<usize> {
    let length = usize::from(u16::from_le_bytes([header[6], header[7]]));
    (header.starts_with(&MAGIC) && length <= most).then_some(length)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind, 0]);
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Kind and body of a whole message.
fn open(bytes: &[u8], most: usize) -> Result<(u8, &[u8]), Refusal> {
    let (header, body) = bytes.split_first_chunk::<HEADER>().ok_or(Refusal::Malformed)?;
    if body_length(header, most) != Some(body.len()) || header[5] != 0 {
        return Err(Refusal::Malformed);
    }
    if header[3] != VERSION {
        return Err(Refusal::Version);
    }
    Ok((header[4], body))
}

fn enrol_proof(token: &TokenId, tls: &TlsPublicKey, contribution: &PublicKey, gateway: &str) -> Vec<u8> {
    [&token[..], tls, contribution, gateway.as_bytes()].concat()
}

/// Encodes [`Request::Enrol`] with the proofs that the gateway has both keys.
pub fn encode_enrol(
    secret: &Secret,
    gateway: &str,
    tls: &TlsKey,
    contribution: &Identity,
) -> Result<Vec<u8>, NoRandomness> {
    let proof = enrol_proof(&token_id(secret), &tls.public(), &contribution.public(), gateway);
    let mut body = Vec::new();
    body.extend_from_slice(secret);
    body.extend_from_slice(&tls.public());
    body.extend_from_slice(&contribution.public());
    body.extend_from_slice(&tls.sign(ENROL_DOMAIN, &proof)?);
    body.extend_from_slice(&contribution.sign(ENROL_DOMAIN, &proof));
    body.push(gateway.len() as u8);
    body.extend_from_slice(gateway.as_bytes());
    Ok(message(ENROL, &body))
}

/// Encodes [`Request::Confirm`].
pub fn encode_confirm() -> Vec<u8> {
    message(CONFIRM, &[])
}

/// Encodes [`Request::Renew`] with the proof that the gateway has the key.
pub fn encode_renew(tls: &TlsKey) -> Result<Vec<u8>, NoRandomness> {
    let proof = tls.sign(RENEW_DOMAIN, &tls.public())?;
    Ok(message(RENEW, &[&tls.public()[..], &proof].concat()))
}

impl Request {
    /// Reads a whole message; what a request claims of its keys is proven then.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let (kind, body) = open(bytes, MAX_REQUEST)?;
        match kind {
            ENROL => Self::decode_enrol(body),
            CONFIRM if body.is_empty() => Ok(Self::Confirm),
            RENEW => {
                let (tls, proof) = body.split_first_chunk::<65>().ok_or(Refusal::Malformed)?;
                let proof: &[u8; 64] = proof.try_into().map_err(|_| Refusal::Malformed)?;
                if !verify_tls_key(tls, RENEW_DOMAIN, tls, proof) {
                    return Err(Refusal::BadProof);
                }
                Ok(Self::Renew { tls: *tls })
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn decode_enrol(body: &[u8]) -> Result<Self, Refusal> {
        let parts = || {
            let (secret, body) = body.split_first_chunk::<16>()?;
            let (tls, body) = body.split_first_chunk::<65>()?;
            let (contribution, body) = body.split_first_chunk::<32>()?;
            let (by_tls, body) = body.split_first_chunk::<64>()?;
            let (by_contribution, body) = body.split_first_chunk::<64>()?;
            let (&length, name) = body.split_first()?;
            let name = std::str::from_utf8(name).ok()?;
            let fits = usize::from(length) == name.len() && name.len() <= MAX_NAME;
            fits.then_some((secret, tls, contribution, by_tls, by_contribution, name))
        };
        let (secret, tls, contribution, by_tls, by_contribution, name) = parts().ok_or(Refusal::Malformed)?;
        let proof = enrol_proof(&token_id(secret), tls, contribution, name);
        if !verify_tls_key(tls, ENROL_DOMAIN, &proof, by_tls)
            || !verify(contribution, ENROL_DOMAIN, &proof, by_contribution)
        {
            return Err(Refusal::BadProof);
        }
        let (secret, tls, contribution) = (*secret, *tls, *contribution);
        Ok(Self::Enrol { secret, gateway: name.to_owned(), tls, contribution })
    }
}

impl Answer {
    /// The whole message; a refusal's text is cut to 255 bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Issued { aggregator, certificate, ca } => {
                let mut body = aggregator.to_vec();
                for der in [certificate, ca] {
                    body.extend_from_slice(&(der.len() as u16).to_le_bytes());
                    body.extend_from_slice(der);
                }
                message(ISSUED, &body)
            }
            Self::Confirmed => message(CONFIRMED, &[]),
            Self::Refused(refusal, text) => {
                let mut end = text.len().min(255);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                let mut body = vec![*refusal as u8, end as u8];
                body.extend_from_slice(&text.as_bytes()[..end]);
                message(REFUSED, &body)
            }
        }
    }

    /// Reads a whole message; `None` where it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, body) = open(bytes, MAX_ANSWER).ok()?;
        match kind {
            ISSUED => {
                let (aggregator, mut rest) = body.split_first_chunk::<32>()?;
                let mut next = || {
                    let (length, after) = rest.split_first_chunk::<2>()?;
                    let (der, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
                    rest = after;
                    Some(der.to_vec())
                };
                let (certificate, ca) = (next()?, next()?);
                rest.is_empty().then_some(Self::Issued { aggregator: *aggregator, certificate, ca })
            }
            CONFIRMED => body.is_empty().then_some(Self::Confirmed),
            REFUSED => {
                let [code, length, text @ ..] = body else { return None };
                let refusal = Refusal::ALL.into_iter().find(|known| *known as u8 == *code)?;
                let text =
                    std::str::from_utf8(text).ok().filter(|text| text.len() == usize::from(*length))?;
                Some(Self::Refused(refusal, text.to_owned()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_needs_both_keys() {
        let (tls, other) = (TlsKey::generate().unwrap(), TlsKey::generate().unwrap());
        let identity = Identity::from_seed(&[3; 32]);
        let bytes = encode_enrol(&[1; 16], "press-7", &tls, &identity).unwrap();
        let want = Request::Enrol {
            secret: [1; 16],
            gateway: "press-7".into(),
            tls: tls.public(),
            contribution: identity.public(),
        };
        assert_eq!(Request::decode(&bytes), Ok(want));
        // Whatever is changed, one of the signatures no longer holds.
        for (at, why) in
            [(HEADER, "secret"), (HEADER + 16 + 65, "contribution key"), (bytes.len() - 1, "name")]
        {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Request::decode(&changed), Err(Refusal::BadProof), "{why}");
        }
        let mut stolen = bytes.clone();
        stolen[HEADER + 16..HEADER + 16 + 65].copy_from_slice(&other.public());
        assert_eq!(Request::decode(&stolen), Err(Refusal::BadProof));
        let mut newer = bytes;
        newer[3] = 2;
        assert_eq!(Request::decode(&newer), Err(Refusal::Version));
        let renew = encode_renew(&tls).unwrap();
        assert_eq!(Request::decode(&renew), Ok(Request::Renew { tls: tls.public() }));
        assert_eq!(Request::decode(&encode_confirm()), Ok(Request::Confirm));
    }

    #[test]
    fn answers_survive_a_round_trip() {
        let issued = Answer::Issued { aggregator: [1; 32], certificate: vec![2; 500], ca: vec![3; 400] };
        let refused = Answer::Refused(Refusal::UsedToken, "it was redeemed".into());
        for answer in [issued, refused, Answer::Confirmed] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
        let long = Answer::Refused(Refusal::Unavailable, "é".repeat(200)).encode();
        assert_eq!(Answer::decode(&long), Some(Answer::Refused(Refusal::Unavailable, "é".repeat(127))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0u8..20) {
            let _ = (Request::decode(&bytes), Answer::decode(&bytes));
            let sealed = message(kind, &bytes);
            let _ = (Request::decode(&sealed), Answer::decode(&sealed));
        }
    }
}

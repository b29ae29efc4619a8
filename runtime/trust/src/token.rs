//! One-time tokens: what an operator hands to a gateway so that it gets its certificate.

use thiserror::Error;

use crate::base64::{decode_url, encode_url};
use crate::hash;

/// Longest token in characters.
pub const MAX_TOKEN: usize = 1024;
const PREFIX: &str = "lo1.";
const FORMAT: u8 = 1;
const SECRET_DOMAIN: &[u8] = b"loadonce token secret v1\0";
const CHECK_DOMAIN: &[u8] = b"loadonce token v1\0";
const FIXED: usize = 1 + 16 + 32 + 8 + 8;
const CHECK: usize = 4;

/// The secret in a token.
pub type Secret = [u8; 16];
/// What may be known of a token: it names it and does not redeem it.
pub type TokenId = [u8; 32];

/// See the module's documentation. Its text is a secret until it was redeemed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Random.
    pub secret: Secret,
    /// SHA-256 of the site's CA certificate.
    pub ca: [u8; 32],
    /// When it was made, seconds since 1970.
    pub issued: u64,
    /// Until when it can be redeemed, seconds since 1970.
    pub expires: u64,
    /// The gateway it is for.
    pub gateway: String,
    /// Its site.
    pub site: String,
    /// Where it is redeemed, `host:port`.
    pub address: String,
    /// The broker that the gateway connects to then, a URL.
    pub broker: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("gateway", &self.gateway)
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Something else.
    #[error("it does not begin with {PREFIX}; copy the whole line that `loadonce gateway enrol` printed")]
    Other,
    /// Characters are missing or changed.
    #[error("characters are missing or changed; copy the whole line that `loadonce gateway enrol` printed")]
    Damaged,
}

/// The name of the token with this secret.
pub fn token_id(secret: &Secret) -> TokenId {
    hash(&[SECRET_DOMAIN, secret].concat())
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let all = hash(&[CHECK_DOMAIN, bytes].concat());
    [all[0], all[1], all[2], all[3]]
}

impl Token {
    /// Its name.
    pub fn id(&self) -> TokenId {
        token_id(&self.secret)
    }

    /// The text; `None` where a name or an address has more than 255 bytes.
    pub fn to_text(&self) -> Option<String> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.ca);
        bytes.extend_from_slice(&self.issued.to_le_bytes());
        bytes.extend_from_slice(&self.expires.to_le_bytes());
        for text in [&self.gateway, &self.site, &self.address, &self.broker] {
            bytes.push(u8::try_from(text.len()).ok()?);
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&check(&bytes));
        let text = format!("{PREFIX}{}", encode_url(&bytes));
        (text.len() <= MAX_TOKEN).then_some(text)
    }

    /// Reads a token's text; blanks and line ends around it do no harm.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Other)?;
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Damaged);
        }
        decode_url(text).and_then(|bytes| Self::decode(&bytes)).ok_or(TokenError::Damaged)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, sum) = bytes.split_last_chunk::<CHECK>()?;
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED>()?;
        if *sum != check(bytes) || fixed[0] != FORMAT {
            return None;
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&fixed[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let mut next = || {
            let (&length, after) = rest.split_first()?;
            let (text, after) = after.split_at_checked(usize::from(length))?;
            rest = after;
            String::from_utf8(text.to_vec()).ok()
        };
        let (gateway, site, address, broker) = (next()?, next()?, next()?, next()?);
        let (mut secret, mut ca) = ([0; 16], [0; 32]);
        secret.copy_from_slice(&fixed[1..17]);
        ca.copy_from_slice(&fixed[17..49]);
        rest.is_empty().then_some(Self {
            secret,
            ca,
            issued: number(49),
            expires: number(57),
            gateway,
            site,
            address,
            broker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            secret: [7; 16],
            ca: [8; 32],
            issued: 1,
            expires: 2,
            gateway: "press-7".into(),
            site: "plant".into(),
            address: "10.0.0.5:8884".into(),
            broker: "mqtts://10.0.0.5:8883".into(),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_every_changed_character_is_noticed() {
        let text = token().to_text().unwrap();
        assert_eq!(Token::parse(&format!(" {text}\n")), Ok(token()));
        assert!(!format!("{:?}", token()).contains("secret"));
        for at in PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Token::parse(std::str::from_utf8(&changed).unwrap()), Err(TokenError::Damaged));
            assert_eq!(Token::parse(&text[..at]), Err(TokenError::Damaged));
        }
        assert_eq!(Token::parse("mqtt://x"), Err(TokenError::Other));
        assert_eq!(Token { broker: "b".repeat(256), ..token() }.to_text(), None);
    }
}

//! Keys and signatures.
//!
//! Every gateway and the aggregator hold one ed25519 key (RFC 8032). A signature always covers a domain prefix
//! and the exact bytes as embedded, so that no signature can be replayed as another kind of message.
//!
//! Beside it a gateway that talks TLS has a key on P-256 and a certificate for it (`tls_key`, `certificate`), which it
//! trades for a one-time `token` in an exchange of two messages (`enrol`). Certificates are made by `issue` (a feature:
//! no gateway has it) and checked against the `time`, on clocks that may be wrong.

mod base64;
mod certificate;
pub mod enrol;
mod hex;
#[cfg(feature = "issue")]
mod issue;
mod time;
mod tls_key;
mod token;

pub use certificate::{CertificateFacts, MAX_CERTIFICATE, certificates_from_pem, key_from_pem, to_pem};
pub use hex::{decode_hex, encode_hex};
#[cfg(feature = "issue")]
pub use issue::{AGGREGATOR, Ca, IssueError, OPERATOR, Subject};
pub use time::{Moment, TrustedTime, date};
pub use tls_key::{NoRandomness, TlsKey, TlsPublicKey, fingerprint, verify_tls_key};
pub use token::{MAX_TOKEN, Secret, Token, TokenError, TokenId, token_id};

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use thiserror::Error;

/// A public key, 32 bytes.
pub type PublicKey = [u8; 32];

/// Why a key could not be made or read.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The system gave no randomness.
    #[error("the system gave no random bytes for a new key: {0}")]
    NoRandomness(getrandom::Error),
    /// A key file of the wrong size.
    #[error(
        "a key file holds 64 hexadecimal digits, this one does not; restore it from a backup or delete it to make a new identity"
    )]
    Malformed,
}

/// A signing key.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&encode_hex(&self.public())).finish()
    }
}

impl Identity {
    /// Makes a new key from the system's randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(KeyError::NoRandomness)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a key file: the seed in hexadecimal, with or without a line end.
    pub fn from_file_text(text: &str) -> Result<Self, KeyError> {
        decode_hex(text.trim()).map(|seed| Self::from_seed(&seed)).ok_or(KeyError::Malformed)
    }

    /// The content of the key file.
    pub fn to_file_text(&self) -> String {
        encode_hex(self.0.as_bytes()) + "\n"
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    /// Signs `domain ‖ message`.
    pub fn sign(&self, domain: &[u8], message: &[u8]) -> [u8; 64] {
        self.0.sign(&[domain, message].concat()).to_bytes()
    }
}

/// Whether `signature` is `key`'s over `domain ‖ message`. Strict verification: no small-order keys, no
/// malleable signatures.
pub fn verify(key: &PublicKey, domain: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else { return false };
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    key.verify_strict(&[domain, message].concat(), &signature).is_ok()
}

/// blake3 of `bytes`.
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_domain_and_message_only() {
        let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let signature = a.sign(b"one\0", b"message");
        assert!(verify(&a.public(), b"one\0", b"message", &signature));
        assert!(!verify(&b.public(), b"one\0", b"message", &signature));
        assert!(!verify(&a.public(), b"two\0", b"message", &signature));
        assert!(!verify(&a.public(), b"one\0", b"messagf", &signature));
        assert!(!verify(&[0xff; 32], b"one\0", b"message", &signature));
    }

    #[test]
    fn the_first_rfc_8032_vector_holds() {
        let seed = decode_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let identity = Identity::from_seed(&seed);
        assert_eq!(
            encode_hex(&identity.public()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert!(encode_hex(&identity.sign(b"", b"")).starts_with("e5564300c360ac729086e2cc806e828a"));
    }

    #[test]
    fn a_key_file_survives_a_round_trip_and_damage_is_named() {
        let identity = Identity::generate().unwrap();
        let again = Identity::from_file_text(&identity.to_file_text()).unwrap();
        assert_eq!(again.public(), identity.public());
        assert!(matches!(Identity::from_file_text("abc"), Err(KeyError::Malformed)));
    }
}

//! The key of a TLS certificate: ECDSA on P-256, which every broker's TLS library takes.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

use crate::certificate::{key_from_pem, to_pem};

/// An uncompressed point of P-256 (SEC 1, section 2.3.3).
pub type TlsPublicKey = [u8; 65];

/// The system gave no randomness, or refused to make a key of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes for a key")]
pub struct NoRandomness;

/// See the module's documentation.
pub struct TlsKey {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsKey").finish_non_exhaustive()
    }
}

impl TlsKey {
    /// A new key.
    pub fn generate() -> Result<Self, NoRandomness> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        Self::from_pkcs8(pkcs8.map_err(|_| NoRandomness)?.as_ref()).ok_or(NoRandomness)
    }

    /// Reads a PKCS #8 key; `None` where it is none of this kind.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new());
        Some(Self { pkcs8: der.to_vec(), pair: pair.ok()? })
    }

    /// Reads the first key of a PEM text.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        Self::from_pkcs8(&key_from_pem(pem)?)
    }

    /// As PEM; keep it secret.
    pub fn to_pem(&self) -> String {
        to_pem("PRIVATE KEY", &self.pkcs8)
    }

    /// The public key.
    #[expect(clippy::missing_panics_doc, reason = "the length is the curve's")]
    pub fn public(&self) -> TlsPublicKey {
        self.pair.public_key().as_ref().try_into().expect("a point of P-256 has 65 bytes")
    }

    /// Signs `domain ‖ message`.
    #[expect(clippy::missing_panics_doc, reason = "the length is the curve's")]
    pub fn sign(&self, domain: &[u8], message: &[u8]) -> Result<[u8; 64], NoRandomness> {
        let signed = self.pair.sign(&SystemRandom::new(), &[domain, message].concat());
        let signature = signed.map_err(|_| NoRandomness)?;
        Ok(signature.as_ref().try_into().expect("a signature of P-256 has 64 bytes"))
    }
}

/// Whether `signature` is `key`'s over `domain ‖ message`.
pub fn verify_tls_key(key: &TlsPublicKey, domain: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
        .verify(&[domain, message].concat(), signature)
        .is_ok()
}

/// SHA-256 of a DER certificate, as `openssl x509 -fingerprint -sha256` shows it.
#[expect(clippy::missing_panics_doc, reason = "the length is the digest's")]
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_signs() {
        let key = TlsKey::generate().unwrap();
        let again = TlsKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.public(), key.public());
        let signature = again.sign(b"one\0", b"message").unwrap();
        assert!(verify_tls_key(&key.public(), b"one\0", b"message", &signature));
        assert!(!verify_tls_key(&key.public(), b"two\0", b"message", &signature));
        assert!(!verify_tls_key(&[4; 65], b"one\0", b"message", &signature));
        assert!(
            TlsKey::from_pem(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_none()
        );
    }
}

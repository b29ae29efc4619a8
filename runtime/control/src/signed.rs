//! The signed envelope of JSON messages.

use loadonce_trust::{Identity, PublicKey, decode_hex, encode_hex, verify};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Signature domain of task manifests.
pub const MANIFEST_DOMAIN: &[u8] = b"loadonce manifest v1\0";
/// Signature domain of pointers.
pub const POINTER_DOMAIN: &[u8] = b"loadonce pointer v1\0";

/// JSON text with its signature. The text travels as a string, so the signature covers exactly the bytes that
/// are parsed, whatever a JSON library does to white space or key order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The message, as JSON text.
    pub payload: String,
    /// The signer's public key in hexadecimal.
    pub key: String,
    /// The signature over the domain prefix and the payload, in hexadecimal.
    pub signature: String,
}

/// Why an envelope was refused.
#[derive(Debug, Error)]
pub enum SignedError {
    /// Larger than any control message may be.
    #[error("control message of {0} bytes exceeds the limit of {max}", max = loadonce_wire::limits::MAX_JSON)]
    TooLarge(usize),
    /// Not an envelope, or its payload is not the expected message.
    #[error("not a valid control message: {0}")]
    Json(#[from] serde_json::Error),
    /// The key or signature is not hexadecimal of the right length.
    #[error("the envelope's key or signature is not hexadecimal of the right length")]
    Encoding,
    /// Signed by somebody else.
    #[error(
        "signed by key {found}, but this gateway trusts {trusted}; set `aggregator_key` if the aggregator was replaced"
    )]
    WrongSigner {
        /// The signer's key.
        found: String,
        /// The pinned key.
        trusted: String,
    },
    /// The signature does not verify.
    #[error("the signature does not verify: the message was altered or forged")]
    BadSignature,
}

impl Signed {
    /// Signs `message` for `domain`.
    ///
    /// # Errors
    /// When `message` cannot be written as JSON.
    pub fn seal<T: Serialize>(identity: &Identity, domain: &[u8], message: &T) -> Result<Self, SignedError> {
        let payload = serde_json::to_string(message)?;
        let signature = encode_hex(&identity.sign(domain, payload.as_bytes()));
        Ok(Self { payload, key: encode_hex(&identity.public()), signature })
    }

    /// The envelope as JSON bytes.
    ///
    /// # Panics
    /// Never: three strings always serialize.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("three strings always serialize")
    }

    /// Reads an envelope without checking its signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedError> {
        if bytes.len() > loadonce_wire::limits::MAX_JSON {
            return Err(SignedError::TooLarge(bytes.len()));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The signer's key as claimed.
    pub fn signer(&self) -> Result<PublicKey, SignedError> {
        decode_hex(&self.key).ok_or(SignedError::Encoding)
    }

    /// Checks the signature against `trusted` and only then parses the message.
    pub fn open<T: for<'de> Deserialize<'de>>(
        &self,
        domain: &[u8],
        trusted: &PublicKey,
    ) -> Result<T, SignedError> {
        let signature = decode_hex(&self.signature).ok_or(SignedError::Encoding)?;
        if self.signer()? != *trusted {
            return Err(SignedError::WrongSigner { found: self.key.clone(), trusted: encode_hex(trusted) });
        }
        if !verify(trusted, domain, self.payload.as_bytes(), &signature) {
            return Err(SignedError::BadSignature);
        }
        Ok(serde_json::from_str(&self.payload)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_trusted_signer_of_this_domain_and_text_is_believed() {
        let (us, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
        let sealed = Signed::seal(&us, POINTER_DOMAIN, &42u32).unwrap();
        let sealed = Signed::parse(&sealed.to_json()).unwrap();
        assert_eq!(sealed.open::<u32>(POINTER_DOMAIN, &us.public()).unwrap(), 42);
        assert!(matches!(sealed.open::<u32>(MANIFEST_DOMAIN, &us.public()), Err(SignedError::BadSignature)));
        assert!(matches!(
            sealed.open::<u32>(POINTER_DOMAIN, &other.public()),
            Err(SignedError::WrongSigner { .. })
        ));
        let altered = Signed { payload: "43".into(), ..sealed };
        assert!(matches!(altered.open::<u32>(POINTER_DOMAIN, &us.public()), Err(SignedError::BadSignature)));
    }
}

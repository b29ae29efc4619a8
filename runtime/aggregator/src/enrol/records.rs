//! The files of enrolment: `tokens/<gateway>.json` is written by the operator's command line only, and
//! `gateways/<gateway>.json` by the aggregator only, so they never write over each other.

use std::path::{Path, PathBuf};

use loadonce_store::{Files, StoreError, write_atomic_on};
use loadonce_trust::{MAX_CERTIFICATE, PublicKey, TlsPublicKey, TokenId, decode_hex, encode_hex};
use loadonce_wire::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Largest of these files in bytes.
pub const MAX_RECORD: u64 = 32 * 1024;

/// A token that was made; its secret is known by its hash only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Its name: the hash of its secret.
    #[serde(with = "hex")]
    pub id: TokenId,
    /// When it was made, seconds since 1970.
    pub issued: u64,
    /// Until when it can be redeemed, seconds since 1970.
    pub expires: u64,
    /// Whether it stands above a gateway that is known by this name.
    #[serde(default)]
    pub replaces: bool,
}

/// A certificate that was handed out and not yet seen in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offered {
    /// Its key.
    #[serde(with = "hex")]
    pub key: TlsPublicKey,
    /// DER.
    #[serde(with = "bytes")]
    pub certificate: Vec<u8>,
    /// When, seconds since 1970.
    pub at: u64,
}

/// An enrolled gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The token that it redeemed.
    #[serde(with = "hex")]
    pub token: TokenId,
    /// The key that its contributions are signed with.
    #[serde(with = "hex")]
    pub key: PublicKey,
    /// The key of the certificate that it was last seen with.
    #[serde(default, with = "optional_hex", skip_serializing_if = "Option::is_none")]
    pub current: Option<TlsPublicKey>,
    /// A newer certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<Offered>,
    /// The end of its newest certificate, seconds since 1970.
    pub not_after: u64,
}

mod hex {
    use super::{Deserialize, Deserializer, Serializer, decode_hex, encode_hex};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode_hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(from)?;
        decode_hex(&text).ok_or_else(|| serde::de::Error::custom(format!("not {N} bytes in hexadecimal")))
    }
}

mod optional_hex {
    use super::{Deserializer, Serializer, TlsPublicKey, hex};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(key: &Option<TlsPublicKey>, to: S) -> Result<S::Ok, S::Error> {
        match key {
            Some(key) => hex::serialize(key, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TlsPublicKey>, D::Error> {
        hex::deserialize(from).map(Some)
    }
}

mod bytes {
    use super::{Deserialize, Deserializer, MAX_CERTIFICATE, Serializer, encode_hex};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode_hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |c: u8| (c as char).to_digit(16).map(|digit| digit as u8);
        let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
        let fits = text.len().is_multiple_of(2) && text.len() <= 2 * MAX_CERTIFICATE;
        let bytes = text.as_bytes().chunks_exact(2).map(pair).collect::<Option<Vec<u8>>>();
        bytes.filter(|_| fits).ok_or_else(|| serde::de::Error::custom("not a certificate in hexadecimal"))
    }
}

/// Where a gateway's file is; `None` for what cannot be a gateway's name.
fn path(folder: &Path, which: &str, gateway: &str) -> Option<PathBuf> {
    Name::new(gateway)?;
    Some(folder.join(which).join(format!("{gateway}.json")))
}

fn read<T: for<'de> Deserialize<'de>>(files: &impl Files, path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match files.read(path, MAX_RECORD) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::from_io(path, error)),
    };
    let corrupt =
        |error: serde_json::Error| StoreError::Corrupt { path: path.to_owned(), detail: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
}

pub(super) fn read_token(
    files: &impl Files,
    folder: &Path,
    gateway: &str,
) -> Result<Option<TokenRecord>, StoreError> {
    path(folder, "tokens", gateway).map_or(Ok(None), |path| read(files, &path))
}

pub(super) fn read_record(
    files: &impl Files,
    folder: &Path,
    gateway: &str,
) -> Result<Option<Record>, StoreError> {
    path(folder, "gateways", gateway).map_or(Ok(None), |path| read(files, &path))
}

fn write(files: &impl Files, path: Option<PathBuf>, value: &impl Serialize) -> Result<PathBuf, StoreError> {
    let path = path.expect("names are checked before anything is written for them");
    let text = serde_json::to_vec_pretty(value).expect("strings and numbers always serialize");
    // There is no secret in it, and the command line may run as another user than the aggregator.
    write_atomic_on(files, &path, &text, 0o644)?;
    Ok(path)
}

/// Notes a token for the aggregator.
pub fn write_token(
    files: &impl Files,
    folder: &Path,
    gateway: &str,
    token: &TokenRecord,
) -> Result<PathBuf, StoreError> {
    write(files, path(folder, "tokens", gateway), token)
}

pub(super) fn write_record(
    files: &impl Files,
    folder: &Path,
    gateway: &str,
    record: &Record,
) -> Result<PathBuf, StoreError> {
    write(files, path(folder, "gateways", gateway), record)
}

/// The gateways that have a file in `tokens` or in `gateways`.
pub(super) fn names(files: &impl Files, folder: &Path, which: &str) -> Result<Vec<String>, StoreError> {
    let folder = folder.join(which);
    let mut names = match files.list(&folder) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(StoreError::from_io(&folder, error)),
    };
    names.retain_mut(|name| match name.strip_suffix(".json").filter(|name| Name::new(name).is_some()) {
        Some(gateway) => {
            *name = gateway.to_owned();
            true
        }
        None => false,
    });
    names.sort();
    Ok(names)
}

/// Makes the folders, durably.
pub(super) fn make_folders(files: &impl Files, folder: &Path) -> Result<(), StoreError> {
    for dir in [folder.to_owned(), folder.join("tokens"), folder.join("gateways")] {
        files.create_dir(&dir).map_err(|error| StoreError::from_io(&dir, error))?;
    }
    let above = folder.parent().unwrap_or(folder);
    for dir in [above, folder] {
        files.sync_dir(dir).map_err(|error| StoreError::from_io(dir, error))?;
    }
    Ok(())
}

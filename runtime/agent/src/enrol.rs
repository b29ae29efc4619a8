//! A gateway gets its certificate: what it does next, given the files in `state/tls`. No socket and no clock.
//!
//! The files are the state, so a power cut at any moment leaves one that goes on:
//!
//! | `gateway.pem` | `pending.key` | next |
//! |---|---|---|
//! | missing, or of another token | missing | make the key |
//! | missing, or of another token | there | trade the token for a certificate for it |
//! | there | of the same key | tell the aggregator that the certificate is kept |
//! | there | of another key | trade the certificate for one for that key |
//! | there | missing | rest, until the certificate is to be renewed: then make the key |
//!
//! `gateway.pem` holds certificate and key, and which token they are from, in one file, so that they change together.
//! A key is on the disk before anybody hears of it: the aggregator gives the same answer for the same key.

use std::io;
use std::path::{Path, PathBuf};

use loadonce_link::tls::TlsFiles;
use loadonce_link::tls::exchange::Credentials;
use loadonce_store::{Files, StoreError, write_atomic_on};
use loadonce_trust::enrol::{Answer, Refusal, encode_confirm, encode_enrol, encode_renew};
use loadonce_trust::{
    CertificateFacts, Identity, NoRandomness, PublicKey, TlsKey, Token, TokenId, certificates_from_pem, date,
    decode_hex, encode_hex, fingerprint, to_pem,
};
use thiserror::Error;

/// Largest of these files in bytes.
const MAX_FILE: u64 = 64 * 1024;
/// A certificate is renewed after this share of its life and before its end, spread over the fleet.
const RENEW_AFTER: (u64, u64) = (2, 3);
const RENEW_SPREAD: u64 = 12;

/// Why there is no certificate, or no newer one.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// No token and no certificate.
    #[error(
        "this gateway has no certificate and no token to get one: put the token that `loadonce gateway enrol` prints under `enrol.token`"
    )]
    NotEnrolled,
    /// The certificate does not read back.
    #[error("{} does not read back; restore it, or enrol again with a new token", .0.display())]
    Damaged(PathBuf),
    /// The aggregator says no.
    #[error("the aggregator at {address} refused ({word}): {text}", word = .refusal.word())]
    Refused {
        /// Where it is.
        address: String,
        /// The word.
        refusal: Refusal,
        /// The reason.
        text: String,
    },
    /// The answer fits no question.
    #[error("the aggregator at {0} answered something else than what was asked; are the versions the same?")]
    Nonsense(String),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// The certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The token it was got with.
    pub token: TokenId,
    /// The aggregator's key.
    pub aggregator: PublicKey,
    /// Where certificates are renewed.
    pub address: String,
    /// Whose it is, and until when.
    pub facts: CertificateFacts,
}

impl Current {
    /// Reads `gateway.pem`; `None` for what the agent did not write.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let head = &text[..text.find("-----BEGIN")?];
        let value = |key: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::to_owned)
        };
        let all = certificates_from_pem(bytes)?;
        let facts = CertificateFacts::read(all.first()?)?;
        let key = TlsKey::from_pem(bytes)?;
        (key.public()[..] == facts.public_key[..]).then_some(())?;
        Some(Self {
            token: decode_hex(&value("token")?)?,
            aggregator: decode_hex(&value("aggregator")?)?,
            address: value("address")?,
            facts,
        })
    }

    /// When it is to be renewed, seconds since 1970: between two thirds and three quarters of its life.
    fn renew_at(&self) -> u64 {
        let life = self.facts.not_after.saturating_sub(self.facts.not_before);
        let (part, of) = RENEW_AFTER;
        let place = self.facts.public_key.last().copied().map_or(0, u64::from);
        self.facts.not_before + life / of * part + life / RENEW_SPREAD * place / 256
    }
}

/// What an exchange is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A first certificate.
    Enrol,
    /// To say that it is kept.
    Confirm,
    /// A new one.
    Renew,
}

/// A question for the aggregator.
#[derive(Debug)]
pub struct Ask {
    /// What for.
    pub purpose: Purpose,
    /// `host:port`.
    pub address: String,
    /// Whom to believe there, and what to show.
    pub credentials: Credentials,
    /// The message.
    pub request: Vec<u8>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// Ask the aggregator and hand its answer to [`Applicant::answer`].
    Ask(Box<Ask>),
    /// Nothing before this time, seconds since 1970.
    Rest(u64),
}

/// What an answer brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// A certificate, valid until then, is kept.
    Kept(u64),
    /// The aggregator knows.
    Confirmed,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Applicant<F> {
    files: F,
    folder: PathBuf,
    gateway: String,
    identity: Identity,
    token: Option<Token>,
    /// Where the aggregator is, if not where token or certificate say.
    address: Option<String>,
}

/// The files that a gateway's connections use once it is enrolled.
pub fn enrolled_files(folder: &Path) -> TlsFiles {
    let own = folder.join("gateway.pem");
    TlsFiles { ca: folder.join("ca.pem"), identity: Some((own.clone(), own)) }
}

impl<F: Files> Applicant<F> {
    /// For the gateway of this name, whose contributions `identity` signs; `folder` is `state/tls`.
    pub fn new(
        files: F,
        folder: PathBuf,
        gateway: String,
        identity: Identity,
        token: Option<Token>,
        address: Option<String>,
    ) -> Self {
        Self { files, folder, gateway, identity, token, address }
    }

    /// The certificate in use, if there is one.
    pub fn current(&self) -> Result<Option<Current>, EnrolError> {
        let path = self.folder.join("gateway.pem");
        match self.read(&path)? {
            None => Ok(None),
            Some(bytes) => Current::parse(&bytes).map(Some).ok_or(EnrolError::Damaged(path)),
        }
    }

    /// What is to be done at this time, seconds since 1970. A key that this needs is made.
    pub fn next(&self, now: u64) -> Result<Step, EnrolError> {
        let current = match self.current() {
            // A token that was never redeemed makes up for it.
            Err(EnrolError::Damaged(_)) if self.token.is_some() => None,
            other => other?,
        };
        let pending = self.pending()?;
        let token = self.token.as_ref();
        if let Some(token) = token.filter(|t| current.as_ref().is_none_or(|current| current.token != t.id()))
        {
            let key = self.or_make(pending)?;
            return Ok(Step::Ask(Box::new(Ask {
                purpose: Purpose::Enrol,
                address: self.address.clone().unwrap_or_else(|| token.address.clone()),
                credentials: Credentials::Fingerprint(token.ca),
                request: encode_enrol(&token.secret, &self.gateway, &key, &self.identity)?,
            })));
        }
        let current = current.ok_or(EnrolError::NotEnrolled)?;
        let (purpose, request) = match pending {
            Some(key) if key.public()[..] == current.facts.public_key[..] => {
                (Purpose::Confirm, encode_confirm())
            }
            None if now < current.renew_at() => return Ok(Step::Rest(current.renew_at())),
            pending => (Purpose::Renew, encode_renew(&self.or_make(pending)?)?),
        };
        Ok(Step::Ask(Box::new(Ask {
            purpose,
            address: self.address.clone().unwrap_or(current.address),
            credentials: Credentials::Files(enrolled_files(&self.folder)),
            request,
        })))
    }

    /// Takes the answer to what was asked.
    pub fn answer(&self, ask: &Ask, answer: &[u8]) -> Result<Progress, EnrolError> {
        let nonsense = || EnrolError::Nonsense(ask.address.clone());
        match (Answer::decode(answer).ok_or_else(nonsense)?, ask.purpose) {
            (Answer::Refused(refusal, text), _) => {
                Err(EnrolError::Refused { address: ask.address.clone(), refusal, text })
            }
            (Answer::Confirmed, Purpose::Confirm) => {
                let path = self.folder.join("pending.key");
                let removed = self.files.remove(&path).and_then(|()| self.files.sync_dir(&self.folder));
                removed.map_err(|error| StoreError::from_io(&path, error))?;
                Ok(Progress::Confirmed)
            }
            (Answer::Issued { aggregator, certificate, ca }, Purpose::Enrol | Purpose::Renew) => {
                let key = self.pending()?.ok_or_else(nonsense)?;
                let facts = CertificateFacts::read(&certificate)
                    .filter(|facts| facts.name == self.gateway && facts.public_key[..] == key.public()[..])
                    .ok_or_else(nonsense)?;
                let known_ca = match (ask.purpose, &self.token) {
                    (Purpose::Enrol, Some(token)) => token.ca,
                    _ => self.known_ca()?.ok_or_else(nonsense)?,
                };
                if fingerprint(&ca) != known_ca {
                    return Err(nonsense());
                }
                let token = match (ask.purpose, &self.token) {
                    (Purpose::Enrol, Some(token)) => token.id(),
                    _ => self.current()?.ok_or_else(nonsense)?.token,
                };
                if ask.purpose == Purpose::Enrol {
                    let pem = to_pem("CERTIFICATE", &ca);
                    write_atomic_on(&self.files, &self.folder.join("ca.pem"), pem.as_bytes(), 0o644)?;
                }
                let text = format!(
                    "Certificate and key of gateway {}, valid until {}. Keep it secret.\ntoken: {}\naggregator: {}\naddress: {}\n{}{}",
                    facts.name,
                    date(facts.not_after),
                    encode_hex(&token),
                    encode_hex(&aggregator),
                    ask.address,
                    to_pem("CERTIFICATE", &certificate),
                    key.to_pem(),
                );
                write_atomic_on(&self.files, &self.folder.join("gateway.pem"), text.as_bytes(), 0o600)?;
                Ok(Progress::Kept(facts.not_after))
            }
            _ => Err(nonsense()),
        }
    }

    fn known_ca(&self) -> Result<Option<[u8; 32]>, EnrolError> {
        let bytes = self.read(&self.folder.join("ca.pem"))?;
        let all = bytes.and_then(|bytes| certificates_from_pem(&bytes)).unwrap_or_default();
        Ok(all.first().map(|der| fingerprint(der)))
    }

    /// A key that does not read back was never whole, so nobody has heard of it.
    fn pending(&self) -> Result<Option<TlsKey>, EnrolError> {
        Ok(self.read(&self.folder.join("pending.key"))?.and_then(|bytes| TlsKey::from_pem(&bytes)))
    }

    fn or_make(&self, pending: Option<TlsKey>) -> Result<TlsKey, EnrolError> {
        if let Some(key) = pending {
            return Ok(key);
        }
        let key = TlsKey::generate()?;
        let above = self.folder.parent().unwrap_or(&self.folder);
        let made = self.files.create_dir(&self.folder).and_then(|()| self.files.sync_dir(above));
        made.map_err(|error| StoreError::from_io(&self.folder, error))?;
        write_atomic_on(&self.files, &self.folder.join("pending.key"), key.to_pem().as_bytes(), 0o600)?;
        Ok(key)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, EnrolError> {
        match self.files.read(path, MAX_FILE) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::from_io(path, error).into()),
        }
    }
}

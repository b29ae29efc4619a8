//! TLS under a connection: rustls with ring, certificates read anew for every connection.
//!
//! | file | holds |
//! |---|---|
//! | `clock` | the time that certificates are checked against |
//! | `verify` | the server's certificate: against a CA file, or against a CA known by its fingerprint |
//! | `explain` | what went wrong, for a person |
//! | `exchange` | one request and one answer over TLS, both sides of it |
//!
//! No session is resumed: every connection proves everything anew, so a certificate that ended or was replaced counts
//! at the next connection.

mod clock;
pub mod exchange;
mod explain;
mod verify;

pub use clock::Clock;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use loadonce_trust::{CertificateFacts, certificates_from_pem, date, key_from_pem};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use explain::Peer;
use verify::ServerVerifier;

/// Largest PEM file in bytes: a system's bundle of all public CAs has a quarter of it.
const MAX_PEM: u64 = 1024 * 1024;

/// Which files a connection proves itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file of the CAs that may have signed the server's certificate.
    pub ca: PathBuf,
    /// PEM files of this side's certificate and of its key; they may be the same file. Without them the server learns
    /// nothing of this side.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// TLS of one link.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The files; read anew for every connection, so that what replaces them counts from then on.
    pub files: TlsFiles,
    /// The time.
    pub clock: Clock,
    /// Where the files are still to come: nothing is dialled before this says true.
    pub ready: Option<watch::Receiver<bool>>,
}

/// A file cannot be used, and which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct TlsFileError {
    path: PathBuf,
    what: String,
}

/// This side's certificate.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    file: PathBuf,
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
    facts: CertificateFacts,
}

impl Own {
    /// Whose, which file, until when.
    pub(crate) fn describe(&self) -> String {
        let Self { file, facts, .. } = self;
        format!("{} (of {}, valid until {})", file.display(), facts.name, date(facts.not_after))
    }
}

fn wrong(path: &Path, what: impl Into<String>) -> TlsFileError {
    TlsFileError { path: path.to_owned(), what: what.into() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    let mut bytes = Vec::new();
    let limit = File::open(path).and_then(|file| file.take(MAX_PEM + 1).read_to_end(&mut bytes));
    match limit {
        Ok(_) if bytes.len() as u64 <= MAX_PEM => Ok(bytes),
        Ok(_) => Err(wrong(path, format!("longer than {MAX_PEM} bytes"))),
        Err(error) => Err(wrong(path, error.to_string())),
    }
}

fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>, TlsFileError> {
    match certificates_from_pem(&read(path)?) {
        Some(all) if !all.is_empty() => Ok(all),
        Some(_) => {
            Err(wrong(path, "there is no certificate in it; a PEM file with `BEGIN CERTIFICATE` is wanted"))
        }
        None => Err(wrong(path, "a certificate in it is damaged")),
    }
}

impl TlsFiles {
    pub(crate) fn own(&self) -> Result<Option<Own>, TlsFileError> {
        let Some((file, key_file)) = &self.identity else { return Ok(None) };
        let chain = read_certificates(file)?;
        let facts = CertificateFacts::read(&chain[0])
            .ok_or_else(|| wrong(file, "its first certificate is none that can be read"))?;
        let key = key_from_pem(&read(key_file)?)
            .ok_or_else(|| wrong(key_file, "there is no PKCS #8 key in it (`BEGIN PRIVATE KEY`)"))?;
        Ok(Some(Own { file: file.clone(), chain, key, facts }))
    }

    /// Whether the files can be used, and what a person wants to know of them.
    pub fn check(&self) -> Result<String, TlsFileError> {
        let verifier = self.verifier(&Clock::system())?;
        let own = self.own()?;
        client_config(verifier, own.as_ref()).map_err(|error| self.misfit(&error))?;
        Ok(own.map_or_else(|| "no certificate of its own".to_owned(), |own| own.describe()))
    }

    fn verifier(&self, clock: &Clock) -> Result<ServerVerifier, TlsFileError> {
        Ok(ServerVerifier::with_roots(self.roots()?, clock.clone()))
    }

    fn roots(&self) -> Result<RootCertStore, TlsFileError> {
        let mut roots = RootCertStore::empty();
        let all = read_certificates(&self.ca)?.into_iter().map(CertificateDer::from);
        if roots.add_parsable_certificates(all).0 == 0 {
            return Err(wrong(&self.ca, "no certificate in it can be used as a CA"));
        }
        Ok(roots)
    }

    /// Certificate and key were read and are refused together.
    fn misfit(&self, error: &rustls::Error) -> TlsFileError {
        let (file, key) = self.identity.as_ref().map_or((&self.ca, None), |(file, key)| (file, Some(key)));
        match (error, key) {
            (rustls::Error::InconsistentKeys(_), Some(key)) => {
                wrong(file, format!("the certificate is not for the key in {}", key.display()))
            }
            _ => wrong(file, error.to_string()),
        }
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client_config(verifier: ServerVerifier, own: Option<&Own>) -> Result<ClientConfig, rustls::Error> {
    let clock = Arc::new(verifier.clock().clone());
    let builder = ClientConfig::builder_with_details(provider(), clock)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => {
            let chain = own.chain.iter().cloned().map(CertificateDer::from).collect();
            builder.with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(own.key.clone()).into())?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl Tls {
    /// TLS with files that are there, by the system's clock.
    pub fn new(files: TlsFiles) -> Self {
        Self { files, clock: Clock::system(), ready: None }
    }

    /// Waits for the files, where they are still to come.
    pub(crate) async fn wait(&self) {
        if let Some(ready) = &self.ready {
            // If nobody will ever say so, what is there is tried.
            let mut ready = ready.clone();
            let _ready = ready.wait_for(|ready| *ready).await;
        }
    }

    /// The handshake; what goes wrong is said for a person.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<(TlsStream<S>, Peer), String> {
        let prepared = || {
            let (verifier, own) = (self.files.verifier(&self.clock)?, self.files.own()?);
            let config = client_config(verifier, own.as_ref()).map_err(|error| self.files.misfit(&error))?;
            Ok((config, own))
        };
        let (config, own) = prepared().map_err(|error: TlsFileError| error.to_string())?;
        let ca = self.files.ca.display().to_string();
        let peer = Peer { who: "broker", host: host.to_owned(), ca, own, clock: self.clock.clone() };
        connect(config, stream, peer).await
    }
}

async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: ClientConfig,
    stream: S,
    peer: Peer,
) -> Result<(TlsStream<S>, Peer), String> {
    let name = ServerName::try_from(peer.host.clone())
        .map_err(|_| format!("{:?} is not a name that a certificate can be for", peer.host))?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok((stream, peer)),
        Err(error) => Err(peer.explain(&error)),
    }
}

/// Whether `error` is TLS's own way to say no, and what it says.
pub(crate) fn alert(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

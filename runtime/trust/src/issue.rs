//! A site's certificate authority.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use thiserror::Error;
use time::OffsetDateTime;

use crate::certificate::{CertificateFacts, certificates_from_pem, key_from_pem, to_pem};
use crate::enrol::AGGREGATOR_HOST;
use crate::tls_key::{TlsKey, TlsPublicKey, fingerprint};

const DAY: u64 = 86_400;
/// Certificates begin this long before they are made, for clocks that are late.
const LATE_CLOCKS: u64 = DAY;
/// How long a CA lives.
const CA_DAYS: u64 = 20 * 365;

/// Common name, and so the broker's user name, of the aggregator. No gateway can have it, for its name cannot have
/// an `@`.
pub const AGGREGATOR: &str = "@aggregator";
/// The same of the person who runs the command line.
pub const OPERATOR: &str = "@operator";

/// Whose certificate is made.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A gateway.
    Gateway(&'a str),
    /// The aggregator: a client of the broker, and a server where tokens are redeemed.
    Aggregator,
    /// The operator.
    Operator,
    /// A broker with these names or addresses.
    Broker(&'a [String]),
}

/// Why no certificate is made.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The files are no CA.
    #[error(
        "the CA's certificate and key do not read back or do not belong together; restore them from a backup"
    )]
    Files,
    /// A name that no certificate can bear.
    #[error("{0:?} is not a host name or an address")]
    Name(String),
    /// The library refused.
    #[error("the certificate cannot be made: {0}")]
    Library(#[from] rcgen::Error),
}

/// See the module's documentation.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    not_after: u64,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// The name of a site's CA is its subject's common name.
fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn at(seconds: u64) -> OffsetDateTime {
    // As far as a certificate can say.
    let seconds = seconds.min(253_402_300_799) as i64;
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

impl Ca {
    /// Makes a CA for a site: the CA, and its certificate and key as PEM.
    pub fn make(site: &str, now: u64) -> Result<(Self, String, String), IssueError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = ca_params(&format!("loadonce {site} CA"));
        params.not_before = at(now.saturating_sub(LATE_CLOCKS));
        params.not_after = at(now + CA_DAYS * DAY);
        let certificate = params.self_signed(&key)?;
        let (certificate, key) =
            (to_pem("CERTIFICATE", certificate.der()), to_pem("PRIVATE KEY", key.serialized_der()));
        Ok((Self::open(&certificate, &key)?, certificate, key))
    }

    /// Reads the PEM texts that [`Ca::make`] made.
    pub fn open(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let all = certificates_from_pem(certificate.as_bytes()).ok_or(IssueError::Files)?;
        let [der] = &all[..] else { return Err(IssueError::Files) };
        let facts = CertificateFacts::read(der).ok_or(IssueError::Files)?;
        let pkcs8 = key_from_pem(key.as_bytes()).ok_or(IssueError::Files)?;
        let key = KeyPair::try_from(pkcs8).map_err(|_| IssueError::Files)?;
        if key.public_key_raw() != facts.public_key {
            return Err(IssueError::Files);
        }
        let issuer = Issuer::new(ca_params(&facts.name), key);
        Ok(Self { issuer, der: der.clone(), not_after: facts.not_after })
    }

    /// Its certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of its certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.der)
    }

    /// A certificate for `key`, DER, valid for `days` from `now` on, but not longer than the CA.
    pub fn issue(
        &self,
        subject: Subject<'_>,
        key: &TlsPublicKey,
        now: u64,
        days: u64,
    ) -> Result<Vec<u8>, IssueError> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let mut params = CertificateParams::default();
        let (name, uses, hosts) = match subject {
            Subject::Gateway(name) => (name, vec![ClientAuth], Vec::new()),
            Subject::Operator => (OPERATOR, vec![ClientAuth], Vec::new()),
            Subject::Aggregator => {
                (AGGREGATOR, vec![ClientAuth, ServerAuth], vec![AGGREGATOR_HOST.to_owned()])
            }
            Subject::Broker(hosts) => {
                let name = hosts.first().map_or("broker", String::as_str);
                (name, vec![ServerAuth], hosts.to_vec())
            }
        };
        params.distinguished_name = common_name(name);
        params.extended_key_usages = uses;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if is_host(&host) => {
                    SanType::DnsName(host.as_str().try_into().map_err(|_| IssueError::Name(host.clone()))?)
                }
                Err(_) => return Err(IssueError::Name(host)),
            });
        }
        let mut serial = [0; 16];
        getrandom::fill(&mut serial).map_err(|_| IssueError::Library(rcgen::Error::RingUnspecified))?;
        // Positive, and never short.
        serial[0] = serial[0] & 0x3f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = at(now.saturating_sub(LATE_CLOCKS));
        params.not_after = at((now + days.saturating_mul(DAY)).min(self.not_after));
        let certificate: Certificate = params.signed_by(&Point(key), &self.issuer)?;
        Ok(certificate.der().to_vec())
    }

    /// A key and a certificate for it, as PEM each.
    pub fn issue_with_key(
        &self,
        subject: Subject<'_>,
        now: u64,
        days: u64,
    ) -> Result<(String, String), IssueError> {
        let key = TlsKey::generate().map_err(|_| IssueError::Library(rcgen::Error::RingUnspecified))?;
        let der = self.issue(subject, &key.public(), now, days)?;
        Ok((to_pem("CERTIFICATE", &der), key.to_pem()))
    }
}

fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

struct Point<'a>(&'a TlsPublicKey);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn what_is_issued_says_who_and_how_long() {
        let (_, certificate, key) = Ca::make("plant", NOW).unwrap();
        let ca = Ca::open(&certificate, &key).unwrap();
        let tls = TlsKey::generate().unwrap();
        let der = ca.issue(Subject::Gateway("press-7"), &tls.public(), NOW, 365).unwrap();
        let facts = CertificateFacts::read(&der).unwrap();
        assert_eq!((facts.name.as_str(), &facts.public_key[..]), ("press-7", &tls.public()[..]));
        assert_eq!((facts.not_before, facts.not_after), (NOW - DAY, NOW + 365 * DAY));
        // Not longer than the CA.
        let der = ca.issue(Subject::Gateway("press-7"), &tls.public(), NOW, 100_000).unwrap();
        assert_eq!(CertificateFacts::read(&der).unwrap().not_after, NOW + CA_DAYS * DAY);
        let hosts = ["broker.plant".to_owned(), "10.0.0.5".to_owned(), "::1".to_owned()];
        assert!(ca.issue(Subject::Broker(&hosts), &tls.public(), NOW, 1).is_ok());
        let bad = ["not a host".to_owned()];
        assert!(matches!(ca.issue(Subject::Broker(&bad), &tls.public(), NOW, 1), Err(IssueError::Name(_))));
        let (_, other, _) = Ca::make("plant", NOW).unwrap();
        assert!(matches!(Ca::open(&other, &key), Err(IssueError::Files)));
    }
}

//! What went wrong with TLS, in one sentence for a person: who, which file, until when, what to do.

use std::io;

use loadonce_trust::{Moment, date};
use rustls::{AlertDescription, CertificateError, Error};

use super::{Clock, Own, alert};

/// The other side, as far as an explanation needs it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `broker`, `aggregator`.
    pub(crate) who: &'static str,
    /// The name or address that was dialled.
    pub(crate) host: String,
    /// What its certificate is checked against.
    pub(crate) ca: String,
    /// This side's certificate.
    pub(crate) own: Option<Own>,
    /// The time it was checked by.
    pub(crate) clock: Clock,
}

/// The time and where it is from.
fn by_the_clock(now: Moment) -> String {
    let date = date(now.seconds);
    if now.certain {
        format!("this machine's clock says {date}")
    } else {
        format!("this machine's clock is wrong, but it is later than {date}")
    }
}

impl Peer {
    /// What a failed handshake means.
    pub(crate) fn explain(&self, error: &io::Error) -> String {
        let who = self.who;
        match alert(error) {
            Some(Error::InvalidCertificate(problem)) => self.certificate(problem),
            Some(Error::AlertReceived(alert)) => self.refused(*alert),
            Some(Error::InvalidMessage(_)) => {
                format!(
                    "the {who} does not speak TLS on this port; correct the port, or write mqtt:// for one without TLS"
                )
            }
            Some(other) => format!("TLS with the {who} failed: {other}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof
                || error.kind() == io::ErrorKind::ConnectionReset =>
            {
                format!("the {who} ended the connection during the TLS handshake{}", self.own_words())
            }
            None => format!("TLS with the {who} failed: {error}"),
        }
    }

    fn own_words(&self) -> String {
        match &self.own {
            Some(own) if own.facts.not_after < self.clock.now().seconds => {
                format!(
                    ", for this side's certificate {} has expired ({}); renew it",
                    own.describe(),
                    by_the_clock(self.clock.now())
                )
            }
            Some(own) => format!(
                "; most likely it does not accept this side's certificate {}: see whether the {}'s log says why",
                own.describe(),
                self.who
            ),
            None => "; most likely it wants a certificate, and none is configured".to_owned(),
        }
    }

    fn certificate(&self, problem: &CertificateError) -> String {
        let Self { who, host, ca, .. } = self;
        match problem {
            CertificateError::ExpiredContext { not_after, .. } => format!(
                "the certificate of the {who} expired on {} ({}); renew it there, or set the clock",
                date(not_after.as_secs()),
                by_the_clock(self.clock.now())
            ),
            CertificateError::NotValidYetContext { not_before, .. } => format!(
                "the certificate of the {who} is valid from {} only ({}); set the clock",
                date(not_before.as_secs()),
                by_the_clock(self.clock.now())
            ),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!(
                    "the certificate of the {who} at {host} is not signed by {ca}; is it the right {who}, and the right CA?"
                )
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let named = presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ");
                format!(
                    "the certificate of the {who} is for {named}, not for {host}; give one of these names in the configuration, or the {who} a certificate for {host}"
                )
            }
            CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
                format!("the certificate of the {who} is not one of a server")
            }
            other => format!("the certificate of the {who} cannot be used: {other:?}"),
        }
    }

    fn refused(&self, alert: AlertDescription) -> String {
        let who = self.who;
        let why = match alert {
            AlertDescription::CertificateExpired => "as expired",
            AlertDescription::CertificateRevoked => "as revoked",
            AlertDescription::UnknownCA => "as signed by a CA it does not know",
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => "",
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                return format!("the {who} wants a certificate, and none is configured");
            }
            other => return format!("the {who} ended the TLS handshake ({other:?}){}", self.own_words()),
        };
        match &self.own {
            Some(own) => format!("the {who} refused this side's certificate {} {why}", own.describe())
                .trim_end()
                .to_owned(),
            None => {
                format!("the {who} ended the TLS handshake ({alert:?}); most likely it wants a certificate")
            }
        }
    }

    /// What it means that the connection ended after the handshake. If the other side had said nothing by then (`heard`),
    /// most likely it did not like the certificate: with TLS 1.3 it looks at a client's only then.
    pub(crate) fn later(&self, error: &io::Error, heard: bool) -> String {
        let who = self.who;
        match alert(error) {
            Some(Error::AlertReceived(alert)) => self.refused(*alert),
            Some(other) => format!("TLS with the {who} failed: {other}"),
            None if !heard => {
                format!("the {who} ended the connection right after the TLS handshake{}", self.own_words())
            }
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                format!("the {who} closed the connection")
            }
            None => error.to_string(),
        }
    }
}

/// `DnsName("broker.plant")` and `IpAddress(10.0.0.5)`, as webpki tells names, without the wrapping.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

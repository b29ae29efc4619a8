//! The server's certificate.

use std::sync::Arc;
use std::time::Duration;

use loadonce_trust::{CertificateFacts, fingerprint};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Clock, provider};

#[derive(Debug)]
enum Trust {
    Roots(Arc<RootCertStore>),
    /// SHA-256 of a CA certificate that the server sends along.
    Fingerprint([u8; 32]),
}

/// webpki's verification by a clock that may be wrong. What it proves, it tells the clock: the CA has signed that these
/// certificates' validity had begun.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    trust: Trust,
    clock: Clock,
}

impl ServerVerifier {
    pub(crate) fn with_roots(roots: RootCertStore, clock: Clock) -> Self {
        Self { trust: Trust::Roots(Arc::new(roots)), clock }
    }

    pub(crate) fn with_fingerprint(ca: [u8; 32], clock: Clock) -> Self {
        Self { trust: Trust::Fingerprint(ca), clock }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    fn roots(&self, sent: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        match &self.trust {
            Trust::Roots(roots) => Ok(Arc::clone(roots)),
            Trust::Fingerprint(ca) => {
                let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
                let known = sent.iter().find(|der| fingerprint(der) == *ca).ok_or_else(unknown)?;
                let mut roots = RootCertStore::empty();
                roots.add(known.clone().into_owned())?;
                Ok(Arc::new(roots))
            }
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let began = CertificateFacts::read(end_entity)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?
            .not_before;
        let moment = self.clock.now();
        // A clock that is known to be behind cannot say that a certificate is not valid yet.
        let begun =
            intermediates.iter().filter_map(|der| CertificateFacts::read(der)).map(|facts| facts.not_before);
        let latest_begun = begun.fold(began, u64::max);
        let at = if moment.certain { moment.seconds } else { moment.seconds.max(latest_begun) };
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots(intermediates)?, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)?;
        self.clock.learn(began);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

//! What a request leads to. No socket and no clock: requests and the time come in as arguments.
//!
//! Every answer that says yes is durable before it is given. A gateway may lose power, or the answer, at any moment: the
//! same token with the same keys gets the same certificate until the gateway was seen with it, and after that the token
//! is worth nothing. So whoever steals a used token gets nothing, and whoever redeems it first keeps the gateway out,
//! which its log and ours then say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use loadonce_store::{Files, StoreError};
use loadonce_trust::enrol::{Answer, Refusal, Request};
use loadonce_trust::{Ca, CertificateFacts, IssueError, PublicKey, Secret, Subject, TlsPublicKey, token_id};
use serde::Serialize;

use super::records::{Offered, Record, make_folders, names, read_record, read_token, write_record};

/// Pause between two renewals of one gateway with different keys, seconds.
const RENEWAL_PAUSE: u64 = 60;

/// What was done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EnrolFigures {
    /// Gateways that are enrolled, ever.
    pub gateways: usize,
    /// Tokens traded for a certificate.
    pub issued: u64,
    /// The same certificate given again.
    pub repeated: u64,
    /// Gateways seen with a new certificate.
    pub confirmed: u64,
    /// Certificates renewed.
    pub renewed: u64,
    /// Refusals by word.
    pub refused: BTreeMap<&'static str, u64>,
    /// Files of gateways that do not read back.
    pub corrupt: u64,
}

/// What came of a request.
#[derive(Debug)]
pub struct Handled {
    /// The answer, to be sent.
    pub answer: Vec<u8>,
    /// The gateway it is about, as far as that is known.
    pub gateway: String,
    /// Why it was refused.
    pub refused: Option<(Refusal, String)>,
    /// A gateway whose contributions are to be admitted from now on, and their key.
    pub admitted: Option<(String, PublicKey)>,
}

/// Whether the registry has room for a gateway with this name and key; otherwise why not. The last argument is whether
/// the operator said that it replaces one of the same name.
pub type Admissible<'a> = &'a dyn Fn(&str, &PublicKey, bool) -> Result<(), &'static str>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Registrar<F> {
    files: F,
    folder: PathBuf,
    ca: Ca,
    aggregator: PublicKey,
    days: u64,
    records: BTreeMap<String, Record>,
    figures: EnrolFigures,
}

type Refused = (Refusal, String);

enum Done {
    Issued(Vec<u8>),
    Confirmed,
}

impl<F: Files> Registrar<F> {
    /// Reads what is in `folder`, making it if it is missing.
    pub fn open(
        files: F,
        folder: PathBuf,
        ca: Ca,
        aggregator: PublicKey,
        days: u64,
    ) -> Result<Self, StoreError> {
        make_folders(&files, &folder)?;
        let (mut records, mut figures) = (BTreeMap::new(), EnrolFigures::default());
        for name in names(&files, &folder, "gateways")? {
            match read_record(&files, &folder, &name) {
                Ok(Some(record)) => {
                    records.insert(name, record);
                }
                Ok(None) => {}
                Err(error) => {
                    figures.corrupt += 1;
                    tracing::error!(
                        gateway = name, %error,
                        "an enrolled gateway's file does not read back; restore it, or enrol the gateway again with --replace"
                    );
                }
            }
        }
        Ok(Self { files, folder, ca, aggregator, days, records, figures })
    }

    /// Every enrolled gateway and the key of its contributions.
    pub fn gateways(&self) -> impl Iterator<Item = (&str, &PublicKey)> {
        self.records.iter().map(|(name, record)| (name.as_str(), &record.key))
    }

    /// What was done.
    pub fn figures(&self) -> EnrolFigures {
        EnrolFigures { gateways: self.records.len(), ..self.figures.clone() }
    }

    /// Takes a request that came on a connection which showed `certificate`, signed by the site's CA and valid.
    pub fn handle(
        &mut self,
        request: &[u8],
        certificate: Option<&CertificateFacts>,
        now: u64,
        admissible: Admissible<'_>,
    ) -> Handled {
        let mut gateway = certificate.map(|facts| facts.name.clone()).unwrap_or_default();
        let mut admitted = None;
        let done = match Request::decode(request) {
            Ok(Request::Enrol { secret, gateway: name, tls, contribution }) => {
                gateway.clone_from(&name);
                let done = self.enrol(&secret, &name, &tls, &contribution, now, admissible);
                if done.is_ok() {
                    admitted = Some((name, contribution));
                }
                done
            }
            Ok(Request::Confirm) => self.confirm(certificate),
            Ok(Request::Renew { tls }) => self.renew(certificate, &tls, now),
            Err(refusal) => Err((refusal, "the request cannot be read".to_owned())),
        };
        let (answer, refused) = match done {
            Ok(Done::Issued(certificate)) => {
                let (aggregator, ca) = (self.aggregator, self.ca.der().to_vec());
                (Answer::Issued { aggregator, certificate, ca }, None)
            }
            Ok(Done::Confirmed) => (Answer::Confirmed, None),
            Err((refusal, text)) => {
                *self.figures.refused.entry(refusal.word()).or_default() += 1;
                (Answer::Refused(refusal, text.clone()), Some((refusal, text)))
            }
        };
        Handled { answer: answer.encode(), gateway, refused, admitted }
    }

    fn enrol(
        &mut self,
        secret: &Secret,
        name: &str,
        tls: &TlsPublicKey,
        contribution: &PublicKey,
        now: u64,
        admissible: Admissible<'_>,
    ) -> Result<Done, Refused> {
        let id = token_id(secret);
        let known = self.records.get(name);
        if let Some(record) = known.filter(|record| record.token == id) {
            return match &record.offered {
                // Until it is confirmed: whoever shows the same keys has not got the answer. Even after the token's
                // end, for it was redeemed in time.
                Some(offered) if record.current.is_none() => {
                    if offered.key != *tls || record.key != *contribution {
                        return Err(refuse(
                            Refusal::OtherKey,
                            "this token was redeemed with other keys: if not by this gateway before its state was lost, by somebody else; make a new token with --replace",
                        ));
                    }
                    self.figures.repeated += 1;
                    Ok(Done::Issued(offered.certificate.clone()))
                }
                _ => {
                    Err(refuse(Refusal::UsedToken, "this token was redeemed; make a new one with --replace"))
                }
            };
        }
        let token = read_token(&self.files, &self.folder, name).map_err(unavailable)?;
        let unknown = || refuse(Refusal::UnknownToken, "there is no such token for this gateway; make one");
        let token = token.filter(|token| token.id == id).ok_or_else(unknown)?;
        if now > token.expires {
            return Err(refuse(Refusal::ExpiredToken, "this token's time is over; make a new one"));
        }
        if known.is_some() && !token.replaces {
            return Err(refuse(
                Refusal::NameTaken,
                "a gateway of this name is enrolled; use another name, or --replace",
            ));
        }
        if let Err(why) = admissible(name, contribution, token.replaces) {
            return Err(refuse(Refusal::NameTaken, why));
        }
        let (certificate, not_after) = self.issue(name, tls, now)?;
        let offered = Some(Offered { key: *tls, certificate: certificate.clone(), at: now });
        self.put(name, Record { token: id, key: *contribution, current: None, offered, not_after })?;
        self.figures.issued += 1;
        Ok(Done::Issued(certificate))
    }

    /// The record of the gateway whose certificate was shown; it is noted if that is the one that was offered last.
    fn shown(&mut self, certificate: Option<&CertificateFacts>) -> Result<(String, Record), Refused> {
        let facts = certificate.ok_or_else(|| {
            refuse(Refusal::NoCertificate, "this needs a connection that shows a certificate")
        })?;
        let replaced = || {
            refuse(
                Refusal::Replaced,
                "a newer certificate is in use under this name; enrol again with a new token",
            )
        };
        let key = TlsPublicKey::try_from(&facts.public_key[..]).map_err(|_| replaced())?;
        let mut record = self.records.get(&facts.name).cloned().ok_or_else(replaced)?;
        if record.offered.as_ref().is_some_and(|offered| offered.key == key) {
            record.offered = None;
            record.current = Some(key);
            self.put(&facts.name, record.clone())?;
            self.figures.confirmed += 1;
        }
        if record.current == Some(key) { Ok((facts.name.clone(), record)) } else { Err(replaced()) }
    }

    fn confirm(&mut self, certificate: Option<&CertificateFacts>) -> Result<Done, Refused> {
        self.shown(certificate).map(|_| Done::Confirmed)
    }

    fn renew(
        &mut self,
        certificate: Option<&CertificateFacts>,
        tls: &TlsPublicKey,
        now: u64,
    ) -> Result<Done, Refused> {
        let (name, mut record) = self.shown(certificate)?;
        match &record.offered {
            Some(offered) if offered.key == *tls => {
                self.figures.repeated += 1;
                return Ok(Done::Issued(offered.certificate.clone()));
            }
            Some(offered) if now.abs_diff(offered.at) < RENEWAL_PAUSE => {
                return Err(refuse(
                    Refusal::TooSoon,
                    "a new certificate was made a moment ago; ask again later",
                ));
            }
            _ => {}
        }
        if record.current == Some(*tls) {
            return Err(refuse(Refusal::Malformed, "a new certificate needs a new key"));
        }
        let (certificate, not_after) = self.issue(&name, tls, now)?;
        record.offered = Some(Offered { key: *tls, certificate: certificate.clone(), at: now });
        record.not_after = not_after;
        self.put(&name, record)?;
        self.figures.renewed += 1;
        Ok(Done::Issued(certificate))
    }

    fn issue(&self, name: &str, tls: &TlsPublicKey, now: u64) -> Result<(Vec<u8>, u64), Refused> {
        let failed = |error: IssueError| {
            tracing::error!(gateway = name, %error, "no certificate");
            refuse(Refusal::Unavailable, "the aggregator cannot make a certificate; its log says why")
        };
        let certificate = self.ca.issue(Subject::Gateway(name), tls, now, self.days).map_err(failed)?;
        let not_after = CertificateFacts::read(&certificate).map_or(0, |facts| facts.not_after);
        Ok((certificate, not_after))
    }

    /// Makes a record durable, and only then known.
    fn put(&mut self, name: &str, record: Record) -> Result<(), Refused> {
        write_record(&self.files, &self.folder, name, &record).map_err(unavailable)?;
        self.records.insert(name.to_owned(), record);
        Ok(())
    }
}

fn refuse(refusal: Refusal, text: impl Into<String>) -> Refused {
    (refusal, text.into())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: StoreError) -> Refused {
    tracing::error!(%error, "enrolment cannot read or write its files");
    refuse(Refusal::Unavailable, "the aggregator's disk fails; its log says how")
}

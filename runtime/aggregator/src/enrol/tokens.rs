//! What the operator does beside the aggregator: making tokens, listing who is enrolled.

use std::path::{Path, PathBuf};

use loadonce_store::{Disk, StoreError};
use loadonce_trust::{Token, certificates_from_pem, date, encode_hex, fingerprint, token_id};
use loadonce_wire::Name;
use serde::Deserialize;
use thiserror::Error;

use super::records::{TokenRecord, make_folders, names, read_record, read_token, write_token};
use super::site::own_as_folder;
use super::{enrol_folder, tls_folder};
use crate::config::Config;

/// Longest life of a token in hours: a month.
const MAX_HOURS: u64 = 24 * 31;

/// Which token is wanted.
#[derive(Debug, Clone)]
pub struct TokenOrder<'a> {
    /// For which gateway.
    pub gateway: &'a str,
    /// For how long.
    pub hours: u64,
    /// Even if the name is known: the gateway gets new keys, and the old ones count no more.
    pub replace: bool,
}

/// Why no token is made.
#[derive(Debug, Error)]
pub enum EnrolTokenError {
    /// Not a name.
    #[error("{0:?} cannot be a gateway's name: use 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot")]
    Name(String),
    /// The name is somebody's.
    #[error(
        "{gateway} is the name of another gateway ({why}); choose another name, or give --replace if this is its replacement"
    )]
    Taken {
        /// The name.
        gateway: String,
        /// How that is known.
        why: String,
    },
    /// Listed with a key.
    #[error(
        "{0} is listed with its key under `gateways` in the configuration, which stands above enrolment; remove it there first"
    )]
    Listed(String),
    /// Too long.
    #[error("a token lives 1 to {MAX_HOURS} hours, not {0}")]
    Hours(u64),
    /// The configuration has no endpoint.
    #[error(
        "the configuration has no `[enrol]` section, so no token could be redeemed; docs/enrol.md shows one"
    )]
    NoEndpoint,
    /// There is no CA.
    #[error("{} holds no CA certificate; run `loadonce site init` first", .0.display())]
    NoCa(PathBuf),
    /// A name or an address is too long for a token.
    #[error("the site's name or an address in `[enrol]` is too long for a token")]
    TooLong,
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No randomness.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// Makes a token and notes its hash for the aggregator; a running one need not be told.
pub fn make_token(config: &Config, order: &TokenOrder<'_>, now: u64) -> Result<Token, EnrolTokenError> {
    let TokenOrder { gateway, hours, replace } = *order;
    if Name::new(gateway).is_none() {
        return Err(EnrolTokenError::Name(gateway.to_owned()));
    }
    if !(1..=MAX_HOURS).contains(&hours) {
        return Err(EnrolTokenError::Hours(hours));
    }
    let enrol = config.enrol.as_ref().ok_or(EnrolTokenError::NoEndpoint)?;
    if config.settings.gateways.contains_key(gateway) {
        return Err(EnrolTokenError::Listed(gateway.to_owned()));
    }
    let folder = enrol_folder(&config.state);
    make_folders(&Disk, &folder)?;
    if !replace && let Some(why) = taken(config, gateway, now)? {
        return Err(EnrolTokenError::Taken { gateway: gateway.to_owned(), why });
    }
    let ca_path = tls_folder(&config.state).join("ca.pem");
    let no_ca = || EnrolTokenError::NoCa(ca_path.clone());
    let pem = std::fs::read(&ca_path).map_err(|_| no_ca())?;
    let all = certificates_from_pem(&pem).unwrap_or_default();
    let ca = fingerprint(all.first().ok_or_else(no_ca)?);
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|_| EnrolTokenError::NoRandomness)?;
    let token = Token {
        secret,
        ca,
        issued: now,
        expires: now + hours * 3600,
        gateway: gateway.to_owned(),
        site: config.settings.site.clone(),
        address: enrol.address.clone(),
        broker: enrol.broker.clone(),
    };
    if token.to_text().is_none() {
        return Err(EnrolTokenError::TooLong);
    }
    let record =
        TokenRecord { id: token_id(&secret), issued: now, expires: token.expires, replaces: replace };
    let path = write_token(&Disk, &folder, gateway, &record)?;
    for made in [&folder, &folder.join("tokens"), &folder.join("gateways"), &path] {
        own_as_folder(made, &config.state);
    }
    Ok(token)
}

/// What `figures.json` says of a gateway.
#[derive(Deserialize)]
struct Known {
    name: String,
    key: String,
}

/// Where the service has its figures, in memory.
const SERVICE: &str = "/run/loadonce-aggregator";

#[derive(Deserialize)]
struct Figures {
    site: String,
    gateways: Vec<Known>,
}

/// How it is known that a name is somebody's.
fn taken(config: &Config, gateway: &str, now: u64) -> Result<Option<String>, StoreError> {
    let folder = enrol_folder(&config.state);
    let record = read_record(&Disk, &folder, gateway)?;
    if let Some(record) = &record {
        return Ok(Some(format!("enrolled, its certificate is valid until {}", date(record.not_after))));
    }
    if let Some(token) = read_token(&Disk, &folder, gateway)?.filter(|token| token.expires >= now) {
        return Ok(Some(format!("a token for it can be redeemed until {}", date(token.expires))));
    }
    // Who contributed before there was enrolment. The aggregator's own word, for the journal is in its hands.
    let files = [&config.state, Path::new(SERVICE)].map(|folder| folder.join("figures.json"));
    let read = files.iter().filter_map(|file| serde_json::from_slice(&std::fs::read(file).ok()?).ok());
    let of_site = read.filter(|figures: &Figures| figures.site == config.settings.site);
    let known = of_site.flat_map(|figures| figures.gateways);
    let known = known.into_iter().find(|known| known.name == gateway && !known.key.is_empty());
    Ok(known.map(|known| format!("the aggregator has contributions of it, signed by {}", known.key)))
}

/// What is known of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its name.
    pub gateway: String,
    /// In words.
    pub state: String,
    /// The key of its contributions, hexadecimal; empty before it redeemed its token.
    pub key: String,
}

/// Everybody who is enrolled or has a token.
pub fn enrolments(config: &Config, now: u64) -> Result<Vec<Enrolment>, StoreError> {
    let folder = enrol_folder(&config.state);
    let mut all = names(&Disk, &folder, "tokens")?;
    all.extend(names(&Disk, &folder, "gateways")?);
    all.sort();
    all.dedup();
    let mut out = Vec::new();
    for gateway in all {
        let record = read_record(&Disk, &folder, &gateway)?;
        let token = read_token(&Disk, &folder, &gateway)?;
        let open = token.filter(|token| record.as_ref().is_none_or(|record| record.token != token.id));
        let mut state = match &record {
            Some(record) if record.not_after < now => {
                format!("certificate EXPIRED {}", date(record.not_after))
            }
            Some(record) if record.current.is_none() => {
                "certificate handed out, not seen in use yet".to_owned()
            }
            Some(record) => format!("certificate valid until {}", date(record.not_after)),
            None => String::new(),
        };
        if let Some(token) = open {
            let separator = if state.is_empty() { "" } else { "; " };
            let word = if token.expires < now { "token expired" } else { "token can be redeemed until" };
            state = format!("{state}{separator}{word} {}", date(token.expires));
        }
        let key = record.map(|record| encode_hex(&record.key)).unwrap_or_default();
        out.push(Enrolment { gateway, state, key });
    }
    Ok(out)
}

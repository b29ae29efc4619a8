//! How brokers are reached, who is believed, and how a certificate comes.

use super::Config;
use loadonce_trust::{MAX_TOKEN, Token};
use serde::Deserialize;
use std::io::Read;
use std::path::PathBuf;

/// One MQTT connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// `mqtt://host:port`.
    pub broker: String,
    /// User name, where the broker asks for one.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Seconds between keep-alives, where it is not the usual one of the connection.
    pub keep_alive_s: Option<u64>,
    /// Longest pause between attempts to connect, seconds.
    #[serde(default = "BrokerConfig::default_backoff_cap")]
    pub backoff_cap_s: u64,
}

impl BrokerConfig {
    fn default_backoff_cap() -> u64 {
        300
    }
}

/// Whose manifests, pointers and acknowledgements are believed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// The aggregator's public key, hexadecimal.
    pub aggregator_key: Option<String>,
    /// Pin the first key that is seen. For trials: whoever speaks first is believed for good.
    pub first_use: bool,
}

/// Certificates for brokers that are named by `mqtts://`, as PEM files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The CAs that may have signed the broker's certificate.
    pub ca: PathBuf,
    /// This gateway's certificate, where the broker wants one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Getting a certificate with a one-time token, and renewing it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrolConfig {
    /// The token, as `loadonce gateway enrol` printed it. It may stay when it was redeemed.
    pub token: Option<String>,
    /// A file that holds it, instead.
    pub token_file: Option<PathBuf>,
    /// Where the aggregator is, `host:port`, if not where the token says.
    pub address: Option<String>,
}

impl EnrolConfig {
    /// The token, wherever it is; `None` where the configuration names none.
    pub(super) fn read_token(&self) -> Result<Option<Token>, String> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => {
                let mut text = String::new();
                let read = std::fs::File::open(path)
                    .and_then(|file| file.take(MAX_TOKEN as u64 + 64).read_to_string(&mut text));
                match read {
                    Ok(_) => text,
                    // A person took the token away after it was redeemed, as is right.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(format!("{}: {error}", path.display())),
                }
            }
            (None, None) => return Ok(None),
        };
        Token::parse(&text).map(Some).map_err(|error| format!("cannot be used: {error}"))
    }

    pub(super) fn check(&self, config: &Config) -> Result<(), (&'static str, String)> {
        let key = if self.token.is_some() { "enrol.token" } else { "enrol.token_file" };
        if self.token.is_some() && self.token_file.is_some() {
            return Err((key, "and `enrol.token_file` are both there; keep one".to_owned()));
        }
        if config.tls.is_some() {
            return Err((
                "enrol",
                "and `[tls]` are both there; certificates come the one way or the other".to_owned(),
            ));
        }
        let Some(token) = self.read_token().map_err(|problem| (key, problem))? else { return Ok(()) };
        for (what, is, says) in
            [("gateway", &config.gateway, &token.gateway), ("site", &config.site, &token.site)]
        {
            if is != says {
                return Err((key, format!("is for {what} {says}, but this configuration is of {what} {is}")));
            }
        }
        Ok(())
    }
}

//! `agent.toml`.

use crate::enrol::enrolled_files;
use loadonce_link::Broker;
use loadonce_link::tls::TlsFiles;
use loadonce_trust::{MAX_TOKEN, PublicKey, Token, decode_hex};
use loadonce_wire::Name;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The agent's configuration; every key is described in `docs/agent.md`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Site: the level under which gateways and aggregator meet.
    pub site: String,
    /// This gateway's name, unique within the site.
    pub gateway: String,
    /// Folder for keys, store and slots.
    pub state: PathBuf,
    /// Tasks to serve; empty for every published task whose backbone is loaded.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// The backbones and their engine.
    pub backbone: BackboneConfig,
    /// Connection to the aggregator's broker.
    pub uplink: BrokerConfig,
    /// Connection for samples, labels and predictions; the uplink's broker where absent.
    pub data: Option<BrokerConfig>,
    /// Whom to believe.
    #[serde(default)]
    pub trust: TrustConfig,
    /// Certificates that were put in place by hand.
    pub tls: Option<TlsConfig>,
    /// Getting a certificate.
    pub enrol: Option<EnrolConfig>,
    /// Folder input.
    pub spool: Option<SpoolConfig>,
    /// Bounds of the store.
    #[serde(default)]
    pub store: StoreConfig,
}

/// Most backbones of one agent: each is loaded at the start and stays in memory.
pub const MAX_BACKBONES: usize = 8;

/// Which bundles run, and on which engine: a process has one engine, however many backbones it loads.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Folders of the bundles: one, or a list.
    #[serde(deserialize_with = "one_or_more")]
    pub bundle: Vec<PathBuf>,
    /// ONNX Runtime's dynamic library; searched where absent.
    pub library: Option<PathBuf>,
    /// Threads of the engine, shared by all backbones.
    #[serde(default = "one")]
    pub threads: usize,
}

/// A single folder may stand without brackets.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Folders;
    impl<'de> Visitor<'de> for Folders {
        type Value = Vec<PathBuf>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the folder of a bundle, or a list of such folders")
        }
        fn visit_str<E: serde::de::Error>(self, folder: &str) -> Result<Self::Value, E> {
            Ok(vec![folder.into()])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut folders = Vec::new();
            while let Some(folder) = list.next_element()? {
                folders.push(folder);
            }
            Ok(folders)
        }
    }
    from.deserialize_any(Folders)
}

fn one() -> usize {
    1
}

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

/// Folder input.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// `<folder>/<task>/<sample-id>.<png|jpg|jpeg|json|f32|label>`.
    pub folder: PathBuf,
}

/// Bounds of the store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Samples whose features are kept, per task; the oldest go first.
    pub samples_per_task: u64,
    /// Bytes of contributions waiting for their acknowledgement.
    pub outbox_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { samples_per_task: 20_000, outbox_bytes: 8 * 1024 * 1024 }
    }
}

const NAME: &str = "must be 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot";

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key or a wrong type.
    #[error("{path} does not parse: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A value that cannot be used.
    #[error("{path}: `{key}` {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Dotted key.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

impl Config {
    /// Reads and validates `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// A token names gateway, site and broker: they need not be written twice.
    fn deserialize_filled(text: &str) -> Result<Self, toml::de::Error> {
        let mut table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            // This way the error says where.
            Err(_) => return toml::from_str(text),
        };
        let enrol: Option<EnrolConfig> =
            table.get("enrol").and_then(|section| section.clone().try_into().ok());
        let Some(token) = enrol.and_then(|enrol| enrol.read_token().ok().flatten()) else {
            return toml::from_str(text);
        };
        let missing = ["site", "gateway", "uplink"].iter().any(|key| !table.contains_key(*key));
        if !missing && table["uplink"].get("broker").is_some() {
            return toml::from_str(text);
        }
        table.entry("site").or_insert(token.site.into());
        table.entry("gateway").or_insert(token.gateway.into());
        if let toml::Value::Table(uplink) =
            table.entry("uplink").or_insert(toml::Value::Table(toml::Table::new()))
        {
            uplink.entry("broker").or_insert(token.broker.into());
        }
        table.try_into()
    }

    /// Validates the text of a configuration; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = Self::deserialize_filled(text)
            .map_err(|e| ConfigError::Parse { path: path.to_owned(), message: e.to_string() })?;
        let value = |key, problem: &str| {
            Err(ConfigError::Value { path: path.to_owned(), key, problem: problem.to_owned() })
        };
        if Name::new(&config.site).is_none() {
            return value("site", NAME);
        }
        if Name::new(&config.gateway).is_none() {
            return value("gateway", NAME);
        }
        if config.tasks.iter().any(|task| Name::new(task).is_none()) {
            return value("tasks", NAME);
        }
        for (key, broker) in [("uplink", Some(&config.uplink)), ("data", config.data.as_ref())] {
            let Some(broker) = broker else { continue };
            if let Err(error) = Broker::parse(&broker.broker) {
                return value(key, &format!("cannot be used: {error}"));
            }
            if broker.keep_alive_s.is_some_and(|seconds| seconds == 0 || seconds > 65_535) {
                return value(key, "needs a `keep_alive_s` of 1 to 65535");
            }
            if broker.backoff_cap_s == 0 {
                return value(key, "needs a `backoff_cap_s` of at least 1");
            }
        }
        if !(1..=MAX_BACKBONES).contains(&config.backbone.bundle.len()) {
            return value("backbone.bundle", &format!("must name 1 to {MAX_BACKBONES} bundles"));
        }
        if !(1..=64).contains(&config.backbone.threads) {
            return value("backbone.threads", "must be 1 to 64");
        }
        if config.trust.aggregator_key.is_some() && config.aggregator_key().is_none() {
            return value("trust.aggregator_key", "must be 64 hexadecimal digits");
        }
        if let Some(enrol) = &config.enrol {
            if let Err((key, problem)) = enrol.check(&config) {
                return value(key, &problem);
            }
        }
        if let Some(tls) = &config.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            return value("tls", "needs both `certificate` and `key`, or neither");
        }
        let tls = config.tls.is_some() || config.enrol.is_some();
        for (key, broker) in [("uplink", Some(&config.uplink)), ("data", config.data.as_ref())] {
            if !tls && broker.is_some_and(|broker| Broker::parse(&broker.broker).is_ok_and(|b| b.tls)) {
                return value(
                    key,
                    "names a broker that speaks TLS: `[enrol]` with a token, or `[tls]` with certificates, is missing",
                );
            }
        }
        let enrolled = config.enrol.is_some();
        if config.trust.aggregator_key.is_none() && !config.trust.first_use && !enrolled {
            return value(
                "trust.aggregator_key",
                "is missing: give the aggregator's key, or set `trust.first_use = true` to pin the first one seen",
            );
        }
        if !(1..=1_000_000).contains(&config.store.samples_per_task) {
            return value("store.samples_per_task", "must be 1 to 1000000");
        }
        if config.store.outbox_bytes < 1 << 20 {
            return value("store.outbox_bytes", "must be at least 1048576");
        }
        Ok(config)
    }

    /// The configured aggregator key.
    pub fn aggregator_key(&self) -> Option<PublicKey> {
        self.trust.aggregator_key.as_deref().and_then(decode_hex)
    }

    /// The folder of what enrolment keeps.
    pub fn tls_folder(&self) -> PathBuf {
        self.state.join("tls")
    }

    /// The certificates of connections over TLS.
    pub fn tls_files(&self) -> Option<TlsFiles> {
        match (&self.tls, &self.enrol) {
            (Some(TlsConfig { ca, certificate, key }), _) => {
                let identity = certificate.clone().zip(key.clone());
                Some(TlsFiles { ca: ca.clone(), identity })
            }
            (None, Some(_)) => Some(enrolled_files(&self.tls_folder())),
            (None, None) => None,
        }
    }

    /// The configured token.
    pub fn token(&self) -> Option<Token> {
        self.enrol.as_ref()?.read_token().ok().flatten()
    }

    /// Whether `task` is to be served.
    pub fn serves(&self, task: &str) -> bool {
        self.tasks.is_empty() || self.tasks.iter().any(|name| name == task)
    }
}

impl EnrolConfig {
    /// The token, wherever it is; `None` where the configuration names none.
    fn read_token(&self) -> Result<Option<Token>, String> {
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

    fn check(&self, config: &Config) -> Result<(), (&'static str, String)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        site = "plant"
        gateway = "press-7"
        state = "/tmp/x"
        backbone = { bundle = "b" }
        uplink = { broker = "mqtt://127.0.0.1:1883" }
        trust = { first_use = true }
    "#;

    #[test]
    fn a_short_configuration_is_enough() {
        let config = Config::parse(GOOD, Path::new("agent.toml")).unwrap();
        assert!(config.serves("anything"));
        assert_eq!(config.uplink.keep_alive_s, None);
        assert_eq!(config.backbone.bundle, [Path::new("b")]);
    }

    #[test]
    fn a_token_says_who_and_where() {
        let token = Token {
            secret: [1; 16],
            ca: [2; 32],
            issued: 3,
            expires: 4,
            gateway: "press-7".into(),
            site: "plant".into(),
            address: "10.0.0.5:8884".into(),
            broker: "mqtts://10.0.0.5:8883".into(),
        };
        let text = token.to_text().unwrap();
        let short =
            format!("state = \"/tmp/x\"\nbackbone = {{ bundle = \"b\" }}\n[enrol]\ntoken = \"{text}\"\n");
        let config = Config::parse(&short, Path::new("agent.toml")).unwrap();
        assert_eq!((config.gateway.as_str(), config.site.as_str()), ("press-7", "plant"));
        assert_eq!(config.uplink.broker, "mqtts://10.0.0.5:8883");
        assert_eq!(config.token(), Some(token));
        assert_eq!(config.tls_files(), Some(enrolled_files(Path::new("/tmp/x/tls"))));
        let other = format!("gateway = \"press-8\"\n{short}");
        let error = Config::parse(&other, Path::new("agent.toml")).unwrap_err().to_string();
        assert!(error.contains("is for gateway press-7"), "{error}");
        // Renewal needs no token, and a file that is gone is none.
        let done = GOOD.replace("mqtt://", "mqtts://") + "[enrol]\ntoken_file = \"/no/such/token\"\n";
        assert!(Config::parse(&done, Path::new("agent.toml")).unwrap().token().is_none());
    }

    #[test]
    fn several_bundles_are_a_list() {
        let text = GOOD.replace("bundle = \"b\"", "bundle = [\"b\", \"c\"]");
        let config = Config::parse(&text, Path::new("agent.toml")).unwrap();
        assert_eq!(config.backbone.bundle, [Path::new("b"), Path::new("c")]);
    }

    #[test]
    fn mistakes_name_file_and_key() {
        for (from, to, word) in [
            ("press-7", "press/7", "gateway"),
            ("first_use = true", "first_use = false", "aggregator_key"),
            ("first_use = true", "aggregator_key = 'zz'", "aggregator_key"),
            ("site =", "siet =", "siet"),
            ("mqtt://", "mqtts://", "[enrol]"),
            ("mqtt://", "https://", "uplink"),
            ("first_use = true }", "first_use = true }\n[tls]\nca = 'x'\ncertificate = 'y'", "`key`"),
            ("first_use = true }", "first_use = true }\n[enrol]\ntoken = 'x'", "enrol.token"),
            ("1883\"", "1883\", backoff_cap_s = 0", "backoff_cap_s"),
            ("1883\"", "1883\", keep_alive_s = 0", "keep_alive_s"),
            ("bundle = \"b\"", "bundle = \"b\", threads = 0", "threads"),
            ("bundle = \"b\"", "bundle = []", "backbone.bundle"),
            ("bundle = \"b\"", "bundle = 7", "a list of such folders"),
        ] {
            let error =
                Config::parse(&GOOD.replace(from, to), Path::new("agent.toml")).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("agent.toml"), "{error}");
        }
    }
}

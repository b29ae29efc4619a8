//! `agent.toml`.

mod uplink;

pub use uplink::{BrokerConfig, EnrolConfig, TlsConfig, TrustConfig};

use crate::enrol::enrolled_files;
use loadonce_backbone::Provider;
use loadonce_link::Broker;
use loadonce_link::tls::TlsFiles;
use loadonce_trust::{PublicKey, Token, decode_hex};
use loadonce_wire::Name;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
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
    /// When training pauses.
    #[serde(default)]
    pub power: PowerConfig,
    /// Folder in memory for what is renewed all the time, where the service manager gives one.
    #[serde(skip)]
    pub runtime: Option<PathBuf>,
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
    /// The processor that computes the backbones.
    #[serde(default)]
    pub provider: Provider,
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

/// When training pauses, and how it is scheduled. The defaults need no thought.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PowerConfig {
    /// Temperature of any thermal zone from which on training pauses; the kernel's own limits may be lower.
    pub hottest_c: f64,
    /// By how much it must be cooler again.
    pub cooler_c: f64,
    /// Seconds for which every cause must be gone before training goes on.
    pub settle_s: u64,
    /// Types of thermal zones that say nothing: on a Jetson, `PMIC-Die` is always at 100 °C.
    pub ignore_zones: Vec<String>,
    /// Whether training goes on while the gateway lives on its battery.
    pub on_battery: bool,
    /// Level of the battery, percent, below which training pauses in any case.
    pub battery_percent: f64,
    /// When the training thread runs.
    pub scheduling: Scheduling,
    /// Where the kernel tells of heat and power.
    pub sysfs: PathBuf,
}

/// When the training thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduling {
    /// When nobody else wants the processor.
    Idle,
    /// Like any other thread.
    Normal,
}

impl Default for PowerConfig {
    fn default() -> Self {
        Self {
            hottest_c: 80.0,
            cooler_c: 8.0,
            settle_s: 60,
            ignore_zones: vec!["PMIC-Die".to_owned()],
            on_battery: false,
            battery_percent: 30.0,
            scheduling: Scheduling::Idle,
            sysfs: PathBuf::from("/sys"),
        }
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
        let text = std::fs::read_to_string(loadonce_service::config_path(path))
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
        if let Some(enrol) = &config.enrol
            && let Err((key, problem)) = enrol.check(&config)
        {
            return value(key, &problem);
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
        let power = &config.power;
        if !(20.0..=150.0).contains(&power.hottest_c) {
            return value("power.hottest_c", "must be 20 to 150, in degrees Celsius");
        }
        if !(0.0..=50.0).contains(&power.cooler_c) {
            return value("power.cooler_c", "must be 0 to 50, in degrees");
        }
        if power.settle_s > 86_400 {
            return value("power.settle_s", "must be at most 86400");
        }
        if !(0.0..=100.0).contains(&power.battery_percent) {
            return value("power.battery_percent", "must be 0 to 100");
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

#[cfg(test)]
mod tests;

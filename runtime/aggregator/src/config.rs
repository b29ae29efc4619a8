//! `aggregator.toml`; every key is described in `docs/aggregator.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use loadonce_control::{ManifestError, TaskManifest};
use loadonce_link::tls::TlsFiles;
use loadonce_link::{Broker, Credentials, LinkError};
use loadonce_trust::{decode_hex, hash};
use loadonce_wire::Name;
use serde::Deserialize;
use thiserror::Error;

use crate::enrol::{DEFAULT_DAYS, EnrolConfig, SiteFiles};
use crate::{Admission, DEFAULT_HISTORY_BYTES, Settings, Task};

/// Largest configuration, manifest or `backbone.toml` in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The broker's URL.
    pub broker: String,
    /// User and password, if the broker asks for them.
    pub credentials: Option<Credentials>,
    /// Certificates: what `[tls]` names, or what `loadonce site init` made; where neither TLS nor enrolment is wanted,
    /// none.
    pub tls: Option<TlsFiles>,
    /// Where gateways trade tokens for certificates.
    pub enrol: Option<EnrolConfig>,
    /// Folder for key, database and figures.
    pub state: PathBuf,
    /// What the core needs.
    pub settings: Settings,
}

/// Why a configuration was refused: which file, which key, what to do.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {source}; correct the path{}", path.display(), named_by(.key))]
    Read {
        /// The file.
        path: PathBuf,
        /// The key that names it; empty for the configuration itself.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Not TOML, an unknown key or a value of the wrong type.
    #[error("{}: {detail}correct the key; docs/aggregator.md lists all of them", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong; ends in a line end.
        detail: String,
    },
    /// A value that cannot be used.
    #[error("{}: `{key}` {problem}; {remedy}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A task manifest that cannot be used.
    #[error("{}: {source}", path.display())]
    Task {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// The broker's URL cannot be used.
    #[error("{}: `broker`: {source}", path.display())]
    Broker {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: LinkError,
    },
}

fn named_by(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(" in `{key}`") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    site: String,
    broker: String,
    user: Option<String>,
    password: Option<String>,
    tls: Option<TlsSection>,
    enrol: Option<EnrolSection>,
    state: PathBuf,
    tasks: Vec<PathBuf>,
    backbones: Vec<BackboneEntry>,
    #[serde(default)]
    admission: Admission,
    /// MiB.
    history: Option<u64>,
    #[serde(default)]
    gateways: Vec<GatewayEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSection {
    ca: PathBuf,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolSection {
    listen: String,
    address: Option<String>,
    broker: Option<String>,
    days: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackboneEntry {
    bundle: Option<PathBuf>,
    name: Option<String>,
    fingerprint: Option<String>,
    exits: Option<usize>,
    directions: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayEntry {
    name: String,
    key: String,
}

/// The part of a bundle's `backbone.toml` that matters here; the aggregator never opens its other files.
#[derive(Deserialize)]
struct Contract {
    name: String,
    segments: Vec<toml::Value>,
    features: Features,
}

#[derive(Deserialize)]
struct Features {
    directions: usize,
}

struct Backbone {
    fingerprint: [u8; 32],
    exits: usize,
    directions: usize,
}

impl Config {
    /// Reads and validates a configuration; relative paths start at its own folder.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file: File = parse(path, &read(path, "")?)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let value = |key: &str, problem: String, remedy| ConfigError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            problem,
            remedy,
        };
        let usable = |key: &str, name: &str| match Name::new(name) {
            Some(_) => Ok(()),
            None => Err(value(
                key,
                format!("is `{name}`, which cannot be a topic level"),
                "use 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot",
            )),
        };
        usable("site", &file.site)?;
        let bad_broker = |source| ConfigError::Broker { path: path.to_owned(), source };
        let broker = Broker::parse(&file.broker).map_err(bad_broker)?;
        let state = folder.join(&file.state);
        let tls = match file.tls {
            Some(section) => Some(section.resolve(path, folder)?),
            None if broker.tls || file.enrol.is_some() => {
                let made = SiteFiles::of(&state);
                let identity = Some((made.path("aggregator.pem"), made.path("aggregator.key")));
                Some(TlsFiles { ca: made.path("ca.pem"), identity })
            }
            None => None,
        };
        let enrol = file.enrol.map(|section| section.resolve(path, &file.broker)).transpose()?;
        let credentials = match (file.user, file.password) {
            (Some(user), password) => Some(Credentials { user, password: password.unwrap_or_default() }),
            (None, Some(_)) => {
                return Err(value("password", "is set without `user`".into(), "set both, or neither"));
            }
            (None, None) => None,
        };

        let mut backbones = BTreeMap::new();
        for entry in file.backbones {
            let (name, backbone) = entry.resolve(path, folder)?;
            if backbones.insert(name.clone(), backbone).is_some() {
                return Err(value("backbones", format!("name `{name}` twice"), "keep one of them"));
            }
        }
        let mut gateways = BTreeMap::new();
        for entry in file.gateways {
            usable("gateways.name", &entry.name)?;
            let key = decode_hex(&entry.key).ok_or_else(|| {
                let problem = format!("of `{}` is not 64 hexadecimal digits", entry.name);
                value("gateways.key", problem, "copy the key that the gateway's agent logs at its start")
            })?;
            if gateways.values().any(|known| *known == key)
                || gateways.insert(entry.name.clone(), key).is_some()
            {
                let problem = format!("lists the name or the key of `{}` twice", entry.name);
                return Err(value("gateways", problem, "give every gateway its own name and key"));
            }
        }
        let mut tasks: Vec<Task> = Vec::new();
        for manifest_path in file.tasks {
            let manifest_path = folder.join(manifest_path);
            let text = read(&manifest_path, "tasks")?;
            let bad_task = |source| ConfigError::Task { path: manifest_path.clone(), source };
            let manifest = TaskManifest::from_toml(&text).map_err(bad_task)?;
            if tasks.iter().any(|task| task.manifest.name == manifest.name) {
                let problem = format!("name `{}` twice", manifest.name);
                return Err(value("tasks", problem, "give every task its own name"));
            }
            let backbone = backbones.get(&manifest.backbone).ok_or_else(|| ConfigError::Value {
                path: manifest_path.clone(),
                key: "backbone".into(),
                problem: format!("is `{}`, which {} does not list", manifest.backbone, path.display()),
                remedy: "add it under `backbones` or correct the name",
            })?;
            let Backbone { fingerprint, exits, directions } = *backbone;
            tasks.push(Task::new(manifest, fingerprint, exits, directions).map_err(bad_task)?);
        }
        if tasks.is_empty() {
            return Err(value("tasks", "is empty".into(), "name at least one task manifest"));
        }
        let history_bytes = file.history.map_or(DEFAULT_HISTORY_BYTES, |mib| mib.saturating_mul(1024 * 1024));
        let settings =
            Settings { site: file.site, admission: file.admission, gateways, tasks, history_bytes };
        Ok(Self { broker: file.broker, credentials, tls, enrol, state, settings })
    }
}

impl TlsSection {
    fn resolve(self, config: &Path, folder: &Path) -> Result<TlsFiles, ConfigError> {
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((folder.join(certificate), folder.join(key))),
            (None, None) => None,
            _ => {
                return Err(ConfigError::Value {
                    path: config.to_owned(),
                    key: "tls".to_owned(),
                    problem: "names one of `certificate` and `key`".to_owned(),
                    remedy: "give both, or neither",
                });
            }
        };
        Ok(TlsFiles { ca: folder.join(self.ca), identity })
    }
}

impl EnrolSection {
    fn resolve(self, config: &Path, broker: &str) -> Result<EnrolConfig, ConfigError> {
        let value = |key: &str, problem: String, remedy| ConfigError::Value {
            path: config.to_owned(),
            key: format!("enrol.{key}"),
            problem,
            remedy,
        };
        let host_of = |key: &str, text: &str| {
            let parts =
                text.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            let host = parts.map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
            host.ok_or_else(|| value(key, format!("is `{text}`"), "write host:port"))
        };
        let everywhere = ["0.0.0.0", "::"].contains(&host_of("listen", &self.listen)?.as_str());
        let address = match self.address {
            Some(address) => address,
            None if everywhere => {
                let problem = "is missing: gateways must be told where they reach this machine".to_owned();
                return Err(value("address", problem, "write host:port, as gateways see it"));
            }
            None => self.listen.clone(),
        };
        host_of("address", &address)?;
        let broker = self.broker.unwrap_or_else(|| broker.to_owned());
        let parsed = Broker::parse(&broker)
            .map_err(|source| ConfigError::Broker { path: config.to_owned(), source })?;
        if !parsed.tls {
            let problem = format!("is {broker}: certificates are for a broker that speaks TLS");
            return Err(value("broker", problem, "write mqtts://host:port, as gateways see it"));
        }
        let days = self.days.unwrap_or(DEFAULT_DAYS);
        if !(1..=3650).contains(&days) {
            return Err(value("days", format!("is {days}"), "write 1 to 3650"));
        }
        Ok(EnrolConfig { listen: self.listen, address, broker, days })
    }
}

impl BackboneEntry {
    fn resolve(self, config: &Path, folder: &Path) -> Result<(String, Backbone), ConfigError> {
        let value = |key: &str, problem: &str, remedy| ConfigError::Value {
            path: config.to_owned(),
            key: format!("backbones.{key}"),
            problem: problem.to_owned(),
            remedy,
        };
        match self {
            Self { bundle: Some(bundle), name: None, fingerprint: None, exits: None, directions: None } => {
                let bundle = folder.join(bundle);
                let path = if bundle.is_dir() { bundle.join("backbone.toml") } else { bundle };
                let text = read(&path, "backbones.bundle")?;
                let contract: Contract = parse(&path, &text)?;
                let fingerprint = hash(text.as_bytes());
                let exits = contract.segments.len();
                Ok((contract.name, Backbone { fingerprint, exits, directions: contract.features.directions }))
            }
            Self {
                bundle: None,
                name: Some(name),
                fingerprint: Some(hex),
                exits: Some(exits),
                directions: Some(directions),
            } => {
                let fingerprint = decode_hex(&hex).ok_or_else(|| {
                    value("fingerprint", "is not 64 hexadecimal digits", "take the blake3 of backbone.toml")
                })?;
                if exits == 0 || directions == 0 {
                    return Err(value("exits", "or `directions` is 0", "take both from backbone.toml"));
                }
                Ok((name, Backbone { fingerprint, exits, directions }))
            }
            _ => Err(value(
                "bundle",
                "stands neither alone nor is it replaced by all of name, fingerprint, exits, directions",
                "give the bundle's folder, or all four",
            )),
        }
    }
}

fn read(path: &Path, key: &'static str) -> Result<String, ConfigError> {
    let error = |source| ConfigError::Read { path: path.to_owned(), key, source };
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(error)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(error(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {MAX_FILE} bytes"),
        )));
    }
    String::from_utf8(bytes).map_err(|_| error(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text")))
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), detail: error.to_string() })
}

/// Whether `text` has the keys and types of a configuration.
pub(crate) fn parses(text: &str) -> bool {
    toml::from_str::<File>(text).is_ok()
}

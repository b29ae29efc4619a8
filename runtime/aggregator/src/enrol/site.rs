//! The site's CA and what it signs for the broker, the aggregator and the operator: files in `<state>/tls`.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use loadonce_store::{StoreError, write_atomic};
use loadonce_trust::{Ca, IssueError, Subject};
use thiserror::Error;

use super::tls_folder;

/// Days that certificates of broker, aggregator and operator are valid: a little over two years, as public CAs once did.
const SERVER_DAYS: u64 = 825;

/// Why no site is set up.
#[derive(Debug, Error)]
pub enum SiteError {
    /// There is one.
    #[error("{} exists: this site has its CA, and a new one would lock every gateway out; `loadonce site renew` renews what it signed", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} does not exist; run `loadonce site init` first", .0.display())]
    Missing(PathBuf),
    /// No name for the broker.
    #[error(
        "give the names and addresses by which gateways reach the broker: --broker-host NAME, as often as there are names"
    )]
    NoHosts,
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Where everything is.
#[derive(Debug, Clone)]
pub struct SiteFiles {
    /// The folder.
    pub folder: PathBuf,
}

impl SiteFiles {
    /// Of the aggregator with this state folder.
    pub fn of(state: &Path) -> Self {
        Self { folder: tls_folder(state) }
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Reads the CA.
    pub fn ca(&self) -> Result<Ca, SiteError> {
        let read = |name: &str| {
            let path = self.path(name);
            fs::read_to_string(&path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => SiteError::Missing(path),
                _ => SiteError::Read { path, source },
            })
        };
        Ok(Ca::open(&read("ca.pem")?, &read("ca.key")?)?)
    }
}

/// Makes the CA and everything it signs. The CA's certificate is written last: where it is missing nothing was made.
pub fn init_site(state: &Path, site: &str, hosts: &[String], now: u64) -> Result<SiteFiles, SiteError> {
    let files = SiteFiles::of(state);
    if files.path("ca.pem").exists() {
        return Err(SiteError::Exists(files.path("ca.pem")));
    }
    if hosts.is_empty() {
        return Err(SiteError::NoHosts);
    }
    let (ca, certificate, key) = Ca::make(site, now)?;
    for folder in [state, &files.folder] {
        fs::create_dir_all(folder).map_err(|error| StoreError::from_io(folder, error))?;
    }
    own_as_folder(&files.folder, state);
    sign_all(&files, state, &ca, hosts, now)?;
    put(&files, state, "ca.key", &key, 0o600)?;
    put(&files, state, "ca.pem", &certificate, 0o644)?;
    Ok(files)
}

/// Signs the certificates of broker, aggregator and operator anew, with new keys; the CA stays.
pub fn renew_site(state: &Path, hosts: &[String], now: u64) -> Result<SiteFiles, SiteError> {
    let files = SiteFiles::of(state);
    let ca = files.ca()?;
    let hosts = if hosts.is_empty() { remembered_hosts(&files)? } else { hosts.to_vec() };
    sign_all(&files, state, &ca, &hosts, now)?;
    Ok(files)
}

fn sign_all(files: &SiteFiles, state: &Path, ca: &Ca, hosts: &[String], now: u64) -> Result<(), SiteError> {
    let subjects = [
        ("broker", Subject::Broker(hosts)),
        ("aggregator", Subject::Aggregator),
        ("operator", Subject::Operator),
    ];
    for (name, subject) in subjects {
        let (certificate, key) = ca.issue_with_key(subject, now, SERVER_DAYS)?;
        // Together in one file they would change together; Mosquitto wants two. A key that does not fit its
        // certificate is an error that says so, and this command mends it.
        put(files, state, &format!("{name}.key"), &key, 0o600)?;
        put(files, state, &format!("{name}.pem"), &certificate, 0o644)?;
    }
    put(files, state, "broker.hosts", &(hosts.join("\n") + "\n"), 0o644)
}

fn remembered_hosts(files: &SiteFiles) -> Result<Vec<String>, SiteError> {
    let path = files.path("broker.hosts");
    let text = fs::read_to_string(&path).map_err(|source| SiteError::Read { path, source })?;
    let hosts: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if hosts.is_empty() { Err(SiteError::NoHosts) } else { Ok(hosts) }
}

fn put(files: &SiteFiles, state: &Path, name: &str, text: &str, mode: u32) -> Result<(), SiteError> {
    let path = files.path(name);
    write_atomic(&path, text.as_bytes(), mode)?;
    own_as_folder(&path, state);
    Ok(())
}

/// Gives a file that root made to whom the state folder belongs: the service that is to read it.
pub(super) fn own_as_folder(path: &Path, state: &Path) {
    let owner = |path: &Path| fs::metadata(path).map(|meta| (meta.uid(), meta.gid()));
    if let (Ok(own), Ok(wanted)) = (owner(path), owner(state))
        && own != wanted
        && let Err(error) = chown(path, Some(wanted.0), Some(wanted.1))
    {
        tracing::warn!(path = %path.display(), %error, "the service may not be able to read this file");
    }
}

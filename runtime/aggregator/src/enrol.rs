//! Enrolment: gateways trade one-time tokens for certificates, and old certificates for new ones.
//!
//! | file | holds |
//! |---|---|
//! | `records` | the files in the state folder |
//! | `tokens` | what the operator does: making a token, listing |
//! | `site` | the site's CA and the certificates of broker, aggregator and operator |
//! | `registrar` | what a request leads to |

mod records;
mod registrar;
mod site;
mod tokens;

pub use records::{MAX_RECORD, Offered, Record, TokenRecord, write_token};
pub use registrar::{Admissible, EnrolFigures, Handled, Registrar};
pub use site::{SiteError, SiteFiles, init_site, renew_site};
pub use tokens::{EnrolTokenError, Enrolment, TokenOrder, enrolments, make_token};

use std::path::{Path, PathBuf};

/// Days that a gateway's certificate is valid unless told otherwise. The agent renews it after two thirds.
pub const DEFAULT_DAYS: u64 = 365;

/// `[enrol]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolConfig {
    /// Where the endpoint listens, `host:port`.
    pub listen: String,
    /// Where gateways reach it, `host:port`.
    pub address: String,
    /// The broker that gateways connect to, a URL.
    pub broker: String,
    /// Days that a gateway's certificate is valid.
    pub days: u64,
}

/// The folder of the site's certificates.
pub fn tls_folder(state: &Path) -> PathBuf {
    state.join("tls")
}

/// The folder of tokens and enrolled gateways.
pub fn enrol_folder(state: &Path) -> PathBuf {
    state.join("enrol")
}

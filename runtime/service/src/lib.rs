//! What a program says to the service manager (systemd, or anything that speaks its protocol), and nothing where
//! there is none: when it is ready, that its work goes on, how its log lines are to be read, and with which code
//! it ends.
//!
//! - [`Notify`]: readiness, status and life signs over the notification socket (`sd_notify(3)`).
//! - [`log`]: a log for a terminal or for the journal.
//! - [`exit`]: the codes, which the units know.
//! - [`config_path`]: a configuration that only root and the service manager may read.

pub mod exit;
pub mod log;
mod notify;

pub use notify::Notify;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where a configuration is to be read: `path` itself, or, where this process may not read it, the copy that the
/// service manager made for it (`LoadCredential=` with the file's name). Paths in it still start at `path`'s folder.
pub fn config_path(path: &Path) -> PathBuf {
    copy_of(path, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
}

fn copy_of(path: &Path, credentials: Option<PathBuf>) -> PathBuf {
    let denied = File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    let copy = path.file_name().zip(credentials).map(|(name, folder)| folder.join(name));
    copy.filter(|copy| denied && copy.exists()).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_can_be_read_is_read_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (own, copies) = (folder.path().join("agent.toml"), folder.path().join("copies"));
        std::fs::create_dir(&copies).unwrap();
        std::fs::write(&own, "site").unwrap();
        std::fs::write(copies.join("agent.toml"), "copy").unwrap();
        assert_eq!(copy_of(&own, Some(copies.clone())), own);
        assert_eq!(copy_of(&own, None), own);
        // What is not there is not looked for elsewhere: the message must name the file that was asked for.
        let missing = folder.path().join("missing.toml");
        assert_eq!(copy_of(&missing, Some(copies)), missing);
    }
}

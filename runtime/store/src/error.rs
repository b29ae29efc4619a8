//! What can go wrong below the schemas, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of the disk, a file or the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder or file cannot be written.
    #[error(
        "{path} cannot be written ({detail}); give the service's user write access to the folder, \
         or remount the file system read-write"
    )]
    ReadOnly {
        /// What could not be written.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// A file or its folder does not exist.
    #[error("{path} does not exist; create the folder or correct the path in the configuration")]
    Missing {
        /// What was not found.
        path: PathBuf,
    },
    /// Another process holds the database.
    #[error("{path} is in use by another process; stop the other agent or aggregator first")]
    Locked {
        /// The database file.
        path: PathBuf,
    },
    /// A file is not what was written.
    #[error("{path} is corrupt ({detail}); set it aside or restore it from a backup")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// The disk, or the quota of the service's user, is used up.
    #[error("no space left for {path}; free space on its file system")]
    Full {
        /// What could not grow.
        path: PathBuf,
    },
    /// Any other failure of the file system.
    #[error("{path}: {source}; check the disk and the kernel's log")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A transaction failed. After a failed write the database has to be opened anew.
    #[error("the database refused: {0}; restart the service, a corrupt file is then set aside")]
    Database(Box<redb::Error>),
}

impl StoreError {
    /// Sorts an error of the file system by what has to be done about it.
    pub fn from_io(path: &Path, source: io::Error) -> Self {
        use io::ErrorKind as K;
        let path = path.to_path_buf();
        match source.kind() {
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                Self::ReadOnly { path, detail: source.to_string() }
            }
            K::NotFound => Self::Missing { path },
            K::StorageFull | K::QuotaExceeded => Self::Full { path },
            K::InvalidData | K::UnexpectedEof => Self::Corrupt { path, detail: source.to_string() },
            _ => Self::Io { path, source },
        }
    }

    /// Sorts an error of opening the database at `path`.
    pub(crate) fn from_open(path: &Path, error: redb::DatabaseError) -> Self {
        use redb::{DatabaseError as D, StorageError as S};
        match error {
            D::DatabaseAlreadyOpen | D::LockProtocolMismatch => Self::Locked { path: path.to_path_buf() },
            D::Storage(S::Io(source)) => Self::from_io(path, source),
            D::Storage(S::Corrupted(detail)) => Self::Corrupt { path: path.to_path_buf(), detail },
            D::RepairAborted => {
                Self::Corrupt { path: path.to_path_buf(), detail: "its repair failed".to_owned() }
            }
            other => Self::Database(Box::new(other.into())),
        }
    }
}

macro_rules! from_redb {
    ($($kind:ty),+) => {$(
        impl From<$kind> for StoreError {
            fn from(error: $kind) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )+};
}
from_redb!(
    redb::Error,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let read_only =
            StoreError::from_io(Path::new("/var/lib/loadonce/key"), io::ErrorKind::ReadOnlyFilesystem.into());
        assert!(matches!(read_only, StoreError::ReadOnly { .. }));
        let text = read_only.to_string();
        assert!(text.contains("/var/lib/loadonce/key") && text.contains("remount"), "{text}");
        let full = StoreError::from_io(Path::new("a"), io::ErrorKind::StorageFull.into());
        assert!(matches!(full, StoreError::Full { .. }));
        let denied = StoreError::from_io(Path::new("a"), io::ErrorKind::PermissionDenied.into());
        assert!(matches!(denied, StoreError::ReadOnly { .. }));
    }
}

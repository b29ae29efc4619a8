//! The few file operations durability is built from, so that a fake can lose power between any two of them.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// File operations with the guarantees of POSIX and no more: content is durable after [`sync`](Files::sync),
/// a name is durable after [`sync_dir`](Files::sync_dir) of its folder, a rename inside one folder is atomic.
pub trait Files: Debug + Send + Sync {
    /// Creates one folder (mode 0700); it is no error if it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates or truncates a file and writes all of it. `mode` counts only when the file is created.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Makes the content of a file durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Renames over whatever `to` was.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Reads a file of at most `limit` bytes; a longer one is `InvalidData`.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Removes a file; it is no error if it is not there.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files and folders in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        }
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// Writes one file so that after a power cut it is the old one or the new one, created with `mode`
/// (`0o600` for keys). The folder must exist. A leftover `<name>.tmp` of an earlier cut is replaced.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    write_atomic_on(&Disk, path, bytes, mode)
}

/// [`write_atomic`] on any [`Files`].
pub fn write_atomic_on(files: &impl Files, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let temporary = temporary_name(path);
    let step = |at: &Path, result: io::Result<()>| result.map_err(|error| StoreError::from_io(at, error));
    // Removed first, so that the mode of a leftover does not survive.
    step(&temporary, files.remove(&temporary))?;
    step(&temporary, files.write(&temporary, bytes, mode))?;
    step(&temporary, files.sync(&temporary))?;
    step(path, files.rename(&temporary, path))?;
    let dir = parent(path);
    step(dir, files.sync_dir(dir))
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_written_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.key");
        // A leftover of a cut, readable by all, must not lend its mode to the key.
        fs::write(dir.path().join("gateway.key.tmp"), b"half").unwrap();
        write_atomic(&path, b"first", 0o600).unwrap();
        write_atomic(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Disk.list(dir.path()).unwrap(), ["gateway.key"]);
    }

    #[test]
    fn a_folder_that_refuses_is_named() {
        // sysfs refuses new files to every user, root included.
        let refused = write_atomic(Path::new("/sys/kernel/loadonce.key"), b"k", 0o600);
        assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
        let dir = tempfile::tempdir().unwrap();
        let missing = write_atomic(&dir.path().join("no/such/key"), b"k", 0o600);
        assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
    }

    #[test]
    fn a_read_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(Disk.read(&path, 10).unwrap().len(), 10);
        assert_eq!(Disk.read(&path, 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

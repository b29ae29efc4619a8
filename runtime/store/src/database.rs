//! One redb file, opened with errors a person can act on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use crate::StoreError;
use crate::files::{Disk, Files, parent};

/// Page cache in bytes unless told otherwise: the gateways are small, the working set is smaller.
pub const DEFAULT_CACHE_BYTES: usize = 1024 * 1024;

/// How many corrupt files are kept beside the live one.
const KEPT_QUARANTINED: usize = 3;

/// A redb database. Every write transaction is durable when its commit returns.
#[derive(Debug)]
pub struct Database {
    inner: redb::Database,
}

/// A corrupt file that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is now.
    pub path: PathBuf,
    /// How many files were set aside in this place so far, this one included.
    pub count: u64,
    /// What was wrong with it.
    pub detail: String,
}

impl Database {
    /// Opens the database at `path`, creating it (mode 0600) if there is none, with a page cache of
    /// `cache_bytes`.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        open_file(path, cache_bytes, false)
    }

    /// Opens a database on any storage, such as a fake that loses power.
    pub fn open_with(backend: impl StorageBackend, cache_bytes: usize) -> Result<Self, StoreError> {
        let inner = redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
            .map_err(|error| StoreError::from_open(Path::new("(storage)"), error))?;
        Ok(Self { inner })
    }

    /// The content of the database at `path` as it is now, in memory: for a file system that cannot be written,
    /// where one that was not closed could not be repaired in place. Takes the file's size in memory.
    pub fn read_copy(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let io = |error: io::Error| StoreError::from_io(path, error);
        let bytes = fs::read(path).map_err(io)?;
        let memory = redb::backends::InMemoryBackend::new();
        memory.set_len(bytes.len() as u64).and_then(|()| memory.write(0, &bytes)).map_err(io)?;
        drop(bytes);
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_with(memory, cache_bytes)));
        opened.unwrap_or_else(|_| {
            let detail = "the engine gave up on its content".to_owned();
            Err(StoreError::Corrupt { path: path.to_path_buf(), detail })
        })
    }

    /// Opens as [`open`](Self::open), after checking every page's checksum. A corrupt file is renamed to
    /// `<name>.corrupt-<n>` (the last three are kept) and an empty database takes its place; a file that is
    /// locked or cannot be written stays where it is.
    ///
    /// The check reads the file once from end to end: the price for never trusting a page that rotted on an
    /// SD card.
    pub fn open_or_quarantine(
        path: &Path,
        cache_bytes: usize,
    ) -> Result<(Self, Option<Quarantined>), StoreError> {
        let detail = match open_file(path, cache_bytes, true) {
            Ok(database) => return Ok((database, None)),
            Err(StoreError::Corrupt { detail, .. }) => detail,
            Err(other) => return Err(other),
        };
        let quarantined = quarantine(path, detail)?;
        tracing::error!(
            path = %path.display(), kept_as = %quarantined.path.display(), detail = %quarantined.detail,
            "database is corrupt: set aside, starting empty"
        );
        Ok((open_file(path, cache_bytes, true)?, Some(quarantined)))
    }

    /// Begins the one write transaction there can be at a time; waits for another to end. Dropping it aborts.
    pub fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        // redb's own default is Durability::Immediate: one fsync per commit, crash-safe.
        Ok(self.inner.begin_write()?)
    }

    /// Begins a read of the last committed state. Keep it short: it holds back the reuse of pages.
    pub fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        Ok(self.inner.begin_read()?)
    }
}

fn open_file(path: &Path, cache_bytes: usize, check: bool) -> Result<Database, StoreError> {
    if !path.exists() {
        create(path)?;
    }
    // redb states that a plain open may panic on a file altered behind its back.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        redb::Builder::new().set_cache_size(cache_bytes).set_check_integrity_on_open(check).open(path)
    }));
    match opened {
        Ok(Ok(inner)) => Ok(Database { inner }),
        Ok(Err(error)) => Err(StoreError::from_open(path, error)),
        Err(_) => Err(StoreError::Corrupt {
            path: path.to_path_buf(),
            detail: "the engine gave up on its content".to_owned(),
        }),
    }
}

/// Puts an empty database at `path`. redb writes several pages to create one, and a power cut in between would
/// look like a corrupt file; so it is made under another name and linked once it is whole. Linked, not renamed:
/// a database that another process put there meanwhile stays.
fn create(path: &Path) -> Result<(), StoreError> {
    let dir = parent(path);
    let prefix = format!("{}.new-", path.file_name().unwrap_or_default().to_string_lossy());
    let io = |at: &Path, error: io::Error| StoreError::from_io(at, error);
    for name in Disk.list(dir).map_err(|error| io(dir, error))? {
        if name.starts_with(&prefix) {
            Disk.remove(&dir.join(name)).map_err(|error| io(path, error))?;
        }
    }
    let fresh = dir.join(format!("{prefix}{}", std::process::id()));
    // The features of samples are nobody else's business: opened here first for the mode.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|error| io(path, error))?;
    redb::Builder::new()
        .set_cache_size(0)
        .create(&fresh)
        .map_err(|error| StoreError::from_open(path, error))?;
    Disk.sync(&fresh).map_err(|error| io(path, error))?;
    match fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(path, error)),
        _ => {}
    }
    Disk.remove(&fresh).map_err(|error| io(path, error))?;
    Disk.sync_dir(dir).map_err(|error| io(dir, error))
}

fn quarantine(path: &Path, detail: String) -> Result<Quarantined, StoreError> {
    let dir = parent(path);
    let io = |error: io::Error| StoreError::from_io(dir, error);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let prefix = format!("{name}.corrupt-");
    let mut numbers: Vec<u64> = Disk
        .list(dir)
        .map_err(io)?
        .iter()
        .filter_map(|entry| entry.strip_prefix(&prefix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let count = numbers.last().map_or(1, |last| last.saturating_add(1));
    let target = dir.join(format!("{prefix}{count}"));
    fs::rename(path, &target).map_err(io)?;
    let surplus = (numbers.len() + 1).saturating_sub(KEPT_QUARANTINED);
    for number in &numbers[..surplus] {
        Disk.remove(&dir.join(format!("{prefix}{number}"))).map_err(io)?;
    }
    Disk.sync_dir(dir).map_err(io)?;
    Ok(Quarantined { path: target, count, detail })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use redb::TableDefinition;

    use super::*;

    const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("t");

    fn fill(database: &Database) {
        let tx = database.begin_write().unwrap();
        {
            let mut table = tx.open_table(TABLE).unwrap();
            for key in 0..200 {
                table.insert(key, [key as u8; 900].as_slice()).unwrap();
            }
        }
        tx.commit().unwrap();
    }

    #[test]
    fn a_second_process_is_told_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        let first = Database::open(&path, DEFAULT_CACHE_BYTES).unwrap();
        assert!(matches!(Database::open(&path, 0), Err(StoreError::Locked { .. })));
        assert!(matches!(Database::open_or_quarantine(&path, 0), Err(StoreError::Locked { .. })));
        drop(first);
        Database::open(&path, 0).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_copy_holds_what_was_committed_even_of_one_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        let database = Database::open(&path, DEFAULT_CACHE_BYTES).unwrap();
        fill(&database);
        let copy = Database::read_copy(&path, DEFAULT_CACHE_BYTES).unwrap();
        assert_eq!(
            copy.begin_read().unwrap().open_table(TABLE).unwrap().range::<u64>(..).unwrap().count(),
            200
        );
        fs::write(&path, b"no database").unwrap();
        assert!(Database::read_copy(&path, 0).is_err());
    }

    #[test]
    fn a_folder_that_refuses_is_not_a_corrupt_file() {
        let refused = Database::open_or_quarantine(Path::new("/sys/kernel/agent.redb"), 0);
        assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
        let dir = tempfile::tempdir().unwrap();
        let missing = Database::open(&dir.path().join("no/agent.redb"), 0);
        assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
    }

    #[test]
    fn invariant_09_a_corrupt_store_is_set_aside_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        for round in 1..=5u64 {
            let (database, quarantined) = Database::open_or_quarantine(&path, 0).unwrap();
            assert_eq!(quarantined.map(|q| q.count), (round > 1).then(|| round - 1));
            fill(&database);
            drop(database);
            let mut bytes = fs::read(&path).unwrap();
            match round {
                // A rotten page in the middle, a file cut short, and something else altogether.
                1 | 4 => {
                    for byte in &mut bytes[4096..] {
                        *byte ^= 0x5a;
                    }
                }
                2 => bytes.truncate(5000),
                _ => bytes = b"not a database at all".repeat(500),
            }
            fs::write(&path, bytes).unwrap();
            assert!(matches!(open_file(&path, 0, true), Err(StoreError::Corrupt { .. })));
        }
        let (database, last) = Database::open_or_quarantine(&path, 0).unwrap();
        assert_eq!(last.unwrap().count, 5);
        assert!(database.begin_read().unwrap().open_table(TABLE).is_err(), "it must start empty");
        let mut kept: Vec<_> =
            Disk.list(dir.path()).unwrap().into_iter().filter(|n| n.contains("corrupt")).collect();
        kept.sort();
        assert_eq!(kept, ["agent.redb.corrupt-3", "agent.redb.corrupt-4", "agent.redb.corrupt-5"]);
    }

    #[test]
    fn a_power_cut_while_it_is_created_leaves_no_corrupt_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        fs::write(dir.path().join("agent.redb.new-1"), [0; 5000]).unwrap();
        let (database, quarantined) = Database::open_or_quarantine(&path, 0).unwrap();
        assert_eq!(quarantined, None);
        fill(&database);
        assert_eq!(Disk.list(dir.path()).unwrap(), ["agent.redb"]);
    }

    #[test]
    fn a_sound_store_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.redb");
        fill(&Database::open(&path, 0).unwrap());
        let (database, quarantined) = Database::open_or_quarantine(&path, 0).unwrap();
        assert_eq!(quarantined, None);
        let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
        assert_eq!(table.range::<u64>(..).unwrap().count(), 200);
    }
}

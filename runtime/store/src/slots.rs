//! Slot files: a set of files that changes as one, with a copy to go back to.
//!
//! ```text
//! <dir>/active        "A\n" or "B\n", replaced by rename
//! <dir>/A/…  <dir>/B/…  the files, and `checksums`, written last
//! <dir>/corrupt/…     the files of the last slot that failed its checksums
//! ```
//!
//! A commit fills the slot that is not active, syncs it, and only then lets `active` name it. A power cut at
//! any write therefore leaves the old set or the new one, and the set before stays for a rollback.

mod checksums;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::files::{Disk, Files, write_atomic_on};
pub(crate) use checksums::fuzz_checksums;
use checksums::{Checksum, Checksums};

/// Most bytes of one file in a slot: a module file and ample room.
pub const MAX_SLOT_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Most files in a slot.
pub const MAX_SLOT_FILES: usize = 16;

const CHECKSUMS: &str = "checksums";
const ACTIVE: &str = "active";
const CORRUPT: &str = "corrupt";
const MODE: u32 = 0o600;

/// A verified set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `A` or `B`.
    pub name: char,
    /// Rises with every commit.
    pub generation: u64,
    /// Name to content.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Why a commit or a rollback did not happen. The active slot is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// A file's name is not allowed.
    #[error(
        "{0:?} cannot be a slot file; use 1 to 64 of [A-Za-z0-9._-], not starting with a dot, not `checksums`"
    )]
    Name(String),
    /// Too many files or too long a file.
    #[error("{0} exceeds what a slot holds (16 files of 16 MiB each); make the module smaller")]
    TooLarge(String),
    /// The other slot holds no complete set.
    #[error("there is no earlier set to go back to; install a version instead")]
    NothingToRollBackTo,
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The two slots of one folder. It must have one owner at a time.
#[derive(Debug)]
pub struct Slots<F = Disk> {
    files: F,
    dir: PathBuf,
    quarantined: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    A,
    B,
}

impl Name {
    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// What `active` says.
enum Active {
    Nothing,
    Names(Name),
    Unreadable,
}

impl Slots<Disk> {
    /// Opens the slots in `dir`, creating the folder if its parent exists.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_on(Disk, dir)
    }
}

impl<F: Files> Slots<F> {
    /// Opens the slots on any file system, such as a fake that loses power.
    pub fn open_on(files: F, dir: &Path) -> Result<Self, StoreError> {
        let slots = Self { files, dir: dir.to_path_buf(), quarantined: 0 };
        let parent = crate::files::parent(dir);
        step(dir, slots.files.create_dir(dir))?;
        step(parent, slots.files.sync_dir(parent))?;
        for name in [Name::A, Name::B] {
            let slot = slots.slot(name);
            step(&slot, slots.files.create_dir(&slot))?;
        }
        step(dir, slots.files.sync_dir(dir))?;
        Ok(slots)
    }

    /// The active set, verified; `None` before the first commit. If it does not match its checksums it is set
    /// aside and counted, and the other slot, if complete, takes its place for good.
    pub fn load(&mut self) -> Result<Option<Slot>, StoreError> {
        let damaged = match self.active()? {
            Active::Nothing => return Ok(None),
            Active::Names(name) => match self.verified(name)? {
                Some(slot) => return Ok(Some(slot)),
                None => Some(name),
            },
            Active::Unreadable => None,
        };
        self.quarantined += 1;
        tracing::error!(dir = %self.dir.display(), "the active slot is corrupt, falling back to the other");
        if let Some(name) = damaged {
            // On a disk that refuses, the fallback still serves.
            if let Err(error) = self.set_aside(name) {
                tracing::error!(%error, "the corrupt slot could not be set aside");
            }
        }
        let candidates = match damaged {
            Some(name) => [self.verified(name.other())?, None],
            None => [self.verified(Name::A)?, self.verified(Name::B)?],
        };
        let fallback = candidates.into_iter().flatten().max_by_key(|slot| slot.generation);
        if let Some(slot) = &fallback {
            let name = if slot.name == 'A' { Name::A } else { Name::B };
            if let Err(error) = self.activate(name) {
                tracing::error!(%error, "the fallback could not be made permanent");
            }
        }
        Ok(fallback)
    }

    /// Replaces the active set by `files`, as one. When it returns, the new set survives a power cut.
    pub fn commit(&mut self, files: &[(&str, &[u8])]) -> Result<u64, SlotError> {
        if files.len() > MAX_SLOT_FILES {
            return Err(SlotError::TooLarge(format!("{} files", files.len())));
        }
        for (name, content) in files {
            if !valid_name(name) || files.iter().filter(|(other, _)| other == name).count() > 1 {
                return Err(SlotError::Name((*name).to_owned()));
            }
            if content.len() as u64 > MAX_SLOT_FILE_BYTES {
                return Err(SlotError::TooLarge(format!("{name} ({} bytes)", content.len())));
            }
        }
        let target = match self.active()? {
            Active::Nothing => Name::A,
            Active::Names(name) => name.other(),
            Active::Unreadable => match self.load()? {
                Some(slot) if slot.name == 'A' => Name::B,
                _ => Name::A,
            },
        };
        let generations = [self.checksums(Name::A)?, self.checksums(Name::B)?];
        let generation = generations.iter().flatten().map(|c| c.generation).max().unwrap_or(0) + 1;

        let slot = self.slot(target);
        // First of all the slot stops being complete; then what the new set does not have goes.
        self.remove(&slot.join(CHECKSUMS))?;
        for name in step(&slot, self.files.list(&slot))? {
            if !files.iter().any(|(kept, _)| *kept == name) {
                self.remove(&slot.join(name))?;
            }
        }
        for (name, content) in files {
            self.write(&slot.join(name), content)?;
        }
        let checksums = Checksums {
            generation,
            files: files.iter().map(|(name, content)| Checksum::of(name, content)).collect(),
        };
        self.write(&slot.join(CHECKSUMS), checksums.to_text().as_bytes())?;
        step(&slot, self.files.sync_dir(&slot))?;
        self.activate(target)?;
        Ok(generation)
    }

    /// Goes back to the set before the active one, which is then no longer complete: a second rollback, or a
    /// fallback, can never bring it back.
    pub fn rollback(&mut self) -> Result<Slot, SlotError> {
        let Active::Names(bad) = self.active()? else { return Err(SlotError::NothingToRollBackTo) };
        let slot = self.verified(bad.other())?.ok_or(SlotError::NothingToRollBackTo)?;
        self.activate(bad.other())?;
        let bad = self.slot(bad);
        self.remove(&bad.join(CHECKSUMS))?;
        step(&bad, self.files.sync_dir(&bad))?;
        Ok(slot)
    }

    /// How often a corrupt slot or an unreadable `active` was met since this was opened.
    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    fn slot(&self, name: Name) -> PathBuf {
        self.dir.join(name.text())
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        step(path, self.files.remove(path))
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        step(path, self.files.write(path, content, MODE))?;
        step(path, self.files.sync(path))
    }

    fn activate(&self, name: Name) -> Result<(), StoreError> {
        write_atomic_on(&self.files, &self.dir.join(ACTIVE), format!("{}\n", name.text()).as_bytes(), MODE)
    }

    fn active(&self) -> Result<Active, StoreError> {
        let path = self.dir.join(ACTIVE);
        match self.files.read(&path, 16) {
            Ok(text) if text == b"A\n" => Ok(Active::Names(Name::A)),
            Ok(text) if text == b"B\n" => Ok(Active::Names(Name::B)),
            Ok(_) => Ok(Active::Unreadable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Active::Nothing),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Active::Unreadable),
            Err(error) => Err(StoreError::from_io(&path, error)),
        }
    }

    /// A file that is missing, too long or not readable to the end is `None`: the slot is then not complete.
    fn content(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        match self.files.read(path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(StoreError::from_io(path, error))
            }
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "slot file not readable");
                Ok(None)
            }
        }
    }

    fn checksums(&self, name: Name) -> Result<Option<Checksums>, StoreError> {
        let text = self.content(&self.slot(name).join(CHECKSUMS), checksums::MAX_BYTES)?;
        Ok(text.and_then(|text| Checksums::parse(&text)))
    }

    fn verified(&self, name: Name) -> Result<Option<Slot>, StoreError> {
        let Some(checksums) = self.checksums(name)? else { return Ok(None) };
        let mut files = BTreeMap::new();
        for expected in checksums.files {
            let path = self.slot(name).join(&expected.name);
            match self.content(&path, expected.bytes.min(MAX_SLOT_FILE_BYTES))? {
                Some(content) if Checksum::of(&expected.name, &content) == expected => {
                    files.insert(expected.name, content);
                }
                _ => return Ok(None),
            }
        }
        let name = if name == Name::A { 'A' } else { 'B' };
        Ok(Some(Slot { name, generation: checksums.generation, files }))
    }

    /// Moves the files of a slot to `corrupt`, its checksums first, so that a cut leaves it incomplete.
    fn set_aside(&self, name: Name) -> Result<(), StoreError> {
        let (slot, corrupt) = (self.slot(name), self.dir.join(CORRUPT));
        step(&corrupt, self.files.create_dir(&corrupt))?;
        for old in step(&corrupt, self.files.list(&corrupt))? {
            self.remove(&corrupt.join(old))?;
        }
        let mut names = step(&slot, self.files.list(&slot))?;
        names.sort_by_key(|name| name != CHECKSUMS);
        for name in names {
            step(&slot, self.files.rename(&slot.join(&name), &corrupt.join(&name)))?;
        }
        step(&slot, self.files.sync_dir(&slot))
    }
}

/// Names the file in an error.
fn step<T>(at: &Path, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|error| StoreError::from_io(at, error))
}

fn valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name != CHECKSUMS
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

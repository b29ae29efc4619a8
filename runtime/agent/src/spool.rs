//! Folder input: `<folder>/<task>/<sample-id>.<png|jpg|jpeg|json|f32>` and `<sample-id>.label`.
//!
//! A writer makes a file under a name that starts with a dot and renames it, so that nothing is read half
//! written. Taken files are removed, refused ones moved to `<folder>/refused/<task>/`.

use loadonce_wire::{Name, limits::MAX_SAMPLE};
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Files taken per look.
const BATCH: usize = 64;
/// Files kept under `refused` per task; beyond it they are deleted.
const MAX_REFUSED: usize = 1000;
const REFUSED: &str = "refused";
const LABEL: &str = "label";

/// A file of the spool. Ordered samples first, so that a label finds its sample.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    /// A label rather than a sample.
    pub label: bool,
    /// Its path.
    pub path: PathBuf,
    /// The task, from its folder.
    pub task: String,
    /// The sample id, from its name.
    pub id: String,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its content is on the disk: remove it.
    Taken,
    /// Set it aside for a person.
    Refused,
    /// Leave it: its task is not known yet.
    Wait,
}

/// The first files in order, without those to `skip`; memory does not grow with the folder.
pub(crate) fn next_items(folder: &Path, skip: impl Fn(&Item) -> bool) -> io::Result<Vec<Item>> {
    let mut first = BinaryHeap::new();
    for task in fs::read_dir(folder)? {
        let task = task?;
        let name = task.file_name().to_string_lossy().into_owned();
        if name == REFUSED || Name::new(&name).is_none() || !task.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(task.path())? {
            let file = file?;
            let path = file.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).filter(|s| Name::new(s).is_some());
            let extension = path.extension().and_then(|e| e.to_str());
            let (Some(id), Some(extension)) = (stem, extension) else { continue };
            let (id, label) = (id.to_owned(), extension == LABEL);
            let item = Item { label, path, task: name.clone(), id };
            // Anything else, a pipe say, could block for ever.
            if skip(&item) || !file.file_type()?.is_file() {
                continue;
            }
            first.push(item);
            if first.len() > BATCH {
                first.pop();
            }
        }
    }
    Ok(first.into_sorted_vec())
}

/// Reads a file, at most one byte more than a sample may have, so that the refusal can say so.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_SAMPLE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes a taken file.
pub(crate) fn taken(item: &Item) -> io::Result<()> {
    fs::remove_file(&item.path)
}

/// Moves a refused file aside, for a person to look at.
pub(crate) fn refused(folder: &Path, item: &Item) -> io::Result<()> {
    let dir = folder.join(REFUSED).join(&item.task);
    fs::create_dir_all(&dir)?;
    let Some(name) = item.path.file_name() else { return Ok(()) };
    if fs::read_dir(&dir)?.count() >= MAX_REFUSED {
        fs::remove_file(&item.path)
    } else {
        fs::rename(&item.path, dir.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_before_labels_and_refused_files_move() {
        let dir = tempfile::tempdir().unwrap();
        let task = dir.path().join("digits");
        fs::create_dir_all(&task).unwrap();
        for name in ["b.label", "b.png", "a.json", ".half.png", "noextension", "bad name.png"] {
            fs::write(task.join(name), b"x").unwrap();
        }
        fs::create_dir(task.join("folder.png")).unwrap();
        let all = |_: &Item| false;
        let items = next_items(dir.path(), all).unwrap();
        let names: Vec<_> = items.iter().map(|i| (i.id.as_str(), i.label)).collect();
        assert_eq!(names, [("a", false), ("b", false), ("b", true)]);
        taken(&items[0]).unwrap();
        refused(dir.path(), &items[1]).unwrap();
        assert!(dir.path().join("refused/digits/b.png").exists());
        assert_eq!(next_items(dir.path(), all).unwrap().len(), 1);
        assert!(next_items(dir.path(), |item| item.task == "digits").unwrap().is_empty());
    }

    #[test]
    fn a_batch_is_the_first_of_many() {
        let dir = tempfile::tempdir().unwrap();
        let task = dir.path().join("digits");
        fs::create_dir_all(&task).unwrap();
        for i in 0..3 * BATCH {
            fs::write(task.join(format!("{:04}.label", 9999 - i)), b"x").unwrap();
        }
        fs::write(task.join("zzzz.png"), b"x").unwrap();
        let items = next_items(dir.path(), |_| false).unwrap();
        assert_eq!((items.len(), items[0].id.as_str(), items[1].id.as_str()), (BATCH, "zzzz", "9808"));
    }
}

//! The gateway's card: a copy of the image, as large as a small card, whose partitions are read and written from
//! outside by mtools and e2fsprogs, without mounting anything.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::system;

const SECTOR: u64 = 512;
/// Where the boot partition begins.
const BOOT: &str = "1M";
/// Bytes of a card of 4 GB.
const CARD: u64 = 4_000_000_000 / SECTOR * SECTOR;
/// Read and written at once.
const PIECE: usize = 1 << 20;

/// See the module's documentation.
pub struct Disk {
    /// The card's bytes.
    pub path: PathBuf,
}

impl Disk {
    /// A card with `image` on it, in `folder`.
    pub fn flash(image: &Path, folder: &Path) -> Self {
        let path = folder.join("card.img");
        run(Command::new("cp").arg("--sparse=always").arg(image).arg(&path));
        let file = File::options().write(true).open(&path).expect("the copy is there");
        file.set_len(CARD).expect("the system has room for a sparse file");
        Self { path }
    }

    fn boot(&self) -> String {
        format!("{}@@{BOOT}", self.path.display())
    }

    /// Writes `text` as a file of the boot partition, as a person with a card reader would.
    pub fn write(&self, name: &str, text: &str) {
        let copy = self.path.with_extension("file");
        fs::write(&copy, text).expect("a temporary folder can be written");
        let mcopy = system("mcopy", "mtools");
        run(Command::new(mcopy).args(["-o", "-i"]).arg(self.boot()).arg(&copy).arg(format!("::{name}")));
    }

    /// Reads a file of the boot partition; nothing where there is none.
    pub fn read(&self, name: &str) -> Option<String> {
        let mtype = system("mtype", "mtools");
        let out = Command::new(mtype).arg("-i").arg(self.boot()).arg(format!("::{name}")).output();
        let out = out.expect("mtools are installed");
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Appends `options` to the kernel's, as long as nobody writes the boot entries again.
    pub fn append_options(&self, options: &str) {
        let mdir = system("mdir", "mtools");
        let list = run(Command::new(mdir).args(["-b", "-i"]).arg(self.boot()).arg("::loader/entries"));
        for entry in list.lines().filter_map(|line| line.trim().strip_prefix("::/")) {
            let text = self.read(entry).expect("a listed file can be read");
            let line = |line: &str| match line.strip_prefix("options ") {
                Some(old) => format!("options {old} {options}\n"),
                None => format!("{line}\n"),
            };
            self.write(entry, &text.lines().map(line).collect::<String>());
        }
    }

    /// Copies what the state partition holds into `folder`, after its journal was replayed as the next boot would do.
    /// The card itself is left as it is.
    pub fn extract_state(&self, folder: &Path) {
        let part = folder.join("state.part");
        self.copy_partition("loadonce-state", &part);
        // 0: nothing to do, 1: the journal was replayed. More would be damage.
        let fsck = system("e2fsck", "e2fsprogs");
        let out = Command::new(fsck).arg("-p").arg(&part).output().expect("e2fsprogs are installed");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(matches!(out.status.code(), Some(0 | 1)), "the state partition is damaged: {said}");
        let debugfs = system("debugfs", "e2fsprogs");
        run(Command::new(debugfs).arg("-R").arg(format!("rdump / {}", folder.display())).arg(&part));
        fs::remove_file(&part).expect("a file of this program can be removed");
    }

    /// Copies the partition called `name` into a file.
    fn copy_partition(&self, name: &str, to: &Path) {
        let mut card = File::open(&self.path).expect("the card is there");
        let (begin, end) = partition(&mut card, name)
            .unwrap_or_else(|| panic!("there is no partition {name} on {}", self.path.display()));
        let mut out = File::create(to).expect("a temporary folder can be written");
        out.set_len(end - begin).expect("the system has room for a sparse file");
        let mut piece = vec![0; PIECE];
        let mut at = begin;
        while at < end {
            let length = PIECE.min((end - at) as usize);
            card.seek(SeekFrom::Start(at)).expect("a partition lies within its card");
            card.read_exact(&mut piece[..length]).expect("a partition lies within its card");
            if piece[..length].iter().any(|&byte| byte != 0) {
                out.seek(SeekFrom::Start(at - begin)).expect("a file can be written anywhere");
                out.write_all(&piece[..length]).expect("a temporary folder can be written");
            }
            at += length as u64;
        }
    }
}

/// First and behind last byte of a partition, from the GUID partition table (UEFI specification, 5.3).
fn partition(card: &mut File, name: &str) -> Option<(u64, u64)> {
    let mut head = vec![0; 34 * SECTOR as usize];
    card.seek(SeekFrom::Start(0)).ok()?;
    card.read_exact(&mut head).ok()?;
    head[2 * SECTOR as usize..].chunks_exact(128).find_map(|entry| {
        let number = |at: usize| entry[at..].first_chunk().map(|&bytes| u64::from_le_bytes(bytes));
        let units = entry[56..].as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair));
        let named: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
        (String::from_utf16_lossy(&named) == name).then_some(())?;
        Some((number(32)? * SECTOR, (number(40)? + 1) * SECTOR))
    })
}

/// Runs a program to its good end; what it wrote to standard output.
fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

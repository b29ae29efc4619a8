//! The file `checksums` of a slot, written last: a slot is complete if and only if it is there and true.
//!
//! ```text
//! loadonce-slot 1
//! generation 12
//! <blake3 in hex> <bytes> <name>
//! …
//! end <blake3 in hex of everything above this line>
//! ```

use std::fmt::Write;

/// Most bytes of the file: sixteen lines of a hash, a size and a name, and the rest.
pub(super) const MAX_BYTES: u64 = 4096;
const MAGIC: &str = "loadonce-slot 1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksums {
    /// Rises with every commit.
    pub(super) generation: u64,
    pub(super) files: Vec<Checksum>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// blake3 in lower-case hex.
    pub(super) hash: String,
}

impl Checksum {
    pub(super) fn of(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            bytes: content.len() as u64,
            hash: blake3::hash(content).to_hex().to_string(),
        }
    }
}

impl Checksums {
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\ngeneration {}\n", self.generation);
        for Checksum { name, bytes, hash } in &self.files {
            writeln!(text, "{hash} {bytes} {name}").expect("a String takes any text");
        }
        let end = blake3::hash(text.as_bytes()).to_hex();
        writeln!(text, "end {end}").expect("a String takes any text");
        text
    }

    /// `None` for anything that `to_text` did not write.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let above = text.rfind("end ")?;
        let (body, end) = text.split_at(above);
        if end.strip_prefix("end ")?.strip_suffix('\n')? != blake3::hash(body.as_bytes()).to_hex().as_str() {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let generation = lines.next()?.strip_prefix("generation ")?.parse().ok()?;
        let files = lines
            .map(|line| {
                let mut words = line.splitn(3, ' ');
                let (hash, bytes, name) = (words.next()?, words.next()?, words.next()?);
                let name = super::valid_name(name).then(|| name.to_owned())?;
                Some(Checksum { name, bytes: bytes.parse().ok()?, hash: hash.to_owned() })
            })
            .collect::<Option<Vec<_>>>()?;
        (files.len() <= super::MAX_SLOT_FILES).then_some(Self { generation, files })
    }
}

/// For the fuzz targets: the hash at the end, which nothing gets past by luck, is made true first.
pub(crate) fn fuzz_checksums(body: &[u8]) -> bool {
    let text = [body, format!("end {}\n", blake3::hash(body).to_hex()).as_bytes()].concat();
    Checksums::parse(&text).is_some_and(|read| {
        assert_eq!(Checksums::parse(read.to_text().as_bytes()), Some(read));
        true
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(generation in any::<u64>(), names in prop::collection::vec("[a-z][a-z0-9.-]{0,20}", 0..=16),
            content in prop::collection::vec(any::<u8>(), 0..100), flip in any::<prop::sample::Index>())
        {
            let files = names.iter().map(|name| Checksum::of(name, &content)).collect();
            let checksums = Checksums { generation, files };
            let mut text = checksums.to_text().into_bytes();
            prop_assert!(text.len() as u64 <= MAX_BYTES);
            prop_assert_eq!(Checksums::parse(&text), Some(checksums));
            let at = flip.index(text.len());
            text[at] ^= 1;
            prop_assert_eq!(Checksums::parse(&text), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,200}") {
            prop_assert_eq!(Checksums::parse(&bytes), None);
            prop_assert_eq!(Checksums::parse(text.as_bytes()), None);
        }
    }
}

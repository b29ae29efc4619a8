//! A bundle on disk: parsed, checked against the contract, and every file against its hash.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::contract::{Contract, Segment};
use crate::inputs::Inputs;
use crate::spec::Modality;
use crate::text::Tokenizer;

/// The one file whose hash is the bundle's fingerprint.
const CONTRACT_FILE: &str = "backbone.toml";
const MAX_CONTRACT_BYTES: u64 = 64 << 10;
/// Largest single file of a bundle; all-MiniLM-L6-v2 has 90 MB in fp32.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A verified bundle directory.
#[derive(Clone, Debug)]
pub struct Bundle {
    dir: PathBuf,
    contract: Contract,
    fingerprint: String,
    bytes: u64,
    tokenizer: Option<Arc<Tokenizer>>,
}

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A file is missing or unreadable.
    #[error("cannot read {file} of the bundle in {}: {source}; install the bundle again", dir.display())]
    Read {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is over its bound.
    #[error("{file} of the bundle in {} is larger than {limit} bytes; this is not a bundle for this runtime", dir.display())]
    TooLarge {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
        /// Bound in bytes.
        limit: u64,
    },
    /// A directory, link or device stands where a file must be.
    #[error("{file} of the bundle in {} is not a regular file; install the bundle again", dir.display())]
    NotAFile {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
    },
    /// `backbone.toml` is not TOML with the contract's keys.
    #[error("backbone.toml in {} cannot be read: {what}; build the bundle with a matching loadonce_models", dir.display())]
    Syntax {
        /// The bundle's directory.
        dir: PathBuf,
        /// What and where.
        what: String,
    },
    /// `backbone.toml` says something this runtime cannot do.
    #[error("backbone.toml in {}: {what}; use a bundle and a runtime of the same format", dir.display())]
    Contract {
        /// The bundle's directory.
        dir: PathBuf,
        /// The contradiction.
        what: String,
    },
    /// A file name that leads out of the directory, or could.
    #[error("backbone.toml in {} names {file:?}; a file name is letters, digits, '.', '_' and '-' and begins with no '.'", dir.display())]
    Name {
        /// The bundle's directory.
        dir: PathBuf,
        /// The name as written.
        file: String,
    },
    /// A segment or feature file without a hash.
    #[error("{file} is used by the bundle in {} but has no sha256 under [files]; build the bundle again", dir.display())]
    Unlisted {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
    },
    /// A file was changed or damaged.
    #[error("{file} of the bundle in {} has sha256 {got}, backbone.toml says {expected}; install the bundle again", dir.display())]
    Hash {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
        /// From `backbone.toml`.
        expected: String,
        /// Of the file on disk.
        got: String,
    },
    /// The tokenizer has the right hash but is of a kind this runtime does not know.
    #[error("{file} of the bundle in {}: {what}; build the bundle again with a tokenizer this runtime reads", dir.display())]
    Tokenizer {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// The feature file has the right hash but not the right tensors.
    #[error("{file} of the bundle in {}: {what}; build the bundle again", dir.display())]
    Features {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name in the bundle.
        file: String,
        /// What is wrong.
        what: String,
    },
}

impl Bundle {
    /// Reads `dir/backbone.toml` and verifies every file it lists. Files it does not list are never opened.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let text = read_bounded(dir, CONTRACT_FILE, MAX_CONTRACT_BYTES)?;
        let syntax = |what: String| BundleError::Syntax { dir: dir.into(), what };
        let refused = |what: String| BundleError::Contract { dir: dir.into(), what };
        let contract = str::from_utf8(&text)
            .map_err(|error| syntax(error.to_string()))
            .and_then(|text| Contract::parse(text).map_err(|error| syntax(error.to_string())))?
            .map_err(refused)?;
        if let Some(what) = contract.contradiction() {
            return Err(refused(what));
        }
        for file in contract.files.keys().map(String::as_str).chain(contract.used()) {
            if !is_plain_name(file) {
                return Err(BundleError::Name { dir: dir.into(), file: file.into() });
            }
        }
        if let Some(file) = contract.used().find(|&file| !contract.files.contains_key(file)) {
            return Err(BundleError::Unlisted { dir: dir.into(), file: file.into() });
        }

        let mut bundle = Self {
            dir: dir.into(),
            fingerprint: blake3::hash(&text).to_hex().to_string(),
            bytes: text.len() as u64,
            contract,
            tokenizer: None,
        };
        for (file, expected) in &bundle.contract.files {
            let mut digest = Digester { sha: Sha256::new(), bytes: 0 };
            let mut reader = open_bounded(dir, file, MAX_FILE_BYTES)?;
            io::copy(&mut reader, &mut digest).map_err(|source| read_error(dir, file, source))?;
            bundle.bytes += digest.bytes;
            check_hash(dir, file, expected, digest.sha)?;
        }
        bundle.tokenizer = bundle.load_tokenizer()?;
        Ok(bundle)
    }

    /// blake3 of `backbone.toml` in hexadecimal: what modules, deltas and pointers name this backbone by.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Directory the bundle was read from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Name, such as `sense-tiny`.
    pub fn name(&self) -> &str {
        &self.contract.name
    }

    /// Family, such as `sense`.
    pub fn family(&self) -> &str {
        &self.contract.family
    }

    /// Scale in its family, such as `tiny`.
    pub fn scale(&self) -> &str {
        &self.contract.scale
    }

    /// Version of the bundle.
    pub fn version(&self) -> &str {
        &self.contract.version
    }

    /// SPDX expression of the weights' licence.
    pub fn licence(&self) -> &str {
        &self.contract.licence
    }

    /// How the weights are quantized, in words.
    pub fn quantization(&self) -> &str {
        &self.contract.quantization
    }

    /// ONNX operator set of the segments.
    pub fn opset(&self) -> u32 {
        self.contract.opset
    }

    /// Whether the backbone takes this kind of input.
    pub fn takes(&self, modality: Modality) -> bool {
        self.contract.input.takes(modality)
    }

    /// Features taken from each channel so that all together stay within `features`: ⌊features / channels⌋, at
    /// most [`Self::directions`]; 0 when there are more channels than features, or no channel.
    pub fn features_per_channel(&self, channels: usize, features: usize) -> usize {
        features.checked_div(channels).unwrap_or(0).min(self.directions())
    }

    /// Number of exits, one after each segment.
    pub fn exits(&self) -> usize {
        self.contract.segments.len()
    }

    /// Layers that have run at each exit.
    pub fn depths(&self) -> Vec<u32> {
        let layers = self.contract.segments.iter().map(|segment| segment.layers);
        layers
            .scan(0u32, |depth, layers| {
                *depth = depth.saturating_add(layers);
                Some(*depth)
            })
            .collect()
    }

    /// Principal directions stored per exit: the most features of one channel.
    pub fn directions(&self) -> usize {
        self.contract.features.directions
    }

    /// Parameters of the network before quantization.
    pub fn parameters(&self) -> u64 {
        self.contract.parameters
    }

    /// Bytes of the fp32 weights: what exchanging the full model would send.
    pub fn fp32_bytes(&self) -> u64 {
        self.contract.fp32_bytes
    }

    /// Bytes of the bundle on disk, all listed files and `backbone.toml`.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.contract.segments
    }

    pub(crate) fn pooled(&self) -> usize {
        self.contract.features.pooled
    }

    pub(crate) fn features_file(&self) -> &str {
        &self.contract.features.file
    }

    pub(crate) fn inputs(&self) -> &Inputs {
        &self.contract.input
    }

    /// The tokenizer, shared by all tasks; `None` for a bundle without text or a program without the feature.
    pub(crate) fn tokenizer(&self) -> Option<Arc<Tokenizer>> {
        self.tokenizer.clone()
    }

    #[cfg(feature = "text")]
    fn load_tokenizer(&self) -> Result<Option<Arc<Tokenizer>>, BundleError> {
        let Some(text) = &self.contract.input.text else { return Ok(None) };
        let bytes = self.read(&text.tokenizer)?;
        let tokenizer = Tokenizer::read(&bytes).map_err(|what| BundleError::Tokenizer {
            dir: self.dir.clone(),
            file: text.tokenizer.clone(),
            what,
        })?;
        Ok(Some(Arc::new(tokenizer)))
    }

    #[cfg(not(feature = "text"))]
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "the same face with and without the feature"
    )]
    fn load_tokenizer(&self) -> Result<Option<Arc<Tokenizer>>, BundleError> {
        Ok(None)
    }

    /// A listed file's bytes, hashed again: what an engine gets is what was verified, whatever happened to the
    /// disk since [`Bundle::open`].
    pub(crate) fn read(&self, file: &str) -> Result<Vec<u8>, BundleError> {
        let Some(expected) = self.contract.files.get(file) else {
            return Err(BundleError::Unlisted { dir: self.dir.clone(), file: file.into() });
        };
        let bytes = read_bounded(&self.dir, file, MAX_FILE_BYTES)?;
        check_hash(&self.dir, file, expected, Sha256::new_with_prefix(&bytes))?;
        Ok(bytes)
    }

    pub(crate) fn bad_features(&self, what: String) -> BundleError {
        BundleError::Features { dir: self.dir.clone(), file: self.features_file().into(), what }
    }
}

/// One component that cannot leave the directory on any system.
fn is_plain_name(file: &str) -> bool {
    !file.starts_with('.')
        && (1..=128).contains(&file.len())
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn read_error(dir: &Path, file: &str, source: io::Error) -> BundleError {
    BundleError::Read { dir: dir.into(), file: file.into(), source }
}

/// Opens a regular file (no link: a link leads out of the directory) of at most `limit` bytes.
fn open_bounded(dir: &Path, file: &str, limit: u64) -> Result<impl Read + use<>, BundleError> {
    let path = dir.join(file);
    let about = fs::symlink_metadata(&path).map_err(|source| read_error(dir, file, source))?;
    if !about.is_file() {
        return Err(BundleError::NotAFile { dir: dir.into(), file: file.into() });
    }
    if about.len() > limit {
        return Err(BundleError::TooLarge { dir: dir.into(), file: file.into(), limit });
    }
    // A file that grows meanwhile is cut here and fails its hash.
    Ok(File::open(&path).map_err(|source| read_error(dir, file, source))?.take(limit))
}

fn read_bounded(dir: &Path, file: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    open_bounded(dir, file, limit)?
        .read_to_end(&mut bytes)
        .map_err(|source| read_error(dir, file, source))?;
    Ok(bytes)
}

fn check_hash(dir: &Path, file: &str, expected: &str, sha: Sha256) -> Result<(), BundleError> {
    use std::fmt::Write as _;
    let mut got = String::with_capacity(64);
    for byte in sha.finalize() {
        write!(got, "{byte:02x}").expect("writing to a string cannot fail");
    }
    if got == expected {
        return Ok(());
    }
    Err(BundleError::Hash { dir: dir.into(), file: file.into(), expected: expected.into(), got })
}

struct Digester {
    sha: Sha256,
    bytes: u64,
}

impl io::Write for Digester {
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        self.sha.update(block);
        self.bytes += block.len() as u64;
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! A fuzz target for every decoder: bytes from outside in, no panic and no allocation past the bound.
//!
//! The first byte of an input chooses the decoder of a target, so a handful of targets covers all of them. What a
//! checksum, a hash or a signature guards is made true first; otherwise nothing would get past it and the decoder
//! behind it would not be tried. Where an encoding is the only one of its value, reading and writing back must
//! give the same bytes.
//!
//! `make fuzz` runs the targets under libFuzzer, guided by coverage (`tests/fuzz`); the tests replay the seeds and
//! what was once found, and a few thousand mutations of them.

mod aggregator;
mod blob;
mod bundle;
mod control;
mod enrol;
mod file;
mod input;
mod mutate;
mod wire;

pub use mutate::Mutator;
pub use wire::make_crc_true;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it reads.
    pub reads: &'static str,
    /// Most bytes of an input.
    pub longest: usize,
    /// Bytes that one input may have allocated at one moment, at most.
    pub memory: usize,
    /// Tries one input; a panic is a finding.
    pub run: fn(&[u8]),
    /// Valid examples.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const MIB: usize = 1 << 20;

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "wire",
        reads: "frame, contribution manifest, ack, block request, topic, name, pieces, broker's stream",
        longest: 4096,
        memory: MIB,
        run: wire::run,
        seeds: wire::seeds,
    },
    Target {
        name: "blob",
        reads: "steps and sums, compressed and not",
        longest: 16_384,
        memory: 24 * MIB,
        run: blob::run,
        seeds: blob::seeds,
    },
    Target {
        name: "file",
        reads: "module file, lineage entry, sample record, outbox record, slot checksums and description, kept contribution, key",
        longest: 4096,
        memory: 4 * MIB,
        run: file::run,
        seeds: file::seeds,
    },
    Target {
        name: "control",
        reads: "task manifest, signed envelope, pointer, presence, label, configurations, broker's URL",
        longest: 4096,
        memory: 4 * MIB,
        run: control::run,
        seeds: control::seeds,
    },
    Target {
        name: "input",
        reads: "windows as CSV, JSON and f32, pictures as PNG and JPEG, the time of a window",
        longest: 16_384,
        memory: 48 * MIB,
        run: input::run,
        seeds: input::seeds,
    },
    Target {
        name: "bundle",
        reads: "backbone.toml, tokenizer.json with a text, feature file",
        longest: 8192,
        memory: 4 * MIB,
        run: bundle::run,
        seeds: bundle::seeds,
    },
    Target {
        name: "aggregator",
        reads: "messages to an aggregator: signed contributions with damaged insides, raw frames, restarts",
        longest: 512,
        memory: 64 * MIB,
        run: aggregator::run,
        seeds: aggregator::seeds,
    },
    Target {
        name: "enrol",
        reads: "enrolment: token, request, answer, certificate, PEM, the files that both sides keep",
        longest: 4096,
        memory: MIB,
        run: enrol::run,
        seeds: enrol::seeds,
    },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    static ALL: [Target; 8] = TARGETS;
    ALL.iter().find(|target| target.name == name)
}

/// `rest` as an input of the decoder with this number.
fn seed(decoder: u8, rest: &[u8]) -> Vec<u8> {
    [&[decoder], rest].concat()
}

/// A golden file of the repository.
fn golden(name: &str) -> Vec<u8> {
    let path = crate::programs::root().join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

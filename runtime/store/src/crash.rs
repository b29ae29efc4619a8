//! Test fakes: storage that loses power at a chosen operation.
//!
//! What was synced survives. What was not may survive, vanish or be torn, as a seed decides, so a test that
//! passes for every operation and several seeds relies on nothing but what was synced. Seed 0 loses all of it,
//! seed 1 keeps all of it, the others choose piece by piece.

mod disk;
mod files;

pub use disk::PowerCutDisk;
pub use files::PowerCutFiles;

use std::io;

/// The error of every operation from the cut on.
fn no_power() -> io::Error {
    io::Error::other("the power is cut")
}

/// splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
struct Fate {
    state: u64,
    seed: u64,
}

impl Fate {
    fn new(seed: u64) -> Self {
        Self { state: seed, seed }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    /// Whether an unsynced piece survives.
    fn survives(&mut self) -> bool {
        match self.seed {
            0 => false,
            1 => true,
            _ => self.below(2) == 0,
        }
    }
}

/// Counts operations and decides when the power goes.
#[derive(Debug, Default)]
struct Supply {
    operations: u64,
    cut_at: Option<u64>,
}

/// What an operation may still do.
#[derive(PartialEq, Eq)]
enum Power {
    On,
    /// This very operation is the one that may happen in part.
    Failing,
    Off,
}

impl Supply {
    fn draw(&mut self) -> Power {
        self.operations += 1;
        match self.cut_at {
            Some(cut) if self.operations == cut => Power::Failing,
            Some(cut) if self.operations > cut => Power::Off,
            _ => Power::On,
        }
    }

    fn is_on(&self) -> bool {
        self.cut_at.is_none_or(|cut| self.operations < cut)
    }
}

//! A redb backend that loses power.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::{Fate, Power, Supply, no_power};

/// The unit that a disk writes as a whole.
const SECTOR: usize = 512;

/// Storage for [`Database::open_with`](crate::Database::open_with), in memory; clones are the same disk.
///
/// Operations (writes, changes of length, syncs) are counted from 1.
#[derive(Debug, Clone, Default)]
pub struct PowerCutDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    supply: Supply,
    forget_syncs: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

impl PowerCutDisk {
    /// An empty disk with power.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk with an empty database, all of it synced: where a crash test starts. redb takes several writes to
    /// create one, and a cut among them leaves none; on a real disk `Database::open` makes that one step.
    pub fn with_database() -> Result<Self, crate::StoreError> {
        let disk = Self::new();
        drop(crate::Database::open_with(disk.clone(), 0)?);
        Ok(disk.power_cycle(1))
    }

    /// Lets the power go during the operation with this number; it may or may not reach the disk.
    pub fn cut_power_at(&self, operation: u64) {
        self.state().supply.cut_at = Some(operation);
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().supply.operations
    }

    /// Makes syncs do nothing from now on: a fault on purpose, to see that a test notices.
    pub fn forget_syncs(&self) {
        self.state().forget_syncs = true;
    }

    /// The disk as found when the power is back: all that was synced, and of the rest what `seed` decides,
    /// sector by sector.
    #[must_use]
    pub fn power_cycle(&self, seed: u64) -> Self {
        let state = self.state();
        let mut fate = Fate::new(seed);
        let mut found = state.durable.clone();
        for change in &state.unsynced {
            match change {
                Change::Length(length) if fate.survives() => found.resize(*length, 0),
                Change::Length(_) => {}
                Change::Write { offset, data } => {
                    let mut at = 0;
                    while at < data.len() {
                        let start = offset + at;
                        let piece = (SECTOR - start % SECTOR).min(data.len() - at);
                        if fate.survives() {
                            if found.len() < start + piece {
                                found.resize(start + piece, 0);
                            }
                            found[start..start + piece].copy_from_slice(&data[at..at + piece]);
                        }
                        at += piece;
                    }
                }
            }
        }
        let state = State { live: found.clone(), durable: found, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state();
        let power = state.supply.draw();
        if power == Power::Off {
            return Err(no_power());
        }
        match &change {
            Change::Length(length) => state.live.resize(*length, 0),
            Change::Write { offset, data } => {
                let end = offset + data.len();
                if state.live.len() < end {
                    state.live.resize(end, 0);
                }
                state.live[*offset..end].copy_from_slice(data);
            }
        }
        state.unsynced.push(change);
        if power == Power::On { Ok(()) } else { Err(no_power()) }
    }
}

impl StorageBackend for PowerCutDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = offset as usize;
        let bytes = state.live.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.supply.draw() {
            Power::On if state.forget_syncs => Ok(()),
            Power::On => {
                let State { live, durable, .. } = &mut *state;
                durable.clone_from(live);
                state.unsynced.clear();
                Ok(())
            }
            // A sync that fails has made nothing durable that anyone may rely on.
            Power::Failing | Power::Off => Err(no_power()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset: offset as usize, data: data.to_vec() })
    }
}

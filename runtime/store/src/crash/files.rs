//! A file system that loses power.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Fate, Power, Supply, no_power};
use crate::Files;
use crate::files::parent;

/// A [`Files`] in memory; clones are the same file system. The folder `/` is there from the start.
///
/// Every call but `read` and `list` is an operation, counted from 1. Content is as durable as the last `sync`
/// of the file, a name as durable as the last `sync_dir` of its folder; a folder that is lost takes its content
/// along. A rename within a folder survives whole or not at all; one across folders is two separate changes.
#[derive(Debug, Clone)]
pub struct PowerCutFiles {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    unsynced_names: Vec<(PathBuf, Change)>,
    contents: Vec<Content>,
    supply: Supply,
    forget_syncs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    /// An index into the contents.
    File(usize),
}

#[derive(Debug, Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Link(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Default for PowerCutFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl PowerCutFiles {
    /// An empty file system with power.
    pub fn new() -> Self {
        Self::found(BTreeMap::from([(PathBuf::from("/"), Node::Dir)]), Vec::new())
    }

    /// Lets the power go during the operation with this number; it may happen, in part or not at all.
    pub fn cut_power_at(&self, operation: u64) {
        self.state().supply.cut_at = Some(operation);
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().supply.operations
    }

    /// Makes `sync` do nothing from now on: a fault on purpose, to see that a test notices.
    pub fn forget_syncs(&self) {
        self.state().forget_syncs = true;
    }

    /// Flips one bit in the middle of a file, durably: rot.
    pub fn rot(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let content = state.content(path)?;
        let middle = content.live.len() / 2;
        *content.live.get_mut(middle).ok_or(io::ErrorKind::UnexpectedEof)? ^= 1;
        content.durable = content.live.clone();
        Ok(())
    }

    /// The file system as found when the power is back.
    #[must_use]
    pub fn power_cycle(&self, seed: u64) -> Self {
        let state = self.state();
        let mut fate = Fate::new(seed);
        let mut names = state.durable_names.clone();
        for (_, change) in &state.unsynced_names {
            if fate.survives() {
                change.apply(&mut names);
            }
        }
        let present = names.clone();
        names.retain(|path, _| path.ancestors().skip(1).all(|dir| present.get(dir) == Some(&Node::Dir)));
        let contents = state
            .contents
            .iter()
            .map(|content| {
                let left = content.after_cut(&mut fate);
                Content { live: left.clone(), durable: left }
            })
            .collect();
        Self::found(names, contents)
    }

    fn found(names: BTreeMap<PathBuf, Node>, contents: Vec<Content>) -> Self {
        let state = State {
            durable_names: names.clone(),
            names,
            unsynced_names: Vec::new(),
            contents,
            supply: Supply::default(),
            forget_syncs: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operation(&self, act: impl FnOnce(&mut State, &Power) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        let power = state.supply.draw();
        if power == Power::Off {
            return Err(no_power());
        }
        act(&mut state, &power)?;
        if power == Power::On { Ok(()) } else { Err(no_power()) }
    }
}

impl Content {
    fn after_cut(&self, fate: &mut Fate) -> Vec<u8> {
        if self.live == self.durable || fate.seed == 0 {
            return self.durable.clone();
        }
        let live = &self.live;
        match (fate.seed, fate.below(4)) {
            (1, _) | (_, 0) => live.clone(),
            (_, 1) => self.durable.clone(),
            (_, 2) => live[..fate.below(live.len() + 1)].to_vec(),
            // The length got through, the end of the data did not.
            _ => {
                let mut torn = live.clone();
                let from = fate.below(live.len() + 1);
                torn[from..].fill(0);
                torn
            }
        }
    }
}

impl State {
    fn content(&mut self, path: &Path) -> io::Result<&mut Content> {
        match self.names.get(path) {
            Some(Node::File(index)) => Ok(&mut self.contents[*index]),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::Dir) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, dir: &Path, change: Change) {
        change.apply(&mut self.names);
        self.unsynced_names.push((dir.to_path_buf(), change));
    }
}

impl Files for PowerCutFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.operation(|state, _| {
            state.dir(parent(dir))?;
            if state.dir(dir).is_err() {
                state.change(parent(dir), Change::Link(dir.to_path_buf(), Node::Dir));
            }
            Ok(())
        })
    }

    fn write(&self, path: &Path, bytes: &[u8], _mode: u32) -> io::Result<()> {
        self.operation(|state, power| {
            state.dir(parent(path))?;
            if !state.names.contains_key(path) {
                let node = Node::File(state.contents.len());
                state.contents.push(Content::default());
                state.change(parent(path), Change::Link(path.to_path_buf(), node));
            }
            // Cut in the middle, half of it was handed over at most.
            let handed = if *power == Power::On { bytes.len() } else { bytes.len() / 2 };
            state.content(path)?.live = bytes[..handed].to_vec();
            Ok(())
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.operation(|state, power| {
            let forget = state.forget_syncs;
            let content = state.content(path)?;
            if *power == Power::On && !forget {
                content.durable = content.live.clone();
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(|state, _| {
            let node = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            state.dir(parent(to))?;
            let (from, to) = (from.to_path_buf(), to.to_path_buf());
            if parent(&from) == parent(&to) {
                state.change(parent(&from), Change::Rename(from.clone(), to, node));
            } else {
                state.change(parent(&to), Change::Link(to.clone(), node));
                state.change(parent(&from), Change::Unlink(from.clone()));
            }
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operation(|state, power| {
            state.dir(dir)?;
            if *power == Power::On {
                let (synced, rest): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut state.unsynced_names).into_iter().partition(|(at, _)| at == dir);
                state.unsynced_names = rest;
                for (_, change) in synced {
                    change.apply(&mut state.durable_names);
                }
            }
            Ok(())
        })
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        if !state.supply.is_on() {
            return Err(no_power());
        }
        let content = state.content(path)?;
        if content.live.len() as u64 > limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(content.live.clone())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operation(|state, _| {
            if state.names.contains_key(path) {
                state.change(parent(path), Change::Unlink(path.to_path_buf()));
            }
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        if !state.supply.is_on() {
            return Err(no_power());
        }
        state.dir(dir)?;
        Ok(state
            .names
            .keys()
            .filter(|path| path.as_path() != dir && path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }
}

//! Looks into the spool folder and hands its files to the work thread, a batch at a time.
//!
//! A file is removed once what was learned from it is on the disk, so a power cut loses none.

use super::{Room, Work};
use crate::spool::{self, Fate, Item};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Between two looks into the spool.
const PAUSE: Duration = Duration::from_millis(250);
/// Before files of a task that is not served are looked at again.
const TASK_PAUSE: Duration = Duration::from_secs(5);
/// Files that cannot be read or moved are passed over; of so many the names are remembered.
const MAX_BROKEN: usize = 1024;

/// Watches until the work thread is gone.
pub(super) async fn watch(folder: PathBuf, work: mpsc::Sender<Work>, room: Room) {
    let mut complained = false;
    let mut skip = Skip::default();
    loop {
        let (look, skipped) = (folder.clone(), skip.clone());
        let found = tokio::task::spawn_blocking(move || {
            spool::next_items(&look, |item| skipped.task(&item.task) || skipped.file(&item.path))
        });
        let items = match found.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(items) => items,
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(folder = %folder.display(), %error, "the spool folder cannot be read; create it or correct `spool.folder`");
                }
                Vec::new()
            }
        };
        let idle = items.is_empty();
        let mut waiting = Vec::with_capacity(items.len());
        for item in items {
            match spool::read(&item.path) {
                Ok(payload) => {
                    let (fate, told) = oneshot::channel();
                    let held = room.take(payload.len()).await;
                    if work
                        .send(Work::Spool { item: item.clone(), payload, fate, _room: held })
                        .await
                        .is_err()
                    {
                        return;
                    }
                    waiting.push((item, told));
                }
                Err(error) => skip.broken(&item, &error),
            }
        }
        for (item, told) in waiting {
            let Ok(fate) = told.await else { return };
            let done = match fate {
                Fate::Taken => spool::taken(&item),
                Fate::Refused => spool::refused(&folder, &item),
                Fate::Wait => {
                    skip.tasks.insert(item.task, Instant::now() + TASK_PAUSE);
                    continue;
                }
            };
            if let Err(error) = done {
                skip.broken(&item, &error);
            }
        }
        if idle {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What is passed over for now.
#[derive(Clone, Default)]
struct Skip {
    tasks: BTreeMap<String, Instant>,
    files: std::collections::BTreeSet<PathBuf>,
}

impl Skip {
    fn task(&self, task: &str) -> bool {
        self.tasks.get(task).is_some_and(|until| Instant::now() < *until)
    }

    fn file(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    fn broken(&mut self, item: &Item, error: &io::Error) {
        tracing::error!(file = %item.path.display(), %error, "this spool file cannot be read or moved and is passed over until the agent restarts; correct its permissions");
        if self.files.len() == MAX_BROKEN {
            self.files.pop_first();
        }
        self.files.insert(item.path.clone());
    }
}

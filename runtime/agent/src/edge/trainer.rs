//! The training thread: whatever it computes, it computes when nobody else wants the processor.
//!
//! The work thread lends it one job at a time and goes on answering. It gives the job back when it is done, and after
//! the unit under way when it is no longer wanted: paused, replaced, at the end.

use super::Work;
use crate::training::Training;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::mpsc::Sender;

/// No job is wanted.
const NONE: u64 = 0;

/// See the module's documentation.
pub(super) struct Trainer {
    give: SyncSender<Training>,
    wanted: Arc<AtomicU64>,
    /// Whether a job is there.
    lent: bool,
    thread: Option<JoinHandle<()>>,
}

impl Trainer {
    /// Starts the thread; jobs come back as [`Work::Trained`].
    pub(super) fn start(back: Sender<Work>, idle: bool) -> io::Result<Self> {
        let (give, take) = sync_channel(1);
        let wanted = Arc::new(AtomicU64::new(NONE));
        let seen = Arc::clone(&wanted);
        let thread = std::thread::Builder::new().name("training".into()).spawn(move || {
            if idle {
                step_back();
            }
            train(&take, &seen, &back);
        })?;
        Ok(Self { give, wanted, lent: false, thread: Some(thread) })
    }

    /// Whether it can take a job.
    pub(super) fn is_free(&self) -> bool {
        !self.lent
    }

    /// Lends it `training`.
    pub(super) fn lend(&mut self, training: Training) {
        self.want(Some(training.number()));
        self.lent = true;
        // There is room for one job, and the thread has none; if it is gone, `check` tells.
        let _ = self.give.try_send(training);
    }

    /// The job came back.
    pub(super) fn returned(&mut self) {
        self.lent = false;
    }

    /// The only job that is still wanted.
    pub(super) fn want(&self, number: Option<u64>) {
        self.wanted.store(number.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// A defect in training ends the work thread too, as it would if it trained by itself.
    pub(super) fn check(&mut self) {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished())
            && let Err(defect) = thread.join()
        {
            std::panic::resume_unwind(defect);
        }
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.want(None);
    }
}

/// Until nobody lends any more.
fn train(take: &Receiver<Training>, wanted: &AtomicU64, back: &Sender<Work>) {
    while let Ok(mut training) = take.recv() {
        while wanted.load(Ordering::Relaxed) == training.number() && training.advance() {}
        if back.blocking_send(Work::Trained(training)).is_err() {
            return;
        }
    }
}

/// This thread runs when nothing else does: `SCHED_IDLE`, or else the least of the usual priorities.
fn step_back() {
    let Err(error) = sched_idle() else { return };
    match rustix::process::setpriority_process(None, 19) {
        Ok(()) => tracing::info!(%error, "no idle scheduling here; training runs at nice 19"),
        Err(nice) => tracing::warn!(%error, %nice, "training runs at the usual priority"),
    }
}

#[expect(unsafe_code, reason = "no safe wrapper of sched_setscheduler is at hand")]
fn sched_idle() -> io::Result<()> {
    // The system call itself, for musl's function of that name refuses.
    let priority: libc::c_int = 0;
    // SAFETY: 0 is the calling thread; the third argument points to the kernel's `struct sched_param`, which is one
    // int, and outlives the call. Nothing else is touched.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

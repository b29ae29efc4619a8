//! What the process and the disk under its state say.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// See the module's documentation. What the system does not tell is `None` and not shown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Machine {
    /// Seconds since 1970, as this machine's clock has it.
    pub(crate) clock_seconds: f64,
    /// Processor time.
    pub(crate) cpu_seconds: f64,
    /// Resident memory.
    pub(crate) rss_bytes: Option<u64>,
    /// The journal's file.
    pub(crate) journal_bytes: Option<u64>,
    /// The file system that holds the state, and what an ordinary user may still write there.
    pub(crate) disk_bytes: Option<(u64, u64)>,
}

impl Machine {
    /// As of now, for the state folder `state` with its `journal`.
    pub(crate) fn now(state: &Path, journal: &Path) -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            clock_seconds: since_1970.as_secs_f64(),
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 * 1e-9,
            rss_bytes: fs::read_to_string("/proc/self/status").ok().and_then(|status| rss(&status)),
            journal_bytes: fs::metadata(journal).ok().map(|journal| journal.len()),
            disk_bytes: rustix::fs::statvfs(state).ok().map(|disk| {
                let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
                (bytes(disk.f_blocks), bytes(disk.f_bavail))
            }),
        }
    }
}

fn rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("journal");
        fs::write(&journal, [0; 300]).unwrap();
        let machine = Machine::now(dir.path(), &journal);
        assert_eq!(machine.journal_bytes, Some(300));
        let (size, available) = machine.disk_bytes.unwrap();
        assert!(size > 0 && available <= size);
        assert!(machine.rss_bytes.unwrap() > 100_000 && machine.cpu_seconds > 0.0);
        assert!(machine.clock_seconds > 0.0);
        let gone = Machine::now(&dir.path().join("gone"), &dir.path().join("gone/journal"));
        assert_eq!((gone.journal_bytes, gone.disk_bytes), (None, None));
        assert_eq!(rss("Name:\tx\nVmRSS:\t   2048 kB\n"), Some(2_097_152));
        assert_eq!(rss("VmRSS: many"), None);
    }
}

//! Resident memory of this process, as Linux counts it.

/// Resident set of this process in bytes; 0 where `/proc` does not tell.
///
/// `VmRSS` of `/proc/self/status` is the figure of `/proc/self/statm` in kB instead of pages, so it needs
/// no page size (a Raspberry Pi 5 has pages of 16 KiB).
pub fn process_resident_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| resident_bytes(&status))
}

fn resident_bytes(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_resident_set_in_bytes() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\nVmData:\t 9 kB\n"), 2048 * 1024);
        assert_eq!(resident_bytes("Name:\tx\n"), 0);
        assert!(process_resident_bytes() > 100_000, "a running test occupies some memory");
    }
}

//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);
/// Long enough for anything that happens at all on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Looks until `probe` gives something, at most for `limit`.
///
/// # Errors
/// What was waited for, when the time is up.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() >= limit {
            return Err(format!("after {} s still no {what}", limit.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
}

/// [`within`] [`PATIENCE`], or the test ends.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).unwrap_or_else(|late| panic!("{late}"))
}

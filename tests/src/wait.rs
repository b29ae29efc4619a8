//! Waiting for a condition.

use std::env;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// Long enough for anything that happens at all on a busy two-core machine; `LOADONCE_PATIENCE_S` where the programs
/// are emulated.
pub fn patience() -> Duration {
    let seconds = env::var("LOADONCE_PATIENCE_S").ok();
    Duration::from_secs(
        seconds.map_or(60, |text| text.parse().expect("LOADONCE_PATIENCE_S is a number of seconds")),
    )
}

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

/// [`within`] [`patience`], or the test ends.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(patience(), what, probe).unwrap_or_else(|late| panic!("{late}"))
}

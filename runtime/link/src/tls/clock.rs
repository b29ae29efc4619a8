//! The time that certificates are checked against.

use std::fmt::{self, Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loadonce_trust::{Moment, TrustedTime};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// The build's date, seconds since 1970; see `build.rs`.
const BUILD_DATE: &str = env!("LOADONCE_BUILD_DATE");

/// The latest of the build's date, what was proven since, and the system's clock. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    time: Mutex<TrustedTime>,
    source: Box<dyn Fn() -> u64 + Send + Sync>,
    learned: Box<dyn Fn(u64) + Send + Sync>,
}

impl Debug for Clock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

fn system() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Clock {
    /// The system's clock, and nothing is remembered.
    pub fn system() -> Self {
        Self::remembering(0, |_| {})
    }

    /// The system's clock; `remembered` was proven before, and what is proven from now on is told to `learned`.
    pub fn remembering(remembered: u64, learned: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self::with(system, BUILD_DATE.parse().unwrap_or(0), remembered, learned)
    }

    /// A clock that shows what `source` says, in a program built at `build`.
    pub fn with(
        source: impl Fn() -> u64 + Send + Sync + 'static,
        build: u64,
        remembered: u64,
        learned: impl Fn(u64) + Send + Sync + 'static,
    ) -> Self {
        let time = Mutex::new(TrustedTime::new(build, remembered));
        Self(Arc::new(Inner { time, source: Box::new(source), learned: Box::new(learned) }))
    }

    /// The time as it is known.
    pub fn now(&self) -> Moment {
        let time = *self.0.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.at((self.0.source)())
    }

    /// Notes that this time, seconds since 1970, has passed for certain.
    pub fn learn(&self, passed: u64) {
        let news = self.0.time.lock().unwrap_or_else(PoisonError::into_inner).learn(passed);
        if news {
            (self.0.learned)(passed);
        }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now().seconds)))
    }
}

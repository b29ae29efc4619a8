//! The time that certificates are checked against, on a machine whose clock may say 1970.
//!
//! Nothing is known of the true time but that it is later than the *floor*: the build's date, and whatever was proven
//! since. A clock above the floor is believed. A clock below it is known to be wrong, and then only the end of a
//! certificate's validity can be checked, against the floor: its beginning may well lie between the floor and now.

/// What is known of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970-01-01, UTC; where the clock is wrong, the true time is this or later.
    pub seconds: u64,
    /// Whether the clock is believed.
    pub certain: bool,
}

/// The floor; see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedTime {
    floor: u64,
}

impl TrustedTime {
    /// From the build's date and the floor that was remembered, seconds since 1970.
    pub fn new(build: u64, remembered: u64) -> Self {
        Self { floor: build.max(remembered) }
    }

    /// Seconds since 1970 that have passed for certain.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Raises the floor to a time that somebody who is trusted says has passed; whether that is news. Never the
    /// clock's own: one wrong by decades would make every certificate look expired, for good.
    pub fn learn(&mut self, passed: u64) -> bool {
        let news = passed > self.floor;
        self.floor = self.floor.max(passed);
        news
    }

    /// What a clock is worth.
    pub fn at(&self, clock: u64) -> Moment {
        Moment { seconds: clock.max(self.floor), certain: clock >= self.floor }
    }
}

/// Seconds since 1970 as `2026-11-26 10:02 UTC`.
pub fn date(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let minute = seconds / 60 % 1440;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

/// Days since 1970-01-01 to year, month, day (Hinnant 2013, "chrono-compatible low-level date algorithms",
/// `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days.min(10_000_000) + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Seconds since 1970 of a date of the Gregorian calendar from 1970 on; `None` for what is none.
pub(crate) fn seconds(year: u64, month: u64, day: u64, of_day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || of_day >= 86_400 {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days =
        (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year).checked_sub(719_468)?;
    // A day that the month has not becomes one of the next month.
    (civil(days) == (year, month, day)).then_some(days * 86_400 + of_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 86_400;

    #[test]
    fn dates() {
        for (at, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_825_600, "2000-02-29 12:00 UTC"),
            (1_795_608_954, "2026-11-25 12:15 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
        ] {
            assert_eq!(date(at), text);
        }
        assert!(date(u64::MAX).ends_with("UTC"));
        for day in 0..60_000 {
            let (year, month, of_month) = civil(day);
            assert_eq!(seconds(year, month, of_month, 1), Some(day * 86_400 + 1));
        }
        for (year, month, day) in
            [(1969, 12, 31), (2026, 2, 29), (2026, 13, 1), (2026, 0, 1), (2026, 4, 31), (2026, 1, 0)]
        {
            assert_eq!(seconds(year, month, day, 0), None);
        }
    }

    #[test]
    fn invariant_16_a_clock_behind_what_is_proven_is_not_believed() {
        let mut time = TrustedTime::new(50 * YEAR, 0);
        assert_eq!(time.at(7), Moment { seconds: 50 * YEAR, certain: false });
        assert_eq!(time.at(51 * YEAR), Moment { seconds: 51 * YEAR, certain: true });
        // A clock that was wrong once leaves no trace.
        assert_eq!(time.at(99 * YEAR).seconds, 99 * YEAR);
        assert_eq!(time.floor(), 50 * YEAR);
        assert!(time.learn(52 * YEAR) && !time.learn(51 * YEAR));
        assert_eq!(time.at(51 * YEAR), Moment { seconds: 52 * YEAR, certain: false });
        assert_eq!(TrustedTime::new(50 * YEAR, 52 * YEAR), time);
    }
}

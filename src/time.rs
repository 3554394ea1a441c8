//! Time as numbers: an instant in milliseconds of a monotonic clock, and a calendar date.
//!
//! Knows no clock. The caller of a state machine reads the clock and passes the result in, so a test can
//! start at zero and simulate time. All modules use [`Instant`]; [`crate::http`] and the log of the
//! daemon use [`DateTime`].
//!
//! [`Instant`] is a number, unlike `std::time::Instant`, because it must fit in an atomic integer (see
//! [`crate::check`]).

use core::time::Duration;

/// A point on a monotonic clock, in milliseconds since an origin of the caller's choice.
///
/// All instants in one program must come from the same clock. Use a clock that does not count suspend
/// (`CLOCK_MONOTONIC` on Linux): on a suspended machine the loop that beats did not run either.
///
/// A counter that wraps around must be extended to 64 bits first. (32 bits of milliseconds wrap after
/// 49.7 days.) After a wrap, the last heartbeat before it would pass for another 49.7 days.
///
/// Arithmetic saturates at both ends and cannot panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Instant = Instant(0);
    /// The last instant, later than any time of a real clock.
    pub const MAX: Instant = Instant(u64::MAX);

    /// The instant `millis` milliseconds after the origin.
    #[inline]
    pub const fn from_millis(millis: u64) -> Self {
        Instant(millis)
    }

    /// Milliseconds since the origin.
    #[inline]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This instant moved forward by `duration`, rounded down to milliseconds; at most [`Instant::MAX`].
    #[inline]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        Instant(self.0.saturating_add(millis(duration)))
    }

    /// The time from `earlier` to this instant; zero if `earlier` is later.
    #[inline]
    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds in `duration`, at most `u64::MAX`.
pub(crate) const fn millis(duration: Duration) -> u64 {
    let millis = duration.as_millis();
    if millis > u64::MAX as u128 {
        u64::MAX
    } else {
        millis as u64
    }
}

/// A date and a time of day in UTC, for a header field or a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// The year, from 1970.
    pub year: u64,
    /// The month, from 1 to 12.
    pub month: u64,
    /// The day of the month, from 1.
    pub day: u64,
    /// The hour, from 0 to 23.
    pub hour: u64,
    /// The minute, from 0 to 59.
    pub minute: u64,
    /// The second, from 0 to 59: Unix time has no leap seconds.
    pub second: u64,
    /// Days since Sunday, from 0 to 6.
    pub weekday: u64,
}

impl DateTime {
    /// The date and time `seconds` after 1970-01-01T00:00:00Z, in the Gregorian calendar.
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date_from_days(days);
        DateTime {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4) % 7,
        }
    }
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// The calculation begins years in March. Then the leap day is the last of a year, and one formula gives
/// the lengths of all months. An era is the 400 years after which the calendar repeats.
const fn date_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    // Leap days come every 4 years, except every 100, except every 400.
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_up_to_the_end_of_9999_follows_the_day_before() {
        let (mut year, mut month, mut day, mut weekday) = (1970, 1, 1, 4);
        // A second calendar, which counts one day after the other.
        for days in 0..=2_932_896 {
            let date = DateTime::from_unix_seconds(days * 86_400);
            let found = (date.year, date.month, date.day, date.weekday);
            assert_eq!(found, (year, month, day, weekday), "day {days}");
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(is_leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
            weekday = (weekday + 1) % 7;
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn the_time_of_day_is_the_rest_of_the_day() {
        for (seconds, hour, minute, second) in [
            (0, 0, 0, 0),
            (59, 0, 0, 59),
            (60, 0, 1, 0),
            (3599, 0, 59, 59),
            (784_111_777, 8, 49, 37),
            (86_399, 23, 59, 59),
        ] {
            let time = DateTime::from_unix_seconds(seconds);
            assert_eq!(
                (time.hour, time.minute, time.second),
                (hour, minute, second)
            );
        }
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Instant::from_millis(u64::MAX - 1);
        assert_eq!(late.saturating_add(Duration::from_secs(1)), Instant::MAX);
        for long in [Duration::MAX, Duration::from_secs(u64::MAX)] {
            assert_eq!(Instant::ZERO.saturating_add(long), Instant::MAX);
        }
        assert_eq!(Instant::ZERO.saturating_since(late), Duration::ZERO);
        assert_eq!(
            late.saturating_since(Instant::ZERO),
            Duration::from_millis(u64::MAX - 1)
        );
    }
}

//! Time as a number: milliseconds of a monotonic clock with any origin.
//!
//! Knows no clock. Whoever drives a state machine reads one and passes the result in, so tests
//! start at zero and virtual time costs nothing. The number has to fit in an atomic (see
//! [`crate::check`]), which is why this is not `std::time::Instant`.

use core::time::Duration;

/// A point on a monotonic clock, in milliseconds since an origin of the caller's choice.
///
/// All instants that meet in one program must come from the same clock. Use one that does not
/// count suspend (`CLOCK_MONOTONIC` on Linux): a suspended node's loops were not running either.
/// A counter that wraps around (one of 32 bits in milliseconds does after 49.7 days) has to be widened
/// first: a heartbeat from before would pass until that time comes again.
/// Arithmetic saturates at both ends and cannot panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin of the clock.
    pub const ZERO: Instant = Instant(0);
    /// Later than anything a real clock says.
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

    /// How long after `earlier` this is; zero if it is not.
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

#[cfg(test)]
mod tests {
    use super::*;

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

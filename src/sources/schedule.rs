//! When each check is attempted, and when an attempt has taken too long.
//!
//! Pure: time in, what is due out. Attempts of one period begin at multiples of it, so that checks with the same
//! period share a wake-up. A check has at most one attempt at a time: while one hangs in the kernel, no other
//! begins.
//!
//! Called by [`super::engine`].

use std::time::Duration;

use healthz::Instant;

use super::spec::Timing;

/// The schedule of one check.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    timing: Timing,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No attempt runs; the next begins at this time.
    Waiting(Instant),
    /// An attempt runs since this time.
    Running(Instant),
    /// The attempt that began at `since` has taken longer than the timeout: it is about to be cancelled, or it cannot
    /// be cancelled and is waited for. At `reported` it was last reported.
    Hanging { since: Instant, reported: Instant },
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Begin an attempt. The schedule takes it as begun.
    Begin,
    /// The attempt has taken longer than the timeout. Cancel it and call [`Schedule::end`], or else wait for it.
    TimedOut,
    /// An attempt that could not be cancelled hangs since this long, and another one would be due.
    Hangs(Duration),
}

impl Schedule {
    /// A schedule whose first attempt begins `initial_delay` after `now`.
    pub fn new(timing: Timing, now: Instant) -> Self {
        let due = now.saturating_add(timing.initial_delay);
        Schedule {
            timing,
            phase: Phase::Waiting(due),
        }
    }

    /// The same, without the delay: for a check that was attempted before the worker was started again.
    pub fn without_delay(timing: Timing, now: Instant) -> Self {
        Schedule {
            timing,
            phase: Phase::Waiting(now),
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Instant {
        match self.phase {
            Phase::Waiting(due) => due,
            Phase::Running(since) => since.saturating_add(self.timing.timeout),
            Phase::Hanging { since, reported } => self.next_multiple(reported.max(since)),
        }
    }

    /// What is due at `now`, if anything. Call it until it returns `None`.
    pub fn take_due(&mut self, now: Instant) -> Option<Due> {
        if now < self.next() {
            return None;
        }
        let (phase, due) = match self.phase {
            Phase::Waiting(_) => (Phase::Running(now), Due::Begin),
            Phase::Running(since) => {
                let reported = now;
                (Phase::Hanging { since, reported }, Due::TimedOut)
            }
            Phase::Hanging { since, .. } => {
                let reported = now;
                let hangs = Due::Hangs(now.saturating_since(since));
                (Phase::Hanging { since, reported }, hangs)
            }
        };
        self.phase = phase;
        Some(due)
    }

    /// The attempt has ended, or was cancelled. Returns how long it took; `None` if none was running.
    pub fn end(&mut self, now: Instant) -> Option<Duration> {
        let since = self.running_since()?;
        // After a hang, the next attempt must not begin in the past.
        let due = self.next_multiple(since).max(now);
        self.phase = Phase::Waiting(due);
        Some(now.saturating_since(since))
    }

    /// When the present attempt began.
    pub fn running_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(_) => None,
            Phase::Running(since) | Phase::Hanging { since, .. } => Some(since),
        }
    }

    /// Whether the present attempt has taken longer than the timeout.
    pub fn has_timed_out(&self) -> bool {
        matches!(self.phase, Phase::Hanging { .. })
    }

    /// The first multiple of the period after `time`. So it is at most one period later.
    fn next_multiple(&self, time: Instant) -> Instant {
        let period = u64::try_from(self.timing.period.as_millis()).unwrap_or(u64::MAX);
        let passed = time.as_millis().checked_rem(period).unwrap_or(0);
        time.saturating_add(Duration::from_millis((period - passed).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn timing(initial_delay: u64, period: u64, timeout: u64) -> Timing {
        Timing {
            initial_delay: secs(initial_delay),
            period: secs(period),
            timeout: secs(timeout),
        }
    }

    #[test]
    fn attempts_begin_at_multiples_of_the_period() {
        let mut schedule = Schedule::new(timing(0, 10, 1), at(12_345));
        let mut begins = Vec::new();
        for _ in 0..3 {
            let now = schedule.next();
            assert_eq!(schedule.take_due(now), Some(Due::Begin));
            begins.push(now.as_millis());
            assert_eq!(schedule.end(now), Some(Duration::ZERO));
        }
        assert_eq!(begins, [12_345, 20_000, 30_000]);
    }

    #[test]
    fn an_initial_delay_comes_before_the_first_attempt_only() {
        let mut schedule = Schedule::new(timing(7, 10, 1), at(1_000));
        assert_eq!(schedule.take_due(at(7_999)), None);
        assert_eq!(schedule.take_due(at(8_000)), Some(Due::Begin));
        schedule.end(at(8_001));
        assert_eq!(schedule.next(), at(10_000));
        let schedule = Schedule::without_delay(timing(7, 10, 1), at(1_000));
        assert_eq!(schedule.next(), at(1_000));
    }

    #[test]
    fn an_attempt_that_hangs_is_reported_each_period_and_no_other_begins() {
        let mut schedule = Schedule::new(timing(0, 10, 1), at(0));
        assert_eq!(schedule.take_due(at(0)), Some(Due::Begin));
        assert_eq!(schedule.take_due(at(999)), None);
        assert_eq!(schedule.take_due(at(1_000)), Some(Due::TimedOut));
        for second in [10, 20, 30] {
            let now = at(second * 1000);
            assert_eq!(schedule.next(), now);
            assert_eq!(schedule.take_due(now), Some(Due::Hangs(secs(second))));
            assert_eq!(schedule.take_due(now), None);
        }
        assert_eq!(schedule.end(at(35_000)), Some(secs(35)));
        assert_eq!(schedule.next(), at(35_000));
        assert_eq!(schedule.take_due(at(35_000)), Some(Due::Begin));
        assert_eq!(schedule.end(at(35_000)), Some(Duration::ZERO));
        assert_eq!(schedule.next(), at(40_000));
    }

    #[test]
    fn an_end_without_an_attempt_changes_nothing() {
        let mut schedule = Schedule::new(timing(3, 10, 1), at(0));
        assert_eq!(schedule.end(at(1)), None);
        assert_eq!(schedule.next(), at(3_000));
    }

    #[test]
    fn the_largest_times_do_not_overflow() {
        let longest = Timing {
            initial_delay: Duration::MAX,
            period: Duration::MAX,
            timeout: Duration::MAX,
        };
        let mut schedule = Schedule::new(longest, at(5));
        assert_eq!(schedule.take_due(Instant::MAX), Some(Due::Begin));
        assert_eq!(schedule.take_due(Instant::MAX), Some(Due::TimedOut));
        schedule.end(Instant::MAX);
        assert_eq!(schedule.next(), Instant::MAX);
    }
}

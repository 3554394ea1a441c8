//! The kind `clock`: the kernel must consider the clock synchronised, within a limit of error.
//!
//! The estimate is the kernel's own. It grows by 500 ppm until something (chrony, ntpd, systemd-timesyncd) sets
//! the clock again; at 16 s the kernel calls the clock not synchronised.

use super::figures::{exact_time, time};
use super::system::words;
use crate::sources::spec::{Clock, Outcome};
use crate::sources::sys::{self, ClockState};

impl Clock {
    /// Checks the clock once.
    pub fn attempt(&self) -> Outcome {
        match sys::clock_state() {
            Ok(state) => self.judge(state),
            Err(error) => Outcome::Unsupported(format!("clock: adjtimex: {}", words(&error))),
        }
    }

    fn judge(&self, state: ClockState) -> Outcome {
        if !state.is_synchronised {
            return Outcome::Fail("clock is not synchronised".to_owned());
        }
        if state.max_error <= self.max_error {
            return Outcome::Pass;
        }
        let error = match state.max_error.as_secs() {
            // In ms, rounded up.
            0..=9 => format!("{} ms", state.max_error.as_micros().div_ceil(1000)),
            _ => time(state.max_error),
        };
        let limit = exact_time(self.max_error);
        Outcome::Fail(format!("clock may be wrong by {error}, limit {limit}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::reason;
    use super::*;

    #[test]
    fn the_kernels_estimate_is_compared() {
        let clock = Clock {
            max_error: Duration::from_secs(1),
        };
        let state = |is_synchronised, micros| ClockState {
            is_synchronised,
            max_error: Duration::from_micros(micros),
        };
        assert_eq!(clock.judge(state(true, 1_000_000)), Outcome::Pass);
        let text = reason(clock.judge(state(true, 1_000_001)));
        assert_eq!(text, "clock may be wrong by 1001 ms, limit 1 s");
        let text = reason(clock.judge(state(true, 15_500_000)));
        assert_eq!(text, "clock may be wrong by 16 s, limit 1 s");
        let text = reason(clock.judge(state(false, 0)));
        assert_eq!(text, "clock is not synchronised");
    }

    #[test]
    fn the_clock_of_this_machine_is_judged() {
        let max_error = Duration::from_secs(16);
        match (Clock { max_error }).attempt() {
            Outcome::Pass => {}
            Outcome::Fail(text) => assert!(text.starts_with("clock "), "{text}"),
            Outcome::Unsupported(text) => panic!("{text}"),
        }
    }
}

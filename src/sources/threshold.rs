//! How many results in which order change the state of a check.
//!
//! Pure: results in, state out. Called by [`super::engine`].

use super::spec::Threshold;

/// The state of a check, from the results of its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    passes: Option<bool>,
    /// The last 32 results, the newest in the lowest bit; 1 is a failure. The bits before the first result are
    /// successes.
    failures: u32,
    successes_in_row: u32,
}

impl State {
    /// Records one result and returns whether the check passes now.
    ///
    /// The first result decides at once. After that the state changes when a limit of `threshold` is reached.
    pub fn record(&mut self, is_success: bool, threshold: &Threshold) -> bool {
        self.failures = self.failures << 1 | u32::from(!is_success);
        self.successes_in_row = match is_success {
            true => self.successes_in_row.saturating_add(1),
            false => 0,
        };
        let passes = match self.passes {
            None => is_success,
            // Failures from before the last recovery count too, but only another failure ends a success.
            Some(true) => {
                is_success || self.failures_of_last(threshold.of_last) < threshold.failures
            }
            Some(false) => self.successes_in_row >= threshold.success,
        };
        self.passes = Some(passes);
        passes
    }

    /// Makes the check fail, whatever the results before. This is no result: [`State::record`] counts those.
    pub fn fail(&mut self) {
        self.successes_in_row = 0;
        self.passes = Some(false);
    }

    /// Whether the check passes; `None` before the first result.
    pub fn passes(&self) -> Option<bool> {
        self.passes
    }

    fn failures_of_last(&self, count: u32) -> u32 {
        let mask = u32::MAX.checked_shr(32 - count.clamp(1, 32)).unwrap_or(0);
        (self.failures & mask).count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states after each of `results`, both written as digits: 1 is a success.
    fn states(results: &str, success: u32, failures: u32, of_last: u32) -> String {
        let threshold = Threshold {
            success,
            failures,
            of_last,
        };
        let mut state = State::default();
        let digit = |passes: bool| if passes { '1' } else { '0' };
        let after = |result: char| digit(state.record(result == '1', &threshold));
        results.chars().map(after).collect()
    }

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(states("1", 3, 3, 3), "1");
        assert_eq!(states("0", 3, 3, 3), "0");
        assert_eq!(State::default().passes(), None);
    }

    #[test]
    fn below_the_threshold_the_state_stays() {
        assert_eq!(states("1001000011", 1, 3, 3), "1111110011");
        assert_eq!(states("1000110111", 3, 3, 3), "1110000001");
        assert_eq!(states("1011", 1, 1, 1), "1011");
    }

    /// Regression: a service that failed every second time was never reported.
    #[test]
    fn three_of_the_last_five_see_a_service_that_fails_every_second_time() {
        assert_eq!(states("101010", 1, 3, 3), "111111");
        assert_eq!(states("101010", 1, 3, 5), "111110");
        assert_eq!(states("1100111001", 1, 3, 5), "1111111111");
    }

    /// Regression: failures from before a recovery made the next success a failure.
    #[test]
    fn a_success_never_begins_a_failure() {
        assert_eq!(states("10001110", 1, 3, 5), "11101111");
        assert_eq!(states("1000110", 1, 3, 5), "1110110");
    }

    #[test]
    fn a_failure_by_force_needs_the_successes_of_any_other() {
        let threshold = Threshold {
            success: 2,
            failures: 3,
            of_last: 3,
        };
        let mut state = State::default();
        assert!(state.record(true, &threshold));
        state.fail();
        assert_eq!(state.passes(), Some(false));
        assert!(!state.record(true, &threshold));
        assert!(state.record(true, &threshold));
    }

    #[test]
    fn the_largest_window_has_all_bits() {
        let results = "1".repeat(40) + &"0".repeat(32);
        assert!(states(&results, 1, 32, 32).ends_with("10"));
    }
}

//! Counts of the attempts of a check that have ended and were not yet sent with a verdict.
//!
//! Pure. [`super::engine`] counts them, [`super::link`] carries them, and the daemon adds them to the check of the
//! server.

use std::time::Duration;

use healthz::check::RunResult;

/// Most runs of each result in one verdict: the server adds them one by one. The rest follows in the next verdict.
pub const RUNS_MAX: u32 = u16::MAX as u32;

/// Counts of runs by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    pub success: u32,
    pub failure: u32,
    pub timeout: u32,
    /// How long the last one took. Zero if there was none.
    pub last_micros: u64,
}

impl Runs {
    /// Counts one run.
    pub fn record(&mut self, result: RunResult, took: Duration) {
        let count = match result {
            RunResult::Success => &mut self.success,
            RunResult::Failure => &mut self.failure,
            RunResult::Timeout => &mut self.timeout,
        };
        *count = count.saturating_add(1);
        self.last_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    }

    pub fn is_empty(&self) -> bool {
        self.counts() == [0; 3]
    }

    /// Takes at most [`RUNS_MAX`] of each result.
    pub fn take(&mut self) -> Runs {
        let most = |count: &mut u32| {
            let taken = (*count).min(RUNS_MAX);
            *count -= taken;
            taken
        };
        let taken = Runs {
            success: most(&mut self.success),
            failure: most(&mut self.failure),
            timeout: most(&mut self.timeout),
            last_micros: self.last_micros,
        };
        if self.is_empty() {
            *self = Runs::default();
        }
        taken
    }

    /// Gives back what [`take`](Runs::take) has returned, because it could not be sent. No run was recorded since.
    pub fn put_back(&mut self, taken: &Runs) {
        self.success = self.success.saturating_add(taken.success);
        self.failure = self.failure.saturating_add(taken.failure);
        self.timeout = self.timeout.saturating_add(taken.timeout);
        self.last_micros = taken.last_micros;
    }

    /// In the order of their fields.
    pub fn counts(&self) -> [u32; 3] {
        [self.success, self.failure, self.timeout]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_run_is_lost_if_there_are_more_than_a_verdict_can_carry() {
        let mut runs = Runs {
            success: 2 * RUNS_MAX + 1,
            ..Runs::default()
        };
        runs.record(RunResult::Failure, Duration::from_micros(1500));
        let mut sum = [0; 3];
        while !runs.is_empty() {
            let taken = runs.take();
            assert_eq!(taken.last_micros, 1500);
            // The link is full once.
            runs.put_back(&taken);
            let again = runs.take();
            assert_eq!(again, taken);
            for (sum, count) in sum.iter_mut().zip(again.counts()) {
                assert!(count <= RUNS_MAX);
                *sum += count;
            }
        }
        assert_eq!(sum, [2 * RUNS_MAX + 1, 1, 0]);
        assert_eq!(runs, Runs::default());
    }
}

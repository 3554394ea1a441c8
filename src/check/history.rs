//! What has happened to a check: changes of its state, beats, runs, and its results in probes.
//!
//! Nothing here decides an answer. [`super::Check`] writes it, and metrics and the answers in JSON read it. Each number
//! is an atomic of its own, so a reader may see one of them before another.

use core::time::Duration;

// Not loom's: no other memory is published through these.
use super::atomic::plain::{AtomicU64, Ordering};
use super::endpoint::EndpointType;
use crate::time::Instant;

/// How one run of the test behind a check has ended; see [`Check::record_run`](super::Check::record_run).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunResult {
    /// The test succeeded.
    Success,
    /// The test failed.
    Failure,
    /// The run did not end within its timeout.
    Timeout,
}

/// The runs of the test behind a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs that succeeded.
    pub success: u64,
    /// Runs that failed.
    pub failure: u64,
    /// Runs that did not end within their timeout.
    pub timeout: u64,
    /// How long the last run took, in whole microseconds.
    pub last_duration: Duration,
}

/// A number that one thread at a time increases. A load and a store cost less than an atomic addition.
struct Count(AtomicU64);

impl Count {
    const fn zero() -> Self {
        Count(AtomicU64::new(0))
    }

    #[inline]
    fn increase(&self) {
        self.set(self.get().wrapping_add(1));
    }

    #[inline]
    fn decrease(&self) {
        // Two threads that count for one check may lose counts, which must not become a huge number.
        self.set(self.get().saturating_sub(1));
    }

    #[inline]
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
pub(super) struct History {
    /// Results of the check in requests for its endpoints, by [`EndpointType`].
    successes: [Count; EndpointType::COUNT],
    errors: [Count; EndpointType::COUNT],
    /// Twice the number of changes, plus one if the check passed when it was last observed. Both are in one number, so
    /// that a change which two threads observe is counted once.
    observed: AtomicU64,
    /// `observed` when metrics were last rendered, so that all lines of a text agree.
    rendered: Count,
    /// Unix time of the last change in seconds; 0 if there was none, or if the time was not known.
    changed_at: Count,
    /// One more than the time of the last beat in milliseconds of the monotonic clock; 0 if there was none.
    beaten_at: Count,
    /// Unix time of the last beat that was reported by [`super::Check::record_beat`]; 0 if there was none.
    reported_beat: Count,
    /// By [`RunResult`].
    runs: [Count; 3],
    last_run_micros: Count,
}

impl History {
    /// The history of a new check. `passes`: its state now.
    pub(super) const fn new(passes: bool) -> Self {
        History {
            successes: [const { Count::zero() }; EndpointType::COUNT],
            errors: [const { Count::zero() }; EndpointType::COUNT],
            observed: AtomicU64::new(passes as u64),
            rendered: Count::zero(),
            changed_at: Count::zero(),
            beaten_at: Count::zero(),
            reported_beat: Count::zero(),
            runs: [const { Count::zero() }; 3],
            last_run_micros: Count::zero(),
        }
    }

    /// Counts a change if the state differs from the one that was observed before. `passes` is called once.
    pub(super) fn observe(&self, passes: impl FnOnce() -> bool, unix_seconds: Option<u64>) -> bool {
        // Loaded before the state: if another thread observes a later state meanwhile, the exchange fails.
        let observed = self.observed.load(Ordering::Acquire);
        let passes = passes();
        let is_change = (observed & 1 == 1) != passes;
        let next = (observed.wrapping_add(2) & !1) | u64::from(passes);
        if is_change && self.exchange(observed, next) {
            self.changed_at.set(unix_seconds.unwrap_or(0));
        }
        passes
    }

    fn exchange(&self, before: u64, after: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let exchanged = self
            .observed
            .compare_exchange(before, after, success, failure);
        exchanged.is_ok()
    }

    /// Keeps what was observed last, for the lines of metrics that are rendered next.
    pub(super) fn keep_for_rendering(&self) {
        self.rendered.set(self.observed.load(Ordering::Acquire));
    }

    /// Whether the check passed, and how often its state had changed, when it was kept for rendering.
    pub(super) fn kept_for_rendering(&self) -> (bool, u64) {
        let observed = self.rendered.get();
        (observed & 1 == 1, observed >> 1)
    }

    pub(super) fn changes(&self) -> u64 {
        self.observed.load(Ordering::Acquire) >> 1
    }

    pub(super) fn last_change(&self) -> Option<u64> {
        Some(self.changed_at.get()).filter(|seconds| *seconds != 0)
    }

    #[inline]
    pub(super) fn beat(&self, now: Instant) {
        self.beaten_at.set(now.as_millis().saturating_add(1));
    }

    pub(super) fn last_beat(&self) -> Option<Instant> {
        let millis = self.beaten_at.get().checked_sub(1)?;
        Some(Instant::from_millis(millis))
    }

    pub(super) fn record_beat(&self, unix_seconds: u64) {
        self.reported_beat.set(unix_seconds);
    }

    pub(super) fn reported_beat(&self) -> Option<u64> {
        Some(self.reported_beat.get()).filter(|seconds| *seconds != 0)
    }

    pub(super) fn record_run(&self, result: RunResult, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.last_run_micros.set(micros);
        let [success, failure, timeout] = &self.runs;
        match result {
            RunResult::Success => success.increase(),
            RunResult::Failure => failure.increase(),
            RunResult::Timeout => timeout.increase(),
        }
    }

    pub(super) fn runs(&self) -> Option<Runs> {
        let [success, failure, timeout] = &self.runs;
        let runs = Runs {
            success: success.get(),
            failure: failure.get(),
            timeout: timeout.get(),
            last_duration: Duration::from_micros(self.last_run_micros.get()),
        };
        (runs.success | runs.failure | runs.timeout != 0).then_some(runs)
    }

    #[inline]
    pub(super) fn count_success(&self, endpoint: EndpointType) {
        if let Some(count) = self.successes.get(endpoint as usize) {
            count.increase();
        }
    }

    #[inline]
    pub(super) fn uncount_success(&self, endpoint: EndpointType) {
        if let Some(count) = self.successes.get(endpoint as usize) {
            count.decrease();
        }
    }

    pub(super) fn count_error(&self, endpoint: EndpointType) {
        if let Some(count) = self.errors.get(endpoint as usize) {
            count.increase();
        }
    }

    /// How often the check passed and failed in requests for an endpoint of this type.
    pub(super) fn results(&self, endpoint: EndpointType) -> (u64, u64) {
        let get = |counts: &[Count]| counts.get(endpoint as usize).map_or(0, Count::get);
        (get(&self.successes), get(&self.errors))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_counted_once_with_its_time() {
        let history = History::new(false);
        assert!(!history.observe(|| false, Some(1)));
        assert_eq!((history.changes(), history.last_change()), (0, None));
        assert!(history.observe(|| true, Some(2)));
        assert!(history.observe(|| true, Some(3)));
        assert_eq!((history.changes(), history.last_change()), (1, Some(2)));
        assert!(!history.observe(|| false, None));
        assert_eq!((history.changes(), history.last_change()), (2, None));
    }

    /// Regression: another thread observed a change while metrics were written, and one check had two states in a text.
    #[test]
    fn what_is_kept_for_rendering_does_not_change_with_the_state() {
        let history = History::new(true);
        history.observe(|| false, Some(1));
        history.keep_for_rendering();
        history.observe(|| true, Some(2));
        assert_eq!(history.kept_for_rendering(), (false, 1));
        history.keep_for_rendering();
        assert_eq!(history.kept_for_rendering(), (true, 2));
    }

    /// Two threads observe the same change, and one of them was interrupted before it counted.
    #[test]
    fn a_state_observed_before_a_later_one_is_not_a_change() {
        let history = History::new(true);
        // While the outer one reads that the check passes, another thread sees it fail.
        history.observe(
            || {
                history.observe(|| false, Some(1));
                true
            },
            Some(1),
        );
        assert_eq!(history.changes(), 1);
        // Both see the same failure.
        let history = History::new(true);
        history.observe(|| history.observe(|| false, Some(1)), Some(1));
        assert_eq!(history.changes(), 1);
    }
}

//! The checks: when they are attempted, and which results are reported.
//!
//! Pure: time and outcomes in; actions, verdicts and sets of checks out. Knows no file, socket or thread. The worker
//! does what the actions say. The simulation drives it with virtual time.
//!
//! When the check file is read again, checks whose [`Spec`] is the same keep everything. The others are attempted
//! beside the old ones. Only when each of them has a result, or after a few seconds, the new set replaces the old
//! one. So no check is missing or without a state meanwhile.

use std::sync::Arc;
use std::time::Duration;

use healthz::Instant;
use healthz::check::RunResult;

use super::runs::Runs;
use super::schedule::{Due, Schedule};
use super::spec::{Kind, Outcome, Spec, Unsupported};
use super::threshold::State;
use crate::units::Shown;

/// Longest wait for the first result of a new check when the check file is read again. Most time-outs are shorter.
const STAGING_DURATION_MAX: Duration = Duration::from_secs(10);

/// A number that is never used again for another check, as long as the worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u32);

/// An action for the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A check was added: open its socket or file.
    Open(Id),
    /// Begin an attempt, and call [`Engine::end`] with its outcome.
    Begin(Id),
    /// The attempt has taken too long: cancel it, and call [`Engine::end`] with the reason.
    Cancel(Id),
    /// The check was removed: close everything of it. The outcome of a blocking attempt is ignored.
    Close(Id),
}

/// A change for the log that no verdict carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

/// A check and its state.
#[derive(Debug)]
pub struct Entry {
    pub id: Id,
    pub spec: Arc<Spec>,
    schedule: Schedule,
    /// The first attempt begins after the initial delay.
    is_delayed: bool,
    state: State,
    /// The reason of the last failed attempt.
    failure: Option<String>,
    /// Whether the last attempt succeeded.
    has_succeeded: bool,
    /// When the last result was measured; `None` before the first.
    measured: Option<Instant>,
    /// The result, or a part of `runs`, was not reported yet.
    is_unreported: bool,
    /// Attempts that have ended and were not reported yet.
    runs: Runs,
    /// The attempt that runs has timed out and cannot be cancelled: its result comes too late.
    is_late: bool,
    /// `unsupported = "warn"` was logged.
    has_warned: bool,
    /// Its number in the set that is used; `None` if it is new.
    index: Option<u16>,
    /// Its number in the set that will be used.
    next_index: Option<u16>,
}

/// One verdict that has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub index: u16,
    /// Why the check fails; `None` if it passes.
    pub failure: Option<String>,
    pub measured: Instant,
    /// Attempts that have ended since the previous report.
    pub runs: Runs,
}

/// A set of checks that replaces the previous one.
#[derive(Clone, Debug)]
pub struct Commit {
    pub generation: u32,
    /// The checks in order; true if the spec is the same as before.
    pub checks: Vec<(Arc<Spec>, bool)>,
    /// The results of all checks that have one.
    pub reports: Vec<Report>,
    /// What has changed, for the log.
    pub text: String,
}

/// All checks.
#[derive(Debug)]
pub struct Engine {
    entries: Vec<Entry>,
    generation: u32,
    next_id: u32,
    /// Checks were read that are not used yet. What has changed, for the log.
    staging: Option<String>,
    actions: Vec<Action>,
    warnings: Vec<Warning>,
}

impl Engine {
    /// Checks for `specs`, attempted at once, or after their initial delay unless `is_restart`.
    pub fn new(specs: Vec<Spec>, generation: u32, now: Instant, is_restart: bool) -> Self {
        let mut engine = Engine {
            entries: Vec::new(),
            generation,
            next_id: 0,
            staging: None,
            actions: Vec::new(),
            warnings: Vec::new(),
        };
        for (spec, index) in specs.into_iter().zip(0..) {
            let entry = engine.entry(spec, is_restart, now);
            engine.entries.push(Entry {
                index: Some(index),
                ..entry
            });
        }
        engine
    }

    /// A new check. `has_waited`: its first attempt begins without the initial delay.
    fn entry(&mut self, spec: Spec, has_waited: bool, now: Instant) -> Entry {
        let schedule = match has_waited {
            true => Schedule::without_delay(spec.timing, now),
            false => Schedule::new(spec.timing, now),
        };
        let id = Id(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.actions.push(Action::Open(id));
        Entry {
            id,
            is_delayed: !has_waited && !spec.timing.initial_delay.is_zero(),
            spec: Arc::new(spec),
            schedule,
            state: State::default(),
            failure: None,
            has_succeeded: false,
            measured: None,
            is_unreported: false,
            runs: Runs::default(),
            is_late: false,
            has_warned: false,
            index: None,
            next_index: None,
        }
    }

    /// Begins to replace the checks by those of `specs`. A replacement that has begun before is given up.
    pub fn replace(&mut self, specs: Vec<Spec>, now: Instant) {
        self.abandon();
        let (mut added, mut changed) = (0, 0);
        for (spec, index) in specs.into_iter().zip(0..) {
            let old = self
                .entries
                .iter_mut()
                .find(|entry| entry.spec.name == spec.name);
            let has_waited = match old {
                Some(entry) if *entry.spec == spec => {
                    entry.next_index = Some(index);
                    continue;
                }
                Some(entry) => {
                    changed += 1;
                    // With a delay, a check that passes would fail until its end: the new one has no result before.
                    entry.measured.is_some()
                }
                None => {
                    added += 1;
                    false
                }
            };
            let entry = self.entry(spec, has_waited, now);
            self.entries.push(Entry {
                next_index: Some(index),
                ..entry
            });
        }
        let is_current = |entry: &&Entry| entry.index.is_some() && entry.next_index.is_none();
        let gone = self.entries.iter().filter(is_current).count();
        let removed = gone.saturating_sub(changed);
        self.staging = Some(format!(
            "{added} added, {changed} changed, {removed} removed"
        ));
    }

    /// Gives up a replacement that was not committed.
    fn abandon(&mut self) {
        self.staging = None;
        let actions = &mut self.actions;
        self.entries.retain_mut(|entry| {
            entry.next_index = None;
            let is_used = entry.index.is_some();
            if !is_used {
                actions.push(Action::Close(entry.id));
            }
            is_used
        });
    }

    /// The set that replaces the previous one, when it is ready.
    pub fn commit(&mut self, now: Instant) -> Option<Commit> {
        if self.entries.iter().any(|entry| entry.is_awaited(now)) {
            return None;
        }
        let text = self.staging.take()?;
        let kept: Vec<Id> = self
            .entries
            .iter()
            .filter(|entry| entry.index.is_some())
            .map(|entry| entry.id)
            .collect();
        let actions = &mut self.actions;
        self.entries.retain_mut(|entry| {
            entry.index = entry.next_index.take();
            let is_used = entry.index.is_some();
            if !is_used {
                actions.push(Action::Close(entry.id));
            }
            is_used
        });
        // The general sort of std would be 8 KiB of code for entries of this size.
        for place in 0..self.entries.len() {
            let number = u16::try_from(place).ok();
            let found = self.entries.iter().position(|entry| entry.index == number);
            if let Some(found) = found {
                self.entries.swap(place, found);
            }
        }
        self.generation = self.generation.wrapping_add(1);
        let mut commit = self.whole_set(text);
        for ((_, is_kept), entry) in commit.checks.iter_mut().zip(&self.entries) {
            *is_kept = kept.contains(&entry.id);
        }
        Some(commit)
    }

    /// The set that is used, with all results, for a server that may have another one.
    pub fn whole_set(&mut self, text: String) -> Commit {
        let checks = self
            .entries
            .iter()
            .map(|entry| (Arc::clone(&entry.spec), false))
            .collect();
        let reports = self.entries.iter_mut().filter_map(Entry::report).collect();
        Commit {
            generation: self.generation,
            checks,
            reports,
            text,
        }
    }

    /// The number of the set that is used.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The check with this number in the set that is used.
    pub fn id(&self, index: u16) -> Option<Id> {
        let entry = self
            .entries
            .iter()
            .find(|entry| entry.index == Some(index))?;
        Some(entry.id)
    }

    /// The checks of both sets.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// When the last of the attempts that run began.
    pub fn last_begun(&self) -> Option<Instant> {
        let since = |entry: &Entry| entry.schedule.running_since();
        self.entries.iter().filter_map(since).max()
    }

    /// Whether [`report`](Engine::report) has a result.
    pub fn has_report(&self) -> bool {
        let is_due = |entry: &Entry| entry.is_unreported && entry.index.is_some();
        self.entries.iter().any(is_due)
    }

    /// Whether no attempt runs and no set is about to be replaced.
    pub fn is_at_rest(&self) -> bool {
        let is_running = |entry: &Entry| entry.schedule.running_since().is_some();
        self.staging.is_none() && !self.entries.iter().any(is_running)
    }

    /// When [`advance`](Engine::advance) has to be called.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.entries.iter().map(|entry| entry.schedule.next());
        let awaited = self.entries.iter().filter_map(Entry::awaited_until);
        due.chain(awaited.filter(|until| now < *until)).min()
    }

    /// Starts the actions that are due at `now`. Then take them from [`action`](Engine::action).
    pub fn advance(&mut self, now: Instant) {
        for entry in &mut self.entries {
            while let Some(due) = entry.schedule.take_due(now) {
                match due {
                    Due::Begin => self.actions.push(Action::Begin(entry.id)),
                    Due::TimedOut if entry.can_be_cancelled() => {
                        self.actions.push(Action::Cancel(entry.id))
                    }
                    Due::TimedOut => {
                        entry.is_late = true;
                        let since = entry.schedule.running_since().unwrap_or(now);
                        // The loop was late, or the process was stopped: another attempt would be due already.
                        if now.saturating_since(since) >= entry.spec.timing.period {
                            entry.state.fail();
                        }
                        let timeout = Shown(entry.spec.timing.timeout);
                        let reason = format!("no result within {timeout}");
                        let took = now.saturating_since(since);
                        entry.runs.record(RunResult::Timeout, took);
                        entry.record(Err(reason), now);
                    }
                    Due::Hangs(duration) => {
                        entry.state.fail();
                        let reason = format!(
                            "no result for {} s, it hangs in the kernel",
                            duration.as_secs()
                        );
                        // The attempt was recorded when it timed out.
                        entry.replace_result(Err(reason), now);
                    }
                }
                // A cancelled attempt ends by a call of `end`.
                if entry.can_be_cancelled() {
                    break;
                }
            }
        }
    }

    /// The next thing to do.
    pub fn action(&mut self) -> Option<Action> {
        match self.actions.is_empty() {
            true => None,
            false => Some(self.actions.remove(0)),
        }
    }

    /// An attempt has ended, after the time that it `took`. Late outcomes, and those of removed checks, are ignored.
    pub fn end(&mut self, id: Id, outcome: Outcome, now: Instant, took: Duration) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else {
            return;
        };
        // Only an attempt that is cancelled ends like this: `advance` has recorded the others.
        let has_timed_out = entry.schedule.has_timed_out();
        if entry.schedule.end(now).is_none() || std::mem::take(&mut entry.is_late) {
            return;
        }
        let is_success = entry.take(outcome, now, &mut self.warnings);
        // A heartbeat is not run: its programs send.
        if !matches!(entry.spec.kind, Kind::Heartbeat(_)) {
            let result = match (has_timed_out, is_success) {
                (true, _) => RunResult::Timeout,
                (false, true) => RunResult::Success,
                (false, false) => RunResult::Failure,
            };
            entry.runs.record(result, took);
        }
    }

    /// A check that listens has another outcome than at its last attempt.
    pub fn change(&mut self, id: Id, outcome: Outcome, now: Instant) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else {
            return;
        };
        let passes = outcome == Outcome::Pass;
        if entry.measured.is_some() && passes == entry.has_succeeded {
            return;
        }
        entry.take(outcome, now, &mut self.warnings);
    }

    /// A result of a check of the set that is used, if it was not reported yet.
    pub fn report(&mut self) -> Option<Report> {
        let is_due = |entry: &&mut Entry| entry.is_unreported && entry.index.is_some();
        self.entries.iter_mut().find(is_due)?.report()
    }

    /// The report could not be sent: it is due again.
    pub fn unreport(&mut self, report: &Report) {
        let index = Some(report.index);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.index == index) {
            entry.is_unreported = true;
            entry.runs.put_back(&report.runs);
        }
    }

    /// A warning for the log.
    pub fn warning(&mut self) -> Option<Warning> {
        self.warnings.pop()
    }
}

impl Entry {
    /// Whether the set that will be used waits for the first result of this check.
    fn is_awaited(&self, now: Instant) -> bool {
        let is_new = self.index.is_none() && self.measured.is_none();
        // An attempt that has not begun will begin with the next advance.
        is_new && !self.is_delayed && self.awaited_until().is_none_or(|until| now < until)
    }

    /// When the wait ends without a result.
    fn awaited_until(&self) -> Option<Instant> {
        let since = self
            .schedule
            .running_since()
            .filter(|_| self.index.is_none())?;
        Some(since.saturating_add(STAGING_DURATION_MAX))
    }

    /// Whether an attempt can be cancelled; those that block in the kernel cannot.
    pub fn can_be_cancelled(&self) -> bool {
        matches!(
            self.spec.kind,
            Kind::Tcp(_)
                | Kind::Unix(_)
                | Kind::Http(_)
                | Kind::Exec(_)
                | Kind::Heartbeat(_)
                | Kind::Pressure(_)
        )
    }

    /// Its number in the set that is used.
    #[cfg(test)]
    pub fn index(&self) -> Option<u16> {
        self.index
    }

    /// Whether the result of the present attempt comes too late.
    #[cfg(test)]
    pub fn is_late(&self) -> bool {
        self.is_late
    }

    /// Returns whether it is a success for this check.
    fn take(&mut self, outcome: Outcome, now: Instant, warnings: &mut Vec<Warning>) -> bool {
        let result = match (outcome, self.spec.unsupported) {
            (Outcome::Pass, _) | (Outcome::Unsupported(_), Unsupported::Skip) => Ok(()),
            (Outcome::Unsupported(reason), Unsupported::Warn) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    let name = &self.spec.name;
                    warnings.push(Warning(format!(
                        "check {name} passes without being checked: {reason}"
                    )));
                }
                Ok(())
            }
            (Outcome::Fail(reason), _) | (Outcome::Unsupported(reason), Unsupported::Fail) => {
                Err(reason)
            }
        };
        self.record(result, now);
        self.has_succeeded
    }

    fn record(&mut self, result: Result<(), String>, now: Instant) {
        self.state.record(result.is_ok(), &self.spec.threshold);
        self.replace_result(result, now);
    }

    fn replace_result(&mut self, result: Result<(), String>, now: Instant) {
        self.has_succeeded = result.is_ok();
        // Below the threshold of successes, the last reason stands.
        if let Err(reason) = result {
            self.failure = Some(reason);
        }
        self.measured = Some(now);
        self.is_unreported = true;
    }

    fn report(&mut self) -> Option<Report> {
        let (index, measured) = (self.index?, self.measured?);
        let failure = match self.state.passes()? {
            true => None,
            false => Some(self.failure.clone().unwrap_or_default()),
        };
        let runs = self.runs.take();
        self.is_unreported = !self.runs.is_empty();
        Some(Report {
            index,
            failure,
            measured,
            runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::config;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    const MS: Duration = Duration::from_millis(1);

    /// One check, whose first attempt has begun.
    fn begun(check: &str) -> (Engine, Id) {
        let specs = config::parse(&[check.into()], None).unwrap();
        let mut engine = Engine::new(specs, 0, at(0), false);
        engine.advance(at(0));
        let id = engine.id(0).unwrap();
        assert_eq!(engine.action(), Some(Action::Open(id)));
        assert_eq!(engine.action(), Some(Action::Begin(id)));
        (engine, id)
    }

    fn runs(engine: &mut Engine) -> Option<([u32; 3], u64)> {
        let report = engine.report()?;
        Some((report.runs.counts(), report.runs.last_micros))
    }

    #[test]
    fn a_run_counts_by_its_own_result_whatever_the_threshold_is() {
        let (mut engine, id) = begun("a=tcp:127.0.0.1:1,period=1s,timeout=1s,failure-threshold=3");
        engine.end(id, Outcome::Pass, at(1), MS);
        engine.advance(at(1000));
        engine.end(id, Outcome::Fail("refused".to_owned()), at(1001), 2 * MS);
        // Both are in one verdict, which passes.
        let report = engine.report().unwrap();
        assert_eq!((report.runs.counts(), report.failure), ([1, 1, 0], None));
        assert_eq!(report.runs.last_micros, 2000);
        assert_eq!(engine.report(), None);
    }

    #[test]
    fn an_attempt_that_is_cancelled_is_a_timeout() {
        let (mut engine, id) = begun("a=tcp:127.0.0.1:1,period=1s,timeout=500ms");
        while engine.action().is_some() {}
        engine.advance(at(500));
        assert_eq!(engine.action(), Some(Action::Cancel(id)));
        let reason = "no result within 500ms".to_owned();
        engine.end(id, Outcome::Fail(reason), at(501), 501 * MS);
        assert_eq!(runs(&mut engine), Some(([0, 0, 1], 501_000)));
    }

    #[test]
    fn an_attempt_that_hangs_is_one_timeout_when_its_time_has_passed() {
        let (mut engine, id) = begun("a=file:/a,period=1s,timeout=500ms");
        engine.advance(at(500));
        assert_eq!(runs(&mut engine), Some(([0, 0, 1], 500_000)));
        // It hangs for two more periods, and then has a result.
        for time in [1000, 2000] {
            engine.advance(at(time));
            assert_eq!(runs(&mut engine), Some(([0; 3], 0)));
        }
        engine.end(id, Outcome::Pass, at(2500), 2500 * MS);
        assert_eq!(runs(&mut engine), None);
        engine.advance(at(3000));
        engine.end(id, Outcome::Pass, at(3001), MS);
        assert_eq!(runs(&mut engine), Some(([1, 0, 0], 1000)));
    }

    #[test]
    fn runs_of_a_report_that_was_not_sent_are_in_the_next_one() {
        let (mut engine, id) = begun("a=file:/a,period=1s");
        engine.end(id, Outcome::Pass, at(1), MS);
        let report = engine.report().unwrap();
        engine.unreport(&report);
        assert_eq!(engine.report(), Some(report));
    }

    #[test]
    fn a_heartbeat_has_no_runs() {
        let (mut engine, id) = begun("a=heartbeat");
        engine.end(id, Outcome::Pass, at(1), MS);
        assert_eq!(runs(&mut engine), Some(([0; 3], 0)));
    }

    #[test]
    fn a_new_check_is_awaited_for_ten_seconds_of_its_first_attempt() {
        let (mut engine, id) = begun("a=tcp:127.0.0.1:1,period=1s,timeout=500ms");
        assert_eq!(engine.next(at(0)), Some(at(500)));
        assert_eq!(engine.last_begun(), Some(at(0)));
        assert!(!engine.is_at_rest() && !engine.has_report());
        engine.end(id, Outcome::Pass, at(1), MS);
        assert_eq!(
            (engine.next(at(1)), engine.last_begun()),
            (Some(at(1000)), None)
        );
        assert!(engine.is_at_rest() && engine.has_report());
        assert!(engine.report().is_some());
        let new = "b=file:/b,period=60s,timeout=50s".into();
        let specs = config::parse(&[new], None).unwrap();
        engine.replace(specs, at(1));
        engine.advance(at(1));
        assert_eq!(
            (engine.next(at(1)), engine.last_begun()),
            (Some(at(1000)), Some(at(1)))
        );
        // Its result is of no use to the set that is used.
        assert!(!engine.is_at_rest() && !engine.has_report());
        let removed = |engine: &mut Engine, now| {
            engine.advance(now);
            engine.end(id, Outcome::Pass, now, MS);
            engine.next(now)
        };
        assert_eq!(removed(&mut engine, at(9_500)), Some(at(10_000)));
        assert_eq!(removed(&mut engine, at(10_000)), Some(at(10_001)));
        assert!(engine.commit(at(10_000)).is_none());
        assert_eq!(removed(&mut engine, at(10_001)), Some(at(11_000)));
        let commit = engine.commit(at(10_001)).unwrap();
        assert_eq!((commit.generation, engine.generation()), (1, 1));
        assert_eq!(commit.text, "1 added, 0 changed, 1 removed");
        assert_eq!(engine.next(at(10_001)), Some(at(50_001)));
        assert!(engine.commit(at(10_001)).is_none());
    }

    #[test]
    fn what_a_replacement_changes_is_counted() {
        let specs = |checks: &[&str]| {
            let checks: Vec<_> = checks.iter().map(Into::into).collect();
            config::parse(&checks, None).unwrap()
        };
        let before = specs(&[
            "a=clock", "b=clock", "c=clock", "d=clock", "e=clock", "f=clock",
        ]);
        let mut engine = Engine::new(before, 7, at(0), false);
        let after = specs(&[
            "a=clock", "b=memory", "c=memory", "g=memory", "h=clock", "i=clock",
        ]);
        engine.replace(after, at(0));
        engine.advance(at(0));
        while let Some(action) = engine.action() {
            if let Action::Begin(id) = action {
                engine.end(id, Outcome::Pass, at(0), MS);
            }
        }
        let commit = engine.commit(at(0)).unwrap();
        assert_eq!(commit.text, "3 added, 2 changed, 3 removed");
        assert_eq!((commit.generation, engine.generation()), (8, 8));
        let kept: Vec<bool> = commit.checks.iter().map(|(_, is_kept)| *is_kept).collect();
        assert_eq!(kept, [true, false, false, false, false, false]);
    }

    /// The attempt that hangs ends now, and the next one succeeds. The failure after that is the second one among the
    /// last five results.
    fn assert_passes_after_one_failure_more(engine: &mut Engine, id: Id, now: u64) {
        let refused = Outcome::Fail("refused".to_owned());
        engine.end(id, Outcome::Pass, at(now), MS);
        for (begin, outcome) in [(now, Outcome::Pass), (now + 1000, refused)] {
            engine.advance(at(begin));
            engine.end(id, outcome, at(begin + 1), MS);
            assert_eq!(engine.report().unwrap().failure, None);
        }
    }

    /// Regression: an attempt that hung counted as two failures.
    #[test]
    fn an_attempt_that_hangs_is_one_failure_for_the_threshold() {
        let (mut engine, id) = begun("a=file:/a,period=1s,timeout=1s,failure-threshold=3/5");
        engine.end(id, Outcome::Pass, at(1), MS);
        engine.advance(at(1000));
        engine.advance(at(2000));
        assert!(engine.report().unwrap().failure.is_some());
        assert_passes_after_one_failure_more(&mut engine, id, 2100);
    }

    #[test]
    fn an_attempt_that_hangs_for_periods_is_one_failure_for_the_threshold() {
        let (mut engine, id) = begun("a=file:/a,period=1s,timeout=500ms,failure-threshold=3/5");
        engine.end(id, Outcome::Pass, at(1), MS);
        engine.advance(at(1000));
        // Late, but another attempt is not due yet.
        engine.advance(at(1500));
        assert_eq!(engine.report().unwrap().failure, None);
        for time in [2000, 3000] {
            engine.advance(at(time));
            let failure = engine.report().unwrap().failure.unwrap();
            assert!(failure.ends_with("it hangs in the kernel"), "{failure}");
        }
        assert_passes_after_one_failure_more(&mut engine, id, 3100);
    }

    #[test]
    fn only_another_outcome_of_what_listens_is_a_change() {
        let (mut engine, id) = begun("a=heartbeat");
        let fail = |text: &str| Outcome::Fail(text.to_owned());
        let change = |engine: &mut Engine, outcome| {
            engine.change(id, outcome, at(1));
            engine.report().map(|report| report.failure)
        };
        // The first one, whichever it is.
        assert_eq!(change(&mut engine, fail("a")), Some(Some("a".to_owned())));
        assert_eq!(change(&mut engine, fail("b")), None);
        assert_eq!(change(&mut engine, Outcome::Pass), Some(None));
        assert_eq!(change(&mut engine, Outcome::Pass), None);
        assert_eq!(change(&mut engine, fail("c")), Some(Some("c".to_owned())));
    }

    #[test]
    fn what_is_not_supported_is_warned_of_once() {
        let (mut engine, id) = begun("a=clock,period=1s,unsupported=warn");
        let text = "check a passes without being checked: no clock".to_owned();
        for (time, warning) in [(1, Some(Warning(text))), (1001, None)] {
            engine.advance(at(time));
            let outcome = Outcome::Unsupported("no clock".to_owned());
            engine.end(id, outcome, at(time), MS);
            assert_eq!(engine.report().unwrap().failure, None);
            assert_eq!(engine.warning(), warning);
        }
    }
}

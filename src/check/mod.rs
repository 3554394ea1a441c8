//! Checks and endpoints: what is known about the health of the process or the node.
//!
//! Knows no HTTP, no socket and no clock. Your code updates a [`Check`] from any thread, and
//! [`crate::answer`] reads it for each request. An update stores the state as one atomic integer.
//! [`Check::fail`] first copies its reason into the check, and [`Check::beat`] stores its time for metrics. A
//! request for an endpoint loads the state of each check, and counts the result in another atomic integer.
//! Neither waits for the other, and a request never runs a check.
//!
//! The integer of a check is the time *until which it passes*. A check that passes until further
//! notice holds the largest integer, a failing check holds a small one, and a heartbeat holds
//! `beat + limit`. So one load and one comparison decide whether a check of any kind passes.
//!
//! # Updates from a signal handler
//!
//! All updates and queries may be called from a signal handler. They are loads and stores of lock-free
//! atomics and a copy of at most 255 bytes on the stack. They do not wait, allocate or make a system
//! call. (With the feature `portable-atomic`, a processor without such atomics may need a lock: `docs/embed.md`.)
//! The interrupted code may be using the same check:
//!
//! - If the handler interrupts an update, that update continues after the handler returns. It ends
//!   later, so its state remains. If both called [`Check::fail`], the reason is that of one of them, never
//!   a mixture. Until the interrupted call ends, the reason may be `failing`.
//! - If the handler interrupts a query, the query returns the state before or after the handler.
//!
//! Arguments must be safe in a handler too: a `Display` value given to [`Check::fail_fmt`] (numbers and
//! strings are safe), and the clock read for [`Check::beat`] (see `server::now`).
//! `tests/signals.rs` interrupts updates and queries a thousand times.

mod atomic;
mod endpoint;
#[cfg(feature = "server")]
mod endpoint_set;
mod history;
mod name;
mod reason;

use core::time::Duration;

use crate::time::{Instant, millis};
use atomic::{AtomicU64, Ordering};
pub use endpoint::Endpoint;
pub(crate) use endpoint::EndpointType;
#[cfg(feature = "server")]
pub use endpoint_set::{EndpointSet, EndpointSetError};
use history::History;
pub use history::{RunResult, Runs};
use name::{Name, is_name, is_name_bytes};
use reason::Reason;
pub use reason::ReasonText;

// These values at both ends of the range are states. The values between them are times.
const UNKNOWN_FAILING: u64 = 0;
const FAILING: u64 = 1;
/// Failing, with a reason that could not be stored, because another writer was replacing the reason (see
/// `reason`). The stored one may belong to an earlier failure, so it is not shown.
const FAILING_UNEXPLAINED: u64 = 2;
const TIME_MIN: u64 = 3;
const TIME_MAX: u64 = u64::MAX - 2;
const UNKNOWN_PASSING: u64 = u64::MAX - 1;
const PASSING: u64 = u64::MAX;

/// The limit of a check that is not a heartbeat.
const NO_LIMIT: u64 = u64::MAX;

const NOT_REPORTED: &str = "not reported yet";

/// The state of a check at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The last update made it pass. If it is a heartbeat, the update is not older than its limit.
    Passing,
    /// The last update made it fail, or a heartbeat is overdue.
    Failing,
    /// The check was not updated yet. A heartbeat without [`Check::initially_failing`] passes in this state,
    /// and so does a check with [`Check::initially_passing`]; all others fail with `not reported yet`. For a
    /// heartbeat with neither of the two, the state also ends when the server begins to serve; see
    /// [`Check::heartbeat`].
    Unknown,
}

/// What a failing check means for its endpoints; see [`Check::with_severity`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The endpoint fails.
    #[default]
    Error,
    /// The endpoint passes. The failure is reported in its `verbose` answer.
    Warning,
}

/// A named condition of the process or the node: passing, failing or unknown.
///
/// Every constructor is `const`, so a check can be a `static`. It can also be in an `Arc`. Its name and
/// group are copied into it, so they can come from a file. Updates take `&self`, never lock or allocate,
/// and can be called from any thread and from a signal handler. A request sees an update as soon as the
/// call has returned.
///
/// ```
/// use healthz::{Check, Instant};
///
/// static DISK: Check = Check::manual("disk");
///
/// assert!(!DISK.passes(Instant::ZERO)); // "not reported yet"
/// DISK.pass();
/// assert!(DISK.passes(Instant::ZERO));
/// DISK.fail("/var: 99 % full");
/// assert_eq!(DISK.reason(Instant::ZERO).unwrap().as_str(), "/var: 99 % full");
/// ```
pub struct Check {
    /// The check passes before this time (see [`encode`]), or one of the states above.
    passes_until: AtomicU64,
    /// Milliseconds for which a beat counts; [`NO_LIMIT`] if this is not a heartbeat.
    limit: u64,
    /// True for a ping: updates have no effect.
    is_constant: bool,
    is_shutdown: bool,
    is_unlisted_while_passing: bool,
    severity: Severity,
    /// The limit also applies to the time before the first beat.
    limits_first_beat: bool,
    name: Name,
    /// [`Name::NONE`] if it is in no group.
    group: Name,
    overdue: &'static str,
    /// The reason of an overdue heartbeat ends with the time since its last beat.
    tells_overdue_time: bool,
    /// The last beat is the one that [`Check::record_beat`] has reported.
    has_reported_beats: bool,
    history: History,
    reason: Reason,
}

/// Declares a `const fn`. Under loom it is not `const`: loom's atomics have no const constructors.
macro_rules! constructor {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) -> Self $body:block) => {
        #[cfg(not(loom))]
        $(#[$doc])*
        $vis const fn $name($($arg: $type),*) -> Self $body
        #[cfg(loom)]
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) -> Self $body
    };
}

impl Check {
    constructor! {
        fn with(name: &str, state: u64, limit: u64) -> Self {
            assert!(is_name(name), "a check's name is 1 to 127 bytes of A-Z a-z 0-9 . _ / -");
            Check {
                passes_until: AtomicU64::new(state),
                limit,
                is_constant: false,
                is_shutdown: false,
                is_unlisted_while_passing: false,
                severity: Severity::Error,
                limits_first_beat: false,
                name: Name::new(name),
                group: Name::NONE,
                overdue: "no heartbeat within its limit",
                tells_overdue_time: false,
                has_reported_beats: false,
                history: History::new(passes(state, Instant::ZERO)),
                reason: Reason::new(),
            }
        }
    }

    constructor! {
        /// A check that always passes; any answer shows that the server is running. Its name is
        /// `ping`, as in Kubernetes (`healthz.PingHealthz`). Updates have no effect.
        pub fn ping() -> Self {
            let mut check = Check::with("ping", PASSING, NO_LIMIT);
            check.is_constant = true;
            check
        }
    }

    constructor! {
        /// A check with the state of the last [`pass`](Check::pass) or [`fail`](Check::fail). Before
        /// the first update it fails with `not reported yet`.
        ///
        /// # Panics
        /// If `name` is not 1 to 127 bytes of `A-Z a-z 0-9 . _ / -`, or has an empty, `.` or `..`
        /// segment between slashes, because no request could name it. [`Check::is_name`] tests a name.
        /// The same holds for all constructors.
        pub fn manual(name: &str) -> Self {
            Check::with(name, UNKNOWN_FAILING, NO_LIMIT)
        }
    }

    constructor! {
        /// A check that passes while the last [`beat`](Check::beat) is younger than `limit`, in whole
        /// milliseconds (a fraction is dropped).
        ///
        /// Before the first beat it passes until `limit` after the server began to serve. So a worker
        /// that ends before its first beat is noticed. The server calls
        /// [`Responder::begin`](crate::Responder::begin) for this; without a server, you call it. Use
        /// [`initially_passing`](Check::initially_passing) for a check that passes until its first beat
        /// however late that is, and [`initially_failing`](Check::initially_failing) for one that fails
        /// until then.
        ///
        /// # Panics
        /// As [`Check::manual`].
        pub fn heartbeat(name: &str, limit: Duration) -> Self {
            let mut check = Check::with(name, UNKNOWN_PASSING, millis(limit));
            check.limits_first_beat = true;
            check
        }
    }

    constructor! {
        /// A check that fails with `not reported yet` until [`open`](Check::open). For the end of
        /// startup, caches that must fill, or hooks that must have run (`poststarthook/...` in
        /// Kubernetes).
        ///
        /// # Panics
        /// As [`Check::manual`].
        pub fn gate(name: &str) -> Self {
            Check::with(name, UNKNOWN_FAILING, NO_LIMIT)
        }
    }

    constructor! {
        /// A check named `shutdown` that passes until [`begin_shutdown`](Check::begin_shutdown).
        ///
        /// It belongs to `/readyz` alone: a process that is draining is alive, but accepts no more
        /// work. [`Endpoint::kubernetes`] adds it there only. While it fails, `OPTIONS /` is answered
        /// as its endpoint is.
        pub fn shutdown() -> Self {
            let mut check = Check::with("shutdown", PASSING, NO_LIMIT);
            check.is_shutdown = true;
            check
        }
    }

    /// Puts the check in `group`, so that `?exclude=GROUP` excludes it with the rest of the group.
    ///
    /// # Panics
    /// If `group` is not a valid name; see [`Check::manual`].
    #[must_use]
    pub const fn group(mut self, group: &str) -> Self {
        assert!(
            is_name(group),
            "a group's name is 1 to 127 bytes of A-Z a-z 0-9 . _ / -"
        );
        self.group = Name::new(group);
        self
    }

    /// Sets the reason for an overdue heartbeat, instead of `no heartbeat within its limit`.
    #[must_use]
    pub const fn overdue(mut self, reason: &'static str) -> Self {
        self.overdue = reason;
        self.tells_overdue_time = false;
        self
    }

    /// As [`overdue`](Check::overdue), and the reason ends with the time since the last beat, in whole seconds.
    /// With `not checked` it is `not checked for 41 s`. Before the first beat the time counts from
    /// [`begin`](Check::begin).
    ///
    /// ```
    /// use healthz::{Check, Instant};
    /// use std::time::Duration;
    ///
    /// let check = Check::heartbeat("disk", Duration::from_secs(30)).overdue_since("not checked");
    /// check.beat(Instant::ZERO);
    /// let reason = check.reason(Instant::from_millis(41_999)).unwrap();
    /// assert_eq!(reason.as_str(), "not checked for 41 s");
    /// ```
    #[must_use]
    pub const fn overdue_since(mut self, reason: &'static str) -> Self {
        self.overdue = reason;
        self.tells_overdue_time = true;
        self
    }

    /// Sets what a failure of this check means for its endpoints. With [`Severity::Warning`] they pass,
    /// and `verbose` lists the failure. The default is [`Severity::Error`].
    ///
    /// [`passes`](Check::passes), [`health`](Check::health) and [`reason`](Check::reason) do not depend on
    /// the severity.
    #[must_use]
    pub const fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Makes metrics and answers in JSON show the beats of [`record_beat`](Check::record_beat). For a check whose
    /// state another process determines: there, [`beat`](Check::beat) is called for each result of that process, and
    /// only extends the time for which the result holds.
    #[must_use]
    pub const fn with_reported_beats(mut self) -> Self {
        self.has_reported_beats = true;
        self
    }

    /// Leaves the check out of every answer while it passes: `verbose` does not list it, and its own
    /// path is not found. For a check that Kubernetes does not have, on a server whose passing answers
    /// must equal those of Kubernetes byte for byte.
    #[must_use]
    pub const fn unlisted_while_passing(mut self) -> Self {
        self.is_unlisted_while_passing = true;
        self
    }

    #[cfg(not(loom))]
    const fn starting(check: Check, state: u64) -> Self {
        // A ping has no initial state: it always passes.
        if check.is_constant {
            return check;
        }
        Check {
            passes_until: AtomicU64::new(state),
            limits_first_beat: false,
            history: History::new(passes(state, Instant::ZERO)),
            ..check
        }
    }

    /// Makes the check pass until its first update, however late that is. This is how the kubelet's
    /// `syncloop` behaves. No effect on a ping.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn initially_passing(self) -> Self {
        Check::starting(self, UNKNOWN_PASSING)
    }

    /// Makes the check fail with `not reported yet` until its first update. No effect on a ping.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn initially_failing(self) -> Self {
        Check::starting(self, UNKNOWN_FAILING)
    }

    /// Makes the check pass until the next update. A heartbeat then passes without further beats.
    pub fn pass(&self) {
        self.set(PASSING);
    }

    /// Makes the check fail until the next update. `reason` is any text; up to 255 bytes are kept, cut
    /// at a UTF-8 boundary. The answer to `/healthz/NAME` has the reason. The answer to `/healthz` says
    /// `reason withheld`, as in Kubernetes.
    ///
    /// If another thread is inside `fail` on the same check, its reason may remain, or `failing` may be
    /// shown instead of both. The check fails in every case.
    pub fn fail(&self, reason: &str) {
        if self.is_constant {
            return;
        }
        // The reason is stored before the state, so that a reader that sees the state finds it.
        match self.reason.replace(reason) {
            Ok(()) => self.set(FAILING),
            Err(reason::Busy) => self.set(FAILING_UNEXPLAINED),
        }
    }

    /// [`fail`](Check::fail) with a reason that is formatted here, without the heap:
    /// `check.fail_fmt(format_args!("killed by signal {number}"))`.
    pub fn fail_fmt(&self, reason: core::fmt::Arguments<'_>) {
        self.fail(ReasonText::from_fmt(reason).as_str());
    }

    /// Makes a heartbeat pass until its limit after `now`. On any other check this is
    /// [`pass`](Check::pass).
    pub fn beat(&self, now: Instant) {
        // A check without a limit must hold `PASSING`. The sum of `now` and `NO_LIMIT` is only the last
        // time, at which the check would fail.
        if self.limit == NO_LIMIT {
            return self.pass();
        }
        self.history.beat(now);
        self.set(self.overdue_at(now));
    }

    /// Opens a gate. The same as [`pass`](Check::pass).
    pub fn open(&self) {
        self.pass();
    }

    /// Makes the check fail with `process is shutting down`, as the `shutdown` check of Kubernetes.
    pub fn begin_shutdown(&self) {
        self.fail("process is shutting down");
    }

    /// Starts the limit of a heartbeat that was never updated: from now on it passes until its limit
    /// after `now`. No effect on other checks, on one with [`initially_passing`](Check::initially_passing) or
    /// [`initially_failing`](Check::initially_failing), after any update, and after the first call.
    ///
    /// [`Responder::begin`](crate::Responder::begin) calls this for every check that it serves.
    pub fn begin(&self, now: Instant) {
        if self.limits_first_beat && self.limit != NO_LIMIT {
            // Only an untouched heartbeat holds this state. If a beat or a failure is stored in
            // between, the exchange fails and that update remains.
            // No retry: a failed exchange means that this call has nothing to do.
            let _ = self.passes_until.compare_exchange(
                UNKNOWN_PASSING,
                self.overdue_at(now),
                Ordering::Release,
                Ordering::Relaxed,
            );
        }
    }

    /// The state at `now`.
    pub fn health(&self, now: Instant) -> Health {
        match self.passes_until.load(Ordering::Acquire) {
            UNKNOWN_FAILING | UNKNOWN_PASSING => Health::Unknown,
            // All other states compare like times: small ones fail at any time, large ones pass.
            until if passes(until, now) => Health::Passing,
            _ => Health::Failing,
        }
    }

    /// True if the check passes at `now`. [`Health::Unknown`] says which checks pass before their first
    /// update.
    #[inline]
    pub fn passes(&self, now: Instant) -> bool {
        passes(self.passes_until.load(Ordering::Acquire), now)
    }

    /// The reason why the check fails at `now`; `None` if it passes.
    pub fn reason(&self, now: Instant) -> Option<ReasonText> {
        let text = match self.passes_until.load(Ordering::Acquire) {
            until if passes(until, now) => return None,
            UNKNOWN_FAILING => NOT_REPORTED,
            FAILING => match self.reason.read() {
                Some(text) => return Some(text),
                None => "failing",
            },
            FAILING_UNEXPLAINED => "failing",
            // Any other value is a time that has passed.
            until => return Some(self.overdue_reason(until, now)),
        };
        Some(ReasonText::new(text))
    }

    /// The reason of a heartbeat whose limit ended at the stored time `until`.
    fn overdue_reason(&self, until: u64, now: Instant) -> ReasonText {
        let mut text = ReasonText::new(self.overdue);
        if self.tells_overdue_time {
            let beat = until.saturating_sub(TIME_MIN).saturating_sub(self.limit);
            let silence = now.saturating_since(Instant::from_millis(beat));
            text.append_seconds(silence.as_secs());
        }
        text
    }

    /// What a failure of this check means for its endpoints.
    #[inline]
    pub const fn severity(&self) -> Severity {
        self.severity
    }

    /// True if an endpoint passes with this check: it passes, or its failure is only a warning. The
    /// severity is loaded only if the check fails.
    #[inline]
    pub(crate) fn lets_endpoint_pass(&self, now: Instant) -> bool {
        self.passes(now) || matches!(self.severity, Severity::Warning)
    }

    /// Compares the state at `now` with the one that was observed before, and counts a change. Returns true if the
    /// check passes.
    ///
    /// The server observes a check at a request for its whole endpoint, unless the request excludes the check, or has
    /// no query while all checks of the endpoint pass. It also observes the check when an answer in JSON has it, and at
    /// each scrape of the metrics. An answer in text about this check alone (`/healthz/NAME`) does not observe it. A
    /// change that is undone before it is observed is not counted. Call this if you need to know of changes earlier.
    /// `unix_seconds` is the time of the wall clock, if it is known.
    pub fn observe(&self, now: Instant, unix_seconds: Option<u64>) -> bool {
        self.history.observe(|| self.passes(now), unix_seconds)
    }

    /// Observes the check for metrics. What [`kept_for_rendering`](Check::kept_for_rendering) returns stays the same
    /// until the next call.
    pub(crate) fn observe_for_rendering(&self, now: Instant, unix_seconds: Option<u64>) {
        self.observe(now, unix_seconds);
        self.history.keep_for_rendering();
    }

    /// Whether the check passed, and how often its state had changed, at the last
    /// [`observe_for_rendering`](Check::observe_for_rendering).
    pub(crate) fn kept_for_rendering(&self) -> (bool, u64) {
        self.history.kept_for_rendering()
    }

    /// How often a change of the state was observed.
    pub fn changes(&self) -> u64 {
        self.history.changes()
    }

    /// When the last change was observed, in seconds since 1970; `None` if there was none or if the time was not known.
    pub fn last_change(&self) -> Option<u64> {
        self.history.last_change()
    }

    /// The time of the last [`beat`](Check::beat) of a heartbeat; `None` before the first, and with
    /// [`with_reported_beats`](Check::with_reported_beats).
    pub fn last_beat(&self) -> Option<Instant> {
        match self.has_reported_beats {
            true => None,
            false => self.history.last_beat(),
        }
    }

    /// Reports when the last beat was, in seconds since 1970, of a check with
    /// [`with_reported_beats`](Check::with_reported_beats). The state stays as it is.
    pub fn record_beat(&self, unix_seconds: u64) {
        self.history.record_beat(unix_seconds);
    }

    /// The last beat in seconds since 1970, if there was one. `now` and `unix_seconds` are the present time of both
    /// clocks.
    pub(crate) fn last_beat_unix_seconds(
        &self,
        now: Instant,
        unix_seconds: Option<u64>,
    ) -> Option<u64> {
        match self.has_reported_beats {
            true => self.history.reported_beat(),
            false => {
                let age = now.saturating_since(self.history.last_beat()?);
                unix_seconds?.checked_sub(age.as_secs())
            }
        }
    }

    /// Records a run of the test that decides the state: its result and how long it took. Only metrics and the
    /// answers in JSON show it. The state stays as it is: call [`pass`](Check::pass), [`fail`](Check::fail) or
    /// [`beat`](Check::beat) for it. If two threads call this for one check at the same time, a run may not be
    /// counted.
    pub fn record_run(&self, result: RunResult, duration: Duration) {
        self.history.record_run(result, duration);
    }

    /// The runs that were recorded; `None` if there was none.
    pub fn runs(&self) -> Option<Runs> {
        self.history.runs()
    }

    /// How often the check passed and how often it failed in requests for an endpoint of this type.
    pub(crate) fn results(&self, endpoint: EndpointType) -> (u64, u64) {
        self.history.results(endpoint)
    }

    /// Observes the check, and counts its state as the result of a request for an endpoint of this type.
    pub(crate) fn count_result(
        &self,
        endpoint: EndpointType,
        now: Instant,
        unix_seconds: Option<u64>,
    ) {
        match self.observe(now, unix_seconds) {
            true => self.history.count_success(endpoint),
            false => self.history.count_error(endpoint),
        }
    }

    /// True if answers show the check at `now`; see
    /// [`unlisted_while_passing`](Check::unlisted_while_passing).
    #[inline]
    pub fn is_listed(&self, now: Instant) -> bool {
        !self.is_unlisted_while_passing || !self.passes(now)
    }

    /// True if the constructors accept `name`. For names from a file: the constructors panic on others.
    pub const fn is_name(name: &str) -> bool {
        is_name(name)
    }

    /// The check's name.
    pub const fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The check's group, if any.
    pub const fn group_name(&self) -> Option<&str> {
        match self.group.bytes() {
            [] => None,
            _ => Some(self.group.as_str()),
        }
    }

    #[inline]
    pub(crate) const fn name_bytes(&self) -> &[u8] {
        self.name.bytes()
    }

    #[inline]
    pub(crate) const fn group_bytes(&self) -> Option<&[u8]> {
        match self.group.bytes() {
            [] => None,
            group => Some(group),
        }
    }

    /// True if this is a [`shutdown`](Check::shutdown) check that fails at `now`.
    pub(crate) fn is_draining(&self, now: Instant) -> bool {
        self.is_shutdown && !self.passes(now)
    }

    fn set(&self, state: u64) {
        if !self.is_constant {
            // Release: a reader that loads this state also sees the reason stored before it.
            self.passes_until.store(state, Ordering::Release);
        }
    }

    /// The state of a heartbeat whose limit begins at `now`.
    fn overdue_at(&self, now: Instant) -> u64 {
        encode(now.as_millis().saturating_add(self.limit))
    }
}

impl core::fmt::Debug for Check {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

#[inline]
const fn passes(until: u64, now: Instant) -> bool {
    encode(now.as_millis()) < until
}

/// The stored value of a time. Every time is shifted by the number of states at the small end. If only
/// the first times were moved up, a beat at the origin of the clock would last longer than its limit.
#[inline]
const fn encode(millis: u64) -> u64 {
    // `Ord::min` is not `const`.
    match millis.saturating_add(TIME_MIN) {
        time if time < TIME_MAX => time,
        _ => TIME_MAX,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const T0: Instant = Instant::ZERO;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn reason(check: &Check, now: Instant) -> std::string::String {
        check
            .reason(now)
            .map_or("passes".into(), |text| text.as_str().into())
    }

    #[test]
    fn a_reason_can_be_formatted() {
        let check = Check::manual("disk");
        check.fail_fmt(format_args!("{} % full", 99));
        assert_eq!(reason(&check, T0), "99 % full");
    }

    #[test]
    fn the_state_that_a_check_starts_with_is_no_change() {
        let check = Check::manual("disk").initially_passing();
        assert!(check.observe(T0, Some(1)));
        assert_eq!((check.changes(), check.last_change()), (0, None));
        check.fail("full");
        assert!(!check.observe(T0, Some(2)));
        check.pass();
        assert!(check.observe(T0, Some(3)));
        assert_eq!((check.changes(), check.last_change()), (2, Some(3)));
    }

    #[test]
    fn the_last_beat_is_that_of_the_program_or_the_one_reported_for_it() {
        let check = Check::heartbeat("loop", Duration::from_secs(9));
        assert_eq!(check.last_beat(), None);
        check.beat(at(5000));
        assert_eq!(check.last_beat(), Some(at(5000)));
        assert_eq!(check.last_beat_unix_seconds(at(7000), Some(100)), Some(98));
        let check = Check::heartbeat("loop", Duration::from_secs(9)).with_reported_beats();
        check.beat(at(5000));
        check.record_beat(90);
        assert_eq!(check.last_beat(), None);
        assert_eq!(check.last_beat_unix_seconds(at(7000), Some(100)), Some(90));
    }

    #[test]
    fn a_name_for_the_constructors_can_be_tested_first() {
        assert!(Check::is_name("disk/var") && !Check::is_name("disk var"));
    }

    #[test]
    fn a_heartbeat_passes_while_the_last_beat_is_younger_than_its_limit() {
        let check = Check::heartbeat("loop", Duration::from_millis(100)).overdue("stuck");
        assert_eq!(check.health(at(1_000_000)), Health::Unknown);
        assert!(check.passes(at(1_000_000)));
        check.beat(at(50));
        assert!(check.passes(at(50)) && check.passes(at(149)));
        assert!(!check.passes(at(150)));
        assert_eq!(reason(&check, at(150)), "stuck");
        check.beat(at(150));
        assert_eq!(check.health(at(249)), Health::Passing);
        check.fail("reported");
        assert_eq!(reason(&check, at(200)), "reported");
    }

    /// Regression: a heartbeat that was never beaten passed for ever, so a worker that ended before its
    /// first beat was never noticed.
    #[test]
    fn a_heartbeat_without_a_beat_passes_until_its_limit_after_the_beginning() {
        let check = Check::heartbeat("loop", Duration::from_millis(100)).overdue("stuck");
        check.begin(at(1000));
        assert!(check.passes(at(1000)) && check.passes(at(1099)));
        assert!(!check.passes(at(1100)));
        assert_eq!(reason(&check, at(1100)), "stuck");
        // A second server that begins to serve the same check does not extend the time.
        check.begin(at(1050));
        assert!(!check.passes(at(1100)));
        check.beat(at(1200));
        assert!(check.passes(at(1299)) && !check.passes(at(1300)));
    }

    #[test]
    fn the_beginning_changes_no_check_that_was_updated_or_is_not_a_heartbeat() {
        let heartbeat = || Check::heartbeat("loop", Duration::from_millis(100));
        // An update before the server begins to serve, as from a worker that started earlier.
        let updates: [fn(&Check); 3] = [
            |check| check.beat(at(1)),
            |check| check.fail("reported"),
            Check::pass,
        ];
        for update in updates {
            let (begun, other) = (heartbeat(), heartbeat());
            update(&begun);
            update(&other);
            begun.begin(at(50));
            for ms in [60, 100, 101, 150, 1_000_000] {
                assert_eq!(reason(&begun, at(ms)), reason(&other, at(ms)), "{ms}");
            }
        }
        // Checks in their initial state, with the one that they keep.
        for (check, passes) in [
            (heartbeat().initially_passing(), true),
            (heartbeat().initially_failing(), false),
            (Check::manual("a").initially_passing(), true),
            (Check::manual("a"), false),
            (Check::gate("a"), false),
            (Check::shutdown(), true),
            (Check::ping(), true),
            (Check::heartbeat("a", Duration::MAX), true),
        ] {
            let before = check.health(at(1));
            check.begin(T0);
            assert_eq!(check.passes(at(1_000_000)), passes, "{check:?}");
            assert_eq!(check.health(at(1_000_000)), before);
        }
    }

    /// Regression: the values that are states covered the first three milliseconds of the clock.
    #[test]
    fn a_limit_is_exact_from_the_origin_of_the_clock_on() {
        // At both ends of the clock, where the values of states are.
        for limit in 0..5 {
            for beat in (0..6).chain(u64::MAX - 20..u64::MAX - 10) {
                let check = Check::heartbeat("loop", Duration::from_millis(limit));
                check.beat(at(beat));
                for later in 0..8 {
                    let passes = check.passes(at(beat + later));
                    assert_eq!(passes, later < limit, "{limit} ms, {later} after {beat}");
                }
            }
        }
    }

    #[test]
    fn the_reason_of_an_overdue_heartbeat_has_the_time_since_its_last_beat() {
        let check =
            || Check::heartbeat("loop", Duration::from_secs(30)).overdue_since("not checked");
        let beaten = check();
        beaten.beat(at(5_000));
        assert_eq!(reason(&beaten, at(34_999)), "passes");
        for (now, expected) in [
            (35_000, "not checked for 30 s"),
            (46_999, "not checked for 41 s"),
            (47_000, "not checked for 42 s"),
            (10_000_005_000, "not checked for 10000000 s"),
            (u64::MAX, "not checked for 18446744073709546 s"),
        ] {
            assert_eq!(reason(&beaten, at(now)), expected);
        }
        beaten.fail("full");
        assert_eq!(reason(&beaten, at(99_000)), "full");
        // Without a beat, the time counts from the beginning.
        let silent = check();
        silent.begin(at(1_000));
        assert_eq!(reason(&silent, at(42_000)), "not checked for 41 s");
        // The last of the two builders counts.
        let plain = check().overdue("late");
        plain.beat(T0);
        assert_eq!(reason(&plain, at(99_000)), "late");
    }

    #[test]
    fn the_time_since_the_last_beat_is_left_out_if_it_does_not_fit() {
        const LONG: &str = match core::str::from_utf8(&[b'x'; 250]) {
            Ok(text) => text,
            Err(_) => "",
        };
        let check = Check::heartbeat("loop", Duration::ZERO).overdue_since(LONG);
        check.beat(T0);
        assert_eq!(reason(&check, at(5_000)), LONG);
    }

    #[test]
    fn a_warning_has_the_state_of_its_updates_and_lets_its_endpoint_pass() {
        let check = Check::manual("disk");
        assert_eq!(check.severity(), Severity::Error);
        assert!(!check.lets_endpoint_pass(T0));
        let check = check.with_severity(Severity::Warning);
        assert_eq!(check.severity(), Severity::Warning);
        check.fail("full");
        assert!(check.lets_endpoint_pass(T0) && !check.passes(T0));
        assert_eq!(reason(&check, T0), "full");
        assert_eq!(check.health(T0), Health::Failing);
        let endpoint_checks = [&check];
        assert!(Endpoint::new("/healthz", &endpoint_checks).passes(T0));
    }

    #[test]
    fn a_heartbeat_with_the_largest_limit_never_fails() {
        let check = Check::heartbeat("loop", Duration::MAX);
        check.beat(T0);
        assert!(check.passes(at(u64::MAX - 1)));
    }

    #[test]
    fn a_failure_whose_reason_was_lost_has_the_reason_failing() {
        let check = Check::heartbeat("loop", Duration::from_secs(1)).overdue("late");
        check.set(FAILING_UNEXPLAINED);
        assert!(!check.passes(Instant::ZERO));
        assert_eq!(check.reason(Instant::ZERO).unwrap().as_str(), "failing");
    }

    /// `docs/embed.md` has this number.
    #[test]
    fn a_check_takes_952_bytes() {
        // Without padding after its pointers, where they have 32 bits.
        let less = 8 * usize::from(cfg!(target_pointer_width = "32"));
        assert_eq!(size_of::<Check>(), 952 - less);
    }

    /// A check from a file: neither its text nor the check lives for ever.
    #[test]
    fn a_name_is_copied_and_may_be_freed_before_the_check() {
        let (name, group) = (std::string::String::from("disk/var"), "storage".repeat(2));
        let check = Check::manual(&name).group(&group);
        drop((name, group));
        assert_eq!(check.name(), "disk/var");
        assert_eq!(check.group_name(), Some("storagestorage"));
        assert_eq!(Check::manual("a").group_name(), None);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn updated(
        check: &Arc<Check>,
        update: impl FnOnce(&Check) + 'static,
    ) -> thread::JoinHandle<()> {
        let check = check.clone();
        thread::spawn(move || update(&check))
    }

    /// Two threads fail the same check and a third reads it. No reason is torn or from elsewhere, and the
    /// check fails. The reason may be `failing`.
    #[test]
    fn loom_two_concurrent_failures_leave_a_failure_with_a_whole_reason() {
        loom::model(|| {
            let check = Arc::new(Check::manual("disk"));
            check.pass();
            // `failing`: the second writer finds the first one at work and stores no reason.
            let writers = [
                updated(&check, |check| check.fail("disk full")),
                updated(&check, |check| check.fail("disk gone")),
            ];
            let is_known = |text: &str| ["disk full", "disk gone", "failing"].contains(&text);
            if let Some(reason) = check.reason(Instant::ZERO) {
                assert!(is_known(reason.as_str()), "{reason:?}");
                assert!(!check.passes(Instant::ZERO), "it passes again");
            }
            for writer in writers {
                writer.join().unwrap();
            }
            assert!(!check.passes(Instant::ZERO));
            assert!(is_known(check.reason(Instant::ZERO).unwrap().as_str()));
        });
    }

    /// One thread fails a check, another lets it pass, a third reads it. One of the two updates remains,
    /// and a reader that sees the failure also reads its reason.
    #[test]
    fn loom_a_concurrent_failure_and_pass_leave_one_of_them() {
        loom::model(|| {
            let check = Arc::new(Check::manual("disk"));
            let writers = [
                updated(&check, |check| check.fail("disk full")),
                updated(&check, Check::pass),
            ];
            let known = [None, Some("not reported yet"), Some("disk full")];
            let reason = check.reason(Instant::ZERO);
            // The slots are shorter under loom and cut "not reported yet".
            let reason = reason.as_ref().map(ReasonText::as_str);
            assert!(
                known.contains(&reason) || reason == Some("not reported ye"),
                "{reason:?}"
            );
            for writer in writers {
                writer.join().unwrap();
            }
            let reason = check.reason(Instant::ZERO);
            let reason = reason.as_ref().map(ReasonText::as_str);
            assert!([None, Some("disk full")].contains(&reason), "{reason:?}");
        });
    }

    /// A server begins to serve while the first beat or a failure arrives. The state is that of one of the
    /// two, and never a third.
    ///
    /// The update always remains, because the exchange reads the value directly before its own. This is
    /// not asserted: loom may return either of two stores that no synchronization orders.
    #[test]
    fn loom_the_beginning_and_a_concurrent_update_leave_one_of_them() {
        loom::model(|| {
            let check = Arc::new(Check::heartbeat("loop", Duration::from_millis(100)));
            let beat = updated(&check, |check| check.beat(Instant::from_millis(50)));
            check.begin(Instant::ZERO);
            beat.join().unwrap();
            assert!(check.passes(Instant::from_millis(99)));
            assert!(!check.passes(Instant::from_millis(150)));
        });
        loom::model(|| {
            let check = Arc::new(Check::heartbeat("loop", Duration::from_millis(100)));
            let failure = updated(&check, |check| check.fail("disk full"));
            check.begin(Instant::ZERO);
            failure.join().unwrap();
            let reason = check.reason(Instant::ZERO);
            let reason = reason.as_ref().map(ReasonText::as_str);
            assert!([None, Some("disk full")].contains(&reason), "{reason:?}");
        });
    }

    #[test]
    fn loom_a_reader_that_sees_a_failure_finds_its_reason() {
        loom::model(|| {
            let check = Arc::new(Check::manual("disk"));
            let writer = thread::spawn({
                let check = check.clone();
                move || {
                    check.fail("disk full");
                    check.pass();
                    check.fail("disk gone");
                }
            });
            let reason = check.reason(Instant::ZERO);
            let reason = reason.as_ref().map_or("passes", ReasonText::as_str);
            // The slots are shorter under loom and cut "not reported yet".
            let known = ["not reported yet", "disk full", "disk gone", "passes"];
            assert!(known.iter().any(|text| text.starts_with(reason)) && !reason.is_empty());
            writer.join().unwrap();
            assert_eq!(check.reason(Instant::ZERO).unwrap().as_str(), "disk gone");
        });
    }
}

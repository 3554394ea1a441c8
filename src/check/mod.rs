//! What is known about the node: checks that anyone updates and requests only load.
//!
//! Knows no HTTP, no socket and no clock. Your code, other threads and signal handlers write;
//! [`crate::answer`] reads. Nobody waits for anybody: an update is one or two atomic stores, a
//! request loads one word a check, takes no lock and runs no check.
//!
//! The word of a check says *until when it passes*. "Healthy until told otherwise" is the end of
//! time, "failing" is the past, and a heartbeat is `beat + limit`. One load and one comparison give
//! a verdict that is consistent by itself, whatever the kind.
//!
//! # From a signal handler
//!
//! Every update may be made there, and every question asked, because none waits, allocates, or calls
//! the system: they are loads and stores of atomics that are lock-free wherever this crate builds, and
//! a copy of at most 255 bytes on the stack. It does not matter what the signal has interrupted:
//!
//! - An update of the same check, by the same thread, that the handler will return to: it goes on, and
//!   ends later than the handler's, so its verdict stands. If both were [`Check::fail`], the reason
//!   shown is a whole one of either; until the interrupted one ends it may be the word `failing`.
//! - A question about the same check: its answer is as of before or after, never a mixture.
//!
//! What it is made with has to be fit for a handler too: a `Display` given to [`Check::fail_fmt`]
//! (numbers and text are), and the time given to [`Check::beat`] (see `server::now`).
//! `tests/signals.rs` interrupts updates and questions a thousand times.

mod reason;

use core::time::Duration;

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::limits::CHECK_NAME_BYTES_MAX;
use crate::time::{Instant, millis};
use reason::Reason;
pub use reason::ReasonText;

// The small and the large end of the range are no times but words of their own.
const UNKNOWN_FAILING: u64 = 0;
const FAILING: u64 = 1;
/// Failing, but the reason was lost to another writer (see `reason`): better none than a wrong one.
const FAILING_UNEXPLAINED: u64 = 2;
const TIME_MIN: u64 = 3;
const TIME_MAX: u64 = u64::MAX - 2;
const UNKNOWN_PASSING: u64 = u64::MAX - 1;
const PASSING: u64 = u64::MAX;

const NOT_REPORTED: &str = "not reported yet";

/// What a check knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// The last word was good, and young enough.
    Passing,
    /// The last word was bad, or a heartbeat is overdue.
    Failing,
    /// Nothing was said yet. Whether that passes is the check's own setting; see [`Check::passes`].
    Unknown,
}

/// One named fact about the node: passing, failing or unknown.
///
/// Every constructor is `const`, so a check can be a `static`; or put it in an `Arc`, or leak one
/// made at startup. Every update takes `&self`, neither locks nor allocates, and may be called from
/// any thread and from a signal handler: it consists of atomic stores only, and where two writers
/// meet, the later one moves on instead of waiting. A request sees an update as soon as the call
/// that made it has returned.
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
    /// Before when the check passes, see [`word_of`], or one of the words above.
    passes_until: AtomicU64,
    /// Milliseconds that a beat lasts; `u64::MAX` where beats are not asked for.
    limit: u64,
    /// A ping: updates change nothing.
    fixed: bool,
    is_unlisted_while_passing: bool,
    name: &'static str,
    group: Option<&'static str>,
    overdue: &'static str,
    reason: Reason,
}

/// `const fn`, but not under loom, whose atomics have no const constructors.
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
        fn with(name: &'static str, word: u64, limit: u64) -> Self {
            assert!(is_name(name), "a check's name is 1 to 127 bytes of A-Z a-z 0-9 . _ / -");
            Check {
                passes_until: AtomicU64::new(word),
                limit,
                fixed: false,
                is_unlisted_while_passing: false,
                name,
                group: None,
                overdue: "no heartbeat within its limit",
                reason: Reason::new(),
            }
        }
    }

    constructor! {
        /// A check that always passes: that it is answered at all is the news. Its name is `ping`,
        /// as in Kubernetes (`healthz.PingHealthz`). Updates do nothing.
        pub fn ping() -> Self {
            let mut check = Check::with("ping", PASSING, u64::MAX);
            check.fixed = true;
            check
        }
    }

    constructor! {
        /// A check that is what was last said by [`pass`](Check::pass) or [`fail`](Check::fail).
        /// Before the first word it fails with `not reported yet`.
        ///
        /// # Panics
        /// If `name` is not 1 to 127 bytes of `A-Z a-z 0-9 . _ / -`, or has an empty, `.` or `..`
        /// segment between slashes (no request could name it): [`Check::is_name`] tells. The same
        /// holds for all constructors.
        pub fn manual(name: &'static str) -> Self {
            Check::with(name, UNKNOWN_FAILING, u64::MAX)
        }
    }

    constructor! {
        /// A check that passes while the last [`beat`](Check::beat) is younger than `limit`
        /// (milliseconds count, less is dropped). Before the first beat it passes, as the kubelet's
        /// `syncloop` does; see [`initially_failing`](Check::initially_failing).
        ///
        /// # Panics
        /// As [`Check::manual`].
        pub fn heartbeat(name: &'static str, limit: Duration) -> Self {
            Check::with(name, UNKNOWN_PASSING, millis(limit))
        }
    }

    constructor! {
        /// A check that fails with `not reported yet` until [`open`](Check::open): for startup,
        /// caches that must fill, hooks that must have run (`poststarthook/...` in Kubernetes).
        ///
        /// # Panics
        /// As [`Check::manual`].
        pub fn gate(name: &'static str) -> Self {
            Check::with(name, UNKNOWN_FAILING, u64::MAX)
        }
    }

    constructor! {
        /// A check named `shutdown` that passes until [`begin_shutdown`](Check::begin_shutdown).
        /// It belongs under `/readyz`: a draining process is alive but wants no more work.
        pub fn shutdown() -> Self {
            Check::with("shutdown", PASSING, u64::MAX)
        }
    }

    /// Puts the check in `group`, so that `?exclude=GROUP` excludes it with the rest of the group.
    ///
    /// # Panics
    /// If `group` is not a valid name; see [`Check::manual`].
    #[must_use]
    pub const fn group(mut self, group: &'static str) -> Self {
        assert!(
            is_name(group),
            "a group's name is 1 to 127 bytes of A-Z a-z 0-9 . _ / -"
        );
        self.group = Some(group);
        self
    }

    /// The reason to give when a heartbeat is overdue, instead of `no heartbeat within its limit`.
    #[must_use]
    pub const fn overdue(mut self, reason: &'static str) -> Self {
        self.overdue = reason;
        self
    }

    /// Leaves the check out of every answer while it passes, as if it were not there: `verbose` does
    /// not list it, and its own path is not found. For what is news only when it fails, such as the
    /// shutdown of a server whose passing answers must equal another's to the byte.
    #[must_use]
    pub const fn unlisted_while_passing(mut self) -> Self {
        self.is_unlisted_while_passing = true;
        self
    }

    #[cfg(not(loom))]
    const fn starting(check: Check, word: u64) -> Self {
        Check {
            passes_until: AtomicU64::new(word),
            ..check
        }
    }

    /// Makes the check pass until the first word. No-op on a ping.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn initially_passing(self) -> Self {
        if self.fixed {
            self
        } else {
            Check::starting(self, UNKNOWN_PASSING)
        }
    }

    /// Makes the check fail with `not reported yet` until the first word. No-op on a ping.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn initially_failing(self) -> Self {
        if self.fixed {
            self
        } else {
            Check::starting(self, UNKNOWN_FAILING)
        }
    }

    /// The check passes until told otherwise. (A heartbeat passes without further beats.)
    pub fn pass(&self) {
        self.say(PASSING);
    }

    /// The check fails until told otherwise, because of `reason`: free text, kept up to 255 bytes
    /// (cut at a UTF-8 boundary), shown under `/healthz/NAME` and withheld elsewhere.
    ///
    /// If another thread is in the middle of `fail` on this very check, its reason may win, or
    /// `failing` may be shown instead of either; the verdict is never affected.
    pub fn fail(&self, reason: &str) {
        if self.fixed {
            return;
        }
        // The text first: who sees the word must find it.
        match self.reason.replace(reason) {
            Ok(()) => self.say(FAILING),
            Err(reason::Busy) => self.say(FAILING_UNEXPLAINED),
        }
    }

    /// [`fail`](Check::fail) with a reason that is put together here, without the heap:
    /// `check.fail_fmt(format_args!("killed by signal {number}"))`.
    pub fn fail_fmt(&self, reason: core::fmt::Arguments<'_>) {
        self.fail(ReasonText::from_fmt(reason).as_str());
    }

    /// The check passes until its limit after `now`. Without a limit (any kind but a heartbeat)
    /// this is [`pass`](Check::pass).
    pub fn beat(&self, now: Instant) {
        if self.limit == u64::MAX {
            return self.pass();
        }
        self.say(word_of(now.as_millis().saturating_add(self.limit)));
    }

    /// Opens a gate: [`pass`](Check::pass) under the name that fits.
    pub fn open(&self) {
        self.pass();
    }

    /// Fails with `process is shutting down`, as Kubernetes' own `shutdown` check does.
    pub fn begin_shutdown(&self) {
        self.fail("process is shutting down");
    }

    /// What is known at `now`.
    pub fn health(&self, now: Instant) -> Health {
        match self.passes_until.load(Ordering::Acquire) {
            UNKNOWN_FAILING | UNKNOWN_PASSING => Health::Unknown,
            until if passes(until, now) => Health::Passing,
            _ => Health::Failing,
        }
    }

    /// Whether the check counts as passing at `now`, with unknown counted as its kind says.
    #[inline]
    pub fn passes(&self, now: Instant) -> bool {
        passes(self.passes_until.load(Ordering::Acquire), now)
    }

    /// Why the check does not pass at `now`; `None` if it does.
    pub fn reason(&self, now: Instant) -> Option<ReasonText> {
        let text = match self.passes_until.load(Ordering::Acquire) {
            until if passes(until, now) => return None,
            UNKNOWN_FAILING => NOT_REPORTED,
            FAILING => match self.reason.read() {
                Some(text) => return Some(text),
                None => "failing",
            },
            FAILING_UNEXPLAINED => "failing",
            _ => self.overdue,
        };
        Some(ReasonText::new(text))
    }

    /// Whether answers show the check at `now`; see
    /// [`unlisted_while_passing`](Check::unlisted_while_passing).
    #[inline]
    pub fn is_listed(&self, now: Instant) -> bool {
        !self.is_unlisted_while_passing || !self.passes(now)
    }

    /// Whether the constructors take `name`, instead of panicking. To be asked about names that come
    /// from a file.
    pub const fn is_name(name: &str) -> bool {
        is_name(name)
    }

    /// The check's name.
    #[inline]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The check's group, if any.
    #[inline]
    pub const fn group_name(&self) -> Option<&'static str> {
        self.group
    }

    fn say(&self, word: u64) {
        if !self.fixed {
            self.passes_until.store(word, Ordering::Release);
        }
    }
}

impl core::fmt::Debug for Check {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[inline]
fn passes(until: u64, now: Instant) -> bool {
    word_of(now.as_millis()) < until
}

/// The word of a time. All are moved on by as much as the words of their own need at the small end:
/// with the first times cut off instead, a beat at the origin would last longer than its limit.
#[inline]
fn word_of(millis: u64) -> u64 {
    millis.saturating_add(TIME_MIN).min(TIME_MAX)
}

/// A path such as `/healthz` and the checks that decide its answer, in the order they are listed.
///
/// ```
/// use healthz::{Check, Endpoint};
///
/// static PING: Check = Check::ping();
/// static ENDPOINTS: [Endpoint; 1] = [Endpoint::new("/healthz", &[&PING])];
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    path: &'a str,
    checks: &'a [&'a Check],
}

impl<'a> Endpoint<'a> {
    /// An endpoint at `path` that passes while all `checks` do; with no checks it always passes.
    ///
    /// # Panics
    /// If `path` is not a slash and then a valid name (see [`Check::manual`]).
    pub const fn new(path: &'a str, checks: &'a [&'a Check]) -> Self {
        assert!(
            is_path(path),
            "an endpoint's path is / and then a name like healthz"
        );
        Endpoint { path, checks }
    }

    /// Kubernetes' three, `/healthz`, `/livez` and `/readyz`, all with the same checks.
    pub const fn kubernetes(checks: &'a [&'a Check]) -> [Endpoint<'a>; 3] {
        [
            Endpoint::new("/healthz", checks),
            Endpoint::new("/livez", checks),
            Endpoint::new("/readyz", checks),
        ]
    }

    /// The path, `/healthz` for example.
    #[inline]
    pub const fn path(&self) -> &'a str {
        self.path
    }

    /// What Kubernetes calls the endpoint in its answers: the path's first segment.
    pub fn name(&self) -> &'a str {
        let name = self.path.strip_prefix('/').unwrap_or(self.path);
        name.split('/').next().unwrap_or(name)
    }

    /// The checks, in the order they are listed.
    #[inline]
    pub const fn checks(&self) -> &'a [&'a Check] {
        self.checks
    }

    /// Whether every check passes at `now`.
    #[inline]
    pub fn passes(&self, now: Instant) -> bool {
        self.checks.iter().all(|check| check.passes(now))
    }
}

/// Whether `name` can name a check, a group or (after a slash) an endpoint.
const fn is_name(name: &str) -> bool {
    is_name_bytes(name.as_bytes(), 0)
}

const fn is_path(path: &str) -> bool {
    matches!(path.as_bytes(), [b'/', ..]) && is_name_bytes(path.as_bytes(), 1)
}

#[expect(
    clippy::indexing_slicing,
    reason = "const fn has no iterators; `at` stays below the length"
)]
const fn is_name_bytes(bytes: &[u8], start: usize) -> bool {
    if bytes.len() <= start || bytes.len() - start > CHECK_NAME_BYTES_MAX {
        return false;
    }
    let mut at = start;
    let mut segment = start;
    while at <= bytes.len() {
        if at == bytes.len() || bytes[at] == b'/' {
            let dots_only = match at - segment {
                0 => true,
                1 => bytes[segment] == b'.',
                2 => bytes[segment] == b'.' && bytes[segment + 1] == b'.',
                _ => false,
            };
            if dots_only {
                return false;
            }
            segment = at + 1;
        } else if !matches!(bytes[at], b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
        {
            return false;
        }
        at += 1;
    }
    true
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
    fn a_ping_passes_whatever_is_said() {
        let ping = Check::ping().initially_failing();
        ping.fail("no");
        assert!(ping.passes(T0) && ping.passes(Instant::MAX.min(at(u64::MAX - 1))));
        assert_eq!(ping.health(T0), Health::Passing);
    }

    #[test]
    fn a_manual_check_is_what_was_last_said() {
        let check = Check::manual("disk");
        assert_eq!(check.health(T0), Health::Unknown);
        assert_eq!(reason(&check, T0), "not reported yet");
        check.pass();
        assert_eq!(check.health(at(9)), Health::Passing);
        check.fail("full");
        assert_eq!(check.health(at(9)), Health::Failing);
        assert_eq!(reason(&check, at(9)), "full");
        check.fail_fmt(format_args!("{} % full", 99));
        assert_eq!(reason(&check, at(9)), "99 % full");
        check.pass();
        assert_eq!(check.reason(at(9)).map(|t| t.as_str().len()), None);
    }

    #[test]
    fn a_failing_check_fails_at_the_origin_of_the_clock() {
        let check = Check::manual("disk");
        check.fail("full");
        for ms in 0..10 {
            assert!(!check.passes(at(ms)), "at {ms} ms");
        }
    }

    #[test]
    fn a_passing_check_passes_at_the_end_of_time() {
        let end = Instant::from_millis(u64::MAX);
        assert!(Check::ping().passes(end));
        assert!(Check::manual("disk").initially_passing().passes(end));
        let check = Check::heartbeat("loop", Duration::from_millis(100));
        check.beat(T0);
        assert!(!check.passes(end));
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
        check.fail("told");
        assert_eq!(reason(&check, at(200)), "told");
    }

    /// The words that are no times used to cover the first three milliseconds of the clock.
    #[test]
    fn a_limit_is_to_the_millisecond_from_the_origin_of_the_clock_on() {
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
    fn a_heartbeat_with_an_endless_limit_never_fails() {
        let check = Check::heartbeat("loop", Duration::MAX);
        check.beat(T0);
        assert!(check.passes(at(u64::MAX - 1)));
    }

    #[test]
    fn a_failure_whose_reason_was_lost_says_no_more_than_that() {
        let check = Check::heartbeat("loop", Duration::from_secs(1)).overdue("late");
        check.say(FAILING_UNEXPLAINED);
        assert!(!check.passes(Instant::ZERO));
        assert_eq!(check.reason(Instant::ZERO).unwrap().as_str(), "failing");
    }

    #[test]
    fn a_gate_opens_and_a_shutdown_begins() {
        let gate = Check::gate("poststarthook/start");
        assert_eq!(reason(&gate, T0), "not reported yet");
        gate.open();
        assert!(gate.passes(T0));
        let shutdown = Check::shutdown();
        assert!(shutdown.passes(T0));
        shutdown.begin_shutdown();
        assert_eq!(reason(&shutdown, T0), "process is shutting down");
    }

    #[test]
    fn what_counts_before_the_first_word_can_be_chosen() {
        assert!(Check::manual("a").initially_passing().passes(T0));
        assert!(
            !Check::heartbeat("a", Duration::ZERO)
                .initially_failing()
                .passes(T0)
        );
    }

    #[test]
    fn names_are_what_a_request_can_name() {
        for good in [
            "a",
            "poststarthook/start-apiextensions",
            "A.b_c-9",
            "...",
            "a/..b",
        ] {
            assert!(Check::is_name(good), "{good}");
        }
        let long = "x".repeat(CHECK_NAME_BYTES_MAX + 1);
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/..", "a b", "a%", "\u{e4}", &long,
        ] {
            assert!(!Check::is_name(bad), "{bad}");
        }
        assert!(is_name(&"x".repeat(CHECK_NAME_BYTES_MAX)));
        assert!(is_path("/healthz") && is_path("/healthz/test"));
        assert!(!is_path("healthz") && !is_path("/") && !is_path("") && !is_path("//a"));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    fn told(check: &Arc<Check>, tell: impl FnOnce(&Check) + 'static) -> thread::JoinHandle<()> {
        let check = check.clone();
        thread::spawn(move || tell(&check))
    }

    /// Two who fail the same check at once, and one who reads: no text is torn, none is of neither, and
    /// the verdict is theirs though the reason may be nobody's.
    #[test]
    fn loom_two_who_fail_at_once_leave_a_failure_with_a_whole_reason() {
        loom::model(|| {
            let check = Arc::new(Check::manual("disk"));
            check.pass();
            let writers = [
                told(&check, |check| check.fail("disk full")),
                told(&check, |check| check.fail("disk gone")),
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

    /// One who fails a check, one who says that it passes, and one who reads: what is left is what one
    /// of them said, and whoever reads a failure reads its reason.
    #[test]
    fn loom_a_failure_and_a_pass_at_once_leave_one_of_them() {
        loom::model(|| {
            let check = Arc::new(Check::manual("disk"));
            let writers = [
                told(&check, |check| check.fail("disk full")),
                told(&check, Check::pass),
            ];
            let known = [None, Some("not reported yet"), Some("disk full")];
            let reason = check.reason(Instant::ZERO);
            // Loom's slots are short, and cut what was never said.
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

    #[test]
    fn loom_who_sees_a_failure_finds_its_reason() {
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
            // Loom's slots are short, and cut what was never said.
            let known = ["not reported yet", "disk full", "disk gone", "passes"];
            assert!(known.iter().any(|text| text.starts_with(reason)) && !reason.is_empty());
            writer.join().unwrap();
            assert_eq!(check.reason(Instant::ZERO).unwrap().as_str(), "disk gone");
        });
    }
}

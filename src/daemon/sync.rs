//! The sync loop: reports changes of checks, verifies the log, and beats the service manager's watchdog.
//! Entering it beats the check `syncloop`.
//!
//! Reads no clock: [`SyncLoop::round`] gets the time, and returns when it must be called next. It waits only for a
//! service manager whose queue is full, for at most a second for each message ([`super::notify`]). Called by
//! [`super::serve`] on the main thread.

use std::time::Duration;

use healthz::{Check, Instant};

use super::checks::Checks;
use super::log as sink;
use super::notify::{PERIOD_MIN, ServiceManager};
use super::outage::{Change, Outage};
use super::source_checks::SourceChecks;

/// How long to wait before a failed notification of the service manager is sent again. Longer than one
/// attempt can take, or the loop would do nothing else.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// After a missed watchdog beat, the next attempt comes after this part of the period (a divisor). A whole
/// period later would be the watchdog's limit, so one short failure would end the daemon.
const RETRIES: u32 = 8;

/// Something that is due once in each period.
struct Timer {
    period: Duration,
    due: Instant,
}

impl Timer {
    fn new(period: Duration) -> Self {
        Timer {
            period,
            due: Instant::ZERO,
        }
    }

    /// Whether it is due at `now`. If so, it is due again one period later.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due <= now;
        if is_due {
            self.due = now.saturating_add(self.period);
        }
        is_due
    }

    /// Call this if the attempt at `now` failed: the next one is due soon.
    fn retry(&mut self, now: Instant) {
        let pause = (self.period / RETRIES).max(PERIOD_MIN);
        self.due = now.saturating_add(pause);
    }
}

/// How long the server's thread may be unresponsive before that is logged and the watchdog is no longer
/// beaten. On a machine that is short of CPU time, it may get none for a while.
const STUCK_DURATION: Duration = Duration::from_secs(2);

/// The methods of the server's thread that the sync loop calls.
pub trait Liveness {
    /// Whether the thread waits for events, or has run within the time limit.
    fn is_responsive(&self, now: Instant) -> bool;
    /// Wakes the thread. If it waits, it is responsive only until the time limit, or again after it has run.
    fn wake(&self, now: Instant);
}

/// Watches whether the server's thread is responsive.
struct ServerWatch<'a> {
    thread: &'a dyn Liveness,
    /// When it was first seen unresponsive.
    unresponsive_since: Option<Instant>,
    outage: Outage,
}

impl ServerWatch<'_> {
    /// Returns false if the server's thread is stuck, and when to check again.
    fn check(&mut self, now: Instant) -> (bool, Option<Instant>) {
        if self.thread.is_responsive(now) {
            self.unresponsive_since = None;
            if self.outage.update(false) == Some(Change::Recovered) {
                log::info!("server thread responds again");
            }
            return (true, None);
        }
        let since = *self.unresponsive_since.get_or_insert(now);
        let duration = now.saturating_since(since);
        let is_stuck = duration >= STUCK_DURATION;
        if self.outage.update(is_stuck) == Some(Change::Failed) {
            log::error!(
                "server thread stuck for {} s; not answering",
                duration.as_secs()
            );
        }
        let next = match is_stuck {
            true => now,
            false => since,
        };
        (!is_stuck, Some(next.saturating_add(STUCK_DURATION)))
    }
}

/// The state of the loop between rounds.
pub struct SyncLoop<'a> {
    checks: Checks,
    manager: &'a ServiceManager,
    period: Duration,
    verify: Timer,
    watchdog: Option<Timer>,
    notify_retry: Timer,
    server: ServerWatch<'a>,
    /// One for each of the daemon's checks.
    outages: Vec<Outage>,
}

impl<'a> SyncLoop<'a> {
    /// A loop with a round at least every `period`. The log is verified twice within `log_limit`.
    /// `server` is woken each time the watchdog is due.
    pub fn new(
        checks: Checks,
        manager: &'a ServiceManager,
        period: Duration,
        log_limit: Duration,
        server: &'a dyn Liveness,
    ) -> Self {
        SyncLoop {
            checks,
            manager,
            period,
            verify: Timer::new(log_limit / 2),
            watchdog: manager.watchdog().map(Timer::new),
            notify_retry: Timer::new(RETRY_PERIOD),
            server: ServerWatch {
                thread: server,
                unresponsive_since: None,
                outage: Outage::default(),
            },
            outages: checks.own().map(|_| Outage::default()).collect(),
        }
    }

    /// One round. Returns when the next is due.
    pub fn round(&mut self, now: Instant, mut sources: Option<&mut SourceChecks>) -> Instant {
        log::trace!("sync loop entered");
        // Before the beat too, so that a failure is reported: if this round is too late, `syncloop` fails
        // until the beat.
        self.report_changes(now, sources.as_deref_mut());
        self.checks.syncloop.beat(now);
        self.report_changes(now, sources.as_deref_mut());
        if self.verify.is_due(now) {
            sink::verify();
        }
        let mut next = now.saturating_add(self.period).min(self.verify.due);
        if self.manager.has_pending() {
            if self.notify_retry.is_due(now) {
                self.manager
                    .notify_status(&status(self.checks, sources.as_deref(), now));
            }
            next = next.min(self.notify_retry.due);
        }
        let (is_server_well, check_again) = self.server.check(now);
        next = next.min(check_again.unwrap_or(next));
        if let Some(watchdog) = &mut self.watchdog {
            if watchdog.is_due(now) {
                // Only the daemon's own checks count: a full disk must not restart the daemon that reports it.
                let is_well = is_server_well && self.checks.own().all(|check| check.passes(now));
                let is_beaten = is_well && self.manager.notify("WATCHDOG=1");
                if !is_beaten {
                    watchdog.retry(now);
                }
                self.server.thread.wake(now);
            }
            next = next.min(watchdog.due);
        }
        next
    }

    /// Reports changes of checks to the log and to the service manager.
    fn report_changes(&mut self, now: Instant, mut sources: Option<&mut SourceChecks>) {
        let sources_changed = sources
            .as_deref_mut()
            .map(|sources| sources.report_changes(now));
        let mut is_changed = sources_changed == Some(true);
        for (check, outage) in self.checks.own().zip(&self.outages) {
            let reason = check.reason(now);
            is_changed |= match (outage.update(reason.is_some()), reason) {
                (Some(Change::Failed), Some(reason)) => {
                    log::warn!("check {} fails: {}", check.name(), reason.as_str());
                    true
                }
                (Some(_), _) => {
                    log::info!("check {} passes again", check.name());
                    true
                }
                (None, _) => false,
            };
        }
        if is_changed {
            self.manager
                .notify_status(&status(self.checks, sources.as_deref(), now));
            // If that failed, retry after a whole period.
            self.notify_retry.due = now.saturating_add(self.notify_retry.period);
        }
    }
}

/// The `STATUS=` line of sd_notify(3): which checks fail, and why.
pub fn status(checks: Checks, sources: Option<&SourceChecks>, now: Instant) -> String {
    let sources = sources.into_iter().flat_map(SourceChecks::checks);
    let own = checks.own().map(|check: &Check| check);
    let failing = own.chain(sources).filter_map(|check| {
        let reason = check.reason(now)?;
        Some(format!("{} ({})", check.name(), reason.as_str()))
    });
    match failing.collect::<Vec<_>>().join(", ") {
        failing if failing.is_empty() => "STATUS=healthz passes".to_owned(),
        failing => format!("STATUS=healthz fails: {failing}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    use crate::daemon::options::Options;

    #[test]
    fn the_status_names_what_fails_and_why() {
        let checks = Checks::new(&Options::default());
        let now = Instant::from_millis(1000);
        assert_eq!(status(checks, None, now), "STATUS=healthz passes");
        checks.syncloop.fail("PLEG is not healthy");
        assert_eq!(
            status(checks, None, now),
            "STATUS=healthz fails: syncloop (PLEG is not healthy)"
        );
        checks.log.fail("logging blocked");
        assert_eq!(
            status(checks, None, now),
            "STATUS=healthz fails: log (logging blocked), syncloop (PLEG is not healthy)"
        );
    }

    thread_local! {
        static RECORDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps the log records of each thread apart, because tests run at the same time.
    struct Recorder;

    impl log::Log for Recorder {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let line = format!("{} {}", record.level(), record.args());
            RECORDS.with_borrow_mut(|records| records.push(line));
        }

        fn flush(&self) {}
    }

    /// Records from here on. An error means that another test has begun with that.
    fn record() {
        let _ = log::set_logger(&Recorder);
        log::set_max_level(log::LevelFilter::Info);
    }

    struct Thread {
        is_responsive: Cell<bool>,
        wakes: Cell<usize>,
    }

    impl Liveness for Thread {
        fn is_responsive(&self, _: Instant) -> bool {
            self.is_responsive.get()
        }

        fn wake(&self, _: Instant) {
            self.wakes.set(self.wakes.get() + 1);
        }
    }

    fn responsive() -> Thread {
        Thread {
            is_responsive: Cell::new(true),
            wakes: Cell::new(0),
        }
    }

    /// Regression: the watchdog was beaten while the server's thread was stuck, so the daemon was not
    /// restarted.
    #[test]
    fn the_watchdog_is_not_beaten_while_the_server_thread_is_stuck() {
        record();
        let path = std::env::temp_dir().join(format!("healthz-stuck-{}", std::process::id()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let half = Duration::from_secs(1);
        let manager = ServiceManager::named(path.as_os_str(), Some(half));
        let checks = Checks::new(&Options::default());
        let long = Duration::from_secs(120);
        let server = responsive();
        let mut sync = SyncLoop::new(checks, &manager, long, long, &server);
        let mut now = Instant::from_millis(1000);
        let mut beats_of_seconds = |seconds: u32| {
            let end = now.saturating_add(half * seconds);
            while now < end {
                now = sync.round(now, None);
            }
            let states = std::iter::from_fn(|| socket.recv(&mut [0; 256]).ok());
            states
                .filter(|length| *length == "WATCHDOG=1".len())
                .count()
        };
        assert_eq!(beats_of_seconds(10), 10);
        assert_eq!(server.wakes.get(), 10, "one for each beat");
        server.is_responsive.set(false);
        // For two seconds, the thread may only lack CPU time.
        assert_eq!(beats_of_seconds(10), 2);
        server.is_responsive.set(true);
        assert_eq!(beats_of_seconds(10), 10);
        std::fs::remove_file(&path).unwrap();
        let expected = [
            "ERROR server thread stuck for 2 s; not answering",
            "INFO server thread responds again",
        ];
        assert_eq!(RECORDS.take(), expected);
    }

    /// Regression: after a short failure the next beat came at the watchdog's limit, and the service manager
    /// ended a healthy daemon.
    #[test]
    fn the_watchdog_is_beaten_as_soon_as_a_failure_is_over() {
        let path = std::env::temp_dir().join(format!("healthz-beat-{}", std::process::id()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let beats = || {
            let mut state = [0; 256];
            let states =
                std::iter::from_fn(|| socket.recv(&mut state).ok().map(|n| state[..n].to_vec()));
            states.filter(|state| state == b"WATCHDOG=1").count()
        };
        let half = Duration::from_secs(8);
        let manager = ServiceManager::named(path.as_os_str(), Some(half));
        let checks = Checks::new(&Options::default());
        let period = Duration::from_secs(20);
        let server = responsive();
        let mut sync = SyncLoop::new(checks, &manager, period, Duration::from_secs(120), &server);
        let first = Instant::from_millis(1000);
        assert_eq!(sync.round(first, None), first.saturating_add(half));
        assert_eq!(beats(), 1);
        checks.log.fail("logging blocked");
        let due = first.saturating_add(half);
        let next = sync.round(due, None);
        assert_eq!((beats(), next), (0, due.saturating_add(half / RETRIES)));
        checks.log.pass();
        assert_eq!(sync.round(next, None), next.saturating_add(half));
        assert_eq!(beats(), 1);
        std::fs::remove_file(&path).unwrap();
        // A beat that could not be sent is also retried soon.
        let due = next.saturating_add(half);
        drop(socket);
        assert_eq!(sync.round(due, None), due.saturating_add(half / RETRIES));
    }

    /// Regression: a status that could not be sent was never sent again, so the service manager showed an old
    /// one.
    #[test]
    fn a_service_manager_whose_queue_was_full_gets_the_current_status_later() {
        let path = std::env::temp_dir().join(format!("healthz-retry-{}", std::process::id()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let states = || {
            let mut state = [0; 256];
            let states = std::iter::from_fn(|| {
                let length = socket.recv(&mut state).ok()?;
                Some(String::from_utf8(state[..length].to_vec()).unwrap())
            });
            states.filter(|state| state != "X=1").collect::<Vec<_>>()
        };
        let others = std::os::unix::net::UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        let fill = || while others.send_to(b"X=1", &path).is_ok() {};
        let manager = ServiceManager::named(path.as_os_str(), None);
        let checks = Checks::new(&Options::default());
        let long = Duration::from_secs(120);
        let server = responsive();
        let mut sync = SyncLoop::new(checks, &manager, long, long, &server);
        let first = Instant::from_millis(1000);
        checks.log.fail("logging blocked");
        fill();
        let next = sync.round(first, None);
        assert_eq!(next, first.saturating_add(RETRY_PERIOD));
        assert!(states().is_empty());
        sync.round(next, None);
        assert_eq!(states(), ["STATUS=healthz fails: log (logging blocked)"]);
        assert!(RETRY_PERIOD < sync.round(next, None).saturating_since(next));
        // The status that is sent is that of the moment when it can be sent.
        fill();
        checks.log.pass();
        let next = sync.round(next, None);
        assert!(states().is_empty());
        checks.log.fail("logging blocked");
        checks.log.pass();
        sync.round(next, None);
        assert_eq!(states(), ["STATUS=healthz passes"]);
        sync.round(next.saturating_add(RETRY_PERIOD), None);
        assert!(states().is_empty(), "once");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn rounds_follow_whatever_is_due_first_and_beat_syncloop() {
        let options = Options::default();
        let checks = Checks::new(&options);
        let manager = ServiceManager::from_env();
        let seconds = |n: u64| Instant::from_millis(n * 1000);
        let server = responsive();
        let mut sync = SyncLoop::new(
            checks,
            &manager,
            Duration::from_secs(10),
            Duration::from_secs(30),
            &server,
        );
        assert_eq!(sync.round(seconds(1), None), seconds(11));
        assert_eq!(sync.round(seconds(11), None), seconds(16), "the log is due");
        assert_eq!(sync.round(seconds(16), None), seconds(26));
        let limit = options.sync_limit;
        let last = seconds(16).saturating_add(limit);
        assert!(
            checks
                .syncloop
                .passes(Instant::from_millis(last.as_millis() - 1))
        );
        assert!(!checks.syncloop.passes(last));
    }
}

//! The sync loop: the daemon's own round that keeps the other checks true, and whose entry is the
//! beat of `syncloop`.
//!
//! Reads no clock and waits for nothing: [`SyncLoop::round`] is told the time and says when it wants
//! to be called next. Called by [`super::serve`] on the main thread.

use std::time::Duration;

use healthz::Instant;

use super::checks::Checks;
use super::log as sink;
use super::notify::{Manager, PERIOD_MIN};

/// Until a manager that could not be told that we are ready, or how we are, is tried again. Longer than the
/// try may take, or the loop would do nothing else.
const OWED_PERIOD: Duration = Duration::from_secs(2);

/// The part of a period, as its divisor, until what could not be done is tried again. The watchdog's
/// next period would end at its limit: whoever fails for a moment, just then, would be ended for it.
const RETRIES: u32 = 8;

/// Something to be done again and again.
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

    /// Whether it is to be done at `now`; if so, it is due again a period later.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due <= now;
        if is_due {
            self.due = now.saturating_add(self.period);
        }
        is_due
    }

    /// It could not be done at `now`: it is due again soon.
    fn retry(&mut self, now: Instant) {
        let pause = (self.period / RETRIES).max(PERIOD_MIN);
        self.due = now.saturating_add(pause);
    }
}

/// For how long the door may be at the same work before that is said, and no more beats are passed on. A
/// machine that is short of CPU may keep it from its work for a while.
const STANDSTILL: Duration = Duration::from_secs(2);

/// The door as the loop sees it.
struct DoorWatch<'a> {
    is_moving: Box<dyn FnMut() -> bool + 'a>,
    /// When it was first seen at the same work as at the look before.
    still_since: Option<Instant>,
    is_told: bool,
}

impl DoorWatch<'_> {
    /// Looks at it. Returns whether it gets on, and when to look again.
    fn look(&mut self, now: Instant) -> (bool, Option<Instant>) {
        if (self.is_moving)() {
            self.still_since = None;
            if core::mem::take(&mut self.is_told) {
                log::info!("the door goes on");
            }
            return (true, None);
        }
        let since = *self.still_since.get_or_insert(now);
        let duration = now.saturating_since(since);
        let has_stopped = duration >= STANDSTILL;
        if self.is_news(has_stopped) {
            log::error!(
                "the door has been at the same work for more than {} s and answers nobody",
                duration.as_secs()
            );
        }
        let next = match has_stopped {
            true => now,
            false => since,
        };
        (!has_stopped, Some(next.saturating_add(STANDSTILL)))
    }

    /// True at the first look that finds it stopped, until it moves again.
    fn is_news(&mut self, has_stopped: bool) -> bool {
        has_stopped && !core::mem::replace(&mut self.is_told, true)
    }
}

/// What the loop keeps from round to round.
pub struct SyncLoop<'a> {
    checks: Checks,
    manager: &'a Manager,
    period: Duration,
    verify: Timer,
    watchdog: Option<Timer>,
    owed: Timer,
    door: DoorWatch<'a>,
    /// Of each of the daemon's checks, whether it was last seen passing.
    seen: Vec<bool>,
}

impl<'a> SyncLoop<'a> {
    /// A loop with a round at least every `period`. The log is verified twice within `log_limit`.
    /// `is_moving` is asked whether the door has done anything since, if it had something to do.
    pub fn new(
        checks: Checks,
        manager: &'a Manager,
        period: Duration,
        log_limit: Duration,
        is_moving: Box<dyn FnMut() -> bool + 'a>,
    ) -> Self {
        SyncLoop {
            checks,
            manager,
            period,
            verify: Timer::new(log_limit / 2),
            watchdog: manager.watchdog().map(Timer::new),
            owed: Timer::new(OWED_PERIOD),
            door: DoorWatch {
                is_moving,
                still_since: None,
                is_told: false,
            },
            seen: vec![true; checks.alive().checks().len()],
        }
    }

    /// One round. Returns when the next is due.
    pub fn round(&mut self, now: Instant) -> Instant {
        log::trace!("sync loop entered");
        // Before the beat as well: a round that comes too late is news.
        self.tell_changes(now);
        self.checks.syncloop.beat(now);
        self.tell_changes(now);
        if self.verify.is_due(now) {
            sink::verify();
        }
        let mut next = now.saturating_add(self.period).min(self.verify.due);
        if self.manager.is_owed() {
            if self.owed.is_due(now) {
                self.manager.tell_status(&status(self.checks, now));
            }
            next = next.min(self.owed.due);
        }
        let (is_door_moving, look) = self.door.look(now);
        next = next.min(look.unwrap_or(next));
        if let Some(watchdog) = &mut self.watchdog {
            if watchdog.is_due(now) {
                let is_well = is_door_moving && self.checks.alive().passes(now);
                let is_beaten = is_well && self.manager.tell("WATCHDOG=1");
                if !is_beaten {
                    watchdog.retry(now);
                }
            }
            next = next.min(watchdog.due);
        }
        next
    }

    /// To the log, and as a status to the service manager.
    fn tell_changes(&mut self, now: Instant) {
        let mut is_changed = false;
        for (check, seen) in self.checks.alive().checks().iter().zip(&mut self.seen) {
            let reason = check.reason(now);
            if *seen == reason.is_none() {
                continue;
            }
            is_changed = true;
            *seen = reason.is_none();
            match reason {
                Some(reason) => log::info!("check {} fails: {}", check.name(), reason.as_str()),
                None => log::info!("check {} passes again", check.name()),
            }
        }
        if is_changed {
            self.manager.tell_status(&status(self.checks, now));
            // Not at once again, if it has to be said again.
            self.owed.due = now.saturating_add(self.owed.period);
        }
    }
}

/// How the daemon is, in a line for whoever asks its service manager: sd_notify(3).
pub fn status(checks: Checks, now: Instant) -> String {
    let failing = checks.alive().checks().iter().filter_map(|check| {
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
    use crate::daemon::options::Options;

    #[test]
    fn the_status_names_what_fails_and_why() {
        let checks = Checks::new(&Options::default());
        let now = Instant::from_millis(1000);
        assert_eq!(status(checks, now), "STATUS=healthz passes");
        checks.syncloop.fail("PLEG is not healthy");
        assert_eq!(
            status(checks, now),
            "STATUS=healthz fails: syncloop (PLEG is not healthy)"
        );
        checks.log.fail("logging blocked");
        assert_eq!(
            status(checks, now),
            "STATUS=healthz fails: log (logging blocked), syncloop (PLEG is not healthy)"
        );
    }

    fn moving() -> Box<dyn FnMut() -> bool> {
        Box::new(|| true)
    }

    #[test]
    fn a_standstill_is_logged_when_it_has_lasted_and_once() {
        let is_moving = std::cell::Cell::new(false);
        let mut watch = DoorWatch {
            is_moving: Box::new(|| is_moving.get()),
            still_since: None,
            is_told: false,
        };
        for _ in 0..2 {
            assert_eq!(
                [false, true, true].map(|has| watch.is_news(has)),
                [false, true, false]
            );
            is_moving.set(true);
            let now = Instant::from_millis(1000);
            assert_eq!(watch.look(now), (true, None));
            is_moving.set(false);
        }
    }

    /// Beats went on for as long as main was well: nobody started a daemon anew that answered nobody.
    #[test]
    fn a_door_that_stands_still_is_no_beat() {
        let path = std::env::temp_dir().join(format!("healthz-still-{}", std::process::id()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let half = Duration::from_secs(1);
        let manager = Manager::named(path.as_os_str(), Some(half));
        let checks = Checks::new(&Options::default());
        let long = Duration::from_secs(120);
        let is_moving = std::cell::Cell::new(true);
        let door = Box::new(|| is_moving.get());
        let mut sync = SyncLoop::new(checks, &manager, long, long, door);
        let mut now = Instant::from_millis(1000);
        let mut beats_of_seconds = |seconds: u32| {
            let end = now.saturating_add(half * seconds);
            while now < end {
                now = sync.round(now);
            }
            let words = std::iter::from_fn(|| socket.recv(&mut [0; 256]).ok());
            words.filter(|length| *length == "WATCHDOG=1".len()).count()
        };
        assert_eq!(beats_of_seconds(10), 10);
        is_moving.set(false);
        // Two seconds may be for want of a CPU.
        assert_eq!(beats_of_seconds(10), 2);
        is_moving.set(true);
        assert_eq!(beats_of_seconds(10), 10);
        std::fs::remove_file(&path).unwrap();
    }

    /// The next beat came half the limit later, at the limit; the manager then ended a daemon that was well.
    #[test]
    fn the_watchdog_is_beaten_as_soon_as_a_failure_is_over() {
        let path = std::env::temp_dir().join(format!("healthz-beat-{}", std::process::id()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let beats = || {
            let mut word = [0; 256];
            let words =
                std::iter::from_fn(|| socket.recv(&mut word).ok().map(|n| word[..n].to_vec()));
            words.filter(|word| word == b"WATCHDOG=1").count()
        };
        let half = Duration::from_secs(8);
        let manager = Manager::named(path.as_os_str(), Some(half));
        let checks = Checks::new(&Options::default());
        let period = Duration::from_secs(20);
        let mut sync = SyncLoop::new(checks, &manager, period, Duration::from_secs(120), moving());
        let first = Instant::from_millis(1000);
        assert_eq!(sync.round(first), first.saturating_add(half));
        assert_eq!(beats(), 1);
        checks.log.fail("logging blocked");
        let due = first.saturating_add(half);
        let next = sync.round(due);
        assert_eq!((beats(), next), (0, due.saturating_add(half / RETRIES)));
        checks.log.pass();
        assert_eq!(sync.round(next), next.saturating_add(half));
        assert_eq!(beats(), 1);
        std::fs::remove_file(&path).unwrap();
        // Nor is a beat that did not arrive the last for so long.
        let due = next.saturating_add(half);
        drop(socket);
        assert_eq!(sync.round(due), due.saturating_add(half / RETRIES));
    }

    /// It was said once, and the manager showed for ever what was not so any more.
    #[test]
    fn a_manager_whose_queue_was_full_is_told_later_how_we_are_by_then() {
        let path = std::env::temp_dir().join(format!("healthz-owed-{}", std::process::id()));
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let words = || {
            let mut word = [0; 256];
            let words = std::iter::from_fn(|| {
                let length = socket.recv(&mut word).ok()?;
                Some(String::from_utf8(word[..length].to_vec()).unwrap())
            });
            words.filter(|word| word != "X=1").collect::<Vec<_>>()
        };
        let others = std::os::unix::net::UnixDatagram::unbound().unwrap();
        others.set_nonblocking(true).unwrap();
        let fill = || while others.send_to(b"X=1", &path).is_ok() {};
        let manager = Manager::named(path.as_os_str(), None);
        let checks = Checks::new(&Options::default());
        let long = Duration::from_secs(120);
        let mut sync = SyncLoop::new(checks, &manager, long, long, moving());
        let first = Instant::from_millis(1000);
        checks.log.fail("logging blocked");
        fill();
        let next = sync.round(first);
        assert_eq!(next, first.saturating_add(OWED_PERIOD));
        assert!(words().is_empty());
        sync.round(next);
        assert_eq!(words(), ["STATUS=healthz fails: log (logging blocked)"]);
        assert!(OWED_PERIOD < sync.round(next).saturating_since(next));
        // What is owed is how it is when it can be said.
        fill();
        checks.log.pass();
        let next = sync.round(next);
        assert!(words().is_empty());
        checks.log.fail("logging blocked");
        checks.log.pass();
        sync.round(next);
        assert_eq!(words(), ["STATUS=healthz passes"]);
        sync.round(next.saturating_add(OWED_PERIOD));
        assert!(words().is_empty(), "once");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn rounds_follow_whatever_is_due_first_and_beat_syncloop() {
        let options = Options::default();
        let checks = Checks::new(&options);
        let manager = Manager::from_env();
        let seconds = |n: u64| Instant::from_millis(n * 1000);
        let mut sync = SyncLoop::new(
            checks,
            &manager,
            Duration::from_secs(10),
            Duration::from_secs(30),
            moving(),
        );
        assert_eq!(sync.round(seconds(1)), seconds(11));
        assert_eq!(sync.round(seconds(11)), seconds(16), "the log is due");
        assert_eq!(sync.round(seconds(16)), seconds(26));
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

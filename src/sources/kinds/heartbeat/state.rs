//! Whether a program is alive, from the messages that it sends: messages and times in, a verdict out.
//!
//! Knows no socket and no clock. Called by [`super`].
//!
//! | message | systemd | here |
//! |---|---|---|
//! | `READY=1` | started, or reloaded; the watchdog begins | a beat; ends every state below |
//! | `WATCHDOG=1` | a beat | a beat; also ends the wait for `READY=1` |
//! | `WATCHDOG=trigger` | ends the service, which is started again | fails until `READY=1` |
//! | `WATCHDOG_USEC=n` | the watchdog's time; 0: none | the limit; 0 is ignored: the check could never fail |
//! | `EXTEND_TIMEOUT_USEC=n` | starting, running or stopping may take `n` more | no beat is needed for `n` more |
//! | `STOPPING=1` | stops; no watchdog | fails until `READY=1` |
//! | `RELOADING=1` | reloads until `READY=1`; the watchdog goes on | the same, for the reason only |
//! | `STATUS`, `ERRNO` | shown | in the reason while the check fails |
//! | `MAINPID=n` | the process that counts | another number: a new program, `WATCHDOG_USEC` is forgotten |
//!
//! In one message, `READY` comes before `WATCHDOG` and `WATCHDOG_USEC` comes last, as in systemd.

use std::time::Duration;

use healthz::Instant;

use super::super::text::seconds;
use super::message::{Message, Phase, Watchdog};

/// What is known of a program.
#[derive(Clone, Debug)]
pub struct State {
    settings: Settings,
    phase: Life,
    /// The last beat; before the first, the start.
    last: LastBeat,
    /// From `EXTEND_TIMEOUT_USEC`.
    extended_to: Option<Instant>,
    status: String,
    errno: i32,
    main_pid: Option<u32>,
}

/// The last beat of a program, and the limit that it has set for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastBeat {
    pub at: Instant,
    /// The same on the wall clock, in seconds since 1970, as the kernel has stamped it.
    pub unix_seconds: u64,
    /// From `WATCHDOG_USEC`.
    pub own_limit: Option<Duration>,
}

/// The options that the state depends on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limit: Duration,
    pub passes_until_ready: bool,
}

/// The state of the program, as its messages say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Before `READY=1` and the first beat.
    Starting,
    Ready,
    Reloading,
    Stopping,
    Triggered,
}

impl State {
    pub fn new(settings: Settings, now: Instant) -> Self {
        State {
            settings,
            phase: Life::Starting,
            last: LastBeat {
                at: now,
                unix_seconds: 0,
                own_limit: None,
            },
            extended_to: None,
            status: String::new(),
            errno: 0,
            main_pid: None,
        }
    }

    /// Continues with other options.
    pub fn change_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The last beat of a program that is ready.
    pub fn last_beat(&self) -> Option<LastBeat> {
        let is_ready = matches!(self.phase, Life::Ready | Life::Reloading);
        is_ready.then_some(self.last)
    }

    /// Continues with the last beat that an earlier process has received, unless there was one since.
    pub fn continue_from(&mut self, last: LastBeat) {
        if self.phase == Life::Starting {
            self.phase = Life::Ready;
            self.last = last;
        }
    }

    /// Takes a message that was sent at `sent`, which was `unix_seconds` on the wall clock. Returns what is wrong with
    /// it, for the log.
    pub fn handle(
        &mut self,
        message: &Message,
        sent: Instant,
        unix_seconds: u64,
    ) -> Option<&'static str> {
        if message.main_pid.is_some() {
            if self.main_pid.is_some() && self.main_pid != message.main_pid {
                self.forget_program();
            }
            self.main_pid = message.main_pid;
        }
        self.enter(message.phase, sent, unix_seconds);
        if let Some(status) = &message.status {
            self.status.clone_from(status);
        }
        self.errno = message.errno.unwrap_or(self.errno);
        if let Some(extend) = message.extend {
            self.extended_to = Some(sent.saturating_add(extend));
        }
        match (message.watchdog, self.phase) {
            (Some(Watchdog::Trigger), Life::Stopping) | (None, _) => {}
            (Some(Watchdog::Trigger), _) => self.phase = Life::Triggered,
            (Some(Watchdog::Beat), phase) => {
                self.beat(sent, unix_seconds);
                if phase == Life::Starting {
                    self.phase = Life::Ready;
                    self.extended_to = None;
                }
            }
        }
        match message.limit {
            Some(Some(limit)) => self.last.own_limit = Some(limit),
            Some(None) => return Some("WATCHDOG_USEC=0 ignored: the check could never fail"),
            None => {}
        }
        None
    }

    /// Passes, or fails with a reason, at `now`.
    pub fn verdict(&self, now: Instant) -> Result<(), String> {
        let reason = match (self.phase, self.due()) {
            (Life::Stopping, _) => "stopping".into(),
            (Life::Triggered, _) => "watchdog triggered".into(),
            (_, Some(due)) if now < due => return Ok(()),
            (Life::Starting, None) if self.settings.passes_until_ready => return Ok(()),
            (Life::Starting, _) => "not ready yet".into(),
            (Life::Ready | Life::Reloading, due) => {
                let age = seconds(now.saturating_since(self.last.at));
                let limit = due.map_or(Duration::ZERO, |due| due.saturating_since(self.last.at));
                let reloading = match self.phase {
                    Life::Reloading => " while reloading",
                    _ => "",
                };
                format!(
                    "no heartbeat for {age}{reloading}, limit {}",
                    seconds(limit)
                )
            }
        };
        Err(self.with_status(reason))
    }

    /// When the verdict changes if no message comes.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.verdict(now).ok()?;
        self.due()
    }

    /// When the verdict becomes a failure; `None` if it does not depend on the time.
    fn due(&self) -> Option<Instant> {
        match self.phase {
            Life::Starting if self.settings.passes_until_ready => self.extended_to,
            Life::Starting | Life::Stopping | Life::Triggered => None,
            Life::Ready | Life::Reloading => {
                let limit = self.last.own_limit.unwrap_or(self.settings.limit);
                Some(self.last.at.saturating_add(limit)).max(self.extended_to)
            }
        }
    }

    fn enter(&mut self, phase: Option<Phase>, sent: Instant, unix_seconds: u64) {
        match (phase, self.phase) {
            (Some(Phase::Ready), old) => {
                if matches!(old, Life::Stopping | Life::Triggered) {
                    self.forget_program();
                }
                self.phase = Life::Ready;
                self.extended_to = None;
                self.beat(sent, unix_seconds);
            }
            (Some(Phase::Reloading), Life::Ready) => self.phase = Life::Reloading,
            (Some(Phase::Stopping), _) => self.phase = Life::Stopping,
            (Some(Phase::Reloading) | None, _) => {}
        }
    }

    /// Removes the limit, the status and the error of an earlier program.
    fn forget_program(&mut self) {
        self.last.own_limit = None;
        self.extended_to = None;
        self.status.clear();
        self.errno = 0;
    }

    fn beat(&mut self, sent: Instant, unix_seconds: u64) {
        // One that was sent before the last one changes nothing.
        if self.last.at <= sent {
            self.last.at = sent;
            self.last.unix_seconds = unix_seconds;
        }
    }

    fn with_status(&self, mut reason: String) -> String {
        if !self.status.is_empty() {
            reason.extend([": ", &self.status]);
        }
        if self.errno != 0 {
            let text = std::io::Error::from_raw_os_error(self.errno).to_string();
            let name = text.split(" (os error").next().unwrap_or_default();
            reason.push_str(&format!(" (errno {}, {name})", self.errno));
        }
        reason
    }
}

/// When a message was sent, on the clock of `now`. `sent` is the same time on the wall clock.
///
/// `wall` is the wall clock at `now`. `drained` is when the queue was last empty, so the message was sent after that.
/// If the wall clock was set in between, the result is still within these bounds.
pub fn sent_at(sent: Option<Duration>, wall: Duration, now: Instant, drained: Instant) -> Instant {
    let age = sent.map_or(Duration::ZERO, |sent| wall.saturating_sub(sent));
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let at = Instant::from_millis(now.as_millis().saturating_sub(age));
    at.max(drained).min(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        limit: Duration::from_secs(30),
        passes_until_ready: false,
    };

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// The reason at a time after messages, each with its time; empty if it passes. All times are in seconds.
    fn reason_with(settings: Settings, messages: &[(u64, &str)], now: u64) -> String {
        let mut state = State::new(settings, at(0));
        for (time, text) in messages {
            let message = Message::parse(text.as_bytes()).unwrap();
            state.handle(&message, at(*time), 1_000_000 + *time);
        }
        if let Some(deadline) = state.deadline(at(now)) {
            assert!(deadline > at(now) && state.verdict(deadline).is_err());
        }
        state.verdict(at(now)).err().unwrap_or_default()
    }

    fn reason(messages: &[(u64, &str)], now: u64) -> String {
        reason_with(SETTINGS, messages, now)
    }

    /// Regression: each restart of the worker gave a program that had ended another whole limit.
    #[test]
    fn a_state_that_continues_fails_at_the_time_of_the_one_before() {
        let settings = Settings {
            limit: Duration::from_secs(30),
            passes_until_ready: false,
        };
        let at = Instant::from_millis;
        let mut state = State::new(settings, at(100_000));
        let last = LastBeat {
            at: at(80_000),
            unix_seconds: 1_000_080,
            own_limit: None,
        };
        assert_eq!(state.last_beat(), None);
        state.continue_from(last);
        assert_eq!(state.last_beat(), Some(last));
        assert_eq!(state.deadline(at(100_000)), Some(at(110_000)));
        let reason = state.verdict(at(110_000)).unwrap_err();
        assert_eq!(reason, "no heartbeat for 30 s, limit 30 s");
        let mut state = State::new(settings, at(100_000));
        state.continue_from(LastBeat {
            at: at(99_000),
            own_limit: Some(Duration::from_secs(2)),
            ..last
        });
        assert_eq!(state.deadline(at(100_000)), Some(at(101_000)));
    }

    #[test]
    fn the_last_beat_has_the_time_of_the_wall_clock_at_which_it_was_sent() {
        let mut state = State::new(SETTINGS, at(0));
        let mut last_after = |time, unix_seconds, text: &str| {
            let message = Message::parse(text.as_bytes()).unwrap();
            state.handle(&message, at(time), unix_seconds);
            state.last_beat().map(|last| (last.at, last.unix_seconds))
        };
        assert_eq!(last_after(1, 1_000_001, "STATUS=loading"), None);
        let ready = Some((at(2), 1_000_002));
        assert_eq!(last_after(2, 1_000_002, "READY=1"), ready);
        assert_eq!(last_after(3, 1_000_003, "STATUS=serving"), ready);
        assert_eq!(last_after(1, 1_000_001, "WATCHDOG=1"), ready);
        // The wall clock was set back.
        let beat = Some((at(4), 500_000));
        assert_eq!(last_after(4, 500_000, "WATCHDOG=1"), beat);
    }

    #[test]
    fn a_beat_counts_for_the_limit() {
        for first in ["READY=1", "WATCHDOG=1"] {
            assert_eq!(reason(&[(10, first)], 39), "");
            assert_eq!(
                reason(&[(10, first)], 40),
                "no heartbeat for 30 s, limit 30 s"
            );
            assert_eq!(
                reason(&[(10, first)], 51),
                "no heartbeat for 41 s, limit 30 s"
            );
            assert_eq!(reason(&[(10, first), (60, "WATCHDOG=1")], 89), "");
        }
        // Only these are beats.
        let other = (20, "STATUS=x\nRELOADING=1\nMAINPID=1\nERRNO=0");
        assert!(!reason(&[(10, "READY=1"), other], 41).is_empty());
        // An older beat does not take a newer one back.
        assert_eq!(reason(&[(10, "READY=1"), (5, "WATCHDOG=1")], 39), "");
    }

    #[test]
    fn the_option_says_what_counts_before_ready() {
        let passing = Settings {
            passes_until_ready: true,
            ..SETTINGS
        };
        assert_eq!(reason(&[], 0), "not ready yet");
        assert_eq!(
            reason(&[(1, "STATUS=loading")], 9),
            "not ready yet: loading"
        );
        assert_eq!(reason_with(passing, &[], 1_000_000), "");
        assert_eq!(
            reason_with(passing, &[(1, "READY=1")], 40),
            "no heartbeat for 39 s, limit 30 s"
        );
        // A program that says how long its start may take has a deadline.
        let extend = [(1, "EXTEND_TIMEOUT_USEC=5000000")];
        assert_eq!(reason_with(passing, &extend, 5), "");
        assert_eq!(reason_with(passing, &extend, 6), "not ready yet");
        assert_eq!(reason(&extend, 5), "not ready yet");
    }

    #[test]
    fn a_program_that_stops_fails_until_it_is_ready_again() {
        let stopping = [
            (1, "READY=1\nWATCHDOG_USEC=60000000"),
            (2, "STOPPING=1\nSTATUS=bye"),
        ];
        assert_eq!(reason(&stopping, 3), "stopping: bye");
        let beats = |last| [stopping[0], stopping[1], (3, "WATCHDOG=1"), (4, last)];
        assert_eq!(reason(&beats("RELOADING=1"), 5), "stopping: bye");
        assert_eq!(reason(&beats("WATCHDOG=trigger"), 5), "stopping: bye");
        assert_eq!(reason(&beats("READY=1"), 5), "");
        // The new program has the limit of the option, and the status is its own.
        assert_eq!(
            reason(&beats("READY=1"), 34),
            "no heartbeat for 30 s, limit 30 s"
        );
    }

    #[test]
    fn a_trigger_fails_at_once_until_the_program_is_ready_again() {
        let trigger = (2, "WATCHDOG=trigger\nSTATUS=disk full\nERRNO=28");
        let want = "watchdog triggered: disk full (errno 28, No space left on device)";
        assert_eq!(reason(&[trigger], 2), want);
        // As systemd, which would have ended the program.
        assert_eq!(reason(&[trigger, (3, "WATCHDOG=1")], 3), want);
        assert_eq!(reason(&[trigger, (3, "READY=1")], 3), "");
        // The watchdog comes after READY in one message.
        assert_eq!(
            reason(&[(3, "WATCHDOG=trigger\nREADY=1")], 3),
            "watchdog triggered"
        );
    }

    #[test]
    fn a_program_can_change_its_limit() {
        let message = (1, "READY=1\nWATCHDOG_USEC=5000000");
        assert_eq!(reason(&[message], 5), "");
        assert_eq!(reason(&[message], 6), "no heartbeat for 5 s, limit 5 s");
        // It is not a beat.
        assert!(!reason(&[message, (5, "WATCHDOG_USEC=5000000")], 6).is_empty());
        // The limit of a program before it is not that of another.
        let other = [
            (1, "MAINPID=1\nWATCHDOG_USEC=5000000"),
            (2, "MAINPID=2\nREADY=1"),
        ];
        assert_eq!(reason(&other, 20), "");
        let same = [
            (1, "MAINPID=1\nWATCHDOG_USEC=5000000"),
            (2, "MAINPID=1\nREADY=1"),
        ];
        assert!(!reason(&same, 20).is_empty());
    }

    #[test]
    fn no_limit_is_refused() {
        let mut state = State::new(SETTINGS, at(0));
        let message = Message::parse(b"READY=1\nWATCHDOG_USEC=0").unwrap();
        let warning = state.handle(&message, at(1), 0);
        assert_eq!(
            warning,
            Some("WATCHDOG_USEC=0 ignored: the check could never fail")
        );
        assert!(state.verdict(at(31)).is_err());
    }

    #[test]
    fn a_program_can_ask_for_more_time() {
        let extended = [(1, "READY=1"), (20, "EXTEND_TIMEOUT_USEC=60000000")];
        assert_eq!(reason(&extended, 79), "");
        assert_eq!(reason(&extended, 80), "no heartbeat for 79 s, limit 79 s");
        // Less time than the limit changes nothing.
        assert_eq!(
            reason(&[(1, "READY=1"), (2, "EXTEND_TIMEOUT_USEC=1")], 30),
            ""
        );
        // The extension ends with the start or reload for which it was requested.
        assert!(!reason(&[extended[0], extended[1], (21, "READY=1")], 51).is_empty());
    }

    #[test]
    fn reloading_does_not_stop_the_limit() {
        let reload = [(1, "READY=1"), (10, "RELOADING=1\nMONOTONIC_USEC=1")];
        assert_eq!(reason(&reload, 30), "");
        assert_eq!(
            reason(&reload, 31),
            "no heartbeat for 30 s while reloading, limit 30 s"
        );
        assert_eq!(reason(&[reload[0], reload[1], (11, "READY=1")], 40), "");
    }

    #[test]
    fn the_status_is_replaced_and_removed() {
        let status = |text| [(1, "READY=1\nSTATUS=a\nERRNO=13"), (2, text)];
        let late = "no heartbeat for 30 s, limit 30 s";
        assert_eq!(
            reason(&status("STATUS=b"), 31),
            format!("{late}: b (errno 13, Permission denied)")
        );
        assert_eq!(reason(&status("STATUS=\nERRNO=0"), 31), late);
    }

    #[test]
    fn settings_change_without_forgetting_the_state() {
        let mut state = State::new(SETTINGS, at(0));
        state.handle(&Message::parse(b"READY=1").unwrap(), at(1), 0);
        state.change_settings(Settings {
            limit: Duration::from_secs(5),
            passes_until_ready: false,
        });
        assert_eq!(state.deadline(at(2)), Some(at(6)));
        assert!(state.verdict(at(6)).is_err());
    }

    #[test]
    fn a_step_of_the_wall_clock_does_not_move_a_beat_out_of_its_bounds() {
        let wall = Duration::from_secs(1_000_000);
        let sent = |sent: Option<Duration>| sent_at(sent, wall, at(100), at(90));
        assert_eq!(sent(Some(wall - Duration::from_secs(3))), at(97));
        assert_eq!(sent(Some(wall - Duration::from_secs(30))), at(90));
        assert_eq!(sent(Some(wall + Duration::from_secs(30))), at(100));
        assert_eq!(sent(Some(Duration::MAX)), at(100));
        assert_eq!(sent(Some(Duration::ZERO)), at(90));
        assert_eq!(sent(None), at(100));
    }
}

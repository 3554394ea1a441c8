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
    beat: Instant,
    /// From `WATCHDOG_USEC`.
    own_limit: Option<Duration>,
    /// From `EXTEND_TIMEOUT_USEC`.
    extended_to: Option<Instant>,
    status: String,
    errno: i32,
    main_pid: Option<u32>,
}

/// The options that the state depends on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub limit: Duration,
    pub passes_until_ready: bool,
}

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
            beat: now,
            own_limit: None,
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

    /// Takes a message that was sent at `sent`. Returns what is wrong with it, for the log.
    pub fn handle(&mut self, message: &Message, sent: Instant) -> Option<&'static str> {
        if message.main_pid.is_some() {
            if self.main_pid.is_some() && self.main_pid != message.main_pid {
                self.forget_program();
            }
            self.main_pid = message.main_pid;
        }
        self.enter(message.phase, sent);
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
                self.beat(sent);
                if phase == Life::Starting {
                    self.phase = Life::Ready;
                    self.extended_to = None;
                }
            }
        }
        match message.limit {
            Some(Some(limit)) => self.own_limit = Some(limit),
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
                let age = seconds(now.saturating_since(self.beat));
                let limit = due.map_or(Duration::ZERO, |due| due.saturating_since(self.beat));
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

    /// The verdict is a failure from then on; `None` if no time counts.
    fn due(&self) -> Option<Instant> {
        match self.phase {
            Life::Starting if self.settings.passes_until_ready => self.extended_to,
            Life::Starting | Life::Stopping | Life::Triggered => None,
            Life::Ready | Life::Reloading => {
                let limit = self.own_limit.unwrap_or(self.settings.limit);
                Some(self.beat.saturating_add(limit)).max(self.extended_to)
            }
        }
    }

    fn enter(&mut self, phase: Option<Phase>, sent: Instant) {
        match (phase, self.phase) {
            (Some(Phase::Ready), old) => {
                if matches!(old, Life::Stopping | Life::Triggered) {
                    self.forget_program();
                }
                self.phase = Life::Ready;
                self.extended_to = None;
                self.beat(sent);
            }
            (Some(Phase::Reloading), Life::Ready) => self.phase = Life::Reloading,
            (Some(Phase::Stopping), _) => self.phase = Life::Stopping,
            (Some(Phase::Reloading) | None, _) => {}
        }
    }

    /// Forgets what an earlier program said about itself.
    fn forget_program(&mut self) {
        self.own_limit = None;
        self.extended_to = None;
        self.status.clear();
        self.errno = 0;
    }

    fn beat(&mut self, sent: Instant) {
        self.beat = self.beat.max(sent);
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

/// When a message was sent: its time on the wall clock, on the clock of `now`.
///
/// `wall` is the wall clock at `now`, and `drained` the time when the queue was last empty, so the message is younger.
/// If the wall clock was set in between, the result is still within these bounds.
pub fn sent_at(sent: Option<Duration>, wall: Duration, now: Instant, drained: Instant) -> Instant {
    let age = sent.map_or(Duration::ZERO, |sent| wall.saturating_sub(sent));
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let at = Instant::from_millis(now.as_millis().saturating_sub(age));
    at.max(drained).min(now)
}

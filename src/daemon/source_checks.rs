//! The server's side of the sources processes: applies their verdicts to checks, and replaces the set of checks after
//! the check file was read again.
//!
//! The other side reads files and runs programs, so its messages are not trusted: they are decoded with bounds, and
//! texts are escaped before they get into an answer or the log. Uses only descriptors that are open, so it needs no
//! right that the sandbox takes away. Called by [`super::serve`] on the main thread.

use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use healthz::check::RunResult;
use healthz::limits::REASON_BYTES_MAX;
use healthz::{Check, EndpointSet, EndpointSetError, Instant, Severity};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::checks::Checks;
use super::metrics;
use super::options::Options;
use super::{Failure, failed};
use crate::sources::command::Supervisor;
use crate::sources::config;
use crate::sources::link::{
    Beat, Definition, Link, MESSAGE_BYTES_MAX, Message, RELOAD, Verdict, decode, encode_beat,
};
use crate::sources::rights;
use crate::sources::runs::Runs;
use crate::sources::spec::{self, Endpoints, Spec};
use crate::sources::sys;
use crate::sources::worker::Origin;

/// Most checks that can be configured.
pub const CHECKS_MAX: usize = spec::SPECS_MAX;
/// Most messages that are taken at once, before the main thread does something else.
const MESSAGES_MAX: usize = 512;
/// Longest wait for the check file to be read again. It can be on a file system that does not answer.
const RELOAD_DURATION_MAX: Duration = Duration::from_secs(15);
/// Longest wait for the sources processes before the daemon reports that it is ready. They take some milliseconds.
const OPEN_DURATION_MAX: Duration = Duration::from_secs(2);

const CANNOT_START: &str = "cannot start the sources process";

/// A check and the endpoints that list it.
#[derive(Clone)]
struct Listed {
    check: Arc<Check>,
    endpoints: Endpoints,
    holds: Duration,
    /// When the check fails by itself, if no other verdict comes.
    expires: Option<Instant>,
    /// For a heartbeat that passes: when its last beat was sent, by the clock of this process, and that beat as it was
    /// received.
    beat: Option<(Instant, Beat)>,
    log: StateLog,
}

/// The state of a check that was logged last.
#[derive(Clone, Copy, Debug)]
struct StateLog {
    /// `None` before the first result.
    is_failing: Option<bool>,
    since: Instant,
}

/// A set of checks that is being received.
struct Incoming {
    generation: u32,
    count: usize,
    listed: Vec<Listed>,
    /// The set is in use already, so only its verdicts are applied.
    is_known: bool,
}

/// What the caller must do after messages were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// There may be more messages.
    pub has_more: bool,
    /// The answer to a request to read the check file again has come: its checks are in use, or they were refused.
    pub has_reload_ended: bool,
}

/// The checks that the sources processes report on.
pub struct SourceChecks {
    link: Link,
    /// Before it is started.
    supervisor: Option<Supervisor>,
    generation: u32,
    listed: Vec<Listed>,
    incoming: Option<Incoming>,
    /// The check file, for the log.
    file: Option<String>,
    /// Until when the answer to a request to read the file again must come.
    reload_deadline: Option<Instant>,
}

/// The configured checks, before the sources processes are started.
pub struct Configured {
    origin: Origin,
    specs: Vec<Spec>,
    text: Option<Vec<u8>>,
    /// Of the sources processes.
    rights: OsString,
}

impl Configured {
    /// Reads the check file and the values of `--check`; `None` if no check and no file is configured. The sources
    /// processes will have the limits that this process has now.
    ///
    /// # Errors
    /// Every mistake, one a line.
    pub fn read(options: &Options) -> Result<Option<Self>, Failure> {
        let read = config::read_file(options.check_file.as_deref());
        let read = read.map_err(|mistake| Failure::Usage(mistake.to_string()))?;
        if options.checks.is_empty() && read.is_none() {
            return Ok(None);
        }
        let (file, text) = read.unzip();
        let origin = Origin {
            checks: options.checks.clone(),
            // The worker reads it again, in another directory.
            file: file.map(|file| std::path::absolute(&file).unwrap_or(file)),
        };
        let file = origin.file.as_deref().zip(text.as_deref());
        match config::parse(&origin.checks, file) {
            Ok(specs) => Ok(Some(Configured {
                origin,
                text,
                rights: rights::needed(&specs, options.oom_score_adj.is_some()),
                specs,
            })),
            Err(mistakes) => {
                let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                Err(Failure::Usage(lines.join("\n")))
            }
        }
    }

    /// Makes the checks. Each fails until its first verdict, which comes after [`SourceChecks::start`] has started the
    /// sources processes.
    ///
    /// # Errors
    /// If the system lacks what they need.
    pub fn prepare(self, now: Instant) -> Result<SourceChecks, Failure> {
        let prepared = self.try_prepare(now);
        prepared.map_err(failed(CANNOT_START))
    }

    fn try_prepare(self, now: Instant) -> io::Result<SourceChecks> {
        let (link, far) = Link::pair()?;
        let file = self.origin.file.as_ref();
        let file = file.map(|file| file.display().to_string());
        let supervisor = Supervisor::new(far, self.origin, self.text, self.rights)?;
        let listed = self
            .specs
            .iter()
            .map(|spec| Listed::new(&Definition::new(spec), now));
        Ok(SourceChecks {
            link,
            supervisor: Some(supervisor),
            generation: 0,
            listed: listed.collect(),
            incoming: None,
            file,
            reload_deadline: None,
        })
    }
}

impl Listed {
    fn new(definition: &Definition<'_>, now: Instant) -> Self {
        let holds = Duration::from_millis(u64::from(definition.holds_ms));
        let mut check = Check::heartbeat(definition.name, holds)
            .initially_failing()
            .overdue_since("not checked")
            // `beat` is called for each verdict of the worker, which is not a heartbeat of a program.
            .with_reported_beats();
        if let Some(group) = definition.group {
            check = check.group(group);
        }
        if definition.severity == spec::Severity::Warning {
            check = check.with_severity(Severity::Warning);
        }
        Listed {
            check: Arc::new(check),
            endpoints: definition.endpoints,
            holds,
            expires: None,
            beat: None,
            log: StateLog {
                is_failing: None,
                since: now,
            },
        }
    }

    fn apply(&mut self, verdict: &Verdict<'_>, now: Instant, unix_seconds: Option<u64>) {
        // The limit of the previous verdict may have passed without a request that saw it.
        self.check.observe(now, unix_seconds);
        record_runs(&self.check, &verdict.runs);
        if let Some(beat) = verdict.beat {
            self.check.record_beat(beat.unix_seconds);
        }
        let ago = |age_ms: u32| {
            let at = now.as_millis().saturating_sub(u64::from(age_ms));
            Instant::from_millis(at)
        };
        let beat = verdict.beat.filter(|_| verdict.failure.is_none());
        self.beat = beat.map(|beat| (ago(beat.age_ms), beat));
        self.expires = match verdict.failure {
            Some(reason) => {
                self.check.fail(&escaped(reason));
                None
            }
            None => {
                let measured = ago(verdict.age_ms);
                self.check.beat(measured);
                Some(measured.saturating_add(self.holds))
            }
        };
        self.check.observe(now, unix_seconds);
    }

    /// Makes the check fail because its state is not known.
    fn fail(&mut self, reason: &str, now: Instant, unix_seconds: Option<u64>) {
        self.check.observe(now, unix_seconds);
        self.check.fail(reason);
        self.check.observe(now, unix_seconds);
        self.expires = None;
        self.beat = None;
    }
}

fn record_runs(check: &Check, runs: &Runs) {
    let last = Duration::from_micros(runs.last_micros);
    for (result, count) in [
        (RunResult::Success, runs.success),
        (RunResult::Failure, runs.failure),
        (RunResult::Timeout, runs.timeout),
    ] {
        // At most `RUNS_MAX`.
        for _ in 0..count {
            check.record_run(result, last);
        }
    }
}

impl SourceChecks {
    /// Starts the sources processes. Call this once, in a thread that may start programs.
    ///
    /// # Errors
    /// If the system does not start a process.
    pub fn start(&mut self) -> Result<(), Failure> {
        let Some(supervisor) = self.supervisor.take() else {
            return Ok(());
        };
        // The process is never waited for. When it ends, the link is closed, and the kernel reaps it.
        let started = supervisor.start().and_then(|()| sys::reap_children());
        started.map_err(failed(CANNOT_START))
    }

    /// For the main thread's poll.
    pub fn as_raw_fd(&self) -> RawFd {
        self.link.as_raw_fd()
    }

    /// Waits until the sources processes have opened the sockets for heartbeats, or have ended, for at most
    /// [`OPEN_DURATION_MAX`]. Before that, the daemon is not ready: a program that is started next may send a heartbeat
    /// at once.
    pub fn wait_until_open(&self) {
        let mut watched = [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(OPEN_DURATION_MAX).unwrap_or(PollTimeout::ZERO);
        // The first message is `Opened`. It is taken with the others.
        if poll(&mut watched, timeout) == Ok(0) {
            log::warn!("the sources process has not started yet; checks fail until it does");
        }
    }

    /// Whether the checks can change while the daemon runs.
    pub fn can_reload(&self) -> bool {
        self.file.is_some()
    }

    /// The endpoints with the daemon's own checks and these.
    ///
    /// # Errors
    /// If two checks have the same name; the parser of the configuration has refused that.
    pub fn endpoint_set(&self, own: &Checks) -> Result<EndpointSet, EndpointSetError> {
        endpoint_set(&self.listed, own)
    }

    /// The checks, for the status line.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.listed.iter().map(|listed| &*listed.check)
    }

    /// Counts changes of the checks. `unix_seconds` is the time of the wall clock, if it is known.
    pub fn observe(&self, now: Instant, unix_seconds: Option<u64>) {
        for check in self.checks() {
            check.observe(now, unix_seconds);
        }
    }

    /// Sends the request to read the check file again. Returns false if there is no check file, or if the request
    /// cannot be sent.
    pub fn reload(&mut self, now: Instant) -> bool {
        let Some(file) = &self.file else {
            log::info!("received SIGHUP: there is no check file to read again");
            return false;
        };
        log::info!("received SIGHUP: reading {file} again");
        if let Err(error) = self.link.send(RELOAD) {
            log::warn!("cannot send the sources process the request to read {file} again: {error}");
            metrics::count_reload(false);
            return false;
        }
        self.reload_deadline = Some(now.saturating_add(RELOAD_DURATION_MAX));
        true
    }

    /// True once if the answer to [`reload`](SourceChecks::reload) is missing.
    pub fn has_reload_expired(&mut self, now: Instant) -> bool {
        let is_expired = self.reload_deadline.is_some_and(|deadline| deadline <= now);
        if is_expired {
            self.reload_deadline = None;
            metrics::count_reload(false);
            let file = self.file.as_deref().unwrap_or_default();
            log::warn!(
                "{file} was not read within {} s; the checks stay as they are",
                RELOAD_DURATION_MAX.as_secs()
            );
        }
        is_expired
    }

    /// When a check fails by itself, or [`has_reload_expired`](SourceChecks::has_reload_expired) has to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let expires = self.listed.iter().filter_map(|listed| listed.expires);
        expires.chain(self.reload_deadline).min()
    }

    /// Takes messages. `replace` gets a new set when one is complete.
    ///
    /// # Errors
    /// If the sources processes have ended.
    pub fn take(
        &mut self,
        own: &Checks,
        now: Instant,
        unix_seconds: Option<u64>,
        mut replace: impl FnMut(EndpointSet) -> Result<(), String>,
    ) -> Result<Taken, Failure> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let mut taken = Taken::default();
        for _ in 0..MESSAGES_MAX {
            let message = match self.link.receive(&mut buffer) {
                Ok(Some(bytes)) => decode(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
                Ok(None) | Err(_) => return Err(self.lost(now, unix_seconds)),
            };
            match message {
                Some(Message::Commit { generation, text }) => {
                    taken.has_reload_ended |= self.commit(generation, text, own, &mut replace);
                }
                Some(Message::RefusedEnd) => {
                    let file = self.file.as_deref().unwrap_or_default();
                    log::error!("{file} was not used; the checks stay as they are");
                    // A refusal after the deadline was counted when the deadline passed.
                    if self.reload_deadline.take().is_some() {
                        metrics::count_reload(false);
                    }
                    taken.has_reload_ended = true;
                }
                Some(message) => self.apply(&message, now, unix_seconds),
                None => log::warn!("the sources process sent a message that is not valid"),
            }
        }
        taken.has_more = true;
        Ok(taken)
    }

    fn apply(&mut self, message: &Message<'_>, now: Instant, unix_seconds: Option<u64>) {
        match message {
            Message::Verdict(verdict) => {
                let index = usize::from(verdict.index);
                let generation = verdict.generation;
                let incoming = self
                    .incoming
                    .as_mut()
                    .filter(|set| set.generation == generation && !set.is_known);
                let listed = match incoming {
                    Some(set) => set.listed.get_mut(index),
                    None if generation == self.generation => self.listed.get_mut(index),
                    // Sent before the server replaced the set.
                    None => None,
                };
                if let Some(listed) = listed {
                    listed.apply(verdict, now, unix_seconds);
                }
            }
            Message::Begin { generation, count } => {
                self.incoming = Some(Incoming {
                    generation: *generation,
                    count: usize::from(*count),
                    listed: Vec::new(),
                    is_known: *generation == self.generation,
                });
            }
            Message::Define { index, definition } => {
                self.define(usize::from(*index), definition, now)
            }
            Message::Refused(line) => log::error!("{}", escaped(line)),
            Message::Log(level, text) => log::log!(*level, "{}", escaped(text)),
            Message::WorkerEnded(how) => {
                log::error!(
                    "the sources process has ended ({}); it is started again",
                    escaped(how)
                );
                self.incoming = None;
                self.send_beats(now);
                let reason = format!(
                    "not checked: the sources process has ended ({})",
                    escaped(how)
                );
                for listed in &mut self.listed {
                    listed.fail(&reason, now, unix_seconds);
                }
            }
            Message::Restarting(why) => {
                log::warn!("{}", escaped(why));
                self.send_beats(now);
            }
            Message::Opened | Message::Commit { .. } | Message::RefusedEnd => {}
        }
    }

    /// Sends the last beats of the checks that pass to the next worker. Without them, programs would have to beat
    /// again earlier than their limit.
    fn send_beats(&self, now: Instant) {
        for (listed, index) in self.listed.iter().zip(0..) {
            let Some((at, beat)) = listed.beat.filter(|_| listed.check.passes(now)) else {
                continue;
            };
            let age = now.saturating_since(at).as_millis();
            let beat = Beat {
                age_ms: u32::try_from(age).unwrap_or(u32::MAX),
                ..beat
            };
            // If it is lost, the heartbeat fails until the next beat.
            let _ = self.link.send(&encode_beat(self.generation, index, beat));
        }
    }

    fn define(&mut self, index: usize, definition: &Definition<'_>, now: Instant) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        if incoming.is_known || index != incoming.listed.len() {
            return;
        }
        let old = self
            .listed
            .iter()
            .find(|old| old.check.name() == definition.name);
        let listed = match old {
            Some(old) if definition.is_kept => old.clone(),
            Some(old) => Listed {
                log: old.log,
                ..Listed::new(definition, now)
            },
            None => Listed::new(definition, now),
        };
        incoming.listed.push(listed);
    }

    /// Uses the set that was received. Returns true if that answers a request to read the file again.
    fn commit(
        &mut self,
        generation: u32,
        text: &str,
        own: &Checks,
        replace: impl FnMut(EndpointSet) -> Result<(), String>,
    ) -> bool {
        let Some(incoming) = self.incoming.take() else {
            return false;
        };
        if incoming.is_known
            || generation != incoming.generation
            || incoming.listed.len() != incoming.count
        {
            return false;
        }
        let was_asked = self.reload_deadline.take().is_some();
        let set = endpoint_set(&incoming.listed, own).map_err(|error| error.to_string());
        let replaced = set.and_then(replace);
        metrics::count_reload(replaced.is_ok());
        match replaced {
            Ok(()) => {
                self.listed = incoming.listed;
                self.generation = generation;
                log::info!("checks in use: {} ({})", incoming.count, escaped(text));
            }
            Err(reason) => {
                log::error!("the new checks cannot be used: {reason}; restart healthz to use them")
            }
        }
        was_asked
    }

    fn lost(&mut self, now: Instant, unix_seconds: Option<u64>) -> Failure {
        for listed in &mut self.listed {
            let reason = "not checked: the sources processes have ended";
            listed.fail(reason, now, unix_seconds);
        }
        Failure::Run("the sources processes have ended; start healthz again".to_owned())
    }

    /// Logs changes of states since the last call. Returns true if there was one.
    pub fn report_changes(&mut self, now: Instant) -> bool {
        let mut is_changed = false;
        for listed in &mut self.listed {
            if listed.check.health(now) == healthz::Health::Unknown {
                continue;
            }
            let reason = listed.check.reason(now);
            if reason.is_some() {
                listed.expires = None;
            }
            let is_failing = Some(reason.is_some());
            if listed.log.is_failing == is_failing {
                continue;
            }
            is_changed = true;
            let name = listed.check.name();
            let duration = OneUnit(now.saturating_since(listed.log.since));
            match (reason, listed.log.is_failing) {
                (Some(reason), None) => log::warn!("check {name} fails: {}", reason.as_str()),
                (Some(reason), Some(_)) => {
                    log::warn!(
                        "check {name} fails after it passed for {duration}: {}",
                        reason.as_str()
                    )
                }
                (None, None) => log::info!("check {name} passes"),
                (None, Some(_)) => {
                    log::info!("check {name} passes again after it failed for {duration}")
                }
            }
            listed.log = StateLog {
                is_failing,
                since: now,
            };
        }
        is_changed
    }
}

/// The endpoints with the daemon's own checks and `listed`.
fn endpoint_set(listed: &[Listed], own: &Checks) -> Result<EndpointSet, EndpointSetError> {
    own.endpoint_set(|endpoint| {
        let is_in = move |endpoints: &Endpoints| match endpoint {
            "/healthz" => endpoints.healthz,
            "/livez" => endpoints.livez,
            _ => endpoints.readyz,
        };
        listed
            .iter()
            .filter(move |listed| is_in(&listed.endpoints))
            .map(|listed| Arc::clone(&listed.check))
            .collect()
    })
}

/// `text` without characters that control a terminal, and cut. The limit is above that of a reason, which the check cuts
/// again.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if REASON_BYTES_MAX * 3 < escaped.len() {
            break;
        }
        match c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            true => drop(write!(escaped, "{}", c.escape_default())),
            false => escaped.push(c),
        }
    }
    escaped
}

/// A duration in the largest unit of which it has at least two, or in seconds; rounded down: `41 s`, `12 min`, `3 h`,
/// `9 d`.
struct OneUnit(Duration);

impl std::fmt::Display for OneUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..120 => write!(f, "{seconds} s"),
            seconds @ 120..7200 => write!(f, "{} min", seconds / 60),
            seconds @ 7200..172_800 => write!(f, "{} h", seconds / 3600),
            seconds => write!(f, "{} d", seconds / 86_400),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sources::link::{Verdict, decode_beat, encode};

    pub const T0: Instant = Instant::from_millis(100_000);

    /// Checks with these names, and the other end of their link.
    pub fn checks(names: &[&str]) -> (SourceChecks, Link) {
        let (link, far) = Link::pair().unwrap();
        let listed = names.iter().map(|name| Listed::new(&definition(name), T0));
        let sources = SourceChecks {
            link,
            supervisor: None,
            generation: 0,
            listed: listed.collect(),
            incoming: None,
            file: Some("checks.toml".to_owned()),
            reload_deadline: None,
        };
        (sources, Link::from_inherited(far).unwrap())
    }

    /// The wall clock of these tests.
    fn unix(now: Instant) -> u64 {
        1_000_000 + now.as_millis() / 1000
    }

    fn definition<'a>(name: &'a str) -> Definition<'a> {
        Definition {
            name,
            group: None,
            endpoints: Endpoints {
                healthz: true,
                livez: false,
                readyz: true,
            },
            severity: spec::Severity::Error,
            holds_ms: 13_000,
            is_kept: false,
        }
    }

    fn verdict(generation: u32, index: u16, failure: Option<&str>) -> Message<'_> {
        Message::Verdict(Verdict {
            generation,
            index,
            age_ms: 0,
            failure,
            beat: None,
            runs: Runs::default(),
        })
    }

    /// Sends the messages and takes them. Returns how many sets were replaced.
    fn take(sources: &mut SourceChecks, far: &Link, messages: &[Message<'_>], now: Instant) -> u32 {
        for message in messages {
            far.send(&encode(message)).unwrap();
        }
        static OWN: std::sync::OnceLock<Checks> = std::sync::OnceLock::new();
        let own = OWN.get_or_init(|| Checks::new(&Options::default()));
        let mut replaced = 0;
        let replace = |_| {
            replaced += 1;
            Ok(())
        };
        sources.take(own, now, Some(unix(now)), replace).unwrap();
        replaced
    }

    /// Lets the first check pass.
    pub fn pass(sources: &mut SourceChecks, far: &Link, now: Instant) {
        take(sources, far, &[verdict(0, 0, None)], now);
    }

    fn reasons(sources: &SourceChecks, now: Instant) -> Vec<String> {
        let reason = |check: &Check| {
            let reason = check.reason(now);
            let text = reason.as_ref().map_or("ok", |reason| reason.as_str());
            format!("{} {text}", check.name())
        };
        sources.checks().map(reason).collect()
    }

    #[test]
    fn a_verdict_holds_for_a_while_and_then_its_check_fails() {
        let (mut sources, far) = checks(&["a", "b"]);
        assert_eq!(
            reasons(&sources, T0),
            ["a not reported yet", "b not reported yet"]
        );
        take(
            &mut sources,
            &far,
            &[verdict(0, 0, None), verdict(0, 1, Some("x: 1, limit 2"))],
            T0,
        );
        assert_eq!(reasons(&sources, T0), ["a ok", "b x: 1, limit 2"]);
        let expires = T0.saturating_add(Duration::from_secs(13));
        assert_eq!(sources.deadline(), Some(expires));
        assert_eq!(
            reasons(&sources, expires),
            ["a not checked for 13 s", "b x: 1, limit 2"]
        );
        // No deadline is left.
        assert!(sources.report_changes(expires));
        assert_eq!(sources.deadline(), None);
    }

    fn only(sources: &SourceChecks) -> Arc<Check> {
        Arc::clone(&sources.listed[0].check)
    }

    #[test]
    fn the_runs_of_verdicts_are_added_to_the_check() {
        let (mut sources, far) = checks(&["a"]);
        let send = |sources: &mut SourceChecks, runs| {
            let Message::Verdict(verdict) = verdict(0, 0, None) else {
                unreachable!()
            };
            let message = Message::Verdict(Verdict { runs, ..verdict });
            take(sources, &far, &[message], T0);
        };
        let runs = Runs {
            success: 2,
            failure: 0,
            timeout: 1,
            last_micros: 1500,
        };
        assert_eq!(only(&sources).runs(), None);
        send(&mut sources, runs);
        send(&mut sources, runs);
        // A verdict without a run changes nothing.
        send(&mut sources, Runs::default());
        let runs = only(&sources).runs().unwrap();
        let counts = [runs.success, runs.failure, runs.timeout];
        assert_eq!(counts, [4, 0, 2]);
        assert_eq!(runs.last_duration, Duration::from_micros(1500));
    }

    /// No request and no scrape comes between the changes.
    #[test]
    fn changes_are_counted_when_they_happen_even_if_they_are_undone() {
        let (mut sources, far) = checks(&["a"]);
        let check = only(&sources);
        let after = |seconds| T0.saturating_add(Duration::from_secs(seconds));
        take(&mut sources, &far, &[verdict(0, 0, None)], T0);
        assert_eq!((check.changes(), check.last_change()), (1, Some(unix(T0))));
        let undone = [verdict(0, 0, Some("x")), verdict(0, 0, None)];
        take(&mut sources, &far, &undone, after(1));
        assert_eq!(check.changes(), 3);
        // It runs out at 14 s. The next verdict comes before the round that would have seen that.
        take(&mut sources, &far, &[verdict(0, 0, None)], after(20));
        assert_eq!(check.changes(), 5);
        let ended = [Message::WorkerEnded("exit code 1"), verdict(0, 0, None)];
        take(&mut sources, &far, &ended, after(21));
        assert_eq!(check.changes(), 7);
        // Without a verdict, a round sees that it has run out.
        let expired = sources.deadline().unwrap();
        sources.observe(expired, Some(unix(expired)));
        assert_eq!(check.changes(), 8);
        assert_eq!(check.last_change(), Some(unix(expired)));
    }

    #[test]
    fn the_next_worker_gets_the_last_beat_as_it_was_received() {
        let (mut sources, far) = checks(&["a"]);
        let beat = Beat {
            age_ms: 400,
            limit_ms: 9000,
            unix_seconds: 1_000_099,
        };
        let Message::Verdict(passing) = verdict(0, 0, None) else {
            unreachable!()
        };
        let message = Message::Verdict(Verdict {
            beat: Some(beat),
            ..passing
        });
        take(&mut sources, &far, &[message], T0);
        let later = T0.saturating_add(Duration::from_secs(2));
        take(&mut sources, &far, &[Message::Restarting("why")], later);
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let message = far.receive(&mut buffer).unwrap().unwrap();
        let expected = Beat {
            age_ms: 2400,
            ..beat
        };
        assert_eq!(decode_beat(message), Some((0, 0, expected)));
    }

    #[test]
    fn a_set_is_used_when_it_is_complete_and_kept_checks_keep_their_state() {
        let (mut sources, far) = checks(&["a", "b"]);
        take(
            &mut sources,
            &far,
            &[verdict(0, 0, None), verdict(0, 1, None)],
            T0,
        );
        let begin = Message::Begin {
            generation: 1,
            count: 2,
        };
        let define = |index, name, is_kept| Message::Define {
            index,
            definition: Definition {
                is_kept,
                ..definition(name)
            },
        };
        let commit = Message::Commit {
            generation: 1,
            text: "",
        };
        // One of two.
        let incomplete = [begin.clone(), define(0, "b", true), commit.clone()];
        assert_eq!(take(&mut sources, &far, &incomplete, T0), 0);
        assert_eq!(reasons(&sources, T0), ["a ok", "b ok"]);
        // A verdict for the new set does not reach the old one.
        let set = [
            begin.clone(),
            define(0, "b", true),
            define(1, "c", false),
            verdict(1, 1, Some("new")),
        ];
        assert_eq!(take(&mut sources, &far, &set, T0), 0);
        assert_eq!(reasons(&sources, T0), ["a ok", "b ok"]);
        assert_eq!(
            take(&mut sources, &far, std::slice::from_ref(&commit), T0),
            1
        );
        assert_eq!(reasons(&sources, T0), ["b ok", "c new"]);
        // A late verdict for the old set is ignored, and so is the same set again.
        let late = [
            verdict(0, 0, Some("late")),
            begin,
            define(0, "x", false),
            define(1, "y", false),
            commit,
        ];
        assert_eq!(take(&mut sources, &far, &late, T0), 0);
        assert_eq!(reasons(&sources, T0), ["b ok", "c new"]);
    }

    fn begin(generation: u32, count: u16) -> Message<'static> {
        Message::Begin { generation, count }
    }

    fn define(index: u16, name: &str) -> Message<'_> {
        let definition = definition(name);
        Message::Define { index, definition }
    }

    fn commit(generation: u32) -> Message<'static> {
        let text = "";
        Message::Commit { generation, text }
    }

    #[test]
    fn a_set_with_another_number_or_a_gap_is_not_used() {
        let (mut sources, far) = checks(&["a"]);
        for set in [
            &[begin(1, 1), define(0, "b"), commit(2)][..],
            &[begin(1, 1), define(1, "b"), commit(1)],
            &[begin(0, 1), define(0, "b"), commit(0)],
        ] {
            assert_eq!(take(&mut sources, &far, set, T0), 0, "{set:?}");
        }
        // A set that the server has is announced again. Its verdicts are for the checks in use.
        let known = [begin(0, 1), define(0, "a"), verdict(0, 0, Some("x"))];
        take(&mut sources, &far, &known, T0);
        assert_eq!(reasons(&sources, T0), ["a x"]);
    }

    #[test]
    fn a_changed_check_has_no_result_and_its_state_is_not_logged_again() {
        let (mut sources, far) = checks(&["a"]);
        take(&mut sources, &far, &[verdict(0, 0, Some("x"))], T0);
        assert!(sources.report_changes(T0));
        let set = [begin(1, 1), define(0, "a"), commit(1)];
        assert_eq!(take(&mut sources, &far, &set, T0), 1);
        assert_eq!(reasons(&sources, T0), ["a not reported yet"]);
        take(&mut sources, &far, &[verdict(1, 0, Some("y"))], T0);
        assert!(!sources.report_changes(T0));
    }

    #[test]
    fn a_reload_is_answered_or_expires_once() {
        let (mut sources, far) = checks(&["a"]);
        let own = Checks::new(&Options::default());
        assert!(sources.can_reload() && sources.reload(T0));
        let deadline = T0.saturating_add(RELOAD_DURATION_MAX);
        assert_eq!(sources.deadline(), Some(deadline));
        assert!(!sources.has_reload_expired(T0));
        for message in [begin(1, 1), define(0, "b"), commit(1), Message::RefusedEnd] {
            let answers = !matches!(message, Message::Begin { .. } | Message::Define { .. });
            far.send(&encode(&message)).unwrap();
            let taken = sources.take(&own, T0, None, |_| Ok(())).unwrap();
            assert_eq!(taken.has_reload_ended, answers, "{message:?}");
        }
        assert!(!sources.has_reload_expired(deadline));
        assert!(sources.reload(T0));
        assert!(sources.has_reload_expired(deadline));
        assert!(!sources.has_reload_expired(deadline));
        sources.file = None;
        assert!(!sources.can_reload() && !sources.reload(T0));
    }

    #[test]
    fn a_check_is_listed_at_its_endpoints_only() {
        for only in ["/healthz", "/livez", "/readyz"] {
            let (mut sources, _far) = checks(&["a"]);
            sources.listed[0].endpoints = Endpoints {
                healthz: only == "/healthz",
                livez: only == "/livez",
                readyz: only == "/readyz",
            };
            let own = Checks::new(&Options::default());
            let set = sources.endpoint_set(&own).unwrap();
            for endpoint in set.endpoints() {
                let is_listed = endpoint.checks().any(|check| check.name() == "a");
                assert_eq!(is_listed, endpoint.path() == only, "{only}");
            }
        }
    }

    #[test]
    fn a_link_that_is_reset_is_lost() {
        let (mut sources, far) = checks(&["a"]);
        let own = Checks::new(&Options::default());
        assert!(sources.reload(T0));
        // It has not read the request.
        drop(far);
        assert!(sources.take(&own, T0, None, |_| Ok(())).is_err());
        let reason = "a not checked: the sources processes have ended";
        assert_eq!(reasons(&sources, T0), [reason]);
    }

    #[test]
    fn texts_of_the_sources_processes_are_escaped() {
        let (mut sources, far) = checks(&["a"]);
        let failure = verdict(
            0,
            0,
            Some("\u{1b}[31m\r\nHTTP/1.1 200 OK \u{202e} \u{2603}"),
        );
        take(&mut sources, &far, &[failure], T0);
        let reasons = reasons(&sources, T0);
        assert_eq!(
            reasons,
            ["a \\u{1b}[31m\\r\\nHTTP/1.1 200 OK \\u{202e} \u{2603}"]
        );
        // Also in the log, where texts may be longer than in an answer.
        let long = escaped(&"\u{1b}".repeat(1000)).len();
        assert!((3 * REASON_BYTES_MAX..3 * REASON_BYTES_MAX + 10).contains(&long));
    }

    /// For any messages, a check passes only after a verdict that passes, and there are never too many checks.
    #[test]
    fn random_messages_never_make_a_check_pass() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut sources, far) = checks(&["a", "b", "c"]);
        let names = ["a", "b", "c", "d"];
        for _ in 0..20_000 {
            let (generation, index) = (rng.u32(..4), rng.u16(..5));
            let message = match rng.u8(..8) {
                0 => verdict(generation, index, Some("it fails")),
                1 => Message::Begin {
                    generation,
                    count: rng.u16(..5),
                },
                2 | 3 => Message::Define {
                    index,
                    definition: Definition {
                        is_kept: rng.bool(),
                        ..definition(names[rng.usize(..4)])
                    },
                },
                4 => Message::Commit {
                    generation,
                    text: "",
                },
                5 => Message::WorkerEnded("exit code 1"),
                6 => Message::Refused("line"),
                _ => Message::RefusedEnd,
            };
            take(&mut sources, &far, &[message], T0);
            assert!(sources.listed.len() <= 4);
            assert!(
                reasons(&sources, T0)
                    .iter()
                    .all(|reason| !reason.ends_with(" ok"))
            );
            // Bytes that are no message.
            let noise: Vec<u8> = (0..rng.usize(1..40)).map(|_| rng.u8(..)).collect();
            if decode(&noise).is_none() {
                far.send(&noise).unwrap();
            }
        }
    }

    #[test]
    fn durations_have_one_unit() {
        let texts = [0, 41, 119, 120, 7199, 7200, 172_799, 172_800]
            .map(|s| OneUnit(Duration::from_secs(s)).to_string());
        assert_eq!(
            texts,
            [
                "0 s", "41 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"
            ]
        );
    }
}

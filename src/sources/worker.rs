//! The worker: runs the checks and sends their verdicts to the server.
//!
//! One thread has a mio loop for all descriptors, and the threads of [`super::jobs`] do the work that may block in the
//! kernel. [`super::engine`] decides when each check is attempted. Called by [`super::command`], in a process of its
//! own that the supervisor starts.
//!
//! It ends when the server's end of the link is closed. If the supervisor ends, the worker takes its place.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{self, Duration};

use healthz::Instant;
use log::Level;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::attempt::{Attempt, Listener, Started, TOKENS_PER_CHECK};
use super::clock::Clock;
use super::config::{self, Mistake};
use super::engine::{Action, Commit, Engine, Id};
use super::jobs::Jobs;
use super::kinds::exec::Programs;
use super::kinds::heartbeat::LastBeat;
use super::kinds::stream::Opened;
use super::kinds::{self, heartbeat};
use super::link::{
    Beat, Definition, Link, MESSAGE_BYTES_MAX, Message, RELOAD, Verdict, decode_beat, encode,
};
use super::spec::{Kind, Outcome, Spec};
use super::store::{Store, Stored};
use crate::units::Shown;

const LINK: Token = Token(0);
const JOBS: Token = Token(1);
const SUPERVISOR: Token = Token(2);
/// Tokens of checks begin here.
const CHECKS: usize = 8;

/// If this many messages wait until the server receives them, further log records are dropped. A whole set and some log
/// records fit.
const OUTBOX_MAX: usize = 2 * super::spec::SPECS_MAX + 64;

/// Most threads for work that can hang in the kernel: one for each check of a set and of the set that replaces it, and
/// one to read the check file. So a file without the checks that hang can be read even if all of them do.
const THREADS_MAX: usize = 2 * super::spec::SPECS_MAX + 1;

/// Pause between two calls of [`Programs::reap`], while a program runs, or a killed process has not ended yet.
const REAP_PERIOD: Duration = Duration::from_millis(400);

/// How long results are held back while other attempts that began with them run, so that the server wakes up once for
/// all of them.
const BURST_DURATION_MAX: Duration = Duration::from_millis(50);

/// Memory is given back before a wait of at least this. The page faults when it is used again cost about as much CPU
/// time as one or two checks.
const REST_DURATION_MIN: Duration = Duration::from_secs(1);
/// Most mistakes of a refused check file that are sent to the server.
const REFUSED_MAX: usize = 16;

/// Why the worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server has ended.
    ServerClosed,
    /// The supervisor has ended: this process must take its place.
    SupervisorEnded,
}

/// The configuration of the checks.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The values of `--check`.
    pub checks: Vec<OsString>,
    /// The check file.
    pub file: Option<PathBuf>,
}

/// The result of a job.
enum Done {
    /// With the time that it took.
    Attempt(Id, Outcome, Duration),
    Opened(Id, Opened),
    File(Result<Vec<u8>, Mistake>),
}

/// The open attempt or listener of a check.
enum Driver {
    Blocking,
    Connecting(Option<Running>),
    Listening(Result<Box<dyn Listener>, String>),
    /// Gets the socket and the state of this other check when that one is closed: the same socket with other
    /// options.
    Inheriting(Id),
}

/// An attempt that runs in the loop.
struct Running {
    attempt: Box<dyn Attempt>,
    /// On a clock that is finer than that of the loop, for the metrics.
    began: time::Instant,
}

/// The drivers by check. There are few, so they are searched; a map would be 8 KiB of code.
#[derive(Default)]
struct Drivers(Vec<(Id, Driver)>);

impl Drivers {
    fn get(&self, id: Id) -> Option<&Driver> {
        let found = self.0.iter().find(|(known, _)| *known == id);
        found.map(|(_, driver)| driver)
    }

    fn get_mut(&mut self, id: Id) -> Option<&mut Driver> {
        let found = self.0.iter_mut().find(|(known, _)| *known == id);
        found.map(|(_, driver)| driver)
    }

    // For size: it is rarely called, and from seven places.
    #[inline(never)]
    fn insert(&mut self, id: Id, driver: Driver) {
        match self.get_mut(id) {
            Some(old) => *old = driver,
            None => self.0.push((id, driver)),
        }
    }

    fn remove(&mut self, id: Id) -> Option<Driver> {
        let at = self.0.iter().position(|(known, _)| *known == id)?;
        Some(self.0.remove(at).1)
    }

    /// The last beat of a check, for the worker after this one.
    fn last_beat(&self, id: Id, now: Instant) -> Option<Beat> {
        let Driver::Listening(Ok(listener)) = self.get(id)? else {
            return None;
        };
        let last = listener.last_beat()?;
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Some(Beat {
            age_ms: millis(now.saturating_since(last.at)),
            limit_ms: last.own_limit.map_or(0, millis),
            unix_seconds: last.unix_seconds,
        })
    }
}

struct Worker {
    clock: Clock,
    poll: Poll,
    link: Link,
    store: Store,
    origin: Origin,
    engine: Engine,
    drivers: Drivers,
    jobs: Jobs<Done>,
    /// Checks for which a thread connects, maybe since an earlier attempt.
    opening: Vec<Id>,
    programs: Programs,
    /// When [`Programs::reap`] has to be called again.
    reap_due: Option<Instant>,
    /// Messages for which the link had no room yet.
    outbox: VecDeque<Vec<u8>>,
    /// The check file is being read; true if it has to be read once more after that.
    reading: Option<bool>,
    /// The text of the check file that the staged checks are from.
    staged_text: Option<Vec<u8>>,
    /// Listeners that may have more to receive.
    unfinished: Vec<Id>,
    /// Checks were read, or attempts made, since memory was given back.
    has_worked: bool,
    /// Since when results are held back.
    held_since: Option<Instant>,
}

/// Runs until the server or the supervisor ends. `supervisor` becomes readable when the supervisor ends (a
/// pidfd). `is_restart`: a worker before this one has ended, so no check waits for its initial delay, and the server
/// gets the whole set.
///
/// # Errors
/// If the system has no memory or descriptors for the event loop, or if the stored configuration is not valid.
pub fn run(
    link: Link,
    store: Store,
    origin: Origin,
    supervisor: impl AsRawFd,
    is_restart: bool,
) -> io::Result<End> {
    crate::unneeded::share_heap();
    let stored = store.read()?;
    let specs = parse(&origin, stored.text.as_deref()).map_err(|mistakes| {
        let first = mistakes.first().cloned().unwrap_or_default();
        io::Error::other(format!("the stored configuration is not valid: {first}"))
    })?;
    let poll = Poll::new()?;
    let registry = poll.registry();
    registry.register(&mut SourceFd(&link.as_raw_fd()), LINK, Interest::READABLE)?;
    registry.register(
        &mut SourceFd(&supervisor.as_raw_fd()),
        SUPERVISOR,
        Interest::READABLE,
    )?;
    let waker = Arc::new(Waker::new(registry, JOBS)?);
    let clock = Clock::new();
    let mut engine = Engine::new(specs, stored.generation, clock.now(), is_restart);
    // Sent after the first iteration of the loop, which opens everything.
    let mut outbox = VecDeque::from([encode(&Message::Opened)]);
    if is_restart {
        // The server may have got no set from the worker before, although its text was stored.
        let set = engine.whole_set(String::new());
        queue_set(&mut outbox, &set, &|_| None, clock.now());
    }
    let mut worker = Worker {
        clock,
        poll,
        link,
        store,
        origin,
        engine,
        drivers: Drivers::default(),
        jobs: Jobs::new(waker, THREADS_MAX),
        opening: Vec::new(),
        programs: Programs::launched_by_self(),
        reap_due: None,
        outbox,
        reading: None,
        staged_text: None,
        unfinished: Vec::new(),
        has_worked: true,
        held_since: None,
    };
    worker.run()
}

/// The specs of the command line and of the file's text, or the mistakes in them.
fn parse(origin: &Origin, text: Option<&[u8]>) -> Result<Vec<Spec>, Vec<String>> {
    let file = origin.file.as_deref().zip(text);
    let parsed = config::parse(&origin.checks, file);
    parsed.map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// `last_beat` returns that of the check with this number in the set.
fn queue_set(
    outbox: &mut VecDeque<Vec<u8>>,
    set: &Commit,
    last_beat: &dyn Fn(u16) -> Option<Beat>,
    now: Instant,
) {
    let generation = set.generation;
    let count = u16::try_from(set.checks.len()).unwrap_or(u16::MAX);
    outbox.push_back(encode(&Message::Begin { generation, count }));
    for ((spec, is_kept), index) in set.checks.iter().zip(0..) {
        let definition = Definition {
            is_kept: *is_kept,
            ..Definition::new(spec)
        };
        outbox.push_back(encode(&Message::Define { index, definition }));
    }
    for report in &set.reports {
        let beat = last_beat(report.index);
        outbox.push_back(encode(&verdict(generation, report, beat, now)));
    }
    let text = &set.text;
    outbox.push_back(encode(&Message::Commit { generation, text }));
}

fn verdict(
    generation: u32,
    report: &super::engine::Report,
    beat: Option<Beat>,
    now: Instant,
) -> Message<'_> {
    let age = now.saturating_since(report.measured).as_millis();
    Message::Verdict(Verdict {
        generation,
        index: report.index,
        age_ms: u32::try_from(age).unwrap_or(u32::MAX),
        failure: report.failure.as_deref(),
        beat,
        runs: report.runs,
    })
}

impl Worker {
    fn run(&mut self) -> io::Result<End> {
        let mut events = Events::with_capacity(128);
        let now = self.clock.now();
        // Listeners must be open before the server's messages with the last beats are handled.
        self.act(now);
        if !self.receive(now) {
            return Ok(End::ServerClosed);
        }
        loop {
            let now = self.clock.now();
            self.collect_results(now);
            self.engine.advance(now);
            self.listeners_due(now);
            self.act(now);
            self.commit(now);
            self.reap(now);
            if self.send(now).is_err() {
                return Ok(End::ServerClosed);
            }
            let timeout = self.next(now).map(|next| next.saturating_since(now));
            self.rest(timeout);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                result => result?,
            }
            let now = self.clock.now();
            for event in &events {
                match event.token() {
                    LINK => {
                        if !self.receive(now) {
                            return Ok(End::ServerClosed);
                        }
                    }
                    SUPERVISOR => return Ok(End::SupervisorEnded),
                    JOBS => {}
                    token => self.ready(token, now),
                }
            }
        }
    }

    /// Gives back the memory of attempts that have ended, and of a file that was read, before a long wait.
    fn rest(&mut self, timeout: Option<Duration>) {
        let is_at_rest = self.engine.is_at_rest();
        self.has_worked |= !is_at_rest;
        let is_long = timeout.is_none_or(|timeout| timeout >= REST_DURATION_MIN);
        if self.has_worked && is_at_rest && is_long {
            self.has_worked = false;
            crate::unneeded::give_back();
        }
    }

    /// When the loop has something to do without an event.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        if !self.unfinished.is_empty() {
            return Some(now);
        }
        let jobs = match self.jobs.advance(now) {
            Ok(next) => next,
            Err(error) => {
                self.log(
                    Level::Warn,
                    &format!("cannot start a thread for checks of files: {error}"),
                );
                Some(now.saturating_add(Duration::from_secs(1)))
            }
        };
        let deadlines = self
            .drivers
            .0
            .iter()
            .filter_map(|(_, driver)| match driver {
                Driver::Listening(Ok(listener)) => listener.deadline(),
                _ => None,
            });
        let held = self
            .held_since
            .map(|since| since.saturating_add(BURST_DURATION_MAX));
        deadlines
            .chain(held)
            .chain(jobs)
            .chain(self.reap_due)
            .chain(self.engine.next(now))
            .min()
    }

    fn collect_results(&mut self, now: Instant) {
        while let Some(done) = self.jobs.result() {
            match done {
                Done::Attempt(id, outcome, took) => self.engine.end(id, outcome, now, took),
                Done::Opened(id, opened) => self.opened(id, opened, now),
                Done::File(result) => self.file_read(result, now),
            }
        }
    }

    /// A thread has connected for a check, or failed to. If the attempt has ended meanwhile, the connection is closed.
    fn opened(&mut self, id: Id, opened: Opened, now: Instant) {
        self.opening.retain(|opening| *opening != id);
        let registry = self.poll.registry();
        if let Some(Driver::Connecting(Some(running))) = self.drivers.get_mut(id) {
            if let Some(outcome) = running.attempt.opened(registry, opened) {
                let took = running.began.elapsed();
                self.drivers.insert(id, Driver::Connecting(None));
                self.engine.end(id, outcome, now, took);
            }
        }
    }

    /// Does the actions of the engine.
    fn act(&mut self, now: Instant) {
        while let Some(action) = self.engine.action() {
            match action {
                Action::Open(id) => self.open(id, now),
                Action::Begin(id) => self.begin(id, now),
                Action::Cancel(id) => self.cancel(id, now),
                Action::Close(id) => self.close(id, now),
            }
        }
        while let Some(warning) = self.engine.warning() {
            self.log(Level::Warn, &warning.0);
        }
    }

    fn spec(&self, id: Id) -> Option<Arc<Spec>> {
        let entry = self.engine.entries().iter().find(|entry| entry.id == id)?;
        Some(Arc::clone(&entry.spec))
    }

    fn open(&mut self, id: Id, now: Instant) {
        let Some(spec) = self.spec(id) else { return };
        let driver = match &spec.kind {
            Kind::Heartbeat(heartbeat) => match self.owner_of(&heartbeat.socket) {
                Some(owner) => Driver::Inheriting(owner),
                None => Driver::Listening(self.listen(&spec, id, now)),
            },
            Kind::Pressure(_) => Driver::Listening(self.listen(&spec, id, now)),
            Kind::Tcp(_) | Kind::Unix(_) | Kind::Http(_) | Kind::Exec(_) => {
                Driver::Connecting(None)
            }
            _ => Driver::Blocking,
        };
        self.drivers.insert(id, driver);
    }

    fn listen(&self, spec: &Spec, id: Id, now: Instant) -> Result<Box<dyn Listener>, String> {
        kinds::open(&spec.kind, self.poll.registry(), token(id), now)
    }

    /// The check that listens on this socket already.
    fn owner_of(&self, socket: &OsStr) -> Option<Id> {
        let owns = |id: &Id| {
            let spec = self.spec(*id);
            spec.is_some_and(
                |spec| matches!(&spec.kind, Kind::Heartbeat(other) if other.socket == socket),
            )
        };
        let mut open = self
            .drivers
            .0
            .iter()
            .filter(|(_, driver)| matches!(driver, Driver::Listening(Ok(_))));
        open.find_map(|(id, _)| owns(id).then_some(*id))
    }

    /// Closes the attempt or listener of a check, or gives it to the check that waits for it.
    fn close(&mut self, id: Id, now: Instant) {
        let closed = self.drivers.remove(id);
        let inherits =
            |driver: &Driver| matches!(driver, Driver::Inheriting(owner) if *owner == id);
        let Some(heir) = self
            .drivers
            .0
            .iter()
            .find_map(|(heir, driver)| inherits(driver).then_some(*heir))
        else {
            return;
        };
        let Some(spec) = self.spec(heir) else { return };
        let handover = match closed {
            Some(Driver::Listening(Ok(listener))) => listener.take_state(),
            _ => None,
        };
        let listener = match (&spec.kind, handover) {
            (Kind::Heartbeat(heartbeat), Some(handover)) => {
                let resumed =
                    heartbeat::resume(heartbeat, handover, self.poll.registry(), token(heir), now);
                resumed.map_err(|error| error.to_string())
            }
            _ => self.listen(&spec, heir, now),
        };
        self.drivers.insert(heir, Driver::Listening(listener));
        // Messages may have arrived before the socket was registered again.
        self.unfinished.push(heir);
    }

    fn begin(&mut self, id: Id, now: Instant) {
        let Some(spec) = self.spec(id) else { return };
        let inherited = match self.drivers.get(id) {
            Some(Driver::Inheriting(owner)) => Some(*owner),
            _ => None,
        };
        let owner = inherited.unwrap_or(id);
        let began = time::Instant::now();
        let done = match self.drivers.get_mut(owner) {
            Some(Driver::Connecting(_)) => self.start(&spec, id, began, now),
            Some(Driver::Listening(Ok(listener))) => {
                let outcome = listener.outcome(now);
                match &outcome {
                    // Opened again at the next attempt.
                    Outcome::Fail(reason) if listener.is_lost() => {
                        let lost = Driver::Listening(Err(reason.clone()));
                        self.drivers.insert(owner, lost);
                    }
                    _ => {}
                }
                Some(outcome)
            }
            Some(Driver::Listening(Err(_))) => {
                let mut result = self.listen(&spec, id, now);
                let outcome = match &mut result {
                    Ok(listener) => listener.outcome(now),
                    Err(reason) => Outcome::Fail(reason.clone()),
                };
                self.drivers.insert(id, Driver::Listening(result));
                Some(outcome)
            }
            Some(Driver::Blocking) => {
                let spec = Arc::clone(&spec);
                self.give(now, move || {
                    // The time that it has waited for a thread does not count.
                    let began = time::Instant::now();
                    let outcome = kinds::attempt(&spec.kind);
                    Done::Attempt(id, outcome, began.elapsed())
                });
                None
            }
            Some(Driver::Inheriting(_)) | None => None,
        };
        if let Some(outcome) = done {
            self.engine.end(id, outcome, now, began.elapsed());
        }
        if matches!(spec.kind, Kind::Exec(_)) {
            self.reap_due = self.reap_due.or(Some(now.saturating_add(REAP_PERIOD)));
        }
    }

    /// Starts an attempt of a connecting kind. Returns the outcome if it is known at once.
    fn start(
        &mut self,
        spec: &Spec,
        id: Id,
        began: time::Instant,
        now: Instant,
    ) -> Option<Outcome> {
        let registry: &Registry = self.poll.registry();
        let attempt = match kinds::start(&spec.kind, registry, token(id), &self.programs) {
            Started::Waiting(attempt) => attempt,
            Started::Opening(attempt, opener) => {
                // A thread that hangs since an earlier attempt is waited for: a second one would hang too.
                if !self.opening.contains(&id) {
                    self.opening.push(id);
                    self.give(now, move || Done::Opened(id, opener.open()));
                }
                attempt
            }
            Started::Done(outcome) => return Some(outcome),
        };
        let running = Running { attempt, began };
        self.drivers.insert(id, Driver::Connecting(Some(running)));
        None
    }

    /// Gives a job of an attempt to the threads. If there is no thread, the attempt times out.
    fn give(&mut self, now: Instant, job: impl FnOnce() -> Done + Send + 'static) {
        if let Err(error) = self.jobs.give(now, job) {
            self.log(
                Level::Warn,
                &format!("cannot start a thread for checks of files: {error}"),
            );
        }
    }

    /// Ends an attempt that has taken too long.
    fn cancel(&mut self, id: Id, now: Instant) {
        let Some(spec) = self.spec(id) else { return };
        let running = match self.drivers.get_mut(id) {
            Some(Driver::Connecting(running)) => running.take(),
            _ => None,
        };
        let timeout = Shown(spec.timing.timeout);
        let (reason, took) = match &running {
            Some(Running { attempt, began }) => {
                let (target, waits_for) = (attempt.target(), attempt.waits_for());
                let reason = format!("{target}: no result within {timeout} ({waits_for})");
                (reason, began.elapsed())
            }
            None => (format!("no result within {timeout}"), spec.timing.timeout),
        };
        drop(running);
        self.engine.end(id, Outcome::Fail(reason), now, took);
        self.reap_due = Some(now);
    }

    /// Kills and reaps processes that programs have left behind, if it is due. Then it is due again after
    /// [`REAP_PERIOD`], as long as a program runs, or a killed process has not ended yet.
    fn reap(&mut self, now: Instant) {
        if self.reap_due.is_some_and(|due| due <= now) {
            let has_more = self.programs.reap() || !self.programs.is_empty();
            self.reap_due = has_more.then(|| now.saturating_add(REAP_PERIOD));
        }
    }

    /// Handles an event of a check.
    fn ready(&mut self, token: Token, now: Instant) {
        let Some(id) = id(token) else { return };
        let registry = self.poll.registry();
        match self.drivers.get_mut(id) {
            Some(Driver::Connecting(running)) => {
                let done = running.as_mut().and_then(|running| {
                    let outcome = running.attempt.ready(registry, token)?;
                    Some((outcome, running.began.elapsed()))
                });
                if let Some((outcome, took)) = done {
                    *running = None;
                    self.engine.end(id, outcome, now, took);
                    if self.reap_due.is_some() {
                        self.reap_due = Some(now);
                    }
                }
            }
            Some(Driver::Listening(Ok(listener))) => {
                let has_more = listener.ready(registry, token, now);
                let outcome = listener.outcome(now);
                let warning = listener.take_warning(now);
                match has_more {
                    Ok(true) => self.unfinished.push(id),
                    Ok(false) => self.engine.change(id, outcome, now),
                    Err(error) => {
                        // Opened again at the next attempt.
                        let reason = format!("cannot receive: {error}");
                        self.drivers.insert(id, Driver::Listening(Err(reason)));
                    }
                }
                if let (Some(warning), Some(spec)) = (warning, self.spec(id)) {
                    self.log(Level::Warn, &format!("check {}: {warning}", spec.name));
                }
            }
            _ => {}
        }
    }

    /// Continues with listeners that have more to receive, and handles deadlines that have passed.
    fn listeners_due(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.unfinished) {
            self.ready(token(id), now);
        }
        for (id, driver) in &mut self.drivers.0 {
            let Driver::Listening(Ok(listener)) = driver else {
                continue;
            };
            if listener.deadline().is_some_and(|deadline| deadline <= now) {
                let outcome = listener.outcome(now);
                self.engine.change(*id, outcome, now);
            }
        }
    }

    /// Receives from the server; false if it has ended.
    fn receive(&mut self, now: Instant) -> bool {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            match self.link.receive(&mut buffer) {
                Ok(Some(RELOAD)) => self.reload(now),
                Ok(Some(message)) => self.continue_beat(message, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Continues a heartbeat that passed when the worker before this one ended.
    fn continue_beat(&mut self, message: &[u8], now: Instant) {
        let Some((generation, index, beat)) = decode_beat(message) else {
            return;
        };
        let id = match generation == self.engine.generation() {
            true => self.engine.id(index),
            false => None,
        };
        let Some(id) = id else { return };
        if let Some(Driver::Listening(Ok(listener))) = self.drivers.get_mut(id) {
            let at = now.as_millis().saturating_sub(u64::from(beat.age_ms));
            let limit = Duration::from_millis(u64::from(beat.limit_ms));
            listener.continue_from(LastBeat {
                at: Instant::from_millis(at),
                unix_seconds: beat.unix_seconds,
                own_limit: Some(limit).filter(|limit| !limit.is_zero()),
            });
            let outcome = listener.outcome(now);
            self.engine.change(id, outcome, now);
        }
    }

    fn reload(&mut self, now: Instant) {
        let Some(path) = self.origin.file.clone() else {
            return;
        };
        if let Some(again) = &mut self.reading {
            *again = true;
            return;
        }
        self.reading = Some(false);
        let read = move || config::read_file(Some(&path)).map(|file| file.unwrap_or_default().1);
        if let Err(error) = self.jobs.give(now, move || Done::File(read())) {
            self.log(
                Level::Warn,
                &format!("cannot start a thread to read the check file: {error}"),
            );
        }
    }

    fn file_read(&mut self, result: Result<Vec<u8>, Mistake>, now: Instant) {
        if self.reading.take() == Some(true) {
            self.reload(now);
            return;
        }
        let parsed = result.map_err(|mistake| vec![mistake.to_string()]);
        let parsed = parsed.and_then(|text| Ok((parse(&self.origin, Some(&text))?, text)));
        match parsed {
            Ok((specs, text)) => {
                self.staged_text = Some(text);
                self.has_worked = true;
                self.engine.replace(specs, now);
            }
            Err(mistakes) => self.refuse(&mistakes),
        }
    }

    fn refuse(&mut self, mistakes: &[String]) {
        for mistake in mistakes.iter().take(REFUSED_MAX) {
            self.outbox.push_back(encode(&Message::Refused(mistake)));
        }
        if let Some(text) = rest(mistakes.len()) {
            self.outbox.push_back(encode(&Message::Refused(&text)));
        }
        self.outbox.push_back(encode(&Message::RefusedEnd));
    }

    fn commit(&mut self, now: Instant) {
        let Some(set) = self.engine.commit(now) else {
            return;
        };
        let stored = Stored {
            generation: set.generation,
            text: self.staged_text.take(),
        };
        // Stored before the set is sent: a worker that is started again must not use the text before it.
        if let Err(error) = self.store.write(&stored) {
            self.log(
                Level::Warn,
                &format!("cannot keep the text of the check file: {error}"),
            );
        }
        // A heartbeat whose options have changed gets its socket and its last beat when the old check is closed.
        self.act(now);
        let (engine, drivers) = (&self.engine, &self.drivers);
        let last_beat = |index| drivers.last_beat(engine.id(index)?, now);
        queue_set(&mut self.outbox, &set, &last_beat, now);
        crate::unneeded::trim_heap();
    }

    /// Sends the messages that wait, and then the verdicts that are due.
    ///
    /// # Errors
    /// If the server has ended.
    fn send(&mut self, now: Instant) -> io::Result<()> {
        let had_to_wait = !self.outbox.is_empty();
        let mut is_full = false;
        while let Some(message) = self.outbox.front() {
            match self.link.send(message) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    is_full = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        while !is_full && !self.is_held(now) {
            let Some(report) = self.engine.report() else {
                break;
            };
            let generation = self.engine.generation();
            let id = self.engine.id(report.index);
            let beat = id.and_then(|id| self.drivers.last_beat(id, now));
            let message = encode(&verdict(generation, &report, beat, now));
            match self.link.send(&message) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.engine.unreport(&report);
                    is_full = true;
                }
                Err(error) => return Err(error),
            }
        }
        if is_full || had_to_wait {
            // The registration asks for readiness to send only when it is needed, because an event comes with each
            // datagram that the server takes.
            let interest = match is_full {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            let registry = self.poll.registry();
            registry.reregister(&mut SourceFd(&self.link.as_raw_fd()), LINK, interest)?;
        }
        Ok(())
    }

    /// Whether results wait for those of other attempts.
    fn is_held(&mut self, now: Instant) -> bool {
        let is_new = |since| now.saturating_since(since) < BURST_DURATION_MAX;
        let is_held = self.engine.has_report()
            && self.engine.last_begun().is_some_and(is_new)
            && self.held_since.is_none_or(is_new);
        self.held_since = match is_held {
            true => self.held_since.or(Some(now)),
            false => None,
        };
        is_held
    }

    /// Sends a record for the server's log. Too many are dropped.
    fn log(&mut self, level: Level, text: &str) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(encode(&Message::Log(level, text)));
        }
    }
}

fn token(id: Id) -> Token {
    Token(CHECKS + id.0 as usize * TOKENS_PER_CHECK)
}

fn id(token: Token) -> Option<Id> {
    let number = token.0.checked_sub(CHECKS)? / TOKENS_PER_CHECK;
    u32::try_from(number).ok().map(Id)
}

/// The line after the first [`REFUSED_MAX`] of so many mistakes. Beyond [`MISTAKES_MAX`](config::MISTAKES_MAX), the
/// last of them counts the others.
fn rest(mistakes: usize) -> Option<String> {
    let (known, more_than) = match mistakes > config::MISTAKES_MAX {
        true => (config::MISTAKES_MAX, "more than "),
        false => (mistakes, ""),
    };
    match known.saturating_sub(REFUSED_MAX) {
        0 => None,
        rest => Some(format!("and {more_than}{rest} more mistakes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the line that counts the mistakes beyond the first 100 was counted as one mistake.
    #[test]
    fn the_mistakes_that_are_not_sent_are_counted() {
        assert_eq!(rest(0), None);
        assert_eq!(rest(REFUSED_MAX), None);
        assert_eq!(rest(100).unwrap(), "and 84 more mistakes");
        assert_eq!(rest(101).unwrap(), "and more than 84 more mistakes");
    }
}

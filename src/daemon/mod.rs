//! The daemon: what surrounds the door when healthz runs on its own.
//!
//! Three threads. *main* runs the sync loop and waits for signals; *healthz* is the door; *log*
//! writes what the others log. Nobody waits for anybody else's progress but main, until the others have
//! begun and at the end. Before there are threads everything is opened that ever will be; then
//! [`sandbox`] closes the system's doors.

mod alive;
pub mod checks;
#[cfg(target_os = "linux")]
mod descriptors;
mod duration;
#[cfg(test)]
mod fuzz;
mod holder;
mod listen;
mod log;
mod memory;
mod notify;
pub mod options;
mod sandbox;
mod signals;
mod sync;
mod sys;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::panic::Location;
use std::time::Duration;

use healthz::Instant;
use healthz::server::{self, Config, Counters, Server, ServerThread};

use alive::Alive;
use checks::{Checks, SHUTDOWN};
use listen::Inherited;
use notify::Manager;
use options::Options;
use sandbox::Sandbox;
use signals::{Ender, Wake, Wakes};
use sync::SyncLoop;

/// Exit code of what failed while running.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of wrong usage or configuration.
pub const EXIT_MISUSED: u8 = 2;

/// Longest that the end waits for a stderr that blocks.
const FLUSH_DURATION_MAX: Duration = Duration::from_secs(1);
/// What the door may take beyond the time that its last requests have; more is a bug.
const CLOSING_GRACE: Duration = Duration::from_secs(1);

/// The server's thread handles the events of one poll within milliseconds. If it takes longer than this,
/// the sync loop watches it.
const RESPONSE_DURATION_MAX: Duration = Duration::from_millis(500);

/// Longest that threads may take to begin: so long that a machine which is busy booting is no reason to
/// give up, and no longer, because nothing is known of them until then.
const BEGIN_DURATION_MAX: Duration = Duration::from_secs(10);

/// Why the daemon ended without having been asked to.
#[derive(Debug)]
pub enum Failure {
    /// What it was asked to do makes no sense, or is refused.
    Usage(String),
    /// What it was asked to do went wrong.
    Run(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) | Failure::Run(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}

fn failed(what: &str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Run(format!("{what}: {error}"))
}

/// Serves until asked to stop. To be called once, before anything opens a descriptor or starts a
/// thread. What there is to say is said when it returns.
///
/// # Errors
/// If it could not begin, or had to end.
pub fn serve(options: &Options) -> Result<(), Failure> {
    let inherited = match Inherited::take(options.ready_fd) {
        Ok(inherited) => inherited,
        Err(failure) => {
            complain(&failure);
            return Err(failure);
        }
    };
    let checks = Checks::new(options);
    let alive = Alive::new();
    // The sandbox has to be there before the log's thread; what is logged until then waits for it.
    let prepared = log::collect(options.log_level)
        .map_err(failed("cannot start the log"))
        .and_then(|()| Prepared::new(options, checks, inherited, &alive));
    let room = match &prepared {
        Ok(_) => Ok(()),
        // It may be just the memory for a thread that was refused.
        Err(_) => memory::check_threads(),
    };
    let start = |()| log::start(checks.log, alive.clone()).map_err(failed("cannot start the log"));
    if let Err(error) = room.and_then(start) {
        let failure = prepared.err().unwrap_or(error);
        complain(&failure);
        return Err(failure);
    }
    let result = prepared.and_then(|prepared| run(options, checks, prepared, &alive));
    if let Err(failure) = &result {
        log::say(failure);
    }
    log::flush(FLUSH_DURATION_MAX);
    result
}

/// Says on stderr what ended the daemon before it had a log. Where nothing can be said, because the disk
/// is full or the reader gone, the exit code has to do: `eprintln` would panic.
pub fn complain(what: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "healthz: {what}");
}

/// Makes a panic of any thread the end of all: a daemon without its door, its loop or its log is none.
/// It is logged like everything else, because stderr may block; or said by the thread itself, if it is
/// the one that writes, and then main ends the wait for a stderr that does: `ender`.
///
/// To be called before there are other threads: what std does otherwise takes memory that a thread in
/// its first steps may be panicking for want of, and locks that main would wait for.
fn end_on_panic(alive: Alive, ender: Ender) {
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = match payload.downcast_ref::<&str>() {
            Some(text) => text,
            None => payload.downcast_ref::<String>().map_or("", String::as_str),
        };
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().unwrap_or(Location::caller());
        match voice(thread, alive.are_all()) {
            Voice::Log => {
                ::log::error!("thread {thread} panicked at {place}: {text}");
                log::flush(FLUSH_DURATION_MAX);
            }
            Voice::Stderr => {
                ender.tell_panic();
                complain(&format_args!("thread {thread} panicked at {place}: {text}"));
            }
        }
        std::process::exit(i32::from(EXIT_FAILED));
    }));
}

/// Who says that a thread has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// The thread of the log, as everything.
    Log,
    /// The thread itself.
    Stderr,
}

/// The voice for a panic of `thread`: what is queued for the log's thread is lost if that is the one, or
/// if it may never begin.
fn voice(thread: &str, have_all_begun: bool) -> Voice {
    match have_all_begun && thread != log::THREAD {
        true => Voice::Log,
        false => Voice::Stderr,
    }
}

/// What is done first: whatever has to be opened, bound or asked for, which takes no threads to be
/// there, and then the door, so that nobody waits for it longer than has to be.
struct Prepared {
    wakes: Wakes,
    urls: Vec<String>,
    ready: Option<File>,
    sandbox: Sandbox,
    server: ServerThread,
}

impl Prepared {
    fn new(
        options: &Options,
        checks: Checks,
        inherited: Inherited,
        alive: &Alive,
    ) -> Result<Self, Failure> {
        let wakes = Wakes::new().map_err(failed("cannot set up signals"))?;
        end_on_panic(alive.clone(), wakes.ender());
        let (listeners, ready) = listen::open(options, inherited)?;
        let bytes = |config: &Config| config.memory_bytes_max(&checks.responder());
        // What was asked for: whoever asks for too much is told so, however little of it would do.
        check_memory(options, bytes(&options.config))?;
        let config = Config {
            connections: fitting(options.config.connections),
            ..options.config
        };
        let bytes = bytes(&config);
        memory::arrange(options, bytes)?;
        let sandbox = Sandbox::begin(options);
        let urls = listen::urls(&listeners);
        let server = Server::new(checks.responder(), listeners, config);
        memory::check_threads()?;
        // Its limit counts from now: a main that never comes round is seen.
        checks.syncloop.beat(server::now());
        let (started, ender) = (alive.clone(), wakes.ender());
        let server = server::spawn_with(server, move || started.tell(), move || ender.tell())
            .map_err(failed("cannot start the server"))?;
        // On a busy CPU the server would wait for all that is still to do here.
        std::thread::yield_now();
        Ok(Prepared {
            wakes,
            urls,
            ready,
            sandbox,
            server,
        })
    }
}

fn run(
    options: &Options,
    checks: Checks,
    prepared: Prepared,
    alive: &Alive,
) -> Result<(), Failure> {
    let Prepared {
        wakes,
        urls,
        ready,
        sandbox,
        server,
    } = prepared;
    let manager = Manager::from_env();
    // What is said below has to be true of them too, and the filter to find them.
    if !alive.wait_for_all(BEGIN_DURATION_MAX) {
        let message = "a thread did not begin in time; is the machine short of memory or CPU?";
        return Err(Failure::Run(message.to_owned()));
    }
    sandbox.complete();
    announce(checks, &urls);
    manager.tell_ready(&sync::status(checks, server::now()));
    Inherited::tell_ready(ready);

    let handle = server.handle();
    let is_moving = Box::new(move || handle.is_responsive(server::now(), RESPONSE_DURATION_MAX));
    let (period, log_limit) = (options.sync_period, options.log_limit);
    let mut main = Main {
        wakes,
        sync: SyncLoop::new(checks, &manager, period, log_limit, is_moving),
    };
    if main.watch()? == Watched::DoorEnded {
        return Err(ended(server));
    }
    SHUTDOWN.begin_shutdown();
    manager.tell_stopping();
    ::log::info!("asked to stop: readyz fails, {}", plan(options));
    main.drain(server, options)
}

/// Of so many connections, how many the system has descriptors for.
fn fitting(connections: usize) -> usize {
    #[cfg(target_os = "linux")]
    return descriptors::fit(connections);
    #[cfg(not(target_os = "linux"))]
    connections
}

/// Whether the system gives what the server will reserve: whoever asks for too much is told so, where
/// the reservation itself would abort.
fn check_memory(options: &Options, bytes: usize) -> Result<(), Failure> {
    memory::try_bytes(bytes).then_some(()).ok_or_else(|| {
        Failure::Run(format!(
            "the system does not give the {} KiB that {} connections may take; pass fewer --connections or --head-bytes",
            bytes.div_ceil(1024),
            options.config.connections
        ))
    })
}

/// What the server did; and what else happened to it, if it did.
fn summary(counters: &Counters) -> String {
    let (answered, accepted) = (counters.answered, counters.accepted);
    let mut text = format!("{answered} requests answered on {accepted} connections");
    for (count, what) in [
        (counters.refused, "refused"),
        (counters.evicted, "evicted"),
        (counters.expired, "expired"),
        (counters.failed, "failed"),
        (counters.aborted, "aborted"),
        (counters.foreign, "foreign"),
        (counters.accept_pauses, "shortages"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// The main thread: the sync loop, and waiting for what ends it.
struct Main<'a> {
    wakes: Wakes,
    sync: SyncLoop<'a>,
}

impl Main<'_> {
    /// Goes round until somebody asks to stop or the door's thread ends on its own.
    fn watch(&mut self) -> Result<Watched, Failure> {
        loop {
            let next = self.sync.round(server::now());
            match self.wait_until(next)? {
                Wake::Stop => return Ok(Watched::AskedToStop),
                Wake::DoorEnded => return Ok(Watched::DoorEnded),
                Wake::Panicked => return Err(panicked()),
                Wake::Hangup => {
                    ::log::info!("received SIGHUP: there is no configuration to read again")
                }
                Wake::Timeout => {}
            }
        }
    }

    /// Leaves the listeners open for the delay that was asked for, closes them, and waits for the last
    /// requests. Being asked again ends it.
    fn drain(&mut self, server: ServerThread, options: &Options) -> Result<(), Failure> {
        let closes = server::now().saturating_add(options.shutdown_delay);
        match self.rounds_until(closes)? {
            Drained::AskedAgain => return Ok(()),
            Drained::DoorEnded => return Err(ended(server)),
            Drained::TimeIsUp => server.stop(),
        }
        let grace = options.config.limits.drain_duration + CLOSING_GRACE;
        let drained = match self.rounds_until(server::now().saturating_add(grace))? {
            // Time passes for a process that is stopped or frozen too, and for the door as for us: its
            // grace counts once more, from when both go on.
            Drained::TimeIsUp => self.rounds_until(server::now().saturating_add(CLOSING_GRACE))?,
            drained => drained,
        };
        match drained {
            Drained::AskedAgain => Ok(()),
            Drained::DoorEnded => {
                let counters = server.join().map_err(failed("the server failed"))?;
                ::log::info!("stopped: {}", summary(&counters));
                Ok(())
            }
            Drained::TimeIsUp => Err(Failure::Run("the server did not end in time".to_owned())),
        }
    }

    /// Goes round until `end`, the door's end, or a second wish to stop.
    fn rounds_until(&mut self, end: Instant) -> Result<Drained, Failure> {
        loop {
            let now = server::now();
            if end <= now {
                return Ok(Drained::TimeIsUp);
            }
            let next = self.sync.round(now).min(end);
            match self.wait_until(next)? {
                Wake::Stop => {
                    ::log::info!("asked to stop again: stopped at once");
                    return Ok(Drained::AskedAgain);
                }
                Wake::DoorEnded => return Ok(Drained::DoorEnded),
                Wake::Panicked => return Err(panicked()),
                Wake::Hangup => {
                    ::log::info!("received SIGHUP: there is no configuration to read again")
                }
                Wake::Timeout => {}
            }
        }
    }

    fn wait_until(&mut self, next: Instant) -> Result<Wake, Failure> {
        let timeout = next.saturating_since(server::now());
        self.wakes
            .wait(timeout)
            .map_err(failed("cannot wait for signals"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    DoorEnded,
    AskedToStop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    DoorEnded,
    TimeIsUp,
    AskedAgain,
}

/// A thread says so itself, and exits; unless stderr blocks, for which it was time until now.
fn panicked() -> Failure {
    Failure::Run("a thread panicked".to_owned())
}

/// The door's thread has ended though nobody asked it to.
fn ended(server: ServerThread) -> Failure {
    match server.join() {
        Ok(_) => Failure::Run("the server ended on its own".to_owned()),
        Err(error) => failed("the server failed")(error),
    }
}

fn announce(checks: Checks, urls: &[String]) {
    let paths: Vec<&str> = checks
        .endpoints
        .iter()
        .map(|endpoint| endpoint.path())
        .collect();
    let names: Vec<&str> = checks
        .alive()
        .checks()
        .iter()
        .map(|check| check.name())
        .collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let [paths, names, urls] = [paths, names, urls].map(|items| list(&items));
    ::log::info!("serving {paths} with checks {names} on {urls}");
}

/// `a, b and c`.
fn list(items: &[&str]) -> String {
    match items {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        items => items.concat(),
    }
}

fn plan(options: &Options) -> String {
    let drain = duration::Shown(options.config.limits.drain_duration);
    let finish = format!("requests have {drain} to finish");
    match options.shutdown_delay {
        Duration::ZERO => finish,
        delay => format!(
            "listeners close in {}, then {finish}",
            duration::Shown(delay)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_tells_only_what_happened() {
        let mut counters = Counters {
            answered: 2,
            accepted: 1,
            ..Counters::default()
        };
        assert_eq!(summary(&counters), "2 requests answered on 1 connections");
        counters.failed = 3;
        counters.accept_pauses = 4;
        counters.aborted = 5;
        counters.foreign = 6;
        assert_eq!(
            summary(&counters),
            "2 requests answered on 1 connections, 3 failed, 5 aborted, 6 foreign, 4 shortages"
        );
    }

    /// It was queued for the thread that was panicking, and nobody heard of it.
    #[test]
    fn a_panic_is_said_by_whoever_can_still_say_it() {
        assert_eq!(voice("healthz", true), Voice::Log);
        assert_eq!(voice("main", true), Voice::Log);
        assert_eq!(voice(log::THREAD, true), Voice::Stderr);
        assert_eq!(voice("healthz", false), Voice::Stderr);
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b"]), "a and b");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&[]), "");
    }
}

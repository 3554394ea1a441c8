//! The daemon: everything around the server when healthz runs as a program of its own.
//!
//! Three threads: *main* runs the sync loop and waits for signals, *healthz* runs the server, and *log*
//! writes log records. Main waits for the others at the start and at the end. A thread that panics waits for the log,
//! for at most a second. Everything is opened before the threads start; [`sandbox`] gives up the right to open more.
//! Called by `main`.

pub mod checks;
#[cfg(target_os = "linux")]
mod descriptors;
mod duration;
#[cfg(test)]
mod fuzz;
mod listen;
mod log;
mod memory;
mod notify;
pub mod options;
mod outage;
mod port_owner;
mod priority;
mod sandbox;
mod signals;
mod start_latch;
mod sync;
mod sys;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::panic::Location;
use std::time::Duration;

use healthz::Instant;
use healthz::server::{self, Config, Counters, Server, ServerThread};

use checks::{Checks, SHUTDOWN};
use listen::Inherited;
use notify::ServiceManager;
use options::Options;
use sandbox::Sandbox;
use signals::{EventWaiter, ExitNotifier, Wakeup};
use start_latch::StartLatch;
use sync::SyncLoop;

/// Exit code if the daemon failed while running.
pub const EXIT_FAILED: u8 = 1;
/// Exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Longest wait for the last log records at the end, if standard error blocks.
const FLUSH_DURATION_MAX: Duration = Duration::from_secs(1);
/// How much longer than the drain timeout the server's thread may take to exit. More is a bug.
const EXIT_GRACE: Duration = Duration::from_secs(1);

/// The server's thread handles the events of one poll within milliseconds. If it takes longer than this, it counts as
/// unresponsive. After 2 s of that, the sync loop logs it and stops beating the watchdog.
const RESPONSE_DURATION_MAX: Duration = Duration::from_millis(500);

/// Longest wait for the threads to start. A machine that is busy booting needs some seconds.
const START_DURATION_MAX: Duration = Duration::from_secs(10);

/// Why the daemon exits without having been asked to.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration.
    Usage(String),
    /// A failure while starting or running.
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

/// Serves until a signal stops it. Call it once, before anything opens a descriptor or starts a thread. It
/// prints its errors itself.
///
/// # Errors
/// If it could not start, or failed while running.
pub fn serve(options: &Options) -> Result<(), Failure> {
    let inherited = match Inherited::take(options.ready_fd) {
        Ok(inherited) => inherited,
        Err(failure) => {
            print_error(&failure);
            return Err(failure);
        }
    };
    let checks = Checks::new(options);
    let latch = StartLatch::new();
    // Landlock applies only to threads that start later, so the log's thread starts after it. Until then,
    // records wait in the queue.
    let prepared = log::collect(options.log_level)
        .map_err(failed("cannot start the log"))
        .and_then(|()| Prepared::new(options, checks, inherited, &latch));
    let room = match &prepared {
        Ok(_) => Ok(()),
        // Perhaps the system has no memory for the log's thread either.
        Err(_) => memory::check_threads(),
    };
    let start = |()| log::start(checks.log, latch.clone()).map_err(failed("cannot start the log"));
    if let Err(error) = room.and_then(start) {
        let failure = prepared.err().unwrap_or(error);
        print_error(&failure);
        return Err(failure);
    }
    let result = prepared.and_then(|prepared| run(options, checks, prepared, &latch));
    if let Err(failure) = &result {
        log::print_line(failure);
    }
    log::flush(FLUSH_DURATION_MAX);
    result
}

/// Prints an error to standard error, before the log's thread runs. If that fails, because the disk is full
/// or the reader is gone, only the exit code tells: `eprintln` would panic.
pub fn print_error(what: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "healthz: {what}");
}

/// Makes a panic in any thread exit the process, because the daemon needs all its threads. The panic goes to
/// the log, which cannot block; or to standard error, if it is the log's thread that panics. In case that
/// write blocks, `notifier` makes the main thread exit.
///
/// Call this before other threads start. std's own panic output allocates, which fails if a new thread
/// panics because memory is short. It also takes a lock that the main thread could wait for.
fn exit_on_panic(latch: StartLatch, notifier: ExitNotifier) {
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = match payload.downcast_ref::<&str>() {
            Some(text) => text,
            None => payload.downcast_ref::<String>().map_or("", String::as_str),
        };
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().unwrap_or(Location::caller());
        match panic_route(thread, latch.have_all_started()) {
            PanicRoute::Log => {
                ::log::error!("thread {thread} panicked at {place}: {text}");
                log::flush(FLUSH_DURATION_MAX);
            }
            PanicRoute::Stderr => {
                notifier.notify_panic();
                print_error(&format_args!("thread {thread} panicked at {place}: {text}"));
            }
        }
        std::process::exit(i32::from(EXIT_FAILED));
    }));
}

/// Where the message of a panic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PanicRoute {
    /// To the log's thread, like every record.
    Log,
    /// To standard error, written by the panicking thread.
    Stderr,
}

/// The route for a panic of `thread`. The log's thread cannot write its own panic, and queued records are
/// lost if it has not started.
fn panic_route(thread: &str, have_all_started: bool) -> PanicRoute {
    match have_all_started && thread != log::THREAD {
        true => PanicRoute::Log,
        false => PanicRoute::Stderr,
    }
}

/// The first part of the start: everything that must happen before other threads exist, and then the
/// server's thread, so that it answers as early as possible.
struct Prepared {
    waiter: EventWaiter,
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
        latch: &StartLatch,
    ) -> Result<Self, Failure> {
        let waiter = EventWaiter::new().map_err(failed("cannot set up signals"))?;
        exit_on_panic(latch.clone(), waiter.exit_notifier());
        let (listeners, ready) = listen::open(options, inherited)?;
        let bytes = |config: &Config| config.memory_bytes_max(&checks.responder());
        // Checked for the configured number of connections, even if fewer fit into the descriptor limit:
        // a configuration that needs too much memory is an error.
        check_memory(options, bytes(&options.config))?;
        let config = Config {
            connections: fit_descriptors(options.config.connections),
            ..options.config
        };
        let bytes = bytes(&config);
        memory::apply(options, bytes)?;
        priority::raise();
        let sandbox = Sandbox::begin(options);
        let urls = listen::urls(&listeners);
        let server = Server::new(checks.responder(), listeners, config);
        memory::check_threads()?;
        // The limit counts from now, so a main thread that never enters the sync loop is noticed.
        checks.syncloop.beat(server::now());
        let (started, notifier) = (latch.clone(), waiter.exit_notifier());
        let on_start = move || started.report_started();
        let on_exit = move || notifier.notify_server_exit();
        let server = server::spawn_with(server, on_start, on_exit)
            .map_err(failed("cannot start the server"))?;
        // On a busy CPU, let the server's thread run before the rest of the start.
        std::thread::yield_now();
        Ok(Prepared {
            waiter,
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
    latch: &StartLatch,
) -> Result<(), Failure> {
    let Prepared {
        waiter,
        urls,
        ready,
        sandbox,
        server,
    } = prepared;
    let manager = ServiceManager::from_env();
    // Ready means that all threads run. The filter comes after that, because it forbids the calls that start a thread.
    if !latch.wait(START_DURATION_MAX) {
        let message = "a thread did not start in time; is the machine short of memory or CPU?";
        return Err(Failure::Run(message.to_owned()));
    }
    sandbox.complete();
    announce(checks, &urls);
    manager.notify_ready(&sync::status(checks, server::now()));
    Inherited::notify_ready(ready);

    let handle = server.handle();
    let is_responsive =
        Box::new(move || handle.is_responsive(server::now(), RESPONSE_DURATION_MAX));
    let (period, log_limit) = (options.sync_period, options.log_limit);
    let mut main = Main {
        waiter,
        sync: SyncLoop::new(checks, &manager, period, log_limit, is_responsive),
    };
    if main.run()? == RunEnd::ServerExited {
        return Err(unexpected_exit(server));
    }
    SHUTDOWN.begin_shutdown();
    manager.notify_stopping();
    ::log::info!("asked to stop: /readyz fails, {}", plan(options));
    main.drain(server, options)
}

/// How many of `connections` the system has descriptors for.
fn fit_descriptors(connections: usize) -> usize {
    #[cfg(target_os = "linux")]
    return descriptors::raise_limit(connections);
    #[cfg(not(target_os = "linux"))]
    connections
}

/// Checks that the system has the memory that the server will allocate, because that allocation would abort
/// the process.
fn check_memory(options: &Options, bytes: usize) -> Result<(), Failure> {
    memory::try_bytes(bytes).then_some(()).ok_or_else(|| {
        Failure::Run(format!(
            "the system does not provide the {} KiB that {} connections need; pass fewer --connections or --head-bytes",
            bytes.div_ceil(1024),
            options.config.connections
        ))
    })
}

/// The server's counters as text, without those that are zero.
fn summary(counters: &Counters) -> String {
    let (answered, accepted) = (counters.answered, counters.accepted);
    let mut text = format!("{answered} requests answered on {accepted} connections");
    for (count, what) in [
        (counters.refused, "refused"),
        (counters.evicted, "evicted"),
        (counters.expired, "expired"),
        (counters.failed, "failed"),
        (counters.aborted, "aborted"),
        (counters.non_loopback, "non-loopback"),
        (counters.accept_pauses, "pauses"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// The main thread: the sync loop, and the wait for signals.
struct Main<'a> {
    waiter: EventWaiter,
    sync: SyncLoop<'a>,
}

impl Main<'_> {
    /// Runs the sync loop until a signal asks to stop, or the server's thread exits on its own.
    fn run(&mut self) -> Result<RunEnd, Failure> {
        loop {
            let next = self.sync.round(server::now());
            match self.wait_until(next)? {
                Wakeup::Stop => return Ok(RunEnd::StopRequested),
                Wakeup::ServerExited => return Ok(RunEnd::ServerExited),
                Wakeup::Panicked => return Err(panicked()),
                Wakeup::Hangup => {
                    ::log::info!("received SIGHUP: there is no configuration to read again")
                }
                Wakeup::Timeout => {}
            }
        }
    }

    /// Keeps the listeners open for `--shutdown-delay`, stops the server, and waits for the last requests. A
    /// second signal ends the wait.
    fn drain(&mut self, server: ServerThread, options: &Options) -> Result<(), Failure> {
        let closes = server::now().saturating_add(options.shutdown_delay);
        match self.run_until(closes)? {
            DrainEnd::StopRequestedAgain => return Ok(()),
            DrainEnd::ServerExited => return Err(unexpected_exit(server)),
            DrainEnd::TimedOut => server.stop(),
        }
        let grace = options.config.limits.drain_duration + EXIT_GRACE;
        let drained = match self.run_until(server::now().saturating_add(grace))? {
            // If the process was stopped or frozen meanwhile, the time passed without the server running.
            // So the grace counts once more.
            DrainEnd::TimedOut => self.run_until(server::now().saturating_add(EXIT_GRACE))?,
            drained => drained,
        };
        match drained {
            DrainEnd::StopRequestedAgain => Ok(()),
            DrainEnd::ServerExited => {
                let counters = server.join().map_err(failed("the server failed"))?;
                ::log::info!("stopped: {}", summary(&counters));
                Ok(())
            }
            DrainEnd::TimedOut => Err(Failure::Run("the server did not stop in time".to_owned())),
        }
    }

    /// Runs the sync loop until `end`, until the server's thread exits, or until a second signal.
    fn run_until(&mut self, end: Instant) -> Result<DrainEnd, Failure> {
        loop {
            let now = server::now();
            if end <= now {
                return Ok(DrainEnd::TimedOut);
            }
            let next = self.sync.round(now).min(end);
            match self.wait_until(next)? {
                Wakeup::Stop => {
                    ::log::info!("asked to stop again: exiting at once");
                    return Ok(DrainEnd::StopRequestedAgain);
                }
                Wakeup::ServerExited => return Ok(DrainEnd::ServerExited),
                Wakeup::Panicked => return Err(panicked()),
                Wakeup::Hangup => {
                    ::log::info!("received SIGHUP: there is no configuration to read again")
                }
                Wakeup::Timeout => {}
            }
        }
    }

    fn wait_until(&mut self, next: Instant) -> Result<Wakeup, Failure> {
        let timeout = next.saturating_since(server::now());
        self.waiter
            .wait(timeout)
            .map_err(failed("cannot wait for signals"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunEnd {
    ServerExited,
    StopRequested,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainEnd {
    ServerExited,
    TimedOut,
    StopRequestedAgain,
}

/// A thread has panicked, and its own message to standard error may still block.
fn panicked() -> Failure {
    Failure::Run("a thread panicked".to_owned())
}

/// The server's thread has exited without being asked to.
fn unexpected_exit(server: ServerThread) -> Failure {
    match server.join() {
        Ok(_) => Failure::Run("the server's thread exited without being asked to".to_owned()),
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
        .healthz()
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
    fn the_summary_leaves_out_counters_that_are_zero() {
        let mut counters = Counters {
            answered: 2,
            accepted: 1,
            ..Counters::default()
        };
        assert_eq!(summary(&counters), "2 requests answered on 1 connections");
        counters.failed = 3;
        counters.accept_pauses = 4;
        counters.aborted = 5;
        counters.non_loopback = 6;
        assert_eq!(
            summary(&counters),
            "2 requests answered on 1 connections, 3 failed, 5 aborted, 6 non-loopback, 4 pauses"
        );
    }

    /// Regression: the panic of the log's thread was queued for that same thread, and never written.
    #[test]
    fn a_panic_of_the_log_thread_goes_to_standard_error() {
        assert_eq!(panic_route("healthz", true), PanicRoute::Log);
        assert_eq!(panic_route("main", true), PanicRoute::Log);
        assert_eq!(panic_route(log::THREAD, true), PanicRoute::Stderr);
        assert_eq!(panic_route("healthz", false), PanicRoute::Stderr);
    }

    /// Runs itself once more in a process that panics.
    #[test]
    fn a_panic_in_any_thread_is_reported_and_ends_the_process() {
        const NAME: &str = "daemon::tests::a_panic_in_any_thread_is_reported_and_ends_the_process";
        const VARIABLE: &str = "HEALTHZ_PANIC_ROUTE";
        if let Some(route) = std::env::var_os(VARIABLE) {
            panic_in_thread(route == "log");
            return;
        }
        for (route, start) in [("log", " ERROR healthz: "), ("stderr", "\nhealthz: ")] {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", NAME, "--nocapture"]);
            let output = command.env(VARIABLE, route).output().unwrap();
            let text = format!("\n{}", String::from_utf8_lossy(&output.stderr));
            let line = format!("{start}thread other panicked at {}:", file!());
            assert!(text.contains(&line), "{route}: {text}");
            assert!(text.ends_with(&format!(": {route}\n")), "{text}");
            assert_eq!(output.status.code(), Some(1), "{text}");
        }
    }

    fn panic_in_thread(has_log: bool) {
        let (latch, waiter) = (StartLatch::new(), EventWaiter::new().unwrap());
        exit_on_panic(latch.clone(), waiter.exit_notifier());
        if has_log {
            let checks = Checks::new(&Options::default());
            log::collect(Some(::log::LevelFilter::Info)).unwrap();
            log::start(checks.log, latch.clone()).unwrap();
            // In place of the server's thread.
            latch.report_started();
            assert!(latch.wait(START_DURATION_MAX));
        }
        let panics = move || match has_log {
            true => panic!("{}", "log"),
            false => panic!("stderr"),
        };
        let thread = std::thread::Builder::new().name("other".to_owned());
        assert!(thread.spawn(panics).unwrap().join().is_ok());
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b"]), "a and b");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&[]), "");
    }
}

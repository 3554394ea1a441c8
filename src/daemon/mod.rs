//! The daemon: everything around the server when healthz runs as a program of its own.
//!
//! Three threads: *main* runs the sync loop and waits for signals, *healthz* runs the server, and *log*
//! writes log records. Main waits until the others have started, and at the end until the server's thread has exited
//! and the log is written. A thread that panics waits for at most a second until its message is written. All files and
//! listeners are opened before the threads start; after that, [`sandbox`] forbids opening others. If checks are
//! configured, main first starts their processes, while the server's thread already answers. Called by `main`.

pub mod checks;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(test)]
mod fuzz;
mod listen;
mod log;
mod memory;
mod metrics;
#[cfg(not(all(feature = "sources", target_os = "linux")))]
mod no_source_checks;
mod notify;
pub mod options;
mod outage;
mod port_owner;
mod priority;
mod sandbox;
mod signals;
#[cfg(all(feature = "sources", target_os = "linux"))]
mod source_checks;
mod start_latch;
mod sync;
mod sys;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use healthz::server::{self, Config, Counters, Server, ServerHandle, ServerThread};
use healthz::{Check, Instant, Responder};

use crate::units::Shown;

use checks::Checks;
use listen::Inherited;
#[cfg(not(all(feature = "sources", target_os = "linux")))]
use no_source_checks as source_checks;
use notify::ServiceManager;
use options::Options;
use sandbox::Sandbox;
use signals::{EventWaiter, ExitNotifier, Wakeup};
use source_checks::{Configured, SourceChecks};
use start_latch::StartLatch;
use sync::SyncLoop;

/// Exit code if the daemon failed while running.
pub const EXIT_FAILED: u8 = 1;
/// Exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Longest wait for the last log records at the end, if standard error blocks.
const FLUSH_DURATION_MAX: Duration = Duration::from_secs(1);
/// How much longer than the drain timeout the server's thread may take to exit.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// How long the daemon waits after that: the thread may not have run, because the process was stopped (SIGSTOP, or a
/// frozen cgroup) or the machine is busy. If it takes longer, that is a bug.
const SECOND_EXIT_GRACE: Duration = Duration::from_secs(5);

/// The server's thread handles the events of one poll within milliseconds. If it takes longer than this, it counts as
/// unresponsive. After 2 s of that, the sync loop logs it and stops beating the watchdog.
const RESPONSE_DURATION_MAX: Duration = Duration::from_millis(500);

/// Longest wait for the threads to start. A machine that is busy booting needs some seconds.
const START_DURATION_MAX: Duration = Duration::from_secs(10);

impl sync::Liveness for ServerHandle {
    fn is_responsive(&self, now: Instant) -> bool {
        ServerHandle::is_responsive(self, now, RESPONSE_DURATION_MAX)
    }

    fn wake(&self, now: Instant) {
        ServerHandle::wake(self, now);
    }
}

/// Why the daemon exits with an error.
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
    #[cfg(target_os = "linux")]
    crate::unneeded::share_heap();
    let checks = Checks::new(options);
    let latch = StartLatch::new();
    // Landlock applies only to the thread that calls it and to those that this thread starts later. So the log's thread
    // starts after the main thread has called it. Until then, records wait in the queue.
    let prepared = log::collect(options.log_level)
        .map_err(failed("cannot start the log"))
        .and_then(|()| Prepared::new(options, checks, inherited, &latch));
    let room = match &prepared {
        Ok(_) => Ok(()),
        // The failure may be a lack of memory. Then the log's thread cannot start either.
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
        log::print_lines(failure);
    }
    log::flush(FLUSH_DURATION_MAX);
    result
}

/// Prints each line of an error to standard error, while the log's thread does not run. If the write fails (the disk
/// is full, or the pipe has no reader), the exit code still shows the error. `eprintln` would panic then.
pub fn print_error(what: &dyn fmt::Display) {
    for line in what.to_string().lines() {
        let _ = writeln!(io::stderr(), "healthz: {line}");
    }
}

/// Makes a panic in any thread exit the process, because the daemon needs all its threads. [`panic_route`]
/// selects where its message is written. Writing to standard error may block, so `notifier` first makes the
/// main thread exit.
///
/// Call this before other threads start: it replaces the panic output of std. That one allocates, which
/// fails if a new thread panics because memory is short, and takes a lock that the main thread may need.
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

/// Where the message of a panic in `thread` is written. To the log, with two exceptions: the log's thread
/// cannot write records after its own panic, and before it has started, records would stay in the queue.
fn panic_route(thread: &str, have_all_started: bool) -> PanicRoute {
    match have_all_started && thread != log::THREAD {
        true => PanicRoute::Log,
        false => PanicRoute::Stderr,
    }
}

/// The first part of the start: everything that must happen before other threads exist, then the server's thread, so
/// that it answers as early as possible, and then what the server does not need.
struct Prepared {
    waiter: EventWaiter,
    urls: Vec<String>,
    ready: Option<File>,
    sandbox: Sandbox,
    server: ServerThread,
    sources: Option<SourceChecks>,
}

impl Prepared {
    // What it needs of the stack is free when it returns, and not in use as long as the daemon serves.
    #[inline(never)]
    fn new(
        options: &Options,
        checks: Checks,
        inherited: Inherited,
        latch: &StartLatch,
    ) -> Result<Self, Failure> {
        let configured = Configured::read(options)?;
        let waiter = EventWaiter::new().map_err(failed("cannot set up signals"))?;
        exit_on_panic(latch.clone(), waiter.exit_notifier());
        let (listeners, ready) = listen::open(options, inherited)?;
        let mut sources = configured
            .map(|configured| configured.prepare(server::now()))
            .transpose()?;
        let set = sources
            .as_ref()
            .map(|sources| sources.endpoint_set(&checks))
            .transpose();
        let set = set
            .map_err(|error| Failure::Usage(error.to_string()))?
            .map(Arc::new);
        let urls = listen::urls(&listeners);
        let own = checks.responder().with_listeners(leaked(&urls));
        let responder = set.as_ref().map_or(own, |set| own.with_endpoint_set(set));
        let bytes = |config: &Config| config.memory_bytes_max(&responder);
        let can_reload = sources.as_ref().is_some_and(SourceChecks::can_reload);
        let mut config = options.config;
        if can_reload {
            // The check file can be read again, so there is room for all checks that it can have. Pages of it that no
            // answer uses take no memory.
            let checks = source_checks::CHECKS_MAX + checks.own().count() + 1;
            config.response_bytes_min = Responder::response_bytes_of(checks, &config.limits);
            config.long_response_bytes_min = config.long_response_bytes_of(&responder, checks);
        }
        // Checked for the configured number of connections, even if fewer fit into the descriptor limit:
        // a configuration that needs too much memory is an error.
        check_memory(options, bytes(&config))?;
        config.connections = fit_descriptors(config.connections);
        let bytes = bytes(&config);
        memory::apply(options, bytes)?;
        if options.metrics {
            metrics::prepare();
        }
        let server = match set {
            Some(set) => Server::with_endpoint_set(own, set, listeners, config),
            None => Server::new(own, listeners, config),
        };
        memory::check_threads()?;
        // The first beat of `syncloop`. If the main thread never enters the sync loop, the check fails after
        // its limit.
        checks.syncloop.beat(server::now());
        let (started, notifier) = (latch.clone(), waiter.exit_notifier());
        let mut sandbox = Sandbox::new(options);
        let restrict = sandbox.for_thread();
        let on_start = move || {
            priority::raise();
            restrict();
            started.report_started();
        };
        let on_exit = move || notifier.notify_server_exit();
        let server = server::spawn_with(server, on_start, on_exit)
            .map_err(failed("cannot start the server"))?;
        // On a busy CPU, let the server's thread run before the rest of the start.
        std::thread::yield_now();
        // Not before the server answers, because it takes as long as all of the above. The nice value and Landlock
        // would be inherited.
        if let Some(sources) = &mut sources {
            sources.start()?;
        }
        priority::raise();
        sandbox.begin();
        Ok(Prepared {
            waiter,
            urls,
            ready,
            sandbox,
            server,
            sources,
        })
    }
}

/// The same texts for as long as the process runs. Call this once.
fn leaked(texts: &[String]) -> &'static [&'static str] {
    let texts = texts.iter().map(|text| &*text.clone().leak());
    texts.collect::<Vec<_>>().leak()
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
        sources,
    } = prepared;
    let manager = ServiceManager::from_env();
    // Ready means that all threads run. The filter comes after that, because it forbids the calls that start a thread.
    if !latch.wait(START_DURATION_MAX) {
        let message = "a thread did not start in time; is the machine short of memory or CPU?";
        return Err(Failure::Run(message.to_owned()));
    }
    if let Some(sources) = &sources {
        sources.wait_until_open();
    }
    sandbox.complete();
    announce(checks, sources.as_ref(), &urls);
    manager.notify_ready(&sync::status(checks, sources.as_ref(), server::now()));
    Inherited::notify_ready(ready);
    crate::unneeded::give_back();

    let handle = server.handle();
    let (period, log_limit) = (options.sync_period, options.log_limit);
    if let Some(sources) = &sources {
        waiter
            .watch(sources.as_raw_fd())
            .map_err(failed("cannot wait for the sources process"))?;
    }
    let mut main = Main {
        waiter,
        sync: SyncLoop::new(checks, &manager, period, log_limit, &handle),
        checks,
        manager: &manager,
        handle: server.handle(),
        sources,
    };
    if main.run()? == RunEnd::ServerExited {
        return Err(unexpected_exit(server));
    }
    checks.shutdown.begin_shutdown();
    manager.notify_stopping();
    ::log::info!("stopping: /readyz fails, {}", plan(options));
    main.drain(server, options)
}

/// How many of `connections` the system has descriptors for.
fn fit_descriptors(connections: usize) -> usize {
    #[cfg(target_os = "linux")]
    return descriptors::raise_limit(connections);
    #[cfg(not(target_os = "linux"))]
    connections
}

/// Checks that the system has the memory that the server will allocate. Without this check, an allocation
/// that fails would abort the process.
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
    checks: Checks,
    manager: &'a ServiceManager,
    handle: ServerHandle,
    sources: Option<SourceChecks>,
}

impl Main<'_> {
    /// Runs the sync loop until a signal stops the daemon, or the server's thread exits.
    fn run(&mut self) -> Result<RunEnd, Failure> {
        loop {
            let next = self.round(server::now());
            match self.wait_until(next)? {
                Wakeup::Stop => return Ok(RunEnd::StopRequested),
                Wakeup::ServerExited => return Ok(RunEnd::ServerExited),
                Wakeup::Panicked => return Err(panicked()),
                Wakeup::Hangup => self.reload(),
                Wakeup::Message => self.take_messages(true)?,
                Wakeup::Timeout => {}
            }
        }
    }

    /// One round of the sync loop. Returns when the next is due.
    fn round(&mut self, now: Instant) -> Instant {
        // Before the round too: if it is late, `syncloop` fails until the round beats it.
        self.observe(now);
        let next = self.sync.round(now, self.sources.as_mut());
        self.observe(now);
        let sources = self.sources.as_mut();
        if sources.is_some_and(|sources| sources.has_reload_expired(now)) {
            self.manager
                .notify_ready(&sync::status(self.checks, self.sources.as_ref(), now));
        }
        let deadline = self.sources.as_ref().and_then(SourceChecks::deadline);
        deadline.map_or(next, |deadline| next.min(deadline))
    }

    /// Counts changes of checks, so that they are known although no request shows them.
    fn observe(&self, now: Instant) {
        let unix_seconds = unix_seconds();
        self.checks.observe(now, unix_seconds);
        if let Some(sources) = &self.sources {
            sources.observe(now, unix_seconds);
        }
    }

    /// Makes the sources processes read the check file again.
    fn reload(&mut self) {
        match &mut self.sources {
            Some(sources) => {
                if sources.reload(server::now()) {
                    self.manager.notify_reloading();
                }
            }
            None => ::log::info!("received SIGHUP: there is no configuration to read again"),
        }
    }

    /// Takes the messages of the sources processes.
    fn take_messages(&mut self, is_ready: bool) -> Result<(), Failure> {
        let Some(sources) = &mut self.sources else {
            return Ok(());
        };
        let now = server::now();
        let handle = &self.handle;
        let replace = |set| {
            let replaced = handle.replace_endpoints(Arc::new(set));
            replaced.map_err(|error| error.to_string())
        };
        let taken = sources.take(&self.checks, now, unix_seconds(), replace)?;
        if taken.has_reload_ended {
            crate::unneeded::trim_heap();
        }
        if taken.has_more {
            self.waiter.expect_message();
        }
        if taken.has_reload_ended && is_ready {
            self.manager
                .notify_ready(&sync::status(self.checks, self.sources.as_ref(), now));
        }
        Ok(())
    }

    /// The same while the daemon stops. If the sources processes end then, requests in progress are still answered.
    fn take_last_messages(&mut self) {
        if self.take_messages(false).is_err() {
            ::log::warn!("the sources processes have ended while healthz stops");
            self.sources = None;
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
            DrainEnd::TimedOut => {
                self.run_until(server::now().saturating_add(SECOND_EXIT_GRACE))?
            }
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
            let next = self.round(now).min(end);
            match self.wait_until(next)? {
                Wakeup::Stop => {
                    ::log::info!("second signal: exiting at once");
                    return Ok(DrainEnd::StopRequestedAgain);
                }
                Wakeup::ServerExited => return Ok(DrainEnd::ServerExited),
                Wakeup::Panicked => return Err(panicked()),
                Wakeup::Hangup => {
                    ::log::info!("received SIGHUP while stopping: the check file is not read again")
                }
                Wakeup::Message => self.take_last_messages(),
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

/// The wall clock in seconds since 1970; `None` if it is before that, because then it was never set.
fn unix_seconds() -> Option<u64> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since_1970.as_secs())
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

/// The failure after a panic in another thread. That thread prints the message of the panic, unless standard
/// error blocks.
fn panicked() -> Failure {
    Failure::Run("a thread panicked".to_owned())
}

/// The failure after the server's thread has exited although the daemon does not stop.
fn unexpected_exit(server: ServerThread) -> Failure {
    match server.join() {
        Ok(_) => Failure::Run("the server's thread exited unexpectedly".to_owned()),
        Err(error) => failed("the server failed")(error),
    }
}

fn announce(checks: Checks, sources: Option<&SourceChecks>, urls: &[String]) {
    let paths: Vec<&str> = checks
        .endpoints
        .iter()
        .map(|endpoint| endpoint.path())
        .collect();
    let names: Vec<&str> = checks
        .own()
        .map(|check: &Check| check)
        .chain(sources.into_iter().flat_map(SourceChecks::checks))
        .map(Check::name)
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
    let drain = Shown(options.config.limits.drain_duration);
    let finish = format!("requests have {drain} to finish");
    match options.shutdown_delay {
        Duration::ZERO => finish,
        delay => format!("listeners close in {}, then {finish}", Shown(delay)),
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

    /// Regression: the round in which the reload had expired did not see when the check expires, so its failure was
    /// logged a whole period later.
    #[cfg(all(feature = "sources", target_os = "linux"))]
    #[test]
    fn a_round_after_an_expired_reload_comes_when_a_check_expires() {
        let checks = Checks::new(&Options::default());
        let (sources, far) = source_checks::tests::checks(&["a"]);
        let server = Server::new(
            checks.responder(),
            server::Listeners::new(),
            Config::default(),
        );
        let runner = server::Runner::new(server).unwrap();
        let (manager, handle) = (ServiceManager::from_env(), runner.handle());
        let hour = Duration::from_secs(3600);
        let mut main = Main {
            waiter: EventWaiter::new().unwrap(),
            sync: SyncLoop::new(checks, &manager, hour, hour, &handle),
            checks,
            manager: &manager,
            handle: handle.clone(),
            sources: Some(sources),
        };
        let sources = main.sources.as_mut().unwrap();
        assert!(sources.reload(source_checks::tests::T0));
        let expired = sources.deadline().unwrap();
        source_checks::tests::pass(sources, &far, expired);
        let fails = expired.saturating_add(Duration::from_secs(13));
        assert_eq!(main.round(expired), fails);
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

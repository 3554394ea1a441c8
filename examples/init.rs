//! A small init with a health server in its event loop. Each service has a check that reports its state.
//!
//! `init [LIST] [ADDRESS]`: LIST is the file with the services (default `/etc/init.list`); ADDRESS is where
//! the health server listens (default `localhost:10248`). An argument with a colon is an ADDRESS, another
//! with a slash is a LIST. Other arguments are ignored, because a kernel passes PID 1 every word that it does
//! not know itself. SIGTERM stops the services and powers off; SIGINT (Ctrl-Alt-Del) restarts the machine.
//!
//! As PID 1 it mounts file systems and brings the loopback interface up. As any other process it only
//! supervises services, so it can be tried without a virtual machine:
//!
//! ```text
//! printf 'sleeper /bin/sleep 1000\n' >/tmp/list
//! cargo run --no-default-features --features server --example init /tmp/list
//! curl 'localhost:10248/healthz?verbose'; curl localhost:10248/healthz/sleeper
//! ```
//!
//! The list has one service per line, `NAME PROGRAM ARGUMENT...`: words separated by spaces, without
//! quoting; `#` starts a comment. NAME is also the name of the check, so it is unique and consists of
//! `A-Z a-z 0-9 . _ / -`. PROGRAM stays in the foreground. It leads a process group in the session of
//! this init, reads `/dev/null`, writes to the output of this init, and inherits its environment. A kernel
//! gives PID 1 an environment with `HOME=/`, `TERM=linux` and words with `=`, but without `PATH`. When the
//! program ends, the rest of its group is killed and it is started again after 1 s. The delay doubles each
//! time that it ends soon.
//!
//! The health server is in `init/health.rs`; lines of this file that it needs end in `// healthz`. It
//! allocates nothing after its start, does a bounded amount of work per turn, and its errors do not end
//! this process. The init itself allocates nothing after the start of the first service, except what libc
//! needs to start a process, and it continues if that fails. `tests/init.rs` (as a process) and
//! `tests/vm.py` (as PID 1 of a virtual machine) test this file.

#[path = "init/health.rs"] // healthz
mod health; // healthz
#[path = "init/machine.rs"]
mod machine;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use healthz::server::{TOKENS, now}; // healthz
use healthz::{Check, Endpoint, Instant}; // healthz
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::reboot::RebootMode;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use health::HealthServer; // healthz

/// Between the end of a service and its next start, if it had been running.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How often the delay doubles at most for a service that ends soon: from 1 s to 32 s.
const DOUBLINGS_MAX: u32 = 5;
/// A service counts as running after this time. Without it, the check of one that ends at once would
/// pass for a moment after each start.
const STEADY_DURATION: Duration = Duration::from_secs(1);
/// When the machine stops: time from SIGTERM to SIGKILL, and from SIGKILL to the end of the wait.
const STOP_DURATION: Duration = Duration::from_secs(5);
/// The loop runs at least this often; the check `syncloop` fails after three times as long.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Children reaped in one turn: the orphans of a fork bomb must not delay health responses.
const REAPED_PER_TURN: usize = 64;

/// The health server uses `TOKENS` tokens from 0; ours follow.
const SERVER: Token = Token(0); // healthz
const SIGNALS: Token = Token(TOKENS);

static PING: Check = Check::ping(); // healthz
/// One thread answers probes and does everything else. While it is stuck, probes time out; this check
/// then fails for the first probe after that.
static SYNCLOOP: Check = Check::heartbeat("syncloop", SYNC_INTERVAL.saturating_mul(3)) // healthz
    .overdue("sync Loop took longer than expected"); // healthz
/// Fails if the list of services cannot be read completely.
static LIST: Check = Check::manual("list"); // healthz
static SHUTDOWN: Check = Check::shutdown(); // healthz

/// Prints one line in one write, so that output of children does not mix with it. `eprintln!` is not used
/// because it panics when the console is closed, and if PID 1 panics, so does the kernel.
fn put(text: fmt::Arguments<'_>) {
    let mut line = io::Cursor::new([0; 512]);
    // A line that is too long is cut, but always ends with a newline.
    let _ = write!(line, "init: {text}");
    let used = line.position().min(511);
    line.set_position(used);
    let _ = line.write_all(b"\n");
    let used = line.get_ref().get(..=used as usize);
    let _ = io::stderr().write_all(used.unwrap_or_default());
}

macro_rules! say {
    ($($text:tt)*) => { $crate::put(format_args!($($text)*)) };
}
use say;

fn main() -> ExitCode {
    // PID 1 may end every process and the machine.
    let is_first = std::process::id() == 1;
    let (list, address) = arguments();
    if is_first {
        machine::prepare();
    } else if let Err(error) = set_child_subreaper(true) {
        // Orphans are reparented to PID 1, or to a process that asked for it.
        say!("orphans of services will not be reaped here: {error}");
    }
    // `run` fails only before the first child, so it can be called again. PID 1 must not return.
    while let Err(error) = run(&list, &address, is_first) {
        say!("cannot start: {error}");
        if !is_first {
            return ExitCode::FAILURE;
        }
        std::thread::sleep(RESTART_DELAY);
    }
    ExitCode::SUCCESS
}

/// LIST and ADDRESS. `args_os`, because `args` panics on an argument that is not UTF-8.
fn arguments() -> (PathBuf, String) {
    let mut list = OsString::from("/etc/init.list");
    let mut address = String::from("localhost:10248");
    for word in env::args_os().skip(1) {
        match word.to_str() {
            Some(text) if text.contains(':') => address = text.into(),
            _ if word.as_encoded_bytes().contains(&b'/') => list = word,
            _ => say!("{word:?} is neither a path nor an address; ignored"),
        }
    }
    (list.into(), address)
}

/// Runs the services until the machine stops. Fails only before a service is started.
fn run(list: &Path, address: &str, is_first: bool) -> io::Result<()> {
    // Before the first child, so that no SIGCHLD is missed.
    let mut poll = Poll::new()?;
    let mut signals = Signals::new(poll.registry())?;
    let mut init = Init {
        is_first,
        services: read_list(list),
        ..Init::default()
    };

    let all: Vec<&Check> = [&PING, &SYNCLOOP, &LIST] // healthz
        .into_iter() // healthz
        .chain(init.services.iter().map(|service| service.check)) // healthz
        .collect(); // healthz
    let ready: Vec<&Check> = all.iter().copied().chain([&SHUTDOWN]).collect(); // healthz
    let live = [&PING, &SYNCLOOP]; // healthz
    let healthz = Endpoint::new("/healthz", &all); // healthz
    let livez = Endpoint::new("/livez", &live); // healthz
    let readyz = Endpoint::new("/readyz", &ready); // healthz
    let endpoints = [healthz, livez, readyz]; // healthz
    let mut health = HealthServer::open(&endpoints, address, poll.registry()); // healthz

    let mut events = Events::with_capacity(64);
    while !health.is_closed() {
        let before = now();
        let due = [init.deadline(before), health.deadline()]; // healthz
        let wait = due.into_iter().flatten().min();
        let wait = wait.map_or(SYNC_INTERVAL, |due| due.saturating_since(before));
        match poll.poll(&mut events, Some(wait.min(SYNC_INTERVAL))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // No client and no child can cause this. Continue slowly instead of ending.
                say!("cannot wait for events: {}", reason(&error));
                std::thread::sleep(RESTART_DELAY);
            }
            _ => {}
        }
        // Read the clock once: everything in this turn happens at the same time.
        let now = now();
        health.turn(poll.registry(), &events, now); // healthz
        init.turn(signals.receive(), now);
        if init.is_done(now) {
            health.close(poll.registry(), now); // healthz
        }
        // Last, so that the first response after a stall reports it.
        SYNCLOOP.beat(now); // healthz
    }
    init.leave(now());
    Ok(())
}

/// Sets `check` to failing because of `why` and prints that. Allocates nothing, because the reason may be
/// that no memory is left.
fn fail(check: &Check, why: fmt::Arguments<'_>) {
    check.fail_fmt(why); // healthz
    say!("{}: {why}", check.name());
}

/// The text of an error. `Display` of `io::Error` would allocate, and there may be no memory left.
fn reason(error: &io::Error) -> &'static str {
    let number = error.raw_os_error();
    number.map_or("unknown error", |number| Errno::from_raw(number).desc())
}

/// One line of the list.
struct Service {
    /// Made once, so that starting it again allocates nothing here.
    command: Command,
    check: &'static Check, // healthz
    /// Set while it runs.
    pid: Option<Pid>,
    /// Its process group, while it may contain processes.
    group: Option<Pid>,
    /// While it is down: when to start it. After its start: when it counts as running, if it does not yet.
    due: Option<Instant>,
    /// How often in a row it ended before it counted as running.
    failures: u32,
}

impl Service {
    fn new(name: String, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        // A process group, so that all its processes can be signalled together. The system and std reset
        // signal handlers and SIGPIPE. A signal mask would be inherited, so this init uses no signalfd.
        command
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0);
        // Leaked on purpose: the list is read once, and its checks are needed until the machine stops.
        let check = Check::manual(&name).group("services"); // healthz
        Service {
            command,
            check: Box::leak(Box::new(check)), // healthz
            pid: None,
            group: None,
            due: Some(Instant::ZERO),
            failures: 0,
        }
    }

    /// Starts the service, or counts it as running, if that is due.
    fn turn(&mut self, now: Instant) {
        if self.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        if self.pid.is_some() {
            self.failures = 0;
            return self.check.pass(); // healthz
        }
        match self.command.spawn() {
            Ok(child) => {
                let pid = Pid::from_raw(child.id() as i32);
                say!("{}: started, PID {pid}", self.check.name());
                (self.pid, self.group) = (Some(pid), Some(pid));
                self.due = Some(now.saturating_add(STEADY_DURATION));
            }
            Err(error) => {
                self.set_down(format_args!("cannot be started: {}", reason(&error)), now);
            }
        }
    }

    /// It has ended, or was not started: kills the rest of its group, and sets the time of its next start. While the
    /// machine stops, it does neither.
    fn set_down(&mut self, why: fmt::Arguments<'_>, now: Instant) {
        self.pid = None;
        if !SHUTDOWN.passes(now) {
            // The rest of its group has received SIGTERM and still has time to end.
            fail(self.check, format_args!("{why}; the machine stops"));
            return;
        }
        // They may still hold its port and files. The number cannot belong to another group: it is not
        // reused while a process of the group exists, nor soon after.
        if let Some(group) = self.group.take() {
            let _ = killpg(group, Signal::SIGKILL);
        }
        let delay = RESTART_DELAY.saturating_mul(1 << self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        let seconds = delay.as_secs();
        fail(self.check, format_args!("{why}; restarting in {seconds} s"));
        self.due = Some(now.saturating_add(delay));
    }
}

/// Reads the services. The check `list` reports a bad line; the other services are run.
fn read_list(path: &Path) -> Vec<Service> {
    let file = path.display();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            fail(&LIST, format_args!("{file}: {error}"));
            return Vec::new();
        }
    };
    LIST.pass(); // healthz
    let mut services: Vec<Service> = Vec::new();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1_u32..) {
        match read_line(line, &services) {
            Ok(None) => {}
            Ok(Some(service)) => services.push(service),
            Err(why) => fail(&LIST, format_args!("{file}:{number}: {why}")),
        }
    }
    services
}

/// Parses a line; `None` if it has no service. Comments may be in any encoding.
fn read_line(line: &[u8], services: &[Service]) -> Result<Option<Service>, &'static str> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    if line.contains('\0') {
        return Err("a NUL byte, which an argument cannot contain");
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, program, arguments) = match words.as_slice() {
        [] => return Ok(None),
        [_] => return Err("a name without a program"),
        [name, program, arguments @ ..] => (*name, *program, arguments),
    };
    // The constructors of checks panic if the name is not valid.
    if !Check::is_name(name) {
        return Err("not a name of A-Z a-z 0-9 . _ / - for a check");
    }
    let ours = [&PING, &SYNCLOOP, &LIST, &SHUTDOWN];
    let others = services.iter().map(|service| service.check);
    if ours
        .into_iter()
        .chain(others)
        .any(|check| check.name() == name)
    {
        return Err("a name that is taken");
    }
    Ok(Some(Service::new(name.into(), program, arguments)))
}

/// The services, and the state of stopping the machine.
#[derive(Default)]
struct Init {
    is_first: bool,
    services: Vec<Service>,
    stop: Option<Stop>,
    /// The last turn left children to reap.
    is_reaping: bool,
    has_children: bool,
}

struct Stop {
    how: RebootMode,
    /// SIGKILL was sent as well.
    is_killing: bool,
    /// When to stop waiting.
    until: Instant,
}

impl Init {
    /// One pass: reaps children, starts services that are due, and stops the machine if there was a signal to stop.
    fn turn(&mut self, signalled: Option<RebootMode>, now: Instant) {
        self.reap(now);
        match (signalled, &mut self.stop) {
            (None, None) => self
                .services
                .iter_mut()
                .for_each(|service| service.turn(now)),
            (Some(how), None) => {
                SHUTDOWN.begin_shutdown(); // healthz
                say!("stopping");
                let until = now.saturating_add(STOP_DURATION);
                self.stop = Some(Stop {
                    how,
                    is_killing: false,
                    until,
                });
                self.signal_all(Signal::SIGTERM);
                // A stopped process receives SIGTERM only when it continues.
                self.signal_all(Signal::SIGCONT);
            }
            (_, Some(stop)) if stop.until <= now && !stop.is_killing => {
                stop.is_killing = true;
                stop.until = now.saturating_add(STOP_DURATION);
                self.signal_all(Signal::SIGKILL);
            }
            _ => {}
        }
    }

    /// The latest time for the next turn.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.stop {
            _ if self.is_reaping => Some(now),
            Some(stop) => (!self.is_done(now)).then_some(stop.until),
            None => self.services.iter().filter_map(|service| service.due).min(),
        }
    }

    /// True if the init is stopping, and all children have ended or the time to wait is over.
    fn is_done(&self, now: Instant) -> bool {
        let is_done = |stop: &Stop| !self.has_children || (stop.is_killing && stop.until <= now);
        self.stop.as_ref().is_some_and(is_done)
    }

    /// Reaps children and orphans. Called once per turn, not once per SIGCHLD, because pending signals of
    /// the same kind merge.
    fn reap(&mut self, now: Instant) {
        self.is_reaping = false;
        self.has_children = true;
        for _ in 0..REAPED_PER_TURN {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    self.ended(|of| of == pid, format_args!("exited with code {code}"), now);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    let number = signal as i32;
                    self.ended(
                        |of| of == pid,
                        format_args!("killed by signal {number}"),
                        now,
                    );
                }
                // The child is reaped, but nix has no value for its signal (a real-time one) and does not
                // return the PID. The number cannot be in use again yet.
                Err(Errno::EINVAL) => {
                    let is_gone = |of| kill(of, None) == Err(Errno::ESRCH);
                    self.ended(is_gone, format_args!("killed by a real-time signal"), now);
                }
                Ok(WaitStatus::StillAlive) => return,
                Err(Errno::ECHILD) => {
                    self.has_children = false;
                    return;
                }
                _ => {}
            }
        }
        self.is_reaping = true;
    }

    /// Records that the service for which `is_it` is true has ended because of `what`.
    fn ended(&mut self, is_it: impl Fn(Pid) -> bool, what: fmt::Arguments<'_>, now: Instant) {
        let mut services = self.services.iter_mut();
        if let Some(service) = services.find(|service| service.pid.is_some_and(&is_it)) {
            service.set_down(what, now);
        }
    }

    fn signal_all(&self, signal: Signal) {
        // An error means that the process has already ended.
        if self.is_first {
            let _ = kill(Pid::from_raw(-1), signal);
        } else {
            for group in self.services.iter().filter_map(|service| service.group) {
                let _ = killpg(group, signal);
            }
        }
    }

    /// Ends the machine. As an ordinary process it only returns.
    fn leave(&mut self, now: Instant) {
        // Children may have ended while the health server closed.
        self.reap(now);
        if self.has_children {
            say!("some processes did not end in time; continuing without them");
        } else {
            say!("all services have ended");
        }
        if let Some(stop) = self.stop.as_ref().filter(|_| self.is_first) {
            machine::end(stop.how);
        }
    }
}

/// Signals as an event source: the handler writes a byte to a socket and stores the number of the signal.
struct Signals {
    receiver: UnixStream,
    asked: Arc<AtomicUsize>,
}

impl Signals {
    fn new(registry: &Registry) -> io::Result<Self> {
        let (receiver, sender) = std::os::unix::net::UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let mut receiver = UnixStream::from_std(receiver);
        registry.register(&mut receiver, SIGNALS, Interest::READABLE)?;
        let asked = Arc::new(AtomicUsize::new(0));
        for signal in [SIGTERM, SIGINT] {
            // Handlers run in this order: the number must be stored before the byte arrives.
            signal_hook::flag::register_usize(signal, asked.clone(), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(SIGCHLD, sender)?;
        Ok(Signals { receiver, asked })
    }

    /// Empties the socket, and returns whether and how the machine is to stop. Cheap enough for every
    /// turn. Reads until the socket is empty, because mio is edge-triggered.
    fn receive(&mut self) -> Option<RebootMode> {
        let mut bytes = [0; 64];
        while self.receiver.read(&mut bytes).is_ok_and(|count| count > 0) {}
        match self.asked.load(Ordering::Acquire) as i32 {
            SIGTERM => Some(RebootMode::RB_POWER_OFF),
            SIGINT => Some(RebootMode::RB_AUTOBOOT),
            _ => None,
        }
    }
}

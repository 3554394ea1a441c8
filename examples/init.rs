//! A small init whose own loop contains the door: what each service is doing is what its check says.
//!
//! `init [LIST] [ADDRESS]`: LIST names the services (default `/etc/init.list`); ADDRESS is where health
//! is asked for (default `localhost:10248`). A word with a colon is an ADDRESS, another with a slash a
//! LIST, and the rest is passed over: a kernel gives PID 1 every word that it does not know itself.
//! SIGTERM ends the services and powers off, SIGINT (Ctrl-Alt-Del) restarts the machine. As PID 1 it
//! mounts what it needs and brings the loopback up; as any other process it only supervises, so that it
//! can be tried on a desk:
//!
//! ```text
//! printf 'sleeper /bin/sleep 1000\n' >/tmp/list
//! cargo run --no-default-features --features server --example init /tmp/list
//! curl 'localhost:10248/healthz?verbose'; curl localhost:10248/healthz/sleeper
//! ```
//!
//! The list has a service a line, `NAME PROGRAM ARGUMENT...`: words between blanks, without quoting,
//! and `#` starts a comment wherever it stands. NAME is the check's, so it is new and of
//! `A-Z a-z 0-9 . _ / -`. PROGRAM stays in the foreground. It leads a process group in the session of
//! this init, reads `/dev/null`, writes where this init writes, and has its environment: from a kernel
//! that is `HOME=/`, `TERM=linux` and words with `=`, but no `PATH`. When it ends, the rest of its group
//! is killed and it is started again: after 1 s, and twice as long each time that it does not last.
//!
//! What the door costs its host is `init/door.rs` and the lines that end in `// door`. It allocates
//! nothing once it is made, does a bounded amount of work a turn, and no error of it ends this process.
//! Nor does this init ask the heap for anything between its first service and its end, but for what
//! libc needs to start one, and may be refused. The tests `tests/init.rs`
//! (as a process) and `tests/vm.py` (as PID 1 of a virtual machine) run this file.

#[path = "init/door.rs"] // door
mod door; // door
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

use healthz::server::{TOKENS, now}; // door
use healthz::{Check, Endpoint, Instant}; // door
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::reboot::RebootMode;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use door::Door; // door

/// Between the end of a service and its next start, if it had been running.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// If it had not, the delay doubles so often at most: from 1 s to 32 s.
const DOUBLINGS_MAX: u32 = 5;
/// A service that has lived for so long counts as running. Without it, one that dies at once would
/// pass for a moment each time it is started.
const STEADY_DURATION: Duration = Duration::from_secs(1);
/// From SIGTERM to SIGKILL when the machine stops, and from there to going on without them.
const STOP_DURATION: Duration = Duration::from_secs(5);
/// The loop comes round at least this often, and is overdue after three times as long.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// Children buried in one turn: orphans of a fork bomb must not keep the door waiting.
const REAPED_PER_TURN: usize = 64;

/// The door has the tokens from 0 on; ours come after it.
const DOOR: Token = Token(0); // door
const SIGNALS: Token = Token(TOKENS);

static PING: Check = Check::ping(); // door
/// One thread answers probes and does everything else: while it is stuck nobody is answered, and the
/// probe's own patience tells. This check tells the first probe after that what had happened.
static SYNCLOOP: Check = Check::heartbeat("syncloop", SYNC_INTERVAL.saturating_mul(3)) // door
    .overdue("sync Loop took longer than expected"); // door
/// An init that cannot read what it is to run must not look healthy.
static LIST: Check = Check::manual("list"); // door
static SHUTDOWN: Check = Check::shutdown(); // door

/// One line on the console in one write, so that lines of children do not get into it. Not
/// `eprintln!`, which panics when the console is gone, and a panic of PID 1 is the kernel's.
fn put(text: fmt::Arguments<'_>) {
    let mut line = io::Cursor::new([0; 512]);
    // What does not fit is cut, but for the end of the line.
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
    // PID 1: every process is ours to end, and so is the machine.
    let is_first = std::process::id() == 1;
    let (list, address) = arguments();
    if is_first {
        machine::prepare();
    } else if let Err(error) = set_child_subreaper(true) {
        // Orphans come to PID 1 by themselves, and to others who ask for them.
        say!("orphans are left to others: {error}");
    }
    // Before the first child nothing is lost by trying again. PID 1 has nowhere to return to.
    while let Err(error) = run(&list, &address, is_first) {
        say!("cannot start: {error}");
        if !is_first {
            return ExitCode::FAILURE;
        }
        std::thread::sleep(RESTART_DELAY);
    }
    ExitCode::SUCCESS
}

/// LIST and ADDRESS. Not as strings, which panic on what is not UTF-8.
fn arguments() -> (PathBuf, String) {
    let mut list = OsString::from("/etc/init.list");
    let mut address = String::from("localhost:10248");
    for word in env::args_os().skip(1) {
        match word.to_str() {
            Some(text) if text.contains(':') => address = text.into(),
            _ if word.as_encoded_bytes().contains(&b'/') => list = word,
            _ => say!("{word:?} is neither a path nor an address, and passed over"),
        }
    }
    (list.into(), address)
}

/// Until the end. Fails only before anything is started.
fn run(list: &Path, address: &str, is_first: bool) -> io::Result<()> {
    // Before the first child: nothing that happens to it may be missed.
    let mut poll = Poll::new()?;
    let mut signals = Signals::new(poll.registry())?;
    let mut init = Init {
        is_first,
        services: read_list(list),
        ..Init::default()
    };

    let all: Vec<&Check> = [&PING, &SYNCLOOP, &LIST] // door
        .into_iter() // door
        .chain(init.services.iter().map(|service| service.check)) // door
        .collect(); // door
    let ready: Vec<&Check> = all.iter().copied().chain([&SHUTDOWN]).collect(); // door
    let live = [&PING, &SYNCLOOP]; // door
    let healthz = Endpoint::new("/healthz", &all); // door
    let livez = Endpoint::new("/livez", &live); // door
    let readyz = Endpoint::new("/readyz", &ready); // door
    let endpoints = [healthz, livez, readyz]; // door
    let mut door = Door::open(&endpoints, address, poll.registry()); // door

    let mut events = Events::with_capacity(64);
    while !door.is_closed() {
        let before = now();
        let due = [init.deadline(before), door.deadline()]; // door
        let wait = due.into_iter().flatten().min();
        let wait = wait.map_or(SYNC_INTERVAL, |due| due.saturating_since(before));
        match poll.poll(&mut events, Some(wait.min(SYNC_INTERVAL))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // Not for anything that a peer or a child can do. Better slow than gone.
                say!("cannot wait for events: {}", reason(&error));
                std::thread::sleep(RESTART_DELAY);
            }
            _ => {}
        }
        // One look at the clock: everything in this turn happens at the same time.
        let now = now();
        door.turn(poll.registry(), &events, now); // door
        init.turn(signals.receive(), now);
        if init.is_done(now) {
            door.close(poll.registry(), now); // door
        }
        // Last, so that the first answer after a stall tells of it.
        SYNCLOOP.beat(now); // door
    }
    init.leave(now());
    Ok(())
}

/// `check` fails because of `why`. Neither half needs the heap: this may be the moment when there is
/// no memory.
fn fail(check: &Check, why: fmt::Arguments<'_>) {
    check.fail_fmt(why); // door
    say!("{}: {why}", check.name());
}

/// In words, and not as `error` writes itself: that takes memory, which may be what there is none of.
fn reason(error: &io::Error) -> &'static str {
    let number = error.raw_os_error();
    number.map_or("unknown error", |number| Errno::from_raw(number).desc())
}

/// One line of the list.
struct Service {
    /// Made once: to start it again takes no memory of ours.
    command: Command,
    check: &'static Check, // door
    /// While it is up.
    pid: Option<Pid>,
    /// Its process group, as long as somebody may be in it.
    group: Option<Pid>,
    /// While it is down: when to start it. Once it is up: when it counts as running, if not yet.
    due: Option<Instant>,
    /// How often in a row it was down before it counted as running.
    failures: u32,
}

impl Service {
    fn new(name: String, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        // A group of its own, to be signalled as one. Handlers and SIGPIPE are reset by the system and
        // by std. (A mask would be inherited: why signals come through a socket, not a signalfd.)
        command
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0);
        // Leaked on purpose: the list is read once, and its checks live as long as the machine.
        let check = Check::manual(name.leak()).group("services"); // door
        Service {
            command,
            check: Box::leak(Box::new(check)), // door
            pid: None,
            group: None,
            due: Some(Instant::ZERO),
            failures: 0,
        }
    }

    /// Does what is due.
    fn turn(&mut self, now: Instant) {
        if self.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        if self.pid.is_some() {
            self.failures = 0;
            return self.check.pass(); // door
        }
        match self.command.spawn() {
            Ok(child) => {
                let pid = Pid::from_raw(child.id() as i32);
                say!("{}: started, PID {pid}", self.check.name());
                (self.pid, self.group) = (Some(pid), Some(pid));
                self.due = Some(now.saturating_add(STEADY_DURATION));
            }
            Err(error) => {
                self.is_down(format_args!("cannot be started: {}", reason(&error)), now);
            }
        }
    }

    fn is_down(&mut self, why: fmt::Arguments<'_>, now: Instant) {
        self.pid = None;
        if !SHUTDOWN.passes(now) {
            // The rest of its group has had its SIGTERM, and its time is not over.
            fail(self.check, format_args!("{why}; the machine stops"));
            return;
        }
        // They would hold its port and its files. The number cannot be another's: not while somebody
        // is left, and not so soon after.
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

/// Services from their file. What is wrong with it is said by the check `list`, and the rest is run.
fn read_list(path: &Path) -> Vec<Service> {
    let file = path.display();
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            fail(&LIST, format_args!("{file}: {error}"));
            return Vec::new();
        }
    };
    LIST.pass(); // door
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

/// The service of a line, if there is one. Comments may be in any encoding.
fn read_line(line: &[u8], services: &[Service]) -> Result<Option<Service>, &'static str> {
    let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| "not UTF-8")?;
    if line.contains('\0') {
        return Err("a NUL, which no program can be given");
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, program, arguments) = match words.as_slice() {
        [] => return Ok(None),
        [_] => return Err("a name without a program"),
        [name, program, arguments @ ..] => (*name, *program, arguments),
    };
    // The constructors of checks panic about names that no request could name.
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

/// The services and the end of the machine.
#[derive(Default)]
struct Init {
    is_first: bool,
    services: Vec<Service>,
    stop: Option<Stop>,
    /// The last turn left children unburied.
    is_reaping: bool,
    has_children: bool,
}

struct Stop {
    how: RebootMode,
    /// SIGKILL was sent as well.
    is_killing: bool,
    /// When to lose patience.
    until: Instant,
}

impl Init {
    /// One round: bury, start what is due, stop if asked to.
    fn turn(&mut self, asked: Option<RebootMode>, now: Instant) {
        self.reap(now);
        match (asked, &mut self.stop) {
            (None, None) => self
                .services
                .iter_mut()
                .for_each(|service| service.turn(now)),
            (Some(how), None) => {
                SHUTDOWN.begin_shutdown(); // door
                say!("stopping");
                let until = now.saturating_add(STOP_DURATION);
                self.stop = Some(Stop {
                    how,
                    is_killing: false,
                    until,
                });
                self.signal_all(Signal::SIGTERM);
                // Who is stopped finds it only when it goes on.
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

    /// When the next turn has to be at the latest.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        match &self.stop {
            _ if self.is_reaping => Some(now),
            Some(stop) => (!self.is_done(now)).then_some(stop.until),
            None => self.services.iter().filter_map(|service| service.due).min(),
        }
    }

    /// Whether it was asked to stop and has nobody left to wait for, or no patience.
    fn is_done(&self, now: Instant) -> bool {
        let is_done = |stop: &Stop| !self.has_children || (stop.is_killing && stop.until <= now);
        self.stop.as_ref().is_some_and(is_done)
    }

    /// Buries children and orphans. Asked once a turn, not once a SIGCHLD: signals of a kind merge
    /// while they wait.
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
                // The child is buried, but nix knows no name for its signal (a real-time one) and
                // keeps the PID to itself. Nobody can have got the number again yet.
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

    /// The service that `is_it`, if it is one, is down because it was or did `what`.
    fn ended(&mut self, is_it: impl Fn(Pid) -> bool, what: fmt::Arguments<'_>, now: Instant) {
        let mut services = self.services.iter_mut();
        if let Some(service) = services.find(|service| service.pid.is_some_and(&is_it)) {
            service.is_down(what, now);
        }
    }

    fn signal_all(&self, signal: Signal) {
        // Errors are about processes that are gone.
        if self.is_first {
            let _ = kill(Pid::from_raw(-1), signal);
        } else {
            for group in self.services.iter().filter_map(|service| service.group) {
                let _ = killpg(group, signal);
            }
        }
    }

    /// Ends the machine, or as an ordinary process just returns.
    fn leave(&mut self, now: Instant) {
        // Once more: the door had its time to close.
        self.reap(now);
        if self.has_children {
            say!("some processes do not end; going on without them");
        } else {
            say!("all services have ended");
        }
        if let Some(stop) = self.stop.as_ref().filter(|_| self.is_first) {
            machine::end(stop.how);
        }
    }
}

/// Signals as something to wait for: a handler leaves a byte in a socket, and who asked for what in
/// a word.
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
            // The word before the byte: handlers run in this order.
            signal_hook::flag::register_usize(signal, asked.clone(), signal as usize)?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(SIGCHLD, sender)?;
        Ok(Signals { receiver, asked })
    }

    /// Takes what came, and tells whether the machine is to stop, and how. Cheap enough for every
    /// turn. Until the socket is empty: only then does mio tell of the next byte.
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

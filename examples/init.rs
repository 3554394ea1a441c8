//! A small init whose own loop contains the door: what each service is doing is what its check says.
//!
//! `init [LIST [ADDRESS]]`: LIST names the services, one a line as `NAME PROGRAM ARGUMENT...` with `#`
//! for comments (default `/etc/init.list`); ADDRESS is where health is asked for (default
//! `localhost:10248`). SIGTERM ends the services and powers off, SIGINT (Ctrl-Alt-Del) restarts the
//! machine. As PID 1 it mounts what it needs and brings the loopback up; as any other process it only
//! supervises, so that it can be tried on a desk:
//!
//! ```text
//! printf 'sleeper /bin/sleep 1000\n' >/tmp/list
//! cargo run --no-default-features --features server --example init /tmp/list
//! curl 'localhost:10248/healthz?verbose'; curl localhost:10248/healthz/sleeper
//! ```
//!
//! What the door costs its host is in `Door` and in the lines that call it. It allocates nothing once
//! it is made, does a bounded amount of work a turn, and no error of it ends this process. The tests
//! `tests/init.rs` (as a process) and `tests/vm.py` (as PID 1 of a virtual machine) run this file.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use healthz::server::{Config, Listeners, Server, TOKENS, now};
use healthz::{Check, Endpoint, Instant, Responder};
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Registry, Token};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

/// Between the end of a service and its next start.
const RESTART_DELAY: Duration = Duration::from_secs(1);
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
const DOOR: Token = Token(0);
const SIGNALS: Token = Token(TOKENS);

static PING: Check = Check::ping();
/// One thread answers probes and does everything else: while it is stuck nobody is answered, and the
/// probe's own patience tells. This check tells the first probe after that what had happened.
static SYNCLOOP: Check = Check::heartbeat("syncloop", SYNC_INTERVAL.saturating_mul(3))
    .overdue("sync Loop took longer than expected");
/// An init that cannot read what it is to run must not look healthy.
static LIST: Check = Check::manual("list");
static SHUTDOWN: Check = Check::shutdown();

/// One line on the console in one write, so that lines of children do not get into it. Not
/// `eprintln!`, which panics when the console is gone, and a panic of PID 1 is the kernel's.
fn say(text: fmt::Arguments<'_>) {
    let mut line = io::Cursor::new([0; 512]);
    // What does not fit is cut.
    let _ = writeln!(line, "init: {text}");
    let used = line.get_ref().get(..line.position() as usize);
    let _ = io::stderr().write_all(used.unwrap_or_default());
}

macro_rules! say {
    ($($text:tt)*) => { say(format_args!($($text)*)) };
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let list = arguments.next().unwrap_or("/etc/init.list".into());
    let address = arguments.next().unwrap_or("localhost:10248".into());
    let is_first = std::process::id() == 1;
    if is_first {
        prepare_machine();
    }
    // Before the first child: nothing that happens to it may be missed.
    let mut poll = Poll::new()?;
    let mut signals = Signals::new(poll.registry())?;
    let mut init = Init {
        is_first,
        services: read_list(&list),
        ..Init::default()
    };

    let all: Vec<&Check> = [&PING, &SYNCLOOP, &LIST]
        .into_iter()
        .chain(init.services.iter().map(|service| service.check))
        .collect();
    let ready: Vec<&Check> = all.iter().copied().chain([&SHUTDOWN]).collect();
    let live = [&PING, &SYNCLOOP];
    let endpoints = [
        Endpoint::new("/healthz", &all),
        Endpoint::new("/livez", &live),
        Endpoint::new("/readyz", &ready),
    ];
    let mut door = Door::open(&endpoints, &address, poll.registry());

    let mut events = Events::with_capacity(64);
    while !door.is_closed() {
        let before = now();
        let due = [init.deadline(before), door.server.deadline()];
        let wait = due.into_iter().flatten().min();
        let wait = wait.map_or(SYNC_INTERVAL, |due| due.saturating_since(before));
        match poll.poll(&mut events, Some(wait.min(SYNC_INTERVAL))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // Not for anything that a peer or a child can do. Better slow than gone.
                say!("cannot wait for events: {error}");
                std::thread::sleep(RESTART_DELAY);
            }
            _ => {}
        }
        // One look at the clock: everything in this turn happens at the same time.
        let now = now();
        door.turn(poll.registry(), &events, now);
        init.turn(signals.receive(), now);
        if init.is_done(now) {
            door.close(poll.registry(), now);
        }
        // Last, so that the first answer after a stall tells of it.
        SYNCLOOP.beat(now);
    }
    init.leave();
    Ok(())
}

/// The server, and what it wants of its host.
struct Door<'a> {
    server: Server<'a>,
    is_closing: bool,
}

impl<'a> Door<'a> {
    /// Whatever goes wrong here is said and nothing more: a machine without a door is better than
    /// one without its init.
    fn open(endpoints: &'a [Endpoint<'a>], address: &str, registry: &Registry) -> Self {
        // The library logs what is out of the ordinary, never once a request.
        let _ = log::set_logger(&Console);
        log::set_max_level(log::LevelFilter::Info);
        let mut listeners = Listeners::new();
        if let Err(error) = listen(&mut listeners, address) {
            say!("no door: {error}");
        }
        let mut server = Server::new(Responder::new(endpoints), listeners, Config::default());
        if let Err(error) = server.register(registry, DOOR) {
            say!("no door: {error}");
        }
        for address in server.local_addresses() {
            say!("health is answered on {address}");
        }
        Door {
            server,
            is_closing: false,
        }
    }

    fn turn(&mut self, registry: &Registry, events: &Events, now: Instant) {
        // For the Date of answers.
        if let Ok(since) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            self.server.set_wall_clock(since.as_secs());
        }
        // Events that are not the server's do nothing to it.
        for event in events {
            self.server.handle(registry, event, now);
        }
        self.server.turn(registry, now);
    }

    /// Who is in the middle of a request gets two seconds to end it; then the door is closed.
    fn close(&mut self, registry: &Registry, now: Instant) {
        if !std::mem::replace(&mut self.is_closing, true) {
            self.server.stop(registry, now);
        }
    }

    fn is_closed(&self) -> bool {
        self.server.is_finished()
    }
}

fn listen(listeners: &mut Listeners, address: &str) -> Result<(), Box<dyn Error>> {
    // A machine may have only one half of localhost. That is fine, and worth a line.
    if let Some((missing, error)) = listeners.bind(&address.parse()?)?.missing {
        say!("no door on {missing}: {error}");
    }
    Ok(())
}

struct Console;

impl log::Log for Console {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        if record.level() <= log::max_level() {
            say(*record.args());
        }
    }

    fn flush(&self) {}
}

/// `check` fails because of `why`. Neither half needs the heap: this may be the moment when there is
/// no memory.
fn fail(check: &Check, why: fmt::Arguments<'_>) {
    check.fail_fmt(why);
    say!("{}: {why}", check.name());
}

/// One line of the list.
struct Service {
    command: Vec<String>,
    check: &'static Check,
    /// While it is up.
    pid: Option<Pid>,
    /// While it is down: when to start it. Once it is up: when it counts as running, if not yet.
    due: Option<Instant>,
}

impl Service {
    /// Does what is due.
    fn turn(&mut self, now: Instant) {
        if self.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        if self.pid.is_some() {
            return self.check.pass();
        }
        match spawn(&self.command) {
            Ok(pid) => {
                say!("{}: started, PID {pid}", self.check.name());
                self.pid = Some(pid);
                self.due = Some(now.saturating_add(STEADY_DURATION));
            }
            Err(error) => self.is_down(format_args!("cannot be started: {error}"), now),
        }
    }

    fn is_down(&mut self, why: fmt::Arguments<'_>, now: Instant) {
        let seconds = RESTART_DELAY.as_secs();
        if SHUTDOWN.passes(now) {
            fail(self.check, format_args!("{why}; restarting in {seconds} s"));
        } else {
            fail(self.check, format_args!("{why}; the machine stops"));
        }
        self.pid = None;
        self.due = Some(now.saturating_add(RESTART_DELAY));
    }
}

fn spawn(command: &[String]) -> io::Result<Pid> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::NotFound)?;
    // A group of its own, to be signalled as one. Handlers and SIGPIPE are reset by the system and by
    // std. (A mask would be inherited: the reason why signals come through a pipe, not a signalfd.)
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// Services from their file. What is wrong with it is said by the check `list`, and the rest is run.
fn read_list(path: &str) -> Vec<Service> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            fail(&LIST, format_args!("{path}: {error}"));
            return Vec::new();
        }
    };
    LIST.pass();
    let mut services: Vec<Service> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace().map(String::from);
        let Some(name) = words.next() else { continue };
        let command: Vec<String> = words.collect();
        let others = services.iter().map(|service| service.check);
        let mut taken = [&PING, &SYNCLOOP, &LIST, &SHUTDOWN]
            .into_iter()
            .chain(others);
        // The constructors of checks panic about names that no request could name.
        if command.is_empty() || !Check::is_name(&name) || taken.any(|check| check.name() == name) {
            fail(
                &LIST,
                format_args!("{path}:{number}: not a new name and its program"),
            );
            continue;
        }
        // Leaked on purpose: the list is read once, and its checks live as long as the machine.
        let check = Check::manual(name.leak()).group("services");
        services.push(Service {
            command,
            check: Box::leak(Box::new(check)),
            pid: None,
            due: Some(Instant::ZERO),
        });
    }
    services
}

/// The services and the end of the machine.
#[derive(Default)]
struct Init {
    /// PID 1: every process is ours to end, and so is the machine.
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
                SHUTDOWN.begin_shutdown();
                say!("stopping");
                let until = now.saturating_add(STOP_DURATION);
                self.stop = Some(Stop {
                    how,
                    is_killing: false,
                    until,
                });
                self.signal_all(Signal::SIGTERM);
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
            for pid in self.services.iter().filter_map(|service| service.pid) {
                let _ = killpg(pid, signal);
            }
        }
    }

    /// Ends the machine, or as an ordinary process just returns.
    fn leave(&self) {
        say!("all services have ended");
        let Some(stop) = self.stop.as_ref().filter(|_| self.is_first) else {
            return;
        };
        nix::unistd::sync();
        let Err(error) = reboot(stop.how);
        say!("the machine does not end: {error}");
        // The end of PID 1 is a kernel panic.
        loop {
            std::thread::park();
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

/// What a kernel leaves to PID 1. What is there already, in a container for example, stays.
fn prepare_machine() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        let _ = std::fs::create_dir_all(target);
        match mount(Some(kind), target, Some(kind), flags, None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => say!("cannot mount {target}: {error}"),
        }
    }
    // Before the door: without it nothing can be bound to ::1, and nobody reaches 127.0.0.1.
    if let Err(error) = raise_loopback() {
        say!("cannot bring the loopback up: {error}");
    }
    // Ctrl-Alt-Del sends us SIGINT instead of ending the machine at once.
    if let Err(error) = set_cad_enabled(false) {
        say!("Ctrl-Alt-Del stays as it is: {error}");
    }
}

/// `ip link set lo up`, as one netlink message; see rtnetlink(7).
fn raise_loopback() -> io::Result<()> {
    // The first interface of every network namespace.
    const LO_INDEX: u32 = 1;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let [a, b] = libc::RTM_NEWLINK.to_ne_bytes();
    let [c, d] = flags.to_ne_bytes();
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // struct nlmsghdr (length, type and flags, sequence, port), then struct ifinfomsg (family and
    // type, index, flags, which of them to change).
    let index = LO_INDEX.to_ne_bytes();
    let length = 32_u32.to_ne_bytes();
    let message = [length, [a, b, c, d], [0; 4], [0; 4], [0; 4], index, up, up].concat();

    let route = socket2::Domain::from(libc::AF_NETLINK);
    let mut socket = socket2::Socket::new(route, socket2::Type::RAW, None)?;
    socket.send(&message)?;
    // The start of a struct nlmsgerr behind its header: 0, or the negative number of an error.
    let mut answer = [0; 20];
    socket.read_exact(&mut answer)?;
    let [.., a, b, c, d] = answer;
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

//! Clients that connect as fast as they can, each in a separate process, and the probes during that.
//!
//! A flooder never waits: if the kernel does not establish a connection at once, the flooder closes it and opens
//! the next. It keeps the last [`OPEN`] connections open, so that the server ends most of them. If the bench runs
//! as root, a flooder runs as another user. Prints no table; `attacks.rs` calls it.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use healthz::Responder;
use healthz::server::{Address, Listeners, Server};
use socket2::{Domain, SockAddr, Socket, Type};

use super::process;
use super::server::{self, Setup};

/// What a flooder does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Nothing.
    Idle,
    /// Sends half a head.
    Half,
    /// Sends a whole request, and reads nothing.
    Unread,
    /// Sends [`PIPELINED`] requests, and reads nothing.
    Pipeline,
    /// Sends half a head, and resets the connection.
    Reset,
}

impl Flood {
    pub const ALL: [Flood; 5] = [
        Flood::Idle,
        Flood::Half,
        Flood::Unread,
        Flood::Pipeline,
        Flood::Reset,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Flood::Idle => "idle",
            Flood::Half => "half",
            Flood::Unread => "unread",
            Flood::Pipeline => "pipeline",
            Flood::Reset => "reset",
        }
    }

    fn script(self) -> Vec<u8> {
        match self {
            Flood::Idle => Vec::new(),
            Flood::Half | Flood::Reset => b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ".to_vec(),
            Flood::Unread => server::REQUEST.to_vec(),
            Flood::Pipeline => server::REQUEST.repeat(PIPELINED),
        }
    }
}

impl FromStr for Flood {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let mut all = Flood::ALL.into_iter();
        all.find(|flood| flood.name() == name).ok_or(())
    }
}

/// Requests that are pipelined on one connection.
const PIPELINED: usize = 100;
/// Connections that a flooder has open: more than the server has slots.
const OPEN: usize = 256;
/// Connections after which a flooder updates its count.
const ROUND: u64 = 64;
/// The user `nobody`.
const UNPRIVILEGED: u32 = 65534;

/// Where the server listens.
#[derive(Clone, Debug)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    fn of(text: &str) -> Place {
        match text.strip_prefix("unix:") {
            Some(path) => Place::Unix(path.into()),
            None => Place::Tcp(text.parse().unwrap()),
        }
    }

    fn text(&self) -> String {
        match self {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    fn address(&self) -> SockAddr {
        match self {
            Place::Tcp(address) => (*address).into(),
            Place::Unix(path) => SockAddr::unix(path).unwrap(),
        }
    }

    fn socket(&self) -> Socket {
        let domain = match self {
            Place::Tcp(_) => Domain::IPV4,
            Place::Unix(_) => Domain::UNIX,
        };
        Socket::new(domain, Type::STREAM, None).unwrap()
    }
}

/// `--child flood NAME PLACE`: floods until standard input ends. Then prints how many connections a second it
/// made.
pub fn attack(name: &str, place: &str) {
    let (flood, place): (Flood, _) = (name.parse().unwrap(), Place::of(place));
    let (script, address) = (flood.script(), place.address());
    let made = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let seen = made.clone();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let rate = seen.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("{rate:.0}");
        std::process::exit(0);
    });
    let mut open = VecDeque::with_capacity(OPEN);
    loop {
        let mut count = 0;
        for _ in 0..ROUND {
            let Some(socket) = begin(&place, &address, &script) else {
                continue;
            };
            count += 1;
            if flood == Flood::Reset {
                let _ = socket.set_linger(Some(Duration::ZERO));
                continue;
            }
            if open.len() == OPEN {
                open.pop_front();
            }
            open.push_back(socket);
        }
        made.fetch_add(count, Ordering::Relaxed);
    }
}

/// One connection that has sent `script`, if the kernel has established it.
fn begin(place: &Place, address: &SockAddr, script: &[u8]) -> Option<Socket> {
    let socket = place.socket();
    socket.set_nonblocking(true).unwrap();
    // Over loopback, the handshake is complete when connect(2) returns.
    match socket.connect(address) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(_) => return None,
        Ok(()) => {}
    }
    if script.is_empty() {
        // If the listener's queue was full, the socket has no peer yet.
        return socket.peer_addr().is_ok().then_some(socket);
    }
    socket.send_with_flags(script, libc::MSG_NOSIGNAL).ok()?;
    Some(socket)
}

/// `--child flooded PATH CONNECTIONS`: serves on TCP and on a Unix socket at `path` until standard input ends.
pub fn serve(path: &str, connections: &str) {
    let endpoints = server::endpoints(Setup::KUBELET.checks, healthz::server::now());
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    listeners.bind(&Address::Unix(path.into())).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
    let setup = Setup {
        connections: connections.parse().unwrap(),
        ..Setup::KUBELET
    };
    let server = Server::new(Responder::new(endpoints), listeners, setup.config());
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        panic!("not on TCP");
    };
    let handle = healthz::server::spawn(server).unwrap();
    println!("{address}");
    let _ = io::stdin().read_to_end(&mut Vec::new());
    handle.stop();
    let counters = handle.join().unwrap();
    println!("{} {}", counters.accepted, counters.evicted);
}

/// This program, started again. It ends when its standard input ends.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// A server with the nice value of the daemon.
    fn start_server(arguments: &[&str]) -> Process {
        let mut command = Command::new("nice");
        command
            .args(["-n", "-10"])
            .arg(std::env::current_exe().unwrap());
        command.arg("--child").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Process::of(command.spawn().unwrap())
    }

    /// A flooder as the user `nobody`, if this process can change its user.
    fn start_flooder(arguments: &[&str]) -> Process {
        let command = |is_unprivileged: bool| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("--child").args(arguments);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            if is_unprivileged {
                command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
            }
            command.spawn()
        };
        Process::of(command(true).or_else(|_| command(false)).unwrap())
    }

    fn of(mut child: Child) -> Process {
        let output = BufReader::new(child.stdout.take().unwrap());
        Process { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        let line = self.line();
        assert!(self.child.wait().unwrap().success(), "a process failed");
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After stop() the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The settings of a run.
pub struct Plan<'a> {
    pub floods: &'a [Flood],
    pub is_unix: bool,
    /// Slots in the server's table.
    pub connections: usize,
    pub probes: u64,
    /// Probes a second.
    pub rate: u32,
    pub timeout: Duration,
}

/// The results of a run.
pub struct Outcome {
    /// Connections a second that all flooders made together.
    pub attack_rate: u64,
    /// Latencies of the answered probes, shortest first.
    pub latencies: Vec<Duration>,
    pub missed: u64,
    /// Why the probes were missed.
    pub reasons: Vec<String>,
    pub evicted: u64,
    /// How often the kernel dropped a connection because a listener's queue was full.
    pub dropped: u64,
    /// How long the server waited for a CPU.
    pub waited: Duration,
    /// Connections that the server accepted per second.
    pub accept_rate: u64,
    /// CPU time of the server, as a share of one CPU.
    pub cpu_share: f64,
    /// CPU time of the server per accepted connection.
    pub cpu_time: Duration,
}

/// Pause of a client of a Unix socket between connect(2) and its request.
pub const PAUSE: Duration = Duration::from_millis(5);
/// Time from the start of the flooders to the first probe.
const HEAD_START: Duration = Duration::from_millis(300);

/// Floods a server, and probes it during the flood.
pub fn run(plan: &Plan<'_>) -> Outcome {
    let path = std::env::temp_dir().join(format!("healthz-flood-{}.sock", std::process::id()));
    let connections = plan.connections.to_string();
    let mut server = Process::start_server(&["flooded", &path.to_string_lossy(), &connections]);
    let address = server.line().parse().unwrap();
    let place = match plan.is_unix {
        true => Place::Unix(path),
        false => Place::Tcp(address),
    };
    let dropped = process::listen_drops();
    let waited = process::waited(server.child.id());
    let cpu_time = process::cpu_time(server.child.id());
    let began = Instant::now();
    let text = place.text();
    let flooders = plan.floods.iter();
    let flooders: Vec<Process> = flooders
        .map(|flood| Process::start_flooder(&["flood", flood.name(), &text]))
        .collect();
    std::thread::sleep(HEAD_START);
    let mut outcome = probe(plan, &place);
    outcome.attack_rate = flooders
        .into_iter()
        .map(|flooder| flooder.stop().parse::<u64>().unwrap())
        .sum();
    let elapsed = began.elapsed();
    outcome.waited = process::waited(server.child.id()).saturating_sub(waited);
    outcome.dropped = process::listen_drops() - dropped;
    let cpu_time = process::cpu_time(server.child.id()).saturating_sub(cpu_time);
    let counted = server.stop();
    let mut counted = counted.split_whitespace().map(|word| word.parse().unwrap());
    let accepted = counted.next().unwrap();
    outcome.evicted = counted.next().unwrap();
    outcome.accept_rate = (accepted as f64 / elapsed.as_secs_f64()) as u64;
    outcome.cpu_share = cpu_time.as_secs_f64() / elapsed.as_secs_f64();
    outcome.cpu_time = cpu_time / u32::try_from(accepted.max(1)).unwrap();
    outcome
}

/// Sends each probe at its scheduled time. There are enough threads that one is always free.
fn probe(plan: &Plan<'_>, place: &Place) -> Outcome {
    let threads = u64::from(plan.rate) * (1 + plan.timeout.as_secs().min(1));
    let results = Mutex::new((Vec::new(), Vec::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..threads.min(plan.probes) {
            let results = &results;
            scope.spawn(move || {
                for number in (first..plan.probes).step_by(threads as usize) {
                    let due = began + Duration::from_secs(number) / plan.rate;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let deadline = due.max(Instant::now()) + plan.timeout;
                    let began = Instant::now();
                    let result = ask(place, deadline);
                    let (latencies, reasons) = &mut *results.lock().unwrap();
                    match result {
                        Ok(()) if Instant::now() <= deadline => latencies.push(began.elapsed()),
                        Ok(()) => reasons.push(format!("answered after {:?}", began.elapsed())),
                        Err(error) => reasons.push(format!("{error} after {:?}", began.elapsed())),
                    }
                }
            });
        }
    });
    let (mut latencies, reasons) = results.into_inner().unwrap();
    latencies.sort();
    Outcome {
        attack_rate: 0,
        missed: reasons.len() as u64,
        latencies,
        reasons,
        evicted: 0,
        dropped: 0,
        waited: Duration::ZERO,
        accept_rate: 0,
        cpu_share: 0.0,
        cpu_time: Duration::ZERO,
    }
}

/// One probe on a new connection.
fn ask(place: &Place, deadline: Instant) -> io::Result<()> {
    let left = || match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let explain = |what: &str, error: io::Error| io::Error::other(format!("{what}: {error}"));
    let mut socket = place.socket();
    match place {
        Place::Tcp(_) => socket.connect_timeout(&place.address(), left()?),
        Place::Unix(_) => {
            // This timeout also applies to connect(2), which waits while the listener's queue is full.
            socket.set_write_timeout(Some(left()?))?;
            socket.connect(&place.address())
        }
    }
    .map_err(|error| explain("connect", error))?;
    if let Place::Unix(_) = place {
        std::thread::sleep(PAUSE);
    }
    socket
        .write_all(server::REQUEST_CLOSE)
        .map_err(|error| explain("send", error))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        socket.set_read_timeout(Some(left()?))?;
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(explain("read", error)),
        }
    }
    let is_right = answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\nok");
    match (is_right, answer.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(io::Error::other("closed unanswered")),
        (false, false) => panic!("a wrong answer: {}", answer.escape_ascii()),
    }
}

impl Outcome {
    /// The latency at a quantile in milliseconds, or `-` if no probe was answered.
    pub fn ms(&self, quantile: f64) -> String {
        let last = self.latencies.len().saturating_sub(1);
        let latency = self
            .latencies
            .get((last as f64 * quantile).round() as usize);
        latency.map_or("-".into(), |time| {
            format!("{:.1}", time.as_secs_f64() * 1e3)
        })
    }
}

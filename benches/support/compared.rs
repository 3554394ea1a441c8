//! The servers that the benches `latency` and `cost` compare, each in a separate process.
//!
//! healthz is there twice: as the daemon in its sandbox, and as the library in a thread of this program. Loops send a
//! fixed response and parse no HTTP: in C (`benches/peers/c/loop.c`) and on mio (in this file). nginx and Go's `net/http`
//! are there if they are installed. The others are the commands of `--server`.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Responder};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::load::{self, Expected, Mode, Plan, Results, Wait};
use super::process;

/// Probes before the measured ones.
const WARM_UP: u64 = 100;
const TIMEOUT: Duration = Duration::from_secs(5);
/// A server must answer within this time after its start.
const START_MAX: Duration = Duration::from_secs(10);

/// The names of the servers of this repository. The first two are healthz.
pub const DAEMON: &str = "healthz";
pub const LIBRARY: &str = "healthz library";
pub const BEST: &str = "best C loop";
pub const SAFE: &str = "safe C loop";
pub const PLAIN: &str = "plain C loop";
pub const MIO: &str = "mio loop";

/// A server in a separate process, which is ended when this is dropped.
pub struct Program {
    pub name: String,
    child: Child,
    output: Box<dyn BufRead>,
    /// Addresses for probes with keep-alive and for those without.
    addresses: [SocketAddr; 2],
    path: String,
    expected: Expected,
    /// Number of probes sent to it.
    pub sent: u64,
    /// The number of answered requests that it printed at its end; only the library prints one.
    pub answered: Option<u64>,
}

/// What one run with a server cost.
pub struct Run {
    pub results: Results,
    /// CPU time of the server, including the kernel's work for it.
    pub cpu: Duration,
    /// How long client and server were ready to run but waited for a CPU.
    pub waited: Duration,
}

impl Run {
    /// Microseconds of CPU time per probe.
    pub fn cost(&self) -> f64 {
        self.cpu.as_nanos() as f64 / 1000.0 / self.results.sent as f64
    }

    /// Latency at a quantile, in microseconds.
    pub fn latency(&self, quantile: f64) -> f64 {
        self.results.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Starts the servers to compare: those of the options `--server 'NAME=COMMAND {port}'`, and ours. With such an
/// option, only healthz and the server named `pair` of ours are started. The mio loop is started only if it is `pair`,
/// nginx and Go only if `is_full`.
///
/// # Errors
/// If a command cannot be started or does not answer.
pub fn servers(pair: &str, is_full: bool) -> Result<Vec<Program>, String> {
    let given = super::support::options("--server");
    let wanted = |name: &str| given.is_empty() || name == pair || name == DAEMON;
    let mut programs = Vec::new();
    // Cargo builds the daemon for the bench if its feature is on.
    if let Some(daemon) = option_env!("CARGO_BIN_EXE_healthz") {
        let command = format!("'{daemon}' --listen 127.0.0.1:{{port}}");
        programs.push(Program::command(DAEMON, &command, load::PATH)?);
    }
    if wanted(LIBRARY) || programs.is_empty() {
        programs.push(Program::start(LIBRARY, "serve-healthz"));
    }
    for (name, kind) in [(BEST, "best"), (SAFE, "safe"), (PLAIN, "plain")] {
        if wanted(name) {
            programs.push(Program::c_loop(name, kind)?);
        }
    }
    if pair == MIO {
        programs.push(Program::start(MIO, "serve-baseline"));
    }
    if wanted("nginx") && is_full {
        programs.extend(Program::nginx()?);
    }
    if wanted("Go net/http") && is_full {
        programs.extend(Program::go());
    }
    for program in &mut programs {
        program.expected = Expected::Ok;
    }
    let path: String = super::support::option("--path").unwrap_or(load::PATH.into());
    for text in &given {
        let Some((name, command)) = text.split_once('=') else {
            return Err(format!("--server {text}: expected 'NAME=COMMAND {{port}}'"));
        };
        if programs.iter().any(|program| program.name == name) {
            return Err(format!("--server {text}: two servers have the name {name}"));
        }
        programs.push(Program::command(name, command, &path)?);
    }
    if !programs.iter().any(|program| program.name == pair) {
        let names: Vec<&str> = programs.iter().map(|program| &*program.name).collect();
        return Err(format!(
            "--pair {pair}: no such server; there are: {}",
            names.join(", ")
        ));
    }
    Ok(programs)
}

impl Program {
    /// Starts this program as the server `what`.
    pub fn start(name: &str, what: &str) -> Program {
        let mut program = nice();
        program.arg(std::env::current_exe().unwrap()).arg(what);
        Program::spawn(name, program)
    }

    /// Builds and starts the Go server. If that fails, prints it and returns `None`.
    fn go() -> Option<Program> {
        let program = scratch("go").join("healthz");
        let mut go = Command::new("go");
        go.env("GO111MODULE", "off").args(["build", "-o"]);
        go.arg(&program).arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/benches/peers/go/healthz.go"
        ));
        if !go.status().is_ok_and(|status| status.success()) {
            println!("Go net/http is left out: go is not installed, or the build failed");
            return None;
        }
        let mut command = nice();
        command.arg(program);
        Some(Program::spawn("Go net/http", command))
    }

    /// Builds and starts the loop in C.
    fn c_loop(name: &str, kind: &str) -> Result<Program, String> {
        let program = scratch("loop").join("loop");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-o"]).arg(&program);
        cc.arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/benches/peers/c/loop.c"
        ));
        if !cc.status().is_ok_and(|status| status.success()) {
            return Err("cannot build benches/peers/c/loop.c: cc is missing or failed".into());
        }
        let command = format!("'{}' {kind} {{port}}", program.display());
        Program::command(name, &command, load::PATH)
    }

    /// Starts nginx: one process, a fixed response. If it is not installed, prints that and returns `None`.
    fn nginx() -> Result<Option<Program>, String> {
        let mut version = Command::new("nginx");
        if version.arg("-v").stderr(Stdio::null()).status().is_err() {
            println!("nginx is left out: it is not installed");
            return Ok(None);
        }
        let place = scratch("nginx");
        let port = free_port();
        let settings = place.join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};\n", place.display()))
            .concat();
        let text = format!(
            "daemon off; master_process off; worker_processes 1; error_log stderr crit;\n\
             pid {}/pid; events {{ worker_connections 1024; }}\n\
             http {{ access_log off; server_tokens off; keepalive_requests 1000000000; {temporary}\n\
             server {{ listen 127.0.0.1:{port} backlog=1024;\n\
             location = /healthz {{ default_type text/plain; return 200 \"ok\"; }} }} }}\n",
            place.display()
        );
        std::fs::write(&settings, text).unwrap();
        let place = place.display();
        let command = format!("nginx -c '{place}/nginx.conf' -p '{place}'");
        Program::command_on("nginx", &command, port, load::PATH).map(Some)
    }

    /// Starts a command line of the shell, with `{port}` replaced by a free port, and waits until it answers.
    ///
    /// # Errors
    /// If it ends, does not listen, or does not answer with 200 and a length.
    pub fn command(name: &str, command: &str, path: &str) -> Result<Program, String> {
        if !command.contains("{port}") {
            return Err(format!(
                "server {name}: its command has no {{port}}: {command}"
            ));
        }
        let port = free_port();
        let command = command.replace("{port}", &port.to_string());
        Program::command_on(name, &command, port, path)
    }

    fn command_on(name: &str, command: &str, port: u16, path: &str) -> Result<Program, String> {
        let file: String = name
            .chars()
            .map(|letter| {
                if letter.is_alphanumeric() {
                    letter
                } else {
                    '-'
                }
            })
            .collect();
        let log = scratch("logs").join(file);
        let output = std::fs::File::create(&log).unwrap();
        let mut program = nice();
        // After `exec` the process is the command's, and not the shell's.
        program.args(["sh", "-c", &format!("exec {command}")]);
        program.stdin(Stdio::null());
        program.stdout(output.try_clone().unwrap()).stderr(output);
        let child = program.spawn().map_err(|error| format!("nice: {error}"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut program = Program {
            name: name.into(),
            child,
            output: Box::new(io::empty()),
            addresses: [address; 2],
            path: path.into(),
            expected: Expected::Any,
            sent: 0,
            answered: None,
        };
        program.wait_for_answer().map_err(|why| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let printed = match last.is_empty() {
                true => "It printed nothing.".into(),
                false => format!("It printed:\n{}", last.join("\n")),
            };
            format!("server {name} {why}\nIts command: {command}\n{printed}")
        })?;
        Ok(program)
    }

    fn wait_for_answer(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let address = self.addresses[1];
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(format!("ended before it answered on {address}: {status}"));
            }
            if TcpStream::connect_timeout(&address, TIMEOUT).is_ok() {
                break;
            }
            if began.elapsed() > START_MAX {
                return Err(format!(
                    "did not listen on {address} within {} s",
                    START_MAX.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let plan = self.plan(Mode::Close, 1000, 1, Wait::Sleep);
        match load::run(&plan) {
            Ok(results) if results.answered == 1 => Ok(()),
            Ok(_) => Err(format!("did not answer on {address}")),
            Err(error) => Err(format!(
                "gave a wrong answer (use --path for another path): {error}"
            )),
        }
    }

    /// Starts a server that prints one or two addresses, and ends when its standard input ends.
    fn spawn(name: &str, mut program: Command) -> Program {
        let program = program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut addresses = line
            .split_whitespace()
            .map(|address| address.parse().unwrap());
        let first = addresses.next().unwrap();
        let addresses = [first, addresses.next().unwrap_or(first)];
        Program {
            name: name.into(),
            child,
            output: Box::new(output),
            addresses,
            path: load::PATH.into(),
            expected: Expected::Ok,
            sent: 0,
            answered: None,
        }
    }

    /// True if it is healthz, which tables and pictures emphasize.
    pub fn is_ours(&self) -> bool {
        self.name == DAEMON || self.name == LIBRARY
    }

    fn plan(&self, mode: Mode, rate: u32, count: u64, wait: Wait) -> Plan {
        Plan {
            address: match mode {
                Mode::KeepAlive(_) => self.addresses[0],
                Mode::Close => self.addresses[1],
            },
            mode,
            wait,
            rate,
            count,
            timeout: TIMEOUT,
            path: self.path.clone(),
            expected: self.expected.clone(),
        }
    }

    /// Sends warm-up probes, then the measured ones.
    ///
    /// # Errors
    /// If a probe got no correct response, or a connection was not closed in order.
    pub fn run(&mut self, mode: Mode, rate: u32, seconds: f64, wait: Wait) -> Result<Run, String> {
        let probes = (seconds * f64::from(rate)).max(1.0) as u64;
        let warm_up = WARM_UP.min(probes);
        self.run_plan(&self.plan(mode, rate, warm_up, wait))?;
        let processes = process::family(self.child.id());
        let waiting: Vec<u32> = processes
            .iter()
            .copied()
            .chain([std::process::id()])
            .collect();
        let sum = |of: fn(u32) -> Duration, all: &[u32]| all.iter().map(|id| of(*id)).sum();
        let now = || -> [Duration; 2] {
            [
                sum(process::cpu_time, &processes),
                sum(process::waited, &waiting),
            ]
        };
        let before = now();
        let results = self.run_plan(&self.plan(mode, rate, probes, wait))?;
        let after = now();
        self.sent += warm_up + probes;
        Ok(Run {
            results,
            cpu: after[0].saturating_sub(before[0]),
            waited: after[1].saturating_sub(before[1]),
        })
    }

    fn run_plan(&self, plan: &Plan) -> Result<Results, String> {
        let results = load::run(plan).map_err(|error| format!("{}: {error}", self.name))?;
        if results.answered != plan.count || results.wrong_ends > 0 {
            return Err(format!(
                "{}: {} of {} probes were answered in time, and {} connections were not closed as requested",
                self.name, results.answered, plan.count, results.wrong_ends
            ));
        }
        Ok(results)
    }

    /// Restricts it to one CPU; `false` if that fails.
    pub fn pin(&self, cpu: usize) -> bool {
        let mut processes = process::family(self.child.id()).into_iter();
        processes.all(|id| super::support::pin(id, cpu))
    }

    /// Stops it. Returns its last line: the counters.
    pub fn stop(&mut self) -> String {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        self.answered = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok());
        line.trim().to_string()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.stdin.take().is_some() || self.child.try_wait().is_ok_and(|end| end.is_some())
        {
            // It has ended, or ends by itself because its standard input has ended.
            let _ = self.child.wait();
            return;
        }
        for id in process::family(self.child.id()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(id as i32),
                nix::sys::signal::SIGTERM,
            );
        }
        let began = Instant::now();
        while began.elapsed() < TIMEOUT {
            if self.child.try_wait().is_ok_and(|end| end.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the rest of the command line with the nice value 1. The daemon raises its priority if its nice value is 0
/// and it may; then it would be compared with servers of a lower priority.
fn nice() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "1"]);
    command
}

/// A port on which nothing listens at this moment.
fn free_port() -> u16 {
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

/// A directory for the files of a server.
pub fn scratch(name: &str) -> std::path::PathBuf {
    let place = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench")).join(name);
    std::fs::create_dir_all(&place).unwrap();
    place
}

static PING: Check = Check::ping();
static SYNCLOOP: Check = Check::heartbeat("syncloop", Duration::from_secs(300));
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &SYNCLOOP]);

/// Serves with healthz, default settings, on its own thread.
pub fn serve_healthz() {
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let address = server.local_addresses().next();
    let Some(Address::Tcp(address)) = address else {
        panic!("the server has no TCP address: {address:?}");
    };
    let handle = healthz::server::spawn(server).unwrap();
    println!("{address}");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    handle.stop();
    let counters = handle.join().unwrap();
    println!(
        "answered {} accepted {} refused {} evicted {} expired {} failed {}",
        counters.answered,
        counters.accepted,
        counters.refused,
        counters.evicted,
        counters.expired,
        counters.failed
    );
}

/// As long as a response of healthz, so that the kernel copies the same number of bytes.
const FIXED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok";
const FIXED_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A listener with the same backlog as the loops in C. The one of mio's `bind` is an eighth, so that more connections
/// would be dropped.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// The baseline: the minimum work with mio. It sends a fixed response for each request's length of received
/// bytes, without looking at them; so the two kinds of probes need two listeners. With `stall` it sleeps once
/// for that time, soon after the warm-up.
pub fn serve_baseline(mut stall: Option<Duration>) -> io::Result<()> {
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut poll = Poll::new()?;
    let mut listeners = [listen()?, listen()?];
    for (index, listener) in listeners.iter_mut().enumerate() {
        poll.registry()
            .register(listener, Token(index), Interest::READABLE)?;
    }
    println!(
        "{} {}",
        listeners[0].local_addr()?,
        listeners[1].local_addr()?
    );
    let mut streams: Vec<Option<(mio::net::TcpStream, bool)>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(256);
    // So large that no request is cut.
    let mut buffer = [0; 65536];
    let mut answered = 0;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let token = event.token().0;
            if let Some(listener) = listeners.get(token) {
                while let Ok((mut stream, _)) = listener.accept() {
                    let index = free.pop().unwrap_or(streams.len());
                    let token = Token(listeners.len() + index);
                    poll.registry()
                        .register(&mut stream, token, Interest::READABLE)?;
                    if index == streams.len() {
                        streams.push(None);
                    }
                    streams[index] = Some((stream, event.token() == Token(1)));
                }
                continue;
            }
            let index = token - listeners.len();
            let Some((stream, is_last)) = &mut streams[index] else {
                continue;
            };
            let (request, response) = match is_last {
                true => (load::REQUEST_CLOSE, FIXED_CLOSE),
                false => (load::REQUEST, FIXED),
            };
            let is_open = match stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(count) => {
                    let requests = count / request.len();
                    answered += requests as u64;
                    if answered > WARM_UP + 20 {
                        std::thread::sleep(stall.take().unwrap_or_default());
                    }
                    // One write, because of Nagle's algorithm and delayed ACKs.
                    stream.write(&response.repeat(requests)).is_ok() && !*is_last
                }
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            if !is_open {
                streams[index] = None;
                free.push(index);
            }
        }
    }
}

//! The servers that the benches `latency` and `cost` compare, each in a separate process.
//!
//! healthz and the baseline, a mio loop that sends a fixed response and parses no HTTP, are this program
//! itself. nginx and Go's `net/http` are used if they are installed.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Responder};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::load::{self, Expected, Mode, Plan, Results, Wait};

/// Probes before the measured ones.
const WARM_UP: u64 = 100;
const TIMEOUT: Duration = Duration::from_secs(5);

/// A server in a separate process. It ends when its standard input closes, at the latest with this process.
pub struct Program {
    child: Child,
    output: Box<dyn BufRead>,
    /// Addresses for probes with keep-alive and for those without.
    addresses: [SocketAddr; 2],
    /// Number of probes sent to it.
    pub sent: u64,
    /// The number of answered requests that it printed at its end; the baseline prints none.
    pub answered: Option<u64>,
}

impl Program {
    /// Starts this program as the server `what`.
    pub fn start(what: &str) -> Program {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.arg(what);
        Program::spawn(program)
    }

    /// Builds and starts the Go server. If that fails, prints it and returns `None`.
    pub fn go() -> Option<Program> {
        let program = scratch("go").join("healthz");
        let mut go = Command::new("go");
        go.env("GO111MODULE", "off").args(["build", "-o"]);
        go.arg(&program).arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/benches/peers/go/healthz.go"
        ));
        if !go.status().is_ok_and(|status| status.success()) {
            println!("Go net/http is skipped: go is not installed, or the build failed");
            return None;
        }
        Some(Program::spawn(Command::new(program)))
    }

    /// Starts nginx: one process, a fixed response. If it is not installed, prints that and returns `None`.
    pub fn nginx() -> Option<Program> {
        let place = scratch("nginx");
        // nginx cannot listen on port 0, so this finds a free port.
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let settings = place.join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};\n", place.display()))
            .concat();
        let text = format!(
            "daemon off; master_process off; worker_processes 1; error_log stderr crit;\n\
             pid {}/pid; events {{ worker_connections 1024; }}\n\
             http {{ access_log off; server_tokens off; keepalive_requests 1000000000; {temporary}\n\
             server {{ listen {address} backlog=1024;\n\
             location = /healthz {{ default_type text/plain; return 200 \"ok\"; }} }} }}\n",
            place.display()
        );
        std::fs::write(&settings, text).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(settings).arg("-p").arg(place);
        let Ok(child) = nginx.stdin(Stdio::null()).spawn() else {
            println!("nginx is skipped: it is not installed");
            return None;
        };
        let started = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            assert!(
                started.elapsed() < TIMEOUT,
                "nginx does not listen on {address}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Program {
            child,
            output: Box::new(io::empty()),
            addresses: [address; 2],
            sent: 0,
            answered: None,
        })
    }

    /// Starts a server that prints one or two addresses.
    fn spawn(mut program: Command) -> Program {
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
            child,
            output: Box::new(output),
            addresses,
            sent: 0,
            answered: None,
        }
    }

    fn address(&self, mode: Mode) -> SocketAddr {
        match mode {
            Mode::KeepAlive(_) => self.addresses[0],
            Mode::Close => self.addresses[1],
        }
    }

    /// Sends warm-up probes, then the measured ones. Also returns how long the client and the server waited
    /// for a CPU.
    pub fn run(&mut self, mode: Mode, rate: u32, seconds: f64, wait: Wait) -> (Results, Duration) {
        self.run_with(mode, rate, seconds, wait, Program::waited)
    }

    /// The same. Also returns the CPU time of the server.
    pub fn cost(&mut self, mode: Mode, rate: u32, seconds: f64, wait: Wait) -> (Results, Duration) {
        let on_cpu = |program: &Program| super::process::cpu_time(program.child.id());
        self.run_with(mode, rate, seconds, wait, on_cpu)
    }

    /// Also returns by how much `count` grew since the warm-up.
    fn run_with(
        &mut self,
        mode: Mode,
        rate: u32,
        seconds: f64,
        wait: Wait,
        count: impl Fn(&Program) -> Duration,
    ) -> (Results, Duration) {
        let probes = (seconds * f64::from(rate)).max(1.0) as u64;
        let plan = |count| Plan {
            address: self.address(mode),
            mode,
            wait,
            rate,
            count,
            timeout: TIMEOUT,
            expected: Expected::Ok,
        };
        let warm_up = WARM_UP.min(probes);
        run_and_check(&plan(warm_up));
        let before = count(self);
        let results = run_and_check(&plan(probes));
        let growth = count(self).saturating_sub(before);
        self.sent += warm_up + probes;
        (results, growth)
    }

    /// Restricts it to one CPU; `false` if that fails.
    pub fn pin(&self, cpu: usize) -> bool {
        super::support::pin(self.child.id(), cpu)
    }

    /// How long the server and the client were ready to run but waited for a CPU, since they began.
    fn waited(&self) -> Duration {
        let waited = |process: u32| {
            let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
            let tasks = tasks.into_iter().flatten().flatten();
            let of_task = tasks.filter_map(|task| {
                let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
                text.split_whitespace().nth(1)?.parse::<u64>().ok()
            });
            Duration::from_nanos(of_task.sum())
        };
        waited(self.child.id()) + waited(std::process::id())
    }

    /// Stops it. Returns its last line: the counters.
    pub fn stop(&mut self) -> String {
        if self.child.stdin.take().is_none() {
            // nginx has no standard input that could end.
            self.child.kill().unwrap();
        }
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        self.child.wait().unwrap();
        self.answered = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok());
        line.trim().to_string()
    }
}

/// A directory for the files of a server.
fn scratch(name: &str) -> std::path::PathBuf {
    let place = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench")).join(name);
    std::fs::create_dir_all(&place).unwrap();
    place
}

/// Runs a plan. Panics unless each probe got the correct response and each connection was closed in order.
fn run_and_check(plan: &Plan) -> Results {
    let results = load::run(plan).unwrap_or_else(|error| panic!("{error}"));
    let what = format!("{:?} at {} probes per second", plan.mode, plan.rate);
    assert_eq!(results.answered, plan.count, "responses with {what}");
    assert_eq!(
        results.unclosed, 0,
        "connections not closed in order with {what}"
    );
    results
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

/// A listener with the same backlog as healthz. The one of mio's `bind` is a tenth, so that more connections
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
    let mut streams: Vec<Option<(TcpStream, bool)>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(256);
    let mut buffer = [0; 8192];
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

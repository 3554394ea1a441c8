//! Runs healthz in a separate process, and clients that check each response.
//!
//! The process is the bench program itself, started again with `--child serve`, so that only the library
//! runs in it. It ends when its standard input ends. Instead it can be the `healthz` program, or run under
//! a program that counts instructions or system calls.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Instant, Limits, Responder};

/// Keeps the connection open.
pub const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n";
/// Requests that the server closes the connection.
pub const REQUEST_CLOSE: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\nConnection: close\r\n\r\n";

/// Whether all request heads are equal, or every second one differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    Same,
    Changing,
}

/// Changes the port in a request: another head with the same meaning and length.
pub fn change_port(request: &mut [u8]) {
    for port in 0..request.len().saturating_sub(5) {
        if request[port..].starts_with(b"10248") {
            request[port + 4] = b'9';
        }
    }
}

impl Heads {
    /// The requests to send alternately.
    fn of(self, request: &[u8]) -> [Vec<u8>; 2] {
        let mut both = [request.to_vec(), request.to_vec()];
        if self == Heads::Changing {
            change_port(&mut both[1]);
        }
        both
    }
}

/// Longer than any run, so that no connection expires and no check fails on a slow machine.
const LONG: Duration = Duration::from_secs(3600);
/// Longer than a response takes under valgrind on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The settings of the server.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Most open connections.
    pub connections: usize,
    /// Number of checks of each endpoint.
    pub checks: usize,
}

impl Setup {
    /// As many checks as the kubelet has, and the default number of connections.
    pub const KUBELET: Setup = Setup {
        connections: healthz::limits::CONNECTIONS_DEFAULT,
        checks: 3,
    };

    /// The defaults, except for the number of connections and the time limits.
    pub fn config(&self) -> Config {
        Config {
            connections: self.connections,
            limits: Limits {
                idle_duration: LONG,
                head_duration: LONG,
                ..Limits::DEFAULT
            },
            ..Config::default()
        }
    }

    /// The arguments that make the bench program call [`serve`].
    pub fn arguments(&self) -> Vec<String> {
        let [connections, checks] = [self.connections, self.checks].map(|n| n.to_string());
        ["--child", "serve", &connections, &checks]
            .map(String::from)
            .to_vec()
    }
}

/// The checks `ping`, `log` and `syncloop` of the kubelet, then heartbeats, `checks` in total. All pass from
/// `now` on.
pub fn endpoints(checks: usize, now: Instant) -> &'static [Endpoint<'static>] {
    let kubelet = [
        Check::ping(),
        Check::heartbeat("log", LONG).overdue("logging blocked"),
        Check::heartbeat("syncloop", LONG).overdue("sync Loop took longer than expected"),
    ];
    let more = (3..checks).map(|index| Check::heartbeat(format!("check-{index:04}").leak(), LONG));
    let checks: Vec<&Check> = kubelet
        .into_iter()
        .chain(more)
        .take(checks)
        .map(|check| &*Box::leak(Box::new(check)))
        .collect();
    for check in &checks {
        check.beat(now);
    }
    Box::leak(Box::new(Endpoint::kubernetes(checks.leak())))
}

/// `--child serve CONNECTIONS CHECKS`: prints its address, serves until standard input ends, then prints its
/// counters. A line of input makes the last check fail permanently; it prints the name of the check.
pub fn serve(connections: &str, checks: &str) {
    let setup = Setup {
        connections: connections.parse().unwrap(),
        checks: checks.parse().unwrap(),
    };
    let endpoints = endpoints(setup.checks, healthz::server::now());
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(Responder::new(endpoints), listeners, setup.config());
    let address = server.local_addresses().next();
    let Some(Address::Tcp(address)) = address else {
        panic!("the server has no TCP address: {address:?}");
    };
    let handle = healthz::server::spawn(server).unwrap();
    println!("{address}");
    for _ in io::stdin().lines() {
        let check = endpoints[0].checks().last().unwrap();
        check.fail("requested by the bench");
        println!("{}", check.name());
    }
    handle.stop();
    let counters = handle.join().unwrap();
    println!(
        "{} {} {}",
        counters.answered, counters.accepted, counters.evicted
    );
}

/// The counters that a server prints at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerCounts {
    pub answered: u64,
    pub accepted: u64,
    pub evicted: u64,
}

/// A server in a separate process, which is killed when this is dropped.
pub struct ServerProcess {
    child: Child,
    output: Box<dyn BufRead>,
    pub address: SocketAddr,
}

impl ServerProcess {
    /// Starts a server with the library.
    pub fn start(setup: Setup) -> ServerProcess {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(setup.arguments());
        ServerProcess::spawn(program)
    }

    /// Starts a server with `command`. The first line that it prints must be its address.
    pub fn spawn(mut command: Command) -> ServerProcess {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let Ok(address) = line.trim().parse() else {
            panic!("{command:?} printed no address: {line:?}");
        };
        ServerProcess {
            child,
            output: Box::new(output),
            address,
        }
    }

    /// Starts the `healthz` program with default settings.
    pub fn daemon(program: &std::path::Path) -> ServerProcess {
        ServerProcess::daemon_with(program, &[])
    }

    /// Starts the `healthz` program with more arguments.
    pub fn daemon_with(program: &std::path::Path, arguments: &[&str]) -> ServerProcess {
        let mut child = Command::new(program)
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|address| {
            let end = address.find(|byte: char| !"0123456789.:".contains(byte))?;
            address.get(..end)?.parse().ok()
        });
        let Some(address) = address else {
            panic!("{} printed no address, but: {line}", program.display());
        };
        ServerProcess {
            child,
            output: Box::new(output),
            address,
        }
    }

    /// Makes a check fail and returns its name. Not for the daemon.
    pub fn fail(&mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fills the pipe at the daemon's stderr, so that its log blocks. Returns the number of bytes written.
    pub fn block_log(&self) -> usize {
        // A second description of the pipe: the daemon's own must stay blocking.
        let mut log = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/{}/fd/2", self.id()))
            .unwrap();
        let mut filled = 0;
        loop {
            match log.write(&[b'\n'; 4096]) {
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return filled,
                Err(error) => panic!("the daemon's stderr: {error}"),
            }
        }
    }

    /// Reads the bytes that [`block_log`](ServerProcess::block_log) wrote.
    pub fn unblock_log(&mut self, filled: usize) {
        self.output.read_exact(&mut vec![0; filled]).unwrap();
    }

    /// Stops the daemon with SIGTERM and returns its last log line: its counters.
    pub fn stop_daemon(mut self) -> String {
        let process = nix::unistd::Pid::from_raw(self.id() as i32);
        nix::sys::signal::kill(process, nix::sys::signal::SIGTERM).unwrap();
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        match text.rsplit_once("stopped: ") {
            Some((_, last)) => last.trim().to_owned(),
            None => panic!("the daemon did not log `stopped: ` with its counters: {text}"),
        }
    }

    /// Stops the server and returns its counters. For the daemon use
    /// [`stop_daemon`](ServerProcess::stop_daemon).
    pub fn stop(mut self) -> ServerCounts {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "the server failed");
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        ServerCounts {
            answered: next(),
            accepted: next(),
            evicted: next(),
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // After stop() it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client with one keep-alive connection and a fixed number of pipelined requests.
pub struct Client {
    pub stream: TcpStream,
    /// The next batch of requests, and the one after it.
    requests: [Vec<u8>; 2],
    answers: Vec<u8>,
    depth: usize,
}

impl Client {
    /// Connects, and sends one request to learn the length of a response.
    pub fn connect(address: SocketAddr, depth: usize, heads: Heads) -> Client {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(REQUEST).unwrap();
        let mut answer = [0; 512];
        let mut size = 0;
        while !answer[..size].ends_with(b"\r\n\r\nok") {
            let read = stream.read(&mut answer[size..]).unwrap();
            assert!(
                read > 0,
                "the server closed the connection without a response"
            );
            size += read;
        }
        Client {
            stream,
            requests: heads.of(&REQUEST.repeat(depth)),
            answers: vec![0; size * depth],
            depth,
        }
    }

    /// Sends `depth` requests in one write and reads all responses.
    pub fn request(&mut self) {
        self.stream.write_all(&self.requests[0]).unwrap();
        self.requests.swap(0, 1);
        self.stream.read_exact(&mut self.answers).unwrap();
        for answer in self.answers.chunks(self.answers.len() / self.depth) {
            assert_ok(answer);
        }
    }
}

/// Sends one request on a new connection, which the server closes after the response.
pub fn request_and_close(address: SocketAddr, heads: Heads, index: u64) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request = &heads.of(REQUEST_CLOSE)[index as usize % 2];
    stream.write_all(request).unwrap();
    let mut answer = [0; 512];
    let mut size = 0;
    loop {
        match stream.read(&mut answer[size..]).unwrap() {
            0 => break,
            read => size += read,
        }
    }
    assert_ok(&answer[..size]);
}

fn assert_ok(answer: &[u8]) {
    let is_ok = answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\nok");
    assert!(
        is_ok,
        "not a 200 response with the body `ok`: {}",
        answer.escape_ascii()
    );
}

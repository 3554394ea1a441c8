//! healthz in a process of its own, and clients of it that count on every answer.
//!
//! The process is the bench's own program, started again with `--child serve`, so that what is
//! measured is the library and nothing else runs in it. It ends when its standard input does. It can
//! also be the `healthz` program, or run below a program that counts what it does.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Instant, Limits, Responder};

/// Leaves its connection open.
pub const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\n\r\n";
/// Asks for its connection to be closed.
pub const REQUEST_CLOSE: &[u8] =
    b"GET /healthz HTTP/1.1\r\nHost: localhost:10248\r\nConnection: close\r\n\r\n";

/// What a client says in its heads: the same every time, or every other time something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    Same,
    Changing,
}

/// Makes another head of a request that means the same and is as long: it names another port.
pub fn change(request: &mut [u8]) {
    for port in 0..request.len().saturating_sub(5) {
        if request[port..].starts_with(b"10248") {
            request[port + 4] = b'9';
        }
    }
}

impl Heads {
    /// What is sent at even and at odd times.
    fn of(self, request: &[u8]) -> [Vec<u8>; 2] {
        let mut both = [request.to_vec(), request.to_vec()];
        if self == Heads::Changing {
            change(&mut both[1]);
        }
        both
    }
}

/// Longer than any run: no connection may end, and no check fail, because a machine is slow.
const LONG: Duration = Duration::from_secs(3600);
/// Longer than an answer takes below valgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is served.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Places in the table of connections.
    pub connections: usize,
    /// Checks of each endpoint.
    pub checks: usize,
}

impl Setup {
    /// The kubelet's checks, default limits.
    pub const KUBELET: Setup = Setup {
        connections: healthz::limits::CONNECTIONS_DEFAULT,
        checks: 3,
    };

    /// Settings of the server: the defaults but for the table and for times.
    pub fn config(&self) -> Config {
        Config {
            connections: self.connections,
            limits: Limits {
                idle_duration: LONG,
                head_duration: LONG,
                ..Limits::DEFAULT
            },
        }
    }

    /// What makes the bench's own program [`serve`].
    pub fn arguments(&self) -> Vec<String> {
        let [connections, checks] = [self.connections, self.checks].map(|n| n.to_string());
        ["--child", "serve", &connections, &checks]
            .map(String::from)
            .to_vec()
    }
}

/// The kubelet's `ping`, `log` and `syncloop`, as many of them as asked for, and heartbeats after
/// them; all passing from `now` on.
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

/// `--child serve CONNECTIONS CHECKS`: says its address, serves until standard input ends, and then
/// says what it counted. A line of input makes the last check fail for good, which it says too.
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
        panic!("not on TCP: {address:?}");
    };
    let handle = healthz::server::spawn(server).unwrap();
    println!("{address}");
    for _ in io::stdin().lines() {
        let check = endpoints[0].checks().last().unwrap();
        check.fail("somebody said so");
        println!("{}", check.name());
    }
    handle.stop();
    let counters = handle.join().unwrap();
    println!(
        "{} {} {}",
        counters.answered, counters.accepted, counters.evicted
    );
}

/// What a server says it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    pub answered: u64,
    pub accepted: u64,
    pub evicted: u64,
}

/// A server in a process of its own.
pub struct Door {
    child: Child,
    output: Box<dyn BufRead>,
    pub address: SocketAddr,
}

impl Door {
    /// The library.
    pub fn start(setup: Setup) -> Door {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(setup.arguments());
        Door::of(program)
    }

    /// The library, in a process that `command` starts; see [`Setup::arguments`].
    pub fn of(mut command: Command) -> Door {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let Ok(address) = line.trim().parse() else {
            panic!("{command:?} does not serve");
        };
        Door {
            child,
            output: Box::new(output),
            address,
        }
    }

    /// The `healthz` program with default settings.
    pub fn daemon(program: &std::path::Path) -> Door {
        Door::daemon_with(program, &[])
    }

    /// The same with more arguments.
    pub fn daemon_with(program: &std::path::Path, arguments: &[&str]) -> Door {
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
            panic!("{} does not say where it serves: {line}", program.display());
        };
        Door {
            child,
            output: Box::new(output),
            address,
        }
    }

    /// Makes a check fail. Returns its name once it does: not for the daemon.
    pub fn fail(&mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fills the daemon's stderr, which nobody reads meanwhile, so that its log is blocked. Returns how
    /// many bytes that took.
    pub fn block_log(&self) -> usize {
        // Opened anew: the daemon's own descriptor has to stay one that blocks.
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

    /// Reads as much of it as [`block_log`](Door::block_log) wrote.
    pub fn unblock_log(&mut self, filled: usize) {
        self.output.read_exact(&mut vec![0; filled]).unwrap();
    }

    /// Asks the daemon to stop; its last word is what it counted.
    pub fn stop_daemon(mut self) -> String {
        let process = nix::unistd::Pid::from_raw(self.id() as i32);
        nix::sys::signal::kill(process, nix::sys::signal::SIGTERM).unwrap();
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        match text.rsplit_once("stopped: ") {
            Some((_, last)) => last.trim().to_owned(),
            None => panic!("the daemon has no last word: {text}"),
        }
    }

    /// Ends it in good order, and what it counted. Not for the daemon: see
    /// [`stop_daemon`](Door::stop_daemon).
    pub fn stop(mut self) -> Tally {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "the server failed");
        let mut numbers = text.split_whitespace().map(|word| word.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Tally {
            answered: next(),
            accepted: next(),
            evicted: next(),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // After stop() it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that is kept, with so many requests under way at a time.
pub struct Client {
    pub stream: TcpStream,
    /// For this time and the next.
    requests: [Vec<u8>; 2],
    answers: Vec<u8>,
    depth: usize,
}

impl Client {
    /// Connects, and asks once to learn how long an answer is.
    pub fn connect(address: SocketAddr, depth: usize, heads: Heads) -> Client {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(REQUEST).unwrap();
        let mut answer = [0; 512];
        let mut size = 0;
        while !answer[..size].ends_with(b"\r\n\r\nok") {
            let read = stream.read(&mut answer[size..]).unwrap();
            assert!(read > 0, "closed instead of answered");
            size += read;
        }
        Client {
            stream,
            requests: heads.of(&REQUEST.repeat(depth)),
            answers: vec![0; size * depth],
            depth,
        }
    }

    /// Sends so many requests as the depth is, in one write, and reads the answers to all of them.
    pub fn ask(&mut self) {
        self.stream.write_all(&self.requests[0]).unwrap();
        self.requests.swap(0, 1);
        self.stream.read_exact(&mut self.answers).unwrap();
        for answer in self.answers.chunks(self.answers.len() / self.depth) {
            assert_ok(answer);
        }
    }
}

/// One request on a connection of its own, which the server closes.
pub fn ask_and_close(address: SocketAddr, heads: Heads, index: u64) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    assert!(is_ok, "not ok: {}", answer.escape_ascii());
}

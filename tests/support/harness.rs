//! A server in the test's own `Poll`: real sockets, and a clock that only the test moves.
#![allow(dead_code, reason = "each test file uses a part")]

#[path = "timeout.rs"]
mod timeout;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use healthz::answer::{NoPaths, Paths};
use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Instant, Responder};
use mio::event::Event;
use mio::{Events, Poll, Token};
pub use timeout::TIMEOUT;

pub static PING: Check = Check::ping();
pub static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

pub const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
pub const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// The first token of the server, which is that of its first listener.
pub const BASE: Token = Token(7);
/// Far more calls than any test needs until the server is idle.
const ADVANCES_MAX: usize = 100_000;

pub struct Harness<P = NoPaths> {
    pub poll: Poll,
    pub server: Server<'static, P>,
    pub now: Instant,
}

pub fn localhost() -> Listeners {
    listening(&"127.0.0.1:0".parse().unwrap())
}

pub fn listening(address: &Address) -> Listeners {
    let mut listeners = Listeners::new();
    listeners.bind(address).unwrap();
    listeners
}

pub fn address_of(server: &Server<'_, impl Paths>) -> SocketAddr {
    match server.local_addresses().next() {
        Some(Address::Tcp(address)) => address,
        other => panic!("not on TCP: {other:?}"),
    }
}

impl Harness {
    pub fn new(connections: usize) -> Self {
        Harness::with(Config {
            connections,
            ..Config::default()
        })
    }

    pub fn with(config: Config) -> Self {
        Harness::on(Responder::new(&ENDPOINTS), localhost(), config)
    }
}

impl<P: Paths> Harness<P> {
    pub fn on(responder: Responder<'static, P>, listeners: Listeners, config: Config) -> Self {
        Harness::of(Server::new(responder, listeners, config))
    }

    pub fn of(mut server: Server<'static, P>) -> Self {
        let poll = Poll::new().unwrap();
        server.register(poll.registry(), BASE).unwrap();
        let mut harness = Harness {
            poll,
            server,
            now: Instant::from_millis(1),
        };
        harness.work();
        harness
    }

    /// Handles the events of one poll and advances once. Returns the number of events.
    pub fn advance(&mut self) -> usize {
        let events = self.events(256);
        events.iter().for_each(|event| self.handle(event));
        self.server.advance(self.poll.registry(), self.now);
        events.iter().count()
    }

    /// The events that are ready now, at most `count_max`.
    pub fn events(&mut self, count_max: usize) -> Events {
        let mut events = Events::with_capacity(count_max);
        self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        events
    }

    /// Handles one event, without a call of `Server::advance`.
    pub fn handle(&mut self, event: &Event) {
        assert!(self.server.owns(event.token()));
        self.server.handle(self.poll.registry(), event, self.now);
    }

    /// Advances until the server has no work left at the present time. Loopback delivers at once.
    /// Returns the number of events.
    pub fn work(&mut self) -> usize {
        let (mut event_count, mut quiet) = (0, 0);
        for _ in 0..ADVANCES_MAX {
            let more = self.advance();
            event_count += more;
            let deadline = self.server.deadline();
            // At `Instant::MAX`, a deadline cannot be later than now.
            let is_due = deadline.is_some_and(|at| at <= self.now) && self.now != Instant::MAX;
            // One call may register a socket that the next poll reports.
            quiet = if more == 0 && !is_due { quiet + 1 } else { 0 };
            if quiet == 2 {
                return event_count;
            }
        }
        panic!(
            "the server still has work after {ADVANCES_MAX} calls at {:?}",
            self.now
        );
    }

    pub fn pass(&mut self, duration: Duration) {
        self.now = self.now.saturating_add(duration);
        self.work();
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(address_of(&self.server)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A new connection on which `bytes` have arrived. The server has not accepted it yet.
    pub fn send_only(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// A new connection on which the server has received `bytes`.
    pub fn send(&mut self, bytes: &[u8]) -> TcpStream {
        let stream = self.send_only(bytes);
        self.work();
        stream
    }

    /// A connection in the server's table that has no open request.
    pub fn idle(&mut self) -> TcpStream {
        let mut stream = self.send(GET);
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
        stream
    }

    pub fn assert_probe_is_answered(&mut self) {
        let text = rest(&mut self.send(LAST));
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("ok"),
            "{text}"
        );
    }
}

/// Reads one answer with the body `ok`.
pub fn answer(stream: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\nok") {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&byte);
    }
    String::from_utf8(text).unwrap()
}

/// Reads everything up to the end of the stream.
pub fn rest(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

pub fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(0)) || stream.take_error().is_ok_and(|e| e.is_some())
}

/// True if the connection is open and has no bytes to read.
pub fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let result = stream.read(&mut [0; 64]);
    stream.set_nonblocking(false).unwrap();
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

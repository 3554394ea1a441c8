//! A clock that stands still, jumps, or comes to its end: the server goes on answering, ends what is
//! overdue and nothing else, and never waits for a time that will not come.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Instant, Limits, Responder};
use mio::{Events, Poll, Token};

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(5);

struct Door {
    poll: Poll,
    server: Server<'static>,
    address: SocketAddr,
    now: u64,
}

impl Door {
    fn at(now: u64) -> Door {
        let poll = Poll::new().unwrap();
        let mut listeners = Listeners::new();
        listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let mut server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
        server.register(poll.registry(), Token(0)).unwrap();
        let address = server.local_addresses().next();
        let Some(Address::Tcp(address)) = address else {
            panic!("not on TCP: {address:?}");
        };
        let mut door = Door {
            poll,
            server,
            address,
            now,
        };
        door.work();
        door
    }

    /// Turns until there is nothing to do at the present.
    fn work(&mut self) {
        let mut events = Events::with_capacity(64);
        let now = Instant::from_millis(self.now);
        for _ in 0..10_000 {
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                self.server.handle(self.poll.registry(), event, now);
            }
            self.server.turn(self.poll.registry(), now);
            let deadline = self.server.deadline();
            // At the very end of time a deadline can only be now.
            let is_due = deadline.is_some_and(|at| at <= now) && now != Instant::MAX;
            if events.is_empty() && !is_due {
                return;
            }
        }
        panic!("the server spins at {now:?}");
    }

    fn send(&mut self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        self.work();
        stream
    }

    fn probe(&mut self) {
        let text = rest(&mut self.send(LAST));
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.ends_with("ok"),
            "{text}"
        );
    }

    fn open(&self) -> u64 {
        self.server.counters().open
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Whether it is neither closed nor said anything on.
fn is_waiting(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 1]);
    stream.set_nonblocking(false).unwrap();
    read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn while_the_clock_stands_still_everybody_is_answered_and_nobody_is_late() {
    for now in [0, 1, 1 << 40, u64::MAX - 1, u64::MAX] {
        let mut door = Door::at(now);
        let mut half = door.send(b"GET /he");
        for _ in 0..200 {
            door.probe();
        }
        // At the end of time no deadline can lie ahead: who is half done may be ended there.
        if now < u64::MAX - 1 {
            assert!(is_waiting(&mut half), "at {now}");
            half.write_all(LAST.get(7..).unwrap()).unwrap();
            door.work();
            assert!(rest(&mut half).ends_with("ok"), "at {now}");
            assert_eq!(door.server.counters().expired, 0);
        }
    }
}

#[test]
fn a_clock_that_jumps_ends_who_is_overdue_and_nobody_else() {
    let limits = Limits::DEFAULT;
    let millis = |duration: Duration| duration.as_millis() as u64;
    let (head, idle) = (millis(limits.head_duration), millis(limits.idle_duration));
    for (jump, heads_left, idle_left) in [
        (head - 1, true, true),
        (head, false, true),
        (idle - 1, false, true),
        (idle, false, false),
        (1 << 50, false, false),
        (u64::MAX, false, false),
    ] {
        let mut door = Door::at(5);
        let mut half = door.send(b"GET /he");
        let mut kept = door.send(GET);
        let mut answer = [0; 512];
        let size = kept.read(&mut answer).unwrap();
        assert!(answer.get(..size).unwrap().ends_with(b"ok"));
        door.now = door.now.saturating_add(jump);
        door.work();
        assert_eq!(
            is_waiting(&mut half),
            heads_left,
            "half a head after {jump}"
        );
        assert_eq!(is_waiting(&mut kept), idle_left, "an idle one after {jump}");
        let left = u64::from(heads_left) + u64::from(idle_left);
        assert_eq!(door.open(), left, "after {jump}");
        door.probe();
    }
}

/// No clock of ours does it; an embedder's may.
#[test]
fn a_clock_that_goes_back_delays_deadlines_and_answers_all_the_same() {
    let mut door = Door::at(1 << 40);
    let mut half = door.send(b"GET /he");
    for now in [1 << 39, 1, 0] {
        door.now = now;
        door.probe();
        assert!(is_waiting(&mut half), "at {now}");
    }
    // As if it had begun at zero, like a counter that wraps around.
    door.now = (1 << 40) + 3_600_000;
    door.work();
    assert!(rest(&mut half).starts_with("HTTP/1.1 408 "));
    door.probe();
    assert_eq!(door.open(), 0);
}

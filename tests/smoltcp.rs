//! The server without an operating system, from `examples/smoltcp`: client and server on smoltcp over a
//! loopback device, with a clock that only the test moves. From the creation of the server on, neither side
//! may call the allocator.
#![cfg(test)]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "../examples/smoltcp/net.rs"]
mod net;
#[path = "../examples/smoltcp/server.rs"]
mod server;

use std::cell::Cell;

use healthz::{Check, Endpoint, Limits, Responder};
use smoltcp::iface::{SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, State};

use allocations::Counting;
use net::{Net, Wire};
use server::{HealthServer, Memory, PORT, SOCKETS};

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const CLIENTS: usize = 2 * SOCKETS;
/// Maximum calls in one `pass`. More calls mean that the server and a client keep each other busy.
const CALLS_MAX: usize = 10_000;

thread_local! {
    // Constant and without a destructor: reading them allocates nothing.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(_bytes: i64) {
    CALLS.set(CALLS.get() + usize::from(IS_COUNTED.get()));
}

fn counted<R>(work: impl FnOnce() -> R) -> R {
    IS_COUNTED.set(true);
    let result = work();
    IS_COUNTED.set(false);
    result
}

struct World {
    net: Net<'static>,
    server: HealthServer<'static>,
    clients: [SocketHandle; CLIENTS],
}

impl World {
    fn new() -> Self {
        // Leaked, because the server needs static memory and each test needs its own.
        let wire = Box::leak(Box::new(Wire::new()));
        let memory = Box::leak(Box::new(Memory::new()));
        let storage = Box::leak(Box::new([SocketStorage::EMPTY; SOCKETS + CLIENTS]));
        let buffers = Box::leak(Box::new([([0; 1024], [0; 1024]); CLIENTS]));
        let mut world = counted(|| {
            let mut net = Net::new(wire, SocketSet::new(&mut storage[..]));
            let server = HealthServer::new(Responder::new(&ENDPOINTS), &mut net.sockets, memory);
            let clients = buffers.each_mut().map(|(rx, tx)| net.client(rx, tx));
            World {
                net,
                server,
                clients,
            }
        });
        world.settle();
        world
    }

    fn settle(&mut self) {
        self.pass(0);
    }

    fn pass(&mut self, milliseconds: u64) {
        let mut calls = 0;
        counted(|| {
            let advance = &mut |sockets: &mut SocketSet<'_>, now| {
                calls += 1;
                assert!(calls < CALLS_MAX, "the server still has work");
                self.server.turn(sockets, now)
            };
            self.net.advance(milliseconds, advance);
        });
        assert_eq!(CALLS.get(), 0, "calls of the allocator");
    }

    fn socket(&mut self, client: usize) -> &mut Socket<'static> {
        self.net.sockets.get_mut(self.clients[client])
    }

    /// Resets the client's connection, if there is one, and opens a new one.
    fn connect(&mut self, client: usize) {
        self.socket(client).abort();
        self.settle();
        self.net.connect(self.clients[client], PORT);
        self.settle();
        assert_eq!(self.socket(client).state(), State::Established);
    }

    fn send(&mut self, client: usize, bytes: &[u8]) {
        assert_eq!(self.socket(client).send_slice(bytes), Ok(bytes.len()));
        self.settle();
    }

    /// Reads everything that has arrived.
    fn read(&mut self, client: usize) -> String {
        let mut text = Vec::new();
        loop {
            let mut bytes = [0; 1024];
            match self.socket(client).recv_slice(&mut bytes) {
                Ok(size @ 1..) => text.extend_from_slice(&bytes[..size]),
                _ => return String::from_utf8(text).unwrap(),
            }
            self.settle();
        }
    }

    /// Asserts that the server has closed its side and sent nothing more, then closes the client's side.
    fn assert_ended(&mut self, client: usize) {
        assert_eq!(self.read(client), "");
        assert_eq!(self.socket(client).state(), State::CloseWait);
        self.socket(client).close();
        // If the data did not fit into the window, smoltcp sends the rest when its timers expire.
        self.pass(500);
        assert_eq!(self.socket(client).state(), State::Closed);
    }

    fn assert_probe_is_answered(&mut self, client: usize) {
        self.connect(client);
        self.send(client, LAST);
        let answer = self.read(client);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("Connection: close\r\n\r\nok"), "{answer}");
        self.assert_ended(client);
    }
}

fn oks(text: &str) -> usize {
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 200 OK\r\n"),
        "{text}"
    );
    text.matches("\r\n\r\nok").count()
}

fn millis(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
}

#[test]
fn the_server_memory_is_20_kib() {
    assert_eq!(size_of::<Memory>(), 20 * 1024);
}

#[test]
fn a_hundred_probes_in_a_row_are_answered_and_closed() {
    let mut world = World::new();
    for _ in 0..100 {
        world.assert_probe_is_answered(0);
    }
}

#[test]
fn concurrent_probes_are_all_answered() {
    let mut world = World::new();
    for _ in 0..50 {
        for client in 0..SOCKETS - 1 {
            world.net.connect(world.clients[client], PORT);
        }
        world.settle();
        for client in 0..SOCKETS - 1 {
            assert!(world.socket(client).send_slice(LAST).is_ok());
        }
        world.settle();
        for client in 0..SOCKETS - 1 {
            assert_eq!(oks(&world.read(client)), 1);
            world.assert_ended(client);
        }
    }
}

#[test]
fn a_connection_stays_open_for_the_next_request() {
    let mut world = World::new();
    world.connect(0);
    for _ in 0..100 {
        world.send(0, GET);
        let answer = world.read(0);
        assert_eq!(oks(&answer), 1, "{answer}");
        world.pass(1000);
        assert_eq!(world.read(0), "");
    }
    assert_eq!(world.socket(0).state(), State::Established);
}

#[test]
fn pipelined_requests_are_answered_in_order_however_slowly_they_are_read() {
    let mut world = World::new();
    world.connect(0);
    let requests = [GET, b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"]
        .concat()
        .repeat(100);
    let mut unsent = &requests[..];
    let mut text = String::new();
    // The client reads only when it cannot send any more: then its buffer and all buffers of the server are
    // full.
    while text.matches("\r\n\r\n").count() < 200 {
        while let Ok(size @ 1..) = world.socket(0).send_slice(unsent) {
            unsent = &unsent[size..];
            world.settle();
        }
        text += &world.read(0);
        world.pass(10);
    }
    assert!(unsent.is_empty());
    let starts: Vec<_> = text
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| answer.get(..3).unwrap())
        .collect();
    assert_eq!(starts, ["200", "404"].repeat(100));
    world.send(0, LAST);
    assert_eq!(oks(&world.read(0)), 1);
    world.assert_ended(0);
}

#[test]
fn a_client_that_shuts_down_its_sending_side_still_gets_its_answers() {
    let mut world = World::new();
    world.connect(0);
    assert!(world.socket(0).send_slice(&GET.repeat(5)).is_ok());
    world.socket(0).close();
    world.settle();
    assert_eq!(oks(&world.read(0)), 5);
    world.pass(60_000);
    assert!(!world.socket(0).is_open());
    // A client that shuts down within a head gets a 400.
    world.connect(1);
    assert!(world.socket(1).send_slice(b"GET /healthz HTTP").is_ok());
    world.socket(1).close();
    world.settle();
    assert!(world.read(1).starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

#[test]
fn a_request_sent_byte_by_byte_is_answered() {
    let mut world = World::new();
    world.connect(0);
    for byte in [GET, LAST].concat() {
        world.send(0, &[byte]);
    }
    assert_eq!(oks(&world.read(0)), 2);
    world.assert_ended(0);
}

#[test]
fn an_incomplete_request_head_gets_408_at_the_head_deadline() {
    let mut world = World::new();
    world.connect(0);
    world.pass(5000);
    world.send(0, b"GET /healthz HTTP/1.1\r\n");
    let head = millis(Limits::DEFAULT.head_duration);
    world.pass(head / 2);
    // More bytes do not extend the deadline.
    world.send(0, b"Host: a\r\n");
    world.pass(head - head / 2 - 1);
    assert_eq!(world.read(0), "");
    world.pass(1);
    let answer = world.read(0);
    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{answer}"
    );
    world.assert_ended(0);
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let mut world = World::new();
    world.connect(0);
    world.send(0, GET);
    assert_eq!(oks(&world.read(0)), 1);
    world.pass(millis(Limits::DEFAULT.idle_duration) - 1);
    assert_eq!(world.socket(0).state(), State::Established);
    world.pass(1);
    world.assert_ended(0);
}

#[test]
fn a_client_that_does_not_close_is_reset_at_the_drain_deadline() {
    let mut world = World::new();
    world.connect(0);
    world.send(0, LAST);
    assert_eq!(oks(&world.read(0)), 1);
    // The client has read the answer and the end, keeps its own side open, and sends more.
    assert_eq!(world.socket(0).state(), State::CloseWait);
    let drain = millis(Limits::DEFAULT.drain_duration);
    world.pass(drain - 1);
    world.send(0, b"data after the last request");
    assert_eq!(world.socket(0).state(), State::CloseWait);
    world.pass(1);
    assert_eq!(world.socket(0).state(), State::Closed);
    assert_eq!(world.read(0), "");
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let mut world = World::new();
    world.connect(0);
    world.send(0, &[b"GET /", "x".repeat(600).as_bytes()].concat());
    let answer = world.read(0);
    assert!(
        answer.starts_with("HTTP/1.1 414 URI Too Long\r\n"),
        "{answer}"
    );
    world.assert_ended(0);
}

#[test]
fn clients_that_hold_every_socket_do_not_keep_probes_out() {
    let mut world = World::new();
    let probe = CLIENTS - 1;
    for round in 0..40 {
        let slow = round % probe;
        world.connect(slow);
        match round % 4 {
            0 => world.send(slow, b"GET /healthz HT"),
            1 => world.send(slow, GET),
            2 => world.send(
                slow,
                b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
            ),
            _ => {}
        }
        world.assert_probe_is_answered(probe);
    }
}

#[test]
fn a_probe_is_answered_after_another_client_resets_its_connection() {
    let mut world = World::new();
    for _ in 0..20 {
        world.connect(0);
        world.send(0, b"GET /healthz HTTP/1.1\r\n");
        world.socket(0).abort();
        world.settle();
        world.assert_probe_is_answered(1);
    }
}

#[test]
fn the_counter_sees_an_allocation_and_its_release() {
    // If the counter did not work, the tests above would pass anyway.
    counted(|| drop(Box::new(1)));
    assert_eq!(CALLS.get(), 2);
}

//! Who waits beside a crowd does not wait for the crowd: what one turn of the server does for the
//! greedy, and how many newcomers it takes in.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Instant, Responder};
use mio::{Events, Poll, Token};

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

struct Door {
    poll: Poll,
    server: Server<'static>,
}

impl Door {
    fn new(address: &Address, connections: usize) -> Door {
        let poll = Poll::new().unwrap();
        let mut listeners = Listeners::new();
        listeners.bind(address).unwrap();
        let config = Config {
            connections,
            ..Config::default()
        };
        let mut server = Server::new(Responder::new(&ENDPOINTS), listeners, config);
        server.register(poll.registry(), Token(0)).unwrap();
        let mut door = Door { poll, server };
        while !door.turn() {}
        door
    }

    fn tcp(connections: usize) -> (Door, SocketAddr) {
        let door = Door::new(&"127.0.0.1:0".parse().unwrap(), connections);
        let address = door.server.local_addresses().next();
        match address {
            Some(Address::Tcp(address)) => (door, address),
            other => panic!("not on TCP: {other:?}"),
        }
    }

    /// One turn. Returns whether there was nothing to do, and will not be.
    fn turn(&mut self) -> bool {
        let mut events = Events::with_capacity(256);
        self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        let now = Instant::from_millis(1);
        for event in &events {
            self.server.handle(self.poll.registry(), event, now);
        }
        self.server.turn(self.poll.registry(), now);
        events.is_empty() && self.server.deadline() != Some(Instant::ZERO)
    }
}

/// Adds what is there to be read. Returns how many answers that is in all.
fn answers(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> usize {
    stream.set_nonblocking(true).unwrap();
    let result = stream.read_to_end(bytes);
    assert!(result.is_ok() || result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    String::from_utf8_lossy(bytes).matches("\r\n\r\nok").count()
}

/// Found with 10,000 clients that pipelined and never read: every one of them got four bufferfuls
/// answered in a turn, 64 of them in every turn, and probes waited for four seconds.
#[test]
fn whoever_asks_for_much_gets_one_bufferful_of_answers_a_turn() {
    /// Requests that the buffer holds; their answers fit into the other.
    const BUFFERFUL: u64 = 8192 / GET.len() as u64;
    const ASKED: usize = 4000;
    let (mut door, address) = Door::tcp(4);
    let mut greedy = TcpStream::connect(address).unwrap();
    greedy.write_all(&GET.repeat(ASKED)).unwrap();
    let mut last = 0;
    let (mut read, mut seen) = (Vec::new(), 0);
    let mut most = 0;
    // Bounded, and far more than it takes.
    for _ in 0..10_000 {
        door.turn();
        let answered = door.server.counters().answered;
        most = most.max(answered - last);
        last = answered;
        seen = answers(&mut greedy, &mut read);
        if seen == ASKED {
            break;
        }
    }
    assert_eq!(seen, ASKED, "and nothing is lost for it");
    // Neither when it is accepted nor when it is reported does it get another share.
    assert!(most <= BUFFERFUL, "{most} answers in one turn");
}

/// Found with the same clients: where every turn is long, one connection accepted a turn leaves a
/// probe behind a thousand others.
#[test]
fn a_full_table_takes_in_several_newcomers_a_turn() {
    let (mut door, address) = Door::tcp(32);
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let held: Vec<TcpStream> = (0..32).map(|_| connect(GET)).collect();
    while !door.turn() {}
    assert_eq!(door.server.counters().open, held.len() as u64);
    let mut probes: Vec<TcpStream> = (0..12).map(|_| connect(LAST)).collect();
    let mut turns = 0;
    while door.server.counters().accepted < 32 + 12 {
        door.turn();
        turns += 1;
    }
    assert!(turns <= 4, "{turns} turns for 12 newcomers");
    assert!(
        probes
            .iter_mut()
            .all(|probe| answers(probe, &mut Vec::new()) == 1)
    );
    assert_eq!(door.server.counters().evicted, 0, "nobody had to go");
}

/// Found with 10,000 clients that said a byte a second: they held all places but one, and whoever was
/// accepted before its request came lost that one to the next.
#[test]
fn a_newcomer_keeps_its_place_while_others_sit_in_their_heads() {
    let path = std::env::temp_dir().join(format!("healthz-crowd-{}", std::process::id()));
    // A Unix socket, because there a connection is accepted before it has said anything.
    let mut door = Door::new(&Address::Unix(path.clone()), 16);
    let connect = || UnixStream::connect(&path).unwrap();
    let half = |mut stream: UnixStream| {
        stream.write_all(b"GET /he").unwrap();
        stream
    };
    let _held: Vec<UnixStream> = (0..16).map(|_| half(connect())).collect();
    while !door.turn() {}
    let mut newcomer = connect();
    while !door.turn() {}
    let _more: Vec<UnixStream> = (0..7)
        .map(|_| {
            let stream = connect();
            while !door.turn() {}
            stream
        })
        .collect();
    newcomer.write_all(LAST).unwrap();
    while !door.turn() {}
    let mut text = String::new();
    newcomer
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    newcomer.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("\r\n\r\nok"), "{text:?}");
}

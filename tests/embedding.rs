//! What each way of embedding costs its user: lines of code, descriptors and memory. Prints the README's
//! table (`cargo test --test embedding -- --nocapture`) and fails where the README says otherwise.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/threads.rs"]
mod threads;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use allocations::Counting;
use healthz::http::HeadCache;
use healthz::server::{Address, Config, Listeners, Memory, Runner, Server, Slot, now, spawn};
use healthz::{Check, Endpoint, Limits, Responder};
use mio::{Events, Poll, Token};

static PING: Check = Check::ping();
static WORK: Check = Check::heartbeat("work", Duration::from_secs(30));
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &WORK]);

/// As many as by default.
const CONNECTIONS: usize = healthz::limits::CONNECTIONS_DEFAULT;
static SLOTS: Mutex<[Slot; CONNECTIONS]> = Mutex::new([const { Slot::new() }; CONNECTIONS]);
static BYTES: Mutex<[u8; 2 << 20]> = Mutex::new([0; 2 << 20]);
static HEADS: Mutex<HeadCache> = Mutex::new(HeadCache::new());

/// Calls of the allocator, and bytes that are in use, of threads that may be the server's.
static CALLS: AtomicU64 = AtomicU64::new(0);
static IN_USE: AtomicI64 = AtomicI64::new(0);

/// Nothing is waited for longer than this, however busy the machine is.
const TIMEOUT: Duration = Duration::from_secs(20);

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(bytes: i64) {
    if threads::is_server() {
        CALLS.fetch_add(1, Ordering::SeqCst);
        IN_USE.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// What has been added since it was taken.
struct Before {
    calls: u64,
    bytes: i64,
    descriptors: usize,
}

/// What a way of embedding adds besides its listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Added {
    calls: u64,
    bytes: i64,
    descriptors: usize,
}

fn descriptors() -> usize {
    // One is that of the directory itself.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

impl Before {
    fn now() -> Self {
        let descriptors = descriptors();
        Before {
            calls: CALLS.load(Ordering::SeqCst),
            bytes: IN_USE.load(Ordering::SeqCst),
            descriptors,
        }
    }

    fn added(&self) -> Added {
        let calls = CALLS.load(Ordering::SeqCst) - self.calls;
        let bytes = IN_USE.load(Ordering::SeqCst) - self.bytes;
        Added {
            calls,
            bytes,
            descriptors: descriptors() - self.descriptors,
        }
    }
}

fn listeners() -> (Listeners, SocketAddr) {
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let first = listeners.local_addresses().next();
    match first {
        Some(Address::Tcp(address)) => (listeners, address),
        other => panic!("not on TCP: {other:?}"),
    }
}

fn server(listeners: Listeners) -> Server<'static> {
    Server::new(Responder::new(&ENDPOINTS), listeners, Config::default())
}

/// A thread that probes, whose memory is not counted. It is there before anything is counted.
struct Client {
    ask: Sender<SocketAddr>,
    answered: Receiver<()>,
}

impl Client {
    fn start() -> Self {
        threads::set_server(false);
        let (ask, asked) = channel();
        let (answer, answered) = channel();
        thread::spawn(move || {
            threads::set_server(false);
            answer.send(()).unwrap();
            for address in asked {
                probe(address);
                answer.send(()).unwrap();
            }
        });
        answered.recv().unwrap();
        threads::set_server(true);
        Client { ask, answered }
    }

    /// Has it probe, while `turn` serves it and leaves the allocator alone.
    fn probe(&self, address: SocketAddr, mut turn: impl FnMut()) {
        let calls = CALLS.load(Ordering::SeqCst);
        let started = Instant::now();
        threads::set_server(false);
        self.ask.send(address).unwrap();
        while self.answered.try_recv().is_err() {
            assert!(started.elapsed() < TIMEOUT, "no answer");
            threads::set_server(true);
            turn();
            threads::set_server(false);
        }
        threads::set_server(true);
        assert_eq!(CALLS.load(Ordering::SeqCst), calls, "serving allocates");
    }
}

fn probe(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    for _ in 0..100 {
        let head = b"GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(head).unwrap();
        let mut answer = [0; 1024];
        let size = stream.read(&mut answer).unwrap();
        assert!(answer[..size].ends_with(b"healthz check passed\n"));
    }
}

/// A server that is turned by its caller's mio loop.
fn turn(poll: &mut Poll, events: &mut Events, server: &mut Server<'_>) {
    poll.poll(events, Some(Duration::from_millis(5))).unwrap();
    for event in &*events {
        server.handle(poll.registry(), event, now());
    }
    server.advance(poll.registry(), now());
}

fn in_a_poll(client: &Client) -> Added {
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(16));
    let (listeners, address) = listeners();
    let before = Before::now();
    let mut server = server(listeners);
    server.register(poll.registry(), Token(0)).unwrap();
    let added = before.added();
    client.probe(address, || turn(&mut poll, &mut events, &mut server));
    added
}

/// And nothing is asked of the allocator by serving either.
fn in_a_poll_from_statics(client: &Client) -> Added {
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(16));
    let before = Before::now();
    let (mut slots, mut bytes) = (SLOTS.lock().unwrap(), BYTES.lock().unwrap());
    let mut heads = HEADS.lock().unwrap();
    let memory = Memory {
        slots: &mut *slots,
        bytes: &mut *bytes,
        heads: &mut heads,
    };
    let (listeners, address) = listeners();
    let responder = Responder::new(&ENDPOINTS);
    let mut server = Server::with_memory(responder, listeners, Limits::DEFAULT, memory);
    server.register(poll.registry(), Token(0)).unwrap();
    let mut added = before.added();
    // Its listener; in the other ways it is there before.
    added.descriptors -= 1;
    let calls = CALLS.load(Ordering::SeqCst);
    client.probe(address, || turn(&mut poll, &mut events, &mut server));
    server.stop(poll.registry(), now());
    drop(server);
    assert_eq!(CALLS.load(Ordering::SeqCst), calls, "ending it frees");
    added
}

fn in_a_runner(client: &Client) -> Added {
    let (listeners, address) = listeners();
    let before = Before::now();
    let runner = Runner::new(server(listeners)).unwrap();
    let added = before.added();
    client.probe(address, || {
        drop(runner.poll_once(Some(Duration::from_millis(5))))
    });
    added
}

fn on_a_thread(client: &Client) -> Added {
    let (listeners, address) = listeners();
    let before = Before::now();
    let door = spawn(server(listeners)).unwrap();
    let descriptors = before.added().descriptors;
    // The thread has begun, and has what it needs, once it has answered.
    let mut first = TcpStream::connect(address).unwrap();
    first.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert!(first.read(&mut [0; 1024]).unwrap() > 0);
    drop(first);
    let added = Added {
        descriptors,
        ..before.added()
    };
    client.probe(address, thread::yield_now);
    door.stop();
    door.join().unwrap();
    added
}

/// Lines of an example that would not be there without the door: those with code on them that are not
/// marked as its user's own.
fn lines(example: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let path = match example {
        // In a directory of its own, of which this is the part to copy.
        "smoltcp" => path.join("smoltcp/server.rs"),
        example => path.join(example).with_extension("rs"),
    };
    let text = std::fs::read_to_string(path).unwrap();
    let is_code = |line: &&str| {
        let has_words = line.contains(char::is_alphanumeric);
        has_words && !line.starts_with("//") && !line.ends_with("// yours")
    };
    text.lines().map(str::trim).filter(is_code).count()
}

fn kib(bytes: i64) -> String {
    match bytes {
        0 => "0".into(),
        // As the README writes them.
        bytes => match (bytes as u64).div_ceil(1024) {
            kib @ 0..1000 => format!("{kib} KiB"),
            kib => format!("{},{:03} KiB", kib / 1000, kib % 1000),
        },
    }
}

/// In one test, for the counters are everybody's.
#[test]
fn the_table_in_the_document_says_what_embedding_costs() {
    threads::begin();
    now();
    // What is made at the first use of a thread or a directory is nobody's cost.
    descriptors();
    let client = &Client::start();
    let (mio, statics) = (in_a_poll(client), in_a_poll_from_statics(client));
    let (runner, thread) = (in_a_runner(client), on_a_thread(client));
    assert_eq!((statics.calls, statics.bytes), (0, 0), "on the heap");
    let config = Config::default();
    let most = config.memory_bytes_max(&Responder::new(&ENDPOINTS)) as i64;
    assert!((most..most + 1024).contains(&mio.bytes), "{mio:?}, {most}");

    // Seen by tests/smoltcp.rs.
    let nothing = Added {
        calls: 0,
        bytes: 0,
        descriptors: 0,
    };
    let rows = [
        ("`Runner::run` blocks", "run", runner),
        ("`spawn` on a thread of its own", "spawn", thread),
        ("`Server` in your mio `Poll`", "mio", mio),
        ("the same, from statics", "statics", statics),
        ("`Runner::poll_once` in a poll(2) loop", "poll", runner),
        ("`Runner::poll_once` inside tokio", "tokio", runner),
        ("`Runner::poll_once` in calloop", "calloop", runner),
        ("`Connection` on smoltcp's sockets", "smoltcp", nothing),
    ];
    let mut table = String::new();
    for (way, example, added) in rows {
        let line = format!(
            "| {way} | `{example}` | {} | {} | {} |\n",
            lines(example),
            added.descriptors,
            kib(added.bytes)
        );
        table.push_str(&line);
    }
    print!("{table}");
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/embed.md");
    let document = std::fs::read_to_string(document).unwrap();
    for row in table.lines() {
        assert!(document.contains(row), "docs/embed.md does not have: {row}");
    }
    the_document_says_how_much_of_the_init_is_the_server();
}

/// The init is mostly an init: of its own file only the lines that say so are the door's.
fn the_document_says_how_much_of_the_init_is_the_server() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let text = std::fs::read_to_string(examples.join("init.rs")).unwrap();
    let marked = text.lines().filter(|line| line.ends_with("// healthz"));
    let count = lines("init/health") + marked.count();
    let document = std::fs::read_to_string(examples.join("../docs/embed.md")).unwrap();
    let expected = format!("{count} of its lines are for healthz");
    assert!(
        document.contains(&expected),
        "docs/embed.md does not have: {expected}"
    );
}

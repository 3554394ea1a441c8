//! What each way of embedding costs: lines of code, descriptors and memory. Prints the table of
//! `docs/embed.md` (`cargo test --test embedding -- --nocapture`) and fails if the document differs.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/threads.rs"]
mod threads;
#[path = "support/timeout.rs"]
mod timeout;

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
use timeout::TIMEOUT;

static PING: Check = Check::ping();
static WORK: Check = Check::heartbeat("work", Duration::from_secs(30));
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &WORK]);

/// The default number of connections.
const CONNECTIONS: usize = healthz::limits::CONNECTIONS_DEFAULT;
static SLOTS: Mutex<[Slot; CONNECTIONS]> = Mutex::new([const { Slot::new() }; CONNECTIONS]);
static BYTES: Mutex<[u8; 2 << 20]> = Mutex::new([0; 2 << 20]);
static HEADS: Mutex<HeadCache> = Mutex::new(HeadCache::new());

/// Calls of the allocator by threads that count as a server's, and the bytes that they have allocated.
static CALLS: AtomicU64 = AtomicU64::new(0);
static IN_USE: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(bytes: i64) {
    if threads::is_server() {
        CALLS.fetch_add(1, Ordering::SeqCst);
        IN_USE.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// The resources in use before a server is created.
struct Before {
    calls: u64,
    bytes: i64,
    descriptors: usize,
}

/// The resources that a server adds, apart from its listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Added {
    calls: u64,
    bytes: i64,
    descriptors: usize,
}

fn descriptors() -> usize {
    // One of them is the descriptor of the directory itself.
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

/// A thread that sends probes. It starts before the counting, and its memory is not counted.
struct Client {
    addresses: Sender<SocketAddr>,
    answered: Receiver<()>,
}

impl Client {
    fn start() -> Self {
        threads::set_server(false);
        let (addresses, received) = channel();
        let (answer, answered) = channel();
        thread::spawn(move || {
            threads::set_server(false);
            answer.send(()).unwrap();
            for address in received {
                probe(address);
                answer.send(()).unwrap();
            }
        });
        answered.recv().unwrap();
        threads::set_server(true);
        Client {
            addresses,
            answered,
        }
    }

    /// Sends one probe while `advance` serves it. Asserts that `advance` does not call the allocator.
    fn probe(&self, address: SocketAddr, mut advance: impl FnMut()) {
        let calls = CALLS.load(Ordering::SeqCst);
        let started = Instant::now();
        threads::set_server(false);
        self.addresses.send(address).unwrap();
        while self.answered.try_recv().is_err() {
            assert!(started.elapsed() < TIMEOUT, "no answer");
            threads::set_server(true);
            advance();
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

/// One iteration of the caller's mio loop.
fn advance(poll: &mut Poll, events: &mut Events, server: &mut Server<'_>) {
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
    client.probe(address, || advance(&mut poll, &mut events, &mut server));
    added
}

/// Asserts also that serving and dropping the server does not call the allocator.
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
    // The listener. In the other ways of embedding it is created before the count.
    added.descriptors -= 1;
    let calls = CALLS.load(Ordering::SeqCst);
    client.probe(address, || advance(&mut poll, &mut events, &mut server));
    server.stop(poll.registry(), now());
    drop(server);
    assert_eq!(
        CALLS.load(Ordering::SeqCst),
        calls,
        "dropping the server calls the allocator"
    );
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
    let server_thread = spawn(server(listeners)).unwrap();
    let descriptors = before.added().descriptors;
    // After its first answer, the thread has allocated everything that it needs.
    let mut first = TcpStream::connect(address).unwrap();
    first.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert!(first.read(&mut [0; 1024]).unwrap() > 0);
    drop(first);
    let added = Added {
        descriptors,
        ..before.added()
    };
    client.probe(address, thread::yield_now);
    server_thread.stop();
    server_thread.join().unwrap();
    added
}

/// The lines of an example that embedding the server takes: lines of code that are not marked as the
/// user's own.
fn lines(example: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let path = match example {
        // This example is a directory, and this file is the part to copy.
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
        // The format of the document.
        bytes => match (bytes as u64).div_ceil(1024) {
            kib @ 0..1000 => format!("{kib} KiB"),
            kib => format!("{},{:03} KiB", kib / 1000, kib % 1000),
        },
    }
}

/// One test for all ways of embedding, because the counters are global.
#[test]
fn the_table_in_embed_md_has_the_measured_cost_of_each_way_of_embedding() {
    threads::begin();
    now();
    // Allocations at the first use of a thread or a directory do not count.
    descriptors();
    let client = &Client::start();
    let (mio, statics) = (in_a_poll(client), in_a_poll_from_statics(client));
    let (runner, thread) = (in_a_runner(client), on_a_thread(client));
    assert_eq!(
        (statics.calls, statics.bytes),
        (0, 0),
        "a server from statics uses the heap"
    );
    let config = Config::default();
    let most = config.memory_bytes_max(&Responder::new(&ENDPOINTS)) as i64;
    assert!((most..most + 1024).contains(&mio.bytes), "{mio:?}, {most}");

    // Asserted by tests/smoltcp.rs.
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
    assert_embed_md_has_the_line_count_of_the_init_example();
}

/// In the init example, a line that is there for the server is marked `// healthz`.
fn assert_embed_md_has_the_line_count_of_the_init_example() {
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

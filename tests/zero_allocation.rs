//! After its first request, the server thread never calls the allocator again, for any request and any end of
//! a connection.
//!
//! Allocator calls are counted on every thread that starts after the test has begun, unless the thread calls
//! `set_server(false)`. So the thread that [`spawn`] starts is counted without a change to it.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/threads.rs"]
mod threads;
#[path = "support/timeout.rs"]
mod timeout;

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use allocations::Counting;
use healthz::answer::{MetricType, Metrics, MetricsWriter};
use healthz::server::{Address, Config, Counters, Listeners, Runner, Server, ServerHandle, spawn};
use healthz::{Check, Endpoint, EndpointSet, Limits, Responder};
use timeout::TIMEOUT;

/// Calls of the allocator by threads that count as a server's.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Bytes that all threads have allocated.
static IN_USE: AtomicI64 = AtomicI64::new(0);
/// The number of log records.
static RECORDS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(bytes: i64) {
    IN_USE.fetch_add(bytes, Ordering::Relaxed);
    if threads::is_server() {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

/// A logger that formats each record into a buffer on the stack.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let mut line = Line([0; 512], 0);
            let _ = write!(line, "{} {}", record.level(), record.args());
            RECORDS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

struct Line([u8; 512], usize);

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let free = self.0.get_mut(self.1..).unwrap_or_default();
        let size = text.len().min(free.len());
        free[..size].copy_from_slice(&text.as_bytes()[..size]);
        self.1 += size;
        Ok(())
    }
}

static PING: Check = Check::ping();
static LOG: Check = Check::manual("log").initially_passing();
static LOOP: Check = Check::heartbeat("syncloop", Duration::from_secs(300));
static HOOK: Check = Check::gate("poststarthook/start").group("poststarthooks");
static SHUTDOWN: Check = Check::shutdown();
static ENDPOINTS: [Endpoint; 3] = [
    Endpoint::new("/healthz", &[&PING, &LOG, &LOOP]),
    Endpoint::new("/livez", &[&PING, &HOOK]),
    Endpoint::new("/readyz", &[&PING, &SHUTDOWN]),
];
/// Makes `/metrics` longer than other answers can be, so that it is sent from a buffer for long answers.
static FILLER: [u8; 200_000] = [b'x'; 200_000];

fn long_text(text: &mut MetricsWriter<'_, '_>) {
    let help = std::str::from_utf8(&FILLER).unwrap();
    text.family("filler", MetricType::Gauge, help);
}

static HOSTS: [&str; 2] = ["a", "localhost"];

/// Set in the child process with few descriptors.
const CHILD: &str = "HEALTHZ_TEST_ALLOCATION_CHILD";

const CONNECTIONS: usize = 4;
/// All deadlines of the server. A case that tests a deadline waits this long, and every other case must be
/// faster.
const DEADLINE: Duration = Duration::from_secs(1);

/// The requests of one client, and the answer that it expects.
struct Case {
    name: &'static str,
    /// Sent one after the other, each after the answers to the earlier ones are read.
    pieces: Vec<Vec<u8>>,
    /// The start of the first answer. Empty if no answer is expected.
    answer: &'static str,
    last: Last,
}

/// How the connection ends.
enum Last {
    /// The client waits until the server closes.
    Waits,
    /// The client closes after the first answer.
    Closes,
    /// The client shuts down its sending side and waits until the server closes.
    Shuts,
}

fn case(name: &'static str, pieces: &[&str], answer: &'static str, last: Last) -> Case {
    let pieces = pieces.iter().map(|piece| piece.as_bytes().to_vec());
    Case {
        name,
        pieces: pieces.collect(),
        answer,
        last,
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

const OK: &str = "HTTP/1.1 200 OK";

#[rustfmt::skip] // One case, few lines.
fn good() -> Vec<Case> {
    let close = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let json = "GET /healthz?exclude=a HTTP/1.1\r\nHost: a\r\nAccept: application/health+json\r\n\r\n".to_owned();
    let excludes: String = (0..400).map(|n| format!("&exclude=x{}", n % 90)).collect();
    let quoted = "/healthz?verbose&exclude=%00%ff%e2%98%83%22\"&exclude=\u{5c}&exclude=ping";
    let post = "POST /healthz HTTP/1.1\r\nHost: a\r\n";
    vec![
        case("close", &[close], OK, Last::Waits),
        case("HTTP/1.0", &["GET /healthz HTTP/1.0\r\n\r\n"], OK, Last::Waits),
        case("keep-alive", &[&get("/healthz")], OK, Last::Closes),
        case("keep-alive, until idle", &[&get("/healthz")], OK, Last::Waits),
        case("many on one connection", &[get("/readyz").as_str(); 5], OK, Last::Closes),
        case("pipelined", &[&get("/healthz").repeat(200)], OK, Last::Closes),
        case("pipelined and shut", &[&get("/healthz").repeat(9)], OK, Last::Shuts),
        case("in pieces", &["GET /hea", "lthz HTTP/1.1\r\nHos", "t: a\r\n\r\n"], OK, Last::Closes),
        case("verbose", &[&get("/healthz?verbose")], OK, Last::Closes),
        case("single", &[&get("/healthz/syncloop")], OK, Last::Closes),
        case("excluded", &[&get("/livez?exclude=poststarthooks")], OK, Last::Closes),
        case("many excludes", &[&get(&format!("/healthz?verbose{excludes}"))], OK, Last::Closes),
        case("quoted excludes", &[&get(quoted)], OK, Last::Closes),
        case("HEAD", &["HEAD /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n"], OK, Last::Closes),
        case("OPTIONS", &["OPTIONS / HTTP/1.0\r\n\r\n"], OK, Last::Waits),
        case("absolute", &[&get("http://localhost/healthz")], OK, Last::Closes),
        case("body", &[&format!("{post}Content-Length: 5\r\n\r\nhello")], OK, Last::Closes),
        case(
            "chunked",
            &[&format!("{post}Transfer-Encoding: chunked\r\n\r\n"), "5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"],
            OK,
            Last::Shuts,
        ),
        case("no body comes", &[&format!("{post}Content-Length: 5\r\n\r\n")], OK, Last::Waits),
        case("JSON", &[&json, &(json.clone() + &get("/healthz"))], OK, Last::Closes),
        case("metrics", &[&get("/metrics"), &get("/metrics/slis")], OK, Last::Closes),
        case("metrics and the end", &["GET /metrics HTTP/1.0\r\n\r\n"], OK, Last::Waits),
        case("metrics, HEAD", &["HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n"], OK, Last::Closes),
        case("metrics, pipelined", &[&(get("/metrics") + &get("/healthz")).repeat(9)], OK, Last::Shuts),
        case("a body too long", &[&format!("{post}Content-Length: 999999\r\n\r\n"), "x"], OK, Last::Shuts),
    ]
}

#[rustfmt::skip] // One case, few lines.
fn bad() -> Vec<Case> {
    let fields: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = "x".repeat(9000);
    let head = "GET / HTTP/1.1\r\nHost: a\r\n";
    let chunked = "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx";
    let pipelined = get("/healthz") + &get("/x") + "\r\nBAD\r\n\r\n";
    vec![
        case("not found", &[&get("/x")], "HTTP/1.1 404", Last::Closes),
        case("redirect", &[&get("//healthz/../livez?a=%22&b")], "HTTP/1.1 307", Last::Closes),
        case("method", &["DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n"], "HTTP/1.1 405", Last::Closes),
        case("host", &["GET /healthz HTTP/1.1\r\nHost: evil\r\n\r\n"], "HTTP/1.1 421", Last::Closes),
        case("no host", &["GET /healthz HTTP/1.1\r\n\r\n"], "HTTP/1.1 400", Last::Shuts),
        case("no HTTP", &["\u{16}\u{3}\u{1}\u{2}\0\n"], "HTTP/1.1 400", Last::Shuts),
        case("version", &["GET / HTTP/2.0\r\n\r\n"], "HTTP/1.1 505", Last::Shuts),
        case("expectation", &[&format!("{head}Expect: x\r\n\r\n")], "HTTP/1.1 417", Last::Shuts),
        case("coding", &[&format!("{head}Transfer-Encoding: gzip\r\n\r\n")], "HTTP/1.1 501", Last::Shuts),
        case("many fields", &[&format!("{head}{fields}\r\n")], "HTTP/1.1 431", Last::Shuts),
        case("a long target", &[&format!("GET /{long}")], "HTTP/1.1 414", Last::Shuts),
        case("a long field", &[&format!("{head}X: {long}")], "HTTP/1.1 431", Last::Shuts),
        case("malformed chunk", &[chunked], OK, Last::Waits),
        case("half a head, then the end", &["GET /healthz HT"], "HTTP/1.1 400", Last::Shuts),
        case("half a head, then nothing", &["GET /healthz HT"], "HTTP/1.1 408", Last::Waits),
        case("nothing, then the end", &[], "", Last::Shuts),
        case("refused after others", &[&pipelined], OK, Last::Shuts),
    ]
}

#[rustfmt::skip] // One case, few lines.
fn failing() -> Vec<Case> {
    const FAILED: &str = "HTTP/1.1 500";
    vec![
        case("failing", &[&get("/healthz")], FAILED, Last::Closes),
        case("failing, verbose", &[&get("/healthz?verbose&exclude=no")], FAILED, Last::Closes),
        case("failing, excluded", &[&get("/healthz?exclude=log&exclude=syncloop")], OK, Last::Closes),
        case("failing, single", &[&get("/healthz/log")], FAILED, Last::Closes),
        case("failing, overdue", &[&get("/healthz/syncloop")], FAILED, Last::Closes),
        case("failing, HEAD", &["HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n"], FAILED, Last::Closes),
        case("failing, pipelined", &[&get("/livez").repeat(50)], FAILED, Last::Closes),
        case("draining", &[&get("/readyz")], FAILED, Last::Closes),
    ]
}

/// Runs one case. If the client closes, the server may see that only during the next case.
fn play(address: SocketAddr, case: &Case) {
    let mut stream = connect(address);
    let mut got = Vec::new();
    for (at, piece) in case.pieces.iter().enumerate() {
        // The write fails if the server has refused the request and closed the connection.
        let _ = stream.write_all(piece);
        // Read the answer to a complete request before the next piece. Half a head gets no answer.
        if at + 1 < case.pieces.len() && piece.ends_with(b"\r\n\r\n") {
            read_some(&mut stream, &mut got);
        }
    }
    match case.last {
        Last::Closes => read_some(&mut stream, &mut got),
        Last::Shuts => {
            let _ = stream.shutdown(Shutdown::Write);
            read_rest(&mut stream, &mut got);
        }
        Last::Waits => read_rest(&mut stream, &mut got),
    }
    let got = String::from_utf8_lossy(&got);
    assert!(got.starts_with(case.answer), "{}: {got}", case.name);
    assert!(
        got.is_empty() == case.answer.is_empty(),
        "{}: {got}",
        case.name
    );
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn read_some(stream: &mut TcpStream, got: &mut Vec<u8>) {
    let mut buffer = [0; 1 << 16];
    match stream.read(&mut buffer) {
        Ok(size) => got.extend_from_slice(&buffer[..size]),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
}

fn read_rest(stream: &mut TcpStream, got: &mut Vec<u8>) {
    match stream.read_to_end(got) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
}

/// Makes the server evict connections in every state.
fn fill_the_table(address: SocketAddr) {
    let mut streams = Vec::new();
    for round in 0..CONNECTIONS * 5 {
        let mut stream = connect(address);
        let bytes = match round % 4 {
            0 => get("/healthz"),
            1 => "GET /healthz HT".into(),
            2 => "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".into(),
            // Requests more answers than the socket buffers hold, and reads none.
            _ => get("/healthz?verbose").repeat(20_000),
        };
        stream
            .set_write_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        streams.push(stream);
        play(
            address,
            &case("in a full table", &[&get("/livez/ping")], OK, Last::Closes),
        );
    }
}

/// Makes the server evict clients that do not read long answers.
fn scrape_without_reading(address: SocketAddr) {
    let streams = [(); 3].map(|()| {
        let mut stream = connect(address);
        let requests = get("/metrics").repeat(100);
        stream.write_all(requests.as_bytes()).unwrap();
        stream
    });
    // Until the server has begun to answer the last one.
    for stream in streams.iter().rev() {
        assert!(stream.peek(&mut [0]).is_ok());
    }
    let metrics = case("metrics of others", &[&get("/metrics")], OK, Last::Closes);
    play(address, &metrics);
}

/// Resets the connection: closing it with unread input sends a reset.
fn reset(address: SocketAddr) {
    let mut stream = connect(address);
    stream.write_all(get("/healthz").as_bytes()).unwrap();
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
    drop(stream);
}

/// Replaces the endpoints a thousand times, with requests in between. Returns the calls of the allocator by the
/// server. The memory in use, of all threads, is the same after ten replacements and after a thousand.
fn replace_endpoints(handle: &ServerHandle, address: SocketAddr) -> u64 {
    let mut in_use = Vec::with_capacity(2);
    let calls = calls(|| {
        for number in 1..=1000 {
            let names = ["a".to_owned(), format!("b{number:04}")];
            let checks = names.map(|name| Arc::new(Check::manual(&name).initially_passing()));
            let set = EndpointSet::kubernetes(&checks).unwrap();
            handle.replace_endpoints(Arc::new(set)).unwrap();
            while !handle.free_replaced_endpoints() {
                thread::yield_now();
            }
            if number % 10 == 0 {
                let target = format!("/healthz/b{number:04}");
                play(
                    address,
                    &case("a new check", &[&get(&target)], OK, Last::Closes),
                );
            }
            // This drops the last references of this round.
            drop(checks);
            if number == 10 || number == 1000 {
                in_use.push(IN_USE.load(Ordering::SeqCst));
            }
        }
    });
    assert_eq!(in_use[0], in_use[1], "memory in use has changed");
    calls
}

/// The number of allocator calls while `work` runs.
fn calls(work: impl FnOnce()) -> u64 {
    let before = CALLS.load(Ordering::SeqCst);
    work();
    CALLS.load(Ordering::SeqCst) - before
}

/// One test for all cases, because the counter is global.
#[test]
fn the_server_thread_does_not_call_the_allocator_after_its_first_request() {
    threads::begin();
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    if std::env::var_os(CHILD).is_some() {
        return out_of_descriptors();
    }
    // The counter itself works: an allocation of another thread counts, and one of the client does not.
    assert!(calls(|| drop(thread::spawn(|| drop(Box::new(1))).join())) >= 2);
    assert_eq!(calls(|| drop(Box::new(1))), 0);

    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let metrics = Metrics::new().and(long_text, FILLER.len() + 100);
    let responder = Responder::new(&ENDPOINTS)
        .allow_hosts(&HOSTS)
        .with_metrics(metrics);
    assert!(responder.long_response_bytes_max(&Limits::DEFAULT) > FILLER.len());
    let config = Config {
        limits: Limits {
            head_duration: DEADLINE,
            idle_duration: DEADLINE,
            drain_duration: DEADLINE,
            ..Limits::DEFAULT
        },
        connections: CONNECTIONS,
        ..Config::default()
    };
    let server = Server::new(responder, listeners, config);
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        panic!("not on TCP");
    };
    let handle = spawn(server).unwrap();

    // Warm-up: one request. No other kind of request may allocate, not even the first of its kind.
    HOOK.open();
    play(
        address,
        &case("warm-up", &[&get("/healthz")], OK, Last::Waits),
    );

    let mut allocating = Vec::new();
    let mut record = |name: &str, calls: u64| {
        if calls > 0 {
            allocating.push(format!("{name}: {calls} calls"));
        }
    };
    for case in good().iter().chain(&bad()) {
        record(case.name, calls(|| play(address, case)));
    }
    LOG.fail("logging blocked");
    LOOP.fail("sync Loop took longer than expected");
    HOOK.fail("not finished");
    SHUTDOWN.begin_shutdown();
    for case in failing() {
        record(case.name, calls(|| play(address, &case)));
    }
    record("evictions", calls(|| fill_the_table(address)));
    record("long answers", calls(|| scrape_without_reading(address)));
    record("resets", calls(|| (0..20).for_each(|_| reset(address))));
    // All open connections reach their deadlines.
    play(
        address,
        &case("idle", &[&get("/livez/ping")], OK, Last::Waits),
    );
    record("replacements", replace_endpoints(&handle.handle(), address));
    assert!(allocating.is_empty(), "{allocating:#?}");

    // The server thread is counted: it releases memory when it ends.
    let mut counters = Counters::default();
    let end = || {
        handle.stop();
        counters = handle.join().unwrap();
    };
    assert!(calls(end) > 0, "the server thread is not counted");
    assert!(
        counters.answered > 1000 && counters.refused > 5,
        "{counters:?}"
    );
    assert!(counters.evicted > 5 && counters.expired > 3, "{counters:?}");
    assert!(counters.failed > 0, "{counters:?}");

    // The descriptor limit applies to the whole process, so that case runs in a child process.
    let script = "ulimit -n 32 && exec \"$0\" --nocapture --test-threads=1";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success() && out.contains("the server recovered"),
        "{out}{err}"
    );
}

/// Runs in a child process with 32 descriptors, in which one thread is both client and server.
fn out_of_descriptors() {
    // The counter itself works: this thread is counted while it serves.
    let server_box = || {
        threads::set_server(true);
        drop(Box::new(1));
        threads::set_server(false);
    };
    assert_eq!(calls(server_box), 2);
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        panic!("not on TCP");
    };
    let runner = Runner::new(server).unwrap();
    let poll = |count: u32| {
        let calls = calls(|| {
            threads::set_server(true);
            for _ in 0..count {
                runner.poll_once(Some(Duration::from_millis(5))).unwrap();
            }
            threads::set_server(false);
        });
        (calls, runner.server().counters())
    };
    // One descriptor is left, and the client takes it.
    let open = || std::fs::File::open("/dev/null").ok();
    let mut held_files: Vec<_> = std::iter::from_fn(open).collect();
    drop(held_files.pop());
    let mut client = connect(address);
    client.write_all(get("/healthz").as_bytes()).unwrap();
    let (calls, counters) = poll(60);
    assert_eq!((counters.accepted, counters.accept_pauses), (0, 1));
    assert_eq!(RECORDS.load(Ordering::Relaxed), 1);
    assert_eq!(calls, 0);

    drop(held_files.pop());
    let (calls, counters) = poll(60);
    assert_eq!((calls, counters.accepted), (0, 1));

    // An idle connection is evicted for the new one.
    drop(held_files.pop());
    let mut next = connect(address);
    next.write_all(get("/healthz").as_bytes()).unwrap();
    let (calls, counters) = poll(60);
    assert_eq!((calls, counters.accepted, counters.evicted), (0, 2, 1));
    println!("the server recovered");
}

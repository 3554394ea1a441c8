//! The serving thread neither allocates nor frees once it has served, whatever is asked and however
//! it ends.
//!
//! The allocator counts for every thread that begins after the test and has not said that it is a
//! client. So the thread that [`spawn`] starts is counted as it is, without a hook in it.
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

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use allocations::Counting;
use healthz::server::{Address, Config, Counters, Listeners, Runner, Server, spawn};
use healthz::{Check, Endpoint, Limits, Responder};

/// Calls of the allocator by threads that may be the server's.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Log records that came.
static RECORDS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(_bytes: i64) {
    if threads::is_server() {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

/// A logger that formats what it is given, as a real one does, into a buffer of its own.
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
static HOSTS: [&str; 2] = ["a", "localhost"];

/// Says that this process is the one with few descriptors.
const CHILD: &str = "HEALTHZ_TEST_ALLOCATION_CHILD";

const CONNECTIONS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Every deadline of the server here. The cases that wait for one wait this long; the others have as
/// long to do what they do.
const DEADLINE: Duration = Duration::from_millis(300);

/// What one client does, and how often.
struct Case {
    name: &'static str,
    /// Sent one after the other, each when the answers to those before are read.
    pieces: Vec<Vec<u8>>,
    /// What the first answer begins with; nothing if there is none.
    answer: &'static str,
    last: Last,
}

/// How the client ends.
enum Last {
    /// Waits for the server to close.
    Waits,
    /// Closes when it has the first answer.
    Leaves,
    /// Ends its side and waits for the server's.
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
    let excludes: String = (0..400).map(|n| format!("&exclude=x{}", n % 90)).collect();
    let quoted = "/healthz?verbose&exclude=%00%ff%e2%98%83%22\"&exclude=\u{5c}&exclude=ping";
    let post = "POST /healthz HTTP/1.1\r\nHost: a\r\n";
    vec![
        case("close", &[close], OK, Last::Waits),
        case("HTTP/1.0", &["GET /healthz HTTP/1.0\r\n\r\n"], OK, Last::Waits),
        case("keep-alive", &[&get("/healthz")], OK, Last::Leaves),
        case("keep-alive, until idle", &[&get("/healthz")], OK, Last::Waits),
        case("many on one connection", &[get("/readyz").as_str(); 5], OK, Last::Leaves),
        case("pipelined", &[&get("/healthz").repeat(200)], OK, Last::Leaves),
        case("pipelined and shut", &[&get("/healthz").repeat(9)], OK, Last::Shuts),
        case("in pieces", &["GET /hea", "lthz HTTP/1.1\r\nHos", "t: a\r\n\r\n"], OK, Last::Leaves),
        case("verbose", &[&get("/healthz?verbose")], OK, Last::Leaves),
        case("single", &[&get("/healthz/syncloop")], OK, Last::Leaves),
        case("excluded", &[&get("/livez?exclude=poststarthooks")], OK, Last::Leaves),
        case("many excludes", &[&get(&format!("/healthz?verbose{excludes}"))], OK, Last::Leaves),
        case("quoted excludes", &[&get(quoted)], OK, Last::Leaves),
        case("HEAD", &["HEAD /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n"], OK, Last::Leaves),
        case("OPTIONS", &["OPTIONS / HTTP/1.0\r\n\r\n"], OK, Last::Waits),
        case("absolute", &[&get("http://localhost/healthz")], OK, Last::Leaves),
        case("body", &[&format!("{post}Content-Length: 5\r\n\r\nhello")], OK, Last::Leaves),
        case(
            "chunked",
            &[&format!("{post}Transfer-Encoding: chunked\r\n\r\n"), "5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"],
            OK,
            Last::Shuts,
        ),
        case("no body comes", &[&format!("{post}Content-Length: 5\r\n\r\n")], OK, Last::Waits),
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
        case("not found", &[&get("/x")], "HTTP/1.1 404", Last::Leaves),
        case("redirect", &[&get("//healthz/../livez?a=%22&b")], "HTTP/1.1 307", Last::Leaves),
        case("method", &["DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n"], "HTTP/1.1 405", Last::Leaves),
        case("host", &["GET /healthz HTTP/1.1\r\nHost: evil\r\n\r\n"], "HTTP/1.1 421", Last::Leaves),
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
        case("refused behind others", &[&pipelined], OK, Last::Shuts),
    ]
}

#[rustfmt::skip] // One case, few lines.
fn failing() -> Vec<Case> {
    const FAILED: &str = "HTTP/1.1 500";
    vec![
        case("failing", &[&get("/healthz")], FAILED, Last::Leaves),
        case("failing, verbose", &[&get("/healthz?verbose&exclude=no")], FAILED, Last::Leaves),
        case("failing, excluded", &[&get("/healthz?exclude=log&exclude=syncloop")], OK, Last::Leaves),
        case("failing, single", &[&get("/healthz/log")], FAILED, Last::Leaves),
        case("failing, overdue", &[&get("/healthz/syncloop")], FAILED, Last::Leaves),
        case("failing, HEAD", &["HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n"], FAILED, Last::Leaves),
        case("failing, pipelined", &[&get("/livez").repeat(50)], FAILED, Last::Leaves),
        case("draining", &[&get("/readyz")], FAILED, Last::Leaves),
    ]
}

/// One exchange. Of who leaves, the server may learn only in the next one.
fn play(address: SocketAddr, case: &Case) {
    let mut stream = connect(address);
    let mut got = Vec::new();
    for (at, piece) in case.pieces.iter().enumerate() {
        // Who is refused may find nobody listening to the rest.
        let _ = stream.write_all(piece);
        // A whole request is answered before the next piece is sent; half a head is not.
        if at + 1 < case.pieces.len() && piece.ends_with(b"\r\n\r\n") {
            read_some(&mut stream, &mut got);
        }
    }
    match case.last {
        Last::Leaves => read_some(&mut stream, &mut got),
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

/// Makes the server choose whom to give up, in each state that a connection can be in.
fn crowd(address: SocketAddr) {
    let mut crowd = Vec::new();
    for round in 0..CONNECTIONS * 5 {
        let mut stream = connect(address);
        let bytes = match round % 4 {
            0 => get("/healthz"),
            1 => "GET /healthz HT".into(),
            2 => "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".into(),
            // Asks for more answers than the sockets hold, and reads none.
            _ => get("/healthz?verbose").repeat(20_000),
        };
        stream
            .set_write_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let _ = stream.write_all(bytes.as_bytes());
        crowd.push(stream);
        play(
            address,
            &case("in a crowd", &[&get("/livez/ping")], OK, Last::Leaves),
        );
    }
}

/// A reset instead of an end: what the client did not read makes its close one.
fn reset(address: SocketAddr) {
    let mut stream = connect(address);
    stream.write_all(get("/healthz").as_bytes()).unwrap();
    assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
    drop(stream);
}

/// Calls of the allocator while `work` runs.
fn calls(work: impl FnOnce()) -> u64 {
    let before = CALLS.load(Ordering::SeqCst);
    work();
    CALLS.load(Ordering::SeqCst) - before
}

/// In one test, for the counter is everybody's.
#[test]
fn the_serving_thread_leaves_the_allocator_alone() {
    threads::begin();
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    if std::env::var_os(CHILD).is_some() {
        return out_of_descriptors();
    }
    // The canary: another thread's box is seen, a client's is not.
    assert!(calls(|| drop(thread::spawn(|| drop(Box::new(1))).join())) >= 2);
    assert_eq!(calls(|| drop(Box::new(1))), 0);

    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let responder = Responder::new(&ENDPOINTS).allow_hosts(&HOSTS);
    let config = Config {
        limits: Limits {
            head_duration: DEADLINE,
            idle_duration: DEADLINE,
            drain_duration: DEADLINE,
            ..Limits::DEFAULT
        },
        connections: CONNECTIONS,
    };
    let server = Server::new(responder, listeners, config);
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        panic!("not on TCP");
    };
    let door = spawn(server).unwrap();

    // Warm-up: one request. Nothing else may be made at its first use.
    HOOK.open();
    play(
        address,
        &case("warm-up", &[&get("/healthz")], OK, Last::Waits),
    );

    let mut guilty = Vec::new();
    let mut account = |name: &str, calls: u64| {
        if calls > 0 {
            guilty.push(format!("{name}: {calls} calls"));
        }
    };
    for case in good().iter().chain(&bad()) {
        account(case.name, calls(|| play(address, case)));
    }
    LOG.fail("logging blocked");
    LOOP.fail("sync Loop took longer than expected");
    HOOK.fail("not finished");
    SHUTDOWN.begin_shutdown();
    for case in failing() {
        account(case.name, calls(|| play(address, &case)));
    }
    account("a crowd", calls(|| crowd(address)));
    account("resets", calls(|| (0..20).for_each(|_| reset(address))));
    // Everybody's time runs out.
    play(
        address,
        &case("idle", &[&get("/livez/ping")], OK, Last::Waits),
    );
    assert!(guilty.is_empty(), "{guilty:#?}");

    // Another canary: what the thread frees as it ends is seen.
    let mut counters = Counters::default();
    let end = || {
        door.stop();
        counters = door.join().unwrap();
    };
    assert!(calls(end) > 0, "the serving thread is not counted");
    assert!(
        counters.answered > 1000 && counters.refused > 5,
        "{counters:?}"
    );
    assert!(counters.evicted > 5 && counters.expired > 3, "{counters:?}");
    assert!(counters.failed > 0, "{counters:?}");

    // The limit on descriptors is the whole process's: that case runs in one of its own.
    let script = "ulimit -n 32 && exec \"$0\" --nocapture --test-threads=1";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success() && out.contains("the door came back"),
        "{out}{err}"
    );
}

/// Runs in a process of its own, with 32 descriptors, and is client and server in turn.
fn out_of_descriptors() {
    // The canary: this thread is counted when it serves.
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
    let turns = |count: u32| {
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
    let mut hoard: Vec<_> = std::iter::from_fn(open).collect();
    drop(hoard.pop());
    let mut late = connect(address);
    late.write_all(get("/healthz").as_bytes()).unwrap();
    let (calls, counters) = turns(60);
    assert_eq!((counters.accepted, counters.accept_pauses), (0, 1));
    assert_eq!(RECORDS.load(Ordering::Relaxed), 1);
    assert_eq!(calls, 0);

    drop(hoard.pop());
    let (calls, counters) = turns(60);
    assert_eq!((calls, counters.accepted), (0, 1));

    // Who sits has to go for who comes.
    drop(hoard.pop());
    let mut next = connect(address);
    next.write_all(get("/healthz").as_bytes()).unwrap();
    let (calls, counters) = turns(60);
    assert_eq!((calls, counters.accepted, counters.evicted), (0, 2, 1));
    println!("the door came back");
}

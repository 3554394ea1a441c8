//! Endpoints that are replaced while a server serves: no connection ends, each answer is whole, and checks that are
//! in both sets keep their states.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant as Clock};

use harness::{GET, Harness, LAST, TIMEOUT, address_of, answer, localhost, rest};
use healthz::limits::CHECK_NAME_BYTES_MAX;
use healthz::server::{Config, EndpointsTooLarge, Runner, Server, spawn};
use healthz::{Check, EndpointSet, Instant, Limits, Responder};

const VERBOSE: &[u8] = b"GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
const END: &str = "healthz check passed\n";

fn passing(name: &str) -> Arc<Check> {
    Arc::new(Check::manual(name).initially_passing())
}

fn set(checks: &[Arc<Check>]) -> Arc<EndpointSet> {
    Arc::new(EndpointSet::kubernetes(checks).unwrap())
}

/// A set of one generation: its own check, and the `shared` ones between it and another of its own.
fn generation(number: usize, shared: &[Arc<Check>]) -> Arc<EndpointSet> {
    let [first, last] = ["first", "last"].map(|end| passing(&format!("{end}-{number}")));
    let checks: Vec<_> = [first]
        .iter()
        .chain(shared)
        .chain([&last])
        .cloned()
        .collect();
    set(&checks)
}

/// The generation of a verbose answer's body. Panics if the answer is not whole, or of two generations.
fn generation_of(body: &str, shared: usize) -> usize {
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines.len(), shared + 3, "{body}");
    let number = |line: &str, start: &str| -> usize {
        let number = line
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(" ok"));
        number.unwrap_or_else(|| panic!("{body}")).parse().unwrap()
    };
    let first = number(lines[0], "[+]first-");
    assert_eq!(number(lines[shared + 1], "[+]last-"), first, "{body}");
    first
}

fn server(set: Arc<EndpointSet>, checks_max: usize) -> Server<'static> {
    let config = Config {
        response_bytes_min: Responder::response_bytes_of(checks_max, &Limits::DEFAULT),
        ..Config::default()
    };
    Server::with_endpoint_set(Responder::new(&[]), set, localhost(), config)
}

/// A client that sends pipelined requests.
struct Pipelined {
    stream: TcpStream,
    text: String,
    /// Answers that have arrived whole.
    answers: usize,
}

impl Pipelined {
    /// Reads what has arrived, at most one buffer.
    fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the connection was closed"),
            Ok(size) => {
                let start = self.text.len().saturating_sub(END.len() - 1);
                self.text
                    .push_str(std::str::from_utf8(&buffer[..size]).unwrap());
                self.answers += self.text[start..].matches(END).count();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

/// The clients pipeline more requests than the sockets hold answers, so answers are half sent, and requests wait, at
/// each of the replacements.
#[test]
fn each_pipelined_answer_is_whole_and_of_one_set_and_never_older_than_the_one_before() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 600;
    const SHARED: usize = 100;
    const GENERATIONS: usize = 20;
    let shared: Vec<_> = (0..SHARED)
        .map(|number| passing(&format!("{number:0>100}")))
        .collect();
    let mut harness = Harness::of(server(generation(0, &shared), SHARED + 2));
    let mut clients = [(); CLIENTS].map(|()| {
        let mut stream = harness.connect();
        stream.write_all(&VERBOSE.repeat(REQUESTS)).unwrap();
        stream.set_nonblocking(true).unwrap();
        let text = String::new();
        Pipelined {
            stream,
            text,
            answers: 0,
        }
    });
    let started = Clock::now();
    let mut replaced = 0;
    while clients.iter().any(|client| client.answers < REQUESTS) {
        harness.advance();
        clients.iter_mut().for_each(Pipelined::read);
        if replaced + 1 < GENERATIONS
            && clients[0].answers * GENERATIONS > (replaced + 1) * REQUESTS
        {
            replaced += 1;
            let set = generation(replaced, &shared);
            harness.server.replace_endpoints(set, harness.now).unwrap();
        }
        assert!(started.elapsed() < 12 * TIMEOUT, "timed out");
    }
    for client in &clients {
        let bodies = client.text.split("\r\n\r\n").skip(1);
        let bodies = bodies.map(|part| &part[..part.find(END).unwrap() + END.len()]);
        let generations: Vec<usize> = bodies.map(|body| generation_of(body, SHARED)).collect();
        assert_eq!(generations.len(), REQUESTS);
        assert!(generations.is_sorted(), "{generations:?}");
        assert_eq!(generations[0], 0);
        // How much the sockets hold depends on the system.
        assert!(generations[REQUESTS - 1] > 0);
    }
    assert_eq!(harness.server.counters().evicted, 0);
    assert_eq!(harness.server.counters().open, CLIENTS as u64);
}

/// Sends requests to a spawned server, on one connection or on one each, until one that began after `is_done` has its
/// answer. Returns the generations of the answers.
fn probe(address: SocketAddr, keeps_alive: bool, is_done: &AtomicBool) -> Vec<usize> {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    };
    let mut stream = connect();
    let mut generations = Vec::new();
    loop {
        let is_last = is_done.load(Ordering::SeqCst);
        if !keeps_alive {
            stream = connect();
        }
        stream.write_all(VERBOSE).unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.ends_with(END) {
            let size = stream.read(&mut buffer).unwrap();
            assert!(size > 0, "closed after {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..size]).unwrap());
        }
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        generations.push(generation_of(body, 1));
        if is_last {
            return generations;
        }
    }
}

#[test]
fn a_thousand_replacements_from_another_thread_end_no_connection() {
    const REPLACEMENTS: usize = 1000;
    let shared = [Arc::new(Check::manual("shared"))];
    shared[0].pass();
    let server = server(generation(0, &shared), 3);
    let address = address_of(&server);
    let thread = spawn(server).unwrap();
    let handle = thread.handle();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = [true, true, false].map(|keeps_alive| {
            let is_done = &is_done;
            scope.spawn(move || probe(address, keeps_alive, is_done))
        });
        for number in 1..=REPLACEMENTS {
            handle
                .replace_endpoints(generation(number, &shared))
                .unwrap();
            if number % 10 == 0 {
                // The server answers at least once between some of them.
                let before = handle.counters().answered;
                let started = Clock::now();
                while handle.counters().answered < before + 2 || !handle.free_replaced_endpoints() {
                    assert!(started.elapsed() < TIMEOUT, "timed out");
                    thread::yield_now();
                }
            }
        }
        is_done.store(true, Ordering::SeqCst);
        for client in clients {
            let generations = client.join().unwrap();
            assert!(generations.is_sorted(), "{generations:?}");
            assert_eq!(generations.last(), Some(&REPLACEMENTS));
        }
    });
    // The unchanged check is still the same one.
    shared[0].fail("broken");
    assert!(get(address, "/healthz/shared").ends_with("internal server error: broken\n"));
    thread.stop();
    let counters = thread.join().unwrap();
    assert_eq!(
        (counters.refused, counters.evicted, counters.failed),
        (0, 0, 0)
    );
}

fn get(address: SocketAddr, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    rest(&mut stream)
}

#[test]
fn unchanged_checks_keep_their_states_and_removed_ones_are_gone() {
    let [kept, removed, added] =
        ["kept", "removed", "added"].map(|name| Arc::new(Check::manual(name)));
    kept.fail("for a reason");
    removed.pass();
    let mut harness = Harness::of(server(set(&[kept.clone(), removed.clone()]), 3));
    let mut open = harness.send(VERBOSE);
    let after = set(&[kept.clone(), added.clone()]);
    harness
        .server
        .replace_endpoints(after, harness.now)
        .unwrap();
    open.write_all(VERBOSE).unwrap();
    harness.work();
    let mut text = vec![0; 4096];
    let size = open.read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..size]);
    let failed = |name: &str| format!("[-]{name} failed: reason withheld\n");
    let before = format!("{}[+]removed ok\nhealthz check failed\n", failed("kept"));
    let now = format!(
        "{}{}healthz check failed\n",
        failed("kept"),
        failed("added")
    );
    let at = text.find(&before).unwrap_or_else(|| panic!("{text}"));
    assert!(
        text.ends_with(&now) && at < text.len() - now.len(),
        "{text}"
    );
    for (target, end) in [
        ("/healthz", "healthz check failed\n"),
        ("/healthz/kept", "error: for a reason\n"),
        ("/healthz/removed", "404 page not found\n"),
        ("/healthz/added", "error: not reported yet\n"),
    ] {
        let head = format!("GET {target} HTTP/1.0\r\n\r\n");
        let text = rest(&mut harness.send(head.as_bytes()));
        assert!(text.ends_with(end), "{text}");
    }
    // The server has dropped its reference to the removed check.
    assert_eq!(Arc::strong_count(&removed), 1);
}

#[test]
fn heartbeats_without_a_beat_begin_at_the_replacement() {
    let limit = Duration::from_secs(10);
    let old = Arc::new(Check::heartbeat("old", limit));
    let mut harness = Harness::of(server(set(std::slice::from_ref(&old)), 2));
    harness.pass(Duration::from_secs(9));
    let new = Arc::new(Check::heartbeat("new", limit));
    let both = set(&[old.clone(), new.clone()]);
    harness.server.replace_endpoints(both, harness.now).unwrap();
    // The limit of the old one is not extended.
    harness.pass(Duration::from_secs(1));
    assert!(!old.passes(harness.now) && new.passes(harness.now));
    harness.pass(Duration::from_secs(8));
    assert!(new.passes(harness.now));
    harness.pass(Duration::from_secs(1));
    assert!(!new.passes(harness.now));
}

#[test]
fn a_set_that_does_not_fit_is_refused_and_the_one_before_stays() {
    let mut harness = Harness::of(server(set(&[passing("a")]), 1));
    let long = |number: usize| {
        let name = format!("{number:0>width$}", width = CHECK_NAME_BYTES_MAX);
        Arc::new(Check::manual(&name).group(&name).initially_passing())
    };
    let path = format!("/{}", "p".repeat(CHECK_NAME_BYTES_MAX));
    let largest = |checks: usize| {
        let checks: Vec<_> = (0..checks).map(long).collect();
        Arc::new(EndpointSet::new([(path.as_str(), checks)]).unwrap())
    };
    let [reserved, needed] =
        [1, 2].map(|count| Responder::response_bytes_of(count, &Limits::DEFAULT));
    let error = harness.server.replace_endpoints(largest(2), harness.now);
    assert_eq!(error, Err(EndpointsTooLarge { needed, reserved }));
    assert!(error.unwrap_err().to_string().contains(&needed.to_string()));
    harness.assert_probe_is_answered();
    // What was reserved for one check is exactly enough for the longest one.
    harness
        .server
        .replace_endpoints(largest(1), harness.now)
        .unwrap();
    let text = rest(&mut harness.send(LAST));
    assert!(text.ends_with("404 page not found\n"), "{text}");

    // Without a larger `response_bytes_min`, what the first set needs is reserved.
    let responder = Responder::new(&[]);
    let two = largest(2);
    let server = Server::with_endpoint_set(responder, two.clone(), localhost(), Config::default());
    let runner = Runner::new(server).unwrap();
    let handle = runner.handle();
    let reserved = responder
        .with_endpoint_set(&two)
        .response_bytes_max(&Limits::DEFAULT);
    assert_eq!(reserved, needed);
    let needed = Responder::response_bytes_of(3, &Limits::DEFAULT);
    let error = handle.replace_endpoints(largest(3));
    assert_eq!(error, Err(EndpointsTooLarge { needed, reserved }));
    assert!(handle.free_replaced_endpoints(), "the set was handed over");
    assert_eq!(handle.replace_endpoints(largest(2)), Ok(()));
}

/// A set, and a weak reference to it, from which a test reads whether the set still exists.
fn watched(name: &str) -> (Arc<EndpointSet>, Weak<EndpointSet>) {
    let set = set(&[passing(name)]);
    let weak = Arc::downgrade(&set);
    (set, weak)
}

#[test]
fn a_set_is_freed_by_the_thread_that_replaces_it_and_never_by_the_server() {
    let [first, second, third, fourth] = ["a", "b", "c", "d"].map(watched);
    let is_alive = |sets: [&Weak<EndpointSet>; 4]| sets.map(|set| set.strong_count() > 0);
    let weak = [&first.1, &second.1, &third.1, &fourth.1];
    let runner = Runner::new(server(first.0, 1)).unwrap();
    let handle = runner.handle();
    let poll = || runner.poll_once(Some(Duration::ZERO)).unwrap();
    assert!(handle.free_replaced_endpoints());

    // Two replacements before the server's next turn: the server never uses the first of them.
    handle.replace_endpoints(second.0).unwrap();
    assert!(!handle.free_replaced_endpoints(), "not taken yet");
    handle.replace_endpoints(third.0).unwrap();
    assert_eq!(is_alive(weak), [true, false, true, true]);
    poll();
    // The server no longer uses the first set, but has not freed it.
    assert_eq!(is_alive(weak), [true, false, true, true]);
    assert!(handle.free_replaced_endpoints());
    assert_eq!(is_alive(weak), [false, false, true, true]);

    // A replacement also frees the set that the server no longer uses.
    handle.replace_endpoints(fourth.0).unwrap();
    poll();
    assert_eq!(is_alive(weak), [false, false, true, true]);
    let (fifth, fifth_weak) = watched("e");
    handle.replace_endpoints(fifth).unwrap();
    assert_eq!(is_alive(weak), [false, false, false, true]);

    // At the end all sets are freed, also one that the server never used.
    drop(runner);
    assert!(!handle.free_replaced_endpoints());
    drop(handle);
    assert_eq!(is_alive(weak), [false; 4]);
    assert_eq!(fifth_weak.strong_count(), 0);
}

#[test]
fn the_allowed_hosts_stay_when_the_endpoints_are_replaced() {
    let responder = Responder::new(&harness::ENDPOINTS).allow_hosts(&["a"]);
    let server = Server::new(responder, localhost(), Config::default());
    let mut harness = Harness::of(server);
    let mut open = harness.idle();
    let disk = Arc::new(Check::manual("disk").initially_passing());
    // The first endpoints of this server are not of an `EndpointSet`.
    harness
        .server
        .replace_endpoints(set(std::slice::from_ref(&disk)), harness.now)
        .unwrap();
    disk.pass();
    open.write_all(GET).unwrap();
    harness.work();
    answer(&mut open);
    let foreign = b"GET /healthz HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
    let text = rest(&mut harness.send(foreign));
    assert!(text.starts_with("HTTP/1.1 421 "), "{text}");
    let one = b"GET /healthz/disk HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(rest(&mut harness.send(one)).ends_with("\r\n\r\nok"));
}

#[test]
fn a_replacement_before_the_first_turn_begins_its_heartbeats() {
    let new = Arc::new(Check::heartbeat("new", Duration::from_secs(1)));
    let mut server = server(set(&[]), 1);
    server
        .replace_endpoints(set(std::slice::from_ref(&new)), Instant::from_millis(5))
        .unwrap();
    assert!(new.passes(Instant::from_millis(1_004)) && !new.passes(Instant::from_millis(1_005)));
}

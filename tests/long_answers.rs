//! Answers that are longer than the shared buffer: they are sent from one of two larger buffers, arrive whole and in
//! order, and delay no other connection, however slowly their clients read.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use harness::{ENDPOINTS, GET, Harness, LAST, answer, listening};
use healthz::answer::{MetricType, Metrics, MetricsWriter};
use healthz::server::{Address, Config, Listeners, Memory, Server, Slot};
use healthz::{Check, EndpointSet, Limits, Responder};

/// More than the buffers of a Unix socket hold.
const TEXT_BYTES: usize = 2_000_000;
static TEXT: [u8; TEXT_BYTES] = [b'x'; TEXT_BYTES];
/// The text, and the names and marks around it.
const METRICS: Metrics = Metrics::new().and(long_text, TEXT_BYTES + 200);

const LONG: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST_LONG: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn long_text(text: &mut MetricsWriter<'_, '_>) {
    let help = std::str::from_utf8(&TEXT).unwrap();
    text.family("filler", MetricType::Gauge, help);
    text.family("end", MetricType::Gauge, "The end.");
    text.sample("end", &[], 1);
}

/// A server on a Unix socket, with `/metrics` of two million bytes.
struct Scraped {
    harness: Harness,
    path: PathBuf,
}

impl Scraped {
    fn new(name: &str) -> Self {
        let name = format!("healthz-long-{name}-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listeners = listening(&Address::Unix(path.clone()));
        let responder = Responder::new(&ENDPOINTS).with_metrics(METRICS);
        let harness = Harness::on(responder, listeners, Config::default());
        Scraped { harness, path }
    }

    /// A client whose request has arrived, and that has read nothing yet.
    fn send(&mut self, request: &[u8]) -> Client {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.write_all(request).unwrap();
        self.harness.work();
        stream.set_nonblocking(true).unwrap();
        Client {
            stream,
            bytes: Vec::new(),
        }
    }

    /// Reads one answer. `None` if the connection ends before.
    fn read(&mut self, client: &mut Client) -> Option<Answer> {
        loop {
            if let Some(answer) = client.take(true) {
                return Some(answer);
            }
            match client.read() {
                Some(0) => return None,
                Some(_) => {}
                None => drop(self.harness.work()),
            }
        }
    }

    fn is_ended(&mut self, client: &mut Client) -> bool {
        self.harness.work();
        client.bytes.is_empty() && client.read() == Some(0)
    }
}

struct Client {
    stream: UnixStream,
    bytes: Vec<u8>,
}

struct Answer {
    head: String,
    length: usize,
    body: Vec<u8>,
}

impl Answer {
    fn assert_is_ok(&self) {
        assert!(self.head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(self.body, b"ok");
    }

    fn assert_is_long(&self) {
        assert!(
            self.head.starts_with("HTTP/1.1 200 OK\r\n"),
            "{}",
            self.head
        );
        let text = std::str::from_utf8(&self.body).unwrap();
        let filler = text.find("# HELP filler xxx").unwrap();
        let (_, rest) = text.split_at(filler + "# HELP filler ".len());
        let (filler, rest) = rest.split_once('\n').unwrap();
        assert!(filler.len() == TEXT_BYTES && filler.bytes().all(|byte| byte == b'x'));
        assert!(rest.ends_with("end 1\n"), "{rest}");
    }
}

impl Client {
    /// Reads once: the number of bytes, or `None` if there are none yet.
    fn read(&mut self) -> Option<usize> {
        let mut bytes = [0; 65_536];
        match self.stream.read(&mut bytes) {
            Ok(size) => {
                self.bytes.extend_from_slice(&bytes[..size]);
                Some(size)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(0),
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes an answer from the bytes that were read.
    fn take(&mut self, has_body: bool) -> Option<Answer> {
        let head = self.bytes.windows(4).take(2000);
        let head = head.clone().position(|window| window == b"\r\n\r\n")? + 4;
        let text = String::from_utf8(self.bytes[..head].to_vec()).unwrap();
        let length = text.split_once("Content-Length: ").unwrap().1;
        let length = length.split('\r').next().unwrap().parse().unwrap();
        let end = head + if has_body { length } else { 0 };
        if self.bytes.len() < end {
            return None;
        }
        let body = self.bytes[head..end].to_vec();
        self.bytes.drain(..end);
        Some(Answer {
            head: text,
            length,
            body,
        })
    }
}

#[test]
fn pipelined_answers_before_and_after_a_long_one_arrive_in_order() {
    let mut server = Scraped::new("pipelined");
    let requests = [GET, LONG, GET, GET, LONG, LONG, LAST].concat();
    let mut client = server.send(&requests);
    for is_long in [false, true, false, false, true, true, false] {
        let answer = server.read(&mut client).unwrap();
        match is_long {
            true => answer.assert_is_long(),
            false => answer.assert_is_ok(),
        }
    }
    assert!(server.is_ended(&mut client));
    let counters = server.harness.server.counters();
    assert_eq!((counters.answered, counters.evicted), (7, 0));
}

#[test]
fn a_long_last_answer_arrives_whole_and_then_the_end() {
    let mut server = Scraped::new("last");
    let mut client = server.send(LAST_LONG);
    let answer = server.read(&mut client).unwrap();
    answer.assert_is_long();
    assert!(answer.head.contains("\r\nConnection: close\r\n"));
    assert!(server.is_ended(&mut client));
    drop(client);
    server.harness.work();
    assert_eq!(server.harness.server.counters().open, 0);
}

/// Later bytes of the same client must not be answered, and must not cause a reset when the server closes.
#[test]
fn a_long_last_answer_arrives_whole_although_the_client_sends_more() {
    let mut server = Scraped::new("last-and-more");
    let mut client = server.send(&[LAST_LONG, GET].concat());
    client.stream.write_all(GET).unwrap();
    server.read(&mut client).unwrap().assert_is_long();
    assert!(server.is_ended(&mut client));
    assert_eq!(server.harness.server.counters().answered, 1);
}

#[test]
fn head_of_a_long_answer_has_the_length_of_get_and_keeps_the_connection() {
    let mut server = Scraped::new("head");
    // The first answer adds a line to the text of later ones: the counter of answers.
    let mut client = server.send(LONG);
    server.read(&mut client).unwrap().assert_is_long();
    let request = b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    client.stream.write_all(request).unwrap();
    server.harness.work();
    client.read().unwrap();
    let head = client.take(false).unwrap();
    assert!(client.bytes.is_empty());
    client.stream.write_all(LONG).unwrap();
    let got = server.read(&mut client).unwrap();
    got.assert_is_long();
    assert_eq!(head.length, got.length);
    assert_eq!(head.head, got.head);
}

#[test]
fn probes_are_answered_while_two_clients_do_not_read_their_long_answers() {
    let mut server = Scraped::new("beside");
    let mut slow = [LONG, LONG].map(|request| server.send(request));
    for _ in 0..100 {
        let mut probe = server.send(GET);
        probe.stream.set_nonblocking(false).unwrap();
        assert!(answer(&mut probe.stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    for client in &mut slow {
        server.read(client).unwrap().assert_is_long();
    }
    assert_eq!(server.harness.server.counters().evicted, 0);
}

/// Without this, two clients that do not read would keep every scraper out until their deadline.
#[test]
fn a_third_long_answer_evicts_the_client_that_has_read_nothing_for_longest() {
    let mut server = Scraped::new("third");
    let mut first = server.send(LONG);
    server.harness.pass(std::time::Duration::from_millis(5));
    let mut second = server.send(LONG);
    server.harness.pass(std::time::Duration::from_millis(5));
    // The first one reads a little, so the second one has waited longer.
    while first.read().is_some() {}
    server.harness.work();
    server.harness.pass(std::time::Duration::from_millis(5));
    let mut third = server.send(LONG);
    assert_eq!(server.harness.server.counters().evicted, 1);
    assert!(server.read(&mut second).is_none());
    for client in [&mut first, &mut third] {
        server.read(client).unwrap().assert_is_long();
    }
    // Both buffers are free again.
    let mut clients = [LONG, LONG].map(|request| server.send(request));
    for client in &mut clients {
        server.read(client).unwrap().assert_is_long();
    }
    assert_eq!(server.harness.server.counters().evicted, 1);
}

#[test]
fn clients_that_leave_in_the_middle_of_a_long_answer_leave_no_buffer_in_use() {
    let mut server = Scraped::new("leaving");
    for _ in 0..5 {
        let clients = [LONG, LAST_LONG].map(|request| server.send(request));
        drop(clients);
        server.harness.work();
        assert_eq!(server.harness.server.counters().open, 0);
    }
    assert_eq!(server.harness.server.counters().evicted, 0);
    let mut client = server.send(LONG);
    server.read(&mut client).unwrap().assert_is_long();
}

#[test]
fn a_client_that_does_not_read_its_long_answer_has_the_idle_timeout() {
    let mut server = Scraped::new("timeout");
    let mut client = server.send(LONG);
    let timeout = Limits::DEFAULT.idle_duration;
    server
        .harness
        .pass(timeout - std::time::Duration::from_millis(1));
    assert_eq!(server.harness.server.counters().open, 1);
    // When a part of the answer is read, the timeout begins again.
    while client.read().is_some() {}
    server.harness.work();
    server
        .harness
        .pass(timeout - std::time::Duration::from_millis(1));
    assert_eq!(server.harness.server.counters().expired, 0);
    server.harness.pass(std::time::Duration::from_millis(1));
    assert_eq!(server.harness.server.counters().expired, 1);
    assert!(server.read(&mut client).is_none());
}

#[test]
fn a_stopped_server_sends_the_rest_of_a_long_answer_and_closes() {
    let mut server = Scraped::new("stop");
    let mut clients = [LONG, LAST_LONG].map(|request| server.send(request));
    let harness = &mut server.harness;
    harness.server.stop(harness.poll.registry(), harness.now);
    assert!(!harness.server.is_finished());
    for client in &mut clients {
        server.read(client).unwrap().assert_is_long();
        assert!(server.is_ended(client));
    }
    drop(clients);
    server.harness.work();
    assert!(server.harness.server.is_finished());
}

#[test]
fn a_request_that_waits_when_the_server_stops_gets_its_long_answer_as_the_last() {
    let mut server = Scraped::new("stop-waiting");
    let mut stream = UnixStream::connect(&server.path).unwrap();
    stream.write_all(LONG).unwrap();
    let harness = &mut server.harness;
    harness.server.stop(harness.poll.registry(), harness.now);
    stream.set_nonblocking(true).unwrap();
    let mut client = Client {
        stream,
        bytes: Vec::new(),
    };
    let answer = server.read(&mut client).unwrap();
    answer.assert_is_long();
    assert!(answer.head.contains("\r\nConnection: close\r\n"));
    assert!(server.is_ended(&mut client));
}

#[test]
fn the_memory_for_long_answers_does_not_grow_with_the_number_of_connections() {
    let without = Responder::new(&ENDPOINTS);
    let with = without.with_metrics(METRICS);
    let long = Config::default().long_response_bytes(&with);
    // The metrics of the checks and of the server.
    assert!((TEXT_BYTES + 8 * 1024..TEXT_BYTES + 64 * 1024).contains(&long));
    assert_eq!(Config::default().long_response_bytes(&without), 0);
    for connections in [1, 64, 1000] {
        let config = Config {
            connections,
            ..Config::default()
        };
        let more = config.memory_bytes_max(&with) - config.memory_bytes_max(&without);
        assert_eq!(more, 2 * long);
    }
}

#[test]
fn a_server_in_its_callers_memory_has_the_long_buffers_there() {
    let responder = Responder::new(&ENDPOINTS).with_metrics(METRICS);
    let config = Config {
        connections: 2,
        ..Config::default()
    };
    let mut slots = [const { Slot::new() }; 2];
    let mut bytes = vec![0; config.buffer_bytes(&responder)];
    let mut heads = healthz::http::HeadCache::new();
    let memory = Memory {
        slots: &mut slots,
        bytes: &mut bytes,
        heads: &mut heads,
    };
    let name = format!("healthz-long-memory-{}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listeners = listening(&Address::Unix(path.clone()));
    let mut server = Server::with_memory(responder, listeners, Limits::DEFAULT, memory);
    let mut poll = mio::Poll::new().unwrap();
    server.register(poll.registry(), mio::Token(0)).unwrap();
    let mut clients = [LONG, LAST_LONG].map(|request| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(request).unwrap();
        stream.set_nonblocking(true).unwrap();
        Client {
            stream,
            bytes: Vec::new(),
        }
    });
    let mut events = mio::Events::with_capacity(8);
    let mut answers = 0;
    while answers < 2 {
        let now = healthz::Instant::from_millis(1);
        let timeout = std::time::Duration::from_millis(1);
        poll.poll(&mut events, Some(timeout)).unwrap();
        events
            .iter()
            .for_each(|event| server.handle(poll.registry(), event, now));
        server.advance(poll.registry(), now);
        for client in &mut clients {
            while client.read().is_some_and(|size| size > 0) {}
            if let Some(answer) = client.take(true) {
                answer.assert_is_long();
                answers += 1;
            }
        }
    }
}

#[test]
fn endpoints_whose_metrics_do_not_fit_are_refused() {
    let set = |names: &[&str]| {
        let checks = names.iter().map(|name| Arc::new(Check::manual(name)));
        Arc::new(EndpointSet::kubernetes(&checks.collect::<Vec<_>>()).unwrap())
    };
    let names = |name: &dyn Fn(usize) -> String| (0..20).map(name).collect::<Vec<_>>();
    let set_of = |names: &[String]| set(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let small = set(&["a"]);
    let large = set_of(&names(&|n| n.to_string()));
    let responder = Responder::new(&[]).with_metrics(Metrics::new());
    let limits = Limits::DEFAULT;
    let long = |set| Config::default().long_response_bytes(&responder.with_endpoint_set(set));
    let (reserved, needed) = (long(&small), long(&large));
    assert!(reserved < needed);
    let mut config = Config {
        response_bytes_min: Responder::response_bytes_of(20, &limits),
        ..Config::default()
    };
    let server = |config| {
        let listeners = Listeners::new();
        Server::with_endpoint_set(responder, Arc::clone(&small), listeners, config)
    };
    let now = healthz::Instant::from_millis(1);
    let error = server(config).replace_endpoints(Arc::clone(&large), now);
    let error = error.unwrap_err();
    assert_eq!((error.needed, error.reserved), (needed, reserved));
    config.long_response_bytes_min = needed;
    server(config)
        .replace_endpoints(Arc::clone(&large), now)
        .unwrap();
    config.long_response_bytes_min = config.long_response_bytes_of(&responder, 20);
    assert!(config.long_response_bytes_min > needed, "for longer names");
    server(config)
        .replace_endpoints(Arc::clone(&large), now)
        .unwrap();
    let longest = set_of(&names(&|n| format!("{n:02}{}", "x".repeat(125))));
    assert_eq!(
        long(&longest),
        config.long_response_bytes_of(&responder, 20)
    );
    server(config)
        .replace_endpoints(Arc::clone(&longest), now)
        .unwrap();
}

//! An embedder's own paths: which requests they get, and what their answers may be.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harness::{ENDPOINTS, Harness, localhost, rest};
use healthz::answer::{Metrics, Paths, not_found};
use healthz::http::{Answer, BufferFull, Fields, Request, StatusCode, Writer};
use healthz::server::{Address, Config, ListenerPaths, Listeners, Server, spawn};
use healthz::{Check, EndpointSet, Instant, Limits, Responder};

/// `/own` has a body of this many bytes. Every request that healthz passes to these paths is counted.
#[derive(Clone, Copy)]
struct Own {
    bytes: usize,
    requests: &'static AtomicU64,
}

impl Own {
    fn new(bytes: usize) -> Self {
        Own {
            bytes,
            requests: Box::leak(Box::default()),
        }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Paths for Own {
    fn respond(
        &self,
        _: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        let answer = match request.target().path() {
            b"/own" => writer.rendered(Fields::Text, |text| {
                (0..self.bytes).for_each(|_| text.push(b"o"));
                StatusCode::OK
            }),
            _ => not_found(writer),
        }?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    fn body_bytes_max(&self) -> usize {
        self.bytes
    }
}

fn harness(own: Own) -> Harness<Own> {
    let responder = Responder::new(&ENDPOINTS).with_paths(own);
    Harness::on(responder, localhost(), Config::default())
}

/// Everything that is sent in reply to `request`, a method and a target.
fn get(harness: &mut Harness<Own>, request: &str) -> String {
    let head = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    rest(&mut harness.send(head.as_bytes()))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn own_paths_answer_what_healthz_does_not() {
    let own = Own::new(3);
    let mut harness = harness(own);
    for (request, expected) in [
        ("GET /healthz", "200"),
        ("GET /healthz/ping", "200"),
        ("DELETE /healthz", "405"),
        ("OPTIONS /", "200"),
        ("OPTIONS *", "200"),
        ("GET //own", "307"),
        ("GET /own/../healthz", "307"),
    ] {
        assert_eq!(status(&get(&mut harness, request)), expected, "{request}");
    }
    assert_eq!(own.requests(), 0);
    let got = get(&mut harness, "GET /own?a=b");
    assert_eq!((status(&got), body(&got)), ("200", "ooo"));
    let head = get(&mut harness, "HEAD /own");
    assert_eq!(body(&head), "");
    assert!(head.contains("\r\nContent-Length: 3\r\n"), "{head}");
    for request in ["DELETE /own", "GET /"] {
        get(&mut harness, request);
    }
    for missing in ["GET /nothing", "GET /healthz/nothing", "GET /metrics"] {
        let got = get(&mut harness, missing);
        assert_eq!((status(&got), body(&got)), ("404", "404 page not found\n"));
    }
    assert_eq!(own.requests(), 7);
    assert_eq!(harness.server.counters().answered, 14);
}

#[test]
fn hosts_and_listeners_are_checked_before_own_paths() {
    let own = Own::new(3);
    let responder = Responder::new(&ENDPOINTS).with_paths(own);
    let mut listeners = Listeners::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let paths = ListenerPaths::new(&["/livez"]).unwrap();
    listeners.bind_for(&any, &paths).unwrap();
    let mut harness = Harness::on(responder, listeners, Config::default());
    assert_eq!(status(&get(&mut harness, "GET /own")), "404");
    let responder = responder.allow_hosts(&["b"]);
    let mut harness = Harness::on(responder, localhost(), Config::default());
    assert_eq!(status(&get(&mut harness, "GET /own")), "421");
    assert_eq!(own.requests(), 0);
}

#[test]
fn an_own_answer_that_does_not_fit_in_the_shared_buffer_takes_a_larger_one() {
    let limits = Limits::DEFAULT;
    let without = Responder::new(&ENDPOINTS);
    let config = Config::default();
    let small = without.with_paths(Own::new(1000));
    assert_eq!(small.long_response_bytes_max(&limits), 0);
    assert_eq!(config.buffer_bytes(&small), config.buffer_bytes(&without));
    let own = Own::new(300_000);
    let large = without.with_paths(own);
    let long = large.long_response_bytes_max(&limits);
    assert!((300_000..301_000).contains(&long), "{long}");
    let more = config.buffer_bytes(&large) - config.buffer_bytes(&without);
    assert_eq!(more, 2 * long);
    let mut harness = harness(own);
    for _ in 0..3 {
        let mut client = harness.send(b"GET /own HTTP/1.0\r\n\r\n");
        client.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        loop {
            match client.read_to_end(&mut got) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => drop(harness.work()),
                result => {
                    result.unwrap();
                    break;
                }
            }
        }
        let text = String::from_utf8(got).unwrap();
        assert_eq!(body(&text).len(), 300_000);
    }
    assert_eq!(own.requests(), 3, "each request is counted once");
}

#[test]
fn an_own_answer_longer_than_its_declared_maximum_becomes_a_500() {
    #[derive(Clone, Copy)]
    struct TooLong;

    impl Paths for TooLong {
        fn respond(
            &self,
            _: Instant,
            _: &Request<'_>,
            writer: Writer<'_>,
        ) -> Result<Answer, BufferFull> {
            writer.fixed(StatusCode::OK, Fields::Text, &[b'x'; 100_000])
        }

        fn body_bytes_max(&self) -> usize {
            90_000
        }
    }

    let responder = Responder::new(&ENDPOINTS).with_paths(TooLong);
    let mut harness = Harness::on(responder, localhost(), Config::default());
    let got = rest(&mut harness.send(b"GET /x HTTP/1.0\r\n\r\n"));
    assert_eq!(status(&got), "500");
    harness.assert_probe_is_answered();
}

/// The paths belong to the server, not to its endpoints.
#[test]
fn own_paths_stay_when_the_endpoints_are_replaced() {
    let set = |name| {
        let checks = [Arc::new(Check::manual(name).initially_passing())];
        Arc::new(EndpointSet::kubernetes(&checks).unwrap())
    };
    let own = Own::new(300_000);
    let responder = Responder::new(&[])
        .with_paths(own)
        .with_metrics(Metrics::new());
    let listeners = localhost();
    let Some(Address::Tcp(address)) = listeners.local_addresses().next() else {
        panic!("not on TCP");
    };
    let server = Server::with_endpoint_set(responder, set("a"), listeners, Config::default());
    let thread = spawn(server).unwrap();
    let get = |address: SocketAddr, path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(harness::TIMEOUT)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        rest(&mut stream)
    };
    assert_eq!(body(&get(address, "/own")).len(), 300_000);
    assert_eq!(body(&get(address, "/healthz/a")), "ok");
    thread.handle().replace_endpoints(set("b")).unwrap();
    while !thread.handle().free_replaced_endpoints() {
        std::thread::yield_now();
    }
    assert_eq!(body(&get(address, "/healthz/b")), "ok");
    assert_eq!(body(&get(address, "/own")).len(), 300_000);
    assert!(body(&get(address, "/metrics")).contains("name=\"b\""));
    assert_eq!(status(&get(address, "/healthz/a")), "404");
    thread.stop();
    thread.join().unwrap();
    assert_eq!(own.requests(), 3);
}

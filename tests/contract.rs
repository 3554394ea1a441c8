//! The contract of every answer: which methods are answered with the state of the check, what HEAD gets, and that no
//! answer is stale. Uses a `Connection` alone, without sockets.
#![cfg(test)]

use std::time::Duration;

use healthz::http::{Connection, Context, Date, HeadCache, Next};
use healthz::{Check, Endpoint, Instant, Limits, Responder};

/// A server without sockets, with a clock that the test sets.
struct TestServer<'a> {
    responder: Responder<'a>,
    cache: HeadCache,
    date: Date,
    now: Instant,
}

impl<'a> TestServer<'a> {
    fn new(endpoints: &'a [Endpoint<'a>]) -> Self {
        TestServer {
            responder: Responder::new(endpoints),
            cache: HeadCache::new(),
            date: Date::from_unix_seconds(0),
            now: Instant::ZERO,
        }
    }

    /// Everything that is sent in reply to `request` on a new connection.
    fn exchange(&mut self, request: &str) -> String {
        let mut connection = Connection::new(self.now);
        self.exchange_on(&mut connection, request)
    }

    fn exchange_on(&mut self, connection: &mut Connection, request: &str) -> String {
        let TestServer {
            responder,
            cache,
            date,
            now,
        } = self;
        let context = Context {
            now: *now,
            date: Some(date),
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 0,
        };
        let mut tx = vec![0; responder.response_bytes_max(&Limits::DEFAULT)];
        let rx = request.as_bytes();
        let progress =
            connection.receive_cached(&context, cache, rx, &mut tx, &mut |request, writer| {
                responder.respond(*now, request, writer)
            });
        tx.truncate(progress.written);
        String::from_utf8(tx).unwrap()
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn the_methods_that_405_allows_get_the_state_of_the_check_and_no_others_do() {
    let disk = Check::manual("disk");
    let checks = [&disk];
    let endpoints = [Endpoint::new("/healthz", &checks)];
    let mut server = TestServer::new(&endpoints);
    for target in [
        "/healthz",
        "/healthz?verbose",
        "/healthz/disk",
        "http://a/healthz",
    ] {
        let send = |server: &mut TestServer<'_>, method: &str| {
            server.exchange(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        };
        for method in ["PUT", "DELETE", "PATCH", "TRACE", "get", "GETS", "PROPFIND"] {
            disk.pass();
            let refused = send(&mut server, method);
            assert_eq!(status(&refused), "405", "{refused}");
            let allow = refused.split_once("\r\nAllow: ").unwrap().1;
            let allow = allow.split_once("\r\n").unwrap().0;
            assert_eq!(allow, "GET, HEAD, OPTIONS, POST");
            for method in allow.split(", ") {
                disk.pass();
                assert_eq!(
                    status(&send(&mut server, method)),
                    "200",
                    "{method} {target}"
                );
                disk.fail("full");
                assert_eq!(
                    status(&send(&mut server, method)),
                    "500",
                    "{method} {target}"
                );
            }
        }
    }
}

#[test]
fn head_gets_the_fields_of_get_and_no_body_for_every_status() {
    let disk = Check::manual("disk");
    let checks = [&disk];
    let endpoints = [Endpoint::new("/healthz", &checks)];
    let long = format!("/{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    let large = format!("/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9000));
    for (rest, expected) in [
        ("/healthz HTTP/1.1\r\nHost: a\r\n\r\n", "500"),
        ("/healthz/disk HTTP/1.1\r\nHost: a\r\n\r\n", "500"),
        ("/healthz?exclude=disk HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
        ("/healthz?exclude=disk&verbose HTTP/1.0\r\n\r\n", "200"),
        ("//healthz HTTP/1.1\r\nHost: a\r\n\r\n", "307"),
        ("/nope HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("/healthz HTTP/1.1\r\n\r\n", "400"),
        ("/healthz%2 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("/healthz HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", "417"),
        (
            "/healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n",
            "501",
        ),
        ("/healthz HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
        (&long, "414"),
        (&large, "431"),
    ] {
        let mut server = TestServer::new(&endpoints);
        let got = server.exchange(&format!("GET {rest}"));
        let head = server.exchange(&format!("HEAD {rest}"));
        assert_eq!(status(&got), expected, "{got}");
        let (fields, body) = got.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, format!("{fields}\r\n\r\n"), "{rest}");
        let length = format!("\r\nContent-Length: {}\r\n", body.len());
        assert!(got.contains(&length), "{got}");
    }
}

#[test]
fn a_change_of_a_check_or_of_the_time_shows_in_the_next_answer() {
    const GET: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let disk = Check::manual("disk");
    let beats = Check::heartbeat("loop", Duration::from_millis(10));
    let checks = [&disk, &beats];
    let endpoints = [Endpoint::new("/healthz", &checks)];
    let mut server = TestServer::new(&endpoints);
    let mut connection = Connection::new(server.now);
    for round in 0..100 {
        let mut next = |server: &mut TestServer<'_>| {
            let answer = server.exchange_on(&mut connection, GET);
            let second = round % 60;
            let date = format!("Date: Thu, 01 Jan 1970 00:0{}:{second:02} GMT", round / 60);
            assert!(answer.contains(&date), "{answer}");
            status(&answer).to_owned()
        };
        server.date = Date::from_unix_seconds(round);
        disk.pass();
        beats.beat(server.now);
        assert_eq!(next(&mut server), "200");
        disk.fail("full");
        assert_eq!(next(&mut server), "500");
        disk.pass();
        assert_eq!(next(&mut server), "200");
        server.now = server.now.saturating_add(Duration::from_millis(9));
        assert_eq!(next(&mut server), "200");
        server.now = server.now.saturating_add(Duration::from_millis(1));
        assert_eq!(next(&mut server), "500");
    }
}

/// A caller with few long buffers begins with a short one for every connection.
#[test]
fn an_answer_that_does_not_fit_is_written_when_there_is_a_longer_buffer() {
    let endpoints = [Endpoint::new("/healthz", &[])];
    let responder = Responder::new(&endpoints);
    let limits = Limits::DEFAULT;
    let rx = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let whole = TestServer::new(&endpoints).exchange(std::str::from_utf8(rx).unwrap());
    let date = Date::from_unix_seconds(0);
    let receive = |connection: &mut Connection, tx_bytes: usize, tx_bytes_max| {
        let context = Context {
            now: Instant::ZERO,
            date: Some(&date),
            limits: &limits,
            is_last: false,
            tx_bytes_max,
        };
        let mut tx = vec![0; tx_bytes];
        let progress = connection.receive(&context, rx, &mut tx, &mut |request, writer| {
            responder.respond(Instant::ZERO, request, writer)
        });
        tx.truncate(progress.written);
        (progress, String::from_utf8(tx).unwrap())
    };
    for tx_bytes in 0..whole.len() {
        let mut connection = Connection::new(Instant::ZERO);
        let before = (connection.phase(), connection.deadline(&limits));
        let (progress, text) = receive(&mut connection, tx_bytes, whole.len());
        assert_eq!((progress.next, text.as_str()), (Next::Write, ""));
        assert_eq!((progress.consumed, progress.answered), (0, 0));
        assert_eq!(before, (connection.phase(), connection.deadline(&limits)));
        let (progress, text) = receive(&mut connection, whole.len(), whole.len());
        assert_eq!((progress.next, &text), (Next::Read, &whole));
        assert_eq!(progress.consumed, rx.len());
        // Without a longer one, the connection ends.
        let mut connection = Connection::new(Instant::ZERO);
        let (progress, text) = receive(&mut connection, tx_bytes, tx_bytes);
        assert!(matches!(progress.next, Next::Close { .. }));
        assert!(text.is_empty() || status(&text) == "500", "{text}");
    }
}

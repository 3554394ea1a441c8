//! Reads that fill the receive buffer: how many requests are answered at once, and that no later request is
//! lost.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::Write;
use std::net::TcpStream;

use harness::{GET, Harness, LAST, answer, rest};
use healthz::Limits;
use healthz::server::Config;

/// A server with a receive buffer of 512 bytes, and a connection in its table.
fn with_a_small_buffer() -> (Harness, TcpStream) {
    let limits = Limits {
        request_head_bytes: 512,
        ..Limits::DEFAULT
    };
    let mut harness = Harness::with(Config {
        limits,
        ..Config::default()
    });
    let stream = harness.idle();
    (harness, stream)
}

/// `head` with one more header field, which makes it `size` bytes long.
fn padded(head: &[u8], size: usize) -> Vec<u8> {
    let mut request = head.strip_suffix(b"\r\n").unwrap().to_vec();
    request.extend(b"X: ");
    request.resize(size - 4, b'x');
    request.extend(b"\r\n\r\n");
    request
}

/// The server must read again after a full read: epoll does not report the remaining requests again.
#[test]
fn requests_after_those_that_fill_the_buffer_exactly_are_answered() {
    let (mut harness, mut stream) = with_a_small_buffer();
    stream.write_all(&padded(GET, 256).repeat(3)).unwrap();
    harness.work();
    for _ in 0..3 {
        answer(&mut stream);
    }
}

/// The server must drain the input before it closes: a close with unread input resets the connection.
#[test]
fn a_last_request_that_fills_the_buffer_exactly_is_not_followed_by_a_reset() {
    let (mut harness, mut stream) = with_a_small_buffer();
    stream
        .write_all(&[&padded(LAST, 512), GET].concat())
        .unwrap();
    harness.work();
    assert!(rest(&mut stream).ends_with("\r\n\r\nok"));
    assert!(stream.take_error().unwrap().is_none());
    assert_eq!(harness.server.counters().open, 1);
    drop(stream);
    harness.work();
    assert_eq!(harness.server.counters().open, 0);
}

/// The number of requests answered while the events of one poll are handled, without a call of
/// `Server::advance`.
fn answered_by_one_poll(harness: &mut Harness) -> u64 {
    let before = harness.server.counters().answered;
    for event in &harness.events(8) {
        harness.handle(event);
    }
    harness.server.counters().answered - before
}

/// Other connections may be in the backlog, and one full buffer of requests can take a millisecond.
#[test]
fn a_new_connection_that_fills_the_buffer_is_answered_only_in_part_when_accepted() {
    const REQUESTS: usize = 400;
    let mut harness = Harness::new(4);
    let mut stream = harness.connect();
    stream.write_all(&GET.repeat(REQUESTS)).unwrap();
    let bufferful = (Limits::DEFAULT.request_head_bytes / GET.len()) as u64;
    let answered = answered_by_one_poll(&mut harness);
    assert!(
        (1..bufferful / 8).contains(&answered),
        "{answered} of {bufferful}"
    );
    harness.work();
    assert_eq!(harness.server.counters().answered, REQUESTS as u64);
}

/// The remaining requests wait until the other connections have been served.
#[test]
fn one_event_of_a_connection_answers_at_most_one_bufferful_of_requests() {
    const REQUEST_BYTES: usize = 1024;
    let mut harness = Harness::new(4);
    let mut stream = harness.idle();
    let requests = 3 * Limits::DEFAULT.request_head_bytes / REQUEST_BYTES;
    stream
        .write_all(&padded(GET, REQUEST_BYTES).repeat(requests))
        .unwrap();
    assert_eq!(answered_by_one_poll(&mut harness), requests as u64 / 3);
    harness.work();
    assert_eq!(harness.server.counters().answered, 1 + requests as u64);
}

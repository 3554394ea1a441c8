//! What an embedder can read: whether a listener is bound, why a bind failed, and the poll timeout.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::error::Error;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use harness::{ENDPOINTS, Harness, TIMEOUT};
use healthz::Responder;
use healthz::limits::{CONNECTIONS_MAX, LISTENERS_MAX};
use healthz::server::{Address, Config, Listeners, Runner, Server, TOKENS};
use mio::Token;

#[test]
fn listeners_are_empty_until_one_is_bound() {
    let mut listeners = Listeners::new();
    assert!(listeners.is_empty());
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(!listeners.is_empty());
}

#[test]
fn a_bind_error_has_the_io_error_as_its_source() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(taken.local_addr().unwrap());
    let error = Listeners::new().bind(&address).unwrap_err();
    let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
}

/// Without a timeout, the loop would never close a client that stops sending within its request.
#[test]
fn the_poll_timeout_is_no_longer_than_the_head_deadline_of_an_unfinished_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut listeners = Listeners::new();
    listeners.add(listener).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let runner = Runner::new(server).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET /healthz").unwrap();
    while runner.server().counters().accepted == 0 {
        runner.poll_once(Some(TIMEOUT)).unwrap();
    }
    let timeout = runner.timeout().unwrap();
    assert!(timeout <= Duration::from_secs(10), "{timeout:?}");
}

/// A host asks this for each event in its loop, and handles the other events itself.
#[test]
fn a_server_owns_the_tokens_from_its_base_on_and_no_others() {
    // The harness registers the server with the base 7.
    let harness = Harness::new(4);
    assert_eq!(TOKENS, LISTENERS_MAX + CONNECTIONS_MAX);
    let owns = |number| harness.server.owns(Token(number));
    assert_eq!([0, 6, 7, 8].map(owns), [false, false, true, true]);
    assert_eq!([TOKENS + 6, TOKENS + 7].map(owns), [true, false]);
    // Generations are in the bits from 20 on.
    assert_eq!(
        [6, 7, TOKENS + 7].map(|low| owns(1 << 20 | low)),
        [false, true, false]
    );
}

/// On Linux, epoll reports a listener as long as connections wait, so one accept for each report is enough. An
/// accept(2) that finds no connection costs as much as one that finds one.
#[cfg(target_os = "linux")]
#[test]
fn one_call_of_advance_accepts_one_connection_while_the_table_has_room() {
    let mut harness = Harness::new(64);
    let clients = [(); 3].map(|()| harness.send_only(b"GET"));
    for accepted in 1..=3 {
        harness.advance();
        assert_eq!(harness.server.counters().accepted, accepted);
    }
    drop(clients);
}

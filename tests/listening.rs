//! What an embedder can read: whether a listener is bound, why a bind failed, and the poll timeout.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::error::Error;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use harness::{ENDPOINTS, TIMEOUT};
use healthz::Responder;
use healthz::server::{Address, Config, Listeners, Runner, Server};

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

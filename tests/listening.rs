//! Listeners as an embedder uses them: binding and its errors, the poll timeout, tokens, and listeners that serve only
//! some paths.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use harness::{ENDPOINTS, Harness, TIMEOUT, rest};
use healthz::Responder;
use healthz::limits::{CONNECTIONS_MAX, LISTENERS_MAX};
use healthz::server::{Address, Config, ListenerPaths, Listeners, Runner, Server, TOKENS};
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
    let mut event_count = 0;
    while runner.server().counters().accepted == 0 {
        event_count += runner.poll_once(Some(TIMEOUT)).unwrap();
    }
    assert!(
        event_count > 0,
        "a connection was accepted without an event"
    );
    assert_eq!(runner.handle().counters().open, 1);
    let timeout = runner.timeout().unwrap();
    assert!(!timeout.is_zero(), "nothing is due");
    assert!(timeout <= Duration::from_secs(10), "{timeout:?}");
    client.write_all(b" HTTP/1.0\r\n\r\n").unwrap();
    while runner.server().counters().answered == 0 {
        runner.poll_once(Some(TIMEOUT)).unwrap();
    }
    let text = rest(&mut client);
    assert!(text.contains("\r\nDate: "), "{text}");
}

#[test]
fn a_runner_has_one_descriptor_for_other_loops() {
    let listeners = harness::localhost();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let runner = Runner::new(server).unwrap();
    assert!(runner.as_raw_fd() > 2);
    assert_eq!(runner.as_raw_fd(), runner.as_fd().as_raw_fd());
}

/// A host program calls `Server::owns` for each event in its loop, and handles the other events itself.
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

/// The status of the answers to `requests` at `address`, each on a connection of its own.
fn statuses<const N: usize>(
    harness: &mut Harness,
    address: SocketAddr,
    requests: [&str; N],
) -> [u16; N] {
    requests.map(|request| {
        let mut client = TcpStream::connect(address).unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).unwrap();
        harness.work();
        let text = rest(&mut client);
        assert!(
            !text.starts_with("HTTP/1.1 404") || text.ends_with("\r\n\r\n404 page not found\n"),
            "{text}"
        );
        text.split(' ').nth(1).unwrap().parse().unwrap()
    })
}

fn tcp_addresses(listeners: &Listeners) -> Vec<SocketAddr> {
    let address = |address| match address {
        Address::Tcp(address) => address,
        other => panic!("not on TCP: {other}"),
    };
    listeners.local_addresses().map(address).collect()
}

#[test]
fn a_listener_with_paths_answers_404_to_all_others_and_its_neighbours_serve_them() {
    let any = "127.0.0.1:0".parse().unwrap();
    let paths = ListenerPaths::new(&["/livez", "/readyz"]).unwrap();
    let mut listeners = Listeners::new();
    listeners.bind(&any).unwrap();
    listeners.bind_for(&any, &paths).unwrap();
    let passed_in = TcpListener::bind("127.0.0.1:0").unwrap();
    listeners.add_for(passed_in, &paths).unwrap();
    listeners.bind(&any).unwrap();
    let addresses = tcp_addresses(&listeners);
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let requests = [
        "GET /livez",
        "GET /livez/ping?verbose",
        "GET /%72eadyz",
        "OPTIONS *",
        "GET /healthz",
        "GET /livez-other",
        "GET //livez",
        "GET /livez/../healthz",
        "OPTIONS /",
    ];
    for (address, expected) in addresses.into_iter().zip([
        [200, 200, 200, 200, 200, 404, 307, 307, 200],
        [200, 200, 200, 200, 404, 404, 404, 404, 404],
        [200, 200, 200, 200, 404, 404, 404, 404, 404],
        [200, 200, 200, 200, 200, 404, 307, 307, 200],
    ]) {
        assert_eq!(statuses(&mut harness, address, requests), expected);
    }
}

#[test]
fn both_addresses_of_localhost_serve_the_same_paths() {
    let mut listeners = Listeners::new();
    let paths = "/livez".parse().unwrap();
    listeners.bind_for(&Address::Localhost(0), &paths).unwrap();
    let addresses = tcp_addresses(&listeners);
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    for address in addresses {
        let requests = ["GET /livez", "GET /healthz"];
        assert_eq!(statuses(&mut harness, address, requests), [200, 404]);
    }
}

/// The Host field is checked before the paths of the listener.
#[test]
fn a_listener_with_paths_answers_421_to_other_hosts() {
    let mut listeners = Listeners::new();
    let paths = ListenerPaths::new(&["/livez"]).unwrap();
    listeners
        .bind_for(&"127.0.0.1:0".parse().unwrap(), &paths)
        .unwrap();
    let addresses = tcp_addresses(&listeners);
    let responder = Responder::new(&ENDPOINTS).allow_hosts(&["b"]);
    let mut harness = Harness::on(responder, listeners, Config::default());
    let requests = ["GET /livez", "GET /healthz", "GET //livez"];
    let found = statuses(&mut harness, addresses[0], requests);
    assert_eq!(found, [421, 421, 421]);
}

/// The head cache is shared by all connections, also by those of different listeners.
#[test]
fn a_cached_head_is_answered_with_the_paths_of_its_listener() {
    let any = "127.0.0.1:0".parse().unwrap();
    let mut listeners = Listeners::new();
    listeners.bind(&any).unwrap();
    listeners
        .bind_for(&any, &"/livez".parse().unwrap())
        .unwrap();
    let addresses = tcp_addresses(&listeners);
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    for _ in 0..3 {
        let found = addresses
            .iter()
            .map(|address| statuses(&mut harness, *address, ["GET /healthz"]));
        assert_eq!(found.collect::<Vec<_>>(), [[200], [404]]);
    }
}

#[test]
fn a_listener_that_could_not_be_bound_leaves_no_paths_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(taken.local_addr().unwrap());
    let mut listeners = Listeners::new();
    let paths = "/livez".parse().unwrap();
    listeners.bind_for(&address, &paths).unwrap_err();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let addresses = tcp_addresses(&listeners);
    let mut harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    let found = statuses(&mut harness, addresses[0], ["GET /healthz"]);
    assert_eq!(found, [200]);
}

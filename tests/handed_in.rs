//! Listening sockets that somebody else has opened: all kinds are served, and what cannot be served is
//! refused before there is a server.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use healthz::limits::LISTENERS_MAX;
use healthz::server::{BindErrorKind, Config, Listeners, Server, spawn};
use healthz::{Check, Endpoint, Responder};

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
const PATIENCE: Duration = Duration::from_secs(5);

fn assert_answers(mut stream: impl Read + Write) {
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

fn tcp() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn sockets_from_anywhere_are_served_side_by_side() {
    let path = std::env::temp_dir().join(format!("healthz-handed-in-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (first, second) = (tcp(), tcp());
    let addresses = [&first, &second].map(|listener| listener.local_addr().unwrap());
    let named = UnixListener::bind(&path).unwrap();
    let name = format!("healthz-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let nameless = UnixListener::bind_addr(&name).unwrap();
    let mut listeners = Listeners::new();
    listeners.add(first).unwrap();
    listeners.add(OwnedFd::from(second)).unwrap();
    listeners.add(named).unwrap();
    listeners.add(OwnedFd::from(nameless)).unwrap();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let texts: Vec<_> = listeners
        .local_addresses()
        .map(|at| at.to_string())
        .collect();
    assert_eq!(texts.len(), 5);
    assert_eq!(
        texts.first(),
        addresses.first().map(|at| at.to_string()).as_ref()
    );
    let door = spawn(Server::new(
        Responder::new(&ENDPOINTS),
        listeners,
        Config::default(),
    ))
    .unwrap();
    for address in addresses {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_answers(stream);
    }
    for stream in [UnixStream::connect(&path), UnixStream::connect_addr(&name)] {
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_answers(stream);
    }
    door.stop();
    assert_eq!(door.join().unwrap().answered, 4);
    assert!(path.exists(), "somebody else's file is gone");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_does_not_listen_is_refused() {
    let client = {
        let listener = tcp();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    };
    let refused: [OwnedFd; 6] = [
        client.into(),
        UnixStream::pair().unwrap().0.into(),
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        UnixDatagram::unbound().unwrap().into(),
        std::fs::File::open("/dev/null").unwrap().into(),
        std::io::pipe().unwrap().0.into(),
    ];
    let mut listeners = Listeners::new();
    for socket in refused {
        let error = listeners.add(socket).unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::Unusable, "{error}");
        assert!(
            error
                .to_string()
                .starts_with("a socket that was handed in ")
        );
    }
    assert!(listeners.is_empty());
}

#[test]
fn one_too_many_is_refused_and_closed() {
    let mut listeners = Listeners::new();
    for _ in 0..LISTENERS_MAX {
        listeners.add(tcp()).unwrap();
    }
    let last = tcp();
    let address = last.local_addr().unwrap();
    let error = listeners.add(last).unwrap_err();
    assert_eq!(error.kind(), BindErrorKind::TooMany);
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(listeners.len(), LISTENERS_MAX);
}

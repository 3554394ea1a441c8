//! Listening sockets that the caller opened: all kinds are served, and a socket that cannot be served is
//! refused before a server is created.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use harness::{ENDPOINTS, Harness, LAST, TIMEOUT, rest};
use healthz::Responder;
use healthz::limits::LISTENERS_MAX;
use healthz::server::{BindErrorKind, Config, ListenFds, Listeners, Runner, Server, spawn};
use socket2::Socket;

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
fn tcp_unix_and_abstract_sockets_are_served_by_one_server() {
    let path = std::env::temp_dir().join(format!("healthz-handed-in-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (first, second) = (tcp(), tcp());
    let addresses = [&first, &second].map(|listener| listener.local_addr().unwrap());
    let at_path = UnixListener::bind(&path).unwrap();
    let name = format!("healthz-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    let in_abstract = UnixListener::bind_addr(&name).unwrap();
    let mut listeners = Listeners::new();
    listeners.add(first).unwrap();
    listeners.add(OwnedFd::from(second)).unwrap();
    listeners.add(at_path).unwrap();
    listeners.add(OwnedFd::from(in_abstract)).unwrap();
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
    // Regression: the address of an abstract socket was printed as `unix:` without a name.
    let abstract_name = format!("unix:@healthz-{}", std::process::id());
    assert_eq!(texts.get(3), Some(&abstract_name));
    let handle = spawn(Server::new(
        Responder::new(&ENDPOINTS),
        listeners,
        Config::default(),
    ))
    .unwrap();
    for address in addresses {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert_answers(stream);
    }
    for stream in [UnixStream::connect(&path), UnixStream::connect_addr(&name)] {
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert_answers(stream);
    }
    handle.stop();
    assert_eq!(handle.join().unwrap().answered, 4);
    assert!(
        path.exists(),
        "the server removed a file that the caller created"
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_refused() {
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
        nix::unistd::pipe().unwrap().0,
    ];
    let mut listeners = Listeners::new();
    for socket in refused {
        let error = listeners.add(socket).unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::Unusable, "{error}");
        assert!(error.to_string().starts_with("cannot use the socket: "));
    }
    assert!(listeners.is_empty());
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused_with_the_error_of_the_system() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Listeners::new().add(OwnedFd::from(file)).unwrap_err();
    let source = error.source().unwrap().to_string();
    assert_eq!(
        source,
        std::io::Error::from(nix::errno::Errno::ENOTSOCK).to_string()
    );
    assert_eq!(
        error.to_string(),
        format!("cannot use the socket: {source}")
    );
}

#[test]
fn one_listener_more_than_the_limit_is_refused_and_closed() {
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

const CHILD: &str = "HEALTHZ_TEST_HANDED_IN_CHILD";

#[test]
fn the_environment_says_which_descriptors_were_passed_to_this_process() {
    let name = "the_environment_says_which_descriptors_were_passed_to_this_process";
    if std::env::var_os(CHILD).is_some() {
        let passed = ListenFds::from_env().unwrap();
        assert_eq!(passed.numbers(), 3..5);
        assert_eq!(
            [3, 4].map(|fd| passed.name(fd)),
            [Some("first"), Some("second")]
        );
        println!("two were passed");
        return;
    }
    // The number of a process does not change in exec(2).
    let script = "LISTEN_PID=$$ exec \"$0\" --exact --nocapture --test-threads=1 \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(CHILD, "1")
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", "first:second")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("two were passed"),
        "{text}"
    );
}

/// A harness that listens on copies of `sockets`. The returned originals play the other process that holds
/// them.
fn shared<const N: usize>(sockets: [Socket; N]) -> (Harness, [Socket; N]) {
    let mut listeners = Listeners::new();
    for socket in &sockets {
        listeners.add(socket.try_clone().unwrap()).unwrap();
    }
    let harness = Harness::on(Responder::new(&ENDPOINTS), listeners, Config::default());
    (harness, sockets)
}

fn abstract_unix(name: &str) -> (Socket, SocketAddr) {
    let name = format!("healthz-{name}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    (Socket::from(OwnedFd::from(listener)), address)
}

/// Regression: after another process shut down one listener, the server accepted no connection on the
/// others. If it was a Unix socket, the server also used all of one CPU.
#[test]
fn a_listener_that_another_process_shuts_down_is_dropped_and_the_others_accept() {
    for is_unix in [false, true] {
        let shut = match is_unix {
            true => abstract_unix("shut").0,
            false => Socket::from(tcp()),
        };
        let last = tcp();
        let address = last.local_addr().unwrap();
        let (mut harness, [shut, last]) = shared([shut, last.into()]);
        shut.shutdown(std::net::Shutdown::Both).unwrap();
        for _ in 0..3 {
            // `work` returns, so the closed listener is not reported again and again.
            harness.work();
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(TIMEOUT)).unwrap();
            client.write_all(LAST).unwrap();
            harness.work();
            assert!(rest(&mut client).ends_with("\r\n\r\nok"));
        }
        let left: Vec<_> = harness
            .server
            .local_addresses()
            .map(|at| at.to_string())
            .collect();
        assert_eq!(left, [address.to_string()]);
        assert_eq!(
            harness.server.counters().accept_pauses,
            0,
            "counted as a shortage"
        );
        assert!(!harness.server.is_abandoned());
        last.shutdown(std::net::Shutdown::Both).unwrap();
        harness.work();
        assert!(harness.server.is_abandoned());
    }
}

/// Regression: when a Unix listener was shut down, one connection of its backlog was answered and the
/// others waited forever.
#[test]
fn every_connection_in_the_backlog_of_a_unix_socket_that_is_shut_down_is_answered() {
    let (unix, name) = abstract_unix("waiting");
    let (mut harness, [unix]) = shared([unix]);
    let mut waiting = [0; 3].map(|_| {
        let mut client = UnixStream::connect_addr(&name).unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.write_all(LAST).unwrap();
        client
    });
    unix.shutdown(std::net::Shutdown::Both).unwrap();
    harness.work();
    for client in &mut waiting {
        assert!(rest(client).ends_with("\r\n\r\nok"));
    }
    assert!(harness.server.is_abandoned());
}

#[test]
fn a_runner_whose_last_listener_is_shut_down_returns_an_error() {
    let listener = Socket::from(tcp());
    let mut listeners = Listeners::new();
    listeners.add(listener.try_clone().unwrap()).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let runner = Runner::new(server).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let (start, end) = LAST.split_at(9);
    client.write_all(start).unwrap();
    while runner.server().counters().accepted == 0 {
        runner.poll_once(Some(TIMEOUT)).unwrap();
    }
    listener.shutdown(std::net::Shutdown::Both).unwrap();
    runner.poll_once(Some(TIMEOUT)).unwrap();
    assert!(runner.server().is_abandoned());
    client.write_all(end).unwrap();
    let error = runner.run().unwrap_err();
    assert!(
        error.to_string().starts_with("no listener is left"),
        "{error}"
    );
    assert!(rest(&mut client).ends_with("\r\n\r\nok"), "not answered");
}

/// Regression: connections inherit the options of their listener. With SO_LINGER or TCP_CORK set, answers
/// were lost or delayed.
#[test]
fn linger_and_cork_are_cleared_on_a_listening_socket() {
    let (unix, name) = abstract_unix("options");
    let listener = tcp();
    let address = listener.local_addr().unwrap();
    let sockets = [Socket::from(listener), unix];
    for socket in &sockets {
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    let [corked, _] = &sockets;
    corked.set_tcp_cork(true).unwrap();
    let (mut harness, sockets) = shared(sockets);
    for socket in &sockets {
        assert_eq!(socket.linger().unwrap(), None);
    }
    let [corked, _] = &sockets;
    assert!(!corked.tcp_cork().unwrap());
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(TIMEOUT)).unwrap();
    tcp.write_all(LAST).unwrap();
    let mut unix = UnixStream::connect_addr(&name).unwrap();
    unix.set_read_timeout(Some(TIMEOUT)).unwrap();
    unix.write_all(LAST).unwrap();
    harness.work();
    assert!(rest(&mut tcp).ends_with("\r\n\r\nok"));
    assert!(rest(&mut unix).ends_with("\r\n\r\nok"));
}

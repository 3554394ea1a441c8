//! Every row of `tests/conformance` with an expected answer, over a real TCP or Unix socket, against servers on
//! their own threads. The answer must be what the row expects. Apart from the Date, it must also be byte for byte
//! what a connection without sockets sends, and the server must close the connection in the same cases.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/http/mod.rs"]
mod http;
#[path = "support/timeout.rs"]
mod timeout;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use healthz::Responder;
use healthz::server::{Address, Server, ServerThread, spawn};
use http::judge::judge;
use http::profile;
use http::rows::{self, End, FILES, Row, Segment};
use http::wire::{Outcome, Wire};
use timeout::TIMEOUT;

/// Exchanges at a time. Most of the time, most of them wait to see that nothing more arrives.
const CLIENTS: usize = 12;
/// If nothing arrives for this long after the last expected byte, the exchange is over.
const SILENCE: Duration = Duration::from_millis(40);
/// Maximum duration of a pause within a row.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// The client's socket, TCP or Unix.
trait Stream: Read + Write {
    fn set_timeout(&self, duration: Duration);
    fn shut(&self);
}

impl Stream for TcpStream {
    fn set_timeout(&self, duration: Duration) {
        self.set_read_timeout(Some(duration)).unwrap();
        self.set_write_timeout(Some(duration)).unwrap();
    }

    fn shut(&self) {
        // The server may have closed the connection already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, duration: Duration) {
        self.set_read_timeout(Some(duration)).unwrap();
        self.set_write_timeout(Some(duration)).unwrap();
    }

    fn shut(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

fn connect(address: &Address) -> Box<dyn Stream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).unwrap()),
        Address::Localhost(_) => unreachable!("the tests bind one address at a time"),
    }
}

/// A server for each distinct set of checks.
struct Servers {
    of: BTreeMap<(String, BTreeMap<String, String>), (Responder<'static>, Address)>,
    handles: Vec<ServerThread>,
}

impl Servers {
    fn new(rows: &[Row], mut address: impl FnMut(usize) -> Address) -> Self {
        let mut servers = Servers {
            of: BTreeMap::new(),
            handles: Vec::new(),
        };
        for row in rows {
            let key = (row.profile.clone(), row.failing.clone());
            if servers.of.contains_key(&key) {
                continue;
            }
            let responder = profile::responder(&row.profile, &row.failing).unwrap();
            let server = Server::bind(responder, &address(servers.handles.len())).unwrap();
            let bound = server.local_addresses().next().unwrap();
            servers.handles.push(spawn(server).unwrap());
            servers.of.insert(key, (responder, bound));
        }
        servers
    }

    fn of(&self, row: &Row) -> &(Responder<'static>, Address) {
        &self.of[&(row.profile.clone(), row.failing.clone())]
    }

    fn stop(self) {
        self.handles.iter().for_each(ServerThread::stop);
        for handle in self.handles {
            let counters = handle.join().unwrap();
            assert_eq!(counters.open, 0);
        }
    }
}

/// Sends `segments`. Returns everything that the server sent, and whether it closed the connection.
fn exchange(address: &Address, segments: &[Segment], wanted: &Outcome) -> (Vec<u8>, End) {
    let mut stream = connect(address);
    stream.set_timeout(TIMEOUT);
    for segment in segments {
        match segment {
            // The write fails if the server has refused the request and closed the connection.
            Segment::Bytes(bytes) => drop(stream.write_all(bytes)),
            Segment::Pause(duration) => thread::sleep((*duration).min(PAUSE_MAX)),
            Segment::Shut => stream.shut(),
        }
    }
    let begun = Instant::now();
    let mut got = Vec::new();
    let mut buffer = [0; 1 << 14];
    loop {
        // After the last expected byte, wait only to see that nothing more arrives.
        let is_whole = wanted.end == End::Open && got.len() >= wanted.sent.len();
        stream.set_timeout(if is_whole { SILENCE } else { TIMEOUT });
        match stream.read(&mut buffer) {
            Ok(0) => return (got, End::Closed),
            Ok(size) => got.extend_from_slice(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (got, End::Open),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return (got, End::Closed);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(
            begun.elapsed() < TIMEOUT,
            "the server does not stop sending"
        );
    }
}

/// Replaces every Date with the Date that `Wire` uses.
fn with_wire_date(stream: &[u8]) -> Vec<u8> {
    const FIELD: &[u8] = b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let mut dated = stream.to_vec();
    for at in 0..stream.len() {
        if !stream[at..].starts_with(&FIELD[.."\r\nDate: ".len()]) {
            continue;
        }
        if let Some(field) = dated.get_mut(at..at + FIELD.len()) {
            field.copy_from_slice(FIELD);
        }
    }
    dated
}

fn replay(servers: &Servers, row: &Row) -> Result<(), String> {
    let (responder, address) = servers.of(row);
    let wanted = Wire::new(responder, None, 1 << 20)
        .run(&row.segments)
        .outcome();
    let (got, end) = exchange(address, &row.segments, &wanted);
    judge(row, &got, end)?;
    if (with_wire_date(&got), end) == (wanted.sent.clone(), wanted.end) {
        return Ok(());
    }
    let [got, sent] = [&got, &wanted.sent].map(|bytes| String::from_utf8_lossy(bytes));
    Err(format!(
        "{end:?}, {got:?}\n  without sockets: {:?}, {sent:?}",
        wanted.end
    ))
}

fn replay_all(kind: &str, address: impl FnMut(usize) -> Address) {
    let rows: Vec<Row> = FILES.into_iter().flat_map(rows::read).collect();
    let servers = Servers::new(&rows, address);
    let wrong: Vec<String> = thread::scope(|scope| {
        let client = |client: usize| {
            let (rows, servers) = (&rows, &servers);
            scope.spawn(move || {
                let mine = rows.iter().skip(client).step_by(CLIENTS);
                let verdicts = mine.map(|row| (row, replay(servers, row)));
                let wrong = verdicts
                    .filter_map(|(row, verdict)| Some(format!("{}: {}", row.name, verdict.err()?)));
                wrong.collect::<Vec<_>>()
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let wrong = clients.into_iter().map(|client| client.join().unwrap());
        wrong.flatten().collect()
    });
    servers.stop();
    // To standard error, because libtest hides the output of passing tests.
    let met = rows.len() - wrong.len();
    let _ = writeln!(
        std::io::stderr(),
        "over {kind}: {met} of {} rows met",
        rows.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_row_gets_the_same_answer_over_tcp_as_without_sockets() {
    replay_all("TCP", |_| "127.0.0.1:0".parse().unwrap());
}

#[test]
fn every_row_gets_the_same_answer_over_unix_sockets_as_without_sockets() {
    let directory = std::env::temp_dir();
    let process = std::process::id();
    replay_all("Unix sockets", |index| {
        Address::Unix(directory.join(format!("healthz-replay-{process}-{index}.sock")))
    });
}

//! Every row of `tests/conformance` over a real socket, TCP and Unix, against servers on threads of
//! their own. What comes back must be what the row asks for, and byte for byte, Date aside, what a
//! connection without sockets says: the server adds nothing, loses nothing, closes when it said so.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/http/mod.rs"]
mod http;

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

/// Exchanges at a time. Most of them wait for silence most of the time.
const CLIENTS: usize = 12;
/// No exchange waits longer than this for what must come.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may come where nothing should.
const SILENCE: Duration = Duration::from_millis(40);
/// A row that takes its time is not waited for longer than this at each pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A client's end of either kind of socket.
trait Stream: Read + Write {
    fn patience(&self, duration: Duration);
    fn shut(&self);
}

impl Stream for TcpStream {
    fn patience(&self, duration: Duration) {
        self.set_read_timeout(Some(duration)).unwrap();
        self.set_write_timeout(Some(duration)).unwrap();
    }

    fn shut(&self) {
        // The server may be gone already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn patience(&self, duration: Duration) {
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

/// A server for each distinct state, and what they are asked.
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

    fn end(self) {
        self.handles.iter().for_each(ServerThread::stop);
        for handle in self.handles {
            let counters = handle.join().unwrap();
            assert_eq!(counters.open, 0);
        }
    }
}

/// Everything that the server sent, and how it ended.
fn exchange(address: &Address, segments: &[Segment], wanted: &Outcome) -> (Vec<u8>, End) {
    let mut stream = connect(address);
    stream.patience(TIMEOUT);
    for segment in segments {
        match segment {
            // Who is refused may find nobody listening to the rest.
            Segment::Bytes(bytes) => drop(stream.write_all(bytes)),
            Segment::Pause(duration) => thread::sleep((*duration).min(PAUSE_MAX)),
            Segment::Shut => stream.shut(),
        }
    }
    let begun = Instant::now();
    let mut got = Vec::new();
    let mut buffer = [0; 1 << 14];
    loop {
        // All that is expected has come: now nothing more may.
        let is_whole = wanted.end == End::Open && got.len() >= wanted.sent.len();
        stream.patience(if is_whole { SILENCE } else { TIMEOUT });
        match stream.read(&mut buffer) {
            Ok(0) => return (got, End::Closed),
            Ok(size) => got.extend_from_slice(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (got, End::Open),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return (got, End::Closed);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < TIMEOUT, "the server never stops talking");
    }
}

/// Puts the Date that `Wire` uses in the place of every other.
fn undated(stream: &[u8]) -> Vec<u8> {
    const FIELD: &[u8] = b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let mut undated = stream.to_vec();
    for at in 0..stream.len() {
        if stream[at..].starts_with(&FIELD[.."\r\nDate: ".len()])
            && let Some(field) = undated.get_mut(at..at + FIELD.len())
        {
            field.copy_from_slice(FIELD);
        }
    }
    undated
}

fn replay(servers: &Servers, row: &Row) -> Result<(), String> {
    let (responder, address) = servers.of(row);
    let wanted = Wire::new(responder, None, 1 << 20)
        .run(&row.segments)
        .outcome();
    let (got, end) = exchange(address, &row.segments, &wanted);
    judge(row, &got, end)?;
    if (undated(&got), end) == (wanted.sent.clone(), wanted.end) {
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
    servers.end();
    // Past the harness, which keeps what a passing test prints to itself.
    let met = rows.len() - wrong.len();
    let _ = writeln!(
        std::io::stderr(),
        "over {kind}: {met} of {} rows met",
        rows.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_row_over_tcp() {
    replay_all("TCP", |_| "127.0.0.1:0".parse().unwrap());
}

#[test]
fn every_row_over_unix_sockets() {
    let directory = std::env::temp_dir();
    let process = std::process::id();
    replay_all("Unix sockets", |index| {
        Address::Unix(directory.join(format!("healthz-replay-{process}-{index}.sock")))
    });
}

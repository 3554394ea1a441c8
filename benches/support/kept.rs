//! An honest client that keeps its connection for as long as it may, over TCP or a Unix socket.
//!
//! Where newcomers fill the table, a connection between two requests is the first to go. Who kept it
//! finds that out when it asks next, and asks again on a new one, as HTTP clients do (RFC 9110 section
//! 9.2.2: GET is idempotent). What counts is that it has its answer in time, and the right one.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use healthz::server::Address;

use super::load::{REQUEST, Right, answer};

/// From one request to the next.
const PERIOD: Duration = Duration::from_millis(50);
/// More than any answer.
const ANSWER_BYTES: usize = 1024;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kept {
    pub asked: u64,
    /// In time, and right.
    pub answered: u64,
    /// Connections that this took.
    pub connections: u64,
    /// Requests that were asked again, because a connection ended before a byte of the answer.
    pub repeats: u64,
    pub most: Duration,
}

impl Kept {
    /// Takes in what came of another.
    pub fn add(&mut self, other: Kept) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.connections += other.connections;
        self.repeats += other.repeats;
        self.most = self.most.max(other.most);
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Asks again and again until `is_over`, at least once.
///
/// # Errors
/// If an answer is wrong, or half of one. A missing answer is no error here: it is counted.
pub fn run(
    address: &Address,
    right: &Right,
    patience: Duration,
    is_over: &AtomicBool,
) -> io::Result<Kept> {
    let mut kept = Kept::default();
    let mut stream = None;
    loop {
        let began = Instant::now();
        kept.asked += 1;
        while began.elapsed() <= patience {
            match ask(address, right, patience, &mut stream, &mut kept.connections) {
                Ok(()) => {
                    kept.answered += u64::from(began.elapsed() <= patience);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Other => return Err(error),
                Err(error) => {
                    // A new one that could not be made, or said nothing in time, had nothing to end.
                    let has_ended = stream.is_some() && error.kind() != ErrorKind::WouldBlock;
                    kept.repeats += u64::from(has_ended);
                    stream = None;
                }
            }
        }
        kept.most = kept.most.max(began.elapsed());
        if is_over.load(Ordering::Relaxed) {
            return Ok(kept);
        }
        std::thread::sleep(PERIOD);
    }
}

/// Asks once, on `stream` if there is one.
fn ask(
    address: &Address,
    right: &Right,
    patience: Duration,
    stream: &mut Option<Box<dyn Stream>>,
    connections: &mut u64,
) -> io::Result<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let new = connect(address, patience)?;
            *connections += 1;
            stream.insert(new)
        }
    };
    stream.write_all(REQUEST)?;
    let mut bytes = [0; ANSWER_BYTES];
    let mut size = 0;
    loop {
        match stream.read(&mut bytes[size..]) {
            Ok(count) if count > 0 => size += count,
            end if size > 0 => {
                let half = format!("half an answer, {size} bytes, then {end:?}");
                return Err(io::Error::other(half));
            }
            end => return Err(end.err().unwrap_or(ErrorKind::UnexpectedEof.into())),
        }
        match answer(&bytes[..size], right)? {
            None => {}
            Some((length, _)) if length == size => return Ok(()),
            Some(_) => return Err(io::Error::other("an answer that nobody asked for")),
        }
    }
}

fn connect(address: &Address, patience: Duration) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, patience)?;
            stream.set_read_timeout(Some(patience))?;
            Ok(Box::new(stream))
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(patience))?;
            Ok(Box::new(stream))
        }
        Address::Localhost(_) => Err(ErrorKind::AddrNotAvailable.into()),
    }
}

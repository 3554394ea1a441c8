//! A well-behaved client that keeps its connection as long as possible, over TCP or a Unix socket.
//!
//! When the server has no free slot, it closes idle connections first. The client notices this at its next
//! request and repeats that on a new connection, as HTTP clients do (RFC 9110 section 9.2.2: GET is
//! idempotent). The request counts as answered if the correct response arrives in time.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use healthz::server::Address;

use super::load::{Expected, REQUEST, parse_response};

/// Pause between two requests.
const PERIOD: Duration = Duration::from_millis(50);
/// More than any response.
const RESPONSE_BYTES: usize = 1024;

/// The results of a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAliveResults {
    pub sent: u64,
    /// Correct responses in time.
    pub answered: u64,
    /// Connections made.
    pub connections: u64,
    /// Requests that were repeated because the connection ended before the response began.
    pub repeats: u64,
    pub slowest: Duration,
}

impl KeepAliveResults {
    /// Adds the results of another client.
    pub fn add(&mut self, other: KeepAliveResults) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.connections += other.connections;
        self.repeats += other.repeats;
        self.slowest = self.slowest.max(other.slowest);
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Sends requests until `is_over`, at least one.
///
/// # Errors
/// If a response is wrong or incomplete. A missing response is no error; it is counted.
pub fn run(
    address: &Address,
    expected: &Expected,
    timeout: Duration,
    is_over: &AtomicBool,
) -> io::Result<KeepAliveResults> {
    let mut results = KeepAliveResults::default();
    let mut stream = None;
    loop {
        let began = Instant::now();
        results.sent += 1;
        while began.elapsed() <= timeout {
            match request(
                address,
                expected,
                timeout,
                &mut stream,
                &mut results.connections,
            ) {
                Ok(()) => {
                    results.answered += u64::from(began.elapsed() <= timeout);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Other => return Err(error),
                Err(error) => {
                    // Not counted as repeated: connecting failed, or there was no response in time.
                    let has_ended = stream.is_some() && error.kind() != ErrorKind::WouldBlock;
                    results.repeats += u64::from(has_ended);
                    stream = None;
                }
            }
        }
        results.slowest = results.slowest.max(began.elapsed());
        if is_over.load(Ordering::Relaxed) {
            return Ok(results);
        }
        std::thread::sleep(PERIOD);
    }
}

/// Sends one request, on `stream` if there is one, and reads the response.
fn request(
    address: &Address,
    expected: &Expected,
    timeout: Duration,
    stream: &mut Option<Box<dyn Stream>>,
    connections: &mut u64,
) -> io::Result<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let new = connect(address, timeout)?;
            *connections += 1;
            stream.insert(new)
        }
    };
    stream.write_all(REQUEST)?;
    let mut bytes = [0; RESPONSE_BYTES];
    let mut size = 0;
    loop {
        match stream.read(&mut bytes[size..]) {
            Ok(count) if count > 0 => size += count,
            end if size > 0 => {
                let half =
                    format!("the connection ended after {size} bytes of a response: {end:?}");
                return Err(io::Error::other(half));
            }
            end => return Err(end.err().unwrap_or(ErrorKind::UnexpectedEof.into())),
        }
        match parse_response(&bytes[..size], expected)? {
            None => {}
            Some((length, _)) if length == size => return Ok(()),
            Some(_) => return Err(io::Error::other("a response without a request")),
        }
    }
}

fn connect(address: &Address, timeout: Duration) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            Ok(Box::new(stream))
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(timeout))?;
            Ok(Box::new(stream))
        }
        Address::Localhost(_) => Err(ErrorKind::AddrNotAvailable.into()),
    }
}

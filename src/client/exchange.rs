//! One request and its response, over TCP or a Unix socket.
//!
//! [`Exchange`] is non-blocking and belongs in a loop on mio; [`get`] is that loop for one. Connects to the first
//! address that accepts. Memory is bounded: the head by [`crate::response`], the body by [`BODY_BYTES_MAX`].

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};

use super::target::{Address, Target};
use crate::response::{Part, Reader};
use crate::units::Shown;

/// Bytes of a body that are kept. The rest is not read, and does not change the result. (The kubelet keeps 10 KiB.)
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes that one read takes.
const READ_BYTES: usize = 4096;
/// A Unix socket whose queue of connections is full is tried again after this time, because the kernel does not
/// report when there is space.
const RETRY_PERIOD: Duration = Duration::from_millis(5);

/// If there is no descriptor left.
const ADVICE_DESCRIPTORS: &str = "see the limit of open files (ulimit -n)";

/// A complete response, or the part of it that the commands need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// At most [`BODY_BYTES_MAX`] bytes, or the number that [`get_long`] was given.
    pub body: Vec<u8>,
    /// The media type without parameters, in lower case; empty if the server sent none.
    pub media_type: String,
    /// The address that answered.
    pub address: Address,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, no complete answer in time, or closed without an answer. What was tried, and what to do.
    Lost { tried: String, advice: &'static str },
    /// The answer is not complete, or no HTTP response.
    Invalid(String),
}

/// A request that waits for its response.
///
/// Call [`advance`](Self::advance) once at first, after each event for its token, and after
/// [`retry_after`](Self::retry_after), until it returns a result.
pub struct Exchange<'a> {
    target: &'a Target,
    request: &'a [u8],
    /// The errors of the addresses that were tried already.
    errors: Vec<io::Error>,
    connection: Option<Connection>,
    /// The queue of the socket is full.
    is_queue_full: bool,
    sent: usize,
    reader: Reader,
    status: Option<u16>,
    body: Vec<u8>,
    body_bytes_max: usize,
    /// What to do if the answer is late.
    advice_late: &'static str,
}

struct Connection {
    socket: Socket,
    is_connected: bool,
    is_registered: bool,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl<'a> Exchange<'a> {
    /// Sends `request` to `target` when it is advanced.
    pub fn new(target: &'a Target, request: &'a [u8]) -> Self {
        Exchange {
            target,
            request,
            errors: Vec::new(),
            connection: None,
            is_queue_full: false,
            sent: 0,
            reader: Reader::default(),
            status: None,
            body: Vec::new(),
            body_bytes_max: BODY_BYTES_MAX,
            advice_late: "see what the server does, or raise --timeout",
        }
    }

    /// Continues as far as possible without waiting. Returns the result once it is known.
    pub fn advance(
        &mut self,
        registry: &Registry,
        token: Token,
    ) -> Option<Result<Response, Failure>> {
        let target = self.target;
        loop {
            let Some(address) = target.addresses.get(self.errors.len()) else {
                return Some(Err(self.refused()));
            };
            let step = match &mut self.connection {
                Some(connection) if connection.is_connected => {
                    let result = self.talk();
                    if result.is_some() {
                        return result;
                    }
                    Ok(false)
                }
                Some(connection) => connection.finish_connecting(),
                None => self.connect(address),
            };
            match step {
                Ok(true) => {}
                Ok(false) if self.is_queue_full => return None,
                // An event that came before is reported after registering.
                Ok(false) => match self.register(registry, token) {
                    Ok(()) => return None,
                    Err(error) => self.try_next(error),
                },
                Err(error) => self.try_next(error),
            }
        }
    }

    /// When to advance again without an event.
    pub fn retry_after(&self) -> Option<Duration> {
        self.is_queue_full.then_some(RETRY_PERIOD)
    }

    /// The failure when `timeout` has passed without a result.
    pub fn timed_out(&self, timeout: Duration) -> Failure {
        let address = self.target.addresses.get(self.errors.len());
        let address = address.map(Address::to_string).unwrap_or_default();
        let after = Shown(timeout);
        let is_connected = |connection: &Connection| connection.is_connected;
        let (tried, advice) = if self.connection.as_ref().is_some_and(is_connected) {
            let what = match self.reader.has_begun() {
                true => "did not finish its answer",
                false => "accepted, but sent no answer",
            };
            (format!("{address} {what} within {after}"), self.advice_late)
        } else {
            (
                format!("{address} did not accept a connection within {after}"),
                "look whether the server hangs",
            )
        };
        Failure::Lost { tried, advice }
    }

    /// Starts to connect. Returns whether to continue at once.
    fn connect(&mut self, address: &Address) -> io::Result<bool> {
        let connected = match address {
            Address::Tcp(address) => TcpStream::connect(*address).map(Socket::Tcp),
            Address::Unix(path) => match path.as_os_str().as_bytes().strip_prefix(b"@") {
                Some(name) => connect_abstract(name),
                None => UnixStream::connect(path),
            }
            .map(Socket::Unix),
        };
        self.is_queue_full =
            matches!(&connected, Err(error) if error.kind() == ErrorKind::WouldBlock);
        if self.is_queue_full {
            return Ok(false);
        }
        self.connection = Some(Connection {
            socket: connected?,
            is_connected: false,
            is_registered: false,
        });
        Ok(true)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &mut self.connection {
            Some(connection) => connection.register(registry, token),
            None => Ok(()),
        }
    }

    /// This address does not work.
    fn try_next(&mut self, error: io::Error) {
        self.connection = None;
        self.errors.push(error);
    }

    /// Sends and receives until both would block, or the result is known.
    fn talk(&mut self) -> Option<Result<Response, Failure>> {
        let Some(connection) = &mut self.connection else {
            return None;
        };
        // A server may answer and close without reading, so the answer is read even if sending fails.
        let _ = send(&mut connection.socket, &mut self.sent, self.request);
        let mut buffer = [0; READ_BYTES];
        loop {
            let count = match connection.socket.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Some(Err(self.broken(&error_text(&error)))),
            };
            let mut bytes = buffer.get(..count).unwrap_or_default();
            if count == 0 {
                return Some(match self.reader.end() {
                    Ok(()) => self.response(),
                    Err(reason) => Err(self.broken(&reason)),
                });
            }
            loop {
                match self.reader.next(&mut bytes) {
                    Ok(None) => break,
                    Ok(Some(Part::Status(status))) => self.status = Some(status),
                    Ok(Some(Part::Body(part))) => {
                        let room = self.body_bytes_max - self.body.len();
                        self.body
                            .extend_from_slice(part.get(..room).unwrap_or(part));
                        if self.body.len() >= self.body_bytes_max {
                            return Some(self.response());
                        }
                    }
                    Ok(Some(Part::End)) => return Some(self.response()),
                    Err(reason) => return Some(Err(self.broken(&reason))),
                }
            }
        }
    }

    fn address(&self) -> Option<&Address> {
        self.target.addresses.get(self.errors.len())
    }

    fn response(&mut self) -> Result<Response, Failure> {
        let (Some(status), Some(address)) = (self.status, self.address()) else {
            return Err(self.broken("closed before the end of the response head"));
        };
        let field = self.reader.field("content-type").unwrap_or_default();
        let media_type = field.split(|byte| *byte == b';').next();
        let media_type = media_type.unwrap_or_default().trim_ascii();
        Ok(Response {
            status,
            media_type: String::from_utf8_lossy(media_type).to_ascii_lowercase(),
            address: address.clone(),
            body: std::mem::take(&mut self.body),
        })
    }

    /// The connection has ended, or what it sent is wrong.
    fn broken(&self, reason: &str) -> Failure {
        let address = self.address().map(Address::to_string).unwrap_or_default();
        let text = format!("{address}: {reason}");
        if self.reader.has_begun() {
            Failure::Invalid(text)
        } else {
            Failure::Lost {
                tried: text,
                advice: "the server may be overloaded, or not an HTTP server",
            }
        }
    }

    /// No address works: one text if all errors are the same, or if the machine lacks the other address family.
    fn refused(&self) -> Failure {
        let is_missing = |error: &io::Error| {
            matches!(
                error.kind(),
                ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable
            ) || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
        };
        let tried = || self.target.addresses.iter().zip(&self.errors);
        let all_are_missing = self.errors.iter().all(is_missing);
        let usable = tried().filter(|(_, error)| all_are_missing || !is_missing(error));
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for (address, error) in usable {
            let text = error_text(error);
            match reasons.last_mut() {
                Some((last, addresses)) if *last == text => addresses.push(address.to_string()),
                _ => reasons.push((text, vec![address.to_string()])),
            }
        }
        let each = reasons
            .iter()
            .map(|(text, addresses)| format!("{text} on {}", addresses.join(" and ")));
        let first = self.errors.first();
        let advice = match (first.map(io::Error::kind), self.target.addresses.first()) {
            (Some(ErrorKind::PermissionDenied), _) => {
                "run it as a user who may connect to the socket"
            }
            // connect(2) on Linux says the same as for a socket without a server.
            (_, Some(Address::Unix(path)))
                if std::fs::metadata(path).is_ok_and(|data| !data.file_type().is_socket()) =>
            {
                "this is not a socket; pass the path of the one on which the server listens"
            }
            _ if first.is_some_and(is_out_of_descriptors) => ADVICE_DESCRIPTORS,
            _ => "is healthz running? pass the URL if it listens elsewhere",
        };
        Failure::Lost {
            tried: each.collect::<Vec<_>>().join(", "),
            advice,
        }
    }
}

impl Connection {
    /// Whether the connection is there, or has to be waited for.
    fn finish_connecting(&mut self) -> io::Result<bool> {
        self.is_connected = match &self.socket {
            // connect(2) has no delay on a Unix socket.
            Socket::Unix(_) => true,
            Socket::Tcp(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                match stream.peer_addr() {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::NotConnected => false,
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(self.is_connected)
    }

    /// Registers for both directions, once: mio reports each change of readiness.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if self.is_registered {
            return Ok(());
        }
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.socket {
            Socket::Tcp(stream) => registry.register(stream, token, interest)?,
            Socket::Unix(stream) => registry.register(stream, token, interest)?,
        }
        self.is_registered = true;
        Ok(())
    }
}

impl Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }
}

#[cfg(target_os = "linux")]
fn connect_abstract(name: &[u8]) -> io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
fn connect_abstract(_: &[u8]) -> io::Result<UnixStream> {
    Err(ErrorKind::Unsupported.into())
}

/// Sends the rest of `request`.
fn send(socket: &mut Socket, sent: &mut usize, request: &[u8]) -> io::Result<()> {
    while let Some(rest) = request.get(*sent..).filter(|rest| !rest.is_empty()) {
        match socket.write(rest) {
            Ok(count) => *sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The text of an error of the system without its number, in lower case: `connection refused`.
pub fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => text.into(),
    }
}

/// Sends `request` to `target`, and waits for the response. `timeout` is for all of it.
///
/// # Errors
/// Why there is no response.
pub fn get(target: &Target, request: &[u8], timeout: Duration) -> Result<Response, Failure> {
    get_with(Exchange::new(target, request), timeout)
}

/// As [`get`], but keeps `body_bytes_max` bytes of the body, and for a command without `--timeout`.
///
/// # Errors
/// As [`get`].
pub fn get_long(
    target: &Target,
    request: &[u8],
    timeout: Duration,
    body_bytes_max: usize,
) -> Result<Response, Failure> {
    let exchange = Exchange {
        body_bytes_max,
        advice_late: "see what the server does",
        ..Exchange::new(target, request)
    };
    get_with(exchange, timeout)
}

fn get_with(mut exchange: Exchange<'_>, timeout: Duration) -> Result<Response, Failure> {
    let deadline = Instant::now() + timeout;
    let mut poll = Poll::new().map_err(no_loop)?;
    let mut events = Events::with_capacity(1);
    loop {
        if let Some(result) = exchange.advance(poll.registry(), Token(0)) {
            return result;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(exchange.timed_out(timeout));
        }
        let wait = exchange.retry_after().map_or(left, |retry| retry.min(left));
        match poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(no_loop(error)),
            _ => {}
        }
    }
}

/// The system gives no descriptor for waiting.
fn no_loop(error: io::Error) -> Failure {
    Failure::Lost {
        tried: format!("epoll: {}", error_text(&error)),
        advice: ADVICE_DESCRIPTORS,
    }
}

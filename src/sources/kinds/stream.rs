//! Connecting, sending and receiving, for the kinds tcp, unix and http.
//!
//! [`Exchange`] is the attempt of all three: it connects to one of some addresses, sends what a [`Protocol`]
//! wants to send, and gives it what arrives. Knows no protocol. Everything is non-blocking, but for [`Opener`].

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::sources::attempt::{Attempt, Started};
use crate::sources::spec::Outcome;

/// Most bytes of received data that are discarded at a time.
const DISCARD_BYTES_MAX: usize = 64 * 1024;

/// Longest time that a peer may take to close its side.
const HALF_CLOSED_DURATION: Duration = Duration::from_secs(10);

/// Bytes that one read takes.
const READ_BYTES: usize = 4096;

/// The messages on a connection. Its reasons do not name the target; [`Exchange`] puts it before them.
pub trait Protocol {
    /// What is sent after connecting.
    fn request(&self) -> &[u8];

    /// The request was sent. Returns a result if no answer is needed.
    fn sent(&mut self) -> Option<Result<(), String>>;

    /// Takes the next bytes of the answer. Returns a result as soon as it is known, at the latest after a bounded
    /// number of bytes.
    fn receive(&mut self, bytes: &[u8]) -> Option<Result<(), String>>;

    /// The peer has closed.
    fn end(&mut self) -> Result<(), String>;

    /// The part of the answer that it waits for: `the response head`.
    fn awaited(&self) -> String;
}

/// An attempt to connect, and to exchange what `P` wants.
pub struct Exchange<P> {
    target: String,
    base: Token,
    state: State,
    protocol: P,
}

enum State {
    /// An [`Opener`] connects.
    Opening,
    Connecting(Connecting),
    Connected {
        stream: Stream,
        sent: usize,
    },
    Done,
}

impl<P: Protocol + 'static> Exchange<P> {
    /// Connects to the first of `addresses` that accepts. `target` begins every reason.
    pub fn start(
        target: String,
        addresses: Vec<SocketAddr>,
        protocol: P,
        registry: &Registry,
        base: Token,
    ) -> Started {
        let mut exchange = Exchange {
            target,
            base,
            state: State::Connecting(Connecting::new(addresses)),
            protocol,
        };
        match exchange.advance(registry) {
            Some(outcome) => Started::Done(outcome),
            None => Started::Waiting(Box::new(exchange)),
        }
    }

    /// Continues when a thread has connected to the Unix socket `name`: a path, or an abstract name that begins
    /// with `@`.
    pub fn start_unix(name: OsString, protocol: P, base: Token) -> Started {
        let exchange = Exchange {
            target: name.to_string_lossy().into_owned(),
            base,
            state: State::Opening,
            protocol,
        };
        Started::Opening(Box::new(exchange), Opener(name))
    }

    fn advance(&mut self, registry: &Registry) -> Option<Outcome> {
        let result = self.step(registry)?;
        if let State::Connected { stream, .. } = std::mem::replace(&mut self.state, State::Done) {
            stream.close(registry, self.base);
        }
        Some(match result {
            Ok(()) => Outcome::Pass,
            Err(reason) => Outcome::Fail(format!("{}: {reason}", self.target)),
        })
    }

    fn step(&mut self, registry: &Registry) -> Option<Result<(), String>> {
        if let State::Connecting(connecting) = &mut self.state {
            match connecting.advance(registry, self.base)? {
                Ok(stream) => self.state = State::Connected { stream, sent: 0 },
                Err(reason) => return Some(Err(reason)),
            }
        }
        let State::Connected { stream, sent } = &mut self.state else {
            return None;
        };
        let result = talk(stream, sent, &mut self.protocol);
        if result.is_some() {
            return result;
        }
        // Registered only if it has to wait. An event that came before is reported after registering.
        match stream.register(registry, self.base) {
            Ok(()) => None,
            Err(error) => Some(Err(error_text(&error))),
        }
    }
}

impl<P: Protocol + 'static> Attempt for Exchange<P> {
    fn ready(&mut self, registry: &Registry, _: Token) -> Option<Outcome> {
        self.advance(registry)
    }

    fn opened(&mut self, registry: &Registry, opened: Opened) -> Option<Outcome> {
        match (&self.state, opened.0) {
            (State::Opening, Ok(stream)) => {
                self.state = State::Connected { stream, sent: 0 };
                self.advance(registry)
            }
            (State::Opening, Err(error)) => {
                self.state = State::Done;
                let reason = match error.kind() {
                    // connect(2) does not wait for space, because the socket is non-blocking.
                    ErrorKind::WouldBlock => "queue of connections is full".into(),
                    _ => error_text(&error),
                };
                Some(Outcome::Fail(format!("{}: {reason}", self.target)))
            }
            _ => None,
        }
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn waits_for(&self) -> String {
        match &self.state {
            State::Opening => "looking up its path".into(),
            State::Connecting(connecting) => connecting.waits_for(),
            State::Connected { sent, .. } if *sent < self.protocol.request().len() => {
                "connected, sending".into()
            }
            State::Connected { .. } => {
                format!("connected, waiting for {}", self.protocol.awaited())
            }
            State::Done => "done".into(),
        }
    }
}

/// Sends and receives until both would block, or the result is known.
fn talk(
    stream: &mut Stream,
    sent: &mut usize,
    protocol: &mut impl Protocol,
) -> Option<Result<(), String>> {
    // A peer may answer and close without reading, so the answer is read even if sending fails.
    if matches!(send(stream, sent, protocol.request()), Ok(true)) {
        let result = protocol.sent();
        if result.is_some() {
            return result;
        }
    }
    let mut buffer = [0; READ_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Some(protocol.end()),
            Ok(count) => {
                let result = protocol.receive(buffer.get(..count).unwrap_or_default());
                if result.is_some() {
                    return result;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let awaited = protocol.awaited();
                return Some(Err(format!(
                    "{} while waiting for {awaited}",
                    error_text(&error)
                )));
            }
        }
    }
}

/// Sends the rest of `request`. Returns true when all of it was sent.
fn send(stream: &mut Stream, sent: &mut usize, request: &[u8]) -> io::Result<bool> {
    while let Some(rest) = request.get(*sent..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(count) => *sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Connects to a Unix socket, on a thread that may block.
///
/// connect(2) does not wait for the other process, but it looks up the path. That can take for ever, on a file system
/// whose server does not answer (NFS, FUSE).
pub struct Opener(OsString);

/// The result of an [`Opener`].
pub struct Opened(io::Result<Stream>);

impl Opener {
    pub fn open(&self) -> Opened {
        let connect = || match self.0.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                UnixStream::connect_addr(&address)
            }
            None => UnixStream::connect(&self.0),
        };
        Opened(connect().map(|stream| Stream::new(Socket::Unix(stream))))
    }
}

/// Tries addresses one after the other.
struct Connecting {
    /// The next is the last.
    untried: Vec<SocketAddr>,
    current: Option<(SocketAddr, Stream)>,
    errors: Vec<(SocketAddr, io::Error)>,
}

impl Connecting {
    fn new(mut addresses: Vec<SocketAddr>) -> Self {
        addresses.reverse();
        Connecting {
            untried: addresses,
            current: None,
            errors: Vec::new(),
        }
    }

    /// Returns the stream, or the reason that there is none; `None` while it has to wait.
    fn advance(&mut self, registry: &Registry, token: Token) -> Option<Result<Stream, String>> {
        loop {
            let (address, mut stream) = match self.current.take() {
                Some(current) => current,
                None => {
                    let Some(address) = self.untried.pop() else {
                        return Some(Err(self.reason()));
                    };
                    match Stream::connect(address) {
                        Ok(stream) => (address, stream),
                        Err(error) => {
                            self.errors.push((address, error));
                            continue;
                        }
                    }
                }
            };
            match stream.is_connected() {
                Ok(true) => return Some(Ok(stream)),
                Ok(false) => match stream.register(registry, token) {
                    Ok(()) => {
                        self.current = Some((address, stream));
                        return None;
                    }
                    Err(error) => self.errors.push((address, error)),
                },
                Err(error) => self.errors.push((address, error)),
            }
        }
    }

    fn waits_for(&self) -> String {
        match &self.current {
            // The target says the address if there is only one.
            Some((address, _)) if self.untried.len() + self.errors.len() > 0 => {
                format!("connecting to {address}")
            }
            _ => "connecting".into(),
        }
    }

    /// One text if all errors are the same, or if the machine lacks the other address family.
    fn reason(&self) -> String {
        let is_missing = |error: &io::Error| {
            matches!(
                error.kind(),
                ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable
            ) || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
        };
        let usable = self.errors.iter().filter(|(_, error)| !is_missing(error));
        let mut errors: Vec<_> = usable.collect();
        if errors.is_empty() {
            errors = self.errors.iter().collect();
        }
        let texts: Vec<_> = errors.iter().map(|(_, error)| error_text(error)).collect();
        let Some(first) = texts.first() else {
            return "no address".into();
        };
        if texts.iter().all(|text| text == first) {
            return first.clone();
        }
        let each = errors
            .iter()
            .zip(&texts)
            .map(|((address, _), text)| format!("{}: {text}", address.ip()));
        each.collect::<Vec<_>>().join("; ")
    }
}

/// A connected or connecting socket.
struct Stream {
    socket: Socket,
    is_registered: bool,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn new(socket: Socket) -> Stream {
        Stream {
            socket,
            is_registered: false,
        }
    }

    fn connect(address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address)?;
        Ok(Stream::new(Socket::Tcp(stream)))
    }

    fn is_connected(&self) -> io::Result<bool> {
        // An opener has connected it.
        let Socket::Tcp(stream) = &self.socket else {
            return Ok(true);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
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

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }
}

impl Stream {
    /// Ends the connection without a reset, although the peer may still send, such as a greeting.
    ///
    /// A socket that is closed answers data with a reset. So this one stays half closed until the peer has closed
    /// its side too. At the latest it is closed when the next attempt of the same check has ended, or after
    /// [`HALF_CLOSED_DURATION`]. Only the end of an attempt looks at it; nothing wakes the loop for it.
    fn close(mut self, registry: &Registry, base: Token) {
        if self.is_registered {
            // It fails only for a socket that is not registered.
            let _ = match &mut self.socket {
                Socket::Tcp(stream) => registry.deregister(stream),
                Socket::Unix(stream) => registry.deregister(stream),
            };
        }
        let now = Instant::now();
        HALF_CLOSED.with_borrow_mut(|streams| {
            streams.retain_mut(|(token, closed, stream)| {
                let is_recent = now.duration_since(*closed) < HALF_CLOSED_DURATION;
                *token != base && is_recent && stream.discard()
            });
            if self.shutdown() && self.discard() {
                streams.push((base, now, self));
            }
        });
    }

    /// Returns true if it was connected.
    fn shutdown(&self) -> bool {
        let result = match &self.socket {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        result.is_ok()
    }

    /// Reads what has arrived. Returns true if the peer may send more.
    fn discard(&mut self) -> bool {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..DISCARD_BYTES_MAX / READ_BYTES {
            match self.read(&mut buffer) {
                Ok(1..) => {}
                Ok(0) => return false,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }
}

thread_local! {
    /// Connections that wait for the other side to close, one for each check, and when they began to.
    static HALF_CLOSED: RefCell<Vec<(Token, Instant, Stream)>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Unread data would make it a reset.
        if self.shutdown() {
            self.discard();
        }
    }
}

/// An error of the system in lower case, without its number.
pub fn error_text(error: &io::Error) -> String {
    let text = match error.kind() {
        ErrorKind::NotFound => "does not exist",
        ErrorKind::ConnectionReset => "connection reset",
        _ => match error.raw_os_error() {
            Some(code) => nix::errno::Errno::from_raw(code).desc(),
            None => return error.to_string(),
        },
    };
    let mut chars = text.chars();
    match chars.next() {
        // Not `I/O error`.
        Some(first) if chars.as_str().starts_with(|c: char| c.is_lowercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.into(),
    }
}

/// For the tests of the kinds: drives an attempt as the worker does.
#[cfg(test)]
pub mod testing {
    use mio::{Events, Poll};

    use super::*;

    pub const BASE: Token = Token(8);

    pub fn outcome(started: Started, poll: &mut Poll) -> Outcome {
        match started {
            Started::Done(outcome) => outcome,
            Started::Waiting(mut attempt) => finish(attempt.as_mut(), poll),
            Started::Opening(mut attempt, opener) => {
                match attempt.opened(poll.registry(), opener.open()) {
                    Some(outcome) => outcome,
                    None => finish(attempt.as_mut(), poll),
                }
            }
        }
    }

    /// Waits for the outcome. Fails the test if nothing happens for long.
    pub fn finish(attempt: &mut dyn Attempt, poll: &mut Poll) -> Outcome {
        loop {
            if let Some(outcome) = one_event(attempt, poll) {
                return outcome;
            }
        }
    }

    /// Waits for one event, and handles it.
    pub fn one_event(attempt: &mut dyn Attempt, poll: &mut Poll) -> Option<Outcome> {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(20)))
            .unwrap();
        let event = events.iter().next();
        let event = event.unwrap_or_else(|| panic!("no event while {}", attempt.waits_for()));
        attempt.ready(poll.registry(), event.token())
    }

    pub fn waiting(started: Started) -> Box<dyn Attempt> {
        match started {
            Started::Waiting(attempt) => attempt,
            Started::Opening(attempt, _) => panic!("{}: {}", attempt.target(), attempt.waits_for()),
            Started::Done(outcome) => panic!("{outcome:?}"),
        }
    }

    pub fn failed(reason: impl Into<String>) -> Outcome {
        Outcome::Fail(reason.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peer reads nothing until its queue is full.
    #[test]
    fn a_request_that_does_not_fit_is_sent_in_parts() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(Socket::Unix(near));
        let mut far = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(far));
        far.set_nonblocking(true).unwrap();
        let request = vec![b'x'; 1 << 22];
        let (mut sent, mut received) = (0, Vec::new());
        while !send(&mut stream, &mut sent, &request).unwrap() {
            assert!(sent < request.len());
            let error = far.read_to_end(&mut received).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert_eq!(received.len(), sent);
        }
        assert_eq!(sent, request.len());
        drop(far);
        let error = send(&mut stream, &mut 0, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn errors_are_lower_case_and_have_no_number() {
        for (code, text) in [
            (libc::ECONNREFUSED, "connection refused"),
            (libc::ENOENT, "does not exist"),
            (libc::ECONNRESET, "connection reset"),
            (libc::EACCES, "permission denied"),
            (libc::EIO, "I/O error"),
            (libc::EHOSTUNREACH, "no route to host"),
        ] {
            assert_eq!(error_text(&io::Error::from_raw_os_error(code)), text);
        }
        assert_eq!(error_text(&io::Error::other("Own text")), "Own text");
    }

    #[test]
    fn the_reason_names_the_addresses_only_if_their_errors_differ() {
        let reason = |codes: &[i32]| {
            let addresses = ["127.0.0.1:80", "[::1]:80"].map(|text| text.parse().unwrap());
            let errors = addresses.into_iter().zip(codes);
            let errors =
                errors.map(|(address, code)| (address, io::Error::from_raw_os_error(*code)));
            Connecting {
                untried: Vec::new(),
                current: None,
                errors: errors.collect(),
            }
            .reason()
        };
        let (refused, denied) = (libc::ECONNREFUSED, libc::EACCES);
        assert_eq!(reason(&[refused, refused]), "connection refused");
        assert_eq!(
            reason(&[refused, denied]),
            "127.0.0.1: connection refused; ::1: permission denied"
        );
        // A machine without IPv6.
        for missing in [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT, libc::ENETUNREACH] {
            assert_eq!(reason(&[refused, missing]), "connection refused");
        }
        assert_eq!(
            reason(&[libc::ENETUNREACH, libc::ENETUNREACH]),
            "network is unreachable"
        );
    }
}

//! Sockets and an event loop for [`Responder`], on mio.
//!
//! Knows how bytes come and go; what they mean is [`crate::http`]'s and [`crate::answer`]'s.
//! Embedders with a mio loop drive a [`Server`] themselves; [`Runner`] is the loop for those who have
//! none, and [`spawn`] gives it a thread.
//!
//! - A connection that was just accepted is read at once: a probe that asks and closes never enters
//!   the table nor epoll.
//! - Reads and answers go through one buffer each, shared by all connections. Only what is left over,
//!   half a head or an answer that its peer does not take, is kept in a connection's own. Those are
//!   zeroed pages that cost nothing until they are written to.
//! - The table is fixed. When it is full, the longest idle connection makes room, unless it has just asked
//!   something. Where others hold half of it, one of theirs is taken: who does not read its answers, then
//!   one that has its answer, then the one longest in its head. A server that stops begins with the idle.
//! - On Linux a Unix socket says which process has made a connection. Of the 16 connections that are next to be
//!   evicted, one of the process that has most of them goes first, so that a process that connects as fast as
//!   it can evicts its own. A TCP socket does not say it.
//! - Work per turn is bounded: so many accepts, and a connection one bufferful of requests or of answers.
//!   What is left over comes next turn, after everybody else.
//! - Errors of accept(2) that mean the system is short of something pause accepting for
//!   [`ACCEPT_PAUSE`], and so do 16 others in a row; everything else goes on. No error stops a server.

mod address;
mod buffers;
mod driver;
mod inherited;
mod listeners;
mod memory;
mod policy;
mod run;
#[cfg(test)]
mod simulation;
mod slots;
mod socket;
mod sys;
mod table;

use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::net::SocketAddr;

use mio::event::Event;
use mio::{Registry, Token};

pub use address::{Address, AddressError};
pub use inherited::{ListenFds, ListenFdsError};
pub use listeners::{BindError, BindErrorKind, Bound, Listeners};
pub use memory::Memory;
pub use run::{Runner, ServerHandle, ServerThread, THREAD_STACK_BYTES, now, spawn, spawn_with};
pub use slots::Slot;
pub use sys::adopt;

use crate::answer::Responder;
use crate::http::{Date, HeadCache};
use crate::limits::{
    CONNECTIONS_DEFAULT, CONNECTIONS_MAX, LISTENERS_MAX, Limits, REQUEST_HEAD_BYTES_MAX,
    REQUEST_HEAD_BYTES_MIN,
};
use crate::time::Instant;
use buffers::Buffers;
use driver::Driver;
use memory::Managed;
use slots::Slots;
use socket::Listener;
use table::Table;

/// How long accepting rests after EMFILE, ENFILE, ENOBUFS or ENOMEM, or when accept(2) keeps failing. Long enough not to spin, short
/// enough for a probe's patience of one second. If descriptors are short even then, a connection is
/// closed for the next, as where the table is full.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tokens that one server uses, generations aside, from its base on.
pub const TOKENS: usize = LISTENERS_MAX + CONNECTIONS_MAX;

/// What a server may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Per connection.
    pub limits: Limits,
    /// Connections held at once, from 1 to [`CONNECTIONS_MAX`]. One more evicts one. Each takes a
    /// descriptor. In a process that has no more (`RLIMIT_NOFILE`, often 1,024) every newcomer waits for
    /// [`ACCEPT_PAUSE`], and then evicts one as well.
    pub connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::DEFAULT,
            connections: CONNECTIONS_DEFAULT,
        }
    }
}

impl Config {
    /// Bytes that a server with these settings takes when every connection holds a full head that
    /// never ends and the longest answer that is never read. Nothing that peers do takes more. What
    /// is not used is not resident: a server at rest takes a few pages. Settings out of their bounds
    /// are no error here; `usize::MAX` is what does not fit.
    pub fn memory_bytes_max(&self, responder: &Responder<'_>) -> usize {
        let slots = self.connections.saturating_mul(size_of::<Slot>());
        let others = size_of::<HeadCache>().saturating_add(self.buffer_bytes(responder));
        slots.saturating_add(others)
    }

    /// Of them, the bytes for heads and answers: a pair of buffers for each connection, and one that
    /// all share.
    pub fn buffer_bytes(&self, responder: &Responder<'_>) -> usize {
        let response_bytes = responder.response_bytes_max(&self.limits);
        Buffers::bytes(
            self.connections,
            self.limits.request_head_bytes,
            response_bytes,
        )
    }

    fn assert_valid(&self) {
        let head_bytes = REQUEST_HEAD_BYTES_MIN..=REQUEST_HEAD_BYTES_MAX;
        assert!(
            head_bytes.contains(&self.limits.request_head_bytes),
            "request_head_bytes is from 512 to 65,535"
        );
        assert!(
            (1..=CONNECTIONS_MAX).contains(&self.connections),
            "connections is from 1 to 65,535"
        );
    }
}

/// What a server has seen since it was made. All but `open` only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted, foreign ones apart.
    pub accepted: u64,
    /// Requests answered, refused ones included.
    pub answered: u64,
    /// Requests whose head was not acceptable (4xx, 501, 505) or did not come in time (408).
    pub refused: u64,
    /// Connections closed because the table was full, or the process out of descriptors.
    pub evicted: u64,
    /// Connections closed because a deadline passed.
    pub expired: u64,
    /// Connections that ended in an error of the socket, such as a reset by the peer.
    pub failed: u64,
    /// Connections that were gone when they were to be accepted: the peer had reset them, a firewall
    /// refused them, or the network failed (accept(2)).
    pub aborted: u64,
    /// Connections to a loopback address from one that is none, another machine's perhaps, closed unread;
    /// see [`Listeners::allow_remote`].
    pub foreign: u64,
    /// Spells in which accepting was paused because the system was short of something or accept(2) kept
    /// failing.
    pub accept_pauses: u64,
    /// Connections in the table.
    pub open: u64,
}

/// A health responder on sockets, driven by its caller's mio loop.
///
/// It owns no `Poll`: every call takes the caller's `Registry` and the present. Several servers can
/// live in one `Poll` if their tokens do not overlap.
///
/// To be stopped before it is dropped: a listening socket that others hold as well stays registered when
/// it is closed here, and nobody could take it out any more.
///
/// Order of calls: [`register`](Server::register) once; then, whenever `Poll::poll` returns,
/// [`handle`](Server::handle) for each event whose token [`owns`](Server::owns) says is ours, and
/// [`advance`](Server::advance) once after them, and no later than [`deadline`](Server::deadline).
///
/// ```
/// # use healthz::{Check, Endpoint, Responder};
/// # use std::io::{Read, Write};
/// use healthz::server::{Server, TOKENS, now};
/// use mio::{Events, Poll, Token};
/// use std::io::ErrorKind;
/// # static PING: Check = Check::ping();
/// # static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// const YOURS: Token = Token(TOKENS); // and those above it
///
/// # let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(16));
/// let mut server = Server::bind(Responder::new(&ENDPOINTS), &"127.0.0.1:0".parse()?)?;
/// # let address = server.local_addr().ok_or("no TCP address")?;
/// # let mut probe = std::net::TcpStream::connect(address)?;
/// # probe.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
/// server.register(poll.registry(), Token(0))?;
/// loop {
///     let timeout = server.deadline().map(|at| at.saturating_since(now()));
///     match poll.poll(&mut events, timeout) {
///         Err(error) if error.kind() == ErrorKind::Interrupted => continue, // by a signal
///         result => result?,
///     }
///     let now = now();
///     for event in &events {
///         if server.owns(event.token()) {
///             server.handle(poll.registry(), event, now);
///         } else {
///             // yours
///         }
///     }
///     server.advance(poll.registry(), now);
///     # if server.counters().answered == 1 { break; }
/// }
/// # let mut answer = String::new();
/// # probe.read_to_string(&mut answer)?;
/// # assert!(answer.ends_with("\r\n\r\nok"));
/// # Ok(())
/// # }
/// ```
///
/// [`Runner`] does just this, and once a second [`set_wall_clock`](Server::set_wall_clock).
pub struct Server<'a> {
    table: Table<'a, Listener>,
}

impl<'a> Server<'a> {
    /// A server on `listeners` that answers with `responder`. All its memory is reserved here, as
    /// much as [`Config::memory_bytes_max`] says.
    ///
    /// # Panics
    /// If `config` is not within the bounds that its fields name.
    pub fn new(responder: Responder<'a>, listeners: Listeners, config: Config) -> Self {
        config.assert_valid();
        let Config {
            limits,
            connections,
        } = config;
        let response_bytes = responder.response_bytes_max(&limits);
        let buffers = Buffers::new(connections, limits.request_head_bytes, response_bytes);
        let heads = Managed::Own(Box::new(HeadCache::new()));
        let driver = Driver::new(responder, limits, buffers, heads);
        Server {
            table: Table::new(listeners.into_sockets(), Slots::new(connections), driver),
        }
    }

    /// A server with the default [`Config`] that listens on `address`, and nowhere else.
    ///
    /// A machine without one half of `localhost` gets the other half; a warning is logged.
    ///
    /// # Errors
    /// As [`Listeners::bind`].
    pub fn bind(responder: Responder<'a>, address: &Address) -> Result<Self, BindError> {
        let mut listeners = Listeners::new();
        if let Some((missing, error)) = listeners.bind(address)?.missing {
            log::warn!("not listening on {missing}: {error}");
        }
        Ok(Server::new(responder, listeners, Config::default()))
    }

    /// A server in its caller's memory, which takes nothing from the heap, now or later. It holds as
    /// many connections as `memory` has slots. When it is dropped, the slots are empty again.
    ///
    /// ```no_run
    /// use healthz::http::HeadCache;
    /// use healthz::server::{Address, Listeners, Memory, Server, Slot};
    /// use healthz::{Check, Endpoint, Limits, Responder};
    /// use std::sync::Mutex;
    ///
    /// static PING: Check = Check::ping();
    /// static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
    /// static SLOTS: Mutex<[Slot; 16]> = Mutex::new([const { Slot::new() }; 16]);
    /// static BYTES: Mutex<[u8; 512 * 1024]> = Mutex::new([0; 512 * 1024]);
    /// static HEADS: Mutex<HeadCache> = Mutex::new(HeadCache::new());
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut slots, mut bytes) = (SLOTS.lock()?, BYTES.lock()?);
    /// let mut heads = HEADS.lock()?;
    /// let mut listeners = Listeners::new();
    /// listeners.bind(&Address::DEFAULT)?;
    /// let memory = Memory { slots: &mut *slots, bytes: &mut *bytes, heads: &mut heads };
    /// let server = Server::with_memory(Responder::new(&ENDPOINTS), listeners, Limits::DEFAULT, memory);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If `limits` are not within their bounds, there are not 1 to 65,535 slots, or there are fewer
    /// bytes than [`Config::buffer_bytes`] says for them; the message says how many are needed.
    pub fn with_memory(
        responder: Responder<'a>,
        listeners: Listeners,
        limits: Limits,
        memory: Memory<'a>,
    ) -> Self {
        let Memory {
            slots,
            bytes,
            heads,
        } = memory;
        let config = Config {
            limits,
            connections: slots.len(),
        };
        config.assert_valid();
        let needed = config.buffer_bytes(&responder);
        assert!(
            needed <= bytes.len(),
            "{} bytes of memory for heads and answers are too few; {needed} are needed",
            bytes.len()
        );
        let response_bytes = responder.response_bytes_max(&limits);
        let memory = Managed::Borrowed(bytes);
        let buffers = Buffers::in_memory(memory, limits.request_head_bytes, response_bytes);
        // What it remembers of an earlier server may have been of other limits.
        *heads = HeadCache::new();
        let driver = Driver::new(responder, limits, buffers, Managed::Borrowed(heads));
        let slots = Slots::in_memory(Managed::Borrowed(slots));
        Server {
            table: Table::new(listeners.into_sockets(), slots, driver),
        }
    }

    /// Registers the listeners with tokens from `base` on. The server uses `base.0` to
    /// `base.0 + `[`TOKENS`] in the low 20 bits of a token and any bits above; the caller keeps its
    /// own tokens below 2^20 and out of that range.
    ///
    /// # Errors
    /// If the system cannot register a socket.
    ///
    /// # Panics
    /// If `base.0 + TOKENS` is 2^20 or more.
    pub fn register(&mut self, registry: &Registry, base: Token) -> io::Result<()> {
        self.table.register(registry, base)
    }

    /// Whether an event with this token is for this server.
    pub fn owns(&self, token: Token) -> bool {
        self.table.owns(token)
    }

    /// Tells the server the wall clock's time in seconds since 1970, for the Date of its answers.
    /// To be called once a second when there is something to do; before the first call answers have
    /// no Date, as RFC 9110 section 6.6.1 asks of a server without a clock.
    pub fn set_wall_clock(&mut self, unix_seconds: u64) {
        self.table.driver_mut().date = Some(Date::from_unix_seconds(unix_seconds));
    }

    /// Deals with one event. Events of sockets that are gone, or that are not this server's, do
    /// nothing. Bounded work.
    pub fn handle(&mut self, registry: &Registry, event: &Event, now: Instant) {
        self.table
            .handle(registry, event.token(), event.is_read_closed(), now);
    }

    /// Does what is due at `now` without an event: connections that were not drained, deadlines,
    /// accepting again after a pause. Bounded work. The first call begins to serve; see
    /// [`Responder::begin`].
    pub fn advance(&mut self, registry: &Registry, now: Instant) {
        self.table.turn(registry, now);
    }

    /// Begins to serve at `now`, before the first call of [`advance`](Server::advance).
    fn begin(&mut self, now: Instant) {
        self.table.begin(now);
    }

    /// When [`advance`](Server::advance) has to be called at the latest; `None` if only events matter.
    pub fn deadline(&self) -> Option<Instant> {
        self.table.deadline()
    }

    /// List the server in good order: accepts what waits, closes the listeners, answers what has
    /// come, and closes idle connections. Whoever is in the middle of a request has `drain_duration`
    /// to finish it; [`is_finished`](Server::is_finished) then says so. A second call does nothing.
    pub fn stop(&mut self, registry: &Registry, now: Instant) {
        self.table.stop(registry, now);
    }

    /// Whether the server was stopped and has no connection left.
    pub fn is_finished(&self) -> bool {
        self.table.is_finished()
    }

    /// What the server has seen.
    pub fn counters(&self) -> Counters {
        self.table.counters()
    }

    /// Whether nobody could come any more before the server was stopped: every listener was shut down by
    /// somebody else who holds it, or by an administrator (`ss -K`), on Linux. A host that sees this stops
    /// the server, and ends or makes another; an error was logged for each of them.
    pub fn is_abandoned(&self) -> bool {
        self.table.is_abandoned()
    }

    /// The first TCP address that the server listens on: after binding to port 0, the port it got.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addresses().find_map(|address| match address {
            Address::Tcp(address) => Some(address),
            _ => None,
        })
    }

    /// Where the server listens.
    pub fn local_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.table.listeners().map(Listener::address)
    }
}

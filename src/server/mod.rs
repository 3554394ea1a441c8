//! Sockets and an event loop for [`Responder`], on mio.
//!
//! Reads and sends bytes; [`crate::http`] and [`crate::answer`] know what they mean. A host with a mio loop drives a
//! [`Server`] itself. [`Runner`] has a loop of its own, and [`spawn`] runs it on a thread.
//!
//! - A connection is read as soon as it is accepted, so a probe that closes after its answer never enters the table
//!   nor epoll.
//! - All connections share one buffer for reading and one for answers. Only an unfinished head, requests that are not
//!   answered yet, or an answer that the client does not read, are copied to the connection's own buffers. These are
//!   zeroed pages that cost nothing until they are written to.
//! - An answer that is too long for the shared buffer, such as that of `/metrics`, is written into one of two larger
//!   ones. It stays there until the client has read it, and other connections are served meanwhile. If both are in use,
//!   a new long answer evicts the one of their two connections whose client has read nothing for longer.
//! - The table has a fixed size. When it is full, the longest idle connection is evicted, unless its next request has
//!   arrived. If connections that are not idle hold half of the table, one of those is evicted: first one whose client
//!   does not read its answers, then one whose request was answered, then the one that has been sending its head
//!   longest.
//! - On Linux, the server reads from a Unix socket which process has connected, when the connection enters the table.
//!   It compares the processes of the first 16 connections of the list from which it evicts, and evicts one of the
//!   process that has most of these 16. So a process that connects as fast as it can evicts its own connections. For a
//!   TCP socket the process is not known.
//! - The work of each call is bounded: a number of accepts, and for each connection one buffer of requests or of
//!   answers. The rest waits in a queue, behind new connections.
//! - If accept(2) fails because the system is short of descriptors or memory, accepting pauses for [`ACCEPT_PAUSE`]. If
//!   it fails 16 times in a row because each new connection has failed, that listener pauses as long. Open connections
//!   are still served. No client can stop a server. If every listener was shut down by another process or an
//!   administrator, or if epoll fails, [`Runner::run`] ends with an error.

mod acceptor;
mod address;
mod buffers;
mod config;
mod conn;
mod counters;
mod driver;
mod inherited;
mod listener_set;
mod listeners;
mod memory;
mod metrics;
mod paths;
mod policy;
mod run;
mod served;
#[cfg(test)]
mod simulation;
mod slots;
mod socket;
mod sys;
mod table;
mod unix;

use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::event::Event;
use mio::{Registry, Token};

pub use address::{Address, AddressError};
pub use config::{Config, Memory};
pub use counters::Counters;
pub use inherited::{ListenFds, ListenFdsError};
pub use listeners::{BindError, BindErrorKind, Bound, Listeners};
pub use paths::{ListenerPaths, ListenerPathsError};
pub use run::{Runner, ServerHandle, ServerThread, THREAD_STACK_BYTES, now, spawn, spawn_with};
pub use served::EndpointsTooLarge;
pub use slots::Slot;
pub use sys::adopt;

use crate::answer::{NoPaths, Paths, Responder};
use crate::check::EndpointSet;
use crate::http::{Date, HeadCache};
use crate::limits::{CONNECTIONS_MAX, LISTENERS_MAX, Limits};
use crate::time::Instant;
use buffers::Buffers;
use driver::Driver;
use memory::Managed;
use served::{Busy, Mailbox, Room};
use slots::Slots;
use socket::Listener;
use table::Table;

/// How long accepting pauses: on all listeners after EMFILE, ENFILE, ENOBUFS or ENOMEM, and on one listener when its
/// accepts keep failing. Long enough not to use a whole CPU, and short enough for a probe's usual timeout of one
/// second. If descriptors are still short then, a connection is evicted, as if the table were full.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many tokens one server uses, from its base on. Generations are in higher bits.
pub const TOKENS: usize = LISTENERS_MAX + CONNECTIONS_MAX;

/// A health server in its caller's mio loop.
///
/// It owns no `Poll`: every call gets the caller's `Registry` and the present time. Several servers can share one
/// `Poll` if their tokens do not overlap.
///
/// Stop it before dropping it. A listening socket that another process holds too stays registered in epoll when it is
/// closed here, and then it cannot be removed.
///
/// Order of calls: [`register`](Server::register) once. Then, each time `Poll::poll` returns,
/// [`handle`](Server::handle) for each event for which [`owns`](Server::owns) is true, and then
/// [`advance`](Server::advance) once. Give `Poll::poll` a timeout that ends at [`deadline`](Server::deadline), and call
/// `advance` also if there was no event.
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
/// const YOURS: Token = Token(TOKENS); // and above
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
/// [`Runner`] does this, and calls [`set_wall_clock`](Server::set_wall_clock) once a second.
pub struct Server<'a, P = NoPaths> {
    table: Table<'a, Listener, P>,
}

impl<'a, P: Paths> Server<'a, P> {
    /// A server on `listeners` that answers with `responder`. It allocates all its memory here:
    /// [`Config::memory_bytes_max`].
    ///
    /// # Panics
    /// If a field of `config` is out of its bounds.
    pub fn new(responder: Responder<'a, P>, listeners: Listeners, config: Config) -> Self {
        config.assert_valid();
        let response_bytes = config.response_bytes(&responder);
        let long_bytes = config.long_response_bytes(&responder);
        let Config {
            limits,
            connections,
            ..
        } = config;
        let head_bytes = limits.request_head_bytes;
        let buffers = Buffers::new(connections, head_bytes, response_bytes, long_bytes);
        let heads = Managed::Own(Box::new(HeadCache::new()));
        let driver = Driver::new(responder, limits, buffers, heads);
        Server {
            table: Table::new(listeners.into_parts(), Slots::new(connections), driver),
        }
    }

    /// A server that answers with the endpoints of `set`, which can be replaced while it serves. `responder` has the
    /// other settings; its endpoints do not count. Memory is reserved for the answers of `set`, or as much as
    /// [`Config::response_bytes_min`] says if that is more.
    ///
    /// ```
    /// use healthz::server::{Config, Listeners, Server, spawn};
    /// use healthz::{Check, EndpointSet, Limits, Responder};
    /// use std::sync::Arc;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut listeners = Listeners::new();
    /// # listeners.bind(&"127.0.0.1:0".parse()?)?;
    /// let mut checks = vec![Arc::new(Check::ping()), Arc::new(Check::manual("disk"))];
    /// let set = Arc::new(EndpointSet::kubernetes(&checks)?);
    /// let config = Config {
    ///     // Later sets have at most 100 checks.
    ///     response_bytes_min: Responder::response_bytes_of(100, &Limits::DEFAULT),
    ///     ..Config::default()
    /// };
    /// let server = Server::with_endpoint_set(Responder::new(&[]), set, listeners, config);
    /// let thread = spawn(server)?;
    /// checks.push(Arc::new(Check::manual("network")));
    /// thread.handle().replace_endpoints(Arc::new(EndpointSet::kubernetes(&checks)?))?;
    /// # thread.stop();
    /// # thread.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// As [`Server::new`].
    pub fn with_endpoint_set(
        responder: Responder<'a, P>,
        set: Arc<EndpointSet>,
        listeners: Listeners,
        config: Config,
    ) -> Self {
        let of_set = responder.with_endpoint_set(&set);
        let config = Config {
            response_bytes_min: config.response_bytes(&of_set),
            long_response_bytes_min: config.long_response_bytes(&of_set),
            ..config
        };
        let mut server = Server::new(responder, listeners, config);
        server.table.driver_mut().responder.set_endpoints(set);
        server
    }

    /// A server with the default [`Config`] that listens on `address`, and nowhere else.
    ///
    /// On a machine without one of the two addresses of `localhost`, the server listens on the other. A warning is
    /// logged.
    ///
    /// # Errors
    /// As [`Listeners::bind`].
    pub fn bind(responder: Responder<'a, P>, address: &Address) -> Result<Self, BindError> {
        let mut listeners = Listeners::new();
        if let Some((missing, error)) = listeners.bind(address)?.missing {
            log::warn!("not listening on {missing}: {error}");
        }
        Ok(Server::new(responder, listeners, Config::default()))
    }

    /// A server in its caller's memory. It takes nothing from the heap, now or later, and holds as many connections
    /// as `memory` has slots. Dropping it empties the slots.
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
    /// If `limits` are out of bounds, if there are not 1 to 65,535 slots, or if there are fewer bytes than
    /// [`Config::buffer_bytes`]; the message says how many are needed.
    pub fn with_memory(
        responder: Responder<'a, P>,
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
            ..Config::default()
        };
        config.assert_valid();
        let needed = config.buffer_bytes(&responder);
        assert!(
            needed <= bytes.len(),
            "{} bytes of memory for heads and answers are too few; {needed} are needed",
            bytes.len()
        );
        let response_bytes = config.response_bytes(&responder);
        let long_bytes = config.long_response_bytes(&responder);
        let memory = Managed::Borrowed(bytes);
        let head_bytes = limits.request_head_bytes;
        let buffers = Buffers::in_memory(memory, head_bytes, response_bytes, long_bytes);
        // Its entries may come from an earlier server with other limits.
        *heads = HeadCache::new();
        let driver = Driver::new(responder, limits, buffers, Managed::Borrowed(heads));
        let slots = Slots::in_memory(Managed::Borrowed(slots));
        Server {
            table: Table::new(listeners.into_parts(), slots, driver),
        }
    }

    /// Registers the listeners with tokens from `base` on. The server uses [`TOKENS`] numbers from `base.0` on in the
    /// low 20 bits of a token, and all bits above. The caller's own tokens must be below 2^20 and none of those
    /// numbers.
    ///
    /// # Errors
    /// If the system cannot register a socket.
    ///
    /// # Panics
    /// If `base.0 + TOKENS` is 2^20 or more.
    pub fn register(&mut self, registry: &Registry, base: Token) -> io::Result<()> {
        self.table.register(registry, base)
    }

    /// True if an event with this token is for this server.
    pub fn owns(&self, token: Token) -> bool {
        self.table.owns(token)
    }

    /// Sets the time of the wall clock in seconds since 1970, for the Date of answers. Call it once a second while
    /// there are events. Before the first call, answers have no Date, as RFC 9110 section 6.6.1 requires of a server
    /// without a clock.
    pub fn set_wall_clock(&mut self, unix_seconds: u64) {
        self.table.driver_mut().date = Some(Date::from_unix_seconds(unix_seconds));
    }

    /// Handles one event. Events of closed sockets, and of other owners, do nothing. Bounded work.
    pub fn handle(&mut self, registry: &Registry, event: &Event, now: Instant) {
        self.table
            .handle(registry, event.token(), event.is_read_closed(), now);
    }

    /// Does what is due at `now` without an event: connections with more work, deadlines, accepting after a pause.
    /// Bounded work. The first call begins to serve; see [`Responder::begin`].
    pub fn advance(&mut self, registry: &Registry, now: Instant) {
        self.table.advance(registry, now);
    }

    /// Begins to serve at `now`, before the first call of [`advance`](Server::advance).
    fn begin(&mut self, now: Instant) {
        self.table.begin(now);
    }

    /// When [`advance`](Server::advance) must be called at the latest; `None` if only events matter.
    pub fn deadline(&self) -> Option<Instant> {
        self.table.deadline()
    }

    /// Stops the server: accepts waiting connections, closes the listeners, answers requests that have arrived, and
    /// closes idle connections. A client in the middle of a request has `drain_duration` to finish it. Then
    /// [`is_finished`](Server::is_finished) is true. A second call does nothing.
    pub fn stop(&mut self, registry: &Registry, now: Instant) {
        self.table.stop(registry, now);
    }

    /// True if the server was stopped and has no open connection.
    pub fn is_finished(&self) -> bool {
        self.table.is_finished()
    }

    /// Answers with the endpoints of `set` from now on, on open connections too. An answer that is half sent stays as
    /// it was. The limit of heartbeats that were never beaten starts at `now`; checks that are in both sets keep their
    /// states. The other settings of the [`Responder`] stay.
    ///
    /// The previous set is freed here, if there is no other `Arc` of it. For a server in a [`Runner`], use
    /// [`ServerHandle::replace_endpoints`].
    ///
    /// # Errors
    /// If the longest answer of the set needs more memory than is reserved; see [`Config::response_bytes_min`].
    pub fn replace_endpoints(
        &mut self,
        set: Arc<EndpointSet>,
        now: Instant,
    ) -> Result<(), EndpointsTooLarge> {
        let room = self.room();
        self.table.driver_mut().responder.replace(set, &room, now)
    }

    /// The room for answers, which later endpoints must fit in.
    fn room(&mut self) -> Room {
        let driver = self.table.driver_mut();
        Room {
            limits: driver.limits,
            response_bytes: driver.buffers.response_bytes(),
            long_bytes: driver.buffers.long_bytes(),
            metrics: driver.responder.metrics(),
        }
    }

    /// Takes the endpoints that another thread has put into the mailbox.
    fn deliver(&mut self, mailbox: &Mailbox, now: Instant) -> Result<(), Busy> {
        mailbox.deliver(&mut self.table.driver_mut().responder, now)
    }

    /// Shares the counters with handles. They begin at zero again.
    fn share_counters(&mut self) -> Arc<counters::LiveCounters> {
        self.table.driver_mut().counters.share()
    }

    /// The counters of the server.
    pub fn counters(&self) -> Counters {
        self.table.counters()
    }

    /// True if every listener was shut down externally before `stop`: by another process that holds it, or by an
    /// administrator (`ss -K`), on Linux. An error was logged for each. The host should stop the server, and exit or
    /// make another one.
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

    /// The addresses that the server listens on.
    pub fn local_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.table.listeners().map(Listener::address)
    }
}

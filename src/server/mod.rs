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
//! - The table is fixed. When it is full, the longest idle connection makes room, then one that has
//!   its answer, then the one longest in its head, then the one longest in not reading.
//! - Work per turn is bounded: so many accepts, so many reads a connection. What is left over comes
//!   next turn, after everybody else.
//! - Errors of accept(2) that mean the system is short of something pause accepting for
//!   [`ACCEPT_PAUSE`]; everything else goes on. No error stops a server.

mod buffers;
mod listener;
mod run;
mod slots;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod sys;

use core::ops::Range;
use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::vec;
use std::vec::Vec;

use mio::event::Event;
use mio::{Interest, Registry, Token};

pub use listener::{Address, AddressError, BindError, BindErrorKind, Bound, Listeners};
pub use run::{Handle, Runner, now, spawn};

use crate::answer::Responder;
use crate::http::{Connection, Context, Date, HeadCache, Next, Phase, Progress};
use crate::limits::{
    CONNECTIONS_DEFAULT, CONNECTIONS_MAX, LISTENERS_MAX, Limits, REQUEST_HEAD_BYTES_MAX,
    REQUEST_HEAD_BYTES_MIN,
};
use crate::time::Instant;
use buffers::Buffers;
use listener::{AcceptError, Stream};
use slots::{Queue, Slots};

/// How long accepting rests after EMFILE, ENFILE, ENOBUFS or ENOMEM. Long enough not to spin, short
/// enough for a probe's patience of one second.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted from one listener in one turn where the kernel tells only once of those that
/// wait. Where it tells again it is one: see [`Listener::arm`](listener::Listener::arm).
const ACCEPTS_PER_TURN: usize = 64;
/// Reads from one connection in one turn.
const READS_PER_TURN: usize = 4;

/// Token layout: the base and the index in the low bits, the slot's generation above them.
const TOKEN_BITS: u32 = 20;
const TOKEN_MASK: usize = (1 << TOKEN_BITS) - 1;
/// Tokens that one server uses, generations aside, from its base on.
pub const TOKENS: usize = LISTENERS_MAX + CONNECTIONS_MAX;
const _: () = assert!(TOKENS < TOKEN_MASK);

/// What a server may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Per connection.
    pub limits: Limits,
    /// Connections held at once, from 1 to [`CONNECTIONS_MAX`]. One more evicts one.
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
    /// is not used is not resident: a server at rest takes a few pages.
    pub fn memory_bytes_max(&self, responder: &Responder<'_>) -> usize {
        let slot = Slots::<Peer>::SLOT_BYTES + size_of::<u16>();
        let head_bytes = self.limits.request_head_bytes;
        let response_bytes = responder.response_bytes_max(&self.limits);
        self.connections * slot + Buffers::bytes(self.connections, head_bytes, response_bytes)
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
    /// Connections accepted.
    pub accepted: u64,
    /// Requests answered, refused ones included.
    pub answered: u64,
    /// Requests whose head was not acceptable (4xx, 501, 505) or did not come in time (408).
    pub refused: u64,
    /// Connections closed because the table was full.
    pub evicted: u64,
    /// Connections closed because a deadline passed.
    pub expired: u64,
    /// Connections that ended in an error of the socket, such as a reset by the peer.
    pub failed: u64,
    /// Spells in which accepting was paused because the system was short of something.
    pub accept_pauses: u64,
    /// Connections in the table.
    pub open: u64,
}

/// One connection.
struct Peer {
    stream: Stream,
    connection: Connection,
    /// Bytes of an unfinished head in the connection's own buffer.
    received: usize,
    /// Unsent bytes of answers in the connection's own buffer.
    unsent: Range<usize>,
    /// What follows once they are sent.
    after: Next,
    /// Registered for writing too: it was not taking its answers once.
    is_writing: bool,
    /// The peer has ended its side; the bytes before its end may not all have been read.
    has_ended: bool,
}

/// Slots that were not drained in their turn, in the order in which they come next. Each at most
/// once, so that it never grows; one that has changed hands since is read in vain, no more.
struct Runnable {
    next: Vec<u16>,
    current: Vec<u16>,
    is_waiting: Vec<bool>,
}

impl Runnable {
    fn new(connections: usize) -> Self {
        Runnable {
            next: Vec::with_capacity(connections),
            current: Vec::with_capacity(connections),
            is_waiting: vec![false; connections],
        }
    }

    fn push(&mut self, index: u16) {
        if let Some(is_waiting) = self.is_waiting.get_mut(usize::from(index))
            && !core::mem::replace(is_waiting, true)
        {
            self.next.push(index);
        }
    }

    /// Who waits now becomes this turn's; who comes from now on is the next turn's.
    fn begin_turn(&mut self) {
        debug_assert!(self.current.is_empty(), "a turn within a turn");
        core::mem::swap(&mut self.next, &mut self.current);
        // Taken from the back.
        self.current.reverse();
    }

    fn pop(&mut self) -> Option<u16> {
        let index = self.current.pop()?;
        if let Some(is_waiting) = self.is_waiting.get_mut(usize::from(index)) {
            *is_waiting = false;
        }
        Some(index)
    }

    fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

/// How serving a connection ended for this turn.
enum Outcome {
    /// Over: drop it.
    Closed,
    /// Over, by an error of the socket.
    Failed,
    /// Drained; waits for the next event. So many bytes at the start of `rx` are to be kept.
    Waiting { received: usize },
    /// Not drained; wants another turn.
    Runnable { received: usize },
    /// The peer does not take its answers: these bytes of `tx` are to be kept as well.
    Blocked {
        received: usize,
        unsent: Range<usize>,
    },
}

/// Where connections are served, one at a time: what every answer needs.
struct Desk<'a> {
    responder: Responder<'a>,
    limits: Limits,
    date: Option<Date>,
    is_last: bool,
    /// Boxed: a server is moved a few times before it runs, and stacks are small.
    heads: Box<HeadCache>,
    buffers: Buffers,
    counters: Counters,
}

/// A health responder on sockets, driven by its caller's mio loop.
///
/// It owns no `Poll`: every call takes the caller's `Registry` and the present. Several servers can
/// live in one `Poll` if their tokens do not overlap.
///
/// Order of calls: [`register`](Server::register) once; then, whenever `Poll::poll` returns,
/// [`handle`](Server::handle) for each event whose token [`owns`](Server::owns) says is ours, and
/// [`turn`](Server::turn) once after them, and no later than [`deadline`](Server::deadline).
/// [`Runner`] does just this.
pub struct Server<'a> {
    listeners: Listeners,
    slots: Slots<Peer>,
    desk: Desk<'a>,
    base: Token,
    runnable: Runnable,
    /// Listeners, as bits, that may still have connections to accept.
    acceptable: u32,
    /// Listeners, as bits, that are reported again as long as connections wait.
    armed: u32,
    accept_resumes: Option<Instant>,
    /// A shortage was logged, and has not ended since.
    is_short: bool,
    stops_at: Option<Instant>,
}

const _: () = assert!(LISTENERS_MAX <= u32::BITS as usize);

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
        Server {
            listeners,
            slots: Slots::new(connections),
            desk: Desk {
                responder,
                limits,
                date: None,
                is_last: false,
                heads: Box::new(HeadCache::new()),
                buffers: Buffers::new(connections, limits.request_head_bytes, response_bytes),
                counters: Counters::default(),
            },
            base: Token(0),
            runnable: Runnable::new(connections),
            acceptable: 0,
            armed: 0,
            accept_resumes: None,
            is_short: false,
            stops_at: None,
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
        assert!(
            base.0 + TOKENS <= TOKEN_MASK,
            "the base token leaves no room for the server's tokens"
        );
        self.base = base;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            listener.register(registry, Token(base.0 + index))?;
            self.acceptable |= 1 << index;
        }
        self.arm(registry);
        Ok(())
    }

    /// Whether an event with this token is for this server.
    pub fn owns(&self, token: Token) -> bool {
        (token.0 & TOKEN_MASK)
            .checked_sub(self.base.0)
            .is_some_and(|index| index < TOKENS)
    }

    /// Tells the server the wall clock's time in seconds since 1970, for the Date of its answers.
    /// To be called once a second when there is something to do; before the first call answers have
    /// no Date, as RFC 9110 section 6.6.1 asks of a server without a clock.
    pub fn set_wall_clock(&mut self, unix_seconds: u64) {
        self.desk.date = Some(Date::from_unix_seconds(unix_seconds));
    }

    /// Deals with one event. Events of sockets that are gone, or that are not this server's, do
    /// nothing. Bounded work.
    pub fn handle(&mut self, registry: &Registry, event: &Event, now: Instant) {
        let token = event.token();
        if !self.owns(token) {
            return;
        }
        let index = (token.0 & TOKEN_MASK) - self.base.0;
        match index.checked_sub(LISTENERS_MAX) {
            None => self.accept(registry, index, now),
            Some(index) => {
                let index = index as u16;
                // An event for a connection that was closed earlier in this batch is for nobody.
                if token == self.token(index) {
                    if let Some(peer) = self.slots.content_mut(index) {
                        peer.has_ended |= event.is_read_closed();
                    }
                    self.serve(registry, index, now);
                }
            }
        }
    }

    /// Does what is due at `now` without an event: connections that were not drained, deadlines,
    /// accepting again after a pause. Bounded work.
    pub fn turn(&mut self, registry: &Registry, now: Instant) {
        self.runnable.begin_turn();
        while let Some(index) = self.runnable.pop() {
            self.serve(registry, index, now);
        }
        self.expire(now);
        if self.accept_resumes.is_none_or(|resumes| resumes <= now) {
            if self.accept_resumes.take().is_some() {
                self.arm(registry);
            }
            for index in 0..self.listeners.len() {
                if self.acceptable & 1 << index != 0 {
                    self.accept(registry, index, now);
                }
            }
        }
    }

    /// When [`turn`](Server::turn) has to be called at the latest; `None` if only events matter.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.runnable.is_empty() || (self.acceptable != 0 && self.accept_resumes.is_none()) {
            return Some(Instant::ZERO);
        }
        let queues = Queue::ALL.iter().filter_map(|queue| {
            let (_, since) = self.slots.front(*queue)?;
            Some(since.saturating_add(self.time_to_live(*queue)))
        });
        let stops_at = self.stops_at.filter(|_| !self.is_finished());
        queues.chain(self.accept_resumes).chain(stops_at).min()
    }

    /// Ends the server in good order: accepts what waits, closes the listeners, answers what has
    /// come, and closes idle connections. Whoever is in the middle of a request has `drain_duration`
    /// to finish it; [`is_finished`](Server::is_finished) then says so.
    pub fn stop(&mut self, registry: &Registry, now: Instant) {
        self.desk.is_last = true;
        self.armed = 0;
        for index in 0..self.listeners.len() {
            self.accept(registry, index, now);
        }
        for listener in self.listeners.iter_mut() {
            // Dropped next, which takes it out of epoll as well.
            let _ = listener.deregister(registry);
        }
        self.listeners.clear();
        self.acceptable = 0;
        self.accept_resumes = None;
        for index in 0..self.slots.count() as u16 {
            self.serve(registry, index, now);
            if self
                .slots
                .place(index)
                .is_some_and(|(queue, _)| queue == Queue::Idle)
            {
                self.slots.remove(index);
            }
        }
        self.stops_at = Some(now.saturating_add(self.desk.limits.drain_duration));
    }

    /// Whether the server was stopped and has no connection left.
    pub fn is_finished(&self) -> bool {
        self.stops_at.is_some() && self.slots.occupied() == 0
    }

    /// What the server has seen.
    pub fn counters(&self) -> Counters {
        Counters {
            open: self.slots.occupied() as u64,
            ..self.desk.counters
        }
    }

    /// Where the server listens.
    pub fn local_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.listeners.local_addresses()
    }

    fn time_to_live(&self, queue: Queue) -> Duration {
        let limits = &self.desk.limits;
        match queue {
            Queue::Idle | Queue::Write => limits.idle_duration,
            Queue::Head => limits.head_duration,
            Queue::Drain => limits.drain_duration,
        }
    }

    /// Accepts what waits at a listener, as far as one turn goes.
    fn accept(&mut self, registry: &Registry, index: usize, now: Instant) {
        let bit = 1 << index;
        let is_armed = self.armed & bit != 0;
        if !is_armed {
            self.acceptable |= bit;
        }
        if self.accept_resumes.is_some() {
            return;
        }
        for _ in 0..if is_armed { 1 } else { ACCEPTS_PER_TURN } {
            let Some(listener) = self.listeners.get_mut(index) else {
                return;
            };
            match listener.accept() {
                Ok(stream) => {
                    self.is_short = false;
                    self.desk.counters.accepted += 1;
                    self.welcome(registry, stream, now);
                }
                Err(error) => match AcceptError::of(&error) {
                    AcceptError::Empty => {
                        self.acceptable &= !bit;
                        return;
                    }
                    AcceptError::Next => {}
                    AcceptError::Pause => return self.pause_accepting(registry, &error, now),
                },
            }
        }
    }

    /// Has waiting connections reported again and again, where that can be had.
    fn arm(&mut self, registry: &Registry) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.arm(registry, Token(self.base.0 + index)) {
                self.armed |= 1 << index;
                self.acceptable &= !(1 << index);
            }
        }
    }

    fn pause_accepting(&mut self, registry: &Registry, error: &io::Error, now: Instant) {
        self.accept_resumes = Some(now.saturating_add(ACCEPT_PAUSE));
        // What waits would be reported all the while.
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let is_armed = self.armed & 1 << index != 0;
            if is_armed
                && listener
                    .disarm(registry, Token(self.base.0 + index))
                    .is_ok()
            {
                self.armed &= !(1 << index);
                self.acceptable |= 1 << index;
            }
        }
        if !core::mem::replace(&mut self.is_short, true) {
            self.desk.counters.accept_pauses += 1;
            log::warn!(
                "cannot accept connections: {} (error {}); trying again every {} ms and serving those that are open",
                AcceptError::shortage(error),
                error.raw_os_error().unwrap_or_default(),
                ACCEPT_PAUSE.as_millis()
            );
        }
    }

    /// Serves a connection that was just accepted, and finds it a place if it stays.
    fn welcome(&mut self, registry: &Registry, stream: Stream, now: Instant) {
        let mut peer = Peer {
            stream,
            connection: Connection::new(now),
            received: 0,
            unsent: 0..0,
            after: Next::Read,
            is_writing: false,
            has_ended: false,
        };
        let outcome = self.desk.serve(&mut peer, 0, now);
        let outcome = match outcome {
            Outcome::Closed => return,
            Outcome::Failed => {
                self.desk.counters.failed += 1;
                return;
            }
            outcome => outcome,
        };
        if self.slots.is_full()
            && let Some(victim) = self.slots.victim()
        {
            self.desk.counters.evicted += 1;
            self.slots.remove(victim);
        }
        let Ok(index) = self.slots.insert(peer, Queue::Idle, now) else {
            debug_assert!(false, "an eviction made no room");
            return;
        };
        let token = self.token(index);
        let Some(peer) = self.slots.content_mut(index) else {
            return;
        };
        if let Err(error) = peer.stream.register(registry, token, Interest::READABLE) {
            let code = error.raw_os_error().unwrap_or_default();
            log::warn!("cannot register a connection with epoll (error {code}); it is closed");
            self.desk.counters.failed += 1;
            self.slots.remove(index);
            return;
        }
        self.settle(registry, index, outcome, now);
    }

    /// Serves a connection of the table.
    fn serve(&mut self, registry: &Registry, index: u16, now: Instant) {
        let Some(peer) = self.slots.content_mut(index) else {
            return;
        };
        if !peer.unsent.is_empty() {
            let unsent = self.desk.buffers.unsent(index, peer.unsent.clone());
            let is_last = matches!(peer.after, Next::Close { .. });
            match peer.stream.send(unsent, is_last) {
                Ok(sent) if sent == peer.unsent.len() => peer.unsent = 0..0,
                Ok(sent) => {
                    peer.unsent.start += sent;
                    return self.slots.move_to(index, Queue::Write, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.settle(registry, index, Outcome::Failed, now),
            }
        }
        // What is left of a head goes back to where the rest of it will be read.
        let received = core::mem::take(&mut peer.received);
        self.desk.buffers.restore(index, received);
        let answered = self.desk.counters.answered;
        let outcome = self.desk.serve(peer, received, now);
        if self.desk.counters.answered != answered {
            // Several answers may come within a millisecond; the last is still the last.
            self.slots.move_to(index, Queue::Idle, now);
        }
        self.settle(registry, index, outcome, now);
    }

    /// Keeps what a connection left in the shared buffers, and puts it into its queue.
    fn settle(&mut self, registry: &Registry, index: u16, outcome: Outcome, now: Instant) {
        let (received, unsent, is_runnable) = match outcome {
            Outcome::Closed => {
                self.slots.remove(index);
                return;
            }
            Outcome::Failed => {
                self.desk.counters.failed += 1;
                self.slots.remove(index);
                return;
            }
            Outcome::Waiting { received } => (received, 0..0, false),
            Outcome::Runnable { received } => (received, 0..0, true),
            Outcome::Blocked { received, unsent } => (received, unsent, false),
        };
        self.desk.buffers.keep(index, received, unsent.clone());
        let token = self.token(index);
        let place = self.slots.place(index);
        let Some(peer) = self.slots.content_mut(index) else {
            return;
        };
        peer.received = received;
        peer.unsent = 0..unsent.len();
        if !unsent.is_empty() && !core::mem::replace(&mut peer.is_writing, true) {
            let both = Interest::READABLE | Interest::WRITABLE;
            if peer.stream.reregister(registry, token, both).is_err() {
                return self.settle(registry, index, Outcome::Failed, now);
            }
        }
        if is_runnable {
            self.runnable.push(index);
        }
        let (queue, since) = match peer.connection.phase() {
            _ if !unsent.is_empty() => (Queue::Write, now),
            Phase::Idle => (Queue::Idle, peer.connection.since()),
            Phase::Head => (Queue::Head, peer.connection.since()),
            Phase::Body | Phase::Closing => (Queue::Drain, peer.connection.since()),
        };
        if place != Some((queue, since)) {
            self.slots.move_to(index, queue, since);
        }
    }

    /// Ends every connection whose time is up. Each queue is ordered by time: only fronts are looked at.
    fn expire(&mut self, now: Instant) {
        let is_over = self.stops_at.is_some_and(|stops_at| stops_at <= now);
        for queue in Queue::ALL {
            let time_to_live = self.time_to_live(queue);
            while let Some((index, since)) = self.slots.front(queue) {
                if !is_over && since.saturating_add(time_to_live) > now {
                    break;
                }
                self.desk.counters.expired += 1;
                if let Some(peer) = self.slots.content_mut(index)
                    && queue == Queue::Head
                {
                    self.desk.buffers.restore(index, peer.received);
                    self.desk.say_late(peer, now);
                }
                self.slots.remove(index);
            }
        }
    }

    fn token(&self, index: u16) -> Token {
        let low = self.base.0 + LISTENERS_MAX + usize::from(index);
        Token(low | (self.slots.generation(index) as usize) << TOKEN_BITS)
    }
}

impl Desk<'_> {
    /// Reads, answers and sends until the connection is drained, blocked, over, or has had its share.
    /// The first `filled` bytes of `rx` are left from before.
    fn serve(&mut self, peer: &mut Peer, mut filled: usize, now: Instant) -> Outcome {
        // Only answers that were blocked leave something to do before more is read.
        let mut is_behind = false;
        match core::mem::replace(&mut peer.after, Next::Read) {
            Next::Read => {}
            Next::Write => is_behind = true,
            Next::Close { lingers } => {
                peer.stream.shutdown();
                if !lingers {
                    return Outcome::Closed;
                }
            }
        }
        for _ in 0..READS_PER_TURN {
            let mut is_drained = false;
            if !core::mem::take(&mut is_behind) {
                let (rx, _) = self.buffers.shared();
                let room = rx.get_mut(filled..).unwrap_or_default();
                let size = room.len();
                debug_assert!(size > 0, "a connection waits with a full buffer");
                match peer.stream.read(room) {
                    Ok(0) => return self.read_end(peer, filled, now),
                    Ok(read) => {
                        // A short read took all there was; but behind an end there is still the end.
                        is_drained = read < size && !peer.has_ended;
                        filled += read;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Outcome::Waiting { received: filled };
                    }
                    Err(_) => return Outcome::Failed,
                }
            }
            if let Some(outcome) = self.answer(peer, &mut filled, now) {
                return outcome;
            }
            if is_drained {
                return Outcome::Waiting { received: filled };
            }
        }
        Outcome::Runnable { received: filled }
    }

    /// Answers what is in `rx` and sends; `None` if more can be read. What is left of `rx` is moved
    /// to its start.
    fn answer(&mut self, peer: &mut Peer, filled: &mut usize, now: Instant) -> Option<Outcome> {
        let mut used = 0;
        let outcome = loop {
            let context = Context {
                now,
                date: self.date.as_ref(),
                limits: &self.limits,
                is_last: self.is_last,
            };
            let was_closing = peer.connection.phase() == Phase::Closing;
            let (rx, tx) = self.buffers.shared();
            let rx = rx.get(used..*filled).unwrap_or_default();
            let responder = &self.responder;
            let progress = peer.connection.receive_cached(
                &context,
                &mut self.heads,
                rx,
                tx,
                &mut |request, writer| responder.respond(now, request, writer),
            );
            used += progress.consumed;
            match send(&mut self.counters, tx, peer, &progress) {
                Ok(unsent) if !unsent.is_empty() => {
                    break Some(Outcome::Blocked {
                        received: *filled - used,
                        unsent,
                    });
                }
                Ok(_) => {}
                Err(_) => break Some(Outcome::Failed),
            }
            match progress.next {
                Next::Write => {}
                Next::Read => break None,
                Next::Close { lingers } => {
                    if !was_closing {
                        peer.stream.shutdown();
                        if !lingers {
                            break Some(Outcome::Closed);
                        }
                    }
                    break None;
                }
            }
        };
        self.buffers.compact(used..*filled);
        *filled -= used;
        outcome
    }

    /// The peer has ended its side.
    fn read_end(&mut self, peer: &mut Peer, filled: usize, now: Instant) -> Outcome {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: true,
        };
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..filled).unwrap_or_default();
        let progress = peer.connection.receive_end(&context, rx, tx);
        // What the peer does not take now it does not get: it has left.
        let _ = send(&mut self.counters, tx, peer, &progress);
        Outcome::Closed
    }

    /// The peer has not finished its head in time; what came of it is in `rx`.
    fn say_late(&mut self, peer: &mut Peer, now: Instant) {
        let context = Context {
            now,
            date: self.date.as_ref(),
            limits: &self.limits,
            is_last: true,
        };
        let (rx, tx) = self.buffers.shared();
        let rx = rx.get(..peer.received).unwrap_or_default();
        let progress = peer.connection.expire(&context, rx, tx);
        let _ = send(&mut self.counters, tx, peer, &progress);
        peer.stream.shutdown();
    }
}

/// Counts and sends what a connection wrote; returns the part of `tx` that the peer did not take.
fn send(
    counters: &mut Counters,
    tx: &[u8],
    peer: &mut Peer,
    progress: &Progress,
) -> io::Result<Range<usize>> {
    counters.answered += u64::from(progress.answered);
    counters.refused += u64::from(progress.refused);
    let bytes = tx.get(..progress.written).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(0..0);
    }
    let sent = match peer
        .stream
        .send(bytes, matches!(progress.next, Next::Close { .. }))
    {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    if sent < bytes.len() {
        peer.after = match progress.next {
            // There may be whole requests left behind these answers, or not: it costs one look.
            Next::Read | Next::Write => Next::Write,
            close => close,
        };
    }
    Ok(sent..bytes.len())
}

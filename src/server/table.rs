//! The table of connections: takes accepted ones in, serves, evicts and expires them.
//!
//! Knows no bytes ([`super::driver`] reads and answers) and no listener ([`super::acceptor`] accepts), and takes its
//! decisions from [`super::policy`]. It knows sockets only through the traits of [`super::socket`] and gets the time
//! as an argument, so that it also runs in a simulation. Called by [`super::Server`].

use std::io;

use mio::Token;

use super::TOKENS;
use super::acceptor::{Accepted, Acceptor, Load};
use super::buffers::LongBuffer;
use super::conn::{Conn, Origin};
use super::counters::Counters;
use super::driver::{Driver, Outcome, Visit};
use super::listeners::ListenerParts;
use super::policy::{self, EVICTION_WINDOW, WaitReason};
use super::slots::Slots;
use super::socket::{ListenSocket, RegistryOf, StreamSocket};
use crate::answer::{NoPaths, Paths};
use crate::http::Phase;
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

#[cfg(test)]
mod view;

/// Token layout: the base and the index in the low bits, the slot's generation above them.
const TOKEN_BITS: u32 = 20;
const TOKEN_MASK: usize = (1 << TOKEN_BITS) - 1;
const _: () = assert!(TOKENS < TOKEN_MASK);

/// See the module.
pub(super) struct Table<'a, L: ListenSocket, P = NoPaths> {
    acceptor: Acceptor<L>,
    slots: Slots<'a, L::Slot>,
    driver: Driver<'a, P>,
    base: Token,
    /// The last connection could not be registered with epoll.
    is_unwatched: bool,
    /// [`Responder::begin`](crate::Responder::begin) was called.
    has_begun: bool,
    /// When the last connections are closed, after `stop`.
    stops_at: Option<Instant>,
}

impl<'a, L: ListenSocket, P: Paths> Table<'a, L, P> {
    pub(super) fn new(
        listeners: ListenerParts<L>,
        slots: Slots<'a, L::Slot>,
        mut driver: Driver<'a, P>,
    ) -> Self {
        driver.listener_paths = listeners.paths;
        Table {
            acceptor: Acceptor::new(listeners.sockets),
            slots,
            driver,
            base: Token(0),
            is_unwatched: false,
            has_begun: false,
            stops_at: None,
        }
    }

    pub(super) fn register(&mut self, registry: &RegistryOf<L>, base: Token) -> io::Result<()> {
        assert!(
            base.0 <= TOKEN_MASK - TOKENS,
            "the base token leaves no room for the server's tokens"
        );
        self.base = base;
        self.acceptor.register(registry, base)
    }

    #[inline]
    pub(super) fn owns(&self, token: Token) -> bool {
        (token.0 & TOKEN_MASK)
            .checked_sub(self.base.0)
            .is_some_and(|index| index < TOKENS)
    }

    /// Handles an event of the socket with `token`.
    pub(super) fn handle(
        &mut self,
        registry: &RegistryOf<L>,
        token: Token,
        is_read_closed: bool,
        now: Instant,
    ) {
        if !self.owns(token) {
            return;
        }
        let index = (token.0 & TOKEN_MASK) - self.base.0;
        match index.checked_sub(LISTENERS_MAX) {
            None => {
                if is_read_closed {
                    self.acceptor.end(index);
                }
                self.accept(registry, index, now);
            }
            Some(index) => {
                let index = index as u16;
                // An event of a connection that was closed earlier in this batch has an old generation.
                if token == self.token(index) {
                    if let Some(conn) = self.slots.content_mut(index) {
                        conn.has_ended |= is_read_closed;
                    }
                    // A connection in the run queue is served in its order there.
                    if !self.slots.is_runnable(index) {
                        self.serve(registry, index, now);
                    }
                }
            }
        }
    }

    /// At the first call, starts the limit of heartbeats that were never beaten.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.has_begun {
            self.has_begun = true;
            self.driver.responder.begin(now);
        }
    }

    pub(super) fn advance(&mut self, registry: &RegistryOf<L>, now: Instant) {
        self.begin(now);
        // A connection that enters the run queue meanwhile is served in the next call.
        let is_full_or_flooded = self.slots.is_full() || self.acceptor.is_flooded();
        let runnables_max = policy::runnables_max(is_full_or_flooded);
        for _ in 0..self.slots.runnable_count().min(runnables_max) {
            if let Some(index) = self.slots.pop_run_queue() {
                self.serve(registry, index, now);
            }
        }
        self.expire(registry, now);
        self.acceptor.resume(registry, now);
        for index in self.acceptor.acceptable() {
            self.accept(registry, index, now);
        }
        self.count_open();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.slots.runnable_count() > 0 || !self.acceptor.acceptable().is_empty() {
            return Some(Instant::ZERO);
        }
        let stops_at = self.stops_at.filter(|_| !self.is_finished());
        let resumes_at = self.acceptor.resumes_at();
        let others = resumes_at.into_iter().chain(stops_at);
        // Most probers close their connection, so often there is none.
        if self.slots.occupied() == 0 {
            return others.min();
        }
        let limits = &self.driver.limits;
        let queues = WaitReason::ALL.iter().filter_map(|queue| {
            let (_, since) = self.slots.front(*queue)?;
            Some(since.saturating_add(queue.time_to_live(limits)))
        });
        queues.chain(others).min()
    }

    pub(super) fn stop(&mut self, registry: &RegistryOf<L>, now: Instant) {
        if self.stops_at.is_some() {
            return;
        }
        self.driver.is_last = true;
        self.acceptor.begin_stop();
        // From here on, a connection closes when it is between requests.
        self.stops_at = Some(now.saturating_add(self.driver.limits.drain_duration));
        // Serve the connections before accepting more: otherwise one whose request was not read yet could be
        // evicted for a new one. Idle connections also give back their slots and descriptors now.
        for index in 0..self.slots.count() as u16 {
            self.serve(registry, index, now);
        }
        for index in 0..LISTENERS_MAX {
            self.acceptor.end_pauses();
            for _ in 0..policy::ACCEPT_ROUNDS_AT_STOP {
                self.accept(registry, index, now);
                if !self.acceptor.acceptable().contains(index) {
                    break;
                }
            }
        }
        self.acceptor.close(registry);
        self.count_open();
    }

    fn count_open(&self) {
        let open = &self.driver.counters.open;
        open.set(self.slots.occupied() as u64);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stops_at.is_some() && self.slots.occupied() == 0
    }

    /// True if every listener was shut down externally before `stop`.
    pub(super) fn is_abandoned(&self) -> bool {
        self.acceptor.is_abandoned()
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            open: self.slots.occupied() as u64,
            ..self.driver.counters.load()
        }
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &L> {
        self.acceptor.listeners()
    }

    #[inline]
    pub(super) fn driver_mut(&mut self) -> &mut Driver<'a, P> {
        &mut self.driver
    }

    /// Accepts connections that wait at a listener, at most as many as the policy allows now.
    fn accept(&mut self, registry: &RegistryOf<L>, index: usize, now: Instant) {
        let load = Load {
            connections: self.slots.count(),
            is_empty: self.slots.occupied() == 0,
            is_crowded: self.slots.is_full() || self.slots.runnable_count() > 0,
            is_stopping: self.driver.is_last,
        };
        let Some(mut round) = self.acceptor.begin(index, load) else {
            return;
        };
        loop {
            let counters = &self.driver.counters;
            let accepted = self.acceptor.next(&mut round, registry, counters, now);
            match accepted {
                Accepted::Connection(stream) => self.admit(registry, stream, index, now),
                Accepted::NeedsRoom => self.evict(),
                Accepted::Done => return,
            }
        }
    }

    /// Evicts one connection, if there is one.
    ///
    /// An idle connection whose request has arrived since the last poll is passed over. If all that are examined
    /// have one, the first is evicted anyway.
    #[cold]
    fn evict(&mut self) {
        let count_in = |queue| self.slots.count_in(queue);
        let Some(queue) = policy::eviction_list(self.slots.count(), count_in) else {
            return;
        };
        let mut owners = [None; EVICTION_WINDOW];
        let mut indexes = [0; EVICTION_WINDOW];
        let mut count = 0;
        let places = owners.iter_mut().zip(&mut indexes);
        for ((owner, place), (index, conn, _)) in places.zip(self.slots.queued(queue)) {
            (*owner, *place) = (conn.owner, index);
            count += 1;
        }
        let order = policy::eviction_order(owners.get(..count).unwrap_or_default());
        let mut order = order
            .iter()
            .filter_map(|place| indexes.get(usize::from(*place)));
        let Some(first) = order.clone().next().copied() else {
            return;
        };
        let mut victim = first;
        if queue == WaitReason::Idle {
            let looks_max = policy::eviction_looks_max(self.slots.count_in(queue));
            let mut examined = order.by_ref().take(looks_max);
            let silent = examined.find(|index| {
                let conn = self.slots.content(**index);
                conn.is_some_and(|conn| !conn.stream.has_input())
            });
            victim = silent.copied().unwrap_or(first);
        }
        self.driver.counters.evicted.add(1);
        self.remove(victim);
    }

    fn log_unwatched(&mut self, error: &io::Error) {
        if !core::mem::replace(&mut self.is_unwatched, true) {
            log::warn!(
                "cannot register connections with epoll (error {}); closing those that cannot be answered at once",
                error.raw_os_error().unwrap_or_default()
            );
        }
    }

    /// Serves a connection that was just accepted. If it stays open, gives it a slot.
    fn admit(
        &mut self,
        registry: &RegistryOf<L>,
        stream: L::Stream,
        listener: usize,
        now: Instant,
    ) {
        let origin = Origin {
            listener: listener as u8,
            is_restricted: matches!(self.driver.listener_paths.get(listener), Some(Some(_))),
            is_local: stream.is_local(),
        };
        let mut conn = Conn::new(stream, origin, now);
        let visit = Visit::First {
            is_flooded: self.acceptor.is_flooded(),
        };
        let mut outcome = self.driver.serve(&mut conn, 0, visit, now);
        if matches!(outcome, Outcome::Long { .. }) {
            if let Some(buffer) = self.long_buffer() {
                outcome = self.driver.serve_long(&mut conn, outcome, buffer, now);
            }
        }
        let outcome = match outcome {
            Outcome::Closed => {
                self.driver.counters.closed.add(1);
                conn.stream.close();
                return;
            }
            Outcome::Failed => {
                self.driver.counters.failed.add(1);
                return;
            }
            outcome => outcome,
        };
        let is_silent = conn.connection.phase() == Phase::Idle;
        if self.slots.is_full() && self.driver.is_last && is_silent {
            // It would be closed a moment later.
            self.driver.counters.closed.add(1);
            return;
        }
        conn.owner = conn.stream.owner();
        if self.slots.is_full() {
            self.evict();
        }
        let Ok(index) = self.slots.insert(conn, WaitReason::Idle, now) else {
            debug_assert!(false, "an eviction freed no slot");
            return;
        };
        let token = self.token(index);
        let Some(conn) = self.slots.content_mut(index) else {
            return;
        };
        if let Err(error) = conn.stream.register(registry, token) {
            self.log_unwatched(&error);
            self.driver.counters.failed.add(1);
            self.remove(index);
            return;
        }
        self.is_unwatched = false;
        self.requeue(registry, index, outcome, now);
    }

    /// Serves a connection that has a slot.
    fn serve(&mut self, registry: &RegistryOf<L>, index: u16, now: Instant) {
        let Some(conn) = self.slots.content_mut(index) else {
            return;
        };
        if !conn.unsent.is_empty() {
            let unsent = self.driver.buffers.unsent(index, conn.unsent.clone());
            let is_last = conn.connection.phase() == Phase::Closing;
            match conn.stream.send(unsent, is_last) {
                Ok(sent) if sent == conn.unsent.len() => {
                    conn.unsent = 0..0;
                    self.driver.buffers.release(index);
                    // More bytes may have arrived while the answer waited, so the connection is not closed here.
                    if is_last {
                        conn.stream.shutdown();
                    }
                }
                Ok(sent) => {
                    conn.unsent.start += sent;
                    return self.slots.move_to(index, WaitReason::Write, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.requeue(registry, index, Outcome::Failed, now),
            }
        }
        // An unfinished head goes back into the shared buffer, where the rest of it will be read.
        let received = core::mem::take(&mut conn.received);
        self.driver.buffers.restore(index, received);
        let answered = self.driver.counters.answered.get();
        let mut outcome = self.driver.serve(conn, received, Visit::Later, now);
        if matches!(outcome, Outcome::Long { .. }) {
            let buffer = self.long_buffer();
            // This connection has no unsent bytes, so it was not evicted for the buffer.
            if let (Some(buffer), Some(conn)) = (buffer, self.slots.content_mut(index)) {
                outcome = self.driver.serve_long(conn, outcome, buffer, now);
            }
        }
        if self.driver.counters.answered.get() != answered {
            // To the back of its list, also if the last answer was in the same millisecond.
            self.slots.move_to(index, WaitReason::Idle, now);
        }
        self.requeue(registry, index, outcome, now);
    }

    /// Copies what a connection left in the shared buffers into its own, and puts it into the list of what it
    /// waits for.
    fn requeue(&mut self, registry: &RegistryOf<L>, index: u16, outcome: Outcome, now: Instant) {
        let (received, unsent, is_runnable, long) = match outcome {
            Outcome::Closed => {
                self.driver.counters.closed.add(1);
                self.remove(index);
                return;
            }
            Outcome::Failed => {
                self.driver.counters.failed.add(1);
                self.remove(index);
                return;
            }
            Outcome::Waiting { received } => (received, 0..0, false, None),
            Outcome::Runnable { received } | Outcome::Long { received, .. } => {
                (received, 0..0, true, None)
            }
            Outcome::Blocked {
                received,
                unsent,
                long,
            } => (received, unsent, false, long),
        };
        let unsent = match long {
            None => {
                self.driver.buffers.keep(index, received, unsent.clone());
                0..unsent.len()
            }
            Some(buffer) => {
                self.driver.buffers.keep(index, received, 0..0);
                self.driver.buffers.own(buffer, index);
                unsent
            }
        };
        let token = self.token(index);
        let place = self.slots.place(index);
        let Some(conn) = self.slots.content_mut(index) else {
            return;
        };
        conn.received = received;
        conn.unsent = unsent.clone();
        if !unsent.is_empty()
            && !core::mem::replace(&mut conn.is_writing, true)
            && conn.stream.register_writing(registry, token).is_err()
        {
            return self.requeue(registry, index, Outcome::Failed, now);
        }
        // `Connection` counts from when the answer was written to the buffer. If sending was blocked, count from
        // now.
        let answered = match place {
            Some((WaitReason::Write, _)) => now,
            _ => conn.connection.since(),
        };
        let (queue, since) = match conn.connection.phase() {
            _ if !unsent.is_empty() => (WaitReason::Write, now),
            Phase::Idle => (WaitReason::Idle, answered),
            Phase::Head => (WaitReason::Head, conn.connection.since()),
            Phase::Body | Phase::Closing => (WaitReason::Drain, answered),
        };
        if is_runnable {
            self.slots.push_run_queue(index);
        }
        // A connection that stays in its list keeps its deadline.
        if place.is_none_or(|(was, then)| was != queue || then < since) {
            self.slots.move_to(index, queue, since);
        }
        // Empty lines are not a request yet.
        let is_between = queue == WaitReason::Idle || queue == WaitReason::Head && received == 0;
        if is_between && !is_runnable && self.stops_at.is_some() {
            self.driver.counters.closed.add(1);
            self.remove(index);
        }
    }

    /// Ends every connection whose deadline has passed. Each list is ordered by time, so only its front is
    /// examined.
    fn expire(&mut self, registry: &RegistryOf<L>, now: Instant) {
        if self.slots.occupied() == 0 {
            return;
        }
        let is_over = self.stops_at.is_some_and(|stops_at| stops_at <= now);
        if is_over {
            // Serve each connection once more, as below; then all of them end.
            for index in 0..self.slots.count() as u16 {
                self.serve(registry, index, now);
            }
        }
        // `Write` first: when its answer is sent at last, a connection may move to the list `Head`, and already be
        // overdue there.
        for queue in [
            WaitReason::Write,
            WaitReason::Idle,
            WaitReason::Head,
            WaitReason::Drain,
        ] {
            // Each connection at most once: a served one goes to the back, and with a limit of zero it would
            // be overdue again there.
            for _ in 0..self.slots.count() {
                let Some((index, since)) = self.slots.front(queue) else {
                    break;
                };
                let time_to_live = queue.time_to_live(&self.driver.limits);
                if !is_over && since.saturating_add(time_to_live) > now {
                    break;
                }
                // Bytes may have arrived in time without having been reported: after a stall there can be
                // more events than one batch holds.
                if !is_over {
                    self.serve(registry, index, now);
                    if self.slots.front(queue) != Some((index, since)) {
                        continue;
                    }
                }
                self.driver.counters.expired.add(1);
                let conn = self.slots.content_mut(index);
                if let Some(conn) = conn.filter(|_| queue == WaitReason::Head) {
                    self.driver.buffers.restore(index, conn.received);
                    self.driver.send_timeout(conn, now);
                }
                self.remove(index);
            }
        }
    }

    /// A buffer for a long answer. If all are in use, the connection that has waited longest for its client to read is
    /// evicted, so that clients that do not read cannot keep others from their answers.
    #[cold]
    fn long_buffer(&mut self) -> Option<LongBuffer> {
        let free = self.driver.buffers.free_long();
        if free.is_some() {
            return free;
        }
        // By their order in the list: their times may be equal.
        let is_owner = |index: &u16| self.driver.buffers.owners().any(|owner| owner == *index);
        let waiting = self.slots.queued(WaitReason::Write);
        let oldest = waiting.map(|(index, ..)| index).find(is_owner);
        if let Some(index) = oldest {
            self.driver.counters.evicted.add(1);
            self.remove(index);
        }
        let freed = self.driver.buffers.free_long();
        debug_assert!(freed.is_some(), "an eviction freed no buffer");
        freed
    }

    /// Ends a connection, and frees its slot and its buffer for a long answer.
    fn remove(&mut self, index: u16) {
        self.driver.buffers.release(index);
        self.slots.remove(index);
    }

    fn token(&self, index: u16) -> Token {
        let low = self.base.0 + LISTENERS_MAX + usize::from(index);
        Token(low | (self.slots.generation(index) as usize) << TOKEN_BITS)
    }
}

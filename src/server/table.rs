//! The table of connections and its listeners: accepts, serves, evicts and expires connections.
//!
//! Knows no bytes ([`super::driver`] reads and answers) and takes its decisions from [`super::policy`]. It
//! knows sockets only through the traits of [`super::socket`] and gets the time as an argument, so that it
//! also runs in a simulation. Called by [`super::Server`].

use core::time::Duration;
use std::io;

use mio::Token;

use super::conn::Conn;
use super::counters::Counters;
use super::driver::{Driver, Outcome};
use super::policy::{self, ACCEPT_FAILURES, ACCEPTS_MAX, EVICTION_LOOKS, EVICTION_WINDOW, Trouble};
use super::slots::{Slots, WaitReason};
use super::socket::{AcceptError, ListenSocket, RegistryOf, StreamSocket};
use super::{ACCEPT_PAUSE, TOKENS};
use crate::http::{Next, Phase};
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

#[cfg(test)]
mod view;

/// Rounds of [`ACCEPTS_MAX`] when the server stops: as many connections as the longest queue holds by
/// default (`net.core.somaxconn`). A connection that is still in the queue when the listener closes is reset.
const ACCEPT_ROUNDS_AT_STOP: usize = 4096 / ACCEPTS_MAX;

/// Token layout: the base and the index in the low bits, the slot's generation above them.
const TOKEN_BITS: u32 = 20;
const TOKEN_MASK: usize = (1 << TOKEN_BITS) - 1;
const _: () = assert!(TOKENS < TOKEN_MASK);

/// See the module.
pub(super) struct Table<'a, L: ListenSocket> {
    /// Without gaps at first; a listener that was shut down leaves one.
    listeners: [Option<L>; LISTENERS_MAX],
    slots: Slots<'a, Conn<L::Stream>>,
    driver: Driver<'a>,
    base: Token,
    /// A bit for each listener that may have connections to accept.
    acceptable: u32,
    /// A bit for each listener that epoll reports as long as connections wait (level-triggered).
    armed: u32,
    /// When the present pause in accepting began.
    accept_paused: Option<Instant>,
    /// A bit for each listener that was shut down; connections in its queue are still accepted.
    ended: u32,
    /// Accepting was paused because the system is short of something, and has not succeeded since.
    is_short: bool,
    /// Decides whether a shortage is logged.
    shortage: Trouble,
    /// Consecutive calls of accept(2) that failed with an error of the connection.
    failures: u32,
    /// Decides whether such failures are logged.
    refusal: Trouble,
    /// A connection was evicted for its descriptor, and none was accepted since.
    has_made_room: bool,
    /// The last connection could not be registered with epoll.
    is_unwatched: bool,
    has_logged_non_loopback: bool,
    /// The checks know when serving began.
    has_begun: bool,
    stops_at: Option<Instant>,
    /// Every listener was shut down externally before `stop`.
    is_abandoned: bool,
}

const _: () = assert!(LISTENERS_MAX <= u32::BITS as usize);

impl<'a, L: ListenSocket> Table<'a, L> {
    pub(super) fn new(
        listeners: [Option<L>; LISTENERS_MAX],
        slots: Slots<'a, Conn<L::Stream>>,
        driver: Driver<'a>,
    ) -> Self {
        Table {
            listeners,
            slots,
            driver,
            base: Token(0),
            acceptable: 0,
            armed: 0,
            accept_paused: None,
            ended: 0,
            is_short: false,
            shortage: Trouble::default(),
            failures: 0,
            refusal: Trouble::default(),
            has_made_room: false,
            is_unwatched: false,
            has_logged_non_loopback: false,
            has_begun: false,
            stops_at: None,
            is_abandoned: false,
        }
    }

    pub(super) fn register(&mut self, registry: &RegistryOf<L>, base: Token) -> io::Result<()> {
        assert!(
            base.0 <= TOKEN_MASK - TOKENS,
            "the base token leaves no room for the server's tokens"
        );
        self.base = base;
        for (index, listener) in present(&mut self.listeners) {
            listener.register(registry, Token(base.0 + index))?;
            self.acceptable |= 1 << index;
        }
        self.arm(registry);
        Ok(())
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
                    self.ended |= 1 << index;
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

    /// Tells the checks that serving begins at `now`, at the first call.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.has_begun {
            self.has_begun = true;
            self.driver.responder.begin(now);
        }
    }

    pub(super) fn advance(&mut self, registry: &RegistryOf<L>, now: Instant) {
        self.begin(now);
        // A connection that enters the run queue meanwhile is served in the next call.
        let runnables_max = policy::runnables_max(self.slots.is_full() || self.driver.is_flooded);
        for _ in 0..self.slots.runnable_count().min(runnables_max) {
            if let Some(index) = self.slots.pop_run_queue() {
                self.serve(registry, index, now);
            }
        }
        self.expire(registry, now);
        // If the host's clock goes back, the pause ends, so that it is not prolonged by as much.
        let is_in_pause =
            |began: Instant| (began..began.saturating_add(ACCEPT_PAUSE)).contains(&now);
        if !self.accept_paused.is_some_and(is_in_pause) {
            if self.accept_paused.take().is_some() {
                // Another listener may work: it is served between the failures of this one.
                self.failures = 0;
                self.arm(registry);
            }
            let mut acceptable = self.acceptable;
            while acceptable != 0 {
                self.accept(registry, acceptable.trailing_zeros() as usize, now);
                acceptable &= acceptable - 1;
            }
        }
        self.count_open();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.slots.runnable_count() > 0 || (self.acceptable != 0 && self.accept_paused.is_none())
        {
            return Some(Instant::ZERO);
        }
        let queues = WaitReason::ALL.iter().filter_map(|queue| {
            let (_, since) = self.slots.front(*queue)?;
            Some(since.saturating_add(self.time_to_live(*queue)))
        });
        let stops_at = self.stops_at.filter(|_| !self.is_finished());
        let resumes = self
            .accept_paused
            .map(|began| began.saturating_add(ACCEPT_PAUSE));
        queues.chain(resumes).chain(stops_at).min()
    }

    pub(super) fn stop(&mut self, registry: &RegistryOf<L>, now: Instant) {
        if self.stops_at.is_some() {
            return;
        }
        self.driver.is_last = true;
        self.driver.is_flooded = false;
        self.armed = 0;
        // From here on, a connection closes when it is between requests.
        self.stops_at = Some(now.saturating_add(self.driver.limits.drain_duration));
        // Serve the connections before accepting more: otherwise one whose request was not read yet could be
        // evicted for a new one. Idle connections also give back their slots and descriptors now.
        for index in 0..self.slots.count() as u16 {
            self.serve(registry, index, now);
        }
        for index in 0..LISTENERS_MAX {
            // A shortage may be over, and there is no later attempt.
            self.accept_paused = None;
            for _ in 0..ACCEPT_ROUNDS_AT_STOP {
                self.accept(registry, index, now);
                if self.acceptable & 1 << index == 0 {
                    break;
                }
            }
        }
        for mut listener in self.listeners.iter_mut().filter_map(Option::take) {
            // An error does not matter: closing the listener removes it from epoll too.
            let _ = listener.deregister(registry);
        }
        self.acceptable = 0;
        self.accept_paused = None;
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
        self.is_abandoned
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            open: self.slots.occupied() as u64,
            ..self.driver.counters.load()
        }
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &L> {
        self.listeners.iter().flatten()
    }

    #[inline]
    pub(super) fn driver_mut(&mut self) -> &mut Driver<'a> {
        &mut self.driver
    }

    fn time_to_live(&self, queue: WaitReason) -> Duration {
        let limits = &self.driver.limits;
        match queue {
            WaitReason::Idle | WaitReason::Write => limits.idle_duration,
            WaitReason::Head => limits.head_duration,
            WaitReason::Drain => limits.drain_duration,
        }
    }

    /// Accepts connections that wait at a listener, at most as many as the policy allows now.
    fn accept(&mut self, registry: &RegistryOf<L>, index: usize, now: Instant) {
        let bit = 1 << index;
        let is_armed = self.armed & bit != 0;
        if !is_armed {
            self.acceptable |= bit;
        }
        if self.accept_paused.is_some() {
            return;
        }
        let is_crowded = self.slots.is_full() || self.slots.runnable_count() > 0;
        let connections = self.slots.count();
        // A flood is over when the queue was found empty. One accept at a time never finds that, so free slots count
        // as the end too.
        self.driver.is_flooded &= is_crowded;
        let accepts_max =
            policy::accepts_max(connections, is_armed, is_crowded, self.driver.is_last);
        for _ in 0..accepts_max {
            let Some(Some(listener)) = self.listeners.get(index) else {
                self.acceptable &= !bit;
                return;
            };
            match listener.accept() {
                Ok(stream) => {
                    // If a connection was evicted for this one, the shortage has not ended.
                    let was_made = core::mem::take(&mut self.has_made_room);
                    self.is_short &= was_made;
                    self.failures = 0;
                    self.driver.counters.accepted.add(1);
                    self.admit(registry, stream, now);
                    if was_made {
                        // Without a free descriptor, accept(2) fails also if no connection waits.
                        return;
                    }
                }
                Err(error) => match AcceptError::of(&error) {
                    // For a Unix socket that was shut down, accept(2) says only that its queue is empty.
                    AcceptError::Empty if self.ended & bit != 0 => {
                        return self.give_up(registry, index);
                    }
                    AcceptError::Empty => {
                        self.acceptable &= !bit;
                        self.failures = 0;
                        self.driver.is_flooded = false;
                        return;
                    }
                    AcceptError::Interrupted => {}
                    AcceptError::Gone => {
                        self.driver.counters.aborted.add(1);
                        self.failures = self.failures.saturating_add(1);
                        if self.failures >= ACCEPT_FAILURES && !self.driver.is_last {
                            return self.pause_for_failures(registry, &error, now);
                        }
                    }
                    AcceptError::NonLoopback => self.count_non_loopback(),
                    AcceptError::Dead => return self.give_up(registry, index),
                    AcceptError::Pause if self.make_room(&error, now) => {}
                    AcceptError::Pause => return self.pause_accepting(registry, &error, now),
                },
            }
        }
        self.driver.is_flooded = accepts_max > 1 && !self.driver.is_last;
    }

    /// Drops a listener that was shut down by another process that holds it, or by an administrator (`ss -K`).
    /// Epoll would report it for ever.
    #[cold]
    fn give_up(&mut self, registry: &RegistryOf<L>, index: usize) {
        let Some(mut listener) = self.listeners.get_mut(index).and_then(Option::take) else {
            return;
        };
        log::error!(
            "{} was shut down externally; no longer listening there",
            listener.name()
        );
        // Dropped next, which takes it out of epoll as well.
        let _ = listener.deregister(registry);
        self.armed &= !(1 << index);
        self.acceptable &= !(1 << index);
        let is_last_listener = self.listeners.iter().all(Option::is_none);
        self.is_abandoned = is_last_listener && !self.driver.is_last;
    }

    /// Evicts a connection if accept(2) found no free descriptor and a pause did not help. Without this, in a process
    /// with fewer descriptors than slots, open connections could keep new ones out for ever. At most
    /// one is evicted for each pause, in case another part of the process takes its descriptor. When the server
    /// stops there is no pause, and only idle connections are evicted, because accept(2) does not say whether
    /// a connection waits at all.
    #[cold]
    fn make_room(&mut self, error: &io::Error, now: Instant) -> bool {
        let may_evict = match self.driver.is_last {
            true => self.slots.front(WaitReason::Idle).is_some(),
            false => self.is_short,
        };
        if !may_evict || self.has_made_room || !AcceptError::is_of_descriptors(error) {
            return false;
        }
        self.has_made_room = self.evict();
        if self.is_short {
            // The shortage lasts, so it is not logged again.
            self.shortage.begins(now);
        }
        self.has_made_room
    }

    /// Evicts one connection. Returns false if there is none.
    ///
    /// An idle connection whose request has arrived since the last poll is passed over. If all that are examined
    /// have one, the first is evicted anyway. At most half of the idle connections, and at most [`EVICTION_LOOKS`], are
    /// examined. Otherwise new connections, which have sent nothing yet, would be evicted instead of those that send
    /// requests all the time.
    #[cold]
    fn evict(&mut self) -> bool {
        let Some(queue) = self.slots.eviction_list(self.driver.is_last) else {
            return false;
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
            return false;
        };
        let mut victim = first;
        if queue == WaitReason::Idle {
            let looks = self.slots.count_in(WaitReason::Idle).div_ceil(2);
            let mut examined = order.by_ref().take(looks.min(EVICTION_LOOKS));
            let silent = examined.find(|index| {
                let conn = self.slots.peek(**index);
                conn.is_some_and(|conn| !conn.stream.has_input())
            });
            victim = silent.copied().unwrap_or(first);
        }
        self.driver.counters.evicted.add(1);
        self.slots.remove(victim);
        true
    }

    /// Makes epoll report listeners as long as connections wait, where the system can do that.
    fn arm(&mut self, registry: &RegistryOf<L>) {
        for (index, listener) in present(&mut self.listeners) {
            if listener.arm(registry, Token(self.base.0 + index)) {
                self.armed |= 1 << index;
                self.acceptable &= !(1 << index);
            }
        }
    }

    /// Pauses accepting because the system is short of something.
    #[cold]
    fn pause_accepting(&mut self, registry: &RegistryOf<L>, error: &io::Error, now: Instant) {
        self.pause(registry, now);
        let has_begun = self.shortage.begins(now);
        if !core::mem::replace(&mut self.is_short, true) {
            self.driver.counters.accept_pauses.add(1);
            if has_begun {
                log::warn!(
                    "cannot accept connections: {} (error {}); trying again every {} ms; open connections are served",
                    AcceptError::shortage(error),
                    error.raw_os_error().unwrap_or_default(),
                    ACCEPT_PAUSE.as_millis()
                );
            }
        }
    }

    /// Pauses accepting because accept(2) keeps failing with errors of the connection. The cause is elsewhere: a
    /// firewall or a security module refuses all of them, or the network is down. Going on would use a whole
    /// CPU.
    #[cold]
    fn pause_for_failures(&mut self, registry: &RegistryOf<L>, error: &io::Error, now: Instant) {
        self.pause(registry, now);
        if self.refusal.begins(now) {
            self.driver.counters.accept_pauses.add(1);
            log::warn!(
                "cannot accept connections: accept(2) failed {ACCEPT_FAILURES} times in a row, last with: {error}; trying again every {} ms; open connections are served",
                ACCEPT_PAUSE.as_millis()
            );
        }
    }

    #[cold]
    fn pause(&mut self, registry: &RegistryOf<L>, now: Instant) {
        self.accept_paused = Some(now);
        self.has_made_room = false;
        // Epoll would report waiting connections during the whole pause.
        for (index, listener) in present(&mut self.listeners) {
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
    }

    fn log_unwatched(&mut self, error: &io::Error) {
        if !core::mem::replace(&mut self.is_unwatched, true) {
            log::warn!(
                "cannot register connections with epoll (error {}); closing those that cannot be answered at once",
                error.raw_os_error().unwrap_or_default()
            );
        }
    }

    /// Counts a connection from another machine to a loopback address. Logs only the first.
    #[cold]
    fn count_non_loopback(&mut self) {
        self.driver.counters.non_loopback.add(1);
        if !core::mem::replace(&mut self.has_logged_non_loopback, true) {
            log::warn!(
                "closed a connection to a loopback address that came from another address; set net.ipv4.conf.*.route_localnet to 0 to keep other machines out"
            );
        }
    }

    /// Serves a connection that was just accepted. If it stays open, gives it a slot.
    fn admit(&mut self, registry: &RegistryOf<L>, stream: L::Stream, now: Instant) {
        let mut conn = Conn::new(stream, now);
        let outcome = self.driver.serve(&mut conn, 0, true, now);
        let outcome = match outcome {
            Outcome::Closed => return,
            Outcome::Failed => {
                self.driver.counters.failed.add(1);
                return;
            }
            outcome => outcome,
        };
        let is_silent = conn.connection.phase() == Phase::Idle;
        if self.slots.is_full() && self.driver.is_last && is_silent {
            // It would be closed a moment later.
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
            self.slots.remove(index);
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
            let is_last = matches!(conn.after, Next::Close { .. });
            match conn.stream.send(unsent, is_last) {
                Ok(sent) if sent == conn.unsent.len() => conn.unsent = 0..0,
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
        let outcome = self.driver.serve(conn, received, false, now);
        if self.driver.counters.answered.get() != answered {
            // To the back of its list, also if the last answer was in the same millisecond.
            self.slots.move_to(index, WaitReason::Idle, now);
        }
        self.requeue(registry, index, outcome, now);
    }

    /// Copies what a connection left in the shared buffers into its own, and puts it into the list of what it
    /// waits for.
    fn requeue(&mut self, registry: &RegistryOf<L>, index: u16, outcome: Outcome, now: Instant) {
        let (received, unsent, is_runnable) = match outcome {
            Outcome::Closed => {
                self.slots.remove(index);
                return;
            }
            Outcome::Failed => {
                self.driver.counters.failed.add(1);
                self.slots.remove(index);
                return;
            }
            Outcome::Waiting { received } => (received, 0..0, false),
            Outcome::Runnable { received } => (received, 0..0, true),
            Outcome::Blocked { received, unsent } => (received, unsent, false),
        };
        self.driver.buffers.keep(index, received, unsent.clone());
        let token = self.token(index);
        let place = self.slots.place(index);
        let Some(conn) = self.slots.content_mut(index) else {
            return;
        };
        conn.received = received;
        conn.unsent = 0..unsent.len();
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
            self.slots.remove(index);
        }
    }

    /// Ends every connection whose deadline has passed. Each list is ordered by time, so only its front is
    /// examined.
    fn expire(&mut self, registry: &RegistryOf<L>, now: Instant) {
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
            let time_to_live = self.time_to_live(queue);
            // Each connection at most once: a served one goes to the back, and with a limit of zero it would
            // be overdue again there.
            for _ in 0..self.slots.count() {
                let Some((index, since)) = self.slots.front(queue) else {
                    break;
                };
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
                if let Some(conn) = self.slots.content_mut(index)
                    && queue == WaitReason::Head
                {
                    self.driver.buffers.restore(index, conn.received);
                    self.driver.send_timeout(conn, now);
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

/// The listeners that still exist, with their indexes.
fn present<L>(listeners: &mut [Option<L>]) -> impl Iterator<Item = (usize, &mut L)> {
    let listeners = listeners.iter_mut().enumerate();
    listeners.filter_map(|(index, listener)| Some((index, listener.as_mut()?)))
}

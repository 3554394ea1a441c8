//! The table of connections and the listeners that fill it: who is accepted, whose turn it is, who
//! has to go, and when.
//!
//! Decides, and leaves bytes to [`super::driver`]. Knows sockets only as [`super::socket`]'s traits, and
//! the time as an argument, so that all of it runs in a simulation too.

use core::time::Duration;
use std::io;

use mio::Token;

use super::driver::{Conn, Driver, Outcome};
use super::policy::{
    self, ACCEPT_FAILURES, ACCEPTS_PER_TURN, EVICTION_LOOKS, EVICTION_WINDOW, Trouble,
};
use super::slots::{Slots, WaitReason};
use super::socket::{AcceptError, ListenSocket, RegistryOf, StreamSocket};
use super::{ACCEPT_PAUSE, Counters, TOKENS};
use crate::http::{Next, Phase};
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

#[cfg(test)]
mod view;

/// Times so many when the server stops: all that wait in a queue of the kernel's default length
/// (`net.core.somaxconn`). Who is not accepted then is reset.
const ACCEPT_ROUNDS_AT_STOP: usize = 4096 / ACCEPTS_PER_TURN;

/// Token layout: the base and the index in the low bits, the slot's generation above them.
const TOKEN_BITS: u32 = 20;
const TOKEN_MASK: usize = (1 << TOKEN_BITS) - 1;
const _: () = assert!(TOKENS < TOKEN_MASK);

/// See the module.
pub(super) struct Table<'a, L: ListenSocket> {
    /// From the front.
    listeners: [Option<L>; LISTENERS_MAX],
    slots: Slots<'a, Conn<L::Stream>>,
    driver: Driver<'a>,
    base: Token,
    /// Listeners, as bits, that may still have connections to accept.
    acceptable: u32,
    /// Listeners, as bits, that are reported again as long as connections wait.
    armed: u32,
    /// When the pause in accepting began, in one.
    accept_paused: Option<Instant>,
    /// Listeners, as bits, to which nobody can come any more; who waits is still accepted.
    ended: u32,
    /// Accepting was paused for want of something, and has not succeeded since.
    is_short: bool,
    /// The same, as it is logged.
    shortage: Trouble,
    /// Accepts that failed in a row, each as if by its connection's fault, and what is logged of that.
    failures: u32,
    refusal: Trouble,
    /// Somebody had to go in it, and nobody has come since.
    has_made_room: bool,
    /// The same of a connection that could not be registered.
    is_unwatched: bool,
    has_logged_non_loopback: bool,
    /// The checks were told that serving has begun.
    has_begun: bool,
    stops_at: Option<Instant>,
    /// Every listener had to be given up.
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

    /// Deals with an event of `token`'s socket.
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
                // An event for a connection that was closed earlier in this batch is for nobody.
                if token == self.token(index) {
                    if let Some(conn) = self.slots.content_mut(index) {
                        conn.has_ended |= is_read_closed;
                    }
                    // Who waits for its turn anyway does not get another one before it.
                    if !self.slots.is_runnable(index) {
                        self.serve(registry, index, now);
                    }
                }
            }
        }
    }

    /// Tells the checks, once, that serving begins at `now`.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.has_begun {
            self.has_begun = true;
            self.driver.responder.begin(now);
        }
    }

    pub(super) fn turn(&mut self, registry: &RegistryOf<L>, now: Instant) {
        self.begin(now);
        // Who asks for another turn in this one comes in the next.
        let share = policy::runnables_max(self.slots.is_full() || self.driver.is_flooded);
        for _ in 0..self.slots.runnable_count().min(share) {
            if let Some(index) = self.slots.pop_run_queue() {
                self.serve(registry, index, now);
            }
        }
        self.expire(registry, now);
        // A host's clock that goes back must not keep the door closed until it is there again.
        let is_resting =
            |began: Instant| (began..began.saturating_add(ACCEPT_PAUSE)).contains(&now);
        if !self.accept_paused.is_some_and(is_resting) {
            if self.accept_paused.take().is_some() {
                self.arm(registry);
            }
            let mut acceptable = self.acceptable;
            while acceptable != 0 {
                self.accept(registry, acceptable.trailing_zeros() as usize, now);
                acceptable &= acceptable - 1;
            }
        }
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
            // What was short may not be short any more, and there is no later.
            self.accept_paused = None;
            for _ in 0..ACCEPT_ROUNDS_AT_STOP {
                self.accept(registry, index, now);
                if self.acceptable & 1 << index == 0 {
                    break;
                }
            }
        }
        for mut listener in self.listeners.iter_mut().filter_map(Option::take) {
            // Dropped next, which takes it out of epoll as well.
            let _ = listener.deregister(registry);
        }
        self.acceptable = 0;
        self.accept_paused = None;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.stops_at.is_some() && self.slots.occupied() == 0
    }

    /// Whether every listener had to be given up before the server was stopped.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            open: self.slots.occupied() as u64,
            ..self.driver.counters
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

    /// Accepts what waits at a listener, as far as one turn goes.
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
        // One a turn finds no end of the queue, but also no crowd.
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
                    // Room that was made is no end of a shortage.
                    let was_made = core::mem::take(&mut self.has_made_room);
                    self.is_short &= was_made;
                    self.failures = 0;
                    self.driver.counters.accepted += 1;
                    self.admit(registry, stream, now);
                    if was_made {
                        // Without a descriptor accept(2) does not say that nobody waits any more.
                        return;
                    }
                }
                Err(error) => match AcceptError::of(&error) {
                    // Of a Unix socket that listens no more accept(2) says only that nobody waits.
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
                        self.driver.counters.aborted += 1;
                        self.failures = self.failures.saturating_add(1);
                        if self.failures >= ACCEPT_FAILURES && !self.driver.is_last {
                            return self.rest_from_failures(registry, &error, now);
                        }
                    }
                    AcceptError::Foreign => self.count_non_loopback(),
                    AcceptError::Dead => return self.give_up(registry, index),
                    AcceptError::Pause if self.makes_room(&error, now) => {}
                    AcceptError::Pause => return self.pause_accepting(registry, &error, now),
                },
            }
        }
        self.driver.is_flooded = accepts_max > 1 && !self.driver.is_last;
    }

    /// Goes on without a listener to which nobody can come any more: somebody else who holds it has shut it
    /// down, or the machine's administrator has (ss -K). It would be reported for ever.
    #[cold]
    fn give_up(&mut self, registry: &RegistryOf<L>, index: usize) {
        let Some(mut listener) = self.listeners.get_mut(index).and_then(Option::take) else {
            return;
        };
        log::error!(
            "{} listens no more: it was shut down from outside",
            listener.name()
        );
        // Dropped next, which takes it out of epoll as well.
        let _ = listener.deregister(registry);
        self.armed &= !(1 << index);
        self.acceptable &= !(1 << index);
        let are_all_gone = self.listeners.iter().all(Option::is_none);
        self.is_abandoned = are_all_gone && !self.driver.is_last;
    }

    /// Out of descriptors is a full table, for the connections take them: with fewer than there are
    /// places, who sits here would keep everybody else out. So if a pause was no help one has to go; but
    /// no more than one a pause if somebody else takes what that gives back. When the server stops there
    /// is no later that a pause could wait for; but then only the idle go, because nobody may be waiting,
    /// and accept(2) does not say so.
    #[cold]
    fn makes_room(&mut self, error: &io::Error, now: Instant) -> bool {
        let is_worse = match self.driver.is_last {
            true => self.slots.front(WaitReason::Idle).is_some(),
            false => self.is_short,
        };
        if !is_worse || self.has_made_room || !AcceptError::is_of_descriptors(error) {
            return false;
        }
        self.has_made_room = self.evict();
        if self.is_short {
            // It lasts.
            self.shortage.begins(now);
        }
        self.has_made_room
    }

    /// Has somebody go. Returns whether there was anybody.
    ///
    /// The longest idle may have asked something since this batch of events was made: it is passed over.
    /// If all that are looked at have, it goes nevertheless; for that is no more than half of the idle,
    /// and who has just come, and said nothing yet, shall not go for those who talk all the time.
    #[cold]
    fn evict(&mut self) -> bool {
        let Some(queue) = self.slots.victim_queue(self.driver.is_last) else {
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
            let mut looked_at = order.by_ref().take(looks.min(EVICTION_LOOKS));
            let silent = looked_at.find(|index| {
                let conn = self.slots.peek(**index);
                conn.is_some_and(|conn| !conn.stream.has_input())
            });
            victim = silent.copied().unwrap_or(first);
        }
        self.driver.counters.evicted += 1;
        self.slots.remove(victim);
        true
    }

    /// Has waiting connections reported again and again, where that can be had.
    fn arm(&mut self, registry: &RegistryOf<L>) {
        for (index, listener) in present(&mut self.listeners) {
            if listener.arm(registry, Token(self.base.0 + index)) {
                self.armed |= 1 << index;
                self.acceptable &= !(1 << index);
            }
        }
    }

    /// The system is short of something.
    #[cold]
    fn pause_accepting(&mut self, registry: &RegistryOf<L>, error: &io::Error, now: Instant) {
        self.pause(registry, now);
        let has_begun = self.shortage.begins(now);
        if !core::mem::replace(&mut self.is_short, true) {
            self.driver.counters.accept_pauses += 1;
            if has_begun {
                log::warn!(
                    "cannot accept connections: {} (error {}); trying again every {} ms and serving those that are open",
                    AcceptError::shortage(error),
                    error.raw_os_error().unwrap_or_default(),
                    ACCEPT_PAUSE.as_millis()
                );
            }
        }
    }

    /// accept(2) keeps failing, and each time as if the fault were the connection's: a firewall or a security
    /// module refuses all of them, or the network is down. To go on would be to spin. After the pause one
    /// more failure is enough for the next.
    #[cold]
    fn rest_from_failures(&mut self, registry: &RegistryOf<L>, error: &io::Error, now: Instant) {
        self.pause(registry, now);
        if self.refusal.begins(now) {
            self.driver.counters.accept_pauses += 1;
            log::warn!(
                "cannot accept connections: {ACCEPT_FAILURES} in a row failed, the last with {error}; trying again every {} ms and serving those that are open",
                ACCEPT_PAUSE.as_millis()
            );
        }
    }

    #[cold]
    fn pause(&mut self, registry: &RegistryOf<L>, now: Instant) {
        self.accept_paused = Some(now);
        self.has_made_room = false;
        // What waits would be reported all the while.
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

    fn tell_unwatched(&mut self, error: &io::Error) {
        if !core::mem::replace(&mut self.is_unwatched, true) {
            log::warn!(
                "cannot register connections with epoll (error {}); those that have to be waited for are closed",
                error.raw_os_error().unwrap_or_default()
            );
        }
    }

    /// Once is enough: who can send us one can send many.
    #[cold]
    fn count_non_loopback(&mut self) {
        self.driver.counters.foreign += 1;
        if !core::mem::replace(&mut self.has_logged_non_loopback, true) {
            log::warn!(
                "a connection to a loopback address came from one that is none, and was closed; another machine's can where net.ipv4.conf.*.route_localnet is set"
            );
        }
    }

    /// Serves a connection that was just accepted, and finds it a place if it stays.
    fn admit(&mut self, registry: &RegistryOf<L>, stream: L::Stream, now: Instant) {
        let mut conn = Conn::new(stream, now);
        let outcome = self.driver.serve(&mut conn, 0, true, now);
        let outcome = match outcome {
            Outcome::Closed => return,
            Outcome::Failed => {
                self.driver.counters.failed += 1;
                return;
            }
            outcome => outcome,
        };
        conn.owner = conn.stream.owner();
        let is_silent = conn.connection.phase() == Phase::Idle;
        if self.slots.is_full() && self.driver.is_last && is_silent {
            // It would be let go a moment later.
            return;
        }
        if self.slots.is_full() {
            self.evict();
        }
        let Ok(index) = self.slots.insert(conn, WaitReason::Idle, now) else {
            debug_assert!(false, "an eviction made no room");
            return;
        };
        let token = self.token(index);
        let Some(conn) = self.slots.content_mut(index) else {
            return;
        };
        if let Err(error) = conn.stream.register(registry, token) {
            self.tell_unwatched(&error);
            self.driver.counters.failed += 1;
            self.slots.remove(index);
            return;
        }
        self.is_unwatched = false;
        self.requeue(registry, index, outcome, now);
    }

    /// Serves a connection of the table.
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
        // What is left of a head goes back to where the rest of it will be read.
        let received = core::mem::take(&mut conn.received);
        self.driver.buffers.restore(index, received);
        let answered = self.driver.counters.answered;
        let outcome = self.driver.serve(conn, received, false, now);
        if self.driver.counters.answered != answered {
            // Several answers may come within a millisecond; the last is still the last.
            self.slots.move_to(index, WaitReason::Idle, now);
        }
        self.requeue(registry, index, outcome, now);
    }

    /// Keeps what a connection left in the shared buffers, and puts it into its queue.
    fn requeue(&mut self, registry: &RegistryOf<L>, index: u16, outcome: Outcome, now: Instant) {
        let (received, unsent, is_runnable) = match outcome {
            Outcome::Closed => {
                self.slots.remove(index);
                return;
            }
            Outcome::Failed => {
                self.driver.counters.failed += 1;
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
        // For the connection an answer is given once it is written down; who had to be waited for has
        // it only now.
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
        // Staying where one is does not prolong it.
        if place.is_none_or(|(was, then)| was != queue || then < since) {
            self.slots.move_to(index, queue, since);
        }
        // Empty lines are no request yet.
        let is_between = queue == WaitReason::Idle || queue == WaitReason::Head && received == 0;
        if is_between && !is_runnable && self.stops_at.is_some() {
            self.slots.remove(index);
        }
    }

    /// List every connection whose time is up. Each queue is ordered by time: only fronts are looked at.
    fn expire(&mut self, registry: &RegistryOf<L>, now: Instant) {
        let is_over = self.stops_at.is_some_and(|stops_at| stops_at <= now);
        if is_over {
            // As below, for everybody; and then they go.
            for index in 0..self.slots.count() as u16 {
                self.serve(registry, index, now);
            }
        }
        // Who has been waited for may turn out to be in a head that is overdue as well: that comes later.
        for queue in [
            WaitReason::Write,
            WaitReason::Idle,
            WaitReason::Head,
            WaitReason::Drain,
        ] {
            let time_to_live = self.time_to_live(queue);
            // Each of them once: who is served goes to the back, and where no time is allowed at all
            // its time would be up there again.
            for _ in 0..self.slots.count() {
                let Some((index, since)) = self.slots.front(queue) else {
                    break;
                };
                if !is_over && since.saturating_add(time_to_live) > now {
                    break;
                }
                // It may have spoken in time and not been reported yet: after a stall there can be
                // more to tell of than a batch of events holds.
                if !is_over {
                    self.serve(registry, index, now);
                    if self.slots.front(queue) != Some((index, since)) {
                        continue;
                    }
                }
                self.driver.counters.expired += 1;
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

/// The listeners that there are, and their places.
fn present<L>(listeners: &mut [Option<L>]) -> impl Iterator<Item = (usize, &mut L)> {
    let places = listeners.iter_mut().enumerate();
    places.filter_map(|(index, listener)| Some((index, listener.as_mut()?)))
}

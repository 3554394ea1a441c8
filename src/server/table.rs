//! The table of connections and the listeners that fill it: who is accepted, whose turn it is, who
//! has to go, and when.
//!
//! Decides, and leaves bytes to [`super::desk`]. Knows sockets only as [`super::socket`]'s traits, and
//! the time as an argument, so that all of it runs in a simulation too.

use core::time::Duration;
use std::io;

use mio::Token;

use super::desk::{Desk, Outcome, Peer};
use super::slots::{Queue, Slots};
use super::socket::{AcceptError, ListenSocket, RegistryOf, StreamSocket};
use super::{ACCEPT_PAUSE, Counters, TOKENS};
use crate::http::{Next, Phase};
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

#[cfg(test)]
mod view;

/// Connections accepted from one listener in one turn, at most. Where the kernel tells again of those
/// that wait ([`ListenSocket::arm`]) it is one, unless there is a crowd.
const ACCEPTS_PER_TURN: usize = 64;
/// And the part of the table: a newcomer that has said nothing yet is looked at several times before
/// as many have come after it as it takes to evict it.
const ACCEPTS_PER_TABLE: usize = 8;
/// Connections served in one turn because they wanted another, one in a full table: the rest wait
/// behind whoever is new.
const RUNNABLES_PER_TURN: usize = 4;

/// The longest idle connections that are looked at before one of them is evicted, at most: who has just
/// asked something is not idle any more. The work of a turn has a bound.
const EVICTION_LOOKS: usize = 8;

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
    slots: Slots<'a, Peer<L::Stream>>,
    desk: Desk<'a>,
    base: Token,
    /// Listeners, as bits, that may still have connections to accept.
    acceptable: u32,
    /// Listeners, as bits, that are reported again as long as connections wait.
    armed: u32,
    /// When the pause in accepting began, in one.
    accept_paused: Option<Instant>,
    /// Listeners, as bits, to which nobody can come any more; who waits is still accepted.
    ended: u32,
    /// A shortage was logged, and has not ended since.
    is_short: bool,
    /// Somebody had to go in it, and nobody has come since.
    has_made_room: bool,
    /// The same of a connection that could not be registered.
    is_unwatched: bool,
    has_told_foreign: bool,
    stops_at: Option<Instant>,
    /// Every listener had to be given up.
    is_abandoned: bool,
}

const _: () = assert!(LISTENERS_MAX <= u32::BITS as usize);

impl<'a, L: ListenSocket> Table<'a, L> {
    pub(super) fn new(
        listeners: [Option<L>; LISTENERS_MAX],
        slots: Slots<'a, Peer<L::Stream>>,
        desk: Desk<'a>,
    ) -> Self {
        Table {
            listeners,
            slots,
            desk,
            base: Token(0),
            acceptable: 0,
            armed: 0,
            accept_paused: None,
            ended: 0,
            is_short: false,
            has_made_room: false,
            is_unwatched: false,
            has_told_foreign: false,
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
                    if let Some(peer) = self.slots.content_mut(index) {
                        peer.has_ended |= is_read_closed;
                    }
                    // Who waits for its turn anyway does not get another one before it.
                    if !self.slots.is_runnable(index) {
                        self.serve(registry, index, now);
                    }
                }
            }
        }
    }

    pub(super) fn turn(&mut self, registry: &RegistryOf<L>, now: Instant) {
        // Who asks for another turn in this one comes in the next.
        let share = match self.slots.is_full() {
            true => 1,
            false => RUNNABLES_PER_TURN,
        };
        for _ in 0..self.slots.runnable_count().min(share) {
            if let Some(index) = self.slots.pop_runnable() {
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
        let queues = Queue::ALL.iter().filter_map(|queue| {
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
        self.desk.is_last = true;
        self.armed = 0;
        // From here on nobody stays who is between requests.
        self.stops_at = Some(now.saturating_add(self.desk.limits.drain_duration));
        // Before any connection is accepted, or one that has sent a request which was not read yet could
        // be evicted for it. Also, the idle give back places and descriptors.
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
            ..self.desk.counters
        }
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &L> {
        self.listeners.iter().flatten()
    }

    #[inline]
    pub(super) fn desk_mut(&mut self) -> &mut Desk<'a> {
        &mut self.desk
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
    fn accept(&mut self, registry: &RegistryOf<L>, index: usize, now: Instant) {
        let bit = 1 << index;
        let is_armed = self.armed & bit != 0;
        if !is_armed {
            self.acceptable |= bit;
        }
        if self.accept_paused.is_some() {
            return;
        }
        for _ in 0..self.accepts_max(is_armed) {
            let Some(Some(listener)) = self.listeners.get(index) else {
                self.acceptable &= !bit;
                return;
            };
            match listener.accept() {
                Ok(stream) => {
                    // Room that was made is no end of a shortage.
                    let was_made = core::mem::take(&mut self.has_made_room);
                    self.is_short &= was_made;
                    self.desk.counters.accepted += 1;
                    self.welcome(registry, stream, now);
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
                        return;
                    }
                    AcceptError::Interrupted => {}
                    AcceptError::Gone => self.desk.counters.aborted += 1,
                    AcceptError::Foreign => self.tell_foreign(),
                    AcceptError::Dead => return self.give_up(registry, index),
                    AcceptError::Pause if self.makes_room(&error) => {}
                    AcceptError::Pause => return self.pause_accepting(registry, &error, now),
                },
            }
        }
    }

    /// Goes on without a listener to which nobody can come any more: somebody else who holds it has shut it
    /// down, or the machine's administrator has (ss -K). It would be reported for ever.
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
        self.is_abandoned = are_all_gone && !self.desk.is_last;
    }

    /// Out of descriptors is a full table, for the connections take them: with fewer than there are
    /// places, who sits here would keep everybody else out. So if a pause was no help one has to go; but
    /// no more than one a pause if somebody else takes what that gives back. When the server stops there
    /// is no later that a pause could wait for; but then only the idle go, because nobody may be waiting,
    /// and accept(2) does not say so.
    fn makes_room(&mut self, error: &io::Error) -> bool {
        let is_worse = match self.desk.is_last {
            true => self.slots.front(Queue::Idle).is_some(),
            false => self.is_short,
        };
        if !is_worse || self.has_made_room || !AcceptError::is_of_descriptors(error) {
            return false;
        }
        self.has_made_room = self.evict();
        self.has_made_room
    }

    /// Has somebody go. Returns whether there was anybody.
    ///
    /// The longest idle may have asked something since this batch of events was made: it is passed over.
    /// If all that are looked at have, it goes nevertheless; for that is no more than half of the idle,
    /// and who has just come, and said nothing yet, shall not go for those who talk all the time.
    fn evict(&mut self) -> bool {
        let Some(first) = self.slots.victim(self.desk.is_last) else {
            return false;
        };
        let mut victim = first;
        if let Some((Queue::Idle, _)) = self.slots.place(first) {
            let looks = self.slots.count_in(Queue::Idle).div_ceil(2);
            let mut idle = self
                .slots
                .queued(Queue::Idle)
                .take(looks.min(EVICTION_LOOKS));
            let silent = idle.find(|(_, peer, _)| !peer.stream.has_input());
            victim = silent.map_or(first, |(index, ..)| index);
        }
        self.desk.counters.evicted += 1;
        self.slots.remove(victim);
        true
    }

    /// How many to accept in one turn. One more accept(2) than there are connections is dear; but in a
    /// crowd a turn is dearer, and who waits here may wait behind a thousand others.
    fn accepts_max(&self, is_armed: bool) -> usize {
        let is_crowded = self.slots.is_full() || self.slots.runnable_count() > 0;
        if is_armed && !is_crowded {
            return 1;
        }
        if self.desk.is_last {
            return ACCEPTS_PER_TURN;
        }
        (self.slots.count() / ACCEPTS_PER_TABLE).clamp(1, ACCEPTS_PER_TURN)
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

    fn pause_accepting(&mut self, registry: &RegistryOf<L>, error: &io::Error, now: Instant) {
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

    fn tell_unwatched(&mut self, error: &io::Error) {
        if !core::mem::replace(&mut self.is_unwatched, true) {
            log::warn!(
                "cannot register connections with epoll (error {}); those that have to be waited for are closed",
                error.raw_os_error().unwrap_or_default()
            );
        }
    }

    /// Once is enough: who can send us one can send many.
    fn tell_foreign(&mut self) {
        self.desk.counters.foreign += 1;
        if !core::mem::replace(&mut self.has_told_foreign, true) {
            log::warn!(
                "a connection to a loopback address came from one that is none, and was closed; another machine's can where net.ipv4.conf.*.route_localnet is set"
            );
        }
    }

    /// Serves a connection that was just accepted, and finds it a place if it stays.
    fn welcome(&mut self, registry: &RegistryOf<L>, stream: L::Stream, now: Instant) {
        let mut peer = Peer::new(stream, now);
        let outcome = self.desk.serve(&mut peer, 0, true, now);
        let outcome = match outcome {
            Outcome::Closed => return,
            Outcome::Failed => {
                self.desk.counters.failed += 1;
                return;
            }
            outcome => outcome,
        };
        let is_silent = peer.connection.phase() == Phase::Idle;
        if self.slots.is_full() && self.desk.is_last && is_silent {
            // It would be let go a moment later.
            return;
        }
        if self.slots.is_full() {
            self.evict();
        }
        let Ok(index) = self.slots.insert(peer, Queue::Idle, now) else {
            debug_assert!(false, "an eviction made no room");
            return;
        };
        let token = self.token(index);
        let Some(peer) = self.slots.content_mut(index) else {
            return;
        };
        if let Err(error) = peer.stream.register(registry, token) {
            self.tell_unwatched(&error);
            self.desk.counters.failed += 1;
            self.slots.remove(index);
            return;
        }
        self.is_unwatched = false;
        self.settle(registry, index, outcome, now);
    }

    /// Serves a connection of the table.
    fn serve(&mut self, registry: &RegistryOf<L>, index: u16, now: Instant) {
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
        let outcome = self.desk.serve(peer, received, false, now);
        if self.desk.counters.answered != answered {
            // Several answers may come within a millisecond; the last is still the last.
            self.slots.move_to(index, Queue::Idle, now);
        }
        self.settle(registry, index, outcome, now);
    }

    /// Keeps what a connection left in the shared buffers, and puts it into its queue.
    fn settle(&mut self, registry: &RegistryOf<L>, index: u16, outcome: Outcome, now: Instant) {
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
        if !unsent.is_empty()
            && !core::mem::replace(&mut peer.is_writing, true)
            && peer.stream.register_writing(registry, token).is_err()
        {
            return self.settle(registry, index, Outcome::Failed, now);
        }
        // For the connection an answer is given once it is written down; who had to be waited for has
        // it only now.
        let answered = match place {
            Some((Queue::Write, _)) => now,
            _ => peer.connection.since(),
        };
        let (queue, since) = match peer.connection.phase() {
            _ if !unsent.is_empty() => (Queue::Write, now),
            Phase::Idle => (Queue::Idle, answered),
            Phase::Head => (Queue::Head, peer.connection.since()),
            Phase::Body | Phase::Closing => (Queue::Drain, answered),
        };
        if is_runnable {
            self.slots.push_runnable(index);
        }
        // Staying where one is does not prolong it.
        if place.is_none_or(|(was, then)| was != queue || then < since) {
            self.slots.move_to(index, queue, since);
        }
        // Empty lines are no request yet.
        let is_between = queue == Queue::Idle || queue == Queue::Head && received == 0;
        if is_between && !is_runnable && self.stops_at.is_some() {
            self.slots.remove(index);
        }
    }

    /// Ends every connection whose time is up. Each queue is ordered by time: only fronts are looked at.
    fn expire(&mut self, registry: &RegistryOf<L>, now: Instant) {
        let is_over = self.stops_at.is_some_and(|stops_at| stops_at <= now);
        if is_over {
            // As below, for everybody; and then they go.
            for index in 0..self.slots.count() as u16 {
                self.serve(registry, index, now);
            }
        }
        // Who has been waited for may turn out to be in a head that is overdue as well: that comes later.
        for queue in [Queue::Write, Queue::Idle, Queue::Head, Queue::Drain] {
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

/// The listeners that there are, and their places.
fn present<L>(listeners: &mut [Option<L>]) -> impl Iterator<Item = (usize, &mut L)> {
    let places = listeners.iter_mut().enumerate();
    places.filter_map(|(index, listener)| Some((index, listener.as_mut()?)))
}

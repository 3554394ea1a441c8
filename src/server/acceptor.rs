//! Accepts connections from the listeners, and pauses when accept(2) keeps failing.
//!
//! Knows no connection table: it returns each accepted connection, or says that a connection must be evicted first.
//! Its caller, [`super::table`], does both. How many connections are accepted is decided by [`super::policy`].

use std::io;

use mio::Token;

use super::ACCEPT_PAUSE;
use super::counters::LiveCounters;
use super::listener_set::ListenerSet;
use super::policy::{self, ACCEPT_FAILURES, Problem};
use super::socket::{AcceptError, ListenSocket, RegistryOf};
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

/// The result of [`Acceptor::next`].
pub(super) enum Accepted<S> {
    /// A connection. Serve it, and call again.
    Connection(S),
    /// The process has no free descriptor, and a pause did not help. Evict a connection, and call again.
    NeedsRoom,
    /// Nothing more can or may be accepted from this listener now.
    Done,
}

/// The state of the table before connections are accepted.
pub(super) struct Load {
    /// The number of slots.
    pub(super) connections: usize,
    /// All slots are free.
    pub(super) is_empty: bool,
    /// No slot is free, or the run queue is not empty.
    pub(super) is_crowded: bool,
    /// The server stops.
    pub(super) is_stopping: bool,
}

/// One round of accepting from a listener: as many connections as the policy allows now.
pub(super) struct Round {
    index: usize,
    accepts_max: usize,
    /// How many of them may still be accepted.
    left: usize,
    load: Load,
}

/// One listener.
struct Entry<L> {
    socket: L,
    /// Consecutive calls of accept(2) that failed with an error of the connection.
    failures: u32,
    /// When `failures` became a reason to pause.
    failing_since: Instant,
}

/// See the module.
pub(super) struct Acceptor<L> {
    /// Filled from the front. The entry of a listener that was shut down becomes `None`.
    entries: [Option<Entry<L>>; LISTENERS_MAX],
    base: Token,
    /// Listeners that may have connections to accept, and that epoll does not report again.
    acceptable: ListenerSet,
    /// Listeners that epoll reports as long as connections wait (level-triggered).
    armed: ListenerSet,
    /// Listeners that were shut down; connections in their queues are still accepted.
    ended: ListenerSet,
    /// Listeners that are paused, because their accepts keep failing.
    failing: ListenerSet,
    /// When the present pause of all listeners began, because the system is short of descriptors or memory.
    short_since: Option<Instant>,
    /// Such a pause began, and accepting has not succeeded since.
    is_short: bool,
    /// Decides whether a shortage is logged.
    shortage: Problem,
    /// Decides whether accepts that keep failing are logged.
    refusal: Problem,
    /// A connection was evicted for its descriptor, and none was accepted since.
    has_made_room: bool,
    /// More connections wait to be accepted than one call accepts.
    is_flooded: bool,
    has_logged_non_loopback: bool,
    /// Every listener was shut down externally before the server stopped.
    is_abandoned: bool,
}

impl<L: ListenSocket> Acceptor<L> {
    pub(super) fn new(listeners: [Option<L>; LISTENERS_MAX]) -> Self {
        let entry = |socket| Entry {
            socket,
            failures: 0,
            failing_since: Instant::ZERO,
        };
        Acceptor {
            entries: listeners.map(|listener| listener.map(entry)),
            base: Token(0),
            acceptable: ListenerSet::EMPTY,
            armed: ListenerSet::EMPTY,
            ended: ListenerSet::EMPTY,
            failing: ListenerSet::EMPTY,
            short_since: None,
            is_short: false,
            shortage: Problem::default(),
            refusal: Problem::default(),
            has_made_room: false,
            is_flooded: false,
            has_logged_non_loopback: false,
            is_abandoned: false,
        }
    }

    /// Registers the listeners with tokens from `base` on.
    pub(super) fn register(&mut self, registry: &RegistryOf<L>, base: Token) -> io::Result<()> {
        self.base = base;
        for (index, entry) in present(&mut self.entries) {
            entry.socket.register(registry, Token(base.0 + index))?;
            self.acceptable.insert(index);
        }
        self.arm(registry);
        Ok(())
    }

    /// The listener was shut down: epoll reports that its reading side is closed.
    pub(super) fn end(&mut self, index: usize) {
        self.ended.insert(index);
    }

    /// Begins to accept from a listener that was reported, or that may have connections. `None` in a pause.
    #[inline]
    pub(super) fn begin(&mut self, index: usize, load: Load) -> Option<Round> {
        let is_armed = self.armed.contains(index);
        if !is_armed {
            self.acceptable.insert(index);
        }
        if self.short_since.is_some() || self.failing.contains(index) {
            return None;
        }
        // A flood ends when accept(2) finds the queue empty. One accept for each report never does, so free slots
        // end it too.
        self.is_flooded &= load.is_crowded;
        let accepts_max = policy::accepts_max(
            load.connections,
            is_armed,
            load.is_crowded,
            load.is_stopping,
        );
        Some(Round {
            index,
            accepts_max,
            left: accepts_max,
            load,
        })
    }

    /// Accepts the next connection of the round.
    #[inline]
    pub(super) fn next(
        &mut self,
        round: &mut Round,
        registry: &RegistryOf<L>,
        counters: &LiveCounters,
        now: Instant,
    ) -> Accepted<L::Stream> {
        while let Some(left) = round.left.checked_sub(1) {
            round.left = left;
            let Some(Some(entry)) = self.entries.get_mut(round.index) else {
                self.acceptable.remove(round.index);
                return Accepted::Done;
            };
            match entry.socket.accept() {
                Ok(stream) => {
                    entry.failures = 0;
                    counters.accepted.add(1);
                    // If a connection was evicted for this one, the shortage has not ended. Without a free
                    // descriptor, accept(2) fails also if no connection waits, so the round ends.
                    if core::mem::take(&mut self.has_made_room) {
                        round.accepts_max = 0;
                        round.left = 0;
                    } else {
                        self.is_short = false;
                    }
                    return Accepted::Connection(stream);
                }
                Err(error) => {
                    if let Some(end) = self.fail(round, registry, counters, &error, now) {
                        return end;
                    }
                }
            }
        }
        // No accept of the round has found the queue empty.
        if round.accepts_max > 1 {
            self.is_flooded = !round.load.is_stopping;
        }
        Accepted::Done
    }

    /// Handles an error of accept(2). Returns `None` if the next accept may succeed.
    #[inline(never)]
    fn fail(
        &mut self,
        round: &Round,
        registry: &RegistryOf<L>,
        counters: &LiveCounters,
        error: &io::Error,
        now: Instant,
    ) -> Option<Accepted<L::Stream>> {
        let index = round.index;
        match AcceptError::of(error) {
            // For a Unix socket that was shut down, accept(2) says only that its queue is empty.
            AcceptError::Empty if self.ended.contains(index) => {
                self.give_up(registry, index, round.load.is_stopping);
            }
            AcceptError::Empty => {
                self.acceptable.remove(index);
                self.is_flooded = false;
                if let Some(Some(entry)) = self.entries.get_mut(index) {
                    entry.failures = 0;
                }
            }
            AcceptError::Interrupted => return None,
            AcceptError::Gone => {
                counters.aborted.add(1);
                if !self.count_failure(index) || round.load.is_stopping {
                    return None;
                }
                self.pause_for_failures(registry, counters, index, error, now);
            }
            AcceptError::NonLoopback => {
                self.count_non_loopback(counters);
                return None;
            }
            AcceptError::Dead => self.give_up(registry, index, round.load.is_stopping),
            AcceptError::Pause if self.needs_room(&round.load, error, now) => {
                return Some(Accepted::NeedsRoom);
            }
            AcceptError::Pause => self.pause_for_shortage(registry, counters, error, now),
        }
        Some(Accepted::Done)
    }

    /// Accepts again from listeners whose pause is over.
    pub(super) fn resume(&mut self, registry: &RegistryOf<L>, now: Instant) {
        let before = (self.short_since, self.failing);
        if before == (None, ListenerSet::EMPTY) {
            return;
        }
        // If the host's clock goes back, a pause ends. Otherwise it would become longer by as much.
        let is_over = |began: Instant| !(began..began.saturating_add(ACCEPT_PAUSE)).contains(&now);
        for (index, entry) in present(&mut self.entries) {
            if self.failing.contains(index) && is_over(entry.failing_since) {
                self.failing.remove(index);
                entry.failures = 0;
            }
        }
        self.short_since = self.short_since.filter(|began| !is_over(*began));
        if self.short_since.is_none() && (None, self.failing) != before {
            self.arm(registry);
        }
    }

    /// The listeners from which to accept without an event.
    #[inline]
    pub(super) fn acceptable(&self) -> ListenerSet {
        match self.short_since {
            Some(_) => ListenerSet::EMPTY,
            None => self.acceptable.without(self.failing),
        }
    }

    /// When the next pause ends.
    #[inline]
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        let failing = self.failing.filter_map(|index| {
            let entry = self.entries.get(index)?.as_ref()?;
            Some(entry.failing_since)
        });
        let began = self.short_since.into_iter().chain(failing).min();
        began.map(|began| began.saturating_add(ACCEPT_PAUSE))
    }

    /// The server stops: connections are accepted from all queues once more, without events of epoll.
    pub(super) fn begin_stop(&mut self) {
        self.armed = ListenerSet::EMPTY;
        self.is_flooded = false;
    }

    /// Ends all pauses: a shortage may be over, and when the server stops there is no later attempt.
    pub(super) fn end_pauses(&mut self) {
        self.short_since = None;
        self.failing = ListenerSet::EMPTY;
    }

    /// Closes the listeners. There is nothing more to accept.
    pub(super) fn close(&mut self, registry: &RegistryOf<L>) {
        for mut entry in self.entries.iter_mut().filter_map(Option::take) {
            // An error does not matter: closing the listener removes it from epoll too.
            let _ = entry.socket.deregister(registry);
        }
        self.acceptable = ListenerSet::EMPTY;
        self.end_pauses();
    }

    /// More connections wait to be accepted than one call accepts.
    #[inline]
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded
    }

    /// True if every listener was shut down externally before the server stopped.
    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &L> {
        self.entries.iter().flatten().map(|entry| &entry.socket)
    }

    /// Drops a listener that was shut down by another process that holds it, or by an administrator (`ss -K`).
    /// Epoll would report it for ever.
    #[cold]
    fn give_up(&mut self, registry: &RegistryOf<L>, index: usize, is_stopping: bool) {
        let Some(mut entry) = self.entries.get_mut(index).and_then(Option::take) else {
            return;
        };
        log::error!(
            "{} was shut down externally; no longer listening there",
            entry.socket.name()
        );
        // Dropped next, which takes it out of epoll as well.
        let _ = entry.socket.deregister(registry);
        self.armed.remove(index);
        self.acceptable.remove(index);
        let is_last_listener = self.entries.iter().all(Option::is_none);
        self.is_abandoned = is_last_listener && !is_stopping;
    }

    /// Counts a connection that had failed before it was accepted. Returns true if that is a reason to pause.
    fn count_failure(&mut self, index: usize) -> bool {
        let Some(Some(entry)) = self.entries.get_mut(index) else {
            return false;
        };
        entry.failures = entry.failures.saturating_add(1);
        entry.failures >= ACCEPT_FAILURES
    }

    /// Whether a connection is to be evicted, because accept(2) found no free descriptor and a pause did not help.
    /// Without this, in a process with fewer descriptors than slots, open connections could keep new ones out for
    /// ever. At most one is evicted for each pause, in case another part of the process takes its descriptor. A
    /// server that stops evicts none: it has served its connections, so each of those left has a request to finish.
    #[cold]
    fn needs_room(&mut self, load: &Load, error: &io::Error, now: Instant) -> bool {
        let may_evict = !load.is_empty && !load.is_stopping;
        let is_lasting = self.is_short && !self.has_made_room;
        if !may_evict || !is_lasting || !AcceptError::is_of_descriptors(error) {
            return false;
        }
        self.has_made_room = true;
        // The shortage lasts, so it is not logged again.
        self.shortage.begins(now);
        true
    }

    /// Makes epoll report listeners as long as connections wait, where the system can do that.
    fn arm(&mut self, registry: &RegistryOf<L>) {
        for (index, entry) in present(&mut self.entries) {
            let is_excluded = self.armed.contains(index) || self.failing.contains(index);
            if !is_excluded && entry.socket.arm(registry, Token(self.base.0 + index)) {
                self.armed.insert(index);
                self.acceptable.remove(index);
            }
        }
    }

    /// Undoes [`arm`](Acceptor::arm) for one listener. Epoll would report waiting connections during the whole pause.
    fn disarm(&mut self, registry: &RegistryOf<L>, index: usize) {
        let Some(Some(entry)) = self.entries.get_mut(index) else {
            return;
        };
        let token = Token(self.base.0 + index);
        if entry.socket.disarm(registry, token).is_ok() {
            self.armed.remove(index);
            self.acceptable.insert(index);
        }
    }

    /// Pauses all listeners, because the system is short of descriptors or memory.
    #[cold]
    fn pause_for_shortage(
        &mut self,
        registry: &RegistryOf<L>,
        counters: &LiveCounters,
        error: &io::Error,
        now: Instant,
    ) {
        self.short_since = Some(now);
        self.has_made_room = false;
        for index in self.armed {
            self.disarm(registry, index);
        }
        let has_begun = self.shortage.begins(now);
        if !core::mem::replace(&mut self.is_short, true) {
            counters.accept_pauses.add(1);
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

    /// Pauses one listener, because its accepts keep failing with errors of the connection. The cause is elsewhere: a
    /// firewall or a security module refuses all of them, or the network is down. Going on would use a whole
    /// CPU.
    #[cold]
    fn pause_for_failures(
        &mut self,
        registry: &RegistryOf<L>,
        counters: &LiveCounters,
        index: usize,
        error: &io::Error,
        now: Instant,
    ) {
        self.failing.insert(index);
        if let Some(Some(entry)) = self.entries.get_mut(index) {
            entry.failing_since = now;
        }
        if self.armed.contains(index) {
            self.disarm(registry, index);
        }
        if self.refusal.begins(now) {
            counters.accept_pauses.add(1);
            log::warn!(
                "cannot accept connections: accept(2) failed {ACCEPT_FAILURES} times in a row, last with: {error}; trying again every {} ms; open connections are served",
                ACCEPT_PAUSE.as_millis()
            );
        }
    }

    /// Counts a connection from another machine to a loopback address. Logs only the first.
    #[cold]
    fn count_non_loopback(&mut self, counters: &LiveCounters) {
        counters.non_loopback.add(1);
        if !core::mem::replace(&mut self.has_logged_non_loopback, true) {
            log::warn!(
                "closed a connection to a loopback address that came from another address; set net.ipv4.conf.*.route_localnet to 0 to keep other machines out"
            );
        }
    }
}

/// The listeners that still exist, with their indexes.
fn present<L>(entries: &mut [Option<Entry<L>>]) -> impl Iterator<Item = (usize, &mut Entry<L>)> {
    let entries = entries.iter_mut().enumerate();
    entries.filter_map(|(index, entry)| Some((index, entry.as_mut()?)))
}

/// For tests only.
#[cfg(test)]
impl<L> Acceptor<L> {
    /// All listeners are paused.
    pub(super) fn is_paused(&self) -> bool {
        self.short_since.is_some()
    }

    pub(super) fn has_listener(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(Option::is_some)
    }
}

//! Listeners that are shut down externally while their server runs.
//!
//! As on Linux: shutting down a TCP listener resets its queued connections, and accept(2) then fails
//! with EINVAL. A Unix listener still returns its queued connections, then EAGAIN. No new connection can
//! reach either. epoll reports both with the read side closed: once, or on every call while armed.
//!
//! Knows no queue of the server's connections. Called by the episode (`mod.rs`) and by
//! [`world`](super::world).

use mio::Token;

use super::coverage::Situation;
use super::world::{Event, ListenerState, World};
use super::{BASE, Episode};
use crate::time::Instant;

/// How a shut-down listener behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerEnd {
    Tcp,
    Unix,
}

/// One in this many changes of the fault conditions shuts down a listener; more often in an accept
/// pause, because pauses are rare.
const CHANGES_PER_END: u8 = 80;
const CHANGES_PER_END_IN_PAUSE: u8 = 8;
/// One in this many episodes shuts down a listener just before the server stops.
const STOPS_PER_END: u8 = 4;
/// One in this many advances receives an event of a closed listener. One in STEPS_AFTER_ALL steps without
/// any listener ends the episode, because little happens in them.
const ADVANCES_PER_LATE_EVENT: u8 = 8;
const STEPS_AFTER_ALL: u8 = 200;

impl ListenerState {
    /// True if epoll would report it.
    pub(super) fn is_ready(&self) -> bool {
        !self.backlog.is_empty() || self.end.is_some()
    }

    /// True if no connection can be accepted from it any more, and the server has not closed it.
    fn is_unusable(&self) -> bool {
        self.end.is_some() && self.backlog.is_empty() && !self.is_closed
    }

    fn is_open(&self) -> bool {
        self.end.is_none() && !self.is_closed
    }
}

impl World {
    fn end_listener(&mut self, index: usize, end: ListenerEnd) {
        let listener = &mut self.listeners[index];
        listener.end = Some(end);
        listener.is_pending = true;
        let is_crowded = !listener.backlog.is_empty();
        self.coverage.record(match (end, is_crowded) {
            (ListenerEnd::Tcp, false) => Situation::EndedTcp,
            (ListenerEnd::Tcp, true) => Situation::EndedTcpInQueue,
            (ListenerEnd::Unix, false) => Situation::EndedUnix,
            (ListenerEnd::Unix, true) => Situation::EndedUnixInQueue,
        });
        if end == ListenerEnd::Tcp {
            while let Some(id) = self.listeners[index].backlog.pop_front() {
                self.reset_client(id);
            }
        }
    }

    /// Resets the client of a connection that was not accepted, or refuses it.
    pub(super) fn reset_client(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        socket.server_closed = true;
        socket.client_reset = true;
        socket.had_fault = true;
    }

    /// The server may close a listener only when it stops, or after the listener has ended and its queue
    /// is empty: else a client would be reset without need. Only a server that stops and cannot accept
    /// may discard queued connections.
    pub(super) fn close(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.is_closed = true;
        let waiting = listener.backlog.len();
        assert!(
            listener.end.is_some() || self.is_stopping,
            "listener {index} was closed although it still listens"
        );
        assert!(
            waiting == 0 || self.is_stopping && self.accept_error.is_some(),
            "{waiting} queued connections were discarded with listener {index}"
        );
        if !self.is_stopping {
            self.coverage.record(Situation::EndedClosed);
            let is_left = |others: &[ListenerState]| others.iter().any(|other| !other.is_closed);
            let (before, behind) = self.listeners.split_at(index);
            if is_left(before) && is_left(&behind[1..]) {
                self.coverage.record(Situation::EndedClosedBetweenOthers);
            }
            if self.is_abandoned() {
                self.coverage.record(Situation::EndedClosedLast);
            }
        }
        while let Some(id) = self.listeners[index].backlog.pop_front() {
            self.reset_client(id);
        }
    }

    /// True if the server has closed all listeners.
    pub(super) fn is_abandoned(&self) -> bool {
        self.listeners.iter().all(|listener| listener.is_closed)
    }

    /// Open listeners from which no connection can be accepted any more.
    pub(super) fn unusable(&self) -> impl Iterator<Item = usize> {
        let places = self.listeners.iter().enumerate();
        places.filter_map(|(index, listener)| listener.is_unusable().then_some(index))
    }
}

impl Episode<'_> {
    /// Sometimes shuts down a random listener.
    pub(super) fn end_listener_sometimes(&mut self) {
        let is_paused = self.table.is_paused();
        let changes = match is_paused {
            true => CHANGES_PER_END_IN_PAUSE,
            false => CHANGES_PER_END,
        };
        if self.ends_listeners
            && self.world.borrow_mut().rng.u8(..changes) == 0
            && self.end_random_listener()
            && is_paused
        {
            self.world
                .borrow_mut()
                .coverage
                .record(Situation::EndedInPause);
        }
    }

    /// Sometimes shuts down a listener just before `stop`.
    pub(super) fn end_before_stop(&mut self) {
        if self.world.borrow_mut().rng.u8(..STOPS_PER_END) == 0 {
            self.end_random_listener();
        }
        let mut world = self.world.borrow_mut();
        if world
            .listeners
            .iter()
            .any(|one| one.end.is_some() && !one.is_closed)
        {
            world.coverage.record(Situation::StoppedWithEnded);
        }
    }

    /// Shuts down a random listener. Returns false if it was already closed or had ended.
    fn end_random_listener(&mut self) -> bool {
        let world = &mut *self.world.borrow_mut();
        let at = world.rng.usize(..world.listeners.len());
        let is_open = world.listeners[at].is_open();
        if is_open {
            let end = world
                .rng
                .choice([ListenerEnd::Tcp, ListenerEnd::Unix])
                .unwrap();
            world.end_listener(at, end);
        }
        is_open
    }

    /// True if the episode may end early, because no listener is left.
    pub(super) fn may_end_early(&self) -> bool {
        self.table.is_abandoned() && self.world.borrow_mut().rng.u8(..STEPS_AFTER_ALL) == 0
    }

    /// An event of a listener that the server has closed since must change nothing: its entry is empty.
    pub(super) fn send_late_listener_event(&mut self, now: Instant) {
        let index = {
            let world = &mut *self.world.borrow_mut();
            let at = world.rng.usize(..world.listeners.len());
            let is_late = world.rng.u8(..ADVANCES_PER_LATE_EVENT) == 0;
            if !(is_late && world.listeners[at].is_closed) {
                return;
            }
            world.coverage.record(Situation::LateListenerEvent);
            at
        };
        let before = self.table.deadline();
        let calls = self.world.borrow().calls;
        let counters = self.table.counters();
        self.table.handle(&(), Token(BASE.0 + index), true, now);
        assert!(
            self.table.deadline() == before
                && self.table.counters() == counters
                && self.world.borrow().calls == calls,
            "an event of the closed listener {index} had an effect"
        );
    }

    /// A listener that was unusable when an advance without faults began must be closed after it: else
    /// epoll would report it for ever.
    pub(super) fn assert_ended_listeners_closed(&self, unusable: &[usize]) {
        let world = self.world.borrow();
        for index in unusable {
            assert!(
                world.listeners[*index].is_closed,
                "listener {index} has ended and was not closed"
            );
        }
    }

    /// `is_abandoned` must be true exactly if all listeners were closed before `stop`: because of it, the run
    /// loop stops the server and ends.
    pub(super) fn assert_abandoned(&self) {
        let is_abandoned = match self.is_stopped {
            true => self.was_abandoned,
            false => self.world.borrow().is_abandoned(),
        };
        assert_eq!(
            self.table.is_abandoned(),
            is_abandoned,
            "is_abandoned is wrong"
        );
    }
}

impl Event {
    /// The event of a listener.
    pub(super) fn of(listener: &ListenerState, token: Token, is_end_hidden: bool) -> Self {
        Event {
            token,
            id: None,
            is_read_closed: listener.end.is_some() && !is_end_hidden,
        }
    }
}

//! Listeners that are shut down from outside, while their server goes on.
//!
//! As on Linux: a TCP socket resets who waits, and accept(2) fails with EINVAL from then on; a Unix
//! socket still hands out who waits, and then says only that nobody does. Nobody new can come to
//! either, and both are reported with their reading side closed: once, or for ever while armed.

use mio::Token;

use super::tally::Kind;
use super::world::{Event, Listening, World};
use super::{BASE, Episode};
use crate::time::Instant;

/// How a listener has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Tcp,
    Unix,
}

/// Of so many changes of the conditions one is an end, and of those in a pause, which are few.
const CHANGES_PER_END: u8 = 80;
const CHANGES_PER_END_IN_PAUSE: u8 = 8;
/// Of so many episodes one ends a listener just before its server stops.
const STOPS_PER_END: u8 = 4;
/// Of so many turns one is told of a listener that was given up, and of so many steps without any
/// listener one is the last: little happens in them.
const TURNS_PER_LATE_EVENT: u8 = 8;
const STEPS_AFTER_ALL: u8 = 200;

impl Listening {
    /// Whether epoll has something to say about it.
    pub(super) fn is_ready(&self) -> bool {
        !self.backlog.is_empty() || self.end.is_some()
    }

    /// Nobody will ever be accepted from it any more, and it has not been given up.
    fn is_useless(&self) -> bool {
        self.end.is_some() && self.backlog.is_empty() && !self.is_closed
    }

    fn is_open(&self) -> bool {
        self.end.is_none() && !self.is_closed
    }
}

impl World {
    fn end(&mut self, index: usize, end: End) {
        let listening = &mut self.listening[index];
        listening.end = Some(end);
        listening.is_pending = true;
        let is_crowded = !listening.backlog.is_empty();
        self.tally.note(match (end, is_crowded) {
            (End::Tcp, false) => Kind::EndedTcp,
            (End::Tcp, true) => Kind::EndedTcpInQueue,
            (End::Unix, false) => Kind::EndedUnix,
            (End::Unix, true) => Kind::EndedUnixInQueue,
        });
        if end == End::Tcp {
            while let Some(id) = self.listening[index].backlog.pop_front() {
                self.refuse(id);
            }
        }
    }

    /// Who has not been accepted is reset, or finds nobody who listens.
    pub(super) fn refuse(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        socket.server_closed = true;
        socket.client_reset = true;
        socket.is_spoilt = true;
    }

    /// The server closes a listener: when it stops; or one that has ended, once all who waited there
    /// have been accepted. It may be without descriptors when it stops.
    pub(super) fn close(&mut self, index: usize) {
        let listening = &mut self.listening[index];
        listening.is_closed = true;
        let waiting = listening.backlog.len();
        assert!(
            listening.end.is_some() || self.is_stopping,
            "listener {index} is given up although it listens"
        );
        assert!(
            waiting == 0 || self.is_stopping && self.shortage.is_some(),
            "{waiting} who waited are forgotten with listener {index}"
        );
        if !self.is_stopping {
            self.tally.note(Kind::GivenUp);
            let is_left = |others: &[Listening]| others.iter().any(|other| !other.is_closed);
            let (before, behind) = self.listening.split_at(index);
            if is_left(before) && is_left(&behind[1..]) {
                self.tally.note(Kind::GivenUpInTheMiddle);
            }
            if self.is_abandoned() {
                self.tally.note(Kind::GivenUpLast);
            }
        }
        while let Some(id) = self.listening[index].backlog.pop_front() {
            self.refuse(id);
        }
    }

    /// Whether no listener is left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.listening.iter().all(|listening| listening.is_closed)
    }

    /// Listeners from which nobody will ever come.
    pub(super) fn useless(&self) -> impl Iterator<Item = usize> {
        let places = self.listening.iter().enumerate();
        places.filter_map(|(index, listening)| listening.is_useless().then_some(index))
    }
}

impl Episode<'_> {
    /// Now and then a listener ends.
    pub(super) fn end_somewhere(&mut self) {
        let is_paused = self.table.is_paused();
        let changes = match is_paused {
            true => CHANGES_PER_END_IN_PAUSE,
            false => CHANGES_PER_END,
        };
        if self.ends_now_and_then
            && self.world.borrow_mut().rng.u8(..changes) == 0
            && self.end_one()
            && is_paused
        {
            self.world.borrow_mut().tally.note(Kind::EndedInPause);
        }
    }

    /// And perhaps when the server is about to stop.
    pub(super) fn end_before_stop(&mut self) {
        if self.world.borrow_mut().rng.u8(..STOPS_PER_END) == 0 {
            self.end_one();
        }
        let mut world = self.world.borrow_mut();
        if world
            .listening
            .iter()
            .any(|one| one.end.is_some() && !one.is_closed)
        {
            world.tally.note(Kind::StoppedWithEnded);
        }
    }

    /// Returns whether there was one that could.
    fn end_one(&mut self) -> bool {
        let world = &mut *self.world.borrow_mut();
        let at = world.rng.usize(..world.listening.len());
        let is_open = world.listening[at].is_open();
        if is_open {
            let end = world.rng.choice([End::Tcp, End::Unix]).unwrap();
            world.end(at, end);
        }
        is_open
    }

    /// Whether there is little to be seen any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.table.is_abandoned() && self.world.borrow_mut().rng.u8(..STEPS_AFTER_ALL) == 0
    }

    /// An event that was made before its listener was given up is for nobody.
    pub(super) fn tell_late(&mut self, now: Instant) {
        let index = {
            let world = &mut *self.world.borrow_mut();
            let at = world.rng.usize(..world.listening.len());
            let is_late = world.rng.u8(..TURNS_PER_LATE_EVENT) == 0;
            if !(is_late && world.listening[at].is_closed) {
                return;
            }
            world.tally.note(Kind::LateListenerEvent);
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
            "something is done about listener {index}, which is closed"
        );
    }

    /// Of those that were of no use when a turn of a well server began, none is left.
    pub(super) fn assert_given_up(&self, useless: &[usize]) {
        let world = self.world.borrow();
        for index in useless {
            assert!(
                world.listening[*index].is_closed,
                "listener {index} has ended and is not given up"
            );
        }
    }

    /// The server says so if it has no listener left, unless it was to stop before.
    pub(super) fn assert_abandoned(&self) {
        let is_abandoned = match self.is_stopped {
            true => self.was_abandoned,
            false => self.world.borrow().is_abandoned(),
        };
        assert_eq!(
            self.table.is_abandoned(),
            is_abandoned,
            "whether any listener is left"
        );
    }
}

impl Event {
    /// Of a listener.
    pub(super) fn of(listening: &Listening, token: Token, is_end_hidden: bool) -> Self {
        Event {
            token,
            id: None,
            is_read_closed: listening.end.is_some() && !is_end_hidden,
        }
    }
}

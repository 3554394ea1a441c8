//! Who may be sent away, and who must not: a look at every connection that the server closes while
//! nothing went wrong with it.
//!
//! Knows where each of them was from what was read of it and said to it, and no queue of the server's.

use super::client::Manner;
use super::sabotage::Sabotage;
use super::tally::Kind;
use super::world::{Socket, World};
use crate::server::slots::WaitReason;
use crate::time::Instant;

/// The part of a table, as its divisor, that nobody is sent out of who has just come there.
const IDLE_SHARE: usize = 2;
/// The idle that are looked at before one is evicted, at most.
const EVICTION_LOOKS: usize = 8;

impl World {
    /// A look at who is about to be evicted. Such looks have a bound of their own, and are no turns.
    pub(super) fn is_passed_over(&mut self, id: usize) -> bool {
        let is_hidden = self.sabotage == Sabotage::HideInput && self.rng.bool();
        if self.sockets[id].to_server.is_empty() || is_hidden {
            return false;
        }
        self.passed_over.push(id);
        assert!(self.passed_over.len() <= EVICTION_LOOKS, "a look too many");
        self.sockets[id].is_passed_over = true;
        true
    }

    /// A connection is closed though nothing went wrong.
    pub(super) fn is_closed(&mut self, id: usize) {
        match self.sockets[id].place.queue {
            Some(WaitReason::Idle) if self.sockets[id].is_heard() => self.is_closed_between(id),
            Some(WaitReason::Idle) => self.is_closed_unheard(id),
            Some(WaitReason::Head) => self.is_closed_in_head(id),
            _ => {}
        }
    }

    /// Those who have a place, as they were accepted: who is just coming has none yet.
    fn seated(&self) -> impl Iterator<Item = (usize, &Socket)> {
        let held = self.held.iter().map(|id| (*id, &self.sockets[*id]));
        held.filter(|(_, socket)| socket.token.is_some())
    }

    fn count_in(&self, queue: WaitReason) -> usize {
        let members = self.seated();
        members
            .filter(|(_, socket)| socket.place.queue == Some(queue))
            .count()
    }

    /// Everybody has to go, wherever they are.
    fn is_over(&self) -> bool {
        self.is_stopping && self.is_turn || self.now == Instant::from_millis(u64::MAX)
    }

    /// An idle one has to go. If it has said something, all that were looked at before it had, and the
    /// server does not stop.
    fn assert_asking(&self, id: usize) {
        let is_first = self.passed_over.first() == Some(&id);
        let looks = self
            .count_in(WaitReason::Idle)
            .div_ceil(2)
            .min(EVICTION_LOOKS);
        let have_all_asked = self.passed_over.len() >= looks;
        // A server that stops has served all of them before it accepts more.
        let may_go = is_first && have_all_asked && !self.is_stopping;
        assert!(
            self.sockets[id].to_server.is_empty() || may_go,
            "{id} has to go although it has said something"
        );
    }

    /// One is closed that has its answers, and has begun nothing new.
    fn is_closed_between(&mut self, id: usize) {
        // Some of what came before the stop may be read behind it.
        if self.is_over() || self.is_stopping && self.sockets[id].is_delayed {
            return;
        }
        self.assert_asking(id);
        if !self.sockets[id].to_server.is_empty() {
            self.tally.note(Kind::EvictedAsking);
        }
    }

    /// One is closed in the middle of its head, and was not told that it is late: it must have been the
    /// one to go, the longest in its head where most of the table is taken by those in theirs.
    fn is_closed_in_head(&mut self, id: usize) {
        let socket = &self.sockets[id];
        // Empty lines are no head, and nothing is said about them.
        if self.is_over() || socket.client.manner == Manner::Garbage {
            return;
        }
        let idle = self.count_in(WaitReason::Idle);
        let (idle_max, writing) = match self.is_stopping {
            true => (0, 0),
            false => (
                self.connections / IDLE_SHARE,
                self.count_in(WaitReason::Write),
            ),
        };
        assert!(
            idle <= idle_max,
            "{id} has to go in the middle of its head, for {idle} idle"
        );
        let answered = self.count_in(WaitReason::Drain) + writing;
        assert!(
            answered == 0,
            "{id} has to go in the middle of its head, and {answered} have their answers"
        );
        let is_first = self.seated().all(|(_, other)| {
            other.place.queue != Some(WaitReason::Head)
                || other.place.moment >= socket.place.moment
                || other.is_unsure
                || socket.is_unsure
        });
        assert!(
            is_first,
            "{id} has to go before one that is longer in its head"
        );
        self.tally.note(Kind::EvictedInHead);
    }

    /// A connection is closed of which not one byte was read, though nothing went wrong: it was idle
    /// from its accept on. Its time must be over, or it must have been the one to go: the longest
    /// idle, and so many that came to be idle behind it as are left to the idle anyway; or all are.
    fn is_closed_unheard(&mut self, id: usize) {
        self.assert_asking(id);
        let socket = &self.sockets[id];
        let is_silent = socket.to_server.is_empty();
        let accepted_at = socket.accepted_at.unwrap_or(self.now);
        if is_silent
            && (self.is_stopping
                || accepted_at.saturating_add(self.limits.idle_duration) <= self.now)
        {
            return;
        }
        assert!(socket.token.is_some(), "{id} is closed without a place");
        let is_first = self
            .seated()
            .take_while(|(other, _)| *other != id)
            .all(|(_, other)| other.is_heard() || other.is_passed_over);
        assert!(
            is_first,
            "{id} has to go before one that is idle for longer"
        );
        let others = self.seated().count() - 1;
        // Who has just asked is as good as behind it.
        let behind = self
            .seated()
            .filter(|(id, other)| other.moment > socket.moment || self.passed_over.contains(id));
        let behind = behind.count();
        assert!(
            behind >= others.min(self.connections / IDLE_SHARE),
            "{id} has to go and only {behind} of {others} came behind it"
        );
        self.tally.note(Kind::EvictedUnheard);
    }
}

//! Checks every connection that the server closes without an error: was it the right one to close?
//!
//! Derives the state of each connection from the bytes read from it and sent to it. Knows none of the
//! server's own queues. Called by [`sockets`](super::sockets) when a stream is dropped or is asked for
//! unread input.

use std::vec::Vec;

use super::client::ClientKind;
use super::coverage::Situation;
use super::mutations::Mutation;
use super::world::{Socket, World};
use crate::server::buffers::LONG_BUFFERS;
use crate::server::policy::{self, WaitReason};
use crate::time::Instant;

impl World {
    /// The server reads whether an eviction candidate has unread input. Such calls have their own bound, and do
    /// not count as work on the connection.
    pub(super) fn has_input_at_eviction(&mut self, id: usize) -> bool {
        let is_hidden = self.mutation == Mutation::HideInput && self.rng.bool();
        if self.sockets[id].to_server.is_empty() || is_hidden {
            return false;
        }
        self.skipped_candidates.push(id);
        assert!(
            self.skipped_candidates.len() <= policy::eviction_looks_max(usize::MAX),
            "too many eviction candidates"
        );
        self.sockets[id].was_skipped = true;
        true
    }

    /// Checks a connection that the server closes without an error.
    pub(super) fn on_close(&mut self, id: usize) {
        match self.sockets[id].place.queue {
            Some(WaitReason::Idle) if self.sockets[id].has_been_read() => {
                self.check_idle_eviction(id)
            }
            Some(WaitReason::Idle) => self.check_unread_eviction(id),
            Some(WaitReason::Head) => self.check_head_eviction(id),
            Some(WaitReason::Write) => self.check_write_eviction(id),
            _ => {}
        }
    }

    /// Connections in the table, in accept order, without one that is just being accepted.
    fn registered(&self) -> impl Iterator<Item = (usize, &Socket)> {
        let held = self.held.iter().map(|id| (*id, &self.sockets[*id]));
        held.filter(|(_, socket)| socket.token.is_some())
    }

    fn count_in(&self, queue: WaitReason) -> usize {
        let members = self.registered();
        members
            .filter(|(_, socket)| socket.place.queue == Some(queue))
            .count()
    }

    /// The number of idle connections that are left in the table when others are evicted.
    fn idle_reserve(&self) -> usize {
        policy::idle_reserve(self.connections)
    }

    /// True if the server closes all connections, whatever their state.
    fn is_over(&self) -> bool {
        self.is_stopping && self.is_advancing || self.now == Instant::from_millis(u64::MAX)
    }

    /// An idle connection with unread input may be closed only if it was the first candidate and every
    /// candidate had input: else a request would be reset that could be answered.
    fn assert_may_evict(&self, id: usize) {
        let is_first = self.skipped_candidates.first() == Some(&id);
        let candidates_max = policy::eviction_looks_max(self.count_in(WaitReason::Idle));
        let had_all_input = self.skipped_candidates.len() >= candidates_max;
        // A server that stops serves all connections before it accepts more.
        let may_evict = is_first && had_all_input && !self.is_stopping;
        assert!(
            self.sockets[id].to_server.is_empty() || may_evict,
            "{id} was closed although it has unread input"
        );
    }

    /// Checks the close of a connection that has all its answers and has begun no new request.
    fn check_idle_eviction(&mut self, id: usize) {
        // Input that arrived before the stop may be read after it.
        if self.is_over() || self.is_stopping && self.sockets[id].was_cut_short {
            return;
        }
        self.assert_may_evict(id);
        if !self.sockets[id].to_server.is_empty() {
            self.coverage.record(Situation::EvictedWithInput);
        }
    }

    /// A connection whose client does not read may be closed only after its timeout, for a new connection if the
    /// table is full, or for its buffer: if all buffers for long answers are in use, and it has waited longest of
    /// their owners.
    fn check_write_eviction(&mut self, id: usize) {
        let socket = &self.sockets[id];
        let expires = socket.blocked_at.saturating_add(self.limits.idle_duration);
        // What is left of a 408 is dropped.
        let is_expired = expires <= self.now || socket.is_sent_408;
        if self.is_over() || is_expired || self.held.len() > self.connections {
            return;
        }
        assert!(
            socket.has_long_unsent,
            "{id} was closed although its client may read later"
        );
        let owners = self.registered().filter(|(_, other)| other.has_long_unsent);
        let owners: Vec<&Socket> = owners.map(|(_, owner)| owner).collect();
        assert_eq!(
            owners.len(),
            LONG_BUFFERS,
            "{id} was closed for a free buffer"
        );
        let is_oldest = owners.iter().all(|other| {
            other.blocked_sequence >= socket.blocked_sequence
                || other.blocked_at >= socket.blocked_at
        });
        assert!(
            is_oldest,
            "{id} was closed before one that has waited longer"
        );
        self.coverage.record(Situation::EvictedForLongAnswer);
    }

    /// A connection that is reading a head may be closed without a 408 only if too few idle or answered
    /// connections could be closed instead, and it has been reading its head for the longest time: a
    /// slow client must not displace a faster one.
    fn check_head_eviction(&mut self, id: usize) {
        let socket = &self.sockets[id];
        // Empty lines are not a head, and get no 408.
        if self.is_over() || socket.client.kind == ClientKind::Garbage {
            return;
        }
        let idle = self.count_in(WaitReason::Idle);
        assert!(
            idle <= self.idle_reserve(),
            "{id} was closed while reading its head, although {idle} are idle"
        );
        let answered = self.count_in(WaitReason::Drain) + self.count_in(WaitReason::Write);
        assert!(
            answered == 0,
            "{id} was closed while reading its head, although {answered} have their answers"
        );
        let is_first = self.registered().all(|(_, other)| {
            other.place.queue != Some(WaitReason::Head)
                || other.place.sequence >= socket.place.sequence
                || other.is_place_uncertain
                || socket.is_place_uncertain
        });
        assert!(
            is_first,
            "{id} was closed before one that has been reading its head for longer"
        );
        self.coverage.record(Situation::EvictedInHead);
    }

    /// A connection of which no byte was read may be closed only after its idle timeout, or if it was
    /// idle for the longest time and at least the idle share of the table became active after it: a new
    /// client must have time to send its request.
    fn check_unread_eviction(&mut self, id: usize) {
        self.assert_may_evict(id);
        let socket = &self.sockets[id];
        let is_silent = socket.to_server.is_empty();
        let accepted_at = socket.accepted_at.unwrap_or(self.now);
        if is_silent
            && (self.is_stopping
                || accepted_at.saturating_add(self.limits.idle_duration) <= self.now)
        {
            return;
        }
        assert!(
            socket.token.is_some(),
            "{id} was closed before it was registered"
        );
        let is_first = self
            .registered()
            .take_while(|(other, _)| *other != id)
            .all(|(_, other)| other.has_been_read() || other.was_skipped);
        assert!(
            is_first,
            "{id} was closed before one that has been idle for longer"
        );
        let others = self.registered().count() - 1;
        // A skipped candidate has unread input, so it counts as active later.
        let behind = self.registered().filter(|(id, other)| {
            other.sequence > socket.sequence || self.skipped_candidates.contains(id)
        });
        let behind = behind.count();
        assert!(
            behind >= others.min(self.idle_reserve()),
            "{id} was closed and only {behind} of {others} were active after it"
        );
        self.coverage.record(Situation::EvictedUnread);
    }
}

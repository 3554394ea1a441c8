//! What the simulation sees of the table.
//!
//! Only reads. Compiled only for tests.

use std::vec::Vec;

use mio::Token;

use super::{TOKEN_MASK, Table};
use crate::answer::Paths;
use crate::limits::LISTENERS_MAX;
use crate::server::policy::WaitReason;
use crate::server::socket::ListenSocket;
use crate::time::Instant;

impl<L: ListenSocket, P: Paths> Table<'_, L, P> {
    /// The run queue from the front.
    pub(in crate::server) fn run_queue(&self) -> impl Iterator<Item = u16> {
        self.slots.run_queue()
    }

    /// Whether the connection of `token`, if there is one, is in the run queue.
    pub(in crate::server) fn is_runnable(&self, token: Token) -> bool {
        let index = (token.0 & TOKEN_MASK) - self.base.0 - LISTENERS_MAX;
        token == self.token(index as u16) && self.slots.is_runnable(index as u16)
    }

    /// The connections in the slots `indexes`.
    pub(in crate::server) fn streams_at(
        &self,
        indexes: &[u16],
    ) -> impl Iterator<Item = &L::Stream> {
        let conns = indexes
            .iter()
            .filter_map(|index| self.slots.content(*index));
        conns.map(|conn| &conn.stream)
    }

    /// Every connection, what it waits for, and since when. The members of each list are in their order.
    pub(in crate::server) fn places(
        &self,
    ) -> impl Iterator<Item = (&L::Stream, WaitReason, Instant)> {
        WaitReason::ALL.into_iter().flat_map(|queue| {
            let members = self.slots.queued(queue);
            members.map(move |(_, conn, since)| (&conn.stream, queue, since))
        })
    }

    /// Connections whose deadline has passed.
    pub(in crate::server) fn overdue(&self, now: Instant) -> impl Iterator<Item = &L::Stream> {
        let is_over = self.stops_at.is_some_and(|stops_at| stops_at <= now);
        let overdue = self.places().filter(move |(_, queue, since)| {
            is_over || since.saturating_add(queue.time_to_live(&self.driver.limits)) <= now
        });
        overdue.map(|(stream, ..)| stream)
    }

    /// Whether more connections wait to be accepted than one call accepts.
    pub(in crate::server) fn is_flooded(&self) -> bool {
        self.acceptor.is_flooded()
    }

    pub(in crate::server) fn is_paused(&self) -> bool {
        self.acceptor.is_paused()
    }

    pub(in crate::server) fn is_unwatched(&self) -> bool {
        self.is_unwatched
    }

    pub(in crate::server) fn has_listener(&self, index: usize) -> bool {
        self.acceptor.has_listener(index)
    }

    pub(in crate::server) fn streams(&self) -> impl Iterator<Item = &L::Stream> {
        self.slots.contents().map(|conn| &conn.stream)
    }

    /// Panics unless each connection is in one list, the right one, in order and not overdue, and what it keeps in
    /// its buffers has room there. After the clock went back, a connection may be overdue before those in front
    /// of it, and waits for them. `latest` is the latest time that the clock has shown.
    pub(in crate::server) fn assert_whole(
        &self,
        now: Instant,
        latest: Instant,
        has_gone_back: bool,
    ) {
        self.slots.assert_whole();
        let buffers = &self.driver.buffers;
        let mut count = 0;
        for queue in WaitReason::ALL {
            let mut last = Instant::ZERO;
            for (index, conn, since) in self.slots.queued(queue) {
                assert!(
                    since <= latest && (has_gone_back || last <= since),
                    "{queue:?} is out of order"
                );
                let expires = since.saturating_add(queue.time_to_live(&self.driver.limits));
                assert!(
                    has_gone_back || expires > now || now == expires && now.as_millis() == u64::MAX,
                    "overdue"
                );
                assert_eq!(
                    queue == WaitReason::Write,
                    !conn.unsent.is_empty(),
                    "{queue:?}"
                );
                buffers.assert_room(self.slots.count(), index, conn.received, conn.unsent.end);
                assert!(
                    conn.received < buffers.head_bytes() || conn.is_behind,
                    "a connection waits with a full buffer"
                );
                assert!(
                    !conn.is_behind || !conn.unsent.is_empty() || self.slots.is_runnable(index),
                    "a connection with whole requests waits for an event"
                );
                last = since;
                count += 1;
            }
        }
        assert_eq!(count, self.slots.occupied());
        // A buffer for long answers belongs to one connection, as long as that has unsent bytes.
        let owners: Vec<u16> = buffers.owners().collect();
        for (at, owner) in owners.iter().enumerate() {
            let conn = self.slots.content(*owner);
            assert!(
                conn.is_some_and(|conn| !conn.unsent.is_empty()),
                "a buffer for long answers is lost"
            );
            assert!(!owners[..at].contains(owner), "two buffers for one answer");
        }
    }
}

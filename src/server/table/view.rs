//! What a simulation sees of the table, and a server does not.
//!
//! Changes nothing. Compiled for tests alone.

use mio::Token;

use super::{TOKEN_MASK, Table};
use crate::http::Next;
use crate::limits::LISTENERS_MAX;
use crate::server::slots::WaitReason;
use crate::server::socket::ListenSocket;
use crate::time::Instant;

impl<L: ListenSocket> Table<'_, L> {
    /// Who wants another turn, from the front.
    pub(in crate::server) fn run_queue(&self) -> impl Iterator<Item = u16> {
        self.slots.run_queue()
    }

    /// Whether the connection of `token` does, if there is one.
    pub(in crate::server) fn is_runnable(&self, token: Token) -> bool {
        let index = (token.0 & TOKEN_MASK) - self.base.0 - LISTENERS_MAX;
        token == self.token(index as u16) && self.slots.is_runnable(index as u16)
    }

    /// Who has the places of `indexes`.
    pub(in crate::server) fn streams_at(
        &self,
        indexes: &[u16],
    ) -> impl Iterator<Item = &L::Stream> {
        let peers = indexes
            .iter()
            .filter_map(|index| self.slots.content(*index));
        peers.map(|conn| &conn.stream)
    }

    /// Every connection, what it waits for, and since when; each queue from its front.
    pub(in crate::server) fn places(
        &self,
    ) -> impl Iterator<Item = (&L::Stream, WaitReason, Instant)> {
        WaitReason::ALL.into_iter().flat_map(|queue| {
            let members = self.slots.queued(queue);
            members.map(move |(_, conn, since)| (&conn.stream, queue, since))
        })
    }

    /// Connections whose time is up.
    pub(in crate::server) fn overdue(&self, now: Instant) -> impl Iterator<Item = &L::Stream> {
        let is_over = self.stops_at.is_some_and(|stops_at| stops_at <= now);
        let overdue = self.places().filter(move |(_, queue, since)| {
            is_over || since.saturating_add(self.time_to_live(*queue)) <= now
        });
        overdue.map(|(stream, ..)| stream)
    }

    /// Whether more connections wait to be accepted than one turn takes.
    pub(in crate::server) fn is_flooded(&self) -> bool {
        self.driver.is_flooded
    }

    pub(in crate::server) fn is_paused(&self) -> bool {
        self.accept_paused.is_some()
    }

    pub(in crate::server) fn is_unwatched(&self) -> bool {
        self.is_unwatched
    }

    pub(in crate::server) fn has_listener(&self, index: usize) -> bool {
        self.listeners.get(index).is_some_and(Option::is_some)
    }

    pub(in crate::server) fn streams(&self) -> impl Iterator<Item = &L::Stream> {
        self.slots.contents().map(|conn| &conn.stream)
    }

    /// The queues hold every connection once, in order, none that is overdue, each where it belongs, and
    /// what each says to have kept has room. Who comes when a clock has gone back is overdue before
    /// those in front: it waits for them. `latest` is the latest that the clock has ever said.
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
            for (_, conn, since) in self.slots.queued(queue) {
                assert!(
                    since <= latest && (has_gone_back || last <= since),
                    "{queue:?} is out of order"
                );
                let expires = since.saturating_add(self.time_to_live(queue));
                assert!(
                    has_gone_back || expires > now || now == expires && now.as_millis() == u64::MAX,
                    "overdue"
                );
                assert_eq!(
                    queue == WaitReason::Write,
                    !conn.unsent.is_empty(),
                    "{queue:?}"
                );
                buffers.assert_room(self.slots.count(), conn.received, conn.unsent.end);
                assert!(
                    conn.received < buffers.head_bytes() || conn.after != Next::Read,
                    "a connection waits with a full buffer"
                );
                last = since;
                count += 1;
            }
        }
        assert_eq!(count, self.slots.occupied());
    }
}

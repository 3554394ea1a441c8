//! What a server counts.
//!
//! Counted by [`super::driver`], [`super::acceptor`] and [`super::table`]. Read by hosts, also from other threads while
//! the server runs ([`super::ServerHandle`]).

use core::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::metrics::{Answers, Durations};

/// What a server has counted since it was made. All but `open` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted, without those in `non_loopback`.
    pub accepted: u64,
    /// Requests answered, including refused ones.
    pub answered: u64,
    /// Requests refused because of their head (4xx, 501, 505), or because it did not arrive in time (408).
    pub refused: u64,
    /// Connections that ended because their client or the protocol closed them, or because the server stopped.
    pub closed: u64,
    /// Connections closed because the table was full, the process had no free descriptor, or both buffers for long
    /// answers were in use.
    pub evicted: u64,
    /// Connections closed because a deadline passed.
    pub expired: u64,
    /// Connections that ended with an error of the socket, such as a reset by the client.
    pub failed: u64,
    /// Connections that had failed before they were accepted: reset by the client, refused by a firewall, or lost
    /// with the network (accept(2)).
    pub aborted: u64,
    /// Connections to a loopback address from another address, perhaps of another machine. They are closed unread;
    /// see [`Listeners::allow_remote`](super::Listeners::allow_remote).
    pub non_loopback: u64,
    /// How often accepting was paused because the system was short of descriptors or memory, or accept(2) kept failing.
    /// Pauses that follow each other for the same reason count once.
    pub accept_pauses: u64,
    /// Connections open now.
    pub open: u64,
}

/// One counter. Only the server's thread changes it, so a load and a store are enough: they cost less than an atomic
/// addition.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(super) fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    #[inline]
    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters while the server runs: those of [`Counters`], and what only metrics show.
#[derive(Default)]
pub(super) struct LiveCounters {
    pub(super) accepted: Counter,
    pub(super) answered: Counter,
    pub(super) refused: Counter,
    pub(super) closed: Counter,
    pub(super) evicted: Counter,
    pub(super) expired: Counter,
    pub(super) failed: Counter,
    pub(super) aborted: Counter,
    pub(super) non_loopback: Counter,
    pub(super) accept_pauses: Counter,
    /// Set at the end of `advance` and of `stop`.
    pub(super) open: Counter,
    pub(super) answers: Answers,
    pub(super) durations: Durations,
}

impl LiveCounters {
    /// The present values, each read by itself.
    pub(super) fn load(&self) -> Counters {
        Counters {
            accepted: self.accepted.get(),
            answered: self.answered.get(),
            refused: self.refused.get(),
            closed: self.closed.get(),
            evicted: self.evicted.get(),
            expired: self.expired.get(),
            failed: self.failed.get(),
            aborted: self.aborted.get(),
            non_loopback: self.non_loopback.get(),
            accept_pauses: self.accept_pauses.get(),
            open: self.open.get(),
        }
    }
}

/// The counters of one server: its own, or shared with handles. A server in its caller's memory has its own, because
/// sharing takes memory from the heap.
#[expect(
    clippy::large_enum_variant,
    reason = "a server has one, and its own counters must not be on the heap"
)]
pub(super) enum ServerCounters {
    Own(LiveCounters),
    Shared(Arc<LiveCounters>),
}

impl ServerCounters {
    /// Shares the counters. They begin at zero again.
    pub(super) fn share(&mut self) -> Arc<LiveCounters> {
        let shared = Arc::new(LiveCounters::default());
        *self = ServerCounters::Shared(Arc::clone(&shared));
        shared
    }
}

impl Deref for ServerCounters {
    type Target = LiveCounters;

    #[inline]
    fn deref(&self) -> &LiveCounters {
        match self {
            ServerCounters::Own(own) => own,
            ServerCounters::Shared(shared) => shared,
        }
    }
}

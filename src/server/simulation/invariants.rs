//! Invariants that must hold after every advance, whatever faults were injected.
//!
//! Knows the table only through its read-only view, and no socket of the kernel. Called by the episode
//! (`mod.rs`) before and after each advance.

use std::vec::Vec;

use super::super::ACCEPT_PAUSE;
use super::super::policy::{self, READS_MAX, WaitReason};
use super::Episode;
use super::client::ClientKind;
use super::sockets::SimulatedStream;
use super::world::World;
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

/// Most calls for serving one connection once: the reads of one advance with a send for each, the
/// earlier unsent bytes, a shutdown, a close or a registration, and an eviction for a long answer.
const CALLS_PER_SERVE_MAX: usize = READS_MAX * (1 + 1) + 4;
/// Most calls for one listener: arm, disarm, close, and two evictions because no descriptor is free.
const CALLS_PER_LISTENER_MAX: usize = 1 + 1 + 1 + 2;

impl Episode<'_> {
    /// Called before an advance. Returns the run queue.
    pub(super) fn prepare_advance(&mut self, now: Instant) -> Vec<u16> {
        let mut world = self.world.borrow_mut();
        // A crowd is accepted in the largest batches. Applies to an event of the listener and to an advance, each.
        let accepts_max = policy::accepts_max(self.connections, true, true, false);
        world.begin_advance(accepts_max, self.table.is_paused());
        drop(world);
        self.give_reasons(self.table.overdue(now));
        self.table.run_queue().collect()
    }

    pub(super) fn give_reasons<'s>(&self, streams: impl Iterator<Item = &'s SimulatedStream>) {
        let mut world = self.world.borrow_mut();
        streams.for_each(|stream| world.give_reason(stream.id));
    }

    /// The connections of the run queue must keep their order at its front, so that each is served after
    /// a bounded number of advances.
    pub(super) fn assert_run_queue_order(&self, before: &[u16]) -> Vec<u16> {
        let run_queue: Vec<u16> = self.table.run_queue().collect();
        assert!(
            run_queue.starts_with(before),
            "{before:?} are not at the front of the run queue {run_queue:?}"
        );
        run_queue
    }

    /// Most connections of the run queue that this advance may serve.
    pub(super) fn runs_max(&self) -> usize {
        let is_full = self.world.borrow().held.len() == self.connections;
        policy::runnables_max(is_full || self.table.is_flooded())
    }

    /// One advance must make a bounded number of accepts and calls, so that no client delays the others.
    /// A connection may be served only for a reason: an event, the run queue, its accept, or a timeout.
    /// [`World::record_call`] checks the reason of each call.
    pub(super) fn assert_bounded(&mut self) {
        let mut world = self.world.borrow_mut();
        world.is_advancing = false;
        for listener in &world.listeners {
            let (accepts, accepts_max) = (listener.accepts, listener.accepts_max);
            assert!(
                accepts <= accepts_max,
                "{accepts} accepts in one advance, at most {accepts_max} allowed"
            );
        }
        // An accept into a full table closes another connection.
        let closed = world.listeners.iter().map(|listener| listener.accepts);
        let others = closed.sum::<usize>() + world.listeners.len() * CALLS_PER_LISTENER_MAX;
        // At the maximum time a connection that was just served is also overdue.
        let is_end = world.now == Instant::from_millis(u64::MAX);
        let served = world.reasons * if is_end { 2 } else { 1 };
        let calls_max = served * CALLS_PER_SERVE_MAX + others;
        let calls = world.calls;
        assert!(
            calls <= calls_max,
            "{calls} calls in one advance, at most {calls_max} allowed"
        );
        let calls = 100 * calls.saturating_sub(others) / served.max(1);
        self.outcome.calls = self.outcome.calls.max(calls);
    }

    pub(super) fn assert_invariants(&self, now: Instant) {
        self.assert_deadline();
        self.assert_abandoned();
        let world = self.world.borrow();
        let counters = self.table.counters();
        let held = world.held.len();
        assert_eq!(counters.open as usize, held, "a slot has leaked");
        assert!(
            held <= self.connections,
            "more connections than the table has slots"
        );
        assert_eq!(counters.accepted, world.accepted);
        let ended = counters.closed + counters.evicted + counters.expired + counters.failed;
        assert_eq!(ended + counters.open, counters.accepted);
        self.table
            .assert_whole(now, self.latest, self.clock_went_back);
        let (began, is_paused) = (world.accept_failed_at, self.table.is_paused());
        assert!(
            !is_paused || began == now || began < now && now < began.saturating_add(ACCEPT_PAUSE),
            "accepting is paused at {now:?} for the failure of {began:?}"
        );
        assert_eq!(
            self.table.is_unwatched(),
            world.is_unwatched,
            "whether connections can be registered"
        );
        let is_due = self.table.deadline() == Some(Instant::ZERO);
        for index in 0..LISTENERS_MAX {
            assert!(
                self.is_stopped
                    || !self.table.has_listener(index)
                    || is_paused
                    || is_due
                    || !world.is_missed(index),
                "listener {index} is ready and no event will report it"
            );
        }
        for id in self.table.streams().map(|stream| stream.id) {
            assert!(
                is_due || world.is_notified_or_idle(id) || world.is_blocked(id),
                "input of connection {id} will never be read"
            );
        }
        for (stream, queue, _) in self.table.places() {
            let place = world.sockets[stream.id].place.queue;
            assert!(
                place.is_none_or(|place| place == queue),
                "connection {} is in {queue:?}, not in {place:?}",
                stream.id
            );
        }
        for id in &self.open {
            Self::assert_probe_answered(&world, *id);
        }
    }

    /// The deadline must be exactly the earliest timeout: later delays a close, earlier wakes the process
    /// for nothing.
    pub(super) fn assert_deadline(&self) {
        let world = self.world.borrow();
        let is_waiting = self.table.run_queue().next().is_some();
        let is_paused = self.table.is_paused();
        let expected = if is_waiting || !is_paused && world.may_accept() {
            Some(Instant::ZERO)
        } else {
            let timeouts = WaitReason::ALL.into_iter().filter_map(|queue| {
                let places = self.table.places();
                let mut members = places.filter(|(_, place, _)| *place == queue);
                // After the clock went back, a connection waits for those queued before it.
                let (.., since) = match self.clock_went_back {
                    true => members.next(),
                    false => members.min_by_key(|(.., since)| *since),
                }?;
                Some(since.saturating_add(queue.time_to_live(&self.limits)))
            });
            let pause = is_paused.then(|| world.accept_failed_at.saturating_add(ACCEPT_PAUSE));
            let stop = self.stops_at.filter(|_| !world.held.is_empty());
            timeouts.chain(pause).chain(stop).min()
        };
        assert_eq!(
            self.deadline(),
            expected,
            "the server wakes at a wrong time"
        );
    }

    /// A well-behaved client must be answered as soon as its whole request is available to the server.
    fn assert_probe_answered(world: &World, id: usize) {
        let socket = &world.sockets[id];
        let client = &socket.client;
        if !client.kind.is_well_behaved() || socket.had_fault || socket.was_cut_short {
            return;
        }
        let is_due = match client.kind {
            // `evictions` checks a close before that.
            ClientKind::Late => {
                // It is registered, and no event of it is queued.
                let has_no_event = socket.token.is_some() && socket.pending.is_none();
                assert!(
                    socket.has_been_read() || !has_no_event || socket.to_server.is_empty(),
                    "input of connection {id} will never be read"
                );
                socket.has_been_read()
            }
            // The second piece may arrive after a close.
            ClientKind::Halved => client.has_sent_all() && socket.read == client.sent,
            // The whole request was there when it was accepted.
            _ => socket.accepted_at.is_some() || socket.server_closed,
        };
        assert!(
            !is_due || client.has_all_answers(),
            "{id}: a probe is not answered: {client:?}"
        );
    }
}

//! What must be so after every turn, whatever has happened in it.

use std::vec::Vec;

use super::super::ACCEPT_PAUSE;
use super::super::slots::WaitReason;
use super::Episode;
use super::client::Manner;
use super::sockets::SimulatedStream;
use super::world::World;
use crate::limits::LISTENERS_MAX;
use crate::time::Instant;

/// Reads, sends and the like that one connection costs when it is served once, at most: as many reads
/// as a turn has and a send for each, what was unsent before, an end, and a close or a registration.
const CALLS_PER_SERVE_MAX: usize = 4 * (1 + 1) + 3;
/// The part of a table, as its divisor, that may be accepted from a listener at once, and the most that
/// it may be of any table: when it is told of, and in the turn.
const ACCEPTS_SHARE: usize = 2;
const ACCEPTS_MAX: usize = 64;
/// Those who want another turn that one may serve, and in a full table or a flood.
const SERVES_MAX: usize = 4;
const SERVES_MAX_IF_FULL: usize = 1;
/// A listener is armed, or disarmed, or given up, and both times that it is looked at one may have to go
/// for want of a descriptor.
const CALLS_PER_LISTENER_MAX: usize = 1 + 1 + 1 + 2;

impl Episode<'_> {
    /// A turn begins: returns who waits for it.
    pub(super) fn watch(&mut self, now: Instant) -> Vec<u16> {
        let mut world = self.world.borrow_mut();
        let accepts_share = (self.connections / ACCEPTS_SHARE).clamp(1, ACCEPTS_MAX);
        world.begin_turn(accepts_share, self.table.is_paused());
        drop(world);
        self.give_reasons(self.table.overdue(now));
        self.table.run_queue().collect()
    }

    pub(super) fn give_reasons<'s>(&self, streams: impl Iterator<Item = &'s SimulatedStream>) {
        let mut world = self.world.borrow_mut();
        streams.for_each(|stream| world.give_reason(stream.id));
    }

    /// Those who waited for another turn are still in front, in their order. As a turn serves its share
    /// of them from the front, nobody waits for more turns than there are such shares before it.
    pub(super) fn assert_line(&self, before: &[u16]) -> Vec<u16> {
        let line: Vec<u16> = self.table.run_queue().collect();
        assert!(
            line.starts_with(before),
            "{before:?} do not come first in {line:?}"
        );
        line
    }

    /// How many of those who wait for another turn this one may serve.
    pub(super) fn serves_max(&self) -> usize {
        let is_full = self.world.borrow().held.len() == self.connections;
        match is_full || self.table.is_flooded() {
            true => SERVES_MAX_IF_FULL,
            false => SERVES_MAX,
        }
    }

    /// A turn that is over has accepted no more than it may, and looked only at connections that it has
    /// a reason to look at: an event, their place in the line, that they are new, or overdue. So much
    /// was seen when it did; and each reason costs little.
    pub(super) fn assert_bounded(&mut self) {
        let mut world = self.world.borrow_mut();
        world.is_turn = false;
        for listening in &world.listening {
            let (accepts, accepts_max) = (listening.accepts, listening.accepts_max);
            assert!(
                accepts <= accepts_max,
                "{accepts} accepts in one turn, not {accepts_max}"
            );
        }
        // Who comes into a full table has another one closed.
        let closed = world.listening.iter().map(|listening| listening.accepts);
        let others = closed.sum::<usize>() + world.listening.len() * CALLS_PER_LISTENER_MAX;
        // At the end of time whoever was just served is overdue as well.
        let is_end = world.now == Instant::from_millis(u64::MAX);
        let served = world.reasons * if is_end { 2 } else { 1 };
        let calls_max = served * CALLS_PER_SERVE_MAX + others;
        let calls = world.calls;
        assert!(
            calls <= calls_max,
            "{calls} calls in one turn, not {calls_max}"
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
        assert!(held <= self.connections, "more than the table holds");
        assert_eq!(counters.accepted, world.accepted);
        let ended = counters.evicted + counters.expired + counters.failed;
        assert!(ended + counters.open <= counters.accepted);
        self.table
            .assert_whole(now, self.latest, self.has_gone_back);
        let (began, is_paused) = (world.refused_at, self.table.is_paused());
        assert!(
            !is_paused || began == now || began < now && now < began.saturating_add(ACCEPT_PAUSE),
            "nobody is accepted at {now:?} because of {began:?}"
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
                    || !world.is_forgotten(index),
                "listener {index} has something to say and nobody will listen"
            );
        }
        for id in self.table.streams().map(|stream| stream.id) {
            assert!(
                is_due || world.is_told_or_idle(id) || world.is_blocked(id),
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
            Self::assert_heard(&world, *id);
        }
    }

    /// The server asks to be woken when the first time is up, and not later or before.
    pub(super) fn assert_deadline(&self) {
        let world = self.world.borrow();
        let is_waiting = self.table.run_queue().next().is_some();
        let is_paused = self.table.is_paused();
        let expected = if is_waiting || !is_paused && world.is_accepting() {
            Some(Instant::ZERO)
        } else {
            let ends = WaitReason::ALL.into_iter().filter_map(|queue| {
                let places = self.table.places();
                let mut members = places.filter(|(_, place, _)| *place == queue);
                // Who comes when the clock has gone back waits for those in front.
                let (.., since) = match self.has_gone_back {
                    true => members.next(),
                    false => members.min_by_key(|(.., since)| *since),
                }?;
                Some(since.saturating_add(match queue {
                    WaitReason::Idle | WaitReason::Write => self.limits.idle_duration,
                    WaitReason::Head => self.limits.head_duration,
                    WaitReason::Drain => self.limits.drain_duration,
                }))
            });
            let pause = is_paused.then(|| world.refused_at.saturating_add(ACCEPT_PAUSE));
            let stop = self.stops_at.filter(|_| !world.held.is_empty());
            ends.chain(pause).chain(stop).min()
        };
        assert_eq!(
            self.deadline(),
            expected,
            "the server wakes at a wrong time"
        );
    }

    /// Whoever is honest is answered as soon as all that it has to say is there for the server.
    fn assert_heard(world: &World, id: usize) {
        let socket = &world.sockets[id];
        let client = &socket.client;
        if !client.manner.is_honest() || socket.is_spoilt || socket.is_delayed {
            return;
        }
        let is_due = match client.manner {
            // Whether it may be closed before that is seen when it is.
            Manner::Late => {
                let is_told = socket.token.is_some() && socket.pending.is_none();
                assert!(
                    socket.is_heard() || !is_told || socket.to_server.is_empty(),
                    "input of connection {id} will never be read"
                );
                socket.is_heard()
            }
            // Nor whether the second piece comes too late.
            Manner::Halved => client.has_said_all() && socket.read == client.sent,
            // All of it was there when it was accepted.
            _ => socket.accepted_at.is_some() || socket.server_closed,
        };
        assert!(
            !is_due || client.has_all(),
            "{id}: a probe is not answered: {client:?}"
        );
    }
}

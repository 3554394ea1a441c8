//! The endpoints that a server answers for, and their replacement while it serves.
//!
//! Knows no connection. [`super::driver`] reads [`Served`] for each buffer of requests. [`super::Server`] replaces its
//! endpoints, and [`super::run`] brings it the sets that other threads leave in a [`Mailbox`].

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::counters::LiveCounters;
use super::metrics;
use crate::answer::{Metrics, Paths, Responder};
use crate::check::EndpointSet;
use crate::http::{Answer, BufferFull, Request, Writer};
use crate::limits::Limits;
use crate::time::Instant;

/// The longest answer of an [`EndpointSet`] does not fit in the memory that the server has reserved for it; see
/// [`Config::response_bytes_min`](super::Config::response_bytes_min), and for `/metrics`
/// [`Config::long_response_bytes_min`](super::Config::long_response_bytes_min). The endpoints are as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointsTooLarge {
    /// Bytes of the longest answer of the set.
    pub needed: usize,
    /// Bytes that are reserved for an answer.
    pub reserved: usize,
}

impl fmt::Display for EndpointsTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndpointsTooLarge { needed, reserved } = self;
        write!(
            f,
            "the longest answer of these endpoints takes {needed} bytes, and {reserved} are reserved"
        )
    }
}

impl core::error::Error for EndpointsTooLarge {}

/// The room that a server has for answers.
#[derive(Clone, Copy)]
pub(super) struct Room {
    pub(super) limits: Limits,
    pub(super) response_bytes: usize,
    /// Bytes for each long answer.
    pub(super) long_bytes: usize,
    /// What `/metrics` answers, which may be long; `None` if it is not served.
    pub(super) metrics: Option<Metrics>,
}

impl Room {
    fn check(&self, set: &EndpointSet) -> Result<(), EndpointsTooLarge> {
        let mut responder = Responder::new(&[]).with_endpoint_set(set);
        if let Some(metrics) = self.metrics {
            responder = responder.with_metrics(metrics);
        }
        let needed = responder.response_bytes_max(&self.limits);
        // Answers in JSON that do not fit become text.
        let long = responder.metrics_bytes_max(metrics::BYTES_MAX);
        let long = if long <= self.response_bytes { 0 } else { long };
        for (needed, reserved) in [(needed, self.response_bytes), (long, self.long_bytes)] {
            if needed > reserved {
                return Err(EndpointsTooLarge { needed, reserved });
            }
        }
        Ok(())
    }
}

/// What a server answers with: a responder, and the set that replaces its endpoints, if there is one.
pub(super) struct Served<'a, P> {
    responder: Responder<'a, P>,
    set: Option<Arc<EndpointSet>>,
}

impl<'a, P: Paths> Served<'a, P> {
    pub(super) fn new(responder: Responder<'a, P>) -> Self {
        Served {
            responder,
            set: None,
        }
    }

    /// As [`Responder::respond`]; `/metrics` also has the metrics of the server.
    // Always, as `respond` of the driver.
    #[inline(always)]
    pub(super) fn respond(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
        counters: &LiveCounters,
    ) -> Result<Answer, BufferFull> {
        self.responder.respond_or(now, request, writer, |writer| {
            self.respond_elsewhere(now, request, writer, counters)
        })
    }

    /// Answers a request of a client that accepts only JSON, and that may know the reasons of failures. If JSON might
    /// take more than `room` bytes, endpoints answer with text, as all other paths do.
    #[inline(never)]
    pub(super) fn respond_health_json(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
        counters: &LiveCounters,
        room: usize,
    ) -> Result<Answer, BufferFull> {
        let responder = match &self.set {
            None => self.responder,
            Some(set) => self.responder.with_endpoint_set(set),
        };
        if responder.health_json_bytes_max() > room {
            return self.respond_with_text(now, request, writer, counters);
        }
        responder
            .health_json(now, request, writer)
            .unwrap_or_else(|writer| self.respond_with_text(now, request, writer, counters))
    }

    /// As [`respond`](Served::respond), to a client that accepts only JSON.
    // Not inlined: such requests are rare.
    #[inline(never)]
    fn respond_with_text(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
        counters: &LiveCounters,
    ) -> Result<Answer, BufferFull> {
        self.respond(now, request, writer, counters)
    }

    /// Answers a request for a path that its listener does not serve.
    pub(super) fn respond_not_served(
        &self,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        self.responder.respond_not_served(request, writer)
    }

    /// Answers a request whose path is not of a fixed endpoint: with an endpoint of the set, the metrics or 404.
    // Not inlined: it would cost instructions in each answer of a fixed endpoint.
    #[inline(never)]
    fn respond_elsewhere(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
        counters: &LiveCounters,
    ) -> Result<Answer, BufferFull> {
        let responder = match &self.set {
            None => self.responder,
            Some(set) => self.responder.with_endpoint_set(set),
        };
        responder.respond_elsewhere(now, request, writer, |text| metrics::write(counters, text))
    }

    pub(super) fn metrics(&self) -> Option<Metrics> {
        self.responder.metrics()
    }

    pub(super) fn begin(&self, now: Instant) {
        match &self.set {
            None => self.responder.begin(now),
            Some(set) => self.responder.with_endpoint_set(set).begin(now),
        }
    }

    /// Sets the endpoints of a server that has not begun to serve.
    pub(super) fn set_endpoints(&mut self, set: Arc<EndpointSet>) {
        self.exchange_set(set);
    }

    /// Answers with `set` from now on, if it fits in `room`.
    pub(super) fn replace(
        &mut self,
        set: Arc<EndpointSet>,
        room: &Room,
        now: Instant,
    ) -> Result<(), EndpointsTooLarge> {
        room.check(&set)?;
        drop(self.exchange(set, now));
        Ok(())
    }

    fn exchange(&mut self, set: Arc<EndpointSet>, now: Instant) -> Option<Arc<EndpointSet>> {
        let before = self.exchange_set(set);
        self.begin(now);
        before
    }

    fn exchange_set(&mut self, set: Arc<EndpointSet>) -> Option<Arc<EndpointSet>> {
        // The fixed endpoints are searched first, so there must be none.
        self.responder = self.responder.without_endpoints();
        self.set.replace(set)
    }
}

/// Passes a set from any thread to the server's thread.
///
/// The server's thread waits for no other thread and frees nothing. It locks the mailbox only after a command, gives up
/// if another thread has the lock, and puts the set that it has used so far into the mailbox. Other threads free that
/// set. The mailbox never has a new and an old set at once.
pub(super) struct Mailbox {
    room: Room,
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    new: Option<Arc<EndpointSet>>,
    old: Option<Arc<EndpointSet>>,
}

/// Another thread holds the lock of the mailbox.
pub(super) struct Busy;

impl Mailbox {
    pub(super) fn new(room: Room) -> Self {
        Mailbox {
            room,
            sets: Mutex::default(),
        }
    }

    /// Puts a set into the mailbox, and replaces one that the server has not taken. The caller gives the command
    /// afterwards, when the lock is free.
    pub(super) fn put(&self, set: Arc<EndpointSet>) -> Result<(), EndpointsTooLarge> {
        self.room.check(&set)?;
        let mut sets = self.lock();
        let unused = (sets.new.replace(set), sets.old.take());
        drop(sets);
        drop(unused);
        Ok(())
    }

    /// Frees the set that the server no longer uses. Returns true if the server has taken the last set that was put.
    pub(super) fn free_old(&self) -> bool {
        let mut sets = self.lock();
        let old = sets.old.take();
        let is_taken = sets.new.is_none();
        drop(sets);
        drop(old);
        is_taken
    }

    /// Gives `served` the set that was put, if there is one. Called by the server's thread.
    pub(super) fn deliver(
        &self,
        served: &mut Served<'_, impl Paths>,
        now: Instant,
    ) -> Result<(), Busy> {
        let mut sets = match self.sets.try_lock() {
            Ok(sets) => sets,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Busy),
        };
        if let Some(set) = sets.new.take() {
            debug_assert!(sets.old.is_none(), "the server's thread frees a set");
            sets.old = served.exchange(set, now);
        }
        Ok(())
    }

    /// Calls `action` while another thread would find the mailbox locked.
    #[cfg(test)]
    pub(super) fn while_locked<T>(&self, action: impl FnOnce() -> T) -> T {
        let _sets = self.lock();
        action()
    }

    fn lock(&self) -> MutexGuard<'_, Sets> {
        // Nothing panics while it is locked.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The settings of a server, the memory that it needs with them, and memory that a host provides.
//!
//! Knows no socket. Read by [`super::Server`] when it is made.

use super::buffers::Buffers;
use super::metrics;
use super::slots::Slot;
use crate::answer::{Paths, Responder};
use crate::http::HeadCache;
use crate::limits::{
    CONNECTIONS_DEFAULT, CONNECTIONS_MAX, Limits, REQUEST_HEAD_BYTES_MAX, REQUEST_HEAD_BYTES_MIN,
};

/// What a server may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Limits of each connection.
    pub limits: Limits,
    /// Most connections open at once, from 1 to [`CONNECTIONS_MAX`]. A further one evicts another. Each takes a
    /// descriptor. In a process without free descriptors (`RLIMIT_NOFILE`, often 1,024), each new connection waits
    /// for [`ACCEPT_PAUSE`](super::ACCEPT_PAUSE) and then evicts one too.
    pub connections: usize,
    /// Least number of bytes to reserve for each answer. The endpoints that the server begins with reserve what they
    /// need, and the larger number counts. Endpoints that replace them ([`Server::replace_endpoints`]) must fit.
    /// [`Responder::response_bytes_of`] says how much a number of checks needs. The default is 0.
    ///
    /// [`Server::replace_endpoints`]: super::Server::replace_endpoints
    pub response_bytes_min: usize,
    /// Least number of bytes to reserve for each of the two buffers for long answers, which all connections share.
    /// The endpoints that the server begins with reserve what they need, and the larger number counts. Endpoints that
    /// replace them must fit. [`long_response_bytes`](Config::long_response_bytes) says how much some endpoints need,
    /// and [`long_response_bytes_of`](Config::long_response_bytes_of) how much a number of checks needs. The default
    /// is 0.
    pub long_response_bytes_min: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::DEFAULT,
            connections: CONNECTIONS_DEFAULT,
            response_bytes_min: 0,
            long_response_bytes_min: 0,
        }
    }
}

impl Config {
    /// Memory of a server with these settings in bytes, if every connection holds the longest unfinished head and
    /// the longest unread answer. Clients cannot make it use more. Unused buffers are not resident: an idle server
    /// touches a few pages. Settings out of bounds are not an error here; too large a size is `usize::MAX`.
    pub fn memory_bytes_max(&self, responder: &Responder<'_, impl Paths>) -> usize {
        let slots = self.connections.saturating_mul(size_of::<Slot>());
        let others = size_of::<HeadCache>().saturating_add(self.buffer_bytes(responder));
        slots.saturating_add(others)
    }

    /// The part of [`memory_bytes_max`](Config::memory_bytes_max) for heads and answers: two buffers for each
    /// connection, two that all share, and two for long answers, which all share too.
    pub fn buffer_bytes(&self, responder: &Responder<'_, impl Paths>) -> usize {
        Buffers::bytes(
            self.connections,
            self.limits.request_head_bytes,
            self.response_bytes(responder),
            self.long_response_bytes(responder),
        )
    }

    /// Bytes to reserve for each answer.
    pub(super) fn response_bytes(&self, responder: &Responder<'_, impl Paths>) -> usize {
        let needed = responder.response_bytes_max(&self.limits);
        needed.max(self.response_bytes_min)
    }

    /// Bytes that a server reserves for each of its two long answers: as [`Responder::long_response_bytes_max`], and
    /// the metrics of the server itself. If there are no long answers, or shorter ones,
    /// [`long_response_bytes_min`](Config::long_response_bytes_min), which is 0 by default.
    pub fn long_response_bytes(&self, responder: &Responder<'_, impl Paths>) -> usize {
        let needed = responder.long_response_bytes_with(&self.limits, metrics::BYTES_MAX);
        needed.max(self.long_response_bytes_min)
    }

    /// As [`long_response_bytes`](Config::long_response_bytes), for `/healthz`, `/livez` and `/readyz` with at most
    /// this many checks each, of any names, instead of the endpoints of `responder`.
    pub fn long_response_bytes_of(
        &self,
        responder: &Responder<'_, impl Paths>,
        checks: usize,
    ) -> usize {
        let needed = responder.long_response_bytes_of(checks, metrics::BYTES_MAX);
        needed.max(self.long_response_bytes_min)
    }

    /// Panics if a field is out of its bounds.
    pub(super) fn assert_valid(&self) {
        let head_bytes = REQUEST_HEAD_BYTES_MIN..=REQUEST_HEAD_BYTES_MAX;
        assert!(
            head_bytes.contains(&self.limits.request_head_bytes),
            "request_head_bytes is from 512 to 65,535"
        );
        assert!(
            (1..=CONNECTIONS_MAX).contains(&self.connections),
            "connections is from 1 to 65,535"
        );
    }
}

/// Memory for a server that takes nothing from the heap; see
/// [`Server::with_memory`](super::Server::with_memory).
///
/// All of it can be static: a `std::sync::Mutex` makes it mutable without `unsafe`, and its guard
/// lives as long as the server.
#[derive(Debug)]
pub struct Memory<'a> {
    /// One for each connection that can be open at once, from 1 to
    /// [`CONNECTIONS_MAX`](crate::limits::CONNECTIONS_MAX).
    pub slots: &'a mut [Slot],
    /// Buffers: at least [`Config::buffer_bytes`](super::Config::buffer_bytes). They need not be zero.
    pub bytes: &'a mut [u8],
    /// The cache of request heads.
    pub heads: &'a mut HeadCache,
}

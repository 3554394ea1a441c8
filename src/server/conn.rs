//! One open connection: its socket, its HTTP state, and what it has in its own buffers.
//!
//! Made by [`super::table`], which keeps it in a slot. Changed there and by [`super::driver`].

use core::ops::Range;

use super::policy::Owner;
use crate::http::Connection;
use crate::time::Instant;

/// Where a connection comes from. Fixed when it is accepted.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    /// The index of its listener.
    pub(super) listener: u8,
    /// Its listener serves only some paths.
    pub(super) is_restricted: bool,
    /// Its client is on this machine: it uses a Unix socket, or has a loopback address. It may get JSON with reasons.
    pub(super) is_local: bool,
}

/// An open connection.
pub(super) struct Conn<S> {
    pub(super) stream: S,
    pub(super) origin: Origin,
    /// Its phase says what the connection waits for when nothing is unsent.
    pub(super) connection: Connection,
    /// Bytes that were received and not processed yet, in the connection's own buffer: usually an unfinished head.
    pub(super) received: usize,
    /// These bytes may hold whole requests, which are answered before more is read.
    pub(super) is_behind: bool,
    /// Unsent bytes of answers: in the connection's own buffer, or in the buffer for a long answer that it owns.
    pub(super) unsent: Range<usize>,
    /// Registered for writing too, because sending was blocked once.
    pub(super) is_writing: bool,
    /// The client has ended its side. Bytes before its end may still be unread.
    pub(super) has_ended: bool,
    /// The process that connected, if the kernel reports it. Read when the connection gets a slot.
    pub(super) owner: Option<Owner>,
}

impl<S> Conn<S> {
    /// A connection that was just accepted.
    pub(super) fn new(stream: S, origin: Origin, now: Instant) -> Self {
        Conn {
            stream,
            origin,
            connection: Connection::new(now),
            received: 0,
            is_behind: false,
            unsent: 0..0,
            is_writing: false,
            has_ended: false,
            owner: None,
        }
    }
}

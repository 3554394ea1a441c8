//! One open connection: its socket, its HTTP state, and what it has in its own buffers.
//!
//! Made by [`super::table`], which keeps it in a slot; changed by [`super::driver`].

use core::ops::Range;

use super::policy::Owner;
use crate::http::Connection;
use crate::time::Instant;

/// An open connection.
pub(super) struct Conn<S> {
    pub(super) stream: S,
    /// Its phase says what the connection waits for when nothing is unsent.
    pub(super) connection: Connection,
    /// Bytes of an unfinished head in the connection's own buffer.
    pub(super) received: usize,
    /// These bytes may hold whole requests, which are answered before more is read.
    pub(super) is_behind: bool,
    /// Unsent bytes of answers in the connection's own buffer.
    pub(super) unsent: Range<usize>,
    /// Registered for writing too, because sending was blocked once.
    pub(super) is_writing: bool,
    /// The client has ended its side. Bytes before its end may still be unread.
    pub(super) has_ended: bool,
    /// The process that connected, if the kernel says so. Read when the connection gets a slot.
    pub(super) owner: Option<Owner>,
}

impl<S> Conn<S> {
    /// A connection that was just accepted.
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Conn {
            stream,
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

//! One open connection: its socket, its HTTP state, and what it has in its own buffers.
//!
//! Made by [`super::table`], which keeps it in a slot; changed by [`super::driver`].

use core::ops::Range;

use super::policy::Owner;
use crate::http::{Connection, Next};
use crate::time::Instant;

/// An open connection.
pub struct Conn<S> {
    pub(super) stream: S,
    pub(super) connection: Connection,
    /// Bytes of an unfinished head in the connection's own buffer.
    pub(super) received: usize,
    /// Unsent bytes of answers in the connection's own buffer.
    pub(super) unsent: Range<usize>,
    /// What follows when they are sent.
    pub(super) after: Next,
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
            unsent: 0..0,
            after: Next::Read,
            is_writing: false,
            has_ended: false,
            owner: None,
        }
    }
}

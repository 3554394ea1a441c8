//! Memory that is the server's own or its caller's, and how much of it there has to be.

use core::ops::{Deref, DerefMut};
use std::boxed::Box;

use super::slots::Slot;
use crate::http::HeadCache;

/// Memory for a server that takes none from the heap, see
/// [`Server::with_memory`](super::Server::with_memory).
///
/// All of it can be static: a `std::sync::Mutex` makes it mutable without `unsafe`, and its guard
/// lives as long as the server.
#[derive(Debug)]
pub struct Memory<'a> {
    /// One for each connection that is held at once, from 1 to
    /// [`CONNECTIONS_MAX`](crate::limits::CONNECTIONS_MAX).
    pub slots: &'a mut [Slot],
    /// For heads and answers: at least [`Config::buffer_bytes`](super::Config::buffer_bytes) of them.
    /// They need not be zero.
    pub bytes: &'a mut [u8],
    /// For the meaning of heads that repeat.
    pub heads: &'a mut HeadCache,
}

/// What is the server's own or its caller's. Both are a pointer of the same shape, so that looking
/// through it costs no branch.
pub(super) enum Managed<'a, T: ?Sized> {
    Own(Box<T>),
    Borrowed(&'a mut T),
}

impl<T: ?Sized> Deref for Managed<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self {
            Managed::Own(own) => own,
            Managed::Borrowed(borrowed) => borrowed,
        }
    }
}

impl<T: ?Sized> DerefMut for Managed<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Managed::Own(own) => own,
            Managed::Borrowed(borrowed) => borrowed,
        }
    }
}

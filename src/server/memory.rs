//! Memory that belongs to the server or to its caller.
//!
//! Knows nothing of its content. Used by [`super::Server`], [`super::driver`], [`super::slots`] and
//! [`super::buffers`].

use core::ops::{Deref, DerefMut};
use std::boxed::Box;

/// Owned or borrowed memory. Both variants are a pointer of the same layout, so that a dereference needs no
/// branch.
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

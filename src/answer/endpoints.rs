//! The list of endpoints of a [`Responder`](super::Responder): borrowed for ever, or of a set that a server replaces.
//!
//! Knows nothing of requests.

use crate::check::Endpoint;
#[cfg(feature = "server")]
use crate::check::{EndpointSet, EndpointSetIter};

#[derive(Clone, Copy, Debug)]
pub(super) enum Endpoints<'a> {
    Borrowed(&'a [Endpoint<'a>]),
    #[cfg(feature = "server")]
    Shared(&'a EndpointSet),
}

impl<'a> Endpoints<'a> {
    #[inline]
    pub(super) fn iter(&self) -> EndpointIter<'a> {
        match self {
            Endpoints::Borrowed(endpoints) => EndpointIter::Borrowed(endpoints.iter()),
            #[cfg(feature = "server")]
            Endpoints::Shared(set) => EndpointIter::Shared(set.iter()),
        }
    }
}

#[derive(Clone)]
pub(super) enum EndpointIter<'a> {
    Borrowed(core::slice::Iter<'a, Endpoint<'a>>),
    #[cfg(feature = "server")]
    Shared(EndpointSetIter<'a>),
}

impl<'a> Iterator for EndpointIter<'a> {
    type Item = Endpoint<'a>;

    #[inline]
    fn next(&mut self) -> Option<Endpoint<'a>> {
        match self {
            EndpointIter::Borrowed(endpoints) => endpoints.next().copied(),
            #[cfg(feature = "server")]
            EndpointIter::Shared(endpoints) => endpoints.next(),
        }
    }
}

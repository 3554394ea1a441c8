//! An embedder's own paths.
//!
//! Knows no endpoint. [`super`] calls [`Paths`] for a path that is none of its own, instead of answering 404.

use super::not_found;
use crate::http::{Answer, BufferFull, Request, Writer};
use crate::time::Instant;

/// Answers requests whose path is none of the [`Responder`](super::Responder)'s: no endpoint, no check, no metrics. The
/// host was allowed, and the path is clean: `//version` was redirected to `/version`.
///
/// ```
/// use healthz::answer::{Paths, not_found};
/// use healthz::http::{Answer, BufferFull, Fields, Method, Request, StatusCode, Writer};
/// use healthz::{Check, Endpoint, Instant, Responder};
///
/// /// Answers `/version`. What changes is behind a shared reference, in atomics for example.
/// #[derive(Clone, Copy)]
/// struct Version<'a>(&'a str);
///
/// impl Paths for Version<'_> {
///     fn respond(
///         &self,
///         _now: Instant,
///         request: &Request<'_>,
///         writer: Writer<'_>,
///     ) -> Result<Answer, BufferFull> {
///         match (request.method(), request.target().path()) {
///             (Method::Get | Method::Head, b"/version") => {
///                 writer.fixed(StatusCode::OK, Fields::Text, self.0.as_bytes())
///             }
///             _ => not_found(writer),
///         }
///     }
///
///     fn body_bytes_max(&self) -> usize {
///         self.0.len()
///     }
/// }
///
/// static PING: Check = Check::ping();
/// static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
///
/// let responder = Responder::new(&ENDPOINTS).with_paths(Version("1.2.3\n"));
/// # let _ = responder;
/// ```
///
/// It is copied with the responder, so its state is behind shared references.
pub trait Paths: Copy {
    /// Writes the answer to `request`, or [`not_found`] if it has none. It is called on the server's thread, so it must
    /// neither wait nor take long: no other request is answered meanwhile.
    ///
    /// [`path`](crate::http::Target::path) is the path as it was sent, so an encoded one (`/%76ersion`) is another path
    /// here unless it is decoded. To HEAD, `writer` sends the head alone.
    ///
    /// # Errors
    /// The one that `writer` returns. If the answer did not fit, it is called again for the same request with more
    /// room, up to [`body_bytes_max`](Paths::body_bytes_max). So count a request after the answer was written.
    fn respond(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull>;

    /// Bytes of the longest body that [`respond`](Paths::respond) writes. It must always return the same number. A
    /// longer body becomes a 500.
    ///
    /// Answers that are longer than all others share two buffers in `server`, so the number does not multiply the
    /// memory of connections.
    fn body_bytes_max(&self) -> usize;
}

/// No paths of an embedder: every other path gets 404.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoPaths;

impl Paths for NoPaths {
    #[inline]
    fn respond(
        &self,
        _now: Instant,
        _request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        not_found(writer)
    }

    #[inline]
    fn body_bytes_max(&self) -> usize {
        0
    }
}

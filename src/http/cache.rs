//! A cache of parsed request heads.
//!
//! A prober (the kubelet, a load balancer, curl in a loop) sends the same bytes every time, and the
//! result of parsing depends on the bytes alone. So a head that equals a cached one is not parsed again,
//! which halves the instructions of a request. The answer is never cached: it depends on the checks.
//!
//! Knows nothing of connections, answers and time. [`super::connection`] looks each head up; one cache
//! serves all connections. The index of an entry is the length of the head, so that a few probers with
//! different heads do not replace each other's entries.

use super::request::{BodyLength, Method, Request};
use super::target::{Form, PathFlags, Target};
use crate::limits::{HEAD_CACHE_ENTRIES, HEAD_CACHE_HEAD_BYTES};

/// A part of a head: start and length.
#[derive(Clone, Copy, Debug, Default)]
struct Span(u16, u16);

/// A request with spans of its head instead of references. Its target is in origin-form, it
/// has no body, and it does not expect `100-continue`: other heads are not cached.
#[derive(Clone, Copy, Debug)]
struct CachedRequest {
    method: Method,
    is_http10: bool,
    keep_alive: bool,
    accepts_health_json: bool,
    path: Span,
    flags: PathFlags,
    query: Option<Span>,
    host: Option<Span>,
}

#[derive(Clone, Debug)]
struct Entry {
    request: Option<CachedRequest>,
    length: usize,
    head: [u8; HEAD_CACHE_HEAD_BYTES],
}

/// A cache of parsed request heads, of about 2 KiB, for
/// [`Connection::receive_cached`](super::Connection::receive_cached). See the [module](self).
#[derive(Clone, Debug)]
pub struct HeadCache {
    entries: [Entry; HEAD_CACHE_ENTRIES],
}

impl HeadCache {
    /// An empty cache.
    pub const fn new() -> Self {
        let entries = [const {
            Entry {
                request: None,
                length: 0,
                head: [0; HEAD_CACHE_HEAD_BYTES],
            }
        }; HEAD_CACHE_ENTRIES];
        HeadCache { entries }
    }

    /// The request if all of `rx` is a cached head.
    #[inline]
    pub(super) fn get<'a>(&self, rx: &'a [u8]) -> Option<Request<'a>> {
        // By length, which needs no hash. Collisions only cost a parse.
        let entry = self.entries.get(rx.len() % HEAD_CACHE_ENTRIES)?;
        let cached = entry.request.as_ref()?;
        // The whole head is compared: a hash could be equal for another request.
        if entry.head.get(..entry.length)? != rx {
            return None;
        }
        let query = cached.query.map(|query| query.of(rx));
        Some(Request {
            method: cached.method,
            target: Target::from_parts(cached.path.of(rx), cached.flags, query),
            host: cached.host.map(|host| host.of(rx)),
            is_http10: cached.is_http10,
            keep_alive: cached.keep_alive,
            accepts_health_json: cached.accepts_health_json,
            // `insert` accepts no head with other values in the fields below.
            is_framing_ambiguous: false,
            expects_continue: false,
            body: BodyLength::Known(0),
        })
    }

    /// Caches that all of `rx` is the head of `request`, if it is short and of the common kind.
    pub(super) fn insert(&mut self, rx: &[u8], request: &Request<'_>) {
        // Other requests are rare. Leaving them out keeps an entry small and `get` short.
        let is_common = request.target.form() == Form::Origin
            && request.body == BodyLength::Known(0)
            && !request.expects_continue;
        let Some(entry) = self.entries.get_mut(rx.len() % HEAD_CACHE_ENTRIES) else {
            return;
        };
        // A head that is too long for an entry is not cached either.
        let Some(head) = entry.head.get_mut(..rx.len()).filter(|_| is_common) else {
            return;
        };
        let query = request.target.query().map(|query| Span::find(rx, query));
        let cached = CachedRequest {
            method: request.method,
            is_http10: request.is_http10,
            keep_alive: request.keep_alive,
            accepts_health_json: request.accepts_health_json,
            path: Span::find(rx, request.target.path()),
            flags: request.target.flags(),
            query,
            host: request.host.map(|host| Span::find(rx, host)),
        };
        head.copy_from_slice(rx);
        entry.length = rx.len();
        entry.request = Some(cached);
    }
}

impl Default for HeadCache {
    fn default() -> Self {
        HeadCache::new()
    }
}

impl Span {
    /// The span of `part`, which must be a slice of `head`.
    fn find(head: &[u8], part: &[u8]) -> Self {
        // An empty slice may point to another place than `head`.
        if part.is_empty() {
            return Span::default();
        }
        // The distance of the two addresses: no search, and no offsets in `Request`.
        let start = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        debug_assert!(start + part.len() <= head.len(), "not a part of the head");
        Span(start as u16, part.len() as u16)
    }

    #[inline]
    fn of(self, head: &[u8]) -> &[u8] {
        let start = usize::from(self.0);
        head.get(start..start + usize::from(self.1))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Parsed, parse};
    use super::*;
    use std::format;
    use std::string::String;

    fn parsed(head: &[u8]) -> Request<'_> {
        match parse(head) {
            Ok(Parsed::Complete(request, length)) if length == head.len() => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cached_head_gives_the_request_that_was_parsed() {
        let mut cache = HeadCache::new();
        for target in [
            "/healthz",
            "/healthz?verbose&exclude=a",
            "/%68ealthz?",
            "//livez",
            "/",
        ] {
            for rest in [
                "HTTP/1.1\r\nHost: a\r\n\r\n",
                "HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
                "HTTP/1.0\r\n\r\n",
                "HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                "HTTP/1.2\nhost: [::1]:1\n\n",
                "HTTP/1.1\r\nHost: a\r\nAccept: application/health+json\r\n\r\n",
            ] {
                for method in ["GET", "HEAD", "OPTIONS", "POST", "PURGE"] {
                    let head = format!("{method} {target} {rest}");
                    let request = parsed(head.as_bytes());
                    assert!(cache.get(head.as_bytes()).is_none(), "{head}");
                    cache.insert(head.as_bytes(), &request);
                    // At another address, as the next request is.
                    let again = head.clone();
                    let cached = cache.get(again.as_bytes()).unwrap();
                    assert_eq!(format!("{cached:?}"), format!("{request:?}"));
                }
            }
        }
    }

    #[test]
    fn a_head_that_differs_in_one_byte_is_not_found() {
        let mut cache = HeadCache::new();
        let head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        cache.insert(head, &parsed(head));
        for at in 0..head.len() {
            let mut other = *head;
            other[at] ^= 1;
            assert!(cache.get(&other).is_none());
            // A prefix is not found either: it may be all that was received so far.
            assert!(cache.get(&head[..at]).is_none());
        }
    }

    #[test]
    fn uncommon_heads_are_not_cached() {
        let mut cache = HeadCache::new();
        let long = format!(
            "GET /{} HTTP/1.0\r\n\r\n",
            "a".repeat(HEAD_CACHE_HEAD_BYTES)
        );
        for head in [
            "OPTIONS * HTTP/1.0\r\n\r\n",
            "GET http://a/healthz HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            &long,
        ] {
            cache.insert(head.as_bytes(), &parsed(head.as_bytes()));
            assert!(
                cache.get(head.as_bytes()).is_none(),
                "{}",
                String::from(head)
            );
        }
    }
}

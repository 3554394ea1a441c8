//! The heads that came last, and what they meant.
//!
//! Probers repeat themselves to the byte: the kubelet, a load balancer or curl in a loop send the same
//! head every time, and what a head means depends on nothing but its bytes. So a head that equals a
//! remembered one is not parsed again, which halves the instructions of a request. Only its meaning is
//! remembered, never its answer: that is decided by the checks, each time.
//!
//! Knows nothing of connections: one cache serves all of them. A head finds its place by its length,
//! so that a few probers that differ do not push each other out.

use super::request::{Body, Method, Request};
use super::target::{Form, Marks, Target};
use crate::limits::{HEAD_CACHE_ENTRIES, HEAD_CACHE_HEAD_BYTES};

/// A place in a head: start and length.
#[derive(Clone, Copy, Debug, Default)]
struct Part(u16, u16);

/// A request without its bytes. Origin-form, no body, no expectation: other heads are not remembered.
#[derive(Clone, Copy, Debug)]
struct Meaning {
    method: Method,
    is_http10: bool,
    keep_alive: bool,
    path: Part,
    marks: Marks,
    query: Option<Part>,
    host: Option<Part>,
}

#[derive(Clone, Debug)]
struct Entry {
    meaning: Option<Meaning>,
    length: usize,
    head: [u8; HEAD_CACHE_HEAD_BYTES],
}

/// See the module. About 2 KiB; give it to [`Connection::receive_cached`](super::Connection::receive_cached).
#[derive(Clone, Debug)]
pub struct HeadCache {
    entries: [Entry; HEAD_CACHE_ENTRIES],
}

impl HeadCache {
    /// Remembers nothing yet.
    pub const fn new() -> Self {
        let entries = [const {
            Entry {
                meaning: None,
                length: 0,
                head: [0; HEAD_CACHE_HEAD_BYTES],
            }
        }; HEAD_CACHE_ENTRIES];
        HeadCache { entries }
    }

    /// What `rx` means if all of it is a head that is remembered.
    #[inline]
    pub(super) fn get<'a>(&self, rx: &'a [u8]) -> Option<Request<'a>> {
        let entry = self.entries.get(rx.len() % HEAD_CACHE_ENTRIES)?;
        let meaning = entry.meaning.as_ref()?;
        if entry.head.get(..entry.length)? != rx {
            return None;
        }
        let query = meaning.query.map(|query| query.of(rx));
        Some(Request {
            method: meaning.method,
            target: Target::from_parts(meaning.path.of(rx), meaning.marks, query),
            host: meaning.host.map(|host| host.of(rx)),
            is_http10: meaning.is_http10,
            keep_alive: meaning.keep_alive,
            is_framing_doubtful: false,
            expects_continue: false,
            body: Body::Length(0),
        })
    }

    /// Remembers that all of `rx` is the head of `request`, if it is of the common kind.
    pub(super) fn insert(&mut self, rx: &[u8], request: &Request<'_>) {
        let is_common = request.target.form() == Form::Origin
            && request.body == Body::Length(0)
            && !request.expects_continue;
        let Some(entry) = self.entries.get_mut(rx.len() % HEAD_CACHE_ENTRIES) else {
            return;
        };
        let Some(head) = entry.head.get_mut(..rx.len()).filter(|_| is_common) else {
            return;
        };
        let query = request.target.query().map(|query| Part::place(rx, query));
        let meaning = Meaning {
            method: request.method,
            is_http10: request.is_http10,
            keep_alive: request.keep_alive,
            path: Part::place(rx, request.target.path()),
            marks: request.target.marks(),
            query,
            host: request.host.map(|host| Part::place(rx, host)),
        };
        head.copy_from_slice(rx);
        entry.length = rx.len();
        entry.meaning = Some(meaning);
    }
}

impl Default for HeadCache {
    fn default() -> Self {
        HeadCache::new()
    }
}

impl Part {
    /// Where `part`, a slice of `head`, is in it.
    fn place(head: &[u8], part: &[u8]) -> Self {
        if part.is_empty() {
            return Part::default();
        }
        let start = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        debug_assert!(start + part.len() <= head.len(), "not a part of the head");
        Part(start as u16, part.len() as u16)
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
    fn a_remembered_head_means_what_it_meant() {
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
            ] {
                for method in ["GET", "HEAD", "OPTIONS", "POST", "PURGE"] {
                    let head = format!("{method} {target} {rest}");
                    let request = parsed(head.as_bytes());
                    assert!(cache.get(head.as_bytes()).is_none(), "{head}");
                    cache.insert(head.as_bytes(), &request);
                    // At another address, as it will be.
                    let again = head.clone();
                    let known = cache.get(again.as_bytes()).unwrap();
                    assert_eq!(format!("{known:?}"), format!("{request:?}"));
                }
            }
        }
    }

    #[test]
    fn a_head_that_differs_in_one_byte_is_not_remembered() {
        let mut cache = HeadCache::new();
        let head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        cache.insert(head, &parsed(head));
        for at in 0..head.len() {
            let mut other = *head;
            other[at] ^= 1;
            assert!(cache.get(&other).is_none());
            assert!(cache.get(&head[..at]).is_none());
        }
    }

    #[test]
    fn uncommon_heads_are_not_remembered() {
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

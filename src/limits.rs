//! Every limit of the crate, with the reason for its value.
//!
//! The constants are the largest and smallest values for which the code is written and tested. [`Limits`]
//! has the values of one server, within these bounds. Knows no other module; all modules use it.

use core::time::Duration;

/// Longest name of a check or a group, in bytes. Kubernetes' longest today is under 60.
pub const CHECK_NAME_BYTES_MAX: usize = 127;

/// Longest reason of a failing check, in bytes; a longer one is cut at a UTF-8 boundary. It is enough for
/// a wide log line. With 255 bytes, the two copies that a check holds take 512 bytes.
pub const REASON_BYTES_MAX: usize = 255;

/// Most field lines in one request head. curl sends 3, a browser about 15, a mesh proxy about 30. Each
/// takes 32 bytes of stack while a head is parsed.
pub const FIELDS_MAX: usize = 64;

/// Most `exclude` parameters in one query: as many as fit in [`REQUEST_HEAD_BYTES_DEFAULT`]. Each takes
/// 6 bytes of stack while a query with `exclude`, or any request for an endpoint in JSON, is answered.
pub const EXCLUDES_MAX: usize = 1024;

/// Empty lines that are ignored before a request line (RFC 9112 section 2.2 requires at least one). No
/// client sends more, except to keep a connection busy without a request.
pub const LEADING_EMPTY_LINES_MAX: u8 = 8;

/// Smallest request head buffer: enough for the recorded probes of every common client.
pub const REQUEST_HEAD_BYTES_MIN: usize = 512;
/// Default request head buffer. RFC 9112 section 3 recommends request lines of at least 8,000 bytes.
pub const REQUEST_HEAD_BYTES_DEFAULT: usize = 8 * 1024;
/// Largest request head buffer: offsets into a head fit in 16 bits.
pub const REQUEST_HEAD_BYTES_MAX: usize = 64 * 1024 - 1;

/// Entries of the head cache (see `http::HeadCache`), and the longest head in it in bytes. The head of
/// curl has 86 bytes, of the kubelet about 120, of Prometheus 400.
pub const HEAD_CACHE_ENTRIES: usize = 8;
/// See [`HEAD_CACHE_ENTRIES`].
pub const HEAD_CACHE_HEAD_BYTES: usize = 256;

/// Longest request body that is read and discarded to keep a connection open, in bytes, chunk framing
/// included. Go's net/http, which serves Kubernetes, has the same limit.
pub const BODY_DRAIN_BYTES_DEFAULT: u64 = 256 * 1024;

/// Longest time from the first byte of a head to its last.
pub const HEAD_DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Longest time from the last answer (or the accept) to the next byte.
pub const IDLE_DURATION_DEFAULT: Duration = Duration::from_secs(60);
/// Longest time for a body to arrive after its answer, for a client to close after the server, and for the
/// requests in progress after the server was told to stop.
pub const DRAIN_DURATION_DEFAULT: Duration = Duration::from_secs(2);

/// Default number of open connections; a further one evicts another (see `server`).
pub const CONNECTIONS_DEFAULT: usize = 64;
/// Most open connections of one server: an index of a slot has 16 bits, and one value means "none".
pub const CONNECTIONS_MAX: usize = u16::MAX as usize;
/// Most listening sockets of one server.
pub const LISTENERS_MAX: usize = 16;

/// Longest status line and fields of an answer, without the value of `Location`, in bytes;
/// `http::response` asserts it for each answer.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 512;

/// Most bytes of an answer that result from one byte of a request target. A raw `"` in an excluded name
/// that matches nothing is quoted as `\"`. Percent-encoding expands less (`%C3` becomes `\xc3`), and
/// `exclude=` before each name is dropped.
pub const TARGET_EXPANSION_MAX: usize = 2;

/// Longest target whose redirect has a note in HTML as its body. The note escapes `&` and `"` to five
/// bytes each, so longer targets get `Location` alone.
pub const REDIRECT_NOTE_TARGET_BYTES_MAX: usize = 512;

const _: () = assert!(REQUEST_HEAD_BYTES_MIN <= REQUEST_HEAD_BYTES_DEFAULT);
const _: () = assert!(REQUEST_HEAD_BYTES_DEFAULT <= REQUEST_HEAD_BYTES_MAX);
const _: () = assert!(REQUEST_HEAD_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(HEAD_CACHE_HEAD_BYTES <= REQUEST_HEAD_BYTES_MIN);
const _: () = assert!(EXCLUDES_MAX * "exclude&".len() >= REQUEST_HEAD_BYTES_DEFAULT);
const _: () = assert!(CONNECTIONS_DEFAULT <= CONNECTIONS_MAX);
const _: () = assert!(CHECK_NAME_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(REASON_BYTES_MAX <= u8::MAX as usize);

/// What one connection may cost, in bytes and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest request head in bytes, from [`REQUEST_HEAD_BYTES_MIN`] to [`REQUEST_HEAD_BYTES_MAX`].
    pub request_head_bytes: usize,
    /// Longest request body to discard, in bytes. After the answer to a longer one the connection closes.
    pub body_drain_bytes: u64,
    /// Longest time from the first byte of a head to its last.
    pub head_duration: Duration,
    /// Longest time without a request.
    pub idle_duration: Duration,
    /// Longest time for a body to arrive after its answer, for the client to close after the server, or for a
    /// request in progress after the server was told to stop.
    pub drain_duration: Duration,
}

impl Limits {
    /// The defaults above.
    pub const DEFAULT: Limits = Limits {
        request_head_bytes: REQUEST_HEAD_BYTES_DEFAULT,
        body_drain_bytes: BODY_DRAIN_BYTES_DEFAULT,
        head_duration: HEAD_DURATION_DEFAULT,
        idle_duration: IDLE_DURATION_DEFAULT,
        drain_duration: DRAIN_DURATION_DEFAULT,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

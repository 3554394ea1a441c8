//! Every bound in one place, and what each is for.
//!
//! Constants are the outermost values that the code was written and tested for; [`Limits`] is what
//! one server actually uses, within them. Knows nothing else of the crate; everybody reads it.

use core::time::Duration;

/// Longest name of a check or a group, in bytes. Kubernetes' longest today is under 60.
pub const CHECK_NAME_BYTES_MAX: usize = 127;

/// Longest text a failing check can carry, in bytes; longer ones are cut at a UTF-8 boundary.
/// One wide log line; 255 keeps two copies of a reason (see [`crate::check`]) within 512 bytes.
pub const REASON_BYTES_MAX: usize = 255;

/// Most field lines in one request head. curl sends 3, a browser about 15, a mesh proxy about 30.
/// Each costs 32 bytes of stack while a head is parsed.
pub const FIELDS_MAX: usize = 64;

/// Most `exclude` parameters in one query: all that fit in [`REQUEST_HEAD_BYTES_DEFAULT`].
/// Each costs 6 bytes of stack while a query with `exclude` is answered.
pub const EXCLUDES_MAX: usize = 1024;

/// Empty lines accepted before a request line (RFC 9112 section 2.2 asks for at least one).
/// More is no client's habit but a way to keep a connection busy without ever sending a request.
pub const LEADING_EMPTY_LINES_MAX: u8 = 8;

/// Smallest request head buffer: room for the recorded probes of every common client.
pub const REQUEST_HEAD_BYTES_MIN: usize = 512;
/// Default request head buffer. RFC 9112 section 3 asks for request lines of at least 8,000 bytes.
pub const REQUEST_HEAD_BYTES_DEFAULT: usize = 8 * 1024;
/// Largest request head buffer: offsets into a head fit in 16 bits.
pub const REQUEST_HEAD_BYTES_MAX: usize = 64 * 1024 - 1;

/// Heads whose meaning is remembered (see `http::HeadCache`), and the longest of them in bytes:
/// curl's has 86 bytes, the kubelet's about 120, Prometheus' 400.
pub const HEAD_CACHE_ENTRIES: usize = 8;
/// See [`HEAD_CACHE_ENTRIES`].
pub const HEAD_CACHE_HEAD_BYTES: usize = 256;

/// Longest request body that is read and thrown away to keep a connection open, in bytes,
/// chunk framing included. Go's net/http, under the real handler, draws the same line.
pub const BODY_DRAIN_BYTES_DEFAULT: u64 = 256 * 1024;

/// From the first byte of a head to its end.
pub const HEAD_DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// From the last answer (or the accept) to the next byte.
pub const IDLE_DURATION_DEFAULT: Duration = Duration::from_secs(60);
/// For a body to arrive after its answer, and for a peer to close after ours.
pub const DRAIN_DURATION_DEFAULT: Duration = Duration::from_secs(2);

/// Connections held at once by default; one more evicts one (see `server`).
pub const CONNECTIONS_DEFAULT: usize = 64;
/// Most connections that one server can hold: slot indices fit in 16 bits, one value is kept for "none".
pub const CONNECTIONS_MAX: usize = u16::MAX as usize;
/// Most listening sockets of one server.
pub const LISTENERS_MAX: usize = 16;

/// Status line and fields of any answer without its `Location`, in bytes; see the sum in `http::response`.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 512;

/// Bytes of answer that one byte of a request target can become: a raw `"` in a name that
/// cannot be excluded is quoted as `\"`. Escapes shrink: `%C3` becomes `\xc3`, and each name loses
/// `exclude=`.
pub const TARGET_EXPANSION_MAX: usize = 2;

/// Longest target whose redirect carries the customary hypertext note as well as `Location`.
/// The note escapes `&` and `"` to five bytes each; longer targets get `Location` alone.
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
    /// Longest request body to throw away before the connection is closed instead, in bytes.
    pub body_drain_bytes: u64,
    /// Longest time from the first byte of a head to its last.
    pub head_duration: Duration,
    /// Longest time without a request.
    pub idle_duration: Duration,
    /// Longest time for a body to arrive after its answer, or for the peer to close after ours.
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

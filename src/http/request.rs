//! Request heads: httparse, then the rules of RFC 9112 that httparse leaves to its caller.
//!
//! Knows neither answers nor time. Called by [`super::connection`] with all bytes that came so far;
//! an unfinished head is no error, and is parsed again from the start when more has come, which is
//! bounded by the size and the duration of a head.
//!
//! | seen | verdict | source |
//! |---|---|---|
//! | HTTP/1.1 and above without Host; two Hosts; an invalid one | 400 | RFC 9112 3.2 |
//! | HTTP/1.2 to 1.9 | as 1.1 | RFC 9110 2.5 |
//! | another major version | 505 | RFC 9110 15.6.6 |
//! | anything else in the version's place | 400 | RFC 9112 2.3 |
//! | lone LF as every line's end | taken | RFC 9112 2.2, as Go |
//! | lone LF in some lines, CRLF in others | 400 | stricter than RFC 9112 2.2: parsers disagree on where such heads end |
//! | a wrong byte before the first line end | waited for the line | a stray byte behind a body is no request yet |
//! | lone CR, NUL, controls, a folded line, space before the colon | 400 | RFC 9112 2.2, 5.1, 5.2 |
//! | Content-Length twice, a list, not digits, 2^63 or more | 400 | RFC 9112 6.3; stricter than the text for equal values |
//! | Transfer-Encoding other than exactly `chunked`, or twice | 501 | RFC 9112 6.1 |
//! | Transfer-Encoding and Content-Length, or HTTP/1.0 | answered, then closed | RFC 9112 6.1 |
//! | Expect other than `100-continue` | 417 | RFC 9110 10.1.1, as Go |
//! | CONNECT | 501 | RFC 9110 9.3.6 |
//! | more fields than [`FIELDS_MAX`] | 431 | RFC 6585 5 |

use core::mem::MaybeUninit;

use super::response::StatusCode;
use super::target::{Form, Target, is_host};
use crate::limits::FIELDS_MAX;

/// A request method, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: the answer has no body
    Head,
    /// OPTIONS: HAProxy's default probe
    Options,
    /// POST
    Post,
    /// Any other token
    Other,
}

/// How the end of a request's body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    Chunked,
}

/// A request head that is whole and valid.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(any(test, fuzzing), derive(PartialEq))]
pub struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) target: Target<'a>,
    pub(crate) host: Option<&'a [u8]>,
    /// HTTP/1.0: keep-alive must be said in the answer.
    pub(crate) is_http10: bool,
    /// The client lets the connection stay open (RFC 9112 section 9.3).
    pub(crate) keep_alive: bool,
    /// The body's end cannot be trusted: no further request may be read (RFC 9112 section 6.1).
    pub(crate) is_framing_doubtful: bool,
    pub(crate) expects_continue: bool,
    pub(crate) body: Body,
}

impl<'a> Request<'a> {
    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The target, taken apart.
    pub fn target(&self) -> &Target<'a> {
        &self.target
    }

    /// Host and port that the client wants to talk to: the target's in absolute-form, otherwise the
    /// Host field's; `None` only in HTTP/1.0. ASCII.
    pub fn host(&self) -> Option<&'a [u8]> {
        self.target.authority().or(self.host)
    }
}

/// Why a head is not accepted, for its sender to read. The connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) detail: &'static str,
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        detail,
    }
}

const fn refuse(status: StatusCode, detail: &'static str) -> Refusal {
    Refusal { status, detail }
}

/// What the bytes so far are.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    Incomplete,
    /// A head of so many bytes.
    Complete(Request<'a>, usize),
}

/// Parses the head at the start of `rx`. Nothing is refused before a whole line is there: what
/// begins wrongly may be a stray byte behind a body, whose sender has said all it wanted to say.
pub(crate) fn parse(rx: &[u8]) -> Result<Parsed<'_>, Refusal> {
    match parse_head(rx) {
        Err(_) if !rx.contains(&b'\n') => Ok(Parsed::Incomplete),
        parsed => parsed,
    }
}

fn parse_head(rx: &[u8]) -> Result<Parsed<'_>, Refusal> {
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut []);
    match head.parse_with_uninit_headers(rx, &mut fields) {
        Ok(httparse::Status::Complete(length)) => {
            let line = RequestLine {
                method: head.method.unwrap_or_default(),
                target: head.path.unwrap_or_default().as_bytes(),
                is_http10: head.version == Some(0),
            };
            let head_bytes = rx.get(..length).unwrap_or_default();
            let request = request(head_bytes, line, head.headers)?;
            Ok(Parsed::Complete(request, length))
        }
        Ok(httparse::Status::Partial) => Ok(Parsed::Incomplete),
        Err(httparse::Error::Version) => parse_other_version(rx),
        Err(error) => Err(refusal(error)),
    }
}

/// The refusal of a head that outgrew its buffer: the target is to blame if its line did not end.
pub(crate) fn too_long(rx: &[u8]) -> Refusal {
    if rx.contains(&b'\n') {
        refuse(
            StatusCode::FIELDS_TOO_LARGE,
            "the request head is longer than this server takes",
        )
    } else {
        refuse(
            StatusCode::TARGET_TOO_LONG,
            "the request line is longer than this server takes",
        )
    }
}

struct RequestLine<'a> {
    method: &'a str,
    target: &'a [u8],
    is_http10: bool,
}

/// httparse knows 1.0 and 1.1 only, but a higher minor version is to be taken as 1.1.
fn parse_other_version(rx: &[u8]) -> Result<Parsed<'_>, Refusal> {
    let Some(end) = rx.iter().position(|byte| *byte == b'\n') else {
        return Ok(Parsed::Incomplete);
    };
    let (line, rest) = rx.split_at_checked(end + 1).unwrap_or((rx, &[]));
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line is not `method target HTTP/1.1`"));
    };
    match version.strip_prefix(b"HTTP/") {
        Some([b'1', b'.', b'2'..=b'9']) => {}
        Some([b'0'..=b'9', b'.', b'0'..=b'9']) => {
            return Err(refuse(
                StatusCode::VERSION_NOT_SUPPORTED,
                "this server speaks HTTP/1.1 and HTTP/1.0",
            ));
        }
        _ => return Err(bad("the version is not HTTP/1.1")),
    }
    // httparse has looked at method and target already: it stopped at the version.
    let line = RequestLine {
        method: core::str::from_utf8(method).unwrap_or_default(),
        target,
        is_http10: false,
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(rest, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let length = end + 1 + length;
            let head_bytes = rx.get(..length).unwrap_or_default();
            Ok(Parsed::Complete(request(head_bytes, line, fields)?, length))
        }
        Ok(httparse::Status::Partial) => Ok(Parsed::Incomplete),
        Err(error) => Err(refusal(error)),
    }
}

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::HeaderName => bad("a field name is not a token followed by a colon"),
        httparse::Error::HeaderValue => bad("a field value has a control character"),
        httparse::Error::NewLine => bad("a line does not end in CRLF"),
        httparse::Error::Version => bad("the version is not HTTP/1.1"),
        httparse::Error::TooManyHeaders => refuse(
            StatusCode::FIELDS_TOO_LARGE,
            "the request has more fields than this server takes",
        ),
        _ => bad("the request line is not `method target HTTP/1.1`"),
    }
}

/// The fields that matter, as they came.
#[derive(Default)]
struct Known<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    is_chunked: bool,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
}

fn request<'a>(
    head: &[u8],
    line: RequestLine<'a>,
    fields: &[httparse::Header<'a>],
) -> Result<Request<'a>, Refusal> {
    if !line_ends_agree(head, fields) {
        return Err(bad("some lines end in CRLF and some in LF"));
    }
    let mut known = Known::default();
    for field in fields {
        note(&mut known, field, line.is_http10)?;
    }
    match known.host {
        Some(host) if !is_host(host) => return Err(bad("the Host field is not a host and port")),
        None if !line.is_http10 => return Err(bad("the Host field is missing")),
        _ => {}
    }
    let method = match line.method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        "POST" => Method::Post,
        "CONNECT" => {
            return Err(refuse(
                StatusCode::NOT_IMPLEMENTED,
                "this server is no proxy",
            ));
        }
        _ => Method::Other,
    };
    let target = Target::parse(line.target);
    let Some(target) =
        target.filter(|target| target.form() != Form::Asterisk || method == Method::Options)
    else {
        return Err(bad("the request target is not a path or an http URI"));
    };
    Ok(Request {
        method,
        target,
        host: known.host,
        is_http10: line.is_http10,
        keep_alive: !known.says_close && (known.says_keep_alive || !line.is_http10),
        is_framing_doubtful: known.is_chunked && (known.content_length.is_some() || line.is_http10),
        expects_continue: known.expects_continue,
        body: match known.content_length {
            _ if known.is_chunked => Body::Chunked,
            length => Body::Length(length.unwrap_or(0)),
        },
    })
}

/// Whether either all lines of `head` end in CRLF or all in LF. A head that mixes them is where
/// two parsers see two different ends; hand-written probes (`printf 'GET /healthz HTTP/1.0\n\n'`) do
/// not. Every line but the empty last one ends right before a field's name.
fn line_ends_agree(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let is_crlf = head.ends_with(b"\r\n");
    let last = head.len().saturating_sub(if is_crlf { 2 } else { 1 });
    let starts = fields.iter().map(|field| {
        field
            .name
            .as_ptr()
            .addr()
            .wrapping_sub(head.as_ptr().addr())
    });
    let mut ends = starts.chain([last]);
    ends.all(
        |end| match end.checked_sub(2).and_then(|before| head.get(before..end)) {
            Some([byte, b'\n']) => (*byte == b'\r') == is_crlf,
            _ => false,
        },
    )
}

/// Takes in one field line. Lengths first: most fields are none of these.
fn note<'a>(
    known: &mut Known<'a>,
    field: &httparse::Header<'a>,
    is_http10: bool,
) -> Result<(), Refusal> {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    match field.name.len() {
        4 if is("host") => {
            let earlier = known.host.replace(field.value);
            return earlier.map_or(Ok(()), |_| Err(bad("there are two Host fields")));
        }
        6 if is("expect") && !is_http10 => {
            if !field.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(refuse(
                    StatusCode::EXPECTATION_FAILED,
                    "the only expectation known is 100-continue",
                ));
            }
            known.expects_continue = true;
        }
        10 if is("connection") => {
            for option in field.value.split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                known.says_close |= option.eq_ignore_ascii_case(b"close");
                known.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        14 if is("content-length") => {
            let Some(length) = content_length(field.value) else {
                return Err(bad("the Content-Length field is not one number below 2^63"));
            };
            if known.content_length.replace(length).is_some() {
                return Err(bad("there are two Content-Length fields"));
            }
        }
        17 if is("transfer-encoding") => {
            if known.is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(refuse(
                    StatusCode::NOT_IMPLEMENTED,
                    "the only transfer coding known is chunked, once",
                ));
            }
            known.is_chunked = true;
        }
        _ => {}
    }
    Ok(())
}

/// `1*DIGIT`, below 2^63 so that no other implementation on the way can have read it otherwise.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let length = value.iter().try_fold(0u64, |length, byte| match byte {
        b'0'..=b'9' => length.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })?;
    (length <= i64::MAX as u64).then_some(length)
}

//! Request heads: parsed by httparse, then checked against the rules of RFC 9112 that httparse leaves to
//! its caller.
//!
//! Knows neither answers nor time. Called by [`super::connection`] with all bytes received so far. An
//! incomplete head is not an error: it is parsed again from the start when more bytes have come. The
//! limits on the size and the duration of a head bound this work.
//!
//! | input | result | source |
//! |---|---|---|
//! | HTTP/1.1 and above without Host; two Host fields; an invalid one | 400 | RFC 9112 3.2 |
//! | HTTP/1.2 to 1.9 | as 1.1 | RFC 9110 2.5 |
//! | another major version | 505 | RFC 9110 15.6.6 |
//! | anything else instead of a version | 400 | RFC 9112 2.3 |
//! | lone LF at the end of all lines | accepted | RFC 9112 2.2, as Go |
//! | lone LF in some lines, CRLF in others | 400 | stricter than RFC 9112 2.2: parsers disagree on where such heads end |
//! | an invalid byte before the first line end | 400 when the line has ended | a stray byte after a body is no request yet |
//! | lone CR, NUL, controls, a folded line, space before the colon | 400 | RFC 9112 2.2, 5.1, 5.2 |
//! | Content-Length twice, a list, not digits, 2^63 or more | 400 | RFC 9112 6.3; stricter than the text for equal values |
//! | Transfer-Encoding other than exactly `chunked`, or twice | 501 | RFC 9112 6.1 |
//! | Transfer-Encoding together with Content-Length, or in HTTP/1.0 | answered, then closed | RFC 9112 6.1 |
//! | Expect: empty, or a list of nothing but `100-continue` in one field or several | accepted | RFC 9110 5.6.1.2, 10.1.1, as Go |
//! | Expect with another member | 417; Go accepts a list that also has `100-continue` | RFC 9110 10.1.1 |
//! | Expect in HTTP/1.0 | ignored | RFC 9110 10.1.1 |
//! | Accept: exactly `application/health+json`, in one field | the answer of an endpoint may be JSON | ours |
//! | any other Accept, two Accept fields | the text of Kubernetes, which ignores Accept | RFC 9110 12.5.1 allows it |
//! | CONNECT | 501 | RFC 9110 9.3.6 |
//! | more fields than [`FIELDS_MAX`] | 431 | RFC 6585 5 |

use core::mem::MaybeUninit;

use super::response::StatusCode;
use super::target::{Form, Target, Zone, is_host};
use crate::limits::FIELDS_MAX;

/// A request method. Methods that no endpoint answers are not distinguished.
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

/// The length of a request's body (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    Known(u64),
    Chunked,
}

/// A complete and valid request head.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(any(test, fuzzing), derive(PartialEq))]
pub struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) target: Target<'a>,
    pub(crate) host: Option<&'a [u8]>,
    /// HTTP/1.0: the answer needs `Connection: keep-alive` if the connection stays open.
    pub(crate) is_http10: bool,
    /// The client allows the connection to persist (RFC 9112 section 9.3).
    pub(crate) keep_alive: bool,
    /// Another parser may see another end of the body, so no further request is read (RFC 9112
    /// section 6.1).
    pub(crate) is_framing_ambiguous: bool,
    pub(crate) expects_continue: bool,
    /// The only Accept field is exactly [`HEALTH_JSON`].
    pub(crate) accepts_health_json: bool,
    pub(crate) body: BodyLength,
}

/// The media type of draft-inadarei-api-health-check-06.
const HEALTH_JSON: &[u8] = b"application/health+json";

impl<'a> Request<'a> {
    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The target, split into its components.
    pub fn target(&self) -> &Target<'a> {
        &self.target
    }

    /// The requested host and port: from a target in absolute-form, otherwise from the Host field.
    /// `None` only in HTTP/1.0. ASCII.
    pub fn host(&self) -> Option<&'a [u8]> {
        self.target.authority().or(self.host)
    }

    /// True if the client asks for `application/health+json` and for nothing else: there is one Accept field, and its
    /// value is this media type without parameters. Case does not matter. A client that sends `*/*`, a list or a
    /// weight may be one that was written for Kubernetes' text.
    #[inline]
    pub fn accepts_health_json(&self) -> bool {
        self.accepts_health_json
    }
}

/// The status and text of the answer to a head that is not accepted. The connection closes after it.
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

/// The result of parsing the bytes received so far.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    Incomplete,
    /// A request and the number of bytes of its head.
    Complete(Request<'a>, usize),
}

/// Parses the head at the start of `rx`. Nothing is refused before the first line has ended: an invalid
/// byte may be a stray one after a body, from a client that sends no further request.
pub(crate) fn parse(rx: &[u8]) -> Result<Parsed<'_>, Refusal> {
    match parse_head(rx) {
        // Searched only after an error, which is rare.
        Err(_) if !rx.contains(&b'\n') => Ok(Parsed::Incomplete),
        parsed => parsed,
    }
}

fn parse_head(rx: &[u8]) -> Result<Parsed<'_>, Refusal> {
    // Uninitialized: clearing 2 KiB costs more instructions than parsing a short head.
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    // httparse gets its fields below, not here.
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

/// The refusal of a head that is longer than its buffer. If not even the request line has ended, the
/// target is too long.
pub(crate) fn refusal_of_long_head(rx: &[u8]) -> Refusal {
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

/// Parses a head with a version that httparse refuses. httparse accepts 1.0 and 1.1 only, but a higher minor
/// version must be handled as 1.1 (RFC 9110 section 2.5).
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
    // httparse has validated the method and the target before it refused the version.
    let line = RequestLine {
        method: core::str::from_utf8(method).unwrap_or_default(),
        target,
        is_http10: false,
    };
    // Initialized: `parse_headers` takes no uninitialized fields, and such requests are rare.
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

/// The header fields that determine how a request is handled.
#[derive(Default)]
struct HeaderFields<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<u64>,
    is_chunked: bool,
    says_close: bool,
    says_keep_alive: bool,
    expects_continue: bool,
    accept: Accept,
}

/// What the Accept fields so far ask for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Accept {
    #[default]
    None,
    HealthJson,
    Other,
}

/// Checks a parsed head and makes a request of it.
fn request<'a>(
    head: &[u8],
    line: RequestLine<'a>,
    fields: &[httparse::Header<'a>],
) -> Result<Request<'a>, Refusal> {
    // Another parser may find other fields in a head with both line ends.
    if !line_ends_agree(head, fields) {
        return Err(bad("some lines end in CRLF and some in LF"));
    }
    let mut found = HeaderFields::default();
    for field in fields {
        read_field(&mut found, field, line.is_http10)?;
    }
    match found.host {
        Some(host) if !is_host(host, Zone::Raw) => {
            return Err(bad("the Host field is not a host and port"));
        }
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
        // Names of methods are case-sensitive (RFC 9110 section 9.1): `get` is another method.
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
        host: found.host,
        is_http10: line.is_http10,
        keep_alive: !found.says_close && (found.says_keep_alive || !line.is_http10),
        is_framing_ambiguous: found.is_chunked
            && (found.content_length.is_some() || line.is_http10),
        expects_continue: found.expects_continue,
        accepts_health_json: found.accept == Accept::HealthJson,
        // Transfer-Encoding overrides Content-Length (RFC 9112 section 6.3).
        body: match found.content_length {
            _ if found.is_chunked => BodyLength::Chunked,
            length => BodyLength::Known(length.unwrap_or(0)),
        },
    })
}

/// True if all lines of `head` end in CRLF, or all in LF.
///
/// Two parsers may see different ends of a head that has both. Heads that end all lines in LF are sent by
/// hand-written probes (`printf 'GET /healthz HTTP/1.0\n\n'`).
fn line_ends_agree(head: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let is_crlf = head.ends_with(b"\r\n");
    // Every line except the empty last one ends right before the name of a field, or before the empty
    // line. So the line ends are found without a search: httparse has found them already.
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

/// Reads one field into `found`. The length of the name is compared first, because most fields of a
/// request are none of these.
fn read_field<'a>(
    found: &mut HeaderFields<'a>,
    field: &httparse::Header<'a>,
    is_http10: bool,
) -> Result<(), Refusal> {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    match field.name.len() {
        // A second Host field is refused even if it is equal: another server may use either of them.
        4 if is("host") => {
            let earlier = found.host.replace(field.value);
            return earlier.map_or(Ok(()), |_| Err(bad("there are two Host fields")));
        }
        6 if is("expect") && !is_http10 => {
            found.expects_continue |= expects_continue(field.value)?;
        }
        6 if is("accept") => {
            let is_json = field.value.trim_ascii().eq_ignore_ascii_case(HEALTH_JSON);
            found.accept = match found.accept {
                Accept::None if is_json => Accept::HealthJson,
                _ => Accept::Other,
            };
        }
        // `close` in any of the fields takes precedence (RFC 9112 section 9.3).
        10 if is("connection") => {
            for option in list(field.value) {
                found.says_close |= option.eq_ignore_ascii_case(b"close");
                found.says_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        14 if is("content-length") => {
            let Some(length) = content_length(field.value) else {
                return Err(bad("the Content-Length field is not one number below 2^63"));
            };
            if found.content_length.replace(length).is_some() {
                return Err(bad("there are two Content-Length fields"));
            }
        }
        // A coding before `chunked` would have to be decoded to find the end of the body.
        17 if is("transfer-encoding") => {
            if found.is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(refuse(
                    StatusCode::NOT_IMPLEMENTED,
                    "the only transfer coding known is chunked, once",
                ));
            }
            found.is_chunked = true;
        }
        _ => {}
    }
    Ok(())
}

/// True if an Expect field has the member `100-continue`. It may have no other member.
// Not inlined: a probe has no Expect field.
#[inline(never)]
fn expects_continue(value: &[u8]) -> Result<bool, Refusal> {
    let mut members = list(value).peekable();
    let is_empty = members.peek().is_none();
    match members.all(|member| member.eq_ignore_ascii_case(b"100-continue")) {
        true => Ok(!is_empty),
        false => Err(refuse(
            StatusCode::EXPECTATION_FAILED,
            "the only expectation known is 100-continue",
        )),
    }
}

/// The members of a list in a field value. Empty members do not count (RFC 9110 section 5.6.1.2).
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// `1*DIGIT` below 2^63. A larger number overflows the signed integers of other implementations, which
/// would see another end of the body.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    fn parsed(head: &str) -> Result<Request<'_>, StatusCode> {
        match parse(head.as_bytes()) {
            Ok(Parsed::Complete(request, length)) if length == head.len() => Ok(request),
            Err(refusal) => Err(refusal.status),
            other => panic!("{other:?}"),
        }
    }

    /// Regression: an empty Expect field, a list with an empty or a repeated member, and two Expect
    /// fields were refused with 417.
    #[test]
    fn an_expect_list_of_nothing_but_100_continue_is_accepted() {
        for (fields, expects_continue) in [
            ("Expect:\r\n", false),
            ("Expect: ,\t, \r\n", false),
            ("Expect: 100-continue\r\n", true),
            ("Expect: 100-continue,\r\n", true),
            ("Expect: , 100-Continue\r\n", true),
            ("Expect: 100-continue, 100-continue\r\n", true),
            ("Expect: 100-continue\r\nExpect: 100-continue\r\n", true),
            ("Expect:\r\nexpect: 100-continue\r\n", true),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let request = parsed(&head);
            assert_eq!(
                request.map(|request| request.expects_continue),
                Ok(expects_continue),
                "{fields:?}"
            );
        }
        for fields in [
            "Expect: x\r\n",
            "Expect: 100-continue, x\r\n",
            "Expect: x\r\nExpect: 100-continue\r\n",
            "Expect: 100-continue\r\nExpect: x\r\n",
            "Expect: 100-continue;a=b\r\n",
            "Expect: 100 continue\r\n",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(
                parsed(&head).err(),
                Some(StatusCode::EXPECTATION_FAILED),
                "{fields:?}"
            );
            let head = format!("GET / HTTP/1.0\r\n{fields}\r\n");
            assert_eq!(
                parsed(&head).map(|request| request.expects_continue),
                Ok(false)
            );
        }
    }

    #[test]
    fn health_json_is_accepted_only_if_it_is_all_that_the_client_accepts() {
        for (fields, accepts) in [
            ("Accept: application/health+json\r\n", true),
            ("aCCept:\t Application/Health+JSON \t\r\n", true),
            ("X: y\r\nAccept: application/health+json\r\nX: y\r\n", true),
            ("", false),
            ("Accept:\r\n", false),
            ("Accept: */*\r\n", false),
            ("Accept: application/*\r\n", false),
            ("Accept: application/json\r\n", false),
            ("Accept: application/health+json;q=1\r\n", false),
            ("Accept: application/health+json;\r\n", false),
            ("Accept: application/health+json,\r\n", false),
            ("Accept: application/health+json, */*\r\n", false),
            ("Accept: text/plain, application/health+json\r\n", false),
            ("Accept: application/health+jso\r\n", false),
            ("Accept: application/health+jsonx\r\n", false),
            ("Accepts: application/health+json\r\n", false),
            (
                "Expect: 100-continue\r\nAccept: application/health+json\r\n",
                true,
            ),
        ] {
            for version in ["1.0", "1.1", "1.2"] {
                let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
                let request = parsed(&head).unwrap();
                assert_eq!(request.accepts_health_json(), accepts, "{head:?}");
            }
        }
        for second in ["application/health+json", "*/*", ""] {
            for fields in [
                format!("Accept: application/health+json\r\nAccept: {second}\r\n"),
                format!("Accept: {second}\r\nX: y\r\naccept: application/health+json\r\n"),
            ] {
                let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
                assert!(!parsed(&head).unwrap().accepts_health_json(), "{head:?}");
            }
        }
    }
}

//! A slow and simple model: finds the ends of heads and bodies in a stream, and reads answers.
//!
//! Knows no connection. Called by [`super::connection`] to compare the requests that were answered.

use std::string::String;
use std::vec::Vec;

use super::super::request::{Method, Parsed, Request, parse};
use crate::limits::{LEADING_EMPTY_LINES_MAX, Limits};

/// A request that was passed to the answering function: the position of its path in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// `None` if the path is not in the stream, as for `http://host`.
    path: Option<usize>,
    method: Method,
}

impl Seen {
    pub(super) fn new(stream: &[u8], request: &Request<'_>) -> Self {
        let place = stream.as_ptr_range();
        let path = request.target().path().as_ptr();
        Seen {
            path: (place.contains(&path)).then(|| path.addr() - place.start.addr()),
            method: request.method(),
        }
    }
}

/// Reads complete answers until nothing is left; returns their number. The first ones answer the
/// requests in `seen`: the answer to HEAD has no body, and every other has all of its body.
pub(super) fn answers(mut written: &[u8], seen: &[Seen]) -> u32 {
    let mut count = 0;
    let mut is_last = false;
    while !written.is_empty() {
        assert!(!is_last, "an answer after the one with Connection: close");
        let end = written
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = core::str::from_utf8(&written[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
        assert!(status.as_bytes()[..3].iter().all(u8::is_ascii_digit) && &status[3..4] == " ");
        let fields: Vec<(&str, &str)> = lines.map(|line| line.split_once(": ").unwrap()).collect();
        // Exactly one Content-Length, or two readers could see two ends of the answer.
        let mut lengths = fields.iter().filter(|(name, _)| *name == "Content-Length");
        let length: usize = lengths.next().unwrap().1.parse().unwrap();
        assert!(lengths.next().is_none() && fields.iter().any(|(name, _)| *name == "Date"));
        is_last = fields.contains(&("Connection", "close"));
        written = &written[end + 4..];
        // No body in this test begins like an answer, so it is visible whether a body was left out.
        let is_left_out = written.is_empty() || written.starts_with(b"HTTP/1.1 ");
        if let Some(seen) = seen.get(count as usize) {
            let is_expected = seen.method == Method::Head || length == 0;
            assert_eq!(is_left_out, is_expected, "{head}");
        }
        if !is_left_out {
            written = &written[length..];
        }
        count += 1;
    }
    count
}

/// How the reading of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All bytes were received, and every request could be answered.
    Whole,
    /// The head after the last request was refused.
    Refused,
    /// Some bytes were missing, or one side closed early.
    Cut,
}

/// Checks that each request begins where the one before it and its body ended. The bytes that were
/// refused, or left at the end, must not be a complete request.
pub(super) fn check(stream: &[u8], seen: &[Seen], end: End, limits: &Limits) {
    let mut at = 0;
    let mut is_open = true;
    for seen in seen {
        assert!(is_open, "a request was read after the last one");
        // The connection skips empty lines before a request.
        at += empty_lines(&stream[at..]);
        let head = &stream[at..at + head_length(&stream[at..]).expect("a head without an end")];
        assert!(
            head.len() <= limits.request_head_bytes,
            "a head of {} bytes",
            head.len()
        );
        let text = String::from_utf8_lossy(head);
        let line = text.lines().next().unwrap();
        let method = line.split(' ').next().unwrap();
        // The path that was answered must be the one of this request, not of a similar one elsewhere.
        let line_at = at + method.len() + 1..at + line.len();
        assert!(
            seen.path.is_none_or(|path| line_at.contains(&path)),
            "the path at {:?} is not in the request line {line:?} at {at}",
            seen.path
        );
        assert_eq!(seen.method, self::method(method), "{line:?} at {at}");
        at += head.len();
        match body(&text, &stream[at..], limits.body_drain_bytes) {
            Some(length) => at += length,
            None => is_open = false,
        }
    }
    assert!(is_open || end != End::Refused, "refused after the last one");
    let rest = &stream[at..];
    let rest = &rest[empty_lines(rest)..];
    match end {
        End::Refused => assert!(is_refusable(rest, limits), "a request was refused"),
        End::Whole if is_open => assert!(
            rest.is_empty() || is_incomplete(rest, limits),
            "a request was left at {at}"
        ),
        End::Whole | End::Cut => {}
    }
}

/// True if no request is at the start of `rest`, even if more bytes follow.
fn is_refusable(rest: &[u8], limits: &Limits) -> bool {
    // The connection never sees more than this at once.
    let window = &rest[..rest.len().min(limits.request_head_bytes)];
    match (window, parse(window)) {
        ([b'\r' | b'\n', ..], _) | (_, Err(_)) => true,
        (_, Ok(Parsed::Incomplete)) => window.len() == limits.request_head_bytes,
        (_, Ok(Parsed::Complete(..))) => false,
    }
}

/// True if more bytes can complete a request at the start of `rest`.
fn is_incomplete(rest: &[u8], limits: &Limits) -> bool {
    rest == b"\r"
        || rest.len() < limits.request_head_bytes && matches!(parse(rest), Ok(Parsed::Incomplete))
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        "POST" => Method::Post,
        _ => Method::Other,
    }
}

fn empty_lines(stream: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..LEADING_EMPTY_LINES_MAX {
        at += match &stream[at..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
    }
    at
}

fn head_length(stream: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = stream[at..].split_inclusive(|byte| *byte == b'\n').next()?;
        at += line.len();
        match line {
            b"\n" | b"\r\n" => return Some(at),
            _ if line.ends_with(b"\n") => {}
            _ => return None,
        }
    }
}

/// The length of the body of the request with this `head`; `None` if no request may be read after it.
fn body(head: &str, rest: &[u8], budget: u64) -> Option<usize> {
    let mut fields = Vec::new();
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        fields.push((name.to_ascii_lowercase(), value.trim().to_ascii_lowercase()));
    }
    let all = |wanted: &str| -> Vec<&str> {
        let fields = fields.iter().filter(|(name, _)| name == wanted);
        fields.map(|(_, value)| value.as_str()).collect()
    };
    let options: Vec<&str> = all("connection")
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let is_http10 = head.lines().next().unwrap().ends_with("HTTP/1.0");
    // After the last request nothing is read, so the length of its body does not matter.
    if options.contains(&"close") || is_http10 && !options.contains(&"keep-alive") {
        return None;
    }
    let length = all("content-length")
        .first()
        .map(|digits| digits.parse::<u64>().unwrap());
    let is_chunked = !all("transfer-encoding").is_empty();
    // Such a body may have another end for another parser (RFC 9112 section 6.1).
    if is_chunked && (length.is_some() || is_http10) {
        return None;
    }
    if !is_chunked && length.unwrap_or(0) == 0 {
        return Some(0);
    }
    // The client may leave the body out after the final answer. An empty list expects nothing.
    let mut members = all("expect").into_iter().flat_map(|value| value.split(','));
    if members.any(|member| !member.trim().is_empty()) && !is_http10 {
        return None;
    }
    let bytes = if is_chunked {
        chunked(rest)?
    } else {
        usize::try_from(length?).ok()?
    };
    (bytes as u64 <= budget && bytes <= rest.len()).then_some(bytes)
}

/// The length of a chunked body with its framing; `None` if it is malformed or incomplete.
fn chunked(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = crlf_line(&body[at..])?;
        at += line.len() + 2;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, extensions) = line.split_at(digits.count());
        if size.is_empty() || !are_extensions(extensions) {
            return None;
        }
        match usize::from_str_radix(core::str::from_utf8(size).ok()?, 16).ok()? {
            0 => break,
            size => {
                at = at.checked_add(size)?;
                body.get(at..)?.strip_prefix(b"\r\n")?;
                at += 2;
            }
        }
    }
    loop {
        let line = crlf_line(&body[at..])?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if colon == 0 || !line[..colon].iter().all(is_token) {
            return None;
        }
    }
}

/// The bytes before the first CRLF. `None` if the line ends otherwise, or has a control character other
/// than the tab.
fn crlf_line(bytes: &[u8]) -> Option<&[u8]> {
    let line = &bytes[..bytes.iter().position(|byte| *byte == b'\n')?];
    let line = line.strip_suffix(b"\r")?;
    line.iter().all(|byte| is_text(*byte)).then_some(line)
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1).
fn are_extensions(mut text: &[u8]) -> bool {
    while !text.is_empty() {
        let Some(name) = after_spaces(text).strip_prefix(b";").map(after_spaces) else {
            return false;
        };
        let Some(rest) = after_token(name) else {
            return false;
        };
        let value = after_spaces(rest).strip_prefix(b"=").map(after_spaces);
        let rest = value.map_or(Some(rest), |value| {
            after_token(value).or_else(|| after_quoted_string(value))
        });
        let Some(rest) = rest else {
            return false;
        };
        text = rest;
    }
    true
}

fn after_spaces(text: &[u8]) -> &[u8] {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t');
    &text[text.iter().take_while(is_space).count()..]
}

fn after_token(text: &[u8]) -> Option<&[u8]> {
    let is_token = |byte: &&u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let length = text.iter().take_while(is_token).count();
    (length > 0).then_some(&text[length..])
}

fn after_quoted_string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] if is_text(*byte) => rest,
            _ => return None,
        };
    }
}

//! An HTTP/1 response as a check reads it: its status, and whether its body contains a text (RFC 9112).
//!
//! Bytes in, a result out, whatever pieces the bytes come in. Knows no socket. Called by [`super`].
//!
//! | in the response | here |
//! |---|---|
//! | status 100, 102 to 199 | skipped, the next response counts (RFC 9110 section 15.2) |
//! | status outside the ranges | fails, the body is not read |
//! | no text wanted | passes when the head is complete |
//! | status 204, 304 | no body (RFC 9112 section 6.3) |
//! | `Transfer-Encoding: chunked` | decoded; overrides `Content-Length` (RFC 9112 section 6.3) |
//! | another `Transfer-Encoding` | fails |
//! | neither length nor chunks | the body ends when the peer closes |
//! | redirect | a status like others; never followed |

use super::super::text::{append_and_find, quoted};

/// Most bytes of all response heads together.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a head.
pub const FIELDS_MAX: usize = 64;
/// So many bytes of the body are searched.
pub const BODY_BYTES_MAX: usize = 10 * 1024;
/// Most bytes of the body that are not content: sizes of chunks with their extensions.
pub const FRAMING_BYTES_MAX: usize = 16 * 1024;

/// What every response begins with.
const VERSION: &[u8] = b"HTTP/1.";

/// Reads one response.
#[derive(Clone)]
pub struct Response {
    /// Inclusive ranges of status codes.
    status: Vec<(u16, u16)>,
    contains: Option<Vec<u8>>,
    state: State,
    /// The current head.
    head: Vec<u8>,
    /// Bytes of heads that were skipped.
    skipped: usize,
    body: Vec<u8>,
    framing_bytes: usize,
}

#[derive(Clone)]
enum State {
    Head,
    Body(Framing),
    /// The result was returned.
    Done,
}

#[derive(Clone)]
enum Framing {
    /// Bytes that are left, and all bytes.
    Length(u64, u64),
    Chunked(Chunk),
    UntilClose,
}

/// The position in a chunked body (RFC 9112 section 7.1).
#[derive(Clone, Copy)]
enum Chunk {
    /// The size so far, and the number of its digits.
    Size(u64, u8),
    /// After the size, up to the end of the line.
    Extension(u64),
    /// After the CR at the end of the line with the size.
    SizeEnd(u64),
    /// Bytes of the chunk that are left.
    Data(u64),
    /// Before the CR after the data.
    DataEnd,
    /// Before the LF after the data.
    DataEndLf,
}

impl Response {
    /// Expects a status in one of the inclusive ranges `status`, and a body with the text `contains`.
    pub fn new(status: Vec<(u16, u16)>, contains: Option<Vec<u8>>) -> Self {
        Response {
            status,
            contains,
            state: State::Head,
            head: Vec::new(),
            skipped: 0,
            body: Vec::new(),
            framing_bytes: 0,
        }
    }

    /// Takes the next bytes. Returns the result as soon as it is known; after that, bytes are ignored.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Option<Result<(), String>> {
        while !bytes.is_empty() {
            let (used, result) = match &self.state {
                State::Head => self.receive_head(bytes),
                State::Body(_) => self.receive_body(bytes),
                State::Done => return None,
            };
            if result.is_some() {
                self.state = State::Done;
                return result;
            }
            bytes = bytes.get(used..).unwrap_or_default();
        }
        None
    }

    /// The peer has closed.
    pub fn end(&mut self) -> Result<(), String> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Head if self.head.is_empty() && self.skipped == 0 => {
                Err("closed without a response".into())
            }
            State::Head => Err("closed before the end of the response head".into()),
            State::Body(Framing::UntilClose) => Err(self.not_found("body")),
            State::Body(Framing::Length(left, all)) => Err(format!(
                "closed after {} of {all} bytes of the body",
                all - left
            )),
            State::Body(Framing::Chunked(_)) => {
                Err("closed before the last chunk of the body".into())
            }
            State::Done => Err("closed".into()),
        }
    }

    /// The part that it waits for.
    pub fn awaited(&self) -> String {
        match (&self.state, &self.contains) {
            (State::Body(_), Some(text)) => format!("{} in the body", quoted(text)),
            _ => "the response head".into(),
        }
    }

    /// Takes bytes up to the end of the head, at most. Returns how many.
    fn receive_head(&mut self, bytes: &[u8]) -> (usize, Option<Result<(), String>>) {
        for (at, byte) in bytes.iter().enumerate() {
            self.head.push(*byte);
            let is_http = match self.head.get(..VERSION.len()) {
                Some(start) => start == VERSION,
                None => VERSION.starts_with(&self.head),
            };
            if !is_http {
                return (at + 1, Some(Err("not an HTTP/1 response".into())));
            }
            if *byte == b'\n' && (self.head.ends_with(b"\n\n") || self.head.ends_with(b"\n\r\n")) {
                return (at + 1, self.head_is_complete());
            }
            if self.skipped + self.head.len() >= HEAD_BYTES_MAX {
                let error = "response head of more than 16 KiB";
                return (at + 1, Some(Err(error.into())));
            }
        }
        (bytes.len(), None)
    }

    fn head_is_complete(&mut self) -> Option<Result<(), String>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&self.head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Some(Err("incomplete response head".into())),
            Err(httparse::Error::TooManyHeaders) => {
                return Some(Err(format!("more than {FIELDS_MAX} header fields")));
            }
            Err(error) => return Some(Err(format!("invalid response head: {error}"))),
        }
        let status = response.code.unwrap_or_default();
        // 101 switches to a protocol that the request did not ask for, so it is final.
        if matches!(status, 100 | 102..=199) {
            self.skipped += self.head.len();
            self.head.clear();
            return None;
        }
        if !self
            .status
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&status))
        {
            return Some(Err(format!("{status}, expected {}", ranges(&self.status))));
        }
        let Some(wanted) = &self.contains else {
            return Some(Ok(()));
        };
        if wanted.is_empty() {
            return Some(Ok(()));
        }
        match framing(status, response.headers) {
            Ok(Framing::Length(0, _)) => Some(Err(self.not_found("body"))),
            Ok(framing) => {
                self.state = State::Body(framing);
                None
            }
            Err(reason) => Some(Err(reason)),
        }
    }

    /// Takes some bytes of the body. Returns how many, at least one.
    fn receive_body(&mut self, bytes: &[u8]) -> (usize, Option<Result<(), String>>) {
        let State::Body(framing) = &mut self.state else {
            return (bytes.len(), None);
        };
        let left = match framing {
            Framing::UntilClose => u64::MAX,
            Framing::Length(left, _) | Framing::Chunked(Chunk::Data(left)) => *left,
            Framing::Chunked(chunk) => {
                let chunk = *chunk;
                return (1, self.receive_framing(chunk, bytes));
            }
        };
        let room = BODY_BYTES_MAX - self.body.len();
        let count = bytes
            .len()
            .min(room)
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let taken = bytes.get(..count).unwrap_or_default();
        let is_last = match framing {
            Framing::UntilClose => false,
            Framing::Length(left, _) => {
                *left -= count as u64;
                *left == 0
            }
            Framing::Chunked(chunk) => {
                let left = left - count as u64;
                *chunk = if left == 0 {
                    Chunk::DataEnd
                } else {
                    Chunk::Data(left)
                };
                false
            }
        };
        let wanted = self.contains.as_deref().unwrap_or_default();
        let result = if append_and_find(&mut self.body, taken, wanted) {
            Some(Ok(()))
        } else if is_last {
            Some(Err(self.not_found("body")))
        } else if self.body.len() >= BODY_BYTES_MAX {
            Some(Err(self.not_found("first 10 KiB of the body")))
        } else {
            None
        };
        (count, result)
    }

    /// Takes one byte of a chunked body that is not data.
    fn receive_framing(&mut self, chunk: Chunk, bytes: &[u8]) -> Option<Result<(), String>> {
        let byte = bytes.first().copied().unwrap_or_default();
        self.framing_bytes += 1;
        if self.framing_bytes > FRAMING_BYTES_MAX {
            return Some(Err("more than 16 KiB of chunk sizes in the body".into()));
        }
        let next = match next_chunk(chunk, byte) {
            // The fields after the last chunk are of no interest.
            Some(Chunk::Data(0)) => return Some(Err(self.not_found("body"))),
            Some(next) => next,
            None => return Some(Err("invalid chunk in the body".into())),
        };
        self.state = State::Body(Framing::Chunked(next));
        None
    }

    fn not_found(&self, place: &str) -> String {
        let wanted = self.contains.as_deref().unwrap_or_default();
        format!("no {} in the {place}", quoted(wanted))
    }
}

/// The position after `byte`, which is not data; `None` if it is not allowed there.
fn next_chunk(chunk: Chunk, byte: u8) -> Option<Chunk> {
    match (chunk, byte) {
        (Chunk::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 16 => {
            let digit = char::from(byte).to_digit(16)?;
            Some(Chunk::Size(size * 16 + u64::from(digit), digits + 1))
        }
        (Chunk::Size(_, 0), _) => None,
        (Chunk::Size(size, _), b'\r') | (Chunk::Extension(size), b'\r') => {
            Some(Chunk::SizeEnd(size))
        }
        (Chunk::Size(size, _), b';' | b' ' | b'\t') => Some(Chunk::Extension(size)),
        (Chunk::Extension(size), byte) if byte != b'\n' => Some(Chunk::Extension(size)),
        (Chunk::SizeEnd(size), b'\n') => Some(Chunk::Data(size)),
        (Chunk::DataEnd, b'\r') => Some(Chunk::DataEndLf),
        (Chunk::DataEndLf, b'\n') => Some(Chunk::Size(0, 0)),
        _ => None,
    }
}

/// How the body of a response to GET is delimited (RFC 9112 section 6.3).
fn framing(status: u16, fields: &[httparse::Header<'_>]) -> Result<Framing, String> {
    if matches!(status, 204 | 304) {
        return Ok(Framing::Length(0, 0));
    }
    let values = |name: &'static str| {
        let fields = fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields
            .flat_map(|field| field.value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    };
    let mut codings = values("transfer-encoding").filter(|coding| !coding.is_empty());
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            return Ok(Framing::Chunked(Chunk::Size(0, 0)));
        }
        (Some(coding), _) => {
            return Err(format!(
                "transfer coding {} is not supported",
                quoted(coding)
            ));
        }
        (None, _) => {}
    }
    let mut lengths = values("content-length");
    let Some(first) = lengths.next() else {
        return Ok(Framing::UntilClose);
    };
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(first)
        .ok()
        .and_then(|text| text.parse().ok());
    match number.filter(|_| is_number) {
        // Equal values count as one.
        Some(length) if lengths.all(|other| other == first) => Ok(Framing::Length(length, length)),
        _ => Err("invalid Content-Length".into()),
    }
}

/// `200-399`, or `200, 204-206`.
pub fn ranges(ranges: &[(u16, u16)]) -> String {
    let each = ranges.iter().map(|(low, high)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of `stream`, which is the same however it is cut, and the connection closed after it.
    fn result(stream: &[u8], contains: Option<&str>) -> Result<(), String> {
        let whole = result_of(&[stream], contains);
        for cut in 0..stream.len() {
            let (first, second) = stream.split_at(cut);
            assert_eq!(result_of(&[first, second], contains), whole, "{cut}");
        }
        whole
    }

    fn result_of(pieces: &[&[u8]], contains: Option<&str>) -> Result<(), String> {
        let contains = contains.map(Vec::from);
        let mut response = Response::new(vec![(200, 299), (304, 304)], contains);
        let results = pieces.iter().find_map(|piece| response.receive(piece));
        results.unwrap_or_else(|| response.end())
    }

    #[test]
    fn the_status_decides_without_a_text() {
        for (stream, want) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.0 204 No Content\r\n\r\n", Ok(())),
            ("HTTP/1.1 304\n\n", Ok(())),
            (
                "HTTP/1.1 503 Busy\r\nA: b\r\n\r\nHTTP/1.1 200 OK",
                Err("503, expected 200-299, 304"),
            ),
            (
                "HTTP/1.1 302 Found\r\n\r\n",
                Err("302, expected 200-299, 304"),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200\r\n\r\n",
                Ok(()),
            ),
            (
                "HTTP/1.1 101 Switch\r\n\r\n",
                Err("101, expected 200-299, 304"),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\n",
                Err("closed before the end of the response head"),
            ),
            ("", Err("closed without a response")),
            (
                "HTTP/1.1 200 OK\r\n",
                Err("closed before the end of the response head"),
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n", Err("not an HTTP/1 response")),
            ("HTTP/2 200\r\n\r\n", Err("not an HTTP/1 response")),
            ("\r\nHTTP/1.1 200\r\n\r\n", Err("not an HTTP/1 response")),
            (
                "HTTP/1.1 x\r\n\r\n",
                Err("invalid response head: invalid response status"),
            ),
            (
                "HTTP/1.1 200 OK\r\na b\r\n\r\n",
                Err("invalid response head: invalid header name"),
            ),
        ] {
            assert_eq!(
                result(stream.as_bytes(), None),
                want.map_err(String::from),
                "{stream:?}"
            );
        }
    }

    #[test]
    fn the_body_is_searched() {
        let missing = Err("no \"ready\" in the body");
        for (head, body, want) in [
            ("", "all ready", Ok(())),
            ("", "not yet", missing),
            ("Content-Length: 9\r\n", "all ready", Ok(())),
            // What follows the body does not count.
            ("Content-Length: 4\r\n", "all ready", missing),
            (
                "content-length: 5, 5\r\nContent-Length: 5\r\n",
                "ready",
                Ok(()),
            ),
            ("Content-Length: 0\r\n", "ready", missing),
            (
                "Content-Length: 7\r\n",
                "al",
                Err("closed after 2 of 7 bytes of the body"),
            ),
            (
                "Content-Length: 5, 6\r\n",
                "ready",
                Err("invalid Content-Length"),
            ),
            (
                "Content-Length: +5\r\n",
                "ready",
                Err("invalid Content-Length"),
            ),
            (
                "Content-Length:\r\n",
                "ready",
                Err("invalid Content-Length"),
            ),
            (
                "Content-Length: 99999999999999999999\r\n",
                "ready",
                Err("invalid Content-Length"),
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "3\r\nrea\r\n2;a=b\r\ndy\r\n0\r\n\r\n",
                Ok(()),
            ),
            // The text is complete before the body is.
            ("Transfer-Encoding: Chunked\r\n", "F\r\nready", Ok(())),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
                "5\r\nready\r\n",
                Ok(()),
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "3\r\nrea\r\n0\r\n",
                missing,
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "0005\r\nrea",
                Err("closed before the last chunk of the body"),
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "x\r\n",
                Err("invalid chunk in the body"),
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "3\r\nreaX",
                Err("invalid chunk in the body"),
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "5\nready",
                Err("invalid chunk in the body"),
            ),
            (
                "Transfer-Encoding: chunked\r\n",
                "00000000000000005\r\nready",
                Err("invalid chunk in the body"),
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                "",
                Err("transfer coding \"gzip\" is not supported"),
            ),
        ] {
            let stream = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
            let found = result(stream.as_bytes(), Some("ready"));
            assert_eq!(found, want.map_err(String::from), "{stream:?}");
        }
        let found = result(b"HTTP/1.1 204 x\r\n\r\nready", Some("ready"));
        assert_eq!(found, missing.map_err(String::from));
    }

    #[test]
    fn everything_is_bounded() {
        let once = |stream: &str| result_of(&[stream.as_bytes()], Some("ready"));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(once(&long), Err("response head of more than 16 KiB".into()));
        let skipped = "HTTP/1.1 100 Continue\r\n\r\n".repeat(HEAD_BYTES_MAX / 25 + 1);
        assert_eq!(
            once(&skipped),
            Err("response head of more than 16 KiB".into())
        );
        let fields = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "A: b\r\n".repeat(FIELDS_MAX + 1)
        );
        assert_eq!(once(&fields), Err("more than 64 header fields".into()));
        let head = "HTTP/1.1 200 OK\r\n";
        let body = "a".repeat(BODY_BYTES_MAX - 5);
        assert_eq!(once(&format!("{head}\r\n{body}ready")), Ok(()));
        let want = Err("no \"ready\" in the first 10 KiB of the body".into());
        assert_eq!(once(&format!("{head}\r\na{body}ready")), want);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let endless = format!("{chunked}1;{}", "a".repeat(FRAMING_BYTES_MAX));
        let want = Err("more than 16 KiB of chunk sizes in the body".into());
        assert_eq!(once(&endless), want);
    }

    #[test]
    fn what_is_awaited_is_said() {
        let mut response = Response::new(vec![(200, 399)], Some(b"ready".to_vec()));
        assert_eq!(response.awaited(), "the response head");
        response.receive(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(response.awaited(), "\"ready\" in the body");
    }
}

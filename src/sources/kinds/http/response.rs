//! An HTTP/1 response as a check reads it: its status, and whether its body contains a text.
//!
//! Bytes in, a result out, whatever pieces the bytes come in. Knows no socket. Called by [`super`].
//! [`crate::response`] splits the response into its parts.
//!
//! | in the response | here |
//! |---|---|
//! | status outside the ranges | fails, the body is not read |
//! | no text wanted | passes when the head is complete |
//! | redirect | a status like others; never followed |

use super::super::text::{append_and_find, quoted};
use crate::response::{Part, Reader};

/// Bytes of the body that are searched.
pub const BODY_BYTES_MAX: usize = 10 * 1024;

/// Reads one response.
#[derive(Clone)]
pub struct Response {
    /// Inclusive ranges of status codes.
    status: Vec<(u16, u16)>,
    /// Not empty.
    contains: Option<Vec<u8>>,
    reader: Reader,
    body: Vec<u8>,
    /// The status is one of the ranges.
    is_in_body: bool,
    /// The result was returned.
    is_done: bool,
}

impl Response {
    /// Expects a status in one of the inclusive ranges `status`, and a body with the text `contains`.
    pub fn new(status: Vec<(u16, u16)>, contains: Option<Vec<u8>>) -> Self {
        Response {
            status,
            contains: contains.filter(|text| !text.is_empty()),
            reader: Reader::default(),
            body: Vec::new(),
            is_in_body: false,
            is_done: false,
        }
    }

    /// Takes the next bytes. Returns the result as soon as it is known; after that, bytes are ignored.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Option<Result<(), String>> {
        let mut result = None;
        while result.is_none() && !self.is_done {
            result = match self.reader.next(&mut bytes) {
                Ok(Some(part)) => self.receive_part(part),
                Ok(None) => return None,
                Err(reason) => Some(Err(reason)),
            };
        }
        self.is_done |= result.is_some();
        result
    }

    /// The peer has closed.
    pub fn end(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.is_done, true) {
            return Err("closed".into());
        }
        self.reader.end()?;
        Err(self.not_found("body"))
    }

    /// The part that it waits for.
    pub fn awaited(&self) -> String {
        match &self.contains {
            Some(text) if self.is_in_body => format!("{} in the body", quoted(text)),
            _ => "the response head".into(),
        }
    }

    fn receive_part(&mut self, part: Part) -> Option<Result<(), String>> {
        match part {
            Part::Status(status) => {
                let mut ranges = self.status.iter();
                if !ranges.any(|(low, high)| (*low..=*high).contains(&status)) {
                    let expected = ranges_text(&self.status);
                    return Some(Err(format!("{status}, expected {expected}")));
                }
                self.is_in_body = true;
                self.contains.is_none().then_some(Ok(()))
            }
            Part::Body(bytes) => {
                let room = BODY_BYTES_MAX - self.body.len();
                let taken = bytes.get(..room).unwrap_or(bytes);
                let wanted = self.contains.as_deref().unwrap_or_default();
                if append_and_find(&mut self.body, taken, wanted) {
                    return Some(Ok(()));
                }
                let is_full = self.body.len() >= BODY_BYTES_MAX;
                is_full.then(|| Err(self.not_found("first 10 KiB of the body")))
            }
            Part::End => Some(Err(self.not_found("body"))),
        }
    }

    fn not_found(&self, place: &str) -> String {
        let wanted = self.contains.as_deref().unwrap_or_default();
        format!("no {} in the {place}", quoted(wanted))
    }
}

/// `200-399`, or `200, 204-206`.
pub fn ranges_text(ranges: &[(u16, u16)]) -> String {
    let each = ranges.iter().map(|(low, high)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::{FIELDS_MAX, FRAMING_BYTES_MAX, HEAD_BYTES_MAX};

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
    fn the_awaited_part_is_named() {
        let mut response = Response::new(vec![(200, 399)], Some(b"ready".to_vec()));
        assert_eq!(response.awaited(), "the response head");
        response.receive(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(response.awaited(), "\"ready\" in the body");
    }
}

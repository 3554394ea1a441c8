//! An HTTP/1 response in pieces: its status, its header fields and its body (RFC 9112).
//!
//! Bytes in, parts out, whatever pieces the bytes come in. Knows no socket, and does not keep the body. Used by HTTP
//! checks and by the commands that ask a server.
//!
//! | in the response | here |
//! |---|---|
//! | status 100, 102 to 199 | skipped, the next response counts (RFC 9110 section 15.2) |
//! | status 204, 304 | no body (RFC 9112 section 6.3) |
//! | `Transfer-Encoding: chunked` | decoded; overrides `Content-Length` (RFC 9112 section 6.3) |
//! | another `Transfer-Encoding` | an error after the status |
//! | neither length nor chunks | the body ends when the peer closes |

/// Most bytes of all response heads together.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a head.
pub const FIELDS_MAX: usize = 64;
/// Most bytes of the body that are not content: sizes of chunks with their extensions.
pub const FRAMING_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an unknown transfer coding in an error.
const CODING_BYTES_MAX: usize = 40;

/// What every response begins with.
const VERSION: &[u8] = b"HTTP/1.";

/// Reads one response. Give all received bytes to [`next`](Reader::next) until it returns the end or an error.
#[derive(Clone)]
pub struct Reader {
    state: State,
    /// The current head; the final one once its status was returned.
    head: Vec<u8>,
    /// Bytes of heads that were skipped.
    skipped: usize,
    framing_bytes: usize,
}

/// A part of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The final head is complete. This is its status.
    Status(u16),
    /// The next bytes of the content; never empty.
    Body(&'a [u8]),
    /// The response is complete. Returned again if there are more bytes.
    End,
}

#[derive(Clone)]
enum State {
    Head,
    Body(Framing),
    /// The status was returned, and the body cannot be read because of this.
    Invalid(String),
    Complete,
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

impl Default for Reader {
    fn default() -> Self {
        Reader {
            state: State::Head,
            head: Vec::new(),
            skipped: 0,
            framing_bytes: 0,
        }
    }
}

impl Reader {
    /// Takes bytes from the front of `bytes` up to the end of a part. Returns the part, or `None` if it takes all
    /// bytes without completing one.
    ///
    /// # Errors
    /// What is wrong with the response. After that, call nothing else.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Part<'a>>, String> {
        loop {
            // A response without a body is complete at the end of its head.
            if matches!(self.state, State::Complete) {
                return Ok(Some(Part::End));
            }
            if let State::Invalid(error) = &self.state {
                return Err(error.clone());
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let (count, part) = match &self.state {
                State::Head => self.receive_head(bytes)?,
                _ => self.receive_body(bytes)?,
            };
            let (taken, rest) = bytes.split_at_checked(count).unwrap_or((bytes, &[]));
            *bytes = rest;
            match part {
                Some(Received::Status(status)) => return Ok(Some(Part::Status(status))),
                Some(Received::Content) => return Ok(Some(Part::Body(taken))),
                None => {}
            }
        }
    }

    /// The peer has closed.
    ///
    /// # Errors
    /// What is missing of the response.
    pub fn end(&mut self) -> Result<(), String> {
        match &self.state {
            State::Head if !self.has_begun() => Err("closed without a response".into()),
            State::Head => Err("closed before the end of the response head".into()),
            State::Body(Framing::UntilClose) | State::Complete => {
                self.state = State::Complete;
                Ok(())
            }
            State::Body(Framing::Length(left, all)) => Err(format!(
                "closed after {} of {all} bytes of the body",
                all - left
            )),
            State::Body(Framing::Chunked(_)) => {
                Err("closed before the last chunk of the body".into())
            }
            State::Invalid(error) => Err(error.clone()),
        }
    }

    /// Whether any byte was received.
    pub fn has_begun(&self) -> bool {
        self.skipped + self.head.len() > 0
    }

    /// The value of the first header field `name` of the final head.
    #[cfg(feature = "client")]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        response.parse(&self.head).ok()?;
        let mut fields = response.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(field.value)
    }

    /// Takes bytes up to the end of the head, at most. Returns how many.
    fn receive_head(&mut self, bytes: &[u8]) -> Result<(usize, Option<Received>), String> {
        for (at, byte) in bytes.iter().enumerate() {
            self.head.push(*byte);
            let is_http = match self.head.get(..VERSION.len()) {
                Some(start) => start == VERSION,
                None => VERSION.starts_with(&self.head),
            };
            if !is_http {
                return Err("not an HTTP/1 response".into());
            }
            if *byte == b'\n' && (self.head.ends_with(b"\n\n") || self.head.ends_with(b"\n\r\n")) {
                return Ok((at + 1, self.head_is_complete()?));
            }
            if self.skipped + self.head.len() >= HEAD_BYTES_MAX {
                return Err("response head of more than 16 KiB".into());
            }
        }
        Ok((bytes.len(), None))
    }

    fn head_is_complete(&mut self) -> Result<Option<Received>, String> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        match response.parse(&self.head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err("incomplete response head".into()),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(format!("more than {FIELDS_MAX} header fields"));
            }
            Err(error) => return Err(format!("invalid response head: {error}")),
        }
        let status = response.code.unwrap_or_default();
        // 101 switches to a protocol that the request did not ask for, so it is final.
        if matches!(status, 100 | 102..=199) {
            self.skipped += self.head.len();
            self.head.clear();
            return Ok(None);
        }
        self.state = match framing(status, response.headers) {
            Ok(Framing::Length(0, _)) => State::Complete,
            Ok(framing) => State::Body(framing),
            Err(error) => State::Invalid(error),
        };
        Ok(Some(Received::Status(status)))
    }

    /// Takes some bytes of the body. Returns how many, at least one.
    fn receive_body(&mut self, bytes: &[u8]) -> Result<(usize, Option<Received>), String> {
        let State::Body(framing) = &mut self.state else {
            return Ok((bytes.len(), None));
        };
        let left = match framing {
            Framing::UntilClose => u64::MAX,
            Framing::Length(left, _) | Framing::Chunked(Chunk::Data(left)) => *left,
            Framing::Chunked(chunk) => {
                let chunk = *chunk;
                self.receive_framing(chunk, bytes)?;
                return Ok((1, None));
            }
        };
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - count as u64;
        match framing {
            Framing::UntilClose => {}
            Framing::Length(..) if left == 0 => self.state = State::Complete,
            Framing::Length(length, _) => *length = left,
            Framing::Chunked(chunk) if left == 0 => *chunk = Chunk::DataEnd,
            Framing::Chunked(chunk) => *chunk = Chunk::Data(left),
        }
        Ok((count, Some(Received::Content)))
    }

    /// Takes one byte of a chunked body that is not data.
    fn receive_framing(&mut self, chunk: Chunk, bytes: &[u8]) -> Result<(), String> {
        let byte = bytes.first().copied().unwrap_or_default();
        self.framing_bytes += 1;
        if self.framing_bytes > FRAMING_BYTES_MAX {
            return Err("more than 16 KiB of chunk sizes in the body".into());
        }
        self.state = match next_chunk(chunk, byte) {
            // The fields after the last chunk are of no interest.
            Some(Chunk::Data(0)) => State::Complete,
            Some(next) => State::Body(Framing::Chunked(next)),
            None => return Err("invalid chunk in the body".into()),
        };
        Ok(())
    }
}

/// What bytes have completed.
enum Received {
    Status(u16),
    /// The bytes are content.
    Content,
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
            let coding: Vec<u8> = coding.iter().copied().take(CODING_BYTES_MAX).collect();
            let coding = coding.escape_ascii();
            return Err(format!("transfer coding \"{coding}\" is not supported"));
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

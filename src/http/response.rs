//! Responses: the status line, header fields and body, written into the caller's buffer.
//!
//! Knows no request except whether its answer has a body, and no clock: the caller supplies the Date.
//! [`super::connection`] makes a [`Writer`] for each request; [`crate::answer`] calls one of its methods.
//!
//! If the body is not known in advance, it is written first and the head after it; then the two change
//! places. So Content-Length is the length of the body that is sent. Writing the body a second time
//! could give another length, because the states of checks may change in between.

use crate::limits::RESPONSE_HEAD_BYTES_MAX;
use crate::time::DateTime;

/// A status code (RFC 9110 section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusCode {
    /// Its position in [`StatusCode::LINES`].
    index: u8,
}

impl StatusCode {
    /// 200 OK
    pub const OK: StatusCode = StatusCode { index: 0 };
    /// 307 Temporary Redirect
    pub const TEMPORARY_REDIRECT: StatusCode = StatusCode { index: 1 };
    /// 400 Bad Request
    pub const BAD_REQUEST: StatusCode = StatusCode { index: 2 };
    /// 404 Not Found
    pub const NOT_FOUND: StatusCode = StatusCode { index: 3 };
    /// 405 Method Not Allowed
    pub const METHOD_NOT_ALLOWED: StatusCode = StatusCode { index: 4 };
    /// 408 Request Timeout
    pub const REQUEST_TIMEOUT: StatusCode = StatusCode { index: 5 };
    /// 414 URI Too Long
    pub const TARGET_TOO_LONG: StatusCode = StatusCode { index: 6 };
    /// 417 Expectation Failed
    pub const EXPECTATION_FAILED: StatusCode = StatusCode { index: 7 };
    /// 421 Misdirected Request
    pub const MISDIRECTED_REQUEST: StatusCode = StatusCode { index: 8 };
    /// 431 Request Header Fields Too Large
    pub const FIELDS_TOO_LARGE: StatusCode = StatusCode { index: 9 };
    /// 500 Internal Server Error
    pub const INTERNAL_SERVER_ERROR: StatusCode = StatusCode { index: 10 };
    /// 501 Not Implemented
    pub const NOT_IMPLEMENTED: StatusCode = StatusCode { index: 11 };
    /// 505 HTTP Version Not Supported
    pub const VERSION_NOT_SUPPORTED: StatusCode = StatusCode { index: 12 };

    /// The code and the reason phrase of each, as they are in a status line.
    const LINES: [&'static str; 13] = [
        "200 OK",
        "307 Temporary Redirect",
        "400 Bad Request",
        "404 Not Found",
        "405 Method Not Allowed",
        "408 Request Timeout",
        "414 URI Too Long",
        "417 Expectation Failed",
        "421 Misdirected Request",
        "431 Request Header Fields Too Large",
        "500 Internal Server Error",
        "501 Not Implemented",
        "505 HTTP Version Not Supported",
    ];

    /// All status codes.
    #[cfg(feature = "server")]
    pub(crate) fn all() -> impl Iterator<Item = StatusCode> {
        (0..StatusCode::COUNT as u8).map(|index| StatusCode { index })
    }

    /// The number of status codes.
    #[cfg(feature = "server")]
    pub(crate) const COUNT: usize = StatusCode::LINES.len();

    /// Its position among all status codes.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.index as usize
    }

    /// The status code, 200 for example.
    pub fn code(self) -> u16 {
        self.digits().parse().unwrap_or_default()
    }

    /// The status code as text, `200` for example.
    pub(crate) fn digits(self) -> &'static str {
        self.line().split_once(' ').unwrap_or_default().0
    }

    /// The reason phrase, `OK` for example.
    pub fn phrase(self) -> &'static str {
        self.line().split_once(' ').unwrap_or_default().1
    }

    /// The code and the reason phrase, `200 OK` for example.
    pub(super) fn line(self) -> &'static str {
        StatusCode::LINES
            .get(self.index())
            .copied()
            .unwrap_or_default()
    }
}

/// The header fields that describe the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Plain text with `nosniff`, as Kubernetes sends the answers of endpoints and errors.
    Text,
    /// Plain text without `nosniff`, as Kubernetes sends the answer of a single check that passes.
    TextSniffed,
    /// As [`Fields::Text`], with the Allow field.
    TextAllow,
    /// JSON in the form of draft-inadarei-api-health-check-06, for a client that asks for nothing else. Another client
    /// gets text under the same path, so caches must keep the two apart.
    HealthJson,
    /// The note of a redirect.
    Html,
    /// Metrics in the text format of Prometheus, version 0.0.4. Prometheus 3 refuses any other content type.
    Metrics,
    /// No fields: there is no body.
    None,
}

impl Fields {
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Fields::Text => b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n",
            Fields::TextSniffed => b"Content-Type: text/plain; charset=utf-8\r\n",
            Fields::TextAllow => {
                b"Allow: GET, HEAD, OPTIONS, POST\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
            }
            Fields::HealthJson => {
                b"Content-Type: application/health+json\r\nX-Content-Type-Options: nosniff\r\nVary: Accept\r\n"
            }
            Fields::Metrics => b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
            Fields::Html => b"Content-Type: text/html; charset=utf-8\r\n",
            Fields::None => b"",
        }
    }
}

/// The Connection field of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// No field: HTTP/1.1 is persistent by default.
    Open,
    /// `keep-alive`: HTTP/1.0 is persistent only with this field.
    KeepAlive,
    /// `close`: no further request is answered.
    Close,
}

impl Persistence {
    /// The field and the empty line that ends the head.
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Persistence::Open => b"\r\n",
            Persistence::KeepAlive => b"Connection: keep-alive\r\n\r\n",
            Persistence::Close => b"Connection: close\r\n\r\n",
        }
    }
}

const OK_LINE: &[u8] = b"HTTP/1.1 200 OK\r\n";
const OK_LENGTH: &[u8] = b"Content-Length: 2\r\n";
const OK_BODY: &[u8] = b"ok";

/// A Date field (RFC 9110 section 6.6.1), formatted once per second instead of once per answer.
///
/// It also holds the head of the answer `ok`, which only changes with the Date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    unix_seconds: u64,
    field: [u8; Date::BYTES],
    /// Status line and fields of `ok`, up to the Connection field.
    ok_head: [u8; Date::OK_HEAD_BYTES],
}

impl Date {
    const BYTES: usize = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();
    const OK_HEAD_BYTES: usize =
        OK_LINE.len() + Fields::Text.as_bytes().len() + Date::BYTES + OK_LENGTH.len();

    /// The field for the time `seconds` after 1970-01-01T00:00:00Z. The field has four digits for the
    /// year, so later times become the last second of 9999.
    pub fn from_unix_seconds(seconds: u64) -> Self {
        const END_OF_9999: u64 = 253_402_300_799;
        let unix_seconds = seconds.min(END_OF_9999);
        let time = DateTime::from_unix_seconds(unix_seconds);
        let mut field = *b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        let mut text = BodyWriter::new(&mut field);
        text.push(b"Date: ");
        text.push(name(b"SunMonTueWedThuFriSat", time.weekday));
        text.push(b", ");
        text.push_padded(time.day, 2);
        text.push(b" ");
        text.push(name(
            b"JanFebMarAprMayJunJulAugSepOctNovDec",
            time.month - 1,
        ));
        text.push(b" ");
        text.push_padded(time.year, 4);
        for (separator, part) in [(b" ", time.hour), (b":", time.minute), (b":", time.second)] {
            text.push(separator);
            text.push_padded(part, 2);
        }
        // The order of the fields is that of `head`.
        let mut ok_head = [0; Date::OK_HEAD_BYTES];
        let mut text = BodyWriter::new(&mut ok_head);
        for part in [OK_LINE, Fields::Text.as_bytes(), &field, OK_LENGTH] {
            text.push(part);
        }
        debug_assert!(!text.is_cut && text.length == Date::OK_HEAD_BYTES);
        Date {
            unix_seconds,
            field,
            ok_head,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.field
    }
}

/// Three letters of `names`.
fn name(names: &'static [u8], index: u64) -> &'static [u8] {
    let start = index as usize * 3;
    // The index is a month or a day of the week, so the default is never used.
    names.get(start..start + 3).unwrap_or(b"???")
}

/// Bytes of a time in RFC 3339, in UTC and whole seconds.
pub(crate) const TIME_BYTES: usize = "1970-01-01T00:00:00Z".len();

/// The answer does not fit in the rest of the buffer. Ignore the bytes that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferFull;

/// An answer that was written into a buffer.
// Eight bytes, so that it is returned in registers.
#[must_use = "the connection has to send it"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    bytes: u32,
    status: StatusCode,
    /// The subject of the request, as a number that the module [`answer`](crate::answer) has set; 0 if it has set none.
    subject: u8,
}

impl Answer {
    #[inline]
    fn new(bytes: usize, status: StatusCode) -> Result<Self, BufferFull> {
        Ok(Answer {
            bytes: u32::try_from(bytes).map_err(|_| BufferFull)?,
            status,
            subject: 0,
        })
    }

    /// Its size in bytes, head and body.
    #[inline]
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Its status.
    #[inline]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The same answer, about `subject`.
    #[inline]
    pub(crate) const fn about(self, subject: u8) -> Self {
        Answer { subject, ..self }
    }

    #[cfg(feature = "server")]
    #[inline]
    pub(crate) const fn subject(&self) -> u8 {
        self.subject
    }
}

/// Writes the body of an answer into a fixed buffer. If a piece does not fit, it and all that follow are
/// dropped, and the answer becomes [`BufferFull`].
#[derive(Debug)]
pub struct BodyWriter<'t> {
    buffer: &'t mut [u8],
    length: usize,
    is_cut: bool,
}

impl<'t> BodyWriter<'t> {
    /// Writes at the start of `buffer`.
    pub fn new(buffer: &'t mut [u8]) -> Self {
        BodyWriter {
            buffer,
            length: 0,
            is_cut: false,
        }
    }

    /// Appends all of `bytes`, or nothing if they do not fit.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        match self
            .buffer
            .get_mut(self.length..)
            .and_then(|free| free.get_mut(..bytes.len()))
        {
            // After a piece that did not fit, a shorter one must not be appended.
            Some(free) if !self.is_cut => {
                free.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            _ => self.is_cut = true,
        }
    }

    /// Appends `start`, `name` and `end`. The pieces are copied with their padding, because a copy of a constant size needs
    /// no call of memcpy; later pieces overwrite the padding.
    #[inline]
    pub(crate) fn push_parts<const N: usize>(
        &mut self,
        start: Padded<'_, N>,
        name: &[u8],
        end: Padded<'_, N>,
    ) {
        let free = self.buffer.get_mut(self.length..);
        let copied = match free {
            Some(free) if !self.is_cut => copy_parts(free, start, name, end),
            _ => None,
        };
        match copied {
            Some(bytes) => self.length += bytes,
            None => self.push_each(&[start.bytes(), name, end.bytes()]),
        }
    }

    /// For the parts at the end of the buffer, where there may be room without the padding.
    #[cold]
    fn push_each(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.push(part);
        }
    }

    /// Appends `number` in decimal.
    #[inline]
    pub fn push_number(&mut self, number: u64) {
        if number < 10 {
            return self.push(&[b'0' + number as u8]);
        }
        let digits = number.checked_ilog10().unwrap_or(0) + 1;
        self.push_padded(number, digits);
    }

    /// Appends the time `unix_seconds` after 1970-01-01T00:00:00Z as RFC 3339 writes it, in
    /// [`TIME_BYTES`] bytes. Of a year after 9999 only the last four digits are written.
    pub(crate) fn push_time(&mut self, unix_seconds: u64) {
        let time = DateTime::from_unix_seconds(unix_seconds);
        self.push_padded(time.year, 4);
        for (separator, part) in [
            (b"-", time.month),
            (b"-", time.day),
            (b"T", time.hour),
            (b":", time.minute),
            (b":", time.second),
        ] {
            self.push(separator);
            self.push_padded(part, 2);
        }
        self.push(b"Z");
    }

    /// Replaces bytes that were written before, from byte `at` on.
    pub(crate) fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let written = self.buffer.get_mut(..self.length).unwrap_or_default();
        if let Some(place) = written
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
        {
            place.copy_from_slice(bytes);
        }
    }

    /// Appends the lowest `digits` decimal digits of `number`.
    pub(crate) fn push_padded(&mut self, number: u64, digits: u32) {
        // Room for the longest u64, filled from its end. A power of ten for the first digit could
        // overflow; dividing by ten cannot.
        let mut text = [b'0'; 20];
        let mut left = number;
        for digit in text.iter_mut().rev().take(digits as usize) {
            *digit += (left % 10) as u8;
            left /= 10;
        }
        let from = text.len().saturating_sub(digits as usize);
        self.push(text.get(from..).unwrap_or_default());
    }

    /// Removes everything from byte `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// The bytes written so far.
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Number of bytes written.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The answer with this status whose head and body were written; an error if a piece did not fit.
    #[inline]
    fn into_answer(self, status: StatusCode) -> Result<Answer, BufferFull> {
        match self.is_cut {
            true => Err(BufferFull),
            false => Answer::new(self.length, status),
        }
    }

    /// True if nothing was written.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// Writes one answer. The function from request to response gets it and calls one of its methods.
#[derive(Debug)]
pub struct Writer<'t> {
    tx: &'t mut [u8],
    date: Option<&'t Date>,
    persistence: Persistence,
    has_body: bool,
}

impl<'t> Writer<'t> {
    pub(crate) fn new(
        tx: &'t mut [u8],
        date: Option<&'t Date>,
        persistence: Persistence,
        has_body: bool,
    ) -> Self {
        Writer {
            tx,
            date,
            persistence,
            has_body,
        }
    }

    /// The time of the Date field in seconds since 1970; `None` if the caller has no wall clock.
    pub fn unix_seconds(&self) -> Option<u64> {
        self.date.map(|date| date.unix_seconds)
    }

    /// Bytes that are free for the answer.
    pub fn room(&self) -> usize {
        self.tx.len()
    }

    /// Writes an answer whose body is known.
    ///
    /// # Errors
    /// [`BufferFull`] if it does not fit. [`Connection`](super::Connection) then asks its caller to send
    /// the earlier answers, and calls again with an empty buffer.
    pub fn fixed(
        self,
        status: StatusCode,
        fields: Fields,
        body: &[u8],
    ) -> Result<Answer, BufferFull> {
        let mut text = BodyWriter::new(self.tx);
        head(
            &mut text,
            status,
            fields,
            self.date,
            None,
            body.len(),
            self.persistence,
        );
        if self.has_body {
            text.push(body);
        }
        text.into_answer(status)
    }

    /// Writes `ok` with status 200, the most frequent answer, from the head in [`Date`]. The bytes are
    /// the same as from [`fixed`](Writer::fixed).
    ///
    /// # Errors
    /// [`BufferFull`], as [`Writer::fixed`].
    // Always inlined, because its callers make the most frequent answer.
    #[inline(always)]
    pub fn ok(self) -> Result<Answer, BufferFull> {
        // The prepared head contains the Date.
        let Some(date) = self.date else {
            return self.fixed(StatusCode::OK, Fields::Text, OK_BODY);
        };
        let mut text = BodyWriter::new(self.tx);
        text.push(&date.ok_head);
        // In each case the length is a constant, so that no memcpy is called.
        match self.persistence {
            Persistence::Open => text.push(Persistence::Open.as_bytes()),
            Persistence::KeepAlive => text.push(Persistence::KeepAlive.as_bytes()),
            Persistence::Close => text.push(Persistence::Close.as_bytes()),
        }
        if self.has_body {
            text.push(OK_BODY);
        }
        text.into_answer(StatusCode::OK)
    }

    /// Writes an answer whose body is written by `render`, which returns the status.
    ///
    /// # Errors
    /// [`BufferFull`], as [`Writer::fixed`].
    pub fn rendered(
        self,
        fields: Fields,
        render: impl FnOnce(&mut BodyWriter<'_>) -> StatusCode,
    ) -> Result<Answer, BufferFull> {
        let mut text = BodyWriter::new(self.tx);
        // The body is first in the buffer until `finish`.
        let status = render(&mut text);
        let body = text.length;
        head(
            &mut text,
            status,
            fields,
            self.date,
            None,
            body,
            self.persistence,
        );
        finish(text, status, body, 0, self.has_body)
    }

    /// Writes a redirect to the clean form of a path. `render` writes the value of Location. If
    /// `has_note`, the body is a note with a link, as from Go.
    ///
    /// # Errors
    /// [`BufferFull`], as [`Writer::fixed`].
    pub fn redirect(
        self,
        has_note: bool,
        render: impl FnOnce(&mut BodyWriter<'_>),
    ) -> Result<Answer, BufferFull> {
        let mut text = BodyWriter::new(self.tx);
        // The buffer has the location and then the body, until `finish` moves the head before them.
        render(&mut text);
        let location = text.length;
        if has_note {
            text.push(b"<a href=\"");
            // The link repeats the location, which is in the same buffer: copied byte by byte.
            for at in 0..location {
                let byte = text.buffer.get(at).copied().unwrap_or_default();
                text.push(escape_html(&[byte]));
            }
            text.push(b"\">Temporary Redirect</a>.\n\n");
        }
        let body = text.length - location;
        // Without a note there is no body, and Go sends no Content-Type.
        let fields = if has_note { Fields::Html } else { Fields::None };
        let status = StatusCode::TEMPORARY_REDIRECT;
        head(
            &mut text,
            status,
            fields,
            self.date,
            Some(location),
            body,
            self.persistence,
        );
        finish(text, status, body, location, self.has_body)
    }
}

/// Appends a head. The first `location` bytes of `text` are the value of Location.
fn head(
    text: &mut BodyWriter<'_>,
    status: StatusCode,
    fields: Fields,
    date: Option<&Date>,
    location: Option<usize>,
    content_length: usize,
    persistence: Persistence,
) {
    let start = text.length;
    // The most frequent status line is pushed as one piece.
    if status == StatusCode::OK {
        text.push(OK_LINE);
    } else {
        text.push(b"HTTP/1.1 ");
        text.push(status.line().as_bytes());
        text.push(b"\r\n");
    }
    text.push(fields.as_bytes());
    if let Some(location) = location {
        text.push(b"Location: ");
        // Copied within one buffer: `push` would need two borrows of it.
        let parts = text.buffer.split_at_mut_checked(text.length);
        let places = parts.and_then(|(written, free)| {
            Some((written.get(..location)?, free.get_mut(..location)?))
        });
        match places {
            Some((value, place)) if !text.is_cut => {
                place.copy_from_slice(value);
                text.length += location;
            }
            _ => text.is_cut = true,
        }
        text.push(b"\r\n");
    }
    if let Some(date) = date {
        text.push(date.as_bytes());
    }
    text.push(b"Content-Length: ");
    text.push_number(content_length as u64);
    text.push(b"\r\n");
    text.push(persistence.as_bytes());
    debug_assert!(
        text.length - start <= RESPONSE_HEAD_BYTES_MAX + location.unwrap_or(0),
        "a head outgrew its bound"
    );
}

/// Moves the head, which was written last, before the body. Removes the first `before` bytes, which are
/// part of neither.
fn finish(
    text: BodyWriter<'_>,
    status: StatusCode,
    body: usize,
    before: usize,
    has_body: bool,
) -> Result<Answer, BufferFull> {
    if text.is_cut {
        return Err(BufferFull);
    }
    let written = text.buffer.get_mut(..text.length).ok_or(BufferFull)?;
    let head = written.len().checked_sub(body + before).ok_or(BufferFull)?;
    written.rotate_right(head);
    // Now the order is: head, the bytes to remove, body.
    match written.get_mut(head..) {
        Some(rest) if before <= rest.len() => rest.copy_within(before.., 0),
        _ => return Err(BufferFull),
    }
    // The answer to HEAD has the Content-Length of its body, but not the body (RFC 9110 9.3.2).
    let bytes = head + if has_body { body } else { 0 };
    Answer::new(bytes, status)
}

/// Go's `html.EscapeString`, for one byte.
fn escape_html(byte: &[u8; 1]) -> &[u8] {
    match byte {
        b"&" => b"&amp;",
        b"<" => b"&lt;",
        b">" => b"&gt;",
        b"\"" => b"&#34;",
        b"'" => b"&#39;",
        other => other,
    }
}

/// Bytes at the start of an array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded<'a, const N: usize> {
    pub(crate) array: &'a [u8; N],
    pub(crate) length: usize,
}

impl<'a, const N: usize> Padded<'a, N> {
    fn bytes(self) -> &'a [u8] {
        self.array.get(..self.length).unwrap_or_default()
    }
}

/// Copies `start`, `name` and `end` one after the other. Returns their length, or `None` if `to` has no room for them and
/// their padding.
#[inline]
fn copy_parts<const N: usize>(
    to: &mut [u8],
    start: Padded<'_, N>,
    name: &[u8],
    end: Padded<'_, N>,
) -> Option<usize> {
    *to.first_chunk_mut()? = *start.array;
    let rest = to.get_mut(start.length..)?;
    let (place, rest) = rest.split_at_mut_checked(name.len())?;
    match name.len() {
        8..=16 => copy_ends::<8>(place, name),
        17..=32 => copy_ends::<16>(place, name),
        _ => place.copy_from_slice(name),
    }
    *rest.first_chunk_mut()? = *end.array;
    Some(start.length + name.len() + end.length)
}

/// Copies the first and the last `N` of at least `N` and at most `2 * N` bytes, without a call of memcpy.
#[inline]
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(first)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
        *to = *first;
    }
    if let (Some(to), Some(last)) = (to.last_chunk_mut::<N>(), from.last_chunk()) {
        *to = *last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn date(seconds: u64) -> String {
        String::from_utf8(Date::from_unix_seconds(seconds).as_bytes().to_vec()).unwrap()
    }

    /// Parts of every length, in a buffer with room for them and in each smaller one.
    #[test]
    fn parts_are_appended_as_if_one_by_one() {
        let piece: [u8; 40] = core::array::from_fn(|index| b'a' + (index % 26) as u8);
        for length in 0..=piece.len() {
            for room in 0..=3 * length + 41 {
                let (mut one, mut other) = ([0; 200], [0; 200]);
                let mut one = BodyWriter::new(&mut one[..room]);
                let mut other = BodyWriter::new(&mut other[..room]);
                let padded = |length| Padded {
                    array: &piece,
                    length,
                };
                // Between two other pieces.
                for writer in [&mut one, &mut other] {
                    writer.push_number(7);
                }
                let name = &piece[..length];
                one.push_parts(padded(length), name, padded(length / 2));
                for part in [name, name, &piece[..length / 2]] {
                    other.push(part);
                }
                for writer in [&mut one, &mut other] {
                    writer.push_number(12);
                }
                assert_eq!(one.as_bytes(), other.as_bytes(), "{length} in {room}");
                assert_eq!(one.is_cut, other.is_cut, "{length} in {room}");
            }
        }
    }

    #[test]
    fn a_date_has_the_format_imf_fixdate() {
        assert_eq!(date(0), "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(date(784_111_777), "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(date(951_782_400), "Date: Tue, 29 Feb 2000 00:00:00 GMT\r\n");
        assert_eq!(
            date(4_107_542_399),
            "Date: Sun, 28 Feb 2100 23:59:59 GMT\r\n"
        );
        assert_eq!(
            date(4_107_542_400),
            "Date: Mon, 01 Mar 2100 00:00:00 GMT\r\n"
        );
        assert_eq!(
            date(253_402_300_799),
            "Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n"
        );
        assert_eq!(date(u64::MAX), "Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n");
    }

    #[test]
    fn an_answer_needs_exactly_its_size() {
        let mut tx = [0; 512];
        fn writer(tx: &mut [u8]) -> Writer<'_> {
            Writer::new(tx, None, Persistence::Close, true)
        }
        let size = writer(&mut tx)
            .fixed(StatusCode::OK, Fields::Text, b"ok")
            .unwrap()
            .bytes();
        // Any smaller buffer must give an error, and never part of an answer.
        for room in 0..size {
            assert_eq!(
                writer(&mut tx[..room]).fixed(StatusCode::OK, Fields::Text, b"ok"),
                Err(BufferFull)
            );
            let body = |text: &mut BodyWriter<'_>| {
                text.push(b"ok");
                StatusCode::OK
            };
            assert_eq!(
                writer(&mut tx[..room]).rendered(Fields::Text, body),
                Err(BufferFull)
            );
        }
        assert_eq!(
            writer(&mut tx[..size])
                .fixed(StatusCode::OK, Fields::Text, b"ok")
                .map(|answer| answer.bytes()),
            Ok(size)
        );
    }

    #[test]
    fn a_rendered_answer_equals_a_fixed_one() {
        for has_body in [true, false] {
            let date = Date::from_unix_seconds(0);
            let (mut a, mut b) = ([0; 512], [0; 512]);
            let body = b"[+]ping ok\nhealthz check passed\n";
            // `ok` uses the prepared head, and must write the same bytes as `fixed`.
            let prepared = Writer::new(&mut a, Some(&date), Persistence::Close, has_body)
                .ok()
                .unwrap();
            let fixed = Writer::new(&mut b, Some(&date), Persistence::Close, has_body)
                .fixed(StatusCode::OK, Fields::Text, b"ok")
                .unwrap();
            assert_eq!(prepared, fixed);
            assert_eq!(a[..prepared.bytes()], b[..fixed.bytes()]);
            // `rendered` writes the body first, and must write the same bytes as `fixed`.
            let one = Writer::new(&mut a, Some(&date), Persistence::Open, has_body)
                .fixed(StatusCode::OK, Fields::Text, body)
                .unwrap();
            let two = Writer::new(&mut b, Some(&date), Persistence::Open, has_body)
                .rendered(Fields::Text, |text| {
                    text.push(body);
                    StatusCode::OK
                })
                .unwrap();
            assert_eq!(one, two);
            assert_eq!(
                String::from_utf8_lossy(&a[..one.bytes()]),
                String::from_utf8_lossy(&b[..two.bytes()])
            );
        }
    }
}

//! Responses into the caller's buffer: status line, fields, Date, body.
//!
//! Knows no request but whether the answer must go without its body, and no clock: the Date is the
//! caller's. A body whose text is not known beforehand is written first and the head behind it; the
//! two then change places, so that Content-Length needs no second look at states that may change.

use crate::limits::RESPONSE_HEAD_BYTES_MAX;

/// A status code with its reason phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusCode(u16, &'static str);

impl StatusCode {
    /// 200 OK
    pub const OK: StatusCode = StatusCode(200, "OK");
    /// 307 Temporary Redirect
    pub const TEMPORARY_REDIRECT: StatusCode = StatusCode(307, "Temporary Redirect");
    /// 400 Bad Request
    pub const BAD_REQUEST: StatusCode = StatusCode(400, "Bad Request");
    /// 404 Not Found
    pub const NOT_FOUND: StatusCode = StatusCode(404, "Not Found");
    /// 405 Method Not Allowed
    pub const METHOD_NOT_ALLOWED: StatusCode = StatusCode(405, "Method Not Allowed");
    /// 408 Request Timeout
    pub const REQUEST_TIMEOUT: StatusCode = StatusCode(408, "Request Timeout");
    /// 414 URI Too Long
    pub const TARGET_TOO_LONG: StatusCode = StatusCode(414, "URI Too Long");
    /// 417 Expectation Failed
    pub const EXPECTATION_FAILED: StatusCode = StatusCode(417, "Expectation Failed");
    /// 421 Misdirected Request
    pub const MISDIRECTED_REQUEST: StatusCode = StatusCode(421, "Misdirected Request");
    /// 431 Request Header Fields Too Large
    pub const FIELDS_TOO_LARGE: StatusCode = StatusCode(431, "Request Header Fields Too Large");
    /// 500 Internal Server Error
    pub const INTERNAL_SERVER_ERROR: StatusCode = StatusCode(500, "Internal Server Error");
    /// 501 Not Implemented
    pub const NOT_IMPLEMENTED: StatusCode = StatusCode(501, "Not Implemented");
    /// 505 HTTP Version Not Supported
    pub const VERSION_NOT_SUPPORTED: StatusCode = StatusCode(505, "HTTP Version Not Supported");

    /// The number, 200 for example.
    pub const fn code(self) -> u16 {
        self.0
    }

    /// The reason phrase, `OK` for example.
    pub const fn phrase(self) -> &'static str {
        self.1
    }
}

/// The fields that describe a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Plain text that no browser may take for anything else: Kubernetes' root answers and errors.
    Text,
    /// Plain text without `nosniff`: Kubernetes' passing single checks.
    TextSniffed,
    /// As [`Fields::Text`], with the methods that are allowed.
    TextAllow,
    /// The customary note of a redirect.
    Html,
    /// No body to describe.
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
            Fields::Html => b"Content-Type: text/html; charset=utf-8\r\n",
            Fields::None => b"",
        }
    }
}

/// What the Connection field of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// HTTP/1.1 stays open without a word.
    Open,
    /// HTTP/1.0 stays open only if it is told.
    KeepAlive,
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

/// A Date field (RFC 9110 section 6.6.1), formatted once a second instead of once an answer.
///
/// It keeps the head of a passing answer with it, which is the same for as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    field: [u8; Date::BYTES],
    /// Status line and fields of `ok`, up to where the persistence is said.
    ok_head: [u8; Date::OK_HEAD_BYTES],
}

impl Date {
    const BYTES: usize = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();
    const OK_HEAD_BYTES: usize =
        OK_LINE.len() + Fields::Text.as_bytes().len() + Date::BYTES + OK_LENGTH.len();

    /// The field for so many seconds after 1970-01-01T00:00:00Z. Years beyond 9999, which the field
    /// cannot say, are given as the end of 9999.
    pub fn from_unix_seconds(seconds: u64) -> Self {
        const END_OF_9999: u64 = 253_402_300_799;
        let seconds = seconds.min(END_OF_9999);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil_from_days(days);
        let mut field = *b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        let mut text = Text::new(&mut field);
        text.push(b"Date: ");
        // Day 0 was a Thursday.
        text.push(name(b"ThuFriSatSunMonTueWed", days % 7));
        text.push(b", ");
        text.push_padded(day, 2);
        text.push(b" ");
        text.push(name(b"JanFebMarAprMayJunJulAugSepOctNovDec", month - 1));
        text.push(b" ");
        text.push_padded(year, 4);
        for (separator, part) in [
            (b" ", second / 3600),
            (b":", second / 60 % 60),
            (b":", second % 60),
        ] {
            text.push(separator);
            text.push_padded(part, 2);
        }
        let mut ok_head = [0; Date::OK_HEAD_BYTES];
        let mut text = Text::new(&mut ok_head);
        for part in [OK_LINE, Fields::Text.as_bytes(), &field, OK_LENGTH] {
            text.push(part);
        }
        debug_assert!(!text.is_cut && text.length == Date::OK_HEAD_BYTES);
        Date { field, ok_head }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.field
    }
}

/// Three letters of `names`.
fn name(names: &'static [u8], index: u64) -> &'static [u8] {
    let start = index as usize * 3;
    names.get(start..start + 3).unwrap_or(b"???")
}

/// Year, month and day (both from 1) of a day counted from 1970-01-01 in the Gregorian calendar.
/// Years begin in March here, so that the leap day is the last and months follow one formula.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// The answer does not fit in what is left of the buffer. Nothing that counts was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Text being written into a fixed buffer. What does not fit is dropped and remembered.
#[derive(Debug)]
pub struct Text<'t> {
    buffer: &'t mut [u8],
    length: usize,
    is_cut: bool,
}

impl<'t> Text<'t> {
    /// An empty text in `buffer`.
    pub fn new(buffer: &'t mut [u8]) -> Self {
        Text {
            buffer,
            length: 0,
            is_cut: false,
        }
    }

    /// Appends `bytes`, whole or not at all.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        match self
            .buffer
            .get_mut(self.length..)
            .and_then(|free| free.get_mut(..bytes.len()))
        {
            Some(free) if !self.is_cut => {
                free.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            _ => self.is_cut = true,
        }
    }

    /// Appends `number` in decimal.
    pub fn push_number(&mut self, number: u64) {
        let digits = number.checked_ilog10().unwrap_or(0) + 1;
        self.push_padded(number, digits);
    }

    /// The lowest `digits` decimal digits of `number`.
    fn push_padded(&mut self, number: u64, digits: u32) {
        // Of the longest number, and from its end: dividing by ten alone cannot fail.
        let mut text = [b'0'; 20];
        let mut left = number;
        for digit in text.iter_mut().rev().take(digits as usize) {
            *digit += (left % 10) as u8;
            left /= 10;
        }
        let from = text.len().saturating_sub(digits as usize);
        self.push(text.get(from..).unwrap_or_default());
    }

    /// Drops everything from byte `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// What was written.
    pub fn as_bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Bytes written.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// Writes one answer: hand it to the function that answers, which calls one of its methods.
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

    /// An answer whose body is known. Returns its size.
    ///
    /// # Errors
    /// [`Full`] if there is no room for it; the caller sends what it has and tries again.
    pub fn fixed(self, status: StatusCode, fields: Fields, body: &[u8]) -> Result<usize, Full> {
        let mut text = Text::new(self.tx);
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
        if text.is_cut {
            Err(Full)
        } else {
            Ok(text.length)
        }
    }

    /// `ok` with status 200, which is nearly every answer: its head is prepared. The same bytes as
    /// [`fixed`](Writer::fixed) writes.
    ///
    /// # Errors
    /// [`Full`], as [`Writer::fixed`].
    #[inline]
    pub fn ok(self) -> Result<usize, Full> {
        let Some(date) = self.date else {
            return self.fixed(StatusCode::OK, Fields::Text, OK_BODY);
        };
        let mut text = Text::new(self.tx);
        text.push(&date.ok_head);
        text.push(self.persistence.as_bytes());
        if self.has_body {
            text.push(OK_BODY);
        }
        if text.is_cut {
            Err(Full)
        } else {
            Ok(text.length)
        }
    }

    /// An answer whose body `render` writes, and whose status is known when that is done.
    /// Returns its size.
    ///
    /// # Errors
    /// [`Full`], as [`Writer::fixed`].
    pub fn rendered(
        self,
        fields: Fields,
        render: impl FnOnce(&mut Text<'_>) -> StatusCode,
    ) -> Result<usize, Full> {
        let mut text = Text::new(self.tx);
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
        finish(text, body, 0, self.has_body)
    }

    /// A redirect to the clean form of an unclean path: `render` writes the value of Location.
    /// The customary note follows if `has_note`. Returns the answer's size.
    ///
    /// # Errors
    /// [`Full`], as [`Writer::fixed`].
    pub fn redirect(
        self,
        has_note: bool,
        render: impl FnOnce(&mut Text<'_>),
    ) -> Result<usize, Full> {
        let mut text = Text::new(self.tx);
        render(&mut text);
        let location = text.length;
        if has_note {
            text.push(b"<a href=\"");
            for at in 0..location {
                let byte = text.buffer.get(at).copied().unwrap_or_default();
                text.push(escape_html(&[byte]));
            }
            text.push(b"\">Temporary Redirect</a>.\n\n");
        }
        let body = text.length - location;
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
        finish(text, body, location, self.has_body)
    }
}

/// Appends a head. `location` bytes at the start of `text` are the value of Location.
fn head(
    text: &mut Text<'_>,
    status: StatusCode,
    fields: Fields,
    date: Option<&Date>,
    location: Option<usize>,
    content_length: usize,
    persistence: Persistence,
) {
    let start = text.length;
    if status == StatusCode::OK {
        text.push(OK_LINE);
    } else {
        text.push(b"HTTP/1.1 ");
        text.push_number(u64::from(status.0));
        text.push(b" ");
        text.push(status.1.as_bytes());
        text.push(b"\r\n");
    }
    text.push(fields.as_bytes());
    if let Some(location) = location {
        text.push(b"Location: ");
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

/// Puts the head, which was written last, before the body, and drops what was written before both.
fn finish(text: Text<'_>, body: usize, before: usize, has_body: bool) -> Result<usize, Full> {
    if text.is_cut {
        return Err(Full);
    }
    let written = text.buffer.get_mut(..text.length).ok_or(Full)?;
    let head = written.len().checked_sub(body + before).ok_or(Full)?;
    written.rotate_right(head);
    // Now: head, what came before the body, body.
    match written.get_mut(head..) {
        Some(rest) if before <= rest.len() => rest.copy_within(before.., 0),
        _ => return Err(Full),
    }
    Ok(head + if has_body { body } else { 0 })
}

/// As Go's `html.EscapeString`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn date(seconds: u64) -> String {
        String::from_utf8(Date::from_unix_seconds(seconds).as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn dates_are_imf_fixdate() {
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
    fn every_day_up_to_the_end_of_9999_follows_the_day_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=2_932_896 {
            assert_eq!(civil_from_days(days), (year, month, day), "day {days}");
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(is_leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, day) = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }

    #[test]
    fn an_answer_fits_exactly_or_not_at_all() {
        let mut tx = [0; 512];
        fn writer(tx: &mut [u8]) -> Writer<'_> {
            Writer::new(tx, None, Persistence::Close, true)
        }
        let size = writer(&mut tx)
            .fixed(StatusCode::OK, Fields::Text, b"ok")
            .unwrap();
        for room in 0..size {
            assert_eq!(
                writer(&mut tx[..room]).fixed(StatusCode::OK, Fields::Text, b"ok"),
                Err(Full)
            );
            let body = |text: &mut Text<'_>| {
                text.push(b"ok");
                StatusCode::OK
            };
            assert_eq!(
                writer(&mut tx[..room]).rendered(Fields::Text, body),
                Err(Full)
            );
        }
        assert_eq!(
            writer(&mut tx[..size]).fixed(StatusCode::OK, Fields::Text, b"ok"),
            Ok(size)
        );
    }

    #[test]
    fn a_rendered_answer_equals_a_fixed_one() {
        for has_body in [true, false] {
            let date = Date::from_unix_seconds(0);
            let (mut a, mut b) = ([0; 512], [0; 512]);
            let body = b"[+]ping ok\nhealthz check passed\n";
            let prepared = Writer::new(&mut a, Some(&date), Persistence::Close, has_body)
                .ok()
                .unwrap();
            let fixed = Writer::new(&mut b, Some(&date), Persistence::Close, has_body)
                .fixed(StatusCode::OK, Fields::Text, b"ok")
                .unwrap();
            assert_eq!(a[..prepared], b[..fixed]);
            let one = Writer::new(&mut a, Some(&date), Persistence::Open, has_body)
                .fixed(StatusCode::OK, Fields::Text, body)
                .unwrap();
            let two = Writer::new(&mut b, Some(&date), Persistence::Open, has_body)
                .rendered(Fields::Text, |text| {
                    text.push(body);
                    StatusCode::OK
                })
                .unwrap();
            assert_eq!(
                String::from_utf8_lossy(&a[..one]),
                String::from_utf8_lossy(&b[..two])
            );
        }
    }
}

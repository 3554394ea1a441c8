//! Chunked bodies (RFC 9112 section 7.1), followed to their end and thrown away.
//!
//! Knows neither requests nor limits, and keeps no byte. Called by [`super::connection`] with what
//! came behind a head, because whoever goes on reading behind a body has to know where it ends.
//!
//! | seen | verdict | source |
//! |---|---|---|
//! | a size in hex, leading zeros included, below 2^64 | taken | RFC 9112 7.1 |
//! | `0x`, a sign, spaces before it, `_`, nothing in a size's place | malformed | RFC 9112 7.1 |
//! | extensions: names that are tokens, each with a token or a quoted string as its value, or without one | ignored | RFC 9112 7.1.1 |
//! | spaces and tabs before or after a `;` or `=` in them | accepted | RFC 9112 7.1.1, RFC 9110 5.6.3 |
//! | any other extension; a control character in one | malformed | RFC 9112 7.1.1, RFC 9110 5.6.4 |
//! | trailer fields | passed over unread, whatever they are; a name is a token and its colon follows | RFC 9112 7.1.2 |
//! | a folded trailer | malformed | stricter than RFC 9112 5.2, as in heads |
//! | a line that does not end in CRLF | malformed; Go takes a lone LF | errata 7633 of RFC 9112 |

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the size; `digits` says whether there was one yet.
    Size {
        size: u64,
        digits: bool,
    },
    /// Behind the size, in the extensions.
    Extension {
        size: u64,
        at: Extension,
    },
    /// Behind the CR of a size line.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends everything.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// The position of the next byte in the extensions of one size line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    /// After white space that only another extension may follow.
    Gap,
    /// After a semicolon: the name comes next.
    Start,
    /// In a name.
    Name,
    /// After white space that follows a name.
    NameGap,
    /// After the equals sign: the value comes next.
    Equals,
    /// In a value that is a token.
    Token,
    /// In a value that is a quoted string.
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    /// After the quote that ends a value.
    QuotedEnd,
}

impl Chunk {
    /// Right behind the head. (A constant in its place cost every request five instructions.)
    #[inline]
    pub(super) const fn start() -> Self {
        Chunk::Size {
            size: 0,
            digits: false,
        }
    }
}

/// A byte that no chunked body has at its place: where the body ends cannot be known any more.
pub(super) struct Malformed;

/// Walks over a chunked body. Returns the bytes used and the place reached; `None` behind the last
/// byte.
pub(super) fn drain_chunks(
    mut chunk: Chunk,
    rx: &[u8],
) -> (usize, Result<Option<Chunk>, Malformed>) {
    let mut at = 0;
    while let Some(byte) = rx.get(at) {
        if let Chunk::Data { left } = chunk {
            let skipped = (rx.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
            at += skipped;
            chunk = match left - skipped as u64 {
                0 => Chunk::DataCr,
                left => Chunk::Data { left },
            };
            continue;
        }
        at += 1;
        chunk = match next_chunk(chunk, *byte) {
            Ok(Some(chunk)) => chunk,
            other => return (at, other),
        };
    }
    (at, Ok(Some(chunk)))
}

/// One byte of chunk framing.
fn next_chunk(chunk: Chunk, byte: u8) -> Result<Option<Chunk>, Malformed> {
    Ok(Some(match (chunk, byte) {
        (Chunk::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = u64::from((byte as char).to_digit(16).unwrap_or(0));
            let size = size
                .checked_mul(16)
                .and_then(|size| size.checked_add(digit))
                .ok_or(Malformed)?;
            Chunk::Size { size, digits: true }
        }
        (Chunk::Size { size, digits: true }, b'\r') => Chunk::SizeLf { size },
        (Chunk::Size { size, digits: true }, byte) => Chunk::Extension {
            size,
            at: next_extension(Extension::Gap, byte)?,
        },
        (Chunk::Extension { size, at }, b'\r') if at.may_end_line() => Chunk::SizeLf { size },
        (Chunk::Extension { size, at }, byte) => Chunk::Extension {
            size,
            at: next_extension(at, byte)?,
        },
        (Chunk::SizeLf { size: 0 }, b'\n') => Chunk::TrailerStart,
        (Chunk::SizeLf { size }, b'\n') => Chunk::Data { left: size },
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => Chunk::start(),
        (Chunk::TrailerStart, b'\r') => Chunk::EndLf,
        (Chunk::TrailerStart | Chunk::TrailerName, byte) if is_token_byte(byte) => {
            Chunk::TrailerName
        }
        (Chunk::TrailerName, b':') => Chunk::TrailerValue,
        (Chunk::TrailerValue, b'\r') => Chunk::TrailerLf,
        (Chunk::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => Chunk::TrailerValue,
        (Chunk::TrailerLf, b'\n') => Chunk::TrailerStart,
        (Chunk::EndLf, b'\n') => return Ok(None),
        _ => return Err(Malformed),
    }))
}

impl Extension {
    /// True if the size line may end here.
    fn may_end_line(self) -> bool {
        matches!(
            self,
            Extension::Name | Extension::Token | Extension::QuotedEnd
        )
    }
}

/// The position after one byte of the extensions:
/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1).
///
/// A parser that is less strict can end a size line elsewhere, for example in an open quoted string.
fn next_extension(at: Extension, byte: u8) -> Result<Extension, Malformed> {
    Ok(match (at, byte) {
        (Extension::Quoted, b'"') => Extension::QuotedEnd,
        (Extension::Quoted, b'\\') => Extension::Escaped,
        (Extension::Quoted | Extension::Escaped, b'\t' | b' '..=b'~' | 0x80..) => Extension::Quoted,
        (Extension::Start | Extension::Name, byte) if is_token_byte(byte) => Extension::Name,
        (Extension::Equals | Extension::Token, byte) if is_token_byte(byte) => Extension::Token,
        (Extension::Equals, b'"') => Extension::Quoted,
        (Extension::Name | Extension::NameGap, b'=') => Extension::Equals,
        (Extension::Start | Extension::Equals, b' ' | b'\t') => at,
        (Extension::Name | Extension::NameGap, b' ' | b'\t') => Extension::NameGap,
        (Extension::Token | Extension::QuotedEnd | Extension::Gap, b' ' | b'\t') => Extension::Gap,
        (
            Extension::Gap
            | Extension::Name
            | Extension::NameGap
            | Extension::Token
            | Extension::QuotedEnd,
            b';',
        ) => Extension::Start,
        _ => return Err(Malformed),
    })
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes up to the end or to where it was lost; whether there was an end; `None` if more is to come.
    fn walk(pieces: [&[u8]; 2]) -> (usize, Option<bool>) {
        let mut chunk = Chunk::start();
        let mut walked = 0;
        for piece in pieces {
            let (used, step) = drain_chunks(chunk, piece);
            walked += used;
            match step {
                Ok(Some(next)) => {
                    assert_eq!(used, piece.len(), "stopped before the end");
                    chunk = next;
                }
                Ok(None) => return (walked, Some(true)),
                Err(Malformed) => return (walked, Some(false)),
            }
        }
        (walked, None)
    }

    #[test]
    fn a_body_ends_where_the_table_says_however_it_is_cut() {
        const ENDS: Option<bool> = Some(true);
        const LOST: Option<bool> = Some(false);
        for (body, used, verdict) in [
            (&b"0\r\n\r\nGET /"[..], 5, ENDS),
            (b"5\r\nGET /\r\n0\r\n\r\nX", 15, ENDS),
            (b"000A\r\n0123456789\r\n000\r\n\r\n", 25, ENDS),
            (b"1;a=\"b;c\xff\" ;\td\r\n\n\r\n0;e\r\n\r\nX", 26, ENDS),
            (b"0\r\nGrade:PUT /q HTTP/1.1\r\nHost: 9\r\n\r\nX", 37, ENDS),
            (b"0x5\r\n", 2, LOST),
            (b"+5\r\n", 1, LOST),
            (b" 5\r\n", 1, LOST),
            (b"5 \r\n", 3, LOST),
            (b"\r\n", 1, LOST),
            (b";a\r\n", 1, LOST),
            (b"5;a\0", 4, LOST),
            (b"5\n", 2, LOST),
            (b"5\r\r", 3, LOST),
            (b"1\r\nab", 5, LOST),
            (b"1\r\na\n", 5, LOST),
            (b"0\r\n\n", 4, LOST),
            (b"0\r\nX y", 5, LOST),
            (b"0\r\nX : y", 5, LOST),
            (b"0\r\nX: a\r\n b\r\n\r\n", 10, LOST),
            (b"0\r\n: a", 4, LOST),
            (b"10000000000000000\r\n", 17, LOST),
            (b"FFFFFFFFFFFFFFFF\r\n0\r\n\r\n", 23, None),
            (b"0\r\nX: ", 6, None),
        ] {
            for cut in 0..=body.len() {
                let (left, right) = body.split_at(cut);
                let walked = walk([left, right]);
                assert_eq!(walked, (used, verdict), "{}", body.escape_ascii());
            }
        }
    }

    /// Regression: `2;`, a quoted string that did not end and white space at the end of the line were
    /// accepted, and a request after the body was answered.
    #[test]
    fn an_extension_is_accepted_only_if_the_grammar_has_it() {
        for good in [
            &b";a"[..],
            b";a=b",
            b";a;b=c;d",
            b";a=\"\"",
            b";a=\"b\"",
            b";a=\"b;c=d,\t\xe9\"",
            b";a=\"b\\\"c\\\\\"",
            b";a=\"\\\xff\\ \\\t\"",
            b";!#$%&'*+-.^_`|~0=~",
            b" ;a",
            b"\t; a",
            b";a =b",
            b"; a\t=\t\"b\" ; c",
        ] {
            let size_line = [b"2", good, b"\r\n"].concat();
            let (left, right) = size_line.split_at(size_line.len() / 2);
            let expected = (size_line.len(), None);
            assert_eq!(walk([left, right]), expected, "{}", good.escape_ascii());
        }
        // Each is malformed at its last byte.
        for bad in [
            &b";\r"[..],
            b"; \r",
            b";;",
            b";a;\r",
            b";=",
            b";\"",
            b";a=\r",
            b";a= \r",
            b";a=;",
            b";a==",
            b";a=b=",
            b";a=b\"",
            b";a=b \r",
            b";a=b c",
            b";a \r",
            b";a b",
            b";a=\"\r",
            b";a=\"b\\\r",
            b";a=\"b\" \r",
            b";a=\"b\"c",
            b";a=\"b\"\"",
            b";a=\"b\"=",
            b";a=\"\x7f",
            b";a=\"\\\x7f",
            b";a=\"\0",
            b";a=\"\n",
            b";a=\x7f",
            b";a=\xe9",
            b";\xe9",
            b";a\n",
            b";a\0",
            b";a@",
            b",",
            b"=",
            b" \r",
            b" a",
            b"\x0b",
        ] {
            let size_line = [b"2", bad].concat();
            let expected = (size_line.len(), Some(false));
            assert_eq!(walk([&size_line, b""]), expected, "{}", bad.escape_ascii());
        }
    }
}

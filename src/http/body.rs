//! Chunked bodies (RFC 9112 section 7.1): finds the end and discards the content.
//!
//! Knows neither requests nor limits, and stores no byte. Called by [`super::connection`] with the bytes
//! after a head: the next request begins where the body ends.
//!
//! | input | result | source |
//! |---|---|---|
//! | a size in hex, leading zeros included, below 2^64 | accepted | RFC 9112 7.1 |
//! | `0x`, a sign, spaces before it, `_`, or nothing instead of a size | malformed | RFC 9112 7.1 |
//! | extensions: names that are tokens, each with a token or a quoted string as its value, or without one | ignored | RFC 9112 7.1.1 |
//! | spaces and tabs before or after a `;` or `=` in them | accepted | RFC 9112 7.1.1, RFC 9110 5.6.3 |
//! | any other extension; a control character in one | malformed | RFC 9112 7.1.1, RFC 9110 5.6.4 |
//! | trailer fields | ignored; a name must be a token, directly followed by a colon | RFC 9112 7.1.2 |
//! | a folded trailer | malformed | stricter than RFC 9112 5.2, as in heads |
//! | a line that does not end in CRLF | malformed; Go accepts a lone LF | errata 7633 of RFC 9112 |

/// The position of the next byte in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the size; `digits` is true after the first digit.
    Size {
        size: u64,
        digits: bool,
    },
    /// After the size, in an extension.
    Extension {
        size: u64,
        at: Extension,
    },
    /// After the CR of a size line.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer field, or of the empty line that ends the body.
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
    /// At the start of the body.
    // Not an associated constant: copying that costs every request five instructions.
    #[inline]
    pub(super) const fn start() -> Self {
        Chunk::Size {
            size: 0,
            digits: false,
        }
    }
}

/// A byte that is not allowed at its position. The end of the body cannot be found.
pub(super) struct Malformed;

/// Reads part of a chunked body. Returns the number of bytes read and the new position, which is `None`
/// after the last byte.
pub(super) fn drain_chunks(
    mut chunk: Chunk,
    rx: &[u8],
) -> (usize, Result<Option<Chunk>, Malformed>) {
    let mut at = 0;
    while let Some(byte) = rx.get(at) {
        if let Chunk::Data { left } = chunk {
            // Data is skipped at once; only the framing is read byte by byte.
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

/// The position after one byte of framing.
fn next_chunk(chunk: Chunk, byte: u8) -> Result<Option<Chunk>, Malformed> {
    Ok(Some(match (chunk, byte) {
        (Chunk::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = u64::from((byte as char).to_digit(16).unwrap_or(0));
            // A size that overflows would end the chunk too early, and its data would be read as a
            // request.
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
        // The last chunk has no data and no line end after it.
        (Chunk::SizeLf { size: 0 }, b'\n') => Chunk::TrailerStart,
        (Chunk::SizeLf { size }, b'\n') => Chunk::Data { left: size },
        (Chunk::DataCr, b'\r') => Chunk::DataLf,
        (Chunk::DataLf, b'\n') => Chunk::start(),
        (Chunk::TrailerStart, b'\r') => Chunk::EndLf,
        // A name needs at least one byte, and no space before the colon, as in a head.
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

    /// The bytes up to the end or to the malformed byte, and whether that was the end; `None` if the body
    /// is incomplete.
    fn drain(pieces: [&[u8]; 2]) -> (usize, Option<bool>) {
        let mut chunk = Chunk::start();
        let mut drained = 0;
        for piece in pieces {
            let (used, step) = drain_chunks(chunk, piece);
            drained += used;
            match step {
                Ok(Some(next)) => {
                    assert_eq!(used, piece.len(), "stopped before the end");
                    chunk = next;
                }
                Ok(None) => return (drained, Some(true)),
                Err(Malformed) => return (drained, Some(false)),
            }
        }
        (drained, None)
    }

    #[test]
    fn a_body_has_the_same_end_in_any_two_pieces() {
        const ENDS: Option<bool> = Some(true);
        const MALFORMED: Option<bool> = Some(false);
        for (body, used, result) in [
            (&b"0\r\n\r\nGET /"[..], 5, ENDS),
            (b"5\r\nGET /\r\n0\r\n\r\nX", 15, ENDS),
            (b"000A\r\n0123456789\r\n000\r\n\r\n", 25, ENDS),
            (b"1;a=\"b;c\xff\" ;\td\r\n\n\r\n0;e\r\n\r\nX", 26, ENDS),
            (b"0\r\nGrade:PUT /q HTTP/1.1\r\nHost: 9\r\n\r\nX", 37, ENDS),
            (b"0x5\r\n", 2, MALFORMED),
            (b"+5\r\n", 1, MALFORMED),
            (b" 5\r\n", 1, MALFORMED),
            (b"5 \r\n", 3, MALFORMED),
            (b"\r\n", 1, MALFORMED),
            (b";a\r\n", 1, MALFORMED),
            (b"5;a\0", 4, MALFORMED),
            (b"5\n", 2, MALFORMED),
            (b"5\r\r", 3, MALFORMED),
            (b"1\r\nab", 5, MALFORMED),
            (b"1\r\na\n", 5, MALFORMED),
            (b"0\r\n\n", 4, MALFORMED),
            (b"0\r\nX y", 5, MALFORMED),
            (b"0\r\nX : y", 5, MALFORMED),
            (b"0\r\nX: a\r\n b\r\n\r\n", 10, MALFORMED),
            (b"0\r\n: a", 4, MALFORMED),
            (b"10000000000000000\r\n", 17, MALFORMED),
            (b"FFFFFFFFFFFFFFFF\r\n0\r\n\r\n", 23, None),
            (b"0\r\nX: ", 6, None),
        ] {
            // A cut at every byte: the state between two calls must be complete.
            for cut in 0..=body.len() {
                let (left, right) = body.split_at(cut);
                let drained = drain([left, right]);
                assert_eq!(drained, (used, result), "{}", body.escape_ascii());
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
            assert_eq!(drain([left, right]), expected, "{}", good.escape_ascii());
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
            assert_eq!(drain([&size_line, &[]]), expected, "{}", bad.escape_ascii());
        }
    }
}

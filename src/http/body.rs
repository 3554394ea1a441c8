//! Chunked bodies (RFC 9112 section 7.1), followed to their end and thrown away.
//!
//! Knows neither requests nor limits, and keeps no byte. Called by [`super::connection`] with what
//! came behind a head, because whoever goes on reading behind a body has to know where it ends.
//!
//! | seen | verdict | source |
//! |---|---|---|
//! | a size in hex, leading zeros included, below 2^64 | taken | RFC 9112 7.1 |
//! | `0x`, a sign, spaces, `_`, nothing in a size's place | malformed | RFC 9112 7.1 |
//! | extensions | passed over unread; controls in them are malformed | RFC 9112 7.1.1 |
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
    /// Behind the size, in an extension.
    Extension {
        size: u64,
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
        (Chunk::Size { size, digits: true }, b';') => Chunk::Extension { size },
        (Chunk::Size { size, digits: true } | Chunk::Extension { size }, b'\r') => {
            Chunk::SizeLf { size }
        }
        (Chunk::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => Chunk::Extension { size },
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
            (b"1;a=\"b;c\";d\xff\t\r\n\n\r\n0;e\r\n\r\nX", 25, ENDS),
            (
                b"0\r\nX:POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nX",
                43,
                ENDS,
            ),
            (b"0x5\r\n", 2, LOST),
            (b"+5\r\n", 1, LOST),
            (b" 5\r\n", 1, LOST),
            (b"5 \r\n", 2, LOST),
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
}

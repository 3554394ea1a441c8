//! Go's `%q` (`strconv.Quote`), which Kubernetes uses for names that match no check.
//!
//! Knows nothing of requests and checks: bytes in, quoted text out. Called by [`super::excludes`].
//!
//! Which characters are printable depends on the Unicode version of the Rust toolchain, through
//! `str::escape_debug`. It escapes the same categories as Go (Cc, Cf, Cn, Co, Cs, Zl, Zp, and Zs except
//! the space), and a combining mark only at the start. Rust 1.95 and Go 1.27 both have Unicode 17 and
//! agree on every code point. If the versions differ, so do characters that only one of them has.

use crate::http::BodyWriter;

/// Appends `bytes` in double quotes.
pub(super) fn quote(bytes: impl Iterator<Item = u8> + Clone, text: &mut BodyWriter<'_>) {
    text.push(b"\"");
    let mut rest = bytes;
    while let Some(first) = rest.clone().next() {
        let mut encoded = [0; 4];
        match decode(rest.clone(), first, &mut encoded) {
            Some((character, width)) => {
                push_character(character, text);
                rest.nth(width - 1);
            }
            // Not UTF-8: one byte is escaped, and the next may begin a character.
            None => {
                text.push(b"\\x");
                push_hex(u32::from(first), 2, text);
                rest.next();
            }
        }
    }
    text.push(b"\"");
}

/// The character at the start of `bytes` and its width; `None` if the bytes are not UTF-8.
fn decode(
    bytes: impl Iterator<Item = u8>,
    first: u8,
    encoded: &mut [u8; 4],
) -> Option<(char, usize)> {
    // 0xc0, 0xc1 and 0xf5 upwards never occur in UTF-8.
    let width = match first {
        0x00..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let encoded = encoded.get_mut(..width)?;
    let mut bytes = bytes;
    for byte in encoded.iter_mut() {
        *byte = bytes.next()?;
    }
    // This also refuses surrogates and overlong forms, as Go does.
    let character = core::str::from_utf8(encoded).ok()?.chars().next()?;
    Some((character, width))
}

fn push_character(character: char, text: &mut BodyWriter<'_>) {
    match character {
        '"' => text.push(b"\\\""),
        '\\' => text.push(b"\\\\"),
        '\x07' => text.push(b"\\a"),
        '\x08' => text.push(b"\\b"),
        '\x0c' => text.push(b"\\f"),
        '\n' => text.push(b"\\n"),
        '\r' => text.push(b"\\r"),
        '\t' => text.push(b"\\t"),
        '\x0b' => text.push(b"\\v"),
        '\0'..='\x1f' | '\x7f' => {
            text.push(b"\\x");
            push_hex(u32::from(character), 2, text);
        }
        // The next arm gives the same result for these, but takes thirty times as long.
        ' '..='~' => text.push(&[character as u8]),
        _ if is_printable(character) => text.push(character.encode_utf8(&mut [0; 4]).as_bytes()),
        '\u{80}'..='\u{ffff}' => {
            text.push(b"\\u");
            push_hex(u32::from(character), 4, text);
        }
        _ => {
            text.push(b"\\U");
            push_hex(u32::from(character), 8, text);
        }
    }
}

/// Go's `strconv.IsPrint`, for characters without a short escape in `escape_debug`.
fn is_printable(character: char) -> bool {
    // `escape_debug` escapes a combining mark at the start of a string. Go never does, so the character
    // is put after a letter.
    let mut pair = [b'a', 0, 0, 0, 0];
    let width = match pair.get_mut(1..) {
        Some(place) => character.encode_utf8(place).len(),
        None => return false,
    };
    let pair = pair
        .get(..1 + width)
        .and_then(|pair| core::str::from_utf8(pair).ok());
    pair.is_some_and(|pair| character == '\'' || pair.escape_debug().nth(1) == Some(character))
}

fn push_hex(value: u32, digits: u32, text: &mut BodyWriter<'_>) {
    for place in (0..digits).rev() {
        let digit = value >> (4 * place) & 0xf;
        text.push(&[char::from_digit(digit, 16).map_or(b'?', |digit| digit as u8)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn quoted(bytes: &[u8]) -> String {
        let mut buffer = [0; 256];
        let mut text = BodyWriter::new(&mut buffer);
        quote(bytes.iter().copied(), &mut text);
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    }

    /// The expected texts are the output of Go 1.27: `fmt.Printf("%q", ...)`.
    #[test]
    fn names_are_quoted_as_go_quotes_them() {
        for (bytes, want) in [
            (&b""[..], r#""""#),
            (b"ping,log", r#""ping,log""#),
            (b"a\"b\\c'd`", r#""a\"b\\c'd`""#),
            (
                b"\x00\x01\x07\x08\x09\x0a\x0b\x0c\x0d\x1b\x1f\x7f",
                r#""\x00\x01\a\b\t\n\v\f\r\x1b\x1f\x7f""#,
            ),
            (
                b"\xff\xc3\xed\xa0\x80\xf4\x90\x80\x80",
                r#""\xff\xc3\xed\xa0\x80\xf4\x90\x80\x80""#,
            ),
            (b"\xc3\x28", r#""\xc3(""#),
            (
                "\u{2603}\u{1f4a9}\u{301}\u{e0100}\u{fffd}".as_bytes(),
                "\"\u{2603}\u{1f4a9}\u{301}\u{e0100}\u{fffd}\"",
            ),
            (
                "\u{85}\u{a0}\u{ad}\u{200b}\u{202e}\u{e000}\u{fdd0}\u{378}".as_bytes(),
                r#""\u0085\u00a0\u00ad\u200b\u202e\ue000\ufdd0\u0378""#,
            ),
            (
                "\u{10ffff}\u{e0001}".as_bytes(),
                r#""\U0010ffff\U000e0001""#,
            ),
            (b"\xe2\x98", r#""\xe2\x98""#),
        ] {
            assert_eq!(quoted(bytes), want);
        }
    }
}

//! What commands print: lines that fit, text of servers without control characters, JSON strings, colours.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Longest line. With its line end it has 80 bytes: a screen has 80 columns, and node-problem-detector keeps 80 bytes.
pub const LINE_BYTES_MAX: usize = 79;

/// `text` as one line of at most `bytes_max` bytes. Control characters, and others that are not printable, are
/// escaped; the end is replaced by `...` if it is too long.
pub fn line(text: &str, bytes_max: usize) -> String {
    let mut line = String::new();
    // The longest part of the line that leaves room for the dots.
    let mut short = 0;
    for character in text.chars() {
        push_printable(&mut line, character);
        if line.len() + "...".len() <= bytes_max {
            short = line.len();
        }
        if line.len() > bytes_max {
            line.truncate(short);
            line.push_str("...");
            break;
        }
    }
    line
}

/// `bytes` as text, with control characters escaped except for line ends and tabs.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        match character {
            '\n' | '\t' => text.push(character),
            _ => push_printable(&mut text, character),
        }
    }
    text
}

fn push_printable(text: &mut String, character: char) {
    // Those that `escape_debug` escapes, but for the ones that it escapes for a literal.
    if matches!(character, '"' | '\'' | '\\') {
        text.push(character);
    } else {
        text.extend(character.escape_debug());
    }
}

/// A string in JSON, with its quotes (RFC 8259 section 7).
pub struct Json<'a>(pub &'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\n' => f.write_str("\\n")?,
                // The second range has no need to be escaped in JSON, but a terminal obeys it.
                '\0'..='\x1f' | '\x7f'..='\u{9f}' => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

/// A time in seconds with six decimals, rounded: `0.000123`. (Formatting a float would take 30 KiB of the program.)
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = (self.0.as_nanos() + 500) / 1000;
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// A time in milliseconds with three decimals, rounded: `0.123`.
// For size: otherwise the compiler copies it into each of its callers.
#[inline(never)]
pub fn milliseconds(time: Duration) -> String {
    let micros = (time.as_nanos() + 500) / 1000;
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// Colours of a terminal (ECMA-48 section 8.3.117).
#[derive(Clone, Copy)]
pub enum Colour {
    Green,
    Red,
    Yellow,
}

/// Whether standard output shows colours: it is a terminal, and the user does not forbid them (no-color.org).
pub fn has_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !is_set("NO_COLOR") && !is_dumb && io::stdout().is_terminal()
}

/// `text` in `colour` if `has_colours`.
pub fn coloured(text: &str, colour: Colour, has_colours: bool) -> String {
    let number = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
    };
    match has_colours {
        true => format!("\x1b[{number}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

/// Writes to standard output at once.
///
/// # Errors
/// Of write(2); a pipe without a reader is one.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_escaped_and_cut() {
        for (text, bytes_max, expected) in [
            ("", 10, ""),
            ("0123456789", 10, "0123456789"),
            ("0123456789a", 10, "0123456..."),
            ("012345\u{e9}789", 10, "012345..."),
            ("a\x1b[2Jb", 20, "a\\u{1b}[2Jb"),
            ("a\nb\tc\\\"'", 20, "a\\nb\\tc\\\"'"),
            ("right \u{202e}left", 30, "right \\u{202e}left"),
            ("012345\x1b", 10, "012345..."),
            ("gr\u{fc}n", 10, "gr\u{fc}n"),
        ] {
            let line = line(text, bytes_max);
            assert_eq!(line, expected, "{text:?}");
            assert!(line.len() <= bytes_max);
        }
    }

    #[test]
    fn printable_text_keeps_its_lines() {
        assert_eq!(
            printable(b"a\tb\n\x1b[m\xff\n"),
            "a\tb\n\\u{1b}[m\u{fffd}\n"
        );
    }

    #[test]
    fn json_strings_are_escaped() {
        let text = "a\"\\\n\r\0\x1f\x7f\u{9f}\u{e9}";
        let json = "\"a\\\"\\\\\\n\\u000d\\u0000\\u001f\\u007f\\u009f\u{e9}\"";
        assert_eq!(Json(text).to_string(), json);
    }

    #[test]
    fn times_are_rounded() {
        for (nanos, seconds, millis) in [
            (0, "0.000000", "0.000"),
            (499, "0.000000", "0.000"),
            (500, "0.000001", "0.001"),
            (123_456, "0.000123", "0.123"),
            (1_999_999_500, "2.000000", "2000.000"),
            (61_002_003_000, "61.002003", "61002.003"),
        ] {
            let time = Duration::from_nanos(nanos);
            assert_eq!(Seconds(time).to_string(), seconds);
            assert_eq!(milliseconds(time), millis);
        }
    }

    #[test]
    fn colours_are_left_out_if_there_are_none() {
        assert_eq!(coloured("x", Colour::Red, false), "x");
        assert_eq!(coloured("x", Colour::Green, true), "\x1b[32mx\x1b[0m");
    }
}

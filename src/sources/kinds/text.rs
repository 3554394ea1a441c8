//! Text in answers and in reasons.
//!
//! Pure functions, which fuzz targets compile too.

use std::time::Duration;

/// Most characters that a reason quotes.
const QUOTED_CHARS_MAX: usize = 60;

/// Bytes in quotes, escaped and cut.
pub fn quoted(bytes: &[u8]) -> String {
    let escaped: String = match std::str::from_utf8(bytes) {
        Ok(text) => text.escape_debug().take(QUOTED_CHARS_MAX + 1).collect(),
        Err(_) => {
            let escaped = bytes.escape_ascii().take(QUOTED_CHARS_MAX + 1);
            escaped.map(char::from).collect()
        }
    };
    match escaped.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("\"{}...\"", escaped.get(..end).unwrap_or_default()),
        None => format!("\"{escaped}\""),
    }
}

/// Appends `bytes` to `received`. Returns true if the result contains `wanted` and `received` did not.
pub fn append_and_find(received: &mut Vec<u8>, bytes: &[u8], wanted: &[u8]) -> bool {
    let start = (received.len() + 1).saturating_sub(wanted.len());
    received.extend_from_slice(bytes);
    let new = received.get(start..).unwrap_or_default();
    wanted.is_empty() || new.windows(wanted.len()).any(|window| window == wanted)
}

/// A time as a reason says it, rounded down: `41 s`, `1.5 s`, `200 ms`.
pub fn seconds(time: Duration) -> String {
    let millis = time.as_millis();
    match (millis / 1000, millis % 1000) {
        (0, millis @ 1..) => format!("{millis} ms"),
        (seconds @ 1..=9, 100..) => format!("{seconds}.{} s", millis % 1000 / 100),
        (seconds, _) => format!("{seconds} s"),
    }
}

/// Runs `target` with each input in `fuzz/corpus/NAME`.
#[cfg(test)]
pub fn run_corpus(name: &str, target: fn(&[u8])) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    // Cargo adds this file to a published crate, which has no corpus.
    if root.join("Cargo.toml.orig").exists() {
        println!("no corpus in a published crate");
        return;
    }
    let directory = &root.join("fuzz/corpus").join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        // The test prints it if it fails.
        println!("{}", path.display());
        target(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 15, "only {count} inputs in {directory:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_escaped_and_cut() {
        assert_eq!(quoted(b"+PONG\r\n"), "\"+PONG\\r\\n\"");
        assert_eq!(quoted("gr\u{fc}n".as_bytes()), "\"gr\u{fc}n\"");
        assert_eq!(quoted(b"\xff\x1b"), "\"\\xff\\x1b\"");
        let long = quoted(&[0xff; 100]);
        assert_eq!(
            long,
            format!("\"{}...\"", "\\xff".repeat(QUOTED_CHARS_MAX / 4))
        );
        let fits = quoted(&[0xff; QUOTED_CHARS_MAX / 4]);
        assert_eq!(
            fits,
            format!("\"{}\"", "\\xff".repeat(QUOTED_CHARS_MAX / 4))
        );
        let long = quoted(&[b'a'; 100]);
        assert_eq!(long, format!("\"{}...\"", "a".repeat(QUOTED_CHARS_MAX)));
        let fits = quoted(&[b'a'; QUOTED_CHARS_MAX]);
        assert_eq!(fits, format!("\"{}\"", "a".repeat(QUOTED_CHARS_MAX)));
    }

    #[test]
    fn a_text_is_found_across_pieces() {
        let mut received = Vec::new();
        assert!(!append_and_find(&mut received, b"xab", b"abc"));
        assert!(!append_and_find(&mut received, b"", b"abc"));
        assert!(append_and_find(&mut received, b"cd", b"abc"));
        assert!(!append_and_find(&mut received, b"ab", b"abc"));
        assert!(append_and_find(&mut Vec::new(), b"", b""));
        // It was there before.
        assert!(!append_and_find(&mut b"abc".to_vec(), b"d", b"abc"));
    }

    #[test]
    fn times_are_rounded_down() {
        for (millis, text) in [
            (0, "0 s"),
            (200, "200 ms"),
            (1000, "1 s"),
            (1050, "1 s"),
            (1590, "1.5 s"),
            (9999, "9.9 s"),
            (41_900, "41 s"),
        ] {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }
}

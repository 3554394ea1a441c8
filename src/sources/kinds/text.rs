//! Text in answers and in reasons.
//!
//! Pure functions, which fuzz targets compile too.

use std::time::Duration;

/// Longest text of bytes in a reason.
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

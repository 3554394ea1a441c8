//! The fuzz target `response`: a response has the same result in whatever pieces it arrives, and its status is the
//! one that a slow parser finds.
//!
//! Called by `fuzz/` with random bytes, and by `cargo test` with the corpus. The fuzz target compiles this file and
//! [`super::response`] into itself, because a crate cannot depend on a program.

use super::response::{BODY_BYTES_MAX, Response};
use crate::response::{FRAMING_BYTES_MAX, HEAD_BYTES_MAX};

/// Texts that the body has to contain.
const TEXTS: [Option<&[u8]>; 4] = [None, Some(b"ok"), Some(b"\r\n0"), Some(b"aab")];

/// Asserts, for an option byte, a byte that says where the stream is cut, and a stream:
/// - The result of the whole stream is the result of its bytes one by one, and of two pieces.
/// - It is known after a bounded number of bytes, and its reason is short and printable.
/// - A status that is not expected is the status of the first final head.
pub fn response(data: &[u8]) {
    let [option, cut, stream @ ..] = data else {
        return;
    };
    let text = TEXTS[usize::from(*option) % TEXTS.len()];
    let cut = usize::from(*cut) * (stream.len() + 1) / 256;
    let (first, second) = stream.split_at(cut);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    let whole = result(&[stream], text);
    assert_eq!(whole, result(&[first, second], text), "cut at {cut}");
    assert_eq!(whole, result(&bytes, text), "cut everywhere");
    let (at, result) = whole;
    assert!(at <= HEAD_BYTES_MAX + BODY_BYTES_MAX + FRAMING_BYTES_MAX + 1);
    let final_status = status(stream);
    match &result {
        Ok(()) => {
            assert!(final_status.is_some_and(|status| (200..=399).contains(&status)));
            // The shortest head, and the text.
            assert!(at >= b"HTTP/1.1 200\r\n\r\n".len() - 2 + text.unwrap_or_default().len());
        }
        Err(reason) => {
            assert!(
                reason.len() <= 200 && !reason.contains(char::is_control),
                "{reason}"
            );
            if let Some(status) = reason.strip_suffix(", expected 200-399") {
                assert_eq!(
                    final_status.map(|status| status.to_string()).as_deref(),
                    Some(status)
                );
            }
        }
    }
}

/// The result of a stream in pieces, and the number of bytes after which it was known.
fn result(pieces: &[&[u8]], text: Option<&[u8]>) -> (usize, Result<(), String>) {
    let mut response = Response::new(vec![(200, 399)], text.map(Vec::from));
    let mut at = 0;
    for piece in pieces {
        // `receive` does not say after which byte of the piece the result was known. To find it, a copy gets the piece
        // again, byte by byte.
        let mut copy = Response::clone(&response);
        if let Some(result) = response.receive(piece) {
            let known = (1..=piece.len()).find(|end| copy_receives(&mut copy, piece, *end));
            return (at + known.unwrap(), result);
        }
        at += piece.len();
    }
    (at, response.end())
}

/// Gives the byte before `end` to `copy`. Returns true if it has a result then.
fn copy_receives(copy: &mut Response, piece: &[u8], end: usize) -> bool {
    copy.receive(&piece[end - 1..end]).is_some()
}

/// The status of the first head that is final, for a stream that starts with well-formed heads.
fn status(stream: &[u8]) -> Option<u16> {
    let mut rest = stream;
    loop {
        let line = rest.split(|byte| *byte == b'\n').next()?;
        let line = line.strip_prefix(b"HTTP/1.")?;
        let status = std::str::from_utf8(line.get(2..5)?).ok()?.parse().ok()?;
        if !matches!(status, 100 | 102..=199) {
            return Some(status);
        }
        let ends =
            |at: &usize| rest[*at..].starts_with(b"\n\n") || rest[*at..].starts_with(b"\n\r\n");
        let end = (0..rest.len()).find(ends)?;
        let blank = if rest[end + 1] == b'\n' { 2 } else { 3 };
        rest = &rest[end + blank..];
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_response_has_no_finding() {
        crate::sources::kinds::text::run_corpus("response", super::response);
    }
}

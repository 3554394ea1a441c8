//! One request head: its end, its prefixes, and what the cache returns for it.
//!
//! Knows no connection. Called by the fuzz target `request` and for its corpus.

use super::super::cache::HeadCache;
use super::super::request::{BodyLength, Parsed, Refusal, Request, parse};
use crate::limits::{FIELDS_MAX, HEAD_CACHE_HEAD_BYTES};

/// Longest input whose prefixes are all parsed. Of a longer one, every seventh prefix is parsed.
const EVERY_PREFIX_BYTES: usize = 256;

/// - Every prefix of an incomplete head is incomplete. A refused head is refused whatever follows. Nothing
///   is refused before the first line has ended.
/// - A head ends at its empty line. The bytes after it change nothing.
/// - An accepted head has no NUL, no CR without LF, and no more fields than allowed.
/// - The cache returns the request that was parsed, and nothing for other bytes.
pub fn request(data: &[u8]) {
    let result = parse(data);
    check_prefixes(data, &result);
    if let Ok(Parsed::Complete(request, length)) = &result {
        let head = &data[..*length];
        check_head(head, request);
        check_head_alone(head, request);
        check_cache(head, request);
    }
}

fn check_prefixes(data: &[u8], result: &Result<Parsed<'_>, Refusal>) {
    let step = if data.len() > EVERY_PREFIX_BYTES {
        7
    } else {
        1
    };
    // Not even an invalid byte is refused before the line has ended.
    let line_length = data.iter().position(|byte| *byte == b'\n');
    let line_length = line_length.unwrap_or(data.len());
    assert!(matches!(
        parse(&data[..line_length]),
        Ok(Parsed::Incomplete)
    ));
    for end in (0..data.len()).step_by(step) {
        match (parse(&data[..end]), result) {
            (Ok(Parsed::Incomplete), _) => {}
            (Ok(Parsed::Complete(early, at)), Ok(Parsed::Complete(late, length))) => {
                assert!(
                    at == *length && early == *late,
                    "a different head in {end} bytes"
                );
            }
            (Err(early), Err(late)) => assert_eq!(early, *late, "a different refusal at {end}"),
            (early, _) => panic!("{early:?} in {end} bytes, then {result:?}"),
        }
    }
}

fn check_head(head: &[u8], request: &Request<'_>) {
    // httparse skips empty lines before the head; the connection counts them.
    let start = head
        .iter()
        .position(|byte| !b"\r\n".contains(byte))
        .unwrap();
    let head = &head[start..];
    let end: &[u8] = if head.ends_with(b"\r\n") {
        b"\r\n\r\n"
    } else {
        b"\n\n"
    };
    let first = head.windows(end.len()).position(|window| window == end);
    assert_eq!(
        first,
        Some(head.len() - end.len()),
        "the head does not end at its empty line"
    );
    let lines = head.split(|byte| *byte == b'\n').count() - 1;
    assert!((2..=2 + FIELDS_MAX).contains(&lines), "{lines} lines");
    // Either every line ends in CRLF, or none has a CR.
    let returns = head.iter().filter(|byte| **byte == b'\r').count();
    assert_eq!(
        returns,
        if end.len() == 4 { lines } else { 0 },
        "a CR without LF"
    );
    assert!(!head.contains(&0));
    assert!(request.host().is_some() || request.is_http10);
    assert!(!request.is_framing_ambiguous || request.body == BodyLength::Chunked);
    let ends = [
        Some(request.target.path()),
        request.target.query(),
        request.host(),
    ];
    for part in ends.into_iter().flatten() {
        assert!(part.iter().all(u8::is_ascii_graphic), "not ASCII: {part:?}");
    }
}

/// The same head at another address, with nothing after it.
fn check_head_alone(head: &[u8], request: &Request<'_>) {
    // A parser that reads beyond the head would read other bytes after the copy.
    let copy = head.to_vec();
    match parse(&copy) {
        Ok(Parsed::Complete(again, length)) if length == head.len() => {
            assert!(again == *request, "the bytes after a head changed it");
        }
        other => panic!("alone it is {other:?}"),
    }
}

fn check_cache(head: &[u8], request: &Request<'_>) {
    let mut cache = HeadCache::new();
    assert!(cache.get(head).is_none());
    cache.insert(head, request);
    let copy = head.to_vec();
    match cache.get(&copy) {
        Some(again) => {
            assert!(again == *request, "{again:?} was {request:?}");
            assert!(head.len() <= HEAD_CACHE_HEAD_BYTES);
        }
        None => return,
    }
    // One changed bit must not be found, wherever it is.
    for at in [0, head.len() / 2, head.len() - 1] {
        let mut other = copy.clone();
        other[at] ^= 1;
        assert!(cache.get(&other).is_none(), "a different head is found");
        assert!(cache.get(&copy[..at]).is_none(), "a prefix is found");
    }
}

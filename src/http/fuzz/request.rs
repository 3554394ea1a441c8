//! One request head: where it ends, what a prefix of it is, what the cache makes of it.

use super::super::cache::HeadCache;
use super::super::request::{Body, Parsed, Refusal, Request, parse};
use crate::limits::{FIELDS_MAX, HEAD_CACHE_HEAD_BYTES};

/// Longest input of which every prefix is parsed; of longer ones it is every seventh.
const EVERY_PREFIX_BYTES: usize = 256;

/// - An unfinished head is unfinished all along, and what is refused stays refused whatever follows.
///   Nothing is refused before a line has ended.
/// - A head ends at its empty line, and nothing behind it matters.
/// - A head that is taken has no NUL, no CR without its LF, and no more fields than allowed.
/// - The cache gives back what was parsed, and nothing for any other bytes.
pub fn request(data: &[u8]) {
    let verdict = parse(data);
    prefixes(data, &verdict);
    if let Ok(Parsed::Complete(request, length)) = &verdict {
        let head = &data[..*length];
        head_is_sound(head, request);
        alone(head, request);
        cached(head, request);
    }
}

fn prefixes(data: &[u8], verdict: &Result<Parsed<'_>, Refusal>) {
    let step = if data.len() > EVERY_PREFIX_BYTES {
        7
    } else {
        1
    };
    let line_length = data.iter().position(|byte| *byte == b'\n');
    let line_length = line_length.unwrap_or(data.len());
    assert!(matches!(
        parse(&data[..line_length]),
        Ok(Parsed::Incomplete)
    ));
    for end in (0..data.len()).step_by(step) {
        match (parse(&data[..end]), verdict) {
            (Ok(Parsed::Incomplete), _) => {}
            (Ok(Parsed::Complete(early, at)), Ok(Parsed::Complete(late, length))) => {
                assert!(
                    at == *length && early == *late,
                    "another head in {end} bytes"
                );
            }
            (Err(early), Err(late)) => assert_eq!(early, *late, "refused otherwise at {end}"),
            (early, _) => panic!("{early:?} in {end} bytes, then {verdict:?}"),
        }
    }
}

fn head_is_sound(head: &[u8], request: &Request<'_>) {
    // Empty lines in front are for the connection to count; httparse passes over them.
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
        "the empty line is the end"
    );
    let lines = head.split(|byte| *byte == b'\n').count() - 1;
    assert!((2..=2 + FIELDS_MAX).contains(&lines), "{lines} lines");
    let returns = head.iter().filter(|byte| **byte == b'\r').count();
    assert_eq!(
        returns,
        if end.len() == 4 { lines } else { 0 },
        "CRs that end no line"
    );
    assert!(!head.contains(&0));
    assert!(request.host().is_some() || request.is_http10);
    assert!(!request.is_framing_doubtful || request.body == Body::Chunked);
    let ends = [
        Some(request.target.path()),
        request.target.query(),
        request.host(),
    ];
    for part in ends.into_iter().flatten() {
        assert!(part.iter().all(u8::is_ascii_graphic), "not ASCII: {part:?}");
    }
}

/// The same head at another address, with nothing behind it.
fn alone(head: &[u8], request: &Request<'_>) {
    let copy = head.to_vec();
    match parse(&copy) {
        Ok(Parsed::Complete(again, length)) if length == head.len() => {
            assert!(again == *request, "what is behind a head changed it");
        }
        other => panic!("alone it is {other:?}"),
    }
}

fn cached(head: &[u8], request: &Request<'_>) {
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
    for at in [0, head.len() / 2, head.len() - 1] {
        let mut other = copy.clone();
        other[at] ^= 1;
        assert!(cache.get(&other).is_none(), "another head is remembered");
        assert!(cache.get(&copy[..at]).is_none(), "a prefix is remembered");
    }
}

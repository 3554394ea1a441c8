//! Exhaustive tests of small input spaces: every byte value at every place of short requests, and heads one
//! byte below, at and one byte above every limit. Uses a `Connection` alone, without sockets.
#![cfg(test)]
#![allow(clippy::string_slice, reason = "a test fails by panicking")]

#[path = "support/http/mod.rs"]
mod http;

use std::collections::BTreeMap;
use std::time::Duration;

use healthz::http::HeadCache;
use healthz::limits::{
    EXCLUDES_MAX, FIELDS_MAX, HEAD_CACHE_HEAD_BYTES, LEADING_EMPTY_LINES_MAX,
    REDIRECT_NOTE_TARGET_BYTES_MAX, REQUEST_HEAD_BYTES_DEFAULT, REQUEST_HEAD_BYTES_MAX,
    REQUEST_HEAD_BYTES_MIN,
};
use healthz::{Check, Endpoint, Limits, Responder};
use http::judge::{answers, answers_to};
use http::model::{Reading, after_empty_lines, readings};
use http::profile;
use http::rows::End;
use http::wire::{Outcome, Wire};

/// The shortest requests of each kind: with and without Host, both kinds of bodies, both line ends, two
/// requests in a row.
const SHORT: [&[u8]; 7] = [
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /livez HTTP/1.0\r\n\r\n",
    b"GET /readyz HTTP/1.0\n\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    b"POST /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    b"\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// Room for all answers to any of these requests.
const TX: usize = 2048;

fn kubelet() -> Responder<'static> {
    profile::responder("kubelet", &BTreeMap::new()).unwrap()
}

/// Every request that differs from `request` in one byte: one byte replaced, inserted, appended or removed.
fn neighbours(request: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let put =
        move |at: usize, end: usize, byte: u8| [&request[..at], &[byte], &request[end..]].concat();
    let bytes = || 0..=u8::MAX;
    let places = 0..request.len();
    let other = places
        .clone()
        .flat_map(move |at| bytes().map(move |byte| put(at, at + 1, byte)));
    let more = (0..=request.len()).flat_map(move |at| bytes().map(move |byte| put(at, at, byte)));
    let less = places.map(|at| [&request[..at], &request[at + 1..]].concat());
    other.chain(more).chain(less)
}

fn run(responder: &Responder<'static>, pieces: &[&[u8]]) -> Outcome {
    let mut wire = Wire::new(responder, None, TX);
    for piece in pieces {
        wire.receive(piece);
    }
    wire.outcome()
}

/// Compares the answers with the requests that the model finds in the same bytes.
fn judge(request: &[u8], outcome: &Outcome) -> Result<(), String> {
    let expected = readings(request);
    // A malformed request may still have a valid method.
    let line = after_empty_lines(request);
    let got = answers_to(
        |index| index == 0 && line.starts_with(b"HEAD "),
        &outcome.sent,
    )?;
    if got.len() != outcome.answered {
        return Err(format!(
            "{} answers, the connection reported {}",
            got.len(),
            outcome.answered
        ));
    }
    let statuses: Vec<u16> = got.iter().map(|answer| answer.status).collect();
    let mismatch = |why: &str| Err(format!("{why}: {statuses:?}, the model: {expected:?}"));
    for (reading, answer) in expected.iter().zip(&got) {
        let is_ok = answer.status == 200;
        let is_right = match reading {
            Reading::Probe => is_ok,
            Reading::Other => matches!(answer.status, 307 | 404 | 405),
            Reading::Wrong => matches!(answer.status, 400 | 501 | 505),
        };
        if !is_right || is_ok && !(answer.body == b"ok" || answer.body.is_empty()) {
            return mismatch("a different answer");
        }
    }
    match got.len().checked_sub(expected.len()) {
        None => mismatch("an answer is missing"),
        Some(0) => Ok(()),
        // A request that no further byte can make valid may be refused before its end arrives.
        Some(1) => {
            let finished = readings(&[request, b"\r\n\r\n"].concat());
            let is_malformed = finished.get(expected.len()) == Some(&Reading::Wrong);
            let is_refused = matches!(statuses.last(), Some(400 | 501 | 505));
            if is_malformed && is_refused && outcome.end == End::Closed {
                Ok(())
            } else {
                mismatch("one answer too many")
            }
        }
        Some(_) => mismatch("too many answers"),
    }
}

#[test]
fn a_request_that_differs_in_one_byte_is_answered_as_the_model_expects() {
    let responder = kubelet();
    let mut seen = [0; 3];
    for request in SHORT.iter().flat_map(|request| neighbours(request)) {
        let outcome = run(&responder, &[&request]);
        if let Err(why) = judge(&request, &outcome) {
            panic!("{}: {why}", request.escape_ascii());
        }
        for reading in readings(&request) {
            seen[reading as usize] += 1;
        }
    }
    // If the model found only one kind of request, the comparison would prove nothing.
    assert!(seen.iter().all(|count| *count > 1000), "{seen:?}");
}

/// Compares each request with itself in one piece, without the model.
#[test]
fn a_request_that_differs_in_one_byte_gets_the_same_answer_however_it_is_split() {
    let responder = kubelet();
    for request in SHORT.iter().flat_map(|request| neighbours(request)) {
        let whole = run(&responder, &[&request]);
        let single: Vec<&[u8]> = request.chunks(1).collect();
        let cut = run(&responder, &single);
        assert_eq!(cut, whole, "byte by byte: {}", request.escape_ascii());
    }
    // The shortest request, split at every byte.
    for request in neighbours(SHORT[2]) {
        let whole = run(&responder, &[&request]);
        for at in 1..request.len() {
            let (left, right) = request.split_at(at);
            let cut = run(&responder, &[left, right]);
            assert_eq!(cut, whole, "split at {at}: {}", request.escape_ascii());
        }
    }
}

/// One byte of each kind that has a meaning in a head, NUL, which no head may have, and one that is not ASCII, which only
/// a field value may have.
const SIGNIFICANT: [u8; 12] = *b"G/ \t\r\n:1,;\0\x80";

/// Every sequence of up to `most` of these bytes, the empty one first.
fn sequences(most: usize) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..most {
        let shorter = from..all.len();
        from = all.len();
        for index in shorter {
            let longer = SIGNIFICANT.map(|byte| [all[index].as_slice(), &[byte]].concat());
            all.extend(longer);
        }
    }
    all
}

/// In one piece and split at every byte.
#[test]
fn up_to_four_bytes_are_never_answered_with_200() {
    let responder = kubelet();
    let mut closed = 0;
    for stream in sequences(4) {
        let text = stream.escape_ascii();
        let whole = run(&responder, &[&stream]);
        if let Err(why) = judge(&stream, &whole) {
            panic!("{text}: {why}");
        }
        assert!(whole.answered <= 1, "{text}");
        assert!(!whole.sent.starts_with(b"HTTP/1.1 200 "), "{text}");
        closed += usize::from(whole.end == End::Closed);
        for at in 1..stream.len() {
            let (left, right) = stream.split_at(at);
            assert_eq!(
                run(&responder, &[left, right]),
                whole,
                "{text} split at {at}"
            );
        }
    }
    assert!(closed > 1000, "only {closed} were refused");
}

/// Inserts up to three bytes of [`SIGNIFICANT`] at the places where a parser error would do the most harm.
#[test]
fn a_request_with_up_to_three_inserted_bytes_is_answered_as_the_model_expects() {
    let responder = kubelet();
    let places: [[&[u8]; 2]; 7] = [
        [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"],
        [b"GET", b"/healthz HTTP/1.1\r\nHost: a\r\n\r\n"],
        [b"GET /healthz HTTP/1.1", b"Host: a\r\n\r\n"],
        [b"GET /healthz HTTP/1.1\r\nHost", b" a\r\n\r\n"],
        [
            b"GET /healthz HTTP/1.1\r\nHost: a",
            b"Content-Length: 0\r\n\r\n",
        ],
        [
            b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: ",
            b"\r\n\r\nGET",
        ],
        [
            b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            b"\r\n\r\n0\r\n\r\n",
        ],
    ];
    let mut seen = [0; 3];
    for middle in sequences(3) {
        for [before, behind] in places {
            let request = [before, &middle, behind].concat();
            let text = request.escape_ascii();
            let whole = run(&responder, &[&request]);
            if let Err(why) = judge(&request, &whole) {
                panic!("{text}: {why}");
            }
            let (left, right) = request.split_at(before.len() + middle.len() / 2);
            assert_eq!(run(&responder, &[left, right]), whole, "{text}");
            for reading in readings(&request) {
                seen[reading as usize] += 1;
            }
        }
    }
    assert!(seen[0] > 50 && seen[1] > 20 && seen[2] > 1000, "{seen:?}");
}

/// Sends `stream`. Returns the statuses, whether the connection stays open, and the last body.
fn exchange(limits: &Limits, stream: &[u8]) -> (Vec<u16>, End, Vec<u8>) {
    exchange_with(&kubelet(), limits, stream)
}

fn exchange_with(
    responder: &Responder<'static>,
    limits: &Limits,
    stream: &[u8],
) -> (Vec<u16>, End, Vec<u8>) {
    let tx = responder.response_bytes_max(limits);
    let mut cache = HeadCache::new();
    let mut results = Vec::new();
    // In one piece, in small pieces, and again in one piece, when the cache may have the head.
    for size in [usize::MAX, 1000, 7, usize::MAX] {
        let mut wire = Wire::new(responder, Some(&mut cache), tx).limits(*limits);
        for piece in stream.chunks(size) {
            wire.receive(piece);
        }
        let outcome = wire.outcome();
        let answers = answers(stream, &outcome.sent).unwrap();
        let statuses = answers.iter().map(|answer| answer.status).collect();
        let body = answers
            .last()
            .map_or_else(Vec::new, |last| last.body.clone());
        results.push((statuses, outcome.end, body));
    }
    assert!(
        results.windows(2).all(|pair| pair[0] == pair[1]),
        "{results:?}"
    );
    results.remove(0)
}

fn limits(request_head_bytes: usize) -> Limits {
    Limits {
        request_head_bytes,
        ..Limits::DEFAULT
    }
}

/// `before`, then `fill` repeated, then `after`: `size` bytes in all.
fn padded(before: &str, fill: &str, after: &str, size: usize) -> Vec<u8> {
    let room = size - before.len() - after.len();
    let filling = fill.bytes().cycle().take(room);
    before.bytes().chain(filling).chain(after.bytes()).collect()
}

#[test]
fn a_head_of_the_maximum_length_is_accepted_and_one_byte_more_is_refused() {
    let is_open = |size: usize, limit: usize| match size > limit {
        true => End::Closed,
        false => End::Open,
    };
    for limit in [
        REQUEST_HEAD_BYTES_MIN,
        REQUEST_HEAD_BYTES_DEFAULT,
        REQUEST_HEAD_BYTES_MAX,
    ] {
        for size in [limit - 1, limit, limit + 1] {
            let ok = if size > limit { 431 } else { 200 };
            let field = padded(
                "GET /healthz HTTP/1.1\r\nHost: a\r\nX: ",
                "x",
                "\r\n\r\n",
                size,
            );
            let target = padded("GET /healthz?", "a&", " HTTP/1.1\r\nHost: a\r\n\r\n", size);
            let method = padded("", "G", " /healthz HTTP/1.1\r\nHost: a\r\n\r\n", size);
            for (request, status) in [(field, ok), (target, ok), (method, ok.max(405))] {
                let (statuses, end, _) = exchange(&limits(limit), &request);
                assert_eq!(statuses, [status], "{size} bytes of {limit}");
                assert_eq!(end, is_open(size, limit), "{size} bytes of {limit}");
            }
            // If the request line does not end within the limit, the status is 414.
            let line = padded("GET /healthz?", "a", " HTTP/1.1\r\n", size);
            let (statuses, end, _) = exchange(&limits(limit), &line);
            match size.cmp(&limit) {
                std::cmp::Ordering::Less => assert_eq!((statuses, end), (vec![], End::Open)),
                std::cmp::Ordering::Equal => assert_eq!((statuses, end), (vec![431], End::Closed)),
                std::cmp::Ordering::Greater => {
                    assert_eq!((statuses, end), (vec![414], End::Closed))
                }
            }
        }
    }
}

#[test]
fn one_field_more_than_the_limit_is_refused() {
    for count in [FIELDS_MAX - 1, FIELDS_MAX, FIELDS_MAX + 1] {
        let fields = "X: y\r\n".repeat(count - 1);
        let request = format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let status = if count > FIELDS_MAX { 431 } else { 200 };
        assert_eq!(
            exchange(&Limits::DEFAULT, request.as_bytes()).0,
            [status],
            "{count}"
        );
    }
}

#[test]
fn one_empty_line_more_than_the_limit_is_refused() {
    let max = usize::from(LEADING_EMPTY_LINES_MAX);
    for count in [max - 1, max, max + 1] {
        for line in ["\r\n", "\n"] {
            let request = format!("{}GET /healthz HTTP/1.0\n\n", line.repeat(count));
            let status = if count > max { 400 } else { 200 };
            assert_eq!(
                exchange(&Limits::DEFAULT, request.as_bytes()).0,
                [status],
                "{count}"
            );
        }
    }
}

const GET: &str = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_body_is_drained_up_to_its_limit() {
    const LIMIT: usize = 5000;
    let limits = Limits {
        body_drain_bytes: LIMIT as u64,
        ..Limits::DEFAULT
    };
    let begin = "POST /healthz HTTP/1.1\r\nHost: a\r\n";
    for size in [LIMIT - 1, LIMIT, LIMIT + 1] {
        // The request after the body is answered, or it is discarded together with the body.
        let (statuses, end) = match size > LIMIT {
            true => (vec![200], End::Closed),
            false => (vec![200, 200], End::Open),
        };
        let length = format!(
            "{begin}Content-Length: {size}\r\n\r\n{}{GET}",
            "x".repeat(size)
        );
        let chunked = "Transfer-Encoding: chunked\r\n\r\n";
        let around = "1000\r\n".len() + "\r\n0\r\n\r\n".len();
        let data = size - around;
        let chunk = format!(
            "{begin}{chunked}{data:x}\r\n{}\r\n0\r\n\r\n{GET}",
            "x".repeat(data)
        );
        let extension = ";".to_owned() + &"x".repeat(size - "0\r\n\r\n".len() - 1);
        let extended = format!("{begin}{chunked}0{extension}\r\n\r\n{GET}");
        for request in [length, chunk, extended] {
            let (got, got_end, _) = exchange(&limits, request.as_bytes());
            assert_eq!((&got, got_end), (&statuses, end), "{size} bytes of {LIMIT}");
        }
    }
}

#[test]
fn a_content_length_of_two_to_the_63_or_more_is_refused() {
    let max = i64::MAX as u64;
    for (length, status) in [(max - 1, 200), (max, 200), (max + 1, 400), (u64::MAX, 400)] {
        let request =
            format!("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let (statuses, end, _) = exchange(&Limits::DEFAULT, request.as_bytes());
        assert_eq!((statuses, end), (vec![status], End::Closed), "{length}");
    }
    for (size, statuses) in [
        ("ffffffffffffffff", [200].as_slice()),
        ("10000000000000000", &[200]),
    ] {
        let request = format!(
            "POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n{GET}"
        );
        let (got, ..) = exchange(&Limits::DEFAULT, request.as_bytes());
        assert_eq!(got, statuses, "a chunk of {size}");
    }
}

#[test]
fn a_head_too_long_for_the_cache_is_answered_like_a_cached_one() {
    let max = HEAD_CACHE_HEAD_BYTES;
    for size in [max - 1, max, max + 1] {
        let request = padded(
            "GET /healthz HTTP/1.1\r\nHost: a\r\nX: ",
            "x",
            "\r\n\r\n",
            size,
        );
        let (statuses, _, body) = exchange(&Limits::DEFAULT, &request.repeat(3));
        assert_eq!(
            (statuses.as_slice(), &body[..]),
            (&[200; 3][..], &b"ok"[..])
        );
        assert_eq!(
            exchange(&Limits::DEFAULT, &request).0,
            [200],
            "one request at a time, so its head is cached if it is short enough"
        );
    }
}

#[test]
fn one_exclude_more_than_the_limit_is_refused() {
    for count in [EXCLUDES_MAX - 1, EXCLUDES_MAX, EXCLUDES_MAX + 1] {
        let excludes: Vec<String> = (0..count).map(|n| format!("exclude=none-{n}")).collect();
        let query = excludes.join("&");
        let request = format!("GET /healthz?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        let status = if count > EXCLUDES_MAX { 414 } else { 200 };
        let (statuses, end, _) = exchange(&limits(REQUEST_HEAD_BYTES_MAX), request.as_bytes());
        assert_eq!((statuses, end), (vec![status], End::Open), "{count}");
    }
}

#[test]
fn a_check_with_a_name_of_the_maximum_length_is_found() {
    let max = healthz::limits::CHECK_NAME_BYTES_MAX;
    let name: &'static str = "n".repeat(max).leak();
    let check: &'static Check = Box::leak(Box::new(Check::gate(name)));
    check.pass();
    let checks: &'static [&'static Check] = Box::leak(Box::new([check]));
    let responder = Responder::new(Box::leak(Box::new(Endpoint::kubernetes(checks))));
    for (size, status) in [(max - 1, 404), (max, 200), (max + 1, 404)] {
        let request = format!(
            "GET /healthz/{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "n".repeat(size)
        );
        let (statuses, ..) = exchange_with(&responder, &Limits::DEFAULT, request.as_bytes());
        assert_eq!(statuses, [status], "{size}");
    }
    let refused = std::panic::catch_unwind(|| Check::gate("n".repeat(max + 1).leak()));
    assert!(refused.is_err(), "a name longer than any path was accepted");
}

#[test]
fn a_redirect_has_a_note_if_the_target_is_below_the_limit() {
    let max = REDIRECT_NOTE_TARGET_BYTES_MAX;
    for size in [max - 1, max, max + 1] {
        for fill in ["a", "&"] {
            let target = String::from_utf8(padded("//healthz", fill, "", size)).unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let (statuses, _, body) = exchange(&Limits::DEFAULT, request.as_bytes());
            assert_eq!(statuses, [307], "{size}");
            assert_eq!(body.is_empty(), size >= max, "{size}");
        }
    }
}

/// Regression: a redirect needs more than twice the target's length. With a small head limit, or with no
/// endpoint whose answers are longer, the buffer was too small and the answer was a 500.
#[test]
fn a_redirect_fits_the_buffer_for_every_head_limit_and_with_no_endpoints() {
    for responder in [kubelet(), Responder::new(&[])] {
        for limit in [REQUEST_HEAD_BYTES_MIN, 515, 560, 640, 1024, 4096] {
            for fill in ["a", "&", "&\'"] {
                for size in [limit / 2, limit - 7, limit - 1, limit] {
                    let request = padded("GET //", fill, " HTTP/1.0\r\n\r\n", size);
                    let (statuses, ..) = exchange_with(&responder, &limits(limit), &request);
                    assert_eq!(
                        statuses,
                        [307],
                        "{size} of {limit} bytes, filled with {fill}"
                    );
                }
            }
        }
    }
}

/// Same as in the redirects of Go's ServeMux.
#[test]
fn a_redirect_drops_a_question_mark_without_a_query() {
    for (target, location) in [
        ("//healthz?", "/healthz"),
        ("//healthz??", "/healthz??"),
        ("http://a//healthz?", "/healthz"),
        ("//healthz?&", "/healthz?&"),
        ("//healthz", "/healthz"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let outcome = run(&kubelet(), &[request.as_bytes()]);
        let answers = answers(request.as_bytes(), &outcome.sent).unwrap();
        assert_eq!(answers[0].field("location"), Some(location), "{target}");
    }
}

#[test]
fn deadlines_are_exact_to_the_millisecond() {
    let responder = kubelet();
    let ms = Duration::from_millis(1);
    let Limits {
        head_duration,
        idle_duration,
        drain_duration,
        ..
    } = Limits::DEFAULT;
    for (sent, limit, last) in [
        ("", idle_duration, None),
        // Empty lines have the deadline of a head, but do not start one, so there is no 408.
        ("\r\n", head_duration, None),
        ("G", head_duration, Some(408)),
        (&GET[..GET.len() - 1], head_duration, Some(408)),
        (GET, idle_duration, Some(200)),
        (
            "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx",
            drain_duration,
            Some(200),
        ),
        ("NO\r\n\r\n", drain_duration, Some(400)),
    ] {
        for (waits, is_over) in [(limit - ms, false), (limit, true), (limit + ms, true)] {
            let mut wire = Wire::new(&responder, None, TX);
            wire.receive(sent.as_bytes());
            let is_refused = wire.end() == End::Closed;
            wire.pass(waits);
            assert_eq!(wire.end() == End::Closed, is_over || is_refused, "{sent:?}");
            let outcome = wire.outcome();
            let answers = answers(sent.as_bytes(), &outcome.sent).unwrap();
            let status = answers.last().map(|answer| answer.status);
            let is_late = last == Some(408);
            let expected = last.filter(|_| !is_late || is_over);
            assert_eq!(status, expected, "{sent:?} after {waits:?}");
        }
    }
}

//! Edge cases of the wire rules. For each, a change of the code once passed every test. Uses a `Connection`
//! alone, without sockets.
#![cfg(test)]

#[path = "support/http/mod.rs"]
mod http;

use std::collections::BTreeMap;

use healthz::http::{BodyWriter, StatusCode};
use healthz::limits::{
    CHECK_NAME_BYTES_MAX, FIELDS_MAX, LEADING_EMPTY_LINES_MAX, REDIRECT_NOTE_TARGET_BYTES_MAX,
    REQUEST_HEAD_BYTES_MIN, RESPONSE_HEAD_BYTES_MAX, TARGET_EXPANSION_MAX,
};
use healthz::{Check, Endpoint, Instant, Limits, Responder, Severity};
use http::judge::answers;
use http::profile;
use http::rows::End;
use http::wire::{Outcome, Wire};

fn kubelet() -> Responder<'static> {
    profile::responder("kubelet", &BTreeMap::new()).unwrap()
}

/// A connection to a server whose checks all pass.
fn wire<'a>(responder: &'a Responder<'static>) -> Wire<'a> {
    let tx = responder.response_bytes_max(&Limits::DEFAULT);
    Wire::new(responder, None, tx)
}

fn statuses(request: &[u8], outcome: &Outcome) -> Vec<u16> {
    let answers = answers(request, &outcome.sent).unwrap();
    answers.iter().map(|answer| answer.status).collect()
}

/// `count` checks of one group, with names of the maximum length.
fn checks_in_a_group(count: usize, group: &'static str) -> &'static [&'static Check] {
    let check = |n: usize| {
        let name: &'static str = format!("{n:0width$}", width = CHECK_NAME_BYTES_MAX).leak();
        &*Box::leak(Box::new(Check::manual(name).group(group)))
    };
    (0..count).map(check).collect::<Vec<_>>().leak()
}

/// Regression: the maximum answer size did not count the names of groups, so a long answer became a 500.
#[test]
fn an_answer_that_names_a_long_group_in_every_line_fits_the_buffer() {
    let group: &'static str = "g".repeat(CHECK_NAME_BYTES_MAX).leak();
    let checks = checks_in_a_group(100, group);
    let responder = Responder::new(Box::leak(Box::new([Endpoint::new("/healthz", checks)])));
    let limits = Limits {
        request_head_bytes: REQUEST_HEAD_BYTES_MIN,
        ..Limits::DEFAULT
    };
    let request =
        format!("GET /healthz?verbose&exclude={group}&exclude=none HTTP/1.1\r\nHost: a\r\n\r\n");
    let tx = responder.response_bytes_max(&limits);
    let mut wire = Wire::new(&responder, None, tx).limits(limits);
    wire.receive(request.as_bytes());
    let answers = answers(request.as_bytes(), &wire.outcome().sent).unwrap();
    assert_eq!(answers[0].status, 200);
    let body = std::str::from_utf8(&answers[0].body).unwrap();
    let lines = format!(" excluded with {group}: ok\n");
    assert_eq!(body.matches(&lines).count(), checks.len());
}

/// The bound counts every byte of the longest answer. What remains is room for a query and a head. The line of
/// a warning is longer than that of an error.
#[test]
fn the_maximum_answer_size_is_its_lines_plus_a_query_and_a_head() {
    assert_bound_is_exact(Severity::Error, 500);
    assert_bound_is_exact(Severity::Warning, 200);
}

fn assert_bound_is_exact(severity: Severity, status: u16) {
    let group: &'static str = "g".repeat(100).leak();
    let check = |name: String| Check::manual(name.leak()).with_severity(severity);
    let of_each_kind = |number: usize| {
        [
            check(format!("fails-{number}")),
            check(format!("fails-in-a-small-group-{number}")).group("g"),
            check(format!("is-excluded-with-its-group-{number}")).group(group),
            check(format!(
                "is-excluded-with-its-group-and-has-a-long-name-{number}"
            ))
            .group(group),
        ]
    };
    let checks: Vec<&'static Check> = (0..20)
        .flat_map(of_each_kind)
        .map(|check| &*Box::leak(Box::new(check)))
        .collect();
    let checks: &'static [&'static Check] = checks.leak();
    let responder = Responder::new(Box::leak(Box::new([Endpoint::new("/healthz", checks)])));
    let limits = Limits {
        request_head_bytes: REQUEST_HEAD_BYTES_MIN,
        ..Limits::DEFAULT
    };
    let target = format!("/healthz?verbose&exclude={group}&exclude=none");
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let bound = responder.response_bytes_max(&limits);
    let mut wire = Wire::new(&responder, None, bound).limits(limits);
    wire.receive(request.as_bytes());
    let answers = answers(request.as_bytes(), &wire.outcome().sent).unwrap();
    assert_eq!(answers[0].status, status);
    let query = TARGET_EXPANSION_MAX * limits.request_head_bytes;
    let lines = answers[0].body.len() - "\"none\"".len();
    assert_eq!(bound, lines + query + RESPONSE_HEAD_BYTES_MAX);
}

/// A server without endpoints sends redirects, and its response buffer needs no room for a check report.
#[test]
fn the_maximum_redirect_size_is_its_target_plus_a_head() {
    let responder = Responder::new(&[]);
    let limits = Limits {
        request_head_bytes: 1024,
        ..Limits::DEFAULT
    };
    let target = "//".to_owned() + &"&".repeat(REDIRECT_NOTE_TARGET_BYTES_MAX - 3);
    let request = format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let has_room = |tx: &usize| {
        let mut wire = Wire::new(&responder, None, *tx).limits(limits);
        wire.receive(request.as_bytes());
        statuses(request.as_bytes(), &wire.outcome()) == [307]
    };
    let bound = responder.response_bytes_max(&limits);
    assert!(has_room(&bound));
    let least = (1000..bound).step_by(8).find(has_room).unwrap();
    assert!(
        bound - least < RESPONSE_HEAD_BYTES_MAX,
        "{least} of {bound}"
    );
}

/// Same as Go's net/http, which writes the note only in answers to GET and HEAD.
#[test]
fn a_redirect_has_a_note_for_get_and_head_only() {
    let responder = kubelet();
    for (method, has_note) in [
        ("GET", true),
        ("HEAD", true),
        ("POST", false),
        ("OPTIONS", false),
        ("PUT", false),
    ] {
        let request = format!("{method} //healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut wire = wire(&responder);
        wire.receive(request.as_bytes());
        let answers = answers(request.as_bytes(), &wire.outcome().sent).unwrap();
        assert_eq!(answers[0].status, 307);
        let length = answers[0].field("content-length").unwrap();
        assert_eq!(length != "0", has_note, "{method}: {length}");
    }
}

/// RFC 9112 section 3 recommends request lines of at least 8,000 bytes. Go drains bodies of up to 256 KiB.
#[test]
fn the_default_limits_accept_request_lines_of_8000_bytes_and_bodies_of_256_kib() {
    let responder = kubelet();
    let exchange = |request: &str| {
        let mut wire = wire(&responder);
        wire.receive(request.as_bytes());
        let outcome = wire.outcome();
        (statuses(request.as_bytes(), &outcome), outcome.end)
    };
    let query = "x".repeat(8000 - "GET /healthz? HTTP/1.1\r\n".len());
    let request = format!("GET /healthz?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(exchange(&request), (vec![200], End::Open));
    for (length, end) in [(256 * 1024, End::Open), (256 * 1024 + 1, End::Closed)] {
        let head = format!("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(exchange(&head), (vec![200], end), "{length}");
    }
}

#[test]
fn an_endpoint_passes_while_all_its_checks_pass() {
    let (disk, loads) = (Check::manual("disk"), Check::manual("loads"));
    let checks = [&disk, &loads];
    let endpoint = Endpoint::new("/healthz", &checks);
    let passes = || endpoint.passes(Instant::ZERO);
    assert!(!passes());
    disk.pass();
    assert!(!passes());
    loads.pass();
    assert!(passes());
    disk.fail("full");
    assert!(!passes());
    assert!(Endpoint::new("/healthz", &[]).passes(Instant::ZERO));
}

#[test]
fn the_longest_endpoint_path_is_a_slash_and_the_longest_check_name() {
    let longest: &'static str = ("/".to_owned() + &"n".repeat(CHECK_NAME_BYTES_MAX)).leak();
    assert_eq!(Endpoint::new(longest, &[]).path(), longest);
    let longer: &'static str = (longest.to_owned() + "n").leak();
    assert!(std::panic::catch_unwind(|| Endpoint::new(longer, &[])).is_err());
}

#[test]
fn debug_output_has_the_name_of_a_check_and_the_text_of_a_reason() {
    let check = Check::manual("disk");
    assert!(format!("{check:?}").contains("disk"));
    check.fail("99 % \"full\"");
    let reason = check.reason(Instant::ZERO).unwrap();
    assert_eq!(format!("{reason:?}"), r#""99 % \"full\"""#);
}

/// RFC 9112 section 9.3: by default, an HTTP/1.1 connection stays open and an HTTP/1.0 connection is closed.
#[test]
fn an_answer_has_a_connection_field_only_if_it_differs_from_the_default_of_the_version() {
    let responder = kubelet();
    const CHUNKED: &str = "Transfer-Encoding: chunked";
    for (version, fields, body, connection, end) in [
        ("1.1", "", "", None, End::Open),
        ("1.1", "Connection: keep-alive", "", None, End::Open),
        ("1.1", "Connection: close", "", Some("close"), End::Closed),
        ("1.1", "Content-Length: 1", "x", None, End::Open),
        (
            "1.1",
            "Content-Length: 999999",
            "",
            Some("close"),
            End::Closed,
        ),
        ("1.1", CHUNKED, "0\r\n\r\n", None, End::Open),
        ("1.0", "", "", Some("close"), End::Closed),
        (
            "1.0",
            "Connection: keep-alive",
            "",
            Some("keep-alive"),
            End::Open,
        ),
        (
            "1.0",
            "Connection: close, keep-alive",
            "",
            Some("close"),
            End::Closed,
        ),
        ("1.0", CHUNKED, "0\r\n\r\n", Some("close"), End::Closed),
    ] {
        for target in [
            "/healthz",
            "/healthz/ping",
            "/healthz?verbose",
            "//healthz",
            "/none",
        ] {
            let request =
                format!("GET {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n\r\n{body}");
            let request = request.replace("\r\n\r\n\r\n", "\r\n\r\n");
            let mut wire = wire(&responder);
            wire.receive(request.as_bytes());
            let outcome = wire.outcome();
            let answers = answers(request.as_bytes(), &outcome.sent).unwrap();
            assert_eq!(answers[0].field("connection"), connection, "{request}");
            assert_eq!((answers.len(), outcome.end), (1, end), "{request}");
        }
    }
}

/// RFC 9110 section 7.2, RFC 3986 section 3.2.2, RFC 6874 section 2.
#[test]
fn a_host_is_a_name_or_an_address_in_brackets_and_a_port() {
    let responder = kubelet();
    for (host, status) in [
        ("[::1]", 200),
        ("[::1]:80", 200),
        ("[fe80::1%25eth0]:80", 200),
        ("[v1.a:b]", 200),
        ("a[::1]", 400),
        ("a[::1]:80", 400),
        ("[::1]a", 400),
        ("[fe80::1%25a%41]", 400),
        ("[fe80::1%25a/b]", 400),
        ("[fe80::1%25a b]", 400),
    ] {
        for request in [
            format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET http://{host}/healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            let mut wire = wire(&responder);
            wire.receive(request.as_bytes());
            let outcome = wire.outcome();
            assert_eq!(
                statuses(request.as_bytes(), &outcome),
                [status],
                "{request}"
            );
        }
    }
}

/// Regression: Node sends a scoped address as it is typed, with a raw zone, and got 400. In a URI the zone must be
/// encoded.
#[test]
fn a_zone_after_a_raw_percent_sign_is_accepted_in_host_only() {
    let responder = kubelet();
    for (request, status) in [
        ("GET /healthz HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n", 200),
        (
            "GET http://[fe80::1%eth0]/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        // Either a raw zone named 25, or an encoded zone without a name.
        ("GET /healthz HTTP/1.1\r\nHost: [fe80::1%25]\r\n\r\n", 200),
        (
            "GET http://[fe80::1%25]/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
    ] {
        let mut wire = wire(&responder);
        wire.receive(request.as_bytes());
        let outcome = wire.outcome();
        assert_eq!(statuses(request.as_bytes(), &outcome), [status]);
    }
}

/// For embedders that write their own answers.
#[test]
fn a_body_writer_keeps_the_pieces_before_the_first_one_that_does_not_fit() {
    let mut buffer = [0; 8];
    let mut text = BodyWriter::new(&mut buffer);
    assert!(text.is_empty());
    text.push(b"abc");
    text.push_number(0);
    text.push_number(907);
    assert_eq!((text.as_bytes(), text.len()), (&b"abc0907"[..], 7));
    assert!(!text.is_empty());
    text.push(b"de");
    text.push(b"f");
    assert_eq!(text.as_bytes(), b"abc0907");
    text.truncate(9);
    assert_eq!(text.as_bytes(), b"abc0907");
    text.truncate(2);
    assert_eq!(text.as_bytes(), b"ab");
    text.truncate(0);
    assert!(text.is_empty());
}

#[test]
fn a_status_has_a_code_and_a_reason_phrase() {
    let statuses = [StatusCode::OK, StatusCode::NOT_FOUND].map(|one| (one.code(), one.phrase()));
    assert_eq!(statuses, [(200, "OK"), (404, "Not Found")]);
}

/// The parser compares the lengths of field names first.
#[test]
fn an_unknown_field_with_the_length_of_a_known_one_is_ignored() {
    let responder = kubelet();
    for field in [
        "Date: a",
        "Cookie: x",
        "User-Agent: close",
        "User-Agent: keep-alive",
        "Content-Length: 0\r\nAccept-Charset: 1",
        "Accept-Charset: x",
        "If-Modified-Since: chunked",
        "If-Modified-Since: x",
    ] {
        for (head, end) in [
            ("GET /healthz HTTP/1.1\r\nHost: a\r\n", End::Open),
            ("GET /healthz HTTP/1.0\r\n", End::Closed),
        ] {
            let request = format!("{head}{field}\r\n\r\n");
            let mut wire = wire(&responder);
            wire.receive(request.as_bytes());
            let outcome = wire.outcome();
            assert_eq!(statuses(request.as_bytes(), &outcome), [200], "{request}");
            assert_eq!(outcome.end, end, "{request}");
        }
    }
}

/// An operator that sends a request by hand can read in the answer what to correct.
#[test]
fn a_refusal_names_the_part_of_the_request_that_is_wrong() {
    let responder = kubelet();
    let fields = "X: y\r\n".repeat(FIELDS_MAX);
    for (request, status, part) in [
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\nX y\r\n\r\n",
            400,
            "field name",
        ),
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            400,
            "field value",
        ),
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n",
            400,
            "field value",
        ),
        (
            "GET /healthz HTTP/1.1\rHost: a\r\n\r\n",
            400,
            "line does not end",
        ),
        ("GET /healthz HTTP/1.1\nHost: a\r\n\r\n", 400, "LF"),
        ("GET /healthz HTTP/x.1\r\nHost: a\r\n\r\n", 400, "version"),
        ("GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP/1.1"),
        ("GET /healthz\r\nHost: a\r\n\r\n", 400, "request line"),
        (
            "GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "request line",
        ),
        (
            "G@T /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "request line",
        ),
        ("GET healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
        (
            "GET /healthz HTTP/1.1\r\n\r\n",
            400,
            "Host field is missing",
        ),
        (
            "GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "Host field",
        ),
        (
            "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            400,
            "two Host",
        ),
        (
            "GET /healthz HTTP/1.0\r\nContent-Length: x\r\n\r\n",
            400,
            "Content-Length",
        ),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501, "proxy"),
        ("\r\n\n\r\n\n\r\n\n\r\n\n\n", 400, "no request line"),
        (
            &format!("GET /healthz HTTP/1.0\r\n{fields}Y: z\r\n\r\n"),
            431,
            "more fields",
        ),
        (
            &format!("GET /healthz HTTP/1.2\r\nHost: a\r\n{fields}\r\n"),
            431,
            "more fields",
        ),
    ] {
        let mut wire = wire(&responder);
        wire.receive(request.as_bytes());
        let outcome = wire.outcome();
        let answers = answers(request.as_bytes(), &outcome.sent).unwrap();
        let text = std::str::from_utf8(&answers[0].body).unwrap();
        let is_right = answers[0].status == status && text.contains(part);
        assert!(is_right, "{}: {text}", request.escape_debug());
        // The body starts with the code and phrase of the status line.
        let line = outcome.sent.split(|byte| *byte == b'\r').next().unwrap();
        let line = std::str::from_utf8(line).unwrap();
        let code_and_phrase = line.strip_prefix("HTTP/1.1 ").unwrap();
        assert!(text.starts_with(&format!("{code_and_phrase}: ")), "{text}");
    }
}

/// Regression: a lone CR, which may be half of an empty line, counted as a started head and got a 408.
#[test]
fn a_lone_cr_before_a_request_gets_no_408() {
    let responder = kubelet();
    let limits = Limits::DEFAULT;
    for (sent, statuses_expected) in [
        (&b"\r"[..], &[][..]),
        (b"\r\n\r", &[]),
        (b"\n\r", &[]),
        (
            b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\r",
            &[200],
        ),
        // A letter starts a head.
        (b"\r\nG", &[408]),
    ] {
        let mut wire = wire(&responder);
        wire.receive(sent);
        wire.pass(limits.head_duration);
        assert_eq!(wire.end(), End::Closed, "{}", sent.escape_ascii());
        let outcome = wire.outcome();
        let got = statuses(sent, &outcome);
        assert_eq!(got, statuses_expected, "{}", sent.escape_ascii());
    }
}

/// Regression: a CR after the maximum number of empty lines was not refused until more bytes arrived.
#[test]
fn a_cr_after_the_maximum_number_of_empty_lines_is_refused_at_once() {
    let responder = kubelet();
    let max = usize::from(LEADING_EMPTY_LINES_MAX);
    for line in ["\r\n", "\n"] {
        for (count, end) in [(max - 1, End::Open), (max, End::Closed)] {
            let sent = line.repeat(count) + "\r";
            let mut wire = wire(&responder);
            wire.receive(sent.as_bytes());
            let outcome = wire.outcome();
            let refused: &[u16] = if end == End::Closed { &[400] } else { &[] };
            assert_eq!(statuses(sent.as_bytes(), &outcome), refused, "{count}");
            assert_eq!(outcome.end, end, "{count}");
        }
    }
}

/// RFC 9110 section 10.1.1: an expectation in HTTP/1.0 must be ignored.
#[test]
fn expect_is_ignored_in_http_1_0() {
    let responder = kubelet();
    for expectation in ["100-continue", "x", ""] {
        let exchange = |head: &str| {
            let request = format!(
                "{head}Connection: keep-alive\r\nContent-Length: 1\r\nExpect: {expectation}\r\n\r\nx"
            );
            let mut wire = wire(&responder);
            wire.receive(request.as_bytes());
            let outcome = wire.outcome();
            (statuses(request.as_bytes(), &outcome), outcome.end)
        };
        let old = exchange("POST /healthz HTTP/1.0\r\n");
        assert_eq!(old, (vec![200], End::Open), "{expectation:?}");
        let expected = match expectation {
            "100-continue" => (vec![200], End::Closed),
            "" => (vec![200], End::Open),
            _ => (vec![417], End::Closed),
        };
        let new = exchange("POST /healthz HTTP/1.1\r\nHost: a\r\n");
        assert_eq!(new, expected, "{expectation:?}");
    }
}

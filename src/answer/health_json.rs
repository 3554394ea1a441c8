//! The answer of a health endpoint as JSON, in the form of draft-inadarei-api-health-check-06.
//!
//! Knows the checks of one endpoint. Knows no path and no method: [`super`] calls [`root`] for an endpoint and
//! [`single`] for one check, if a local client asks for this form and nothing else. A local client also gets the
//! reasons, which the text withholds.
//!
//! The body is one object on one line, with these members in this order. Those marked `*` are not in the draft.
//!
//! | member | value | left out |
//! |---|---|---|
//! | `status` | `fail` if the text would have status 500, else `warn` if a check of severity warning fails, else `pass` | |
//! | `releaseId` | the version of healthz | |
//! | `description` | the path | |
//! | `listeners` * | an array of URLs that the server listens on | if they are not known |
//! | `checks` | an object: the name of a check, and an array with one object | |
//!
//! The object of a check:
//!
//! | member | value | left out |
//! |---|---|---|
//! | `status` | `pass`; or `fail`, or `warn` if the severity is warning | |
//! | `severity` * | `error` or `warning` | |
//! | `group` * | its group | without a group |
//! | `excluded` * | `true`: `?exclude` names the check or its group, and its status does not count | if it counts |
//! | `since` * | when the last change of its status was noticed | if there was none |
//! | `time` | when the answer was made | without a wall clock |
//! | `lastBeat` * | the time of its last beat | if it is not a heartbeat, and before the first beat |
//! | `output` | the reason of the failure | if it passes |
//! | `runs` * | an object: how many runs had the result `success`, `failure` and `timeout` | if no run was recorded |
//! | `lastRunSeconds` * | how long the last run took | if no run was recorded |
//!
//! Times are in UTC as RFC 3339 writes them, in whole seconds.

use super::excludes::{Exclude, Excludes};
use super::healthz;
use crate::check::{Check, Endpoint, Severity};
use crate::http::{
    Answer, BodyWriter, BufferFull, Fields, Request, StatusCode, TIME_BYTES, Writer,
};
use crate::limits::{CHECK_NAME_BYTES_MAX, EXCLUDES_MAX, REASON_BYTES_MAX};
use crate::time::Instant;

/// The answer of `/healthz`.
// Not inlined: the array takes 6 KiB of stack, which other requests do not need.
#[inline(never)]
pub(super) fn root(
    endpoint: &Endpoint<'_>,
    now: Instant,
    listeners: &[&str],
    request: &Request<'_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    let mut found = [Exclude::default(); EXCLUDES_MAX];
    let query = request.target().query().unwrap_or_default();
    let mut excludes = Excludes::new(query, &mut found);
    if excludes.insert_all(request.target()).is_err() {
        return healthz::too_many_excludes(writer);
    }
    let unix_seconds = writer.unix_seconds();
    let about = About {
        path: endpoint.path(),
        name: None,
        listeners,
    };
    let checks = endpoint.checks().filter(|check| check.is_listed(now));
    let answer = object(about, checks, now, &excludes, writer)?;
    // Counted only now, because an answer that does not fit is written again later.
    for check in endpoint.checks() {
        if excludes.exclusion(check).is_none() {
            check.count_result(endpoint.endpoint_type(), now, unix_seconds);
        }
    }
    Ok(answer)
}

/// The answer of `/healthz/NAME`.
pub(super) fn single(
    endpoint: &Endpoint<'_>,
    check: &Check,
    now: Instant,
    listeners: &[&str],
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    let about = About {
        path: endpoint.path(),
        name: Some(check.name_bytes()),
        listeners,
    };
    let checks = core::iter::once(check);
    object(about, checks, now, &Excludes::none(), writer)
}

/// The members of an answer besides the checks.
struct About<'a> {
    path: &'a str,
    /// The name of the only check.
    name: Option<&'a [u8]>,
    listeners: &'a [&'a str],
}

/// Bytes of the longest body that [`root`] and [`single`] write about `endpoint`.
pub(super) fn bytes_max(endpoint: &Endpoint<'_>, listeners: &[&str]) -> usize {
    let checks = endpoint.checks().map(|check| {
        let group = check.group_bytes().map_or(0, <[u8]>::len);
        check_bytes_max(check.name_bytes().len(), group)
    });
    let checks: usize = checks.sum();
    let names = endpoint.checks().map(|check| check.name_bytes().len());
    let path = endpoint.path().len() + "/".len() + names.max().unwrap_or(0);
    checks.saturating_add(rest_bytes_max(path, listeners))
}

/// Bytes of the longest body about any endpoint with this many checks; `usize::MAX` if the sum overflows.
pub(super) fn bytes_of(checks: usize, listeners: &[&str]) -> usize {
    let longest = check_bytes_max(CHECK_NAME_BYTES_MAX, CHECK_NAME_BYTES_MAX);
    let rest = rest_bytes_max(2 * ("/".len() + CHECK_NAME_BYTES_MAX), listeners);
    checks.saturating_mul(longest).saturating_add(rest)
}

/// Bytes of everything but the checks, for a path of this length.
fn rest_bytes_max(path_bytes: usize, listeners: &[&str]) -> usize {
    let members = [STATUS, RELEASE, DESCRIPTION, LISTENERS, CHECKS];
    let members: usize = members.iter().map(|member| member.len()).sum();
    // After each URL comes a comma or the end of the array.
    let listeners = listeners
        .iter()
        .map(|url| "\"\",".len() + url.bytes().map(escaped_bytes).sum::<usize>());
    let listeners: usize = listeners.sum();
    let texts = "pass".len() + VERSION.len() + path_bytes;
    members + texts + 3 * "\"".len() + listeners + "}}".len()
}

/// Bytes of a check with a name and a group of these lengths, and of the comma after it.
const fn check_bytes_max(name_bytes: usize, group_bytes: usize) -> usize {
    let group = match group_bytes {
        0 => 0,
        bytes => GROUP.len() + bytes + "\"".len(),
    };
    let times = SINCE.len() + TIME.len() + LAST_BEAT.len() + 3 * (TIME_BYTES + "\"".len());
    let members = STATE.len() + SEVERITY.len() + EXCLUDED.len() + OUTPUT.len();
    let texts = "pass".len() + "warning".len() + REASON_BYTES_MAX * ESCAPED_BYTES_MAX;
    let runs = RUNS.len() + FAILURES.len() + TIMEOUTS.len() + LAST_RUN.len() + ".000000".len();
    let numbers = 4 * NUMBER_BYTES_MAX;
    let quotes = 4 * "\"".len();
    name_bytes + group + members + texts + quotes + times + runs + numbers + "}],".len()
}

const QUOTE: &[u8] = b"\"";
const VERSION: &str = env!("CARGO_PKG_VERSION");

// The beginnings of members; the value follows.
const STATUS: &[u8] = b"{\"status\":\"";
const RELEASE: &[u8] = b",\"releaseId\":\"";
const DESCRIPTION: &[u8] = b",\"description\":\"";
const LISTENERS: &[u8] = b",\"listeners\":[";
const CHECKS: &[u8] = b",\"checks\":{";
// The end of the name of a check, and the beginning of its object.
const STATE: &[u8] = b"\":[{\"status\":\"";
const SEVERITY: &[u8] = b",\"severity\":\"";
const GROUP: &[u8] = b",\"group\":\"";
const EXCLUDED: &[u8] = b",\"excluded\":true";
const SINCE: &[u8] = b",\"since\":\"";
const TIME: &[u8] = b",\"time\":\"";
const LAST_BEAT: &[u8] = b",\"lastBeat\":\"";
const OUTPUT: &[u8] = b",\"output\":\"";
const RUNS: &[u8] = b",\"runs\":{\"success\":";
const FAILURES: &[u8] = b",\"failure\":";
const TIMEOUTS: &[u8] = b",\"timeout\":";
const LAST_RUN: &[u8] = b"},\"lastRunSeconds\":";
/// `u64::MAX`
const NUMBER_BYTES_MAX: usize = u64::MAX.ilog10() as usize + 1;
/// `\u0000`, the longest form of one byte of a reason.
const ESCAPED_BYTES_MAX: usize = 6;

/// In ascending order, as the worst one counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Pass,
    Warn,
    Fail,
}

impl Status {
    /// All have the same length, so that one can replace another.
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Status::Pass => b"pass",
            Status::Warn => b"warn",
            Status::Fail => b"fail",
        }
    }
}

fn object<'c>(
    about: About<'_>,
    checks: impl Iterator<Item = &'c Check>,
    now: Instant,
    excludes: &Excludes<'_, '_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    let time = writer.unix_seconds();
    writer.rendered(Fields::HealthJson, |body| {
        body.push(STATUS);
        let status_at = body.len();
        for piece in [
            Status::Pass.as_bytes(),
            QUOTE,
            RELEASE,
            VERSION.as_bytes(),
            QUOTE,
            DESCRIPTION,
            about.path.as_bytes(),
        ] {
            body.push(piece);
        }
        if let Some(name) = about.name {
            body.push(b"/");
            body.push(name);
        }
        body.push(QUOTE);
        let mut before = LISTENERS;
        for url in about.listeners {
            body.push(before);
            body.push(QUOTE);
            push_escaped(url, body);
            body.push(QUOTE);
            before = b",";
        }
        if !about.listeners.is_empty() {
            body.push(b"]");
        }
        body.push(CHECKS);
        let mut worst = Status::Pass;
        let mut separator: &[u8] = b"";
        for check in checks {
            body.push(separator);
            separator = b",";
            worst = worst.max(write_check(check, now, time, excludes, body));
        }
        body.push(b"}}");
        // Each check is loaded once, so that its status and that of the endpoint agree. So the status of the endpoint
        // is known only after the last check.
        body.overwrite(status_at, worst.as_bytes());
        match worst {
            Status::Fail => StatusCode::INTERNAL_SERVER_ERROR,
            Status::Pass | Status::Warn => StatusCode::OK,
        }
    })
}

/// Writes a check. Returns its part in the status of the endpoint.
fn write_check(
    check: &Check,
    now: Instant,
    time: Option<u64>,
    excludes: &Excludes<'_, '_>,
    body: &mut BodyWriter<'_>,
) -> Status {
    // Before the state is loaded, so that the change to it is known.
    check.observe(now, time);
    // The state and the reason are loaded together, so that they agree.
    let reason = check.reason(now);
    let (severity, failing) = match check.severity() {
        Severity::Error => (&b"error"[..], Status::Fail),
        Severity::Warning => (&b"warning"[..], Status::Warn),
    };
    let status = match reason {
        None => Status::Pass,
        Some(_) => failing,
    };
    for piece in [
        QUOTE,
        check.name_bytes(),
        STATE,
        status.as_bytes(),
        QUOTE,
        SEVERITY,
        severity,
        QUOTE,
    ] {
        body.push(piece);
    }
    if let Some(group) = check.group_bytes() {
        for piece in [GROUP, group, QUOTE] {
            body.push(piece);
        }
    }
    let is_excluded = excludes.exclusion(check).is_some();
    if is_excluded {
        body.push(EXCLUDED);
    }
    let last_beat = check.last_beat_unix_seconds(now, time);
    for (member, time) in [
        (SINCE, check.last_change()),
        (TIME, time),
        (LAST_BEAT, last_beat),
    ] {
        if let Some(time) = time {
            body.push(member);
            body.push_time(time);
            body.push(QUOTE);
        }
    }
    if let Some(reason) = reason {
        body.push(OUTPUT);
        push_escaped(reason.as_str(), body);
        body.push(QUOTE);
    }
    if let Some(runs) = check.runs() {
        for (member, count) in [
            (RUNS, runs.success),
            (FAILURES, runs.failure),
            (TIMEOUTS, runs.timeout),
        ] {
            body.push(member);
            body.push_number(count);
        }
        body.push(LAST_RUN);
        body.push_number(runs.last_duration.as_secs());
        body.push(b".");
        body.push_padded(runs.last_duration.subsec_micros().into(), 6);
    }
    body.push(b"}]");
    match is_excluded {
        true => Status::Pass,
        false => status,
    }
}

/// Appends `text` as the inside of a JSON string (RFC 8259 section 7).
fn push_escaped(text: &str, body: &mut BodyWriter<'_>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| escaped_bytes(*byte) > 1) {
        let (plain, escaped) = rest.split_at_checked(at).unwrap_or_default();
        body.push(plain);
        let Some((byte, after)) = escaped.split_first() else {
            return;
        };
        match byte {
            b'"' => body.push(b"\\\""),
            b'\\' => body.push(b"\\\\"),
            b'\n' => body.push(b"\\n"),
            b'\r' => body.push(b"\\r"),
            b'\t' => body.push(b"\\t"),
            byte => {
                body.push(b"\\u00");
                for digit in [byte >> 4, byte & 0xf] {
                    let digit = char::from_digit(u32::from(digit), 16);
                    body.push(&[digit.map_or(b'0', |digit| digit as u8)]);
                }
            }
        }
        rest = after;
    }
    body.push(rest);
}

/// How many bytes [`push_escaped`] writes for `byte`.
const fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => ESCAPED_BYTES_MAX,
        _ => 1,
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[allow(clippy::string_slice, reason = "a test fails by panicking")]
mod tests {
    use core::time::Duration;
    use std::format;
    use std::string::{String, ToString};
    use std::vec;

    use serde_json::{Value, json};

    use super::*;
    use crate::Responder;
    use crate::check::RunResult;
    use crate::http::{Connection, Context, Date};
    use crate::limits::{Limits, RESPONSE_HEAD_BYTES_MAX};

    const NOW: Instant = Instant::from_millis(100_000);
    /// 2026-11-29T02:50:00Z
    const UNIX_SECONDS: u64 = 1_795_920_600;

    /// Status line and fields, and the body, in a buffer of this size.
    fn answer_in(
        responder: &Responder<'_>,
        request: &str,
        date: Option<&Date>,
        bytes: usize,
    ) -> (String, String) {
        let context = Context {
            now: NOW,
            date,
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 0,
        };
        let mut tx = vec![0; bytes];
        let request =
            format!("{request} HTTP/1.1\r\nHost: a\r\nAccept: application/health+json\r\n\r\n");
        let progress = Connection::new(NOW).receive(
            &context,
            request.as_bytes(),
            &mut tx,
            &mut |request, writer| {
                assert!(request.accepts_health_json());
                responder.respond_health_json(NOW, request, writer)
            },
        );
        tx.truncate(progress.written);
        let text = String::from_utf8_lossy(&tx);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        (head.into(), body.into())
    }

    fn answer(responder: &Responder<'_>, request: &str) -> (String, Value) {
        let date = Date::from_unix_seconds(UNIX_SECONDS);
        let bytes = responder.health_json_bytes_max();
        let (head, body) = answer_in(responder, request, Some(&date), bytes);
        // A body that is not valid has no member that a test expects.
        (head, serde_json::from_str(&body).unwrap_or_default())
    }

    #[test]
    fn the_answer_has_the_form_of_the_draft() {
        let ping = Check::ping();
        let disk = Check::manual("disk").group("storage");
        let worker = Check::heartbeat("worker", Duration::from_secs(30))
            .with_severity(Severity::Warning)
            .overdue_since("no heartbeat");
        disk.pass();
        disk.observe(NOW, Some(UNIX_SECONDS - 120));
        disk.fail("/var: 3.1% free, needs 10%");
        disk.observe(NOW, Some(UNIX_SECONDS - 109));
        disk.record_run(RunResult::Success, Duration::from_secs(1));
        disk.record_run(RunResult::Failure, Duration::from_micros(3_004_050));
        worker.beat(Instant::from_millis(59_000));
        let checks = [&ping, &disk, &worker];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints)
            .with_listeners(&["http://127.0.0.1:10248", "http://[::1]:10248"]);
        let date = Date::from_unix_seconds(UNIX_SECONDS);
        let (head, body) = answer_in(&responder, "GET /healthz", Some(&date), 4096);
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/health+json\r\n\
                 X-Content-Type-Options: nosniff\r\nVary: Accept\r\nDate: Sun, 29 Nov 2026 02:50:00 GMT\r\n\
                 Content-Length: {}",
                body.len()
            )
        );
        let version = env!("CARGO_PKG_VERSION");
        let want = [
            r#"{"status":"fail","releaseId":"#,
            &format!("\"{version}\""),
            r#","description":"/healthz","listeners":["http://127.0.0.1:10248","http://[::1]:10248"],"checks":{"#,
            r#""ping":[{"status":"pass","severity":"error","time":"2026-11-29T02:50:00Z"}],"#,
            r#""disk":[{"status":"fail","severity":"error","group":"storage","since":"2026-11-29T02:48:11Z","#,
            r#""time":"2026-11-29T02:50:00Z","output":"/var: 3.1% free, needs 10%","#,
            r#""runs":{"success":1,"failure":1,"timeout":0},"lastRunSeconds":3.004050}],"#,
            r#""worker":[{"status":"warn","severity":"warning","since":"2026-11-29T02:50:00Z","#,
            r#""time":"2026-11-29T02:50:00Z","lastBeat":"2026-11-29T02:49:19Z","#,
            r#""output":"no heartbeat for 41 s"}]}}"#,
        ];
        assert_eq!(body, want.concat());
    }

    #[test]
    fn a_single_check_is_the_same_object_with_one_check() {
        let (disk, fan) = (
            Check::manual("disk"),
            Check::manual("fan").with_severity(Severity::Warning),
        );
        let checks = [&disk, &fan];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints);
        for (name, line, status) in [
            ("disk", "HTTP/1.1 500 Internal Server Error", "fail"),
            ("fan", "HTTP/1.1 200 OK", "warn"),
        ] {
            let (head, value) = answer(&responder, &format!("GET /healthz/{name}"));
            assert_eq!(head.lines().next(), Some(line));
            assert_eq!(value["status"], status);
            assert_eq!(value["description"], format!("/healthz/{name}"));
            assert_eq!(value["checks"].as_object().unwrap().len(), 1);
            assert_eq!(value["checks"][name][0]["status"], status);
            assert_eq!(value["checks"][name][0]["output"], "not reported yet");
            assert_eq!(value["listeners"], Value::Null);
        }
        disk.pass();
        fan.pass();
        let (head, value) = answer(&responder, "GET /healthz/disk");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(value["checks"]["disk"][0]["output"], Value::Null);
        // The answer of an unknown name is the text.
        let date = Date::from_unix_seconds(UNIX_SECONDS);
        let (head, body) = answer_in(&responder, "GET /healthz/nope", Some(&date), 4096);
        assert!(head.starts_with("HTTP/1.1 404 "));
        assert_eq!(body, "404 page not found\n");
    }

    #[test]
    fn an_excluded_check_keeps_its_status_and_does_not_count() {
        let disk = Check::manual("disk").group("storage");
        let net = Check::manual("net");
        let checks = [&disk, &net];
        let endpoints = [Endpoint::new("/readyz", &checks)];
        let responder = Responder::new(&endpoints);
        net.pass();
        for query in [
            "exclude=disk",
            "exclude=storage",
            "verbose&exclude=%64isk&exclude=none",
        ] {
            let (head, value) = answer(&responder, &format!("GET /readyz?{query}"));
            assert!(head.starts_with("HTTP/1.1 200 "), "{query}");
            assert_eq!(value["status"], "pass");
            assert_eq!(value["checks"]["disk"][0]["status"], "fail");
            assert_eq!(value["checks"]["disk"][0]["excluded"], true);
            assert_eq!(value["checks"]["net"][0]["excluded"], Value::Null);
        }
        net.fail("down");
        let (head, value) = answer(&responder, "GET /readyz?exclude=disk");
        assert!(head.starts_with("HTTP/1.1 500 "));
        assert_eq!(value["status"], "fail");
    }

    #[test]
    fn methods_are_those_of_the_text() {
        let ping = Check::ping();
        let checks = [&ping];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints);
        let (_, get) = answer(&responder, "GET /healthz");
        for method in ["POST", "OPTIONS"] {
            assert_eq!(answer(&responder, &format!("{method} /healthz")).1, get);
        }
        let date = Date::from_unix_seconds(UNIX_SECONDS);
        let answer = |request: &str| answer_in(&responder, request, Some(&date), 4096);
        let (get, get_body) = answer("GET /healthz");
        let (head, body) = answer("HEAD /healthz");
        assert_eq!((head, body.as_str()), (get.clone(), ""));
        assert!(get.ends_with(&format!("Content-Length: {}", get_body.len())));
        // All other answers are those of the text.
        for (request, status) in [
            ("PUT /healthz", "405"),
            ("GET //healthz", "307"),
            ("OPTIONS *", "200"),
            ("OPTIONS /", "200"),
            ("GET /", "404"),
        ] {
            let (head, _) = answer(request);
            assert_eq!(head.split(' ').nth(1), Some(status), "{request}");
            assert!(
                !head.contains("json") && !head.contains("Vary"),
                "{request}"
            );
        }
    }

    #[test]
    fn a_foreign_host_gets_no_json() {
        let ping = Check::ping();
        let checks = [&ping];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints).allow_hosts(&["localhost"]);
        let (head, body) = answer_in(&responder, "GET /healthz", None, 4096);
        assert!(head.starts_with("HTTP/1.1 421 ") && !body.contains("ping"));
    }

    #[test]
    fn any_reason_reads_back() {
        let all: String = (0..=0x7f_u8).map(char::from).collect();
        for reason in [
            "",
            "\"",
            "\\",
            "\\\"\\",
            &all,
            "\u{80}\u{7ff}\u{800}\u{2028}\u{2029}\u{fffd}\u{feff}\u{1f4a9}",
            "</script>\u{1b}[31m\r\n\t\u{8}\u{c}",
            &"\u{1}".repeat(REASON_BYTES_MAX),
            &"\u{1f4a9}".repeat(REASON_BYTES_MAX),
        ] {
            let check = Check::manual("a");
            check.fail(reason);
            let kept = check.reason(NOW).unwrap().as_str().to_string();
            let checks = [&check];
            let endpoints = [Endpoint::new("/healthz", &checks)];
            let (_, value) = answer(&Responder::new(&endpoints), "GET /healthz");
            assert_eq!(value["checks"]["a"][0]["output"], kept.as_str());
        }
    }

    #[test]
    fn without_a_wall_clock_an_answer_has_no_times() {
        let beat = Check::heartbeat("a", Duration::from_secs(1));
        beat.beat(NOW);
        beat.fail("x");
        let checks = [&beat];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let (head, body) = answer_in(&Responder::new(&endpoints), "GET /healthz", None, 4096);
        assert!(!head.contains("Date"));
        let value: Value = serde_json::from_str(&body).unwrap();
        let want = json!({"status": "fail", "severity": "error", "output": "x"});
        assert_eq!(value["checks"]["a"][0], want);
    }

    /// The longest answer differs from the bound only in the digits of numbers and in the head.
    #[test]
    fn the_bound_counts_every_byte_of_the_longest_answer() {
        let long = "n".repeat(CHECK_NAME_BYTES_MAX);
        let [first, second, third] =
            ["a", "b", "c"].map(|end| "n".repeat(CHECK_NAME_BYTES_MAX - 1) + end);
        let check = |name: &str, group: &str| {
            let check = Check::heartbeat(name, Duration::from_secs(1))
                .group(group)
                .with_severity(Severity::Warning);
            check.beat(NOW);
            check.observe(NOW, Some(1));
            check.fail(&"\u{1}".repeat(REASON_BYTES_MAX));
            check.observe(NOW, Some(2));
            check.record_run(RunResult::Timeout, Duration::from_secs(1));
            check
        };
        let (a, b) = (check(&first, &long), check(&second, &long));
        let checks = [&a, &b];
        let path = format!("/{third}");
        let endpoints = [Endpoint::new(&path, &checks)];
        let responder = Responder::new(&endpoints).with_listeners(&["http://a", "http://b:1"]);
        let date = Date::from_unix_seconds(UNIX_SECONDS);
        let bound = responder.health_json_bytes_max();
        let body = |target: &str| {
            let (_, body) = answer_in(&responder, &format!("GET {target}"), Some(&date), bound);
            body.len()
        };
        // 0, 0, 1 and 1.
        let digits = 4 * (NUMBER_BYTES_MAX - 1);
        let comma = ",".len();
        // The path of a single check is longer.
        let name = "/".len() + CHECK_NAME_BYTES_MAX;
        let longest = body(&format!("{path}?exclude={long}")) + name + 2 * digits + comma;
        assert_eq!(bound, longest + RESPONSE_HEAD_BYTES_MAX);
        // The answer about one of these checks has one check less, and is not excluded.
        let one = check_bytes_max(CHECK_NAME_BYTES_MAX, CHECK_NAME_BYTES_MAX);
        let single = body(&format!("{path}/{first}")) + EXCLUDED.len() + digits + comma;
        assert_eq!(bound, single + one + RESPONSE_HEAD_BYTES_MAX);
        // Any endpoints of the same size fit too.
        assert_eq!(responder.health_json_bytes_of(2), bound);
    }

    #[test]
    fn an_answer_is_written_whole_or_not_at_all() {
        let check = Check::manual("a");
        check.fail("x");
        let checks = [&check];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints);
        let (head, body) = answer_in(&responder, "GET /healthz", None, 4096);
        let size = head.len() + "\r\n\r\n".len() + body.len();
        let whole = answer_in(&responder, "GET /healthz", None, size);
        assert_eq!(whole, (head, body));
        // A server answers 500 then.
        let (head, _) = answer_in(&responder, "GET /healthz", None, size - 1);
        assert!(!head.contains("json"), "{head}");
    }

    #[test]
    fn a_listener_can_have_any_text() {
        let urls = ["unix:/run/\"a\\\u{1}\u{e9}", ""];
        let responder = Responder::new(&[]).with_listeners(&urls);
        let ping = Check::ping();
        let checks = [&ping];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let with_endpoints = Responder::new(&endpoints).with_listeners(&urls);
        let (_, value) = answer(&with_endpoints, "GET /healthz");
        assert_eq!(value["listeners"], json!(urls));
        let none = Responder::new(&[]);
        let bytes = r#""unix:/run/\"a\\\u0001","","#.len() + "\u{e9}".len();
        let [with, without] = [responder, none].map(|responder| responder.health_json_bytes_of(1));
        assert_eq!(with - without, bytes);
    }
}

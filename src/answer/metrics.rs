//! The metrics of checks, as text for Prometheus (text format 0.0.4).
//!
//! Knows the checks of all endpoints. Functions that the server and the program pass in write the other metrics.
//! [`super`] calls [`respond`] for `/metrics` and [`respond_slis`] for `/metrics/slis`.
//!
//! `kubernetes_healthcheck` and `kubernetes_healthchecks_total` are those of Kubernetes
//! (`k8s.io/component-base/metrics/prometheus/slis`), with one difference: Kubernetes sets the gauge when an endpoint
//! is requested, and here it is the state at the scrape. So an alert fires even without probes. The counter is
//! of requests for a whole endpoint, not of those that name one check; checks that a request excludes are not counted.

use super::{Paths, Responder};
use crate::check::{Check, Endpoint, EndpointType, Severity};
use crate::http::{Answer, BodyWriter, BufferFull, Fields, Padded, StatusCode, Writer};
#[cfg(feature = "server")]
use crate::limits::CHECK_NAME_BYTES_MAX;
use crate::limits::RESPONSE_HEAD_BYTES_MAX;
use crate::time::Instant;

/// The metrics that [`Responder::with_metrics`] switches on: those of the checks, and families of your own.
///
/// ```
/// use healthz::answer::{MetricType, Metrics, MetricsWriter};
/// use healthz::{Check, Endpoint, Responder};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// static PING: Check = Check::ping();
/// static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
/// static JOBS: AtomicU64 = AtomicU64::new(0);
///
/// fn families(text: &mut MetricsWriter<'_, '_>) {
///     text.family("worker_jobs_total", MetricType::Counter, "Jobs that were done.");
///     text.sample("worker_jobs_total", &[], JOBS.load(Ordering::Relaxed));
/// }
///
/// // The function writes at most 100 bytes.
/// let responder = Responder::new(&ENDPOINTS).with_metrics(Metrics::new().and(families, 100));
/// # let _ = responder;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    more: fn(&mut MetricsWriter<'_, '_>),
    more_bytes_max: usize,
}

impl Metrics {
    /// The metrics of the checks, and of the server if there is one.
    pub const fn new() -> Self {
        Metrics {
            more: |_| {},
            more_bytes_max: 0,
        }
    }

    /// Adds the families that `write` writes, at most `bytes_max` bytes. It is called for each request of `/metrics`,
    /// on the server's thread, so it must neither wait nor take long. If it writes more, the answer is a 500. A second
    /// call replaces the function of the first.
    #[must_use]
    pub const fn and(self, write: fn(&mut MetricsWriter<'_, '_>), bytes_max: usize) -> Self {
        Metrics {
            more: write,
            more_bytes_max: bytes_max,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// The type of a metric family in the text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// It only grows, or begins again at zero.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of values by size: its samples have the suffixes `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// Writes metrics in the text format. A piece that does not fit makes the answer a 500; see [`Metrics::and`].
#[derive(Debug)]
pub struct MetricsWriter<'w, 't> {
    body: &'w mut BodyWriter<'t>,
}

impl MetricsWriter<'_, '_> {
    /// Begins a family with its help text, which has one line without backslashes. All samples of a family follow each
    /// other.
    pub fn family(&mut self, name: &str, metric_type: MetricType, help: &str) {
        let metric_type: &[u8] = match metric_type {
            MetricType::Counter => b" counter\n",
            MetricType::Gauge => b" gauge\n",
            MetricType::Histogram => b" histogram\n",
        };
        let name = name.as_bytes();
        for piece in [
            b"# HELP ",
            name,
            b" ",
            help.as_bytes(),
            b"\n# TYPE ",
            name,
            metric_type,
        ] {
            self.body.push(piece);
        }
    }

    /// A sample with a whole number. Label values are escaped; names must be valid in the text format.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.labelled(name, labels);
        self.value(value);
    }

    /// A sample with a number of seconds that is given in nanoseconds.
    pub fn sample_seconds(&mut self, name: &str, labels: &[(&str, &str)], nanoseconds: u64) {
        self.labelled(name, labels);
        self.body.push(b" ");
        push_seconds(self.body, nanoseconds);
        self.body.push(b"\n");
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, &str)]) {
        self.body.push(name.as_bytes());
        let mut separator: &[u8] = b"{";
        for (name, value) in labels {
            self.body.push(separator);
            self.body.push(name.as_bytes());
            self.body.push(b"=\"");
            for piece in value.as_bytes().split_inclusive(|byte| is_escaped(*byte)) {
                match piece.split_last() {
                    Some((last, rest)) if is_escaped(*last) => {
                        self.body.push(rest);
                        self.body.push(match last {
                            b'\n' => b"\\n",
                            b'"' => b"\\\"",
                            _ => b"\\\\",
                        });
                    }
                    _ => self.body.push(piece),
                }
            }
            self.body.push(b"\"");
            separator = b",";
        }
        if !labels.is_empty() {
            self.body.push(b"}");
        }
    }

    fn value(&mut self, value: u64) {
        self.body.push(b" ");
        self.body.push_number(value);
        self.body.push(b"\n");
    }

    /// A sample of a check. `end` is what follows the name of the check, up to the value.
    #[inline]
    fn of_check(&mut self, family: &Family, check: &Check, end: &Piece, value: u64) {
        self.labelled_check(family, check, end);
        self.whole(value);
    }

    /// A sample of a check without its value. The name of a check needs no escaping.
    #[inline]
    fn labelled_check(&mut self, family: &Family, check: &Check, end: &Piece) {
        let (start, end) = (family.start.padded(), end.padded());
        self.body.push_parts(start, check.name_bytes(), end);
    }

    /// A whole number as the value of a sample.
    #[inline]
    fn whole(&mut self, value: u64) {
        if value < 10 {
            // Most are 0 or 1.
            return self.body.push(&[b'0' + value as u8, b'\n']);
        }
        self.body.push_number(value);
        self.body.push(b"\n");
    }

    fn begin(&mut self, family: &Family) {
        self.family(family.name, family.metric_type, family.help);
    }
}

const FAILURE: Piece = Piece::new(&["\",result=\"failure\"} "]);
const SUCCESS: Piece = Piece::new(&["\",result=\"success\"} "]);
const TIMEOUT: Piece = Piece::new(&["\",result=\"timeout\"} "]);
const ERROR: Piece = Piece::new(&["\",severity=\"error\"} "]);
const WARNING: Piece = Piece::new(&["\",severity=\"warning\"} "]);
const TYPE: &str = "\",type=\"";
const NO_LABEL: Piece = Piece::new(&["\"} "]);

fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'\\' | b'"' | b'\n')
}

/// Appends nanoseconds as seconds, with as many decimals as needed.
fn push_seconds(body: &mut BodyWriter<'_>, nanoseconds: u64) {
    const SECOND: u64 = 1_000_000_000;
    body.push_number(nanoseconds / SECOND);
    let mut rest = nanoseconds % SECOND;
    if rest > 0 {
        let mut digits = 9;
        while rest % 10 == 0 {
            rest /= 10;
            digits -= 1;
        }
        body.push(b".");
        body.push_padded(rest, digits);
    }
}

struct Family {
    name: &'static str,
    metric_type: MetricType,
    help: &'static str,
    /// The start of a sample, up to the name of the check.
    start: Piece,
}

impl Family {
    const fn new(name: &'static str, metric_type: MetricType, help: &'static str) -> Self {
        // All families are constants, so a longer name does not compile.
        assert!(
            name.len() + "{name=\"".len() <= PIECE_BYTES,
            "the name of a family is too long for a piece"
        );
        Family {
            name,
            metric_type,
            help,
            start: Piece::new(&[name, "{name=\""]),
        }
    }
}

/// A constant part of samples, padded, so that it is copied with a constant size.
#[derive(Clone, Copy)]
struct Piece {
    bytes: [u8; PIECE_BYTES],
    length: usize,
}

/// Enough for the longest name of a family.
const PIECE_BYTES: usize = 64;

impl Piece {
    /// At most 64 bytes; the rest is cut off.
    const fn new(parts: &[&str]) -> Self {
        let mut piece = Piece {
            bytes: [0; PIECE_BYTES],
            length: 0,
        };
        let mut rest = parts;
        while let [part, others @ ..] = rest {
            let mut from = part.as_bytes();
            while let [byte, next @ ..] = from {
                let free = piece.bytes.split_at_mut_checked(piece.length);
                if let Some((_, [place, ..])) = free {
                    *place = *byte;
                    piece.length += 1;
                }
                from = next;
            }
            rest = others;
        }
        piece
    }

    #[inline]
    fn padded(&self) -> Padded<'_, PIECE_BYTES> {
        Padded {
            array: &self.bytes,
            length: self.length,
        }
    }
}

const HEALTHCHECK: Family = Family::new(
    "kubernetes_healthcheck",
    MetricType::Gauge,
    "[STABLE] This metric records the result of a single healthcheck.",
);
const HEALTHCHECKS: Family = Family::new(
    "kubernetes_healthchecks_total",
    MetricType::Counter,
    "[STABLE] This metric records the results of all healthcheck.",
);
const CHANGES: Family = Family::new(
    "healthz_check_changes_total",
    MetricType::Counter,
    "How often a change of the check's state was observed.",
);
const LAST_CHANGE: Family = Family::new(
    "healthz_check_last_change_timestamp_seconds",
    MetricType::Gauge,
    "When the last change of the check's state was observed, in seconds since 1970.",
);
const LAST_BEAT: Family = Family::new(
    "healthz_check_last_beat_timestamp_seconds",
    MetricType::Gauge,
    "When the check's last heartbeat was, in seconds since 1970.",
);
const RUNS: Family = Family::new(
    "healthz_check_runs_total",
    MetricType::Counter,
    "How often the check was run, by result.",
);
const LAST_RUN: Family = Family::new(
    "healthz_check_last_run_duration_seconds",
    MetricType::Gauge,
    "How long the last run of the check took.",
);
const SEVERITY: Family = Family::new(
    "healthz_check_severity",
    MetricType::Gauge,
    "1 for the severity of the check: with warning, its endpoints pass although it fails.",
);
/// Families with a sample or more for each check and endpoint.
const OF_ENDPOINTS: [(&Family, usize); 2] = [(&HEALTHCHECK, 1), (&HEALTHCHECKS, 2)];
/// Families with this many samples for each check.
const OF_CHECKS: [(&Family, usize); 6] = [
    (&CHANGES, 1),
    (&LAST_CHANGE, 1),
    (&LAST_BEAT, 1),
    (&RUNS, 3),
    (&LAST_RUN, 1),
    (&SEVERITY, 1),
];

/// Answers `/metrics`. `server` writes what the server counts.
pub(super) fn respond(
    responder: &Responder<'_, impl Paths>,
    metrics: &Metrics,
    now: Instant,
    writer: Writer<'_>,
    server: impl FnOnce(&mut MetricsWriter<'_, '_>),
) -> Result<Answer, BufferFull> {
    // With less room than the longest answer needs, no part of it is written, which saves time if it would not fit. (It
    // may not fit although there is this much room, because `server` writes more.)
    if writer.room() < bytes_max(responder, metrics, 0) {
        return Err(BufferFull);
    }
    let unix_seconds = writer.unix_seconds();
    rendered(responder, now, writer, |text| {
        write_slis(responder, text);
        write_checks(responder, now, unix_seconds, text);
        server(text);
        (metrics.more)(text);
    })
}

/// Answers `/metrics/slis` with the two families that Kubernetes has under this path.
pub(super) fn respond_slis(
    responder: &Responder<'_, impl Paths>,
    now: Instant,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    rendered(responder, now, writer, |text| write_slis(responder, text))
}

fn rendered(
    responder: &Responder<'_, impl Paths>,
    now: Instant,
    writer: Writer<'_>,
    write: impl FnOnce(&mut MetricsWriter<'_, '_>),
) -> Result<Answer, BufferFull> {
    // All states are read here, so that the text is about one moment.
    let unix_seconds = writer.unix_seconds();
    for endpoint in responder.endpoints() {
        for check in endpoint.checks() {
            check.observe_for_rendering(now, unix_seconds);
        }
    }
    writer.rendered(Fields::Metrics, |body| {
        write(&mut MetricsWriter { body });
        StatusCode::OK
    })
}

/// Bytes of the longest answer of `/metrics`, with a server that writes at most `server_bytes`.
pub(super) fn bytes_max(
    responder: &Responder<'_, impl Paths>,
    metrics: &Metrics,
    server_bytes: usize,
) -> usize {
    let lengths = responder.endpoints().flat_map(|endpoint| {
        let path = endpoint.path().len();
        let checks = endpoint.checks();
        checks.map(move |check| (check.name_bytes().len(), path))
    });
    bytes_of(lengths, metrics, server_bytes)
}

/// As [`bytes_max`], of any three endpoints of Kubernetes with at most this many checks each.
#[cfg(feature = "server")]
pub(super) fn bytes_of_checks(checks: usize, metrics: &Metrics, server_bytes: usize) -> usize {
    let lengths = ["/healthz", "/livez", "/readyz"].map(|path| (CHECK_NAME_BYTES_MAX, path.len()));
    let of_endpoint = |lengths| core::iter::repeat_n(lengths, checks);
    bytes_of(
        lengths.into_iter().flat_map(of_endpoint),
        metrics,
        server_bytes,
    )
}

/// `lengths`: of the name of each check of each endpoint, and of the path of the endpoint.
fn bytes_of(
    lengths: impl Iterator<Item = (usize, usize)>,
    metrics: &Metrics,
    server_bytes: usize,
) -> usize {
    let mut bytes = const { RESPONSE_HEAD_BYTES_MAX + heads(&OF_ENDPOINTS) + heads(&OF_CHECKS) };
    for (name, path) in lengths {
        // A check in several endpoints has the samples of its own only once, but that is not looked up here.
        let names = const { samples(&OF_ENDPOINTS).0 } * (name + path)
            + const { samples(&OF_CHECKS).0 } * name;
        bytes = bytes.saturating_add(names);
        bytes = bytes.saturating_add(const { samples(&OF_ENDPOINTS).1 + samples(&OF_CHECKS).1 });
    }
    let more = metrics.more_bytes_max.saturating_add(server_bytes);
    bytes.saturating_add(more)
}

/// Bytes of the lines before the samples of `families`.
const fn heads(mut families: &[(&Family, usize)]) -> usize {
    let mut bytes = 0;
    while let [(family, _), rest @ ..] = families {
        let marks = "# HELP  \n# TYPE  histogram\n".len();
        bytes += marks + 2 * family.name.len() + family.help.len();
        families = rest;
    }
    bytes
}

/// The number of samples for a check in `families`, and their most bytes without the names of the check and the type.
const fn samples(mut families: &[(&Family, usize)]) -> (usize, usize) {
    let (mut samples, mut bytes) = (0, 0);
    while let [(family, count), rest @ ..] = families {
        samples += *count;
        bytes += *count * (family.name.len() + SAMPLE_BYTES_MAX);
        families = rest;
    }
    (samples, bytes)
}

/// Bytes of a sample without the names of its family and check, and without the type of an endpoint.
const SAMPLE_BYTES_MAX: usize =
    "{name=\"\",status=\"success\",type=\"\"} 18446744073709551615\n".len();

fn write_slis(responder: &Responder<'_, impl Paths>, text: &mut MetricsWriter<'_, '_>) {
    text.begin(&HEALTHCHECK);
    for endpoint in responder.endpoints() {
        // An endpoint can have a path of any length, so its label may not fit into a piece.
        let label = type_label(&endpoint);
        let parts = [TYPE, label, "\"} "];
        let is_short = parts.iter().map(|part| part.len()).sum::<usize>() <= PIECE_BYTES;
        let end = Piece::new(if is_short { &parts } else { &[TYPE] });
        for check in endpoint.checks() {
            text.labelled_check(&HEALTHCHECK, check, &end);
            if !is_short {
                text.body.push(label.as_bytes());
                text.body.push(b"\"} ");
            }
            let (passes, _) = check.kept_for_rendering();
            text.whole(passes.into());
        }
    }
    text.begin(&HEALTHCHECKS);
    for endpoint in responder.endpoints() {
        let endpoint_type = endpoint.endpoint_type();
        // All other endpoints of a check share one count, which is not shown.
        if endpoint_type == EndpointType::Other {
            continue;
        }
        let end = |status| {
            let parts = [
                "\",status=\"",
                status,
                "\",type=\"",
                type_label(&endpoint),
                "\"} ",
            ];
            Piece::new(&parts)
        };
        let (error, success) = (end("error"), end("success"));
        for check in endpoint.checks() {
            let (successes, errors) = check.results(endpoint_type);
            text.of_check(&HEALTHCHECKS, check, &error, errors);
            text.of_check(&HEALTHCHECKS, check, &success, successes);
        }
    }
}

/// `healthz` for `/healthz`.
fn type_label<'a>(endpoint: &Endpoint<'a>) -> &'a str {
    let path = endpoint.path();
    path.strip_prefix('/').unwrap_or(path)
}

fn write_checks(
    responder: &Responder<'_, impl Paths>,
    now: Instant,
    unix_seconds: Option<u64>,
    text: &mut MetricsWriter<'_, '_>,
) {
    text.begin(&CHANGES);
    for_each_check(responder, |check| {
        let (_, changes) = check.kept_for_rendering();
        text.of_check(&CHANGES, check, &NO_LABEL, changes);
    });
    text.begin(&LAST_CHANGE);
    for_each_check(responder, |check| {
        if let Some(seconds) = check.last_change() {
            text.of_check(&LAST_CHANGE, check, &NO_LABEL, seconds);
        }
    });
    text.begin(&LAST_BEAT);
    for_each_check(responder, |check| {
        if let Some(seconds) = check.last_beat_unix_seconds(now, unix_seconds) {
            text.of_check(&LAST_BEAT, check, &NO_LABEL, seconds);
        }
    });
    text.begin(&RUNS);
    for_each_check(responder, |check| {
        let Some(runs) = check.runs() else { return };
        text.of_check(&RUNS, check, &FAILURE, runs.failure);
        text.of_check(&RUNS, check, &SUCCESS, runs.success);
        text.of_check(&RUNS, check, &TIMEOUT, runs.timeout);
    });
    text.begin(&LAST_RUN);
    for_each_check(responder, |check| {
        let Some(runs) = check.runs() else { return };
        text.labelled_check(&LAST_RUN, check, &NO_LABEL);
        let nanoseconds = u64::try_from(runs.last_duration.as_nanos()).unwrap_or(u64::MAX);
        push_seconds(text.body, nanoseconds);
        text.body.push(b"\n");
    });
    text.begin(&SEVERITY);
    for_each_check(responder, |check| {
        let end = match check.severity() {
            Severity::Error => &ERROR,
            Severity::Warning => &WARNING,
        };
        text.of_check(&SEVERITY, check, end, 1);
    });
}

/// Calls `visit` with the checks of all endpoints. If endpoints have different checks of one name, only the first is
/// visited.
///
/// The lists of the endpoints are usually alike, so a check is first compared with the one at the same place of the
/// first list.
fn for_each_check<'a>(responder: &Responder<'a, impl Paths>, mut visit: impl FnMut(&'a Check)) {
    let is_same = |one: &Check, other: &Check| {
        core::ptr::eq(one, other) || one.name_bytes() == other.name_bytes()
    };
    let Some(first) = responder.endpoints().next() else {
        return;
    };
    first.checks().for_each(&mut visit);
    for (count, endpoint) in responder.endpoints().enumerate().skip(1) {
        let mut alike = first.checks();
        for check in endpoint.checks() {
            if alike.next().is_some_and(|other| is_same(other, check)) {
                continue;
            }
            let earlier = responder.endpoints().take(count);
            let mut earlier = earlier.flat_map(|endpoint| endpoint.checks());
            if !earlier.any(|other| is_same(other, check)) {
                visit(check);
            }
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::check::RunResult;
    use crate::http::{Connection, Context, Date};
    use crate::limits::{CHECK_NAME_BYTES_MAX, Limits};
    use core::time::Duration;
    use std::string::String;
    use std::vec;

    /// The head and the body of the answer to GET of `path` at `now`. The wall clock is 1,000,000 s ahead of `now`.
    fn get(responder: &Responder<'_, impl Paths>, now: Instant, path: &str) -> (String, String) {
        let date = Date::from_unix_seconds(1_000_000 + now.as_millis() / 1000);
        let context = Context {
            now,
            date: Some(&date),
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 0,
        };
        let head = std::format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let bytes = [
            responder.response_bytes_max(&Limits::DEFAULT),
            responder.long_response_bytes_max(&Limits::DEFAULT),
        ];
        let mut tx = vec![0; bytes.into_iter().max().unwrap()];
        let mut connection = Connection::new(now);
        let progress = connection.receive(
            &context,
            head.as_bytes(),
            &mut tx,
            &mut |request, writer| responder.respond(now, request, writer),
        );
        tx.truncate(progress.written);
        let text = String::from_utf8(tx).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.into(), body.into())
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn metrics_are_off_unless_they_are_asked_for() {
        let ping = Check::ping();
        let checks = [&ping];
        let endpoints = Endpoint::kubernetes(&checks);
        for path in ["/metrics", "/metrics/slis"] {
            let (head, _) = get(&Responder::new(&endpoints), at(0), path);
            assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        }
        let on = Responder::new(&endpoints).with_metrics(Metrics::new());
        for path in ["/metrics/", "/metrics/slis/x", "/metricsx"] {
            let (head, _) = get(&on, at(0), path);
            assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        }
    }

    #[test]
    fn slis_are_the_two_families_of_kubernetes() {
        let (ping, disk) = (Check::ping(), Check::manual("disk"));
        let shutdown = Check::shutdown();
        let checks = [&ping, &disk, &shutdown];
        let endpoints = Endpoint::kubernetes(&checks);
        let responder = Responder::new(&endpoints).with_metrics(Metrics::new());
        // /healthz fails once, passes twice, and passes because the failing check is excluded. Then a request for one
        // check, which does not count. Then /readyz fails.
        get(&responder, at(1), "/healthz");
        disk.pass();
        get(&responder, at(2), "/healthz");
        get(&responder, at(2), "/healthz?verbose");
        disk.fail("full");
        get(&responder, at(3), "/healthz?exclude=disk");
        get(&responder, at(3), "/healthz/disk");
        get(&responder, at(3), "/readyz");
        let (head, body) = get(&responder, at(4), "/metrics/slis");
        assert_eq!(
            head,
            std::format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
                 Date: Mon, 12 Jan 1970 13:46:44 GMT\r\nContent-Length: {}",
                body.len()
            )
        );
        assert_eq!(
            body,
            "\
# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.
# TYPE kubernetes_healthcheck gauge
kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1
kubernetes_healthcheck{name=\"disk\",type=\"healthz\"} 0
kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1
kubernetes_healthcheck{name=\"disk\",type=\"livez\"} 0
kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1
kubernetes_healthcheck{name=\"disk\",type=\"readyz\"} 0
kubernetes_healthcheck{name=\"shutdown\",type=\"readyz\"} 1
# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.
# TYPE kubernetes_healthchecks_total counter
kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"healthz\"} 0
kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 4
kubernetes_healthchecks_total{name=\"disk\",status=\"error\",type=\"healthz\"} 1
kubernetes_healthchecks_total{name=\"disk\",status=\"success\",type=\"healthz\"} 2
kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"livez\"} 0
kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 0
kubernetes_healthchecks_total{name=\"disk\",status=\"error\",type=\"livez\"} 0
kubernetes_healthchecks_total{name=\"disk\",status=\"success\",type=\"livez\"} 0
kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"readyz\"} 0
kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 1
kubernetes_healthchecks_total{name=\"disk\",status=\"error\",type=\"readyz\"} 1
kubernetes_healthchecks_total{name=\"disk\",status=\"success\",type=\"readyz\"} 0
kubernetes_healthchecks_total{name=\"shutdown\",status=\"error\",type=\"readyz\"} 0
kubernetes_healthchecks_total{name=\"shutdown\",status=\"success\",type=\"readyz\"} 1
"
        );
    }

    #[test]
    fn names_and_paths_of_each_length_are_written_whole() {
        for length in 1..=CHECK_NAME_BYTES_MAX {
            let name = "n".repeat(length);
            let endpoint_type = "p".repeat(length);
            let path = std::format!("/{endpoint_type}");
            let check = Check::manual(&name);
            let checks = [&check];
            let endpoints = [Endpoint::new(&path, &checks)];
            let responder = Responder::new(&endpoints).with_metrics(Metrics::new());
            let (_, body) = get(&responder, at(0), "/metrics/slis");
            let line = std::format!(
                "\nkubernetes_healthcheck{{name=\"{name}\",type=\"{endpoint_type}\"}} 0\n"
            );
            assert!(body.contains(&line), "{line}{body}");
        }
    }

    #[test]
    fn each_check_has_its_samples_once() {
        let worker = Check::heartbeat("worker", Duration::from_secs(30));
        let disk = Check::manual("disk").with_severity(Severity::Warning);
        let (both, ready) = ([&worker, &disk], [&disk]);
        let endpoints = [Endpoint::new("/a", &both), Endpoint::new("/b", &ready)];
        let responder = Responder::new(&endpoints).with_metrics(Metrics::new());
        worker.beat(at(5));
        disk.pass();
        disk.record_run(RunResult::Success, Duration::from_micros(1500));
        disk.record_run(RunResult::Timeout, Duration::from_secs(2));
        let (_, body) = get(&responder, at(9), "/metrics");
        let own = body.lines().filter(|line| line.starts_with("healthz_"));
        assert_eq!(
            own.collect::<vec::Vec<_>>().join("\n"),
            "\
healthz_check_changes_total{name=\"worker\"} 0
healthz_check_changes_total{name=\"disk\"} 1
healthz_check_last_change_timestamp_seconds{name=\"disk\"} 1000009
healthz_check_last_beat_timestamp_seconds{name=\"worker\"} 1000005
healthz_check_runs_total{name=\"disk\",result=\"failure\"} 0
healthz_check_runs_total{name=\"disk\",result=\"success\"} 1
healthz_check_runs_total{name=\"disk\",result=\"timeout\"} 1
healthz_check_last_run_duration_seconds{name=\"disk\"} 2
healthz_check_severity{name=\"worker\",severity=\"error\"} 1
healthz_check_severity{name=\"disk\",severity=\"warning\"} 1"
        );
        assert!(
            body.contains("kubernetes_healthcheck{name=\"disk\",type=\"b\"} 1\n"),
            "{body}"
        );
        // An overdue heartbeat fails at the scrape, without a probe.
        let (_, body) = get(&responder, at(40), "/metrics");
        for line in [
            "kubernetes_healthcheck{name=\"worker\",type=\"a\"} 0\n",
            "healthz_check_changes_total{name=\"worker\"} 1\n",
            "healthz_check_last_change_timestamp_seconds{name=\"worker\"} 1000040\n",
        ] {
            assert!(body.contains(line), "{line}{body}");
        }
    }

    #[test]
    fn own_families_are_escaped_and_come_last() {
        fn families(text: &mut MetricsWriter<'_, '_>) {
            text.family("jobs_total", MetricType::Counter, "Jobs.");
            text.sample("jobs_total", &[("a", "x\\\"\ny"), ("b", "")], 7);
            text.family("job_seconds", MetricType::Gauge, "Time.");
            text.sample_seconds("job_seconds", &[], 1_020_000_000);
        }
        let responder = Responder::new(&[]).with_metrics(Metrics::new().and(families, 200));
        let (_, body) = get(&responder, at(0), "/metrics");
        let expected = "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\n\
                        jobs_total{a=\"x\\\\\\\"\\ny\",b=\"\"} 7\n\
                        # HELP job_seconds Time.\n# TYPE job_seconds gauge\njob_seconds 1.02\n";
        assert!(body.ends_with(expected), "{body}");
    }

    #[test]
    fn seconds_have_the_decimals_that_they_need() {
        for (nanoseconds, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_500_000, "0.0015"),
            (60_000_000_000, "60"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            let mut buffer = [0; 40];
            let mut body = BodyWriter::new(&mut buffer);
            push_seconds(&mut body, nanoseconds);
            assert_eq!(body.as_bytes(), text.as_bytes());
        }
    }
}

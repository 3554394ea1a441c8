//! Answers: from a request, the checks and a time to a response.
//!
//! This is the only module that knows both HTTP and checks. Knows no socket and no clock.
//! [`http::Connection`](crate::http::Connection) calls [`Responder::respond`] with each complete request.
//! It loads the states of checks; it runs no check, takes no lock and does not allocate.
//!
//! | path | method | answer | source |
//! |---|---|---|---|
//! | an endpoint, `/healthz` for example | GET, HEAD, OPTIONS, POST | `ok`, or 500 with a line per check | Kubernetes `handleRootHealth` |
//! | `/healthz/NAME` | the same | `ok`, or 500 `internal server error: REASON` | Kubernetes `adaptCheckToHandler` |
//! | an endpoint of which only checks of severity [`Warning`](crate::Severity::Warning) fail | the same | `ok`; with `verbose` the line `[!]NAME warning: reason withheld`, and the last line says passed | ours: Kubernetes has no warnings |
//! | `/healthz/NAME` of such a check | the same | `ok` | ours |
//! | an endpoint and `/healthz/NAME` | others | 405 with Allow; Kubernetes runs the check for any token | RFC 9110 15.5.6 |
//! | `/` | OPTIONS | as the endpoint with a failing [`Check::shutdown`](crate::Check::shutdown), which is `/readyz`; else as the first endpoint. HAProxy's `option httpchk` sends this, and must stop routing to a node that fails or drains | HAProxy 2.6 |
//! | `*` | OPTIONS | an empty 200: the target is the server, not a resource | RFC 9110 9.3.7, as Go |
//! | `//healthz`, `/./healthz`, `/healthz/../livez` | any | 307 to the clean path; a query is kept unless it is empty | Go `http.ServeMux` |
//! | `/metrics`, `/metrics/slis`, with [`Responder::with_metrics`] | GET, HEAD, OPTIONS, POST; 405 for others | metrics for Prometheus | ours, with the families of Kubernetes |
//! | a path of [`Responder::with_paths`] | any | that of its [`Paths`] | ours |
//! | anything else | any | 404 `404 page not found` | Go `http.NotFound` |
//! | an endpoint and `/healthz/NAME`, if a local client accepts `application/health+json` and nothing else | GET, HEAD, OPTIONS, POST | JSON with the same status; see [`Responder::respond_health_json`] | ours, in the form of draft-inadarei-api-health-check-06 |
//! | a Host that is not in the list of [`Responder::allow_hosts`] | any | 421 | RFC 9110 15.5.20 |

mod excludes;
#[cfg(any(all(test, not(loom)), fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod health_json;
mod healthz;
mod metrics;
mod paths;
mod quote;

use core::borrow::Borrow;

#[cfg(feature = "server")]
use crate::check::EndpointSet;
use crate::check::{Endpoint, EndpointType};
use crate::http::{Answer, BufferFull, Fields, Method, Request, StatusCode, Writer};
use crate::limits::{
    CHECK_NAME_BYTES_MAX, Limits, REASON_BYTES_MAX, REDIRECT_NOTE_TARGET_BYTES_MAX,
    RESPONSE_HEAD_BYTES_MAX, TARGET_EXPANSION_MAX,
};
use crate::time::Instant;
pub use metrics::{MetricType, Metrics, MetricsWriter};
pub use paths::{NoPaths, Paths};

/// The endpoints with their checks, and the list of allowed hosts. It answers requests.
///
/// ```
/// use healthz::http::{Connection, Context};
/// use healthz::{Check, Endpoint, Instant, Limits, Responder};
///
/// static PING: Check = Check::ping();
/// static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
///
/// let responder = Responder::new(&ENDPOINTS);
/// let context = Context { now: Instant::ZERO, date: None, limits: &Limits::DEFAULT, is_last: false, tx_bytes_max: 0 };
/// let mut connection = Connection::new(context.now);
/// let mut tx = [0; 512];
/// let progress = connection.receive(
///     &context,
///     b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
///     &mut tx,
///     &mut |request, writer| responder.respond(context.now, request, writer),
/// );
/// assert!(tx[..progress.written].ends_with(b"Content-Length: 2\r\n\r\nok"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Responder<'a, P = NoPaths> {
    endpoints: &'a [Endpoint<'a>],
    /// Searched after `endpoints`, which are empty if there is a set. A field of its own, so that servers without a set
    /// execute no additional instruction.
    #[cfg(feature = "server")]
    set: Option<&'a EndpointSet>,
    allow_hosts: &'a [&'a str],
    listeners: &'a [&'a str],
    metrics: Option<Metrics>,
    /// Answers requests for all other paths.
    paths: P,
}

impl<'a> Responder<'a> {
    /// Serves `endpoints`. If two of them match a path, the first in the list answers.
    pub const fn new(endpoints: &'a [Endpoint<'a>]) -> Self {
        Responder {
            endpoints,
            #[cfg(feature = "server")]
            set: None,
            allow_hosts: &[],
            listeners: &[],
            metrics: None,
            paths: NoPaths,
        }
    }

    /// True if `host` can be in the list of [`allow_hosts`](Responder::allow_hosts): a name of letters,
    /// digits and `-._~`, an IPv4 address, or an IPv6 address in brackets, without port. Anything
    /// else, with a port or a pattern for example, matches no request that usual clients send.
    pub fn is_host(host: &str) -> bool {
        crate::http::is_host_without_port(host.as_bytes())
    }

    /// Bytes of the longest answer to a request within `limits`, of any endpoints with at most this many checks each;
    /// `usize::MAX` if the sum overflows. For a server whose endpoints will be replaced.
    pub fn response_bytes_of(checks: usize, limits: &Limits) -> usize {
        let lines = checks.saturating_mul(healthz::LINE_BYTES_MAX);
        let rest = healthz::rest_bytes_max(CHECK_NAME_BYTES_MAX, limits);
        let without_checks = Responder::new(&[]).response_bytes_max(limits);
        let root = lines.saturating_add(rest);
        without_checks.max(root.saturating_add(RESPONSE_HEAD_BYTES_MAX))
    }
}

impl<'a, P: Paths> Responder<'a, P> {
    /// Also answers with `paths`, if a path is none of an endpoint, a check or the metrics. It replaces the paths
    /// before.
    #[must_use]
    pub const fn with_paths<Q: Paths>(self, paths: Q) -> Responder<'a, Q> {
        Responder {
            endpoints: self.endpoints,
            #[cfg(feature = "server")]
            set: self.set,
            allow_hosts: self.allow_hosts,
            listeners: self.listeners,
            metrics: self.metrics,
            paths,
        }
    }

    /// Serves the endpoints of `set` instead, with the other settings as they are.
    #[cfg(feature = "server")]
    #[must_use]
    #[inline]
    pub const fn with_endpoint_set<'s>(self, set: &'s EndpointSet) -> Responder<'s, P>
    where
        'a: 's,
    {
        Responder {
            endpoints: &[],
            set: Some(set),
            allow_hosts: self.allow_hosts,
            listeners: self.listeners,
            metrics: self.metrics,
            paths: self.paths,
        }
    }

    /// The other settings, without endpoints.
    #[cfg(feature = "server")]
    pub(crate) const fn without_endpoints(self) -> Self {
        Responder {
            endpoints: &[],
            #[cfg(feature = "server")]
            set: None,
            allow_hosts: self.allow_hosts,
            listeners: self.listeners,
            metrics: self.metrics,
            paths: self.paths,
        }
    }

    /// Answers only requests for one of `hosts`, and others with 421. This stops a web page that reaches
    /// the server through a host name of its own (DNS rebinding).
    ///
    /// A host is a name or an address without port; an IPv6 address is in brackets. Case does not
    /// matter. [`is_host`](Responder::is_host) tests one. A request of HTTP/1.0 without Host, which no
    /// browser sends, is answered. An empty list, the default, allows every host, as Kubernetes does.
    #[must_use]
    pub const fn allow_hosts(mut self, hosts: &'a [&'a str]) -> Self {
        self.allow_hosts = hosts;
        self
    }

    /// Adds the URLs that the server listens on to answers in JSON, `http://127.0.0.1:10248` for example. By default
    /// these have no member `listeners`.
    #[must_use]
    pub const fn with_listeners(mut self, urls: &'a [&'a str]) -> Self {
        self.listeners = urls;
        self
    }

    /// Also answers `/metrics` and `/metrics/slis` with metrics of the checks in the text format of Prometheus, version
    /// 0.0.4. [`docs/metrics.md`](https://docs.rs/crate/healthz/latest/source/docs/metrics.md) lists them. An endpoint
    /// with one of these paths answers instead.
    ///
    /// The text needs more room than other answers: [`long_response_bytes_max`](Responder::long_response_bytes_max).
    #[must_use]
    pub const fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The metrics, if they are switched on.
    #[cfg(feature = "server")]
    pub(crate) const fn metrics(&self) -> Option<Metrics> {
        self.metrics
    }

    /// The endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint<'a>> + Clone + use<'a, P> {
        let borrowed = self.endpoints.iter().copied();
        #[cfg(feature = "server")]
        return borrowed.chain(self.set.into_iter().flat_map(EndpointSet::endpoints));
        #[cfg(not(feature = "server"))]
        borrowed
    }

    /// Starts the limit of heartbeats that were never beaten, at `now`; see
    /// [`Check::heartbeat`](crate::Check::heartbeat).
    ///
    /// `server::Runner` calls this when it is made, and `server::Server` in its first call of `advance`. Call
    /// it yourself, once, if you use neither. Further calls have no effect.
    pub fn begin(&self, now: Instant) {
        for endpoint in self.endpoints() {
            endpoint.checks().for_each(|check| check.begin(now));
        }
    }

    /// Writes the answer to `request`, with the states of the checks at `now`. Returns its size and status.
    ///
    /// # Errors
    /// [`BufferFull`] if the writer's buffer has no room for it; at most
    /// [`response_bytes_max`](Responder::response_bytes_max) bytes are needed, or for a long answer
    /// [`long_response_bytes_max`](Responder::long_response_bytes_max).
    #[inline]
    pub fn respond(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        self.respond_or(now, request, writer, |writer| {
            self.respond_elsewhere(now, request, writer, |_| {})
        })
    }

    /// As [`respond`](Responder::respond), but leaves a path that is not of a borrowed endpoint to `elsewhere`.
    #[inline]
    pub(crate) fn respond_or<'w>(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'w>,
        elsewhere: impl FnOnce(Writer<'w>) -> Result<Answer, BufferFull>,
    ) -> Result<Answer, BufferFull> {
        if !self.allow_hosts.is_empty() && !self.is_allowed(request) {
            return misdirected(writer);
        }
        // Before the endpoints, as in Go's `ServeMux`: `//healthz` is redirected, not answered.
        if request.target().is_unclean() {
            return redirect(request, writer);
        }
        respond_among(self.endpoints.iter(), now, request, writer, elsewhere)
    }

    /// Answers a request for a path that its listener does not serve: 404, or 421 if its host is not allowed.
    #[cfg(feature = "server")]
    pub(crate) fn respond_not_served(
        &self,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        if !self.allow_hosts.is_empty() && !self.is_allowed(request) {
            return misdirected(writer);
        }
        not_found(writer)
    }

    /// Answers a request whose path is not of a borrowed endpoint. `server` writes the metrics of the server.
    // Not inlined: it would cost instructions in each answer of a borrowed endpoint.
    #[inline(never)]
    pub(crate) fn respond_elsewhere(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
        server: impl FnOnce(&mut MetricsWriter<'_, '_>),
    ) -> Result<Answer, BufferFull> {
        #[cfg(feature = "server")]
        if let Some(set) = self.set {
            return respond_among(set.endpoints(), now, request, writer, |writer| {
                self.respond_to_others(now, request, writer, server)
            });
        }
        self.respond_to_others(now, request, writer, server)
    }

    /// Answers a request whose path is no endpoint's. Neither `/` nor `*` can be an endpoint's path.
    fn respond_to_others(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
        server: impl FnOnce(&mut MetricsWriter<'_, '_>),
    ) -> Result<Answer, BufferFull> {
        match (request.method(), request.target().path()) {
            (method, path @ (b"/metrics" | b"/metrics/slis")) if self.metrics.is_some() => {
                self.respond_with_metrics(method, path == b"/metrics", now, writer, server)
            }
            (Method::Options, b"*") => writer.fixed(StatusCode::OK, Fields::None, b""),
            (Method::Options, b"/") => {
                let mut endpoints = self.endpoints();
                let draining = endpoints.find(|endpoint| endpoint.is_draining(now));
                match draining.or_else(|| self.endpoints().next()) {
                    Some(endpoint) => healthz::root(&endpoint, now, request, writer),
                    None => not_found(writer),
                }
            }
            _ => self.paths.respond(now, request, writer),
        }
    }

    /// As [`respond`](Responder::respond), but the answer of an endpoint, or of a check of it, is JSON, and has the
    /// reasons of failures. The status is the same, unless the state of a check changes in between. All other answers
    /// are the same.
    ///
    /// Call it if [`Request::accepts_health_json`] is true and the client may know the reasons. `server` does it for
    /// clients on this machine. The members of the JSON object are those of draft-inadarei-api-health-check-06 and
    /// some more; `docs/status.md` lists them.
    ///
    /// # Errors
    /// [`BufferFull`] if the writer's buffer has no room for it; at most
    /// [`health_json_bytes_max`](Responder::health_json_bytes_max) bytes are needed, or for another answer what
    /// [`respond`](Responder::respond) needs.
    pub fn respond_health_json(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<Answer, BufferFull> {
        self.health_json(now, request, writer)
            .unwrap_or_else(|writer| self.respond(now, request, writer))
    }

    /// The answer in JSON; the writer if the answer is not in JSON.
    // Not inlined: such requests are rare.
    #[inline(never)]
    pub(crate) fn health_json<'w>(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'w>,
    ) -> Result<Result<Answer, BufferFull>, Writer<'w>> {
        let target = request.target();
        let is_misdirected = !self.allow_hosts.is_empty() && !self.is_allowed(request);
        if is_misdirected || target.is_unclean() || request.method() == Method::Other {
            return Err(writer);
        }
        for endpoint in self.endpoints() {
            let Some(rest) = target.strip_prefix(endpoint.path()) else {
                continue;
            };
            if rest.is_empty() {
                let answer = health_json::root(&endpoint, now, self.listeners, request, writer);
                return Ok(answer);
            }
            if let Some(check) = healthz::find(&endpoint, rest, now) {
                let answer = health_json::single(&endpoint, check, now, self.listeners, writer);
                return Ok(answer);
            }
        }
        Err(writer)
    }

    /// Bytes of the longest answer in JSON; `usize::MAX` if the sum overflows. Usually this is more than
    /// [`response_bytes_max`](Responder::response_bytes_max), because the reasons are in it.
    pub fn health_json_bytes_max(&self) -> usize {
        let bodies = self
            .endpoints()
            .map(|endpoint| health_json::bytes_max(&endpoint, self.listeners));
        let body = bodies.max().unwrap_or(0);
        body.saturating_add(RESPONSE_HEAD_BYTES_MAX)
    }

    /// Bytes of the longest answer in JSON of any endpoints with at most this many checks each; `usize::MAX` if the sum
    /// overflows. For a server whose endpoints will be replaced.
    pub fn health_json_bytes_of(&self, checks: usize) -> usize {
        let body = health_json::bytes_of(checks, self.listeners);
        body.saturating_add(RESPONSE_HEAD_BYTES_MAX)
    }

    fn respond_with_metrics(
        &self,
        method: Method,
        is_all: bool,
        now: Instant,
        writer: Writer<'_>,
        server: impl FnOnce(&mut MetricsWriter<'_, '_>),
    ) -> Result<Answer, BufferFull> {
        let answer = match (&self.metrics, method) {
            (None, _) => not_found(writer),
            (_, Method::Other) => not_allowed(writer),
            (Some(metrics), _) if is_all => metrics::respond(self, metrics, now, writer, server),
            (Some(_), _) => metrics::respond_slis(self, now, writer),
        };
        let subject = if is_all {
            Subject::Metrics
        } else {
            Subject::Slis
        };
        Ok(answer?.about(subject as u8))
    }

    /// Bytes of the longest answer that is longer than [`response_bytes_max`](Responder::response_bytes_max): that of
    /// `/metrics`, one in JSON, or one of [`with_paths`](Responder::with_paths). 0 if none is longer, and
    /// `usize::MAX` if the sum overflows.
    pub fn long_response_bytes_max(&self, limits: &Limits) -> usize {
        self.long_response_bytes_with(limits, 0)
    }

    /// As [`long_response_bytes_max`](Responder::long_response_bytes_max), with a server that writes at most
    /// `server_bytes` of metrics.
    pub(crate) fn long_response_bytes_with(&self, limits: &Limits, server_bytes: usize) -> usize {
        let longest = self
            .metrics_bytes_max(server_bytes)
            .max(self.health_json_bytes_max())
            .max(self.bytes_max_of_paths());
        match longest > self.response_bytes_max(limits) {
            true => longest,
            false => 0,
        }
    }

    /// Bytes of the longest answer of an embedder's paths.
    fn bytes_max_of_paths(&self) -> usize {
        let body = self.paths.body_bytes_max();
        body.saturating_add(RESPONSE_HEAD_BYTES_MAX)
    }

    /// Bytes of the longest answer of `/metrics`, with a server that writes at most `server_bytes`; 0 if there is none.
    pub(crate) fn metrics_bytes_max(&self, server_bytes: usize) -> usize {
        self.metrics
            .as_ref()
            .map_or(0, |metrics| metrics::bytes_max(self, metrics, server_bytes))
    }

    /// As [`long_response_bytes_with`](Responder::long_response_bytes_with), for the three endpoints of Kubernetes
    /// with at most this many checks each, of any names. Not 0 if no answer is longer than
    /// [`response_bytes_max`](Responder::response_bytes_max).
    #[cfg(feature = "server")]
    pub(crate) fn long_response_bytes_of(&self, checks: usize, server_bytes: usize) -> usize {
        let metrics = self.metrics.as_ref().map_or(0, |metrics| {
            metrics::bytes_of_checks(checks, metrics, server_bytes)
        });
        metrics
            .max(self.health_json_bytes_of(checks))
            .max(self.bytes_max_of_paths())
    }

    /// Bytes of the longest answer to a request within `limits`, without those of
    /// [`long_response_bytes_max`](Responder::long_response_bytes_max); `usize::MAX` if the sum overflows.
    pub fn response_bytes_max(&self, limits: &Limits) -> usize {
        // Only the length matters here, so a head of the full size is added to each kind of body.
        let roots = self
            .endpoints()
            .map(|endpoint| healthz::root_bytes_max(&endpoint, limits));
        // The location is written twice: first into the buffer, then into the head.
        let long_redirect = limits.request_head_bytes.saturating_mul(2);
        let bodies = [SINGLE_BYTES_MAX, NOTED_REDIRECT_BYTES_MAX, long_redirect];
        let body = roots.chain(bodies).max().unwrap_or(0);
        body.saturating_add(RESPONSE_HEAD_BYTES_MAX)
    }

    fn is_allowed(&self, request: &Request<'_>) -> bool {
        // Only HTTP/1.0 has no Host, and no browser sends HTTP/1.0.
        let Some(host) = request.host() else {
            return true;
        };
        let host = crate::http::without_port(host);
        self.allow_hosts
            .iter()
            .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(host))
    }
}

/// The subject of a request. Answers are counted by subject.
#[derive(Clone, Copy)]
pub(crate) enum Subject {
    /// Anything else: one check, another endpoint, a path that is not found.
    Other,
    /// `/healthz`
    Healthz,
    /// `/livez`
    Livez,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/metrics/slis`
    Slis,
}

impl Subject {
    #[inline]
    fn of(endpoint: &Endpoint<'_>) -> Self {
        match endpoint.endpoint_type() {
            EndpointType::Healthz => Subject::Healthz,
            EndpointType::Livez => Subject::Livez,
            EndpointType::Readyz => Subject::Readyz,
            EndpointType::Other => Subject::Other,
        }
    }
}

/// Answers with the first of `endpoints` that the target names, or with `elsewhere`. The target is clean and the host
/// is allowed.
#[inline]
fn respond_among<'w, 'a, E: Borrow<Endpoint<'a>>>(
    endpoints: impl Iterator<Item = E>,
    now: Instant,
    request: &Request<'_>,
    writer: Writer<'w>,
    elsewhere: impl FnOnce(Writer<'w>) -> Result<Answer, BufferFull>,
) -> Result<Answer, BufferFull> {
    let target = request.target();
    for endpoint in endpoints {
        let endpoint = endpoint.borrow();
        let Some(rest) = target.strip_prefix(endpoint.path()) else {
            continue;
        };
        if rest.is_empty() {
            let answer = match request.method() {
                Method::Other => not_allowed(writer),
                _ => healthz::root(endpoint, now, request, writer),
            };
            return Ok(answer?.about(Subject::of(endpoint) as u8));
        }
        // `/healthz-other` also begins with `/healthz`; `find` requires a slash after it.
        if let Some(check) = healthz::find(endpoint, rest, now) {
            return match request.method() {
                Method::Other => not_allowed(writer),
                _ => healthz::single(check, now, writer),
            };
        }
    }
    elsewhere(writer)
}

/// `internal server error: REASON`, the longest answer about a single check.
const SINGLE_BYTES_MAX: usize = "internal server error: ".len() + REASON_BYTES_MAX + 1;
/// A redirect with its note: the location twice, the text around the link, and the link with every byte
/// escaped.
const NOTED_REDIRECT_BYTES_MAX: usize = 2 * REDIRECT_NOTE_TARGET_BYTES_MAX
    + "<a href=\"\">Temporary Redirect</a>.\n\n".len()
    + REDIRECT_NOTE_TARGET_BYTES_MAX * "&#34;".len();

const _: () = assert!(TARGET_EXPANSION_MAX >= "\\\"".len());

fn misdirected(writer: Writer<'_>) -> Result<Answer, BufferFull> {
    let body = b"421 Misdirected Request: this server does not answer for that host\n";
    writer.fixed(StatusCode::MISDIRECTED_REQUEST, Fields::Text, body)
}

/// Writes the 404 of a path that does not exist; for [`Paths`].
///
/// # Errors
/// [`BufferFull`] if the writer's buffer has no room for it.
pub fn not_found(writer: Writer<'_>) -> Result<Answer, BufferFull> {
    writer.fixed(StatusCode::NOT_FOUND, Fields::Text, b"404 page not found\n")
}

fn not_allowed(writer: Writer<'_>) -> Result<Answer, BufferFull> {
    let body = b"405 Method Not Allowed: this path takes GET, HEAD, OPTIONS and POST\n";
    writer.fixed(StatusCode::METHOD_NOT_ALLOWED, Fields::TextAllow, body)
}

fn redirect(request: &Request<'_>, writer: Writer<'_>) -> Result<Answer, BufferFull> {
    let target = request.target();
    let query = target.query().unwrap_or_default();
    // Go writes the note for GET and HEAD only, and drops the `?` of an empty query.
    let has_note = matches!(request.method(), Method::Get | Method::Head)
        && target.path().len() + query.len() < REDIRECT_NOTE_TARGET_BYTES_MAX;
    writer.redirect(has_note, |location| {
        target.clean_into(location);
        if !query.is_empty() {
            location.push(b"?");
            location.push(query);
        }
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::check::{Check, Severity};
    use crate::http::{Connection, Context};
    use core::time::Duration;
    use std::borrow::ToOwned;
    use std::string::String;
    use std::vec;

    /// The status line and fields, and the body, of the answer to `request` at `now`.
    fn answer(
        responder: &Responder<'_, impl Paths>,
        now: Instant,
        request: &str,
    ) -> (String, String) {
        let context = Context {
            now,
            date: None,
            limits: &Limits::DEFAULT,
            is_last: false,
            tx_bytes_max: 0,
        };
        let mut tx = vec![0; responder.response_bytes_max(&Limits::DEFAULT)];
        let progress = Connection::new(now).receive(
            &context,
            request.as_bytes(),
            &mut tx,
            &mut |request, writer| responder.respond(now, request, writer),
        );
        tx.truncate(progress.written);
        let text = String::from_utf8_lossy(&tx);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, "no body"));
        (head.into(), body.into())
    }

    /// Regression: `OPTIONS *` was answered as the first endpoint, but its target is the server.
    #[test]
    fn options_of_the_server_is_an_empty_200() {
        let disk = Check::manual("disk");
        let checks = [&disk];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints);
        for version in ["HTTP/1.1", "HTTP/1.0\r\nConnection: keep-alive"] {
            let request = std::format!("OPTIONS * {version}\r\nHost: a\r\n\r\n");
            let (head, body) = answer(&responder, Instant::ZERO, &request);
            let head = head
                .strip_suffix("\r\nConnection: keep-alive")
                .unwrap_or(&head);
            assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 0");
            assert_eq!(body, "");
        }
    }

    /// Regression: `OPTIONS /` was `ok` while draining, so HAProxy kept routing to a stopping node.
    #[test]
    fn options_of_the_root_is_answered_as_readyz_while_draining() {
        let (ping, shutdown) = (Check::ping(), Check::shutdown());
        let checks = [&ping, &shutdown];
        let endpoints = Endpoint::kubernetes(&checks);
        let responder = Responder::new(&endpoints);
        let ask = |target: &str| {
            let request = std::format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            answer(&responder, Instant::ZERO, &request)
        };
        for query in ["", "?verbose", "?exclude=shutdown"] {
            assert_eq!(
                ask(&("/".to_owned() + query)),
                ask(&("/healthz".to_owned() + query))
            );
        }
        shutdown.begin_shutdown();
        for query in ["", "?verbose", "?exclude=shutdown"] {
            assert_eq!(
                ask(&("/".to_owned() + query)),
                ask(&("/readyz".to_owned() + query))
            );
        }
        assert!(ask("/").0.starts_with("HTTP/1.1 500 "));
        assert!(ask("/livez").0.starts_with("HTTP/1.1 200 "));
        assert!(ask("*").0.starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn the_beginning_starts_the_limit_of_every_heartbeat() {
        let limit = Duration::from_millis(100);
        let (first, second) = (Check::heartbeat("a", limit), Check::heartbeat("b", limit));
        let (live, ready) = ([&first], [&first, &second]);
        let endpoints = [
            Endpoint::new("/livez", &live),
            Endpoint::new("/readyz", &ready),
        ];
        let responder = Responder::new(&endpoints);
        responder.begin(Instant::from_millis(50));
        let request = "GET /readyz?verbose HTTP/1.1\r\nHost: a\r\n\r\n";
        let at = |ms| answer(&responder, Instant::from_millis(ms), request).1;
        assert_eq!(at(149), "[+]a ok\n[+]b ok\nreadyz check passed\n");
        first.beat(Instant::from_millis(149));
        assert_eq!(
            at(150),
            "[+]a ok\n[-]b failed: reason withheld\nreadyz check failed\n"
        );
    }

    #[test]
    fn a_warning_is_listed_but_fails_no_answer() {
        let (ping, disk) = (Check::ping(), Check::manual("disk").group("storage"));
        let (disk, other) = (disk.with_severity(Severity::Warning), Check::manual("b"));
        let checks = [&ping, &disk, &other];
        let endpoints = [Endpoint::new("/healthz", &checks)];
        let responder = Responder::new(&endpoints);
        let ask = |target: &str| {
            let request = std::format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let (head, body) = answer(&responder, Instant::ZERO, &request);
            (head.split(' ').nth(1).unwrap_or_default().to_owned(), body)
        };
        let is = |status: &str, body: &str| (status.to_owned(), body.to_owned());
        disk.fail("full");
        other.pass();
        for target in [
            "/healthz",
            "/healthz?a",
            "/healthz/disk",
            "/healthz?exclude=b",
        ] {
            assert_eq!(ask(target), is("200", "ok"), "{target}");
        }
        let warning = "[!]disk warning: reason withheld\n";
        assert_eq!(
            ask("/healthz?verbose"),
            is(
                "200",
                &std::format!("[+]ping ok\n{warning}[+]b ok\nhealthz check passed\n")
            )
        );
        assert_eq!(
            ask("/healthz?verbose&exclude=storage"),
            is(
                "200",
                "[+]ping ok\n[+]disk excluded with storage: ok\n[+]b ok\nhealthz check passed\n"
            )
        );
        other.fail("broken");
        assert_eq!(
            ask("/healthz"),
            is(
                "500",
                &std::format!(
                    "[+]ping ok\n{warning}[-]b failed: reason withheld\nhealthz check failed\n"
                )
            )
        );
        disk.pass();
        other.pass();
        assert!(
            ask("/healthz?verbose")
                .1
                .starts_with("[+]ping ok\n[+]disk ok\n")
        );
    }

    #[test]
    fn an_allowed_host_is_one_that_a_request_can_send() {
        for host in [
            "localhost",
            "a.b-c_d~",
            "127.0.0.1",
            "[::1]",
            "[fe80::1%eth0]",
        ] {
            assert!(Responder::is_host(host), "{host}");
        }
        for host in [
            "", "a:1", "::1", "[::1]:1", "[::1", "a,b", "*.a", "a b", "a/b", "a%41", "[v1.a]",
        ] {
            assert!(!Responder::is_host(host), "{host}");
        }
    }
}

//! Request + checks + time -> response: the rooms that know both worlds.
//!
//! Knows no socket. Called with each whole request by [`http::Connection`](crate::http::Connection);
//! loads check states, runs nothing, locks nothing, allocates nothing.
//!
//! | path | method | answer | source |
//! |---|---|---|---|
//! | an endpoint, `/healthz` for example | GET, HEAD, OPTIONS, POST | `ok`, or 500 with a line a check | Kubernetes `handleRootHealth` |
//! | `/healthz/NAME` | the same | `ok`, or 500 `internal server error: REASON` | Kubernetes `adaptCheckToHandler` |
//! | both | others | 405 with Allow; Kubernetes runs the check for any token | RFC 9110 15.5.6 |
//! | `/`, `*` | OPTIONS | as the first endpoint: HAProxy's `option httpchk` asks `OPTIONS /`, and an OPTIONS that always says yes would call a dead node healthy | HAProxy 2.6 |
//! | `//healthz`, `/./healthz`, `/healthz/../livez` | any | 307 to the clean path; a query is kept unless it is empty | Go `http.ServeMux` |
//! | anything else | any | 404 `404 page not found` | Go `http.NotFound` |
//! | a Host that is not in a given list | any | 421 | RFC 9110 15.5.20 |

#[cfg(any(all(test, not(loom)), fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod healthz;
mod quote;

use crate::check::Endpoint;
use crate::http::{Fields, Form, Full, Method, Request, StatusCode, Writer};
use crate::limits::{
    Limits, REASON_BYTES_MAX, REDIRECT_NOTE_TARGET_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX,
    TARGET_EXPANSION_MAX,
};
use crate::time::Instant;

/// What is served: endpoints with their checks, and for whom.
///
/// ```
/// use healthz::http::{Connection, Context};
/// use healthz::{Check, Endpoint, Instant, Limits, Responder};
///
/// static PING: Check = Check::ping();
/// static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);
///
/// let responder = Responder::new(&ENDPOINTS);
/// let context = Context { now: Instant::ZERO, date: None, limits: &Limits::DEFAULT, is_last: false };
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
pub struct Responder<'a> {
    endpoints: &'a [Endpoint<'a>],
    allow_hosts: &'a [&'a str],
}

impl<'a> Responder<'a> {
    /// Serves `endpoints`; where two match a path, the first in the list does.
    pub const fn new(endpoints: &'a [Endpoint<'a>]) -> Self {
        Responder {
            endpoints,
            allow_hosts: &[],
        }
    }

    /// Answers only requests for one of `hosts` (names or addresses without port, compared without
    /// regard to case; IPv6 in brackets) and gives others 421, so that no web page can reach the door
    /// through a name of its own (DNS rebinding). HTTP/1.0 without Host, which no browser sends, is
    /// answered. An empty list, the default, allows every host, as Kubernetes does.
    #[must_use]
    pub const fn allow_hosts(mut self, hosts: &'a [&'a str]) -> Self {
        self.allow_hosts = hosts;
        self
    }

    /// The endpoints.
    pub const fn endpoints(&self) -> &'a [Endpoint<'a>] {
        self.endpoints
    }

    /// Writes the answer to `request`, with the checks as they are at `now`. Returns its size.
    ///
    /// # Errors
    /// [`Full`] if the writer's buffer has no room for it; at most
    /// [`response_bytes_max`](Responder::response_bytes_max) bytes are needed.
    #[inline]
    pub fn respond(
        &self,
        now: Instant,
        request: &Request<'_>,
        writer: Writer<'_>,
    ) -> Result<usize, Full> {
        if !self.allow_hosts.is_empty() && !self.is_allowed(request) {
            let body = b"421 Misdirected Request: this server does not answer for that host\n";
            return writer.fixed(StatusCode::MISDIRECTED_REQUEST, Fields::Text, body);
        }
        let target = request.target();
        if target.is_unclean() {
            return redirect(request, writer);
        }
        let is_probe_of_all = request.method() == Method::Options
            && (target.form() == Form::Asterisk || target.path() == b"/");
        for endpoint in self.endpoints {
            let rest = match target.strip_prefix(endpoint.path()) {
                Some(rest) => rest,
                None if is_probe_of_all => b"",
                None => continue,
            };
            if rest.is_empty() {
                return match request.method() {
                    Method::Other => not_allowed(writer),
                    _ => healthz::root(endpoint, now, request, writer),
                };
            }
            if let Some(check) = healthz::find(endpoint, rest, now) {
                return match request.method() {
                    Method::Other => not_allowed(writer),
                    _ => healthz::single(check, now, writer),
                };
            }
        }
        writer.fixed(StatusCode::NOT_FOUND, Fields::Text, b"404 page not found\n")
    }

    /// Bytes of the longest answer that requests within `limits` can ask for; `usize::MAX` if they do
    /// not fit.
    pub fn response_bytes_max(&self, limits: &Limits) -> usize {
        let roots = self
            .endpoints
            .iter()
            .map(|endpoint| healthz::root_bytes_max(endpoint, limits));
        // The location is written twice: where it is made, and into the head.
        let long_redirect = limits.request_head_bytes.saturating_mul(2);
        let bodies = [SINGLE_BYTES_MAX, NOTED_REDIRECT_BYTES_MAX, long_redirect];
        let body = roots.chain(bodies).max().unwrap_or(0);
        body.saturating_add(RESPONSE_HEAD_BYTES_MAX)
    }

    fn is_allowed(&self, request: &Request<'_>) -> bool {
        let Some(host) = request.host() else {
            return true;
        };
        let host = crate::http::without_port(host);
        self.allow_hosts
            .iter()
            .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(host))
    }
}

/// `internal server error: REASON`, and shorter ones.
const SINGLE_BYTES_MAX: usize = "internal server error: ".len() + REASON_BYTES_MAX + 1;
/// A redirect with its note: the location twice, what is around the link, and the link with every
/// byte escaped.
const NOTED_REDIRECT_BYTES_MAX: usize = 2 * REDIRECT_NOTE_TARGET_BYTES_MAX
    + "<a href=\"\">Temporary Redirect</a>.\n\n".len()
    + REDIRECT_NOTE_TARGET_BYTES_MAX * "&#34;".len();

const _: () = assert!(TARGET_EXPANSION_MAX >= "\\\"".len());

fn not_allowed(writer: Writer<'_>) -> Result<usize, Full> {
    let body = b"405 Method Not Allowed: a check is run by GET, HEAD, OPTIONS and POST\n";
    writer.fixed(StatusCode::METHOD_NOT_ALLOWED, Fields::TextAllow, body)
}

fn redirect(request: &Request<'_>, writer: Writer<'_>) -> Result<usize, Full> {
    let target = request.target();
    let query = target.query().unwrap_or_default();
    // Go writes the note for GET and HEAD only.
    let has_note = matches!(request.method(), Method::Get | Method::Head)
        && target.path().len() + query.len() < REDIRECT_NOTE_TARGET_BYTES_MAX;
    writer.redirect(has_note, |text| {
        target.clean_into(text);
        if !query.is_empty() {
            text.push(b"?");
            text.push(query);
        }
    })
}

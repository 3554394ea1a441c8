//! The text of a health endpoint's answer, as Kubernetes writes it
//! (`k8s.io/apiserver/pkg/server/healthz`).
//!
//! Knows the checks of one endpoint and the query of a request. Knows no path and no method: those
//! belong to [`super`], which calls [`root`] for an endpoint and [`single`] for one check.

use super::excludes::{Exclude, Excludes, WARNING_BYTES};
use crate::check::{Check, Endpoint, Severity};
use crate::http::{
    Answer, BodyWriter, BufferFull, Fields, Request, StatusCode, Writer, strip_prefix,
};
use crate::limits::{CHECK_NAME_BYTES_MAX, EXCLUDES_MAX, Limits, TARGET_EXPANSION_MAX};
use crate::time::Instant;

/// The answer of `/healthz`: `ok`, or a line per check if one fails or `verbose` is in the query.
// Always inlined. The compiler would not inline it for each kind of endpoints, and then each answer takes 30
// instructions more.
#[inline(always)]
pub(super) fn root(
    endpoint: &Endpoint<'_>,
    now: Instant,
    request: &Request<'_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    match request.target().query() {
        // Nearly every request ends here: each check is loaded and counted, and the answer is prepared.
        None if endpoint.count_if_all_pass(now) => {
            let answer = writer.ok();
            if answer.is_err() {
                endpoint.uncount(endpoint.checks().len());
            }
            answer
        }
        None => report(endpoint, now, false, &mut Excludes::none(), writer),
        Some(query) => root_with_query(endpoint, now, request, query, writer),
    }
}

/// The check that `rest` names, where `rest` is `/NAME`, the path after the endpoint's path.
pub(super) fn find<'a>(endpoint: &Endpoint<'a>, rest: &[u8], now: Instant) -> Option<&'a Check> {
    let rest = rest.strip_prefix(b"/")?;
    // Unlisted checks are left out here too, or their existence would be visible.
    let mut checks = endpoint.checks().filter(|check| check.is_listed(now));
    checks.find(|check| strip_prefix(rest, check.name_bytes()).is_some_and(<[u8]>::is_empty))
}

/// The answer of `/healthz/NAME`.
pub(super) fn single(
    check: &Check,
    now: Instant,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    let reason = match check.severity() {
        Severity::Error => check.reason(now),
        Severity::Warning => None,
    };
    match reason {
        // Kubernetes sets no `nosniff` field here.
        None => writer.fixed(StatusCode::OK, Fields::TextSniffed, b"ok"),
        Some(reason) => writer.rendered(Fields::Text, |body| {
            body.push(b"internal server error: ");
            body.push(reason.as_str().as_bytes());
            body.push(b"\n");
            StatusCode::INTERNAL_SERVER_ERROR
        }),
    }
}

/// Bytes of the longest body that [`root`] writes.
pub(super) fn root_bytes_max(endpoint: &Endpoint<'_>, limits: &Limits) -> usize {
    let line = |check: &Check| {
        let failed = match check.severity() {
            Severity::Error => FAILED,
            Severity::Warning => WARNED,
        };
        let group = check.group_bytes().map(<[u8]>::len);
        line_bytes(check.name_bytes().len(), group, failed.len())
    };
    let lines: usize = endpoint.checks().map(line).sum();
    lines.saturating_add(rest_bytes_max(endpoint.name().len(), limits))
}

/// Bytes of a report besides the lines of checks, for an endpoint with a name of this length.
pub(super) fn rest_bytes_max(name_bytes: usize, limits: &Limits) -> usize {
    // The warning repeats names from the target, with some bytes escaped.
    let names = TARGET_EXPANSION_MAX.saturating_mul(limits.request_head_bytes);
    let rest = WARNING_BYTES + name_bytes + PASSED.len().max(NOT_PASSED.len());
    names.saturating_add(rest)
}

/// Bytes of the longest line of any check.
pub(super) const LINE_BYTES_MAX: usize = line_bytes(
    CHECK_NAME_BYTES_MAX,
    Some(CHECK_NAME_BYTES_MAX),
    max(FAILED.len(), WARNED.len()),
);

/// Bytes of the longest line of a check with a name and a group of these lengths, and of what follows the name of one
/// that fails.
const fn line_bytes(name_bytes: usize, group_bytes: Option<usize>, failed_bytes: usize) -> usize {
    let group = match group_bytes {
        Some(bytes) => " with ".len() + bytes,
        None => 0,
    };
    let excluded = EXCLUDED.len() + group + OK.len();
    "[+]".len() + name_bytes + max(failed_bytes, excluded)
}

/// `Ord::max` is not `const`.
const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

const OK: &[u8] = b": ok\n";
const EXCLUDED: &[u8] = b" excluded";
const FAILED: &[u8] = b" failed: reason withheld\n";
const WARNED: &[u8] = b" warning: reason withheld\n";
const PASSED: &[u8] = b" check passed\n";
const NOT_PASSED: &[u8] = b" check failed\n";

// Not inlined: it would cost instructions in each answer without a query.
#[inline(never)]
fn root_with_query(
    endpoint: &Endpoint<'_>,
    now: Instant,
    request: &Request<'_>,
    query: &[u8],
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    // Kubernetes ignores the value of `verbose`: `verbose=false` is verbose too.
    let mut is_verbose = false;
    let mut has_excludes = false;
    for (name, _) in request.target().pairs() {
        is_verbose |= name.is("verbose");
        has_excludes |= name.is("exclude");
    }
    if has_excludes {
        root_with_excludes(endpoint, now, request, query, is_verbose, writer)
    } else {
        report(endpoint, now, is_verbose, &mut Excludes::none(), writer)
    }
}

// Not inlined: the array below takes 6 KiB of stack, which other requests do not need.
#[inline(never)]
fn root_with_excludes(
    endpoint: &Endpoint<'_>,
    now: Instant,
    request: &Request<'_>,
    query: &[u8],
    is_verbose: bool,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    let mut found = [Exclude::default(); EXCLUDES_MAX];
    let mut excludes = Excludes::new(query, &mut found);
    if excludes.insert_all(request.target()).is_err() {
        return too_many_excludes(writer);
    }
    report(endpoint, now, is_verbose, &mut excludes, writer)
}

/// The answer to a query with more `exclude` parameters than [`EXCLUDES_MAX`].
pub(super) fn too_many_excludes(writer: Writer<'_>) -> Result<Answer, BufferFull> {
    let body = b"414 URI Too Long: more exclude parameters than this server takes\n";
    writer.fixed(StatusCode::TARGET_TOO_LONG, Fields::Text, body)
}

/// Answers with a report, and counts the result of each check that is not excluded.
fn report(
    endpoint: &Endpoint<'_>,
    now: Instant,
    is_verbose: bool,
    excludes: &mut Excludes<'_, '_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    let unix_seconds = writer.unix_seconds();
    let answer = write_report(endpoint, now, is_verbose, excludes, writer)?;
    // Counted only now, because an answer that does not fit is written again later. If a state has changed since the
    // answer was written, the new state is counted.
    for check in endpoint.checks() {
        if excludes.exclusion(check).is_none() {
            check.count_result(endpoint.endpoint_type(), now, unix_seconds);
        }
    }
    Ok(answer)
}

fn write_report(
    endpoint: &Endpoint<'_>,
    now: Instant,
    is_verbose: bool,
    excludes: &mut Excludes<'_, '_>,
    writer: Writer<'_>,
) -> Result<Answer, BufferFull> {
    // The state is loaded first: it is cheaper than the search for the name.
    let passes =
        |check: &Check| check.lets_endpoint_pass(now) || excludes.exclusion(check).is_some();
    if !is_verbose && endpoint.checks().all(passes) {
        return writer.ok();
    }
    writer.rendered(Fields::Text, |body| {
        let mut has_failed = false;
        for check in endpoint.checks().filter(|check| check.is_listed(now)) {
            has_failed |= line(check, now, excludes, body);
        }
        if !has_failed && !is_verbose {
            // Another thread has updated the failed check since it was loaded above. The status must fit
            // the lines, and all lines pass.
            body.truncate(0);
            body.push(b"ok");
            return StatusCode::OK;
        }
        excludes.warn(body);
        body.push(endpoint.name().as_bytes());
        body.push(if has_failed { NOT_PASSED } else { PASSED });
        if has_failed {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        }
    })
}

/// Writes the line of one check. Returns true if the check fails the endpoint.
fn line(
    check: &Check,
    now: Instant,
    excludes: &mut Excludes<'_, '_>,
    body: &mut BodyWriter<'_>,
) -> bool {
    let exclusion = excludes.exclusion(check);
    // Loaded once, so that the line and the status agree.
    let failure = match exclusion {
        None if !check.passes(now) => Some(check.severity()),
        _ => None,
    };
    body.push(match failure {
        None => b"[+]",
        Some(Severity::Error) => b"[-]",
        Some(Severity::Warning) => b"[!]",
    });
    body.push(check.name_bytes());
    match (exclusion, failure) {
        // The reason may be confidential, so Kubernetes shows it under the path of the check only.
        (None, Some(Severity::Error)) => body.push(FAILED),
        (None, Some(Severity::Warning)) => body.push(WARNED),
        (None, None) => body.push(b" ok\n"),
        (Some(group), _) => {
            body.push(EXCLUDED);
            if let Some(group) = group {
                body.push(b" with ");
                body.push(group);
            }
            body.push(OK);
        }
    }
    excludes.mark_matched(check);
    failure == Some(Severity::Error)
}

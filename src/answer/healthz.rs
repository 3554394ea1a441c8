//! The Kubernetes text contract of health endpoints (`k8s.io/apiserver/pkg/server/healthz`).
//!
//! Knows how an endpoint's checks become text; paths and methods are [`super`]'s.

use core::cmp::Ordering;

use super::quote::quote;
use crate::check::{Check, Endpoint};
use crate::http::{Decoded, Fields, Full, Request, StatusCode, Text, Writer, strip_prefix};
use crate::limits::{EXCLUDES_MAX, Limits, TARGET_EXPANSION_MAX};
use crate::time::Instant;

/// The answer of `/healthz`: `ok`, or a line a check if one fails or `verbose` asks for it.
#[inline]
pub(super) fn root(
    endpoint: &Endpoint<'_>,
    now: Instant,
    request: &Request<'_>,
    writer: Writer<'_>,
) -> Result<usize, Full> {
    match request.target().query() {
        None if endpoint.passes(now) => writer.ok(),
        None => report(endpoint, now, false, &mut Excludes::none(), writer),
        Some(query) => root_with_query(endpoint, now, request, query, writer),
    }
}

/// The check that `rest` of a path, `/NAME`, names.
pub(super) fn find<'a>(endpoint: &Endpoint<'a>, rest: &[u8], now: Instant) -> Option<&'a Check> {
    let rest = rest.strip_prefix(b"/")?;
    let mut checks = endpoint
        .checks()
        .iter()
        .filter(|check| check.is_listed(now));
    checks
        .find(|check| strip_prefix(rest, check.name()).is_some_and(<[u8]>::is_empty))
        .copied()
}

/// The answer of `/healthz/NAME`.
pub(super) fn single(check: &Check, now: Instant, writer: Writer<'_>) -> Result<usize, Full> {
    match check.reason(now) {
        None => writer.fixed(StatusCode::OK, Fields::TextSniffed, b"ok"),
        Some(reason) => writer.rendered(Fields::Text, |text| {
            text.push(b"internal server error: ");
            text.push(reason.as_str().as_bytes());
            text.push(b"\n");
            StatusCode::INTERNAL_SERVER_ERROR
        }),
    }
}

/// Bytes of the longest body that [`root`] writes.
pub(super) fn root_bytes_max(endpoint: &Endpoint<'_>, limits: &Limits) -> usize {
    let line = |check: &&Check| {
        let group = check
            .group_name()
            .map_or(0, |group| " with ".len() + group.len());
        let failed = FAILED.len();
        "[+]".len() + check.name().len() + failed.max(EXCLUDED.len() + group + OK.len())
    };
    let lines: usize = endpoint.checks().iter().map(line).sum();
    let names = TARGET_EXPANSION_MAX.saturating_mul(limits.request_head_bytes);
    let rest = NO_MATCHES.len() + endpoint.name().len() + PASSED.len().max(NOT_PASSED.len());
    lines.saturating_add(rest).saturating_add(names)
}

const OK: &[u8] = b": ok\n";
const EXCLUDED: &[u8] = b" excluded";
const FAILED: &[u8] = b" failed: reason withheld\n";
const PASSED: &[u8] = b" check passed\n";
const NOT_PASSED: &[u8] = b" check failed\n";
const NO_MATCHES: &[u8] = b"warn: some health checks cannot be excluded: no matches for \n";

fn root_with_query(
    endpoint: &Endpoint<'_>,
    now: Instant,
    request: &Request<'_>,
    query: &[u8],
    writer: Writer<'_>,
) -> Result<usize, Full> {
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

/// Kept out of its caller: the list of excludes is on the stack here.
#[inline(never)]
fn root_with_excludes(
    endpoint: &Endpoint<'_>,
    now: Instant,
    request: &Request<'_>,
    query: &[u8],
    is_verbose: bool,
    writer: Writer<'_>,
) -> Result<usize, Full> {
    let mut found = [Exclude::default(); EXCLUDES_MAX];
    let mut excludes = Excludes {
        query,
        found: &mut found,
        count: 0,
    };
    let mut values = request
        .target()
        .pairs()
        .filter(|(name, _)| name.is("exclude"));
    if values.any(|(_, value)| excludes.insert(value).is_err()) {
        let body = b"414 URI Too Long: more exclude parameters than this server takes\n";
        return writer.fixed(StatusCode::TARGET_TOO_LONG, Fields::Text, body);
    }
    excludes.sort();
    report(endpoint, now, is_verbose, &mut excludes, writer)
}

fn report(
    endpoint: &Endpoint<'_>,
    now: Instant,
    is_verbose: bool,
    excludes: &mut Excludes<'_, '_>,
    writer: Writer<'_>,
) -> Result<usize, Full> {
    let passes = |check: &Check| check.passes(now) || excludes.exclusion(check).is_some();
    if !is_verbose && endpoint.checks().iter().all(|check| passes(check)) {
        return writer.ok();
    }
    writer.rendered(Fields::Text, |text| {
        let mut has_failed = false;
        for check in endpoint
            .checks()
            .iter()
            .filter(|check| check.is_listed(now))
        {
            has_failed |= line(check, now, excludes, text);
        }
        if !has_failed && !is_verbose {
            // What failed a moment ago passes now.
            text.truncate(0);
            text.push(b"ok");
            return StatusCode::OK;
        }
        excludes.warn(text);
        text.push(endpoint.name().as_bytes());
        text.push(if has_failed { NOT_PASSED } else { PASSED });
        if has_failed {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        }
    })
}

/// One check's line. Returns whether it failed.
fn line(check: &Check, now: Instant, excludes: &mut Excludes<'_, '_>, text: &mut Text<'_>) -> bool {
    let exclusion = excludes.exclusion(check);
    let has_failed = exclusion.is_none() && !check.passes(now);
    text.push(if has_failed { b"[-]" } else { b"[+]" });
    text.push(check.name().as_bytes());
    match exclusion {
        None if has_failed => text.push(FAILED),
        None => text.push(b" ok\n"),
        Some(group) => {
            text.push(EXCLUDED);
            if let Some(group) = group {
                text.push(b" with ");
                text.push(group.as_bytes());
            }
            text.push(OK);
        }
    }
    excludes.mark_matched(check);
    has_failed
}

/// A value of `exclude`: its place in the query, and whether it named anything.
#[derive(Clone, Copy, Default)]
struct Exclude {
    start: u16,
    length: u16,
    is_matched: bool,
}

/// What `exclude` parameters name: a set, sorted bytewise as decoded.
struct Excludes<'q, 'f> {
    query: &'q [u8],
    found: &'f mut [Exclude],
    count: usize,
}

impl Excludes<'_, '_> {
    fn none() -> Self {
        Excludes {
            query: b"",
            found: &mut [],
            count: 0,
        }
    }

    /// Appends a value, which must be part of the query.
    fn insert(&mut self, value: Decoded<'_>) -> Result<(), Full> {
        let raw = value.raw();
        // The value is a slice of the query: the distance of their addresses is its place. An empty
        // one may be a constant elsewhere, and has no place.
        let start = match raw.is_empty() {
            true => 0,
            false => raw.as_ptr().addr().wrapping_sub(self.query.as_ptr().addr()),
        };
        let exclude = Exclude {
            start: u16::try_from(start).map_err(|_| Full)?,
            length: u16::try_from(raw.len()).map_err(|_| Full)?,
            is_matched: false,
        };
        *self.found.get_mut(self.count).ok_or(Full)? = exclude;
        self.count += 1;
        Ok(())
    }

    /// Makes a sorted set of what was inserted.
    fn sort(&mut self) {
        let query = self.query;
        let found = self.found.get_mut(..self.count).unwrap_or_default();
        heap_sort(found, |a, b| {
            a.value(query).bytes().lt(b.value(query).bytes())
        });
        let mut kept = 0usize;
        for at in 0..found.len() {
            let Some(next) = found.get(at).copied() else {
                break;
            };
            let last = kept.checked_sub(1).and_then(|last| found.get(last));
            if last.is_some_and(|last| last.value(query).bytes().eq(next.value(query).bytes())) {
                continue;
            }
            if let Some(slot) = found.get_mut(kept) {
                *slot = next;
            }
            kept += 1;
        }
        self.count = kept;
    }

    /// Whether `check` is excluded; by its own name, `Some(None)`, or with its group.
    fn exclusion(&self, check: &Check) -> Option<Option<&'static str>> {
        if self.count == 0 {
            return None;
        }
        if self.position(check.name()).is_some() {
            return Some(None);
        }
        let group = check.group_name()?;
        self.position(group).map(|_| Some(group))
    }

    /// Remembers that the check's name and group are known ones.
    fn mark_matched(&mut self, check: &Check) {
        for name in [Some(check.name()), check.group_name()]
            .into_iter()
            .flatten()
        {
            if let Some(exclude) = self.position(name).and_then(|at| self.found.get_mut(at)) {
                exclude.is_matched = true;
            }
        }
    }

    /// The line about names that match nothing, if there are any.
    fn warn(&self, text: &mut Text<'_>) {
        let Some((warning, end)) = NO_MATCHES.split_at_checked(NO_MATCHES.len() - 1) else {
            return;
        };
        let mut separator = warning;
        for exclude in self.set().iter().filter(|exclude| !exclude.is_matched) {
            text.push(separator);
            quote(exclude.value(self.query).bytes(), text);
            separator = b",";
        }
        if separator == b"," {
            text.push(end);
        }
    }

    fn set(&self) -> &[Exclude] {
        self.found.get(..self.count).unwrap_or_default()
    }

    fn position(&self, name: &str) -> Option<usize> {
        let order =
            |exclude: &Exclude| -> Ordering { exclude.value(self.query).bytes().cmp(name.bytes()) };
        self.set().binary_search_by(order).ok()
    }
}

impl Exclude {
    fn value<'q>(&self, query: &'q [u8]) -> Decoded<'q> {
        let start = usize::from(self.start);
        Decoded::new(
            query
                .get(start..start + usize::from(self.length))
                .unwrap_or_default(),
        )
    }
}

/// Sorts in place, in bounded steps for any input. The core's own is faster for thousands, and takes
/// 9 KiB of program.
fn heap_sort<T>(items: &mut [T], is_less: impl Fn(&T, &T) -> bool) {
    // The first is before the second; else nothing happens, where the core's own would panic.
    let swap = |items: &mut [T], from: usize, to: usize| {
        if let Some([first, .., last]) = items.get_mut(from..=to) {
            core::mem::swap(first, last);
        }
    };
    // Lets the item at `parent` sink below all that are larger, before `end`.
    let sink = |items: &mut [T], mut parent: usize, end: usize| {
        let is_less = |items: &[T], a: usize, b: usize| match (items.get(a), items.get(b)) {
            (Some(a), Some(b)) => is_less(a, b),
            _ => false,
        };
        loop {
            let mut child = 2 * parent + 1;
            if child + 1 < end && is_less(items, child, child + 1) {
                child += 1;
            }
            if child >= end || !is_less(items, parent, child) {
                return;
            }
            swap(items, parent, child);
            parent = child;
        }
    };
    for parent in (0..items.len() / 2).rev() {
        sink(items, parent, items.len());
    }
    for last in (1..items.len()).rev() {
        swap(items, 0, last);
        sink(items, 0, last);
    }
}

#[cfg(test)]
mod tests {
    use super::heap_sort;

    #[test]
    fn every_order_of_a_few_is_sorted() {
        for count in 0..=6_u32 {
            for order in 0..count.pow(count) {
                let mut items = [0; 6];
                for (place, item) in (0..count).zip(&mut items) {
                    *item = order / count.pow(place) % count;
                }
                let items = &mut items[..count as usize];
                heap_sort(items, |a, b| a < b);
                let sum: u32 = items.iter().sum();
                let digits = (0..count).map(|place| order / count.pow(place) % count);
                assert!(items.is_sorted() && digits.sum::<u32>() == sum, "{order}");
            }
        }
    }
}

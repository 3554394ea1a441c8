//! Endpoints: a path and the checks that decide its answer.
//!
//! Knows no HTTP: [`crate::answer`] compares the path with a request's and writes the answer. Made by
//! the embedder, the daemon and the C API.

use core::ops::Deref;
#[cfg(feature = "server")]
use std::sync::Arc;

use super::{Check, is_name_bytes};
use crate::time::Instant;

/// A path such as `/healthz` and the checks that decide its answer, in the order they are listed.
///
/// ```
/// use healthz::{Check, Endpoint};
///
/// static PING: Check = Check::ping();
/// static ENDPOINTS: [Endpoint; 1] = [Endpoint::new("/healthz", &[&PING])];
/// ```
///
/// Two checks of an endpoint cannot have the same name:
///
/// ```compile_fail
/// # use healthz::{Check, Endpoint};
/// static A: Check = Check::manual("disk");
/// static B: Check = Check::manual("disk");
/// static ENDPOINT: Endpoint = Endpoint::new("/healthz", &[&A, &B]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    path: &'a str,
    endpoint_type: EndpointType,
    checks: Checks<'a>,
}

/// The type of an endpoint in metrics: Kubernetes has three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointType {
    /// Any other path.
    Other,
    /// `/healthz`
    Healthz,
    /// `/livez`
    Livez,
    /// `/readyz`
    Readyz,
}

impl EndpointType {
    pub(crate) const COUNT: usize = 4;

    /// The type of the endpoint with this path.
    pub(crate) const fn of(path: &[u8]) -> Self {
        match path {
            b"/healthz" => EndpointType::Healthz,
            b"/livez" => EndpointType::Livez,
            b"/readyz" => EndpointType::Readyz,
            _ => EndpointType::Other,
        }
    }
}

/// The checks of an endpoint. Without the feature `server` this is a slice alone.
#[derive(Clone, Copy, Debug)]
enum Checks<'a> {
    Borrowed(&'a [&'a Check]),
    /// The checks of an endpoint of an [`EndpointSet`](super::EndpointSet).
    #[cfg(feature = "server")]
    Shared(&'a [Arc<Check>]),
}

impl<'a> Endpoint<'a> {
    /// An endpoint at `path` that passes while all `checks` of severity `Error` pass. Without any it always
    /// passes.
    ///
    /// # Panics
    /// If `path` is not a slash and then a valid name (see [`Check::manual`]), or if two checks have the
    /// same name: a request could not name the second one. The names are compared in pairs.
    pub const fn new(path: &'a str, checks: &'a [&'a Check]) -> Self {
        assert!(
            are_distinct(checks),
            "two checks of an endpoint have the same name"
        );
        Endpoint::with_any_names(path, checks)
    }

    /// As [`new`](Endpoint::new), but does not compare the names of the checks.
    pub(crate) const fn with_any_names(path: &'a str, checks: &'a [&'a Check]) -> Self {
        assert!(
            is_path(path),
            "an endpoint's path is / and then a name like healthz"
        );
        Endpoint {
            path,
            endpoint_type: EndpointType::of(path.as_bytes()),
            checks: Checks::Borrowed(checks),
        }
    }

    /// An endpoint of a set, which has validated it.
    #[cfg(feature = "server")]
    #[inline]
    pub(super) const fn with_shared(path: &'a str, checks: &'a [Arc<Check>]) -> Self {
        Endpoint {
            path,
            endpoint_type: EndpointType::of(path.as_bytes()),
            checks: Checks::Shared(checks),
        }
    }

    /// The three endpoints of Kubernetes: `/healthz`, `/livez` and `/readyz`.
    ///
    /// All have the same checks, with one exception, as in Kubernetes: a [`Check::shutdown`] must be the
    /// last of `checks` and belongs to `/readyz` alone. A process that is draining is alive, and a
    /// failing `/livez` would have it killed before its last requests are answered.
    ///
    /// ```
    /// use healthz::{Check, Endpoint, Instant};
    ///
    /// static PING: Check = Check::ping();
    /// static SHUTDOWN: Check = Check::shutdown();
    /// static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING, &SHUTDOWN]);
    ///
    /// SHUTDOWN.begin_shutdown();
    /// let passing = ENDPOINTS.map(|endpoint| endpoint.passes(Instant::ZERO));
    /// assert_eq!(passing, [true, true, false]);
    /// ```
    ///
    /// # Panics
    /// If two checks have the same name, or if a [`Check::shutdown`] is not the last one.
    pub const fn kubernetes(checks: &'a [&'a Check]) -> [Endpoint<'a>; 3] {
        // The names are compared once: the other endpoints have a part of the same list.
        let ready = Endpoint::new("/readyz", checks);
        let live = match checks.split_last() {
            Some((last, others)) if last.is_shutdown => others,
            _ => checks,
        };
        // A slice cannot leave out an element in the middle.
        assert!(
            !has_shutdown(live),
            "Check::shutdown must be the last check: it belongs to /readyz alone"
        );
        [
            Endpoint::with_any_names("/healthz", live),
            Endpoint::with_any_names("/livez", live),
            ready,
        ]
    }

    /// The path, `/healthz` for example.
    #[inline]
    pub const fn path(&self) -> &'a str {
        self.path
    }

    /// The type in metrics.
    #[inline]
    pub(crate) const fn endpoint_type(&self) -> EndpointType {
        self.endpoint_type
    }

    /// The endpoint's name in answers, as Kubernetes has it: the first segment of the path.
    pub fn name(&self) -> &'a str {
        let name = self.path.strip_prefix('/').unwrap_or(self.path);
        name.split('/').next().unwrap_or(name)
    }

    /// The checks, in the order they are listed.
    #[inline]
    pub fn checks(&self) -> impl ExactSizeIterator<Item = &'a Check> + Clone + use<'a> {
        match self.checks {
            Checks::Borrowed(checks) => CheckIter::Borrowed(checks.iter()),
            #[cfg(feature = "server")]
            Checks::Shared(checks) => CheckIter::Shared(checks.iter()),
        }
    }

    /// True if no check fails at `now`, apart from those of severity
    /// [`Warning`](super::Severity::Warning).
    pub fn passes(&self, now: Instant) -> bool {
        self.checks().all(|check| check.lets_endpoint_pass(now))
    }

    /// True if every check passes at `now`. Each is then counted as a success of this endpoint. For most requests
    /// this is all that must be known, so the severity costs nothing.
    #[inline]
    pub(crate) fn count_if_all_pass(&self, now: Instant) -> bool {
        // A loop for each variant, so that a check costs no branch on it.
        let counted = match self.checks {
            Checks::Borrowed(checks) => count_passing(checks, self.endpoint_type, now),
            #[cfg(feature = "server")]
            Checks::Shared(checks) => count_passing_shared(checks, self.endpoint_type, now),
        };
        let all_pass = counted == self.checks().len();
        if !all_pass {
            self.uncount(counted);
        }
        all_pass
    }

    /// Subtracts the success of the first `count` checks, because the answer was not written, or because its checks
    /// will be counted one by one.
    #[cold]
    pub(crate) fn uncount(&self, count: usize) {
        for check in self.checks().take(count) {
            check.history.uncount_success(self.endpoint_type);
        }
    }

    /// True if a [`Check::shutdown`] of this endpoint fails at `now`.
    pub(crate) fn is_draining(&self, now: Instant) -> bool {
        self.checks().any(|check| check.is_draining(now))
    }
}

/// Counts each check that passes as a success, up to the first that fails. Returns how many were counted.
#[inline]
fn count_passing<C: Deref<Target = Check>>(
    checks: &[C],
    endpoint_type: EndpointType,
    now: Instant,
) -> usize {
    let mut counted = 0;
    for check in checks {
        if !check.passes(now) {
            break;
        }
        check.history.count_success(endpoint_type);
        counted += 1;
    }
    counted
}

// Not inlined: it would cost instructions in the answers of borrowed endpoints.
#[cfg(feature = "server")]
#[inline(never)]
fn count_passing_shared(checks: &[Arc<Check>], endpoint_type: EndpointType, now: Instant) -> usize {
    count_passing(checks, endpoint_type, now)
}

#[derive(Clone)]
enum CheckIter<'a> {
    Borrowed(core::slice::Iter<'a, &'a Check>),
    #[cfg(feature = "server")]
    Shared(core::slice::Iter<'a, Arc<Check>>),
}

impl<'a> Iterator for CheckIter<'a> {
    type Item = &'a Check;

    #[inline]
    fn next(&mut self) -> Option<&'a Check> {
        match self {
            CheckIter::Borrowed(checks) => checks.next().copied(),
            #[cfg(feature = "server")]
            CheckIter::Shared(checks) => checks.next().map(|check| &**check),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            CheckIter::Borrowed(checks) => checks.size_hint(),
            #[cfg(feature = "server")]
            CheckIter::Shared(checks) => checks.size_hint(),
        }
    }
}

impl ExactSizeIterator for CheckIter<'_> {}

pub(super) const fn is_path(path: &str) -> bool {
    matches!(path.as_bytes(), [b'/', ..]) && is_name_bytes(path.as_bytes(), 1)
}

// `while` loops over slices, because a `const fn` has no iterators.
const fn has_shutdown(mut checks: &[&Check]) -> bool {
    while let Some((first, rest)) = checks.split_first() {
        if first.is_shutdown {
            return true;
        }
        checks = rest;
    }
    false
}

/// True if no two checks have the same name.
const fn are_distinct(mut checks: &[&Check]) -> bool {
    while let Some((first, rest)) = checks.split_first() {
        let mut others = rest;
        while let Some((other, rest)) = others.split_first() {
            if are_equal(first.name_bytes(), other.name_bytes()) {
                return false;
            }
            others = rest;
        }
        checks = rest;
    }
    true
}

/// `a == b`, which is not `const`. Compares from the end: names often begin alike and rarely end alike.
const fn are_equal(mut a: &[u8], mut b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    while let (Some((last_a, rest_a)), Some((last_b, rest_b))) = (a.split_last(), b.split_last()) {
        if *last_a != *last_b {
            return false;
        }
        (a, b) = (rest_a, rest_b);
    }
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_slash_and_a_name() {
        assert!(is_path("/healthz") && is_path("/healthz/test"));
        assert!(!is_path("healthz") && !is_path("/") && !is_path("") && !is_path("//a"));
    }

    /// Regression: a second check of the same name was listed but could not be requested or excluded.
    #[test]
    #[should_panic(expected = "two checks of an endpoint have the same name")]
    fn two_checks_of_the_same_name_are_refused() {
        let checks = ["a", "b", "a"].map(Check::manual);
        Endpoint::new("/healthz", &checks.each_ref());
    }

    #[test]
    fn names_that_share_an_end_or_a_beginning_are_distinct() {
        let checks = ["a", "b", "ab", "ba", "aa", "a/b", "b/a"].map(Check::manual);
        assert!(are_distinct(&checks.each_ref()));
        assert!(are_distinct(&[]));
    }

    /// Regression: a draining process failed `/livez` and `/healthz` too, and the kubelet killed it.
    #[test]
    fn a_shutdown_fails_readyz_alone() {
        let (ping, shutdown) = (Check::ping(), Check::shutdown());
        let checks = [&ping, &shutdown];
        let endpoints = Endpoint::kubernetes(&checks);
        shutdown.begin_shutdown();
        let passing = endpoints.map(|endpoint| endpoint.passes(Instant::ZERO));
        assert_eq!(passing, [true, true, false]);
        let draining = endpoints.map(|endpoint| endpoint.is_draining(Instant::ZERO));
        assert_eq!(draining, [false, false, true]);
        assert_eq!(endpoints.map(|endpoint| endpoint.checks().len()), [1, 1, 2]);
    }

    #[test]
    #[should_panic(expected = "Check::shutdown must be the last check")]
    fn a_shutdown_that_is_not_last_is_refused() {
        let (ping, shutdown) = (Check::ping(), Check::shutdown());
        Endpoint::kubernetes(&[&shutdown, &ping]);
    }
}

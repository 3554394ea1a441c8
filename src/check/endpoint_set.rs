//! Endpoints that own their checks, for a server that gets others while it serves.
//!
//! Knows no server: `server` shares a set between threads and replaces it by another. Needs the heap, so it exists
//! with the feature `server` only.

use core::fmt;
use std::boxed::Box;
use std::string::String;
use std::sync::Arc;
use std::vec::Vec;

use super::Check;
use super::endpoint::{Endpoint, is_path};

/// Endpoints and their checks, made while the program runs, from a file for example.
///
/// A set does not change. To add or remove a check, make another set with the same [`Arc`]s for the checks that
/// remain, so that these keep their states, and hand it to the server:
/// [`ServerHandle::replace_endpoints`](crate::server::ServerHandle::replace_endpoints).
///
/// ```
/// use healthz::{Check, EndpointSet};
/// use std::sync::Arc;
///
/// let names = "disk\nnetwork\n"; // from a file
/// let mut checks = vec![Arc::new(Check::ping())];
/// for name in names.lines().filter(|name| Check::is_name(name)) {
///     checks.push(Arc::new(Check::manual(name)));
/// }
/// let set = EndpointSet::kubernetes(&checks)?;
/// # assert_eq!(set.endpoints().len(), 3);
/// # Ok::<(), healthz::EndpointSetError>(())
/// ```
#[derive(Debug)]
pub struct EndpointSet {
    endpoints: Box<[OwnedEndpoint]>,
}

#[derive(Debug)]
struct OwnedEndpoint {
    path: Box<str>,
    checks: Box<[Arc<Check>]>,
}

/// Why an [`EndpointSet`] refused its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSetError {
    /// This path is not a slash and then a valid name; see [`Check::is_name`].
    InvalidPath(String),
    /// Two endpoints have this path.
    DuplicatePath(String),
    /// Two checks of an endpoint have the same name: a request could not name the second one.
    DuplicateCheck {
        /// The path of the endpoint.
        path: String,
        /// The name of the checks.
        name: String,
    },
}

impl EndpointSet {
    /// A set of endpoints, each a path and its checks in the order they are listed. A check can be in several
    /// endpoints. If two endpoints match a path, the first answers, as `/a` before `/a/b`.
    ///
    /// # Errors
    /// If a path is invalid or occurs twice, or if two checks of an endpoint have the same name.
    pub fn new<'p>(
        endpoints: impl IntoIterator<Item = (&'p str, Vec<Arc<Check>>)>,
    ) -> Result<Self, EndpointSetError> {
        let mut set: Vec<OwnedEndpoint> = Vec::new();
        for (path, checks) in endpoints {
            if !is_path(path) {
                return Err(EndpointSetError::InvalidPath(path.into()));
            }
            if set.iter().any(|other| &*other.path == path) {
                return Err(EndpointSetError::DuplicatePath(path.into()));
            }
            if let Some(name) = duplicate(&checks) {
                return Err(EndpointSetError::DuplicateCheck {
                    path: path.into(),
                    name: name.into(),
                });
            }
            set.push(OwnedEndpoint {
                path: path.into(),
                checks: checks.into(),
            });
        }
        Ok(EndpointSet {
            endpoints: set.into(),
        })
    }

    /// The three endpoints of Kubernetes: `/healthz`, `/livez` and `/readyz`. All have the same checks, but each
    /// [`Check::shutdown`] belongs to `/readyz` alone; see [`Endpoint::kubernetes`].
    ///
    /// # Errors
    /// If two checks have the same name.
    pub fn kubernetes(checks: &[Arc<Check>]) -> Result<Self, EndpointSetError> {
        let live: Vec<Arc<Check>> = checks
            .iter()
            .filter(|check| !check.is_shutdown)
            .cloned()
            .collect();
        EndpointSet::new([
            ("/healthz", live.clone()),
            ("/livez", live),
            ("/readyz", checks.to_vec()),
        ])
    }

    /// The endpoints, in their order.
    #[inline]
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = Endpoint<'_>> + Clone {
        let endpoints = self.endpoints.iter();
        endpoints.map(|owned| Endpoint::with_shared(&owned.path, &owned.checks))
    }
}

impl fmt::Display for EndpointSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointSetError::InvalidPath(path) => {
                write!(f, "{path:?} is not / and then a name like healthz")
            }
            EndpointSetError::DuplicatePath(path) => write!(f, "two endpoints at {path}"),
            EndpointSetError::DuplicateCheck { path, name } => {
                write!(f, "two checks of {path} have the name {name}")
            }
        }
    }
}

impl core::error::Error for EndpointSetError {}

/// A name that two of `checks` have.
fn duplicate(checks: &[Arc<Check>]) -> Option<&str> {
    let mut names: Vec<&str> = checks.iter().map(|check| check.name()).collect();
    names.sort_unstable();
    let pairs = names.iter().zip(names.iter().skip(1));
    pairs.into_iter().find(|(a, b)| a == b).map(|(a, _)| *a)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::time::Instant;

    fn check(name: &str) -> Arc<Check> {
        Arc::new(Check::manual(name))
    }

    #[test]
    fn a_set_has_its_endpoints_and_their_checks_in_order() {
        let (a, b) = (check("a"), check("b"));
        let set = EndpointSet::new([
            ("/x", std::vec![b.clone(), a.clone()]),
            ("/y", std::vec![]),
            ("/z", std::vec![a.clone()]),
        ])
        .unwrap();
        let paths: Vec<&str> = set.endpoints().map(|endpoint| endpoint.path()).collect();
        assert_eq!(paths, ["/x", "/y", "/z"]);
        let x = set.endpoints().next().unwrap();
        assert!(x.checks().map(Check::name).eq(["b", "a"]));
        let passing = || {
            set.endpoints()
                .map(|endpoint| endpoint.passes(Instant::ZERO))
        };
        assert!(passing().eq([false, true, false]));
        a.pass();
        assert!(passing().eq([false, true, true]));
        b.pass();
        assert!(passing().eq([true, true, true]));
    }

    #[test]
    fn invalid_paths_and_duplicate_paths_and_checks_are_errors() {
        let (a, again) = (check("a"), check("a"));
        let refused = |endpoints: &[(&'static str, Vec<Arc<Check>>)]| {
            let set = EndpointSet::new(endpoints.iter().cloned());
            std::string::ToString::to_string(&set.unwrap_err())
        };
        assert_eq!(
            refused(&[("/x", std::vec![check("b"), a.clone(), again.clone()])]),
            "two checks of /x have the name a"
        );
        // The same check twice, too.
        let twice = std::vec![a.clone(), a.clone()];
        assert!(EndpointSet::kubernetes(&twice).is_err());
        assert_eq!(
            refused(&[
                ("/x", std::vec![]),
                ("/y", std::vec![]),
                ("/x", std::vec![a])
            ]),
            "two endpoints at /x"
        );
        for bad in ["", "/", "x", "//x", "/x/", "/a b"] {
            let error = refused(&[(bad, std::vec![])]);
            assert!(
                error.ends_with("is not / and then a name like healthz"),
                "{error}"
            );
        }
        // In different endpoints, two checks may have the same name.
        let both = [("/x", std::vec![check("a")]), ("/y", std::vec![again])];
        assert!(EndpointSet::new(both).is_ok());
    }

    #[test]
    fn a_shutdown_of_a_set_belongs_to_readyz_alone() {
        let shutdown = Arc::new(Check::shutdown());
        let set = EndpointSet::kubernetes(&[shutdown.clone(), Arc::new(Check::ping())]).unwrap();
        shutdown.begin_shutdown();
        let passing = set
            .endpoints()
            .map(|endpoint| endpoint.passes(Instant::ZERO));
        assert!(passing.eq([true, true, false]));
        let counts = set.endpoints().map(|endpoint| endpoint.checks().len());
        assert!(counts.eq([1, 1, 2]));
    }
}

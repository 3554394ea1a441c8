//! The paths that a listener serves, if it does not serve all.
//!
//! Knows no socket. [`super::Listeners`] keeps one for each listener that has such a setting, and [`super::driver`]
//! reads it before each answer on that listener.

use std::boxed::Box;
use std::fmt;
use std::str::FromStr;
use std::string::String;

use crate::http::{Form, Target};

/// The paths that a listener serves. A path covers what is below it: `/metrics` also serves `/metrics/slis`, and
/// `/readyz` also serves `/readyz/NAME`, but `/metrics` does not serve `/metrics-other`.
///
/// A request for another path gets 404, as a path that does not exist. Only `OPTIONS *` is always answered: it is
/// about the server, and its answer is empty. A path with an empty, `.` or `..` segment (`//metrics`) gets 404 too,
/// and is not redirected, so that no redirect leads away from the paths of the listener.
///
/// ```no_run
/// use healthz::server::{Address, ListenerPaths, Listeners};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut listeners = Listeners::new();
/// listeners.bind(&Address::DEFAULT)?;
/// // Other machines can only scrape.
/// listeners = listeners.allow_remote(true);
/// listeners.bind_for(&"0.0.0.0:9100".parse()?, &ListenerPaths::new(&["/metrics"])?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPaths {
    fixed: &'static [&'static str],
    /// More paths, separated by `+`. Empty if there are none, and takes nothing from the heap then.
    text: Box<str>,
}

impl ListenerPaths {
    /// Only `paths`, and what is below them. They are compared one after the other for each request. Takes nothing
    /// from the heap.
    ///
    /// # Errors
    /// If there is none, or for the first one that is not `/` and then segments separated by `/`. No segment can be
    /// empty, `.` or `..`, or have a character that is not allowed in a path (RFC 3986 section 3.3) or a `%`: a request
    /// is compared after its `%` sequences are decoded.
    pub fn new(paths: &'static [&'static str]) -> Result<Self, ListenerPathsError> {
        if paths.is_empty() {
            return Err(ListenerPathsError(String::new()));
        }
        check(paths.iter().copied())?;
        Ok(ListenerPaths {
            fixed: paths,
            text: Box::default(),
        })
    }

    /// The paths, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let more = self.text.split('+').filter(|path| !path.is_empty());
        self.fixed.iter().copied().chain(more)
    }

    /// Whether a request for `target` is answered. Not inlined: few listeners have paths.
    #[inline(never)]
    pub(super) fn cover(&self, target: &Target<'_>) -> bool {
        let is_below = |path: &str| matches!(target.strip_prefix(path), Some([] | [b'/', ..]));
        target.form() == Form::Asterisk || !target.is_unclean() && self.iter().any(is_below)
    }
}

/// Parses paths that are separated by `+`, as `/metrics+/readyz`.
impl FromStr for ListenerPaths {
    type Err = ListenerPathsError;

    fn from_str(text: &str) -> Result<Self, ListenerPathsError> {
        check(text.split('+'))?;
        Ok(ListenerPaths {
            fixed: &[],
            text: text.into(),
        })
    }
}

/// Fails for the first path that is not valid.
fn check<'p>(mut paths: impl Iterator<Item = &'p str>) -> Result<(), ListenerPathsError> {
    match paths.find(|path| !is_valid(path)) {
        Some(path) => Err(ListenerPathsError(path.into())),
        None => Ok(()),
    }
}

fn is_valid(path: &str) -> bool {
    // `/` would cover only itself, and not `/healthz` or any other path below it.
    let is_excluded = path.ends_with('/') || path.contains('%');
    !is_excluded
        && Target::parse(path.as_bytes()).is_some_and(|target| {
            target.form() == Form::Origin && target.query().is_none() && !target.is_unclean()
        })
}

/// The first path that no [`ListenerPaths`] can have; empty if there is no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPathsError(String);

impl fmt::Display for ListenerPathsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenerPathsError(path) = self;
        write!(
            f,
            "the path {path:?} cannot be served alone; expected one such as /metrics, without % and ?, and without / at its end"
        )
    }
}

impl core::error::Error for ListenerPathsError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_path_covers_itself_and_what_is_below_it() {
        let paths = ListenerPaths::new(&["/metrics", "/readyz"]).unwrap();
        let covers = |target: &str| paths.cover(&Target::parse(target.as_bytes()).unwrap());
        for target in [
            "/metrics",
            "/metrics?a=b",
            "/metrics/",
            "/metrics/slis",
            "/readyz/disk",
            "/%6detrics/slis",
            "http://a/metrics",
            "*",
        ] {
            assert!(covers(target), "{target}");
        }
        for target in [
            "/",
            "/metric",
            "/metrics-other",
            "/metrics%2Fslis",
            "/healthz",
            "/healthz/metrics",
            "//metrics",
            "/./metrics",
            "/metrics/../healthz",
            "/metrics/../metrics",
            "/healthz/../metrics",
            "http://a//metrics",
        ] {
            assert!(!covers(target), "{target}");
        }
    }

    #[test]
    fn a_path_that_no_clean_request_can_name_is_refused() {
        for path in [
            "",
            "/",
            "metrics",
            "/metrics/",
            "//metrics",
            "/a/../b",
            "/.",
            "/metrics?a",
            "/metrics#a",
            "/%6detrics",
            "*",
            "http://a/metrics",
            "/a b",
        ] {
            let error = path.parse::<ListenerPaths>().unwrap_err();
            let expected = std::format!("the path {path:?} cannot be served alone");
            assert!(error.to_string().starts_with(&expected), "{error}");
            let error = std::format!("/a+{path}+/").parse::<ListenerPaths>();
            assert_eq!(error.unwrap_err().0, path);
        }
        assert!(ListenerPaths::new(&[]).is_err());
        assert!(ListenerPaths::new(&["/a", "/"]).is_err());
        const VALID: [&str; 3] = ["/m", "/metrics/slis", "/.well-known/x"];
        let parsed: ListenerPaths = VALID.join("+").parse().unwrap();
        assert!(parsed.iter().eq(VALID));
        assert!(ListenerPaths::new(&VALID).unwrap().iter().eq(VALID));
        // A path of a list can have a `+`.
        assert!(ListenerPaths::new(&["/a+b"]).unwrap().iter().eq(["/a+b"]));
    }
}

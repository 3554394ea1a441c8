//! Sockets that a service manager passes to the process: `LISTEN_FDS`, sd_listen_fds(3).
//!
//! Reads the environment only in a call of [`ListenFds::from_env`], and does not change it. Knows only numbers of
//! descriptors: [`adopt`](super::adopt) takes one over, and [`super::Listeners`] accepts it. Called by hosts and the
//! daemon.

use core::ops::Range;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::RawFd;
use std::string::{String, ToString};

/// The first descriptor that a service manager passes: sd_listen_fds(3).
const FIRST: RawFd = 3;

/// The descriptors that a service manager (systemd, systemd-socket-activate and others) has passed to this
/// process.
///
/// Take them over at the start of `main`, before anything else opens descriptors:
///
/// ```
/// use healthz::server::{ListenFds, Listeners, adopt};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut listeners = Listeners::new();
/// let passed = ListenFds::from_env()?;
/// for fd in passed.numbers() {
///     // If there are also other sockets, choose by name (`FileDescriptorName=` in systemd).
///     if passed.name(fd).is_none_or(|name| name == "healthz.socket") {
///         // SAFETY: nothing in this process has opened, taken or closed a descriptor yet.
///         listeners.add(unsafe { adopt(fd) }?)?;
///     }
/// }
/// if listeners.is_empty() {
///     listeners.bind(&"127.0.0.1:0".parse()?)?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// Programs without `unsafe` can use a crate for this (`listenfd`, `libsystemd`):
/// [`Listeners::add`](super::Listeners::add) accepts the sockets that they return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenFds {
    count: RawFd,
    names: Option<String>,
}

/// `LISTEN_FDS` is for this process, and is not a number of descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenFdsError {
    value: String,
}

impl ListenFds {
    /// Reads the environment.
    ///
    /// # Errors
    /// As [`parse`](ListenFds::parse).
    pub fn from_env() -> Result<Self, ListenFdsError> {
        let of = std::env::var_os;
        let [count, pid, names] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].map(of);
        ListenFds::parse(
            count.as_deref(),
            pid.as_deref(),
            names.as_deref(),
            std::process::id(),
        )
    }

    /// Parses the values of `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` for the process with ID `own_pid`.
    /// The result is empty if they are not set or are for another process.
    ///
    /// # Errors
    /// If `LISTEN_FDS` is not a number of descriptors.
    pub fn parse(
        count: Option<&OsStr>,
        pid: Option<&OsStr>,
        names: Option<&OsStr>,
        own_pid: u32,
    ) -> Result<Self, ListenFdsError> {
        let (Some(count), Some(pid)) = (count, pid) else {
            return Ok(ListenFds::default());
        };
        let pid = pid.to_str().and_then(|text| text.parse().ok());
        if pid != Some(own_pid) {
            return Ok(ListenFds::default());
        }
        let number = count.to_str().and_then(|text| text.parse().ok());
        match number {
            Some(count) if (0..=RawFd::MAX - FIRST).contains(&count) => Ok(ListenFds {
                count,
                names: names.and_then(OsStr::to_str).map(ToString::to_string),
            }),
            _ => Err(ListenFdsError {
                value: count.to_string_lossy().into_owned(),
            }),
        }
    }

    /// The numbers of the descriptors, from 3 on.
    pub fn numbers(&self) -> Range<RawFd> {
        FIRST..FIRST + self.count
    }

    /// The name of descriptor `fd`; `None` if it has none, or was not passed.
    pub fn name(&self, fd: RawFd) -> Option<&str> {
        if !self.numbers().contains(&fd) {
            return None;
        }
        let index = usize::try_from(fd - FIRST).ok()?;
        let name = self.names.as_deref()?.split(':').nth(index)?;
        // systemd uses this name for sockets without one.
        (!name.is_empty() && name != "unknown").then_some(name)
    }
}

impl fmt::Display for ListenFdsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.escape_debug();
        write!(f, "LISTEN_FDS={value}: expected a number of sockets")
    }
}

impl core::error::Error for ListenFdsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(count: &str, pid: &str, names: Option<&str>) -> Result<ListenFds, ListenFdsError> {
        let [count, pid] = [count, pid].map(|text| Some(OsStr::new(text)));
        ListenFds::parse(count, pid, names.map(OsStr::new), 42)
    }

    fn numbers(count: &str, pid: &str) -> Option<Range<RawFd>> {
        parse(count, pid, None).ok().map(|passed| passed.numbers())
    }

    #[test]
    fn descriptors_for_another_process_are_ignored() {
        assert_eq!(numbers("2", "42"), Some(3..5));
        assert_eq!(numbers("0", "42"), Some(3..3));
        for other in ["1", "", "042x", "-42", "4 2"] {
            assert_eq!(numbers("2", other), Some(3..3), "{other}");
        }
        let two = Some(OsStr::new("2"));
        for (count, pid) in [(two, None), (None, two), (None, None)] {
            let passed = ListenFds::parse(count, pid, None, 2).unwrap();
            assert!(passed.numbers().is_empty());
        }
    }

    #[test]
    fn other_values_of_listen_fds_are_an_error() {
        for bad in ["", "-1", "two", "2147483645", "99999999999", " 1"] {
            let error = parse(bad, "42", None).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&std::format!("LISTEN_FDS={bad}: ")),
                "{text}"
            );
        }
        assert_eq!(numbers("2147483644", "42"), Some(3..RawFd::MAX));
        // For another process, so it is not an error here.
        assert_eq!(numbers("two", "1"), Some(3..3));
    }

    #[test]
    fn names_belong_to_numbers() {
        let passed = parse("4", "42", Some("web:healthz.socket:unknown:")).unwrap();
        let names: std::vec::Vec<_> = (2..8).map(|fd| passed.name(fd)).collect();
        let [web, server] = ["web", "healthz.socket"].map(Some);
        assert_eq!(names, [None, web, server, None, None, None]);
        let passed = parse("1", "42", Some("web:too:many")).unwrap();
        assert_eq!((passed.name(3), passed.name(4)), (web, None));
        assert_eq!(parse("1", "42", None).unwrap().name(3), None);
    }
}

//! Gives up every right that the daemon does not need after its start, so that an intruder can do little
//! with it.
//!
//! It takes two steps. [`Sandbox::begin`] is called after everything is open and before other threads start,
//! because Landlock restricts only the calling thread and threads that start later. [`Sandbox::complete`] is
//! called when all threads run, because the filter does not allow the calls that start a thread.
//!
//! - No new privileges: a set-user-ID program would run without its rights.
//! - No core dumps, which would fill a disk if the daemon crashes again and again.
//! - [`landlock`]: no file can be opened, made, changed or removed, no TCP port bound or connected to, no
//!   other process signalled.
//! - [`filter`]: only a list of system calls, some of them only with certain arguments.
//!
//! So the file of the daemon's Unix socket stays behind at the end. The next start replaces it.
//!
//! On a system that lacks one of these, the daemon serves without it and logs that in one line: a daemon that
//! does not start would be worse than one with a weaker sandbox. Called by [`super::serve`].

#[cfg(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod filter;
#[cfg(target_os = "linux")]
mod landlock;

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
mod filter {
    pub fn apply() -> Result<(), String> {
        Err("not implemented for this processor or system".to_owned())
    }
}
#[cfg(not(target_os = "linux"))]
mod landlock {
    pub fn restrict() -> Result<(), String> {
        Err("only Linux has it".to_owned())
    }
}

use super::options::Options;

/// A sandbox between its two steps.
#[must_use]
pub struct Sandbox {
    is_wanted: bool,
    /// What this system does not provide, for the log.
    missing: String,
}

impl Sandbox {
    /// The first step, before other threads start. From now on no file or socket can be opened by name;
    /// what is open stays open.
    pub fn begin(options: &Options) -> Self {
        let mut sandbox = Sandbox {
            is_wanted: options.sandbox,
            missing: String::new(),
        };
        if sandbox.is_wanted {
            sandbox.note("core dumps stay on", limit_core_dumps());
            sandbox.note("no Landlock", landlock::restrict());
        }
        sandbox
    }

    /// The second step, for all threads. Logs what is missing.
    pub fn complete(mut self) {
        if self.is_wanted {
            self.note("no filter for system calls", filter::apply());
        }
        if !self.missing.is_empty() {
            log::warn!("the sandbox is not complete: {}", self.missing);
        }
    }

    fn note(&mut self, what: &str, result: Result<(), String>) {
        if let Err(reason) = result {
            let separator = if self.missing.is_empty() { "" } else { ", " };
            self.missing += &format!("{separator}{what} ({reason})");
        }
    }
}

#[cfg(target_os = "linux")]
fn limit_core_dumps() -> Result<(), String> {
    use nix::sys::resource::{Resource, setrlimit};
    // One byte is too small for a core file. It also stops a handler that core_pattern pipes to, which a
    // limit of 0 does not (core(5)). PR_SET_DUMPABLE would hide /proc/PID/fd from the daemon's own user, so
    // that the owner of a port could not be found.
    let limit = |bytes| setrlimit(Resource::RLIMIT_CORE, bytes, bytes);
    // A hard limit of 0 cannot be raised to one byte. Then there are no core files, but a handler is started.
    let limited = limit(1).or_else(|_| limit(0));
    limited.map_err(|error| std::io::Error::from(error).to_string())
}

#[cfg(not(target_os = "linux"))]
fn limit_core_dumps() -> Result<(), String> {
    Ok(())
}

/// The first byte of the service manager's address: `/` of a path or `@` of an abstract name. `None` if
/// there is no service manager that the daemon can notify.
#[cfg(target_os = "linux")]
fn manager() -> Option<u8> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    let first = name.as_bytes().first();
    first.copied().filter(|first| matches!(first, b'/' | b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_logged_with_its_reason() {
        let mut sandbox = Sandbox {
            is_wanted: true,
            missing: String::new(),
        };
        sandbox.note("this", Ok(()));
        assert_eq!(sandbox.missing, "");
        sandbox.note("one", Err("first".to_owned()));
        assert_eq!(sandbox.missing, "one (first)");
        sandbox.note("another", Err("second".to_owned()));
        assert_eq!(sandbox.missing, "one (first), another (second)");
    }
}

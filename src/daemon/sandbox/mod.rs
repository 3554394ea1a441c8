//! The daemon gives up what it does not need: it serves on sockets that are open already, and whoever
//! gets into it shall find little to do there.
//!
//! In two steps, because Landlock binds the thread that asks for it and its descendants, and threads
//! take calls to start: [`Sandbox::begin`] after everything was opened and before there are threads,
//! [`Sandbox::complete`] when all of them are there.
//!
//! - No new privileges: set-user-ID programs are none for us.
//! - No core dumps, which would fill a disk while the daemon restarts again and again.
//! - Landlock: no file can be opened, made, changed or removed. No TCP port can be bound or connected
//!   to, no other process signalled.
//! - seccomp: only the calls that [`filter`] lists, with only the arguments that we have for them.
//!
//! So the file of our own Unix socket stays behind when the daemon ends. The next start replaces it.
//!
//! A system that lacks one of them is served without, and told so in one line: a door that does not
//! open is worse than one with fewer locks.

#[cfg(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod filter;
#[cfg(target_os = "linux")]
mod landlock;

use super::options::Options;

/// A sandbox that is being built.
#[must_use]
pub struct Sandbox {
    is_wanted: bool,
    /// What this system does not offer, in words.
    missing: String,
}

impl Sandbox {
    /// What has to be done before there are threads. No file or socket can be opened by name from now
    /// on; those that are open stay so.
    pub fn begin(options: &Options) -> Self {
        let mut sandbox = Sandbox {
            is_wanted: options.sandbox,
            missing: String::new(),
        };
        if sandbox.is_wanted {
            sandbox.note("core dumps stay on", no_core_dumps());
            sandbox.note("no Landlock", restrict());
        }
        sandbox
    }

    /// The rest, for all threads, and the line that says what could not be had.
    pub fn complete(mut self) {
        if self.is_wanted {
            let filtered = filter();
            self.note("no filter for system calls", filtered);
        }
        if !self.missing.is_empty() {
            log::warn!("the sandbox is not complete: {}", self.missing);
        }
    }

    fn note(&mut self, what: &str, result: Result<(), String>) {
        if let Err(why) = result {
            let separator = if self.missing.is_empty() { "" } else { ", " };
            self.missing += &format!("{separator}{what} ({why})");
        }
    }
}

#[cfg(target_os = "linux")]
fn no_core_dumps() -> Result<(), String> {
    use nix::sys::resource::{Resource, setrlimit};
    // One byte is too few for any file, and core(5)'s word for no piped handler either, which a limit
    // of 0 would still start. PR_SET_DUMPABLE would do as well, but hides /proc/PID/fd from our own
    // user: then nobody could say who holds a port.
    let limit = |bytes| setrlimit(Resource::RLIMIT_CORE, bytes, bytes);
    // Who may have none at all may not have that byte, and has what was wanted; handlers are told so.
    let limited = limit(1).or_else(|_| limit(0));
    limited.map_err(|error| std::io::Error::from(error).to_string())
}

/// The first byte of the name by which a service manager is told: `/` of a path, `@` of an abstract
/// name. There are no others.
#[cfg(target_os = "linux")]
fn manager() -> Option<u8> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::env::var_os("NOTIFY_SOCKET")?;
    let first = name.as_bytes().first();
    first.copied().filter(|first| matches!(first, b'/' | b'@'))
}

#[cfg(target_os = "linux")]
fn restrict() -> Result<(), String> {
    landlock::restrict()
}

#[cfg(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn filter() -> Result<(), String> {
    filter::apply()
}

#[cfg(all(
    target_os = "linux",
    not(all(
        target_endian = "little",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))
))]
fn filter() -> Result<(), String> {
    Err("none is known for this processor".to_owned())
}

#[cfg(not(target_os = "linux"))]
const LINUX_ONLY: &str = "only Linux has one";

#[cfg(not(target_os = "linux"))]
fn no_core_dumps() -> Result<(), String> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn restrict() -> Result<(), String> {
    Err(LINUX_ONLY.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn filter() -> Result<(), String> {
    Err(LINUX_ONLY.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_with_its_reason() {
        let mut sandbox = Sandbox {
            is_wanted: true,
            missing: String::new(),
        };
        sandbox.note("this", Ok(()));
        assert_eq!(sandbox.missing, "");
        sandbox.note("one", Err("why".to_owned()));
        assert_eq!(sandbox.missing, "one (why)");
        sandbox.note("another", Err("because".to_owned()));
        assert_eq!(sandbox.missing, "one (why), another (because)");
    }
}

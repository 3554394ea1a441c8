//! Gives up every right that the daemon does not need after its start, so that an intruder can do little
//! with it.
//!
//! Landlock restricts only the calling thread, and the threads and processes that this thread starts later. The
//! server's thread calls the function of [`Sandbox::for_thread`] before it accepts a connection. The main thread calls
//! [`Sandbox::begin`] when it has started the sources processes, because Landlock would forbid that.
//! [`Sandbox::complete`] is called when all threads run, because the filter does not allow the calls that start a
//! thread.
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

use std::sync::{Arc, OnceLock};

use super::options::Options;

/// A sandbox between its steps.
#[must_use]
pub struct Sandbox {
    is_wanted: bool,
    /// What this system does not provide, for the log.
    missing: String,
    /// The results of Landlock in the main thread and in the server's.
    landlock: Result<(), String>,
    in_server: Arc<OnceLock<Result<(), String>>>,
}

impl Sandbox {
    /// Restricts nothing yet.
    pub fn new(options: &Options) -> Self {
        Sandbox {
            is_wanted: options.sandbox,
            missing: String::new(),
            landlock: Ok(()),
            in_server: Arc::default(),
        }
    }

    /// The first step of the server's thread, which starts before [`begin`](Sandbox::begin). From then on, that thread
    /// cannot open a file or socket by name; what is open stays open.
    pub fn for_thread(&self) -> impl FnOnce() + Send + use<> {
        let (is_wanted, result) = (self.is_wanted, Arc::clone(&self.in_server));
        move || {
            if is_wanted {
                let _ = result.set(landlock::restrict());
            }
        }
    }

    /// The first step of the main thread, for the threads that it starts from now on as well.
    pub fn begin(&mut self) {
        if self.is_wanted {
            self.note("core dumps stay on", limit_core_dumps());
            self.landlock = landlock::restrict();
        }
    }

    /// The last step, for all threads. Logs what is missing.
    pub fn complete(mut self) {
        if self.is_wanted {
            let in_server = self.in_server.get().cloned();
            let missing = || Err("not in the server's thread".to_owned());
            let landlock = std::mem::replace(&mut self.landlock, Ok(()));
            self.note(
                "no Landlock",
                landlock.and(in_server.unwrap_or_else(missing)),
            );
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

    #[cfg(target_os = "linux")]
    #[test]
    fn the_servers_thread_is_restricted_before_the_main_thread() {
        let sandbox = Sandbox::new(&Options::default());
        let restrict = sandbox.for_thread();
        let opens = || std::fs::File::open("/proc/self/status").is_ok();
        let in_thread = move || {
            restrict();
            opens()
        };
        let opened = std::thread::spawn(in_thread).join().unwrap();
        let is_restricted = sandbox.in_server.get().unwrap().is_ok();
        assert_eq!((opened, opens()), (!is_restricted, true));
    }

    #[test]
    fn what_is_missing_is_logged_with_its_reason() {
        let mut sandbox = Sandbox {
            is_wanted: true,
            missing: String::new(),
            landlock: Ok(()),
            in_server: Arc::default(),
        };
        sandbox.note("this", Ok(()));
        assert_eq!(sandbox.missing, "");
        sandbox.note("one", Err("first".to_owned()));
        assert_eq!(sandbox.missing, "one (first)");
        sandbox.note("another", Err("second".to_owned()));
        assert_eq!(sandbox.missing, "one (first), another (second)");
    }
}

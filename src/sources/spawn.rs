//! Starts programs: posix_spawn(3) and execv(3).
//!
//! Instead of `std::process::Command`, whose environment and pipes would be 30 KiB of code. Called by
//! [`super::command`] and by the kind `exec`.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};

use super::sys;

/// What is started.
pub struct Launch<'a> {
    /// Its path.
    pub program: &'a OsStr,
    /// All its arguments; the first is its name.
    pub arguments: &'a [&'a OsStr],
    /// The whole environment: `NAME=VALUE`.
    pub environment: &'a [CString],
    /// Standard input, output and error; `None` is inherited. All other descriptors must be close-on-exec.
    pub streams: [Option<BorrowedFd<'a>>; 3],
    /// In a process group of its own.
    pub has_own_group: bool,
}

/// Starts a process and returns its number. Its signal mask is empty, and SIGPIPE ends it.
///
/// # Errors
/// If the system does not start it, or an argument contains NUL.
pub fn spawn(launch: &Launch<'_>) -> io::Result<i32> {
    let arguments = launch.arguments.iter().map(|argument| text(argument));
    let arguments: Vec<CString> = arguments.collect::<io::Result<_>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    for (stream, number) in launch.streams.iter().zip(0..) {
        if let Some(stream) = stream {
            actions.add_dup2(stream.as_raw_fd(), number)?;
        }
    }
    let mut attributes = PosixSpawnAttr::init()?;
    let mut flags =
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
    // std ignores it in this process.
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    attributes.set_sigdefault(&pipe)?;
    attributes.set_sigmask(&SigSet::empty())?;
    if launch.has_own_group {
        // The default is group 0: its own.
        flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
    }
    attributes.set_flags(flags)?;
    let pid = posix_spawn(
        launch.program,
        &actions,
        &attributes,
        &arguments,
        launch.environment,
    )?;
    Ok(pid.as_raw())
}

/// Becomes another program, with the same environment. Returns only the error.
pub fn replace_self(program: &OsStr, arguments: &[&OsStr]) -> io::Error {
    let texts = || -> io::Result<(CString, Vec<CString>)> {
        let arguments = arguments.iter().map(|argument| text(argument));
        Ok((text(program)?, arguments.collect::<io::Result<_>>()?))
    };
    match texts() {
        Ok((program, arguments)) => {
            // std ignores it in this process.
            sys::end_by_sigpipe();
            match nix::unistd::execv(&program, &arguments) {
                Ok(never) => match never {},
                Err(error) => error.into(),
            }
        }
        Err(error) => error,
    }
}

/// `text` as a C string, for a system call.
pub fn text(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

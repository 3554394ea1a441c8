//! Takes over inherited descriptors, and sets the nice value.
//!
//! The only file of the daemon that may contain `unsafe`. Taking over a descriptor by its number is unsafe,
//! because the caller must know that nothing else in the process uses that number. setpriority(2) is called
//! here, because no crate that the daemon has wraps it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// Takes over descriptor `fd` and marks it close-on-exec.
///
/// Call this once for each number, at the start of the program, before anything opens a descriptor: what
/// is open then was inherited, and nothing else uses it.
///
/// # Errors
/// If it is not open, or is one of the standard streams, which belong to std.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the caller ensures that nothing was opened, taken over or closed before.
    unsafe { healthz::server::adopt(fd) }
}

/// The nice value of the calling thread, from -20 to 19: getpriority(2).
pub fn nice() -> i32 {
    // SAFETY: getpriority takes numbers only.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Sets the nice value of the calling thread, on Linux, or of the process: setpriority(2).
///
/// # Errors
/// If the process has no right to lower it.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: setpriority takes numbers only.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

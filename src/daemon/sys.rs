//! Takes over descriptors that the process inherited.
//!
//! The only file of the daemon that may contain `unsafe`: the library's function is unsafe, because a
//! number does not show what else uses the descriptor.
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

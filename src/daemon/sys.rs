//! Taking over descriptors that the process was started with.
//!
//! The only file of the daemon that may hold `unsafe`, because the library's function is: a number says
//! nothing of who owns the descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{OwnedFd, RawFd};

/// Takes over descriptor `fd` and marks it close-on-exec.
///
/// To be called at the start of the program, before anything opens a descriptor, and once for each
/// number: what is open then was inherited, and nobody but the caller knows of it.
///
/// # Errors
/// If it is not open, or one of the standard streams, which belong to std.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: as this function asks of its callers, nothing was opened, taken or closed yet.
    unsafe { healthz::server::adopt(fd) }
}

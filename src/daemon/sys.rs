//! Taking over descriptors that the process was started with.
//!
//! The only file of the daemon that may hold `unsafe`: std adopts a number no other way. Crates that
//! wrap it (`listenfd`) do so for `LISTEN_FDS` alone, and reopening `/proc/self/fd/N` needs a mounted
//! /proc, fails for sockets and leaves N open.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over descriptor `fd` and marks it close-on-exec.
///
/// To be called at the start of the program, before anything opens a descriptor, and once for each
/// number: what is open then was inherited, and nobody but the caller knows of it.
///
/// # Errors
/// If it is not open, or one of the standard streams, which belong to std.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD takes an int and touches no memory; a number that is not open gives EBADF.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above found it open. It is none of the standard streams and was inherited, as
    // this function asks of its callers, so no value of this process owns it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

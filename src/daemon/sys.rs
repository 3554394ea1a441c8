//! Takes over inherited descriptors, sets the nice value, and reads the size of a file.
//!
//! The only file of the daemon that may contain `unsafe`. Taking over a descriptor by its number is unsafe,
//! because the caller must know that nothing else in the process uses that number. setpriority(2) is called
//! here, because no crate that the daemon has wraps it, and fstat(2) because the sandbox allows no other call for it.
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

/// The size of an open file: fstat(2). The functions of std and libc may call newfstatat(2) or statx(2) instead, which
/// the sandbox does not allow, because they take a path.
///
/// # Errors
/// If the system refuses; and where this is not implemented.
#[cfg(target_os = "linux")]
pub fn file_size(file: &impl std::os::fd::AsFd) -> io::Result<u64> {
    #[cfg(all(
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    {
        use std::os::fd::AsRawFd;
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the kernel fills this struct, whose layout on these processors is that of libc's.
        let stat = match unsafe { libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) } {
            // SAFETY: the call has succeeded, and all bit patterns are valid anyway.
            0 => unsafe { stat.assume_init() },
            _ => return Err(io::Error::last_os_error()),
        };
        u64::try_from(stat.st_size).map_err(io::Error::other)
    }
    #[cfg(not(all(
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    {
        let _ = file;
        Err(io::ErrorKind::Unsupported.into())
    }
}

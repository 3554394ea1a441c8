//! The one socket option that mio, socket2 and std do not wrap.
//!
//! The only file of the library that may hold `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Asks the kernel to hand out a connection only once its first bytes are there, so that accepting
/// it is followed by a read that finds a whole request: one wake-up a probe instead of two
/// (`TCP_DEFER_ACCEPT`, tcp(7)). A connection that stays silent for longer than about `seconds` is
/// handed out all the same.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_defer_accept(listener: &impl AsFd, seconds: i32) -> io::Result<()> {
    let value: libc::c_int = seconds;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; `value`
    // lives on this stack, is a c_int as tcp(7) asks, and `size` is its size. The kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

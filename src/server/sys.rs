//! The two calls to the kernel that mio, socket2 and std do not wrap. Both only save work: if one is
//! refused, the server goes on without.
//!
//! The only file of the library that may hold `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::{Registry, Token};

/// Asks the kernel to hand out a connection only once its first bytes are there, so that accepting
/// it is followed by a read that finds a whole request: one wake-up a probe instead of two
/// (`TCP_DEFER_ACCEPT`, tcp(7)). A connection that stays silent for longer than about `seconds` is
/// handed out all the same.
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
    check(result)
}

/// Makes the registration of `listener` under `token` level-triggered: it is reported as long as a
/// connection waits.
///
/// mio registers edge-triggered, which has to be followed by accepting until there is no more; and an
/// accept(2) that finds nothing costs as much as one that finds something, because the kernel makes
/// the socket and the descriptor first. Level-triggered, one accept a report is enough.
pub(super) fn set_level_triggered(
    registry: &Registry,
    listener: &impl AsFd,
    token: Token,
) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        // As mio does: the token is what epoll gives back.
        u64: token.0 as u64,
    };
    // SAFETY: both descriptors are open, because they are borrowed for the length of the call;
    // `event` lives on this stack and the kernel only reads it. If the registry is no epoll
    // instance (mio can be built on poll(2)), the kernel says so and does nothing.
    let result = unsafe {
        libc::epoll_ctl(
            registry.as_fd().as_raw_fd(),
            libc::EPOLL_CTL_MOD,
            listener.as_fd().as_raw_fd(),
            &raw mut event,
        )
    };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

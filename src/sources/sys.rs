//! System calls that need `unsafe` here.
//!
//! The only file of this module that may contain `unsafe`. Called by all processes of the sources, and by the daemon.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// What the kernel knows about the error of the clock: adjtimex(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockState {
    pub is_synchronised: bool,
    /// The largest error that the kernel assumes. It grows until something sets the clock.
    pub max_error: Duration,
}

/// Reads the state of the clock and changes nothing.
///
/// # Errors
/// If a filter for system calls denies it.
pub fn clock_state() -> io::Result<ClockState> {
    let mut timex = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the structure is zeroed, so `modes` is 0 and the call only writes to it. The pointer is valid for
    // one structure.
    let state = unsafe { libc::adjtimex(timex.as_mut_ptr()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern of its integers is valid, and all were set to zero at least.
    let timex = unsafe { timex.assume_init() };
    Ok(ClockState {
        is_synchronised: timex.status & libc::STA_UNSYNC == 0,
        max_error: Duration::from_micros(u64::try_from(timex.maxerror).unwrap_or(0)),
    })
}

/// The time since the machine started, with the time that it was suspended: the clock of the start times in
/// /proc. /proc/uptime is another one in some containers, where lxcfs replaces it.
pub fn since_boot() -> io::Result<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is valid for one structure, which the call fills in.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern of its integers is valid, and all were set to zero at least.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Ok(Duration::new(seconds, nanos))
}

/// A descriptor that becomes readable when the process `pid` has ended: pidfd_open(2). It is close-on-exec.
///
/// # Errors
/// If there is no such process, the kernel is older than 5.3, or a filter denies it.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: the call has just opened it, and nothing else knows its number.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets SIGPIPE end this process, as programs expect it. std ignores that signal.
pub fn end_by_sigpipe() {
    // SAFETY: the default action replaces no handler of this program: there is none for this signal.
    let _ = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// From now on, the kernel sends SIGCONT to this process when the other end of the socket `fd` is closed.
///
/// A parent-death signal does not do this: it is sent in the name of the parent, and Landlock forbids the server to
/// signal other processes.
///
/// # Errors
/// If a filter denies it.
pub fn continue_at_hangup(fd: BorrowedFd<'_>) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    let set = |command: libc::c_int, value: libc::c_int| {
        // SAFETY: these calls take numbers only, and `fd` is open.
        match unsafe { libc::fcntl(fd, command, value) } {
            -1 => Err(io::Error::last_os_error()),
            result => Ok(result),
        }
    };
    set(
        libc::F_SETOWN,
        i32::try_from(std::process::id()).unwrap_or(0),
    )?;
    set(F_SETSIG, libc::SIGCONT)?;
    let flags = set(libc::F_GETFL, 0)?;
    set(libc::F_SETFL, flags | libc::O_ASYNC).map(|_| ())
}

/// Chooses the signal for O_ASYNC: fcntl(2). libc does not have it for every target.
const F_SETSIG: libc::c_int = 10;

/// Waits for the child `pid`, which is then reaped. With `is_blocking` false, `None` if it has not ended.
///
/// # Errors
/// If it is no child of this process, or was reaped already.
pub fn wait(pid: i32, is_blocking: bool) -> io::Result<Option<ExitStatus>> {
    let options = if is_blocking { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: the call writes only to `status`.
        match unsafe { libc::waitpid(pid, &raw mut status, options) } {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => return Ok(Some(ExitStatus::from_raw(status))),
        }
    }
}

/// Lets the kernel reap the children of this process that end from now on. Otherwise a child that ends stays a zombie,
/// and as process 1 of a container, this process gets the orphans of all others. A child does not inherit it.
///
/// # Errors
/// If a filter denies it.
pub fn reap_children() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::SA_NOCLDWAIT, SigSet::empty());
    // SAFETY: there is no handler that could do anything that is not allowed in one.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    Ok(())
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// If the kernel is older than 5.9, or a filter denies it.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the call takes numbers only. The caller owns no descriptor yet that would be closed.
    match unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives up all capabilities of this thread that are not in `kept` (bits by number, capabilities(7)), for itself and
/// for the programs that it starts. Call it before other threads start.
///
/// # Errors
/// If a filter denies it.
pub fn keep_capabilities(kept: u64) -> io::Result<()> {
    /// `struct __user_cap_header_struct` and twice `struct __user_cap_data_struct` (linux/capability.h).
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    // The bounding set first, which takes CAP_SETPCAP: a program that root starts gets all that is in it.
    for number in (0..64).filter(|number| kept >> number & 1 == 0) {
        // SAFETY: the call takes numbers only. It fails for numbers that the kernel does not know, and without
        // CAP_SETPCAP; then there is nothing to give up.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: both pointers are valid for what version 3 of the call reads and writes.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for (data, kept) in data.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
        data.effective &= kept;
        data.permitted &= kept;
        data.inheritable &= kept;
    }
    // SAFETY: as above; the call only reads.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_can_be_read() {
        let first = since_boot().unwrap();
        assert!(first > Duration::ZERO && since_boot().unwrap() >= first);
        assert!(clock_state().unwrap().max_error < Duration::from_secs(3600));
    }

    #[test]
    fn only_a_process_that_exists_has_a_pidfd() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(pidfd_open(pid).is_ok());
        assert!(pidfd_open(i32::MAX).is_err());
        assert!(pidfd_open(-1).is_err());
    }
}

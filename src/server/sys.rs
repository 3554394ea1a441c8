//! System calls that mio, socket2 and std do not wrap, or not well: socket options, level-triggered listeners, the
//! calls for each request without cancellation points, accept(2) without an address, and taking over inherited
//! descriptors.
//!
//! Apart from the C API, the only file of the library that may contain `unsafe`. Used by [`super::socket`],
//! [`super::listeners`], [`super::unix`] and [`super::run`]. If the system refuses an option, the server goes on
//! without it.
#![allow(unsafe_code)]

use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::IntoRawFd;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::{AsFd, AsRawFd};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

#[cfg(any(target_os = "linux", target_os = "android"))]
use mio::{Registry, Token};

/// Takes over the inherited descriptor `fd` and marks it close-on-exec. For the sockets of
/// [`ListenFds`](super::ListenFds), and other numbers that were agreed on with the parent process.
///
/// # Safety
/// Nothing else in this process may own `fd`, now or later: it was open when the program started. This is true
/// at the start of `main`, once for each number. A number that was not inherited is an error only as long as
/// nothing has opened a descriptor, because a new descriptor may get that number.
///
/// # Errors
/// If it is not open, or one of the standard streams, which belong to std.
pub unsafe fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD takes an int and touches no memory; a number that is not open gives EBADF.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the call above found it open, and the caller promises that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the kernel report a connection only when its first bytes have arrived, so that the first read finds a whole
/// request: one wake-up for a probe instead of two (`TCP_DEFER_ACCEPT`, tcp(7)). A connection that sends nothing
/// is reported after about `seconds`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_defer_accept(listener: &impl AsFd, seconds: i32) -> io::Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Whether clients may send descriptors. The libc crate does not have it yet (include/uapi/asm-generic/socket.h; SPARC
/// differs).
#[cfg(any(target_os = "linux", target_os = "android"))]
const SO_PASSRIGHTS: libc::c_int = match cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
    true => 0x5c,
    false => 83,
};

/// Makes the kernel refuse descriptors (unix(7), `SCM_RIGHTS`) that clients of this Unix socket send.
///
/// Otherwise a read that reaches a descriptor closes it. Closing a socket with `SO_LINGER` (socket(7)) can block for a
/// time that its sender chooses. Since Linux 6.16.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn refuse_rights(listener: &impl AsFd) -> io::Result<()> {
    set_option(listener, libc::SOL_SOCKET, SO_PASSRIGHTS, 0)
}

/// Makes the kernel report every byte, whatever the process that opened `listener` has set (`SO_RCVLOWAT`,
/// socket(7)): connections inherit the options of their listener.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn report_every_byte(listener: &impl AsFd) -> io::Result<()> {
    set_option(listener, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)
}

/// Sets an integer option of `socket`: setsockopt(2).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; `value`
    // lives on this stack, is a c_int, and `size` is its size. The kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size,
        )
    };
    check(result)
}

/// Makes the registration of `listener` under `token` level-triggered: epoll reports it as long as a connection
/// waits, or if it was shut down.
///
/// mio registers edge-triggered, so one must accept until no connection waits. An accept(2) that finds none costs
/// as much as one that finds one, because the kernel first makes the socket and the descriptor. With a
/// level-triggered listener, one accept for each report is enough.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_level_triggered(
    registry: &Registry,
    listener: &impl AsFd,
    token: Token,
) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLRDHUP) as u32,
        // As mio does: epoll returns this value with each event.
        u64: token.0 as u64,
    };
    // SAFETY: both descriptors are open, because they are borrowed for the length of the call;
    // `event` lives on this stack and the kernel only reads it. If the registry is no epoll
    // instance (mio can be built on poll(2)), the kernel returns an error and does nothing.
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

/// The functions of libc for each request, without cancellation points (pthreads(7)).
///
/// In a process with threads, the functions of glibc prepare for pthread_cancel(3) before the system call and undo that
/// after it. That takes about 45 instructions a call. Cancelling a thread that runs Rust is undefined behaviour, so
/// nothing is lost. The system calls and their arguments are the same.
#[cfg(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod direct {
    use core::ffi::{c_int, c_void};
    use core::ptr::null_mut;

    // SAFETY of all: they pass on their arguments, so the requirements of the function of libc with the same name
    // apply; syscall(2) takes the arguments of the system call, and sets errno as that function does.

    #[inline]
    /// # Safety
    /// That of `libc::recv`.
    pub(super) unsafe fn recv(
        socket: c_int,
        bytes: *mut c_void,
        length: usize,
        flags: c_int,
    ) -> isize {
        let no_address = null_mut::<c_void>();
        // SAFETY: see above; recv(2) is recvfrom(2) without an address.
        let result = unsafe {
            libc::syscall(
                libc::SYS_recvfrom,
                socket,
                bytes,
                length,
                flags,
                no_address,
                no_address,
            )
        };
        result as isize
    }

    #[inline]
    /// # Safety
    /// That of `libc::send`.
    pub(super) unsafe fn send(
        socket: c_int,
        bytes: *const c_void,
        length: usize,
        flags: c_int,
    ) -> isize {
        let no_address = null_mut::<c_void>();
        // SAFETY: see above; send(2) is sendto(2) without an address.
        let result = unsafe {
            libc::syscall(
                libc::SYS_sendto,
                socket,
                bytes,
                length,
                flags,
                no_address,
                0usize,
            )
        };
        result as isize
    }

    #[inline]
    /// # Safety
    /// That of `libc::accept4`.
    pub(super) unsafe fn accept4(
        socket: c_int,
        address: *mut libc::sockaddr,
        length: *mut libc::socklen_t,
        flags: c_int,
    ) -> c_int {
        // SAFETY: see above.
        let result = unsafe { libc::syscall(libc::SYS_accept4, socket, address, length, flags) };
        result as c_int
    }

    #[inline]
    /// # Safety
    /// That of `libc::close`.
    pub(super) unsafe fn close(fd: c_int) -> c_int {
        // SAFETY: see above.
        unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
    }
}

/// Not every kernel has these system calls for other processors; some have socketcall(2) instead.
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(all(
        target_os = "linux",
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))
))]
use libc as direct;

/// Nanoseconds of the monotonic clock from which `std::time::Instant` is made. A difference of two numbers takes fewer
/// instructions than that of two `Instant`s, and each request needs one.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub(super) fn monotonic_nanoseconds() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` lives on this stack, and the kernel writes one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    debug_assert_eq!(result, 0, "every Linux has this clock");
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// Reads once from a socket: recv(2).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub(super) fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; the kernel writes no more
    // than `buffer.len()` bytes to `buffer`, which is borrowed for writing.
    let count = unsafe { direct::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Sends once to a socket, never raising SIGPIPE: send(2). If `is_last`, the bytes wait for the shutdown.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub(super) fn send(socket: &impl AsFd, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let flags = match is_last {
        true => libc::MSG_NOSIGNAL | libc::MSG_MORE,
        false => libc::MSG_NOSIGNAL,
    };
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; the kernel only reads the
    // `bytes.len()` bytes of `bytes`.
    let count = unsafe { direct::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Closes a descriptor: close(2).
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub(super) fn close(fd: OwnedFd) {
    // SAFETY: the descriptor is open, and nothing else uses it, because it was owned. After an error it is closed too
    // (close(2), NOTES), so std ignores the result as well.
    let _ = unsafe { direct::close(fd.into_raw_fd()) };
}

/// The address of a TCP client, as the kernel writes it. All have the family first.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[repr(C)]
union PeerAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Accepts a connection of a TCP socket, with the address of the client; close-on-exec and non-blocking.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
pub(super) fn accept_tcp(listener: &impl AsFd) -> io::Result<(OwnedFd, IpAddr)> {
    let mut peer = PeerAddress {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };
    let mut size = size_of::<PeerAddress>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let listener = listener.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; `peer` and `size` live on
    // this stack, and the kernel writes no more than `size` bytes, which are all of `peer`.
    let fd = unsafe { direct::accept4(listener, (&raw mut peer).cast(), &raw mut size, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else uses it.
    let stream = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all bytes of `peer` were written above, by this function or by the kernel, and integers have no
    // invalid values.
    let (family, v4, v6) = unsafe { (peer.family, peer.v4.sin_addr, peer.v6.sin6_addr) };
    match libc::c_int::from(family) {
        libc::AF_INET => Ok((stream, Ipv4Addr::from(v4.s_addr.to_ne_bytes()).into())),
        libc::AF_INET6 => Ok((stream, Ipv6Addr::from(v6.s6_addr).into())),
        // A TCP socket has no other addresses.
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Accepts a connection of a Unix socket without reading its address; close-on-exec and non-blocking.
///
/// mio's accept(2) reads it, and panics if the client is bound to a path that fills the address (108 bytes): the kernel
/// then returns one byte more than the address has (unix(7), "Pathname sockets"). So every client could end the
/// process. socket2's version makes one more system call, which the daemon's filter would have to allow.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn accept_unix(listener: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let listener = listener.as_fd().as_raw_fd();
    let no_address = core::ptr::null_mut();
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; without a buffer for
    // the address (accept(2)), the kernel writes to no memory of this process.
    let fd = unsafe { direct::accept4(listener, no_address, core::ptr::null_mut(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process that connected to a Unix socket: `SO_PEERCRED`, unix(7).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn owner(stream: &impl AsFd) -> Option<super::policy::Owner> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; `peer` and `size`
    // live on this stack, and the kernel writes no more than `size` bytes, which are all of `peer`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    };
    check(result).ok()?;
    Some(super::policy::Owner {
        process: peer.pid as u32,
        user: peer.uid,
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::super::socket::{File, ListenSocket, Listener};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::ffi::OsStrExt;

    /// Regression: mio panicked, because it cut a path of 109 bytes out of an address of 108.
    #[test]
    fn a_peer_whose_path_fills_its_address_is_no_panic() {
        let directory = std::env::temp_dir().join(std::format!("healthz-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let at = directory.join("server");
        let listener = mio::net::UnixListener::bind(&at).unwrap();
        let listener = Listener::Unix(listener, at.clone(), File::Inherited);
        let mut address = libc::sockaddr_un {
            sun_family: libc::AF_UNIX as libc::sa_family_t,
            sun_path: [0; 108],
        };
        let room = address.sun_path.len();
        for length in room - 2..=room {
            let mut path = directory.as_os_str().as_bytes().to_vec();
            path.push(b'/');
            path.resize(length, b'c');
            address.sun_path = core::array::from_fn(|at| *path.get(at).unwrap_or(&0) as _);
            let peer = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
            let peer = peer.unwrap();
            let size = size_of_val(&address) as libc::socklen_t;
            let fd = peer.as_fd().as_raw_fd();
            // SAFETY: the descriptor is open; the kernel reads `size` bytes, which are all of `address`.
            check(unsafe { libc::bind(fd, (&raw const address).cast(), size) }).unwrap();
            peer.connect(&socket2::SockAddr::unix(&at).unwrap())
                .unwrap();
            let accepted = listener.accept();
            std::fs::remove_file(std::ffi::OsStr::from_bytes(&path)).unwrap();
            drop(accepted.unwrap());
            assert_eq!((&peer).read(&mut [0]).unwrap(), 0);
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    /// The value of an integer option: getsockopt(2).
    fn option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<i32> {
        let mut value: libc::c_int = -1;
        let mut size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is open, because it is borrowed for the length of the call; `value` and `size`
        // live on this stack, and the kernel writes no more than `size` bytes, which are all of `value`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                level,
                name,
                (&raw mut value).cast(),
                &raw mut size,
            )
        };
        check(result).map(|()| value)
    }

    #[test]
    fn a_descriptor_that_is_not_open_or_is_a_standard_stream_is_not_adopted() {
        // The limit of open descriptors is lower.
        for fd in [0, 1, 2, RawFd::MAX] {
            // SAFETY: nothing owns the last one; the others are refused.
            let error = unsafe { adopt(fd) }.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{fd}");
        }
    }

    #[test]
    fn a_listener_reports_a_connection_when_its_first_bytes_have_arrived() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let seconds = || option(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT).unwrap();
        assert_eq!(seconds(), 0);
        set_defer_accept(&listener, 1).unwrap();
        assert_eq!(seconds(), 1);
    }

    #[test]
    fn a_unix_listener_refuses_descriptors_if_the_kernel_can() {
        let directory = std::env::temp_dir();
        let at = directory.join(std::format!("healthz-rights-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&at).unwrap();
        std::fs::remove_file(&at).unwrap();
        let is_passed = || option(&listener, libc::SOL_SOCKET, SO_PASSRIGHTS);
        // Before Linux 6.16 there is no such option.
        if let Ok(before) = is_passed() {
            refuse_rights(&listener).unwrap();
            assert_eq!((before, is_passed().unwrap()), (1, 0));
        } else {
            assert!(refuse_rights(&listener).is_err());
        }
    }

    /// Regression: a request shorter than the `SO_RCVLOWAT` of a passed-in socket was not reported.
    #[test]
    fn a_socket_that_was_to_report_thousands_of_bytes_reports_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        set_option(&listener, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 4096).unwrap();
        let mut listeners = super::super::Listeners::new();
        listeners.add(listener.try_clone().unwrap()).unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"G").unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let mut accepted = mio::net::TcpStream::from_std(accepted);
        let mut poll = mio::Poll::new().unwrap();
        let readable = mio::Interest::READABLE;
        let registry = poll.registry();
        registry
            .register(&mut accepted, Token(0), readable)
            .unwrap();
        let mut events = mio::Events::with_capacity(1);
        let patience = core::time::Duration::from_secs(5);
        poll.poll(&mut events, Some(patience)).unwrap();
        assert!(!events.is_empty());
    }
}

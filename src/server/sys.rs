//! What mio, socket2 and std do not wrap, or not well. Options of sockets, and how a listener is watched:
//! if one is refused, the server goes on without. One call that asks no more than is needed, accept(2).
//! And the way from a number to a descriptor, for who inherits one.
//!
//! With the C API, all of the library that may hold `unsafe`.
#![allow(unsafe_code)]

use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::fd::{AsFd, AsRawFd};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

#[cfg(any(target_os = "linux", target_os = "android"))]
use mio::{Registry, Token};

/// Takes over descriptor `fd`, which this process was started with, and marks it close-on-exec. For
/// the sockets of [`ListenFds`](super::ListenFds), and any other number that a parent has agreed on.
///
/// # Safety
/// Nothing in this process may own `fd`: it was open when the program began, nobody has taken it over
/// since, and nobody will. That is so at the start of `main`, once for each number. A number that was
/// never open is told as an error only as long as nothing has opened a descriptor, for a new one may
/// have been given that number.
///
/// # Errors
/// If it is not open, or one of the standard streams, which belong to std.
pub unsafe fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_SETFD takes an int and touches no memory; a number that is not open gives EBADF.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: the call above found it open, and our caller promises that nothing owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks the kernel to hand out a connection only once its first bytes are there, so that accepting
/// it is followed by a read that finds a whole request: one wake-up a probe instead of two
/// (`TCP_DEFER_ACCEPT`, tcp(7)). A connection that stays silent for longer than about `seconds` is
/// handed out all the same.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_defer_accept(listener: &impl AsFd, seconds: i32) -> io::Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Has the kernel take no descriptors (unix(7), `SCM_RIGHTS`) from who connects to this Unix socket.
///
/// They come whether or not they are asked for, and who reads past one closes it: a socket that lingers
/// (socket(7), `SO_LINGER`) is then waited for, for as long as who has sent it likes. Since Linux 6.16.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn refuse_rights(listener: &impl AsFd) -> io::Result<()> {
    // Not among libc's names yet (include/uapi/asm-generic/socket.h; SPARC's own, arch/sparc).
    const SO_PASSRIGHTS: libc::c_int =
        match cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
            true => 0x5c,
            false => 83,
        };
    set_option(listener, libc::SOL_SOCKET, SO_PASSRIGHTS, 0)
}

/// Has every byte reported, whatever `listener` was told by who opened it (`SO_RCVLOWAT`, socket(7)):
/// connections have the options of their listener.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn report_every_byte(listener: &impl AsFd) -> io::Result<()> {
    set_option(listener, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)
}

/// Sets an option of `socket` that is an int (setsockopt(2)).
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

/// Makes the registration of `listener` under `token` level-triggered: it is reported as long as a
/// connection waits, or if none can come any more.
///
/// mio registers edge-triggered, which has to be followed by accepting until there is no more; and an
/// accept(2) that finds nothing costs as much as one that finds something, because the kernel makes
/// the socket and the descriptor first. Level-triggered, one accept a report is enough.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_level_triggered(
    registry: &Registry,
    listener: &impl AsFd,
    token: Token,
) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLRDHUP) as u32,
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

/// Accepts a connection of a Unix socket without asking who it is, close-on-exec and non-blocking.
///
/// mio's own accept(2) asks, and panics if the peer has bound itself to a path that fills its address
/// (108 bytes): the kernel then tells one byte more than the address has (unix(7), "Pathname sockets").
/// So anybody who may connect could end us. socket2's takes a call more, and one that the daemon's
/// filter has no need of otherwise.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn accept_unix(listener: &impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let listener = listener.as_fd().as_raw_fd();
    let nobody = core::ptr::null_mut();
    // SAFETY: the descriptor is open, because it is borrowed for the length of the call; with no place
    // for the peer's address (accept(2)) the kernel writes to no memory of ours.
    let fd = unsafe { libc::accept4(listener, nobody, core::ptr::null_mut(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which process made a connection of a Unix socket (`SO_PEERCRED`, unix(7)).
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

    /// It was one of mio's: the path was cut out of an address of 108 bytes with a length of 109.
    #[test]
    fn a_peer_whose_path_fills_its_address_is_no_panic() {
        let directory = std::env::temp_dir().join(std::format!("healthz-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let at = directory.join("door");
        let listener = mio::net::UnixListener::bind(&at).unwrap();
        let listener = Listener::Unix(listener, at.clone(), File::Foreign);
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

    /// Nothing was reported of a request that is shorter than whoever opened the socket had asked for.
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

//! What the server asks of sockets, and how those of the kernel answer.
//!
//! [`ListenSocket`] and [`StreamSocket`] are all that the table and its driver know of sockets, so that
//! their decisions can be put before others: a simulation's, which fail at every turn.
//! [`Listener`] and [`Stream`] are those of the kernel, TCP or Unix.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::address::Address;
use super::policy::Owner;

/// A listening socket.
pub(super) trait ListenSocket {
    type Stream: StreamSocket;

    /// Takes the next connection, without waiting.
    fn accept(&self) -> io::Result<Self::Stream>;

    /// Has connections reported under `token`, once when some begin to wait.
    fn register(&mut self, registry: &RegistryOf<Self>, token: Token) -> io::Result<()>;

    /// Asks to be told of waiting connections as long as there are some, instead of once. Returns
    /// whether that can be had.
    fn arm(&self, registry: &RegistryOf<Self>, token: Token) -> bool;

    /// Has them reported once again, after [`arm`](ListenSocket::arm).
    fn disarm(&mut self, registry: &RegistryOf<Self>, token: Token) -> io::Result<()>;

    fn deregister(&mut self, registry: &RegistryOf<Self>) -> io::Result<()>;

    /// Its address, for people.
    fn name(&self) -> impl fmt::Display;
}

/// A connection's socket.
pub(super) trait StreamSocket {
    /// Where sockets are registered for events.
    type Registry;

    /// Reads once, retrying only EINTR.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether a read would find bytes. Reads none.
    fn has_input(&self) -> bool;

    /// Which process made the connection, if the kernel says so.
    fn owner(&self) -> Option<Owner>;

    /// Sends once, retrying only EINTR; never raises SIGPIPE. If `is_last`, the bytes wait for the
    /// shutdown that must follow, so that data and FIN leave in one segment.
    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize>;

    /// List the sending side: what was sent, and FIN, reach the peer even if its input is unread.
    fn shutdown(&mut self);

    /// Has it reported under `token`, once whenever it becomes readable.
    fn register(&mut self, registry: &Self::Registry, token: Token) -> io::Result<()>;

    /// Has it reported whenever it becomes writable as well.
    fn register_writing(&mut self, registry: &Self::Registry, token: Token) -> io::Result<()>;
}

/// Where a listening socket and its connections are registered.
pub(super) type RegistryOf<L> = <<L as ListenSocket>::Stream as StreamSocket>::Registry;

/// Who made the file of a Unix socket, and so who removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// That of the process with this number, not of its children.
    Ours {
        id: Option<FileId>,
        process: u32,
    },
    Foreign,
}

/// Which file it is, however it is called: its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// Of the file at `path`, if the system says.
    pub(super) fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::symlink_metadata(path).ok()?;
        Some(FileId(file.dev(), file.ino()))
    }
}

/// Whose connections a TCP socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Those of loopback addresses. That its own address is one is not enough: with
    /// `net.ipv4.conf.*.route_localnet`, which kube-proxy sets, a neighbour on the network can send to
    /// 127.0.0.1 (CVE-2020-8558).
    Loopback,
    Any,
}

/// One listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr, Peers),
    Unix(UnixListener, PathBuf, File),
}

impl Listener {
    /// Where it listens, with the port that the system chose.
    pub(super) fn address(&self) -> Address {
        match self {
            Listener::Tcp(_, address, _) => Address::Tcp(*address),
            Listener::Unix(_, path, _) => Address::Unix(path.clone()),
        }
    }
}

impl ListenSocket for Listener {
    type Stream = Stream;

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener, _, peers) => match (listener.accept()?, peers) {
                ((_, peer), Peers::Loopback) if !is_loopback(peer) => Err(foreign()),
                ((stream, _), _) => Ok(Stream::Tcp(stream)),
            },
            Listener::Unix(listener, ..) => accept_unix(listener).map(Stream::Unix),
        }
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Listener::Tcp(listener, ..) => registry.register(listener, token, Interest::READABLE),
            Listener::Unix(listener, _, _) => {
                registry.register(listener, token, Interest::READABLE)
            }
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn arm(&self, registry: &Registry, token: Token) -> bool {
        let result = match self {
            Listener::Tcp(listener, ..) => {
                super::sys::set_level_triggered(registry, listener, token)
            }
            Listener::Unix(listener, _, _) => {
                super::sys::set_level_triggered(registry, listener, token)
            }
        };
        result.is_ok()
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn arm(&self, _registry: &Registry, _token: Token) -> bool {
        false
    }

    fn disarm(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Listener::Tcp(listener, ..) => registry.reregister(listener, token, Interest::READABLE),
            Listener::Unix(listener, _, _) => {
                registry.reregister(listener, token, Interest::READABLE)
            }
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Listener::Tcp(listener, ..) => registry.deregister(listener),
            Listener::Unix(listener, _, _) => registry.deregister(listener),
        }
    }

    fn name(&self) -> impl fmt::Display {
        self.address()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path, File::Ours { id, process }) = self
            && std::process::id() == *process
        {
            let found = FileId::at(path);
            // Somebody may have removed it, and our successor may listen there by now. Where the system
            // does not say (a sandbox), it is ours as far as we know.
            if found.is_none() || found == *id {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Whether it is an address that only this machine has.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The error for a peer that is none of ours. No system call says it, because it has no number.
fn foreign() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

/// What to do about an error of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// There is no connection to accept.
    Empty,
    /// A signal came; nothing has happened.
    Interrupted,
    /// This one is gone; the next may be fine.
    Gone,
    /// This one came to a loopback address from one that is none, and was closed.
    Foreign,
    /// None will ever come: the listener listens no more.
    Dead,
    /// The system is short of something; accepting has to wait while connections end.
    Pause,
}

impl AcceptError {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => return AcceptError::Empty,
            io::ErrorKind::Interrupted => return AcceptError::Interrupted,
            io::ErrorKind::ConnectionAborted => return AcceptError::Gone,
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
                return AcceptError::Foreign;
            }
            _ => {}
        }
        match error.raw_os_error() {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::ENONET) => AcceptError::Gone,
            // accept(2): pending network errors of the new connection are passed on like this, and
            // EPERM is a firewall's no to it.
            Some(
                libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EOPNOTSUPP
                | libc::EPERM,
            ) => AcceptError::Gone,
            // Elsewhere it may be about the new connection: its options are set in a second step.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::EINVAL) => AcceptError::Dead,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and what is not known is no reason to spin either.
            _ => AcceptError::Pause,
        }
    }

    /// Whether one descriptor less would do.
    pub(super) fn is_of_descriptors(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// What the system is short of, in words. (The system's own would be allocated, at a time when
    /// there may be no memory.)
    pub(super) fn shortage(error: &io::Error) -> &'static str {
        match error.raw_os_error() {
            Some(libc::EMFILE) => "this process has as many descriptors open as it may (EMFILE)",
            Some(libc::ENFILE) => "the system has as many files open as it can (ENFILE)",
            Some(libc::ENOBUFS) => "the system has no buffer space (ENOBUFS)",
            Some(libc::ENOMEM) => "the system has no memory (ENOMEM)",
            _ => "the system refuses",
        }
    }
}

/// One accepted socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl StreamSocket for Stream {
    type Registry = Registry;

    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::io::Read;
        loop {
            let result = match self {
                Stream::Tcp(stream) => stream.read(buffer),
                Stream::Unix(stream) => stream.read(buffer),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn has_input(&self) -> bool {
        let mut byte = [core::mem::MaybeUninit::uninit()];
        let peeked = match self {
            Stream::Tcp(stream) => socket2::SockRef::from(stream).peek(&mut byte),
            Stream::Unix(stream) => socket2::SockRef::from(stream).peek(&mut byte),
        };
        peeked.is_ok_and(|count| count > 0)
    }

    fn owner(&self) -> Option<Owner> {
        match self {
            Stream::Tcp(_) => None,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Stream::Unix(stream) => super::sys::owner(stream),
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Stream::Unix(_) => None,
        }
    }

    #[inline]
    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        loop {
            let result = match self {
                Stream::Tcp(stream) => send(stream, bytes, is_last),
                Stream::Unix(stream) => send(stream, bytes, is_last),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    #[inline]
    fn shutdown(&mut self) {
        // Fails only if the peer is gone already.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => registry.register(stream, token, Interest::READABLE),
            Stream::Unix(stream) => registry.register(stream, token, Interest::READABLE),
        }
    }

    fn register_writing(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Tcp(stream) => registry.reregister(stream, token, both),
            Stream::Unix(stream) => registry.reregister(stream, token, both),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_unix(listener: &UnixListener) -> io::Result<UnixStream> {
    let stream = super::sys::accept_unix(listener)?;
    Ok(UnixStream::from_std(stream.into()))
}

/// socket2 looks at no path either.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn accept_unix(listener: &UnixListener) -> io::Result<UnixStream> {
    let (stream, _) = socket2::SockRef::from(listener).accept()?;
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream.into()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn send(stream: &impl std::os::fd::AsFd, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    let more = if is_last { libc::MSG_MORE } else { 0 };
    socket2::SockRef::from(stream).send_with_flags(bytes, libc::MSG_NOSIGNAL | more)
}

/// mio's and std's own send keeps SIGPIPE away here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn send(stream: &mut impl std::io::Write, bytes: &[u8], _is_last: bool) -> io::Result<usize> {
    stream.write(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_are_sorted_by_what_is_to_be_done() {
        let of = |code| AcceptError::of(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EAGAIN), AcceptError::Empty);
        assert_eq!(of(libc::EINTR), AcceptError::Interrupted);
        assert_eq!(AcceptError::of(&foreign()), AcceptError::Foreign);
        for code in [
            libc::ECONNABORTED,
            libc::EPROTO,
            libc::EPERM,
            libc::ENETDOWN,
        ] {
            assert_eq!(of(code), AcceptError::Gone);
        }
        for code in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EBADF,
        ] {
            assert_eq!(of(code), AcceptError::Pause);
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert_eq!(of(libc::EINVAL), AcceptError::Dead);
    }
}

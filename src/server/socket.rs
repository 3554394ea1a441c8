//! Sockets as the server uses them.
//!
//! [`ListenSocket`] and [`StreamSocket`] are all that the table, the acceptor and the driver know of sockets, so that
//! the simulation can replace them. [`Listener`] and [`Stream`] are the kernel's, TCP or Unix. Used by
//! [`super::Server`], [`super::table`], [`super::acceptor`], [`super::driver`], [`super::slots`], [`super::listeners`]
//! and [`super::unix`].

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::address::Address;
use super::conn::Conn;
use super::policy::Owner;
use super::slots::{Slot, SlotMemory};

/// A listening socket.
pub(super) trait ListenSocket {
    type Stream: StreamSocket;

    /// The memory for one of its connections.
    type Slot: SlotMemory<Content = Conn<Self::Stream>>;

    /// Accepts the next connection, without waiting.
    fn accept(&self) -> io::Result<Self::Stream>;

    /// Makes epoll report waiting connections under `token`, once when the queue gets the first.
    fn register(&mut self, registry: &RegistryOf<Self>, token: Token) -> io::Result<()>;

    /// Makes epoll report waiting connections as long as there are some (level-triggered). Returns false if
    /// the system cannot do that.
    fn arm(&self, registry: &RegistryOf<Self>, token: Token) -> bool;

    /// Undoes [`arm`](ListenSocket::arm).
    fn disarm(&mut self, registry: &RegistryOf<Self>, token: Token) -> io::Result<()>;

    fn deregister(&mut self, registry: &RegistryOf<Self>) -> io::Result<()>;

    /// Its address, for log lines.
    fn name(&self) -> impl fmt::Display;
}

/// The socket of a connection.
pub(super) trait StreamSocket {
    /// The registry for its events.
    type Registry;

    /// Reads once, retrying only EINTR.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether a read would find bytes. Reads none.
    fn has_input(&self) -> bool;

    /// Whether the client is on this machine: it uses a Unix socket, or has a loopback address.
    fn is_local(&self) -> bool;

    /// The process that connected, if the kernel reports it.
    fn owner(&self) -> Option<Owner>;

    /// Sends once, retrying only EINTR; never raises SIGPIPE. If `is_last`, the bytes wait for the
    /// shutdown that must follow, so that data and FIN leave in one segment.
    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize>;

    /// Ends the sending side. The bytes that were sent, and FIN, reach the client even if input is unread.
    fn shutdown(&mut self);

    /// Closes it, as dropping it does. The kernel's sockets need fewer instructions here than when they are dropped.
    fn close(self)
    where
        Self: Sized,
    {
    }

    /// Makes epoll report it under `token`, once each time it becomes readable.
    fn register(&mut self, registry: &Self::Registry, token: Token) -> io::Result<()>;

    /// Makes epoll also report when it becomes writable.
    fn register_writing(&mut self, registry: &Self::Registry, token: Token) -> io::Result<()>;
}

/// The registry of a listening socket and its connections.
pub(super) type RegistryOf<L> = <<L as ListenSocket>::Stream as StreamSocket>::Registry;

/// Whether the file of a Unix socket was made here, and so is removed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    /// Made by the process with this ID. Its children do not remove it.
    Ours {
        id: Option<FileId>,
        process: u32,
    },
    Inherited,
}

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// Those of the file at `path`, if the system says.
    pub(super) fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::symlink_metadata(path).ok()?;
        Some(FileId(file.dev(), file.ino()))
    }
}

/// From which addresses a TCP socket accepts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Only loopback addresses. To listen on one is not enough: with `net.ipv4.conf.*.route_localnet`, which
    /// kube-proxy sets, a neighbour on the network can send to 127.0.0.1 (CVE-2020-8558).
    Loopback,
    Any,
}

/// A listening socket of the kernel.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr, Peers),
    Unix(UnixListener, PathBuf, File),
}

impl Listener {
    /// Its address, with the port that the system chose.
    pub(super) fn address(&self) -> Address {
        match self {
            Listener::Tcp(_, address, _) => Address::Tcp(*address),
            Listener::Unix(_, path, _) => Address::Unix(path.clone()),
        }
    }
}

impl ListenSocket for Listener {
    type Stream = Stream;
    type Slot = Slot;

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener, _, peers) => {
                let (stream, peer) = accept_tcp(listener)?;
                match (is_loopback(peer), peers) {
                    (false, Peers::Loopback) => Err(non_loopback()),
                    (is_local, _) => Ok(Stream::Tcp(stream, is_local)),
                }
            }
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
        let Listener::Unix(_, path, File::Ours { id, process }) = self else {
            return;
        };
        if std::process::id() == *process {
            let found = FileId::at(path);
            // The file may have been removed, and another server may listen there now. If the system does not
            // say (in a sandbox), assume that it is the same file.
            if found.is_none() || found == *id {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Whether this is an address that only this machine can reach.
#[inline]
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The error for a connection that is not from loopback. It has no errno, so no system call returns it.
fn non_loopback() -> io::Error {
    io::ErrorKind::PermissionDenied.into()
}

/// Logs the error of a socket option, which the system may not have. The server goes on without it.
pub(super) fn try_option(name: &str, result: io::Result<()>) {
    if let Err(error) = result {
        log::debug!("{name} of a listener: {error}");
    }
}

/// What to do about an error of accept(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// There is no connection to accept.
    Empty,
    /// A signal interrupted the call.
    Interrupted,
    /// The connection has failed; the next may not.
    Gone,
    /// The connection came to a loopback address from another address, and was closed.
    NonLoopback,
    /// The listener was shut down.
    Dead,
    /// The system is short of descriptors or memory. Accepting must wait until connections end.
    Pause,
}

impl AcceptError {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => return AcceptError::Empty,
            io::ErrorKind::Interrupted => return AcceptError::Interrupted,
            io::ErrorKind::ConnectionAborted => return AcceptError::Gone,
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => {
                return AcceptError::NonLoopback;
            }
            _ => {}
        }
        match error.raw_os_error() {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::ENONET) => AcceptError::Gone,
            // accept(2) returns pending network errors of the new connection, and EPERM if a firewall forbids
            // it.
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
            // On other systems it may concern the new connection, whose options are set in a second step.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::EINVAL) => AcceptError::Dead,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and unknown errors, because retrying at once could spin.
            _ => AcceptError::Pause,
        }
    }

    /// Whether closing a descriptor would help.
    pub(super) fn is_of_descriptors(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// What the system is short of, as text. `io::Error` would allocate its text, and there may be no memory.
    pub(super) fn shortage(error: &io::Error) -> &'static str {
        match error.raw_os_error() {
            Some(libc::EMFILE) => "this process has reached its limit of open descriptors (EMFILE)",
            Some(libc::ENFILE) => "the system has reached its limit of open files (ENFILE)",
            Some(libc::ENOBUFS) => "the system has no buffer space (ENOBUFS)",
            Some(libc::ENOMEM) => "the system has no memory (ENOMEM)",
            _ => "the system returned an error",
        }
    }
}

/// An accepted socket of the kernel.
#[derive(Debug)]
pub(super) enum Stream {
    /// True if the client has a loopback address.
    Tcp(TcpStream, bool),
    Unix(UnixStream),
}

impl StreamSocket for Stream {
    type Registry = Registry;

    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Stream::Tcp(stream, _) => receive(stream, buffer),
                Stream::Unix(stream) => receive(stream, buffer),
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
            Stream::Tcp(stream, _) => socket2::SockRef::from(stream).peek(&mut byte),
            Stream::Unix(stream) => socket2::SockRef::from(stream).peek(&mut byte),
        };
        peeked.is_ok_and(|count| count > 0)
    }

    #[inline]
    fn is_local(&self) -> bool {
        match self {
            Stream::Tcp(_, is_loopback) => *is_loopback,
            Stream::Unix(_) => true,
        }
    }

    fn owner(&self) -> Option<Owner> {
        match self {
            Stream::Tcp(..) => None,
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
                Stream::Tcp(stream, _) => send(stream, bytes, is_last),
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
        // This fails only if the connection has ended already.
        let _ = match self {
            Stream::Tcp(stream, _) => stream.shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[inline]
    fn close(self) {
        super::sys::close(match self {
            Stream::Tcp(stream, _) => stream.into(),
            Stream::Unix(stream) => stream.into(),
        });
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Stream::Tcp(stream, _) => registry.register(stream, token, Interest::READABLE),
            Stream::Unix(stream) => registry.register(stream, token, Interest::READABLE),
        }
    }

    fn register_writing(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Tcp(stream, _) => registry.reregister(stream, token, both),
            Stream::Unix(stream) => registry.reregister(stream, token, both),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_tcp(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = super::sys::accept_tcp(listener)?;
    Ok((TcpStream::from_std(stream.into()), peer))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn accept_tcp(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = listener.accept()?;
    Ok((stream, peer.ip()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn accept_unix(listener: &UnixListener) -> io::Result<UnixStream> {
    let stream = super::sys::accept_unix(listener)?;
    Ok(UnixStream::from_std(stream.into()))
}

/// Not the accept(2) of mio, which parses the address of the client: see `accept_unix` in `sys.rs`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn accept_unix(listener: &UnixListener) -> io::Result<UnixStream> {
    let (stream, _) = socket2::SockRef::from(listener).accept()?;
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream.into()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::sys::{receive, send};

/// The read of mio and std is recv(2).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn receive(stream: &mut impl std::io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    stream.read(buffer)
}

/// Here, the write of mio and std does not raise SIGPIPE.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn send(stream: &mut impl std::io::Write, bytes: &[u8], _is_last: bool) -> io::Result<usize> {
    stream.write(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn accept_errors_are_sorted_by_what_to_do() {
        let of = |code| AcceptError::of(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EAGAIN), AcceptError::Empty);
        assert_eq!(of(libc::EINTR), AcceptError::Interrupted);
        assert_eq!(AcceptError::of(&non_loopback()), AcceptError::NonLoopback);
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
        {
            assert_eq!(of(libc::ENONET), AcceptError::Gone);
            assert_eq!(of(libc::EINVAL), AcceptError::Dead);
        }
    }

    /// The end of the connection follows in the same segment. The kernel waits for it for at most 200 ms, so on a busy
    /// machine an attempt may fail.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_last_bytes_wait_for_the_shutdown() {
        use std::io::Read;
        let is_held_back = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_nonblocking(true).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let mut stream = Stream::Tcp(TcpStream::from_std(accepted), true);
            assert_eq!(stream.send(b"first", false).unwrap(), 5);
            let mut buffer = [0; 8];
            assert_eq!(client.read(&mut buffer).unwrap(), 5);
            assert_eq!(stream.send(b"last", true).unwrap(), 4);
            let result = client.read(&mut buffer);
            stream.shutdown();
            client.set_nonblocking(false).unwrap();
            let was_held_back = result.is_err();
            if was_held_back {
                assert_eq!(client.read(&mut buffer).unwrap(), 4);
            }
            assert_eq!(client.read(&mut buffer).unwrap(), 0);
            was_held_back
        };
        assert!((0..50).any(|_| is_held_back()));
    }

    std::thread_local! {
        static RECORDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps the records of each thread apart.
    struct Logger;

    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            RECORDS.with_borrow_mut(|records| records.push(std::format!("{}", record.args())));
        }

        fn flush(&self) {}
    }

    #[test]
    fn an_option_that_the_system_does_not_have_is_logged() {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        try_option("SO_OLD", Ok(()));
        try_option("SO_NEW", Err(io::ErrorKind::Unsupported.into()));
        log::set_max_level(log::LevelFilter::Off);
        assert_eq!(RECORDS.take(), ["SO_NEW of a listener: unsupported"]);
    }

    #[test]
    fn a_shortage_is_named_with_its_error() {
        let text = |code| AcceptError::shortage(&io::Error::from_raw_os_error(code));
        for (code, name) in [
            (
                libc::EMFILE,
                "this process has reached its limit of open descriptors (EMFILE)",
            ),
            (
                libc::ENFILE,
                "the system has reached its limit of open files (ENFILE)",
            ),
            (libc::ENOBUFS, "the system has no buffer space (ENOBUFS)"),
            (libc::ENOMEM, "the system has no memory (ENOMEM)"),
            (libc::EIO, "the system returned an error"),
        ] {
            assert_eq!(text(code), name);
        }
    }
}

//! The sockets to listen on: addresses, options, and errors of bind(2).
//!
//! Knows no connection. The host fills [`Listeners`] before it makes a [`super::Server`], which takes the sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, UnixListener};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::address::Address;
use super::paths::ListenerPaths;
use super::socket::{File, FileId, Listener, Peers, is_loopback, try_option};
use super::unix::{is_socket, is_stale, listen_unix, remove_stale};
use crate::limits::LISTENERS_MAX;

/// Most connections that wait to be accepted at a TCP socket. The kernel lowers it to `net.core.somaxconn` (4,096 by
/// default since Linux 5.4). If the queue is full, the kernel drops the SYN, and the client tries again only a
/// second later. A longer queue covers a longer wait for a CPU, but connections also wait longer in it.
const BACKLOG_TCP: i32 = 4096;

/// How long the kernel holds back a connection that sends nothing, in seconds, if it can.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DEFER_ACCEPT_SECONDS: i32 = 1;

/// Why an address cannot be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindErrorKind {
    /// Other machines can reach it, and [`Listeners::allow_remote`] was not called.
    NotLoopback,
    /// Another socket listens there, or the path of a Unix socket belongs to another kind of file; see the source.
    InUse,
    /// There are already [`LISTENERS_MAX`] listeners.
    TooMany,
    /// The socket is not a listening TCP or Unix stream socket; see the source.
    Unusable,
    /// The system returned an error; see the source.
    Other,
}

/// An address cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    kind: BindErrorKind,
    source: Option<io::Error>,
}

impl BindError {
    fn new(address: Address, kind: BindErrorKind) -> Self {
        BindError {
            address,
            kind,
            source: None,
        }
    }

    fn io(address: Address, source: io::Error) -> Self {
        let kind = match source.kind() {
            // AlreadyExists: a file has the path of a Unix socket.
            io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => BindErrorKind::InUse,
            _ => BindErrorKind::Other,
        };
        BindError {
            address,
            kind,
            source: Some(source),
        }
    }

    /// The address, with the port that was tried; `unix:` for a passed-in socket that is unusable or has no address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Why it cannot be listened on.
    pub fn kind(&self) -> BindErrorKind {
        self.kind
    }

    fn is_missing_family(&self) -> bool {
        self.source
            .as_ref()
            .and_then(io::Error::raw_os_error)
            .is_some_and(|code| {
                matches!(
                    code,
                    libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT
                )
            })
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match (self.kind, &self.source) {
            (BindErrorKind::NotLoopback, _) => {
                write!(f, "{address} can be reached from other machines")
            }
            (BindErrorKind::InUse, Some(source)) if is_other_file(source) => {
                write!(f, "cannot listen on {address}: {source}")
            }
            (BindErrorKind::InUse, _) => write!(f, "{address} is in use by another process"),
            (BindErrorKind::TooMany, _) => {
                write!(
                    f,
                    "cannot listen on {address}: there are already {LISTENERS_MAX} listeners"
                )
            }
            (BindErrorKind::Unusable, Some(source)) => {
                write!(f, "cannot use the socket: {source}")
            }
            (BindErrorKind::Unusable, None) => f.write_str(
                "cannot use the socket: it is not a listening TCP or Unix stream socket",
            ),
            (BindErrorKind::Other, Some(source)) => {
                write!(f, "cannot listen on {address}: {source}")
            }
            (BindErrorKind::Other, None) => write!(f, "cannot listen on {address}"),
        }
    }
}

impl core::error::Error for BindError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The result of [`Listeners::bind`]: the address that this machine lacks, if there is one.
#[derive(Debug, Default)]
pub struct Bound {
    /// The half of `localhost` that this machine does not have, and the system's error.
    pub missing: Option<(SocketAddr, io::Error)>,
}

/// The sockets to listen on: bound here or passed in. Dropping it closes them, and removes the files of Unix sockets
/// that this process bound. A child process does not remove them, so a host that becomes a daemon by fork(2)
/// binds after that.
///
/// The server has no authentication, so only loopback addresses and Unix sockets are accepted, unless
/// [`allow_remote`](Listeners::allow_remote) was called before. A connection that reaches a loopback address from
/// another address (`net.ipv4.conf.*.route_localnet`) is closed unread.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Filled from the front. An array, because an embedder may have no heap.
    sockets: [Option<Listener>; LISTENERS_MAX],
    /// The paths of each socket, if it does not serve all.
    paths: [Option<ListenerPaths>; LISTENERS_MAX],
    allows_remote: bool,
}

impl Listeners {
    /// No sockets yet, and loopback only.
    pub fn new() -> Self {
        Listeners::default()
    }

    /// From now on, accept addresses that other machines can reach, and connections from other machines.
    #[must_use]
    pub fn allow_remote(mut self, allows_remote: bool) -> Self {
        self.allows_remote = allows_remote;
        self
    }

    /// Binds `address` and listens there.
    ///
    /// `localhost` is two addresses. A machine that has only one of them gets that one, and the other is returned as
    /// missing. On Linux, both are bound while the loopback interface is down, and served once it is up. The file of
    /// a Unix socket on which no process listens is replaced.
    ///
    /// # Errors
    /// If the address is not loopback, is in use, is refused by the system, or if there are [`LISTENERS_MAX`] sockets
    /// already.
    pub fn bind(&mut self, address: &Address) -> Result<Bound, BindError> {
        match address {
            Address::Localhost(port) => self.bind_localhost(*port),
            Address::Tcp(address) => self.bind_tcp(*address).map(|_| Bound::default()),
            Address::Unix(path) => self.bind_unix(path).map(|()| Bound::default()),
        }
    }

    /// As [`bind`](Listeners::bind), but serves only `paths` there.
    ///
    /// # Errors
    /// As [`bind`](Listeners::bind).
    pub fn bind_for(
        &mut self,
        address: &Address,
        paths: &ListenerPaths,
    ) -> Result<Bound, BindError> {
        let count = self.len();
        let bound = self.bind(address)?;
        self.set_paths(count, paths);
        Ok(bound)
    }

    /// Adds a socket that already listens: a `TcpListener`, a `UnixListener` or an `OwnedFd` of either kind, for
    /// example from a service manager (see [`ListenFds`](super::ListenFds)).
    ///
    /// It becomes non-blocking, and options that would delay its connections are reset: `SO_LINGER`, and on Linux
    /// `SO_RCVLOWAT`, `TCP_CORK` and, since 6.16, `SO_PASSRIGHTS`. This affects all processes that share the socket,
    /// and it lasts. A process that makes it blocking again can block the server. The file of a Unix socket stays
    /// when the server ends.
    ///
    /// ```
    /// # use healthz::server::Listeners;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut listeners = Listeners::new();
    /// listeners.add(std::net::TcpListener::bind("127.0.0.1:0")?)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If it is not a stream socket, does not listen, is not loopback, or if there are [`LISTENERS_MAX`] sockets
    /// already.
    pub fn add(&mut self, socket: impl Into<OwnedFd>) -> Result<(), BindError> {
        let no_address = || Address::Unix(PathBuf::new());
        let unusable = |source| BindError {
            source: Some(source),
            ..BindError::new(no_address(), BindErrorKind::Unusable)
        };
        let socket = Socket::from(socket.into());
        let is_stream = socket.r#type().map_err(unusable)? == Type::STREAM;
        if !is_stream || !is_listening(&socket).map_err(unusable)? {
            return Err(BindError::new(no_address(), BindErrorKind::Unusable));
        }
        let local = socket.local_addr().map_err(unusable)?;
        let listener = if let Some(address) = local.as_socket() {
            self.check_tcp(address)?;
            prepare(&socket, true).map_err(unusable)?;
            Listener::Tcp(TcpListener::from_std(socket.into()), address, self.peers())
        } else if local.is_unix() {
            let path = unix_path(&local);
            self.check_count(&Address::Unix(path.clone()))?;
            prepare(&socket, false).map_err(unusable)?;
            Listener::Unix(UnixListener::from_std(socket.into()), path, File::Inherited)
        } else {
            return Err(BindError::new(no_address(), BindErrorKind::Unusable));
        };
        self.push(listener);
        Ok(())
    }

    /// As [`add`](Listeners::add), but serves only `paths` there.
    ///
    /// # Errors
    /// As [`add`](Listeners::add).
    pub fn add_for(
        &mut self,
        socket: impl Into<OwnedFd>,
        paths: &ListenerPaths,
    ) -> Result<(), BindError> {
        let count = self.len();
        self.add(socket)?;
        self.set_paths(count, paths);
        Ok(())
    }

    /// The addresses of the sockets, with the ports that the system chose.
    pub fn local_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.sockets.iter().flatten().map(Listener::address)
    }

    /// The paths that each socket serves, in the order of [`local_addresses`](Listeners::local_addresses); `None` if it
    /// serves all.
    pub fn paths(&self) -> impl Iterator<Item = Option<&ListenerPaths>> {
        self.paths.iter().take(self.len()).map(Option::as_ref)
    }

    /// The number of sockets.
    pub fn len(&self) -> usize {
        self.sockets.iter().flatten().count()
    }

    /// True if there are no sockets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sockets and the paths of each, for a server.
    pub(super) fn into_parts(self) -> ListenerParts<Listener> {
        ListenerParts {
            sockets: self.sockets,
            paths: self.paths,
        }
    }

    /// Sets the paths of the sockets that were added after the first `count`.
    fn set_paths(&mut self, count: usize, paths: &ListenerPaths) {
        let added = self.sockets.iter().flatten().count();
        let places = self.paths.iter_mut().take(added).skip(count);
        places.for_each(|place| *place = Some(paths.clone()));
    }

    /// Adds `listener`, after [`check_count`](Listeners::check_count).
    fn push(&mut self, listener: Listener) {
        let free = self.sockets.iter_mut().find(|socket| socket.is_none());
        debug_assert!(free.is_some(), "more listeners than were counted");
        if let Some(free) = free {
            *free = Some(listener);
        }
    }

    fn bind_localhost(&mut self, port: u16) -> Result<Bound, BindError> {
        let count = self.len();
        let v4 = self.bind_tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        // For port 0, the second address uses the port that the first one got.
        let port = v4.as_ref().map_or(port, SocketAddr::port);
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port);
        let missing = |error: BindError| match (error.address, error.source) {
            (Address::Tcp(address), Some(source)) => Bound {
                missing: Some((address, source)),
            },
            _ => Bound::default(),
        };
        match (v4, self.bind_tcp(v6)) {
            (Ok(_), Ok(_)) => Ok(Bound::default()),
            (Ok(_), Err(error)) | (Err(error), Ok(_)) if error.is_missing_family() => {
                Ok(missing(error))
            }
            (Err(error), _) | (_, Err(error)) => {
                // Drop the socket of the other address, which was bound.
                self.sockets
                    .iter_mut()
                    .skip(count)
                    .for_each(|half| *half = None);
                Err(error)
            }
        }
    }

    fn bind_tcp(&mut self, address: SocketAddr) -> Result<SocketAddr, BindError> {
        self.check_tcp(address)?;
        let (listener, local) =
            listen_tcp(address).map_err(|source| BindError::io(Address::Tcp(address), source))?;
        self.push(Listener::Tcp(listener, local, self.peers()));
        Ok(local)
    }

    fn bind_unix(&mut self, path: &Path) -> Result<(), BindError> {
        let address = || Address::Unix(path.to_path_buf());
        self.check_count(&address())?;
        let listener = match listen_unix(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match is_stale(path) {
                true => remove_stale(path).and_then(|()| listen_unix(path)),
                false if matches!(is_socket(path), Ok(false)) => Err(other_file()),
                false => Err(error),
            },
            result => result,
        };
        let listener = listener.map_err(|source| BindError::io(address(), source))?;
        let file = File::Ours {
            id: FileId::at(path),
            process: std::process::id(),
        };
        self.push(Listener::Unix(listener, path.to_path_buf(), file));
        Ok(())
    }

    fn check_tcp(&self, address: SocketAddr) -> Result<(), BindError> {
        if !self.allows_remote && !is_loopback(address.ip()) {
            return Err(BindError::new(
                Address::Tcp(address),
                BindErrorKind::NotLoopback,
            ));
        }
        self.check_count(&Address::Tcp(address))
    }

    fn peers(&self) -> Peers {
        match self.allows_remote {
            true => Peers::Any,
            false => Peers::Loopback,
        }
    }

    fn check_count(&self, address: &Address) -> Result<(), BindError> {
        if self.len() < LISTENERS_MAX {
            return Ok(());
        }
        Err(BindError::new(address.clone(), BindErrorKind::TooMany))
    }
}

/// The sockets of [`Listeners`], and at the same index the paths of each, if it does not serve all.
pub(super) struct ListenerParts<L> {
    pub(super) sockets: [Option<L>; LISTENERS_MAX],
    pub(super) paths: [Option<ListenerPaths>; LISTENERS_MAX],
}

/// The error if a file that is not a socket has the path of a Unix socket. It has no errno, unlike that of link(2).
fn other_file() -> io::Error {
    let text = "a file that is not a socket has this path";
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

fn is_other_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists && error.raw_os_error().is_none()
}

/// Makes a passed-in socket non-blocking, and resets the options that would delay its connections. Other options, such
/// as `TCP_DEFER_ACCEPT`, stay as they are.
fn prepare(socket: &Socket, is_tcp: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    try_option("SO_LINGER", socket.set_linger(None));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        try_option("SO_RCVLOWAT", super::sys::report_every_byte(socket));
        match is_tcp {
            true => try_option("TCP_CORK", socket.set_tcp_cork(false)),
            false => try_option("SO_PASSRIGHTS", super::sys::refuse_rights(socket)),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = is_tcp;
    Ok(())
}

/// Whether the socket listens. If it does not, every accept(2) would fail.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn is_listening(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// Other systems have no such option.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn is_listening(_socket: &Socket) -> io::Result<bool> {
    Ok(true)
}

fn listen_tcp(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    // socket2 sets close-on-exec: a child process must not keep the listener.
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Otherwise connections of an earlier run in TIME_WAIT block the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::1] and 127.0.0.1 are separate sockets with the same port.
        socket.set_only_v6(true)?;
    }
    bind_tcp_socket(&socket, address)?;
    socket.listen(BACKLOG_TCP)?;
    socket.set_nonblocking(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    try_option(
        "TCP_DEFER_ACCEPT",
        super::sys::set_defer_accept(&socket, DEFER_ACCEPT_SECONDS),
    );
    let listener = std::net::TcpListener::from(socket);
    let local = listener.local_addr()?;
    Ok((TcpListener::from_std(listener), local))
}

/// Binds `socket` to `address`. On a machine with IPv6, `[::1]` is bound even while the loopback interface is down: the
/// interface gets that address when it comes up, and loses it when it goes down. (127.0.0.1 can be bound at
/// any time.)
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_tcp_socket(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.bind(&address.into()) {
        Err(error)
            if error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
                && address.ip() == Ipv6Addr::LOCALHOST
                && has_ipv6()
                && socket.set_freebind_v6(true).is_ok() =>
        {
            socket.bind(&address.into())
        }
        result => result,
    }
}

/// Other systems: binds the address if it exists.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_tcp_socket(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.bind(&address.into())
}

/// Whether the loopback interface of this network namespace gets an IPv6 address when it comes up. False if /proc does
/// not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_ipv6() -> bool {
    std::fs::read("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        .is_ok_and(|disabled| disabled.trim_ascii() == b"0")
}

/// The path of a passed-in Unix socket, or `@NAME` for an abstract one, as ss(8) shows it.
fn unix_path(local: &SockAddr) -> PathBuf {
    if let Some(path) = local.as_pathname() {
        return path.to_path_buf();
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = local.as_abstract_namespace() {
        use std::os::unix::ffi::OsStrExt;
        let mut path = std::ffi::OsString::from("@");
        path.push(std::ffi::OsStr::from_bytes(name));
        return path.into();
    }
    PathBuf::new()
}

#[cfg(test)]
mod tests {
    use super::super::unix::UNIX_PATH_BYTES_MAX;
    use super::*;

    #[test]
    fn an_address_that_other_machines_can_reach_needs_allow_remote() {
        let remote: Address = "0.0.0.0:0".parse().unwrap();
        let error = Listeners::new().bind(&remote).unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::NotLoopback);
        let passed_in = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        assert_eq!(
            Listeners::new().add(passed_in).unwrap_err().kind(),
            BindErrorKind::NotLoopback
        );
        Listeners::new().allow_remote(true).bind(&remote).unwrap();
    }

    #[test]
    fn a_port_in_use_is_reported_as_in_use() {
        let mut first = Listeners::new();
        first.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addresses().next().unwrap();
        let error = Listeners::new().bind(&taken).unwrap_err();
        assert_eq!(
            (error.kind(), error.address()),
            (BindErrorKind::InUse, &taken)
        );
    }

    #[test]
    fn localhost_with_one_half_in_use_binds_neither_half() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut listeners = Listeners::new();
        let error = listeners.bind(&Address::Localhost(port)).unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::InUse);
        assert!(listeners.is_empty(), "{listeners:?}");
    }

    /// Regression: the file was removed, and no client could reach the later server.
    #[test]
    fn the_socket_file_of_a_later_server_is_not_removed() {
        let name = std::format!("healthz-successor-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let address = Address::Unix(path.clone());
        let [mut first, mut second] = [Listeners::new(), Listeners::new()];
        first.bind(&address).unwrap();
        std::fs::remove_file(&path).unwrap();
        second.bind(&address).unwrap();
        drop(first);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(std::fs::symlink_metadata(&path).is_err());
    }

    #[test]
    fn a_stale_socket_stays_if_the_new_one_cannot_be_made() {
        let name = std::format!("healthz-unmade-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        drop(UnixListener::bind(&path).unwrap());
        // The temporary name of the new socket is taken by a directory.
        let temporary = PathBuf::from(std::format!("{}.{}", path.display(), std::process::id()));
        std::fs::create_dir(&temporary).unwrap();
        let bound = Listeners::new().bind(&Address::Unix(path.clone()));
        std::fs::remove_dir(&temporary).unwrap();
        assert!(is_stale(&path));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bound.unwrap_err().kind(), BindErrorKind::InUse);
    }

    /// Regression: the error said that another process uses the path.
    #[test]
    fn a_file_that_is_not_a_socket_is_named_in_the_error() {
        let path = std::env::temp_dir().join(std::format!("healthz-text-{}", std::process::id()));
        std::fs::write(&path, "text").unwrap();
        let bound = Listeners::new().bind(&Address::Unix(path.clone()));
        let text = std::fs::read_to_string(&path);
        std::fs::remove_file(&path).unwrap();
        let error = bound.unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::InUse);
        let expected = std::format!(
            "cannot listen on unix:{}: a file that is not a socket has this path",
            path.display()
        );
        assert_eq!(std::string::ToString::to_string(&error), expected);
        assert_eq!(text.unwrap(), "text", "the file is unchanged");
    }

    /// Regression: the second server waited until the first one accepted a connection.
    #[test]
    fn a_unix_socket_with_a_full_queue_is_in_use() {
        let name = std::format!("healthz-full-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let owner = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let address = SockAddr::unix(&path).unwrap();
        owner.bind(&address).unwrap();
        owner.listen(0).unwrap();
        let waiting: std::vec::Vec<Socket> = std::iter::from_fn(|| {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
            client.set_nonblocking(true).ok()?;
            client.connect(&address).ok().map(|()| client)
        })
        .collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        let asked = Address::Unix(path.clone());
        std::thread::spawn(move || sender.send(Listeners::new().bind(&asked).map(drop)));
        let bound = receiver.recv_timeout(core::time::Duration::from_secs(20));
        std::fs::remove_file(&path).unwrap();
        assert!(!waiting.is_empty());
        assert_eq!(bound.unwrap().unwrap_err().kind(), BindErrorKind::InUse);
    }

    /// Regression: such a path was served although no client could connect, because the temporary name is shorter.
    #[test]
    fn a_unix_socket_with_a_path_that_no_client_can_use_is_refused() {
        let name = "s".repeat(UNIX_PATH_BYTES_MAX);
        let path = std::env::temp_dir().join(name);
        let error = Listeners::new()
            .bind(&Address::Unix(path.clone()))
            .unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::Other);
        let end = "is too long for a Unix socket";
        assert!(
            std::string::ToString::to_string(&error).ends_with(end),
            "{error}"
        );
        assert!(std::fs::symlink_metadata(&path).is_err());
    }

    /// Regression: a child process removed the file when it dropped its copy of the server.
    #[test]
    fn a_child_process_does_not_remove_the_socket_file() {
        let path = std::env::temp_dir().join(std::format!("healthz-child-{}", std::process::id()));
        let mut listeners = Listeners::new();
        listeners.bind(&Address::Unix(path.clone())).unwrap();
        let Some(Some(Listener::Unix(_, _, File::Ours { process, .. }))) =
            listeners.sockets.get_mut(0)
        else {
            panic!("no socket of ours");
        };
        assert_eq!(*process, std::process::id());
        *process += 1;
        drop(listeners);
        std::fs::remove_file(&path).unwrap();
    }

    /// Regression: the temporary name was longer, and did not fit.
    #[test]
    fn a_unix_socket_may_have_the_longest_possible_path() {
        let folder = std::env::temp_dir().join(std::format!("healthz-long-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let room = UNIX_PATH_BYTES_MAX - folder.as_os_str().len() - "/".len();
        let path = folder.join("s".repeat(room));
        let mut listeners = Listeners::new();
        let bound = listeners.bind(&Address::Unix(path.clone()));
        let found = std::fs::read_dir(&folder).unwrap().count();
        let client = std::os::unix::net::UnixStream::connect(&path);
        drop(listeners);
        std::fs::remove_dir(&folder).unwrap();
        bound.unwrap();
        client.unwrap();
        assert_eq!(found, 1, "nothing is left beside the socket");
    }
}

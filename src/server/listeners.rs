//! The sockets to listen on: which addresses, which options, and what to do when bind(2) fails.
//!
//! Knows no connection. [`Listeners`] is filled by the embedder before there is a server;
//! [`super::Server`] then takes the sockets out of it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, UnixListener};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::address::Address;
use super::socket::{File, FileId, Listener, Peers, is_loopback};
use crate::limits::LISTENERS_MAX;

/// Connections that may wait to be accepted at a TCP socket; the kernel lowers it to `net.core.somaxconn`
/// (4,096 by default since Linux 5.4). Beyond it the kernel drops the SYN, and the client tries again only a
/// second later. A longer queue covers a longer wait for a CPU, and a connection waits longer in it.
const BACKLOG_TCP: i32 = 4096;
/// At a Unix socket. There connect(2) waits for room instead, and every connection that is queued makes a
/// client wait: with 4,096, half of the probes beside the same programs came too late, with 1,024 none.
const BACKLOG_UNIX: i32 = 1024;

/// Longest path of a Unix socket, without the NUL behind it (unix(7); 104 with it on the BSDs).
const UNIX_PATH_BYTES_MAX: usize = if cfg!(any(target_os = "linux", target_os = "android")) {
    107
} else {
    103
};

/// How long a silent connection is kept from us where the kernel can do that, in seconds.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DEFER_ACCEPT_SECONDS: i32 = 1;

/// What kept an address from being listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindErrorKind {
    /// It can be reached from other machines, and nobody said that is meant.
    NotLoopback,
    /// Somebody else listens there.
    InUse,
    /// There are [`LISTENERS_MAX`] already.
    TooMany,
    /// What was handed in is no TCP or Unix stream socket that listens; see the source.
    Unusable,
    /// The system said no; see the source.
    Other,
}

/// An address could not be listened on.
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
            // The latter is a path that exists.
            io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => BindErrorKind::InUse,
            _ => BindErrorKind::Other,
        };
        BindError {
            address,
            kind,
            source: Some(source),
        }
    }

    /// The address, with the port that was tried. A passed-in socket without one has `unix:`.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What kept it from being listened on.
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
            (BindErrorKind::InUse, _) => write!(f, "{address} is in use by another process"),
            (BindErrorKind::TooMany, _) => {
                write!(f, "{address} would be more than {LISTENERS_MAX} listeners")
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

/// What [`Listeners::bind`] could not have but could do without.
#[derive(Debug, Default)]
pub struct Bound {
    /// The half of `localhost` that this machine does not have, and what it said.
    pub missing: Option<(SocketAddr, io::Error)>,
}

/// The sockets to listen on: bound here, or handed in. Dropping it closes them, and removes the
/// Unix socket files that were made here, if this is the process that made them and no child of it (a
/// host that turns itself into a daemon by fork(2) binds after that).
///
/// Only loopback and Unix sockets are taken unless [`allow_remote`](Listeners::allow_remote) was
/// called before: the door has no authentication. What comes to a loopback address from elsewhere all
/// the same, where the kernel is told to let it (`net.ipv4.conf.*.route_localnet`), is closed unread.
#[derive(Debug, Default)]
pub struct Listeners {
    /// From the front; on no heap, because an embedder may have none to give.
    sockets: [Option<Listener>; LISTENERS_MAX],
    allows_remote: bool,
}

impl Listeners {
    /// None yet, and loopback only.
    pub fn new() -> Self {
        Listeners::default()
    }

    /// Whether addresses that other machines can reach, and connections from there, are taken from now
    /// on.
    #[must_use]
    pub fn allow_remote(mut self, allows_remote: bool) -> Self {
        self.allows_remote = allows_remote;
        self
    }

    /// Binds `address` and listens there.
    ///
    /// `localhost` is two addresses; a machine that has only one of them gets that one, and the
    /// other is returned as missing. On Linux one whose loopback interface is down has both, and is served
    /// once that is up. A Unix socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// If the address is not loopback, in use, not to be had, or one too many.
    pub fn bind(&mut self, address: &Address) -> Result<Bound, BindError> {
        match address {
            Address::Localhost(port) => self.bind_localhost(*port),
            Address::Tcp(address) => self.bind_tcp(*address).map(|_| Bound::default()),
            Address::Unix(path) => self.bind_unix(path).map(|()| Bound::default()),
        }
    }

    /// Takes a socket that listens already, whoever opened it: a `TcpListener`, a `UnixListener` or an
    /// `OwnedFd` of either kind, from a service manager for example (see
    /// [`ListenFds`](super::ListenFds)). For all who share it, and for good, it becomes non-blocking, and
    /// options are taken back that would hold its connections up: `SO_LINGER`, and on Linux `SO_RCVLOWAT`,
    /// `TCP_CORK` and, since 6.16, `SO_PASSRIGHTS`. Whoever makes it blocking again may block the server.
    /// The file of a Unix socket stays when the server ends.
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
    /// If it is no stream socket, does not listen, is not loopback, or is one too many.
    pub fn add(&mut self, socket: impl Into<OwnedFd>) -> Result<(), BindError> {
        let nowhere = || Address::Unix(PathBuf::new());
        let unusable = |source| BindError {
            source: Some(source),
            ..BindError::new(nowhere(), BindErrorKind::Unusable)
        };
        let socket = Socket::from(socket.into());
        let is_stream = socket.r#type().map_err(unusable)? == Type::STREAM;
        if !is_stream || !is_listening(&socket).map_err(unusable)? {
            return Err(BindError::new(nowhere(), BindErrorKind::Unusable));
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
            Listener::Unix(UnixListener::from_std(socket.into()), path, File::Foreign)
        } else {
            return Err(BindError::new(nowhere(), BindErrorKind::Unusable));
        };
        self.push(listener);
        Ok(())
    }

    /// Where the sockets listen, with the ports that the system chose.
    pub fn local_addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.sockets.iter().flatten().map(Listener::address)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.iter().flatten().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sockets, for a server.
    pub(super) fn into_sockets(self) -> [Option<Listener>; LISTENERS_MAX] {
        self.sockets
    }

    /// Adds `listener`, for which [`check_count`](Listeners::check_count) found room.
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
        // Port 0: the second half takes the port that the first was given.
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
                // Half of what was asked for is nothing to go on with.
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
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_stale(path) => {
                remove_stale(path).and_then(|()| listen_unix(path))
            }
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
        if !self.allows_remote && !is_loopback(address) {
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

/// Makes a socket that was handed in as one that was opened here.
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

/// Goes on without an option of a listener that the system does not have.
fn try_option(name: &str, result: io::Result<()>) {
    if let Err(error) = result {
        log::debug!("{name} of a listener: {error}");
    }
}

/// Whether connections can come; one that does not listen would fail at every accept(2).
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn is_listening(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// Elsewhere nobody can be asked.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn is_listening(_socket: &Socket) -> io::Result<bool> {
    Ok(true)
}

fn listen_tcp(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    // Close-on-exec is socket2's default; a listener must not outlive us in a child.
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of an earlier run that linger in TIME_WAIT must not keep us from the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::1] and 127.0.0.1 are two sockets; one must not claim the other's port.
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

/// Binds `socket` to `address`; to `[::1]` of a machine that has IPv6 also while the loopback interface is
/// down, because it is given its address when it comes up and loses it when it goes down. (127.0.0.1 can
/// be had at any time.)
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

/// Elsewhere the address is there or is not.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_tcp_socket(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.bind(&address.into())
}

/// Whether the loopback interface of this network namespace gets an IPv6 address when it comes up. Where
/// /proc does not tell, nobody says that it will.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_ipv6() -> bool {
    std::fs::read("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        .is_ok_and(|disabled| disabled.trim_ascii() == b"0")
}

/// Listens at a name of our own first, and gives the socket its `path` when it does: between bind(2)
/// and listen(2) a socket refuses connections, and would look as if nobody listened on it.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
        // The file could be had, and no client could name it.
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            std::format!(
                "a path of more than {UNIX_PATH_BYTES_MAX} bytes is too long for a Unix socket"
            ),
        ));
    }
    let temporary = name_beside(path);
    // Only an earlier process of our number can have left it.
    let _ = std::fs::remove_file(&temporary);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Before anybody can connect: who has may go on.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    try_option("SO_PASSRIGHTS", super::sys::refuse_rights(&socket));
    socket.bind(&SockAddr::unix(&temporary)?)?;
    socket.listen(BACKLOG_UNIX)?;
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    linked.map(|()| UnixListener::from_std(socket.into()))
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

/// A name in the directory of `path` that no other process uses, unless it is one of another PID namespace.
fn name_beside(path: &Path) -> PathBuf {
    let suffix = std::format!(".{}", std::process::id());
    let mut name = path.as_os_str().to_os_string();
    name.push(&suffix);
    if name.len() <= UNIX_PATH_BYTES_MAX {
        PathBuf::from(name)
    } else {
        // A path that just fits leaves no room for more than a name as short as this.
        path.with_file_name(&suffix)
    }
}

/// Removes the socket at `path`, on which nobody listened a moment ago. Somebody else may have found the
/// same, and listen there by now: so it is moved away first, which only one of us can do to a file, and
/// put back if it is another one. (Its inode would not tell: the number of one that was removed is free.)
fn remove_stale(path: &Path) -> io::Result<()> {
    let aside = name_beside(path);
    match std::fs::rename(path, &aside) {
        // Somebody else has just removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    if is_stale(&aside) {
        return std::fs::remove_file(&aside);
    }
    match std::fs::hard_link(&aside, path) {
        Ok(()) => std::fs::remove_file(&aside)?,
        // A third one has the path by now, and this one goes on under the other name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Links to other users' files can be forbidden (`fs.protected_hardlinks`).
        Err(_) => std::fs::rename(&aside, path)?,
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Whether `path` is a Unix socket that nobody listens on.
fn is_stale(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    // Without waiting: somebody who listens and accepts nobody would keep us here for ever.
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_other_machines_reach_is_refused_unless_it_is_meant() {
        let remote: Address = "0.0.0.0:0".parse().unwrap();
        let error = Listeners::new().bind(&remote).unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::NotLoopback);
        let handed_in = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        assert_eq!(
            Listeners::new().add(handed_in).unwrap_err().kind(),
            BindErrorKind::NotLoopback
        );
        Listeners::new().allow_remote(true).bind(&remote).unwrap();
    }

    /// Of two that started at once, both said that they served, and one could not be reached.
    #[test]
    fn a_socket_that_took_the_place_of_a_stale_one_is_not_removed() {
        let path = std::env::temp_dir().join(std::format!("healthz-two-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        assert!(is_stale(&path));
        // The other one was quicker.
        remove_stale(&path).unwrap();
        remove_stale(&path).unwrap();
        let live = listen_unix(&path).unwrap();
        let error = remove_stale(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(!is_stale(&path));
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        // Whoever looked whether it lives, and whoever connected now.
        assert!(live.accept().is_ok() && live.accept().is_ok());
        assert!(!name_beside(&path).exists());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_port_in_use_is_told_as_such() {
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
    fn a_localhost_of_which_half_is_in_use_leaves_no_half_behind() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut listeners = Listeners::new();
        let error = listeners.bind(&Address::Localhost(port)).unwrap_err();
        assert_eq!(error.kind(), BindErrorKind::InUse);
        assert!(listeners.is_empty(), "{listeners:?}");
    }

    /// It was removed, and the one who had come after could not be reached any more.
    #[test]
    fn the_socket_file_of_a_successor_stays() {
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

    /// The second one waited in its start until the first accepted somebody.
    #[test]
    fn a_unix_socket_whose_owner_accepts_nobody_is_in_use() {
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

    /// It was served where no client could connect: the name that it has for a moment is shorter.
    #[test]
    fn a_unix_socket_whose_path_no_client_can_say_is_refused() {
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

    /// It did, when it let go of the server that its parent goes on with.
    #[test]
    fn a_child_leaves_its_parents_socket_file() {
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

    /// The name that it has for a moment used to be longer, and did not fit.
    #[test]
    fn a_unix_socket_may_have_the_longest_path_there_is() {
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

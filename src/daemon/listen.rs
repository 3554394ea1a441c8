//! Makes listeners from the options and from inherited sockets. Errors say what went wrong, and what to do if that is
//! known.
//!
//! Serves nothing. Called once, by [`super::serve`].

use std::cell::LazyCell;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use healthz::limits::LISTENERS_MAX;
use healthz::server::{Address, BindError, BindErrorKind, ListenFds, ListenerPaths, Listeners};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::options::{Listen, Options};
use super::{Failure, port_owner, sys};

/// The descriptors that the process inherited besides its standard streams.
#[derive(Default)]
pub struct Inherited {
    sockets: Vec<OwnedFd>,
    ready: Option<File>,
}

impl Inherited {
    /// Takes over the sockets that `LISTEN_FDS` announces for this process, and descriptor `ready_fd`. Call
    /// this once, before anything opens a descriptor.
    ///
    /// # Errors
    /// If one of them is not open, if `ready_fd` cannot be written to, or if there are too many sockets.
    pub fn take(ready_fd: Option<RawFd>) -> Result<Self, Failure> {
        let passed = ListenFds::from_env().map_err(|error| Failure::Usage(error.to_string()))?;
        let sockets = passed.numbers();
        check_count(sockets.len())?;
        let ready = match ready_fd {
            Some(fd) if sockets.contains(&fd) => {
                let count = sockets.len();
                let message =
                    format!("--ready-fd {fd} is one of the {count} sockets of LISTEN_FDS");
                return Err(Failure::Usage(message));
            }
            Some(fd) => {
                let ready = sys::adopt(fd)
                    .map_err(|error| Failure::Usage(format!("--ready-fd {fd}: {error}")))?;
                Some(File::from(ready))
            }
            None => None,
        };
        let adopt = |fd| {
            sys::adopt(fd)
                .map_err(|error| Failure::Usage(format!("LISTEN_FDS: descriptor {fd}: {error}")))
        };
        let sockets = sockets.map(adopt).collect::<Result<_, _>>()?;
        // This opens descriptors, so it comes after all inherited ones are taken over.
        if let (Some(fd), Some(ready)) = (ready_fd, &ready) {
            check_writable(ready)
                .map_err(|error| Failure::Usage(format!("--ready-fd {fd}: {error}")))?;
        }
        Ok(Inherited { sockets, ready })
    }

    /// Writes a newline to the descriptor of `--ready-fd`, and closes it.
    pub fn notify_ready(ready: Option<File>) {
        if let Some(Err(error)) = ready.map(|mut ready| ready.write_all(b"\n")) {
            log::warn!("cannot write to the descriptor of --ready-fd: {error}");
        }
    }
}

/// More sockets than can be served are refused before the first is taken over.
fn check_count(count: usize) -> Result<(), Failure> {
    if count <= LISTENERS_MAX {
        return Ok(());
    }
    let message = format!("LISTEN_FDS={count}: expected 0 to {LISTENERS_MAX}");
    Err(Failure::Usage(message))
}

/// Checks that a byte can be written now. A full pipe would block the main thread for ever.
fn check_writable(file: &File) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let fd = file.as_raw_fd();
    let mut source = SourceFd(&fd);
    let registered = poll
        .registry()
        .register(&mut source, Token(0), Interest::WRITABLE);
    match registered {
        // epoll returns EPERM for files, which are always ready.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        result => result?,
    }
    let mut events = Events::with_capacity(1);
    poll.poll(&mut events, Some(Duration::ZERO))?;
    if events.is_empty() {
        return Err(io::Error::other(
            "nothing can be written there now; expected the writing end of a pipe",
        ));
    }
    Ok(())
}

/// Makes the listeners: inherited sockets and those of the command line, or else the default. Returns the
/// descriptor of `--ready-fd` too.
///
/// # Errors
/// If an address cannot be listened on, or an inherited socket cannot be used.
pub fn open(options: &Options, inherited: Inherited) -> Result<(Listeners, Option<File>), Failure> {
    let mut listeners = Listeners::new().allow_remote(options.allow_remote);
    let Inherited { sockets, ready } = inherited;
    for socket in sockets {
        let fd = socket.as_raw_fd();
        listeners
            .add(socket)
            .map_err(|error| explain(&error).in_descriptor(fd))?;
    }
    let default = [Listen::at(Address::DEFAULT)];
    let listen = if options.listen.is_empty() && listeners.is_empty() {
        &default
    } else {
        options.listen.as_slice()
    };
    for Listen { address, paths } in listen {
        let bound = match paths {
            Some(paths) => listeners.bind_for(address, paths),
            None => listeners.bind(address),
        };
        let bound = bound.map_err(|error| explain(&error))?;
        if let Some((missing, error)) = bound.missing {
            log::warn!(
                "this machine has no {}, serving without it: {error}",
                missing.ip()
            );
        }
    }
    warn_if_unreachable(&listeners);
    Ok((listeners, ready))
}

/// Warns of addresses that no client can reach: bind(2) succeeds even if the loopback interface is down, as
/// it is in a new network namespace.
fn warn_if_unreachable(listeners: &Listeners) {
    let is_down = LazyCell::new(is_loopback_down);
    for address in listeners.local_addresses() {
        let Address::Tcp(address) = address else {
            continue;
        };
        let address = reachable_at(address);
        let unspecified = match address {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
        };
        // Connecting a UDP socket looks up the route and sends nothing. If the system has no descriptor for
        // the socket, the route is not checked.
        let Ok(socket) = UdpSocket::bind(unspecified) else {
            continue;
        };
        let reached = match socket.connect(address) {
            Ok(()) if address.ip().is_loopback() && *is_down => {
                Err(io::Error::from_raw_os_error(libc::ENETDOWN))
            }
            reached => reached,
        };
        if let Err(error) = reached {
            log::warn!("no client can reach {address} until its interface is up: {error}");
        }
    }
}

/// Whether the loopback interface is down. After it was up once, it keeps 127.0.0.1 and its route when it
/// goes down, so only the flags show it.
fn is_loopback_down() -> bool {
    const IFF_UP: u32 = 1;
    let flags = std::fs::read_to_string("/sys/class/net/lo/flags").unwrap_or_default();
    let flags = flags.trim_ascii().strip_prefix("0x");
    flags
        .and_then(|flags| u32::from_str_radix(flags, 16).ok())
        .is_some_and(|flags| flags & IFF_UP == 0)
}

/// The address by which this machine itself reaches `address`.
fn reachable_at(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// The failure for `error`. Its text says what went wrong, and what to do if that is known.
fn explain(error: &BindError) -> Failure {
    let address = error.address();
    match error.kind() {
        BindErrorKind::NotLoopback => Failure::Usage(format!(
            "{address} is reachable from outside this machine; pass --allow-remote if that is intended"
        )),
        BindErrorKind::InUse => in_use(address),
        BindErrorKind::Unusable | BindErrorKind::TooMany => Failure::Usage(error.to_string()),
        BindErrorKind::Other => Failure::Run(error.to_string()),
    }
}

fn in_use(address: &Address) -> Failure {
    if let Address::Unix(path) = address {
        let is_socket = |file: std::fs::Metadata| file.file_type().is_socket();
        if std::fs::symlink_metadata(path).is_ok_and(|file| !is_socket(file)) {
            return Failure::Run(format!(
                "cannot listen on {address}: a file that is not a socket has this path; remove it or pass --listen"
            ));
        }
    }
    match port_owner::find(address) {
        Some(owner) if owner.pid == std::process::id() => {
            Failure::Usage(format!("{address} is given twice"))
        }
        Some(owner) => Failure::Run(format!(
            "{address} is in use by {owner}; stop it or pass --listen"
        )),
        None => Failure::Run(format!(
            "{address} is in use by another process; stop it or pass --listen"
        )),
    }
}

/// The listeners' addresses as URLs, with the paths of those that do not serve all:
/// `http://0.0.0.0:9100 (only /metrics)`.
pub fn urls(listeners: &Listeners) -> Vec<String> {
    let url = |(address, paths): (Address, Option<&ListenerPaths>)| {
        let mut url = match address {
            Address::Unix(_) => address.to_string(),
            address => format!("http://{address}"),
        };
        if let Some(paths) = paths {
            let paths: Vec<&str> = paths.iter().collect();
            url.extend([" (only ", &super::list(&paths), ")"]);
        }
        url
    };
    let addresses = listeners.local_addresses();
    addresses.zip(listeners.paths()).map(url).collect()
}

impl Failure {
    /// The same about descriptor `fd`, which a service manager passed in.
    fn in_descriptor(self, fd: RawFd) -> Self {
        let about = |message| format!("LISTEN_FDS: descriptor {fd}: {message}");
        match self {
            Failure::Usage(message) => Failure::Usage(about(message)),
            Failure::Run(message) => Failure::Run(about(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn as_many_sockets_as_can_be_served_are_taken_over_and_not_one_more() {
        for (count, is_taken) in [(0, true), (15, true), (16, true), (17, false)] {
            assert_eq!(check_count(count).is_ok(), is_taken, "{count}");
        }
    }

    #[test]
    fn urls_name_the_paths_of_listeners_that_do_not_serve_all() {
        let mut listeners = Listeners::new();
        let address = "127.0.0.1:0".parse().unwrap();
        let paths = ListenerPaths::new(&["/metrics", "/readyz"]).unwrap();
        listeners.bind(&address).unwrap();
        listeners.bind_for(&address, &paths).unwrap();
        let addresses: Vec<Address> = listeners.local_addresses().collect();
        let expected = [
            format!("http://{}", addresses[0]),
            format!("http://{} (only /metrics and /readyz)", addresses[1]),
        ];
        assert_eq!(urls(&listeners), expected);
    }

    #[test]
    fn an_address_given_twice_is_wrong_usage() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let options = Options {
            listen: vec![Listen::at(Address::Tcp(first.local_addr().unwrap()))],
            ..Options::default()
        };
        let Err(Failure::Usage(message)) = open(&options, Inherited::default()) else {
            panic!("was taken");
        };
        assert!(message.ends_with(" is given twice"), "{message}");
    }

    #[test]
    fn the_ready_descriptor_may_be_a_file_which_epoll_does_not_watch() {
        check_writable(&File::open("/dev/null").unwrap()).unwrap();
        // The kernel watches an epoll instance that watches another, and so on, down to some depth.
        let mut polls = vec![Poll::new().unwrap()];
        let error = loop {
            let fd = polls.last().unwrap().as_raw_fd();
            let poll = Poll::new().unwrap();
            let mut source = SourceFd(&fd);
            let registered = poll
                .registry()
                .register(&mut source, Token(0), Interest::WRITABLE);
            if let Err(error) = registered {
                break error;
            }
            polls.push(poll);
        };
        let deepest = polls.last().unwrap().registry().as_fd();
        let refused = check_writable(&deepest.try_clone_to_owned().unwrap().into()).unwrap_err();
        assert_eq!(refused.kind(), error.kind());
    }

    #[test]
    fn only_the_unspecified_address_is_reached_at_another_one() {
        for (address, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[::]:1", "[::1]:1"),
            ("[::2]:1", "[::2]:1"),
        ] {
            let reached = reachable_at(address.parse().unwrap());
            assert_eq!(reached, expected.parse().unwrap());
        }
    }
}

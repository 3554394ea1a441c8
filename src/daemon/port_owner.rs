//! Finds the process that already listens on an address.
//!
//! Reads only /proc; if that is hidden or not mounted, the answer is `None`. Called by [`super::listen`] when
//! an address is in use and the daemon is about to exit, so its speed does not matter.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use healthz::server::Address;

/// A process that listens somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    name: String,
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The process that listens on `address`, if /proc shows it.
pub fn find(address: &Address) -> Option<Owner> {
    match address {
        Address::Tcp(wanted) => process_with(&tcp_inode(*wanted)?, |_| true),
        Address::Unix(path) => unix_owner(path),
        Address::Localhost(_) => None,
    }
}

/// /proc/net/unix has paths as they were bound. Several processes can have bound the same text, each in its
/// own directory or root.
fn unix_owner(path: &Path) -> Option<Owner> {
    let file = file_id(path)?;
    let table = fs::read("/proc/net/unix").ok()?;
    let mut inodes = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| unix_listener(line, path));
    inodes.find_map(|inode| {
        process_with(&inode, |pid| {
            file_id(&path_in_process(pid, path)) == Some(file)
        })
    })
}

/// `path` as process `pid` would find it.
fn path_in_process(pid: u32, path: &Path) -> PathBuf {
    let (base, path) = match path.strip_prefix("/") {
        Ok(path) => ("root", path),
        Err(_) => ("cwd", path),
    };
    Path::new(&format!("/proc/{pid}/{base}")).join(path)
}

/// Device and inode number.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

fn tcp_inode(wanted: SocketAddr) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    let listeners = tables
        .iter()
        .flat_map(|table| table.lines().filter_map(tcp_listener));
    listeners
        .filter(|(address, _)| conflicts(*address, wanted))
        // An owner of this address comes before an owner of the wildcard address.
        .max_by_key(|(address, _)| address.ip() == wanted.ip())
        .map(|(_, inode)| inode.to_owned())
}

fn conflicts(used: SocketAddr, wanted: SocketAddr) -> bool {
    let (used_ip, wanted_ip) = (used.ip().to_canonical(), wanted.ip().to_canonical());
    let overlap = used_ip == wanted_ip || used_ip.is_unspecified() || wanted_ip.is_unspecified();
    used.port() == wanted.port() && overlap
}

/// The address and inode in a line of /proc/net/tcp or tcp6, if it is of a listening socket.
pub(super) fn tcp_listener(line: &str) -> Option<(SocketAddr, &str)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip_from_hex(ip)?, port), fields.nth(5)?))
}

/// Addresses are printed as 32-bit words in the machine's byte order.
fn ip_from_hex(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (index, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The inode in a line of /proc/net/unix, if it is of a socket that listens at `path`.
pub(super) fn unix_listener(line: &[u8], path: &Path) -> Option<String> {
    const ACCEPTS: &[u8] = b"00010000";
    let path = path.as_os_str().as_bytes();
    // `Listeners::bind` of another healthz has bound PATH.PID and then linked it to PATH.
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let digits = line.iter().rev().take_while(|byte| is_digit(byte)).count();
    let stem = line
        .get(..line.len() - digits)
        .and_then(|stem| stem.strip_suffix(b"."));
    let line = [Some(line), stem]
        .into_iter()
        .flatten()
        .find_map(|line| line.strip_suffix(path)?.strip_suffix(b" "))?;
    let mut fields = line
        .split(|byte| *byte == b' ')
        .filter(|field| !field.is_empty());
    if fields.nth(3)? != ACCEPTS {
        return None;
    }
    let inode = fields.nth(2)?;
    // One more field means that the path contains a space, and only its end was compared.
    let is_whole = fields.next().is_none();
    is_whole.then(|| String::from_utf8(inode.to_vec()).ok())?
}

/// The first process that has the socket `inode` among its descriptors and `is_wanted`.
fn process_with(inode: &str, is_wanted: impl Fn(u32) -> bool) -> Option<Owner> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids
        .filter(|pid| has_open(*pid, &link) && is_wanted(*pid))
        .min()?;
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(Owner {
        name: String::from_utf8_lossy(name.trim_ascii_end()).into_owned(),
        pid,
    })
}

fn has_open(pid: u32, link: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(link)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_proc_are_parsed() {
        let line = "   1: 0100007F:2808 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41215 1 0";
        assert_eq!(
            tcp_listener(line),
            Some(("127.0.0.1:10248".parse().unwrap(), "41215"))
        );
        let line = "   0: 00000000000000000000000001000000:2808 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0";
        assert_eq!(
            tcp_listener(line),
            Some(("[::1]:10248".parse().unwrap(), "7"))
        );
        let connected = "   1: 0100007F:2808 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 41215 1 0";
        assert_eq!(tcp_listener(connected), None);
        assert_eq!(tcp_listener("  sl  local_address rem_address   st"), None);

        let line = b"0000000000000000: 00000002 00000000 00010000 0001 01 20707 /run/a b.sock";
        assert_eq!(
            unix_listener(line, Path::new("/run/a b.sock")).as_deref(),
            Some("20707")
        );
        assert_eq!(unix_listener(line, Path::new("b.sock")), None);
    }

    #[test]
    fn a_wildcard_conflicts_with_every_address() {
        for (used, wanted, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
        ] {
            let is = conflicts(used.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(is, expected, "{used} {wanted}");
        }
    }

    #[test]
    fn the_owner_of_an_address_comes_before_that_of_the_wildcard_address() {
        use std::os::fd::AsRawFd;
        let listen = |address: SocketAddr| {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(1).unwrap();
            TcpListener::from(socket)
        };
        let any = listen("0.0.0.0:0".parse().unwrap());
        let address = ([127, 0, 0, 1], any.local_addr().unwrap().port()).into();
        let exact = listen(address);
        let link = fs::read_link(format!("/proc/self/fd/{}", exact.as_raw_fd())).unwrap();
        let inode = tcp_inode(address).unwrap();
        assert_eq!(link, Path::new(&format!("socket:[{inode}]")));
    }

    #[test]
    fn the_own_process_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let owner = find(&Address::Tcp(listener.local_addr().unwrap())).unwrap();
            assert_eq!(owner.pid, std::process::id());
        }
        let path = std::env::temp_dir().join(format!("healthz-owner-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let owner = find(&Address::Unix(path.clone()));
        drop(listener);
        fs::remove_file(&path).unwrap();
        assert_eq!(owner.unwrap().pid, std::process::id());
        assert_eq!(find(&Address::Unix(path)), None);
    }
}

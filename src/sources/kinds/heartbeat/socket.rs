//! The sockets of a heartbeat: the one that receives, with its file, and the one that forwards.
//!
//! Knows no meaning of a message. Called by [`super`].

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, Permissions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};

use super::closer::{self, ReceivedFds};
use super::message::{
    CONTROL_BYTES_MAX, CONTROL_BYTES_WITHOUT_FDS, Control, MESSAGE_BYTES_MAX, Sender,
};

/// A datagram socket that receives from local processes. Dropping it removes its file.
pub struct Receiver {
    fd: OwnedFd,
    name: OsString,
    /// Device and inode of its file; `None` for an abstract name.
    file: Option<(u64, u64)>,
}

/// One datagram.
pub struct Datagram {
    buffer: [u8; MESSAGE_BYTES_MAX],
    length: usize,
    /// Whether the end is missing.
    pub is_cut: bool,
    pub sender: Option<Sender>,
    /// See [`Control::sent`].
    pub sent: Option<std::time::Duration>,
    pub fds: ReceivedFds,
}

impl Datagram {
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Receiver {
    /// Binds `name`: a path, or an abstract name that begins with `@`. The file has the permissions `mode`.
    ///
    /// # Errors
    /// If the path belongs to another kind of file, or to a socket that a process has open.
    pub fn bind(name: &OsStr, mode: u32) -> io::Result<Receiver> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        // Before the socket has a name, so that every datagram comes with its sender and its time.
        socket::setsockopt(&fd, sockopt::PassCred, &true)?;
        socket::setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        let mut receiver = Receiver {
            fd,
            name: name.into(),
            file: None,
        };
        if is_abstract(name) {
            socket::bind(receiver.fd.as_raw_fd(), &address(name)?)?;
            return Ok(receiver);
        }
        let path = Path::new(name);
        if let Some(directory) = path.parent() {
            create_directory(directory)?;
        }
        // The file gets these permissions without those of the umask, so it is never open to more users.
        fchmod(&receiver.fd, Mode::from_bits_truncate(mode))?;
        match socket::bind(receiver.fd.as_raw_fd(), &address(name)?) {
            Err(Errno::EADDRINUSE) if is_stale(path)? => {
                std::fs::remove_file(path)?;
                socket::bind(receiver.fd.as_raw_fd(), &address(name)?)?;
            }
            result => result?,
        }
        receiver.file = file_id(path);
        receiver.set_mode(mode)?;
        Ok(receiver)
    }

    /// Changes the permissions of its file.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        let path = Path::new(&self.name);
        if self.file.is_none() || std::fs::symlink_metadata(path)?.st_mode() & 0o777 == mode {
            return Ok(());
        }
        // A file that another user has put there in the meantime may be a link to any file.
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?;
        Ok(())
    }

    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Whether senders reach this socket under its name.
    pub fn is_in_place(&self) -> bool {
        self.file.is_none() || file_id(Path::new(&self.name)) == self.file
    }

    /// The next datagram; `None` if there is none. Never waits.
    pub fn receive(&self) -> io::Result<Option<Datagram>> {
        self.receive_with(match closer::has_room() {
            true => CONTROL_BYTES_MAX,
            false => CONTROL_BYTES_WITHOUT_FDS,
        })
    }

    /// `room` is for the control data. The kernel closes descriptors that do not fit.
    fn receive_with(&self, room: usize) -> io::Result<Option<Datagram>> {
        let mut datagram = Datagram {
            buffer: [0; MESSAGE_BYTES_MAX],
            length: 0,
            is_cut: false,
            sender: None,
            sent: None,
            fds: ReceivedFds::default(),
        };
        let mut control = [0; CONTROL_BYTES_MAX];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, flags) = loop {
            let mut pieces = [IoSliceMut::new(&mut datagram.buffer)];
            let fd = self.fd.as_raw_fd();
            match socket::recvmsg::<()>(fd, &mut pieces, control.get_mut(..room), flags) {
                Ok(received) => break (received.bytes, received.flags),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        let control = Control::parse(&control);
        datagram.fds = ReceivedFds::new(control.fds);
        datagram.length = length;
        datagram.is_cut = flags.contains(MsgFlags::MSG_TRUNC);
        (datagram.sender, datagram.sent) = (control.sender, control.sent);
        Ok(Some(datagram))
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
impl std::os::fd::AsFd for Receiver {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.file.is_some() && self.is_in_place() {
            let _ = std::fs::remove_file(Path::new(&self.name));
        }
    }
}

/// Sends what was received to a service manager.
pub struct Forwarder {
    fd: OwnedFd,
    address: UnixAddr,
}

impl Forwarder {
    pub fn new(name: &OsStr) -> io::Result<Forwarder> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        let address = address(name)?;
        Ok(Forwarder { fd, address })
    }

    /// Sends `datagram` in the name of its sender, with its descriptors. Never waits.
    ///
    /// # Errors
    /// EPERM without the right to send in the name of others; ESRCH if the sender has ended; EAGAIN if the queue of
    /// the manager is full.
    pub fn send(&self, datagram: &Datagram) -> Result<(), Errno> {
        let sender = datagram.sender.ok_or(Errno::EINVAL)?;
        let credentials = UnixCredentials::from(libc::ucred {
            pid: sender.pid,
            uid: sender.uid,
            gid: sender.gid,
        });
        let both = [
            ControlMessage::ScmCredentials(&credentials),
            ControlMessage::ScmRights(datagram.fds.as_slice()),
        ];
        let control = match datagram.fds.as_slice().len() {
            0 => both.get(..1).unwrap_or_default(),
            _ => &both,
        };
        let pieces = [IoSlice::new(datagram.bytes())];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fd = self.fd.as_raw_fd();
        socket::sendmsg(fd, &pieces, control, flags, Some(&self.address)).map(drop)
    }
}

pub fn is_abstract(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"@")
}

fn address(name: &OsStr) -> io::Result<UnixAddr> {
    Ok(match name.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(name)?,
    })
}

/// Creates a directory that other users can enter, whatever the umask is.
fn create_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Device and inode of a socket's file.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    let file = std::fs::symlink_metadata(path).ok()?;
    let is_socket = file.file_type().is_socket();
    is_socket.then(|| (file.st_dev(), file.st_ino()))
}

/// Whether `path` is a socket that no process has open.
fn is_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let result = socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?);
    // A stream socket gives EPROTOTYPE if a process has it open.
    Ok(result == Err(Errno::ECONNREFUSED))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let name = format!("healthz-socket-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().st_mode() & 0o7777
    }

    #[test]
    fn the_file_has_its_permissions_and_is_removed() {
        let top = directory("mode");
        let path = top.join("a/b.sock");
        // The umask of most systems takes away what the second one wants.
        for wanted in [0o600, 0o666] {
            let receiver = Receiver::bind(path.as_os_str(), wanted).unwrap();
            assert_eq!(mode(&path), wanted);
            assert_eq!((mode(&top), mode(&top.join("a"))), (0o755, 0o755));
            receiver.set_mode(0o620).unwrap();
            assert_eq!(mode(&path), 0o620);
            drop(receiver);
            assert!(!path.exists());
        }
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let top = directory("stale");
        std::fs::create_dir(&top).unwrap();
        let path = top.join("a.sock");
        let bind = || Receiver::bind(path.as_os_str(), 0o600);
        let is_in_use = |result: io::Result<Receiver>| {
            let error = result.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        };
        let live = UnixDatagram::bind(&path).unwrap();
        is_in_use(bind());
        // Its file stays.
        drop(live);
        let receiver = bind().unwrap();
        // A second one does not take the file of the first.
        is_in_use(bind());
        drop(receiver);

        std::fs::write(&path, "text").unwrap();
        is_in_use(bind());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_file_that_replaced_the_socket_is_not_removed() {
        let top = directory("replaced");
        let path = top.join("a.sock");
        let first = Receiver::bind(path.as_os_str(), 0o600).unwrap();
        assert!(first.is_in_place());
        std::fs::remove_file(&path).unwrap();
        let _second = Receiver::bind(path.as_os_str(), 0o600).unwrap();
        // The inode of the first is in use, so the second has another.
        assert!(!first.is_in_place());
        drop(first);
        assert!(path.exists());
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn without_room_for_descriptors_the_sender_and_the_time_are_still_known() {
        use std::io::Read;

        let top = directory("room");
        let path = top.join("a.sock");
        let receiver = Receiver::bind(path.as_os_str(), 0o600).unwrap();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut reader = std::fs::File::from(reader);
        let socket = UnixDatagram::unbound().unwrap();
        let (address, fds) = (UnixAddr::new(&path).unwrap(), [writer.as_raw_fd()]);
        let control = [ControlMessage::ScmRights(&fds)];
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
        let pieces = [IoSlice::new(b"FDSTORE=1")];
        socket::sendmsg(fd, &pieces, &control, flags, Some(&address)).unwrap();
        drop(writer);
        let datagram = receiver.receive_with(CONTROL_BYTES_WITHOUT_FDS);
        let datagram = datagram.unwrap().unwrap();
        assert!(datagram.sender.is_some() && datagram.sent.is_some());
        assert!(datagram.fds.as_slice().is_empty());
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_datagram_has_its_sender_and_its_time() {
        let top = directory("sender");
        let path = top.join("a.sock");
        let receiver = Receiver::bind(path.as_os_str(), 0o600).unwrap();
        assert!(receiver.receive().unwrap().is_none());
        let wall = || {
            let now = std::time::SystemTime::now();
            now.duration_since(std::time::UNIX_EPOCH).unwrap()
        };
        let before = wall();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(&[b'x'; MESSAGE_BYTES_MAX], &path).unwrap();
        sender
            .send_to(&[b'x'; MESSAGE_BYTES_MAX + 1], &path)
            .unwrap();
        let datagram = receiver.receive().unwrap().unwrap();
        let want = Sender {
            pid: std::process::id().try_into().unwrap(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        };
        assert_eq!(datagram.sender, Some(want));
        // The clock of a virtual machine may be corrected by a little meanwhile.
        let slack = std::time::Duration::from_secs(5);
        let sent = datagram.sent.unwrap();
        assert!(before < sent + slack && sent < wall() + slack);
        assert_eq!(
            (datagram.bytes().len(), datagram.is_cut),
            (MESSAGE_BYTES_MAX, false)
        );
        assert!(receiver.receive().unwrap().unwrap().is_cut);
        std::fs::remove_dir_all(&top).unwrap();
    }
}

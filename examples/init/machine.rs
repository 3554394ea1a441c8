//! What only PID 1 does: mounts and the loopback at the start, unmounting and power-off at the end.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::unistd::sync;

use crate::say;

/// Type, place and options of what services expect. Without a mode anybody could write to /run.
const MOUNTS: [(&str, &str, Option<&str>); 5] = [
    ("proc", "/proc", None),
    ("sysfs", "/sys", None),
    ("devtmpfs", "/dev", Some("mode=0755")),
    ("tmpfs", "/run", Some("mode=0755")),
    ("cgroup2", "/sys/fs/cgroup", None),
];

/// What a kernel leaves to PID 1. What is there already, in a container for example, stays.
pub fn prepare() {
    for (kind, target, options) in MOUNTS {
        let _ = std::fs::create_dir_all(target);
        if is_mounted(Path::new(target)) {
            continue;
        }
        let flags = match target {
            "/dev" => MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            _ => MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV,
        };
        match mount(Some(kind), target, Some(kind), flags, options) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => say!("cannot mount {target}: {error}"),
        }
    }
    // Before the door: without it nothing can be bound to ::1, and nobody reaches 127.0.0.1.
    if let Err(error) = raise_loopback() {
        say!("cannot bring the loopback up: {error}");
    }
    // Ctrl-Alt-Del sends us SIGINT instead of ending the machine at once.
    if let Err(error) = set_cad_enabled(false) {
        say!("Ctrl-Alt-Del stays as it is: {error}");
    }
}

/// Whether something is mounted there: it is on another device than the directory around it.
fn is_mounted(target: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|of| of.dev()).ok();
    target.parent().and_then(device) != device(target)
}

/// Powers off or restarts, with nothing left unwritten. Returns only where that is not ours to do.
pub fn end(how: RebootMode) {
    sync();
    // A container's file systems are the machine's: read-only here would be read-only there.
    if is_machine() {
        release_mounts();
    }
    let Err(error) = reboot(how);
    say!("the machine does not end: {error}");
    if error == Errno::EPERM {
        // A container: the end of its PID 1 is the end of it.
        return;
    }
    // The end of PID 1 is a kernel panic.
    loop {
        std::thread::park();
    }
}

/// Whether the processes are the machine's, not those of a container.
fn is_machine() -> bool {
    // PROC_PID_INIT_INO: the number of the first namespace is the same in every kernel.
    const FIRST: u64 = 0xEFFF_FFFC;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|of| of.ino() == FIRST)
}

/// The last mounted first; what cannot be unmounted, as the root, becomes read-only.
fn release_mounts() {
    let table = match std::fs::read("/proc/self/mounts") {
        Ok(table) => table,
        Err(error) => return say!("cannot tell what is mounted: {error}"),
    };
    // Device, place, type and options in each line.
    for line in table.split(|byte| *byte == b'\n').rev() {
        let Some(target) = line.split(|byte| *byte == b' ').nth(1) else {
            continue;
        };
        let target = unescape(target);
        if MOUNTS.iter().any(|(_, ours, _)| target == Path::new(ours)) {
            // Nothing in them outlives the kernel, and /dev has our console.
            continue;
        }
        let file = target.display();
        if umount2(&target, MntFlags::empty()).is_ok() {
            say!("{file} is unmounted");
            continue;
        }
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        match mount(None::<&str>, &target, None::<&str>, flags, None::<&str>) {
            Ok(()) => say!("{file} is read-only"),
            Err(error) => say!("{file} stays writable: {error}"),
        }
    }
}

/// A path as /proc/self/mounts writes it: a blank is `\040`, and so on.
fn unescape(text: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = text;
    loop {
        rest = match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                rest @ ..,
            ] => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [byte, rest @ ..] => {
                path.push(*byte);
                rest
            }
            [] => return OsString::from_vec(path).into(),
        };
    }
}

/// `ip link set lo up`, as one netlink message; see rtnetlink(7).
fn raise_loopback() -> io::Result<()> {
    // The first interface of every network namespace.
    const LO_INDEX: u32 = 1;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let [a, b] = libc::RTM_NEWLINK.to_ne_bytes();
    let [c, d] = flags.to_ne_bytes();
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // struct nlmsghdr (length, type and flags, sequence, port), then struct ifinfomsg (family and
    // type, index, flags, which of them to change).
    let index = LO_INDEX.to_ne_bytes();
    let length = 32_u32.to_ne_bytes();
    let message = [length, [a, b, c, d], [0; 4], [0; 4], [0; 4], index, up, up].concat();

    let route = socket2::Domain::from(libc::AF_NETLINK);
    let mut socket = socket2::Socket::new(route, socket2::Type::RAW, None)?;
    socket.send(&message)?;
    // The start of a struct nlmsgerr behind its header: 0, or the negative number of an error.
    let mut answer = [0; 20];
    socket.read_exact(&mut answer)?;
    let [.., a, b, c, d] = answer;
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

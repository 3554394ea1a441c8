//! The tasks that only PID 1 has: mounts and the loopback interface at the start, unmounting and power-off
//! at the end. `init.rs` calls it; it knows nothing about services or health.

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

/// File systems that services expect: type, mount point and options. Without a mode, /run would be
/// writable for all users.
const MOUNTS: [(&str, &str, Option<&str>); 5] = [
    ("proc", "/proc", None),
    ("sysfs", "/sys", None),
    ("devtmpfs", "/dev", Some("mode=0755")),
    ("tmpfs", "/run", Some("mode=0755")),
    ("cgroup2", "/sys/fs/cgroup", None),
];

/// Sets up what the kernel leaves to PID 1. Existing mounts, for example in a container, stay.
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
    // Before the health server starts: without it, binding to ::1 fails and 127.0.0.1 is unreachable.
    if let Err(error) = raise_loopback() {
        say!("cannot bring the loopback interface up: {error}");
    }
    // Ctrl-Alt-Del sends us SIGINT instead of ending the machine at once.
    if let Err(error) = set_cad_enabled(false) {
        say!("Ctrl-Alt-Del will restart at once, without stopping services: {error}");
    }
}

/// True if something is mounted there: then it is on another device than its parent directory.
fn is_mounted(target: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|of| of.dev()).ok();
    target.parent().and_then(device) != device(target)
}

/// Writes all files to disk, then powers off or restarts. Returns only in a container, where powering off is
/// not permitted.
pub fn end(how: RebootMode) {
    sync();
    // In a container the file systems belong to the host: making them read-only would affect it too.
    if is_machine() {
        release_mounts();
    }
    let Err(error) = reboot(how);
    say!("cannot power off or restart: {error}");
    if error == Errno::EPERM {
        // In a container: it ends when its PID 1 ends.
        return;
    }
    // If PID 1 ended, the kernel would panic.
    loop {
        std::thread::park();
    }
}

/// True on a machine, false in a container with its own PID namespace.
fn is_machine() -> bool {
    // PROC_PID_INIT_INO: every kernel uses this inode number for the first namespace.
    const FIRST: u64 = 0xEFFF_FFFC;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|of| of.ino() == FIRST)
}

/// Unmounts all file systems, the last mounted first. One that is in use, such as the root, becomes
/// read-only.
fn release_mounts() {
    let table = match std::fs::read("/proc/self/mounts") {
        Ok(table) => table,
        Err(error) => return say!("cannot read /proc/self/mounts: {error}"),
    };
    // Each line has the device, the mount point, the type and the options.
    for line in table.split(|byte| *byte == b'\n').rev() {
        let Some(target) = line.split(|byte| *byte == b' ').nth(1) else {
            continue;
        };
        let target = unescape(target);
        if MOUNTS.iter().any(|(_, ours, _)| target == Path::new(ours)) {
            // These have no data on disk, and /dev has the console.
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

/// Decodes a path of /proc/self/mounts, where a space is written as `\040`.
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
    // `lo` is the first interface of every network namespace.
    const LO_INDEX: u32 = 1;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let [a, b] = libc::RTM_NEWLINK.to_ne_bytes();
    let [c, d] = flags.to_ne_bytes();
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    // struct nlmsghdr (length, type and flags, sequence, port), then struct ifinfomsg (family and
    // type, index, flags, mask of the flags to change).
    let index = LO_INDEX.to_ne_bytes();
    let length = 32_u32.to_ne_bytes();
    let message = [length, [a, b, c, d], [0; 4], [0; 4], [0; 4], index, up, up].concat();

    let route = socket2::Domain::from(libc::AF_NETLINK);
    let mut socket = socket2::Socket::new(route, socket2::Type::RAW, None)?;
    socket.send(&message)?;
    // A struct nlmsgerr after its header begins with 0 or a negated error number.
    let mut answer = [0; 20];
    socket.read_exact(&mut answer)?;
    let [.., a, b, c, d] = answer;
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

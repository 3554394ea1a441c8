//! The files of Unix sockets: binding a path so that no other server takes it for a stale one, and replacing a stale
//! one.
//!
//! Knows no connection. Called by [`super::listeners`].

use std::io;
use std::path::{Path, PathBuf};

use mio::net::UnixListener;
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::try_option;

/// Most connections that wait to be accepted at a Unix socket. connect(2) waits while the queue is full, so no probe is
/// lost, and in a longer queue probes only wait longer. During a flood from five programs, half of the probes missed
/// their deadline with a queue of 4,096, and none with 1,024.
const BACKLOG_UNIX: i32 = 1024;

/// Longest path of a Unix socket in bytes, without the NUL at its end (unix(7); 104 with it on the BSDs).
pub(super) const UNIX_PATH_BYTES_MAX: usize =
    if cfg!(any(target_os = "linux", target_os = "android")) {
        107
    } else {
        103
    };

/// Listens under a temporary name first, and then links the socket to `path`. Between bind(2) and listen(2) a socket
/// refuses connections, so another server could take it for a stale one and replace it.
pub(super) fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
        // The file could be made, but no client could connect to this path.
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            std::format!(
                "a path of more than {UNIX_PATH_BYTES_MAX} bytes is too long for a Unix socket"
            ),
        ));
    }
    let temporary = name_beside(path);
    // An earlier process with the same ID may have left it.
    let _ = std::fs::remove_file(&temporary);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Before listen(2): connections that exist already keep the old setting.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    try_option("SO_PASSRIGHTS", super::sys::refuse_rights(&socket));
    socket.bind(&SockAddr::unix(&temporary)?)?;
    socket.listen(BACKLOG_UNIX)?;
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    linked.map(|()| UnixListener::from_std(socket.into()))
}

/// A name in the directory of `path` that no other process of the same PID namespace uses.
fn name_beside(path: &Path) -> PathBuf {
    let suffix = std::format!(".{}", std::process::id());
    let mut name = path.as_os_str().to_os_string();
    name.push(&suffix);
    if name.len() <= UNIX_PATH_BYTES_MAX {
        PathBuf::from(name)
    } else {
        // If `path` has the greatest length, only a short name fits.
        path.with_file_name(&suffix)
    }
}

/// Removes the file at `path`, a socket on which no process listened a moment ago. Another server may have replaced it
/// since. So the file is renamed first, which only one process can do, and renamed back if a process listens on it.
/// (The inode number does not show that the file was replaced, because numbers of removed files are reused.)
pub(super) fn remove_stale(path: &Path) -> io::Result<()> {
    let aside = name_beside(path);
    match std::fs::rename(path, &aside) {
        // Another server has just removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    if is_stale(&aside) {
        return std::fs::remove_file(&aside);
    }
    match std::fs::hard_link(&aside, path) {
        Ok(()) => std::fs::remove_file(&aside)?,
        // A third server has the path now; this socket stays under the other name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Links to other users' files can be forbidden (`fs.protected_hardlinks`).
        Err(_) => std::fs::rename(&aside, path)?,
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Whether the file with this path is a socket.
pub(super) fn is_socket(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket())
}

/// True if `path` is a Unix socket on which no process listens.
pub(super) fn is_stale(path: &Path) -> bool {
    // Non-blocking: with a full queue, connect(2) would wait for ever.
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket(path).unwrap_or(false)
        && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::{format, println};

    include!("../../tests/support/untried.rs");

    /// Regression: of two servers that started at once, both reported that they serve, and one could not be reached.
    #[test]
    fn a_socket_that_took_the_place_of_a_stale_one_is_not_removed() {
        let path = std::env::temp_dir().join(std::format!("healthz-two-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        assert!(is_stale(&path));
        // The other server has replaced the stale socket first.
        remove_stale(&path).unwrap();
        remove_stale(&path).unwrap();
        let live = listen_unix(&path).unwrap();
        let error = remove_stale(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(!is_stale(&path));
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        // One connection is from the test for a stale socket, one from above.
        assert!(live.accept().is_ok() && live.accept().is_ok());
        assert!(!name_beside(&path).exists());
        std::fs::remove_file(&path).unwrap();
    }

    const CHILD: &str = "HEALTHZ_TEST_UNIX_CHILD";

    /// Linux forbids a link to a socket of another user (`fs.protected_hardlinks`), so the child is another user.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_live_socket_that_cannot_be_linked_is_renamed_back() {
        use std::os::unix::fs::PermissionsExt;
        if let Some(path) = std::env::var_os(CHILD) {
            let error = remove_stale(Path::new(&path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            println!("it was renamed back");
            return;
        }
        let directory = format!("healthz-linked-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        let live = UnixListener::bind(&path).unwrap();
        for file in [&directory, &path] {
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o777)).unwrap();
        }
        let name = "server::unix::tests::a_live_socket_that_cannot_be_linked_is_renamed_back";
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1", name])
            .env(CHILD, &path)
            .output();
        let is_there = path.exists();
        std::fs::remove_dir_all(&directory).unwrap();
        drop(live);
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        match text {
            Ok(text) if text.contains("running 1 test") => {
                assert!(is_there && text.contains("it was renamed back"), "{text}");
            }
            _ => untried("no setpriv(1), not root, or another user cannot run this program"),
        }
    }

    #[test]
    fn a_stale_socket_that_cannot_be_renamed_is_an_error() {
        let path = std::env::temp_dir().join(std::format!("healthz-kept-{}", std::process::id()));
        drop(UnixListener::bind(&path).unwrap());
        // The name that it would get is taken by a directory.
        let aside = name_beside(&path);
        std::fs::create_dir(&aside).unwrap();
        let result = remove_stale(&path);
        std::fs::remove_dir(&aside).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}

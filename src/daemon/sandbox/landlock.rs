//! Landlock: denies files, TCP ports, and signals to other processes.
//!
//! Descriptors that are already open are not affected. Called by [`super::Sandbox`], in the
//! server's thread and in the main thread.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CreateRulesetError, LandlockStatus,
    RestrictSelfError, RestrictionStatus, Ruleset, RulesetAttr, RulesetError, Scope,
};

/// The newest version whose rights were reviewed. A later one can deny connecting to a Unix socket by its
/// path, which the daemon needs to notify a service manager.
const KNOWN: ABI = ABI::V7;

/// Restricts this thread and those that it will start, as far as the kernel can: ports since 6.7, signals
/// since 6.12. On older kernels the filter denies the same calls.
///
/// # Errors
/// If the kernel has no Landlock.
pub fn restrict() -> Result<(), String> {
    let status = apply().map_err(refused)?;
    match status.landlock {
        LandlockStatus::Available { .. } => Ok(()),
        LandlockStatus::NotEnabled => Err("this kernel has it turned off".to_owned()),
        LandlockStatus::NotImplemented => Err("this kernel has none".to_owned()),
    }
}

/// Denies everything that [`KNOWN`] can, without exceptions. An exception applies to a whole directory:
/// one for removing the daemon's own Unix socket would allow removing every file below `/run`.
fn apply() -> Result<RestrictionStatus, RulesetError> {
    let mut scope = BitFlags::from(Scope::Signal);
    // An abstract name of a service manager belongs to another process.
    if super::manager() != Some(b'@') {
        scope |= Scope::AbstractUnixSocket;
    }
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?;
    ruleset.scope(scope)?.create()?.restrict_self()
}

/// The system's error. (The crate's own messages take 8 KiB of the program.)
fn refused(error: RulesetError) -> String {
    match error {
        RulesetError::CreateRuleset(CreateRulesetError::CreateRulesetCall { source, .. })
        | RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }) => {
            source.to_string()
        }
        _ => "this kernel refuses the rules".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::{self, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{self, UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use nix::sys::signal::kill;
    use nix::unistd::{Pid, truncate};

    include!("../../../tests/support/untried.rs");

    /// What the restricted thread tries to reach.
    struct Outside {
        /// The directory with the listener's socket `s`.
        directory: PathBuf,
        port: TcpListener,
        name: net::SocketAddr,
        _named: UnixListener,
        child: Child,
    }

    impl Outside {
        fn new(label: &str) -> Self {
            let label = format!("healthz-landlock-{label}-{}", std::process::id());
            let directory = std::env::temp_dir().join(&label);
            for name in ["directory", "empty"] {
                fs::create_dir_all(directory.join(name)).unwrap();
            }
            for name in ["file", "removed", "directory/removed"] {
                fs::write(directory.join(name), "text").unwrap();
            }
            let name = net::SocketAddr::from_abstract_name(&label).unwrap();
            Outside {
                directory,
                port: TcpListener::bind("127.0.0.1:0").unwrap(),
                _named: UnixListener::bind_addr(&name).unwrap(),
                name,
                // It exits at the end of its input, at the latest.
                child: Command::new("cat").stdin(Stdio::piped()).spawn().unwrap(),
            }
        }

        fn port(&self) -> SocketAddr {
            self.port.local_addr().unwrap()
        }

        /// What Landlock denies, the version that can, and the result of the attempt.
        fn tried(&self) -> Vec<(&'static str, ABI, io::Result<()>)> {
            let path = |name| self.directory.join(name);
            let pid = Pid::from_raw(self.child.id() as i32);
            let write = || File::options().write(true).open(path("file"));
            let run = || Command::new("true").status();
            vec![
                ("read", ABI::V1, File::open(path("file")).map(drop)),
                ("write", ABI::V1, write().map(drop)),
                ("list", ABI::V1, fs::read_dir(&self.directory).map(drop)),
                ("run a program", ABI::V1, run().map(drop)),
                (
                    "make a file",
                    ABI::V1,
                    File::create_new(path("new")).map(drop),
                ),
                ("make a directory", ABI::V1, fs::create_dir(path("d"))),
                (
                    "make a socket",
                    ABI::V1,
                    UnixListener::bind(path("t")).map(drop),
                ),
                ("remove a directory", ABI::V1, fs::remove_dir(path("empty"))),
                (
                    "remove a file beside the socket",
                    ABI::V1,
                    fs::remove_file(path("removed")),
                ),
                (
                    "remove a file below the socket's directory",
                    ABI::V1,
                    fs::remove_file(path("directory/removed")),
                ),
                (
                    "truncate a file",
                    ABI::V3,
                    truncate(&path("file"), 1).map_err(Into::into),
                ),
                (
                    "bind a port",
                    ABI::V4,
                    TcpListener::bind("127.0.0.1:0").map(drop),
                ),
                (
                    "connect to a port",
                    ABI::V4,
                    TcpStream::connect(self.port()).map(drop),
                ),
                (
                    "signal a process",
                    ABI::V6,
                    kill(pid, None).map_err(Into::into),
                ),
                (
                    "connect to an abstract name",
                    ABI::V6,
                    UnixStream::connect_addr(&self.name).map(drop),
                ),
            ]
        }
    }

    impl Drop for Outside {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    /// Reads a byte from an accepted connection, and writes one.
    fn answer<S: Read + Write>(accepted: io::Result<S>) -> io::Result<()> {
        let mut stream = accepted?;
        stream.read_exact(&mut [0])?;
        stream.write_all(b"a")
    }

    #[test]
    fn the_error_of_the_system_is_returned() {
        let restricted = || {
            let status = apply().unwrap().landlock;
            let is_available = matches!(status, LandlockStatus::Available { .. });
            is_available.then(|| (0..100).find_map(|_| restrict().err()))
        };
        // Only this thread is restricted.
        let Some(error) = std::thread::spawn(restricted).join().unwrap() else {
            return untried("this kernel has no Landlock");
        };
        // A thread can have 16 sets of rules.
        let expected = io::Error::from_raw_os_error(libc::E2BIG).to_string();
        assert_eq!(error, Some(expected));
    }

    /// In the daemon, the filter denies these calls first. Here there is no filter.
    #[test]
    fn landlock_denies_files_ports_and_processes_and_open_sockets_go_on() {
        for (what, _, result) in Outside::new("free").tried() {
            assert!(result.is_ok(), "{what} without Landlock: {result:?}");
        }

        let outside = Outside::new("bound");
        let socket = outside.directory.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut near = UnixStream::connect(&socket).unwrap();
        let mut far = TcpStream::connect(outside.port()).unwrap();
        near.write_all(b"q").unwrap();
        far.write_all(b"q").unwrap();
        // Returns what Landlock of this kernel cannot deny.
        let restricted = || {
            let status = apply().unwrap();
            let LandlockStatus::Available { effective_abi, .. } = status.landlock else {
                return vec!["anything"];
            };
            let mut undenied = Vec::new();
            for (what, since, result) in outside.tried() {
                if since > effective_abi {
                    undenied.push(what);
                    continue;
                }
                let denied = result.map_err(|error| error.kind());
                assert_eq!(denied, Err(io::ErrorKind::PermissionDenied), "{what}");
            }
            answer(listener.accept().map(|(stream, _)| stream)).unwrap();
            answer(outside.port.accept().map(|(stream, _)| stream)).unwrap();
            near.read_exact(&mut [0]).unwrap();
            far.read_exact(&mut [0]).unwrap();
            undenied
        };
        // Only this thread is restricted.
        let undenied = std::thread::scope(|scope| scope.spawn(restricted).join().unwrap());
        if !undenied.is_empty() {
            let what = undenied.join(", ");
            untried(&format!("Landlock of this kernel cannot deny: {what}"));
        }
    }
}

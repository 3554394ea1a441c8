//! Landlock: which files, ports and processes the daemon may still reach, which is nearly none.
//!
//! What is open already is not affected. Called once, by [`super::Sandbox`], before there are threads.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CreateRulesetError, LandlockStatus,
    RestrictSelfError, RestrictionStatus, Ruleset, RulesetAttr, RulesetError, Scope,
};

/// The last version whose rights were read one by one. A later one knows the right to reach a Unix
/// socket by its path, and that is how a service manager is told.
const KNOWN: ABI = ABI::V7;

/// Restricts this thread and those that it will start. As much as the kernel has: on one before 6.7
/// ports are not restricted, on one before 6.12 signals are not; the filter does without those calls
/// anyway.
///
/// # Errors
/// If there is no Landlock at all.
pub fn restrict() -> Result<(), String> {
    let status = apply().map_err(refused)?;
    match status.landlock {
        LandlockStatus::Available { .. } => Ok(()),
        LandlockStatus::NotEnabled => Err("this kernel has it switched off".to_owned()),
        LandlockStatus::NotImplemented => Err("this kernel has none".to_owned()),
    }
}

/// No rule gives a right back. A rule covers everything below its directory, so the right to remove the
/// daemon's own Unix socket would be the right to remove every file below `/run`.
fn apply() -> Result<RestrictionStatus, RulesetError> {
    let mut scope = BitFlags::from(Scope::Signal);
    // A service manager with such a name is outside.
    if super::manager() != Some(b'@') {
        scope |= Scope::AbstractUnixSocket;
    }
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?;
    ruleset.scope(scope)?.create()?.restrict_self()
}

/// In the system's words. (The crate's own are a hundred, and take 8 KiB of program.)
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

    /// What there is to be reached.
    struct Outside {
        /// The directory of the daemon's socket `s`.
        ours: PathBuf,
        port: TcpListener,
        name: net::SocketAddr,
        _named: UnixListener,
        child: Child,
    }

    impl Outside {
        fn new(label: &str) -> Self {
            let label = format!("healthz-landlock-{label}-{}", std::process::id());
            let ours = std::env::temp_dir().join(&label);
            for name in ["directory", "empty"] {
                fs::create_dir_all(ours.join(name)).unwrap();
            }
            for name in ["file", "removed", "directory/removed"] {
                fs::write(ours.join(name), "text").unwrap();
            }
            let name = net::SocketAddr::from_abstract_name(&label).unwrap();
            Outside {
                ours,
                port: TcpListener::bind("127.0.0.1:0").unwrap(),
                _named: UnixListener::bind_addr(&name).unwrap(),
                name,
                // It ends with its input, if not before.
                child: Command::new("cat").stdin(Stdio::piped()).spawn().unwrap(),
            }
        }

        fn port(&self) -> SocketAddr {
            self.port.local_addr().unwrap()
        }

        /// What is to be denied, since when Landlock can, and how it went.
        fn tried(&self) -> Vec<(&'static str, ABI, io::Result<()>)> {
            let ours = |name| self.ours.join(name);
            let pid = Pid::from_raw(self.child.id() as i32);
            let write = || File::options().write(true).open(ours("file"));
            let run = || Command::new("true").status();
            vec![
                ("read", ABI::V1, File::open(ours("file")).map(drop)),
                ("write", ABI::V1, write().map(drop)),
                ("list", ABI::V1, fs::read_dir(&self.ours).map(drop)),
                ("run a program", ABI::V1, run().map(drop)),
                (
                    "make a file",
                    ABI::V1,
                    File::create_new(ours("new")).map(drop),
                ),
                ("make a directory", ABI::V1, fs::create_dir(ours("d"))),
                (
                    "make a socket",
                    ABI::V1,
                    UnixListener::bind(ours("t")).map(drop),
                ),
                ("remove a directory", ABI::V1, fs::remove_dir(ours("empty"))),
                (
                    "remove a file beside the socket",
                    ABI::V1,
                    fs::remove_file(ours("removed")),
                ),
                (
                    "remove a file below the socket's directory",
                    ABI::V1,
                    fs::remove_file(ours("directory/removed")),
                ),
                (
                    "cut a file",
                    ABI::V3,
                    truncate(&ours("file"), 1).map_err(Into::into),
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
                    "connect to a name",
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
            let _ = fs::remove_dir_all(&self.ours);
        }
    }

    /// A byte comes in on a connection that `accept` gives, and one goes out.
    fn answer<S: Read + Write>(accepted: io::Result<S>) -> io::Result<()> {
        let mut stream = accepted?;
        stream.read_exact(&mut [0])?;
        stream.write_all(b"a")
    }

    /// In the daemon the filter would answer first: here is none.
    #[test]
    fn what_landlock_denies_on_its_own_and_what_it_leaves() {
        for (what, _, result) in Outside::new("free").tried() {
            assert!(result.is_ok(), "{what} without Landlock: {result:?}");
        }

        let outside = Outside::new("bound");
        let socket = outside.ours.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut near = UnixStream::connect(&socket).unwrap();
        let mut far = TcpStream::connect(outside.port()).unwrap();
        near.write_all(b"q").unwrap();
        far.write_all(b"q").unwrap();
        // Returns what this kernel cannot deny.
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
        // It binds the thread that asks for it.
        let undenied = std::thread::scope(|scope| scope.spawn(restricted).join().unwrap());
        if !undenied.is_empty() {
            let what = undenied.join(", ");
            untried(&format!("Landlock of this kernel cannot deny: {what}"));
        }
    }
}

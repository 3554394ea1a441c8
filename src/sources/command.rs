//! The commands that healthz runs itself: `healthz sources supervisor ...`, `healthz sources worker ...` and
//! `healthz sources exec ...`.
//!
//! Of the first two, standard input is the link to the server, and standard output the store. The third becomes a
//! program that a check runs ([`exec::launch`]). The program is started as /proc/self/exe, so that all processes have
//! the same version, also if its file was replaced.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chdir, getpid, getppid};

use super::kinds::exec;
use super::link::{Link, Message, encode};
use super::spawn::{self, Launch};
use super::store::{Store, Stored};
use super::worker::{self, End, Origin};
use super::{descendants, rights, supervisor, sys};

/// The program of this process, also if its file was replaced.
const PROGRAM_FILE: &str = "/proc/self/exe";
/// The first argument of these commands.
pub const NAME: &str = "sources";
const SUPERVISOR: &str = "supervisor";
const WORKER: &str = "worker";
/// A worker has run before.
const AGAIN: &str = "again";
/// Becomes a program that a check runs.
const PROGRAM: &str = "exec";

/// The supervisor, before it is started.
pub struct Supervisor {
    link: OwnedFd,
    origin: Origin,
    /// The text of the check file.
    text: Option<Vec<u8>>,
    rights: OsString,
}

impl Supervisor {
    /// `link` is the far end, and `rights` are from [`rights::needed`].
    ///
    /// # Errors
    /// If the system lacks what the supervisor needs.
    pub fn new(
        link: OwnedFd,
        origin: Origin,
        text: Option<Vec<u8>>,
        rights: OsString,
    ) -> io::Result<Self> {
        // Without pidfds, the two processes could not see that another one has ended.
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        if let Err(error) = sys::pidfd_open(own) {
            let message =
                format!("they need pidfd_open(2), which Linux 5.3 and newer have: {error}");
            return Err(io::Error::other(message));
        }
        Ok(Supervisor {
            link,
            origin,
            text,
            rights,
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// If the system does not start a process.
    pub fn start(self) -> io::Result<()> {
        let store = Store::new()?;
        store.write(&Stored {
            generation: 0,
            text: self.text,
        })?;
        let store = store.into_fd();
        let started = spawn::spawn(&Launch {
            program: OsStr::new(PROGRAM_FILE),
            arguments: &words(SUPERVISOR, &[&self.rights], &self.origin),
            environment: &[],
            streams: [Some(self.link.as_fd()), Some(store.as_fd()), None],
            // Signals of a terminal are for the server. The other processes end when the server ends.
            has_own_group: true,
        });
        match started {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::other("/proc is not mounted"))
            }
            Err(error) => Err(error),
        }
    }
}

/// The arguments of one of the commands.
fn words<'a>(role: &'a str, more: &[&'a OsStr], origin: &'a Origin) -> Vec<&'a OsStr> {
    let mut arguments = ["healthz", NAME, role].map(OsStr::new).to_vec();
    arguments.extend(more);
    for check in &origin.checks {
        arguments.extend([OsStr::new("--check"), check]);
    }
    if let Some(file) = &origin.file {
        arguments.extend([OsStr::new("--config"), file.as_os_str()]);
    }
    arguments
}

/// Runs one of the commands with the arguments after [`NAME`]. Prints its error to standard error.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.split_first() {
        Some((role, rest)) if role == PROGRAM => return exec::launch(rest.iter().cloned()),
        _ => {}
    }
    // Before any descriptor is opened: closes those that a service manager has passed on by mistake.
    let _ = sys::close_from(3);
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    let (Ok(link), Ok(store)) = (stdin, stdout) else {
        return ExitCode::FAILURE;
    };
    let Ok(link) = Link::from_inherited(link) else {
        return ExitCode::FAILURE;
    };
    let store = Store::from_inherited(store);
    let result = match arguments.split_first() {
        Some((role, rest)) if role == SUPERVISOR => supervise(&link, rest),
        Some((role, rest)) if role == WORKER => work(link, store, rest),
        _ => Err(io::Error::other(
            "healthz runs this command itself; see healthz --help",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "healthz: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads `--check` and `--config`, which [`words`] has written.
fn origin(arguments: &[OsString]) -> Origin {
    let mut origin = Origin::default();
    for pair in arguments.chunks_exact(2) {
        match pair {
            [option, value] if option == "--check" => origin.checks.push(value.clone()),
            [option, value] if option == "--config" => origin.file = Some(value.into()),
            _ => {}
        }
    }
    origin
}

fn supervise(link: &Link, arguments: &[OsString]) -> io::Result<()> {
    let [rights, arguments @ ..] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // A worker that takes the place of its supervisor has given up its rights already.
    let is_restart = rights == AGAIN;
    if !is_restart {
        rights::restrict(rights);
    }
    let origin = origin(arguments);
    prepare()?;
    // A stopped process cannot see that the server has ended.
    sys::continue_at_hangup(link.as_fd())?;
    // Kills the programs of a worker that has become a supervisor.
    descendants::kill_all();
    if supervisor::is_server_closed(link)? {
        return Ok(());
    }
    let own = OsString::from(getpid().to_string());
    let start = |is_restart: bool| {
        let begin = OsStr::new(if is_restart { AGAIN } else { "first" });
        spawn::spawn(&Launch {
            program: OsStr::new(PROGRAM_FILE),
            arguments: &words(WORKER, &[&own, begin], &origin),
            environment: &[],
            streams: [None; 3],
            has_own_group: false,
        })
    };
    supervisor::run(link, start, is_restart)
}

fn work(link: Link, store: Store, arguments: &[OsString]) -> io::Result<()> {
    let [parent, begin, arguments @ ..] = arguments else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    prepare()?;
    let origin = origin(arguments);
    let end = match parent_of(parent)? {
        // The parent has ended since this process was started.
        None => End::SupervisorEnded,
        Some(supervisor) => {
            let link = Link::from_inherited(link.as_fd().try_clone_to_owned()?)?;
            worker::run(link, store, origin.clone(), supervisor, begin == AGAIN)?
        }
    };
    descendants::kill_all();
    match end {
        End::ServerClosed => Ok(()),
        End::SupervisorEnded => {
            let text =
                "the supervisor of the sources processes has ended; the worker takes its place";
            let _ = link.send(&encode(&Message::Restarting(text)));
            let arguments = words(SUPERVISOR, &[OsStr::new(AGAIN)], &origin);
            Err(spawn::replace_self(OsStr::new(PROGRAM_FILE), &arguments))
        }
    }
}

/// The parent process, if it is still the one with this number.
///
/// # Errors
/// If the system has no pidfds, or `number` is not a number.
fn parent_of(number: &OsStr) -> io::Result<Option<OwnedFd>> {
    let expected = number.to_str().and_then(|number| number.parse().ok());
    let expected = expected.ok_or(io::ErrorKind::InvalidInput)?;
    let parent = match sys::pidfd_open(expected) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        parent => parent?,
    };
    Ok((getppid() == Pid::from_raw(expected)).then_some(parent))
}

/// The first steps of both commands.
fn prepare() -> io::Result<()> {
    // The directory where the server was started may be on a file system that must be unmounted.
    let _ = chdir("/");
    // A stopped worker cannot see that its supervisor has ended; this signal continues it.
    prctl::set_pdeathsig(Signal::SIGCONT)?;
    // Processes that a program of a check leaves behind become children of this process.
    prctl::set_child_subreaper(true)?;
    // A service manager sends SIGTERM to every process of a service. These two end when the server has ended. The
    // signals get a handler and not SIG_IGN, which programs of checks would inherit.
    let ignored = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        signal_hook::flag::register(signal, std::sync::Arc::clone(&ignored))?;
    }
    Ok(())
}

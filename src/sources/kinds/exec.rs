//! The kind `exec`: a program must exit with 0.
//!
//! The program is not started directly, but by this same program (`healthz sources exec`, [`launch`]). Starting
//! waits until the file of a program is loaded, and the file may be on a file system that hangs. The
//! file of this program is in use already, so the event loop does not wait; if the second step hangs, it does so
//! in the new process.
//!
//! Each program has a process group of its own. When the program has ended, or its attempt is dropped, the whole
//! group is killed. [`Programs::reap`] ends the rest.

use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Pid, Uid, geteuid, pipe2, setgid, setgroups, setuid};

use super::orphans::{kill_orphans, reap};
use super::procfs::{self, User};
use super::system::{failed, lines, words};
use crate::sources::attempt::{Attempt, Started};
use crate::sources::spawn::{self, Launch};
use crate::sources::spec::{Exec, Outcome};
use crate::sources::sys;

/// Bytes of the output that are kept, for its first line. The rest is read and dropped, so that a program that
/// prints more neither waits nor ends by SIGPIPE.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Most bytes of the output that are read for one event: as many as a pipe holds.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of the first line of the output that are kept as the reason. The server cuts it again.
const REASON_BYTES_MAX: usize = 512;

/// Most groups of a user. The kernel allows 65,536.
const GROUPS_MAX: usize = 1024;

/// [`launch`] could not become the user, or could not start the program.
const EXIT_NOT_STARTED: u8 = 127;

/// The programs of all checks that run or were killed. A clone is the same list.
#[derive(Clone, Debug)]
pub struct Programs {
    list: Rc<RefCell<Vec<Program>>>,
    /// What starts a program: the words before `[--user NAME] -- PROGRAM ARGUMENT...`.
    launcher: Rc<[OsString]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program {
    pid: i32,
    /// The check that it belongs to.
    base: Token,
    is_killed: bool,
}

impl Programs {
    /// An empty list. `launcher` starts the programs: see [`Programs::launched_by_self`].
    pub fn new(launcher: &[&str]) -> Self {
        Programs {
            list: Rc::default(),
            launcher: launcher.iter().map(OsString::from).collect(),
        }
    }

    /// An empty list. Programs are started by the hidden command of this program, which calls [`launch`].
    pub fn launched_by_self() -> Self {
        Programs::new(&["/proc/self/exe", "sources", "exec"])
    }

    /// Reaps killed programs, and kills and reaps what programs have left behind, without waiting. Returns true if
    /// there may be more: then call it again within half a second. Call it also after each attempt.
    ///
    /// Every child of this process that is not in the list is killed.
    pub fn reap(&self) -> bool {
        let mut list = self.list.borrow_mut();
        list.retain(|program| {
            if program.is_killed {
                // Once more: a member may have been just about to fork.
                kill_group(program.pid);
            }
            !(program.is_killed && reap(program.pid))
        });
        let known: Vec<i32> = list.iter().map(|program| program.pid).collect();
        let is_any_killed = list.iter().any(|program| program.is_killed);
        // Without /proc, what runs cannot be found, and what has ended is reaped nevertheless.
        kill_orphans(&known).unwrap_or(false) || is_any_killed
    }

    /// True if no program runs or waits to be reaped.
    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    fn add(&self, pid: i32, base: Token) {
        self.list.borrow_mut().push(Program {
            pid,
            base,
            is_killed: false,
        });
    }

    fn remove(&self, pid: i32) {
        self.list.borrow_mut().retain(|program| program.pid != pid);
    }

    /// Kills the group of `pid`, and leaves the rest to [`Programs::reap`].
    fn kill(&self, pid: i32) {
        kill_group(pid);
        for program in self.list.borrow_mut().iter_mut() {
            program.is_killed |= program.pid == pid;
        }
    }

    /// True if a program of this check exists.
    fn is_pending(&self, base: Token) -> bool {
        let mut list = self.list.borrow_mut();
        list.retain(|program| program.base != base || !program.is_killed || !reap(program.pid));
        list.iter().any(|program| program.base == base)
    }
}

/// The leader of the group must not be reaped yet, so that its number is not used again.
fn kill_group(pid: i32) {
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
}

impl Exec {
    /// Starts the program. `base` and the next token are registered.
    pub fn start(&self, registry: &Registry, base: Token, programs: &Programs) -> Started {
        let program = self.argv.first().map(Path::new).unwrap_or(Path::new(""));
        if programs.is_pending(base) {
            // It was killed only now, or it is in an uninterruptible wait.
            let program = program.display();
            let reason = format!("{program}: was killed at its timeout and has not ended yet");
            return Started::Done(Outcome::Fail(reason));
        }
        let (pid, output) = match self.spawn(programs) {
            Ok(started) => started,
            Err(error) => return Started::Done(Outcome::Fail(failed(program, &error))),
        };
        programs.add(pid, base);
        let mut attempt = Running {
            name: program.display().to_string(),
            pid,
            programs: programs.clone(),
            output: Some(output),
            kept: Vec::new(),
            base,
            exit: None,
            is_reaped: false,
        };
        match attempt.register(registry) {
            Ok(()) => Started::Waiting(Box::new(attempt)),
            Err(outcome) => Started::Done(outcome),
        }
    }

    fn spawn(&self, programs: &Programs) -> io::Result<(i32, File)> {
        let (output, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // Not for the writer: programs do not expect that printing can fail because a pipe is full.
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let launcher = programs
            .launcher
            .first()
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut arguments: Vec<&OsStr> =
            programs.launcher.iter().map(OsString::as_os_str).collect();
        if let Some(user) = &self.user {
            arguments.extend(["--user", user].map(OsStr::new));
        }
        arguments.push(OsStr::new("--"));
        arguments.extend(self.argv.iter().map(OsString::as_os_str));
        let variables = self.env.iter().map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            spawn::text(&variable)
        });
        let environment: Vec<CString> = variables.collect::<io::Result<_>>()?;
        let null = File::open("/dev/null")?;
        let pid = spawn::spawn(&Launch {
            program: launcher,
            arguments: &arguments,
            environment: &environment,
            streams: [
                Some(null.as_fd()),
                Some(writer.as_fd()),
                Some(writer.as_fd()),
            ],
            has_own_group: true,
        })?;
        // The writer is closed here; afterwards only the program has it.
        Ok((pid, File::from(output)))
    }
}

/// A program that runs.
struct Running {
    name: String,
    pid: i32,
    programs: Programs,
    /// `None` after its end.
    output: Option<File>,
    /// The start of the output.
    kept: Vec<u8>,
    base: Token,
    /// Becomes readable at the exit.
    exit: Option<OwnedFd>,
    is_reaped: bool,
}

impl Running {
    fn output_token(&self) -> Token {
        self.base
    }

    fn exit_token(&self) -> Token {
        Token(self.base.0 + 1)
    }

    fn register(&mut self, registry: &Registry) -> Result<(), Outcome> {
        let exit = sys::pidfd_open(self.pid)
            .map_err(|error| Outcome::Unsupported(format!("pidfd_open: {}", words(&error))))?;
        let fail = |error: io::Error| Outcome::Fail(format!("epoll: {}", words(&error)));
        let readable = Interest::READABLE;
        registry
            .register(
                &mut SourceFd(&exit.as_raw_fd()),
                self.exit_token(),
                readable,
            )
            .map_err(fail)?;
        self.exit = Some(exit);
        if let Some(output) = &self.output {
            registry
                .register(
                    &mut SourceFd(&output.as_raw_fd()),
                    self.output_token(),
                    readable,
                )
                .map_err(fail)?;
        }
        Ok(())
    }

    /// Reads what has been printed, at most [`READ_BYTES_MAX`]. Breaks if there may be more.
    fn read_output(&mut self) -> ControlFlow<()> {
        let mut buffer = [0; OUTPUT_BYTES_MAX];
        for _ in 0..READ_BYTES_MAX / OUTPUT_BYTES_MAX {
            let Some(output) = &mut self.output else {
                return ControlFlow::Continue(());
            };
            match output.read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(length) => {
                    let room = OUTPUT_BYTES_MAX.saturating_sub(self.kept.len());
                    let read = buffer.get(..length.min(room)).unwrap_or_default();
                    self.kept.extend_from_slice(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return ControlFlow::Continue(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.output = None,
            }
        }
        ControlFlow::Break(())
    }

    /// True if the program has ended; it stays a zombie.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(
            waitid(Id::Pid(Pid::from_raw(self.pid)), flags),
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
        )
    }
}

impl Attempt for Running {
    fn target(&self) -> &str {
        &self.name
    }

    fn waits_for(&self) -> String {
        // Its end is the outcome, also if its output is still open.
        "it still runs".to_owned()
    }

    fn ready(&mut self, registry: &Registry, _token: Token) -> Option<Outcome> {
        let more = self.read_output();
        if !self.has_ended() {
            if let (ControlFlow::Break(()), Some(output)) = (more, &self.output) {
                // Readiness is reported again only after this.
                let (fd, token) = (output.as_raw_fd(), self.output_token());
                let _ = registry.reregister(&mut SourceFd(&fd), token, Interest::READABLE);
            }
            return None;
        }
        // What it printed between the read and its exit.
        let _ = self.read_output();
        // Before it is reaped: afterwards the number of the group could be used again.
        kill_group(self.pid);
        let status = sys::wait(self.pid, false);
        self.is_reaped = true;
        self.programs.remove(self.pid);
        Some(match status {
            Ok(Some(status)) => outcome(status, &self.kept),
            Ok(None) => Outcome::Fail("its exit code is not known".to_owned()),
            Err(error) => Outcome::Fail(format!("waitpid: {}", words(&error))),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.programs.kill(self.pid);
        }
    }
}

/// The outcome of a program that has ended. `output` is the start of what it printed.
fn outcome(status: ExitStatus, output: &[u8]) -> Outcome {
    if status.success() {
        return Outcome::Pass;
    }
    Outcome::Fail(
        first_line(output).unwrap_or_else(|| match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => status.to_string(),
        }),
    )
}

/// The first line that is not blank.
fn first_line(output: &[u8]) -> Option<String> {
    let mut lines = output.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.find(|line| !line.is_empty())?;
    let line = line.get(..REASON_BYTES_MAX).unwrap_or(line);
    Some(String::from_utf8_lossy(line).into_owned())
}

/// The hidden command that starts a program: `[--user NAME] -- PROGRAM ARGUMENT...`. Becomes the user, then the
/// program. Returns only if that fails, after it printed why.
pub fn launch(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let error = replace_self(args);
    let _ = writeln!(io::stdout(), "{error}");
    ExitCode::from(EXIT_NOT_STARTED)
}

/// Returns why it failed.
fn replace_self(args: impl IntoIterator<Item = OsString>) -> String {
    let mut args = args.into_iter();
    let mut next = args.next();
    if next.as_deref().is_some_and(|arg| arg == "--user") {
        let Some(user) = args.next() else {
            return "no user after --user".to_owned();
        };
        if let Err(reason) = become_user(user.as_bytes()) {
            return format!("user {}: {reason}", user.to_string_lossy());
        }
        next = args.next();
    }
    let (Some(_), Some(program)) = (next.filter(|arg| arg == "--"), args.next()) else {
        return "no program after --".to_owned();
    };
    // Not where the daemon was started: that could be a file system that must be unmountable.
    let _ = std::env::set_current_dir("/");
    let args: Vec<OsString> = args.collect();
    let arguments: Vec<&OsStr> = std::iter::once(&program)
        .chain(&args)
        .map(OsString::as_os_str)
        .collect();
    let error = spawn::replace_self(&program, &arguments);
    failed(Path::new(&program), &error)
}

/// Gives up all rights that `user` (a name or a number) does not have.
fn become_user(user: &[u8]) -> Result<(), String> {
    let identity = identity(user, Path::new("/etc/passwd"), Path::new("/etc/group"))?;
    let Identity { uid, gid, groups } = identity;
    if Uid::from_raw(uid) == geteuid() {
        return Ok(());
    }
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    setgroups(&groups)
        .and_then(|()| setgid(Gid::from_raw(gid)))
        .and_then(|()| setuid(Uid::from_raw(uid)))
        .map_err(|error| words(&error.into()))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// The numbers of a user, from files. Not from getpwnam(3): it loads modules, which fails in a static program.
fn identity(user: &[u8], passwd: &Path, group: &Path) -> Result<Identity, String> {
    let number = procfs::id(user);
    let mut found = None;
    let is_meant = |entry: &User<'_>| match number {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    };
    let read = lines(passwd, |line| match procfs::user(line) {
        Some(entry) if is_meant(&entry) => {
            found = Some((entry.name.to_vec(), entry.uid, entry.gid));
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    let Some((name, uid, gid)) = found else {
        // A number needs no entry. It gets the group with the same number, and no others.
        return match (number, read) {
            (Some(uid), _) => Ok(Identity {
                uid,
                gid: uid,
                groups: vec![uid],
            }),
            (None, Ok(())) => Err(format!("not in {}", passwd.display())),
            (None, Err(error)) => Err(failed(passwd, &error)),
        };
    };
    let mut groups = vec![gid];
    lines(group, |line| {
        match procfs::group_with(line, &name) {
            Some(gid) if !groups.contains(&gid) && groups.len() < GROUPS_MAX => groups.push(gid),
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .map_err(|error| failed(group, &error))?;
    Ok(Identity { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use mio::{Events, Poll};
    use nix::sys::prctl::set_child_subreaper;
    use nix::sys::signal::kill;

    use super::super::testing::{Directory, Hanging, in_own_process, reason};
    use super::*;

    /// Longer than anything takes here.
    const TIMEOUT: Duration = Duration::from_secs(20);
    const BASE: Token = Token(8);

    fn shell(script: &str) -> Exec {
        Exec {
            argv: ["/bin/sh", "-c", script].map(OsString::from).into(),
            user: None,
            env: Vec::new(),
        }
    }

    /// As [`launch`], without a user.
    fn programs() -> Programs {
        Programs::new(&["/usr/bin/env"])
    }

    fn started(exec: &Exec, poll: &Poll, programs: &Programs) -> Box<dyn Attempt> {
        match exec.start(poll.registry(), BASE, programs) {
            Started::Waiting(attempt) => attempt,
            Started::Opening(..) => panic!("a program needs no thread"),
            Started::Done(outcome) => panic!("{outcome:?}"),
        }
    }

    /// Handles events until the attempt has its outcome.
    fn drive(poll: &mut Poll, attempt: &mut dyn Attempt) -> Outcome {
        let mut events = Events::with_capacity(8);
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < TIMEOUT, "no outcome");
            match poll.poll(&mut events, Some(TIMEOUT)) {
                // A signal for another test.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.unwrap(),
            }
            for event in &events {
                if let Some(outcome) = attempt.ready(poll.registry(), event.token()) {
                    return outcome;
                }
            }
        }
    }

    fn run(exec: &Exec) -> Outcome {
        let mut poll = Poll::new().unwrap();
        let programs = programs();
        let mut attempt = started(exec, &poll, &programs);
        assert!(!programs.is_empty());
        let outcome = drive(&mut poll, attempt.as_mut());
        assert!(programs.is_empty());
        outcome
    }

    #[test]
    fn the_exit_code_decides() {
        assert_eq!(run(&shell("exit 0")), Outcome::Pass);
        assert_eq!(run(&shell("echo bad; exit 0")), Outcome::Pass);
        assert_eq!(reason(run(&shell("exit 3"))), "exit code 3");
        assert_eq!(reason(run(&shell("kill -9 $$"))), "killed by signal 9");
    }

    #[test]
    fn the_first_line_of_the_output_is_the_reason() {
        let script = "echo; echo '  disk 2 is missing  '; echo second; exit 1";
        assert_eq!(reason(run(&shell(script))), "disk 2 is missing");
        let script = "echo error >&2; exit 1";
        assert_eq!(reason(run(&shell(script))), "error");
        let script = "printf 'no line feed'; kill -9 $$";
        assert_eq!(reason(run(&shell(script))), "no line feed");
        let script = "printf '\\377\\033[31m'; exit 1";
        assert_eq!(reason(run(&shell(script))), "\u{fffd}\u{1b}[31m");
    }

    #[test]
    fn much_output_neither_stops_the_program_nor_fills_memory() {
        let megabyte = "yes 0123456789 | head -c 1048576";
        assert_eq!(run(&shell(megabyte)), Outcome::Pass);
        let failing = format!("{megabyte}; exit 1");
        assert_eq!(reason(run(&shell(&failing))), "0123456789");
        let one_line = "yes | tr -d '\\n' | head -c 1048576; exit 1";
        assert_eq!(reason(run(&shell(one_line))), "y".repeat(REASON_BYTES_MAX));
    }

    #[test]
    fn a_program_that_is_missing_is_a_failure() {
        let mut exec = shell("");
        exec.argv = vec!["/missing/program".into()];
        let text = reason(run(&exec));
        assert!(text.contains("/missing/program"), "{text}");
        let none = Programs::new(&["/missing/launcher"]);
        let poll = Poll::new().unwrap();
        let Started::Done(outcome) = exec.start(poll.registry(), BASE, &none) else {
            panic!("it started");
        };
        assert_eq!(reason(outcome), "/missing/program: does not exist");
        assert!(none.is_empty());
    }

    #[test]
    fn the_environment_is_what_is_configured() {
        let mut exec = shell("echo ${HOME-none} ${LANG-none} $A; exit 1");
        exec.env = vec![("A".into(), "b c".into())];
        assert_eq!(reason(run(&exec)), "none none b c");
        // Standard input is empty.
        assert_eq!(run(&shell("read line || exit 0; exit 1")), Outcome::Pass);
    }

    /// True if the process has ended and was reaped.
    fn is_gone(pid: i32) -> bool {
        kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
    }

    fn reap_all(programs: &Programs) {
        let start = Instant::now();
        while programs.reap() {
            assert!(start.elapsed() < TIMEOUT, "not reaped");
            std::thread::yield_now();
        }
        assert!(programs.is_empty());
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        assert_eq!(waitid(Id::All, flags), Err(Errno::ECHILD));
    }

    #[test]
    fn processes_that_a_program_leaves_behind_are_killed() {
        if !in_own_process(
            "exec::tests::processes_that_a_program_leaves_behind_are_killed",
            &[],
        ) {
            return;
        }
        set_child_subreaper(true).unwrap();
        let directory = Directory::new();
        let file = directory.at("pid");
        let wait = "until test -s $F; do :; done; cat $F; exit 1";
        for script in [
            // In the same group.
            "sleep 1000 & echo $! > $F",
            // In a group and a session of its own.
            "setsid sh -c 'echo $$ > $F; exec sleep 1000' &",
            // A grandchild that ignores signals and closes the output.
            "sh -c 'trap \"\" TERM HUP; setsid sh -c \"echo \\$\\$ > $F; exec sleep 1000\" >/dev/null 2>&1 &'",
        ] {
            let _ = std::fs::remove_file(&file);
            let mut exec = shell(&format!("{script}\n{wait}"));
            exec.env = vec![("F".into(), file.clone().into())];
            let mut poll = Poll::new().unwrap();
            let programs = programs();
            let mut attempt = started(&exec, &poll, &programs);
            let pid = reason(drive(&mut poll, attempt.as_mut()));
            drop(attempt);
            reap_all(&programs);
            assert!(is_gone(pid.parse().unwrap()), "{script}");
        }
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_its_group() {
        let test = "exec::tests::a_program_that_takes_too_long_is_killed_with_its_group";
        if !in_own_process(test, &[]) {
            return;
        }
        set_child_subreaper(true).unwrap();
        let directory = Directory::new();
        let file = directory.at("pid");
        let script = "trap '' TERM INT HUP; sleep 1000 & echo $$ $! > $F; wait; sleep 1000";
        let mut exec = shell(script);
        exec.env = vec![("F".into(), file.clone().into())];
        let poll = Poll::new().unwrap();
        let programs = programs();
        let mut attempt = started(&exec, &poll, &programs);
        let start = Instant::now();
        let pids = loop {
            // Spurious calls do nothing.
            assert_eq!(attempt.ready(poll.registry(), BASE), None);
            assert!(start.elapsed() < TIMEOUT);
            match std::fs::read_to_string(&file) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => std::thread::yield_now(),
            }
        };
        // It is known, so it is left alone.
        assert!(!programs.reap());
        drop(attempt);
        reap_all(&programs);
        for pid in pids.split_whitespace() {
            assert!(is_gone(pid.parse().unwrap()), "{pid} of {pids}");
        }
    }

    #[test]
    fn there_is_no_second_program_while_the_first_exists() {
        let test = "exec::tests::there_is_no_second_program_while_the_first_exists";
        if !in_own_process(test, &[]) {
            return;
        }
        let (poll, programs) = (Poll::new().unwrap(), programs());
        let exec = shell("sleep 1000");
        let attempt = started(&exec, &poll, &programs);
        let Started::Done(outcome) = exec.start(poll.registry(), BASE, &programs) else {
            panic!("a second one started");
        };
        let text = "/bin/sh: was killed at its timeout and has not ended yet";
        assert_eq!(reason(outcome), text);
        drop(attempt);
        reap_all(&programs);
        drop(started(&exec, &poll, &programs));
        reap_all(&programs);
    }

    #[test]
    fn a_file_system_that_hangs_does_not_block_the_start() {
        let test = "exec::tests::a_file_system_that_hangs_does_not_block_the_start";
        let unshare = ["unshare", "--mount", "--propagation", "private"];
        if !in_own_process(test, &unshare) {
            return;
        }
        let directory = Directory::new();
        let Some(hanging) = Hanging::mount(directory.at("hangs")) else {
            return;
        };
        set_child_subreaper(true).unwrap();
        let mut exec = shell("");
        exec.argv = vec![hanging.at("program").into()];
        let mut poll = Poll::new().unwrap();
        let programs = programs();
        let mut attempt = started(&exec, &poll, &programs);
        assert_eq!(attempt.ready(poll.registry(), BASE), None);
        // Others are checked meanwhile.
        let other = Token(16);
        let other_exec = shell("exit 0");
        let Started::Waiting(mut second) = other_exec.start(poll.registry(), other, &programs)
        else {
            panic!("it did not start");
        };
        assert_eq!(drive(&mut poll, second.as_mut()), Outcome::Pass);
        assert_eq!(attempt.ready(poll.registry(), BASE), None);
        drop(attempt);
        reap_all(&programs);
    }

    #[test]
    fn users_and_their_groups_are_read_from_files() {
        let directory = Directory::new();
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:100:Ada:/home/ada:/bin/sh\n";
        let passwd = directory.write("passwd", text);
        let text = "root:x:0:\ndisk:x:6:ada\nusers:x:100:ada\naudio:x:29:eve,ada\nx:x:7:adam\n";
        let group = directory.write("group", text);
        let of = |user: &str| identity(user.as_bytes(), &passwd, &group);
        let ada = Identity {
            uid: 1000,
            gid: 100,
            groups: vec![100, 6, 29],
        };
        assert_eq!(of("ada"), Ok(ada.clone()));
        assert_eq!(of("1000"), Ok(ada));
        let number = Identity {
            uid: 2000,
            gid: 2000,
            groups: vec![2000],
        };
        assert_eq!(of("2000"), Ok(number));
        let unknown = format!("not in {}", passwd.display());
        for user in ["eve", "", "-1", "4294967295", "broken"] {
            assert_eq!(of(user), Err(unknown.clone()), "{user:?}");
        }
        let none = directory.at("none");
        let missing = format!("{}: does not exist", none.display());
        assert_eq!(identity(b"ada", &none, &group), Err(missing.clone()));
        assert_eq!(identity(b"ada", &passwd, &none), Err(missing));
    }

    #[test]
    fn a_command_without_a_program_is_refused() {
        let refused = |args: &[&str]| replace_self(args.iter().map(OsString::from));
        assert_eq!(refused(&[]), "no program after --");
        assert_eq!(refused(&["--"]), "no program after --");
        assert_eq!(refused(&["/bin/true"]), "no program after --");
        assert_eq!(refused(&["--user"]), "no user after --user");
        let text = refused(&["--user", "no-such-user", "--", "/bin/true"]);
        assert_eq!(text, "user no-such-user: not in /etc/passwd");
    }
}

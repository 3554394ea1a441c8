//! The kind `process`: processes must run, found by a pid file or by their program.
//!
//! A number in a pid file can be used again by another process. Such a process started after the file was
//! written, so the two times are compared. They are times of the wall clock, which can be set in between; see
//! [`EARLIEST_BOOT`] and [`is_reused`].

use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;

use super::procfs::{self, Stat};
use super::system::{System, failed, open, read, read_start};
use crate::sources::spec::{Outcome, Process, ProcessTarget};
use crate::sources::sys;

/// A pid file is a number; some programs add lines.
const PID_FILE_BYTES_MAX: usize = 4096;

/// The start of a command line, for the name of its program.
const COMMAND_BYTES_MAX: usize = 4096;

/// The kernel shows at most this many bytes of a process's name.
const COMM_BYTES_MAX: usize = 15;

/// A process may start this much later than its pid file was written: a shell writes the file before the program
/// has started, and file systems round times.
const START_SLACK: Duration = Duration::from_secs(1);

/// The kernel's start times are in units of 1/100 s on every processor that Rust has.
const TICK_MILLIS: u64 = 10;

impl Process {
    /// Checks the processes once. Can block as long as the pid file's file system does.
    pub fn attempt(&self) -> Outcome {
        self.attempt_in(System::new())
    }

    fn attempt_in(&self, system: System<'_>) -> Outcome {
        let mut count = 0;
        let found = self.target.each(system, &mut |_| {
            count += 1;
            match count < self.min {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        match found {
            Err(reason) => Outcome::Fail(reason),
            Ok(_) if count >= self.min => Outcome::Pass,
            Ok(_) => Outcome::Fail(format!(
                "{}: {count} processes, needs {}{}",
                self.target.name(),
                self.min,
                hidden_others(system)
            )),
        }
    }
}

impl ProcessTarget {
    /// As it is written in the configuration.
    pub(super) fn name(&self) -> String {
        match self {
            ProcessTarget::PidFile(path) => path.display().to_string(),
            ProcessTarget::Exe(name) => format!("exe:{}", name.to_string_lossy()),
        }
    }

    /// Calls `each` for every process of the target, until it breaks. Returns how many were seen.
    ///
    /// # Errors
    /// The reason why the process of the pid file does not run, or why processes cannot be listed.
    pub(super) fn each(
        &self,
        system: System<'_>,
        each: &mut dyn FnMut(&Stat<'_>) -> ControlFlow<()>,
    ) -> Result<usize, String> {
        match self {
            ProcessTarget::PidFile(path) => {
                let reason = |fault| format!("{}: {fault}", path.display());
                let (pid, written) = pid_file(path)?;
                let judged = system.process(pid, |stat| {
                    let fault = fault(stat, path, written);
                    if fault.is_none() {
                        let _ = each(stat);
                    }
                    fault
                });
                match judged {
                    Some(None) => Ok(1),
                    Some(Some(fault)) => Err(reason(format!("process {pid} {fault}"))),
                    None if is_hidden(pid) => {
                        let fault =
                            format!("process {pid} is hidden by the option hidepid of /proc");
                        Err(reason(fault))
                    }
                    None => Err(reason(format!("process {pid} does not run"))),
                }
            }
            ProcessTarget::Exe(name) => {
                let mut count = 0;
                let found =
                    system.processes(
                        &mut |pid| match find(system, pid, name.as_bytes(), &mut *each) {
                            Some(flow) => {
                                count += 1;
                                flow
                            }
                            None => ControlFlow::Continue(()),
                        },
                    );
                found.map_err(|error| failed(system.proc, &error))?;
                Ok(count)
            }
        }
    }
}

/// What to add to the reason if a process was not found although it may exist.
pub(super) fn hidden_others(system: System<'_>) -> &'static str {
    // The first process always exists, but not in the directory of a test.
    let is_real = system.proc == Path::new("/proc");
    match system.process(1, |_| ()) {
        None if is_real && is_hidden(1) => {
            "; processes of other users are hidden by the option hidepid of /proc"
        }
        _ => "",
    }
}

/// True if process `pid` exists, although /proc does not show it: it runs as another user.
fn is_hidden(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(Errno::EPERM)
}

/// The number in a pid file, and when it was written.
fn pid_file(path: &Path) -> Result<(i32, SystemTime), String> {
    let read = || -> io::Result<_> {
        let file = open(path)?;
        let written = file.metadata()?.modified()?;
        Ok((read_start(&file, PID_FILE_BYTES_MAX)?, written))
    };
    let (text, written) = read().map_err(|error| failed(path, &error))?;
    match procfs::pid_file(&text) {
        Some(pid) => Ok((pid, written)),
        None => Err(format!(
            "{}: no process ID in its first line",
            path.display()
        )),
    }
}

/// Why a process that exists is not the one of the pid file.
fn fault(stat: &Stat<'_>, path: &Path, written: SystemTime) -> Option<&'static str> {
    if stat.is_dead() {
        return Some("is a zombie");
    }
    // Without the clock, any process counts.
    let since_boot = sys::since_boot().ok()?;
    let boot = SystemTime::now().checked_sub(since_boot)?;
    let boot = earlier(&EARLIEST_BOOT, boot);
    let is_on_tmpfs = || statfs(path).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    let start = Duration::from_millis(stat.start.saturating_mul(TICK_MILLIS));
    is_reused(boot, start, written, is_on_tmpfs)
        .then_some("is another one: it started after this file was written")
}

/// The earliest start of the machine by the wall clock that this process has computed.
///
/// If the clock is set forward, the machine and its processes seem to have started later, but the times of files
/// stay. A clock is set forward when a virtual machine continues, or when a time server is reached first.
static EARLIEST_BOOT: Mutex<Option<SystemTime>> = Mutex::new(None);

/// Returns the earlier of `boot` and what is in `earliest`, and keeps it there.
fn earlier(earliest: &Mutex<Option<SystemTime>>, boot: SystemTime) -> SystemTime {
    let mut earliest = earliest.lock().unwrap_or_else(PoisonError::into_inner);
    let boot = earliest.map_or(boot, |earliest| earliest.min(boot));
    *earliest.insert(boot)
}

/// True if a process that started `start` after `boot` cannot be the one of a pid file that was last modified at
/// `written`.
///
/// A file on a tmpfs is lost at a restart. If it seems older than the machine's start, the clock was set after it
/// was written, as on a machine without a battery for its clock. Then the times cannot be compared.
fn is_reused(
    boot: SystemTime,
    start: Duration,
    written: SystemTime,
    is_on_tmpfs: impl FnOnce() -> bool,
) -> bool {
    let Some(start) = boot.checked_add(start) else {
        return false;
    };
    let is_later = start
        .duration_since(written)
        .is_ok_and(|late| late > START_SLACK);
    is_later && !(written < boot && is_on_tmpfs())
}

/// Calls `each` if process `pid` runs and its program is `name`; else `None`.
fn find(
    system: System<'_>,
    pid: i32,
    name: &[u8],
    each: &mut dyn FnMut(&Stat<'_>) -> ControlFlow<()>,
) -> Option<ControlFlow<()>> {
    let directory = system.proc.join(pid.to_string());
    // The link first: for most processes it is all that is read. Zombies and kernel threads have none.
    let is_readable = match std::fs::read_link(directory.join("exe")) {
        Ok(program) if is_program(program.as_os_str().as_bytes(), name) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
        _ => return None,
    };
    let text = system.read(&format!("{pid}/stat")).ok()?;
    let stat = procfs::stat(&text).filter(|stat| !stat.is_dead())?;
    let is_meant = || {
        // A process of another user. It can set both to any text.
        let command = read(&directory.join("cmdline"), COMMAND_BYTES_MAX).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        !stat.is_kernel_thread() && (is_program(program, name) || is_comm(stat.comm, name))
    };
    (is_readable || is_meant()).then(|| each(&stat))
}

/// True if the path of a program has this file name, or is this path if `name` has a slash.
fn is_program(path: &[u8], name: &[u8]) -> bool {
    // The kernel adds this if the file was removed, as by an upgrade.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    match name.contains(&b'/') {
        true => path == name,
        // A process can have an empty command line.
        false => !name.is_empty() && path.rsplit(|byte| *byte == b'/').next() == Some(name),
    }
}

/// True if a process with this name may run a program with this file name.
fn is_comm(comm: &[u8], name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'/') && comm == name.get(..COMM_BYTES_MAX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::super::testing::{Directory, in_own_process, reason, untried};
    use super::*;

    fn by_file(path: PathBuf) -> Process {
        Process {
            target: ProcessTarget::PidFile(path),
            min: 1,
        }
    }

    fn by_exe(name: impl Into<OsString>, min: u32) -> Process {
        Process {
            target: ProcessTarget::Exe(name.into()),
            min,
        }
    }

    fn sleeper(program: &Path) -> Child {
        Command::new(program)
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A copy of sleep(1) with another name, so that only this test runs it.
    fn program(directory: &Directory, name: &str) -> PathBuf {
        let path = directory.at(name);
        fs::copy("/bin/sleep", &path).unwrap();
        path
    }

    #[test]
    fn the_process_of_a_pid_file_runs_until_it_ends() {
        let directory = Directory::new();
        let mut child = sleeper(Path::new("/bin/sleep"));
        let path = directory.write("pid", format!("{}\n", child.id()));
        let (spec, name) = (by_file(path.clone()), path.display());
        assert_eq!(spec.attempt(), Outcome::Pass);
        child.kill().unwrap();
        // Wait until it is a zombie, without reaping it.
        let pid = i32::try_from(child.id()).unwrap();
        let is_dead = || System::new().process(pid, |stat| stat.is_dead()).unwrap();
        while !is_dead() {
            std::thread::yield_now();
        }
        let text = reason(spec.attempt());
        assert_eq!(text, format!("{name}: process {pid} is a zombie"));
        child.wait().unwrap();
        let text = reason(spec.attempt());
        assert_eq!(text, format!("{name}: process {pid} does not run"));
    }

    #[test]
    fn a_pid_file_must_be_there_and_have_a_number() {
        let directory = Directory::new();
        let path = directory.at("pid");
        let text = || reason(by_file(path.clone()).attempt());
        assert_eq!(text(), format!("{}: does not exist", path.display()));
        for content in [
            "",
            "\n1",
            "x",
            "-1",
            "0",
            "4194305",
            "1 2",
            "99999999999999999999",
        ] {
            directory.write("pid", content);
            let want = format!("{}: no process ID in its first line", path.display());
            assert_eq!(text(), want, "{content:?}");
        }
        // A directory, and a FIFO without a writer.
        let text = reason(by_file("/".into()).attempt());
        assert_eq!(text, "/: Is a directory");
        let fifo = directory.at("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = reason(by_file(fifo).attempt());
        assert!(text.ends_with("no process ID in its first line"));
    }

    #[test]
    fn a_process_that_started_after_the_pid_file_was_written_is_another_one() {
        let directory = Directory::new();
        let pid = std::process::id();
        let path = directory.write("pid", format!("  {pid}  \nmore\n"));
        let spec = by_file(path.clone());
        assert_eq!(spec.attempt(), Outcome::Pass);
        let ticks = System::new().process(i32::try_from(pid).unwrap(), |stat| stat.start);
        let start = Duration::from_millis(ticks.unwrap() * TICK_MILLIS);
        let age = sys::since_boot().unwrap() - start;
        let file = fs::File::options().write(true).open(&path).unwrap();
        let before = |seconds| SystemTime::now() - age - Duration::from_secs(seconds);
        file.set_modified(before(3)).unwrap();
        let want = format!(
            "{}: process {pid} is another one: it started after this file was written",
            path.display()
        );
        assert_eq!(reason(spec.attempt()), want);
        file.set_modified(before(0)).unwrap();
        assert_eq!(spec.attempt(), Outcome::Pass);
    }

    #[test]
    fn a_number_that_is_used_again_is_noticed() {
        let test = "process::tests::a_number_that_is_used_again_is_noticed";
        let unshare = ["unshare", "--pid", "--fork", "--mount-proc"];
        if !in_own_process(test, &unshare) {
            return;
        }
        let directory = Directory::new();
        let first = sleeper(Path::new("/bin/sleep"));
        let pid = first.id();
        let path = directory.write("pid", pid.to_string());
        let spec = by_file(path.clone());
        assert_eq!(spec.attempt(), Outcome::Pass);
        end(first);
        assert!(reason(spec.attempt()).ends_with("does not run"));
        // As if it was written long ago: the second process starts at most a second later otherwise.
        let file = fs::File::options().write(true).open(&path).unwrap();
        let minutes = Duration::from_secs(180);
        file.set_modified(SystemTime::now() - minutes).unwrap();
        let last = (pid - 1).to_string();
        if fs::write("/proc/sys/kernel/ns_last_pid", last).is_err() {
            untried("process IDs cannot be chosen here");
            return;
        }
        let second = sleeper(Path::new("/bin/sleep"));
        assert_eq!(second.id(), pid);
        let text = reason(spec.attempt());
        assert!(
            text.ends_with("it started after this file was written"),
            "{text}"
        );
        end(second);
    }

    #[test]
    fn a_clock_that_was_set_does_not_make_a_process_another_one() {
        let seconds = Duration::from_secs;
        let boot = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        let reused = |start, written: i64, is_on_tmpfs| {
            let written = match written {
                0.. => boot + seconds(written.unsigned_abs()),
                _ => boot - seconds(written.unsigned_abs()),
            };
            is_reused(boot, seconds(start), written, || is_on_tmpfs)
        };
        assert!(!reused(20, 20, false));
        assert!(!reused(20, 19, false));
        assert!(reused(20, 18, false));
        assert!(reused(20, 18, true));
        // Left over from before the machine's start; on a tmpfs it cannot be, so the clock was set.
        assert!(reused(20, -100, false));
        assert!(!reused(20, -100, true));
        assert!(!is_reused(boot, Duration::MAX, boot, || false));
        // The clock was set forward by an hour while this process was running.
        let earliest = Mutex::new(None);
        assert_eq!(earlier(&earliest, boot), boot);
        assert_eq!(earlier(&earliest, boot + seconds(3_600)), boot);
        // And back, by more.
        assert_eq!(earlier(&earliest, boot - seconds(60)), boot - seconds(60));
        assert_eq!(earlier(&earliest, boot), boot - seconds(60));
    }

    #[test]
    fn processes_are_found_by_their_program() {
        let directory = Directory::new();
        // Another run of this test is not found.
        let start = format!("a-program-{}", std::process::id());
        let name = &format!("{start}-with-a-long-name");
        let path = program(&directory, name);
        let text = reason(by_exe(name, 1).attempt());
        assert_eq!(text, format!("exe:{name}: 0 processes, needs 1"));
        let first = sleeper(&path);
        assert_eq!(by_exe(name, 1).attempt(), Outcome::Pass);
        assert_eq!(by_exe(path.as_os_str(), 1).attempt(), Outcome::Pass);
        assert_ne!(by_exe(&start, 1).attempt(), Outcome::Pass);
        let other = directory.at("other").join(name);
        assert_ne!(by_exe(other, 1).attempt(), Outcome::Pass);
        let text = reason(by_exe(name, 2).attempt());
        assert_eq!(text, format!("exe:{name}: 1 processes, needs 2"));
        let second = sleeper(&path);
        assert_eq!(by_exe(name, 2).attempt(), Outcome::Pass);
        // An upgrade replaces the file, and the processes still run.
        fs::remove_file(&path).unwrap();
        assert_eq!(by_exe(name, 2).attempt(), Outcome::Pass);
        assert_eq!(by_exe(path.as_os_str(), 2).attempt(), Outcome::Pass);
        end(first);
        end(second);
        assert_ne!(by_exe(name, 1).attempt(), Outcome::Pass);
    }

    #[test]
    fn a_process_without_a_program_is_not_counted() {
        let directory = Directory::new();
        let stat = |pid| format!("{pid} (nginx) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0");
        let attempt = || by_exe("nginx", 1).attempt_in(directory.system());
        // It ends, and has no memory any more.
        directory.write("7/stat", stat(7));
        assert_eq!(reason(attempt()), "exe:nginx: 0 processes, needs 1");
        directory.write("8/stat", stat(8));
        std::os::unix::fs::symlink("/usr/sbin/nginx", directory.at("8/exe")).unwrap();
        assert_eq!(attempt(), Outcome::Pass);
    }

    /// A file on a tmpfs cannot be older than the machine's start, so the clock was set.
    #[test]
    fn an_old_pid_file_on_a_tmpfs_is_that_of_the_process() {
        let path = PathBuf::from(format!("/dev/shm/healthz-{}.pid", std::process::id()));
        if fs::write(&path, std::process::id().to_string()).is_err() {
            untried("/dev/shm is not writable");
            return;
        }
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let outcome = by_file(path.clone()).attempt();
        fs::remove_file(&path).unwrap();
        assert_eq!(outcome, Outcome::Pass);
    }

    #[test]
    fn kernel_threads_are_no_programs() {
        assert_ne!(by_exe("kthreadd", 1).attempt(), Outcome::Pass);
        assert_ne!(by_exe("", 1).attempt(), Outcome::Pass);
    }

    #[test]
    fn a_process_of_another_user_is_found_by_its_command_line() {
        let test = "process::tests::a_process_of_another_user_is_found_by_its_command_line";
        let setpriv = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ];
        if !in_own_process(test, &setpriv) {
            return;
        }
        // The parent runs as root and has the name of this program.
        let program = std::env::current_exe().unwrap();
        let parent = nix::unistd::getppid().as_raw();
        assert!(fs::read_link(format!("/proc/{parent}/exe")).is_err());
        let name = program.file_name().unwrap();
        assert_eq!(by_exe(name, 2).attempt(), Outcome::Pass);
        assert_ne!(by_exe("kthreadd", 1).attempt(), Outcome::Pass);
    }

    #[test]
    fn the_reason_for_a_hidden_process_names_hidepid() {
        let test = "process::tests::the_reason_for_a_hidden_process_names_hidepid";
        let script = "mount -t proc -o hidepid=2 proc /proc && \
            exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
        let unshare = ["unshare", "--mount", "sh", "-c", script, "sh"];
        if !in_own_process(test, &unshare) {
            return;
        }
        let directory = Directory::new();
        let parent = nix::unistd::getppid();
        let path = directory.write("pid", parent.to_string());
        let text = reason(by_file(path).attempt());
        let end = format!(": process {parent} is hidden by the option hidepid of /proc");
        assert!(text.ends_with(&end), "{text}");
        // Regression: the reason was only that there is no process of this name.
        let text = reason(by_exe("not-there", 1).attempt());
        let end = "not-there: 0 processes, needs 1; processes of other users are hidden by the option hidepid of /proc";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn names_are_compared_whole() {
        assert!(is_program(b"/usr/sbin/nginx", b"nginx"));
        assert!(is_program(b"/usr/sbin/nginx (deleted)", b"/usr/sbin/nginx"));
        assert!(is_program(b"nginx", b"nginx"));
        assert!(!is_program(b"/usr/sbin/nginx", b"sbin/nginx"));
        assert!(!is_program(b"/usr/sbin/nginx", b"ngin"));
        assert!(!is_program(b"", b"nginx"));
        assert!(!is_program(b"", b"") && !is_program(b"/", b""));
        assert!(is_comm(b"a-program-with-", b"a-program-with-a-long-name"));
        assert!(!is_comm(b"a-program-with-", b"a-program-with"));
        assert!(!is_comm(b"nginx", b"/usr/sbin/nginx"));
        assert!(!is_comm(b"", b""));
    }
}

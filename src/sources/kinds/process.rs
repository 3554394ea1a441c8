//! The kind `process`: processes must run, found by a pid file or by their program.
//!
//! A number in a pid file can be used again by another process. Such a process started after the file was
//! written, so the two times are compared. They are times of the wall clock, which can be set in between, so
//! the comparison is left out where the file seems older than the machine's start (see [`is_reused`]).

use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::procfs::{self, Stat};
use super::system::{System, failed, open, read, read_start};
use crate::sources::spec::{Outcome, Process, ProcessTarget};
use crate::sources::sys;

/// A pid file is a number; some programs add lines.
const PID_FILE_BYTES_MAX: usize = 4096;

/// The start of a command line, for the name of its program.
const COMMAND_BYTES_MAX: usize = 4096;

/// The kernel shows at most so many bytes of a process's name.
const COMM_BYTES_MAX: usize = 15;

/// A process may start so much later than its pid file was written: a shell writes the file before the program
/// has started, and file systems round times.
const START_SLACK: Duration = Duration::from_secs(1);

/// The kernel's start times are in units of 1/100 s on every processor that Rust has.
const TICK_MILLIS: u64 = 10;

impl Process {
    /// Checks the processes once. Can block as long as the pid file's file system does.
    pub fn attempt(&self) -> Outcome {
        self.attempt_in(System::new())
    }

    /// Why no process could fail this.
    pub fn never_fails(&self) -> Option<&'static str> {
        (self.min == 0).then_some("min is 0")
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
                "{}: {count} processes, needs {}",
                self.target.name(),
                self.min
            )),
        }
    }
}

impl ProcessTarget {
    /// As it is written in the configuration.
    pub(super) fn name(&self) -> String {
        match self {
            ProcessTarget::PidFile(path) => path.display().to_string(),
            ProcessTarget::Exe(name) => format!("exe:{}", name.display()),
        }
    }

    /// Calls `each` for every process that is meant, until it breaks. Returns how many were seen.
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
                    None => Err(reason(format!("process {pid} does not run"))),
                }
            }
            ProcessTarget::Exe(name) => {
                let mut count = 0;
                let found = system.processes(&mut |stat| {
                    if !stat.is_dead() && runs(system, stat, name.as_bytes()) {
                        count += 1;
                        return each(stat);
                    }
                    ControlFlow::Continue(())
                });
                found.map_err(|error| failed(system.proc, &error))?;
                Ok(count)
            }
        }
    }
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
            "{}: no process number in its first line",
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
    let is_on_tmpfs = || statfs(path).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    let start = Duration::from_millis(stat.start.saturating_mul(TICK_MILLIS));
    is_reused(boot, start, written, is_on_tmpfs)
        .then_some("is another one: it started after this file was written")
}

/// True if a process that started so long after `boot` is not the one of a pid file that was last `written` then.
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

/// True if the program of a process has this file name, or this path if `name` has a slash.
fn runs(system: System<'_>, stat: &Stat<'_>, name: &[u8]) -> bool {
    if stat.is_kernel_thread() {
        return false;
    }
    let directory = system.proc.join(stat.pid.to_string());
    match std::fs::read_link(directory.join("exe")) {
        Ok(program) => is_program(program.as_os_str().as_bytes(), name),
        // A process of another user. It can set both to any text.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let command = read(&directory.join("cmdline"), COMMAND_BYTES_MAX).unwrap_or_default();
            let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
            is_program(program, name) || is_comm(stat.comm, name)
        }
        Err(_) => false,
    }
}

/// True if the path of a program has this file name, or is this path if `name` has a slash.
fn is_program(path: &[u8], name: &[u8]) -> bool {
    // The kernel adds this if the file was removed, as by an upgrade.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    match name.contains(&b'/') {
        true => path == name,
        false => path.rsplit(|byte| *byte == b'/').next() == Some(name),
    }
}

/// True if a process with this name may run a program with this file name.
fn is_comm(comm: &[u8], name: &[u8]) -> bool {
    !name.contains(&b'/') && comm == name.get(..COMM_BYTES_MAX).unwrap_or(name)
}

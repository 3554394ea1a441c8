//! Kills the processes that programs have left behind.
//!
//! A program can start others that outlive it. If they leave its process group, no signal to the group ends
//! them. The worker and the supervisor are child subreapers, so such a process becomes their child when its
//! parent ends. Each child that they did not start themselves is one, and is killed.
//!
//! Knows no checks. Called by [`super::exec`], and by [`super::super::descendants`] for the supervisor and the worker.

use std::fs;
use std::io;
use std::ops::ControlFlow;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::procfs;
use super::system::System;

/// Most children that one call handles. The next call handles others.
const CHILDREN_MAX: usize = 1024;

/// Kills and reaps the children of this process that are neither in `known` nor in the process group of one of
/// them, and reaps those of the groups that have ended. Returns true if there were any: their own children may
/// follow, so call it again soon. Does not wait.
///
/// Bounded work: at most 1,024 children in a call, and at most one pass over the list of all processes.
///
/// # Errors
/// If children cannot be listed.
pub fn kill_orphans(known: &[i32]) -> io::Result<bool> {
    match reap_ended(known) {
        Err(Errno::ECHILD) => return Ok(false),
        Err(error) => return Err(error.into()),
        Ok(()) => {}
    }
    let system = System::new();
    let mut children = children(system)?;
    children.retain(|pid| !known.contains(pid));
    let own = own_pid();
    let mut found = false;
    for pid in children.into_iter().take(CHILDREN_MAX) {
        // The parent again: the list may be cut within a number, and a number may have a new process.
        let is_orphan = system.process(pid, |stat| {
            stat.parent == own && (stat.is_dead() || !known.contains(&stat.group))
        });
        if is_orphan == Some(true) {
            found = true;
            // Fails if it runs as another user and this process has no right to send it signals.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = reap(pid);
        }
    }
    Ok(found)
}

/// Reaps children that have ended, until the next is in `known`.
///
/// # Errors
/// `ECHILD` if there are no children: the usual case, which costs one system call.
fn reap_ended(known: &[i32]) -> Result<(), Errno> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    for _ in 0..CHILDREN_MAX {
        match waitid(Id::All, flags)?.pid() {
            Some(pid) if !known.contains(&pid.as_raw()) => {
                reap(pid.as_raw());
            }
            _ => break,
        }
    }
    Ok(())
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// Reaps the child `pid` if it has ended, without waiting. Returns true if it is no longer a child.
// For size: it makes a system call each time, and several places call it.
#[inline(never)]
pub fn reap(pid: i32) -> bool {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => false,
        Ok(_) | Err(Errno::ECHILD) => true,
        Err(_) => false,
    }
}

/// The children of this process, zombies included.
fn children(system: System<'_>) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(system.proc.join("self/task"))? {
        let task = task?.file_name();
        match system.read(&format!("self/task/{}/children", task.to_string_lossy())) {
            Ok(text) => children.extend(procfs::children(&text)),
            // Without CONFIG_PROC_CHILDREN. Or the thread has ended, then a scan is only slow.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return scan(system),
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// The same, from the list of all processes.
fn scan(system: System<'_>) -> io::Result<Vec<i32>> {
    let own = own_pid();
    let mut children = Vec::new();
    system.processes(&mut |pid| {
        if system.process(pid, |stat| stat.parent == own) == Some(true) {
            children.push(pid);
        }
        match children.len() < CHILDREN_MAX {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(children)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::prctl::set_child_subreaper;

    use super::super::testing::in_own_process;
    use super::*;

    fn start(script: &str) -> i32 {
        let command = &mut Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        i32::try_from(command.spawn().unwrap().id()).unwrap()
    }

    fn wait_until(mut condition: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            assert!(start.elapsed().as_secs() < 20, "it takes too long");
            std::thread::yield_now();
        }
    }

    #[test]
    fn unknown_children_and_their_children_end() {
        if !in_own_process(
            "orphans::tests::unknown_children_and_their_children_end",
            &[],
        ) {
            return;
        }
        set_child_subreaper(true).unwrap();
        assert!(!kill_orphans(&[]).unwrap());
        let known = start("exec sleep 1000");
        start(
            "trap '' TERM; sleep 1000 & sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' & wait",
        );
        let system = System::new();
        let others = || {
            let mut others = 0;
            let count = &mut |pid| {
                others +=
                    usize::from(system.process(pid, |stat| stat.comm == b"sleep") == Some(true));
                ControlFlow::Continue(())
            };
            system.processes(count).unwrap();
            others
        };
        wait_until(|| others() >= 5);
        wait_until(|| !kill_orphans(&[known]).unwrap());
        assert_eq!(children(system).unwrap(), [known]);
        assert_eq!(scan(system).unwrap(), [known]);
        assert!(!reap(known));
        wait_until(|| !kill_orphans(&[]).unwrap());
        assert!(reap(known));
        assert!(children(system).unwrap().is_empty());
    }

    #[test]
    fn orphans_in_the_group_of_a_known_process_are_left_alone_until_they_end() {
        let test = "orphans_in_the_group_of_a_known_process_are_left_alone_until_they_end";
        if !in_own_process(&format!("orphans::tests::{test}"), &[]) {
            return;
        }
        set_child_subreaper(true).unwrap();
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/bin/sh");
        // The inner shell ends, so its children become children of this process.
        let script = "sh -c 'sleep 1000 & sleep 0 &'; exec sleep 1000";
        command
            .args(["-c", script])
            .stdin(Stdio::null())
            .process_group(0);
        let known = i32::try_from(command.spawn().unwrap().id()).unwrap();
        let system = System::new();
        // Both long sleeps are left, and the short one is reaped.
        wait_until(|| {
            let _ = kill_orphans(&[known]).unwrap();
            children(system).unwrap().len() == 2 && !kill_orphans(&[known]).unwrap()
        });
        wait_until(|| !kill_orphans(&[]).unwrap());
        assert!(children(system).unwrap().is_empty());
    }
}

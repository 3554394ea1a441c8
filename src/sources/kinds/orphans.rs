//! Ends the processes that programs have left behind.
//!
//! A program can start others that outlive it. If they leave its process group, no signal to the group ends
//! them. The worker and the supervisor are child subreapers, so such a process becomes their child when its
//! parent ends. Each child that they did not start themselves is one, and is killed.
//!
//! Knows no checks. Called by [`super::exec`] and by the supervisor.

use std::fs;
use std::io;
use std::ops::ControlFlow;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::procfs;
use super::system::System;

/// Most children that one call handles. The next call handles others.
const CHILDREN_MAX: usize = 1024;

/// Kills and reaps the children of this process that are neither in `known` nor in the process group of one of
/// them, and reaps those of the groups that have ended. Returns true if there were any: their own children may
/// follow, so call it again soon. Does not wait.
///
/// Bounded work: at most 1,024 children in a call, and the list of all processes at most.
///
/// # Errors
/// If children cannot be listed.
pub fn kill_orphans(known: &[i32]) -> io::Result<bool> {
    let system = System::new();
    let mut children = children(system)?;
    children.retain(|pid| !known.contains(pid));
    let mut found = false;
    for pid in children.into_iter().take(CHILDREN_MAX) {
        let belongs = |stat: &procfs::Stat<'_>| known.contains(&stat.group) && !stat.is_dead();
        if system.process(pid, belongs) == Some(true) {
            continue;
        }
        found = true;
        // Fails only if it has ended meanwhile, or runs as another user without CAP_KILL.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = reap(pid);
    }
    Ok(found)
}

/// Reaps the child `pid` if it has ended, without waiting. Returns true if it is no longer a child.
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
        match system.read(&format!("self/task/{}/children", task.display())) {
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
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut children = Vec::new();
    system.processes(&mut |stat| {
        if stat.parent == own {
            children.push(stat.pid);
        }
        match children.len() < CHILDREN_MAX {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(children)
}

//! Figures of the kernel about a process: memory, CPU time, and the limit of open files.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Pages that the process has written to.
    pub anonymous: u64,
    /// The same, and pages of mapped files, such as the program and libc.
    pub resident: u64,
}

impl Memory {
    pub fn of(process: u32) -> Memory {
        let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
        let bytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            kib.unwrap().trim().parse::<u64>().unwrap() * 1024
        };
        Memory {
            anonymous: bytes("Anonymous:"),
            resident: bytes("Rss:"),
        }
    }

    /// Waits until the memory has not changed for 200 ms, because the process may still be working.
    pub fn settled(process: u32) -> Memory {
        let mut last = Memory::of(process);
        let mut same = 0;
        while same < 5 {
            std::thread::sleep(Duration::from_millis(40));
            let memory = Memory::of(process);
            same = if memory == last { same + 1 } else { 0 };
            last = memory;
        }
        last
    }
}

/// A process and all that descend from it.
pub fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut at = 0;
    while let Some(process) = all.get(at).copied() {
        at += 1;
        for task in tasks(process) {
            let text = std::fs::read_to_string(task.join("children")).unwrap_or_default();
            all.extend(text.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
        }
    }
    all
}

/// The directories of the threads of a process.
pub fn tasks(process: u32) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    tasks.map_or(Vec::new(), |tasks| {
        tasks.flatten().map(|task| task.path()).collect()
    })
}

/// CPU time of all threads of a process.
pub fn cpu_time(process: u32) -> Duration {
    Duration::from_nanos(schedule(process, 0))
}

/// Time that the threads of a process were ready to run but waited for a CPU.
pub fn waited(process: u32) -> Duration {
    Duration::from_nanos(schedule(process, 1))
}

/// The sum of one field of `schedstat` over all threads of a process.
fn schedule(process: u32, index: usize) -> u64 {
    let of_task = tasks(process).into_iter().filter_map(|task| {
        let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
        text.split_whitespace().nth(index)?.parse::<u64>().ok()
    });
    of_task.sum()
}

/// How often the kernel has dropped a connection because the queue of a listener was full; of all processes.
pub fn listen_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let mut next = || lines.next().unwrap_or_default().split_whitespace();
    let mut columns = next().zip(next());
    let drops = columns.find(|(name, _)| *name == "ListenDrops");
    drops.map_or(0, |(_, count)| count.parse().unwrap_or(0))
}

/// Raises the limit of open files to `wanted`, if the hard limit allows it, and returns the limit. If it must
/// be raised, the program is started again through a shell, because the system call would need `unsafe` code;
/// then this function does not return.
pub fn files_max(wanted: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut words = line.unwrap_or_default().split_whitespace();
    let mut next = || match words.next() {
        Some("unlimited") => u64::MAX,
        word => word.and_then(|word| word.parse().ok()).unwrap_or(0),
    };
    let (soft, hard) = (next(), next());
    let reachable = wanted.min(hard);
    if soft >= reachable {
        return soft;
    }
    let status = Command::new("sh")
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .arg(reachable.to_string())
        .arg(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .status();
    match status {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(_) => soft,
    }
}

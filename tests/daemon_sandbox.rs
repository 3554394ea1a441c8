//! What the daemon's sandbox denies. Nearly all other tests of the daemon run with the sandbox on and show that it
//! denies nothing that the daemon needs.
#![cfg(all(feature = "daemon", target_os = "linux"))]
#![cfg(test)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;

use daemon::{
    Daemon, TIMEOUT, error_line, eventually, get_unix, healthz, kernel, metric, run, shell,
    temp_path, untried,
};
use nix::sys::signal::Signal;

/// The value of the field `name` in /proc/PID/task/TID/status, one for each thread.
fn of_threads(daemon: &Daemon, name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let status = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    tasks.map(status).collect()
}

/// The sandbox features that the daemon logged as missing.
fn missing(daemon: &Daemon) -> String {
    daemon.lines().wait("serving");
    let lines = daemon.lines().all();
    let line = lines
        .into_iter()
        .find(|line| line.contains("the sandbox is not complete"));
    line.unwrap_or_default()
}

#[test]
fn every_thread_is_under_the_filter_and_gets_no_new_privileges() {
    let daemon = Daemon::start(&[]);
    let missing = missing(&daemon);
    if !kernel::has_filters() {
        untried(&format!("this kernel has no filters; {missing}"));
        return;
    }
    assert_eq!(of_threads(&daemon, "NoNewPrivs:"), ["1", "1", "1"]);
    assert_eq!(of_threads(&daemon, "Seccomp:"), ["2", "2", "2"]);
}

#[test]
fn without_a_sandbox_no_thread_has_a_filter() {
    let daemon = Daemon::start(&["--no-sandbox"]);
    assert_eq!(missing(&daemon), "");
    assert_eq!(of_threads(&daemon, "NoNewPrivs:"), ["0", "0", "0"]);
    assert_eq!(of_threads(&daemon, "Seccomp:"), ["0", "0", "0"]);
    assert_eq!(daemon.get("/healthz"), (200, "ok".to_owned()));
}

/// The figures that need a file or a system call.
#[test]
fn the_figures_of_the_process_are_those_of_proc() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address();
    let value = |sample| metric(address, sample).unwrap();
    let memory = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).unwrap();
        let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap();
        let pages = statm.split(' ').map(|pages| pages.parse::<f64>().unwrap());
        pages
            .map(|pages| pages * page_bytes.unwrap() as f64)
            .take(2)
            .collect::<Vec<_>>()
    };
    eventually("equal sizes of memory", || {
        let before = memory();
        let names = [
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
        ];
        (before == names.map(value) && before == memory()).then_some(())
    });
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count() as f64
    };
    match metric(address, "process_open_fds") {
        // The connection of the scrape.
        Some(_) => eventually("equal numbers of descriptors", || {
            (value("process_open_fds") == descriptors() + 1.0).then_some(())
        }),
        None => untried("this kernel does not count descriptors"),
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let mut lines = limits.lines();
    let files = lines.find(|line| line.starts_with("Max open files"));
    let soft = files.unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(value("process_max_fds"), soft.parse().unwrap());
    let cpu = value("process_cpu_seconds_total");
    eventually("more CPU time", || {
        (cpu < value("process_cpu_seconds_total")).then_some(())
    });
    // The start does not move from scrape to scrape.
    let start = value("process_start_time_seconds");
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = unix.unwrap().as_secs_f64() - start;
    assert!((0.0..60.0).contains(&age), "{start}");
    assert_eq!(value("process_start_time_seconds"), start);
}

/// The sandbox cannot remove files. Clients are refused until the next start replaces the socket file. The
/// log does not mention it.
#[test]
fn a_socket_file_left_by_the_sandbox_refuses_clients_and_is_replaced_at_the_next_start() {
    if !kernel::has_landlock() && !kernel::has_filters() {
        untried("this kernel has nothing that keeps the file from being removed");
        return;
    }
    let path = temp_path();
    let address = format!("unix:{}", path.display());
    for _ in 0..2 {
        let mut daemon = Daemon::start_as(healthz(&["--listen", &address]));
        daemon.lines().wait("serving");
        assert_eq!(get_unix(&path, "/healthz"), (200, "ok".to_owned()));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        let refused = UnixStream::connect(&path).map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
        daemon.lines().wait("stopped: 1 requests answered");
        let mut lines = daemon.lines().all().into_iter();
        assert!(lines.any(|line| line.contains("stopping: /readyz fails")));
        let noise: Vec<_> = lines.filter(|line| !line.contains(" INFO ")).collect();
        assert!(noise.is_empty(), "{noise:?}");
    }
}

#[test]
fn both_core_dump_limits_are_at_most_one_byte() {
    let daemon = Daemon::start(&[]);
    daemon.lines().wait("serving");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max core file size"));
    for limit in line.unwrap().split_whitespace().take(2) {
        assert!(["0", "1"].contains(&limit), "{limits}");
    }
}

#[test]
fn a_crash_leaves_no_core_dump() {
    let directory = temp_path();
    std::fs::create_dir(&directory).unwrap();
    let crash = |option: &str| {
        let at = directory.display();
        let script =
            format!("cd {at} && ulimit -c unlimited && exec \"$HEALTHZ\" --listen unix:s {option}");
        let mut daemon = Daemon::start_as(shell(&script));
        daemon.lines().wait("serving");
        // std's handler removes itself at the first SIGSEGV that is not a stack overflow; the second one ends
        // the process.
        let status = eventually("the daemon to end", || {
            daemon.signal(Signal::SIGSEGV);
            daemon.child.try_wait().unwrap()
        });
        assert_eq!(status.signal(), Some(Signal::SIGSEGV as i32));
        std::fs::remove_file(directory.join("s")).unwrap();
        status.core_dumped()
    };
    let (with, without) = (crash(""), crash("--no-sandbox"));
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(!with);
    // If no crash on this system leaves a core dump, the assertion above shows nothing.
    if !without {
        untried("this system makes no core dumps");
    }
}

/// Regression: the daemon reported that core dumps stay on, because a limit of 0 could not be raised to one
/// byte.
#[test]
fn a_core_dump_limit_of_0_is_not_reported_as_missing() {
    let run = match nix::unistd::geteuid().is_root() {
        true => UNPRIVILEGED,
        false => "exec \"$HEALTHZ\"",
    };
    let script = format!("ulimit -c 0; {run} --listen 127.0.0.1:0");
    let missing = missing(&Daemon::start_as(shell(&script)));
    assert!(!missing.contains("core dumps"), "{missing}");
}

#[test]
fn the_oom_score_is_set_as_the_option_says() {
    let daemon = Daemon::start(&["--oom-score-adj", "321"]);
    daemon.lines().wait("serving");
    let path = format!("/proc/{}/oom_score_adj", daemon.pid());
    assert_eq!(std::fs::read_to_string(path).unwrap(), "321\n");

    for value in ["1001", "-1001", "high"] {
        let output = run(&["--oom-score-adj", value]);
        assert_eq!(output.status.code(), Some(2));
        let expected =
            format!("--oom-score-adj {value}: expected a whole number from -1000 to 1000");
        assert!(error_line(&output).ends_with(&expected));
    }
}

#[test]
fn the_option_to_lock_memory_locks_all_of_it() {
    let daemon = Daemon::start_as(shell(
        "ulimit -S -l 65536; exec \"$HEALTHZ\" --listen 127.0.0.1:0 --lock-memory",
    ));
    let line = eventually("a log line about it", || {
        let mut lines = daemon.lines().all().into_iter();
        lines.find(|line| line.contains("serving") || line.contains("--lock-memory"))
    });
    if line.contains("RLIMIT_MEMLOCK is") {
        untried(&line);
        return;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (locked, resident): (u64, u64) = (kib("VmLck:"), kib("VmRSS:"));
    // The buffers of 64 connections. Without the lock most of their pages are not resident.
    assert!(locked > 1600 && resident > 1600, "{status}");
    assert_eq!(daemon.get("/healthz"), (200, "ok".to_owned()));
}

/// Landlock can deny a process all abstract sockets of other processes.
#[test]
fn a_service_manager_with_an_abstract_socket_is_notified_of_ready_and_stopping() {
    let name = format!("healthz-sandbox-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let next = || {
        let mut state = [0; 256];
        let length = manager.recv(&mut state).unwrap();
        String::from_utf8(state[..length].to_vec()).unwrap()
    };
    let mut command = healthz(&["--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let mut daemon = Daemon::start_as(command);
    assert!(next().contains("READY=1"));
    daemon.signal(Signal::SIGTERM);
    while !next().contains("STOPPING=1") {}
    assert_eq!(daemon.wait().code(), Some(0));
}

/// A shell command that stays root without capabilities, so that limits apply.
const UNPRIVILEGED: &str = "exec setpriv --bounding-set=-all --inh-caps=-all -- \"$HEALTHZ\"";

#[test]
fn an_error_names_the_missing_limit_or_capability() {
    if !nix::unistd::geteuid().is_root() {
        untried("only root can give up rights");
        return;
    }
    for (limit, option, expected) in [
        (
            "64",
            "--lock-memory",
            "healthz: --lock-memory: RLIMIT_MEMLOCK is 64 KiB, and ",
        ),
        (
            "0",
            "--lock-memory",
            "healthz: --lock-memory: RLIMIT_MEMLOCK is 0 KiB, and ",
        ),
        // Enough for the program, but not for the memory that it allocates later.
        (
            "6000",
            "--lock-memory",
            "healthz: --lock-memory: RLIMIT_MEMLOCK is 6000 KiB, and ",
        ),
        (
            "64",
            "--oom-score-adj -1",
            "lowering it needs CAP_SYS_RESOURCE",
        ),
    ] {
        let script = format!("ulimit -l {limit}; {UNPRIVILEGED} --listen 127.0.0.1:0 {option}");
        let mut daemon = Daemon::start_as(shell(&script));
        daemon.lines().wait(expected);
        assert_eq!(daemon.wait().code(), Some(1), "{option}");
    }
    // The limit that the message asks for is enough.
    let script = |kib: &str| {
        let script = format!("ulimit -l {kib}; {UNPRIVILEGED} --listen 127.0.0.1:0 --lock-memory");
        Daemon::start_as(shell(&script))
    };
    let line = script("64").lines().wait(" KiB are needed");
    let (_, needed) = line.split_once("is 64 KiB, and ").unwrap();
    let needed = needed.split(' ').next().unwrap();
    let raised = shell(&format!("ulimit -l {needed}")).status().unwrap();
    if !raised.success() {
        untried("the limit of locked memory cannot be raised");
        return;
    }
    let daemon = script(needed);
    assert_eq!(daemon.get("/healthz?verbose").0, 200);
}

/// System calls that a tracer makes the daemon execute, as an attacker in the process would.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod intruder {
    use super::*;
    use nix::errno::Errno;
    use nix::libc::{c_long, user_regs_struct as Registers};
    use nix::sys::ptrace;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;
    use std::net::TcpListener;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::process::Command;

    /// The system call instruction: its length, and the bits of a word that it takes.
    #[cfg(target_arch = "x86_64")]
    const INSTRUCTION: (u64, i64, i64) = (2, 0xffff, 0x050f);
    #[cfg(target_arch = "aarch64")]
    const INSTRUCTION: (u64, i64, i64) = (4, 0xffff_ffff, 0xd400_0001);

    /// The number of the system call that the thread is in.
    fn number_in(registers: &Registers) -> c_long {
        #[cfg(target_arch = "x86_64")]
        return registers.orig_rax as c_long;
        #[cfg(target_arch = "aarch64")]
        return registers.regs[8] as c_long;
    }

    fn set_call(registers: &mut Registers, number: c_long, arguments: [u64; 6]) {
        #[cfg(target_arch = "x86_64")]
        {
            registers.rax = number as u64;
            [registers.rdi, registers.rsi, registers.rdx, ..] = arguments;
            [.., registers.r10, registers.r8, registers.r9] = arguments;
        }
        #[cfg(target_arch = "aarch64")]
        {
            registers.regs[8] = number as u64;
            registers.regs[..6].copy_from_slice(&arguments);
        }
    }

    /// Prevents a restart of the interrupted system call.
    fn prevent_restart(registers: &mut Registers) {
        #[cfg(target_arch = "x86_64")]
        {
            registers.orig_rax = u64::MAX;
        }
        // The kernel does not restart a call if the tracer has changed the program counter.
        #[cfg(target_arch = "aarch64")]
        let _ = registers;
    }

    fn result_in(registers: &Registers) -> i64 {
        #[cfg(target_arch = "x86_64")]
        return registers.rax as i64;
        #[cfg(target_arch = "aarch64")]
        return registers.regs[0] as i64;
    }

    fn program_counter(registers: &mut Registers) -> &mut u64 {
        #[cfg(target_arch = "x86_64")]
        return &mut registers.rip;
        #[cfg(target_arch = "aarch64")]
        return &mut registers.pc;
    }

    fn stack_pointer(registers: &mut Registers) -> &mut u64 {
        #[cfg(target_arch = "x86_64")]
        return &mut registers.rsp;
        #[cfg(target_arch = "aarch64")]
        return &mut registers.sp;
    }

    /// Stops the daemon's main thread. Reports the test as skipped if that is not possible.
    fn seize(daemon: &Daemon) -> Option<()> {
        seize_thread(daemon.pid())
    }

    fn seize_thread(thread: Pid) -> Option<()> {
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Err(error @ (Errno::EPERM | Errno::ENOSYS)) => {
                untried(&format!("ptrace failed: {error}"));
                return None;
            }
            result => result.unwrap(),
        }
        // The thread must be stopped in epoll_wait, and may not have reached it yet.
        eventually("the thread to wait", || {
            ptrace::interrupt(thread).unwrap();
            // waitpid(2) needs this flag for a thread that is not the first of its process.
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            let registers = ptrace::getregs(thread).unwrap();
            let waits = [
                #[cfg(target_arch = "x86_64")]
                nix::libc::SYS_epoll_wait,
                nix::libc::SYS_epoll_pwait,
            ];
            let is_waiting = waits.contains(&number_in(&registers));
            (!is_waiting).then(|| ptrace::cont(thread, None).unwrap());
            is_waiting.then_some(())
        });
        Some(())
    }

    /// Makes the stopped main thread execute `call` and stop again. `Err` if the process ended.
    fn call<const COUNT: usize>(
        daemon: &Daemon,
        call: i64,
        arguments: [u64; COUNT],
    ) -> Result<i64, WaitStatus> {
        let pid = daemon.pid();
        let before = ptrace::getregs(pid).unwrap();
        let mut registers = before;
        // The thread is in epoll_wait, so the instruction before the next one is the system call.
        let (length, bits, instruction) = INSTRUCTION;
        let counter = program_counter(&mut registers);
        *counter -= length;
        let word = ptrace::read(pid, *counter as ptrace::AddressType).unwrap();
        assert_eq!(word & bits, instruction, "not a system call");
        prevent_restart(&mut registers);
        let mut all = [0; 6];
        all[..COUNT].copy_from_slice(&arguments);
        set_call(&mut registers, call, all);
        ptrace::setregs(pid, registers).unwrap();
        ptrace::step(pid, None).unwrap();
        match waitpid(pid, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceEvent(..) => {}
            ended => return Err(ended),
        }
        let result = result_in(&ptrace::getregs(pid).unwrap());
        ptrace::setregs(pid, before).unwrap();
        Ok(result)
    }

    /// Writes `path` to an unused part of the stopped thread's stack and returns its address.
    fn put(daemon: &Daemon, path: &Path) -> u64 {
        put_bytes(daemon, path.as_os_str().as_bytes())
    }

    /// As above, for any bytes, with a zero byte after them.
    fn put_bytes(daemon: &Daemon, bytes: &[u8]) -> u64 {
        let mut registers = ptrace::getregs(daemon.pid()).unwrap();
        let at = *stack_pointer(&mut registers) - 4096;
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len() / 8 * 8 + 8, 0);
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word = i64::from_ne_bytes(word.try_into().unwrap());
            let address = at + 8 * index as u64;
            ptrace::write(daemon.pid(), address as ptrace::AddressType, word).unwrap();
        }
        at
    }

    fn started() -> Option<Daemon> {
        seized(healthz(&["--listen", "127.0.0.1:0"]))
    }

    /// A daemon with its filter, whose main thread is stopped.
    fn seized(command: Command) -> Option<Daemon> {
        let daemon = Daemon::start_as(command);
        daemon.lines().wait("serving");
        if !kernel::has_filters() {
            untried("this kernel has no filters");
            return None;
        }
        seize(&daemon)?;
        Some(daemon)
    }

    #[test]
    fn a_call_that_is_not_listed_does_nothing_and_the_daemon_continues() {
        let Some(daemon) = started() else { return };
        let here = put(&daemon, Path::new("/dev/null"));
        let refused = Ok(-i64::from(Errno::ENOSYS as i32));
        let at_cwd = nix::libc::AT_FDCWD as u64;
        for (number, arguments) in [
            (nix::libc::SYS_openat, [at_cwd, here, 0]),
            #[cfg(target_arch = "x86_64")]
            (nix::libc::SYS_open, [here, 0, 0]),
            (nix::libc::SYS_kill, [1, 0, 0]),
            (nix::libc::SYS_tgkill, [1, 1, 0]),
            // System calls at the start of a thread. All threads have made them.
            (nix::libc::SYS_set_robust_list, [here, 24, 0]),
            (nix::libc::SYS_sched_getaffinity, [0, 8, here]),
            (nix::libc::SYS_sendmsg, [0, here, 0]),
            (nix::libc::SYS_sendmmsg, [0, here, 1]),
            (nix::libc::SYS_mremap, [here, 4096, 4096]),
            #[cfg(target_arch = "x86_64")]
            (nix::libc::SYS_unlink, [here, 0, 0]),
            (nix::libc::SYS_unlinkat, [at_cwd, here, 0]),
            (nix::libc::SYS_statx, [at_cwd, here, 0]),
            (nix::libc::SYS_newfstatat, [at_cwd, here, 0]),
            #[cfg(target_arch = "x86_64")]
            (nix::libc::SYS_lstat, [here, here, 0]),
            (nix::libc::SYS_io_uring_setup, [1, here, 0]),
            (
                nix::libc::SYS_prctl,
                [nix::libc::PR_SET_DUMPABLE as u64, 1, 0],
            ),
        ] {
            assert_eq!(call(&daemon, number, arguments), refused, "{number}");
        }
        // Shows that this test can make system calls that are allowed.
        let pid = call(&daemon, nix::libc::SYS_getpid, [0; 3]);
        assert_eq!(pid, Ok(i64::from(daemon.pid().as_raw())));
        // System calls that glibc makes when its heap grows or is damaged. No other test causes them.
        let end = call(&daemon, nix::libc::SYS_brk, [0; 3]);
        assert!(end.is_ok_and(|end| end > 0), "{end:?}");
        assert_eq!(call(&daemon, nix::libc::SYS_writev, [2, here, 0]), Ok(0));
        ptrace::detach(daemon.pid(), None).unwrap();
        assert_eq!(daemon.get("/healthz"), (200, "ok".to_owned()));
    }

    #[test]
    fn without_a_sandbox_the_same_calls_succeed() {
        let daemon = Daemon::start(&["--no-sandbox"]);
        daemon.lines().wait("serving");
        let Some(()) = seize(&daemon) else { return };
        let here = put(&daemon, Path::new("/dev/null"));
        let at_cwd = nix::libc::AT_FDCWD as u64;
        let opened = call(&daemon, nix::libc::SYS_openat, [at_cwd, here, 0]);
        assert!(opened.is_ok_and(|descriptor| descriptor > 2), "{opened:?}");
        let socket = call(&daemon, nix::libc::SYS_socket, [1, 1, 0]);
        assert!(socket.is_ok_and(|descriptor| descriptor > 2), "{socket:?}");
        ptrace::detach(daemon.pid(), None).unwrap();
    }

    #[test]
    fn a_system_call_that_only_an_attacker_makes_kills_the_daemon() {
        let executable = (nix::libc::PROT_READ | nix::libc::PROT_EXEC) as u64;
        for (number, arguments) in [
            (nix::libc::SYS_execve, [0, 0, 0]),
            (nix::libc::SYS_socket, [1, 1, 0]),
            (nix::libc::SYS_connect, [0, 0, 0]),
            #[cfg(target_arch = "x86_64")]
            (nix::libc::SYS_fork, [0, 0, 0]),
            (nix::libc::SYS_clone, [Signal::SIGCHLD as u64, 0, 0]),
            (nix::libc::SYS_mmap, [0, 4096, executable]),
        ] {
            let Some(daemon) = started() else { return };
            let ended = call(&daemon, number, arguments).unwrap_err();
            let expected = WaitStatus::Signaled(daemon.pid(), Signal::SIGSYS, false);
            assert_eq!(ended, expected, "{number}");
        }
    }

    /// `sendto` by the daemon, to `address`. The bytes of `address` are also the message.
    fn send(daemon: &Daemon, socket: u64, flags: i32, address: &[u8]) -> Result<i64, WaitStatus> {
        let at = put_bytes(daemon, address);
        let length = address.len() as u64;
        let arguments = [socket, at, length, flags as u64, at, length];
        call(daemon, nix::libc::SYS_sendto, arguments)
    }

    /// The daemon's socket descriptors.
    fn sockets(daemon: &Daemon) -> Vec<u64> {
        let directory = format!("/proc/{}/fd", daemon.pid());
        let entries = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap());
        let sockets = entries.filter(|entry| {
            let target = std::fs::read_link(entry.path()).unwrap();
            target.as_os_str().as_bytes().starts_with(b"socket:")
        });
        let number =
            |entry: std::fs::DirEntry| entry.file_name().to_str().unwrap().parse().unwrap();
        sockets.map(number).collect()
    }

    fn killed(daemon: &Daemon) -> WaitStatus {
        WaitStatus::Signaled(daemon.pid(), Signal::SIGSYS, false)
    }

    /// Regression: sendto with MSG_FASTOPEN on a listener that was shut down connected to any port.
    #[test]
    fn a_listener_cannot_be_made_to_connect() {
        let Some(daemon) = started() else { return };
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let family = (nix::libc::AF_INET as u16).to_ne_bytes();
        let mut address = [&family[..], &port.to_be_bytes(), &[127, 0, 0, 1]].concat();
        address.resize(16, 0);
        let sockets = sockets(&daemon);
        assert!(sockets.len() > 2, "{sockets:?}");
        let shut = |socket: &u64| {
            let arguments = [*socket, nix::libc::SHUT_RD as u64];
            call(&daemon, nix::libc::SYS_shutdown, arguments)
        };
        let shut: Vec<_> = sockets.iter().map(shut).collect();
        let mut sent = sockets.iter().map(|socket| {
            let flags = nix::libc::MSG_FASTOPEN | nix::libc::MSG_DONTWAIT;
            send(&daemon, *socket, flags, &address)
        });
        // Without the filter the listener gave EINPROGRESS, and was connected to `other`.
        assert_eq!(sent.next(), Some(Err(killed(&daemon))));
        // The first step, the shutdown, is refused as well.
        let refused = Ok(-i64::from(Errno::ENOSYS as i32));
        assert!(shut.iter().all(|result| *result == refused), "{shut:?}");
        other.set_nonblocking(true).unwrap();
        let accepted = other.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(accepted, Err(std::io::ErrorKind::WouldBlock));
    }

    /// A datagram socket can send to any address that sendto names.
    #[test]
    fn nothing_is_sent_to_an_address_without_a_service_manager() {
        let path = temp_path();
        let manager = UnixDatagram::bind(&path).unwrap();
        let family = (nix::libc::AF_UNIX as u16).to_ne_bytes();
        let address = [&family, path.as_os_str().as_bytes()].concat();
        let no_signal = nix::libc::MSG_NOSIGNAL;
        let seized_with = |manager: Option<&Path>| {
            let mut command = healthz(&["--listen", "127.0.0.1:0"]);
            command.envs(manager.map(|path| ("NOTIFY_SOCKET", path)));
            seized(command)
        };
        let received = || {
            let mut message = [0; 256];
            manager.set_nonblocking(true).unwrap();
            let length = manager.recv(&mut message).unwrap();
            message[..length].to_vec()
        };

        let Some(daemon) = seized_with(None) else {
            return;
        };
        let socket = sockets(&daemon)[0];
        let sent = send(&daemon, socket, no_signal, &address);
        assert_eq!(sent, Err(killed(&daemon)));

        // With a manager, sendto is allowed in the form that the daemon uses: an address and MSG_NOSIGNAL.
        let Some(daemon) = seized_with(Some(&path)) else {
            return;
        };
        assert!(received().starts_with(b"READY=1"));
        let sent = sockets(&daemon).into_iter().find(|socket| {
            let sent = send(&daemon, *socket, no_signal, &address);
            sent == Ok(address.len() as i64)
        });
        assert_eq!(received(), address);
        // Landlock denies abstract names: the filter cannot read the memory that an address points to.
        if kernel::has_landlock_scopes() {
            let name = format!("healthz-denied-{}", std::process::id());
            let named = SocketAddr::from_abstract_name(&name).unwrap();
            let _named = UnixDatagram::bind_addr(&named).unwrap();
            let address = [&family[..], b"\0", name.as_bytes()].concat();
            let result = send(&daemon, sent.unwrap(), no_signal, &address);
            assert_eq!(result, Ok(-i64::from(Errno::EPERM as i32)));
        } else {
            untried("Landlock of this kernel cannot deny abstract names");
        }
        let sent = send(&daemon, sent.unwrap(), nix::libc::MSG_OOB, &address);
        assert_eq!(sent, Err(killed(&daemon)));
        std::fs::remove_file(path).unwrap();
    }

    /// The message and the signal of an abort need system calls of their own.
    #[test]
    fn a_stack_overflow_is_logged_and_ends_the_process() {
        for backtrace in ["0", "1"] {
            let mut command = healthz(&["--listen", "127.0.0.1:0"]);
            command.env("RUST_BACKTRACE", backtrace);
            let mut daemon = Daemon::start_as(command);
            daemon.lines().wait("serving");
            let thread = thread(&daemon, "healthz");
            let Some(()) = seize_thread(thread) else {
                return;
            };
            // Moves the stack pointer below the stack, so that the thread touches the guard page next.
            let mut registers = ptrace::getregs(thread).unwrap();
            let stack = stack_pointer(&mut registers);
            *stack = bottom(&daemon, *stack) - 1024;
            prevent_restart(&mut registers);
            ptrace::setregs(thread, registers).unwrap();
            ptrace::detach(thread, None).unwrap();
            // musl aborts by tkill(2), which the filter refuses, and then by an instruction that is not allowed.
            let signal = match cfg!(target_env = "musl") {
                true => Signal::SIGSEGV,
                false => Signal::SIGABRT,
            };
            assert_eq!(daemon.wait().signal(), Some(signal as i32));
            daemon.lines().wait("thread 'healthz'");
            daemon.lines().wait("has overflowed its stack");
        }
    }

    /// The daemon's thread with this name, other than the main thread.
    fn thread(daemon: &Daemon, name: &str) -> Pid {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let mut others = tasks.map(|task| task.unwrap()).filter(|task| {
            let comm = std::fs::read_to_string(task.path().join("comm")).unwrap();
            comm.trim_end() == name && *task.file_name() != *daemon.pid().to_string()
        });
        let id = others.next().unwrap().file_name();
        Pid::from_raw(id.to_str().unwrap().parse().unwrap())
    }

    /// The lowest address of the mapping that contains `address`.
    fn bottom(daemon: &Daemon, address: u64) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
        let ranges = maps.lines().map(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap())
        });
        let mut around = ranges.filter(|[from, to]| (*from..*to).contains(&address));
        around.next().unwrap()[0]
    }

    /// Regression: with a Unix socket in `/run` every file below `/run` could be removed.
    #[test]
    fn no_file_can_be_read_or_removed_not_even_in_the_directory_of_its_socket() {
        let directory = temp_path();
        let below = directory.join("below");
        std::fs::create_dir_all(&below).unwrap();
        let socket = directory.join("s");
        let listen = format!("unix:{}", socket.display());
        let Some(daemon) = seized(healthz(&["--listen", &listen])) else {
            return;
        };
        let at_cwd = nix::libc::AT_FDCWD as u64;
        let files = [directory.join("file"), below.join("file"), socket.clone()];
        for file in &files {
            if *file != socket {
                std::fs::write(file, "").unwrap();
            }
            let at = put(&daemon, file);
            for (number, arguments) in [
                #[cfg(target_arch = "x86_64")]
                (nix::libc::SYS_unlink, [at, 0, 0]),
                (nix::libc::SYS_unlinkat, [at_cwd, at, 0]),
                #[cfg(target_arch = "x86_64")]
                (nix::libc::SYS_rename, [at, at, 0]),
                (nix::libc::SYS_renameat2, [at_cwd, at, at_cwd]),
                (nix::libc::SYS_newfstatat, [at_cwd, at, at]),
                (nix::libc::SYS_statx, [at_cwd, at, 0]),
            ] {
                let refused = Ok(-i64::from(Errno::ENOSYS as i32));
                let result = call(&daemon, number, arguments);
                assert_eq!(result, refused, "{number} {}", file.display());
            }
        }
        ptrace::detach(daemon.pid(), None).unwrap();
        assert!(files.iter().all(|file| file.exists()));
        assert_eq!(get_unix(&socket, "/healthz"), (200, "ok".to_owned()));
    }
}

//! The filter for system calls: a program that the kernel runs before each call of every thread.
//!
//! It allows only what the daemon does after its start. So the daemon cannot open a file or a socket, start
//! a program or a thread, or make memory executable. A feature that needs another call adds it here.
//!
//! | calls | result | reason |
//! |---|---|---|
//! | [`ALLOWED`]; `sendto`, `mmap` and others with some arguments | allowed | the daemon or its libc makes them |
//! | [`FATAL`], and some arguments of `sendto` and [`MAPPING`] | the process ends | only an intruder makes them |
//! | all others | ENOSYS | a newer libc then makes an older call |
//!
//! A daemon that continued under the control of an intruder could answer `ok` when that is wrong. If its process
//! ends, the service manager starts it again, and the kernel's audit log names the call. For a call that is in no
//! list, ending the process would be worse than refusing the call: a healthy daemon may need it.
//!
//! The program is written here step by step, and not compiled by seccompiler, which only gives it to the
//! kernel. A program of seccompiler has one result for all calls that match, so the table above takes two
//! programs, and they compare calls in the order of their numbers. For `sendto`, the kernel would run 166
//! steps instead of 7, or 75 if a wrong flag does not end the process; for `shutdown`, 78 to 108 instead
//! of 8. seccompiler can also compile a program at build time, but needs serde and serde_json for that.

use libc::c_long;
use seccompiler::sock_filter;

/// Calls that are allowed with all arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // The server.
    libc::SYS_epoll_pwait, libc::SYS_epoll_ctl, libc::SYS_accept4, libc::SYS_recvfrom,
    libc::SYS_close,
    // Which process made a connection to a Unix socket (SO_PEERCRED).
    libc::SYS_getsockopt,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    // The process' own figures for /metrics, from descriptors that were opened before (super::super::metrics).
    libc::SYS_pread64, libc::SYS_fstat,
    // The log, wakers, locks and clocks. glibc prints with writev before it aborts because its heap is
    // damaged.
    libc::SYS_read, libc::SYS_write, libc::SYS_writev, libc::SYS_futex, libc::SYS_clock_gettime,
    // Signals. std's handler for crashes removes itself with rt_sigaction; without that call, a crash
    // would repeat for ever.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    // The kernel continues a wait with a timeout by this call after SIGSTOP and SIGCONT.
    libc::SYS_restart_syscall,
    // The heap. It rarely grows after the start, but glibc assumes that brk succeeds, and would write to
    // memory that does not exist. Without mremap, glibc and musl copy.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_getrandom,
    // The end of a thread, and of the process. All threads have started, so rseq, set_robust_list,
    // sched_getaffinity and prctl are not needed.
    libc::SYS_sigaltstack, libc::SYS_sched_yield, libc::SYS_getpid,
    libc::SYS_gettid, libc::SYS_exit, libc::SYS_exit_group,
    // With debug assertions, std checks that a descriptor is open before it closes it.
    #[cfg(debug_assertions)] libc::SYS_fcntl,
];

/// The flags that the server, the service manager's notifications and the signal handler send with. Any
/// other flag ends the process: with MSG_FASTOPEN, sendto connects.
const SEND_FLAGS: u32 = (libc::MSG_NOSIGNAL | libc::MSG_MORE | libc::MSG_DONTWAIT) as u32;

/// Calls that are allowed unless they make memory executable. Then they end the process.
const MAPPING: [c_long; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

/// Calls that end the process.
#[rustfmt::skip]
const FATAL: &[c_long] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_clone, libc::SYS_clone3,
    #[cfg(target_arch = "x86_64")] libc::SYS_fork,
    #[cfg(target_arch = "x86_64")] libc::SYS_vfork,
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen,
    libc::SYS_pkey_mprotect, libc::SYS_memfd_create,
];

/// The processor and its byte order (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// The results of the program.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// What the program depends on besides the lists.
#[derive(Clone, Copy)]
struct Process {
    id: u32,
    /// A service manager is notified by address. A connection to it would not survive its restart.
    has_manager: bool,
}

/// Applies the filter to all threads.
///
/// # Errors
/// If the kernel has no filters, or not this kind.
pub fn apply() -> Result<(), String> {
    let program = program(Process {
        id: std::process::id(),
        has_manager: super::manager().is_some(),
    });
    seccompiler::apply_filter_all_threads(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error.to_string(),
        _ => "a thread already has another filter".to_owned(),
    })
}

/// The steps in their order: for each call a comparison, and what follows if it is this call.
fn program(process: Process) -> Vec<sock_filter> {
    let is_executable = if_any_bit(libc::PROT_EXEC as u32);
    let is_write_side = if_equal(libc::SHUT_WR as u32);
    let is_this = if_equal(process.id);
    let sendto = match process.has_manager {
        true => SENDTO,
        false => SENDTO_CONNECTED,
    };
    // Since Linux 5.11, the kernel caches which calls are allowed with all arguments. Of the calls that an
    // answer takes, only the first two here run the program.
    #[rustfmt::skip]
    let rules: [(&[c_long], &[sock_filter]); 6] = [
        (&[libc::SYS_sendto], sendto),
        // Only the write side of a connection. A listener whose read side is shut down could connect.
        (&[libc::SYS_shutdown], &[load(argument_at(1)), is_write_side, finish(ALLOW), finish(REFUSE)]),
        (ALLOWED, &[finish(ALLOW)]),
        (FATAL, &[finish(KILL)]),
        (&MAPPING, &[load(argument_at(2)), is_executable, finish(KILL), finish(ALLOW)]),
        // abort(3) sends a signal to its own process. That of musl makes another call, which names only the thread: that is
        // refused, and then abort(3) ends the process by SIGSEGV.
        (&[libc::SYS_tgkill], &[load(argument_at(0)), is_this, finish(ALLOW), finish(REFUSE)]),
    ];
    let mut program = vec![
        // Another instruction set has other numbers.
        load(ARCHITECTURE_AT),
        unless_equal(ARCHITECTURE),
        finish(KILL),
        load(NUMBER_AT),
    ];
    for (calls, steps) in rules {
        for call in calls {
            program.push(skip_unless_equal(*call as u32, steps.len()));
            program.extend_from_slice(steps);
        }
    }
    program.push(finish(REFUSE));
    program
}

/// Rejects flags that are not in [`SEND_FLAGS`]. They are an `int`, so the kernel uses only the lower half of this
/// argument.
const SENDTO: &[sock_filter] = &[
    load(argument_at(3)),
    if_any_bit(!SEND_FLAGS),
    finish(KILL),
    finish(ALLOW),
];

/// Rejects an address as well: the socket must be connected.
const SENDTO_CONNECTED: &[sock_filter] = &[
    load(argument_at(3)),
    if_any_bit(!SEND_FLAGS),
    finish(KILL),
    load(argument_at(4)),
    unless_equal(0),
    finish(KILL),
    load(upper_half(argument_at(4))),
    unless_equal(0),
    finish(KILL),
    finish(ALLOW),
];

/// Operations of classic BPF, a machine with one register (linux/filter.h).
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// The lower half of an argument.
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}
const fn upper_half(argument_at: u32) -> u32 {
    argument_at + 4
}

/// Loads four bytes of the call's description.
const fn load(offset: u32) -> sock_filter {
    step(LOAD, offset, 0, 0)
}

/// Ends the program with this result.
const fn finish(result: u32) -> sock_filter {
    step(RETURN, result, 0, 0)
}

/// Runs the next step only if the loaded bytes are `value`.
const fn if_equal(value: u32) -> sock_filter {
    skip_unless_equal(value, 1)
}

/// Runs the next step only if the loaded bytes are not `value`.
const fn unless_equal(value: u32) -> sock_filter {
    step(JUMP_IF_EQUAL, value, 1, 0)
}

/// Runs the next step only if the loaded bytes have one of these bits.
const fn if_any_bit(bits: u32) -> sock_filter {
    step(JUMP_IF_ANY_BIT, bits, 0, 1)
}

/// Runs the next `count` steps only if the loaded bytes are `value`.
const fn skip_unless_equal(value: u32, count: usize) -> sock_filter {
    debug_assert!(count <= u8::MAX as usize, "a jump is longer than BPF has");
    step(JUMP_IF_EQUAL, value, 0, count as u8)
}

/// `jt` and `jf` are the steps that are skipped if the comparison is true or false.
const fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io;

    include!("../../../tests/support/untried.rs");

    /// This process with a service manager: more is allowed.
    const MANAGED: Process = Process {
        id: 4711,
        has_manager: true,
    };
    /// The same without one.
    const UNMANAGED: Process = Process {
        has_manager: false,
        ..MANAGED
    };

    /// The result of the program for a call, from a second interpreter; and how many steps it runs.
    fn run(process: Process, architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let program = program(process);
        let (mut at, mut register, mut count) = (0, 0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = &program[at];
            at += 1;
            count += 1;
            let mut jump = |is_true| at += usize::from(if is_true { *jt } else { *jf });
            match *code {
                LOAD => {
                    register = match *k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        k => {
                            let argument = arguments[(k as usize - 16) / 8];
                            (argument >> (k % 8 * 8)) as u32
                        }
                    }
                }
                JUMP_IF_EQUAL => jump(register == *k),
                JUMP_IF_ANY_BIT => jump(register & *k != 0),
                RETURN => return (*k, count),
                code => panic!("operation {code}"),
            }
        }
    }

    fn of(process: Process, call: c_long, arguments: [u64; 6]) -> u32 {
        run(process, ARCHITECTURE, call as u32, arguments).0
    }

    /// Calls whose result depends on their arguments.
    #[rustfmt::skip]
    const SPECIAL: &[c_long] = &[
        MAPPING[0], MAPPING[1], libc::SYS_sendto, libc::SYS_shutdown, libc::SYS_tgkill,
    ];

    #[test]
    fn every_call_has_the_result_of_its_list_and_calls_in_no_list_are_refused() {
        let all: Vec<_> = [ALLOWED, FATAL, SPECIAL].concat();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for number in (0..2000).filter(|number| !SPECIAL.contains(number)) {
            let expected = match number {
                number if ALLOWED.contains(&number) => ALLOW,
                number if FATAL.contains(&number) => KILL,
                _ => REFUSE,
            };
            for process in [MANAGED, UNMANAGED] {
                assert_eq!(of(process, number, [0; 6]), expected, "{number}");
                // x32 has the architecture of x86-64 and this bit in its numbers.
                assert_eq!(
                    of(process, number | 0x4000_0000, [0; 6]),
                    REFUSE,
                    "{number}"
                );
            }
        }
    }

    #[test]
    fn arguments_that_matter_are_compared() {
        let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        for call in MAPPING {
            assert_eq!(of(MANAGED, call, [0, 0, writable, 0, 0, 0]), ALLOW);
            assert_eq!(of(MANAGED, call, [0, 0, executable, 0, 0, 0]), KILL);
        }
        let tgkill = |process| of(MANAGED, libc::SYS_tgkill, [process, 1, 6, 0, 0, 0]);
        assert_eq!(tgkill(MANAGED.id.into()), ALLOW);
        assert_eq!(tgkill(1), REFUSE);
        let shutdown = |how| of(MANAGED, libc::SYS_shutdown, [8, how as u64, 0, 0, 0, 0]);
        assert_eq!(shutdown(libc::SHUT_WR), ALLOW);
        assert_eq!(shutdown(libc::SHUT_RD), REFUSE);
        assert_eq!(shutdown(libc::SHUT_RDWR), REFUSE);
    }

    /// Regression: sendto was allowed with all flags, and MSG_FASTOPEN connects.
    #[test]
    fn sendto_takes_known_flags_and_an_address_only_with_a_service_manager() {
        let sendto =
            |process, flags, address| of(process, libc::SYS_sendto, [8, 1, 1, flags, address, 16]);
        let known =
            [libc::MSG_NOSIGNAL, libc::MSG_MORE, libc::MSG_DONTWAIT].map(|flag| flag as u64);
        for process in [MANAGED, UNMANAGED] {
            assert_eq!(sendto(process, 0, 0), ALLOW);
            assert_eq!(sendto(process, known.iter().sum(), 0), ALLOW);
            // The kernel ignores the upper half.
            assert_eq!(sendto(process, known[0] | 1 << 32, 0), ALLOW);
            for flag in (0..u32::BITS).map(|bit| 1 << bit) {
                let expected = if known.contains(&flag) { ALLOW } else { KILL };
                assert_eq!(sendto(process, flag, 0), expected, "{flag:#x}");
                assert_eq!(sendto(process, flag | known[0], 0), expected, "{flag:#x}");
            }
        }
        for address in (0..u64::BITS).map(|bit| 1 << bit) {
            assert_eq!(sendto(MANAGED, known[0], address), ALLOW, "{address:#x}");
            assert_eq!(sendto(UNMANAGED, known[0], address), KILL, "{address:#x}");
            assert_eq!(sendto(MANAGED, libc::MSG_FASTOPEN as u64, address), KILL);
        }
    }

    /// The kernel caches the result for the other calls of an answer.
    #[test]
    fn the_calls_of_an_answer_that_the_kernel_does_not_cache_run_few_steps() {
        let count = |process, call, arguments| run(process, ARCHITECTURE, call as u32, arguments).1;
        let arguments = [8, 1, 0, 0, 0, 0];
        assert_eq!(count(MANAGED, libc::SYS_sendto, arguments), 7);
        assert_eq!(count(UNMANAGED, libc::SYS_sendto, arguments), 11);
        assert_eq!(count(UNMANAGED, libc::SYS_shutdown, arguments), 8);
    }

    /// Runs itself once more in a process that applies the filter, which then refuses another one.
    #[test]
    fn the_error_of_the_system_is_returned() {
        const NAME: &str = "daemon::sandbox::filter::tests::the_error_of_the_system_is_returned";
        const VARIABLE: &str = "HEALTHZ_FILTER_TWICE";
        if std::env::var_os(VARIABLE).is_some() {
            eprintln!("{:?}", [apply(), apply()]);
            std::process::exit(0);
        }
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]);
        let output = command.env(VARIABLE, "1").output().unwrap();
        let results = String::from_utf8(output.stderr).unwrap();
        if results.starts_with("[Err(") {
            return untried(&format!("no filter for system calls: {results}"));
        }
        let refused = io::Error::from_raw_os_error(libc::ENOSYS).to_string();
        assert_eq!(results, format!("[Ok(()), Err({refused:?})]\n"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_document_counts_the_calls() {
        let debug = usize::from(cfg!(debug_assertions));
        let always = ALLOWED.len() - debug + SPECIAL.len();
        let sentence = format!("{always} calls and no other");
        let document = include_str!("../../../docs/secure.md");
        assert!(
            document.contains(&sentence),
            "docs/secure.md does not say: {sentence}"
        );
    }

    #[test]
    fn a_call_of_another_instruction_set_ends_the_process() {
        let i386 = 0x4000_0003;
        let read = libc::SYS_read as u32;
        assert_eq!(run(MANAGED, i386, read, [0; 6]).0, KILL);
    }

    /// The kernel's interpreter agrees. Only the thread of this test gets the filter.
    #[test]
    fn the_kernel_allows_a_thread_with_the_filter_what_is_allowed_and_nothing_else() {
        use std::io::{Read, Write};
        let (mut near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                seccompiler::apply_filter(&program(UNMANAGED)).unwrap();
                let opened = std::fs::File::open("/dev/null").map(drop);
                let changed = near.set_nonblocking(true);
                near.write_all(b"x").unwrap();
                let heap = vec![1_u8; 1 << 20];
                let refused = |result: io::Result<()>| result.unwrap_err().raw_os_error();
                (refused(opened), refused(changed), heap.len())
            });
            thread.join().unwrap()
        });
        let refused = Some(libc::ENOSYS);
        assert_eq!(done, (refused, refused, 1 << 20));
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}

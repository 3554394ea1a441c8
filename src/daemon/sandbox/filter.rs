//! The filter for system calls: a program that the kernel runs before each of them, for every thread.
//!
//! Only what the daemon does after its start is allowed, so it cannot open a file or a socket, start a
//! program or a thread, or make memory executable. A feature that needs one more call lists it here.
//!
//! What happens otherwise:
//! - Calls that std and no libc would make on its own account, and that an intruder begins with, end
//!   the process. Its supervisor starts it again, clean, and the kernel's audit log has it: a door that
//!   goes on with a stranger inside could say `ok` when it is not.
//! - All others fail with ENOSYS and do nothing. A libc that is newer than this list tries what it has
//!   just learned, and takes the old way when the kernel seems not to know it. To end a healthy door
//!   for that, or for one call forgotten here, would be the worse fault.
//!
//! The program is put together by the compiler and lies in the program's file: seccompiler's own way of
//! making one takes a heap of maps, which would be a third of what the daemon needs after its start.

use libc::c_long;
use seccompiler::sock_filter;

/// Calls that are allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // The door.
    libc::SYS_epoll_pwait, libc::SYS_epoll_ctl, libc::SYS_accept4, libc::SYS_recvfrom,
    libc::SYS_close,
    // Which process made a connection, of a Unix socket's.
    libc::SYS_getsockopt,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    // The log, wakers, locks and clocks. writev is glibc's for the words before an abort,
    // when it finds its heap damaged.
    libc::SYS_read, libc::SYS_write, libc::SYS_writev, libc::SYS_futex, libc::SYS_clock_gettime,
    // Signals, and what goes on after one. Without rt_sigaction std's handler could not step aside,
    // and a crash would go round for ever.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    // The kernel's own, to go on with a wait of limited time behind SIGSTOP and SIGCONT.
    libc::SYS_restart_syscall,
    // The heap. It has room when it comes here, and brk is seldom made; but glibc takes one that is
    // refused for granted, and writes where nothing is. Without mremap it copies, as musl does.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_getrandom,
    // Last steps of a thread, and of the process. The first ones are behind all of them by now: nobody
    // needs rseq, set_robust_list, sched_getaffinity or a name any more.
    libc::SYS_sigaltstack, libc::SYS_sched_yield, libc::SYS_getpid,
    libc::SYS_gettid, libc::SYS_exit, libc::SYS_exit_group,
    // With debug assertions std asks whether what it closes is open.
    #[cfg(debug_assertions)] libc::SYS_fcntl,
];

/// What a word is sent with: to a probe, to a service manager, from a signal's handler. With any other
/// flag it ends the process: MSG_FASTOPEN connects, and needs no `connect` for it.
const SEND_FLAGS: u32 = (libc::MSG_NOSIGNAL | libc::MSG_MORE | libc::MSG_DONTWAIT) as u32;

/// Allowed if the memory does not become executable; else they end the process.
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

/// linux/audit.h: the processor and its byte order, as seccomp names them.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// The program's verdicts.
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// Operations of the classic BPF machine, which has one register.
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where things stand in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// The lower half of an argument.
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}
/// Its upper half.
const fn argument_top_at(index: u32) -> u32 {
    argument_at(index) + 4
}

/// Load the architecture, compare, load the number; then one comparison a call; then the rest.
const HEAD: usize = 3;
const CHECKS: usize = HEAD + 1 + ALLOWED.len() + FATAL.len() + MAPPING.len() + 2;
/// Where the rest stands, in this order.
const REFUSE_AT: usize = CHECKS;
const MAPPING_AT: usize = REFUSE_AT + 1;
const SENDTO_AT: usize = MAPPING_AT + 2;
const ADDRESS_AT: usize = SENDTO_AT + 2;
const SHUTDOWN_AT: usize = ADDRESS_AT + 4;
const TGKILL_AT: usize = SHUTDOWN_AT + 2;
const REFUSE_TOO_AT: usize = TGKILL_AT + 2;
const ALLOW_AT: usize = REFUSE_TOO_AT + 1;
const KILL_AT: usize = ALLOW_AT + 1;
const LENGTH: usize = KILL_AT + 1;

// The longest jump there is.
const _: () = assert!(LENGTH <= u8::MAX as usize);

type Program = [sock_filter; LENGTH];

/// Everything but what only this process knows.
const PROGRAM: Program = program();

/// What a process knows of itself.
#[derive(Clone, Copy)]
struct Process {
    id: u32,
    /// It has somebody to tell, by a name: a connection would end with a manager that starts again.
    has_manager: bool,
}

/// Puts all threads under the filter.
///
/// # Errors
/// If the kernel has none, or not this kind.
pub fn apply() -> Result<(), String> {
    let filter = for_process(Process {
        id: std::process::id(),
        has_manager: super::manager().is_some(),
    });
    seccompiler::apply_filter_all_threads(&filter).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error.to_string(),
        _ => "a thread has another one".to_owned(),
    })
}

fn for_process(process: Process) -> Program {
    let mut program = PROGRAM;
    if let Some(comparison) = program.get_mut(TGKILL_AT + 1) {
        comparison.k = process.id;
    }
    if process.has_manager
        && let Some(first) = program.get_mut(ADDRESS_AT)
    {
        *first = step(RETURN, ALLOW);
    }
    program
}

#[expect(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn program() -> Program {
    let mut program = [const { step(RETURN, KILL) }; LENGTH];
    program[0] = step(LOAD, ARCHITECTURE_AT);
    // Another instruction set has other numbers.
    program[1] = jump(1, JUMP_IF_EQUAL, ARCHITECTURE, 2, KILL_AT);
    program[2] = step(LOAD, NUMBER_AT);
    let mut at = HEAD;
    // First what every answer takes: a call that is allowed whatever its arguments the kernel remembers,
    // since 5.11, and for this one it comes here each time.
    at = compare(&mut program, at, &[libc::SYS_sendto], SENDTO_AT);
    at = compare(&mut program, at, ALLOWED, ALLOW_AT);
    at = compare(&mut program, at, FATAL, KILL_AT);
    at = compare(&mut program, at, &MAPPING, MAPPING_AT);
    at = compare(&mut program, at, &[libc::SYS_shutdown], SHUTDOWN_AT);
    at = compare(&mut program, at, &[libc::SYS_tgkill], TGKILL_AT);
    assert!(at == REFUSE_AT);
    program[REFUSE_AT] = step(RETURN, REFUSE);

    let executable = libc::PROT_EXEC as u32;
    program[MAPPING_AT] = step(LOAD, argument_at(2));
    at = MAPPING_AT + 1;
    program[at] = jump(at, JUMP_IF_ANY_BIT, executable, KILL_AT, ALLOW_AT);

    at = SENDTO_AT;
    program[at] = step(LOAD, argument_at(3));
    // Of an int the kernel sees the lower half, and the other may hold anything.
    program[at + 1] = jump(at + 1, JUMP_IF_ANY_BIT, !SEND_FLAGS, KILL_AT, ADDRESS_AT);
    // A connected socket needs no address.
    at = ADDRESS_AT;
    program[at] = step(LOAD, argument_at(4));
    program[at + 1] = jump(at + 1, JUMP_IF_EQUAL, 0, at + 2, KILL_AT);
    program[at + 2] = step(LOAD, argument_top_at(4));
    program[at + 3] = jump(at + 3, JUMP_IF_EQUAL, 0, ALLOW_AT, KILL_AT);

    // The end of what we write. The other direction of a listener would make it a socket that can
    // connect.
    let write = libc::SHUT_WR as u32;
    at = SHUTDOWN_AT;
    program[at] = step(LOAD, argument_at(1));
    program[at + 1] = jump(at + 1, JUMP_IF_EQUAL, write, ALLOW_AT, REFUSE_TOO_AT);

    // abort(3) signals its own process; the number is filled in later.
    at = TGKILL_AT;
    program[at] = step(LOAD, argument_at(0));
    program[at + 1] = jump(at + 1, JUMP_IF_EQUAL, 0, ALLOW_AT, REFUSE_TOO_AT);
    program[REFUSE_TOO_AT] = step(RETURN, REFUSE);
    program[ALLOW_AT] = step(RETURN, ALLOW);
    program[KILL_AT] = step(RETURN, KILL);
    program
}

/// Sends each of `calls` to `target`; returns where it goes on for all others.
#[expect(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn compare(program: &mut Program, at: usize, calls: &[c_long], target: usize) -> usize {
    let mut index = 0;
    while index < calls.len() {
        let here = at + index;
        program[here] = jump(here, JUMP_IF_EQUAL, calls[index] as u32, target, here + 1);
        index += 1;
    }
    at + calls.len()
}

const fn step(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A jump at `here`, with its targets as they are counted from the next step.
const fn jump(here: usize, code: u16, k: u32, to: usize, else_to: usize) -> sock_filter {
    assert!(here < to && here < else_to && to < LENGTH && else_to < LENGTH);
    sock_filter {
        code,
        jt: (to - here - 1) as u8,
        jf: (else_to - here - 1) as u8,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io;

    /// It can do the most.
    const US: Process = Process {
        id: 4711,
        has_manager: true,
    };
    /// It can do the least.
    const BARE: Process = Process {
        has_manager: false,
        ..US
    };

    /// What the program says of a call, by a machine of our own.
    fn verdict(us: Process, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let program = for_process(us);
        let (mut at, mut register) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = &program[at];
            at += 1;
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
                RETURN => return *k,
                code => panic!("operation {code}"),
            }
        }
    }

    fn of(us: Process, call: c_long, arguments: [u64; 6]) -> u32 {
        verdict(us, ARCHITECTURE, call as u32, arguments)
    }

    /// Calls with a verdict for each argument.
    #[rustfmt::skip]
    const SPECIAL: &[c_long] = &[
        MAPPING[0], MAPPING[1], libc::SYS_sendto, libc::SYS_shutdown, libc::SYS_tgkill,
    ];

    #[test]
    fn every_number_has_the_verdict_of_its_list_and_what_is_in_none_is_refused() {
        let all: Vec<_> = [ALLOWED, FATAL, SPECIAL].concat();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for number in (0..2000).filter(|number| !SPECIAL.contains(number)) {
            let expected = match number {
                number if ALLOWED.contains(&number) => ALLOW,
                number if FATAL.contains(&number) => KILL,
                _ => REFUSE,
            };
            for us in [US, BARE] {
                assert_eq!(of(us, number, [0; 6]), expected, "{number}");
                // x32, which shares x86-64's architecture.
                assert_eq!(of(us, number | 0x4000_0000, [0; 6]), REFUSE, "{number}");
            }
        }
    }

    #[test]
    fn arguments_decide_where_they_have_to() {
        let executable = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let writable = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        for call in MAPPING {
            assert_eq!(of(US, call, [0, 0, writable, 0, 0, 0]), ALLOW);
            assert_eq!(of(US, call, [0, 0, executable, 0, 0, 0]), KILL);
        }
        let tgkill = |process| of(US, libc::SYS_tgkill, [process, 1, 6, 0, 0, 0]);
        assert_eq!(tgkill(US.id.into()), ALLOW);
        assert_eq!(tgkill(1), REFUSE);
        let shutdown = |how| of(US, libc::SYS_shutdown, [8, how as u64, 0, 0, 0, 0]);
        assert_eq!(shutdown(libc::SHUT_WR), ALLOW);
        assert_eq!(shutdown(libc::SHUT_RD), REFUSE);
        assert_eq!(shutdown(libc::SHUT_RDWR), REFUSE);
    }

    /// It was allowed with any, and MSG_FASTOPEN connects.
    #[test]
    fn a_word_is_sent_with_known_flags_and_to_an_address_only_if_somebody_has_one() {
        let sendto = |us, flags, address| of(us, libc::SYS_sendto, [8, 1, 1, flags, address, 16]);
        let known =
            [libc::MSG_NOSIGNAL, libc::MSG_MORE, libc::MSG_DONTWAIT].map(|flag| flag as u64);
        for us in [US, BARE] {
            assert_eq!(sendto(us, 0, 0), ALLOW);
            assert_eq!(sendto(us, known.iter().sum(), 0), ALLOW);
            // The kernel sees an int.
            assert_eq!(sendto(us, known[0] | 1 << 32, 0), ALLOW);
            for flag in (0..u32::BITS).map(|bit| 1 << bit) {
                let expected = if known.contains(&flag) { ALLOW } else { KILL };
                assert_eq!(sendto(us, flag, 0), expected, "{flag:#x}");
                assert_eq!(sendto(us, flag | known[0], 0), expected, "{flag:#x}");
            }
        }
        for address in (0..u64::BITS).map(|bit| 1 << bit) {
            assert_eq!(sendto(US, known[0], address), ALLOW, "{address:#x}");
            assert_eq!(sendto(BARE, known[0], address), KILL, "{address:#x}");
            assert_eq!(sendto(US, libc::MSG_FASTOPEN as u64, address), KILL);
        }
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
    fn another_instruction_set_is_nobody_we_know() {
        let i386 = 0x4000_0003;
        let read = libc::SYS_read as u32;
        assert_eq!(verdict(US, i386, read, [0; 6]), KILL);
    }

    /// The kernel's machine agrees. Threads of this process that are not the test's stay as they are.
    #[test]
    fn a_thread_under_the_filter_can_do_what_it_may_and_nothing_else() {
        use std::io::{Read, Write};
        let (mut near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                seccompiler::apply_filter(&for_process(BARE)).unwrap();
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

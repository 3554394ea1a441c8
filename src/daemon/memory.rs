//! What becomes of the daemon when the machine is short of memory: `--lock-memory` and
//! `--oom-score-adj`.
//!
//! Called once, by [`super::serve`], before there are threads: what they take is then locked too.

use super::Failure;
use super::log;
use super::options::Options;
use healthz::server::THREAD_STACK_BYTES;

/// Room for the stacks of two threads and a heap that grows: several times over.
#[cfg(target_os = "linux")]
const THREADS_BYTES: usize = 1024 * 1024;
/// Room for the program, its libraries and main's stack: 4 MiB were seen.
#[cfg(target_os = "linux")]
const PROGRAM_BYTES: usize = 6 * 1024 * 1024;

/// What two threads take when they begin: their stacks; from std 8 KiB each for the signal that comes
/// when a stack is full; and from glibc a heap of 132 KiB each, without which it does where the limit is
/// one of addresses. Not more than that, or memory that is enough would be refused.
const BEGIN_BYTES: usize = THREAD_STACK_BYTES + log::STACK_BYTES + 2 * (8 + 132) * 1024;

/// Whether the system gives what threads take when they begin. Without it they end in their first steps,
/// where nobody can refuse politely: std panics, and glibc aborts.
///
/// # Errors
/// If it does not; the message says what to do.
pub fn check_threads() -> Result<(), Failure> {
    try_bytes(BEGIN_BYTES).then_some(()).ok_or_else(|| {
        Failure::Run(format!(
            "the system does not give the {} KiB that threads take; raise the limit of memory (ulimit -v \
             and -d, LimitAS=, LimitDATA=)",
            BEGIN_BYTES / 1024
        ))
    })
}

/// Does what the options say. `server_bytes` is what the server will take.
///
/// # Errors
/// If the system refuses; the message says which limit or right is missing.
#[cfg(target_os = "linux")]
pub fn arrange(options: &Options, server_bytes: usize) -> Result<(), Failure> {
    if let Some(adjustment) = options.oom_score_adj {
        adjust(adjustment)?;
    }
    if options.lock_memory {
        lock(server_bytes.saturating_add(THREADS_BYTES))?;
    }
    Ok(())
}

/// As above, for systems that have no word for it.
#[cfg(not(target_os = "linux"))]
pub fn arrange(options: &Options, _server_bytes: usize) -> Result<(), Failure> {
    let asked = match options {
        Options {
            lock_memory: true, ..
        } => "--lock-memory",
        Options {
            oom_score_adj: Some(_),
            ..
        } => "--oom-score-adj",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!("{asked}: only Linux has that")))
}

/// Whether the system gives so much more, now. Nothing of it is kept.
pub fn try_bytes(bytes: usize) -> bool {
    let mut trial = Vec::<u8>::new();
    let is_given = trial.try_reserve_exact(bytes).is_ok();
    // glibc takes from its heap, which it then has to clear, what is as large as something that was
    // given back before: 120 KiB of touched pages for the server's buffers. So it sees a small one.
    trial.shrink_to(1);
    is_given
}

#[cfg(target_os = "linux")]
fn adjust(adjustment: i32) -> Result<(), Failure> {
    let written = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string());
    written.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "; to lower it takes CAP_SYS_RESOURCE",
            _ => "",
        };
        Failure::Run(format!("--oom-score-adj {adjustment}: {error}{hint}"))
    })
}

/// Keeps all memory of this process in RAM: what it has, and what it will get, of which `more_bytes`
/// are tried. Later the limit would be met by an allocation that fails, and that is the end.
#[cfg(target_os = "linux")]
fn lock(more_bytes: usize) -> Result<(), Failure> {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    use nix::sys::resource::{Resource, getrlimit};
    let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    let is_enough = try_bytes(more_bytes);
    match locked {
        Ok(()) if is_enough => Ok(()),
        // The kernel's words for too much, and for any at all.
        Ok(()) | Err(nix::Error::ENOMEM | nix::Error::EPERM) => {
            let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(limit, _)| limit / 1024);
            let needed = more_bytes.saturating_add(PROGRAM_BYTES).div_ceil(1024);
            Err(Failure::Run(format!(
                "--lock-memory: RLIMIT_MEMLOCK is {limit} KiB, and {needed} KiB are enough; raise it \
                 (ulimit -l, LimitMEMLOCK=) or give CAP_IPC_LOCK"
            )))
        }
        Err(error) => Err(super::failed("--lock-memory")(error.into())),
    }
}

//! `--lock-memory`, `--oom-score-adj`, and whether the system has enough memory to start.
//!
//! Called by [`super::serve`]. It calls [`apply`] once, before other threads start, so that their memory is locked too.

use super::Failure;
use super::log;
use super::options::Options;
use healthz::server::THREAD_STACK_BYTES;

/// For the stacks of two threads and a heap that grows; several times what was seen.
#[cfg(target_os = "linux")]
const THREADS_BYTES: usize = 1024 * 1024;
/// For the program, its libraries and the main thread's stack; 4 MiB were seen.
#[cfg(target_os = "linux")]
const PROGRAM_BYTES: usize = 6 * 1024 * 1024;

/// What two threads allocate when they start: their stacks, std's alternate signal stacks of up to 16 KiB with a guard
/// page, and 132 KiB for the heap that all threads share ([`crate::unneeded::share_heap`]): glibc adds that much when a
/// heap is full, and musl less.
const START_BYTES: usize = THREAD_STACK_BYTES + log::STACK_BYTES + 2 * (16 + 4) * 1024 + 132 * 1024;

/// Checks that the system has the memory that threads allocate when they start. Without it, std panics or
/// glibc aborts in the new thread, without a useful message.
///
/// # Errors
/// If it has not; the message says what to do.
pub fn check_threads() -> Result<(), Failure> {
    try_bytes(START_BYTES).then_some(()).ok_or_else(|| {
        Failure::Run(format!(
            "the system does not provide the {} KiB that threads need; raise the memory limit (ulimit -v \
             and -d, LimitAS=, LimitDATA=)",
            START_BYTES / 1024
        ))
    })
}

/// Applies the options. `server_bytes` is what the server will allocate.
///
/// # Errors
/// If the system refuses; the message says which limit or right is missing.
#[cfg(target_os = "linux")]
pub fn apply(options: &Options, server_bytes: usize) -> Result<(), Failure> {
    if let Some(adjustment) = options.oom_score_adj {
        adjust(adjustment)?;
    }
    if options.lock_memory {
        lock(server_bytes.saturating_add(THREADS_BYTES))?;
    }
    Ok(())
}

/// Systems other than Linux have neither option.
#[cfg(not(target_os = "linux"))]
pub fn apply(options: &Options, _server_bytes: usize) -> Result<(), Failure> {
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
    Err(Failure::Usage(format!("{asked} works only on Linux")))
}

/// Whether the system would provide this much more memory now. It is given back.
pub fn try_bytes(bytes: usize) -> bool {
    let mut trial = Vec::<u8>::new();
    let is_available = trial.try_reserve_exact(bytes).is_ok();
    // glibc raises its mmap threshold to the size of a block that is freed. Then it would take the server's
    // buffers from the heap and clear them: 120 KiB of touched pages. So only a small block is freed.
    trial.shrink_to(1);
    is_available
}

#[cfg(target_os = "linux")]
fn adjust(adjustment: i32) -> Result<(), Failure> {
    let written = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string());
    written.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "; lowering it needs CAP_SYS_RESOURCE",
            _ => "",
        };
        Failure::Run(format!("--oom-score-adj {adjustment}: {error}{hint}"))
    })
}

/// Locks the memory that this process has and will have in RAM. Allocates `more_bytes` as a trial now,
/// because a later allocation above the limit would abort the process.
#[cfg(target_os = "linux")]
fn lock(more_bytes: usize) -> Result<(), Failure> {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    use nix::sys::resource::{Resource, getrlimit};
    let locked = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    let is_enough = try_bytes(more_bytes);
    match locked {
        Ok(()) if is_enough => Ok(()),
        // ENOMEM: more than the limit. EPERM: the limit is 0.
        Ok(()) | Err(nix::Error::ENOMEM | nix::Error::EPERM) => {
            let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(limit, _)| limit / 1024);
            let needed = more_bytes.saturating_add(PROGRAM_BYTES).div_ceil(1024);
            Err(Failure::Run(format!(
                "--lock-memory: RLIMIT_MEMLOCK is {limit} KiB, and {needed} KiB are needed; raise it \
                 (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK"
            )))
        }
        Err(error) => Err(super::failed("--lock-memory")(error.into())),
    }
}

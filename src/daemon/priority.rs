//! Raises the daemon's scheduling priority, so that other processes cannot keep it from a CPU.
//!
//! Programs that connect as fast as they can fill the listener's queue while the server waits for a CPU, and
//! then the kernel drops probes too (docs/cost.md has the figures). Called by [`super::serve`], in the
//! server's thread and in the main thread; threads that start later inherit the nice value.

use super::sys;

/// The nice value that the daemon sets if it may: enough to accept faster than five such programs connect.
const NICE: i32 = -10;

/// Sets the nice value of this thread to [`NICE`] if it is 0, which means that no other one was chosen, and if the
/// process has the right to. Without the right (`CAP_SYS_NICE` or `RLIMIT_NICE`) nothing changes.
pub fn raise() {
    if sys::nice() != 0 {
        return;
    }
    if let Err(error) = sys::set_nice(NICE) {
        log::debug!("cannot set the nice value to {NICE}: {error}");
    }
}

//! Ends every process that descends from this one.
//!
//! Called by the supervisor when the worker or the server has ended, and by the worker when it ends.

use std::thread;
use std::time::{Duration, Instant};

use super::kinds::orphans;

/// A killed process ends within milliseconds, unless it waits in the kernel where it cannot be interrupted.
const DURATION_MAX: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// Kills all children. Theirs become children of this process, because it is a child subreaper, and are killed next.
pub fn kill_all() {
    let began = Instant::now();
    while let Ok(true) = orphans::kill_orphans(&[]) {
        if began.elapsed() > DURATION_MAX {
            return;
        }
        thread::sleep(PAUSE);
    }
}

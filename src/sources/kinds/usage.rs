//! What the kinds `pids` and `fds` have in common: a number in use, and a limit that holds for it.

use super::figures::{Unit, Words, excess, shortage};
use crate::sources::spec::Usage;

/// A number in use and its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub used: u64,
    pub limit: u64,
    /// Where the limit is set: `kernel.pid_max`.
    pub name: String,
}

impl Usage {
    /// The text `3.1% of 32768 (kernel.pid_max) free, needs 10%`, if `count` is out of bounds.
    pub(super) fn fault(&self, count: &Count) -> Option<String> {
        let of = &format!(" of {} ({})", count.limit, count.name);
        let words = |state| Words {
            unit: Unit::Count,
            of,
            things: of,
            state,
        };
        let free = count.limit.saturating_sub(count.used);
        shortage(free, count.limit, self.min, words("free"))
            .or_else(|| excess(count.used, count.limit, self.max, words("used")))
    }
}

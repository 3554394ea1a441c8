//! What the kinds `pids` and `fds` have in common: a number in use, and a limit that holds for it.

use super::figures::{self, Unit, Words, excess, shortage};
use crate::sources::spec::{Amount, Usage};

/// A number in use and its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub used: u64,
    pub limit: u64,
    /// Where the limit is set: `kernel.pid_max`.
    pub name: String,
}

impl Usage {
    /// Why no number in use could fail this.
    pub fn never_fails(&self) -> Option<&'static str> {
        let has_no_max = matches!(self.max, Amount::Share(1000..));
        let never = figures::is_zero(self.min) && has_no_max;
        never.then_some("min is 0 and max is 100%")
    }

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

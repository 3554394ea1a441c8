//! Stores whether an action failed the last time, so that only the first of several failures and the next success
//! are logged.
//!
//! Knows neither the action nor the log. Used by [`super::notify`] and [`super::sync`].

use std::cell::Cell;

/// A change from passing to failing, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Failed,
    Recovered,
}

/// Whether it failed the last time. It has not failed at the start.
#[derive(Debug, Default)]
pub struct Outage {
    is_failing: Cell<bool>,
}

impl Outage {
    /// Records whether it fails now. Returns what has changed, to be logged.
    pub fn update(&self, is_failing: bool) -> Option<Change> {
        match (self.is_failing.replace(is_failing), is_failing) {
            (false, true) => Some(Change::Failed),
            (true, false) => Some(Change::Recovered),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_and_the_recovery_are_changes() {
        let outage = Outage::default();
        assert_eq!(outage.update(false), None);
        for _ in 0..2 {
            assert_eq!(outage.update(true), Some(Change::Failed));
            assert_eq!(outage.update(true), None);
            assert_eq!(outage.update(false), Some(Change::Recovered));
            assert_eq!(outage.update(false), None);
        }
    }
}

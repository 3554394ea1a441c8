//! A set of listeners.
//!
//! Knows their indexes only. Used by [`super::acceptor`] and [`super::table`].

use crate::limits::LISTENERS_MAX;

const _: () = assert!(LISTENERS_MAX <= u32::BITS as usize);

/// Indexes of listeners, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListenerSet(u32);

impl ListenerSet {
    pub(super) const EMPTY: Self = ListenerSet(0);

    #[inline]
    pub(super) fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    #[inline]
    pub(super) fn remove(&mut self, index: usize) {
        self.0 &= !(1 << index);
    }

    #[inline]
    pub(super) fn contains(self, index: usize) -> bool {
        self.0 & 1 << index != 0
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self == ListenerSet::EMPTY
    }

    /// The listeners that are not in `others`.
    #[inline]
    pub(super) fn without(self, others: Self) -> Self {
        ListenerSet(self.0 & !others.0)
    }
}

/// The indexes in ascending order.
impl Iterator for ListenerSet {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let index = self.0.trailing_zeros() as usize;
        if self.is_empty() {
            return None;
        }
        self.remove(index);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_set_has_the_indexes_that_were_inserted_and_not_removed() {
        let mut set = ListenerSet::EMPTY;
        assert!(set.is_empty());
        for index in [5, 0, 15, 5, 7] {
            set.insert(index);
        }
        set.remove(7);
        set.remove(3);
        assert!(!set.is_empty());
        assert_eq!(set.collect::<Vec<_>>(), [0, 5, 15]);
        assert_eq!(
            [0, 5, 7, 15].map(|index| set.contains(index)),
            [true, true, false, true]
        );
        let mut others = ListenerSet::EMPTY;
        for index in [0, 1, 15] {
            others.insert(index);
        }
        assert_eq!(set.without(others).collect::<Vec<_>>(), [5]);
        assert_eq!(others.without(set).collect::<Vec<_>>(), [1]);
    }
}

//! Decisions of the table as functions of what it counts: which connection is evicted, how much one turn
//! does, and when failing accepts are a reason to pause and to log.
//!
//! Knows no socket and no slot. Called by [`super::table`], and by the simulation.

use core::time::Duration;

use crate::time::Instant;

/// Connections accepted from one listener in one turn, at most. Where the kernel tells again of those
/// that wait it is one, unless there is a crowd.
pub(super) const ACCEPTS_PER_TURN: usize = 64;
/// And the part of the table, as its divisor: after each such part the connections that it holds are looked
/// at again.
pub(super) const ACCEPTS_PER_TABLE: usize = 2;
/// Connections served in one turn because they wanted another; one in a crowd, where the rest wait behind
/// new connections.
pub(super) const RUNNABLES_PER_TURN: usize = 4;
/// Connections at the front of a queue among which the one to evict is chosen.
pub(super) const EVICTION_WINDOW: usize = 16;
/// Of them, so many are asked whether they have input, at most. The work of a turn has a bound.
pub(super) const EVICTION_LOOKS: usize = 8;
/// Accepts that fail in a row, each as if the fault were its connection's, before accepting is paused:
/// with so many the fault is elsewhere, and the next would fail as well.
pub(super) const ACCEPT_FAILURES: u32 = 16;
/// A trouble that is not seen for so long is over, and is logged when it comes again.
pub(super) const TROUBLE_ENDS_AFTER: Duration = Duration::from_secs(1);

/// Which process has made a connection, as the kernel says of Unix sockets (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// 0 for every process outside the server's PID namespace.
    pub(super) process: u32,
    pub(super) user: u32,
}

/// How many connections to accept from a listener in one turn. `is_armed`: the kernel tells again of those
/// that wait. One more accept(2) than there are connections is dear; but in a crowd a turn is dearer, and a
/// connection that waits may wait behind a thousand others.
#[inline]
pub(super) fn accepts_max(
    connections: usize,
    is_armed: bool,
    is_crowded: bool,
    is_last: bool,
) -> usize {
    if is_armed && !is_crowded {
        return 1;
    }
    if is_last {
        return ACCEPTS_PER_TURN;
    }
    (connections / ACCEPTS_PER_TABLE).clamp(1, ACCEPTS_PER_TURN)
}

/// How many connections that want another turn are served in one.
#[inline]
pub(super) fn runnables_max(is_crowded: bool) -> usize {
    match is_crowded {
        true => 1,
        false => RUNNABLES_PER_TURN,
    }
}

/// The order in which the connections at the front of a queue are evicted, as indexes of `owners`: those of
/// the process that has most of them first, then those of the user that has most, then the longest in the
/// queue. All whose owner is not known count as one process: the order of the queue is left if all are.
///
/// So a process that connects as fast as it can evicts its own connections, and a client that has one and
/// pauses before its request keeps it, for as long as fewer than [`EVICTION_WINDOW`] processes flood.
pub(super) fn eviction_order(owners: &[Option<Owner>]) -> [u8; EVICTION_WINDOW] {
    let mut order: [u8; EVICTION_WINDOW] = core::array::from_fn(|index| index as u8);
    if owners.iter().all(Option::is_none) {
        return order;
    }
    let mut ranks = [(0, 0); EVICTION_WINDOW];
    for (rank, owner) in ranks.iter_mut().zip(owners) {
        let of_process = owners.iter().filter(|other| *other == owner);
        let user = owner.map(|owner| owner.user);
        let of_user = owners
            .iter()
            .filter(|other| other.map(|other| other.user) == user);
        *rank = (of_process.count(), of_user.count());
    }
    order.sort_unstable_by_key(|index| {
        let rank = ranks.get(usize::from(*index)).copied().unwrap_or_default();
        (core::cmp::Reverse(rank), *index)
    });
    order
}

/// A trouble that may last, and is logged when it begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    seen: Option<Instant>,
}

impl Trouble {
    /// It is seen. Returns whether that is its beginning.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let seen = self.seen.replace(now);
        // A clock that goes back says nothing.
        seen.is_none_or(|seen| seen.saturating_add(TROUBLE_ENDS_AFTER) <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn owner(process: u32, user: u32) -> Option<Owner> {
        Some(Owner { process, user })
    }

    fn order(owners: &[Option<Owner>]) -> Vec<u8> {
        let order = eviction_order(owners).into_iter();
        order.take(owners.len()).collect()
    }

    #[test]
    fn where_no_owner_is_known_the_longest_waiting_goes_first() {
        assert_eq!(order(&[None; 5]), [0, 1, 2, 3, 4]);
        assert_eq!(order(&[None; EVICTION_WINDOW]).len(), EVICTION_WINDOW);
        assert_eq!(order(&[]), []);
    }

    #[test]
    fn the_process_that_has_most_goes_first_and_the_longest_waiting_of_it() {
        let (probe, flooder) = (owner(1, 0), owner(2, 0));
        assert_eq!(order(&[probe, flooder, flooder]), [1, 2, 0]);
        let other = owner(3, 0);
        let owners = [probe, flooder, other, other, flooder, other];
        assert_eq!(order(&owners), [2, 3, 5, 1, 4, 0]);
    }

    #[test]
    fn a_user_whose_processes_have_one_each_goes_first() {
        let owners = [owner(1, 0), owner(2, 7), owner(3, 7)];
        assert_eq!(order(&owners), [1, 2, 0]);
    }

    #[test]
    fn connections_of_unknown_owners_count_as_one_process() {
        assert_eq!(order(&[owner(1, 0), None, None]), [1, 2, 0]);
        assert_eq!(order(&[None, owner(1, 0), owner(1, 0)]), [1, 2, 0]);
    }

    #[test]
    fn a_trouble_begins_once_until_it_was_not_seen_for_a_while() {
        let mut trouble = Trouble::default();
        let at = Instant::from_millis;
        let rest = TROUBLE_ENDS_AFTER.as_millis() as u64;
        assert!(trouble.begins(at(5)));
        assert!(!trouble.begins(at(5 + rest - 1)));
        assert!(!trouble.begins(at(5 + rest + 1)));
        assert!(!trouble.begins(at(0)));
        assert!(trouble.begins(at(rest)));
    }

    #[test]
    fn one_is_accepted_a_turn_unless_there_is_a_crowd() {
        assert_eq!(accepts_max(64, true, false, false), 1);
        assert_eq!(accepts_max(64, true, true, false), 32);
        assert_eq!(accepts_max(64, false, false, false), 32);
        assert_eq!(accepts_max(1, true, true, false), 1);
        assert_eq!(accepts_max(65_535, true, true, false), ACCEPTS_PER_TURN);
        assert_eq!(accepts_max(1, false, false, true), ACCEPTS_PER_TURN);
    }
}

//! Decides which connection is evicted, how much one call of `advance` does, and when failing accepts are a reason
//! to pause and to log. Pure functions of counts and times.
//!
//! Knows no socket and no slot. Called by [`super::table`], and by the simulation.

use core::time::Duration;

use crate::time::Instant;

/// Most connections accepted from one listener before others are served. With level-triggered listeners it is one,
/// unless the table is full or the run queue is not empty.
pub(super) const ACCEPTS_MAX: usize = 64;
/// The same as a share of the table (a divisor), so that a new connection is not evicted before it was served
/// again.
pub(super) const ACCEPTS_PER_TABLE: usize = 2;
/// Connections of the run queue that are served in one call of `advance`. Only one if the table is full, so that new
/// connections do not wait.
pub(super) const RUNNABLES_MAX: usize = 4;
/// Connections at the front of a list among which the one to evict is chosen.
pub(super) const EVICTION_WINDOW: usize = 16;
/// Most of them that are examined for input, so that the work is bounded.
pub(super) const EVICTION_LOOKS: usize = 8;
/// Consecutive accepts that fail with an error of the connection before accepting is paused. After this many, the
/// cause is not the connection, and the next accept would fail as well.
pub(super) const ACCEPT_FAILURES: u32 = 16;
/// A trouble that was not seen for this long is over. When it comes again, it is logged again.
pub(super) const TROUBLE_ENDS_AFTER: Duration = Duration::from_secs(1);

/// The process that connected to a Unix socket: `SO_PEERCRED`, unix(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// 0 for every process outside of the server's PID namespace.
    pub(super) process: u32,
    pub(super) user: u32,
}

/// How many connections to accept from a listener now. `is_armed`: epoll reports it as long as connections wait.
/// An accept(2) that finds no connection is expensive for a probe; but with many waiting connections a poll for
/// each is more expensive, and a probe may wait behind a thousand others.
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
        return ACCEPTS_MAX;
    }
    (connections / ACCEPTS_PER_TABLE).clamp(1, ACCEPTS_MAX)
}

/// How many connections of the run queue to serve now.
#[inline]
pub(super) fn runnables_max(is_crowded: bool) -> usize {
    match is_crowded {
        true => 1,
        false => RUNNABLES_MAX,
    }
}

/// The order in which the connections at the front of a list are evicted, as indexes of `owners`: those of the process
/// with most of them first. Between equal processes, the user with most of them decides; between equal users, the
/// order of the list. Connections of unknown owners count as one process; if all are unknown, the order of the list
/// remains.
///
/// So a process that connects as fast as it can evicts its own connections. A client that has one, and pauses before
/// its request, keeps it while at most `EVICTION_WINDOW - 2` processes of its own user flood. Processes of one other
/// user are evicted first, however many they are.
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

/// A lasting trouble, which is logged when it begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trouble {
    seen: Option<Instant>,
}

impl Trouble {
    /// The trouble is seen at `now`. Returns whether it begins.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let seen = self.seen.replace(now);
        // If the clock goes back, it has not ended.
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
    fn without_known_owners_the_first_in_the_list_is_evicted_first() {
        assert_eq!(order(&[None; 5]), [0, 1, 2, 3, 4]);
        assert_eq!(order(&[None; EVICTION_WINDOW]).len(), EVICTION_WINDOW);
        assert_eq!(order(&[]), []);
    }

    #[test]
    fn the_process_with_most_connections_is_evicted_first_from_the_front() {
        let (probe, flooder) = (owner(1, 0), owner(2, 0));
        assert_eq!(order(&[probe, flooder, flooder]), [1, 2, 0]);
        let other = owner(3, 0);
        let owners = [probe, flooder, other, other, flooder, other];
        assert_eq!(order(&owners), [2, 3, 5, 1, 4, 0]);
    }

    #[test]
    fn a_user_with_many_processes_of_one_connection_each_is_evicted_first() {
        let owners = [owner(1, 0), owner(2, 7), owner(3, 7)];
        assert_eq!(order(&owners), [1, 2, 0]);
    }

    #[test]
    fn connections_of_unknown_owners_count_as_one_process() {
        assert_eq!(order(&[owner(1, 0), None, None]), [1, 2, 0]);
        assert_eq!(order(&[None, owner(1, 0), owner(1, 0)]), [1, 2, 0]);
    }

    #[test]
    fn a_trouble_begins_again_only_after_it_was_not_seen_for_a_while() {
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
    fn one_connection_is_accepted_at_a_time_unless_there_is_a_crowd() {
        assert_eq!(accepts_max(64, true, false, false), 1);
        assert_eq!(accepts_max(64, true, true, false), 32);
        assert_eq!(accepts_max(64, false, false, false), 32);
        assert_eq!(accepts_max(1, true, true, false), 1);
        assert_eq!(accepts_max(65_535, true, true, false), ACCEPTS_MAX);
        assert_eq!(accepts_max(1, false, false, true), ACCEPTS_MAX);
    }
}

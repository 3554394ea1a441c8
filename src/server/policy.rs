//! Decides which connection is evicted, how much one call of `advance` does, and when failing accepts are a reason
//! to pause and to log. Pure functions of counts and times.
//!
//! Knows no socket and no slot. Called by [`super::table`], [`super::acceptor`] and [`super::driver`], and by the
//! simulation, which checks that the server does what is decided here.

use core::time::Duration;

use crate::limits::Limits;
use crate::time::Instant;

/// Most connections accepted from one listener before others are served. With level-triggered listeners it is one,
/// unless the table is full or the run queue is not empty.
const ACCEPTS_MAX: usize = 64;
/// The same as a share of the table (a divisor), so that a new connection is not evicted before it was served
/// again.
const ACCEPTS_PER_TABLE: usize = 2;
/// Rounds of accepting from one listener when the server stops: as many connections as the longest queue holds by
/// default (`net.core.somaxconn`). A connection that is still in the queue when the listener closes is reset.
pub(super) const ACCEPT_ROUNDS_AT_STOP: usize = 4096 / ACCEPTS_MAX;
/// Connections of the run queue that are served in one call of `advance`. Only one if the table is full, or if more
/// connections wait to be accepted than one call accepts, so that new connections do not wait.
const RUNNABLES_MAX: usize = 4;
/// Most reads from one connection each time it is served. There is more than one, because requests that are left in the
/// buffer are answered first, and the client's end is read after its last bytes. The quantum of a connection is one
/// buffer full of requests or answers: a full buffer can hold requests that take a millisecond. The rest waits in the
/// run queue, so that new connections do not wait for it.
pub(super) const READS_MAX: usize = 4;
/// If the first read of a connection fills the buffer, or if more connections wait to be accepted, process only
/// this many bytes when it is accepted. It is more than a probe sends. The rest waits in the run queue.
const FIRST_BYTES: usize = 512;
/// The share of the table, as a divisor, that idle connections keep when others hold the rest. New connections
/// that have sent nothing yet are among the idle ones, and one of them may be a probe.
const IDLE_SHARE: usize = 2;
/// Connections at the front of a list among which the one to evict is chosen.
pub(super) const EVICTION_WINDOW: usize = 16;
/// Most of them that are examined for input, so that the work is bounded.
const EVICTION_LOOKS: usize = 8;
/// Consecutive accepts that fail with an error of the connection before accepting is paused. After this many, the
/// cause is not the connection, and the next accept would fail as well.
pub(super) const ACCEPT_FAILURES: u32 = 16;
/// A problem that was not seen for this long has ended. When it occurs again, it is logged again.
const PROBLEM_ENDS_AFTER: Duration = Duration::from_secs(1);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WaitReason {
    /// The next request.
    Idle,
    /// The rest of a body, or the client's close, after the answer.
    Drain,
    /// The rest of a request head.
    Head,
    /// The client to read answers.
    Write,
}

impl WaitReason {
    pub(super) const ALL: [WaitReason; 4] = [
        WaitReason::Idle,
        WaitReason::Drain,
        WaitReason::Head,
        WaitReason::Write,
    ];

    /// How long a connection may wait for this.
    #[inline]
    pub(super) fn time_to_live(self, limits: &Limits) -> Duration {
        match self {
            WaitReason::Idle | WaitReason::Write => limits.idle_duration,
            WaitReason::Head => limits.head_duration,
            WaitReason::Drain => limits.drain_duration,
        }
    }
}

/// The process that connected to a Unix socket: `SO_PEERCRED`, unix(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// 0 for every process outside of the server's PID namespace.
    pub(super) process: u32,
    pub(super) user: u32,
}

/// How many connections to accept from a listener now. `connections`: the size of the table. `is_armed`: epoll reports
/// the listener as long as connections wait. `is_crowded`: no slot is free, or the run queue is not empty. `is_last`:
/// the server stops, and epoll reports nothing more.
///
/// An accept(2) that finds no connection is expensive for a probe; but with many waiting connections a poll for
/// each is more expensive, and a probe may wait behind a thousand others.
#[inline]
pub(super) fn accepts_max(
    connections: usize,
    is_armed: bool,
    is_crowded: bool,
    is_last: bool,
) -> usize {
    if is_last {
        return ACCEPTS_MAX;
    }
    if is_armed && !is_crowded {
        return 1;
    }
    (connections / ACCEPTS_PER_TABLE).clamp(1, ACCEPTS_MAX)
}

/// How many connections of the run queue to serve now. `is_full_or_flooded`: no slot is free, or more connections wait
/// to be accepted than one call accepts.
#[inline]
pub(super) fn runnables_max(is_full_or_flooded: bool) -> usize {
    match is_full_or_flooded {
        true => 1,
        false => RUNNABLES_MAX,
    }
}

/// How many bytes of a first read to process when the connection is accepted. `is_filled`: the read filled the buffer.
/// `is_flooded`: more connections wait to be accepted than one call accepts.
#[inline]
pub(super) fn first_bytes_max(is_filled: bool, is_flooded: bool) -> usize {
    match is_filled || is_flooded {
        true => FIRST_BYTES,
        false => usize::MAX,
    }
}

/// The number of idle connections that a table of this size keeps when others hold the rest.
pub(super) fn idle_reserve(connections: usize) -> usize {
    connections / IDLE_SHARE
}

/// The list from which a connection is evicted. Idle connections come first, unless others hold most of the table. Of
/// the others, those whose clients do not read their answers come first, then those whose request was answered, and
/// those in the middle of a head last. `count_in`: the number of connections that wait for something.
pub(super) fn eviction_list(
    connections: usize,
    count_in: impl Fn(WaitReason) -> usize,
) -> Option<WaitReason> {
    let is_idle_scarce = count_in(WaitReason::Idle) <= idle_reserve(connections);
    let order = if is_idle_scarce {
        [
            WaitReason::Write,
            WaitReason::Drain,
            WaitReason::Head,
            WaitReason::Idle,
        ]
    } else {
        WaitReason::ALL
    };
    order.into_iter().find(|reason| count_in(*reason) > 0)
}

/// How many of `idle` connections are examined for input before one is evicted: at most half of them, and at most
/// [`EVICTION_LOOKS`]. Otherwise new connections, which have sent nothing yet, would be evicted instead of those that
/// send requests all the time.
pub(super) fn eviction_looks_max(idle: usize) -> usize {
    idle.div_ceil(2).min(EVICTION_LOOKS)
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

/// A problem that lasts. It is logged when it begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Problem {
    seen: Option<Instant>,
}

impl Problem {
    /// The problem is seen at `now`. Returns true if it begins.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let seen = self.seen.replace(now);
        // If the clock goes back, the problem has not ended.
        seen.is_none_or(|seen| seen.saturating_add(PROBLEM_ENDS_AFTER) <= now)
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
        assert!(order(&[]).is_empty());
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
    fn a_problem_begins_again_only_after_it_was_not_seen_for_a_second() {
        let mut problem = Problem::default();
        let at = Instant::from_millis;
        let rest = PROBLEM_ENDS_AFTER.as_millis() as u64;
        assert!(problem.begins(at(5)));
        assert!(!problem.begins(at(5 + rest - 1)));
        assert!(!problem.begins(at(5 + rest + 1)));
        assert!(!problem.begins(at(0)));
        assert!(problem.begins(at(rest)));
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

    /// What is evicted from a table of `connections` until none of `members` is left.
    fn evicted(connections: usize, members: &[WaitReason]) -> Vec<WaitReason> {
        let mut left = members.to_vec();
        core::iter::from_fn(|| {
            let count_in = |reason| left.iter().filter(|one| **one == reason).count();
            let victim = eviction_list(connections, count_in)?;
            let at = left.iter().position(|one| *one == victim)?;
            Some(left.remove(at))
        })
        .collect()
    }

    #[test]
    fn idle_connections_are_evicted_first_until_half_of_the_table_is_left_to_them() {
        use WaitReason::{Drain, Head, Idle, Write};
        // Of seven slots, three are kept for idle connections.
        let members = [Idle, Drain, Head, Write, Idle, Idle, Idle];
        let order = [Idle, Write, Drain, Head, Idle, Idle, Idle];
        assert_eq!(evicted(7, &members), order);
    }

    #[test]
    fn a_new_connection_is_evicted_last_if_others_hold_most_of_the_table() {
        use WaitReason::{Drain, Head, Idle, Write};
        let members = [Idle, Head, Head, Drain, Write, Write, Head, Head];
        let order = [Write, Write, Drain, Head, Head, Head, Head, Idle];
        assert_eq!(evicted(8, &members), order);
    }

    #[test]
    fn half_of_the_idle_connections_but_at_most_eight_are_examined() {
        assert_eq!([0, 1, 2, 3, 15].map(eviction_looks_max), [0, 1, 1, 2, 8]);
        assert_eq!(eviction_looks_max(65_535), 8);
    }

    #[test]
    fn a_first_read_is_cut_if_it_fills_the_buffer_or_more_connections_wait() {
        assert_eq!(first_bytes_max(false, false), usize::MAX);
        for (is_filled, is_flooded) in [(true, false), (false, true), (true, true)] {
            assert_eq!(first_bytes_max(is_filled, is_flooded), 512);
        }
    }

    #[test]
    fn a_server_that_stops_accepts_as_many_connections_as_the_longest_queue_holds() {
        let round = accepts_max(1, true, false, true);
        assert_eq!(ACCEPT_ROUNDS_AT_STOP * round, 4096);
    }

    #[test]
    fn one_connection_of_the_run_queue_is_served_at_a_time_if_the_table_is_full() {
        assert_eq!((runnables_max(true), runnables_max(false)), (1, 4));
    }
}

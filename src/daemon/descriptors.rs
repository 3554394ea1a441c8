//! Room for descriptors: every connection takes one, and the limit that a shell or a service manager
//! gives is often 1,024. Were there fewer than connections, the table would never be full and evict
//! nobody: whoever opened them all and said nothing would keep everybody else out.
//!
//! Called once, by [`super::serve`], before the server is made.

use healthz::limits::LISTENERS_MAX;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Descriptors that are no connections: standard streams, listeners, what the threads wait with, and
/// the newcomer for whom another is evicted. 13 were seen with one listener.
const OTHERS: usize = 16 + LISTENERS_MAX;

/// Raises the limit for `wanted` connections if it has to be, as far as that may be, and returns how
/// many of them there is room for, but at least one.
pub fn fit(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let needed = wanted.saturating_add(OTHERS);
    let needed = rlim_t::try_from(needed).unwrap_or(rlim_t::MAX);
    if needed <= soft {
        return wanted;
    }
    let most = needed.min(hard);
    let given = match setrlimit(Resource::RLIMIT_NOFILE, most, hard) {
        Ok(()) => most,
        Err(_) => soft,
    };
    let room = room(usize::try_from(given).unwrap_or(usize::MAX), wanted);
    if room < wanted {
        log::warn!(
            "RLIMIT_NOFILE is {given}: room for {room} connections at once, not for {wanted}; raise it \
             (ulimit -n, LimitNOFILE=)"
        );
    }
    room
}

fn room(limit: usize, wanted: usize) -> usize {
    limit.saturating_sub(OTHERS).clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_one_connection_at_least_and_for_no_more_than_are_wanted() {
        for (limit, expected) in [
            (0, 1),
            (OTHERS + 1, 1),
            (OTHERS + 5, 5),
            (OTHERS + 64, 64),
            (usize::MAX, 64),
        ] {
            assert_eq!(room(limit, 64), expected, "{limit}");
        }
    }
}

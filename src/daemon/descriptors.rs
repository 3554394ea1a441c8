//! Raises the limit of open descriptors for the number of connections in the options.
//!
//! Each connection takes a descriptor, and the limit of a shell or service manager is often 1,024. With
//! fewer descriptors than slots, the table would never be full. A new connection would then wait until accept(2) has
//! failed and a pause is over, and only then be accepted in place of another. Called once, by [`super::serve`], before
//! the server is made.

use healthz::limits::LISTENERS_MAX;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Descriptors that are not connections: standard streams, listeners, epoll instances and others. The new
/// connection for which another is evicted also counts. 19 were seen with one listener and a configured check.
const OTHERS: usize = 19 + LISTENERS_MAX;

/// Raises the limit for `wanted` connections if necessary and possible. Returns how many connections fit
/// into it, at least one.
pub fn raise_limit(wanted: usize) -> usize {
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
            "RLIMIT_NOFILE is {given}: enough for {room} connections, not for {wanted}; raise it \
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
    fn the_result_is_from_one_to_the_wanted_connections() {
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

//! What a server counts.
//!
//! Counted by [`super::driver`] and [`super::table`]; read by hosts.

/// What a server has counted since it was made. All but `open` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted, without those in `non_loopback`.
    pub accepted: u64,
    /// Requests answered, including refused ones.
    pub answered: u64,
    /// Requests refused because of their head (4xx, 501, 505), or because it did not arrive in time (408).
    pub refused: u64,
    /// Connections closed because the table was full or the process had no free descriptor.
    pub evicted: u64,
    /// Connections closed because a deadline passed.
    pub expired: u64,
    /// Connections that ended with an error of the socket, such as a reset by the client.
    pub failed: u64,
    /// Connections that had failed before they were accepted: reset by the client, refused by a firewall, or lost
    /// with the network (accept(2)).
    pub aborted: u64,
    /// Connections to a loopback address from another address, perhaps of another machine. They are closed unread;
    /// see [`Listeners::allow_remote`].
    pub non_loopback: u64,
    /// How often accepting was paused because the system was short of something, or accept(2) kept failing. Pauses
    /// that follow each other for the same reason count once.
    pub accept_pauses: u64,
    /// Connections open now.
    pub open: u64,
}

//! Counts the situations that occurred, so that a simulation in which nothing goes wrong fails.
//!
//! Knows nothing of how a situation arises. [`world`](super::world), the sockets and the checks record
//! situations; the test in `mod.rs` checks the sum.

use std::fmt;
use std::vec::Vec;

use crate::server::Counters;

macro_rules! situations {
    ($($kind:ident,)*) => {
        /// A situation that must occur in a long simulation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Situation {
            $($kind,)*
        }

        impl Situation {
            const ALL: &'static [Situation] = &[$(Situation::$kind,)*];
        }
    };
}

situations! {
    // accept(2) fails.
    AcceptEmfile,
    AcceptEnfile,
    AcceptEnobufs,
    AcceptEnomem,
    AcceptEconnaborted,
    AcceptEintr,
    AcceptEproto,
    AcceptEperm,
    AcceptEinval,
    // A listener is shut down, with or without queued connections; then the server closes it.
    EndedTcp,
    EndedTcpInQueue,
    EndedUnix,
    EndedUnixInQueue,
    EndedInPause,
    EndedClosed,
    EndedClosedBetweenOthers,
    EndedClosedLast,
    LateListenerEvent,
    ConnectedAfterEnd,
    // A stream fails.
    ShortRead,
    ShortSend,
    FullSend,
    ReadReset,
    SendBrokenPipe,
    RegisterFailed,
    RegisterWritingFailed,
    // The server evicts, times out or stops.
    EvictedForDescriptors,
    EvictedUnread,
    EvictedWithInput,
    EvictedInHead,
    LongAnswerBlocked,
    EvictedForLongAnswer,
    Late408,
    MaximumTime,
    ClockSetBack,
    HeartbeatExpired,
    StoppedWhileBusy,
    StoppedWithEnded,
    ConnectedAfterStop,
}

impl Situation {
    /// The situation of an accept(2) that failed with `code`.
    pub(super) fn of_accept(code: i32) -> Self {
        match code {
            libc::EMFILE => Situation::AcceptEmfile,
            libc::ENFILE => Situation::AcceptEnfile,
            libc::ENOBUFS => Situation::AcceptEnobufs,
            libc::ENOMEM => Situation::AcceptEnomem,
            libc::ECONNABORTED => Situation::AcceptEconnaborted,
            libc::EINTR => Situation::AcceptEintr,
            libc::EPROTO => Situation::AcceptEproto,
            libc::EPERM => Situation::AcceptEperm,
            _ => panic!("accept(2) does not fail with {code} here"),
        }
    }
}

/// How often each situation occurred.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Coverage([u64; Situation::ALL.len()]);

/// Arrays of this length have no `Default`.
impl Default for Coverage {
    fn default() -> Self {
        Coverage([0; Situation::ALL.len()])
    }
}

impl Coverage {
    pub(super) fn record(&mut self, kind: Situation) {
        self.0[kind as usize] += 1;
    }

    fn add(&mut self, other: &Coverage) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    fn counts(&self) -> impl Iterator<Item = (Situation, u64)> {
        Situation::ALL.iter().copied().zip(self.0)
    }

    /// Every situation must have occurred, or the simulation does not test it.
    pub(super) fn assert_complete(&self) {
        let missing = self.counts().filter(|(_, count)| *count == 0);
        let missing: Vec<Situation> = missing.map(|(kind, _)| kind).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counts()).finish()
    }
}

/// Result of an episode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) clients: u64,
    /// Most clients at once.
    pub(super) peak: usize,
    /// Answers that clients received.
    pub(super) answers: u64,
    pub(super) evicted: u64,
    pub(super) expired: u64,
    pub(super) failed: u64,
    pub(super) accept_pauses: u64,
    /// Most calls of one advance for each connection served, in hundredths.
    pub(super) calls: usize,
    pub(super) coverage: Coverage,
}

impl Outcome {
    pub(super) fn count(&mut self, counters: Counters) {
        self.evicted = counters.evicted;
        self.expired = counters.expired;
        self.failed = counters.failed;
        self.accept_pauses = counters.accept_pauses;
    }

    pub(super) fn add(&mut self, other: &Outcome) {
        self.clients += other.clients;
        self.peak = self.peak.max(other.peak);
        self.answers += other.answers;
        self.evicted += other.evicted;
        self.expired += other.expired;
        self.failed += other.failed;
        self.accept_pauses += other.accept_pauses;
        self.calls = self.calls.max(other.calls);
        self.coverage.add(&other.coverage);
    }
}

#[test]
#[should_panic(expected = "never happened: [MaximumTime]")]
fn a_situation_that_never_occurred_is_reported() {
    let mut coverage = Coverage::default();
    for kind in Situation::ALL
        .iter()
        .filter(|kind| **kind != Situation::MaximumTime)
    {
        coverage.record(*kind);
    }
    coverage.assert_complete();
}

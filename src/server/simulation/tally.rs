//! What has happened: a simulation in which nothing goes wrong would pass as well.

use std::fmt;
use std::vec::Vec;

use crate::server::Counters;

macro_rules! kinds {
    ($($kind:ident,)*) => {
        /// What may happen, and has to now and then.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $($kind,)*
        }

        impl Kind {
            const ALL: &'static [Kind] = &[$(Kind::$kind,)*];
        }
    };
}

kinds! {
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
    // A listener is shut down, with or without somebody in its queue; and it is given up.
    EndedTcp,
    EndedTcpInQueue,
    EndedUnix,
    EndedUnixInQueue,
    EndedInPause,
    GivenUp,
    GivenUpInTheMiddle,
    GivenUpLast,
    LateListenerEvent,
    RefusedAfterEnd,
    // A stream does.
    ShortRead,
    ShortSend,
    FullSend,
    ReadReset,
    SendBrokenPipe,
    RegisterFailed,
    RegisterWritingFailed,
    // The server has to do something about it.
    EvictedForDescriptors,
    EvictedUnheard,
    EvictedAsking,
    EvictedInHead,
    Late408,
    EndOfTime,
    ClockSetBack,
    HeartbeatExpired,
    StoppedWhileBusy,
    StoppedWithEnded,
    RefusedAfterStop,
}

impl Kind {
    /// accept(2) has failed with `code`.
    pub(super) fn of_accept(code: i32) -> Self {
        match code {
            libc::EMFILE => Kind::AcceptEmfile,
            libc::ENFILE => Kind::AcceptEnfile,
            libc::ENOBUFS => Kind::AcceptEnobufs,
            libc::ENOMEM => Kind::AcceptEnomem,
            libc::ECONNABORTED => Kind::AcceptEconnaborted,
            libc::EINTR => Kind::AcceptEintr,
            libc::EPROTO => Kind::AcceptEproto,
            libc::EPERM => Kind::AcceptEperm,
            _ => panic!("accept(2) does not fail with {code} here"),
        }
    }
}

/// How often each kind of thing has happened.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally([u64; Kind::ALL.len()]);

/// Longer arrays have none of their own.
impl Default for Tally {
    fn default() -> Self {
        Tally([0; Kind::ALL.len()])
    }
}

impl Tally {
    pub(super) fn note(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    fn add(&mut self, other: &Tally) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    fn counts(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.iter().copied().zip(self.0)
    }

    /// Everything has happened.
    pub(super) fn assert_full(&self) {
        let missing = self.counts().filter(|(_, count)| *count == 0);
        let missing: Vec<Kind> = missing.map(|(kind, _)| kind).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counts()).finish()
    }
}

/// What an episode came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) clients: u64,
    /// Clients at once, at most.
    pub(super) peak: usize,
    /// Answers that were read by those who came to an end.
    pub(super) answers: u64,
    pub(super) evicted: u64,
    pub(super) expired: u64,
    pub(super) failed: u64,
    pub(super) accept_pauses: u64,
    /// The most calls that a turn has made for each connection it had reason to look at, in hundredths.
    pub(super) calls: usize,
    pub(super) tally: Tally,
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
        self.tally.add(&other.tally);
    }
}

#[test]
#[should_panic(expected = "never happened: [EndOfTime]")]
fn what_never_happens_is_missed() {
    let mut tally = Tally::default();
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::EndOfTime) {
        tally.note(*kind);
    }
    tally.assert_full();
}

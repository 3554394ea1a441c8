//! The traits by which the worker's event loop runs the kinds of checks.
//!
//! A check is attempted in one of three ways:
//! - *Blocking* kinds read files and file systems, which can hang in the kernel. A thread of
//!   [`super::jobs`] calls their `attempt`, which returns an [`Outcome`].
//! - *Connecting* kinds (tcp, unix, http, exec) start an [`Attempt`], which the loop drives by readiness. The path
//!   of a Unix socket can be on a file system that hangs, so a thread connects, and the attempt gets the socket.
//! - *Listening* kinds (heartbeat, pressure) are open all the time, as a [`Listener`].
//!
//! Knows no schedule: the worker decides when an attempt starts and when it has taken too long. Dropping an
//! attempt cancels it.

use std::io;

use healthz::Instant;
use mio::{Registry, Token};

use super::kinds::heartbeat::{self, LastBeat};
use super::kinds::stream::{Opened, Opener};
use super::spec::Outcome;

/// Tokens that one check may register: its base and the next ones.
pub const TOKENS_PER_CHECK: usize = 8;

/// One attempt that waits for readiness. Dropping it closes its sockets and ends its programs.
pub trait Attempt {
    /// Continues after readiness of `token`. Returns the outcome when it is known. Bounded work; never blocks.
    /// Spurious calls do nothing.
    fn ready(&mut self, registry: &Registry, token: Token) -> Option<Outcome>;

    /// Continues with what the [`Opener`] has returned. Bounded work; never blocks.
    fn opened(&mut self, registry: &Registry, opened: Opened) -> Option<Outcome> {
        let _ = (registry, opened);
        None
    }

    /// The target, with which the reasons of its outcome begin: `127.0.0.1:80`.
    fn target(&self) -> &str;

    /// What it waits for, for the reason of an attempt that takes too long: `connecting`, or `connected, waiting
    /// for the response head`.
    fn waits_for(&self) -> String;
}

/// The start of an attempt.
pub enum Started {
    /// It waits for readiness.
    Waiting(Box<dyn Attempt>),
    /// It waits for [`Attempt::opened`]. A thread that may block must call the [`Opener`].
    Opening(Box<dyn Attempt>, Opener),
    /// The outcome is known at once.
    Done(Outcome),
}

/// A socket or file that is open as long as its check is configured.
pub trait Listener {
    /// Handles readiness of `token` at `now`: takes everything that has arrived, at most a bounded number, and
    /// returns true if there may be more.
    fn ready(&mut self, registry: &Registry, token: Token, now: Instant) -> io::Result<bool>;

    /// The outcome at `now`, after everything that has arrived was taken.
    fn outcome(&mut self, now: Instant) -> Outcome;

    /// When the outcome changes if nothing arrives; `None` if it does not.
    fn deadline(&self) -> Option<Instant>;

    /// A warning for the log, for example about refused messages. At most one a minute.
    fn take_warning(&mut self, now: Instant) -> Option<String> {
        let _ = now;
        None
    }

    /// Whether nothing can arrive any more, so that it has to be opened again.
    fn is_lost(&self) -> bool {
        false
    }

    /// The last beat of a program that is ready.
    fn last_beat(&self) -> Option<LastBeat> {
        None
    }

    /// A worker before this one has ended while the check passed: continues with the last beat that it received.
    fn continue_from(&mut self, last: LastBeat) {
        let _ = last;
    }

    /// Its socket and state, if another listener can continue with them
    /// ([`kinds::heartbeat::resume`](super::kinds::heartbeat::resume)).
    fn take_state(self: Box<Self>) -> Option<heartbeat::Handover> {
        None
    }
}

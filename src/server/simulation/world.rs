//! A small model of the kernel. It reports each event once, injects errors, and checks each call of the
//! server. [`sockets`](super::sockets) are the server's handles to it.
//!
//! As on Linux: a stream is reported when new input or room arrives, and again when its registration is
//! made or changed. An armed listener is reported while connections are queued. Closing a socket with
//! unread input discards the bytes that were held back until the FIN.
//!
//! Knows no table. Called by the simulated sockets and by the episode (`mod.rs`).

use std::collections::VecDeque;
use std::vec::Vec;

use fastrand::Rng;
use mio::Token;

use super::client::{Client, Expected};
use super::coverage::{Coverage, Situation};
use super::ended_listeners::ListenerEnd;
use super::mutations::Mutation;
use crate::limits::Limits;
use crate::server::policy::{self, WaitReason};
use crate::time::Instant;

/// A connection: the server's end and the client's end.
pub(super) struct Socket {
    pub(super) to_server: VecDeque<u8>,
    pub(super) client_ended: bool,
    pub(super) client_reset: bool,
    /// Bytes that the client has not read.
    pub(super) to_client: usize,
    pub(super) capacity: usize,
    /// Bytes of an answer that were not accepted; the server must send the same bytes again.
    pub(super) unsent: Vec<u8>,
    pub(super) is_sent_408: bool,
    /// Among them is an answer that the shared buffer has no room for.
    pub(super) has_long_unsent: bool,
    /// When the client last made room, or sending was first blocked; and the same as a sequence number.
    pub(super) blocked_at: Instant,
    pub(super) blocked_sequence: u64,
    /// `/healthz` passed when the answer was written.
    passed: bool,
    /// A send was short; the server waits for an event that there is room.
    pub(super) is_full: bool,
    /// Bytes held back until the FIN.
    pub(super) corked: usize,
    pub(super) server_ended: bool,
    pub(super) server_closed: bool,
    pub(super) token: Option<Token>,
    pub(super) is_writing: bool,
    pub(super) pending: Option<Pending>,
    /// An error was injected here: this client need not be answered.
    pub(super) had_fault: bool,
    /// A read or send was cut short, so that the connection stayed in the table and could be evicted.
    pub(super) was_cut_short: bool,
    /// When it was accepted.
    pub(super) accepted_at: Option<Instant>,
    /// Bytes read by the server, and whether the first read left some for a later advance to parse.
    pub(super) read: u64,
    has_unparsed_input: bool,
    /// The first read was longer than a flooded server parses at once: when its state changed is unknown.
    pub(super) is_place_uncertain: bool,
    /// When the first byte of its last head was read.
    head_began_at: Instant,
    pub(super) place: Place,
    /// It was an eviction candidate and was skipped because it had unread input.
    pub(super) was_skipped: bool,
    /// Sequence number of its last activity.
    pub(super) sequence: u64,
    /// The last advance that had a reason to serve it.
    reason_in: u64,
    /// Connections queued before it at its listener, and advances without faults that it has waited.
    queued_ahead: usize,
    advances: usize,
    pub(super) client: Client,
}

impl Socket {
    /// Whether some of its bytes were read.
    pub(super) fn has_been_read(&self) -> bool {
        self.read > 0
    }
}

/// What the server waits for on a connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// `None` if it cannot be known.
    pub(super) queue: Option<WaitReason>,
    /// Distinguishes the same state before and after an answer.
    answers: usize,
    pub(super) sequence: u64,
}

/// Contents of an event not yet delivered.
#[derive(Clone, Copy, Default)]
pub(super) struct Pending {
    is_read_closed: bool,
}

/// One listening socket.
#[derive(Default)]
pub(super) struct ListenerState {
    pub(super) backlog: VecDeque<usize>,
    pub(super) token: Option<Token>,
    pub(super) is_level: bool,
    pub(super) is_pending: bool,
    pub(super) is_closed: bool,
    pub(super) end: Option<ListenerEnd>,
    /// It serves `/livez` only.
    pub(super) is_restricted: bool,
    /// The last accept(2) returned EAGAIN.
    pub(super) found_empty: bool,
    /// Calls of accept(2) since the advance began, and the most allowed.
    pub(super) accepts: usize,
    pub(super) accepts_max: usize,
}

/// All simulated state outside the server.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) mutation: Mutation,
    pub(super) sockets: Vec<Socket>,
    pub(super) listeners: Vec<ListenerState>,
    pending: VecDeque<usize>,
    /// Whether listening sockets can be reported again and again.
    pub(super) can_arm: bool,
    /// The error that accept(2) fails with.
    pub(super) accept_error: Option<i32>,
    /// accept(2) fails with EMFILE only if this many streams are held, and with any other error always.
    pub(super) descriptors: usize,
    /// Of 256 calls, this many fail.
    pub(super) fault_rate: u8,
    /// Calls since the advance began, without accept(2), and the reasons to serve a connection.
    pub(super) calls: usize,
    pub(super) reasons: usize,
    advances: u64,
    pub(super) is_advancing: bool,
    last_sequence: u64,
    /// Eviction candidates skipped in a row because they had unread input.
    pub(super) skipped_candidates: Vec<usize>,
    /// Streams that the server holds, in accept order, and the number accepted so far.
    pub(super) held: Vec<usize>,
    pub(super) accepted: u64,
    /// When accept(2) last failed with `accept_error`.
    pub(super) accept_failed_at: Instant,
    /// The last call was an accept(2) that failed with `accept_error`. A stream that is dropped next was evicted for
    /// its descriptor.
    pub(super) has_accept_failed: bool,
    /// A connection was evicted in this advance for its descriptor, and none was accepted since.
    pub(super) has_made_room: bool,
    /// The last registration of a stream failed.
    pub(super) is_unwatched: bool,
    /// The time given to the server, and whether `/healthz` passes at that time.
    pub(super) now: Instant,
    pub(super) passes: bool,
    pub(super) is_stopping: bool,
    /// The server's configuration.
    pub(super) connections: usize,
    pub(super) limits: Limits,
    /// Room for an answer in the shared buffer.
    pub(super) response_bytes: usize,
    pub(super) coverage: Coverage,
}

/// An event as the server sees it.
pub(super) struct Event {
    pub(super) token: Token,
    /// The connection, or `None` for a listener.
    pub(super) id: Option<usize>,
    pub(super) is_read_closed: bool,
}

impl World {
    /// A world for a server with this many listeners and connection slots.
    pub(super) fn new(
        mut rng: Rng,
        mutation: Mutation,
        listeners: usize,
        connections: usize,
        limits: Limits,
    ) -> Self {
        World {
            can_arm: rng.bool(),
            listeners: (0..listeners)
                .map(|_| ListenerState {
                    is_restricted: rng.u8(..4) == 0,
                    ..ListenerState::default()
                })
                .collect(),
            rng,
            mutation,
            sockets: Vec::new(),
            pending: VecDeque::new(),
            accept_error: None,
            descriptors: 0,
            fault_rate: 0,
            calls: 0,
            reasons: 0,
            advances: 0,
            is_advancing: false,
            last_sequence: 0,
            skipped_candidates: Vec::new(),
            held: Vec::new(),
            accepted: 0,
            accept_failed_at: Instant::ZERO,
            has_accept_failed: false,
            has_made_room: false,
            is_unwatched: false,
            now: Instant::ZERO,
            passes: true,
            is_stopping: false,
            connections,
            limits,
            response_bytes: usize::MAX,
            coverage: Coverage::default(),
        }
    }

    pub(super) fn connect(&mut self, client: Client) -> usize {
        let id = self.sockets.len();
        // The send buffer has room for one answer, unless that is long. Otherwise only the answers to many requests,
        // if the client does not read them, fill it.
        let capacity = 1 << self.rng.u32(10..18);
        self.sockets.push(Socket {
            to_server: VecDeque::new(),
            client_ended: false,
            client_reset: false,
            to_client: 0,
            capacity,
            unsent: Vec::new(),
            is_sent_408: false,
            has_long_unsent: false,
            blocked_at: Instant::ZERO,
            blocked_sequence: 0,
            passed: false,
            is_full: false,
            corked: 0,
            server_ended: false,
            server_closed: false,
            token: None,
            is_writing: false,
            pending: None,
            had_fault: false,
            was_cut_short: false,
            accepted_at: None,
            read: 0,
            has_unparsed_input: false,
            is_place_uncertain: false,
            head_began_at: Instant::ZERO,
            place: Place::default(),
            was_skipped: false,
            sequence: 0,
            reason_in: 0,
            queued_ahead: 0,
            advances: 0,
            client,
        });
        let at = self.rng.usize(..self.listeners.len());
        let listener = &mut self.listeners[at];
        self.sockets[id].queued_ahead = listener.backlog.len();
        self.sockets[id].client.gets_only_live = listener.is_restricted;
        if listener.is_closed || listener.end.is_some() {
            self.coverage.record(match self.is_stopping {
                true => Situation::ConnectedAfterStop,
                false => Situation::ConnectedAfterEnd,
            });
            self.reset_client(id);
        } else {
            listener.backlog.push_back(id);
            listener.is_pending = true;
        }
        id
    }

    /// Queues an event: the client has sent, ended its side or reset.
    pub(super) fn notify(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        if socket.token.is_none() || socket.server_closed {
            return;
        }
        if self.mutation == Mutation::LoseEvents && self.rng.u8(..) == 0 {
            return;
        }
        let is_read_closed = socket.client_ended || socket.client_reset;
        match &mut socket.pending {
            Some(pending) => pending.is_read_closed |= is_read_closed,
            None => {
                socket.pending = Some(Pending { is_read_closed });
                self.pending.push_back(id);
            }
        }
    }

    /// The client reads up to `count` bytes.
    pub(super) fn drain(&mut self, id: usize, count: usize) {
        let socket = &mut self.sockets[id];
        socket.to_client -= count.min(socket.to_client);
        if core::mem::take(&mut socket.is_full) && socket.is_writing {
            self.notify(id);
        }
    }

    /// The events that epoll_wait(2) returns.
    pub(super) fn events(&mut self, count_max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for listener in &mut self.listeners {
            let is_level = listener.is_level && listener.is_ready();
            let Some(token) = listener.token else {
                continue;
            };
            let is_reported = core::mem::take(&mut listener.is_pending) || is_level;
            if is_reported && !listener.is_closed {
                let is_end_hidden = self.mutation == Mutation::HideListenerEnds;
                events.push(Event::of(listener, token, is_end_hidden));
            }
        }
        while events.len() < count_max {
            let Some(id) = self.pending.pop_front() else {
                break;
            };
            let socket = &mut self.sockets[id];
            if let (Some(pending), Some(token)) = (socket.pending.take(), socket.token) {
                events.push(Event {
                    token,
                    id: Some(id),
                    is_read_closed: pending.is_read_closed,
                });
            }
        }
        events
    }

    /// True if an event of this socket is queued, or there is nothing to report.
    pub(super) fn is_notified_or_idle(&self, id: usize) -> bool {
        let socket = &self.sockets[id];
        let has_input = !socket.to_server.is_empty() || socket.client_ended || socket.client_reset;
        socket.server_closed || socket.pending.is_some() || !has_input
    }

    /// True if the server waits for the client to read.
    pub(super) fn is_blocked(&self, id: usize) -> bool {
        self.sockets[id].is_full
    }

    /// True if listener `index` has queued connections or has ended, and no event will report it.
    pub(super) fn is_missed(&self, index: usize) -> bool {
        let listener = &self.listeners[index];
        !listener.is_closed && listener.is_ready() && !listener.is_level && !listener.is_pending
    }

    /// True if the server must call accept(2) again without an event.
    pub(super) fn may_accept(&self) -> bool {
        self.listeners
            .iter()
            .any(|listener| !(listener.is_closed || listener.is_level || listener.found_empty))
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.listeners
            .iter()
            .any(|listener| !listener.is_closed && !listener.backlog.is_empty())
    }

    /// True if no fault is injected.
    pub(super) fn has_no_faults(&self) -> bool {
        self.accept_error.is_none() && self.fault_rate == 0
    }

    /// Each advance without faults must accept at least one connection from each listener, so that no
    /// connection waits for more advances than there were connections queued before it.
    pub(super) fn count_waiting(&mut self) {
        for listener in &self.listeners {
            for id in &listener.backlog {
                let Socket {
                    queued_ahead,
                    advances,
                    ..
                } = &mut self.sockets[*id];
                *advances += 1;
                assert!(
                    advances <= queued_ahead,
                    "{id} waits longer than its queue position"
                );
            }
        }
    }

    /// An advance begins. It may accept `accepts_max` connections from a listener when the listener is
    /// reported, and again unless the listener will be reported again.
    pub(super) fn begin_advance(&mut self, accepts_max: usize, is_paused: bool) {
        self.advances += 1;
        self.is_advancing = true;
        self.calls = 0;
        self.reasons = 0;
        self.has_accept_failed = false;
        self.has_made_room = false;
        for listener in &mut self.listeners {
            // Once in `Table::handle`, once in the advance itself.
            let is_notified_again = listener.is_level || is_paused;
            let again = if is_notified_again { 0 } else { accepts_max };
            listener.accepts = 0;
            listener.accepts_max = accepts_max + again;
        }
    }

    /// Adds a reason to serve a connection in this advance.
    pub(super) fn give_reason(&mut self, id: usize) {
        self.reasons += 1;
        self.sockets[id].reason_in = self.advances;
    }

    /// Records a call of the server on a connection. It must have a reason, so that an advance stays short.
    pub(super) fn record_call(&mut self, id: usize) {
        self.calls += 1;
        self.has_accept_failed = false;
        let socket = &mut self.sockets[id];
        assert!(
            !self.is_advancing || socket.reason_in == self.advances,
            "{id} is served without a reason"
        );
        // A read that returns nothing does not make a silent connection active.
        if socket.has_been_read() {
            self.mark_active(id);
        }
    }

    pub(super) fn mark_active(&mut self, id: usize) {
        self.last_sequence += 1;
        self.sockets[id].sequence = self.last_sequence;
    }

    /// The server has read `size` bytes; a long first read is perhaps not parsed yet.
    pub(super) fn on_read(&mut self, id: usize, size: usize) {
        let socket = &mut self.sockets[id];
        let start = socket.client.start(socket.read + size as u64);
        if size > 0 && socket.read <= start {
            socket.head_began_at = self.now;
        }
        socket.read += size as u64;
        // The server may be flooded; that the buffer was filled makes no difference then.
        let parsed_max = policy::first_bytes_max(false, true);
        socket.has_unparsed_input = size > parsed_max && socket.token.is_none();
        socket.is_place_uncertain |= socket.has_unparsed_input;
        self.find_place(id);
    }

    fn find_place(&mut self, id: usize) {
        let socket = &self.sockets[id];
        let queue = match (socket.unsent.is_empty(), socket.has_unparsed_input) {
            (false, _) => Some(WaitReason::Write),
            (true, true) => None,
            (true, false) => socket.client.place(socket.read),
        };
        let answers = socket.client.answers;
        if (queue, answers) == (socket.place.queue, socket.place.answers) {
            return;
        }
        self.last_sequence += 1;
        self.sockets[id].place = Place {
            queue,
            answers,
            sequence: self.last_sequence,
        };
    }

    /// The server sends. A new answer must match the health now; unsent bytes must be sent again
    /// unchanged, or the client would receive a corrupt answer.
    pub(super) fn on_send_attempt(&mut self, id: usize, bytes: &[u8]) {
        let socket = &mut self.sockets[id];
        socket.is_sent_408 = bytes.starts_with(b"HTTP/1.1 408");
        if socket.unsent.is_empty() {
            socket.passed = self.passes;
        } else {
            assert!(socket.unsent == bytes, "{id} is sent different bytes");
        }
    }

    /// The client receives the first `size` of `bytes`.
    pub(super) fn deliver(&mut self, id: usize, bytes: &[u8], size: usize) {
        let is_status_inverted = self.mutation == Mutation::InvertStatus && self.rng.u8(..) == 0;
        let socket = &mut self.sockets[id];
        if !socket.unsent.is_empty() || size < bytes.len() {
            self.last_sequence += 1;
            if socket.unsent.is_empty() || size > 0 {
                socket.blocked_at = self.now;
                socket.blocked_sequence = self.last_sequence;
            }
        }
        socket.has_long_unsent |= bytes.len() > self.response_bytes;
        socket.has_long_unsent &= size < bytes.len();
        if socket.has_long_unsent {
            self.coverage.record(Situation::LongAnswerBlocked);
        }
        socket.unsent = bytes[size..].to_vec();
        if self.mutation == Mutation::CorruptUnsent {
            socket.unsent.reverse();
        }
        let expected = Expected {
            passes: socket.passed,
            has_unread: !socket.to_server.is_empty(),
            is_status_inverted,
        };
        // After the clock was set back, the time of the next head counts from then, if it was read with this request.
        socket.head_began_at = socket.head_began_at.min(self.now);
        socket.client.receive(&bytes[..size], expected);
        if core::mem::take(&mut socket.client.is_timed_out) {
            let end = socket
                .head_began_at
                .saturating_add(self.limits.head_duration);
            assert!(end <= self.now, "{id} got a 408 too early");
            self.coverage.record(Situation::Late408);
        }
        self.find_place(id);
    }

    pub(super) fn is_faulty(&mut self) -> bool {
        self.rng.u8(..) < self.fault_rate
    }
}

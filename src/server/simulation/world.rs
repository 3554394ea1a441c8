//! A kernel in a few lines, which tells of every event once, is short of everything now and then, and
//! checks what the server does to it. [`sockets`](super::sockets) are what the server holds of it.
//!
//! As on Linux: a stream is reported when something new becomes readable or writable, and again when
//! its registration is made or changed; a listening socket that is armed is reported as long as
//! connections wait; closing a socket with unread input throws away what was held back for the FIN.

use std::collections::VecDeque;
use std::vec::Vec;

use fastrand::Rng;
use mio::Token;

use super::client::{Client, Truth};
use super::ends::End;
use super::sabotage::Sabotage;
use super::tally::{Kind, Tally};
use crate::limits::Limits;
use crate::server::slots::WaitReason;
use crate::time::Instant;

/// Of a first read that fills the buffer, so many bytes are looked at before others have their turn.
const FIRST_BYTES: usize = 512;

/// One side is the server's, the other is `client`.
pub(super) struct Socket {
    pub(super) to_server: VecDeque<u8>,
    pub(super) client_ended: bool,
    pub(super) client_reset: bool,
    /// Bytes on their way to the client, which it has not read.
    pub(super) to_client: usize,
    pub(super) capacity: usize,
    /// Of what the server offered, what was not taken: it will be offered again as it is.
    pub(super) untaken: Vec<u8>,
    /// `/healthz` passed when it was written.
    passed: bool,
    /// The server was told that there is no room, and waits to be told that there is.
    pub(super) is_full: bool,
    /// Held back until the FIN.
    pub(super) corked: usize,
    pub(super) server_ended: bool,
    pub(super) server_closed: bool,
    pub(super) token: Option<Token>,
    pub(super) is_writing: bool,
    pub(super) pending: Option<Pending>,
    /// An error was injected here: nothing is owed to this client.
    pub(super) is_spoilt: bool,
    /// A read or send was cut short here, so that it was in the table and could be evicted.
    pub(super) is_delayed: bool,
    /// When it was accepted.
    pub(super) accepted_at: Option<Instant>,
    /// So many of its bytes were read, and a first read left it to a later turn to look at them all.
    pub(super) read: u64,
    is_behind: bool,
    /// Its first read was longer than a flooded server looks at: when it came to its place is not known.
    pub(super) is_unsure: bool,
    /// When the first byte of its last head was.
    begun_at: Instant,
    pub(super) place: Place,
    /// It was to be evicted, and had something to say.
    pub(super) is_passed_over: bool,
    /// When something was done about it last, as a number that grows with everything that is done.
    pub(super) moment: u64,
    /// The last turn in which there was a reason to.
    reason_in: u64,
    /// Those who waited at its listener when it came, and turns of a well server that it has waited.
    ahead: usize,
    turns: usize,
    pub(super) client: Client,
}

impl Socket {
    /// Whether some of its bytes were read.
    pub(super) fn is_heard(&self) -> bool {
        self.read > 0
    }
}

/// What the server has to wait for on a connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// Unless that cannot be known.
    pub(super) queue: Option<WaitReason>,
    /// It may have come back there with an answer in between.
    answers: usize,
    pub(super) moment: u64,
}

/// What an event will say.
#[derive(Clone, Copy, Default)]
pub(super) struct Pending {
    is_read_closed: bool,
}

/// One listening socket.
#[derive(Default)]
pub(super) struct Listening {
    pub(super) backlog: VecDeque<usize>,
    pub(super) token: Option<Token>,
    pub(super) is_level: bool,
    pub(super) is_pending: bool,
    pub(super) is_closed: bool,
    pub(super) end: Option<End>,
    /// The last accept(2) said that nobody waits.
    pub(super) is_empty: bool,
    /// accept(2)s since the turn began, and as many as it may be.
    pub(super) accepts: usize,
    pub(super) accepts_max: usize,
}

/// Everything outside the server.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) sabotage: Sabotage,
    pub(super) sockets: Vec<Socket>,
    pub(super) listening: Vec<Listening>,
    pending: VecDeque<usize>,
    /// Whether listening sockets can be reported again and again.
    pub(super) can_arm: bool,
    /// What accept(2) fails with.
    pub(super) shortage: Option<i32>,
    /// With EMFILE it fails if so many streams are held; with anything else, always.
    pub(super) descriptors: usize,
    /// Out of 256 calls, so many fail in one way or other.
    pub(super) fault_rate: u8,
    /// Calls since the turn began but for accept(2), and reasons that there were to do something about
    /// a connection.
    pub(super) calls: usize,
    pub(super) reasons: usize,
    turns: u64,
    pub(super) is_turn: bool,
    moments: u64,
    /// Connections that were to be evicted in a row and had something to say.
    pub(super) passed_over: Vec<usize>,
    /// Streams that the server holds, as they were accepted, and how many it ever accepted.
    pub(super) held: Vec<usize>,
    pub(super) accepted: u64,
    /// When accept(2) last failed for want of something.
    pub(super) refused_at: Instant,
    /// The last call was an accept(2) for which there was no descriptor.
    pub(super) is_out_of_descriptors: bool,
    /// A connection was closed in this turn because of it, and none was accepted since.
    pub(super) has_made_room: bool,
    /// The last registration of a stream failed.
    pub(super) is_unwatched: bool,
    /// What the server is told that it is, and what `/healthz` has to say now.
    pub(super) now: Instant,
    pub(super) passes: bool,
    pub(super) is_stopping: bool,
    /// As the server was made.
    pub(super) connections: usize,
    pub(super) limits: Limits,
    pub(super) tally: Tally,
}

/// An event as the server sees it.
pub(super) struct Event {
    pub(super) token: Token,
    /// Whose, unless it is a listener's.
    pub(super) id: Option<usize>,
    pub(super) is_read_closed: bool,
}

impl World {
    /// For a server of so many listeners and connections, with these limits.
    pub(super) fn new(
        mut rng: Rng,
        sabotage: Sabotage,
        listeners: usize,
        connections: usize,
        limits: Limits,
    ) -> Self {
        World {
            can_arm: rng.bool(),
            rng,
            sabotage,
            sockets: Vec::new(),
            listening: (0..listeners).map(|_| Listening::default()).collect(),
            pending: VecDeque::new(),
            shortage: None,
            descriptors: 0,
            fault_rate: 0,
            calls: 0,
            reasons: 0,
            turns: 0,
            is_turn: false,
            moments: 0,
            passed_over: Vec::new(),
            held: Vec::new(),
            accepted: 0,
            refused_at: Instant::ZERO,
            is_out_of_descriptors: false,
            has_made_room: false,
            is_unwatched: false,
            now: Instant::ZERO,
            passes: true,
            is_stopping: false,
            connections,
            limits,
            tally: Tally::default(),
        }
    }

    pub(super) fn connect(&mut self, client: Client) -> usize {
        let id = self.sockets.len();
        // The kernel's send buffer holds an answer; only who asks for many and reads none fills it.
        let capacity = 1 << self.rng.u32(10..18);
        self.sockets.push(Socket {
            to_server: VecDeque::new(),
            client_ended: false,
            client_reset: false,
            to_client: 0,
            capacity,
            untaken: Vec::new(),
            passed: false,
            is_full: false,
            corked: 0,
            server_ended: false,
            server_closed: false,
            token: None,
            is_writing: false,
            pending: None,
            is_spoilt: false,
            is_delayed: false,
            accepted_at: None,
            read: 0,
            is_behind: false,
            is_unsure: false,
            begun_at: Instant::ZERO,
            place: Place::default(),
            is_passed_over: false,
            moment: 0,
            reason_in: 0,
            ahead: 0,
            turns: 0,
            client,
        });
        let at = self.rng.usize(..self.listening.len());
        let listening = &mut self.listening[at];
        self.sockets[id].ahead = listening.backlog.len();
        if listening.is_closed || listening.end.is_some() {
            self.tally.note(match self.is_stopping {
                true => Kind::RefusedAfterStop,
                false => Kind::RefusedAfterEnd,
            });
            self.refuse(id);
        } else {
            listening.backlog.push_back(id);
            listening.is_pending = true;
        }
        id
    }

    /// The client sends, ends or resets: the server is told.
    pub(super) fn tell(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        if socket.token.is_none() || socket.server_closed {
            return;
        }
        if self.sabotage == Sabotage::LoseEvents && self.rng.u8(..) == 0 {
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
            self.tell(id);
        }
    }

    /// What epoll_wait(2) returns.
    pub(super) fn events(&mut self, count_max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for listening in &mut self.listening {
            let is_level = listening.is_level && listening.is_ready();
            if let Some(token) = listening.token
                && (core::mem::take(&mut listening.is_pending) || is_level)
                && !listening.is_closed
            {
                let is_end_hidden = self.sabotage == Sabotage::HideEnds;
                events.push(Event::of(listening, token, is_end_hidden));
            }
        }
        while events.len() < count_max
            && let Some(id) = self.pending.pop_front()
        {
            let socket = &mut self.sockets[id];
            if let Some(pending) = socket.pending.take()
                && let Some(token) = socket.token
            {
                events.push(Event {
                    token,
                    id: Some(id),
                    is_read_closed: pending.is_read_closed,
                });
            }
        }
        events
    }

    /// Whether the server will be told of this socket, or has nothing to be told.
    pub(super) fn is_told_or_idle(&self, id: usize) -> bool {
        let socket = &self.sockets[id];
        let has_input = !socket.to_server.is_empty() || socket.client_ended || socket.client_reset;
        socket.server_closed || socket.pending.is_some() || !has_input
    }

    /// Whether the server waits for the client to read.
    pub(super) fn is_blocked(&self, id: usize) -> bool {
        self.sockets[id].is_full
    }

    /// Whether connections wait at listener `index`, or it has ended, and nobody will tell the server.
    pub(super) fn is_forgotten(&self, index: usize) -> bool {
        let listening = &self.listening[index];
        !listening.is_closed && listening.is_ready() && !listening.is_level && !listening.is_pending
    }

    /// Whether the server may find somebody at a listener of which it will not be told.
    pub(super) fn is_accepting(&self) -> bool {
        self.listening
            .iter()
            .any(|listening| !(listening.is_closed || listening.is_level || listening.is_empty))
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.listening
            .iter()
            .any(|listening| !listening.is_closed && !listening.backlog.is_empty())
    }

    /// Whether nothing is refused to the server.
    pub(super) fn is_well(&self) -> bool {
        self.shortage.is_none() && self.fault_rate == 0
    }

    /// A turn of a server that is well is over, and has taken at least one who waited at each of its
    /// listeners: nobody waits for more turns than there were clients ahead of it.
    pub(super) fn wait_a_turn(&mut self) {
        for listening in &self.listening {
            for id in &listening.backlog {
                let Socket { ahead, turns, .. } = &mut self.sockets[*id];
                *turns += 1;
                assert!(turns <= ahead, "{id} waits longer than its place in line");
            }
        }
    }

    /// A turn begins, in which so many may be accepted from a listener at once: when it is told of, and
    /// once more unless the server will be told again.
    pub(super) fn begin_turn(&mut self, accepts_share: usize, is_paused: bool) {
        self.turns += 1;
        self.is_turn = true;
        self.calls = 0;
        self.reasons = 0;
        self.is_out_of_descriptors = false;
        self.has_made_room = false;
        for listening in &mut self.listening {
            // In `handle`, and in `turn`.
            let is_told_again = listening.is_level || is_paused;
            let again = if is_told_again { 0 } else { accepts_share };
            listening.accepts = 0;
            listening.accepts_max = accepts_share + again;
        }
    }

    /// Whatever is done about a connection in this turn has a reason, or one more.
    pub(super) fn give_reason(&mut self, id: usize) {
        self.reasons += 1;
        self.sockets[id].reason_in = self.turns;
    }

    /// The server does something about a connection.
    pub(super) fn touch(&mut self, id: usize) {
        self.calls += 1;
        self.is_out_of_descriptors = false;
        let socket = &mut self.sockets[id];
        assert!(
            !self.is_turn || socket.reason_in == self.turns,
            "{id} is looked at out of its turn"
        );
        // Who has said nothing is where it was, however often it is asked.
        if socket.is_heard() {
            self.mark(id);
        }
    }

    pub(super) fn mark(&mut self, id: usize) {
        self.moments += 1;
        self.sockets[id].moment = self.moments;
    }

    /// The server has read so much; a whole bufferful is perhaps not looked at yet if it came first.
    pub(super) fn is_read(&mut self, id: usize, size: usize) {
        let socket = &mut self.sockets[id];
        let start = socket.client.start(socket.read + size as u64);
        if size > 0 && socket.read <= start {
            socket.begun_at = self.now;
        }
        socket.read += size as u64;
        // In a flood, or if the buffer was full.
        socket.is_behind = size > FIRST_BYTES && socket.token.is_none();
        socket.is_unsure |= socket.is_behind;
        self.find_place(id);
    }

    fn find_place(&mut self, id: usize) {
        let socket = &self.sockets[id];
        let queue = match (socket.untaken.is_empty(), socket.is_behind) {
            (false, _) => Some(WaitReason::Write),
            (true, true) => None,
            (true, false) => socket.client.place(socket.read),
        };
        let answers = socket.client.answers;
        if (queue, answers) == (socket.place.queue, socket.place.answers) {
            return;
        }
        self.moments += 1;
        self.sockets[id].place = Place {
            queue,
            answers,
            moment: self.moments,
        };
    }

    /// Answers are offered. New ones have to say what is so now; what was not taken is offered again.
    pub(super) fn is_offered(&mut self, id: usize, bytes: &[u8]) {
        let socket = &mut self.sockets[id];
        if socket.untaken.is_empty() {
            socket.passed = self.passes;
        } else {
            assert!(socket.untaken == bytes, "{id} is offered another answer");
        }
    }

    /// The client is told the first `size` of `bytes`.
    pub(super) fn take(&mut self, id: usize, bytes: &[u8], size: usize) {
        let is_lying = self.sabotage == Sabotage::Lie && self.rng.u8(..) == 0;
        let socket = &mut self.sockets[id];
        socket.untaken = bytes[size..].to_vec();
        if self.sabotage == Sabotage::MixAnswers {
            socket.untaken.reverse();
        }
        let truth = Truth {
            passes: socket.passed,
            has_unread: !socket.to_server.is_empty(),
            is_lying,
        };
        socket.client.is_told(&bytes[..size], truth);
        if core::mem::take(&mut socket.client.is_timed_out) {
            let end = socket.begun_at.saturating_add(self.limits.head_duration);
            assert!(end <= self.now, "{id} is told too early that it is late");
            self.tally.note(Kind::Late408);
        }
        self.find_place(id);
    }

    pub(super) fn is_faulty(&mut self) -> bool {
        self.rng.u8(..) < self.fault_rate
    }
}

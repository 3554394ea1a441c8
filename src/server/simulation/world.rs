//! Sockets that do not exist: a kernel in a few lines, which tells of every event once, is short of
//! everything now and then, and checks what the server does to it.
//!
//! As on Linux: a stream is reported when something new becomes readable or writable, and again when
//! its registration is made or changed; a listening socket that is armed is reported as long as
//! connections wait; closing a socket with unread input throws away what was held back for the FIN.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::vec::Vec;

use fastrand::Rng;
use mio::Token;

use super::client::Client;
use crate::server::socket::{ListenSocket, StreamSocket};

/// What the kernel is asked to get wrong, for the tests that show that it would be seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    /// A stream that becomes readable is not always reported.
    LoseEvents,
    /// Of those who wait to be accepted one is told of late.
    HideArrivals,
    /// The FIN does not release what was held back for it.
    LoseAnswers,
    /// A wrong health is answered once in a while.
    Lie,
}

/// One side is the server's, the other is `client`.
pub(super) struct Socket {
    pub(super) to_server: VecDeque<u8>,
    pub(super) client_ended: bool,
    pub(super) client_reset: bool,
    /// Bytes on their way to the client, which it has not read.
    pub(super) to_client: usize,
    capacity: usize,
    /// The server was told that there is no room, and waits to be told that there is.
    is_full: bool,
    /// Held back until the FIN.
    corked: usize,
    server_ended: bool,
    pub(super) server_closed: bool,
    token: Option<Token>,
    is_writing: bool,
    pending: Option<Pending>,
    /// An error was injected here: nothing is owed to this client.
    pub(super) is_spoilt: bool,
    /// A read or send was cut short here, so that it was in the table and could be evicted.
    pub(super) is_delayed: bool,
    pub(super) is_accepted: bool,
    /// Those who waited at its listener when it came, and turns of a well server that it has waited.
    ahead: usize,
    turns: usize,
    pub(super) client: Client,
}

/// What an event will say.
#[derive(Clone, Copy, Default)]
struct Pending {
    is_read_closed: bool,
}

/// One listening socket.
#[derive(Default)]
struct Listening {
    backlog: VecDeque<usize>,
    token: Option<Token>,
    is_level: bool,
    is_pending: bool,
    is_closed: bool,
}

/// Everything outside the server.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) sabotage: Sabotage,
    pub(super) sockets: Vec<Socket>,
    listening: Vec<Listening>,
    pending: VecDeque<usize>,
    /// Whether listening sockets can be reported again and again.
    can_arm: bool,
    /// What accept(2) fails with.
    pub(super) shortage: Option<i32>,
    /// With EMFILE it fails if so many streams are held; with anything else, always.
    pub(super) descriptors: usize,
    /// Out of 256 calls, so many fail in one way or other.
    pub(super) fault_rate: u8,
    /// Calls since the turn began.
    pub(super) calls: usize,
    /// Streams that the server holds, and all that it ever accepted.
    pub(super) held: usize,
    pub(super) accepted: u64,
    /// `/healthz` as it was, turn by turn, as far as it changed; the last is the present.
    pub(super) healths: Vec<bool>,
}

/// An event as the server sees it.
pub(super) struct Event {
    pub(super) token: Token,
    pub(super) is_read_closed: bool,
}

impl World {
    pub(super) fn new(mut rng: Rng, sabotage: Sabotage, listeners: usize) -> Self {
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
            held: 0,
            accepted: 0,
            healths: std::vec![true],
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
            is_full: false,
            corked: 0,
            server_ended: false,
            server_closed: false,
            token: None,
            is_writing: false,
            pending: None,
            is_spoilt: false,
            is_delayed: false,
            is_accepted: false,
            ahead: 0,
            turns: 0,
            client,
        });
        let at = self.rng.usize(..self.listening.len());
        let listening = &mut self.listening[at];
        self.sockets[id].ahead = listening.backlog.len();
        if listening.is_closed {
            // Refused.
            self.sockets[id].server_closed = true;
            self.sockets[id].client_reset = true;
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
            let is_level = listening.is_level && !listening.backlog.is_empty();
            if let Some(token) = listening.token
                && (core::mem::take(&mut listening.is_pending) || is_level)
                && !listening.is_closed
            {
                events.push(Event {
                    token,
                    is_read_closed: false,
                });
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

    /// Whether connections wait at listener `index` of which nobody will tell the server.
    pub(super) fn is_forgotten(&self, index: usize) -> bool {
        let listening = &self.listening[index];
        !listening.is_closed
            && !listening.backlog.is_empty()
            && !listening.is_level
            && !listening.is_pending
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

    fn is_faulty(&mut self) -> bool {
        self.rng.u8(..) < self.fault_rate
    }
}

/// The world as its sockets share it.
pub(super) type Shared = Rc<RefCell<World>>;

pub(super) struct SimulatedListener {
    pub(super) world: Shared,
    pub(super) index: usize,
}

impl SimulatedListener {
    fn with<R>(&self, ask: impl FnOnce(&mut Listening) -> R) -> R {
        let mut world = self.world.borrow_mut();
        world.calls += 1;
        ask(&mut world.listening[self.index])
    }
}

impl ListenSocket for SimulatedListener {
    type Stream = SimulatedStream;

    fn accept(&self) -> io::Result<SimulatedStream> {
        let mut world = self.world.borrow_mut();
        world.calls += 1;
        // Before it is looked whether anybody waits, as in the kernel.
        if let Some(code) = world.shortage
            && (code != libc::EMFILE || world.held >= world.descriptors)
        {
            return Err(io::Error::from_raw_os_error(code));
        }
        let is_hidden = world.sabotage == Sabotage::HideArrivals
            && world.listening[self.index].is_level
            && world.rng.u8(..) < 64;
        if is_hidden || world.listening[self.index].backlog.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if world.is_faulty() {
            let codes = [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EPERM];
            let code = world.rng.choice(codes).unwrap();
            if code != libc::EINTR
                && let Some(id) = world.listening[self.index].backlog.pop_front()
            {
                world.sockets[id].server_closed = true;
                world.sockets[id].is_spoilt = true;
            }
            // Edge-triggered, the next one is there without another event; so it is here.
            return Err(io::Error::from_raw_os_error(code));
        }
        let Some(id) = world.listening[self.index].backlog.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        world.held += 1;
        world.accepted += 1;
        world.sockets[id].is_accepted = true;
        Ok(SimulatedStream {
            world: self.world.clone(),
            id,
        })
    }

    fn register(&mut self, _: &(), token: Token) -> io::Result<()> {
        self.with(|listening| {
            listening.token = Some(token);
            listening.is_pending = !listening.backlog.is_empty();
        });
        Ok(())
    }

    fn arm(&self, _: &(), _: Token) -> bool {
        let can = self.world.borrow().can_arm;
        self.with(|listening| listening.is_level = can);
        can
    }

    fn disarm(&mut self, _: &(), _: Token) -> io::Result<()> {
        self.with(|listening| {
            listening.is_level = false;
            listening.is_pending = !listening.backlog.is_empty();
        });
        Ok(())
    }

    fn deregister(&mut self, _: &()) -> io::Result<()> {
        self.with(|listening| listening.token = None);
        Ok(())
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        let listening = &mut world.listening[self.index];
        listening.is_closed = true;
        let refused: Vec<usize> = listening.backlog.drain(..).collect();
        for id in refused {
            world.sockets[id].server_closed = true;
            world.sockets[id].is_spoilt = true;
        }
    }
}

pub(super) struct SimulatedStream {
    world: Shared,
    pub(super) id: usize,
}

impl SimulatedStream {
    /// The world, and one call more.
    fn call(&self) -> RefMut<'_, World> {
        let mut world = self.world.borrow_mut();
        world.calls += 1;
        world
    }
}

impl StreamSocket for SimulatedStream {
    type Registry = ();

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.call();
        let is_faulty = world.is_faulty();
        let socket = &mut world.sockets[self.id];
        if socket.client_reset || (is_faulty && socket.token.is_some()) {
            socket.is_spoilt = true;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if socket.to_server.is_empty() {
            return match socket.client_ended {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let mut size = buffer.len().min(socket.to_server.len());
        if is_faulty {
            // The rest arrives just now.
            world.sockets[self.id].is_delayed = true;
            size = world.rng.usize(1..=size);
        }
        let socket = &mut world.sockets[self.id];
        for (to, from) in buffer.iter_mut().zip(socket.to_server.drain(..size)) {
            *to = from;
        }
        if is_faulty {
            world.tell(self.id);
        }
        Ok(size)
    }

    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        let mut world = self.call();
        let is_faulty = world.is_faulty();
        let socket = &mut world.sockets[self.id];
        assert!(!socket.server_ended, "something is sent behind the end");
        assert!(!bytes.is_empty(), "nothing is sent");
        if socket.client_reset {
            socket.is_spoilt = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut size = bytes.len();
        if size > socket.capacity - socket.to_client.min(socket.capacity) || is_faulty {
            size = size.min(socket.capacity - socket.to_client.min(socket.capacity));
            socket.is_full = true;
            if is_faulty {
                socket.is_delayed = true;
                size = world.rng.usize(..=size);
                // The client makes room just now, or when it reads next.
                if world.rng.bool() {
                    world.drain(self.id, 0);
                }
            }
        }
        let is_lying = world.sabotage == Sabotage::Lie && world.rng.u8(..) == 0;
        let World {
            sockets, healths, ..
        } = &mut *world;
        let socket = &mut sockets[self.id];
        let has_unread = !socket.to_server.is_empty();
        socket
            .client
            .is_told(&bytes[..size], healths, has_unread, is_lying);
        if size == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if is_last && size == bytes.len() {
            socket.corked = size;
        } else {
            socket.to_client += size;
        }
        Ok(size)
    }

    fn shutdown(&mut self) {
        let mut world = self.call();
        let is_sabotaged = world.sabotage == Sabotage::LoseAnswers && world.rng.u8(..) < 16;
        let socket = &mut world.sockets[self.id];
        if is_sabotaged {
            return;
        }
        socket.to_client += core::mem::take(&mut socket.corked);
        socket.server_ended = true;
    }

    fn register(&mut self, _: &(), token: Token) -> io::Result<()> {
        let mut world = self.call();
        if world.is_faulty() {
            world.sockets[self.id].is_spoilt = true;
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        world.sockets[self.id].token = Some(token);
        if !world.is_told_or_idle(self.id) {
            world.tell(self.id);
        }
        Ok(())
    }

    fn register_writing(&mut self, _: &(), _: Token) -> io::Result<()> {
        let mut world = self.call();
        if world.is_faulty() {
            world.sockets[self.id].is_spoilt = true;
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let socket = &mut world.sockets[self.id];
        socket.is_writing = true;
        if !socket.is_full || !socket.to_server.is_empty() || socket.client_ended {
            world.tell(self.id);
        }
        Ok(())
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        let mut world = self.call();
        world.held -= 1;
        let socket = &mut world.sockets[self.id];
        socket.token = None;
        socket.pending = None;
        socket.server_closed = true;
        let is_reset = !socket.to_server.is_empty();
        assert!(
            socket.corked == 0 || !is_reset || socket.client_reset || std::thread::panicking(),
            "an answer is lost in a reset"
        );
        socket.to_client += core::mem::take(&mut socket.corked);
    }
}

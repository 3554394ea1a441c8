//! Sockets that do not exist: what the server holds of the [`world`](super::world), and what goes
//! wrong with it.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::io;
use std::rc::Rc;

use mio::Token;

use super::ends::End;
use super::sabotage::Sabotage;
use super::tally::Kind;
use super::world::{Listening, World};
use crate::server::policy::Owner;
use crate::server::socket::{ListenSocket, StreamSocket};

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
        world.is_out_of_descriptors = false;
        world.listening[self.index].accepts += 1;
        world.listening[self.index].is_empty = false;
        // Before it is looked whether anybody waits, as in the kernel.
        if let Some(code) = world.shortage
            && (code != libc::EMFILE || world.held.len() >= world.descriptors)
        {
            world.tally.note(Kind::of_accept(code));
            world.is_out_of_descriptors = true;
            world.refused_at = world.now;
            return Err(io::Error::from_raw_os_error(code));
        }
        let end = world.listening[self.index].end;
        if end == Some(End::Tcp) {
            world.tally.note(Kind::AcceptEinval);
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let is_hidden = match world.sabotage {
            Sabotage::HideArrivals => {
                let is_level = world.listening[self.index].is_level;
                is_level && end.is_none() && !world.is_stopping && world.rng.u8(..) < 64
            }
            Sabotage::HideLast => end.is_some() && world.listening[self.index].backlog.len() == 1,
            _ => false,
        };
        if is_hidden || world.listening[self.index].backlog.is_empty() {
            world.listening[self.index].is_empty = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if world.is_faulty() {
            let codes = [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EPERM];
            let code = world.rng.choice(codes).unwrap();
            world.tally.note(Kind::of_accept(code));
            if code != libc::EINTR
                && let Some(id) = world.listening[self.index].backlog.pop_front()
            {
                world.refuse(id);
            }
            // Edge-triggered, the next one is there without another event; so it is here.
            return Err(io::Error::from_raw_os_error(code));
        }
        let Some(id) = world.listening[self.index].backlog.pop_front() else {
            world.listening[self.index].is_empty = true;
            return Err(io::ErrorKind::WouldBlock.into());
        };
        world.held.push(id);
        world.accepted += 1;
        world.has_made_room = false;
        world.sockets[id].accepted_at = Some(world.now);
        world.mark(id);
        world.give_reason(id);
        Ok(SimulatedStream {
            world: self.world.clone(),
            id,
        })
    }

    fn register(&mut self, _: &(), token: Token) -> io::Result<()> {
        self.with(|listening| {
            listening.token = Some(token);
            listening.is_pending = listening.is_ready();
        });
        Ok(())
    }

    fn arm(&self, _: &(), token: Token) -> bool {
        let can = self.world.borrow().can_arm;
        self.with(|listening| {
            listening.is_level = can;
            if can {
                listening.token = Some(token);
            }
        });
        can
    }

    fn disarm(&mut self, _: &(), token: Token) -> io::Result<()> {
        self.with(|listening| {
            listening.token = Some(token);
            listening.is_level = false;
            listening.is_pending = listening.is_ready();
        });
        Ok(())
    }

    fn deregister(&mut self, _: &()) -> io::Result<()> {
        self.with(|listening| listening.token = None);
        Ok(())
    }

    fn name(&self) -> impl fmt::Display {
        "a simulated address"
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.world.borrow_mut().close(self.index);
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
        world.touch(self.id);
        world
    }
}

impl SimulatedStream {
    /// How much of so many bytes the kernel takes.
    fn room(&self, world: &mut World, wanted: usize, is_faulty: bool) -> usize {
        let socket = &mut world.sockets[self.id];
        let room = socket.capacity - socket.to_client.min(socket.capacity);
        if wanted <= room && !is_faulty {
            return wanted;
        }
        let size = wanted.min(room);
        socket.is_full = true;
        if !is_faulty {
            world.tally.note(Kind::FullSend);
            return size;
        }
        socket.is_delayed = true;
        world.tally.note(Kind::ShortSend);
        let size = world.rng.usize(..=size);
        // The client makes room just now, or when it reads next.
        if world.rng.bool() {
            world.drain(self.id, 0);
        }
        size
    }
}

impl StreamSocket for SimulatedStream {
    type Registry = ();

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.call();
        let is_faulty = world.is_faulty();
        let is_broken = is_faulty && world.rng.bool();
        let socket = &mut world.sockets[self.id];
        if socket.client_reset || (is_broken && socket.token.is_some()) {
            socket.is_spoilt = true;
            world.tally.note(Kind::ReadReset);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if socket.to_server.is_empty() {
            let is_ended = socket.client_ended;
            world.is_read(self.id, 0);
            return match is_ended {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let mut size = buffer.len().min(socket.to_server.len());
        if is_faulty {
            // The rest arrives just now.
            world.sockets[self.id].is_delayed = true;
            size = world.rng.usize(1..=size);
            world.tally.note(Kind::ShortRead);
        }
        let socket = &mut world.sockets[self.id];
        for (to, from) in buffer.iter_mut().zip(socket.to_server.drain(..size)) {
            *to = from;
        }
        world.mark(self.id);
        world.is_read(self.id, size);
        if is_faulty {
            world.tell(self.id);
        }
        Ok(size)
    }

    fn has_input(&self) -> bool {
        self.world.borrow_mut().is_passed_over(self.id)
    }

    fn owner(&self) -> Option<Owner> {
        None
    }

    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        let mut world = self.call();
        let is_faulty = world.is_faulty();
        let is_broken = is_faulty && world.rng.u8(..) < 64;
        let socket = &mut world.sockets[self.id];
        assert!(!socket.server_ended, "something is sent behind the end");
        assert!(!bytes.is_empty(), "nothing is sent");
        socket.client_reset |= is_broken;
        if socket.client_reset {
            socket.is_spoilt = true;
            world.tally.note(Kind::SendBrokenPipe);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        world.is_offered(self.id, bytes);
        let size = self.room(&mut world, bytes.len(), is_faulty);
        world.take(self.id, bytes, size);
        let socket = &mut world.sockets[self.id];
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
            world.is_unwatched = true;
            world.tally.note(Kind::RegisterFailed);
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        world.is_unwatched = false;
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
            world.tally.note(Kind::RegisterWritingFailed);
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
        let mut world = self.world.borrow_mut();
        world.calls += 1;
        if core::mem::take(&mut world.is_out_of_descriptors) {
            world.tally.note(Kind::EvictedForDescriptors);
            let has_made_room = core::mem::replace(&mut world.has_made_room, true);
            assert!(
                !has_made_room || std::thread::panicking(),
                "{} has to go though the last to go has made no room",
                self.id
            );
        }
        let socket = &world.sockets[self.id];
        let is_gone = socket.client_ended || socket.client_reset || socket.is_spoilt;
        if !(is_gone || std::thread::panicking()) {
            world.is_closed(self.id);
        }
        world.passed_over.clear();
        world.held.retain(|held| *held != self.id);
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

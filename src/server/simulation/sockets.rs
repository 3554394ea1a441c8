//! Simulated sockets: the server's end of the [`world`](super::world), with injected faults.
//!
//! Implements the traits of `server/socket.rs`; knows no table. Created by the episode (`mod.rs`), called
//! by the table.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::io;
use std::rc::Rc;

use mio::Token;

use super::coverage::Situation;
use super::ended_listeners::ListenerEnd;
use super::mutations::Mutation;
use super::world::{ListenerState, World};
use crate::server::conn::Conn;
use crate::server::policy::Owner;
use crate::server::slots::Node;
use crate::server::socket::{ListenSocket, StreamSocket};

/// The world, shared by its sockets.
pub(super) type Shared = Rc<RefCell<World>>;

pub(super) struct SimulatedListener {
    pub(super) world: Shared,
    pub(super) index: usize,
}

impl SimulatedListener {
    fn with<R>(&self, ask: impl FnOnce(&mut ListenerState) -> R) -> R {
        let mut world = self.world.borrow_mut();
        world.calls += 1;
        ask(&mut world.listeners[self.index])
    }
}

impl ListenSocket for SimulatedListener {
    type Stream = SimulatedStream;
    type Slot = Node<Conn<SimulatedStream>>;

    fn accept(&self) -> io::Result<SimulatedStream> {
        let mut world = self.world.borrow_mut();
        world.has_accept_failed = false;
        world.listeners[self.index].accepts += 1;
        world.listeners[self.index].found_empty = false;
        // Checked before the queue, as in the kernel.
        let is_full = world.held.len() >= world.descriptors;
        let error = world.accept_error;
        if let Some(code) = error.filter(|code| *code != libc::EMFILE || is_full) {
            world.coverage.record(Situation::of_accept(code));
            world.has_accept_failed = true;
            world.accept_failed_at = world.now;
            return Err(io::Error::from_raw_os_error(code));
        }
        let end = world.listeners[self.index].end;
        if end == Some(ListenerEnd::Tcp) {
            world.coverage.record(Situation::AcceptEinval);
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let is_hidden = match world.mutation {
            Mutation::DelayAccepts => {
                let is_level = world.listeners[self.index].is_level;
                is_level && end.is_none() && !world.is_stopping && world.rng.u8(..) < 64
            }
            Mutation::HideLastInBacklog => {
                end.is_some() && world.listeners[self.index].backlog.len() == 1
            }
            _ => false,
        };
        if is_hidden || world.listeners[self.index].backlog.is_empty() {
            world.listeners[self.index].found_empty = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if world.is_faulty() {
            let codes = [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::EPERM];
            let code = world.rng.choice(codes).unwrap();
            world.coverage.record(Situation::of_accept(code));
            let reset = match code {
                libc::EINTR => None,
                _ => world.listeners[self.index].backlog.pop_front(),
            };
            if let Some(id) = reset {
                world.reset_client(id);
            }
            // Edge-triggered: the next connection is not reported by another event.
            return Err(io::Error::from_raw_os_error(code));
        }
        let Some(id) = world.listeners[self.index].backlog.pop_front() else {
            world.listeners[self.index].found_empty = true;
            return Err(io::ErrorKind::WouldBlock.into());
        };
        world.held.push(id);
        world.accepted += 1;
        world.has_made_room = false;
        world.sockets[id].accepted_at = Some(world.now);
        world.mark_active(id);
        world.give_reason(id);
        Ok(SimulatedStream {
            world: self.world.clone(),
            id,
        })
    }

    fn register(&mut self, _: &(), token: Token) -> io::Result<()> {
        self.with(|listener| {
            listener.token = Some(token);
            listener.is_pending = listener.is_ready();
        });
        Ok(())
    }

    fn arm(&self, _: &(), token: Token) -> bool {
        let can = self.world.borrow().can_arm;
        self.with(|listener| {
            listener.is_level = can;
            if can {
                listener.token = Some(token);
            }
        });
        can
    }

    fn disarm(&mut self, _: &(), token: Token) -> io::Result<()> {
        self.with(|listener| {
            listener.token = Some(token);
            listener.is_level = false;
            listener.is_pending = listener.is_ready();
        });
        Ok(())
    }

    fn deregister(&mut self, _: &()) -> io::Result<()> {
        self.with(|listener| listener.token = None);
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
    /// Records a call and returns the world.
    fn call(&self) -> RefMut<'_, World> {
        let mut world = self.world.borrow_mut();
        world.record_call(self.id);
        world
    }
}

impl SimulatedStream {
    /// How many of `wanted` bytes the kernel accepts.
    fn room(&self, world: &mut World, wanted: usize, is_faulty: bool) -> usize {
        let socket = &mut world.sockets[self.id];
        let room = socket.capacity - socket.to_client.min(socket.capacity);
        if wanted <= room && !is_faulty {
            return wanted;
        }
        let size = wanted.min(room);
        socket.is_full = true;
        if !is_faulty {
            world.coverage.record(Situation::FullSend);
            return size;
        }
        socket.was_cut_short = true;
        world.coverage.record(Situation::ShortSend);
        let size = world.rng.usize(..=size);
        // The client makes room now, or at its next read.
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
            socket.had_fault = true;
            world.coverage.record(Situation::ReadReset);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if socket.to_server.is_empty() {
            let is_ended = socket.client_ended;
            world.on_read(self.id, 0);
            return match is_ended {
                true => Ok(0),
                false => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let mut size = buffer.len().min(socket.to_server.len());
        if is_faulty {
            // The rest arrives now.
            world.sockets[self.id].was_cut_short = true;
            size = world.rng.usize(1..=size);
            world.coverage.record(Situation::ShortRead);
        }
        let socket = &mut world.sockets[self.id];
        for (to, from) in buffer.iter_mut().zip(socket.to_server.drain(..size)) {
            *to = from;
        }
        world.mark_active(self.id);
        world.on_read(self.id, size);
        if is_faulty {
            world.notify(self.id);
        }
        Ok(size)
    }

    fn has_input(&self) -> bool {
        self.world.borrow_mut().has_input_at_eviction(self.id)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn owner(&self) -> Option<Owner> {
        None
    }

    fn send(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        let mut world = self.call();
        let is_faulty = world.is_faulty();
        let is_broken = is_faulty && world.rng.u8(..) < 64;
        let socket = &mut world.sockets[self.id];
        assert!(!socket.server_ended, "bytes are sent after shutdown");
        assert!(!bytes.is_empty(), "an empty send");
        socket.client_reset |= is_broken;
        if socket.client_reset {
            socket.had_fault = true;
            world.coverage.record(Situation::SendBrokenPipe);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        world.on_send_attempt(self.id, bytes);
        let size = self.room(&mut world, bytes.len(), is_faulty);
        world.deliver(self.id, bytes, size);
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
        let is_mutated = world.mutation == Mutation::LoseAnswers && world.rng.u8(..) < 16;
        let socket = &mut world.sockets[self.id];
        if is_mutated {
            return;
        }
        assert!(!socket.server_ended, "{} is shut down twice", self.id);
        socket.to_client += core::mem::take(&mut socket.corked);
        socket.server_ended = true;
    }

    fn register(&mut self, _: &(), token: Token) -> io::Result<()> {
        let mut world = self.call();
        if world.is_faulty() {
            world.sockets[self.id].had_fault = true;
            world.is_unwatched = true;
            world.coverage.record(Situation::RegisterFailed);
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        world.is_unwatched = false;
        world.sockets[self.id].token = Some(token);
        if !world.is_notified_or_idle(self.id) {
            world.notify(self.id);
        }
        Ok(())
    }

    fn register_writing(&mut self, _: &(), _: Token) -> io::Result<()> {
        let mut world = self.call();
        if world.is_faulty() {
            world.sockets[self.id].had_fault = true;
            world.coverage.record(Situation::RegisterWritingFailed);
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let socket = &mut world.sockets[self.id];
        assert!(
            !socket.unsent.is_empty() && !socket.is_writing,
            "{} is registered for writing without need",
            self.id
        );
        socket.is_writing = true;
        if !socket.is_full || !socket.to_server.is_empty() || socket.client_ended {
            world.notify(self.id);
        }
        Ok(())
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        world.calls += 1;
        let has_accept_failed = core::mem::take(&mut world.has_accept_failed);
        if has_accept_failed {
            world.coverage.record(Situation::EvictedForDescriptors);
            let has_made_room = core::mem::replace(&mut world.has_made_room, true);
            assert!(
                !has_made_room || std::thread::panicking(),
                "{} was evicted although the last eviction freed no descriptor",
                self.id
            );
        }
        let socket = &world.sockets[self.id];
        let is_gone = socket.client_ended || socket.client_reset || socket.had_fault;
        let is_gone = is_gone || has_accept_failed && !socket.unsent.is_empty();
        if !(is_gone || std::thread::panicking()) {
            world.on_close(self.id);
        }
        world.skipped_candidates.clear();
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

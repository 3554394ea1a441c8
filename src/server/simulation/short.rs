//! Short reads, short sends and errors at every byte. One scripted socket accepts and returns exactly as
//! many bytes as the test says; the table is the real one.
//!
//! Knows nothing of the seeded simulation. Called only by the tests at the bottom.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::vec::Vec;

use mio::Token;

use super::super::buffers::Buffers;
use super::super::conn::Conn;
use super::super::driver::Driver;
use super::super::listeners::ListenerParts;
use super::super::memory::Managed;
use super::super::metrics;
use super::super::policy::{ACCEPT_FAILURES, Owner};
use super::super::slots::{Node, Slots};
use super::super::socket::{ListenSocket, StreamSocket};
use super::super::table::Table;
use super::super::{ACCEPT_PAUSE, Counters, TOKENS};
use crate::answer::Responder;
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{LISTENERS_MAX, Limits};
use crate::time::Instant;

const NOW: Instant = Instant::from_millis(1);

/// Passes a connection through every state: plain and verbose answers, both kinds of bodies, a refused
/// method, and a requested close.
const INPUT: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
    PUT /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n\
    GET /healthz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// The client's and the kernel's side of one socket.
#[derive(Default)]
struct Script {
    read: usize,
    /// Bytes of the input that have arrived, and the error that follows, if any.
    available: usize,
    read_error: Option<i32>,
    sent: Vec<u8>,
    /// Bytes of the answers that are accepted, and the error that follows, if any.
    room: usize,
    send_error: Option<i32>,
    is_shut: bool,
    is_closed: bool,
    token: Option<Token>,
    /// If not zero, this many equal requests arrive instead of the input, as fast as they are read.
    requests: usize,
    reads: usize,
}

type SharedScript = Rc<RefCell<Script>>;

struct ScriptedListener(Rc<RefCell<VecDeque<SharedScript>>>, Rc<ListenerScript>);

/// How one listener behaves, and what the server has done with it.
#[derive(Default)]
struct ListenerScript {
    /// The error of every accept(2), if any.
    code: Cell<Option<i32>>,
    /// Calls of accept(2).
    calls: Cell<u32>,
    /// epoll can report the listener as long as connections wait.
    can_arm: Cell<bool>,
    /// epoll does so now.
    is_armed: Cell<bool>,
    /// Calls of `arm`.
    arms: Cell<u32>,
}

struct ScriptedStream(SharedScript);

impl ListenSocket for ScriptedListener {
    type Stream = ScriptedStream;
    type Slot = Node<Conn<ScriptedStream>>;

    fn accept(&self) -> io::Result<ScriptedStream> {
        let ListenerScript { code, calls, .. } = &*self.1;
        calls.set(calls.get() + 1);
        if let Some(code) = code.get() {
            return Err(io::Error::from_raw_os_error(code));
        }
        let next = self.0.borrow_mut().pop_front();
        next.map(ScriptedStream)
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn register(&mut self, _: &(), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn arm(&self, _: &(), _: Token) -> bool {
        let can_arm = self.1.can_arm.get();
        self.1.is_armed.set(can_arm);
        self.1.arms.set(self.1.arms.get() + 1);
        can_arm
    }

    fn disarm(&mut self, _: &(), _: Token) -> io::Result<()> {
        self.1.is_armed.set(false);
        Ok(())
    }

    fn deregister(&mut self, _: &()) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> impl fmt::Display {
        "a simulated address"
    }
}

fn nothing_more<T>(error: Option<i32>) -> io::Result<T> {
    Err(match error {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::ErrorKind::WouldBlock.into(),
    })
}

impl StreamSocket for ScriptedStream {
    type Registry = ();

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        script.reads += 1;
        if script.requests > 0 {
            assert!(script.reads < 1000, "an advance does not end");
            let left = script.requests.saturating_mul(REQUEST.len()) - script.read;
            let size = left.min(buffer.len());
            if size == 0 {
                return nothing_more(script.read_error);
            }
            for byte in &mut buffer[..size] {
                *byte = REQUEST[script.read % REQUEST.len()];
                script.read += 1;
            }
            return Ok(size);
        }
        let rest = &INPUT[script.read..script.available];
        if rest.is_empty() {
            return nothing_more(script.read_error);
        }
        let size = rest.len().min(buffer.len());
        buffer[..size].copy_from_slice(&rest[..size]);
        script.read += size;
        Ok(size)
    }

    fn has_input(&self) -> bool {
        let script = self.0.borrow();
        script.requests > 0 || script.read < script.available
    }

    fn is_local(&self) -> bool {
        true
    }

    fn owner(&self) -> Option<Owner> {
        None
    }

    fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        assert!(!script.is_shut, "bytes are sent after shutdown");
        let size = bytes.len().min(script.room - script.sent.len());
        if size == 0 {
            return nothing_more(script.send_error);
        }
        script.sent.extend(&bytes[..size]);
        Ok(size)
    }

    fn shutdown(&mut self) {
        self.0.borrow_mut().is_shut = true;
    }

    fn register(&mut self, _: &(), token: Token) -> io::Result<()> {
        self.0.borrow_mut().token = Some(token);
        Ok(())
    }

    fn register_writing(&mut self, _: &(), _: Token) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ScriptedStream {
    fn drop(&mut self) {
        self.0.borrow_mut().is_closed = true;
    }
}

/// A table, and the connections queued at its listeners.
struct TestServer<'a> {
    table: Table<'a, ScriptedListener>,
    backlog: Rc<RefCell<VecDeque<SharedScript>>>,
    listener: Rc<ListenerScript>,
    /// The same of another listener.
    second_backlog: Rc<RefCell<VecDeque<SharedScript>>>,
    second_listener: Rc<ListenerScript>,
}

impl<'a> TestServer<'a> {
    fn new(responder: Responder<'a>) -> Self {
        TestServer::with(responder, Limits::DEFAULT, 1)
    }

    fn with(responder: Responder<'a>, limits: Limits, connections: usize) -> Self {
        TestServer::on(responder, limits, connections, false)
    }

    /// A server on listeners that epoll reports again and again, if `can_arm`.
    fn on(responder: Responder<'a>, limits: Limits, connections: usize, can_arm: bool) -> Self {
        let backlog = Rc::new(RefCell::new(VecDeque::new()));
        let mut sockets: [Option<ScriptedListener>; LISTENERS_MAX] = core::array::from_fn(|_| None);
        let listener = Rc::new(ListenerScript::default());
        sockets[0] = Some(ScriptedListener(backlog.clone(), listener.clone()));
        let second_backlog = Rc::new(RefCell::new(VecDeque::new()));
        let second_listener = Rc::new(ListenerScript::default());
        sockets[1] = Some(ScriptedListener(
            second_backlog.clone(),
            second_listener.clone(),
        ));
        let response_bytes = responder.response_bytes_max(&limits);
        let long_bytes = responder.long_response_bytes_with(&limits, metrics::BYTES_MAX);
        let head_bytes = limits.request_head_bytes;
        let buffers = Buffers::new(connections, head_bytes, response_bytes, long_bytes);
        let heads = Managed::Own(std::boxed::Box::new(HeadCache::new()));
        let driver = Driver::new(responder, limits, buffers, heads);
        listener.can_arm.set(can_arm);
        second_listener.can_arm.set(can_arm);
        let listeners = ListenerParts {
            sockets,
            paths: [const { None }; LISTENERS_MAX],
        };
        let mut table = Table::new(listeners, Slots::new(connections), driver);
        table.register(&(), Token(0)).unwrap();
        TestServer {
            table,
            backlog,
            listener,
            second_backlog,
            second_listener,
        }
    }

    fn connect(&mut self, script: Script) -> SharedScript {
        let script = Rc::new(RefCell::new(script));
        self.backlog.borrow_mut().push_back(script.clone());
        self.table.handle(&(), Token(0), false, NOW);
        self.advance_until_idle();
        script
    }

    /// epoll reports that the socket has changed.
    fn notify(&mut self, script: &SharedScript) {
        let token = script.borrow().token;
        if let Some(token) = token {
            assert!(token.0 & 0xf_ffff < TOKENS);
            self.table.handle(&(), token, false, NOW);
        }
        self.advance_until_idle();
    }

    fn advance_until_idle(&mut self) {
        for _ in 0..100 {
            self.table.advance(&(), NOW);
            if self.table.deadline() != Some(Instant::ZERO) {
                return;
            }
        }
        panic!("the server never became idle");
    }

    fn counters(&self) -> Counters {
        self.table.counters()
    }
}

fn with_server(test: impl FnOnce(TestServer<'_>, &[u8])) {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    let mut server = TestServer::new(Responder::new(&endpoints));
    let whole = server.connect(Script {
        available: INPUT.len(),
        room: usize::MAX,
        ..Script::default()
    });
    let expected = whole.borrow().sent.clone();
    assert!(whole.borrow().is_shut && expected.ends_with(b"healthz check passed\n"));
    assert_eq!(server.counters().answered, 4);
    test(server, &expected);
}

/// Regression: the server called accept(2) again and again, 35,000 times in 3 s, and logged nothing.
#[test]
fn accepts_that_keep_failing_are_paused() {
    for code in [
        libc::EPERM,
        libc::ENETDOWN,
        libc::ECONNABORTED,
        libc::EOPNOTSUPP,
    ] {
        with_server(|mut server, expected| {
            let listener = server.listener.clone();
            listener.calls.set(0);
            listener.code.set(Some(code));
            let backlog = Rc::new(RefCell::new(Script {
                available: INPUT.len(),
                room: usize::MAX,
                ..Script::default()
            }));
            server.backlog.borrow_mut().push_back(backlog.clone());
            server.table.handle(&(), Token(0), false, NOW);
            server.advance_until_idle();
            assert_eq!(listener.calls.get(), ACCEPT_FAILURES);
            let mut now = NOW;
            for pauses in 1..30 {
                now = now.saturating_add(ACCEPT_PAUSE);
                assert_eq!(server.table.deadline(), Some(now));
                server.table.advance(&(), now);
                // Epoll reports the listener again and again.
                for _ in 0..2 * ACCEPT_FAILURES {
                    server.table.handle(&(), Token(0), false, now);
                }
                assert_eq!(listener.calls.get(), ACCEPT_FAILURES * (1 + pauses));
            }
            listener.code.set(None);
            now = now.saturating_add(ACCEPT_PAUSE);
            server.table.advance(&(), now);
            for _ in 0..10 {
                server.table.advance(&(), now);
            }
            assert_eq!(backlog.borrow().sent, expected);
            let counters = server.counters();
            assert_eq!(counters.aborted, u64::from(ACCEPT_FAILURES) * 30);
            assert_eq!(
                counters.accept_pauses, 1,
                "consecutive pauses are counted once"
            );
        });
    }
}

/// Otherwise epoll would report the paused one again and again, and the server would not sleep.
#[test]
fn when_the_pause_of_one_listener_ends_another_stays_paused() {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    let connections = 2 * ACCEPT_FAILURES as usize;
    let responder = Responder::new(&endpoints);
    let mut server = TestServer::on(responder, Limits::DEFAULT, connections, true);
    let (first, second) = (server.listener.clone(), server.second_listener.clone());
    let armed = || [&first, &second].map(|listener| listener.is_armed.get());
    let arms = || [&first, &second].map(|listener| listener.arms.get());
    assert_eq!((armed(), arms()), ([true, true], [1, 1]));
    let half = NOW.saturating_add(ACCEPT_PAUSE / 2);
    for (number, listener, at) in [(0, &first, NOW), (1, &second, half)] {
        listener.code.set(Some(libc::EPERM));
        for _ in 0..ACCEPT_FAILURES {
            server.table.handle(&(), Token(number), false, at);
        }
        server.table.advance(&(), at);
    }
    assert_eq!((armed(), arms()), ([false, false], [1, 1]));
    let over = NOW.saturating_add(ACCEPT_PAUSE);
    assert_eq!(server.table.deadline(), Some(over));
    server.table.advance(&(), over);
    assert_eq!((armed(), arms()), ([true, false], [2, 1]));
    let over = half.saturating_add(ACCEPT_PAUSE);
    assert_eq!(server.table.deadline(), Some(over));
    server.table.advance(&(), over);
    assert_eq!((armed(), arms()), ([true, true], [2, 2]));
    assert_eq!(server.table.deadline(), None);
}

/// Only a free descriptor lets accept(2) succeed after EMFILE. Memory may come from elsewhere.
#[test]
fn a_connection_is_evicted_if_descriptors_are_short_but_not_if_memory_is() {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    for (code, evicted) in [
        (libc::EMFILE, 1),
        (libc::ENFILE, 1),
        (libc::ENOBUFS, 0),
        (libc::ENOMEM, 0),
    ] {
        let mut server = TestServer::with(Responder::new(&endpoints), Limits::DEFAULT, 4);
        let idle = server.connect(Script::default());
        server.listener.code.set(Some(code));
        server.table.handle(&(), Token(0), false, NOW);
        assert_eq!(server.counters().evicted, 0, "before a pause");
        let later = NOW.saturating_add(ACCEPT_PAUSE);
        server.table.advance(&(), later);
        assert_eq!(server.counters().evicted, evicted, "error {code}");
        assert_eq!(idle.borrow().is_closed, evicted == 1);
        // Both pauses are for the same shortage.
        assert_eq!(server.counters().accept_pauses, 1);
    }
}

/// Regression: all listeners were paused together. The first one failed 16 times before the second one was reached, in
/// each round, so that no connection of the second one was ever accepted.
#[test]
fn a_listener_whose_accepts_fail_does_not_pause_another() {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    // In a table of this size, one call may accept 16 times from one listener.
    let connections = 2 * ACCEPT_FAILURES as usize;
    let mut server = TestServer::with(Responder::new(&endpoints), Limits::DEFAULT, connections);
    let listener = server.listener.clone();
    listener.code.set(Some(libc::EPERM));
    let mut now = NOW;
    for round in 1..=3 {
        let script = SharedScript::default();
        server.second_backlog.borrow_mut().push_back(script.clone());
        for _ in 0..2 {
            server.table.handle(&(), Token(0), false, now);
            server.table.handle(&(), Token(1), false, now);
            server.table.advance(&(), now);
        }
        assert!(script.borrow().token.is_some(), "round {round}");
        assert_eq!(listener.calls.get(), round * ACCEPT_FAILURES);
        now = now.saturating_add(ACCEPT_PAUSE);
        assert_eq!(server.table.deadline(), Some(now), "the pause ends");
    }
}

#[test]
fn a_few_failed_accepts_do_not_pause() {
    with_server(|mut server, _| {
        let listener = server.listener.clone();
        for _ in 0..3 {
            listener.code.set(Some(libc::EPERM));
            for _ in 1..ACCEPT_FAILURES {
                server.table.handle(&(), Token(0), false, NOW);
            }
            // EAGAIN ends the series of failures.
            listener.code.set(None);
            server.table.handle(&(), Token(0), false, NOW);
        }
        assert_eq!(server.counters().accept_pauses, 0);
        assert_eq!(
            server.counters().aborted,
            3 * u64::from(ACCEPT_FAILURES - 1)
        );
    });
}

#[test]
fn short_sends_of_every_length_lose_and_repeat_nothing() {
    with_server(|mut server, expected| {
        for taken in 0..=expected.len() {
            for step in [1, 7, usize::MAX] {
                let script = server.connect(Script {
                    available: INPUT.len(),
                    room: taken,
                    ..Script::default()
                });
                while script.borrow().sent != expected {
                    let before = script.borrow().sent.len();
                    script.borrow_mut().room = before.saturating_add(step);
                    server.notify(&script);
                    assert!(script.borrow().sent.len() > before, "stuck at {before}");
                }
                server.notify(&script);
                assert!(script.borrow().is_shut, "cut at {taken}, then {step}");
            }
        }
        assert_eq!(server.counters().failed, 0);
    });
}

#[test]
fn short_reads_of_every_length_make_no_difference() {
    with_server(|mut server, expected| {
        for first in 0..INPUT.len() {
            for step in [1, 5, INPUT.len()] {
                let script = server.connect(Script {
                    available: first,
                    room: usize::MAX,
                    ..Script::default()
                });
                while script.borrow().available < INPUT.len() {
                    let available = script.borrow().available + step;
                    script.borrow_mut().available = available.min(INPUT.len());
                    server.notify(&script);
                }
                assert!(
                    script.borrow().sent == expected,
                    "cut at {first}, then {step}"
                );
            }
        }
        assert_eq!(server.counters().failed, 0);
    });
}

#[test]
fn an_error_at_every_byte_ends_that_connection_and_is_counted() {
    with_server(|mut server, expected| {
        let mut failed = 0;
        for code in [
            libc::ECONNRESET,
            libc::EPIPE,
            libc::ETIMEDOUT,
            libc::ENOBUFS,
        ] {
            let reads = (0..INPUT.len()).map(|available| Script {
                available,
                read_error: Some(code),
                room: usize::MAX,
                ..Script::default()
            });
            let sends = (0..expected.len()).map(|room| Script {
                available: INPUT.len(),
                room,
                send_error: Some(code),
                ..Script::default()
            });
            for script in reads.chain(sends) {
                let script = server.connect(script);
                server.notify(&script);
                failed += 1;
                let script = script.borrow();
                assert!(
                    script.is_closed,
                    "error {code} at {} of the input",
                    script.available
                );
                assert!(expected.starts_with(&script.sent));
                assert_eq!(
                    (server.counters().failed, server.counters().open),
                    (failed, 0)
                );
            }
        }
        assert_eq!(server.counters().evicted, 0, "no eviction was needed");
    });
}

/// Epoll would report the error once more, but the connection needs no slot until then.
#[test]
fn a_connection_whose_first_send_fails_takes_no_slot() {
    with_server(|mut server, _| {
        let script = server.connect(Script {
            available: INPUT.len(),
            send_error: Some(libc::EPIPE),
            ..Script::default()
        });
        assert!(script.borrow().is_closed && script.borrow().token.is_none());
        assert_eq!(server.counters().failed, 1);
    });
}

/// Regression: each connection was served, moved to the back, and was overdue again, without end.
#[test]
fn an_advance_ends_although_timeouts_are_zero_and_two_clients_never_stop_sending() {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    let limits = Limits {
        head_duration: Duration::ZERO,
        idle_duration: Duration::ZERO,
        ..Limits::DEFAULT
    };
    let mut server = TestServer::with(Responder::new(&endpoints), limits, 64);
    for _ in 0..2 {
        let script = Script {
            requests: usize::MAX,
            room: usize::MAX,
            ..Script::default()
        };
        let script = Rc::new(RefCell::new(script));
        server.backlog.borrow_mut().push_back(script);
    }
    server.table.handle(&(), Token(0), false, NOW);
    for _ in 0..10 {
        server.table.advance(&(), NOW);
    }
    assert_eq!(server.counters().accepted, 2);
}

/// The client may have sent more meanwhile. A close with unread input resets the connection, and the part of the
/// answer that the kernel still holds would be lost.
#[test]
fn a_last_answer_that_was_blocked_is_not_followed_by_a_close_at_once() {
    with_server(|mut server, expected| {
        let script = server.connect(Script {
            available: INPUT.len(),
            room: expected.len() - 1,
            ..Script::default()
        });
        script.borrow_mut().room = usize::MAX;
        server.notify(&script);
        assert_eq!(script.borrow().sent, expected);
        assert!(script.borrow().is_shut && !script.borrow().is_closed);
        let over = NOW.saturating_add(Limits::DEFAULT.drain_duration);
        server.table.advance(&(), over);
        assert!(script.borrow().is_closed);
    });
}

/// epoll may report a connection in the same batch in which it was closed and its slot was given to another one.
#[test]
fn an_event_of_a_connection_that_was_closed_does_not_serve_the_next_one_in_its_slot() {
    with_server(|mut server, _| {
        let first = server.connect(Script::default());
        let token = first.borrow().token.unwrap();
        let second = server.connect(Script::default());
        assert!(first.borrow().is_closed && !second.borrow().is_closed);
        let reads = second.borrow().reads;
        server.table.handle(&(), token, true, NOW);
        assert_eq!(second.borrow().reads, reads);
        let token = second.borrow().token.unwrap();
        server.table.handle(&(), token, false, NOW);
        assert_eq!(second.borrow().reads, reads + 1);
    });
}

/// The answers to one buffer of requests do not fit into the buffer for answers, and sending is blocked.
#[test]
fn requests_that_are_left_when_sending_is_blocked_are_answered_afterwards() {
    const REQUESTS: usize = 8000 / REQUEST.len();
    with_server(|mut server, _| {
        let script = server.connect(Script {
            requests: REQUESTS,
            room: 10,
            ..Script::default()
        });
        let answered = server.counters().answered - 4;
        assert!((1..REQUESTS as u64).contains(&answered), "{answered}");
        script.borrow_mut().room = usize::MAX;
        server.notify(&script);
        assert_eq!(server.counters().answered, 4 + REQUESTS as u64);
    });
}

/// A read that finds nothing costs as much as one that finds a request.
#[test]
fn a_request_that_arrives_at_once_is_read_once() {
    with_server(|mut server, expected| {
        let script = server.connect(Script {
            available: REQUEST.len(),
            room: usize::MAX,
            ..Script::default()
        });
        let script = script.borrow();
        assert!(!script.sent.is_empty() && expected.starts_with(&script.sent));
        assert_eq!(script.reads, 1);
    });
}

/// One advance reads the bytes that have arrived, and finds that there are no more. Another advance for that would
/// cost a call of epoll_wait(2).
#[test]
fn an_unfinished_head_needs_no_other_advance() {
    with_server(|mut server, _| {
        let script = server.connect(Script {
            available: 9,
            room: usize::MAX,
            ..Script::default()
        });
        script.borrow_mut().available = 18;
        let token = script.borrow().token.unwrap();
        server.table.handle(&(), token, false, NOW);
        assert_eq!(script.borrow().read, 18);
        let late = NOW.saturating_add(Limits::DEFAULT.head_duration);
        assert_eq!(server.table.deadline(), Some(late));
    });
}

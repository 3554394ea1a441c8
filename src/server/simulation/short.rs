//! Short reads, short sends and errors at every byte: one connection whose socket takes and gives
//! exactly as much as it is told to, through the table as it is.

use core::time::Duration;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::vec::Vec;

use mio::Token;

use super::super::buffers::Buffers;
use super::super::driver::Driver;
use super::super::memory::Managed;
use super::super::policy::{ACCEPT_FAILURES, Owner};
use super::super::slots::Slots;
use super::super::socket::{ListenSocket, StreamSocket};
use super::super::table::Table;
use super::super::{ACCEPT_PAUSE, Counters, TOKENS};
use crate::answer::Responder;
use crate::check::{Check, Endpoint};
use crate::http::HeadCache;
use crate::limits::{LISTENERS_MAX, Limits};
use crate::time::Instant;

const NOW: Instant = Instant::from_millis(1);

/// Every state that a connection passes through: whole and verbose answers, both kinds of bodies, a
/// refused method, and the end that was asked for.
const INPUT: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
    PUT /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n\
    GET /healthz?verbose HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

const ENDLESS: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// One socket, as its peer and the kernel would have it.
#[derive(Default)]
struct Script {
    read: usize,
    /// So much of the input has come, and what follows it: nothing yet, or an error.
    come: usize,
    read_error: Option<i32>,
    sent: Vec<u8>,
    /// So much of the answers is taken, and what follows.
    room: usize,
    send_error: Option<i32>,
    is_shut: bool,
    is_closed: bool,
    token: Option<Token>,
    /// Requests come for ever, as fast as they are read.
    is_endless: bool,
    reads: usize,
}

type Shared = Rc<RefCell<Script>>;

struct Waiting(Rc<RefCell<VecDeque<Shared>>>, Rc<Refusal>);

/// What every accept(2) fails with, if anything, and how many there were.
#[derive(Default)]
struct Refusal {
    code: Cell<Option<i32>>,
    calls: Cell<u32>,
}

struct Socket(Shared);

impl ListenSocket for Waiting {
    type Stream = Socket;

    fn accept(&self) -> io::Result<Socket> {
        let Refusal { code, calls } = &*self.1;
        calls.set(calls.get() + 1);
        if let Some(code) = code.get() {
            return Err(io::Error::from_raw_os_error(code));
        }
        let next = self.0.borrow_mut().pop_front();
        next.map(Socket)
            .ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn register(&mut self, _: &(), _: Token) -> io::Result<()> {
        Ok(())
    }

    fn arm(&self, _: &(), _: Token) -> bool {
        false
    }

    fn disarm(&mut self, _: &(), _: Token) -> io::Result<()> {
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

impl StreamSocket for Socket {
    type Registry = ();

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        script.reads += 1;
        if script.is_endless {
            assert!(script.reads < 1000, "a turn has no end");
            for byte in buffer.iter_mut() {
                *byte = ENDLESS[script.read % ENDLESS.len()];
                script.read += 1;
            }
            return Ok(buffer.len());
        }
        let rest = &INPUT[script.read..script.come];
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
        script.is_endless || script.read < script.come
    }

    fn owner(&self) -> Option<Owner> {
        None
    }

    fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        let mut script = self.0.borrow_mut();
        assert!(!script.is_shut, "sent behind its own end");
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

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.borrow_mut().is_closed = true;
    }
}

/// A table, and those who wait to be accepted.
struct Door<'a> {
    table: Table<'a, Waiting>,
    waiting: Rc<RefCell<VecDeque<Shared>>>,
    refusal: Rc<Refusal>,
}

impl<'a> Door<'a> {
    fn new(responder: Responder<'a>) -> Self {
        Door::with(responder, Limits::DEFAULT, 1)
    }

    fn with(responder: Responder<'a>, limits: Limits, connections: usize) -> Self {
        let waiting = Rc::new(RefCell::new(VecDeque::new()));
        let mut listeners: [Option<Waiting>; LISTENERS_MAX] = core::array::from_fn(|_| None);
        let refusal = Rc::new(Refusal::default());
        listeners[0] = Some(Waiting(waiting.clone(), refusal.clone()));
        let response_bytes = responder.response_bytes_max(&limits);
        let buffers = Buffers::new(connections, limits.request_head_bytes, response_bytes);
        let heads = Managed::Own(std::boxed::Box::new(HeadCache::new()));
        let driver = Driver::new(responder, limits, buffers, heads);
        let mut table = Table::new(listeners, Slots::new(connections), driver);
        table.register(&(), Token(0)).unwrap();
        Door {
            table,
            waiting,
            refusal,
        }
    }

    fn connect(&mut self, script: Script) -> Shared {
        let script = Rc::new(RefCell::new(script));
        self.waiting.borrow_mut().push_back(script.clone());
        self.table.handle(&(), Token(0), false, NOW);
        self.work();
        script
    }

    /// The socket has changed, and epoll says so.
    fn tell(&mut self, script: &Shared) {
        let token = script.borrow().token;
        if let Some(token) = token {
            assert!(token.0 & 0xf_ffff < TOKENS);
            self.table.handle(&(), token, false, NOW);
        }
        self.work();
    }

    fn work(&mut self) {
        for _ in 0..100 {
            self.table.advance(&(), NOW);
            if self.table.deadline() != Some(Instant::ZERO) {
                return;
            }
        }
        panic!("never at rest");
    }

    fn counters(&self) -> Counters {
        self.table.counters()
    }
}

fn with_door(test: impl FnOnce(Door<'_>, &[u8])) {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    let mut door = Door::new(Responder::new(&endpoints));
    let whole = door.connect(Script {
        come: INPUT.len(),
        room: usize::MAX,
        ..Script::default()
    });
    let expected = whole.borrow().sent.clone();
    assert!(whole.borrow().is_shut && expected.ends_with(b"healthz check passed\n"));
    assert_eq!(door.counters().answered, 4);
    test(door, &expected);
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
        with_door(|mut door, expected| {
            let refusal = door.refusal.clone();
            refusal.calls.set(0);
            refusal.code.set(Some(code));
            let waiting = Rc::new(RefCell::new(Script {
                come: INPUT.len(),
                room: usize::MAX,
                ..Script::default()
            }));
            door.waiting.borrow_mut().push_back(waiting.clone());
            door.table.handle(&(), Token(0), false, NOW);
            door.work();
            assert_eq!(refusal.calls.get(), ACCEPT_FAILURES);
            let mut now = NOW;
            for pauses in 1..30 {
                now = now.saturating_add(ACCEPT_PAUSE);
                assert_eq!(door.table.deadline(), Some(now));
                door.table.advance(&(), now);
                assert_eq!(refusal.calls.get(), ACCEPT_FAILURES + pauses);
            }
            refusal.code.set(None);
            now = now.saturating_add(ACCEPT_PAUSE);
            door.table.advance(&(), now);
            for _ in 0..10 {
                door.table.advance(&(), now);
            }
            assert_eq!(waiting.borrow().sent, expected);
            let counters = door.counters();
            assert_eq!(counters.aborted, u64::from(ACCEPT_FAILURES) + 29);
            assert_eq!(counters.accept_pauses, 1, "one spell is counted once");
        });
    }
}

#[test]
fn a_few_accepts_that_fail_are_no_reason_to_pause() {
    with_door(|mut door, _| {
        let refusal = door.refusal.clone();
        for _ in 0..3 {
            refusal.code.set(Some(libc::EPERM));
            for _ in 1..ACCEPT_FAILURES {
                door.table.handle(&(), Token(0), false, NOW);
            }
            // That nobody waits ends the row.
            refusal.code.set(None);
            door.table.handle(&(), Token(0), false, NOW);
        }
        assert_eq!(door.counters().accept_pauses, 0);
        assert_eq!(door.counters().aborted, 3 * u64::from(ACCEPT_FAILURES - 1));
    });
}

#[test]
fn short_sends_of_every_length_lose_and_repeat_nothing() {
    with_door(|mut door, expected| {
        for taken in 0..=expected.len() {
            for step in [1, 7, usize::MAX] {
                let script = door.connect(Script {
                    come: INPUT.len(),
                    room: taken,
                    ..Script::default()
                });
                while script.borrow().sent != expected {
                    let before = script.borrow().sent.len();
                    script.borrow_mut().room = before.saturating_add(step);
                    door.tell(&script);
                    assert!(script.borrow().sent.len() > before, "stuck at {before}");
                }
                door.tell(&script);
                assert!(script.borrow().is_shut, "cut at {taken}, then {step}");
            }
        }
        assert_eq!(door.counters().failed, 0);
    });
}

#[test]
fn short_reads_of_every_length_make_no_difference() {
    with_door(|mut door, expected| {
        for first in 0..INPUT.len() {
            for step in [1, 5, INPUT.len()] {
                let script = door.connect(Script {
                    come: first,
                    room: usize::MAX,
                    ..Script::default()
                });
                while script.borrow().come < INPUT.len() {
                    let come = script.borrow().come + step;
                    script.borrow_mut().come = come.min(INPUT.len());
                    door.tell(&script);
                }
                assert!(
                    script.borrow().sent == expected,
                    "cut at {first}, then {step}"
                );
            }
        }
        assert_eq!(door.counters().failed, 0);
    });
}

#[test]
fn an_error_at_every_byte_ends_that_connection_and_is_counted() {
    with_door(|mut door, expected| {
        let mut failed = 0;
        for code in [
            libc::ECONNRESET,
            libc::EPIPE,
            libc::ETIMEDOUT,
            libc::ENOBUFS,
        ] {
            let reads = (0..INPUT.len()).map(|come| Script {
                come,
                read_error: Some(code),
                room: usize::MAX,
                ..Script::default()
            });
            let sends = (0..expected.len()).map(|room| Script {
                come: INPUT.len(),
                room,
                send_error: Some(code),
                ..Script::default()
            });
            for script in reads.chain(sends) {
                let script = door.connect(script);
                door.tell(&script);
                failed += 1;
                let script = script.borrow();
                assert!(
                    script.is_closed,
                    "error {code} at {} of the input",
                    script.come
                );
                assert!(expected.starts_with(&script.sent));
                assert_eq!((door.counters().failed, door.counters().open), (failed, 0));
            }
        }
        assert_eq!(door.counters().evicted, 0, "nobody sat in the way");
    });
}

/// Each was served, went to the back, and was overdue there again: for as long as both went on.
#[test]
fn a_turn_has_an_end_though_no_time_is_allowed_and_two_never_stop_asking() {
    let ping = Check::ping();
    let checks = [&ping];
    let endpoints = Endpoint::kubernetes(&checks);
    let limits = Limits {
        head_duration: Duration::ZERO,
        idle_duration: Duration::ZERO,
        ..Limits::DEFAULT
    };
    let mut door = Door::with(Responder::new(&endpoints), limits, 64);
    for _ in 0..2 {
        let script = Script {
            is_endless: true,
            room: usize::MAX,
            ..Script::default()
        };
        let script = Rc::new(RefCell::new(script));
        door.waiting.borrow_mut().push_back(script);
    }
    door.table.handle(&(), Token(0), false, NOW);
    for _ in 0..10 {
        door.table.advance(&(), NOW);
    }
    assert_eq!(door.counters().accepted, 2);
}

/// The client may have sent more meanwhile: a close with unread input would reset the connection, and what
/// the kernel holds of the answer would be lost.
#[test]
fn a_last_answer_that_was_blocked_is_not_followed_by_a_close_at_once() {
    with_door(|mut door, expected| {
        let script = door.connect(Script {
            come: INPUT.len(),
            room: expected.len() - 1,
            ..Script::default()
        });
        script.borrow_mut().room = usize::MAX;
        door.tell(&script);
        assert_eq!(script.borrow().sent, expected);
        assert!(script.borrow().is_shut && !script.borrow().is_closed);
        let over = NOW.saturating_add(Limits::DEFAULT.drain_duration);
        door.table.advance(&(), over);
        assert!(script.borrow().is_closed);
    });
}

/// The bytes that had come are read, and it is seen in the same turn that there are no more: another turn
/// for that would cost a call of epoll_wait(2).
#[test]
fn a_head_that_is_not_whole_wants_no_other_turn() {
    with_door(|mut door, _| {
        let script = door.connect(Script {
            come: 9,
            room: usize::MAX,
            ..Script::default()
        });
        script.borrow_mut().come = 18;
        let token = script.borrow().token.unwrap();
        door.table.handle(&(), token, false, NOW);
        assert_eq!(script.borrow().read, 18);
        let late = NOW.saturating_add(Limits::DEFAULT.head_duration);
        assert_eq!(door.table.deadline(), Some(late));
    });
}

//! A signal handler updates checks while the thread that it interrupts updates and reads the same checks.
//! No update hangs, no reason is a mixture of two, and the handler allocates nothing.
#![cfg(feature = "server")]
#![allow(unsafe_code, reason = "installing a real signal handler is unsafe")]
#![cfg(test)]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/timeout.rs"]
mod timeout;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::thread::JoinHandleExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use allocations::Counting;
use healthz::server::{Address, Config, Listeners, Runner, Server, ServerHandle, now};
use healthz::{Check, Endpoint, Health, Limits, Responder};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use timeout::TIMEOUT;

const SIGNALS: u64 = 1_000;
static DISK: Check = Check::manual("disk");
static LOOP: Check = Check::heartbeat("loop", Duration::from_secs(3600)).initially_failing();
static GATE: Check = Check::gate("gate");
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&DISK, &LOOP, &GATE]);

/// Calls of the handler that have returned.
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// Calls of the handler that interrupted an update of the same check.
static INTERRUPTED: AtomicU64 = AtomicU64::new(0);
/// Reasons read, by the handler or by another thread, that no update set.
static TORN: AtomicU64 = AtomicU64::new(0);
/// Calls of the allocator in a handler.
static CALLS: AtomicU64 = AtomicU64::new(0);
static HANDLE: OnceLock<ServerHandle> = OnceLock::new();

thread_local! {
    // Constant and without a destructor: reading it allocates nothing.
    static IS_HANDLING: Cell<bool> = const { Cell::new(false) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(count);

fn count(_bytes: i64) {
    CALLS.fetch_add(IS_HANDLING.get().into(), Ordering::Relaxed);
}

/// True if `text` is a reason that [`fail_disk`] made: the same number repeated, the last one perhaps cut.
fn is_whole(text: &str) -> bool {
    let Some((writer, rest)) = text.split_once(' ') else {
        return text == "failing";
    };
    let Some((number, _)) = rest.split_once(' ') else {
        return false;
    };
    let mut numbers = rest.split(' ').peekable();
    let mut is_same = true;
    while let Some(text) = numbers.next() {
        is_same &= match numbers.peek() {
            Some(_) => text == number,
            // The last one is cut at the maximal length of a reason.
            None => number.starts_with(text),
        };
    }
    is_same && (writer == "main" || writer == "handler") && text.len() == 255
}

/// Fails `DISK` with one number repeated until it is longer than a reason can be.
fn fail_disk(writer: &str, number: u64) {
    struct Repeated(u64);
    impl std::fmt::Display for Repeated {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            (0..130).try_for_each(|_| write!(f, " {}", self.0))
        }
    }
    DISK.fail_fmt(format_args!("{writer}{}", Repeated(number)));
}

extern "C" fn update(_signal: i32) {
    IS_HANDLING.set(true);
    let number = HANDLED.load(Ordering::Relaxed);
    if number % 3 == 0 {
        DISK.pass();
    }
    fail_disk("handler", number);
    LOOP.beat(now());
    GATE.open();
    // The interrupted thread cannot continue yet, so this is the handler's reason, or the plain `failing`.
    let reason = DISK.reason(now());
    let text = reason.as_ref().map_or("", |reason| reason.as_str());
    TORN.fetch_add((!is_whole(text)).into(), Ordering::Relaxed);
    INTERRUPTED.fetch_add((text == "failing").into(), Ordering::Relaxed);
    IS_HANDLING.set(false);
    HANDLED.store(number + 1, Ordering::Release);
}

extern "C" fn stop(_signal: i32) {
    if let Some(handle) = HANDLE.get() {
        handle.stop();
    }
}

fn install(signal: Signal, handler: extern "C" fn(i32)) {
    let handler = SigHandler::Handler(handler);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does only what is async-signal-safe: atomics, the clock, and a write(2). This test
    // shows that checks and `ServerHandle::stop` do no more.
    unsafe { sigaction(signal, &action) }.unwrap();
}

#[test]
fn a_handler_updates_the_checks_that_its_thread_is_updating() {
    now(); // A handler must not make the first call.
    install(Signal::SIGUSR1, update);
    raise(Signal::SIGUSR1).unwrap();
    assert_eq!(HANDLED.load(Ordering::Acquire), 1);
    assert_eq!(DISK.health(now()), Health::Failing);
    assert!(LOOP.passes(now()) && GATE.passes(now()));

    // As a number, because with musl it is a pointer, which cannot be sent to another thread.
    let this = pthread_self() as usize;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let result = send(this);
            is_over.store(true, Ordering::Release);
            result
        });
        let mut number = 0;
        while !is_over.load(Ordering::Acquire) {
            number += 1;
            fail_disk("main", number);
            // The handler fails the check again after each pass.
            let reason = DISK.reason(now());
            assert!(
                reason.is_some_and(|reason| is_whole(reason.as_str())),
                "{reason:?}"
            );
            LOOP.beat(now());
            assert!(LOOP.passes(now()));
        }
        assert!(sender.join().unwrap(), "the handler does not return");
    });
    assert_eq!(HANDLED.load(Ordering::Acquire), SIGNALS + 1);
    assert_eq!(TORN.load(Ordering::Relaxed), 0);
    assert_eq!(CALLS.load(Ordering::Relaxed), 0, "calls of the allocator");
    // The case under test did happen.
    let count = INTERRUPTED.load(Ordering::Relaxed);
    println!("{count} of {SIGNALS} handlers interrupted an update of the same check");
    assert!(count > 0);
    // The next reason is stored as usual.
    DISK.fail("full");
    assert_eq!(DISK.reason(now()).unwrap().as_str(), "full");
}

/// Sends one signal after the other and reads the check meanwhile. False if one is not handled in time.
fn send(to: usize) -> bool {
    for count in 1..=SIGNALS {
        pthread_kill(to as Pthread, Signal::SIGUSR1).unwrap();
        let sent = Instant::now();
        while HANDLED.load(Ordering::Acquire) != count + 1 {
            if sent.elapsed() > TIMEOUT {
                return false;
            }
            // A reader on a thread that no signal interrupts.
            let reason = DISK.reason(now());
            let is_whole = reason.is_none_or(|reason| is_whole(reason.as_str()));
            TORN.fetch_add((!is_whole).into(), Ordering::Relaxed);
            thread::yield_now();
        }
    }
    true
}

#[test]
fn a_handler_stops_a_server_that_its_thread_runs() {
    let server = Server::bind(Responder::new(&ENDPOINTS), &"127.0.0.1:0".parse().unwrap()).unwrap();
    let runner = Runner::new(server).unwrap();
    assert!(HANDLE.set(runner.handle()).is_ok());
    install(Signal::SIGUSR2, stop);
    let this = pthread_self() as usize;
    let sender = thread::spawn(move || pthread_kill(this as Pthread, Signal::SIGUSR2));
    runner.run().unwrap();
    sender.join().unwrap().unwrap();
    assert!(runner.server().is_finished());
}

extern "C" fn nothing(_signal: i32) {}

/// A host with an interval timer or a profiler gets signals more often than deadlines pass.
#[test]
fn signals_do_not_keep_deadlines_from_passing() {
    const WAIT: Duration = Duration::from_millis(5);
    install(Signal::SIGURG, nothing);
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let limits = Limits {
        head_duration: 20 * WAIT,
        ..Limits::DEFAULT
    };
    let config = Config {
        limits,
        ..Config::default()
    };
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, config);
    let Some(Address::Tcp(address)) = server.local_addresses().next() else {
        panic!("not on TCP");
    };
    let runner = Runner::new(server).unwrap();
    let handle = runner.handle();
    let thread = thread::spawn(move || runner.run());
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(WAIT)).unwrap();
    client.write_all(b"GET /healthz HT").unwrap();
    let mut answer = [0; 1024];
    let started = Instant::now();
    let size = loop {
        pthread_kill(thread.as_pthread_t() as Pthread, Signal::SIGURG).unwrap();
        if let Ok(size) = client.read(&mut answer) {
            break size;
        }
        assert!(started.elapsed() < TIMEOUT, "the request did not time out");
    };
    assert!(answer[..size].starts_with(b"HTTP/1.1 408 Request Timeout\r\n"));
    handle.stop();
    thread.join().unwrap().unwrap();
}

//! The door for C: `capi/healthz.h` is made from this file, and what a C author reads there is the
//! documentation of the functions below.
//!
//! Knows nothing of what it hands on. Every function answers with a code, takes any pointer that may be
//! null, and lets no panic out. A door lives in one block of memory, the caller's or the heap's, see
//! [`block`]; its checks are in there too, and that is why they may be told things from any thread.
//!
//! The only module, with that one, that may hold `unsafe` for what C promises and Rust cannot check.
#![allow(unsafe_code)]
#![allow(
    clippy::missing_safety_doc,
    reason = "each function's text is for C, and says what must hold in C's words"
)]
#![allow(
    clippy::result_large_err,
    reason = "the words come with the problem, because there may be no heap"
)]

mod block;
mod guard;
mod text;

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt;
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use block::Door;
use block::Settings;
use guard::{Lossy, add, bytes_of, create, place, text_of, with};
use text::Problem;

use crate::check::Check;
use crate::limits::REASON_BYTES_MAX;
use crate::server::{Address, adopt, now};

/// What came of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "these are C's names")]
pub enum HealthzResult {
    /// It was done.
    HEALTHZ_OK = 0,
    /// An argument is NULL, out of its bounds, or no name or address; or the call comes too early or
    /// too late in a door's life.
    HEALTHZ_INVALID = 1,
    /// The memory given is too small or not aligned, or there is none.
    HEALTHZ_NO_MEMORY = 2,
    /// The system refused: an address in use or not loopback, no more descriptors, and so on.
    HEALTHZ_SYSTEM = 3,
    /// healthz itself was wrong somewhere. The door answers nobody any more; destroy it.
    HEALTHZ_BROKEN = 4,
}

/// The check decides the answer of `/healthz`.
pub const HEALTHZ_ON_HEALTHZ: u32 = 1;
/// The check decides the answer of `/livez`.
pub const HEALTHZ_ON_LIVEZ: u32 = 2;
/// The check decides the answer of `/readyz`.
pub const HEALTHZ_ON_READYZ: u32 = 4;
/// Most checks of a door.
pub const HEALTHZ_CHECKS_MAX: u32 = 256;
/// What a door's memory has to be a multiple of, in bytes.
pub const HEALTHZ_MEMORY_ALIGN: u32 = 64;

/// What a door may cost. All zero is a good choice: every 0 stands for the default.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthzOptions {
    /// Connections at once, 1 to 65,535 (64). One more evicts the one that was idle longest.
    pub connections: u32,
    /// Longest request head in bytes, 512 to 65,535 (8,192).
    pub head_bytes: u32,
    /// How many checks can be added, 1 to HEALTHZ_CHECKS_MAX (16).
    pub checks: u32,
    /// Longest time for a request head to arrive, in milliseconds (10,000).
    pub head_ms: u32,
    /// Longest time without a request, in milliseconds (60,000).
    pub idle_ms: u32,
    /// Longest time for the last requests after healthz_stop(), in milliseconds (2,000).
    pub drain_ms: u32,
    /// Other than 0: addresses that other machines can reach are taken too. There is no
    /// authentication.
    pub allow_remote: c_int,
}

/// What a door has seen since it was started. All but `open` only ever grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthzCounters {
    /// Connections accepted, foreign ones apart.
    pub accepted: u64,
    /// Requests answered, refused ones included.
    pub answered: u64,
    /// Requests whose head was not acceptable, or did not come in time.
    pub refused: u64,
    /// Connections closed because the table was full.
    pub evicted: u64,
    /// Connections closed because a deadline passed.
    pub expired: u64,
    /// Connections that ended in an error of the socket, such as a reset by the peer.
    pub failed: u64,
    /// Connections that were gone when they were to be accepted.
    pub aborted: u64,
    /// Connections to a loopback address from one that is none, closed unread.
    pub foreign: u64,
    /// Spells in which accepting was paused because the system was short of something.
    pub accept_pauses: u64,
    /// Connections in the table now.
    pub open: u64,
}

/// A named fact about your program: it passes or fails. It lives in its door, and as long.
///
/// Every function that takes one may be called from any thread and from a signal handler: it is a few
/// atomic stores, waits for nobody and calls nothing.
pub struct HealthzCheck(Check);

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn healthz_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// A result in words, never NULL. healthz_error() says more.
#[unsafe(no_mangle)]
pub extern "C" fn healthz_strerror(result: c_int) -> *const c_char {
    let text: &CStr = match result {
        0 => c"done",
        1 => c"invalid argument, or not now",
        2 => c"memory too small or not aligned",
        3 => c"refused by the system",
        4 => c"bug in healthz; the door is closed",
        _ => c"unknown result",
    };
    text.as_ptr()
}

/// How much memory a door with these options takes, in bytes; 0 if they are out of their bounds.
/// `options` may be NULL, for the defaults.
///
/// It is the most that all peers together can make it use, and what is not used is never touched: a
/// door at rest stays at a few pages.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_memory_bytes(options: *const HealthzOptions) -> usize {
    let bytes = || {
        // SAFETY: C promises NULL or options that nobody changes meanwhile.
        let settings = Settings::of(unsafe { options.as_ref() })?;
        Some(settings.layout()?.size())
    };
    catch_unwind(bytes).ok().flatten().unwrap_or(0)
}

/// Makes a door in memory from the heap, and puts it into `*door` (NULL if that fails). `options` may
/// be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_create(
    options: *const HealthzOptions,
    door: *mut *mut Door,
) -> HealthzResult {
    // SAFETY: as our caller promises.
    unsafe { create(options, door, Door::on_heap) }
}

/// Makes a door in `memory`, which has `bytes` of it, at least healthz_memory_bytes() and aligned to
/// HEALTHZ_MEMORY_ALIGN. It need not be zero, and belongs to the door until that is destroyed. From
/// the heap comes only the list of events that the loop fills, a few KiB, in healthz_start().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_create_in(
    options: *const HealthzOptions,
    memory: *mut c_void,
    bytes: usize,
    door: *mut *mut Door,
) -> HealthzResult {
    // SAFETY: as our caller promises of `options` and `door`, and of `memory` that it is `bytes` long
    // and the door's alone.
    unsafe {
        create(options, door, |settings| {
            Door::in_memory(settings, memory.cast(), bytes)
        })
    }
}

/// Adds the check `ping`, which always passes: that it is answered at all is the news.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_add_ping(door: *mut Door) -> HealthzResult {
    // SAFETY: C promises a door, used by this thread alone.
    unsafe {
        with(door, |door| {
            door.add(0, |_| Ok(Check::ping()))?;
            Ok(())
        })
    }
}

/// Adds a check that is what was last said by healthz_pass() or healthz_fail(). Before the first word
/// it fails with "not reported yet".
///
/// `name` is 1 to 127 bytes of A-Z a-z 0-9 . _ / - and is copied; no other check has it. `endpoints`
/// says where it counts, as a sum of HEALTHZ_ON_...; 0 is everywhere. The check is put into `*check`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_add_check(
    door: *mut Door,
    name: *const c_char,
    endpoints: u32,
    check: *mut *const HealthzCheck,
) -> HealthzResult {
    // SAFETY: C promises a door, a text or NULL, and a place for a pointer or NULL.
    unsafe { add(door, name, endpoints, check, |name| Ok(Check::manual(name))) }
}

/// Adds a check that passes while the last healthz_beat() is younger than `limit_ms` milliseconds.
/// Before the first beat it passes until `limit_ms` after healthz_start(). The rest is as with
/// healthz_add_check().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_add_heartbeat(
    door: *mut Door,
    name: *const c_char,
    limit_ms: u32,
    endpoints: u32,
    check: *mut *const HealthzCheck,
) -> HealthzResult {
    // SAFETY: C promises a door, a text or NULL, and a place for a pointer or NULL.
    unsafe {
        add(door, name, endpoints, check, |name| {
            if limit_ms == 0 {
                return Err(Problem::invalid(format_args!(
                    "a heartbeat's limit is not 0"
                )));
            }
            let limit = Duration::from_millis(limit_ms.into());
            Ok(Check::heartbeat(name, limit))
        })
    }
}

/// Listens on `address`: "127.0.0.1:10248", "[::1]:10248", "localhost:10248" (both of them, or the one
/// that this machine has) or "unix:/path". Port 0 is any free one, see healthz_port(). Only before
/// healthz_start(); up to 16 times.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_listen(door: *mut Door, address: *const c_char) -> HealthzResult {
    // SAFETY: C promises a door, and a text or NULL.
    unsafe {
        with(door, |door| {
            let address = text_of(address, "address")?;
            let parsed: Address = address
                .parse()
                .map_err(|error| Problem::invalid(format_args!("{address}: {error}")))?;
            let bound = door.listeners()?.bind(&parsed);
            bound.map_err(|error| Problem::system(format_args!("{error}")))?;
            Ok(())
        })
    }
}

/// Takes over a socket that listens already, for example from a service manager. The door owns `fd`
/// from here on, also when this fails, unless it is not open or is a standard stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_listen_fd(door: *mut Door, fd: c_int) -> HealthzResult {
    // SAFETY: C promises a door, and that nobody else owns the descriptor.
    unsafe {
        with(door, |door| {
            let problem = |error: &dyn fmt::Display| {
                Problem::system(format_args!("descriptor {fd}: {error}"))
            };
            // Before the door is asked whether it is too late: the socket is its own then as well.
            let socket = adopt(fd).map_err(|error| problem(&error))?;
            let added = door.listeners()?.add(socket);
            added.map_err(|error| problem(&error))
        })
    }
}

/// The port of the first address with one; 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_port(door: *mut Door) -> u16 {
    let mut port = 0;
    // SAFETY: C promises a door, used by this thread alone.
    unsafe {
        with(door, |door| {
            port = door.port();
            Ok(())
        });
    }
    port
}

/// Begins to serve. Checks and addresses cannot be added any more. If it fails, only healthz_error()
/// and healthz_destroy() are left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_start(door: *mut Door) -> HealthzResult {
    // SAFETY: C promises a door, used by this thread alone.
    unsafe { with(door, Door::start) }
}

/// A descriptor that is readable (POLLIN, EPOLLIN) when there is something for healthz_turn() to do;
/// -1 before healthz_start(). It stays the door's: only watch it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_fd(door: *mut Door) -> c_int {
    let mut fd = -1;
    // SAFETY: C promises a door, used by this thread alone.
    unsafe {
        with(door, |door| {
            fd = door.fd();
            Ok(())
        });
    }
    fd
}

/// When healthz_turn() has to be called at the latest, in milliseconds from now; -1 if only the
/// descriptor matters. What poll(2) takes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_timeout(door: *mut Door) -> c_int {
    let mut timeout = -1;
    // SAFETY: C promises a door, used by this thread alone.
    unsafe {
        with(door, |door| {
            timeout = door.timeout();
            Ok(())
        });
    }
    timeout
}

/// Does what there is to do, after waiting for it for at most `timeout_ms` (0: not at all, -1: for
/// ever). A bounded amount of work. Signals make it return early, with HEALTHZ_OK. If somebody else
/// who holds the listening sockets has shut down the last of them, it fails once whoever was connected
/// has been served, and then every time.
///
/// `*events`, if `events` is not NULL, tells how much there was. A loop that is told only once
/// (EPOLLET) calls again until it is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_turn(
    door: *mut Door,
    timeout_ms: c_int,
    events: *mut usize,
) -> HealthzResult {
    // SAFETY: C promises a door, used by this thread alone, and a place for a number or NULL.
    unsafe {
        with(door, |door| {
            let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
            let count = door.turn(timeout)?;
            if let Some(events) = events.as_mut() {
                *events = count;
            }
            Ok(())
        })
    }
}

/// From now on `/readyz` fails with "process is shutting down", and everything else is answered as
/// before. For the time between SIGTERM and healthz_stop(), in which others learn of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_shutdown(door: *mut Door) -> HealthzResult {
    // SAFETY: C promises a door, used by this thread alone.
    unsafe {
        with(door, |door| {
            door.begin_shutdown();
            Ok(())
        })
    }
}

/// Closes the door in good order: with the next healthz_turn() it stops listening, and requests that
/// are under way have `drain_ms` to end. healthz_is_finished() tells when they have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_stop(door: *mut Door) -> HealthzResult {
    // SAFETY: C promises a door, used by this thread alone.
    unsafe { with(door, Door::stop) }
}

/// Other than 0 if the door was stopped and has no connection left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_is_finished(door: *mut Door) -> c_int {
    let mut is_finished = false;
    // SAFETY: C promises a door, used by this thread alone.
    unsafe {
        with(door, |door| {
            is_finished = door.is_finished();
            Ok(())
        });
    }
    is_finished.into()
}

/// Copies what the door has seen into `*counters`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_counters(
    door: *mut Door,
    counters: *mut HealthzCounters,
) -> HealthzResult {
    // SAFETY: C promises a door, and a place for counters or NULL.
    unsafe {
        with(door, |door| {
            let counters = place(counters, "counters")?;
            let seen = door.counters();
            *counters = HealthzCounters {
                accepted: seen.accepted,
                answered: seen.answered,
                refused: seen.refused,
                evicted: seen.evicted,
                expired: seen.expired,
                failed: seen.failed,
                aborted: seen.aborted,
                foreign: seen.foreign,
                accept_pauses: seen.accept_pauses,
                open: seen.open,
            };
            Ok(())
        })
    }
}

/// Why the door's last call that failed did so, for people: what was tried, what was wrong, what to
/// do. Never NULL; valid until the next call with this door.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_error(door: *const Door) -> *const c_char {
    // SAFETY: C promises a door, used by this thread alone.
    match unsafe { door.as_ref() } {
        Some(door) => door.error().as_ptr(),
        None => c"no door: NULL".as_ptr(),
    }
}

/// Closes the door at once, if healthz_stop() has not, and gives its memory back, the checks' too.
/// NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_destroy(door: *mut Door) {
    if !door.is_null() {
        // A panic in here would be ours; what could not be given back is lost then, and nothing of it is
        // looked at again, hence AssertUnwindSafe.
        // SAFETY: C promises a door that nobody uses any more, nor its checks.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { Door::destroy(door) }));
    }
}

/// The check passes until told otherwise. From any thread and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_pass(check: *const HealthzCheck) {
    // SAFETY: C promises NULL or a check whose door lives.
    if let Some(check) = unsafe { check.as_ref() } {
        check.0.pass();
    }
}

/// The check fails until told otherwise, because of `reason`: up to 255 bytes of UTF-8, copied, shown
/// under /healthz/NAME. What is not UTF-8 becomes a question mark. NULL is "failing". From any thread
/// and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_fail(check: *const HealthzCheck, reason: *const c_char) {
    // SAFETY: C promises NULL or a check whose door lives.
    let Some(check) = (unsafe { check.as_ref() }) else {
        return;
    };
    if reason.is_null() {
        return check.0.fail("failing");
    }
    // SAFETY: not null, so C promises a text that ends with a 0.
    let bytes = unsafe { bytes_of(reason, REASON_BYTES_MAX + 3) };
    check.0.fail_fmt(format_args!("{}", Lossy(bytes)));
}

/// A heartbeat passes until its limit from now; another check passes. From any thread and any signal
/// handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_beat(check: *const HealthzCheck) {
    // SAFETY: C promises NULL or a check whose door lives.
    if let Some(check) = unsafe { check.as_ref() } {
        check.0.beat(now());
    }
}

/// Other than 0 if the check passes now. From any thread and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_passes(check: *const HealthzCheck) -> c_int {
    // SAFETY: C promises NULL or a check whose door lives.
    let check = unsafe { check.as_ref() };
    check.is_some_and(|check| check.0.passes(now())).into()
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a panic is what is tried")]
mod tests {
    use std::ptr;

    use super::HealthzResult::{HEALTHZ_BROKEN, HEALTHZ_OK};
    use super::*;

    #[test]
    fn a_panic_stays_inside_and_the_door_does_nothing_more() {
        let mut door = ptr::null_mut();
        // SAFETY: every pointer is a door that lives, null, or a place on this stack.
        unsafe {
            assert_eq!(healthz_create(ptr::null(), &mut door), HEALTHZ_OK);
            assert_eq!(with(door, |_| panic!("a bug")), HEALTHZ_BROKEN);
            assert_eq!(healthz_add_ping(door), HEALTHZ_BROKEN);
            assert_eq!(
                healthz_listen(door, c"127.0.0.1:0".as_ptr()),
                HEALTHZ_BROKEN
            );
            assert_eq!(healthz_start(door), HEALTHZ_BROKEN);
            assert_eq!((healthz_fd(door), healthz_timeout(door)), (-1, -1));
            let error = CStr::from_ptr(healthz_error(door));
            assert!(error.to_string_lossy().starts_with("a bug in healthz"));
            healthz_destroy(door);
            let made = create(ptr::null(), &mut door, |_| panic!("a bug"));
            assert_eq!((made, door.is_null()), (HEALTHZ_BROKEN, true));
        }
    }

    /// It stayed open, and its owner had been told that it was not its own any more.
    #[test]
    fn a_socket_that_comes_too_late_is_the_doors_all_the_same() {
        use std::io::Read;
        use std::os::fd::IntoRawFd;
        let (given, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut door = ptr::null_mut();
        // SAFETY: every pointer is a door that lives, or null, and the descriptor was given up.
        unsafe {
            assert_eq!(healthz_create(ptr::null(), &mut door), HEALTHZ_OK);
            assert_eq!(healthz_listen(door, c"127.0.0.1:0".as_ptr()), HEALTHZ_OK);
            assert_eq!(healthz_start(door), HEALTHZ_OK);
            let late = healthz_listen_fd(door, given.into_raw_fd());
            assert_eq!(late, HealthzResult::HEALTHZ_INVALID);
            other.set_nonblocking(true).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap(), 0, "it is still open");
            healthz_destroy(door);
        }
    }

    #[test]
    fn a_reason_is_read_no_further_than_its_end() {
        // SAFETY: both end with a 0, or are longer than what is asked for.
        unsafe {
            assert_eq!(bytes_of(c"short".as_ptr(), 258), b"short");
            assert_eq!(bytes_of([b'x' as c_char; 4].as_ptr(), 4), b"xxxx");
        }
    }
}

//! The C API. `capi/healthz.h` is generated from this file, so the documentation comments below are
//! written for C programmers.
//!
//! Each function converts its C arguments, calls the Rust library and returns a result code. It accepts
//! NULL for every pointer, and no panic leaves it. It knows nothing about HTTP.
//!
//! A server and its checks live in one block of memory, allocated by the caller or from the heap
//! (see `block`). The checks are never moved, so any thread may update them.
//!
//! Only this module and its submodules `block` and `guard` use `unsafe` for what the C caller promises and
//! Rust cannot check.
#![allow(unsafe_code)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the documentation is for C callers and states the requirements in C terms"
)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the documentation is for C callers: `[::1]` there is an address, not a link"
)]
#![allow(
    clippy::result_large_err,
    reason = "an error carries its text, because there may be no heap to allocate it from"
)]

mod block;
mod error;
mod guard;

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt;
use core::ptr;
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use block::Healthz;
use block::Settings;
use error::CallError;
use guard::{Lossy, add_check, bytes_until_nul, create, out_pointer, str_from_c, with_server};

use crate::check::Check;
use crate::limits::REASON_BYTES_MAX;
use crate::server::{Address, Counters, adopt, now};

/// The result of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "these are the names used in C")]
pub enum HealthzResult {
    /// The call succeeded.
    HEALTHZ_OK = 0,
    /// An argument is NULL, out of range, or not a valid name or address; or the call came too early
    /// or too late (see healthz_start()).
    HEALTHZ_INVALID = 1,
    /// The memory given is too small or not aligned, or the heap has none left.
    HEALTHZ_NO_MEMORY = 2,
    /// The system refused: the address is in use or not loopback, no descriptor is left, and so on.
    HEALTHZ_SYSTEM = 3,
    /// A bug in healthz. The server no longer answers; destroy it.
    HEALTHZ_BROKEN = 4,
}

/// Flag of a check: it counts for `/healthz`.
pub const HEALTHZ_ON_HEALTHZ: u32 = 1;
/// Flag of a check: it counts for `/livez`.
pub const HEALTHZ_ON_LIVEZ: u32 = 2;
/// Flag of a check: it counts for `/readyz`.
pub const HEALTHZ_ON_READYZ: u32 = 4;
/// Flag of a check: it passes until its first healthz_beat(), healthz_pass() or healthz_fail(), however
/// late that is.
pub const HEALTHZ_INITIALLY_PASSING: u32 = 8;
/// The most checks that a server can have.
pub const HEALTHZ_CHECKS_MAX: u32 = 256;
/// Alignment of the memory given to healthz_create_in(), in bytes.
pub const HEALTHZ_MEMORY_ALIGN: u32 = 64;

/// Limits of a server. 0 selects the default, so a structure that is all zero is a good choice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthzOptions {
    /// Most open connections, 1 to 65,535 (default 64). When all are in use, a new connection replaces
    /// an old one, usually the one that has been idle longest.
    pub connections: u32,
    /// Longest request head in bytes, 512 to 65,535 (default 8,192).
    pub head_bytes: u32,
    /// How many checks can be added, 1 to HEALTHZ_CHECKS_MAX (default 16).
    pub checks: u32,
    /// Longest time for a request head to arrive, in milliseconds (default 10,000).
    pub head_ms: u32,
    /// Longest time that a connection may stay open without a request, in milliseconds (default
    /// 60,000).
    pub idle_ms: u32,
    /// Longest time for a request body to arrive after its answer, for a client to close after the server,
    /// and for requests in progress to finish after healthz_stop(), in milliseconds (default 2,000).
    pub drain_ms: u32,
    /// If not 0, addresses that other machines can reach are allowed too. There is no
    /// authentication.
    pub allow_remote: c_int,
    /// If not 0, `/metrics` and `/metrics/slis` are answered with metrics for Prometheus. All connections
    /// share two buffers for long answers, which then have room for the metrics. Each connection takes no more
    /// memory.
    pub metrics: c_int,
}

/// Counters of a server since it was started. All but `open` only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthzCounters {
    /// Connections accepted, without those counted in `non_loopback`.
    pub accepted: u64,
    /// Requests answered, including refused ones.
    pub answered: u64,
    /// Requests whose head was malformed or too long, or did not arrive in time.
    pub refused: u64,
    /// Connections that their client or the protocol closed, or the server when it stopped.
    pub closed: u64,
    /// Connections closed to make room for a new one, or for a long answer to another one.
    pub evicted: u64,
    /// Connections closed because a deadline passed.
    pub expired: u64,
    /// Connections that ended with a socket error, such as a reset by the client.
    pub failed: u64,
    /// Connections that had failed before they were accepted: reset by the client, refused by a firewall,
    /// or lost with the network.
    pub aborted: u64,
    /// Connections to a loopback address from a non-loopback address; closed without reading.
    pub non_loopback: u64,
    /// How often accepting was paused because descriptors or memory were short or accept(2) kept failing.
    pub accept_pauses: u64,
    /// Connections open now.
    pub open: u64,
}

impl From<Counters> for HealthzCounters {
    fn from(counters: Counters) -> Self {
        // Both sides name every field, so this does not compile if only one structure has a field.
        let Counters {
            accepted,
            answered,
            refused,
            closed,
            evicted,
            expired,
            failed,
            aborted,
            non_loopback,
            accept_pauses,
            open,
        } = counters;
        HealthzCounters {
            accepted,
            answered,
            refused,
            closed,
            evicted,
            expired,
            failed,
            aborted,
            non_loopback,
            accept_pauses,
            open,
        }
    }
}

/// A health check: a name, and whether it passes or fails. It belongs to its server and is valid until
/// that is destroyed.
///
/// Every function that takes a check may be called from any thread and from a signal handler. It uses
/// only atomic integers and the clock, and it never waits or allocates.
pub struct HealthzCheck(Check);

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn healthz_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// A short description of a result, never NULL. healthz_error() has the details.
#[unsafe(no_mangle)]
pub extern "C" fn healthz_strerror(result: c_int) -> *const c_char {
    let text: &CStr = match result {
        0 => c"success",
        1 => c"invalid argument, or not allowed at this time",
        2 => c"not enough memory, or memory that is not aligned",
        3 => c"refused by the system",
        4 => c"bug in healthz; the server no longer answers",
        _ => c"unknown result",
    };
    text.as_ptr()
}

/// How much memory a server with these options takes, in bytes; 0 if an option is out of range.
/// `options` may be NULL, for the defaults.
///
/// The size depends on the options alone: nothing that clients do changes it. The server writes to a page of
/// its buffers only when a connection needs that page, so an idle server uses few pages.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_memory_bytes(options: *const HealthzOptions) -> usize {
    let bytes = || {
        // SAFETY: C promises NULL or options that do not change during the call.
        let settings = Settings::of(unsafe { options.as_ref() })?;
        Some(settings.layout()?.size())
    };
    catch_unwind(bytes).ok().flatten().unwrap_or(0)
}

/// Creates a server in memory from the heap and stores it in `*server` (NULL if that fails). `options`
/// may be NULL, for the defaults.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_create(
    options: *const HealthzOptions,
    server: *mut *mut Healthz,
) -> HealthzResult {
    // SAFETY: C promises NULL or options, and NULL or a pointer to write to.
    unsafe { create(options, server, Healthz::on_heap) }
}

/// Creates a server in `memory`, which is `bytes` long: at least healthz_memory_bytes(), and aligned to
/// HEALTHZ_MEMORY_ALIGN. It need not be zeroed. The server owns it until healthz_destroy(). On the heap it
/// keeps a few KiB for the list of events, from healthz_start(), and the path of each Unix socket.
/// healthz_listen() and errors of the system take a little more until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_create_in(
    options: *const HealthzOptions,
    memory: *mut c_void,
    bytes: usize,
    server: *mut *mut Healthz,
) -> HealthzResult {
    // SAFETY: C promises NULL or options, NULL or a pointer to write to, and that `memory` is `bytes` long
    // and used by nothing else.
    unsafe {
        create(options, server, |settings| {
            Healthz::in_memory(settings, memory.cast(), bytes)
        })
    }
}

/// Adds the check `ping`, which always passes: any answer shows that the server is running.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_add_ping(server: *mut Healthz) -> HealthzResult {
    // SAFETY: C promises a server, used by no other thread now.
    unsafe {
        with_server(server, |server| {
            server.add(0, || Ok(Check::ping()))?;
            Ok(())
        })
    }
}

/// Adds a check that your program sets with healthz_pass() and healthz_fail(). Until the first of these
/// calls it fails with "not reported yet".
///
/// `name` is 1 to 127 bytes of A-Z a-z 0-9 . _ / - and is copied. No other check of the server may have
/// it. `flags` is a sum of HEALTHZ_ON_... and HEALTHZ_INITIALLY_PASSING. Without any HEALTHZ_ON_..., the
/// check counts for all three endpoints. The check is stored in `*check`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_add_check(
    server: *mut Healthz,
    name: *const c_char,
    flags: u32,
    check: *mut *const HealthzCheck,
) -> HealthzResult {
    // SAFETY: C promises a server, NULL or a string, and NULL or a pointer to write to.
    unsafe { add_check(server, name, flags, check, |name| Ok(Check::manual(name))) }
}

/// Adds a check that fails when the last healthz_beat() was more than `limit_ms` milliseconds ago.
///
/// Before the first beat it passes until `limit_ms` after healthz_start(), so a worker that ends before
/// its first beat is noticed. With HEALTHZ_INITIALLY_PASSING in `flags` it passes until the first beat.
/// The other arguments are as for healthz_add_check().
///
/// If one loop both beats and calls healthz_poll_once(), beat before that call, and wait at most a third
/// of the limit. A loop that wakes up only for requests beats too late.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_add_heartbeat(
    server: *mut Healthz,
    name: *const c_char,
    limit_ms: u32,
    flags: u32,
    check: *mut *const HealthzCheck,
) -> HealthzResult {
    // SAFETY: C promises a server, NULL or a string, and NULL or a pointer to write to.
    unsafe {
        add_check(server, name, flags, check, |name| {
            if limit_ms == 0 {
                return Err(CallError::invalid(format_args!(
                    "limit_ms is 0; give the limit of the heartbeat in milliseconds"
                )));
            }
            let limit = Duration::from_millis(limit_ms.into());
            Ok(Check::heartbeat(name, limit))
        })
    }
}

/// Listens on `address`: "127.0.0.1:10248", "[::1]:10248", "unix:/path" or "localhost:10248" (IPv4 and
/// IPv6, or the one that this machine has; healthz_missing() names the other). Port 0 selects a free port,
/// see healthz_port(). Call it before healthz_start(). A server can have up to 16
/// addresses, of which "localhost" is two.
///
/// It fails, for example, if the address is in use. Check the result: if any other address could be used,
/// healthz_start() does not fail because of this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_listen(
    server: *mut Healthz,
    address: *const c_char,
) -> HealthzResult {
    // SAFETY: C promises a server, and NULL or a string.
    unsafe {
        with_server(server, |server| {
            let address = str_from_c(address, "address")?;
            let parsed: Address = address
                .parse()
                .map_err(|error| CallError::invalid(format_args!("{address}: {error}")))?;
            server.listen(&parsed)
        })
    }
}

/// The address of "localhost" that the last successful healthz_listen() left out, because this machine does
/// not have it, and the error of the system: "[::1]:10248: Cannot assign requested address (os error 99)",
/// for example. NULL if it left out none. Valid until the next healthz_listen() with this server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_missing(server: *const Healthz) -> *const c_char {
    // SAFETY: C promises a server, used by no other thread now.
    let missing = unsafe { server.as_ref() }.and_then(Healthz::missing);
    missing.map_or(ptr::null(), CStr::as_ptr)
}

/// Serves on a socket that already listens, for example one from a service manager. The server owns `fd`
/// from now on, even if this call fails, unless `fd` is not open or is 0, 1 or 2, or the server is NULL or
/// broken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_listen_fd(server: *mut Healthz, fd: c_int) -> HealthzResult {
    // SAFETY: C promises a server, and that it hands over the descriptor.
    unsafe {
        with_server(server, |server| {
            let failed = |error: &dyn fmt::Display| {
                CallError::system(format_args!("descriptor {fd}: {error}"))
            };
            // Take the descriptor first, so that it is closed even if it is too late to add it.
            let socket = adopt(fd).map_err(|error| failed(&error))?;
            let added = server.listeners()?.add(socket);
            added.map_err(|error| failed(&error))
        })
    }
}

/// The port of the first TCP address; 0 if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_port(server: *mut Healthz) -> u16 {
    let mut port = 0;
    // SAFETY: C promises a server, used by no other thread now.
    unsafe {
        with_server(server, |server| {
            port = server.port();
            Ok(())
        });
    }
    port
}

/// Starts the server. After this, checks and addresses cannot be added. If it fails because the system
/// refused, only healthz_error() and healthz_destroy() may follow.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_start(server: *mut Healthz) -> HealthzResult {
    // SAFETY: C promises a server, used by no other thread now.
    unsafe { with_server(server, Healthz::start) }
}

/// A descriptor that is readable (POLLIN, EPOLLIN) when healthz_poll_once() has work to do; -1 before
/// healthz_start(). The server owns it: watch it, but do not read from it or close it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_fd(server: *mut Healthz) -> c_int {
    let mut fd = -1;
    // SAFETY: C promises a server, used by no other thread now.
    unsafe {
        with_server(server, |server| {
            fd = server.fd();
            Ok(())
        });
    }
    fd
}

/// The longest time until healthz_poll_once() must be called again, in milliseconds, as poll(2) takes it; -1
/// for no limit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_timeout(server: *mut Healthz) -> c_int {
    let mut timeout = -1;
    // SAFETY: C promises a server, used by no other thread now.
    unsafe {
        with_server(server, |server| {
            timeout = server.timeout();
            Ok(())
        });
    }
    timeout
}

/// Waits for events for at most `timeout_ms` (0: do not wait, -1: no limit) and handles them: accepts
/// connections, reads requests and answers them. The amount of work is bounded. A signal ends the wait
/// early, with HEALTHZ_OK.
///
/// If another process that shares the listening sockets has shut down all of them, this call fails once
/// the open connections have been served, and again each time after that.
///
/// If `events` is not NULL, `*events` is the number of events handled. A loop that watches the
/// descriptor edge-triggered (EPOLLET) must call again until it is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_poll_once(
    server: *mut Healthz,
    timeout_ms: c_int,
    events: *mut usize,
) -> HealthzResult {
    // SAFETY: C promises a server, used by no other thread now, and NULL or a size_t to write to.
    unsafe {
        with_server(server, |server| {
            let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
            let count = server.poll_once(timeout)?;
            if let Some(events) = events.as_mut() {
                *events = count;
            }
            Ok(())
        })
    }
}

/// From now on the check `shutdown` fails, with the reason "process is shutting down". So `/readyz` fails, and
/// `OPTIONS /`, which is HAProxy's default check; all other answers stay as they were. Call it at SIGTERM, some
/// time before healthz_stop(), so that load balancers stop sending requests.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_shutdown(server: *mut Healthz) -> HealthzResult {
    // SAFETY: C promises a server, used by no other thread now.
    unsafe {
        with_server(server, |server| {
            server.begin_shutdown();
            Ok(())
        })
    }
}

/// Stops the server gracefully. The next healthz_poll_once() stops listening, and requests in progress get
/// `drain_ms` to finish. Call healthz_poll_once() until healthz_is_finished() is not 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_stop(server: *mut Healthz) -> HealthzResult {
    // SAFETY: C promises a server, used by no other thread now.
    unsafe { with_server(server, Healthz::stop) }
}

/// Not 0 if the server was stopped and has no open connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_is_finished(server: *mut Healthz) -> c_int {
    let mut is_finished = false;
    // SAFETY: C promises a server, used by no other thread now.
    unsafe {
        with_server(server, |server| {
            is_finished = server.is_finished();
            Ok(())
        });
    }
    is_finished.into()
}

/// Copies the counters into `*counters`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_counters(
    server: *mut Healthz,
    counters: *mut HealthzCounters,
) -> HealthzResult {
    // SAFETY: C promises a server, and NULL or counters to write to.
    unsafe {
        with_server(server, |server| {
            *out_pointer(counters, "counters")? = server.counters().into();
            Ok(())
        })
    }
}

/// The error message of the last failed call with this server: what was tried, what went wrong and what
/// to do. Never NULL; valid until the next call with this server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_error(server: *const Healthz) -> *const c_char {
    // SAFETY: C promises a server, used by no other thread now.
    match unsafe { server.as_ref() } {
        Some(server) => server.error().as_ptr(),
        None => c"the server is NULL; healthz_create() makes one".as_ptr(),
    }
}

/// Closes all sockets and frees the memory of the server and its checks. For a graceful end call
/// healthz_stop() first. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_destroy(server: *mut Healthz) {
    if !server.is_null() {
        // If this panics, which would be a bug in healthz, the memory leaks. Nothing uses it
        // afterwards, hence AssertUnwindSafe.
        // SAFETY: C promises a server that is no longer used, nor are its checks.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { Healthz::destroy(server) }));
    }
}

/// Sets the check to passing. May be called from any thread and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_pass(check: *const HealthzCheck) {
    // SAFETY: C promises NULL or a check whose server is not destroyed.
    if let Some(check) = unsafe { check.as_ref() } {
        check.0.pass();
    }
}

/// Sets the check to failing. `reason` is copied, and the answer to /healthz/NAME has it: up to 255 bytes
/// of UTF-8, where invalid bytes become question marks. NULL means "failing". May be called from any
/// thread and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_fail(check: *const HealthzCheck, reason: *const c_char) {
    // SAFETY: C promises NULL or a check whose server is not destroyed.
    let Some(check) = (unsafe { check.as_ref() }) else {
        return;
    };
    if reason.is_null() {
        return check.0.fail("failing");
    }
    // SAFETY: not null, so C promises a string that ends with a NUL.
    let bytes = unsafe { bytes_until_nul(reason, REASON_BYTES_MAX + 3) };
    check.0.fail_fmt(format_args!("{}", Lossy(bytes)));
}

/// Reports a heartbeat: the check passes until its limit has passed from now. A check from
/// healthz_add_check() is set to passing. May be called from any thread and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_beat(check: *const HealthzCheck) {
    // SAFETY: C promises NULL or a check whose server is not destroyed.
    if let Some(check) = unsafe { check.as_ref() } {
        check.0.beat(now());
    }
}

/// Not 0 if the check passes now. May be called from any thread and any signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn healthz_passes(check: *const HealthzCheck) -> c_int {
    // SAFETY: C promises NULL or a check whose server is not destroyed.
    let check = unsafe { check.as_ref() };
    check.is_some_and(|check| check.0.passes(now())).into()
}

#[cfg(test)]
#[allow(clippy::panic, reason = "the test causes a panic on purpose")]
mod tests {
    use super::HealthzResult::{HEALTHZ_BROKEN, HEALTHZ_OK};
    use super::*;

    #[test]
    fn a_panic_does_not_leave_the_call_and_later_calls_return_broken() {
        let mut server = ptr::null_mut();
        // SAFETY: every pointer is a server that exists, null, or a variable on this stack.
        unsafe {
            assert_eq!(healthz_create(ptr::null(), &mut server), HEALTHZ_OK);
            assert_eq!(with_server(server, |_| panic!("a bug")), HEALTHZ_BROKEN);
            assert_eq!(healthz_add_ping(server), HEALTHZ_BROKEN);
            assert_eq!(
                healthz_listen(server, c"127.0.0.1:0".as_ptr()),
                HEALTHZ_BROKEN
            );
            assert_eq!(healthz_start(server), HEALTHZ_BROKEN);
            assert_eq!((healthz_fd(server), healthz_timeout(server)), (-1, -1));
            let error = CStr::from_ptr(healthz_error(server));
            assert!(error.to_string_lossy().starts_with("a bug in healthz"));
            healthz_destroy(server);
            let made = create(ptr::null(), &mut server, |_| panic!("a bug"));
            assert_eq!((made, server.is_null()), (HEALTHZ_BROKEN, true));
        }
    }

    /// Regression: the descriptor stayed open, although the documentation says that the server owns it.
    #[test]
    fn a_socket_given_after_start_is_closed() {
        use std::io::Read;
        use std::os::fd::IntoRawFd;
        let (given, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut server = ptr::null_mut();
        // SAFETY: every pointer is a server that exists, or null, and the descriptor is handed over.
        unsafe {
            assert_eq!(healthz_create(ptr::null(), &mut server), HEALTHZ_OK);
            assert_eq!(healthz_listen(server, c"127.0.0.1:0".as_ptr()), HEALTHZ_OK);
            assert_eq!(healthz_start(server), HEALTHZ_OK);
            let late = healthz_listen_fd(server, given.into_raw_fd());
            assert_eq!(late, HealthzResult::HEALTHZ_INVALID);
            other.set_nonblocking(true).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap(), 0, "the socket is still open");
            healthz_destroy(server);
        }
    }

    #[test]
    fn a_reason_is_not_read_beyond_its_end() {
        // SAFETY: each ends with a NUL or is as long as the maximum.
        unsafe {
            assert_eq!(bytes_until_nul(c"short".as_ptr(), 258), b"short");
            assert_eq!(bytes_until_nul([b'x' as c_char; 4].as_ptr(), 4), b"xxxx");
        }
    }
}

//! What the daemon adds to `/metrics` is written without the allocator, because the server's thread writes it.
//!
//! The daemon is a program, so its module is compiled here instead.
#![cfg(feature = "daemon")]
#![cfg(test)]

#[path = "support/allocations.rs"]
mod allocations;

#[path = "../src/daemon"]
#[allow(dead_code, reason = "the callers in the daemon are not compiled here")]
mod daemon {
    pub mod metrics;
    #[cfg(target_os = "linux")]
    mod sys;
    /// In place of the daemon's log.
    mod log {
        pub fn dropped() -> u64 {
            0
        }
    }
}

use std::cell::Cell;

use allocations::Counting;
use healthz::http::{Connection, Context, Date};
use healthz::{Instant, Limits, Responder};

thread_local! {
    /// Calls of the allocator. Constant and without a destructor: reading it allocates nothing.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(|_| CALLS.set(CALLS.get() + 1));

#[test]
fn a_scrape_of_the_daemon_does_not_allocate() {
    daemon::metrics::prepare();
    let responder = Responder::new(&[]).with_metrics(daemon::metrics::METRICS);
    let date = Date::from_unix_seconds(1_000_000);
    let context = Context {
        now: Instant::ZERO,
        date: Some(&date),
        limits: &Limits::DEFAULT,
        is_last: false,
        tx_bytes_max: 64 * 1024,
    };
    let mut tx = vec![0; 64 * 1024];
    let head = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..3 {
        let before = CALLS.get();
        let mut connection = Connection::new(Instant::ZERO);
        let progress = connection.receive(&context, head, &mut tx, &mut |request, writer| {
            responder.respond(Instant::ZERO, request, writer)
        });
        assert_eq!(CALLS.get() - before, 0);
        let text = std::str::from_utf8(&tx[..progress.written]).unwrap();
        assert!(text.contains("\nhealthz_build_info{"), "{text}");
        #[cfg(target_os = "linux")]
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }
}

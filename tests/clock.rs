//! A clock that stands still, jumps, or reaches its largest value: the server still answers, ends only overdue
//! connections, and never waits for a time that cannot come.
#![cfg(feature = "server")]
#![cfg(test)]

#[path = "support/harness.rs"]
mod harness;

use std::io::Write;
use std::time::Duration;

use harness::{GET, Harness, LAST, answer, is_silent, rest};
use healthz::server::Config;
use healthz::{Instant, Limits};

/// A server that was made at 1 ms and is then at `now`.
fn harness_at(now: u64) -> Harness {
    let mut harness = Harness::with(Config::default());
    harness.now = Instant::from_millis(now);
    harness.work();
    harness
}

#[test]
fn while_the_clock_stands_still_requests_are_answered_and_no_deadline_passes() {
    for now in [0, 1, 1 << 40, u64::MAX - 1, u64::MAX] {
        let mut harness = harness_at(now);
        let mut half = harness.send(b"GET /he");
        for _ in 0..200 {
            harness.assert_probe_is_answered();
        }
        // At the largest value no deadline can lie ahead, and at the one before only by 1 ms, so an unfinished head
        // may be ended there.
        if now < u64::MAX - 1 {
            assert!(is_silent(&mut half), "at {now}");
            half.write_all(LAST.get(7..).unwrap()).unwrap();
            harness.work();
            assert!(rest(&mut half).ends_with("ok"), "at {now}");
            assert_eq!(harness.server.counters().expired, 0);
        }
    }
}

#[test]
fn a_clock_that_jumps_ends_only_overdue_connections() {
    let limits = Limits::DEFAULT;
    let millis = |duration: Duration| duration.as_millis() as u64;
    let (head, idle) = (millis(limits.head_duration), millis(limits.idle_duration));
    for (jump, heads_left, idle_left) in [
        (head - 1, true, true),
        (head, false, true),
        (idle - 1, false, true),
        (idle, false, false),
        (1 << 50, false, false),
        (u64::MAX, false, false),
    ] {
        let mut harness = harness_at(5);
        let mut half = harness.send(b"GET /he");
        let mut kept = harness.send(GET);
        answer(&mut kept);
        harness.pass(Duration::from_millis(jump));
        assert_eq!(is_silent(&mut half), heads_left, "half a head after {jump}");
        assert_eq!(is_silent(&mut kept), idle_left, "an idle one after {jump}");
        let left = u64::from(heads_left) + u64::from(idle_left);
        assert_eq!(harness.server.counters().open, left, "after {jump}");
        harness.assert_probe_is_answered();
    }
}

/// The clock of `Runner` never goes back; that of an embedder may.
#[test]
fn a_clock_that_goes_back_delays_deadlines_and_requests_are_answered() {
    let mut harness = harness_at(1 << 40);
    let mut half = harness.send(b"GET /he");
    for now in [1 << 39, 1, 0] {
        harness.now = Instant::from_millis(now);
        harness.assert_probe_is_answered();
        assert!(is_silent(&mut half), "at {now}");
    }
    // The clock passes the deadline that was set before it went back.
    harness.now = Instant::from_millis((1 << 40) + 3_600_000);
    harness.work();
    assert!(rest(&mut half).starts_with("HTTP/1.1 408 "));
    harness.assert_probe_is_answered();
    assert_eq!(harness.server.counters().open, 0);
}

//! A clock that stands still, jumps, or comes to its end: the server goes on answering, ends what is
//! overdue and nothing else, and never waits for a time that will not come.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/harness.rs"]
mod harness;

use std::io::Write;
use std::time::Duration;

use harness::{GET, Harness, LAST, answer, is_silent, rest};
use healthz::server::Config;
use healthz::{Instant, Limits};

/// A server that was opened at 1 ms and finds itself at `now`.
fn door_at(now: u64) -> Harness {
    let mut door = Harness::with(Config::default());
    door.now = Instant::from_millis(now);
    door.work();
    door
}

#[test]
fn while_the_clock_stands_still_everybody_is_answered_and_nobody_is_late() {
    for now in [0, 1, 1 << 40, u64::MAX - 1, u64::MAX] {
        let mut door = door_at(now);
        let mut half = door.send(b"GET /he");
        for _ in 0..200 {
            door.assert_probe_is_answered();
        }
        // At the end of time no deadline can lie ahead: who is half done may be ended there.
        if now < u64::MAX - 1 {
            assert!(is_silent(&mut half), "at {now}");
            half.write_all(LAST.get(7..).unwrap()).unwrap();
            door.work();
            assert!(rest(&mut half).ends_with("ok"), "at {now}");
            assert_eq!(door.server.counters().expired, 0);
        }
    }
}

#[test]
fn a_clock_that_jumps_ends_who_is_overdue_and_nobody_else() {
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
        let mut door = door_at(5);
        let mut half = door.send(b"GET /he");
        let mut kept = door.send(GET);
        answer(&mut kept);
        door.pass(Duration::from_millis(jump));
        assert_eq!(is_silent(&mut half), heads_left, "half a head after {jump}");
        assert_eq!(is_silent(&mut kept), idle_left, "an idle one after {jump}");
        let left = u64::from(heads_left) + u64::from(idle_left);
        assert_eq!(door.server.counters().open, left, "after {jump}");
        door.assert_probe_is_answered();
    }
}

/// No clock of ours does it; an embedder's may.
#[test]
fn a_clock_that_goes_back_delays_deadlines_and_answers_all_the_same() {
    let mut door = door_at(1 << 40);
    let mut half = door.send(b"GET /he");
    for now in [1 << 39, 1, 0] {
        door.now = Instant::from_millis(now);
        door.assert_probe_is_answered();
        assert!(is_silent(&mut half), "at {now}");
    }
    // As if it had begun at zero, like a counter that wraps around.
    door.now = Instant::from_millis((1 << 40) + 3_600_000);
    door.work();
    assert!(rest(&mut half).starts_with("HTTP/1.1 408 "));
    door.assert_probe_is_answered();
    assert_eq!(door.server.counters().open, 0);
}

//! Every kind of check after every pair of updates, read at every relevant time, against a model that
//! stores the last update.
#![cfg(test)]

use std::time::Duration;

use healthz::{Check, Health, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Update {
    Pass,
    Fail(&'static str),
    Beat(u64),
    Open,
    Shutdown,
}

const LIMIT: u64 = 1000;
/// Around zero, around the end of a beat, and around `u64::MAX`, where no sum may overflow.
const TIMES: [u64; 12] = [
    0,
    1,
    2,
    LIMIT - 1,
    LIMIT,
    LIMIT + 1,
    2 * LIMIT,
    1 << 63,
    u64::MAX - LIMIT - 1,
    u64::MAX - 3,
    u64::MAX - 1,
    u64::MAX,
];

fn updates() -> Vec<Update> {
    let long = "a reason that is quite a bit longer than the other one, \u{e9} and all";
    let others = [
        Update::Pass,
        Update::Fail(""),
        Update::Fail("short"),
        Update::Fail(long),
        Update::Open,
        Update::Shutdown,
    ];
    let beats = TIMES.map(Update::Beat);
    others.into_iter().chain(beats).collect()
}

fn apply(check: &Check, update: Update) {
    match update {
        Update::Pass => check.pass(),
        Update::Fail(reason) => check.fail(reason),
        Update::Beat(at) => check.beat(Instant::from_millis(at)),
        Update::Open => check.open(),
        Update::Shutdown => check.begin_shutdown(),
    }
}

/// A kind of check, and its state before the first update.
struct Kind {
    make: fn() -> Check,
    /// True if a beat passes for a limited time only.
    beats_end: bool,
    initial: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passes(Health),
    Fails(Health, &'static str),
    PassesBefore(u64),
}

const KINDS: [Kind; 6] = [
    Kind {
        make: || Check::manual("a"),
        beats_end: false,
        initial: Verdict::Fails(Health::Unknown, "not reported yet"),
    },
    Kind {
        make: || Check::manual("a").initially_passing(),
        beats_end: false,
        initial: Verdict::Passes(Health::Unknown),
    },
    Kind {
        make: || Check::heartbeat("a", Duration::from_millis(LIMIT)).overdue("late"),
        beats_end: true,
        initial: Verdict::Passes(Health::Unknown),
    },
    Kind {
        make: || {
            let check = Check::heartbeat("a", Duration::from_millis(LIMIT)).overdue("late");
            check.initially_failing()
        },
        beats_end: true,
        initial: Verdict::Fails(Health::Unknown, "not reported yet"),
    },
    Kind {
        make: || Check::gate("a"),
        beats_end: false,
        initial: Verdict::Fails(Health::Unknown, "not reported yet"),
    },
    Kind {
        make: Check::shutdown,
        beats_end: false,
        initial: Verdict::Passes(Health::Passing),
    },
];

/// The state of a check after an update, which replaces every earlier one.
fn after(kind: &Kind, update: Update) -> Verdict {
    match update {
        Update::Pass | Update::Open => Verdict::Passes(Health::Passing),
        Update::Fail(reason) => Verdict::Fails(Health::Failing, reason),
        Update::Shutdown => Verdict::Fails(Health::Failing, "process is shutting down"),
        Update::Beat(at) if kind.beats_end => Verdict::PassesBefore(at.saturating_add(LIMIT)),
        Update::Beat(_) => Verdict::Passes(Health::Passing),
    }
}

fn assert_is(check: &Check, verdict: Verdict, what: &str) {
    for time in TIMES {
        // Near 0 and u64::MAX the stored integer has some values for other states, so a beat there may end
        // a few milliseconds early or late. No real clock has these values.
        let is_at_an_end = |until: u64| until <= 3 || until >= u64::MAX - 3;
        let (health, reason) = match verdict {
            Verdict::PassesBefore(until) if is_at_an_end(until) && until.abs_diff(time) <= 3 => {
                continue;
            }
            Verdict::PassesBefore(until) if time < until => (Health::Passing, None),
            Verdict::PassesBefore(_) => (Health::Failing, Some("late")),
            Verdict::Passes(health) => (health, None),
            Verdict::Fails(health, reason) => (health, Some(reason)),
        };
        let now = Instant::from_millis(time);
        let what = format!("{what} at {time}");
        assert_eq!(check.passes(now), reason.is_none(), "{what}");
        assert_eq!(check.health(now), health, "{what}");
        let text = check.reason(now);
        assert_eq!(text.as_ref().map(|text| text.as_str()), reason, "{what}");
    }
}

#[test]
fn the_last_of_two_updates_alone_decides_the_state_of_a_check() {
    let updates = updates();
    for (index, kind) in KINDS.iter().enumerate() {
        assert_is(&(kind.make)(), kind.initial, &format!("kind {index}"));
        for first in &updates {
            for second in &updates {
                let check = (kind.make)();
                apply(&check, *first);
                assert_is(
                    &check,
                    after(kind, *first),
                    &format!("kind {index} after {first:?}"),
                );
                apply(&check, *second);
                let what = format!("kind {index} after {first:?} and {second:?}");
                assert_is(&check, after(kind, *second), &what);
            }
        }
    }
}

#[test]
fn no_update_changes_a_ping_check() {
    for update in updates() {
        let check = Check::ping().initially_failing();
        apply(&check, update);
        assert_is(
            &check,
            Verdict::Passes(Health::Passing),
            &format!("{update:?}"),
        );
    }
}

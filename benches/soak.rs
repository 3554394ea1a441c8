//! Half an hour of everything: `cargo bench --bench soak -- --minutes 30`.
//!
//! The daemon with default settings, and rounds of ten seconds each of every way of
//! `support/attack.rs` with honest probes beside them, one connection each, and of honest clients alone
//! who keep their connections. After each round everybody leaves, and what the daemon then holds must
//! be flat: descriptors and threads what they were after the first round; its own memory what it was in
//! the middle, to four pages, because attackers need some rounds to fill every buffer there is; and
//! never more than `--help` says beside what it was at the start. No probe may be unanswered or wrong,
//! and at the end the daemon's own count of its answers must be no less than the clients'.
//!
//! Under `cargo test --benches` the rounds are two and short.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/attack.rs"]
mod attack;
#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/door.rs"]
mod door;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
mod support;
#[path = "support/table.rs"]
mod table;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use attack::Attack;
use crowd::Crowd;
use door::Door;
use hdrhistogram::Histogram;
use load::{Mode, Plan, Right, Tally, Wait};
use process::Memory;
use support::{Checksum, thousands};
use table::Table;

/// Probes a second, and so many connections of those that keep them.
const RATE: u32 = 100;
const KEPT: usize = 32;
/// A kubelet waits for a second; who comes later than this was not answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Four pages: a stack may have been a little deeper once.
const GROWTH_BYTES_MAX: u64 = 16 * 1024;
/// Rows that are printed, at most, beside the first and the last.
const ROWS_MAX: usize = 10;

struct Sizes {
    duration: Duration,
    attackers: usize,
    /// Seconds after which an attacker that was thrown out comes back.
    again: u64,
    /// Probes beside one attack.
    probes: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "attack", name, address, count, again] => {
            crowd::serve(name, address, count, again);
        }
        _ => soak(),
    }
}

fn soak() {
    let is_full = support::is_full();
    let minutes: f64 = support::option("--minutes").unwrap_or(if is_full { 30.0 } else { 0.0 });
    let sizes = Sizes {
        duration: Duration::from_secs_f64(minutes * 60.0),
        attackers: if is_full { 500 } else { 80 },
        again: 2,
        probes: if is_full { 1000 } else { 30 },
    };
    println!("{}\n", support::environment());
    println!(
        "{minutes} minutes; {} attackers at once, {} probes beside each attack\n",
        thousands(sizes.attackers as u64),
        thousands(sizes.probes)
    );
    let began = Instant::now();
    let program = Path::new(env!("CARGO_BIN_EXE_healthz"));
    let door = Door::daemon(program);
    let start = State::of(door.id(), began);
    let mut sum = Sum::new();
    let mut states = Vec::new();
    // At least two: the second is compared with the first.
    while states.len() < 2 || began.elapsed() < sizes.duration {
        round(door.address, &sizes, &mut sum);
        states.push(State::rested(door.id(), began, start.descriptors, &sum));
    }
    let last_word = door.stop_daemon();
    print(&start, &states);
    println!("the daemon's last word: {last_word}");
    println!(
        "probes: {} answered of {}, p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms; {} connections of attackers",
        thousands(sum.answered),
        thousands(sum.asked),
        sum.ms(0.5),
        sum.ms(0.99),
        sum.ms(1.0),
        thousands(sum.attackers)
    );
    println!("checksum {}", sum.checksum);
    let mut wrong = verdict(&states, &sum, &last_word);
    let most = start.memory.anonymous + promised(program) + GROWTH_BYTES_MAX;
    wrong.extend(memory_verdict(&states, most, is_full));
    assert!(wrong.is_empty(), "not flat: {wrong:#?}");
    println!("flat");
}

/// One round of everything.
fn round(address: SocketAddr, sizes: &Sizes, sum: &mut Sum) {
    let plan = |mode| Plan {
        address,
        mode,
        wait: Wait::Sleep,
        rate: RATE,
        count: sizes.probes,
        patience: PATIENCE,
        right: Right::Ok,
    };
    let run = |plan: Plan, what: &str| match load::run(&plan) {
        Ok(tally) => tally,
        Err(error) => panic!("{what}: {error}"),
    };
    sum.add(run(plan(Mode::KeepAlive(KEPT)), "honest clients alone"));
    for attack in Attack::ALL {
        let mut crowd = Crowd::start(attack, address, sizes.attackers, sizes.again);
        sum.add(run(plan(Mode::Close), attack.description()));
        sum.attackers += crowd.stop();
    }
}

/// What came of all probes so far.
struct Sum {
    asked: u64,
    answered: u64,
    unclosed: u64,
    attackers: u64,
    latency: Histogram<u64>,
    checksum: Checksum,
}

impl Sum {
    fn new() -> Self {
        let Tally {
            latency, checksum, ..
        } = Tally::new();
        Sum {
            asked: 0,
            answered: 0,
            unclosed: 0,
            attackers: 0,
            latency,
            checksum,
        }
    }

    fn add(&mut self, tally: Tally) {
        self.asked += tally.asked;
        self.answered += tally.answered;
        self.unclosed += tally.unclosed;
        self.latency.add(&tally.latency).unwrap();
        self.checksum.add(tally.checksum.to_string().as_bytes());
    }

    fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// What the daemon holds at a moment when nobody wants anything of it.
struct State {
    at: Duration,
    memory: Memory,
    descriptors: usize,
    threads: usize,
    answered: u64,
    unanswered: u64,
    p99: f64,
}

impl State {
    fn of(process: u32, began: Instant) -> State {
        let entries = |what: &str| {
            let directory = std::fs::read_dir(format!("/proc/{process}/{what}"));
            directory.unwrap().count()
        };
        State {
            at: began.elapsed(),
            memory: Memory::settled(process),
            descriptors: entries("fd"),
            threads: entries("task"),
            answered: 0,
            unanswered: 0,
            p99: 0.0,
        }
    }

    /// Once every connection has ended, for which it has some seconds.
    fn rested(process: u32, began: Instant, descriptors: usize, sum: &Sum) -> State {
        let patience = Instant::now() + PATIENCE;
        loop {
            let state = State::of(process, began);
            if state.descriptors <= descriptors || patience < Instant::now() {
                return State {
                    answered: sum.answered,
                    unanswered: sum.asked - sum.answered,
                    p99: sum.ms(0.99),
                    ..state
                };
            }
        }
    }
}

fn print(start: &State, states: &[State]) {
    let mut table = Table::new(&[
        "minute",
        "anonymous KiB",
        "RSS KiB",
        "descriptors",
        "threads",
        "answered",
        "unanswered",
        "p99 ms",
    ]);
    let step = states.len().div_ceil(ROWS_MAX);
    let shown = states
        .iter()
        .enumerate()
        .filter(|(index, _)| index % step == 0 || index + 1 == states.len());
    for state in [start].into_iter().chain(shown.map(|(_, state)| state)) {
        table.row([
            format!("{:.1}", state.at.as_secs_f64() / 60.0),
            thousands(state.memory.anonymous / 1024),
            thousands(state.memory.resident / 1024),
            state.descriptors.to_string(),
            state.threads.to_string(),
            thousands(state.answered),
            thousands(state.unanswered),
            format!("{:.2}", state.p99),
        ]);
    }
    table.print();
}

/// Bytes that the daemon's connections may take, as it says itself.
fn promised(program: &Path) -> u64 {
    let help = Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let kib = help.split("connections take up to ").nth(1);
    let kib = kib.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap() * 1024
}

fn memory_verdict(states: &[State], most: u64, is_full: bool) -> Option<String> {
    let anonymous = |state: &State| state.memory.anonymous;
    let highest = states.iter().map(anonymous).max()?;
    if highest > most {
        return Some(format!(
            "anonymous memory: {highest} bytes, more than the {most} it may take"
        ));
    }
    let (middle, last) = (
        anonymous(states.get(states.len() / 2)?),
        anonymous(states.last()?),
    );
    let is_growing = last > middle + GROWTH_BYTES_MAX;
    (is_full && is_growing).then(|| format!("anonymous memory: from {middle} to {last} bytes"))
}

/// What is not as it should be.
fn verdict(states: &[State], sum: &Sum, last_word: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let (Some(first), Some(last)) = (states.first(), states.last()) else {
        return vec!["nothing was measured".into()];
    };
    let mut same = |what: &str, first: usize, last: usize| {
        if first != last {
            wrong.push(format!(
                "{what}: {first} after the first round, {last} after the last"
            ));
        }
    };
    same("descriptors", first.descriptors, last.descriptors);
    same("threads", first.threads, last.threads);
    same("unanswered", 0, (sum.asked - sum.answered) as usize);
    same("not closed in order", 0, sum.unclosed as usize);
    let counted = last_word.split(' ').next().and_then(|n| n.parse().ok());
    if counted.is_none_or(|counted: u64| counted < sum.answered) {
        wrong.push(format!(
            "answers: clients saw {}, the daemon {last_word}",
            sum.answered
        ));
    }
    wrong
}

//! Half an hour of everything: `cargo bench --bench soak -- --minutes 30`.
//!
//! The daemon with default settings (but for a Unix socket beside its TCP one, and a log that counts as
//! blocked sooner), and rounds of honest clients alone who keep their connections, then every way of
//! `support/attack.rs`, in every other round together with a second one, and at last a spell in which the
//! daemon's log is blocked and every answer has to say so. Beside each attack there are honest probes,
//! one connection each, and two honest clients that keep theirs, over TCP and over the Unix socket.
//!
//! After each round everybody leaves, and what the daemon then holds must be flat: descriptors and
//! threads what they were before the first; its own memory what it was in the middle, to four pages,
//! because attackers need some rounds to fill every buffer there is; and never more than `--help` says
//! beside what it was at the start. No probe may be unanswered or wrong, nor more than one in a thousand
//! later than a second. What the daemon itself counted must fit: no fewer answers than clients had and
//! connections than they made, no shortage, no more failures than attackers, and no fewer evictions than
//! connections that ended under who keeps them.
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
#[path = "support/kept.rs"]
mod kept;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
mod support;
#[path = "support/table.rs"]
mod table;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use attack::Attack;
use crowd::Crowd;
use door::Door;
use healthz::server::Address;
use kept::Kept;
use load::{Mode, Plan, Right, Tally, Wait};
use process::Memory;
use support::thousands;
use table::Table;

/// Probes a second, and so many connections of those that keep them.
const RATE: u32 = 100;
const KEPT: usize = 32;
/// A kubelet waits for a second, and how many come later is told and judged. But in half an hour the
/// kernel may find a listener's queue full while others have the daemon's CPU, and a client's second try
/// comes after that second: only who comes later than this was not answered.
const PATIENCE: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(1);
/// One in so many probes may be later than that.
const PROBES_PER_LATE: u64 = 1000;
/// Of a small run, which is no measurement.
const PATIENCE_SMALL: Duration = Duration::from_secs(30);
/// For connections to end once everybody has left, and beyond its limit for a check to change.
const REST: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
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
    patience: Duration,
    /// How long the daemon's log may be blocked before it says so.
    log_limit: Duration,
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
        patience: if is_full { PATIENCE } else { PATIENCE_SMALL },
        log_limit: Duration::from_secs(if is_full { 5 } else { 2 }),
    };
    println!("{}\n", support::environment());
    println!(
        "{minutes} minutes; {} attackers at once, {} probes beside each attack\n",
        thousands(sizes.attackers as u64),
        thousands(sizes.probes)
    );
    let began = Instant::now();
    let dropped = process::listen_drops();
    let program = Path::new(env!("CARGO_BIN_EXE_healthz"));
    let path = std::env::temp_dir().join(format!("healthz-soak-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    let log_limit = format!("{}ms", sizes.log_limit.as_millis());
    let arguments = ["--listen", &listen, "--log-limit", &log_limit];
    let mut door = Door::daemon_with(program, &arguments);
    let places = [Address::Tcp(door.address), Address::Unix(path)];
    let start = State::of(door.id(), began);
    let mut sum = Sum::new();
    let mut states = Vec::new();
    // At least two: with a second attack at once, and without.
    while states.len() < 2 || began.elapsed() < sizes.duration {
        round(&mut door, &places, &sizes, states.len(), &mut sum);
        states.push(State::rested(door.id(), began, start.descriptors, &sum));
    }
    let last_word = door.stop_daemon();
    print(&start, &states);
    let counted = Counted::of(&last_word);
    counted.print();
    let Sum { probes, kept, .. } = &sum;
    println!(
        "probes: {} answered of {}, p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms, {} later than a second;\n\
         {} connections of attackers, {} packets found a listener's queue full",
        thousands(probes.answered),
        thousands(probes.asked),
        probes.ms(0.5),
        probes.ms(0.99),
        probes.ms(1.0),
        probes.later_than(LATE),
        thousands(sum.attackers),
        thousands(process::listen_drops() - dropped)
    );
    println!(
        "who keeps a connection: {} answered of {} on {} connections, {} asked again, most {:.2} ms",
        thousands(kept.answered),
        thousands(kept.asked),
        thousands(kept.connections),
        thousands(kept.repeats),
        kept.most.as_secs_f64() * 1000.0
    );
    println!("checksum {}", probes.checksum);
    if !probes.lost.is_empty() {
        println!("lost: {:#?}", probes.lost);
    }
    let mut wrong = verdict(&start, &states, &sum, &counted);
    let late = probes.later_than(LATE);
    if is_full && late * PROBES_PER_LATE > probes.asked {
        wrong.push(format!("probes later than a second: {late}"));
    }
    let most = start.memory.anonymous + promised(program) + GROWTH_BYTES_MAX;
    wrong.extend(memory_verdict(&states, most, is_full));
    assert!(wrong.is_empty(), "not flat: {wrong:#?}");
    println!("flat");
}

/// One round of everything.
fn round(door: &mut Door, places: &[Address; 2], sizes: &Sizes, number: usize, sum: &mut Sum) {
    let plan = plan(door, sizes, Mode::KeepAlive(KEPT), Right::Ok);
    match load::run(&plan) {
        Ok(tally) => sum.probes.add(&tally),
        Err(error) => panic!("honest clients alone: {error}"),
    }
    let all = Attack::ALL;
    for (index, attack) in all.into_iter().enumerate() {
        // Somebody else in every such round.
        let other = all[(index + 1 + number / 2 % (all.len() - 1)) % all.len()];
        let both = [attack, other];
        let attacks = &both[..1 + number % 2];
        beside(attacks, Right::Ok, door, places, sizes, sum);
    }
    let filled = door.block_log();
    wait_for("500", door, sizes);
    let attack = all[number % all.len()];
    beside(
        &[attack],
        Right::Failing("log".into()),
        door,
        places,
        sizes,
        sum,
    );
    door.unblock_log(filled);
    wait_for("200", door, sizes);
}

fn plan(door: &Door, sizes: &Sizes, mode: Mode, right: Right) -> Plan {
    Plan {
        address: door.address,
        mode,
        wait: Wait::Sleep,
        rate: RATE,
        count: sizes.probes,
        patience: sizes.patience,
        right,
    }
}

/// Honest clients of all kinds beside these attacks.
fn beside(
    attacks: &[Attack],
    right: Right,
    door: &Door,
    places: &[Address; 2],
    sizes: &Sizes,
    sum: &mut Sum,
) {
    let start = |attack: &Attack| {
        let crowd = Crowd::start(*attack, door.address, sizes.attackers, sizes.again);
        (*attack, crowd)
    };
    let crowds: Vec<(Attack, Crowd)> = attacks.iter().map(start).collect();
    let is_over = AtomicBool::new(false);
    let plan = plan(door, sizes, Mode::Close, right);
    let explain = |error: &dyn std::fmt::Display| -> ! { panic!("{attacks:?}: {error}") };
    std::thread::scope(|scope| {
        let run = |place| kept::run(place, &plan.right, sizes.patience, &is_over);
        let [tcp, unix] = places
            .each_ref()
            .map(|place| scope.spawn(move || run(place)));
        let tally = load::run(&plan);
        // Before anything can panic: it would wait for them.
        is_over.store(true, Ordering::Relaxed);
        for kept in [tcp, unix] {
            match kept.join().unwrap() {
                Ok(kept) => sum.kept.add(kept),
                Err(error) => explain(&error),
            }
        }
        match tally {
            Ok(tally) => {
                sum.connections += tally.answered;
                sum.probes.add(&tally);
            }
            Err(error) => explain(&error),
        }
    });
    for (attack, mut crowd) in crowds {
        let made = crowd.stop();
        sum.attackers += made;
        sum.unseen += attack.unseen(made);
    }
}

/// Until the daemon answers with this status.
fn wait_for(status: &str, door: &Door, sizes: &Sizes) {
    let patience = Instant::now() + sizes.log_limit + REST;
    let line = format!("HTTP/1.1 {status} ");
    let is_there = || {
        let mut answer = Vec::new();
        let mut stream = TcpStream::connect(door.address)?;
        stream.write_all(load::REQUEST_CLOSE)?;
        stream.read_to_end(&mut answer)?;
        std::io::Result::Ok(answer.starts_with(line.as_bytes()))
    };
    while !is_there().unwrap() {
        assert!(Instant::now() < patience, "no {status}");
        std::thread::sleep(LOOK);
    }
}

/// What came of all clients so far.
struct Sum {
    probes: Tally,
    /// Connections of those probes that had one each, and their answer.
    connections: u64,
    kept: Kept,
    /// Connections of attackers, and of them those that the daemon may not have seen.
    attackers: u64,
    unseen: u64,
}

impl Sum {
    fn new() -> Self {
        Sum {
            probes: Tally::new(),
            connections: 0,
            kept: Kept::default(),
            attackers: 0,
            unseen: 0,
        }
    }

    fn answered(&self) -> u64 {
        self.probes.answered + self.kept.answered
    }

    fn unanswered(&self) -> u64 {
        self.probes.unanswered() + (self.kept.asked - self.kept.answered)
    }
}

/// What the daemon counted, by its last word.
#[derive(Default)]
struct Counted {
    answered: u64,
    accepted: u64,
    /// What else happened, in the daemon's words.
    others: Vec<(u64, String)>,
}

impl Counted {
    /// `2 requests answered on 1 connections, 3 failed, 4 pauses`.
    fn of(last_word: &str) -> Counted {
        let numbered = |part: &str| {
            let (number, what) = part.split_once(' ')?;
            Some((number.parse().ok()?, what.to_owned()))
        };
        let mut parts = last_word.split(", ").map(|part| match numbered(part) {
            Some(numbered) => numbered,
            None => panic!("the daemon's last word: {last_word}"),
        });
        let (answered, on) = parts.next().unwrap();
        let accepted = on.split(' ').find_map(|word| word.parse().ok());
        Counted {
            answered,
            accepted: accepted.unwrap(),
            others: parts.collect(),
        }
    }

    fn other(&self, name: &str) -> u64 {
        let mut others = self.others.iter();
        let found = others.find(|(_, what)| what == name);
        found.map_or(0, |(count, _)| *count)
    }

    fn print(&self) {
        let mut table = Table::new(&["the daemon counted", ""]);
        table.row(["connections".to_owned(), thousands(self.accepted)]);
        table.row(["answered".to_owned(), thousands(self.answered)]);
        for name in ["refused", "evicted", "expired", "failed", "pauses"] {
            table.row([name.to_owned(), thousands(self.other(name))]);
        }
        table.print();
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
        let patience = Instant::now() + REST;
        loop {
            let state = State::of(process, began);
            if state.descriptors <= descriptors || patience < Instant::now() {
                return State {
                    answered: sum.answered(),
                    unanswered: sum.unanswered(),
                    p99: sum.probes.ms(0.99),
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
fn verdict(start: &State, states: &[State], sum: &Sum, counted: &Counted) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut same = |what: &str, first: usize, last: usize| {
        if first != last {
            wrong.push(format!("{what}: {first} at the start, then {last}"));
        }
    };
    for state in states {
        same("descriptors", start.descriptors, state.descriptors);
        same("threads", start.threads, state.threads);
    }
    same("unanswered", 0, sum.unanswered() as usize);
    same("not closed in order", 0, sum.probes.unclosed as usize);
    same("pauses", 0, counted.other("pauses") as usize);
    let mut no_less = |what: &str, more: u64, less: u64| {
        if more < less {
            wrong.push(format!("{what}: {more} and {less}"));
        }
    };
    no_less(
        "answers that the daemon counted, and that clients had",
        counted.answered,
        sum.answered(),
    );
    no_less(
        "connections that the daemon counted, and that clients made",
        counted.accepted,
        sum.attackers - sum.unseen + sum.connections + sum.kept.connections,
    );
    // Nobody honest resets a connection, and the system has what is needed.
    no_less(
        "attackers, and connections that failed",
        sum.attackers,
        counted.other("failed"),
    );
    no_less(
        "connections that the daemon evicted, and those that ended under who keeps one",
        counted.other("evicted"),
        sum.kept.repeats,
    );
    wrong
}

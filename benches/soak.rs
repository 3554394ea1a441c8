//! A long run of the daemon under attack: `cargo bench --bench soak -- --minutes 30`.
//!
//! The daemon has default settings, plus a Unix socket and a shorter `--log-limit`. A round has three parts:
//!
//! - Well-behaved keep-alive clients alone.
//! - Each attack of `support/attack.rs`, in every second round together with another attack.
//! - A time in which the daemon's log is blocked. Every response must then report that.
//!
//! During each attack there are well-behaved probes with one connection each, and two clients that keep their
//! connections, over TCP and over the Unix socket.
//!
//! After each round all clients disconnect, and the daemon must not have grown. It must have as many descriptors
//! and threads as at the start. Its anonymous memory must be at most four pages above that in the middle of the
//! run, because attackers need some rounds to fill all buffers; and never above that at the start plus the memory
//! that `--help` prints.
//! No response may be wrong or missing, and at most one probe in a thousand may take longer than a second.
//! The daemon's own counters must agree with those of the clients.
//!
//! Under `cargo test --benches` there are two short rounds.
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
#[path = "support/keep_alive.rs"]
mod keep_alive;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;
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
use healthz::server::Address;
use keep_alive::KeepAliveResults;
use load::{Expected, Mode, Plan, Results, Wait};
use process::Memory;
use server::ServerProcess;
use support::thousands;
use table::Table;

/// Probes per second, and connections of the keep-alive clients.
const RATE: u32 = 100;
const KEEP_ALIVE_CONNECTIONS: usize = 32;
/// After this time a probe counts as unanswered. The timeout of a kubelet is one second, and later responses
/// are counted (`LATE`). But in a long run the kernel may drop a connection attempt while the daemon waits for
/// a CPU, and the client's next attempt comes a second later.
const TIMEOUT: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(1);
/// At most one probe in this many may be later than `LATE`.
const PROBES_PER_LATE: u64 = 1000;
/// The timeout in a small run, which is no measurement.
const TIMEOUT_SMALL: Duration = Duration::from_secs(30);
/// Time for connections to end after the clients have disconnected, and for a check to change after its
/// limit.
const REST: Duration = Duration::from_secs(10);
/// Pause between two requests in `wait_for`.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Four pages, because a stack may have grown a little.
const GROWTH_BYTES_MAX: u64 = 16 * 1024;
/// Most rows of the table, without the first and the last.
const ROWS_MAX: usize = 10;

struct Sizes {
    duration: Duration,
    attackers: usize,
    /// Seconds after which an evicted attacker connects again.
    again: u64,
    /// Probes during one attack.
    probes: u64,
    timeout: Duration,
    /// How long the daemon's log may be blocked before the check `log` fails.
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
        timeout: if is_full { TIMEOUT } else { TIMEOUT_SMALL },
        log_limit: Duration::from_secs(if is_full { 5 } else { 2 }),
    };
    println!("{}\n", support::environment());
    println!(
        "{minutes} minutes; {} concurrent attackers, {} probes during each attack\n",
        thousands(sizes.attackers as u64),
        thousands(sizes.probes)
    );
    let started = Instant::now();
    let dropped = process::listen_drops();
    let program = Path::new(env!("CARGO_BIN_EXE_healthz"));
    let path = std::env::temp_dir().join(format!("healthz-soak-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    let log_limit = format!("{}ms", sizes.log_limit.as_millis());
    let arguments = ["--listen", &listen, "--log-limit", &log_limit];
    let mut daemon = ServerProcess::daemon_with(program, &arguments);
    let addresses = [Address::Tcp(daemon.address), Address::Unix(path)];
    let start = State::of(daemon.id(), started);
    let mut totals = Totals::new();
    let mut states = Vec::new();
    // At least two rounds: with one attack at a time, and with two.
    while states.len() < 2 || started.elapsed() < sizes.duration {
        round(&mut daemon, &addresses, &sizes, states.len(), &mut totals);
        states.push(State::at_rest(
            daemon.id(),
            started,
            start.descriptors,
            &totals,
        ));
    }
    let last_line = daemon.stop_daemon();
    print(&start, &states);
    let counters = DaemonCounters::parse(&last_line);
    counters.print();
    let Totals { probes, kept, .. } = &totals;
    println!(
        "probes: {} of {} answered, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, {} later than a second;\n\
         {} connections of attackers; {} connections dropped because the queue of a listener was full",
        thousands(probes.answered),
        thousands(probes.sent),
        probes.ms(0.5),
        probes.ms(0.99),
        probes.ms(1.0),
        probes.later_than(LATE),
        thousands(totals.attackers),
        thousands(process::listen_drops() - dropped)
    );
    println!(
        "keep-alive clients: {} of {} requests answered on {} connections, {} repeated, max {:.2} ms",
        thousands(kept.answered),
        thousands(kept.sent),
        thousands(kept.connections),
        thousands(kept.repeats),
        kept.slowest.as_secs_f64() * 1000.0
    );
    println!("checksum {}", probes.checksum);
    if !probes.lost.is_empty() {
        println!("unanswered probes: {:#?}", probes.lost);
    }
    let mut wrong = problems(&start, &states, &totals, &counters);
    let late = probes.later_than(LATE);
    if is_full && late * PROBES_PER_LATE > probes.sent {
        wrong.push(format!("probes later than a second: {late}"));
    }
    let most = start.memory.anonymous + promised_bytes(program) + GROWTH_BYTES_MAX;
    wrong.extend(memory_problem(&states, most, is_full));
    assert!(wrong.is_empty(), "failed: {wrong:#?}");
    println!("passed: the daemon did not grow");
}

/// One round: clients alone, all attacks, and a blocked log.
fn round(
    daemon: &mut ServerProcess,
    addresses: &[Address; 2],
    sizes: &Sizes,
    number: usize,
    totals: &mut Totals,
) {
    let plan = plan(
        daemon,
        sizes,
        Mode::KeepAlive(KEEP_ALIVE_CONNECTIONS),
        Expected::Ok,
    );
    match load::run(&plan) {
        Ok(results) => totals.probes.add(&results),
        Err(error) => panic!("clients without an attack: {error}"),
    }
    let all = Attack::ALL;
    for (index, attack) in all.into_iter().enumerate() {
        // The second attack is another one in each round.
        let other = all[(index + 1 + number / 2 % (all.len() - 1)) % all.len()];
        let both = [attack, other];
        let attacks = &both[..1 + number % 2];
        run_clients_during(attacks, Expected::Ok, daemon, addresses, sizes, totals);
    }
    let filled = daemon.block_log();
    wait_for("500", daemon, sizes);
    let attack = all[number % all.len()];
    run_clients_during(
        &[attack],
        Expected::Failing("log".into()),
        daemon,
        addresses,
        sizes,
        totals,
    );
    daemon.unblock_log(filled);
    wait_for("200", daemon, sizes);
}

fn plan(daemon: &ServerProcess, sizes: &Sizes, mode: Mode, expected: Expected) -> Plan {
    Plan {
        address: daemon.address,
        mode,
        wait: Wait::Sleep,
        rate: RATE,
        count: sizes.probes,
        timeout: sizes.timeout,
        path: load::PATH.into(),
        expected,
    }
}

/// Runs well-behaved clients during these attacks.
fn run_clients_during(
    attacks: &[Attack],
    expected: Expected,
    daemon: &ServerProcess,
    addresses: &[Address; 2],
    sizes: &Sizes,
    totals: &mut Totals,
) {
    let start = |attack: &Attack| {
        let crowd = Crowd::start(*attack, daemon.address, sizes.attackers, sizes.again);
        (*attack, crowd)
    };
    let crowds: Vec<(Attack, Crowd)> = attacks.iter().map(start).collect();
    let is_over = AtomicBool::new(false);
    let plan = plan(daemon, sizes, Mode::Close, expected);
    let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{attacks:?}: {error}") };
    std::thread::scope(|scope| {
        let run = |address| keep_alive::run(address, &plan.expected, sizes.timeout, &is_over);
        let [tcp, unix] = addresses
            .each_ref()
            .map(|address| scope.spawn(move || run(address)));
        let results = load::run(&plan);
        // First, because a panic in this scope would wait for these threads.
        is_over.store(true, Ordering::Relaxed);
        for kept in [tcp, unix] {
            match kept.join().unwrap() {
                Ok(kept) => totals.kept.add(kept),
                Err(error) => fail(&error),
            }
        }
        match results {
            Ok(results) => {
                totals.connections += results.answered;
                totals.probes.add(&results);
            }
            Err(error) => fail(&error),
        }
    });
    for (attack, mut crowd) in crowds {
        let made = crowd.stop();
        totals.attackers += made;
        totals.unseen += attack.unseen(made);
    }
}

/// Waits until the daemon responds with this status.
fn wait_for(status: &str, daemon: &ServerProcess, sizes: &Sizes) {
    let timeout = Instant::now() + sizes.log_limit + REST;
    let line = format!("HTTP/1.1 {status} ");
    let is_there = || {
        let mut answer = Vec::new();
        let mut stream = TcpStream::connect(daemon.address)?;
        stream.write_all(load::REQUEST_CLOSE)?;
        stream.read_to_end(&mut answer)?;
        std::io::Result::Ok(answer.starts_with(line.as_bytes()))
    };
    while !is_there().unwrap() {
        assert!(
            Instant::now() < timeout,
            "the daemon did not respond with {status}"
        );
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The results of all clients so far.
struct Totals {
    probes: Results,
    /// Answered probes that had one connection each.
    connections: u64,
    kept: KeepAliveResults,
    /// Connections of attackers, and how many of them the daemon may not have seen.
    attackers: u64,
    unseen: u64,
}

impl Totals {
    fn new() -> Self {
        Totals {
            probes: Results::new(),
            connections: 0,
            kept: KeepAliveResults::default(),
            attackers: 0,
            unseen: 0,
        }
    }

    fn answered(&self) -> u64 {
        self.probes.answered + self.kept.answered
    }

    fn unanswered(&self) -> u64 {
        self.probes.unanswered() + (self.kept.sent - self.kept.answered)
    }
}

/// The daemon's counters, from its last log line.
#[derive(Default)]
struct DaemonCounters {
    answered: u64,
    accepted: u64,
    /// The other counters, with the names in the log line.
    others: Vec<(u64, String)>,
}

impl DaemonCounters {
    /// Parses `2 requests answered on 1 connections, 3 failed, 4 pauses`.
    fn parse(last_line: &str) -> DaemonCounters {
        let numbered = |part: &str| {
            let (number, what) = part.split_once(' ')?;
            Some((number.parse().ok()?, what.to_owned()))
        };
        let mut parts = last_line.split(", ").map(|part| match numbered(part) {
            Some(numbered) => numbered,
            None => panic!("cannot parse the daemon's last line: {last_line}"),
        });
        let (answered, on) = parts.next().unwrap();
        let accepted = on.split(' ').find_map(|word| word.parse().ok());
        DaemonCounters {
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
        let mut table = Table::new(&["daemon counter", "value"]);
        table.row(["connections".to_owned(), thousands(self.accepted)]);
        table.row(["answered".to_owned(), thousands(self.answered)]);
        for name in ["refused", "evicted", "expired", "failed", "pauses"] {
            table.row([name.to_owned(), thousands(self.other(name))]);
        }
        table.print();
    }
}

/// The resources of the daemon when no client is connected.
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
    fn of(process: u32, started: Instant) -> State {
        let entries = |what: &str| {
            let directory = std::fs::read_dir(format!("/proc/{process}/{what}"));
            directory.unwrap().count()
        };
        State {
            at: started.elapsed(),
            memory: Memory::settled(process),
            descriptors: entries("fd"),
            threads: entries("task"),
            answered: 0,
            unanswered: 0,
            p99: 0.0,
        }
    }

    /// Waits until all connections have ended, at most `REST`.
    fn at_rest(process: u32, started: Instant, descriptors: usize, totals: &Totals) -> State {
        let timeout = Instant::now() + REST;
        loop {
            let state = State::of(process, started);
            if state.descriptors <= descriptors || timeout < Instant::now() {
                return State {
                    answered: totals.answered(),
                    unanswered: totals.unanswered(),
                    p99: totals.probes.ms(0.99),
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

/// The most memory of the daemon's connections, in bytes, from its `--help`.
fn promised_bytes(program: &Path) -> u64 {
    let help = Command::new(program).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let kib = help.split("Connections take up to ").nth(1);
    let kib = kib.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let Some(kib) = kib else {
        panic!("`healthz --help` does not say `Connections take up to N KiB`: {help}");
    };
    kib * 1024
}

fn memory_problem(states: &[State], most: u64, is_full: bool) -> Option<String> {
    let anonymous = |state: &State| state.memory.anonymous;
    let highest = states.iter().map(anonymous).max()?;
    if highest > most {
        return Some(format!(
            "anonymous memory: {highest} bytes, more than {most}"
        ));
    }
    let (middle, last) = (
        anonymous(states.get(states.len() / 2)?),
        anonymous(states.last()?),
    );
    let is_growing = last > middle + GROWTH_BYTES_MAX;
    (is_full && is_growing).then(|| {
        format!("anonymous memory grew from {middle} bytes in the middle to {last} at the end")
    })
}

/// A line for each condition that does not hold.
fn problems(
    start: &State,
    states: &[State],
    totals: &Totals,
    counters: &DaemonCounters,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut same = |what: &str, first: usize, last: usize| {
        if first != last {
            wrong.push(format!("{what}: expected {first}, found {last}"));
        }
    };
    for state in states {
        same("descriptors", start.descriptors, state.descriptors);
        same("threads", start.threads, state.threads);
    }
    same("unanswered requests", 0, totals.unanswered() as usize);
    same(
        "connections not closed in order",
        0,
        totals.probes.wrong_ends as usize,
    );
    same("pauses", 0, counters.other("pauses") as usize);
    let mut at_least = |what: &str, more: u64, less: u64| {
        if more < less {
            wrong.push(format!("expected at least {what}: {more} and {less}"));
        }
    };
    at_least(
        "as many responses counted by the daemon as received by clients",
        counters.answered,
        totals.answered(),
    );
    at_least(
        "as many connections counted by the daemon as made by clients",
        counters.accepted,
        totals.attackers - totals.unseen + totals.connections + totals.kept.connections,
    );
    // Only attackers reset connections.
    at_least(
        "as many attackers as failed connections",
        totals.attackers,
        counters.other("failed"),
    );
    at_least(
        "as many evictions as connections that keep-alive clients lost",
        counters.other("evicted"),
        totals.kept.repeats,
    );
    wrong
}

//! What a probe costs the node: the server's time on a CPU, the kernel's work included, beside others:
//! `cargo bench --bench cost`.
//!
//! The others are a plain epoll loop that knows no HTTP (the floor of `latency`), and where they are
//! installed, nginx with one worker and a canned answer, and Go's `net/http` with the checks and the
//! text of Kubernetes (`benches/peers/go`). All take turns in one run. Probes come on a fixed
//! schedule, the same for all, so a slower server is not asked less. Times are those of the machine;
//! what holds elsewhere is the ratio within a round.
//!
//! `-- --seconds 0.5 --rounds 31` change how much is done.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/servers.rs"]
mod servers;
mod support;
#[path = "support/table.rs"]
mod table;

use load::{Mode, Wait};
use servers::Program;
use support::{Checksum, thousands};
use table::{Table, number};

/// One way to probe.
struct Load {
    name: &'static str,
    mode: Mode,
    /// Probes a second: as many as leave every server idle some of the time.
    rate: u32,
    wait: Wait,
    /// Whether the client is on the server's CPU, as on a node with one.
    is_shared: bool,
}

const LOADS: [Load; 4] = [
    Load {
        name: "keep-alive, 8 connections",
        mode: Mode::KeepAlive(8),
        rate: 20_000,
        wait: Wait::Spin,
        is_shared: false,
    },
    Load {
        name: "one connection a probe",
        mode: Mode::Close,
        rate: 8_000,
        wait: Wait::Spin,
        is_shared: false,
    },
    Load {
        name: "keep-alive, client on the same CPU",
        mode: Mode::KeepAlive(1),
        rate: 4_000,
        wait: Wait::Sleep,
        is_shared: true,
    },
    Load {
        name: "one connection a probe, client on the same CPU",
        mode: Mode::Close,
        rate: 4_000,
        wait: Wait::Sleep,
        is_shared: true,
    },
];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => servers::serve_healthz(),
        Some("serve-floor") => servers::serve_floor(None).unwrap(),
        _ => measure(),
    }
}

fn measure() {
    let is_full = support::is_full();
    let seconds = support::option("--seconds").unwrap_or(if is_full { 0.5 } else { 0.02 });
    let rounds: usize = support::option("--rounds").unwrap_or(if is_full { 31 } else { 1 });
    println!("{}", support::environment());
    let mut programs = vec![
        ("healthz", Program::start("serve-healthz")),
        ("epoll loop", Program::start("serve-floor")),
    ];
    if is_full {
        programs.extend(Program::nginx().map(|nginx| ("nginx", nginx)));
        programs.extend(Program::go().map(|go| ("Go net/http", go)));
    }
    println!(
        "server's µs on a CPU a probe, its kernel's work included; {rounds} rounds of {seconds} s each;\n\
         ratio: over the epoll loop within a round, median and quartiles\n"
    );
    let cpus = support::cpus();
    let mut checksum = Checksum::EMPTY;
    let mut answers = 0;
    for load in &LOADS {
        let (Some(&first), Some(&last)) = (cpus.first(), cpus.last()) else {
            panic!("no CPU");
        };
        if first == last && !load.is_shared {
            println!("{}: left out, there is one CPU\n", load.name);
            continue;
        }
        support::pin(
            std::process::id(),
            if load.is_shared { first } else { last },
        );
        let mut costs = vec![Vec::new(); programs.len()];
        for round in 0..rounds {
            for turn in 0..programs.len() {
                // Who is first changes from round to round.
                let who = (round + turn) % programs.len();
                let program = &mut programs[who].1;
                program.pin(first);
                let (tally, time) = program.cost(load.mode, load.rate, seconds, load.wait);
                costs[who].push(time.as_nanos() as f64 / 1000.0 / tally.asked as f64);
                answers += tally.answered;
                checksum.add(tally.checksum.to_string().as_bytes());
            }
        }
        print(load, &programs, &costs);
    }
    for (_, program) in &mut programs {
        program.stop();
    }
    println!(
        "{} answers, every one right; checksum {checksum}",
        thousands(answers)
    );
    if !is_full {
        println!("small run: it shows that the bench works, its figures mean nothing");
    }
}

fn print(load: &Load, programs: &[(&'static str, Program)], costs: &[Vec<f64>]) {
    println!("{}, {} a second\n", load.name, thousands(load.rate.into()));
    let mut table = Table::new(&["server", "µs a probe", "ratio", "quartiles"]);
    for ((name, _), own) in programs.iter().zip(costs) {
        let mut ratios: Vec<f64> = own
            .iter()
            .zip(&costs[1])
            .map(|(own, floor)| own / floor)
            .collect();
        let [median, low, high] = quartiles(&mut ratios);
        table.row([
            name.to_string(),
            number(quartiles(&mut own.clone())[0]),
            number(median),
            format!("{}–{}", number(low), number(high)),
        ]);
    }
    table.print();
}

/// Sorts them. The median first.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [2, 1, 3].map(|quarter| values[values.len() * quarter / 4])
}

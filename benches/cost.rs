//! CPU time of the server per probe, including the kernel's work, compared with other servers:
//! `cargo bench --bench cost`.
//!
//! The other servers are an epoll loop that sends a fixed response and parses no HTTP (the baseline of
//! `latency`), nginx with one worker and a fixed response, and Go's `net/http` with the checks and texts of
//! Kubernetes (`benches/peers/go`). nginx and Go are left out if they are not installed. All servers take turns
//! in one run. Probes follow a fixed
//! schedule, so a slow server gets as many as a fast one. Times depend on the machine; the ratio within a
//! round is what can be compared.
//!
//! `-- --seconds 0.5 --rounds 31` set the length of a round and the number of rounds.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/compared.rs"]
mod compared;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
mod support;
#[path = "support/table.rs"]
mod table;

use compared::Program;
use load::{Mode, Wait};
use support::{Checksum, thousands};
use table::{Table, number};

/// A way to send probes.
struct Load {
    name: &'static str,
    mode: Mode,
    /// Probes per second, few enough that every server is idle some of the time.
    rate: u32,
    wait: Wait,
    /// True if the client runs on the server's CPU, as on a node with one CPU.
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
        name: "one connection per probe",
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
        name: "one connection per probe, client on the same CPU",
        mode: Mode::Close,
        rate: 4_000,
        wait: Wait::Sleep,
        is_shared: true,
    },
];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => compared::serve_healthz(),
        Some("serve-baseline") => compared::serve_baseline(None).unwrap(),
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
        ("epoll loop", Program::start("serve-baseline")),
    ];
    if is_full {
        programs.extend(Program::nginx().map(|nginx| ("nginx", nginx)));
        programs.extend(Program::go().map(|go| ("Go net/http", go)));
    }
    println!(
        "CPU time of the server per probe, in µs, including the kernel; {rounds} rounds of {seconds} s each;\n\
         ratio: to the epoll loop in the same round, median and quartiles\n"
    );
    let cpus = support::cpus();
    let mut checksum = Checksum::EMPTY;
    let mut responses = 0;
    for load in &LOADS {
        let (Some(&first), Some(&last)) = (cpus.first(), cpus.last()) else {
            panic!("cannot read the list of CPUs from /proc/self/status");
        };
        if first == last && !load.is_shared {
            println!("{}: skipped, needs two CPUs\n", load.name);
            continue;
        }
        support::pin(
            std::process::id(),
            if load.is_shared { first } else { last },
        );
        let mut costs = vec![Vec::new(); programs.len()];
        for round in 0..rounds {
            for turn in 0..programs.len() {
                // Each round begins with another server.
                let index = (round + turn) % programs.len();
                let program = &mut programs[index].1;
                program.pin(first);
                let (results, time) = program.cost(load.mode, load.rate, seconds, load.wait);
                costs[index].push(time.as_nanos() as f64 / 1000.0 / results.sent as f64);
                responses += results.answered;
                checksum.add(results.checksum.to_string().as_bytes());
            }
        }
        print(load, &programs, &costs);
    }
    for (_, program) in &mut programs {
        program.stop();
    }
    println!(
        "{} responses, all correct; checksum {checksum}",
        thousands(responses)
    );
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
    }
}

fn print(load: &Load, programs: &[(&'static str, Program)], costs: &[Vec<f64>]) {
    println!(
        "{}, {} probes per second\n",
        load.name,
        thousands(load.rate.into())
    );
    let mut table = Table::new(&["server", "µs per probe", "ratio", "quartiles"]);
    for ((name, _), own) in programs.iter().zip(costs) {
        let mut ratios: Vec<f64> = own
            .iter()
            .zip(&costs[1])
            .map(|(own, baseline)| own / baseline)
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

/// Sorts the values. Returns the median and the quartiles.
fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [2, 1, 3].map(|quarter| values[values.len() * quarter / 4])
}

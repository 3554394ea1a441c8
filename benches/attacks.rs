//! What an honest probe gets while others mean no good: `cargo bench --bench attacks`.
//!
//! 10,000 connections against a table of 64, in every way of `support/attack.rs`, from a process of
//! their own; beside each, 1,000 honest probes, one connection each, from the moment when all
//! attackers are there. A probe that nobody answers, or wrongly, ends the bench. How long they took
//! is printed and not asserted: the goal is a p99 under 20 ms on a machine that has nothing else to
//! do, and attackers, clients and the server share its cores.
//!
//! `-- --only half` runs one attack, `-- --connections 2000` makes fewer attackers; they need as many
//! open files. `-- --again 1` brings everybody who was thrown out back after a second. 10,000 new
//! silent connections a second leave one of a table of 64 a few milliseconds to speak before it is
//! thrown out; a probe that is kept from its CPU for as long after connect(2) can be one of them then,
//! and such a run may end with one or two of 1,000 unanswered. More places help. Under `cargo test --benches` all is small.
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

use std::time::Duration;

use attack::Attack;
use crowd::Crowd;
use door::{Door, Setup};
use load::{Mode, Plan, Tally, Wait};
use support::{Checksum, thousands};
use table::Table;

/// Probes a second: the 1,000 take 5 s.
const RATE: u32 = 200;
/// A kubelet waits for a second; who comes later than this was not answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// The goal.
const P99_MAX: Duration = Duration::from_millis(20);
/// See [`Sizes::again`]: longer than the probes take.
const AGAIN: u64 = 10;
/// Files of this process beside connections.
const FILES_BESIDE: u64 = 600;

struct Sizes {
    /// Places in the server's table.
    table: usize,
    attackers: usize,
    /// Seconds after which an attacker that was thrown out comes back.
    again: u64,
    probes: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "serve", connections, checks] => door::serve(connections, checks),
        ["--child", "attack", name, address, count, again] => {
            crowd::serve(name, address, count, again);
        }
        _ => measure(),
    }
}

fn measure() {
    let is_full = support::is_full();
    let sizes = Sizes {
        table: if is_full { 64 } else { 8 },
        attackers: support::option("--connections").unwrap_or(if is_full { 10_000 } else { 100 }),
        again: support::option("--again").unwrap_or(AGAIN),
        probes: if is_full { 1000 } else { 50 },
    };
    let wanted = sizes.attackers as u64 + FILES_BESIDE;
    let files = process::files_max(wanted);
    println!("{}\n", support::environment());
    assert!(
        files >= wanted,
        "needs {wanted} open files, may have {files} (ulimit -n)"
    );
    if !is_full {
        println!("small run: it shows that the bench works, its figures mean nothing\n");
    }
    println!(
        "{} connections against a table of {}; {} probes beside them, ms from when each was due to its last byte\n",
        thousands(sizes.attackers as u64),
        sizes.table,
        thousands(sizes.probes)
    );
    let only: Option<String> = support::option("--only");
    let mut table = Table::new(&[
        "attack",
        "connections made",
        "evicted",
        "unanswered",
        "p50",
        "p99",
        "most",
        "p99 < 20 ms",
    ]);
    let mut checksum = Checksum::EMPTY;
    let mut wrong = Vec::new();
    let attacks = Attack::ALL.into_iter().map(Some);
    for attack in [None].into_iter().chain(attacks) {
        let name = attack.map_or("none", Attack::name);
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        table.row(beside(attack, &sizes, &mut checksum, &mut wrong));
    }
    table.print();
    println!("checksum {checksum}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Probes a server that is under attack. Returns a row, and adds what is wrong with it.
fn beside(
    attack: Option<Attack>,
    sizes: &Sizes,
    checksum: &mut Checksum,
    wrong: &mut Vec<String>,
) -> [String; 8] {
    let door = Door::start(Setup {
        connections: sizes.table,
        ..Setup::KUBELET
    });
    let mut crowd =
        attack.map(|attack| Crowd::start(attack, door.address, sizes.attackers, sizes.again));
    let what = attack.map_or("none", Attack::description);
    let plan = Plan {
        address: door.address,
        mode: Mode::Close,
        wait: Wait::Sleep,
        rate: RATE,
        count: sizes.probes,
        patience: PATIENCE,
    };
    let tally = load::run(&plan).unwrap_or_else(|error| panic!("{what}: {error}"));
    let made = crowd.as_mut().map_or(0, Crowd::stop);
    let counted = door.stop();
    let unanswered = sizes.probes - tally.answered;
    if unanswered > 0 || tally.unclosed > 0 {
        let reset = tally.unclosed;
        wrong.push(format!(
            "{what}: {unanswered} probes unanswered, {reset} not closed in order"
        ));
    }
    if attack.is_some() && made < sizes.attackers as u64 {
        wrong.push(format!("{what}: {made} attackers"));
    }
    checksum.add(tally.checksum.to_string().as_bytes());
    row(what, made, counted.evicted, &tally)
}

fn row(what: &str, made: u64, evicted: u64, tally: &Tally) -> [String; 8] {
    let at = |quantile| Duration::from_nanos(tally.latency.value_at_quantile(quantile));
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    [
        what.into(),
        thousands(made),
        thousands(evicted),
        (tally.asked - tally.answered).to_string(),
        ms(at(0.5)),
        ms(at(0.99)),
        ms(at(1.0)),
        if at(0.99) < P99_MAX { "yes" } else { "no" }.into(),
    ]
}

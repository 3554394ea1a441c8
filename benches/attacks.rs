//! What a well-behaved probe gets during an attack: `cargo bench --bench attacks`.
//!
//! The first table has each attack of `support/attack.rs`: 10,000 connections from a separate process, against a
//! server with 64 slots. An evicted attacker connects again after two seconds, so there are some thousand new
//! connections a second. During each attack there are 1,000 probes with one connection each. After half of them a
//! check fails, and each later answer must say so.
//!
//! The second table has programs that connect as fast as they can (`support/flood.rs`), on TCP and on a Unix socket.
//!
//! A wrong answer ends the bench. The bench fails if a probe is not answered within a second. One exception: during
//! the flood of all five flooders at once, 1 % of the probes may be missed. It also fails if a p99 in the first table
//! is not under 20 ms. That is the goal on a machine without other load, because attackers, clients and server share
//! its CPUs. A failure says how long the server waited for a CPU and how late the client was, so that a busy machine
//! is not mistaken for a slow server. The bench also fails if the attack was too weak: if fewer than 1,000
//! connections were evicted during the probes, or if the server did not accept all attackers.
//!
//! `-- --only half` runs only the attack `half` and the floods `half`. `-- --connections 2000` makes fewer attackers,
//! which need fewer open files. With `-- --again 10`, evicted attackers connect again after ten seconds.
//! `-- --probes 300` and `-- --rate 20` set the number of probes during each flood, and how many are sent a second.
//! Under `cargo test --benches` all sizes are small, and no measured time can fail it.
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
#[path = "support/flood.rs"]
mod flood;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;
mod support;
#[path = "support/table.rs"]
mod table;

use std::time::Duration;

use attack::Attack;
use crowd::Crowd;
use flood::Flood;
use load::{Expected, Mode, Plan, Results, Wait};
use server::{ServerProcess, Setup};
use support::{Checksum, thousands};
use table::Table;

/// Probes a second: the 1,000 take 5 s.
const RATE: u32 = 200;
/// The timeout of a kubelet. A probe with a later answer counts as unanswered.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout in a small run, which is no measurement.
const TIMEOUT_SMALL: Duration = Duration::from_secs(30);
/// The goal for the first table.
const P99_MAX: Duration = Duration::from_millis(20);
/// See [`Sizes::again`]. With 2 s, up to half of the attackers connect again in each second.
const AGAIN: u64 = 2;
/// Longer than a small run. If a probe has to wait for a CPU, attackers that connect again could evict it.
const AGAIN_SMALL: u64 = 60;
/// An attack that fills the table must cause at least this many evictions during the probes.
const EVICTED_MIN: u64 = 1000;
/// Probes during each flood, and per second.
const FLOOD_PROBES: u64 = 300;
const FLOOD_PROBES_SMALL: u64 = 10;
const FLOOD_RATE: u32 = 20;
/// Open files of this process other than connections.
const FILES_BESIDE: u64 = 600;

struct Sizes {
    is_full: bool,
    /// Slots in the server's table.
    table: usize,
    attackers: usize,
    /// Seconds after which an evicted attacker connects again.
    again: u64,
    probes: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "serve", connections, checks] => server::serve(connections, checks),
        ["--child", "attack", name, address, count, again] => {
            crowd::serve(name, address, count, again);
        }
        ["--child", "flooded", path, connections] => flood::serve(path, connections),
        ["--child", "flood", name, place] => flood::attack(name, place),
        _ => measure(),
    }
}

fn measure() {
    let is_full = support::is_full();
    let sizes = Sizes {
        is_full,
        table: if is_full { 64 } else { 8 },
        attackers: support::option("--connections").unwrap_or(if is_full { 10_000 } else { 100 }),
        again: support::option("--again").unwrap_or(if is_full { AGAIN } else { AGAIN_SMALL }),
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
        "evicted during probes",
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
    println!();
    flooded(&sizes, only.as_deref(), &mut wrong);
    println!("checksum {checksum}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Probes a server during an attack. Returns a row, and adds each failure to `wrong`.
fn beside(
    attack: Option<Attack>,
    sizes: &Sizes,
    checksum: &mut Checksum,
    wrong: &mut Vec<String>,
) -> [String; 9] {
    let mut server = ServerProcess::start(Setup {
        connections: sizes.table,
        ..Setup::KUBELET
    });
    let dropped = process::listen_drops();
    let mut crowd =
        attack.map(|attack| Crowd::start(attack, server.address, sizes.attackers, sizes.again));
    let what = attack.map_or("none", Attack::description);
    let waited = process::waited(server.id());
    let made_before = crowd.as_mut().map_or(0, Crowd::made);
    let mut results = Results::new();
    // No probe is outstanding when the check fails, so the expected answer of each probe is known.
    probe(&server, Expected::Ok, what, sizes, &mut results);
    let expected = Expected::Failing(server.fail());
    probe(&server, expected, what, sizes, &mut results);
    let waited = process::waited(server.id()) - waited;
    let made = crowd.as_mut().map_or(0, Crowd::stop);
    let dropped = process::listen_drops() - dropped;
    let counted = server.stop();
    // At most the attackers that had connected before the probes can have been evicted before them.
    let evicted_beside = counted.evicted.saturating_sub(made_before);
    let mut report = |text: String| wrong.push(format!("{what}: {text}"));
    let (unanswered, p99) = (results.unanswered(), results.ms(0.99));
    if unanswered > 0 || results.wrong_ends > 0 {
        let (reset, lost) = (results.wrong_ends, &results.lost);
        report(format!(
            "{unanswered} probes unanswered, {reset} not closed in order: {lost:?}"
        ));
    }
    let is_slow = sizes.is_full && p99 >= P99_MAX.as_secs_f64() * 1000.0;
    if is_slow {
        report(format!("a p99 of {p99:.2} ms"));
    }
    if is_slow || unanswered > 0 {
        let late = results.late.value_at_quantile(0.99) as f64 / 1e6;
        report(format!(
            "the server waited {:.1} s for a CPU; the client's p99 of being late was {late:.1} ms; \
             {dropped} packets found a listener's queue full",
            waited.as_secs_f64()
        ));
    }
    if let Some(attack) = attack {
        let all = made - attack.unseen(made) + results.answered;
        // If the listener's queue was full, connect(2) succeeded for the client, but the server may never accept
        // that connection.
        if made < sizes.attackers as u64 || counted.accepted + dropped < all {
            let accepted = counted.accepted;
            report(format!(
                "{made} attackers connected, but {accepted} connections were accepted, those of probes included"
            ));
        }
        let is_weak = evicted_beside < EVICTED_MIN;
        if sizes.is_full && attack.is_occupying() && is_weak {
            report(format!(
                "only {evicted_beside} connections were evicted during the probes"
            ));
        }
    }
    checksum.add(results.checksum.to_string().as_bytes());
    row(what, [made, counted.evicted, evicted_beside], &results)
}

/// Probes a server whose table is flooded with new connections at full speed.
fn flooded(sizes: &Sizes, only: Option<&str>, wrong: &mut Vec<String>) {
    let mut table = Table::new(&[
        "flooders",
        "socket",
        "connections a second",
        "accepted a second",
        "of a CPU",
        "CPU each",
        "evicted",
        "probes",
        "missed",
        "p50",
        "p99",
        "most",
    ]);
    let mut floods: Vec<(&str, Vec<Flood>, u64)> = Vec::new();
    for flood in Flood::ALL {
        floods.push((flood.name(), vec![flood], 0));
    }
    let missed_max = support::option("--probes").unwrap_or(FLOOD_PROBES) / 100;
    floods.push(("all five", Flood::ALL.to_vec(), missed_max));
    for is_unix in [false, true] {
        let socket = if is_unix { "Unix" } else { "TCP" };
        for (name, floods, missed_max) in &floods {
            let names = [
                format!("{name} {socket}"),
                socket.to_owned(),
                (*name).to_owned(),
                "flood".into(),
            ];
            if only.is_some_and(|only| !names.iter().any(|name| name == only)) {
                continue;
            }
            let outcome = flood::run(&flood::Plan {
                floods,
                is_unix,
                connections: sizes.table,
                probes: match sizes.is_full {
                    true => support::option("--probes").unwrap_or(FLOOD_PROBES),
                    false => FLOOD_PROBES_SMALL,
                },
                rate: support::option("--rate").unwrap_or(FLOOD_RATE),
                timeout: if sizes.is_full {
                    TIMEOUT
                } else {
                    TIMEOUT_SMALL
                },
            });
            if sizes.is_full && outcome.missed > *missed_max {
                wrong.push(format!(
                    "{name}, {socket}: {} missed; the server waited {:.1} s for a CPU; {} packets found a \
                     listener's queue full; {:?}",
                    outcome.missed,
                    outcome.waited.as_secs_f64(),
                    outcome.dropped,
                    outcome.reasons
                ));
            }
            table.row([
                (*name).into(),
                socket.into(),
                thousands(outcome.attack_rate),
                thousands(outcome.accept_rate),
                format!("{:.0} %", outcome.cpu_share * 100.0),
                format!("{:.0} µs", outcome.cpu_time.as_secs_f64() * 1e6),
                thousands(outcome.evicted),
                (outcome.missed + outcome.latencies.len() as u64).to_string(),
                outcome.missed.to_string(),
                outcome.ms(0.5),
                outcome.ms(0.99),
                outcome.ms(1.0),
            ]);
        }
    }
    table.print();
}

/// Sends half of the probes.
fn probe(
    server: &ServerProcess,
    expected: Expected,
    what: &str,
    sizes: &Sizes,
    results: &mut Results,
) {
    let plan = Plan {
        address: server.address,
        mode: Mode::Close,
        wait: Wait::Sleep,
        rate: RATE,
        count: sizes.probes / 2,
        timeout: if sizes.is_full {
            TIMEOUT
        } else {
            TIMEOUT_SMALL
        },
        path: load::PATH.into(),
        expected,
    };
    match load::run(&plan) {
        Ok(half) => results.add(&half),
        Err(error) => panic!("{what}: {error}"),
    }
}

fn row(what: &str, [made, evicted, beside]: [u64; 3], results: &Results) -> [String; 9] {
    let ms = |quantile| format!("{:.2}", results.ms(quantile));
    let is_quick = results.ms(0.99) < P99_MAX.as_secs_f64() * 1000.0;
    [
        what.into(),
        thousands(made),
        thousands(evicted),
        thousands(beside),
        results.unanswered().to_string(),
        ms(0.5),
        ms(0.99),
        ms(1.0),
        if is_quick { "yes" } else { "no" }.into(),
    ]
}

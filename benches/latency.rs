//! Latency of a probe on loopback, from its scheduled time, compared with other servers: `cargo bench --bench latency`.
//! `benches/README.md` explains how to read it and how to add a server.
//!
//! The servers are separate processes on one CPU. The client spins on another CPU, so that the time to wake it up is
//! not measured. Each run of a server is directly beside a run of the base (`--pair`, usually the best C loop). Times
//! depend on the machine; the ratio within a pair is what can be compared.
//!
//! Options, with their defaults:
//!
//! - `--seconds 0.3`: the length of a run
//! - `--rounds 11`: the number of pairs
//! - `--keep-alive 8`: the number of connections with keep-alive
//! - `--rate 5000`: probes per second
//! - `--tries 2`: on a busy machine, up to so many times as many pairs
//!
//! Writes `target/bench/latency.svg`.
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
#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/plot.rs"]
mod plot;
#[path = "support/process.rs"]
mod process;
mod support;
#[path = "support/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::Duration;

use compared::{Program, Run};
use load::{Mode, Results, Wait};
use pairs::{Load, Pairs};
use plot::{Chart, Mark, Panel, Row};
use support::thousands;
use table::{Table, number};

/// Probes per second: many times the usual load of a node, but few enough that the server's core is idle most of the
/// time. This bench does not measure queueing.
const RATE: u32 = 5000;
/// How long the mio loop sleeps, to prove that the client measures it.
const STALL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => compared::serve_healthz(),
        Some("serve-baseline") => compared::serve_baseline(None).unwrap(),
        Some("serve-stall") => compared::serve_baseline(Some(STALL)).unwrap(),
        _ => {
            return measure().map_or_else(support::fail, |()| ExitCode::SUCCESS);
        }
    }
    ExitCode::SUCCESS
}

/// Checks that the client measures a stall of the server completely. A client that waited for each response
/// before it sent the next probe would count only one slow probe per connection.
fn assert_stall_is_seen() {
    const RATE: u32 = 1000;
    let mut server = Program::start("mio loop that stalls", "serve-stall");
    let run = server
        .run(Mode::KeepAlive(8), RATE, 0.2, Wait::Yield)
        .unwrap();
    let half = (STALL / 2).as_nanos() as u64;
    let seen = run.results.latency.count_between(half, u64::MAX);
    println!(
        "self-test: of {} probes at {RATE} per second to a mio loop that slept {} ms once, {seen} took at least half of that\n",
        run.results.sent,
        STALL.as_millis()
    );
    // At least the probes that were due in the first half of the sleep.
    assert!(seen >= 40, "the client hides a stall of the server");
}

fn median(run: &Run) -> f64 {
    run.latency(0.5)
}

fn p99(run: &Run) -> f64 {
    run.latency(0.99)
}

fn measure() -> Result<(), String> {
    let is_full = support::is_full();
    let plan = pairs::Plan {
        seconds: support::option("--seconds").unwrap_or(if is_full { 0.3 } else { 0.05 }),
        rounds: support::option("--rounds").unwrap_or(if is_full { 11 } else { 1 }),
        tries: support::option("--tries").unwrap_or(if is_full { 2 } else { 1 }),
    };
    let pair = support::option("--pair").unwrap_or(compared::BEST.to_owned());
    let rate = support::option("--rate").unwrap_or(RATE);
    let loads = [
        ("one connection per probe", Mode::Close),
        (
            "keep-alive",
            Mode::KeepAlive(support::option("--keep-alive").unwrap_or(8)),
        ),
    ]
    .map(|(name, mode)| Load {
        name,
        mode,
        rate,
        wait: if support::cpus().len() > 1 {
            Wait::Spin
        } else {
            Wait::Yield
        },
        is_shared: support::cpus().len() == 1,
    });
    let environment = support::environment();
    println!("{environment}");
    assert_stall_is_seen();
    let mut programs = compared::servers(&pair, is_full)?;
    let base = programs.iter().position(|program| program.name == pair);
    let base = base.unwrap_or(0);
    println!(
        "latency of a probe in µs, from its scheduled time; less is better; {} probes a second\n\
         {} pairs of runs of {} s for each server and load; p50 and p99: median of the runs; p99.9: of all\n\
         runs together; ratio: to the {pair}, median and quartiles of all pairs\n",
        thousands(rate.into()),
        plan.rounds,
        plan.seconds
    );
    let mut table = Table::new(&[
        "load",
        "server",
        "p50",
        "p99",
        "p99.9",
        "ratio of p50",
        "quartiles",
        "ratio of p99",
        "quartiles",
        "undisturbed pairs",
    ]);
    let mut panels = Vec::new();
    let mut total = support::Total::new();
    let mut late = Results::new();
    for load in &loads {
        let Some(results) = pairs::compare(load, &mut programs, base, plan) else {
            continue;
        };
        for (index, (program, pairs)) in results.iter().enumerate() {
            let ratios = [pairs.ratio(median), pairs.ratio(p99)].map(|ratio| ratio.map(number));
            let [[half, half_low, half_high], [tail, tail_low, tail_high]] = ratios;
            table.row([
                if index == 0 { load.name } else { "" }.to_owned(),
                program.name.clone(),
                number(pairs.own(median)[0]),
                number(pairs.own(p99)[0]),
                number(pairs.latency(0.999)),
                half,
                format!("{half_low}–{half_high}"),
                tail,
                format!("{tail_low}–{tail_high}"),
                pairs.undisturbed(),
            ]);
            for run in pairs.runs() {
                total.add(run.results.answered, run.results.checksum);
                late.late.add(&run.results.late).unwrap();
            }
        }
        panels.push(Panel {
            title: format!("{}, {} probes a second", load.name, thousands(rate.into())),
            rows: results
                .into_iter()
                .map(|(program, pairs)| row(program, &pairs))
                .collect(),
        });
    }
    table.print();
    let late = number(late.late.value_at_quantile(0.99) as f64 / 1000.0);
    println!("of the probes, 99 % were sent at most {late} µs late");
    println!("{total}");
    assert_counted(&mut programs);
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
        return Ok(());
    }
    support::write_svg(
        "latency",
        &plot::svg(&Chart {
            title: "Latency of a health probe on loopback, in microseconds",
            subtitle: "Further left is better. Left dot: half of the probes are faster (p50). Right dot: 99 % are (p99). \
                   Lines: quartiles of the runs.",
            axis: "µs",
            has_bars: false,
            columns: &["ratio of p50", "ratio of p99", "undisturbed pairs"],
            panels,
            notes: ["Latency counts from the scheduled time of a probe.".to_owned()]
                .into_iter()
                .chain(pairs::explain(plan, &pair))
                .chain([environment])
                .collect(),
        }),
    );
    Ok(())
}

/// Compares the counter of the library with the number of probes.
fn assert_counted(programs: &mut [Program]) {
    for program in programs {
        if program.name == compared::LIBRARY {
            println!("counters of the library: {}", program.stop());
            assert_eq!(program.answered, Some(program.sent), "responses it counted");
        }
    }
}

fn with_quartiles(values: [f64; 3]) -> String {
    let [median, low, high] = values.map(number);
    format!("{median} ({low}–{high})")
}

fn row(program: &Program, pairs: &Pairs) -> Row {
    let mark = |values: [f64; 3]| Mark {
        values,
        label: number(values[0]),
    };
    Row {
        name: program.name.clone(),
        is_ours: program.is_ours(),
        marks: vec![mark(pairs.own(median)), mark(pairs.own(p99))],
        cells: vec![
            with_quartiles(pairs.ratio(median)),
            with_quartiles(pairs.ratio(p99)),
            pairs.undisturbed(),
        ],
    }
}

//! CPU time of the server per probe, including the kernel's work, compared with other servers:
//! `cargo bench --bench cost`. `benches/README.md` explains how to read it and how to add a server.
//!
//! Each run of a server is directly beside a run of the base (`--pair`, usually the best C loop). Probes follow a
//! fixed schedule, so a slow server gets as many as a fast one. Times depend on the machine; the ratio within a
//! pair is what can be compared.
//!
//! Options, with their defaults:
//!
//! - `--seconds 0.2`: the length of a run
//! - `--rounds 17`: the number of pairs
//! - `--tries 1`: on a busy machine, up to so many times as many pairs
//!
//! Writes `target/bench/cost.svg`.
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

use compared::{Program, Run};
use load::{Mode, Wait};
use pairs::{Load, Pairs};
use plot::{Chart, Mark, Panel, Row};
use support::thousands;
use table::{Table, number};

const LOADS: [Load; 4] = [
    Load {
        name: "one connection per probe",
        mode: Mode::Close,
        rate: 8_000,
        wait: Wait::Spin,
        is_shared: false,
    },
    Load {
        name: "one connection per probe, client on the same CPU",
        mode: Mode::Close,
        rate: 4_000,
        wait: Wait::Sleep,
        is_shared: true,
    },
    Load {
        name: "keep-alive, 8 connections",
        mode: Mode::KeepAlive(8),
        rate: 20_000,
        wait: Wait::Spin,
        is_shared: false,
    },
    Load {
        name: "keep-alive, 1 connection, client on the same CPU",
        mode: Mode::KeepAlive(1),
        rate: 4_000,
        wait: Wait::Sleep,
        is_shared: true,
    },
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => compared::serve_healthz(),
        Some("serve-baseline") => compared::serve_baseline(None).unwrap(),
        _ => {
            return measure().map_or_else(support::fail, |()| ExitCode::SUCCESS);
        }
    }
    ExitCode::SUCCESS
}

fn measure() -> Result<(), String> {
    let is_full = support::is_full();
    let plan = pairs::Plan {
        seconds: support::option("--seconds").unwrap_or(if is_full { 0.2 } else { 0.02 }),
        rounds: support::option("--rounds").unwrap_or(if is_full { 17 } else { 1 }),
        tries: support::option("--tries").unwrap_or(1),
    };
    let pair = support::option("--pair").unwrap_or(compared::BEST.to_owned());
    let environment = support::environment();
    println!("{environment}");
    let mut programs = compared::servers(&pair, is_full)?;
    let base = programs.iter().position(|program| program.name == pair);
    let base = base.unwrap_or(0);
    let ratio = format!("ratio to {pair}");
    println!(
        "CPU time of the server per probe, in µs, including the kernel's work; less is better\n\
         {} pairs of runs of {} s for each server and load; ratio: median of all pairs\n",
        plan.rounds, plan.seconds
    );
    let mut table = Table::new(&[
        "load, probes a second",
        "server",
        "µs per probe",
        &ratio,
        "quartiles",
        "undisturbed pairs",
    ]);
    let mut panels = Vec::new();
    let mut total = support::Total::new();
    for load in &LOADS {
        let Some(results) = pairs::compare(load, &mut programs, base, plan) else {
            continue;
        };
        let title = format!("{}, {}", load.name, thousands(load.rate.into()));
        for (index, (program, pairs)) in results.iter().enumerate() {
            let [median, low, high] = pairs.ratio(Run::cost).map(number);
            table.row([
                if index == 0 {
                    title.clone()
                } else {
                    String::new()
                },
                program.name.clone(),
                number(pairs.own(Run::cost)[0]),
                median,
                format!("{low}–{high}"),
                pairs.undisturbed(),
            ]);
            for run in pairs.runs() {
                total.add(run.results.answered, run.results.checksum);
            }
        }
        panels.push(Panel {
            title: format!("{title} probes a second"),
            rows: results
                .into_iter()
                .map(|(program, pairs)| row(program, &pairs))
                .collect(),
        });
    }
    table.print();
    println!("{total}");
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
        return Ok(());
    }
    support::write_svg(
        "cost",
        &plot::svg(&Chart {
            title: "CPU time of the server per health probe, in microseconds",
            subtitle: "Shorter is better. Bar: median of all runs; line: from the first to the third quartile.",
            axis: "µs per probe",
            has_bars: true,
            columns: &[&ratio, "its quartiles", "undisturbed pairs"],
            panels,
            notes: pairs::explain(plan, &pair)
                .into_iter()
                .chain([environment])
                .collect(),
        }),
    );
    Ok(())
}

fn row(program: &Program, pairs: &Pairs) -> Row {
    let values = pairs.own(Run::cost);
    let [median, low, high] = pairs.ratio(Run::cost).map(number);
    Row {
        name: program.name.clone(),
        is_ours: program.is_ours(),
        marks: vec![Mark {
            values,
            label: number(values[0]),
        }],
        cells: vec![median, format!("{low}–{high}"), pairs.undisturbed()],
    }
}

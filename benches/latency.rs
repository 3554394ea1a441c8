//! How long a probe takes on loopback, from the moment it was due: `cargo bench --bench latency`.
//!
//! healthz and a floor take turns in one run. The floor is mio with canned bytes: it accepts, reads
//! and writes, and knows no HTTP. Both are processes of their own on one CPU, the client is on
//! another and spins, so that what is measured is the server and the kernel, not a client waking up.
//! Figures are those of the machine; what holds elsewhere is the ratio.
//!
//! `-- --seconds 0.5 --rounds 5 --keep-alive 8` change how much is done. Writes
//! `target/bench/latency.svg`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/load.rs"]
mod load;
#[path = "support/plot.rs"]
mod plot;
#[path = "support/servers.rs"]
mod servers;
mod support;

use std::time::Duration;

use load::{Mode, Tally, Wait};
use plot::{PERCENTILES, Panel, micros};
use servers::Program;
use support::{Checksum, thousands};

/// Probes a second: a node's usual load many times over, and as many as leave two cores idle most of
/// the time. Queues are what another bench looks for.
const RATES: [u32; 2] = [500, 5000];
/// How long the floor sleeps to show that a client sees it.
const STALL: Duration = Duration::from_millis(100);
/// A pair of runs is done again if client and server had to wait for a CPU for this share of the time:
/// it would show other programs, not these. Whether it is kept does not depend on what it measured.
const DISTURBED: f64 = 0.01;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => servers::serve_healthz(),
        Some("serve-floor") => servers::serve_floor(None).unwrap(),
        Some("serve-stall") => servers::serve_floor(Some(STALL)).unwrap(),
        _ => measure(),
    }
}

/// A server that does nothing for a while, once, must be seen in the figures for what it is. A client
/// that waited for answers before it went on would count one slow probe a connection.
fn assert_stall_is_seen(wait: Wait) {
    const RATE: u32 = 1000;
    let mut server = Program::start("serve-stall");
    let (tally, _) = server.run(Mode::KeepAlive(8), RATE, 0.2, wait);
    server.stop();
    let half = (STALL / 2).as_nanos() as u64;
    let seen = tally.latency.count_between(half, u64::MAX);
    println!(
        "of {} probes at {RATE} a second to a floor that slept {} ms once, {seen} took half of that or longer\n",
        tally.asked,
        STALL.as_millis()
    );
    // All that were due in the first half of the sleep, whatever else the machine did.
    assert!(seen >= 40, "a stall is hidden by the client");
}

/// What is measured, one round after the other.
struct Cell {
    mode: Mode,
    rate: u32,
    /// Ours and the floor's, each a tally a round.
    rounds: [Vec<Tally>; 2],
}

fn measure() {
    let is_full = support::is_full();
    let seconds = support::option("--seconds").unwrap_or(if is_full { 1.0 } else { 0.05 });
    let rounds = support::option("--rounds").unwrap_or(if is_full { 21 } else { 1 });
    let connections = support::option("--keep-alive").unwrap_or(8);

    println!("{}", support::environment());
    let mut servers = [
        Program::start("serve-healthz"),
        Program::start("serve-floor"),
    ];
    let (wait, placement) = place(&servers);
    println!("{placement}");
    println!(
        "open loop: {} and {} probes a second on a fixed schedule, {rounds} rounds of {seconds} s each way, healthz and floor in turn; {connections} connections with keep-alive",
        RATES[0], RATES[1]
    );

    assert_stall_is_seen(wait);

    let mut cells: Vec<Cell> = [Mode::KeepAlive(connections), Mode::Close]
        .into_iter()
        .flat_map(|mode| RATES.map(|rate| (mode, rate)))
        .map(|(mode, rate)| Cell {
            mode,
            rate,
            rounds: [Vec::new(), Vec::new()],
        })
        .collect();
    // So that a busy machine makes this take twice as long at most.
    let repeats_max = if is_full { rounds * cells.len() } else { 0 };
    let [mut repeated, mut disturbed] = [0; 2];
    for round in 0..rounds {
        for cell in &mut cells {
            loop {
                // Who is first changes from round to round.
                let mut pair: [Option<Tally>; 2] = [None, None];
                let mut is_quiet = true;
                for who in [round % 2, (round + 1) % 2] {
                    let server = &mut servers[who];
                    let (tally, waited) = server.run(cell.mode, cell.rate, seconds, wait);
                    is_quiet &= waited.as_secs_f64() < DISTURBED * seconds;
                    pair[who] = Some(tally);
                }
                if is_quiet || repeated == repeats_max {
                    disturbed += usize::from(!is_quiet);
                    for (rounds, tally) in cell.rounds.iter_mut().zip(pair) {
                        rounds.extend(tally);
                    }
                    break;
                }
                repeated += 1;
            }
        }
    }

    table(&cells);
    let panels: Vec<Panel> = cells.iter().map(Cell::panel).collect();
    println!("{}", plot::text(&panels));
    checksum(&cells);
    let [ours, floor] = &mut servers;
    println!("healthz counted: {}", ours.stop());
    println!(
        "other programs: {repeated} pairs of runs were repeated because client or server waited for a CPU for more than {} % of the time; {disturbed} of {} were kept all the same",
        DISTURBED * 100.0,
        rounds * cells.len(),
    );
    floor.stop();
    assert_eq!(
        ours.answered,
        Some(ours.asked),
        "answers that healthz counted"
    );

    if is_full {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/latency.svg");
        let caption = format!(
            "Open loop, free of coordinated omission: a latency counts from when its probe was due. {} samples a curve at {} probes a second, {} at {}.",
            thousands(panels[0].ours.len()),
            thousands(RATES[0].into()),
            thousands(panels[1].ours.len()),
            thousands(RATES[1].into()),
        );
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        let title = "Latency of a health probe on loopback";
        std::fs::write(path, plot::svg(&panels, title, &caption)).unwrap();
        println!("picture: {path}");
    } else {
        println!("small run: it shows that the bench works, its figures mean nothing");
    }
}

/// Gives the client a CPU of its own, if there are two. Returns how it may wait then.
fn place(servers: &[Program; 2]) -> (Wait, &'static str) {
    let cpus = support::cpus();
    let [first, second, ..] = cpus[..] else {
        return (Wait::Yield, "one CPU: client and server take turns on it");
    };
    let is_pinned =
        servers.iter().all(|server| server.pin(first)) && support::pin(std::process::id(), second);
    match is_pinned {
        true => (
            Wait::Spin,
            "servers on one CPU, the client spins on another",
        ),
        false => (
            Wait::Spin,
            "not pinned (no taskset): the client spins wherever it is put",
        ),
    }
}

impl Cell {
    fn title(&self) -> String {
        let mode = match self.mode {
            Mode::KeepAlive(_) => "keep-alive",
            Mode::Close => "one connection a probe",
        };
        format!("{mode}, {} a second", thousands(self.rate.into()))
    }

    fn panel(&self) -> Panel {
        let merge = |tallies: &[Tally]| {
            let mut whole = Tally::new().latency;
            for tally in tallies {
                whole.add(&tally.latency).unwrap();
            }
            whole
        };
        let [ours, floor] = &self.rounds;
        Panel {
            title: self.title(),
            ours: merge(ours),
            floor: merge(floor),
        }
    }

    /// Median, least and most over the rounds of ours over the floor's within a round.
    fn ratio(&self, quantile: f64) -> [f64; 3] {
        let [ours, floor] = &self.rounds;
        let value = |tally: &Tally| tally.latency.value_at_quantile(quantile) as f64;
        let mut ratios: Vec<f64> = ours
            .iter()
            .zip(floor)
            .map(|(ours, floor)| value(ours) / value(floor))
            .collect();
        ratios.sort_by(f64::total_cmp);
        [
            ratios[ratios.len() / 2],
            ratios[0],
            ratios[ratios.len() - 1],
        ]
    }

    fn late_p99(&self, who: usize) -> u64 {
        let values = self.rounds[who]
            .iter()
            .map(|tally| tally.late.value_at_quantile(0.99));
        values.max().unwrap_or(0)
    }
}

fn table(cells: &[Cell]) {
    println!(
        "latency in µs, all rounds together; ratio: healthz over floor within a round, median of the rounds,\n\
         and its range; late: by how much the client itself was, p99 of the worst round\n"
    );
    let row = |title: &str, name: &str, late: &str, cell: &dyn Fn(f64) -> String| {
        print!("| {title:<38} | {name:<7} |");
        for (_, quantile) in PERCENTILES {
            print!(" {:>9} |", cell(quantile));
        }
        println!(" {late:>5} |");
    };
    let name_of = |quantile| PERCENTILES.iter().find(|p| p.1 == quantile).unwrap().0;
    row("", "", "late", &|quantile| name_of(quantile).to_string());
    let rule = format!("{:->10}:|", "").repeat(PERCENTILES.len());
    println!("|{:-<40}|{:-<9}|{rule}{:->6}:|", "", "", "");
    for cell in cells {
        let panel = cell.panel();
        for (who, name, histogram) in [(0, "healthz", &panel.ours), (1, "floor", &panel.floor)] {
            let title = if who == 0 {
                cell.title()
            } else {
                String::new()
            };
            row(&title, name, &micros(cell.late_p99(who)), &|quantile| {
                // A percentile beyond the last sample is the maximum, and is not said twice.
                match plot::is_known(histogram, quantile) {
                    true => micros(histogram.value_at_quantile(quantile)),
                    false => "–".into(),
                }
            });
        }
        row("", "ratio", "", &|quantile| {
            format!("{:.2}", cell.ratio(quantile)[0])
        });
        row("", "range", "", &|quantile| {
            let [_, least, most] = cell.ratio(quantile);
            let digits = if most < 10.0 { 2 } else { 1 };
            format!("{least:.digits$}–{most:.digits$}")
        });
    }
    println!();
}

fn checksum(cells: &[Cell]) {
    let mut checksum = Checksum::EMPTY;
    let mut answers = 0;
    for tally in cells.iter().flat_map(|cell| cell.rounds.iter().flatten()) {
        answers += tally.answered;
        checksum.add(tally.checksum.to_string().as_bytes());
    }
    println!(
        "{} answers, every one right; checksum {checksum}",
        thousands(answers)
    );
}

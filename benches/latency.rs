//! How long a probe takes on loopback, from the moment it was due: `cargo bench --bench latency`.
//!
//! healthz and a floor take turns in one run. The floor is mio with canned bytes: it accepts, reads
//! and writes, and knows no HTTP. Both are processes of their own on one CPU, the client is on
//! another and spins, so that what is measured is the server and the kernel, not a client waking up.
//! Figures are those of the machine; what holds elsewhere is the ratio.
//!
//! On a busy machine more pairs of runs are made than asked for, up to `--tries` times as many, and
//! the least disturbed ones are kept.
//!
//! `-- --seconds 0.5 --rounds 5 --keep-alive 8 --tries 1` change how much is done. Writes
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
#[path = "support/process.rs"]
mod process;
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
/// A pair of runs is undisturbed if client and server waited for a CPU no longer than this, as a share
/// of the time and for each probe: waking up takes about as much. The quietest pairs are kept; what
/// they measured has no say in that.
const WAITED_SHARE: f64 = 0.0025;
const WAITED_A_PROBE: f64 = 1e-6;

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

/// What is measured, one pair of runs after the other.
struct Cell {
    mode: Mode,
    rate: u32,
    pairs: Vec<Pair>,
    /// Pairs that nothing disturbed.
    quiet: usize,
}

/// Two runs, one soon after the other.
struct Pair {
    ours: Tally,
    floor: Tally,
    /// Clients and servers were ready to run for so long and were not let.
    waited: Duration,
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
        "open loop: {} and {} probes a second on a fixed schedule, {rounds} pairs of runs of {seconds} s, healthz and floor in turn; {connections} connections with keep-alive",
        RATES[0], RATES[1]
    );

    assert_stall_is_seen(wait);

    let mut cells: Vec<Cell> = [Mode::KeepAlive(connections), Mode::Close]
        .into_iter()
        .flat_map(|mode| RATES.map(|rate| (mode, rate)))
        .map(|(mode, rate)| Cell {
            mode,
            rate,
            pairs: Vec::new(),
            quiet: 0,
        })
        .collect();
    let tries = if is_full {
        support::option("--tries").unwrap_or(2)
    } else {
        1
    };
    compare(&mut cells, &mut servers, wait, seconds, [rounds, tries]);
    let [pairs, quiet] = keep_quietest(&mut cells, rounds);

    table(&cells);
    let panels: Vec<Panel> = cells.iter().map(Cell::panel).collect();
    println!("{}", plot::text(&panels));
    checksum(&cells);
    let [ours, floor] = &mut servers;
    println!("healthz counted: {}", ours.stop());
    println!(
        "{pairs} pairs of runs, {quiet} of them undisturbed by other programs; the {} quietest were kept",
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

/// Runs pairs until each cell has enough undisturbed ones, or there were too many.
fn compare(
    cells: &mut [Cell],
    servers: &mut [Program; 2],
    wait: Wait,
    seconds: f64,
    [rounds, tries]: [usize; 2],
) {
    for round in 0..rounds * tries {
        for cell in cells.iter_mut().filter(|cell| cell.quiet < rounds) {
            // Who is first changes from round to round.
            let mut runs = [round % 2, (round + 1) % 2].map(|who| {
                let run = servers[who].run(cell.mode, cell.rate, seconds, wait);
                (who, run)
            });
            runs.sort_by_key(|(who, _)| *who);
            cell.take(runs.map(|(_, run)| run), seconds);
        }
    }
}

/// Returns how many pairs there were, and how many undisturbed ones.
fn keep_quietest(cells: &mut [Cell], rounds: usize) -> [usize; 2] {
    let [mut pairs, mut quiet] = [0; 2];
    for cell in cells {
        pairs += cell.pairs.len();
        quiet += cell.quiet;
        cell.pairs.sort_by_key(|pair| pair.waited);
        cell.pairs.truncate(rounds);
    }
    [pairs, quiet]
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

    fn take(
        &mut self,
        [(ours, waited), (floor, waited_too)]: [(Tally, Duration); 2],
        seconds: f64,
    ) {
        let waited = waited + waited_too;
        let bound = WAITED_SHARE + WAITED_A_PROBE * f64::from(self.rate);
        self.quiet += usize::from(waited.as_secs_f64() < 2.0 * seconds * bound);
        self.pairs.push(Pair {
            ours,
            floor,
            waited,
        });
    }

    fn panel(&self) -> Panel {
        let [mut ours, mut floor] = [Tally::new().latency, Tally::new().latency];
        for pair in &self.pairs {
            ours.add(&pair.ours.latency).unwrap();
            floor.add(&pair.floor.latency).unwrap();
        }
        Panel {
            title: self.title(),
            ours,
            floor,
        }
    }

    /// By how much the client was late, with each server.
    fn late(&self, quantile: f64) -> [u64; 2] {
        let [mut ours, mut floor] = [Tally::new().late, Tally::new().late];
        for pair in &self.pairs {
            ours.add(&pair.ours.late).unwrap();
            floor.add(&pair.floor.late).unwrap();
        }
        [ours, floor].map(|late| late.value_at_quantile(quantile))
    }

    /// Median and quartiles of ours over the floor's within a pair.
    fn ratio(&self, quantile: f64) -> [f64; 3] {
        let value = |tally: &Tally| tally.latency.value_at_quantile(quantile) as f64;
        let pairs = self.pairs.iter();
        let mut ratios: Vec<f64> = pairs
            .map(|pair| value(&pair.ours) / value(&pair.floor))
            .collect();
        ratios.sort_by(f64::total_cmp);
        [2, 1, 3].map(|quarter| ratios[ratios.len() * quarter / 4])
    }
}

fn table(cells: &[Cell]) {
    println!(
        "latency in µs, all runs together; ratio: healthz over floor within a pair, median of the pairs,\n\
         below it their quartiles; late: by how much the client itself was, p99\n"
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
        let late = cell.late(0.99);
        for (title, name, late, histogram) in [
            (cell.title().as_str(), "healthz", late[0], &panel.ours),
            ("", "floor", late[1], &panel.floor),
        ] {
            row(title, name, &micros(late), &|quantile| {
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
        row("", "", "", &|quantile| {
            let [_, low, high] = cell.ratio(quantile);
            let digits = if high < 10.0 { 2 } else { 1 };
            format!("{low:.digits$}–{high:.digits$}")
        });
    }
    println!();
}

fn checksum(cells: &[Cell]) {
    let mut checksum = Checksum::EMPTY;
    let mut answers = 0;
    let pairs = cells.iter().flat_map(|cell| &cell.pairs);
    for tally in pairs.flat_map(|pair| [&pair.ours, &pair.floor]) {
        answers += tally.answered;
        checksum.add(tally.checksum.to_string().as_bytes());
    }
    println!(
        "{} answers, every one right; checksum {checksum}",
        thousands(answers)
    );
}

//! Latency of a probe on loopback, from its scheduled time: `cargo bench --bench latency`.
//!
//! healthz and a baseline take turns in one run. The baseline is a mio loop that accepts, reads and sends a
//! fixed response, and parses no HTTP. Both are separate processes on one CPU. The client spins on another
//! CPU, so that the time to wake it up is not measured. Times depend on the machine; the ratio can be compared.
//!
//! On a busy machine the bench makes more pairs of runs than requested, up to `--tries` times as many, and
//! keeps the least disturbed ones.
//!
//! `-- --seconds 0.5 --rounds 5 --keep-alive 8 --tries 1` set the length of a run, the number of pairs, the
//! number of connections and the factor for more pairs. Writes `target/bench/latency.svg`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/compared.rs"]
mod compared;
#[path = "support/load.rs"]
mod load;
#[path = "support/plot.rs"]
mod plot;
#[path = "support/process.rs"]
mod process;
mod support;

use std::time::Duration;

use compared::Program;
use load::{Mode, Results, Wait};
use plot::{PERCENTILES, Panel, micros};
use support::{Checksum, thousands};

/// Probes per second: many times the usual load of a node, but few enough that two cores are idle most of the
/// time. This bench does not measure queueing.
const RATES: [u32; 2] = [500, 5000];
/// How long the baseline sleeps, to prove that the client measures it.
const STALL: Duration = Duration::from_millis(100);
/// A pair of runs is undisturbed if client and server waited for a CPU no longer than this share of the time,
/// plus this time per probe. Waking up takes about that time. The pairs with the shortest waits are kept;
/// their latencies do not influence the choice.
const WAITED_SHARE: f64 = 0.0025;
const WAITED_PER_PROBE: f64 = 1e-6;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("serve-healthz") => compared::serve_healthz(),
        Some("serve-baseline") => compared::serve_baseline(None).unwrap(),
        Some("serve-stall") => compared::serve_baseline(Some(STALL)).unwrap(),
        _ => measure(),
    }
}

/// Checks that the client measures a stall of the server completely. A client that waited for each response
/// before it sent the next probe would count only one slow probe per connection.
fn assert_stall_is_seen(wait: Wait) {
    const RATE: u32 = 1000;
    let mut server = Program::start("serve-stall");
    let (results, _) = server.run(Mode::KeepAlive(8), RATE, 0.2, wait);
    server.stop();
    let half = (STALL / 2).as_nanos() as u64;
    let seen = results.latency.count_between(half, u64::MAX);
    println!(
        "self-test: of {} probes at {RATE} per second to a baseline that slept {} ms once, {seen} took at least half of that\n",
        results.sent,
        STALL.as_millis()
    );
    // At least the probes that were due in the first half of the sleep.
    assert!(seen >= 40, "the client hides a stall of the server");
}

/// One load (mode and rate) and the pairs of runs with it.
struct Cell {
    mode: Mode,
    rate: u32,
    pairs: Vec<Pair>,
    /// Number of undisturbed pairs.
    quiet: usize,
}

/// A run with each server, one directly after the other.
struct Pair {
    healthz: Results,
    baseline: Results,
    /// How long clients and servers were ready to run but waited for a CPU.
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
        Program::start("serve-baseline"),
    ];
    let (wait, placement) = place(&servers);
    println!("{placement}");
    println!(
        "open loop: {} and {} probes per second on a fixed schedule; {rounds} pairs of runs of {seconds} s, healthz and baseline in turn; {connections} keep-alive connections",
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
    let [healthz, baseline] = &mut servers;
    println!("counters of healthz: {}", healthz.stop());
    println!(
        "{pairs} pairs of runs, {quiet} of them not disturbed by other programs; the {} least disturbed were kept",
        rounds * cells.len(),
    );
    baseline.stop();
    assert_eq!(
        healthz.answered,
        Some(healthz.sent),
        "responses that healthz counted"
    );

    if is_full {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/latency.svg");
        let caption = format!(
            "Open loop, no coordinated omission: latency counts from the scheduled time of a probe. {} samples per curve at {} probes per second, {} at {}.",
            thousands(panels[0].healthz.len()),
            thousands(RATES[0].into()),
            thousands(panels[1].healthz.len()),
            thousands(RATES[1].into()),
        );
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        let title = "Latency of a health probe on loopback";
        std::fs::write(path, plot::svg(&panels, title, &caption)).unwrap();
        println!("written: {path}");
    } else {
        println!("small run: it shows that the bench works; its figures mean nothing");
    }
}

/// Runs pairs until each cell has enough undisturbed ones, at most `rounds * tries` per cell.
fn compare(
    cells: &mut [Cell],
    servers: &mut [Program; 2],
    wait: Wait,
    seconds: f64,
    [rounds, tries]: [usize; 2],
) {
    for round in 0..rounds * tries {
        for cell in cells.iter_mut().filter(|cell| cell.quiet < rounds) {
            // Each round begins with the other server.
            let mut runs = [round % 2, (round + 1) % 2].map(|index| {
                let run = servers[index].run(cell.mode, cell.rate, seconds, wait);
                (index, run)
            });
            runs.sort_by_key(|(index, _)| *index);
            cell.take(runs.map(|(_, run)| run), seconds);
        }
    }
}

/// Keeps the least disturbed pairs. Returns how many pairs there were, and how many were undisturbed.
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

/// Puts the servers and the client on different CPUs, if there are two. Returns how the client can wait.
fn place(servers: &[Program; 2]) -> (Wait, &'static str) {
    let cpus = support::cpus();
    let [first, second, ..] = cpus[..] else {
        return (Wait::Yield, "one CPU, shared by client and servers");
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
            "not pinned to CPUs, because taskset is missing or failed; the client spins",
        ),
    }
}

impl Cell {
    fn title(&self) -> String {
        let mode = match self.mode {
            Mode::KeepAlive(_) => "keep-alive",
            Mode::Close => "one connection per probe",
        };
        format!("{mode}, {} per second", thousands(self.rate.into()))
    }

    fn take(
        &mut self,
        [(healthz, waited), (baseline, waited_baseline)]: [(Results, Duration); 2],
        seconds: f64,
    ) {
        let waited = waited + waited_baseline;
        let bound = WAITED_SHARE + WAITED_PER_PROBE * f64::from(self.rate);
        self.quiet += usize::from(waited.as_secs_f64() < 2.0 * seconds * bound);
        self.pairs.push(Pair {
            healthz,
            baseline,
            waited,
        });
    }

    fn panel(&self) -> Panel {
        let [mut healthz, mut baseline] = [Results::new().latency, Results::new().latency];
        for pair in &self.pairs {
            healthz.add(&pair.healthz.latency).unwrap();
            baseline.add(&pair.baseline.latency).unwrap();
        }
        Panel {
            title: self.title(),
            healthz,
            baseline,
        }
    }

    /// The delay of the client, with each server.
    fn late(&self, quantile: f64) -> [u64; 2] {
        let [mut healthz, mut baseline] = [Results::new().late, Results::new().late];
        for pair in &self.pairs {
            healthz.add(&pair.healthz.late).unwrap();
            baseline.add(&pair.baseline.late).unwrap();
        }
        [healthz, baseline].map(|late| late.value_at_quantile(quantile))
    }

    /// Median and quartiles of the ratio of healthz to the baseline in each pair.
    fn ratio(&self, quantile: f64) -> [f64; 3] {
        let value = |results: &Results| results.latency.value_at_quantile(quantile) as f64;
        let pairs = self.pairs.iter();
        let mut ratios: Vec<f64> = pairs
            .map(|pair| value(&pair.healthz) / value(&pair.baseline))
            .collect();
        ratios.sort_by(f64::total_cmp);
        [2, 1, 3].map(|quarter| ratios[ratios.len() * quarter / 4])
    }
}

fn table(cells: &[Cell]) {
    println!(
        "latency in µs of all runs; ratio: healthz to baseline in each pair, median of all pairs, below it the\n\
         quartiles; late: delay of the client itself, p99\n"
    );
    let row = |title: &str, name: &str, late: &str, cell: &dyn Fn(f64) -> String| {
        print!("| {title:<42} | {name:<8} |");
        for (_, quantile) in PERCENTILES {
            print!(" {:>9} |", cell(quantile));
        }
        println!(" {late:>5} |");
    };
    let name_of = |quantile| PERCENTILES.iter().find(|p| p.1 == quantile).unwrap().0;
    row("", "", "late", &|quantile| name_of(quantile).to_string());
    let rule = format!("{:->10}:|", "").repeat(PERCENTILES.len());
    println!("|{:-<44}|{:-<10}|{rule}{:->6}:|", "", "", "");
    for cell in cells {
        let panel = cell.panel();
        let late = cell.late(0.99);
        for (title, name, late, histogram) in [
            (cell.title().as_str(), "healthz", late[0], &panel.healthz),
            ("", "baseline", late[1], &panel.baseline),
        ] {
            row(title, name, &micros(late), &|quantile| {
                // With too few samples a percentile equals the maximum; print a dash.
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
    let mut responses = 0;
    let pairs = cells.iter().flat_map(|cell| &cell.pairs);
    for results in pairs.flat_map(|pair| [&pair.healthz, &pair.baseline]) {
        responses += results.answered;
        checksum.add(results.checksum.to_string().as_bytes());
    }
    println!(
        "{} responses, all correct; checksum {checksum}",
        thousands(responses)
    );
}

//! How the cost of a request grows: `cargo bench --bench scale`.
//!
//! - With the number of checks: instructions for `/healthz` from received bytes to response bytes.
//! - With the number of idle connections: CPU time of the server per keep-alive request, median of rounds in
//!   which all servers take turns.
//! - With the number of pipelined requests: instructions and system calls of the whole server.
//!
//! Each table is followed by its slope: the cost of one more check, connection or request. Instructions and
//! system calls are the difference of two runs that differ in the number of requests. Without valgrind, checks
//! are measured in CPU time. `-- --rounds 5` makes fewer rounds with idle connections. These need 11,200 open
//! files; with a lower limit there are fewer connections.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/count.rs"]
mod count;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;
mod support;
#[path = "support/table.rs"]
mod table;

use std::hint::black_box;
use std::time::Duration;

use healthz::http::{Connection, Context, Date, HeadCache, Request, Writer};
use healthz::{Instant, Limits, Responder};

use count::Counter;
use server::{Client, Heads, ServerProcess, Setup};
use support::{Checksum, thousands};
use table::{Table, known, number};

const CHECKS: [usize; 4] = [1, 10, 100, 1000];
const IDLE: [usize; 4] = [0, 100, 1000, 10_000];
const DEPTHS: [usize; 5] = [1, 2, 4, 16, 64];

/// Requests in the shorter and in the longer run without a server.
const RUNS: [u64; 2] = [100, 2100];
/// Requests in the run that is timed if instructions cannot be counted.
const TIMED_RUN: u64 = 100_000;
/// Requests to a server in a round.
const ROUND: u64 = 4000;
/// Open files of this process other than connections.
const FILES_OTHER: usize = 100;

const NOW: Instant = Instant::from_millis(1_000);
const UNIX_SECONDS: u64 = 1_700_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", "serve", connections, checks] => server::serve(connections, checks),
        ["--child", "answer", checks, count] => {
            println!(
                "{}",
                answer(checks.parse().unwrap(), count.parse().unwrap())
            );
        }
        _ => measure(),
    }
}

fn measure() {
    let is_full = support::is_full();
    let wanted = IDLE.iter().sum::<usize>() + FILES_OTHER;
    let files = process::files_max(wanted as u64);
    println!("{}\n", support::environment());
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing\n");
    }
    let counts = is_full && Counter::Instructions.is_available();
    let traces = is_full && Counter::SystemCalls.is_available();
    let mut checksum = Checksum::EMPTY;
    checks(is_full, counts, &mut checksum);
    idle(is_full, files);
    pipelining(is_full, counts, traces);
    println!("checksum {checksum}");
}

/// Passes a request for `/healthz` to a connection `count` times. Returns the checksum of the last response.
fn answer(checks: usize, count: u64) -> Checksum {
    let responder = Responder::new(server::endpoints(checks, NOW));
    let date = Date::from_unix_seconds(UNIX_SECONDS);
    let context = Context {
        now: NOW,
        date: Some(&date),
        limits: &Limits::DEFAULT,
        is_last: false,
        tx_bytes_max: 0,
    };
    let mut cache = HeadCache::new();
    let mut tx = vec![0; responder.response_bytes_max(context.limits)];
    let mut connection = Connection::new(NOW);
    let mut written = 0;
    for _ in 0..count {
        let progress = connection.receive_cached(
            &context,
            &mut cache,
            black_box(server::REQUEST),
            &mut tx,
            &mut |request: &Request<'_>, writer: Writer<'_>| {
                responder.respond(NOW, request, writer)
            },
        );
        written = black_box(progress).written;
        black_box(&mut tx);
    }
    let answer = &tx[..written];
    assert!(answer.ends_with(b"\r\n\r\nok"), "{}", answer.escape_ascii());
    let mut checksum = Checksum::EMPTY;
    checksum.add(answer);
    checksum
}

fn checks(is_full: bool, counts: bool, checksum: &mut Checksum) {
    let unit = if counts { "instructions" } else { "ns of CPU" };
    println!("Checks: {unit} per request for /healthz, from received bytes to response bytes\n");
    let mut table = Table::new(&["checks", unit, "per additional check"]);
    let mut points: Vec<[f64; 2]> = Vec::new();
    for count in CHECKS {
        checksum.add(answer(count, 1).to_string().as_bytes());
        let cost = if counts {
            let arguments = ["--child", "answer", &count.to_string()];
            Counter::Instructions.of_requests(&arguments, RUNS)
        } else {
            let requests = if is_full { TIMED_RUN } else { 10 };
            let before = own_cpu_time();
            black_box(answer(count, requests));
            let time = own_cpu_time() - before;
            time.as_nanos() as f64 / requests as f64
        };
        let point = [count as f64, cost];
        let step = points.last().map(|before| slope(&[*before, point]));
        table.row([thousands(count as u64), number(cost), known(step)]);
        points.push(point);
    }
    table.print();
    println!(
        "slope: {} {unit} per check (goal: 10 instructions)\n",
        number(slope(&points))
    );
}

fn idle(is_full: bool, files: u64) {
    let sizes: &[usize] = if is_full { &IDLE } else { &[0, 10] };
    let rounds = support::option("--rounds").unwrap_or(if is_full { 15 } else { 1 });
    let requests = if is_full { ROUND } else { 10 };
    let mut held = FILES_OTHER;
    let mut servers = Vec::new();
    for &size in sizes {
        held += size;
        if held as u64 > files {
            println!(
                "{} idle connections are skipped: the limit of open files is {} (ulimit -n)",
                thousands(size as u64),
                thousands(files)
            );
            break;
        }
        let server = ServerProcess::start(Setup {
            connections: size + 16,
            ..Setup::KUBELET
        });
        let idle: Vec<Client> = (0..size)
            .map(|_| Client::connect(server.address, 1, Heads::Same))
            .collect();
        let client = Client::connect(server.address, 1, Heads::Same);
        servers.push((size, server, idle, client, Vec::new()));
    }
    for _ in 0..rounds {
        for (_, server, _, client, costs) in &mut servers {
            let before = process::cpu_time(server.id());
            (0..requests).for_each(|_| client.request());
            let time = process::cpu_time(server.id()) - before;
            costs.push(time.as_nanos() as f64 / 1000.0 / requests as f64);
        }
    }
    println!(
        "Idle connections: CPU time in µs per keep-alive request, including the kernel; {rounds} rounds of {} requests;\n\
         ratio: to no idle connections in the same round, median\n",
        thousands(requests)
    );
    let mut table = Table::new(&["idle connections", "median", "least", "most", "ratio"]);
    let mut points = Vec::new();
    let none: Vec<f64> = servers.first().unwrap().4.clone();
    for (size, server, idle, client, mut costs) in servers {
        let ratios = costs.iter().zip(&none).map(|(cost, none)| cost / none);
        let ratio = median(&mut ratios.collect::<Vec<f64>>());
        let median = median(&mut costs);
        points.push([size as f64, median]);
        table.row([
            thousands(size as u64),
            number(median),
            number(costs[0]),
            number(costs[costs.len() - 1]),
            number(ratio),
        ]);
        let connections = idle.len() as u64 + 1;
        drop((idle, client));
        let counts = server.stop();
        assert_eq!(counts.evicted, 0, "connections evicted");
        assert_eq!(counts.answered, connections + rounds as u64 * requests);
    }
    table.print();
    println!(
        "slope: {} ns per thousand idle connections\n",
        number(slope(&points) * 1000.0 * 1000.0)
    );
}

fn pipelining(is_full: bool, counts: bool, traces: bool) {
    if !counts && !traces {
        let depth = if is_full { 64 } else { 4 };
        let server = ServerProcess::start(Setup::KUBELET);
        let mut client = Client::connect(server.address, depth, Heads::Same);
        client.request();
        drop(client);
        assert_eq!(server.stop().answered, 1 + depth as u64);
        println!("Pipelining: tested, not measured\n");
        return;
    }
    println!("Pipelining: the whole server with one client, per request\n");
    let mut table = Table::new(&["pipelined requests", "instructions", "system calls"]);
    let [mut instructions, mut calls] = [Vec::new(), Vec::new()];
    for depth in DEPTHS {
        let counted = |counter: Counter, is_there: bool, batches: &mut Vec<[f64; 2]>| {
            let cost = is_there.then(|| counter.of_server_keep_alive(depth, Heads::Same))?;
            batches.push([depth as f64, depth as f64 * cost]);
            Some(cost)
        };
        let of_user = counted(Counter::Instructions, counts, &mut instructions);
        let of_kernel = counted(Counter::SystemCalls, traces, &mut calls);
        table.row([depth.to_string(), known(of_user), known(of_kernel)]);
    }
    table.print();
    // Without the first point: a single request may be cached, pipelined requests are parsed.
    let more = |batches: &[[f64; 2]]| batches.get(1..).map(slope);
    println!(
        "slope: {} instructions and {} system calls per additional request, from two on\n",
        known(more(&instructions)),
        known(more(&calls))
    );
}

/// CPU time of this process. It sleeps first, because the kernel updates the figure when a thread stops
/// running.
fn own_cpu_time() -> Duration {
    std::thread::sleep(Duration::from_micros(1));
    process::cpu_time(std::process::id())
}

/// Sorts the values and returns the median.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The slope of the straight line that fits the points best (least squares).
fn slope(points: &[[f64; 2]]) -> f64 {
    let mean =
        |axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(0), mean(1));
    let above: f64 = points
        .iter()
        .map(|point| (point[0] - x) * (point[1] - y))
        .sum();
    let below: f64 = points.iter().map(|point| (point[0] - x).powi(2)).sum();
    if below == 0.0 { 0.0 } else { above / below }
}

//! Latency of a probe while the host process is busy with its own work: `cargo bench --bench starvation`.
//!
//! The host is a tokio runtime with one worker per core. Its `/healthz` is either axum in that runtime, or
//! healthz on its own thread; the program is in `benches/peers`. Loads: none (`idle`); two spinning tasks per
//! core (`spin`); eight tasks per core that block for 200 ms again and again (`block`); the same tasks, which
//! yield in between (`block-yield`). There are ten probes per second, each on a new connection, with a timeout
//! of 5 s. The client sleeps between probes and shares the cores with the host.
//!
//! `-- --seconds 10` sets the time per row (default 30 s), `--load spin` selects one load. Under
//! `cargo test --benches` only healthz is measured, with spinning threads in the same process.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/load.rs"]
mod load;
mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use healthz::server::{Address, Config, Listeners, Server};
use healthz::{Check, Endpoint, Responder};

use load::{Expected, Mode, Plan, Results, Wait};
use support::Checksum;

const RATE: u32 = 10;
const TIMEOUT: Duration = Duration::from_secs(5);
const LOADS: [&str; 4] = ["idle", "spin", "block", "block-yield"];

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

fn main() {
    println!("{}", support::environment());
    let mut checksum = Checksum::EMPTY;
    if !support::is_full() {
        println!("small run: only healthz, with spinning threads in this process");
        heading();
        report("spin", "healthz", &with_spinning_threads(), &mut checksum);
        println!("\nchecksum {checksum}");
        return;
    }
    let seconds = support::option("--seconds").unwrap_or(30);
    build();
    println!(
        "{RATE} probes per second for {seconds} s per row, one connection each, timeout 5 s\n"
    );
    heading();
    let only: Option<String> = support::option("--load");
    let is_wanted = |load: &str| only.as_deref().is_none_or(|only| only == load);
    for load in LOADS.into_iter().filter(|load| is_wanted(load)) {
        for name in ["healthz", "axum"] {
            let host = Host::start(name, load);
            let results = probe(host.address, RATE, seconds * u64::from(RATE));
            report(load, name, &results, &mut checksum);
        }
    }
    println!("\nchecksum {checksum}");
}

/// Sends probes as a kubelet does, but more often.
fn probe(address: SocketAddr, rate: u32, count: u64) -> Results {
    let plan = Plan {
        address,
        mode: Mode::Close,
        wait: Wait::Sleep,
        rate,
        count,
        timeout: TIMEOUT,
        path: load::PATH.into(),
        expected: Expected::Ok,
    };
    load::run(&plan).unwrap_or_else(|error| panic!("{error}"))
}

fn heading() {
    println!(
        "times in ms from the scheduled time of a probe; late: delay of the client itself, p99\n"
    );
    println!(
        "| {:<11} | {:<7} | {:>9} | {:>7} | {:>7} | {:>7} | {:>5} |",
        "load", "server", "answered", "p50", "p99", "max", "late"
    );
    println!("|-------------|---------|----------:|--------:|--------:|--------:|------:|");
}

fn report(load: &str, name: &str, results: &Results, checksum: &mut Checksum) {
    let answered = format!("{}/{}", results.answered, results.sent);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| of_all(results, quantile));
    let late = millis(results.late.value_at_quantile(0.99));
    println!(
        "| {load:<11} | {name:<7} | {answered:>9} | {p50:>7} | {p99:>7} | {max:>7} | {late:>5} |"
    );
    if name == "healthz" {
        assert_eq!(
            results.answered, results.sent,
            "probes that healthz answered under load {load}"
        );
        assert_eq!(
            results.wrong_ends, 0,
            "connections that healthz did not close in order"
        );
        checksum.add(results.checksum.to_string().as_bytes());
    }
}

/// A percentile of all probes, where unanswered ones count as slower than all others.
fn of_all(results: &Results, quantile: f64) -> String {
    let rank = (quantile * results.sent as f64).ceil();
    if rank > results.answered as f64 {
        return format!("> {}", TIMEOUT.as_millis());
    }
    millis(
        results
            .latency
            .value_at_quantile(rank / results.answered as f64),
    )
}

fn millis(nanos: u64) -> String {
    let millis = nanos as f64 / 1e6;
    match millis {
        ..99.95 => format!("{millis:.2}"),
        _ => format!("{millis:.0}"),
    }
}

/// Builds the host program.
fn build() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/Cargo.toml");
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
            manifest,
        ])
        .arg("--target-dir")
        .arg(target())
        .status();
    assert!(
        status.unwrap().success(),
        "cannot build benches/peers; see the errors above"
    );
}

/// The target directory of the host. Separate, because cargo locks the one of this bench.
fn target() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/target"))
}

/// A running host program, which is killed when this is dropped.
struct Host {
    child: Child,
    address: SocketAddr,
}

impl Host {
    fn start(server: &str, load: &str) -> Host {
        let mut child = Command::new(target().join("release/host"))
            .args([server, load])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        Host { child, address }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Killed, because it may be too busy to notice the end of its standard input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_spinning_threads() -> Results {
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let address = server.local_addresses().next();
    let Some(Address::Tcp(address)) = address else {
        panic!("the server has no TCP address: {address:?}");
    };
    let handle = healthz::server::spawn(server).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    for _ in 0..2 * cores {
        let is_over = is_over.clone();
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    let results = probe(address, 20, 10);
    is_over.store(true, Ordering::Relaxed);
    handle.stop();
    handle.join().unwrap();
    results
}

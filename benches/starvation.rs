//! How long a probe takes while the host is busy with its own work: `cargo bench --bench starvation`.
//!
//! The host is a tokio runtime with a worker a core. Either its `/healthz` is axum in that runtime,
//! or it is healthz on a thread of its own; `benches/peers` has the program. Loads: none; two
//! spinning tasks a core; eight a core that block for good, 200 ms at a time; the same, but they
//! yield in between. Ten probes a second, each on a connection of its own, with 5 s to be answered.
//! The client sleeps between probes and competes for the cores like everybody else.
//!
//! `-- --seconds 10` makes it shorter than 30 s a row, `--load spin` leaves out the other loads. Under
//! `cargo test --benches` healthz answers alone, beside spinning threads: nothing else is built.
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

use load::{Mode, Plan, Right, Tally, Wait};
use support::Checksum;

const RATE: u32 = 10;
const PATIENCE: Duration = Duration::from_secs(5);
const LOADS: [&str; 4] = ["idle", "spin", "block", "block-yield"];

static PING: Check = Check::ping();
static ENDPOINTS: [Endpoint; 3] = Endpoint::kubernetes(&[&PING]);

fn main() {
    println!("{}", support::environment());
    let mut checksum = Checksum::EMPTY;
    if !support::is_full() {
        println!("small run: healthz alone, beside spinning threads of this process");
        heading();
        report("spin", "healthz", &beside_spinning_threads(), &mut checksum);
        println!("\nchecksum {checksum}");
        return;
    }
    let seconds = support::option("--seconds").unwrap_or(30);
    build();
    println!(
        "{RATE} probes a second for {seconds} s a row, one connection each, 5 s to be answered\n"
    );
    heading();
    let only: Option<String> = support::option("--load");
    let is_wanted = |load: &str| only.as_deref().is_none_or(|only| only == load);
    for load in LOADS.into_iter().filter(|load| is_wanted(load)) {
        for (who, name) in [("door", "healthz"), ("axum", "axum")] {
            let host = Host::start(who, load);
            let tally = probe(host.address, RATE, seconds * u64::from(RATE));
            report(load, name, &tally, &mut checksum);
        }
    }
    println!("\nchecksum {checksum}");
}

/// Probes as a kubelet does, only more often.
fn probe(address: SocketAddr, rate: u32, count: u64) -> Tally {
    let plan = Plan {
        address,
        mode: Mode::Close,
        wait: Wait::Sleep,
        rate,
        count,
        patience: PATIENCE,
        right: Right::Ok,
    };
    load::run(&plan).unwrap_or_else(|error| panic!("{error}"))
}

fn heading() {
    println!(
        "times in ms, from when a probe was due; late: by how much the client itself was, p99\n"
    );
    println!(
        "| {:<11} | {:<7} | {:>9} | {:>7} | {:>7} | {:>7} | {:>5} |",
        "load", "door", "answered", "p50", "p99", "max", "late"
    );
    println!("|-------------|---------|----------:|--------:|--------:|--------:|------:|");
}

fn report(load: &str, name: &str, tally: &Tally, checksum: &mut Checksum) {
    let answered = format!("{}/{}", tally.answered, tally.asked);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| of_all(tally, quantile));
    let late = millis(tally.late.value_at_quantile(0.99));
    println!(
        "| {load:<11} | {name:<7} | {answered:>9} | {p50:>7} | {p99:>7} | {max:>7} | {late:>5} |"
    );
    if name == "healthz" {
        assert_eq!(
            tally.answered, tally.asked,
            "probes that healthz answered under {load}"
        );
        assert_eq!(
            tally.unclosed, 0,
            "connections that healthz did not close in order"
        );
        checksum.add(tally.checksum.to_string().as_bytes());
    }
}

/// A percentile of all probes, where one that was not answered took longer than any that was.
fn of_all(tally: &Tally, quantile: f64) -> String {
    let rank = (quantile * tally.asked as f64).ceil();
    if rank > tally.answered as f64 {
        return format!("> {}", PATIENCE.as_millis());
    }
    millis(
        tally
            .latency
            .value_at_quantile(rank / tally.answered as f64),
    )
}

fn millis(nanos: u64) -> String {
    let millis = nanos as f64 / 1e6;
    match millis {
        ..99.95 => format!("{millis:.2}"),
        _ => format!("{millis:.0}"),
    }
}

/// Builds the host, which nobody else needs.
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
    assert!(status.unwrap().success(), "benches/peers does not build");
}

/// Where the host is built: its own lock file must not wait for ours.
fn target() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/target"))
}

/// The program of `benches/peers`. It ends with this value.
struct Host {
    child: Child,
    address: SocketAddr,
}

impl Host {
    fn start(who: &str, load: &str) -> Host {
        let mut child = Command::new(target().join("release/host"))
            .args([who, load])
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
        // It may be too busy to see that its standard input has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn beside_spinning_threads() -> Tally {
    let mut listeners = Listeners::new();
    listeners.bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(Responder::new(&ENDPOINTS), listeners, Config::default());
    let address = server.local_addresses().next();
    let Some(Address::Tcp(address)) = address else {
        panic!("not on TCP: {address:?}");
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
    let tally = probe(address, 20, 10);
    is_over.store(true, Ordering::Relaxed);
    handle.stop();
    handle.join().unwrap();
    tally
}

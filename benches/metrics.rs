//! The cost of `/metrics`: `cargo bench --bench metrics`.
//!
//! Compares the `healthz` program with 64 checks, each on 3 endpoints, with a hyper server that has the same series
//! in the usual crate, `prometheus-client` (`benches/peers`). Prints the size of the text and the CPU time of each
//! server process for a scrape. Also prints the latency of probes during a scrape every second, and while other
//! clients read their text slowly. Both servers take turns in one run. Times depend on the machine; the ratio within
//! a pair of runs is what can be compared.
//!
//! `-- --rounds 31 --scrapes 100 --seconds 3` set the number of pairs, the scrapes of a run, and the length of a run
//! with probes. On a busy machine the bench makes twice as many pairs with probes, and keeps the least disturbed ones.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;
mod support;
#[path = "support/table.rs"]
mod table;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use load::{Expected, Mode, Plan, Wait};
use server::ServerProcess;
use support::{Checksum, thousands};
use table::{Table, number};

/// With `ping`, `log` and `syncloop` of the daemon: 64.
const CONFIGURED_CHECKS: usize = 61;
/// The head of Prometheus 2.42, and of 3 with a longer `Accept`.
const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost:10248\r\nUser-Agent: Prometheus/2.42.0\r\n\
    Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
    text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\n\
    X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n";
/// Probes per second beside the scrapes.
const RATE: u32 = 1000;
/// Clients that read slowly.
const SLOW: [usize; 4] = [0, 1, 2, 16];
/// The bytes that one of them reads at a time, and the pause between two reads: a text takes it some seconds.
const SLOW_BYTES: usize = 1024;
const SLOW_INTERVAL: Duration = Duration::from_millis(50);
const SLOW_RECEIVE_BUFFER: usize = 4096;
/// The most bytes in a segment that every host must accept (RFC 9293 section 3.7.1).
const SLOW_SEGMENT: u32 = 536;
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() {
    let is_full = support::is_full();
    let rounds = support::option("--rounds").unwrap_or(if is_full { 31 } else { 1 });
    let scrapes = support::option("--scrapes").unwrap_or(if is_full { 100 } else { 2 });
    let seconds = support::option("--seconds").unwrap_or(if is_full { 3.0 } else { 0.1 });
    println!("{}", support::environment());
    let checks: Vec<String> = (0..CONFIGURED_CHECKS)
        .flat_map(|number| {
            let place = "file:/etc/passwd,period=1h,endpoints=healthz+livez+readyz";
            ["--check".to_owned(), format!("check-{number:04}={place}")]
        })
        .collect();
    let checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    let healthz = ServerProcess::daemon_with(Path::new(env!("CARGO_BIN_EXE_healthz")), &checks);
    let text = first_text(healthz.address);
    let mut checksum = Checksum::EMPTY;
    checksum.add(series(&text).collect::<String>().as_bytes());
    let peer = is_full.then(|| exporter(&text));
    place(&[Some(&healthz), peer.as_ref()]);

    println!("\nthe text of 64 checks on 3 endpoints\n");
    let mut table = Table::new(&["server", "series", "bytes"]);
    table.row([
        "healthz".to_owned(),
        thousands(series(&text).count() as u64),
        thousands(text.len() as u64),
    ]);
    if let Some(peer) = &peer {
        let mut scraper = Scraper::new(peer.address);
        let of_peer = scraper.scrape();
        let count = series(of_peer).count();
        assert_eq!(count, series(&text).count(), "series of the peer");
        table.row([
            "hyper".to_owned(),
            thousands(count as u64),
            thousands(of_peer.len() as u64),
        ]);
    }
    table.print();

    costs(&healthz, peer.as_ref(), rounds, scrapes);
    beside_scrapes(&healthz, if is_full { rounds } else { 1 }, seconds);
    beside_slow_clients(&healthz, seconds);
    println!("names of all series: checksum {checksum}");
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
    }
}

/// The text, after each check has run.
fn first_text(address: SocketAddr) -> String {
    let started = Instant::now();
    let mut scraper = Scraper::new(address);
    loop {
        let text = scraper.scrape();
        let runs = text
            .matches("\nhealthz_check_last_run_duration_seconds{")
            .count();
        if runs == CONFIGURED_CHECKS {
            return text.to_owned();
        }
        assert!(started.elapsed() < TIMEOUT, "only {runs} checks have run");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The names of the series, with labels.
fn series(text: &str) -> impl Iterator<Item = &str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0))
}

/// Builds and starts the hyper server with the series of `text`.
fn exporter(text: &str) -> ServerProcess {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers"));
    // Separate, because cargo locks the target directory of this bench.
    let target = directory.join("target");
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--bin",
            "exporter",
        ])
        .arg("--manifest-path")
        .arg(directory.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status();
    assert!(
        status.unwrap().success(),
        "cannot build benches/peers; see the errors above"
    );
    let file = target.join("metrics.txt");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(target.join("release/exporter"));
    command.arg(file);
    ServerProcess::spawn(command)
}

/// Puts the servers and this process on different CPUs, if there are two.
fn place(servers: &[Option<&ServerProcess>]) {
    let cpus = support::cpus();
    let [first, .., last] = cpus[..] else {
        println!("one CPU, shared by client and servers");
        return;
    };
    let mut servers = servers.iter().flatten();
    if !servers.all(|server| support::pin(server.id(), first))
        || !support::pin(std::process::id(), last)
    {
        println!("not pinned to CPUs, because taskset is missing or failed");
    }
}

/// A connection that is kept open, as Prometheus does.
struct Scraper {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Scraper {
    fn new(address: SocketAddr) -> Scraper {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Scraper {
            stream,
            received: Vec::with_capacity(256 * 1024),
        }
    }

    /// Requests the text and reads all of it.
    fn scrape(&mut self) -> &str {
        self.received.clear();
        self.stream.write_all(REQUEST).unwrap();
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = self.stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the server closed the connection");
            self.received.extend_from_slice(&buffer[..count]);
            if let Some((head_bytes, body_bytes)) = lengths(&self.received) {
                if self.received.len() >= head_bytes + body_bytes {
                    return std::str::from_utf8(&self.received[head_bytes..]).unwrap();
                }
            }
        }
    }
}

/// Bytes of the head and the body, once the head is complete.
fn lengths(received: &[u8]) -> Option<(usize, usize)> {
    // The head is short; the text after it need not be searched.
    let begin = &received[..received.len().min(1024)];
    let end = begin.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&begin[..end]).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "unexpected response: {head}"
    );
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    Some((end + 4, length.unwrap().parse().unwrap()))
}

/// CPU time of each server for a scrape.
fn costs(healthz: &ServerProcess, peer: Option<&ServerProcess>, rounds: usize, scrapes: u32) {
    let servers: Vec<&ServerProcess> = [Some(healthz), peer].into_iter().flatten().collect();
    let mut costs = vec![Vec::new(); servers.len()];
    for round in 0..rounds {
        for turn in 0..servers.len() {
            // Each round begins with another server.
            let index = (round + turn) % servers.len();
            let mut scraper = Scraper::new(servers[index].address);
            scraper.scrape();
            let before = process::cpu_time(servers[index].id());
            for _ in 0..scrapes {
                scraper.scrape();
            }
            let time = process::cpu_time(servers[index].id()) - before;
            costs[index].push(time.as_nanos() as f64 / 1000.0 / f64::from(scrapes));
        }
    }
    println!(
        "CPU time of the server process for a scrape, user and system; {rounds} rounds of {scrapes} scrapes each\n"
    );
    let mut table = Table::new(&["server", "µs", "quartiles", "ratio (0.3)", "quartiles"]);
    for (name, own) in ["healthz", "hyper"].into_iter().zip(&costs) {
        let mut row = vec![name.to_owned()];
        let ratios = own
            .iter()
            .zip(costs.last().unwrap())
            .map(|(own, peer)| own / peer);
        for values in [own.clone(), ratios.collect()] {
            let [median, low, high] = quartiles(values);
            row.extend([number(median), format!("{}–{}", number(low), number(high))]);
        }
        table.row(row);
    }
    table.print();
}

/// The median and the quartiles.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [2, 1, 3].map(|quarter| values[values.len() * quarter / 4])
}

/// Sends probes for that long, while `beside` runs on another thread until its argument is true. Returns the 99th
/// percentile in µs, and the result of `beside`.
fn probes<T: Send>(
    address: SocketAddr,
    seconds: f64,
    beside: impl FnOnce(&AtomicBool) -> T + Send,
) -> (f64, T) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| beside(&is_over));
        let results = load::run(&Plan {
            address,
            mode: Mode::KeepAlive(8),
            wait: Wait::Sleep,
            rate: RATE,
            count: (seconds * f64::from(RATE)) as u64,
            timeout: TIMEOUT,
            path: load::PATH.into(),
            expected: Expected::Ok,
        });
        let results = results.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(results.answered, results.sent, "answered probes");
        is_over.store(true, Ordering::Relaxed);
        (results.ms(0.99) * 1000.0, beside.join().unwrap())
    })
}

/// Scrapes until `is_over` is true. Returns the duration of each scrape in ms.
fn scrape_every(interval: Duration, address: SocketAddr, is_over: &AtomicBool) -> Vec<f64> {
    let mut scraper = Scraper::new(address);
    let mut times = Vec::new();
    let started = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        if started.elapsed() < interval * times.len() as u32 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let began = Instant::now();
        scraper.scrape();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times
}

fn beside_scrapes(healthz: &ServerProcess, rounds: usize, seconds: f64) {
    // The 99th percentiles of a pair, and how long the processes waited for a CPU.
    let mut pairs = Vec::new();
    let address = healthz.address;
    let waited = || process::waited(healthz.id()) + process::waited(std::process::id());
    for round in 0..2 * rounds {
        let before = waited();
        let run = |has_scrapes: bool| {
            let beside = |is_over: &AtomicBool| match has_scrapes {
                true => scrape_every(Duration::from_secs(1), address, is_over).len(),
                false => 0,
            };
            probes(address, seconds, beside).0
        };
        // Each round begins with the other.
        let first = run(round % 2 == 0);
        let second = run(round % 2 != 0);
        let (alone, beside) = if round % 2 == 0 {
            (second, first)
        } else {
            (first, second)
        };
        pairs.push((waited() - before, alone, beside));
    }
    pairs.sort_by_key(|(waited, ..)| *waited);
    pairs.truncate(rounds);
    let median =
        |of: fn(&(Duration, f64, f64)) -> f64| quartiles(pairs.iter().map(of).collect())[0];
    let [ratio, low, high] = quartiles(
        pairs
            .iter()
            .map(|(_, alone, beside)| beside / alone)
            .collect(),
    );
    println!(
        "p99 of {} probes a second, alone and beside one scrape a second; the {rounds} least disturbed of {} pairs\n\
         of runs of {seconds} s\n",
        thousands(RATE.into()),
        2 * rounds
    );
    let mut table = Table::new(&["", "alone, µs", "beside, µs", "ratio (1.1)", "quartiles"]);
    table.row([
        "healthz".to_owned(),
        number(median(|pair| pair.1)),
        number(median(|pair| pair.2)),
        number(ratio),
        format!("{}–{}", number(low), number(high)),
    ]);
    table.print();
}

/// A client whose packets are as small as those of some networks. On loopback, the kernel would take a whole text from
/// the server at once, and hold it for a slow client.
fn slow_client(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(SLOW_RECEIVE_BUFFER).unwrap();
    socket.set_tcp_mss(SLOW_SEGMENT).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let timeout = Some(Duration::from_millis(1));
    stream.set_read_timeout(timeout).unwrap();
    stream.write_all(REQUEST).unwrap();
    stream
}

/// Reads a text slowly on so many connections until `is_over` is true. Returns how many bytes were read, and how many
/// connections the server closed, which are replaced.
fn read_slowly(count: usize, address: SocketAddr, is_over: &AtomicBool) -> [u64; 2] {
    let mut streams: Vec<TcpStream> = (0..count).map(|_| slow_client(address)).collect();
    let [mut received, mut closed] = [0; 2];
    while !is_over.load(Ordering::Relaxed) {
        for stream in &mut streams {
            match stream.read(&mut [0; SLOW_BYTES]) {
                Ok(count @ 1..) => received += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => {
                    closed += 1;
                    *stream = slow_client(address);
                }
            }
        }
        std::thread::sleep(SLOW_INTERVAL);
    }
    [received, closed]
}

fn beside_slow_clients(healthz: &ServerProcess, seconds: f64) {
    println!(
        "beside clients that read {} bytes of their text every {} ms: p99 of a probe, and the time of another scrape,\n\
         in runs of {seconds} s\n",
        thousands(SLOW_BYTES as u64),
        SLOW_INTERVAL.as_millis()
    );
    let mut table = Table::new(&[
        "slow clients",
        "read, bytes",
        "closed",
        "probe, p99 µs",
        "scrapes",
        "scrape, median ms",
        "longest, ms",
    ]);
    for count in SLOW {
        let address = healthz.address;
        let (p99, ([received, closed], mut times)) = probes(address, seconds, |is_over| {
            std::thread::scope(|scope| {
                let slow = scope.spawn(|| read_slowly(count, address, is_over));
                // The slow ones are first.
                std::thread::sleep(SLOW_INTERVAL);
                let times = scrape_every(Duration::from_millis(100), address, is_over);
                (slow.join().unwrap(), times)
            })
        });
        times.sort_by(f64::total_cmp);
        table.row([
            count.to_string(),
            thousands(received),
            closed.to_string(),
            number(p99),
            times.len().to_string(),
            number(times[times.len() / 2]),
            number(times[times.len() - 1]),
        ]);
    }
    table.print();
}

//! The cost of `/metrics`: `cargo bench --bench metrics`.
//!
//! Compares the `healthz` program with two other servers. The program has 64 checks, each on 3 endpoints. A hyper
//! server (`benches/peers`) has the same series in the usual crate, `prometheus-client`. A loop in this bench sends the
//! same bytes from a constant buffer: its time is the kernel's part. Prints the size of the text and the CPU time of
//! each server process for a scrape. Also prints the latency of probes during a scrape every second, and while other
//! clients read their text slowly. The servers take turns in one run. Times depend on the machine; the ratio within a
//! round is what can be compared.
//!
//! `-- --rounds 31 --scrapes 100 --seconds 5` set the number of rounds, the scrapes of each server in a round, and how
//! long each run of probes takes. `--only scrapes`, `--only beside` and `--only slow` measure one part.
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
use mio::{Events, Interest, Poll, Token};
use server::ServerProcess;
use support::{Checksum, thousands};
use table::{Table, number};

/// With `ping`, `log` and `syncloop` of the daemon: 64.
const CONFIGURED_CHECKS: usize = 61;
/// The request of Prometheus 2.42. Prometheus 3 sends the same with a longer `Accept`.
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
    if std::env::args().nth(1).as_deref() == Some("serve-fixed") {
        let file = std::env::args().nth(2).unwrap();
        serve_fixed(&fs::read(file).unwrap()).unwrap();
        return;
    }
    let is_full = support::is_full();
    let rounds = support::option("--rounds").unwrap_or(if is_full { 31 } else { 1 });
    let scrapes = support::option("--scrapes").unwrap_or(if is_full { 100 } else { 2 });
    let seconds = support::option("--seconds").unwrap_or(if is_full { 5.0 } else { 0.1 });
    let only: Option<String> = support::option("--only");
    let is_wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
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
    let fixed = fixed(healthz.address);
    let peer = (is_full && is_wanted("scrapes")).then(|| exporter(&text));
    place(&[Some(&healthz), Some(&fixed), peer.as_ref()]);

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

    if is_wanted("scrapes") {
        let servers = [Some(&healthz), Some(&fixed), peer.as_ref()];
        costs(
            &servers.into_iter().flatten().collect::<Vec<_>>(),
            rounds,
            scrapes,
        );
    }
    if is_wanted("beside") {
        beside_scrapes(&healthz, rounds, seconds);
    }
    if is_wanted("slow") {
        beside_slow_clients(&healthz, seconds);
    }
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

/// Starts this program as a server that sends what healthz answers.
fn fixed(healthz: SocketAddr) -> ServerProcess {
    let mut scraper = Scraper::new(healthz);
    scraper.scrape();
    let file = std::env::temp_dir().join(format!("healthz-bench-metrics-{}", std::process::id()));
    fs::write(&file, &scraper.received).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("serve-fixed").arg(&file);
    let server = ServerProcess::spawn(command);
    fs::remove_file(file).unwrap();
    server
}

/// An epoll loop with one connection at a time that sends `answer` for each read that ends like a head. Prints its
/// address; the bench kills it.
fn serve_fixed(answer: &[u8]) -> std::io::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(16));
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(0), interest)?;
        let mut request = [0; 8192];
        let mut unsent: &[u8] = &[];
        'connection: loop {
            poll.poll(&mut events, None)?;
            if unsent.is_empty() {
                match stream.read(&mut request) {
                    Ok(0) => break 'connection,
                    Ok(count) if request[..count].ends_with(b"\r\n\r\n") => unsent = answer,
                    Ok(_) => return Err(ErrorKind::InvalidData.into()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => break 'connection,
                }
            }
            while !unsent.is_empty() {
                match stream.write(unsent) {
                    Ok(count) => unsent = &unsent[count..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => break 'connection,
                }
            }
        }
    }
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

/// CPU time of each server for a scrape: of healthz, of the fixed text, and of the peer if there is one.
fn costs(servers: &[&ServerProcess], rounds: usize, scrapes: u32) {
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
        "CPU time of the server process for a scrape, user and system; {rounds} rounds of {scrapes} scrapes each;\n\
         ratios: to the fixed text, and to hyper in the same round; goal in brackets\n"
    );
    let mut table = Table::new(&[
        "server",
        "µs",
        "quartiles",
        "of fixed",
        "quartiles",
        "of hyper (0.3)",
        "quartiles",
    ]);
    for (name, own) in ["healthz", "fixed text", "hyper"].into_iter().zip(&costs) {
        let ratios = |other: &[f64]| {
            own.iter()
                .zip(other)
                .map(|(own, other)| own / other)
                .collect()
        };
        let mut row = vec![name.to_owned()];
        for values in [
            own.clone(),
            ratios(&costs[1]),
            ratios(costs.last().unwrap()),
        ] {
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
        beside.thread().unpark();
        (results.ms(0.99) * 1000.0, beside.join().unwrap())
    })
}

/// Scrapes until `is_over` is true, for which the thread is unparked. Returns the duration of each scrape in ms.
fn scrape_every(interval: Duration, address: SocketAddr, is_over: &AtomicBool) -> Vec<f64> {
    let mut scraper = Scraper::new(address);
    let mut times = Vec::new();
    let started = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        // One sleep until the next scrape: more wake-ups would delay the prober, which runs on the same CPU.
        let pause = (interval * times.len() as u32).saturating_sub(started.elapsed());
        if !pause.is_zero() {
            std::thread::park_timeout(pause);
            continue;
        }
        let began = Instant::now();
        scraper.scrape();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times
}

/// Each round has a run of probes alone, one beside scrapes, and a second one alone. The ratios are to the first run alone
/// of the same round.
fn beside_scrapes(healthz: &ServerProcess, rounds: usize, seconds: f64) {
    let address = healthz.address;
    let run = |has_scrapes: bool| {
        let beside = |is_over: &AtomicBool| match has_scrapes {
            true => scrape_every(Duration::from_secs(1), address, is_over).len(),
            false => 0,
        };
        probes(address, seconds, beside).0
    };
    // The 99th percentile of each run. The ratio of the two runs alone shows the noise.
    let [mut alone, mut beside, mut again] = [const { Vec::new() }; 3];
    for round in 0..rounds {
        // Each round begins with another kind of run.
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => alone.push(run(false)),
                1 => beside.push(run(true)),
                _ => again.push(run(false)),
            }
        }
    }
    println!(
        "p99 of {} probes a second, alone and beside one scrape a second; {rounds} rounds of runs of {seconds} s; \
         goal in brackets\n",
        thousands(RATE.into()),
    );
    let mut table = Table::new(&["", "p99, µs", "quartiles", "of alone (1.1)", "quartiles"]);
    for (name, own) in [
        ("alone", &alone),
        ("beside", &beside),
        ("alone again", &again),
    ] {
        let ratios = own.iter().zip(&alone).map(|(own, alone)| own / alone);
        let mut row = vec![name.to_owned()];
        for values in [own.clone(), ratios.collect()] {
            let [median, low, high] = quartiles(values);
            row.extend([number(median), format!("{}–{}", number(low), number(high))]);
        }
        table.row(row);
    }
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

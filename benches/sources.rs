//! The cost of configured checks: `cargo bench --bench sources`.
//!
//! Starts the static `healthz` program with 16 checks of mixed kinds every 10 s, without checks, and Debian's monit
//! with the same 16, as far as monit has them. Prints memory, wake-ups and CPU time of all their processes
//! at rest, and how long each takes from its start to its first answer. monit is installed with apt-get if it is
//! missing (Debian, as root), and left out otherwise.
//!
//! `-- --seconds 60` is how long they are observed, `-- --program FILE` another program. Under `cargo test --benches`
//! it observes the test build for a second, without monit.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;
mod support;
#[path = "support/table.rs"]
mod table;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use server::{ServerProcess, Setup};
use support::thousands;
use table::{Table, number};

/// Two rounds of the checks, after which memory has stopped to grow.
const SETTLE_SECONDS: u64 = 25;
const OBSERVE_SECONDS: u64 = 60;
/// Starts for the median of the first answer.
const STARTS: usize = 31;
/// Longer than a start takes on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--child") {
        let arguments: Vec<String> = std::env::args().skip(3).collect();
        return server::serve(&arguments[0], &arguments[1]);
    }
    let is_full = support::is_full();
    println!("{}", support::environment());
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
    }
    println!();
    let directory = Directory::new();
    // The services and files that the checks test.
    let watched = ServerProcess::start(Setup::KUBELET);
    let program = support::option::<PathBuf>("--program").unwrap_or_else(|| program(is_full));
    let checks = checks(watched.address, &directory.0);
    let mut peers = vec![
        Peer::healthz("healthz, 16 checks", &program, &checks),
        Peer::healthz("healthz, none", &program, &[]),
    ];
    match is_full && has_monit() {
        true => peers.push(Peer::monit(&directory.0, watched.address)),
        false => println!("monit is left out\n"),
    }
    measure(&peers, is_full);
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        let path = std::env::temp_dir().join(format!("healthz-bench-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program to measure: static, or the test build.
fn program(is_full: bool) -> PathBuf {
    if !is_full {
        return env!("CARGO_BIN_EXE_healthz").into();
    }
    let bench = std::env::current_exe().unwrap();
    // target/release/deps/sources-0123
    let target = bench.ancestors().nth(3).unwrap();
    let mut command = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
    command
        .args(["static", "--quiet", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // RUSTFLAGS would replace the flags that make the program static.
        .env_remove("RUSTFLAGS");
    assert!(command.status().unwrap().success(), "{command:?}");
    target.join("x86_64-unknown-linux-gnu/release/healthz")
}

/// 16 values of `--check`.
fn checks(watched: SocketAddr, directory: &Path) -> Vec<String> {
    let socket = directory.join("beat.sock").display().to_string();
    let texts = [
        "root=disk:/,min=1%".to_owned(),
        "var=disk:/var,min=1%".to_owned(),
        "memory=memory,min=1Mi".to_owned(),
        "proc=mount:/proc".to_owned(),
        "passwd=file:/etc/passwd".to_owned(),
        "group=file:/etc/group,contains=root".to_owned(),
        format!("tcp1=tcp:{watched}"),
        format!("tcp2=tcp:{watched}"),
        format!("http1=http:http://{watched}/livez"),
        format!("http2=http:http://{watched}/livez"),
        "pids=pids".to_owned(),
        "fds=fds".to_owned(),
        "process=process:exe:cargo".to_owned(),
        format!("beat=heartbeat,limit=1h,socket={socket}"),
        "clock=clock,severity=warning".to_owned(),
        "pressure=pressure:memory,unsupported=skip".to_owned(),
    ];
    texts.into()
}

/// The same for monit. What it cannot check (a heartbeat, the clock, pressure, descriptors, processes) is a
/// check of a file instead.
fn monitrc(watched: SocketAddr, directory: &Path, port: u16) -> String {
    let at = directory.display();
    let (ip, service) = (watched.ip(), watched.port());
    let mut text = format!(
        "set daemon 10\nset log {at}/monit.log\nset pidfile {at}/monit.pid\nset idfile {at}/monit.id\n\
         set statefile {at}/monit.state\nset httpd port {port} and use address 127.0.0.1\n  allow 127.0.0.1\n\
         check system machine\n  if memory usage > 99% then alert\n\
         check filesystem root with path /\n  if space usage > 99% then alert\n\
         check filesystem var with path /var\n  if space usage > 99% then alert\n\
         check directory proc with path /proc\n  if does not exist then alert\n\
         check file passwd with path /etc/passwd\n  if does not exist then alert\n\
         check file group with path /etc/group\n  if content != \"root\" then alert\n\
         check process cargo matching \"cargo\"\n"
    );
    for name in ["tcp1", "tcp2"] {
        text += &format!(
            "check host {name} with address {ip}\n  if failed port {service} then alert\n"
        );
    }
    for name in ["http1", "http2"] {
        text += &format!(
            "check host {name} with address {ip}\n  if failed port {service} protocol http request \"/livez\" then alert\n"
        );
    }
    for (name, file) in [
        ("pids", "/proc/loadavg"),
        ("fds", "/proc/sys/fs/file-nr"),
        ("beat", "/etc/hostname"),
        ("clock", "/proc/uptime"),
        ("pressure", "/proc/meminfo"),
    ] {
        text += &format!("check file {name} with path {file}\n  if does not exist then alert\n");
    }
    text
}

fn has_monit() -> bool {
    let is_there = || {
        Command::new("monit")
            .arg("-V")
            .stdout(Stdio::null())
            .status()
            .is_ok()
    };
    if is_there() {
        return true;
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "-q", "-y", "--no-install-recommends", "monit"]);
    let install = install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null());
    let _ = install.status();
    is_there()
}

/// A program to measure.
struct Peer {
    name: &'static str,
    command: Vec<String>,
    port: u16,
}

impl Peer {
    fn healthz(name: &'static str, program: &Path, checks: &[String]) -> Peer {
        let port = free_port();
        let mut command = vec![program.display().to_string()];
        command.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        for check in checks {
            command.extend(["--check".to_owned(), check.clone()]);
        }
        Peer {
            name,
            command,
            port,
        }
    }

    fn monit(directory: &Path, watched: SocketAddr) -> Peer {
        let port = free_port();
        let file = directory.join("monitrc");
        fs::write(&file, monitrc(watched, directory, port)).unwrap();
        // monit refuses a file that others can read.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let command = ["monit", "-I", "-c", &file.display().to_string()].map(String::from);
        Peer {
            name: "monit, 16 checks",
            command: command.into(),
            port,
        }
    }

    /// Starts it, and returns how long its first answer takes.
    fn start(&self) -> (Running, Duration) {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env_remove("RUST_LOG");
        let streams = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let running = Running(streams.spawn().unwrap());
        while !is_answered(self.port) {
            assert!(began.elapsed() < START_MAX, "{} does not answer", self.name);
        }
        (running, began.elapsed())
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn is_answered(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut answer = [0; 5];
    let request = b"GET /livez HTTP/1.0\r\nHost: a\r\n\r\n";
    stream.write_all(request).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/"
}

/// A started program. It gets SIGTERM when this is dropped.
struct Running(Child);

impl Running {
    /// Its processes: itself and all that descend from it.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.0.id()];
        let mut at = 0;
        while let Some(process) = all.get(at).copied() {
            at += 1;
            for task in tasks(process) {
                let text = fs::read_to_string(task.join("children")).unwrap_or_default();
                all.extend(text.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
            }
        }
        all
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let process = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(process, nix::sys::signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn tasks(process: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    tasks.map_or(Vec::new(), |tasks| {
        tasks.flatten().map(|task| task.path()).collect()
    })
}

/// Voluntary context switches of all threads so far.
fn wakeups(process: u32) -> u64 {
    let of_task = tasks(process).into_iter().map(|task| {
        let text = fs::read_to_string(task.join("status")).unwrap_or_default();
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.map_or(0, |count| count.trim().parse().unwrap())
    });
    of_task.sum()
}

/// A figure of memory, in KiB.
fn kib(process: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let digits = line.unwrap_or("0").trim().trim_end_matches(" kB");
    digits.trim().parse().unwrap()
}

fn measure(peers: &[Peer], is_full: bool) {
    let (settle, observe) = match is_full {
        true => (
            SETTLE_SECONDS,
            support::option("--seconds").unwrap_or(OBSERVE_SECONDS),
        ),
        false => (0, 1),
    };
    let running: Vec<Running> = peers.iter().map(|peer| peer.start().0).collect();
    std::thread::sleep(Duration::from_secs(settle));
    let sums = |of: fn(u32) -> u64| -> Vec<u64> {
        let sum = |running: &Running| running.processes().into_iter().map(of).sum();
        running.iter().map(sum).collect()
    };
    let cpu = |process| process::cpu_time(process).as_nanos() as u64;
    let before = (sums(wakeups), sums(cpu));
    std::thread::sleep(Duration::from_secs(observe));
    let after = (sums(wakeups), sums(cpu));
    let per_second = |(after, before): (&u64, &u64)| (after - before) as f64 / observe as f64;

    let names = peers.iter().map(|peer| peer.name);
    let headings: Vec<&str> = std::iter::once("all processes, at rest")
        .chain(names)
        .collect();
    let mut table = Table::new(&headings);
    let mut row = |name: &str, cells: Vec<String>| {
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    row(
        "processes",
        running
            .iter()
            .map(|running| running.processes().len().to_string())
            .collect(),
    );
    let kib_of = |of| sums(of).into_iter().map(thousands).collect();
    row(
        "anonymous, KiB (450)",
        kib_of(|process| kib(process, "Anonymous:")),
    );
    row("RSS, KiB (2,600)", kib_of(|process| kib(process, "Rss:")));
    row("PSS, KiB", kib_of(|process| kib(process, "Pss:")));
    let rates = after.0.iter().zip(&before.0).map(per_second);
    row(
        "wake-ups a second (0.6; none: 0.15)",
        rates.map(number).collect(),
    );
    let rates = after.1.iter().zip(&before.1).map(per_second);
    row(
        "CPU, ms a minute",
        rates.map(|rate| number(rate * 60.0 / 1e6)).collect(),
    );
    drop(running);
    let starts = if is_full { STARTS } else { 1 };
    row(
        "start to first answer, ms",
        peers
            .iter()
            .map(|peer| first_answer(peer, starts))
            .collect(),
    );
    table.print();
}

/// The median of some starts, in milliseconds.
fn first_answer(peer: &Peer, starts: usize) -> String {
    let mut times: Vec<Duration> = (0..starts).map(|_| peer.start().1).collect();
    times.sort();
    number(times[starts / 2].as_secs_f64() * 1000.0)
}

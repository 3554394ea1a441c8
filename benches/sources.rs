//! The cost of configured checks: `cargo bench --bench sources`.
//!
//! Starts the static `healthz` program with 16 checks of mixed kinds every 10 s, without checks, and Debian's monit
//! with the same 16, as far as monit has them. Prints memory, wake-ups and CPU time of all their processes at rest.
//! Then it prints how long each takes from its start to its first answer. A static loop on mio (`benches/peers/floor`),
//! linked with glibc, is started directly before or after each start, when all processes of the start before have ended.
//! The same loop linked with musl, as healthz is, has a column too. monit is installed with apt-get if it is missing
//! (Debian, as root). Without it the bench leaves it out.
//!
//! The CPU time at rest is mostly that of waking up. Between two virtual machines it differed by a factor of 6 to 36, with
//! the same programs. So a thread of the bench wakes up once a second meanwhile, and the row has its CPU time too.
//!
//! - `-- --only rest`, `-- --only starts`: one of the two parts.
//! - `-- --seconds 60`: how long they are observed.
//! - `-- --program FILE`: measures this program instead.
//! - `-- --starts 31`: the number of starts of each.
//! - `-- --json` prints only the wake-ups, as one JSON object per line. `.ci/guard` compares them with `limits.toml`.
//!
//! Under `cargo test --benches` it observes the test build for a second, without monit and the loop.
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

/// Two rounds of the checks, after which memory has stopped growing.
const SETTLE_SECONDS: u64 = 25;
const OBSERVE_SECONDS: u64 = 60;
/// Before the first count, which is then between the rounds of the checks that begin at 10 s and at 20 s.
const SETTLE_SECONDS_JSON: u64 = 15;
const ROUNDS_JSON: usize = 3;
/// The period of the checks.
const ROUND: Duration = Duration::from_secs(10);
/// Starts for the median of the first answer.
const STARTS: usize = 31;
/// The target of `cargo static`.
const STATIC: &str = "x86_64-unknown-linux-musl";
/// The target of the loop that all starts are compared with. The goal was set with that one.
const FLOOR: &str = "x86_64-unknown-linux-gnu";
/// Longer than the processes of checks take to end after the server.
const END_MAX: Duration = Duration::from_secs(1);
/// Between two attempts to get the first answer.
const ATTEMPT_PERIOD: Duration = Duration::from_micros(20);
/// Longer than a start takes on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--child") {
        let arguments: Vec<String> = std::env::args().skip(3).collect();
        return server::serve(&arguments[0], &arguments[1]);
    }
    // A sleep may end this many nanoseconds late.
    nix::sys::prctl::set_timerslack(1).unwrap();
    let is_full = support::is_full();
    let is_json = std::env::args().any(|argument| argument == "--json");
    if !is_json {
        println!("{}", support::environment());
    }
    if !is_full {
        println!("small run: it shows that the bench works; its figures mean nothing");
    }
    let directory = Directory::new();
    // The services and files that the checks test.
    let watched = ServerProcess::start(Setup::KUBELET);
    let program = support::option::<PathBuf>("--program").unwrap_or_else(|| program(is_full));
    let checks = checks(watched.address, &directory.0);
    let mut peers = vec![
        Peer::healthz("healthz, 16 checks", &program, &checks),
        Peer::healthz("healthz, none", &program, &[]),
    ];
    if is_json {
        return count_wakeups(&peers);
    }
    println!();
    match is_full && has_monit() {
        true => peers.push(Peer::monit(&directory.0, watched.address)),
        false => println!("monit is left out\n"),
    }
    if is_full {
        peers.push(Peer::floor("mio loop, musl", STATIC));
    }
    let floor = is_full.then(|| Peer::floor("mio loop, glibc", FLOOR));
    measure(&peers, floor.as_ref(), is_full);
}

/// Prints the wake-ups of each peer at rest during one round of its checks. On a busy machine a process is woken for each
/// of several messages instead of once for all, so this is the least of some rounds.
fn count_wakeups(peers: &[Peer]) {
    let running: Vec<Running> = peers.iter().map(|peer| peer.start().0).collect();
    std::thread::sleep(Duration::from_secs(SETTLE_SECONDS_JSON));
    let mut counts = vec![sums(&running, wakeups)];
    for _ in 0..ROUNDS_JSON {
        std::thread::sleep(ROUND);
        counts.push(sums(&running, wakeups));
    }
    for (index, name) in ["checks-16", "checks-none"].into_iter().enumerate() {
        let rounds = counts
            .windows(2)
            .map(|pair| pair[1][index] - pair[0][index]);
        let value = rounds.min().unwrap();
        println!(r#"{{"unit": "wake-ups", "name": "{name}", "value": {value}}}"#);
    }
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
    build("static", STATIC, ".", &[]).join("healthz")
}

/// Builds a static program in the target directory of this bench, with a command of cargo, in a directory of the
/// repository. Returns the directory of the program.
fn build(command: &str, target: &str, directory: &str, arguments: &[&str]) -> PathBuf {
    let bench = std::env::current_exe().unwrap();
    // target/release/deps/sources-0123
    let built = bench.ancestors().nth(3).unwrap();
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
    cargo
        .args([command, "--quiet", "--target-dir"])
        .arg(built)
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory))
        // RUSTFLAGS would replace the flags of `cargo static`, and those in `arguments`.
        .env_remove("RUSTFLAGS");
    assert!(cargo.status().unwrap().success(), "{cargo:?}");
    built.join(target).join("release")
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

/// The same for monit. What it cannot check (a heartbeat, the clock, pressure, the machine's descriptors and process
/// IDs) is a check of a file instead.
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

    /// A static program that does the least with mio.
    fn floor(name: &'static str, target: &str) -> Peer {
        let flags = format!(
            "target.{target}.rustflags = ['-Ctarget-feature=+crt-static', '-Crelocation-model=static']"
        );
        let arguments = ["--release", "--target", target, "--config", &flags];
        let program = build("build", target, "benches/peers/floor", &arguments).join("floor");
        let port = free_port();
        Peer {
            name,
            command: vec![program.display().to_string(), port.to_string()],
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
            // Without a pause, this thread can keep the started program from the CPU that it was placed on, for 10 ms.
            std::thread::sleep(ATTEMPT_PERIOD);
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

/// A started program. It gets SIGTERM when this is dropped, which waits until all its processes have ended.
struct Running(Child);

impl Running {
    /// Its processes: itself and all that descend from it.
    fn processes(&self) -> Vec<u32> {
        process::family(self.0.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let processes = self.processes();
        let process = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::kill(process, nix::sys::signal::SIGTERM);
        let _ = self.0.wait();
        // The others end a little later. They would take CPU time from what is measured next.
        let ended = Instant::now();
        // The init of a machine may take a second to wait for the orphans among them, which are zombies until then.
        let runs = |process: &u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, state)| !state.starts_with('Z'))
        };
        while processes.iter().any(runs) && ended.elapsed() < END_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Voluntary context switches of all threads so far.
fn wakeups(process: u32) -> u64 {
    let of_task = process::tasks(process).into_iter().map(|task| {
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

/// The sum of a figure over all processes, for each.
fn sums(running: &[Running], of: fn(u32) -> u64) -> Vec<u64> {
    let sum = |running: &Running| running.processes().into_iter().map(of).sum();
    running.iter().map(sum).collect()
}

/// Sleeps so many seconds, and wakes up once in each. Returns the CPU time that this takes.
fn wake_each_second(seconds: u64) -> Duration {
    let cpu = || {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        let nanos = text.split_whitespace().next().unwrap();
        Duration::from_nanos(nanos.parse().unwrap())
    };
    let before = cpu();
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
    }
    cpu() - before
}

fn measure(peers: &[Peer], floor: Option<&Peer>, is_full: bool) {
    let only: Option<String> = support::option("--only");
    let is_wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let names = peers.iter().map(|peer| peer.name);
    let headings: Vec<&str> = std::iter::once("all processes, at rest")
        .chain(names)
        .collect();
    let mut table = Table::new(&headings);
    if is_wanted("rest") {
        measure_rest(&mut table, peers, is_full);
    }
    if is_wanted("starts") {
        measure_starts(&mut table, peers, floor, is_full);
    }
    table.print();
}

fn measure_rest(table: &mut Table, peers: &[Peer], is_full: bool) {
    let (settle, observe) = match is_full {
        true => (
            SETTLE_SECONDS,
            support::option("--seconds").unwrap_or(OBSERVE_SECONDS),
        ),
        false => (0, 1),
    };
    let running: Vec<Running> = peers.iter().map(|peer| peer.start().0).collect();
    std::thread::sleep(Duration::from_secs(settle));
    let sums = |of| sums(&running, of);
    let cpu = |process| process::cpu_time(process).as_nanos() as u64;
    let before = (sums(wakeups), sums(cpu));
    let empty = wake_each_second(observe);
    let after = (sums(wakeups), sums(cpu));
    let per_second = |(after, before): (&u64, &u64)| (after - before) as f64 / observe as f64;

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
    let per_minute = |nanos_per_second: f64| number(nanos_per_second * 60.0 / 1e6);
    let empty = per_minute(empty.as_nanos() as f64 / observe as f64);
    let rates = after.1.iter().zip(&before.1).map(per_second);
    row(
        &format!("CPU, ms a minute; of 60 empty wake-ups: {empty}"),
        rates.map(per_minute).collect(),
    );
}

fn measure_starts(table: &mut Table, peers: &[Peer], floor: Option<&Peer>, is_full: bool) {
    let starts = match is_full {
        true => support::option("--starts").unwrap_or(STARTS),
        false => 1,
    };
    let starts: Vec<[String; 3]> = peers
        .iter()
        .map(|peer| first_answers(peer, floor, starts))
        .collect();
    for (index, name) in [
        "start to first answer, ms",
        "ratio to a static mio loop with glibc beside it (1.2)",
        "quartiles of this ratio",
    ]
    .into_iter()
    .enumerate()
    {
        let cells = starts.iter().map(|cells| cells[index].clone());
        table.row(std::iter::once(name.to_owned()).chain(cells));
    }
}

/// Starts it `count` times, each time beside a start of the floor. Returns the median time in milliseconds, and the
/// median and the quartiles of the ratio to the floor.
fn first_answers(peer: &Peer, floor: Option<&Peer>, count: usize) -> [String; 3] {
    let mut times = Vec::new();
    let mut ratios = Vec::new();
    for index in 0..count {
        let floor_before = floor
            .filter(|_| index % 2 == 0)
            .map(|floor| floor.start().1);
        let time = peer.start().1.as_secs_f64();
        let floor_time = floor_before.or_else(|| floor.map(|floor| floor.start().1));
        ratios.extend(floor_time.map(|floor| time / floor.as_secs_f64()));
        times.push(time * 1000.0);
    }
    let at = |values: &mut Vec<f64>, quarter: usize| -> String {
        values.sort_by(f64::total_cmp);
        let index = values.len().saturating_sub(1) * quarter / 4;
        values.get(index).map_or("–".into(), |value| number(*value))
    };
    let quartiles = format!("{}–{}", at(&mut ratios, 1), at(&mut ratios, 3));
    [at(&mut times, 2), at(&mut ratios, 2), quartiles]
}

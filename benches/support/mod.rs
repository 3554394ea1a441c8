//! Functions that all benches use: options, a description of the machine, and the choice of CPUs.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

/// True under `cargo bench`. Under `cargo test --benches` cargo does not pass `--bench`; then a bench makes a
/// small run, which shows that it works but measures nothing.
pub fn is_full() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// All values that follow `name` on the command line.
pub fn options(name: &str) -> Vec<String> {
    let arguments: Vec<String> = std::env::args().collect();
    let pairs = arguments.windows(2).filter(|pair| pair[0] == name);
    pairs.map(|pair| pair[1].clone()).collect()
}

/// The value that follows `name` on the command line: `cargo bench --bench latency -- --seconds 2`.
///
/// # Panics
/// If the value cannot be parsed, so that no run with other settings is made.
pub fn option<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("invalid value of {name}: {value}"),
    }
}

/// One line: CPU model, cores, kernel, compiler, profile, commit. Unknown parts are `?`.
pub fn environment() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or_else(|_| "?".into(), |n| n.to_string());
    let kernel = first_line("uname", &["-sr"]);
    let rustc = first_line(
        &std::env::var("RUSTC").unwrap_or("rustc".into()),
        &["--version"],
    );
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "optimized"
    };
    let directory = env!("CARGO_MANIFEST_DIR");
    let describe = ["-C", directory, "describe", "--tags", "--always", "--dirty"];
    let commit = first_line("git", &describe);
    format!("{cpu}, {cores} cores, {kernel}, {rustc}, {profile} build, commit {commit}")
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.as_deref().and_then(|text| text.lines().next());
    line.unwrap_or("?").to_string()
}

/// The CPUs that this process might run on when it began.
pub fn cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(allowed_cpus)
}

fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |range: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let ranges = list.unwrap_or_default().trim().split(',');
    ranges.filter_map(range).flatten().collect()
}

/// Restricts all threads of a process to one CPU; `false` if that fails. Runs taskset, because the system
/// call would need `unsafe` code.
pub fn pin(process: u32, cpu: usize) -> bool {
    let arguments = ["-a", "-c", "-p", &cpu.to_string(), &process.to_string()];
    let mut taskset = Command::new("taskset");
    let taskset = taskset.args(arguments).stdout(Stdio::null());
    taskset.status().is_ok_and(|status| status.success())
}

/// Prints why a bench cannot run.
pub fn fail(why: String) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(2)
}

/// Writes `target/bench/NAME.svg`.
pub fn write_svg(name: &str, svg: &str) {
    let place = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench"));
    std::fs::create_dir_all(place).unwrap();
    let file = place.join(name).with_extension("svg");
    std::fs::write(&file, svg).unwrap();
    println!("written: {}", file.display());
}

/// The number of responses and their checksum.
pub struct Total(u64, Checksum);

impl Total {
    pub fn new() -> Total {
        Total(0, Checksum::EMPTY)
    }

    /// Adds the responses of a run.
    pub fn add(&mut self, responses: u64, checksum: Checksum) {
        self.0 += responses;
        self.1.add(checksum.to_string().as_bytes());
    }
}

impl std::fmt::Display for Total {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let responses = thousands(self.0);
        write!(f, "{responses} responses, all correct; checksum {}", self.1)
    }
}

/// An FNV-1a checksum of the responses, so that the compiler cannot optimize them away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// The checksum of no bytes.
    pub const EMPTY: Checksum = Checksum(0xcbf2_9ce4_8422_2325);

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Formats a number as `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

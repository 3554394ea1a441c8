//! What the benches share: where they ran, and how much they are to do.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::process::{Command, Stdio};

/// Whether this is `cargo bench`. Under `cargo test --benches`, which cargo runs without `--bench`,
/// a bench shows that it works, small, and measures nothing.
pub fn is_full() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The value that follows `name` on the command line: `cargo bench --bench latency -- --seconds 2`.
///
/// # Panics
/// If what follows is no such value: better no run than another one than was asked for.
pub fn option<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)?;
    match value.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name} {value}: not understood"),
    }
}

/// One line: CPU model, cores, kernel, compiler, profile, commit. What cannot be had is a `?`.
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

/// The CPUs that this process may run on.
pub fn cpus() -> Vec<usize> {
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

/// Keeps every thread of a process on one CPU; `false` if that cannot be had. A program does it,
/// because the call itself takes `unsafe`.
pub fn pin(process: u32, cpu: usize) -> bool {
    let arguments = ["-a", "-c", "-p", &cpu.to_string(), &process.to_string()];
    let mut taskset = Command::new("taskset");
    let taskset = taskset.args(arguments).stdout(Stdio::null());
    taskset.status().is_ok_and(|status| status.success())
}

/// A number of what was seen, FNV-1a: nothing that goes into it can be optimised away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// Of nothing.
    pub const EMPTY: Checksum = Checksum(0xcbf2_9ce4_8422_2325);

    /// Takes more in.
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

/// `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

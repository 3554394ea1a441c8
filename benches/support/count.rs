//! Programs that count what another program does, and how little of it is a request's.
//!
//! A count is never of one run: it is the difference of two that differ in nothing but the number of
//! requests, so that whatever a program does once, at its start and at its end, is not in it.
#![allow(dead_code, reason = "each bench uses its own part")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::door::{self, Client, Door, Heads, Setup};

/// Requests in the shorter and in the longer run with a server.
const SERVER_RUNS: [u64; 2] = [300, 1300];

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// In user space, by callgrind.
    Instructions,
    /// By strace.
    SystemCalls,
}

impl Counter {
    pub fn program(self) -> &'static str {
        match self {
            Counter::Instructions => "valgrind",
            Counter::SystemCalls => "strace",
        }
    }

    /// Whether it can be had; else it says on standard error what to install, and what is not counted.
    pub fn is_there(self) -> bool {
        let program = self.program();
        let mut version = Command::new(program);
        let version = version.arg("--version").stdout(Stdio::null());
        let is_there = version.status().is_ok_and(|status| status.success());
        if !is_there {
            let what = match self {
                Counter::Instructions => "instructions",
                Counter::SystemCalls => "system calls",
            };
            eprintln!("no {program} here, so no {what}: apt-get install {program}");
        }
        is_there
    }

    /// Counts what a run of this bench's own program with `arguments` does. `run` starts the command,
    /// sees that it does its work, and returns once it has ended.
    fn of_run(self, arguments: &[String], run: impl FnOnce(Command)) -> u64 {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run_number = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("healthz-bench-{}-{run_number}", std::process::id());
        let file = Removed(std::env::temp_dir().join(name));
        let mut command = Command::new(self.program());
        match self {
            Counter::Instructions => command
                .args(["-q", "--tool=callgrind"])
                .arg(format!("--callgrind-out-file={}", file.0.display())),
            Counter::SystemCalls => command
                .args(["-f", "-c", "-U", "calls,name", "-o"])
                .arg(&file.0),
        };
        command
            .arg(std::env::current_exe().unwrap())
            .args(arguments);
        run(command);
        let text = std::fs::read_to_string(&file.0).unwrap_or_default();
        let total = match self {
            Counter::Instructions => text
                .lines()
                .find_map(|line| line.strip_prefix("totals: "))
                .and_then(|total| total.trim().parse().ok()),
            Counter::SystemCalls => text
                .lines()
                .find_map(|line| line.trim().strip_suffix(" total"))
                .and_then(|total| total.trim().parse().ok()),
        };
        let program = self.program();
        total.unwrap_or_else(|| panic!("{program} counted nothing; may it trace programs here?"))
    }

    /// A request's share, of a program that takes the number of requests as its last argument and
    /// needs nobody.
    pub fn of_requests(self, arguments: &[&str], runs: [u64; 2]) -> f64 {
        let counts = runs.map(|requests| {
            let requests = requests.to_string();
            let arguments = arguments.iter().map(|word| word.to_string());
            let arguments: Vec<String> = arguments.chain([requests]).collect();
            self.of_run(&arguments, |mut command| {
                let status = command.stdout(Stdio::null()).status().unwrap();
                assert!(status.success(), "{command:?}");
            })
        });
        share(counts, runs)
    }

    /// A request's share of what a whole server does, with one connection that is kept and so many
    /// requests under way.
    pub fn of_server_keep_alive(self, depth: usize, heads: Heads) -> f64 {
        self.of_server(|door, requests| {
            let mut client = Client::connect(door.address, depth, heads);
            let batches = requests / depth as u64;
            for _ in 0..batches {
                client.ask();
            }
            // Here, so that the server has closed it before it is asked to stop.
            1 + batches * depth as u64
        })
    }

    /// A request's share of what a whole server does, with one connection each, one at a time.
    pub fn of_server_close(self, heads: Heads) -> f64 {
        self.of_server(|door, requests| {
            for index in 0..requests {
                door::ask_and_close(door.address, heads, index);
            }
            requests
        })
    }

    /// `ask` returns how many requests it has made.
    fn of_server(self, ask: impl Fn(&Door, u64) -> u64) -> f64 {
        let mut asked = [0; 2];
        let mut runs = SERVER_RUNS.into_iter().zip(&mut asked);
        let counts = [(); 2].map(|()| {
            let (requests, asked) = runs.next().unwrap();
            self.of_run(&Setup::KUBELET.arguments(), |command| {
                let door = Door::of(command);
                *asked = ask(&door, requests);
                assert_eq!(door.stop().answered, *asked, "requests answered");
            })
        });
        share(counts, asked)
    }
}

fn share(counts: [u64; 2], requests: [u64; 2]) -> f64 {
    let [shorter, longer] = counts;
    assert!(longer > shorter, "{requests:?} requests counted {counts:?}");
    (longer - shorter) as f64 / (requests[1] - requests[0]) as f64
}

/// A file that goes when its user does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
